"""`Diagnosis`: the measures and findings of every class of a trained network, and their JSON form."""

from __future__ import annotations

import dataclasses
import json
import math
from collections.abc import Mapping
from typing import TYPE_CHECKING, Any, Literal, Self

import pydantic
import torch
from torch import Tensor

from ..errors import must
from ..files.schema import broken, refusal
from ..functional import draws, magnitude
from ..network.reading import Reading
from .beyond_size import lines_on_log_count, recall_of_groups
from .clusters import FailingCluster
from .enemies import Shares, among, broken_enemies, enemies_from, json_enemies
from .findings import Finding, find
from .json_form import (
    FeatureNumber,
    FindingFile,
    Number,
    Rows,
    finding_dict,
    finding_from,
    first_missing,
    json_number,
    json_numbers,
    json_readings,
    json_rows,
    numbers,
    tensor,
    tensor_rows,
)
from .label_errors import LabelErrors
from .notes import group_notes, index_note, notes_of, sample_note, without_weights_note

if TYPE_CHECKING:
    import pandas as pd


SCHEMA_VERSION = 1
_SIZE = "recall_log_count"


@dataclasses.dataclass(frozen=True, kw_only=True)
class Diagnosis:
    """The measures of every class of a trained network, and the findings on its fragile classes.

    `diagnosis["recall_heldout"]` is short for `diagnosis.columns["recall_heldout"]`.

    Attributes:
        heldout_split: The split that the held-out images come from, "val" or "test".
        top_k: K, the number of features in the top-K of a class.
        num_features: D, the number of features.
        class_names: One name per class.
        columns: Every measure of `MEASURES` as `(C,)` float64, NaN where undefined, with `<name>_low` and `<name>_high` (95%)
            where it has an interval. `fragile` is 1 where the upper end of the held-out recall's interval lies below the mean
            over the classes.
        top_k_features: `(C, K)` int64, the top-K features, strongest first; -1 for a class without training images.
        top_k_train: `(C, K)`, the mean classification embedding of these features on training images, in logits.
        top_k_heldout: `(C, K)`, the same on held-out images.
        top_k_heldout_tp: `(C, K)`, the same on correctly predicted held-out images; NaN if read from an old file without it.
        top_k_heldout_fn: `(C, K)`, the same on misclassified held-out images; NaN if read from an old file without it.
        top_k_frequency: `(C, K)` in [0, 1], how often each of these features is among those that a held-out decision needs.
        enemies: `(C, C)`, the share of each other class among the training neighbours of a class's held-out errors; NaN for a
            class without such errors. With more than 200 classes only the shares that are not 0 are held: `enemies[c]` then
            makes the row of a class, and any other use the whole matrix.
        summary: Numbers of the whole model; `*_low` and `*_high` are ends of 95% intervals. `nc4_*` are of at most 20,000 rows,
            drawn from each side.
        log_count: For each measure, its line on log n: slope, intercept, r_squared and scatter. Empty where undefined.
        beyond_log_count: For each measure, its rank correlations with held-out recall, with the number of training images, and
            with recall given that number.
        diversity_agreement: Rank correlation over the classes between every two held-out diversity measures.
        findings: One finding per class that is fragile or has no training images.
        queries: For each side, a record of the rows that the costly measures used; for train also `neighbour_recall`, the share of
            the nearest rows that an index found, where one was used.
        seed: The seed that the diagnosis was made with.
        permuted_by: The seed of `permuted`; None for a diagnosis that is not permuted.
        readings: How the loaders of "train" and "heldout" gave their rows; empty if read from an old file.
        label_errors: The suspect labels of "train" and "heldout", at most 500 rows of each; empty if read from an old file.
        failing_clusters: Clusters of held-out images whose recall is surely below that of the rest of their class.

    Example:
        >>> import diversify as dv
        >>> train, heldout, head = dv.make_embeddings((200, 80, 30, 6), spread=1.2)
        >>> diagnosis = dv.diagnose(train, heldout, head=head)
        >>> diagnosis["fragile"].tolist()
        [0.0, 0.0, 0.0, 1.0]
        >>> dv.Diagnosis.from_json(diagnosis.to_json()).class_names
        ('class 0', 'class 1', 'class 2', 'class 3')
    """

    heldout_split: str
    top_k: int
    num_features: int
    class_names: tuple[str, ...]
    columns: Mapping[str, Tensor]
    top_k_features: Tensor
    top_k_train: Tensor
    top_k_heldout: Tensor
    top_k_heldout_tp: Tensor
    top_k_heldout_fn: Tensor
    top_k_frequency: Tensor
    enemies: Tensor
    summary: Mapping[str, float]
    log_count: Mapping[str, Mapping[str, float]]
    beyond_log_count: Mapping[str, Mapping[str, float]]
    diversity_agreement: Mapping[str, Mapping[str, float]]
    findings: tuple[Finding, ...]
    queries: Mapping[str, Any]
    seed: int = 0
    permuted_by: int | None = None
    readings: Mapping[str, Reading] = dataclasses.field(default_factory=dict)
    label_errors: Mapping[str, LabelErrors] = dataclasses.field(default_factory=dict)
    failing_clusters: tuple[FailingCluster, ...] = ()

    def __getitem__(self, column: str) -> Tensor:
        return self.columns[column]

    @property
    def plan_ready(self) -> bool:
        """True if a plan may be made from it, that is, unless the held-out images are the test set."""
        return self.heldout_split != "test"

    @property
    def notes(self) -> tuple[str, ...]:
        """A sentence on each thing that a loader left out or gave twice, on classes without weights in the head, and on groups."""
        norms = self.columns["head_norm"].tolist() if "head_norm" in self.columns else [1.0] * len(self.class_names)
        notes = notes_of(self.readings, self.class_names) + without_weights_note(norms, self.class_names)
        notes += group_notes(self.columns, self.class_names) + index_note(self.queries)
        return notes + sample_note(int(self.columns["count"].nansum()), self.num_features)

    @property
    def without_heldout(self) -> tuple[int, ...]:
        """The classes without held-out images; means over classes leave them out."""
        return tuple((self.columns["count_heldout"] == 0).nonzero()[:, 0].tolist())

    @property
    def head_ceiling(self) -> float:
        """The balanced accuracy that a head refitted on held-out features gains over this head, by cross-fitting."""
        return self.summary["head_ceiling"]

    @property
    def top_k_overlap(self) -> Tensor:
        """`(C, C)`, the share of top-K features that two classes have in common; K / D by chance, NaN for an absent class."""
        return magnitude.identity_overlap_matrix(self.top_k_features, self.num_features)

    def permuted(self, seed: int) -> Diagnosis:
        """Return a diagnosis in which every class has the measures of another class: a control for plans.

        A plan made from it shows whether it matters which class a measure belongs to. Classes with training images exchange
        their measures in one random cycle, so that none keeps its own; they keep their names and numbers of training images.
        Intervals, numbers of held-out images, top-K rows and `enemies` move with the measures. Lines on log n, recall by
        class size and findings are computed again.

        Args:
            seed: Seed of the cycle.

        Raises:
            InputError: Fewer than two classes have training images.
        """
        present = torch.nonzero(self.columns["count"] > 0).view(-1)
        if len(present) < 2:
            raise must("diagnosis", "have at least two classes with training images to permute them", len(present))
        order = present[draws.permutation(len(present), "permuted diagnosis", seed)]
        source = torch.arange(len(self.class_names))
        source[order] = order.roll(-1)
        columns = {name: column if name == "count" else column[source] for name, column in self.columns.items()}
        lines, beyond = lines_on_log_count(columns)
        enemies = among(self.enemies, source)
        return dataclasses.replace(
            self,
            columns=columns,
            top_k_features=self.top_k_features[source],
            top_k_train=self.top_k_train[source],
            top_k_heldout=self.top_k_heldout[source],
            top_k_heldout_tp=self.top_k_heldout_tp[source],
            top_k_heldout_fn=self.top_k_heldout_fn[source],
            top_k_frequency=self.top_k_frequency[source],
            enemies=enemies,
            summary={**self.summary, **recall_of_groups(columns)},
            log_count=lines,
            beyond_log_count=beyond,
            findings=find(
                columns,
                self.class_names,
                enemies,
                lines,
                top_k=self.top_k,
                reading=self.readings.get("train", Reading()),
            ),
            permuted_by=seed,
            label_errors={},
            failing_clusters=(),
        )

    @property
    def troubles(self) -> tuple[tuple[str, ...], ...]:
        """The kinds of trouble of each class, of all its findings together; empty for a class without any.

        Example:
            >>> import diversify as dv
            >>> train, heldout, head = dv.make_embeddings((200, 80, 30, 6), spread=1.2)
            >>> dv.diagnose(train, heldout, head=head).troubles
            ((), (), (), ('head',))
        """
        found: list[dict[str, None]] = [{} for _ in self.class_names]
        for finding in self.findings:
            found[finding.class_index] |= dict.fromkeys(finding.trouble)
        return tuple(map(tuple, found))

    def to_dict(self) -> dict[str, Any]:
        """Return the content of `diagnosis.json`: JSON values, with None for NaN."""
        classes: dict[str, Any] = {"name": list(self.class_names)}
        whole = {"count", "count_heldout"}
        for name, column in self.columns.items():
            if name == "fragile":
                classes[name] = [bool(value) for value in column.tolist()]
            else:
                classes[name] = [int(v) if name in whole else json_number(v) for v in column.tolist()]
        if _SIZE in classes:
            classes["size_predicts"] = classes[_SIZE]
        return {
            "schema_version": SCHEMA_VERSION,
            "heldout_split": self.heldout_split,
            "plan_ready": self.plan_ready,
            "top_k": self.top_k,
            "num_features": self.num_features,
            "head_ceiling": json_number(self.head_ceiling),
            "summary": json_numbers(self.summary),
            "findings": [finding_dict(finding) for finding in self.findings],
            "classes": classes,
            "log_count": {name: json_numbers(line) for name, line in self.log_count.items()},
            "beyond_log_count": {name: json_numbers(line) for name, line in self.beyond_log_count.items()},
            "diversity_agreement": {name: json_numbers(line) for name, line in self.diversity_agreement.items()},
            **json_enemies(self.enemies),
            "top_k_features": self.top_k_features.tolist(),
            "top_k_train": json_rows(self.top_k_train),
            "top_k_heldout": json_rows(self.top_k_heldout),
            "top_k_heldout_tp": json_rows(self.top_k_heldout_tp),
            "top_k_heldout_fn": json_rows(self.top_k_heldout_fn),
            "top_k_frequency": json_rows(self.top_k_frequency),
            "queries": dict(self.queries),
            "seed": self.seed,
            **({} if self.permuted_by is None else {"permuted_by": self.permuted_by}),
            **json_readings(self.readings, self.notes),
            "label_errors": {side: one.to_dict() for side, one in self.label_errors.items()},
            "failing_clusters": [one.model_dump(mode="json") for one in self.failing_clusters],
        }

    def to_json(self) -> str:
        """Return the content of `diagnosis.json` as text."""
        return json.dumps(self.to_dict(), allow_nan=False, ensure_ascii=False)

    @classmethod
    def from_dict(cls, record: Mapping[str, Any]) -> Diagnosis:
        """Return the diagnosis that `to_dict` was called on, to the precision of the file (6 digits).

        Raises:
            InputError: A field is missing or damaged, or the file has another version.
        """
        version = record.get("schema_version") if isinstance(record, Mapping) else None
        if version is not None and record.get("kind") == "multilabel":
            advice = "read it with dv.MultilabelDiagnosis.from_dict"
            raise must("diagnosis", "be of images with one label each", "one of several labels per image", advice)
        if version != SCHEMA_VERSION:
            raise must("diagnosis", f"have schema_version {SCHEMA_VERSION}", version)
        try:
            file = _File.model_validate(record)
        except pydantic.ValidationError as error:
            raise refusal("diagnosis", error) from None
        names = file.classes.pop("name")
        file.classes.pop("size_predicts", None)  # `recall_log_count` under a second name
        unknown: Rows = [[None] * file.top_k for _ in names]
        return cls(
            heldout_split=file.heldout_split,
            top_k=file.top_k,
            num_features=file.num_features,
            class_names=tuple(map(str, names)),
            columns={name: tensor(column) for name, column in file.classes.items()},
            top_k_features=torch.tensor(file.top_k_features, dtype=torch.int64).view(-1, file.top_k),
            top_k_train=tensor_rows(file.top_k_train, file.top_k),
            top_k_heldout=tensor_rows(file.top_k_heldout, file.top_k),
            top_k_heldout_tp=tensor_rows(file.top_k_heldout_tp or unknown, file.top_k),
            top_k_heldout_fn=tensor_rows(file.top_k_heldout_fn or unknown, file.top_k),
            top_k_frequency=tensor_rows(file.top_k_frequency, file.top_k),
            enemies=enemies_from(file.enemies, file.enemy_shares, len(names)),
            summary=numbers(file.summary),
            log_count={name: numbers(line) for name, line in file.log_count.items()},
            beyond_log_count={name: numbers(line) for name, line in file.beyond_log_count.items()},
            diversity_agreement={name: numbers(line) for name, line in file.diversity_agreement.items()},
            findings=tuple(finding_from(finding) for finding in file.findings),
            queries=file.queries,
            seed=file.seed,
            permuted_by=file.permuted_by,
            readings={side: Reading.from_dict(reading) for side, reading in file.readings.items()},
            label_errors={side: LabelErrors.from_dict(errors) for side, errors in file.label_errors.items()},
            failing_clusters=file.failing_clusters,
        )

    @classmethod
    def from_json(cls, text: str) -> Diagnosis:
        """Return the diagnosis that `to_json` was called on.

        Raises:
            InputError: The text is not JSON, a field is missing or damaged, or the file has another version.
        """
        try:
            values = json.loads(text)
        except (ValueError, RecursionError) as error:
            raise must("diagnosis", "be whole, valid JSON", str(error)) from error
        return cls.from_dict(values)

    def to_dataframe(self) -> pd.DataFrame:
        """Return a pandas data frame with one row per class, indexed by its name, and one column per measure.

        Raises:
            InputError: pandas is not installed.
        """
        try:
            import pandas as pd
        except ImportError as error:
            raise must("pandas", "be installed for to_dataframe()", "no such package", "pip install pandas") from error
        frame = pd.DataFrame({name: column.numpy() for name, column in self.columns.items()})
        frame = frame.astype({"count": int, "count_heldout": int, "fragile": bool})
        frame.index = pd.Index(self.class_names, name="class")
        return frame


