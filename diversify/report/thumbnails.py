"""Small pictures of a data set's images, as `data:` addresses for an HTML page."""

from __future__ import annotations

import base64
import io
from pathlib import Path
from typing import Any, TypeVar

import torch
from PIL import Image
from torch import Tensor

from ..data.decode import as_image
from ..data.images import ImageFiles, Images, Own, Relabelled
from ..data.sources import on_one_line
from ..diagnosis.exhibits import ClassExamples, ClusterExamples, CopyExamples, CopyPair, Example, Exhibits, Suspect
from ..network.extraction import unchanged_randomness

_Shown = TypeVar("_Shown", Example, Suspect)

SIDE = 96  # pixels of the longer side, at most
_LOSSLESS = 48  # images of up to this many pixels a side are kept unchanged


def take_pictures(exhibits: Exhibits, train: Images, heldout: Images) -> Exhibits:
    """Return the exhibits with a small picture of every example, and its file name if it has one.

    Where it is not known which images of the data set the examples are, they stay without a picture; the report says so.
    Pixels in [0, 255] or [0, 1] are shown as they are. Normalised images are stretched to their own range. Random states
    are left unchanged.

    Args:
        exhibits: Example images, from `choose_exhibits`.
        train: The training data set; `Example.index` is an index into it.
        heldout: The held-out data set.

    Returns:
        New exhibits; the given ones are not changed.

    See Also:
        `render_html`: Shows the pictures.

    Example:
        >>> import diversify as dv
        >>> train, heldout, head = dv.make_embeddings((80, 30, 5))
        >>> diagnosis = dv.diagnose(train, heldout, head=head, class_names=("cat", "dog", "owl"), top_k=5)
        >>> exhibits = dv.choose_exhibits(train, heldout, head=head, diagnosis=diagnosis)
        >>> images = [[row.view(1, 4, 4)] for row in torch.arange(150 * 16).view(-1, 16) % 256]
        >>> [one.typical[0].picture[:15] for one in dv.take_pictures(exhibits, images, images).examples]
        ['data:image/png;']
    """

    def with_picture(example: _Shown, dataset: Images) -> _Shown:
        picture = thumbnail(as_image(dataset[example.index][0]))
        return example.model_copy(update={"picture": picture, "name": file_name(dataset, example.index)})

    def with_pictures(one: ClassExamples) -> ClassExamples:
        kinds = dict.fromkeys(("typical", "border", "outlier"), train) if exhibits.train_indices_known else {}
        kinds |= {"errors": heldout} if exhibits.heldout_indices_known else {}
        update = {
            kind: tuple(with_picture(each, dataset) for each in getattr(one, kind)) for kind, dataset in kinds.items()
        }
        return one.model_copy(update=update)

    def cluster_with_pictures(one: ClusterExamples) -> ClusterExamples:
        update = {
            kind: tuple(with_picture(each, heldout) for each in getattr(one, kind)) for kind in ("inside", "outside")
        }
        return one.model_copy(update=update)

    def copies_with_pictures(one: CopyExamples) -> CopyExamples:
        kinds = {"train": train} if exhibits.train_indices_known else {}
        kinds |= {"heldout": heldout} if exhibits.heldout_indices_known else {}
        update = {
            kind: tuple(with_picture(each, dataset) for each in getattr(one, kind)) for kind, dataset in kinds.items()
        }
        return one.model_copy(update=update)

    def pair_with_pictures(one: CopyPair) -> CopyPair:
        dataset, known = (
            (heldout, exhibits.heldout_indices_known) if one.heldout else (train, exhibits.train_indices_known)
        )
        update = {"image": with_picture(one.image, dataset)} if known else {}
        update |= {"copy_of": with_picture(one.copy_of, train)} if exhibits.train_indices_known else {}
        return one.model_copy(update=update)

    with unchanged_randomness(torch.device("cpu"), None):
        update: dict[str, Any] = {"examples": tuple(with_pictures(one) for one in exhibits.examples)}
        update["copy_pairs"] = tuple(map(pair_with_pictures, exhibits.copy_pairs))
        update["near_copies"] = tuple(map(copies_with_pictures, exhibits.near_copies))
        if exhibits.train_indices_known:
            update["suspects_train"] = tuple(with_picture(each, train) for each in exhibits.suspects_train)
        if exhibits.heldout_indices_known:
            update["suspects_heldout"] = tuple(with_picture(each, heldout) for each in exhibits.suspects_heldout)
            update["clusters"] = tuple(map(cluster_with_pictures, exhibits.clusters))
        return exhibits.model_copy(update=update)


def file_name(dataset: Any, index: int) -> str:
    """Return the path of an image file on one line; "" if the data set does not know it.

    Looks through `Subset`, and at the attributes `paths`, `samples` and `imgs`. Paths of image folders that this library
    reads are relative to the folder.
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
    """Return a `data:` address for an image `(C, H, W)`: unchanged as PNG if small, else a JPEG of at most `SIDE` pixels."""
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
    """Return the pixels as uint8; normalised images are stretched to their own range."""
    if image.dtype == torch.uint8:
        return image
    values = image.double().nan_to_num()
    low, high = float(values.min()), float(values.max())
    if not image.is_floating_point() and low >= 0 and high <= 255:
        return image.to(torch.uint8)
    if low < 0 or high > 1:
        values = (values - low) / max(high - low, 1e-12)
    return (values * 255).round().to(torch.uint8)
