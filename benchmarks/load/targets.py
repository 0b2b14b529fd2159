"""The kinds of files that the library reads, for fuzzing: a small valid file of each, its damage, and its reader."""

from __future__ import annotations

import dataclasses
import functools
import io
import json
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path
from typing import Any

import numpy as np
import torch
from PIL import Image

from benchmarks.load import mutate
from diversify.commands import deployment, from_features
from diversify.commands.diagnosed import load_diagnosed
from diversify.commands.recorded import Recorded
from diversify.commands.train import read_plan
from diversify.data.decode import read_image
from diversify.data.sources import read_npz
from diversify.diagnosis.exhibits import Exhibits
from diversify.diagnosis.measure import diagnose
from diversify.diagnosis.model_comparison import Model, ModelComparison, compare_models
from diversify.diagnosis.multilabel.measure import diagnose_multilabel
from diversify.diagnosis.multilabel.result import MultilabelDiagnosis
from diversify.diagnosis.result import Diagnosis
from diversify.files import atomic, checkpoints
from diversify.network.embeddings import Embeddings
from diversify.network.head_file import load_head, save_head
from diversify.network.multilabel_synthetic import make_multilabel_embeddings
from diversify.network.networks import build_model
from diversify.network.synthetic import make_embeddings
from diversify.plan.make import make_plan
from diversify.plan.plan import Plan
from diversify.repair.candidate import Candidate
from diversify.repair.choice import HeadChoice
from diversify.repair.choose import choose_head
from diversify.report.comparison import render_comparison_markdown
from diversify.report.diagnosis import render_markdown
from diversify.report.remedy import render_remedy_markdown
from diversify.study import read, records
from diversify.training import state

NAMES = ("cat", "newt", "owl")


@dataclasses.dataclass(frozen=True, kw_only=True)
class Target:
    """One kind of file.

    Attributes:
        kind: What the documents count it under: plan, diagnosis, record, checkpoint, npz or image.
        file: Its name in the folder of a case.
        valid: The bytes of a valid file.
        damage: Changes the bytes.
        read: Reads the file as the library does.
        beside: Other files of the folder, which stay valid.
    """

    kind: str
    file: str
    valid: bytes
    damage: mutate.Mutation
    read: Callable[[Path], object]
    beside: Mapping[str, bytes] = dataclasses.field(default_factory=dict)


def _json(value: Any) -> bytes:
    return json.dumps(value).encode()


def _written(write: Callable[[Path], object], name: str, folder: Path) -> bytes:
    path = folder / name
    write(path)
    return path.read_bytes()


@functools.cache
def _embeddings() -> tuple[Any, Any, Any]:
    return make_embeddings((12, 8, 5), heldout=6, num_features=6)


def _diagnoses() -> Iterator[Target]:
    train, heldout, head = _embeddings()
    values = diagnose(train, heldout, head=head, class_names=NAMES, top_k=3).to_dict()

    def whole(path: Path) -> None:
        found = Diagnosis.from_dict(atomic.read_json(path, "diagnosis.json"))
        Diagnosis.from_dict(found.to_dict())
        render_markdown(found, {})
        if found.plan_ready:
            make_plan(found)

    yield Target(kind="diagnosis", file="diagnosis.json", valid=_json(values), damage=mutate.of_json, read=whole)
    sides = make_multilabel_embeddings((0.5, 0.3, 0.2), images=30, heldout=20, num_features=6)
    several = diagnose_multilabel(sides[0], sides[1], head=sides[2], top_k=3).to_dict()

    def labels(path: Path) -> None:
        found = MultilabelDiagnosis.from_dict(atomic.read_json(path, "diagnosis.json"))
        MultilabelDiagnosis.from_dict(found.to_dict())
        render_markdown(found, {})

    yield Target(kind="diagnosis", file="several.json", valid=_json(several), damage=mutate.of_json, read=labels)
    one = Model(name="one", train=train, heldout=heldout, head=head)
    both = compare_models(one, one, class_names=NAMES, shared_start=True, top_k=3).to_dict()

    def compared(path: Path) -> None:
        found = ModelComparison.from_dict(atomic.read_json(path, "comparison.json"))
        render_comparison_markdown(found, {})

    yield Target(kind="diagnosis", file="comparison.json", valid=_json(both), damage=mutate.of_json, read=compared)
    made = {"": lambda *_: head}
    candidates = [Candidate(name=name, meaning="m", options={**made, "b": made[""]}) for name in ("one", "two")]
    choice = choose_head(train, heldout, head, candidates, folds=2, repeats=1).to_dict()
    plan = Plan.from_counts(NAMES, [12, 8, 5])

    def remedied(path: Path) -> None:
        found = HeadChoice.from_dict(atomic.read_json(path, "remedy.json"))
        render_remedy_markdown(found, NAMES, plan, {})

    yield Target(kind="diagnosis", file="remedy.json", valid=_json(choice), damage=mutate.of_json, read=remedied)


