"""The `diagnose` command, and what it left read back."""

from __future__ import annotations

import dataclasses
from functools import partial
from pathlib import Path
from typing import Any

import torch
from torch import nn
from torch.utils.data import Subset

from ..augment.leak import MOST_IMAGES, different_policies, evenly_spread, measure_leak
from ..data.duplicates import copies_in_words, find_duplicates
from ..data.load import Data
from ..data.loader import Split, make_loader
from ..data.view import View
from ..diagnosis.exhibits import choose_exhibits
from ..diagnosis.measure import diagnose, parse_top_k
from ..diagnosis.model_comparison import Model
from ..diagnosis.result import Diagnosis
from ..errors import InputError, must, unknown
from ..files import atomic, checkpoints, digests, staging
from ..network.embeddings import Embeddings
from ..network.extraction import extract
from ..network.linear_head import LinearHead, read_head
from ..network.networks import build_model, load_weights, parameter_count
from ..network.split import split_head
from ..plan.plan import Plan
from ..report.diagnosis import render_html, render_markdown
from ..report.thumbnails import take_pictures
from ..runtime import provenance
from .folders import OWNED, SCHEMA_VERSION, alone, run_folder, unfinished
from .options import DataOptions, channels_of, fit_channels
from .recorded import Recorded, carried
from .train import Progress, Say

HEAD = Path("embeddings") / "head.safetensors"
_MOST_PASSED = 40_000  # images through the network for its leak, in all
UNRECORDED = "no training record beside the weights; that train holds the images it learned from is taken on trust"
OTHER_IMAGES = "these training images are not those that the checkpoint's record names"
CHOSE_HEAD = (
    "this val chose the head and, where the plan was made from it, the plan, so what is measured on it is somewhat optimistic:"
    " test has the last word"
)


def load_trained(spec: str, weights: Path, num_classes: int, channels: int) -> nn.Module:
    """A network with the weights of a checkpoint, in eval mode, on the accelerator where there is one."""
    network = build_model(spec, num_classes, channels=channels)
    load_weights(network, weights)
    device = torch.accelerator.current_accelerator() if torch.accelerator.is_available() else torch.device("cpu")
    return network.to(device).eval()


def _trained_on(training: dict[str, Any] | None, data: Data, files: dict[str, str]) -> bool:
    """Whether the record of a training run names exactly these training images.

    Records that say nothing of what the images are, as those of data sets of one's own, are believed as far as they go.
    """
    if training is None:
        return False
    recorded = training["data"]["splits"]["train"]
    same_rows = recorded["digest"] == data.train.digest() and training.get("files", files) == files
    return bool(same_rows and recorded.get("content") in (None, data.train.content))


def _heldout(
    data: Data, wanted: str | None, training: dict[str, Any] | None, files: dict[str, str]
) -> tuple[str, Split]:
    """The held-out split: val where the user brought one or the checkpoint's record shows it untrained, test on request."""
    if wanted not in (None, "val", "test"):
        raise unknown("--heldout", str(wanted), ("val", "test"))
    if wanted == "test":
        if data.test is None:
            raise must("--heldout test", "find a test split", f"none in {data.spec}")
        return "test", data.test
    if data.val is not None and (data.val.origin == "source" or _trained_on(training, data, files)):
        return "val", data.val
    raise must(
        "--heldout",
        "be images that the model did not learn from",
        "none: there is no val split, or no record beside the weights that shows it untrained",
        "bring a val split (npz: or folder: with val, or train with --holdout), or pass --heldout test for a diagnosis"
        " that is only to be read",
    )


