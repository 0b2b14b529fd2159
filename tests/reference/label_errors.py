from . import stats


def thresholds(probabilities, labels):
    """Mean probability of each class over the rows labelled so; None for a class without rows."""
    result = []
    for c in range(len(probabilities[0])):
        own = [row[c] for row, label in zip(probabilities, labels, strict=True) if label == c]
        result.append(stats.mean(own) if own else None)
    return result


def suspects(probabilities, labels):
    """(row, suggested class, score) of each suspect row, the largest score first."""
    limit, found = thresholds(probabilities, labels), []
    for row, (chances, label) in enumerate(zip(probabilities, labels, strict=True)):
        reached = [c for c in range(len(chances)) if limit[c] is not None and chances[c] >= limit[c]]
        if not reached:
            continue
        likely = max(reached, key=lambda c: (chances[c], -c))
        if likely != label and chances[likely] > chances[label]:
            other = max(chance for c, chance in enumerate(chances) if c != label)
            found.append((row, likely, other - chances[label]))
    return sorted(found, key=lambda one: (-one[2], one[0]))


def expected_shares(probabilities, chances, labels):
    """The share of each class's rows that would be suspect if labels were draws from `chances`."""
    limit, classes = thresholds(probabilities, labels), range(len(probabilities[0]))
    hit, total = [0.0 for _ in classes], [0.0 for _ in classes]
    for row, chance in zip(probabilities, chances, strict=True):
        reached = [c for c in classes if limit[c] is not None and row[c] >= limit[c]]
        for c in classes:
            total[c] += chance[c]
            if reached and row[c] < max(row[k] for k in reached):
                hit[c] += chance[c]
    return [h / t for h, t in zip(hit, total, strict=True)]
