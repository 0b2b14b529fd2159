"""The reader of the folder that the `diagnose` command leaves."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from ..diagnosis.model_comparison import Model
from ..diagnosis.result import Diagnosis
from ..errors import must
from ..files import atomic, digests
from ..network.embeddings import Embeddings
from ..network.head_file import load_head

HEAD = Path("embeddings") / "head.safetensors"


def fingerprint(digest: str, content: str | None, record: dict[str, Any]) -> str:
    """The fingerprint that `extract` stores with the embeddings of a split, by which they are recognised later."""
    return digests.digest_json([digest, content, record["files"], record["view"]])


def require_recorded(folder: Path, record: dict[str, Any]) -> None:
    """Check that both embeddings in a folder are of the images that its record names, and by one network.

    Raises:
        InputError: They are not.
    """
    splits, networks = record["data"]["splits"], set()
    for name, split in (("train", splits["train"]), ("heldout", splits[record["heldout_split"]])):
        index = atomic.read_json(folder / "embeddings" / name / "index.json", "embeddings index")
        networks.add(index.get("model"))
        if index.get("fingerprint") != fingerprint(split["digest"], split.get("content"), record) or len(networks) > 1:
            advice = "run `diversify diagnose` again"
            raise must(f"{name} embeddings", "be those that the record names", f"others in {folder}", advice)


def load_diagnosed(folder: Path, name: str = "folder") -> tuple[Diagnosis, Model, dict[str, Any]]:
    """Read a folder that `diagnose_run` wrote.

    Args:
        folder: The folder.
        name: Its name in errors.

    Returns:
        The diagnosis; the embeddings and the head; the record.

    Raises:
        InputError: It is no such folder, or one of its files is damaged.
    """
    if not folder.is_dir():
        raise must(name, "be a folder that `diversify diagnose` wrote", folder)
    record = atomic.read_json(folder / "run.json", "run.json")
    diagnosis = Diagnosis.from_dict(atomic.read_json(folder / "diagnosis.json", "diagnosis.json"))
    numbers = load_head(folder / HEAD)
    sides = [Embeddings.load(folder / "embeddings" / name) for name in ("train", "heldout")]
    return diagnosis, Model(name=folder.name, train=sides[0], heldout=sides[1], head=numbers), record
