"""The demo as one offline HTML page and as Markdown: what was wrong, what was done, what it gained."""

from __future__ import annotations

import dataclasses
import math
from collections.abc import Mapping, Sequence
from typing import Any

import torch
from torch import Tensor

from ..augment.leak import Leak
from ..diagnosis.catalogue import MEASURES
from ..diagnosis.result import Diagnosis
from ..functional import stats
from ..functional.metrics import confusion_matrix, recall
from ..plan.plan import Plan
from ..repair.choose import balanced_difference
from . import page, wording
from .page import Cell, Chart, Heading, Headline, Meaning, Report, Row, Section, Sheet, Statement, Table
from .plots import Rows, Series
from .remedy import plan_section
from .thumbnails import thumbnail
from .wording import DASH

SHOWN_STRENGTHS = (0.0, 0.25, 0.5, 0.75, 1.0)
_Z = 1.959964  # 95%
_NOTHING = math.nan


@dataclasses.dataclass(frozen=True, kw_only=True, eq=False)
class Trained:
    """One way of training, with every seed: `right` `(S, N)` says which test images the S networks know."""

    name: str
    meaning: str
    source: str
    balanced_accuracy_val: tuple[float, ...]
    right: Tensor


@dataclasses.dataclass(frozen=True, kw_only=True, eq=False)
class Outcome:
    """All ways on the same test images, the first of them what the others are compared with. M ways, S seeds, C classes.

    Attributes:
        names: Of the ways.
        accuracy: `(M, S)` balanced accuracy on test.
        balanced_accuracy: `(M,)` mean over the seeds, `low` and `high` its 95% interval over test images.
        gain: `(M, M)` points of a row's way over a column's, as shares of 1; `gain_low`, `gain_high` its interval over
            test images, each of which counts by the share of the networks that know it.
        seed_gain: `(M, M, S)` the same for every seed alone.
        recall: `(M, C)` on test, mean over the seeds, with `recall_low` and `recall_high`.
    """

    names: tuple[str, ...]
    meanings: tuple[str, ...]
    sources: tuple[str, ...]
    accuracy_val: Tensor
    accuracy: Tensor
    low: Tensor
    high: Tensor
    gain: Tensor
    gain_low: Tensor
    gain_high: Tensor
    recall: Tensor
    recall_low: Tensor
    recall_high: Tensor

    @property
    def balanced_accuracy(self) -> Tensor:
        """`(M,)` mean over the seeds."""
        return self.accuracy.mean(1)

    def seed_gain(self, one: int, other: int) -> list[float]:
        """Of one way over another, seed by seed."""
        return [float(value) for value in self.accuracy[one] - self.accuracy[other]]

    def to_dict(self) -> dict[str, Any]:
        """JSON values: what the demo keeps of its test."""
        values = {field.name: getattr(self, field.name) for field in dataclasses.fields(self)}
        return {name: value.tolist() if isinstance(value, Tensor) else list(value) for name, value in values.items()}


def outcome_of(ways: Sequence[Trained], labels: Tensor, num_classes: int) -> Outcome:
    """The ways compared; `labels` `(N,)` are those of the test images, among which every class has some."""
    seeds = [[_balanced(row, labels, num_classes) for row in way.right] for way in ways]
    shares = [way.right.double().mean(0) for way in ways]
    known = torch.zeros(len(ways), num_classes, dtype=torch.float64)
    for place, share in enumerate(shares):
        known[place].index_add_(0, labels, share)
    totals = torch.bincount(labels, minlength=num_classes).expand_as(known)
    low, high = stats.wilson_interval(known, totals)
    ends = [stats.mean_share_interval(*row) for row in zip(known / totals, low, high, strict=True)]
    pairs = [[balanced_difference(one, other, labels, num_classes) for other in shares] for one in shares]
    gain, error = torch.tensor(pairs, dtype=torch.float64).unbind(-1)
    return Outcome(
        names=tuple(way.name for way in ways),
        meanings=tuple(way.meaning for way in ways),
        sources=tuple(way.source for way in ways),
        accuracy_val=torch.tensor([way.balanced_accuracy_val for way in ways], dtype=torch.float64),
        accuracy=torch.tensor(seeds, dtype=torch.float64),
        low=torch.tensor([one for one, _ in ends], dtype=torch.float64),
        high=torch.tensor([one for _, one in ends], dtype=torch.float64),
        gain=gain,
        gain_low=gain - _Z * error,
        gain_high=gain + _Z * error,
        recall=known / totals,
        recall_low=low,
        recall_high=high,
    )


