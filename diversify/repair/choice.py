"""The result of comparing repairs of a head."""

from __future__ import annotations

import dataclasses
import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Annotated, Any, Literal, Self

import pydantic
import torch
from torch import Tensor

from ..errors import must
from ..files.json_values import json_value
from ..files.schema import broken, refusal
from ..functional import counts
from ..network.linear_head import LinearHead
from .metric import OBJECTIVE_TITLES, TITLES

SCHEMA_VERSION = 1
PASSES_OVER = ("worst", "worst third")  # metrics by which candidates with a lower mean recall are passed over
FORECAST = ("gain", "gain_low", "gain_high", "after", "after_low", "after_high")  # columns of a forecast
LOSS_DIGITS = 3  # losses that agree in these digits are equal
NEAR = 0.5  # standard errors that a mean recall may be behind the highest one


@dataclass(frozen=True, kw_only=True)
class CurvePoint:
    """The recalls of one option, for the curve of mean against worst class; shares of 1.

    Attributes:
        candidate: Name of the candidate.
        option: Name of the option.
        mean: Mean recall of the classes.
        worst_third: Mean of the lowest third of recalls.
        worst: Lowest recall.
        chosen: Whether the recommended head is of this option.

    Example:
        >>> CurvePoint(candidate="class offsets", option="8 rounds", mean=0.7, worst_third=0.6, worst=0.5).chosen
        False
    """

    candidate: str
    option: str
    mean: float
    worst_third: float
    worst: float
    chosen: bool = False


