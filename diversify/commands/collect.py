"""The `collect` command: which images of a pool to label next."""

from __future__ import annotations

import dataclasses
from pathlib import Path
from typing import Any

import numpy as np
import torch

from ..data.decode import as_image
from ..data.loader import make_loader
from ..data.pool import PoolImages, read_pool
from ..data.view import View
from ..diagnosis.findings import NARROW
from ..diagnosis.model_comparison import Model
from ..diagnosis.result import Diagnosis
from ..errors import must
from ..files import arrays, atomic, shards, staging
from ..network.embeddings import Embeddings
from ..network.extraction import extract
from ..network.linear_head import read_head
from ..network.networks import read_weights
from ..network.split import SplitModel, split_head
from ..plan.learning_curve import MORE, LearningCurve, learning_curve
from ..plan.suggest_images import DEFAULT, Suggestion, suggest_images
from ..report.collect import render_suggestion_html
from ..report.thumbnails import thumbnail
from ..runtime import provenance
from ..runtime.progress import Say, StageProgress, stage
from .diagnose import network_for, ready
from .diagnosed import load_diagnosed, require_recorded
from .folders import OWNED, SCHEMA_VERSION, alone, refuse_multilabel
from .probe import backbone_split

MOST_PICTURES = 500  # on the page
CURVES = 5  # fragile classes with a learning curve
NEEDY = 1.5  # times the mean need, from which a class without a suggested image is named
MOST_NAMED = 5
MOST_WORK = 2e8  # training rows x features x classes up to which learning curves take a minute or two at most


@alone
def collect_run(
    folder: Path,
    *,
    pool: str | None = None,
    pool_features: Path | None = None,
    budget: int,
    method: str = DEFAULT,
    root: str = "data",
    out: Path,
    batch_size: int = 256,
    workers: int = 0,
    skip_bad: bool = False,
    seed: int = 0,
    overwrite: bool = False,
    say: Say,
    progress: StageProgress | None = None,
) -> tuple[Suggestion, dict[str, Any]]:
    """Suggest which images of a pool to label next, for the network of a diagnosis.

    Args:
        folder: A folder that `diagnose_run` wrote, with a diagnosis on the validation set.
        pool: The images; see `read_pool`.
        pool_features: Their features instead: a `.npz` file, a folder of `.npy` files or a `.parquet` file with `features`,
            and if wanted `logits`, `groups` and `paths`.
        budget: Number of images to suggest.
        method: See `suggest_images`.
        root: Folder of the public data sets.
        out: Receives `picks.csv`, `picks.json`, `report.html` and `run.json`, all or none.
        batch_size: Images per step.
        workers: Processes that load images.
        skip_bad: Leave out images that cannot be read.
        seed: Random seed.
        overwrite: Replace an earlier run in `out`.
        say: Called with each note.
        progress: Called as images are read.

    Returns:
        The suggestion, and the record that `run.json` holds.

    Raises:
        InputError: The folder, the pool or the budget do not serve; `out` is then as it was before.
    """
    if (pool is None) == (pool_features is None):
        got = "none" if pool is None else "two"
        raise must("pool", "be one set of images or features", got, "pass pool=DATA or pool_features=FILE")
    inputs = [folder, *([pool_features] if pool_features else _places(pool))]
    staging.ensure_available(out, overwrite, owned=OWNED, inputs=inputs, beside=True)
    refuse_multilabel("collect", folder)
    diagnosis, model, diagnosed = load_diagnosed(folder)
    if diagnosed.get("finished") is False:
        raise must("diagnosis", "be finished", f"an interrupted one in {folder}", "run `diversify diagnose` again")
    require_recorded(folder, diagnosed)
    images: PoolImages | None = None
    if pool_features is not None:
        rows, names = _read_features(pool_features, model)
    else:
        known = _weights(diagnosed)
        images = read_pool(str(pool), _view(diagnosed), root=root, skip_bad=skip_bad, progress=progress)
        split = _network(diagnosed, model, known, images)
        loader = make_loader(images.split, _view(diagnosed), batch_size=batch_size, workers=workers)
        read = extract(split, loader, progress=stage(progress, "reading pool"))
        read = dataclasses.replace(read, indices=images.split.indices[read.indices])
        rows = read.seen_by(read_head(model.head)).with_groups(images.split.groups)
        names = images.names
    found = suggest_images(
        diagnosis,
        model.train,
        rows,
        budget=budget,
        method=method,
        head=model.head,
        heldout=model.heldout,
        seed=seed,
    )
    found = found.with_names(names) if any(names) else found
    notes = _notes(found, images)
    affordable = model.train.features.numel() * model.train.num_classes <= MOST_WORK
    if not affordable:
        notes.append(
            "what more labels of a class would give is not estimated: with so many training rows it takes minutes"
        )
    for note in notes:
        say(f"note: {note}")
    record: dict[str, Any] = {
        "schema_version": SCHEMA_VERSION,
        "command": "collect",
        "finished": True,
        "started": provenance.now(),
        "of": {"path": str(folder), **diagnosed},
        "pool": {"spec": pool or f"features {pool_features}", "images": len(rows), "near_copies": found.copies},
        "budget": budget,
        "method": method,
        "seed": seed,
        "notes": notes,
        **provenance.origin(torch.device("cpu")),
    }
    curve = _curve(found, diagnosis, model, progress) if affordable else None
    record["learning_curve"] = None if curve is None else curve.to_dict()
    pictures = _pictures(found, images)
    with staging.staged_directory(out, overwrite=overwrite, owned=OWNED) as staged:
        atomic.write_text(staged / "picks.csv", found.to_csv())
        atomic.write_json(staged / "picks.json", found.to_dict())
        atomic.write_text(staged / "report.html", render_suggestion_html(found, diagnosis, record, pictures))
        atomic.write_json(staged / "run.json", record)
    return found, record


