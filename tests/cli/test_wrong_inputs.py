"""Every kind of wrong input, each with its whole message: one line `<name> must <law>, got <value>[; <what to do>]`.

`{dir}` is the folder of the test, `{trained}` and `{diagnosed}` those of an earlier run.
"""

import re
from collections import Counter
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
import torch
from torch import nn
from torch.utils.data import DataLoader, Dataset, IterableDataset, TensorDataset

import diversify as dv
from diversify.cli.entry import run
from diversify.errors import InputError
from diversify.files import atomic
from diversify.network.networks import build_model

pytestmark = pytest.mark.usefixtures("reports_without_figures")

RECIPE = ["--epochs", "1", "--batch-size", "64", "--precision", "fp32", "--warmup-epochs", "0"]


@pytest.fixture(scope="module")
def runs(tmp_path_factory: pytest.TempPathFactory) -> dict[str, str]:
    """The folders of a training run and of its diagnosis."""
    folder = tmp_path_factory.mktemp("runs")
    assert run(["train", "--imbalance", "exp:5", *RECIPE, "--out", str(folder / "trained")]) == 0
    weights = str(folder / "trained" / "model.safetensors")
    assert run(["diagnose", "--weights", weights, "--out", str(folder / "diagnosed")]) == 0
    return {"trained": str(folder / "trained"), "weights": weights, "diagnosed": str(folder / "diagnosed")}


class Silent(Dataset[Any]):
    """A data set that does not show its labels."""

    def __len__(self) -> int:
        return 4

    def __getitem__(self, index: int) -> tuple[torch.Tensor, int]:
        return torch.zeros(1, 8, 8), 0


class Stream(IterableDataset[Any]):
    """Examples without an index."""

    def __iter__(self) -> Any:
        return iter(Silent())


def set_of(labels: Any, images: torch.Tensor | None = None) -> TensorDataset:
    labels = torch.as_tensor(labels)
    return TensorDataset(torch.zeros(len(labels), 1, 8, 8) if images is None else images, labels)


def bare() -> TensorDataset:
    """A data set, but not in a mapping."""
    return set_of([0, 1, 1, 0])


def make_files(folder: Path) -> None:
    """Files and folders that are wrong, each in its own way."""
    (folder / "empty.pt").write_bytes(b"")
    (folder / "page.pt").write_text("<!doctype html><title>404</title>")
    small = build_model("small_cnn", 10, channels=1)
    atomic.write_tensors(folder / "whole.safetensors", small.state_dict())
    (folder / "cut.safetensors").write_bytes((folder / "whole.safetensors").read_bytes()[:12])
    torch.save(small.state_dict(), folder / "cut.pt")
    (folder / "cut.pt").write_bytes((folder / "cut.pt").read_bytes()[:-40])
    torch.save(nn.Linear(2, 2), folder / "object.pt")
    torch.save([torch.zeros(1)], folder / "list.pt")
    torch.save({"epoch": 3}, folder / "none.pth")
    atomic.write_tensors(folder / "resnet20.safetensors", build_model("resnet20", 10).state_dict())
    atomic.write_tensors(folder / "five.safetensors", build_model("small_cnn", 5, channels=1).state_dict())
    images = np.zeros((4, 8, 8), np.uint8)
    labels = np.array([0, 1, 1, 0])
    np.save(folder / "array.npy", np.zeros(3))
    arrays: dict[str, dict[str, Any]] = {
        "keys": {"images": images},
        "unlabelled": {"train_images": images},
        "negative": {"train_images": images, "train_labels": np.array([0, 1, -1, 1])},
        "short": {"train_images": images, "train_labels": labels[:2]},
        "sizes": {
            "train_images": images,
            "train_labels": labels,
            "val_images": np.zeros((2, 9, 8), np.uint8),
            "val_labels": labels[:2],
        },
        "thin": {"train_images": images[:, :0], "train_labels": labels},
        "beyond": {"train_images": images, "train_labels": np.array([0, 1, 1, 2**63 + 5], dtype=np.uint64)},
        "halves": {"train_images": images, "train_labels": labels / 2},
        "square": {"train_images": images, "train_labels": np.zeros((4, 4), int)},
        "flat": {"train_images": images.reshape(4, 64), "train_labels": labels},
        "wide": {"train_images": images.astype(np.int16), "train_labels": labels},
        "bright": {"train_images": images + 255.0, "train_labels": labels},
        "nothing": {"train_images": images[:0], "train_labels": labels[:0]},
        "channels": {
            "train_images": images,
            "train_labels": labels,
            "val_images": np.zeros((2, 8, 8, 3), np.uint8),
            "val_labels": labels[:2],
        },
        "names": {"train_images": images, "train_labels": labels, "class_names": np.array(["a"])},
        "numbers": {"train_images": images, "train_labels": labels, "class_names": np.array([1, 2])},
        "gap": {
            "train_images": images,
            "train_labels": np.array([0, 2, 2, 0]),
            "class_names": np.array(["ant", "bee", "cat"]),
        },
        "plain": {"train_images": images, "train_labels": labels},
    }
    for name, stored in arrays.items():
        np.savez(folder / f"{name}.npz", **stored)
    (folder / "cut.npz").write_bytes((folder / "plain.npz").read_bytes()[:200])
    (folder / "file").write_text("x")
    (folder / "foreign").mkdir()
    (folder / "foreign" / "thesis.tex").write_text("x")
    atomic.write_json(folder / "mixed" / "run.json", {"schema_version": 1, "command": "train"})
    (folder / "mixed" / "thesis.tex").write_text("x")
    for name in ("classless", "untrained/val/cat", "broken/cat"):
        (folder / name).mkdir(parents=True)
    (folder / "broken" / "cat" / "page.png").write_text("<!doctype html>")
    (folder / "void" / "cat").mkdir(parents=True)
    (folder / "spoilt").mkdir()
    atomic.write_json(folder / "spoilt" / "run.json", {"schema_version": 1, "command": "diagnose"})
    (folder / "spoilt" / "diagnosis.json").write_text('{"schema_version": 1, "clas')
    declared = (
        "from diversify.study.protocol import Method, Protocol\n"
        "METHODS = (Method(name='mine', meaning='m', source='s'),)\n"
        "PROTOCOL = Protocol(suite='s', data='digits', methods=('mine',), epochs=EPOCHS)\n"
    )
    (folder / "study.py").write_text(declared.replace("EPOCHS", "1"))
    (folder / "long.py").write_text(declared.replace("EPOCHS", "0"))
    declared_on = declared.replace("EPOCHS", "1").replace("'digits'", f"'npz:{folder / 'plain.npz'}', imbalance='none'")
    (folder / "untested.py").write_text(declared_on.replace("=1)", "=1, model='small_cnn', holdout=0.5)"))
    (folder / "netless.py").write_text(declared.replace("EPOCHS", "1, model='small_cn'"))
    (folder / "odd.py").write_text(declared.replace("EPOCHS", "1") + "METHODS = 'mine'\n")
    (folder / "bare.py").write_text("")
    (folder / "slip.py").write_text("nothing()\n")
    (folder / "notes.jsonl").write_text("notes\n")
    atomic.write_json(folder / "later" / "run.json", {"schema_version": 1, "command": "diagnose"})
    atomic.write_json(folder / "later" / "diagnosis.json", {"schema_version": 99})


@pytest.fixture(scope="module")
def place(tmp_path_factory: pytest.TempPathFactory, runs: dict[str, str]) -> dict[str, str]:
    folder = tmp_path_factory.mktemp("wrong")
    make_files(folder)
    values = atomic.read_json(Path(runs["diagnosed"]) / "diagnosis.json", "diagnosis.json")
    atomic.write_json(folder / "tested" / "diagnosis.json", {**values, "heldout_split": "test"})
    return {"dir": str(folder), **runs}


class Failing(Silent):
    """A data set whose images cannot be had."""

    def __getitem__(self, index: int) -> Any:
        raise KeyError("image 3")


@pytest.fixture(scope="module")
def made(place: dict[str, str], sides: Any, diagnosis: dv.Diagnosis) -> SimpleNamespace:
    """What the calls are given beside the one thing that is wrong."""
    train, heldout, head = sides
    net = build_model("small_cnn", 3, channels=1)
    narrow = dv.LinearHead(weight=head.weight[:, :8], bias=head.bias)
    fewer = dv.LinearHead(weight=head.weight[:9], bias=head.bias[:9])
    return SimpleNamespace(
        dir=Path(place["dir"]),
        net=net,
        split=dv.split_head(net),
        loader=DataLoader(set_of([0, 1, 2, 0]), 2),
        train=train,
        heldout=heldout,
        head=head,
        diagnosis=diagnosis,
        model=dv.Model(name="a", train=train, heldout=heldout, head=head),
        narrow=dv.Model(name="b", train=train, heldout=heldout, head=narrow),
        fewer=dv.Model(name="c", train=train, heldout=heldout, head=fewer),
        other=dv.Model(name="d", train=train, heldout=heldout.select(torch.arange(7)), head=head),
        features=torch.ones(2, 4),
        logits=torch.ones(2, 3),
        labels=torch.tensor([0, 1]),
        recipe=dv.Recipe(epochs=1, batch_size=2, precision="fp32"),
        failing=Failing(),
    )


