"""Labels that are probably wrong, told apart from images that are merely hard."""

from __future__ import annotations

import dataclasses
from collections.abc import Collection, Mapping, Sequence
from typing import Any, Self

import pydantic
import torch
from torch import Tensor

from ..errors import must
from ..files.schema import refusal
from ..functional import counts, diversity, label_errors
from ..functional.ceiling import HEAD_WORK, CrossFit, cross_fit
from ..functional.labels import read_labels
from ..functional.multilabel import require_one_label
from ..network.embeddings import Embeddings, real_tensor, require_finite
from ..network.linear_head import LinearHead
from .beyond_size import MATCHED_N
from .class_table import ClassTable
from .columns import DRAWS, FOLDS, global_centre, put_magnitudes
from .coverage import put_coverage
from .findings import COUNTS_IMAGES, REMEDIES, Evidence, Finding
from .json_form import Number, json_number, number, tensor
from .sides import Side

KIND = "suspect labels"
REMEDY = "check labels"
LEVEL = 0.05  # of the tests over all classes of one side
KEPT = 500  # suspect rows of each side that a diagnosis keeps, the most suspect ones
TRAIN_WORK = 1e10  # multiply-adds per fold of the heads that are fitted on training features
CLEANED = (  # measured again without suspects
    "ce_magnitude_ratio",
    "identity_overlap",
    "diversity_vendi_heldout",
    "coverage_heldout",
)
SIDES = {"heldout": "held-out", "train": "training"}
COLUMNS = {"heldout": "suspect_labels", "train": "suspect_labels_train"}


@dataclasses.dataclass(frozen=True, kw_only=True, eq=False)
class LabelErrors:
    """The rows whose label is suspect, the most suspect first, and how many suspects each class has.

    Attributes:
        rows: `(S,)` int64, rows of the features.
        indices: `(S,)` int64, the images' indices in their data set; the rows where these are not known.
        given: `(S,)` int64, the labels as they are.
        suggested: `(S,)` int64, the classes that the images rather belong to.
        score: `(S,)` in (0, 1], how much more probable the most probable other class is than the given one; by the model's own
            probabilities for a row that is suspect only by `alike`.
        measured: `(C,)`, the rows of each class that were looked at.
        count: `(C,)`, how many of them are suspect; NaN for a class with fewer than 5 rows.
        expected: `(C,)`, how many would be suspect if every label were right: hard images.
        p_value: `(C,)`, the p value that a class has no more suspects than right labels explain, adjusted for all classes;
            NaN for a class with fewer than 20 rows.
        noise: Share of all labels that are independent of the features, estimated together with `expected`.
        alike: `(C,)`, the AUC by which rows of the class that the model predicts as one other class are told from right rows of
            that class, where it is below 0.65; NaN for a class without such rows. Only a diagnosis of held-out images has it.

    Example:
        >>> import torch, diversify as dv
        >>> train, heldout, head = dv.make_embeddings((100, 100, 100, 100), spread=0.4)
        >>> labels, wrong = train.labels.clone(), torch.arange(0, 400, 10)
        >>> labels[wrong] = (labels[wrong] + 1 + torch.arange(40) % 3) % 4  # 40 wrong labels
        >>> errors = dv.find_label_errors(train.features, labels)
        >>> errors.wrong_classes, errors.count.tolist()
        ((0, 1, 2, 3), [6.0, 10.0, 9.0, 8.0])
    """

    rows: Tensor
    indices: Tensor
    given: Tensor
    suggested: Tensor
    score: Tensor
    measured: Tensor
    count: Tensor
    expected: Tensor
    p_value: Tensor
    noise: float
    alike: Tensor = dataclasses.field(default_factory=lambda: torch.empty(0))

    def __post_init__(self) -> None:
        if not len(self.alike):
            object.__setattr__(self, "alike", torch.full((len(self.measured),), torch.nan, dtype=torch.float64))

    def __len__(self) -> int:
        return len(self.rows)

    @property
    def wrong_classes(self) -> tuple[int, ...]:
        """The classes with probably wrong labels.

        These have surely more suspects than right labels explain, at the 5% level over all classes, or many images that are
        predicted as one other class and look exactly like its images.
        """
        return tuple(((self.p_value < LEVEL) | self.looks_alike).nonzero()[:, 0].tolist())

    @property
    def looks_alike(self) -> Tensor:
        """`(C,)` bool, the classes with many images that look exactly like the images of one other class."""
        return self.alike < label_errors.ALIKE

    def most_suspect(self, number: int) -> Self:
        """Return the first rows; the numbers of each class stay those of all rows.

        Args:
            number: The most rows to keep.
        """
        fields = ("rows", "indices", "given", "suggested", "score")
        return dataclasses.replace(self, **{name: getattr(self, name)[:number] for name in fields})

    def to_dict(self) -> dict[str, Any]:
        """Return the content as JSON values, with None for NaN."""
        whole = {name: getattr(self, name).tolist() for name in ("rows", "indices", "given", "suggested")}
        real = {
            name: [json_number(value) for value in getattr(self, name).tolist()]
            for name in ("score", "measured", "count", "expected", "p_value", "alike")
        }
        return {**whole, **real, "noise": json_number(self.noise)}

    @classmethod
    def from_dict(cls, record: object) -> Self:
        """Return the label errors that `to_dict` was called on.

        Raises:
            InputError: A field is missing or damaged.
        """
        try:
            file = _File.model_validate(record)
        except pydantic.ValidationError as error:
            raise refusal("label errors", error) from None
        rows = {name: getattr(file, name) for name in ("rows", "indices", "given", "suggested")}
        classes = {name: tensor(getattr(file, name)) for name in ("measured", "count", "expected", "p_value")}
        classes["alike"] = tensor(file.alike) if file.alike else torch.full_like(classes["measured"], torch.nan)
        if len({len(file.score), *map(len, rows.values())}) > 1 or len({*map(len, classes.values())}) > 1:
            raise must("label errors", "have one value per row and per class", "columns of different lengths")
        num_classes = len(file.measured)
        if any(not 0 <= c < num_classes for c in (*file.given, *file.suggested)):
            raise must("label errors", f"be of the {num_classes} classes", "a class outside")
        whole = {name: torch.tensor(values, dtype=torch.int64) for name, values in rows.items()}
        return cls(**whole, **classes, score=tensor(file.score), noise=number(file.noise))