@dataclass(frozen=True, kw_only=True, eq=False)
class HeadChoice:
    """The comparison of F candidates on C classes, and the recommended one. Accuracies and gains are shares of 1.

    Held-out rows are cut into folds, several times. Each row is judged by the option that is best on the other folds, so
    that no candidate gains from having many options. Intervals are 95% intervals over held-out rows.

    Attributes:
        names: Names of the candidates, the simplest first.
        meanings: What each candidate does.
        sources: The paper of each candidate.
        options: Names of each candidate's options.
        times_chosen: How often each option was chosen, over folds and repeats.
        final_option: Index of the option that is best on all held-out rows, per candidate.
        columns: Measurements by name, each `(F,)` float64: `balanced_accuracy` with `_low` and `_high`; `spread`, its
            standard deviation over repeats; `gain` over the untouched head with `_low` and `_high`; `behind`, the distance
            to the best candidate, or where there is a `loss` to the most accurate one; and `behind_error`, the standard error
            of that distance. Spread, gain and distance are of the metric. `balanced` and `prior` add `loss`, the mean cross
            entropy over classes after the logits are scaled by one fitted number, unless there are more than two million
            held-out logits. A metric other than `balanced` adds `score` with `_low` and `_high`. One that depends on the lowest
            recalls adds `mean_gain`, the gain in mean recall; `mean_behind`, the distance to the highest mean recall; and
            `mean_behind_error`, its standard error.
        recall: Mean recall over repeats, `(F, C)`; NaN for a class without held-out rows.
        recall_low: Lower end of the recall's interval, `(F, C)`.
        recall_high: Upper end of the recall's interval, `(F, C)`.
        change_low: Lower end of the gain in recall over the untouched head on the same rows, `(F, C)`.
        change_high: Upper end of that gain, `(F, C)`.
        class_counts: Training rows per class, `(C,)`.
        heldout_counts: Held-out rows per class, `(C,)`.
        best: Index of the candidate with the highest metric among those that are not `passed_over`; by `balanced` and `prior`, with
            the least loss among those within one standard error of the highest.
        recommended: Index of the best candidate, or 0 (the untouched head) if that is behind by at most one standard
            error, in the loss, too, where there is one; see `choose_head`.
        overall: `gain`, `gain_low` and `gain_high` of always taking the best candidate and option of the other folds.
        folds: Number of folds.
        repeats: How many times the rows were cut into folds.
        seed: Seed of the folds and the heads.
        metric: What was chosen by; see `choose_head`. For `cost` the values are minus the expected cost.
        target_prior: Share of each class where the model will be used; empty for equal shares.
        cost: Cost of predicting a row of class i as class j; empty for other metrics.
        objective: `mean`, `worst`, `worst third`, or the weight of the lowest recall; see `choose_head`.
        curve: For an objective other than `mean`: the recalls of the untouched head and of each option of the candidates
            that lead from the best mean to the best worst class. No row is predicted by a head that was fitted on it.
        fits_heldout: Whether each candidate's heads are fitted on held-out rows, which then cannot judge them any more.
        notes: What was left out of the comparison, and why, and what groups mean for it; one sentence each.
        forecast: What the recommended head is expected to change on new images, per class, `(C,)` each: the `gain` in recall and the
            recall `after`, with `_low` and `_high`, the ends of 95% intervals. They differ from the measured `recall` where the
            choice among many was lucky, and, with 6 classes or more, where a class has few rows. Empty in a choice read from an
            older file.
        forecast_overall: The same for the balanced accuracy: `gain`, `gain_low` and `gain_high`; the measured gain less the luck,
            and so not the mean of the classes' gains.
        heads: The head of each candidate's final option; empty in a choice read from a file.

    Example:
        >>> import diversify as dv
        >>> train, heldout, head = dv.make_embeddings()
        >>> candidates = dv.default_candidates(train, head)[:3]
        >>> choice = dv.choose_head(train, heldout, head, candidates)
        >>> choice.names[choice.recommended], choice.option(choice.recommended)
        ('logit adjustment', 'tau 1.25')
    """

    names: tuple[str, ...]
    meanings: tuple[str, ...]
    sources: tuple[str, ...]
    options: tuple[tuple[str, ...], ...]
    times_chosen: tuple[tuple[int, ...], ...]
    final_option: tuple[int, ...]
    columns: Mapping[str, Tensor]
    recall: Tensor
    recall_low: Tensor
    recall_high: Tensor
    change_low: Tensor
    change_high: Tensor
    class_counts: Tensor
    heldout_counts: Tensor
    best: int
    recommended: int
    overall: Mapping[str, float]
    folds: int
    repeats: int
    seed: int
    metric: str = "balanced"
    target_prior: tuple[float, ...] = ()
    cost: tuple[tuple[float, ...], ...] = ()
    objective: str | float = "mean"
    curve: tuple[CurvePoint, ...] = ()
    fits_heldout: tuple[bool, ...] = ()
    notes: tuple[str, ...] = ()
    forecast: Mapping[str, Tensor] = dataclasses.field(default_factory=dict)
    forecast_overall: Mapping[str, float] = dataclasses.field(default_factory=dict)
    heads: tuple[LinearHead, ...] = ()

    @property
    def head(self) -> LinearHead:
        """The recommended head."""
        return self.heads[self.recommended]

    @property
    def metric_title(self) -> str:
        """The metric in words, for example "balanced accuracy"."""
        return (TITLES | OBJECTIVE_TITLES)[self.metric]

    @property
    def fitted_on_heldout(self) -> bool:
        """Whether the recommended head is fitted on held-out rows, so that they cannot judge it any more."""
        return bool(self.fits_heldout) and self.fits_heldout[self.recommended]

    @property
    def score(self) -> Tensor:
        """The metric of each candidate, `(F,)`; larger is better."""
        return self.columns["balanced_accuracy" if self.metric == "balanced" else "score"]

    @property
    def score_low(self) -> Tensor:
        """The low ends of the 95% intervals of `score`, `(F,)`."""
        return self.columns["balanced_accuracy_low" if self.metric == "balanced" else "score_low"]

    @property
    def score_high(self) -> Tensor:
        """The high ends of the 95% intervals of `score`, `(F,)`."""
        return self.columns["balanced_accuracy_high" if self.metric == "balanced" else "score_high"]

    @property
    def in_shares(self) -> bool:
        """True if the metric is a share of 1, so that differences are written in points; False for a cost."""
        return self.metric != "cost"

    def option(self, place: int) -> str:
        """Return the name of a candidate's final option; empty if it has only one.

        Args:
            place: Index of the candidate.
        """
        return self.options[place][self.final_option[place]]

    @property
    def passed_over(self) -> tuple[int, ...]:
        """The candidates that cannot be the best by `worst` or `worst third`, since their mean recall is lower.

        It is more than half a standard error behind the highest one. Empty for other metrics.
        """
        if self.metric not in PASSES_OVER or "mean_behind" not in self.columns:
            return ()
        lower = self.columns["mean_behind"] > NEAR * self.columns["mean_behind_error"]
        return tuple(lower.nonzero()[:, 0].tolist())

    @property
    def ranking(self) -> list[int]:
        """The candidates, the highest by the metric first, and then those that are passed over."""
        behind, over = self.columns["behind"].tolist(), self.passed_over
        return sorted(range(len(behind)), key=lambda place: (place in over, behind[place]))

    @property
    def simpler(self) -> int | None:
        """Index of the simplest candidate that is behind the recommended one by at most one standard error.

        The untouched head and candidates that are passed over do not count. None if there is none that is simpler than the
        recommended one.
        """
        near = (self.columns["behind"] <= self.columns["behind_error"]).nonzero().flatten().tolist()
        return next((place for place in near if 0 < place < self.recommended and place not in self.passed_over), None)

    def groups(self) -> dict[str, Tensor]:
        """Return the mean recall `(F,)` of each group of classes: many, medium and few shot, and thirds by count.

        Groups without held-out rows are left out.
        """
        found = {}
        for names, group in (
            (("many", "medium", "few"), counts.shot_groups(self.class_counts)),
            (("largest third", "middle third", "smallest third"), counts.count_thirds(self.class_counts)),
        ):
            for place, name in enumerate(names):
                members = (group == place) & ~self.recall[0].isnan()
                if bool(members.any()):
                    found[name] = self.recall[:, members].mean(1)
        return found

    def in_words(self) -> str:
        """Return the recommendation as text: its gain with an interval, and a simpler candidate that is as good."""
        unit = " points" if self.in_shares else " of expected cost"
        if self.recommended == 0:
            ahead = self._most_accurate
            if ahead == 0 or not float(self.columns["behind"][0]) > 0:
                which = "no candidate with as good a mean recall" if self.passed_over else "no candidate"
                return f"Recommended: leave the head as it is; {which} does better on held-out images."
            lead, error = self._behind(0)
            by_loss = (
                " No head of about this accuracy has a loss lower by more than one." if "loss" in self.columns else ""
            )
            return (
                f"Recommended: leave the head as it is; {self.names[ahead]} is only {lead}{unit} ahead on held-out"
                f" images, within one standard error ({error}).{by_loss}"
            )
        gain, low, high = (
            self._amount(float(self.columns[f"gain{end}"][self.recommended]), "+" if self.in_shares else "")
            for end in ("", "_low", "_high")
        )
        option = self.option(self.recommended)
        gains = f"gains {gain} points of {self.metric_title}" if self.in_shares else f"saves {gain} of expected cost"
        if self.in_shares and float(self.columns["gain"][self.recommended]) < 0:
            gains = f"changes the {self.metric_title} by {gain} points"
        text = (
            f"Recommended: {self.names[self.recommended]}{f' ({option})' if option else ''}, which {gains}"
            f" on held-out images (95% interval {low} to {high})."
        )
        if float(self.columns["gain_low"][self.recommended]) <= 0:
            text += " The interval contains 0: the gain may be chance."
            if "loss" in self.columns and float(self.columns["behind"][0]) <= float(self.columns["behind_error"][0]):
                text += " But its loss is lower than the untouched head's by more than one standard error."
        if "mean_gain" in self.columns:
            text += f" Mean recall changes by {self._amount(float(self.columns['mean_gain'][self.recommended]), '+')} points."
        if self.passed_over:
            text += f" Passed over, because their mean recall is lower: {', '.join(self.names[one] for one in self.passed_over)}."
        if self._most_accurate != self.recommended and "loss" in self.columns:
            text += self._most_accurate_in_words(unit)
        elif self.simpler is not None:
            behind, error = self._behind(self.simpler)
            text += f" {self._title(self.simpler)} is simpler and only {behind}{unit} behind, at most one standard error ({error})."
        if self.fitted_on_heldout:
            text += " This head has learned from all of these held-out images: judge it on others."
        return text

    def _most_accurate_in_words(self, unit: str) -> str:
        """Return why the most accurate candidate is not the recommended one."""
        place, (lead, error) = self._most_accurate, self._behind(self.recommended)
        loss = self.columns["loss"].round(decimals=LOSS_DIGITS)
        why = "gives the true classes less probability" if loss[place] > loss[self.recommended] else "is not simpler"
        return f" {self._title(place)} is only {lead}{unit} ahead, within one standard error ({error}), but {why}."

    def _title(self, place: int) -> str:
        name = self.names[place]
        return f"{name[:1].upper()}{name[1:]}"

    def expected_in_words(self) -> str:
        """Return the gain in balanced accuracy to expect of new images; empty if the head stays as it is, or without a forecast."""
        if not self.forecast_overall or self.recommended == 0:
            return ""
        gain, low, high = (f"{100 * self.forecast_overall[f'gain{end}']:+.1f}" for end in ("", "_low", "_high"))
        return f"Expected of new images: balanced accuracy {gain} points (95% interval {low} to {high})."

    @property
    def _most_accurate(self) -> int:
        """The candidate from which `behind` is measured."""
        return int(self.columns["behind"].argmin()) if "loss" in self.columns else self.best

    def _behind(self, place: int) -> tuple[str, str]:
        """Return how far a candidate is behind the most accurate one, and the standard error of that."""
        behind, error = (self._amount(float(self.columns[key][place])) for key in ("behind", "behind_error"))
        return behind, error

    def _amount(self, value: float, sign: str = "") -> str:
        """Return a difference in points, or a cost with three digits."""
        return f"{100 * value:{sign}.1f}" if self.in_shares else f"{value:{sign}.3g}"

    def to_dict(self) -> dict[str, Any]:
        """Return the choice as JSON values, with NaN as None and without the heads."""
        found: dict[str, Any] = {"schema_version": SCHEMA_VERSION}
        for field in dataclasses.fields(self):
            if field.name == "curve":
                found["curve"] = json_value([vars(point) for point in self.curve])
            elif field.name != "heads":
                found[field.name] = json_value(getattr(self, field.name))
        return found

    @classmethod
    def from_dict(cls, record: Mapping[str, Any]) -> HeadChoice:
        """Return the choice that `to_dict` was called on, without its heads.

        Raises:
            InputError: A field is missing or has the wrong form, or the record has another schema version.
        """
        version = record.get("schema_version") if isinstance(record, Mapping) else None
        if version != SCHEMA_VERSION:
            raise must("remedy", f"have schema_version {SCHEMA_VERSION}", version)
        try:
            file = _File.model_validate(record)
        except pydantic.ValidationError as error:
            raise refusal("remedy", error) from None
        values = {name: getattr(file, name) for name in _File.model_fields if name != "schema_version"}
        values["columns"] = {name: _tensor(column) for name, column in file.columns.items()}
        values |= {name: _tensor(getattr(file, name)) for name in _PER_CLASS}
        values |= {name: torch.tensor(getattr(file, name)) for name in ("class_counts", "heldout_counts")}
        values["curve"] = tuple(CurvePoint(**one.model_dump()) for one in file.curve)
        values["forecast"] = {name: _tensor(column) for name, column in file.forecast.items()}
        for key in ("overall", "forecast_overall"):
            values[key] = {name: math.nan if value is None else value for name, value in values[key].items()}
        return cls(**values)


