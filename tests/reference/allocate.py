"""The order of an epoch, one position after the other, in plain Python."""

import math

from . import draws


def apportion(shares, total, seed, epoch):
    """Walk along the shares in a random order; a class gets the marks (offset + 0, 1, 2, ...) that lie in its stretch."""
    order = permutation(len(shares), "apportion", seed, epoch)
    offset = draws.uniform("remainder", seed, epoch, 0) + 2**-25
    counts, end, whole = [0] * len(shares), 0.0, sum(shares)
    for place in order:
        before, end = math.floor(end + offset), end + shares[place] * total / whole
        counts[place] = math.floor(end + offset) - before
    return counts


def permutation(count, *key):
    return sorted(range(count), key=lambda index: (draws.signed(draws.word(*key, index)), index))


def epoch_order(labels, shares, total, seed, epoch):
    """Deal all epochs up to this one; the decks of the classes are never put back."""
    decks, turns = {c: [] for c in range(len(shares))}, [0] * len(shares)
    for number in range(epoch + 1):
        wanted = apportion(shares, total, seed, number)
        dealt = [c for c, times in enumerate(wanted) for _ in range(times)]
        class_at = [None] * total
        for c, position in zip(dealt, permutation(total, "order", seed, number), strict=True):
            class_at[position] = c
        order = []
        for c in class_at:
            if not decks[c]:
                rows = [row for row, label in enumerate(labels) if label == c]
                words = {row: draws.signed(draws.word("within", seed, turns[c], row)) for row in rows}
                decks[c] = sorted(rows, key=lambda row: words[row])
                turns[c] += 1
            order.append(decks[c].pop(0))
    return order
