"""EOS row by row, as the paper says it and as the published script does it."""

import math


def nearest(features, row, k):
    others = [other for other in range(len(features)) if other != row]
    distance = {
        other: math.fsum((a - b) ** 2 for a, b in zip(features[other], features[row], strict=True)) for other in others
    }
    return sorted(others, key=lambda other: (distance[other], other))[:k]


def enemies(features, labels, row, k):
    """The paper's rule: those of the k nearest other rows that have another label."""
    return [other for other in nearest(features, row, k) if labels[other] != labels[row]]


def published_partners(features, labels, row, k):
    """What the script takes for them: it draws a place among the neighbours and looks it up with the row itself first."""
    near = nearest(features, row, k)
    with_itself = [row, *near]
    return [with_itself[place] for place, other in enumerate(near) if labels[other] != labels[row]]


def siblings(features, labels, row, k):
    return [other for other in nearest(features, row, len(features) - 1) if labels[other] == labels[row]][:k]


def pooled_covariance(features, labels):
    """Over all rows of the head classes, about their own class's mean."""
    groups = {label: [row for row, one in zip(features, labels, strict=True) if one == label] for label in set(labels)}
    average = len(labels) / len(groups)
    size, residuals = len(features[0]), []
    for rows in groups.values():
        if len(rows) >= average:
            mean = [math.fsum(column) / len(rows) for column in zip(*rows, strict=True)]
            residuals += [[a - b for a, b in zip(row, mean, strict=True)] for row in rows]
    return [
        [math.fsum(row[i] * row[j] for row in residuals) / len(residuals) for j in range(size)] for i in range(size)
    ]


def isda(logits, target, weight, covariance, strength):
    added = []
    for row in weight:
        difference = [a - b for a, b in zip(row, weight[target], strict=True)]
        quadratic = math.fsum(
            difference[i] * covariance[i][j] * difference[j] for i in range(len(row)) for j in range(len(row))
        )
        added.append(strength / 2 * quadratic)
    return [a + b for a, b in zip(logits, added, strict=True)]


def remix(share, base_count, partner_count, kappa, tau):
    """The partner's share of the label: equation 5 of Remix, whose lambda is the base's share of the features."""
    own = 1 - share
    if base_count / partner_count >= kappa and own < tau:
        return 1.0
    if base_count / partner_count <= 1 / kappa and 1 - own < tau:
        return 0.0
    return share