class _File(pydantic.BaseModel):
    rows: list[int]
    indices: list[int]
    given: list[int]
    suggested: list[int]
    score: list[Number]
    measured: list[Number]
    count: list[Number]
    expected: list[Number]
    p_value: list[Number]
    noise: Number
    alike: list[Number] = []


def find_label_errors(
    embeddings: Embeddings | Any, labels: Any = None, *, folds: int = FOLDS, seed: int = 0
) -> LabelErrors:
    """Find the images whose label is probably wrong, from features that a network computed for them.

    A linear head is fitted on all folds but one and gives the probabilities of the fold's images (cross-fitting).
    An image is suspect by the rule of confident learning: the probability of another class is at least the mean
    probability that images of that class have for it, and is above the probability of the label.

    Hard images are suspect, too. So the same calibrated probabilities say how many suspects a class would have if every
    label were right, `expected`; only a class in `wrong_classes` has surely more.

    Args:
        embeddings: Embeddings of training or held-out images; or features `(N, D)`, a tensor or an array.
        labels: One class per row, if features are given; by default the labels of the embeddings.
        folds: Number of folds. Images of classes with fewer images are not looked at.
        seed: Seed of the folds.

    Returns:
        The suspect rows, and numbers per class. Look at the images before you change a label.

    Raises:
        InputError: Labels are missing or do not fit, or fewer than two classes have an image for each fold.

    References:
        Northcutt, Jiang and Chuang (2021), Confident learning: estimating uncertainty in dataset labels, Journal of
        Artificial Intelligence Research 70, arXiv:1911.00068.

    See Also:
        `diagnose`, which looks for suspect labels on both sides.

    Example:
        >>> import torch, diversify as dv
        >>> train, heldout, head = dv.make_embeddings((100, 100, 100, 100), spread=0.4)
        >>> labels, wrong = train.labels.clone(), torch.arange(0, 400, 10)
        >>> labels[wrong] = (labels[wrong] + 1 + torch.arange(40) % 3) % 4  # 40 wrong labels
        >>> errors = dv.find_label_errors(train.features, labels)
        >>> len(errors), set(errors.rows.tolist()) <= set(wrong.tolist())  # 33 of them are found, and no right one
        (33, True)
        >>> bool((errors.suggested == train.labels[errors.rows])[:10].all())  # the right class is suggested
        True
    """
    require_one_label("embeddings", embeddings, "it is defined for one label per image")
    if isinstance(embeddings, Embeddings):
        features, indices, num_classes = embeddings.features, embeddings.indices, embeddings.num_classes
        given = embeddings.labels if labels is None else read_labels("labels", labels, rows=len(features))
        num_classes = max(num_classes, int(given.max()) + 1)
    else:
        if labels is None:
            raise must("labels", "be given with features", None)
        features = real_tensor("features", embeddings, 2)
        require_finite("features", features)
        given = read_labels("labels", labels, rows=len(features))
        indices, num_classes = torch.arange(len(features)), int(given.max()) + 1
    sizes = counts.class_counts(given, num_classes)
    if not 2 <= folds <= len(given):
        raise must("folds", f"lie in [2, {len(given)}], the number of rows", folds)
    if int((sizes >= folds).sum()) < 2:
        raise must("labels", f"have two classes with at least {folds} rows", f"{int((sizes >= folds).sum())}")
    fitted = cross_fit(features, given, num_classes, folds=folds, seed=seed)
    return label_errors_of(fitted, given, torch.arange(len(given)), indices, folds=folds)


