"""What a process that was killed while it replaced a run left beside the folder."""

from pathlib import Path

from diversify.files import atomic, staging


def run_in(folder: Path, text: str) -> None:
    atomic.write_json(folder / "run.json", {"schema_version": 1, "command": "remedy"})
    atomic.write_text(folder / "report.md", text)


def test_a_run_that_was_moved_away_is_put_back(tmp_path: Path) -> None:
    run_in(tmp_path / ".out.0123abcd.partial.old", "earlier")
    run_in(tmp_path / ".out.0123abcd.partial", "unfinished")
    run_in(tmp_path / ".other.0123abcd.partial", "not this one's")
    with staging.claimed(tmp_path / "out"):
        assert (tmp_path / "out" / "report.md").read_text() == "earlier"
        assert staging.is_run(tmp_path / "out")
    assert sorted(path.name for path in tmp_path.iterdir()) == [".other.0123abcd.partial", "out"]


def test_a_run_that_is_there_is_kept(tmp_path: Path) -> None:
    run_in(tmp_path / "out", "new")
    run_in(tmp_path / ".out.0123abcd.partial.old", "earlier")
    with staging.claimed(tmp_path / "out"):
        pass
    assert (tmp_path / "out" / "report.md").read_text() == "new"
    assert [path.name for path in tmp_path.iterdir()] == ["out"]
