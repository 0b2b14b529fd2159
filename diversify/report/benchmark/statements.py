"""What a study found, in words: its warnings, its headlines, and its statements with the numbers they rest on."""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Any

from ...study.analysis import BASELINE, DIVERSITY, OURS, SuiteComparison
from ...study.estimates import CONFIDENCE, Difference
from .. import wording
from ..page import Headline, Statement
from ..wording import DASH
from .words import YARDSTICKS, inside_words, interval_of, number_of_runs, ordinal, seconds


def warnings_of(suite: SuiteComparison, alone: bool) -> list[tuple[str, str]]:
    """What must be known before anything is read: what is missing, and caveats."""
    of = "" if alone else f"{wording.named(suite.label)}: "
    found = []
    if suite.unfinished:
        told = wording.sentence(f"{'; '.join(suite.unfinished)}")
        found.append((f"{of}This study is not finished.", f"{told} What is here may change."))
    found += [(f"{of}Mind:", wording.sentence(one)) for one in suite.caveats]
    return found


def headlines_of(suite: SuiteComparison) -> tuple[Headline, ...]:
    """The best method, ours, and ours over each yardstick."""
    ours = suite.method(OURS)
    found = []
    if suite.finished:
        best = suite.finished[0]
        scored = best.scores["balanced_accuracy"]
        found.append(
            Headline(
                label="Best on test",
                value=wording.percent(scored.mean),
                detail=f"{interval_of(scored, 'percent')} {wording.named(best.name)}".strip(),
            )
        )
    if ours and ours.seeds:
        scored = ours.scores["balanced_accuracy"]
        place = suite.finished.index(ours) + 1
        found.append(
            Headline(
                label=OURS,
                value=wording.percent(scored.mean),
                detail=f"{interval_of(scored, 'percent')} {ordinal(place)} of {len(suite.finished)}".strip(),
            )
        )
    for role in YARDSTICKS:
        reference = suite.references[role]
        gained = reference.differences.get(OURS)
        if gained is not None:
            of = " best reweighting on val" if role == "reweighting" else ""
            found.append(
                Headline(
                    label=f"Over {reference.name}, points",
                    value=wording.points(gained.paired.mean),
                    detail=f"{interval_of(gained.paired)}{of}".strip(),
                )
            )
    return tuple(found)


def short_headlines_of(suite: SuiteComparison) -> tuple[Headline, ...]:
    """One headline, for a page with several suites."""
    reference = suite.references["reweighting"]
    gained = reference.differences.get(OURS)
    if gained is None:
        return headlines_of(suite)[:1]
    return (
        Headline(
            label=f"{suite.label}: {OURS} over {reference.name}",
            value=wording.points(gained.paired.mean),
            detail=f"{interval_of(gained.paired)} points, best reweighting on val".strip(),
        ),
    )


def statements_of(suite: SuiteComparison, of: str) -> tuple[Statement, ...]:
    """What was found, most important first; `of` stands before each title."""
    if not suite.finished:
        return (Statement(title=f"{of}Nothing to compare yet", text="No final run is recorded."),)
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
    """Where ours is, and how often it is behind."""
    ours, best = suite.method(OURS), suite.finished[0]
    if len(suite.finished) == 1:
        return Statement(
            title=f"{best.name} is the only method with a final run",
            text="There is nothing to compare it with.",
            label="who wins",
        )
    if ours is None or not ours.seeds:
        told = [
            f"Over {reference.name}{' (best reweighting on val)' * (role == 'reweighting')}:"
            f" {wording.points(gained.paired.mean)} points {interval_of(gained.paired)}".strip()
            + "."
            for role in YARDSTICKS
            for reference in (suite.references[role],)
            if (gained := reference.differences.get(best.name)) is not None
        ]
        return Statement(
            title=f"{best.name} is first of {len(suite.finished)}",
            text=" ".join(told) or wording.sentence(suite.references["ours"].why),
            label="who wins",
        )
    rivals = suite.references["ours"].differences
    told = [_tally(rivals.values(), f"{len(rivals)} comparison{'s' * (len(rivals) != 1)}")]
    listed = [one for name, one in rivals.items() if name in suite.reweighting]
    if listed:
        told.append(_tally(listed, f"{len(listed)} with reweighting methods"))
    for role in YARDSTICKS:
        how = ", the best reweighting method on val" if role == "reweighting" else ""
        reference = suite.references[role]
        if reference.name in rivals:
            told.append(f"Over {reference.name}{how}: {_ours_over(suite, str(reference.name))}.")
        elif reference.why:
            told.append(wording.sentence(reference.why))
    place = suite.finished.index(ours) + 1
    return Statement(
        title=f"{OURS} is {ordinal(place)} of {len(suite.finished)}",
        text=" ".join(told),
        label="who wins",
        good=place == 1,
    )


