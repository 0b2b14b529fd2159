"""The preprocessing that published weights of torchvision and timm were evaluated with.

Weights of torchvision are recognised by content: the name of a published file ends in the first digits of its sha256. For
timm, the name of the model, `timm:NAME.TAG`, says which weights are used. Nothing is downloaded or guessed.
"""

from __future__ import annotations

import importlib
import math
import re
from collections.abc import Mapping
from typing import Any

from torch import Tensor

from .view import View

# With published weights, torchvision builds these so that the first layer maps ImageNet's mean and standard deviation to 0.5
# and 0.5 (`transform_input`). `build_model` does not, so the preprocessing has to use 0.5 and 0.5.
_TRANSFORM_INPUT = ("googlenet", "inception_v3")

_DIGITS = re.compile(r"-([0-9a-f]{8,64})\.\w+$")


def published_view(model: str, sha256: str, num_classes: int | None = None) -> tuple[View, str] | None:
    """Return the evaluation preprocessing of published weights and its source, or None if it is unknown or uncertain.

    `timm:NAME` without a tag means the weights whose file has this digest, or else timm's default weights if they have as many
    classes. Preprocessing that a `View` cannot express gives None: a crop other than the centre, images that are not square,
    or an interpolation other than bilinear and bicubic.

    Args:
        model: `torchvision:NAME`, `timm:NAME` or `timm:NAME.TAG`; other models give None.
        sha256: The sha256 of the file of weights, in hex.
        num_classes: Number of outputs of the weights in that file.
    """
    family, _, name = model.partition(":")
    if family == "torchvision":
        return _of_torchvision(name, sha256)
    return _of_timm(name, sha256, num_classes) if family == "timm" else None


def count_outputs(model: str, tensors: Mapping[str, Tensor]) -> int | None:
    """Return the number of outputs of a timm model's weights, by timm's name of its head; None if that is unknown."""
    family, _, name = model.partition(":")
    config = _timm_config(name) if family == "timm" else None
    if config is None:
        return None
    named = config["classifier"]
    heads = [named] if isinstance(named, str) else list(named or ())
    sizes = {len(tensors[key]) if (key := f"{head}.weight") in tensors else None for head in heads}
    return sizes.pop() if len(sizes) == 1 else None


def _of_torchvision(name: str, sha256: str) -> tuple[View, str] | None:
    from torchvision import models

    if name not in models.list_models(module=models):
        return None
    for weights in models.get_model_weights(name):
        if _is_file(weights.url, sha256):
            preset = weights.transforms()
            mean, std = ((0.5,) * 3, (0.5,) * 3) if name in _TRANSFORM_INPUT else (preset.mean, preset.std)
            view = _view(mean, std, preset.resize_size, preset.crop_size, preset.interpolation.value)
            return None if view is None else (view, f"torchvision's {weights}")
    return None


def _of_timm(name: str, sha256: str, num_classes: int | None) -> tuple[View, str] | None:
    timm = _timm()
    plain, _, tag = name.partition(".")
    config = _timm_config(name)
    if timm is None or config is None:
        return None
    if not tag:
        tagged = {each: _timm_config(each) or {} for each in timm.list_pretrained(f"{plain}.*")}
        same = [each for each, one in tagged.items() if _is_file(one.get("url") or "", sha256)]
        if same:
            name, config = same[0], tagged[same[0]]
        elif num_classes is None or num_classes != config["num_classes"]:
            return None
        else:
            name = f"{plain}.{config['tag']}" if config.get("tag") else plain
    options = timm.data.resolve_data_config(pretrained_cfg=config)
    if options["crop_mode"] != "center":
        return None
    size = options["input_size"][1:]
    resize = [math.floor(side / options["crop_pct"]) for side in size]
    view = _view(options["mean"], options["std"], resize, size, options["interpolation"])
    return None if view is None else (view, f"timm's {name}")


def _timm() -> Any:
    try:
        importlib.import_module("timm.data")
        return importlib.import_module("timm")
    except ImportError:
        return None


def _timm_config(name: str) -> dict[str, Any] | None:
    """timm's configuration of the weights of this name; None if it has none."""
    timm = _timm()
    if timm is None or not timm.is_model(name) or "/" in name:
        return None
    plain, _, tag = name.partition(".")
    if tag and name not in timm.list_pretrained(f"{plain}.*"):
        return None
    config = timm.models.get_pretrained_cfg(name)
    return None if config is None else dict(config.to_dict())


def _is_file(url: str, sha256: str) -> bool:
    found = _DIGITS.search(url)
    return found is not None and sha256.startswith(found[1])


def _view(mean: Any, std: Any, resize: Any, crop: Any, interpolation: str) -> View | None:
    if len({*resize}) != 1 or len({*crop}) != 1 or interpolation not in ("bilinear", "bicubic"):
        return None
    return View(
        mean=tuple(map(float, mean)),
        std=tuple(map(float, std)),
        resize=int(resize[0]),
        crop=int(crop[0]),
        interpolation=interpolation,
    )
