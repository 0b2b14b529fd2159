"""Captured steps read their rows from fixed buffers; a stand-in for the graph runs each step where it would be replayed."""

import dataclasses
from typing import Any, ClassVar

import pytest
import torch
from test_resident import RECIPE, VIEW, images, mixing, parts, plan

from diversify.errors import InputError
from diversify.network.networks import build_model
from diversify.training import resident
from diversify.training.ingredients import Ingredients
from diversify.training.losses import Deferred, Focal
from diversify.training.resident import ResidentImages, build_optimizer, fit_resident


class Replayed:
    """What a captured graph does at each replay."""

    captured: ClassVar[list[tuple[Any, int]]] = []

    def __init__(self, step: Any, criterion: Any, rows: int) -> None:
        self.step, self.criterion, self.rows = step, criterion, rows
        self.captured.append((criterion, rows))

    def replay(self) -> None:
        self.step.step_in_place(self.criterion, self.rows)


@pytest.fixture(autouse=True)
def stand_in(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(Replayed, "captured", [])
    monkeypatch.setattr(
        resident._Captured, "capture", lambda *given: Replayed(*given)
    )  # a function is bound, a class not
    monkeypatch.setattr(resident, "_CHUNK_ON_CPU", 16)  # two batches at a time, and a short one at the end


def both(ingredients: Any = lambda data: None, **changes: Any) -> tuple[list[Any], list[Any]]:
    """Records and weights of eager and of captured steps."""
    found = []
    for captured in (False, True):
        data, model = images(), build_model("small_cnn", 3, channels=1, seed=1)
        recipe = dataclasses.replace(RECIPE, **changes)
        options = {"recipe": recipe, "num_classes": 3, "ingredients": ingredients(data), "captured": captured}
        records = list(fit_resident(model, data, prepare=VIEW.normalize, **options))
        found.append([[(one.loss, one.accuracy_train, one.images) for one in records], model.state_dict()])
    return found[0], found[1]


def assert_same(one: list[Any], other: list[Any]) -> None:
    for first, second in zip(one[0], other[0], strict=True):
        assert first[0] == pytest.approx(second[0], rel=1e-4)
        assert first[1:] == second[1:]
    for name, value in one[1].items():
        torch.testing.assert_close(other[1][name], value, rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize("optimizer", ["sgd", "adamw"])
def test_captured_steps_are_eager_ones(optimizer: str) -> None:
    changes = {"learning_rate": 0.01} if optimizer == "adamw" else {}
    assert_same(*both(optimizer=optimizer, **changes))
    assert [rows for _, rows in Replayed.captured] == [8, 1]  # one graph for full batches, one for the last row of 33


def test_mixed_targets_are_copied_too() -> None:
    assert_same(*both(lambda data: parts(mixing(plan()), data, pool=True)))


def test_a_loss_that_changes_gets_a_graph_of_its_own() -> None:
    late = Deferred(Focal(gamma=0.0), Focal(gamma=2.0), start_epoch=1)
    assert_same(*both(lambda _: Ingredients(criterion=late)))
    losses = [criterion for criterion, _ in Replayed.captured]
    assert len(losses) == 4
    assert losses[0] is losses[1] is late.first
    assert losses[2] is losses[3] is late.then


@pytest.mark.parametrize("optimizer", ["sgd", "adamw"])
def test_the_learning_rate_of_captured_steps_is_a_tensor(optimizer: str) -> None:
    model = torch.nn.Linear(2, 2)
    recipe = dataclasses.replace(RECIPE, optimizer=optimizer, learning_rate=0.5)
    (group,) = build_optimizer(recipe, model, captured=True).param_groups
    assert isinstance(group["lr"], torch.Tensor)
    assert (float(group["lr"]), group["weight_decay"]) == (0.5, recipe.weight_decay)


def test_everything_that_a_step_changes_is_kept() -> None:
    """After three steps on other rows, restoring it gives the weights, statistics and momentum of before."""
    data, model = images(), build_model("small_cnn", 3, channels=1, seed=1)
    optimizer = build_optimizer(RECIPE, model, captured=True)
    step = resident._Captured(model, optimizer, RECIPE, 3, torch.device("cpu"))
    model.train()
    step.begin(0.1)
    step.hold((data.images[:16] / 255).permute(0, 2, 3, 1), data.labels[:16])
    step.step_in_place(torch.nn.functional.cross_entropy, 8)
    before = {name: value.clone() for name, value in step.everything().items()}
    assert {"totals", "place", "predicted"} <= set(before)
    assert any("momentum" in name for name in before)
    step.step_in_place(torch.nn.functional.cross_entropy, 8)
    after = step.everything()
    changed = {name for name in before if not torch.equal(before[name], after[name])}
    trained = {f"model.{name}" for name, value in model.named_parameters() if value.requires_grad}
    assert trained <= changed
    assert {"totals", "place"} <= changed
    for name, value in after.items():
        value.copy_(before[name])
    assert int(step.place) == 8
    assert torch.equal(
        model.state_dict()[next(iter(model.state_dict()))], before[f"model.{next(iter(model.state_dict()))}"]
    )


@pytest.mark.parametrize(
    ("pixels", "labels", "message"),
    [
        (torch.zeros(2, 8, 8), torch.zeros(2), r"images must be \(N, C, H, W\), uint8 or floating point"),
        (torch.zeros(2, 1, 8, 8, dtype=torch.int64), torch.zeros(2), "images must be .* got torch.int64"),
        (torch.zeros(2, 1, 8, 8), torch.zeros(3), r"labels must be 2, one per image, got \(3,\)"),
        (torch.zeros(0, 1, 8, 8), torch.zeros(0), "images must be one at least, got 0"),
    ],
)
def test_images_of_another_form_are_refused(pixels: torch.Tensor, labels: torch.Tensor, message: str) -> None:
    with pytest.raises(InputError, match=message):
        ResidentImages(images=pixels, labels=labels)


def test_a_negative_label_is_no_class() -> None:
    data = dataclasses.replace(images(), labels=images().labels - 1)
    with pytest.raises(InputError, match=r"labels must lie in \[0, 2\], got -1"):
        next(fit_resident(build_model("small_cnn", 3, channels=1), data, recipe=RECIPE, num_classes=3))
