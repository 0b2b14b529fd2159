"""Hold-outs for several labels per image: in proportion, with both sides of every label, and without splitting groups."""

import numpy as np
import pytest
import torch
from PIL import Image
from reference import multilabel as reference

from diversify.data import stratify
from diversify.data.imbalance import holdout_indices
from diversify.data.multilabel import load_multilabel_data, multilabel_loader
from diversify.data.stratify import multilabel_holdout
from diversify.errors import InputError
from diversify.functional import draws


def tailed(images, num_labels, key=0):
    """Labels whose shares fall from 40% to 1%."""
    share = torch.logspace(np.log10(0.4), -2, num_labels)
    cell = torch.arange(images * num_labels).view(images, num_labels)
    return draws.uniform("labels", key, cell) < share


@pytest.mark.parametrize(("images", "num_labels", "fraction"), [(60, 4, 0.2), (80, 6, 0.3), (40, 3, 0.5)])
def test_it_is_the_plain_iterative_stratification(images, num_labels, fraction):
    labels = tailed(images, num_labels, key=images)
    order = draws.bits("holdout", torch.arange(images)).argsort(stable=True).tolist()
    kept, held = reference.iterative_holdout(labels.tolist(), fraction, order)
    found = [each.tolist() for each in multilabel_holdout(labels, fraction)]
    lacking = [c for c in range(num_labels) if labels[:, c].sum() > 1 and not labels[held, c].any()]
    assert not lacking  # where the plain rule gives every label both sides, nothing is moved
    assert found == [kept, held]


@pytest.mark.parametrize("seed", range(5))
def test_every_label_has_both_sides_and_its_share(seed):
    labels = tailed(1500, 20, key=100 + seed)
    kept, held = multilabel_holdout(labels, 0.2)
    assert sorted([*kept.tolist(), *held.tolist()]) == list(range(1500))
    assert abs(len(held) - 300) <= 20
    positives, own = labels.sum(0), labels[held].sum(0)
    assert bool((own[positives >= 2] >= 1).all())
    assert bool((own < positives).all())
    assert bool(((own - 0.2 * positives).abs() <= 3 + 0.02 * positives).all())
    assert torch.equal(held, multilabel_holdout(labels, 0.2)[1])


def test_rare_labels_have_both_sides_even_where_each_comes_with_frequent_ones():
    labels = torch.zeros(200, 40, dtype=torch.bool)
    labels[:150, 0] = True
    for c in range(1, 40):  # two images for each label, in chains
        labels[c, c] = labels[c + 1, c] = True
    kept, held = multilabel_holdout(labels, 0.1)
    assert labels[kept].any(0).all()
    assert labels[held].any(0).all()


def test_a_label_with_one_image_stays_in_training():
    labels = torch.zeros(30, 3, dtype=torch.bool)
    labels[:, 0], labels[::2, 1], labels[7, 2] = True, True, True
    kept, held = multilabel_holdout(labels, 0.4)
    assert (labels[kept].sum(0)[2], len(held)) == (1, 12)


def test_pairs_of_labels_are_in_proportion(monkeypatch):
    cells = draws.uniform("pairs", torch.arange(600 * 3)).view(600, 3)
    labels = torch.stack([cells[:, 0] < 0.5, cells[:, 1] < 0.5, cells[:, 2] < 0.06], 1)

    def worst():
        _, held = multilabel_holdout(labels, 0.25)
        both = (labels[:, :, None] & labels[:, None]).float()
        share = both[held].sum(0) / both.sum(0)
        return float((share - 0.25).abs().max())

    with_pairs = worst()
    monkeypatch.setattr(stratify, "MOST_PAIRS", 0)
    assert with_pairs < 0.06
    assert with_pairs <= worst()


def test_no_group_is_split_and_labels_have_both_sides():
    labels = tailed(900, 8, key=3)
    groups = draws.integers(150, "group", torch.arange(900))
    kept, held = multilabel_holdout(labels, 0.2, groups)
    assert set(groups[kept].tolist()).isdisjoint(groups[held].tolist())
    assert abs(len(held) - 180) <= 25
    assert labels[kept].any(0).all()
    assert labels[held].any(0).all()
    share = labels[held].sum(0) / labels.sum(0)
    assert bool(((share - 0.2).abs() < 0.12).all())
    with pytest.raises(InputError, match="group must leave a group to hold out, got 1 groups among 900 images"):
        multilabel_holdout(labels, 0.2, torch.zeros(900, dtype=torch.int64))


