"""Where a result comes from: versions, commit, device, time."""

from __future__ import annotations

import datetime
import platform
import subprocess
from importlib import metadata
from pathlib import Path

import torch

PACKAGES = ("diversify-imbalance", "torch", "torchvision", "numpy", "scikit-learn", "accelerate")


def versions() -> dict[str, str]:
    """Version of Python and of every package that can change a number; "absent" where one is not installed."""
    found = {"python": platform.python_version()}
    for name in PACKAGES:
        try:
            found[name] = metadata.version(name)
        except metadata.PackageNotFoundError:
            found[name] = "absent"
    return found


def commit() -> str | None:
    """The commit of this library's checkout, with `+` when its code differs from it; None when it is installed, not checked out."""
    here = Path(__file__).resolve().parents[2]
    if not (here / ".git").exists():
        return None

    def git(*arguments: str) -> str:
        run = subprocess.run(["git", "-C", str(here), *arguments], capture_output=True, text=True, check=True)
        return run.stdout.strip()

    try:
        # records that it writes are no code
        changed = git("status", "--porcelain", "--untracked-files=no", "--", "*.py")
        return git("rev-parse", "HEAD") + ("+" if changed else "")
    except (OSError, subprocess.CalledProcessError):
        return None


def device_name(device: torch.device) -> str:
    """The device in words, for example `cpu (2 threads)` or `cuda (NVIDIA H200)`."""
    if device.type == "cuda":
        return f"cuda ({torch.cuda.get_device_name(device)})"
    threads = torch.get_num_threads()
    return f"cpu ({threads} thread{'s' * (threads != 1)})" if device.type == "cpu" else device.type


def now() -> str:
    """UTC time, ISO 8601, to the second."""
    return datetime.datetime.now(datetime.UTC).isoformat(timespec="seconds")


def origin(device: torch.device) -> dict[str, object]:
    """All of it, for a record."""
    return {"versions": versions(), "commit": commit(), "device": device_name(device)}
