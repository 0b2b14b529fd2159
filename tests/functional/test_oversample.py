"""The formulas that make features: against plain Python, at their limits, and with degenerate classes."""

import itertools

import pytest
import torch
from reference import draws as plain_draws
from reference import oversample as plain
from reference.compare import same

from diversify.functional import counts, draws, mixing, oversample

ROWS = torch.arange(4000)
SIX = torch.tensor(plain_draws.normals(6, 5, "six"))
OTHER = torch.tensor(plain_draws.normals(6, 5, "other"))
DRAW = draws.uniform("draw", torch.arange(6)).double()


@pytest.fixture(params=range(3))
def table(request):
    features, labels, _ = plain_draws.labelled(request.param)
    return features, labels


def lists(partners, count):
    return [row[:number] for row, number in zip(partners.tolist(), count.tolist(), strict=True)]


@pytest.mark.parametrize("k", [1, 4, 10])
def test_eos_partners_are_those_of_plain_python_and_not_of_the_published_script(table, k):
    features, labels = table
    rows = torch.arange(len(labels))
    got = lists(*oversample.eos_partners(torch.tensor(features), torch.tensor(labels), rows, k))
    assert got == [plain.enemies(features, labels, row, k) for row in rows.tolist()]
    published = [plain.published_partners(features, labels, row, k) for row in rows.tolist()]
    assert [len(row) for row in published] == [len(row) for row in got]
    assert published != got
    assert all(labels[other] != labels[row] for row in rows.tolist() for other in got[row])
    nearest_first = [row for row in rows.tolist() if labels[plain.nearest(features, row, 1)[0]] != labels[row]]
    assert nearest_first
    assert all(published[row][0] == row for row in nearest_first)  # the script's nearest enemy is the row itself


@pytest.mark.parametrize("k", [1, 3, 40])
def test_siblings_are_those_of_plain_python(table, k):
    features, labels = table
    rows = torch.arange(len(labels)).flip(0)
    partners, count = oversample.siblings(torch.tensor(features), torch.tensor(labels), rows, k)
    assert lists(partners, count) == [plain.siblings(features, labels, row, k) for row in rows.tolist()]
    for row, line, number in zip(rows.tolist(), partners.tolist(), count.tolist(), strict=True):
        assert set(line[number:]) <= {row}


def test_one_row_has_no_partner():
    partners, count = oversample.eos_partners(torch.zeros(1, 2), torch.tensor([0]), torch.tensor([0]), 5)
    assert count.tolist() == [0]
    assert oversample.pick(partners, count, torch.tensor([0.9])).tolist() == [0]


def test_partners_and_rows_are_picked_uniformly():
    partners = torch.tensor([[7, 8, 9]]).expand(len(ROWS), 3)
    picked = oversample.pick(partners, torch.full_like(ROWS, 2), draws.uniform("pick", ROWS))
    assert sorted(set(picked.tolist())) == [7, 8]
    assert abs((picked == 7).float().mean() - 0.5) < 0.03
    labels = torch.tensor([2, 0, 2, 0, 2])
    rows = oversample.row_of(torch.full_like(ROWS, 2), oversample.by_class(labels, 4), draws.uniform("row", ROWS))
    assert all(abs((rows == row).float().mean() - 1 / 3) < 0.03 for row in (0, 2, 4))
    shares = torch.tensor([[0.0, 0.25, 0.0, 0.75, 0.0]]).expand(len(ROWS), -1)
    drawn = oversample.class_of(shares, draws.uniform("class", ROWS))
    assert sorted(set(drawn.tolist())) == [1, 3]
    assert abs((drawn == 1).float().mean() - 0.25) < 0.03
    last = torch.tensor([1 - 2**-24])
    assert oversample.pick(partners[:1], torch.tensor([3]), last).tolist() == [9]
    assert oversample.class_of(shares[:1], last).tolist() == [3]


@pytest.mark.parametrize("dtype", [torch.float64, torch.float32, torch.bfloat16])
def test_strength_zero_is_the_identity_and_more_goes_further(dtype):
    base, other = SIX.to(dtype), OTHER.to(dtype)
    chosen = torch.arange(5).expand(6, 5) < 2

    def distances(strength):
        made = (
            oversample.interpolate(base, other, DRAW, strength),
            oversample.add_noise(base, other, strength),
            oversample.shrink(base, chosen, DRAW, strength),
        )
        assert all(one.dtype == dtype for one in made)
        return [(one - base).double().norm(dim=1) for one in made]

    assert all((one == 0).all() for one in distances(0.0))
    assert all((one == 0).all() for one in distances(torch.zeros(6)))
    steps = [distances(strength) for strength in (0.25, 0.5, 1.0)]
    assert all(
        (near < far).all() for less, more in itertools.pairwise(steps) for near, far in zip(less, more, strict=True)
    )


