"""The origin of a result: versions, commit, device and time."""

from __future__ import annotations

import datetime
import errno
import platform
import re
import subprocess
from importlib import metadata
from pathlib import Path

import torch

PACKAGES = (
    "diversify-imbalance",
    "torch",
    "torchvision",
    "numpy",
    "scikit-learn",
    "accelerate",
    "opencv-python-headless",
    "pillow",
)


def versions() -> dict[str, str]:
    """Return the versions of Python and of every package that can change a number; "absent" if one is not installed.

    Example:
        >>> sorted(versions())[:2]
        ['accelerate', 'diversify-imbalance']
    """
    found = {"python": platform.python_version()}
    for name in PACKAGES:
        try:
            found[name] = metadata.version(name)
        except metadata.PackageNotFoundError:
            found[name] = "absent"
    return found


def commit() -> str | None:
    """Return the commit of this library's checkout, followed by `+` if its code differs from the commit.

    None if the library is installed and not checked out, or if git is not there or cannot read the checkout.

    Raises:
        OSError: The system gives too little to run git: memory, processes or open files.

    Example:
        >>> found = commit()
        >>> found is None or len(found) >= 40
        True
    """
    here = Path(__file__).resolve().parents[2]
    if not (here / ".git").exists():
        return None

    def git(*arguments: str) -> str:
        # git leaves another user's checkout alone unless it is named
        line = ["git", "-c", f"safe.directory={here}", "-C", str(here), *arguments]
        run = subprocess.run(line, capture_output=True, text=True, check=True)
        return run.stdout.strip()

    short = re.compile(r"too many open files|cannot allocate memory|out of memory|resource temporarily", re.IGNORECASE)

    try:
        # only code counts: records that a checkout holds may change
        changed = git("status", "--porcelain", "--untracked-files=no", "--", "*.py")
        return git("rev-parse", "HEAD") + ("+" if changed else "")
    except OSError as error:
        if error.errno in (errno.EMFILE, errno.ENFILE, errno.ENOMEM, errno.EAGAIN):
            raise
        return None
    except subprocess.CalledProcessError as error:
        if found := short.search(error.stderr):
            raise OSError(errno.EAGAIN, found[0], "git") from None
        return None


def device_name(device: torch.device) -> str:
    """Return the device in words, for example `cpu (2 threads)` or `cuda (NVIDIA H200)`.

    Example:
        >>> device_name(torch.device("cpu")).split()[0]
        'cpu'
    """
    if device.type == "cuda":
        return f"cuda ({torch.cuda.get_device_name(device)})"
    threads = torch.get_num_threads()
    return f"cpu ({threads} thread{'s' * (threads != 1)})" if device.type == "cpu" else device.type


def now() -> str:
    """Return the UTC time in ISO 8601, to the second.

    Example:
        >>> now().endswith("+00:00")
        True
    """
    return datetime.datetime.now(datetime.UTC).isoformat(timespec="seconds")


def origin(device: torch.device) -> dict[str, object]:
    """Return versions, commit and device, as a record holds them.

    Example:
        >>> list(origin(torch.device("cpu")))
        ['versions', 'commit', 'device']
    """
    return {"versions": versions(), "commit": commit(), "device": device_name(device)}
