"""The section on near copies: the images that a class has after near copies, and held-out images that are copies."""

from __future__ import annotations

import math
from collections.abc import Sequence

from ...diagnosis.catalogue import MEASURES
from ...diagnosis.exhibits import CopyExamples, CopyPair, Example, Exhibits
from ...diagnosis.result import Diagnosis
from .. import wording
from ..record import Album, Cell, Gallery, Heading, Picture, PictureTable, Row, Section, Table
from ..wording import LONGEST_IN_TABLE, cut
from .subject import Subject

COPY_COLUMNS = {  # measure: heading
    "count": "images, train",
    "effective_count": "after near copies",
    "count_heldout": "images, held-out",
    "near_copies_heldout": "near copies, held-out",
    "recall_heldout": "recall, held-out",
    "recall_heldout_clean": "recall without them",
}
_ROWS = 12  # classes in the table
_NAME = 24  # characters of an image's file name


def classes_with_copies(diagnosis: Diagnosis) -> list[int]:
    """Return the classes that have near copies, those with the largest share of copies first."""

    def share(c: int) -> float:
        count = wording.at(diagnosis.columns, "count", c)
        lost = 1 - wording.at(diagnosis.columns, "effective_count", c) / count if count else 0.0
        leaked = wording.at(diagnosis.columns, "near_copies_heldout", c)
        return max((each for each in (lost, leaked) if not math.isnan(each)), default=0.0)

    found = [c for c in range(len(diagnosis.class_names)) if share(c) > 0]
    return sorted(found, key=lambda c: (-share(c), c))


def copies_section(subject: Subject, classes: Sequence[int], exhibits: Exhibits | None) -> Section:
    """Return the section on near copies; the pictures only with `exhibits`."""
    note = (
        "Two images of a class are near copies if their features lie closer together than those of different images do. Copies"
        " of a training image teach the model little: after near copies, a class has as many images as the table says. A held-out"
        " image that is a copy of a training image is recognised from memory: the last column leaves such images out. Copies"
        " that were changed strongly are not found."
    )
    if exhibits and exhibits.images_compared:
        note += (
            " The images were compared, too, by a perceptual hash of 256 bits: it finds copies that were resized, compressed or"
            " changed in light. A pair that either way finds counts."
        )
    groups = exhibits.near_copies if exhibits else ()
    pairs = exhibits.copy_pairs if exhibits else ()
    return Section(
        title="Near copies",
        anchor="near-copies",
        note=note,
        table=_table(subject, classes),
        picture_tables=(_pictures(subject, pairs),) if any(one.image.picture for one in pairs) else (),
        summary=_pairs(subject, pairs) if pairs else None,
        galleries=tuple(_gallery(subject, one) for one in groups),
    )


def _table(subject: Subject, classes: Sequence[int]) -> Table:
    rows = [
        Row(
            name=cut(subject.names[c], LONGEST_IN_TABLE),
            full_name=subject.names[c] if len(subject.names[c]) > LONGEST_IN_TABLE else "",
            cells=tuple(
                Cell(
                    value=wording.formatted(wording.at(subject.columns, name, c), MEASURES[name].unit),
                    interval=wording.column_interval(subject.columns, name, c, MEASURES[name].unit),
                )
                for name in COPY_COLUMNS
            ),
        )
        for c in classes[:_ROWS]
    ]
    headings = (
        Heading(title=title, meaning=wording.with_source(MEASURES[name]), anchor=wording.anchor(name))
        for name, title in COPY_COLUMNS.items()
    )
    left = len(classes) - len(rows)
    more = f" {wording.number_of(left, 'class', 'classes')} with fewer copies left out." if left else ""
    return Table(
        title="Near copies",
        caption=f"The classes with near copies, most copies first.{more}",
        headings=(Heading(title="class"), *headings),
        rows=tuple(rows),
    )


_PAIRS = "Pairs of near copies"
_CAPTION = "Of each class the least alike: if these are copies, the others are."


def _pictures(subject: Subject, pairs: Sequence[CopyPair]) -> PictureTable:
    """The pairs side by side."""
    return PictureTable(
        title=_PAIRS,
        caption=_CAPTION,
        corner="class and difference",
        columns=("image", "training image"),
        rows=tuple(
            (
                subject.names[one.class_index],
                f"{_where(one.image, one.heldout)} and {_where(one.copy_of, False)}: {_difference(one)}",
                (
                    (one.image.picture,) if one.image.picture else (),
                    (one.copy_of.picture,) if one.copy_of.picture else (),
                ),
            )
            for one in pairs
        ),
    )


def _pairs(subject: Subject, pairs: Sequence[CopyPair]) -> Table:
    """The pairs in words."""
    return Table(
        title=_PAIRS,
        caption=f"{_PAIRS}. {_CAPTION}",
        headings=tuple(Heading(title=title) for title in ("class", "image", "training image", "difference")),
        rows=tuple(
            Row(
                name=cut(subject.names[one.class_index], LONGEST_IN_TABLE),
                cells=tuple(
                    Cell(value=text)
                    for text in (_where(one.image, one.heldout), _where(one.copy_of, False), _difference(one))
                ),
            )
            for one in pairs
        ),
        prose=True,
    )


def _difference(one: CopyPair) -> str:
    """How the two images of a pair were found and how far apart they are."""
    found = [f"image hash, {one.bits} of 256 bits differ"] if one.bits is not None else []
    if one.distance is not None:
        found.append(f"features, {wording.percent(one.distance)} of the median distance in the class")
    return "; ".join(found)


def _where(example: Example, heldout: bool) -> str:
    where = wording.plain(example.name) if example.name else f"{'held-out' if heldout else 'train'} {example.index}"
    return cut(where.rpartition("/")[2] or where, _NAME) if example.name else where


def _gallery(subject: Subject, one: CopyExamples) -> Gallery:
    total = wording.number_of(one.in_train, "training image", "training images")
    leaked = f" and {wording.number_of(one.in_heldout, 'held-out image', 'held-out images')}" if one.in_heldout else ""
    return Gallery(
        title=subject.names[one.class_index],
        text=f"Its largest group of near copies: {total}{leaked}.",
        albums=tuple(
            Album(
                title=title,
                note=_shown(examples, number),
                pictures=tuple(_picture(subject, one, each, split) for each in examples),
            )
            for title, examples, number, split in (
                ("Training images", one.train, one.in_train, "train"),
                ("Held-out images", one.heldout, one.in_heldout, "held-out"),
            )
            if examples
        ),
    )


def _shown(examples: Sequence[Example], number: int) -> str:
    return f"{len(examples)} of {number:,}." if len(examples) < number else ""


def _picture(subject: Subject, one: CopyExamples, example: Example, split: str) -> Picture:
    where = wording.plain(example.name) if example.name else f"{split} {example.index}"
    short = cut(where.rpartition("/")[2] or where, _NAME) if example.name else where
    return Picture(source=example.picture, alt=f"{subject.names[one.class_index]}, {where}", caption=short)
