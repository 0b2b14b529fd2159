"""Record the runs that training by a plan was developed with: `benchmarks/results/cifar10_lt_development.jsonl`.

    diversify train --data cifar10 --root DATA --imbalance exp:100 --tail-order TAIL --holdout 0.2 --model resnet32 \
      --epochs 100 --precision bf16 --plan PLAN.json --out runs/NAME
    python -m benchmarks.cifar10_lt_development runs/NAME ...

Append one record per folder, for the last epoch that it reached. Only the validation set was read. Nothing here is a result:
the records show the budget that was spent on the defaults of `Strengths`.
"""

from __future__ import annotations

import sys
from pathlib import Path
from typing import Any

from diversify.files import atomic
from diversify.plan.plan import Plan

RESULTS = Path(__file__).parent / "results" / "cifar10_lt_development.jsonl"


def record(folder: Path) -> dict[str, Any]:
    """Return a run of `diversify train` as a trial."""
    run = atomic.read_json(folder / "run.json", "run.json")
    epochs = atomic.read_jsonl(folder / "metrics.jsonl")
    plan = Plan.from_dict(atomic.read_json(folder / "plan.json", "plan.json"))
    last, rarest = epochs[-1], min(plan.classes, key=lambda one: one.count)
    return {
        "kind": "trial",
        "suite": "cifar10_lt_development",
        "method": folder.name,
        "seed": run["seed"],
        "split": "val",
        "balanced_accuracy": last["balanced_accuracy_val"],
        "recall": last["recall_val"],
        "params": {
            "made_from": plan.made_from,
            "prior_correction": plan.prior_correction.model_dump(),
            "schedule": plan.schedule.model_dump(),
            "rarest_class_draws": rarest.draws,
            "rarest_class_image": rarest.image.model_dump(mode="json"),
            "rarest_class_features": [one.model_dump(mode="json") for one in rarest.features],
        },
        "epochs": last["epoch"] + 1,
        "epochs_planned": run["recipe"]["epochs"],
        "finished": run["finished"],
        "seconds": sum(one["seconds"] for one in epochs),
        "tail_order": run["data"]["tail_order"],
        **{name: run.get(name) for name in ("versions", "commit", "device", "started")},
    }


if __name__ == "__main__":
    kept = atomic.read_jsonl(RESULTS) if RESULTS.exists() else []
    atomic.write_jsonl(RESULTS, [*kept, *(record(Path(folder)) for folder in sys.argv[1:])])
