"""The default recipe against its parts, on training images that the long tail leaves out: `benchmarks/results/default_recipe.jsonl`.

    python -m benchmarks.default_recipe --root DATA [--suites fashion_mnist_lt cifar10_lt_short] [--half development|confirmation]

Every method trains once for each assignment of classes to sizes, without the validation set and with its default values; of the suite
`cifar10_lt_short` with the epochs of its trials, and only the two ways of the recipe. `recipe` is the one of these two that is better on
the validation set. All methods but `ldam_drw` and `ce` retrain the head by a plan from counts, half of the way.

The methods are judged by 1,000 training images of each class that the long tail leaves out; the largest class of CIFAR-10 has none left
and is judged on the validation set. The assignments of the suites themselves, and all test images, are not used. Of the assignments
some are for development, the others for confirmation. A network uses one thread: run two halves at once on two cores.
"""

from __future__ import annotations

import argparse
import dataclasses
import time
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from benchmarks import tails
from benchmarks.cifar10_lt_unused import unused
from benchmarks.unseen_rows import HALVES, _interval
from diversify.files import atomic
from diversify.functional import metrics
from diversify.network.cosine_head import SCALE
from diversify.network.embeddings import Embeddings
from diversify.network.linear_head import LinearHead
from diversify.network.split import split_head
from diversify.network.wrappers import evaluating
from diversify.runtime import provenance
from diversify.study.methods import METHODS
from diversify.study.protocol import Method, Protocol, Trained
from diversify.study.suites import CIFAR10_LT_SHORT, FASHION_MNIST_LT
from diversify.study.task import RunImages, load_task
from diversify.study.trial import Run
from diversify.study.tune import defaults
from diversify.training.resident import ResidentImages, features_of

RESULTS = Path(__file__).parent / "results" / "default_recipe.jsonl"
PER_CLASS = 1000
SUITES: Mapping[str, Protocol] = {one.suite: one for one in (FASHION_MNIST_LT, CIFAR10_LT_SHORT)}
ORDERS: Mapping[str, Mapping[str, tuple[int, ...]]] = {  # tail orders that the suites do not have
    "fashion_mnist_lt": {"development": (1, 2, 3), "confirmation": (5, 6, 7)},
    "cifar10_lt_short": {"development": (1,), "confirmation": (2,)},
}
RECIPE = METHODS["recipe"]
ALL_COSINE = dataclasses.replace(RECIPE, cosine_head=SCALE)
ALL_LINEAR = dataclasses.replace(RECIPE, cosine_head=0.0)
WAYS: Mapping[str, tuple[str, Method, str]] = {  # what it is, the method, whether images are augmented
    "full": ("linear head, images augmented and mixed: the first way of the recipe", ALL_LINEAR, "in full"),
    "plain": ("cosine head, images not augmented: the other way", ALL_COSINE, "none"),
    "cosine, full": ("cosine head, images augmented and mixed", ALL_COSINE, "in full"),
    "linear, plain": ("linear head, images not augmented", ALL_LINEAR, "none"),
    "ldam_drw": ("cosine head, margins, deferred reweighting", METHODS["ldam_drw"], ""),
    "ce": ("linear head, cross entropy", METHODS["ce"], ""),
}
OURS = "recipe"
TWO = ("full", "plain")
OF_SUITE: Mapping[str, tuple[str, ...]] = {"fashion_mnist_lt": tuple(WAYS), "cifar10_lt_short": TWO}


@dataclasses.dataclass(frozen=True, kw_only=True)
class Images:
    """The images of one assignment: training, validation, and those that the long tail leaves out."""

    protocol: Protocol
    sides: RunImages
    others: ResidentImages


def images_of(suite: str, order: int, root: str) -> Images:
    """Return the images of an assignment of a suite."""
    protocol = SUITES[suite].model_copy(update={"tail_orders": (str(order),)})
    task = load_task(protocol, root=root, device="cpu")
    return Images(protocol=protocol, sides=task.images(str(order), "val"), others=unused(task, str(order), PER_CLASS))


def recalls(head: LinearHead, side: Embeddings) -> Tensor:
    """Return the recall of every class, `(C,)`; NaN for a class without rows."""
    predicted = head.logits(side.features).argmax(1)
    return metrics.recall(metrics.confusion_matrix(side.labels, predicted, head.num_classes))


def judged(images: Images, name: str) -> dict[str, Any]:
    """Train a method, retrain its head if it says so, and return its recall per class on three sides, and its seconds."""
    started = time.perf_counter()
    protocol, sides = images.protocol, images.sides
    _, method, augment = WAYS[name]
    values = defaults(protocol.space_of(method)) | ({"augment": augment} if augment else {})
    run = Run.start(protocol, sides, method, values, epochs=protocol.epochs_of("val"), seed=0)
    for _ in run.train():
        pass
    split = split_head(run.model)
    with evaluating(run.model), torch.inference_mode():
        head = run.head(split)
        train, val = (run.embeddings(split, head, evaluation=evaluation) for evaluation in (False, True))
        features = features_of(
            split.features, images.others, prepare=sides.view.normalize, precision=protocol.precision
        )
    others = Embeddings.from_arrays(features.cpu().clone(), images.others.labels.cpu(), head=head)
    of_training = recalls(head, train)  # by the head that the network was trained with
    if method.head_step is not None:
        trained = Trained(train=train, heldout=None, head=head, balances=run.balances)
        head = method.head_step(run.setting, values, trained).head
    on_val, on_others = (recalls(head, side) for side in (val, others))
    found = {"recall": on_others.where(~on_others.isnan(), on_val), "recall_val": on_val, "recall_train": of_training}
    rounded = {side: [round(value, 4) for value in one.tolist()] for side, one in found.items()}
    return {**rounded, "seconds": round(time.perf_counter() - started, 1)}


