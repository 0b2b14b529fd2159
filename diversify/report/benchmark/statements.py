"""The results of a study in words: warnings, headlines, and statements with the numbers behind them."""

from __future__ import annotations

import dataclasses
import math
from collections.abc import Iterable, Sequence

from ...study.comparison import BASELINE, DIVERSITY, OURS, SuiteComparison
from ...study.estimates import CONFIDENCE, Difference
from .. import wording
from ..record import Headline, Statement
from ..wording import DASH
from .words import (
    YARDSTICKS,
    gain_interval,
    inside_words,
    interval_of,
    metric_gain,
    metric_interval,
    metric_value,
    number_of_runs,
    ordinal,
    seconds,
    unit_of,
)


def warnings_of(suite: SuiteComparison, alone: bool) -> list[tuple[str, str]]:
    """Return what a reader must know first: missing runs, and caveats."""
    of = "" if alone else f"{wording.named(suite.label)}: "
    found = []
    if suite.unfinished:
        missing = wording.sentence("; ".join(suite.unfinished))
        found.append((f"{of}This study is not finished.", f"{missing} Results may change."))
    found += [(f"{of}Note:", wording.sentence(one)) for one in suite.caveats]
    return found


def headlines_of(suite: SuiteComparison) -> tuple[Headline, ...]:
    """Return the best method, ours, and the gain of ours over the baseline and the best reweighting method."""
    ours = suite.method(OURS)
    found = []
    if suite.finished:
        best = suite.finished[0]
        scored = best.scores["score"]
        found.append(
            Headline(
                label="Best on test",
                value=metric_value(suite, scored.mean),
                detail=f"{metric_interval(suite, scored)} {wording.named(best.name)}".strip(),
            )
        )
    if ours and ours.seeds:
        scored = ours.scores["score"]
        place = suite.finished.index(ours) + 1
        found.append(
            Headline(
                label=OURS,
                value=metric_value(suite, scored.mean),
                detail=f"{metric_interval(suite, scored)} {ordinal(place)} of {len(suite.finished)}".strip(),
            )
        )
    for role in YARDSTICKS:
        reference = suite.references[role]
        gained = reference.differences.get(OURS)
        if gained is not None:
            of = " best reweighting on validation" if role == "reweighting" else ""
            found.append(
                Headline(
                    label=f"Gain over {reference.name}, {unit_of(suite)}",
                    value=metric_gain(suite, gained.paired.mean),
                    detail=f"{gain_interval(suite, gained.paired)}{of}".strip(),
                )
            )
    return tuple(found)


def short_headlines_of(suite: SuiteComparison) -> tuple[Headline, ...]:
    """Return one headline for a suite on a page with several suites."""
    reference = suite.references["reweighting"]
    gained = reference.differences.get(OURS)
    if gained is None:
        return headlines_of(suite)[:1]
    return (
        Headline(
            label=f"{suite.label}: {OURS} over {reference.name}",
            value=metric_gain(suite, gained.paired.mean),
            detail=f"{gain_interval(suite, gained.paired)} {unit_of(suite)}, best reweighting on validation".strip(),
        ),
    )


def statements_of(suite: SuiteComparison, of: str) -> tuple[Statement, ...]:
    """Return the statements on a suite, most important first; `of` starts each title."""
    if not suite.finished:
        return (Statement(title=f"{of}Nothing to compare yet", text="No final run is recorded yet."),)
    return tuple(
        Statement(title=f"{of}{one.title}", text=one.text, label=one.label, good=one.good)
        for one in (
            _standing(suite),
            *_hindsight(suite),
            *([diversifies(suite)] if suite.method(OURS) else []),
            *_cost(suite),
        )
    )


def _standing(suite: SuiteComparison) -> Statement:
    """Return the rank of our method, and how it compares with the others."""
    ours, best = suite.method(OURS), suite.finished[0]
    if len(suite.finished) == 1:
        return Statement(
            title=f"{best.name} is the only method with a final run",
            text="There is no other method to compare it with.",
            label="ranking",
        )
    if ours is None or not ours.seeds:
        gains = [
            f"Gain over {reference.name}{' (best reweighting on validation)' * (role == 'reweighting')}:"
            f" {metric_gain(suite, gained.paired.mean)} {unit_of(suite)} {gain_interval(suite, gained.paired)}".strip()
            + "."
            for role in YARDSTICKS
            for reference in (suite.references[role],)
            if (gained := reference.differences.get(best.name)) is not None
        ]
        return Statement(
            title=f"{best.name} is first of {len(suite.finished)}",
            text=" ".join(gains) or wording.sentence(suite.references["ours"].why),
            label="ranking",
        )
    rivals = suite.references["ours"].differences
    sentences = [_tally(rivals.values(), wording.number_of(len(rivals), "other method", "other methods"))]
    listed = [one for name, one in rivals.items() if name in suite.reweighting]
    if listed:
        sentences.append(_tally(listed, wording.number_of(len(listed), "reweighting method", "reweighting methods")))
    for role in YARDSTICKS:
        how = " (best reweighting on validation)" if role == "reweighting" else ""
        reference = suite.references[role]
        if reference.name in rivals:
            sentences.append(f"Gain over {reference.name}{how}: {_ours_over(suite, str(reference.name))}.")
        elif reference.why:
            sentences.append(wording.sentence(reference.why))
    place = suite.finished.index(ours) + 1
    return Statement(
        title=f"{OURS} is {ordinal(place)} of {len(suite.finished)}",
        text=" ".join(sentences),
        label="ranking",
        good=place == 1,
    )


