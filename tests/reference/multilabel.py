"""Plain-Python losses and measures for several labels per image."""

import math


def sigmoid(z):
    return 1 / (1 + math.exp(-z))


def mean_over_cells(term, logits, targets):
    cells = [
        term(z, y, n, c)
        for n, (row, wanted) in enumerate(zip(logits, targets, strict=True))
        for c, (z, y) in enumerate(zip(row, wanted, strict=True))
    ]
    return math.fsum(cells) / len(cells)


def focal(logits, targets, gamma, weights):
    def term(z, y, n, c):
        p = sigmoid(z)
        return -weights[c] * y * (1 - p) ** gamma * math.log(p) - (1 - y) * p**gamma * math.log(1 - p)

    return mean_over_cells(term, logits, targets)


def asymmetric(logits, targets, gamma_positive, gamma_negative, clip):
    def term(z, y, n, c):
        p = sigmoid(z)
        shifted = max(p - clip, 0)
        negative = shifted**gamma_negative * math.log(1 - shifted)
        return -y * (1 - p) ** gamma_positive * math.log(p) - (1 - y) * negative

    return mean_over_cells(term, logits, targets)


def distribution_balanced(logits, targets, positives, images, alpha, beta, mu, scale, kappa):
    def term(z, y, n, c):
        own = math.fsum(t / count for t, count in zip(targets[n], positives, strict=True))
        weight = alpha + (sigmoid(beta * (1 / positives[c] / own - mu)) if own else 1)
        shifted = z - kappa * math.log(images / positives[c] - 1)
        negative = math.log(1 + math.exp(scale * shifted)) / scale
        return weight * (y * math.log(1 + math.exp(-shifted)) + (1 - y) * negative)

    return mean_over_cells(term, logits, targets)


def average_precision(scores, labels):
    """The mean, over positives, of the precision among all images that score at least as high."""
    positives = [s for s, y in zip(scores, labels, strict=True) if y]
    if not positives:
        return math.nan
    total = 0.0
    for own in positives:
        above = [y for s, y in zip(scores, labels, strict=True) if s >= own]
        total += sum(above) / len(above)
    return total / len(positives)


def f1_at(scores, labels, threshold):
    hits = sum(1 for s, y in zip(scores, labels, strict=True) if y and s >= threshold)
    called = sum(1 for s in scores if s >= threshold)
    return 2 * hits / (sum(labels) + called)


def cooccurrence(labels):
    def share(a, b):
        rows = [row for row in labels if row[a]]
        return sum(row[b] for row in rows) / len(rows) if rows else math.nan

    classes = range(len(labels[0]))
    return [[share(a, b) for b in classes] for a in classes]


def calibration_error(logits, labels, bins):
    members = {}
    for z, y in zip(logits, labels, strict=True):
        p = sigmoid(z)
        members.setdefault(min(max(math.ceil(p * bins) - 1, 0), bins - 1), []).append(y - p)
    return sum(abs(math.fsum(cell)) for cell in members.values()) / len(logits)


def iterative_holdout(labels, fraction, order):
    """Iterative stratification of images into (kept, held) with labels and pairs of labels; `order` breaks ties."""
    evidence = []
    for row in labels:
        own = [c for c, mark in enumerate(row) if mark]
        evidence.append([(c,) for c in own] + [(a, b) for a in own for b in own if a < b])
    names = sorted({one for row in evidence for one in row}, key=lambda one: (len(one), one))
    total = {one: sum(one in row for row in evidence) for one in names}
    names = [one for one in names if len(one) == 1 or total[one] > 1]
    evidence = [[one for one in row if one in names] for row in evidence]
    total = {one: total[one] for one in names}
    wanted = {}
    for one, n in total.items():
        held = n * fraction
        if len(one) == 1:
            held = min(max(round(held), 1 if n >= 2 else 0), n - 1)
        wanted[one] = [n - held, held]
    images = [len(labels) * (1 - fraction), len(labels) * fraction]
    side = {}

    def put(row, lacking):
        one = 1 if lacking[1] > lacking[0] or (lacking[1] == lacking[0] and images[1] > images[0]) else 0
        side[row] = one
        images[one] -= 1
        for name in evidence[row]:
            wanted[name][one] -= 1

    while True:
        left = {one: [row for row in order if row not in side and one in evidence[row]] for one in names}
        left = {one: rows for one, rows in left.items() if rows}
        if not left:
            break
        rarest = min(left, key=lambda one: (len(left[one]), names.index(one)))
        for row in left[rarest]:
            put(row, wanted[rarest])
    for row in order:
        if row not in side:
            put(row, images)
    return [row for row in range(len(labels)) if side[row] == 0], [row for row in range(len(labels)) if side[row] == 1]
