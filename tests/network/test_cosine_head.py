"""A cosine head, and networks that get one in place of their linear head."""

import dataclasses

import pytest
import torch
from torch import nn
from torch.nn import functional

import diversify as dv
from diversify.cli.entry import run
from diversify.errors import InputError
from diversify.functional import draws


def features_of(rows: int = 5, width: int = 6) -> torch.Tensor:
    return draws.uniform("features", torch.arange(rows * width)).view(rows, width) - 0.5


def test_logits_are_cosines_times_the_scale():
    head = dv.CosineHead(6, 4, scale=8.0, seed=3)
    features = features_of()
    cosines = functional.cosine_similarity(features[:, None], head.weight[None], dim=2)
    torch.testing.assert_close(head(features), 8 * cosines)
    torch.testing.assert_close(head(7 * features), head(features))
    assert list(head.state_dict()) == ["weight", "scale"]
    tokens = features_of(12).view(2, 6, 6)
    torch.testing.assert_close(head(tokens)[1, 2], head(tokens[1, 2]))


def test_the_library_reads_and_repairs_it_as_a_head():
    head = dv.CosineHead(6, 4, seed=3)
    found = dv.read_head(head)
    assert (found.cosine, found.has_bias) == (True, False)
    assert found.scale == pytest.approx(30, rel=1e-4)
    torch.testing.assert_close(found.logits(features_of()), head(features_of()), rtol=0, atol=1e-3)


def test_sizes_that_are_not_positive_are_refused():
    with pytest.raises(InputError, match="^num_classes of a cosine head must be an integer of at least 1, got 0$"):
        dv.CosineHead(6, 0)


@pytest.mark.parametrize("scale", [0.0, -1.0, float("nan"), float("inf"), "30", True, 1e-50, 1e39])
def test_a_scale_that_is_not_positive_is_refused(scale):
    with pytest.raises(InputError, match="^scale of a cosine head must be positive and finite"):
        dv.CosineHead(6, 4, scale=scale)


def test_a_network_keeps_everything_but_its_head():
    plain, cosine = (
        dv.build_model("resnet20", num_classes=4, seed=2),
        dv.build_model("resnet20+cosine", num_classes=4, seed=2),
    )
    assert isinstance(cosine.linear, dv.CosineHead)
    assert cosine.linear.weight.shape == plain.linear.weight.shape
    own, others = plain.state_dict(), cosine.state_dict()
    assert set(own) ^ set(others) == {"linear.bias", "linear.scale"}
    assert all(torch.equal(own[name], others[name]) for name in own if not name.startswith("linear"))
    assert torch.equal(cosine.linear.weight, dv.build_model("resnet20+cosine", num_classes=4, seed=2).linear.weight)
    assert not torch.equal(cosine.linear.weight, dv.build_model("resnet20+cosine", num_classes=4, seed=3).linear.weight)


def test_it_takes_the_place_dtype_and_name_of_the_linear_layer():
    model = nn.Sequential(nn.Flatten(), nn.Sequential(nn.Linear(6, 5), nn.ReLU(), nn.Linear(5, 3))).double()
    changed = dv.with_cosine_head(model, scale=10, seed=1)
    assert changed is model
    assert isinstance(model[1][2], dv.CosineHead)
    assert model[1][2].weight.dtype == torch.float64
    assert model(features_of().double()).shape == (5, 3)
    two = nn.ModuleDict({"a": nn.Linear(6, 3), "b": nn.Linear(6, 3)})
    with pytest.raises(InputError, match="2 candidates"):
        dv.with_cosine_head(two)
    dv.with_cosine_head(two, head="b")
    assert [type(each).__name__ for each in two.values()] == ["Linear", "CosineHead"]
    alone = dv.with_cosine_head(nn.Linear(6, 3))
    assert isinstance(alone, dv.CosineHead)


def test_heads_that_cannot_be_replaced_are_refused():
    with pytest.raises(
        InputError, match="^head must have an output per class, to be replaced by a cosine head, got 1$"
    ):
        dv.with_cosine_head(nn.Sequential(nn.Linear(6, 5), nn.ReLU(), nn.Linear(5, 1)))
    for spec, message in {
        "smal_cnn+cosine": "^model must be one of",
        "+cosine": r"^model must name a network before one \+cosine, got '\+cosine'$",
        "resnet20+cosine+cosine": r"^model must name a network before one \+cosine, got 'resnet20\+cosine\+cosine'$",
        "torchvision:squeezenet1_0+cosine": r"^head of torchvision:squeezenet1_0 must be .*; leave \+cosine out$",
    }.items():
        with pytest.raises(InputError, match=message):
            dv.build_model(spec, num_classes=3)


def test_a_cosine_head_is_replaced_by_one_of_another_scale():
    model = dv.with_cosine_head(dv.build_model("small_cnn+cosine", num_classes=3), scale=5)
    assert float(model.linear.scale) == 5


def test_the_scale_is_saved_with_the_weights(tmp_path):
    saved, other = dv.with_cosine_head(dv.build_model("small_cnn", 3), scale=5), dv.build_model("small_cnn+cosine", 3)
    torch.save(saved.state_dict(), tmp_path / "w.pt")
    dv.load_weights(other, tmp_path / "w.pt")
    assert float(other.linear.scale) == 5
    with pytest.raises(InputError, match=r"they fit model=small_cnn\+cosine with 3 classes"):
        dv.load_weights(dv.build_model("small_cnn", 3), tmp_path / "w.pt")


