import math

import pytest
import torch
from reference import draws as plain_draws
from reference import magnitude as plain
from reference import stats as plain_stats
from reference.compare import same

from diversify.errors import InputError
from diversify.functional import counts, draws, magnitude

NAN = math.nan
COLUMNS = 5


def tensor(rows, dtype=torch.float64):
    return torch.tensor(rows, dtype=dtype)


@pytest.fixture(params=range(3))
def case(request):
    features, labels, num_classes = plain_draws.labelled(request.param, COLUMNS)
    weight = plain_draws.normals(num_classes, COLUMNS, "weight", request.param)
    bias = [plain_draws.normal("bias", request.param, c) for c in range(num_classes)]
    return features, labels, weight, bias


def class_means(case):
    features, labels, weight, _ = case
    embedding = magnitude.classification_embedding(tensor(features), tensor(weight), torch.tensor(labels))
    return embedding, counts.class_mean(embedding, torch.tensor(labels), len(weight))


def test_embedding_sums_to_the_logit(case):
    features, labels, weight, bias = case
    embedding, means = class_means(case)
    rows = [plain.embedding(row, weight[label]) for row, label in zip(features, labels, strict=True)]
    assert same(embedding.tolist(), rows)
    own = [plain.logits(row, weight, bias)[label] for row, label in zip(features, labels, strict=True)]
    assert same((embedding.sum(1) + tensor(bias)[labels]).tolist(), own)
    assert same(means.tolist(), plain_stats.class_mean_rows(rows, labels, len(weight)))


@pytest.mark.parametrize("k", [1, 2, COLUMNS])
def test_top_k_and_what_reads_it_are_the_plain_loops(case, k):
    features, labels, weight, _ = case
    _, means = class_means(case)
    indices = magnitude.top_k(means, k)
    assert indices.tolist() == plain.top_k(means.tolist(), k)
    assert indices[4].tolist() == [-1] * k
    share = magnitude.top_k_share(means, indices)
    assert same(share.tolist(), plain.top_k_share(means.tolist(), indices.tolist()))
    for head in (None, weight):
        values = magnitude.top_k_magnitude(
            tensor(features), None if head is None else tensor(head), torch.tensor(labels), indices
        )
        assert same(values.tolist(), plain.top_k_magnitude(features, head, labels, indices.tolist()))
    first, second = indices.tolist(), magnitude.top_k(means.flip(1), k).tolist()
    overlap = magnitude.identity_overlap(indices, torch.tensor(second), COLUMNS)
    assert same(overlap.tolist(), [plain.overlap(*pair) for pair in zip(first, second, strict=True)])
    matrix = magnitude.identity_overlap_matrix(indices, COLUMNS)
    assert same(matrix.tolist(), [[plain.overlap(one, two) for two in first] for one in first])


def test_all_features_are_the_whole_share_and_overlap(case):
    _, means = class_means(case)
    indices = magnitude.top_k(means, COLUMNS)
    present = torch.tensor([0, 1, 2, 3, 5])
    assert same(magnitude.top_k_share(means, indices)[present].tolist(), [1.0] * 5)
    assert (magnitude.identity_overlap_matrix(indices, COLUMNS)[present][:, present] == 1).all()


def test_top_k_breaks_ties_by_index_and_reads_negative_means():
    means = tensor([[1.0, 3.0, 1.0, 3.0], [-1.0, -2.0, -1.0, -3.0], [NAN, 1.0, 2.0, 3.0]])
    indices = magnitude.top_k(means, 3)
    assert indices.tolist() == [[1, 3, 0], [0, 2, 1], [-1, -1, -1]]
    assert same(magnitude.top_k_share(means, indices).tolist(), [7 / 8, NAN, NAN])


def test_share_counts_positive_parts_only():
    means = tensor([[2.0, -5.0, 1.0, 1.0]])
    assert same(magnitude.top_k_share(means, magnitude.top_k(means, 2)).tolist(), [0.75])
    assert same(magnitude.top_k_share(means, magnitude.top_k(means, 4)).tolist(), [1.0])


