"""Both backends vary images alike."""

import pytest
import torch
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
