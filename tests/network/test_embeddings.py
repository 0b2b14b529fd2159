"""The split finds the head and shares the model; the extraction is exact, resumable, and leaves no trace."""

import copy
import json
import random
import warnings
from collections import OrderedDict
from dataclasses import dataclass
from pathlib import Path
from types import SimpleNamespace
from typing import NamedTuple

import numpy as np
import pytest
import torch
from torch import Tensor, nn
from torch.nn import functional as F  # noqa: N812
from torch.utils.data import (
    BatchSampler,
    DataLoader,
    Dataset,
    IterableDataset,
    RandomSampler,
    Subset,
    TensorDataset,
    WeightedRandomSampler,
)

from diversify.errors import InputError
from diversify.files import atomic, digests
from diversify.network import resumable
from diversify.network.embeddings import Embeddings
from diversify.network.extraction import extract
from diversify.network.linear_head import LinearHead, read_head
from diversify.network.split import split_head
from diversify.network.wrappers import evaluating

torch.set_num_threads(1)


def seeded(*shape: int, seed: int = 0) -> Tensor:
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed))


class Net(nn.Module):
    """A small network with everything that could keep a trace: batch norm, dropout, buffers, an own mode per part."""

    def __init__(self, num_classes: int = 3) -> None:
        super().__init__()
        self.features = nn.Sequential(nn.Conv2d(1, 4, 3), nn.BatchNorm2d(4), nn.ReLU(), nn.AdaptiveAvgPool2d(2))
        self.tail = nn.Sequential(nn.Linear(16, 6), nn.ReLU(), nn.Dropout(0.5))
        self.head = nn.Linear(6, num_classes)

    def forward(self, images: Tensor) -> Tensor:
        return self.head(self.tail(self.features(images).flatten(1)))


def make_net(seed: int = 0) -> Net:
    with torch.random.fork_rng():
        torch.manual_seed(seed)
        return Net()


class Images(Dataset):
    """`count` grey images; counts what is read, draws from every global source of chance, and can fail at an index."""

    def __init__(self, count: int = 20, error: BaseException | None = None, at: int = -1) -> None:
        self.images = seeded(count, 1, 8, 8)
        self.labels = [index % 3 for index in range(count)]
        self.error, self.at = error, at
        self.read: list[int] = []

    def __len__(self) -> int:
        return len(self.labels)

    def __getitem__(self, index: int) -> tuple[Tensor, int]:
        torch.rand(1), random.random(), np.random.rand()  # noqa: NPY002, S311
        if index == self.at and self.error is not None:
            raise self.error
        self.read.append(index)
        return self.images[index], self.labels[index]


def expected(model: nn.Module, dataset: Images, rows: list[int]) -> Tensor:
    twin = copy.deepcopy(model).eval()
    with torch.no_grad():
        return twin(dataset.images[rows])


# Leaving no trace


def mix_modes(model: nn.Module) -> None:
    for number, module in enumerate(model.modules()):
        module.training = number % 3 != 1


def trace(model: nn.Module, loader: DataLoader | None = None) -> dict[str, object]:
    """Everything about a model, a loader and chance that an extraction could change; tensors by value and address."""
    hooks = ("_forward_hooks", "_forward_pre_hooks", "_backward_hooks", "_backward_pre_hooks", "_state_dict_hooks")
    state: dict[str, object] = {
        "keys": list(model.state_dict()),
        "values": digests.digest_tensors(model.state_dict()),
        "addresses": [tensor.data_ptr() for tensor in model.state_dict().values()],
        "requires_grad": [parameter.requires_grad for parameter in model.parameters()],
        "grads": [None if p.grad is None else p.grad.sum().item() for p in model.parameters()],
        "modes": [module.training for module in model.modules()],
        "tree": [(name, id(module)) for name, module in model.named_modules()],
        "attributes": [sorted(vars(module)) for module in model.modules()],
        "hooks": [[list(getattr(module, name).items()) for name in hooks] for module in model.modules()],
        "torch": torch.get_rng_state().tolist(),
        "python": random.getstate(),
        "numpy": np.random.get_state()[1].tolist(),  # noqa: NPY002
        "grad": (torch.is_grad_enabled(), torch.is_inference_mode_enabled(), torch.is_autocast_enabled("cpu")),
        "cudnn": (torch.backends.cudnn.benchmark, torch.backends.cudnn.deterministic),
    }
    if loader is not None:
        state["loader"] = sorted(vars(loader), key=str)
        state["generator"] = None if loader.generator is None else loader.generator.get_state().tolist()
    return state


@pytest.mark.parametrize(
    ("error", "workers"), [(None, 0), (ValueError("broken image"), 0), (KeyboardInterrupt(), 0), (None, 2)]
)
def test_extract_leaves_no_trace(error, workers):
    model = make_net()
    model(seeded(4, 1, 8, 8)).sum().backward()
    mix_modes(model)
    loader = DataLoader(
        Images(error=error, at=11),
        batch_size=3,
        shuffle=True,
        generator=torch.Generator().manual_seed(3),
        num_workers=workers,
    )
    split = split_head(model)
    before = trace(model, loader)
    if error is None:
        extract(split, loader)
    else:
        with pytest.raises(type(error)):
            extract(split, loader)
    assert trace(model, loader) == before


def test_a_frozen_batch_norm_keeps_its_mode_and_its_statistics():
    model = make_net().train()
    model.features[1].eval().requires_grad_(False)
    before = trace(model)
    extract(split_head(model), DataLoader(Images(), batch_size=5))
    assert trace(model) == before
    assert model.training
    assert not model.features[1].training


def test_the_trace_sees_a_change():
    model = make_net()
    changes = (
        lambda: model.tail[2].train(not model.tail[2].training),
        lambda: model.features[1].running_mean.add_(1),
        lambda: model.register_forward_hook(lambda *_: None),
        lambda: torch.rand(1),
        lambda: random.seed(99),
        lambda: model.head.bias.requires_grad_(False),
        lambda: setattr(model, "head", nn.Linear(6, 3)),
    )
    for change in changes:
        before = trace(model)
        change()
        assert trace(model) != before


def test_what_a_data_set_keeps_stays_usable_for_training():
    class Caching(Images):
        cache: Tensor | None = None

        def __getitem__(self, index: int) -> tuple[Tensor, int]:
            self.cache = self.images[index] * 2
            return super().__getitem__(index)

    dataset = Caching()
    found = extract(split_head(make_net()), DataLoader(dataset, batch_size=4))
    assert not dataset.cache.is_inference()
    assert not any(getattr(found, name).is_inference() for name in ("features", "labels", "logits", "indices"))


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


