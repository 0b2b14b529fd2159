"""The transform of published weights: recognised by content or by name, and the same pixels as their owners' code."""

import re
import sys
from pathlib import Path

import numpy as np
import pydantic
import pytest
import torch
from PIL import Image
from torchvision import models
from torchvision.transforms.v2 import functional as tvf

from diversify.commands import options
from diversify.commands.options import DataOptions
from diversify.data.published_view import count_outputs, published_view
from diversify.data.view import View
from diversify.errors import InputError
from diversify.functional import draws
from diversify.network.networks import build_model

IMAGENET = {"mean": (0.485, 0.456, 0.406), "std": (0.229, 0.224, 0.225)}
OTHER = "0" * 64


def digest(weights) -> str:
    """A sha256 that begins as the file of these weights says."""
    return re.search(r"-([0-9a-f]+)\.pth$", weights.url)[1].ljust(64, "0")


def test_every_published_file_of_torchvision_is_recognised_as_itself():
    for name in models.list_models(module=models):
        for weights in models.get_model_weights(name):
            view, origin = published_view(f"torchvision:{name}", digest(weights))
            preset = weights.transforms()
            assert origin == f"torchvision's {weights}"
            assert ([view.resize], [view.crop]) == (preset.resize_size, preset.crop_size)
            if name not in ("googlenet", "inception_v3"):
                assert (list(view.mean), list(view.std)) == (list(preset.mean), list(preset.std))
            assert view.interpolation == preset.interpolation.value


@pytest.mark.parametrize("name", ["googlenet", "inception_v3"])
def test_networks_that_normalise_again_see_what_they_were_trained_on(name):
    """torchvision builds them with `transform_input` where it loads published weights; `build_model` without."""
    weights = models.get_model_weights(name).IMAGENET1K_V1
    preset, image = weights.transforms(), picture(360, 350)
    published = models.get_model(name, init_weights=False, transform_input=True)
    view, _ = published_view(f"torchvision:{name}", digest(weights))
    wanted = published._transform_input(preset(image)[None])[0]
    assert largest_difference(view, image, wanted) <= 1.001
    assert not build_model(f"torchvision:{name}", 2).transform_input


def test_nothing_else_is_guessed():
    known = digest(models.ResNet18_Weights.IMAGENET1K_V1)
    assert published_view("torchvision:resnet18", known) == (
        View(**IMAGENET, resize=256, crop=224),
        "torchvision's ResNet18_Weights.IMAGENET1K_V1",
    )
    for model, sha256 in (
        ("torchvision:resnet18", OTHER),
        ("torchvision:resnet18", ""),
        ("torchvision:resnet34", known),
        ("torchvision:resnet19", known),
        ("resnet20", known),
        ("package.module:function", known),
        ("timm:no_such_net", known),
        ("timm:resnet18.no_such_tag", known),
    ):
        assert published_view(model, sha256, 1000) is None


# timm


@pytest.fixture
def timm():
    return pytest.importorskip("timm")


def test_a_tag_says_which_weights_of_timm(timm):
    view, origin = published_view("timm:resnet18.a1_in1k", OTHER)
    assert origin == "timm's resnet18.a1_in1k"
    assert view == View(**IMAGENET, resize=235, crop=224, interpolation="bicubic")  # floor(224 / 0.95)
    view, origin = published_view("timm:resnet18.tv_in1k", OTHER, 10)
    assert view == View(**IMAGENET, resize=256, crop=224)
    view, _ = published_view("timm:vit_tiny_patch16_224.augreg_in21k_ft_in1k", OTHER)
    assert view == View(mean=(0.5,) * 3, std=(0.5,) * 3, resize=248, crop=224, interpolation="bicubic")


def test_without_a_tag_the_file_or_the_number_of_classes_says_it(timm):
    known = digest(models.ResNet18_Weights.IMAGENET1K_V1)
    assert published_view("timm:resnet18", known)[1] == "timm's resnet18.tv_in1k"
    assert published_view("timm:resnet18", OTHER, 1000)[1] == "timm's resnet18.a1_in1k"
    for num_classes in (None, 7, 21843):
        assert published_view("timm:resnet18", OTHER, num_classes) is None


