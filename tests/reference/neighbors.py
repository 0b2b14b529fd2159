import math


def nearest(query, reference, k, allowed):
    """Distances and indices of the k nearest among the allowed rows; ties to the lower index."""
    found = sorted((math.fsum((a - b) ** 2 for a, b in zip(query, reference[r], strict=True)), r) for r in allowed)
    return [math.sqrt(square) for square, _ in found[:k]], [row for _, row in found[:k]]


def archetype(neighbor_labels, label):
    same = neighbor_labels.count(label)
    if same >= 4:
        return 0
    if same >= 2:
        return 1
    return 2 if same == 1 else 3


def enemy_matrix(neighbor_labels, labels, num_classes):
    result = []
    for c in range(num_classes):
        enemies = [
            other
            for row, label in zip(neighbor_labels, labels, strict=True)
            if label == c
            for other in row
            if other != c
        ]
        shares = [enemies.count(other) / len(enemies) for other in range(num_classes)] if enemies else None
        result.append(shares or [math.nan] * num_classes)
    return result
