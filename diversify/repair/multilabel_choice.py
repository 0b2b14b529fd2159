"""Choose a head for several labels per image: today's, or one retrained with another loss; then a threshold for each label."""

from __future__ import annotations

import dataclasses
import math
from collections.abc import Callable, Mapping
from typing import Any

import pydantic
import torch
from torch import Tensor, nn

from ..errors import must
from ..files.json_values import json_value
from ..files.schema import refusal
from ..functional import multilabel, multilabel_losses, stats
from ..network.linear_head import LinearHead, read_head
from ..network.multilabel import MultilabelEmbeddings
from ..runtime.progress import Progress
from .multilabel import MultilabelRepair, repair_multilabel

BOOTSTRAPS = 200
STEPS = 100
_BLOCK = 1 << 22  # bootstrap weights at a time: 32 MB

Loss = Callable[[Tensor, Tensor], Tensor]


@dataclasses.dataclass(frozen=True, kw_only=True, eq=False)
class MultilabelChoice:
    """Heads compared on held-out images, each with thresholds for its labels, and the recommended one.

    The first candidate is the head that came in. Every head was made from training images alone. Average precision needs no
    threshold; each image's decision, for F1, comes from thresholds that were fitted on other held-out images.

    Attributes:
        names: The candidates.
        meanings: What each of them is.
        mean_average_precision: `(M,)`, the mean over the labels with held-out positives.
        gain: `(M,)`, this minus that of the head that came in.
        gain_low: Low end of its 95% interval, over images.
        gain_high: High end.
        average_precision: `(M, C)`.
        f1: `(M, C)`, with fitted thresholds.
        f1_before: `(C,)` of the head that came in, with all thresholds at 0.5.
        recommended: The candidate with the largest mean average precision if its gain is surely above 0, else the first.
        thresholds: `(C,)` of the recommended head.
        fitted: `(C,)` bool, whether each threshold was fitted.
        positives: `(C,)`, held-out images with each label.
        folds: Folds of the held-out images.
        seed: Seed of folds and bootstraps.
        repair: The recommended head with its thresholds; None if read from a file.

    Example:
        >>> import diversify as dv
        >>> train, heldout, head = dv.make_multilabel_embeddings()
        >>> choice = dv.choose_multilabel_head(train, heldout, head, steps=10)
        >>> choice.names[choice.recommended], choice.repair.predict(heldout.features).shape
        ('untouched', torch.Size([400, 4]))
    """

    names: tuple[str, ...]
    meanings: tuple[str, ...]
    mean_average_precision: Tensor
    gain: Tensor
    gain_low: Tensor
    gain_high: Tensor
    average_precision: Tensor
    f1: Tensor
    f1_before: Tensor
    recommended: int
    thresholds: Tensor
    fitted: Tensor
    positives: Tensor
    folds: int
    seed: int
    repair: MultilabelRepair | None = None

    def in_words(self) -> str:
        """Return the recommendation in one or two sentences."""
        best, name = int(self.mean_average_precision.argmax()), self.names[self.recommended]
        before, after = (float(each.nanmean()) for each in (self.f1_before, self.f1[self.recommended]))
        if self.recommended:
            text = f"Retrain the head with {name}: mean average precision rises by {self._points(self.recommended)}."
        elif len(self.names) == 1:
            text = "The head stays as it is."
        else:
            text = "The head stays as it is: no retrained head surely ranks the held-out images better"
            text += f" (best: {self.names[best]}, {self._points(best)})." if best else "."
        count = int(self.fitted.sum())
        return (
            f"{text} With thresholds fitted for {count} of {len(self.fitted)} labels, macro F1 on other held-out images is"
            f" {after:.1%}; it was {before:.1%} at thresholds of 0.5."
        )

    def _points(self, place: int) -> str:
        gain, low, high = (100 * float(each[place]) for each in (self.gain, self.gain_low, self.gain_high))
        return f"{gain:.1f} points (95% interval {low:.1f} to {high:.1f})"

    def to_dict(self) -> dict[str, Any]:
        """Return all but `repair` as JSON values, with None for NaN."""
        found: dict[str, Any] = {}
        for field in dataclasses.fields(self):
            value = getattr(self, field.name)
            if field.name == "repair":
                continue
            if isinstance(value, Tensor):
                found[field.name] = json_value(value)
            else:
                found[field.name] = list(value) if isinstance(value, tuple) else value
        return found

    @classmethod
    def from_dict(cls, record: Mapping[str, Any]) -> MultilabelChoice:
        """Return the choice that `to_dict` was called on, without the head and to the precision of the file (6 digits).

        Raises:
            InputError: A field is missing or damaged.
        """
        try:
            file = _File.model_validate(record)
        except pydantic.ValidationError as error:
            raise refusal("choice", error) from None
        candidates, labels = len(file.names), len(file.thresholds)
        shapes: dict[str, tuple[int, ...]] = {"average_precision": (candidates, labels), "f1": (candidates, labels)}
        shapes |= dict.fromkeys(("mean_average_precision", "gain", "gain_low", "gain_high"), (candidates,))
        shapes |= dict.fromkeys(("f1_before", "thresholds", "positives"), (labels,))
        values: dict[str, Any] = {}
        for name, shape in shapes.items():
            try:
                values[name] = torch.tensor(_filled(getattr(file, name)), dtype=torch.float64)
            except (TypeError, ValueError):
                raise must(f"{name} of the choice", f"be numbers of shape {shape}", "rows of several lengths") from None
            if values[name].shape != shape:
                raise must(f"{name} of the choice", f"be numbers of shape {shape}", tuple(values[name].shape))
        if not 0 <= file.recommended < candidates or len(file.meanings) != candidates or len(file.fitted) != labels:
            raise must("choice", "be whole", "fields that do not fit together")
        return cls(
            names=tuple(file.names),
            meanings=tuple(file.meanings),
            recommended=file.recommended,
            fitted=torch.tensor(file.fitted),
            folds=file.folds,
            seed=file.seed,
            **values,
        )


