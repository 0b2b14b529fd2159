"""A checkpoint in shards is read as the one file that it stands for."""

import json
from pathlib import Path

import pytest
import torch
from torch import Tensor

import diversify as dv
from diversify.cli.entry import run
from diversify.errors import InputError
from diversify.files import atomic, checkpoints, shards

TENSORS = {"body.weight": torch.arange(6.0).view(2, 3), "body.bias": torch.ones(2), "head.weight": torch.eye(2)}


def write(folder: Path, tensors: dict[str, Tensor] = TENSORS, kind: str = "safetensors") -> Path:
    """Two shards, the last tensor in the second, and their index."""
    folder.mkdir(exist_ok=True)
    stem = "model" if kind == "safetensors" else "pytorch_model"
    names = list(tensors)
    parts = [names[:-1], names[-1:]]
    of: dict[str, str] = {}
    for number, part in enumerate(parts, 1):
        file = f"{stem}-0000{number}-of-00002.{kind}"
        content = {name: tensors[name] for name in part}
        atomic.write_tensors(folder / file, content) if kind == "safetensors" else torch.save(content, folder / file)
        of |= dict.fromkeys(part, file)
    index = folder / f"{stem}.{kind}.index.json"
    index.write_text(json.dumps({"metadata": {"total_size": 1}, "weight_map": of}, indent=2))
    return index


@pytest.mark.parametrize("kind", ["safetensors", "bin"])
@pytest.mark.parametrize("of_folder", [False, True])
def test_all_tensors_by_index_or_folder(tmp_path: Path, kind: str, of_folder: bool) -> None:
    index = write(tmp_path, kind=kind)
    found = checkpoints.load_checkpoint(tmp_path if of_folder else index)
    assert list(found) == list(TENSORS)
    assert all(torch.equal(found[name], TENSORS[name]) for name in TENSORS)


def test_a_folder_with_a_whole_file(tmp_path: Path) -> None:
    write(tmp_path, kind="bin")
    atomic.write_tensors(tmp_path / "model.safetensors", {"bias": torch.ones(2)})
    assert list(checkpoints.load_checkpoint(tmp_path)) == ["bias"]


def test_shards_may_be_links_and_the_index_may_have_another_name(tmp_path: Path) -> None:
    index = write(tmp_path / "one")
    blob = tmp_path / "blob"
    shard = tmp_path / "one" / "model-00001-of-00002.safetensors"
    shard.rename(blob)
    shard.symlink_to(blob)
    index.rename(index.with_name("weights.safetensors.index.json"))
    assert len(checkpoints.load_checkpoint(tmp_path / "one")) == 3


def replaced(index: Path, file: object) -> None:
    content = json.loads(index.read_text())
    content["weight_map"]["head.weight"] = file
    index.write_text(json.dumps(content))


FIRST = "model-00001-of-00002.safetensors"
DAMAGE = {
    "a missing shard": (
        lambda index: (index.parent / FIRST).unlink(),
        f"weights must have every file that {{index}} names, got no {FIRST}; copy or download it again",
    ),
    "a tensor in no shard": (
        lambda index: replaced(index, FIRST),
        f"weights must hold every tensor of {{index}}, got no head.weight in {FIRST}; copy or download it again",
    ),
    "a file outside": (
        lambda index: replaced(index, "../other.safetensors"),
        "weights must name files in the folder of its index, got '../other.safetensors' in {index}",
    ),
    "an absolute path": (
        lambda index: replaced(index, "/etc/passwd"),
        "weights must name files in the folder of its index, got '/etc/passwd' in {index}",
    ),
    "a drive": (
        lambda index: replaced(index, "C:\\\\x.bin"),
        "weights must name files in the folder of its index, got 'C:\\\\\\\\x.bin' in {index}",
    ),
    "a number": (
        lambda index: replaced(index, 3),
        "weights must hold a weight_map from tensors to files, got none in {index}; pass a checkpoint, or the index",
    ),
    "no map": (
        lambda index: index.write_text("{}"),
        "weights must hold a weight_map from tensors to files, got none in {index}; pass a checkpoint, or the index",
    ),
    "half an index": (lambda index: index.write_text('{"weight_map": {'), "weights must be whole, valid JSON"),
    "half a shard": (
        lambda index: (index.parent / FIRST).write_bytes((index.parent / FIRST).read_bytes()[:-4]),
        "weights shard must be a whole safetensors file",
    ),
    "an index as a shard": (
        lambda index: replaced(index, index.name),
        "weights shard must be a PyTorch or safetensors checkpoint",
    ),
}


@pytest.mark.parametrize(("damage", "message"), DAMAGE.values(), ids=DAMAGE)
def test_damage_is_said_in_one_line(tmp_path: Path, damage, message: str) -> None:
    index = write(tmp_path)
    damage(index)
    for path in (index, tmp_path):
        with pytest.raises(InputError) as found:
            checkpoints.load_checkpoint(path)
        assert str(found.value).startswith(message.format(index=index))
        assert "\n" not in str(found.value)


def test_the_digest_is_of_index_and_shards(tmp_path: Path) -> None:
    index = write(tmp_path / "a")
    before = shards.digest_checkpoint(index)
    assert before == shards.digest_checkpoint(write(tmp_path / "b"))
    write(tmp_path / "a", TENSORS | {"head.weight": torch.ones(2, 2)})
    assert shards.digest_checkpoint(index) != before


@pytest.mark.slow
def test_a_network_is_diagnosed_and_repaired(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    """By the folder of its shards, as by one file."""
    import numpy as np

    network = dv.build_model("small_cnn", 3, channels=1)
    folder = tmp_path / "saved"
    write(folder, network.state_dict())
    other = dv.build_model("small_cnn", 3, channels=1, seed=1)
    dv.load_weights(other, folder)
    assert torch.equal(other.linear.weight, network.linear.weight)
    labels = np.tile(np.arange(3), 8)
    images = (np.arange(24 * 64).reshape(24, 8, 8) * 7 % 200 + 20 * labels[:, None, None]).astype(np.uint8)
    np.savez(tmp_path / "d.npz", train_images=images, train_labels=labels, val_images=images, val_labels=labels)
    data = ["--data", f"npz:{tmp_path / 'd.npz'}", "--mean", ".5", "--std", ".5"]
    atomic.write_tensors(tmp_path / "whole.safetensors", network.state_dict())
    for name, weights in (("one", tmp_path / "whole.safetensors"), ("several", folder)):
        assert run(["diagnose", *data, "--weights", str(weights), "--out", str(tmp_path / name)]) == 0
    one, several = (atomic.read_json(tmp_path / name / "diagnosis.json", "d") for name in ("one", "several"))
    assert one == several
    (folder / FIRST).unlink()
    capsys.readouterr()
    assert run(["diagnose", *data, "--weights", str(folder), "--out", str(tmp_path / "out")]) == 2
    assert capsys.readouterr().err.startswith("error: --weights must have every file that ")
    assert not (tmp_path / "out").exists()
    assert run(["remedy", str(tmp_path / "several"), "--out", str(tmp_path / "out")]) == 2
    assert "must have every file" in capsys.readouterr().err
