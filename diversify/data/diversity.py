"""Make the training images of some classes less diverse, at any number of images per class."""

from __future__ import annotations

import dataclasses
import itertools
import re
from pathlib import Path

import numpy as np
import torch
from torch import Tensor
from torch.nn import functional

from ..errors import must, unknown
from ..files.atomic import open_array
from ..functional import draws
from ..functional.image_ops import apply_policy
from .images import ImageArray, Images
from .imbalance import holdout_count
from .kinds import cluster_kinds
from .loader import collate

FORMS = ("none", "neighbours", "kinds", "bursts")
POOL = 5000  # images of a class, at most, among which neighbours and kinds are looked for
SIDE = 16  # pixels, at most, of the images whose principal components are taken
COMPONENTS = 30
FITTED = 2000  # images that the principal components are fitted on
LOWER = "pass imbalance=exp:1:N with a lower N"
FRAME_CHANGES = {"translate_x": 0.3, "translate_y": 0.3, "zoom": 0.3, "brightness": 0.25}  # strength at most


@dataclasses.dataclass(frozen=True)
class Diversity:
    """How diverse the training images of each class are; the number of images is that of the `Imbalance`.

    In narrow classes, training images are of one of these forms; in all others they are random images of the class:

    - `neighbours:S`: the images nearest to S random images of the class, in principal components of the pixels, or, as
      `neighbours:S:FILE.npy`, in an embedding: a file with one row per training image of the source, `(N, D)`;
    - `kinds:K`: images of K kinds of the class only. The kinds are the fine classes of `cifar100` (20 superclasses),
      `fashion-mnist` and `mnist` (5 pairs), which become one class; for other data, 5 clusters of its images. As
      `kinds:K:FILE.npy`, clusters in an embedding, for other data only;
    - `bursts:M`: one image in M, and M - 1 copies of it with small shifts, crops and changes of light, as frames of a
      video.

    The validation and test images of all classes are random ones.

    Attributes:
        form: One of the above, or `none`.
        narrow: Share of the classes that are narrow, in [0, 1].
        seed: Seed of all draws: which classes are narrow, and which images they have.
        order: Which classes are narrow: "random", independently of their sizes; "small" for the smallest, or "large" for
            the largest.

    Raises:
        InputError: The form is unknown, or a number is out of its range.

    Example:
        >>> import diversify as dv
        >>> narrow = dv.Diversity("neighbours:3", narrow=0.5, seed=0)
        >>> narrow.kind, narrow.amount, len(narrow.narrow_classes([60] * 10))
        ('neighbours', 3, 5)
        >>> dv.Diversity("neighbours:3", narrow=0.4, order="small").narrow_classes([60, 40, 20, 10, 5])
        (3, 4)
    """

    form: str = "none"
    _: dataclasses.KW_ONLY
    narrow: float = 0.5
    seed: int = 0
    order: str = "random"

    def __post_init__(self) -> None:
        kind, amount, file = self._parts
        if self.form != "none" and not (kind in FORMS[1:] and amount.isascii() and amount.isdigit()):
            raise must("diversity", "be neighbours:S, kinds:K, bursts:M or none", repr(self.form))
        if self.form.count(":") > 1 and (kind == "bursts" or not file.endswith(".npy")):
            raise must("diversity", "name a .npy file, as neighbours:S:FILE.npy or kinds:K:FILE.npy", repr(self.form))
        least = {"none": 0, "bursts": 2}.get(kind, 1)
        if self.amount < least:
            raise must("diversity", f"have a number of at least {least}", self.form)
        if not 0 <= self.narrow <= 1:
            raise must("narrow", "lie in [0, 1]", self.narrow)
        if self.order not in ("random", "small", "large"):
            raise unknown("order of narrow classes", self.order, ("random", "small", "large"))
        if self.seed < 0:
            raise must("seed of diversity", "be at least 0", self.seed)

    @classmethod
    def parse(cls, form: str, narrow: float | None = None, narrow_order: str | None = None) -> Diversity:
        """Return the diversity that a form, a share of classes and an order describe.

        Args:
            form: As the attribute.
            narrow: As the attribute; None for 0.5.
            narrow_order: A seed; or `small` or `large`, or either with a seed, as in `small:3`. None for seed 0.

        Raises:
            InputError: A part is out of its range, or the form is `none` and another part is given.
        """
        for name, value in (("narrow", narrow), ("narrow_order", narrow_order)):
            if form == "none" and value is not None:
                raise must(name, "stand beside diversity", value, "pass diversity=neighbours:3")
        found = re.fullmatch(r"([0-9]+)|(small|large)(?::([0-9]+))?", "0" if narrow_order is None else narrow_order)
        if found is None:
            raise must("narrow_order", "be a seed, small, large, small:SEED or large:SEED", repr(narrow_order))
        seed, order = int(found[1] or found[3] or 0), found[2] or "random"
        return cls(form, narrow=0.5 if narrow is None else narrow, seed=seed, order=order)

    @property
    def _parts(self) -> tuple[str, str, str]:
        kind, amount, file = [*self.form.split(":", 2), "", ""][:3]
        return kind, amount, file

    @property
    def kind(self) -> str:
        """The form without its number."""
        return self._parts[0]

    @property
    def amount(self) -> int:
        """The number of the form; 0 for `none`."""
        return int(self._parts[1] or 0)

    @property
    def embedding(self) -> Path | None:
        """The file of the embedding; None for principal components of the pixels."""
        return Path(self._parts[2]) if self._parts[2] else None

    @property
    def narrow_order(self) -> str:
        """The order and seed as `parse` takes them."""
        return str(self.seed) if self.order == "random" else f"{self.order}:{self.seed}"

    def narrow_classes(self, counts: list[int]) -> tuple[int, ...]:
        """Return the classes that are narrow, ascending.

        Args:
            counts: Training images per class; a class without images is never narrow.

        Raises:
            InputError: The share of classes is too small for one class, or the order is by size and all sizes are equal.
        """
        present = [c for c, count in enumerate(counts) if count]
        if self.kind == "none" or not self.narrow:
            return ()
        number = round(self.narrow * len(present))
        if not number:
            raise must("narrow", f"be the share of one class at least, of {len(present)}", self.narrow)
        if self.order == "random":
            places = draws.permutation(len(present), "diversity order", self.seed).tolist()
            return tuple(sorted(present[place] for place in places[:number]))
        if len({counts[c] for c in present}) == 1 and number < len(present):
            raise must("narrow_order", "be a seed where all classes have equally many images", self.order)
        by_size = sorted(present, key=lambda c: counts[c] if self.order == "small" else -counts[c])
        return tuple(sorted(by_size[:number]))

    def __str__(self) -> str:
        return self.form


