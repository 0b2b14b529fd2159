"""How many labels a class needs: its recall now, and what more labels of it are expected to give."""

from __future__ import annotations

import dataclasses
import math
import numbers
from collections.abc import Iterable, Sequence
from typing import Any

import torch
from torch import Tensor

from ..errors import must
from ..files.json_values import json_value
from ..functional import counts, draws
from ..functional.ceiling import balanced_head, head_scores, stratified_folds
from ..functional.labels import ClassNames, names_in_order
from ..functional.learning_curve import Rise, fit_curves, forecast_recall, measured_rise
from ..functional.stats import wilson_interval
from ..network.embeddings import Embeddings, require_embeddings
from ..network.linear_head import LinearHead, read_head
from ..runtime.progress import Progress, Ticker

MORE = (10, 20, 40)
FOLDS = 4
SHARES = (0.25, 0.5, 1.0)  # of the held-out images outside a fold, which are added in turn
LEAST_HELDOUT = 12  # images, or groups, that a class needs for a forecast: each head learns from three quarters of them
FARTHEST = 5  # times the most images that were added and measured: no forecast goes beyond
_ITERATIONS = 40  # of L-BFGS from the head that is fitted without new images


@dataclasses.dataclass(frozen=True, kw_only=True, eq=False)
class LearningCurve:
    """What more labels of a class are expected to give: its recall with so many more labelled images.

    All recalls but `recall_head` are those of a head that is refitted on frozen features with all classes weighing the same.

    Attributes:
        class_names: One name for each class that is estimated, K of them.
        classes: `(K,)` int64, the numbers of these classes.
        count: `(K,)` int64, training images.
        count_heldout: `(K,)` int64, held-out images.
        recall_head: `(K,)` held-out recall of the head as it is.
        recall: `(K,)` held-out recall of the head refitted on the training images.
        recall_low: `(K,)` low end of its 95% interval.
        recall_high: `(K,)` high end.
        added: `(K, P)` int64, how many held-out images were added to the training images of the class.
        recall_added: `(K, P)` recall with these, on the other held-out images.
        slope: `(K,)` the log odds of recall rise by `slope * log(1 + more / worth)`; close to the mean of the classes where few
            held-out images say otherwise.
        worth: `(K,)` how many new images the training images are worth: fewer than `count` where they are alike, or where the
            network knows them by heart.
        slope_mean: Mean slope of the classes.
        more: `(Q,)` int64, the numbers of new images that were asked for.
        forecast: `(K, Q)` recall to expect with these; NaN where the held-out images do not carry a forecast.
        forecast_low: `(K, Q)` low end of the 95% interval of the recall on many new images.
        forecast_high: `(K, Q)` high end.
        notes: What was left out, and why.

    Example:
        >>> import diversify as dv
        >>> train, heldout, head = dv.make_embeddings((80, 30, 5), spread=1.0)
        >>> found = dv.learning_curve(train, heldout, head, classes=[2], more=[10])
        >>> found.forecast.shape, bool(found.forecast_low[0, 0] < found.forecast[0, 0] < found.forecast_high[0, 0])
        (torch.Size([1, 1]), True)
    """

    class_names: tuple[str, ...]
    classes: Tensor
    count: Tensor
    count_heldout: Tensor
    recall_head: Tensor
    recall: Tensor
    recall_low: Tensor
    recall_high: Tensor
    added: Tensor
    recall_added: Tensor
    slope: Tensor
    worth: Tensor
    slope_mean: float
    more: Tensor
    forecast: Tensor
    forecast_low: Tensor
    forecast_high: Tensor
    notes: tuple[str, ...] = ()

    def sentences(self) -> tuple[str, ...]:
        """Return a sentence for each class with a forecast: the largest number of new images that has one.

        Example:
            >>> import diversify as dv
            >>> train, heldout, head = dv.make_embeddings((80, 30, 5), spread=1.0)
            >>> found = dv.learning_curve(train, heldout, head, classes=[2], more=[10])
            >>> found.sentences()[0].partition(" to ")[0]
            '10 more images of class 2: recall 40%'
        """
        return tuple(text for place in range(len(self.class_names)) if (text := self._sentence(place)))

    def _sentence(self, place: int) -> str:
        known = (~self.forecast[place].isnan()).nonzero()[:, 0]
        if not len(known):
            return ""
        most = int(known[self.more[known].argmax()])
        low, high = float(self.forecast_low[place, most]), float(self.forecast_high[place, most])
        images = f"{int(self.more[most]):,} more image{'' if int(self.more[most]) == 1 else 's'}"
        now, ends = f"{float(self.recall[place]):.0%}", f"{100 * low:.0f}-{100 * high:.0f}%"
        return f"{images} of {self.class_names[place]}: recall {now} to {ends}"

    def in_words(self) -> str:
        """Return the forecasts, one line each, or why there are none."""
        return "\n".join(self.sentences() or self.notes or ("no class was estimated",))

    def to_dict(self) -> dict[str, Any]:
        """Return the curve as JSON values, with NaN as None, and its sentences as `text`."""
        fields = {field.name: json_value(getattr(self, field.name)) for field in dataclasses.fields(self)}
        return fields | {"text": list(self.sentences())}