def label_errors_of(
    fitted: CrossFit, labels: Tensor, rows: Tensor, indices: Tensor, *, folds: int = FOLDS
) -> LabelErrors:
    """Return the suspects among rows that were cross-fitted.

    Args:
        fitted: The cross-fitted probabilities `(N, C)`, from balanced weights.
        labels: `(N,)`, the labels of these rows.
        rows: `(N,)`, their rows in the embeddings.
        indices: The indices of all rows of the embeddings in their data set.
        folds: The number of folds; classes with fewer rows are not looked at.
    """
    probabilities, labels = fitted.probabilities.cpu(), labels.cpu()
    rows, indices, num_classes = rows.cpu(), indices.cpu(), fitted.probabilities.shape[1]
    total = counts.class_counts(labels, num_classes)
    enough = total >= folds
    found = label_errors.suspect_labels(probabilities, labels)
    kept = enough[labels[found.rows]]
    places = found.rows[kept]
    count = counts.class_counts(labels[places], num_classes)
    expectation = label_errors.expected_suspects(probabilities, labels)
    share = expectation.share.where(enough, torch.nan)
    return LabelErrors(
        rows=rows[places],
        indices=indices[rows[places]],
        given=labels[places],
        suggested=found.suggested[kept],
        score=found.score[kept],
        measured=total,
        count=count.double().where(enough, torch.nan),
        expected=share * total,
        p_value=label_errors.too_many_suspects(count, total, share),
        noise=expectation.noise,
    )


def refit(side: Side, num_classes: int, seed: int, *, work: float = HEAD_WORK) -> CrossFit | None:
    """Return what heads fitted on the other folds say of a side's query rows; None with fewer than two classes to tell apart.

    Args:
        side: The side.
        num_classes: C.
        seed: Seed of the folds.
        work: Multiply-adds per fold beyond which fewer iterations are made.
    """
    rows = side.queries
    labels = side.labels[rows]
    if int((counts.class_counts(labels, num_classes) >= FOLDS).sum()) < 2:
        return None
    groups = side.groups_of(rows)
    if groups is not None and len(groups.unique()) < 2:
        return None
    return cross_fit(side.raw[rows], labels, num_classes, folds=FOLDS, seed=seed, work=work, groups=groups)


