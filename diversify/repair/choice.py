"""The result of a comparison of head repairs."""

from __future__ import annotations

import dataclasses
import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import pydantic
import torch
from torch import Tensor

from ..errors import must
from ..functional import counts
from ..network.linear_head import LinearHead

SCHEMA_VERSION = 1


# The choice


@dataclass(frozen=True, kw_only=True, eq=False)
class HeadChoice:
    """The candidates compared, and the one that is recommended. F candidates, C classes; shares of 1.

    Held-out rows are cut into folds, several times over; a row is judged by the option that does best on the other folds
    of its turn, so no candidate's numbers profit from its own options. Intervals are 95%, over held-out rows.

    Attributes:
        names: Of the candidates, the simplest first.
        meanings: What each does.
        sources: Where each comes from.
        options: The options of each.
        times_chosen: How often each option was chosen, over folds and repeats.
        final_option: Per candidate, the option that does best on all held-out rows.
        columns: `(F,)` float64: `balanced_accuracy` and its `_low`, `_high`; `spread`, its standard deviation over repeats;
            `gain` over the untouched head and its `_low`, `_high`; `behind`, how far behind the best, and `behind_error`,
            the standard error of that.
        recall: `(F, C)` mean over repeats; NaN for a class without held-out rows. `recall_low`, `recall_high` alike.
        change_low: `(F, C)` low end of what recall gains over the untouched head, on the same rows. `change_high` alike.
        class_counts: `(C,)` training rows.
        heldout_counts: `(C,)` held-out rows.
        best: The candidate with the highest balanced accuracy.
        recommended: The best, or the untouched head where that is not behind it by more than one standard error.
        overall: What taking the best of all, candidate and option, on the other folds gains: `gain`, `_low`, `_high`.
        heads: Per candidate, the head of its final option; empty in one read back from a file.
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
    heads: tuple[LinearHead, ...] = ()

    @property
    def head(self) -> LinearHead:
        """The recommended one."""
        return self.heads[self.recommended]

    def option(self, place: int) -> str:
        """The final option of a candidate, empty where it had only one."""
        return self.options[place][self.final_option[place]]

    @property
    def simpler(self) -> int | None:
        """The simplest that changes the head and is not behind the recommended one by more than one standard error.

        None where nothing simpler comes as near, or nothing is changed.
        """
        near = (self.columns["behind"] <= self.columns["behind_error"]).nonzero().flatten().tolist()
        return next((place for place in near if 0 < place < self.recommended), None)

    def groups(self) -> dict[str, Tensor]:
        """`(F,)` mean recall over the classes of each group that there is: many, medium, few; and thirds by count."""
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
        """What is recommended, what it gains with its interval, and what comes as near and is simpler."""
        if self.recommended == 0:
            if self.best == 0:
                return "Recommended: leave the head as it is; no candidate does better on held-out images."
            behind, error = self._behind(0)
            return (
                f"Recommended: leave the head as it is; {self.names[self.best]} is only {behind} points ahead on held-out"
                f" images, within one standard error ({error})."
            )
        gain, low, high = (100 * float(self.columns[f"gain{end}"][self.recommended]) for end in ("", "_low", "_high"))
        option = self.option(self.recommended)
        text = (
            f"Recommended: {self.names[self.recommended]}{f' ({option})' if option else ''}, which gains {gain:+.1f} points of"
            f" balanced accuracy on held-out images (95% interval {low:+.1f} to {high:+.1f})."
        )
        if self.simpler is not None:
            behind, error = self._behind(self.simpler)
            text += (
                f" Simpler, and {behind} points behind it, within one standard error ({error}):"
                f" {self.names[self.simpler]}."
            )
        return text

    def _behind(self, place: int) -> tuple[str, str]:
        """Points behind the best, and the standard error of that."""
        behind, error = (f"{100 * float(self.columns[key][place]):.1f}" for key in ("behind", "behind_error"))
        return behind, error

    def to_dict(self) -> dict[str, Any]:
        """JSON values, NaN as None; the heads are left out."""
        found: dict[str, Any] = {"schema_version": SCHEMA_VERSION}
        for field in dataclasses.fields(self):
            value = getattr(self, field.name)
            if field.name == "heads":
                continue
            if field.name in ("columns", "overall"):
                found[field.name] = {name: _plain(one) for name, one in value.items()}
            else:
                found[field.name] = _plain(value)
        return found

    @classmethod
    def from_dict(cls, record: Mapping[str, Any]) -> HeadChoice:
        """The choice that `to_dict` came from, without its heads.

        Raises:
            InputError: a field is missing or has another form (it is named), or the file is of another version.
        """
        version = record.get("schema_version") if isinstance(record, Mapping) else None
        if version != SCHEMA_VERSION:
            raise must("remedy", f"have schema_version {SCHEMA_VERSION}", version)
        try:
            file = _File.model_validate(record)
        except pydantic.ValidationError as error:
            first = error.errors(include_url=False)[0]
            place = ".".join(map(str, first["loc"])) or "remedy"
            raise must(f"remedy field {place}", f"be valid ({first['msg']})", repr(first["input"])[:80]) from None
        values = {name: getattr(file, name) for name in _File.model_fields if name != "schema_version"}
        values["columns"] = {name: _tensor(column) for name, column in file.columns.items()}
        per_class = ("recall", "recall_low", "recall_high", "change_low", "change_high")
        values |= {name: _tensor(getattr(file, name)) for name in per_class}
        values |= {name: torch.tensor(getattr(file, name)) for name in ("class_counts", "heldout_counts")}
        values["overall"] = {name: math.nan if value is None else value for name, value in file.overall.items()}
        return cls(**values)


def _plain(value: Any) -> Any:
    if isinstance(value, Tensor):
        return _plain(value.tolist())
    if isinstance(value, (list, tuple)):
        return [_plain(one) for one in value]
    if isinstance(value, float):
        return float(f"{value:.6g}") if math.isfinite(value) else None
    return value


def _tensor(values: Sequence[Any]) -> Tensor:
    def filled(value: Any) -> Any:
        return (
            [filled(one) for one in value] if isinstance(value, (list, tuple)) else math.nan if value is None else value
        )

    return torch.tensor(filled(values), dtype=torch.float64)


_Number = float | None
_Rows = tuple[tuple[_Number, ...], ...]


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
    class_counts: tuple[int, ...]
    heldout_counts: tuple[int, ...]
    best: int
    recommended: int
    overall: dict[str, _Number]
    folds: int
    repeats: int
    seed: int
