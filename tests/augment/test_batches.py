"""BatchAugmenter: images follow their class's plan, draws depend on the key alone, and an empty plan changes nothing."""

import subprocess
import sys
from pathlib import Path

import pytest
import torch
from torch._subclasses.fake_tensor import DynamicOutputShapeException, FakeTensorMode

import diversify as dv
from diversify.augment.batches import BatchAugmenter, show_policy
from diversify.errors import InputError
from diversify.functional import draws, image_ops
from diversify.functional import mixing as functional_mixing
from diversify.functional.image_ops import OPERATIONS
from diversify.plan.plan import Plan
from diversify.plan.policies import ClassPlan, ImagePolicy, Mixing, Schedule

NAMES = ("ant", "bee", "cat")
COUNTS = (90, 9, 1)
LIGHT = ImagePolicy(operations=("brightness", "invert"), layers=1, strength=0.8, probability=0.5)
HEAVY = ImagePolicy(operations=OPERATIONS, layers=3, strength=0.8, probability=0.8)
NOTHING = (ImagePolicy(),) * 3
GRADED = (ImagePolicy(), LIGHT, HEAVY)
NO_MIXING = (Mixing(),) * 3


def plan_of(policies=GRADED, mixings=NO_MIXING, names=NAMES, counts=COUNTS, **rest):
    classes = tuple(
        ClassPlan(name=name, count=count, draws=count / sum(counts), image=policy, mixing=mixing)
        for name, count, policy, mixing in zip(names, counts, policies, mixings, strict=True)
    )
    return Plan(classes=classes, largest_difference=1.0, **rest)


def mixing_plan(method="cutmix", probability=1.0, partner=(1.0, 1.0, 1.0), policies=NOTHING, **rest):
    mixings = tuple(Mixing(method=method, probability=probability, partner=weight) for weight in partner)
    return plan_of(policies, mixings, **rest)


def batch(count=60, dtype=torch.uint8, height=8, width=10, name="pixels"):
    pixels = 1 + draws.integers(200, name, torch.arange(count * 3 * height * width))
    images = pixels.view(count, 3, height, width)
    images = images.to(torch.uint8) if dtype == torch.uint8 else (images / 255).to(dtype)
    return images, draws.integers(3, name, "targets", torch.arange(count))


def key_of(count=60, seed=1, epoch=2, step=3, first=0):
    return dv.DrawKey(seed=seed, epoch=epoch, step=step, indices=torch.arange(first, first + count) * 7)


def touched(before, after):
    return (before != after).flatten(1).any(1)


def test_the_public_names():
    assert dv.BatchAugmenter is BatchAugmenter
    assert dv.DrawKey(seed=0, epoch=0, step=0, indices=torch.arange(1))


@pytest.mark.parametrize("dtype", [torch.uint8, torch.float32, torch.bfloat16])
@pytest.mark.parametrize("pooled", [False, True])
def test_dtype_shape_and_classes_are_kept(dtype, pooled):
    images, targets = batch(dtype=dtype)
    plan = mixing_plan(policies=GRADED)
    pool = batch(30, name="pool") if pooled else None
    augment = BatchAugmenter(plan, pool=pool, base=dv.CropFlip(padding=2, mirror=True))
    made, soft = augment(images, targets, key_of())
    assert made.dtype == dtype
    assert made.shape == images.shape
    assert made.double().isfinite().all()
    assert made.max() <= (255 if dtype == torch.uint8 else 1)
    assert soft.dtype == torch.float32
    assert soft.shape == (60, 3)
    torch.testing.assert_close(soft.sum(1), torch.ones(60))
    assert touched(images, made).all()
    assert not torch.equal(soft.argmax(1), targets)


def test_in_eval_and_by_an_untouched_plan_what_comes_in_goes_out():
    images, targets = batch()
    augment = BatchAugmenter(mixing_plan(policies=(HEAVY,) * 3), base=dv.CropFlip(padding=2, mirror=True)).eval()
    made, same = augment(images, targets, key_of())
    assert made is images
    assert same is targets
    made, same = BatchAugmenter(Plan.untouched(NAMES, COUNTS))(images, targets, key_of())
    assert torch.equal(made, images)
    assert same is targets


