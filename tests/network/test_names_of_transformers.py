"""Weights and class names of networks of transformers, with a stand-in for that library."""

import sys
from pathlib import Path
from types import ModuleType, SimpleNamespace
from typing import Any

import pytest
import torch
from torch import nn

from diversify.errors import InputError
from diversify.network import hugging_face
from diversify.network.hugging_face import NOTE, class_names_in, translated

PATH = Path("w.safetensors")


class Net(nn.Module):
    """A network that was saved with `old.` in place of `body.`."""

    __module__ = "transformers.models.net"

    def __init__(self, classes: int = 3) -> None:
        super().__init__()
        self.body, self.head = nn.Linear(4, 2), nn.Linear(2, classes)
        self.config, self.dtype = SimpleNamespace(classes=classes, id2label=None), torch.float32

    @classmethod
    def from_pretrained(
        cls, _: None, *, config: Any, state_dict: dict[str, Any], **options: Any
    ) -> tuple[Any, dict[str, Any]]:
        assert options == {"dtype": torch.float32, "ignore_mismatched_sizes": True, "output_loading_info": True}
        torch.rand(3)  # a new network draws its weights
        if "broken" in state_dict:
            raise RuntimeError("no such file")
        made = cls(config.classes)
        own = made.state_dict()
        given = {name.replace("old.", "body."): value for name, value in state_dict.items()}
        wrong = [(n, v.shape, own[n].shape) for n, v in given.items() if n in own and v.shape != own[n].shape]
        report = {
            "missing_keys": set(own) - set(given),
            "unexpected_keys": set(given) - set(own),
            "mismatched_keys": set(wrong),
        }
        bad = {name for name, _, _ in wrong}
        made.load_state_dict({**own, **{n: v for n, v in given.items() if n in own and n not in bad}})
        return made, report


class Bars:
    """The log of transformers: what it was told."""

    def __init__(self) -> None:
        self.level, self.bar = 30, True

    def get_verbosity(self) -> int:
        return self.level

    def set_verbosity(self, level: int) -> None:
        self.level = level

    def set_verbosity_error(self) -> None:
        self.level = 40

    def is_progress_bar_enabled(self) -> bool:
        return self.bar

    def enable_progress_bar(self) -> None:
        self.bar = True

    def disable_progress_bar(self) -> None:
        self.bar = False


@pytest.fixture(autouse=True)
def bars(monkeypatch: pytest.MonkeyPatch) -> Bars:
    library, found = ModuleType("transformers"), Bars()
    library.utils = SimpleNamespace(logging=found)  # type: ignore[attr-defined]
    monkeypatch.setitem(sys.modules, "transformers", library)
    return found


def saved(classes: int = 3, **changes: torch.Tensor) -> dict[str, torch.Tensor]:
    torch.manual_seed(1)
    return {name.replace("body.", "old."): value for name, value in Net(classes).state_dict().items()} | changes


def test_the_names_of_a_file_become_those_of_the_network(bars: Bars) -> None:
    model, weights = Net(), saved()
    before = torch.random.get_rng_state()
    found = translated(model, {"": weights}, PATH)
    assert found is not None
    assert found.key == ""
    assert list(found.tensors) == list(model.state_dict())
    assert torch.equal(found.tensors["body.weight"], weights["old.weight"])
    assert torch.equal(torch.random.get_rng_state(), before)
    assert (bars.level, bars.bar) == (30, True)
    assert "transformers" in NOTE


def test_an_adapter_keeps_the_names_of_its_part() -> None:
    class Adapter(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.inner = Net()

    found = translated(Adapter(), {"": saved()}, PATH)
    assert found is not None
    assert set(found.tensors) == {f"inner.{name}" for name in Net().state_dict()}


def test_the_state_dict_that_fits_is_taken_out_of_several() -> None:
    found = translated(Net(), {"a": saved(broken=torch.ones(1)), "b": {"x": torch.ones(1)}, "c": saved()}, PATH)
    assert found is not None
    assert found.key == "c"
    assert translated(Net(), {"a": {"x": torch.ones(1)}}, PATH) is None  # nothing of the network
    assert translated(Net(), {"a": saved(broken=torch.ones(1))}, PATH) is None  # the library cannot read it


def test_weights_for_other_classes_or_with_parts_missing_are_refused() -> None:
    with pytest.raises(
        InputError, match=r"weights w.safetensors must fit the model.*they are for 5 classes and the model has 3"
    ):
        translated(Net(), {"": saved(classes=5)}, PATH)
    less = {name: value for name, value in saved().items() if name != "head.bias"}
    with pytest.raises(InputError, match="must fit the model, got no head.bias$"):
        translated(Net(), {"": less}, PATH)
    more = saved(**{f"x{place}": torch.ones(1) for place in range(4)})
    with pytest.raises(InputError, match="got an extra x0, an extra x1, an extra x2 and 1 more"):
        translated(Net(), {"": more}, PATH)
    with pytest.raises(InputError, match=r"old|body.weight of shape \(2, 9\) instead of \(2, 4\)$"):
        translated(Net(), {"": saved(**{"old.weight": torch.ones(2, 9)})}, PATH)


@pytest.mark.parametrize(
    ("names", "found"),
    [
        ({0: "ant", 1: "bee", 2: "cow"}, ["ant", "bee", "cow"]),
        ({2: "cow", 0: "ant", 1: "bee"}, ["ant", "bee", "cow"]),
        ({0: "LABEL_0", 1: "LABEL_1", 2: "LABEL_2"}, None),
        ({0: "ant", 1: "bee"}, None),
        ({"0": "ant", "1": "bee", "2": "cow"}, None),
        (None, None),
    ],
)
def test_names_of_classes_are_all_or_none(names: dict[Any, str] | None, found: list[str] | None) -> None:
    model = Net()
    model.config.id2label = names
    assert class_names_in(model, 3) == found
    assert class_names_in(nn.Sequential(nn.Linear(4, 4), model), 3) is None  # it holds only part of the weights


def test_an_interruption_is_passed_on(monkeypatch: pytest.MonkeyPatch, bars: Bars) -> None:
    def interrupted(*_: object, **__: object) -> None:
        raise KeyboardInterrupt

    monkeypatch.setattr(Net, "from_pretrained", interrupted)
    with pytest.raises(KeyboardInterrupt):
        translated(Net(), {"": saved()}, PATH)
    assert (bars.level, bars.bar) == (30, True)
    monkeypatch.delitem(sys.modules, "transformers")
    assert hugging_face._part_of(Net()) is None
