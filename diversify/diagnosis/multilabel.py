"""Diagnose a network that gives each image several labels: each label's positives against its negatives."""

from __future__ import annotations

import dataclasses
import json
import math
from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any, ClassVar, Literal, NamedTuple

import pydantic
import torch
from torch import Tensor, nn
from torch.utils.data import DataLoader

from ..errors import must
from ..files.schema import refusal
from ..functional import diversity, magnitude, multilabel, stats
from ..network.linear_head import LinearHead, read_head
from ..network.multilabel import MultilabelEmbeddings, extract_multilabel
from ..network.split import split_head
from .beyond_size import FEWEST_ROWS, MATCHED_N
from .findings import Evidence, Finding
from .measure import class_names_of, parse_top_k

if TYPE_CHECKING:
    import pandas as pd

SCHEMA_VERSION = 1
BOOTSTRAPS = 200
DRAWS = 50  # draws of equally many positives of every label
FOLDS = 5
FEWEST_TOGETHER = 5  # held-out positives with, and without, another label, below which the two are not compared
_BLOCK = 1 << 22  # bootstrap weights at a time: 32 MB

MULTILABEL_MEASURES: Mapping[str, tuple[str, str, str]] = {
    "count": ("training images", "images", "Training images with the label."),
    "count_heldout": ("held-out images", "images", "Held-out images with the label."),
    "prevalence": ("prevalence", "share", "Share of the training images with the label."),
    "prevalence_heldout": ("held-out prevalence", "share", "Share of the held-out images with the label."),
    "recall_train": ("training recall", "share", "Share of the training positives that are predicted as positive."),
    "recall_heldout": ("held-out recall", "share", "Share of the held-out positives that are predicted as positive."),
    "precision_heldout": (
        "precision",
        "share",
        "Share of the held-out images predicted as positive that are positive.",
    ),
    "f1_heldout": ("F1", "share", "Held-out F1 score at the threshold in use."),
    "average_precision_train": ("training average precision", "share", "Average precision on training images."),
    "average_precision": (
        "average precision",
        "share",
        "Area under the precision-recall curve of held-out images; by chance it is the held-out prevalence.",
    ),
    "ap_refitted": (
        "average precision of a refitted head",
        "share",
        "Average precision of a logistic regression on held-out features, fitted on the other folds.",
    ),
    "ap_gain": ("gain of a refitted head", "share", "Average precision of the refitted head minus that of this head."),
    "ce_magnitude_ratio": (
        "top-K magnitude ratio",
        "ratio",
        "Held-out over training mean of the label's top-K classification embeddings, over its positives.",
    ),
    "ce_magnitude_gap": ("top-K magnitude gap", "logits", "The same, training minus held-out."),
    "diversity_vendi_train": ("training diversity", "directions", "Vendi score of 20 training positives."),
    "diversity_vendi_heldout": ("held-out diversity", "directions", "Vendi score of 20 held-out positives."),
    "ece": ("calibration error", "share", "Expected calibration error of the label's held-out probability."),
    "calibration_bias": ("overconfidence", "share", "Mean held-out probability minus the held-out prevalence."),
    "threshold": ("threshold", "share", "Probability at and above which the label is predicted."),
    "threshold_best": ("best threshold", "share", "Probability threshold with the largest F1 on all held-out images."),
    "f1_best_threshold": ("F1 at best thresholds", "share", "F1 at thresholds fitted on the other folds."),
    "f1_gain": ("gain of the best threshold", "share", "That F1 minus the F1 at the threshold in use."),
    "recall_corrected": ("recall without the prior", "share", "Recall after the label's log odds are subtracted."),
    "precision_corrected": ("precision without the prior", "share", "Precision after the same correction."),
    "f1_corrected": ("F1 without the prior", "share", "F1 after the same correction."),
}
"""Title, unit and meaning of every column of a `MultilabelDiagnosis`, apart from the ends of intervals."""

REMEDIES = {
    "collect images": "collect images with the label, because the model has never seen one",
    "draw more often": "draw images with the label more often, or weigh its positives more, because the model underfits them",
    "threshold": "choose the label's threshold on held-out images (dv.repair_multilabel), because the ranking is better than the"
    " decisions",
    "head repair": "retrain the head (dv.repair_multilabel), because the features separate the label better than the head does",
    "feature space": "augment images with the label, because its strongest features are weaker on new images",
    "image space": "collect or augment more varied images with the label",
    "break co-occurrence": "collect images that show the label without the other one, or draw these more often",
    "more images": "collect or hold out more images with the label, because no measure here explains the low recall",
}


