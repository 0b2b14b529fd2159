"""A checkpoint loads into a network from any usual form, or says in one line why not."""

import argparse
import warnings
from pathlib import Path

import pytest
import torch
from small_data import message_of
from torch import nn
from torch.nn import functional
from torch.optim.swa_utils import AveragedModel

from diversify.files import atomic
from diversify.network.networks import build_model, load_weights
from diversify.network.split import split_head


def same(left, right):
    left, right = left.state_dict(), right.state_dict()
    return left.keys() == right.keys() and all(torch.equal(left[key], right[key]) for key in left)


def network(num_classes=3, width=4):
    """Convolution, batch norm and head: every kind of entry that a checkpoint has."""
    torch.manual_seed(num_classes * 100 + width)
    model = nn.Sequential(nn.Conv2d(1, width, 3), nn.BatchNorm2d(width), nn.Flatten(), nn.Linear(width, num_classes))
    model(torch.randn(5, 1, 3, 3))  # moves the running statistics
    return model


def under(prefix, state):
    return {prefix + key: value for key, value in state.items()}


def other(state):
    """Of the same names and shapes, other values."""
    return {key: value + 1 for key, value in state.items()}


FORMS = {
    "bare": lambda state: state,
    "state_dict": lambda state: {"epoch": 3, "state_dict": state, "best_acc": 0.5},
    "model": lambda state: {"model": state, "optimizer": {"state": {}, "param_groups": [{"lr": 0.1}]}},
    "state_dict and its average": lambda state: {"state_dict_ema": other(state), "epoch": 3, "state_dict": state},
    "model and its average": lambda state: {"model_ema": other(state), "model": state, "optimizer": {}},
    "model, its average and arguments": lambda state: {"args": {"lr": 0.1}, "model": state, "model_ema": other(state)},
    "DataParallel": lambda state: {"state_dict": under("module.", state)},
    "compiled": lambda state: under("_orig_mod.", state),
    "both": lambda state: {"model": under("module._orig_mod.", state)},
    "without counters": lambda state: {k: v for k, v in state.items() if not k.endswith("num_batches_tracked")},
}
FLAT = ("bare", "compiled", "without counters")  # what a safetensors file can hold


@pytest.mark.filterwarnings("ignore:.* averaged over training")
@pytest.mark.parametrize(
    ("form", "ending"),
    [(form, "pt") for form in FORMS] + [("model", "pth")] + [(form, "safetensors") for form in FLAT],
)
def test_a_checkpoint_loads_from_any_usual_form(tmp_path, form, ending):
    trained, path = network(), tmp_path / f"weights.{ending}"
    content = FORMS[form](trained.state_dict())
    if ending == "safetensors":
        atomic.write_tensors(path, content)
    else:
        torch.save(content, path)
    model = network()
    for parameter in model.parameters():
        nn.init.constant_(parameter, 7.0)
    counter = model[1].num_batches_tracked.clone()
    load_weights(model, path)
    assert same(model, trained)
    assert model[1].num_batches_tracked == counter


class Adapter(nn.Module):
    """Hands on the logits of a network that returns a tuple."""

    def __init__(self, network):
        super().__init__()
        self.network = network

    def forward(self, images):
        return self.network(images)[0]


def test_an_adapter_takes_the_checkpoint_of_the_network_that_it_wraps(tmp_path):
    trained = network()
    for state in (trained.state_dict(), Adapter(trained).state_dict(), nn.DataParallel(Adapter(trained)).state_dict()):
        adapter = Adapter(network(3))
        nn.init.zeros_(adapter.network[3].weight)
        load_weights(adapter, save(tmp_path / "a.pt", state))
        assert same(adapter.network, trained)
    path = save(tmp_path / "b.pt", network(5))
    assert message_of(lambda: load_weights(adapter, path)) == (
        f"weights {path} must fit the model, got network.3.weight of shape (5, 4) instead of (3, 4), "
        "network.3.bias of shape (5,) instead of (3,); they are for 5 classes and the model has 3"
    )


