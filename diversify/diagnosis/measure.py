"""From the embeddings of training and held-out images to a `Diagnosis`: one column per measure, one row per class."""

from __future__ import annotations

import dataclasses
import math
from collections.abc import Mapping
from typing import Any, NamedTuple

from torch import Tensor, nn
from torch.utils.data import DataLoader

from ..data.labels import shown_class_names
from ..errors import must
from ..files import digests
from ..functional import counts, diversity, stats
from ..functional.groups import group_numbers, require_one_kind
from ..functional.indexed_neighbors import NeighborSearch
from ..functional.labels import ClassNames, names_in_order
from ..network.batches import Key
from ..network.embeddings import Embeddings, require_embeddings
from ..network.extraction import extract
from ..network.hugging_face import class_names_in
from ..network.linear_head import LinearHead, read_head
from ..network.split import split_head
from ..runtime.progress import Progress, Ticker
from .beyond_size import lines_on_log_count, recall_of_groups
from .catalogue import MEASURES
from .class_table import ClassTable
from .clusters import FailingCluster, cluster_findings, failing_clusters, put_clusters
from .columns import (
    balanced_accuracy,
    error_enemies,
    put_archetypes,
    put_ceiling,
    put_diversities,
    put_geometry,
    put_groups,
    put_magnitudes,
    put_recognition,
)
from .coverage import coverage_findings, put_coverage, put_size_and_diversity, without_suspects_where_known
from .findings import find
from .label_errors import KEPT, LabelErrors, errors_of_sides, label_findings, put_suspects, refit, without_suspects
from .near_copies import NearCopies, copy_findings, of_embeddings, put_near_copies
from .result import Diagnosis
from .shared_images import are_the_same, shared_of_loaders
from .sides import QUERY_ROWS, Side, make_side

TOP_K = 10


def usual_top_k(num_features: int) -> int:
    """Return 10, or the number of features if it is smaller."""
    return min(TOP_K, num_features)


def parse_top_k(top_k: int | str, num_features: int) -> int:
    """Return K from an integer, or from a percentage of the number of features such as "10%" (rounded, at least 1).

    Raises:
        InputError: K is outside [1, D], or not a number.
    """
    text = str(top_k).strip()
    share = text.endswith("%")
    try:
        number = float(text[:-1]) if share else float(int(text))
    except ValueError:
        number = math.nan
    if not math.isfinite(number):
        raise must("top_k", "be an integer or a percentage of D", repr(top_k))
    k = max(1, round(number / 100 * num_features)) if share and number > 0 else int(number)
    if not 1 <= k <= num_features:
        raise must("top_k", f"lie in [1, {num_features}], the number of features", text)
    return k