def test_a_crop_that_is_not_the_centre_is_not_taken_for_it(timm):
    from timm.models import get_pretrained_cfg

    squashed = [name for name in timm.list_pretrained("*clip*") if get_pretrained_cfg(name).crop_mode == "squash"]
    assert squashed
    assert published_view(f"timm:{squashed[0]}", OTHER) is None


def test_a_view_gives_the_pixels_of_timms_own_transform(timm):
    name = "resnet18.a1_in1k"
    view, _ = published_view(f"timm:{name}", OTHER)
    options = timm.data.resolve_data_config(pretrained_cfg=timm.models.get_pretrained_cfg(name).to_dict())
    transform = timm.data.create_transform(**options)
    image = picture(300, 417)
    assert largest_difference(view, image, transform(image)) <= 2.001


def test_the_outputs_of_a_checkpoint_are_counted_by_timms_own_names(timm):
    assert count_outputs("timm:resnet18", {"fc.weight": torch.zeros(7, 2), "conv1.weight": torch.zeros(9, 2)}) == 7
    assert count_outputs("timm:resnet18", {"head.weight": torch.zeros(7, 2)}) is None
    two = {"head.weight": torch.zeros(7, 2), "head_dist.weight": torch.zeros(7, 2)}
    assert count_outputs("timm:deit_tiny_distilled_patch16_224", two) == 7
    assert count_outputs("timm:deit_tiny_distilled_patch16_224", {"head.weight": torch.zeros(7, 2)}) is None
    assert count_outputs("torchvision:resnet18", {"fc.weight": torch.zeros(7, 2)}) is None


def test_without_timm_there_is_none(monkeypatch):
    monkeypatch.setitem(sys.modules, "timm", None)
    monkeypatch.setitem(sys.modules, "timm.data", None)
    assert published_view("timm:resnet18.a1_in1k", OTHER) is None
    assert count_outputs("timm:resnet18", {}) is None


# The pixels


def picture(height: int, width: int) -> Image.Image:
    """Every pixel drawn on its own: the hardest picture to resize."""
    pixels = draws.bits("picture", torch.arange(height * width * 3)) % 256
    return Image.fromarray(pixels.view(height, width, 3).numpy().astype(np.uint8))


def largest_difference(view: View, image: Image.Image, wanted: torch.Tensor) -> float:
    """In steps of 1/255 before normalisation."""
    seen = view.normalize(view.shape(tvf.pil_to_tensor(image))[None])[0]
    assert seen.shape == wanted.shape
    return float(((seen - wanted) * torch.tensor(view.std).view(-1, 1, 1) * 255).abs().max())


WEIGHTS = {  # the largest difference, in steps of 1/255, on a picture and on a tensor
    "bilinear": (models.ResNet18_Weights.IMAGENET1K_V1, 1, 1),
    "bicubic": (models.EfficientNet_B0_Weights.IMAGENET1K_V1, 2, 40),  # its tensors overshoot in between
}


@pytest.mark.parametrize("size", [(300, 417), (417, 300), (100, 140), (256, 256)], ids=str)
@pytest.mark.parametrize("interpolation", WEIGHTS)
def test_a_view_gives_the_pixels_of_torchvisions_preset(interpolation, size):
    weights, on_picture, on_tensor = WEIGHTS[interpolation]
    name = type(weights).__name__.removesuffix("_Weights").lower()
    view, _ = published_view(f"torchvision:{name}", digest(weights))
    assert view.interpolation == interpolation
    preset, image = weights.transforms(), picture(*size)
    assert largest_difference(view, image, preset(image)) <= on_picture + 1e-3
    assert largest_difference(view, image, preset(tvf.pil_to_tensor(image))) <= on_tensor + 1e-3


def test_the_other_interpolation_would_be_seen():
    weights, image = models.ResNet18_Weights.IMAGENET1K_V1, picture(300, 417)
    view = View(**IMAGENET, resize=256, crop=224, interpolation="bicubic")
    assert largest_difference(view, image, weights.transforms()(image)) > 20


