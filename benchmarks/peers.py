"""Time the library beside what a user would use instead, in one process: `benchmarks/results/peers.jsonl`.

    pip install -e ".[peers]"
    python -m benchmarks.peers [smote] [borderline_smote] [adasyn] ...

Both sides run in turn on the same data, on one thread, seven times after a warm-up. The ratio is taken pair by pair. A package that is
not installed is skipped by name. Rows without an equivalent on one side say so, and so does a row in which the library is behind.
About three minutes on a core with nothing else on it.
"""

from __future__ import annotations

import importlib.metadata
import os
import statistics
import sys
import warnings
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

os.environ["NO_ALBUMENTATIONS_UPDATE"] = "1"

import numpy as np
import torch
from threadpoolctl import threadpool_limits

from benchmarks.overhead import VIEW, long_tailed, noise_images, paired
from diversify.augment.batches import BatchAugmenter
from diversify.augment.oversampler import DiversifyOverSampler
from diversify.data.duplicates import find_duplicates
from diversify.data.loader import Split, make_loader
from diversify.diagnosis.label_errors import find_label_errors
from diversify.diagnosis.near_copies import find_near_copies
from diversify.files import atomic
from diversify.functional import draws
from diversify.functional.label_errors import suspect_labels
from diversify.functional.neighbors import nearest_neighbors
from diversify.network.extraction import extract
from diversify.network.networks import build_model
from diversify.network.split import split_head
from diversify.plan.policies import ImagePolicy
from diversify.repair.fit_head import WEIGHT_DECAY, fit_head
from diversify.runtime import provenance

RESULTS = Path(__file__).parent / "results" / "peers.jsonl"
_Pair = tuple[Callable[[], Any], Callable[[], Any]]
BATCH = 128
RANDAUGMENT = (
    *("shear_x", "shear_y", "translate_x", "translate_y", "rotate", "brightness", "saturation", "contrast"),
    *("sharpness", "posterize", "solarize", "autocontrast", "equalize"),
)


@dataclass(frozen=True, kw_only=True)
class Row:
    """One comparison.

    Attributes:
        peer: Name of the package, as in a package index.
        what: Both sides, in words.
        sides: Makes the two calls, ours first; None if one side has no equivalent, and `why` says which.
        why: Why the library is behind, or why there is no comparison.
    """

    peer: str
    what: str
    sides: Callable[[], _Pair] | None
    why: str = ""


def _table() -> tuple[np.ndarray[Any, Any], np.ndarray[Any, Any]]:
    _, train, _ = long_tailed()
    return train.features.numpy(), train.labels.numpy()


def _smote() -> _Pair:
    from imblearn.over_sampling import SMOTE

    rows, labels = _table()
    return (
        lambda: DiversifyOverSampler("smote", random_state=0).fit_resample(rows, labels),
        lambda: SMOTE(random_state=0).fit_resample(rows, labels),
    )


def _borderline_smote() -> _Pair:
    from imblearn.over_sampling import BorderlineSMOTE

    rows, labels = _table()
    return (
        lambda: DiversifyOverSampler("borderline_smote", random_state=0).fit_resample(rows, labels),
        lambda: BorderlineSMOTE(random_state=0).fit_resample(rows, labels),
    )


def _augmenter(policy: ImagePolicy, images: torch.Tensor, labels: torch.Tensor) -> Callable[[], Any]:
    from benchmarks.remedies import _image_plan

    augment = BatchAugmenter(_image_plan(policy))

    def work() -> None:
        for rows in draws.permutation(len(images), "order").split(BATCH):
            augment(images.index_select(0, rows), labels.index_select(0, rows))

    return work


def _albumentations() -> _Pair:
    from benchmarks import remedies

    data = remedies._smooth_images(1024)
    loader = remedies._by_albumentations(data, 0, BATCH)
    return _augmenter(remedies.VARIED, data.images, data.targets), lambda: remedies._through(loader)


