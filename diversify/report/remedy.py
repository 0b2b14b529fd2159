"""The repair of a head as one offline HTML page and as Markdown: the recommended head, and its alternatives."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from typing import Any

from ..plan.plan import Plan
from ..repair.candidates import UNTOUCHED
from ..repair.choice import HeadChoice
from . import page, wording
from .plan_section import plan_section
from .plots import Rows, Series
from .record import Cell, Chart, Definition, Heading, Headline, Report, Row, Section, Statement, Table
from .wording import DASH, LONGEST_IN_TABLE, cut


def render_remedy_html(choice: HeadChoice, class_names: Sequence[str], plan: Plan, run: Mapping[str, Any]) -> str:
    """Return the report on a repaired head as one offline HTML page; `run` is the content of run.json."""
    return page.html(remedy_report_of(choice, class_names, plan, run))


def render_remedy_markdown(choice: HeadChoice, class_names: Sequence[str], plan: Plan, run: Mapping[str, Any]) -> str:
    """Return the same as Markdown, without the plots."""
    return page.markdown(remedy_report_of(choice, class_names, plan, run))


def remedy_report_of(choice: HeadChoice, class_names: Sequence[str], plan: Plan, run: Mapping[str, Any]) -> Report:
    """Return the record of the report on a repaired head."""
    names = tuple(wording.named(name) for name in class_names)
    of = wording.look(run, "of") or {}
    model, data = wording.look(of, "model", "name"), wording.look(of, "data", "spec")
    shown = _shown(choice)
    order, gap = wording.selection(choice.recall[shown] - choice.recall[0])
    methods = zip(choice.names, choice.meanings, choice.sources, strict=True)
    return Report(
        title=f"Head of {wording.plain(model or 'a network')}"
        + (f" on {wording.plain(data)}" if data else "")
        + ", repaired",
        subtitle=choice.in_words(),
        warnings=tuple(("Note:", wording.sentence(wording.plain(text))) for text in run.get("caveats") or ()),
        headlines=_headlines(choice),
        findings_note="Recall is measured on held-out images. Only the last layer was changed; the backbone is the same.",
        findings=(_recommendation(choice), *_changed_classes(choice, names)),
        table=_class_table(choice, names, order, gap),
        sections=(_candidates(choice), _change(choice, names), plan_section(plan, names)),
        beyond_note="",
        beyond=None,
        definitions=(
            *(
                Definition(title=name, text=text, source=source, anchor=wording.anchor(f"candidate {place}"))
                for place, (name, text, source) in enumerate(methods)
            ),
            *_DEFINITIONS,
        ),
        origin=(
            *((label, text) for label, text in wording.origin_of(of) if label not in ("note", "seed", "started")),
            (
                "cross-validation",
                f"{choice.folds} folds of the held-out images, repeated {choice.repeats} times; seed {choice.seed}",
            ),
            ("plan made from", wording.plain(plan.made_from)),
            *(
                (f"repaired: {label}", text)
                for label, text in wording.origin_of(run)
                if label in ("weights", "versions", "commit", "device", "started")
            ),
        ),
    )


_DEFINITIONS = (
    Definition(
        title="balanced accuracy",
        text="Mean recall of the classes. For each candidate, the other folds choose the option, so its score does not profit from that"
        ' choice. The best of several candidates is still slightly lucky; "Choosing among all" has no such bias, because folds'
        " that took no part in the choice measure it.",
        anchor="measure-balanced-accuracy",
    ),
    Definition(
        title="spread",
        text="Standard deviation of the balanced accuracy over the repetitions: how much the score depends on the split into folds.",
        anchor="measure-spread",
    ),
    Definition(
        title="gain",
        text="Balanced accuracy minus that of the untouched head on the same images, with a 95% interval over images.",
        source="Agresti and Min 2005",
        anchor="measure-gain",
    ),
    Definition(
        title="within one standard error",
        text="A candidate whose difference to the best, on the same images, is less than its standard error may be as good as the"
        " best. The best candidate is recommended, unless the untouched head is within one standard error: then the head stays as"
        " it is.",
        anchor="measure-behind",
    ),
)


def _shown(choice: HeadChoice) -> int:
    """Return the candidate whose classes are shown: the recommended one, or the best if the head stays untouched."""
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
            detail=f"{wording.between(low[0], high[0], 'percent')} held-out, untouched head",
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
            detail=f"{_ends(overall['gain_low'], overall['gain_high'])} points, measured on folds that took no part in the choice",
        ),
    )


def _ends(low: float, high: float) -> str:
    return wording.between(low, high, "tenths")


def _recommendation(choice: HeadChoice) -> Statement:
    place = choice.recommended
    title = "Leave the head as it is" if choice.names[place] == UNTOUCHED else f"Use {choice.names[place]}"
    ranked = sorted(range(len(choice.names)), key=lambda one: float(choice.columns["behind"][one]))
    others = [one for one in ranked if one not in (place, 0)][:3]
    text = wording.sentence(choice.meanings[place])
    if others:
        gains = (f"{choice.names[one]} {wording.points(float(choice.columns['gain'][one]))}" for one in others)
        text += f" Gains of the next best candidates, in points: {', '.join(gains)}."
    return Statement(title=title, text=text, label=choice.option(place), good=True)


def _changed_classes(choice: HeadChoice, names: Sequence[str]) -> tuple[Statement, ...]:
    """Return which classes gain and lose with the recommended head, and for which the images do not suffice to tell."""
    place = choice.recommended
    if not place:
        return ()
    change, low, high = _changes(choice, place)
    groups = {"gains": [c for c in change if low[c] > 0], "loses": [c for c in reversed(change) if high[c] < 0]}
    statements = []
    for verb, group in groups.items():
        if group:
            listed = ", ".join(
                f"{names[c]} {wording.points(change[c])} {_ends(low[c], high[c])}" for c in group[: wording.STRONGEST]
            )
            more = " …" if len(group) > wording.STRONGEST else ""
            statements.append(
                Statement(
                    title=f"{wording.number_of(len(group), 'class', 'classes')} {verb if len(group) == 1 else verb[:-1]}",
                    text=f"Change in recall, in points: {listed}{more}.",
                    good=verb == "gains",
                )
            )
    unsure = [c for c in change if change[c] and not (low[c] > 0 or high[c] < 0)]
    if unsure:
        listed = ", ".join(f"{names[c]} {wording.points(change[c])}" for c in unsure[: wording.STRONGEST])
        more = " …" if len(unsure) > wording.STRONGEST else ""
        undecided = "is undecided" if len(unsure) == 1 else "are undecided"
        statements.append(
            Statement(
                title=f"{wording.number_of(len(unsure), 'class', 'classes')} {undecided}",
                text=f"The intervals of these changes contain 0: {listed}{more} points.",
            )
        )
    return tuple(statements)


def _changes(choice: HeadChoice, place: int) -> tuple[dict[int, float], list[float], list[float]]:
    """Return the change in recall by class, largest gain first, and the ends of its interval for every class."""
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
        name = cut(names[c], LONGEST_IN_TABLE)
        rows.append(Row(name=name, full_name=names[c] if name != names[c] else "", cells=cells))
    titles = (
        "images, train",
        "images, held-out",
        "recall before",
        f"recall with {choice.names[place]}",
        "change, points",
    )
    return Table(
        title="Classes, before and after",
        caption="Largest loss first, largest gain last. Brackets show the 95% interval of each class; a change is bold if its interval"
        f" does not contain 0. {DASH} means no held-out image."
        + wording.left_out(len(names), len(order), "change in recall"),
        headings=(Heading(title="class"), *(Heading(title=title) for title in titles)),
        rows=tuple(rows),
        gap=gap,
        left_out=len(names) - len(order),
    )


def _candidates(choice: HeadChoice) -> Section:
    groups = list(choice.groups())
    short = {"many", "medium", "few"} & set(groups)
    headings = (
        Heading(title="candidate", short="candidate"),
        Heading(
            title="balanced accuracy",
            short="balanced",
            anchor="measure-balanced-accuracy",
            meaning="Mean recall of the classes.",
        ),
        Heading(title="spread", anchor="measure-spread", meaning="Over the repetitions, in points."),
        Heading(title="gain, points", short="gain", anchor="measure-gain", meaning="Compared with the untouched head."),
        Heading(
            title="behind the best", anchor="measure-behind", meaning="Difference to the best candidate, in points."
        ),
        *(Heading(title=name, short=name if name in short else "") for name in groups),
        Heading(title="option", meaning="The option chosen, and the share of folds that chose it."),
    )
    return Section(
        title="Candidates",
        anchor="candidates",
        note="Simplest candidate first. Each was made from training images alone, once for each of its options."
        f" {choice.folds - 1} of {choice.folds} folds of the held-out images chose the option, and the remaining fold measured it; this"
        f" was repeated {choice.repeats} times.",
        table=Table(
            title="Candidates",
            caption="Groups show the mean recall of their classes: many have more than 100 training images, medium 20 to 100, few less"
            " than 20; thirds divide the classes by training images.",
            headings=headings,
            rows=tuple(_candidate_row(choice, place) for place in range(len(choice.names))),
        ),
        charts=(_gain_chart(choice),),
    )


def _candidate_row(choice: HeadChoice, place: int) -> Row:
    column = {key: float(values[place]) for key, values in choice.columns.items()}
    option = choice.option(place)
    chosen = choice.times_chosen[place][choice.final_option[place]] / (choice.folds * choice.repeats)
    return Row(
        name=choice.names[place],
        mark="recommended" if place == choice.recommended else "",
        good=True,
        meaning=choice.meanings[place],
        anchor=wording.anchor(f"candidate {place}"),
        cells=(
            Cell(
                value=wording.percent(column["balanced_accuracy"]),
                interval=wording.between(column["balanced_accuracy_low"], column["balanced_accuracy_high"], "percent"),
                strong=place == choice.recommended,
            ),
            Cell(value=wording.unsigned(100 * column["spread"], 1) if math.isfinite(column["spread"]) else DASH),
            Cell(
                value=wording.points(column["gain"]),
                interval=_ends(column["gain_low"], column["gain_high"]) if place else "",
            ),
            Cell(value=wording.points(-column["behind"])),
            *(Cell(value=wording.percent(float(values[place]))) for values in choice.groups().values()),
            Cell(value=option or DASH, interval=f"chosen by {chosen:.0%} of folds" if option else ""),
        ),
    )


def _gain_chart(choice: HeadChoice) -> Chart:
    order = sorted(range(len(choice.names)), key=lambda one: float(choice.columns["behind"][one]))
    gain, low, high = (
        tuple(float(choice.columns[name][one]) for one in order) for name in ("gain", "gain_low", "gain_high")
    )
    listed = "; ".join(f"{choice.names[one]} {wording.points(value)}" for one, value in zip(order, gain, strict=True))
    return Chart(
        title="How much does each candidate gain?",
        caption="Balanced accuracy minus that of the untouched head, in points, with its 95% interval; ● marks the recommended candidate.",
        alt=f"Gain in points, best first: {listed}.",
        data=Rows(
            names=tuple(choice.names[one] for one in order),
            signs=tuple("●" if one == choice.recommended else "" for one in order),
            series=(Series(name="gain", values=gain, low=low, high=high),),
            reference=0.0,
            points=True,
        ),
    )


def _before_and_after(choice: HeadChoice, values: Sequence[Sequence[float]]) -> tuple[Series, ...]:
    """Return two series without intervals: the values before, and with the candidate shown."""
    nothing = (math.nan,) * len(values[0])
    names = ("before", choice.names[_shown(choice)])
    styles: tuple[dict[str, Any], ...] = (
        {"color": "muted", "marker": "s", "hollow": True},
        {"color": "blue", "marker": "o"},
    )
    return tuple(
        Series(name=name, values=tuple(each), low=nothing, high=nothing, **style)
        for name, each, style in zip(names, values, styles, strict=True)
    )


def _group_chart(choice: HeadChoice) -> Chart:
    place, groups = _shown(choice), choice.groups()
    sides = [[float(values[one]) for values in groups.values()] for one in (0, place)]
    changes = "; ".join(
        f"{name} {wording.percent(before)} to {wording.percent(after)}"
        for name, before, after in zip(groups, *sides, strict=True)
    )
    return Chart(
        title="Which groups of classes gain?",
        caption="Mean recall of the classes of a group.",
        alt=f"Mean recall: {changes}.",
        data=Rows(
            names=tuple(groups),
            signs=("",) * len(groups),
            series=_before_and_after(choice, sides),
            percent=True,
            joined=True,
        ),
    )


def _change(choice: HeadChoice, names: Sequence[str]) -> Section:
    place = _shown(choice)
    change = choice.recall[place] - choice.recall[0]
    order = sorted(wording.selection(change)[0], key=lambda c: (-int(choice.class_counts[c]), c))
    sides = [[float(choice.recall[one][c]) for c in order] for one in (0, place)]
    moves = sorted((float(change[c]), c) for c in order)
    texts = [f"{names[c]} {wording.points(value)}" for value, c in moves if math.isfinite(value)]
    left_out = wording.left_out(len(names), len(order), "change in recall")
    return Section(
        title="Before and after",
        anchor="change",
        charts=(
            Chart(
                title="Which classes gain, which lose?",
                caption=f"Held-out recall before, and with {choice.names[place]}. Largest class at the top.{left_out}",
                alt=f"From {texts[0]} to {texts[-1]} points." if texts else "No class has held-out images.",
                data=Rows(
                    names=tuple(names[c] for c in order),
                    signs=("",) * len(order),
                    series=_before_and_after(choice, sides),
                    percent=True,
                    joined=True,
                ),
            ),
            _group_chart(choice),
        ),
    )
