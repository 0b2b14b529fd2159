"""The leak: detected for a model that predicts a class because of its augmentation, and not for one that does not."""

import json
import math
from typing import Any

import pytest
import torch
from reference import leak as plain
from torch import nn
from torch.utils.data import DataLoader, Dataset, TensorDataset

import diversify as dv
from diversify.augment.leak import Leak, bounded, measure_leak
from diversify.errors import InputError
from diversify.functional import draws, image_ops, stats
from diversify.plan.plan import Plan
from diversify.plan.policies import ClassPlan, ImagePolicy

NAMES = "abcd"
COUNT = 200
LABELS = torch.arange(COUNT) % 4
TURNED = ImagePolicy(operations=("rotate",), strength=1.0, probability=0.3)
BRIGHTER = ImagePolicy(operations=("brightness",), strength=0.5, probability=0.3)


def images(count: int = COUNT) -> torch.Tensor:
    """`(N, 1, 8, 8)` uint8: the first column says the class, in steps of 50, and the corners are white."""
    pixels = torch.full((count, 1, 8, 8), 255, dtype=torch.uint8)
    pixels[:, :, 2:6, 2:6] = (10 + 50 * (torch.arange(count) % 4)).to(torch.uint8).view(-1, 1, 1, 1)
    return pixels


class ByCentre(nn.Module):
    """Reads the class off the middle of the image; a corner that is no longer white is class `fooled`, if it is one."""

    def __init__(self, fooled: int | None = None) -> None:
        super().__init__()
        self.fooled = fooled
        self.weight = nn.Parameter(torch.ones(1))
        self.dropout = nn.Dropout(0.9)

    def forward(self, batch: torch.Tensor) -> torch.Tensor:
        batch = batch.float()
        if batch.max() > 1:
            batch = batch / 255
        found = ((batch[:, 0, 3, 3] * 255 - 10) / 50).round().long().clamp(0, 3)
        if self.fooled is not None:
            found = torch.where(batch[:, 0, 0, 0] < 0.9, self.fooled, found)
        return self.dropout(nn.functional.one_hot(found, 4).float() * self.weight)


def plan_of(*policies: ImagePolicy, largest_difference: float = 1.0) -> Plan:
    classes = tuple(
        ClassPlan(name=name, count=50, draws=0.25, image=policy) for name, policy in zip(NAMES, policies, strict=True)
    )
    return Plan(classes=classes, largest_difference=largest_difference)


NONE = ImagePolicy()
HELDOUT = DataLoader(TensorDataset(images(), LABELS), batch_size=64)


def same(one: Leak, other: Leak) -> bool:
    columns = Leak._columns()
    return one.class_names == other.class_names and all(
        torch.equal(getattr(one, name).nan_to_num(-9), getattr(other, name).nan_to_num(-9)) for name in columns
    )


def test_a_model_that_takes_turned_images_for_a_class_leaks() -> None:
    leak = measure_leak(ByCentre(fooled=3), plan_of(NONE, NONE, NONE, TURNED), HELDOUT)
    assert leak.called_clean.tolist() == [0, 0, 0, 0]
    assert leak.called_varied.tolist() == [0, 0, 0, 1]
    assert leak.leak.tolist() == [0, 0, 0, 1]
    assert float(leak.leak_low[3]) > 0.9
    assert leak.largest == leak.largest_difference == 1
    assert leak.recall_clean.tolist() == leak.recall_varied.tolist() == [1, 1, 1, 1]


@pytest.mark.parametrize("total", [len(LABELS), None])
def test_progress_counts_images_of_all_where_their_number_is_known(total: int | None) -> None:
    seen: list[tuple[int, int | None]] = []
    heldout = HELDOUT if total else (batch for batch in HELDOUT)
    measure_leak(ByCentre(), plan_of(NONE, NONE, NONE, TURNED), heldout, progress=lambda *of: seen.append(of))
    assert seen[0] == (64, total)
    assert seen[-1] == (len(LABELS), total)


