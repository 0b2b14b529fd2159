"""The default recipe against its parts, on training images that the long tail leaves out: `benchmarks/results/default_recipe.jsonl`.

    python -m benchmarks.default_recipe --root DATA [--suites fashion_mnist_lt cifar10_lt_short] [--half development|confirmation]

Every method trains once for each assignment of classes to sizes, without a validation set and with its default values; of the suite
`cifar10_lt_short` with the epochs of its trials. `never` is balanced softmax on a cosine head, `always` the same with images augmented
and mixed in full; `recipe` is `dv.recipe` after a diagnosis of the network of `never` on the validation set. These three, and
`balanced_softmax+images+mix+head`, retrain the head by a plan from counts, half of the way, as in a study.

The methods are judged by 1,000 training images of each class that the long tail leaves out; the largest class of CIFAR-10 has none left
and is judged on the validation set. The assignments of the suites themselves, and all test images, are not used. Of the assignments
the first half is for development, the other half for confirmation. Run two halves at once for two cores: a network uses one thread.
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
from diversify.plan.plan import Plan
from diversify.runtime import provenance
from diversify.study.methods import METHODS, method_named, with_images, with_mix
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
    "fashion_mnist_lt": {"development": (1, 2, 3, 4), "confirmation": (5, 6, 7, 8)},
    "cifar10_lt_short": {"development": (1, 2), "confirmation": (3, 4)},
}
RECIPE = METHODS["recipe"]
COSINE = dataclasses.replace(METHODS["balanced_softmax"], name="cosine", cosine_head=SCALE)
ALWAYS = dataclasses.replace(with_mix(with_images(COSINE)), head_step=RECIPE.head_step, space={})


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


def recalls(head: LinearHead, side: Embeddings, num_classes: int) -> Tensor:
    """Return the recall of every class, `(C,)`; NaN for a class without rows."""
    return metrics.recall(metrics.confusion_matrix(side.labels, head.logits(side.features).argmax(1), num_classes))


@dataclasses.dataclass(frozen=True, kw_only=True)
class Judged:
    """A method's recall per class on three sides, what its head step passes on, and its seconds."""

    unused: list[float]
    val: list[float]
    train: list[float]
    carry: Any
    seconds: float


def judged(images: Images, method: Method, carried: Any = None) -> Judged:
    """Train a method, retrain its head if it says so, and judge it."""
    started = time.perf_counter()
    protocol, sides = images.protocol, images.sides
    values = {**defaults(protocol.space_of(method)), "image_strength": 0.6, "mix_probability": 0.5, "head_share": 0.5}
    run = Run.start(protocol, sides, method, values, epochs=protocol.epochs_of("val"), seed=0, carried=carried)
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
    trained_recall = recalls(head, train, head.num_classes)  # of the head that the network was trained with
    carry = None
    if method.head_step is not None:
        trained = Trained(train=train, heldout=val, head=head, balances=run.balances, carried=carried)
        step = method.head_step(run.setting, values, trained)
        head, carry = step.head, step.carry
    on_val, on_others = (recalls(head, side, head.num_classes) for side in (val, others))
    return Judged(
        unused=on_others.where(~on_others.isnan(), on_val).tolist(),
        val=on_val.tolist(),
        train=trained_recall.tolist(),
        carry=carry,
        seconds=time.perf_counter() - started,
    )


