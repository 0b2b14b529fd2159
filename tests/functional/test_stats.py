import math
from statistics import NormalDist

import pytest
import torch
from reference import draws as plain_draws
from reference import stats as plain
from reference.compare import same
from scipy import stats as scipy_stats

from diversify.errors import InputError
from diversify.functional import stats

NAN = math.nan


def vector(*values):
    return torch.tensor(values, dtype=torch.float64)


def test_same_sees_every_kind_of_difference():
    assert same([1.0, [NAN, 2.0]], [1.0, [NAN, 2.0 + 1e-12]])
    assert same([1, 2], (1.0, 2.0))
    assert not same([1.0, 2.0], [1.0, 2.1])
    assert not same([1.0], [1.0, 2.0])
    assert not same([1.0], 1.0)
    assert not same(NAN, 0.0)
    assert not same(0.0, NAN)
    assert not same(0.0, 1e-6)
    assert not same(math.inf, 1.0)


@pytest.mark.parametrize("confidence", [0.5, 0.95, 0.999])
def test_wilson_interval_is_scipy_s(confidence):
    pairs = [(k, n) for n in (1, 2, 7, 40) for k in range(n + 1)]
    low, high = stats.wilson_interval(*torch.tensor(pairs).T, confidence)
    z = NormalDist().inv_cdf(0.5 + confidence / 2)
    assert same(low.tolist(), [plain.wilson(k, n, z)[0] for k, n in pairs], 1e-8)
    assert same(high.tolist(), [plain.wilson(k, n, z)[1] for k, n in pairs], 1e-8)
    for (k, n), one, two in zip(pairs, low.tolist(), high.tolist(), strict=True):
        expected = scipy_stats.binomtest(k, n).proportion_ci(confidence, method="wilson")
        assert same([one, two], [expected.low, expected.high])


def test_wilson_interval_ends_and_absence():
    low, high = stats.wilson_interval(torch.tensor([0, 5, 0]), torch.tensor([5, 5, 0]))
    assert low[0] == 0
    assert high[1] == 1
    assert low[2].isnan()
    assert high[2].isnan()
    assert low.dtype == high.dtype == torch.float64


@pytest.fixture
def sample():
    features, labels, num_classes = plain_draws.labelled("stats")
    return vector(*[row[0] for row in features]), torch.tensor(labels), num_classes


def test_bootstrap_is_the_plain_loop_s(sample):
    values, labels, num_classes = sample
    draws = stats.bootstrap_class_mean(values, labels, num_classes, 7, seed=3, name="recall")
    assert draws.shape == (7, num_classes)
    assert same(draws.tolist(), plain.bootstrap(values.tolist(), labels.tolist(), num_classes, 7, 3, "recall"))
    assert draws[:, 4].isnan().all()
    assert (draws[:, 5] == values[labels == 5]).all()


def test_bootstrap_does_not_depend_on_its_blocks(sample, monkeypatch):
    values, labels, num_classes = sample
    whole = stats.bootstrap_class_mean(values, labels, num_classes, 7, seed=3, name="recall")
    monkeypatch.setattr(stats, "_BLOCK", 2 * len(labels))
    blocks = stats.bootstrap_class_mean(values, labels, num_classes, 7, seed=3, name="recall")
    assert torch.equal(blocks.nan_to_num(99), whole.nan_to_num(99))
    other = stats.bootstrap_class_mean(values, labels, num_classes, 7, seed=4, name="recall")
    assert not torch.equal(other.nan_to_num(99), whole.nan_to_num(99))


def test_bootstrap_spreads_like_the_standard_error():
    values = vector(*[plain_draws.normal("bootstrap", i) for i in range(400)])
    draws = stats.bootstrap_class_mean(values, torch.arange(400) % 2, 2, 1000, seed=0, name="spread")
    expected = torch.stack([values[c::2].std(correction=0) / math.sqrt(200) for c in range(2)])
    assert same(draws.std(0).tolist(), expected.tolist(), 0.1 * float(expected.min()))
    assert abs(float(torch.corrcoef(draws.T)[0, 1])) < 0.15  # classes of one size are drawn independently


