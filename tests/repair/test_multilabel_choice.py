"""The choice of a head for several labels: what is recommended, thresholds, its JSON form, refusals."""

import dataclasses
import json

import pytest
import torch
from reference.compare import same

import diversify as dv
from diversify.errors import InputError
from diversify.repair.multilabel_choice import MultilabelChoice


@pytest.fixture(scope="module")
def sides():
    return dv.make_multilabel_embeddings(images=300, heldout=200)


def test_a_head_that_ranks_well_stays_and_gets_the_thresholds_of_the_repair(sides):
    train, heldout, head = sides
    choice = dv.choose_multilabel_head(train, heldout, head, steps=15)
    alone = dv.repair_multilabel(train, head, heldout=heldout)
    assert choice.recommended == 0
    assert torch.equal(choice.thresholds, alone.thresholds)
    assert same(choice.f1[0].tolist(), alone.f1_after.tolist())
    assert float(choice.gain_low[0]) == float(choice.gain_high[0]) == 0
    assert "The head stays as it is" in choice.in_words()


def test_a_spoiled_head_is_retrained(sides):
    train, heldout, head = sides
    spoiled = dataclasses.replace(head, weight=head.weight.roll(1, 0).contiguous())
    train, heldout = train.seen_by(spoiled), heldout.seen_by(spoiled)
    choice = dv.choose_multilabel_head(train, heldout, spoiled, steps=30)
    assert choice.recommended > 0
    assert float(choice.gain_low[choice.recommended]) > 0
    assert "Retrain the head with" in choice.in_words()
    assert choice.repair is not None
    assert not torch.equal(choice.repair.head.weight, spoiled.weight)


def test_a_head_without_a_bias_is_repaired_without_one(sides):
    train, heldout, head = sides
    bare = dataclasses.replace(head, bias=torch.zeros_like(head.bias), has_bias=False)
    loss = dv.MultilabelCrossEntropy()
    made = dv.repair_multilabel(train, bare, heldout=heldout, loss=loss, steps=10)
    assert not made.head.bias.any()
    assert not torch.equal(made.head.weight, bare.weight)
    with pytest.raises(InputError, match="prior must be keep for a head without a bias"):
        dv.repair_multilabel(train, bare, heldout=heldout, prior="remove")


def test_json_keeps_the_numbers_and_damage_is_refused(sides):
    train, heldout, head = sides
    choice = dv.choose_multilabel_head(train, heldout, head, losses={})
    record = json.loads(json.dumps(choice.to_dict()))
    again = MultilabelChoice.from_dict(record)
    assert again.to_dict() == record
    assert again.repair is None
    for change, message in (
        ({"gain": [0.0, 1.0]}, "gain of the choice must be numbers of shape"),
        ({"f1": [[0.1], [0.2, 0.3]]}, "f1 of the choice"),
        ({"names": None}, "names of the choice must be a list"),
    ):
        with pytest.raises(InputError, match=message):
            MultilabelChoice.from_dict(record | change)
