"""The documents are true: their code runs, their tables are what the records give."""

import re
from pathlib import Path

import pytest

ROOT = Path(__file__).parent.parent


def blocks(document: str, language: str) -> list[str]:
    return re.findall(rf"^```{language}\n(.*?)^```", (ROOT / document).read_text(), flags=re.DOTALL | re.MULTILINE)


def test_the_code_of_the_readme_runs_in_order() -> None:
    found = blocks("README.md", "python")
    assert len(found) >= 4
    namespace: dict[str, object] = {}
    for block in found:
        exec(compile(block, "README.md", "exec"), namespace)
    assert namespace["diagnosis"].class_names == ("class 0", "class 1", "class 2", "class 3")
    assert namespace["share"].shape == (4,)


def test_the_commands_of_the_readme_are_commands() -> None:
    import typer

    from diversify.cli import app

    group = typer.main.get_command(app)
    shown = [
        line.split() for block in blocks("README.md", "console") for line in block.splitlines() if line.startswith("$")
    ]
    named = [words[2:] for words in shown if words[1] == "diversify"]
    assert {words[0] for words in named} >= {"train", "diagnose", "compare"}
    for words in named:
        known = {option for parameter in group.commands[words[0]].params for option in parameter.opts}
        assert {word for word in words if word.startswith("--")} <= known
    makefile = (ROOT / "Makefile").read_text()
    for words in shown:
        if words[1] == "make":
            assert f"\n{words[2]}:" in makefile


@pytest.mark.parametrize("document", ["README.md", "benchmarks/README.md"])
def test_tables_are_what_the_records_give(document: str) -> None:
    from benchmarks import tables

    text = (ROOT / document).read_text()
    assert tables.filled(text) == text


def test_a_table_that_was_typed_is_noticed() -> None:
    from benchmarks import tables

    name = next(iter(tables.TABLES))
    typed = f"<!-- {name} -->\n| a better number |\n<!-- end {name} -->"
    assert tables.filled(typed) != typed
