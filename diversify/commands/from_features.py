"""Diagnose features that were computed elsewhere: no images, no network."""

from __future__ import annotations

import hashlib
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from ..diagnosis.choose_exhibits import choose_exhibits
from ..diagnosis.measure import diagnose, parse_top_k
from ..diagnosis.near_copies import NearCopies
from ..diagnosis.result import Diagnosis
from ..errors import must, unknown
from ..files import arrays, atomic, digests, staging
from ..functional import counts
from ..functional.groups import require_one_kind
from ..network.embeddings import Embeddings, class_indices, logits_tensor, real_tensor, require_finite
from ..network.head_file import head_of_tensors, load_head, save_head
from ..network.head_from_logits import head_from_logits
from ..network.linear_head import LinearHead
from ..network.multilabel import MultilabelEmbeddings
from ..repair.fit_head import STEPS, WEIGHT_DECAY, fit_head
from ..report.diagnosis import render_html, render_markdown
from ..report.thumbnails import take_pictures
from ..runtime import provenance
from ..runtime.progress import Say, StageProgress, stage
from .diagnosed import HEAD, fingerprint
from .folders import OWNED, SCHEMA_VERSION, alone
from .heldout import UNRECORDED

COLUMNS = ("features", "labels", "logits", "groups", "class_names")
FITTED = (
    "the head was fitted here, on the training features by plain cross entropy: the diagnosis describes this head, and not"
    " one that came with the network"
)
FROM_LOGITS = "the head is the one that turns the files' features into their logits: it was solved for and gives them in every row"

_MOST_GAPS = 10  # classes per training row, beyond which labels are no numbers of classes


@alone
def diagnose_features(
    features: tuple[Path, Path],
    *,
    head: Path | None = None,
    out: Path,
    heldout: str | None = None,
    top_k: int | str = 10,
    seed: int = 0,
    overwrite: bool = False,
    say: Say,
    progress: StageProgress | None = None,
) -> tuple[Diagnosis, dict[str, Any]]:
    """Diagnose features of training and of held-out images, and leave the folder that `diagnose_run` leaves.

    Args:
        features: The training and the held-out side: each a `.npz` file, a folder of `.npy` files or a `.parquet` file
            with `features` and `labels`, and if wanted `logits`, `class_names` and `groups`. Labels are integers or names of
            classes; without `class_names`, and where the head is fitted here, names are numbered in alphabetical order.
        head: A safetensors or `.npz` file with `weight` (C, D) and, if it has one, `bias`. None finds the head that gives
            the logits in the files; without logits, it fits a head.
        out: The folder to write, all or nothing.
        heldout: `val` (the default), or `test` for a diagnosis that is for reading only.
        top_k: Number of strongest features per class, or a percentage of all.
        seed: Random seed of the resampling.
        overwrite: Replace an earlier run in `out`.
        say: Called with each note.
        progress: Called as work is done.

    Returns:
        The diagnosis, and the record that `run.json` holds.

    Raises:
        InputError: A file is wrong, or the two sides and the head do not fit; `out` is then as it was before.
    """
    inputs = [*features, *([head] if head else [])]
    staging.ensure_available(out, overwrite, owned=OWNED, inputs=inputs, beside=True)
    if heldout not in (None, "val", "test"):
        raise unknown("heldout", str(heldout), ("val", "test"))
    columns = read_sides(features)
    width = columns[0]["features"].shape[1]
    names = class_names_of(columns, features)
    if names is None and head is None and not any("logits" in found for found in columns):
        names = _names_in_labels(columns)
    texts = [each for found in columns if (each := found["labels"]).dtype.kind == "U" and each.size]
    if names is None and texts:
        law = "be class indices where the files hold no class_names"
        advice = "add class_names, in the order of the head's classes"
        raise must("labels", law, repr(str(texts[0].reshape(-1)[0])), advice)
    notes: list[str] = []
    used = read_head_file(head) if head is not None else None
    if used is None:
        used, how = _found_head(columns, names)
        notes.append(how)
    sides = [
        Embeddings.from_arrays(
            found["features"],
            found["labels"],
            head=used,
            logits=found.get("logits"),
            num_classes=len(names) if names else None,
            groups=found.get("groups"),
            class_names=names,
        )
        for found in columns
    ]
    for note in notes:
        say(f"note: {note}")
    split = heldout or "val"
    diagnosis = diagnose(
        sides[0],
        sides[1],
        head=used,
        class_names=names,
        heldout_split=split,
        top_k=parse_top_k(top_k, width),
        seed=seed,
        progress=stage(progress, "measuring"),
    )
    fitted = FITTED in notes
    record = features_record(
        features,
        head,
        sides,
        class_names=diagnosis.class_names,
        class_counts=counts.class_counts(sides[0].labels, sides[0].num_classes),
        fitted=fitted,
        split=split,
        top_k=diagnosis.top_k,
        seed=seed,
        notes=notes,
    )
    record["head_fitted"] = fitted_record() if fitted else None
    say(f"note: {UNRECORDED}")
    with staging.staged_directory(out, overwrite=overwrite, owned=OWNED) as staged:
        write_folder(staged, diagnosis, sides, used, record)
    return diagnosis, record


