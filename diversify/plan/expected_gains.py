"""What training by a plan is expected to change, class by class, before it is done."""

from __future__ import annotations

import math
from typing import Literal

import torch
from torch import Tensor

from ..diagnosis.result import Diagnosis
from ..errors import must
from .gain_forecast import GainForecast
from .gain_table import CLASSES, REMEDIES, RemedyTable
from .plan import Plan
from .strengths import STRENGTHS

Kind = Literal["prior", "images"]
FEATURES = ("constant", "log odds of recall", "log size", "log odds of mean recall")
WORTH = 2.0  # images that the mean recall counts for, beside the held-out images of a class
SPREAD = 0.1  # least scale of an error of recall, whatever the number of held-out images
SPREAD_OF_MEAN = 0.05  # the same for the balanced accuracy
_EDGE = 0.02  # log odds are of shares between this and 1 minus this
_TITLES: dict[Kind, str] = {
    "prior": "training with the class prior corrected",
    "images": "training by the plan, with images augmented or mixed",
}


def expected_gains(plan: Plan, diagnosis: Diagnosis) -> GainForecast:
    """Return the recall that each class is expected to gain if the network is trained anew by the plan, with 95% intervals.

    The expectation comes from suites in which networks were trained with cross entropy, diagnosed, and trained anew: the log odds
    of the new recall are a line in those of the present recall, in the logarithm of the class's size relative to the others, and in
    the log odds of the mean recall. There is one line for plans that correct the class prior, and one for those that also augment or mix
    images. The interval is as wide as the errors for a suite that the line was not fitted on, of the suite where they were largest,
    relative to the noise of the held-out recall. `docs/results/forecasts.md` compares it with what came out.

    It holds for a network that was trained with cross entropy. A network whose loss already corrects the prior gains less.

    Args:
        plan: The plan, with the classes of the diagnosis.
        diagnosis: A diagnosis of the present network, made on the validation set.

    Returns:
        The forecast. It is NaN for a class without training or held-out images, and for all if no record tells: of a plan that does not
        correct the prior in the loss, or that augments images of a network that has barely overfitted, which a made plan does not.

    Raises:
        InputError: The plan has other classes, or the diagnosis was made on test.

    See Also:
        `choose_head`, which forecasts what a repaired head changes.

    Example:
        >>> import diversify as dv
        >>> train, heldout, head = dv.make_embeddings((200, 80, 30, 10))
        >>> diagnosis = dv.diagnose(train, heldout, head=head)
        >>> found = dv.expected_gains(dv.make_plan(diagnosis), diagnosis)
        >>> found.gain.shape, bool(found.gain[3] > found.gain[0])
        (torch.Size([4]), True)
    """
    if not diagnosis.plan_ready:
        raise must("diagnosis", "be made on the validation set", f"one made on {diagnosis.heldout_split}")
    if len(plan.classes) != len(diagnosis.class_names):
        raise must("plan", f"have the diagnosed {len(diagnosis.class_names)} classes", len(plan.classes))
    count, heldout = diagnosis["count"].double(), diagnosis["count_heldout"].double()
    hits = (diagnosis["recall_heldout"].double().nan_to_num(0.0) * heldout).round()
    kind = kind_of(plan)
    unknown = _without_records(kind, diagnosis)
    if kind is None or unknown:
        nothing = torch.full_like(count, torch.nan)
        before, columns, whole = recall_now(heldout, hits), (nothing,) * 3, (math.nan,) * 3
        notes: tuple[str, ...] = (unknown,)
    else:
        before, columns, whole = forecast(REMEDIES[kind], count, heldout, hits)
        notes = _notes(len(count))
    return GainForecast(
        remedy=_TITLES[kind] if kind else "training by the plan",
        class_names=tuple(diagnosis.class_names),
        count=count.long(),
        count_heldout=heldout.long(),
        before=before,
        gain=columns[0],
        gain_low=columns[1],
        gain_high=columns[2],
        overall=dict(zip(("gain", "gain_low", "gain_high"), whole, strict=True)),
        notes=notes,
    )