# Command lines: exit code 2, one line on stderr, nothing written

LINES = {
    # Usage
    "tran": "command must be one of train, diagnose, probe, plan, check, remedy, collect, compare, benchmark, report, demo, got 'tran'; did you mean 'train'?",
    "train": "--out must be given, got none; see `diversify train --help`",
    "diagnose --out {dir}/out": "--weights must be given, got none; see `diversify diagnose --help`",
    "compare --out {dir}/out": "DIR_A must be given, got none; see `diversify compare --help`",
    "compare {diagnosed} --out {dir}/out": "DIR_B must be given, got none; see `diversify compare --help`",
    "compare {diagnosed} {diagnosed}": "--out must be given, got none; see `diversify compare --help`",
    "--versoin": "option must be one that `diversify` has, got --versoin; see `diversify --help`",
    "--data digits train": "option must be one that `diversify` has, got --data; see `diversify --help`",
    "train --out {dir}/out --epoch 3": "option must be one that `diversify train` has, got --epoch; did you mean --epochs?",
    "train --out {dir}/out --resum": "option must be one that `diversify train` has, got --resum; did you mean --resume?",
    "diagnose --weights {weights} --out {dir}/out --weigths x": "option must be one that `diversify diagnose` has, got --weigths; did you mean --weights?",
    "train --out {dir}/out -x": "option must be one that `diversify train` has, got -x; see `diversify train --help`",
    "demo --sed 1": "option must be one that `diversify demo` has, got --sed; did you mean --seed?",
    "train --out {dir}/out --epochs": "--epochs must be followed by a value, got none; see `diversify train --help`",
    "train --out": "--out must be followed by a value, got none; see `diversify train --help`",
    "train --out {dir}/out --download=yes": "--download must stand alone, got a value; see `diversify train --help`",
    "train --out {dir}/out extra": "command line must hold only what `diversify train` takes, got extra; see `diversify train --help`",
    "compare {diagnosed} {diagnosed} {diagnosed} --out {dir}/out": "command line must hold only what `diversify compare` takes, got {diagnosed}; see `diversify compare --help`",
    "demo here": "command line must hold only what `diversify demo` takes, got here; see `diversify demo --help`",
    "train --out {dir}/out --epochs many": "--epochs must be an integer, got 'many'",
    "train --out {dir}/out --epochs 1.5": "--epochs must be an integer, got '1.5'",
    "train --out {dir}/out --batch-size=big": "--batch-size must be an integer, got 'big'",
    "train --out {dir}/out --learning-rate fast": "--learning-rate must be a number, got 'fast'",
    "train --out {dir}/out --holdout some": "--holdout must be a number, got 'some'",
    "train --out {dir}/out --seed zero": "--seed must be an integer, got 'zero'",
    "train --out {dir}/out --workers -1": "--workers must be at least 0, got '-1'",
    "train --out {dir}/out --workers two": "--workers must be an integer, got 'two'",
    "train --out {dir}/out --warmup-epochs -1": "--warmup-epochs must be at least 0, got '-1'",
    "train --out {dir}/out --resize small": "--resize must be an integer, got 'small'",
    "train --out {dir}/out --weight-decay much": "--weight-decay must be a number, got 'much'",
    "diagnose --weights {weights} --out {dir}/out --batch-size 0": "--batch-size must be at least 1, got '0'",
    "diagnose --weights {weights} --out {dir}/out --crop x": "--crop must be an integer, got 'x'",
    "demo --out {dir}/out --seed one": "--seed must be an integer, got 'one'",
    # The recipe
    "train --out {dir}/out --epochs 0": "--epochs must be at least 1, got 0",
    "train --out {dir}/out --epochs -3": "--epochs must be at least 1, got -3",
    "train --out {dir}/out --batch-size 0": "--batch-size must be at least 1, got 0",
    "train --out {dir}/out --learning-rate 0": "--learning-rate must be positive and finite, got 0.0",
    "train --out {dir}/out --learning-rate nan": "--learning-rate must be positive and finite, got nan",
    "train --out {dir}/out --learning-rate inf": "--learning-rate must be positive and finite, got inf",
    "train --out {dir}/out --weight-decay -1": "--weight-decay must not be negative, got -1.0",
    "train --out {dir}/out --seed -1": "--seed must lie in [0, 2^63 - 1], got -1",
    "train --out {dir}/out --schedule linear": "--schedule must be one of steps, cosine, constant, got 'linear'",
    "train --out {dir}/out --optimizer adma": "--optimizer must be one of sgd, adamw, got 'adma'; did you mean 'adamw'?",
    "train --out {dir}/out --precision fp16": "--precision must be one of fp32, bf16, auto, got 'fp16'; did you mean 'bf16'?",
    "train --out {dir}/out --method focal": "--method must be one of ce, got 'focal'",
    "train --out {dir}/out --augment cutout": "--augment must be one of auto, none, crop, crop-flip, got 'cutout'; did you mean 'auto'?",
    "demo --out {dir}/out --seed -1": "--seed must lie in [0, 2^63 - 1], got -1",
    # DATA
    "train --out {dir}/out --data digit": "--data must be one of digits, cifar10, cifar100, svhn, mnist, fashion-mnist, places365, inaturalist, npz:FILE, folder:DIR, package.module:function, got 'digit'; did you mean 'digits'?",
    "train --out {dir}/out --data svhm": "--data must be one of digits, cifar10, cifar100, svhn, mnist, fashion-mnist, places365, inaturalist, npz:FILE, folder:DIR, package.module:function, got 'svhm'; did you mean 'svhn'?",
    "train --out {dir}/out --data npz:": "--data must be one of digits, cifar10, cifar100, svhn, mnist, fashion-mnist, places365, inaturalist, npz:FILE, folder:DIR, package.module:function, got 'npz:'; did you mean 'npz:FILE'?",
    "train --out {dir}/out --data digits:3": "--data must be one of digits, cifar10, cifar100, svhn, mnist, fashion-mnist, places365, inaturalist, npz:FILE, folder:DIR, package.module:function, got 'digits:3'; did you mean 'digits'?",
    "train --out {dir}/out --data no_such_module:function": "--data must name something that can be imported, got 'no_such_module:function'; No module named 'no_such_module'",
    "train --out {dir}/out --data os:no_such_function": "--data must name something that can be imported, got 'os:no_such_function'; module 'os' has no attribute 'no_such_function'",
    "train --out {dir}/out --data os:sep": "os:sep must be callable, got str",
    "train --out {dir}/out --data os:getcwd": "os:getcwd() must return a mapping with a data set under 'train', got str",
    "train --out {dir}/out --data not-a-module:f": "--data must be package.module:function, got 'not-a-module:f'",
    "train --out {dir}/out --imbalance exp": "--imbalance must be exp:RATIO[:NMAX], step:RATIO:FRACTION or none, got 'exp'",
    "train --out {dir}/out --imbalance exp:ten": "--imbalance must be exp:RATIO[:NMAX], step:RATIO:FRACTION or none, got 'exp:ten'",
    "train --out {dir}/out --imbalance exp:0.1": "ratio of --imbalance must be at least 1 and finite, got 0.1",
    "train --out {dir}/out --imbalance exp:inf": "ratio of --imbalance must be at least 1 and finite, got inf",
    "train --out {dir}/out --imbalance exp:10:0": "n_max of --imbalance must be at least 1, got 0",
    "train --out {dir}/out --imbalance step:10": "--imbalance must be exp:RATIO[:NMAX], step:RATIO:FRACTION or none, got 'step:10'",
    "train --out {dir}/out --imbalance step:10:2": "fraction of --imbalance must lie strictly between 0 and 1, got 2.0",
    "train --out {dir}/out --imbalance linear:10": "--imbalance must be exp:RATIO[:NMAX], step:RATIO:FRACTION or none, got 'linear:10'",
    "train --out {dir}/out --imbalance exp:10000": "class 5 must keep at least one image, got 0; lower the ratio of exp:10000 or raise n_max",
    "train --out {dir}/out --imbalance exp:10:9999": "class 0 must have the 9999 images that exp:10:9999 needs, got 125; lower n_max",
    "train --out {dir}/out --imbalance exp:2 --tail-order reversed": "--tail-order must be canonical or a seed, got 'reversed'",
    "train --out {dir}/out --holdout 1": "--holdout must lie in [0, 1), got 1.0",
    "train --out {dir}/out --holdout -0.1": "--holdout must lie in [0, 1), got -0.1",
    "train --out {dir}/out --holdout nan": "--holdout must lie in [0, 1), got nan",
    "train --out {dir}/out --mean 0.5": "--mean and --std must be given together, got only one of them",
    "train --out {dir}/out --mean half --std 1": "--mean must be numbers separated by commas, got 'half'",
    "train --out {dir}/out --mean 0.5 --std one": "--std must be numbers separated by commas, got 'one'",
    "train --out {dir}/out --mean 0.5 --std 0": "--std must be positive, got 0",
    "train --out {dir}/out --mean nan --std 1": "--mean and --std must be finite, got nan and 1",
    "train --out {dir}/out --mean 0.5,0.5 --std 1": "--mean and --std must have the same length, got 2 and 1",
    "train --out {dir}/out --mean 0.5,0.5 --std 1,1": "--mean and --std must have one number, or one per channel, 1, got 2",
    "train --out {dir}/out --resize 0": "--resize must be at least 1 pixel, got 0",
    "train --out {dir}/out --crop -4": "--crop must be at least 1 pixel, got -4",
    "train --out {dir}/out --data cifar10 --root {dir}": "CIFAR10 under --root must be there, got {dir}; pass --root FOLDER or --download",
    "train --out {dir}/out --data mnist --root {dir}": "MNIST under --root must be there, got {dir}; pass --root FOLDER or --download",
    # Files of images
    "train --out {dir}/out --data npz:{dir}/missing.npz": "npz file must be an existing file, got {dir}/missing.npz",
    "train --out {dir}/out --data npz:{dir}/foreign": "npz file must be a file, got the folder {dir}/foreign",
    "train --out {dir}/out --data npz:{dir}/array.npy": "npz file must hold named arrays, got a single array in {dir}/array.npy; save it with numpy.savez",
    "train --out {dir}/out --data npz:{dir}/cut.npz": "npz file must be a whole NumPy .npz without Python objects, got {dir}/cut.npz",
    "train --out {dir}/out --data npz:{dir}/page.pt": "npz file must be a whole NumPy .npz without Python objects, got {dir}/page.pt",
    "train --out {dir}/out --data npz:{dir}/empty.pt": "npz file must be a whole NumPy .npz without Python objects, got {dir}/empty.pt",
    "train --out {dir}/out --data npz:{dir}/keys.npz": "npz file must have train_images and train_labels, got images",
    "train --out {dir}/out --data npz:{dir}/unlabelled.npz": "npz file must have train_labels beside train_images, got train_images",
    "train --out {dir}/out --data npz:{dir}/negative.npz": "labels of train_images must not be negative, got -1 at row 2; leave out the images without a label, 1 of 4",
    "train --out {dir}/out --data npz:{dir}/beyond.npz": "labels of train_images must be less than 2^63, got 9223372036854775813 at row 3",
    "train --out {dir}/out --data npz:{dir}/thin.npz": "train_images must have images of at least 1 x 1 pixels, got 8 x 0",
    "train --out {dir}/out --data npz:{dir}/sizes.npz": "images must have one size, got 8 x 8 in train and 8 x 9 in val; pass --resize N and --crop N",
    "train --out {dir}/out --data test_wrong_inputs:bare": "test_wrong_inputs:bare() must return a mapping with a data set under 'train', got TensorDataset; wrap it as {'train': data_set}",
    "train --out {dir}/out --data npz:{dir}/short.npz": "labels of train_images must be as many as the images, 4, got 2",
    "train --out {dir}/out --data npz:{dir}/halves.npz": "labels of train_images must be whole numbers, got 0.5 at row 1",
    "train --out {dir}/out --data npz:{dir}/square.npz": "labels of train_images must have shape (N,) or (N, 1), or be one-hot (N, C), got (0, 0, 0, 0) at row 0; leave out the images without a label",
    "train --out {dir}/out --data npz:{dir}/flat.npz": "train_images must have shape (N, H, W), (N, H, W, 1) or (N, H, W, 3), got (4, 64)",
    "train --out {dir}/out --data npz:{dir}/wide.npz": "train_images must be uint8, or float in [0, 1], got int16",
    "train --out {dir}/out --data npz:{dir}/bright.npz": "train_images must be uint8, or float in [0, 1], got float64 from 255 to 255",
    "train --out {dir}/out --data npz:{dir}/nothing.npz": "train_images must have at least one image, got 0",
    "train --out {dir}/out --data npz:{dir}/channels.npz": "npz file must have images of one number of channels, got 1 in train, 3 in val",
    "train --out {dir}/out --data npz:{dir}/names.npz": "class names must be as many as the classes, 2, got 1",
    "train --out {dir}/out --data npz:{dir}/numbers.npz": "class_names must be a list of names, got int64 of shape (2,)",
    "train --out {dir}/out --data npz:{dir}/gap.npz": "every class must have a training image, got none of bee",
    "train --out {dir}/out --data folder:{dir}/missing": "image folder must be an existing folder, got {dir}/missing",
    "train --out {dir}/out --data folder:{dir}/file": "image folder must be an existing folder, got {dir}/file",
    "train --out {dir}/out --data folder:{dir}/classless": "image folder must have one folder per class, got none in {dir}/classless",
    "train --out {dir}/out --data folder:{dir}/untrained": "image folder must have a folder train beside val and test, got val",
    "train --out {dir}/out --data folder:{dir}/void": "image folder {dir}/void must have at least one image, got 0",
    "train --out {dir}/out --data folder:{dir}/broken": "image files of folder:{dir}/broken must be readable images, got 1 that cannot be read: cat/page.png (no image); pass --skip-bad to leave them out",
    # MODEL and weights
    "train --out {dir}/out --model resnet23": "--model must be one of small_cnn, resnet20, resnet32, resnet56, torchvision:NAME, timm:NAME, package.module:function, got 'resnet23'; did you mean 'resnet32'?",
    "train --out {dir}/out --model torchvision:resnet81": "torchvision model must be one that torchvision has, got 'resnet81'; did you mean '<...>'?",
    "train --out {dir}/out --model no_such_module:net": "--model must name something that can be imported, got 'no_such_module:net'; No module named 'no_such_module'",
    "train --out {dir}/out --model os:getcwd": "os:getcwd() must return a torch.nn.Module, got str",
    "train --out {dir}/out --model resnet18": "--model must be one of small_cnn, resnet20, resnet32, resnet56, torchvision:NAME, timm:NAME, package.module:function, got 'resnet18'; write torchvision:resnet18",
    "train --out {dir}/out --data {trained}": "--data must be one of digits, cifar10, cifar100, svhn, mnist, fashion-mnist, places365, inaturalist, npz:FILE, folder:DIR, package.module:function, got '{trained}'; write folder:{trained}",
    "train --out {dir}/out --model torchvision:": "--model must be one of small_cnn, resnet20, resnet32, resnet56, torchvision:NAME, timm:NAME, package.module:function, got 'torchvision:'; did you mean 'torchvision:NAME'?",
    "diagnose --weights {dir}/missing.pt --heldout test --out {dir}/out": "--weights must be an existing file, got {dir}/missing.pt",
    "diagnose --weights {dir}/foreign --heldout test --out {dir}/out": "--weights must be a file, or a folder that holds model.safetensors or its index, got the folder {dir}/foreign",
    "diagnose --weights {dir}/empty.pt --heldout test --out {dir}/out": "--weights must not be empty, got 0 bytes in {dir}/empty.pt",
    "diagnose --weights {dir}/page.pt --heldout test --out {dir}/out": "--weights must be a PyTorch or safetensors checkpoint, got {dir}/page.pt, which is neither",
    "diagnose --weights {dir}/cut.safetensors --heldout test --out {dir}/out": "--weights must be a whole safetensors file, got {dir}/cut.safetensors (<...>); copy or download it again",
    "diagnose --weights {dir}/cut.pt --heldout test --out {dir}/out": "--weights must be a whole checkpoint, got {dir}/cut.pt, which is truncated or damaged; copy or download it again",
    "diagnose --weights {dir}/object.pt --heldout test --out {dir}/out": "--weights must hold tensors only, got pickled objects in {dir}/object.pt (torch.nn.modules.linear.Linear); re-save it with torch.save(model.state_dict(), FILE)",
    "diagnose --weights {dir}/list.pt --heldout test --out {dir}/out": "--weights must hold a state dict of named tensors, got a list in {dir}/list.pt; re-save it with torch.save(model.state_dict(), FILE)",
    "diagnose --weights {dir}/none.pth --heldout test --out {dir}/out": "--weights must hold named tensors, got none in {dir}/none.pth; re-save it with torch.save(model.state_dict(), FILE)",
    "diagnose --weights {dir}/array.npy --heldout test --out {dir}/out": "--weights must be a PyTorch or safetensors checkpoint, got {dir}/array.npy, which is neither",
    "diagnose --weights {dir}/resnet20.safetensors --heldout test --out {dir}/out": "--weights {dir}/resnet20.safetensors must fit the model, got no features.0.weight, no features.1.weight, no features.1.bias and 112 more; they fit --model resnet20 with 10 classes and 3 input channels",
    "diagnose --weights {dir}/five.safetensors --heldout test --out {dir}/out": "--weights {dir}/five.safetensors must fit the model, got linear.weight of shape (5, 64) instead of (10, 64), linear.bias of shape (5,) instead of (10,); they are for 5 classes and the model has 10",
    "diagnose --weights {weights} --out {dir}/out --model resnet20": "--weights {weights} must fit the model, got no conv1.weight, no bn1.weight, no bn1.bias and 112 more; they fit --model small_cnn with 10 classes and 1 input channel",
    "diagnose --weights {weights} --out {dir}/out --head linaer": "--head must be one of linear, got 'linaer'; did you mean 'linear'?",
    "diagnose --weights {weights} --out {dir}/out --head features.0": "--head must be linear (W f + b) or cosine, got Conv2d; name another layer with --head NAME",
    "diagnose --weights {weights} --out {dir}/out --heldout dev": "--heldout must be one of val, test, got 'dev'",
    "diagnose --weights {weights} --out {dir}/out --top-k 65": "--top-k must lie in [1, 64], the number of features, got 65",
    "diagnose --weights {weights} --out {dir}/out --top-k 0": "--top-k must lie in [1, 64], the number of features, got 0",
    "diagnose --weights {weights} --out {dir}/out --top-k few": "--top-k must be an integer or a percentage of D, got 'few'",
    "diagnose --weights {weights} --out {dir}/out --top-k 200%": "--top-k must lie in [1, 64], the number of features, got 200%",
    "diagnose --weights {weights} --out {dir}/out --precision fp16": "--precision must be one of fp32, bf16, auto, got 'fp16'; did you mean 'bf16'?",
    "diagnose --weights {weights} --out {dir}/out --seed -1": "--seed must be at least 0, got '-1'",
    "diagnose --weights {weights} --out {dir}/out --data npz:{dir}/plain.npz": "--mean and --std must be those that the model was trained with, got nothing; pass --mean M and --std S",
    "diagnose --weights {dir}/whole.safetensors --out {dir}/out": "--heldout must be images that the model was not trained on, got none: the data have no validation set, or no record beside the weights shows that the model was not trained on it; give the data a val split (DIR/train and DIR/val in folder:DIR, val_images and val_labels in npz:FILE), or train with `diversify train`, which holds images out; --heldout test makes a diagnosis that is for reading only",
    "diagnose --weights {weights} --out {dir}/out --data npz:{dir}/plain.npz --mean 0 --std 1 --heldout test": "--heldout test must find a test split, got none in npz:{dir}/plain.npz",
    # DIR
    "train --out {dir}/file": "--out must be a folder, got the file {dir}/file",
    "train --out {dir}/file/deep": "--out must lie in a folder, got {dir}/file/deep, in the file {dir}/file",
    "train --out {dir}/foreign": "--out must be new or empty, got {dir}/foreign; pass --overwrite to replace it",
    "train --out {dir}/foreign --overwrite": "--out must be new, empty or an earlier run (with a run.json), got {dir}/foreign; choose another folder",
    "train --out {dir}/mixed --overwrite": "--out must hold nothing but an earlier run, got {dir}/mixed with thesis.tex; choose another folder",
    "diagnose --weights {weights} --out {trained} --overwrite": "--out must not hold {weights}, which the command reads, got {trained}; choose another folder",
    "compare {diagnosed} {diagnosed} --out {diagnosed} --overwrite": "--out must not hold {diagnosed}, which the command reads, got {diagnosed}; choose another folder",
    "train --data npz:{dir}/plain.npz --out {dir} --overwrite": "--out must not hold {dir}/plain.npz, which the command reads, got {dir}; choose another folder",
    "demo --out {trained}": "--out must be new or empty, got {trained}; pass --overwrite to replace it",
    "train --out {dir}/out --resume": "--resume must find the state of an earlier run, got none in {dir}/out; start a new run without --resume",
    "train --imbalance exp:5 --out {trained} --resume --epochs 2": "--epochs of a resumed run must stay 1, got 2; start it anew",
    "compare {dir}/missing {diagnosed} --out {dir}/out": "DIR_A must be a folder that `diversify diagnose` wrote, got {dir}/missing",
    "compare {dir}/foreign {diagnosed} --out {dir}/out": "run.json must be an existing file, got {dir}/foreign/run.json",
    "compare {diagnosed} {trained} --out {dir}/out": "diagnosis.json must be an existing file, got {trained}/diagnosis.json",
    "report --out {dir}/out": "results.jsonl|DIR must be given, got none; see `diversify report --help`",
    "remedy --out {dir}/out": "DIR must be given, got none; see `diversify remedy --help`",
    "remedy {diagnosed}": "--out must be given, got none; see `diversify remedy --help`",
    "remedy {dir}/none --out {dir}/out": "DIR must be a folder that `diversify diagnose` wrote, got {dir}/none",
    "remedy {trained} --out {dir}/out": "diagnosis.json must be an existing file, got {trained}/diagnosis.json",
    "remedy {diagnosed} --out {diagnosed}": "--out must not hold {diagnosed}, which the command reads, got {diagnosed}; choose another folder",
    "remedy {diagnosed} --plan {dir}/none.json --out {dir}/out": "--plan must be an existing file, got {dir}/none.json",
    "remedy {diagnosed} --plan {dir}/later/run.json --out {dir}/out": "classes of the plan must be given, got nothing",
    "remedy {diagnosed} --seed -1 --out {dir}/out": "--seed must be at least 0, got '-1'",
    "report {dir}/foreign --out {dir}/out": "results.jsonl|DIR must be a folder that `diversify diagnose`, `compare` or `remedy` wrote, got {dir}/foreign",
    "report {trained} --out {dir}/out": "results.jsonl|DIR must hold a diagnosis.json, comparison.json or remedy.json, got {trained}; run `diversify diagnose` to its end",
    "report {diagnosed} --out {diagnosed} --overwrite": "--out must not hold {diagnosed}, which the command reads, got {diagnosed}; choose another folder",
    "compare {dir}/spoilt {diagnosed} --out {dir}/out": "diagnosis.json must be whole, valid JSON, got {dir}/spoilt/diagnosis.json (<...>)",
    "compare {dir}/later {diagnosed} --out {dir}/out": "diagnosis must have schema_version 1, got 99",
    # Plans
    "plan": "DIR must be given, got none; see `diversify plan --help`",
    "plan {diagnosed} --plan {dir}/plan.json": "option must be one that `diversify plan` has, got --plan; see `diversify plan --help`",
    "plan {dir}/nowhere --out {dir}/plan.json": "DIR must be a folder that `diversify diagnose` wrote, got {dir}/nowhere",
    "plan {diagnosed}/diagnosis.json": "DIR must be a folder that `diversify diagnose` wrote, got {diagnosed}/diagnosis.json",
    "plan {trained}": "DIR must be a folder that `diversify diagnose` wrote, got {trained}",
    "plan {dir}/spoilt --out {dir}/plan.json": "diagnosis.json must be whole, valid JSON, got {dir}/spoilt/diagnosis.json (<...>)",
    "plan {dir}/later --out {dir}/plan.json": "diagnosis must have schema_version 1, got 99",
    "plan {dir}/tested --out {dir}/plan.json": "diagnosis must be made on the validation set to make a plan from, got one made on test; bring a validation set, or train with a holdout, and diagnose on that: test is evaluated once, after choosing",
    "plan {diagnosed} --out {dir}/foreign": "--out must be a file, got the folder {dir}/foreign; for example {dir}/foreign/plan.json",
    "plan {diagnosed} --out {dir}/file": "--out must be a file that does not exist yet, got {dir}/file; pass --overwrite to replace it",
    "plan {diagnosed} --out {dir}/file --overwrite": "--out must be new or a plan, got {dir}/file; choose another file",
    "plan {diagnosed} --out {diagnosed}/diagnosis.json --overwrite": "--out must be new or a plan, got {diagnosed}/diagnosis.json; choose another file",
    "plan {diagnosed} --out {dir}/file/plan.json": "--out must lie in a folder, got {dir}/file/plan.json",
    # Studies
    "benchmark --out {dir}/r.jsonl": "SUITE|FILE.py must be given, got none; see `diversify benchmark --help`",
    "benchmark {dir}/study.py": "--out must be given, got none; see `diversify benchmark --help`",
    "benchmark nosuch --out {dir}/r.jsonl": "SUITE|FILE.py must be one of digits, cifar10_lt_short, fashion_mnist_lt, cifar10_lt, cifar100_lt, paper, diversity_digits, diversity_fashion, diversity_cifar10, diversity_mnist, paper_mnist, paper_fashion, paper_cifar10, paper_places365, paper_inaturalist, FILE.py, got 'nosuch'",
    "benchmark digit --out {dir}/r.jsonl": "SUITE|FILE.py must be one of digits, cifar10_lt_short, fashion_mnist_lt, cifar10_lt, cifar100_lt, paper, diversity_digits, diversity_fashion, diversity_cifar10, diversity_mnist, paper_mnist, paper_fashion, paper_cifar10, paper_places365, paper_inaturalist, FILE.py, got 'digit'; did you mean 'digits'?",
    "benchmark digits --out {dir}/r.jsonl --methods ce+image": "suffix of ce+image must be one of images, mix, head, got 'image'; did you mean 'images'?",
    "benchmark cifar10_lt --out {dir}/r.jsonl --root {dir}/void": "CIFAR10 under --root must be there, got {dir}/void; pass --root FOLDER or --download",
    "benchmark {dir}/untested.py --out {dir}/r.jsonl": "data of a study must have images for test, got none in npz:{dir}/plain.npz",
    "benchmark {dir}/netless.py --out {dir}/r.jsonl": "model must be one of small_cnn, resnet20, resnet32, resnet56, torchvision:NAME, timm:NAME, package.module:function, got 'small_cn'; did you mean 'small_cnn'?",
    "benchmark {dir}/none.py --out {dir}/r.jsonl": "SUITE|FILE.py must be an existing Python file, got {dir}/none.py",
    "benchmark {dir}/slip.py --out {dir}/r.jsonl": "SUITE|FILE.py must be a Python file that runs, got {dir}/slip.py; NameError: name 'nothing' is not defined",
    "benchmark {dir}/bare.py --out {dir}/r.jsonl": "PROTOCOL of {dir}/bare.py must be a diversify.study.protocol.Protocol, got none",
    "benchmark {dir}/long.py --out {dir}/r.jsonl": "epochs of the protocol in {dir}/long.py must be at least 1, got 0",
    "benchmark {dir}/odd.py --out {dir}/r.jsonl": "METHODS of {dir}/odd.py must be a tuple of Method, got str",
    "benchmark {dir}/study.py --out {dir}/r.jsonl --trials 0": "--trials must be at least 1, got '0'",
    "benchmark {dir}/study.py --out {dir}/r.jsonl --trials few": "--trials must be an integer, got 'few'",
    "benchmark {dir}/study.py --out {dir}/r.jsonl --workers 0": "--workers must be at least 1, got '0'",
    "benchmark {dir}/study.py --out {dir}/r.jsonl --seeds a,b": "--seeds must be integers from 0 on, separated by commas, got 'a,b'",
    "benchmark {dir}/study.py --out {dir}/r.jsonl --seeds 0,-1": "--seeds must be integers from 0 on, separated by commas, got '0,-1'",
    "benchmark {dir}/study.py --out {dir}/r.jsonl --seeds 1,1": "--seeds must be different, got '1,1'",
    "benchmark {dir}/study.py --out {dir}/r.jsonl --methods mine,": "--methods must be different names separated by commas, got 'mine,'",
    "benchmark {dir}/study.py --out {dir}/r.jsonl --device tpu": "--device must be auto, cpu, cuda or cuda:N, got 'tpu'",
    "benchmark {dir}/study.py --out {dir}/r.jsonl --storage here.db": "--storage must be one of sqlite://..., postgresql://..., mysql://..., got 'here.db'; for example sqlite:///study.db; leave it out for a journal beside the results",
    "benchmark {dir}/study.py --out {dir}/results": "--out must be a file that ends in .jsonl, got {dir}/results; for example {dir}/results.jsonl",
    "benchmark {dir}/study.py --out {dir}/foreign": "--out must be a file that ends in .jsonl, got {dir}/foreign; for example {dir}/foreign/results.jsonl",
    "benchmark {dir}/study.py --out {dir}/notes.jsonl": "record on line 1 of {dir}/notes.jsonl must be a JSON object, got 'notes'",
    "benchmark {dir}/study.py --out {dir}/file/r.jsonl": "--out must lie in a folder, got {dir}/file/r.jsonl",
}

