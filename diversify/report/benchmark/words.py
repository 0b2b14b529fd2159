"""How the report of a study names scores, methods and data, writes numbers, and says what they mean."""

from __future__ import annotations

import math
import re
from collections.abc import Iterable

from ...diagnosis.catalogue import MEASURES
from ...study.analysis import DIVERSITY, Comparison, Replicate, Role, SuiteComparison
from ...study.estimates import FEWEST_FOR_BOOTSTRAP, FEWEST_FOR_P, Estimate
from .. import page, wording
from ..page import Meaning
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
        "Mean recall of the classes, so that a rare one counts as much as a frequent one.",
    ),
    "shot_groups": (
        "many, medium, few",
        "Mean recall of the classes with more than 100, with 20 to 100, and with less than 20 training images.",
    ),
    "thirds": (
        "thirds",
        "Mean recall of a third of the classes by training images; classes of one size are never parted.",
    ),
    "worst_class": ("worst class", "The lowest recall of a class, in each seed."),
    "macro_f1": ("macro F1", "Mean F1 of the classes."),
    "g_mean": ("G-mean", "Geometric mean of the recalls; 0 where a class is never found."),
    "ece": ("ECE", "Expected calibration error: how far confidence is from accuracy, over bins of confidence."),
}


def tenths(value: float) -> str:
    """A share in percent with one decimal and without a percent sign; an en dash where undefined."""
    return wording.unsigned(100 * value, 1) if math.isfinite(value) else DASH


def seconds(value: float) -> str:
    """Seconds, whole ones from 10 on; an en dash where undefined."""
    if not math.isfinite(value):
        return DASH
    return f"{value:,.0f}" if value >= 10 else f"{value:.1f}"


def interval_of(estimate: Estimate, unit: str = "tenths") -> str:
    """The interval of an estimate in brackets; empty where there is none."""
    return wording.between(estimate.low, estimate.high, unit)


def has_score(suite: SuiteComparison, score: str) -> bool:
    """Whether any finished method has a value of a score."""
    return any(math.isfinite(one.scores[score].mean) for one in suite.finished)


def number_of_runs(networks: int, seeds: int) -> str:
    """`3 seeds`, or `5 networks, 10 seeds` where some share a network."""
    of = page.number_of(seeds, "seed", "seeds")
    return of if networks == seeds else f"{page.number_of(networks, 'network', 'networks')}, {of}"


def runs_of(suite: SuiteComparison) -> str:
    """How many networks the intervals of a suite are over, and how many seeds there are."""
    seeds = len(suite.seeds)
    if suite.replicate == "seed":
        return number_of_runs(seeds, seeds)
    sizes = sorted({one.replicates for one in suite.finished})
    if len(sizes) == 1:
        return number_of_runs(sizes[0], seeds)
    return f"{sizes[0]} to {sizes[-1]} networks, {page.number_of(seeds, 'seed', 'seeds')}"


def replicate_of(suites: Iterable[SuiteComparison]) -> Replicate:
    """What to call that which the intervals of several suites are over."""
    return "network" if any(suite.replicate == "network" for suite in suites) else "seed"


def paired_by_seed(replicate: Replicate) -> str:
    """How differences come about, to end a sentence with."""
    return "seed by seed" if replicate == "seed" else "seed by seed, and averaged over the seeds of a network"


def ordinal(place: int) -> str:
    """The place in a row, in words where it is the first."""
    if place == 1:
        return "first"
    ending = "th" if place % 100 in (11, 12, 13) else {1: "st", 2: "nd", 3: "rd"}.get(place % 10, "th")
    return f"{place}{ending}"


def inside_words(column: str, estimate: Estimate, *, signed: bool = False) -> tuple[str, str]:
    """A value of `inside` and its interval, as the report writes them."""
    unit = INSIDE.get(column, ("", "ratio"))[1]
    if unit == "tenths":
        return wording.points(estimate.mean), interval_of(estimate, "tenths")
    value = wording.signed(estimate.mean, 2) if signed else wording.formatted(estimate.mean, unit)
    return value, interval_of(estimate, unit)