@dataclasses.dataclass(frozen=True, kw_only=True)
class Companion:
    """A label without which another label is recognised less often.

    Attributes:
        label: The label whose recall is compared.
        other: The label that comes with it.
        recall_with: Held-out recall over the positives that also have `other`.
        recall_without: The same over those that do not.
        low: Low end of the interval of `recall_without - recall_with`, corrected for the number of pairs compared.
        high: High end.
        share_train: P(other | label) in training.

    Example:
        >>> import diversify as dv
        >>> train, heldout, head = dv.make_multilabel_embeddings()
        >>> [(one.label, one.other) for one in dv.diagnose_multilabel(train, heldout, head=head).companions]
        [(2, 0)]
    """

    label: int
    other: int
    recall_with: float
    recall_without: float
    low: float
    high: float
    share_train: float


@dataclasses.dataclass(frozen=True, kw_only=True)
class MultilabelDiagnosis:
    """The measures of every label of a network that gives each image several labels.

    `diagnosis["recall_heldout"]` is short for `diagnosis.columns["recall_heldout"]`.

    Attributes:
        heldout_split: The split that the held-out images come from, "val" or "test".
        top_k: K, the number of features in the top-K of a label.
        num_features: D.
        label_names: One name per label.
        columns: Every measure of `MULTILABEL_MEASURES` as `(C,)` float64, NaN where undefined, with `<name>_low` and
            `<name>_high` (95%) where it has an interval. `fragile` is 1 where the upper end of the held-out recall's
            interval lies below the mean over the labels.
        images: Number of training and of held-out images.
        cooccurrence_train: `(C, C)`, P(column | row) among training images.
        cooccurrence_heldout: The same among held-out images.
        top_k_features: `(C, K)` int64, the top-K features of the positives, strongest first; -1 without positives.
        companions: Labels that are recognised less often where another label is missing.
        findings: One finding per label that is fragile, has no training positives, has a better threshold or depends on
            another label.
        summary: Means over the labels that have held-out positives: `mean_average_precision`, `mean_recall`, `mean_f1`.
        seed: The seed that the diagnosis was made with.

    Example:
        >>> import diversify as dv
        >>> train, heldout, head = dv.make_multilabel_embeddings()
        >>> diagnosis = dv.diagnose_multilabel(train, heldout, head=head)
        >>> diagnosis["count"].tolist()
        [327.0, 174.0, 111.0, 21.0]
        >>> dv.MultilabelDiagnosis.from_json(diagnosis.to_json()).label_names
        ('label 0', 'label 1', 'label 2', 'label 3')
    """

    heldout_split: str
    top_k: int
    num_features: int
    label_names: tuple[str, ...]
    columns: Mapping[str, Tensor]
    images: Mapping[str, int]
    cooccurrence_train: Tensor
    cooccurrence_heldout: Tensor
    top_k_features: Tensor
    companions: tuple[Companion, ...]
    findings: tuple[Finding, ...]
    summary: Mapping[str, float]
    seed: int = 0

    several_labels: ClassVar[bool] = True

    def __getitem__(self, column: str) -> Tensor:
        return self.columns[column]

    @property
    def without_heldout(self) -> tuple[str, ...]:
        """The labels without held-out positives: their measures are NaN, and means over the labels leave them out."""
        return self._without("count_heldout")

    @property
    def without_training(self) -> tuple[str, ...]:
        """The labels without training positives."""
        return self._without("count")

    def _without(self, column: str) -> tuple[str, ...]:
        return tuple(name for name, count in zip(self.label_names, self[column].tolist(), strict=True) if count == 0)

    def to_dict(self) -> dict[str, Any]:
        """Return JSON values, with None for NaN."""
        labels: dict[str, Any] = {"name": list(self.label_names)}
        labels |= {name: [_json(value) for value in column.tolist()] for name, column in self.columns.items()}
        return {
            "schema_version": SCHEMA_VERSION,
            "kind": "multilabel",
            "heldout_split": self.heldout_split,
            "top_k": self.top_k,
            "num_features": self.num_features,
            "images": dict(self.images),
            "labels": labels,
            "cooccurrence_train": [[_json(value) for value in row] for row in self.cooccurrence_train.tolist()],
            "cooccurrence_heldout": [[_json(value) for value in row] for row in self.cooccurrence_heldout.tolist()],
            "top_k_features": self.top_k_features.tolist(),
            "companions": [_jsons(dataclasses.asdict(one)) for one in self.companions],
            "findings": [
                {
                    **dataclasses.asdict(one),
                    "causes": list(one.causes),
                    "evidence": [_jsons(dataclasses.asdict(each)) for each in one.evidence],
                }
                for one in self.findings
            ],
            "summary": _jsons(self.summary),
            "seed": self.seed,
        }

    def to_json(self) -> str:
        """Return `to_dict` as text."""
        return json.dumps(self.to_dict(), allow_nan=False, ensure_ascii=False)

    @classmethod
    def from_dict(cls, record: Mapping[str, Any]) -> MultilabelDiagnosis:
        """Return the diagnosis that `to_dict` was called on, to the precision of the file (6 digits).

        Raises:
            InputError: A field is missing or damaged, or the record is another one.
        """
        if not isinstance(record, Mapping) or record.get("kind") != "multilabel":
            raise must(
                "diagnosis", "be one of several labels per image", "another record", "use dv.Diagnosis.from_json"
            )
        if record.get("schema_version") != SCHEMA_VERSION:
            raise must("diagnosis", f"have schema_version {SCHEMA_VERSION}", record.get("schema_version"))
        try:
            file = _File.model_validate(record)
        except pydantic.ValidationError as error:
            raise refusal("diagnosis", error) from None
        count = len(file.labels.get("name", []))
        widths = {"cooccurrence_train": count, "cooccurrence_heldout": count, "top_k_features": file.top_k}
        for name, column in file.labels.items():
            if len(column) != count or any(isinstance(value, str) for value in column) != (name == "name"):
                raise must(f"labels.{name} of the diagnosis", f"be one value per label, {count}", len(column))
        for name, width in widths.items():
            rows = getattr(file, name)
            if len(rows) != count or any(len(row) != width for row in rows):
                raise must(f"{name} of the diagnosis", f"be {count} rows of {width}", f"{len(rows)} rows")
        return cls(
            heldout_split=file.heldout_split,
            top_k=file.top_k,
            num_features=file.num_features,
            label_names=tuple(map(str, file.labels["name"])),
            columns={name: _tensor([column])[0] for name, column in file.labels.items() if name != "name"},
            images=file.images,
            cooccurrence_train=_tensor(file.cooccurrence_train),
            cooccurrence_heldout=_tensor(file.cooccurrence_heldout),
            top_k_features=torch.tensor(file.top_k_features, dtype=torch.int64),
            companions=tuple(Companion(**one.model_dump()) for one in file.companions),
            findings=tuple(
                Finding(
                    class_index=one.class_index,
                    class_name=one.class_name,
                    text=one.text,
                    causes=tuple(one.causes),
                    remedy=one.remedy,
                    evidence=tuple(
                        Evidence(
                            measure=each.measure,
                            value=_number(each.value),
                            low=_number(each.low),
                            high=_number(each.high),
                            compared_with=_number(each.compared_with),
                        )
                        for each in one.evidence
                    ),
                )
                for one in file.findings
            ),
            summary={name: _number(value) for name, value in file.summary.items()},
            seed=file.seed,
        )

    @classmethod
    def from_json(cls, text: str) -> MultilabelDiagnosis:
        """Return the diagnosis that `to_json` was called on.

        Raises:
            InputError: The text is not JSON, a field is missing or damaged, or the record is another one.
        """
        try:
            return cls.from_dict(json.loads(text))
        except json.JSONDecodeError as error:
            raise must("diagnosis", "be whole, valid JSON", str(error)) from error

    def to_dataframe(self) -> pd.DataFrame:
        """Return a pandas data frame with one row per label and one column per measure.

        Raises:
            InputError: pandas is not installed.
        """
        try:
            import pandas as pd
        except ImportError as error:
            raise must("pandas", "be installed for to_dataframe()", "no such package", "pip install pandas") from error
        frame = pd.DataFrame({name: column.numpy() for name, column in self.columns.items()})
        frame = frame.astype({"count": int, "count_heldout": int, "fragile": bool})
        frame.index = pd.Index(self.label_names, name="label")
        return frame


