"""A head is written into a module or a checkpoint so that it is read back as it was."""

import dataclasses

import pytest
import torch
from torch import nn
from torch.nn import functional

from diversify.errors import InputError
from diversify.network.embeddings import Embeddings
from diversify.network.linear_head import LinearHead, read_head, replace_head, write_head
from diversify.repair.post_hoc import nearest_mean

Sides = tuple[Embeddings, Embeddings, LinearHead]


def cosine(head: LinearHead) -> LinearHead:
    return dataclasses.replace(head, bias=torch.zeros_like(head.bias), cosine=True, scale=8.0)


class Scaled(nn.Module):
    """A head that changes its weights before it uses them, by a formula of its own."""

    def __init__(self) -> None:
        super().__init__()
        self.linear, self.gain = nn.Linear(16, 10), nn.Parameter(torch.linspace(1, 2, 10))

    def forward(self, features: torch.Tensor) -> torch.Tensor:
        return self.linear(features) * self.gain


class Cosine(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.weight = nn.Parameter(torch.linspace(-1, 1, 160).view(16, 10).sin())

    def forward(self, features: torch.Tensor) -> torch.Tensor:
        return 8 * functional.normalize(features) @ functional.normalize(self.weight, dim=0)


@pytest.mark.parametrize("kind", ["linear", "half", "weight norm", "old weight norm"])
def test_what_is_written_is_read(sides: Sides, kind: str) -> None:
    head = sides[2]
    module: nn.Module = nn.Linear(16, 10)
    if kind == "weight norm":
        module = nn.utils.parametrizations.weight_norm(module)
    elif kind == "old weight norm":
        with pytest.warns(FutureWarning):
            module = nn.utils.weight_norm(module)
    module = module.half() if kind == "half" else module
    names = {name: (tensor.shape, tensor.dtype) for name, tensor in module.state_dict().items()}
    write_head(module, head)
    assert {name: (tensor.shape, tensor.dtype) for name, tensor in module.state_dict().items()} == names
    found = read_head(module)
    tolerance = {"atol": 1e-5, "rtol": 2e-3 if kind == "half" else 1e-5}
    torch.testing.assert_close(found.weight, head.weight, **tolerance)
    torch.testing.assert_close(found.bias, head.bias, **tolerance)


def test_a_cosine_head_takes_a_cosine_head_of_its_scale(sides: Sides) -> None:
    module, head = Cosine(), cosine(sides[2])
    scale = read_head(module).scale
    write_head(module, dataclasses.replace(head, scale=scale))
    torch.testing.assert_close(read_head(module).weight, head.weight)
    for other in (sides[2], dataclasses.replace(head, scale=3.0)):
        with pytest.raises(InputError, match=r"head must be a cosine head of scale 8, as the module is"):
            write_head(module, other)
    with pytest.raises(InputError, match="have a bias"):
        write_head(module, dataclasses.replace(head, scale=scale, bias=torch.arange(10.0)))


def test_a_head_that_cannot_be_put_back_leaves_the_module_as_it_was(sides: Sides) -> None:
    for module, law in (
        (Scaled(), "hold its weights as they are used"),
        (nn.Linear(16, 10, bias=False), "have a bias"),
    ):
        before = {name: tensor.clone() for name, tensor in module.state_dict().items()}
        with pytest.raises(InputError, match=law):
            write_head(module, sides[2])
        assert all(torch.equal(before[name], tensor) for name, tensor in module.state_dict().items())
    constant = dataclasses.replace(sides[2], bias=torch.full((10,), 3.0))
    module = nn.Linear(16, 10, bias=False)
    write_head(module, constant)
    torch.testing.assert_close(read_head(module).weight, constant.weight)


def test_a_checkpoint_keeps_its_names_order_and_everything_else(sides: Sides) -> None:
    old = sides[2]
    new = dataclasses.replace(old, weight=2 * old.weight, bias=old.bias + torch.arange(10.0))
    other = torch.arange(160.0).view(10, 16)
    tensors = {"module.conv.weight": other, "module.net.fc.weight": old.weight.double(), "module.net.fc.bias": old.bias}
    found = replace_head(tensors, "adapter.net.fc", old, new)
    assert list(found) == list(tensors)
    assert found["module.conv.weight"] is other
    assert torch.equal(found["module.net.fc.weight"], new.weight.double())
    assert torch.equal(found["module.net.fc.bias"], new.bias)
    with pytest.raises(InputError, match="hold its weights"):
        replace_head(tensors, "adapter.net.other", old, new)


def test_a_class_that_never_wins_fits_into_half_precision(sides: Sides) -> None:
    train = sides[0].select(sides[0].labels != 3)
    module = nn.Linear(16, 10).half()
    write_head(module, nearest_mean(train))
    assert bool(module.bias.isfinite().all())
    assert int((read_head(module).logits(sides[1].features).argmax(1) == 3).sum()) == 0
