"""The form of numbers, names and origins in reports, and the choice of the classes they show if there are many."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from typing import Any

from torch import Tensor

from ..augment.leak import Leak
from ..diagnosis.catalogue import Measure
from ..diagnosis.model_comparison import ModelComparison
from ..diagnosis.result import Diagnosis
from .plots import Series
from .plots import cut as cut

ALL_CLASSES = 40  # with more classes, only the WEAKEST and the STRONGEST are shown
WEAKEST, STRONGEST = 20, 10
DASH = "–"
LONGEST = 200  # characters of a name
LONGEST_IN_TABLE = 48  # characters of a name in a table


def number_of(number: int, one: str, many: str) -> str:
    """Return a count with its noun."""
    return f"{number:,} {one if number == 1 else many}"


def selection(values: Tensor) -> tuple[tuple[int, ...], int]:
    """Return the classes to show, lowest value first and undefined last, and how many come before those left out."""
    order = order_of(values)
    if len(order) <= ALL_CLASSES:
        return tuple(order), len(order)
    defined = [c for c in order if not math.isnan(float(values[c]))]
    weak = defined[:WEAKEST]
    return (*weak, *defined[max(len(weak), len(defined) - STRONGEST) :]), len(weak)


def anchor(measure: str) -> str:
    """Return the anchor of a measure's definition."""
    return f"measure-{measure.replace('_', '-')}"


def with_source(measure: Measure) -> str:
    """Return what a measure is, with its source."""
    return f"{measure.meaning} {measure.source}." if measure.source else measure.meaning


def with_evidence(measure: Measure) -> str:
    """Return what a measure is, and whether it was found to add to class size if that was tested."""
    return (
        f"{measure.meaning} Informative beyond class size in validation runs: {measure.evidence}."
        if measure.evidence
        else measure.meaning
    )


def order_of(values: Tensor) -> list[int]:
    """Return all classes, lowest value first and undefined last."""
    listed = values.tolist()
    return sorted(
        range(len(listed)), key=lambda c: (math.isnan(listed[c]), listed[c] if listed[c] == listed[c] else 0.0, c)
    )


def left_out(classes: int, shown: int, by: str, rows_are: str = "classes") -> str:
    """Return a sentence on the classes, or other rows, that a table or plot leaves out; "" if there are none."""
    return (
        f" Of {classes:,} {rows_are}, the {WEAKEST} with the lowest and the {STRONGEST} with the highest {by} are shown;"
        f" {classes - shown:,} left out."
        if shown < classes
        else ""
    )


def series(columns: Mapping[str, Tensor], column: str, order: Sequence[int], *, name: str, **style: Any) -> Series:
    """Return a column of a diagnosis or comparison, with its intervals, as plot data."""
    values, low, high = (tuple(at(columns, column + end, c) for c in order) for end in ("", "_low", "_high"))
    return Series(name=name, values=values, low=low, high=high, **style)


def extremes(columns: Mapping[str, Tensor], column: str, names: Sequence[str], unit: str) -> str:
    """Return a sentence that names the classes with the lowest and highest value, for readers who cannot see the plot."""
    values = [(value, c) for c, value in enumerate(columns[column].tolist()) if math.isfinite(value)]
    if not values:
        return "No class has a value."
    (low, weakest), (high, strongest) = min(values), max(values)
    return f"Lowest: {names[weakest]}, {formatted(low, unit)}; highest: {names[strongest]}, {formatted(high, unit)}."


def top_k_origin(result: Diagnosis | ModelComparison) -> tuple[tuple[str, str], ...]:
    """Return K, D and the overlap expected by chance, for the origin of a report."""
    k, features = result.top_k, result.num_features
    return (("top-K", f"{k} of {features} features; two random sets of {k} share {percent(k / features)} by chance"),)


