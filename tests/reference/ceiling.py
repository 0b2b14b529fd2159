import math

from . import stats


def standardise(rows, by):
    middle = stats.mean_row(by)
    scale = [
        math.sqrt(stats.mean([(v - m) ** 2 for v in c])) for c, m in zip(zip(*by, strict=True), middle, strict=True)
    ]
    return [[(v - m) / (s or 1) for v, m, s in zip(row, middle, scale, strict=True)] for row in rows]


def softmax(scores):
    odds = [math.exp(score - max(scores)) for score in scores]
    return [odd / sum(odds) for odd in odds]


def scores(row, head):
    return [sum(value * weight for value, weight in zip([*row, 1.0], weights, strict=True)) for weights in head]


def logistic_head(rows, labels, classes, balance, steps=1500, rate=0.02):
    """Gradient descent on the sum of weighted cross entropies plus half the squared weights (the bias is free)."""
    head = [[0.0] * (len(rows[0]) + 1) for _ in classes]
    share = [len(rows) / (len(classes) * labels.count(c)) if balance else 1.0 for c in classes]
    for _ in range(steps):
        slope = [[*weights[:-1], 0.0] for weights in head]
        for row, label in zip(rows, labels, strict=True):
            for place, chance in enumerate(softmax(scores(row, head))):
                pull = (chance - (classes[place] == label)) * share[classes.index(label)]
                for column, value in enumerate([*row, 1.0]):
                    slope[place][column] += pull * value
        head = [[w - rate * s for w, s in zip(*pair, strict=True)] for pair in zip(head, slope, strict=True)]
    return head


def cross_fitted(features, labels, fold, balance):
    result = [0] * len(labels)
    for held in set(fold):
        seen = [row for row, own in enumerate(fold) if own != held]
        rows, own = [features[row] for row in seen], [labels[row] for row in seen]
        classes = sorted(set(own))
        head = logistic_head(standardise(rows, rows), own, classes, balance)
        for row in range(len(labels)):
            if fold[row] == held:
                values = scores(standardise([features[row]], rows)[0], head)
                result[row] = classes[values.index(max(values))]
    return result