def test_each_class_is_varied_by_its_own_policy_as_often_as_planned():
    images, targets = batch(6000, height=4, width=5)
    made, same = BatchAugmenter(plan_of())(images, targets, key_of(6000))
    assert same is targets
    changed = touched(images, made)
    assert not changed[targets == 0].any()
    assert float(changed[targets == 1].float().mean()) == pytest.approx(
        0.5, abs=0.04 + 0.5 * 0.2 / 2
    )  # invert: a chance
    assert float(changed[targets == 2].float().mean()) == pytest.approx(0.8, abs=0.04)
    for image, varied in zip(images[targets == 1], made[targets == 1], strict=True):
        ratio = varied.double() / image.double()
        brighter = ratio.max() - ratio.min() < 0.6 and not torch.equal(varied, 255 - image)
        assert brighter or torch.equal(varied, 255 - image) or varied.max() == 255


def test_operations_of_a_class_are_drawn_evenly():
    policy = ImagePolicy(operations=("flip", "invert", "solarize"), strength=1.0, probability=0.9)
    images, targets = batch(4000, height=3, width=4)
    targets = torch.zeros_like(targets)
    made, _ = BatchAugmenter(plan_of((policy, ImagePolicy(), ImagePolicy())))(images, targets, key_of(4000))
    negative = (made == 255 - images).flatten(1).all(1).float().mean()  # invert and, at strength 1, solarize
    mirrored = (made == images.flip(-1)).flatten(1).all(1).float().mean()  # half of the flips
    assert float(negative) == pytest.approx(0.9 * 2 / 3, abs=0.03)
    assert float(mirrored) == pytest.approx(0.9 / 6, abs=0.03)


def test_an_image_that_is_drawn_again_is_varied_anew():
    images, _ = batch(1, dtype=torch.float32)
    images, targets = images.expand(50, -1, -1, -1), torch.full((50,), 2)
    indices, occurrences = torch.full((50,), 9), torch.arange(50)
    policy = ImagePolicy(operations=OPERATIONS, layers=4, strength=0.8, probability=0.5)
    augment = BatchAugmenter(plan_of((policy,) * 3))
    keys = [
        dv.DrawKey(seed=1, epoch=2, step=3, indices=indices, occurrences=one)
        for one in (None, torch.zeros_like(indices), occurrences)
    ]
    alike, first, views = (augment(images, targets, key)[0] for key in keys)
    assert torch.equal(alike, first)
    assert torch.equal(views[0], first[0])
    varied = views[touched(images, views)]
    assert 12 < len(varied) < 38
    assert len({tuple(view.flatten().tolist()) for view in varied}) > 0.9 * len(varied)
    order = torch.tensor([31, 4, 17])
    part = dv.DrawKey(seed=1, epoch=2, step=8, indices=indices[order], occurrences=occurrences[order])
    assert torch.equal(augment(images[order], targets[order], part)[0], views[order])


@pytest.mark.parametrize("dtype", [torch.uint8, torch.float32])
def test_policies_depend_on_seed_epoch_and_index_alone(dtype):
    images, targets = batch(dtype=dtype)
    augment = BatchAugmenter(plan_of(), base=dv.CropFlip(padding=2, mirror=True))
    whole, _ = augment(images, targets, key_of())
    for size in (1, 13):
        for start in range(0, 60, size):
            rows = slice(start, start + size)
            key = dv.DrawKey(seed=1, epoch=2, step=99, indices=key_of().indices[rows])
            assert torch.equal(augment(images[rows], targets[rows], key)[0], whole[rows])
    for other in (key_of(seed=5), key_of(epoch=5), key_of(first=1)):
        assert not torch.equal(augment(images, targets, other)[0], whole)


