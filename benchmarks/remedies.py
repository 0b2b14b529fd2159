"""Time the remedies against other tools that do the same: `benchmarks/results/remedies.jsonl`.

    python -m benchmarks.remedies [eos] [smote] [features] [images] [dataset] [head]

Run on two cores with nothing else on them. Ratios are per pair, in one process; see `benchmarks/overhead.py`.
"""

from __future__ import annotations

import os
import random
import sys
from functools import partial
from pathlib import Path
from typing import Any

os.environ["NO_ALBUMENTATIONS_UPDATE"] = "1"

import albumentations as A  # noqa: N812
import cv2
import numpy as np
import torch
from imblearn.over_sampling import SMOTE
from numpy.typing import NDArray
from sklearn.neighbors import NearestNeighbors
from torch import Tensor
from torch.utils.data import DataLoader, Dataset

from benchmarks.overhead import LONG_TAIL, keep, long_tailed, noise_images, paired, repeated
from diversify.augment import albumentations_ops
from diversify.augment.batches import BatchAugmenter
from diversify.augment.dataset import DiversifiedDataset
from diversify.augment.draw_key import DrawKey
from diversify.augment.features import FeatureAugmenter
from diversify.augment.oversampler import DiversifyOverSampler
from diversify.commands.remedy import REPEATS
from diversify.data.images import ImageArray
from diversify.data.loader import collate
from diversify.diagnosis.for_plan import PlanDiagnoser
from diversify.functional import draws, image_ops
from diversify.network.embeddings import Embeddings
from diversify.network.networks import build_model
from diversify.plan.make import make_plan
from diversify.plan.plan import Plan
from diversify.plan.policies import ClassPlan, ImagePolicy
from diversify.repair.candidates import default_candidates
from diversify.repair.choose import choose_head

RESULTS = Path(__file__).parent / "results" / "remedies.jsonl"
NAMES = [str(index) for index in range(10)]
BATCH = 128
Array = NDArray[Any]


def published_eos(features: Array, labels: Array, k: int = 10) -> tuple[Array, Array]:
    """Return the rows of the published EOS script, loop for loop: one table of neighbours for all rows, one per class, a draw per row.

    Dablain, Bellinger, Krawczyk, Chawla, "Efficient augmentation for imbalanced deep learning", 2022.
    """
    generator = np.random.RandomState(0)
    counts = np.bincount(labels)
    search = NearestNeighbors(n_neighbors=k + 1).fit(features)
    all_neighbors = search.kneighbors(features)[1]
    made, made_labels = [], []
    for label in range(len(counts)):
        wanted = counts.max() - counts[label]
        if not wanted:
            continue
        neighbors = search.kneighbors(features[labels == label])[1]
        bases, chances = [], []
        for row in neighbors:
            enemy = np.where(labels[row[1:]] == label, 0, 1)
            if enemy.sum() > 0:
                bases.append(row[0])
                chances.append(enemy / enemy.sum())
        drawn = generator.choice(len(bases), size=wanted)
        place = np.empty(wanted, dtype=int)
        for new in range(wanted):
            place[new] = generator.choice(k, 1, p=chances[drawn[new]])[0]
        base = np.array(bases)[drawn]
        start, end = features[base], features[all_neighbors[base, place]]
        made.extend(start + generator.rand(wanted, 1) * (end - start))
        made_labels.extend(np.full(wanted, label))
    return np.array(made), np.array(made_labels)


def time_eos() -> dict[str, Any]:
    """Time balancing by EOS, neighbours included."""
    _, train, _ = long_tailed()
    rows, labels = train.features.numpy(), train.labels.numpy()
    what = "how many times faster than the published script's loops: EOS on 12,406 x 64 to balance"
    return paired(
        "eos",
        what,
        lambda: DiversifyOverSampler("eos", random_state=0).fit_resample(rows, labels),
        lambda: published_eos(rows, labels),
        faster=True,
        new_rows=sum(max(LONG_TAIL) - one for one in LONG_TAIL),
    )