def diagnose(
    train: Embeddings,
    heldout: Embeddings,
    *,
    head: nn.Module | LinearHead,
    class_names: ClassNames | None = None,
    heldout_split: str = "val",
    top_k: int | str = TOP_K,
    seed: int = 0,
    progress: Progress | None = None,
    groups_train: Any = None,
    groups_heldout: Any = None,
    image_copies: NearCopies | None = None,
) -> Diagnosis:
    """Diagnose a network from the embeddings of its own training images and of images it was not trained on.

    Args:
        train: Embeddings of the images that the network was trained on, without augmentation.
        heldout: Embeddings of images that it was not trained on.
        head: The head of the network, or another head for the same features, such as a repaired one. Predictions are
            those of this head, even if the embeddings hold the logits of another.
        class_names: One name per class, in order, or a mapping between classes and names (`id2label`, `class_to_idx`);
            "class 0", "class 1", ... by default.
        heldout_split: "val", or "test" for a diagnosis that is only to be read: no plan can be made from it.
        top_k: Number of features that count as the strongest of a class: an integer, or a share of D such as "10%".
        seed: Seed of the draws at matched n, of the bootstraps and of the folds.
        progress: Called with (steps done, steps in all).
        groups_train: One value per training image, integers or text, equal for images that depend on each other: of one
            patient, camera or burst. By default those of the embeddings. Intervals of recall, precision and magnitudes then
            count groups, not images, and held-out images whose group is also in training are reported.
        groups_heldout: The same for held-out images; a group has the same value on both sides.
        image_copies: Near copies among the images, `find_near_copies(train_images, heldout_images)`, beside those that are
            found in the features. Both count in `effective_count`, `near_copies_heldout` and `recall_heldout_clean`.

    Returns:
        The diagnosis, on the CPU. `MEASURES` defines its columns.

    Raises:
        InputError: The embeddings do not fit the head, K is outside [1, D], or there is not one name per class.

    References:
        Dablain, Jacobson, Bellinger, Roberts and Chawla (2023), Understanding CNN fragility when learning with imbalanced
        data, arXiv:2210.09465. `MEASURES` names the source of each measure.

    See Also:
        `diagnose_model`, which starts from a model and two loaders.

    Example:
        >>> import diversify as dv
        >>> train, heldout, head = dv.make_embeddings((200, 80, 30, 6), spread=1.2)
        >>> diagnosis = dv.diagnose(train, heldout, head=head)
        >>> diagnosis["recall_heldout"].tolist()
        [0.86, 0.64, 0.64, 0.04]
        >>> [(finding.class_name, finding.kind) for finding in diagnosis.findings]
        [('class 3', 'low recall'), ('class 1', 'failing cluster')]
    """
    head = checked_head(head, train, heldout)
    copies = None if image_copies is None else of_embeddings(image_copies, train, heldout)
    require_one_kind(groups_train, groups_heldout)
    train, heldout = _grouped(train, groups_train, "train"), _grouped(heldout, groups_heldout, "heldout")
    if not heldout.reading.shared and are_the_same(train, heldout):
        heldout = _sharing(heldout, len(heldout))
    if heldout_split not in ("val", "test"):
        raise must("heldout_split", "be val or test", repr(heldout_split))
    names = class_names_of(class_names, head.num_classes)
    k = parse_top_k(top_k, head.num_features)
    seen, unseen = (
        make_side(embeddings, head, seed=seed, name=name)
        for name, embeddings in (("train", train), ("heldout", heldout))
    )
    tick = Ticker(progress, 7)
    search = NeighborSearch(seen.raw, seed=seed)
    columns, top_k_fields, enemies, summary, errors, clusters = _measure(
        seen, unseen, head, k, seed, tick, copies, search
    )
    lines, beyond = lines_on_log_count(columns)
    put_size_and_diversity(columns)
    summary |= recall_of_groups(columns) | {
        "imbalance_ratio": counts.imbalance_ratio(columns["count"]),
        "identity_chance": k / head.num_features,
        "fragile_classes": float(columns["fragile"].sum()),
    }
    cleaned = without_suspects(errors, seen, unseen, head, k, seed)
    judged = without_suspects_where_known(columns, cleaned)
    findings = find(judged, names, enemies, lines, top_k=k, reading=train.reading, without_suspects=cleaned)
    suspect = {c for found in errors.values() for c in found.wrong_classes}  # their coverage is taken without suspects
    unclear = [one for one in clusters if one.class_index not in suspect]
    findings += coverage_findings(judged, names, unclear) + copy_findings(columns, names)
    grouped = [name for name, side in (("train", seen), ("heldout", unseen)) if side.groups is not None]
    findings += label_findings(errors, names, grouped)
    findings += cluster_findings(clusters, names, grouped="heldout" in grouped)
    tick()
    return Diagnosis(
        heldout_split=heldout_split,
        top_k=k,
        num_features=head.num_features,
        class_names=names,
        columns=in_order(columns),
        **{name: value.cpu() for name, value in top_k_fields.items()},  # type: ignore[arg-type]
        enemies=enemies,
        summary=summary,
        log_count=lines,
        beyond_log_count=beyond,
        diversity_agreement=diversity_agreement_of(columns),
        findings=findings,
        queries={"train": queries_of(seen) | recall_of_search(search), "heldout": queries_of(unseen)},
        seed=seed,
        readings={"train": train.reading, "heldout": heldout.reading},
        label_errors={side: one.most_suspect(KEPT) for side, one in errors.items()},
        failing_clusters=clusters,
    )


