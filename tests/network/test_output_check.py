"""An output that the head does not determine is refused."""

from collections import OrderedDict
from dataclasses import dataclass
from types import SimpleNamespace
from typing import NamedTuple

import pytest
import torch
from small_network import Net, message_of, seeded
from torch import Tensor, nn
from torch.utils.data import DataLoader, TensorDataset

from diversify.errors import InputError
from diversify.network.extraction import extract
from diversify.network.split import split_head

torch.set_num_threads(1)


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
