"""Diagnose a network that gives each image several labels: each label's positives against its negatives."""

from __future__ import annotations

import dataclasses
from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor, nn
from torch.utils.data import DataLoader

from ...errors import must
from ...functional import multilabel
from ...network.batches import Key
from ...network.linear_head import LinearHead, read_head
from ...network.multilabel import MultilabelEmbeddings, extract_multilabel
from ...network.split import split_head
from ..measure import class_names_of, parse_top_k
from ..shared_images import shared_of_loaders
from .catalogue import MULTILABEL_MEASURES
from .columns import put_diversity, put_gains, put_magnitudes, put_recognition, side_of
from .companions import companions_of
from .findings import find_in_labels
from .result import MultilabelDiagnosis


def diagnose_multilabel(
    train: MultilabelEmbeddings,
    heldout: MultilabelEmbeddings,
    *,
    head: nn.Module | LinearHead,
    label_names: Sequence[str] | None = None,
    threshold: float | Sequence[float] = 0.5,
    top_k: int | str = 10,
    heldout_split: str = "val",
    seed: int = 0,
) -> MultilabelDiagnosis:
    """Diagnose a network with one sigmoid output per label, each label's positives against its negatives.

    Intervals have 95% coverage: Wilson's for recall and precision, and a bootstrap over images for average precision, F1
    and their gains. Thresholds and the refitted head are never judged on images that they were fitted on.

    Args:
        train: Embeddings of the images that the network was trained on, without augmentation.
        heldout: Embeddings of images that it was not trained on.
        head: The head of the network, or another head for the same features.
        label_names: One name per label; "label 0", "label 1", ... by default.
        threshold: Probability at and above which a label is predicted: one for all labels, or one for each.
        top_k: Number of features that count as the strongest of a label: an integer, or a share of D such as "10%".
        heldout_split: "val", or "test" for a diagnosis that is only to be read.
        seed: Seed of the draws at matched n, of the bootstraps and of the folds.

    Returns:
        The diagnosis, on the CPU. A label without positives has NaN, and `without_heldout` names it.

    Raises:
        InputError: The embeddings do not fit the head, or an argument is out of its range.

    See Also:
        `diagnose`, for one label per image; `repair_multilabel`, for thresholds and a better head.

    Example:
        >>> import diversify as dv
        >>> train, heldout, head = dv.make_multilabel_embeddings()
        >>> diagnosis = dv.diagnose_multilabel(train, heldout, head=head, label_names=("sky", "tree", "car", "bird"))
        >>> [round(value, 2) for value in diagnosis["recall_heldout"].tolist()]
        [0.86, 0.71, 0.62, 0.14]
    """
    for name, side in (("train", train), ("heldout", heldout)):
        if not isinstance(side, MultilabelEmbeddings):
            advice = "for one label per image, use dv.diagnose"
            raise must(name, "be MultilabelEmbeddings", type(side).__name__, advice)
    if heldout_split not in ("val", "test"):
        raise must("heldout_split", "be val or test", repr(heldout_split))
    head = read_head(head)
    head = dataclasses.replace(head, weight=head.weight.cpu(), bias=head.bias.cpu())
    for name, side in (("train", train), ("heldout", heldout)):
        if (side.num_features, side.num_labels) != (head.num_features, head.num_classes):
            law = f"have the head's {head.num_features} features and {head.num_classes} labels"
            raise must(f"{name} embeddings", law, f"{side.num_features} features and {side.num_labels} labels")
        if len(side) == 0:
            raise must(f"{name} embeddings", "hold at least one image", 0)
    given = (
        label_names if label_names is not None and len(label_names) else [f"label {c}" for c in range(head.num_classes)]
    )
    names = class_names_of(given, head.num_classes)
    thresholds = thresholds_of(threshold, head.num_classes)
    k = parse_top_k(top_k, head.num_features)
    seen, unseen = side_of(train, head, thresholds), side_of(heldout, head, thresholds)
    columns: dict[str, Tensor] = {}
    put_recognition(columns, seen, unseen, thresholds)
    put_gains(columns, seen, unseen, thresholds, seed)
    top_k_features = put_magnitudes(columns, seen, unseen, head, k, seed)
    put_diversity(columns, seen, unseen, head, k, seed)
    recall = columns["recall_heldout"]
    columns["fragile"] = (columns["recall_heldout_high"] < recall.nanmean()).double()
    together = multilabel.cooccurrence(seen.labels)
    companions = companions_of(unseen, together, columns)
    summary = {
        "mean_average_precision": float(columns["average_precision"].nanmean()),
        "mean_recall": float(recall.nanmean()),
        "mean_f1": float(columns["f1_heldout"].nanmean()),
        "labels_per_image": float(unseen.labels.sum(1).double().mean()),
    }
    order = [f"{name}{end}" for name in ("fragile", *MULTILABEL_MEASURES) for end in ("", "_low", "_high")]
    ordered = {name: columns[name].double() for name in order if name in columns}
    return MultilabelDiagnosis(
        heldout_split=heldout_split,
        top_k=k,
        num_features=head.num_features,
        label_names=names,
        columns=ordered,
        images={"train": len(train), "heldout": len(heldout)},
        cooccurrence_train=together,
        cooccurrence_heldout=multilabel.cooccurrence(unseen.labels),
        top_k_features=top_k_features,
        companions=companions,
        findings=find_in_labels(ordered, names, companions, train.reading),
        summary=summary,
        seed=seed,
        readings={"train": train.reading, "heldout": heldout.reading},
    )


