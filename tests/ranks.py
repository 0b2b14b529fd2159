"""Processes of one gloo group, forked off a test: each runs a function, and the test sees what it returned."""

import multiprocessing
import os
import time
import traceback
from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch
from accelerate.state import AcceleratorState
from torch import distributed

from diversify.errors import InputError

SECONDS = 60  # that the processes may take


def of_ranks(folder: Path, function: Callable[[int], Any], size: int = 2) -> list[Any]:
    """What the function returned in each process, or the text of its InputError; JSON values and tensors are fine.

    A function that raises anything else fails the test, and so does one that does not return in time.
    """
    context = multiprocessing.get_context("fork")  # nothing is imported again
    pipes = [context.Pipe(duplex=False) for _ in range(size)]
    members = [
        context.Process(target=_run, args=(folder, function, rank, size, pipes[rank][1]), daemon=True)
        for rank in range(size)
    ]
    for member in members:
        member.start()
    deadline = time.monotonic() + SECONDS
    try:
        found = []
        for rank, (reader, _) in enumerate(pipes):
            assert reader.poll(max(0.0, deadline - time.monotonic())), f"process {rank} hangs"
            found.append(reader.recv())
    finally:
        for member in members:
            member.kill()
            member.join()
    failed = [each for kind, each in found if kind == "failed"]
    assert not failed, "\n".join(failed)
    return [each for _, each in found]


def _run(folder: Path, function: Callable[[int], Any], rank: int, size: int, pipe: Any) -> None:
    torch.set_num_threads(1)
    os.environ.update(
        RANK=str(rank), WORLD_SIZE=str(size), LOCAL_RANK=str(rank), MASTER_ADDR="127.0.0.1", MASTER_PORT="1"
    )
    AcceleratorState._reset_state(reset_partial_state=True)  # it remembers that the test ran alone
    try:
        store = distributed.FileStore(str(folder / "store of the ranks"), size)
        distributed.init_process_group("gloo", store=store, rank=rank, world_size=size)
        result = "done", function(rank)
    except InputError as error:
        result = "done", str(error)
    except BaseException:
        result = "failed", f"process {rank}: {traceback.format_exc()}"
    pipe.send(result)
    time.sleep(SECONDS)  # the test ends it: an end of its own would break operations of the others
