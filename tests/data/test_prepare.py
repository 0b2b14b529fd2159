"""Labels that skip numbers, and images that cannot be read, before anything else is done with them."""

import json

import numpy as np
import torch
from small_data import VIEW, images_of, noise

from diversify.cli import entry
from diversify.commands.options import DataOptions
from diversify.data.labels import labels_of
from diversify.data.load import load_data
from diversify.data.loader import make_loader


def skipping(path, **more):
    np.savez(
        path,
        train_images=noise(6, 3, 3),
        train_labels=np.array([7, 3, 3, 7, 3, 9]),
        test_images=noise(2, 3, 3, key=1),
        test_labels=np.array([9, 12]),
        **more,
    )
    return f"npz:{path}"


def test_numbers_that_no_split_has_are_no_classes(tmp_path):
    loaded = load_data(skipping(tmp_path / "a.npz"), holdout=0, **VIEW)
    assert loaded.class_names == ("class 3", "class 7", "class 9", "class 12")
    assert loaded.train.labels.tolist() == [1, 0, 0, 1, 0, 2]
    assert loaded.test.labels.tolist() == [2, 3]
    assert loaded.label_numbers == (3, 7, 9, 12)
    assert loaded.record()["label_numbers"] == [3, 7, 9, 12]
    assert loaded.notes == (
        "labels skip numbers: the 4 with images, of 0 to 12, are classes 0 to 3, named by their own numbers",
    )
    assert torch.equal(images_of(loaded.train)[:, 0], torch.from_numpy(noise(6, 3, 3)))
    _, labels = next(iter(make_loader(loaded.test, loaded.view)))
    assert labels.tolist() == [2, 3]
    tailed = load_data(skipping(tmp_path / "a.npz"), holdout=0.5, imbalance="none", **VIEW)
    assert labels_of(tailed.train.dataset).tolist() == tailed.train.labels.tolist()


def test_numbers_are_kept_on_request_and_under_names(tmp_path):
    spec = skipping(tmp_path / "a.npz")
    kept = DataOptions(spec=spec, holdout=0, relabel=False, **VIEW).load(measure_view=False)
    assert (kept.num_classes, kept.label_numbers, kept.notes) == (13, None, ())
    assert kept.train.labels.tolist() == [7, 3, 3, 7, 3, 9]
    assert DataOptions(spec=spec, holdout=0, **VIEW).load(measure_view=False).num_classes == 4
    names = np.array([f"n{number}" for number in range(14)])
    named = load_data(skipping(tmp_path / "b.npz", class_names=names), holdout=0, **VIEW)
    assert (named.num_classes, named.label_numbers) == (14, None)
    assert named.train.labels.tolist() == [7, 3, 3, 7, 3, 9]


def test_the_images_of_an_imbalance_do_not_depend_on_the_numbering(tmp_path):
    labels = np.repeat([1, 2, 5], 20)
    np.savez(tmp_path / "d.npz", train_images=noise(60, 4, 4), train_labels=labels)
    for options in ({"imbalance": "exp:4"}, {"imbalance": "exp:4", "tail_order": "3"}, {"imbalance": "step:5:0.4"}):
        found = [
            load_data(f"npz:{tmp_path / 'd.npz'}", relabel=relabel, **options, **VIEW) for relabel in (True, False)
        ]
        assert torch.equal(found[0].train.indices, found[1].train.indices)
        assert torch.equal(found[0].val.indices, found[1].val.indices)
        assert set(found[1].train.labels.tolist()) == {1, 2, 5}
        assert (found[0].num_classes, found[1].num_classes) == (3, 6)


def test_train_says_that_labels_skip_numbers_and_diagnose_finds_the_same_classes(tmp_path, capsys):
    labels = np.arange(20) % 2 * 4 + 3
    np.savez(tmp_path / "a.npz", train_images=noise(20, 8, 8), train_labels=labels)
    arguments = f"train --data npz:{tmp_path}/a.npz --epochs 1 --warmup-epochs 0 --augment none --out {tmp_path}/run"
    assert entry.run(arguments.split()) == 0
    expected = "note: labels skip numbers: the 2 with images, of 0 to 7, are classes 0 to 1, named by their own numbers"
    assert expected in capsys.readouterr().out
    assert entry.run(f"diagnose --weights {tmp_path}/run/model.safetensors --out {tmp_path}/diagnosis".split()) == 0
    trained, diagnosed = (json.loads((tmp_path / name / "run.json").read_text()) for name in ("run", "diagnosis"))
    assert diagnosed["data"] == trained["data"]
    assert trained["data"]["label_numbers"] == [3, 7]
    assert trained["data"]["class_names"] == ["class 3", "class 7"]


def test_huge_numbers_are_classes_too(tmp_path):
    np.savez(tmp_path / "a.npz", train_images=noise(4, 3, 3), train_labels=np.array([10**15, 5, 5, 10**15]))
    loaded = load_data(f"npz:{tmp_path}/a.npz", holdout=0, **VIEW)
    assert loaded.class_names == ("class 5", "class 1000000000000000")