@pytest.mark.parametrize("k", [0, 4, -1])
def test_top_k_refuses_k_outside_the_features(k):
    with pytest.raises(InputError, match=rf"k must lie in \[1, 3\], the number of features, got {k}"):
        magnitude.top_k(torch.zeros(2, 3), k)


def test_ratio_and_gap():
    train, heldout = tensor([2.0, 0.0, -1.0, NAN, 4.0]), tensor([1.0, 1.0, 1.0, 1.0, NAN])
    assert same(magnitude.magnitude_ratio(train, heldout).tolist(), [0.5, NAN, NAN, NAN, NAN])
    assert same(magnitude.magnitude_gap(train, heldout).tolist(), [1.0, -1.0, -2.0, NAN, NAN])


def test_needed_features_are_the_plain_loop_s(case):
    features, labels, weight, bias = case
    tensors = tensor(features), tensor(weight), tensor(bias)
    count, mask = magnitude.needed_features(*tensors)
    expected = [plain.needed(row, weight, bias) for row in features]
    assert count.tolist() == [len(used) for used in expected]
    assert [row.nonzero().flatten().tolist() for row in mask] == [sorted(used) for used in expected]
    assert torch.equal(magnitude.number_needed(*tensors), count)
    frequency = magnitude.needed_frequency(*tensors, torch.tensor(labels))
    assert same(frequency.tolist(), plain.needed_frequency(features, weight, bias, labels))
    assert frequency[4].isnan().all()
    count, _ = magnitude.needed_features(*tensors, torch.tensor(labels))
    expected = [plain.needed(row, weight, bias, label) for row, label in zip(features, labels, strict=True)]
    assert count.tolist() == [len(used) for used in expected]


def test_needed_features_do_not_depend_on_blocks(case, monkeypatch):
    features, labels, weight, bias = (tensor(part) if part is not case[1] else torch.tensor(part) for part in case)
    count, mask = magnitude.needed_features(features, weight, bias, labels)
    frequency = magnitude.needed_frequency(features, weight, bias, labels)
    monkeypatch.setattr(magnitude, "_BLOCK", 3 * len(weight))
    assert torch.equal(magnitude.needed_features(features, weight, bias, labels)[0], count)
    assert torch.equal(magnitude.needed_features(features, weight, bias, labels)[1], mask)
    assert torch.equal(magnitude.number_needed(features, weight, bias, labels), count)
    assert torch.equal(
        magnitude.needed_frequency(features, weight, bias, labels).nan_to_num(9), frequency.nan_to_num(9)
    )


def test_number_needed_by_hand():
    weight, bias = tensor([[1.0, 1.0, 1.0, -1.0], [0.0, 0.0, 0.0, 0.0]]), tensor([0.0, 3.0])
    rows = tensor([[3.0, 2.0, 1.0, 1.0], [3.0, 1.0, 1.0, 0.0], [9.0, 0.0, 0.0, 0.0], [2.0, 1.0, 1.0, 1.0]])
    # logits 5, 5, 9, 3 against 3; the last one ties, goes to class 0 and needs all that is positive
    assert magnitude.number_needed(rows, weight, bias).tolist() == [2, 1, 1, 3]


def test_none_are_needed_where_the_bias_alone_wins():
    weight, bias = tensor([[1.0, 1.0], [1.0, 0.0]]), tensor([5.0, 0.0])
    count, mask = magnitude.needed_features(tensor([[1.0, 1.0], [0.0, 0.0]]), weight, bias)
    assert count.tolist() == [0, 0]
    assert not mask.any()


def test_number_needed_survives_rounding_and_a_class_that_cannot_win():
    """0.1 + 0.2 + 0.3 summed in another order than the runner-up's logit is a rounding step short of it."""
    features, bias = tensor([[0.1, 0.2, 0.3, 0.0]]), torch.zeros(2, dtype=torch.float64)
    weight = tensor([[1.0, 1.0, 1.0, 1.0], [1.0, 1.0, 1.0, 0.0]])
    count, mask = magnitude.needed_features(features, weight, bias)
    assert count.tolist() == [3]
    assert mask.tolist() == [[True, True, True, False]]
    bias = tensor([0.0, 100.0])
    assert magnitude.number_needed(features, weight, bias, torch.tensor([0])).tolist() == [3]
    many = torch.tensor([plain_draws.normals(1, 300, "rounding")[0]] * 7, dtype=torch.float32)
    weight = torch.tensor(plain_draws.normals(1, 300, "row") * 2, dtype=torch.float32)
    count = magnitude.number_needed(many, weight, torch.zeros(2))  # two equal rows: every logit ties
    assert (count <= (many[0] * weight[0] > 0).sum()).all()
    assert (count > 100).all()