def write_folder(
    folder: Path,
    diagnosis: Diagnosis,
    sides: list[Embeddings],
    head: LinearHead,
    record: dict[str, Any],
    *,
    images: tuple[Any, Any] | None = None,
    image_copies: NearCopies | None = None,
) -> None:
    """Write what `plan`, `remedy` and `report` read."""
    save_head(folder / HEAD, head)
    record["weights"] = {"path": str(HEAD), "sha256": digests.sha256(folder / HEAD), "key": "", "prefix": ""}
    splits = record["data"]["splits"]
    for name, split, side in (("train", "train", sides[0]), ("heldout", record["heldout_split"], sides[1])):
        mark = fingerprint(splits[split]["digest"], splits[split]["content"], record)
        side.save(folder / "embeddings" / name, {"fingerprint": mark})
    atomic.write_json(folder / "diagnosis.json", diagnosis.to_dict())
    exhibits = choose_exhibits(sides[0], sides[1], head=head, diagnosis=diagnosis, image_copies=image_copies)
    if images is not None:
        exhibits = take_pictures(exhibits, *images)
    atomic.write_json(folder / "exhibits.json", exhibits.to_dict())
    kept = Diagnosis.from_dict(diagnosis.to_dict())  # rounded as in the file, so that `report` gives the same page
    atomic.write_text(folder / "report.html", render_html(kept, record, exhibits))
    atomic.write_text(folder / "report.md", render_markdown(kept, record, exhibits))
    atomic.write_json(folder / "run.json", record)


def fitted_record() -> dict[str, Any]:
    """The settings of `fit_head`, for the record."""
    return {"loss": "cross entropy", "weight_decay": WEIGHT_DECAY, "most_steps": STEPS}


def read_sides(paths: tuple[Path, Path]) -> list[dict[str, atomic.Array]]:
    """The columns of both files, with features of as many columns."""
    columns = [arrays.read_columns(path, COLUMNS, "features") for path in paths]
    for path, found in zip(paths, columns, strict=True):
        for column in ("features", "labels"):
            if column not in found:
                raise must(f"features {path}", "hold features and labels", f"no {column}")
    require_one_kind(columns[0].get("groups"), columns[1].get("groups"))
    width, other = (real_tensor("features", found["features"], 2).shape[1] for found in columns)
    if other != width:
        raise must("heldout features", f"have the {width} columns of the training features", other)
    return columns


def class_names_of(columns: list[dict[str, atomic.Array]], paths: tuple[Path, Path]) -> list[str] | None:
    """The names of the classes, which both files must give alike where both give them."""
    found = [list(map(str, each["class_names"].tolist())) for each in columns if "class_names" in each]
    if len(found) == 2 and found[0] != found[1]:
        raise must("class_names", f"be the same in {paths[0]} and {paths[1]}", "two lists that differ")
    return found[0] if found else None


def _names_in_labels(columns: list[dict[str, atomic.Array]]) -> list[str] | None:
    """The names in labels that are text, in alphabetical order; None if they are numbers.

    Only for a head that is fitted here: another one has its own order of classes.
    """
    labels = [found["labels"] for found in columns]
    if any(each.dtype.kind != "U" for each in labels):
        return None
    return sorted({str(name) for each in labels for name in each.reshape(-1).tolist()})


