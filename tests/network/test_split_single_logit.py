"""Binary classifiers with one output: found, read, checked, extracted and written back as two classes."""

from __future__ import annotations

from collections.abc import Callable

import pytest
import torch
from torch import Tensor, nn
from torch.utils.data import DataLoader, TensorDataset

import diversify as dv
from diversify import InputError, LinearHead, extract, read_head, split_head, write_head
from diversify.network.linear_head import replace_head


class Binary(nn.Module):
    """A classifier of one output, which `form` turns into what the model returns."""

    def __init__(self, form: Callable[[Tensor], object] = lambda z: z, *, outputs: int = 1, bias: bool = True) -> None:
        super().__init__()
        generator = torch.Generator().manual_seed(0)
        self.body = nn.Sequential(nn.Flatten(), nn.Linear(12, 6), nn.ReLU())
        self.fc = nn.Linear(6, outputs, bias=bias)
        with torch.no_grad():
            for tensor in self.parameters():
                tensor.copy_(torch.randn(tensor.shape, generator=generator))
            self.fc.weight.mul_(torch.tensor([1.0, -1.0, 0.7, -0.7, 0.2, -0.2]))
        self.form = form

    def forward(self, images: Tensor) -> object:
        return self.form(self.fc(self.body(images)))


IMAGES = torch.randn(40, 3, 2, 2, generator=torch.Generator().manual_seed(1))
LABELS = (torch.arange(40) % 4 == 3).long()

FORMS = {
    "the logit": lambda z: z,
    "a flat logit": lambda z: z.squeeze(1),
    "a logit squeezed to a number": lambda z: z.squeeze(),
    "with a temperature": lambda z: z / 3,
    "the sigmoid": lambda z: z.sigmoid(),
    "a flat sigmoid": lambda z: z.sigmoid()[:, 0],
    "a sigmoid in bfloat16": lambda z: z.sigmoid().bfloat16(),
    "both probabilities": lambda z: torch.cat([1 - z.sigmoid(), z.sigmoid()], 1),
    "both logits": lambda z: torch.cat([-z, z], 1),
    "in a dictionary": lambda z: {"loss": z.sum(), "logits": z},
}


def loader_of(labels: Tensor, batch_size: int = 13) -> DataLoader:
    return DataLoader(TensorDataset(IMAGES, labels), batch_size=batch_size)


@pytest.mark.parametrize("form", FORMS.values(), ids=FORMS)
def test_every_form_of_the_output_gives_the_same_embeddings(form):
    model = Binary(form).eval()
    split = split_head(model)
    found = extract(split, loader_of(LABELS))
    assert split.head_name == "fc"
    assert torch.equal(found.labels, LABELS)
    wanted = model.fc(model.body(IMAGES)).detach()
    torch.testing.assert_close(found.logits, torch.cat([torch.zeros_like(wanted), wanted], 1))
    torch.testing.assert_close(read_head(split.head).logits(found.features), found.logits)


WRONG = {
    "the other sign": lambda z: -z,
    "a threshold elsewhere": lambda z: z + 1.0,
    "the other class": lambda z: 1 - z.sigmoid(),
    "the other order": lambda z: torch.cat([z.sigmoid(), 1 - z.sigmoid()], 1),
    "a distance": lambda z: z.abs(),
}


@pytest.mark.parametrize("form", WRONG.values(), ids=WRONG)
def test_an_output_that_the_logit_does_not_decide_is_refused(form):
    with pytest.raises(InputError, match=r"^head must give the model's output, got 'fc', which does not"):
        extract(split_head(Binary(form).eval()), loader_of(LABELS))


@pytest.mark.parametrize(
    "labels", [LABELS.bool(), LABELS.float(), LABELS.float()[:, None], LABELS[:, None], LABELS.byte()]
)
def test_labels_are_0_and_1_in_any_form(labels):
    assert torch.equal(extract(split_head(Binary()), loader_of(labels)).labels, LABELS)


def test_a_label_beyond_1_is_refused():
    with pytest.raises(InputError, match=r"^model must have one output per class, got 2 outputs and the label 2"):
        extract(split_head(Binary()), loader_of(LABELS + 1))


def test_the_first_batch_may_hold_one_image():
    found = extract(split_head(Binary(lambda z: z.squeeze())), loader_of(LABELS, batch_size=1))
    assert len(found) == 40


def test_the_numbers_of_a_head_with_one_output():
    layer = nn.Linear(5, 1)
    head = read_head(layer)
    assert (head.single_logit, head.has_bias, head.num_classes) == (True, True, 2)
    assert torch.equal(head.weight, torch.cat([torch.zeros(1, 5), layer.weight.detach()]))
    assert torch.equal(head.bias, torch.tensor([0.0, layer.bias.item()]))
    weight, bias = head.stored
    assert (weight.shape, bias.shape) == ((1, 5), (1,))
    one_row = LinearHead(weight=weight, bias=bias)
    assert torch.equal(read_head(one_row).weight, head.weight)


def test_two_rows_become_their_difference():
    rows = {"weight": torch.tensor([[1.0, 2.0], [4.0, 1.0]]), "bias": torch.tensor([0.5, 0.25])}
    plain, single = LinearHead(**rows), LinearHead(**rows, single_logit=True)
    assert single.weight.tolist() == [[0.0, 0.0], [3.0, -1.0]]
    assert single.bias.tolist() == [0.0, -0.25]
    features = torch.randn(9, 2, generator=torch.Generator().manual_seed(0))
    torch.testing.assert_close(plain.logits(features).softmax(1), single.logits(features).softmax(1))