def what_was_run(suite: SuiteComparison) -> str:
    """Methods, trials, seeds, and what is known of the data."""
    trials = sorted({one.budget.trials for one in suite.methods})
    spread = f"{trials[0]} to {trials[-1]} trials" if len(trials) > 1 else page.number_of(trials[0], "trial", "trials")
    protocol = suite.protocol
    known = [str(protocol[name]) for name in ("data", "imbalance", "model") if protocol.get(name)]
    epochs = [one.scores["epochs"].mean for one in suite.finished if math.isfinite(one.scores["epochs"].mean)]
    if epochs and max(epochs) == min(epochs):
        known.append(f"{epochs[0]:,.0f} epochs")
    if suite.counts:
        known.append(f"{len(suite.counts)} classes of {suite.counts[0]:,} to {suite.counts[-1]:,} training images")
    if suite.tail_orders:
        known.append(f"tail order {', '.join(suite.tail_orders)}")
    told = f" ({'; '.join(known)})" if known else ""
    return f"{page.number_of(len(suite.methods), 'method', 'methods')}, {spread} each, {runs_of(suite)}{told}"


def origin_of(suite: SuiteComparison, of: str) -> tuple[tuple[str, str], ...]:
    """Where the numbers of a suite come from; what the records do not say is not shown."""
    pairs = {
        "suite": suite.suite,
        "protocol": f"sha256 {suite.digest[:16]}…" if suite.digest else "",
        "seeds": ", ".join(map(str, suite.seeds)),
        "versions": wording.words(suite.versions),
        "commit": ", ".join(suite.commits),
        "device": "; ".join(suite.devices),
    }
    return tuple((f"{of}{label}", wording.plain(told)) for label, told in pairs.items() if told)


def inside_meaning(column: str) -> str:
    """What a column of `inside` measures."""
    return {
        "magnitude_ratio": MEASURES["ce_magnitude_ratio"].meaning,
        "magnitude_gap": MEASURES["ce_magnitude_gap"].meaning,
        DIVERSITY: MEASURES["diversity_vendi_heldout"].meaning,
        "diversity_train": MEASURES["diversity_vendi_train"].meaning,
        "leak": "How much more often images of other classes are called by the class's name once its policy is applied to them.",
    }.get(column, "As the records of the study name it.")


def meanings_of(comparison: Comparison) -> tuple[Meaning, ...]:
    """What the scores, the differences, and the columns of `inside` that the records have mean."""
    columns = dict.fromkeys(name for suite in comparison.suites for one in suite.methods for name in one.inside)
    sources = {
        "magnitude_ratio": "ce_magnitude_ratio",
        "magnitude_gap": "ce_magnitude_gap",
        DIVERSITY: "diversity_vendi_heldout",
        "diversity_train": "diversity_vendi_train",
    }
    over = f"{replicate_of(comparison.suites)}s"
    return (
        *(
            Meaning(title=title, text=meaning, anchor=f"measure-{name.replace('_', '-')}")
            for name, (title, meaning) in SCORE_MEANINGS.items()
        ),
        *_network_meanings(over),
        Meaning(
            title="difference",
            text=f"Of two methods with the same seed, and its 95% t interval over {over}: how far the mean would move were everything"
            " trained again on the same images. That other test images would give another difference is not in it.",
            anchor="measure-difference",
        ),
        Meaning(
            title="bootstrap",
            text=f"The percentile interval of the mean difference over {over} drawn with replacement. It never leaves the range of the"
            f" differences, so it is given from {FEWEST_FOR_BOOTSTRAP} {over} on, and no verdict hangs on it.",
            anchor="measure-bootstrap",
        ),
        Meaning(
            title="p, Holm",
            text=f"Of the two-sided paired t test over {over}, adjusted for all methods that are compared with the same one in the same"
            f" suite; none with fewer than {FEWEST_FOR_P} {over}.",
            source="Holm 1979",
            anchor="measure-holm",
        ),
        Meaning(
            title="best reweighting on val",
            text="Among the methods that change weights, counts or margins and nothing else, the one whose chosen trial is best on"
            " val. Test has no say in it.",
            anchor="measure-best-reweighting",
        ),
        *(
            Meaning(
                title=INSIDE.get(column, (column.replace("_", " "),))[0],
                text=inside_meaning(column),
                source=MEASURES[sources[column]].source if column in sources else "",
                anchor=f"measure-inside-{re.sub(r'[^a-z0-9_]', '-', column.lower())}",
            )
            for column in columns
        ),
    )


def _network_meanings(over: str) -> tuple[Meaning, ...]:
    """What a network is, where it is not the same as a seed."""
    if over == "seeds":
        return ()
    return (
        Meaning(
            title="network",
            text="What was trained on its own. Seeds whose runs were made on one frozen backbone share a network: they are averaged"
            " first, per method and per pair of methods, so that it counts once in every mean, interval and p value.",
            anchor="measure-network",
        ),
    )