# Calls: an InputError with this text

CALLS: dict[str, tuple[Callable[[SimpleNamespace], object], str]] = {
    # LinearHead and split_head
    "dv.LinearHead(weight=torch.zeros(3), bias=torch.zeros(3))": (
        lambda m: dv.LinearHead(weight=torch.zeros(3), bias=torch.zeros(3)),
        "head weight must have shape (C, D), got (3,)",
    ),
    "dv.LinearHead(weight=torch.zeros(3, 4), bias=torch.zeros(4))": (
        lambda m: dv.LinearHead(weight=torch.zeros(3, 4), bias=torch.zeros(4)),
        "head bias must have shape (3,), got (4,)",
    ),
    "dv.LinearHead(weight=torch.zeros(3, 4).double(), bias=torch.zeros(3))": (
        lambda m: dv.LinearHead(weight=torch.zeros(3, 4).double(), bias=torch.zeros(3)),
        "head weight must be float32, got torch.float64",
    ),
    "dv.LinearHead(weight=torch.full((3, 4), torch.nan), bias=torch.zeros(3))": (
        lambda m: dv.LinearHead(weight=torch.full((3, 4), torch.nan), bias=torch.zeros(3)),
        "head weight must be finite, got nan or infinite values",
    ),
    "dv.split_head(nn.Sequential(nn.Flatten(), nn.ReLU()))": (
        lambda m: dv.split_head(nn.Sequential(nn.Flatten(), nn.ReLU())),
        "head must be linear (W f + b) or cosine, got a Sequential without weights",
    ),
    "dv.split_head(m.net, 'linaer')": (
        lambda m: dv.split_head(m.net, "linaer"),
        "head must be one of linear, got 'linaer'; did you mean 'linear'?",
    ),
    "dv.split_head(m.net, 'features.0')": (
        lambda m: dv.split_head(m.net, "features.0"),
        "head must be linear (W f + b) or cosine, got Conv2d; name another layer with head=NAME",
    ),
    "dv.split_head(torch.jit.trace(nn.Linear(2, 2), torch.zeros(1, 2)))": (
        lambda m: dv.split_head(torch.jit.trace(nn.Linear(2, 2), torch.zeros(1, 2))),
        "model must be a Python module, got a TorchScript module; pass the model that it was made from",
    ),
    "dv.read_head(nn.ReLU())": (
        lambda m: dv.read_head(nn.ReLU()),
        "head must be linear (W f + b) or cosine, got ReLU; name another layer with head=NAME",
    ),
    # Embeddings
    "dv.Embeddings(features=torch.zeros(2), labels=m.labels, logits=m.logits, indices=m.labels)": (
        lambda m: dv.Embeddings(features=torch.zeros(2), labels=m.labels, logits=m.logits, indices=m.labels),
        "features must have 2 dimensions, got shape (2,)",
    ),
    "dv.Embeddings(features=m.features.double(), labels=m.labels, logits=m.logits, indices=m.labels)": (
        lambda m: dv.Embeddings(features=m.features.double(), labels=m.labels, logits=m.logits, indices=m.labels),
        "features must be float32, got float64",
    ),
    "dv.Embeddings(features=m.features, labels=m.labels.int(), logits=m.logits, indices=m.labels)": (
        lambda m: dv.Embeddings(features=m.features, labels=m.labels.int(), logits=m.logits, indices=m.labels),
        "labels must be int64, got int32",
    ),
    "dv.Embeddings(features=m.features, labels=m.labels[:1], logits=m.logits, indices=m.labels)": (
        lambda m: dv.Embeddings(features=m.features, labels=m.labels[:1], logits=m.logits, indices=m.labels),
        "labels must have one row per image, 2, got 1",
    ),
    "dv.Embeddings(features=m.features, labels=m.labels + 3, logits=m.logits, indices=m.labels)": (
        lambda m: dv.Embeddings(features=m.features, labels=m.labels + 3, logits=m.logits, indices=m.labels),
        "labels must lie in [0, C - 1 = 2], got 3 at row 0",
    ),
    "dv.Embeddings(features=m.features / 0, labels=m.labels, logits=m.logits, indices=m.labels)": (
        lambda m: dv.Embeddings(features=m.features / 0, labels=m.labels, logits=m.logits, indices=m.labels),
        "features must be finite, got inf at row 0, feature 0",
    ),
    "dv.Embeddings(features=m.features, labels=m.labels, logits=m.logits / 0, indices=m.labels)": (
        lambda m: dv.Embeddings(features=m.features, labels=m.labels, logits=m.logits / 0, indices=m.labels),
        "logits must be finite, got inf at row 0, class 0",
    ),
    "dv.Embeddings(features=m.features, labels=m.labels, logits=m.logits[0], indices=m.labels)": (
        lambda m: dv.Embeddings(features=m.features, labels=m.labels, logits=m.logits[0], indices=m.labels),
        "logits must have 2 dimensions, got shape (3,)",
    ),
    "dv.Embeddings.load(m.dir / 'missing')": (
        lambda m: dv.Embeddings.load(m.dir / "missing"),
        "embeddings must be an existing folder, got {dir}/missing",
    ),
    "dv.Embeddings.load(m.dir / 'foreign')": (
        lambda m: dv.Embeddings.load(m.dir / "foreign"),
        "embeddings index must be an existing file, got {dir}/foreign/index.json",
    ),
    "m.train.save(m.dir / 'foreign')": (
        lambda m: m.train.save(m.dir / "foreign"),
        "embeddings folder must be new or empty, got {dir}/foreign",
    ),
    # extract
    "dv.extract(m.split, m.loader, precision='fp64')": (
        lambda m: dv.extract(m.split, m.loader, precision="fp64"),
        "precision must be one of fp32, bf16, auto, got 'fp64'",
    ),
    "dv.extract(m.split, DataLoader(Stream(), 2), out=m.dir / 'out')": (
        lambda m: dv.extract(m.split, DataLoader(Stream(), 2), out=m.dir / "out"),
        "loader must be a DataLoader over a map-style data set where out is given, got DataLoader; extract without out, then save the embeddings",
    ),
    "dv.extract(m.split, [])": (lambda m: dv.extract(m.split, []), "loader must yield at least one image, got 0"),
    "dv.extract(m.split, [torch.zeros(2, 1, 8, 8)])": (
        lambda m: dv.extract(m.split, [torch.zeros(2, 1, 8, 8)]),
        "loader must yield (images, labels), or a mapping that holds both, got a Tensor",
    ),
    "dv.extract(m.split, [(torch.zeros(2, 1, 8, 8), torch.full((2,), 0.5))])": (
        lambda m: dv.extract(m.split, [(torch.zeros(2, 1, 8, 8), torch.full((2,), 0.5))]),
        "labels must be whole numbers, got 0.5 at row 0",
    ),
    "dv.extract(m.split, [(torch.zeros(2, 1, 8, 8), torch.zeros(2, 3).long())])": (
        lambda m: dv.extract(m.split, [(torch.zeros(2, 1, 8, 8), torch.zeros(2, 3).long())]),
        "labels must have shape (N,) or (N, 1), or be one-hot (N, C), got (0, 0, 0) at row 0; leave out the images without a label",
    ),
    "dv.extract(m.split, [(torch.zeros(2, 1, 8, 8), torch.zeros(3).long())])": (
        lambda m: dv.extract(m.split, [(torch.zeros(2, 1, 8, 8), torch.zeros(3).long())]),
        "labels must have one row per image, 2, got 3",
    ),
    "dv.extract(m.split, DataLoader(set_of([0, 1]), sampler=[0, 0]))": (
        lambda m: dv.extract(m.split, DataLoader(set_of([0, 1]), sampler=[0, 0])),
        "loader must visit each image at most once, got index 0 twice; pass dv.clean_loader(loader), which reads each image of the data set once",
    ),
    "dv.extract(m.split, DataLoader(set_of([0, 7])))": (
        lambda m: dv.extract(m.split, DataLoader(set_of([0, 7]))),
        "model must have one output per class, got 3 outputs and the label 7 at row 1",
    ),
    "dv.extract(m.split, DataLoader(set_of([0, -1])))": (
        lambda m: dv.extract(m.split, DataLoader(set_of([0, -1]))),
        "labels must lie in [0, C - 1 = 2], got -1 at row 1",
    ),
    "dv.extract(m.split, DataLoader(set_of([0, 1], torch.full((2, 1, 8, 8), torch.nan))))": (
        lambda m: dv.extract(m.split, DataLoader(set_of([0, 1], torch.full((2, 1, 8, 8), torch.nan)))),
        "features must be finite, got nan at row 0, feature 0",
    ),
    "dv.extract(m.split, m.loader, out=m.dir / 'file')": (
        lambda m: dv.extract(m.split, m.loader, out=m.dir / "file"),
        "out must be a folder, got the file {dir}/file",
    ),
    "dv.extract(m.split, m.loader, out=m.dir / 'foreign')": (
        lambda m: dv.extract(m.split, m.loader, out=m.dir / "foreign"),
        "out must be new, empty or an unfinished extraction, got {dir}/foreign with thesis.tex",
    ),
    # diagnose and compare_models
    "dv.diagnose(m.train, m.heldout, head=m.head, heldout_split='dev')": (
        lambda m: dv.diagnose(m.train, m.heldout, head=m.head, heldout_split="dev"),
        "heldout_split must be val or test, got 'dev'",
    ),
    "dv.diagnose(m.train, m.heldout, head=m.head, class_names=['a'])": (
        lambda m: dv.diagnose(m.train, m.heldout, head=m.head, class_names=["a"]),
        "class_names must be one per class of the head, 10, got 1",
    ),
    "dv.make_plan(replace(m.diagnosis, heldout_split='test'))": (
        lambda m: dv.make_plan(replace(m.diagnosis, heldout_split="test")),
        "diagnosis must be made on the validation set to make a plan from, got one made on test; bring a validation set, or train with a holdout, and diagnose on that: test is evaluated once, after choosing",
    ),
    "dv.make_plan(m.diagnosis, rules=3)": (
        lambda m: dv.make_plan(m.diagnosis, rules=3),
        "rules must be a sequence of diversify.plan.Rule or RunRule, got int",
    ),
    "dv.make_plan(m.diagnosis, base=dv.Plan.untouched(['a', 'b'], [3, 1]))": (
        lambda m: dv.make_plan(m.diagnosis, base=dv.Plan.untouched(["a", "b"], [3, 1])),
        "base must have the diagnosis's classes and training counts, got a (3), b (1)",
    ),
    "dv.Plan.from_counts(['a', 'b'], [3])": (
        lambda m: dv.Plan.from_counts(["a", "b"], [3]),
        "class_counts must be one per class name, 2, got 1",
    ),
    "dv.Plan.from_counts(['a', 'b'], [3, -1])": (
        lambda m: dv.Plan.from_counts(["a", "b"], [3, -1]),
        "class_counts must be whole numbers from 0 on, got -1",
    ),
    "dv.Plan.from_counts(['a', 'b'], [3, 0.5])": (
        lambda m: dv.Plan.from_counts(["a", "b"], [3, 0.5]),
        "class_counts must be whole numbers from 0 on, got 0.5",
    ),
    "dv.Plan.from_counts(['a', 'b'], [3, 'many'])": (
        lambda m: dv.Plan.from_counts(["a", "b"], [3, "many"]),
        "class_counts must be whole numbers from 0 on, got 'many'",
    ),
    "dv.Plan.from_counts(['a', 'b'], [0, 0])": (
        lambda m: dv.Plan.from_counts(["a", "b"], [0, 0]),
        "class_counts must hold at least one image, got 0",
    ),
    "dv.Plan.from_counts(['a', 'a'], [3, 1])": (
        lambda m: dv.Plan.from_counts(["a", "a"], [3, 1]),
        "classes.1.name of the plan must differ from that of class 0, got 'a'",
    ),
    "dv.Plan.uniform(['a', 'b'], [3, 1], level=2)": (
        lambda m: dv.Plan.uniform(["a", "b"], [3, 1], level=2),
        "level must lie in [0, 1], got 2",
    ),
    "dv.Plan.from_json('{')": (
        lambda m: dv.Plan.from_json("{"),
        "plan must be whole, valid JSON, got <...>",
    ),
    "dv.Plan.from_json('[]')": (
        lambda m: dv.Plan.from_json("[]"),
        "plan must be an object, got []",
    ),
    "dv.Plan.from_dict({'classes': [{'name': 'a', 'count': 3}]})": (
        lambda m: dv.Plan.from_dict({"classes": [{"name": "a", "count": 3}]}),
        "classes.0.draws of the plan must be given, got nothing",
    ),
    "dv.diagnose(m.train, m.heldout, head=m.head, top_k=999)": (
        lambda m: dv.diagnose(m.train, m.heldout, head=m.head, top_k=999),
        "top_k must lie in [1, 16], the number of features, got 999",
    ),
    "dv.diagnose(m.train, m.heldout, head=m.head, top_k='most')": (
        lambda m: dv.diagnose(m.train, m.heldout, head=m.head, top_k="most"),
        "top_k must be an integer or a percentage of D, got 'most'",
    ),
    "dv.diagnose(m.train, m.heldout, head=nn.Linear(3, 2))": (
        lambda m: dv.diagnose(m.train, m.heldout, head=nn.Linear(3, 2)),
        "train embeddings must have the head's 3 features and 2 classes, got 16 features and 10 classes",
    ),
    "dv.diagnose_model(m.net, m.loader, m.loader, head='linaer')": (
        lambda m: dv.diagnose_model(m.net, m.loader, m.loader, head="linaer"),
        "head must be one of linear, got 'linaer'; did you mean 'linear'?",
    ),
    "dv.diagnose_model(m.net, m.loader, m.loader, top_k=0)": (
        lambda m: dv.diagnose_model(m.net, m.loader, m.loader, top_k=0),
        "top_k must lie in [1, 64], the number of features, got 0",
    ),
    "dv.compare_models(m.model, m.narrow)": (
        lambda m: dv.compare_models(m.model, m.narrow),
        "features of both models must be as many, got 16 and 8",
    ),
    "dv.compare_models(m.model, m.other)": (
        lambda m: dv.compare_models(m.model, m.other),
        "held-out images of both models must be the same, to match the channels of networks that began with different weights, got different ones, 500 and 7",
    ),
    "dv.compare_models(m.model, m.model, class_names=['a'], shared_start=True)": (
        lambda m: dv.compare_models(m.model, m.model, class_names=["a"], shared_start=True),
        "class_names must be one per class of the head, 10, got 1",
    ),
    "dv.compare_models(m.model, m.fewer)": (
        lambda m: dv.compare_models(m.model, m.fewer),
        "classes of both models must be as many, got 10 and 9",
    ),
    "dv.Diagnosis.from_dict({})": (
        lambda m: dv.Diagnosis.from_dict({}),
        "diagnosis must have schema_version 1, got None",
    ),
    "dv.Diagnosis.from_dict({'schema_version': 99})": (
        lambda m: dv.Diagnosis.from_dict({"schema_version": 99}),
        "diagnosis must have schema_version 1, got 99",
    ),
    "dv.Diagnosis.from_json('{')": (
        lambda m: dv.Diagnosis.from_json("{"),
        "diagnosis must be whole, valid JSON, got <...>",
    ),
    "dv.Diagnosis.from_dict({**m.diagnosis.to_dict(), 'top_k': 'five'})": (
        lambda m: dv.Diagnosis.from_dict({**m.diagnosis.to_dict(), "top_k": "five"}),
        "top_k of the diagnosis must be valid (<...>), got 'five'",
    ),
    "dv.Diagnosis.from_dict({**m.diagnosis.to_dict(), 'heldout_split': 'dev'})": (
        lambda m: dv.Diagnosis.from_dict({**m.diagnosis.to_dict(), "heldout_split": "dev"}),
        "heldout_split of the diagnosis must be 'val' or 'test', got 'dev'",
    ),
    # Data
    "dv.Imbalance(kind='linear')": (
        lambda m: dv.Imbalance(kind="linear"),
        "kind of imbalance must be one of none, exp, step, got 'linear'",
    ),
    "dv.Imbalance(kind='exp', ratio=0.5)": (
        lambda m: dv.Imbalance(kind="exp", ratio=0.5),
        "ratio of imbalance must be at least 1 and finite, got 0.5",
    ),
    "dv.Imbalance(kind='step', ratio=2, fraction=1.0)": (
        lambda m: dv.Imbalance(kind="step", ratio=2, fraction=1.0),
        "fraction of imbalance must lie strictly between 0 and 1, got 1.0",
    ),
    "dv.Imbalance(kind='exp', ratio=2, n_max=0)": (
        lambda m: dv.Imbalance(kind="exp", ratio=2, n_max=0),
        "n_max of imbalance must be at least 1, got 0",
    ),
    "dv.Imbalance.parse('step:2')": (
        lambda m: dv.Imbalance.parse("step:2"),
        "imbalance must be exp:RATIO[:NMAX], step:RATIO:FRACTION or none, got 'step:2'",
    ),
    "dv.View(mean=(0.5,), std=(1.0, 1.0))": (
        lambda m: dv.View(mean=(0.5,), std=(1.0, 1.0)),
        "mean and std must have the same length, got 1 and 2",
    ),
    "dv.View(mean=(0.5,), std=(-1.0,))": (
        lambda m: dv.View(mean=(0.5,), std=(-1.0,)),
        "std must be positive, got -1",
    ),
    "dv.View(mean=(float('inf'),), std=(1.0,))": (
        lambda m: dv.View(mean=(float("inf"),), std=(1.0,)),
        "mean and std must be finite, got inf and 1",
    ),
    "dv.View(mean=(0.5,), std=(1.0,), crop=0)": (
        lambda m: dv.View(mean=(0.5,), std=(1.0,), crop=0),
        "crop must be at least 1 pixel, got 0",
    ),
    "dv.View(mean=(0.5,), std=(1.0,)).normalize(torch.zeros(1, 1, 8, 8).int())": (
        lambda m: dv.View(mean=(0.5,), std=(1.0,)).normalize(torch.zeros(1, 1, 8, 8).int()),
        "images must be uint8, or float in [0, 1], got torch.int32",
    ),
    "dv.View(mean=(0.5, 0.5), std=(1.0, 1.0)).normalize(torch.zeros(1, 1, 8, 8))": (
        lambda m: dv.View(mean=(0.5, 0.5), std=(1.0, 1.0)).normalize(torch.zeros(1, 1, 8, 8)),
        "images must have as many channels as mean has numbers, 2, got 1",
    ),
    "dv.load_data('digist')": (
        lambda m: dv.load_data("digist"),
        "data must be one of digits, cifar10, cifar100, svhn, mnist, fashion-mnist, places365, inaturalist, npz:FILE, folder:DIR, package.module:function, got 'digist'; did you mean 'digits'?",
    ),
    "dv.load_data(holdout=2)": (lambda m: dv.load_data(holdout=2), "holdout must lie in [0, 1), got 2"),
    "dv.load_data(imbalance='exp:x')": (
        lambda m: dv.load_data(imbalance="exp:x"),
        "imbalance must be exp:RATIO[:NMAX], step:RATIO:FRACTION or none, got 'exp:x'",
    ),
    "dv.load_data(f'npz:{m.dir}/plain.npz')": (
        lambda m: dv.load_data(f"npz:{m.dir}/plain.npz"),
        "mean and std must be those that the model was trained with, got nothing; pass mean=M and std=S",
    ),
    "dv.labels_of(Silent())": (
        lambda m: dv.labels_of(Silent()),
        "data set must show its labels, as an attribute `targets` or `labels`, got Silent; pass labels=, one class per image",
    ),
    "dv.labels_of(Stream())": (
        lambda m: dv.labels_of(Stream()),
        "data set must be map-style, with a length and an index, got Stream",
    ),
    "dv.labels_of(set_of([0.5, 1.5]))": (
        lambda m: dv.labels_of(set_of([0.5, 1.5])),
        "labels of TensorDataset must be whole numbers, got 0.5 at row 0",
    ),
    "dv.imbalance_indices(torch.arange(3), dv.Imbalance.parse('exp:2:5'))": (
        lambda m: dv.imbalance_indices(torch.arange(3), dv.Imbalance.parse("exp:2:5")),
        "class 0 must have the 5 images that exp:2:5 needs, got 1; lower n_max",
    ),
    "dv.imbalance_indices(torch.tensor([0, 0, 1, 1]), dv.Imbalance.parse('exp:2'), 'first')": (
        lambda m: dv.imbalance_indices(torch.tensor([0, 0, 1, 1]), dv.Imbalance.parse("exp:2"), "first"),
        "tail_order must be canonical or a seed, got 'first'",
    ),
    # Training and models
    "dv.Recipe(epochs=0)": (lambda m: dv.Recipe(epochs=0), "epochs must be at least 1, got 0"),
    "dv.Recipe(momentum=1.0)": (lambda m: dv.Recipe(momentum=1.0), "momentum must lie in [0, 1), got 1.0"),
    "dv.Recipe(milestones=(0.5, 80))": (
        lambda m: dv.Recipe(milestones=(0.5, 80)),
        "milestones must be shares of the epochs, in (0, 1], got (0.5, 80)",
    ),
    "dv.Recipe(schedule='cosin')": (
        lambda m: dv.Recipe(schedule="cosin"),
        "schedule must be one of steps, cosine, constant, got 'cosin'; did you mean 'cosine'?",
    ),
    "dv.Recipe(decay=0)": (lambda m: dv.Recipe(decay=0), "decay must be positive and finite, got 0"),
    "dv.Recipe(warmup_epochs=-1)": (
        lambda m: dv.Recipe(warmup_epochs=-1),
        "warmup_epochs must not be negative, got -1",
    ),
    "dv.CropFlip(padding=-1, mirror=True)": (
        lambda m: dv.CropFlip(padding=-1, mirror=True),
        "padding must not be negative, got -1",
    ),
    "list(dv.fit(m.net, set_of([]), recipe=m.recipe, num_classes=3))": (
        lambda m: list(dv.fit(m.net, set_of([]), recipe=m.recipe, num_classes=3)),
        "training set must have at least one image, got 0",
    ),
    "list(dv.fit(m.net, set_of([0, 5]), recipe=m.recipe, num_classes=3))": (
        lambda m: list(dv.fit(m.net, set_of([0, 5]), recipe=m.recipe, num_classes=3)),
        "labels must lie in [0, 2], got 5",
    ),
    "list(dv.fit(m.net, set_of([0, 1]), recipe=m.recipe, num_classes=4))": (
        lambda m: list(dv.fit(m.net, set_of([0, 1]), recipe=m.recipe, num_classes=4)),
        "model must return logits of shape (N, 4), got (2, 3)",
    ),
    "list(dv.fit(m.net, set_of([0, 1], torch.zeros(2, 3, 8, 8)), recipe=m.recipe, num_classes=3))": (
        lambda m: list(dv.fit(m.net, set_of([0, 1], torch.zeros(2, 3, 8, 8)), recipe=m.recipe, num_classes=3)),
        "model must take these images, got RuntimeError: <...>; they have shape (N, 3, 8, 8)",
    ),
    "list(dv.fit(nn.Sequential(nn.Flatten(), nn.LSTM(64, 3)), set_of([0, 1]), recipe=m.recipe, num_classes=3))": (
        lambda m: list(
            dv.fit(nn.Sequential(nn.Flatten(), nn.LSTM(64, 3)), set_of([0, 1]), recipe=m.recipe, num_classes=3)
        ),
        "model must return one tensor of logits, got a tuple with tensors of shape (2, 3), (1, 3), (1, 3); wrap it in a module that does, for example one that model=package.module:function builds",
    ),
    "list(dv.fit(m.net, m.failing, recipe=m.recipe, num_classes=3))": (
        lambda m: list(dv.fit(m.net, m.failing, recipe=m.recipe, num_classes=3)),
        "training set must give its images, got KeyError: 'image 3'",
    ),
    "list(dv.fit(m.net, set_of([0, 1]), recipe=m.recipe, num_classes=3, state=m.dir / 'whole.safetensors'))": (
        lambda m: list(
            dv.fit(m.net, set_of([0, 1]), recipe=m.recipe, num_classes=3, state=m.dir / "whole.safetensors")
        ),
        "state must be the state of a training run, got {dir}/whole.safetensors; start the run anew",
    ),
    "dv.evaluate(m.net, m.loader, num_classes=7)": (
        lambda m: dv.evaluate(m.net, m.loader, num_classes=7),
        "model must return logits of shape (N, 7), got (2, 3)",
    ),
    "dv.build_model('resnet200', 10)": (
        lambda m: dv.build_model("resnet200", 10),
        "model must be one of small_cnn, resnet20, resnet32, resnet56, torchvision:NAME, timm:NAME, package.module:function, got 'resnet200'; did you mean 'resnet20'?",
    ),
    "dv.build_model('torchvision:resnet', 10)": (
        lambda m: dv.build_model("torchvision:resnet", 10),
        "torchvision model must be one that torchvision has, got 'resnet'; did you mean '<...>'?",
    ),
    "dv.load_weights(m.net, m.dir / 'whole.safetensors')": (
        lambda m: dv.load_weights(m.net, m.dir / "whole.safetensors"),
        "weights {dir}/whole.safetensors must fit the model, got linear.weight of shape (10, 64) instead of (3, 64), linear.bias of shape (10,) instead of (3,); they are for 10 classes and the model has 3",
    ),
    "dv.load_weights(m.net, m.dir / 'missing.pt')": (
        lambda m: dv.load_weights(m.net, m.dir / "missing.pt"),
        "weights must be an existing file, got {dir}/missing.pt",
    ),
}

