"""Checkpoints that Lightning itself wrote: diagnosed, repaired, and loaded into the module again."""

import logging
import warnings

import numpy as np
import pytest
import torch
from quick import draw_nothing, judge_once
from torch.utils.data import DataLoader, TensorDataset

import diversify as dv
from diversify.commands.diagnose import diagnose_run
from diversify.commands.options import DataOptions
from diversify.commands.remedy import remedy_run

pytestmark = pytest.mark.slow  # importing the package takes seconds

MODULE = """
from pathlib import Path
import lightning, torch, torchmetrics
from torch import nn

def network():
    layers = nn.Conv2d(3, 12, 3), nn.BatchNorm2d(12), nn.ReLU(), nn.AdaptiveAvgPool2d(1), nn.Flatten()
    return nn.Sequential(*layers, nn.Linear(12, 3))

class Classifier(lightning.LightningModule):
    def __init__(self, lr=0.1, folder=None):
        super().__init__()
        self.save_hyperparameters()
        self.net, self.criterion = network(), nn.CrossEntropyLoss(weight=torch.tensor([1.0, 2.0, 3.0]))
        self.confusion = torchmetrics.ConfusionMatrix(task="multiclass", num_classes=3)
        self.confusion.persistent(True)

    def forward(self, images):
        return self.net(images)

    def training_step(self, batch, number):
        images, labels = batch
        logits = self(images)
        self.confusion(logits, labels)
        return self.criterion(logits, labels)

    def configure_optimizers(self):
        return torch.optim.SGD(self.parameters(), lr=self.hparams.lr, momentum=0.9)
"""
COUNTS = (24, 12, 6)
LABELS = torch.tensor([label for label, count in enumerate(COUNTS) for _ in range(count)])
IMAGES = torch.randint(0, 256, (len(LABELS), 3, 8, 8), generator=torch.Generator().manual_seed(0), dtype=torch.uint8)


@pytest.fixture(scope="module")
def lightning():
    pytest.importorskip("torchmetrics")
    found = pytest.importorskip("lightning")
    logging.getLogger("lightning.pytorch").setLevel(logging.ERROR)
    return found


@pytest.fixture
def own(lightning, tmp_path, monkeypatch):
    (tmp_path / "own_lightning.py").write_text(MODULE)
    monkeypatch.chdir(tmp_path)
    monkeypatch.syspath_prepend(tmp_path)
    monkeypatch.delitem(__import__("sys").modules, "own_lightning", raising=False)
    return __import__("own_lightning")


def train(lightning, own, place, *, steps=1, callbacks=(), **options):
    """Train for a step or more, and return the module; `place` gets the checkpoint."""
    with torch.random.fork_rng([]), warnings.catch_warnings(action="ignore"):
        torch.manual_seed(0)
        module = own.Classifier(**options)
        quiet = {
            "logger": False,
            "enable_progress_bar": False,
            "enable_model_summary": False,
            "enable_checkpointing": False,
        }
        trainer = lightning.Trainer(max_steps=steps, accelerator="cpu", callbacks=list(callbacks), **quiet)
        trainer.fit(module, DataLoader(TensorDataset(IMAGES / 255, LABELS), 21))
        trainer.save_checkpoint(place)
    return module


def test_the_network_alone_takes_its_weights(lightning, own, tmp_path):
    module, network = train(lightning, own, tmp_path / "a.ckpt", folder=tmp_path), own.network()
    with pytest.warns(UserWarning, match="checkpoint") as notes:
        dv.load_weights(network, tmp_path / "a.ckpt")
    assert all(
        torch.equal(one, two)
        for one, two in zip(network.state_dict().values(), module.net.state_dict().values(), strict=True)
    )
    assert [str(note.message).partition("ckpt: ")[2] for note in notes] == [
        "the names in the checkpoint begin with 'net.', which is left out",
        "2 tensors of the checkpoint not used: criterion.weight, confusion.confmat",
    ]


def test_averaged_weights_are_those_that_lightning_evaluates(lightning, own, tmp_path):
    callbacks = pytest.importorskip("lightning.pytorch.callbacks")
    if not hasattr(callbacks, "EMAWeightAveraging"):
        pytest.skip("this version of lightning has no EMAWeightAveraging")

    class Keep(lightning.Callback):
        def on_train_batch_end(self, trainer, *args):
            trainer.save_checkpoint(tmp_path / "ema.ckpt")

    train(lightning, own, tmp_path / "end.ckpt", steps=2, callbacks=[callbacks.EMAWeightAveraging(decay=0.5), Keep()])
    stored = torch.load(tmp_path / "ema.ckpt", weights_only=True)
    assert not torch.equal(stored["state_dict"]["net.5.weight"], stored["current_model_state"]["net.5.weight"])
    network = own.network()
    with pytest.warns(
        UserWarning, match="these weights are averaged over training: Lightning keeps them under state_dict"
    ):
        dv.load_weights(network, tmp_path / "ema.ckpt")
    assert torch.equal(network[5].weight, stored["state_dict"]["net.5.weight"])
    with pytest.warns(UserWarning, match="begin with 'net.'"):
        dv.load_weights(network, tmp_path / "ema.ckpt", weights_key="current_model_state")
    assert torch.equal(network[5].weight, stored["current_model_state"]["net.5.weight"])


def test_a_repaired_checkpoint_is_loaded_by_the_module(lightning, own, tmp_path, monkeypatch):
    draw_nothing(monkeypatch)
    judge_once(monkeypatch)
    module = train(lightning, own, tmp_path / "a.ckpt", lr=0.05)
    arrays = {f"{split}_images": IMAGES.permute(0, 2, 3, 1).numpy() for split in ("train", "val")}
    np.savez(tmp_path / "data.npz", **arrays, **{f"{split}_labels": LABELS.numpy() for split in ("train", "val")})
    data = DataOptions(spec=f"npz:{tmp_path / 'data.npz'}", mean=(0.0,) * 3, std=(1.0,) * 3)
    options = {"model": "own_lightning:network", "weights": tmp_path / "a.ckpt", "heldout": "val"}
    diagnose_run(data, **options, out=tmp_path / "diagnosis", say=print)
    choice, record = remedy_run(tmp_path / "diagnosis", out=tmp_path / "repaired", say=print)
    assert record["weights"]["lightning"] == "lightning.ckpt"
    with warnings.catch_warnings(action="ignore"):
        repaired = own.Classifier.load_from_checkpoint(tmp_path / "repaired/lightning.ckpt")
    assert repaired.hparams.lr == 0.05
    assert torch.allclose(repaired.net[5].weight, choice.head.weight, atol=1e-6)
    for name, tensor in module.state_dict().items():
        assert name.startswith("net.5.") or torch.equal(repaired.state_dict()[name], tensor)
    both = dv.read_head(repaired.net[5]), choice.head
    assert torch.allclose(*(head.logits(torch.ones(1, 12)) for head in both), atol=1e-5)