def test_mixing_depends_on_seed_epoch_step_and_row():
    images, targets = batch()
    augment = BatchAugmenter(mixing_plan("mixup"), pool=batch(30, name="pool"))
    whole, soft = augment(images, targets, key_of())
    again, same = augment(images, targets, key_of(first=500))  # other indices
    assert torch.equal(again, whole)
    assert torch.equal(same, soft)
    for other in (key_of(seed=5), key_of(epoch=5), key_of(step=5)):
        assert not torch.equal(augment(images, targets, other)[0], whole)


def test_without_a_key_it_counts_its_own_steps():
    images, targets = batch()
    plan = mixing_plan(probability=0.5, policies=(HEAVY,) * 3)
    augment, other = BatchAugmenter(plan, seed=4), BatchAugmenter(plan, seed=5)
    first, second = augment(images, targets)[0], augment(images, targets)[0]
    assert not torch.equal(first, second)
    assert not torch.equal(first, other(images, targets)[0])
    augment.set_epoch(1)
    assert not torch.equal(augment(images, targets)[0], first)
    augment.set_epoch(0)
    assert torch.equal(augment(images, targets)[0], first)
    assert torch.equal(augment(images, targets)[0], second)


@pytest.mark.parametrize("dtype", [torch.uint8, torch.int16, torch.int32])
@pytest.mark.parametrize("count", [3, 60])  # with as many rows as classes a mask would fit
def test_targets_of_any_integer_type_are_class_indices(dtype, count):
    images, targets = batch(count)
    for plan in (plan_of(), mixing_plan(policies=GRADED)):
        wanted = BatchAugmenter(plan)(images, targets, key_of(count))
        made = BatchAugmenter(plan)(images, targets.to(dtype), key_of(count))
        assert torch.equal(made[0], wanted[0])
        assert torch.equal(made[1], wanted[1] if wanted[1].is_floating_point() else targets.to(dtype))


def test_normalised_floats_may_be_mixed_where_none_is_varied():
    images, targets = batch(dtype=torch.float32)
    made, _ = BatchAugmenter(mixing_plan("mixup"))(images * 4 - 2, targets, key_of())
    assert made.min() < 0


def test_the_schedule_scales_probability_and_strength():
    images, targets = batch(600)
    plan = mixing_plan(policies=(HEAVY,) * 3, schedule=Schedule(start=0.2, ramp=0.4, stop=0.8))
    augment = BatchAugmenter(plan)
    shares = []
    for epoch in range(10):
        augment.set_epoch(epoch, 10)
        made, soft = augment(images, targets, key_of(600))
        assert soft.shape == (600, 3)
        shares.append(float(touched(images, made).float().mean()))
        if not augment.factor:
            assert torch.equal(soft.argmax(1), targets)
            assert torch.equal(soft.amax(1), torch.ones(600))
    assert shares[:2] == [0, 0] == shares[8:]
    assert 0 < shares[2] < shares[3] < shares[4] < shares[5]
    augment.set_epoch(0)
    assert augment.factor == 1


def test_mixing_is_as_frequent_as_planned_and_only_for_the_classes_planned():
    images, targets = batch(3000, height=4, width=4)
    mixings = (Mixing(), Mixing(method="mixup", probability=0.3), Mixing(method="mixup", probability=1.0))
    made, soft = BatchAugmenter(plan_of(NOTHING, mixings))(images, targets, key_of(3000))
    changed = touched(images, made)
    assert not changed[targets == 0].any()
    assert torch.equal(soft[targets == 0], torch.nn.functional.one_hot(targets[targets == 0], 3).float())
    assert float(changed[targets == 1].float().mean()) == pytest.approx(0.3, abs=0.04)
    assert float(changed[targets == 2].float().mean()) > 0.98


def class_pool(counts=(400, 40, 4)):
    """Images that show their class: every value is 50 x (class + 1)."""
    labels = torch.cat([torch.full((count,), label) for label, count in enumerate(counts)])
    order = draws.permutation(len(labels), "pool")
    labels = labels[order]
    return (50 * (labels + 1)).to(torch.uint8).view(-1, 1, 1, 1).expand(-1, 3, 16, 16).contiguous(), labels


