"""Narrow classes have as many images as wide ones, but less diverse ones; val and test stay wide, and all is reproducible."""

import numpy as np
import pytest
import torch
from small_data import message_of

from diversify.cli.entry import run
from diversify.commands.options import DataOptions
from diversify.data.diversity import Diversity, choose_images, small_pixels, with_frames
from diversify.data.images import ImageArray
from diversify.data.imbalance import Imbalance, class_order, imbalance_indices
from diversify.data.load import load_data
from diversify.data.loader import collate
from diversify.functional import draws

EQUAL = {"imbalance": "exp:1:40"}


def spread(split, c):
    pixels = small_pixels(split.dataset, (split.labels == c).nonzero()[:, 0])
    return float((pixels - pixels.mean(0)).square().sum(1).mean())


def rows_of(split):
    return set(split.indices.tolist())


@pytest.mark.parametrize("form", ["neighbours:3", "kinds:2", "bursts:10"])
def test_narrow_classes_have_as_many_images_of_less_spread_and_the_rest_is_untouched(form):
    plain, data = load_data("digits", **EQUAL), load_data("digits", **EQUAL, diversity=form)
    again = load_data("digits", **EQUAL, diversity=form, narrow=0.5, narrow_order="0")
    assert data.record() == again.record()
    assert data.train.labels.tolist() == plain.train.labels.tolist()
    assert len(data.narrow_classes) == 5
    # a shift by one pixel moves an 8 x 8 image far, so bursts have few images but no small spread
    ours = sum(spread(data.train, c) for c in data.narrow_classes)
    assert form == "bursts:10" or ours < 0.9 * sum(spread(plain.train, c) for c in data.narrow_classes)
    for c in range(10):
        if c not in data.narrow_classes:
            for name in ("train", "val"):
                ours, theirs = getattr(data, name), getattr(plain, name)
                assert ours.indices[ours.labels == c].tolist() == theirs.indices[theirs.labels == c].tolist()
    assert data.test.digest() == plain.test.digest()
    assert data.test.content == plain.test.content
    assert data.val.labels.tolist() == data.val_like_train.labels.tolist() == plain.val.labels.tolist()
    assert not rows_of(data.train) & rows_of(data.val)
    narrow = torch.isin(data.val.labels, torch.tensor(data.narrow_classes))
    assert not set(data.val.indices[narrow].tolist()) & rows_of(data.val_like_train)


def test_without_a_diversity_nothing_changes_and_nothing_is_recorded():
    plain, none = load_data("digits", imbalance="exp:10"), load_data("digits", imbalance="exp:10", diversity="none")
    assert plain.record() == none.record()
    assert "diversity" not in plain.record()
    assert plain.val_like_train is None
    wide = load_data("digits", imbalance="exp:10", diversity="bursts:4", narrow=0)
    assert wide.train.digest() == plain.train.digest()
    assert wide.val.digest() == plain.val.digest()


