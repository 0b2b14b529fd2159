"""The images to label next, as one offline HTML page."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from ..diagnosis.result import Diagnosis
from ..plan.suggest_images import SuggestedImage, Suggestion
from . import page, wording
from .record import Album, Cell, Definition, Gallery, Heading, Headline, Picture, Report, Row, Section, Statement, Table
from .wording import DASH


def render_suggestion_html(
    found: Suggestion, diagnosis: Diagnosis, run: Mapping[str, Any], pictures: Sequence[str]
) -> str:
    """Return the page; `run` is the content of run.json, and `pictures` has a `data:` address or "" for each image.

    Args:
        found: The suggestion.
        diagnosis: The diagnosis of the network.
        run: The content of run.json.
        pictures: One per suggested image.
    """
    names = tuple(wording.named(name) for name in found.class_names)
    of = wording.look(run, "of") or {}
    model = wording.look(of, "model", "name")
    return page.html(
        Report(
            title=f"Images to label next for {wording.plain(model or 'a network')}",
            subtitle=wording.sentence(wording.plain(found.in_words())),
            warnings=tuple(("Note:", wording.sentence(wording.plain(text))) for text in run.get("notes") or ()),
            headlines=(
                Headline(label="Images to label", value=f"{len(found):,}", detail=f"of {found.pool:,} in the pool"),
                Headline(
                    label="Near copies of known images",
                    value=f"{found.copies:,}",
                    detail="training or held-out; left out",
                ),
                Headline(label="Method", value=found.method, detail=f"seed {found.seed}"),
            ),
            findings_note="The class of an image is a guess. The list is also in picks.csv and picks.json.",
            findings=(_most_needed(found, names),),
            table=_class_table(found, diagnosis, names),
            sections=(*_how_many(run), _contact_sheet(found, names, pictures)),
            beyond_note="",
            beyond=None,
            definitions=_DEFINITIONS,
            origin=(
                *((label, text) for label, text in wording.origin_of(of) if label not in ("note", "seed", "started")),
                ("pool", wording.plain(wording.look(run, "pool", "spec") or "")),
                *(
                    (f"suggested: {label}", text)
                    for label, text in wording.origin_of(run)
                    if label in ("versions", "commit", "started")
                ),
            ),
        )
    )


_DEFINITIONS = (
    Definition(
        title="need",
        text="1 minus the held-out recall of the class, to which 4 images with the mean recall are added because a recall of few images"
        " says little; at least 0.02, and divided by the mean over the classes. The choice of images does not depend on it.",
        anchor="measure-need",
    ),
    Definition(
        title="score",
        text="What the method ranks by. For coverage it is the total weight of the images that this one stands for, and the weight of"
        " an image is 1 minus the difference of its two largest probabilities.",
        anchor="measure-score",
    ),
)


def _most_needed(found: Suggestion, names: Sequence[str]) -> Statement:
    c = max(range(len(names)), key=lambda one: found.need[one])
    count = sum(one.predicted == c for one in found.images)
    return Statement(
        title=names[c],
        text=f"{names[c]} has the most to gain: its need is {found.need[c]:.1f} times the mean. {count:,} of the"
        f" {len(found):,} images are predicted as {names[c]}.",
        advice="Label the images in the order of the list, refit or retrain, and diagnose again.",
    )


def _class_table(found: Suggestion, diagnosis: Diagnosis, names: Sequence[str]) -> Table:
    columns = diagnosis.columns
    order = sorted(range(len(names)), key=lambda c: -found.need[c])
    shares = [sum(one.predicted == c for one in found.images) for c in range(len(names))]

    def cells(c: int) -> tuple[Cell, ...]:
        recall = wording.at(columns, "recall_heldout", c)
        return (
            Cell(value=f"{int(wording.at(columns, 'count', c)):,}"),
            Cell(
                value=DASH if recall != recall else wording.share(recall),
                interval=wording.column_interval(columns, "recall_heldout", c, "share"),
            ),
            Cell(value=f"{found.need[c]:.2f}"),
            Cell(value=f"{shares[c]:,}"),
        )

    return Table(
        title="Classes",
        caption="Classes in the order of their need. Brackets show 95% intervals.",
        headings=tuple(
            Heading(title=title, short=title, anchor=anchor)
            for title, anchor in (
                ("class", ""),
                ("training images", ""),
                ("held-out recall", ""),
                ("need", "measure-need"),
                ("suggested images predicted as it", ""),
            )
        ),
        rows=tuple(Row(name=names[c], cells=cells(c)) for c in order),
    )


def _how_many(run: Mapping[str, Any]) -> tuple[Section, ...]:
    """Return the section on what more labels of a class would give; none without a forecast."""
    curve = wording.look(run, "learning_curve") or {}
    if not curve.get("text"):
        return ()
    shown = [place for place, row in enumerate(curve["forecast"]) if any(value is not None for value in row)]
    asked = [at for at in range(len(curve["more"])) if any(row[at] is not None for row in curve["forecast"])]

    def cells(place: int) -> tuple[Cell, ...]:
        now = (curve["recall"][place], curve["recall_low"][place], curve["recall_high"][place])
        later = [[curve[f"forecast{end}"][place][at] for end in ("", "_low", "_high")] for at in asked]
        return (Cell(value=f"{curve['count'][place]:,}"), *(_expected(*one) for one in (now, *later)))

    titles = ("class", "training images", "recall now", *(f"{curve['more'][at]:,} more" for at in asked))
    return (
        Section(
            title="How many labels",
            anchor="how-many",
            note=_HOW_MANY,
            table=Table(
                title="Recall with more labels",
                caption="Recall of a class-balanced head on the same features. Brackets show 95% intervals of the recall on many new"
                " images; a dash stands where the held-out images are too few to say.",
                headings=tuple(Heading(title=title, short=title) for title in titles),
                rows=tuple(Row(name=wording.named(curve["class_names"][place]), cells=cells(place)) for place in shown),
            ),
        ),
    )


_HOW_MANY = (
    "What labels of one class alone are expected to give. The head was refitted with some of the held-out images of the class added"
    " to its training images, and judged on the others; the rise was carried on to more. This assumes new images like the held-out"
    " ones, taken at random and labelled rightly, and features that stay as they are: training the whole network may give more."
)


def _expected(value: float | None, low: float | None, high: float | None) -> Cell:
    if value is None or low is None or high is None:
        return Cell(value=DASH)
    return Cell(value=wording.share(value), interval=wording.between(low, high, "share"))


def _contact_sheet(found: Suggestion, names: Sequence[str], pictures: Sequence[str]) -> Section:
    places: dict[int, list[int]] = {}
    for place, one in enumerate(found.images):
        places.setdefault(one.predicted, []).append(place)
    return Section(
        title="Images to label",
        anchor="images",
        note="By predicted class; the number before a name is the place in the list.",
        galleries=tuple(
            Gallery(
                title=f"Predicted as {names[c]}",
                text=wording.number_of(len(rows), "image", "images"),
                albums=(
                    Album(
                        title="To label",
                        note="First in the list first.",
                        pictures=tuple(_picture(place, found.images[place], pictures[place]) for place in rows),
                    ),
                ),
            )
            for c, rows in sorted(places.items(), key=lambda item: -found.need[item[0]])
        ),
    )


def _picture(place: int, one: SuggestedImage, source: str) -> Picture:
    name = wording.plain(one.name or f"image {one.index}")
    return Picture(
        source=source,
        alt=f"{place + 1}: {name}, {wording.plain(one.reason)}",
        caption=f"{place + 1}: {name}",
        details=(wording.plain(one.reason),),
    )
