import math

import pytest
import torch
from reference import draws as plain

from diversify.functional import draws

KEYS = torch.arange(20_000)


def test_the_published_vector_of_splitmix64():
    states = [1234567 + step * 0x9E3779B97F4A7C15 for step in range(5)]
    words = draws.bits(torch.tensor([plain.signed(state & plain.WORD) for state in states]))
    assert [word & plain.WORD for word in words.tolist()] == [
        6457827717110365317,
        3203168211198807973,
        9817491932198370423,
        4593380528125082431,
        16408922859458223821,
    ]


@pytest.mark.parametrize("key", [("flip", 0, 3), (-1, "a"), (2**40, 2**63 - 1), ()])
def test_words_are_those_of_python_integers(key):
    index = [-(2**63), -1, 0, 1, 5, 2**63 - 1]
    expected = [plain.signed(plain.word(*key, i)) for i in index]
    assert draws.bits(*key, torch.tensor(index)).tolist() == expected


def test_a_part_of_the_key_is_the_same_as_number_and_as_tensor():
    index = torch.arange(7)
    expected = draws.bits("name", 3, index, 9)
    assert torch.equal(draws.bits("name", torch.tensor(3), index, torch.tensor(9)), expected)
    assert torch.equal(draws.bits("name", torch.full((7,), 3), index, torch.full((7,), 9)), expected)
    assert not torch.equal(draws.bits("name", 4, index, 9), expected)
    assert not torch.equal(draws.bits("other", 3, index, 9), expected)
    assert not torch.equal(draws.bits("name", 3, 9, index), expected)


def test_keys_broadcast():
    table = draws.bits("name", torch.arange(3)[:, None], torch.arange(4))
    assert table.shape == (3, 4)
    assert table[2, 1] == draws.bits("name", 2, torch.tensor(1))


def test_a_key_without_a_tensor_is_refused():
    with pytest.raises(TypeError, match="needs a tensor"):
        draws.bits("name", 3)


def test_seed_for_is_the_word_without_its_last_bit():
    assert draws.seed_for("sampler", 7, 2) == plain.word("sampler", 7, 2) >> 1
    assert 0 <= draws.seed_for("sampler", -1) < 2**63


def test_uniform_numbers_are_those_of_python_and_lie_below_one():
    numbers = draws.uniform("name", 5, KEYS)
    assert numbers.dtype == torch.float32
    assert numbers[:50].tolist() == [plain.uniform("name", 5, i) for i in range(50)]
    assert float(numbers.min()) >= 0
    assert float(numbers.max()) < 1


def test_integers_are_those_of_python():
    expected = [plain.integer(7, "name", 5, i) for i in range(50)]
    assert draws.integers(7, "name", 5, KEYS[:50]).tolist() == expected
    high = torch.tensor([1, 2, 2**31])
    assert draws.integers(high, "name", KEYS[:3]).tolist() == [
        plain.integer(h, "name", i) for i, h in enumerate(high.tolist())
    ]


def chi_square(words, cells):
    expected = len(words) / cells
    return float(((torch.bincount(words, minlength=cells) - expected).square() / expected).sum())


def test_chi_square_sees_uneven_draws():
    even, uneven = KEYS % 100, KEYS.clamp(max=15_000) % 100
    assert chi_square(even, 100) == 0
    assert chi_square(uneven, 100) > 200


@pytest.mark.parametrize("seed", range(4))
def test_draws_are_uniform_and_consecutive_keys_are_unrelated(seed):
    cells = draws.integers(100, "uniform", seed, KEYS)
    assert 46 < chi_square(cells, 100) < 173  # 99 degrees of freedom: 5 standard deviations either side
    pairs = cells[:-1] // 10 * 10 + cells[1:] // 10
    assert 46 < chi_square(pairs, 100) < 173
    numbers = draws.uniform("uniform", seed, KEYS).double()
    others = draws.uniform("uniform", seed + 1, KEYS).double()
    for one, two in ((numbers[:-1], numbers[1:]), (numbers, others)):
        assert abs(float(torch.corrcoef(torch.stack([one, two]))[0, 1])) < 5 / math.sqrt(len(KEYS))


def test_each_bit_is_fair():
    words = draws.bits("bits", KEYS)
    ones = torch.stack([(words >> place) & 1 for place in range(64)]).double().mean(1)
    assert float((ones - 0.5).abs().max()) < 5 * 0.5 / math.sqrt(len(KEYS))


@pytest.mark.parametrize("count", [0, 1, 2, 257])
def test_permutation_is_one(count):
    order = draws.permutation(count, "order", 3)
    assert sorted(order.tolist()) == list(range(count))


def test_permutations_are_equally_likely():
    words = [draws.permutation(3, "order", seed).tolist() for seed in range(1200)]
    index = torch.tensor([a * 9 + b * 3 + c for a, b, c in words])
    _, counts = index.unique(return_counts=True)
    assert len(counts) == 6
    assert chi_square(index.unique(return_inverse=True)[1], 6) < 30  # 5 degrees of freedom: p = 1e-5


def test_keys_of_any_layout_give_the_same_draws_and_stay_as_they_are() -> None:
    key = torch.arange(12).view(3, 4)
    turned, kept = key.T, key.clone()
    assert torch.equal(draws.bits("layout", turned), draws.bits("layout", key).T)
    assert torch.equal(draws.bits("layout", key[:, :1].expand(3, 5), 7)[:, 4], draws.bits("layout", key[:, 0], 7))
    assert torch.equal(draws.bits(turned, "layout"), draws.bits(key, "layout").T)
    assert draws.bits("layout", torch.tensor(3)) == draws.bits("layout", torch.arange(4))[3]
    assert draws.bits("layout", torch.arange(0)).shape == (0,)
    assert torch.equal(key, kept)
