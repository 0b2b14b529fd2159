"""The `diagnose` command."""

from __future__ import annotations

import contextlib
import dataclasses
from pathlib import Path
from typing import Any

import torch
from torch import nn
from torch.utils.data import Subset

from ..augment.leak import MOST_IMAGES, different_policies, evenly_spread, measure_leak
from ..data.load import Data
from ..data.loader import Split, make_loader
from ..data.view import View
from ..diagnosis.choose_exhibits import choose_exhibits
from ..diagnosis.measure import diagnose, parse_top_k
from ..diagnosis.near_copies import NearCopies
from ..diagnosis.result import Diagnosis
from ..errors import InputError
from ..files import atomic, checkpoints, digests, shards, staging
from ..network.embeddings import Embeddings
from ..network.embeddings_folder import write_groups
from ..network.head_file import save_head
from ..network.linear_head import read_head
from ..network.matching import Match, fits
from ..network.networks import build_model, parameter_count, read_weights
from ..network.shared_extraction import extract_shared
from ..network.split import SplitModel, split_head
from ..plan.plan import Plan
from ..report.diagnosis import render_html, render_markdown
from ..report.thumbnails import take_pictures
from ..runtime import launched, provenance
from ..runtime.launched import is_first
from ..runtime.progress import Say, StageProgress, stage
from .copies import look_for_copies
from .diagnosed import HEAD, fingerprint
from .folders import OWNED, SCHEMA_VERSION, alone, run_folder, unfinished
from .heldout import choose_heldout, chosen_by, doubts_about
from .options import DataOptions, channels_of, fit_channels
from .recorded import Recorded, carried

_MOST_FORWARD = 40_000  # forward passes, counted in images, that the leak may cost


def load_trained(model: str, weights: Path, num_classes: int, channels: int) -> nn.Module:
    """The network `model` with the weights of a checkpoint, in eval mode, on the accelerator if there is one."""
    network = build_model(model, num_classes, channels=channels)
    read_weights(network, weights)
    return ready(network)


def ready(network: nn.Module) -> nn.Module:
    """The network in eval mode, on the accelerator if there is one."""
    device = torch.accelerator.current_accelerator() if torch.accelerator.is_available() else torch.device("cpu")
    return network.to(device).eval()


def _data_for(
    weights: Path,
    weights_key: str | None,
    model: str,
    options: DataOptions,
    training: dict[str, Any] | None,
    progress: StageProgress | None,
) -> Data:
    """The data; where its labels skip numbers, they are numbered to match the outputs of the checkpoint's head."""
    data = options.load(measure_view=False, progress=progress)
    if data.label_numbers is None or training is not None:
        return data
    every = 1 + max(data.label_numbers)
    found = checkpoints.read_state_dicts(weights)
    if weights_key is not None:
        found = checkpoints.chosen(found, weights_key, weights)
    if not any(
        every in tensor.shape for tensors in found.values() for tensor in tensors.values()
    ):  # a label may be larger than any network
        return data
    channels = channels_of(data, fit_channels(data.view, model))
    for outputs in (data.num_classes, every):
        shapes = build_model(model, outputs, channels=channels).state_dict()
        if fits(found, shapes):
            break
    else:
        return data  # it fits neither: `read_weights` says why
    if outputs == data.num_classes:
        return data
    return dataclasses.replace(options, relabel=False).load(measure_view=False)


def network_for(name: str, num_classes: int, channels: int, weights: Path, weights_key: str | None) -> nn.Module:
    """The network with an output per class; for two classes with one output, if the checkpoint fits that alone."""
    network = build_model(name, num_classes, channels=channels)
    if num_classes != 2:
        return network
    found = checkpoints.read_state_dicts(weights)
    if weights_key is not None:
        found = checkpoints.chosen(found, weights_key, weights)
    if fits(found, network.state_dict()):
        return network
    with contextlib.suppress(InputError):
        single = build_model(name, 1, channels=channels)
        if fits(found, single.state_dict()):
            return single
    return network  # it fits neither: `read_weights` says why


