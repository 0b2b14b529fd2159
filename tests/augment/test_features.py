"""Feature augmentation: one method per row, gradients are kept, and draws are the same everywhere."""

import dataclasses
import subprocess
import sys

import pytest
import torch
from conftest import embeddings_of, synthetic, synthetic_head
from reference import oversample as plain

import diversify as dv
from diversify.augment.draw_key import DrawKey
from diversify.augment.features import FeatureAugmenter
from diversify.errors import InputError
from diversify.functional import draws, oversample
from diversify.plan.plan import Plan
from diversify.plan.policies import FeaturePolicy, Schedule

SIZES = [60, 30, 12, 5, 1]
METHODS = ("toward_enemies", "eos", "smote", "borderline_smote", "covariance", "magnitude", "manifold_mixup", "remix")
FEATURES, LABELS = synthetic(SIZES, "bank", num_features=6)
HEAD = synthetic_head(FEATURES, LABELS, 5)
BANK = embeddings_of(FEATURES, LABELS, HEAD)
ORDER = draws.permutation(len(LABELS), "order")
KEY = DrawKey(seed=1, epoch=2, step=3, indices=ORDER)


def policy(method, strength=1.0, share=1.0, neighbors=4, toward=None):
    """Toward all classes evenly unless some are named."""
    if method == "toward_enemies":
        toward = toward or {str(index): 0.2 for index in range(5)}
    return FeaturePolicy(method=method, strength=strength, share=share, neighbors=neighbors, toward=toward or {})


def of_class(policies, index):
    """The policies of one class: never toward itself."""
    return tuple(
        one.model_copy(update={"toward": toward_others(one.toward, index)}) if one.toward else one for one in policies
    )


def toward_others(toward, index):
    others = {name: share for name, share in toward.items() if name != str(index)}
    return {name: share / sum(others.values()) for name, share in others.items()}


def plan_of(*policies, classes=range(5), sizes=SIZES, schedule=None):
    """The policies for some classes, nothing for the others."""
    plan = Plan.untouched([str(index) for index in range(len(sizes))], sizes)
    changed = tuple(
        one.model_copy(update={"features": of_class(policies, index)}) if index in classes else one
        for index, one in enumerate(plan.classes)
    )
    return plan.model_copy(update={"classes": changed, "schedule": schedule or Schedule()})


def batch(features=FEATURES):
    return features[ORDER].clone(), LABELS[ORDER]


def one_hot(targets):
    return torch.nn.functional.one_hot(targets, 5).float()


@pytest.mark.parametrize("method", METHODS)
@pytest.mark.parametrize("key", [KEY, None])
def test_strength_zero_share_zero_and_eval_are_the_identity(method, key):
    features, targets = batch(FEATURES - 1)  # below the floor of the bank
    still = [FeatureAugmenter(plan_of(policy(method, **zero)), BANK) for zero in ({"strength": 0}, {"share": 0})]
    off = FeatureAugmenter(plan_of(policy(method), schedule=Schedule(start=0.5)), BANK)
    off.set_epoch(0, 10)
    for augment in [*still, off]:
        got, labels = augment(features, targets, key)
        assert torch.equal(got, features)
        assert torch.equal(labels if labels.ndim == 1 else labels.argmax(1), targets)
        assert labels.ndim == 1 or torch.equal(labels, one_hot(targets))
    augment = FeatureAugmenter(plan_of(policy(method)), BANK).eval()
    got, labels = augment(features, targets, key)
    assert got is features
    assert labels is targets


@pytest.mark.parametrize("method", METHODS)
@pytest.mark.parametrize("key", [KEY, None])
def test_more_strength_goes_further_and_gradients_flow(method, key):
    features, targets = batch()
    features.requires_grad_()
    far = []
    for strength in (0.25, 0.5, 1.0):
        got, _ = FeatureAugmenter(plan_of(policy(method, strength)), BANK, head=HEAD)(features, targets, key)
        far.append((got - features).detach().norm(dim=1))
        assert got.isfinite().all()
        (gradient,) = torch.autograd.grad(got.square().sum(), features)
        assert gradient.isfinite().all()
        assert (gradient != 0).any(1).float().mean() > 0.8
    assert (far[0] <= far[1] + 1e-6).all()
    assert (far[1] <= far[2] + 1e-6).all()
    assert far[2].mean() > far[0].mean() > 0