def learning_curve(
    train: Embeddings,
    heldout: Embeddings,
    head: LinearHead | torch.nn.Module | None = None,
    *,
    more: Sequence[int] = MORE,
    classes: Sequence[int] | None = None,
    class_names: ClassNames | None = None,
    seed: int = 0,
    progress: Progress | None = None,
) -> LearningCurve:
    """Return the recall that a class is expected to have with so many more labelled images, with its 95% interval.

    Held-out images stand for new ones, as the network has learned from neither. A head in which all classes weigh the same is
    refitted on the training features with a quarter, half and all of the held-out images of the class that lie outside a fold, and
    judged on those inside, for each of 4 folds: no image is judged by a head that learned from it. The log odds of recall are taken
    to rise by `slope * log(1 + new images / worth)`, where `worth` is how many new images the training images are worth. Both are
    estimated for the classes together, starting from what other networks had: a mean slope of 0.6.

    It assumes that new images are like the held-out ones, taken at random and labelled rightly, that only this class gets more,
    and that the features stay as they are: training the whole network with the new images may give more.

    Args:
        train: The training images.
        heldout: Images that the network did not learn from, of the validation set.
        head: The head of the network, if the logits of `heldout` are of another one. It gives `recall_head` alone.
        more: Numbers of new images of a class.
        classes: The classes to estimate, by number; all by default. Each takes 12 fits of a head.
        class_names: One name per class.
        seed: Seed of the draws; the same seed gives the same curve.
        progress: Called after each fit.

    Returns:
        The curves. A class without training images or with fewer than 12 held-out images (or groups) has no forecast, and none
        goes beyond 5 times the most images that were added; the notes say so.

    Raises:
        InputError: The arguments do not fit each other, or a number is out of its range.

    See Also:
        suggest_images: Which images to label.

    Example:
        >>> import diversify as dv
        >>> train, heldout, head = dv.make_embeddings((80, 30, 5), spread=1.0)
        >>> print(dv.learning_curve(train, heldout, head, classes=[2], more=[40]).in_words())
        40 more images of class 2: recall 40% to 64-90%
    """
    given = None if class_names is None else names_in_order(class_names)
    chosen = _checked(train, heldout, head, more, classes, given, seed)
    names = tuple(f"class {c}" for c in range(train.num_classes)) if given is None else given
    fits = _Fits(train, heldout, int(seed))
    able = [c for c in chosen if fits.size[c] and fits.units(c) >= LEAST_HELDOUT]
    tick = Ticker(progress, len(able) * FOLDS * len(SHARES))
    measured = {c: fits.measured(c, tick) for c in able}
    rises = [
        measured_rise(measured[c][1], groups=fits.groups_of(c), seed=draws.seed_for("rise", int(seed), c)) for c in able
    ]
    return _curve(fits, chosen, names, measured, rises, torch.tensor(sorted({int(one) for one in more})), head)


