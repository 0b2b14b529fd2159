"""Names and definitions of scores, methods and data, and the form of numbers, in the report of a study."""

from __future__ import annotations

import math
import re
from collections.abc import Iterable

from ...diagnosis.catalogue import MEASURES
from ...study.comparison import DIVERSITY, Comparison, Replicate, Role, SuiteComparison
from ...study.estimates import FEWEST_FOR_BOOTSTRAP, FEWEST_FOR_P, Estimate
from .. import wording
from ..record import Definition
from ..wording import DASH

YARDSTICKS: tuple[Role, ...] = ("baseline", "reweighting")
TITLES = {  # of scores
    "balanced_accuracy": "balanced accuracy",
    "many": "many",
    "medium": "medium",
    "few": "few",
    "largest_third": "largest third",
    "middle_third": "middle third",
    "smallest_third": "smallest third",
    "worst_class": "worst class",
    "macro_f1": "macro F1",
    "g_mean": "G-mean",
    "ece": "ECE",
}
INSIDE = {  # column of `inside`: title, unit, unit of a difference
    "magnitude_ratio": ("top-K magnitude ratio", "ratio"),
    "magnitude_gap": ("top-K magnitude gap", "ratio"),
    DIVERSITY: ("held-out diversity", "ratio"),
    "diversity_train": ("training diversity", "ratio"),
    "leak": ("leak, points", "tenths"),
}
SCORE_MEANINGS = {
    "balanced_accuracy": (
        "balanced accuracy",
        "Mean recall of the classes: a rare class counts as much as a frequent one.",
    ),
    "shot_groups": (
        "many, medium, few",
        "Mean recall of the classes with more than 100, 20 to 100, and less than 20 training images.",
    ),
    "thirds": (
        "thirds",
        "Mean recall of the largest, middle and smallest third of the classes by training images. Classes of equal size stay in one third.",
    ),
    "worst_class": ("worst class", "The lowest recall of any class, for each seed."),
    "score": ("metric", "What the study tunes and compares by."),
    "macro_f1": ("macro F1", "Mean F1 of the classes."),
    "g_mean": ("G-mean", "Geometric mean of the recalls; 0 if any class has recall 0."),
    "ece": (
        "ECE",
        "Expected calibration error: mean distance between confidence and accuracy over bins of confidence. Lower is better.",
    ),
}


METRIC_MEANINGS = {
    "balanced": SCORE_MEANINGS["balanced_accuracy"][1],
    "prior": "Mean recall of the classes, each weighted by its share where the model will be used: the accuracy there.",
    "macro-f1": "Mean F1 of the classes; where the protocol has a target prior, images count by it.",
    "worst": SCORE_MEANINGS["worst_class"][1],
    "cost": "Minus the mean cost of a prediction, by the protocol's table of costs; classes count alike, or by the target prior."
    " Higher is better.",
}


def metric_anchor(suite: SuiteComparison) -> str:
    """Return the anchor of the definition of a suite's metric."""
    return "measure-balanced-accuracy" if suite.metric == "balanced" else f"measure-metric-{suite.metric}"


def metric_title(suites: Iterable[SuiteComparison]) -> str:
    """Return the metric of several suites in words, for the middle of a sentence."""
    titles = sorted({suite.metric_title for suite in suites})
    return titles[0] if len(titles) == 1 else f"the metric of each suite ({', '.join(titles)})"


def metric_on_test(suites: Iterable[SuiteComparison]) -> str:
    """Return the same, on the test set."""
    title = metric_title(suites)
    return "balanced test accuracy" if title == "balanced accuracy" else f"{title} on test"


def capital(text: str) -> str:
    """Return the text with a capital first letter."""
    return text[:1].upper() + text[1:]


def unit_of(suite: SuiteComparison) -> str:
    """Return the unit of a difference in the metric."""
    return "points" if suite.in_shares else "saved cost"


def metric_value(suite: SuiteComparison, value: float) -> str:
    """Return a value of the metric: a share in percent with one decimal, a cost with three digits."""
    return wording.percent(value) if suite.in_shares else _digits(value)


def metric_interval(suite: SuiteComparison, estimate: Estimate) -> str:
    """Return the interval of a value of the metric in brackets; "" if there is none."""
    if suite.in_shares:
        return interval_of(estimate, "percent")
    known = math.isfinite(estimate.low) and math.isfinite(estimate.high)
    return f"[{_digits(estimate.low)}, {_digits(estimate.high)}]" if known else ""