def test_neighbours_are_the_images_nearest_to_the_seed_images_equally_many_of_each():
    values = torch.cat([torch.arange(30) / 300, 0.8 + torch.arange(30) / 300])  # two lumps far apart
    values = values[:, None, None, None].expand(-1, 1, 4, 4).contiguous()
    dataset, labels = ImageArray(values, torch.zeros(60, dtype=torch.int64)), torch.zeros(60, dtype=torch.int64)
    for seed in range(20):
        one = choose_images(dataset, labels, torch.arange(10), Diversity("neighbours:1", narrow=1, seed=seed)).rows
        first = int(draws.permutation(60, "diversity pool", seed, 0)[0])
        assert (
            sorted(one.tolist())
            == sorted(sorted(range(60), key=lambda row: abs(float(values[row, 0, 0, 0] - values[first, 0, 0, 0])))[:10])
            or len({row // 30 for row in one.tolist()}) == 1
        )
        two = choose_images(dataset, labels, torch.arange(10), Diversity("neighbours:2", narrow=1, seed=seed)).rows
        seeds = draws.permutation(60, "diversity pool", seed, 0)[:2]
        if len({int(row) // 30 for row in seeds}) == 2:
            assert sorted(row // 30 for row in two.tolist()) == [0] * 5 + [1] * 5
        assert len(two.unique()) == 10


def test_which_classes_are_narrow_is_drawn_independently_of_which_are_small():
    sizes = [100 - 10 * c for c in range(10)]
    drawn = [Diversity("bursts:2", seed=seed).narrow_classes(sizes) for seed in range(400)]
    share = [sum(c in narrow for narrow in drawn) / 400 for c in range(10)]
    assert all(0.4 < each < 0.6 for each in share)
    small = [set(class_order(str(seed), 10)[5:]) for seed in range(400)]
    both = [len(small[seed] & set(drawn[seed])) for seed in range(400)]
    assert 2.35 < sum(both) / 400 < 2.65  # 5 of 10 and 5 of 10: 2.5 by chance; the same order would give 5 or 0
    assert Diversity("bursts:2", order="small").narrow_classes(sizes) == (5, 6, 7, 8, 9)
    assert Diversity("bursts:2", order="large", narrow=0.3).narrow_classes(sizes) == (0, 1, 2)
    assert 3 not in Diversity("bursts:2", narrow=1).narrow_classes([5, 5, 5, 0, 5])


def test_a_burst_is_one_image_and_small_changes_of_it():
    data = load_data("digits", **EQUAL, diversity="bursts:10", narrow=0.2, holdout=0)
    c = data.narrow_classes[0]
    rows = (data.train.labels == c).nonzero()[:, 0]
    assert data.train.indices[rows].unique(return_counts=True)[1].tolist() == [10] * 4
    images = collate([data.train.dataset[row] for row in rows.tolist()])[0].float()
    source = load_data("digits", holdout=0).train
    originals = source.dataset.images.float()
    own = [source.indices.tolist().index(row) for row in data.train.indices[rows].tolist()]
    assert (images[:4] == originals[own[:4]]).all()
    changed = (images - originals[own]).abs().mean((1, 2, 3))
    assert 0 < float(changed[4:].mean()) < 60
    other = (images - originals[own].roll(1, 0)).abs().mean((1, 2, 3))
    assert float(changed.mean()) < 0.7 * float(other.mean())
    assert len(images.unique(dim=0)) > 30
    assert (
        data.train.content == load_data("digits", **EQUAL, diversity="bursts:10", narrow=0.2, holdout=0).train.content
    )
    assert (
        data.train.content
        != load_data("digits", **EQUAL, diversity="bursts:10", narrow=0.2, holdout=0, narrow_order="1").train.content
    )


def test_a_frame_depends_on_its_own_row_alone():
    images = (draws.uniform("images", torch.arange(3 * 64)) * 255).to(torch.uint8).view(3, 1, 8, 8)
    rows, frames = torch.tensor([7, 9, 7]), torch.tensor([0, 2, 5])
    whole = with_frames(ImageArray(images, rows), rows, frames, 0)
    last = with_frames(ImageArray(images[2:], rows[2:]), rows[2:], frames[2:], 0)
    assert (whole.images[2] == last.images[0]).all()
    assert (whole.images[0] == images[0]).all()


def test_the_pool_is_the_class_and_bounded(monkeypatch):
    monkeypatch.setattr("diversify.data.diversity.POOL", 30)
    labels = torch.arange(2).repeat_interleave(100)
    images = draws.uniform("images", torch.arange(200 * 16)).view(200, 1, 4, 4)
    kept = imbalance_indices(labels, Imbalance.parse("exp:1:15"))
    chosen = choose_images(ImageArray(images, labels), labels, kept, Diversity("neighbours:1", narrow=1))
    assert labels[chosen.rows].tolist() == labels[kept].tolist()
    for c in range(2):
        rows = (labels == c).nonzero()[:, 0]
        pool = rows[draws.permutation(100, "diversity pool", 0, c)][:30]
        assert set(chosen.rows[labels[chosen.rows] == c].tolist()) <= set(pool.tolist())


@pytest.mark.parametrize(
    ("options", "law"),
    [
        ({"diversity": "near:3"}, "diversity must be neighbours:S, kinds:K, bursts:M or none, got 'near:3'"),
        ({"diversity": "neighbours"}, "diversity must be neighbours:S"),
        ({"diversity": "none:1"}, "diversity must be neighbours:S"),
        ({"diversity": "bursts:1"}, "diversity must have a number of at least 2, got bursts:1"),
        ({"diversity": "kinds:0"}, "diversity must have a number of at least 1, got kinds:0"),
        ({"narrow": 0.5}, "narrow must stand beside diversity, got 0.5"),
        ({"narrow_order": "1"}, "narrow_order must stand beside diversity"),
        ({"diversity": "bursts:2", "narrow": 1.5}, "narrow must lie in [0, 1], got 1.5"),
        ({"diversity": "bursts:2", "narrow": float("nan")}, "narrow must lie in [0, 1], got nan"),
        ({"diversity": "bursts:2", "narrow": 0.01}, "narrow must be the share of one class at least, of 10, got 0.01"),
        ({"diversity": "bursts:2", "narrow_order": "big"}, "narrow_order must be a seed, small, large"),
        ({"diversity": "bursts:2", "narrow_order": ""}, "narrow_order must be a seed, small, large"),
        ({"diversity": "bursts:2", "narrow_order": "small", **EQUAL}, "narrow_order must be a seed where all classes"),
        ({"diversity": "neighbours:3"}, "diversity neighbours:3 must choose the 127 images of class"),
        ({"diversity": "neighbours:40", **EQUAL}, "must have fewer seed images than class 1 has images, 40, got 40"),
        ({"diversity": "kinds:5", **EQUAL}, "must have fewer kinds than class 1 has, 5, got 5"),
        ({"diversity": "kinds:1", "imbalance": "exp:1:100"}, "must find 100 images of 1 kinds of class 1, got"),
        ({"diversity": Diversity("bursts:2"), "narrow": 0.5}, "narrow must be left out beside a Diversity"),
    ],
)
def test_what_cannot_work_ends_in_one_line(options, law):
    assert message_of(lambda: load_data("digits", **options)).startswith(law) or law in message_of(
        lambda: load_data("digits", **options)
    )


def test_image_files_have_neighbours_but_no_bursts(tmp_path):
    from PIL import Image

    for name in ("train/a", "train/b", "test/a", "test/b"):
        (tmp_path / name).mkdir(parents=True)
        for row in range(12):
            Image.new("RGB", (20, 18), (row * 20, 0, 0)).save(tmp_path / name / f"{row}.png")
    options = {"imbalance": "exp:1:4", "mean": (0.5,) * 3, "std": (0.5,) * 3, "holdout": 0.25}
    data = load_data(f"folder:{tmp_path}", **options, diversity="neighbours:1")
    (c,) = data.narrow_classes
    reds = sorted(
        int(data.train.dataset[row][0][0, 0, 0]) // 20 for row in range(len(data.train)) if data.train.labels[row] == c
    )
    assert reds[-1] - reds[0] <= 6
    assert "must have images in memory, not in files" in message_of(
        lambda: load_data(f"folder:{tmp_path}", **options, diversity="bursts:2")
    )


def test_the_options_of_a_training_run_are_taken_from_its_record():
    given = DataOptions(spec="digits", imbalance="exp:1:40", diversity="neighbours:3", narrow=0.3, narrow_order="7")
    data = given.load(measure_view=False)
    record = {"data": data.record(), "view": None}
    filled = DataOptions().filled_from(record)
    assert (filled.diversity, filled.narrow, filled.narrow_order) == ("neighbours:3", 0.3, "7")
    assert filled.load(measure_view=False).record() == data.record()
    other = DataOptions(diversity="bursts:4").filled_from(record)
    assert (other.diversity, other.narrow, other.narrow_order) == ("bursts:4", None, None)
    assert DataOptions(diversity="none").filled_from(record).load(measure_view=False).diversity == "none"
    assert DataOptions(diversity="neighbours:3").filled_from(record).narrow == 0.3


@pytest.mark.parametrize(
    ("flags", "told"),
    [
        (["--narrow", "0.3"], "--narrow must stand beside diversity, got 0.3; pass --diversity neighbours:3"),
        (["--diversity", "bursts:4", "--narrow-order", "big"], "--narrow-order must be a seed, small, large"),
        (["--diversity", "near:4"], "--diversity must be neighbours:S, kinds:K, bursts:M or none, got 'near:4'"),
    ],
)
def test_the_command_line_names_its_flags(flags, told, capsys, tmp_path):
    assert run(["train", "--data", "digits", "--imbalance", "exp:1:40", *flags, "--out", str(tmp_path / "out")]) == 2
    assert told in capsys.readouterr().err
    assert not (tmp_path / "out").exists()


@pytest.mark.parametrize("command", ["diagnose", "probe"])
def test_every_command_with_an_imbalance_has_the_flags(command, capsys):
    assert run([command, "--diversity", "bursts:4", "--narrow-order", "small", "--narrow", "x"]) == 2
    assert "--narrow must be a number, got 'x'" in capsys.readouterr().err


@pytest.mark.parametrize("form", ["neighbours:3", "kinds:2"])
def test_neighbours_and_kinds_may_be_those_of_an_embedding(form, tmp_path):
    images = len(load_data("digits", holdout=0).train)
    place = torch.arange(images, dtype=torch.float32)[:, None]  # the embedding is the place in the source
    np.save(tmp_path / "e.npy", place.numpy())
    data = load_data("digits", **EQUAL, holdout=0, diversity=f"{form}:{tmp_path / 'e.npy'}")
    plain = load_data("digits", **EQUAL, holdout=0, diversity=form)
    assert data.narrow_classes == plain.narrow_classes
    gaps = []
    for one in (data, plain):  # chosen by their places, the images of a class are few runs of near places
        places = [one.train.indices[one.train.labels == c].float().sort().values for c in one.narrow_classes]
        gaps.append(sum(float(each.diff().median()) for each in places))
    assert gaps[0] < 0.8 * gaps[1]
    assert str(tmp_path / "e.npy") in str(data.record())


def test_what_an_embedding_must_be(tmp_path):
    def refused(form, **options):
        return message_of(lambda: load_data("digits", **EQUAL, diversity=form, **options))

    images = len(load_data("digits", holdout=0).train)
    np.save(tmp_path / "few.npy", np.zeros((3, 2), np.float32))
    np.save(tmp_path / "whole.npy", np.zeros((images, 2), np.int64))
    np.save(tmp_path / "nan.npy", np.full((images, 2), np.nan, np.float32))
    assert "must have one row per training image that can be read" in refused(f"neighbours:3:{tmp_path / 'few.npy'}")
    for name in ("whole", "nan"):
        assert "must hold finite floating-point numbers" in refused(f"neighbours:3:{tmp_path / f'{name}.npy'}")
    assert "embedding" in refused(f"neighbours:3:{tmp_path / 'none.npy'}")
    for form in ("neighbours:3:e.csv", "bursts:3:e.npy", "neighbours:3:"):
        assert "name a .npy file" in refused(form)
