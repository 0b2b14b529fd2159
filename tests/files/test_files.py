"""Files are written completely or not at all, and an unreadable file gives an error of one line."""

import argparse
import json
import os
import pathlib
import pickle
from pathlib import Path

import numpy as np
import pytest
import torch
from torch import nn

from diversify.errors import InputError
from diversify.files import atomic, checkpoints, digests, staging

RESAVE = "re-save it with torch.save(model.state_dict(), FILE)"


def names(folder: Path) -> list[str]:
    return sorted(path.name for path in folder.iterdir())


# Whole files


def test_a_failing_write_leaves_the_old_file_and_no_other(tmp_path, monkeypatch):
    path = tmp_path / "kept.json"
    atomic.write_json(path, {"old": 1})

    with pytest.raises(ValueError, match="JSON"):
        atomic.write_json(path, {"new": float("nan")})
    with pytest.raises(TypeError):
        atomic.write_tensors(path, {"a": torch.zeros(2)}, {"key": 3})

    def full_disk(descriptor):
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(os, "fsync", full_disk)
    with pytest.raises(OSError, match="No space"):
        atomic.write_json(path, {"new": 2})

    assert atomic.read_json(path, "kept") == {"old": 1}
    assert names(tmp_path) == ["kept.json"]


def test_json_keeps_order_and_makes_parents(tmp_path):
    path = tmp_path / "a" / "b.json"
    atomic.write_json(path, {"z": None, "a": [1, "é"]})
    assert list(atomic.read_json(path, "b")) == ["z", "a"]
    assert path.read_text().endswith("}\n")


@pytest.mark.parametrize(
    ("content", "message"),
    [
        (None, "diagnosis must be an existing file, got {path}"),
        (b"", "diagnosis must not be empty, got {path}"),
        (b'{"a": 1, "b', "diagnosis must be whole, valid JSON, got {path} (Unterminated string"),
        (b"<html>", "diagnosis must be whole, valid JSON, got {path} (Expecting value"),
        (b"\xff\xfe\x00", "diagnosis must be whole, valid JSON, got {path} ("),
    ],
)
def test_read_json_errors(tmp_path, content, message):
    path = tmp_path / "diagnosis.json"
    if content is not None:
        path.write_bytes(content)
    with pytest.raises(InputError) as error:
        atomic.read_json(path, "diagnosis")
    assert str(error.value).startswith(message.format(path=path))
    assert "\n" not in str(error.value)


def test_read_json_of_a_folder(tmp_path):
    with pytest.raises(InputError, match=r"diagnosis must be a file, got the folder"):
        atomic.read_json(tmp_path, "diagnosis")


# JSON lines


def test_jsonl_appends_and_drops_a_torn_last_line(tmp_path):
    path = tmp_path / "results.jsonl"
    records = [{"seed": 0, "method": "ce"}, {"seed": 1, "method": "é"}]
    for record in records:
        atomic.append_jsonl(path, record)
    assert atomic.read_jsonl(path) == records

    whole = path.read_bytes()
    for cut in range(len(whole) - 3, len(whole)):
        path.write_bytes(whole[:cut])
        assert atomic.read_jsonl(path) == records[:1]
    atomic.append_jsonl(path, {"seed": 2})  # the torn line does not swallow the next record
    assert atomic.read_jsonl(path) == [records[0], {"seed": 2}]

    path.write_bytes(b'{"torn from the very first')
    assert atomic.read_jsonl(path) == []
    atomic.append_jsonl(path, {"seed": 3})
    assert atomic.read_jsonl(path) == [{"seed": 3}]


def test_jsonl_cuts_a_torn_line_longer_than_a_block(tmp_path):
    path = tmp_path / "results.jsonl"
    path.write_bytes(b'{"a": 1}\n{"b": "' + b"x" * 200_000)
    atomic.append_jsonl(path, {"c": 1})
    assert atomic.read_jsonl(path) == [{"a": 1}, {"c": 1}]