def _curve(
    found: Suggestion, diagnosis: Diagnosis, model: Model, progress: StageProgress | None
) -> LearningCurve | None:
    """What more labels of the fragile and narrow classes would give; None without such classes."""
    narrow = {finding.class_index for finding in diagnosis.findings if finding.kind == NARROW}
    short = [c for c in range(len(found.class_names)) if float(diagnosis["fragile"][c]) > 0 or c in narrow]
    classes = sorted(short, key=lambda c: (-found.need[c], c))[:CURVES]
    if not classes:
        return None
    return learning_curve(
        model.train,
        model.heldout,
        read_head(model.head),
        more=sorted({*MORE, found.budget}),
        classes=classes,
        class_names=found.class_names,
        seed=found.seed,
        progress=stage(progress, "estimating what labels give"),
    )


def _places(pool: str | None) -> list[Path]:
    """The file or folder that the pool names, which the command never writes to."""
    kind, _, place = (pool or "").partition(":")
    return [Path(place)] if kind in ("npz", "folder") and place else []


def _view(diagnosed: dict[str, Any]) -> View | None:
    """The preprocessing of the diagnosed images."""
    found = diagnosed.get("view")
    if not found:
        return None
    values: dict[str, Any] = {name: tuple(one) if isinstance(one, list) else one for name, one in found.items()}
    return View(**values)


def _weights(diagnosed: dict[str, Any]) -> Path | None:
    """The file of the weights that were diagnosed; None for a backbone that needs none."""
    if diagnosed.get("from_features") and not diagnosed.get("probe"):
        advice = "compute them as those of the training images, and pass pool_features=FILE"
        raise must("pool", "be features for a diagnosis of features", "images", advice)
    weights = diagnosed["backbone" if diagnosed.get("probe") else "weights"]
    if "path" not in weights:
        return None
    path, advice = Path(weights["path"]), "put the file back, or diagnose the present weights"
    if not path.is_file():
        raise must("weights", "be where they were diagnosed", f"no file {path}", advice)
    if shards.digest_checkpoint(path) != weights["sha256"]:
        raise must("weights", "be those that were diagnosed", f"another content of {path}", advice)
    return path


def _network(diagnosed: dict[str, Any], model: Model, path: Path | None, images: PoolImages) -> SplitModel:
    """The network that was diagnosed; of a frozen backbone, with any head."""
    view, classes = _view(diagnosed), model.train.num_classes
    channels = len(view.mean) if view is not None else int(as_image(images.split.dataset[0][0]).shape[0])
    if diagnosed.get("probe"):
        of = diagnosed["backbone"]
        return backbone_split(of["name"], path, of.get("key") or None, classes, channels)[0]
    if path is None:
        raise must("weights", "be recorded with the diagnosis", "none", "run `diversify diagnose` again")
    key = diagnosed["weights"].get("key") or None
    network = network_for(diagnosed["model"]["name"], classes, channels, path, key)
    read_weights(network, path, weights_key=key)
    return split_head(ready(network), diagnosed["model"]["head"] or None)


def _read_features(path: Path, model: Model) -> tuple[Embeddings, tuple[str, ...]]:
    """The pool as features, and the path of each image."""
    found = arrays.read_columns(path, ("features", "logits", "groups", "paths"), "pool_features")
    if "features" not in found:
        raise must(f"pool_features {path}", "hold features", "none")
    count = len(found["features"])
    head = read_head(model.head)
    rows = Embeddings.from_arrays(
        found["features"], np.zeros(count, np.int64), head=head, logits=found.get("logits"), groups=found.get("groups")
    )
    names = [str(name) for name in found["paths"].tolist()] if "paths" in found else [""] * count
    if len(names) != count:
        raise must("paths", f"be one per row of features, {count}", len(names))
    return rows, tuple(names)


def _pictures(found: Suggestion, images: PoolImages | None) -> tuple[str, ...]:
    """A small picture of each of the first images; "" for the others."""
    if images is None:
        return ("",) * len(found)
    shown = (thumbnail(as_image(images.split.dataset[one.row][0])) for one in found.images[:MOST_PICTURES])
    return (*shown, *[""] * max(0, len(found) - MOST_PICTURES))


def _notes(found: Suggestion, images: PoolImages | None) -> list[str]:
    notes = []
    if images is not None and images.skipped:
        count = len(images.skipped)
        kind = "image that cannot be read was" if count == 1 else "images that cannot be read were"
        notes.append(f"{count:,} {kind} left out on request")
    if found.copies:
        kind = "image is a near copy of a training or held-out image and was"
        kind = kind if found.copies == 1 else "images are near copies of training or held-out images and were"
        notes.append(f"{found.copies:,} {kind} left out")
    if passed_over := _passed_over(found):
        notes.append(
            f"no suggested image is predicted as {passed_over}, which the model recognises worse than most classes: try a larger"
            " budget, or look for such images by other means"
        )
    if len(found) < found.budget:
        notes.append(f"fewer images than the budget of {found.budget:,} are no near copies: {len(found):,}")
    return notes


def _passed_over(found: Suggestion) -> str:
    """The classes of at least 1.5 times the mean need that no suggested image is predicted as, in words; the neediest first."""
    suggested = {one.predicted for one in found.images}
    needy = sorted(range(len(found.need)), key=lambda c: (-found.need[c], c))
    named = [found.class_names[c] for c in needy if found.need[c] >= NEEDY and c not in suggested]
    left = len(named) - MOST_NAMED
    more = f" and {left:,} more {'class' if left == 1 else 'classes'}" if left > 0 else ""
    return ", ".join(named[:MOST_NAMED]) + more
