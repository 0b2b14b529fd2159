"""What the commands do, without a word printed: each makes one folder whose `run.json` says where it comes from.

`say` takes a line for the reader, `progress` takes (what, done, in all).
"""

from __future__ import annotations

import contextlib
import dataclasses
import os
from collections.abc import Callable, Iterator
from functools import partial
from pathlib import Path
from typing import Any

import pydantic
import torch
from torch import nn

from . import origin, storage
from .augment import CropFlip
from .comparison import Model, ModelComparison, compare_models
from .comparison_report import render_comparison_html, render_comparison_markdown
from .data import Data, Imbalance, Split, View, collate, load_data, make_loader
from .diagnosis import Diagnosis
from .embeddings import Embeddings
from .errors import InputError, must, unknown
from .extraction import extract
from .functional import counts
from .heads import LinearHead, read_head, split_head
from .measuring import diagnose, parse_top_k
from .models import build_model, load_weights, parameter_count
from .report import render_html, render_markdown
from .training import Ingredients, Recipe, fit, require_resumable

Say = Callable[[str], None]
Progress = Callable[[str, int, int], None]

SCHEMA_VERSION = 1
METHODS = ("ce",)
AUGMENTATIONS = ("auto", "none", "crop", "crop-flip")


@dataclasses.dataclass(frozen=True, kw_only=True)
class DataOptions:
    """The DATA flags of the command line; None where the user gave none."""

    spec: str | None = None
    root: str = "data"
    imbalance: str | None = None
    tail_order: str | None = None
    holdout: float | None = None
    mean: tuple[float, ...] | None = None
    std: tuple[float, ...] | None = None
    resize: int | None = None
    crop: int | None = None
    download: bool = False

    def load(self, *, measure_view: bool) -> Data:
        """The data that these flags name, with the contract's defaults where they are silent."""
        return load_data(
            self.spec or "digits",
            root=self.root,
            imbalance=Imbalance.parse(self.imbalance or "none"),
            tail_order=self.tail_order or "canonical",
            holdout=0.2 if self.holdout is None else self.holdout,
            mean=self.mean,
            std=self.std,
            resize=self.resize,
            crop=self.crop,
            download=self.download,
            measure_view=measure_view,
        )

    def inputs(self) -> list[Path]:
        """The file or folder that `--data` names, if it names one: never to be written over."""
        kind, _, place = (self.spec or "").partition(":")
        return [Path(place)] if kind in ("npz", "folder") and place else []

    def digests(self) -> dict[str, str]:
        """sha256 of the file that `--data npz:FILE` names: two files may have the same labels."""
        return {place.name: storage.sha256(place) for place in self.inputs() if place.is_file()}

    def filled_from(self, record: dict[str, Any] | None) -> DataOptions:
        """The flags the user gave, and for the rest those that a training run recorded."""
        if record is None:
            return self
        data, view = record["data"], record.get("view") or {}
        if self.spec is not None and self.spec != data["spec"]:
            return self
        recorded = {name: data[name] for name in ("spec", "imbalance", "tail_order", "holdout")}
        if self.mean is None and self.std is None:
            recorded |= {name: tuple(view[name]) for name in ("mean", "std") if name in view}
        recorded |= {name: view[name] for name in ("resize", "crop") if view.get(name) is not None}
        return dataclasses.replace(self, **{k: v for k, v in recorded.items() if getattr(self, k) is None})


def _fit_channels(view: View | None, model: str) -> View | None:
    """Grey images are repeated for networks that are built for colour."""
    if view is not None and len(view.mean) == 1 and model.startswith(("torchvision:", "timm:")):
        return dataclasses.replace(view, mean=view.mean * 3, std=view.std * 3)
    return view


def _channels(data: Data, view: View | None) -> int:
    return len(view.mean) if view is not None else int(collate([data.train.dataset[0]])[0].shape[1])