def _sharing(heldout: Embeddings, shared: int) -> Embeddings:
    """The held-out embeddings with the number of their rows that show training images."""
    return dataclasses.replace(heldout, reading=dataclasses.replace(heldout.reading, shared=shared))


def _grouped(side: Embeddings, groups: Any, name: str) -> Embeddings:
    """The embeddings with these groups, or with their own if none are given."""
    if groups is None:
        return side
    numbers = group_numbers(f"groups_{name}", groups, rows=len(side))
    return dataclasses.replace(side, groups=numbers.to(side.labels.device))


def _groups_of_rows(groups: Any, side: Embeddings, loader: Any, name: str) -> Any:
    """The groups of the rows of a loader, where there may be one for each image of its data set, in whatever order it reads."""
    if groups is None or not side.reading.indices_known:
        return groups
    numbers, places = group_numbers(f"groups_{name}", groups), side.indices.cpu()
    images = len(loader.dataset)
    if len(numbers) == images:
        return numbers[places]
    if len(numbers) == len(side) and bool((places.diff() < 0).any()):
        law = f"be one value per image of the data set, {images}, where the loader reads them in another order"
        raise must(f"groups_{name}", law, len(numbers))
    return groups


def class_names_of(class_names: ClassNames | None, num_classes: int) -> tuple[str, ...]:
    """Return one name per class, in the order of the classes; "class 0", "class 1", ... for None.

    Args:
        class_names: The names in order; or a mapping of every class to its name (`id2label`), or of every name to its
            class (`label2id`, `class_to_idx`), in any order.
        num_classes: C.

    Raises:
        InputError: There is not one name per class.

    Example:
        >>> class_names_of({"owl": 1, "cat": 0}, 2), class_names_of({1: "owl", 0: "cat"}, 2)
        (('cat', 'owl'), ('cat', 'owl'))
    """
    names = tuple(f"class {c}" for c in range(num_classes))
    if class_names is not None:
        names = names_in_order(class_names, num_classes)
    if len(names) != num_classes:
        raise must("class_names", f"be one per class of the head, {num_classes}", len(names))
    return names


def checked_head(head: nn.Module | LinearHead, train: Embeddings, heldout: Embeddings) -> LinearHead:
    """Return the head as numbers on the device of the features; an InputError unless both embeddings fit it."""
    for name, side in (("train", train), ("heldout", heldout)):
        require_embeddings(name, side, "use dv.diagnose_multilabel")
    head = read_head(head)
    for name, side in (("train", train), ("heldout", heldout)):
        if (side.num_features, side.num_classes) != (head.num_features, head.num_classes):
            law = f"have the head's {head.num_features} features and {head.num_classes} classes"
            raise must(f"{name} embeddings", law, f"{side.num_features} features and {side.num_classes} classes")
        if not len(side):
            raise must(f"{name} embeddings", "hold at least one image", 0)
    device = train.features.device
    return dataclasses.replace(head, weight=head.weight.to(device), bias=head.bias.to(device))


class _Measured(NamedTuple):
    """The columns, the `top_k_*` fields, the enemies `(C, C)`, numbers of the whole model, label errors, and failing clusters."""

    columns: dict[str, Tensor]
    top_k_fields: dict[str, Tensor]
    enemies: Tensor
    summary: dict[str, float]
    label_errors: dict[str, LabelErrors]
    clusters: tuple[FailingCluster, ...]