@pytest.mark.parametrize("size", [(30, 41), (31, 20)], ids=str)
def test_an_image_smaller_than_the_crop_is_padded_as_torchvision_does(size):
    from torchvision.transforms._presets import ImageClassification

    preset, image = ImageClassification(resize_size=24, crop_size=33), picture(*size)
    view = View(**IMAGENET, resize=24, crop=33)
    assert largest_difference(view, image, preset(image)) <= 1.001
    assert float(preset(image)[0, 0, 0]) == pytest.approx(-0.485 / 0.229, abs=1e-5)  # black


def test_the_interpolation_of_a_view():
    assert str(View(mean=(0,), std=(1,), resize=4)) == "mean 0, std 1, resize 4"
    assert str(View(mean=(0,), std=(1,), resize=4, interpolation="bicubic")) == "mean 0, std 1, resize 4, bicubic"
    with pytest.raises(InputError) as caught:
        View(mean=(0,), std=(1,), interpolation="nearest")
    assert str(caught.value) == "interpolation must be one of bilinear, bicubic, got 'nearest'"


# The options of a command


@pytest.fixture
def weights(tmp_path, monkeypatch) -> Path:
    """A file that is torchvision's ResNet-18 by its digest."""
    path = tmp_path / "weights.pt"
    torch.save({"fc.weight": torch.zeros(1000, 2)}, path)
    monkeypatch.setattr(options, "digest_checkpoint", lambda _: digest(models.ResNet18_Weights.IMAGENET1K_V1))
    return path


ORIGIN = "torchvision's ResNet18_Weights.IMAGENET1K_V1"


def test_published_weights_fill_in_what_the_user_left_open(weights):
    options = DataOptions(spec="folder:images")
    filled, origin = options.with_published("torchvision:resnet18", weights)
    assert origin == ORIGIN
    assert (filled.mean, filled.std) == (IMAGENET["mean"], IMAGENET["std"])
    assert (filled.resize, filled.crop, filled.interpolation) == (256, 224, "bilinear")
    assert options.mean is None

    own = DataOptions(spec="folder:images", mean=(0.5,), std=(0.5,), resize=300)
    filled, origin = own.with_published("torchvision:resnet18", weights)
    assert origin == f"given, the rest {ORIGIN}"
    assert (filled.mean, filled.std, filled.resize, filled.crop) == ((0.5,), (0.5,), 300, 224)
    assert filled.interpolation is None

    full = DataOptions(spec="folder:images", mean=(0.5,), std=(0.5,), resize=300, crop=288)
    assert full.with_published("torchvision:resnet18", weights) == (full, None)


def test_what_is_not_published_or_comes_ready_is_left_as_it_is(weights):
    for spec, model in (
        ("folder:images", "resnet20"),
        (None, "torchvision:resnet34"),
        ("own.data:set", "torchvision:resnet18"),
    ):
        options = DataOptions(spec=spec)
        assert options.with_published(model, weights) == (options, None)


def test_the_classes_of_a_timm_checkpoint_are_read_from_it(timm, tmp_path):
    options = DataOptions(spec="folder:images")
    for classes, origin in ((1000, "timm's resnet18.a1_in1k"), (7, None)):
        torch.save({"fc.weight": torch.zeros(classes, 2)}, tmp_path / "weights.pt")
        filled, found = options.with_published("timm:resnet18", tmp_path / "weights.pt")
        assert found == origin
        assert filled.interpolation == ("bicubic" if origin else None)


def test_a_record_without_an_interpolation_still_reads():
    record = {
        "data": {"spec": "digits", "imbalance": "none", "tail_order": "canonical", "holdout": 0.2},
        "view": {"mean": [0.5], "std": [0.25], "resize": None, "crop": None},
    }
    filled = DataOptions().filled_from(record)
    assert (filled.mean, filled.interpolation) == ((0.5,), None)
    assert pydantic.TypeAdapter(View).validate_python(record["view"]) == View(mean=(0.5,), std=(0.25,))
    record["view"]["interpolation"] = "bilinear"
    data = DataOptions().filled_from(record).load(measure_view=False)
    assert data.view == View(mean=(0.5,), std=(0.25,))
