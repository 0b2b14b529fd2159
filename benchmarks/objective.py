"""The objectives of `choose_head` on up to twenty long tails of two data sets: `benchmarks/results/objective.jsonl`.

    python -m benchmarks.objective --root DATA --banks DIR [--workers 2] [--half development|confirmation]

The networks are those of `benchmarks.unseen_rows`, trained on long-tailed Fashion-MNIST and CIFAR-10, each with other classes in the
tail. Every method gets the same 30 held-out images of each class. Scores are read on the test set. Tail orders 0 to 3 and 8 to 13 are
for development, 4 to 7 and 14 to 19 for confirmation. The same command goes on where it was stopped.
"""

from __future__ import annotations

import argparse
import multiprocessing
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from functools import partial
from pathlib import Path
from typing import Any

import torch

from benchmarks import unseen_rows
from benchmarks.unseen_rows import DIAL, HALVES, Bank, Heads, bank_name, make_bank, read_bank, scores
from diversify.files import atomic
from diversify.repair.choose import choose_head
from diversify.repair.fitted import slope_fitted
from diversify.runtime import provenance

RESULTS = Path(__file__).parent / "results" / "objective.jsonl"
SETS = unseen_rows.SETS
ROWS = 30
DEVELOPMENT = (*range(4), *range(8, 14))  # the first eight tail orders were halved before the others were added
CONFIRMATION = (*range(4, 8), *range(14, 20))
OBJECTIVES: Mapping[str, str | float] = {
    "choose_head, mean": "mean",
    "choose_head, 0.5": 0.5,
    "choose_head, worst third": "worst third",
    "choose_head, worst": "worst",
}
CONTROLS: Mapping[str, Callable[[Heads], Any]] = {
    "untouched": lambda heads: heads.bank.head,
    "fitted slope": lambda heads: slope_fitted(heads.unseen, heads.bank.head, heads.prior),
    "worst-class offsets": lambda heads: heads.biased(rounds=DIAL),
    "permuted offsets": lambda heads: heads.biased(rounds=DIAL, permuted=True),
}
METHODS = (*CONTROLS, *OBJECTIVES)


def half_of(order: int) -> str:
    """Return which half a tail order belongs to."""
    return HALVES[int(order not in DEVELOPMENT)]


def run(bank: Bank, methods: Sequence[str] = METHODS) -> Iterator[dict[str, Any]]:
    """Yield the record of each method."""
    heads = Heads(bank, ROWS)
    for name in methods:
        begun, started = provenance.now(), time.perf_counter()
        chosen = name
        if name in CONTROLS:
            head = CONTROLS[name](heads)
        else:
            found = choose_head(
                bank.train, heads.unseen, bank.head, objective=OBJECTIVES[name], unseen="heldout", seed=bank.tail_order
            )
            head, chosen = found.head, f"{found.names[found.recommended]} {found.option(found.recommended)}".strip()
        yield {
            "kind": "final",
            "suite": "objective",
            "data": bank.data,
            "tail_order": bank.tail_order,
            "half": half_of(bank.tail_order),
            "method": name,
            "rows": ROWS,
            "chosen": chosen,
            **scores(bank, head),
            "seconds": round(time.perf_counter() - started, 3),
            "started": begun,
            **provenance.origin(torch.device("cpu")),
        }


def _network(task: tuple[int, int], *, root: Path, banks: Path, results: Path) -> str:
    torch.set_num_threads(1)
    one, order = SETS[task[0]], task[1]
    done = {
        str(record["method"])
        for record in _records(results)
        if (record["data"], record["tail_order"]) == (one.data, order)
    }
    missing = [name for name in METHODS if name not in done]
    path = banks / bank_name(one, order)
    if missing and not path.exists():
        make_bank(one, order, path, root=root)
    if missing:
        for record in run(read_bank(one, order, path), missing):
            atomic.append_jsonl(results, record)
    return f"{one.data}, tail order {order} ({half_of(order)}): {len(missing)} records"


def _records(path: Path | None = None) -> list[dict[str, Any]]:
    path = RESULTS if path is None else path
    return [dict(one) for one in atomic.read_jsonl(path)] if path.exists() else []


def table(half: str = HALVES[1], data: str | None = None) -> str:
    """Return how far each method is ahead of the fitted slope on the same networks."""
    found: dict[str, dict[tuple[str, int], dict[str, float]]] = {}
    for one in _records():
        if one["half"] == half and data in (None, one["data"]):
            values = {name: 100 * float(one[name]) for name in ("balanced_accuracy", "worst", "worst_third")}
            found.setdefault(str(one["method"]), {})[str(one["data"]), int(one["tail_order"])] = values
    base = found.get("fitted slope", {})
    if not base:
        return "No records yet."
    titles = ("balanced accuracy", "worst class", "worst third", "networks ahead, worst class")
    lines = [f"| method | {' | '.join(titles)} |", f"|:--|{'--:|' * len(titles)}"]
    for name in METHODS:
        networks = {key: values for key, values in found.get(name, {}).items() if key in base}
        if not networks:
            continue
        scored = ("balanced_accuracy", "worst", "worst_third")
        if name == "fitted slope":
            cells = [unseen_rows._interval([values[one] for values in networks.values()]) for one in scored]
            cells.append("–")
        else:
            cells = [
                unseen_rows._interval([values[one] - base[key][one] for key, values in networks.items()], sign="+")
                for one in scored
            ]
            cells.append(
                f"{sum(values['worst'] > base[key]['worst'] for key, values in networks.items())} of {len(networks)}"
            )
        lines.append(f"| `{name}` | {' | '.join(cells)} |")
    return "\n".join(lines)


def text() -> str:
    """Return what the records are of."""
    networks = {(one["half"], one["data"], one["tail_order"]) for one in _records()}
    if not networks:
        return "No records yet."
    halves = {half: sum(one[0] == half for one in networks) for half in HALVES}
    sets = {name: sum(one[1] == name for one in networks) for name in sorted({one[1] for one in networks})}
    return (
        f"{len(networks)} networks ({', '.join(f'{name} {size}' for name, size in sets.items())}), each with other classes in the tail:"
        f" {halves['development']} for development, {halves['confirmation']} for confirmation. Points over the fitted slope, whose own"
        f" numbers are in percent, with 95% t intervals over networks, on the test set; {ROWS} held-out images of each class."
    )


def main() -> None:
    """Make the banks and the records that are missing."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--root", type=Path, default=Path("data"))
    parser.add_argument("--banks", type=Path, required=True)
    parser.add_argument("--workers", type=int, default=1)
    parser.add_argument("--half", choices=HALVES, help="only this half; both by default")
    parser.add_argument("--data", choices=[one.data for one in SETS])
    parser.add_argument("--out", type=Path, default=RESULTS)
    options = parser.parse_args()
    options.banks.mkdir(parents=True, exist_ok=True)
    tasks = [
        (place, order)
        for pair in zip(DEVELOPMENT, CONFIRMATION, strict=True)  # a stopped run has as many of both
        for order in pair
        for place, one in enumerate(SETS)
        if options.half in (None, half_of(order)) and options.data in (None, one.data)
    ]
    work = partial(_network, root=options.root, banks=options.banks, results=options.out)
    with multiprocessing.get_context("spawn").Pool(options.workers) as pool:
        for line in pool.imap_unordered(work, tasks):
            print(line, flush=True)
    if options.out == RESULTS:
        print(text(), table(), sep="\n\n")


if __name__ == "__main__":
    main()
