"""Near copies: images of a class that show nearly the same, in training, or in training and among the held-out images."""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping, Sequence

import numpy as np
import torch
from torch import Tensor

from ..data.examples import Key
from ..data.hashes import HASH_BITS, ImageHashes, image_hashes
from ..data.images import Images
from ..data.labels import labels_of
from ..errors import InputError, must
from ..functional import counts
from ..functional.hash_copies import hash_components, hash_limits, nearest_hash
from ..functional.multilabel import require_one_label
from ..functional.near_copies import copy_components, copy_space, joined_components, nearest_copy
from ..network.embeddings import Embeddings
from .class_table import ClassTable
from .findings import REMEDIES, Evidence, Finding
from .sides import QUERY_ROWS, Side, query_rows

KIND, LEAK_KIND = "near copies", "held-out too like training"
FEATURES, HASH = "features", "image hash"  # the two ways in which near copies are found
_FEWEST_COPIES = 5  # training images of a class that a finding says add nothing
_LEAKED, _FEWEST_LEAKED = 0.05, 3  # share and number of held-out images of a class that make a finding


@dataclasses.dataclass(frozen=True, kw_only=True)
class NearCopies:
    """The near copies among N training images, and those of M held-out images among them.

    Attributes:
        copy_of: `(N,)` int64, the nearest other training row that is a near copy; -1 if there is none.
        component: `(N,)` int64: rows with the same number are near copies of each other, directly or through others; -1
            for rows that were not compared.
        effective_count: `(C,)` float64, the number of components of each class: its images after near copies. NaN for a
            class without training rows, and where nothing can be compared.
        leaked_from: `(M,)` int64, the nearest training row of its class that a held-out row is a near copy of; -1 if there
            is none, or if the row was not compared.
        copy_distance: `(N,)` float64, how far apart each row and its `copy_of` are, NaN where there is none: the bits in
            which two image hashes differ, or the distance of features as a share of the median distance in the class.
        leaked_distance: `(M,)` float64, the same for `leaked_from`.
        way: How they were found: "features", "image hash", or both.
        parts: What each way found, if there were two.

    Example:
        >>> import diversify as dv
        >>> train, heldout, head = dv.make_embeddings((60, 30))
        >>> copies = dv.find_near_copies(train.select(torch.arange(90) // 3 * 3), train.select(torch.arange(0, 6)))
        >>> copies.effective_count.tolist(), copies.leaked_from.tolist()
        ([20.0, 10.0], [0, -1, -1, 3, -1, -1])
    """

    copy_of: Tensor
    component: Tensor
    effective_count: Tensor
    leaked_from: Tensor
    copy_distance: Tensor | None = None
    leaked_distance: Tensor | None = None
    way: str = FEATURES
    parts: tuple[NearCopies, ...] = ()

    @property
    def ways(self) -> tuple[NearCopies, ...]:
        """What each way found."""
        return self.parts or (self,)