@pytest.mark.parametrize("form", [FORMS["the logit"], FORMS["a flat sigmoid"]])
@pytest.mark.parametrize("single", [True, False])
def test_two_rows_are_written_as_one_logit(form, single):
    model = Binary(form).eval()
    generator = torch.Generator().manual_seed(3)
    new = LinearHead(
        weight=torch.randn(2, 6, generator=generator), bias=torch.randn(2, generator=generator), single_logit=single
    )
    write_head(model.fc, new)
    assert model.fc.weight.shape == (1, 6)
    torch.testing.assert_close(model.fc.weight[0], new.weight[1] - new.weight[0])
    torch.testing.assert_close(model.fc.bias[0], new.bias[1] - new.bias[0])
    found = extract(split_head(model), loader_of(LABELS))
    assert torch.equal(found.logits.argmax(1), new.logits(found.features).argmax(1))


def test_a_single_logit_without_a_bias_takes_no_other_bias():
    layer = nn.Linear(6, 1, bias=False)
    new = LinearHead(weight=torch.ones(2, 6), bias=torch.tensor([1.0, 1.0]))
    write_head(layer, new)
    assert layer.weight.tolist() == [[0.0] * 6]
    assert not read_head(nn.Linear(6, 1, bias=False)).has_bias
    with pytest.raises(InputError, match=r"^head must have a bias to hold the new one, got none"):
        write_head(layer, LinearHead(weight=torch.ones(2, 6), bias=torch.tensor([0.0, 1.0])))


def test_weight_normalisation_and_half_precision():
    layer = nn.utils.parametrizations.weight_norm(nn.Linear(6, 1))
    new = LinearHead(weight=torch.arange(12.0).view(2, 6), bias=torch.tensor([0.5, 2.0]))
    for module in (layer, nn.Linear(6, 1).bfloat16()):
        write_head(module, new)
        assert read_head(module).weight[1].tolist() == pytest.approx([6.0] * 6, rel=1e-2)
        assert read_head(module).bias.tolist() == [0.0, 1.5]


def test_a_class_that_is_never_predicted():
    layer = nn.Linear(6, 1)
    write_head(layer, LinearHead(weight=torch.ones(2, 6), bias=torch.tensor([0.0, -1e30])))
    assert layer.bias.item() == pytest.approx(-1e30)


def test_replaced_in_a_state_dict_with_its_shapes():
    model = Binary()
    old = read_head(model.fc)
    changed = replace_head(
        model.state_dict(), "fc", old, LinearHead(weight=torch.eye(2, 6), bias=torch.tensor([1.0, 0]))
    )
    assert {name: value.shape for name, value in changed.items()} == {
        name: value.shape for name, value in model.state_dict().items()
    }
    assert changed["fc.weight"].tolist() == [[-1.0, 1.0, 0.0, 0.0, 0.0, 0.0]]
    assert changed["fc.bias"].tolist() == [-1.0]


def test_a_cosine_head_with_one_output_is_refused():
    class Cosine(nn.Linear):
        def forward(self, features: Tensor) -> Tensor:
            unit = nn.functional.normalize
            return 4 * nn.functional.linear(unit(features, dim=1), unit(self.weight, dim=1))

    with pytest.raises(InputError, match=r"^head must have at least 2 outputs where it is a cosine head, got 1$"):
        read_head(Cosine(6, 1, bias=False))
    with pytest.raises(InputError, match=r"have 1 or 2 rows where the head has a single logit, got 3"):
        LinearHead(weight=torch.ones(3, 2), bias=torch.zeros(3), single_logit=True)


def test_several_labels_need_an_output_each():
    with pytest.raises(
        InputError, match=r"^head must have one output for each of several labels, got 1; use dv.extract"
    ):
        dv.extract_multilabel(split_head(Binary()), loader_of(LABELS[:, None]))


class Gated(Binary):
    """A head of three outputs, and a gate of one output that is registered after it."""

    def __init__(self) -> None:
        super().__init__(outputs=3)
        self.gate = nn.Linear(6, 1)


class Projected(Binary):
    """A classifier of one output beside a projection that the model does not return."""

    def __init__(self) -> None:
        super().__init__()
        self.projection = nn.Linear(6, 8)


def test_a_wider_layer_comes_first_and_a_wrong_one_names_the_right_one():
    assert split_head(Gated()).head_name == "fc"
    split = split_head(Projected().eval())
    assert split.head_name == "projection"
    with pytest.raises(InputError, match="projection"):
        split(IMAGES)
    assert split_head(Projected(), head="fc")(IMAGES)[1].shape == (40, 2)


def test_a_head_of_one_output_that_is_registered_first():
    class Early(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.head = nn.Linear(6, 1)
            self.body = nn.Sequential(nn.Conv2d(3, 6, 2), nn.ReLU(), nn.Flatten())

        def forward(self, images: Tensor) -> Tensor:
            return self.head(self.body(images))

    assert split_head(Early()).head_name == "head"


@pytest.mark.parametrize("name", ["resnet18", "swin_v2_t", "vit_b_16", "convnext_tiny", "mobilenet_v3_small"])
def test_networks_of_torchvision_with_one_output(name):
    with torch.device("meta"):
        model = dv.build_model(f"torchvision:{name}", 1)
    from diversify.network.find_head import find_head

    assert model.get_submodule(find_head(model)).out_features == 1
