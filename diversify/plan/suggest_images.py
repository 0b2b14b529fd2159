"""Suggest which images of an unlabelled pool to label next."""

from __future__ import annotations

import csv
import dataclasses
import io
import json
import math
import numbers
from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor

from ..diagnosis.result import Diagnosis
from ..errors import must, unknown
from ..functional import counts
from ..functional.acquisition import METHODS
from ..functional.groups import group_numbers
from ..functional.multilabel import require_one_label
from ..functional.pool import Pool, PoolCopies, Taken
from ..network.embeddings import Embeddings, require_embeddings
from ..network.linear_head import LinearHead, read_head

if TYPE_CHECKING:
    import pandas as pd

DEFAULT = "coverage"
BALANCED = "balanced "  # before the name of a method: at most a fair share for each predicted class
LEAST_NEED = 0.02  # of a class that is always recognised, where a class that is never recognised has 1
ADDED = 4  # images with the mean recall that are added to those of a class: a recall of few images says little
_TAUS = tuple(step / 4 for step in range(7))  # shares of the log prior that are tried on held-out rows
_TEMPERATURES = tuple(2 ** (step / 2) for step in range(-2, 9))
_COLUMNS = ("path", "index", "predicted_class", "probability", "score", "reason")


@dataclasses.dataclass(frozen=True, kw_only=True)
class SuggestedImage:
    """One image to label.

    Attributes:
        row: Its row in the pool.
        index: Its index in the data set of the pool.
        predicted: The number of the class that it is predicted as.
        predicted_class: The name of that class.
        probability: The probability of that class, if all classes were equally frequent.
        score: What the method ranks by; see `diversify.functional.acquisition`.
        reason: Why it is suggested.
        name: Its path, if it is known.

    Example:
        >>> import diversify as dv
        >>> train, heldout, _ = dv.make_embeddings((80, 30, 5))
        >>> one = dv.suggest_images(None, train, heldout, budget=1, method="random").images[0]
        >>> one.row, one.predicted_class
        (102, 'class 2')
    """

    row: int
    index: int
    predicted: int
    predicted_class: str
    probability: float
    score: float
    reason: str
    name: str = ""