def read_head_file(path: Path) -> LinearHead:
    """The head in a file."""
    atomic.require_file(path, "head")
    if path.suffix != ".npz":
        return load_head(path)
    found = {name: real_tensor(f"head {name}", value, value.ndim) for name, value in _head_arrays(path).items()}
    return head_of_tensors(found, f"head {path}")


def _head_arrays(path: Path) -> dict[str, atomic.Array]:
    return arrays.read_columns(path, ("weight", "bias"), "head")


def _found_head(columns: list[dict[str, atomic.Array]], names: list[str] | None) -> tuple[LinearHead, str]:
    """The head that gives the files' logits, or without logits a head fitted on the training side; and what was done."""
    with_logits = [found for found in columns if "logits" in found]
    if not with_logits:
        return _fitted(columns, names), FITTED
    logits = [logits_tensor(found["logits"], two_classes=False) for found in with_logits]
    return head_of_columns(with_logits, logits), FROM_LOGITS


def head_of_columns(columns: list[dict[str, atomic.Array]], logits: list[Tensor]) -> LinearHead:
    """The head that turns the features of these files into their logits."""
    if len({side.shape[1] for side in logits}) > 1:
        raise must(
            "heldout logits", f"have the {logits[0].shape[1]} columns of the training logits", logits[1].shape[1]
        )
    features = [real_tensor("features", found["features"], 2) for found in columns]
    return head_from_logits(torch.cat(features), torch.cat(logits))


def _fitted(columns: list[dict[str, atomic.Array]], names: list[str] | None) -> LinearHead:
    """A head fitted on the training side; it has an output for every class of either side."""
    labels = [class_indices("labels", found["labels"], names) for found in columns]
    rows = real_tensor("features", columns[0]["features"], 2)
    require_finite("features", rows)
    largest = max((int(side.max()) for side in labels if len(side)), default=0)
    if names is None and largest >= _MOST_GAPS * max(1, len(rows)):
        raise must("labels", "number the classes from 0 without gaps", largest, "add class_names, or number them anew")
    return fit_head(rows, labels[0], len(names) if names else 1 + largest)


def features_record(
    features: tuple[Path, Path],
    head: Path | None,
    sides: Sequence[Embeddings | MultilabelEmbeddings],
    *,
    class_names: Sequence[str],
    class_counts: Tensor,
    fitted: bool,
    split: str,
    top_k: int,
    seed: int,
    notes: list[str],
) -> dict[str, Any]:
    """The record of a diagnosis of features, with one label or several.

    Args:
        features: The files of both sides.
        head: The file of the head, if there is one.
        sides: Training and held-out embeddings.
        class_names: The names of the classes or labels.
        class_counts: The number of training rows of each.
        fitted: Whether the head was fitted here.
        split: The held-out split, `val` or `test`.
        top_k: Number of strongest features.
        seed: Seed of the resampling.
        notes: What is to be known of the head and the files.
    """
    splits = {}
    for name, path, side in zip(("train", split), features, sides, strict=True):
        digest = hashlib.sha256(side.features.numpy().tobytes() + side.labels.numpy().tobytes()).hexdigest()
        splits[name] = {"images": len(side), "origin": str(path), "digest": digest, "content": None}
    model = "a head fitted here" if fitted else "the head of the logits in the files"
    return {
        "schema_version": SCHEMA_VERSION,
        "command": "diagnose",
        "from_features": True,
        "finished": True,
        "started": provenance.now(),
        "data": {
            "spec": f"features {features[0]}",
            "imbalance": "none",
            "tail_order": "canonical",
            "holdout": 0.0,
            "class_names": list(class_names),
            "class_counts": class_counts.tolist(),
            "splits": splits,
        },
        "files": {f"head {head.name}": digests.sha256(head)} if head is not None else {},
        "view": None,
        "view_origin": "features, without images",
        "model": {"name": model if head is None else f"the head {head.name}", "head": ""},
        "head_given": None,
        "training": None,
        "heldout_split": split,
        "top_k": top_k,
        "seed": seed,
        "notes": notes,
        "caveats": [UNRECORDED],
        **provenance.origin(torch.device("cpu")),
    }
