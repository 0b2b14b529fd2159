"""Build networks by name, and read their weights from a file.

The CIFAR ResNets are those of He et al. 2016, section 4.2 (widths 16, 32, 64, option-A shortcuts without parameters),
with the parameter names of the field's public checkpoints.
"""

from __future__ import annotations

import difflib
import importlib
import warnings
from collections import OrderedDict
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import cast

import torch
from torch import Tensor, nn
from torch.nn import functional

from ..errors import InputError, must, unknown
from ..files import checkpoints
from ..runtime.user_code import accepts, call_object, import_object
from .cosine_head import with_cosine_head
from .hugging_face import NOTE, translated
from .matching import Match, match_weights
from .split import require_usable


class BasicBlock(nn.Module):
    """Two 3 x 3 convolutions and a shortcut that takes every other pixel and fills new channels with 0 (option A)."""

    def __init__(self, inputs: int, outputs: int, stride: int) -> None:
        super().__init__()
        self.conv1 = nn.Conv2d(inputs, outputs, 3, stride, 1, bias=False)
        self.bn1 = nn.BatchNorm2d(outputs)
        self.conv2 = nn.Conv2d(outputs, outputs, 3, 1, 1, bias=False)
        self.bn2 = nn.BatchNorm2d(outputs)
        self.stride, self.padding = stride, (outputs - inputs) // 2

    def forward(self, images: Tensor) -> Tensor:
        """Return `(N, outputs, H / stride, W / stride)` for `(N, inputs, H, W)`."""
        hidden = functional.relu(self.bn1(self.conv1(images)))
        hidden = self.bn2(self.conv2(hidden))
        if self.stride != 1 or self.padding:
            images = images[:, :, :: self.stride, :: self.stride]
            images = functional.pad(images, (0, 0, 0, 0, self.padding, self.padding))
        return functional.relu(hidden + images)


class CifarResNet(nn.Module):
    """ResNet-(6n + 2) for 32 x 32 images; its linear head `linear` gets 64 non-negative features."""

    def __init__(self, blocks: int, num_classes: int, channels: int = 3) -> None:
        super().__init__()
        self.conv1 = nn.Conv2d(channels, 16, 3, 1, 1, bias=False)
        self.bn1 = nn.BatchNorm2d(16)
        self.layer1 = self._stage(blocks, 16, 16, 1)
        self.layer2 = self._stage(blocks, 16, 32, 2)
        self.layer3 = self._stage(blocks, 32, 64, 2)
        self.linear = nn.Linear(64, num_classes)
        for module in self.modules():
            if isinstance(module, nn.Conv2d | nn.Linear):
                nn.init.kaiming_normal_(module.weight)

    @staticmethod
    def _stage(blocks: int, inputs: int, outputs: int, stride: int) -> nn.Sequential:
        first = BasicBlock(inputs, outputs, stride)
        return nn.Sequential(first, *(BasicBlock(outputs, outputs, 1) for _ in range(blocks - 1)))

    def forward(self, images: Tensor) -> Tensor:
        """Return logits `(N, C)` for images `(N, channels, H, W)`."""
        hidden = functional.relu(self.bn1(self.conv1(images)))
        hidden = self.layer3(self.layer2(self.layer1(hidden)))
        return cast(Tensor, self.linear(hidden.mean((2, 3))))


class SmallCNN(nn.Module):
    """Four convolutions for small images (8 x 8 and larger); the linear head `linear` gets 64 non-negative features."""

    def __init__(self, num_classes: int, channels: int = 1) -> None:
        super().__init__()

        def convolution(inputs: int, outputs: int) -> list[nn.Module]:
            return [nn.Conv2d(inputs, outputs, 3, padding=1, bias=False), nn.BatchNorm2d(outputs), nn.ReLU()]

        self.features = nn.Sequential(
            *convolution(channels, 32),
            *convolution(32, 32),
            nn.MaxPool2d(2),
            *convolution(32, 64),
            nn.MaxPool2d(2),
            *convolution(64, 64),
            nn.AdaptiveAvgPool2d(1),
            nn.Flatten(),
        )
        self.linear = nn.Linear(64, num_classes)

    def forward(self, images: Tensor) -> Tensor:
        """Return logits `(N, C)` for images `(N, channels, H, W)`."""
        return cast(Tensor, self.linear(self.features(images)))


MODELS: dict[str, Callable[[int, int], nn.Module]] = {
    "small_cnn": lambda num_classes, channels: SmallCNN(num_classes, channels),
    "resnet20": lambda num_classes, channels: CifarResNet(3, num_classes, channels),
    "resnet32": lambda num_classes, channels: CifarResNet(5, num_classes, channels),
    "resnet56": lambda num_classes, channels: CifarResNet(9, num_classes, channels),
}
COSINE = "+cosine"  # behind any of them
MODEL_CHOICES = (*MODELS, "torchvision:NAME", "timm:NAME", "package.module:function")