def test_a_model_that_ignores_turns_does_not_leak() -> None:
    leak = measure_leak(ByCentre(), plan_of(NONE, TURNED, NONE, TURNED), HELDOUT)
    assert leak.leak.tolist() == [0, 0, 0, 0]
    assert (leak.leak_low[[1, 3]] < 0).all()
    assert (leak.leak_high[[1, 3]] > 0).all()
    assert (leak.leak_high - leak.leak_low).max() < 0.06


def test_the_class_whose_policy_it_is_leaks_and_no_other() -> None:
    """Class b turns images too, and turned images are predicted as d: b's images are lost to d, which is no leak into b."""
    leak = measure_leak(ByCentre(fooled=3), plan_of(NONE, TURNED, NONE, TURNED), HELDOUT)
    assert leak.leak.tolist() == [0, 0, 0, 1]
    assert leak.recall_change.tolist() == [0, -1, 0, 0]
    assert float(leak.recall_change_high[1]) < -0.85


def test_a_class_without_a_policy_has_leak_0() -> None:
    nothing = (NONE, TURNED.model_copy(update={"strength": 0.0}), TURNED.model_copy(update={"probability": 0.0}))
    leak = measure_leak(ByCentre(fooled=0), plan_of(*nothing, TURNED), HELDOUT)
    for column in (leak.leak, leak.leak_low, leak.leak_high, leak.recall_change_low, leak.recall_change_high):
        assert column[:3].tolist() == [0, 0, 0]


