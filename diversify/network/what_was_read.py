"""What a loader left out, gave twice, or labelled otherwise: the `Reading` of an extraction, by the data set behind the loader."""

from __future__ import annotations

import warnings
from dataclasses import replace

import torch
from torch import Tensor

from ..data.labels import labels_of, stored_labels
from ..data.skip_bad import left_out_below
from ..errors import InputError
from ..functional import counts
from ..runtime.user_code import is_passed_on
from .loader_batches import length_of
from .reading import Reading
from .resumable import Table


def reading_of(loader: object, table: Table, *, indices_known: bool, last_batch: int) -> Reading:
    """What the loader left out and gave twice, by its data set's length and labels."""
    size, labels = length_of(loader), table.filled("labels")
    if size is None:
        return Reading(indices_known=indices_known, last_batch=last_batch)
    reading = Reading(
        indices_known=indices_known,
        left_out=max(0, size - len(labels)),
        repeated=max(0, len(labels) - size),
        last_batch=last_batch,
    )
    if table.several:
        return reading
    num_classes = table.filled("logits").shape[1]
    if size == len(labels):
        return _compared(reading, loader, table, num_classes)
    known = _labels_of(loader, size, num_classes)
    if known is None or (indices_known and not torch.equal(known[table.filled("indices")], labels)):
        return reading
    difference = counts.class_counts(known, num_classes) - counts.class_counts(labels, num_classes)
    if bool((difference < 0).any()):
        return reading
    return replace(reading, left_out_by_class=tuple(difference.tolist()))


def _compared(reading: Reading, loader: object, table: Table, num_classes: int) -> Reading:
    """The reading of as many rows as images, with the labels that are others than those of the data set.

    Where it is not known which image a row shows, other class counts mean that images came again in place of others.
    """
    labels = table.filled("labels")
    shown = [each for each in _stored_labels(loader) if len(each) == len(labels)]
    if not shown:
        return reading
    if reading.indices_known:
        nearest = min((each[table.filled("indices")] for each in shown), key=lambda each: int((each != labels).sum()))
        other = nearest[(nearest != labels) & (nearest < num_classes)]
        by_class = tuple(counts.class_counts(other, num_classes).tolist()) if len(other) else None
        return replace(reading, other_labels=int((nearest != labels).sum()), other_labels_by_class=by_class)
    read = counts.class_counts(labels, num_classes)
    if any(torch.equal(each.sort().values, labels.sort().values) for each in shown):
        return reading
    known = _labels_of(loader, len(labels), num_classes)
    if known is None:
        return reading
    difference = counts.class_counts(known, num_classes) - read
    lost = difference.clamp(min=0)
    number = int(lost.sum())
    return replace(reading, left_out=number, left_out_by_class=tuple(lost.tolist()), repeated=number)


def _stored_labels(loader: object) -> list[Tensor]:
    """The labels that a loader's data set shows, without its examples; nothing where it shows none."""
    try:
        return stored_labels(loader.dataset)  # type: ignore[attr-defined]
    except Exception as error:  # the user's data set may raise anything where it is asked for its labels
        if is_passed_on(error) and not isinstance(error, InputError):
            raise
        return []


def with_unreadable(reading: Reading, loader: object, num_classes: int) -> Reading:
    """The reading with the images that `skip_bad` left out of the data set."""
    found = left_out_below(getattr(loader, "dataset", None))
    labels = [each.label for each in found if each.label is not None and each.label < num_classes]
    if len(labels) < len(found) or not found:
        return replace(reading, unreadable=len(found))
    numbers = counts.class_counts(torch.tensor(labels), num_classes)
    return replace(reading, unreadable=len(found), unreadable_by_class=tuple(numbers.tolist()))


def _labels_of(loader: object, size: int, num_classes: int) -> Tensor | None:
    """The labels of a loader's data set, read without its images; None where that cannot be done."""
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # examples that cannot be compared: `reading_of` compares the rows
            labels = labels_of(loader.dataset)  # type: ignore[attr-defined]
    except Exception as error:  # the user's data set may raise anything where it is asked for its labels
        if is_passed_on(error):
            raise
        return None
    return labels if len(labels) == size and int(labels.max()) < num_classes else None