def test_the_whole_way_is_the_partner_and_shrinking_leaves_other_features_alone():
    assert torch.allclose(oversample.interpolate(SIX, OTHER, torch.ones(6), 1.0), OTHER)
    chosen = torch.arange(5).expand(6, 5) < 2
    made = oversample.shrink(SIX, chosen, torch.ones(6), 1.0)
    assert (made[:, :2] == 0).all()
    assert torch.equal(made[:, 2:], SIX[:, 2:])
    assert (oversample.add_noise(SIX.relu(), OTHER, 1.0, 0.0) >= 0).all()
    assert torch.allclose(oversample.add_noise(SIX, OTHER, 0.5), SIX + 1.5 * OTHER)


@pytest.mark.parametrize(("base", "partner"), [(90, 30), (30, 90), (89, 30), (30, 89), (50, 50), (0, 30)])
def test_remix_gives_the_label_to_the_rarer_class(base, partner):
    shares = torch.linspace(0, 1, 41, dtype=torch.float64)
    got = 1 - mixing.remix_shares(1 - shares, torch.tensor(base), torch.tensor(partner))
    assert same(got.tolist(), [plain.remix(share, base, partner, 3.0, 0.5) for share in shares.tolist()])


def test_labels_are_mixed_as_distributions():
    one, two = torch.eye(3)[[0, 1]], torch.eye(3)[[2, 1]]
    assert oversample.mix_labels(one, two, torch.tensor([0.25, 0.5])).tolist() == [[0.75, 0, 0.25], [0, 1, 0]]
    assert torch.equal(oversample.mix_labels(one, two, torch.zeros(2)), one)


def covariance_of(rows):
    return (rows - rows.mean(0)).T @ (rows - rows.mean(0)) / len(rows)


def test_donors_are_the_head_classes_and_a_class_s_own_by_its_size():
    count = torch.tensor([400, 200, 20, 1, 0])
    assert oversample.head_classes(count).tolist() == [True, True, False, False, False]
    means = torch.tensor([[1.0, 0], [0, 1], [0.1, 1], [1, 0.2], [torch.nan, torch.nan]])
    donors = oversample.similar_donors(means, count)
    assert torch.allclose(donors.sum(1), torch.ones(5, dtype=torch.float64))
    assert donors[2, 2] == pytest.approx(20 / 220)
    assert donors[2, 1] > 0.99 * (1 - 20 / 220)
    assert donors[3, 0] > 0.9
    assert same(donors[4].tolist(), [0.5, 0.5, 0, 0, 0])
    assert (donors[:, 2:] * (1 - torch.eye(5, dtype=torch.float64)[:, 2:]) == 0).all()


def borrowed(features, labels, donors):
    return oversample.donor_covariance(features, labels, donors, torch.arange(len(donors)))


def test_pooled_covariance_is_plain_python_s_and_the_same_for_every_class(table):
    features, labels = torch.tensor(table[0], dtype=torch.float64), torch.tensor(table[1])
    count = torch.bincount(labels)
    head = oversample.head_classes(count)
    assert 0 < head.sum() < len(count)
    donors = oversample.pooled_donors(count)
    assert torch.allclose(donors.sum(1), torch.ones(len(count), dtype=torch.float64))
    got = borrowed(features, labels, donors)
    assert all(same(one.tolist(), plain.pooled_covariance(*table)) for one in got)
    shifted = features + 100 * torch.nn.functional.one_hot(labels, len(count))[:, :1] * torch.arange(features.shape[1])
    assert torch.allclose(borrowed(shifted, labels, donors), got, atol=1e-9), "it lies within the classes"
    tail = features * torch.where(head[labels], 1, 7)[:, None]
    assert torch.equal(borrowed(tail, labels, donors), got)


def test_with_one_head_class_both_kinds_of_donors_agree_up_to_the_class_s_own():
    labels = torch.tensor([0] * 300 + [1] * 40 + [2] * 5 + [3])
    features = exact(plain_draws.normals(len(labels), 3, "rows")) * (1 + labels)[:, None]
    count = torch.bincount(labels)
    assert oversample.head_classes(count).sum() == 1
    similar = oversample.similar_donors(counts.class_mean(features, labels, len(count)), count)
    own = count / (count + oversample.OWN_WEIGHT)
    pooled = borrowed(features, labels, oversample.pooled_donors(count))
    itself = borrowed(features, labels, torch.eye(len(count), dtype=torch.float64))
    share = own.double()[:, None, None]
    assert torch.allclose(borrowed(features, labels, similar), (1 - share) * pooled + share * itself)


