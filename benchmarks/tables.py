"""Tables in the documents are generated from records: `python -m benchmarks.tables` rewrites them in place.

A table stands between `<!-- NAME -->` and `<!-- end NAME -->`; a test checks that what stands there is what the records give.
The records of a study, `results/study_NAME.jsonl`, give two: `study_NAME`, its methods, and `study_NAME_text`, what they say.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Mapping, Sequence
from functools import partial
from pathlib import Path
from typing import Any

from benchmarks import cifar10_lt_diagnosis, head_study, resident, validity
from diversify import benchmark_report, storage
from diversify.study import compare

HERE = Path(__file__).parent
RESULTS = HERE / "results"
DOCUMENTS = (HERE.parent / "README.md", HERE / "README.md")


def latest_timings(file: str) -> dict[str, Mapping[str, Any]]:
    """The last record of each timed figure."""
    path = RESULTS / file
    return {str(record["figure"]): record for record in storage.read_jsonl(path)} if path.exists() else {}


def timings(file: str) -> str:
    """The timed figures, each with its spread and where it was measured."""
    rows = ["| figure | measured | on |", "|:--|:--|:--|"]
    for name, record in latest_timings(file).items():
        if "ratio_median" in record:
            spread = (
                f"{record['ratio_lowest']:.3f} to {record['ratio_highest']:.3f}, {len(record['seconds_ours'])} pairs"
            )
            measured = f"median ratio {record['ratio_median']:.3f} ({spread})"
        else:
            spread = f"{min(record['seconds']):.2f} to {max(record['seconds']):.2f}, {len(record['seconds'])} runs"
            measured = f"median {record['seconds_median']:.2f} s ({spread})"
        rows.append(f"| `{name}`: {record['what']} | {measured} | {record['device']} |")
    return "\n".join(rows)


TABLES: Mapping[str, Callable[[], str]] = {
    "overhead": partial(timings, "overhead.jsonl"),
    "remedies": partial(timings, "remedies.jsonl"),
    "cifar10_lt_head_text": head_study.text,
    "cifar10_lt_head": head_study.table,
    "cifar10_lt_head_untuned": partial(head_study.table, untuned=True),
    "fashion_mnist_lt_head_text": partial(head_study.text, head_study.FASHION.suite),
    "fashion_mnist_lt_head_untuned": partial(head_study.table, head_study.FASHION.suite, untuned=True),
    "cifar10_lt_head_val": head_study.val_table,
    "cifar10_lt_head_earlier_text": head_study.earlier_text,
    "cifar10_lt_head_earlier": head_study.earlier_table,
    "resident": resident.table,
    "cifar10_lt_text": cifar10_lt_diagnosis.text,
    "cifar10_lt_classes": cifar10_lt_diagnosis.class_table,
    "cifar10_lt_answers": cifar10_lt_diagnosis.answer_table,
    "validity_text": validity.text,
    "validity_gap": validity.gap_table,
    "validity_gain": validity.gain_table,
}


def study(name: str) -> str:
    """The table `study_NAME` or `study_NAME_text` of the records in `results/study_NAME.jsonl`."""
    make = benchmark_report.text if name.endswith("_text") else benchmark_report.headline_table
    path = RESULTS / f"{name.removesuffix('_text')}.jsonl"
    if not path.exists():
        return benchmark_report.NO_RECORDS
    return make(compare.load(path, path.name), compare.load_protocol(path))


def made(name: str) -> str | None:
    """The table of this name; None where there is no such."""
    if name.startswith("study_"):
        return study(name)
    return TABLES[name]() if name in TABLES else None


def filled(text: str) -> str:
    """A document with every table in it made anew."""

    def table(found: re.Match[str]) -> str:
        name, content = found[1], made(found[1])
        return found[0] if content is None else f"<!-- {name} -->\n{content}\n<!-- end {name} -->"

    return re.sub(r"<!-- (\w+) -->.*?<!-- end \1 -->", table, text, flags=re.DOTALL)


def main(documents: Sequence[Path] = DOCUMENTS) -> None:
    """Rewrite the tables of every document."""
    for document in documents:
        storage.write_text(document, filled(document.read_text()))


if __name__ == "__main__":
    main()