def diagnose_multilabel(
    train: MultilabelEmbeddings,
    heldout: MultilabelEmbeddings,
    *,
    head: nn.Module | LinearHead,
    label_names: Sequence[str] | None = None,
    threshold: float | Sequence[float] = 0.5,
    top_k: int | str = 10,
    heldout_split: str = "val",
    seed: int = 0,
) -> MultilabelDiagnosis:
    """Diagnose a network with one sigmoid output per label, each label's positives against its negatives.

    Intervals have 95% coverage: Wilson's for recall and precision, and a bootstrap over images for average precision, F1
    and their gains. Thresholds and the refitted head are never judged on images that they were fitted on.

    Args:
        train: Embeddings of the images that the network was trained on, without augmentation.
        heldout: Embeddings of images that it was not trained on.
        head: The head of the network, or another head for the same features.
        label_names: One name per label; "label 0", "label 1", ... by default.
        threshold: Probability at and above which a label is predicted: one for all labels, or one for each.
        top_k: Number of features that count as the strongest of a label: an integer, or a share of D such as "10%".
        heldout_split: "val", or "test" for a diagnosis that is only to be read.
        seed: Seed of the draws at matched n, of the bootstraps and of the folds.

    Returns:
        The diagnosis, on the CPU. A label without positives has NaN, and `without_heldout` names it.

    Raises:
        InputError: The embeddings do not fit the head, or an argument is out of its range.

    See Also:
        `diagnose`, for one label per image; `repair_multilabel`, for thresholds and a better head.

    Example:
        >>> import diversify as dv
        >>> train, heldout, head = dv.make_multilabel_embeddings()
        >>> diagnosis = dv.diagnose_multilabel(train, heldout, head=head, label_names=("sky", "tree", "car", "bird"))
        >>> [round(value, 2) for value in diagnosis["recall_heldout"].tolist()]
        [0.86, 0.71, 0.62, 0.14]
    """
    for name, side in (("train", train), ("heldout", heldout)):
        if not isinstance(side, MultilabelEmbeddings):
            advice = "for one label per image, use dv.diagnose"
            raise must(name, "be MultilabelEmbeddings", type(side).__name__, advice)
    if heldout_split not in ("val", "test"):
        raise must("heldout_split", "be val or test", repr(heldout_split))
    head = read_head(head)
    head = dataclasses.replace(head, weight=head.weight.cpu(), bias=head.bias.cpu())
    for name, side in (("train", train), ("heldout", heldout)):
        if (side.num_features, side.num_labels) != (head.num_features, head.num_classes):
            law = f"have the head's {head.num_features} features and {head.num_classes} labels"
            raise must(f"{name} embeddings", law, f"{side.num_features} features and {side.num_labels} labels")
        if len(side) == 0:
            raise must(f"{name} embeddings", "hold at least one image", 0)
    names = class_names_of(label_names or [f"label {c}" for c in range(head.num_classes)], head.num_classes)
    thresholds = thresholds_of(threshold, head.num_classes)
    k = parse_top_k(top_k, head.num_features)
    seen, unseen = _side(train, head, thresholds), _side(heldout, head, thresholds)
    columns: dict[str, Tensor] = {}
    _put_recognition(columns, seen, unseen, thresholds)
    _put_gains(columns, seen, unseen, thresholds, seed)
    top_k_features = _put_magnitudes(columns, seen, unseen, head, k, seed)
    _put_diversity(columns, seen, unseen, head, k, seed)
    recall = columns["recall_heldout"]
    columns["fragile"] = (columns["recall_heldout_high"] < recall.nanmean()).double()
    together = multilabel.cooccurrence(seen.labels)
    companions = _companions(unseen, together, columns)
    summary = {
        "mean_average_precision": float(columns["average_precision"].nanmean()),
        "mean_recall": float(recall.nanmean()),
        "mean_f1": float(columns["f1_heldout"].nanmean()),
        "labels_per_image": float(unseen.labels.sum(1).double().mean()),
    }
    order = [f"{name}{end}" for name in ("fragile", *MULTILABEL_MEASURES) for end in ("", "_low", "_high")]
    ordered = {name: columns[name].double() for name in order if name in columns}
    return MultilabelDiagnosis(
        heldout_split=heldout_split,
        top_k=k,
        num_features=head.num_features,
        label_names=names,
        columns=ordered,
        images={"train": len(train), "heldout": len(heldout)},
        cooccurrence_train=together,
        cooccurrence_heldout=multilabel.cooccurrence(unseen.labels),
        top_k_features=top_k_features,
        companions=companions,
        findings=_find(ordered, names, companions),
        summary=summary,
        seed=seed,
    )