def find_near_copies(
    train: Embeddings | Images,
    heldout: Embeddings | Images | None = None,
    *,
    most_bits: int | None = None,
    image_key: Key | None = None,
) -> NearCopies:
    """Find near copies inside each class of the training images, and held-out images that are near copies of them.

    Embeddings are compared by the distance of their features. It is measured in the directions in which the images of a
    class vary most, relative to the median distance in the class. Its limit is learned from the rows themselves, so that a
    class of independent images has a false pair in about one case of a hundred; see `functional.near_copies.copy_space`.
    Images are compared by their perceptual hash of 256 bits, which needs the package imagehash. Its limit, 16 to 32 bits, is
    learned for each class from the distances in it; see `functional.hash_copies.hash_limits`. It finds copies that are
    resized, compressed, or changed in light. It finds few that are shifted or cropped, or that have no fine detail; features
    find those. Images of one colour are copies of none, nor are images of fewer than 16 pixels a side.

    All rows are compared with all rows of their class: the time grows with the square of the class sizes.

    Args:
        train: Embeddings, or a map-style data set of `(image, label)` or of mappings that shows its labels; see `labels_of`.
        heldout: The same for held-out images; None looks at training images alone.
        most_bits: For data sets, how many of 256 bits the hashes of near copies may differ by; None learns it.
        image_key: For data sets of mappings, the key of the image; by default a usual one, such as `image`.

    Raises:
        InputError: One side is embeddings and the other a data set, `image_key` or `most_bits` is given for embeddings, they have
            different numbers of features or classes, imagehash is not installed, or an example holds no image.

    References:
        Facco et al. (2017), Estimating the intrinsic dimension of datasets by a minimal neighborhood information,
        Scientific Reports 7 (distances of independent points in few dimensions).
        Zauner (2010), Implementation and benchmarking of perceptual image hash functions.

    Example:
        >>> import diversify as dv
        >>> train, heldout, head = dv.make_embeddings((60, 30))
        >>> dv.find_near_copies(train, heldout).effective_count.tolist()
        [60.0, 30.0]
    """
    for name, side in (("train", train), ("heldout", heldout)):
        require_one_label(name, side, "compare the images of their data sets")
    if isinstance(train, Embeddings):
        if heldout is not None and not isinstance(heldout, Embeddings):
            raise must("heldout", "be embeddings, as train", type(heldout).__name__)
        for name, value in (("image_key", image_key), ("most_bits", most_bits)):
            if value is not None:
                raise must(name, "be left out for embeddings, which hold no images", repr(value))
        sides = [train, *([] if heldout is None else [heldout])]
        for name in ("num_features", "num_classes"):
            if len({getattr(side, name) for side in sides}) > 1:
                law = f"have the {name.removeprefix('num_')} of the training embeddings, {getattr(train, name)}"
                raise must("heldout embeddings", law, getattr(sides[1], name))
        return _among_features(
            *((side.features, side.labels, torch.arange(len(side), device=side.labels.device)) for side in sides),
            num_classes=train.num_classes,
        )
    if isinstance(heldout, Embeddings):
        raise must("heldout", "be a data set, as train", "embeddings")
    if most_bits is not None and not 0 <= most_bits < HASH_BITS:
        raise must("most_bits", f"lie in [0, {HASH_BITS - 1}]", most_bits)
    hashed = [
        (image_hashes(each, image_key=image_key), _labels_of(each)) for each in (train, heldout) if each is not None
    ]
    return copies_of_hashes(hashed, most_bits=most_bits)


def _labels_of(dataset: Images) -> Tensor:
    try:
        return labels_of(dataset)
    except InputError as error:  # there is no parameter for labels here
        advice = "give the data set an attribute `targets`, one class per image"
        raise InputError(str(error).replace("pass labels=, one class per image", advice)) from error


_Rows = tuple[Tensor, Tensor, Tensor]  # features, labels, and the rows that are compared


def _among_features(
    train: _Rows,
    heldout: _Rows | None = None,
    *,
    num_classes: int,
    pairs: bool = True,
    space_of_rows: tuple[Tensor, Tensor] | None = None,
) -> NearCopies:
    """The near copies; `copy_of` of classes that are compared as a whole only if `pairs` is set."""
    features, labels, rows = train
    unseen = None if heldout is None else counts.class_counts(heldout[1][heldout[2]], num_classes)
    space = copy_space(features[rows], labels[rows], num_classes, unseen, space=space_of_rows)
    sizes = counts.class_counts(labels, num_classes)
    copy_of, component = (torch.full_like(labels, -1) for _ in range(2))
    effective = torch.full((num_classes,), torch.nan, dtype=torch.float64, device=labels.device)
    leaked_from = torch.full_like(labels if heldout is None else heldout[1], -1)[: None if heldout else 0]
    copy_distance, leaked_distance = (
        torch.full(each.shape, torch.nan, dtype=torch.float64, device=labels.device) for each in (labels, leaked_from)
    )
    first = 0
    members = _rows_by_class(labels, torch.arange(len(labels), device=labels.device), num_classes)
    chosen = _rows_by_class(labels, rows, num_classes)
    others = None if heldout is None else _rows_by_class(heldout[1], heldout[2], num_classes)
    for c in torch.nonzero((sizes > 0) & space.scales.isfinite()).flatten().tolist():
        limit, own, all_own = float(space.limits[c]), chosen[c], members[c]
        placed = space.place(features[all_own], labels[all_own])
        same = torch.searchsorted(all_own, own)
        if pairs or len(own) < len(all_own):
            nearest, distance, number = nearest_copy(placed[same], placed, limit, same=same)
            copy_of[own] = torch.where(nearest >= 0, all_own[nearest], -1)
            copy_distance[own] = distance.masked_fill(nearest < 0, torch.nan)
        parts = copy_components(placed[same], limit)
        component[own] = first + parts
        first += len(parts)
        effective[c] = len(parts.unique())
        if len(own) < len(all_own):  # a sample: each of n copies of one image stands for 1 / n of an image
            effective[c] = len(all_own) * float((1 / (1.0 + number)).mean())
        if heldout is not None and others is not None and len(others[c]):
            mine = others[c]
            away = space.place(heldout[0][mine], heldout[1][mine])
            found, distance, _ = nearest_copy(away, placed, float(space.limits_others[c]))
            leaked_from[mine] = torch.where(found >= 0, all_own[found], -1)
            leaked_distance[mine] = distance.masked_fill(found < 0, torch.nan)
    return NearCopies(
        copy_of=copy_of,
        component=component,
        effective_count=effective,
        leaked_from=leaked_from,
        copy_distance=copy_distance,
        leaked_distance=leaked_distance,
    )