def _randaugment() -> ImagePolicy:
    return ImagePolicy(operations=RANDAUGMENT, layers=2, strength=0.3, probability=0.9)


def _torchvision() -> _Pair:
    from torchvision.transforms import v2

    from benchmarks.remedies import _smooth_images

    data = _smooth_images(1024)
    theirs = v2.RandAugment(num_ops=2, magnitude=9)

    def bare() -> None:
        for rows in draws.permutation(len(data), "order").split(BATCH):
            torch.stack([theirs(data.images[row]) for row in rows.tolist()])

    return _augmenter(_randaugment(), data.images, data.targets), bare


def _kornia() -> _Pair:
    from kornia.augmentation.auto import RandAugment

    from benchmarks.remedies import _smooth_images

    data = _smooth_images(1024)
    theirs = RandAugment(n=2, m=9)

    def bare() -> None:
        for rows in draws.permutation(len(data), "order").split(BATCH):
            theirs(data.images.index_select(0, rows).float() / 255)

    return _augmenter(_randaugment(), data.images, data.targets), bare


def _extraction() -> tuple[Any, Any, Callable[[], Any]]:
    """A network of which features are taken, its loader, and `extract`."""
    data = noise_images(512)
    split = Split(dataset=data, labels=data.targets, indices=torch.arange(len(data)), origin="source", source="train")
    loader = make_loader(split, VIEW)
    model = build_model("resnet32", 10).eval()
    parts = split_head(model)
    return model, loader, lambda: extract(parts, loader)


def _captum() -> _Pair:
    from captum.attr import LayerActivation

    model, loader, ours = _extraction()
    layer = LayerActivation(model, split_head(model).head)

    def bare() -> None:
        with torch.inference_mode():
            torch.cat([layer.attribute(images, attribute_to_layer_input=True) for images, _ in loader])

    return ours, bare


def _grad_cam() -> _Pair:
    from pytorch_grad_cam.activations_and_gradients import ActivationsAndGradients

    model, loader, ours = _extraction()
    before = [module for module in model.modules() if not list(module.children())][-2]  # its output enters the head

    def bare() -> None:
        taken = ActivationsAndGradients(model, [before], None)
        found = []
        with torch.inference_mode():
            for images, _ in loader:
                taken(images)
                found.append(taken.activations[0])
        taken.release()
        torch.cat(found)

    return ours, bare


def _cleanlab_suspects() -> _Pair:
    from cleanlab.filter import find_label_issues

    _, train, _ = long_tailed()
    given = train.logits.double().softmax(1)
    numbers, labels = given.numpy(), train.labels.numpy()
    return (
        lambda: suspect_labels(given, train.labels),
        lambda: find_label_issues(
            labels, numbers, filter_by="confident_learning", return_indices_ranked_by="normalized_margin", n_jobs=1
        ),
    )


def _cleanlab_label_errors() -> _Pair:
    from cleanlab.classification import CleanLearning
    from sklearn.linear_model import LogisticRegression

    rows, labels = _table()
    return (
        lambda: find_label_errors(rows, labels),
        lambda: CleanLearning(LogisticRegression(), cv_n_folds=5).find_label_issues(rows, labels),
    )


def _cleanlab_copies() -> _Pair:
    from cleanlab import Datalab

    _, train, _ = long_tailed()
    rows, labels = train.features.numpy(), train.labels.numpy()

    def bare() -> None:
        Datalab({"label": labels}, label_name="label", verbosity=0).find_issues(
            features=rows, issue_types={"near_duplicate": {}}
        )

    return lambda: find_near_copies(train), bare


def _dataeval_copies() -> _Pair:
    from dataeval.flags import ImageStats
    from dataeval.quality import Duplicates

    data = noise_images(4096)
    halves = [
        Split(dataset=data, labels=data.targets, indices=rows, origin="source", source="train")
        for rows in torch.arange(len(data)).split(2048)
    ]
    images = list(data.images.numpy())
    return (
        lambda: find_duplicates(halves[0], halves[1]),
        lambda: Duplicates(flags=ImageStats.HASH_XXHASH).evaluate(images),
    )