def _left_out(data: Data) -> list[str]:
    """The caveat that images were left out, if any were."""
    count = len(data.skipped)
    kind = "image that cannot be read was" if count == 1 else "images that cannot be read were"
    return [f"{count:,} {kind} left out on request"] if count else []


def _view_origin(given: DataOptions, filled: DataOptions, data: Data) -> str:
    """The source of the preprocessing, part by part if there is more than one source.

    `filled` is `given`, completed from the record.
    """
    if data.view is None:
        return data.view_origin
    parts = ["mean", "std", "resize", "crop"]
    if filled.resize is not None and data.view.interpolation != "bilinear":  # bilinear is the default
        parts.append("interpolation")
    places: dict[str, list[str]] = {"given": []}  # first, where there is any
    for part in parts:
        if getattr(given, part) is not None:
            places["given"].append(part)
        elif getattr(filled, part) is not None:
            places.setdefault("recorded", []).append(part)
        elif part in ("mean", "std"):
            places.setdefault(data.view_origin, []).append(part)
    used = {place: found for place, found in places.items() if found}
    if len(used) == 1:
        return next(iter(used))
    return "; ".join(f"{', '.join(found)} {place}" for place, found in used.items())


def _against_record(given: DataOptions, view: View | None, known: Recorded | None) -> list[str]:
    """The note on the options that contradict the preprocessing recorded beside the weights, if there are any."""
    if known is None or view is None:
        return []
    recorded = known.values["view"] or {}
    differ = []
    for name in ("mean", "std", "resize", "crop", "interpolation"):
        seen, before = getattr(view, name), recorded.get(name)
        if getattr(given, name) is not None and seen != (tuple(before) if isinstance(before, list) else before):
            differ.append(f"{name} {_shown(seen)} (recorded: {_shown(before)})")
    return [f"the given options contradict the record beside the weights: {', '.join(differ)}"] if differ else []


def _shown(value: object) -> str:
    if value is None:
        return "none"
    return ",".join(map(str, value)) if isinstance(value, (list, tuple)) else str(value)


def _training_plan(weights: Path, training: dict[str, Any] | None) -> Plan | None:
    """The plan that a network was trained with, in its final state; None without one, or if its file has changed since."""
    recorded = (training or {}).get("plan")
    if not recorded:
        return None
    try:
        values = atomic.read_json(weights.parent / recorded["path"], "plan.json")
        known = digests.digest_json(values) == recorded["digest"]
        return Plan.from_dict((training or {}).get("plan_adapted") or values) if known else None
    except (InputError, OSError, KeyError):
        return None


