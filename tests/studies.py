"""Records of studies for tests: accuracies by method and seed, and everything else plain."""

from collections.abc import Mapping, Sequence
from typing import Any

from diversify.study.records import Record

TIME_FIELDS = (
    *("seconds", "seconds_shared", "images_per_second", "peak_memory", "started"),
    *("device", "versions", "commit", "workers"),
)
"""Fields that may differ between two records of the same run."""

COUNTS = [400, 200, 90, 50, 12, 6]
VAL = {"ce": 0.50, "focal": 0.55, "vs": 0.58, "balanced_softmax": 0.60, "vs+images": 0.66, "diversify": 0.68}
TEST = {"ce": 0.52, "focal": 0.56, "vs": 0.63, "balanced_softmax": 0.61, "vs+images": 0.65, "diversify": 0.70}
WOBBLE = (0.0, 0.011, -0.007, 0.004, -0.002, 0.009, 0.013, -0.011)


def wobble(method: str, seed: int) -> float:
    """A small number, another for every method and seed."""
    return WOBBLE[(3 * seed + sum(map(ord, method))) % len(WOBBLE)] + 0.001 * seed


def same_but_for_time(one: Record, other: Record) -> bool:
    """Whether two records agree in everything but when, where and how fast they were made."""
    return one.model_dump(exclude=set(TIME_FIELDS)) == other.model_dump(exclude=set(TIME_FIELDS))


def origin(suite: str) -> dict[str, Any]:
    return {
        "suite": suite,
        "device": "cpu (2 threads)",
        "versions": {"python": "3.12", "torch": "2.14"},
        "commit": "abc",
        "protocol": f"digest of {suite}",
        "workers": 1,
        "tail_order": "canonical",
        "started": "2026-01-01T00:00:00+00:00",
    }


def final(
    method: str,
    seed: int,
    accuracy: float | None = None,
    *,
    suite: str = "short",
    counts: Sequence[int] = COUNTS,
    inside: Mapping[str, Any] | None = None,
    **others: Any,
) -> dict[str, Any]:
    accuracy = TEST[method] + wobble(method, seed) if accuracy is None else accuracy
    rank = sorted(range(len(counts)), key=lambda c: (-counts[c], c))
    spread = {c: accuracy + 0.02 * (len(counts) - 1 - 2 * place) for place, c in enumerate(rank)}
    return {
        "kind": "final",
        "method": method,
        "seed": seed,
        "split": "test",
        "number": None,
        "state": "complete",
        "balanced_accuracy": accuracy,
        "recall": [spread[c] for c in range(len(counts))],
        "class_counts": list(counts),
        "macro_f1": accuracy - 0.01,
        "g_mean": accuracy - 0.02,
        "ece": 0.1,
        "params": {"learning_rate": 0.1},
        "epochs": 30,
        "seconds": 20.0 + seed,
        "seconds_shared": 10.0 + seed,
        "images_per_second": 1000.0,
        "peak_memory": None,
        "curve": [],
        "inside": inside or {},
        "carried": None,
        **origin(suite),
        **others,
    }


def trial(method: str, number: int, accuracy: float | None, *, suite: str = "short", **others: Any) -> dict[str, Any]:
    return {
        "kind": "trial",
        "method": method,
        "seed": 0,
        "split": "val",
        "number": number,
        "state": "complete",
        "balanced_accuracy": accuracy,
        "recall": None,
        "class_counts": COUNTS,
        "params": {"learning_rate": 0.1 if number == 1 else 0.03},
        "epochs": 30,
        "seconds": 20.0,
        "seconds_shared": 10.0,
        "peak_memory": None,
        "inside": {},
        **origin(suite),
        **others,
    }


def study(
    methods: Sequence[str] = tuple(TEST), seeds: Sequence[int] = (0, 1, 2), *, suite: str = "short"
) -> list[dict[str, Any]]:
    """Three trials of each method, of which the middle one is chosen and the last is pruned, and a final per seed."""
    found = []
    for method in methods:
        found += [trial(method, number, VAL[method] - 0.02 + 0.02 * number, suite=suite) for number in range(2)]
        found.append(trial(method, 2, 0.99, suite=suite, state="pruned", epochs=10))
        found += [final(method, seed, suite=suite) for seed in seeds]
    return found


def on_backbones(records: Sequence[dict[str, Any]], number: int) -> list[dict[str, Any]]:
    """The same with the seeds going through so many frozen networks in turn."""
    return [
        {**one, "inside": {**one["inside"], "backbone": f"net-{one['seed'] % number}", "weights": "5a3a"}}
        if one["kind"] == "final"
        else one
        for one in records
    ]
