"""Every family of torchvision's and timm's classifiers: the right head, the model's own logits, and no trace."""

import random
import re
import warnings

import numpy as np
import pytest
import torch
from torch import Tensor, nn

from diversify.errors import InputError
from diversify.files import checkpoints
from diversify.network.extraction import extract
from diversify.network.linear_head import read_head
from diversify.network.networks import build_model, load_weights
from diversify.network.split import split_head
from diversify.network.wrappers import evaluating

torch.set_num_threads(1)

CLASSES = 7
TORCHVISION = {  # the smallest of each family: (image size, head)
    "alexnet": (63, "classifier.6"),
    "convnext_tiny": (32, "classifier.2"),
    "densenet121": (32, "classifier"),
    "efficientnet_b0": (32, "classifier.1"),
    "efficientnet_v2_s": (32, "classifier.1"),
    "googlenet": (32, "fc"),
    "inception_v3": (75, "fc"),
    "maxvit_t": (224, "classifier.5"),
    "mnasnet0_5": (32, "classifier.1"),
    "mobilenet_v2": (32, "classifier.1"),
    "mobilenet_v3_small": (32, "classifier.3"),
    "regnet_y_400mf": (32, "fc"),
    "resnet18": (32, "fc"),
    "resnext50_32x4d": (32, "fc"),
    "shufflenet_v2_x0_5": (32, "fc"),
    "swin_t": (32, "head"),
    "swin_v2_t": (32, "head"),
    "vgg11": (32, "classifier.6"),
    "vit_b_32": (224, "heads.head"),
    "wide_resnet50_2": (32, "fc"),
}
TIMM = {  # name or name.tag: (options, image size, head)
    "convnext_atto.d2_in1k": ({}, 32, "head.fc"),
    "vit_tiny_patch16_224": ({"img_size": 32}, 32, "head"),
    "vit_tiny_patch16_224.augreg_in21k": ({"img_size": 32, "global_pool": "avg"}, 32, "head"),
    "efficientnet_lite0": ({"drop_rate": 0.5}, 32, "classifier"),
    "resnet18.tv_in1k": ({"drop_rate": 0.5}, 32, "fc"),
    "swin_tiny_patch4_window7_224": ({"img_size": 64, "window_size": 2, "drop_rate": 0.5}, 64, "head.fc"),
    "mobilenetv3_small_050": ({}, 32, "classifier"),
}


def seeded(*shape: int) -> Tensor:
    return torch.randn(*shape, generator=torch.Generator().manual_seed(0))


def mix_modes(model: nn.Module) -> None:
    for number, module in enumerate(model.modules()):
        module.training = number % 3 != 1


def trace(model: nn.Module) -> dict[str, object]:
    """Everything about a model and chance that an extraction could change; a tensor's version counts writes to it."""
    hooks = ("_forward_hooks", "_forward_pre_hooks", "_backward_hooks", "_backward_pre_hooks", "_state_dict_hooks")
    return {
        "tensors": [(key, value.data_ptr(), value._version) for key, value in model.state_dict().items()],
        "gradients": [(parameter.requires_grad, parameter.grad is None) for parameter in model.parameters()],
        "modes": [module.training for module in model.modules()],
        "tree": [(name, id(module)) for name, module in model.named_modules()],
        "attributes": [sorted(vars(module)) for module in model.modules()],
        "hooks": [[list(getattr(module, name).items()) for name in hooks] for module in model.modules()],
        "chance": (torch.get_rng_state().tolist(), random.getstate(), np.random.get_state()[1].tolist()),  # noqa: NPY002
    }


def require_split(model: nn.Module, size: int, head: str) -> Tensor:
    """The laws of a split, of one model; returns the features of two images `(2, D)`."""
    mix_modes(model)
    next(model.parameters()).requires_grad_(False)
    images = seeded(2, 3, size, size)
    before = trace(model)

    split = split_head(model)
    assert split.head_name == head
    assert split.head is model.get_submodule(head)
    with evaluating(split), torch.no_grad():
        features, logits = split(images)
    assert trace(model) == before
    found = extract(split, [(images, torch.tensor([0, 6]))])
    assert trace(model) == before
    with pytest.raises(InputError, match=r"^model must take these images, got .*; they have shape \(N, 4, 8, 8\)$"):
        extract(split, [(seeded(2, 4, 8, 8), torch.tensor([0, 6]))])
    assert trace(model) == before

    with evaluating(model), torch.no_grad():
        wanted = model(images)
    assert torch.equal(logits, wanted)
    assert torch.equal(found.logits, wanted)
    assert torch.equal(found.features, features)
    numbers = read_head(split.head)
    assert (numbers.num_classes, numbers.num_features, numbers.cosine) == (CLASSES, features.shape[1], False)
    torch.testing.assert_close(numbers.logits(features), wanted)
    assert {p.data_ptr() for p in split.parameters()} == {p.data_ptr() for p in model.parameters()}
    return features


def require_loading(model: nn.Module, monkeypatch: pytest.MonkeyPatch, rename=lambda key: key) -> None:
    """A checkpoint of the model's own weights loads: as plain tensors, without what torch keeps beside them."""
    saved = {rename(key): torch.full_like(value, 2) for key, value in model.state_dict().items()}
    monkeypatch.setattr(checkpoints, "read_state_dicts", lambda _: {"": saved})
    load_weights(model, "weights.pth")
    assert all(bool((tensor.flatten()[:9] == 2).all()) for tensor in model.state_dict().values())


