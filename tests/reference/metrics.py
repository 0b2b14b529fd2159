import math

from .stats import mean, members


def confusion(labels, predictions, num_classes):
    table = [[0] * num_classes for _ in range(num_classes)]
    for label, predicted in zip(labels, predictions, strict=True):
        table[label][predicted] += 1
    return table


def recall(labels, predictions, num_classes):
    right = [float(label == predicted) for label, predicted in zip(labels, predictions, strict=True)]
    return [mean(members(right, labels, c)) for c in range(num_classes)]


def precision(labels, predictions, num_classes):
    return recall(predictions, labels, num_classes)


def f1(labels, predictions, num_classes):
    result = []
    for c in range(num_classes):
        pairs = list(zip(labels, predictions, strict=True))
        found = sum(label == c and predicted == c for label, predicted in pairs)
        missed = sum(label == c and predicted != c for label, predicted in pairs)
        wrong = sum(label != c and predicted == c for label, predicted in pairs)
        result.append(2 * found / (2 * found + missed + wrong) if found + missed + wrong else math.nan)
    return result


def geometric_mean_recall(labels, predictions, num_classes):
    present = [value for value in recall(labels, predictions, num_classes) if not math.isnan(value)]
    return math.prod(present) ** (1 / len(present)) if present else math.nan


def margin(logits, labels):
    return [
        row[label] - max(value for c, value in enumerate(row) if c != label)
        for row, label in zip(logits, labels, strict=True)
    ]


def calibration_error(logits, labels, bins):
    per_class = [[] for _ in logits[0]]
    for row, label in zip(logits, labels, strict=True):
        odds = [math.exp(value - max(row)) for value in row]
        predicted = odds.index(max(odds))
        per_class[predicted].append((max(odds) / sum(odds), float(predicted == label)))
    result = []
    for pairs in per_class:
        error = 0.0 if pairs else math.nan
        for b in range(bins):
            inside = [(conf, right) for conf, right in pairs if b / bins < conf <= (b + 1) / bins]
            if inside:
                gap = abs(mean([conf for conf, _ in inside]) - mean([right for _, right in inside]))
                error += len(inside) / len(pairs) * gap
        result.append(error)
    return result


def overall_calibration_error(logits, labels, bins):
    pairs = []
    for row, label in zip(logits, labels, strict=True):
        odds = [math.exp(value - max(row)) for value in row]
        predicted = odds.index(max(odds))
        pairs.append((max(odds) / sum(odds), float(predicted == label)))
    error = 0.0 if pairs else math.nan
    for b in range(bins):
        inside = [(conf, right) for conf, right in pairs if b / bins < conf <= (b + 1) / bins]
        if inside:
            gap = abs(mean([conf for conf, _ in inside]) - mean([right for _, right in inside]))
            error += len(inside) / len(pairs) * gap
    return error
