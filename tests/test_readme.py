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


RECIPE = """
import torch
from torch import nn
from torch.nn import functional
from torch.utils.data import DataLoader, TensorDataset
import diversify as dv

labels, epochs = torch.arange(48) % 4 % 3, 2
dataset = TensorDataset(torch.rand(48, 1, 6, 6), labels)
model = nn.Sequential(nn.Flatten(), nn.Linear(36, 3))
before = model[1].weight.detach().clone()
plan = dv.Plan.from_counts(["a", "b", "c"], torch.bincount(labels))
"""


def recipe(name: str) -> str:
    found = re.search(rf"<!-- {name} -->\n```py\n(.*?)^```", (ROOT / "README.md").read_text(), re.DOTALL | re.MULTILINE)
    assert found is not None
    return found.group(1)


@pytest.mark.filterwarnings("ignore")
def test_the_recipe_for_accelerate_runs() -> None:
    namespace: dict[str, object] = {}
    setup = f"{RECIPE}\nfrom accelerate import Accelerator\noptimizer = torch.optim.SGD(model.parameters(), lr=0.1)\n"
    exec(setup + recipe("accelerate"), namespace)
    exec(
        "assert sampler.epoch == 1 and not torch.equal(before, accelerator.unwrap_model(model)[1].weight.cpu())",
        namespace,
    )


@pytest.mark.filterwarnings("ignore")
def test_the_recipe_for_lightning_runs(tmp_path: Path) -> None:
    pytest.importorskip("lightning")
    namespace: dict[str, object] = {"folder": str(tmp_path)}
    trainer = (
        "import lightning\ntrainer = lightning.Trainer(max_epochs=2, accelerator='cpu', logger=False, default_root_dir=folder,"
        " enable_checkpointing=False, enable_progress_bar=False, enable_model_summary=False)\n"
    )
    exec(RECIPE + trainer + recipe("lightning"), namespace)
    exec("assert not torch.equal(before, model[1].weight)", namespace)


def test_the_commands_of_the_readme_are_commands() -> None:
    import typer

    from diversify.cli.commands import app

    group = typer.main.get_command(app)
    shown = [
        line.split() for block in blocks("README.md", "console") for line in block.splitlines() if line.startswith("$")
    ]
    named = [words[2:] for words in shown if words[1] == "diversify"]
    assert {words[0] for words in named} >= {"train", "diagnose", "plan", "remedy", "compare"}
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
