"""Tries of one condition: a command under it, then the same command without it, and what was wrong."""

from __future__ import annotations

import sys
from collections import Counter
from collections.abc import Callable
from pathlib import Path
from typing import Any

from benchmarks.load import commands
from benchmarks.load.kills import again, leftovers

ROOT = Path(__file__).parents[2]


def nothing() -> None:
    """Do nothing."""


class Tries:
    """The tries of one condition.

    Args:
        figure: Name of the figure.
        what: What is tried, for the table.
        folder: The folder that `commands.material` filled.
    """

    def __init__(self, figure: str, what: str, folder: Path) -> None:
        self.figure, self.what, self.folder = figure, what, folder
        self.tried, self.refused, self.wrong = 0, 0, list[str]()
        self.said: Counter[str] = Counter()
        self._whole: dict[str, dict[str, Any]] = {}

    def attempt(
        self,
        name: str,
        out: Path,
        shown: str,
        *,
        prepare: Callable[[], None] = nothing,
        free: Callable[[], None] = nothing,
    ) -> None:
        """Run a command under the condition, end the condition, and run the command to its end.

        Args:
            name: The command.
            out: Its folder.
            shown: The condition in words.
            prepare: Sets the condition in the process of the command.
            free: Ends the condition where it is not one of the process.
        """
        whole = self.whole(name)
        arguments = commands.COMMANDS[name](self.folder, out)
        ended = self.run(arguments, prepare=prepare)
        wrong = [*self.unclear(ended)]
        free()
        wrong += commands.unreadable(out)
        if ended.code:
            ended = self.run(again(name, arguments, out))
        if ended.code:
            wrong.append(f"afterwards exit code {ended.code}: {ended.errors[:200]}")
        else:
            wrong += [*commands.differences(whole, out), *(f"left behind: {each}" for each in leftovers(out.parent))]
        self.note(f"{name} with {shown}", wrong)

    def run(self, arguments: list[str], **options: Any) -> commands.Ended:
        """Run a command to its end."""
        return commands.run(arguments, self.folder / "errors", **options)

    def unclear(self, ended: commands.Ended) -> list[str]:
        """Count a refusal; return what is wrong with how a command ended, in a list of one or none."""
        if ended.code == 2:
            self.refused += 1
            self.said[self.without_places(ended.errors).strip().removeprefix("error: ")] += 1
        if commands.is_clear(ended):
            return []
        return [f"exit code {ended.code}: {' | '.join(self.without_places(ended.errors).split())[-400:]}"]

    def without_places(self, text: str) -> str:
        """Return a text that names no place of this machine."""
        places = {self.folder: "FOLDER", sys.prefix: "ENVIRONMENT", sys.base_prefix: "PYTHON", ROOT: "CHECKOUT"}
        for place, name in places.items():
            text = text.replace(str(place), name)
        return text

    def note(self, shown: str, wrong: list[str]) -> None:
        """Count a try."""
        self.tried += 1
        if wrong:
            self.wrong.append(f"{shown}: {'; '.join(wrong)[:300]}")
            print(f"lost: {self.figure}: {shown}: {'; '.join(wrong)}", file=sys.stderr, flush=True)

    def whole(self, name: str) -> dict[str, Any]:
        """Return what a command leaves that nothing disturbs."""
        if name not in self._whole:
            out = self.folder / "whole" / name
            ended = self.run(commands.COMMANDS[name](self.folder, out))
            if ended.code:
                raise RuntimeError(ended.errors)
            self._whole[name] = commands.content(out)
            commands.clear(out.parent)
        return self._whole[name]

    def record(self) -> dict[str, Any]:
        """Return the record."""
        found = {"figure": self.figure, "what": self.what, "tried": self.tried, "lost": len(self.wrong)}
        said = [line for line, _ in self.said.most_common(8)]
        return {**found, "refused_in_one_line": self.refused, "said": said, "wrong": self.wrong[:5]}
