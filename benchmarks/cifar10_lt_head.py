"""Head repair on long-tailed CIFAR-10: every candidate on frozen ResNet-32 backbones; `benchmarks/results/cifar10_lt_head.jsonl`.

    for run in canonical:0 canonical:1 canonical:2 0:0 1:0; do
      tail=${run%:*} seed=${run#*:}
      diversify train --data cifar10 --root DATA --imbalance exp:100 --tail-order $tail --seed $seed --holdout 0.2 \\
        --model resnet32 --epochs 200 --precision bf16 --out runs/$tail-$seed
      diversify diagnose --root DATA --weights runs/$tail-$seed/model.safetensors --out runs/$tail-$seed-diagnosis
    done
    python -m benchmarks.cifar10_lt_head runs/*-diagnosis --root DATA [--seeds 5] [--test | --ceiling]

Without `--test` only the held-out images are read, and nothing is recorded: so rules are developed. With it, every choice
is made first; then the test images are read once per backbone and one record per candidate and head seed is appended. The
Last, `--ceiling` records what a head fitted on balanced test features reaches, cross-fitted: to be read only, as the bound of
what any head could do on these backbones. The
candidates are those of `diversify remedy`, each with the option that its held-out folds choose, and beside them the plan
that a permuted diagnosis makes, another permutation for every head seed.
"""

from __future__ import annotations

import argparse
import dataclasses
import math
import time
from collections.abc import Mapping, Sequence
from pathlib import Path
from statistics import mean, stdev
from typing import Any

import torch
from scipy.stats import t as student

from diversify import origin, storage
from diversify.data import make_loader
from diversify.diagnosis import Diagnosis
from diversify.embeddings import Embeddings
from diversify.extraction import extract
from diversify.functional import ceiling, counts
from diversify.head_choice import Candidate, HeadChoice, choose_head, default_candidates
from diversify.heads import split_head
from diversify.plan import Plan, make_plan
from diversify.runs import load_diagnosed
from diversify.runs.diagnose import load_trained
from diversify.runs.options import DataOptions

RESULTS = Path(__file__).parent / "results" / "cifar10_lt_head.jsonl"
SUITE = "cifar10_lt_head"
OURS, PERMUTED = "plan", "plan from a permuted diagnosis"
BOUND = "bound: fitted on test features"
GROUPS = ("largest third", "middle third", "smallest third")


def candidates(diagnosis: Diagnosis, train: Embeddings, head: Any, seed: int) -> tuple[Candidate, ...]:
    """Those of `diversify remedy`, and the plan of a permuted diagnosis as one more."""
    counted = Plan.from_counts(diagnosis.class_names, diagnosis["count"].long())
    listed = default_candidates(train, head, plan=make_plan(diagnosis), counted=counted)
    wrong = default_candidates(train, head, plan=make_plan(diagnosis.permuted(seed)))[-1]
    return (*listed, dataclasses.replace(wrong, name=PERMUTED, meaning="As the plan, from measures of other classes."))


def test_embeddings(record: Mapping[str, Any], root: str) -> tuple[Embeddings, list[int]]:
    """Features of the test images, from the backbone of a diagnosis; and the training images per class."""
    data_record = record["data"]
    options = DataOptions(
        root=root, **{name: data_record[name] for name in ("spec", "imbalance", "tail_order", "holdout")}
    )
    data = options.load(measure_view=False)
    network = load_trained(record["model"]["name"], Path(record["weights"]["path"]), data.num_classes, 3)
    if data.test is None or data.test.digest() != data_record["splits"]["test"]["digest"]:
        raise SystemExit("the test images are not those of the record")
    split = split_head(network, record["model"]["head"])
    class_counts = counts.class_counts(data.train.labels, data.num_classes).tolist()
    return extract(split, make_loader(data.test, data.view, batch_size=512)), class_counts


def recall_of(head: Any, embeddings: Embeddings) -> list[float]:
    """`(C,)` recall of a head on embeddings."""
    right = head.logits(embeddings.features).argmax(1) == embeddings.labels
    return counts.class_mean(right.double(), embeddings.labels, embeddings.num_classes).tolist()


def choices(folder: Path, seeds: int) -> tuple[dict[str, Any], list[tuple[HeadChoice, float]]]:
    """What the held-out folds choose, for every head seed, and the seconds that took."""
    diagnosis, model, record = load_diagnosed(folder)
    made = []
    for seed in range(seeds):
        started = time.perf_counter()
        listed = candidates(diagnosis, model.train, model.head, seed)
        made.append(
            (choose_head(model.train, model.heldout, model.head, listed, seed=seed), time.perf_counter() - started)
        )
        accuracy = made[-1][0].columns["balanced_accuracy"]
        told = ", ".join(f"{n} {100 * float(a):.1f}" for n, a in zip(made[-1][0].names, accuracy, strict=True))
        print(f"{folder.name}, head seed {seed}, held out: {told}", flush=True)
    return record, made


def finals(
    folder: Path, record: Mapping[str, Any], made: Sequence[tuple[HeadChoice, float]], root: str
) -> list[dict[str, Any]]:
    """One record per candidate and head seed, from one reading of the test images."""
    test, class_counts = test_embeddings(record, root)
    found = []
    for seed, (choice, seconds) in enumerate(made):
        for place, (name, head) in enumerate(zip(choice.names, choice.heads, strict=True)):
            recall = recall_of(head, test)
            found.append(
                {
                    "kind": "final",
                    "suite": SUITE,
                    "method": name,
                    "seed": seed,
                    "split": "test",
                    "balanced_accuracy": mean(recall),
                    "recall": recall,
                    "balanced_accuracy_heldout": float(choice.columns["balanced_accuracy"][place]),
                    "params": {"option": choice.option(place)},
                    "seconds_of_choice": round(seconds, 2),
                    **_of_the_backbone(record, class_counts),
                }
            )
    return found


