"""`diagnose` for images with several labels each, from a checkpoint or from features, and the reader of the folder it leaves."""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import torch
from torch import nn

from ..data.loader import Split
from ..data.multilabel import MultilabelData, load_multilabel_data, multilabel_loader
from ..data.view import View
from ..diagnosis.measure import parse_top_k
from ..diagnosis.multilabel import MultilabelDiagnosis, diagnose_multilabel, thresholds_of
from ..errors import must, unknown
from ..files import atomic, digests, shards, staging
from ..network.embeddings import real_tensor
from ..network.head_file import load_head, save_head
from ..network.linear_head import LinearHead, read_head
from ..network.matching import Match
from ..network.multilabel import MultilabelEmbeddings, extract_multilabel
from ..network.networks import build_model, parameter_count, read_weights
from ..network.split import SplitModel, split_head
from ..repair.multilabel import fit_multilabel_head
from ..report.diagnosis import render_html, render_markdown
from ..runtime import provenance
from ..runtime.progress import Say, StageProgress, stage
from .diagnose import ready
from .diagnosed import HEAD, fingerprint
from .folders import OWNED, SCHEMA_VERSION, alone, run_folder, unfinished
from .from_features import FROM_LOGITS, class_names_of, features_record, head_of_columns, read_head_file, read_sides
from .heldout import CHOSE_HEAD, UNRECORDED
from .options import DataOptions, fit_channels

FITTED = (
    "the head was fitted here, on the training features by binary cross entropy: the diagnosis describes this head, and not one"
    " that came with the network"
)
CUT_HERE = (
    "the held-out images were split off from the training images here: what is measured on them is right only if the network"
    " was trained without them, with the same holdout and group in load_multilabel_data"
)
GROUPED = "groups decide the hold-out alone: no measure of several labels per image uses them"


@alone
def diagnose_multilabel_run(
    data_options: DataOptions,
    *,
    model: str | None,
    weights: Path,
    weights_key: str | None = None,
    out: Path,
    head: str | None = None,
    heldout: str | None = None,
    top_k: int | str = 10,
    threshold: float | Path = 0.5,
    batch_size: int = 256,
    precision: str = "fp32",
    workers: int = 0,
    seed: int = 0,
    overwrite: bool = False,
    say: Say,
    progress: StageProgress | None = None,
) -> tuple[MultilabelDiagnosis, dict[str, Any]]:
    """Diagnose a checkpoint with one sigmoid output per label, and write the folder `out`.

    An interrupted diagnosis resumes when it is called again with the same arguments.

    Args:
        data_options: The data, see `load_multilabel_data`; an imbalance is not for several labels. Without a val of the
            source, a hold-out that is given is split off from train.
        model: The network.
        weights: The checkpoint.
        weights_key: Which weights of the checkpoint, if it holds several.
        out: Receives `diagnosis.json`, `embeddings/`, `report.html`, `report.md` and `run.json`.
        head: Name of the head, if the network has several.
        heldout: `val` (the default) or `test`.
        top_k: Number of strongest features per label: an integer, or a percentage such as `"25%"`.
        threshold: Probability at and above which a label is predicted; or the `thresholds.json` of a remedy, one for each.
        batch_size: Images per step.
        precision: `fp32`, `bf16` or `auto`.
        workers: Number of data loader processes.
        seed: Random seed of the resampling.
        overwrite: Replace an earlier run in `out`.
        say: Called with each note.
        progress: Called as work is done.

    Returns:
        The diagnosis, and the record that `run.json` holds.

    Raises:
        InputError: An argument is wrong, or no images are known to be held out; `out` is then as it was before.
    """
    weights = shards.checkpoint_file(weights)
    free = overwrite or unfinished(out, "diagnose")
    staging.ensure_available(out, free, owned=OWNED, inputs=[weights, *_inputs(data_options)])
    data = _load(data_options, progress)
    used = _thresholds(threshold, data.label_names)
    split_name, unseen = _heldout(data, heldout)
    subject = _Subject.load(data, model or "small_cnn", weights, weights_key=weights_key, head=head)
    split, k = subject.split, parse_top_k(top_k, read_head(subject.split.head).num_features)
    record = subject.record() | {
        "files": {place.name: digests.sha256(place) for place in _inputs(data_options)},
        "heldout_split": split_name,
        "top_k": k,
        "threshold": used,
        "precision": precision,
        "seed": seed,
        "caveats": [
            UNRECORDED,
            *([CUT_HERE] if unseen.origin == "cut" else []),
            *_chosen_on(weights, split_name, unseen),
        ],
    }
    say(f"data: {data.spec}; {len(data.train)} train, {len(unseen)} held out ({split_name})")
    for note in [*record["notes"], *record["caveats"]]:
        say(f"note: {note}")
    say(f"the model sees: {subject.view or 'images as the data set gives them'} ({data.view_origin})")
    identity = digests.digest_json(
        {n: record[n] for n in ("data", "files", "view", "model", "weights", "precision", "heldout_split")}
    )
    with run_folder(out, record | {"identity": identity}, overwrite=overwrite):
        train, held = (
            extract_multilabel(
                split,
                multilabel_loader(part, subject.view, batch_size=batch_size, workers=workers),
                precision=precision,  # type: ignore[arg-type]
                out=out / "embeddings" / name,
                fingerprint=fingerprint(part.digest(), part.content, record),
                progress=stage(progress, f"reading {name}"),
            )
            for name, part in (("train", data.train), ("heldout", unseen))
        )
        diagnosis = diagnose_multilabel(
            train,
            held,
            head=split.head,
            label_names=data.label_names,
            threshold=used,
            top_k=k,
            heldout_split=split_name,
            seed=seed,
        )
        save_head(out / HEAD, read_head(split.head))
        _write(out, diagnosis, record)
        record |= {"identity": identity, "finished": True}
        atomic.write_json(out / "run.json", record)
    return diagnosis, record


