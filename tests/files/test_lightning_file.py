"""A checkpoint of Lightning is written again with other weights, and is otherwise what it was."""

from pathlib import Path

import pytest
import torch

import diversify as dv
from diversify.files.checkpoints import read_content
from diversify.files.lightning import write_lightning


def checkpoint(**others):
    weights = {"net.weight": torch.zeros(2, 3), "net.bias": torch.zeros(2), "ema.module.bias": torch.ones(2)}
    return {"state_dict": weights, "pytorch-lightning_version": "2.4", "epoch": 3, **others}


def written(tmp_path, content, tensors):
    torch.save(content, tmp_path / "old.ckpt")
    done = write_lightning(tmp_path / "new.ckpt", tmp_path / "old.ckpt", tensors)
    assert done == (tmp_path / "new.ckpt").exists()
    return read_content(tmp_path / "new.ckpt") if done else None


@pytest.mark.parametrize("name", ["net.bias", "ema.module.bias"])
def test_only_the_named_tensors_change(tmp_path, name):
    new = written(tmp_path, checkpoint(own={"seen": 4}), {name: torch.tensor([5.0, 6.0]), "other": torch.ones(1)})
    want = checkpoint()["state_dict"] | {name: torch.tensor([5.0, 6.0])}
    assert new["state_dict"].keys() == want.keys()
    assert all(torch.equal(new["state_dict"][each], want[each]) for each in want)
    assert (new["epoch"], new["own"]) == (3, {"seen": 4})


def test_the_state_of_the_training_is_left_out(tmp_path):
    raw = {"current_model_state": {"net.bias": torch.ones(2)}, "averaging_state": {"n_averaged": torch.tensor(2)}}
    new = written(
        tmp_path,
        checkpoint(optimizer_states=[{}], loops={}, callbacks={}, lr_schedulers=[], **raw),
        {"net.bias": torch.ones(2)},
    )
    assert set(new) == {"state_dict", "pytorch-lightning_version", "epoch"}


def test_paths_among_the_settings_stay_paths(tmp_path):
    written(tmp_path, checkpoint(hyper_parameters={"lr": 0.1, "folders": [Path("/x")]}), {"net.bias": torch.ones(2)})
    with torch.serialization.safe_globals(
        [type(Path()), *((type(Path()), f"{home}.{type(Path()).__name__}") for home in ("pathlib", "pathlib._local"))]
    ):
        found = torch.load(tmp_path / "new.ckpt", weights_only=True)["hyper_parameters"]
    assert found == {"lr": 0.1, "folders": [Path("/x")]}
    assert isinstance(found["folders"][0], Path)


@pytest.mark.parametrize("content", [{"state_dict": {"net.bias": torch.zeros(2)}}, {"net.bias": torch.zeros(2)}])
def test_other_checkpoints_are_not_written(tmp_path, content):
    assert written(tmp_path, content, {"net.bias": torch.ones(2)}) is None


def test_weights_of_another_network_are_not_written(tmp_path):
    assert written(tmp_path, checkpoint(), {"weight": torch.ones(2)}) is None


def test_a_note_says_that_lightning_keeps_averaged_weights_under_state_dict(tmp_path):
    layer = torch.nn.Linear(3, 2)
    average = {f"net.{name}": torch.zeros_like(tensor) for name, tensor in layer.state_dict().items()}
    raw = {name: tensor + 1 for name, tensor in average.items()}
    content = {"state_dict": average, "current_model_state": raw, "pytorch-lightning_version": "2.6"}
    torch.save(content, tmp_path / "a.ckpt")
    with pytest.warns(
        UserWarning, match="these weights are averaged over training: Lightning keeps them under state_dict"
    ):
        dv.load_weights(layer, tmp_path / "a.ckpt")
    assert not layer.weight.any()
    with pytest.warns(UserWarning, match="begin with 'net.'"):
        dv.load_weights(layer, tmp_path / "a.ckpt", weights_key="current_model_state")
    assert bool((layer.weight == 1).all())
