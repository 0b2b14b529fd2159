"""Match the names in a checkpoint to the names in a network: one prefix is left out, and one is added."""

from __future__ import annotations

import dataclasses
import difflib
import re
from collections import Counter
from collections.abc import Callable, Mapping
from pathlib import Path

import torch
from torch import Tensor

from ..errors import InputError, must
from ..files.checkpoints import StateDicts, is_averaged, is_usual, usual_key, without_wrappers
from .wrappers import WRAPPERS

_COUNTERS = ("num_batches_tracked", "n_averaged")  # no part of what a network computes
_BESIDE = re.compile(  # what training code keeps beside a network: losses and metrics
    r"(?:^|_)(?:criterion|criteria|loss\w*|metrics?|acc|accuracy|auroc|f1|confmat|precision|recall)(?:_|\d|$)"
)
_SHOWN = 5  # names in a note
_RAW_IN_LIGHTNING = "current_model_state"  # where its WeightAveraging keeps them, beside the average in `state_dict`

# torchvision published the weights of its DenseNets under names with this extra dot
_DENSENET = re.compile(r"(denselayer\d+\.(?:norm|relu|conv))\.([12]\.)")


@dataclasses.dataclass(frozen=True, kw_only=True)
class Match:
    """The match between the tensors of one state dict and a network.

    Attributes:
        key: The path of the state dict in the file.
        prefix: What the names in the file begin with, and the network's do not.
        added: What the network's names begin with, and those in the file do not.
        tensors: The tensors by the network's names; where they do not fit, also those that the network does not have.
        beside: The names, in the file, of tensors that are not part of the network.

    Example:
        >>> Match(key="state_dict", prefix="model.", added="", tensors={}, beside=("criterion.weight",)).notes()[0]
        "the names in the checkpoint begin with 'model.', which is left out"
    """

    key: str
    prefix: str
    added: str
    tensors: dict[str, Tensor]
    beside: tuple[str, ...]

    def notes(self) -> list[str]:
        """Return what was done beyond reading name by name, one sentence each."""
        notes = []
        if set(self.prefix.split(".")[:-1]) - set(WRAPPERS):
            notes.append(f"the names in the checkpoint begin with {self.prefix!r}, which is left out")
        if self.beside:
            shown = ", ".join(self.beside[:_SHOWN]) + (", ..." if len(self.beside) > _SHOWN else "")
            plural = "tensors" if len(self.beside) > 1 else "tensor"
            notes.append(f"{len(self.beside)} {plural} of the checkpoint not used: {shown}")
        return notes

    @property
    def place(self) -> str:
        """The place of these weights in the file, in the form that `weights_key` takes."""
        parts = f"{self.key}.{self.prefix}".strip(".").split(".")
        while parts and parts[-1] in WRAPPERS:
            parts.pop()
        return ".".join(parts)


def match_weights(
    found: StateDicts,
    want: Mapping[str, Tensor],
    path: Path,
    *,
    suggest: Callable[[dict[str, Tensor]], str] = lambda tensors: "",
) -> tuple[Match, list[str]]:
    """Return the one state dict that fits a network in every name and shape.

    Names fit if they are equal once a prefix is left out of all names in the file, or of all names of the network; the
    network's whole names are tried first. Weights averaged over training (EMA) are taken only if no others fit.

    Args:
        found: The state dicts of the file; see `read_state_dicts`.
        want: The state dict of the network.
        path: The file, for errors.
        suggest: Gives advice on tensors that do not fit; empty where it has none.

    Returns:
        The match, and notes on what was chosen and what was left unused, one sentence each.

    Raises:
        InputError: Nothing fits, or several different weights do.

    Example:
        >>> found = {"state_dict": {"net.bias": torch.zeros(2), "criterion.weight": torch.ones(2)}}
        >>> match, notes = match_weights(found, {"bias": torch.zeros(2)}, Path("a.ckpt"))
        >>> match.prefix, notes[1]
        ('net.', '1 tensor of the checkpoint not used: criterion.weight')
    """
    fitting = [match for key, tensors in found.items() for match in _fits(key, tensors, want)]
    if not fitting:
        raise _misfit(found, want, path, suggest)
    raw = [match for match in fitting if not is_averaged(match.place)]
    match = _only(raw or fitting, found, path)
    notes = match.notes()
    others = [each.place for each in raw if each.place != match.place and not _equal(each, match)]
    if match.key == "state_dict" and any(each.split(".")[0] == _RAW_IN_LIGHTNING for each in others):
        notes.append(
            "these weights are averaged over training: Lightning keeps them under state_dict, and the raw ones under"
            f" {_RAW_IN_LIGHTNING}, which weights_key={_RAW_IN_LIGHTNING} takes"
        )
    elif others:
        notes.append(f"the checkpoint also holds other weights that fit ({', '.join(others)}): weights_key takes them")
    averaged = [each.place for each in fitting if is_averaged(each.place)]
    if raw and averaged:
        notes.append(
            f"the checkpoint also holds weights averaged over training ({', '.join(averaged)});"
            f" the raw ones{_at(match.place)} are taken: weights_key={averaged[0]} takes the others"
        )
    elif averaged:
        notes.append(f"these weights are averaged over training{_at(match.place)}")
    return match, notes


