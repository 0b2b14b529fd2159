"""Split a trained model at its linear head; backbone and head share the model's parameters, and nothing else changes."""

from __future__ import annotations

import contextlib
import inspect
from collections.abc import Mapping, Sequence
from types import MethodType
from typing import Any, Self

import torch
from torch import Tensor, nn
from torch.nn.parameter import is_lazy

from ..errors import InputError, must
from .batches import IMAGE_KEYS
from .find_head import find_head, layers_of, named_head
from .linear_head import read_head
from .output_check import as_two_classes, describe_output, is_among, is_softmax, tensors_in, widths_of
from .wrappers import WithCopies, evaluating, not_python, unwrap, wrapped

_FOR_EXAMPLE = "for example one that model=package.module:function builds"
ADAPTER = f"wrap it in a module that does, {_FOR_EXAMPLE}"
_NOT_ONE_LAYER = (
    "the model's output is not the output of one linear layer (it is changed afterwards, or joined from several); wrap"
    f" the model in a module that returns the output of one layer, {_FOR_EXAMPLE}"
)


class _Recorder(nn.Module):
    """Stands in for the head: calls it and keeps its input and output until they are read.

    With `copies`, it also keeps a copy of the output, because the model may change the output in place afterwards.
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
        """Give the head's attributes too: a model may ask its head for `in_features`."""
        try:
            return super().__getattr__(name)
        except AttributeError:
            if name == "head":
                raise
            return getattr(self.head, name)