def _checked(
    train: Embeddings,
    heldout: Embeddings,
    head: LinearHead | torch.nn.Module | None,
    more: Sequence[int],
    classes: Sequence[int] | None,
    class_names: Sequence[str] | None,
    seed: int,
) -> list[int]:
    """Check the arguments and return the classes to estimate."""
    for name, side in {"train": train, "heldout": heldout}.items():
        require_embeddings(name, side)
        if not len(side):
            raise must(name, "have rows", "none")
    for what in ("features", "classes"):
        own, others = (getattr(side, f"num_{what}") for side in (heldout, train))
        if own != others:
            raise must("heldout", f"have the {others} {what} of the training rows", own)
    if len(train.labels.unique()) < 2:
        raise must("train", "have rows of at least 2 classes", 1)
    _require_whole("more", more, 1, None)
    if not len(more):
        raise must("more", "name at least one number of new images", "none")
    if head is not None:
        used = read_head(head)
        if (used.num_features, used.num_classes) != (train.num_features, train.num_classes):
            law = f"have the {train.num_features} features and {train.num_classes} classes of the training rows"
            raise must("head", law, f"{used.num_features} and {used.num_classes}")
    if class_names is not None and len(class_names) != train.num_classes:
        raise must("class_names", f"be one per class, {train.num_classes}", len(class_names))
    if not isinstance(seed, numbers.Integral) or isinstance(seed, bool) or seed < 0:
        raise must("seed", "be an integer of at least 0", repr(seed))
    if classes is None:
        return list(range(train.num_classes))
    _require_whole("classes", classes, 0, train.num_classes - 1)
    if not len(classes) or len({int(c) for c in classes}) < len(classes):
        raise must("classes", "be different classes, at least one", str(list(classes)))
    return [int(c) for c in classes]


def _require_whole(name: str, values: object, least: int, most: int | None) -> None:
    if not isinstance(values, Iterable):
        raise must(name, "be a list of integers", repr(values), f"write {name}=[{values!r}]")
    for value in values:
        whole = isinstance(value, numbers.Integral) and not isinstance(value, bool)
        if not whole or value < least or (most is not None and value > most):
            law = f"be integers of at least {least}" if most is None else f"be integers in [{least}, {most}]"
            raise must(name, law, repr(value))


class _Fits:
    """Heads refitted with all classes weighing the same, on the training rows and some held-out rows of one class."""

    def __init__(self, train: Embeddings, heldout: Embeddings, seed: int) -> None:
        self.heldout, self.seed = heldout, seed
        rows = train.features.detach().cpu().float()
        scale, self._centre = torch.std_mean(rows, dim=0, correction=0)
        self._scale = scale.masked_fill(scale == 0, 1)
        self._rows, labels = (rows - self._centre) / self._scale, train.labels.cpu()
        self.size = counts.class_counts(labels, train.num_classes).tolist()
        self._present, self._labels = labels.unique(return_inverse=True)
        self._start = balanced_head(self._rows, self._labels)
        self._own = [(heldout.labels.cpu() == c).nonzero()[:, 0] for c in range(train.num_classes)]

    def rows_of(self, c: int) -> Tensor:
        """Return the held-out features of a class."""
        return self.scaled(self.heldout.features[self._own[c].to(self.heldout.features.device)])

    def scaled(self, features: Tensor) -> Tensor:
        """Return features as the heads take them: by the mean and spread of the training rows."""
        return (features.detach().cpu().float() - self._centre) / self._scale

    def groups_of(self, c: int) -> Tensor | None:
        """Return the groups of the held-out rows of a class."""
        groups = self.heldout.groups
        return None if groups is None else groups.cpu()[self._own[c]]

    @property
    def noun(self) -> str:
        """What is counted as independent."""
        return "images" if self.heldout.groups is None else "groups"

    def units(self, c: int) -> int:
        """Return how many held-out rows a class has, or groups of them."""
        groups = self.groups_of(c)
        return len(self._own[c]) if groups is None else len(groups.unique())

    def hits(self, c: int, judged: Tensor, new: Tensor | None = None) -> Tensor:
        """Return which rows are recognised by the head that is fitted with new rows of the class."""
        if not self.size[c]:
            return torch.zeros(len(judged))
        place, head = int((self._present == c).nonzero()), self._start
        if new is not None:
            rows, labels = torch.cat([self._rows, new]), torch.cat([self._labels, torch.full((len(new),), place)])
            head = balanced_head(rows, labels, start=head, iterations=_ITERATIONS)
        return (head_scores(judged, head).argmax(1) == place).float()

    def measured(self, c: int, tick: Ticker) -> tuple[list[int], Tensor]:
        """Return how many held-out rows were added, and the hits of each row without new ones and then with them, `(P + 1, M)`."""
        rows, groups = self.rows_of(c), self.groups_of(c)
        labels = torch.zeros(len(rows), dtype=torch.int64)
        fold = stratified_folds(labels, FOLDS, seed=self.seed, name=f"learning curve {c}", groups=groups)
        outside = [(fold != part).nonzero()[:, 0] for part in range(FOLDS)]
        fewest = min(len(own) for own in outside)
        added: list[int] = []
        hits = [self.hits(c, rows)]
        for share in SHARES:
            number, found = max(1, round(share * fewest)), torch.zeros(len(rows))
            for part, own in enumerate(outside):
                order = draws.permutation(len(own), "learning curve", self.seed, c, part, len(added))
                new, judged = rows[own[order[:number]]], fold == part
                if bool(judged.any()):
                    found[judged] = self.hits(c, rows[judged], new)
                tick()
            added.append(number)
            hits.append(found)
        return added, torch.stack(hits)


