"""The section on neighbours: the classes near training images and near errors, and the map of held-out images."""

from __future__ import annotations

import torch

from ...diagnosis.exhibits import FeatureMap
from .. import plots, wording
from ..plots import Points, Stacked
from ..record import Chart, Grid, GridCell, Section
from .subject import Subject

GRID_ENEMIES = 30  # columns of the heat map, at most
ENEMIES_NAMED = 3  # in a cell of the table
_ALL_NAMED = 12  # up to so many classes, the map names all of them
_FEWEST = 10  # held-out images on the map of a class that is coloured although it is not fragile
_KINDS = ("safe", "border", "rare", "outlier")


def neighbors_section(subject: Subject, feature_map: FeatureMap | None) -> Section:
    """Return the section on neighbours; the map only if there is one."""
    grid = _enemy_grid(subject)
    return Section(
        title="Neighbours",
        anchor="neighbors",
        charts=(_kinds_chart(subject), *([_map_chart(subject, feature_map)] if feature_map else [])),
        grids=(grid,) if grid.rows and grid.columns else (),
        summary=subject.summary(
            "Neighbours",
            "Training images by how many of their 5 nearest neighbours belong to their class, and the classes nearest to the held-out"
            " errors.",
            {kind: kind for kind in _KINDS},
            **{"classes nearest to its errors": [_nearest_enemies(subject, c) for c in subject.order]},
        ),
    )


def _kinds_chart(subject: Subject) -> Chart:
    return Chart(
        title="Do training images lie among their own class?",
        caption="Share of training images by how many of their 5 nearest neighbours belong to their class: safe 4 or 5, border 2 or"
        " 3, rare 1, outlier 0. Small classes have fewer safe images, because they have fewer possible neighbours;"
        " with fewer than 5 training images, a class has none." + subject.largest_first,
        alt="Stacked bars: the share of each class's training images that is safe, border, rare, outlier. "
        + subject.lowest_and_highest("safe", "share"),
        data=Stacked(
            names=tuple(subject.names[c] for c in subject.by_size),
            signs=subject.signs(subject.by_size),
            parts=tuple(
                (kind, tuple(wording.at(subject.columns, kind, c) for c in subject.by_size)) for kind in _KINDS
            ),
        ),
    )


def _nearest_enemies(subject: Subject, c: int) -> str:
    shares = subject.diagnosis.enemies[c].nan_to_num(0)
    most = shares.argsort(descending=True, stable=True)[:ENEMIES_NAMED].tolist()
    texts = [f"{subject.names[e]} {wording.share(float(shares[e]))}" for e in most if float(shares[e]) > 0]
    return ", ".join(texts) or wording.DASH


def _enemy_grid(subject: Subject) -> Grid:
    """Return a heat map of classes by the classes near their errors."""
    enemies = {c: subject.diagnosis.enemies[c].nan_to_num(0) for c in subject.by_size}
    rows = [c for c in subject.by_size if float(enemies[c].sum()) > 0]
    columns = list(range(len(subject.names)))
    cut = ""
    if len(columns) > GRID_ENEMIES:
        taken = torch.stack([enemies[c] for c in rows]).sum(0) if rows else torch.zeros(len(columns))
        columns = taken.argsort(descending=True, stable=True)[:GRID_ENEMIES].tolist()
        cut = f" Columns are the {GRID_ENEMIES} classes, of {len(subject.names)}, that are nearest most often."
    columns.sort(key=lambda c: (-wording.at(subject.columns, "count", c), c))
    return Grid(
        title="Which classes lie near the errors?",
        caption="A row is a class. Of the nearest training neighbours of its held-out errors, those of other classes are counted: a cell"
        f" shows the percentage that belongs to the class of the column. Largest class first.{cut}{subject.left_out}",
        corner="errors of",
        columns=tuple(plots.cut(subject.names[c], 24) for c in columns),
        rows=tuple(
            (
                subject.marked_name(c),
                tuple(_enemy_cell(subject, c, enemy, float(enemies[c][enemy])) for enemy in columns),
            )
            for c in rows
        ),
        hue="vermillion",
    )


def _enemy_cell(subject: Subject, c: int, enemy: int, value: float) -> GridCell | None:
    if c == enemy:
        return None
    text = wording.share(value).removesuffix("%") if value >= 0.005 else ""
    title = f"{wording.share(value)} of the other-class neighbours of {subject.names[c]}'s errors are {subject.names[enemy]}"
    return GridCell(value=value, text=text, title=title)


def _map_chart(subject: Subject, feature_map: FeatureMap) -> Chart:
    fragile = [c for c in subject.order if subject.fragile(c) and c in feature_map.labels][: plots.MAP_GROUPS]
    weak = fragile or _weakest(subject, feature_map)
    named = sorted(set(feature_map.labels)) if len(subject.names) <= _ALL_NAMED else fragile
    colours = ""
    if len(fragile) > 1:
        colours = f" Colours mark the {len(fragile)} weakest fragile classes."
    elif fragile:
        colours = " The weakest fragile class is coloured."
    elif weak:
        colours = (
            f" No class is fragile; colours mark the {len(weak)} of lowest recall with {_FEWEST} images or more here."
        )
    return Chart(
        title="Where do the held-out images lie?",
        caption=f"{len(feature_map.rows):,} held-out images, placed by {feature_map.method} of their features; hollow images were"
        f" predicted as another class.{colours} Images that lie close together have similar features; distances between groups and"
        " the sizes of groups mean nothing.",
        alt=f"Map of {len(feature_map.rows):,} held-out images in two dimensions, by {feature_map.method} of their features."
        + (f" Coloured: {', '.join(subject.names[c] for c in weak)}." if weak else ""),
        data=Points(
            x=feature_map.x,
            y=feature_map.y,
            group=tuple(weak.index(c) if c in weak else -1 for c in feature_map.labels),
            missed=tuple(a != b for a, b in zip(feature_map.labels, feature_map.predicted, strict=True)),
            groups=tuple(subject.names[c] for c in weak),
            places=_name_places(subject, feature_map, named),
        ),
    )


def _weakest(subject: Subject, feature_map: FeatureMap) -> list[int]:
    """Return the classes of lowest recall, where each has enough images on the map; none where all do equally well."""
    recall = subject.columns["recall_heldout"]
    below = [c for c in subject.order if float(recall[c]) < float(recall.nanmean())]
    enough = [c for c in below if feature_map.labels.count(c) >= _FEWEST]
    return sorted(enough, key=lambda c: float(recall[c]))[: plots.MAP_GROUPS]


def _name_places(subject: Subject, feature_map: FeatureMap, classes: list[int]) -> tuple[tuple[str, float, float], ...]:
    """Return where the name of each class is written: at the image nearest to its medians.

    The name then lies on images of the class even if the class forms several groups.
    """
    x, y, labels = torch.tensor(feature_map.x), torch.tensor(feature_map.y), torch.tensor(feature_map.labels)
    places = []
    for c in classes:
        members = labels == c
        distance = (x - x[members].median()).square() + (y - y[members].median()).square()
        nearest = distance.masked_fill(~members, torch.inf).argmin()
        places.append((subject.names[c], float(x[nearest]), float(y[nearest])))
    return tuple(places)