@dataclasses.dataclass(frozen=True, kw_only=True)
class _Subject:
    """The network to be diagnosed, and how its images are prepared."""

    data: MultilabelData
    view: View | None
    model: str
    network: nn.Module
    split: SplitModel
    head_given: str | None
    weights: Path
    match: Match  # how the names in the checkpoint are those of the network
    notes: list[str]

    @classmethod
    def load(
        cls, data: MultilabelData, model: str, weights: Path, *, weights_key: str | None, head: str | None
    ) -> _Subject:
        """Build the network for these data, and read its checkpoint."""
        view = fit_channels(data.view, model)
        channels = len(view.mean) if view is not None else _channels(data)
        network = build_model(model, len(data.label_names), channels=channels)
        match, read = read_weights(network, weights, weights_key=weights_key)
        network = ready(network)
        return cls(
            data=data,
            view=view,
            model=model,
            network=network,
            split=split_head(network, head),
            head_given=head,
            weights=weights,
            match=match,
            notes=[*data.notes, *read, *([GROUPED] if data.group else [])],
        )

    def record(self) -> dict[str, Any]:
        """The record of a diagnosis that has not begun, without its settings."""
        return {
            "schema_version": SCHEMA_VERSION,
            "command": "diagnose",
            "several_labels": True,
            "finished": False,
            "started": provenance.now(),
            "data": self.data.record(),
            "view": dataclasses.asdict(self.view) if self.view else None,
            "view_origin": self.data.view_origin,
            "model": {
                "name": self.model,
                "parameters": parameter_count(self.network),
                "head": self.split.head_name,
            },
            "head_given": self.head_given,
            "weights": {
                "path": str(self.weights),
                "sha256": shards.digest_checkpoint(self.weights),
                "key": self.match.key,
                "prefix": self.match.prefix,
            },
            "training": None,
            "notes": self.notes,
            **provenance.origin(self.split.device),
        }


