"""The split finds the head, shares the parameters, and refuses an output that the head does not determine."""

from collections import OrderedDict
from dataclasses import dataclass
from types import SimpleNamespace
from typing import NamedTuple

import pytest
import torch
from small_network import Net, make_net, message_of, mix_modes, seeded, trace
from torch import Tensor, nn
from torch.nn import functional as F  # noqa: N812
from torch.utils.data import DataLoader, TensorDataset

from diversify.errors import InputError
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
