"""Small pictures of a data set's images, as addresses that an HTML page can hold."""

from __future__ import annotations

import base64
import io
from pathlib import Path
from typing import Any

import torch
from PIL import Image
from torch import Tensor

from ..data.decode import as_image
from ..data.images import ImageFiles, Images, Own, Relabelled
from ..data.sources import on_one_line
from ..diagnosis.exhibits import ClassExamples, Example, Exhibits
from ..network.extraction import unchanged_randomness

SIDE = 96  # pixels of the longer side, at most
_LOSSLESS = 48  # up to so many pixels a picture is kept as it is


def take_pictures(exhibits: Exhibits, train: Images, heldout: Images) -> Exhibits:
    """The exhibits with a picture of every example, and its file's name where it has one.

    `train` and `heldout` are map-style data sets in which `Example.index` is an index. Images in [0, 255] or [0, 1] are shown
    as they are; others (already normalised) are stretched to the range of each. The state of chance is left as it was.
    """

    def seen(example: Example, dataset: Images) -> Example:
        picture = thumbnail(as_image(dataset[example.index][0]))
        return example.model_copy(update={"picture": picture, "name": file_name(dataset, example.index)})

    def whole(one: ClassExamples) -> ClassExamples:
        kinds = {"typical": train, "border": train, "outlier": train, "errors": heldout}
        found = {kind: tuple(seen(each, dataset) for each in getattr(one, kind)) for kind, dataset in kinds.items()}
        return one.model_copy(update=found)

    with unchanged_randomness(torch.device("cpu"), None):
        return exhibits.model_copy(update={"examples": tuple(whole(one) for one in exhibits.examples)})


def file_name(dataset: Any, index: int) -> str:
    """The path of an image file, as far as its data set says it: through `Subset`, at `paths`, `samples` or `imgs`.

    Relative to the tree for files that we read ourselves; on one line, and without what cannot be written as UTF-8.
    """
    while isinstance(dataset, Relabelled | Own) or (hasattr(dataset, "indices") and hasattr(dataset, "dataset")):
        index = index if isinstance(dataset, Relabelled | Own) else int(dataset.indices[index])
        dataset = dataset.dataset
    if isinstance(dataset, ImageFiles):
        return on_one_line(dataset.name(index))
    for attribute in ("paths", "samples", "imgs"):
        listed = getattr(dataset, attribute, None)
        if isinstance(listed, list | tuple) and index < len(listed):
            entry = listed[index]
            path = entry[0] if isinstance(entry, list | tuple) and entry else entry
            return on_one_line(str(path)) if isinstance(path, str | Path) else ""
    return ""


def thumbnail(image: Tensor) -> str:
    """A `data:` address for an image `(C, H, W)`: PNG as it is where it is small, else a JPEG of `SIDE` pixels at most."""
    pixels = _as_bytes(image.detach().cpu())
    pixels = pixels[:3] if len(pixels) >= 3 else pixels[:1]
    array = pixels.permute(1, 2, 0).contiguous().numpy()
    picture = Image.fromarray(array if array.shape[2] == 3 else array[..., 0])
    buffer = io.BytesIO()
    if max(picture.size) <= _LOSSLESS:
        picture.save(buffer, "PNG", optimize=True)
        return f"data:image/png;base64,{base64.b64encode(buffer.getvalue()).decode()}"
    picture.thumbnail((SIDE, SIDE), Image.Resampling.LANCZOS)
    picture.save(buffer, "JPEG", quality=85, optimize=True)
    return f"data:image/jpeg;base64,{base64.b64encode(buffer.getvalue()).decode()}"


def _as_bytes(image: Tensor) -> Tensor:
    if image.dtype == torch.uint8:
        return image
    values = image.double().nan_to_num()
    low, high = float(values.min()), float(values.max())
    if not image.is_floating_point() and low >= 0 and high <= 255:
        return image.to(torch.uint8)
    if low < 0 or high > 1:
        values = (values - low) / max(high - low, 1e-12)
    return (values * 255).round().to(torch.uint8)