@dataclasses.dataclass(frozen=True, kw_only=True)
class Suggestion:
    """The images of a pool to label next, in order: the first are worth the most, so a shorter list is its beginning.

    Attributes:
        images: The images, first to label first.
        class_names: One name per class.
        need: 1 minus the held-out recall of each class, relative to the mean of the classes; see `suggest_images`.
        method: The method that chose.
        budget: The number of images that was asked for.
        pool: Number of images in the pool.
        copies: How many of these are near copies of training or held-out images and so were left out.
        seed: Seed of the draws.

    Example:
        >>> import diversify as dv
        >>> train, heldout, head = dv.make_embeddings((80, 30, 5))
        >>> found = dv.suggest_images(dv.diagnose(train, heldout, head=head), train, heldout, budget=2)
        >>> print(found.to_csv().splitlines()[0])
        path,index,predicted_class,probability,score,reason
    """

    images: tuple[SuggestedImage, ...]
    class_names: tuple[str, ...]
    need: tuple[float, ...]
    method: str
    budget: int
    pool: int
    copies: int
    seed: int

    def __len__(self) -> int:
        return len(self.images)

    @property
    def indices(self) -> Tensor:
        """`(n,)` int64, the images' indices in the data set of the pool, in order."""
        return torch.tensor([one.index for one in self.images], dtype=torch.int64)

    def with_names(self, names: Sequence[str]) -> Suggestion:
        """Return the suggestion with the path of every image.

        Args:
            names: One path per row of the pool.

        Raises:
            InputError: There is not one per row.
        """
        if len(names) != self.pool:
            raise must("names", f"be one per row of the pool, {self.pool}", len(names))
        named = tuple(dataclasses.replace(one, name=str(names[one.row])) for one in self.images)
        return dataclasses.replace(self, images=named)

    def in_words(self) -> str:
        """Return the suggestion in a sentence: how many images, predicted as which classes."""
        shares = [0] * len(self.class_names)
        for one in self.images:
            shares[one.predicted] += 1
        order = sorted(range(len(shares)), key=lambda c: (-shares[c], c))
        listed = ", ".join(f"{shares[c]} as {self.class_names[c]}" for c in order[:5] if shares[c])
        more = sum(1 for c in order[5:] if shares[c])
        rest = f" and {more} more {'classes' if more > 1 else 'class'}" if more else ""
        short = "" if len(self) == self.budget else f" ({self.budget:,} wanted: the others are near copies)"
        return f"{len(self):,} of {self.pool:,} images to label{short}; predicted {listed}{rest}"

    def to_dict(self) -> dict[str, Any]:
        """Return the suggestion as JSON values."""
        record = dataclasses.asdict(self)
        for one in record["images"]:
            one["score"] = _number(one["score"])
            one["probability"] = _number(one["probability"])
        record["need"] = [_number(each) for each in self.need]
        return record | {"images": list(record["images"]), "class_names": list(self.class_names)}

    def to_json(self) -> str:
        """Return the suggestion as JSON text."""
        return json.dumps(self.to_dict(), indent=2, ensure_ascii=False) + "\n"

    def to_csv(self) -> str:
        """Return one line per image, in order: path, index, predicted class, probability, score and reason."""
        text = io.StringIO()
        lines = csv.writer(text, lineterminator="\n")
        lines.writerow(_COLUMNS)
        lines.writerows(self._rows())
        return text.getvalue()

    def to_dataframe(self) -> pd.DataFrame:
        """Return a pandas data frame with one row per image, in order, and the columns of `to_csv`.

        Raises:
            InputError: pandas is not installed.
        """
        try:
            import pandas as pd
        except ImportError as error:
            raise must("pandas", "be installed for to_dataframe()", "no such package", "pip install pandas") from error
        return pd.DataFrame(self._rows(), columns=list(_COLUMNS))

    def _rows(self) -> list[tuple[Any, ...]]:
        return [
            (one.name, one.index, one.predicted_class, _number(one.probability), _number(one.score), one.reason)
            for one in self.images
        ]


def _number(value: float) -> float:
    return float(f"{value:.6g}")


