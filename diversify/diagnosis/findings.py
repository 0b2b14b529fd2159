"""The findings of a diagnosis: for each fragile class, what is wrong in plain words, the evidence, and a remedy.

`RULES` holds every condition. A rule fires if the whole 95% interval of a class's measure is worse than a reference value, usually
the mean over the classes.
"""

from __future__ import annotations

import dataclasses
import math
from collections.abc import Mapping, Sequence

import torch
from torch import Tensor

from ..functional import stats
from ..network.reading import Reading
from .beyond_size import FEWEST_ROWS

Columns = Mapping[str, Tensor]
Lines = Mapping[str, Mapping[str, float]]

LOW_RECALL = "low recall"  # the kind of the findings that `find` makes
NARROW = "narrow"
COUNTS_IMAGES = " The test counts images, not groups, so one group that looks different can be the reason, too."
_BEST_COVERED = 0.75  # quantile of the coverage over the classes that a class is compared with, at most 0.5
_NARROW_BELOW = 0.95  # of it: a class is narrow if its whole interval lies below
_EXPLAINS = 0.1  # R² below which size explains almost nothing
_LARGEST_POWER = 700.0  # of e, as a float
_TROUBLES = {"ceiling_gain": "head", "ce_magnitude_ratio": "magnitude gap", "safe": "overlap"}  # of the rules

REMEDIES = {
    "draw more often": "draw the class more often, or give it more weight in the loss, because the model underfits it",
    "head repair": "repair the head (retrain it on balanced features, or adjust its logits), because the features separate the"
    " class better than the head does",
    "feature space": "augment its features (match the top-K magnitudes, or borrow the covariance of large classes)",
    "image space": "augment its images, so that its training features vary as those of new images do",
    "toward the enemies": "oversample it toward the nearest other classes (EOS), because its training images lie among theirs",
    "more images": "collect or hold out more images, because no measure here explains the low recall",
    "collect images": "collect images of the class, because the model has never seen one",
    "check labels": "look at the suspect images first, and correct or leave out those with a wrong label",
    "look at the cluster": "look at its images and collect training images like them, or correct their labels if these are wrong",
    "different images": "collect images of the class that differ (other scenes, objects and days), because near copies teach the"
    " model little",
    "wider images": "collect training images like the held-out ones (other scenes, objects and days); until then, a head that also"
    " learns from the held-out images (unseen='heldout') helps more than one that weights training images anew",
    "new held-out images": "hold out images anew, whole groups at a time (scenes, patients, bursts), because the model has seen"
    " images like these in training",
    "read all images": "make the training loader give every image of the class, and diagnose again",
}
"""Each kind of remedy in words, as the end of a finding's text."""

_NOT_COUNTED = {  # measures that suspect labels can lower
    "ce_magnitude_ratio": "The low magnitude of its top-K features on held-out images",
    "identity_overlap": "The low share of its top-K features that are also the top-K on held-out images",
    "diversity_vendi_heldout": "The low diversity of its held-out images",
}

_TITLES = {
    "feature space": "feature augmentation",
    "image space": "stronger image augmentation",
    "toward the enemies": "oversample toward neighbouring classes (EOS)",
    "wider images": "images like the held-out ones",
}


def remedy_title(remedy: str) -> str:
    """Return the name of a kind of remedy as texts and reports show it.

    Args:
        remedy: A key of `REMEDIES`.

    Example:
        >>> from diversify.diagnosis.findings import remedy_title
        >>> remedy_title("image space"), remedy_title("head repair")
        ('stronger image augmentation', 'head repair')
    """
    return _TITLES.get(remedy, remedy)


@dataclasses.dataclass(frozen=True, kw_only=True)
class Evidence:
    """One measured value of a class, its 95% interval, and the value it is compared with.

    Attributes:
        measure: The measure's name, a key of `MEASURES`.
        value: The value of the class.
        low: Lower end of the interval.
        high: Upper end of the interval.
        compared_with: The mean over the classes, or the value expected for the size of the class.

    Example:
        >>> import diversify as dv
        >>> train, heldout, head = dv.make_embeddings((200, 80, 30, 6), spread=1.2)
        >>> evidence = dv.diagnose(train, heldout, head=head).findings[0].evidence[0]
        >>> evidence.measure, evidence.high < evidence.compared_with
        ('recall_heldout', True)
    """

    measure: str
    value: float
    low: float
    high: float
    compared_with: float