@alone
def diagnose_multilabel_features(
    features: tuple[Path, Path],
    *,
    head: Path | None = None,
    out: Path,
    heldout: str | None = None,
    top_k: int | str = 10,
    threshold: float | Path = 0.5,
    seed: int = 0,
    overwrite: bool = False,
    say: Say,
) -> tuple[MultilabelDiagnosis, dict[str, Any]]:
    """Diagnose features with several labels per row, and leave the folder that `diagnose_multilabel_run` leaves.

    Args:
        features: The training and the held-out side: each a `.npz` file, a folder of `.npy` files or a `.parquet` file
            with `features` and `labels` (N, C), and if wanted `logits` and `class_names`.
        head: A safetensors or `.npz` file with `weight` (C, D) and, if it has one, `bias`. None finds the head that gives
            the logits in the files; without logits, it fits a head.
        out: The folder to write, all or nothing.
        heldout: `val` (the default), or `test` for a diagnosis that is for reading only.
        top_k: Number of strongest features per label, or a percentage of all.
        threshold: Probability at and above which a label is predicted; or the `thresholds.json` of a remedy, one for each.
        seed: Random seed of the resampling.
        overwrite: Replace an earlier run in `out`.
        say: Called with each note.

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
    names = class_names_of(columns, features)
    used, note = (read_head_file(head), None) if head is not None else _found_head(columns)
    train, held = (MultilabelEmbeddings.from_arrays(found["features"], found["labels"], head=used) for found in columns)
    split = heldout or "val"
    diagnosis = diagnose_multilabel(
        train,
        held,
        head=used,
        label_names=names,
        threshold=_thresholds(threshold, names or [f"label {c}" for c in range(used.num_classes)]),
        top_k=parse_top_k(top_k, used.num_features),
        heldout_split=split,
        seed=seed,
    )
    notes = [note] if note else []
    if any("groups" in found for found in columns):
        notes.append("the files hold groups, which no measure of several labels per image uses")
    for text in [*notes, UNRECORDED]:
        say(f"note: {text}")
    record = features_record(
        features,
        head,
        (train, held),
        class_names=diagnosis.label_names,
        class_counts=train.labels.sum(0),
        fitted=note == FITTED,
        split=split,
        top_k=diagnosis.top_k,
        seed=seed,
        notes=notes,
    )
    record |= {"several_labels": True, "threshold": diagnosis["threshold"].tolist()}
    with staging.staged_directory(out, overwrite=overwrite, owned=OWNED) as staged:
        save_head(staged / HEAD, used)
        record["weights"] = {"path": str(HEAD), "sha256": digests.sha256(staged / HEAD), "key": "", "prefix": ""}
        for name, part, side in (("train", "train", train), ("heldout", split, held)):
            mark = fingerprint(record["data"]["splits"][part]["digest"], None, record)
            side.save(staged / "embeddings" / name, {"fingerprint": mark})
        _write(staged, diagnosis, record)
        atomic.write_json(staged / "run.json", record)
    return diagnosis, record


def load_multilabel_diagnosed(
    folder: Path, name: str = "folder"
) -> tuple[MultilabelDiagnosis, MultilabelEmbeddings, MultilabelEmbeddings, LinearHead, dict[str, Any]]:
    """Read a folder that one of the two functions above wrote.

    Args:
        folder: The folder.
        name: Its name in errors.

    Returns:
        The diagnosis; the training and the held-out embeddings; the head; the record.

    Raises:
        InputError: It is no such folder, or one of its files is damaged.
    """
    if not folder.is_dir():
        raise must(name, "be a folder that `diversify diagnose` wrote", folder)
    record = atomic.read_json(folder / "run.json", "run.json")
    diagnosis = MultilabelDiagnosis.from_dict(atomic.read_json(folder / "diagnosis.json", "diagnosis.json"))
    train, held = (MultilabelEmbeddings.load(folder / "embeddings" / side) for side in ("train", "heldout"))
    return diagnosis, train, held, load_head(folder / HEAD), record


def _write(folder: Path, diagnosis: MultilabelDiagnosis, record: Mapping[str, Any]) -> None:
    """Write the diagnosis and its report."""
    atomic.write_json(folder / "diagnosis.json", diagnosis.to_dict())
    kept = MultilabelDiagnosis.from_dict(diagnosis.to_dict())  # rounded as in the file, as `report` reads it
    atomic.write_text(folder / "report.html", render_html(kept, record))
    atomic.write_text(folder / "report.md", render_markdown(kept, record))


def _load(options: DataOptions, progress: StageProgress | None) -> MultilabelData:
    """The data; options that are not defined for several labels are refused by name."""
    if options.spec is None:
        raise must("data", "be given for several labels per image", None)
    for name in ("imbalance", "tail_order"):
        if getattr(options, name) is not None:
            raise must(name, "be left out for several labels per image", getattr(options, name))
    for field in dataclasses.fields(options):
        value = getattr(options, field.name)
        if field.name in ("download", "skip_bad", "diversity", "narrow", "narrow_order") and value:
            raise must(field.name, "be left out for several labels per image", value)
    return load_multilabel_data(
        options.spec,
        mean=options.mean,
        std=options.std,
        resize=options.resize,
        crop=options.crop,
        interpolation=options.interpolation or "bilinear",
        check_progress=progress,
        holdout=options.holdout or 0.0,
        group=options.group,
    )


def _thresholds(threshold: float | Path, label_names: Sequence[str]) -> list[float]:
    """The threshold of each label: one number for all, or those of a file that `remedy` wrote."""
    if not isinstance(threshold, Path):
        return thresholds_of(threshold, len(label_names)).tolist()
    values = atomic.read_json(threshold, "threshold")
    found = []
    for name in label_names:
        try:
            found.append(float(values[name]["threshold"]))
        except (KeyError, TypeError, ValueError):
            raise must("threshold", "name a threshold for each label", f"none for {name} in {threshold}") from None
    return thresholds_of(found, len(found)).tolist()


def _channels(data: MultilabelData) -> int:
    """The number of channels of the images as the data set gives them."""
    return int(next(iter(multilabel_loader(data.train, None)))[0].shape[1])


def _inputs(options: DataOptions) -> list[Path]:
    """The files that the data and their groups are in, if there are any."""
    kind, _, place = (options.spec or "").partition(":")
    places = [Path(place)] if kind in ("npz", "csv") and place else []
    if options.group is not None:
        places.append(Path(options.group))
    return [each for each in places if each.is_file()]


def _heldout(data: MultilabelData, wanted: str | None) -> tuple[str, Split]:
    """The name and images of the held-out split: the source's own val, or test on request."""
    if wanted not in (None, "val", "test"):
        raise unknown("heldout", str(wanted), ("val", "test"))
    name = wanted or "val"
    found = data.test if name == "test" else data.val
    if found is None:
        advice = (
            "bring a validation set, pass the holdout that the network was trained without,"
            ' or pass heldout="test" for a diagnosis that is for reading only'
        )
        raise must(
            "data", f"have a {name} split of images that the model was not trained on", f"none in {data.spec}", advice
        )
    return name, found


def _chosen_on(weights: Path, split_name: str, heldout: Split) -> list[str]:
    """The caveat that `remedy` chose the head and thresholds on these very images, if it did."""
    file = weights.parent / "run.json"
    record = atomic.read_json(file, "run.json") if file.is_file() else {}
    try:
        chosen = record["of"]["data"]["splits"][split_name]["digest"] if record["command"] == "remedy" else None
    except (KeyError, TypeError):  # the record of something else
        return []
    return [CHOSE_HEAD] if chosen == heldout.digest() else []


def _found_head(columns: list[dict[str, atomic.Array]]) -> tuple[LinearHead, str]:
    """The head that gives the files' logits, or without logits a head fitted on the training side; and what was done."""
    with_logits = [found for found in columns if "logits" in found]
    if with_logits:
        logits = [real_tensor("logits", found["logits"], 2) for found in with_logits]
        return head_of_columns(with_logits, logits), FROM_LOGITS
    rows = real_tensor("features", columns[0]["features"], 2)
    return fit_multilabel_head(rows, torch.from_numpy(columns[0]["labels"])), FITTED
