"""Runs the code of the documents: `python docs/outputs.py` rewrites what it prints in place.

The Python blocks of a document run in order, in one namespace. A block of language `text` directly after one holds what
that block prints; a test checks that it does.
"""

from __future__ import annotations

import contextlib
import io
import re
import textwrap
from pathlib import Path
from typing import Any

ROOT = Path(__file__).parent.parent
DOCUMENTS = (
    "README.md",
    "docs/start.md",
    "docs/pitfalls.md",
    *sorted(f"docs/guide/{path.name}" for path in (ROOT / "docs" / "guide").glob("*.md")),
)
WIDTH = 100  # of the lines that are shown
_BLOCK = re.compile(
    r"^(?P<code>```python\n(?P<body>.*?)^```\n)(?P<shown>\n```text\n.*?^```\n)?", re.DOTALL | re.MULTILINE
)
_SETUP = re.compile(r"<!-- setup\n(.*?)-->", re.DOTALL)  # runs first, and is not shown


def filled(text: str, name: str = "document") -> tuple[str, dict[str, Any]]:
    """The document with the outputs made anew, and the names that its code left."""
    namespace: dict[str, Any] = {"__name__": "__main__"}
    for setup in _SETUP.findall(text):
        exec(compile(setup, name, "exec"), namespace)

    def run(found: re.Match[str]) -> str:
        printed = io.StringIO()
        with contextlib.redirect_stdout(printed):
            exec(compile(found["body"], name, "exec"), namespace)
        if found["shown"] is None:
            return found["code"]
        lines = printed.getvalue().strip().splitlines()
        shown = "\n".join(
            textwrap.fill(line, WIDTH, subsequent_indent="  ") if len(line) > WIDTH else line for line in lines
        )
        return f"{found['code']}\n```text\n{shown}\n```\n"

    return _BLOCK.sub(run, text), namespace


if __name__ == "__main__":
    for document in DOCUMENTS:
        path = ROOT / document
        path.write_text(filled(path.read_text(), document)[0])
        print(document)