@dataclasses.dataclass(frozen=True, kw_only=True)
class Finding:
    """The trouble of one fragile class, or of one that has no training images.

    Attributes:
        class_index: The class.
        class_name: Its name.
        text: The finding in plain words, with the numbers.
        evidence: The held-out recall, then one value for each rule that fired.
        causes: The kinds of remedy of all rules that fired, without repetition.
        remedy: The first of `causes`, a key of `REMEDIES`.
        kind: What the finding is about: "low recall", or a trouble that a class can have whether it is fragile or not.
        trouble: The kinds of trouble that the class surely has, out of "small", "narrow", "near copies", "head",
            "magnitude gap", "overlap", "suspect labels" and "held-out too like training"; empty where none explains it.

    Example:
        >>> import diversify as dv
        >>> train, heldout, head = dv.make_embeddings((200, 80, 30, 6), spread=1.2)
        >>> finding = dv.diagnose(train, heldout, head=head).findings[0]
        >>> finding.class_name, finding.remedy in finding.causes
        ('class 3', True)
    """

    class_index: int
    class_name: str
    text: str
    evidence: tuple[Evidence, ...]
    causes: tuple[str, ...]
    remedy: str
    kind: str = LOW_RECALL
    trouble: tuple[str, ...] = ()


@dataclasses.dataclass(frozen=True, kw_only=True)
class Rule:
    """A condition on one measure of a class, and the sentence and kind of remedy that follow from it.

    The rule fires if the whole 95% interval of the class is worse than the reference value.

    Attributes:
        measure: The measure's name.
        bad: "low" if low values are bad, "high" if high values are.
        remedy: The kind of remedy, a key of `REMEDIES`.
        text: A sentence with the fields {value}, {low}, {high}, {mean} (the value compared with), {points} (all four,
            times 100), {reference} (what {mean} is, in words) and {enemy} (a sentence on the class that the errors lie nearest to).
        mark: A fixed reference value, in addition to the value compared with; the stricter of the two counts.
        beyond_count: Compare with the value that a line on log n predicts for the class, not with the mean over the classes;
            for measures that depend on class size by themselves.
        least_count: Fewest training images of a class for which the rule can fire.
        least_features: Smallest difference for which the rule can fire, in units of 1 / K.
    """

    measure: str
    bad: str
    remedy: str
    text: str
    mark: float | None = None
    beyond_count: bool = False
    least_count: int = 1
    least_features: int = 0


RULES: tuple[Rule, ...] = (
    Rule(
        measure="recall_train",
        bad="low",
        remedy="draw more often",
        text="On its training images recall is only {value:.0%} (95% interval {low:.0%} to {high:.0%}; mean over classes"
        " {mean:.0%}).",
        mark=0.9,
    ),
    Rule(
        measure="ceiling_gain",
        bad="high",
        remedy="head repair",
        text="A head refitted on class-balanced held-out features would raise its recall by {points[0]:.0f} points (95% interval"
        " {points[1]:.0f} to {points[2]:.0f}; mean over classes {points[3]:+.0f}).",
        mark=0.0,
    ),
    Rule(
        measure="ce_magnitude_ratio",
        bad="low",
        remedy="feature space",
        text="On held-out images its top-K features reach {value:.0%} of their magnitude on training images (95% interval"
        " {low:.0%} to {high:.0%}; mean over classes {mean:.0%}).",
        mark=1.0,
    ),
    Rule(
        measure="diversity_vendi_heldout",
        bad="low",
        remedy="image space",
        text="Its held-out images have little diversity: 20 of them have {value:.2f} effective directions (Vendi score; 95%"
        " interval {low:.2f} to {high:.2f}; mean over classes {mean:.2f}).",
    ),
    Rule(
        measure="identity_overlap",
        bad="low",
        remedy="image space",
        text="Only {value:.0%} of its top-K features are also the top-K on held-out images (95% interval {low:.0%} to"
        " {high:.0%}; {reference} {mean:.0%}).",
        beyond_count=True,
        least_features=2,
    ),
    Rule(
        measure="safe",
        bad="low",
        remedy="toward the enemies",
        text="Only {value:.0%} of its training images have mainly neighbours of their own class (95% interval {low:.0%} to"
        " {high:.0%}; {reference} {mean:.0%}). {enemy}",
        mark=0.8,
        beyond_count=True,
        least_count=6,  # with fewer, no image can have 5 neighbours of its own class
    ),
)


