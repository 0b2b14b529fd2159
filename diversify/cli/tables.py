"""The tables that commands print: a diagnosis, a plan, a choice of head, a comparison, a demo."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING

from rich.markup import escape
from rich.table import Table
from rich.text import Text

from .screen import out, print_line

if TYPE_CHECKING:
    from ..diagnosis.model_comparison import ModelComparison
    from ..diagnosis.result import Diagnosis
    from ..plan.gain_forecast import GainForecast
    from ..plan.plan import Plan
    from ..plan.policies import ClassPlan
    from ..repair.choice import HeadChoice
    from ..study.outcome import WaysOutcome

MOST_ROWS = 40
NARROW, NARROWEST = 100, 60  # terminal widths below which columns are left out


def show_outcome(outcome: WaysOutcome, control: int) -> None:
    """Print the demo's accuracies on test, and each gain over the first way and over the control."""
    rows = []
    for place, name in enumerate(outcome.names):

        def gain(other: int, place: int = place) -> str:
            columns = {"gain": outcome.gain, "gain_low": outcome.gain_low, "gain_high": outcome.gain_high}
            points = {key: 100 * float(value[place, other]) for key, value in columns.items()}
            return "–" if place == other else interval_text(points, "gain", "{:+z.1f}", bare=out.width < NARROWEST)

        accuracy = {
            "test": 100 * float(outcome.balanced_accuracy[place]),
            "test_low": 100 * float(outcome.low[place]),
            "test_high": 100 * float(outcome.high[place]),
        }
        val = 100 * float(outcome.accuracy_val[place].mean())
        row = {
            "way": escape(name),
            "val, %": f"{val:.1f}" if math.isfinite(val) else "–",
            "test, %": interval_text(accuracy, "test", "{:.1f}", bare=out.width < NARROW),
            "by seed": " ".join(f"{100 * float(value):.1f}" for value in outcome.accuracy[place]),
            f"over {outcome.names[0]}, points": gain(0),
            f"over {outcome.names[control]}": gain(control),
        }
        left_out = ("by seed", "val, %") if out.width < NARROW else ()
        rows.append({title: cell for title, cell in row.items() if title not in left_out})
    out.print()
    out.print(table_of(list(rows[0]), [list(row.values()) for row in rows]))
    out.print(
        "[dim]balanced accuracy on test, evaluated once, at the end; 95% intervals: of accuracies over images, of gains"
        " over images and seeds[/]"
    )
    out.print()


def show_diagnosis(diagnosis: Diagnosis) -> None:
    """Print the classes and the findings.

    Of more than `MOST_ROWS` classes, only those of lowest recall are shown. Findings have the order of the report.
    """
    from ..diagnosis.findings import LOW_RECALL
    from ..report.diagnosis.findings import in_order, text_of
    from ..report.wording import means_leave_out, none_fragile

    recall = diagnosis["recall_heldout"]
    order = list(range(len(diagnosis.class_names)))
    if len(order) > MOST_ROWS:
        order = recall.nan_to_num(2.0).argsort().tolist()[:MOST_ROWS]
    rows = []
    for c in order:
        column = {name: float(values[c]) for name, values in diagnosis.columns.items()}
        name = escape(diagnosis.class_names[c])
        row = {
            "class": f"[bold red]{name} ![/]" if column["fragile"] else name,
            "images" if out.width < NARROWEST else "train images": f"{int(column['count']):,}",
            "recall train": percent(column["recall_train"]),
            "recall" if out.width < NARROWEST else "recall held-out": interval_text(column, "recall_heldout", "{:.0%}"),
            "log n predicts": percent(column["recall_log_count"]),
            "top-K magnitude": interval_text(column, "ce_magnitude_ratio", "{:.2f}", bare=out.width < NARROW),
            "coverage": interval_text(column, "coverage_heldout", "{:.0%}"),
        }
        left_out = ["recall train", "coverage"] if out.width < NARROW else []
        left_out += ["log n predicts", "top-K magnitude"] if out.width < NARROWEST else []
        rows.append({title: cell for title, cell in row.items() if title not in left_out})
    out.print(table_of(list(rows[0]), [list(row.values()) for row in rows]))
    hidden = len(diagnosis.class_names) - len(order)
    if hidden:
        print_line(f"({hidden:,} classes of higher recall are in the report)")
    summary = diagnosis.summary
    line = f"balanced accuracy, held out: {_plain(summary, 'balanced_accuracy_heldout', '{:.1%}')}"
    if not math.isnan(summary.get("head_ceiling", math.nan)):
        line += f"; a refitted head would add {_plain(summary, 'head_ceiling', '{:+.1%}')}"
    if summary.get("head_ceiling_high", math.nan) < 0:
        line += ", as held-out images are too few to refit it"
    print_line(line)
    if absent := means_leave_out(diagnosis, diagnosis.class_names):
        print_line(absent)
    for note in diagnosis.notes:
        print_line(f"note: {note}")
    if all(finding.kind != LOW_RECALL for finding in diagnosis.findings):
        print_line(none_fragile(diagnosis, diagnosis.class_names))
    for group in in_order(diagnosis):
        out.print()
        out.print(escape(text_of(group, diagnosis)))
    if not diagnosis.plan_ready:
        out.print()
        print_line("This diagnosis was made on the test split: read it, but do not choose a remedy by it.")