def diagnose_multilabel_model(
    model: nn.Module,
    train_loader: DataLoader[Any],
    heldout_loader: DataLoader[Any],
    *,
    label_names: Sequence[str] | None = None,
    head: str | None = None,
    threshold: float | Sequence[float] = 0.5,
    top_k: int | str = 10,
    heldout_split: str = "val",
    seed: int = 0,
) -> MultilabelDiagnosis:
    """Diagnose a model with one sigmoid output per label from two loaders. The model is left as it was.

    Args:
        model: A trained network that ends in a linear head and returns its logits or their sigmoid.
        train_loader: Batches `(images, labels)` of its training images, without augmentation; labels `(N, C)` of 0 and 1.
        heldout_loader: Batches of images that it was not trained on.
        label_names: One name per label.
        head: Name of the head's module, where it cannot be found automatically.
        threshold: Probability at and above which a label is predicted, one for all labels or one for each.
        top_k: As in `diagnose_multilabel`.
        heldout_split: "val", or "test" for a diagnosis that is only to be read.
        seed: Seed of all draws.

    Returns:
        The diagnosis, on the CPU.

    Raises:
        InputError: No head is found, or the loaders do not fit the model.

    Example:
        >>> import torch, diversify as dv
        >>> generator = torch.Generator().manual_seed(0)
        >>> images = torch.rand(60, 8, generator=generator)
        >>> labels = torch.stack([images[:, 0] > 0.5, images[:, 1] > 0.8], dim=1)
        >>> model = torch.nn.Sequential(torch.nn.Linear(8, 6), torch.nn.ReLU(), torch.nn.Linear(6, 2))
        >>> loader = torch.utils.data.DataLoader(torch.utils.data.TensorDataset(images, labels), batch_size=30)
        >>> diagnosis = dv.diagnose_multilabel_model(model, loader, loader, label_names=("left", "right"), top_k=2)
        >>> diagnosis["count"].tolist() == labels.sum(0).tolist()
        True
    """
    split = split_head(model, head)
    train, heldout = extract_multilabel(split, train_loader), extract_multilabel(split, heldout_loader)
    return diagnose_multilabel(
        train,
        heldout,
        head=split.head,
        label_names=label_names,
        threshold=threshold,
        top_k=top_k,
        heldout_split=heldout_split,
        seed=seed,
    )