def loaded(tmp_path, content, model=None, **options):
    """The model after reading `content`, and what was warned of."""
    path = tmp_path / "foreign.ckpt"
    torch.save(content, path)
    model = model or network(3)
    for parameter in model.parameters():
        nn.init.constant_(parameter, 7.0)
    with warnings.catch_warnings(record=True) as said:
        warnings.simplefilter("always")
        load_weights(model, path, **options)
    return model, [str(each.message).removeprefix(f"weights {path}: ") for each in said]


def left_out(prefix):
    return f"the names in the checkpoint begin with {prefix!r}, which is left out"


LIGHTNING = {"pytorch-lightning_version": "2.4", "hyper_parameters": {"lr": 0.1}, "callbacks": {}, "epoch": 1}
FOREIGN = {
    "Lightning": (lambda state: {"state_dict": under("model.", state), **LIGHTNING}, [left_out("model.")]),
    "Lightning, with a loss": (
        lambda state: {"state_dict": {**under("model.", state), "criterion.weight": torch.ones(3)}, **LIGHTNING},
        [left_out("model."), "1 tensor of the checkpoint not used: criterion.weight"],
    ),
    "Lightning, compiled": (
        lambda state: {"state_dict": under("model._orig_mod.", state), **LIGHTNING},
        [left_out("model._orig_mod.")],
    ),
    "Lightning, with metrics": (
        lambda state: {
            "state_dict": {"train_acc.tp": torch.ones(3), **under("net.", state), "val_acc.tp": torch.ones(3)}
        },
        [left_out("net."), "2 tensors of the checkpoint not used: train_acc.tp, val_acc.tp"],
    ),
    "a loss beside bare names": (
        lambda state: {**state, "criterion.weight": torch.ones(3)},
        ["1 tensor of the checkpoint not used: criterion.weight"],
    ),
    "AveragedModel": (
        lambda state: {**under("module.", state), "n_averaged": torch.tensor(5)},
        ["1 tensor of the checkpoint not used: n_averaged"],
    ),
    "arguments": (
        lambda state: {"args": argparse.Namespace(lr=0.1, data=Path("/x").absolute()), "model": state},
        [],
    ),
    "two deep": (lambda state: {"checkpoint": {"net": under("module.", state)}, "epoch": 3}, []),
    "average beside raw": (
        lambda state: {"model_ema": other(state), "model": state},
        [
            "the checkpoint also holds weights averaged over training (model_ema); the raw ones (model) are taken:"
            " weights_key=model_ema takes the others"
        ],
    ),
    "average alone": (lambda state: {"ema": state}, ["these weights are averaged over training (ema)"]),
}


@pytest.mark.parametrize("form", FOREIGN)
def test_a_checkpoint_of_other_training_code(tmp_path, form):
    trained = network()
    content, notes = FOREIGN[form]
    model, said = loaded(tmp_path, content(trained.state_dict()))
    assert same(model, trained)
    assert said == notes


def test_averaged_weights_are_taken_by_their_key(tmp_path):
    raw, averaged = network(), nn.Sequential(*network())
    averaged.load_state_dict(other(averaged.state_dict()))
    files = [
        ({"state_dict": under("module.", raw.state_dict()), "state_dict_ema": averaged.state_dict()}, "state_dict_ema"),
        ({"state_dict": under("net.", raw.state_dict()) | under("net_ema.", averaged.state_dict())}, "net_ema"),
        (under("module.", raw.state_dict()) | under("ema.module.", averaged.state_dict()), "ema"),
    ]
    for content, key in files:
        model, said = loaded(tmp_path, content)
        assert same(model, raw)
        assert "weights averaged over training" in said[-1]
        model, said = loaded(tmp_path, content, weights_key=key)
        assert same(model, averaged)