def time_smote() -> dict[str, Any]:
    """Time balancing by SMOTE, neighbours included."""
    _, train, _ = long_tailed()
    rows, labels = train.features.numpy(), train.labels.numpy()
    return paired(
        "smote",
        "how many times faster than imbalanced-learn's: SMOTE on 12,406 x 64 to balance",
        lambda: DiversifyOverSampler("smote", random_state=0).fit_resample(rows, labels),
        lambda: SMOTE(random_state=0).fit_resample(rows, labels),
        faster=True,
    )


def time_features() -> dict[str, Any]:
    """Time a plan from counts (EOS and covariance) on a batch, with the backward pass, against a whole float32 step."""
    head, train, _ = long_tailed()
    augment = FeatureAugmenter(Plan.from_counts(NAMES, LONG_TAIL), train, head=head)
    rows = draws.integers(len(train), "batch", torch.arange(BATCH))
    features, labels = train.features[rows].requires_grad_(), train.labels[rows]
    key = DrawKey(seed=0, epoch=0, step=3, indices=rows)
    model = build_model("resnet32", 10).train()
    optimizer = torch.optim.SGD(model.parameters(), lr=0.1, momentum=0.9)
    images = draws.normal("images", torch.arange(BATCH * 3 * 32 * 32)).view(BATCH, 3, 32, 32)

    def ours() -> None:
        for _ in range(10):
            torch.autograd.grad(augment(features, labels, key)[0].sum(), features)

    def steps() -> None:
        for _ in range(10):
            torch.nn.functional.cross_entropy(model(images), labels).backward()
            optimizer.step()
            optimizer.zero_grad()

    what = "seconds of FeatureAugmenter over those of a training step of a ResNet-32, batches of 128"
    return paired("features", what, ours, steps, steps=10)