def _balanced(right: Tensor, labels: Tensor, num_classes: int) -> float:
    """Balanced accuracy of one network; what it gets wrong is put beside the classes."""
    found = confusion_matrix(labels, torch.where(right.bool(), labels, num_classes), num_classes + 1)
    return float(recall(found)[:num_classes].nanmean())


@dataclasses.dataclass(frozen=True, kw_only=True, eq=False)
class Demo:
    """What the demo's report is made of; the diagnoses, the leaks and the plan are those of the first seed.

    `varied` is `(C, S, N, ...)` images: N training images of a class under its policy, at `SHOWN_STRENGTHS`. `before`
    and `after` are diagnoses on val. `control` and `planned` are places among the ways of the outcome, `chosen` says how
    the plan's image policy was chosen.
    """

    outcome: Outcome
    control: int
    planned: int
    before: Diagnosis
    after: Diagnosis
    leak_before: Leak
    leak_after: Leak
    plan: Plan
    varied: tuple[Tensor, ...]
    chosen: str
    repaired: str
    commands: tuple[str, ...]
    seconds: Mapping[str, float]


def render_demo_html(demo: Demo, run: Mapping[str, Any]) -> str:
    """One offline page; `run` is the content of run.json, all of it optional."""
    return page.html(demo_report_of(demo, run))


def render_demo_markdown(demo: Demo, run: Mapping[str, Any]) -> str:
    """The same without the plots and pictures."""
    return page.markdown(demo_report_of(demo, run))


def demo_report_of(demo: Demo, run: Mapping[str, Any]) -> Report:
    """What the report of the demo says."""
    before, outcome = demo.before, demo.outcome
    names = tuple(wording.named(name) for name in before.class_names)
    counts = [int(count) for count in before["count"].tolist()]
    seeds = outcome.accuracy.shape[1]
    return Report(
        title="Long-tailed digits: diagnosed, repaired, trained again",
        subtitle=f"A small CNN learns {len(names)} digits from {sum(counts)} images, {max(counts)} of one class and"
        f" {min(counts)} of another. Everything was chosen on {int(before['count_heldout'].nansum())} images of val; the"
        f" {wording.words(run.get('test_images')) or 'images'} of test were read once, at the end. {seeds} training seed"
        f"{'s' * (seeds != 1)}; intervals are 95%.",
        warnings=(),
        headlines=_headlines(demo),
        findings_note="What was wrong, what was done, and what it gained.",
        findings=_statements(demo, names),
        classes=_class_table(demo, names),
        sections=(
            _ways(demo),
            _policies(demo, names),
            _change(demo, names),
            plan_section(demo.plan, names, training=True),
            _again(demo),
        ),
        beyond_note="",
        beyond=None,
        meanings=_meanings(demo),
        origin=(
            *wording.origin_of(run),
            ("seconds", ", ".join(f"{name} {value:.0f}" for name, value in demo.seconds.items())),
        ),
    )


def _gain_words(outcome: Outcome, one: int, other: int) -> str:
    low, high = float(outcome.gain_low[one, other]), float(outcome.gain_high[one, other])
    return f"{wording.points(float(outcome.gain[one, other]))} points {wording.between(low, high, 'tenths')}"


def _accuracy(outcome: Outcome, place: int) -> tuple[str, str]:
    value = wording.percent(float(outcome.balanced_accuracy[place]))
    return value, wording.between(float(outcome.low[place]), float(outcome.high[place]), "percent")


def _seeds(values: Sequence[float]) -> str:
    return " / ".join(wording.points(value) for value in values)


def _headlines(demo: Demo) -> tuple[Headline, ...]:
    outcome, planned, control = demo.outcome, demo.planned, demo.control
    before, after = (_accuracy(outcome, place) for place in (0, planned))

    def gain(other: int, label: str) -> Headline:
        ends = float(outcome.gain_low[planned, other]), float(outcome.gain_high[planned, other])
        detail = f"{wording.between(*ends, 'tenths')} by seed {_seeds(outcome.seed_gain(planned, other))}"
        return Headline(label=label, value=wording.points(float(outcome.gain[planned, other])), detail=detail)

    return (
        Headline(label="As trained", value=before[0], detail=f"{before[1]} balanced test accuracy, {outcome.names[0]}"),
        Headline(label="Trained with the plan", value=after[0], detail=f"{after[1]} balanced test accuracy"),
        gain(0, "Gain, points"),
        gain(control, f"Over {outcome.names[control]}, points"),
    )