def thresholds_of(threshold: float | Sequence[float] | Tensor, num_labels: int) -> Tensor:
    """Return probability thresholds `(C,)` float64.

    Raises:
        InputError: There is not one for all labels or one for each, or one lies outside (0, 1).
    """
    values = torch.as_tensor(threshold, dtype=torch.float64).detach().cpu()
    values = values.expand(num_labels) if values.ndim == 0 else values
    if values.shape != (num_labels,):
        raise must("threshold", f"be one number, or one per label, {num_labels}", f"shape {tuple(values.shape)}")
    wrong = ~((values > 0) & (values < 1))
    if bool(wrong.any()):
        raise must("threshold", "be a probability in (0, 1)", f"{float(values[wrong][0]):g}")
    return values


class _Side(NamedTuple):
    """One side on the CPU: features as the head sees them and as they are, labels, logits, and decisions."""

    features: Tensor
    raw: Tensor
    labels: Tensor
    logits: Tensor
    predicted: Tensor


def _side(embeddings: MultilabelEmbeddings, head: LinearHead, thresholds: Tensor) -> _Side:
    raw = embeddings.features.cpu()
    logits = head.logits(raw).double()
    return _Side(head.effective(raw)[0], raw, embeddings.labels.cpu(), logits, logits >= thresholds.logit())


def _put_share(columns: dict[str, Tensor], name: str, hits: Tensor, totals: Tensor) -> None:
    low, high = stats.wilson_interval(hits, totals)
    columns |= {name: hits.double() / totals, f"{name}_low": low, f"{name}_high": high}


def _put_recognition(columns: dict[str, Tensor], train: _Side, heldout: _Side, thresholds: Tensor) -> None:
    for end, side in (("", train), ("_heldout", heldout)):
        columns[f"count{end}"] = side.labels.sum(0).double()
        columns[f"prevalence{end}"] = side.labels.double().mean(0)
    hits, positives, called = multilabel.decision_counts(train.labels, train.predicted)
    _put_share(columns, "recall_train", hits, positives)
    hits, positives, called = multilabel.decision_counts(heldout.labels, heldout.predicted)
    _put_share(columns, "recall_heldout", hits, positives)
    _put_share(columns, "precision_heldout", hits, called)
    columns["average_precision_train"] = multilabel.average_precision(train.logits, train.labels)
    columns["ece"] = multilabel.binary_calibration_error(heldout.logits, heldout.labels)
    columns["calibration_bias"] = heldout.logits.sigmoid().mean(0) - columns["prevalence_heldout"]
    columns["threshold"] = thresholds
    prior = multilabel.prior_log_odds(train.labels.sum(0), len(train.labels))
    corrected = heldout.logits - prior >= thresholds.logit()
    hits, positives, called = multilabel.decision_counts(heldout.labels, corrected)
    _put_share(columns, "recall_corrected", hits, positives)
    _put_share(columns, "precision_corrected", hits, called)
    columns["f1_corrected"] = multilabel.f1_of_counts(hits, positives, called)


