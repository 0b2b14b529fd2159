"""Which images of a pool are suggested, and how the suggestion is written."""

import csv
import dataclasses
import io
import json
from typing import Any

import numpy as np
import pytest
import torch

import diversify as dv
from diversify.functional.acquisition import METHODS


@pytest.fixture(scope="module")
def given() -> tuple[dv.Diagnosis, dv.Embeddings, dv.Embeddings, dv.LinearHead]:
    train, heldout, head = dv.make_embeddings((120, 60, 20), seed=1)
    return dv.diagnose(train, heldout, head=head, class_names=["cat", "dog", "owl"]), train, heldout, head


def pool_of(rows: int = 60, seed: int = 7) -> dv.Embeddings:
    train, _, head = dv.make_embeddings((rows // 3,) * 3, seed=seed)
    return dataclasses.replace(train, labels=torch.zeros_like(train.labels)).seen_by(head)


@pytest.mark.parametrize("method", [*METHODS, "balanced margin", "balanced random"])
def test_the_same_seed_suggests_the_same_images_and_labels_are_not_read(given: Any, method: str) -> None:
    diagnosis, train, _, head = given
    pool = pool_of()
    found = dv.suggest_images(diagnosis, train, pool, budget=12, method=method, head=head)
    assert len(set(found.indices.tolist())) == len(found) == 12
    other = dataclasses.replace(pool, labels=torch.full_like(pool.labels, 2))
    assert dv.suggest_images(diagnosis, train, other, budget=12, method=method, head=head) == found
    if "balanced" in method:
        shares = torch.bincount(torch.tensor([one.predicted for one in found.images]), minlength=3)
        assert int(shares.max()) <= max(4, 12 - int(shares.min()) * 2)


def test_rows_are_named_by_their_index_in_the_data_set(given: Any) -> None:
    diagnosis, train, _, head = given
    pool = pool_of()
    places = dataclasses.replace(pool, indices=pool.indices + 1000)
    plain = dv.suggest_images(diagnosis, train, pool, budget=5, head=head)
    moved = dv.suggest_images(diagnosis, train, places, budget=5, head=head)
    assert (moved.indices - 1000).tolist() == plain.indices.tolist() == [one.row for one in plain.images]


def test_near_copies_of_training_images_and_of_each_other_are_left_out(given: Any) -> None:
    diagnosis, train, _, head = given
    own = pool_of(30)
    parts = (own, train.select(torch.arange(10)), own)
    pool = dataclasses.replace(
        own,
        features=torch.cat([part.features for part in parts]),
        labels=torch.cat([part.labels for part in parts]),
        logits=torch.cat([part.logits for part in parts]),
        indices=torch.arange(70),
    )
    found = dv.suggest_images(diagnosis, train, pool, budget=70, method="random", head=head)
    rows = [one.row for one in found.images]
    assert found.copies >= 10
    assert not any(30 <= row < 40 for row in rows)
    assert len({row % 40 for row in rows}) == len(rows) <= 30
    assert "the others are near copies" in found.in_words()
    with pytest.raises(
        dv.InputError, match="pool must have images that are no near copies of training or held-out images, got none"
    ):
        dv.suggest_images(diagnosis, train, train, budget=1)


def test_near_copies_of_heldout_images_are_left_out_where_these_are_given(given: Any) -> None:
    """Training on them would spoil the validation set."""
    diagnosis, train, heldout, _ = given
    plain = dv.suggest_images(diagnosis, train, heldout, budget=5)
    assert plain.copies == 0
    with pytest.raises(dv.InputError, match="pool must have images that are no near copies"):
        dv.suggest_images(diagnosis, train, heldout, budget=5, heldout=heldout)


def test_a_group_gives_at_most_its_fair_share(given: Any) -> None:
    diagnosis, train, _, head = given
    pool = pool_of()
    groups = ["ann"] * 40 + ["bob"] * 10 + ["eve"] * 10
    found = dv.suggest_images(diagnosis, train, pool, budget=9, groups=groups, head=head)
    names = [groups[one.row] for one in found.images]
    assert {name: names.count(name) for name in ("ann", "bob", "eve")} == {"ann": 3, "bob": 3, "eve": 3}
    assert dv.suggest_images(diagnosis, train, pool.with_groups(groups), budget=9, head=head) == found


def test_a_label_is_worth_more_where_recall_is_lower(given: Any) -> None:
    diagnosis, train, _, head = given
    found = dv.suggest_images(diagnosis, train, pool_of(), budget=3, head=head)
    recall, rows = (diagnosis[name].tolist() for name in ("recall_heldout", "count_heldout"))
    usual = sum(recall) / 3
    need = [max(0.02, 1 - (n * r + 4 * usual) / (n + 4)) for r, n in zip(recall, rows, strict=True)]
    assert found.need == pytest.approx([3 * each / sum(need) for each in need])
    assert dv.suggest_images(None, train, pool_of(), budget=3, head=head).need == (1.0, 1.0, 1.0)
    few = {"recall_heldout": [0.5, torch.nan, 0.9], "count_heldout": [4, 0, 4]}
    columns = diagnosis.columns | {name: torch.tensor(values).double() for name, values in few.items()}
    unknown = dataclasses.replace(diagnosis, columns=columns)
    need = dv.suggest_images(unknown, train, pool_of(), budget=3, head=head).need
    assert need == pytest.approx((4 / 3, 1.0, 2 / 3))  # 0.4, 0.3 and 0.2


def test_probabilities_are_those_of_equally_frequent_classes(given: Any) -> None:
    diagnosis, train, heldout, head = given
    pool = pool_of()
    found = dv.suggest_images(diagnosis, train, pool, budget=60, method="margin", head=head)
    logits = head.logits(pool.features).double() - torch.tensor([0.6, 0.3, 0.1]).double().log()
    for one in found.images:
        expected = logits[one.row].softmax(0)
        assert one.predicted == int(expected.argmax())
        assert one.probability == pytest.approx(float(expected.max()), abs=1e-5)
    balanced = dv.LinearHead(weight=3 * head.weight, bias=3 * (head.bias - torch.tensor([0.6, 0.3, 0.1]).log()))
    again = dv.suggest_images(diagnosis, train, pool, budget=60, method="margin", head=balanced, heldout=heldout)
    plain = dv.suggest_images(diagnosis, train, pool, budget=60, method="margin", head=head, heldout=heldout)
    same = [
        a.predicted == b.predicted
        for a, b in zip(*(sorted(s.images, key=lambda o: o.row) for s in (again, plain)), strict=True)
    ]
    assert sum(same) >= 0.9 * len(same)  # held-out images show that this head favours no class


def test_the_suggestion_is_written_as_json_csv_and_a_data_frame(given: Any) -> None:
    diagnosis, train, _, head = given
    found = dv.suggest_images(diagnosis, train, pool_of(), budget=4, head=head)
    named = found.with_names([f"a, {row}.png" for row in range(60)])
    lines = list(csv.DictReader(io.StringIO(named.to_csv())))
    assert [line["path"] for line in lines] == [f"a, {one.row}.png" for one in found.images]
    assert [int(line["index"]) for line in lines] == found.indices.tolist()
    assert json.loads(named.to_json())["images"][0]["name"] == lines[0]["path"]
    assert list(named.to_dataframe()["predicted_class"]) == [one.predicted_class for one in found.images]
    with pytest.raises(dv.InputError, match="names must be one per row of the pool, 60, got 1"):
        found.with_names(["a"])


def test_classes_without_two_rows_or_without_any_are_taken(given: Any) -> None:
    """Nothing says there how near near copies lie, so only equal rows are copies."""
    _, train, heldout, head = given
    one_each = train.select(torch.tensor([int((train.labels == c).nonzero()[0, 0]) for c in range(3)]))
    pool = pool_of(30)
    doubled = pool.select(torch.arange(60) % 30)
    found = dv.suggest_images(None, one_each, doubled, budget=60, head=head)
    assert len(found) == 30
    without = train.select(train.labels != 2)
    diagnosis = dv.diagnose(without, heldout, head=head)
    assert len(dv.suggest_images(diagnosis, without, pool, budget=np.int64(5), head=head, heldout=heldout)) == 5
    zeros = dataclasses.replace(pool, features=torch.zeros_like(pool.features))
    assert len(dv.suggest_images(None, train, zeros, budget=5)) == 5  # rows of zeros say nothing about each other


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"budget": 0}, r"budget must be an integer in \[1, 60\], the number of images in the pool, got 0"),
        ({"budget": 61}, r"budget must be an integer in \[1, 60\]"),
        ({"budget": 2.0}, r"budget must be an integer in \[1, 60\].*got 2.0"),
        ({"seed": -1}, "seed must be an integer of at least 0, got -1"),
        ({"method": "margins"}, "method must be one of random, margin.*did you mean 'margin'"),
        ({"groups": [1, 2]}, "groups must be one value per row, 60, got 2"),
        (
            {"head": dv.LinearHead(weight=torch.ones(2, 16), bias=torch.zeros(2))},
            "head must have the 16 features and 3",
        ),
        ({"heldout": 3}, "heldout must be Embeddings, got int; extract makes them of a model and a loader"),
    ],
)
def test_what_does_not_fit_is_refused(given: Any, change: dict[str, Any], message: str) -> None:
    diagnosis, train, _, _ = given
    with pytest.raises(dv.InputError, match=message):
        dv.suggest_images(diagnosis, train, pool_of(), **({"budget": 3} | change))


def test_a_diagnosis_on_test_or_of_other_classes_is_refused(given: Any) -> None:
    diagnosis, train, heldout, head = given
    on_test = dv.diagnose(train, heldout, head=head, heldout_split="test")
    with pytest.raises(dv.InputError, match="diagnosis must be made on the validation set to choose images by"):
        dv.suggest_images(on_test, train, pool_of(), budget=3)
    four, _, _ = dv.make_embeddings((9, 9, 9, 9))
    with pytest.raises(dv.InputError, match="diagnosis must have the 4 classes of the training rows, got 3"):
        dv.suggest_images(diagnosis, four, four, budget=3)
    with pytest.raises(dv.InputError, match="pool must have the 3 classes of the training rows, got 4"):
        dv.suggest_images(diagnosis, train, four, budget=3)
