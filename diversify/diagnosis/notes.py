"""What a reader of a diagnosis has to know about the rows that it was made from."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import torch
from torch import Tensor

from ..functional.whitening import covariance_rows
from ..network.reading import Reading

SIDES = {"train": "training", "heldout": "held-out"}
_MOST = 6  # classes named in a note


def notes_of(readings: Mapping[str, Reading], class_names: Sequence[str]) -> tuple[str, ...]:
    """Return a sentence on each thing that a loader left out, gave twice, would have left out, or changed at random.

    Args:
        readings: How the loader of each side, "train" and "heldout", gave its rows.
        class_names: One name per class.

    Example:
        >>> notes_of({"train": Reading(left_out=3, left_out_by_class=(0, 3))}, ("cat", "owl"))
        ('The training loader left out 3 images of its data set: owl 3.',)
    """
    found = []
    for side, reading in readings.items():
        loader = f"The {SIDES[side]} loader"
        if reading.left_out:
            by_class = reading.left_out_by_class
            named = "" if by_class is None else f": {_listed(by_class, class_names)}"
            least = "at least " if reading.repeated else ""
            found.append(f"{loader} left out {least}{_images(reading.left_out)} of its data set{named}.")
        if reading.unreadable:
            by_class = reading.unreadable_by_class
            named = "" if by_class is None else f": {_listed(by_class, class_names)}"
            images = _images(reading.unreadable)
            found.append(f"The {SIDES[side]} data set is without {images} that cannot be read{named}.")
        if reading.repeated and reading.left_out:
            again = "came" if reading.repeated > 1 else "comes"
            found.append(
                f"{loader} gave as many rows as its data set has images, but in other numbers per class: at least"
                f" {_images(reading.repeated)} {again} more than once, as from a sampler that draws with replacement. Pass a"
                " loader that gives each image once: dv.clean_loader(loader) makes one."
            )
        elif reading.repeated:
            found.append(f"{loader} gave {reading.repeated:,} more rows than its data set has images.")
        if reading.last_batch:
            number = reading.last_batch
            read = f"its {_images(number)} {'was' if number == 1 else 'were'} read, too"
            found.append(f"{loader} drops an incomplete last batch; {read}.")
        if reading.other_labels:
            number = reading.other_labels
            found.append(
                f"{loader} gave {_images(number)} another label than its data set shows, or other images in their place. The"
                " diagnosis takes the labels that the loader gave; a sampler or a plan has to be made from the same."
            )
        if reading.augmented_by:
            names = ", ".join(reading.augmented_by)
            found.append(
                f"{loader} augments its images ({names}): their features are not those of the images themselves. Use"
                " dv.clean_loader(loader), or the transform of evaluation."
            )
        if reading.shared:
            found.append(
                f"{reading.shared:,} of the {SIDES[side]} images {'is a training image' if reading.shared == 1 else 'are training images'}:"
                " their recall says nothing about new images. Pass images that the model was not trained on."
            )
    return tuple(found)


def index_note(queries: Mapping[str, Any]) -> tuple[str, ...]:
    """Return a sentence on neighbours that were looked up with an index; nothing where the search was exact.

    Args:
        queries: The record of the rows of each side that costly measures used.

    Example:
        >>> index_note({"train": {"neighbour_recall": 0.953}, "heldout": {}})[0][:66]
        'The nearest training images were looked up with an index, which fi'
    """
    train = queries.get("train")
    recall = train.get("neighbour_recall") if isinstance(train, Mapping) else None
    if recall is None:
        return ()
    return (
        f"The nearest training images were looked up with an index, which finds about {recall:.0%} of them. The archetypes (safe, border,"
        " rare, outlier) and the classes that errors lie near are from these.",
    )


def sample_note(rows: int, num_features: int) -> tuple[str, ...]:
    """Return a sentence on a measure whose space is learned from a sample of the training rows; nothing where it is from all.

    Args:
        rows: Training images.
        num_features: D.

    Example:
        >>> sample_note(100_000, 2048)[0][-47:], sample_note(100_000, 512)
        ('learned from 20,480 of 100,000 training images.', ())
    """
    most = covariance_rows(num_features)
    if rows <= most:
        return ()
    return (
        "The directions along which images of a class are compared for the diversity of distinct images are"
        f" learned from {most:,} of {rows:,} training images.",
    )


def without_weights_note(head_norm: Sequence[float], class_names: Sequence[str]) -> tuple[str, ...]:
    """Return a sentence on the classes whose weights in the head are all 0; nothing where there are none.

    Args:
        head_norm: Length of each class's weights.
        class_names: One name per class.

    Example:
        >>> without_weights_note([0.0, 1.5], ("cat", "owl"))[0][:31]
        'The head has no weights for cat'
    """
    silent = [name for name, norm in zip(class_names, head_norm, strict=True) if norm == 0]
    if not silent:
        return ()
    more = f" and {len(silent) - _MOST:,} more classes" if len(silent) > _MOST else ""
    return (
        f"The head has no weights for {', '.join(silent[:_MOST])}{more}, as a model with one output has none for its class"
        " 0: what is measured with these weights is left out.",
    )


def group_notes(columns: Mapping[str, Tensor], class_names: Sequence[str]) -> tuple[str, ...]:
    """Return sentences on what groups of images mean for a diagnosis; none where no groups are known.

    Args:
        columns: The columns of a diagnosis.
        class_names: One name per class.

    Example:
        >>> group_notes({"groups_heldout": torch.tensor([4.0]), "groups_shared": torch.tensor([0.25])}, ["cat"])[1][:54]
        'Held-out images of groups that are also in training: c'
    """
    known = {name: columns[name] for name in ("groups_train", "groups_heldout", "groups_shared") if name in columns}
    sides = [
        words for name, words in SIDES.items() if bool(known.get(f"groups_{name}", torch.empty(0)).isfinite().any())
    ]
    found = []
    if sides:
        found.append(
            f"The {' and '.join(sides)} images have groups: intervals of recall, precision, margin and magnitudes count groups, not"
            " images, and folds split no group. The other intervals count images."
        )
    alone = known.get("groups_heldout", torch.empty(0)) == 1
    if "count_heldout" in columns and len(alone):
        alone &= columns["count_heldout"] > 1
    if bool(alone.any()):
        number = int(alone.sum())
        named = ", ".join(class_names[c] for c in alone.nonzero()[:_MOST, 0].tolist()) + (
            ", …" if number > _MOST else ""
        )
        found.append(
            f"All held-out images of {'a class' if number == 1 else f'each of {number:,} classes'} are of one group: {named}."
            f" How much recall varies between groups cannot be known from one, so its interval is 0% to 100%, and no finding"
            " on low recall is possible. Hold out images of more groups."
        )
    shared = known.get("groups_shared", torch.empty(0)).nan_to_num(0.0)
    if bool((shared > 0).any()):
        classes = shared.argsort(descending=True, stable=True).tolist()
        shared_most = [f"{class_names[c]} {shared[c]:.0%}" for c in classes[:_MOST] if shared[c] > 0]
        more = int((shared > 0).sum()) - len(shared_most)
        found.append(
            f"Held-out images of groups that are also in training: {', '.join(shared_most)}{f' and {more:,} more classes' if more else ''}."
            " Recall on new groups may be lower."
        )
    return tuple(found)


def _images(number: int) -> str:
    return f"{number:,} image{'' if number == 1 else 's'}"


def _listed(by_class: Sequence[int], class_names: Sequence[str]) -> str:
    lost = sorted((-number, c) for c, number in enumerate(by_class) if number)
    more = f" and {len(lost) - _MOST:,} more classes" if len(lost) > _MOST else ""
    return ", ".join(f"{class_names[c]} {-number:,}" for number, c in lost[:_MOST]) + more
