"""The section on latent diversity: how many directions the features of each class span, and how far they spread."""

from __future__ import annotations

import math

from ...diagnosis.beyond_size import MATCHED_N
from ...diagnosis.catalogue import MEASURES
from .. import wording
from ..record import Chart, Section
from .subject import Subject

_CHARTS = (  # measure, title, caption
    (
        "distinct",
        "How many distinct images?",
        f"Effective number of distinct images among {MATCHED_N}: far fewer where images lie unusually close together.",
    ),
    (
        "vendi",
        "How diverse are the features?",
        f"Vendi score of {MATCHED_N} images: the effective number of directions that their features span.",
    ),
    (
        "spread",
        "How far do the features spread?",
        f"Mean squared distance of {MATCHED_N} images from their mean, in squared feature units.",
    ),
)


def diversity_section(subject: Subject) -> Section:
    """Return the section on latent diversity."""
    charts = tuple(
        _chart(subject, measure, title, caption)
        for measure, title, caption in _CHARTS
        if any(
            math.isfinite(wording.at(subject.columns, f"diversity_{measure}_{side}", c))
            for side in ("heldout", "train")
            for c in subject.order
        )
    )
    return Section(
        title="Latent diversity",
        anchor="diversity",
        note=f"Diversity grows with the number of images, so every class is measured on {MATCHED_N} images, drawn many times. Distinct"
        " images of the training side tell narrow classes best of all measures that need training images alone; the other"
        " measures describe the class better on held-out images, since training features collapse during training."
        + (
            ""
            if charts
            else f" No class shown has {MATCHED_N} training or held-out images, so nothing can be compared here."
        ),
        charts=charts,
        summary=subject.summary(
            "Latent diversity",
            f"Measured on {MATCHED_N} images of every class.",
            {
                "diversity_distinct_train": "distinct, training",
                "diversity_distinct_heldout": "distinct, held-out",
                "diversity_vendi_heldout": "Vendi, held-out",
                "diversity_vendi_train": "Vendi, training",
                "diversity_effective_rank_heldout": "effective rank, held-out",
                "diversity_spread_heldout": "spread, held-out",
            },
        ),
    )


def _chart(subject: Subject, measure: str, title: str, caption: str) -> Chart:
    column = f"diversity_{measure}_heldout"
    return Chart(
        title=title,
        caption=f"{caption} Classes with fewer images have no value.{subject.largest_first}",
        alt=f"Dot plot of {MEASURES[column].title} and the same for training images, at matched n, per class. "
        + subject.lowest_and_highest(column, "number"),
        data=subject.rows(
            subject.series(column, "held-out", color="blue", marker="o"),
            subject.series(f"diversity_{measure}_train", "training", color="muted", marker="s", hollow=True),
        ),
    )
