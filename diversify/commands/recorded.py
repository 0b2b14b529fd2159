"""What the `run.json` beside a checkpoint tells of it, whether a training run or a remedy wrote it."""

from __future__ import annotations

import dataclasses
from pathlib import Path
from typing import Any, Literal

import pydantic

from ..data.loader import Split
from ..data.view import View
from ..errors import InputError
from ..files import atomic, digests


@dataclasses.dataclass(frozen=True, kw_only=True)
class Recorded:
    """What is recorded of a checkpoint.

    `values` has its data, view and model. `training` is the record of the training run, or what a remedy kept of it in the
    same form; None where nothing shows which images the network learned from. `chosen_on` is the record of the split that
    chose the head, None where training made it; `head` the name under which the user named the head.
    """

    values: dict[str, Any]
    training: dict[str, Any] | None
    chosen_on: dict[str, Any] | None = None
    head: str | None = None

    @classmethod
    def beside(cls, weights: Path) -> Recorded | None:
        """What the `run.json` beside a checkpoint says of exactly this checkpoint; None where there is no such record."""
        file = weights.parent / "run.json"
        if not file.is_file():
            return None
        try:
            record: dict[str, Any] = atomic.read_json(file, "run.json")
            form = _Remedied if record.get("command") == "remedy" else _Trained
            known = form.model_validate(record)
        except (InputError, pydantic.ValidationError, AttributeError):
            return None  # somebody else's file of that name
        if known.weights.sha256 != digests.sha256(weights):
            return None
        return cls._of_remedy(record["of"]) if form is _Remedied else cls(values=record, training=record)

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
        """Whether these held-out images are, as far as the record goes, those that chose the head."""
        if self.chosen_on is None or self.chosen_on.get("digest") != heldout.digest():
            return False
        return heldout.content is None or self.chosen_on.get("content") in (None, heldout.content)


def recorded_training(weights: Path) -> dict[str, Any] | None:
    """What the `run.json` beside a checkpoint says of its training, when it is of exactly this checkpoint; else None."""
    known = Recorded.beside(weights)
    return None if known is None else known.training


def carried(training: dict[str, Any], weights: Path) -> dict[str, Any]:
    """What the record of a diagnosis keeps of that of the training run beside `weights`; `_training_in` reads it."""
    kept = {"seed": training["seed"], "recipe": training["recipe"], **training["model"]}
    plan = training.get("plan")
    if isinstance(plan, dict) and isinstance(plan.get("path"), str):
        kept["plan"] = {**plan, "path": str(weights.parent / plan["path"])}
        kept |= {name: training[name] for name in ("plan_adapted",) if name in training}
    return kept


def _training_in(diagnosed: dict[str, Any], kept: dict[str, Any]) -> dict[str, Any]:
    """The training run's record, as far as that of a diagnosis of the network keeps it."""
    of_run = ("seed", "recipe", "plan", "plan_adapted")
    training = {name: kept[name] for name in of_run if name in kept}
    if "plan" in training:  # by where the diagnosis was made, as its weights are
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
    """What is read of a training run's `run.json`."""

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
    """What is read of a remedy's `run.json`."""

    command: Literal["remedy"]
    of: _Diagnosed
    weights: _Weights
