"""The section on labels that are probably wrong."""

from __future__ import annotations

from collections.abc import Sequence

import torch

from ...diagnosis.catalogue import MEASURES
from ...diagnosis.exhibits import Exhibits, Suspect
from ...diagnosis.label_errors import COLUMNS, LabelErrors
from .. import wording
from ..record import Album, Cell, Gallery, Heading, Picture, Row, Section, Table
from ..wording import LONGEST_IN_TABLE, cut
from .subject import Subject

_SIDES = {"heldout": "held-out", "train": "training"}
_ROWS = 12  # classes in the table
_NAME = 24  # characters of an image's file name


def suspects_section(subject: Subject, exhibits: Exhibits | None) -> Section:
    """Return the section on suspect labels; the pictures only with `exhibits`."""
    errors = {side: subject.diagnosis.label_errors[side] for side in _SIDES if side in subject.diagnosis.label_errors}
    wrong = {side: one.wrong_classes for side, one in errors.items()}
    if any(wrong.values()):
        verdict = " ".join(
            f"Among {_SIDES[side]} images, labels are probably wrong in: {', '.join(subject.names[c] for c in classes)}."
            for side, classes in wrong.items()
            if classes
        )
    else:
        verdict = "No class has surely more suspects than right labels explain."
    note = (
        "A label is suspect if a head fitted on the other images puts the image into another class with confidence. Hard images"
        " are suspect, too: the expected number says how many would be if every label were right. Only the excess speaks for"
        f" wrong labels. {verdict} Look at the images before you change a label."
    )
    shown = [("heldout", exhibits.suspects_heldout), ("train", exhibits.suspects_train)] if exhibits else []
    galleries = tuple(_gallery(subject, side, errors[side], some) for side, some in shown if side in errors and some)
    return Section(
        title="Suspect labels", anchor="labels", note=note, table=_table(subject, errors), galleries=galleries
    )


def _table(subject: Subject, errors: dict[str, LabelErrors]) -> Table:
    """The classes with the largest excess of suspects; a class with probably wrong labels has bold numbers."""
    excess = torch.stack([(one.count - one.expected).nan_to_num(-1e9) for one in errors.values()]).amax(0).tolist()
    wrong = {side: set(one.wrong_classes) for side, one in errors.items()}
    classes = sorted(range(len(subject.names)), key=lambda c: (-excess[c], c))[:_ROWS]
    rows = [
        Row(
            name=cut(subject.names[c], LONGEST_IN_TABLE),
            full_name=subject.names[c] if len(subject.names[c]) > LONGEST_IN_TABLE else "",
            cells=tuple(
                cell
                for side, one in errors.items()
                for cell in (
                    Cell(
                        value=wording.formatted(float(one.count[c]), "images"),
                        interval=f"of {int(one.measured[c]):,}",
                        strong=c in wrong[side],
                    ),
                    Cell(value=wording.formatted(float(one.expected[c]), "number")),
                )
            ),
        )
        for c in classes
    ]
    headings = [Heading(title="class")]
    for side in errors:
        for column, title in ((COLUMNS[side], "suspect"), (f"{COLUMNS[side]}_expected", "expected")):
            meaning = wording.with_source(MEASURES[column])
            headings.append(Heading(title=f"{title}, {_SIDES[side]}", meaning=meaning, anchor=wording.anchor(column)))
    left = len(subject.names) - len(classes)
    more = f" {wording.number_of(left, 'class is', 'classes are')} left out." if left else ""
    return Table(
        title="Suspect labels",
        caption=f"Largest excess first; bold where labels are probably wrong.{more}",
        headings=tuple(headings),
        rows=tuple(rows),
    )


def _gallery(subject: Subject, side: str, errors: LabelErrors, some: Sequence[Suspect]) -> Gallery:
    count, expected = float(errors.count.nansum()), float(errors.expected.nansum())
    return Gallery(
        title=f"Suspect labels of {_SIDES[side]} images",
        text=f"{wording.number_of(round(count), 'label is', 'labels are')} suspect; about {expected:,.0f} would be if all were"
        " right.",
        albums=(
            Album(
                title="Label → suggested class",
                note=f"The {len(some)} most suspect"
                + (", those of classes with probably wrong labels first." if errors.wrong_classes else "."),
                pictures=tuple(_picture(subject, side, one) for one in some),
            ),
        ),
    )


def _picture(subject: Subject, side: str, one: Suspect) -> Picture:
    given, suggested = subject.names[one.given], subject.names[one.suggested]
    where = wording.plain(one.name) if one.name else f"{'train' if side == 'train' else 'held-out'} {one.index}"
    short = cut(where.rpartition("/")[2] or where, _NAME) if one.name else where
    return Picture(
        source=one.picture,
        alt=f"{where}, labelled {given}, looks like {suggested}",
        caption=f"{given} → {suggested}",
        details=(short,),
    )