def _statements(demo: Demo, names: Sequence[str]) -> tuple[Statement, ...]:
    before, outcome, planned, control = demo.before, demo.outcome, demo.planned, demo.control
    weak = [c for c in range(len(names)) if float(before["fragile"][c]) > 0]
    worst = min(range(len(names)), key=lambda c: float(before["recall_heldout"].nan_to_num(2.0)[c]))
    ratio, share = (float(before[name][worst]) for name in ("ce_magnitude_ratio", "recall_heldout"))
    wrong = (
        f"Of class {names[worst]} ({int(before['count'][worst])} training images) it finds {wording.share(share)} of the unseen"
        f" images {wording.column_interval(before.columns, 'recall_heldout', worst, 'share')}; its top-K features keep"
        f" {wording.share(ratio)} of their training magnitude on them"
        + f" {wording.column_interval(before.columns, 'ce_magnitude_ratio', worst, 'share')}".rstrip()
        + "."
    )
    title = (
        f"{page.number_of(len(weak), 'fragile class', 'fragile classes')}: {', '.join(names[c] for c in weak)}"
        if weak
        else "No class is fragile beyond doubt"
    )
    low, high = float(outcome.gain_low[planned, control]), float(outcome.gain_high[planned, control])
    verdict = (
        "beyond doubt on these test images"
        if low > 0
        else "less than the control, beyond doubt"
        if high < 0
        else "an interval that holds 0: on these test images the two cannot be told apart"
    )
    return (
        Statement(title=title, text=wrong, label="what was wrong"),
        Statement(
            title="A plan said what to do for each class",
            text=f"{demo.chosen} The head of the first network was repaired too, without training it again: {demo.repaired}",
            label="what was done",
            good=True,
        ),
        Statement(
            title=f"{_gain_words(outcome, planned, 0)} over {outcome.names[0]}",
            text=f"Reweighting alone ({outcome.names[control]}) gains {_gain_words(outcome, control, 0)}; the plan"
            f" {_gain_words(outcome, planned, control)} more, by seed {_seeds(outcome.seed_gain(planned, control))}: {verdict}."
            f" {_others(demo)}",
            label="what it gained",
            good=float(outcome.gain[planned, 0]) > 0,
        ),
        *_leaking(demo, names),
    )


def _others(demo: Demo) -> str:
    """What the ways gain that are neither the first, nor the control, nor the plan."""
    outcome = demo.outcome
    places = [place for place in range(1, len(outcome.names)) if place not in (demo.control, demo.planned)]
    return " ".join(
        f"Without training again, {outcome.names[place]} gains {_gain_words(outcome, place, 0)}." for place in places
    )


def _leaking(demo: Demo, names: Sequence[str]) -> tuple[Statement, ...]:
    """The classes for which the retrained network takes varied images, beyond doubt."""
    leak = demo.leak_after
    if not leak.beyond_doubt:
        return ()
    told = ", ".join(f"{names[c]} {wording.leaked(leak, c)}" for c in leak.beyond_doubt)
    text = (
        "Val images of other classes, varied by the policy of the class, are called by its name so many points more often"
        f" than clean ones: {told}. `bounded(plan, leak)` takes such a policy back."
    )
    return (Statement(title="Varied images are taken for another class", text=text, label="what it cost"),)


