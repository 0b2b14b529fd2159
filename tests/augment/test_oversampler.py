"""The over-sampler: imbalanced-learn's conventions, the parents of new rows, and the properties of every method."""

import subprocess
import sys
from collections import Counter

import numpy as np
import pytest
import torch
from conftest import synthetic
from imblearn.over_sampling import SMOTE, BorderlineSMOTE
from imblearn.utils.estimator_checks import parametrize_with_checks
from reference import oversample as plain
from sklearn.neighbors import NearestNeighbors
from sklearn.utils.estimator_checks import parametrize_with_checks as sklearn_checks

import diversify as dv
from diversify.augment import oversampler
from diversify.augment.oversampler import METHODS, DiversifyOverSampler, ExactNeighbors
from diversify.functional import oversample
from diversify.functional.neighbors import nearest_neighbors

SAMPLERS = [DiversifyOverSampler(method=method, random_state=0) for method in METHODS]
SIZES = [40, 25, 12, 4, 1]


@parametrize_with_checks(SAMPLERS)
def test_imbalanced_learn_s_own_checks(estimator, check):
    check(estimator)


@sklearn_checks(SAMPLERS)
def test_scikit_learn_s_own_checks(estimator, check):
    check(estimator)


def table(sizes=SIZES):
    features, labels = synthetic(sizes, "oversampling", num_features=6)
    return features, labels


def resampled(method, rows=None, **options):
    features, labels = rows or table()
    sampler = DiversifyOverSampler(method, random_state=3, **options)
    return (*sampler.fit_resample(features, labels), sampler)


@pytest.mark.parametrize("method", METHODS)
def test_new_rows_follow_the_input_and_lie_between_their_parents(method):
    features, labels = table()
    rows, targets, sampler = resampled(method)
    count = len(features)
    assert torch.equal(rows[:count], features)
    assert torch.equal(targets[:count], labels)
    assert rows.isfinite().all()
    assert sampler.parents_.shape == (len(rows) - count, 2)
    base, partner = torch.as_tensor(sampler.parents_).T
    assert torch.equal(labels[base], targets[count:])
    if method == "borderline_smote":  # a class without rows in danger stays as it is
        assert set(Counter(targets.tolist()).values()) <= {40, *SIZES}
    else:
        assert Counter(targets.tolist()) == dict.fromkeys(range(5), 40)
    made = rows[count:]
    if method == "random":
        assert torch.equal(made, features[base])
    elif method == "covariance":
        assert (made >= 0).all()
        assert not (made == features[base]).all(1).any()
    else:
        across = features[partner] - features[base]
        step = ((made - features[base]) * across).sum(1) / across.square().sum(1)
        step = step.nan_to_num(0)
        assert ((step >= -1e-5) & (step <= 1 + 1e-5)).all()
        assert torch.allclose(made, features[base] + step[:, None] * across, atol=1e-5)
        assert step.std() > 0.2
        if method != "eos":
            assert torch.equal(labels[partner], labels[base])


def test_eos_draws_bases_with_enemies_and_partners_among_them_uniformly():
    features, labels = table([60, 20, 9])
    _, targets, sampler = resampled("eos", (features, labels), k_neighbors=4, sampling_strategy={1: 4020, 2: 59})
    assert sampler.k_used_ == {1: 4, 2: 4}
    enemies = {row: plain.enemies(features.tolist(), labels.tolist(), row, 4) for row in range(60, 89)}
    assert all(partner in enemies[base] for base, partner in sampler.parents_.tolist())
    drawn = Counter(map(tuple, sampler.parents_[:4000].tolist()))
    bases = [row for row in range(60, 80) if enemies[row]]
    for row in bases:
        for other in enemies[row]:
            expected = 4000 / len(bases) / len(enemies[row])
            assert abs(drawn[row, other] - expected) < 6 * expected**0.5
    assert len(targets) == 60 + 4020 + 59


def test_a_class_without_enemies_goes_toward_itself_and_a_single_row_is_repeated():
    features, labels = table([30, 6, 1])
    features[labels == 1] += 1000
    features[labels == 2] -= 1000
    _, _, sampler = resampled("eos", (features, labels), k_neighbors=5)
    assert sampler.k_used_ == {1: 5, 2: 5}
    _, _, sampler = resampled("eos", (features, labels), k_neighbors=3)
    assert sampler.k_used_ == {1: 3, 2: 3}
    assert (labels[sampler.parents_[:24]] == 1).all()
    rows, targets, sampler = resampled("smote", (features, labels))
    assert sampler.k_used_ == {1: 5, 2: 0}
    assert (rows[targets == 2] == features[-1]).all()


