"""Both backends vary images alike."""

import numpy as np
import pytest
import torch
from PIL import Image
from small_data import levels_of_a_warp

from diversify.functional import draws, image_ops

WARPS = ("shear_x", "shear_y", "rotate", "zoom")


@pytest.mark.parametrize("name", image_ops.OPERATIONS)
@pytest.mark.parametrize("floating", [False, True])
def test_both_backends_vary_alike(name: str, floating: bool) -> None:
    """At every strength the mean absolute change agrees within 0.25 of 255 levels, and no pixel by more than 1 differs.

    Warps of OpenCV 4 differ by more.
    """
    from diversify.augment import albumentations_ops

    small = draws.uniform("backends", torch.arange(24 * 3 * 36)).view(24, 3, 6, 6)
    batch = torch.nn.functional.interpolate(small, size=(28, 32), mode="bilinear")
    batch = batch if floating else (batch * 255).round().to(torch.uint8)
    levels = 255 if floating else 1
    draw = draws.uniform("backends", name, torch.arange(24))
    for strength in (0.0, 0.15, 0.5, 1.0):
        device = image_ops.apply_operation(name, batch, torch.full((24,), strength), draw)
        worker = torch.stack(
            [
                albumentations_ops.augment(image, [(name, strength, float(one))])
                for image, one in zip(batch, draw, strict=True)
            ]
        )
        changes = [(each.double() - batch.double()).abs().mean() * levels for each in (device, worker)]
        assert abs(changes[0] - changes[1]) < 0.25
        assert (device.double() - worker.double()).abs().max() * levels < (
            levels_of_a_warp() if name in WARPS else 1.001
        )
        assert torch.equal(worker, batch) or strength > 0


@pytest.mark.parametrize("kind", ["RGB", "L", "array", "grey array", "tensor", "grey tensor"])
def test_large_images_of_every_kind_are_changed_as_in_a_batch(kind: str) -> None:
    from diversify.augment import albumentations_ops

    image = draws.integers(256, "large", torch.arange(3 * 70 * 66)).view(3, 70, 66).to(torch.uint8)
    image = image[:1] if kind in ("L", "grey array", "grey tensor") else image
    steps = [("rotate", 0.5, 0.3), ("contrast", 0.5, 0.7), ("equalize", 0.9, 0.1), ("flip", 0.0, 0.1)]
    for its in (steps, steps[3:]):
        operation = torch.tensor([[image_ops.OPERATIONS.index(name) for name, _, _ in its]])
        numbers = [torch.tensor([[step[place] for step in its]], dtype=torch.float64) for place in (1, 2)]
        expected = image_ops.apply_policy(image[None], operation, *numbers)[0]
        last = expected.permute(1, 2, 0).numpy()
        forms = {
            "RGB": lambda: Image.fromarray(image.permute(1, 2, 0).numpy()),
            "L": lambda: Image.fromarray(image[0].numpy()),
            "array": lambda: image.permute(1, 2, 0).numpy().copy(),
            "grey array": lambda: image[0].numpy().copy(),
            "tensor": lambda: image.clone(),
            "grey tensor": lambda: image[0].clone(),
        }
        source = forms[kind]()
        made = albumentations_ops.augment(source, its)
        assert type(made) is type(source)
        assert made is not source
        got = np.asarray(made)
        wanted = expected.numpy() if kind == "tensor" else last if kind in ("RGB", "array") else expected[0].numpy()
        assert np.array_equal(got, wanted)
        assert np.array_equal(np.asarray(source), np.asarray(forms[kind]()))
        if isinstance(source, torch.Tensor | np.ndarray):
            assert not np.shares_memory(np.asarray(made), np.asarray(source))