def build_model(spec: str, num_classes: int, *, channels: int = 3, seed: int = 0) -> nn.Module:
    """Return a network with new random weights.

    The weights are the same for the same seed, and the global random state stays as it was.

    Args:
        spec: One of `MODEL_CHOICES`: a network of this library, `torchvision:NAME`, `timm:NAME`, or
            `package.module:function`. A function of your own is called with `num_classes=` if it accepts that. `+cosine`
            behind it, as in `resnet20+cosine`, puts a cosine head in place of the linear one (`with_cosine_head`).
        num_classes: C.
        channels: Channels of the images, for networks of this library.
        seed: Seed of the weights.

    Raises:
        InputError: The name is unknown, or what it names cannot be imported, fails, or is not a network.

    Example:
        >>> import diversify as dv
        >>> model = dv.build_model("resnet20", num_classes=10)
        >>> sum(parameter.numel() for parameter in model.parameters())
        269722
    """
    with torch.random.fork_rng(devices=[]):
        torch.default_generator.manual_seed(seed)  # torch.manual_seed would seed the accelerators as well
        return _build(spec, num_classes, channels, seed)


def _build(spec: str, num_classes: int, channels: int, seed: int) -> nn.Module:
    if spec.endswith(COSINE):
        return _with_cosine_head(spec, num_classes, channels, seed)
    if spec in MODELS:
        return MODELS[spec](num_classes, channels)
    family, _, name = spec.partition(":")
    if not name:
        from torchvision import models

        if spec in models.list_models(module=models):
            law = f"be one of {', '.join(MODEL_CHOICES)}"
            raise must("model", law, repr(spec), f"write torchvision:{spec}")
        raise unknown("model", spec, MODEL_CHOICES)
    if family == "torchvision":
        return _torchvision_model(name, num_classes)
    if family == "timm":
        return _timm_model(name, num_classes)
    return _users_model(spec, num_classes)


def _with_cosine_head(spec: str, num_classes: int, channels: int, seed: int) -> nn.Module:
    plain = spec.removesuffix(COSINE)
    if not plain or plain.endswith(COSINE):
        raise must("model", f"name a network before one {COSINE}", repr(spec))
    model = _build(plain, num_classes, channels, seed)
    try:
        return with_cosine_head(model, seed=seed)
    except InputError as error:
        _, law, got, _ = error.parts or ("", "be nn.Linear", str(error), "")
        raise must(f"head of {plain}", law, got, f"leave {COSINE} out") from None


def _torchvision_model(name: str, num_classes: int) -> nn.Module:
    from torchvision import models

    names = models.list_models(module=models)
    if name not in names:
        raise must("torchvision model", "be one that torchvision has", repr(name), _nearest(name, names))
    extra = {"init_weights": True} if name in ("googlenet", "inception_v3") else {}
    return cast(nn.Module, models.get_model(name, weights=None, num_classes=num_classes, **extra))


def _timm_model(name: str, num_classes: int) -> nn.Module:
    try:
        timm = importlib.import_module("timm")
    except ImportError as error:
        raise must("timm", "be installed for model=timm:NAME", "no such package", "pip install timm") from error
    plain, _, tag = name.partition(".")
    if not timm.is_model(name) or "/" in name:
        raise must("timm model", "be one that timm has", repr(name), _nearest(plain, timm.list_models()))
    tags = [each.partition(".")[2] for each in timm.list_pretrained(f"{plain}.*")] if tag else []
    if tags and tag not in tags:
        raise unknown(f"tag of timm's {plain}", tag, tags)
    return cast(nn.Module, timm.create_model(name, pretrained=False, num_classes=num_classes))


def _users_model(spec: str, num_classes: int) -> nn.Module:
    make = import_object(spec, "model")
    law = "return a torch.nn.Module"
    model = call_object(spec, make, law, **({"num_classes": num_classes} if accepts(make, "num_classes") else {}))
    if not isinstance(model, nn.Module):
        raise must(f"{spec}()", law, type(model).__name__)
    require_usable(model)
    return model


def _nearest(name: str, names: Sequence[str]) -> str:
    """The advice that suggests the most similar name; empty where none is similar."""
    near = difflib.get_close_matches(name, names, n=1)
    return f"did you mean {near[0]!r}?" if near else ""


