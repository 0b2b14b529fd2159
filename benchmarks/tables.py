"""Generate the tables and figures of the documents from records: `python -m benchmarks.tables` rewrites them in place.

A table stands between `<!-- NAME -->` and `<!-- end NAME -->`. A test checks that it is what the records give. The records of a
study, `results/study_NAME.jsonl`, give two: `study_NAME`, the table of methods, and `study_NAME_text`, the findings.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Mapping
from functools import partial
from pathlib import Path
from statistics import median
from typing import Any

from benchmarks import (
    absorbing,
    cifar10_lt_diagnosis,
    cifar10_lt_unused,
    collect,
    default_recipe,
    diversity_page,
    forecasts_page,
    head_study,
    large_plan,
    learning_curve,
    many_classes,
    matched_magnitudes_page,
    multilabel,
    narrow_heads,
    narrow_training,
    objective,
    pairs,
    paper_claims,
    peers,
    public_network,
    real_sets_page,
    resident,
    scale_page,
    unseen_rows,
    validity,
)
from benchmarks.load import table as load_table
from diversify.files import atomic
from diversify.report.benchmark import page
from diversify.study import read

HERE = Path(__file__).parent
RESULTS = HERE / "results"
RECENT = 3  # records that a timed figure is computed from
ROOT = HERE.parent
FIGURES = (diversity_page, forecasts_page, real_sets_page, scale_page)  # pages with figures
DOCUMENTS = (ROOT / "README.md", HERE / "README.md", *sorted((ROOT / "docs" / "results").glob("*.md")))


def latest_timings(file: str) -> dict[str, list[Mapping[str, Any]]]:
    """Return the last records of each timed figure with the same description, at most `RECENT`, so that no number is picked."""
    path = RESULTS / file
    found: dict[str, list[Mapping[str, Any]]] = {}
    for record in atomic.read_jsonl(path) if path.exists() else []:
        kept = found.get(str(record["figure"]), [])
        same = [one for one in kept if (one["what"], one["device"]) == (record["what"], record["device"])]
        found[str(record["figure"])] = [*same, record][-RECENT:]
    return found


def _ratios(record: Mapping[str, Any]) -> list[float]:
    """Return the ratio of every pair, in the direction of the record."""
    ratios = [one / other for one, other in zip(record["seconds_ours"], record["seconds_bare"], strict=True)]
    if abs(median(ratios) - record["ratio_median"]) > abs(1 / median(ratios) - record["ratio_median"]):
        return [1 / one for one in ratios]
    return ratios


def timings(file: str) -> str:
    """Return the timed figures as a table, each with its spread and device."""
    rows = ["| figure | measured | on |", "|:--|:--|:--|"]
    for name, records in latest_timings(file).items():
        if "ratio_median" in records[-1]:
            values, unit, kind, places = [one for record in records for one in _ratios(record)], "", "pairs", 3
        else:
            values, unit, kind, places = [one for record in records for one in record["seconds"]], " s", "runs", 2
        spread = f"{min(values):.{places}f} to {max(values):.{places}f}, {len(values)} {kind}"
        measured = f"median {'ratio ' if not unit else ''}{median(values):.{places}f}{unit} ({spread})"
        added = [one for record in records for one in record.get("added_microseconds", ())]
        if added:
            measured += f"; {median(added):.1f} µs more an image ({min(added):.1f} to {max(added):.1f})"
        if "workers_mib" in records[-1]:
            first, last = records[-1]["workers_mib"]
            measured += f"; the workers hold {first:,.0f} MiB after the first epoch, {last:,.0f} after the last"
        if "images_with_other_pixels" in records[-1]:
            measured += (
                f"; {records[-1]['images_with_other_pixels']} of {records[-1]['images']} images have other pixels"
            )
        rows.append(f"| `{name}`: {records[-1]['what']} | {measured} | {records[-1]['device']} |")
    return "\n".join(rows)


SUMMARY = {  # what is compared: the records
    "full training, CIFAR-10, 30 epochs": "study_cifar10_lt_short",
    "full training, Fashion-MNIST": "study_fashion_mnist_lt",
    "head repair, CIFAR-10, searched": "study_cifar10_lt_head",
    "head repair, CIFAR-10, no search": "study_cifar10_lt_head_untuned",
    "head repair, Fashion-MNIST, searched": "study_fashion_mnist_lt_head",
    "head repair, Fashion-MNIST, no search": "study_fashion_mnist_lt_head_untuned",
    "full training, CIFAR-10, 200 epochs": "study_cifar10_lt",  # last, as it has no control yet
}
CONTROLS = ("balanced_softmax+images+mix+head", "ldam_drw+images+mix+head", "plan_from_counts", "plan_permuted")


def summary() -> str:
    """Return one row per comparison: cross entropy, the best other method, the best control, the default recipe, and `diversify`."""

    def best(scores: Mapping[str, float]) -> str:
        if not scores:
            return "none yet"
        name = max(scores, key=lambda one: scores[one])
        return f"{scores[name]:.1f} `{name}`"

    rows = [
        "| | cross entropy | best other method | best control | default recipe | `diversify` |",
        "|:--|--:|:--|:--|--:|:--|",
    ]
    for title, name in SUMMARY.items():
        found: dict[str, list[float]] = {}
        for record in atomic.read_jsonl(RESULTS / f"{name}.jsonl"):
            if record["kind"] == "final":
                found.setdefault(str(record["method"]), []).append(100 * float(record["balanced_accuracy"]))
        scores = {method: sum(values) / len(values) for method, values in found.items()}
        place = 1 + sum(score > scores["diversify"] for score in scores.values())
        others = {name: score for name, score in scores.items() if name not in ("ce", "diversify", "recipe", *CONTROLS)}
        controls = {name: score for name, score in scores.items() if name in CONTROLS}
        ours = f"{scores['diversify']:.1f}, {place} of {len(scores)}"
        recipe = f"{scores['recipe']:.1f}" if "recipe" in scores else "–"
        rows.append(f"| {title} | {scores['ce']:.1f} | {best(others)} | {best(controls)} | {recipe} | {ours} |")
    return "\n".join(rows)


TABLES: Mapping[str, Callable[[], str]] = {
    "summary": summary,
    "overhead": partial(timings, "overhead.jsonl"),
    "remedies": partial(timings, "remedies.jsonl"),
    "large_images": partial(timings, "large_images.jsonl"),
    "many_classes": many_classes.table,
    "large_plan": large_plan.plan_table,
    "large_plan_units": large_plan.units_table,
    "large_plan_assumed": large_plan.assumptions_table,
    "peers": peers.table,
    "load": load_table.table,
    "cifar10_lt_head_text": head_study.text,
    "cifar10_lt_head": head_study.table,
    "cifar10_lt_head_untuned": partial(head_study.table, untuned=True),
    "fashion_mnist_lt_head_text": partial(head_study.text, head_study.FASHION.suite),
    "fashion_mnist_lt_head": partial(head_study.table, head_study.FASHION.suite),
    "fashion_mnist_lt_head_untuned_text": partial(head_study.text, head_study.FASHION.suite, untuned=True),
    "fashion_mnist_lt_head_untuned": partial(head_study.table, head_study.FASHION.suite, untuned=True),
    "cifar10_lt_head_val": head_study.val_table,
    "cifar10_lt_head_earlier_text": head_study.earlier_text,
    "cifar10_lt_head_earlier": head_study.earlier_table,
    "cifar10_lt_unused": cifar10_lt_unused.table,
    **public_network.TABLES,
    "unseen_rows_text": unseen_rows.text,
    "unseen_rows": unseen_rows.curve_table,
    "unseen_rows_worst": partial(unseen_rows.curve_table, score="worst"),
    "unseen_rows_slope": unseen_rows.difference_table,
    "unseen_rows_development": partial(unseen_rows.curve_table, unseen_rows.HALVES[0]),
    "narrow_heads_text": narrow_heads.text,
    "narrow_heads": narrow_heads.table,
    "narrow_heads_none": partial(narrow_heads.table, narrow=False),
    "narrow_heads_development": partial(narrow_heads.table, narrow_heads.HALVES[0]),
    "default_recipe_text": default_recipe.text,
    "default_recipe_fashion": partial(default_recipe.table, "fashion_mnist_lt"),
    "default_recipe_cifar10": partial(default_recipe.table, "cifar10_lt_short"),
    "default_recipe_fashion_development": partial(default_recipe.table, "fashion_mnist_lt", default_recipe.HALVES[0]),
    "default_recipe_cifar10_development": partial(default_recipe.table, "cifar10_lt_short", default_recipe.HALVES[0]),
    "narrow_training_text": narrow_training.text,
    "narrow_training": narrow_training.table,
    "narrow_training_equal": partial(narrow_training.table, sizes="equal"),
    "narrow_training_independent": partial(narrow_training.table, sizes="independent"),
    "narrow_training_development": partial(narrow_training.table, narrow_training.HALVES[0]),
    "objective_text": objective.text,
    "objective": objective.table,
    "objective_fashion_mnist": partial(objective.table, data="fashion-mnist"),
    "objective_cifar10": partial(objective.table, data="cifar10"),
    "objective_development": partial(objective.table, objective.HALVES[0]),
    "pairs_text": pairs.text,
    "pairs": pairs.table,
    "pairs_beside_objectives": pairs.beside_objectives,
    "pairs_development": partial(pairs.table, pairs.HALVES[0]),
    "absorbing_text": absorbing.text,
    "absorbing": absorbing.table,
    "absorbing_development": partial(absorbing.table, absorbing.HALVES[0]),
    "matched_text": matched_magnitudes_page.text,
    "matched": matched_magnitudes_page.curve_table,
    "matched_difference": matched_magnitudes_page.difference_table,
    "matched_without": matched_magnitudes_page.without_table,
    "matched_development": partial(matched_magnitudes_page.curve_table, unseen_rows.HALVES[0]),
    "matched_development_difference": partial(matched_magnitudes_page.difference_table, unseen_rows.HALVES[0]),
    "matched_development_without": partial(matched_magnitudes_page.without_table, unseen_rows.HALVES[0]),
    "collect_labels": collect.labels_table,
    "collect_narrow_retrained": partial(collect.table, "narrow", collect.HALVES[1], retrain=True),
    "collect_narrow_weak_retrained": partial(collect.table, "narrow", collect.HALVES[1], "recall_weak", retrain=True),
    "collect_tail_retrained": partial(collect.table, "tail", collect.HALVES[1], retrain=True),
    "collect_tail_weak_retrained": partial(collect.table, "tail", collect.HALVES[1], "recall_weak", retrain=True),
    "collect_narrow": partial(collect.table, "narrow", collect.HALVES[1]),
    "collect_narrow_weak": partial(collect.table, "narrow", collect.HALVES[1], "recall_weak"),
    "collect_tail": partial(collect.table, "tail", collect.HALVES[1]),
    "collect_tail_weak": partial(collect.table, "tail", collect.HALVES[1], "recall_weak"),
    "collect_narrow_development": partial(collect.table, "narrow", collect.HALVES[0]),
    "collect_tail_development": partial(collect.table, "tail", collect.HALVES[0]),
    "learning_curve_text": learning_curve.text,
    "learning_curve": learning_curve.table,
    "learning_curve_settings": learning_curve.setting_table,
    "learning_curve_development": partial(learning_curve.table, learning_curve.HALVES[0]),
    "multilabel_text": multilabel.text,
    "multilabel": multilabel.table,
    "resident": resident.table,
    "cifar10_lt_text": cifar10_lt_diagnosis.text,
    "cifar10_lt_classes": cifar10_lt_diagnosis.class_table,
    "cifar10_lt_answers": cifar10_lt_diagnosis.answer_table,
    "validity_text": validity.text,
    "validity_gap": validity.gap_table,
    "validity_gain": validity.gain_table,
    **diversity_page.TABLES,
    **forecasts_page.TABLES,
    **paper_claims.TABLES,
    **real_sets_page.TABLES,
    **scale_page.TABLES,
}


def study(name: str) -> str:
    """Return the table `study_NAME` or `study_NAME_text` of the records in `results/study_NAME.jsonl`."""
    make = page.text if name.endswith("_text") else page.headline_table
    path = RESULTS / f"{name.removesuffix('_text')}.jsonl"
    if not path.exists():
        return page.NO_RECORDS
    return make(read.load(path, path.name), read.load_protocol(path))


def made(name: str) -> str | None:
    """Return the table with this name; None if there is none."""
    if name.startswith("study_"):
        return study(name)
    return TABLES[name]() if name in TABLES else None


def filled(text: str) -> str:
    """Return a document with all its tables generated anew."""

    def table(found: re.Match[str]) -> str:
        name, content = found[1], made(found[1])
        return found[0] if content is None else f"<!-- {name} -->\n{content}\n<!-- end {name} -->"

    return re.sub(r"<!-- (\w+) -->.*?<!-- end \1 -->", table, text, flags=re.DOTALL)


def main() -> None:
    """Draw the figures, and rewrite the tables of every document."""
    for one in FIGURES:
        for path in one.draw_figures():
            print(path)
    for document in DOCUMENTS:
        atomic.write_text(document, filled(document.read_text()))


if __name__ == "__main__":
    main()