def _logistic_regression() -> _Pair:
    from sklearn.linear_model import LogisticRegression

    rows, labels = _table()
    scaled = rows / np.sqrt(np.square(rows.astype(np.float64)).mean()).astype(np.float32)
    theirs = LogisticRegression(C=1 / (WEIGHT_DECAY * len(rows)), max_iter=200)
    return lambda: fit_head(rows, labels, 10), lambda: theirs.fit(scaled, labels)


def _faiss() -> _Pair:
    import faiss

    _, train, _ = long_tailed()
    features = train.features
    numbers, own = features.numpy(), torch.arange(len(features))
    faiss.omp_set_num_threads(1)

    def bare() -> None:
        index = faiss.IndexFlatL2(numbers.shape[1])
        index.add(numbers)
        index.search(numbers, 11)

    return lambda: nearest_neighbors(features, features, 10, same=own, block=512), bare


ROWS: dict[str, Row] = {
    "smote": Row(peer="imbalanced-learn", what="SMOTE of 12,406 x 64 to balance, with the same new rows", sides=_smote),
    "borderline_smote": Row(
        peer="imbalanced-learn",
        what="BorderlineSMOTE of 12,406 x 64 to balance, with the same new rows",
        sides=_borderline_smote,
    ),
    "adasyn": Row(
        peer="imbalanced-learn",
        what="ADASYN",
        sides=None,
        why="no equivalent here: `eos` moves rows toward other classes where ADASYN draws more rows near them",
    ),
    "albumentations": Row(
        peer="albumentations",
        what="four of 18 operations on 1,024 images of 32 x 32: `BatchAugmenter` and albumentations, image by image",
        sides=_albumentations,
    ),
    "torchvision": Row(
        peer="torchvision",
        what="two of RandAugment's 13 operations on 1,024 images of 32 x 32: `BatchAugmenter` and `v2.RandAugment`, image by image",
        sides=_torchvision,
    ),
    "kornia": Row(
        peer="kornia",
        what="two operations on 1,024 images of 32 x 32 in batches of 128: `BatchAugmenter`, which draws them for every image, and"
        " `RandAugment`, which draws them once for a batch",
        sides=_kornia,
        why="kornia applies one operation to a whole batch where `BatchAugmenter` draws another one for every image",
    ),
    "captum": Row(
        peer="captum",
        what="features of 512 images by a ResNet-32: `extract`, with logits, labels and indices, and `LayerActivation`",
        sides=_captum,
        why="both are little more than the same forward pass; `extract` also keeps logits, labels and indices, and checks the head's logits",
    ),
    "grad_cam": Row(
        peer="grad-cam",
        what="features of 512 images by a ResNet-32: `extract`, with logits, labels and indices, and `ActivationsAndGradients`",
        sides=_grad_cam,
        why="both are little more than the same forward pass; `extract` also keeps logits, labels and indices, and checks the head's logits",
    ),
    "suspects": Row(
        peer="cleanlab",
        what="suspect labels of 12,406 rows from probabilities of 10 classes: `suspect_labels` and `find_label_issues`",
        sides=_cleanlab_suspects,
    ),
    "label_errors": Row(
        peer="cleanlab",
        what="suspect labels of 12,406 x 64 from features, five folds: `find_label_errors`, which also says how many to expect, and"
        " `CleanLearning` of a logistic regression",
        sides=_cleanlab_label_errors,
    ),
    "near_copies": Row(
        peer="cleanlab",
        what="near copies among 12,406 x 64: `find_near_copies`, within classes, and Datalab's near duplicates, among all rows",
        sides=_cleanlab_copies,
    ),
    "exact_copies": Row(
        peer="dataeval",
        what="exact copies among 4,096 images of 32 x 32: `find_duplicates` between two halves and `Duplicates` of all, by digest",
        sides=_dataeval_copies,
    ),
    "diversity": Row(
        peer="dataeval",
        what="diversity of features",
        sides=None,
        why="no equivalent there: DataEval's diversity (Shannon, Simpson) is of metadata values, ours of features",
    ),
    "head_refit": Row(
        peer="scikit-learn",
        what="a head fitted on 12,406 x 64 to the same penalised likelihood: `fit_head` and `LogisticRegression`, at most 200 steps",
        sides=_logistic_regression,
        why="scikit-learn stops earlier: at a loss of 0.0361, where `fit_head` goes to the least, 0.0357; to get there, with `tol=1e-6`,"
        " scikit-learn is still the faster one",
    ),
    "faiss": Row(
        peer="faiss-cpu",
        what="the 10 nearest other rows of all 12,406 x 64, exact: `nearest_neighbors` and `IndexFlatL2`",
        sides=_faiss,
        why="`nearest_neighbors` ranks by differences in float64, so that ties and near ties come in the right order; faiss by float32"
        " products",
    ),
}