def measure(suite: str, order: int, half: str, root: str, out: Path) -> None:
    """Train and judge every method on one assignment; what is recorded is not made again."""
    done = {one["method"] for one in tails.records_in(out) if (one["suite"], one["order"]) == (suite, order)}
    missing = [name for name in OF_SUITE[suite] if name not in done]
    images = images_of(suite, order, root) if missing else None
    for name in missing:
        assert images is not None
        found = judged(images, name)
        record = {
            "kind": "default_recipe",
            "suite": suite,
            "order": order,
            "half": half,
            "method": name,
            "epochs": images.protocol.epochs_of("val"),
            "class_counts": images.sides.class_counts.tolist(),
            **found,
            "started": provenance.now(),
            **provenance.origin(torch.device("cpu")),
        }
        atomic.append_jsonl(out, record)
        shown = ", ".join(f"{side} {_mean(found[side]):.1%}" for side in ("recall", "recall_val", "recall_train"))
        print(f"{suite} {order}: {name}: {shown}; {found['seconds']:.0f} s", flush=True)


def _found(suite: str, half: str) -> dict[str, dict[int, Mapping[str, Any]]]:
    """The records by method and assignment, with the recipe's choice on the validation set among them."""
    found: dict[str, dict[int, Mapping[str, Any]]] = {}
    for one in tails.records_in(RESULTS, half):
        if one["suite"] == suite:
            found.setdefault(str(one["method"]), {})[int(one["order"])] = one
    first, other = (found.get(name, {}) for name in TWO)
    chosen = {order: max(first[order], other[order], key=_on_val) for order in first if order in other}
    return {OURS: chosen, **found} if chosen else found


def _on_val(record: Mapping[str, Any]) -> float:
    return _mean(record["recall_val"])


def table(suite: str, half: str = HALVES[1]) -> str:
    """Return the balanced accuracy and the worst class of every method on one half of the assignments of a suite."""
    found = _found(suite, half)
    if OURS not in found:
        return "No records yet."
    titles = (
        "balanced accuracy, %",
        f"over `{TWO[0]}`, points",
        "worst class, %",
        "training images, %",
        "validation set, %",
    )
    lines = [f"| method | {' | '.join(titles)} |", f"|:--|{'--:|' * len(titles)}"]
    meanings = {OURS: "the better one on the validation set"} | {
        name: meaning for name, (meaning, _, _) in WAYS.items()
    }
    for name, meaning in meanings.items():
        if name not in found:
            continue
        mine, base = found[name], found[TWO[0]]
        lead = [100 * (_mean(one["recall"]) - _mean(base[order]["recall"])) for order, one in mine.items()]
        cells = (
            _interval([100 * _mean(one["recall"]) for one in mine.values()]),
            "–" if name == TWO[0] else _interval(lead, sign="+"),
            _interval([100 * min(one["recall"]) for one in mine.values()]),
            _interval([100 * _mean(one["recall_train"]) for one in mine.values()]),
            _interval([100 * _on_val(one) for one in mine.values()]),
        )
        title = f"**`{name}`**" if name == OURS else f"`{name}`"
        lines.append(f"| {title}: {meaning} | {' | '.join(cells)} |")
    return "\n".join(lines)


def text() -> str:
    """Return how many assignments the records are of, and how often the validation set chose which way, and rightly."""
    said = []
    for suite in SUITES:
        halves = [_found(suite, half) for half in HALVES]
        if not all(OURS in one for one in halves):
            continue
        counts = [len(one[OURS]) for one in halves]
        chosen = [one for half in halves for one in half[OURS].values()]
        right = sum(
            _mean(one["recall"]) >= max(_mean(half[name][order]["recall"]) for name in TWO)
            for half in halves
            for order, one in half[OURS].items()
        )
        plain = sum(one["method"] == TWO[1] for one in chosen)
        said.append(
            f"`{suite}`: {sum(counts)} assignments, {counts[0]} for development and {counts[1]} for confirmation. The validation set"
            f" chooses the way without augmentation in {plain} of {len(chosen)}, and the better way in {right}."
        )
    return " ".join(said) or "No records yet."


def _mean(values: list[float]) -> float:
    return sum(values) / len(values)


def main() -> None:
    """Measure what the arguments ask for."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--root", default="data")
    parser.add_argument("--suites", nargs="+", choices=[*SUITES], default=[*SUITES])
    parser.add_argument("--half", choices=HALVES, action="append")
    parser.add_argument("--orders", nargs="+", type=int)
    parser.add_argument("--out", type=Path, default=RESULTS)
    options = parser.parse_args()
    torch.set_num_threads(1)
    for suite in options.suites:
        for half in options.half or HALVES:
            orders = [one for one in ORDERS[suite][half] if options.orders is None or one in options.orders]
            for order in orders:
                measure(suite, order, half, options.root, options.out)


if __name__ == "__main__":
    main()
