"""Wrapped networks are unwrapped, run as they are, and get their modes back."""

import pytest
import torch
from small_network import Net, make_net, mix_modes, seeded, trace
from torch import Tensor, nn

from diversify.network.extraction import extract
from diversify.network.linear_head import read_head
from diversify.network.split import split_head
from diversify.network.wrappers import evaluating

torch.set_num_threads(1)


def test_evaluating_restores_each_mode_on_an_error():
    model = make_net()
    mix_modes(model)
    before = [module.training for module in model.modules()]

    def fail() -> None:
        with evaluating(model):
            assert not any(module.training for module in model.modules())
            raise RuntimeError

    with pytest.raises(RuntimeError):
        fail()
    assert [module.training for module in model.modules()] == before


def test_the_users_own_hooks_still_run():
    model = make_net()
    seen = []
    model.head.register_forward_hook(lambda *_: seen.append("head"))
    model.register_forward_hook(lambda *_: seen.append("model"))
    split_head(model).eval()(seeded(1, 1, 8, 8))
    assert seen[-2:] == ["head", "model"]


class Wrapper(nn.Module):
    """As other libraries wrap a network for several processes or for averaging."""

    def __init__(self, module: nn.Module) -> None:
        super().__init__()
        self.module = module

    def forward(self, images: Tensor) -> Tensor:
        return self.module(images)


def wrapped_inside(wrap) -> Net:
    model = make_net().eval()
    model.features, model.tail, model.head = wrap(model.features), wrap(model.tail), wrap(model.head)
    return model


WRAPPED = {  # the head's name
    "DataParallel": (lambda: nn.DataParallel(make_net()), "head"),
    "compiled": (lambda: torch.compile(make_net()), "head"),
    "both": (lambda: nn.DataParallel(torch.compile(make_net())), "head"),
    "both, twice": (lambda: torch.compile(nn.DataParallel(torch.compile(make_net()))), "head"),
    "another library": (lambda: Wrapper(make_net()), "module.head"),
    "around another library": (lambda: torch.compile(Wrapper(nn.DataParallel(make_net()))), "module.module.head"),
    "averaged": (lambda: torch.optim.swa_utils.AveragedModel(make_net()), "module.head"),
    "parts compiled": (lambda: wrapped_inside(torch.compile), "head._orig_mod"),
    "parts parallel": (lambda: wrapped_inside(nn.DataParallel), "head.module"),
    "parts both": (lambda: wrapped_inside(lambda part: nn.DataParallel(torch.compile(part))), "head.module._orig_mod"),
    "traced by fx": (lambda: torch.fx.symbolic_trace(make_net()), "head"),
}


@pytest.mark.parametrize("kind", WRAPPED)
def test_wrappers_are_unwrapped(kind, monkeypatch):
    def refuse(*_: object, **__: object) -> None:
        raise AssertionError("a diagnosis does not compile")

    make, name = WRAPPED[kind]
    model, images = make().eval(), seeded(2, 1, 8, 8)
    wanted = make_net().eval()(images)
    before = trace(model)
    with monkeypatch.context() as patch:
        patch.setattr(torch._dynamo.eval_frame.OptimizedModule, "__call__", refuse)
        for split in (split_head(model), split_head(model, "head"), split_head(model, "module.head")):
            assert split.head_name == name
            assert isinstance(split.head, nn.Linear)
            features, logits = split(images)
            assert torch.equal(logits, wanted)
            found = extract(split, [(images, torch.tensor([0, 1]))])
            assert torch.equal(found.features, features)
    assert trace(model) == before


def test_a_wrapped_head_is_read():
    plain = nn.Linear(6, 3)
    for head in (torch.compile(plain), nn.DataParallel(plain)):
        assert torch.equal(read_head(head).weight, plain.weight)


def test_modules_compiled_in_place_run_as_they_are():
    def refuse(*_: object) -> None:
        raise AssertionError("a diagnosis does not compile")

    images = seeded(2, 1, 8, 8)
    model = make_net().eval()
    model._compiled_call_impl = model.features._compiled_call_impl = refuse  # what model.compile() sets
    assert torch.equal(split_head(model)(images)[1], make_net().eval()(images))
    assert model._compiled_call_impl is model.features._compiled_call_impl is refuse