def _tally(others: Any, of: str) -> str:
    """How often ours is behind and ahead; a difference is that of the other to ours."""
    listed: list[Difference] = list(others)
    behind = [one for one in listed if one.paired.mean > 0]
    ahead = [one for one in listed if one.paired.mean < 0]
    told = [_surely(group) for group in (behind, ahead)]
    return f"Of {of} it is behind on {len(behind)}{told[0]} and ahead on {len(ahead)}{told[1]}."


def _surely(group: Sequence[Difference]) -> str:
    """How many of differences on one side have an interval that leaves out 0, and how many a p value below 5% after Holm."""
    beyond = sum(one.verdict != "open" for one in group)
    tested = any(math.isfinite(one.p_holm) for one in group)
    after = f", {sum(one.p_holm < 1 - CONFIDENCE for one in group)} after Holm" if tested else ""
    return f" ({beyond} by more than the interval{after})" if beyond else ""


def _ours_over(suite: SuiteComparison, name: str) -> str:
    """`+1.2 points [0.1, 2.3]`, from the difference of the other to ours."""
    found = suite.references["ours"].differences.get(name)
    if found is None:
        return DASH
    paired = found.paired
    return f"{wording.points(-paired.mean)} points {wording.between(-paired.high, -paired.low, 'tenths')}".rstrip()


def _hindsight(suite: SuiteComparison) -> tuple[Statement, ...]:
    """Which reweighting method test would have named."""
    chosen = suite.references["reweighting"].name
    if suite.hindsight is None or chosen is None or suite.hindsight == chosen:
        return ()
    over = suite.references["ours"].differences.get(suite.hindsight)
    ours = f" Over it, {OURS}: {_ours_over(suite, suite.hindsight)}." if over else ""
    return (
        Statement(
            title=f"On test, {suite.hindsight} is the best reweighting method",
            text=f"Val chose {chosen}, and test may choose nothing: this is hindsight, to be read only.{ours}",
            label="hindsight",
        ),
    )


def diversifies(suite: SuiteComparison) -> Statement:
    """Whether what the library is named for happens, from numbers."""
    question, label = "Does diversifying really diversify?", "what changed inside"
    ours, baseline = suite.references["ours"], suite.references["baseline"]

    def untold(why: str) -> Statement:
        return Statement(title=f"{question} Cannot be told", text=wording.sentence(why), label=label)

    for one in (ours, baseline):
        if one.why:
            return untold(one.why)
    found = baseline.inside.get(DIVERSITY, {}).get(OURS)
    if found is None or not found.paired.values:
        return untold("held-out diversity of the smallest third of the classes was not measured")
    runs = number_of_runs(len(found.paired.values), len(found.paired.seeds))
    change = f"{wording.signed(found.paired.mean, 2)} {interval_of(found.paired, 'ratio')}".rstrip()
    numbers = (
        f"On unseen images of the smallest third of the classes the Vendi score of the features at matched n differs by {change}"
        f" from {BASELINE}'s ({runs})"
    )
    others = []
    for column, words in (("magnitude_ratio", "the top-K magnitude ratio"), ("leak", "leak")):
        moved = baseline.inside.get(column, {}).get(OURS)
        if moved is not None and moved.paired.values:
            value, ends = inside_words(column, moved.paired, signed=True)
            sure = "" if moved.verdict != "open" else ", which cannot be told from 0"
            others.append(f"{words} differs by {value} {ends}".rstrip() + f"{' points' * (column == 'leak')}{sure}")
    beside = f" {wording.sentence('; '.join(others))}" if others else ""
    if not math.isfinite(found.paired.low):
        return untold(f"{numbers}; one {suite.replicate} has no interval.{beside}".removesuffix("."))
    if found.verdict == "open":
        held = found.paired.low <= 0 <= found.paired.high
        why = "the interval holds 0" if held else f"{suite.replicate}s are too few to tell"
        return untold(f"{numbers}: {why}.{beside}".removesuffix("."))
    more = found.verdict == "ahead"
    return Statement(
        title=f"{question} {'Yes: features are more diverse' if more else 'No: features are less diverse'}",
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
            title=f"{OURS} takes {spent / base:.2f} times the seconds of {BASELINE}",
            text=f"{seconds(spent)} s against {seconds(base)} s a final run, each with its share of the device.",
            label="cost",
            good=spent <= base,
        ),
    )