def show_plan(plan: Plan, expected: GainForecast | None = None) -> None:
    """Print each class's treatment, what it is expected to give, the settings of the whole run, and the evidence.

    Of more than `MOST_ROWS` classes, only the rarest are shown.
    """
    order = list(range(len(plan.classes)))
    if len(order) > MOST_ROWS:
        order = sorted(order, key=lambda c: plan.classes[c].count)[:MOST_ROWS]
    shown = [plan.classes[c] for c in order]
    images = sum(one.count for one in plan.classes)
    mixed = any(one.mixing.method != "none" for one in plan.classes)
    narrow = out.width < NARROWEST
    rows = []
    for c, one in zip(order, shown, strict=True):
        row = {
            "class": escape(one.name),
            "images" if narrow else "train images": f"{one.count:,}",
            "draws": _drawn(one, images),
            "augmented" if narrow else "images augmented": _policy(
                one.image.strength, one.image.amount and one.image.probability
            ),
        }
        if mixed and not narrow:
            row["mixed"] = percent(one.mixing.probability) if one.mixing.method != "none" else "–"
        for method in () if narrow else plan.feature_methods:
            policy = next((policy for policy in one.features if policy.method == method), None)
            row[method.replace("_", " ")] = _policy(policy.strength, policy.share) if policy else "–"
        if narrow:
            row["features"] = percent(math.fsum(policy.share for policy in one.features)) if one.features else "–"
        if expected is not None and not narrow:
            points = {f"gain{end}": 100 * float(getattr(expected, f"gain{end}")[c]) for end in ("", "_low", "_high")}
            row["expected gain, points"] = interval_text(points, "gain", "{:+z.0f}", bare=out.width < NARROW)
        rows.append(row)
    out.print(table_of(list(rows[0]), [list(row.values()) for row in rows]))
    if len(plan.classes) > len(shown):
        print_line(f"({len(plan.classes) - len(shown):,} classes with more images are in the plan)")
    if out.width >= NARROW:
        out.print(
            "[dim]×: relative to the class's share of the images; then strength, and the share of draws that it acts on[/]"
        )
    elif not narrow:
        out.print("[dim]strength, and the share of the class's draws that it acts on[/]")
    out.print()
    for line in _run_settings(plan):
        print_line(line)
    if expected is not None:
        print_line(expected.in_words())
        for note in expected.notes:
            print_line(note)
    evidence = [(one, [reason for reason in one.reasons if reason.measure != "count"]) for one in shown]
    if not any(reasons for _, reasons in evidence):
        out.print()
        print_line("No measure shows that a class needs more or less than its size suggests.")
    for one, reasons in evidence:
        if reasons:
            out.print()
            out.print(f"[bold]{escape(one.name)}[/]")
        for reason in reasons:
            _hang(f"[bold]{escape(reason.rule)}:[/] {escape(reason.text)} [dim]{escape(reason.source)}[/]")
    out.print()