def load_weights(model: nn.Module, path: Path | str, *, weights_key: str | None = None) -> None:
    """Read a checkpoint into a model, in place; every name and shape of the model has to match.

    The file may be a state dict or hold one: checkpoints of PyTorch Lightning, of `AveragedModel`, of `save_pretrained` of
    Hugging Face transformers, and of the training scripts of timm and torchvision are read as they are. Names match once a
    prefix is left out of those in the file (`model.`, `module.`, any other that all share), or of those of the model, if it
    is an adapter around a network. What is left out or not used, such as the weights of a loss, is said in a warning.

    Args:
        model: The network.
        path: A checkpoint: safetensors, or a file of `torch.save` that holds tensors only; the index of its shards, such as
            `model.safetensors.index.json`; or the folder that holds either.
        weights_key: Which weights to take if the file holds several: their key in the file, such as `state_dict_ema`, or
            what their names begin with, such as `ema_model`. None takes the raw weights rather than those that are
            averaged over training (EMA).

    Raises:
        InputError: The file is not a checkpoint, or does not fit. The error names the first keys that differ and, if
            that can be found out, what the checkpoint fits: another number of classes, or another network of this
            library. Or it holds several networks that fit.

    Example:
        >>> import tempfile
        >>> import torch
        >>> import diversify as dv
        >>> model, other = (dv.build_model("small_cnn", num_classes=3, seed=seed) for seed in (0, 1))
        >>> with tempfile.TemporaryDirectory() as folder:
        ...     torch.save(model.state_dict(), f"{folder}/weights.pt")
        ...     dv.load_weights(other, f"{folder}/weights.pt")
        >>> torch.equal(other.linear.weight, model.linear.weight)
        True
    """
    for note in read_weights(model, path, weights_key=weights_key)[1]:
        warnings.warn(f"weights {path}: {note}", stacklevel=2)


def read_weights(model: nn.Module, path: Path | str, *, weights_key: str | None = None) -> tuple[Match, list[str]]:
    """Read a checkpoint into a model as `load_weights` does, and return what was read.

    Args:
        model: The network.
        path: The checkpoint.
        weights_key: Which weights to take if the file holds several.

    Returns:
        How the file matched, and notes on what was chosen, left out or not used.

    Raises:
        InputError: As for `load_weights`.

    Example:
        >>> import tempfile
        >>> import torch
        >>> layer = nn.Linear(2, 2)
        >>> with tempfile.TemporaryDirectory() as folder:
        ...     torch.save({"state_dict": {"net.weight": torch.ones(2, 2), "net.bias": torch.zeros(2)}}, f"{folder}/a.ckpt")
        ...     read_weights(layer, f"{folder}/a.ckpt")[1]
        ["the names in the checkpoint begin with 'net.', which is left out"]
    """
    found = checkpoints.read_state_dicts(Path(path))
    if weights_key is not None:
        found = checkpoints.chosen(found, weights_key, Path(path))
    want = model.state_dict()
    try:
        match, notes = match_weights(found, want, Path(path), suggest=_other_network)
    except InputError:
        saved = translated(model, found, Path(path))
        if saved is None:
            raise
        match = Match(key=saved.key, prefix="", added="", tensors=saved.tensors, beside=())
        notes = [NOTE]
    state = OrderedDict(match.tensors)
    state._metadata = getattr(want, "_metadata", {})  # type: ignore[attr-defined] # MNASNet reads its version there
    model.load_state_dict(state, strict=state.keys() == want.keys())
    return match, notes


def _other_network(tensors: dict[str, Tensor]) -> str:
    fits = _fitting(tensors)
    return f"they fit model={fits}" if fits else ""


def _fitting(tensors: dict[str, Tensor]) -> str | None:
    """The network of this library that has these names and shapes, for any number of classes; None if there is none."""
    shapes = {key: tuple(value.shape) for key, value in tensors.items() if not key.endswith("num_batches_tracked")}
    first = next((value for value in tensors.values() if value.ndim == 4), None)
    head = shapes.get("linear.weight")
    if first is None or head is None:
        return None
    for name, make in MODELS.items():
        with torch.device("meta"):
            candidate = make(head[0], first.shape[1]).state_dict()
        names = {k: tuple(v.shape) for k, v in candidate.items() if not k.endswith("num_batches_tracked")}
        cosine = {k: shape for k, shape in names.items() if k != "linear.bias"} | {"linear.scale": ()}
        if shapes in (names, cosine):
            name += COSINE if shapes == cosine else ""
            return f"{name} with {head[0]} classes and {first.shape[1]} input channel{'s' * (first.shape[1] > 1)}"
    return None


def parameter_count(model: nn.Module) -> int:
    """Return the number of trainable and frozen parameters, without buffers."""
    return sum(parameter.numel() for parameter in model.parameters())