SHARED = {  # one mistake, made in two ways: on the command line and in Python, or in two commands
    "--out must not hold {diagnosed}, which the command reads, got {diagnosed}; choose another folder",
    "--precision must be one of fp32, bf16, auto, got 'fp16'; did you mean 'bf16'?",
    "--seed must lie in [0, 2^63 - 1], got -1",
    "--seed must be at least 0, got '-1'",
    "class_names must be one per class of the head, 10, got 1",
    "diagnosis must have schema_version 1, got 99",
    "head must be one of linear, got 'linaer'; did you mean 'linear'?",
    "diagnosis.json must be whole, valid JSON, got {dir}/spoilt/diagnosis.json (<...>)",
    "diagnosis.json must be an existing file, got {trained}/diagnosis.json",
    "diagnosis must be made on the validation set to make a plan from, got one made on test; bring a validation set, or train with a holdout, and diagnose on that: test is evaluated once, after choosing",
}


def pattern(message: str, place: dict[str, str]) -> re.Pattern[str]:
    """The whole message; `<...>` stands for words of a library, which differ between its versions."""
    for name, value in place.items():
        message = message.replace(f"{{{name}}}", value)
    return re.compile(".+".join(map(re.escape, message.split("<...>"))))


def all_messages() -> list[str]:
    return [*LINES.values(), *(message for _, message in CALLS.values())]