@dataclasses.dataclass(frozen=True, kw_only=True)
class Chosen:
    """The images of a training set, before a part of them is held out.

    Attributes:
        rows: `(N,)`, the row of each image in the source.
        frames: `(N,)`, 0 for an image as it is, and the number of the copy for a changed copy.
        narrow: The narrow classes, ascending.
        aside: `(H,)`, the rows of random images of narrow classes that are set aside for a wide validation set.
    """

    rows: Tensor
    frames: Tensor
    narrow: tuple[int, ...]
    aside: Tensor


def choose_images(
    dataset: Images,
    labels: Tensor,
    kept: Tensor,
    diversity: Diversity,
    *,
    fine: Tensor | None = None,
    holdout: float = 0.0,
) -> Chosen:
    """Return a training set with as many images of each class as `kept`, less diverse ones in narrow classes.

    Args:
        dataset: The source's training images.
        labels: `(N,)` their classes.
        kept: Rows of a training set whose classes are all wide, as `imbalance_indices` gives them.
        diversity: Which classes are narrow, and how.
        fine: `(N,)` the kind of each image, if the source names kinds.
        holdout: Share of the training set that will be held out; so many images of narrow classes are set aside.

    Raises:
        InputError: A class has too few images, `bursts` are asked for of images that are not in memory, or the file of an
            embedding cannot be read or has not one row of finite numbers per image.

    Example:
        >>> import diversify as dv
        >>> data = dv.load_data("digits", holdout=0)
        >>> labels, kept = data.train.labels, dv.imbalance_indices(data.train.labels, dv.Imbalance.parse("exp:1:50"))
        >>> chosen = choose_images(data.train.dataset, labels, kept, dv.Diversity("bursts:10"))
        >>> len(chosen.rows), len(chosen.narrow), len(chosen.rows.unique())  # 5 x 50 images, and 5 x 5 in 10 frames each
        (500, 5, 275)
    """
    own = labels[kept]
    narrow = diversity.narrow_classes(torch.bincount(own, minlength=int(labels.max()) + 1).tolist())
    rows, frames = kept.clone(), torch.zeros_like(kept)
    if narrow and diversity.kind == "bursts" and not isinstance(dataset, ImageArray):
        raise must(
            f"diversity {diversity}", "have images in memory, not in files", type(dataset).__name__, "use neighbours"
        )
    if diversity.embedding is not None and fine is not None:
        raise must(
            "embedding of kinds",
            "be left out for data whose kinds are classes",
            diversity.form,
            f"pass kinds:{diversity.amount}",
        )
    components: _Components | _Embedding | None = None
    if diversity.embedding is not None:
        components = _Embedding(diversity.embedding, len(labels))
    elif narrow and diversity.kind != "bursts":
        components = _Components(dataset)
    aside = [torch.empty(0, dtype=torch.int64)]
    for c in narrow:
        places, pool = (own == c).nonzero()[:, 0], (labels == c).nonzero()[:, 0]
        n = len(places)
        pool = pool[draws.permutation(len(pool), "diversity pool", diversity.seed, c)]
        held = holdout_count(n, holdout)
        aside.append(pool[:held])
        pool = pool[held:]
        if components is None:
            originals = -(-n // diversity.amount)
            if len(pool) < originals:
                raise must(f"diversity {diversity}", f"choose {originals} images of class {c}", len(pool), LOWER)
            place = torch.arange(n)
            rows[places], frames[places] = pool[place % originals], place // originals
        elif diversity.kind == "neighbours":
            rows[places] = _neighbours(components, pool[:POOL], n, c, diversity)
        else:
            rows[places] = _of_kinds(components, pool, None if fine is None else fine[pool], n, c, diversity)
    return Chosen(rows=rows, frames=frames, narrow=narrow, aside=torch.cat(aside))


def wide_rows(labels: Tensor, chosen: Chosen, heldout: Tensor) -> Tensor:
    """Return the rows of a validation set whose classes are all wide, with as many images of each class as `heldout`.

    Wide classes keep their held-out images; narrow classes get those that were set aside.

    Args:
        labels: `(N,)` classes of the source's training images.
        chosen: The training set.
        heldout: `(H,)` the positions in it that are held out.
    """
    rows = chosen.rows[heldout].clone()
    own, of_aside = labels[rows], labels[chosen.aside]
    for c in chosen.narrow:
        rows[own == c] = chosen.aside[of_aside == c]
    return rows


def with_frames(dataset: Images, rows: Tensor, frames: Tensor, seed: int) -> Images:
    """Return the images with the changes of their frames; those of frame 0 are as they were.

    Args:
        dataset: The images, in memory if any frame is not 0.
        rows: `(N,)` the row of each in the source, a part of the key of the draws.
        frames: `(N,)`.
        seed: Seed of the draws.
    """
    if not frames.any() or not isinstance(dataset, ImageArray):
        return dataset
    changed = frames.nonzero()[:, 0]
    key = ("diversity frame", seed, rows[changed, None], frames[changed, None], torch.arange(len(FRAME_CHANGES)))
    strength = draws.uniform(*key, "strength") * torch.tensor(list(FRAME_CHANGES.values()))
    operation = torch.arange(len(FRAME_CHANGES)).expand(len(changed), -1)
    images = dataset.images.clone()
    images[changed] = apply_policy(
        images[changed], operation, strength, draws.uniform(*key, "draw"), tuple(FRAME_CHANGES)
    )
    return ImageArray(images, dataset.targets, dataset.shape)


def _neighbours(components: _Components | _Embedding, pool: Tensor, n: int, c: int, diversity: Diversity) -> Tensor:
    """Return the n rows that are nearest to the first rows of the pool, equally many of each."""
    seeds = diversity.amount
    if len(pool) < 2 * n:
        law = f"choose the {n} images of class {c} among twice as many"
        raise must(f"diversity {diversity}", law, len(pool), LOWER)
    if seeds >= n:
        raise must(f"diversity {diversity}", f"have fewer seed images than class {c} has images, {n}", seeds)
    features = components.of(pool)
    distance = torch.cdist(features, features[:seeds])
    rank = distance.argsort(dim=0, stable=True).argsort(dim=0, stable=True)
    return pool[rank.amin(1).argsort(stable=True)[:n]]


def _of_kinds(
    components: _Components | _Embedding, pool: Tensor, kinds: Tensor | None, n: int, c: int, diversity: Diversity
) -> Tensor:
    """Return the first n rows of the pool that are of some kinds: random ones, of those that have n images."""
    if kinds is None:
        pool = pool[:POOL]
        kinds = cluster_kinds(components.of(pool), diversity.seed, c)
    names = kinds.unique()
    if diversity.amount >= len(names):
        raise must(f"diversity {diversity}", f"have fewer kinds than class {c} has, {len(names)}", diversity.amount)
    order = names[draws.permutation(len(names), "diversity kinds", diversity.seed, c)]
    for taken in itertools.combinations(order.tolist(), diversity.amount):
        found = pool[torch.isin(kinds, torch.tensor(taken))]
        if len(found) >= n:
            return found[:n]
    most = int(kinds.unique(return_counts=True)[1].topk(diversity.amount).values.sum())
    law = f"find {n} images of {diversity.amount} kinds of class {c}"
    raise must(f"diversity {diversity}", law, most, LOWER)


class _Components:
    """The first principal components of the pixels of images, fitted on some of them; made when first needed."""

    def __init__(self, dataset: Images) -> None:
        self.dataset, self.size = dataset, len(dataset)  # type: ignore[arg-type]
        self.centre: Tensor | None = None
        self.directions: Tensor | None = None

    def of(self, rows: Tensor) -> Tensor:
        """Return `(N, 30)`, or as many components as there are."""
        if self.centre is None or self.directions is None:
            some = draws.permutation(self.size, "diversity components")[:FITTED]
            pixels = small_pixels(self.dataset, some)
            self.centre = pixels.mean(0)
            spread = (pixels - self.centre).double()
            self.directions = torch.linalg.eigh(spread.T @ spread).eigenvectors[:, -COMPONENTS:].float()
        return (small_pixels(self.dataset, rows) - self.centre) @ self.directions


class _Embedding:
    """The rows of a file, one per training image of the source."""

    def __init__(self, path: Path, images: int) -> None:
        self.values = open_array(path, "embedding")
        if self.values.ndim != 2 or len(self.values) != images:
            law = f"have one row per training image that can be read, ({images}, D)"
            raise must(f"{path}", law, tuple(self.values.shape))
        if not np.issubdtype(self.values.dtype, np.floating) or not np.isfinite(self.values).all():
            raise must(f"{path}", "hold finite floating-point numbers", self.values.dtype)

    def of(self, rows: Tensor) -> Tensor:
        """Return `(N, D)` float32."""
        return torch.from_numpy(np.array(self.values[rows.numpy()], dtype=np.float32))


def small_pixels(dataset: Images, rows: Tensor) -> Tensor:
    """Return the pixels `(N, D)` float32 in [0, 1] of images, averaged to 16 x 16 where they are larger.

    Args:
        dataset: The images, of any sizes.
        rows: `(N,)` which of them.
    """
    if isinstance(dataset, ImageArray):
        parts = [dataset.images[part] for part in rows.split(1024)]
    else:
        parts = [collate([dataset[row]])[0] for row in rows.tolist()]
    found = []
    for images in parts:
        values = images.float() / 255 if images.dtype == torch.uint8 else images.float()
        side = (min(SIDE, values.shape[2]), min(SIDE, values.shape[3]))
        found.append(functional.adaptive_avg_pool2d(values, side).flatten(1))
    return torch.cat(found)
