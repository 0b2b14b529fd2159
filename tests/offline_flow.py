"""What `test_offline.py` runs in a process of its own: everything that a user does, on tiny data. The argument is an empty folder."""

import sys
from pathlib import Path

import numpy as np
import torch
from torch.utils.data import DataLoader, TensorDataset

import diversify as dv
from diversify.cli.entry import run
from diversify.commands import remedy
from diversify.repair.retrain import HeadRecipe


def images_are_augmented(embeddings: dv.Embeddings, plan: dv.Plan) -> None:
    """In a worker, with albumentations."""
    images = TensorDataset(torch.zeros(len(embeddings.labels), 3, 8, 8), embeddings.labels)
    loader = DataLoader(dv.DiversifiedDataset(images, plan, seed=0), batch_size=16, num_workers=1)
    assert sum(len(labels) for _, labels in loader) == len(images)
    assert "albumentations" in sys.modules


def everything(place: Path) -> None:
    torch.set_num_threads(1)
    remedy.REPEATS = 1
    remedy.HeadRecipe = lambda **options: HeadRecipe(steps=5, batch_size=16, **options)

    def at(name: str) -> str:
        return str(place / name)

    assert all(getattr(dv, name) is not None for name in dv.__all__)
    train, heldout, _ = dv.make_embeddings((40, 20, 10), heldout=20, num_features=8)
    for name, side in (("train.npz", train), ("heldout.npz", heldout)):
        np.savez(place / name, features=side.features.numpy(), labels=side.labels.numpy())
    quick = ["--epochs", "1", "--batch-size", "64", "--precision", "fp32", "--imbalance", "exp:20", "--holdout", "0.2"]
    commands = (
        ["diagnose", "--features", at("train.npz"), at("heldout.npz"), "--top-k", "4", "--out", at("diagnosed")],
        ["plan", at("diagnosed"), "--out", at("plan.json")],
        ["remedy", at("diagnosed"), "--out", at("remedy")],
        ["report", at("diagnosed"), "--out", at("report")],
        ["train", *quick, "--out", at("trained")],
        ["diagnose", "--weights", at("trained/model.safetensors"), "--out", at("network")],
        ["plan", at("network"), "--out", at("network.json")],
        ["train", *quick, "--plan", at("network.json"), "--workers", "1", "--out", at("again")],
    )
    for command in commands:
        assert run(command) == 0, command
    images_are_augmented(train, dv.Plan.from_json(Path(at("plan.json")).read_text()))
    (place / "done").touch()


if __name__ == "__main__":
    everything(Path(sys.argv[1]))