def test_edges():
    labels = tailed(10, 3)
    assert [len(each) for each in multilabel_holdout(labels, 0)] == [10, 0]
    assert [len(each) for each in multilabel_holdout(labels[:1], 0.5)] == [1, 0]
    nothing = torch.zeros(10, 3, dtype=torch.bool)
    assert [len(each) for each in multilabel_holdout(nothing, 0.3)] == [7, 3]
    assert len(multilabel_holdout(nothing[:3], 0.9)[0]) == 1
    with pytest.raises(InputError, match=r"holdout must lie in \[0, 1\)"):
        multilabel_holdout(labels, 1.0)


def test_labels_of_two_dimensions_are_several_labels_for_holdout_indices():
    labels = tailed(300, 5)
    for found, expected in zip(holdout_indices(labels, 0.2), multilabel_holdout(labels, 0.2), strict=True):
        assert torch.equal(found, expected)


def table(tmp_path, **more):
    rows = 40
    for row in range(rows):
        Image.fromarray(np.full((4, 4, 3), row, np.uint8)).save(tmp_path / f"{row}.png")
    columns = {
        "path": [f"{row}.png" for row in range(rows)],
        "patient": [f"p{row // 3}" for row in range(rows)],
        "sky": [int(row % 2 == 0) for row in range(rows)],
        "car": [int(row % 5 == 0) for row in range(rows)],
        **more,
    }
    lines = [columns, *zip(*columns.values(), strict=True)]
    (tmp_path / "t.csv").write_text("\n".join(",".join(map(str, line)) for line in lines))
    return f"csv:{tmp_path / 't.csv'}"


VIEW = {"mean": (0.5,) * 3, "std": (0.5,) * 3}


def test_a_table_is_split_by_a_column_of_groups(tmp_path):
    data = load_multilabel_data(table(tmp_path), holdout=0.25, group="patient", **VIEW)
    assert data.label_names == ("sky", "car")
    assert data.group == data.record()["group"] == "patient"
    assert set(data.train.groups.tolist()).isdisjoint(data.val.groups.tolist())
    assert (len(data.train) + len(data.val), data.val.origin, data.record()["holdout"]) == (40, "cut", 0.25)
    assert bool(data.val.labels.any(0).all())
    for split in (data.train, data.val):  # images, labels and positions stay together
        for place in (0, len(split) - 1):
            image, label = split.dataset[place]
            assert int(image[0, 0, 0]) == int(split.indices[place])
            assert torch.equal(label, split.labels[place])
    with pytest.raises(InputError, match="group must name a column of .* beside path and split"):
        load_multilabel_data(table(tmp_path), holdout=0.25, group="path", **VIEW)
    with pytest.raises(InputError, match="group must name a column of csv:"):
        load_multilabel_data(table(tmp_path, patient=[0, 1] * 20), holdout=0.25, group="doctor", **VIEW)


def test_a_source_with_a_val_of_its_own_is_not_split(tmp_path):
    spec = table(tmp_path, patient=[0, 1] * 20, split=["train"] * 30 + ["val"] * 10)
    data = load_multilabel_data(spec, holdout=0.25, **VIEW)
    assert (len(data.train), len(data.val), data.val.origin, data.holdout) == (30, 10, "source", 0.0)
    assert "group" not in data.record()


def test_arrays_are_split_in_memory(tmp_path):
    labels = tailed(60, 3).numpy()
    images = np.arange(60, dtype=np.uint8)[:, None, None] * np.ones((1, 4, 4), np.uint8)
    np.savez(tmp_path / "a.npz", train_images=images, train_labels=labels, train_groups=np.arange(60) // 2)
    data = load_multilabel_data(f"npz:{tmp_path / 'a.npz'}", holdout=0.2, mean=(0.5,), std=(0.5,))
    assert data.group == "given"
    batches = [batch for batch, _ in multilabel_loader(data.val, None)]
    assert torch.cat(batches)[:, 0, 0, 0].tolist() == data.val.indices.tolist()
    with pytest.raises(InputError, match=r"holdout must lie in \[0, 1\), got 1"):
        load_multilabel_data(f"npz:{tmp_path / 'a.npz'}", holdout=1)
