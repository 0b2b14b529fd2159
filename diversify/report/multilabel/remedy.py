"""The repair of a head for several labels per image as one offline HTML page and as Markdown."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from ...repair.multilabel_choice import MultilabelChoice
from .. import page, wording
from ..plots import Rows, Series
from ..record import Cell, Chart, Definition, Heading, Headline, Report, Row, Section, Statement, Table
from ..wording import DASH, LONGEST_IN_TABLE, cut


def render_multilabel_remedy_html(choice: MultilabelChoice, label_names: Sequence[str], run: Mapping[str, Any]) -> str:
    """Return the report on a repaired head as one offline HTML page; `run` is the content of run.json."""
    return page.html(_report(choice, label_names, run))


def render_multilabel_remedy_markdown(
    choice: MultilabelChoice, label_names: Sequence[str], run: Mapping[str, Any]
) -> str:
    """Return the same as Markdown, without the plots."""
    return page.markdown(_report(choice, label_names, run))


def _report(choice: MultilabelChoice, label_names: Sequence[str], run: Mapping[str, Any]) -> Report:
    names = tuple(wording.named(name) for name in label_names)
    of = wording.look(run, "of") or {}
    model, data = wording.look(of, "model", "name"), wording.look(of, "data", "spec")
    order, gap = wording.selection(choice.f1_before)
    return Report(
        title=f"Head repair: {wording.plain(model or 'a network')}"
        + (f" on {wording.data_name(data)}" if data else ""),
        subtitle=choice.in_words(),
        warnings=tuple(("Note:", wording.sentence(wording.plain(text))) for text in run.get("caveats") or ()),
        headlines=_headlines(choice),
        findings_note="All numbers are of held-out images. Only the last layer and the thresholds changed.",
        findings=(_recommendation(choice),),
        table=_label_table(choice, names, order, gap),
        sections=(_candidates(choice), _change(choice, names, order)),
        beyond_note="",
        beyond=None,
        definitions=(
            Definition(
                title="threshold",
                text="Probability at and above which the label is predicted; fitted for F1 on all held-out images. 0.5 where a label"
                f" has fewer than {choice.folds} held-out positives or negatives.",
                source="Lipton et al. 2014",
                anchor="measure-threshold",
            ),
            Definition(
                title="F1 after",
                text="Each image is decided by thresholds that were fitted on other held-out images.",
                anchor="measure-f1-after",
            ),
            Definition(
                title="average precision",
                text="Area under the precision-recall curve; by chance it is the prevalence of the label.",
                anchor="measure-average-precision",
            ),
            Definition(
                title="gain",
                text="Mean average precision minus that of the untouched head on the same images, with a 95% interval over images."
                " A retrained head is recommended only if the whole interval lies above 0. The best of several candidates is"
                " slightly lucky.",
                anchor="measure-gain",
            ),
        ),
        origin=(
            *((label, text) for label, text in wording.origin_of(of) if label not in ("note", "seed", "started")),
            ("thresholds judged by", f"{choice.folds} folds of the held-out images; seed {choice.seed}"),
            *(
                (f"repaired: {label}", text)
                for label, text in wording.origin_of(run)
                if label in ("weights", "versions", "commit", "device", "started")
            ),
        ),
    )


def _headlines(choice: MultilabelChoice) -> tuple[Headline, ...]:
    place = choice.recommended
    before, after = float(choice.f1_before.nanmean()), float(choice.f1[place].nanmean())
    gain = wording.between(float(choice.gain_low[place]), float(choice.gain_high[place]), "tenths")
    return (
        Headline(label="Macro F1 before", value=wording.percent(before), detail="all thresholds at 0.5"),
        Headline(
            label="Macro F1 after",
            value=wording.percent(after),
            detail=f"{wording.number_of(int(choice.fitted.sum()), 'threshold', 'thresholds')} fitted on other images",
        ),
        Headline(
            label="Mean average precision",
            value=wording.percent(float(choice.mean_average_precision[place])),
            detail=f"untouched head {wording.percent(float(choice.mean_average_precision[0]))}",
        ),
        Headline(
            label="Head",
            value=choice.names[place],
            detail=f"{wording.points(float(choice.gain[place]))} {gain} points" if place else "left as it is",
        ),
    )


def _recommendation(choice: MultilabelChoice) -> Statement:
    retrained = choice.recommended > 0
    return Statement(
        title="Retrain the head and fit thresholds" if retrained else "Fit thresholds",
        text=choice.in_words(),
        label=choice.names[choice.recommended] if retrained else "thresholds",
        advice="Load the repaired checkpoint, and predict a label where its probability reaches the threshold in thresholds.json.",
        good=True,
    )


def _label_table(choice: MultilabelChoice, names: Sequence[str], order: Sequence[int], gap: int) -> Table:
    place = choice.recommended
    shown = set(order)
    rest = [c for c in wording.order_of(choice.f1_before) if c not in shown]

    def row(c: int) -> Row:
        before, after = float(choice.f1_before[c]), float(choice.f1[place, c])
        name = cut(names[c], LONGEST_IN_TABLE)
        return Row(
            name=name,
            full_name=names[c] if name != names[c] else "",
            cells=(
                Cell(value=wording.formatted(float(choice.positives[c]), "images")),
                Cell(
                    value=wording.formatted(float(choice.thresholds[c]), "ratio"),
                    interval="" if bool(choice.fitted[c]) else "not fitted",
                ),
                Cell(value=wording.formatted(before, "share")),
                Cell(value=wording.formatted(after, "share"), strong=after > before),
                Cell(value=wording.formatted(after - before, "points")),
                Cell(value=wording.formatted(float(choice.average_precision[0, c]), "share")),
                Cell(value=wording.formatted(float(choice.average_precision[place, c]), "share")),
            ),
        )

    headings = (
        Heading(title="label"),
        Heading(title="positives, held-out", short="positives"),
        Heading(title="threshold", short="threshold", anchor="measure-threshold", meaning="See the definitions."),
        Heading(title="F1 before", short="F1 before"),
        Heading(title="F1 after", short="F1 after", anchor="measure-f1-after", meaning="See the definitions."),
        Heading(title="change, points", short="change"),
        Heading(title="average precision before"),
        Heading(title="average precision after"),
    )
    left_out = wording.left_out(len(names), len(order), "F1 before", "labels")
    return Table(
        title="Labels",
        caption=f"Lowest F1 before the repair first; bold where F1 rose. {DASH} is undefined: no held-out positives.{left_out}",
        headings=headings,
        rows=tuple(map(row, order)),
        gap=gap,
        left_out=len(rest),
        rest_headings=headings if rest else (),
        rest=tuple(map(row, rest)),
        rows_are="labels",
    )


def _candidates(choice: MultilabelChoice) -> Section:
    rows = tuple(
        Row(
            name=name,
            meaning=choice.meanings[place],
            mark="● recommended" if place == choice.recommended else "",
            good=True,
            cells=(
                Cell(value=wording.percent(float(choice.mean_average_precision[place]))),
                Cell(
                    value=DASH if place == 0 else wording.points(float(choice.gain[place])),
                    interval=""
                    if place == 0
                    else wording.between(float(choice.gain_low[place]), float(choice.gain_high[place]), "tenths"),
                ),
                Cell(value=wording.percent(float(choice.f1[place].nanmean()))),
            ),
        )
        for place, name in enumerate(choice.names)
    )
    return Section(
        title="Heads compared",
        anchor="candidates",
        note="Retrained heads start from the head that came in and see training images alone.",
        table=Table(
            title="Heads compared",
            caption="Mean over the labels. Macro F1 is with thresholds fitted on other held-out images.",
            headings=tuple(
                Heading(title=one) for one in ("head", "mean average precision", "gain, points", "macro F1")
            ),
            rows=rows,
            rows_are="heads",
        ),
    )


def _change(choice: MultilabelChoice, names: Sequence[str], order: Sequence[int]) -> Section:
    by_size = sorted(order, key=lambda c: (-float(choice.positives[c]), c))

    def series(name: str, values: Sequence[float], **style: Any) -> Series:
        nothing = (float("nan"),) * len(by_size)
        return Series(name=name, values=tuple(values[c] for c in by_size), low=nothing, high=nothing, **style)

    return Section(
        title="What changes",
        anchor="change",
        charts=(
            Chart(
                title="Which labels gain?",
                caption="Held-out F1 of each label before and after the repair. Most frequent label at the top.",
                alt="Dot plot of F1 before and after the repair, per label.",
                data=Rows(
                    names=tuple(names[c] for c in by_size),
                    signs=("",) * len(by_size),
                    series=(
                        series("before", choice.f1_before.tolist(), color="muted", marker="s", hollow=True),
                        series("after", choice.f1[choice.recommended].tolist(), color="blue", marker="o"),
                    ),
                    percent=True,
                ),
            ),
        ),
    )
