import math

from . import stats


def square_distance(one, two):
    return math.fsum((a - b) ** 2 for a, b in zip(one, two, strict=True))


def norm(row):
    return math.sqrt(sum(value**2 for value in row))


def cosine(one, two):
    return sum(a * b for a, b in zip(one, two, strict=True)) / (norm(one) * norm(two))


def centre(means):
    """The finite rows minus their mean, and which they are."""
    kept = [c for c, row in enumerate(means) if all(math.isfinite(value) for value in row)]
    middle = stats.mean_row([means[c] for c in kept])
    return [[value - m for value, m in zip(means[c], middle, strict=True)] for c in kept], kept


def scatter(features, labels, num_classes, means):
    squares = [square_distance(row, means[label]) for row, label in zip(features, labels, strict=True)]
    return stats.class_mean(squares, labels, num_classes)


def nc1(features, labels, num_classes):
    means = stats.class_mean_rows(features, labels, num_classes)
    between = stats.mean([norm(row) ** 2 for row in centre(means)[0]])
    sizes = [labels.count(c) for c in range(num_classes)]
    return [
        value * size / (size - 1) / between if size > 1 else math.nan
        for value, size in zip(scatter(features, labels, num_classes, means), sizes, strict=True)
    ]


def pairs(rows):
    return [(one, two) for place, one in enumerate(rows) for two in rows[:place]]


def nc2(means):
    rows, _ = centre(means)
    norms = [norm(row) for row in rows]
    average = stats.mean(norms)
    variation = math.sqrt(stats.mean([(value - average) ** 2 for value in norms])) / average
    angles = [abs(cosine(one, two) + 1 / (len(rows) - 1)) for one, two in pairs(rows)]
    return variation, stats.mean(angles)


def nc3(weight, means):
    rows, kept = centre(means)
    flat = [value for row in rows for value in row]
    head = [value for c in kept for value in weight[c]]
    a, b = norm(head), norm(flat)
    return norm([one / a - two / b for one, two in zip(head, flat, strict=True)])


def nc4(features, predictions, means):
    _, kept = centre(means)
    nearest = [min(kept, key=lambda c, row=row: square_distance(row, means[c])) for row in features]
    return stats.mean([float(a == b) for a, b in zip(nearest, predictions, strict=True)])


def minority_cosine(weight, counts):
    order = sorted(range(len(counts)), key=lambda c: (-counts[c], c))
    smallest = [weight[c] for rank, c in enumerate(order) if rank * 3 // len(order) == 2]
    return stats.mean([cosine(one, two) for one, two in pairs(smallest)])


def matched(measure, name, train, train_labels, heldout, heldout_labels, num_classes, n, count, seed):
    """`measure` of the drawn rows of both sides, per draw and class."""
    seen = stats.matched_rows(train_labels, num_classes, n, count, seed, f"{name}_train")
    unseen = stats.matched_rows(heldout_labels, num_classes, n, count, seed, f"{name}_heldout")
    return [
        [
            math.nan
            if seen[c][draw][0] < 0 or unseen[c][draw][0] < 0
            else measure([train[row] for row in seen[c][draw]], [heldout[row] for row in unseen[c][draw]])
            for c in range(num_classes)
        ]
        for draw in range(count)
    ]


def deviation(seen, unseen):
    return math.sqrt(square_distance(stats.mean_row(seen), stats.mean_row(unseen)))


def range_gap(seen, unseen):
    total = 0.0
    for one, two in zip(zip(*seen, strict=True), zip(*unseen, strict=True), strict=True):
        total += max(max(two) - max(one), 0) + max(min(one) - min(two), 0)
    return total