class SplitModel(WithCopies):
    """A model that returns `(features, logits)`: the input of its head `(N, D)` and the output of its head `(N, C)`.

    Made by `split_head`. Parameters and buffers are the user's own. The modules from the root to the head are shallow
    copies, so that the user's module tree keeps its head and its hooks; the copies follow the modes of the modules that
    they stand for.

    The model's output has to be the head's output or be determined by it: the logits times one positive number plus a
    number per row (temperature, log-softmax), their exponentials up to a factor per row (softmax), or their sigmoid.
    A head with one output z, that of a binary classifier, gives the logits (0, z); the model then returns z times one
    positive number or its sigmoid, as `(N, 1)` or `(N,)`, or both classes, `(N, 2)`. Anything that is added per class
    after the head (logit adjustment) or joined with another head is refused, because a diagnosis would describe another
    classifier. The first forward raises the error. Later forwards only record a disagreement, because reading it would
    make an accelerator wait; `finish_check` raises the error then.

    Example:
        >>> import torch
        >>> import diversify as dv
        >>> split = dv.split_head(dv.build_model("small_cnn", num_classes=4))
        >>> features, logits = split(torch.rand(2, 3, 8, 8))
        >>> split.head_name, features.shape, logits.shape
        ('linear', torch.Size([2, 64]), torch.Size([2, 4]))
    """

    def __init__(self, model: nn.Module, head_name: str, *, is_named: bool) -> None:
        super().__init__()
        recorder = _Recorder(unwrap(model.get_submodule(head_name)))
        self.head_name = head_name
        self.copies: dict[nn.Module, nn.Module] = {}
        self.body = _graft(model, recorder, self.copies)
        self._unregistered = (model, recorder)
        self._is_named = is_named
        self._image_key = image_parameter(model)
        self._is_checked = False
        self._agrees: Tensor | None = None
        self._several = False

    @property
    def head(self) -> nn.Module:
        """The user's own head module."""
        return self._unregistered[1].head

    @property
    def device(self) -> torch.device:
        """The device of the model's first parameter."""
        return next(self.parameters()).device

    @property
    def dtype(self) -> torch.dtype:
        """The dtype that images must have: that of the first weight."""
        weights = (tensor.dtype for tensor in self.parameters() if tensor.is_floating_point() and tensor.ndim > 1)
        return next(weights, torch.float32)

    def tensors(self) -> dict[str, Tensor]:
        """Return the state dict of the user's model, with the model's own names."""
        state = self._unregistered[0].state_dict()
        return {name: tensor for name, tensor in state.items() if isinstance(tensor, Tensor)}

    def train(self, mode: bool = True) -> Self:
        """Set the user's model to training mode, or to eval mode."""
        self._unregistered[0].train(mode)
        self.training = mode
        return self

    def forward(self, images: Tensor) -> tuple[Tensor, Tensor]:
        """Return features `(N, D)` and logits `(N, C)`, in the precision of the head's input and output.

        The output z of a head with one output becomes `(0, z)`.

        Args:
            images: `(N, ...)`, as the model takes them.

        Raises:
            InputError: The head is not called exactly once, or its logits do not determine the model's output.
        """
        features, logits, kept, output = self._run(images)
        if not self._is_checked:
            self._check_first(images, kept, output)
        elif not any(part is logits for part in tensors_in(output)):
            agrees = is_among(logits, output)
            if agrees is not None:
                self._agrees = agrees if self._agrees is None else self._agrees.to(agrees.device) & agrees
        return features, as_two_classes(logits)

    def expect(self, *, several: bool) -> None:
        """Say whether an image may have several labels; the next forward then refuses a model that returns a softmax."""
        self._several = several
        self._is_checked = self._is_checked and not several

    def finish_check(self) -> None:
        """Raise an InputError if the head's logits did not determine the output of a forward since the last call."""
        agrees, self._agrees = self._agrees, None
        if agrees is not None and not bool(agrees):
            raise self._refusal([])

    def _run(self, images: Tensor) -> tuple[Tensor, Tensor, Tensor, object]:
        """Features, logits, the logits before anything could change them, and the model's output."""
        recorder = self._unregistered[1]
        recorder.calls = []
        recorder.copies = not self._is_checked
        for module, twin in self.copies.items():
            twin.training = module.training
        try:
            output = self.body(images) if self._image_key is None else self.body(**{self._image_key: images})
            calls = recorder.calls
        finally:
            recorder.calls = []
        if len(calls) != 1:
            law = "be called once in the model's forward"
            advice = "pass the unwrapped model, or name the module that returns the logits with head=NAME"
            raise must(f"head {self.head_name!r}", law, f"{len(calls)} calls", advice)
        features, logits, kept = calls[0]
        if not isinstance(features, Tensor) or features.ndim != 2:
            shape = tuple(features.shape) if isinstance(features, Tensor) else type(features).__name__
            raise must("features", "have shape (N, D) where they enter the head", shape)
        return features, logits, kept, output

    def _check_first(self, images: Tensor, logits: Tensor, output: object) -> None:
        """Raise an InputError unless the logits determine the output; a named head may be part of a larger output."""
        agrees = is_among(logits, output)
        if agrees is None and not self._is_named and not (isinstance(output, Tensor) and output.is_floating_point()):
            advice = f"name its head with head=NAME, or {ADAPTER}"
            raise must("model", "return the logits of its head", describe_output(output), advice)
        if not (self._is_named if agrees is None else bool(agrees)):
            raise self._refusal(self._others_that_agree(images, output))
        if self._several and is_softmax(logits, output):
            advice = "a softmax gives one label per image: use dv.diagnose_model"
            raise must("model", "return logits or their sigmoid, for several labels per image", "their softmax", advice)
        self._is_checked = True

    def _others_that_agree(self, images: Tensor, output: object) -> list[str]:
        """The linear layers that give the model's output, each tried in a forward of its own."""
        widths = widths_of(output, len(images))
        model = self._unregistered[0]
        found = []
        for layer in layers_of(model):
            if layer.name != self.head_name and layer.outputs & widths:
                with contextlib.suppress(InputError), evaluating(model), torch.no_grad():
                    other = split_head(model, layer.name)
                    _, _, logits, output = other._run(images)
                    agrees = is_among(logits, output)
                    if agrees is not None and bool(agrees):
                        found.append(layer.name)
        return found

    def _refusal(self, others: Sequence[str]) -> InputError:
        advice = f"name one that does with head=NAME: {', '.join(others)}" if others else _NOT_ONE_LAYER
        return must("head", "give the model's output", f"{self.head_name!r}, which does not", advice)

    def features(self, images: Tensor) -> Tensor:
        """Return the features `(N, D)` alone.

        Args:
            images: `(N, ...)`, as the model takes them.
        """
        features, _ = self(images)
        return features  # type: ignore[no-any-return]


def _graft(module: nn.Module, recorder: _Recorder, copies: dict[nn.Module, nn.Module]) -> nn.Module:
    """A shallow copy of `module` with the recorder in place of the head and without wrappers.

    It is `module` itself if that contains neither the head nor a wrapper.
    """
    module = unwrap(module)
    if module is recorder.head:
        return recorder
    if module in copies:
        return copies[module]
    children = {
        name: None if child is None else _graft(child, recorder, copies) for name, child in module._modules.items()
    }
    compiled = getattr(module, "_compiled_call_impl", None) is not None  # set by model.compile()
    if not compiled and all(child is module._modules[name] for name, child in children.items()):
        return module
    if isinstance(module, torch.jit.ScriptModule):
        raise not_python("a TorchScript module")
    twin = object.__new__(type(module))
    twin.__dict__.update(module.__dict__)
    for name, value in module.__dict__.items():
        if isinstance(value, MethodType) and value.__self__ is module:
            twin.__dict__[name] = MethodType(value.__func__, twin)
    twin.__dict__["_modules"] = children
    twin.__dict__["_compiled_call_impl"] = None  # it would run the original
    copies[module] = twin
    return twin