def measure(suite: str, order: int, half: str, root: str, out: Path) -> None:
    """Train and judge every method on one assignment; what is recorded is not made again."""
    done = {one["method"] for one in tails.records_in(out) if (one["suite"], one["order"]) == (suite, order)}
    if len(done) == len(NAMES):
        return
    images = images_of(suite, order, root)

    def keep(name: str, found: Judged, **more: Any) -> None:
        record = {
            "kind": "default_recipe",
            "suite": suite,
            "order": order,
            "half": half,
            "method": name,
            "epochs": images.protocol.epochs_of("val"),
            "class_counts": images.sides.class_counts.tolist(),
            "recall": [round(value, 4) for value in found.unused],
            "recall_val": [round(value, 4) for value in found.val],
            "recall_train": [round(value, 4) for value in found.train],
            "seconds": round(found.seconds, 1),
            **more,
            "started": provenance.now(),
            **provenance.origin(torch.device("cpu")),
        }
        atomic.append_jsonl(out, record)
        print(
            f"{suite} {order}: {name} {_mean(found.unused):.1%}, lowest {min(found.unused):.1%}; {found.seconds:.0f} s",
            flush=True,
        )

    for name in NAMES:
        if name in done:
            continue
        if name == "recipe":
            pilot = judged(images, RECIPE)
            if "never" not in done:
                keep("never", pilot)
            plan = Plan.from_dict(pilot.carry["plan"])
            first = plan.classes[0]
            kept = first.image.probability / 0.9
            gap = _mean(pilot.train) - _mean(pilot.val)
            more = {"gap": round(gap, 4), "share": round(kept, 4)}
            made = judged(images, RECIPE, pilot.carry) if kept else pilot
            keep(name, made, **more)
        else:
            method = ALWAYS if name == "always" else method_named(name)
            keep(name, judged(images, method))


NAMES: Mapping[str, str] = {
    "recipe": "cosine head, prior corrected, images as far as `never` overfits, head step",
    "never": "the same without augmentation and mixing",
    "always": "the same with augmentation and mixing in full",
    "balanced_softmax+images+mix+head": "as `always`, on a linear head",
    "balanced_softmax": "linear head, prior corrected",
    "ldam_drw": "cosine head, margins and deferred reweighting",
    "ce": "linear head, cross entropy",
}
OURS, CONTROL = "recipe", "balanced_softmax+images+mix+head"


def table(suite: str, half: str = HALVES[1]) -> str:
    """Return the balanced accuracy and the worst class of every method on one half of the assignments of a suite."""
    found: dict[str, dict[int, Mapping[str, Any]]] = {}
    for one in tails.records_in(RESULTS, half):
        if one["suite"] == suite:
            found.setdefault(str(one["method"]), {})[int(one["order"])] = one
    if not found:
        return "No records yet."
    titles = ("balanced accuracy, %", f"over `{CONTROL}`, points", "worst class, %", "recall on training images, %")
    lines = [f"| method | {' | '.join(titles)} |", f"|:--|{'--:|' * len(titles)}"]
    for name, meaning in NAMES.items():
        if name not in found:
            continue
        mine, base = found[name], found.get(CONTROL, {})
        lead = [
            100 * (_mean(one["recall"]) - _mean(base[order]["recall"])) for order, one in mine.items() if order in base
        ]
        cells = (
            _interval([100 * _mean(one["recall"]) for one in mine.values()]),
            "–" if name == CONTROL or not lead else _interval(lead, sign="+"),
            _interval([100 * min(one["recall"]) for one in mine.values()]),
            _interval([100 * _mean(one["recall_train"]) for one in mine.values()]),
        )
        title = f"**`{name}`**" if name == OURS else f"`{name}`"
        lines.append(f"| {title}: {meaning} | {' | '.join(cells)} |")
    return "\n".join(lines)


def text() -> str:
    """Return how many assignments the records are of, and how far the recipe augments on each suite."""
    records = [one for one in tails.records_in(RESULTS) if one["method"] == OURS]
    if not records:
        return "No records yet."
    said = []
    for suite in SUITES:
        own = [one for one in records if one["suite"] == suite]
        if own:
            gaps, shares = [100 * float(one["gap"]) for one in own], [float(one["share"]) for one in own]
            low, high = min(shares), max(shares)
            kept = f"{low:.0%}" if low == high else f"{low:.0%} to {high:.0%}"
            said.append(
                f"`{suite}`, {len(own)} assignments ({sum(one['half'] == HALVES[0] for one in own)} for development): without"
                f" augmentation, mean recall on training images is {min(gaps):.0f} to {max(gaps):.0f} points above that on the validation"
                f" set, so the recipe keeps {kept} of its augmentation and mixing."
            )
    return " ".join(said)


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
