import math

from . import draws


def mean(values):
    return math.fsum(values) / len(values) if len(values) else math.nan


def mean_row(rows):
    return [mean(column) for column in zip(*rows, strict=True)]


def members(values, labels, wanted):
    return [value for value, label in zip(values, labels, strict=True) if label == wanted]


def class_mean(values, labels, num_classes):
    return [mean(members(values, labels, c)) for c in range(num_classes)]


def class_mean_rows(rows, labels, num_classes):
    absent = [math.nan] * len(rows[0])
    return [mean_row(members(rows, labels, c)) if c in labels else absent for c in range(num_classes)]


def wilson(successes, total, z):
    """The two roots p of (share - p)^2 = z^2 p (1 - p) / total."""
    if total == 0:
        return math.nan, math.nan
    share = successes / total
    a, b, c = 1 + z * z / total, -(2 * share + z * z / total), share * share
    root = math.sqrt(max(b * b - 4 * a * c, 0))
    return (-b - root) / (2 * a), (-b + root) / (2 * a)


def bootstrap(values, labels, num_classes, count, seed, name):
    result = []
    for draw in range(count):
        row = []
        for c in range(num_classes):
            own = members(values, labels, c)
            keys = [(name, seed, c, position, draw) for position in range(len(own))]
            row.append(mean([own[draws.integer(len(own), *key)] for key in keys]))
        result.append(row)
    return result


def percentile(values, q):
    ordered = sorted(value for value in values if not math.isnan(value))
    if not ordered:
        return math.nan
    place = q * (len(ordered) - 1)
    low = min(int(place), len(ordered) - 1)
    high = min(low + 1, len(ordered) - 1)
    return ordered[low] + (place - low) * (ordered[high] - ordered[low])


def ranks(values):
    return [
        sum(other < value for other in values) + (sum(other == value for other in values) + 1) / 2 for value in values
    ]


def pearson(first, second):
    a, b = mean(first), mean(second)
    covariance = sum((one - a) * (two - b) for one, two in zip(first, second, strict=True))
    scale = math.sqrt(sum((one - a) ** 2 for one in first) * sum((two - b) ** 2 for two in second))
    return covariance / scale if scale else math.nan


def finite(*columns):
    kept = [row for row in zip(*columns, strict=True) if all(math.isfinite(value) for value in row)]
    return [list(column) for column in zip(*kept, strict=True)]


def spearman(first, second):
    return pearson(*(ranks(column) for column in finite(first, second)))


def line(first, second):
    """Slope and intercept of the least squares of `second` on `first`."""
    a, b = mean(first), mean(second)
    slope = sum((one - a) * (two - b) for one, two in zip(first, second, strict=True)) / sum(
        (one - a) ** 2 for one in first
    )
    return slope, b - slope * a


def residuals(values, given):
    slope, intercept = line(given, values)
    return [value - intercept - slope * known for value, known in zip(values, given, strict=True)]


def partial_spearman(first, second, given):
    one, two, known = (ranks(column) for column in finite(first, second, given))
    return pearson(residuals(one, known), residuals(two, known))


def fit_log_count(values, counts):
    """Slope, intercept, share explained, predictions; None where it is not defined."""
    kept = [(v, n) for v, n in zip(values, counts, strict=True) if math.isfinite(v) and n > 0]
    if len(kept) < 5 or len({n for _, n in kept}) == 1:
        return None
    value, log_count = [v for v, _ in kept], [math.log(n) for _, n in kept]
    slope, intercept = line(log_count, value)
    predicted = [intercept + slope * math.log(n) if n else math.nan for n in counts]
    return slope, intercept, pearson(log_count, value) ** 2, predicted


def matched_rows(labels, num_classes, n, count, seed, name):
    result = []
    for c in range(num_classes):
        own = [row for row, label in enumerate(labels) if label == c]
        per_draw = []
        for draw in range(count):
            words = [(draws.signed(draws.word(name, seed, draw, place)), row) for place, row in enumerate(own)]
            per_draw.append([row for _, row in sorted(words)[:n]] if len(own) >= n else [-1] * n)
        result.append(per_draw)
    return result
