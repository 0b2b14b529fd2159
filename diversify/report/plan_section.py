"""The section on a plan: what it does for each class, and why."""

from __future__ import annotations

import math
from collections.abc import Sequence

from ..plan.gain_forecast import GainForecast
from ..plan.plan import Plan
from ..plan.policies import ImagePolicy
from . import wording
from .record import Cell, Gallery, Heading, Row, Section, Table
from .wording import DASH, LONGEST_IN_TABLE, cut


def plan_section(
    plan: Plan, names: Sequence[str], *, training: bool = False, expected: GainForecast | None = None
) -> Section:
    """Return the section on a plan.

    Args:
        plan: The plan.
        names: The names of the classes, as they are shown.
        training: Whether the plan is used for training the network; only then are its image policies shown.
        expected: What training by the plan is expected to change; None shows nothing of it.
    """
    shown = sorted(range(len(names)), key=lambda c: (plan.classes[c].count, c))[: wording.ALL_CLASSES]
    correction = plan.prior_correction
    hidden = len(names) - len(shown)
    titles = ("images", "draws", *(("image augmentation",) if training else ()), "feature augmentation")
    titles += ("expected gain, points",) if expected is not None else ()
    return Section(
        title="The plan",
        anchor="plan",
        note=f"Made from: {wording.plain(plan.made_from)}. Correction for the class prior: {correction.training:g} in the loss,"
        f" {correction.after:g} after training (0 is none, 1 removes the prior)."
        + ("" if training else " The plan's image policies are for training and are not used here.")
        + ("" if expected is None else f" {wording.plain(' '.join((expected.in_words(), *expected.notes)))}"),
        table=Table(
            title="The plan",
            caption="Rarest class first. Draws: the share of all draws, and × how often an image of the class is drawn compared with"
            " drawing every image once. Augmentation: strength, and the share of the class's draws that is augmented."
            + (f" {hidden:,} classes with more images are in plan.json." if hidden else ""),
            headings=(Heading(title="class"), *(Heading(title=title) for title in titles)),
            rows=_rows(plan, names, shown, training, expected),
        ),
        galleries=_reasons(plan, names, shown),
    )


def _rows(
    plan: Plan, names: Sequence[str], shown: Sequence[int], training: bool, expected: GainForecast | None
) -> tuple[Row, ...]:
    images = sum(one.count for one in plan.classes)
    rows = []
    for c in shown:
        one = plan.classes[c]
        times = one.draws * images / one.count if one.count else math.nan
        policies = ", ".join(
            f"{policy.method.replace('_', ' ')} {policy.strength:.2f} on {policy.share:.0%}" for policy in one.features
        )
        cells = (
            Cell(value=f"{one.count:,}"),
            Cell(
                value=wording.formatted(one.draws, "share"), interval=f"×{times:,.2f}" if math.isfinite(times) else ""
            ),
            *((Cell(value=_image_policy(one.image)),) if training else ()),
            Cell(value=policies or DASH),
            *((_expected(expected, c),) if expected is not None else ()),
        )
        rows.append(Row(name=cut(names[c], LONGEST_IN_TABLE), cells=cells))
    return tuple(rows)


def _expected(expected: GainForecast, c: int) -> Cell:
    gain, low, high = (float(getattr(expected, f"gain{end}")[c]) for end in ("", "_low", "_high"))
    if not math.isfinite(gain):
        return Cell(value=DASH)
    return Cell(value=wording.points(gain), interval=wording.between(low, high, "tenths"), strong=low > 0 or high < 0)


def _image_policy(policy: ImagePolicy) -> str:
    return f"{policy.strength:.2f} on {policy.probability:.0%}" if policy.amount else DASH


def _reasons(plan: Plan, names: Sequence[str], shown: Sequence[int]) -> tuple[Gallery, ...]:
    """Return the reasons of each class whose settings do not follow from its size alone."""
    listed = [(c, [reason for reason in plan.classes[c].reasons if reason.measure != "count"]) for c in shown]
    return tuple(
        Gallery(
            title=f"Why the settings of {names[c]} differ from those for its size",
            text=" ".join(wording.sentence(wording.plain(reason.text)) for reason in reasons),
            albums=(),
        )
        for c, reasons in listed
        if reasons
    )