def _data_for(
    weights: Path, spec: str, options: DataOptions, training: dict[str, Any] | None, progress: Progress | None
) -> Data:
    """The data; where its labels skip numbers, numbered as the outputs of the checkpoint's head are."""
    data = options.load(measure_view=False, progress=progress)
    if data.label_numbers is None or training is not None:
        return data
    every = 1 + max(data.label_numbers)
    tensors = checkpoints.load_checkpoint(weights)
    if not any(every in tensor.shape for tensor in tensors.values()):  # numbers may be larger than any network
        return data
    channels = channels_of(data, fit_channels(data.view, spec))
    for outputs in (data.num_classes, every):
        shapes = build_model(spec, outputs, channels=channels).state_dict()
        if all(name in tensors and tensors[name].shape == value.shape for name, value in shapes.items() if value.ndim):
            break
    else:
        return data  # it fits neither, which `load_weights` puts into words
    if outputs == data.num_classes:
        return data
    return dataclasses.replace(options, relabel=False).load(measure_view=False)


def _trust(training: dict[str, Any] | None, data: Data, files: dict[str, str]) -> list[str]:
    """What is not known of the images that the model learned from, one sentence each."""
    if training is None:
        return [UNRECORDED]
    if not _trained_on(training, data, files):
        return [OTHER_IMAGES]
    return []


def _chosen(known: Recorded | None, heldout: Split) -> list[str]:
    """That the head was chosen by these very images, where it was."""
    return [CHOSE_HEAD] if known is not None and known.chose_head_by(heldout) else []


def _left_out(data: Data) -> list[str]:
    """How many images are not among those that the numbers are about."""
    count = len(data.skipped)
    kind = "image that cannot be read was" if count == 1 else "images that cannot be read were"
    return [f"{count:,} {kind} left out (--skip-bad)"] if count else []


def _view_origin(given: DataOptions, filled: DataOptions, data: Data) -> str:
    """Where what the model sees comes from, part by part where it is not one place; `filled` is `given` and what is recorded."""
    if data.view is None:
        return data.view_origin
    parts = ["mean", "std", "resize", "crop"]
    if filled.resize is not None and data.view.interpolation != "bilinear":  # which it is where nobody says otherwise
        parts.append("interpolation")
    places: dict[str, list[str]] = {"given": []}  # first, where there is any
    for part in parts:
        if getattr(given, part) is not None:
            places["given"].append(part)
        elif getattr(filled, part) is not None:
            places.setdefault("recorded", []).append(part)
        elif part in ("mean", "std"):
            places.setdefault(data.view_origin, []).append(part)
    told = {place: found for place, found in places.items() if found}
    if len(told) == 1:
        return next(iter(told))
    return "; ".join(f"{', '.join(found)} {place}" for place, found in told.items())


def _against_record(given: DataOptions, view: View | None, known: Recorded | None) -> list[str]:
    """Which flags say of the model's view what the record beside the weights does not, in one sentence, or none."""
    if known is None or view is None:
        return []
    recorded = known.values["view"] or {}
    differ = []
    for name in ("mean", "std", "resize", "crop", "interpolation"):
        seen, before = getattr(view, name), recorded.get(name)
        if getattr(given, name) is not None and seen != (tuple(before) if isinstance(before, list) else before):
            differ.append(f"{name} {_shown(seen)} (recorded: {_shown(before)})")
    return [f"the flags contradict the record beside the weights: {', '.join(differ)}"] if differ else []


def _shown(value: object) -> str:
    if value is None:
        return "none"
    return ",".join(map(str, value)) if isinstance(value, (list, tuple)) else str(value)


def _fingerprint(digest: str, content: str | None, record: dict[str, Any]) -> str:
    """What `extract` writes beside the embeddings of a split, by which they are known."""
    return digests.digest_json([digest, content, record["files"], record["view"]])