def test_a_positive_scale_of_the_head_changes_no_share_ratio_overlap_or_number(case):
    features, labels, weight, bias = case
    labels = torch.tensor(labels)
    results = []
    for scale in (1.0, 4.0):
        head = scale * tensor(weight)
        embedding = magnitude.classification_embedding(tensor(features), head, labels)
        train = counts.class_mean(embedding[::2], labels[::2], len(weight))
        heldout = counts.class_mean(embedding[1::2], labels[1::2], len(weight))
        indices = magnitude.top_k(train, 2)
        values = [
            counts.class_mean(
                magnitude.top_k_magnitude(tensor(features)[side::2], head, labels[side::2], indices),
                labels[side::2],
                len(weight),
            )
            for side in (0, 1)
        ]
        results.append(
            [
                magnitude.top_k_share(train, indices).tolist(),
                magnitude.magnitude_ratio(*values).tolist(),
                magnitude.identity_overlap(indices, magnitude.top_k(heldout, 2), COLUMNS).tolist(),
                magnitude.number_needed(tensor(features), head, scale * tensor(bias)).tolist(),
            ]
        )
    assert same(*results)


def test_renamed_features_and_classes_keep_the_results(case):
    features, labels, weight, bias = (tensor(part) if part is not case[1] else torch.tensor(part) for part in case)
    features = features + 1e-3 * tensor(plain_draws.normals(len(features), COLUMNS, "untie"))
    order, names = torch.tensor([3, 0, 4, 1, 2]), torch.tensor([2, 5, 0, 4, 3, 1])
    renamed_weight, renamed_bias = torch.empty_like(weight), torch.empty_like(bias)
    renamed_weight[names], renamed_bias[names] = weight[:, order], bias
    count, mask = magnitude.needed_features(features, weight, bias)
    renamed_count, renamed_mask = magnitude.needed_features(features[:, order], renamed_weight, renamed_bias)
    assert torch.equal(renamed_count, count)
    assert torch.equal(renamed_mask, mask[:, order])
    means = counts.class_mean(features * weight[labels], labels, 6)
    renamed = counts.class_mean(features[:, order] * renamed_weight[names[labels]], names[labels], 6)
    indices, renamed_indices = magnitude.top_k(means, 2), magnitude.top_k(renamed, 2)[names]
    present = indices[:, 0] >= 0
    assert torch.equal(order[renamed_indices[present]], indices[present])


def test_channels_are_matched_as_by_the_best_of_all_permutations(case):
    first = case[0]
    second = [
        [2 * row[place] + 0.8 * plain_draws.normal("noise", i, place) for place in (2, 0, 4, 1, 3)]
        for i, row in enumerate(first)
    ]
    partner = magnitude.match_channels(tensor(first), tensor(second))
    assert partner.tolist() == plain.match_channels(first, second)


def test_matching_undoes_a_permutation_a_shift_and_a_scale():
    first = tensor(plain_draws.normals(30, COLUMNS, "match"))
    order = torch.tensor([3, 0, 4, 1, 2])
    second = 7 + 3 * first[:, order]
    assert torch.equal(second[:, magnitude.match_channels(first, second)], 7 + 3 * first)
    assert magnitude.match_channels(first, first).tolist() == list(range(COLUMNS))