# The split


def test_gradients_reach_the_users_parameters_and_modes_follow():
    model = make_net()
    split = split_head(model)
    model.train()
    features, logits = split(seeded(4, 1, 8, 8))
    assert model.features[1].num_batches_tracked == 1  # ran in training mode
    assert torch.equal(split.head(features), logits)
    logits.sum().backward()
    assert all(parameter.grad is not None for parameter in model.parameters())
    split.eval()
    assert not any(module.training for module in model.modules())
    split.train()
    assert all(module.training for module in model.modules())
    assert split.head is model.head
    assert torch.equal(split.features(seeded(1, 1, 8, 8)).detach(), split.eval().features(seeded(1, 1, 8, 8))) is False


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


def test_what_follows_the_head_does_not_matter():
    class After(Net):
        def forward(self, images: Tensor) -> Tensor:
            return super().forward(images).log_softmax(1)

    class Dictionary(Net):
        def forward(self, images: Tensor) -> dict[str, Tensor]:
            return {"logits": super().forward(images), "more": images}

    class Method(Net):
        """Calls itself through a bound method that was kept."""

        def __init__(self) -> None:
            super().__init__()
            self.call = self.run

        def run(self, images: Tensor) -> Tensor:
            return Net.forward(self, images)

        def forward(self, images: Tensor) -> Tensor:
            return self.call(images)

    for kind in (After, Dictionary, Method):
        model = kind().eval()
        features, logits = split_head(model)(seeded(2, 1, 8, 8))
        assert torch.equal(model.head(features), logits)


NOT_ONE_LAYER = (
    "head must give the model's output, got 'head', which does not; the model's output is not the output of one linear"
    " layer (it is changed afterwards, or joined from several); wrap the model in a module that returns the output of one"
    " layer, for example one that model=package.module:function builds"
)


class Moved(Net):
    """Hands every class the logit of another after its head, where it is told to, and wraps what it returns."""

    def __init__(self, moves: bool, wrap) -> None:
        super().__init__()
        self.moves, self.wrap = moves, wrap

    def forward(self, images: Tensor) -> object:
        return self.wrap(super().forward(images).roll(int(self.moves), 1))


@dataclass
class Output:
    logits: Tensor
    loss: None = None


@dataclass(slots=True)
class SlottedOutput:
    logits: Tensor


class ModelOutput(OrderedDict):
    """As transformers has it: a dict whose values are attributes too."""

    def __getattr__(self, name: str) -> Tensor:
        return self[name]


class NamedOutput(NamedTuple):
    hidden: Tensor
    logits: Tensor


WRAPPINGS = {
    "tensor": lambda logits: logits,
    "dict": lambda logits: {"loss": None, "logits": logits},
    "tuple": lambda logits: (logits, logits.argmax(1)),
    "list": lambda logits: [logits],
    "dataclass": Output,
    "dataclass with slots": SlottedOutput,
    "ordered dict": lambda logits: ModelOutput(hidden=logits[:, :1], logits=logits),
    "named tuple": lambda logits: NamedOutput(logits[:, :1], logits),
    "namespace": lambda logits: SimpleNamespace(logits=logits),
    "nested": lambda logits: {"outputs": {"main": [logits]}},
}


@pytest.mark.parametrize("kind", WRAPPINGS)
def test_what_a_model_returns_is_what_its_head_gives_in_whatever_it_is_wrapped(kind):
    wrap, images = WRAPPINGS[kind], seeded(2, 1, 8, 8)
    model = Moved(False, wrap).eval()
    features, logits = split_head(model)(images)
    assert torch.equal(model.head(features), logits)
    for head in (None, "head"):
        assert message_of(InputError, split_head(Moved(True, wrap).eval(), head), images) == NOT_ONE_LAYER


def test_one_of_several_outputs_is_enough():
    images = seeded(2, 1, 8, 8)
    for wrap in (lambda logits: (-logits, logits), lambda logits: {"two": logits[:, :2], "all": [logits]}):
        features, logits = split_head(Moved(False, wrap).eval())(images)
        assert len(features) == len(logits) == 2


class Finished(nn.Module):
    """A linear layer on the pixels, and what is made of its logits."""

    def __init__(self, finish, num_classes: int = 5) -> None:
        super().__init__()
        self.fc = nn.Linear(64, num_classes)
        self.fc.weight.data = seeded(num_classes, 64)
        self.finish = finish

    def forward(self, images: Tensor) -> Tensor:
        return self.finish(self.fc(images.flatten(1)))


def in_place(change):
    def finish(logits: Tensor) -> Tensor:
        change(logits)
        return logits

    return finish


PRIOR = torch.tensor([0.6, 0.2, 0.1, 0.06, 0.04])
DECIDED = {
    "temperature": lambda logits: logits / 3,
    "softmax": lambda logits: logits.softmax(1),
    "softmax, cold": lambda logits: (20 * logits).softmax(1),
    "softmax, warm": lambda logits: (0.01 * logits).softmax(1),
    "log-softmax": lambda logits: logits.log_softmax(1),
    "logarithm of the softmax": lambda logits: (20 * logits).softmax(1).log(),
    "sigmoid": lambda logits: logits.sigmoid(),
    "sigmoid, cold": lambda logits: (5 * logits).sigmoid(),
    "evidence": lambda logits: logits.exp(),
    "shifted rows": lambda logits: logits - logits.amax(1, keepdim=True),
    "half": lambda logits: logits.half(),
    "probabilities in half": lambda logits: logits.softmax(1).half(),
    "double": lambda logits: logits.double().softmax(1),
}
CHANGED = {
    "logit adjustment": lambda logits: logits - PRIOR.log(),
    "adjusted probabilities": lambda logits: (logits - PRIOR.log()).softmax(1),
    "adjusted sigmoid": lambda logits: (logits - PRIOR.log()).sigmoid(),
    "adjusted in place": in_place(lambda logits: logits.sub_(PRIOR.log())),
    "scaled per class": lambda logits: logits * torch.tensor([1.0, 1.0, 1.0, 1.2, 1.4]),
    "another head's part": lambda logits: logits + 0.5 * logits.roll(1, 1),
    "negated": lambda logits: -logits,
    "negated probabilities": lambda logits: (-logits).softmax(1),
    "constant": lambda logits: 0 * logits + 1,
}


