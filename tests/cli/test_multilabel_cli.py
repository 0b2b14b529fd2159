"""`diversify diagnose --multilabel` and `remedy`, as typed."""

import numpy as np
import pytest

import diversify as dv
from diversify.cli.entry import run


@pytest.fixture(scope="module")
def files(tmp_path_factory):
    folder = tmp_path_factory.mktemp("cli")
    for name, side in zip(("train", "heldout"), dv.make_multilabel_embeddings(images=200, heldout=150), strict=False):
        np.savez(folder / f"{name}.npz", features=side.features, labels=side.labels, class_names=list("abcd"))
    return folder


def test_diagnose_and_remedy_print_labels_and_the_recommendation(files, tmp_path, capsys):
    pair = [str(files / "train.npz"), str(files / "heldout.npz")]
    out, repaired = str(tmp_path / "diagnosis"), str(tmp_path / "remedy")
    assert run(["diagnose", "--multilabel", "--features", *pair, "--out", out]) == 0
    shown = capsys.readouterr().out
    assert "mean average precision" in shown
    assert "No label is fragile" in shown
    assert run(["remedy", out, "--out", repaired]) == 0
    shown = capsys.readouterr().out
    assert "macro F1 on other held-out images" in shown
    assert "thresholds.json" in shown
    assert run(["remedy", out, "--out", repaired, "--metric", "worst", "--overwrite"]) == 2
    assert "must be repaired without" in capsys.readouterr().err
    assert run(["plan", out]) == 2
    assert "must be of images with one label each for `diversify plan`" in capsys.readouterr().err


def test_a_threshold_goes_with_multilabel(files, tmp_path, capsys):
    assert run(["diagnose", "--threshold", "0.3", "--out", str(tmp_path / "out")]) == 2
    assert "--threshold must be given with --multilabel" in capsys.readouterr().err
    pair = [str(files / "train.npz"), str(files / "heldout.npz")]
    typed = ["diagnose", "--multilabel", "--threshold", "1.5", "--features", *pair, "--out", str(tmp_path / "out")]
    assert run(typed) == 2
    assert "--threshold must be a probability in (0, 1), got 1.5" in capsys.readouterr().err