def find(
    columns: Columns,
    class_names: Sequence[str],
    enemies: Tensor,
    log_count: Lines,
    *,
    top_k: int,
    reading: Reading = Reading(),  # noqa: B008 - a frozen value
    without_suspects: Columns | None = None,
) -> tuple[Finding, ...]:
    """Return a finding for each class without training images, then for each fragile class, lowest recall first.

    Args:
        columns: The columns of a diagnosis, each `(C,)`.
        class_names: One name per class.
        enemies: `(C, C)`, the share of each other class among the training neighbours of a class's held-out errors.
        log_count: For each measure that has one, its line on log n: `slope`, `intercept`, `r_squared`, and `scatter`.
        top_k: K, the number of features in a class's top-K.
        reading: How the training loader gave its rows.
        without_suspects: Some of the columns, measured without suspect labels; NaN for classes without probably wrong labels.
            A rule has to fire on these numbers, too, and the finding gives them.
    """
    absent, weak = columns["count"] == 0, columns["fragile"].bool()
    findings = [_absent(class_names[c], c, reading) for c in absent.nonzero()[:, 0].tolist()]
    fragile = (weak & ~absent).nonzero()[:, 0].tolist()
    fragile.sort(key=lambda c: float(columns["recall_heldout"][c]))
    narrow = frozenset(narrow_classes(columns))
    judged = {"recall_heldout", *(rule.measure for rule in RULES)}
    means = {name: float(columns[name].double().nanmean()) for name in judged if name in columns}
    return (
        *findings,
        *(
            _finding(columns, means, class_names, enemies, log_count, top_k, c, without_suspects or {}, narrow)
            for c in fragile
        ),
    )


def _absent(name: str, c: int, reading: Reading) -> Finding:
    """The finding on a class without training rows: either it has no images, or the loader left them out."""
    lost, remedy = reading.lost(c), "read all images"
    renamed = 0 if reading.other_labels_by_class is None else reading.other_labels_by_class[c]
    if renamed:
        text = (
            f"{name} has no training images among those that the loader gave. The data set shows {renamed:,} of it: they came with"
            f" another label, or other images came in their place, so {name} could not be measured."
        )
    elif lost == 0:
        text, remedy = f"{name} has no training images, so the model cannot have learned it.", "collect images"
    elif lost is None:
        text = (
            f"{name} has no training images among those that the loader gave; it left out {reading.left_out:,} images, whose"
            " classes are not known."
        )
    else:
        images = "its only training image" if lost == 1 else f"all {lost:,} training images of {name}"
        text = f"The loader left out {images}, so {name} could not be measured."
        text = text if lost > 1 else f"{name}: {text[0].lower()}{text[1:]}"
    return Finding(class_index=c, class_name=name, text=text, evidence=(), causes=(remedy,), remedy=remedy)


def _value(columns: Columns, name: str, c: int) -> float:
    return float(columns[name][c])


def _evidence(
    columns: Columns, means: Mapping[str, float], measure: str, c: int, line: Mapping[str, float] | None = None
) -> Evidence:
    """The value of the class, compared with the mean over the classes, or with the prediction of a line on log n."""
    low, high = (_value(columns, f"{measure}_{end}", c) for end in ("low", "high"))
    mark = means[measure]
    if line is not None:
        mark = line["intercept"] + line["slope"] * math.log(_value(columns, "count", c))
    return Evidence(measure=measure, value=_value(columns, measure, c), low=low, high=high, compared_with=mark)


def _without(one: Evidence, columns: Columns, c: int) -> Evidence:
    """The same evidence, measured without suspect labels."""
    value, low, high = (_value(columns, f"{one.measure}{end}", c) for end in ("", "_low", "_high"))
    return dataclasses.replace(one, value=value, low=low, high=high)


