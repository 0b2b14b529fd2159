"""The section on top-K features: whether they are as strong, and the same, on held-out images."""

from __future__ import annotations

import math
from typing import Any

import torch

from ...diagnosis.result import Diagnosis
from .. import wording
from ..plots import FRAGILE, Profile, Series
from ..record import Chart, Grid, GridCell, Section
from .subject import Subject

PROFILES = 6  # classes whose top-K is drawn feature by feature
GRID_FEATURES = 80  # columns of the heat map, at most
_FAINTEST = 0.06  # of the colour, so that a weak feature can still be seen


def top_k_section(subject: Subject) -> Section:
    """Return the section on top-K features."""
    grid = _feature_grid(subject)
    return Section(
        title="Top-K features",
        anchor="top-k",
        note=f"A class's top-K are the {subject.diagnosis.top_k} features that contribute most to its logit on training images."
        " A feature's contribution is the feature times its head weight, averaged over the class. The same features are then measured"
        " on held-out images: separately on images predicted correctly (hits) and on images predicted as another class (misses).",
        charts=(_magnitude_chart(subject), _identity_chart(subject)),
        small=tuple(_profiles(subject)),
        small_title="Which features get weaker?",
        small_caption="Mean contribution of each top-K feature to the logit: grey squares on training images, blue triangles on hits,"
        " orange triangles (pointing down) on misses. Shown are the weakest fragile classes, and the class with the highest recall for"
        " comparison.",
        grids=(grid,) if grid.rows and grid.columns else (),
        summary=subject.summary(
            "Top-K features",
            "Magnitude of the top-K features on held-out images, divided by their magnitude on training images.",
            {
                "ce_magnitude_ratio": "magnitude ratio",
                "ce_magnitude_ratio_tp": "hits",
                "ce_magnitude_ratio_fn": "misses",
                "identity_overlap": "identity overlap",
            },
            **{"strongest features": [_strongest(subject.diagnosis, c) for c in subject.order]},
        ),
    )


def _magnitude_chart(subject: Subject) -> Chart:
    return Chart(
        title="Are the features as strong on held-out images?",
        caption="Magnitude of the class's top-K features on held-out images, divided by that on training images; 1 (dashed) means"
        " equally strong." + subject.largest_first,
        alt="Dot plot of the top-K magnitude ratio per class, for all held-out images, hits and misses. "
        + subject.lowest_and_highest("ce_magnitude_ratio", "ratio"),
        data=subject.rows(
            subject.series("ce_magnitude_ratio_tp", "hits", color="blue", marker="^"),
            subject.series("ce_magnitude_ratio", "all images", color="ink", marker="o"),
            subject.series("ce_magnitude_ratio_fn", "misses", color="vermillion", marker="v"),
            reference=1.0,
            limits=(-1.0, 3.0),
        ),
    )


def _identity_chart(subject: Subject) -> Chart:
    chance = subject.diagnosis.top_k / subject.diagnosis.num_features
    return Chart(
        title="Are the same features strongest on held-out images?",
        caption="Share of the class's top-K features that are also its top-K on held-out images. The dashed line is the share expected"
        " by chance, K / D." + subject.largest_first,
        alt="Dot plot of the top-K identity overlap per class. "
        + subject.lowest_and_highest("identity_overlap", "share"),
        data=subject.rows(subject.series("identity_overlap", "", color="blue"), reference=chance, percent=True),
    )


def _strongest(diagnosis: Diagnosis, c: int, number: int = 5) -> str:
    features = [str(feature) for feature in diagnosis.top_k_features[c].tolist() if feature >= 0][:number]
    return " ".join(features) or wording.DASH


def _profiles(subject: Subject) -> list[Chart]:
    """Return a line plot for each of the weakest fragile classes, and for the class with the highest recall."""
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
        text = ", ".join(f"{name} {wording.formatted(total, 'number')}" for name, total in sums.items())
        charts.append(
            Chart(
                title=subject.names[c],
                mark=FRAGILE if subject.fragile(c) else "",
                caption=f"Sums in logits: {text}." if text else "",
                alt=f"Line plot of the mean magnitude of each top-K feature of {subject.names[c]}. Sums in logits: {text}.",
                data=Profile(features=tuple(diagnosis.top_k_features[c].tolist()), series=tuple(series), top=top),
            )
        )
    return charts


def _feature_grid(subject: Subject) -> Grid:
    """Return a heat map of classes by features."""
    diagnosis = subject.diagnosis
    used: dict[int, list[int]] = {}
    for c in subject.by_size:
        for feature in diagnosis.top_k_features[c].tolist():
            if feature >= 0:
                used.setdefault(feature, []).append(c)
    features = _grid_features(subject, used)
    top = float(diagnosis.top_k_train.nan_to_num(0).max()) if diagnosis.top_k_train.numel() else 0.0
    unused = diagnosis.num_features - len(used)
    cut = f" Shown are the {GRID_FEATURES} most shared of {len(used)} features." if len(used) > GRID_FEATURES else ""
    return Grid(
        title="Which classes use which features?",
        caption="A coloured cell is a feature among the class's top-K; the darker, the larger its mean contribution to the logit in"
        f" training (darkest: {wording.formatted(top, 'logits')} logits). Features shared by several classes come first. A class"
        f" whose features are all shared has none of its own. {unused:,} of {diagnosis.num_features:,} features are in no shown"
        f" class's top-K.{cut}{subject.left_out}",
        corner="class",
        columns=tuple(map(str, features)),
        rows=tuple((subject.marked_name(c), _feature_cells(subject, c, features, top)) for c in subject.by_size),
    )


def _grid_features(subject: Subject, used: dict[int, list[int]]) -> list[int]:
    """Return the most used features: shared ones first, then class by class, so that a class's own ones lie side by side."""
    most = sorted(used, key=lambda feature: (-len(used[feature]), feature))
    place = {c: number for number, c in enumerate(subject.by_size)}
    return sorted(
        most[:GRID_FEATURES], key=lambda feature: (-min(len(used[feature]), 2), place[used[feature][0]], feature)
    )


def _feature_cells(subject: Subject, c: int, features: list[int], top: float) -> tuple[GridCell | None, ...]:
    diagnosis = subject.diagnosis
    rank_of = {feature: rank for rank, feature in enumerate(diagnosis.top_k_features[c].tolist()) if feature >= 0}
    cells: list[GridCell | None] = []
    for feature in features:
        rank = rank_of.get(feature)
        if rank is None:
            cells.append(None)
            continue
        train, heldout = float(diagnosis.top_k_train[c, rank]), float(diagnosis.top_k_heldout[c, rank])
        frequency = float(diagnosis.top_k_frequency[c, rank])
        title = (
            f"{subject.names[c]}, feature {feature}: {wording.formatted(train, 'logits')} logits in training,"
            f" {wording.formatted(heldout, 'logits')} held-out; needed in {wording.formatted(frequency, 'share')} of its decisions"
        )
        shade = min(1.0, max(_FAINTEST, train / top)) if top > 0 else _FAINTEST
        cells.append(GridCell(value=shade, title=title, spoken=wording.formatted(train, "logits")))
    return tuple(cells)