@pytest.mark.parametrize("pooled", [True, False])
def test_cmo_pastes_foregrounds_evenly_over_the_classes(pooled):
    pool = class_pool()
    images = torch.zeros(444, 3, 16, 16, dtype=torch.uint8) if pooled else pool[0]
    targets = torch.zeros(444, dtype=torch.int64) if pooled else pool[1]
    seen = torch.zeros(3)
    for step in range(12):
        augment = BatchAugmenter(mixing_plan(probability=1.0), pool=pool if pooled else None)
        made, soft = augment(images, targets, key_of(444, step=step))
        for label in range(3):
            area = (made[:, 0] == 50 * (label + 1)).float().mean((1, 2))
            if pooled:
                expected = soft[:, label] if label else soft[:, 0] - (made[:, 0] == 0).float().mean((1, 2))
                torch.testing.assert_close(area, expected, atol=1e-5, rtol=0)
            seen[label] += float((area[targets != label] > 0).float().mean()) if not pooled else float((area > 0).sum())
    assert float(seen.min() / seen.max()) > (0.9 if pooled else 0.8)


def test_partners_follow_the_weights_and_a_class_without_weight_or_images_is_none():
    images, targets = torch.zeros(900, 3, 16, 16, dtype=torch.uint8), torch.zeros(900, dtype=torch.int64)
    for partner, pool, expected in (
        ((1.0, 3.0, 0.0), class_pool(), (0.25, 0.75, 0)),
        ((1.0, 1.0, 2.0), class_pool((5, 0, 5)), (1 / 3, 0, 2 / 3)),
    ):
        made, _ = BatchAugmenter(mixing_plan("mixup", partner=partner), pool=pool)(images, targets, key_of(900))
        share = draws.uniform("mix share", 1, 2, 3, torch.arange(900))
        label = (made[:, 0, 0, 0].float() / (1 - share) / 50).round()[share < 0.8] - 1
        for one in range(3):
            assert float((label == one).float().mean()) == pytest.approx(expected[one], abs=0.05)


def test_where_no_class_can_be_a_partner_nothing_is_mixed():
    images, targets = batch()
    for pool in (None, batch(30, name="pool")):
        made, soft = BatchAugmenter(mixing_plan(partner=(0.0, 0.0, 0.0)), pool=pool)(images, targets, key_of())
        assert torch.equal(made, images)
        assert torch.equal(soft, torch.nn.functional.one_hot(targets, 3).float())


def test_remix_gives_the_rarer_class_its_label():
    pool = class_pool()
    images, targets = pool[0][:200] * 0, torch.zeros(200, dtype=torch.int64)
    made, soft = BatchAugmenter(mixing_plan("remix", partner=(0, 0, 1.0)), pool=pool)(images, targets, key_of(200))
    share = draws.uniform("mix share", 1, 2, 3, torch.arange(200))
    expected = functional_mixing.mix_targets(
        targets, targets + 2, torch.where(share < 0.5, 0.0, share), 3
    )  # 90 images against 1
    torch.testing.assert_close(soft, expected)
    torch.testing.assert_close(made[:, 0, 0, 0].float(), 150 * (1 - share), atol=0.51, rtol=0)


def test_partners_of_the_pool_go_through_base_with_draws_of_their_own():
    calls = []

    def base(images, targets, key):
        calls.append(key)
        return images // 2, targets

    pool = class_pool()
    images, targets = pool[0][:50], pool[1][:50]
    made, _ = BatchAugmenter(mixing_plan(), pool=pool, base=base)(images, targets, key_of(50))
    assert set(made.unique().tolist()) <= {25, 50, 75}
    assert [(key.epoch, key.step) for key in calls] == [(2, 3), (2, 3)]
    assert calls[0].seed != calls[1].seed
    assert calls[1].indices.tolist() == [(3 << 32) + row for row in range(50)]  # of every step others