@pytest.mark.parametrize("line", LINES)
def test_a_wrong_command_line_is_one_line_and_leaves_nothing(
    line: str, place: dict[str, str], capsys: pytest.CaptureFixture[str]
) -> None:
    folders = [Path(place["dir"]), Path(place["trained"]).parent]
    before = [sorted(folder.rglob("*")) for folder in folders]
    assert run([part.format(**place) for part in line.split()]) == 2
    shown = capsys.readouterr().err
    assert shown.count("\n") == 1
    assert shown.startswith("error: ")
    shown = shown.removeprefix("error: ").removesuffix("\n")
    assert pattern(LINES[line], place).fullmatch(shown), shown
    assert [sorted(folder.rglob("*")) for folder in folders] == before


@pytest.mark.filterwarnings("ignore::FutureWarning", "ignore::DeprecationWarning")
@pytest.mark.parametrize("name", CALLS)
def test_a_wrong_call_says_what_must_hold(name: str, made: SimpleNamespace, place: dict[str, str]) -> None:
    call, message = CALLS[name]
    before = sorted(made.dir.rglob("*"))
    with pytest.raises(InputError) as error:
        call(made)
    assert pattern(message, place).fullmatch(str(error.value)), str(error.value)
    assert sorted(made.dir.rglob("*")) == before


def test_the_table_is_long() -> None:
    assert len(LINES) + len(CALLS) >= 100


@pytest.mark.parametrize("message", sorted(set(all_messages())))
def test_every_message_has_the_form(message: str) -> None:
    """`<name> must <law>, got <value>[; <what to do>]`, on one line."""
    assert re.fullmatch(r"\S.*? must \S.*?, got \S[^;]*(; .*\S)?", message), message
    assert "\n" not in message
    assert "  " not in message


def test_no_rule_is_so_general_that_different_mistakes_share_its_words() -> None:
    """The same message for two inputs is right only where the mistake is the same."""
    shared = {message for message, times in Counter(all_messages()).items() if times > 1}
    assert shared == SHARED