def test_several_networks_that_fit_are_not_guessed_between(tmp_path):
    one, two = network().state_dict(), other(network().state_dict())
    path = tmp_path / "a.pt"
    for content, first, second in (
        ({"epoch_1": one, "epoch_2": two}, "epoch_1", "epoch_2"),
        ({"state_dict": under("student.", one) | under("teacher.", two)}, "state_dict.student", "state_dict.teacher"),
    ):
        save(path, content)
        assert message_of(lambda: load_weights(network(), path)) == (
            f"weights {path} must hold one network that fits, got 2: {first}, {second}; pass weights_key={first}"
        )
        assert same_tensors(loaded(tmp_path, content, weights_key=second)[0].state_dict(), two)
    model, _ = loaded(tmp_path, {"state_dict": under("model.", one) | under("copy.", one)})  # one network, twice
    assert same_tensors(model.state_dict(), one)
    save(path, {**one, **under("teacher.", two)})
    assert "an extra teacher.0.weight" in message_of(lambda: load_weights(network(), path))


def same_tensors(left, right):
    return all(torch.equal(left[key], right[key]) for key in right)


def test_layers_that_the_network_lacks_are_not_left_out(tmp_path):
    for prefix in ("", "model."):
        path = save(tmp_path / "a.pt", under(prefix, {**network().state_dict(), "4.weight": torch.zeros(2, 3)}))
        text = message_of(lambda path=path: load_weights(network(), path))
        assert text == f"weights {path} must fit the model, got an extra 4.weight"


def test_the_nearest_tensor_is_named_where_one_is_missing(tmp_path):
    state = network().state_dict()
    backbone = under("module.", {key: value for key, value in state.items() if not key.startswith("3.")})
    head = {"module.fc.weight": state["3.weight"], "module.fc.bias": state["3.bias"]}
    path = save(tmp_path / "a.pt", {"state_dict_best": {"feat_model": backbone, "classifier": head}})
    assert message_of(lambda: load_weights(network(), path)) == (
        f"weights {path} must fit the model, got no 3.weight, no 3.bias; the nearest in the file to 3.weight is"
        " state_dict_best.classifier.module.fc.weight"
    )


def test_an_averaged_model_takes_its_own_and_the_plain_weights(tmp_path):
    trained = network()
    for content in (AveragedModel(trained).state_dict(), trained.state_dict()):
        model, said = loaded(tmp_path, content, AveragedModel(network(3)))
        assert same(model.module, trained)
        assert said == []
    assert split_head(AveragedModel(trained)).head_name == "module.3"


class Lit(nn.Module):
    """As a LightningModule keeps a network, with or without its loss."""

    def __init__(self, *, loss):
        super().__init__()
        self.model = network()
        if loss:
            self.criterion = nn.CrossEntropyLoss(weight=torch.ones(3))


@pytest.mark.parametrize("loss", [False, True])
def test_a_lightning_module_takes_its_own_checkpoint(tmp_path, loss):
    trained = Lit(loss=True)
    model, said = loaded(tmp_path, {"state_dict": trained.state_dict(), **LIGHTNING}, Lit(loss=loss))
    assert same(model.model, trained.model)
    assert said == ([] if loss else ["1 tensor of the checkpoint not used: criterion.weight"])


@pytest.mark.parametrize("name", ["shufflenet_v2_x0_5", "mnasnet0_5", "googlenet"])
def test_published_weights_have_another_number_of_classes(tmp_path, name):
    """As torchvision's are, for 1000: auxiliary heads too, each differs in its number of outputs alone."""
    with torch.device("meta"):
        published = build_model(f"torchvision:{name}", 1000).state_dict()
        mine = build_model(f"torchvision:{name}", 7)
    path = tmp_path / "weights.pth"
    torch.save({key: torch.zeros(()).expand(value.shape) for key, value in published.items()}, path)
    text = message_of(lambda: load_weights(mine, path))
    assert text.startswith(f"weights {path} must fit the model, got ")
    assert text.endswith("; they are for 1000 classes and the model has 7")


def test_half_precision_is_read_into_the_network_s_own(tmp_path):
    trained = network()
    torch.save(network().half().state_dict(), tmp_path / "half.pt")
    model = network(3)
    load_weights(model, tmp_path / "half.pt")
    assert model[3].weight.dtype == torch.float32
    assert torch.equal(model[3].weight, trained[3].weight.half().float())
    assert not torch.equal(model[3].weight, trained[3].weight)