@pytest.mark.parametrize("method", METHODS)
@pytest.mark.parametrize("dtype", [torch.float64, torch.float32, torch.bfloat16])
@pytest.mark.parametrize("key", [KEY, None])
def test_type_labels_and_other_classes_are_kept(method, dtype, key):
    features, targets = batch(FEATURES.to(dtype))
    augment = FeatureAugmenter(plan_of(policy(method), classes=[1, 2]), BANK)
    got, labels = augment(features, targets, key)
    assert got.dtype == dtype
    assert got.shape == features.shape
    others = (targets != 1) & (targets != 2)
    assert torch.equal(got[others], features[others])
    assert not torch.equal(got, features)
    if method in ("manifold_mixup", "remix"):
        assert labels.dtype == torch.float32
        assert torch.allclose(labels.sum(1), torch.ones(len(labels)))
        assert torch.equal(labels[others], one_hot(targets)[others])
        assert not torch.equal(labels, one_hot(targets))
    else:
        assert labels is targets
    soft = augment(features, one_hot(targets), key)[1]
    assert soft.shape == (len(targets), 5)


def test_a_row_goes_through_at_most_one_method_by_the_shares():
    features, targets = FEATURES[:1].expand(4000, -1), LABELS[:1].expand(4000)
    plan = plan_of(policy("magnitude", share=0.3), policy("covariance", share=0.5))
    got, _ = FeatureAugmenter(plan, BANK)(features - 1, targets)  # below 0, so that the bank's floor shows
    same = (got == features - 1).all(1)
    spread = (got >= 0).all(1) & ~same
    assert abs(same.float().mean() - 0.2) < 0.03
    assert abs(spread.float().mean() - 0.5) < 0.03


def made_of(toward, *, bank=BANK, strength=1.0, count=4000):
    """A row of class 2, what was made of it in many draws, and the augmenter."""
    augment = FeatureAugmenter(plan_of(policy("toward_enemies", strength, toward=toward), classes=[2]), bank)
    row = FEATURES[LABELS == 2][:1]
    made, targets = augment(row.expand(count, -1), torch.full((count,), 2))
    assert targets.tolist() == [2] * count
    return row, made, augment


def test_rows_go_toward_the_classes_that_are_named_as_often_as_planned():
    row, made, augment = made_of({"0": 0.6, "3": 0.4})
    way = made - row  # draw * (partner - row)
    across = FEATURES - row
    step = (way @ across.T) / across.square().sum(1).clamp(min=1e-12)
    apart = (way[:, None] - step[:, :, None] * across).norm(dim=2) + (step < 0) + (step > 1)
    partner = LABELS[apart.argmin(1)]
    assert apart.min(1).values.max() < 1e-4
    assert set(partner[way.norm(dim=1) > 0.05].tolist()) == {0, 3}
    assert abs(float((partner == 0).float().mean()) - 0.6) < 0.03
    drawn = augment._partners.enemy(torch.full((6000,), 2), ("toward_enemies", 0, torch.arange(6000)[:, None]))
    assert set(drawn.tolist()) == set((LABELS == 0).nonzero().flatten().tolist()) | set(
        (LABELS == 3).nonzero().flatten().tolist()
    )


def test_the_table_of_partners_holds_the_named_classes_alone_and_draws_as_one_of_all_classes_would():
    plan = plan_of(policy("toward_enemies", toward={"4": 0.3, "0": 0.5, "3": 0.2}), classes=[2])
    partners = FeatureAugmenter(plan, BANK)._partners
    assert partners.enemy_class.shape == partners.enemy_share.shape == (5, 3)
    key = ("toward_enemies", 0, torch.arange(500)[:, None])
    label = oversample.class_of(plan.enemies[torch.full((500,), 2)], draws.uniform("enemy class", *key))
    expected = oversample.row_of(label, partners.bank.by_class, draws.uniform("enemy row", *key))[:, 0]
    assert torch.equal(partners.enemy(torch.full((500,), 2), key), expected)
    assert partners.has_enemies.tolist() == [False, False, True, False, False]


def test_half_the_strength_goes_half_the_way():
    row, whole, _ = made_of({"0": 1.0})
    _, half, _ = made_of({"0": 1.0}, strength=0.5)
    torch.testing.assert_close(half - row, (whole - row) / 2, rtol=1e-4, atol=1e-5)


