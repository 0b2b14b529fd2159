"""The record of an epoch, and the state file from which a run resumes."""

from __future__ import annotations

import dataclasses
import json
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from ..errors import must
from ..files import atomic, digests
from ..runtime import group
from .ingredients import Ingredients


@dataclasses.dataclass(frozen=True, kw_only=True)
class EpochRecord:
    """The measurements of one epoch, a line of `metrics.jsonl`.

    Attributes:
        epoch: Counted from 0.
        learning_rate: The rate of this epoch.
        loss: Mean loss of the rows that reached the loss, augmented as they were.
        accuracy_train: Share of these rows that were predicted correctly, in [0, 1].
        balanced_accuracy_val: Mean recall on the validation set; None without one.
        recall_val: Recall per class on the validation set, None for a class without images; None without the set.
        images: Number of rows that reached the loss.
        seconds: Duration of the epoch.

    Example:
        >>> record = EpochRecord(
        ...     epoch=0, learning_rate=0.1, loss=0.7, accuracy_train=0.5, balanced_accuracy_val=None,
        ...     recall_val=None, images=32, seconds=1.5,
        ... )
        >>> dataclasses.asdict(record)["images"]
        32
    """

    epoch: int
    learning_rate: float
    loss: float
    accuracy_train: float
    balanced_accuracy_val: float | None
    recall_val: list[float | None] | None
    images: int
    seconds: float


def saved_as(recipe: Any, identity: str = "") -> dict[str, Any]:
    """Return the recipe and the identity as a state holds them; only a run with the same ones may resume from it."""
    return {"recipe": dataclasses.asdict(recipe), "identity": identity}


def require_same_start(history: list[EpochRecord], model: nn.Module, rows: int, run: dict[str, Any]) -> None:
    """Check that all processes of a training start from the same epoch, weights and data; every process calls it.

    Args:
        history: The records of the epochs before.
        model: With the weights of the last of them.
        rows: Number of training images.
        run: From `saved_as`.

    Raises:
        InputError: One process differs from the first; all processes raise it.
    """
    weights = digests.digest_tensors(model.state_dict())
    state = digests.digest_json([[dataclasses.asdict(record) for record in history], weights])
    told = bytes.fromhex(digests.digest_json([rows, run]) + state)
    found = group.gathered(torch.tensor([len(history), *told]))
    epochs, number = found[:, 0].tolist(), found.shape[1] // 2
    for name, start in (("state", 1 + number), ("training set, model and recipe", 1)):
        same = (found[:, start : start + number] == found[0, start : start + number]).all(1).tolist()
        if not all(same):
            other = same.index(False)
            got = f"another in process {other} than in process 0"
            if epochs[other] != epochs[0]:
                got = f"{epochs[0]} finished epochs in process 0, {epochs[other]} in process {other}"
            advice = (
                "its folder must lie on a disk that all machines share"
                if name == "state"
                else "give each process the same"
            )
            raise must(name, "be the same in all processes", got, advice)


def save_state(
    path: Path,
    model: nn.Module,
    optimizer: torch.optim.Optimizer,
    ingredients: Ingredients,
    run: dict[str, Any],
    history: list[EpochRecord],
) -> None:
    """Write one safetensors file: the weights, the optimizer's tensors, and everything else as JSON in its header."""
    tensors = {f"model.{key}": value for key, value in model.state_dict().items()}
    numbers: dict[str, Any] = {}
    optimizer_state = optimizer.state_dict()
    for index, entry in optimizer_state["state"].items():
        for name, value in entry.items():
            target = tensors if isinstance(value, Tensor) else numbers
            target[f"optimizer.{index}.{name}"] = value
    states: dict[str, dict[str, Any]] = {}
    for name, part_state in ingredients.state_dict().items():
        states[name] = {}
        for key, value in part_state.items():
            target = tensors if isinstance(value, Tensor) else states[name]
            target[f"ingredients.{name}.{key}" if target is tensors else key] = value
    header = {
        "history": [dataclasses.asdict(record) for record in history],
        "ingredients": states,
        "optimizer": numbers,
        **run,
    }
    atomic.write_tensors(path, tensors, {"state": json.dumps(header)})


def read_state(path: Path, run: dict[str, Any]) -> tuple[dict[str, Tensor], dict[str, Any], list[EpochRecord]]:
    """Return the tensors, the header and the records of a state.

    Raises:
        InputError: The state belongs to another run, or is damaged.
    """
    tensors, metadata = atomic.read_tensors(path, "state")
    damaged = must("state", "be the state of a training run", path, "start the run anew")
    try:
        header = json.loads(metadata["state"])
        history = [EpochRecord(**record) for record in header["history"]]
        recipe, identity, _ = header["recipe"], header["identity"], header["ingredients"]
    except (KeyError, TypeError, ValueError) as error:
        raise damaged from error
    wanted = json.loads(json.dumps(run))  # tuples as JSON has them
    for name, value in wanted["recipe"].items():
        if recipe.get(name) != value:
            raise must(f"{name} of a resumed run", f"stay {recipe.get(name)}", value, "start it anew")
    if identity != wanted["identity"]:
        raise must("a resumed run", "have the data and the model it began with", "others", "start it anew")
    return tensors, header, history


def load_state(
    path: Path, model: nn.Module, optimizer: torch.optim.Optimizer, ingredients: Ingredients, run: dict[str, Any]
) -> list[EpochRecord]:
    """Restore model, optimizer and ingredients as they were after the last complete epoch; return the records so far.

    Raises:
        InputError: The state belongs to another run, or is damaged; then nothing is changed.
    """
    tensors, header, history = read_state(path, run)
    weights = {key.removeprefix("model."): value for key, value in tensors.items() if key.startswith("model.")}
    shapes = {key: value.shape for key, value in weights.items()}
    if shapes != {key: value.shape for key, value in model.state_dict().items()}:
        raise must("a resumed run", "have the data and the model it began with", "another model", "start it anew")
    stateful = ", ".join(header["ingredients"]) or "none"
    if stateful != (present := ", ".join(ingredients.state_dict()) or "none"):
        raise must("ingredients with a state of a resumed run", f"stay {stateful}", present, "start it anew")
    entries: dict[int, dict[str, Any]] = {}
    parameters = [parameter for group in optimizer.param_groups for parameter in group["params"]]
    for key, value in [*tensors.items(), *header["optimizer"].items()]:
        if key.startswith("optimizer."):
            _, index, name = key.split(".", 2)
            like = parameters[int(index)]
            if isinstance(value, Tensor) and value.shape == like.shape:
                value = torch.empty_like(like, dtype=value.dtype).copy_(value)  # in the parameter's memory format
            entries.setdefault(int(index), {})[name] = value
    states = header["ingredients"]
    for key, value in tensors.items():
        if key.startswith("ingredients."):
            _, part, name = key.split(".", 2)
            states[part][name] = value
    model.load_state_dict(weights)
    groups = optimizer.state_dict()["param_groups"]  # made by the recipe, which is the state's own
    optimizer.load_state_dict({"state": entries, "param_groups": groups})
    ingredients.load_state_dict(states)
    return history
