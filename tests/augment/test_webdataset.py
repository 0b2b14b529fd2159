"""Shards of WebDataset read by two processes with two workers each: no row is lost, and none comes twice.

Run under torchrun as a script, `DIR`, it is one of the two processes.
"""

import io
import os
import subprocess
import sys
import tarfile
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import torch
from processes import end
from torch.utils.data import DataLoader, IterableDataset

import diversify as dv
from diversify.augment.stream import DiversifyStream
from diversify.errors import InputError
from diversify.files import atomic
from diversify.plan.plan import Plan
from diversify.runtime.signals import leave

ROWS, SHARDS = 90, 6


def image_of(row: int) -> torch.Tensor:
    return torch.full((3, 8, 8), row / 255)


def write_shards(folder: Path) -> None:
    """Tar files of PNG images whose grey is the row, with its class and the row itself."""
    from PIL import Image

    for shard in range(SHARDS):
        with tarfile.open(folder / f"{shard}.tar", "w") as archive:
            for row in range(shard * ROWS // SHARDS, (shard + 1) * ROWS // SHARDS):
                picture = io.BytesIO()
                Image.new("RGB", (8, 8), (row, row, row)).save(picture, "PNG")
                for name, content in (("png", picture.getvalue()), ("cls", str(row % 3).encode())):
                    entry = tarfile.TarInfo(f"{row:04d}.{name}")
                    entry.size = len(content)
                    archive.addfile(entry, io.BytesIO(content))


def with_row(example: dict[str, Any]) -> tuple[torch.Tensor, int, int]:
    return example["png"], example["cls"], int(example["__key__"].rpartition("/")[2])


class Unsplit(IterableDataset[Any]):
    """Gives everything to every process, and splits it between workers alone."""

    def __iter__(self) -> Iterator[tuple[torch.Tensor, int]]:
        info = torch.utils.data.get_worker_info()
        for row in range(0 if info is None else info.id, ROWS, 1 if info is None else info.num_workers):
            yield image_of(row), row % 3


def read(folder: Path) -> None:
    """What this process reads, by `extract_shared` and by the streams of a plan."""
    import webdataset

    rank = int(os.environ["RANK"])
    torch.distributed.init_process_group("gloo")
    shards = webdataset.WebDataset(
        str(folder / f"{{0..{SHARDS - 1}}}.tar"), nodesplitter=webdataset.split_by_node, shardshuffle=False
    ).decode("torchrgb")
    split = dv.split_head(dv.build_model("small_cnn", num_classes=3, channels=3, seed=0))
    loader = DataLoader(shards.map(with_row), batch_size=8, num_workers=2)
    embeddings = dv.extract_shared(split, loader, index=2)
    assert (embeddings is None) == (rank > 0)
    if embeddings is not None:
        embeddings.save(folder / "embeddings")
    plan = Plan.untouched(["a", "b", "c"], [ROWS // 3] * 3)
    sources: dict[str, tuple[Any, dict[str, bool]]] = {
        "webdataset": (shards.to_tuple("png", "cls"), {}),
        "unsplit": (
            [(image_of(row), row % 3) for row in range(ROWS)],
            {"split_processes": True, "split_workers": True},
        ),
    }
    found: dict[str, list[Any]] = {}
    for name, (source, options) in sources.items():
        stream = DiversifyStream(source, plan, buffer=7, **options)
        batches = DataLoader(stream, batch_size=None, num_workers=2)
        found[name] = [round(float(image[0, 0, 0]) * 255) for image, _ in batches]
    found["refused"] = []
    try:
        dv.extract_shared(split, DataLoader(Unsplit(), batch_size=8, num_workers=2))
    except InputError as error:  # in both processes
        found["refused"].append(str(error))
    atomic.write_json(folder / f"{rank}.json", found)


@pytest.mark.slow
def test_two_processes_with_two_workers_read_each_row_once(tmp_path: Path) -> None:
    pytest.importorskip("webdataset", reason="webdataset is not installed")
    write_shards(tmp_path)
    process = subprocess.Popen(
        [sys.executable, *("-m", "torch.distributed.run", "--standalone", "--nproc-per-node", "2"), __file__, tmp_path],
        env={**os.environ, "PYTHONPATH": os.pathsep.join(sys.path), "OMP_NUM_THREADS": "1"},
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
        start_new_session=True,
    )
    try:
        _, errors = process.communicate(timeout=240)
    finally:
        end(process)
    assert process.returncode == 0, errors
    rows = dv.Embeddings.load(tmp_path / "embeddings")
    assert sorted(rows.indices.tolist()) == list(range(ROWS))
    assert torch.equal(rows.labels, rows.indices % 3)
    split = dv.split_head(dv.build_model("small_cnn", num_classes=3, channels=3, seed=0))
    whole = dv.extract(split, DataLoader([(image_of(row), row % 3) for row in range(ROWS)], batch_size=8))  # type: ignore[arg-type]
    assert torch.allclose(rows.features, whole.features[rows.indices], atol=1e-5)
    first, second = (atomic.read_json(tmp_path / f"{rank}.json", "rows") for rank in (0, 1))
    for name in ("webdataset", "unsplit"):
        assert 30 < len(first[name]) < 60
        assert sorted(first[name] + second[name]) == list(range(ROWS))
    assert (
        first["refused"]
        == second["refused"]
        == [
            f"loader must give each image once, got the same {ROWS} images in each of 2 processes; give each process its own part "
            "(WebDataset: nodesplitter=webdataset.split_by_node)"
        ]
    )


if __name__ == "__main__":
    torch.set_num_threads(1)
    read(Path(sys.argv[1]))
    leave(0)
