import itertools
import math

from .stats import mean, mean_row, members, pearson


def embedding(row, weights):
    return [value * weight for value, weight in zip(row, weights, strict=True)]


def top_k(means, k):
    return [
        [-1] * k
        if any(math.isnan(value) for value in row)
        else sorted(range(len(row)), key=lambda place, row=row: (-row[place], place))[:k]
        for row in means
    ]


def top_k_share(means, indices):
    result = []
    for row, chosen in zip(means, indices, strict=True):
        total = sum(value for value in row if value > 0)
        top = sum(max(row[place], 0) for place in chosen)
        result.append(top / total if total > 0 and chosen[0] >= 0 else math.nan)
    return result


def top_k_magnitude(features, weight, labels, indices):
    result = []
    for row, label in zip(features, labels, strict=True):
        values = row if weight is None else embedding(row, weight[label])
        chosen = indices[label]
        result.append(mean([values[place] for place in chosen]) if chosen[0] >= 0 else math.nan)
    return result


def overlap(first, second):
    return math.nan if -1 in first or -1 in second else len(set(first) & set(second)) / len(first)


def logits(row, weight, bias):
    return [sum(embedding(row, weights)) + offset for weights, offset in zip(weight, bias, strict=True)]


def needed(row, weight, bias, chosen=None):
    """The features needed, strongest first: one is added at a time until the runner-up is reached."""
    scores = logits(row, weight, bias)
    chosen = scores.index(max(scores)) if chosen is None else chosen
    runner_up = max(score for c, score in enumerate(scores) if c != chosen)
    values = embedding(row, weight[chosen])
    strongest = sorted((place for place, value in enumerate(values) if value > 0), key=lambda p: (-values[p], p))
    reached = bias[chosen] + sum(value for value in values if value < 0)
    used = []
    for place in strongest:
        if reached >= runner_up:
            break
        reached += values[place]
        used.append(place)
    return used


def needed_frequency(features, weight, bias, labels):
    width = len(features[0])
    used = [[float(place in needed(row, weight, bias)) for place in range(width)] for row in features]
    return [mean_row(members(used, labels, c)) if c in labels else [math.nan] * width for c in range(len(weight))]


def match_channels(first, second):
    """The best of all permutations."""
    ones, twos = list(zip(*first, strict=True)), list(zip(*second, strict=True))
    table = [[pearson(one, two) for two in twos] for one in ones]
    table = [[0 if math.isnan(value) else value for value in row] for row in table]
    return list(
        max(
            itertools.permutations(range(len(ones))),
            key=lambda partner: sum(table[i][j] for i, j in enumerate(partner)),
        )
    )