def diagnose_multilabel_model(
    model: nn.Module,
    train_loader: DataLoader[Any],
    heldout_loader: DataLoader[Any],
    *,
    label_names: Sequence[str] | None = None,
    head: str | None = None,
    threshold: float | Sequence[float] = 0.5,
    top_k: int | str = 10,
    heldout_split: str = "val",
    seed: int = 0,
    image_key: Key | None = None,
    label_key: Key | None = None,
) -> MultilabelDiagnosis:
    """Diagnose a model with one sigmoid output per label from two loaders. The model is left as it was.

    Args:
        model: A trained network that ends in a linear head and returns its logits or their sigmoid.
        train_loader: Batches `(images, labels)` of its training images, without augmentation; labels `(N, C)` of 0 and 1.
        heldout_loader: Batches of images that it was not trained on.
        label_names: One name per label.
        head: Name of the head's module, where it cannot be found automatically.
        threshold: Probability at and above which a label is predicted, one for all labels or one for each.
        top_k: As in `diagnose_multilabel`.
        heldout_split: "val", or "test" for a diagnosis that is only to be read.
        seed: Seed of all draws.
        image_key: Key or position of the images in a batch, if it is not a usual one; see `extract`.
        label_key: Key or position of the labels.

    Returns:
        The diagnosis, on the CPU.

    Raises:
        InputError: No head is found, or the loaders do not fit the model.

    Example:
        >>> import torch, diversify as dv
        >>> generator = torch.Generator().manual_seed(0)
        >>> images = torch.rand(60, 8, generator=generator)
        >>> labels = torch.stack([images[:, 0] > 0.5, images[:, 1] > 0.8], dim=1)
        >>> model = torch.nn.Sequential(torch.nn.Linear(8, 6), torch.nn.ReLU(), torch.nn.Linear(6, 2))
        >>> loader = torch.utils.data.DataLoader(torch.utils.data.TensorDataset(images, labels), batch_size=30)
        >>> diagnosis = dv.diagnose_multilabel_model(model, loader, loader, label_names=("left", "right"), top_k=2)
        >>> diagnosis["count"].tolist() == labels.sum(0).tolist()
        True
    """
    split = split_head(model, head)
    train, heldout = (
        extract_multilabel(split, loader, image_key=image_key, label_key=label_key)
        for loader in (train_loader, heldout_loader)
    )
    shared = shared_of_loaders(train_loader, heldout_loader, train, heldout)
    heldout = dataclasses.replace(heldout, reading=dataclasses.replace(heldout.reading, shared=shared))
    return diagnose_multilabel(
        train,
        heldout,
        head=split.head,
        label_names=label_names,
        threshold=threshold,
        top_k=top_k,
        heldout_split=heldout_split,
        seed=seed,
    )


def thresholds_of(threshold: float | Sequence[float] | Tensor, num_labels: int) -> Tensor:
    """Return probability thresholds `(C,)` float64.

    Raises:
        InputError: There is not one for all labels or one for each, or one lies outside (0, 1).
    """
    try:
        values = torch.as_tensor(threshold, dtype=torch.float64).detach().cpu()
    except (TypeError, ValueError, RuntimeError):
        got = f"a {type(threshold).__name__}"
        raise must("threshold", f"be one number, or one per label, {num_labels}, in their order", got) from None
    values = values.expand(num_labels) if values.ndim == 0 else values
    if values.shape != (num_labels,):
        raise must("threshold", f"be one number, or one per label, {num_labels}", f"shape {tuple(values.shape)}")
    wrong = ~((values > 0) & (values < 1))
    if bool(wrong.any()):
        raise must("threshold", "be a probability in (0, 1)", f"{float(values[wrong][0]):g}")
    return values
