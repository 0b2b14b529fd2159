"""A checkpoint is read in any usual form, never by running what it holds, or an error of one line says why not."""

import argparse
import datetime
import os
import pathlib
import pickle
from pathlib import Path

import numpy as np
import pytest
import torch
from torch import nn

from diversify.errors import InputError
from diversify.files import atomic, checkpoints

RESAVE = "re-save it with torch.save(model.state_dict(), FILE)"


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


OF_LINEAR = (
    f"weights must hold tensors only, got pickled objects in {{path}} (torch.nn.modules.linear.Linear); {RESAVE}"
)
OBJECTS = "weights must hold tensors only, got pickled objects in {path}; " + RESAVE


BROKEN_SAFETENSORS = "weights must be a whole safetensors file, got {path} ("


CHECKPOINTS = {
    "missing": (lambda path: None, "weights must be an existing file, got {path}"),
    "folder": (
        lambda path: path.mkdir(),
        "weights must be a file, or a folder that holds model.safetensors or its index, got the folder {path}",
    ),
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
    "whole model": (lambda path: torch.save(nn.Linear(2, 2), path), OF_LINEAR),
    "an object in the arguments": (
        lambda path: torch.save(
            {"model": {"a": torch.zeros(1)}, "args": argparse.Namespace(net=nn.Linear(2, 2))}, path
        ),
        OF_LINEAR,
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


def test_numbers_of_numpy_and_dates_beside_the_weights_are_read(tmp_path):
    beside = {
        "best": np.float64(71.5),
        "epoch": np.int64(3),
        "recall": np.arange(3.0),
        "when": datetime.date(2026, 1, 2),
    }
    torch.save({"state_dict": {"bias": torch.ones(2)}, **beside}, tmp_path / "a.pth")
    assert checkpoints.load_checkpoint(tmp_path / "a.pth")["bias"].tolist() == [1, 1]
    content = checkpoints.read_content(tmp_path / "a.pth")
    assert (content["best"], content["recall"].tolist(), content["when"]) == (
        71.5,
        [0, 1, 2],
        datetime.date(2026, 1, 2),
    )


def test_the_class_that_is_refused_is_named(tmp_path):
    torch.save({"state_dict": {"bias": torch.ones(2)}, "loss": torch.nn.CrossEntropyLoss()}, tmp_path / "a.pth")
    with pytest.raises(
        InputError, match=r"got pickled objects in .*a.pth \(torch.nn.modules.loss.CrossEntropyLoss\); re-save"
    ):
        checkpoints.load_checkpoint(tmp_path / "a.pth")