def test_interval_is_a_percentile_without_nan():
    draws = torch.tensor([[1.0, NAN, NAN], [2.0, 5.0, NAN], [4.0, NAN, NAN], [9.0, 6.0, NAN]])
    low, high = stats.interval(draws, 0.8)
    columns = list(zip(*draws.tolist(), strict=True))
    assert same(low.tolist(), [plain.percentile(column, 0.1) for column in columns], 1e-6)
    assert same(high.tolist(), [plain.percentile(column, 0.9) for column in columns], 1e-6)
    assert low.dtype == torch.float32
    low, high = stats.interval(draws[:, :, None].expand(4, 3, 2))
    assert low.shape == high.shape == (3, 2)


@pytest.mark.parametrize("key", range(3))
def test_rank_correlations_are_the_plain_ones(key):
    columns = [[round(plain_draws.normal(key, side, i)) / 1.0 for i in range(25)] for side in range(3)]
    columns[1] = [one + two for one, two in zip(columns[0], columns[1], strict=True)]
    columns[0][3], columns[1][7], columns[2][1] = NAN, math.inf, -math.inf
    first, second, given = (vector(*column) for column in columns)
    assert same(stats.spearman(first, second), plain.spearman(*columns[:2]))
    assert same(stats.spearman(first, second), float(scipy_stats.spearmanr(*plain.finite(*columns[:2])).statistic))
    assert same(stats.partial_spearman(first, second, given), plain.partial_spearman(*columns))


def test_rank_correlation_sees_order_only():
    first = vector(1, 5, 2, 8, 3)
    assert stats.spearman(first, first.exp()) == pytest.approx(1)
    assert stats.spearman(first, -(first**3)) == pytest.approx(-1)


def test_rank_correlation_is_undefined_for_few_or_constant_values():
    assert math.isnan(stats.spearman(vector(1, 2), vector(1, 2)))
    assert math.isnan(stats.spearman(vector(1, 2, NAN), vector(1, 2, 3)))
    assert math.isnan(stats.spearman(vector(1, 2, 3), vector(4, 4, 4)))
    assert math.isnan(stats.spearman(vector(0.1, 0.1, 0.1), vector(1, 2, 3)))
    given = vector(3, 1, 4, 2)
    assert math.isnan(stats.partial_spearman(vector(1, 2, 3), vector(1, 3, 2), vector(2, 1, 3)))
    assert math.isnan(stats.partial_spearman(vector(5, 5, 5, 5), vector(1, 3, 2, 4), given))
    assert math.isnan(stats.partial_spearman(given.exp(), vector(1, 3, 2, 4), given))


def test_partial_correlation_without_a_varying_given_is_the_plain_one():
    first, second = vector(1, 5, 2, 8, 3), vector(2, 1, 3, 9, 4)
    assert stats.partial_spearman(first, second, torch.ones(5)) == stats.spearman(first, second)


def test_partial_correlation_removes_a_common_cause():
    cause = vector(*[plain_draws.normal("cause", i) for i in range(400)])
    first, second = (
        cause + 0.5 * vector(*[plain_draws.normal(side, i) for i in range(400)]) for side in ("one", "two")
    )
    assert stats.spearman(first, second) > 0.6
    assert abs(stats.partial_spearman(first, second, cause)) < 0.15


def test_fit_on_log_count_is_the_plain_one():
    values, counts = [0.9, NAN, 0.8, 0.5, 0.55, 0.3, 0.1], [5000, 900, 300, 100, 40, 9, 0]
    fit = stats.fit_log_count(torch.tensor(values), torch.tensor(counts))
    expected = plain.fit_log_count(values, counts)
    assert same([fit.slope, fit.intercept, fit.r_squared, fit.predicted.tolist()], list(expected), 1e-6)
    assert fit.predicted.dtype == torch.float32
    assert fit.predicted[6].isnan()
    assert fit.predicted[1].isfinite()


def test_fit_recovers_a_line_in_log_n():
    counts = torch.tensor([1, 3, 10, 100, 1000])
    fit = stats.fit_log_count(0.2 + 0.1 * counts.double().log(), counts)
    assert same([fit.slope, fit.intercept, fit.r_squared], [0.1, 0.2, 1.0])
    fit = stats.fit_log_count(torch.full((5,), 0.3), counts)
    assert same([fit.slope, fit.r_squared], [0.0, NAN])


