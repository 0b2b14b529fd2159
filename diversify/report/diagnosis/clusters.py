"""The section on clusters of held-out images that the model fails on."""

from __future__ import annotations

from collections.abc import Sequence

from ...diagnosis.clusters import FailingCluster
from ...diagnosis.exhibits import ClusterExamples, Example, Exhibits
from .. import wording
from ..record import Album, Cell, Gallery, Heading, Picture, Row, Section, Table
from ..wording import LONGEST_IN_TABLE, cut
from .subject import Subject

_NAME = 24  # characters of an image's file name
_ROWS = 20  # clusters in the table


def clusters_section(subject: Subject, exhibits: Exhibits | None) -> Section:
    """Return the section on failing clusters; the pictures only with `exhibits`."""
    found = subject.diagnosis.failing_clusters
    more = f" The table shows the {_ROWS} weakest of {len(found):,}." if len(found) > _ROWS else ""
    return Section(
        title="Failing clusters",
        anchor="clusters",
        note="The held-out images of a class were divided into clusters of similar features, without a look at the predictions. Recall"
        " of these clusters is surely below that of the rest of their class (exact test, adjusted for all clusters): the model"
        f" fails on a kind of image. Compare the pictures to see which.{more}",
        table=_table(subject, found[:_ROWS]),
        galleries=tuple(_gallery(subject, found[one.place], one) for one in exhibits.clusters) if exhibits else (),
    )


def _table(subject: Subject, found: Sequence[FailingCluster]) -> Table:
    def row(one: FailingCluster) -> Row:
        name, predicted = subject.names[one.class_index], subject.names[one.predicted]
        interval = wording.between(one.low, one.high, "percent")
        return Row(
            name=cut(name, LONGEST_IN_TABLE),
            full_name=name if len(name) > LONGEST_IN_TABLE else "",
            cells=(
                Cell(value=f"{len(one.rows):,}", interval=f"of {len(one.rows) + one.rest:,}"),
                Cell(value=wording.percent(one.recall), interval=interval),
                Cell(value=wording.percent(one.rest_recall)),
                Cell(value=predicted, interval=f"{one.predicted_count:,} of {len(one.rows) - one.hits:,} errors"),
            ),
        )

    titles = ("class", "images", "recall", "recall of the rest", "most predicted as")
    return Table(
        title="Failing clusters",
        caption="Lowest recall first. Brackets show 95% intervals.",
        headings=tuple(Heading(title=title) for title in titles),
        rows=tuple(map(row, found)),
        rows_are="clusters",
    )


def _gallery(subject: Subject, found: FailingCluster, one: ClusterExamples) -> Gallery:
    def album(title: str, examples: Sequence[Example]) -> Album:
        note = "Nearest to the centre first."
        return Album(
            title=title, note=note, pictures=tuple(_picture(subject, each, one.class_index) for each in examples)
        )

    return Gallery(
        title=f"{subject.names[one.class_index]}: a cluster with recall {wording.percent(found.recall)}",
        text=f"{found.hits:,} of {len(found.rows):,} images predicted correctly; {found.rest_hits:,} of the other {found.rest:,}."
        f" Found among {found.clusters} clusters (silhouette {found.silhouette:.2f}).",
        albums=(album("In the cluster", one.inside), album("Other images of the class", one.outside)),
    )


def _picture(subject: Subject, example: Example, c: int) -> Picture:
    predicted = subject.names[example.predicted]
    where = wording.plain(example.name) if example.name else f"held-out {example.index}"
    short = cut(where.rpartition("/")[2] or where, _NAME) if example.name else where
    right = example.predicted == c
    return Picture(
        source=example.picture,
        alt=f"{subject.names[c]}, {where}, predicted as {predicted}",
        caption="correct" if right else f"→ {predicted}",
        details=(short,),
    )