def test_a_record_that_the_disk_does_not_take_whole_is_taken_back(tmp_path, monkeypatch):
    path = tmp_path / "results.jsonl"
    atomic.append_jsonl(path, {"a": 1})
    write = os.write
    monkeypatch.setattr(os, "write", lambda descriptor, line: write(descriptor, line[:3]))
    with pytest.raises(OSError, match="No space left on device") as error:
        atomic.append_jsonl(path, {"a": 2})
    assert error.value.filename == str(path)
    assert path.read_text() == '{"a": 1}\n'


def test_jsonl_whole_and_damaged_in_the_middle(tmp_path):
    path = tmp_path / "results.jsonl"
    atomic.write_jsonl(path, [{"a": 1}, {"a": 2}])
    assert atomic.read_jsonl(path) == [{"a": 1}, {"a": 2}]
    path.write_text('{"a": 1}\n{"a"\n{"a": 3}\n')
    message = f"records must hold one JSON object per line, got another thing on line 2 of {path}"
    with pytest.raises(InputError) as error:
        atomic.read_jsonl(path)
    assert str(error.value) == message


# Arrays


def test_arrays_are_mapped_and_changes_stay_in_memory(tmp_path):
    path = tmp_path / "a.npy"
    created = atomic.create_array(path, (3, 2), "<f4")
    created[1] = 5
    atomic.flush_array(created)
    opened = atomic.open_array(path, "array")
    opened[0] = 9
    np.testing.assert_array_equal(np.load(path), [[0, 0], [5, 5], [0, 0]])
    assert isinstance(opened, np.memmap)

    path.write_bytes(path.read_bytes()[:-4])
    with pytest.raises(InputError, match=r"^array must be a whole \.npy file, got .* \(truncated, or not an array\)$"):
        atomic.open_array(path, "array")
    np.save(path, np.array([{}], dtype=object), allow_pickle=True)
    with pytest.raises(InputError, match="must be a whole"):
        atomic.open_array(path, "array")


def test_empty_arrays(tmp_path):
    atomic.create_array(tmp_path / "a.npy", (0, 2), "<f4")
    assert atomic.open_array(tmp_path / "a.npy", "array").shape == (0, 2)
    (tmp_path / "a.npy").write_bytes(b"")
    with pytest.raises(InputError, match="must be a whole"):
        atomic.open_array(tmp_path / "a.npy", "array")


# Tensors and checkpoints


def test_tensors_round_trip(tmp_path):
    base = torch.arange(12.0).reshape(3, 4)
    tensors = {
        "whole": base,
        "view": base[1],
        "transposed": base.t(),
        "half": base.bfloat16(),
        "flag": torch.tensor(True),
    }
    atomic.write_tensors(tmp_path / "t.safetensors", tensors, {"origin": "test"})
    read, metadata = atomic.read_tensors(tmp_path / "t.safetensors")
    assert metadata == {"origin": "test"}
    assert read.keys() == tensors.keys()
    assert all(torch.equal(read[name], tensor) for name, tensor in tensors.items())


def test_digest_depends_on_values_names_shapes_and_types_only():
    tensors = {"a": torch.arange(6.0).reshape(2, 3), "b": torch.tensor(1)}
    digest = digests.digest_tensors(tensors)
    assert digest == digests.digest_tensors(
        {"b": torch.tensor(1), "a": torch.arange(6.0).reshape(3, 2).t().t().reshape(2, 3)}
    )
    for other in (
        {**tensors, "b": torch.tensor(2)},
        {**tensors, "a": tensors["a"].reshape(3, 2)},
        {**tensors, "b": torch.tensor(1, dtype=torch.int32)},
        {"a": tensors["a"], "c": tensors["b"]},
        {"a": tensors["a"]},
    ):
        assert digests.digest_tensors(other) != digest
    assert digests.digest_tensors({"a": torch.zeros(0)}) != digests.digest_tensors({})


