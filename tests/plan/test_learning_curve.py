"""How many labels a class needs: curves from held-out images that no head learned from."""

import dataclasses
import json
import math
from typing import Any

import pytest
import torch

import diversify as dv
from diversify.functional.ceiling import balanced_head, head_scores
from diversify.plan.learning_curve import FOLDS, SHARES, _Fits


@pytest.fixture(scope="module")
def sides() -> tuple[dv.Embeddings, dv.Embeddings, dv.LinearHead]:
    return dv.make_embeddings((60, 30, 6), heldout=24, num_features=6, spread=1.0)


@pytest.fixture(scope="module")
def found(sides: Any) -> dv.LearningCurve:
    return dv.learning_curve(*sides, more=[40, 10], class_names=["cat", "dog", "owl"])


def test_a_curve_has_a_forecast_for_each_class_and_number(found: dv.LearningCurve) -> None:
    assert found.class_names == ("cat", "dog", "owl")
    assert found.more.tolist() == [10, 40]
    assert found.count.tolist() == [60, 30, 6]
    assert found.added.tolist() == [[4, 9, 18]] * 3
    assert bool((found.forecast_low < found.forecast).all())
    assert bool((found.forecast < found.forecast_high).all())
    assert bool((found.forecast[:, 1] > found.forecast[:, 0]).all())
    assert found.notes == ()


def test_the_recall_now_is_that_of_the_balanced_head(sides: Any, found: dv.LearningCurve) -> None:
    train, heldout, head = sides
    scale, centre = torch.std_mean(train.features, dim=0, correction=0)
    fitted = balanced_head((train.features - centre) / scale, train.labels)
    right = head_scores((heldout.features - centre) / scale, fitted).argmax(1) == heldout.labels
    assert found.recall.tolist() == pytest.approx([float(right[heldout.labels == c].double().mean()) for c in range(3)])
    own = head.logits(heldout.features).argmax(1) == heldout.labels
    assert found.recall_head.tolist() == pytest.approx(
        [float(own[heldout.labels == c].double().mean()) for c in range(3)]
    )


def test_no_image_is_judged_by_a_head_that_learned_from_it(sides: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    train, heldout, _ = sides
    seen: list[tuple[Any, Any]] = []
    plain = _Fits.hits

    def noted(self: Any, c: int, judged: torch.Tensor, new: torch.Tensor | None = None) -> torch.Tensor:
        if new is not None:
            seen.append(({tuple(row) for row in judged.tolist()}, {tuple(row) for row in new.tolist()}))
        return plain(self, c, judged, new)

    monkeypatch.setattr(_Fits, "hits", noted)
    grouped = dataclasses.replace(heldout, groups=torch.arange(len(heldout)) // 2)
    dv.learning_curve(train, grouped, classes=[2])
    assert len(seen) == FOLDS * len(SHARES)
    pairs = {
        tuple(row): group for row, group in zip(_scaled(train, heldout).tolist(), grouped.groups.tolist(), strict=True)
    }
    for judged, new in seen:
        assert not {pairs[row] for row in judged} & {pairs[row] for row in new}


def _scaled(train: dv.Embeddings, side: dv.Embeddings) -> torch.Tensor:
    scale, centre = torch.std_mean(train.features, dim=0, correction=0)
    return (side.features - centre) / scale


def test_it_is_the_same_again_and_tells_of_each_fit(sides: Any, found: dv.LearningCurve) -> None:
    steps: list[tuple[int, int | None]] = []
    again = dv.learning_curve(
        *sides, more=[40, 10], class_names=["cat", "dog", "owl"], progress=lambda *step: steps.append(step)
    )
    assert again.to_dict() == found.to_dict()
    assert steps[-1] == (36, 36)


def test_what_the_heldout_images_do_not_carry_has_no_forecast(sides: Any) -> None:
    train, heldout, head = sides
    kept = (heldout.labels != 1) | (torch.arange(len(heldout)) < 35)  # 11 of class 1
    no_owl = train.select(train.labels != 2)
    few = dv.learning_curve(no_owl, heldout.select(kept), head, more=[10, 1000])
    assert few.forecast.isnan().tolist() == [[False, True], [True, True], [True, True]]
    assert few.notes == (
        "no forecast for more than 90 new images of class 0",
        "no forecast for class 1: it has 11 held-out images, fewer than 12",
        "no forecast for class 2: it has no training images",
    )
    assert few.sentences()[0].startswith("10 more images of class 0: recall ")
    assert len(few.sentences()) == 1
    none = dv.learning_curve(no_owl, heldout, classes=[2])
    assert none.in_words() == "no forecast for class 2: it has no training images"
    assert none.recall.tolist() == [0.0]
    absent = dv.learning_curve(train, heldout.select(heldout.labels != 2), classes=[2])
    assert math.isnan(float(absent.recall[0]))
    assert math.isnan(float(absent.recall_low[0]))


def test_json_has_no_nan(sides: Any) -> None:
    train, heldout, _ = sides
    record = dv.learning_curve(train, heldout.select(heldout.labels != 2), more=[5]).to_dict()
    text = json.dumps(record, allow_nan=False)
    assert json.loads(text)["forecast"][2] == [None]
    assert len(record["text"]) == 2


@pytest.mark.parametrize(
    ("changed", "message"),
    [
        ({"more": []}, "more must name at least one number of new images, got none"),
        ({"more": [0]}, "more must be integers of at least 1, got 0"),
        ({"more": [2.5]}, "more must be integers of at least 1, got 2.5"),
        ({"classes": [3]}, r"classes must be integers in \[0, 2\], got 3"),
        ({"classes": [1, 1]}, r"classes must be different classes, at least one, got \[1, 1\]"),
        ({"class_names": ["a"]}, "class_names must be one per class, 3, got 1"),
        ({"seed": -1}, "seed must be an integer of at least 0, got -1"),
        ({"more": 40}, r"more must be a list of integers, got 40; write more=\[40\]"),
    ],
)
def test_wrong_arguments_are_refused(sides: Any, changed: dict[str, Any], message: str) -> None:
    with pytest.raises(dv.InputError, match=message):
        dv.learning_curve(*sides, **changed)


def test_sides_that_do_not_fit_are_refused(sides: Any) -> None:
    train, heldout, _ = sides
    other, _, wide = dv.make_embeddings((5, 5, 5), num_features=7)
    with pytest.raises(dv.InputError, match="heldout must have the 6 features of the training rows, got 7"):
        dv.learning_curve(train, other)
    with pytest.raises(
        dv.InputError, match="head must have the 6 features and 3 classes of the training rows, got 7 and 3"
    ):
        dv.learning_curve(train, heldout, wide)
    with pytest.raises(dv.InputError, match="train must have rows of at least 2 classes, got 1"):
        dv.learning_curve(train.select(train.labels == 0), heldout)
    with pytest.raises(dv.InputError, match="heldout must be Embeddings, got ndarray"):
        dv.learning_curve(train, heldout.features.numpy())  # type: ignore[arg-type]
    two, unseen, _ = dv.make_embeddings((20, 8), heldout=16, num_features=4)
    assert dv.learning_curve(two, unseen).forecast.shape == (2, 3)
