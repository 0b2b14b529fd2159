"""A folder appears whole or not at all, and only an earlier run is replaced."""

import json
import os
from pathlib import Path

import pytest

from diversify.errors import InputError
from diversify.files import atomic, staging


def names(folder: Path) -> list[str]:
    return sorted(path.name for path in folder.iterdir())


def fill_then_fail(target: Path, *, overwrite: bool) -> None:
    with staging.staged_directory(target, overwrite=overwrite, owned=OWNED) as folder:
        (folder / "run.json").write_text("half")
        raise KeyboardInterrupt


def test_staged_directory_appears_whole_or_not_at_all(tmp_path):
    target = tmp_path / "new" / "run"
    with pytest.raises(KeyboardInterrupt):
        fill_then_fail(target, overwrite=False)
    assert names(tmp_path) == []

    with staging.staged_directory(target, overwrite=False, owned=OWNED) as folder:
        atomic.write_json(folder / "run.json", {"number": 1})
        assert not target.exists()
    assert names(target.parent) == ["run"]
    assert json.loads((target / "run.json").read_text()) == {"number": 1}


def test_staged_directory_replaces_only_an_earlier_run_and_only_on_success(tmp_path):
    target = tmp_path / "run"
    target.mkdir()
    with staging.staged_directory(target, overwrite=False, owned=OWNED) as folder:  # empty: free to use
        atomic.write_json(folder / "run.json", RUN | {"number": 1})
    with pytest.raises(KeyboardInterrupt):
        fill_then_fail(target, overwrite=True)
    assert json.loads((target / "run.json").read_text())["number"] == 1
    with staging.staged_directory(target, overwrite=True, owned=OWNED) as folder:
        atomic.write_json(folder / "run.json", RUN | {"number": 2})
    assert json.loads((target / "run.json").read_text())["number"] == 2
    assert names(tmp_path) == ["run"]


def test_directory_errors(tmp_path):
    target = tmp_path / "run"
    target.mkdir()
    (target / "thesis.tex").write_text("irreplaceable")
    (tmp_path / "file").write_text("")
    cases = {
        (target, False): f"out must be new or empty, got {target}; pass overwrite=True to replace it",
        (
            target,
            True,
        ): f"out must be new, empty or an earlier run (with a run.json), got {target}; choose another folder",
        (tmp_path / "file", True): f"out must be a folder, got the file {tmp_path / 'file'}",
        (tmp_path / "file" / "a", True): f"out must lie in a folder, got {tmp_path / 'file' / 'a'}, "
        f"in the file {tmp_path / 'file'}",
    }
    for (path, overwrite), message in cases.items():
        with pytest.raises(InputError) as error:
            staging.ensure_available(path, overwrite, owned=OWNED)
        assert str(error.value) == message
        with pytest.raises(InputError) as error, staging.staged_directory(path, overwrite=overwrite, owned=OWNED):
            raise AssertionError("the block must not run")
        assert str(error.value) == message
    assert (target / "thesis.tex").read_text() == "irreplaceable"
    assert names(tmp_path) == ["file", "run"]
    staging.ensure_available(tmp_path / "new" / "deep", False, owned=OWNED)


@pytest.mark.parametrize("closed", ["run", ""])
def test_directory_not_writable(tmp_path, monkeypatch, closed):
    """`os.access` is patched, since root may write anywhere."""
    (tmp_path / "run").mkdir()
    monkeypatch.setattr(os, "access", lambda path, mode: Path(path) != tmp_path / closed)
    target = tmp_path / "run" if closed else tmp_path / "other"
    with pytest.raises(InputError) as error:
        staging.ensure_available(target, False, owned=OWNED)
    assert str(error.value) == (f"out must be writable, got {target}; choose another folder, or change its permissions")


OWNED = ("run.json", "state", "embeddings")


RUN = {"schema_version": 1, "command": "train"}


def test_clear_empties_only_an_earlier_run(tmp_path):
    (tmp_path / "state").mkdir()
    (tmp_path / "state" / "a").write_text("")
    staging.clear(tmp_path, owned=OWNED)
    assert names(tmp_path) == ["state"]
    for foreign in ("[]", "null", "{}", '{"mlflow": 1}', "not json"):
        (tmp_path / "run.json").write_text(foreign)
        staging.clear(tmp_path, owned=OWNED)
        assert names(tmp_path) == ["run.json", "state"]
    atomic.write_json(tmp_path / "run.json", RUN)
    (tmp_path / "thesis.tex").write_text("irreplaceable")
    (tmp_path / "elsewhere").mkdir()
    (tmp_path / "elsewhere" / "model").write_text("kept")
    (tmp_path / "embeddings").symlink_to(tmp_path / "elsewhere")
    with pytest.raises(InputError, match=r"hold nothing but an earlier run, got .* with elsewhere; choose another"):
        staging.ensure_available(tmp_path, True, owned=OWNED)
    staging.clear(tmp_path, owned=OWNED)
    assert names(tmp_path) == ["elsewhere", "thesis.tex"]
    assert (tmp_path / "elsewhere" / "model").read_text() == "kept"


def test_a_command_does_not_write_over_what_it_reads(tmp_path):
    run = tmp_path / "run"
    atomic.write_json(run / "run.json", RUN)
    weights = run / "model.safetensors"
    weights.write_text("")
    for target, given in ((run, weights), (run, run), (tmp_path, run / "deep" / "file")):
        with pytest.raises(InputError, match="out must not hold .*, which the command reads"):
            staging.ensure_available(target, True, owned=OWNED, inputs=[given])
    staging.ensure_available(tmp_path / "other", True, owned=OWNED, inputs=[weights])


def closed(monkeypatch: pytest.MonkeyPatch, *closed: Path) -> None:
    """Let the system say that this user may not write to these places."""
    asked = os.access
    monkeypatch.setattr(os, "access", lambda place, mode: Path(place) not in closed and asked(place, mode))


def test_a_run_of_which_a_part_is_not_ours_is_kept_whole(tmp_path, monkeypatch):
    target = tmp_path / "run"
    atomic.write_json(target / "run.json", {"schema_version": 1, "command": "train"})
    atomic.write_text(target / "state" / "deep" / "a", "a")
    closed(monkeypatch, target / "state" / "deep")
    with pytest.raises(InputError) as error:
        staging.ensure_available(target, True, owned=("run.json", "state"))
    law = "out must hold only folders that you may write to"
    assert str(error.value).startswith(f"{law}, got {target / 'state' / 'deep'}; ")


def test_a_folder_whose_place_cannot_be_taken_is_refused_before_any_work(tmp_path, monkeypatch):
    target = tmp_path / "run"
    target.mkdir()
    staging.ensure_available(target, False, owned=(), beside=True)
    with monkeypatch.context() as within:
        closed(within, tmp_path)
        staging.ensure_available(target, False, owned=())
        with pytest.raises(InputError, match=f"out must lie in a folder that you may write to, got {target}; "):
            staging.ensure_available(target, False, owned=(), beside=True)
    monkeypatch.setattr(os.path, "ismount", lambda place: place == target)
    with pytest.raises(InputError, match=f"out must not be the place of a disk or a volume, got {target}; "):
        staging.ensure_available(target, False, owned=(), beside=True)


def test_records_that_are_not_ours_are_refused(tmp_path, monkeypatch):
    records = tmp_path / "a.jsonl"
    staging.require_appendable(records, "results")
    records.write_text("")
    for place in (records, tmp_path):
        with monkeypatch.context() as within:
            closed(within, place)
            with pytest.raises(InputError, match=f"results must be writable, got {place}; "):
                staging.require_appendable(records, "results")