def show_choice(choice: HeadChoice, class_names: Sequence[str]) -> None:
    """Print the candidates, the recall of each class before and after, and the recommendation."""
    groups = {name: values for name, values in choice.groups().items() if name in ("many", "medium", "few")}
    if "few" not in groups:
        groups |= {name: values for name, values in choice.groups().items() if name == "smallest third"}
    rows = []
    factor, form, unit, gain_unit = (100, "z.1f", ", %", ", points") if choice.in_shares else (1, "z.3g", "", "")
    for place, name in enumerate(choice.names):
        column = {key: factor * float(values[place]) for key, values in choice.columns.items()}
        row = {
            "candidate": f"[bold]{escape(name)}[/]" if place == choice.recommended else escape(name),
            f"{choice.metric_title}{unit}": f"{factor * float(choice.score[place]):{form}}",
            f"gain{gain_unit}": interval_text(column, "gain", f"{{:+{form}}}", bare=out.width < NARROWEST),
        }
        if out.width >= NARROW:
            row["spread"] = "–" if math.isnan(column["spread"]) else f"{column['spread']:{form}}"
            row |= {"loss": f"{float(choice.columns['loss'][place]):.3f}"} if "loss" in choice.columns else {}
            row |= {group: percent(float(values[place])) for group, values in groups.items()}
        if out.width >= NARROWEST:
            row["option"] = escape(choice.option(place)) or "–"
        rows.append(row)
    out.print(table_of(list(rows[0]), [list(row.values()) for row in rows]))
    out.print(
        f"[dim]{choice.folds}-fold cross-validation on the held-out images: options are chosen on the other folds;"
        f" spread over {choice.repeats} random splits[/]",
        soft_wrap=True,
    )
    out.print()
    if choice.recommended:
        _show_change(choice, class_names)
        out.print()
    print_line(choice.in_words())
    if choice.expected_in_words():
        print_line(choice.expected_in_words())


def show_comparison(comparison: ModelComparison) -> None:
    """Print a comparison of two networks, one row per class."""
    expected = comparison.as_expected
    titles = (
        "class",
        f"recall {comparison.first_name}",
        comparison.second_name,
        "difference, points",
        *(("expected, points",) if expected is not None else ()),
        "magnitude ratio",
        f"same top-K (chance {comparison.identity_chance:.0%})",
    )
    rows = []
    for c, name in enumerate(comparison.class_names):
        column = {key: float(value[c]) for key, value in comparison.columns.items()}
        points = {key: 100 * value for key, value in column.items()}
        rows.append(
            [
                escape(name),
                percent(column["recall_first"]),
                percent(column["recall_second"]),
                interval_text(points, "recall_difference", "{:+z.0f}"),
                *((interval_text(points, "forecast_difference", "{:+z.0f}"),) if expected is not None else ()),
                interval_text(column, "magnitude_ratio", "{:.2f}"),
                percent(column["identity_overlap"]),
            ]
        )
    out.print(table_of(titles, rows))
    if expected is not None:
        known = expected[~expected.isnan()]
        print_line(f"{int(known.sum())} of {len(known)} classes changed as expected, within the intervals of both")


def _show_change(choice: HeadChoice, class_names: Sequence[str]) -> None:
    """Print recall before and after; of more than `MOST_ROWS` classes, only those that change most."""
    order = list(range(len(class_names)))
    if len(order) > MOST_ROWS:
        change = (choice.recall[choice.recommended] - choice.recall[0]).abs().nan_to_num(-1.0)
        order = change.argsort(descending=True).tolist()[:MOST_ROWS]
    lines = []
    for c in order:
        before, after = (float(choice.recall[place][c]) for place in (0, choice.recommended))
        points = "–" if math.isnan(before) else f"{100 * (after - before):+z.0f}"
        ahead = {name: 100 * float(column[c]) for name, column in choice.forecast.items()}
        counted = f"{int(choice.class_counts[c]):,}", f"{int(choice.heldout_counts[c]):,}"
        lines.append([escape(class_names[c]), *counted, percent(before), percent(after), points])
        if choice.forecast and out.width >= NARROW:
            lines[-1].append(interval_text(ahead, "gain", "{:+z.0f}"))
    titles = ("class", "train images", "held out", "recall before", "after", "points")
    expected = ("expected of new images",) if choice.forecast and out.width >= NARROW else ()
    out.print(table_of((*titles, *expected), lines))
    if len(class_names) > len(order):
        print_line(f"({len(class_names) - len(order):,} classes that change less are in the report)")