def copies_of_hashes(
    sides: Sequence[tuple[ImageHashes, Tensor]], *, num_classes: int | None = None, most_bits: int | None = None
) -> NearCopies:
    """Return the near copies among the hashed images, with their labels, of training and perhaps held-out images."""
    (hashes, labels), *rest = sides
    other, other_labels = rest[0] if rest else (None, labels[:0])
    num_classes = num_classes or 1 + max(int(own.max()) for _, own in sides)
    unseen = torch.bincount(other_labels, minlength=num_classes)
    bits, other_bits = hashes.bits(), None if other is None else other.bits()
    limits = hash_limits(bits, hashes.speaks, labels, num_classes, unseen)
    if most_bits is not None:
        limits = (torch.full_like(limits[0], most_bits),) * 2
    copy_of, leaked_from = torch.full_like(labels, -1), torch.full_like(other_labels, -1)
    component, first = torch.arange(len(labels)), len(labels)
    copy_distance, leaked_distance = (
        torch.full((len(own),), torch.nan, dtype=torch.float64) for own in (labels, other_labels)
    )
    effective = torch.full((num_classes,), torch.nan, dtype=torch.float64)
    for c in labels.unique().tolist():
        own = ((labels == c) & hashes.speaks).nonzero()[:, 0]
        nearest, copy_distance[own] = nearest_hash(bits[own], bits[own], float(limits[0][c]), same=True)
        copy_of[own] = own[nearest.clamp(min=0)].where(nearest >= 0, -1)
        parts = hash_components(bits[own], float(limits[0][c]))
        component[own] = first + parts
        first += len(own)
        effective[c] = len(component[labels == c].unique())
        if other is not None and other_bits is not None and len(own):
            mine = ((other_labels == c) & other.speaks).nonzero()[:, 0]
            nearest, leaked_distance[mine] = nearest_hash(other_bits[mine], bits[own], float(limits[1][c]))
            leaked_from[mine] = own[nearest.clamp(min=0)].where(nearest >= 0, -1)
    return NearCopies(
        copy_of=copy_of,
        component=component.unique(return_inverse=True)[1],
        effective_count=effective,
        leaked_from=leaked_from,
        copy_distance=copy_distance,
        leaked_distance=leaked_distance,
        way=HASH,
    )


def of_embeddings(images: NearCopies, train: Embeddings, heldout: Embeddings) -> NearCopies:
    """Return near copies of the rows of two data sets as those of the rows of their embeddings.

    Raises:
        InputError: They were not found among images, or it is not known which images the embeddings are of.
    """
    if images.way != HASH:
        raise must("image_copies", "be what find_near_copies gives for two data sets of images", images.way)
    for name, side, own in (("train", train, images.component), ("heldout", heldout, images.leaked_from)):
        if not side.reading.indices_known:
            law = "go with embeddings whose images are known"
            raise must("image_copies", law, f"{name} embeddings of a shuffled loader", "extract them in order")
        if len(side) and int(side.indices.max()) >= len(own):
            raise must("image_copies", f"be of the data set of the {name} embeddings", f"{len(own):,} images")
    indices, others = train.indices.cpu(), heldout.indices.cpu()
    row = torch.full((len(images.component) + 1,), -1, dtype=torch.int64)  # the last stands for no copy
    row[indices] = torch.arange(len(indices))
    component, labels = images.component[indices], train.labels.cpu()
    effective = torch.full((train.num_classes,), torch.nan, dtype=torch.float64)
    for c in labels.unique().tolist():
        effective[c] = len(component[labels == c].unique())
    return dataclasses.replace(
        images,
        copy_of=row[images.copy_of[indices]],
        component=component,
        effective_count=effective,
        leaked_from=row[images.leaked_from[others]],
        copy_distance=None if images.copy_distance is None else images.copy_distance[indices],
        leaked_distance=None if images.leaked_distance is None else images.leaked_distance[others],
    )


