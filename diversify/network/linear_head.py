"""Read, write and replace the weights of a linear or cosine head."""

from __future__ import annotations

import functools
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace

import torch
from torch import Tensor, nn
from torch.nn import functional as F  # noqa: N812

from ..errors import InputError, must
from .wrappers import WRAPPERS, evaluating, unwrap

LINEAR = "be linear (W f + b) or cosine"
_SETTABLE = "hold its weights as they are used, with a bias or without, as nn.Linear or a cosine head does"


@dataclass(frozen=True, kw_only=True, eq=False)
class LinearHead:
    """The numbers of a classifier's last layer: `logits = scale * (features' @ weight'.T + bias')`.

    For a plain head, `features'`, `weight'` and `bias'` are the values themselves and `scale` is 1. For a cosine head,
    features and weight rows are normalised. After the normalisation, everything that holds for a linear head holds for
    a cosine head.

    A module with one output z (a binary classifier, whose sigmoid is the probability of class 1) is a head of two
    classes with the logits (0, z): `single_logit` is True, and the first row of weight and bias is 0. Other rows given
    with `single_logit=True` are brought into this form, which leaves the probabilities as they are.

    Attributes:
        weight: `(C, D)` float32; with `single_logit`, `(1, D)` is taken too.
        bias: `(C,)` float32; zeros where the module has none.
        cosine: True if features and weight rows are normalised.
        scale: Factor on the cosines; 1 for a plain head.
        single_logit: True if the module has one output, the difference of the two logits.
        has_bias: False if the module has no bias, so that a repaired head must have none either.

    Raises:
        InputError: A tensor has another shape or dtype, or is not finite; or a head with a single logit has more than two
            rows or is a cosine head.

    Example:
        >>> import torch
        >>> import diversify as dv
        >>> head = dv.LinearHead(weight=torch.tensor([[1.0, 0.0], [0.0, 2.0]]), bias=torch.tensor([0.5, 0.0]))
        >>> head.logits(torch.tensor([[3.0, 1.0]])).tolist()
        [[3.5, 2.0]]
        >>> binary = dv.LinearHead(weight=torch.tensor([[1.0, -1.0]]), bias=torch.tensor([0.5]), single_logit=True)
        >>> binary.logits(torch.tensor([[3.0, 1.0]])).tolist()
        [[0.0, 2.5]]
    """

    weight: Tensor
    bias: Tensor
    cosine: bool = False
    scale: float = 1.0
    single_logit: bool = False
    has_bias: bool = True

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
        if self.single_logit:
            self._put_difference()

    def _put_difference(self) -> None:
        """Bring a head with a single logit into the form (0, w), (0, b)."""
        if len(self.weight) > 2:
            raise must("head weight", "have 1 or 2 rows where the head has a single logit", len(self.weight))
        if self.cosine:
            raise must("head", "have at least 2 outputs where it is a cosine head", 1)
        for name, rows in (("weight", self.weight), ("bias", self.bias)):
            difference = rows[-1:] - rows[:-1] if len(rows) == 2 else rows
            object.__setattr__(self, name, torch.cat([torch.zeros_like(difference), difference]))

    @property
    def stored(self) -> tuple[Tensor, Tensor]:
        """Weight and bias as the module holds them: `(1, D)` and `(1,)` for a single logit, times the scale of a cosine."""
        bias = self.scale * self.bias if self.cosine else self.bias
        return (self.weight[1:], bias[1:]) if self.single_logit else (self.weight, bias)

    @property
    def num_classes(self) -> int:
        """C: the number of outputs, or 2 for a single logit."""
        return self.weight.shape[0]

    @property
    def num_features(self) -> int:
        """D: the number of inputs."""
        return self.weight.shape[1]

    def effective(self, features: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        """Return `(features', weight', bias')` with `features' @ weight'.T + bias' = logits / scale`.

        Args:
            features: `(N, D)`.
        """
        if not self.cosine:
            return features, self.weight, self.bias
        return F.normalize(features, dim=1), F.normalize(self.weight, dim=1), self.bias

    def logits(self, features: Tensor) -> Tensor:
        """Return the logits `(N, C)` that the module gives for features.

        Args:
            features: `(N, D)`.
        """
        rows, weight, bias = self.effective(features)
        return self.scale * F.linear(rows, weight, bias)


def read_head(module: nn.Module | LinearHead, probe_features: Tensor | None = None) -> LinearHead:
    """Return the numbers of a linear or cosine head.

    The form is found from what the module computes, not from its name. A few fixed feature vectors are sent through the
    module in eval mode, and its own mode is restored. The head is the one of these forms that reproduces the module's
    outputs: `W f + b` with the module's own weight; `s cos(W, f)`, or that plus b, with the weight stored as (C, D) or
    (D, C) and any scale s; or another affine map (weight normalisation, learned scales per class), whose W and b are
    then read from the unit vectors. One output is the logit of class 1 against class 0; see `LinearHead`.

    Args:
        module: The head. A `LinearHead` is returned as it is, apart from one with a single row, which is a single logit.
        probe_features: `(M, D)` features to use as probes where synthetic ones would not work.

    Returns:
        The numbers of the head.

    Raises:
        InputError: The module has none of these forms.

    Example:
        >>> from torch import nn
        >>> import diversify as dv
        >>> head = dv.read_head(nn.Linear(16, 4))
        >>> head.num_features, head.num_classes, head.cosine
        (16, 4, False)
        >>> binary = dv.read_head(nn.Linear(16, 1, bias=False))
        >>> binary.num_classes, binary.single_logit, binary.has_bias
        (2, True, False)
    """
    if isinstance(module, LinearHead):
        return module if len(module.weight) > 1 else replace(module, single_logit=True)
    refusal = must("head", LINEAR, type(module).__name__, "name another layer with head=NAME")
    module = unwrap(module)
    tensors = _parameters_of_head(module)
    weights = [tensor for tensor in tensors if tensor.ndim == 2 and tensor.is_floating_point() and tensor.numel()]
    if not weights or any(tensor.ndim > 2 for tensor in tensors):
        raise refusal
    tolerance = 2e-3 if weights[0].dtype in (torch.float32, torch.float64) else 3e-2
    call = functools.partial(_call_head, module, weights[0])
    for weight in (turned for either in weights for turned in (either, either.t())):
        probes = _probe_features(weight.shape[1]) if probe_features is None else probe_features[:16].float().cpu()
        if probes.shape[1] == weight.shape[1]:
            biases = [tensor for tensor in tensors if tensor.shape == weight.shape[:1]]
            head = _head_of_weight(call, probes, weight, biases, tolerance)
            if head is not None:
                head = replace(head, single_logit=len(head.weight) == 1)
                return replace(head, has_bias=_holds_bias(module, head))
    raise refusal


def _holds_bias(module: nn.Module, head: LinearHead) -> bool:
    """True if the module can hold a bias; also if it cannot hold any other numbers, which `write_head` says."""
    if head.cosine:
        return bool(head.bias.any())
    if head.bias.any():
        return True
    tensors = module.state_dict()
    for bias in (torch.arange(head.num_classes, dtype=torch.float32), head.bias):
        try:
            replace_head(tensors, "", head, replace(head, bias=bias))
            return bias is not head.bias
        except InputError:
            continue
    return True


_Call = Callable[[Tensor], Tensor | None]


def _head_of_weight(
    call: _Call, probes: Tensor, weight: Tensor, biases: Sequence[Tensor], tolerance: float
) -> LinearHead | None:
    """The linear, cosine or other affine head that gives the module's outputs on `probes`; None if there is none."""
    outputs = call(probes)
    if outputs is None or outputs.shape != (len(probes), len(weight)):
        return None
    close = functools.partial(torch.allclose, outputs, rtol=0.0, atol=tolerance * float(outputs.abs().max()))
    weight = weight.detach().cpu().float().contiguous().clone()
    zeros = torch.zeros(len(weight))
    linear = LinearHead(weight=weight, bias=biases[0].detach().cpu().float().clone() if biases else zeros)
    if close(linear.logits(probes)):
        return linear
    cosine = replace(linear, bias=zeros, cosine=True)
    unscaled = cosine.logits(probes).double()
    for bias in (zeros, *(each.detach().cpu().float() for each in biases)):
        scale = float(((outputs - bias).double() * unscaled).sum() / unscaled.square().sum())
        if scale > 0 and close((scale * unscaled + bias).float()):
            return replace(cosine, scale=scale, bias=bias / scale)
    affine = _read_affine(call, weight.shape[1])
    return affine if close(affine.logits(probes)) else None


def _parameters_of_head(module: nn.Module) -> list[Tensor]:
    """The module's tensors, with `weight` and `bias` first as the module computes them (weight normalisation)."""
    shown = [getattr(module, name, None) for name in ("weight", "bias")]
    tensors = [tensor for tensor in shown if isinstance(tensor, Tensor)]
    return tensors + [tensor for tensor in module.parameters() if not any(tensor is other for other in tensors)]


def _probe_features(num_features: int) -> Tensor:
    """Fixed features of both signs and of different lengths, `(8, D)`, so that only the right form fits."""
    generator = torch.Generator().manual_seed(0)
    rows = torch.randn(8, num_features, generator=generator)
    rows[4:] = rows[4:].abs()
    return rows * torch.tensor([0.5, 1.0, 2.0, 4.0] * 2).unsqueeze(1)


def _call_head(module: nn.Module, weight: Tensor, features: Tensor) -> Tensor | None:
    """The module's outputs as float32 on the CPU; None if the module does not accept such features."""
    device = weight.device.type
    try:
        with evaluating(module), torch.no_grad(), torch.autocast(device, enabled=False):
            outputs = module(features.to(weight.device, weight.dtype))
    except (RuntimeError, TypeError, ValueError, IndexError):
        return None
    return outputs.detach().float().cpu() if isinstance(outputs, Tensor) else None


def _read_affine(call: _Call, num_features: int) -> LinearHead:
    """The head whose outputs on 0 and on the unit vectors are those of the module; zeros if they are not finite."""
    outputs = call(torch.cat([torch.zeros(1, num_features), torch.eye(num_features)]))
    if outputs is None or not outputs.isfinite().all():
        return LinearHead(weight=torch.zeros(1, num_features), bias=torch.zeros(1))
    return LinearHead(weight=(outputs[1:] - outputs[0]).t().contiguous(), bias=outputs[0].clone())


def write_head(module: nn.Module, head: LinearHead) -> None:
    """Write other numbers into a head module, in place and in its own dtype, so that `read_head` returns `head` for it.

    `split_head(model).head` is the user's own module. Nothing else about the module changes; on an error, nothing
    changes at all.

    Args:
        module: The head module.
        head: The new numbers.

    Raises:
        InputError: The module cannot hold them; see `replace_head`.

    Example:
        >>> import torch
        >>> from torch import nn
        >>> import diversify as dv
        >>> layer = nn.Linear(2, 3)
        >>> dv.write_head(layer, dv.LinearHead(weight=torch.ones(3, 2), bias=torch.zeros(3)))
        >>> layer.weight.tolist()
        [[1.0, 1.0], [1.0, 1.0], [1.0, 1.0]]
    """
    module = unwrap(module)
    kept = {name: tensor.detach().clone() for name, tensor in module.state_dict().items()}
    device = next(iter(kept.values())).device
    module.load_state_dict(replace_head(kept, "", read_head(module), head))
    written = read_head(module)
    low = any(torch.finfo(tensor.dtype).bits < 32 for tensor in kept.values() if tensor.is_floating_point())
    compared = head.bias.cpu().abs() < 1e4  # a bias beyond that switches its class off
    rows = _probe_features(head.num_features)
    pair = [F.linear(rows, one.weight.cpu(), one.bias.cpu())[:, compared] for one in (written, head)]
    got, wanted = (logits - logits.mean(1, keepdim=True) for logits in pair)
    tolerance = (0.02 if low else 1e-3) * float(wanted.abs().max()) if compared.any() else 0.0
    if compared.any() and not torch.allclose(got, wanted, rtol=0, atol=tolerance):
        module.load_state_dict({name: tensor.to(device) for name, tensor in kept.items()})
        raise must("head", _SETTABLE, type(module).__name__)


def replace_head(tensors: Mapping[str, Tensor], name: str, old: LinearHead, new: LinearHead) -> dict[str, Tensor]:
    """Return a state dict with another head in it.

    Names, order, shapes and dtypes stay the same; other tensors are not copied. The tensors that hold the head are
    those under `name` (more or less of its path) that equal the old numbers: a weight as (C, D) or (D, C), or the
    length and direction of weight normalisation; and a bias.

    Args:
        tensors: The state dict of the model.
        name: The name of the head in the model; empty for the head's own state dict.
        old: The head that is in the state dict.
        new: The head to put there. If the old one has a single logit, the difference of the two rows is written.

    Returns:
        The new state dict.

    Raises:
        InputError: No tensors fit or several do; the shapes differ; one head is a cosine head, or of another scale, and
            the other is not; or there is no bias to hold the new one. A new bias that is the same number for all
            classes needs none.

    Example:
        >>> from torch import nn
        >>> layer = nn.Linear(2, 3)
        >>> new = LinearHead(weight=torch.ones(3, 2), bias=torch.zeros(3))
        >>> replace_head(layer.state_dict(), "", read_head(layer), new)["bias"].tolist()
        [0.0, 0.0, 0.0]
    """
    if new.weight.shape != old.weight.shape:
        raise must("head weight", f"have shape {tuple(old.weight.shape)}", tuple(new.weight.shape))
    # a scale is read by least squares, so it is not exact
    if new.cosine != old.cosine or abs(new.scale - old.scale) > 1e-3 * old.scale:
        kinds = [f"a cosine head of scale {one.scale:g}" if one.cosine else "a plain head" for one in (old, new)]
        raise must("head", f"be {kinds[0]}, as the module is", kinds[1])
    under = [key for key in tensors if _is_under(key, name)]
    old_weight, old_bias = (rows.detach().cpu() for rows in old.stored)
    new_weight, bias = (rows.detach().cpu() for rows in replace(new, single_logit=old.single_logit).stored)
    changed = _weights_replaced(tensors, under, old_weight, new_weight)
    if changed is None:
        raise must(f"head {name!r}" if name else "head", _SETTABLE, "another form")
    stem = next(iter(changed)).rpartition(".")[0].partition("parametrizations")[0].rstrip(".")
    biases = [key for key in under if tensors[key].shape == bias.shape and _same(tensors[key], old_bias)]
    biases = [key for key in biases if key.startswith(stem) and key not in changed]
    if len(biases) == 1 and (not old.cosine or bool(old_bias.any())):
        changed[biases[0]] = _as_stored(bias, tensors[biases[0]])
    elif bool((bias != (0.0 if old.single_logit else bias[0])).any()):
        advice = "retrain with bias=False" if not old.cosine else "use a fix without one"
        raise must("head", "have a bias to hold the new one", "none", advice)
    return {key: changed.get(key, tensor) for key, tensor in tensors.items()}


def _is_under(key: str, name: str) -> bool:
    """True if a tensor belongs to the module of this name, whatever wrappers and adapters add to either."""
    stem = [part for part in key.split(".")[:-1] if part not in WRAPPERS]
    if "parametrizations" in stem:
        stem = stem[: stem.index("parametrizations")]
    path = [part for part in name.split(".") if part and part not in WRAPPERS]
    shorter, longer = sorted((stem, path), key=len)
    return longer[len(longer) - len(shorter) :] == shorter


def _same(stored: Tensor, values: Tensor) -> bool:
    """True if a stored tensor equals `values` up to rounding."""
    values = values.detach().cpu()
    stored = stored.detach().cpu().float()
    return torch.allclose(stored, values, rtol=1e-5, atol=1e-6 * float(values.abs().max()))


def _as_stored(values: Tensor, stored: Tensor) -> Tensor:
    """`values` in the dtype, range and device of the tensor whose place they take."""
    if torch.finfo(stored.dtype).max < torch.finfo(values.dtype).max:
        most = torch.finfo(stored.dtype).max
        values = values.clamp(-most, most)
    return values.to(stored).contiguous()


def _weights_replaced(
    tensors: Mapping[str, Tensor], under: Sequence[str], old: Tensor, new: Tensor
) -> dict[str, Tensor] | None:
    """The new values of the tensors that make up the weight; None if it is unclear which tensors these are."""
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