def _augmentation(name: str, data: Data) -> CropFlip | None:
    """Zero-pad an eighth of the side and crop; mirror where a mirror image shows the same class."""
    if name not in AUGMENTATIONS:
        raise unknown("--augment", name, AUGMENTATIONS)
    if name == "none":
        return None
    side = min(collate([data.train.dataset[0]])[0].shape[2:])
    return CropFlip(padding=side // 8, mirror=data.mirror if name == "auto" else name == "crop-flip")


@dataclasses.dataclass(frozen=True, kw_only=True)
class _Training:
    """What a training run is made of, and its record so far."""

    data: Data
    view: View | None
    network: nn.Module
    augmentation: CropFlip | None
    record: dict[str, Any]
    identity: str

    @classmethod
    def prepared(cls, data_options: DataOptions, model: str, method: str, recipe: Recipe, augment: str) -> _Training:
        """Load the data and build the network, or say what is wrong with either."""
        data = data_options.load(measure_view=True)
        present = counts.class_counts(data.train.labels, data.num_classes)
        if int(present.min()) == 0:
            absent = ", ".join(data.class_names[c] for c in (present == 0).nonzero()[:, 0].tolist())
            raise must("every class", "have a training image", f"none of {absent}")
        view = _fit_channels(data.view, model)
        network = build_model(model, data.num_classes, channels=_channels(data, view), seed=recipe.seed)
        augmentation = _augmentation(augment, data)
        record: dict[str, Any] = {
            "schema_version": SCHEMA_VERSION,
            "command": "train",
            "finished": False,
            "started": origin.now(),
            "data": data.record(),
            "files": data_options.digests(),
            "view": dataclasses.asdict(view) if view else None,
            "view_origin": data.view_origin,
            "model": {
                "name": model,
                "parameters": parameter_count(network),
                "initial_weights": storage.digest_tensors(network.state_dict()),
            },
            "method": method,
            "augmentation": dataclasses.asdict(augmentation) if augmentation else None,
            "recipe": dataclasses.asdict(recipe),
            "seed": recipe.seed,
        }
        identity = [record["data"], record["view"], record["model"], record["augmentation"], method]
        return cls(
            data=data,
            view=view,
            network=network,
            augmentation=augmentation,
            record=record,
            identity=storage.digest_json(identity),
        )

    def describe(self, say: Say) -> None:
        """The data, what the model sees, and the model, in words."""
        data, recipe = self.data, self.record["recipe"]
        sizes = f"{len(data.train)} train, {len(data.val) if data.val else 0} val"
        say(f"data: {data.spec}, {data.num_classes} classes, {sizes}; imbalance {data.imbalance}")
        say(f"the model sees: {self.view or 'images as the data set gives them'} ({data.view_origin})")
        say(f"augmentation in training: {self.augmentation or 'none'}")
        parameters = self.record["model"]["parameters"]
        name, method = self.record["model"]["name"], self.record["method"]
        say(f"model: {name}, {parameters:,} parameters; {method}, {recipe['epochs']} epochs")


def train_run(
    data_options: DataOptions,
    *,
    model: str,
    method: str = "ce",
    recipe: Recipe,
    out: Path,
    augment: str = "auto",
    workers: int = 0,
    resume: bool = False,
    overwrite: bool = False,
    say: Say,
    progress: Progress | None = None,
) -> dict[str, Any]:
    """Train a network and leave `model.safetensors`, `metrics.jsonl`, `state/`, `run.json` in `out`; returns the record.

    Under a launcher of several processes (torchrun, accelerate) the first one checks, writes and speaks.
    """
    if method not in METHODS:
        raise unknown("--method", method, METHODS)
    first = os.environ.get("RANK", "0") == "0"
    state = out / "state" / "state.safetensors"
    begun = _unfinished(out, "train")
    if first and begun and not overwrite and not resume:
        raise must("DIR", "be new or empty", out, "pass --resume to go on with the run in it, or --overwrite")
    if first:
        storage.ensure_available(out, overwrite or resume, inputs=data_options.inputs())
    if resume and not state.exists() and not begun:
        raise must("--resume", "find the state of an earlier run", f"none in {out}", "leave --resume out to start one")
    goes_on = resume and state.exists()  # a run that was stopped in its first epoch begins again
    run = _Training.prepared(data_options, model, method, recipe, augment)
    data, view, record = run.data, run.view, run.record
    new = not out.exists()
    if goes_on:
        require_resumable(state, recipe=recipe, identity=run.identity)
    if first:
        run.describe(say)
        if goes_on:
            record["started"] = storage.read_json(out / "run.json", "run.json").get("started", record["started"])
        else:
            storage.clear(out)
        storage.write_json(out / "run.json", record)  # the folder is known as a run from now on
    epochs = fit(
        run.network,
        data.train.dataset,
        recipe=recipe,
        num_classes=data.num_classes,
        ingredients=Ingredients(augment=run.augmentation),
        val=make_loader(data.val, view, workers=workers) if data.val else None,
        collate=collate,
        prepare=view.normalize if view else None,
        workers=workers,
        state=state,
        identity=run.identity,
        progress=None if progress is None or not first else partial(progress, "training"),
    )
    history = []
    try:
        for epoch in epochs:
            history.append(dataclasses.asdict(epoch))
            if first:
                storage.write_jsonl(out / "metrics.jsonl", history)
    except Exception:
        if first and not state.exists():
            discard(out, new)
        raise
    weights = out / "model.safetensors"
    record |= {
        **origin.origin(next(run.network.parameters()).device),
        "finished": True,
        "seconds": sum(line["seconds"] for line in history),
        "balanced_accuracy_val": history[-1]["balanced_accuracy_val"],
    }
    if first:
        storage.write_tensors(weights, run.network.state_dict())
        record["weights"] = {"path": weights.name, "sha256": storage.sha256(weights)}
        storage.write_json(out / "run.json", record)
    return record


class _Recorded(pydantic.BaseModel, extra="allow"):
    """What is read of a training run's `run.json`."""

    class Data(pydantic.BaseModel):
        spec: str
        imbalance: str
        tail_order: str
        holdout: float
        splits: dict[str, dict[str, Any]]

    class Weights(pydantic.BaseModel):
        sha256: str

    class Model(pydantic.BaseModel):
        name: str
        initial_weights: str

    data: Data
    view: View | None
    model: Model
    recipe: dict[str, Any]
    seed: int
    weights: Weights


def recorded_training(weights: Path) -> dict[str, Any] | None:
    """The `run.json` beside a checkpoint, when a training run wrote it for exactly this checkpoint; else None."""
    beside = weights.parent / "run.json"
    if not beside.is_file():
        return None
    try:
        record: dict[str, Any] = storage.read_json(beside, "run.json")
        recorded = _Recorded.model_validate(record)
    except (InputError, pydantic.ValidationError):
        return None  # somebody else's file of that name
    return record if recorded.weights.sha256 == storage.sha256(weights) else None


def load_trained(spec: str, weights: Path, num_classes: int, channels: int) -> nn.Module:
    """A network with the weights of a checkpoint, in eval mode, on the accelerator where there is one."""
    network = build_model(spec, num_classes, channels=channels)
    load_weights(network, weights)
    device = torch.accelerator.current_accelerator() if torch.accelerator.is_available() else torch.device("cpu")
    return network.to(device).eval()


def _trained_on(training: dict[str, Any] | None, data: Data, files: dict[str, str]) -> bool:
    """Whether the record of a training run names exactly these training images."""
    if training is None:
        return False
    same_images = training["data"]["splits"]["train"]["digest"] == data.train.digest()
    return bool(same_images and training.get("files", files) == files)


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
    """Diagnose a checkpoint and leave `diagnosis.json`, `embeddings/`, `report.html`, `report.md`, `run.json` in `out`.

    Options that are not given come from the training record beside the checkpoint, where there is one.
    """
    storage.require_file(weights, "weights")
    storage.ensure_available(  # an unfinished run may go on: `run_folder` looks closer
        out, overwrite or _unfinished(out, "diagnose"), inputs=[weights, *data_options.inputs()]
    )
    training = recorded_training(weights)
    options = data_options.filled_from(training)
    data = options.load(measure_view=False)
    view_origin = "recorded" if options.mean != data_options.mean else data.view_origin
    spec = model or (training["model"]["name"] if training else "small_cnn")
    view = _fit_channels(data.view, spec)
    split_name, unseen = _heldout(data, heldout, training, options.digests())
    network = load_trained(spec, weights, data.num_classes, _channels(data, view))
    split = split_head(network, head)
    k = parse_top_k(top_k, read_head(split.head).num_features)
    record: dict[str, Any] = {
        "schema_version": SCHEMA_VERSION,
        "command": "diagnose",
        "finished": False,
        "started": origin.now(),
        "data": data.record(),
        "files": options.digests(),
        "view": dataclasses.asdict(view) if view else None,
        "view_origin": view_origin,
        "model": {"name": spec, "parameters": parameter_count(network), "head": split.head_name},
        "weights": {"path": str(weights), "sha256": storage.sha256(weights)},
        "training": {"seed": training["seed"], "recipe": training["recipe"], **training["model"]} if training else None,
        "heldout_split": split_name,
        "top_k": k,
        "precision": precision,
        "seed": seed,
        **origin.origin(split.device),
    }
    say(
        f"data: {data.spec}, imbalance {data.imbalance}; {len(data.train)} train, {len(unseen)} held out ({split_name})"
    )
    say(f"the model sees: {view or 'images as the data set gives them'} ({view_origin})")
    if training is None:
        say(
            "note: no training record beside the weights; that train holds the images it learned from is taken on trust"
        )
    elif not _trained_on(training, data, options.digests()):
        say("note: these training images are not those that the checkpoint's record names")
    identity = storage.digest_json(
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
                    fingerprint=storage.digest_json([part.digest(), record["files"], record["view"]]),
                    progress=None if progress is None else partial(progress, f"reading {name}"),
                )
            )
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
        storage.write_tensors(
            out / HEAD,
            {"weight": numbers.weight, "bias": numbers.bias},
            {"cosine": str(int(numbers.cosine)), "scale": repr(numbers.scale)},
        )
        storage.write_json(out / "diagnosis.json", diagnosis.to_dict())
        storage.write_text(out / "report.html", render_html(diagnosis, record))
        storage.write_text(out / "report.md", render_markdown(diagnosis, record))
        record |= {"identity": identity, "finished": True}
        storage.write_json(out / "run.json", record)
    return diagnosis, record