def _class_table(demo: Demo, names: Sequence[str]) -> Table:
    outcome, sides = demo.outcome, (demo.before, demo.after)
    leaks = (demo.leak_before, demo.leak_after)

    def test(place: int, c: int) -> Cell:
        ends = float(outcome.recall_low[place][c]), float(outcome.recall_high[place][c])
        value = wording.formatted(float(outcome.recall[place][c]), "share")
        return Cell(value=value, interval=wording.between(*ends, "share"))

    def measured(side: Diagnosis, name: str, unit: str, c: int) -> Cell:
        value = wording.formatted(wording.at(side.columns, name, c), unit)
        return Cell(value=value, interval=wording.column_interval(side.columns, name, c, unit))

    def leaked(leak: Leak, c: int) -> Cell:
        ends = float(leak.leak_low[c]), float(leak.leak_high[c])
        return Cell(value=wording.points(float(leak.leak[c])), interval=wording.between(*ends, "tenths"))

    rows = []
    for c, name in enumerate(names):
        change = float(outcome.recall[demo.planned][c] - outcome.recall[0][c])
        fragile = float(demo.before["fragile"][c]) > 0
        cells = (
            Cell(value=f"{int(demo.before['count'][c]):,}"),
            test(0, c),
            test(demo.planned, c),
            Cell(value=wording.points(change) if math.isfinite(change) else DASH, strong=abs(change) >= 0.05),
            *(measured(side, "ce_magnitude_gap", "logits", c) for side in sides),
            *(measured(side, "diversity_vendi_heldout", "plain", c) for side in sides),
            *(leaked(leak, c) for leak in leaks),
        )
        rows.append(Row(name=name, mark="◆ fragile" if fragile else "", cells=cells))
    headings = (
        ("train images", "images", "", ""),
        ("recall before", "recall", "", ""),
        ("with the plan", "with the plan", "", ""),
        ("change, points", "change", "", ""),
        ("magnitude gap before", "gap", "ce_magnitude_gap", "Top-K, training less held-out, in logits."),
        ("after", "gap after", "ce_magnitude_gap", "Top-K, training less held-out, in logits."),
        ("diversity before", "diversity", "diversity_vendi_heldout", "Vendi score of 20 held-out images."),
        ("after", "diversity after", "diversity_vendi_heldout", "Vendi score of 20 held-out images."),
        ("leak before, points", "leak", "leak", "Other classes' images called this class under its policy."),
        ("after", "leak after", "leak", "Other classes' images called this class under its policy."),
    )
    return Table(
        title="The classes, before and after",
        caption="Recall: test, all seeds; the rest: val, the first seed. Largest class first; ◆ marks what the diagnosis called"
        " fragile, bold a change of 5 points and more. Brackets: 95%, each class by itself.",
        headings=(
            Heading(title="class", short="class"),
            *(
                Heading(title=title, short=short, meaning=meaning, anchor=wording.anchor(name) if name else "")
                for title, short, name, meaning in headings
            ),
        ),
        rows=tuple(rows),
    )


def _ways(demo: Demo) -> Section:
    outcome = demo.outcome
    rows, control = [], demo.control
    for place, name in enumerate(outcome.names):
        value, ends = _accuracy(outcome, place)

        def over(other: int, place: int = place) -> Cell:
            if place == other:
                return Cell(value=DASH)
            low, high = float(outcome.gain_low[place, other]), float(outcome.gain_high[place, other])
            value = wording.points(float(outcome.gain[place, other]))
            return Cell(value=value, interval=wording.between(low, high, "tenths"))

        rows.append(
            Row(
                name=name,
                mark="policy by val" if place == demo.planned else "control" if place == control else "",
                good=True,
                meaning=outcome.meanings[place],
                anchor=wording.anchor(f"way {place}"),
                cells=(
                    Cell(value=wording.percent(float(outcome.accuracy_val[place].mean()))),
                    Cell(value=value, interval=ends, strong=place == demo.planned),
                    Cell(value=" / ".join(wording.unsigned(100 * float(one), 1) for one in outcome.accuracy[place])),
                    over(0),
                    over(control),
                ),
            )
        )
    series = Series(
        name="gain",
        values=tuple(float(value) for value in outcome.gain[:, 0]),
        low=(_NOTHING, *(float(value) for value in outcome.gain_low[1:, 0])),
        high=(_NOTHING, *(float(value) for value in outcome.gain_high[1:, 0])),
    )
    told = "; ".join(
        f"{name} {wording.points(float(value))}" for name, value in zip(outcome.names, outcome.gain[:, 0], strict=True)
    )
    drawn = Rows(
        names=outcome.names,
        signs=tuple("●" if place == demo.planned else "" for place in range(len(outcome.names))),
        series=(series,),
        reference=0.0,
        points=True,
    )
    titles = (
        "val",
        "test",
        "test, by seed",
        f"over {outcome.names[0]}, points",
        f"over {outcome.names[control]}, points",
    )
    return Section(
        title="What each way gains",
        anchor="ways",
        note="Balanced accuracy: the mean recall of the classes, so that a rare one counts as much as a frequent one. Val chose;"
        " test was read once, for all finished networks together.",
        table=Table(
            title="What each way gains",
            caption="Means over the seeds. Intervals are over test images, of which each counts by the share of the networks"
            " that know it; how much hangs on the training seed is beside them.",
            headings=(Heading(title="way"), *(Heading(title=title) for title in titles)),
            rows=tuple(rows),
        ),
        charts=(
            Chart(
                title="Gain on test",
                caption=f"Balanced accuracy over {outcome.names[0]}, in points, with its interval; ● is the plan.",
                alt=f"Gain in points: {told}.",
                data=drawn,
            ),
        ),
    )