@dataclasses.dataclass(frozen=True, kw_only=True)
class _Subject:
    """The network to be diagnosed, the images that it is measured on, and what is known of both."""

    weights: Path
    match: Match  # how the names in the checkpoint are those of the network
    model: str
    network: nn.Module
    split: SplitModel
    head_given: str | None
    training: dict[str, Any] | None  # the record of the training run
    data: Data
    files: dict[str, str]  # digests of the files of the data
    heldout_split: str
    heldout: Split
    view: View | None
    view_origin: str
    notes: list[str]
    doubts: list[str]  # about the images that the network was trained on

    @classmethod
    def load(
        cls,
        data_options: DataOptions,
        *,
        model: str | None,
        weights: Path,
        weights_key: str | None,
        head: str | None,
        heldout: str | None,
        progress: StageProgress | None,
    ) -> _Subject:
        """Load data and network; what the caller leaves out comes from the record beside the weights."""
        known = Recorded.beside(weights)
        training = known.training if known else None
        options = data_options.filled_from(known.values if known else None)
        name = model or (known.values["model"]["name"] if known else "small_cnn")
        head = head or (known.head if known and model is None else None)
        published = None
        if known is None:
            options, published = options.with_published(name, weights, weights_key)
        files = options.digests()
        data = _data_for(weights, weights_key, name, options, training, progress)
        view = fit_channels(data.view, name)
        heldout_split, unseen = choose_heldout(data, heldout, training, files)
        network = network_for(name, data.num_classes, channels_of(data, view), weights, weights_key)
        match, read = read_weights(network, weights, weights_key=weights_key)
        network = ready(network)
        return cls(
            weights=weights,
            match=match,
            model=name,
            network=network,
            split=split_head(network, head),
            head_given=head,
            training=training,
            data=data,
            files=files,
            heldout_split=heldout_split,
            heldout=unseen,
            view=view,
            view_origin=published or _view_origin(data_options, options, data),
            notes=[*data.notes, *read, *_against_record(data_options, view, known)],
            doubts=[*doubts_about(training, data, files), *chosen_by(known, unseen)],
        )

    def record(self, *, top_k: int, precision: str, seed: int) -> dict[str, Any]:
        """The record of a diagnosis that has not begun."""
        data, training = self.data, self.training
        return {
            "schema_version": SCHEMA_VERSION,
            "command": "diagnose",
            "finished": False,
            "started": provenance.now(),
            "data": data.record(),
            "files": self.files,
            "view": dataclasses.asdict(self.view) if self.view else None,
            "view_origin": self.view_origin,
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
            "training": carried(training, self.weights) if training else None,
            "heldout_split": self.heldout_split,
            "top_k": top_k,
            "precision": precision,
            "seed": seed,
            "notes": self.notes,
            "caveats": [*self.doubts, *_left_out(data)],
            **provenance.origin(self.split.device),
        }

    def describe(self, say: Say) -> None:
        """Say which images are used, how they are preprocessed, and what is doubtful."""
        data = self.data
        sizes = f"{len(data.train)} train, {len(self.heldout)} held out ({self.heldout_split})"
        say(f"data: {data.spec}, imbalance {data.imbalance}; {sizes}")
        for note in self.notes:
            say(f"note: {note}")
        say(f"the model sees: {self.view or 'images as the data set gives them'} ({self.view_origin})")
        for doubt in self.doubts:  # images that are left out are among the notes
            say(f"note: {doubt}")

    def embed(
        self,
        out: Path,
        record: dict[str, Any],
        *,
        batch_size: int,
        precision: str,
        workers: int,
        progress: StageProgress | None,
    ) -> tuple[Embeddings, Embeddings]:
        """Extract the embeddings of train and of the held-out split; each folder in `out` resumes an earlier extraction.

        Raises:
            ShareDone: Several processes share the work, and this is not the first.
        """
        train, heldout = (
            extract_shared(
                self.split,
                make_loader(part, self.view, batch_size=batch_size, workers=workers),
                precision=precision,  # type: ignore[arg-type]
                out=out / "embeddings" / name,
                fingerprint=fingerprint(part.digest(), part.content, record),
                progress=stage(progress, f"reading {name}"),
            )
            for name, part in (("train", self.data.train), ("heldout", self.heldout))
        )
        if train is None or heldout is None:
            raise launched.ShareDone
        for name, part in (("train", self.data.train), ("heldout", self.heldout)):
            if part.groups is not None:
                write_groups(out / "embeddings" / name, part.groups)
        return train.with_groups(self.data.train.groups), heldout.with_groups(self.heldout.groups)

    def leak(self, *, precision: str, progress: StageProgress | None) -> dict[str, Any] | None:
        """The leak of the image policies that the network was trained with; None without them, or if they are unknown."""
        plan = _training_plan(self.weights, self.training)
        view = self.view  # None for the user's own data set, whose images may be normalised already
        if plan is None or view is None or tuple(one.name for one in plan.classes) != tuple(self.data.class_names):
            return None
        passes = 1 + different_policies(plan)
        rows = evenly_spread(self.heldout.labels, min(MOST_IMAGES, _MOST_FORWARD // passes))
        if passes == 1 or len(rows) < plan.num_classes:
            return None
        found = measure_leak(
            self.network,
            plan,
            Subset(self.heldout.dataset, rows.tolist()),
            prepare=view.normalize,
            precision=precision,
            progress=stage(progress, "augmenting heldout"),
        )
        return found.to_dict()

    def write(
        self,
        out: Path,
        diagnosis: Diagnosis,
        sides: tuple[Embeddings, Embeddings],
        record: dict[str, Any],
        image_copies: NearCopies | None,
    ) -> None:
        """Write the head, the diagnosis, the exhibits and the report to `out`."""
        head = read_head(self.split.head)
        save_head(out / HEAD, head)
        atomic.write_json(out / "diagnosis.json", diagnosis.to_dict())
        exhibits = choose_exhibits(*sides, head=head, diagnosis=diagnosis, image_copies=image_copies)
        exhibits = take_pictures(exhibits, self.data.train.dataset, self.heldout.dataset)
        atomic.write_json(out / "exhibits.json", exhibits.to_dict())
        kept = Diagnosis.from_dict(diagnosis.to_dict())  # rounded as in the file, so that `report` gives the same page
        atomic.write_text(out / "report.html", render_html(kept, record, exhibits))
        atomic.write_text(out / "report.md", render_markdown(kept, record, exhibits))


@alone
def diagnose_run(
    data_options: DataOptions,
    *,
    model: str | None,
    weights: Path,
    weights_key: str | None = None,
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
    progress: StageProgress | None = None,
) -> tuple[Diagnosis, dict[str, Any]]:
    """Diagnose a checkpoint, and write the diagnosis, its embeddings and its report to the folder `out`.

    An interrupted diagnosis resumes when it is called again with the same arguments.

    Under a launcher of several processes (torchrun), all of them extract the embeddings; the first one checks, measures,
    writes and speaks.

    Args:
        data_options: The data; parts that are None come from the record beside the weights, if a training run or a
            remedy left one.
        model: The network; None takes it from that record.
        weights: The checkpoint: a file, the index of its shards, or the folder that holds either.
        weights_key: Which weights of the checkpoint, if it holds several; see `load_weights`.
        out: Receives `diagnosis.json`, `exhibits.json`, `embeddings/`, `report.html`, `report.md` and `run.json`.
        head: Name of the head, if the network has several.
        heldout: `val` (the default) or `test`.
        top_k: Number of strongest features per class: an integer, or a percentage such as `"25%"`.

    Returns:
        The diagnosis, and the record that `run.json` holds.

    Raises:
        InputError: An argument is wrong, or no images are known to be held out; `out` is then as it was before.
        ShareDone: Several processes share the work, and this is not the first.
    """
    weights = shards.checkpoint_file(weights)
    if is_first():
        staging.ensure_available(  # an unfinished run may be resumed: `run_folder` looks closer
            out, overwrite or unfinished(out, "diagnose"), owned=OWNED, inputs=[weights, *data_options.inputs()]
        )
    subject = _Subject.load(
        data_options,
        model=model,
        weights=weights,
        weights_key=weights_key,
        head=head,
        heldout=heldout,
        progress=progress,
    )
    k = parse_top_k(top_k, read_head(subject.split.head).num_features)
    record = subject.record(top_k=k, precision=precision, seed=seed)
    subject.describe(say)
    identity = digests.digest_json(
        {n: record[n] for n in ("data", "files", "view", "model", "weights", "precision", "heldout_split")}
    )
    launched.meet()  # a process that cannot begin leaves `out` as it was
    folder = run_folder(out, record | {"identity": identity}, overwrite=overwrite)
    with folder if is_first() else contextlib.nullcontext():
        sides = subject.embed(
            out, record, batch_size=batch_size, precision=precision, workers=workers, progress=progress
        )
        leak = subject.leak(precision=precision, progress=progress)
        if leak is not None:
            record["leak"] = leak
        image_copies = look_for_copies(subject.data, subject.heldout, record, say=say, progress=progress)
        diagnosis = diagnose(
            *sides,
            head=subject.split.head,
            class_names=subject.data.class_names,
            heldout_split=subject.heldout_split,
            top_k=k,
            seed=seed,
            progress=stage(progress, "measuring"),
            image_copies=image_copies,
        )
        subject.write(out, diagnosis, sides, record, image_copies)
        record |= {"identity": identity, "finished": True}
        atomic.write_json(out / "run.json", record)
    return diagnosis, record