def choose_multilabel_head(
    train: MultilabelEmbeddings,
    heldout: MultilabelEmbeddings,
    head: nn.Module | LinearHead,
    *,
    losses: Mapping[str, Loss] | None = None,
    steps: int = STEPS,
    folds: int = 5,
    seed: int = 0,
    progress: Progress | None = None,
) -> MultilabelChoice:
    """Compare a head for several labels with heads that are retrained on frozen features, and fit thresholds.

    Args:
        train: Embeddings of the training images, from which heads are made.
        heldout: Embeddings of images that neither network nor head was trained on, on which they are compared.
        head: The head; one without a bias is retrained without one.
        losses: By name, the losses of logits and targets `(N, C)` to retrain with; by default weighted cross entropy, and
            the asymmetric and the distribution-balanced loss.
        steps: Iterations of each training.
        folds: Folds of the held-out images.
        seed: Seed of the folds and of the bootstrap.
        progress: Called as `progress(heads_done, heads)`.

    Returns:
        The comparison. A retrained head is recommended only if the interval of its gain lies above 0; since it is the best
        of a few on these images, its own score is slightly optimistic.

    Raises:
        InputError: The embeddings do not fit the head, or a training diverges.

    See Also:
        `repair_multilabel`, which makes one head.

    Example:
        >>> import diversify as dv
        >>> train, heldout, head = dv.make_multilabel_embeddings()
        >>> choice = dv.choose_multilabel_head(train, heldout, head, losses={})
        >>> choice.in_words().partition(": ")[0].partition(".")[0]
        'The head stays as it is'
    """
    head = read_head(head)
    wanted: dict[str, tuple[str, Loss | None]] = {"untouched": ("The head that came in.", None)}
    if losses is None:
        wanted |= _default_losses(train)
    else:
        wanted |= {name: ("Retrained with a loss of your own.", loss) for name, loss in losses.items()}
    repairs = []
    for done, (_, loss) in enumerate(wanted.values()):
        repairs.append(repair_multilabel(train, head, heldout=heldout, loss=loss, steps=steps, folds=folds, seed=seed))
        if progress is not None:
            progress(done + 1, len(wanted))
    labels = heldout.labels.cpu()
    scores = [one.head.logits(heldout.features.to(one.head.weight.device)).double().cpu() for one in repairs]
    precision = torch.stack([one.average_precision_after for one in repairs])
    means = precision.nanmean(1)
    drawn = torch.cat([_drawn(scores, labels, block, seed) for block in _blocks(len(labels))])
    low, high = stats.interval(drawn - drawn[:, :1])
    best = int(means.argmax()) if bool(means.isfinite().all()) else 0
    chosen = best if float(low[best]) > 0 else 0
    return MultilabelChoice(
        names=tuple(wanted),
        meanings=tuple(meaning for meaning, _ in wanted.values()),
        mean_average_precision=means,
        gain=means - means[0],
        gain_low=low,
        gain_high=high,
        average_precision=precision,
        f1=torch.stack([one.f1_after for one in repairs]),
        f1_before=repairs[0].f1_before,
        recommended=chosen,
        thresholds=repairs[chosen].thresholds,
        fitted=repairs[chosen].fitted,
        positives=labels.sum(0).double(),
        folds=folds,
        seed=seed,
        repair=repairs[chosen],
    )


def _default_losses(train: MultilabelEmbeddings) -> dict[str, tuple[str, Loss]]:
    positives, images = train.labels.cpu().sum(0), len(train)
    weights = multilabel_losses.positive_weights(positives, images)
    return {
        "weighted cross entropy": (
            "Retrained with binary cross entropy; the positives of rare labels weigh more.",
            lambda logits, targets: multilabel_losses.binary_cross_entropy(logits, targets, weights),
        ),
        "asymmetric loss": (
            "Retrained with the asymmetric loss (Ridnik et al. 2021), which drops easy negatives.",
            multilabel_losses.multilabel_asymmetric_loss,
        ),
        "distribution-balanced loss": (
            "Retrained with the distribution-balanced loss (Wu et al. 2020).",
            lambda logits, targets: multilabel_losses.distribution_balanced_loss(logits, targets, positives, images),
        ),
    }


def _blocks(rows: int) -> list[Tensor]:
    return list(torch.arange(BOOTSTRAPS).split(max(1, _BLOCK // max(1, rows))))


def _drawn(scores: list[Tensor], labels: Tensor, block: Tensor, seed: int) -> Tensor:
    """Mean average precision of every candidate in bootstrap draws of the images, `(B, M)`."""
    times = multilabel.bootstrap_weights(len(labels), block, seed=seed, name="multilabel choice")
    return torch.stack([multilabel.average_precision(one, labels, times).nanmean(1) for one in scores], dim=1)


def _filled(values: Any) -> Any:
    return [_filled(one) for one in values] if isinstance(values, list) else math.nan if values is None else values


_Numbers = list[float | None]


class _File(pydantic.BaseModel):
    """The JSON form; unknown fields are ignored."""

    names: list[str]
    meanings: list[str]
    mean_average_precision: _Numbers
    gain: _Numbers
    gain_low: _Numbers
    gain_high: _Numbers
    average_precision: list[_Numbers]
    f1: list[_Numbers]
    f1_before: _Numbers
    recommended: int
    thresholds: _Numbers
    fitted: list[bool]
    positives: _Numbers
    folds: int
    seed: int