HEAD = Path("embeddings") / "head.safetensors"


@contextlib.contextmanager
def run_folder(out: Path, record: dict[str, Any], *, overwrite: bool) -> Iterator[None]:
    """`out` as the folder of one run: an interrupted run of the same identity goes on, bad input leaves nothing behind."""
    new = not out.exists()
    goes_on = False
    if (out / "run.json").is_file() and not overwrite:
        goes_on = (
            _unfinished(out, record["command"])
            and storage.read_json(out / "run.json", "run.json").get("identity") == record["identity"]
        )
    storage.ensure_available(out, overwrite or goes_on)
    if not goes_on:
        storage.clear(out)
    storage.write_json(out / "run.json", record)
    try:
        yield
    except InputError:
        discard(out, new)
        raise


def discard(out: Path, new: bool) -> None:
    """Remove what a run left, and its folder too where it is of this run's making."""
    storage.clear(out)
    if new and not any(out.iterdir()):
        out.rmdir()


def _unfinished(out: Path, command: str) -> bool:
    """Whether `out` holds a run of this command that was stopped before its end."""
    if not storage.is_run(out):
        return False
    record = storage.read_json(out / "run.json", "run.json")
    return record["command"] == command and record.get("finished") is False


def load_diagnosed(folder: Path) -> tuple[Diagnosis, Model, dict[str, Any]]:
    """What `diagnose_run` left: the diagnosis, the embeddings and the head, and the record."""
    if not folder.is_dir():
        raise must("DIR", "be a folder that `diversify diagnose` left", folder)
    record = storage.read_json(folder / "run.json", "run.json")
    diagnosis = Diagnosis.from_dict(storage.read_json(folder / "diagnosis.json", "diagnosis.json"))
    tensors, metadata = storage.read_tensors(folder / HEAD, "head")
    try:
        cosine, scale = bool(int(metadata["cosine"])), float(metadata["scale"])
        numbers = LinearHead(weight=tensors["weight"], bias=tensors["bias"], cosine=cosine, scale=scale)
    except (KeyError, ValueError) as error:
        raise must("head", "be one that `diversify diagnose` left", folder / HEAD) from error
    sides = [Embeddings.load(folder / "embeddings" / name) for name in ("train", "heldout")]
    return diagnosis, Model(name=folder.name, train=sides[0], heldout=sides[1], head=numbers), record