def metric_gain(suite: SuiteComparison, value: float) -> str:
    """Return a difference in the metric with its sign: in points, or as a cost with three digits."""
    if suite.in_shares:
        return wording.points(value)
    return ("+" if value > 0 else "") + _digits(value)


def gain_interval(suite: SuiteComparison, estimate: Estimate) -> str:
    """Return the interval of a difference in the metric in brackets; "" if there is none."""
    if suite.in_shares:
        return interval_of(estimate)
    low, high = (metric_gain(suite, end) for end in (estimate.low, estimate.high))
    return f"[{low}, {high}]" if math.isfinite(estimate.low) and math.isfinite(estimate.high) else ""


def _digits(value: float) -> str:
    return f"{value or 0.0:.3g}".replace("-", "−") if math.isfinite(value) else DASH


def tenths(value: float) -> str:
    """Return a share in percent with one decimal, without a percent sign; a dash if undefined."""
    return wording.unsigned(100 * value, 1) if math.isfinite(value) else DASH


def seconds(value: float) -> str:
    """Return seconds, without decimals from 10 on; a dash if undefined."""
    if not math.isfinite(value):
        return DASH
    return f"{value:,.0f}" if value >= 10 else f"{value:.1f}"


def interval_of(estimate: Estimate, unit: str = "tenths") -> str:
    """Return the interval of an estimate in brackets; "" if there is none."""
    return wording.between(estimate.low, estimate.high, unit)


def has_score(suite: SuiteComparison, score: str) -> bool:
    """Return whether any finished method has a value of a score."""
    return any(math.isfinite(one.scores[score].mean) for one in suite.finished)


def number_of_runs(networks: int, seeds: int) -> str:
    """Return `3 seeds`, or `5 networks, 10 seeds` if some seeds share a network."""
    of = wording.number_of(seeds, "seed", "seeds")
    return of if networks == seeds else f"{wording.number_of(networks, 'network', 'networks')}, {of}"


def runs_of(suite: SuiteComparison) -> str:
    """Return how many networks and seeds a suite has."""
    seeds = len(suite.seeds)
    if suite.replicate == "seed":
        return number_of_runs(seeds, seeds)
    sizes = sorted({one.replicates for one in suite.finished})
    if len(sizes) == 1:
        return number_of_runs(sizes[0], seeds)
    return f"{sizes[0]} to {sizes[-1]} networks, {wording.number_of(seeds, 'seed', 'seeds')}"


def replicate_of(suites: Iterable[SuiteComparison]) -> Replicate:
    """Return what the intervals of several suites are computed over."""
    return "network" if any(suite.replicate == "network" for suite in suites) else "seed"


def paired_by_seed(replicate: Replicate) -> str:
    """Return how differences are computed, as the end of a sentence."""
    return "seed by seed" if replicate == "seed" else "seed by seed and averaged over the seeds of each network"


def ordinal(place: int) -> str:
    """Return a rank: first, 2nd, 3rd."""
    if place == 1:
        return "first"
    ending = "th" if place % 100 in (11, 12, 13) else {1: "st", 2: "nd", 3: "rd"}.get(place % 10, "th")
    return f"{place}{ending}"


def inside_words(column: str, estimate: Estimate, *, signed: bool = False) -> tuple[str, str]:
    """Return a value of `inside` and its interval, formatted."""
    unit = INSIDE.get(column, ("", "ratio"))[1]
    if unit == "tenths":
        return wording.points(estimate.mean), interval_of(estimate, "tenths")
    value = wording.signed(estimate.mean, 2) if signed else wording.formatted(estimate.mean, unit)
    return value, interval_of(estimate, unit)


def what_was_run(suite: SuiteComparison) -> str:
    """Return the number of methods, trials and seeds, and what is known about the data."""
    trials = sorted({one.budget.trials for one in suite.methods})
    spread = (
        f"{trials[0]} to {trials[-1]} trials" if len(trials) > 1 else wording.number_of(trials[0], "trial", "trials")
    )
    protocol = suite.protocol
    known = [str(protocol[name]) for name in ("data", "imbalance", "model") if protocol.get(name)]
    epochs = [one.scores["epochs"].mean for one in suite.finished if math.isfinite(one.scores["epochs"].mean)]
    if epochs and max(epochs) == min(epochs):
        known.append(f"{epochs[0]:,.0f} epochs")
    if suite.counts:
        known.append(f"{len(suite.counts)} classes of {suite.counts[0]:,} to {suite.counts[-1]:,} training images")
    if suite.metric != "balanced":
        known.append(f"tuned and compared by {suite.metric_title}")
    if suite.tail_orders:
        known.append(f"tail order {', '.join(suite.tail_orders)}")
    text = f" ({'; '.join(known)})" if known else ""
    return f"{wording.number_of(len(suite.methods), 'method', 'methods')}, {spread} each, {runs_of(suite)}{text}"


