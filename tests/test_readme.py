"""The README is true: its code runs, its output is what is printed, its commands exist, its tables come from the records."""

import re
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).parent.parent
sys.path.append(str(ROOT / "docs"))


def blocks(document: str, language: str) -> list[str]:
    return re.findall(rf"^```{language}\n(.*?)^```", (ROOT / document).read_text(), flags=re.DOTALL | re.MULTILINE)


@pytest.mark.slow
def test_the_code_of_the_readme_runs_in_order_and_prints_what_it_shows() -> None:
    import outputs
    import torch

    text = (ROOT / "README.md").read_text()
    found, names = outputs.filled(text, "README.md")
    assert found == text, "run `python docs/outputs.py`"
    assert len(blocks("README.md", "python")) == len(outputs._BLOCK.findall(text)) >= 4
    # the head that was recommended went into the model; the plan trains another model
    assert torch.allclose(names["split"].head.weight, names["choice"].head.weight)
    assert names["fresh"] is not names["model"]
    untouched = names["choice"].heads[0].weight
    assert names["choice"].recommended == 0 or not torch.allclose(untouched, names["choice"].head.weight, atol=0.01)
    assert {"ce", "balanced_softmax"} == {
        one.name for one in names["compare"](names["load"](names["results"])).suites[0].finished
    }


def test_code_blocks_are_short_and_the_page_is_too() -> None:
    assert all(len(block.strip().splitlines()) <= 10 for block in blocks("README.md", "python"))
    assert len((ROOT / "README.md").read_text().splitlines()) < 200


def test_an_output_that_was_typed_is_noticed() -> None:
    import outputs

    typed = "```python\nprint(1 + 1)\n```\n\n```text\n3\n```\n"
    assert outputs.filled(typed)[0] == typed.replace("3", "2")


GUIDE = [
    str(page.relative_to(ROOT))
    for page in sorted((ROOT / "docs" / "guide").glob("*.md"))
    if "$ diversify" in page.read_text()
]


@pytest.mark.parametrize("document", ["README.md", "docs/start.md", "docs/results/studies.md", *GUIDE])
def test_the_commands_of_the_documents_are_commands(document: str) -> None:
    import typer

    from diversify.cli.commands import app

    group = typer.main.get_command(app)
    shown = [
        line.split() for block in blocks(document, "console") for line in block.splitlines() if line.startswith("$")
    ]
    named = [words[2:] for words in shown if words[1] == "diversify"]
    assert named
    for words in named:
        known = {option for parameter in group.commands[words[0]].params for option in parameter.opts}
        assert {word for word in words if word.startswith("--")} <= known
    makefile = (ROOT / "Makefile").read_text()
    for words in shown:
        if words[1] == "make":
            assert f"\n{words[2]}:" in makefile


def documents_with_tables() -> list[str]:
    from benchmarks import tables

    return [str(path.relative_to(ROOT)) for path in tables.DOCUMENTS]


@pytest.mark.slow
@pytest.mark.parametrize("document", documents_with_tables())
def test_tables_are_what_the_records_give(document: str) -> None:
    from benchmarks import tables

    text = (ROOT / document).read_text()
    assert tables.filled(text) == text, "run `python -m benchmarks.tables`"


def test_every_table_stands_in_a_result_page() -> None:
    from benchmarks import tables

    pages = "".join(path.read_text() for path in (ROOT / "docs" / "results").glob("*.md"))
    missing = [name for name in tables.TABLES if name != "summary" and f"<!-- {name} -->" not in pages]
    assert not missing


def test_a_table_that_was_typed_is_noticed() -> None:
    from benchmarks import tables

    name = next(iter(tables.TABLES))
    typed = f"<!-- {name} -->\n| a better number |\n<!-- end {name} -->"
    assert tables.filled(typed) != typed