def test_enemies_that_the_bank_does_not_hold_are_left_out_and_a_class_without_any_stays_as_it_is():
    bank = BANK.select((LABELS != 3).nonzero().flatten())
    row, made, _ = made_of({"3": 1.0}, bank=bank)
    assert torch.equal(made, row.expand(len(made), -1))
    _, without, _ = made_of({"0": 0.25, "3": 0.75}, bank=bank)
    _, alone, _ = made_of({"0": 1.0}, bank=bank)
    assert torch.equal(without, alone)
    assert not torch.equal(without, row.expand(len(without), -1))
    augment = FeatureAugmenter(plan_of(policy("toward_enemies", toward={"3": 1.0}), classes=[2]), bank)
    augment.refresh(BANK)
    assert not torch.equal(augment(row, torch.tensor([2]))[0], row)


@pytest.mark.parametrize("shuffled", [False, True])
def test_eos_goes_toward_an_enemy_of_the_image_or_else_a_row_of_its_class(shuffled):
    place = draws.permutation(len(LABELS), "bank") if shuffled else torch.arange(len(LABELS))
    augment = FeatureAugmenter(plan_of(policy("eos")), BANK.select(place))
    features, targets = batch()
    got, _ = augment(features, targets, KEY)
    rows, labels = FEATURES.tolist(), LABELS.tolist()
    kinds = set()
    for made, base, row in zip(got, features, ORDER.tolist(), strict=True):
        enemies = plain.enemies(rows, labels, row, 4)
        partners = FEATURES[enemies or plain.siblings(rows, labels, row, 4) or [row]]
        across = partners - base
        step = ((made - base) * across).sum(1) / across.square().sum(1).clamp(min=1e-12)
        residual = (base + step[:, None] * across - made).norm(dim=1)
        assert residual.min() < 1e-5
        kinds.add(bool(enemies))
    assert kinds == {True, False}


def test_borderline_smote_leaves_rows_alone_that_are_not_in_danger():
    features, targets = batch()
    got, _ = FeatureAugmenter(plan_of(policy("borderline_smote")), BANK)(features, targets, KEY)
    rows, labels = FEATURES.tolist(), LABELS.tolist()
    danger = torch.tensor([5 <= len(plain.enemies(rows, labels, row, 10)) < 10 for row in ORDER.tolist()])
    assert 0 < danger.sum() < len(danger)
    assert torch.equal((got != features).any(1), danger)


@pytest.mark.parametrize("method", ["eos", "smote", "borderline_smote"])
def test_neighbours_are_looked_up_where_the_images_are_not_known(method):
    """A bank without the last row is not the whole training set; the others' neighbours are those of the bank."""
    part = BANK.select(torch.arange(1, len(LABELS)))
    augment = FeatureAugmenter(plan_of(policy(method)), part)
    assert not augment.whole
    features, targets = FEATURES[:1] + 0.01, LABELS[:1]
    table, count = augment._neighbors.look_up(method, features, targets)
    everything = [(FEATURES[:1] + 0.01)[0].tolist(), *part.features.tolist()]
    labels = [int(targets), *part.labels.tolist()]
    enemies = [row - 1 for row in plain.enemies(everything, labels, 0, 4)]
    near = [row - 1 for row in plain.siblings(everything, labels, 0, 4)]
    danger = 5 <= len(plain.enemies(everything, labels, 0, 10)) < 10
    expected = {"eos": enemies or near, "smote": near, "borderline_smote": near if danger else []}[method]
    assert table[0, : int(count)].tolist() == expected
    assert augment(features, targets, DrawKey(seed=0, epoch=0, step=0, indices=torch.tensor([999])))[0].isfinite().all()


def test_magnitude_shrinks_the_top_k_of_the_head_s_classification_embedding():
    wide, labels = synthetic([30, 10], "wide", num_features=24)
    head = synthetic_head(wide, labels, 2)
    augment = FeatureAugmenter(
        plan_of(policy("magnitude"), sizes=[30, 10]), embeddings_of(wide, labels, head), head=head
    )
    got, _ = augment(wide + 1, labels)
    changed = (got != wide + 1).any(0)
    for label in (0, 1):
        means = (wide[labels == label] * head.weight[label]).mean(0)
        top = set(means.sort(descending=True).indices[:10].tolist())
        assert set((got != wide + 1)[labels == label].any(0).nonzero().flatten().tolist()) == top
    assert not changed.all()


