"""Plain-Python losses, one example at a time."""

import math


def balanced_softmax(logits, targets, priors, strength):
    """Mean of `-sum_c t_c log(p_c^s e^z_c / sum_j p_j^s e^z_j)`; `targets` are lists of class probabilities."""
    losses = []
    for row, target in zip(logits, targets, strict=True):
        weights = [prior**strength * math.exp(logit) for prior, logit in zip(priors, row, strict=True)]
        total = math.fsum(weights)
        losses.append(-math.fsum(t * math.log(w / total) for t, w in zip(target, weights, strict=True)))
    return math.fsum(losses) / len(losses)


def log_softmax(row):
    largest = max(row)
    total = math.log(math.fsum(math.exp(logit - largest) for logit in row))
    return [logit - largest - total for logit in row]


def expected(loss_of, rows, targets, weights=None):
    """Weighted mean of `loss_of(row, c)` over rows and their target classes; `targets` are lists of class probabilities."""
    weights = weights or [1.0] * len(rows[0])
    terms = [
        (share * weights[c], loss_of(row, c))
        for row, target in zip(rows, targets, strict=True)
        for c, share in enumerate(target)
    ]
    return math.fsum(mass * loss for mass, loss in terms) / math.fsum(mass for mass, _ in terms)


def cross_entropy(row, c):
    return -log_softmax(row)[c]


def focal(row, c, gamma):
    p = math.exp(log_softmax(row)[c])
    return -((1 - p) ** gamma) * math.log(p)


def ldam(row, c, margins, scale):
    return -log_softmax([scale * (z - (margins[k] if k == c else 0)) for k, z in enumerate(row)])[c]


def vector_scaling(row, c, counts, gamma, tau):
    largest, total = max(counts), sum(counts)
    return -log_softmax(
        [z * (n / largest) ** gamma + tau * math.log(n / total) for z, n in zip(row, counts, strict=True)]
    )[c]


def asymmetric(row, c, gamma_positive, gamma_negative, smoothing):
    loss = 0.0
    for k, log_p in enumerate(log_softmax(row)):
        p = math.exp(log_p)
        target = (1 - smoothing if k == c else 0) + smoothing / len(row)
        loss -= target * ((1 - p) ** gamma_positive if k == c else p**gamma_negative) * log_p
    return loss


def margins(counts, max_margin):
    raw = [1 / n**0.25 for n in counts]
    return [max_margin * margin / max(raw) for margin in raw]


def weights(counts, rule, beta=0.9999):
    """Mean 1 over the classes that have images; 0 for the others."""
    raw = {
        "inverse_frequency": lambda n: 1 / n,
        "square_root": lambda n: 1 / math.sqrt(n),
        "effective_number": lambda n: 1 / math.fsum(beta**k for k in range(n)),
    }[rule]
    present = [n for n in counts if n]
    mean = math.fsum(map(raw, present)) / len(present)
    return [raw(n) / mean if n else 0.0 for n in counts]