def compare_run(
    first: Path, second: Path, *, out: Path, overwrite: bool = False, say: Say
) -> tuple[ModelComparison, dict[str, Any]]:
    """Compare two folders of `diagnose_run`; leaves `comparison.json`, `report.html`, `report.md`, `run.json` in `out`."""
    storage.ensure_available(out, overwrite, inputs=(first, second))
    (one, one_model, one_record), (two, two_model, two_record) = load_diagnosed(first), load_diagnosed(second)
    if one.class_names != two.class_names:
        differ = [f"{a} and {b}" for a, b in zip(one.class_names, two.class_names, strict=False) if a != b]
        raise must("both diagnoses", "have the same classes", (differ or ["another number of them"])[0])
    if one.top_k != two.top_k:
        raise must(
            "both diagnoses", "have the same top-K", f"{one.top_k} and {two.top_k}", "diagnose again with one --top-k"
        )
    starts = [(record.get("training") or {}).get("initial_weights") for record in (one_record, two_record)]
    if one_model.name == two_model.name:
        one_model, two_model = (
            dataclasses.replace(model, name=str(folder)) for model, folder in ((one_model, first), (two_model, second))
        )
    comparison = compare_models(
        one_model,
        two_model,
        class_names=one.class_names,
        shared_start=starts[0] is not None and starts[0] == starts[1],
        top_k=one.top_k,
        seed=one.seed,
    )
    say(f"features of the two are identified by: {comparison.matched_by}")
    record = {
        "schema_version": SCHEMA_VERSION,
        "command": "compare",
        "started": origin.now(),
        "first": {"path": str(first), **one_record},
        "second": {"path": str(second), **two_record},
        **origin.origin(torch.device("cpu")),
    }
    with storage.staged_directory(out, overwrite=overwrite) as folder:
        storage.write_json(folder / "comparison.json", comparison.to_dict())
        storage.write_text(folder / "report.html", render_comparison_html(comparison, record))
        storage.write_text(folder / "report.md", render_comparison_markdown(comparison, record))
        storage.write_json(folder / "run.json", record)
    return comparison, record