def version_of(package: str) -> str | None:
    """Return the installed version of a package; None without it."""
    try:
        return importlib.metadata.version(package)
    except importlib.metadata.PackageNotFoundError:
        return None


def measured(name: str) -> dict[str, Any] | None:
    """Return the record of a row; None where the peer is not installed."""
    row, version = ROWS[name], version_of(ROWS[name].peer)
    if row.sides is None:
        return {"figure": name, "peer": row.peer, "what": row.what, "why": row.why, "peer_version": version}
    if version is None:
        return None
    found = paired(name, row.what, *row.sides(), faster=True)
    return {**found, "peer": row.peer, "why": row.why, "peer_version": version}


def main(names: list[str], results: Path = RESULTS) -> None:
    """Time the named rows (all by default), print each record and append it."""
    unknown = sorted(set(names) - set(ROWS))
    if unknown:
        raise SystemExit(f"rows must be some of {', '.join(ROWS)}, got {', '.join(unknown)}")
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    try:
        with threadpool_limits(1), warnings.catch_warnings():
            warnings.simplefilter("ignore")
            for name in names or list(ROWS):
                found = measured(name)
                if found is None:
                    print(f"{name}: skipped, {ROWS[name].peer} is not installed")
                    continue
                record = {
                    "kind": "peer",
                    **found,
                    "started": provenance.now(),
                    **provenance.origin(torch.device("cpu")),
                }
                print(record, flush=True)
                atomic.append_jsonl(results, record)
    finally:
        torch.set_num_threads(threads)


def table(results: Path = RESULTS) -> str:
    """Return the last record of every row as a table."""
    latest = {str(one["figure"]): one for one in (atomic.read_jsonl(results) if results.exists() else [])}
    if not latest:
        return "No record yet."
    rows = ["| beside | what | here, s | there, s | times as fast | |", "|:--|:--|--:|--:|:--|:--|"]
    for name in ROWS:
        record = latest.get(name)
        if record is None:
            continue
        peer = " ".join(part for part in (record["peer"], record["peer_version"]) if part)
        if "ratio_median" not in record:
            rows.append(f"| {peer} | {record['what']} | | | | {record['why']} |")
            continue
        ours, theirs = (statistics.median(record[side]) for side in ("seconds_ours", "seconds_bare"))
        ratio = f"{record['ratio_median']:.2f} ({record['ratio_lowest']:.2f} to {record['ratio_highest']:.2f})"
        why = record["why"] if record["ratio_median"] < 1 else ""
        if record["ratio_median"] < 1 and not why:
            why = "behind; the reason is not known"
        rows.append(f"| {peer} | {record['what']} | {ours:.3f} | {theirs:.3f} | {ratio} | {why} |")
    return "\n".join(rows)


if __name__ == "__main__":
    main(sys.argv[1:])
