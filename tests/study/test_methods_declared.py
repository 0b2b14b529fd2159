"""Methods declared in a user's file: their names, suffixes and spaces; and ties on the validation set."""

import sys
from pathlib import Path

import pytest
import torch
from studies import final, trial

from diversify.errors import InputError
from diversify.network.embeddings import Embeddings
from diversify.network.linear_head import LinearHead
from diversify.plan.plan import Plan
from diversify.runtime.user_code import import_file
from diversify.study import analysis
from diversify.study.methods import METHODS
from diversify.study.protocol import Method, Protocol, Setting, Trained
from diversify.study.study import Study

FILE = """
from diversify.study.protocol import Method, Protocol
PROTOCOL = Protocol(suite="mine", data="digits", methods=({methods},))
METHODS = ({made},)
"""
MADE = 'Method(name="{name}", meaning="m", source="s")'


def study(tmp_path: Path, methods: str, *names: str) -> Study:
    file = tmp_path / "mine.py"
    made = ", ".join(MADE.format(name=name) for name in names)
    file.write_text(FILE.format(methods=f'"{methods}"', made=made))
    protocol = Protocol(suite="mine", data="digits", methods=(methods,))
    return Study(protocol=protocol, results=tmp_path / "r.jsonl", declared=file)


def test_a_file_may_declare_values_of_its_own(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(sys, "dont_write_bytecode", False)
    file = tmp_path / "mine.py"
    declared = "import dataclasses\n@dataclasses.dataclass\nclass Mine:\n    number: int = 1\nMINE = Mine()\n"
    file.write_text(f"from __future__ import annotations\n{declared}")
    assert import_file(file, "FILE.py").MINE.number == 1
    assert [entry.name for entry in file.parent.iterdir()] == [file.name]  # no bytecode cache beside it


def test_a_declared_method_takes_suffixes(tmp_path: Path) -> None:
    made = study(tmp_path, "mine+images+head", "mine").methods["mine+images+head"]
    assert made.name == "mine+images+head"
    assert set(made.space) == {"image_strength", "head_share"}


@pytest.mark.parametrize(
    ("methods", "names", "message"),
    [
        ("mine+ears", ["mine"], "suffix of mine+ears must be one of images, mix, head, got 'ears'"),
        ("ce", ["ce"], "METHODS of {file} must have names of their own, got 'ce' of the library"),
        ("mine", ["mine", "mine"], "METHODS of {file} must have names of their own, got 'mine' twice"),
    ],
)
def test_names_that_cannot_be_are_said(tmp_path: Path, methods: str, names: list[str], message: str) -> None:
    with pytest.raises(InputError) as caught:
        _ = study(tmp_path, methods, *names).methods
    assert str(caught.value) == message.format(file=tmp_path / "mine.py")


def test_a_space_holds_ranges_and_choices() -> None:
    with pytest.raises(InputError, match=r"gamma in the space of mine must be a Range or a Choice, got 0.3"):
        Method(name="mine", meaning="m", source="s", space={"gamma": 0.3})  # type: ignore[dict-item]


def test_a_plan_is_not_carried_to_other_rare_classes() -> None:
    names, counts = ("a", "b", "c"), torch.tensor([9, 4, 2])
    labels = torch.repeat_interleave(torch.arange(3), counts.flip(0))
    features = torch.rand(len(labels), 4, generator=torch.Generator().manual_seed(0))
    rows = Embeddings(
        features=features, labels=labels, logits=torch.zeros(len(labels), 3), indices=torch.arange(len(labels))
    )
    setting = Setting(
        images=None, labels=labels, class_counts=counts.flip(0), class_names=names, epochs=1, seed=0, base=None
    )
    head = LinearHead(weight=torch.ones(3, 4), bias=torch.zeros(3))
    carried = {"plan": Plan.from_counts(names, counts).to_dict()}
    step = METHODS["diversify"].head_step
    assert step is not None
    with pytest.raises(InputError, match="a final run must have the classes in the order of size"):
        step(setting, {"head_share": 0.5}, Trained(train=rows, heldout=None, head=head, carried=carried))


def test_of_equals_on_val_the_hardest_to_beat_is_the_reference() -> None:
    names = ("balanced_softmax", "focal")
    records = [trial(name, 0, 0.9) for name in names]
    records += [final(name, seed, 0.6 if name == "focal" else 0.5) for name in names for seed in (0, 1, 2)]
    records += [final("diversify", seed, 0.7) for seed in (0, 1, 2)]
    suite = analysis.compare(records).suites[0]
    assert suite.references["reweighting"].name == "focal"
    assert "2 reweighting methods tie on the validation set" in suite.references["reweighting"].why
    assert any("The validation set cannot tell the best 2 methods apart" in one for one in suite.caveats)
    apart = [trial("balanced_softmax", 0, 0.95), *records[1:]]
    assert analysis.compare(apart).suites[0].references["reweighting"].name == "balanced_softmax"
