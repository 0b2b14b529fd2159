"""The judges of what the library stands see what is lost."""

from pathlib import Path

import pytest

from benchmarks.load import commands, kills

pytestmark = pytest.mark.skipif(not Path("/proc/self/stat").exists(), reason="needs fork and /proc")


def ended(code: int, errors: str = "") -> commands.Ended:
    return commands.Ended(code=code, seconds=1.0, errors=errors, process=1)


def test_one_line_or_success_is_clear() -> None:
    assert commands.is_clear(ended(0, "note: a\n"))
    assert commands.is_clear(ended(2, "error: a must be b, got c\n"))
    for code, errors in (
        (1, "error: a"),
        (2, ""),
        (2, "error: a\nerror: b\n"),
        (2, "Traceback"),
        (0, "Exception ignored\nTraceback (most recent call last):\n"),
        (-9, ""),
    ):
        assert not commands.is_clear(ended(code, errors)), (code, errors)


def test_every_difference_is_named(tmp_path: Path) -> None:
    for name, text in {"a.json": '{"x": 1, "seconds": 2}', "b.txt": "b", "c.txt": "c"}.items():
        (tmp_path / name).write_text(text)
    whole = commands.content(tmp_path)
    (tmp_path / "a.json").write_text('{"x": 1, "seconds": 3}')
    assert commands.differences(whole, tmp_path) == []
    (tmp_path / "a.json").write_text('{"x": 2, "seconds": 2}')
    (tmp_path / "b.txt").unlink()
    (tmp_path / "d.txt").write_text("d")
    assert commands.differences(whole, tmp_path) == ["a.json differs", "b.txt differs", "d.txt differs"]


def test_only_a_complete_run_may_be_refused_after_a_kill(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    out = tmp_path / "place" / "remedy"
    out.mkdir(parents=True)
    (out / "report.md").write_text("all")
    whole, refusal = commands.content(out), "error: --out must be new or empty, got x; pass --overwrite to replace it\n"

    def lost(code: int, errors: str, *, complete: bool) -> list[str]:
        monkeypatch.setattr(commands, "run", lambda *_: ended(code, errors))
        return kills.continued("remedy", [], out, tmp_path / "errors", whole, complete=complete)

    assert lost(2, refusal, complete=True) == []
    assert lost(0, "", complete=False) == []
    assert lost(2, refusal, complete=False) == [f"exit code 2: {refusal}"]
    assert lost(2, "error: a must be b, got c\n", complete=True)
    (out / ".report.md.tmp").write_text("half")
    assert lost(0, "", complete=False) == [".report.md.tmp differs", "left behind: .report.md.tmp"]
    (out / "report.md").write_text("other")
    assert "report.md differs" in lost(2, refusal, complete=True)