@pytest.mark.parametrize("kind", DECIDED)
def test_outputs_that_the_logits_decide(kind):
    split = split_head(Finished(DECIDED[kind]).eval())
    for count in (32, 1, 2):
        for size in (1.0, 1e-3, 30.0):
            with torch.no_grad():
                split(size * seeded(count, 1, 8, 8, seed=count))
            split.finish_check()
    for seed in range(4):
        split = split_head(Finished(DECIDED[kind]).eval())
        with torch.no_grad(), torch.autocast("cpu", dtype=torch.bfloat16):
            split(seeded(32, 1, 8, 8, seed=seed))


@pytest.mark.parametrize("kind", CHANGED)
def test_outputs_that_something_else_decides(kind):
    model = Finished(CHANGED[kind]).eval()
    for head in (None, "fc"):
        expected = NOT_ONE_LAYER.replace("'head'", "'fc'")
        assert message_of(InputError, split_head(model, head), seeded(32, 1, 8, 8)) == expected


def test_logits_that_are_all_the_same_are_those_of_the_head():
    for finish in (DECIDED["temperature"], DECIDED["softmax"], DECIDED["log-softmax"], DECIDED["sigmoid"]):
        model = Finished(finish).eval()
        model.fc.weight.data.zero_()
        model.fc.bias.data.fill_(0.1)
        _, logits = split_head(model)(seeded(8, 1, 8, 8))  # accepted, though every order of the classes fits
        assert torch.equal(logits, torch.full_like(logits, 0.1))


def test_an_output_that_differs_from_the_logits_in_later_batches_only(tmp_path):
    """Two classes and a first batch of the common one: an adjustment changes nothing there, and the other's recall later."""
    model = nn.Sequential(nn.Flatten(), Finished(lambda logits: logits - torch.tensor([0.99, 0.01]).log(), 2)).eval()
    model[1].fc.weight.data = torch.eye(2, 64) * 8
    images = torch.zeros(12, 1, 8, 8)
    images[:8, 0, 0, 0], images[8:, 0, 0, 0] = 2, 0.3
    data = TensorDataset(images, torch.tensor([0] * 8 + [1] * 4))
    with torch.no_grad():
        assert model(images).argmax(1).tolist() == data.tensors[1].tolist()
        assert not model[1].fc(images.flatten(1)).argmax(1).any()
    expected = NOT_ONE_LAYER.replace("'head'", "'1.fc'")
    for head in (None, "1.fc"):
        for out in (None, tmp_path / "e"):
            split = split_head(model, head)
            assert message_of(InputError, extract, split, DataLoader(data, batch_size=4), out=out) == expected
    assert not (tmp_path / "e").exists() or not any((tmp_path / "e").iterdir())


def test_the_layer_that_gives_the_output_is_named():
    class Two(Net):
        def __init__(self) -> None:
            super().__init__()
            self.other = nn.Linear(6, 3)

        def forward(self, images: Tensor) -> Tensor:
            features = self.tail(self.features(images).flatten(1))
            self.head(features)
            return self.other(features).softmax(1)

    images = seeded(4, 1, 8, 8)
    assert message_of(InputError, split_head(Two().eval(), "head"), images) == (
        "head must give the model's output, got 'head', which does not; name one that does with head=NAME: other"
    )
    split_head(Two().eval(), "other")(images)


UNKNOWN = {
    "a dict with tensors of shape (2, 2)": lambda logits: {"two": logits[:, :2]},
    "a tuple with tensors of shape (2,), (2, 1), (3, 2) and 1 more": lambda logits: (
        logits.argmax(1),
        logits[:, :1],
        logits.t(),
        logits[0],
    ),
    "a tensor of int64 of shape (2,)": lambda logits: logits.argmax(1),
    "a str without tensors": lambda logits: "text",
    "a NoneType without tensors": lambda logits: None,
}


@pytest.mark.parametrize("got", UNKNOWN)
def test_an_output_without_the_logits_is_refused_unless_the_head_is_named(got):
    images, model = seeded(2, 1, 8, 8), Moved(False, UNKNOWN[got]).eval()
    assert message_of(InputError, split_head(model), images) == (
        f"model must return the logits of its head, got {got}; name its head with head=NAME, "
        "or wrap it in a module that does, for example one that model=package.module:function builds"
    )
    features, logits = split_head(model, head="head")(images)
    assert torch.equal(model.head(features), logits)


def test_a_head_that_is_called_with_a_keyword():
    class Named(Net):
        def forward(self, images: Tensor) -> Tensor:
            return self.head(input=self.tail(self.features(images).flatten(1)))

    model = Named().eval()
    features, logits = split_head(model)(seeded(2, 1, 8, 8))
    assert features.shape == (2, 6)
    assert torch.equal(model.head(features), logits)


def test_a_head_with_one_output_is_refused():
    expected = "head must have at least 2 outputs, got 1"
    only = nn.Sequential(nn.Conv2d(1, 6, 8), nn.Flatten(), nn.Linear(6, 1))
    for model, name in ((only, None), (only, "2"), (Net(1), None), (Net(1), "head")):
        assert message_of(InputError, split_head, model, name) == expected


def test_a_head_used_under_two_names_is_still_found():
    class Twice(Net):
        def __init__(self) -> None:
            super().__init__()
            self.parts = nn.ModuleList([self.tail, self.head])

        def forward(self, images: Tensor) -> Tensor:
            return self.parts[1](self.tail(self.features(images).flatten(1)))

    features, logits = split_head(Twice().eval(), head="head")(seeded(2, 1, 8, 8))
    assert features.shape == (2, 6)
    assert logits.shape == (2, 3)


class TwoTasks(nn.Module):
    def __init__(self, heads: dict[str, nn.Module]) -> None:
        super().__init__()
        self.backbone = nn.Sequential(nn.Flatten(), nn.Linear(4, 8), nn.ReLU())
        self.heads = nn.ModuleDict(heads)

    def forward(self, images: Tensor) -> tuple[Tensor, ...]:
        features = self.backbone(images)
        return tuple(head(features) for head in self.heads.values())


def test_two_heads_are_ambiguous_and_resolved_by_name():
    deep = nn.Sequential(nn.Linear(8, 6), nn.ReLU(), nn.Linear(6, 2))
    cases = (
        ({"age": nn.Linear(8, 5), "kind": nn.Linear(8, 3)}, "heads.age, heads.kind", "heads.age"),
        ({"age": nn.Linear(8, 5), "kind": deep}, "heads.age, heads.kind.2", "heads.kind.2"),
    )
    for heads, candidates, name in cases:
        model = TwoTasks(heads).eval()
        with pytest.raises(InputError) as error:
            split_head(model)
        assert str(error.value) == (
            f"head must be one linear layer, got 2 candidates ({candidates}); name one with head=NAME"
        )
        images = seeded(2, 1, 2, 2)
        features, logits = split_head(model, head=name)(images)
        assert torch.equal(model.get_submodule(name)(features), logits)
    with pytest.raises(InputError) as error:
        split_head(model, head="heads.kine.2")
    assert str(error.value) == (
        "head must be one of backbone.1, heads.age, heads.kind.0, heads.kind.2, got 'heads.kine.2'; "
        "did you mean 'heads.kind.2'?"
    )