def bound(folder: Path, root: str) -> dict[str, Any]:
    """The record of a head fitted on balanced test features, each image by a head that did not see it."""
    record = load_diagnosed(folder)[2]
    test, class_counts = test_embeddings(record, root)
    predicted = ceiling.cross_fitted_predictions(test.features, test.labels, test.num_classes, seed=0)
    recall = counts.class_mean((predicted == test.labels).double(), test.labels, test.num_classes).tolist()
    return {
        "kind": "ceiling",
        "suite": SUITE,
        "method": BOUND,
        "seed": 0,
        "split": "test",
        "balanced_accuracy": mean(recall),
        "recall": recall,
        **_of_the_backbone(record, class_counts),
    }


def _of_the_backbone(record: Mapping[str, Any], class_counts: list[int]) -> dict[str, Any]:
    return {
        "backbone": record["training"]["seed"],
        "epochs": record["training"]["recipe"]["epochs"],
        "weights": record["weights"]["sha256"],
        "class_counts": class_counts,
        "tail_order": record["data"]["tail_order"],
        "started": origin.now(),
        **origin.origin(torch.device("cpu")),
    }


# The tables


def finished() -> list[dict[str, Any]]:
    """Every record of the suite."""
    return [one for one in storage.read_jsonl(RESULTS) if one["suite"] == SUITE]


def _groups(record: Mapping[str, Any]) -> list[float]:
    thirds = counts.count_thirds(torch.tensor(record["class_counts"]))
    recall = torch.tensor(record["recall"], dtype=torch.float64)
    return [float(recall[thirds == place].mean()) for place in range(3)]


def _backbones(records: Sequence[Mapping[str, Any]]) -> list[tuple[str, int]]:
    return list(dict.fromkeys((str(one["tail_order"]), int(one["backbone"])) for one in records))


def _interval(values: Sequence[float]) -> str:
    if len(values) < 2:
        return ""
    half = float(student.ppf(0.975, len(values) - 1)) * stdev(values) / math.sqrt(len(values))
    return f" ± {half:.1f}"


def table() -> str:
    """Balanced test accuracy of every candidate, and how far the plan is ahead, over backbones."""
    records = finished()
    if not records:
        return "No records yet."
    backbones, methods = _backbones(records), list(dict.fromkeys(str(one["method"]) for one in records))

    def per_backbone(method: str, pick: Any) -> list[float]:
        return [
            100
            * mean(
                pick(one)
                for one in records
                if one["method"] == method and (str(one["tail_order"]), int(one["backbone"])) == backbone
            )
            for backbone in backbones
        ]

    ours = per_backbone(OURS, lambda one: one["balanced_accuracy"])
    rows = [
        f"| candidate | balanced accuracy, % | plan ahead by, points | {' | '.join(GROUPS)} |",
        f"|:--|--:|--:|{'--:|' * len(GROUPS)}",
    ]
    order = sorted(methods, key=lambda name: mean(per_backbone(name, lambda one: one["balanced_accuracy"])))
    for method in order:
        accuracy = per_backbone(method, lambda one: one["balanced_accuracy"])
        ahead = [one - other for one, other in zip(ours, accuracy, strict=True)]
        groups = [mean(per_backbone(method, lambda one, p=place: _groups(one)[p])) for place in range(3)]
        lead = (
            "–"
            if method == OURS
            else f"{mean(ahead):+.1f}{_interval(ahead)} ({sum(one > 0 for one in ahead)} of {len(ahead)})"
        )
        name = f"**{method}**" if method == OURS else method
        rows.append(f"| {name} | {mean(accuracy):.1f} | {lead} | {' | '.join(f'{one:.1f}' for one in groups)} |")
    return "\n".join(rows)


def text() -> str:
    """Where the records come from, in a sentence."""
    records = finished()
    if not records:
        return "No records yet."
    backbones = _backbones(records)
    seeds = len({one["seed"] for one in records if one["kind"] == "final"})
    tails = ", ".join(f"tail {tail} seed {seed}" for tail, seed in backbones)
    return (
        f"{len(backbones)} backbones ({tails}; ResNet-32, {records[0]['epochs']} epochs, ratio 100, a fifth held out),"
        f" {seeds} head seeds each; means over seeds, then over backbones, with 95% t intervals over backbones and on how"
        " many of them the plan is ahead."
    )


def main() -> None:
    """Choose for every folder; with --test read the test images once each and append the records."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("folders", nargs="+", type=Path)
    parser.add_argument("--root", default="data")
    parser.add_argument("--seeds", type=int, default=5)
    parser.add_argument("--test", action="store_true")
    parser.add_argument("--ceiling", action="store_true")
    options = parser.parse_args()
    if options.ceiling:
        kept = storage.read_jsonl(RESULTS) if RESULTS.exists() else []
        storage.write_jsonl(RESULTS, [*kept, *(bound(folder, options.root) for folder in options.folders)])
        return
    chosen = [(folder, *choices(folder, options.seeds)) for folder in options.folders]
    if options.test:
        new = [one for folder, record, made in chosen for one in finals(folder, record, made, options.root)]
        storage.write_jsonl(RESULTS, [*(storage.read_jsonl(RESULTS) if RESULTS.exists() else []), *new])
        print(text(), table(), sep="\n")


if __name__ == "__main__":
    main()