def _tally(others: Iterable[Difference], of: str) -> str:
    """Return how many of the others are better and worse than our method; `others` are their differences to ours."""
    listed = list(others)
    behind = [one for one in listed if one.paired.mean > 0]
    ahead = [one for one in listed if one.paired.mean < 0]
    return (
        f"Of {of}, {_number(len(behind), 'better')}{_significant(behind)} and"
        f" {_number(len(ahead), 'worse')}{_significant(ahead)}."
    )


def _number(count: int, how: str) -> str:
    return f"{count or 'none'} {'is' if count < 2 else 'are'} {how}"


def _significant(group: Sequence[Difference]) -> str:
    """Return how many differences have an interval without 0, and how many a p value below 5% after Holm's correction."""
    beyond = sum(one.verdict != "open" for one in group)
    tested = any(math.isfinite(one.p_holm) for one in group)
    after = f", {sum(one.p_holm < 1 - CONFIDENCE for one in group)} after Holm's correction" if tested else ""
    return f" ({beyond} significantly{after})" if beyond else ""


def _ours_over(suite: SuiteComparison, name: str) -> str:
    """Return the gain of our method over another, such as `+1.2 points [0.1, 2.3]`."""
    found = suite.references["ours"].differences.get(name)
    if found is None:
        return DASH
    paired = dataclasses.replace(found.paired, mean=-found.paired.mean, low=-found.paired.high, high=-found.paired.low)
    return f"{metric_gain(suite, paired.mean)} {unit_of(suite)} {gain_interval(suite, paired)}".rstrip()


def _hindsight(suite: SuiteComparison) -> tuple[Statement, ...]:
    """Return which reweighting method would be best on the test set, if it is another than the one chosen."""
    chosen = suite.references["reweighting"].name
    if suite.hindsight is None or chosen is None or suite.hindsight == chosen:
        return ()
    over = suite.references["ours"].differences.get(suite.hindsight)
    ours = f" Gain of {OURS} over it: {_ours_over(suite, suite.hindsight)}." if over else ""
    return (
        Statement(
            title=f"On test, {suite.hindsight} is the best reweighting method",
            text=f"The validation set chose {chosen}. The test set must not choose, so this is hindsight, for information only.{ours}",
            label="hindsight",
        ),
    )


def diversifies(suite: SuiteComparison) -> Statement:
    """Return whether our method makes the features of small classes more diverse than the baseline."""
    question, label = "Are the features more diverse?", "feature diversity"
    ours, baseline = suite.references["ours"], suite.references["baseline"]

    def undecided(why: str) -> Statement:
        return Statement(title=f"{question} Undecided", text=wording.sentence(why), label=label)

    for one in (ours, baseline):
        if one.why:
            return undecided(one.why)
    found = baseline.inside.get(DIVERSITY, {}).get(OURS)
    if found is None or not found.paired.values:
        return undecided("the held-out diversity of the smallest third of the classes was not measured")
    runs = number_of_runs(len(found.paired.values), len(found.paired.seeds))
    change = f"{wording.signed(found.paired.mean, 2)} {interval_of(found.paired, 'ratio')}".rstrip()
    numbers = (
        f"On held-out images of the smallest third of the classes, the Vendi score at matched n differs by {change} from that of"
        f" {BASELINE} ({runs})"
    )
    others = []
    for column, words in (("magnitude_ratio", "the top-K magnitude ratio"), ("leak", "the leak")):
        moved = baseline.inside.get(column, {}).get(OURS)
        if moved is not None and moved.paired.values:
            value, ends = inside_words(column, moved.paired, signed=True)
            sure = "" if moved.verdict != "open" else ", which may be chance"
            others.append(f"{words} differs by {value} {ends}".rstrip() + f"{' points' * (column == 'leak')}{sure}")
    beside = f" {wording.sentence('; '.join(others))}" if others else ""
    if not math.isfinite(found.paired.low):
        return undecided(f"{numbers}; with one {suite.replicate}, there is no interval.{beside}".removesuffix("."))
    if found.verdict == "open":
        held = found.paired.low <= 0 <= found.paired.high
        why = "the interval contains 0" if held else f"there are too few {suite.replicate}s to decide"
        return undecided(f"{numbers}: {why}.{beside}".removesuffix("."))
    more = found.verdict == "ahead"
    return Statement(
        title=f"{question} {'Yes' if more else 'No, they are less diverse'}",
        text=f"{numbers}.{beside}",
        label=label,
        good=more,
    )


def _cost(suite: SuiteComparison) -> tuple[Statement, ...]:
    ours, other = suite.method(OURS), suite.method(BASELINE)
    if not (ours and other and ours.seeds and other.seeds):
        return ()
    spent, base = (one.scores["seconds_shared"].mean for one in (ours, other))
    if not (math.isfinite(spent) and math.isfinite(base) and base > 0):
        return ()
    return (
        Statement(
            title=f"{OURS} takes {spent / base:.2f} times as long as {BASELINE}",
            text=f"A final run takes {seconds(spent)} s, that of {BASELINE} {seconds(base)} s.",
            label="cost",
            good=spent <= base,
        ),
    )