@pytest.mark.parametrize("theirs", [SMOTE(random_state=3), BorderlineSMOTE(random_state=3)])
def test_smote_is_imbalanced_learn_s(theirs):
    features, labels = table([80, 40, 20])
    method = "smote" if isinstance(theirs, SMOTE) else "borderline_smote"
    rows, targets, _ = resampled(method, (features.numpy(), labels.numpy()))
    expected = theirs.fit_resample(features.numpy(), labels.numpy())
    assert (rows == expected[0]).all()
    assert (targets == expected[1]).all()
    assert len(rows) > 140


def test_smote_looks_up_neighbors_only_for_the_rows_it_draws(monkeypatch):

    features, labels = (one.numpy() for one in table([400, 200, 100, 1]))
    wanted = {1: 205, 2: 400, 3: 4}
    asked = []

    def watched(queries, *rest, **options):
        asked.append(len(queries))
        return nearest_neighbors(queries, *rest, **options)

    monkeypatch.setattr(oversampler, "nearest_neighbors", watched)
    rows, _, sampler = resampled("smote", (features, labels), sampling_strategy=wanted)
    bases = sampler.parents_[:, 0]
    assert asked == [len(set(bases[labels[bases] == label])) for label in (1, 2)]
    assert asked[0] <= 5
    del wanted[3]  # imbalanced-learn refuses a class with a single row
    expected = SMOTE(random_state=3, sampling_strategy=wanted).fit_resample(features, labels)[0]
    assert (rows[: len(expected)] == expected).all()


@pytest.mark.parametrize("method", METHODS)
def test_strength_zero_repeats_rows_and_more_goes_further(method):
    features, labels = table([80, 40, 20])
    far = []
    for strength in (0.0, 0.3, 1.0):
        rows, _, sampler = resampled(method, (features, labels), strength=strength)
        base = features[torch.as_tensor(sampler.parents_[:, 0])]
        far.append((rows[140:] - base).norm(dim=1))
    assert len(far[0])
    assert (far[0] == 0).all()
    if method != "random":
        assert (far[2] >= far[1]).all()
        assert far[2].mean() > 2 * far[1].mean() > 0


@pytest.mark.parametrize("dtype", [torch.float64, torch.float32, torch.bfloat16, torch.float16])
@pytest.mark.parametrize("method", ["eos", "smote", "covariance"])
def test_tensors_come_back_as_they_came(method, dtype):
    features, labels = table()
    rows, targets, _ = resampled(method, (features.to(dtype), labels.int()))
    assert (rows.dtype, targets.dtype, rows.device) == (dtype, torch.int32, features.device)
    assert torch.equal(rows[: len(features)], features.to(dtype))
    rows, targets, _ = resampled(method, (features.to(dtype), labels.numpy()))
    assert isinstance(rows, torch.Tensor)
    assert isinstance(targets, np.ndarray)


@pytest.mark.parametrize("method", METHODS)
def test_labels_may_be_words_in_a_list_or_an_array_of_any_kind(method):
    features, labels = table([20, 8, 3])
    words = [("cat", "dog", "left out")[label] for label in labels.tolist()]
    expected, numbers, _ = resampled(method, (features.numpy(), labels.numpy()))
    for named in (words, np.array(words), np.array(words, dtype=object)):
        rows, targets, sampler = resampled(method, (features.numpy(), named))
        assert (rows == expected).all()
        assert list(targets) == [("cat", "dog", "left out")[label] for label in numbers]
        assert set(sampler.k_used_) <= set(words)


def test_more_neighbors_than_rows_are_as_many_as_there_are():
    features, labels = table([30, 6, 1])
    features[labels == 1] += 1000  # no enemy among its nearest, until all rows are
    most, _, _ = resampled("eos", (features, labels), k_neighbors=36)
    more, _, sampler = resampled("eos", (features, labels), k_neighbors=10**12)
    assert torch.equal(more, most)
    assert sampler.k_used_ == {1: 36, 2: 36}
    labels = torch.tensor([0] * 30 + [1])
    equal = torch.zeros(31, 2)
    rows, _, _ = resampled("eos", (equal, labels), k_neighbors=10**12)
    assert len(rows) == 60