@pytest.mark.parametrize("wrap", [nn.DataParallel, lambda model: nn.Sequential(nn.Identity(), model)])
def test_a_head_inside_a_wrapper_is_replaced(wrap):
    inner = nn.Sequential(nn.Linear(6, 5), nn.ReLU(), nn.Linear(5, 3))
    whole = wrap(inner)
    assert dv.with_cosine_head(whole) is whole
    assert isinstance(inner[2], dv.CosineHead)
    assert sum(isinstance(each, nn.Linear) for each in whole.modules()) == 1


def test_a_compiled_head_is_replaced_with_its_wrapper():
    model = nn.Sequential(nn.Linear(6, 5), torch.compile(nn.Linear(5, 3), backend="eager"))
    dv.with_cosine_head(model)
    assert isinstance(model[1], dv.CosineHead)
    assert isinstance(dv.with_cosine_head(torch.compile(nn.Linear(5, 3), backend="eager")), dv.CosineHead)


def test_double_precision_is_kept_and_the_head_can_be_shown_without_data():
    head = dv.CosineHead(6, 4, seed=3)
    assert str(dv.CosineHead(6, 4).to("meta")) == "CosineHead(in_features=6, out_features=4, scale=unknown)"
    rows = features_of().double().requires_grad_()
    assert torch.autograd.gradcheck(head.double(), (rows,))


def test_a_head_that_two_attributes_hold_is_replaced_in_both():
    class Two(nn.Module):
        def __init__(self):
            super().__init__()
            self.body, self.head = nn.Linear(6, 5), nn.Linear(5, 3)
            self.classifier = self.head

        def forward(self, rows):
            return self.classifier(self.body(rows))

    model = dv.with_cosine_head(Two())
    assert model.head is model.classifier
    assert isinstance(model.head, dv.CosineHead)


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16])
def test_half_precision_is_normalised_in_float32(dtype):
    head = dv.CosineHead(6, 4, seed=3)
    features = torch.cat([features_of(), torch.zeros(1, 6), 3e4 * torch.ones(1, 6)])
    half = dv.CosineHead(6, 4, seed=3).to(dtype)
    logits = half(features.to(dtype))
    assert logits.dtype == dtype
    torch.testing.assert_close(logits.float(), head(features), rtol=0.02, atol=0.3)


def test_a_repaired_head_goes_back_into_it():
    head = dv.CosineHead(6, 4, seed=3)
    found = dv.read_head(head)
    dv.write_head(head, dataclasses.replace(found, weight=found.weight.roll(1, 0)))
    torch.testing.assert_close(head(features_of()), found.logits(features_of()).roll(1, 1), rtol=0, atol=1e-3)


def test_a_network_with_a_cosine_head_trains_by_a_plan():
    model = dv.build_model("small_cnn+cosine", num_classes=2, channels=1)
    images = draws.integers(256, "pixel", torch.arange(24 * 64)).view(24, 1, 8, 8).to(torch.uint8)
    labels = torch.arange(24) % 2
    images[labels == 1] //= 4  # one class is darker
    data = torch.utils.data.TensorDataset(images.float() / 255, labels)
    plan = dv.recipe(["a", "b"], [12, 12])
    before = model.linear.weight.detach().clone()
    recipe = dv.Recipe(epochs=2, batch_size=8, warmup_epochs=0)
    parts = dv.Ingredients.from_plan(plan, labels, seed=0, epochs=2)
    losses = [epoch.loss for epoch in dv.fit(model, data, recipe=recipe, num_classes=2, ingredients=parts)]
    assert len(losses) == 2
    assert not torch.equal(model.linear.weight, before)


def test_a_network_in_distributed_data_parallel_is_refused():
    wrapped = nn.parallel.DistributedDataParallel.__new__(nn.parallel.DistributedDataParallel)
    nn.Module.__init__(wrapped)
    wrapped.module = nn.Linear(6, 3)
    with pytest.raises(
        InputError, match="^model must get its cosine head before it is wrapped, got DistributedDataParallel$"
    ):
        dv.with_cosine_head(wrapped)
    assert isinstance(wrapped.module, nn.Linear)


@pytest.mark.slow
@pytest.mark.usefixtures("reports_without_figures")
def test_the_commands_train_diagnose_and_repair_a_network_with_a_cosine_head(tmp_path):
    trained, diagnosed, repaired = (str(tmp_path / name) for name in ("run", "diagnosis", "repaired"))
    data = ["--data", "digits", "--imbalance", "exp:20"]
    assert run(["train", *data, "--model", "small_cnn+cosine", "--epochs", "1", "--out", trained]) == 0
    assert run(["diagnose", "--weights", f"{trained}/model.safetensors", "--out", diagnosed]) == 0
    assert run(["remedy", diagnosed, "--out", repaired]) == 0
    model = dv.build_model("small_cnn+cosine", 10, channels=1)
    dv.load_weights(model, f"{repaired}/model.safetensors")
    assert float(model.linear.scale) == 30


def test_a_probe_takes_no_cosine_head(tmp_path, capsys):
    assert run(["probe", "--data", "digits", "--backbone", "small_cnn+cosine", "--out", str(tmp_path / "probe")]) == 2
    assert capsys.readouterr().err.startswith(
        "error: --backbone must not end in +cosine, got small_cnn+cosine; leave it out"
    )