def _fires(rule: Rule, evidence: Evidence, *, count: int, top_k: int) -> bool:
    """True if the whole interval is worse than the reference value; False if a number is undefined."""
    if any(math.isnan(number) for number in (evidence.low, evidence.high, evidence.compared_with)):
        return False
    if count < rule.least_count or evidence.low == evidence.high:
        return False
    if abs(evidence.value - evidence.compared_with) < rule.least_features / top_k:
        return False
    if rule.bad == "low":
        mark = evidence.compared_with if rule.mark is None else min(rule.mark, evidence.compared_with)
        return evidence.high < mark
    mark = evidence.compared_with if rule.mark is None else max(rule.mark, evidence.compared_with)
    return evidence.low > mark


def _opening(columns: Columns, class_names: Sequence[str], recall: Evidence, log_count: Lines, c: int) -> list[str]:
    """The first sentences of a finding: the recall of the class, and the recall expected from class size alone."""
    measured = int((columns["count_heldout"] > 0).sum())
    classes = "classes" if measured == len(class_names) else f"the {measured:,} classes with held-out images"
    first = (
        f"Recall of {class_names[c]} on held-out images is {recall.value:.0%} (95% interval {recall.low:.0%} to"
        f" {recall.high:.0%}; mean over {classes} {recall.compared_with:.0%})."
        f" It has {_value(columns, 'count', c):,.0f} training and {_value(columns, 'count_heldout', c):,.0f} held-out images."
    )
    if "recall_heldout" not in log_count:
        reason = "all classes are equally large, or there are fewer than 5"
        return [first, f"The recall expected from class size alone is undefined ({reason})."]
    expected = _value(columns, "recall_log_count", c)
    fit = log_count["recall_heldout"]["r_squared"]
    doubt = ", so size explains almost nothing here" if fit < _EXPLAINS else ""
    verdict = _against_size(recall, expected, log_count["recall_heldout"].get("scatter", math.nan))
    return [
        first,
        f"From class size alone a recall of {expected:.0%} is expected (line on log n, R² {fit:.2f}{doubt}): {verdict}.",
    ]


def _against_size(recall: Evidence, expected: float, scatter: float) -> str:
    """Return a clause on whether class size explains the recall; `scatter` is the standard deviation of the classes about the line."""
    if recall.low <= expected <= recall.high:
        return "class size alone can explain the recall"
    points = f"{100 * abs(recall.value - expected):.0f} points {'below' if recall.value < expected else 'above'}"
    if abs(recall.value - expected) > 2 * scatter:
        return (
            f"the recall is {points} that, which class size alone does not explain"
            f" (standard deviation of the classes about the line: {100 * scatter:.0f} points)"
        )
    if math.isfinite(scatter):
        return (
            f"the recall is {points} that, within the usual variation between classes"
            f" (standard deviation about the line: {100 * scatter:.0f} points)"
        )
    return f"the recall is {points} that"


def _finding(
    columns: Columns,
    means: Mapping[str, float],
    class_names: Sequence[str],
    enemies: Tensor,
    log_count: Lines,
    top_k: int,
    c: int,
    without_suspects: Columns,
    narrow: frozenset[int],
) -> Finding:
    recall = _evidence(columns, means, "recall_heldout", c)
    sentences = _opening(columns, class_names, recall, log_count, c)
    evidence, causes = [recall], []
    for rule in RULES:
        line = log_count.get(rule.measure) if rule.beyond_count else None
        one = _evidence(columns, means, rule.measure, c, line)
        if not _fires(rule, one, count=int(_value(columns, "count", c)), top_k=top_k):
            continue
        corrected = rule.measure in without_suspects and not math.isnan(_value(without_suspects, rule.measure, c))
        if corrected:
            one = _without(one, without_suspects, c)
            if not _fires(rule, one, count=int(_value(columns, "count", c)), top_k=top_k):
                sentences.append(
                    f"{_NOT_COUNTED[rule.measure]} is not counted: it is not sure without the suspect labels."
                )
                continue
        evidence.append(one)
        causes.append(rule.remedy)
        sentences.append(
            rule.text.format(
                value=one.value,
                low=one.low,
                high=one.high,
                mean=one.compared_with,
                points=[100 * number for number in (one.value, one.low, one.high, one.compared_with)],
                reference="mean over classes" if line is None else "expected for a class of its size",
                enemy=_enemy(class_names, enemies, c),
            ).strip()
            + (" Suspect labels are left out of these numbers." if corrected else "")
        )
    trouble = tuple(_TROUBLES[one.measure] for one in evidence if one.measure in _TROUBLES)
    causes = list(dict.fromkeys(causes)) or ["more images"]
    sentences.append(
        f"Points to: {REMEDIES[causes[0]]}"
        + (f"; other possible remedies: {', '.join(map(remedy_title, causes[1:]))}." if causes[1:] else ".")
    )
    return Finding(
        class_index=c,
        class_name=class_names[c],
        text=" ".join(sentences),
        evidence=tuple(evidence),
        causes=tuple(causes),
        remedy=causes[0],
        trouble=(
            *(["small"] if is_small(columns, log_count, c) else []),
            *([NARROW] if c in narrow else []),
            *trouble,
        ),
    )


