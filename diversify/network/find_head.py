"""Find the head of a model: its last linear layer."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from torch import nn

from ..errors import must, unknown
from .linear_head import LINEAR
from .wrappers import WRAPPERS


def named_head(model: nn.Module, name: str) -> str:
    """Return the full name of a layer, which may be given with or without the names that wrappers add."""
    modules = dict(model.named_modules())
    if name not in modules:
        plain = {each: [part for part in each.split(".") if part not in WRAPPERS] for each in modules}
        wanted = [part for part in name.split(".") if part not in WRAPPERS]
        name = next((each for each in modules if wanted and plain[each] == wanted), name)
    if name not in modules:
        linear = [layer.name for layer in layers_of(model) if layer.outputs]
        raise unknown("head", name, linear or [key for key in modules if key])
    return name


@dataclass(frozen=True, kw_only=True)
class _Layer:
    """A module with a weight of two or more dimensions; `outputs` is empty for a module that cannot be a head."""

    name: str
    kind: str
    inputs: frozenset[int]
    outputs: frozenset[int]

    def is_within(self, branch: str) -> bool:
        """True if the layer lies in this branch of the module tree."""
        return self.name == branch or self.name.startswith(f"{branch}.")


def layers_of(model: nn.Module, name: str = "") -> list[_Layer]:
    """The layers in the order of registration, without auxiliary branches.

    Attention, recurrent, embedding and linear layers are taken whole.
    """
    weights = [tuple(tensor.shape) for tensor in model.parameters(recurse=False) if tensor.ndim >= 2]
    kind = type(model).__name__
    if isinstance(model, nn.Linear):
        sizes = frozenset([model.in_features]), frozenset([model.out_features])
        return [_Layer(name=name, kind=kind, inputs=sizes[0], outputs=sizes[1])]
    if isinstance(model, nn.MultiheadAttention | nn.RNNBase | nn.Embedding | nn.EmbeddingBag):
        sizes = frozenset(size for shape in weights for size in shape), frozenset()
        return [_Layer(name=name, kind=kind, inputs=sizes[0], outputs=sizes[1])]
    children = [
        layer
        for child_name, child in model.named_children()
        if not child_name.lower().startswith("aux")
        for layer in layers_of(child, f"{name}.{child_name}" if name else child_name)
    ]
    if children or not weights:
        return children
    inputs = getattr(model, "in_features", getattr(model, "in_channels", None))
    outputs = getattr(model, "out_features", None)
    both = frozenset(weights[0])
    headlike = len(weights) == 1 and len(weights[0]) == 2
    return [
        _Layer(
            name=name,
            kind=kind,
            inputs=frozenset([inputs]) if isinstance(inputs, int) else both,
            outputs=(frozenset([outputs]) if isinstance(outputs, int) else both) if headlike else frozenset(),
        )
    ]


def find_head(model: nn.Module) -> str:
    """Return the name of the one linear layer that gives the logits.

    A layer with one output, the head of a binary classifier, is taken only if no wider layer fits: a gate or a score
    beside the head has one output too.

    Raises:
        InputError: No layer fits, or several do.
    """
    layers = layers_of(model)
    taken: set[int] = set()
    ends: list[_Layer] = []
    for layer in reversed(layers):
        if layer.outputs and not layer.outputs & taken and max(layer.outputs) > 1:
            ends.insert(0, layer)
        taken |= layer.inputs
    single = [layer for layer in layers if layer.outputs == {1}]
    if single and single[-1] is layers[-1]:
        beside = [end for end in ends if _is_last_in_branch(end, single[-1], layers)]
        if all(_ends_a_stack(end, ends, layers) for end in beside):
            return single[-1].name
    ends = ends or single
    last = [end for end in ends if all(_is_last_in_branch(end, other, layers) for other in ends)] or ends
    candidates = [end for end in last if not _ends_a_stack(end, ends, layers)] or last
    if len(candidates) == 1:
        return candidates[0].name
    if candidates:
        names = ", ".join(layer.name for layer in candidates)
        advice = "name one with head=NAME"
        raise must("head", "be one linear layer", f"{len(candidates)} candidates ({names})", advice)
    if layers:
        widths = {layer.name: max(layer.outputs) for layer in layers if layer.outputs}
        got = f"{layers[-1].kind} {layers[-1].name!r} as the last layer"
        linear = list(widths)
        advice = f"name a linear layer with head=NAME: {', '.join(linear)}" if linear else "give it a linear head"
        raise must("head", LINEAR, got, advice)
    raise must("head", LINEAR, f"a {type(model).__name__} without weights")


def _is_last_in_branch(layer: _Layer, other: _Layer, layers: Sequence[_Layer]) -> bool:
    """True if `layer` is the last layer on its side of the point where the names of it and of `other` branch.

    A true parallel head is. A layer inside the backbone whose outputs happen to match no later input (the position bias
    of Swin v2) is followed, on its side, by the rest of the backbone.
    """
    if layer is other:
        return True
    parts, others = layer.name.split("."), other.name.split(".")
    shared = next(i for i, (own, theirs) in enumerate(zip(parts, others, strict=False)) if own != theirs)
    branch = ".".join(parts[: shared + 1])
    return [each for each in layers if each.is_within(branch)][-1] is layer


def _ends_a_stack(layer: _Layer, ends: Sequence[_Layer], layers: Sequence[_Layer]) -> bool:
    """True if `layer` is in the last of several similar blocks, and its counterparts in the others feed later layers.

    In CoaT such blocks stand beside the head. If a model has several heads, the counterparts are heads too and feed no
    layer.
    """
    parts = layer.name.split(".")
    numbers = [place for place, part in enumerate(parts) if part.isdigit()]
    for twin in layers:
        others = twin.name.split(".")
        if twin in ends or (twin.inputs, twin.outputs) != (layer.inputs, layer.outputs):
            continue
        for place in numbers:
            like = parts[:place] == others[:place] and parts[place + 1 :] == others[place + 1 :]
            if like and others[place : place + 1] and others[place].isdigit():
                return True
    return False
