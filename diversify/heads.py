"""A trained model split at its linear head: backbone and head, parameters shared, nothing about the model changed."""

from __future__ import annotations

import contextlib
import functools
import inspect
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, fields, is_dataclass, replace
from types import MethodType
from typing import Any, Self

import torch
from torch import Tensor, nn
from torch.nn import functional as F  # noqa: N812
from torch.nn.parallel import DataParallel, DistributedDataParallel
from torch.nn.parameter import is_lazy

from .errors import InputError, must, unknown

_LINEAR = "be linear (W f + b) or cosine"
_MADE_BY = "(on the command line, --model package.module:function makes it)"
ADAPTER = f"wrap it in a module that does {_MADE_BY}"
_NOT_ONE_LAYER = (
    "the model's output is not that of one linear layer (it is changed afterwards, or joined from several); wrap the"
    f" model in a module that returns what one layer gives {_MADE_BY}"
)


# The head


@dataclass(frozen=True, kw_only=True, eq=False)
class LinearHead:
    """A classifier's last layer as numbers: `logits = scale * (features' @ weight'.T + bias')`.

    For a plain head `features'`, `weight'` and `bias'` are the values themselves and `scale` is 1. For a cosine head
    features and weight rows are normalised and the bias is 0; after that, everything that holds for a linear head
    holds for it too.

    Attributes:
        weight: `(C, D)` float32.
        bias: `(C,)` float32; zeros where the module has none.
        cosine: Whether features and weight rows are normalised.
        scale: What multiplies the cosines; 1 for a plain head.
    """

    weight: Tensor
    bias: Tensor
    cosine: bool = False
    scale: float = 1.0

    def __post_init__(self) -> None:
        if self.weight.ndim != 2:
            raise must("head weight", "have shape (C, D)", tuple(self.weight.shape))
        if self.bias.shape != self.weight.shape[:1]:
            raise must("head bias", f"have shape ({len(self.weight)},)", tuple(self.bias.shape))
        for name, values in (("head weight", self.weight), ("head bias", self.bias)):
            if values.dtype != torch.float32:
                raise must(name, "be float32", values.dtype)
            if not values.isfinite().all():
                raise must(name, "be finite", "nan or infinite values")

    @property
    def num_classes(self) -> int:
        """C."""
        return self.weight.shape[0]

    @property
    def num_features(self) -> int:
        """D."""
        return self.weight.shape[1]

    def effective(self, features: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        """`(features', weight', bias')` with `features' @ weight'.T + bias' = logits / scale`."""
        if not self.cosine:
            return features, self.weight, self.bias
        return F.normalize(features, dim=1), F.normalize(self.weight, dim=1), self.bias

    def logits(self, features: Tensor) -> Tensor:
        """`(N, C)`: what the module that this was read from gives for features `(N, D)`."""
        rows, weight, bias = self.effective(features)
        return self.scale * F.linear(rows, weight, bias)


def read_head(module: nn.Module | LinearHead, probe_features: Tensor | None = None) -> LinearHead:
    """The numbers of a linear or cosine head, found by what the module does, not by its name.

    A few fixed feature vectors are sent through the module (in eval mode, its own mode restored). The head is the one
    of these forms that gives the module's outputs: `W f + b` with the module's own weight; `s cos(W, f)` with the
    weight stored as (C, D) or (D, C) and any scale s; or any other affine map (weight normalisation, learned scales
    per class), whose W and b are then read off the unit vectors.

    Args:
        module: The head. A `LinearHead` is returned as it is.
        probe_features: `(M, D)` features to use as probes, where made-up ones would not do.

    Raises:
        InputError: The module is none of these.
    """
    if isinstance(module, LinearHead):
        return module
    refusal = must("head", _LINEAR, type(module).__name__, "name another layer with --head NAME (head=NAME in Python)")
    module = _unwrap(module)
    tensors = _parameters_of_head(module)
    weights = [tensor for tensor in tensors if tensor.ndim == 2 and tensor.is_floating_point() and tensor.numel()]
    if not weights or any(tensor.ndim > 2 for tensor in tensors):
        raise refusal
    tolerance = 2e-3 if weights[0].dtype in (torch.float32, torch.float64) else 3e-2
    for weight in (turned for either in weights for turned in (either, either.t())):
        call = functools.partial(_call_head, module, weights[0])
        probes = _probe_features(weight.shape[1]) if probe_features is None else probe_features[:16].float().cpu()
        outputs = call(probes) if probes.shape[1] == weight.shape[1] else None
        if outputs is None or outputs.shape != (len(probes), len(weight)):
            continue
        close = functools.partial(torch.allclose, outputs, rtol=0.0, atol=tolerance * float(outputs.abs().max()))
        weight = weight.detach().cpu().float().contiguous()
        biases = [bias.detach().cpu().float() for bias in tensors if bias.shape == weight.shape[:1]]
        head = LinearHead(weight=weight.clone(), bias=biases[0].clone() if biases else torch.zeros(len(weight)))
        if close(head.logits(probes)):
            return head
        cosines = replace(head, bias=torch.zeros(len(weight)), cosine=True)
        unscaled = cosines.logits(probes).double()
        scale = float((outputs.double() * unscaled).sum() / unscaled.square().sum())
        if scale > 0 and close((scale * unscaled).float()):
            return replace(cosines, scale=scale)
        head = _read_affine(call, weight.shape[1])
        if close(head.logits(probes)):
            return head
    raise refusal


def _parameters_of_head(module: nn.Module) -> list[Tensor]:
    """Its tensors, `weight` and `bias` first as the module shows them: they may be computed (weight normalisation)."""
    shown = [getattr(module, name, None) for name in ("weight", "bias")]
    tensors = [tensor for tensor in shown if isinstance(tensor, Tensor)]
    return tensors + [tensor for tensor in module.parameters() if not any(tensor is other for other in tensors)]


def _probe_features(num_features: int) -> Tensor:
    """`(8, D)`: fixed, of both signs and of lengths that differ, so that only the right form fits."""
    generator = torch.Generator().manual_seed(0)
    rows = torch.randn(8, num_features, generator=generator)
    rows[4:] = rows[4:].abs()
    return rows * torch.tensor([0.5, 1.0, 2.0, 4.0] * 2).unsqueeze(1)


def _call_head(module: nn.Module, weight: Tensor, features: Tensor) -> Tensor | None:
    """The module's outputs as float32 on the CPU, or None where it does not take such features."""
    device = weight.device.type
    try:
        with evaluating(module), torch.no_grad(), torch.autocast(device, enabled=False):
            outputs = module(features.to(weight.device, weight.dtype))
    except (RuntimeError, TypeError, ValueError, IndexError):
        return None
    return outputs.detach().float().cpu() if isinstance(outputs, Tensor) else None


def _read_affine(call: Callable[[Tensor], Tensor | None], num_features: int) -> LinearHead:
    outputs = call(torch.cat([torch.zeros(1, num_features), torch.eye(num_features)]))
    if outputs is None or not outputs.isfinite().all():
        return LinearHead(weight=torch.zeros(1, num_features), bias=torch.zeros(1))
    return LinearHead(weight=(outputs[1:] - outputs[0]).t().contiguous(), bias=outputs[0].clone())


# A head put back


def write_head(module: nn.Module, head: LinearHead) -> None:
    """Give a head module other numbers, in place and in its own dtype, so that `read_head` reads `head` from it.

    `split_head(model).head` is the user's own module. Afterwards nothing else about it has changed; on an error, nothing.

    Raises:
        InputError: the module cannot hold them; see `replace_head`.
    """
    module = _unwrap(module)
    kept = {name: tensor.detach().clone() for name, tensor in module.state_dict().items()}
    device = next(iter(kept.values())).device
    module.load_state_dict(replace_head(kept, "", read_head(module), head))
    found = read_head(module)
    low = any(torch.finfo(tensor.dtype).bits < 32 for tensor in kept.values() if tensor.is_floating_point())
    shown = head.bias.cpu().abs() < 1e4  # not that of a class that never wins
    rows = _probe_features(head.num_features)
    pair = [F.linear(rows, one.weight.cpu(), one.bias.cpu())[:, shown] for one in (found, head)]
    got, wanted = (logits - logits.mean(1, keepdim=True) for logits in pair)
    if shown.any() and not torch.allclose(
        got, wanted, rtol=0, atol=(0.02 if low else 1e-3) * float(wanted.abs().max())
    ):
        module.load_state_dict({name: tensor.to(device) for name, tensor in kept.items()})
        raise must("head", _SETTABLE, type(module).__name__)


_SETTABLE = "hold its weights as they are used, with a bias or without, as nn.Linear or a cosine head does"


def replace_head(tensors: Mapping[str, Tensor], name: str, old: LinearHead, new: LinearHead) -> dict[str, Tensor]:
    """A state dict with another head in it: the same names in their order, shapes and dtypes; the rest is not copied.

    The tensors that hold the head are those under its `name`, more or less of its path, that equal the old numbers: a
    weight as (C, D) or (D, C), or the length and direction of weight normalisation; and a bias.

    Raises:
        InputError: no tensors or several fit; the shapes differ; one is a cosine head, or of another scale, and the other is
            not; or there is no bias to hold the new one. Where the new bias is one number for all classes none is needed.
    """
    if new.weight.shape != old.weight.shape:
        raise must("head weight", f"have shape {tuple(old.weight.shape)}", tuple(new.weight.shape))
    if new.cosine != old.cosine or abs(new.scale - old.scale) > 1e-3 * old.scale:  # a scale is read by least squares
        kinds = [f"a cosine head of scale {one.scale:g}" if one.cosine else "a plain head" for one in (old, new)]
        raise must("head", f"be {kinds[0]}, as the module is", kinds[1])
    under = [key for key in tensors if _is_under(key, name)]
    changed = _weights_replaced(tensors, under, old.weight.detach().cpu(), new.weight.detach().cpu())
    if changed is None:
        raise must(f"head {name!r}" if name else "head", _SETTABLE, "another form")
    bias = new.bias.detach().cpu()
    stem = next(iter(changed)).rpartition(".")[0].partition("parametrizations")[0].rstrip(".")
    biases = [key for key in under if tensors[key].shape == bias.shape and _same(tensors[key], old.bias)]
    biases = [key for key in biases if key.startswith(stem)]
    if len(biases) == 1 and not old.cosine:
        changed[biases[0]] = _as_stored(bias, tensors[biases[0]])
    elif float(bias.max()) != float(bias.min()):
        advice = "retrain with bias=False" if not old.cosine else "use a fix without one"
        raise must("head", "have a bias to hold the new one", "none", advice)
    return {key: changed.get(key, tensor) for key, tensor in tensors.items()}


def _is_under(key: str, name: str) -> bool:
    """Whether a tensor belongs to the module of this name, whatever wrappers and adapters add to either."""
    stem = [part for part in key.split(".")[:-1] if part not in _WRAPPERS]
    if "parametrizations" in stem:
        stem = stem[: stem.index("parametrizations")]
    path = [part for part in name.split(".") if part and part not in _WRAPPERS]
    shorter, longer = sorted((stem, path), key=len)
    return longer[len(longer) - len(shorter) :] == shorter


def _same(stored: Tensor, values: Tensor) -> bool:
    values = values.detach().cpu()
    stored = stored.detach().cpu().float()
    return torch.allclose(stored, values, rtol=1e-5, atol=1e-6 * float(values.abs().max()))


def _as_stored(values: Tensor, stored: Tensor) -> Tensor:
    """In the dtype of the tensor whose place it takes, within its range, and where that was."""
    if torch.finfo(stored.dtype).max < torch.finfo(values.dtype).max:
        most = torch.finfo(stored.dtype).max
        values = values.clamp(-most, most)
    return values.to(stored).contiguous()


def _weights_replaced(
    tensors: Mapping[str, Tensor], under: Sequence[str], old: Tensor, new: Tensor
) -> dict[str, Tensor] | None:
    """The new values of the tensors that make up the weight; None unless it is plain which these are."""
    floats = [key for key in under if tensors[key].is_floating_point()]
    for ends in (("weight_g", "weight_v"), ("weight.original0", "weight.original1")):
        pair = [[key for key in floats if key.endswith(end)] for end in ends]
        if all(len(found) == 1 for found in pair):
            length, direction = (tensors[found[0]] for found in pair)
            if length.shape != (len(old), 1) or direction.shape != old.shape:
                return None
            if _same(length.float() * F.normalize(direction.float(), dim=1), old):
                lengths = new.norm(dim=1, keepdim=True)
                turned_to = new.where(lengths > 0, direction.detach().cpu().float())
                return {pair[0][0]: _as_stored(lengths, length), pair[1][0]: _as_stored(turned_to, direction)}
    for turned in (False, True):
        was, is_to_be = (old.t(), new.t()) if turned else (old, new)
        whole = [key for key in floats if tensors[key].shape == was.shape and _same(tensors[key], was)]
        if len(whole) == 1:
            return {whole[0]: _as_stored(is_to_be, tensors[whole[0]])}
        if whole:
            return None
    return None


# The split


class _Recorder(nn.Module):
    """Stands in the head's place: calls the head, and keeps what went in and came out until it is taken.

    With `copies`, also what came out as it was then: the model may go on to change it in place.
    """

    def __init__(self, head: nn.Module) -> None:
        super().__init__()
        self.head = head
        self.copies = True
        self.calls: list[tuple[Any, Any, Any]] = []

    def forward(self, *args: Any, **named: Any) -> Any:
        output = self.head(*args, **named)
        kept = output.detach().clone() if self.copies and isinstance(output, Tensor) else output
        self.calls.append((next(iter([*args, *named.values()]), None), output, kept))
        return output

    def __getattr__(self, name: str) -> Any:
        """The head's attributes too: a model may ask its head for `in_features`."""
        try:
            return super().__getattr__(name)
        except AttributeError:
            if name == "head":
                raise
            return getattr(self.head, name)


class SplitModel(nn.Module):
    """A model that returns `(features, logits)`: what enters its head `(N, D)`, and what leaves it `(N, C)`.

    Parameters and buffers are the user's own. The modules from the root to the head are shallow copies, so that the
    user's module tree keeps its head and its hooks; they follow the modes of the modules that they stand for. Made by
    `split_head`.

    What the model returns has to be what its head gives, or decide the same by it: the logits times one positive
    number plus a number per row (temperature, log-softmax), their exponentials up to a factor per row (softmax), or
    their sigmoid. What is added per class after the head (logit adjustment), or joined with another head, is none of
    these: a diagnosis would be one of another classifier. The first forward refuses it; later ones only note it,
    because to look would make an accelerator wait, and `finish_check` refuses it then.
    """

    def __init__(self, model: nn.Module, head_name: str, *, is_named: bool) -> None:
        super().__init__()
        recorder = _Recorder(_unwrap(model.get_submodule(head_name)))
        self.head_name = head_name
        self._copies: dict[nn.Module, nn.Module] = {}
        self.body = _graft(model, recorder, self._copies)
        self._unregistered = (model, recorder)
        self._is_named = is_named
        self._is_checked = False
        self._agrees: Tensor | None = None

    @property
    def head(self) -> nn.Module:
        """The user's own head module."""
        return self._unregistered[1].head

    @property
    def device(self) -> torch.device:
        """Where the model's first parameter is."""
        return next(self.parameters()).device

    @property
    def dtype(self) -> torch.dtype:
        """The type that images have to have: that of the first weight."""
        weights = (tensor.dtype for tensor in self.parameters() if tensor.is_floating_point() and tensor.ndim > 1)
        return next(weights, torch.float32)

    def tensors(self) -> dict[str, Tensor]:
        """The user's model's state dict, by the model's own names."""
        state = self._unregistered[0].state_dict()
        return {name: tensor for name, tensor in state.items() if isinstance(tensor, Tensor)}

    def train(self, mode: bool = True) -> Self:
        """The user's model in training mode, or in eval mode."""
        self._unregistered[0].train(mode)
        self.training = mode
        return self

    def forward(self, images: Tensor) -> tuple[Tensor, Tensor]:
        """`(N, D)` features and `(N, C)` logits, in the precision that the head saw and gave."""
        features, logits, kept, output = self._run(images)
        if not self._is_checked:
            self._check_first(images, kept, output)
        elif not any(part is logits for part in _tensors_in(output)):
            agrees = _is_among(logits, output)
            if agrees is not None:
                self._agrees = agrees if self._agrees is None else self._agrees.to(agrees.device) & agrees
        return features, logits

    def finish_check(self) -> None:
        """An InputError if a forward since the last call returned something that its head's logits do not decide."""
        agrees, self._agrees = self._agrees, None
        if agrees is not None and not bool(agrees):
            raise self._refusal([])

    def _run(self, images: Tensor) -> tuple[Tensor, Tensor, Tensor, object]:
        """Features, logits, the logits before anything could change them, and what the model returns."""
        recorder = self._unregistered[1]
        recorder.calls = []
        recorder.copies = not self._is_checked
        for module, twin in self._copies.items():
            twin.training = module.training
        try:
            output = self.body(images)
            calls = recorder.calls
        finally:
            recorder.calls = []
        if len(calls) != 1:
            law = "be called once in the model's forward"
            advice = "pass the unwrapped model, or name the module that gives the logits with --head NAME"
            raise must(f"head {self.head_name!r}", law, f"{len(calls)} calls", advice)
        features, logits, kept = calls[0]
        if not isinstance(features, Tensor) or features.ndim != 2:
            shape = tuple(features.shape) if isinstance(features, Tensor) else type(features).__name__
            raise must("features", "have shape (N, D) where they enter the head", shape)
        return features, logits, kept, output

    def _check_first(self, images: Tensor, logits: Tensor, output: object) -> None:
        """An InputError unless the logits decide the model's output; a named head may be part of something larger."""
        agrees = _is_among(logits, output)
        if agrees is None and not self._is_named and not (isinstance(output, Tensor) and output.is_floating_point()):
            advice = f"name its head with --head NAME (head=NAME in Python), or {ADAPTER}"
            raise must("model", "return the logits of its head", describe_output(output), advice)
        if not (self._is_named if agrees is None else bool(agrees)):
            raise self._refusal(self._others_that_agree(images, output))
        self._is_checked = True

    def _others_that_agree(self, images: Tensor, output: object) -> list[str]:
        """The linear layers that give the model's output, each tried in a forward of its own."""
        widths = {part.shape[1] for part in _tensors_in(output) if part.ndim == 2}
        model = self._unregistered[0]
        found = []
        for layer in _layers(model):
            if layer.name != self.head_name and layer.outputs & widths:
                with contextlib.suppress(InputError), evaluating(model), torch.no_grad():
                    other = split_head(model, layer.name)
                    _, _, logits, output = other._run(images)
                    agrees = _is_among(logits, output)
                    if agrees is not None and bool(agrees):
                        found.append(layer.name)
        return found

    def _refusal(self, others: Sequence[str]) -> InputError:
        advice = f"name one that does with --head NAME: {', '.join(others)}" if others else _NOT_ONE_LAYER
        return must("head", "give the model's output", f"{self.head_name!r}, which does not", advice)

    def features(self, images: Tensor) -> Tensor:
        """`(N, D)`: what enters the head."""
        features, _ = self(images)
        return features  # type: ignore[no-any-return]


def _graft(module: nn.Module, recorder: _Recorder, copies: dict[nn.Module, nn.Module]) -> nn.Module:
    """`module` copied shallowly with the recorder in the head's place, wrappers left out; itself where neither is in it."""
    module = _unwrap(module)
    if module is recorder.head:
        return recorder
    if module in copies:
        return copies[module]
    children = {
        name: None if child is None else _graft(child, recorder, copies) for name, child in module._modules.items()
    }
    compiled = getattr(module, "_compiled_call_impl", None) is not None  # by model.compile()
    if not compiled and all(child is module._modules[name] for name, child in children.items()):
        return module
    if isinstance(module, torch.jit.ScriptModule):
        raise _not_python("a TorchScript module")
    twin = object.__new__(type(module))
    twin.__dict__.update(module.__dict__)
    for name, value in module.__dict__.items():
        if isinstance(value, MethodType) and value.__self__ is module:
            twin.__dict__[name] = MethodType(value.__func__, twin)
    twin.__dict__["_modules"] = children
    twin.__dict__["_compiled_call_impl"] = None  # it would run the original
    copies[module] = twin
    return twin


def describe_output(output: object) -> str:
    """What a model returned, in a few words."""
    shapes = [str(tuple(part.shape)) for part in _tensors_in(output)]
    if isinstance(output, Tensor):
        return f"a tensor of {str(output.dtype).removeprefix('torch.')} of shape {shapes[0]}"
    more = f" and {len(shapes) - 3} more" if len(shapes) > 3 else ""
    inside = f" with tensors of shape {', '.join(shapes[:3])}{more}" if shapes else " without tensors"
    return f"a {type(output).__name__}{inside}"


def _tensors_in(output: object, depth: int = 3) -> list[Tensor]:
    """The tensors of a tensor, dict, tuple, list or other object, in their order, `depth` containers deep."""
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
    return [tensor for part in parts for tensor in _tensors_in(part, depth - 1)]


def _is_among(logits: Tensor, output: object) -> Tensor | None:
    """Whether the logits decide one of the tensors of their shape in a model's output; None where there is none."""
    parts = [part for part in _tensors_in(output) if part.is_floating_point() and part.shape == logits.shape]
    if not parts:
        return None
    with torch.no_grad(), torch.autocast(logits.device.type, enabled=False):
        return torch.stack([_is_decided_by(logits, part) for part in parts]).any()


def _is_decided_by(logits: Tensor, output: Tensor) -> Tensor:
    """Whether the output is one of the forms that `SplitModel` names, as a scalar on its device.

    Where either is not finite nothing is compared. The largest logit has to be the largest output in every row: what
    has saturated says no more than that.
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
    underflown = (output < -87) & (output <= 0).all()  # a logarithm of probabilities too small to be exact
    as_values = _is_scaled(logits, output, finite & ~underflown, unit)
    return same_choice.all() & (as_values | as_powers | as_sigmoid)


def _is_scaled(logits: Tensor, values: Tensor, mask: Tensor, unit: float) -> Tensor:
    """Whether `values = s * logits + b` with one s > 0 and a b per row, within the mask."""
    logits, values = logits.where(mask, 0), values.where(mask, 0)
    count = mask.sum(1, keepdim=True).clamp_min(1)
    steps, found = ((each - each.sum(1, keepdim=True) / count) * mask for each in (logits, values))
    scale = (steps * found).sum() / steps.square().sum().clamp_min(1e-30)
    sizes = [each.abs().amax(1, keepdim=True) for each in (found, values, logits)]
    rounding = 2 * unit * (1 + sizes[1] + scale.abs() * sizes[2])
    level = steps.abs().amax() <= 4 * unit * logits.abs().amax()
    return ((found - scale * steps).abs() <= 1e-3 * sizes[0] + rounding).all() & ((scale > 0) | level)


def _is_sigmoid(logits: Tensor, output: Tensor, mask: Tensor, unit: float) -> Tensor:
    """Whether `output = sigmoid(s * logits)` with one s > 0, within the mask; where all have saturated, s is large."""
    clear = mask & (output > 1e-3) & (output < 1 - 1e-3)
    inverse, size = output.where(clear, 0.5).logit(), (logits.square() * clear).sum()
    scale = ((inverse * logits).sum() / size.clamp_min(1e-30)).where(size > 0, 1e4)
    close = ((scale * logits).sigmoid() - output).abs() <= 1e-3 + 2 * unit
    return (close | ~mask).all() & (scale > 0) & (output >= 0).all() & (output <= 1).all()


def split_head(model: nn.Module, head: str | None = None) -> SplitModel:
    """A `SplitModel` over the user's own parameters; nothing about `model` changes.

    The head is found by structure: a linear layer whose outputs no later layer takes in, last in its own branch.
    Branches named `aux...` (GoogLeNet, Inception) are auxiliary by convention and left aside, and so are layers with
    one output. The first forward then checks that the head runs once and decides the model's output, named or not.

    Args:
        model: Any classifier that takes images and returns logits, alone or in a tuple, dict or other object.
            `DataParallel`, `DistributedDataParallel` and `torch.compile` are unwrapped, around parts of it too.
        head: The name of the head in `model.named_modules()`, where the structure leaves a choice. Where the model
            returns nothing of the shape of its logits, the name is taken on trust.

    Raises:
        InputError: No linear head, several, one with a single output, or no layer of that name; a model that is
            TorchScript, exported, quantized, not made yet (lazy), or takes more than images.
    """
    require_usable(model)
    model = _unwrap(model)
    name = _find_head(model) if head is None else _named_head(model, head)
    while (inner := _wrapped(model.get_submodule(name))) is not None:
        name = f"{name}.{inner}"
    if type(model.get_submodule(name)) is nn.Module:  # keeps weights for others: as a graph of torch.export has them
        raise _not_python("an exported graph")
    _require_several(read_head(model.get_submodule(name)).num_classes)
    return SplitModel(model, name, is_named=head is not None)


def _require_several(num_outputs: int) -> None:
    if num_outputs < 2:
        raise must("head", "have at least 2 outputs", num_outputs)


_WRAPPERS = ("module", "_orig_mod")


def _wrapped(module: nn.Module) -> str | None:
    """The attribute in which a wrapper for several devices or of `torch.compile` keeps a module; None for no wrapper."""
    name = "module" if isinstance(module, DataParallel | DistributedDataParallel) else "_orig_mod"
    return name if isinstance(getattr(module, name, None), nn.Module) else None


def _unwrap(model: nn.Module) -> nn.Module:
    while (name := _wrapped(model)) is not None:
        model = getattr(model, name)
    return model


def _not_python(kind: str) -> InputError:
    return must("model", "be a Python module", kind, "pass the model that it was made from")


def require_usable(model: object) -> None:
    """An InputError for what is no network in Python that has weights in floating point and takes images alone."""
    if not isinstance(model, nn.Module):
        advice = "load it into a network first" if isinstance(model, Mapping) else ""
        raise must("model", "be a torch.nn.Module", f"a {type(model).__name__}", advice)
    if isinstance(_unwrap(model), torch.jit.ScriptModule):
        raise _not_python("a TorchScript module")
    for name, module in model.named_modules():
        layer = f"{type(module).__name__} {name!r}"
        own = list(module.parameters(recurse=False))
        if any(is_lazy(tensor) for tensor in [*own, *module.buffers(recurse=False)]):
            raise must("model", "have its weights made", f"the lazy {layer}", "run a batch of images through it first")
        home = type(module).__module__.split(".")
        integers = any(not tensor.is_floating_point() and not tensor.is_complex() for tensor in own)
        if integers or (home[0] == "torch" and "quantized" in home):
            raise must("model", "have weights in floating point", f"the quantized {layer}", "pass it unquantized")
    _require_images_alone(_unwrap(model))


def _require_images_alone(model: nn.Module) -> None:
    """An InputError when images alone, by position, are not what the model's forward takes."""
    try:
        signature = inspect.signature(model.forward)
    except (TypeError, ValueError):
        return
    try:
        signature.bind(None)
    except TypeError:
        shown = [each.replace(annotation=each.empty) for each in signature.parameters.values()]
        forward = signature.replace(parameters=shown, return_annotation=signature.empty)
        raise must("model", "take images as its one argument", f"forward{forward}", ADAPTER) from None


def _named_head(model: nn.Module, name: str) -> str:
    """The layer of this name, wherever wrappers add to it."""
    modules = dict(model.named_modules())
    if name not in modules:
        plain = {each: [part for part in each.split(".") if part not in _WRAPPERS] for each in modules}
        wanted = [part for part in name.split(".") if part not in _WRAPPERS]
        name = next((each for each in modules if wanted and plain[each] == wanted), name)
    if name not in modules:
        linear = [layer.name for layer in _layers(model) if layer.outputs]
        raise unknown("head", name, linear or [key for key in modules if key])
    return name


@dataclass(frozen=True, kw_only=True)
class _Layer:
    """A module with a weight of two or more dimensions; `outputs` is empty for one that cannot be a head."""

    name: str
    kind: str
    inputs: frozenset[int]
    outputs: frozenset[int]

    def is_within(self, branch: str) -> bool:
        return self.name == branch or self.name.startswith(f"{branch}.")


def _layers(model: nn.Module, name: str = "") -> list[_Layer]:
    """In the order of registration, auxiliary branches left out, attention and linear layers taken whole."""
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
        for layer in _layers(child, f"{name}.{child_name}" if name else child_name)
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


def _find_head(model: nn.Module) -> str:
    layers = _layers(model)
    taken: set[int] = set()
    ends: list[_Layer] = []
    for layer in reversed(layers):
        if layer.outputs and not layer.outputs & taken and max(layer.outputs) > 1:
            ends.insert(0, layer)
        taken |= layer.inputs
    last = [end for end in ends if all(_is_last_in_branch(end, other, layers) for other in ends)] or ends
    candidates = [end for end in last if not _ends_a_stack(end, ends, layers)] or last
    if len(candidates) == 1:
        return candidates[0].name
    if candidates:
        names = ", ".join(layer.name for layer in candidates)
        advice = "name one with --head NAME (head=NAME in Python)"
        raise must("head", "be one linear layer", f"{len(candidates)} candidates ({names})", advice)
    if layers:
        widths = {layer.name: max(layer.outputs) for layer in layers if layer.outputs}
        if widths:
            _require_several(min(widths.get(layers[-1].name, 2), max(widths.values())))
        got = f"{layers[-1].kind} {layers[-1].name!r} as the last layer"
        linear = list(widths)
        advice = f"name a linear layer with --head NAME: {', '.join(linear)}" if linear else "give it a linear head"
        raise must("head", _LINEAR, got, advice)
    raise must("head", _LINEAR, f"a {type(model).__name__} without weights")


def _is_last_in_branch(layer: _Layer, other: _Layer, layers: Sequence[_Layer]) -> bool:
    """Whether `layer` ends its own side of the fork at which it and `other` part.

    A true parallel head does. A layer inside the backbone whose outputs happen to match no later input (the position
    bias of Swin v2) is followed, on its side of the fork, by the rest of the backbone.
    """
    if layer is other:
        return True
    parts, others = layer.name.split("."), other.name.split(".")
    shared = next(i for i, (own, theirs) in enumerate(zip(parts, others, strict=False)) if own != theirs)
    branch = ".".join(parts[: shared + 1])
    return [each for each in layers if each.is_within(branch)][-1] is layer


def _ends_a_stack(layer: _Layer, ends: Sequence[_Layer], layers: Sequence[_Layer]) -> bool:
    """Whether `layer` belongs to the last of several like blocks, whose twins in the others feed later layers.

    In CoaT such blocks stand side by side with the head. The blocks of several heads are all ends.
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


# No trace


@contextlib.contextmanager
def evaluating(*models: nn.Module) -> Iterator[None]:
    """Eval mode within the block; afterwards each submodule has its own mode back, on an error too.

    The flags are set directly: a `train()` or `eval()` that a model overrides may do more than set them.
    """
    modules = [module for model in models for module in model.modules()]
    modules += [module for model in models if isinstance(model, SplitModel) for module in model._copies]
    modes = {module: module.training for module in modules}
    try:
        for module in modes:
            module.training = False
        yield
    finally:
        for module, training in modes.items():
            module.training = training