def suggest_images(
    diagnosis: Diagnosis | None,
    train: Embeddings,
    pool: Embeddings,
    *,
    budget: int,
    method: str = DEFAULT,
    head: LinearHead | torch.nn.Module | None = None,
    heldout: Embeddings | None = None,
    groups: Any = None,
    seed: int = 0,
) -> Suggestion:
    """Return which images of a pool to label next, in order, with the predicted class, a score and a reason for each.

    The labels of the pool are not read. Of images that are near copies of each other at most one is suggested, and none
    that is a near copy of a training image, or of a held-out image if these are given. Probabilities are those that the
    head would give if classes were equally frequent.

    Args:
        diagnosis: Of the same network, made on the validation set. It gives names, reasons and `Suggestion.need`: the need
            of a class is 1 minus its held-out recall, at least 0.02, divided by the mean of the classes. The recall counts 4
            more images with the mean recall, so that few images say little. The choice does not depend on it. None: every
            class has the same need.
        train: The training images.
        pool: The images to choose from, from the same network; `extract` with any labels makes them.
        budget: Number of images to suggest.
        method: `coverage` (the default), `margin`, `entropy`, `random`, `k-center`, `badge` or `typical`; as
            "balanced margin", with at most a fair share for each predicted class.
        head: Gives the logits, if those of `train` and `pool` are of another head.
        heldout: The images of the validation set. They say how much the head favours frequent classes and how sure of
            itself it is. Without them it is taken for one that was trained by plain cross entropy and is as sure as it
            should be.
        groups: One value per image of the pool, equal for images that depend on each other; a group gives at most its fair
            share. None takes `pool.groups`.
        seed: Seed of the draws; the same seed gives the same suggestion.

    Returns:
        The suggestion; shorter than the budget if too few images are left without near copies.

    Raises:
        InputError: The arguments do not fit each other, the diagnosis was made on test, the budget is larger than the
            pool, or every image of the pool is a near copy of a training or held-out image.

    See Also:
        `diversify collect`: The same for a folder of images, with a page of pictures.

    Example:
        >>> import diversify as dv
        >>> train, heldout, head = dv.make_embeddings((200, 80, 20))
        >>> diagnosis = dv.diagnose(train, heldout, head=head, class_names=["cat", "dog", "owl"])
        >>> found = dv.suggest_images(diagnosis, train, heldout, budget=10)
        >>> len(found), found.images[0].predicted_class in diagnosis.class_names
        (10, True)
        >>> print(found.images[0].reason)
        predicted as owl (93%), then cat (6%); held-out recall of owl is 86%
    """
    wanted, balanced = _method(method)
    _require_fit(diagnosis, train, pool, heldout)
    _require_numbers(budget, len(pool), seed)
    budget, seed = int(budget), int(seed)
    probabilities = _probabilities(train, pool, heldout, head)
    scale = float(train.features.double().square().mean().sqrt()) or 1.0
    rows = Pool(
        features=pool.features.cpu() / scale,
        probabilities=probabilities,
        train=train.features.cpu() / scale,
        labels=train.labels.cpu(),
        seed=seed,
    )
    own = pool.groups if groups is None else group_numbers("groups", groups, rows=len(pool))
    shares = [*([] if own is None else [own.cpu()]), *([rows.predicted] if balanced else [])]
    copies = PoolCopies(rows)
    seen = copies.of_known(rows.train, rows.labels)
    if heldout is not None:
        seen |= copies.of_known(heldout.features.cpu() / scale, heldout.labels.cpu())
    if bool(seen.all()):
        law = "have images that are no near copies of training or held-out images"
        raise must("pool", law, "none", "bring other images")
    taken = Taken(budget, ~seen, copies.of, shares)
    METHODS[wanted](rows, taken)
    predicted = rows.predicted.tolist()
    names = diagnosis.class_names if diagnosis is not None else tuple(f"class {c}" for c in range(train.num_classes))
    reason = _Reasons(probabilities, names, diagnosis)
    return Suggestion(
        images=tuple(
            SuggestedImage(
                row=row,
                index=int(pool.indices[row]),
                predicted=predicted[row],
                predicted_class=names[predicted[row]],
                probability=float(probabilities[row].max()),
                score=score,
                reason=reason.of(row),
            )
            for row, score in zip(taken.rows, taken.scores, strict=True)
        ),
        class_names=tuple(names),
        need=tuple(_need(diagnosis, train.num_classes).tolist()),
        method=method,
        budget=budget,
        pool=len(pool),
        copies=int(seen.sum()),
        seed=seed,
    )


def _method(method: str) -> tuple[str, bool]:
    """The method's own name, and whether predicted classes have equal shares."""
    name, balanced = str(method), str(method).startswith(BALANCED)
    if balanced:
        name = name.removeprefix(BALANCED)
    if name not in METHODS:
        raise unknown("method", str(method), [*METHODS, *(BALANCED + each for each in METHODS)])
    return name, balanced


def _require_fit(diagnosis: Diagnosis | None, train: Embeddings, pool: Embeddings, heldout: Embeddings | None) -> None:
    given = {"train": train, "pool": pool} | ({} if heldout is None else {"heldout": heldout})
    for name, side in given.items():
        require_embeddings(name, side)
        if not len(side):
            raise must(name, "have rows", "none")
        for what in ("features", "classes"):
            own, others = (getattr(each, f"num_{what}") for each in (side, train))
            if own != others:
                raise must(name, f"have the {others} {what} of the training rows", own)
    if train.num_classes < 2:
        raise must("train", "have at least 2 classes", train.num_classes)
    if diagnosis is None:
        return
    require_one_label("diagnosis", diagnosis)
    if not isinstance(diagnosis, Diagnosis):
        raise must("diagnosis", "be a Diagnosis or None", type(diagnosis).__name__, "dv.diagnose makes one")
    if len(diagnosis.class_names) != train.num_classes:
        raise must(
            "diagnosis", f"have the {train.num_classes} classes of the training rows", len(diagnosis.class_names)
        )
    if not diagnosis.plan_ready:
        law, got = "be made on the validation set to choose images by", f"one made on {diagnosis.heldout_split}"
        raise must("diagnosis", law, got, "test is evaluated once, after choosing")


