"""Check that a model's output is the output of its head."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import fields, is_dataclass
from typing import Any

import torch
from torch import Tensor, nn


def describe_output(output: object) -> str:
    """Return a short description of what a model returned."""
    shapes = [str(tuple(part.shape)) for part in tensors_in(output)]
    if isinstance(output, Tensor):
        return f"a tensor of {str(output.dtype).removeprefix('torch.')} of shape {shapes[0]}"
    more = f" and {len(shapes) - 3} more" if len(shapes) > 3 else ""
    inside = f" with tensors of shape {', '.join(shapes[:3])}{more}" if shapes else " without tensors"
    return f"a {type(output).__name__}{inside}"


def tensors_in(output: object, depth: int = 3) -> list[Tensor]:
    """Return the tensors of a tensor, dict, tuple, list or other object, in order, up to `depth` containers deep."""
    if isinstance(output, Tensor):
        return [output]
    if depth == 0 or isinstance(output, nn.Module):
        return []
    if isinstance(output, Mapping):
        parts: list[object] = list(output.values())
    elif isinstance(output, tuple | list):
        parts = list(output)
    elif is_dataclass(output):
        parts = [getattr(output, field.name, None) for field in fields(output)]
    else:
        parts = list(getattr(output, "__dict__", {}).values())
    return [tensor for part in parts for tensor in tensors_in(part, depth - 1)]


def as_two_classes(logits: Tensor) -> Tensor:
    """Return the logits `(N, C)`; those of a head with one output z become `(0, z)`, `(N, 2)`."""
    if logits.ndim != 2 or logits.shape[1] != 1:
        return logits
    return torch.cat([torch.zeros_like(logits), logits], dim=1)


def class_logits(output: Any, num_classes: int) -> Any:
    """Return a model's output as logits per class: one logit z of two classes, `(N, 1)`, `(N,)` or `()`, as `(0, z)`.

    Anything else is returned as it is.
    """
    if num_classes != 2 or not isinstance(output, Tensor) or not output.is_floating_point():
        return output
    single = output.ndim < 2 or (output.ndim == 2 and output.shape[1] == 1)
    return as_two_classes(output.reshape(-1, 1)) if single else output


def is_probability(logit: Tensor, output: Tensor) -> bool:
    """Return whether a model's output is the sigmoid of its head's one logit `(N, 1)`, and not the logit itself."""
    output, logit = output.reshape(-1, 1).float(), logit.float()
    if output.shape != logit.shape:
        return False
    return torch.allclose(output, logit.sigmoid(), 0, 1e-4) and not torch.allclose(output, logit, 0, 1e-4)


def is_softmax(logits: Tensor, output: object) -> bool:
    """Return whether a model returns the softmax of its head's logits `(N, C)`, or its logarithm, and not the logits too."""
    own = logits.float()
    parts = [part.float() for part in tensors_in(output) if part.shape == logits.shape and part.is_floating_point()]
    near = 1e-4 if logits.dtype == torch.float32 else 1e-2
    if own.shape[1] < 2 or any(torch.allclose(part, own, 0, near) for part in parts):
        return False
    chances = own.softmax(1), own.log_softmax(1)
    return any(torch.allclose(part, one, near, near) for part in parts for one in chances)


def widths_of(output: object, rows: int) -> set[int]:
    """Return the numbers of outputs that a head with the same rows may have: columns of the output, 1 for `(N,)`."""
    parts = tensors_in(output)
    wide = {part.shape[1] for part in parts if part.ndim == 2}
    single = wide == {2} or any(part.shape == (rows,) and part.is_floating_point() for part in parts)
    return wide | ({1} if single else set())


def is_among(logits: Tensor, output: object) -> Tensor | None:
    """Return True if the logits determine a tensor of their shape in a model's output; None if there is no such tensor.

    Logits `(N, 1)` of a head with one output may be there as `(N,)` too, or as two classes, `(N, 2)`.
    """
    single = logits.ndim == 2 and logits.shape[1] == 1
    shapes = [logits.shape]
    if single:
        rows = len(logits)
        shapes += [torch.Size([rows]), torch.Size([rows, 2])] + ([torch.Size([])] if rows == 1 else [])
    parts = [part for part in tensors_in(output) if part.is_floating_point() and part.shape in shapes]
    if not parts:
        return None
    decides = _is_decided_by_one if single else _is_decided_by
    with torch.no_grad(), torch.autocast(logits.device.type, enabled=False):
        return torch.stack([decides(logits, part) for part in parts]).any()