def test_sha256(tmp_path):
    (tmp_path / "a").write_bytes(b"abc")
    assert digests.sha256(tmp_path / "a").startswith("ba7816bf")


@pytest.mark.parametrize("nest", [None, "state_dict", "model", "model_state_dict"])
@pytest.mark.parametrize("prefix", ["", "module.", "module._orig_mod."])
def test_checkpoints_are_unwrapped(tmp_path, nest, prefix):
    state = nn.Linear(3, 2).state_dict()
    content = {prefix + key: value for key, value in state.items()}
    saved = content if nest is None else {nest: content, "epoch": 3, "optimizer": {"state": {}}}
    for path, options in ((tmp_path / "new.pt", {}), (tmp_path / "old.pth", {"_use_new_zipfile_serialization": False})):
        torch.save(saved, path, **options)
        loaded = checkpoints.load_checkpoint(path)
        assert list(loaded) == ["weight", "bias"]
        assert torch.equal(loaded["weight"], state["weight"])


def test_a_prefix_that_not_every_key_has_stays(tmp_path):
    torch.save({"module.a": torch.zeros(1), "b": torch.zeros(1)}, tmp_path / "m.pt")
    assert list(checkpoints.load_checkpoint(tmp_path / "m.pt")) == ["module.a", "b"]


def test_safetensors_checkpoint_by_content_not_suffix(tmp_path):
    atomic.write_tensors(tmp_path / "m.bin", {"module.weight": torch.ones(2)})
    assert list(checkpoints.load_checkpoint(tmp_path / "m.bin")) == ["weight"]


def _cut(path: Path, size: int) -> None:
    path.write_bytes(path.read_bytes()[:size])


def _save_cut(path: Path, size: int, **options: bool) -> None:
    torch.save(nn.Linear(30, 20).state_dict(), path, **options)
    _cut(path, size)


def _save_safetensors_cut(path: Path, size: int) -> None:
    atomic.write_tensors(path, nn.Linear(30, 20).state_dict())
    _cut(path, size)


DAMAGED = "weights must be a whole checkpoint, got {path}, which is truncated or damaged; copy or download it again"
NEITHER = "weights must be a PyTorch or safetensors checkpoint, got {path}, which is neither"
OBJECTS = "weights must hold tensors only, got pickled objects in {path}; " + RESAVE
BROKEN_SAFETENSORS = "weights must be a whole safetensors file, got {path} ("

CHECKPOINTS = {
    "missing": (lambda path: None, "weights must be an existing file, got {path}"),
    "folder": (lambda path: path.mkdir(), "weights must be a file, got the folder {path}"),
    "empty": (lambda path: path.write_bytes(b""), "weights must not be empty, got 0 bytes in {path}"),
    "truncated": (lambda path: _save_cut(path, -40), DAMAGED),
    "truncated early": (lambda path: _save_cut(path, 40), DAMAGED),
    "old form, truncated": (lambda path: _save_cut(path, -9, _use_new_zipfile_serialization=False), DAMAGED),
    "safetensors, truncated": (lambda path: _save_safetensors_cut(path, -3), BROKEN_SAFETENSORS),
    "safetensors, truncated early": (lambda path: _save_safetensors_cut(path, 12), BROKEN_SAFETENSORS),
    "random bytes": (lambda path: path.write_bytes(bytes(range(1, 255))), NEITHER),
    "short": (lambda path: path.write_bytes(b"a"), NEITHER),
    "page": (lambda path: path.write_text("<!DOCTYPE html><html>404</html>"), NEITHER),
    "text": (lambda path: path.write_text("version https://git-lfs.github.com/spec/v1"), NEITHER),
    "npz": (lambda path: np.savez(path.open("wb"), images=np.zeros(3)), NEITHER),
    "whole model": (lambda path: torch.save(nn.Linear(2, 2), path), OBJECTS),
    "an object in the arguments": (
        lambda path: torch.save(
            {"model": {"a": torch.zeros(1)}, "args": argparse.Namespace(net=nn.Linear(2, 2))}, path
        ),
        OBJECTS,
    ),
    "plain pickle": (lambda path: path.write_bytes(pickle.dumps({"a": np.zeros(3)})), OBJECTS),
    "script": (
        lambda path: torch.jit.script(nn.Linear(2, 2)).save(str(path)),
        "weights must be a state dict, got the TorchScript archive {path}; " + RESAVE,
    ),
    "list": (
        lambda path: torch.save([torch.zeros(1)], path),
        "weights must hold a state dict of named tensors, got a list in {path}; " + RESAVE,
    ),
    "no tensors": (
        lambda path: torch.save({"epoch": 3}, path),
        "weights must hold named tensors, got none in {path}; " + RESAVE,
    ),
}


