"""Near copies among features: false alarms on independent rows, copies that are found, and components."""

import torch
from reference import near_copies as reference

from diversify.functional import draws, whitening
from diversify.functional.near_copies import copy_components, copy_space, nearest_copy

SIZES = [80, 60, 40, 30, 20, 12, 8, 5]
LABELS = torch.repeat_interleave(torch.arange(len(SIZES)), torch.tensor(SIZES))


def normal(*key, dimensions=16):
    return draws.normal(*key, torch.arange(len(LABELS))[:, None], torch.arange(dimensions)).double()


def independent(kind, seed):
    """Independent rows, each class with its own scale and centre."""
    scale = torch.exp(0.3 * draws.normal("scale", seed, torch.arange(len(SIZES)))).double()[LABELS][:, None]
    rows = normal(kind, seed, dimensions=3 if kind == "few" else 48)
    if kind == "relu":
        rows = (rows + normal("shift", 0, dimensions=48)[0]).relu()
    if kind == "decay":
        rows = rows * torch.logspace(0, -2, 48)
    if kind == "heavy":
        rows = (
            rows * draws.normal("tail", seed, torch.arange(len(LABELS))).double().abs().clamp(min=0.2)[:, None].rsqrt()
        )
    return (scale * rows + 3 * draws.normal("centre", seed, torch.arange(len(SIZES))).double()[LABELS][:, None]).float()


def components(features, labels, num_classes):
    space = copy_space(features, labels, num_classes)
    placed = space.place(features, labels)
    return [
        len(copy_components(placed[labels == c], float(space.limits[c])).unique()) if (labels == c).any() else 0
        for c in range(num_classes)
    ]


def test_independent_rows_are_no_copies():
    wrong = sum(
        found != size
        for kind in ("gauss", "relu", "decay", "heavy", "few")
        for seed in range(8)
        for found, size in zip(components(independent(kind, seed), LABELS, len(SIZES)), SIZES, strict=True)
    )
    assert wrong <= 0.01 * 5 * 8 * len(SIZES)


def test_copies_with_a_little_noise_are_counted_once():
    rows = independent("relu", 0)
    first = torch.arange(len(rows)) // 4 * 4  # four copies of every fourth row
    first[LABELS[first] != LABELS] = torch.arange(len(rows))[LABELS[first] != LABELS]
    noise = 0.02 * normal("noise", dimensions=48).float()
    wanted = [len(first[c == LABELS].unique()) for c in range(len(SIZES))]
    assert components(rows[first] + noise, LABELS, len(SIZES)) == wanted
    assert components(rows[first], LABELS, len(SIZES)) == wanted


def test_a_scaled_turned_or_shifted_space_gives_the_same_pairs():
    rows, turn = independent("relu", 1), torch.linalg.qr(normal("turn", dimensions=48)[:48])[0].float()
    rows[1], rows[-1] = rows[0] + 0.01, rows[-2] + 0.01
    assert components(rows, LABELS, 8) == components(100 * rows @ turn + 7, LABELS, 8)


def test_rows_that_say_nothing_have_no_copies():
    rows = independent("gauss", 0)
    rows[:10] = 0
    assert components(rows, LABELS, 8) == SIZES
    assert components(torch.ones(6, 3), torch.arange(6) % 2, 2) == [3, 3]
    assert bool(copy_space(torch.ones(6, 3), torch.arange(6) % 2, 2).scales.isnan().all())
    one = copy_space(rows[:3], torch.arange(3), 3)  # no class has two rows
    assert one.limits.tolist() == [0, 0, 0]


def test_components_join_chains_across_blocks():
    line = torch.arange(1300.0)[:, None] * 0.1
    assert (
        len(copy_components(line[torch.randperm(1300, generator=torch.Generator().manual_seed(0))], 0.15).unique()) == 1
    )
    assert len(copy_components(line * 2, 0.15).unique()) == 1300
    parts = copy_components(torch.cat([line, line + 1e4])[torch.arange(2600) % 1300 * 2 % 2600], 0.5)
    assert len(parts.unique()) == 2


def test_the_nearest_copy_leaves_out_the_row_itself():
    rows = torch.tensor([[0.0], [0.1], [0.25], [9.0]])
    nearest, distance, number = nearest_copy(rows, rows, 0.2, same=torch.arange(4))
    assert nearest.tolist() == [1, 0, 1, -1]
    assert number.tolist() == [1, 2, 1, 0]
    assert bool(distance[3].isinf())
    assert nearest_copy(rows, rows[:0], 0.2)[0].tolist() == [-1] * 4


def test_components_and_nearest_copies_are_those_of_a_plain_loop():
    rows = draws.uniform("plain", torch.arange(80)[:, None], torch.arange(3)).double()
    for limit in (0.05, 0.12, 0.2, 0.4):
        assert len(copy_components(rows, limit).unique()) == reference.components(rows.tolist(), limit)
        found = nearest_copy(rows[:10], rows[10:], limit)[0].tolist()
        assert found == [reference.nearest(row, rows[10:].tolist(), limit) for row in rows[:10].tolist()]


def test_float32_rules_out_no_pair():
    rows = normal("near the limit", dimensions=8)[:120] * 0.3 + 40  # far from 0, so that float32 rounds much
    limit = float(torch.pdist(rows).quantile(0.02))
    rows[7] = torch.nan
    squares = (rows[:, None] - rows[None]).square().sum(2)
    squares.fill_diagonal_(torch.inf)
    near = squares < limit**2
    index, _, number = nearest_copy(rows, rows, limit, same=torch.arange(120))
    assert number.tolist() == near.sum(1).tolist()
    nearest = squares.nan_to_num(torch.inf, posinf=torch.inf).argmin(1)
    assert index.tolist() == torch.where(near.any(1), nearest, -1).tolist()
    parts, reached = copy_components(rows, limit), near | torch.eye(120, dtype=torch.bool)
    for _ in range(7):
        reached = (reached.double() @ reached.double()) > 0
    assert torch.equal(parts[:, None] == parts[None], reached)
    assert bool(near.any())
    assert len(parts.unique()) > 5


def test_blocks_of_rows_change_no_direction(monkeypatch):
    rows = independent("relu", 2)
    means, directions = whitening.within_class_directions(rows, LABELS, 8)
    monkeypatch.setattr(whitening, "_BLOCK", 48 * 7)  # seven rows at a time
    in_blocks = whitening.within_class_directions(rows, LABELS, 8)
    assert torch.equal(in_blocks[0], means)
    assert torch.allclose(in_blocks[1] @ in_blocks[1].T, directions @ directions.T)