def _is_decided_by_one(logit: Tensor, output: Tensor) -> Tensor:
    """True if the output is the one logit `(N, 1)` times a positive number, its sigmoid, or a form of `(0, logit)`."""
    if output.ndim == 2 and output.shape[1] == 2:
        return _is_decided_by(as_two_classes(logit), output)
    output = output.reshape(-1, 1)
    unit = max(torch.finfo(dtype).eps for dtype in (logit.dtype, output.dtype, torch.float32))
    logit, output = logit.float(), output.float()
    finite = logit.isfinite() & output.isfinite()
    as_sigmoid = _is_sigmoid(logit.where(finite, 0), output.where(finite, 0.5), finite, unit)
    return as_sigmoid | _is_scaled(as_two_classes(logit), as_two_classes(output), finite.expand(-1, 2), unit)


def _is_decided_by(logits: Tensor, output: Tensor) -> Tensor:
    """True if the output is one of the forms that `SplitModel` names, as a scalar on its device.

    Values that are not finite are not compared. The largest logit has to be the largest output in every row; outputs
    that have saturated say no more than that.
    """
    unit = max(torch.finfo(dtype).eps for dtype in (logits.dtype, output.dtype, torch.float32))
    tiny = torch.finfo(output.dtype).tiny
    logits, output = logits.float(), output.float()
    largest = output.amax(1, keepdim=True)
    chosen = output.gather(1, logits.argmax(1, keepdim=True))
    finite = logits.isfinite() & output.isfinite()
    same_choice = (chosen >= largest - 1e-2 * largest.abs()) | ~largest.isfinite() | ~logits.isfinite().all(1, True)
    shown = finite & (output > tiny) & (output > 1e-4 * largest)
    as_powers = _is_scaled(logits, output.where(shown, 1).log(), shown, unit) & ~(output < 0).any()
    as_sigmoid = _is_sigmoid(logits.where(finite, 0), output.where(finite, 0.5), finite, unit)
    underflown = (output < -87) & (output <= 0).all()  # logarithms of probabilities that are too small to be exact
    as_values = _is_scaled(logits, output, finite & ~underflown, unit)
    return same_choice.all() & (as_values | as_powers | as_sigmoid)


def _is_scaled(logits: Tensor, values: Tensor, mask: Tensor, unit: float) -> Tensor:
    """True if `values = s * logits + b` with one s > 0 and a b per row, within the mask."""
    logits, values = logits.where(mask, 0), values.where(mask, 0)
    count = mask.sum(1, keepdim=True).clamp_min(1)
    steps, found = ((each - each.sum(1, keepdim=True) / count) * mask for each in (logits, values))
    scale = (steps * found).sum() / steps.square().sum().clamp_min(1e-30)
    sizes = [each.abs().amax(1, keepdim=True) for each in (found, values, logits)]
    rounding = 2 * unit * (1 + sizes[1] + scale.abs() * sizes[2])
    level = steps.abs().amax() <= 4 * unit * logits.abs().amax()
    return ((found - scale * steps).abs() <= 1e-3 * sizes[0] + rounding).all() & ((scale > 0) | level)


def _is_sigmoid(logits: Tensor, output: Tensor, mask: Tensor, unit: float) -> Tensor:
    """True if `output = sigmoid(s * logits)` with one s > 0, within the mask.

    If all outputs have saturated, a large s is used.
    """
    clear = mask & (output > 1e-3) & (output < 1 - 1e-3)
    inverse, size = output.where(clear, 0.5).logit(), (logits.square() * clear).sum()
    scale = ((inverse * logits).sum() / size.clamp_min(1e-30)).where(size > 0, 1e4)
    close = ((scale * logits).sigmoid() - output).abs() <= 1e-3 + 2 * unit
    return (close | ~mask).all() & (scale > 0) & (output >= 0).all() & (output <= 1).all()