def _require_numbers(budget: int, rows: int, seed: int) -> None:
    if not isinstance(budget, numbers.Integral) or isinstance(budget, bool) or not 1 <= budget <= rows:
        raise must("budget", f"be an integer in [1, {rows}], the number of images in the pool", repr(budget))
    if not isinstance(seed, numbers.Integral) or isinstance(seed, bool) or seed < 0:
        raise must("seed", "be an integer of at least 0", repr(seed))


def _probabilities(
    train: Embeddings, pool: Embeddings, heldout: Embeddings | None, head: LinearHead | torch.nn.Module | None
) -> Tensor:
    """The probabilities of the pool's rows, `(N, C)` float64, if classes were equally frequent."""
    sides = [pool] if heldout is None else [pool, heldout]
    if head is not None:
        used = read_head(head)
        if (used.num_features, used.num_classes) != (train.num_features, train.num_classes):
            law = f"have the {train.num_features} features and {train.num_classes} classes of the training rows"
            raise must("head", law, f"{used.num_features} and {used.num_classes}")
        sides = [side.seen_by(used) for side in sides]
    prior = _log_prior(train.labels, train.num_classes)
    tau, temperature = (1.0, 1.0) if heldout is None else _calibrated(sides[1], prior)
    return ((sides[0].logits.cpu().double() - tau * prior) / temperature).softmax(1)


def _log_prior(labels: Tensor, num_classes: int) -> Tensor:
    """`(C,)` float64, the logarithm of the share of each class; that of the rarest for a class without rows."""
    sizes = counts.class_counts(labels, num_classes).cpu().double()
    return (sizes.clamp(min=float(sizes[sizes > 0].min())) / sizes.sum()).log()


def _calibrated(heldout: Embeddings, prior: Tensor) -> tuple[float, float]:
    """The share of the log prior and the temperature under which the mean log likelihood over the classes is largest."""
    logits, labels = heldout.logits.cpu().double(), heldout.labels.cpu()
    found = (-math.inf, 1.0, 1.0)
    for tau in _TAUS:
        for temperature in _TEMPERATURES:
            logs = ((logits - tau * prior) / temperature).log_softmax(1).gather(1, labels[:, None])
            mean = float(counts.class_mean(logs, labels, len(prior)).nanmean())
            found = max(found, (mean, tau, temperature))
    return found[1], found[2]


def _need(diagnosis: Diagnosis | None, num_classes: int) -> Tensor:
    """`(C,)` float64 of mean 1: 1 minus the held-out recall, to which 4 images with the mean recall are added."""
    if diagnosis is None:
        return torch.ones(num_classes, dtype=torch.float64)
    recall, rows = diagnosis["recall_heldout"].double(), diagnosis["count_heldout"].double().nan_to_num(0.0)
    usual = recall.nanmean().nan_to_num(0.0)
    need = (1 - (rows * recall.nan_to_num(0.0) + ADDED * usual) / (rows + ADDED)).clamp(min=LEAST_NEED)
    return need / need.mean()


class _Reasons:
    """Writes why a row is suggested."""

    def __init__(self, probabilities: Tensor, names: Sequence[str], diagnosis: Diagnosis | None) -> None:
        self.probabilities, self.names = probabilities, names
        self.recall = None if diagnosis is None else diagnosis["recall_heldout"].tolist()

    def of(self, row: int) -> str:
        """Return the two most probable classes of a row and the recall of the first."""
        value, place = self.probabilities[row].topk(2)
        (first, second), (one, two) = place.tolist(), value.tolist()
        text = f"predicted as {self.names[first]} ({one:.0%}), then {self.names[second]} ({two:.0%})"
        if self.recall is None:
            return text
        recall = self.recall[first]
        known = "is not known" if math.isnan(recall) else f"is {recall:.0%}"
        return f"{text}; held-out recall of {self.names[first]} {known}"