_TOP_K_ROWS = (
    "top_k_features",
    "top_k_train",
    "top_k_heldout",
    "top_k_heldout_tp",
    "top_k_heldout_fn",
    "top_k_frequency",
)


_NEEDED = (  # columns that a report or a plan cannot do without
    *("fragile", "count", "count_heldout", "recall_train", "recall_heldout", "recall_heldout_low", "recall_log_count"),
    *("ceiling_gain", "ce_magnitude_ratio", "ce_magnitude_gap", "ce_magnitude_gap_low", "identity_overlap", "safe"),
    "head_norm",
)
_NEEDED_SUMMARY = ("balanced_accuracy_train", "balanced_accuracy_heldout", "head_ceiling")


class _File(pydantic.BaseModel):
    """The form of `diagnosis.json`; unknown fields are ignored."""

    schema_version: int
    heldout_split: Literal["val", "test"]
    top_k: pydantic.PositiveInt
    num_features: pydantic.PositiveInt
    summary: dict[str, Number]
    findings: list[FindingFile]
    classes: dict[str, list[str] | list[float | None]]
    log_count: dict[str, dict[str, Number]]
    beyond_log_count: dict[str, dict[str, Number]]
    diversity_agreement: dict[str, dict[str, Number]]
    enemies: Rows | None = None
    enemy_shares: Shares | None = None  # instead of `enemies`, with many classes
    top_k_features: list[list[FeatureNumber]]
    top_k_train: Rows
    top_k_heldout: Rows
    top_k_heldout_tp: Rows | None = None
    top_k_heldout_fn: Rows | None = None
    top_k_frequency: Rows
    queries: dict[str, Any]
    seed: int
    permuted_by: int | None = None
    readings: dict[Literal["train", "heldout"], dict[str, Any]] = {}
    label_errors: dict[Literal["train", "heldout"], dict[str, Any]] = {}
    failing_clusters: tuple[FailingCluster, ...] = ()

    @pydantic.model_validator(mode="after")
    def _same_classes(self) -> Self:
        if "name" not in self.classes:
            raise broken("be given", "nothing", at="classes.name")
        if missing := first_missing(self.classes, _NEEDED):
            raise broken("be given", "nothing", at=f"classes.{missing}")
        if missing := first_missing(self.summary, _NEEDED_SUMMARY):
            raise broken("be given", "nothing", at=f"summary.{missing}")
        count = len(self.classes["name"])
        for name, column in self.classes.items():
            if len(column) != count or (name != "name" and any(isinstance(value, str) for value in column)):
                raise broken(f"be {count} numbers, one per class", f"{len(column)} values", at=f"classes.{name}")
            for place, value in enumerate(column):
                if isinstance(value, float) and not math.isfinite(value):
                    raise broken("be finite, or null where unknown", value, at=f"classes.{name}.{place}")
        if fault := broken_enemies(self.enemies, self.enemy_shares, count):
            field, law, got = fault
            raise broken(law, got, at=field)
        for name in _TOP_K_ROWS:
            rows = getattr(self, name)
            if rows is not None and (len(rows) != count or any(len(row) != self.top_k for row in rows)):
                raise broken(f"be {count} rows of {self.top_k}", f"{len(rows)} rows", at=name)
        for side, errors in self.label_errors.items():
            measured = errors.get("measured")
            if not isinstance(measured, list) or len(measured) != count or any(each is None for each in measured):
                raise broken(f"be {count} numbers, one per class", measured, at=f"label_errors.{side}.measured")
        for place, one in enumerate(self.failing_clusters):
            if max(one.class_index, one.predicted) >= count:
                raise broken(
                    f"be one of the {count} classes", one.class_index, at=f"failing_clusters.{place}.class_index"
                )
        for side, reading in self.readings.items():
            for name in ("left_out_by_class", "other_labels_by_class"):
                by_class = reading.get(name)
                if by_class is not None and (not isinstance(by_class, list) or len(by_class) != count):
                    raise broken(f"be {count} numbers, one per class", by_class, at=f"readings.{side}.{name}")
        return self