def test_a_constant_channel_is_left_over():
    first = tensor(plain_draws.normals(31, 3, "match")) + 1
    first[:, 1] = 0.7  # over 31 rows its mean is a rounding step off
    second = first[:, [1, 2, 0]]
    assert magnitude.match_channels(first, second).tolist() == [2, 0, 1]
    against = torch.stack([first[:, 1], 0.5 * tensor(plain_draws.normals(31, 1, "noise"))[:, 0] - first[:, 0]], dim=1)
    # two constants are no pair: the other two columns, which correlate negatively, are better left apart
    assert magnitude.match_channels(first[:, [1, 0]], against).tolist() == [1, 0]
    with pytest.raises(InputError, match=r"second must have the shape of first, \(31, 3\), got \(30, 3\)"):
        magnitude.match_channels(first, second[1:])


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
def test_dtype_follows_the_input(case, dtype):
    features, labels, weight, bias = case
    features, weight, bias, labels = (
        tensor(features, dtype),
        tensor(weight, dtype),
        tensor(bias, dtype),
        torch.tensor(labels),
    )
    means = counts.class_mean(features, labels, len(weight))
    indices = magnitude.top_k(means, 2)
    assert indices.dtype == torch.int64
    for result in (
        means,
        magnitude.top_k_share(means, indices),
        magnitude.top_k_magnitude(features, weight, labels, indices),
        magnitude.top_k_magnitude(features, None, labels, indices),
        magnitude.needed_frequency(features, weight, bias, labels),
        magnitude.magnitude_ratio(means[:, 0], means[:, 1]),
    ):
        assert result.dtype == dtype
    assert magnitude.number_needed(features[:0], weight, bias).tolist() == []


def test_the_bootstrap_of_the_overlap_is_a_plain_loop() -> None:
    features = draws.uniform("rows", torch.arange(9 * 6)).view(9, 6)
    weight = draws.uniform("weight", torch.arange(4 * 6)).view(4, 6) - 0.3
    labels = torch.tensor([0, 0, 0, 0, 1, 1, 1, 3, 3])
    indices = torch.tensor([[0, 1], [2, 3], [0, 1], [-1, -1]])
    drawn = magnitude.bootstrap_identity_overlap(features, weight, labels, indices, 5, seed=3)
    for draw in range(5):
        for c in (0, 1):
            rows = (labels == c).nonzero().flatten().tolist()
            positions = torch.arange(len(rows))
            chosen = draws.integers(len(rows), "identity overlap", 3, c, draw, positions).tolist()
            means = [
                math.fsum(float(features[rows[i], d]) * float(weight[c, d]) for i in chosen) / len(chosen)
                for d in range(6)
            ]
            (top,) = plain.top_k([means], 2)
            assert float(drawn[draw, c]) == len(set(top) & set(indices[c].tolist())) / 2
    assert drawn[:, 2:].isnan().all()  # no rows; no top-K


def test_blocks_of_rows_change_no_magnitude(monkeypatch):
    features, weight = torch.arange(33.0).view(11, 3), torch.arange(6.0).view(2, 3)
    labels, indices = torch.arange(11) % 2, torch.tensor([[2, 0], [-1, -1]])
    whole = magnitude.top_k_magnitude(features, weight, labels, indices)
    monkeypatch.setattr(magnitude, "_BLOCK", 8)
    blocks = magnitude.top_k_magnitude(features, weight, labels, indices)
    assert torch.equal(blocks.isnan(), labels == 1)
    assert torch.equal(blocks[::2], whole[::2])
    assert magnitude.top_k_magnitude(features[:0], weight, labels[:0], indices).shape == (0,)


def test_few_of_many_features_are_those_of_a_whole_sort():
    rows = (3 * draws.normal("sort", torch.arange(40 * 90)).view(40, 90)).round()  # many ties
    rows[0] = 1.0
    whole = rows.sort(dim=1, descending=True, stable=True).indices
    assert torch.equal(magnitude.top_k(rows, 7), whole[:, :7])
    weight, bias = draws.normal("head", torch.arange(3 * 90)).view(3, 90), torch.zeros(3)
    count, mask = magnitude.needed_features(rows, weight, bias, torch.arange(40) % 3)
    monkey = pytest.MonkeyPatch()
    monkey.setattr(magnitude, "_FEW", 90)
    assert torch.equal(magnitude.needed_features(rows, weight, bias, torch.arange(40) % 3)[1], mask)
    monkey.undo()
    assert int(count.max()) > magnitude._FEW // 4