def test_the_trace_sees_a_change():
    model = nn.Sequential(nn.BatchNorm1d(3), nn.Linear(3, 2))
    changes = (
        lambda: model(torch.ones(2, 3)),  # moves the running statistics
        lambda: model.eval(),
        lambda: model.register_forward_hook(lambda *_: None),
        lambda: torch.rand(1),
        lambda: random.random(),  # noqa: S311
        lambda: model[1].bias.requires_grad_(False),
        lambda: model.append(nn.ReLU()),
    )
    for change in changes:
        before = trace(model)
        change()
        assert trace(model) != before


# torchvision


def family(name: str) -> str:
    """The module of torchvision in which a model is built."""
    from torchvision import models

    return models.get_model_builder(name).__module__.rpartition(".")[2]


def test_every_family_of_torchvision_is_here():
    from torchvision import models

    assert {family(name) for name in models.list_models(module=models)} == {
        "squeezenet",  # its own test
        *(family(name) for name in TORCHVISION),
    }


@pytest.mark.slow
@pytest.mark.parametrize("name", TORCHVISION)
def test_torchvision(name, monkeypatch):
    size, head = TORCHVISION[name]
    with warnings.catch_warnings(action="ignore"):
        model = build_model(f"torchvision:{name}", CLASSES)
    require_split(model, size, head)
    require_loading(model, monkeypatch)


LEGACY = re.compile(r"(denselayer\d+\.(?:norm|conv))([12])\.")


def test_densenets_published_files_have_older_names(monkeypatch):
    model = build_model("torchvision:densenet121", CLASSES)
    require_loading(model, monkeypatch, lambda key: LEGACY.sub(r"\1.\2.", key))


def test_the_head_of_squeezenet_is_not_linear_on_its_features():
    """A ReLU and the pooling follow its convolution: the logits are no products of pooled features and rows."""
    model = build_model("torchvision:squeezenet1_1", CLASSES)
    with pytest.raises(InputError) as caught:
        split_head(model)
    assert str(caught.value) == (
        "head must be linear (W f + b) or cosine, got Conv2d 'classifier.1' as the last layer; give it a linear head"
    )
    with pytest.raises(InputError) as caught:
        split_head(model, "classifier.1")
    assert str(caught.value) == (
        "head must be linear (W f + b) or cosine, got Conv2d; name another layer with head=NAME"
    )


# timm


@pytest.fixture
def timm():
    return pytest.importorskip("timm")


@pytest.mark.parametrize("name", TIMM)
def test_timm(timm, name):
    options, size, head = TIMM[name]
    model = timm.create_model(name, num_classes=CLASSES, **options)
    features = require_split(model, size, head)
    images = seeded(2, 3, size, size)
    with evaluating(model), torch.no_grad():
        assert torch.equal(features, model.forward_head(model.forward_features(images), pre_logits=True))


def test_a_hidden_layer_before_timms_head(timm):
    model = timm.create_model("convnext_atto", num_classes=CLASSES, head_hidden_size=24, drop_rate=0.5)
    features = require_split(model, 32, "head.fc")
    assert features.shape == (2, 24)
    with evaluating(model), torch.no_grad():
        hidden = model.forward_head(model.forward_features(seeded(2, 3, 32, 32)), pre_logits=True)
    assert torch.equal(features, hidden)


NOT_ONE_LAYER = (
    "which does not; the model's output is not the output of one linear layer (it is changed afterwards, or joined from "
    "several); wrap the model in a module that returns the output of one layer, for example one that "
    "model=package.module:function builds"
)


def test_the_two_heads_of_a_distilled_network(timm):
    """Their mean is the model's output: linear in two kinds of features, so that neither gives it."""
    model = timm.create_model("deit_tiny_distilled_patch16_224", num_classes=CLASSES, img_size=32).eval()
    with pytest.raises(InputError) as caught:
        split_head(model)
    assert str(caught.value) == (
        "head must be one linear layer, got 2 candidates (head, head_dist); name one with head=NAME"
    )
    images = seeded(2, 3, 32, 32)
    for name in ("head", "head_dist"):
        with pytest.raises(InputError) as caught, torch.no_grad():
            split_head(model, name)(images)
        assert str(caught.value) == f"head must give the model's output, got {name!r}, {NOT_ONE_LAYER}"


JOINED = {  # name: (image size, what the structure finds)
    "crossvit_tiny_240": (240, "head.1"),  # the mean of two heads
    "volo_d1_224": (224, "head"),  # plus half the largest of another head's
}


@pytest.mark.parametrize("name", JOINED)
def test_outputs_that_several_heads_make(timm, name):
    size, head = JOINED[name]
    model = timm.create_model(name, num_classes=CLASSES).eval()
    with pytest.raises(InputError) as caught, torch.no_grad():
        split_head(model)(seeded(2, 3, size, size))
    assert str(caught.value) == f"head must give the model's output, got {head!r}, {NOT_ONE_LAYER}"


def test_the_head_beside_blocks_of_the_backbone(timm):
    model = timm.create_model("coat_lite_tiny", num_classes=CLASSES)
    require_split(model, 224, "head")


@pytest.mark.parametrize("name", ["resnet18", "resnet18.a1_in1k"])
def test_timm_by_name_and_tag(timm, name):
    model = build_model(f"timm:{name}", CLASSES)
    assert split_head(model).head_name == "fc"
    assert read_head(model.fc).num_classes == CLASSES


def test_timm_names_that_there_are_not(timm):
    cases = {
        "timm:resnet19": "timm model must be one that timm has, got 'resnet19'; did you mean 'resnet18'?",
        "timm:resnet18.tv_in2k": "tag of timm's resnet18 must be one of ",
    }
    for spec, start in cases.items():
        with pytest.raises(InputError) as caught:
            build_model(spec, CLASSES)
        assert str(caught.value).startswith(start)
    assert str(caught.value).endswith(", got 'tv_in2k'; did you mean 'tv_in1k'?")