def test_a_head_registered_first_and_a_scalar_output_beside_it():
    class Early(Net):
        def __init__(self) -> None:
            nn.Module.__init__(self)
            self.head = nn.Linear(6, 3)
            self.features = Net().features
            self.tail = Net().tail
            self.gate = nn.Linear(6, 1)

    assert split_head(Early()).head_name == "head"


def message_of(error: type[Exception], call, *args, **kwargs) -> str:
    with pytest.raises(error) as caught:
        call(*args, **kwargs)
    assert "\n" not in str(caught.value)
    return str(caught.value)


def test_heads_that_are_not_linear():
    assert message_of(InputError, split_head, nn.ReLU()) == (
        "head must be linear (W f + b) or cosine, got a ReLU without weights"
    )

    class Squared(nn.Linear):
        def forward(self, features: Tensor) -> Tensor:
            return super().forward(features) ** 2

    assert "got Squared;" in message_of(InputError, split_head, nn.Sequential(nn.Flatten(), Squared(4, 3)))


def test_first_forward_errors():
    images = seeded(2, 1, 8, 8)

    class Bypassing(Net):
        def forward(self, images: Tensor) -> Tensor:
            hidden = self.tail(self.features(images).flatten(1))
            return F.linear(hidden, self.head.weight, self.head.bias)

    calls = (
        "head 'head' must be called once in the model's forward, got {} calls; pass the unwrapped model, or name the "
    )
    calls += "module that returns the logits with head=NAME"
    assert message_of(InputError, split_head(Bypassing()), images) == calls.format(0)

    patched = make_net()
    inner = patched.forward
    patched.forward = lambda images: inner(images)
    assert message_of(InputError, split_head(patched), images) == calls.format(0)

    class Twice(Net):
        def forward(self, images: Tensor) -> Tensor:
            return super().forward(images) + super().forward(images.flip(3))

    assert message_of(InputError, split_head(Twice()), images) == calls.format(2)

    class Tokens(Net):
        def forward(self, images: Tensor) -> Tensor:
            return self.head(self.tail(self.features(images).flatten(1)).unsqueeze(1)).mean(1)

    assert message_of(InputError, split_head(Tokens()), images) == (
        "features must have shape (N, D) where they enter the head, got (2, 1, 6)"
    )

    class Negated(Net):
        def forward(self, images: Tensor) -> Tensor:
            return -super().forward(images)

    for head in (None, "head"):
        assert message_of(InputError, split_head(Negated(), head).eval(), images) == NOT_ONE_LAYER


# Heads as numbers


class Cosine(nn.Module):
    """A cosine head in the forms that the field uses."""

    def __init__(self, form: str) -> None:
        super().__init__()
        self.form = form
        rows = seeded(3, 6, seed=1)
        self.weight = nn.Parameter(rows.t().contiguous() if form == "ldam" else rows)
        if form == "buffer":
            self.register_buffer("s", torch.tensor(16.0))
        elif form == "parameter":
            self.logit_scale = nn.Parameter(torch.tensor(2.5))
        elif form == "temperature":
            self.temperature = 0.05

    def forward(self, features: Tensor) -> Tensor:
        if self.form == "ldam":
            return F.normalize(features, dim=1).mm(F.normalize(self.weight, dim=0))
        cosines = F.linear(F.normalize(features, dim=1), F.normalize(self.weight, dim=1))
        if self.form == "buffer":
            return self.s * cosines
        return self.logit_scale.exp() * cosines if self.form == "parameter" else cosines / self.temperature


@pytest.mark.parametrize(
    ("form", "scale"), [("ldam", 1.0), ("buffer", 16.0), ("parameter", 12.182494), ("temperature", 20.0)]
)
def test_cosine_heads(form, scale):
    model = nn.Sequential(nn.Flatten(), nn.Linear(4, 6), nn.ReLU(), Cosine(form))
    split = split_head(model)
    features, logits = split(seeded(5, 1, 2, 2))
    head = read_head(split.head)
    assert head.cosine
    assert head.scale == pytest.approx(scale, rel=1e-5)
    torch.testing.assert_close(head.logits(features), logits)
    rows, weight, bias = head.effective(features)
    torch.testing.assert_close(head.scale * (rows @ weight.T + bias), logits)
    embedding = rows * weight[0]  # the classification embedding of class 0: its row sum is the logit
    torch.testing.assert_close(head.scale * embedding.sum(1), logits[:, 0])
    assert read_head(head) is head


