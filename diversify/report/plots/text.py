"""Shortened names, for drawings and tables."""

from __future__ import annotations

import itertools
from collections.abc import Sequence

NAME = 18  # characters of a class name that are drawn


def cut(name: str, length: int) -> str:
    """Return the name, with an ellipsis in place of its end if it is longer than `length`."""
    return name if len(name) <= length else name[: length - 1].rstrip() + "…"


def shortened(names: Sequence[str], length: int) -> list[str]:
    """Return the names cut to `length`; names that would become equal lose the words that they share at the start."""
    groups: dict[str, list[str]] = {}
    for name in names:
        groups.setdefault(cut(name, length), []).append(name)
    short = []
    for name in names:
        group = groups[cut(name, length)]
        ends = zip(min(group), max(group), strict=False)
        shared = "".join(one for one, _ in itertools.takewhile(lambda pair: pair[0] == pair[1], ends))
        start = 1 + max(shared.rfind(mark) for mark in " _-/.") if len(set(group)) > 1 else 0
        short.append(cut(f"…{name[start:]}" if start else name, length))
    return short
