import math

from . import magnitude, stats


def eigenvalues(matrix):
    """Of a symmetric matrix, by Jacobi's rotations."""
    a = [list(row) for row in matrix]
    size = len(a)
    for _ in range(60):
        for p in range(size):
            for q in range(p + 1, size):
                if abs(a[p][q]) < 1e-300:
                    continue
                angle = 0.5 * math.atan2(2 * a[p][q], a[q][q] - a[p][p])
                c, s = math.cos(angle), math.sin(angle)
                for i in range(size):
                    a[i][p], a[i][q] = c * a[i][p] - s * a[i][q], s * a[i][p] + c * a[i][q]
                for i in range(size):
                    a[p][i], a[q][i] = c * a[p][i] - s * a[q][i], s * a[p][i] + c * a[q][i]
    return [a[i][i] for i in range(size)]


def dot(one, two):
    return math.fsum(a * b for a, b in zip(one, two, strict=True))


def entropy(shares):
    return -sum(share * math.log(share) for share in shares if share > 1e-14)


def cosine(one, two):
    if not any(one) or not any(two):
        return float(not any(one) and not any(two))
    return dot(one, two) / math.sqrt(dot(one, one) * dot(two, two))


def vendi(rows):
    kernel = [[cosine(one, two) / len(rows) for two in rows] for one in rows]
    return math.exp(entropy(eigenvalues(kernel)))


def effective_rank(rows):
    values = eigenvalues([[dot(one, two) for two in rows] for one in rows])
    singular = [math.sqrt(value) for value in values if value > 1e-13 * max(values)]
    return math.exp(entropy([value / sum(singular) for value in singular])) if singular else math.nan


def shares_of_top(row, k):
    """1 for a feature among the k largest, and for those that tie for the last places an equal share of them."""
    last = sorted(row, reverse=True)[k - 1]
    above, tied = sum(v > last for v in row), sum(v == last for v in row)
    return [1.0 if v > last else (k - above) / tied if v == last else 0.0 for v in row]


def hill(used, order):
    """Of the list of features used, with repetitions."""
    shares = [used.count(feature) / len(used) for feature in set(used)]
    if order == 1:
        return math.exp(entropy(shares))
    return sum(share**order for share in shares) ** (1 / (1 - order))


def spread(rows):
    centre = stats.mean_row(rows)
    return stats.mean([dot(gap, gap) for gap in ([v - m for v, m in zip(row, centre, strict=True)] for row in rows)])


def mean_cosine(rows):
    return stats.mean([cosine(one, two) for one in rows for two in rows])


def matched(features, labels, num_classes, centre, weight, k, n, count, seed, name):
    rows = stats.matched_rows(labels, num_classes, n, count, seed, name)
    result = {measure: [] for measure in ("vendi", "effective_rank", "hill", "spread", "cosine")}
    for draw in range(count):
        for values in result.values():
            values.append([math.nan] * num_classes)
        for c in range(num_classes):
            if rows[c][draw][0] < 0:
                continue
            raw = [features[row] for row in rows[c][draw]]
            centred = [[value - middle for value, middle in zip(row, centre, strict=True)] for row in raw]
            values = raw if weight is None else [magnitude.embedding(row, weight[c]) for row in raw]
            used = [shares_of_top(row, k) for row in values]
            result["vendi"][draw][c] = vendi(centred)
            result["effective_rank"][draw][c] = effective_rank(centred)
            total = [sum(row[d] for row in used) for d in range(len(used[0]))]
            result["hill"][draw][c] = math.exp(-sum(v / (n * k) * math.log(v / (n * k)) for v in total if v > 0))
            result["spread"][draw][c] = spread(raw)
            result["cosine"][draw][c] = mean_cosine(centred)
    return result