def _curve(
    fits: _Fits,
    chosen: list[int],
    names: tuple[str, ...],
    measured: dict[int, tuple[list[int], Tensor]],
    rises: list[Rise],
    more: Tensor,
    head: LinearHead | torch.nn.Module | None,
) -> LearningCurve:
    """Put the curves together."""
    heldout = fits.heldout if head is None else fits.heldout.seen_by(read_head(head))
    right = (heldout.logits.argmax(1) == heldout.labels).cpu().double()
    shares = torch.stack([fits.hits(c, fits.rows_of(c)).mean().double() for c in chosen])  # NaN without held-out rows
    units = torch.tensor([fits.units(c) for c in chosen])
    low, high = wilson_interval(shares.nan_to_num(0.0) * units, units)
    slope, worth = torch.full((2, len(chosen)), math.nan, dtype=torch.float64)
    recall_added = torch.full((len(chosen), len(SHARES)), math.nan, dtype=torch.float64)
    ahead = torch.full((3, len(chosen), len(more)), math.nan, dtype=torch.float64)
    added, mean = torch.zeros(len(chosen), len(SHARES), dtype=torch.int64), math.nan
    notes: list[str] = []
    if measured:
        sizes = [fits.size[c] for c in measured]
        curves = fit_curves(rises, [torch.tensor(numbers) for numbers, _ in measured.values()], sizes)
        mean = curves.slope_mean
    for place, c in enumerate(chosen):
        if c not in measured:
            few = f"{fits.units(c)} held-out {fits.noun}, fewer than {LEAST_HELDOUT}"
            notes.append(f"no forecast for {names[c]}: it has {few if fits.size[c] else 'no training images'}")
            continue
        numbers, hits = measured[c]
        at, most = list(measured).index(c), FARTHEST * max(numbers)
        added[place], recall_added[place] = torch.tensor(numbers), hits[1:].double().mean(1)
        slope[place], worth[place] = curves.slope[at], curves.worth[at]
        if bool((more > most).any()):
            notes.append(f"no forecast for more than {most:,} new images of {names[c]}")
        share, weights = float(shares[place]), curves.weights[at]
        found = forecast_recall(share, fits.units(c), more, weights=weights, count=fits.size[c])
        ahead[:, place] = torch.where(more <= most, torch.stack(list(found)), math.nan)
    return LearningCurve(
        class_names=tuple(names[c] for c in chosen),
        classes=torch.tensor(chosen),
        count=torch.tensor([fits.size[c] for c in chosen]),
        count_heldout=torch.tensor([len(fits.rows_of(c)) for c in chosen]),
        recall_head=torch.stack([right[heldout.labels.cpu() == c].mean() for c in chosen]),
        recall=shares,
        recall_low=low,
        recall_high=high,
        added=added,
        recall_added=recall_added,
        slope=slope,
        worth=worth,
        slope_mean=mean,
        more=more,
        forecast=ahead[0],
        forecast_low=ahead[1],
        forecast_high=ahead[2],
        notes=tuple(notes),
    )
