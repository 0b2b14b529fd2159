"""The section on example images of the fragile classes."""

from __future__ import annotations

from collections.abc import Sequence

from ...diagnosis.exhibits import ClassExamples, Example, Exhibits
from .. import wording
from ..record import Album, Gallery, Picture, Section
from ..wording import cut
from .subject import Subject

_NAME = 24  # characters of an image's file name


def images_section(subject: Subject, exhibits: Exhibits) -> Section:
    """Return the section on example images."""
    if not exhibits.examples:
        note = "No class is fragile, so no images are shown."
    else:
        note = (
            "For each fragile class, this section shows typical, border and outlier training images, and held-out images that were"
            " predicted as another class. Each error lists the predicted class and the features that contributed most to it, with"
            " how many logits more a feature gave to the predicted class than to the true class. Fixed rules choose the images; in"
            " a small class, an image may appear twice."
        )
        if exhibits.fragile > len(exhibits.examples):
            note += f" Shown are the {len(exhibits.examples)} weakest of {exhibits.fragile} fragile classes."
    unknown = [
        side
        for side, known in (("training", exhibits.train_indices_known), ("held-out", exhibits.heldout_indices_known))
        if not known
    ]
    if exhibits.examples and unknown:
        note += (
            f" The {' and '.join(unknown)} images are named by their row and shown without pictures, because their loader does"
            " not say which image of the data set a row is."
        )
    galleries = tuple(_gallery(subject, one) for one in exhibits.examples)
    return Section(title="Example images", anchor="images", note=note, galleries=galleries)


def _gallery(subject: Subject, one: ClassExamples) -> Gallery:
    recall = wording.formatted(wording.at(subject.columns, "recall_heldout", one.class_index), "share")
    count, heldout = (
        int(wording.at(subject.columns, column, one.class_index)) for column in ("count", "count_heldout")
    )
    sampled = f" (among {one.candidates:,} drawn at random)" if one.candidates < count else ""

    def album(title: str, note: str, empty: str, examples: Sequence[Example], split: str) -> Album:
        pictures = tuple(_picture(subject, each, one.class_index, split) for each in examples)
        return Album(title=title, note=note if pictures else empty, pictures=pictures)

    return Gallery(
        title=subject.names[one.class_index],
        text=f"{wording.number_of(count, 'training image', 'training images')}; {recall} of"
        f" {wording.number_of(heldout, 'held-out image', 'held-out images')} predicted correctly.",
        albums=(
            album("Typical", f"Nearest to the mean of the class's features{sampled}.", "None.", one.typical, "train"),
            album(
                "Border",
                f"2 or 3 of 5 nearest neighbours belong to the class: {_number(one.borders)}{sampled}. Lowest margin first.",
                _none(one.borders, f"No image{sampled} has 2 or 3 of 5 nearest neighbours in the class."),
                one.border,
                "train",
            ),
            album(
                "Outliers",
                f"No nearest neighbour belongs to the class: {_number(one.outliers)}{sampled}. Farthest from the mean first.",
                _none(one.outliers, f"Every image{sampled} has a neighbour of its class."),
                one.outlier,
                "train",
            ),
            album(
                "Held-out errors",
                f"{one.misses:,} in total. Shown are the most confident errors of the most frequent wrong predictions. ● marks features"
                " among the predicted class's top-K.",
                "None.",
                one.errors,
                "held-out",
            ),
        ),
    )


def _none(images: int | None, text: str) -> str:
    return "Undefined: there are fewer than 5 other training images." if images is None else text


def _number(images: int | None) -> str:
    return "" if images is None else wording.number_of(images, "image", "images")


def _picture(subject: Subject, example: Example, c: int, split: str) -> Picture:
    predicted = subject.names[example.predicted]
    where = wording.plain(example.name) if example.name else f"{split} {example.index}"
    short = cut(where.rpartition("/")[2] or where, _NAME) if example.name else where
    if split == "train":
        wrong = "" if example.predicted == c else f", predicted as {predicted}"
        return Picture(source=example.picture, alt=f"{subject.names[c]}, {where}{wrong}", caption=short)
    pulls = [
        f"feature {pull.feature} {wording.signed(pull.logits, 1 if pull.logits >= 1 else 2)}"
        + (" ●" if pull.top_k else "")
        for pull in example.pulls
    ]
    lead = wording.formatted(-example.margin, "logits")
    return Picture(
        source=example.picture,
        alt=f"{subject.names[c]}, {where}, predicted as {predicted} by {lead} logits",
        caption=f"→ {predicted}",
        details=(*pulls, short),
    )