def split_head(model: nn.Module, head: str | None = None) -> SplitModel:
    """Split a model into backbone and head, over the user's own parameters; nothing about `model` changes.

    The head is found from the structure: a linear layer whose outputs no later layer takes as inputs, last in its own
    branch. Branches named `aux...` (GoogLeNet, Inception) are auxiliary by convention and left out. A layer with one
    output, the head of a binary classifier, is taken only where no wider layer fits. The first forward then checks that
    the head is called once and determines the model's output, whether it was named or not.

    Args:
        model: Any classifier that takes images and returns logits, alone or in a tuple, dict or other object.
            `DataParallel`, `DistributedDataParallel` and `torch.compile` are unwrapped, also around parts of the model.
        head: The name of the head in `model.named_modules()`, if the structure leaves a choice. If the model returns
            nothing of the shape of its logits, the name is trusted.

    Returns:
        The split model.

    Raises:
        InputError: There is no linear head, there are several, or no layer has that name; or the model is TorchScript,
            exported, quantized, not initialised yet (lazy), or takes more than images.

    Example:
        >>> import diversify as dv
        >>> split = dv.split_head(dv.build_model("resnet20", num_classes=10))
        >>> split.head_name, split.head
        ('linear', Linear(in_features=64, out_features=10, bias=True))
    """
    require_usable(model)
    model = unwrap(model)
    name = find_head(model) if head is None else named_head(model, head)
    while (inner := wrapped(model.get_submodule(name))) is not None:
        name = f"{name}.{inner}"
    if type(model.get_submodule(name)) is nn.Module:  # a bare container of weights, as in graphs of torch.export
        raise not_python("an exported graph")
    read_head(model.get_submodule(name))
    return SplitModel(model, name, is_named=head is not None)


def require_usable(model: object) -> None:
    """Raise an InputError unless the model is a Python network with floating-point weights that takes images alone."""
    if not isinstance(model, nn.Module):
        advice = "load it into a network first" if isinstance(model, Mapping) else ""
        raise must("model", "be a torch.nn.Module", f"a {type(model).__name__}", advice)
    if isinstance(unwrap(model), torch.jit.ScriptModule):
        raise not_python("a TorchScript module")
    for name, module in model.named_modules():
        layer = f"{type(module).__name__} {name!r}"
        own = list(module.parameters(recurse=False))
        if any(is_lazy(tensor) for tensor in [*own, *module.buffers(recurse=False)]):
            raise must(
                "model", "have initialised weights", f"the lazy {layer}", "run a batch of images through it first"
            )
        home = type(module).__module__.split(".")
        integers = any(not tensor.is_floating_point() and not tensor.is_complex() for tensor in own)
        if integers or (home[0] == "torch" and "quantized" in home):
            raise must("model", "have weights in floating point", f"the quantized {layer}", "pass it unquantized")
    image_parameter(unwrap(model))


def image_parameter(model: nn.Module) -> str | None:
    """Return the keyword by which a model takes its images; None if they are its first positional argument.

    A keyword is used if `pixel_values` is not the first parameter of the forward, or if the forward takes no positional
    argument and a parameter has a usual name.

    Raises:
        InputError: The forward cannot be called with images alone.
    """
    try:
        signature = inspect.signature(model.forward)
    except (TypeError, ValueError):
        return None
    names = list(signature.parameters)
    first = IMAGE_KEYS[:1] if IMAGE_KEYS[0] in names[1:] else ()
    keys: list[str | None] = [*first, None, *(name for name in IMAGE_KEYS if name in names)]
    for key in keys:
        with contextlib.suppress(TypeError):
            if key is None:
                signature.bind(None)
            else:
                signature.bind(**{key: None})
            return key
    shown = [each.replace(annotation=each.empty) for each in signature.parameters.values()]
    forward = signature.replace(parameters=shown, return_annotation=signature.empty)
    raise must("model", "take images as its one argument", f"forward{forward}", ADAPTER)
