"""The sections of a diagnosis's report: per question, the figures, the heat maps, the pictures, and the same as a table."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from typing import Any

import torch

from ..diagnosis.beyond_size import MATCHED_N
from ..diagnosis.catalogue import MEASURES
from ..diagnosis.exhibits import ClassExamples, Example, Exhibits, FeatureMap
from ..diagnosis.result import Diagnosis
from . import page, plots, wording
from .page import Album, Cell, Chart, Gallery, Grid, Heading, Picture, Row, Section, Shade, Table
from .plots import FRAGILE, ByCount, Points, Profile, Rows, Series, Stacked

PROFILES = 6  # classes whose top-K is drawn feature by feature
GRID_FEATURES, GRID_ENEMIES = 80, 30  # columns of a heat map, at most
ENEMIES_NAMED = 3


class Subject:
    """A diagnosis on its way into a report: its classes as they are shown, by size and weakest first."""

    def __init__(self, diagnosis: Diagnosis, names: Sequence[str], order: Sequence[int]) -> None:
        self.diagnosis, self.names, self.order = diagnosis, tuple(names), tuple(order)
        self.columns = diagnosis.columns
        self.by_size = sorted(order, key=lambda c: (-wording.at(self.columns, "count", c), c))
        self.left_out = wording.left_out(len(names), len(order), "held-out recall")

    def fragile(self, c: int) -> bool:
        """Whether a class is."""
        return wording.at(self.columns, "fragile", c) > 0

    def signs(self, classes: Sequence[int]) -> tuple[str, ...]:
        """What stands behind the names of these classes."""
        return tuple(FRAGILE if self.fragile(c) else "" for c in classes)

    def series(self, column: str, name: str, **style: Any) -> Series:
        """A column of the shown classes, the largest first."""
        return wording.series(self.columns, column, self.by_size, name=name, **style)

    def rows(self, *series: Series, **options: Any) -> Rows:
        """A dot plot of the shown classes, the largest first."""
        drawn = tuple(self.names[c] for c in self.by_size)
        return Rows(names=drawn, signs=self.signs(self.by_size), series=series, **options)

    @property
    def largest_first(self) -> str:
        """How a plot by size is to be read."""
        return f" Largest class at the top; {FRAGILE} is fragile.{self.left_out}"

    def summary(self, title: str, caption: str, measures: Mapping[str, str], **more: Sequence[str]) -> Table:
        """The shown classes as a table: measures under their headings, then columns of text."""
        rows = [
            Row(
                name=plots.cut(self.names[c], 48),
                mark=f"{FRAGILE} fragile" if self.fragile(c) else "",
                cells=(
                    *(
                        Cell(
                            value=wording.formatted(wording.at(self.columns, name, c), MEASURES[name].unit),
                            interval=wording.column_interval(self.columns, name, c, MEASURES[name].unit),
                        )
                        for name in measures
                    ),
                    *(Cell(value=texts[place]) for texts in more.values()),
                ),
            )
            for place, c in enumerate(self.order)
        ]
        headings = (Heading(title="class"), *(Heading(title=one) for one in (*measures.values(), *more)))
        return Table(title=title, caption=caption + self.left_out, headings=headings, rows=tuple(rows))


def sections_of(
    diagnosis: Diagnosis, names: Sequence[str], order: Sequence[int], exhibits: Exhibits | None
) -> tuple[Section, ...]:
    """The sections in their order; those on single images only where there are `exhibits`."""
    if exhibits is not None:
        exhibits.require_of(diagnosis)
    subject = Subject(diagnosis, names, order)
    return (
        _size(subject),
        _top_k(subject),
        _diversity(subject),
        _places(subject, exhibits.feature_map if exhibits else None),
        _head(subject),
        *([_images(subject, exhibits)] if exhibits else []),
    )


# Class size


def _size(subject: Subject) -> Section:
    names, columns = subject.names, subject.columns
    absent = int((columns["count"] == 0).sum())
    missing = f" {page.number_of(absent, 'class', 'classes')} without a training image not drawn." if absent else ""
    named = (
        f" Named of {len(names)} classes, where there is room: the {wording.WEAKEST} weakest and {wording.STRONGEST} strongest."
        if subject.left_out
        else ""
    )
    described = page.number_of(len(names), "class", "classes")
    charts = []
    for measure, title, label, caption in (
        (
            "recall_heldout",
            "Is it only the number of images?",
            "recall, held-out",
            "Held-out recall of each class with its interval, against its training images.",
        ),
        (
            "ce_magnitude_gap",
            "And the magnitude gap?",
            "top-K magnitude, training less held-out, in logits",
            "How much weaker a class's top-K features are on unseen images, against its training images; 0 where they match.",
        ),
    ):
        charts.append(
            Chart(
                title=title,
                caption=caption + _fit(subject.diagnosis, measure) + missing + named,
                alt=f"Scatter plot of {MEASURES[measure].title} against training images for {described}. "
                + wording.extremes(columns, measure, names, MEASURES[measure].unit),
                data=_by_count(subject, measure, label),
            )
        )
    return Section(title="Class size", anchor="size", charts=tuple(charts))


def _line(diagnosis: Diagnosis, measure: str) -> tuple[float, float] | None:
    line = diagnosis.log_count.get(measure, {})
    slope, intercept = line.get("slope", math.nan), line.get("intercept", math.nan)
    return (slope, intercept) if math.isfinite(slope) and math.isfinite(intercept) else None


def _fit(diagnosis: Diagnosis, measure: str) -> str:
    if _line(diagnosis, measure) is None:
        return " What log n alone predicts is undefined here (equal counts, or fewer than 5 classes)."
    r_squared = wording.formatted(diagnosis.log_count[measure].get("r_squared", math.nan), "ratio")
    return f" Dashed: what log n alone predicts, fitted to these classes (R² {r_squared})."


def _by_count(subject: Subject, measure: str, label: str) -> ByCount:
    of = [
        tuple(subject.columns[name].tolist()) for name in ("count", *(measure + end for end in ("", "_low", "_high")))
    ]
    shown = set(subject.order)
    every = range(len(subject.names))
    return ByCount(
        label=label,
        names=subject.names,
        count=of[0],
        value=of[1],
        low=of[2],
        high=of[3],
        fragile=tuple(subject.fragile(c) for c in every),
        shown=tuple(c in shown for c in every),
        line=_line(subject.diagnosis, measure),
        percent=MEASURES[measure].unit == "share",
        bad="high" if MEASURES[measure].bad == "high" else "low",
    )


# Top-K features


def _top_k(subject: Subject) -> Section:
    diagnosis, columns = subject.diagnosis, subject.columns
    magnitude = Chart(
        title="Does the evidence shrink on unseen images?",
        caption="Magnitude of the class's top-K features on held-out images over training images; 1 where they match."
        + subject.largest_first,
        alt="Dot plot of the top-K magnitude ratio per class, for all held-out images, hits and misses. "
        + wording.extremes(columns, "ce_magnitude_ratio", subject.names, "ratio"),
        data=subject.rows(
            subject.series("ce_magnitude_ratio_tp", "hits", color="blue", marker="^"),
            subject.series("ce_magnitude_ratio", "all images", color="ink", marker="o"),
            subject.series("ce_magnitude_ratio_fn", "misses", color="vermillion", marker="v"),
            reference=1.0,
            limits=(-1.0, 3.0),
        ),
    )
    chance = diagnosis.top_k / diagnosis.num_features
    identity = Chart(
        title="Are they the same features?",
        caption="Share of the class's top-K that are also the top-K of its held-out images; dashed: what two random sets share, K / D."
        + subject.largest_first,
        alt="Dot plot of the top-K identity overlap per class. "
        + wording.extremes(columns, "identity_overlap", subject.names, "share"),
        data=subject.rows(subject.series("identity_overlap", "", color="blue"), reference=chance, percent=True),
    )
    return Section(
        title="Top-K features",
        anchor="top-k",
        note=f"A class's top-K, here its top {diagnosis.top_k}, are the features that carry most of its logit on training images:"
        " feature times"
        " head weight, averaged over the class. They are read on held-out images too: on those that are found (hits) and on those"
        " that are missed.",
        charts=(magnitude, identity),
        small=tuple(_profiles(subject)),
        small_title="Which features give way?",
        small_caption="Mean part of the logit that each of the top-K gives: grey squares on training images, blue triangles on hits,"
        " orange triangles, pointing down, on misses. The weakest fragile classes, and the class of the highest recall.",
        grids=tuple(grid for grid in (_feature_grid(subject),) if grid.rows and grid.columns),
        summary=subject.summary(
            "Top-K features",
            "Magnitude of the top-K on held-out over training images.",
            {
                "ce_magnitude_ratio": "magnitude ratio",
                "ce_magnitude_ratio_tp": "hits",
                "ce_magnitude_ratio_fn": "misses",
                "identity_overlap": "identity overlap",
            },
            **{"strongest features": [_strongest(diagnosis, c) for c in subject.order]},
        ),
    )


def _strongest(diagnosis: Diagnosis, c: int, number: int = 5) -> str:
    found = [str(feature) for feature in diagnosis.top_k_features[c].tolist() if feature >= 0][:number]
    return " ".join(found) or wording.DASH


def _profiles(subject: Subject) -> list[Chart]:
    """The weakest fragile classes, and the class of the highest recall for comparison."""
    diagnosis = subject.diagnosis
    present = [c for c in subject.order if diagnosis.top_k_features[c, 0] >= 0]
    fragile = [c for c in present if subject.fragile(c)]
    classes = fragile[: PROFILES - 1] + [c for c in present if c not in fragile][-1:]
    kinds: dict[str, tuple[torch.Tensor, dict[str, Any]]] = {
        "training": (diagnosis.top_k_train, {"color": "muted", "marker": "s", "hollow": True}),
        "hits": (diagnosis.top_k_heldout_tp, {"color": "blue", "marker": "^"}),
        "misses": (diagnosis.top_k_heldout_fn, {"color": "vermillion", "marker": "v"}),
    }
    values = torch.stack([of[classes] for of, _ in kinds.values()]) if classes else torch.zeros(0)
    finite = values[values.isfinite()]
    top = float(finite.max()) if finite.numel() else 1.0
    charts = []
    for c in classes:
        series = [
            Series(name=name, values=tuple(of[c].tolist()), low=(), high=(), **style)
            for name, (of, style) in kinds.items()
            if bool(of[c].isfinite().any())
        ]
        sums = {one.name: sum(value for value in one.values if math.isfinite(value)) for one in series}
        said = ", ".join(f"{name} {wording.formatted(total, 'number')}" for name, total in sums.items())
        charts.append(
            Chart(
                title=subject.names[c],
                mark=FRAGILE if subject.fragile(c) else "",
                caption=f"Together, in logits: {said}." if said else "",
                alt=f"Line plot of the mean magnitude of each top-K feature of {subject.names[c]}. Sums in logits: {said}.",
                data=Profile(features=tuple(diagnosis.top_k_features[c].tolist()), series=tuple(series), top=top),
            )
        )
    return charts


def _feature_grid(subject: Subject) -> Grid:
    """Classes by size, features by how many of the shown classes have them among their top-K."""
    diagnosis = subject.diagnosis
    used: dict[int, list[int]] = {}
    for c in subject.by_size:
        for feature in diagnosis.top_k_features[c].tolist():
            if feature >= 0:
                used.setdefault(feature, []).append(c)
    most = sorted(used, key=lambda feature: (-len(used[feature]), feature))
    # Shared ones first, then class by class, so that the eye finds a class's own features side by side.
    place = {c: number for number, c in enumerate(subject.by_size)}
    features = sorted(
        most[:GRID_FEATURES], key=lambda feature: (-min(len(used[feature]), 2), place[used[feature][0]], feature)
    )
    top = float(diagnosis.top_k_train.nan_to_num(0).max()) if diagnosis.top_k_train.numel() else 0.0
    rows = []
    for c in subject.by_size:
        where = {feature: rank for rank, feature in enumerate(diagnosis.top_k_features[c].tolist()) if feature >= 0}
        cells: list[Shade | None] = []
        for feature in features:
            if feature not in where:
                cells.append(None)
                continue
            rank = where[feature]
            value = float(diagnosis.top_k_train[c, rank])
            seen, frequency = float(diagnosis.top_k_heldout[c, rank]), float(diagnosis.top_k_frequency[c, rank])
            said = (
                f"{subject.names[c]}, feature {feature}: {wording.formatted(value, 'logits')} logits in training,"
                f" {wording.formatted(seen, 'logits')} held-out; needed in {wording.formatted(frequency, 'share')} of its decisions"
            )
            shade = min(1.0, max(0.06, value / top)) if top > 0 else 0.06
            cells.append(Shade(value=shade, title=said, spoken=wording.formatted(value, "logits")))
        rows.append((f"{subject.names[c]} {FRAGILE}" if subject.fragile(c) else subject.names[c], tuple(cells)))
    unused = diagnosis.num_features - len(used)
    cut = f" The {GRID_FEATURES} most shared of {len(used)} features." if len(used) > GRID_FEATURES else ""
    return Grid(
        title="Which classes live in which features?",
        caption="A cell is coloured where the feature is among the class's top-K: the stronger, the larger its mean part of the logit"
        " in training. Features that several classes share come first; a class whose features are all shared has nothing of its"
        f" own. The strongest colour is {wording.formatted(top, 'logits')} logits."
        f" Of {diagnosis.num_features:,} features, {unused:,} are in no shown"
        f" class's top-K.{cut}{subject.left_out}",
        corner="class",
        columns=tuple(map(str, features)),
        rows=tuple(rows),
    )


# Diversity

_SIDES = ("heldout", "train")


def _diversity(subject: Subject) -> Section:
    charts = []
    for measure, title, caption in (
        (
            "vendi",
            "Are its features as diverse?",
            f"Vendi score of {MATCHED_N} images at a time, the effective number of directions they span.",
        ),
        (
            "spread",
            "How far do they scatter?",
            f"Mean squared distance of {MATCHED_N} images to their mean, in squared units of the features.",
        ),
    ):
        column = f"diversity_{measure}_heldout"
        values = [
            wording.at(subject.columns, f"diversity_{measure}_{side}", c) for side in _SIDES for c in subject.order
        ]
        if not any(map(math.isfinite, values)):
            continue
        charts.append(
            Chart(
                title=title,
                caption=caption + f" Classes with fewer than {MATCHED_N} images have no value." + subject.largest_first,
                alt=f"Dot plot of {MEASURES[column].title} and the same for training images, at matched n, per class. "
                + wording.extremes(subject.columns, column, subject.names, "number"),
                data=subject.rows(
                    subject.series(column, "held-out", color="blue", marker="o"),
                    subject.series(f"diversity_{measure}_train", "training", color="muted", marker="s", hollow=True),
                ),
            )
        )
    return Section(
        title="Latent diversity",
        anchor="diversity",
        note="The same number of images of every class, drawn again and again, so that class size plays no part. Training features"
        " collapse as training goes on; the held-out value is the one that speaks of the class."
        + (
            "" if charts else f" No class shown has {MATCHED_N} images on either side, so nothing can be compared here."
        ),
        charts=tuple(charts),
        summary=subject.summary(
            "Latent diversity",
            f"At {MATCHED_N} images of every class.",
            {
                "diversity_vendi_heldout": "Vendi, held-out",
                "diversity_vendi_train": "Vendi, training",
                "diversity_effective_rank_heldout": "effective rank, held-out",
                "diversity_spread_heldout": "spread, held-out",
            },
        ),
    )


# Neighbours


def _places(subject: Subject, feature_map: FeatureMap | None) -> Section:
    columns = subject.columns
    kinds = ("safe", "border", "rare", "outlier")
    shares = Chart(
        title="Do its training images lie among their own?",
        caption="Training images by how many of their 5 nearest neighbours are of their class: safe 4 or 5, border 2 or 3, rare 1,"
        " outlier 0. A small class has fewer of its own to be near to." + subject.largest_first,
        alt="Stacked bars: the share of each class's training images that is safe, border, rare, outlier. "
        + wording.extremes(columns, "safe", subject.names, "share"),
        data=Stacked(
            names=tuple(subject.names[c] for c in subject.by_size),
            signs=subject.signs(subject.by_size),
            parts=tuple((kind, tuple(wording.at(columns, kind, c) for c in subject.by_size)) for kind in kinds),
        ),
    )
    drawn = [] if feature_map is None else [_map_chart(subject, feature_map)]
    return Section(
        title="Neighbours",
        anchor="neighbors",
        charts=(shares, *drawn),
        grids=tuple(grid for grid in (_enemy_grid(subject),) if grid.rows and grid.columns),
        summary=subject.summary(
            "Neighbours",
            "Training images by their 5 nearest neighbours, and the classes nearest to the held-out errors.",
            {kind: kind for kind in kinds},
            **{"nearest enemies of its errors": [_enemies(subject, c) for c in subject.order]},
        ),
    )


def _enemies(subject: Subject, c: int) -> str:
    shares = subject.diagnosis.enemies[c].nan_to_num(0)
    most = shares.argsort(descending=True, stable=True)[:ENEMIES_NAMED].tolist()
    said = [f"{subject.names[e]} {wording.share(float(shares[e]))}" for e in most if float(shares[e]) > 0]
    return ", ".join(said) or wording.DASH


def _enemy_grid(subject: Subject) -> Grid:
    enemies = subject.diagnosis.enemies.nan_to_num(0)
    rows = [c for c in subject.by_size if float(enemies[c].sum()) > 0]
    columns = list(range(len(subject.names)))
    cut = ""
    if len(columns) > GRID_ENEMIES:
        taken = enemies[rows].sum(0)
        columns = taken.argsort(descending=True, stable=True)[:GRID_ENEMIES].tolist()
        cut = f" The {GRID_ENEMIES} classes that are nearest most often, of {len(subject.names)}."
    columns.sort(key=lambda c: (-wording.at(subject.columns, "count", c), c))
    return Grid(
        title="Which classes surround its errors?",
        caption="Of the nearest training neighbours of a class's held-out errors that belong to another class, the share of each"
        f" class. Rows are the classes that err; largest class first.{cut}{subject.left_out}",
        corner="errors of",
        columns=tuple(plots.cut(subject.names[c], 24) for c in columns),
        rows=tuple(
            (
                f"{subject.names[c]} {FRAGILE}" if subject.fragile(c) else subject.names[c],
                tuple(_enemy_cell(subject, c, enemy, float(enemies[c, enemy])) for enemy in columns),
            )
            for c in rows
        ),
        hue="vermillion",
    )


def _enemy_cell(subject: Subject, c: int, enemy: int, value: float) -> Shade | None:
    if c == enemy:
        return None
    said = wording.share(value).removesuffix("%") if value >= 0.005 else ""
    title = f"{wording.share(value)} of the other-class neighbours of {subject.names[c]}'s errors are {subject.names[enemy]}"
    return Shade(value=value, text=said, title=title)


def _map_chart(subject: Subject, feature_map: FeatureMap) -> Chart:
    fragile = [c for c in subject.order if subject.fragile(c) and c in feature_map.labels][: plots.MAP_GROUPS]
    x, y = torch.tensor(feature_map.x), torch.tensor(feature_map.y)
    labels = torch.tensor(feature_map.labels)
    named = sorted(set(feature_map.labels)) if len(subject.names) <= 12 else fragile
    places = []
    for c in named:
        members = labels == c
        middle = (x[members].median(), y[members].median())
        # The image nearest to the medians, so that the name lies on the class even where it is in several pieces.
        near = ((x - middle[0]).square() + (y - middle[1]).square()).masked_fill(~members, torch.inf).argmin()
        places.append((subject.names[c], float(x[near]), float(y[near])))
    words = ""
    if fragile:
        words = (
            f"Colours: the {len(fragile)} weakest fragile classes. "
            if len(fragile) > 1
            else "Coloured: the weakest fragile class. "
        )
    return Chart(
        title="Where do the held-out images lie?",
        caption=f"{len(feature_map.rows):,} held-out images by {feature_map.method} of their features; hollow ones were missed. {words}"
        "Near each other means alike; distances between groups, and their sizes, mean nothing.",
        alt=f"Map of {len(feature_map.rows):,} held-out images in two dimensions, by {feature_map.method} of their features."
        + (f" Coloured: {', '.join(subject.names[c] for c in fragile)}." if fragile else ""),
        data=Points(
            x=feature_map.x,
            y=feature_map.y,
            group=tuple(fragile.index(c) if c in fragile else -1 for c in feature_map.labels),
            missed=tuple(a != b for a, b in zip(feature_map.labels, feature_map.predicted, strict=True)),
            groups=tuple(subject.names[c] for c in fragile),
            places=tuple(places),
        ),
    )


# The head


def _head(subject: Subject) -> Section:
    columns = subject.columns
    charts = (
        Chart(
            title="Does the head favour the large classes?",
            caption="Length of each class's row of the head." + subject.largest_first,
            alt="Dot plot of the head norm per class. "
            + wording.extremes(columns, "head_norm", subject.names, "number"),
            data=subject.rows(subject.series("head_norm", "", color="blue")),
        ),
        Chart(
            title="What would a better head find?",
            caption="Held-out recall today, and that of a linear head refitted on class-balanced held-out features, each image judged by"
            " a head that did not see it: an upper mark of what the features hold, since it has held-out images to learn from."
            + subject.largest_first,
            alt="Dot plot of held-out recall today and of a refitted head, per class. The gain: "
            + wording.extremes(columns, "ceiling_gain", subject.names, "points"),
            data=subject.rows(
                subject.series("recall_heldout", "today", color="muted", marker="s", hollow=True),
                subject.series("recall_ceiling", "refitted head", color="blue", marker="o"),
                percent=True,
            ),
        ),
    )
    return Section(
        title="The head",
        anchor="head",
        charts=charts,
        summary=subject.summary(
            "The head",
            "",
            {"head_norm": "head norm", "recall_heldout": "recall today", "recall_ceiling": "recall of a refitted head"},
        ),
    )


# Single images


def _images(subject: Subject, exhibits: Exhibits) -> Section:
    cut = (
        f" The {len(exhibits.examples)} weakest of {exhibits.fragile} fragile classes."
        if exhibits.fragile > len(exhibits.examples)
        else ""
    )
    note = (
        "For each fragile class: the training images that are most typical of it, those at its border, its outliers, and held-out"
        " images that were missed, each with the class it went to and the features that pulled it there, by how many logits more"
        f" than they gave its own class. Chosen by fixed rules, not by how they look; in a small class one image may be shown"
        f" twice.{cut}"
        if exhibits.examples
        else "No class is fragile beyond doubt, so none is shown."
    )
    galleries = tuple(_gallery(subject, one) for one in exhibits.examples)
    return Section(title="The images", anchor="images", note=note, galleries=galleries)


def _gallery(subject: Subject, one: ClassExamples) -> Gallery:
    name, columns = subject.names[one.class_index], subject.columns
    recall = wording.formatted(wording.at(columns, "recall_heldout", one.class_index), "share")
    count, unseen = (int(wording.at(columns, column, one.class_index)) for column in ("count", "count_heldout"))
    sampled = (
        f" (among {one.candidates:,} drawn at random)"
        if one.candidates < wording.at(columns, "count", one.class_index)
        else ""
    )

    def album(title: str, note: str, empty: str, examples: Sequence[Example], split: str) -> Album:
        pictures = tuple(_picture(subject, each, one.class_index, split) for each in examples)
        return Album(title=title, note=note if pictures else empty, pictures=pictures)

    return Gallery(
        title=name,
        text=f"{page.number_of(count, 'training image', 'training images')}; {recall} of its"
        f" {page.number_of(unseen, 'held-out image is', 'held-out images are')} found.",
        albums=(
            album("Typical", f"Nearest to the mean of its features{sampled}.", "None.", one.typical, "train"),
            album(
                "Border",
                f"2 or 3 of 5 neighbours are of its class: {_number(one.borders)}{sampled}; least margin first.",
                _none(one.borders, f"No image{sampled} has 2 or 3 of 5 neighbours of its class."),
                one.border,
                "train",
            ),
            album(
                "Outliers",
                f"No neighbour is of its class: {_number(one.outliers)}{sampled}; farthest from the mean first.",
                _none(one.outliers, f"No image{sampled} is without a neighbour of its class."),
                one.outlier,
                "train",
            ),
            album(
                "Held-out errors",
                f"{one.misses:,} in all; from the classes that most went to, the surest first. ● is among the top-K of that class.",
                "None.",
                one.errors,
                "held-out",
            ),
        ),
    )


def _none(images: int | None, text: str) -> str:
    return "Undefined: there are not 5 other training images." if images is None else text


def _number(images: int | None) -> str:
    return "" if images is None else page.number_of(images, "image", "images")


def _picture(subject: Subject, example: Example, c: int, split: str) -> Picture:
    went_to = subject.names[example.predicted]
    where = wording.plain(example.name) if example.name else f"{split} {example.index}"
    short = plots.cut(where.rpartition("/")[2] or where, 24) if example.name else where
    if split == "train":
        found = "" if example.predicted == c else f", seen as {went_to}"
        return Picture(source=example.picture, alt=f"{subject.names[c]}, {where}{found}", caption=short)
    pulls = [
        f"feature {pull.feature} {wording.signed(pull.logits, 1 if pull.logits >= 1 else 2)}"
        + (" ●" if pull.top_k else "")
        for pull in example.pulls
    ]
    return Picture(
        source=example.picture,
        alt=f"{subject.names[c]}, {where}, went to {went_to} by {wording.formatted(-example.margin, 'logits')} logits",
        caption=f"→ {went_to}",
        details=(*pulls, short),
    )