DEMO_RECIPE = Recipe(epochs=60, batch_size=32, learning_rate=0.05, schedule="cosine", warmup_epochs=3, precision="fp32")


def demo_run(
    out: Path, *, seed: int = 0, overwrite: bool = False, say: Say, progress: Progress | None = None
) -> tuple[Diagnosis, dict[str, Any]]:
    """Train `small_cnn` on long-tailed digits and diagnose it on their test images; `out/diagnosis/report.html` shows it."""
    storage.ensure_available(out, overwrite)
    storage.clear(out)
    record = {
        "schema_version": SCHEMA_VERSION,
        "command": "demo",
        "finished": False,
        "seed": seed,
        "started": origin.now(),
        **origin.origin(torch.device("cpu")),
    }
    storage.write_json(out / "run.json", record)
    options = DataOptions(spec="digits", imbalance="exp:20:100", holdout=0.0)
    trained = out / "train"
    recipe = dataclasses.replace(DEMO_RECIPE, seed=seed)
    train_run(options, model="small_cnn", recipe=recipe, out=trained, say=say, progress=progress)
    found = diagnose_run(
        DataOptions(),
        model=None,
        weights=trained / "model.safetensors",
        heldout="test",
        out=out / "diagnosis",
        seed=seed,
        say=say,
        progress=progress,
    )
    storage.write_json(out / "run.json", record | {"finished": True, "parts": ["train", "diagnosis"]})
    return found


__all__ = [
    "DataOptions",
    "compare_run",
    "demo_run",
    "diagnose_run",
    "load_diagnosed",
    "load_trained",
    "recorded_training",
    "train_run",
]