def _hang(markup: str) -> None:
    """Print a paragraph with every line indented."""
    for line in Text.from_markup(markup, emoji=False).wrap(out, max(out.width - 2, NARROWEST // 2)):
        line.rstrip()
        out.print(Text("  ") + line)


def _drawn(one: ClassPlan, images: int) -> str:
    """The class's share of the draws, also as a multiple of its share of the images."""
    times = one.draws * images / one.count if one.count else math.nan
    multiple = "" if out.width < NARROW or math.isnan(times) else f" [dim]×{times:.3g}[/]"
    return f"{100 * one.draws:.3g}%{multiple}"


def _policy(strength: float, share: float) -> str:
    on = "" if out.width < NARROWEST else f" [dim]on[/] {share:.0%}"
    return f"{strength:.2f}{on}" if share else "–"


def _run_settings(plan: Plan) -> list[str]:
    """The settings that hold for all classes, one line each."""
    correction, schedule = plan.prior_correction, plan.schedule
    lines = []
    kinds = list(dict.fromkeys((one.image.operations, one.image.layers) for one in plan.classes if one.image.amount))
    for operations, layers in kinds[:3]:
        lines.append(f"images: {layers} of {', '.join(operations)}")
    methods = dict.fromkeys(one.mixing.method for one in plan.classes if one.mixing.method != "none")
    lines += [f"mixing: {method}" for method in methods]
    if correction.training or correction.after:
        parts = ((correction.training, "in the training loss"), (correction.after, "after training"))
        times = [f"{'once' if share == 1 else f'{share:g} times'} {where}" for share, where in parts if share]
        lines.append(f"logits corrected by the log of the class shares: {', '.join(times)}")
    if (schedule.start, schedule.ramp, schedule.stop) != (0, 0, 1):
        lines.append(
            f"augmentation from {schedule.start:.0%} to {schedule.stop:.0%} of the epochs, ramped up over {schedule.ramp:.0%}"
        )
    if plan.feature_methods:
        later = "" if schedule.features >= 1 else f", and in training after {schedule.features:.0%} of the epochs"
        lines.append(f"feature augmentation acts in the head step{later}")
    if plan.images_per_epoch is not None:
        lines.append(f"draws per epoch: {plan.images_per_epoch:,}")
    if any(reason.rule == "rarity" for one in plan.classes for reason in one.reasons):
        lines.append(
            "strengths are graded by rarity, 1 - log n / log n_max, and changed where a measure gives evidence:"
        )
    return lines


def table_of(titles: Sequence[str], rows: Sequence[Sequence[str]]) -> Table:
    """A table that fits the terminal: titles are wrapped between words, and the first column takes the remaining width.

    Args:
        titles: One per column; the first column is left-aligned, the others right-aligned.
        rows: Cells in rich's markup.
    """
    lines = [[Text.from_markup(cell, emoji=False) for cell in row] for row in rows]  # `:cat:` is a name, not an emoji
    cells = [max((cell.cell_len for cell in column), default=0) for column in zip(*lines, strict=True)]
    whole = [max(cell, Text(title).cell_len) for cell, title in zip(cells, titles, strict=True)]
    words = [max(Text(word).cell_len for word in title.split() or [""]) for title in titles]
    least = [max(cell, word) for cell, word in zip(cells, words, strict=True)]
    gaps = 2 * (len(titles) - 1)
    wrapped = sum(whole) + gaps > out.width >= sum(least[1:]) + words[0] + gaps
    table = Table(box=None, pad_edge=False, header_style="bold")
    for place, title in enumerate(titles):
        width = least[place] if wrapped and place else None
        table.add_column(Text(title), justify="right" if place else "left", overflow="fold", width=width)
    for line in lines:
        table.add_row(*line)
    return table


def percent(value: float) -> str:
    """A share as a percentage without decimals; a dash for NaN."""
    return "–" if math.isnan(value) else f"{value:.0%}"


def _plain(values: Mapping[str, float], name: str, form: str) -> str:
    return interval_text(values, name, form).replace("[dim]", "").replace("[/]", "")


def interval_text(values: Mapping[str, float], name: str, form: str, *, bare: bool = False) -> str:
    """A value with its interval in brackets, or the value alone; a dash for NaN.

    Args:
        values: Holds the value under `name`, and its interval under `name` + `_low` and `_high`.
        form: The format of each number, for example `"{:.1f}"`.
        bare: Leaves the interval out.
    """
    value, low, high = (values.get(name + end, math.nan) for end in ("", "_low", "_high"))
    if math.isnan(value):
        return "–"
    return form.format(value) + (
        "" if bare or math.isnan(low) else f" [dim]({form.format(low)} to {form.format(high)})[/]"
    )
