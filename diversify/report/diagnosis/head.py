"""The section on the classifier head: its norms, and what a refitted head would reach."""

from __future__ import annotations

from ..record import Chart, Section
from .subject import Subject


def head_section(subject: Subject) -> Section:
    """Return the section on the head."""
    charts = (
        Chart(
            title="Does the head favour large classes?",
            caption="Norm of each class's weight vector in the head." + subject.largest_first,
            alt="Dot plot of the head norm per class. " + subject.lowest_and_highest("head_norm", "number"),
            data=subject.rows(subject.series("head_norm", "", color="blue")),
        ),
        Chart(
            title="How much could a better head gain?",
            caption="Held-out recall of the current head, and of a linear head refitted on class-balanced held-out features. Each image is"
            " predicted by a head that was not fitted on it. This estimate is optimistic: in practice, held-out images are not"
            " available for fitting." + subject.largest_first,
            alt="Dot plot of the held-out recall of the current head and of a refitted head, per class. The gain: "
            + subject.lowest_and_highest("ceiling_gain", "points"),
            data=subject.rows(
                subject.series("recall_heldout", "current head", color="muted", marker="s", hollow=True),
                subject.series("recall_ceiling", "refitted head", color="blue", marker="o"),
                percent=True,
            ),
        ),
    )
    return Section(
        title="Head",
        anchor="head",
        note="The head is the last linear layer of the network.",
        charts=charts,
        summary=subject.summary(
            "Head",
            "Recall is held-out recall.",
            {
                "head_norm": "head norm",
                "recall_heldout": "recall, current head",
                "recall_ceiling": "recall, refitted head",
            },
        ),
    )