def _at(place: str) -> str:
    return f" ({place})" if place else ""


def _only(fitting: list[Match], found: StateDicts, path: Path) -> Match:
    """The match that is meant: the one under the usual key, unless the file has others that may be meant as well."""
    first = fitting[0]
    different = [first] + [each for each in fitting[1:] if not _equal(each, first)]
    if len(different) == 1:
        return first
    usual = [each for each in fitting if is_usual(each.key) and each.key == usual_key(found)]
    usual = [each for each in usual if not each.prefix] or usual
    if len(usual) == 1:
        return usual[0]
    several = usual or different
    got = ", ".join(each.place or "the file itself" for each in several)
    raise must(
        f"weights {path}",
        "hold one network that fits",
        f"{len(several)}: {got}",
        f"pass weights_key={several[0].place}",
    )


def _equal(left: Match, right: Match) -> bool:
    return left.tensors.keys() == right.tensors.keys() and all(
        torch.equal(left.tensors[key], right.tensors[key]) for key in left.tensors
    )


def fits(found: StateDicts, want: Mapping[str, Tensor]) -> bool:
    """Return whether a state dict of a file fits a network in every name and shape.

    Args:
        found: The state dicts of the file.
        want: The state dict of the network.

    Example:
        >>> fits({"": {"module.bias": torch.zeros(2)}}, {"bias": torch.zeros(2)})
        True
    """
    return any(_fits(key, tensors, want) for key, tensors in found.items())


def _fits(key: str, tensors: dict[str, Tensor], want: Mapping[str, Tensor]) -> list[Match]:
    """Every prefix under which the tensors fit, for the longest part of the network's names that any fits."""
    for added in _common_prefixes(want):
        matches = [_matched(key, prefix, added, tensors, want) for prefix in _prefixes(tensors, want, added)]
        whole = [match for match in matches if not _differing(match, want)]
        larger = [match for match in matches if match not in whole and not _lacking(match, want)]
        whole = [each for each in whole if not any(each.prefix.startswith(one.prefix) for one in larger)]
        if whole:
            exact = [match for match in whole if not match.prefix]
            return exact + [match for match in whole if match.prefix and (not exact or is_averaged(match.place))]
    return []


def _is_counter(name: str) -> bool:
    return name.rpartition(".")[2] in _COUNTERS


def _common_prefixes(want: Mapping[str, Tensor]) -> list[str]:
    """The beginnings that all the network's names share, the empty one first."""
    names = [name.split(".")[:-1] for name in want if not _is_counter(name)]
    shared: list[str] = [""]
    for parts in zip(*names, strict=False):
        if len(set(parts)) > 1:
            break
        shared.append(f"{shared[-1]}{parts[0]}.")
    return shared


def _prefixes(tensors: Mapping[str, Tensor], want: Mapping[str, Tensor], added: str) -> list[str]:
    """The prefixes that the file has before the network's names, the most frequent first."""
    wanted = {name.removeprefix(added) for name in want if name.startswith(added) and not _is_counter(name)}
    counts: Counter[str] = Counter()
    for name in tensors:
        newer = _DENSENET.sub(r"\1\2", name)
        starts = [0, *(place + 1 for place, letter in enumerate(newer) if letter == ".")]
        counts.update(newer[:start] for start in starts if newer[start:] in wanted)
    return [prefix for prefix, _ in sorted(counts.items(), key=lambda each: (-each[1], len(each[0])))]