def _measure(
    seen: Side,
    unseen: Side,
    head: LinearHead,
    k: int,
    seed: int,
    tick: Ticker,
    copies: NearCopies | None,
    search: NeighborSearch,
) -> _Measured:
    """Measure both sides, in 6 ticks."""
    table = ClassTable(head.num_classes, seed)
    put_recognition(table, seen, unseen)
    tick()
    top_k_fields = put_magnitudes(table, seen, unseen, head, k)
    tick()
    put_diversities(table, {"train": seen, "heldout": unseen}, seen, head, k)
    tick()
    put_archetypes(table, seen, search)
    enemies = error_enemies(seen, unseen, head.num_classes, search)
    tick()
    summary = balanced_accuracy(table.columns, "train") | balanced_accuracy(table.columns, "heldout")
    fitted = refit(unseen, head.num_classes, seed)
    summary |= put_ceiling(table, unseen, fitted)
    errors = errors_of_sides(fitted, seen, unseen, head.num_classes, seed)
    summary |= put_suspects(table, errors)
    clusters = failing_clusters(
        unseen.raw, unseen.labels, unseen.predictions, unseen.queries, head.num_classes, seed=seed
    )
    put_clusters(table, clusters)
    put_near_copies(table, seen, unseen, copies)
    put_coverage(table, seen, unseen)
    put_groups(table, seen, unseen)
    tick()
    summary |= put_geometry(table, seen, unseen, head)
    tick()
    return _Measured(table.columns, top_k_fields, enemies, summary, errors, clusters)