def test_magnitude_takes_the_largest_features_of_a_class_without_weights():
    wide, labels = synthetic([30, 10], "wide", num_features=24)
    head = dataclasses.replace(synthetic_head(wide, labels, 2), single_logit=True)
    embeddings = embeddings_of(wide, labels, head)
    augment = FeatureAugmenter(plan_of(policy("magnitude"), sizes=[30, 10]), embeddings, head=head)
    got, _ = augment(wide + 1, labels)
    top = set(wide[labels == 0].mean(0).sort(descending=True).indices[:10].tolist())
    assert set((got != wide + 1)[labels == 0].any(0).nonzero().flatten().tolist()) == top


def test_partners_are_drawn_as_the_plan_draws_classes():
    even = plan_of(policy("manifold_mixup")).model_dump()
    for one in even["classes"]:
        one["draws"] = 0.2
    augment = FeatureAugmenter(Plan.from_dict(even), BANK)
    _, label = augment._partners.anyone(("name", 0, torch.arange(4000)[:, None]))
    assert all(abs((label == index).float().mean() - 0.2) < 0.03 for index in range(5))


def test_draws_are_functions_of_seed_epoch_step_and_row():
    features, targets = batch()
    plan = plan_of(policy("eos", share=0.5), policy("covariance", share=0.5))
    first = FeatureAugmenter(plan, BANK)(features, targets, KEY)[0]
    augment = FeatureAugmenter(plan, BANK, seed=7)
    assert torch.equal(augment(features, targets, KEY)[0], first)
    half = DrawKey(seed=1, epoch=2, step=3, indices=ORDER[:40])
    assert torch.allclose(augment(features[:40], targets[:40], half)[0], first[:40], atol=1e-6)
    for other in ({"seed": 2}, {"epoch": 3}, {"step": 4}):
        key = DrawKey(**{"seed": 1, "epoch": 2, "step": 3, "indices": ORDER, **other})
        assert not torch.equal(augment(features, targets, key)[0], first)
    augment.set_epoch(4)
    run = [augment(features, targets)[0] for _ in range(2)]
    assert not torch.equal(*run)
    augment.set_epoch(4)
    assert torch.equal(augment(features, targets)[0], run[0])
    augment.set_epoch(5)
    assert not torch.equal(augment(features, targets)[0], run[0])


@pytest.mark.parametrize("method", METHODS)
def test_several_steps_in_one_go_are_as_step_by_step(method):
    augment = FeatureAugmenter(plan_of(policy(method, share=0.7), classes=(0, 1, 2)), BANK, head=HEAD)
    indices = torch.stack([ORDER, ORDER.flip(0), ORDER.roll(3)])
    together, labels = augment.vary_steps(FEATURES[indices], 1, torch.tensor([4, 5, 6]), indices)
    for place, chosen in enumerate(indices):
        key = DrawKey(seed=1, epoch=0, step=4 + place, indices=chosen)
        got, targets = augment(FEATURES[chosen], LABELS[chosen], key)
        assert torch.allclose(together[place], got, atol=1e-6)
        assert torch.equal(labels[place], targets)


def everything():
    features, targets = batch()
    plan = plan_of(*(policy(method, 0.7, 1 / 8) for method in METHODS))
    return FeatureAugmenter(plan, BANK, seed=5, head=HEAD)(features, targets, KEY)


@pytest.mark.slow
def test_the_same_rows_in_a_fresh_process():
    code = (
        "import sys; sys.path[:0] = ['tests', 'tests/augment']; import test_features as here;"
        "print([float(one.double().sum()) for one in here.everything()])"
    )
    output = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True).stdout
    assert output.splitlines()[-1] == str([float(one.double().sum()) for one in everything()])


@pytest.mark.parametrize("features", [torch.full_like(FEATURES, 0.1), FEATURES, torch.zeros_like(FEATURES)])
@pytest.mark.parametrize("key", [KEY, None])
@pytest.mark.parametrize("kept", [len(LABELS), 100])  # without its last rows the bank lacks two classes
def test_degenerate_banks_give_no_nan(features, key, kept):
    bank = embeddings_of(features, LABELS, HEAD).select(torch.arange(kept))
    plan = plan_of(*(policy(method, 1.0, 1 / 9) for method in (*METHODS, "isda")))
    augment = FeatureAugmenter(plan, bank, head=HEAD)
    if key is not None and kept < len(LABELS):
        with pytest.raises(InputError, match=r"^indices must lie in \[0, 99\], the rows of the bank, got 107; extract"):
            augment(*batch(features), key)
        return
    got, targets = augment(*batch(features), key)
    assert got.isfinite().all()
    assert targets.isfinite().all()
    assert augment.adjust_logits(HEAD.logits(got), targets, HEAD.weight).isfinite().all()


