"""A small data set of Hugging Face in memory, for tests that are skipped where its packages are not installed."""

import os

import numpy as np
import pytest
from PIL import Image

COUNTS, NAMES = (20, 10, 6), ["ant", "bee", "cow"]
LABELS = [label for label, count in enumerate(COUNTS) for _ in range(count)]


def package(name):
    """The package, which must not look anything up in the network; a test without it is skipped by its name."""
    os.environ.setdefault("HF_HUB_OFFLINE", "1")
    return pytest.importorskip(name)


def pixels(row):
    """`(16, 16, 3)` uint8: noise, brighter for a later class."""
    noise = np.random.default_rng(row).random((16, 16, 3))
    return (noise * 100 + 60 * LABELS[row]).astype(np.uint8)


def table(datasets):
    """36 rows of `image`, `label` with the names of its classes, and `file`."""
    features = {
        "image": datasets.Image(),
        "label": datasets.ClassLabel(names=NAMES),
        "file": datasets.Value("string"),
    }
    columns = {
        "image": [Image.fromarray(pixels(row)) for row in range(len(LABELS))],
        "label": LABELS,
        "file": [f"{row}.png" for row in range(len(LABELS))],
    }
    return datasets.Dataset.from_dict(columns, features=datasets.Features(features))
