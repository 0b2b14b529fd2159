"""Heads are read from what they compute, and written back in place."""

import pytest
import torch
from small_network import message_of, seeded
from torch import Tensor, nn
from torch.nn import functional as F  # noqa: N812

from diversify.errors import InputError
from diversify.network.linear_head import LinearHead, read_head
from diversify.network.split import split_head

torch.set_num_threads(1)


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