def _matched(key: str, prefix: str, added: str, tensors: dict[str, Tensor], want: Mapping[str, Tensor]) -> Match:
    named: dict[str, Tensor] = {}
    beside: list[str] = []
    shared = _common_prefixes(want)[-1]
    for name, value in tensors.items():
        inner = added + name.removeprefix(prefix)
        newer = _DENSENET.sub(r"\1\2", inner)
        inner = newer if inner not in want and newer in want else inner
        root = inner.removeprefix(shared).partition(".")[0]
        if name.startswith(prefix) and inner in want:
            named[inner] = value
        elif _is_counter(name) and name.startswith(prefix) and "." in name.removeprefix(prefix):
            continue
        elif (
            not name.startswith(prefix)
            or (not added and not inner.startswith(shared))
            or ("." in inner and (_BESIDE.search(root.lower()) or is_averaged(root)))
            or _is_counter(name)
        ):
            beside.append(name)
        else:
            named[inner] = value
    return Match(key=key, prefix=prefix, added=added, tensors=named, beside=tuple(beside))


def _lacking(match: Match, want: Mapping[str, Tensor]) -> bool:
    """Return whether a part of the network is missing or has another shape."""
    got = match.tensors
    return any(not _is_counter(name) and (name not in got or got[name].shape != want[name].shape) for name in want)


def _differing(match: Match, want: Mapping[str, Tensor]) -> list[str]:
    """The names that are missing, then those that the network does not have, then those of another shape."""
    got = match.tensors
    differ = [name for name in want if name not in got] + [name for name in got if name not in want]
    differ += [name for name in want if name in got and want[name].shape != got[name].shape]
    return [name for name in differ if not _is_counter(name)]


def _misfit(
    found: StateDicts, want: Mapping[str, Tensor], path: Path, suggest: Callable[[dict[str, Tensor]], str]
) -> InputError:
    """The error for a file without any weights that fit: what differs in the state dict that comes nearest."""
    usual = usual_key(found)
    tried = [
        _matched(key, prefix, added, tensors, want)
        for key, tensors in found.items()
        for added in _common_prefixes(want)
        for prefix in _prefixes(tensors, want, added)[:3] or [_wrappers_of(tensors)]
    ]
    match = max(tried, key=lambda each: (len(want.keys() & each.tensors.keys()), each.key == usual, -len(each.added)))
    differ = _differing(match, want)
    shown = ", ".join(_difference(name, want, match.tensors) for name in differ[:3])
    more = f" and {len(differ) - 3} more" if len(differ) > 3 else ""
    advice = (
        _other_classes(differ, want, match.tensors) or suggest(match.tensors) or _similar(differ, want, found, match)
    )
    return must(f"weights {path}", "fit the model", f"{shown}{more}", advice)


def _wrappers_of(tensors: dict[str, Tensor]) -> str:
    first = next(iter(tensors))
    return first.removesuffix(next(iter(without_wrappers(tensors))))


def _difference(name: str, want: Mapping[str, Tensor], got: Mapping[str, Tensor]) -> str:
    if name not in got:
        return f"no {name}"
    if name not in want:
        return f"an extra {name}"
    return f"{name} of shape {tuple(got[name].shape)} instead of {tuple(want[name].shape)}"


def _other_classes(differ: list[str], want: Mapping[str, Tensor], got: Mapping[str, Tensor]) -> str:
    """The advice where only the number of classes differs; empty otherwise."""
    first = {(len(got[name]), len(want[name])) for name in differ if name in got and name in want and got[name].ndim}
    heads = all(name in got and name in want and got[name].shape[1:] == want[name].shape[1:] for name in differ)
    if not heads or len(first) != 1:
        return ""
    have, need = first.pop()
    return f"they are for {have} classes and the model has {need}"


def _similar(differ: list[str], want: Mapping[str, Tensor], found: StateDicts, match: Match) -> str:
    """The advice that names the tensor of the file most like the first that is missing; empty where none is."""
    missing = next((name for name in differ if name not in match.tensors), None)
    if missing is None:
        return ""
    used = {id(value) for name, value in match.tensors.items() if name in want}
    left = {
        f"{key}.{name}".lstrip("."): value.shape
        for key, tensors in found.items()
        for name, value in tensors.items()
        if id(value) not in used and not _is_counter(name)
    }
    same = [name for name, shape in left.items() if shape == want[missing].shape] or list(left)
    near = difflib.get_close_matches(missing, same, n=1, cutoff=0.0)
    return f"the nearest in the file to {missing} is {near[0]}" if near else ""