def kind_of(plan: Plan) -> Kind | None:
    """Return which records tell what the plan gives; None if there are none.

    Example:
        >>> import diversify as dv
        >>> kind_of(dv.recipe(["cat", "newt"], [100, 10]))
        'images'
    """
    correction = plan.prior_correction
    if not (0.5 <= correction.training + correction.after <= 1.5 and correction.training):
        return None
    acts = any(one.image.amount or one.mixing.method != "none" for one in plan.classes)
    return "images" if acts else "prior"


def _without_records(kind: Kind | None, diagnosis: Diagnosis) -> str:
    """Return why no record tells what a plan of this kind gives; empty if some do."""
    if kind is None:
        return "It does not correct the class prior in the loss as a whole, and no record is of such a plan."
    gap = float((diagnosis["recall_train"] - diagnosis["recall_heldout"]).nanmean())
    if kind == "images" and gap < STRENGTHS.gap_none:
        return (
            f"Mean recall is {100 * gap:.0f} points higher on training images, less than {100 * STRENGTHS.gap_none:.0f}: no record is of"
            " images augmented in such a network, and in some trials it did harm."
        )
    return ""


def recall_now(heldout: Tensor, hits: Tensor) -> Tensor:
    """Return the present recall of each class, `(C,)`, moved toward the mean recall where there are few held-out images."""
    return (hits + WORTH * _mean_recall(heldout, hits)) / (heldout + WORTH)


def features_of(count: Tensor, heldout: Tensor, hits: Tensor) -> Tensor:
    """Return what the log odds of the new recall are a line in, `(C, 4)`; see `FEATURES`.

    Args:
        count: `(C,)` training images.
        heldout: `(C,)` held-out images.
        hits: `(C,)` held-out images that are recognised.
    """
    size = count.clamp(min=1).log()
    size = size - size[count > 0].mean()
    ones = torch.ones_like(size)
    return torch.stack([ones, _odds(recall_now(heldout, hits)), size, ones * _odds(_mean_recall(heldout, hits))], 1)


def scale_of(heldout: Tensor, hits: Tensor) -> Tensor:
    """Return how large an error of each class's gain is, `(C,)`, up to a factor: larger where there are few held-out images."""
    recall = recall_now(heldout, hits)
    return (SPREAD**2 + recall * (1 - recall) / (heldout + WORTH)).sqrt()


def scale_of_mean(heldout: Tensor, hits: Tensor) -> float:
    """Return the same for the balanced accuracy."""
    recall = recall_now(heldout, hits)
    noise = (recall * (1 - recall) / (heldout + WORTH)).sum() / len(recall) ** 2
    return math.sqrt(SPREAD_OF_MEAN**2 + float(noise))


def forecast(
    table: RemedyTable, count: Tensor, heldout: Tensor, hits: Tensor
) -> tuple[Tensor, tuple[Tensor, Tensor, Tensor], tuple[float, float, float]]:
    """Return the present recall, the gain of each class with its ends, and that of the balanced accuracy; see `features_of`."""
    before = recall_now(heldout, hits)
    line = torch.tensor(table["coefficients"], dtype=torch.float64)
    gain = torch.sigmoid(features_of(count, heldout, hits) @ line) - before
    half = table["errors"] * scale_of(heldout, hits)
    known = (count > 0) & (heldout > 0)
    gain = gain.masked_fill(~known, torch.nan)
    columns = gain, (gain - half).clamp(min=-1), (gain + half).clamp(max=1)
    whole = float(gain[known].mean())
    reach = table["errors_of_mean"] * scale_of_mean(heldout, hits)
    return before, columns, (whole, max(-1.0, whole - reach), min(1.0, whole + reach))


def _mean_recall(heldout: Tensor, hits: Tensor) -> Tensor:
    """The mean over classes of their recalls, each as if half an image more were recognised and half an image more were not."""
    return ((hits + 0.5) / (heldout + 1))[heldout > 0].mean()


def _odds(share: Tensor) -> Tensor:
    return torch.logit(share.clamp(_EDGE, 1 - _EDGE))


def _notes(classes: int) -> tuple[str, ...]:
    if classes == CLASSES:
        return ()
    return (f"The records are of {CLASSES} classes; with {classes:,} the interval is untested.",)