def test_fit_is_undefined_for_few_classes_or_equal_counts():
    values = torch.tensor([0.1, 0.2, 0.3, 0.4, 0.5])
    assert stats.fit_log_count(values, torch.tensor([9, 9, 9, 9, 9])) is None
    assert stats.fit_log_count(values, torch.tensor([9, 9, 9, 9, 0])) is None
    assert stats.fit_log_count(values[:4], torch.tensor([9, 8, 7, 6])) is None
    assert stats.fit_log_count(torch.where(values > 0.4, NAN, values), torch.tensor([9, 8, 7, 6, 5])) is None
    assert stats.fit_log_count(values, torch.tensor([9, 9, 9, 9, 8])) is not None


def test_matched_rows_are_the_plain_ones(sample):
    _, labels, num_classes = sample
    rows = stats.matched_rows(labels, num_classes, 4, 6, seed=2, name="vendi")
    assert rows.tolist() == plain.matched_rows(labels.tolist(), num_classes, 4, 6, 2, "vendi")
    assert (rows[4:] == -1).all()
    for c in range(4):
        assert (labels[rows[c]] == c).all()
        assert all(len(set(draw)) == 4 for draw in rows[c].tolist())
    assert len({tuple(sorted(draw)) for draw in rows[0].tolist()}) > 1


def test_matched_rows_of_a_class_ignore_the_others(sample, monkeypatch):
    _, labels, num_classes = sample
    rows = stats.matched_rows(labels, num_classes, 4, 6, seed=2, name="vendi")
    kept = (labels == 2).nonzero().flatten()
    alone = stats.matched_rows(torch.zeros(len(kept), dtype=torch.int64), 1, 4, 6, seed=2, name="vendi")
    assert torch.equal(kept[alone[0]], rows[2])
    renumbered = torch.tensor([3, 0, 5, 1, 2, 4])
    assert torch.equal(
        stats.matched_rows(renumbered[labels], num_classes, 4, 6, seed=2, name="vendi")[renumbered], rows
    )
    monkeypatch.setattr(stats, "_BLOCK", 20)
    assert torch.equal(stats.matched_rows(labels, num_classes, 4, 6, seed=2, name="vendi"), rows)


def test_matched_rows_of_the_whole_class_and_of_nothing():
    labels = torch.tensor([1, 1, 1])
    rows = stats.matched_rows(labels, 2, 3, 5, seed=0, name="all")
    assert rows[1].sort(1).values.tolist() == [[0, 1, 2]] * 5
    assert (stats.matched_rows(labels, 2, 4, 5, seed=0, name="all") == -1).all()
    assert stats.matched_rows(labels[:0], 2, 4, 5, seed=0, name="all").shape == (2, 5, 4)
    with pytest.raises(InputError, match="n must be at least 1, got 0"):
        stats.matched_rows(labels, 2, 0, 5, seed=0, name="all")


def test_matched_rows_choose_every_row_equally_often():
    rows = stats.matched_rows(torch.zeros(10, dtype=torch.int64), 1, 3, 3000, seed=1, name="even")
    counts = torch.bincount(rows.flatten(), minlength=10)
    assert float((counts - 900).abs().max()) < 5 * math.sqrt(3000 * 0.3 * 0.7)


def test_the_interval_of_a_mean_of_shares():
    share, low, high = (
        torch.tensor(v, dtype=torch.float64) for v in ([0.5, 1.0, NAN], [0.2, 0.7, NAN], [0.8, 1.0, NAN])
    )
    found = stats.mean_share_interval(share, low, high)
    assert found == pytest.approx((0.75 - math.hypot(0.3, 0.3) / 2, 0.75 + 0.3 / 2))
    one = stats.mean_share_interval(share[:1], low[:1], high[:1])
    assert one == pytest.approx((0.2, 0.8))  # one class: its own interval
    assert all(math.isnan(end) for end in stats.mean_share_interval(share[2:], low[2:], high[2:]))
