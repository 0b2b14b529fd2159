"""What networks of Hugging Face transformers know beside their weights: names in a saved file, and names of classes.

`save_pretrained` may write other names than those of the network's own state dict. transformers itself translates them.
"""

from __future__ import annotations

import contextlib
import sys
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any, NamedTuple

from torch import Tensor, nn

from ..errors import InputError, must
from ..files.checkpoints import StateDicts
from ..runtime.randomness import random_state_kept
from ..runtime.user_code import is_passed_on

NOTE = "the names in the checkpoint are those of save_pretrained, which transformers translates"


class Translated(NamedTuple):
    """Weights under the names of a network.

    Attributes:
        key: The path of their state dict in the file.
        tensors: The tensors by the network's names.
    """

    key: str
    tensors: dict[str, Tensor]


def translated(model: nn.Module, found: StateDicts, path: Path) -> Translated | None:
    """Return the weights of a file that fit a network of transformers once that library has translated their names.

    Args:
        model: The network, or an adapter around one.
        found: The state dicts of the file; see `read_state_dicts`.
        path: The file, for errors.

    Returns:
        The weights; None if the model is not of transformers, or if transformers finds nothing of the network in the file.

    Raises:
        InputError: The file has part of the network only, or some of it in other shapes.

    Example:
        >>> translated(nn.Linear(2, 2), {"": dict(nn.Linear(2, 2).state_dict())}, Path("model.safetensors")) is None
        True
    """
    place = _part_of(model)
    if place is None:
        return None
    network: Any = model.get_submodule(place)
    error: InputError | None = None
    for key, tensors in found.items():
        try:
            with _quiet(), random_state_kept():
                loaded, report = type(network).from_pretrained(
                    None,
                    config=network.config,
                    state_dict=dict(tensors),
                    dtype=network.dtype,
                    ignore_mismatched_sizes=True,
                    output_loading_info=True,
                )
        except Exception as failure:  # transformers and the user's class may raise anything
            if is_passed_on(failure):
                raise
            continue
        own = loaded.state_dict()
        if not any(report[name] for name in ("missing_keys", "unexpected_keys", "mismatched_keys")):
            return Translated(key, {f"{place}.{name}" if place else name: own[name] for name in own})
        if len(report["missing_keys"]) < len(own) / 2:
            error = error or _misfit(report, path)
    if error is not None:
        raise error
    return None


def class_names_in(model: nn.Module, num_classes: int) -> list[str] | None:
    """Return the names that the model gives its outputs, as `config.id2label`; None if it names none, or not all.

    Args:
        model: The network, or an adapter around one.
        num_classes: C.

    Example:
        >>> class_names_in(nn.Linear(2, 2), 2) is None
        True
    """
    place = _part_of(model)
    names = None if place is None else getattr(model.get_submodule(place).config, "id2label", None)
    if not isinstance(names, Mapping) or set(names) != set(range(num_classes)):
        return None
    listed = [str(names[number]) for number in range(num_classes)]
    return None if listed == [f"LABEL_{number}" for number in range(num_classes)] else listed


def _part_of(model: nn.Module) -> str | None:
    """The name of the network of transformers that holds all weights of a model; "" if it is the model itself."""
    if "transformers" not in sys.modules:
        return None
    names, modules = list(model.state_dict()), dict(model.named_modules())
    for name in modules:
        within = f"{name}." if name else ""
        if not all(each.startswith(within) for each in names):
            continue
        kind = type(modules[name])
        homes = {each.__module__.partition(".")[0] for each in kind.__mro__}
        if "transformers" in homes and hasattr(modules[name], "config") and hasattr(kind, "from_pretrained"):
            return str(name)
    return None


def _misfit(report: Mapping[str, Any], path: Path) -> InputError:
    shapes = sorted(report["mismatched_keys"])
    differ = [f"no {name}" for name in sorted(report["missing_keys"])]
    differ += [f"an extra {name}" for name in sorted(report["unexpected_keys"])]
    differ += [f"{name} of shape {tuple(saved)} instead of {tuple(own)}" for name, saved, own in shapes]
    classes = {(saved[0], own[0]) for _, saved, own in shapes if saved[1:] == own[1:]}
    advice = ""
    if len(classes) == 1 and len(differ) == len(shapes):
        advice = "they are for {} classes and the model has {}".format(*classes.pop())
    more = f" and {len(differ) - 3} more" if len(differ) > 3 else ""
    return must(f"weights {path}", "fit the model", ", ".join(differ[:3]) + more, advice)


@contextlib.contextmanager
def _quiet() -> Iterator[None]:
    """Keep transformers from printing a progress bar and a table of what differs; errors say it."""
    logging: Any = sys.modules["transformers"].utils.logging
    level, bar = logging.get_verbosity(), logging.is_progress_bar_enabled()
    logging.set_verbosity_error()
    logging.disable_progress_bar()
    try:
        yield
    finally:
        logging.set_verbosity(level)
        if bar:
            logging.enable_progress_bar()
