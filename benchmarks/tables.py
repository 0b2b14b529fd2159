"""Tables in the documents are generated from records: `python -m benchmarks.tables` rewrites them in place.

A table stands between `<!-- NAME -->` and `<!-- end NAME -->`; a test checks that what stands there is what the records give.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Mapping, Sequence
from functools import partial
from pathlib import Path
from typing import Any

from benchmarks import cifar10_lt_diagnosis, cifar10_lt_head
from diversify import storage

HERE = Path(__file__).parent
DOCUMENTS = (HERE.parent / "README.md", HERE / "README.md")


def latest_timings(file: str) -> dict[str, Mapping[str, Any]]:
    """The last record of each timed figure."""
    path = HERE / "results" / file
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
    "cifar10_lt_head_text": cifar10_lt_head.text,
    "cifar10_lt_head": cifar10_lt_head.table,
    "cifar10_lt_text": cifar10_lt_diagnosis.text,
    "cifar10_lt_classes": cifar10_lt_diagnosis.class_table,
    "cifar10_lt_answers": cifar10_lt_diagnosis.answer_table,
}


def filled(text: str) -> str:
    """A document with every table in it made anew."""
    for name, make in TABLES.items():
        start, end = f"<!-- {name} -->", f"<!-- end {name} -->"
        if start in text:
            text = re.sub(
                f"{start}.*?{end}", lambda _, s=start, m=make, e=end: f"{s}\n{m()}\n{e}", text, flags=re.DOTALL
            )
    return text


def main(documents: Sequence[Path] = DOCUMENTS) -> None:
    """Rewrite the tables of every document."""
    for document in documents:
        storage.write_text(document, filled(document.read_text()))


if __name__ == "__main__":
    main()