def _leak_of(
    weights: Path,
    training: dict[str, Any] | None,
    network: nn.Module,
    class_names: tuple[str, ...],
    heldout: Split,
    view: View | None,  # None: images of one's own loading, which may be normalised already
    *,
    precision: str,
    progress: Progress | None,
) -> dict[str, Any] | None:
    """What the image policies that a network was trained by do to its answers; None where it was not, or they are unknown."""
    plan = _plan_of(weights, training)
    if plan is None or view is None or tuple(one.name for one in plan.classes) != tuple(class_names):
        return None
    passes = 1 + different_policies(plan)
    rows = evenly_spread(heldout.labels, min(MOST_IMAGES, _MOST_PASSED // passes))
    if passes == 1 or len(rows) < plan.num_classes:
        return None
    found = measure_leak(
        network,
        plan,
        Subset(heldout.dataset, rows.tolist()),
        prepare=view.normalize,
        precision=precision,
        progress=None if progress is None else lambda done: progress("varying heldout", done, len(rows)),
    )
    return found.to_dict()


def _plan_of(weights: Path, training: dict[str, Any] | None) -> Plan | None:
    """The plan that a network was trained by, as it ended; None without one, or where the file is no longer that one."""
    told = (training or {}).get("plan")
    if not told:
        return None
    try:
        values = atomic.read_json(weights.parent / told["path"], "plan.json")
        known = digests.digest_json(values) == told["digest"]
        return Plan.from_dict((training or {}).get("plan_adapted") or values) if known else None
    except (InputError, OSError, KeyError):
        return None


def require_recorded(folder: Path, record: dict[str, Any]) -> None:
    """An InputError unless both embeddings in a folder are of the images that its record names, by one network."""
    splits, networks = record["data"]["splits"], set()
    for name, split in (("train", splits["train"]), ("heldout", splits[record["heldout_split"]])):
        index = atomic.read_json(folder / "embeddings" / name / "index.json", "embeddings index")
        networks.add(index.get("model"))
        if index.get("fingerprint") != _fingerprint(split["digest"], split.get("content"), record) or len(networks) > 1:
            advice = "run `diversify diagnose` again"
            raise must(f"{name} embeddings", "be those that the record names", f"others in {folder}", advice)


@alone
def diagnose_run(
    data_options: DataOptions,
    *,
    model: str | None,
    weights: Path,
    out: Path,
    head: str | None = None,
    heldout: str | None = None,
    top_k: int | str = 10,
    batch_size: int = 256,
    precision: str = "fp32",
    workers: int = 0,
    seed: int = 0,
    overwrite: bool = False,
    say: Say,
    progress: Progress | None = None,
) -> tuple[Diagnosis, dict[str, Any]]:
    """Diagnose a checkpoint; leaves `diagnosis.json`, `exhibits.json`, `embeddings/`, the report and `run.json` in `out`.

    Options that are not given come from the record beside the checkpoint, a training run's or a remedy's, where there is one.
    """
    atomic.require_file(weights, "weights")
    staging.ensure_available(  # an unfinished run may go on: `run_folder` looks closer
        out, overwrite or unfinished(out, "diagnose"), owned=OWNED, inputs=[weights, *data_options.inputs()]
    )
    known = Recorded.beside(weights)
    training = known.training if known else None
    options = data_options.filled_from(known.values if known else None)
    spec = model or (known.values["model"]["name"] if known else "small_cnn")
    head = head or (known.head if known and model is None else None)
    published = None
    if known is None:
        options, published = options.with_published(spec, weights)
    data = _data_for(weights, spec, options, training, progress)
    view = fit_channels(data.view, spec)
    view_origin = published or _view_origin(data_options, options, data)
    notes = [*data.notes, *_against_record(data_options, view, known)]
    split_name, unseen = _heldout(data, heldout, training, options.digests())
    network = load_trained(spec, weights, data.num_classes, channels_of(data, view))
    split = split_head(network, head)
    k = parse_top_k(top_k, read_head(split.head).num_features)
    mind = [*_trust(training, data, options.digests()), *_chosen(known, unseen)]
    record: dict[str, Any] = {
        "schema_version": SCHEMA_VERSION,
        "command": "diagnose",
        "finished": False,
        "started": provenance.now(),
        "data": data.record(),
        "files": options.digests(),
        "view": dataclasses.asdict(view) if view else None,
        "view_origin": view_origin,
        "model": {"name": spec, "parameters": parameter_count(network), "head": split.head_name},
        "head_given": head,
        "weights": {"path": str(weights), "sha256": digests.sha256(weights)},
        "training": carried(training, weights) if training else None,
        "heldout_split": split_name,
        "top_k": k,
        "precision": precision,
        "seed": seed,
        "notes": notes,
        "caveats": [*mind, *_left_out(data)],
        **provenance.origin(split.device),
    }
    say(
        f"data: {data.spec}, imbalance {data.imbalance}; {len(data.train)} train, {len(unseen)} held out ({split_name})"
    )
    for note in notes:
        say(f"note: {note}")
    say(f"the model sees: {view or 'images as the data set gives them'} ({view_origin})")
    for caveat in mind:  # what is left out is among the notes
        say(f"note: {caveat}")
    identity = digests.digest_json(
        {n: record[n] for n in ("data", "files", "view", "model", "weights", "precision", "heldout_split")}
    )
    with run_folder(out, record | {"identity": identity}, overwrite=overwrite):
        sides = []
        for name, part in (("train", data.train), ("heldout", unseen)):
            folder = out / "embeddings" / name
            sides.append(
                extract(
                    split,
                    make_loader(part, view, batch_size=batch_size, workers=workers),
                    precision=precision,  # type: ignore[arg-type]
                    out=folder,
                    fingerprint=_fingerprint(part.digest(), part.content, record),
                    progress=None if progress is None else partial(progress, f"reading {name}"),
                )
            )
        leak = _leak_of(
            weights, training, network, data.class_names, unseen, view, precision=precision, progress=progress
        )
        if leak is not None:
            record["leak"] = leak
        copies = find_duplicates(data.train, unseen, progress)
        record["duplicates"] = copies.record(split_name, len(unseen))
        if note := copies_in_words(record["duplicates"]):
            say(f"note: {note}")
        diagnosis = diagnose(
            *sides,
            head=split.head,
            class_names=data.class_names,
            heldout_split=split_name,
            top_k=k,
            seed=seed,
            progress=None if progress is None else partial(progress, "measuring"),
        )
        numbers = read_head(split.head)
        atomic.write_tensors(
            out / HEAD,
            {"weight": numbers.weight, "bias": numbers.bias},
            {"cosine": str(int(numbers.cosine)), "scale": repr(numbers.scale)},
        )
        atomic.write_json(out / "diagnosis.json", diagnosis.to_dict())
        exhibits = choose_exhibits(*sides, head=numbers, diagnosis=diagnosis)
        exhibits = take_pictures(exhibits, data.train.dataset, unseen.dataset)
        atomic.write_json(out / "exhibits.json", exhibits.to_dict())
        kept = Diagnosis.from_dict(diagnosis.to_dict())  # to the digits of the file, so that `report` gives the same
        atomic.write_text(out / "report.html", render_html(kept, record, exhibits))
        atomic.write_text(out / "report.md", render_markdown(kept, record, exhibits))
        record |= {"identity": identity, "finished": True}
        atomic.write_json(out / "run.json", record)
    return diagnosis, record


def load_diagnosed(folder: Path) -> tuple[Diagnosis, Model, dict[str, Any]]:
    """What `diagnose_run` left: the diagnosis, the embeddings and the head, and the record."""
    if not folder.is_dir():
        raise must("DIR", "be a folder that `diversify diagnose` left", folder)
    record = atomic.read_json(folder / "run.json", "run.json")
    diagnosis = Diagnosis.from_dict(atomic.read_json(folder / "diagnosis.json", "diagnosis.json"))
    tensors, metadata = atomic.read_tensors(folder / HEAD, "head")
    try:
        cosine, scale = bool(int(metadata["cosine"])), float(metadata["scale"])
        numbers = LinearHead(weight=tensors["weight"], bias=tensors["bias"], cosine=cosine, scale=scale)
    except (KeyError, ValueError) as error:
        raise must("head", "be one that `diversify diagnose` left", folder / HEAD) from error
    sides = [Embeddings.load(folder / "embeddings" / name) for name in ("train", "heldout")]
    return diagnosis, Model(name=folder.name, train=sides[0], heldout=sides[1], head=numbers), record