@pytest.mark.parametrize("method", ["eos", "smote", "borderline_smote"])
@pytest.mark.parametrize("key", [KEY, None])
def test_more_neighbors_than_rows_are_as_many_as_there_are(method, key):
    def with_neighbors(k):
        several = policy(method, 1.0, 1.0).model_copy(update={"neighbors": k})
        augment = FeatureAugmenter(plan_of(several), BANK, head=HEAD)
        tables = [len(table[0]) for name, table in augment.named_buffers() if name.endswith("_table")]
        assert tables == [len(LABELS)], "a bank of a few rows takes no gigabyte"
        return augment(*batch(FEATURES), key)[0]

    assert torch.equal(with_neighbors(1 << 20), with_neighbors(len(LABELS)))


def test_above_256_features_residuals_stand_for_the_covariance(monkeypatch):
    features, targets = FEATURES[:1].expand(3000, -1) + 5, LABELS[:1].expand(3000)
    spread, bound = [], []
    for limit in (256, 4):
        monkeypatch.setattr(oversample, "FACTORED", limit)
        augment = FeatureAugmenter(plan_of(policy("covariance", 0.2, 0.5), policy("isda", 1, 0.5)), BANK)
        got, _ = augment(features, targets)
        spread.append(got.std(0))
        bound.append(augment.adjust_logits(torch.zeros(1, 5), targets[:1], HEAD.weight)[0])
    assert torch.allclose(*spread, rtol=0.15)
    assert torch.allclose(*bound, rtol=0.8)
    assert bound[1][0] == 0
    assert (bound[1][1:] > 0).all()


@pytest.mark.parametrize("limit", [256, 4])
def test_donors_are_those_of_each_class_s_policy(limit, monkeypatch):
    monkeypatch.setattr(oversample, "FACTORED", limit)
    kinds = [policy("covariance", 0.2).model_copy(update={"donors": donors}) for donors in ("similar", "pooled")]
    plan = plan_of(kinds[0], classes=[2])
    pooled = plan.classes[3].model_copy(update={"features": (kinds[1],)})
    plan = plan.model_copy(update={"classes": (*plan.classes[:3], pooled, plan.classes[4])})
    bank = embeddings_of(FEATURES * torch.where(LABELS == 1, 4, 1)[:, None], LABELS, HEAD)
    means = torch.stack([bank.features[label == LABELS].mean(0) for label in range(5)])
    similar = oversample.similar_donors(means, torch.tensor(SIZES))
    pooled = torch.tensor(plain.pooled_covariance(bank.features.tolist(), LABELS.tolist()), dtype=torch.float64)
    expected = {2: oversample.donor_covariance(bank.features, LABELS, similar, torch.tensor([2]))[0], 3: pooled}
    assert float((expected[2] - pooled).abs().max()) > 0.2 * float(pooled.max())
    augment = FeatureAugmenter(plan, bank)
    for label, covariance in expected.items():
        made, _ = augment(torch.full((6000, 6), 50.0), torch.full((6000,), label))
        got = torch.cov(made.double().T) / 0.6**2
        assert torch.allclose(got, covariance, atol=0.1 * float(covariance.max()))


