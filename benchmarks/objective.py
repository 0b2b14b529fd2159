"""The objectives of `choose_head` on twenty long tails of each of two data sets: `benchmarks/results/objective.jsonl`.

    python -m benchmarks.objective --root DATA --banks DIR [--workers 2] [--half development|confirmation]

The networks are those of `benchmarks.unseen_rows`, trained on long-tailed Fashion-MNIST and CIFAR-10, each with other classes in the
tail. Every method gets the same 30 held-out images of each class. Scores are read on the test set. Tail orders 0 to 3 and 8 to 13
are for development, 4 to 7 and 14 to 19 for confirmation. The same command goes on where it was stopped.
"""

from __future__ import annotations

import dataclasses
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

import torch

from benchmarks import tails, unseen_rows
from benchmarks.unseen_rows import DIAL, HALVES, Bank, Heads, bank_name, half_of, make_bank, read_bank, scores
from diversify.files import atomic
from diversify.repair.choose import choose_head
from diversify.repair.fitted import slope_fitted
from diversify.runtime import provenance

RESULTS = Path(__file__).parent / "results" / "objective.jsonl"
SETS = tuple(dataclasses.replace(one, added=12) for one in unseen_rows.SETS)
ROWS = 30
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
            "half": bank.half,
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
        for record in tails.records_in(results)
        if (record["data"], record["tail_order"]) == (one.data, order)
    }
    missing = [name for name in METHODS if name not in done]
    path = banks / bank_name(one, order)
    if missing and not path.exists():
        make_bank(one, order, path, root=root)
    if missing:
        for record in run(read_bank(one, order, path), missing):
            atomic.append_jsonl(results, record)
    return f"{one.data}, tail order {order} ({half_of(one, order)}): {len(missing)} records"


def table(half: str = HALVES[1], data: str | None = None) -> str:
    """Return how far each method is ahead of the fitted slope on the same networks."""
    found: dict[str, dict[tuple[str, int], dict[str, float]]] = {}
    for one in tails.records_in(RESULTS, half):
        if data in (None, one["data"]):
            found.setdefault(str(one["method"]), {})[str(one["data"]), int(one["tail_order"])] = tails.percent(one)
    base = found.get("fitted slope", {})
    if not base:
        return "No records yet."
    titles = (*tails.SCORES.values(), "networks ahead, worst class")
    lines = [f"| method | {' | '.join(titles)} |", f"|:--|{'--:|' * len(titles)}"]
    for name in METHODS:
        networks = {key: values for key, values in found.get(name, {}).items() if key in base}
        if not networks:
            continue
        if name == "fitted slope":
            cells = [*tails.means(networks), "–"]
        else:
            ahead = sum(values["worst"] > base[key]["worst"] for key, values in networks.items())
            cells = [*tails.differences(networks, base), f"{ahead} of {len(networks)}"]
        lines.append(f"| `{name}` | {' | '.join(cells)} |")
    return "\n".join(lines)


def text() -> str:
    """Return what the records are of."""
    records = tails.records_in(RESULTS)
    if not records:
        return "No records yet."
    return (
        f"{tails.networks_text(records)} Points over the fitted slope, whose own numbers are in percent, with 95% t intervals over networks,"
        f" on the test set; {ROWS} held-out images of each class."
    )


def main() -> None:
    """Make the banks and the records that are missing."""
    chosen = tails.options(__doc__, SETS, RESULTS, banks=True)
    tails.every_network(_network, SETS, chosen)
    if chosen.out == RESULTS:
        print(text(), table(), sep="\n\n")


if __name__ == "__main__":
    main()