class Half(ByCentre):
    """Predicts the class from one pixel, which is random in this test, so that shares lie between 0 and 1."""

    def forward(self, batch: torch.Tensor) -> torch.Tensor:
        found = (batch[:, 0, 2, 2].float() // 64).long().clamp(0, 3)
        return nn.functional.one_hot(found, 4).float()


@pytest.mark.parametrize("repeats", [1, 3])
def test_shares_and_intervals_are_those_of_plain_python(repeats: int) -> None:

    pixels = (
        draws.integers(256, "noise of the leak test", torch.arange(COUNT * 64)).view(COUNT, 1, 8, 8).to(torch.uint8)
    )
    model, plan = Half(), plan_of(NONE, BRIGHTER, NONE, TURNED)
    leak = measure_leak(model, plan, TensorDataset(pixels, LABELS), seed=5, repeats=repeats)
    clean = model(pixels).argmax(1).tolist()
    for number, policy in ((1, BRIGHTER), (3, TURNED)):
        views = []
        for repeat in range(repeats):
            draw = draws.uniform("leak draw", 5, repeat, torch.arange(COUNT)[:, None], torch.arange(1))
            strength = torch.full((COUNT,), policy.strength)
            views.append(
                model(image_ops.apply_operation(policy.operations[0], pixels, strength, draw[:, 0])).argmax(1).tolist()
            )
        for others, names in (
            (True, ("called_clean", "called_varied", "leak")),
            (False, ("recall_clean", "recall_varied", "recall_change")),
        ):
            rows = [row for row in range(COUNT) if (int(LABELS[row]) != number) == others]
            one = plain.share([clean[row] for row in rows], number)
            two = plain.share([view[row] for view in views for row in rows], number)
            for name, value in zip(names, (one, two, two - one), strict=True):
                assert float(getattr(leak, name)[number]) == pytest.approx(value, abs=1e-12)
            if repeats == 1:
                low, high = plain.newcombe([(clean[row] == number, views[0][row] == number) for row in rows])
                assert float(getattr(leak, f"{names[2]}_low")[number]) == pytest.approx(low, abs=1e-12)
                assert float(getattr(leak, f"{names[2]}_high")[number]) == pytest.approx(high, abs=1e-12)


def test_the_interval_of_a_paired_difference_covers_it() -> None:
    trials, units = 2000, 60
    shown = draws.uniform("paired", torch.arange(trials * units)).view(trials, units)
    first, second = (shown < 0.1), (shown > 0.05) & (shown < 0.25)  # 0.1 and 0.2, together 0.05
    columns = [each.sum(1) for each in (first, second, first & second)]
    low, high = stats.paired_difference_interval(*columns, torch.full((trials,), units))
    for row in range(20):
        pairs = list(zip(first[row].tolist(), second[row].tolist(), strict=True))
        assert (float(low[row]), float(high[row])) == pytest.approx(plain.newcombe(pairs), abs=1e-12)
    covered = ((low <= 0.1) & (high >= 0.1)).double().mean()
    assert 0.93 < float(covered) < 0.985
    never, always = torch.tensor([0, 50]), torch.tensor([50, 50])
    low, high = stats.paired_difference_interval(never, never, never, always)
    assert (high - low > 0.01).all()
    assert all(end.isnan().all() for end in stats.paired_difference_interval(*[torch.zeros(1)] * 4))


def test_absent_classes_are_nan() -> None:
    rows = LABELS == 2
    leak = measure_leak(ByCentre(), plan_of(TURNED, TURNED, TURNED, NONE), TensorDataset(images()[rows], LABELS[rows]))
    assert leak.count.tolist() == [0, 0, 50, 0]
    assert leak.count_others.tolist() == [50, 50, 0, 50]
    assert leak.leak.isnan().tolist() == leak.leak_low.isnan().tolist() == [False, False, True, False]
    assert leak.recall_change.isnan().tolist() == [True, True, False, True]
    again = Leak.from_dict(json.loads(json.dumps(leak.to_dict(), allow_nan=False)))
    assert same(again, leak)


def test_the_same_in_any_batches_and_precision_of_images() -> None:
    plan = plan_of(BRIGHTER, TURNED, NONE, TURNED)
    model = ByCentre(fooled=3)
    leak = measure_leak(model, plan, HELDOUT)
    assert same(leak, measure_leak(model, plan, TensorDataset(images(), LABELS)))
    assert same(leak, measure_leak(model, plan, DataLoader(HELDOUT.dataset, batch_size=7)))
    floats = TensorDataset(images().float() / 255, LABELS[:, None])
    assert same(leak, measure_leak(model, plan, floats))
    prepared = measure_leak(model, plan, HELDOUT, prepare=lambda batch: batch.float() / 255)
    assert same(leak, prepared)


class Drawing(Dataset[Any]):
    """A data set that draws from every global generator."""

    def __len__(self) -> int:
        return 8

    def __getitem__(self, index: int) -> tuple[torch.Tensor, int]:
        torch.rand(1)
        return images()[index], index % 4


def test_no_trace_is_left() -> None:
    model = ByCentre(fooled=3)
    model.dropout.eval()
    state, modes = torch.get_rng_state(), [module.training for module in model.modules()]
    loader = DataLoader(Drawing(), batch_size=4, shuffle=True)
    measure_leak(model, plan_of(NONE, NONE, NONE, TURNED), loader)
    with pytest.raises(IndexError):
        measure_leak(
            model,
            plan_of(NONE, NONE, NONE, TURNED),
            TensorDataset(images(), LABELS),
            prepare=lambda batch: batch[:, 0, 0],
        )
    assert torch.equal(torch.get_rng_state(), state)
    assert [module.training for module in model.modules()] == modes
    assert model.weight.grad is None
    assert all(not module._forward_hooks for module in model.modules())


# What is done about it


def leak_of(values: list[float], half: float = 0.01) -> Leak:
    column = torch.tensor(values, dtype=torch.float64)
    others = {name: torch.zeros(4, dtype=torch.float64) for name in Leak._columns()}
    others |= {"leak": column, "leak_low": column - half, "leak_high": column + half}
    return Leak(class_names=tuple(NAMES), **others)


def test_a_plan_is_weakened_where_it_leaks_beyond_the_limit() -> None:
    policy = ImagePolicy(operations=("rotate",), strength=0.8, probability=0.5)
    plan = plan_of(policy, policy, policy, policy)
    after = bounded(plan, leak_of([0.2, 0.055, math.nan, 0.04]), limit=0.05)
    assert [one.image.strength for one in after.classes] == pytest.approx([0.2, 0.8, 0.8, 0.8])
    assert [len(one.reasons) for one in after.classes] == [1, 0, 0, 0]
    reason = after.classes[0].reasons[0]
    assert (reason.rule, reason.value, reason.compared_with) == ("leak", pytest.approx(0.2), 0.05)
    assert reason.choice == "image strength 0.2 instead of 0.8"
    assert after.classes[1:] == plan.classes[1:]
    assert Plan.from_json(after.to_json()) == after
    assert bounded(plan, leak_of([0.0, 0.05, -0.3, 0.06]), limit=0.05) == plan


def test_the_difference_between_classes_stays_bounded() -> None:
    policy = ImagePolicy(operations=("rotate",), strength=0.8, probability=0.5)
    plan = plan_of(policy, policy, policy, policy, largest_difference=0.1)
    after = bounded(plan, leak_of([0.4, 0.0, 0.0, 0.0]), limit=0.05)
    assert [one.image.amount for one in after.classes] == pytest.approx([0.3, 0.4, 0.4, 0.4])
    every = bounded(plan, leak_of([0.4, 0.4, 0.4, 0.2]), limit=0.05)
    assert [one.image.amount for one in every.classes] == pytest.approx([0.05, 0.05, 0.05, 0.1])
    twice = policy.model_copy(update={"layers": 2})
    plan = plan_of(policy, policy, twice, twice, largest_difference=0.5)
    after = bounded(plan, leak_of([0.4, 0.0, 0.0, 0.0]), limit=0.05)
    assert [one.image.strength for one in after.classes] == pytest.approx([0.6, 0.8, 0.8, 0.8])  # 0.3, 0.5 below 0.8
    none = plan_of(NONE, policy, policy, policy)
    assert bounded(none, leak_of([0.4, 0.0, 0.0, 0.0])) == none


# Wrong input


class Twice(ByCentre):
    def forward(self, batch: torch.Tensor) -> torch.Tensor:
        return torch.cat([super().forward(batch)] * 2, dim=1)


WRONG: list[tuple[dict[str, Any], str]] = [
    (
        {"heldout": TensorDataset(images().float() - 1, LABELS)},
        "heldout images must be uint8, or float in [0, 1], got torch.float32 from 9 to 254; pass images before normalisation, and prepare=NORMALIZE",
    ),
    (
        {"heldout": TensorDataset(images(), LABELS + 1)},
        "labels of heldout must be classes of the plan, in [0, 3], got 4",
    ),
    ({"heldout": TensorDataset(images()[:0], LABELS[:0])}, "heldout must have at least one image, got 0"),
    ({"model": Twice()}, "model must return logits of shape (N, 4), one per class of the plan, got (64, 8)"),
    ({"repeats": 0}, "repeats must be at least 1, got 0"),
    ({"precision": "fp8"}, "precision must be one of fp32, bf16, auto, got 'fp8'"),
]


@pytest.mark.parametrize(("options", "message"), WRONG)
def test_wrong_input_is_one_clear_line(options: dict[str, Any], message: str) -> None:
    given = {"model": ByCentre(), "plan": plan_of(NONE, NONE, NONE, TURNED), "heldout": HELDOUT, **options}
    with pytest.raises(InputError) as caught:
        measure_leak(**given)
    assert str(caught.value) == message


def test_what_is_no_leak_is_refused() -> None:
    whole = leak_of([0.0] * 4)
    for change, message in (
        ({"schema_version": 2}, "leak must have schema_version 1, got 2"),
        ({"leak": [0.0]}, "leak of the leak must have shape (4,), got (1,)"),
        ({"leak_low": "x"}, "leak_low of the leak must be a list of numbers, got 'x'"),
        ({"class_names": None}, "class_names of the leak must be a list of names, got None"),
    ):
        with pytest.raises(InputError) as caught:
            Leak.from_dict({**whole.to_dict(), "count": [0] * 4, "count_others": [0] * 4, **change})
        assert str(caught.value) == message
    plan = plan_of(NONE, NONE, NONE, TURNED)
    with pytest.raises(InputError, match=r"^limit must lie in \(0, 1\], got 0$"):
        bounded(plan, whole, limit=0)
    other = plan.model_copy(update={"classes": plan.classes[::-1]})
    with pytest.raises(InputError, match=r"^leak must have the plan's classes, got a, b, c, d$"):
        bounded(other, whole)


def test_the_public_names() -> None:
    assert dv.measure_leak is measure_leak
    assert dv.Leak is Leak
