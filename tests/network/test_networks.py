"""Networks by name are the published ones."""

import sys
from pathlib import Path

import pytest
import torch
from small_data import message_of
from torch import nn

from diversify.errors import InputError
from diversify.network.networks import MODELS, build_model, parameter_count

CHOICES = "small_cnn, resnet20, resnet32, resnet56, torchvision:NAME, timm:NAME, package.module:function"


def same(left, right):
    left, right = left.state_dict(), right.state_dict()
    return left.keys() == right.keys() and all(torch.equal(left[key], right[key]) for key in left)


# Networks


@pytest.mark.parametrize(
    ("name", "count", "depth"), [("resnet20", 269_722, 20), ("resnet32", 464_154, 32), ("resnet56", 853_018, 56)]
)
def test_the_cifar_resnets_have_the_published_size_and_depth(name, count, depth):
    model = build_model(name, 10)
    assert parameter_count(model) == count
    assert sum(isinstance(module, nn.Conv2d | nn.Linear) for module in model.modules()) == depth
    assert {"conv1.weight", "layer1.0.bn2.bias", "layer3.0.conv1.weight", "linear.bias"} <= model.state_dict().keys()


def test_the_shortcut_takes_every_other_pixel_and_pads_channels():
    block = build_model("resnet20", 10).layer2[0]
    nn.init.zeros_(block.bn2.weight)  # the residual branch gives nothing
    images = torch.randn(2, 16, 6, 6)
    expected = torch.zeros(2, 32, 3, 3)
    expected[:, 8:24] = images[:, :, ::2, ::2].clamp_min(0)
    assert torch.equal(block(images), expected)


@pytest.mark.parametrize("name", MODELS)
@pytest.mark.parametrize("channels", [1, 3])
def test_every_network_gives_one_logit_per_class_for_any_size(name, channels):
    model = build_model(name, 7, channels=channels).eval()
    for size in (8, 20):
        assert model(torch.zeros(2, channels, size, size)).shape == (2, 7)
    features = []
    model.linear.register_forward_pre_hook(lambda module, inputs: features.append(inputs[0]))
    model(torch.randn(4, channels, 8, 8))
    assert features[0].shape == (4, 64)
    assert features[0].min() >= 0


def test_weights_are_a_function_of_the_seed_and_chance_is_left_alone():
    torch.manual_seed(5)
    state = torch.get_rng_state()
    first, again, other = (build_model("small_cnn", 10, channels=1, seed=seed) for seed in (3, 3, 4))
    assert torch.equal(torch.get_rng_state(), state)
    assert same(first, again)
    assert not same(first, other)
    with pytest.raises(InputError):
        build_model("torchvision:no", 10)
    assert torch.equal(torch.get_rng_state(), state)


def test_torchvision_classifiers_by_name():
    model = build_model("torchvision:squeezenet1_1", 4).eval()
    assert model(torch.zeros(1, 3, 64, 64)).shape == (1, 4)
    assert same(model, build_model("torchvision:squeezenet1_1", 4))


@pytest.fixture
def own_module(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    Path("failing_nets.py").write_text("raise RuntimeError('at import')\n")
    Path("own_nets.py").write_text(
        "from torch import nn\n"
        "def wide(num_classes, width=8):\n    return nn.Linear(width, num_classes)\n"
        "def fixed():\n    return nn.Linear(2, 5)\n"
        "def lazy(num_classes):\n    return nn.Sequential(nn.Flatten(), nn.LazyLinear(num_classes))\n"
        "class Net(nn.Linear):\n    def __init__(self, **options):\n        super().__init__(3, options['num_classes'])\n"
        "def text():\n    return 'net'\n"
        "def raising():\n    raise RuntimeError('no such file\\nand more')\n"
        "def silent():\n    raise ValueError\n"
        "def interrupted():\n    raise KeyboardInterrupt\n"
        "def large():\n    raise MemoryError\n"
    )
    yield
    sys.modules.pop("own_nets", None)


@pytest.mark.usefixtures("own_module")
def test_a_function_of_your_own():
    assert build_model("own_nets:wide", 6).weight.shape == (6, 8)
    assert build_model("own_nets:fixed", 6).weight.shape == (5, 2)
    assert build_model("own_nets:Net", 6).weight.shape == (6, 3)
    assert same(build_model("own_nets:wide", 6, seed=1), build_model("own_nets:wide", 6, seed=1))


NAME_ERRORS = [
    ("resnet33", f"model must be one of {CHOICES}, got 'resnet33'; did you mean 'resnet32'?"),
    ("small_cn", f"model must be one of {CHOICES}, got 'small_cn'; did you mean 'small_cnn'?"),
    ("torchvision:", f"model must be one of {CHOICES}, got 'torchvision:'; did you mean 'torchvision:NAME'?"),
    ("own_nets:text", "own_nets:text() must return a torch.nn.Module, got str"),
    (
        "own_nets:lazy",
        "model must have initialised weights, got the lazy LazyLinear '1'; run a batch of images through it first",
    ),
    ("own_nets:nn", "own_nets:nn must be callable, got module"),
    ("os:path", "os:path must be callable, got module"),
    ("own_nets:raising", "own_nets:raising() must return a torch.nn.Module, got RuntimeError: no such file"),
    ("own_nets:silent", "own_nets:silent() must return a torch.nn.Module, got ValueError"),
    (
        "failing_nets:net",
        "model must name something that can be imported, got 'failing_nets:net'; RuntimeError: at import",
    ),
    (
        "own_nets:tall",
        "model must name something that can be imported, got 'own_nets:tall'; module 'own_nets' has no attribute 'tall'",
    ),
    ("no_nets:wide", "model must name something that can be imported, got 'no_nets:wide'; No module named 'no_nets'"),
    ("own nets:wide", "model must be package.module:function, got 'own nets:wide'"),
]


@pytest.mark.usefixtures("own_module")
@pytest.mark.parametrize(("spec", "message"), NAME_ERRORS, ids=[spec for spec, _ in NAME_ERRORS])
def test_a_network_that_there_is_not(spec, message):
    assert message_of(lambda: build_model(spec, 10)) == message


@pytest.mark.usefixtures("own_module")
def test_interruptions_and_scarce_memory_pass_through_a_function_of_your_own():
    for name, error in (("interrupted", KeyboardInterrupt), ("large", MemoryError)):
        with pytest.raises(error):
            build_model(f"own_nets:{name}", 10)


def test_an_unknown_torchvision_name_suggests_the_nearest():
    text = message_of(lambda: build_model("torchvision:resnet19", 10))
    assert text.startswith("torchvision model must be one that torchvision has, got ")
    assert "fasterrcnn" not in text
    assert text.endswith("got 'resnet19'; did you mean 'resnet18'?")


def test_timm_is_asked_for_by_name(monkeypatch):
    monkeypatch.setitem(sys.modules, "timm", None)
    expected = "timm must be installed for model=timm:NAME, got no such package; pip install timm"
    assert message_of(lambda: build_model("timm:resnet18", 10)) == expected


def other(state):
    """Of the same names and shapes, other values."""
    return {key: value + 1 for key, value in state.items()}
