"""The repair of a head as one offline HTML page and as Markdown: what is recommended, and what it was compared with."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from typing import Any

from ..plan.plan import Plan
from ..plan.policies import ImagePolicy
from ..repair.candidates import UNTOUCHED
from ..repair.choice import HeadChoice
from . import page, plots, wording
from .page import Cell, Chart, Gallery, Heading, Headline, Meaning, Report, Row, Section, Statement, Table
from .plots import Rows, Series
from .wording import DASH


def render_remedy_html(choice: HeadChoice, class_names: Sequence[str], plan: Plan, run: Mapping[str, Any]) -> str:
    """One offline page; `run` is the content of run.json, all of it optional."""
    return page.html(remedy_report_of(choice, class_names, plan, run))


def render_remedy_markdown(choice: HeadChoice, class_names: Sequence[str], plan: Plan, run: Mapping[str, Any]) -> str:
    """The same without the plots."""
    return page.markdown(remedy_report_of(choice, class_names, plan, run))


def remedy_report_of(choice: HeadChoice, class_names: Sequence[str], plan: Plan, run: Mapping[str, Any]) -> Report:
    """What the report of a remedy says."""
    names = tuple(wording.named(name) for name in class_names)
    of = wording.look(run, "of") or {}
    model, data = wording.look(of, "model", "name"), wording.look(of, "data", "spec")
    shown = _shown(choice)
    change = choice.recall[shown] - choice.recall[0]
    order, gap = wording.selection(change)
    caveats = run.get("caveats")
    return Report(
        title=f"Head of {wording.plain(model or 'a network')}"
        + (f" on {wording.plain(data)}" if data else "")
        + ", repaired",
        subtitle=choice.in_words(),
        warnings=tuple(("Mind:", wording.sentence(wording.plain(text))) for text in caveats or ()),
        headlines=_headlines(choice),
        findings_note="Recall on held-out images; the backbone is as it was, the last layer alone is another one.",
        findings=_statements(choice, names),
        classes=_class_table(choice, names, order, gap),
        sections=(_candidates(choice), _change(choice, names), plan_section(plan, names)),
        beyond_note="",
        beyond=None,
        meanings=(
            *(
                Meaning(title=name, text=text, source=source, anchor=wording.anchor(f"candidate {place}"))
                for place, (name, text, source) in enumerate(
                    zip(choice.names, choice.meanings, choice.sources, strict=True)
                )
            ),
            *_MEANINGS,
        ),
        origin=(
            *((label, text) for label, text in wording.origin_of(of) if label not in ("note", "seed", "started")),
            ("compared", f"{choice.folds} folds of the held-out images, {choice.repeats} times; seed {choice.seed}"),
            ("plan made from", wording.plain(plan.made_from)),
            *(
                (f"repaired: {label}", text)
                for label, text in wording.origin_of(run)
                if label in ("weights", "versions", "commit", "device", "started")
            ),
        ),
    )


_MEANINGS = (
    Meaning(
        title="balanced accuracy",
        text="Mean recall over the classes. Of each candidate by the option that does best on the other folds, so that it"
        " does not profit from having been chosen; with several candidates, the best of them is still a little lucky, and"
        " what choosing among all gains on folds that had no say is beside it.",
        anchor="measure-balanced-accuracy",
    ),
    Meaning(
        title="spread",
        text="Standard deviation of the balanced accuracy over several cuts into folds: how much hangs on which images choose.",
        anchor="measure-spread",
    ),
    Meaning(
        title="gain",
        text="Balanced accuracy less that of the untouched head on the same images, with its 95% interval over images.",
        source="Agresti and Min 2005",
        anchor="measure-gain",
    ),
    Meaning(
        title="within one standard error",
        text="Of the difference to the best on the same images: a candidate within it may as well be as good. The best is"
        " recommended; where the untouched head is within it, the head is left as it is.",
        anchor="measure-behind",
    ),
)


def _shown(choice: HeadChoice) -> int:
    """The candidate whose classes are shown: the recommended one, or the best where that is the untouched head."""
    return choice.recommended or choice.best


def _headlines(choice: HeadChoice) -> tuple[Headline, ...]:
    columns, place = choice.columns, choice.recommended
    accuracy, low, high = (
        [float(value) for value in columns[f"balanced_accuracy{end}"]] for end in ("", "_low", "_high")
    )
    overall = choice.overall
    return (
        Headline(
            label="Balanced accuracy before",
            value=wording.percent(accuracy[0]),
            detail=f"{wording.between(low[0], high[0], 'percent')} held out, the head untouched",
        ),
        Headline(
            label="Recommended",
            value=wording.percent(accuracy[place]),
            detail=f"{wording.between(low[place], high[place], 'percent')} {choice.names[place]}",
        ),
        Headline(
            label="Gain, points",
            value=wording.points(float(columns["gain"][place])),
            detail=_ends(*(float(columns[f"gain{end}"][place]) for end in ("_low", "_high"))),
        ),
        Headline(
            label="Choosing among all",
            value=wording.points(overall["gain"]),
            detail=f"{_ends(overall['gain_low'], overall['gain_high'])} points, on folds without a say in it",
        ),
    )


def _ends(low: float, high: float) -> str:
    return wording.between(low, high, "tenths")


def _statements(choice: HeadChoice, names: Sequence[str]) -> tuple[Statement, ...]:
    place = choice.recommended
    title = "Leave the head as it is" if choice.names[place] == UNTOUCHED else f"Take {choice.names[place]}"
    ranked = sorted(range(len(choice.names)), key=lambda one: float(choice.columns["behind"][one]))
    others = [one for one in ranked if one not in (place, 0)][:3]
    text = choice.meanings[place]
    if others:
        text += " Of the others " + "; ".join(
            f"{choice.names[one]} gains {wording.points(float(choice.columns['gain'][one]))}" for one in others
        )
    found = [Statement(title=title, text=wording.sentence(text), label=choice.option(place), good=True)]
    if place:
        change, low, high = _changes(choice, place)
        surely = {"gain": [c for c in change if low[c] > 0], "pay": [c for c in reversed(change) if high[c] < 0]}
        for word, group in surely.items():
            if group:
                listed = ", ".join(
                    f"{names[c]} {wording.points(change[c])} {_ends(low[c], high[c])}"
                    for c in group[: wording.STRONGEST]
                )
                more = " …" if len(group) > wording.STRONGEST else ""
                found.append(
                    Statement(
                        title=f"{page.number_of(len(group), 'class', 'classes')} {word}{'s' * (len(group) == 1)}",
                        text=f"{listed} points of recall{more}.",
                        good=word == "gain",
                    )
                )
        unsure = [c for c in change if change[c] and not (low[c] > 0 or high[c] < 0)]
        if unsure:
            listed = ", ".join(f"{names[c]} {wording.points(change[c])}" for c in unsure[: wording.STRONGEST])
            more = " …" if len(unsure) > wording.STRONGEST else ""
            found.append(
                Statement(
                    title=f"Of {page.number_of(len(unsure), 'class', 'classes')} these images cannot tell",
                    text=f"{listed} points{more}: intervals that hold 0.",
                )
            )
    return tuple(found)


def _changes(choice: HeadChoice, place: int) -> tuple[dict[int, float], list[float], list[float]]:
    """What the recall of each class gains, the largest gain first, and the ends of its interval by class."""
    gained = (choice.recall[place] - choice.recall[0]).tolist()
    order = sorted((c for c in range(len(gained)) if math.isfinite(gained[c])), key=lambda c: -gained[c])
    return {c: gained[c] for c in order}, choice.change_low[place].tolist(), choice.change_high[place].tolist()


def _class_table(choice: HeadChoice, names: Sequence[str], order: Sequence[int], gap: int) -> Table:
    place = _shown(choice)

    def recall(one: int, c: int) -> Cell:
        ends = float(choice.recall_low[one][c]), float(choice.recall_high[one][c])
        return Cell(
            value=wording.formatted(float(choice.recall[one][c]), "share"), interval=wording.between(*ends, "share")
        )

    rows = []
    for c in order:
        change = float(choice.recall[place][c] - choice.recall[0][c])
        low, high = float(choice.change_low[place][c]), float(choice.change_high[place][c])
        cells = (
            Cell(value=f"{int(choice.class_counts[c]):,}"),
            Cell(value=f"{int(choice.heldout_counts[c]):,}"),
            recall(0, c),
            recall(place, c),
            Cell(
                value=wording.points(change) if math.isfinite(change) else DASH,
                interval=_ends(low, high),
                strong=low > 0 or high < 0,
            ),
        )
        name = plots.cut(names[c], 48)
        rows.append(Row(name=name, whole=names[c] if name != names[c] else "", cells=cells))
    titles = ("train images", "held-out images", "recall before", f"with {choice.names[place]}", "change, points")
    return Table(
        title="The classes, before and after",
        caption="Largest loss first, largest gain last. Intervals are 95%, each class by itself; changes whose interval leaves"
        f" out 0 are bold. {DASH}: no held-out image." + wording.left_out(len(names), len(order), "change in recall"),
        headings=(Heading(title="class"), *(Heading(title=title) for title in titles)),
        rows=tuple(rows),
        gap=gap,
        left_out=len(names) - len(order),
    )


def _candidates(choice: HeadChoice) -> Section:
    groups = choice.groups()
    rows = []
    for place, name in enumerate(choice.names):
        column = {key: float(values[place]) for key, values in choice.columns.items()}
        spread = column["spread"]
        often = choice.times_chosen[place][choice.final_option[place]]
        total = choice.folds * choice.repeats
        rows.append(
            Row(
                name=name,
                mark="recommended" if place == choice.recommended else "",
                good=True,
                meaning=choice.meanings[place],
                anchor=wording.anchor(f"candidate {place}"),
                cells=(
                    Cell(
                        value=wording.percent(column["balanced_accuracy"]),
                        interval=wording.between(
                            column["balanced_accuracy_low"], column["balanced_accuracy_high"], "percent"
                        ),
                        strong=place == choice.recommended,
                    ),
                    Cell(value=wording.unsigned(100 * spread, 1) if math.isfinite(spread) else DASH),
                    Cell(
                        value=wording.points(column["gain"]),
                        interval=_ends(column["gain_low"], column["gain_high"]) if place else "",
                    ),
                    Cell(value=wording.points(-column["behind"])),
                    *(Cell(value=wording.percent(float(values[place]))) for values in groups.values()),
                    Cell(
                        value=choice.option(place) or DASH,
                        interval=f"by {often / total:.0%} of folds" if choice.option(place) else "",
                    ),
                ),
            )
        )
    short = {"many", "medium", "few"} & set(groups)
    headings = (
        Heading(title="candidate", short="candidate"),
        Heading(
            title="balanced accuracy", short="balanced", anchor="measure-balanced-accuracy", meaning="Mean recall."
        ),
        Heading(title="spread", anchor="measure-spread", meaning="Over cuts into folds, in points."),
        Heading(title="gain, points", short="gain", anchor="measure-gain", meaning="Over the untouched head."),
        Heading(title="to the best", anchor="measure-behind", meaning="Difference to the best candidate, in points."),
        *(Heading(title=name, short=name if name in short else "") for name in groups),
        Heading(title="option", meaning="The one taken, and how many of the folds chose it too."),
    )
    order = sorted(range(len(choice.names)), key=lambda one: float(choice.columns["behind"][one]))
    series = Series(
        name="gain",
        values=tuple(float(choice.columns["gain"][one]) for one in order),
        low=tuple(float(choice.columns["gain_low"][one]) for one in order),
        high=tuple(float(choice.columns["gain_high"][one]) for one in order),
    )
    drawn = Rows(
        names=tuple(choice.names[one] for one in order),
        signs=tuple("●" if one == choice.recommended else "" for one in order),
        series=(series,),
        reference=0.0,
        points=True,
    )
    told = "; ".join(f"{choice.names[one]} {wording.points(float(choice.columns['gain'][one]))}" for one in order)
    return Section(
        title="The candidates",
        anchor="candidates",
        note="The simplest first. Each was made from training images alone, once per option; held-out images chose the option"
        f" on {choice.folds - 1} of {choice.folds} folds and judged it on the fifth, {choice.repeats} times."
        if choice.folds == 5
        else "The simplest first. Each was made from training images alone, once per option; held-out images chose the option"
        f" on {choice.folds - 1} of {choice.folds} folds and judged it on the one left, {choice.repeats} times.",
        table=Table(
            title="The candidates",
            caption="Groups are mean recall: many is more than 100 training images, few less than 20; thirds of the classes by"
            " training images.",
            headings=headings,
            rows=tuple(rows),
        ),
        charts=(
            Chart(
                title="What does each gain?",
                caption="Balanced accuracy over the untouched head, in points, with its interval; ● is recommended.",
                alt=f"Gain in points, best first: {told}.",
                data=drawn,
            ),
        ),
    )


def _recall_chart(choice: HeadChoice) -> Chart:
    """Mean recall of the groups before and after."""
    place, groups = _shown(choice), choice.groups()
    nothing = (math.nan,) * len(groups)
    sides = (("before", 0, "muted", "s", True), (choice.names[place], place, "blue", "o", False))
    data = Rows(
        names=tuple(groups),
        signs=("",) * len(groups),
        series=tuple(
            Series(
                name=name,
                values=tuple(float(values[one]) for values in groups.values()),
                low=nothing,
                high=nothing,
                color=color,
                marker=marker,
                hollow=hollow,
            )
            for name, one, color, marker, hollow in sides
        ),
        percent=True,
        joined=True,
    )
    told = "; ".join(
        f"{name} {wording.percent(float(values[0]))} to {wording.percent(float(values[place]))}"
        for name, values in groups.items()
    )
    return Chart(
        title="Whose recall?", caption="Mean over the classes of a group.", alt=f"Mean recall: {told}.", data=data
    )


def _change(choice: HeadChoice, names: Sequence[str]) -> Section:
    place = _shown(choice)
    order, _ = wording.selection(choice.recall[place] - choice.recall[0])
    order = tuple(sorted(order, key=lambda c: (-int(choice.class_counts[c]), c)))
    nothing = (math.nan,) * len(order)
    series = tuple(
        Series(
            name=name,
            values=tuple(float(choice.recall[one][c]) for c in order),
            low=nothing,
            high=nothing,
            color=color,
            marker=marker,
            hollow=hollow,
        )
        for name, one, color, marker, hollow in (
            ("before", 0, "muted", "s", True),
            (choice.names[place], place, "blue", "o", False),
        )
    )
    data = Rows(
        names=tuple(names[c] for c in order), signs=("",) * len(order), series=series, percent=True, joined=True
    )
    moves = [(float(choice.recall[place][c] - choice.recall[0][c]), c) for c in order]
    told = [f"{names[c]} {wording.points(value)}" for value, c in sorted(moves) if math.isfinite(value)]
    alt = f"From {told[0]} to {told[-1]} points." if told else "No class has held-out images."
    left_out = wording.left_out(len(names), len(order), "change in recall")
    return Section(
        title="Before and after",
        anchor="change",
        charts=(
            Chart(
                title="Which classes gain, which pay?",
                caption=f"Held-out recall, before and with {choice.names[place]}. Largest class at the top.{left_out}",
                alt=alt,
                data=data,
            ),
            _recall_chart(choice),
        ),
    )


def plan_section(plan: Plan, names: Sequence[str], *, training: bool = False) -> Section:
    """What the plan does for each class, and why; its image policies only where it is one for `training`."""
    rows = []
    images = sum(one.count for one in plan.classes)
    shown = sorted(range(len(names)), key=lambda c: (plan.classes[c].count, c))[: wording.ALL_CLASSES]
    for c in shown:
        one = plan.classes[c]
        times = one.draws * images / one.count if one.count else math.nan
        policies = ", ".join(
            f"{policy.method.replace('_', ' ')} {policy.strength:.2f} on {policy.share:.0%}" for policy in one.features
        )
        cells = (
            Cell(value=f"{one.count:,}"),
            Cell(value=wording.formatted(one.draws, "share"), interval=f"×{times:.3g}" if math.isfinite(times) else ""),
            *((Cell(value=_image_words(one.image)),) if training else ()),
            Cell(value=policies or DASH),
        )
        rows.append(Row(name=plots.cut(names[c], 48), cells=cells))
    told = [(c, [reason for reason in plan.classes[c].reasons if reason.measure != "count"]) for c in shown]
    correction = plan.prior_correction
    titles = ("images", "draws", *(("images varied",) if training else ()), "features")
    hidden = len(names) - len(shown)
    return Section(
        title="The plan",
        anchor="plan",
        note=f"Made from: {wording.plain(plan.made_from)}. Class prior taken out: {correction.training:g} in the loss,"
        f" {correction.after:g} afterwards."
        + ("" if training else " Its image policies are for training and play no part here."),
        table=Table(
            title="The plan",
            caption="Rarest class first. Draws: share, and against drawing every image once. Otherwise: strength, and on which"
            " share of the class's draws."
            + (f" {hidden:,} classes with more images are in plan.json." if hidden else ""),
            headings=(
                Heading(title="class"),
                *(Heading(title=title) for title in titles),
            ),
            rows=tuple(rows),
        ),
        galleries=tuple(
            Gallery(
                title=f"Why {names[c]} is treated otherwise than its size suggests",
                text=" ".join(wording.sentence(wording.plain(reason.text)) for reason in reasons),
                albums=(),
            )
            for c, reasons in told
            if reasons
        ),
    )


def _image_words(policy: ImagePolicy) -> str:
    return f"{policy.strength:.2f} on {policy.probability:.0%}" if policy.amount else DASH
