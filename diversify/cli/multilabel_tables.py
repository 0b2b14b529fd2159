"""The tables that commands print about images with several labels: a diagnosis, and a choice of head."""

from __future__ import annotations

import math
from typing import TYPE_CHECKING

from rich.markup import escape

from .screen import out, print_line
from .tables import MOST_ROWS, NARROW, NARROWEST, interval_text, percent, table_of

if TYPE_CHECKING:
    from ..diagnosis.multilabel import MultilabelDiagnosis
    from ..repair.multilabel_choice import MultilabelChoice


def show_multilabel_diagnosis(diagnosis: MultilabelDiagnosis) -> None:
    """Print the labels and the findings.

    Of more than `MOST_ROWS` labels, only those of lowest recall are shown.
    """
    order = list(range(len(diagnosis.label_names)))
    if len(order) > MOST_ROWS:
        order = diagnosis["recall_heldout"].nan_to_num(2.0).argsort().tolist()[:MOST_ROWS]
    rows = []
    for c in order:
        column = {name: float(values[c]) for name, values in diagnosis.columns.items()}
        name = escape(diagnosis.label_names[c])
        row = {
            "label": f"[bold red]{name} ![/]" if column["fragile"] else name,
            "train images": str(int(column["count"])),
            "recall": interval_text(column, "recall_heldout", "{:.0%}", bare=out.width < NARROWEST),
            "precision": interval_text(column, "precision_heldout", "{:.0%}", bare=out.width < NARROW),
            "average precision": interval_text(column, "average_precision", "{:.0%}", bare=out.width < NARROW),
            "best threshold": "–" if math.isnan(column["threshold_best"]) else f"{column['threshold_best']:.2f}",
        }
        left_out = ["precision", "best threshold"] if out.width < NARROWEST else []
        rows.append({title: cell for title, cell in row.items() if title not in left_out})
    out.print(table_of(list(rows[0]), [list(row.values()) for row in rows]))
    if hidden := len(diagnosis.label_names) - len(order):
        print_line(f"({hidden:,} labels of higher recall are in the report)")
    summary = diagnosis.summary
    print_line(
        f"held out: mean average precision {percent(summary['mean_average_precision'])}, macro F1"
        f" {percent(summary['mean_f1'])}, mean recall {percent(summary['mean_recall'])}"
    )
    if absent := diagnosis.without_heldout:
        print_line(f"labels without held-out images, which means leave out: {', '.join(absent[:6])}")
    for note in diagnosis.notes:
        print_line(f"note: {note}")
    if not diagnosis.findings:
        print_line("No label is fragile, has a threshold that is surely off, or surely depends on another label.")
    for finding in diagnosis.findings:
        out.print()
        out.print(escape(finding.text))
    if diagnosis.heldout_split == "test":
        out.print()
        print_line("This diagnosis was made on the test split: read it, but do not choose a remedy by it.")


def show_multilabel_choice(choice: MultilabelChoice) -> None:
    """Print the heads that were compared, and the recommendation."""
    rows = []
    for place, name in enumerate(choice.names):
        gain = {
            f"gain{end}": 100 * float(values[place])
            for end, values in (("", choice.gain), ("_low", choice.gain_low), ("_high", choice.gain_high))
        }
        rows.append(
            [
                f"[bold]{escape(name)}[/]" if place == choice.recommended else escape(name),
                f"{100 * float(choice.mean_average_precision[place]):.1f}",
                "–" if place == 0 else interval_text(gain, "gain", "{:+z.1f}", bare=out.width < NARROWEST),
                f"{100 * float(choice.f1[place].nanmean()):.1f}",
            ]
        )
    out.print(table_of(["head", "mean average precision, %", "gain, points", "macro F1, %"], rows))
    out.print("[dim]on held-out images; F1 with thresholds fitted on other held-out images[/]", soft_wrap=True)
    out.print()
    print_line(choice.in_words())
