"""Two networks side by side: identities after a shared start or matched channels, and intervals that mean something."""

import json
import math

import pytest
import torch
from conftest import NAMES

from diversify.diagnosis.model_comparison import Model, ModelComparison, compare_models
from diversify.errors import InputError
from diversify.network.embeddings import Embeddings
from diversify.network.linear_head import LinearHead

Sides = tuple[Embeddings, Embeddings, LinearHead]


def model(sides: Sides, name: str = "first") -> Model:
    train, heldout, head = sides
    return Model(name=name, train=train, heldout=heldout, head=head)


def shuffled(sides: Sides, order: torch.Tensor) -> Model:
    """The same network with its channels in another order."""
    import dataclasses

    train, heldout, head = sides
    parts = [dataclasses.replace(side, features=side.features[:, order]) for side in (train, heldout)]
    return Model(
        name="shuffled", train=parts[0], heldout=parts[1], head=LinearHead(weight=head.weight[:, order], bias=head.bias)
    )


def test_there_and_back_through_json(sides: Sides) -> None:
    found = compare_models(model(sides), model(sides, "again"), class_names=NAMES, shared_start=True, top_k=5)
    record = json.loads(found.to_json())
    assert ModelComparison.from_dict(record).to_dict() == record
    for field, value, message in (
        ("schema_version", 2, "comparison must have schema_version 1, got 2"),
        ("top_k", 0, "top_k of the comparison must be at least 1, got 0"),
        ("top_k", 10**400, "top_k of the comparison must be "),
        ("classes", {"recall_first": [1.0]}, r"classes.recall_first of the comparison must have 10 numbers, got 1"),
    ):
        with pytest.raises(InputError, match=message):
            ModelComparison.from_dict({**record, field: value})


def test_a_network_beside_itself(sides: Sides) -> None:
    found = compare_models(model(sides), model(sides, "again"), class_names=NAMES, shared_start=True, top_k=5)
    assert found.columns["identity_overlap"].tolist() == [1.0] * 10
    assert found.columns["magnitude_ratio"].tolist() == pytest.approx([1.0] * 10)
    assert found.columns["recall_difference"].tolist() == [0.0] * 10
    low, high = (found.columns[f"recall_difference_{end}"] for end in ("low", "high"))
    assert bool(((low < 0) & (high > 0)).all()), "few images that all stay as they were settle nothing"
    wider = [found.columns["recall_first_high"] - found.columns["recall_first_low"]]
    assert bool((high - low < wider[0]).all()), "paired: no image differs"
    assert found.matched_by == "shared start"
    assert found.identity_chance == 5 / 16


def test_channels_in_another_order_are_found_again(sides: Sides) -> None:
    order = torch.tensor([5, 3, 0, 11, 7, 1, 15, 9, 2, 13, 4, 6, 8, 10, 12, 14])
    other = shuffled(sides, order)
    matched = compare_models(model(sides), other, top_k=5)
    assert matched.matched_by == "channels matched"
    assert matched.columns["identity_overlap"].tolist() == [1.0] * 10
    assert matched.columns["identity_overlap_high"].tolist() == [1.0] * 10
    assert bool((matched.columns["identity_overlap_low"] > 0.5).all())
    mistaken = compare_models(model(sides), other, top_k=5, shared_start=True)
    assert float(mistaken.columns["identity_overlap"].mean()) < 0.8
    for name in ("needed_first", "magnitude_first", "top_k_share_first"):
        twin = name.replace("first", "second")
        torch.testing.assert_close(matched.columns[name], matched.columns[twin], equal_nan=True)


def test_a_scaled_head_is_a_ratio_of_magnitudes(sides: Sides) -> None:
    train, heldout, head = sides
    scaled = Model(
        name="scaled", train=train, heldout=heldout, head=LinearHead(weight=3 * head.weight, bias=3 * head.bias)
    )
    found = compare_models(model(sides), scaled, shared_start=True, top_k=5)
    assert found.columns["magnitude_ratio"].tolist() == pytest.approx([3.0] * 10, rel=1e-5)
    assert found.columns["needed_first"].tolist() == found.columns["needed_second"].tolist()
    low, high = found.columns["magnitude_ratio_low"], found.columns["magnitude_ratio_high"]
    assert low.isnan().tolist() == high.isnan().tolist() == (train.labels.bincount() < 5).tolist()
    assert bool(((low <= 3) & (high >= 3) | low.isnan()).all())
    assert not math.isnan(float(low[0]))


def test_recall_differences_are_those_of_the_two_diagnoses(sides: Sides) -> None:
    train, heldout, head = sides
    worse = LinearHead(weight=head.weight, bias=head.bias + torch.eye(10)[0] * 3)
    found = compare_models(model(sides), Model(name="worse", train=train, heldout=heldout, head=worse), top_k=5)
    for c in range(10):
        rows = heldout.labels == c
        want = [float((one.logits(heldout.features).argmax(1) == c)[rows].double().mean()) for one in (head, worse)]
        assert float(found.columns["recall_difference"][c]) == pytest.approx(want[1] - want[0])
        assert (
            found.columns["recall_difference_low"][c] <= want[1] - want[0] <= found.columns["recall_difference_high"][c]
        )
    assert float(found.columns["recall_difference"][0]) > 0 > float(found.columns["recall_difference"].min())


def test_it_is_json(sides: Sides) -> None:
    found = compare_models(model(sides), model(sides, "again"), class_names=NAMES, shared_start=True, top_k=5)
    record = json.loads(found.to_json())
    assert record["class_names"] == list(NAMES)
    assert len(record["classes"]["identity_overlap"]) == 10


def test_messages(sides: Sides) -> None:
    train, heldout, head = sides
    narrow = Model(
        name="narrow",
        train=Embeddings(
            features=train.features[:, :8], labels=train.labels, logits=train.logits, indices=train.indices
        ),
        heldout=heldout,
        head=LinearHead(weight=head.weight[:, :8].contiguous(), bias=head.bias),
    )
    with pytest.raises(InputError, match="^features of both models must be as many, got 16 and 8$"):
        compare_models(model(sides), narrow)
    fewer = Model(name="fewer", train=train, heldout=heldout.select(torch.arange(200)), head=head)
    with pytest.raises(InputError, match="^held-out images of both models must be the same"):
        compare_models(model(sides), fewer)
    assert compare_models(model(sides), fewer, shared_start=True).matched_by == "shared start"
    with pytest.raises(InputError, match="^class_names must be one per class of the head, 10, got 1$"):
        compare_models(model(sides), model(sides), class_names=["a"])


def test_what_is_no_model_is_refused():
    with pytest.raises(InputError, match="a model to compare must be a Model, got dict"):
        compare_models({}, {})