def _albumentations(strength: float, side: int = 32) -> dict[str, A.BasicTransform | A.BaseCompose]:
    """Return albumentations' version of each of our operations."""
    still, most = (1, 1), 0.9 * strength
    factor = (1 - most, 1 + most)
    shear, shift = 16.7 * strength, 0.33 * strength
    return {
        "shear_x": A.Affine(shear={"x": (-shear, shear), "y": (0, 0)}, p=1),
        "shear_y": A.Affine(shear={"y": (-shear, shear), "x": (0, 0)}, p=1),
        "translate_x": A.Affine(translate_percent={"x": (-shift, shift), "y": (0, 0)}, p=1),
        "translate_y": A.Affine(translate_percent={"y": (-shift, shift), "x": (0, 0)}, p=1),
        "rotate": A.Rotate((-30 * strength, 30 * strength), border_mode=0, p=1),
        "zoom": A.Affine(scale=(1 - 0.3 * strength, 1 + 0.3 * strength), p=1),
        "brightness": A.ColorJitter(factor, still, still, (0, 0), p=1),
        "contrast": A.ColorJitter(still, factor, still, (0, 0), p=1),
        "saturation": A.ColorJitter(still, still, factor, (0, 0), p=1),
        "sharpness": A.Sharpen((0, most), p=1),
        "posterize": A.Posterize((4, 8), p=1),
        "solarize": A.Solarize((1 - strength, 1), p=1),
        "autocontrast": A.AutoContrast(p=1),
        "equalize": A.Equalize(p=1),
        "invert": A.InvertImg(p=1),
        "erase": A.CoarseDropout((1, 1), (0.1, 0.5), (0.1, 0.5), p=1),
        "crop": A.Compose([A.Pad(side // 8), A.RandomCrop(side, side)]),
        "flip": A.HorizontalFlip(p=0.5),
    }


def _image_plan(policy: ImagePolicy) -> Plan:
    """Return a plan whose ten classes all have this policy."""
    return Plan(classes=tuple(ClassPlan(name=name, count=10, draws=0.1, image=policy) for name in NAMES))


class _Varied(Dataset[tuple[Tensor, int]]):
    """Images `(N, H, W, C)` augmented by albumentations, as a user would do it."""

    def __init__(self, images: Array, labels: Tensor, vary: A.Compose) -> None:
        self.images, self.labels, self.vary = images, labels.tolist(), vary

    def __len__(self) -> int:
        return len(self.images)

    def __getitem__(self, index: int) -> tuple[Tensor, int]:
        made = self.vary(image=self.images[index])["image"]
        return torch.from_numpy(np.ascontiguousarray(made.transpose(2, 0, 1))), self.labels[index]


def _single_threaded(_: int) -> None:
    cv2.setNumThreads(0)


def _smooth_images(count: int, side: int = 32) -> ImageArray:
    """Return smooth noise, of CIFAR's size by default; plain noise is hard for no operation."""
    small = draws.uniform("pixels", torch.arange(count * 3 * 8 * 8)).view(count, 3, 8, 8)
    images = torch.nn.functional.interpolate(small, (side, side), mode="bilinear") * 255
    return ImageArray(images.round().to(torch.uint8), torch.arange(count) % 10)


VARIED = ImagePolicy(operations=image_ops.OPERATIONS, layers=4, strength=0.7, probability=0.9)
"""Four of all 18 operations at strength 0.7 on nine images of ten."""
OF_ALBUMENTATIONS = "how many times the images per second of the same policy through albumentations"


def _by_albumentations(data: ImageArray, workers: int, batch: int) -> DataLoader[Any]:
    """Return a loader of `data` that augments with `VARIED`."""
    found = _albumentations(VARIED.strength, data.images.shape[-1])
    some = A.SomeOf([found[name] for name in VARIED.operations], n=VARIED.layers, replace=True, p=VARIED.probability)
    images = np.ascontiguousarray(data.images.permute(0, 2, 3, 1).numpy())
    return _loader(_Varied(images, data.targets, A.Compose([some], seed=0)), workers, batch)


def _loader(data: Dataset[Any], workers: int, batch: int, **more: Any) -> DataLoader[Any]:
    """Return a shuffling loader whose OpenCV uses one thread."""
    _single_threaded(0)
    return DataLoader(
        data,
        batch_size=batch,
        num_workers=workers,
        persistent_workers=workers > 0,
        worker_init_fn=_single_threaded,
        shuffle=True,
        **more,
    )


def _through(loader: DataLoader[Any]) -> None:
    """Read all batches of a loader."""
    for _ in loader:
        pass


def time_images(cores: int = 2, batch: int = BATCH, *, workers: bool = True) -> dict[str, Any]:
    """Time `BatchAugmenter` in the main process against albumentations on one core, or without workers."""
    data = _smooth_images(2048)
    augment = BatchAugmenter(_image_plan(VARIED))
    alone = cores == 1
    loader = _by_albumentations(data, cores if workers and not alone else 0, batch)

    def ours() -> None:
        for rows in draws.permutation(len(data), "order").split(batch):
            augment(data.images.index_select(0, rows), data.targets.index_select(0, rows))

    torch.set_num_threads(cores)
    there = "two workers" if workers else "the main process too"
    beside = "on one core each" if alone else f"where torch may use two threads, albumentations in {there}"
    what = f"{OF_ALBUMENTATIONS}: BatchAugmenter, {beside}, batches of {batch}"
    name = "images_one_core" if alone else "images" if batch == BATCH else f"images_{batch}"
    name = name if workers else "images_no_workers"
    return paired(name, what, ours, lambda: _through(loader), faster=True, images=len(data))


def time_images_in_workers() -> dict[str, Any]:
    """Time the same operations on whole batches in the workers of a loader."""
    data = _smooth_images(8192)
    dataset = DiversifiedDataset(data, _image_plan(VARIED), backend="torch")
    ours, theirs = _loader(dataset, 2, BATCH, collate_fn=collate), _by_albumentations(data, 2, BATCH)
    what = f'{OF_ALBUMENTATIONS}: DiversifiedDataset with backend="torch", both in two workers, batches of {BATCH}'
    return paired(
        "images_in_workers", what, lambda: _through(ours), lambda: _through(theirs), faster=True, images=len(data)
    )


def time_backends(side: int, count: int) -> dict[str, Any]:
    """Time the two named backends of `DiversifiedDataset`, with batches fetched in the main process on one core."""
    data = _smooth_images(count, side)
    ours, theirs = (
        DiversifiedDataset(data, _image_plan(VARIED), backend=backend) for backend in ("torch", "albumentations")
    )
    batches = [rows.tolist() for rows in draws.permutation(count, "order").split(BATCH)]
    _single_threaded(0)
    torch.set_num_threads(1)

    def fetched(dataset: DiversifiedDataset) -> None:
        for rows in batches:
            dataset.__getitems__(rows)

    what = f'how many times as fast DiversifiedDataset is with backend="torch" as with "albumentations": {side} x {side} pixels of 8 bits'
    return paired(f"backends_{side}", what, lambda: fetched(ours), lambda: fetched(theirs), faster=True, images=count)


class _Items(Dataset[tuple[Tensor, int]]):
    """Single examples, augmented by hand or not at all."""

    def __init__(self, images: Tensor, labels: Tensor, policy: ImagePolicy | None = None) -> None:
        self.images, self.targets, self.policy = images, labels, policy
        self.chance = random.Random(0)  # noqa: S311

    def __len__(self) -> int:
        return len(self.images)

    def __getitem__(self, index: int) -> tuple[Tensor, int]:
        image, policy = self.images[index], self.policy
        if policy is not None and self.chance.random() < policy.probability:
            layers = [
                (self.chance.choice(policy.operations), policy.strength, self.chance.random())
                for _ in range(policy.layers)
            ]
            image = albumentations_ops.augment(image, layers)
        return image, int(self.targets[index])


def time_dataset() -> dict[str, Any]:
    """Time two of four operations on every second image, one image at a time in the main process."""
    data = noise_images(2048)
    images, labels = data.images, data.targets
    operations = ("rotate", "brightness", "contrast", "erase")
    policy = ImagePolicy(operations=operations, layers=2, strength=0.6, probability=0.5)
    ours, hand = DiversifiedDataset(_Items(images, labels), _image_plan(policy)), _Items(images, labels, policy)
    rows = draws.permutation(len(labels), "order").tolist()
    what = "seconds of DiversifiedDataset over the same functions by hand, one image at a time"
    found = paired(
        "dataset", what, lambda: [ours[row] for row in rows], lambda: [hand[row] for row in rows], images=len(rows)
    )
    sides = zip(found["seconds_ours"], found["seconds_bare"], strict=True)
    added = sorted(1e6 * (one - other) / len(rows) for one, other in sides)
    return {**found, "added_microseconds": [round(value, 1) for value in added]}


def time_head() -> dict[str, Any]:
    """Time everything that `diversify remedy` computes from a diagnosis."""
    head, train, heldout = long_tailed()
    plan = make_plan(PlanDiagnoser(train, head=head)(heldout))
    counted = Plan.from_counts(NAMES, LONG_TAIL)

    def work() -> None:
        diagnoser = PlanDiagnoser(train, head=head)  # as in the command: one for the three thirds

        def replan(rows: Embeddings) -> Plan:
            return make_plan(diagnoser(rows))

        candidates = default_candidates(train, head, plan=plan, counted=counted, replan=replan)
        choose_head(train, heldout, head, candidates, repeats=REPEATS)

    what = (
        "seconds of head repair on 12,406 x 64 training and 10,000 x 64 held-out features, choosing included, and a plan made"
        " anew for each third"
    )
    return repeated("head", what, work)


FIGURES = {
    "eos": time_eos,
    "smote": time_smote,
    "features": time_features,
    "images": time_images,
    "images_1024": partial(time_images, batch=1024),  # as in `fit_resident`
    "images_one_core": partial(time_images, 1),
    "images_no_workers": partial(time_images, workers=False),
    "images_in_workers": time_images_in_workers,
    "backends_32": partial(time_backends, 32, 2048),
    "backends_224": partial(time_backends, 224, 256),
    "dataset": time_dataset,
    "head": time_head,
}


if __name__ == "__main__":
    keep(FIGURES, sys.argv[1:], RESULTS)