def _tensor(values: Sequence[Any]) -> Tensor:
    def filled(value: Any) -> Any:
        return (
            [filled(one) for one in value] if isinstance(value, (list, tuple)) else math.nan if value is None else value
        )

    return torch.tensor(filled(values), dtype=torch.float64)


_Number = pydantic.FiniteFloat | None
_Count = Annotated[int, pydantic.Field(ge=0, lt=2**62)]
_Rows = tuple[tuple[_Number, ...], ...]


class _Point(pydantic.BaseModel):
    candidate: str
    option: str
    mean: float
    worst_third: float
    worst: float
    chosen: bool


class _File(pydantic.BaseModel):
    schema_version: int
    names: tuple[str, ...]
    meanings: tuple[str, ...]
    sources: tuple[str, ...]
    options: tuple[tuple[str, ...], ...]
    times_chosen: tuple[tuple[int, ...], ...]
    final_option: tuple[int, ...]
    columns: dict[str, tuple[_Number, ...]]
    recall: _Rows
    recall_low: _Rows
    recall_high: _Rows
    change_low: _Rows
    change_high: _Rows
    class_counts: tuple[_Count, ...]
    heldout_counts: tuple[_Count, ...]
    best: int
    recommended: int
    overall: dict[str, _Number]
    folds: pydantic.PositiveInt
    repeats: pydantic.PositiveInt
    seed: int
    metric: Literal["balanced", "prior", "macro-f1", "worst", "cost", "worst third", "mean and worst"] = "balanced"
    target_prior: tuple[float, ...] = ()
    cost: tuple[tuple[float, ...], ...] = ()
    objective: str | float = "mean"
    curve: tuple[_Point, ...] = ()
    notes: tuple[str, ...] = ()
    fits_heldout: tuple[bool, ...] = ()
    forecast: dict[str, tuple[_Number, ...]] = {}
    forecast_overall: dict[str, _Number] = {}

    @pydantic.model_validator(mode="after")
    def _one_value_per_candidate(self) -> Self:
        of_candidates: dict[str, Sequence[Any]] = {
            **{
                name: getattr(self, name) for name in ("meanings", "sources", "options", "times_chosen", "final_option")
            },
            **{name: getattr(self, name) for name in _PER_CLASS},
            **{f"columns.{name}": column for name, column in self.columns.items()},
        }
        if self.fits_heldout:
            of_candidates["fits_heldout"] = self.fits_heldout
        for name, values in of_candidates.items():
            if len(values) != len(self.names):
                raise broken(f"be {len(self.names)}, one per candidate", len(values), at=name)
        classes = len(self.class_counts)
        for name in _PER_CLASS:
            if any(len(row) != classes for row in getattr(self, name)):
                raise broken(f"have rows of {classes}, one value per class", "another length", at=name)
        for name in FORECAST if self.forecast else ():
            if len(self.forecast.get(name, ())) != classes:
                raise broken(f"have {classes} numbers, one per class", "another number", at=f"forecast.{name}")
        if len(self.heldout_counts) != classes:
            raise broken(f"be {classes}, one per class", len(self.heldout_counts), at="heldout_counts")
        gain = ("gain", "gain_low", "gain_high")
        score = () if self.metric == "balanced" else ("score", "score_low", "score_high")
        accuracy = ("balanced_accuracy", "balanced_accuracy_low", "balanced_accuracy_high")
        for at, there, needed in (
            ("columns", self.columns, (*accuracy, *score, "spread", *gain, "behind", "behind_error")),
            ("overall", self.overall, gain),
        ):
            missing = next((name for name in needed if name not in there), None)
            if missing is not None:
                raise broken("be given", "nothing", at=f"{at}.{missing}")
        for name in ("best", "recommended"):
            if not 0 <= getattr(self, name) < len(self.names):
                raise broken(f"be one of the {len(self.names)} candidates", getattr(self, name), at=name)
        for place, (names, times, final) in enumerate(
            zip(self.options, self.times_chosen, self.final_option, strict=True)
        ):
            if len(times) != len(names) or not 0 <= final < len(names):
                raise broken(f"be one of {len(names)} options, each with its count", final, at=f"final_option.{place}")
        return self


_PER_CLASS = ("recall", "recall_low", "recall_high", "change_low", "change_high")