def test_noise_has_the_covariance_of_its_donors(monkeypatch):
    monkeypatch.setattr(oversample, "_CLASSES", 2)
    labels = draws.integers(3, "label", ROWS)
    scale = torch.tensor([[1.0, 3.0], [2.0, 0.5], [0.1, 0.1]])
    features = draws.normal("feature", ROWS[:, None], torch.arange(2)) * scale[labels] + labels[:, None]
    features[:, 1] += features[:, 0]
    donors = torch.tensor([[0.25, 0.75, 0], [0, 0.5, 0.5], [0, 0, 1]], dtype=torch.float64)
    within = torch.stack([covariance_of(features[labels == label].double()) for label in range(3)])
    expected = torch.einsum("uc,cde->ude", donors, within)
    got = oversample.donor_covariance(features, labels, donors, torch.tensor([2, 0]))
    assert torch.allclose(got, expected[[2, 0]])
    root = oversample.factor(expected)
    assert torch.allclose(root.mT @ root, expected)
    noise = draws.normal("noise", ROWS[:, None], torch.arange(2)).double()
    drawn = covariance_of(oversample.factored_noise(noise, root[:1].expand(len(ROWS), -1, -1)))
    assert torch.allclose(drawn, expected[0], rtol=0.1, atol=0.1)
    column = torch.arange(16)
    means = counts.class_mean(features, labels, 3)
    pair = draws.uniform("class", ROWS[:, None], column), draws.uniform("row", ROWS[:, None], column)
    shares = donors[:1].expand(len(ROWS), -1)
    residuals = oversample.donor_residuals(features, means, shares, oversample.by_class(labels, 3), pair)
    drawn = covariance_of(oversample.combined_noise(draws.normal("weight", ROWS[:, None], column), residuals).double())
    assert torch.allclose(drawn, expected[0], rtol=0.1, atol=0.2)


def test_a_class_without_spread_has_no_noise():
    features, labels = torch.full((7, 3), 0.1), torch.tensor([0] * 6 + [1])
    donors = oversample.similar_donors(counts.class_mean(features, labels, 2), torch.tensor([6, 1]))
    root = oversample.factor(oversample.donor_covariance(features, labels, donors, torch.tensor([0, 1])))
    assert root.abs().max() < 1e-6


def test_normal_draws_are_those_of_plain_python_and_standard():
    got = draws.normal("noise", 3, ROWS)
    assert same(got[:50].tolist(), [plain_draws.normal("noise", 3, row) for row in range(50)], 1e-5)
    assert abs(got.mean()) < 0.05
    assert abs(got.std() - 1) < 0.05


def exact(rows):
    return torch.tensor(rows, dtype=torch.float64)


def test_isda_is_plain_python_s_and_its_bound_holds():
    weight = exact(plain_draws.normals(4, 3, "weight")).requires_grad_()
    logits, targets = exact(plain_draws.normals(5, 4, "logits")), torch.tensor([2, 0, 3, 2, 1])
    root = exact(plain_draws.normals(3, 3, "root")), exact(plain_draws.normals(3, 3, "second"))
    covariance = {2: (root[0].T @ root[0]).tolist(), 0: (root[1].T @ root[1]).tolist()}
    strength = torch.tensor([0.5, 0, 1.0, 0], dtype=torch.float64)
    got = oversample.isda_logits(logits, targets, weight, torch.stack(root), torch.tensor([2, 0]), strength)
    zero = [[0.0] * 3] * 3
    for row, y in enumerate(targets.tolist()):
        expected = plain.isda(logits[row].tolist(), y, weight.tolist(), covariance.get(y, zero), strength[y].item())
        assert same(got[row].tolist(), expected)
        assert got[row, y] == logits[row, y]
    got.sum().backward()
    assert weight.grad.abs().sum() > 0
    features, bias = exact(plain_draws.normals(1, 3, "row")), torch.zeros(4).double()
    noisy = features + draws.normal("isda", ROWS[:, None], torch.arange(3)).double() @ root[0]
    y = torch.tensor([2])
    mean = torch.nn.functional.cross_entropy(noisy @ weight.T + bias, y.expand(len(ROWS)))
    bound = oversample.isda_logits(features @ weight.T, y, weight, root[0][None], y, torch.ones(4).double())
    assert torch.nn.functional.cross_entropy(bound, y) > mean