def joined_copies(features: NearCopies, images: NearCopies | None, labels: Tensor) -> NearCopies:
    """Return the near copies that were found in features or among images, of training rows with these labels.

    Where the features of a class were compared in a sample, its images after near copies are the smaller of the two numbers.
    """
    if images is None:
        return features
    device, rows = labels.device, np.arange(len(labels))
    first, second = (each.component.cpu().numpy() for each in (features, images))
    offset = len(labels) + 1 + int(first.max(initial=-1))
    links = np.concatenate([np.stack([rows, len(labels) + first])[:, first >= 0], np.stack([rows, offset + second])], 1)
    count = offset + 1 + int(second.max(initial=-1))
    _, number = joined_components(np.arange(count), count, *links)
    component = torch.from_numpy(number[: len(labels)].astype(np.int64)).unique(return_inverse=True)[1].to(device)
    effective = torch.fmin(features.effective_count, images.effective_count.to(features.effective_count.device))
    compared = features.component >= 0
    for c in labels.unique().tolist():
        own = labels == c
        if bool(compared[own].all()):
            effective[c] = len(component[own].unique())
    return NearCopies(
        copy_of=features.copy_of.where(features.copy_of >= 0, images.copy_of.to(device)),
        component=component,
        effective_count=effective,
        leaked_from=features.leaked_from.where(features.leaked_from >= 0, images.leaked_from.to(device)),
        way=f"{FEATURES} and {HASH}",
        parts=(features, images),
    )


def _rows_by_class(labels: Tensor, rows: Tensor, num_classes: int) -> tuple[Tensor, ...]:
    """The given rows of each class, ascending."""
    order = rows[torch.argsort(labels[rows], stable=True)]
    return tuple(order.split(torch.bincount(labels[rows], minlength=num_classes).tolist()))


def copies_of_sides(train: Side, heldout: Side, num_classes: int) -> NearCopies:
    """Return the near copies among the rows that the costly measures of a diagnosis use."""
    return _among_features(
        (train.raw, train.labels, train.queries),
        (heldout.raw, heldout.labels, heldout.queries),
        num_classes=num_classes,
        pairs=False,
        space_of_rows=train.query_space,
    )


def copies_of_embeddings(train: Embeddings, heldout: Embeddings, *, seed: int, pairs: bool = False) -> NearCopies:
    """Return the near copies that a diagnosis with this seed found; `copy_of` is known for all if `pairs` is set."""
    sides = (
        (side.features, side.labels, query_rows(side.labels, side.num_classes, QUERY_ROWS, seed=seed, name=name))
        for side, name in ((train, "queries train"), (heldout, "queries heldout"))
    )
    return _among_features(*sides, num_classes=train.num_classes, pairs=pairs)


def largest_groups(copies: NearCopies, labels: Tensor, most: int) -> list[tuple[int, Tensor, Tensor]]:
    """Return the largest groups of near copies, at most one of each class: the class, its training and held-out rows.

    Args:
        copies: The near copies.
        labels: `(N,)`, the classes of the training rows.
        most: Number of groups.

    Example:
        >>> copies = NearCopies(
        ...     copy_of=torch.tensor([1, 0, -1, -1]), component=torch.tensor([0, 0, 1, 2]),
        ...     effective_count=torch.tensor([1.0, 2.0]), leaked_from=torch.tensor([-1, 3]),
        ... )
        >>> [(c, *map(Tensor.tolist, rows)) for c, *rows in largest_groups(copies, torch.tensor([0, 0, 1, 1]), 5)]
        [(0, [0, 1], []), (1, [3], [1])]
    """
    numbers = copies.component
    known = (numbers >= 0).nonzero()[:, 0]
    if not len(known):
        return []
    size = torch.bincount(numbers[known])
    leaked = (copies.leaked_from >= 0).nonzero()[:, 0]
    of_leaked = numbers[copies.leaked_from[leaked]]
    leaked, of_leaked = leaked[of_leaked >= 0], of_leaked[of_leaked >= 0]
    size += torch.bincount(of_leaked, minlength=len(size))
    label = torch.zeros_like(size).scatter_(0, numbers[known], labels[known])
    found: dict[int, tuple[int, Tensor, Tensor]] = {}
    for one in size.argsort(descending=True, stable=True).tolist():
        c = int(label[one])
        if int(size[one]) < 2 or len(found) == most:
            break
        if c not in found:
            found[c] = (c, (numbers == one).nonzero()[:, 0], leaked[of_leaked == one])
    return list(found.values())