@pytest.mark.filterwarnings("ignore::DeprecationWarning", "ignore::FutureWarning")
@pytest.mark.parametrize("case", CHECKPOINTS)
def test_checkpoint_errors(tmp_path, case):
    write, message = CHECKPOINTS[case]
    path = tmp_path / "model.pt"
    write(path)
    with pytest.raises(InputError) as error:
        checkpoints.load_checkpoint(path)
    expected = message.format(path=path)
    assert str(error.value) == expected or (expected.endswith("(") and str(error.value).startswith(expected))
    assert "\n" not in str(error.value)


@pytest.mark.parametrize("kind", [pathlib.PosixPath, pathlib.PurePosixPath, pathlib.PureWindowsPath])
def test_arguments_and_paths_beside_the_weights_are_read(tmp_path, kind):
    options = argparse.Namespace(lr=0.1, data=kind("a/b"), nested=argparse.Namespace(out=None))
    torch.save({"args": options, "model": {"a": torch.ones(1)}, "resume": kind("c")}, tmp_path / "m.pt")
    assert checkpoints.load_checkpoint(tmp_path / "m.pt") == {"a": torch.ones(1)}


def test_a_state_dict_is_chosen_by_its_key(tmp_path):
    path = tmp_path / "m.pt"
    one, two, three = ({"net.a": torch.full((1,), value)} for value in (1.0, 2.0, 3.0))
    torch.save({"state_dict": {**one, "ema.a": torch.zeros(1)}, "model_ema": two, "best": {"model": three}}, path)

    def value(key):
        return float(next(iter(checkpoints.load_checkpoint(path, weights_key=key).values())))

    assert [value(key) for key in (None, "state_dict", "model_ema", "best", "best.model")] == [1, 1, 2, 3, 3]
    assert [value(key) for key in ("ema", "state_dict.ema", "state_dict.net")] == [0, 0, 1]
    with pytest.raises(InputError) as error:
        value("swa")
    assert str(error.value) == (
        f"weights_key must name a state dict of {path}, got 'swa'; the file has state_dict, model_ema, best.model"
    )


def test_without_a_usual_key_averages_come_last_and_the_largest_first(tmp_path):
    rows = {"a": torch.zeros(1), "b": torch.zeros(1)}
    torch.save({"ema": {**rows, "c": torch.ones(1)}, "scaler": {"s": torch.ones(1)}, "net": rows}, tmp_path / "m.pt")
    assert list(checkpoints.load_checkpoint(tmp_path / "m.pt")) == ["a", "b"]


def test_a_hostile_pickle_is_not_run(tmp_path):
    class Hostile:
        def __reduce__(self):
            return os.mkdir, (str(tmp_path / "ran"),)

    torch.save({"a": torch.zeros(1), "b": Hostile()}, tmp_path / "m.pt")
    with pytest.raises(InputError, match="pickled objects"):
        checkpoints.load_checkpoint(tmp_path / "m.pt")
    assert not (tmp_path / "ran").exists()


# Folders


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


def test_digest_json_ignores_the_order_of_keys():
    assert digests.digest_json({"a": 1, "b": [2]}) == digests.digest_json({"b": [2], "a": 1})
    assert digests.digest_json({"a": 1}) != digests.digest_json({"a": 2})