def in_order(columns: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """The columns in the order of `MEASURES`, with `fragile` third and each interval after its measure."""
    order = ["count", "count_heldout", "fragile", *MEASURES]
    names = dict.fromkeys(name + end for name in order for end in ("", "_low", "_high"))
    return {name: columns[name] for name in names if name in columns}


def diversity_agreement_of(columns: Mapping[str, Tensor]) -> dict[str, dict[str, float]]:
    """Rank correlation over the classes between every two held-out diversity measures."""
    kinds = [f"diversity_{measure}_heldout" for measure in diversity.DIVERSITY_MEASURES]
    return {one: {other: stats.spearman(columns[one], columns[other]) for other in kinds} for one in kinds}


def recall_of_search(search: NeighborSearch) -> dict[str, float]:
    """A record of the share of the nearest rows that an index found; empty where all searches were exact."""
    return {} if math.isnan(search.recall) else {"neighbour_recall": round(search.recall, 4)}


def queries_of(side: Side) -> dict[str, Any]:
    """A record of the rows that the costly measures used."""
    return {
        "rows": len(side.queries),
        "of": len(side.labels),
        "rule": f"at most {QUERY_ROWS}, the large classes cut to one size",
        "digest": digests.digest_tensors({"rows": side.queries}),
    }


def _names_for(
    model: nn.Module, num_classes: int, given: ClassNames | None, train_loader: object, heldout_loader: object
) -> tuple[str, ...] | None:
    """The names that were given, or that the model or the data sets show; None if there are none.

    Raises:
        InputError: Two of them number the classes differently.
    """
    shown = {
        f"{name}_loader": names
        for name, loader in (("train", train_loader), ("heldout", heldout_loader))
        if (names := shown_class_names(getattr(loader, "dataset", None))) is not None
    }
    if len(shown) == 2:
        first, second = shown.values()
        for c, (one, other) in enumerate(zip(first, second, strict=False)):
            if one != other:
                got = f"{other!r} for class {c}, which is {one!r} there"
                advice = "give both data sets the same folders of classes"
                raise must("heldout_loader", "number the classes as train_loader does", got, advice)
    found = class_names_in(model, num_classes) if given is None else given
    names = None if found is None else class_names_of(found, num_classes)
    for name, each in shown.items():
        if names is not None and names != each and sorted(names) == sorted(each):
            c = next(c for c, pair in enumerate(zip(names, each, strict=True)) if pair[0] != pair[1])
            law = f"be in the order of the classes of {name}"
            raise must("class_names", law, f"{names[c]!r} for class {c}, which is {each[c]!r} there")
    whole = [each for each in shown.values() if len(each) == num_classes]
    return names if names is not None or not whole else whole[0]


def diagnose_model(
    model: nn.Module,
    train_loader: DataLoader[Any],
    heldout_loader: DataLoader[Any],
    *,
    class_names: ClassNames | None = None,
    head: str | None = None,
    heldout_split: str = "val",
    top_k: int | str = TOP_K,
    seed: int = 0,
    image_key: Key | None = None,
    label_key: Key | None = None,
    groups_train: Any = None,
    groups_heldout: Any = None,
    image_copies: NearCopies | None = None,
) -> Diagnosis:
    """Diagnose a model from two loaders: `split_head`, `extract` on each loader, and `diagnose`.

    The model is left as it was.

    Args:
        model: A trained image classifier that ends in a linear head.
        train_loader: Batches `(images, labels)` of the images that the model was trained on, without augmentation.
        heldout_loader: Batches of images that it was not trained on. Both give images as the model takes them.
        class_names: One name per class, in order, or a mapping between classes and names (`id2label`, `class_to_idx`);
            by default those that a model of Hugging Face transformers names, or a data set of torchvision, such as
            `ImageFolder`, and else "class 0", "class 1", ...
        head: Name of the head's module, where it cannot be found automatically.
        heldout_split: "val", or "test" for a diagnosis that is only to be read.
        top_k: Number of features that count as the strongest of a class: an integer, or a share of D such as "10%".
        seed: Seed of the draws at matched n, of the bootstraps and of the folds.
        image_key: Key or position of the images in a batch, if it is not a usual one; see `extract`.
        label_key: Key or position of the labels.
        groups_train: One value per image of the training data set, in its order, however the loader shuffles: patient,
            camera, burst; see `diagnose`. For a loader that is not a `DataLoader` of a map-style data set, one value per
            row, in the loader's order.
        groups_heldout: The same for held-out images.
        image_copies: Near copies among the images of the two data sets; see `diagnose`.

    Returns:
        The diagnosis, on the CPU.

    Raises:
        InputError: No head is found, the loaders do not fit the model, or their data sets number the classes differently.

    See Also:
        `diagnose`, for embeddings that are already extracted.

    Example:
        >>> import torch, diversify as dv
        >>> generator = torch.Generator().manual_seed(0)
        >>> model = torch.nn.Sequential(torch.nn.Linear(8, 6), torch.nn.ReLU(), torch.nn.Linear(6, 3))
        >>> images, labels = torch.rand(60, 8, generator=generator), torch.arange(60) % 3
        >>> loader = torch.utils.data.DataLoader(torch.utils.data.TensorDataset(images, labels), batch_size=30)
        >>> diagnosis = dv.diagnose_model(model, loader, loader, class_names=("a", "b", "c"), top_k=2)
        >>> diagnosis["count"].tolist()
        [20.0, 20.0, 20.0]
    """
    split = split_head(model, head)
    names = _names_for(model, read_head(split.head).num_classes, class_names, train_loader, heldout_loader)
    train, heldout = (
        extract(split, loader, image_key=image_key, label_key=label_key, class_names=names)
        for loader in (train_loader, heldout_loader)
    )
    heldout = _sharing(heldout, shared_of_loaders(train_loader, heldout_loader, train, heldout))
    require_one_kind(groups_train, groups_heldout)
    groups_train = _groups_of_rows(groups_train, train, train_loader, "train")
    groups_heldout = _groups_of_rows(groups_heldout, heldout, heldout_loader, "heldout")
    return diagnose(
        train,
        heldout,
        head=split.head,
        class_names=names,
        heldout_split=heldout_split,
        top_k=top_k,
        seed=seed,
        groups_train=groups_train,
        groups_heldout=groups_heldout,
        image_copies=image_copies,
    )
