"""A model that cannot be diagnosed is refused with one line that says what to do."""

import warnings

import pytest
import torch
from small_network import Net, make_net, message_of, seeded
from torch import Tensor, nn
from torch.nn import functional as F  # noqa: N812

from diversify.errors import InputError
from diversify.network.extraction import extract
from diversify.network.linear_head import read_head
from diversify.network.split import split_head

torch.set_num_threads(1)


class Lazy(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.body, self.fc = nn.Flatten(), nn.LazyLinear(3)

    def forward(self, images: Tensor) -> Tensor:
        return self.fc(self.body(images))


class ByKeyword(Net):
    def forward(self, *, inputs: Tensor, labels: Tensor | None = None) -> Tensor:
        return super().forward(inputs)


class OfTwo(Net):
    def forward(self, images: Tensor, lengths: Tensor) -> Tensor:
        return super().forward(images) * lengths


class Integers(nn.Module):
    """As libraries that quantize keep their weights."""

    def __init__(self) -> None:
        super().__init__()
        self.weight = nn.Parameter(torch.ones(3, 4, dtype=torch.int8), requires_grad=False)


def scripted(name: str = "") -> nn.Module:
    model = make_net()
    with warnings.catch_warnings(action="ignore"):
        script = torch.jit.script(model.get_submodule(name))
    if not name:
        return nn.DataParallel(script)
    model.tail = nn.Sequential(script, nn.Identity())
    return model


def exported() -> nn.Module:
    return torch.export.export(make_net().eval(), (seeded(2, 1, 8, 8),)).module()


def quantized() -> nn.Module:
    with warnings.catch_warnings(action="ignore"):
        return torch.ao.quantization.quantize_dynamic(make_net(), {nn.Linear}, torch.qint8)


WRAP = "wrap it in a module that does, for example one that model=package.module:function builds"


UNUSABLE = [
    (
        lambda: make_net().state_dict(),
        "model must be a torch.nn.Module, got a OrderedDict; load it into a network first",
    ),
    (lambda: F.relu, "model must be a torch.nn.Module, got a function"),
    (
        scripted,
        "model must be a Python module, got a TorchScript module; pass the model that it was made from",
    ),
    (
        exported,
        "model must be a Python module, got an exported graph; pass the model that it was made from",
    ),
    (
        quantized,
        "model must have weights in floating point, got the quantized Linear 'tail.0'; pass it unquantized",
    ),
    (
        lambda: nn.Sequential(Integers(), nn.Linear(2, 3)),
        "model must have weights in floating point, got the quantized Integers '0'; pass it unquantized",
    ),
    (
        Lazy,
        "model must have initialised weights, got the lazy LazyLinear 'fc'; run a batch of images through it first",
    ),
    (
        ByKeyword,
        f"model must take images as its one argument, got forward(*, inputs, labels=None); {WRAP}",
    ),
    (OfTwo, f"model must take images as its one argument, got forward(images, lengths); {WRAP}"),
]


@pytest.mark.parametrize(("make", "message"), UNUSABLE, ids=[text[:60] for _, text in UNUSABLE])
def test_what_is_no_network_for_a_diagnosis(make, message):
    model = make()
    with warnings.catch_warnings(action="ignore"):
        assert message_of(InputError, split_head, model) == message


def test_a_lazy_network_is_taken_once_its_weights_are_made():
    model, images = Lazy().eval(), seeded(2, 1, 2, 2)
    model(images)
    assert split_head(model)(images)[0].shape == (2, 4)


def test_parts_in_torchscript_run_as_they_are():
    model, images = scripted("tail").eval(), seeded(2, 1, 8, 8)
    split = split_head(model)
    assert split.head_name == "head"
    assert torch.equal(split(images)[1], make_net().eval()(images))
    assert message_of(InputError, split_head, model, "tail.0.0") == (
        "model must be a Python module, got a TorchScript module; pass the model that it was made from"
    )


def test_a_network_with_no_trainable_parameter():
    model = make_net().requires_grad_(False).eval()
    found = extract(split_head(model), [(seeded(4, 1, 8, 8), torch.tensor([0, 1, 2, 0]))])
    torch.testing.assert_close(read_head(model.head).logits(found.features), found.logits)