def errors_of_sides(
    fitted: CrossFit | None, train: Side, heldout: Side, num_classes: int, seed: int
) -> dict[str, LabelErrors]:
    """Return the label errors of "heldout" and "train"; nothing for a side with fewer than two classes to tell apart.

    Args:
        fitted: The cross-fit of the held-out query rows, which is made for the head ceiling.
        train: The training side; fewer iterations are made for it.
        heldout: The held-out side.
        num_classes: C.
        seed: Seed of the folds.
    """
    fits = {"heldout": (heldout, fitted), "train": (train, refit(train, num_classes, seed, work=TRAIN_WORK))}
    errors = {
        name: label_errors_of(fit, side.labels[side.queries], side.queries, side.indices)
        for name, (side, fit) in fits.items()
        if fit is not None
    }
    if "heldout" in errors:  # the model knows its training images by their labels, right or wrong
        errors["heldout"] = _with_alike(errors["heldout"], heldout)
    return errors


def _with_alike(errors: LabelErrors, side: Side) -> LabelErrors:
    """The label errors with the rows that look exactly like the one class that they are predicted as."""
    logits = side.logits_of(side.queries)
    found = label_errors.rows_like_another_class(side.raw[side.queries], logits, side.labels[side.queries])
    alike, count = errors.alike.clone(), errors.count.clone()
    given, suggested, rows, score = [errors.given], [errors.suggested], [errors.rows], [errors.score]
    for one in found:
        places = side.queries[one.rows]
        new = one.rows[~torch.isin(places, errors.rows.to(places.device))]
        probabilities = logits[new].double().softmax(1)
        alike[one.given] = one.auc
        count[one.given] = count[one.given].nan_to_num(0.0) + len(new)
        rows.append(side.queries[new].cpu())
        given.append(torch.full((len(new),), one.given))
        suggested.append(torch.full((len(new),), one.predicted))
        score.append((probabilities[:, one.predicted] - probabilities[:, one.given]).cpu())
    scores = torch.cat(score)
    order = scores.argsort(descending=True, stable=True)
    every = torch.cat(rows)[order]
    return dataclasses.replace(
        errors,
        rows=every,
        indices=side.indices.cpu()[every],
        given=torch.cat(given)[order],
        suggested=torch.cat(suggested)[order],
        score=scores[order],
        count=count,
        alike=alike,
    )


def put_suspects(table: ClassTable, errors: Mapping[str, LabelErrors]) -> dict[str, float]:
    """Put how many labels of each class are suspect and how many would be if all were right; return the noise of each side."""
    unknown = torch.full((table.num_classes,), torch.nan)
    for side, column in COLUMNS.items():
        found = errors.get(side)
        table.put(column, found.count if found is not None else unknown)
        table.put(f"{column}_expected", found.expected if found is not None else unknown)
    return {f"label_noise_{side}": found.noise for side, found in errors.items()}


def without_suspects(
    errors: Mapping[str, LabelErrors], train: Side, heldout: Side, head: LinearHead, k: int, seed: int
) -> dict[str, Tensor]:
    """Return the measures that suspect labels can lower, without suspects, for the classes with surely too many of them.

    Args:
        errors: The label errors of each side.
        train: The training side.
        heldout: The held-out side.
        head: The head.
        k: K of the top-K.
        seed: Seed of the bootstraps.

    Returns:
        The columns `CLEANED` with their intervals, NaN for other classes; empty if there is no such class.
    """
    classes = sorted({c for found in errors.values() for c in found.wrong_classes})
    if not classes:
        return {}
    affected = torch.zeros(head.num_classes, dtype=torch.bool)
    affected[classes] = True
    centre = global_centre(train.raw_means)
    table = ClassTable(head.num_classes, seed)
    named = (("train", train), ("heldout", heldout))
    put_coverage(table, *(_kept(side, _asked(side), errors.get(name)) for name, side in named))
    train, heldout = (
        _kept(side, affected.to(side.labels.device)[side.labels], errors.get(name)) for name, side in named
    )
    put_magnitudes(table, train, heldout, head, k)
    drawn = diversity.matched_diversity(
        heldout.raw,
        heldout.labels,
        head.num_classes,
        centre=centre,
        weight=None,
        k=k,
        n=MATCHED_N,
        draws=DRAWS,
        seed=seed,
        name="diversity heldout",
    )
    table.put_matched("diversity_vendi_heldout", drawn["vendi"], heldout.labels)
    names = [f"{name}{end}" for name in CLEANED for end in ("", "_low", "_high")]
    return {name: table.columns[name].where(affected, torch.nan) for name in names}