@pytest.mark.parametrize("method", METHODS)
def test_equal_rows_wide_rows_and_balanced_classes(method):
    labels = torch.tensor([0] * 9 + [1] * 3 + [2])
    rows, _, _ = resampled(method, (torch.full((13, 4), 0.1), labels))
    assert torch.allclose(rows, torch.tensor(0.1))
    rows, _, sampler = resampled(method, table([6, 6]))
    assert len(rows) == 12
    assert sampler.parents_.shape == (0, 2)
    wide, labels = synthetic([30, 5], "wide", num_features=300)
    rows, _, _ = resampled(method, (wide, labels))
    assert rows.isfinite().all()


@pytest.mark.parametrize("limit", [256, 4])
def test_pooled_donors_are_all_large_classes(limit, monkeypatch):

    monkeypatch.setattr(oversample, "FACTORED", limit)
    features, labels = table([400, 300, 30])
    features[:400, 0] *= 5
    expected = torch.tensor(plain.pooled_covariance((features - 1).tolist(), labels.tolist()), dtype=torch.float64)
    rows, _, sampler = resampled(
        "covariance", (features - 1, labels), strength=0.1, donors="pooled", sampling_strategy={2: 6000}
    )
    noise = rows[730:] - (features - 1)[sampler.parents_[:, 0]]
    assert torch.allclose(torch.cov(noise.double().T), expected * 0.3**2, atol=0.1 * float(expected.max()) * 0.3**2)


def test_noise_above_256_features_is_as_large_as_below(monkeypatch):

    features, labels = table([400, 30])
    sizes = []
    for limit in (256, 4):
        monkeypatch.setattr(oversample, "FACTORED", limit)
        rows, _, sampler = resampled("covariance", (features - 1, labels), strength=0.3)
        sizes.append((rows[430:] - (features - 1)[sampler.parents_[:, 0]]).std(0))
    assert torch.allclose(*sizes, rtol=0.25)


@pytest.mark.parametrize("state", [5, np.random.RandomState(5)])
def test_random_states_are_scikit_learn_s(state):
    features, labels = table()
    first = DiversifyOverSampler(random_state=5).fit_resample(features, labels)[0]
    assert torch.equal(DiversifyOverSampler(random_state=state).fit_resample(features, labels)[0], first)
    assert not torch.equal(DiversifyOverSampler(random_state=6).fit_resample(features, labels)[0], first)


@pytest.mark.slow
def test_the_same_rows_in_a_fresh_process():
    code = (
        "import sys, torch; sys.path[:0] = ['tests', 'tests/augment']; from test_oversampler import resampled;"
        "print([float(resampled(m)[0].double().sum()) for m in ('eos', 'smote', 'covariance', 'random')])"
    )
    output = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True).stdout
    here = [float(resampled(method)[0].double().sum()) for method in ("eos", "smote", "covariance", "random")]
    assert output.splitlines()[-1] == str(here)


def test_exact_neighbors_are_scikit_learn_s():
    features = table()[0].double().numpy()
    ours, theirs = ExactNeighbors(4).fit(features), NearestNeighbors(n_neighbors=4).fit(features)
    for query in (None, features, features[3:9]):
        got, expected = ours.kneighbors(query), theirs.kneighbors(query)
        assert (got[1] == expected[1]).all()
        assert np.allclose(got[0], expected[0], atol=1e-6)
        graphs = ours.kneighbors_graph(query), theirs.kneighbors_graph(query)
        assert (graphs[0].toarray() == graphs[1].toarray()).all()
    twice = np.repeat(features[:3], 2, 0)
    assert (ExactNeighbors(2).fit(twice).kneighbors(twice)[1] == [[0, 1], [1, 0], [2, 3], [3, 2], [4, 5], [5, 4]]).all()
    assert ExactNeighbors(5).fit(features[:3]).kneighbors(features[:3])[1].shape == (3, 3)
    assert ExactNeighbors(5).fit(features[:1]).kneighbors(features[:1])[1].tolist() == [[0, 0]]


def test_wrong_parameters_are_refused_in_scikit_learn_s_words():
    for options in ({"method": "adasyn"}, {"k_neighbors": 0}, {"strength": 1.5}, {"donors": "all"}):
        with pytest.raises(ValueError, match=next(iter(options))):
            DiversifyOverSampler(**options).fit_resample(*table())
    assert dv.DiversifyOverSampler is DiversifyOverSampler
