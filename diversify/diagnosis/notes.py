"""What a reader of a diagnosis has to know about the rows that it was made from."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

from ..network.embeddings import Reading

SIDES = {"train": "training", "heldout": "held-out"}
_MOST = 6  # classes named in a note


def notes_of(readings: Mapping[str, Reading], class_names: Sequence[str]) -> tuple[str, ...]:
    """Return a sentence on each thing that a loader left out, gave twice, or would have left out.

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
            found.append(f"{loader} left out {_images(reading.left_out)} of its data set{named}.")
        if reading.repeated:
            found.append(f"{loader} gave {reading.repeated:,} more rows than its data set has images.")
        if reading.last_batch:
            number = reading.last_batch
            read = f"its {_images(number)} {'was' if number == 1 else 'were'} read, too"
            found.append(f"{loader} drops an incomplete last batch; {read}.")
    return tuple(found)


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


def _images(number: int) -> str:
    return f"{number:,} image{'' if number == 1 else 's'}"


def _listed(by_class: Sequence[int], class_names: Sequence[str]) -> str:
    lost = sorted((-number, c) for c, number in enumerate(by_class) if number)
    more = f" and {len(lost) - _MOST:,} more classes" if len(lost) > _MOST else ""
    return ", ".join(f"{class_names[c]} {-number:,}" for number, c in lost[:_MOST]) + more