def _asked(side: Side) -> Tensor:
    """True for the rows that the costly measures use, `(N,)` bool."""
    return torch.zeros_like(side.labels, dtype=torch.bool).index_fill_(0, side.queries, True)


def _kept(side: Side, keep: Tensor, found: LabelErrors | None) -> Side:
    """The rows of a side that are kept and not suspect."""
    keep = keep.clone()
    if found is not None:
        keep[found.rows.to(keep.device)] = False
    place = keep.cumsum(0) - 1
    raw, rows = side.raw[keep], keep.nonzero()[:, 0]
    return Side(
        raw=raw,
        features=raw if side.features is side.raw else side.features[keep],
        labels=side.labels[keep],
        predictions=side.predictions[keep],
        num_classes=side.num_classes,
        margins=side.margins[keep] if len(side.margins) else side.margins,
        confidence=side.confidence[keep] if len(side.confidence) else side.confidence,
        logits_of=lambda some: side.logits_of(rows[some]),
        queries=place[side.queries[keep[side.queries]]],
        indices=side.indices[keep],
        groups=side.groups_of(keep),
    )


def label_findings(
    errors: Mapping[str, LabelErrors], class_names: Sequence[str], grouped: Collection[str] = ()
) -> tuple[Finding, ...]:
    """Return a finding for each class with surely more suspect labels than right labels explain, largest excess first.

    Args:
        errors: The suspect labels of each side.
        class_names: One name per class.
        grouped: The sides whose images have groups, which the test does not know.
    """
    found = [(side, one, c) for side, one in errors.items() for c in one.wrong_classes]
    found.sort(key=lambda each: float(each[1].expected[each[2]] - each[1].count[each[2]]))
    return tuple(_finding(side, one, class_names, c, grouped=side in grouped) for side, one, c in found)


def _finding(side: str, errors: LabelErrors, class_names: Sequence[str], c: int, *, grouped: bool) -> Finding:
    count, expected, measured = (float(column[c]) for column in (errors.count, errors.expected, errors.measured))
    suggested = errors.suggested[errors.given == c]
    most = counts.class_counts(suggested, len(class_names))
    rather = [
        f"{class_names[other]} {int(most[other])}" for other in most.argsort(descending=True, stable=True).tolist()
    ]
    listed = ", ".join(rather[: min(3, int((most > 0).sum()))])
    about = f"about {expected:,.0f}" if expected >= 0.5 else "hardly any"
    by_count = bool(errors.p_value[c] < LEVEL)
    reasons = [
        f" If all labels were right, {about} would, because they are hard; so labels are probably"
        f" wrong (exact test, adjusted for all classes: {_p_text(float(errors.p_value[c]))})."
    ] * by_count
    if errors.looks_alike[c]:
        reasons.append(
            f" The features hardly tell those that are predicted as {class_names[int(most.argmax())]} from right images of it (AUC"
            f" {float(errors.alike[c]):.2f}; chance is 0.5), so {'many of these' if by_count else 'their'} labels are probably wrong."
        )
    text = (
        f"{count:,.0f} of {measured:,.0f} {SIDES[side]} images of {class_names[c]} look like images of another class:"
        f" {listed}.{''.join(reasons)}{COUNTS_IMAGES if grouped and by_count else ''} Points to: {REMEDIES[REMEDY]}."
    )
    evidence = Evidence(measure=COLUMNS[side], value=count, low=float("nan"), high=float("nan"), compared_with=expected)
    return Finding(
        class_index=c,
        class_name=class_names[c],
        text=text,
        evidence=(evidence,),
        causes=(REMEDY,),
        remedy=REMEDY,
        kind=KIND,
        trouble=(KIND,),
    )


def _p_text(p: float) -> str:
    return "p below 0.001" if p < 0.001 else f"p = {p:.3f}"