def test_float_images_take_a_pool_of_uint8_by_its_scale():
    pool = class_pool()
    images = torch.zeros(50, 3, 16, 16)
    targets = torch.zeros(50, dtype=torch.int64)
    made, _ = BatchAugmenter(mixing_plan(), pool=pool)(images, targets, key_of(50))
    wanted = torch.tensor([0, 50, 100, 150]) / 255
    assert all(torch.isclose(value, wanted).any() for value in made.unique())


def test_another_plan_is_taken_if_it_is_of_the_same_classes():
    images, targets = batch()
    augment = BatchAugmenter(plan_of())
    before, _ = augment(images, targets, key_of())
    augment.use(plan_of((HEAVY,) * 3))
    after, _ = augment(images, targets, key_of())
    assert touched(images, after)[targets == 0].any()
    assert torch.equal(after, BatchAugmenter(plan_of((HEAVY,) * 3))(images, targets, key_of())[0])
    augment.use(plan_of())
    assert torch.equal(augment(images, targets, key_of())[0], before)
    with pytest.raises(InputError, match="plan must have the 3 classes of the plan before it, got 2"):
        augment.use(Plan.untouched(NAMES[:2], COUNTS[:2]))
    with pytest.raises(InputError, match="plan must have the classes of the plan before it, got 'dog' for 'cat'"):
        augment.use(Plan.untouched(("ant", "bee", "dog"), COUNTS))


def test_it_keeps_no_state_that_a_checkpoint_would_carry():
    augment = BatchAugmenter(mixing_plan(), pool=batch(30, name="pool"))
    assert not augment.state_dict()
    assert {"_strength", "_pool_images"} <= {name for name, _ in augment.named_buffers()}
    assert not list(augment.parameters())


@pytest.mark.parametrize("method", ["cutmix", "mixup", "remix"])
@pytest.mark.parametrize("pool", [None, batch(30, name="pool")], ids=["batch", "pool"])
def test_one_hot_targets_and_columns_are_mixed_as_class_indices_are(method, pool):
    augment = BatchAugmenter(mixing_plan(method, policies=GRADED), pool=pool)
    images, targets = batch()
    wanted = augment(images, targets, key_of())
    one_hot = torch.nn.functional.one_hot(targets, 3)
    for form in (one_hot, one_hot.float(), targets[:, None]):
        got = augment(images, form, key_of())
        assert torch.equal(got[0], wanted[0])
        assert torch.allclose(got[1], wanted[1])


def test_targets_that_are_mixed_already_stay_soft():
    images, targets = batch()
    soft = 0.75 * torch.nn.functional.one_hot(targets, 3) + 0.25 / 3
    assert BatchAugmenter(plan_of())(images, soft, key_of())[1] is soft
    mixed = BatchAugmenter(mixing_plan("mixup"))(images, soft, key_of())[1]
    hard = BatchAugmenter(mixing_plan("mixup"))(images, targets, key_of())[1]
    assert torch.allclose(
        mixed, 0.75 * hard + 0.25 / 3, atol=1e-6
    )  # mixing is linear, so partners' targets stay soft too
    assert torch.allclose(mixed.sum(1), torch.ones(60))


