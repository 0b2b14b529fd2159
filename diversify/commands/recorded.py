"""The record of a checkpoint, read from the `run.json` beside it, which a training run or a remedy wrote."""

from __future__ import annotations

import dataclasses
from pathlib import Path
from typing import Any, Literal

import pydantic

from ..data.loader import Split
from ..data.view import View
from ..errors import InputError
from ..files import atomic, shards


@dataclasses.dataclass(frozen=True, kw_only=True)
class Recorded:
    """The record of a checkpoint.

    Attributes:
        values: Holds the checkpoint's `data`, `view` and `model`.
        training: The record of the training run, or the part of it that a remedy kept; None if nothing records which
            images the network was trained on.
        chosen_on: The record of the split that chose the head; None if the head comes from training.
        head: The name of the head, if the user gave one.
        fitted: Whether the head was also fitted on the images that chose it.
    """

    values: dict[str, Any]
    training: dict[str, Any] | None
    chosen_on: dict[str, Any] | None = None
    head: str | None = None
    fitted: bool = False

    @classmethod
    def beside(cls, weights: Path) -> Recorded | None:
        """Read the record of exactly this checkpoint from the `run.json` beside it; None if there is none."""
        file = weights.parent / "run.json"
        if not file.is_file():
            return None
        try:
            record: dict[str, Any] = atomic.read_json(file, "run.json")
            form = _Remedied if record.get("command") == "remedy" else _Trained
            known = form.model_validate(record)
        except (InputError, pydantic.ValidationError, AttributeError):
            return None  # another program's file of that name
        if known.weights.sha256 != shards.digest_checkpoint(weights):
            return None
        if form is not _Remedied:
            return cls(values=record, training=record)
        unseen = record.get("unseen")
        fitted = isinstance(unseen, dict) and bool(unseen.get("rows_in_head"))
        return dataclasses.replace(cls._of_remedy(record["of"]), fitted=fitted)

    @classmethod
    def _of_remedy(cls, diagnosed: dict[str, Any]) -> Recorded:
        splits, trained = diagnosed["data"]["splits"], diagnosed["training"]
        return cls(
            values=diagnosed,
            training=None if trained is None else _training_in(diagnosed, trained),
            chosen_on=splits.get(diagnosed["heldout_split"]),
            head=diagnosed.get("head_given"),
        )

    def chose_head_by(self, heldout: Split) -> bool:
        """Return whether these held-out images chose the head, as far as the record shows."""
        if self.chosen_on is None or self.chosen_on.get("digest") != heldout.digest():
            return False
        return heldout.content is None or self.chosen_on.get("content") in (None, heldout.content)


def carried(training: dict[str, Any], weights: Path) -> dict[str, Any]:
    """The part of a training run's record that a diagnosis keeps; `_training_in` reads it back."""
    kept = {"seed": training["seed"], "recipe": training["recipe"], **training["model"]}
    if isinstance(training.get("method"), str):
        kept["method"] = training["method"]
    plan = training.get("plan")
    if isinstance(plan, dict) and isinstance(plan.get("path"), str):
        kept["plan"] = {**plan, "path": str(weights.parent / plan["path"])}
        kept |= {name: training[name] for name in ("plan_adapted",) if name in training}
    return kept


def _training_in(diagnosed: dict[str, Any], kept: dict[str, Any]) -> dict[str, Any]:
    """The part of the training run's record that the record of a diagnosis keeps."""
    of_run = ("seed", "recipe", "method", "plan", "plan_adapted")
    training = {name: kept[name] for name in of_run if name in kept}
    if "plan" in training:  # its path is relative to where the diagnosis was made, as that of the weights is
        training["plan"] = {**kept["plan"], "path": str(Path(kept["plan"]["path"]).absolute())}
    training |= {name: diagnosed[name] for name in ("data", "view", "files") if name in diagnosed}
    return training | {"model": {name: value for name, value in kept.items() if name not in of_run}}


class _Data(pydantic.BaseModel):
    spec: str
    imbalance: str
    tail_order: str
    holdout: float
    splits: dict[str, dict[str, Any]]


class _Weights(pydantic.BaseModel):
    sha256: str


class _Model(pydantic.BaseModel):
    name: str


class _InitialModel(_Model):
    initial_weights: str


class _Trained(pydantic.BaseModel, extra="allow"):
    """The fields that are read from a training run's `run.json`."""

    data: _Data
    view: View | None
    model: _InitialModel
    recipe: dict[str, Any]
    seed: int
    weights: _Weights


class _Plan(pydantic.BaseModel, extra="allow"):
    path: str


class _Kept(_InitialModel, extra="allow"):
    seed: int
    recipe: dict[str, Any]
    plan: _Plan | None = None


class _Diagnosed(pydantic.BaseModel, extra="allow"):
    data: _Data
    view: View | None
    model: _Model
    training: _Kept | None
    heldout_split: str
    head_given: str | None = None


class _Remedied(pydantic.BaseModel, extra="allow"):
    """The fields that are read from a remedy's `run.json`."""

    command: Literal["remedy"]
    of: _Diagnosed
    weights: _Weights
