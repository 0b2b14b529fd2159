"""Copies among the images that a command diagnoses, said and recorded."""

from __future__ import annotations

from typing import Any

from ..data.decode import as_image
from ..data.duplicates import copies_in_words, duplicates_and_hashes, find_duplicates
from ..data.hashes import INSTALL, SMALLEST, can_hash
from ..data.load import Data
from ..data.loader import Split
from ..diagnosis.near_copies import NearCopies, copies_of_hashes
from ..runtime.progress import Say, StageProgress


def look_for_copies(
    data: Data,
    heldout: Split,
    record: dict[str, Any],
    *,
    say: Say,
    progress: StageProgress | None = None,
) -> NearCopies | None:
    """Look for held-out images that are also in train, and for near copies by perceptual hash.

    Args:
        data: The data.
        heldout: The held-out images.
        record: Gets `duplicates`; its `heldout_split` names the split.
        say: Called with notes for the user.
        progress: Called as images are read.

    Returns:
        The near copies; None if images are not hashed.
    """
    train, hashes = data.train, None
    if can_hash() and _shorter_side(train) >= SMALLEST:
        found, hashes = duplicates_and_hashes(train, heldout, progress)
    else:
        found = find_duplicates(train, heldout, progress)
    record["duplicates"] = found.record(record["heldout_split"], len(heldout))
    if note := copies_in_words(record["duplicates"]):
        say(f"note: {note}")
    if hashes is None:
        if not can_hash():
            say(f"note: near copies are looked for in features alone; `{INSTALL}` compares the images, too")
        return None
    sides = [(hashes[0], train.labels), (hashes[1], heldout.labels)]
    return copies_of_hashes(sides, num_classes=data.num_classes)


def _shorter_side(split: Split) -> int:
    """The shorter side of the first image of a split, in pixels."""
    return min(as_image(split.dataset[0][0]).shape[1:])