def _plans() -> Iterator[Target]:
    plan = Plan.from_counts(NAMES, [120, 30, 6])

    def used(path: Path) -> None:
        found = read_plan(path)
        Plan.from_json(found.to_json())
        assert found.log_prior.isfinite().all()
        assert len(found.enemies) == found.num_classes

    yield Target(kind="plan", file="plan.json", valid=plan.to_json().encode(), damage=mutate.of_json, read=used)
    text = Plan.untouched(NAMES, [9, 5, 1]).to_json()

    def typed(path: Path) -> None:
        Plan.from_json(atomic._read(path, "plan").decode(errors="replace"))

    yield Target(kind="plan", file="text.json", valid=text.encode(), damage=mutate.of_json, read=typed)
    prior = "class,share\ncat,0.5\nnewt,0.25\nowl,0.25\n"
    yield Target(
        kind="plan",
        file="prior.csv",
        valid=prior.encode(),
        damage=mutate.of_bytes,
        read=lambda path: deployment.target_prior_from(path, NAMES),
    )
    yield Target(
        kind="plan",
        file="cost.json",
        valid=_json([[0, 1, 2], [1, 0, 1], [3.5, 1, 0]]),
        damage=mutate.of_json,
        read=lambda path: deployment.cost_from(path, NAMES),
    )


def _run(method: str, seed: int, kind: str) -> dict[str, Any]:
    return {
        "kind": kind,
        "suite": "mine",
        "method": method,
        "number": seed if kind == "trial" else None,
        "seed": seed,
        "split": "val" if kind == "trial" else "test",
        "balanced_accuracy": 0.5 + seed / 100,
        "recall": [0.7, 0.4, None],
        "class_counts": [120, 30, 6],
        "params": {"learning_rate": 0.1, "kind": "a", "layers": 2},
        "epochs": 3,
        "curve": [[1, 0.2], [2, 0.4]],
        "tail_order": "canonical",
        "seconds": 1.5,
        "seconds_shared": 1.5,
        "device": "cpu (1 thread)",
        "versions": {"torch": "2"},
        "commit": None,
        "started": "2026-01-01T00:00:00+00:00",
        "protocol": "ab" * 32,
    }


def _records() -> Iterator[Target]:
    runs = [_run(method, seed, kind) for method in ("ce", "focal") for kind in ("trial", "final") for seed in (0, 1)]
    lines = b"".join(_json(run) + b"\n" for run in runs)

    yield Target(kind="record", file="study.jsonl", valid=lines, damage=mutate.of_jsonl, read=records.read_records)
    yield Target(kind="record", file="read.jsonl", valid=lines, damage=mutate.of_jsonl, read=read.load)
    beside = {"study.jsonl": lines}
    protocol = {"schema_version": 1, "protocol": {"suite": "mine", "methods": ["ce"]}, "spaces": {"ce": []}}
    yield Target(
        kind="record",
        file="study.protocol.json",
        valid=_json(protocol),
        damage=mutate.of_json,
        read=lambda path: read.load_protocol(path.with_name("study.jsonl")),
        beside=beside,
    )


def _model_file(folder: Path) -> tuple[dict[str, Any], bytes]:
    weights = build_model("small_cnn", 3).state_dict()
    small = {name: value[:2].clone() if value.ndim else value for name, value in list(weights.items())[:4]}
    return small, _written(lambda path: atomic.write_tensors(path, small, {"a": "b"}), "m.safetensors", folder)