WRONG = {
    "targets must be \\(60,\\) class indices, one for each image, or \\(60, 3\\) class probabilities": lambda: (
        BatchAugmenter(plan_of())(batch()[0], torch.ones(60, 4), key_of())
    ),
    "targets of shape \\(N, C\\) must be class probabilities, 0 or more, which sum to 1, got a smallest of 1 and a sum of 3": (
        lambda: BatchAugmenter(plan_of())(batch()[0], torch.ones(60, 3), key_of())
    ),
    "targets must be classes of the plan, in \\[0, 2\\], got 3 to 3": lambda: BatchAugmenter(plan_of())(
        batch()[0], torch.full((60,), 3), key_of()
    ),
    "images of the pool must be \\(M, C, H, W\\)": lambda: BatchAugmenter(
        plan_of(), pool=(batch()[0][0], torch.zeros(3, dtype=torch.int64))
    ),
    "labels of the pool must be \\(60,\\) class indices": lambda: BatchAugmenter(
        plan_of(), pool=(batch()[0], torch.zeros(3, dtype=torch.int64))
    ),
    "labels of the pool must be classes of the plan, in \\[0, 2\\], got 5 to 5": lambda: BatchAugmenter(
        plan_of(), pool=(batch()[0], torch.full((60,), 5))
    ),
    "images of the pool must have the images' shape \\(3, 8, 10\\), got \\(3, 16, 16\\)": lambda: BatchAugmenter(
        mixing_plan(), pool=class_pool()
    )(*batch(), key_of()),
    "images of the pool must be uint8 as the images are, got torch.float32": lambda: BatchAugmenter(
        mixing_plan(), pool=batch(dtype=torch.float32)
    )(*batch(), key_of()),
    "epoch must not be negative, got -1": lambda: BatchAugmenter(plan_of()).set_epoch(-1),
    "epochs must be at least 1, got 0": lambda: BatchAugmenter(plan_of()).set_epoch(0, 0),
    "targets must be a tensor of 60 class indices, got list": lambda: BatchAugmenter(plan_of())(
        batch()[0], batch()[1].tolist(), key_of()
    ),
    "targets must be \\(60,\\) class indices, one for each image, or .* probabilities, got torch.bool": lambda: (
        BatchAugmenter(plan_of())(batch()[0], batch()[1] > 0, key_of())
    ),
    "images must be \\(N, C, H, W\\), uint8 or floating point, got torch.uint8 \\(60, 8, 10\\)": lambda: BatchAugmenter(
        mixing_plan()
    )(batch()[0][:, 0], batch()[1], key_of()),
    "images must be uint8, or float in \\[0, 1\\], to be augmented, got torch.float32 from -1 to": lambda: (
        BatchAugmenter(plan_of())(batch(dtype=torch.float32)[0] * 2 - 1 - 2 / 255, batch()[1], key_of())
    ),
    "strength must lie in \\[0, 1\\], got 1.5": lambda: show_policy(batch()[0], HEAVY, [1.5]),
}


@pytest.mark.parametrize("message", WRONG)
def test_wrong_inputs_are_named(message):
    with pytest.raises(InputError, match=message):
        WRONG[message]()


@pytest.mark.parametrize("form", [torch.Tensor.float, torch.Tensor.bool, lambda targets: targets.float()[:, None]])
def test_targets_of_two_classes_may_be_the_probability_of_class_1(form):
    images, targets = batch()
    targets = targets.clamp(max=1)
    plan = plan_of((ImagePolicy(), LIGHT), NO_MIXING[:2], ("no", "yes"), (90, 9))
    augment = BatchAugmenter(plan, seed=0)
    as_indices, same = augment(images, targets, key_of())
    as_probabilities, found = augment(images, form(targets), key_of())
    assert torch.equal(as_indices, as_probabilities)
    assert torch.equal(same, targets)
    assert torch.equal(found, torch.nn.functional.one_hot(targets, 2).float())
    half = augment(images, torch.full((60,), 0.25), key_of())[1]
    assert half[0].tolist() == [0.75, 0.25]
    with pytest.raises(InputError, match="class probabilities"):
        augment(images, torch.full((60,), 1.5), key_of())


def test_a_policy_is_shown_from_low_to_high():
    images, _ = batch(20)
    shown = show_policy(images, HEAVY, [0.0, 0.3, 1.0], seed=3)
    assert shown.shape == (3, 20, 3, 8, 10)
    assert shown.dtype == torch.uint8
    assert torch.equal(shown[0], images)
    assert not torch.equal(shown[1], shown[2])
    assert torch.equal(show_policy(images[:5], HEAVY, [1.0], seed=3)[0], shown[2, :5])
    assert not torch.equal(show_policy(images, HEAVY, [1.0], seed=4)[0], shown[2])
    assert torch.equal(show_policy(images, ImagePolicy(), [0.0, 1.0])[1], images)


