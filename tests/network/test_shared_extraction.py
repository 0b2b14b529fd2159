"""Several processes that extract together: an error of one is the error of all, and then they go on."""

import errno
from pathlib import Path
from typing import Any

import pytest
import torch
from ranks import of_ranks
from torch.utils.data import DataLoader, Dataset, TensorDataset

import diversify as dv
from diversify.errors import InputError, must
from diversify.network.exchange import Exchange

SIZE = 3


class Broken(Dataset[Any]):
    """Images of which one cannot be read, in one of the processes."""

    def __init__(self, fails: bool, error: Exception | None = None) -> None:
        self.fails, self.error = fails, error

    def __len__(self) -> int:
        return 18

    def __getitem__(self, index: int) -> tuple[torch.Tensor, int]:
        if self.fails and index > 8:
            raise self.error or must("image", "be readable", index)
        return torch.full((3, 8, 8), index / 18), index % 3


def pictures(labels: torch.Tensor) -> DataLoader[Any]:
    return DataLoader(
        TensorDataset(torch.rand(len(labels), 3, 8, 8, generator=torch.Generator()), labels), batch_size=2
    )


def outcomes(rank: int, folder: Path) -> list[Any]:
    """What each extraction gives in this process: the error, or the labels."""
    split = dv.split_head(dv.build_model("small_cnn", num_classes=3, channels=3, seed=0))
    other = dv.split_head(dv.build_model("small_cnn", num_classes=3, channels=3, seed=rank))
    labels = torch.arange(18) % 3
    beyond, swapped = labels.clone(), labels.clone()
    beyond[14] = 7
    swapped[[0, 1]] = swapped[[1, 0]]
    found: list[Any] = []
    for net, loader, options in (
        (split, pictures(labels), {"out": folder}),  # refused by the first process alone, before it announces anything
        (split, pictures(labels), {"precision": "fp16"}),
        (split, pictures(beyond), {}),  # refused by the first process, which collects the rows
        (split, DataLoader(Broken(rank == 2), batch_size=2), {}),
        (split, pictures(swapped if rank == 1 else labels), {}),
        (split, pictures(labels[: 18 - rank]), {}),
        (other, pictures(labels), {}),
        (split, pictures(labels), {}),
    ):
        try:
            rows = dv.extract_shared(net, loader, **options)  # type: ignore[arg-type]
            found.append(None if rows is None else rows.labels.tolist())
        except InputError as error:
            found.append(str(error))
    return found


@pytest.mark.slow
def test_an_error_of_one_process_is_that_of_all_and_leaves_none_waiting(tmp_path: Path) -> None:
    taken = tmp_path / "taken"
    taken.mkdir()
    (taken / "notes.txt").write_text("")
    first, *others = of_ranks(tmp_path, lambda rank: outcomes(rank, taken), SIZE)
    same = "must be the same in all processes, got another in process {} than in process 0; give each process the same"
    starts = (
        "out must be new, empty or an unfinished extraction",
        "precision must be one of",
        "model must have one output per class, got 3 outputs and the label 7 at row 14",
        "image must be readable, got 1",
        f"data set {same.format(1)}",
        f"data set {same.format(1)}",
        f"model {same.format(1)}",
    )
    for number, start in enumerate(starts):
        assert first[number].startswith(start), first[number]
        for each in others:
            if number >= 5:  # processes 1 and 2 each differ from the first
                assert each[number].startswith(start.split(" must")[0])
            else:
                assert each[number] == first[number]
    assert first[-1] == (torch.arange(18) % 3).tolist()
    assert [each[-1] for each in others] == [None, None]


def failures(rank: int) -> list[str | None]:
    """How each extraction ends in this process: the kind and text of its error, or None."""
    split = dv.split_head(dv.build_model("small_cnn", num_classes=3, channels=3, seed=0))
    found: list[str | None] = []
    for loader, progress in (
        (DataLoader(Broken(rank == 2, MemoryError("no page left")), batch_size=2), None),
        (DataLoader(Broken(rank == 1, MemoryError()), batch_size=2), None),
        (pictures(torch.arange(18) % 3), full_disk if rank == 0 else None),
        (pictures(torch.arange(18) % 3), None),
    ):
        try:
            dv.extract_shared(split, loader, progress=progress)
            found.append(None)
        except Exception as error:
            found.append(f"{type(error).__name__}: {error}")
    return found


def full_disk(done: int, rows: int | None) -> None:
    raise OSError(errno.ENOSPC, "No space left on device")


@pytest.mark.slow
def test_an_error_that_is_no_input_error_reaches_the_others_with_its_process_and_cause(tmp_path: Path) -> None:
    of_process = of_ranks(tmp_path, failures, SIZE)
    expected = (
        (2, "MemoryError: no page left"),
        (1, "MemoryError: "),
        (0, "OSError: [Errno 28] No space left on device"),
    )
    for number, (failed, text) in enumerate(expected):
        for rank, found in enumerate(of_process):
            told = f"ProcessFailedError: process {failed} failed ({text.removesuffix(': ')}); what was finished is kept"
            assert found[number].startswith(text if rank == failed else told), (rank, found[number])
    assert [found[-1] for found in of_process] == [None] * SIZE


def torn(rank: int) -> str | None:
    """How an extraction ends where the first process has no memory for the rows that another one is sending."""
    split = dv.split_head(torch.nn.Sequential(torch.nn.Flatten(), torch.nn.Linear(3 * 512 * 512, 3)))
    images = torch.zeros(1, 3, 512, 512).expand(18, -1, -1, -1)  # 19 MB of features in a batch: no buffer holds them

    def take(*_: object) -> None:
        raise MemoryError("no page left")

    if rank == 0:
        Exchange._columns = take  # type: ignore[assignment,method-assign]
    try:
        dv.extract_shared(split, DataLoader(TensorDataset(images, torch.arange(18) % 3), batch_size=6))
    except (MemoryError, ConnectionError) as error:
        if rank == 0:
            torch.distributed.destroy_process_group()  # as the end of the process does
        return f"{type(error).__name__}: {error}"
    return None


@pytest.mark.slow
@pytest.mark.parametrize("size", [2, SIZE])
def test_no_process_waits_for_one_whose_rows_were_taken_in_part(size: int, tmp_path: Path) -> None:
    own, *others = of_ranks(tmp_path, torn, size)
    assert own == "MemoryError: no page left"
    assert all(each is not None and each.startswith(("ProcessLostError", "ProcessFailedError")) for each in others)
