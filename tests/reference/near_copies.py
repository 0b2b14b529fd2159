import math
from statistics import NormalDist


def components(rows, limit):
    """The number of components of the pairs closer than the limit, by following links from each row."""
    left, found = set(range(len(rows))), 0
    while left:
        waiting, found = [left.pop()], found + 1
        while waiting:
            one = waiting.pop()
            near = {other for other in left if math.dist(rows[one], rows[other]) < limit}
            left -= near
            waiting += near
    return found


def nearest(row, rows, limit):
    """The index of the nearest row closer than the limit, or -1."""
    distances = [(math.dist(row, other), place) for place, other in enumerate(rows)]
    distance, place = min(distances, default=(math.inf, -1))
    return place if distance < limit else -1


def share_interval(hits, groups, student):
    """Wilson's interval for as many rows as make the share as certain as its groups do; `student` is the t quantile."""
    z = NormalDist().inv_cdf(0.975)
    names, rows = sorted(set(groups)), len(hits)
    share = math.fsum(hits) / rows
    excess = [
        math.fsum(hit - share for hit, group in zip(hits, groups, strict=True) if group == name) for name in names
    ]
    variance = len(names) / (len(names) - 1) * math.fsum(one**2 for one in excess) / rows**2
    effective = min(rows, share * (1 - share) / variance if variance else len(names)) * (z / student) ** 2
    middle = (share + z**2 / (2 * effective)) / (1 + z**2 / effective)
    half = z / (1 + z**2 / effective) * math.sqrt(share * (1 - share) / effective + z**2 / (4 * effective**2))
    return max(0, middle - half), min(1, middle + half)


def hash_copies(hashes, limit):
    """The component of each hash, and the nearest copy with the bits that differ, or None, by comparing every pair."""
    far = [[sum(a != b for a, b in zip(one, other, strict=True)) for other in hashes] for one in hashes]
    component = list(range(len(hashes)))
    for i in range(len(hashes)):
        for j in range(len(hashes)):
            if far[i][j] <= limit:
                old, new = component[j], component[i]
                component = [new if number == old else number for number in component]
    nearest = []
    for i, row in enumerate(far):
        bits, j = min((bits, j) for j, bits in enumerate(row) if j != i)
        nearest.append((j, bits) if bits <= limit else None)
    return component, nearest