def files_of_weights(folder: Path) -> Iterator[Target]:
    """Yield checkpoints, heads and states."""
    weights, safe = _model_file(folder)
    nested = {"state_dict": weights, "epoch": 3, "best": np.float64(0.5), "at": Path("a")}
    modern = _written(lambda path: torch.save(nested, path), "m.pt", folder)
    legacy = _written(lambda path: torch.save(nested, path, _use_new_zipfile_serialization=False), "l.pt", folder)
    head = _written(lambda path: save_head(path, _embeddings()[2]), "head.safetensors", folder)
    index = {"metadata": {"total_size": 1}, "weight_map": dict.fromkeys(weights, "m.safetensors")}
    for name, valid, damage in (
        ("m.safetensors", safe, mutate.of_safetensors),
        ("m.pt", modern, mutate.of_zip),
        ("l.pt", legacy, mutate.of_bytes),
    ):
        yield Target(kind="checkpoint", file=name, valid=valid, damage=damage, read=checkpoints.load_checkpoint)
    yield Target(
        kind="checkpoint",
        file="head.safetensors",
        valid=head,
        damage=mutate.of_safetensors,
        read=lambda path: load_head(path),
    )
    yield Target(
        kind="checkpoint",
        file="model.safetensors.index.json",
        valid=_json(index),
        damage=mutate.of_json,
        read=checkpoints.load_checkpoint,
        beside={"m.safetensors": safe},
    )
    run = {"recipe": {"epochs": 2}, "identity": "ab"}
    line = {"epoch": 0, "learning_rate": 0.1, "loss": 1.0, "accuracy_train": 0.5, "balanced_accuracy_val": None}
    line |= {"recall_val": None, "images": 9, "seconds": 1.0}
    header = {"history": [line], "ingredients": {}, "optimizer": {}, **run}
    kept = _written(
        lambda path: atomic.write_tensors(path, weights, {"state": json.dumps(header)}), "state.safetensors", folder
    )
    yield Target(
        kind="checkpoint",
        file="state.safetensors",
        valid=kept,
        damage=mutate.of_safetensors,
        read=lambda path: state.read_state(path, run),
    )


def files_of_arrays(folder: Path) -> Iterator[Target]:
    """Yield archives of arrays, and folders of embeddings."""
    labels = np.array([0, 1, 2, 0])
    images = np.arange(4 * 5 * 5, dtype=np.uint8).reshape(4, 5, 5)
    data = {"train_images": images, "train_labels": labels, "test_images": images, "test_labels": labels[:, None]}
    data |= {"class_names": np.array(NAMES), "train_groups": labels}
    rows = {
        "features": np.linspace(0, 1, 24, dtype=np.float32).reshape(4, 6),
        "labels": labels,
        "logits": np.eye(4)[:, :3],
    }
    head = {"weight": np.eye(3, 6), "bias": np.zeros(3)}

    def npz(arrays: Mapping[str, Any], name: str, save: Callable[..., None] = np.savez) -> bytes:
        made = io.BytesIO()
        save(made, **arrays)
        return made.getvalue()

    yield Target(kind="npz", file="data.npz", valid=npz(data, "data"), damage=mutate.of_npz, read=read_npz)
    squeezed = npz(data, "data", np.savez_compressed)
    yield Target(kind="npz", file="packed.npz", valid=squeezed, damage=mutate.of_npz, read=read_npz)

    def features(path: Path) -> None:
        found = from_features.read_sides((path, path))[0]
        Embeddings.from_arrays(found["features"], found["labels"], logits=found.get("logits"))

    yield Target(kind="npz", file="features.npz", valid=npz(rows, "features"), damage=mutate.of_npz, read=features)
    yield Target(
        kind="npz",
        file="head.npz",
        valid=npz(head, "head"),
        damage=mutate.of_npz,
        read=lambda path: from_features.read_head_file(path),
    )
    kept = folder / "embeddings"
    _embeddings()[0].save(kept)
    files = {each.name: each.read_bytes() for each in kept.iterdir()}
    for name, content in files.items():
        damage = mutate.of_json if name == "index.json" else mutate.of_npy
        beside = {other: data for other, data in files.items() if other != name}
        yield Target(
            kind="npz",
            file=name,
            valid=content,
            damage=damage,
            read=lambda path: Embeddings.load(path.parent),
            beside=beside,
        )