def test_isda_adds_to_the_logits_of_its_classes_alone():
    features, targets = batch()
    logits = HEAD.logits(features)
    weight = HEAD.weight.clone().requires_grad_()
    augment = FeatureAugmenter(plan_of(policy("isda", 0.5, 0.5), classes=[2]), BANK)
    assert torch.equal(augment(features, targets, KEY)[0], features)
    got = augment.adjust_logits(logits, targets, weight)
    rows = targets == 2
    assert torch.equal(got[~rows], logits[~rows])
    assert torch.equal(got[rows, 2], logits[rows, 2])
    assert (got[rows][:, [0, 1, 3, 4]] > logits[rows][:, [0, 1, 3, 4]]).all()
    donors = oversample.similar_donors(augment._bank.means, torch.tensor(SIZES))
    covariance = oversample.donor_covariance(FEATURES, LABELS, donors, torch.tensor([2]))[0].tolist()
    expected = plain.isda(logits[rows][0].tolist(), 2, HEAD.weight.tolist(), covariance, 0.25)
    assert torch.allclose(got[rows][0], torch.tensor(expected), rtol=1e-4)
    assert torch.equal(augment.adjust_logits(logits, one_hot(targets), weight), got)
    shared = 0.6 * one_hot(targets) + 0.4 * one_hot(targets.roll(1))
    whole = targets == targets.roll(1)
    assert torch.equal(augment.adjust_logits(logits, shared, weight), torch.where(whole[:, None], got, logits))
    ramp = plan_of(policy("isda", 0.5, 0.5), classes=[2]).model_copy(update={"schedule": Schedule(ramp=1.0)})
    later = FeatureAugmenter(ramp, BANK)
    later.set_epoch(2, 10)
    assert torch.allclose(later.adjust_logits(logits, targets, weight) - logits, 0.3 * (got - logits), atol=1e-5)
    got.sum().backward()
    assert weight.grad.abs().sum() > 0
    assert augment.eval().adjust_logits(logits, targets, weight) is logits
    assert FeatureAugmenter(plan_of(policy("eos")), BANK).adjust_logits(logits, targets, weight) is logits


def test_another_bank_and_another_plan_are_as_if_made_with_them():
    features, targets = batch()
    other = embeddings_of(FEATURES * torch.arange(6), LABELS, HEAD)
    plans = [plan_of(policy(method)) for method in ("eos", "covariance")]
    augment = FeatureAugmenter(plans[0], BANK)
    assert augment.use(plans[1]) is augment
    assert torch.equal(augment(features, targets, KEY)[0], FeatureAugmenter(plans[1], BANK)(features, targets, KEY)[0])
    augment.refresh(other)
    augment.use(plans[0])
    expected = FeatureAugmenter(plans[0], other)(features, targets, KEY)[0]
    assert torch.equal(augment(features, targets, KEY)[0], expected)
    assert not torch.equal(expected, FeatureAugmenter(plans[0], BANK)(features, targets, KEY)[0])
    assert augment.state_dict() == {}
    assert augment.double().bank.dtype == torch.float64
    assert augment(features, targets, KEY)[0].dtype == torch.float32


def test_the_schedule_scales_shares_and_strengths():
    features, targets = batch()
    plan = plan_of(policy("magnitude", 1.0, 1.0), schedule=Schedule(start=0.2, ramp=0.4))
    augment = FeatureAugmenter(plan, BANK)
    changed = []
    for epoch in range(6):
        augment.set_epoch(epoch, 10)
        changed.append(float((augment(features, targets)[0] != features).any(1).float().mean()))
    assert changed[:2] == [0, 0]
    assert changed[2] < changed[3] < changed[4] < changed[5] > 0.9


def test_wrong_inputs_are_refused_in_one_line():
    plan, features = plan_of(policy("eos")), FEATURES
    three = plan_of(sizes=[1, 2, 3])
    augment = FeatureAugmenter(plan, BANK)
    for make in (lambda: FeatureAugmenter(three, BANK), lambda: augment.use(three)):
        with pytest.raises(InputError, match=r"^plan must have 5 classes, as the embeddings, got 3$"):
            make()
    with pytest.raises(InputError, match=r"^features must have shape \(N, 6\), got \(108, 5\)$"):
        augment(features[:, 1:], LABELS)
    with pytest.raises(InputError, match=r"^targets must have shape \(108,\) or \(108, 5\), got \(3,\)$"):
        augment(features, LABELS[:3])
    with pytest.raises(InputError, match=r"^indices must name images with the labels of the bank, got other labels"):
        augment(features, LABELS.flip(0), DrawKey(seed=0, epoch=0, step=0, indices=torch.arange(108)))
    with pytest.raises(InputError, match=r"^embeddings must hold at least one row, got 0$"):
        augment.refresh(BANK.select(torch.arange(0)))
    with pytest.raises(
        InputError, match=r"^head must have weights of shape \(5, 6\), as the embeddings, got \(2, 6\)$"
    ):
        FeatureAugmenter(plan, BANK, head=dv.LinearHead(weight=torch.zeros(2, 6), bias=torch.zeros(2)))
    isda = FeatureAugmenter(plan_of(policy("isda")), BANK)
    with pytest.raises(InputError, match=r"^weight must have shape \(5, 6\), got \(5, 5\)$"):
        isda.adjust_logits(HEAD.logits(features), LABELS, HEAD.weight[:, 1:])