def put_near_copies(table: ClassTable, train: Side, heldout: Side, images: NearCopies | None = None) -> None:
    """Put the images after near copies, the share of held-out images with a near copy in training, and recall without them.

    Args:
        table: Receives the columns.
        train: The training side.
        heldout: The held-out side.
        images: Near copies of their rows that were found among the images.
    """
    copies = joined_copies(copies_of_sides(train, heldout, table.num_classes), images, train.labels)
    table.put("effective_count", copies.effective_count)
    rows = heldout.queries
    labels, leaked = heldout.labels[rows], copies.leaked_from[rows] >= 0
    known = copies.effective_count.isfinite().to(labels.device)
    number, total = (counts.class_counts(each, table.num_classes) for each in (labels[leaked], labels))
    table.put_share("near_copies_heldout", number, total.where(known, 0))
    hit = (heldout.predictions == heldout.labels)[rows]
    table.put_rate("recall_heldout_clean", hit[~leaked], labels[~leaked], heldout.groups_of(rows[~leaked]))
    none = (number == 0).cpu()
    for end in ("", "_low", "_high"):  # nothing to leave out: the recall of all rows
        name = f"recall_heldout_clean{end}"
        table.columns[name] = table.columns[f"recall_heldout{end}"].where(none, table.columns[name])


def copy_findings(columns: Mapping[str, Tensor], class_names: Sequence[str]) -> tuple[Finding, ...]:
    """Return a finding for each class whose training images are mostly near copies, or whose held-out images are copies.

    Args:
        columns: The columns of a diagnosis.
        class_names: One name per class.

    Example:
        >>> columns = {"count": torch.tensor([300.0]), "effective_count": torch.tensor([12.0])}
        >>> copy_findings(columns, ["ship"])[0].text
        '300 training images of ship, 12 effective: the others are near copies of them. Points to: collect images of the \
class that differ (other scenes, objects and days), because near copies teach the model little.'
    """
    if "effective_count" not in columns:
        return ()
    narrow = [_few_effective(columns, name, c) for c, name in enumerate(class_names)]
    leaks = [_leak(columns, name, c) for c, name in enumerate(class_names)] if "near_copies_heldout" in columns else []
    return tuple(finding for finding in (*narrow, *leaks) if finding is not None)


def _few_effective(columns: Mapping[str, Tensor], name: str, c: int) -> Finding | None:
    count, effective = float(columns["count"][c]), float(columns["effective_count"][c])
    if not (effective <= count / 2 and count - effective >= _FEWEST_COPIES):
        return None
    evidence = Evidence(measure="effective_count", value=effective, low=effective, high=effective, compared_with=count)
    return _finding(
        name,
        c,
        f"{count:,.0f} training images of {name}, {effective:,.0f} effective: the others are near copies of them.",
        evidence,
        "different images",
        KIND,
    )


def _leak(columns: Mapping[str, Tensor], name: str, c: int) -> Finding | None:
    share, low, high = (float(columns[f"near_copies_heldout{end}"][c]) for end in ("", "_low", "_high"))
    count = float(columns["count_heldout"][c])
    if not (share >= _LEAKED and share * count >= _FEWEST_LEAKED - 0.5):
        return None
    recall, clean, clean_low, clean_high = (
        float(columns[column][c])
        for column in (
            "recall_heldout",
            "recall_heldout_clean",
            "recall_heldout_clean_low",
            "recall_heldout_clean_high",
        )
    )
    without = (
        "no held-out image is left without them"
        if clean != clean
        else f"recall is {recall:.0%} with them and {clean:.0%} without (95% interval {clean_low:.0%} to {clean_high:.0%})"
    )
    evidence = Evidence(measure="near_copies_heldout", value=share, low=low, high=high, compared_with=0.0)
    return _finding(
        name,
        c,
        f"{share:.0%} of the {count:,.0f} held-out images of {name} are near copies of training images: {without}.",
        evidence,
        "new held-out images",
        LEAK_KIND,
    )


def _finding(name: str, c: int, text: str, evidence: Evidence, remedy: str, kind: str) -> Finding:
    return Finding(
        class_index=c,
        class_name=name,
        text=f"{text} Points to: {REMEDIES[remedy]}.",
        evidence=(evidence,),
        causes=(remedy,),
        remedy=remedy,
        kind=kind,
        trouble=(kind,),
    )
