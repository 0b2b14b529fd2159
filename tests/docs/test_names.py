"""Every name of the library that the documents and examples use is one that it has."""

import ast
import importlib
import re
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]
DOCUMENTS = [
    ROOT / "README.md",
    ROOT / "CONTRIBUTING.md",
    *sorted((ROOT / "docs").glob("*.md")),
    *sorted((ROOT / "docs" / "guide").glob("*.md")),
    *sorted((ROOT / "docs" / "results").glob("*.md")),
    *sorted((ROOT / "examples").rglob("*.py")),
]
ROOTS = {"dv": "diversify", "diversify": "diversify"}
NAME = re.compile(r"(?<![\w/.-])(dv|diversify)((?:\.[A-Za-z_]\w*)+)")


def imported(text: str) -> set[str]:
    """`diversify.a.B` for every `from diversify.a import B` in the text, code blocks of Markdown among it."""
    found = set()
    for line in re.findall(r"^\s*(?:#\s*)?(from diversify[\w.]* import .+?)$", text, re.MULTILINE):
        for node in ast.walk(ast.parse(line.split("#")[0].strip())):
            if isinstance(node, ast.ImportFrom):
                found |= {f"{node.module}.{one.name}" for one in node.names}
    return found


def used(text: str) -> set[str]:
    """Dotted names that begin with `dv.` or `diversify.`, files left out."""
    dotted = {ROOTS[root] + rest for root, rest in NAME.findall(text)}
    return {name for name in dotted if not re.search(r"\.(css|py|pyi|md|toml|json|jsonl|html|png)$", name)} | imported(
        text
    )


def resolve(name: str) -> object:
    """The object of a dotted name; attributes of objects count, as in `dv.Plan.from_counts`."""
    value: object = importlib.import_module("diversify")
    path = "diversify"
    for part in name.split(".")[1:]:
        path += f".{part}"
        try:
            value = getattr(value, part)
        except AttributeError:
            value = importlib.import_module(path)
    return value


@pytest.mark.parametrize("document", DOCUMENTS, ids=lambda path: str(path.relative_to(ROOT)))
def test_every_name_that_a_document_uses_is_there(document: Path) -> None:
    missing = []
    for name in sorted(used(document.read_text())):
        try:
            resolve(name)
        except (AttributeError, ImportError):
            missing.append(name)
    assert not missing


def test_a_name_that_is_not_there_is_noticed() -> None:
    assert used("`dv.diagnoze(...)`, see docs/diversify.css") == {"diversify.diagnoze"}
    with pytest.raises(ImportError):
        resolve("diversify.diagnoze")
    missing = "from diversify.plan import RULES, Nothing  # why\n"
    assert used(missing) >= {"diversify.plan.RULES", "diversify.plan.Nothing"}