HERE = Path(__file__).parent
SCRIPT = f"""
import sys
sys.path[:0] = [{str(HERE)!r}, {str(HERE.parent)!r}, {str(HERE.parents[1])!r}]
import test_batches as tests
from diversify.augment.batches import BatchAugmenter
plan = tests.mixing_plan(probability=0.5, policies=(tests.HEAVY,) * 3)
images, targets = BatchAugmenter(plan, pool=tests.batch(30, name="pool"))(*tests.batch(), tests.key_of())
print(int(tests.draws.bits(images.long().flatten()).sum()), targets.double().sum(0).tolist())
"""


@pytest.mark.slow
def test_a_fresh_process_draws_the_same():
    command = [sys.executable, "-c", SCRIPT]
    there = subprocess.run(command, capture_output=True, text=True, check=True).stdout
    plan = mixing_plan(probability=0.5, policies=(HEAVY,) * 3)
    images, targets = BatchAugmenter(plan, pool=batch(30, name="pool"))(*batch(), key_of())
    here = f"{int(draws.bits(images.long().flatten()).sum())} {targets.double().sum(0).tolist()}\n"
    assert there == here


def indexes_fake_devices() -> bool:
    """PyTorch 2.6, built for CUDA, asks a driver even if tensors have no values."""
    with FakeTensorMode():
        try:
            return torch.empty(2, device="cuda")[torch.empty(2, dtype=torch.int64, device="cuda")].shape == (2,)
        except RuntimeError:
            return False


@pytest.mark.parametrize("method", ["cutmix", "remix"])
def test_on_a_device_no_value_is_waited_for(method):
    """On tensors without values, which raise an error if code reads a value or makes a shape depend on one."""
    if not indexes_fake_devices():
        pytest.skip("tensors without values need a CUDA driver in this release of PyTorch")
    image_ops._table.cache_clear()
    augment = BatchAugmenter(mixing_plan(method, policies=GRADED), base=dv.CropFlip(padding=2, mirror=True))
    augment(*batch(dtype=torch.float32), key_of())  # of the first batch the range is looked at
    with FakeTensorMode():
        for name, column in augment.named_buffers():
            setattr(augment, name, torch.empty(column.shape, dtype=column.dtype, device="cuda"))
        images = torch.empty(60, 3, 8, 10, device="cuda")
        targets = torch.zeros(60, dtype=torch.int64, device="cuda")
        key = dv.DrawKey(seed=1, epoch=2, step=3, indices=targets)
        made, soft = augment(images, targets, key)
        operation, strength = targets[:, None], torch.ones(60, 1, device="cuda")
        with pytest.raises(DynamicOutputShapeException):  # the way of the CPU does look
            image_ops.apply_policy(images, operation, strength, strength, by_rows=True)
    image_ops._table.cache_clear()
    assert (made.shape, made.device.type) == (images.shape, "cuda")
    assert soft.shape == (60, 3)


@pytest.mark.skipif(not torch.cuda.is_available(), reason="no CUDA device")
def test_on_a_cuda_device_it_never_waits_and_draws_the_same():
    plan = mixing_plan("cutmix", probability=0.5, policies=(LIGHT, HEAVY, HEAVY))
    augment = BatchAugmenter(plan, pool=batch(30, name="pool"), base=dv.CropFlip(padding=2, mirror=True))
    images, targets = batch()
    expected, soft = augment(images, targets, key_of())
    augment, images, targets = augment.cuda(), images.cuda(), targets.cuda()
    key = dv.DrawKey(seed=1, epoch=2, step=3, indices=key_of().indices.cuda())
    augment(images, targets, key)
    torch.cuda.set_sync_debug_mode("error")
    try:
        made, same = augment(images, targets, key)
    finally:
        torch.cuda.set_sync_debug_mode("default")
    assert made.is_cuda
    assert float(((made.cpu().int() - expected.int()).abs() > 1).float().mean()) < 1e-3
    torch.testing.assert_close(same.cpu(), soft)