def origin_of(suite: SuiteComparison, of: str) -> tuple[tuple[str, str], ...]:
    """Return labels and values on the origin of a suite's numbers; missing entries are left out."""
    pairs = {
        "suite": suite.suite,
        "protocol": f"sha256 {suite.digest[:16]}…" if suite.digest else "",
        "seeds": ", ".join(map(str, suite.seeds)),
        "versions": wording.words(suite.versions),
        "commit": ", ".join(suite.commits),
        "device": "; ".join(suite.devices),
    }
    return tuple((f"{of}{label}", wording.plain(text)) for label, text in pairs.items() if text)


def inside_meaning(column: str) -> str:
    """Return the definition of a column of `inside`."""
    return {
        "magnitude_ratio": MEASURES["ce_magnitude_ratio"].meaning,
        "magnitude_gap": MEASURES["ce_magnitude_gap"].meaning,
        DIVERSITY: MEASURES["diversity_vendi_heldout"].meaning,
        "diversity_train": MEASURES["diversity_vendi_train"].meaning,
        "leak": "How much more often images of other classes are predicted as the class once its augmentation is applied to them.",
    }.get(column, "A column of the study's records.")


def definitions_of(comparison: Comparison) -> tuple[Definition, ...]:
    """Return the definitions of the scores, the differences, and the recorded columns of `inside`."""
    columns = dict.fromkeys(name for suite in comparison.suites for one in suite.methods for name in one.inside)
    sources = {
        "magnitude_ratio": "ce_magnitude_ratio",
        "magnitude_gap": "ce_magnitude_gap",
        DIVERSITY: "diversity_vendi_heldout",
        "diversity_train": "diversity_vendi_train",
    }
    over = f"{replicate_of(comparison.suites)}s"
    others = {suite.metric: suite for suite in comparison.suites if suite.metric != "balanced"}
    named, what = capital(metric_title(comparison.suites)), "value" if others else "accuracy"
    return (
        *(
            Definition(title=suite.metric_title, text=METRIC_MEANINGS[metric], anchor=metric_anchor(suite))
            for metric, suite in others.items()
        ),
        *(
            Definition(title=title, text=meaning, anchor=f"measure-{name.replace('_', '-')}")
            for name, (title, meaning) in SCORE_MEANINGS.items()
            if name != "score"
        ),
        *_network_definitions(over),
        Definition(
            title="difference",
            text=f"{named} of one method minus that of another with the same seed, with a 95% t interval over {over}. The"
            " interval covers the randomness of training; it does not cover the choice of test images.",
            anchor="measure-difference",
        ),
        Definition(
            title="bootstrap",
            text=f"Percentile interval of the mean difference over {over} drawn with replacement. It cannot exceed the range of the"
            f" differences, so it needs at least {FEWEST_FOR_BOOTSTRAP} {over}, and no conclusion is based on it.",
            anchor="measure-bootstrap",
        ),
        Definition(
            title="p, Holm",
            text=f"p value of a two-sided paired t test over {over}, corrected for all methods that are compared with the same method in"
            f" the same suite (Holm). It needs at least {FEWEST_FOR_P} {over}.",
            source="Holm 1979",
            anchor="measure-holm",
        ),
        Definition(
            title="best reweighting on validation",
            text=f"The method with the best validation {what} among those that only change weights, sampling counts or margins. The test"
            " set plays no part in this choice.",
            anchor="measure-best-reweighting",
        ),
        *(
            Definition(
                title=INSIDE.get(column, (column.replace("_", " "),))[0],
                text=inside_meaning(column),
                source=MEASURES[sources[column]].source if column in sources else "",
                anchor=f"measure-inside-{re.sub(r'[^a-z0-9_]', '-', column.lower())}",
            )
            for column in columns
        ),
    )


def _network_definitions(over: str) -> tuple[Definition, ...]:
    """Return the definition of a network if several seeds share one."""
    if over == "seeds":
        return ()
    return (
        Definition(
            title="network",
            text="A separately trained backbone. Seeds that use the same frozen backbone share a network. They are averaged first, per"
            " method and per pair of methods, so that each network counts once in every mean, interval and p value.",
            anchor="measure-network",
        ),
    )