def origin_of(run: Mapping[str, Any]) -> tuple[tuple[str, str], ...]:
    """Return labels and values of what run.json says about the origin of the numbers; missing entries are left out."""
    parameters = look(run, "model", "parameters")
    digest = look(run, "weights", "sha256")
    splits = look(run, "data", "splits")
    sizes = splits
    if isinstance(splits, Mapping):
        images = {name: look(split, "images") or split for name, split in splits.items()}
        sizes = {name: f"{size:,}" if isinstance(size, int) else size for name, size in images.items()}
    pairs = {
        "model": join(
            look(run, "model", "name"), f"{parameters:,} parameters" if isinstance(parameters, int) else None
        ),
        "weights": join(look(run, "weights", "path"), f"sha256 {str(digest)[:16]}…" if digest else None),
        "data": look(run, "data", "spec"),
        "imbalance": look(run, "data", "imbalance"),
        "tail order": look(run, "data", "tail_order"),
        "diversity": _diversity(run),
        "images": sizes,
        "preprocessing": join(words(run.get("view")) or None, run.get("view_origin")),
        "note": "; ".join(map(str, run["notes"])) if isinstance(run.get("notes"), list) else None,
        "seed": run.get("seed"),
        "versions": run.get("versions"),
        "commit": run.get("commit"),
        "device": run.get("device"),
        "started": run.get("started"),
    }
    return tuple((label, text) for label, value in pairs.items() if (text := words(value)))


def _diversity(run: Mapping[str, Any]) -> str | None:
    form = look(run, "data", "diversity")
    if form is None:
        return None
    names, narrow = look(run, "data", "class_names") or (), look(run, "data", "narrow_classes") or ()
    listed = ", ".join(plain(names[c]) for c in narrow if c < len(names))
    return f"{form} in {listed or 'no class'}"


def look(record: Any, *path: str) -> Any:
    """Return the value at a path of keys, or None."""
    for key in path:
        record = record.get(key) if isinstance(record, Mapping) else None
    return record


def join(*parts: object) -> str:
    """Return the parts that are not None, separated by commas."""
    return ", ".join(str(part) for part in parts if part is not None)


def words(value: Any) -> str:
    """Return any JSON value as one line of text."""
    if value is None:
        return ""
    if isinstance(value, Mapping):
        return ", ".join(f"{plain(key)} {text}" for key, one in value.items() if (text := words(one)))
    if isinstance(value, (list, tuple)):
        return " ".join(words(one) for one in value)
    if isinstance(value, float):
        return f"{value:.4g}" if math.isfinite(value) else DASH
    return plain(value) if value != "" else ""


def plain(text: object) -> str:
    """Return the text on one line; characters that cannot be printed become �."""
    line = " ".join(str(text).split())
    return "".join(mark if mark.isprintable() or mark in "\u200c\u200d" else "�" for mark in line) or "(no name)"


def data_name(spec: object) -> str:
    """Return what names the data in a title: of a path only the last part, since the folders are those of one machine."""
    text = plain(spec)
    kind, colon, path = text.rpartition(":")
    if not path.startswith(("/", "~", ".")):
        return text
    return f"{kind}{colon}{path.rstrip('/').rpartition('/')[2]}"


def named(text: object) -> str:
    """Return a name as `plain` writes it, cut to `LONGEST` characters."""
    return cut(plain(text), LONGEST)


def sentence(text: str) -> str:
    """Return the text with a capital first letter and a full stop."""
    return f"{text[0].upper()}{text[1:]}{'' if text.endswith(('.', '…')) else '.'}" if text else ""


def at(columns: Mapping[str, Tensor], name: str, c: int) -> float:
    """Return the value of a column for one class; NaN if there is no such column."""
    return float(columns[name][c]) if name in columns else math.nan


def means_leave_out(diagnosis: Diagnosis, names: Sequence[str]) -> str:
    """Return how many classes a mean over the classes is over, and the names of the others; "" if it is over all."""
    absent = diagnosis.without_heldout
    if not absent:
        return ""
    shown = ", ".join(names[c] for c in absent[:6]) + (" …" if len(absent) > 6 else "")
    return f"mean of {len(names) - len(absent):,} of {len(names):,} classes; no held-out images of {shown}"


