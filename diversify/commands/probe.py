"""The `probe` command: a frozen backbone, and a head fitted on its features."""

from __future__ import annotations

import dataclasses
from pathlib import Path
from typing import Any

import torch
from torch import nn

from ..data.load import Data
from ..data.loader import Split, make_loader
from ..data.view import View
from ..diagnosis.measure import diagnose, parse_top_k
from ..diagnosis.result import Diagnosis
from ..errors import InputError, must, unknown
from ..files import checkpoints, digests, shards, staging
from ..network.extraction import extract
from ..network.linear_head import read_head
from ..network.matching import Match, fits, match_weights
from ..network.networks import COSINE, MODELS, build_model, parameter_count, read_weights
from ..network.split import SplitModel, split_head
from ..repair.fit_head import fit_head
from ..runtime import provenance
from ..runtime.progress import Say, StageProgress, stage
from .copies import look_for_copies
from .diagnose import ready
from .diagnosed import fingerprint
from .folders import OWNED, SCHEMA_VERSION, alone, run_folder, unfinished
from .from_features import FITTED, fitted_record, write_folder
from .options import DataOptions, channels_of, fit_channels

FEATURES = Path("state")
"""The folder in `out` that holds features while they are extracted."""

_TRIED = 12  # numbers of outputs that the tensors of a checkpoint suggest


@alone
def probe_run(
    data_options: DataOptions,
    *,
    backbone: str,
    weights: Path | None = None,
    weights_key: str | None = None,
    out: Path,
    heldout: str | None = None,
    top_k: int | str = 10,
    batch_size: int = 256,
    precision: str = "fp32",
    workers: int = 0,
    seed: int = 0,
    resume: bool = False,
    overwrite: bool = False,
    say: Say,
    progress: StageProgress | None = None,
) -> tuple[Diagnosis, dict[str, Any]]:
    """Fit a head on the features of a frozen backbone, and leave the folder that `diagnose_run` leaves.

    An interrupted probe resumes when it is called again with the same arguments: features that are in `out` are not
    extracted again, and the result is that of a run without the interruption.

    Args:
        data_options: The data; the head is fitted on train.
        backbone: A network as for `build_model`; the layer before its own head gives the features.
        weights: Its checkpoint, with any number of outputs; None only for a function of the user's own.
        weights_key: Which weights of the checkpoint, if it holds several; see `load_weights`.
        out: Receives what `diagnose_run` leaves; until then, the features extracted so far.
        heldout: `val` (the default), or `test` for a diagnosis that is for reading only.
        top_k: Number of strongest features per class, or a percentage of all.
        batch_size: Images per step.
        precision: Of the network's forward passes.
        workers: Processes that load images.
        seed: Random seed of the resampling.
        resume: Refuse to start anew: `out` must hold an interrupted probe.
        overwrite: Replace an earlier run in `out`.
        say: Called with each note.
        progress: Called as work is done.

    Returns:
        The diagnosis, and the record that `run.json` holds.

    Raises:
        InputError: An argument is wrong, there are no weights, or no held-out images; `out` is then as it was before.
            Or `out` holds a probe that was interrupted and had other settings, or `resume` finds none.
    """
    if backbone.endswith(COSINE):
        advice = "leave it out: the probe fits a linear head of its own"
        raise must("backbone", f"not end in {COSINE}", backbone, advice)
    if weights is not None:
        weights = shards.checkpoint_file(weights)
    elif backbone in MODELS or backbone.startswith(("torchvision:", "timm:")):
        raise must("weights", f"be given for backbone={backbone}", "none", "pass weights=FILE")
    inputs = [*([weights] if weights else []), *data_options.inputs()]
    begun = unfinished(out, "diagnose")
    if resume and (overwrite or not begun):
        got = "overwrite=True" if overwrite else f"none in {out}"
        raise must("resume=True", "find an interrupted probe", got, "start a new one without resume=True")
    staging.ensure_available(out, overwrite or begun, owned=OWNED, inputs=inputs)  # `run_folder` looks closer
    published = None
    if weights is not None and backbone.startswith(("torchvision:", "timm:")):
        backbone_split(backbone, weights, weights_key, 2, 3)  # what does not fit is told before the images are read
    if weights is not None:
        data_options, published = data_options.with_published(backbone, weights, weights_key)
    data = data_options.load(measure_view=False, progress=progress)
    view = fit_channels(data.view, backbone)
    name, unseen = _heldout(data, heldout)
    split, place, notes = backbone_split(backbone, weights, weights_key, data.num_classes, channels_of(data, view))
    notes = [FITTED, *data.notes, *notes]
    for note in notes:
        say(f"note: {note}")
    k = parse_top_k(top_k, read_head(split.head).num_features)
    record = _record(data, data_options, view, split, backbone, place, heldout=name, precision=precision)
    record |= {"view_origin": published or data.view_origin, "top_k": k, "seed": seed, "notes": notes}
    with run_folder(out, record, overwrite=overwrite):
        if begun and not overwrite:
            say(f"going on with the features in {out / FEATURES}")
        read = [
            extract(
                split,
                make_loader(part, view, batch_size=batch_size, workers=workers),
                precision=precision,  # type: ignore[arg-type]
                out=out / FEATURES / side,
                fingerprint=fingerprint(part.digest(), part.content, record),
                progress=stage(progress, f"reading {side}"),
            )
            for side, part in (("train", data.train), ("heldout", unseen))
        ]
        head = fit_head(read[0].features, read[0].labels, data.num_classes)
        sides = [
            dataclasses.replace(side, logits=head.logits(side.features.cpu())).with_groups(part.groups)
            for side, part in zip(read, (data.train, unseen), strict=True)
        ]
        image_copies = look_for_copies(data, unseen, record, say=say, progress=progress)
        diagnosis = diagnose(
            sides[0],
            sides[1],
            head=head,
            class_names=data.class_names,
            heldout_split=name,
            top_k=k,
            seed=seed,
            progress=stage(progress, "measuring"),
            image_copies=image_copies,
        )
        record |= {"finished": True}
        staging.remove_folder(out / "embeddings")  # of a run that was stopped while it wrote them
        images = data.train.dataset, unseen.dataset
        write_folder(out, diagnosis, sides, head, record, images=images, image_copies=image_copies)
        staging.remove_folder(out / FEATURES)
    return diagnosis, record