def _put_gains(columns: dict[str, Tensor], train: _Side, heldout: _Side, thresholds: Tensor, seed: int) -> None:
    """Put average precision and F1, of this head and of what is fitted on other folds, with bootstraps over images."""
    labels, rows = heldout.labels, len(heldout.labels)
    fold = multilabel.label_folds(labels, FOLDS, seed=seed)
    fitted = (fold >= 0).all(0)
    decided = multilabel.cross_fitted_decisions(heldout.logits, labels, fold)
    refitted = multilabel.cross_fitted_scores(heldout.raw, labels, fold).nan_to_num(0.0)

    def measured(times: Tensor | None) -> dict[str, Tensor]:
        weights = torch.ones(1, rows, dtype=torch.float64) if times is None else times
        positives = weights @ labels.double()
        found = {}
        for name, chosen in (("f1_heldout", heldout.predicted), ("f1_best_threshold", decided)):
            hits, called = weights @ (chosen & labels).double(), weights @ chosen.double()
            found[name] = multilabel.f1_of_counts(hits, positives, called)
        found["average_precision"] = multilabel.average_precision(heldout.logits, labels, weights)
        found["ap_refitted"] = multilabel.average_precision(refitted, labels, weights)
        for name in ("f1_best_threshold", "ap_refitted"):
            found[name] = found[name].where(fitted, torch.nan)
        found["f1_gain"] = found["f1_best_threshold"] - found["f1_heldout"]
        found["ap_gain"] = found["ap_refitted"] - found["average_precision"]
        return found

    blocks = [
        measured(multilabel.bootstrap_weights(rows, block, seed=seed, name="multilabel bootstrap"))
        for block in torch.arange(BOOTSTRAPS).split(max(1, _BLOCK // rows))
    ]
    enough = labels.sum(0) >= FEWEST_ROWS
    for name, value in measured(None).items():
        ends = stats.interval(torch.cat([block[name] for block in blocks]))
        columns[name] = value[0]
        columns[f"{name}_low"], columns[f"{name}_high"] = (end.where(enough, torch.nan) for end in ends)
    columns["threshold_best"] = multilabel.best_thresholds(heldout.logits, labels).sigmoid()


def _put_magnitudes(
    columns: dict[str, Tensor], train: _Side, heldout: _Side, head: LinearHead, k: int, seed: int
) -> Tensor:
    """Put ratio and gap of the top-K magnitude of the positives; return the top-K `(C, K)`."""
    _, weight, _ = head.effective(train.features[:1])
    count = head.num_classes
    means = torch.stack([train.features[train.labels[:, c]].double().mean(0) for c in range(count)]) * weight
    indices = magnitude.top_k(means, k)
    names = [f"ce_magnitude_{kind}{end}" for kind in ("ratio", "gap") for end in ("", "_low", "_high")]
    columns |= {name: torch.full((count,), torch.nan, dtype=torch.float64) for name in names}
    for c in range(count):
        if int(indices[c, 0]) < 0:
            continue
        mean, drawn = [], []
        for name, side in (("train", train), ("heldout", heldout)):
            chosen = side.features[side.labels[:, c]][:, indices[c]].double() * weight[c, indices[c]]
            values, zeros = chosen.mean(1), torch.zeros(len(chosen), dtype=torch.int64)
            mean.append(values.mean()[None])
            key = f"multilabel magnitude {name} {c}"
            draws = stats.bootstrap_class_mean(values, zeros, 1, BOOTSTRAPS, seed=seed, name=key)[:, 0]
            drawn.append(draws if len(values) >= FEWEST_ROWS else torch.full_like(draws, torch.nan))
        for kind, measure in (("ratio", magnitude.magnitude_ratio), ("gap", magnitude.magnitude_gap)):
            low, high = stats.interval(measure(*drawn))
            columns[f"ce_magnitude_{kind}"][c] = measure(*mean)[0]
            columns[f"ce_magnitude_{kind}_low"][c], columns[f"ce_magnitude_{kind}_high"][c] = low, high
    return indices


def _put_diversity(
    columns: dict[str, Tensor], train: _Side, heldout: _Side, head: LinearHead, k: int, seed: int
) -> None:
    """Put the Vendi score of the positives at matched n; no interval below 2n, where draws share most of their rows."""
    _, weight, _ = head.effective(train.features[:1])
    count = head.num_classes
    centre = torch.stack([train.raw[train.labels[:, c]].double().mean(0) for c in range(count)]).nanmean(0)
    for name, side in (("train", train), ("heldout", heldout)):
        drawn = torch.full((DRAWS, count), torch.nan, dtype=torch.float64)
        for c in range(count):
            rows = side.raw[side.labels[:, c]]
            if len(rows) >= MATCHED_N:
                drawn[:, c] = diversity.matched_diversity(
                    rows,
                    torch.zeros(len(rows), dtype=torch.int64),
                    1,
                    centre=centre,
                    weight=weight[c : c + 1],
                    k=k,
                    n=MATCHED_N,
                    draws=DRAWS,
                    seed=seed,
                    name=f"multilabel diversity {name}",
                )["vendi"][:, 0]
        enough = side.labels.sum(0) >= 2 * MATCHED_N
        column = f"diversity_vendi_{name}"
        columns[column] = drawn.nanmean(0)
        columns[f"{column}_low"], columns[f"{column}_high"] = (
            end.where(enough, torch.nan) for end in stats.interval(drawn)
        )


def _companions(heldout: _Side, together: Tensor, columns: Mapping[str, Tensor]) -> tuple[Companion, ...]:
    """The other label, if any, without which each label's recall is lower, beyond the intervals of all pairs."""
    labels = heldout.labels.double()
    hits = (heldout.labels & heldout.predicted).double()
    with_both, hits_both = labels.T @ labels, hits.T @ labels
    without, hits_without = labels.sum(0)[:, None] - with_both, hits.sum(0)[:, None] - hits_both
    compared = (with_both >= FEWEST_TOGETHER) & (without >= FEWEST_TOGETHER)
    compared &= together > columns["prevalence"]  # only labels that come together more often than by chance
    compared.fill_diagonal_(False)
    pairs = int(compared.sum())
    if not pairs:
        return ()
    confidence = 1 - 0.05 / pairs
    shares = hits_both / with_both, hits_without / without
    ends = (
        stats.wilson_interval(hits_both, with_both, confidence),
        stats.wilson_interval(hits_without, without, confidence),
    )
    low, high = stats.difference_interval(shares[0], ends[0], shares[1], ends[1])
    lower = high.masked_fill(~compared | ~(high < 0), torch.inf)
    found = []
    for c in range(len(lower)):
        other = int(lower[c].argmin())
        if math.isfinite(float(lower[c, other])):
            found.append(
                Companion(
                    label=c,
                    other=other,
                    recall_with=float(shares[0][c, other]),
                    recall_without=float(shares[1][c, other]),
                    low=float(low[c, other]),
                    high=float(high[c, other]),
                    share_train=float(together[c, other]),
                )
            )
    return tuple(found)


def _find(columns: Mapping[str, Tensor], names: Sequence[str], companions: Sequence[Companion]) -> tuple[Finding, ...]:
    """The findings: labels without training positives first, then by held-out recall, lowest first."""
    by_label = {one.label: one for one in companions}
    recall = columns["recall_heldout"]
    order = sorted(range(len(names)), key=lambda c: (math.isnan(float(recall[c])), float(recall[c].nan_to_num(2)), c))
    found = [
        Finding(
            class_index=c,
            class_name=names[c],
            text=f"No training image has the label {names[c]}, so the model cannot have learned it.",
            evidence=(),
            causes=("collect images",),
            remedy="collect images",
        )
        for c in range(len(names))
        if not columns["count"][c]
    ]
    listed = [_finding(columns, names, by_label.get(c), c) for c in order if columns["count"][c]]
    return (*found, *(one for one in listed if one is not None))


def _finding(
    columns: Mapping[str, Tensor], names: Sequence[str], companion: Companion | None, c: int
) -> Finding | None:
    """The finding on one label; None if there is nothing to say."""
    recall = _evidence(columns, "recall_heldout", c)
    if math.isnan(recall.value):
        return None
    fragile = bool(columns["fragile"][c])
    evidence, causes = [recall], []
    sentences = [
        f"Recall of {names[c]} on held-out images is {_interval(recall)}; mean over labels {recall.compared_with:.0%}. It has"
        f" {float(columns['count'][c]):,.0f} training and {float(columns['count_heldout'][c]):,.0f} held-out images, and its"
        f" precision is {_share(float(columns['precision_heldout'][c]))}."
    ]

    def add(measure: str, remedy: str, text: str) -> None:
        one = _evidence(columns, measure, c)
        evidence.append(one)
        causes.append(remedy)
        sentences.append(text.format(one=one, interval=_interval(one), points=_points(one)))

    gain = _evidence(columns, "f1_gain", c, 0.0)
    if gain.low > 0:
        best, used = float(columns["threshold_best"][c]), float(columns["threshold"][c])
        add(
            "f1_gain",
            "threshold",
            f"Its threshold is off: the best one is near {best:.2g} and not {used:.2g}, and with thresholds fitted on other"
            " held-out images F1 rises by {points}.",
        )
    if companion is not None:
        evidence.append(
            Evidence(
                measure="recall_without",
                value=companion.recall_without - companion.recall_with,
                low=companion.low,
                high=companion.high,
                compared_with=0.0,
            )
        )
        causes.append("break co-occurrence")
        other = names[companion.other]
        sentences.append(
            f"It depends on {other}: recall is {companion.recall_with:.0%} with {other} and {companion.recall_without:.0%}"
            f" without it (interval of the difference, corrected for all pairs, {100 * companion.low:+.0f} to"
            f" {100 * companion.high:+.0f} points); {companion.share_train:.0%} of its training images show {other}."
        )
    if fragile:
        trained = _evidence(columns, "recall_train", c)
        if trained.high < min(0.9, trained.compared_with):
            add("recall_train", "draw more often", "Already on its training images, recall is only {interval}.")
        if _evidence(columns, "ap_gain", c).low > 0:
            text = "A head refitted on held-out features would raise its average precision by {points}."
            add("ap_gain", "head repair", text)
        ratio = _evidence(columns, "ce_magnitude_ratio", c)
        if ratio.high < min(1.0, ratio.compared_with):
            text = "On held-out images its top-K features reach {interval} of their magnitude on training images."
            add("ce_magnitude_ratio", "feature space", text)
        varied = _evidence(columns, "diversity_vendi_heldout", c)
        if varied.high < varied.compared_with:
            text = (
                "Its held-out positives have little diversity: 20 have {one.value:.2f} effective directions (95% interval"
                " {one.low:.2f} to {one.high:.2f}; mean over labels {one.compared_with:.2f})."
            )
            add("diversity_vendi_heldout", "image space", text)
    if not (fragile or causes):
        return None
    causes = list(dict.fromkeys(causes)) or ["more images"]
    also = f"; other possible remedies: {', '.join(causes[1:])}" if causes[1:] else ""
    sentences.append(f"Points to: {REMEDIES[causes[0]]}{also}.")
    return Finding(
        class_index=c,
        class_name=names[c],
        text=" ".join(sentences),
        evidence=tuple(evidence),
        causes=tuple(causes),
        remedy=causes[0],
    )


def _evidence(columns: Mapping[str, Tensor], measure: str, c: int, mark: float | None = None) -> Evidence:
    value, low, high = (float(columns[f"{measure}{end}"][c]) for end in ("", "_low", "_high"))
    mean = float(columns[measure].nanmean()) if mark is None else mark
    return Evidence(measure=measure, value=value, low=low, high=high, compared_with=mean)


def _interval(one: Evidence) -> str:
    return f"{one.value:.0%} (95% interval {one.low:.0%} to {one.high:.0%})"


def _points(one: Evidence) -> str:
    value, low, high = (100 * number for number in (one.value, one.low, one.high))
    return f"{value:.0f} points (95% interval {low:.0f} to {high:.0f})"


def _share(value: float) -> str:
    return "undefined (it is never predicted)" if math.isnan(value) else f"{value:.0%}"


def _json(value: float) -> float | None:
    return float(f"{value:.6g}") if math.isfinite(value) else None


def _jsons(values: Mapping[str, Any]) -> dict[str, Any]:
    return {name: _json(value) if isinstance(value, float) else value for name, value in values.items()}


def _number(value: float | None) -> float:
    return math.nan if value is None else value


def _tensor(rows: Sequence[Sequence[Any]]) -> Tensor:
    return torch.tensor([[_number(value) for value in row] for row in rows], dtype=torch.float64)


_Number = float | None


class _EvidenceFile(pydantic.BaseModel):
    measure: str
    value: _Number
    low: _Number
    high: _Number
    compared_with: _Number


class _FindingFile(pydantic.BaseModel):
    class_index: int
    class_name: str
    text: str
    evidence: list[_EvidenceFile]
    causes: list[str]
    remedy: str


class _CompanionFile(pydantic.BaseModel):
    label: int
    other: int
    recall_with: float
    recall_without: float
    low: float
    high: float
    share_train: float


class _File(pydantic.BaseModel):
    """The JSON form; unknown fields are ignored."""

    heldout_split: Literal["val", "test"]
    top_k: pydantic.PositiveInt
    num_features: pydantic.PositiveInt
    images: dict[str, int]
    labels: dict[str, list[str] | list[_Number]]
    cooccurrence_train: list[list[_Number]]
    cooccurrence_heldout: list[list[_Number]]
    top_k_features: list[list[int]]
    companions: list[_CompanionFile]
    findings: list[_FindingFile]
    summary: dict[str, _Number]
    seed: int