def none_fragile(diagnosis: Diagnosis, names: Sequence[str]) -> str:
    """Return a statement that no class is fragile, with the classes whose recall is low but uncertain."""
    recall, held = diagnosis["recall_heldout"], diagnosis["count_heldout"]
    mean = float(recall.nanmean())
    measured = len(names) - len(diagnosis.without_heldout)
    absent = ", ".join(names[c] for c in diagnosis.without_heldout[:6])
    more = " …" if len(diagnosis.without_heldout) > 6 else ""
    with_images = f" with held-out images (none: {absent}{more})" if absent else ""
    text = (
        f"No class is fragile: no 95% interval of held-out recall lies entirely below the mean of the {measured} classes"
        f"{with_images}, {percent(mean)}."
    )
    if mean == 0:
        return f"{text} No held-out image is predicted correctly."
    rare = [c for c in order_of(recall) if float(recall[c]) < mean / 2]
    if not rare:
        return text
    shown = ", ".join(f"{names[c]} {round(float(recall[c] * held[c]))} of {int(held[c])}" for c in rare[:6])
    more = " …" if len(rare) > 6 else ""
    few = "groups" if any(math.isfinite(at(diagnosis.columns, "groups_heldout", c)) for c in rare) else "images"
    return f"{text} Too few held-out {few} may be the reason. Classes with less than half the mean recall: {shown} correct{more}."


def ceiling_in_words(summary: Mapping[str, float]) -> str:
    """Return what the head ceiling means; a refitted head that is surely worse says nothing of better ones.

    Args:
        summary: Of a diagnosis.

    Example:
        >>> ceiling_in_words({"head_ceiling": -0.08, "head_ceiling_high": -0.03})
        'a head refitted on held-out images does worse: they are too few to say what a better last layer can gain'
    """
    if summary.get("head_ceiling_high", math.nan) < 0:
        return (
            "a head refitted on held-out images does worse: they are too few to say what a better last layer can gain"
        )
    return "optimistic estimate of what a better last layer can gain"


def column_interval(columns: Mapping[str, Tensor], name: str, c: int, unit: str) -> str:
    """Return the interval of a column for one class, in brackets; "" if there is none."""
    return between(at(columns, f"{name}_low", c), at(columns, f"{name}_high", c), unit)


def between(low: float, high: float, unit: str) -> str:
    """Return an interval in brackets without its unit; "" unless both ends are finite."""
    if not (math.isfinite(low) and math.isfinite(high)):
        return ""
    return f"[{formatted(low, unit).removesuffix('%')}, {formatted(high, unit).removesuffix('%')}]"


def formatted(value: float, unit: str) -> str:
    """Return a number as reports write it: with a true minus, and a dash if undefined; no share is rounded to 0 or 100%."""
    if not math.isfinite(value):
        return DASH
    if unit == "share":
        return share(value)
    if unit == "percent":
        return percent(value)
    if unit == "points":
        return signed(100 * value, 0)
    if unit == "tenths":
        return points(value)
    if unit == "images":
        return f"{value:,.0f}"
    places = 2 if unit in ("ratio", "logits") or abs(value) < 1 else 1
    return unsigned(value, places)


def share(value: float) -> str:
    """Return a share in [0, 1] as a percentage, never rounded to 0 or 100%."""
    text = f"{100 * value:.0f}"
    if (text in ("0", "-0") and value != 0) or (text == "100" and value != 1):
        text = f"{100 * value:.1f}"
        text = {"0.0": "<0.1", "-0.0": "0", "100.0": ">99.9" if value < 1 else "100"}.get(text, text)
    return text.replace("-", "−") + "%"


def percent(value: float) -> str:
    """Return a share as a percentage with one decimal; a dash if undefined."""
    return unsigned(100 * value, 1) + "%" if math.isfinite(value) else DASH


def points(value: float) -> str:
    """Return a difference of shares in percentage points, with its sign."""
    return signed(100 * value, 1)


def leaked(leak: Leak, c: int) -> str:
    """Return the leak of a class in points, with its interval."""
    return f"{points(float(leak.leak[c]))} {between(float(leak.leak_low[c]), float(leak.leak_high[c]), 'tenths')}"


def unsigned(value: float, places: int) -> str:
    """Return a number with a true minus, and no sign on zero."""
    text = f"{value:,.{places}f}"
    return text.removeprefix("-") if not text.strip("-0.") else text.replace("-", "−")


def signed(value: float, places: int) -> str:
    """Return a number with a plus or a true minus; no sign on zero."""
    text = unsigned(value, places) if math.isfinite(value) else DASH
    return f"+{text}" if text.strip("0.,") and text[0] not in f"−{DASH}" else text
