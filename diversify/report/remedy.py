"""The repair of a head as one offline HTML page and as Markdown: the recommended head, and its alternatives."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from typing import Any

from ..plan.plan import Plan
from ..repair.candidate import UNTOUCHED
from ..repair.choice import HeadChoice
from . import page, wording
from .mean_against_worst import mean_against_worst
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
        title=f"Head repair: {wording.plain(model or 'a network')}"
        + (f" on {wording.data_name(data)}" if data else ""),
        subtitle=choice.in_words(),
        warnings=tuple(("Note:", wording.sentence(wording.plain(text))) for text in run.get("caveats") or ()),
        headlines=_headlines(choice),
        findings_note="Recall is measured on held-out images. Only the last layer was changed; the backbone is the same.",
        findings=(_recommendation(choice), *_changed_classes(choice, names)),
        table=_class_table(choice, names, order, gap),
        sections=(
            _candidates(choice),
            *mean_against_worst(choice),
            _change(choice, names),
            plan_section(plan, names),
        ),
        beyond_note="",
        beyond=None,
        definitions=(
            *(
                Definition(title=name, text=text, source=source, anchor=wording.anchor(f"candidate {place}"))
                for place, (name, text, source) in enumerate(methods)
            ),
            *_definitions(choice),
        ),
        origin=(
            *((label, text) for label, text in wording.origin_of(of) if label not in ("note", "seed", "started")),
            (
                "cross-validation",
                f"{choice.folds} folds of the held-out images, repeated {choice.repeats} times; seed {choice.seed}",
            ),
            *_chosen_by(choice, names),
            *_uses_of_heldout(choice),
            ("plan made from", wording.plain(plan.made_from)),
            *(
                (f"repaired: {label}", text)
                for label, text in wording.origin_of(run)
                if label in ("weights", "versions", "commit", "device", "started")
            ),
        ),
    )


_MEANINGS = {
    "balanced": "Mean recall of the classes.",
    "prior": "Mean recall of the classes, weighted by their shares where the model will be used: the accuracy there.",
    "macro-f1": "Mean F1 score of the classes that have held-out images.",
    "worst": "Lowest recall of a class.",
    "cost": "Mean cost of a prediction, with a minus so that more is better.",
    "worst third": "Mean of the lowest third of the classes' recalls.",
    "mean and worst": "Mean recall of the classes and the lowest recall, weighted as the objective says.",
}


def _definitions(choice: HeadChoice) -> tuple[Definition, ...]:
    title, name = choice.metric_title, choice.metric_title[0].upper() + choice.metric_title[1:]
    aim = (
        " Logit adjustments aim at the target prior: they subtract tau times the logarithm of each class's share of the"
        " training images over its target share. Heads that are trained to treat classes alike get the logarithm of the target"
        " share with every tau."
        if choice.target_prior
        else ""
    )
    return (
        Definition(
            title=title,
            text=f"{_MEANINGS[choice.metric]} For each candidate, the other folds choose the option, so its score does not profit"
            ' from that choice. The best of several candidates is still slightly lucky; "Choosing among all" has no such bias,'
            f" because folds that took no part in the choice measure it.{aim}",
            anchor="measure-balanced-accuracy" if choice.metric == "balanced" else "measure-score",
        ),
        Definition(
            title="spread",
            text=f"Standard deviation of the {title} over the repetitions: how much the score depends on the split into folds.",
            anchor="measure-spread",
        ),
        Definition(
            title="gain",
            text=f"{name} minus that of the untouched head on the same images, with a 95% interval over images.",
            source="Agresti and Min 2005",
            anchor="measure-gain",
        ),
        *(
            (
                Definition(
                    title="expected of new images",
                    text="The change in recall on new images. The best of many candidates is slightly lucky on the held-out images. How"
                    " lucky is measured on folds that took no part in the choice and taken off the classes, most where most is left to"
                    " chance; the low end of the 95% interval is lowered as far. With 6 classes or more, a class with few held-out"
                    " images borrows from the others: its recall and its change are pulled toward their means over the classes.",
                    source="Efron and Morris 1972; with fewer than 6 classes Newcombe 1998",
                    anchor="measure-expected",
                ),
            )
            if choice.forecast
            else ()
        ),
        Definition(
            title="within one standard error",
            text="A candidate whose difference to the best, on the same images, is less than its standard error may be as good as the"
            " best. "
            + (
                "Candidates within one standard error of the most accurate one are compared by their loss, and the one with the"
                " least is the best. "
                if "loss" in choice.columns
                else ""
            )
            + "The best candidate is recommended, unless the untouched head is within one standard error"
            + (" both by accuracy and by loss" if "loss" in choice.columns else "")
            + ": then the head stays as it is. Where the metric depends on the lowest recalls, which are of few images, the untouched"
            " head must also be within one standard error by the mean recall; and by the lowest recall, or the lowest third,"
            " candidates whose mean recall is more than half a standard error behind the highest are passed over.",
            anchor="measure-behind",
        ),
    )


def _chosen_by(choice: HeadChoice, names: Sequence[str]) -> tuple[tuple[str, str], ...]:
    """Return what the head was chosen by, as lines of the origin; none for the balanced accuracy."""
    if choice.metric == "balanced":
        return ()
    lines = [("chosen by", choice.metric_title)]
    if choice.metric == "mean and worst":
        lines.append(("weight of the lowest recall", f"{float(choice.objective):g}"))
    if choice.target_prior:
        order = sorted(range(len(names)), key=lambda c: -choice.target_prior[c])
        listed = ", ".join(f"{names[c]} {choice.target_prior[c]:.3g}" for c in order[: wording.STRONGEST])
        lines.append(("target prior", listed + (" …" if len(names) > wording.STRONGEST else "")))
    if choice.cost:
        lines.append(("largest cost", f"{max(map(max, choice.cost)):g}"))
    return tuple(lines)


def _uses_of_heldout(choice: HeadChoice) -> tuple[tuple[str, str], ...]:
    """Return what the held-out images were used for, as a line of the origin; none if no candidate learned from them."""
    if not any(choice.fits_heldout):
        return ()
    text = f"{int(choice.heldout_counts.sum()):,}: they chose and judged; each third was predicted by heads fitted without it"
    if choice.fitted_on_heldout:
        text += "; the saved head was fitted on all of them, so only test can judge it"
    return (("held-out images", text),)


def _value(choice: HeadChoice, value: float) -> str:
    """Return a value of the metric: a share as a percentage, a cost with three digits."""
    return wording.percent(value) if choice.in_shares else _digits(value)


def _value_ends(choice: HeadChoice, low: float, high: float) -> str:
    if choice.in_shares:
        return wording.between(low, high, "percent")
    return f"[{_digits(low)}, {_digits(high)}]" if math.isfinite(low) and math.isfinite(high) else ""


def _gained(choice: HeadChoice, value: float) -> str:
    """Return a difference of two values of the metric: in points, or as a cost with three digits."""
    if choice.in_shares:
        return wording.points(value)
    return ("+" if value > 0 else "") + _digits(value)


def _gained_ends(choice: HeadChoice, low: float, high: float) -> str:
    if choice.in_shares:
        return _ends(low, high)
    finite = math.isfinite(low) and math.isfinite(high)
    return f"[{_gained(choice, low)}, {_gained(choice, high)}]" if finite else ""


def _digits(value: float) -> str:
    return f"{value or 0.0:.3g}".replace("-", "−") if math.isfinite(value) else DASH


def _shown(choice: HeadChoice) -> int:
    """Return the candidate whose classes are shown: the recommended one, or the best if the head stays untouched."""
    return choice.recommended or choice.best


def _headlines(choice: HeadChoice) -> tuple[Headline, ...]:
    columns, place = choice.columns, choice.recommended
    score, low, high = (each.tolist() for each in (choice.score, choice.score_low, choice.score_high))
    overall, unit = choice.overall, " points" if choice.in_shares else ""
    return (
        Headline(
            label=f"{choice.metric_title[0].upper()}{choice.metric_title[1:]} before",
            value=_value(choice, score[0]),
            detail=f"{_value_ends(choice, low[0], high[0])} held-out, untouched head",
        ),
        Headline(
            label="Recommended",
            value=_value(choice, score[place]),
            detail=f"{_value_ends(choice, low[place], high[place])} {choice.names[place]}",
        ),
        Headline(
            label=_gain_title(choice).capitalize(),
            value=_gained(choice, float(columns["gain"][place])),
            detail=_gained_ends(choice, *(float(columns[f"gain{end}"][place]) for end in ("_low", "_high"))),
        ),
        Headline(
            label="Choosing among all",
            value=_gained(choice, overall["gain"]),
            detail=f"{_gained_ends(choice, overall['gain_low'], overall['gain_high'])}{unit}, measured on folds that took no part in"
            " the choice",
        ),
    )


def _gain_title(choice: HeadChoice) -> str:
    return "gain, points" if choice.in_shares else "gain"


def _ends(low: float, high: float) -> str:
    return wording.between(low, high, "tenths")


def _recommendation(choice: HeadChoice) -> Statement:
    place = choice.recommended
    title = "Leave the head as it is" if choice.names[place] == UNTOUCHED else f"Use {choice.names[place]}"
    others = [one for one in choice.ranking if one not in (place, 0, *choice.passed_over)][:3]
    text = wording.sentence(choice.meanings[place])
    if others:
        gains = (f"{choice.names[one]} {_gained(choice, float(choice.columns['gain'][one]))}" for one in others)
        points = ", in points" if choice.in_shares else ""
        text += f" Gains of other candidates{points}: {', '.join(gains)}."
    if choice.expected_in_words():
        text += f" {choice.expected_in_words()}"
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

    rows, forecast = [], bool(choice.forecast) and place == choice.recommended
    for c in order:
        change = float(choice.recall[place][c] - choice.recall[0][c])
        low, high = float(choice.change_low[place][c]), float(choice.change_high[place][c])
        ahead = [float(choice.forecast[f"gain{end}"][c]) for end in ("", "_low", "_high")] if forecast else []
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
            *(
                (Cell(value=wording.points(ahead[0]) if math.isfinite(ahead[0]) else DASH, interval=_ends(*ahead[1:])),)
                if forecast
                else ()
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
        *(("expected of new images, points",) if forecast else ()),
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
    balanced, points = choice.metric == "balanced", ", in points" if choice.in_shares else ""
    headings = (
        Heading(title="candidate", short="candidate"),
        Heading(
            title=choice.metric_title,
            short="balanced" if balanced else "",
            anchor="measure-balanced-accuracy" if balanced else "measure-score",
            meaning=_MEANINGS[choice.metric],
        ),
        Heading(title="spread", anchor="measure-spread", meaning=f"Over the repetitions{points}."),
        Heading(
            title=_gain_title(choice),
            short="gain",
            anchor="measure-gain",
            meaning="Compared with the untouched head.",
        ),
        Heading(
            title="behind the highest" if "loss" in choice.columns else "behind the best",
            anchor="measure-behind",
            meaning=f"Difference to the {'most accurate' if 'loss' in choice.columns else 'best'} candidate{points}.",
        ),
        *(
            [
                Heading(
                    title="loss",
                    short="loss",
                    meaning="Mean cross entropy over classes, after the logits are scaled by one fitted number.",
                )
            ]
            if "loss" in choice.columns
            else []
        ),
        *(Heading(title=name, short=name if name in short else "") for name in groups),
        Heading(title="option", meaning="The option chosen, and the share of folds that chose it."),
    )
    return Section(
        title="Candidates",
        anchor="candidates",
        note=f"Simplest candidate first. {_made_from(choice)}"
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


def _made_from(choice: HeadChoice) -> str:
    """Return which images the candidates were made from."""
    learning = [name for name, fits in zip(choice.names, choice.fits_heldout, strict=False) if fits]
    if not learning:
        return "Each was made from training images alone, once for each of its options."
    return (
        f"Made from held-out images as well: {', '.join(learning)}; each third of these images was predicted by heads fitted"
        " without it. The others were made from training images alone. Each was made once for each of its options."
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
                value=_value(choice, float(choice.score[place])),
                interval=_value_ends(choice, float(choice.score_low[place]), float(choice.score_high[place])),
                strong=place == choice.recommended,
            ),
            Cell(value=_spread(choice, column["spread"])),
            Cell(
                value=_gained(choice, column["gain"]),
                interval=_gained_ends(choice, column["gain_low"], column["gain_high"]) if place else "",
            ),
            Cell(value=_gained(choice, -column["behind"])),
            *([Cell(value=_loss(column["loss"]))] if "loss" in column else []),
            *(Cell(value=wording.percent(float(values[place]))) for values in choice.groups().values()),
            Cell(value=option or DASH, interval=f"chosen by {chosen:.0%} of folds" if option else ""),
        ),
    )


def _loss(value: float) -> str:
    return f"{value:.3f}" if math.isfinite(value) else DASH


def _spread(choice: HeadChoice, value: float) -> str:
    if not math.isfinite(value):
        return DASH
    return wording.unsigned(100 * value, 1) if choice.in_shares else _digits(value)


def _gain_chart(choice: HeadChoice) -> Chart:
    order = choice.ranking
    gain, low, high = (
        tuple(float(choice.columns[name][one]) for one in order) for name in ("gain", "gain_low", "gain_high")
    )
    listed = "; ".join(f"{choice.names[one]} {_gained(choice, value)}" for one, value in zip(order, gain, strict=True))
    points = " in points" if choice.in_shares else ""
    name = choice.metric_title[0].upper() + choice.metric_title[1:]
    return Chart(
        title="How much does each candidate gain?",
        caption=f"{name} minus that of the untouched head,{points}{',' if points else ''}"
        " with its 95% interval; ● marks the recommended candidate.",
        alt=f"Gain{points}, best first: {listed}.",
        data=Rows(
            names=tuple(choice.names[one] for one in order),
            signs=tuple("●" if one == choice.recommended else "" for one in order),
            series=(Series(name="gain", values=gain, low=low, high=high),),
            reference=0.0,
            points=choice.in_shares,
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