def _record(
    data: Data,
    data_options: DataOptions,
    view: View | None,
    split: SplitModel,
    backbone: str,
    place: dict[str, str],
    *,
    heldout: str,
    precision: str,
) -> dict[str, Any]:
    """The record of a probe that has not begun; its `identity` is of all that the features depend on."""
    record: dict[str, Any] = {
        "schema_version": SCHEMA_VERSION,
        "command": "diagnose",
        "from_features": True,
        "probe": True,
        "finished": False,
        "started": provenance.now(),
        "data": data.record(),
        "files": data_options.digests(),
        "view": dataclasses.asdict(view) if view else None,
        "view_origin": data.view_origin,
        "model": {
            "name": f"a head on {backbone}",
            "parameters": parameter_count(split),
            "head": "",
        },
        "backbone": {"name": backbone, **place},
        "head_given": None,
        "head_fitted": fitted_record(),
        "training": None,
        "heldout_split": heldout,
        "top_k": 0,
        "precision": precision,
        "seed": 0,
        "notes": [],
        "caveats": [],
        **provenance.origin(split.device),
    }
    names = ("data", "files", "view", "model", "precision", "heldout_split")
    record["identity"] = digests.digest_json([*(record[n] for n in names), digests.digest_tensors(split.tensors())])
    return record


def _heldout(data: Data, wanted: str | None) -> tuple[str, Split]:
    """The name and images of the held-out split, on which the head is not fitted."""
    if wanted not in (None, "val", "test"):
        raise unknown("heldout", str(wanted), ("val", "test"))
    name = wanted or "val"
    split = data.test if name == "test" else data.val
    if split is None:
        raise must(
            "heldout", f"find a {name} split", f"none in {data.spec}", "pass holdout=0.2" if name == "val" else ""
        )
    return name, split


def backbone_split(
    backbone: str, weights: Path | None, weights_key: str | None, num_classes: int, channels: int
) -> tuple[SplitModel, dict[str, str], list[str]]:
    """The network, split at a new head of so many classes; where its weights are; and notes on reading them."""
    place: dict[str, str] = {}
    notes: list[str] = []
    outputs = num_classes
    if weights is not None:
        found = checkpoints.read_state_dicts(weights)
        if weights_key is not None:
            found = checkpoints.chosen(found, weights_key, weights)
        sizes = [len(value) for tensors in found.values() for value in tensors.values() if value.ndim in (1, 2)]
        for tried in [outputs, *dict.fromkeys(reversed(sizes))][:_TRIED]:
            if tried and fits(found, build_model(backbone, tried, channels=channels).state_dict()):
                outputs = tried
                break
    network = build_model(backbone, outputs, channels=channels)
    if weights is not None:
        try:
            match, notes = read_weights(network, weights, weights_key=weights_key)
        except InputError:
            without = _without_head(network, found, weights)
            if without is None:
                raise
            match, notes = without
        place = {
            "path": str(weights),
            "sha256": shards.digest_checkpoint(weights),
            "key": match.key,
            "prefix": match.prefix,
        }
    split = split_head(ready(network))
    old = split.head
    if isinstance(old, nn.Linear) and old.out_features != num_classes and type(network) is not nn.Linear:
        new = nn.utils.skip_init(nn.Linear, old.in_features, num_classes, device=old.weight.device)
        with torch.no_grad():
            new.weight.zero_()
            new.bias.zero_()
        above, _, last = split.head_name.rpartition(".")
        setattr(network.get_submodule(above), last, new)
        split = split_head(network.eval(), split.head_name)
    return split, place, notes


def _without_head(network: nn.Module, found: checkpoints.StateDicts, weights: Path) -> tuple[Match, list[str]] | None:
    """Read a checkpoint that holds all of a network but its head, which is fitted here anyway; None if it does not."""
    state = network.state_dict()
    try:
        head = split_head(ready(network)).head_name
        want = {name: value for name, value in state.items() if not name.startswith(f"{head}.")}
        if not want or len(want) == len(state):
            return None
        match, notes = match_weights(found, want, weights)
    except InputError:
        return None
    state.update(match.tensors)  # in place: it keeps the versions of modules, which some networks look at
    network.load_state_dict(state)
    return match, [*notes, f"the checkpoint has no weights for the head {head}, which is fitted here"]