def _images() -> Iterator[Target]:
    pixels = (np.arange(12 * 10 * 3) * 37 % 256).astype(np.uint8).reshape(12, 10, 3)
    colour = Image.fromarray(pixels)
    clear = colour.convert("RGBA")
    clear.putalpha(Image.fromarray(pixels[..., 0]))
    deep = Image.fromarray((pixels[..., 0].astype(np.uint16)) * 257)
    turned = Image.Exif()
    turned[0x0112] = 6
    forms: list[tuple[str, Any, dict[str, Any]]] = [
        ("a.png", colour, {}),
        ("clear.png", clear, {}),
        ("deep.png", deep, {}),
        ("palette.png", colour.convert("P"), {"transparency": 3}),
        ("a.jpg", colour, {"exif": turned}),
        ("progressive.jpg", colour, {"progressive": True}),
        ("a.gif", colour, {"save_all": True, "append_images": [colour.rotate(90)]}),
        ("a.bmp", colour, {}),
        ("a.tif", colour, {}),
        ("packed.tif", colour, {"compression": "tiff_lzw"}),
        ("deep.tif", deep, {"compression": "tiff_deflate"}),
        ("a.webp", clear, {}),
        ("a.ico", colour, {}),
        ("a.ppm", colour, {}),
        ("a.pcx", colour, {}),
        ("a.jp2", colour, {}),
        ("a.avif", colour, {}),
    ]
    for name, picture, options in forms:
        made = io.BytesIO()
        kind = Image.registered_extensions().get(name[name.index(".") :])
        if kind not in Image.SAVE:
            continue
        picture.save(made, kind, **options)
        damage = mutate.of_png if name.endswith(".png") else mutate.of_bytes
        yield Target(kind="image", file=name, valid=made.getvalue(), damage=damage, read=read_image)


def _folders(folder: Path) -> Iterator[Target]:
    """Folders that commands left: what `report`, `plan`, `remedy` and `diagnose` read of them."""
    train, heldout, head = _embeddings()
    found = diagnose(train, heldout, head=head, class_names=NAMES, top_k=3)
    place = folder / "features"
    place.mkdir()
    for name, side in (("train", train), ("heldout", heldout)):
        np.savez(place / f"{name}.npz", features=side.features.numpy(), labels=side.labels.numpy())
    record = from_features.features_record(
        (place / "train.npz", place / "heldout.npz"),
        None,
        [train, heldout],
        class_names=NAMES,
        class_counts=torch.tensor([12, 8, 5]),
        fitted=True,
        split="val",
        top_k=3,
        seed=0,
        notes=[],
    )
    whole = folder / "diagnosed"
    from_features.write_folder(whole, found, [train, heldout], head, {**record, "head_fitted": None})
    files = {str(each.relative_to(whole)): each.read_bytes() for each in whole.rglob("*") if each.is_file()}
    files = {name: data for name, data in files.items() if not name.startswith("report")}
    for name in ("run.json", "exhibits.json"):
        beside = {other: data for other, data in files.items() if other != name}

        def opened(path: Path, file: str = name) -> None:
            if file == "run.json":
                load_diagnosed(path.parent)
                Recorded.beside(path.parent / "embeddings" / "head.safetensors")
            else:
                Exhibits.from_dict(atomic.read_json(path, "exhibits.json"))

        yield Target(kind="diagnosis", file=name, valid=files[name], damage=mutate.of_json, read=opened, beside=beside)


def targets(folder: Path) -> list[Target]:
    """Return every kind of file.

    Args:
        folder: An empty folder, where valid files are made.
    """
    return [
        *_plans(),
        *_diagnoses(),
        *_records(),
        *files_of_weights(folder),
        *files_of_arrays(folder),
        *_folders(folder),
        *_images(),
    ]