def is_small(columns: Columns, log_count: Lines, c: int) -> bool:
    """Return whether the size of a class explains low recall: recall surely rises with log n, and its line is below the mean here.

    Args:
        columns: The columns of a diagnosis.
        log_count: The lines on log n.
        c: The class.
    """
    line = _rising_line(columns, log_count)
    if line is None:
        return False
    mean = float(columns["recall_heldout"].double().nanmean())
    return line["intercept"] + line["slope"] * math.log(_value(columns, "count", c)) < mean


def small_below(columns: Columns, log_count: Lines) -> float:
    """Return the number of training images below which `is_small` holds; NaN if recall does not surely rise with log n.

    Args:
        columns: The columns of a diagnosis.
        log_count: The lines on log n.
    """
    line = _rising_line(columns, log_count)
    if line is None:
        return math.nan
    power = (float(columns["recall_heldout"].double().nanmean()) - line["intercept"]) / line["slope"]
    return math.exp(power) if power < _LARGEST_POWER else math.inf


def _rising_line(columns: Columns, log_count: Lines) -> Mapping[str, float] | None:
    """The line of held-out recall on log n; None unless recall surely rises with it."""
    line = log_count.get("recall_heldout")
    if line is None or not line["slope"] > 0:
        return None
    classes = int(columns["recall_heldout"].isfinite().sum())
    sure = math.sqrt(max(line["r_squared"], 0.0)) >= stats.critical_correlation(classes)
    return line if sure else None


def usual_coverage(columns: Columns) -> float:
    """Return what the best-covered quarter of the classes reaches at least, 0.5 at most; NaN if no class has a coverage.

    A network that overfits moves held-out images away from the training images of every class, so that coverage is below
    0.5 in all of them; a class is compared with those where it is highest.
    """
    known = columns["coverage_heldout"].double()
    known = known[known.isfinite()]
    return min(0.5, float(known.quantile(_BEST_COVERED))) if len(known) else math.nan


def narrow_below(columns: Columns) -> float:
    """Return the coverage that the whole interval of a narrow class lies below; NaN if no class has a coverage."""
    return _NARROW_BELOW * usual_coverage(columns)


def narrow_classes(columns: Columns) -> list[int]:
    """Return the classes whose training images surely do not show what their held-out images show; none without coverage.

    Fewer than five held-out images of a class cannot decide it.
    """
    if "coverage_heldout" not in columns:
        return []
    below: Tensor = columns["coverage_heldout_high"].double() < narrow_below(columns)
    if "count_heldout" in columns:
        below = below & (columns["count_heldout"] >= FEWEST_ROWS)
    return torch.nonzero(below)[:, 0].tolist()


def _enemy(class_names: Sequence[str], enemies: Tensor, c: int) -> str:
    """A sentence on the class that the errors lie nearest to; empty where there are no errors to look at."""
    share, enemy = enemies[c].nan_to_num(0).max(0)
    if float(share) <= 0:
        return ""
    name = class_names[int(enemy)]
    return f"Of the training images of other classes nearest to its errors, {float(share):.0%} belong to {name}."