def test_linear_heads_in_other_clothes():
    class Transposed(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.kernel = nn.Parameter(seeded(6, 6))
            self.offset = nn.Parameter(seeded(6, seed=2))

        def forward(self, features: Tensor) -> Tensor:
            return features @ self.kernel + self.offset

    class Scaled(nn.Linear):
        """Learned scales per class (Kang et al. 2020, LWS)."""

        def forward(self, features: Tensor) -> Tensor:
            return super().forward(features) * torch.arange(1, 4)

    class Wrapped(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.linear = nn.Linear(6, 3)

        def forward(self, features: Tensor) -> Tensor:
            return self.linear(features)

    plain = nn.Linear(6, 3)
    features = seeded(5, 6)
    heads = (
        plain,
        nn.Linear(6, 3, bias=False),
        nn.Linear(6, 6),
        nn.utils.parametrizations.weight_norm(nn.Linear(6, 3)),
        nn.Linear(6, 3).double(),
        Transposed(),
        Scaled(6, 3),
        Wrapped(),
    )
    for module in heads:
        head = read_head(module)
        wanted = module(features.to(next(module.parameters()).dtype)).float()
        torch.testing.assert_close(head.logits(features), wanted, rtol=1e-4, atol=1e-5)
        assert not head.cosine
        assert head.scale == 1
        assert not head.weight.requires_grad
    copied = read_head(plain)
    assert torch.equal(copied.weight, plain.weight)
    assert copied.weight.data_ptr() != plain.weight.data_ptr()
    torch.testing.assert_close(read_head(plain, probe_features=features).weight, copied.weight)
    half = read_head(nn.Linear(6, 3).bfloat16())
    assert half.weight.dtype == torch.float32


def test_linear_head_laws():
    weight, bias = torch.zeros(3, 2), torch.zeros(3)
    cases = (
        ({"weight": bias, "bias": bias}, "head weight must have shape (C, D), got (3,)"),
        ({"weight": weight, "bias": torch.zeros(2)}, "head bias must have shape (3,), got (2,)"),
        ({"weight": weight.double(), "bias": bias}, "head weight must be float32, got torch.float64"),
        ({"weight": weight, "bias": bias / 0}, "head bias must be finite, got nan or infinite values"),
    )
    for values, message in cases:
        assert message_of(InputError, LinearHead, **values) == message


class OwnCosine(nn.Module):
    """A cosine head around a linear layer, its scale learned, kept or plain; weight normalised or not."""

    def __init__(self, scale: object, norm) -> None:
        super().__init__()
        self.linear = norm(nn.Linear(6, 3, bias=False))
        self.scale = scale

    def forward(self, features: Tensor) -> Tensor:
        return self.scale * F.linear(F.normalize(features, dim=1), F.normalize(self.linear.weight, dim=1))


class UnitRows(OwnCosine):
    """Weight normalisation does the rows: of length 1, as DINO has it."""

    def forward(self, features: Tensor) -> Tensor:
        return self.scale * self.linear(F.normalize(features, dim=1))


def unit_rows(linear: nn.Linear) -> nn.Linear:
    normed = nn.utils.parametrizations.weight_norm(linear)
    normed.parametrizations.weight.original0.data.fill_(1)
    return normed


@pytest.mark.parametrize("scale", [nn.Parameter(torch.tensor([7.0])), torch.tensor(7.0), 7.0], ids=type)
@pytest.mark.parametrize(
    ("kind", "norm"),
    [
        (OwnCosine, nn.Identity()),
        (OwnCosine, nn.utils.parametrizations.weight_norm),
        (UnitRows, unit_rows),
    ],
)
def test_cosine_heads_around_a_linear_layer(kind, norm, scale):
    torch.manual_seed(0)
    module, features = kind(scale, norm), seeded(5, 6)
    head = read_head(module)
    assert head.cosine
    assert head.scale == pytest.approx(7, rel=1e-5)
    torch.testing.assert_close(head.logits(features), module(features))


def test_a_length_learned_for_each_class_is_no_cosine():
    lengths = UnitRows(2.0, nn.utils.parametrizations.weight_norm)
    lengths.linear.parametrizations.weight.original0.data.copy_(torch.tensor([[1.0], [2.0], [3.0]]))
    assert message_of(InputError, read_head, lengths) == (
        "head must be linear (W f + b) or cosine, got UnitRows; name another layer with head=NAME"
    )


TAILS = {  # what follows 16 features; the head's name, and what enters it
    "linear": (lambda: nn.Sequential(nn.Linear(16, 3)), "1.0", 16),
    "under dropout": (lambda: nn.Sequential(nn.Dropout(0.5), nn.Linear(16, 3)), "1.1", 16),
    "two layers": (lambda: nn.Sequential(nn.Linear(16, 6), nn.ReLU(), nn.Linear(6, 3)), "1.2", 6),
    "two layers of one size": (lambda: nn.Sequential(nn.Linear(16, 3), nn.ReLU(), nn.Linear(3, 3)), "1.2", 3),
    "two layers under dropout": (
        lambda: nn.Sequential(nn.Dropout(0.5), nn.Linear(16, 6), nn.Tanh(), nn.Dropout(0.5), nn.Linear(6, 3)),
        "1.4",
        6,
    ),
    "after a norm": (lambda: nn.Sequential(nn.LayerNorm(16), nn.Linear(16, 3)), "1.1", 16),
    "followed by a scale": (lambda: nn.Sequential(nn.Linear(16, 3), nn.LogSoftmax(1)), "1.0", 16),
    "cosine": (lambda: nn.Sequential(nn.Linear(16, 6), Cosine("ldam")), "1.1", 6),
}


@pytest.mark.parametrize("kind", TAILS)
def test_the_last_linear_layer_is_the_head(kind):
    make, name, width = TAILS[kind]
    torch.manual_seed(0)
    backbone = nn.Sequential(nn.Conv2d(1, 4, 3), nn.BatchNorm2d(4), nn.ReLU(), nn.AdaptiveAvgPool2d(2), nn.Flatten())
    model = nn.Sequential(backbone, make()).eval()
    images = seeded(2, 1, 8, 8)
    split = split_head(model)
    features, logits = split(images)
    assert (split.head_name, features.shape) == (name, (2, width))
    torch.testing.assert_close(read_head(split.head).logits(features), logits)
    torch.testing.assert_close(logits.softmax(1), model(images).softmax(1))


@pytest.mark.parametrize("kind", ["under dropout", "two layers"])
def test_a_named_block_is_the_head_where_it_is_linear(kind):
    block = nn.Sequential(nn.Flatten(), TAILS[kind][0]()).eval()
    if kind == "two layers":
        assert "got Sequential;" in message_of(InputError, split_head, block, "1")
    else:
        features, logits = split_head(block, "1")(seeded(2, 1, 4, 4))
        torch.testing.assert_close(read_head(block[1]).logits(features), logits)


# What is no network for a diagnosis


class Lazy(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.body, self.fc = nn.Flatten(), nn.LazyLinear(3)

    def forward(self, images: Tensor) -> Tensor:
        return self.fc(self.body(images))


class ByKeyword(Net):
    def forward(self, *, pixel_values: Tensor, labels: Tensor | None = None) -> Tensor:
        return super().forward(pixel_values)


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
        f"model must take images as its one argument, got forward(*, pixel_values, labels=None); {WRAP}",
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


# Half precision


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16, torch.float64])
@pytest.mark.parametrize("precision", ["fp32", "bf16"])
def test_images_are_cast_to_the_weights_and_features_are_float32(dtype, precision):
    model, images, labels = make_net().to(dtype), seeded(4, 1, 8, 8), torch.tensor([0, 1, 2, 0])
    seen = []
    model.register_forward_pre_hook(lambda module, inputs: seen.append(inputs[0].dtype))
    before = trace(model)
    found = extract(split_head(model), [(images, labels)], precision=precision)
    assert trace(model) == before
    assert seen == [dtype]
    assert found.features.dtype == found.logits.dtype == torch.float32
    with torch.no_grad():
        wanted = make_net().eval()(images)
    torch.testing.assert_close(found.logits, wanted, rtol=0.05, atol=0.05)
    torch.testing.assert_close(read_head(model.head).logits(found.features), found.logits, rtol=0.05, atol=0.05)


def test_images_that_are_no_floats_stay_what_they_are():
    class Own(Net):
        def forward(self, images: Tensor) -> Tensor:
            assert images.dtype == torch.uint8
            return super().forward(images / 255)

    extract(split_head(Own()), [(torch.zeros(2, 1, 8, 8, dtype=torch.uint8), torch.tensor([0, 1]))])


class Refusing(Net):
    def __init__(self, error: Exception, calls: int = 0) -> None:
        super().__init__()
        self.error, self.calls = error, calls

    def forward(self, images: Tensor) -> Tensor:
        self.calls -= 1
        if self.calls < 0:
            raise self.error
        return super().forward(images)


def test_images_that_the_model_does_not_take(tmp_path):
    half = RuntimeError("\"slow_conv2d_cpu\" not implemented for 'Half'")
    cases = (
        (
            AssertionError("Input height (8) doesn't match model (224)."),
            "got AssertionError: Input height (8) doesn't match model (224).; they have shape (N, 1, 8, 8)",
        ),
        (half, f"got RuntimeError: {half}; this device cannot run float16 weights: call model.float() first"),
    )
    for error, message in cases:
        split = split_head(Refusing(error))
        loader = DataLoader(Images(), batch_size=5)
        assert (
            message_of(InputError, extract, split, loader, out=tmp_path / "new")
            == f"model must take these images, {message}"
        )
        assert list(tmp_path.iterdir()) == []
    for error, calls in ((RuntimeError("later"), 1), (MemoryError(), 0), (RuntimeError("CUDA out of memory"), 0)):
        with pytest.raises(type(error)) as caught:
            extract(split_head(Refusing(error, calls)), loader)
        assert caught.value is error


# The extraction


def make_embeddings(**changes: Tensor) -> Embeddings:
    values = {
        "features": seeded(5, 4),
        "labels": torch.tensor([0, 1, 2, 0, 1]),
        "logits": seeded(5, 3),
        "indices": torch.arange(5),
    }
    return Embeddings(**{**values, **changes})


def test_embeddings_laws():
    bad = seeded(5, 4)
    bad[3, 1] = torch.nan
    infinite = seeded(5, 3)
    infinite[2, 0] = -torch.inf
    cases = (
        ({"features": bad}, "features must be finite, got nan at row 3, feature 1"),
        ({"logits": infinite}, "logits must be finite, got -inf at row 2, class 0"),
        ({"labels": torch.tensor([0, 1, 2, 12, 1])}, "labels must lie in [0, C - 1 = 2], got 12 at row 3"),
        ({"labels": torch.tensor([0, -1, 2, 0, 1])}, "labels must lie in [0, C - 1 = 2], got -1 at row 1"),
        ({"labels": torch.zeros(4, dtype=torch.int64)}, "labels must have one row per image, 5, got 4"),
        ({"labels": torch.zeros(5)}, "labels must be int64, got float32"),
        ({"features": seeded(5, 4).double()}, "features must be float32, got float64"),
        ({"features": seeded(5)}, "features must have 2 dimensions, got shape (5,)"),
    )
    for changes, message in cases:
        assert message_of(InputError, make_embeddings, **changes) == message
    values = make_embeddings()
    assert (len(values), values.num_classes, values.num_features) == (5, 3, 4)
    chosen = values.select(torch.tensor([4, 0]))
    assert chosen.indices.tolist() == [4, 0]
    assert torch.equal(values.select(values.labels == 1).features, values.features[[1, 4]])


def test_finite_check_counts_rows_across_blocks():
    features = torch.zeros(10_000, 2)
    features[9_000, 1] = torch.inf
    assert (
        message_of(
            InputError,
            Embeddings,
            features=features,
            labels=torch.zeros(10_000, dtype=torch.int64),
            logits=torch.zeros(10_000, 2),
            indices=torch.arange(10_000),
        )
        == "features must be finite, got inf at row 9000, feature 1"
    )


@pytest.mark.parametrize("workers", [0, 2])
def test_shuffled_loader_gives_the_data_sets_own_indices(workers):
    model, dataset = make_net(), Images()
    loader = DataLoader(dataset, batch_size=6, shuffle=True, drop_last=True, num_workers=workers)
    found = extract(split_head(model), loader)
    rows = found.indices.tolist()
    assert len(rows) == 18
    assert len(set(rows)) == 18
    assert rows != sorted(rows)
    assert found.labels.tolist() == [dataset.labels[row] for row in rows]
    torch.testing.assert_close(found.logits, expected(model, dataset, rows))
    head = read_head(model.head)
    torch.testing.assert_close(head.logits(found.features), found.logits)


def test_subsets_and_batch_samplers():
    dataset = Images()
    subset = Subset(dataset, [5, 3, 9])
    assert extract(split_head(make_net()), DataLoader(subset, batch_size=2)).indices.tolist() == [0, 1, 2]
    sampler = BatchSampler(RandomSampler(dataset, generator=torch.Generator().manual_seed(0)), 7, drop_last=False)
    found = extract(split_head(make_net()), DataLoader(dataset, batch_sampler=sampler))
    assert sorted(found.indices.tolist()) == list(range(20))


def test_other_loaders_give_positions_or_their_own_indices():
    class Stream(IterableDataset):
        def __iter__(self):
            yield from zip(seeded(5, 1, 8, 8), [0, 1, 2, 0, 1], strict=True)

    class Custom(DataLoader):
        def __iter__(self):
            for images, labels in super().__iter__():
                yield images * 0, labels

    split = split_head(make_net())
    images, labels = seeded(5, 1, 8, 8), torch.tensor([0, 1, 2, 0, 1])
    assert extract(split, DataLoader(Stream(), batch_size=2)).indices.tolist() == [0, 1, 2, 3, 4]
    assert extract(split, [(images[:2], labels[:2]), (images[2:], labels[2:])]).indices.tolist() == [0, 1, 2, 3, 4]
    own = torch.tensor([7, 5, 3, 2, 0])
    assert torch.equal(extract(split, [(images, labels, own)]).indices, own)
    found = extract(split, Custom(TensorDataset(images, labels), batch_size=5))
    assert torch.equal(found.features[0], found.features[1])
    unbatched = DataLoader(TensorDataset(images.unsqueeze(1), labels.unsqueeze(1)), batch_size=None)
    assert len(extract(split, unbatched)) == 5


def test_labels_of_shape_n_by_1_and_progress():
    seen = []
    loader = [(seeded(4, 1, 8, 8), torch.tensor([[0], [1], [2], [1]], dtype=torch.uint8))] * 2
    found = extract(split_head(make_net()), loader, progress=lambda done, rows: seen.append((done, rows)))
    assert found.labels.tolist() == [0, 1, 2, 1] * 2
    assert found.labels.dtype == torch.int64
    assert seen == [(4, None), (8, None)]
    seen.clear()
    extract(split_head(make_net()), DataLoader(Images(5), batch_size=3), progress=lambda *counts: seen.append(counts))
    assert seen == [(3, 5), (5, 5)]


def test_precision():
    split, loader = split_head(make_net()), DataLoader(Images(), batch_size=5)
    full, half = extract(split, loader), extract(split, loader, precision="bf16")
    assert half.features.dtype == half.logits.dtype == torch.float32
    assert not torch.equal(full.logits, half.logits)
    torch.testing.assert_close(full.logits, half.logits, rtol=0.05, atol=0.05)
    extract(split, loader, precision="auto")
    assert message_of(InputError, extract, split, loader, precision="fp16") == (
        "precision must be one of fp32, bf16, auto, got 'fp16'; did you mean 'bf16'?"
    )


def test_another_device_gets_a_copy():
    model = make_net()
    split = split_head(model)
    moved = copy.deepcopy(split).to("meta")
    assert moved.device.type == "meta"
    assert moved.head.weight.device.type == "meta"
    assert split.device.type == model.head.weight.device.type == "cpu"


def batch(labels: Tensor, images: int = 4) -> list[tuple[Tensor, Tensor]]:
    return [(seeded(images, 1, 8, 8), labels)]


def test_extract_errors():
    split = split_head(make_net())
    images = seeded(4, 1, 8, 8)
    images[2] = torch.nan
    weighted = WeightedRandomSampler([1.0] * 20, 20, generator=torch.Generator().manual_seed(0))
    cases = (
        (
            batch(torch.tensor([0, 1, 5, 2])),
            "model must have one output per class, got 3 outputs and the label 5 at row 2",
        ),
        (batch(torch.tensor([0, -1, 1, 2])), "labels must lie in [0, C - 1 = 2], got -1 at row 1"),
        (batch(torch.rand(4)), "labels must be integers, got float32"),
        (batch(torch.zeros(4, 3)), "labels must have shape (N,) or (N, 1), got (4, 3)"),
        (batch(torch.zeros(3, dtype=torch.int64)), "labels must have one row per image, 4, got 3"),
        ([(images, torch.zeros(4, dtype=torch.int64))], "features must be finite, got nan at row 2, feature 0"),
        ([{"image": images}], "loader must yield (images, labels), both tensors, got a dict"),
        ([images], "loader must yield (images, labels), both tensors, got a Tensor"),
        ([(images, ["cat"])], "loader must yield (images, labels), both tensors, got a tuple of Tensor, list"),
        ([], "loader must yield at least one image, got 0"),
        (DataLoader(Subset(Images(), [])), "loader must yield at least one image, got 0"),
        (DataLoader(Images(), sampler=weighted), "loader must visit each image at most once, got index 12 twice"),
    )
    for loader, message in cases:
        if "twice" in message:
            drawn = list(weighted)
            first = next(index for place, index in enumerate(drawn) if index in drawn[:place])
            weighted.generator.manual_seed(0)
            message = message.replace("index 12", f"index {first}")
        assert message_of(InputError, extract, split, loader) == message


# On disk


def equal(one: Embeddings, other: Embeddings) -> bool:
    return all(
        torch.equal(getattr(one, name), getattr(other, name)) for name in ("features", "labels", "logits", "indices")
    )


def index_of(folder: Path) -> dict[str, object]:
    return json.loads((folder / "index.json").read_text())


def test_save_and_load(tmp_path):
    values = make_embeddings()
    values.save(tmp_path / "a")
    loaded = Embeddings.load(tmp_path / "a")
    assert equal(values, loaded)
    loaded.features[0] = 0  # in memory only
    assert equal(values, Embeddings.load(tmp_path / "a"))
    assert message_of(InputError, values.save, tmp_path / "a") == (
        f"embeddings folder must be new or empty, got {tmp_path / 'a'}"
    )


def test_load_errors(tmp_path):
    folder = tmp_path / "a"
    assert message_of(InputError, Embeddings.load, folder) == f"embeddings must be an existing folder, got {folder}"
    make_embeddings().save(folder)
    index = index_of(folder)

    atomic.write_json(folder / "index.json", {**index, "rows_done": 3})
    assert message_of(InputError, Embeddings.load, folder) == (
        f"embeddings must be complete, got 3 of 5 rows in {folder}; run the extraction again to finish it"
    )
    atomic.write_json(folder / "index.json", {**index, "schema_version": 9})
    assert message_of(InputError, Embeddings.load, folder) == "embeddings index must have schema_version 1, got 9"
    atomic.write_json(folder / "index.json", {"rows": 5})
    assert message_of(InputError, Embeddings.load, folder).startswith("embeddings index must hold rows, rows_done")
    atomic.write_json(folder / "index.json", {**index, "num_features": 9})
    assert message_of(InputError, Embeddings.load, folder) == (
        "embeddings features must be <f4 of shape (5, 9), got <f4 of shape (5, 4)"
    )
    atomic.write_json(folder / "index.json", index)
    path = folder / "logits.npy"
    path.write_bytes(path.read_bytes()[:-1])
    assert message_of(InputError, Embeddings.load, folder) == (
        f"embeddings logits must be a whole .npy file, got {path} (truncated, or not an array)"
    )
    path.unlink()
    assert message_of(InputError, Embeddings.load, folder) == f"embeddings logits must be an existing file, got {path}"


def test_memory_mapped_equals_in_memory_and_is_read_once(tmp_path):
    split, dataset = split_head(make_net()), Images()
    loader = DataLoader(dataset, batch_size=6, shuffle=True, generator=torch.Generator().manual_seed(0))
    in_memory = extract(split, loader)
    mapped = extract(split, loader, out=tmp_path / "deep" / "train")
    assert equal(in_memory, mapped)
    dataset.read.clear()
    assert equal(in_memory, extract(split, loader, out=tmp_path / "deep" / "train"))
    assert dataset.read == []
    assert sorted(path.name for path in (tmp_path / "deep" / "train").iterdir()) == [
        "features.npy",
        "index.json",
        "indices.npy",
        "labels.npy",
        "logits.npy",
    ]


@pytest.mark.parametrize("shuffle", [False, True])
def test_resume_after_an_interruption(tmp_path, shuffle):
    split = split_head(make_net())
    dataset = Images(error=KeyboardInterrupt(), at=13)
    loader = DataLoader(dataset, batch_size=3, shuffle=shuffle)  # another order each time, when it shuffles
    whole = extract(split, DataLoader(Images(), batch_size=20))
    folder = tmp_path / "train"
    with pytest.raises(KeyboardInterrupt):
        extract(split, loader, out=folder)
    done = index_of(folder)["rows_done"] if (folder / "index.json").exists() else 0
    assert shuffle or done == 12
    with pytest.raises(InputError, match="embeddings must be complete") if done else warnings.catch_warnings():
        Embeddings.load(folder) if done else None

    dataset.error = None
    dataset.read.clear()
    torch.manual_seed(99)
    resumed = extract(split, loader, out=folder)
    assert len(dataset.read) == 20 - done
    order = resumed.indices.argsort()
    assert resumed.indices[order].tolist() == list(range(20))
    again = resumed.select(order)
    assert torch.equal(again.labels, whole.labels)
    torch.testing.assert_close(again.features, whole.features)
    torch.testing.assert_close(again.logits, whole.logits)


def test_a_kill_between_two_records_costs_only_the_rows_after_the_last(tmp_path, monkeypatch):
    """The files of a run killed without warning: arrays further on than the index says."""
    monkeypatch.setattr(resumable, "BLOCK_ROWS", 6)
    split, dataset = split_head(make_net()), Images()
    loader = DataLoader(dataset, batch_size=3)
    folder = tmp_path / "train"
    seen = []

    def die(done, rows):
        seen.append(index_of(folder)["rows_done"])
        if done == 15:
            raise KeyboardInterrupt

    record = resumable.Table.record
    with monkeypatch.context() as patch:
        # what runs on the way out of an interrupt does not run when a process is killed
        patch.setattr(resumable.Table, "record", lambda table: None if table.done == 15 else record(table))
        with pytest.raises(KeyboardInterrupt):
            extract(split, loader, out=folder, progress=die)
    assert seen == [0, 6, 6, 12, 12]
    dataset.read.clear()
    resumed = extract(split, loader, out=folder)
    assert dataset.read == list(range(12, 20))
    assert equal(resumed, extract(split, loader))


def test_a_kill_before_the_first_record(tmp_path):
    split, loader = split_head(make_net()), DataLoader(Images(), batch_size=5)
    (tmp_path / ".index.json.0a1b2c3d.tmp").write_text('{"sch')
    atomic.create_array(tmp_path / "features.npy", (20, 6), "<f4")
    assert equal(extract(split, loader, out=tmp_path), extract(split, loader))


def test_another_model_or_other_data_is_refused(tmp_path):
    folder = tmp_path / "train"
    dataset = Images(error=KeyboardInterrupt(), at=13)
    loader = DataLoader(dataset, batch_size=3)
    model = make_net()
    with pytest.raises(KeyboardInterrupt):
        extract(split_head(model), loader, out=folder, fingerprint="a")
    dataset.error = None
    kept = {path.name: path.read_bytes() for path in folder.iterdir()}
    message = f"out must be new or hold the same extraction, unfinished, got {folder} with {{}}; "
    message += "use another folder or delete it"
    shorter = DataLoader(Subset(dataset, range(19)), batch_size=3)
    other = DataLoader(dataset, batch_size=3, sampler=[*range(12), *range(20, 12, -1)])
    dataset.labels.append(0)
    cases = (
        (make_net(seed=1), loader, {"fingerprint": "a"}, "another model"),
        (model, loader, {"fingerprint": "b"}, "another data"),
        (model, loader, {"fingerprint": "a", "precision": "bf16"}, "another precision"),
        (model, shorter, {"fingerprint": "a"}, "20 rows, not 19"),
    )
    dataset.labels.pop()
    for net, data, options, what in cases:
        assert message_of(InputError, extract, split_head(net), data, out=folder, **options) == message.format(what)
    dataset.labels.append(0)
    dataset.images = seeded(21, 1, 8, 8)
    moved = DataLoader(dataset, batch_size=3, sampler=[*range(1, 21)])  # as many rows, but index 0 is not among them
    got = message_of(InputError, extract, split_head(model), moved, out=folder, fingerprint="a")
    assert got == message.format("other images")
    assert len(list(other)) == 7
    assert {path.name: path.read_bytes() for path in folder.iterdir()} == kept


def test_bad_input_leaves_nothing_behind(tmp_path):
    dataset = Images()
    dataset.labels[13] = 9
    loader = DataLoader(dataset, batch_size=3)
    split = split_head(make_net())
    assert message_of(InputError, extract, split, loader, out=tmp_path / "train") == (
        "model must have one output per class, got 3 outputs and the label 9 at row 13"
    )
    assert list(tmp_path.iterdir()) == []
    (tmp_path / "notes.txt").write_text("mine")
    assert message_of(InputError, extract, split, loader, out=tmp_path) == (
        f"out must be new, empty or an unfinished extraction, got {tmp_path} with notes.txt"
    )
    assert message_of(InputError, extract, split, loader, out=tmp_path / "notes.txt") == (
        f"out must be a folder, got the file {tmp_path / 'notes.txt'}"
    )
    assert message_of(InputError, extract, split, batch(torch.zeros(4).long()), out=tmp_path / "b") == (
        "loader must be a DataLoader over a map-style data set where out is given, got list; "
        "extract without out, then save the embeddings"
    )
    assert (tmp_path / "notes.txt").read_text() == "mine"


def test_logits_are_those_of_the_head_that_is_asked_about() -> None:
    head = LinearHead(weight=seeded(6, 8), bias=torch.zeros(6))
    features, rows = seeded(300, 8, seed=1), torch.arange(300)
    of_head = head.logits(features)
    own = Embeddings(features=features, labels=rows % 6, logits=of_head, indices=rows)
    assert own.seen_by(head) is own
    rounded = Embeddings(features=features, labels=rows % 6, logits=of_head.bfloat16().float(), indices=rows)
    assert rounded.seen_by(head) is rounded, "as a network in half precision gave them"
    for other in (
        LinearHead(weight=head.weight, bias=0.2 * torch.eye(6)[2]),
        LinearHead(weight=head.weight + 0.5 * torch.eye(6, 8), bias=head.bias),
    ):
        assert torch.equal(own.seen_by(other).logits, other.logits(features))
    assert torch.equal(own.logits, of_head)