def _policies(demo: Demo, names: Sequence[str]) -> Section:
    columns = tuple("as it is" if not strength else f"{strength:g}" for strength in SHOWN_STRENGTHS)
    rows = []
    for c, name in enumerate(names):
        policy = demo.plan.classes[c].image
        detail = f"trained at {policy.strength:.2f}, on {policy.probability:.0%}" if policy.amount else "not varied"
        cells = tuple(tuple(thumbnail(image) for image in images) for images in demo.varied[c])
        rows.append((name, detail, cells))
    kinds = dict.fromkeys(name for one in demo.plan.classes for name in one.image.operations)
    return Section(
        title="What the policies do to images",
        anchor="policies",
        note=f"Training images under the policy of their class: {', '.join(kinds).replace('_', ' ') or 'none'}. In a row an image"
        " keeps its operation, and what grows is the strength; beside the name is the strength that the plan trains with,"
        " and on which share of the class's draws.",
        sheets=(
            Sheet(
                title="Strength, low to high",
                caption="0 is the identity, 1 the full range of each operation.",
                corner="class",
                columns=columns,
                rows=tuple(rows),
            ),
        ),
    )


def _change(demo: Demo, names: Sequence[str]) -> Section:
    outcome = demo.outcome
    nothing = (_NOTHING,) * len(names)

    def joined(first: Sequence[float], second: Sequence[float]) -> tuple[Series, ...]:
        sides = (("before", first, "muted", "s", True), ("with the plan", second, "blue", "o", False))
        return tuple(
            Series(
                name=name, values=tuple(values), low=nothing, high=nothing, color=color, marker=marker, hollow=hollow
            )
            for name, values, color, marker, hollow in sides
        )

    recalls = [[float(value) for value in outcome.recall[place]] for place in (0, demo.planned)]
    gaps = [[float(value) for value in side["ce_magnitude_ratio"]] for side in (demo.before, demo.after)]
    told = [
        "; ".join(f"{name} {form(one)} to {form(other)}" for name, one, other in zip(names, *values, strict=True))
        for values, form in ((recalls, wording.share), (gaps, wording.share))
    ]
    blank = ("",) * len(names)
    return Section(
        title="Before and after",
        anchor="change",
        charts=(
            Chart(
                title="Which classes gain, which pay?",
                caption="Test recall, mean over the seeds. Largest class at the top.",
                alt=f"Recall: {told[0]}.",
                data=Rows(names=tuple(names), signs=blank, series=joined(*recalls), percent=True, joined=True),
            ),
            Chart(
                title="Do the top-K features hold on unseen images?",
                caption="What is left on val of their magnitude in training, the first seed; the line is all of it.",
                alt=f"Top-K magnitude ratio: {told[1]}.",
                data=Rows(
                    names=tuple(names), signs=blank, series=joined(*gaps), percent=True, joined=True, reference=1.0
                ),
            ),
        ),
    )


def _again(demo: Demo) -> Section:
    return Section(
        title="The same by hand",
        anchor="again",
        note="Every step of the first seed is a command; the data is an ordinary file.",
        commands=demo.commands,
    )


def _meanings(demo: Demo) -> tuple[Meaning, ...]:
    outcome = demo.outcome
    ways = zip(outcome.names, outcome.meanings, outcome.sources, strict=True)
    return (
        *(
            Meaning(title=name, text=text, source=source, anchor=wording.anchor(f"way {place}"))
            for place, (name, text, source) in enumerate(ways)
        ),
        *(
            Meaning(title=one.title, text=wording.with_evidence(one), source=one.source, anchor=wording.anchor(name))
            for name in ("ce_magnitude_gap", "ce_magnitude_ratio", "diversity_vendi_heldout")
            for one in (MEASURES[name],)
        ),
        Meaning(
            title="leak",
            text="How much more often held-out images of the other classes are called by the class's name once its policy is"
            " applied to them at full strength, in points: whether the network takes a varied image for a rare class.",
            anchor=wording.anchor("leak"),
        ),
    )