def save(path, model):
    torch.save(model.state_dict() if isinstance(model, nn.Module) else model, path)
    return path


def test_another_network_of_ours_is_suggested(tmp_path):
    trained, other = build_model("resnet20", 7, channels=1), build_model("small_cnn", 7)
    path = save(tmp_path / "a.pt", trained)
    keys = trained.state_dict().keys() ^ other.state_dict().keys()  # linear.weight and linear.bias are in both, and fit
    more = sum(not key.endswith("num_batches_tracked") for key in keys) - 3
    assert message_of(lambda: load_weights(other, path)) == (
        f"weights {path} must fit the model, got no features.0.weight, no features.1.weight, no features.1.bias "
        f"and {more} more; they fit model=resnet20 with 7 classes and 1 input channel"
    )
    assert message_of(lambda: load_weights(build_model("resnet20", 10), path)) == (
        f"weights {path} must fit the model, got conv1.weight of shape (16, 1, 3, 3) instead of (16, 3, 3, 3), "
        "linear.weight of shape (7, 64) instead of (10, 64), linear.bias of shape (7,) instead of (10,); "
        "they fit model=resnet20 with 7 classes and 1 input channel"
    )


def test_another_number_of_classes_is_said(tmp_path):
    path = save(tmp_path / "a.pt", build_model("resnet20", 7))
    assert message_of(lambda: load_weights(build_model("resnet20", 10), path)) == (
        f"weights {path} must fit the model, got linear.weight of shape (7, 64) instead of (10, 64), "
        "linear.bias of shape (7,) instead of (10,); they are for 7 classes and the model has 10"
    )
    path = save(tmp_path / "b.pt", build_model("torchvision:squeezenet1_1", 5))
    text = message_of(lambda: load_weights(build_model("torchvision:squeezenet1_1", 4), path))
    assert text.endswith("; they are for 5 classes and the model has 4")


def test_what_differs_is_named_and_the_model_is_not_touched(tmp_path):
    model, before = network(), network()
    cases = {
        "missing": (
            {k: v for k, v in network().state_dict().items() if k != "3.bias"},
            "no 3.bias",
        ),
        "extra": ({**network().state_dict(), "4.weight": torch.zeros(1)}, "an extra 4.weight"),
        "wide": (
            network(width=6).state_dict(),
            "0.weight of shape (6, 1, 3, 3) instead of (4, 1, 3, 3), 0.bias of shape (6,) instead of (4,), "
            "1.weight of shape (6,) instead of (4,) and 4 more",
        ),
    }
    for name, (state, difference) in cases.items():
        path = save(tmp_path / name, state)
        expected = f"weights {path} must fit the model, got {difference}"
        assert message_of(lambda path=path: load_weights(model, path)) == expected
        assert same(model, before)


def test_a_file_that_is_no_checkpoint(tmp_path):
    (tmp_path / "empty.pt").touch()
    (tmp_path / "text.pt").write_text("weights")
    missing = message_of(lambda: load_weights(network(), tmp_path / "no.pt"))
    assert missing == f"weights must be an existing file, got {tmp_path}/no.pt"
    empty = message_of(lambda: load_weights(network(), str(tmp_path / "empty.pt")))
    assert empty == f"weights must not be empty, got 0 bytes in {tmp_path}/empty.pt"
    text = message_of(lambda: load_weights(network(), tmp_path / "text.pt"))
    assert text == f"weights must be a PyTorch or safetensors checkpoint, got {tmp_path}/text.pt, which is neither"


def test_loaded_weights_give_the_same_logits(tmp_path):
    trained, path = build_model("resnet20", 10, seed=1), tmp_path / "a.safetensors"
    atomic.write_tensors(path, trained.state_dict())
    model = build_model("resnet20", 10, seed=2)
    load_weights(model, path)
    images = functional.pad(torch.ones(2, 3, 4, 4), (2, 2, 2, 2))
    assert torch.equal(model.eval()(images), trained.eval()(images))
