"""The process group of `torch.distributed` that this process is a member of: what it exchanges, and when it is lost."""

from __future__ import annotations

import contextlib
import re
import sys
from collections.abc import Iterator
from typing import TYPE_CHECKING, Any

from ..errors import InputError
from .user_code import describe

if TYPE_CHECKING:  # the command line imports this file before it knows whether it needs torch
    import torch
    from torch import Tensor

_OF_GLOO = re.compile(r"\[\S*gloo/\S*:\d+\] ")  # a file of gloo and a line; what gloo checks has "enforce fail at"
_OF_NCCL = re.compile(r"remote process exited|connection (reset|closed|refused)|socket timeout", re.IGNORECASE)
_KEPT = "what was finished is kept: run the command again, train with --resume"
_GUESS = " This is typically caused by"  # gloo goes on with advice to its developers


class ProcessLostError(ConnectionError):
    """Another process of the group is gone."""


class ProcessFailedError(ProcessLostError):
    """Another process of the group failed, and told this one; it shows the error itself."""


def place() -> tuple[int, int] | None:
    """Return the number of this process in its group, and how many there are; None without a group.

    Example:
        >>> place() is None
        True
    """
    distributed = sys.modules.get("torch.distributed")
    if distributed is None or not distributed.is_available() or not distributed.is_initialized():
        return None
    return distributed.get_rank(), distributed.get_world_size()


def has_cpu() -> bool:
    """Return whether the group exchanges tensors in the memory of the CPU."""
    from torch import distributed

    return "cpu:" in str(distributed.get_backend_config())


def device() -> torch.device:
    """Return where a tensor has to be that all processes of the group exchange: on the CPU if it can be there."""
    import torch

    return torch.device("cpu" if has_cpu() else str(torch.distributed.get_backend_config()).partition(":")[0])


def gathered(own: Tensor) -> Tensor:
    """Return `(P, ...)`: a small tensor of each of the P processes, on the CPU.

    Args:
        own: That of this process, of the same shape and type in all of them.
    """
    import torch

    sent = own.to(device())
    found = [torch.empty_like(sent) for _ in range(torch.distributed.get_world_size())]
    torch.distributed.all_gather(found, sent)
    return torch.stack(found).cpu()


def is_lost(error: BaseException) -> bool:
    """Return whether a collective operation failed because another process is gone.

    Example:
        >>> is_lost(RuntimeError("[/src/third_party/gloo/gloo/transport/tcp/pair.cc:561] Connection closed by peer"))
        True
        >>> is_lost(RuntimeError("socket of the lamp not found"))
        False
    """
    if type(error) is RuntimeError:
        return _OF_GLOO.match(str(error)) is not None
    distributed: Any = sys.modules.get("torch.distributed")
    if (
        distributed is None or not distributed.is_available() or str(error).startswith("Caught ")
    ):  # of a loader's worker
        return False
    if isinstance(error, distributed.DistNetworkError | distributed.DistStoreError):
        return True
    return isinstance(error, distributed.DistBackendError) and _OF_NCCL.search(str(error)) is not None


def lost(which: str, error: BaseException) -> ProcessLostError:
    """Return the error for a process that is gone.

    Args:
        which: The process.
        error: By which this was noticed.

    Example:
        >>> print(lost("process 1", RuntimeError("Connection closed by peer")))
        lost the connection to process 1 (Connection closed by peer); what was finished is kept: run the command again, train with --resume
    """
    return ProcessLostError(f"lost the connection to {which} ({cause_of(error)}); {_KEPT}")


def in_words(error: Exception) -> Tensor:
    """Return an error of this process as bytes that another process reads with `from_words`.

    Example:
        >>> from_words(in_words(InputError("epochs must be at least 1, got 0")))
        InputError('epochs must be at least 1, got 0')
        >>> print(from_words(in_words(ValueError("no such bird"))))
        process 0 failed (ValueError: no such bird); what was finished is kept: run the command again, train with --resume
    """
    import torch

    text = str(error)
    if not isinstance(error, InputError | ProcessLostError):
        text = f"process {(place() or (0, 1))[0]} failed ({describe(error)}); {_KEPT}"
    return torch.tensor([isinstance(error, InputError), *text.encode(errors="surrogatepass")], dtype=torch.uint8)


def from_words(words: Tensor) -> InputError | ProcessFailedError:
    """Return the error that another process told this one, for the caller to raise."""
    is_of_input, *text = words.tolist()
    return (InputError if is_of_input else ProcessFailedError)(bytes(text).decode(errors="surrogatepass"))


def cause_of(error: BaseException) -> str:
    """Return what torch says about a failed connection, in one line.

    Example:
        >>> cause_of(RuntimeError("[/src/gloo/transport/tcp/pair.cc:561] Connection closed by peer [10.0.0.7]:4711."))
        'Connection closed by peer [10.0.0.7]:4711'
    """
    cause = (str(error).strip().splitlines() or [type(error).__name__])[0]
    return _OF_GLOO.sub("", cause.partition(_GUESS)[0]).rstrip(". ")


@contextlib.contextmanager
def connected_to(which: str) -> Iterator[None]:
    """Turn the error of a collective operation in the block into a ProcessLostError if a process is gone.

    Args:
        which: The process, as the error names it.

    Raises:
        ProcessLostError: The process is gone.
    """
    try:
        yield
    except RuntimeError as error:
        if not is_lost(error):
            raise
        raise lost(which, error) from error
