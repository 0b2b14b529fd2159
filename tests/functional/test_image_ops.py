"""Operations on batches: nothing at strength 0, never less for more, the same in any batch, and what torchvision does."""

import itertools
import math

import pytest
import torch
from torchvision.transforms.v2 import InterpolationMode
from torchvision.transforms.v2 import functional as outside

from diversify.errors import InputError
from diversify.functional import draws, image_changes, image_ops
from diversify.functional.image_changes import place
from diversify.functional.image_ops import OPERATIONS, RANGES, amount, apply_operation, apply_policy

DTYPES = [torch.uint8, torch.float32, torch.float64, torch.bfloat16, torch.float16]


def pictures(count=12, channels=3, height=16, width=20, dtype=torch.uint8):
    """Smooth patches of colour, with black and white among them: what rotating by more always changes more."""
    numbers = torch.arange(count * channels * 16).view(count, channels, 4, 4)
    coarse = draws.uniform("pictures", numbers) * 1.4 - 0.2
    images = torch.nn.functional.interpolate(coarse, (height, width), mode="bicubic").clamp(0, 1)
    images[::2] = images[::2] * 0.6 + 0.1  # half of them with contrast to be gained
    codes = (images * 255).round()
    return codes.to(dtype) if dtype == torch.uint8 else (codes / 255).to(dtype)


def chances(count):
    return draws.uniform("chances", torch.arange(count))


def policy_for(count, layers=4, names=OPERATIONS):
    places = torch.arange(count * layers).view(count, layers)
    strength = (draws.uniform("strength", places) * 1.5 - 0.5).clamp(min=0)
    return draws.integers(len(names), "operation", places), strength, draws.uniform("draw", places)


def distance(images, others):
    scale = 255 if images.dtype == torch.uint8 else 1
    return float((images.double() - others.double()).abs().mean() / scale)


def test_every_operation_has_its_range():
    assert set(OPERATIONS) == set(RANGES) == set(image_changes.ORDER)
    assert len(OPERATIONS) == len(image_changes.ORDER) == 18


@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("name", OPERATIONS)
def test_strength_0_is_the_identity_bit_for_bit(name, dtype):
    images = pictures(dtype=dtype)
    made = apply_operation(name, images, torch.zeros(12), chances(12))
    assert made.dtype == dtype
    assert torch.equal(made, images)
    assert made.data_ptr() != images.data_ptr()
    whole = apply_operation(name, images, torch.ones(12), chances(12))
    assert whole.dtype == dtype
    assert not torch.equal(whole, images)
    assert whole.double().isfinite().all()
    assert whole.min() >= 0
    assert whole.max() <= (255 if dtype == torch.uint8 else 1)
    mixed = apply_operation(name, images, (torch.arange(12) % 2).float(), chances(12))
    assert torch.equal(mixed[::2], images[::2])
    assert torch.equal(mixed[1::2], whole[1::2])


@pytest.mark.parametrize("dtype", [torch.uint8, torch.float32])
@pytest.mark.parametrize("channels", [1, 3])
@pytest.mark.parametrize("name", OPERATIONS)
def test_more_strength_is_never_less_change(name, channels, dtype):
    images = pictures(24, channels=channels, dtype=dtype).repeat(4, 1, 1, 1)
    draw = chances(len(images))
    strengths = torch.linspace(0, 1, 21)
    sizes = [distance(apply_operation(name, images, s.expand(len(images)), draw), images) for s in strengths]
    assert sizes[0] == 0
    assert all(later >= earlier - 1e-7 for earlier, later in itertools.pairwise(sizes))
    if name == "saturation" and channels == 1:
        assert sizes[-1] == 0
    else:
        assert sizes[-1] > 0.005
        assert sizes[-1] > sizes[7]


@pytest.mark.parametrize("shape", [(3, 16, 20), (1, 9, 7), (4, 5, 5), (3, 1, 8), (2, 8, 1), (3, 1, 1), (3, 2, 2)])
@pytest.mark.parametrize("dtype", [torch.uint8, torch.float32, torch.bfloat16])
def test_results_do_not_depend_on_the_batch_or_on_the_way(dtype, shape):
    channels, height, width = shape
    images = pictures(40, channels, height, width, dtype)
    settings = policy_for(40)
    whole = apply_policy(images, *settings)
    assert whole.shape == images.shape
    assert whole.double().isfinite().all()
    assert torch.equal(apply_policy(images, *settings, by_rows=False), apply_policy(images, *settings, by_rows=True))
    for size in (1, 7, 39):
        parts = [
            apply_policy(images[start : start + size], *(one[start : start + size] for one in settings))
            for start in range(0, 40, size)
        ]
        assert torch.equal(torch.cat(parts), whole)
    order = draws.permutation(40, "order")
    assert torch.equal(apply_policy(images[order], *(one[order] for one in settings)), whole[order])


def test_many_images_are_varied_as_few_are(monkeypatch):
    images, settings = pictures(40), policy_for(40)
    whole = apply_policy(images, *settings)
    monkeypatch.setattr(image_ops, "_CHUNK", 7)
    assert torch.equal(apply_policy(images, *settings), whole)


@pytest.mark.parametrize("name", OPERATIONS)
def test_what_is_made_may_enter_a_network_and_gradients_go_through(name):
    images, layers = pictures(dtype=torch.float32), (torch.zeros(12, 1).long(), torch.ones(12, 1), chances(12)[:, None])
    weight = torch.ones(1, requires_grad=True)
    (apply_policy(images, *layers, (name,)) * weight).sum().backward()  # which keeps the images
    assert weight.grad > 0
    gradients = []
    for by_rows in (True, False):
        pixels = images.clone().requires_grad_()
        apply_policy(pixels, *layers, (name,), by_rows=by_rows).square().sum().backward()
        gradients.append(pixels.grad)
    assert gradients[0].isfinite().all()
    torch.testing.assert_close(*gradients)


def test_large_images_are_varied_a_few_at_a_time(monkeypatch):
    images, settings = pictures(40), policy_for(40)
    whole = apply_policy(images, *settings)
    monkeypatch.setattr(image_ops, "_NUMBERS", 1)
    assert torch.equal(apply_policy(images, *settings), whole)


@pytest.mark.parametrize("dtype", [torch.uint8, torch.float32, torch.bfloat16])
@pytest.mark.parametrize("by_rows", [True, False])
def test_a_policy_is_its_operations_one_after_the_other(dtype, by_rows):
    names = ("equalize", "rotate", "flip", "erase", "brightness", "rotate")
    images = pictures(30, dtype=dtype)
    operation, strength, draw = policy_for(30, 3, names)
    made = apply_policy(images, operation, strength, draw, names, by_rows=by_rows)
    for row in range(30):
        image = images[row : row + 1]
        for layer in range(3):
            image = apply_operation(
                names[operation[row, layer]], image, strength[row, layer][None], draw[row, layer][None]
            )
        assert torch.equal(made[row : row + 1], image)
    assert not torch.equal(made, images)


@pytest.mark.parametrize("name", OPERATIONS)
@pytest.mark.parametrize("value", [0.0, 0.5, 1.0])
def test_constant_images_give_no_nan(name, value):
    images = torch.full((8, 3, 6, 6), value)
    made = apply_operation(name, images, torch.ones(8), chances(8))
    assert made.isfinite().all()
    if name in ("contrast", "saturation", "sharpness", "autocontrast", "equalize"):
        assert distance(made, images) < 1e-5  # the mean is a sum in steps of 2^-16


def test_amounts_go_with_the_strength_and_the_sign_with_the_draw():
    strength, draw = torch.tensor([0.0, 0.5, 1.0, 1.0]), torch.tensor([0.2, 0.2, 0.2, 0.5])
    assert amount("rotate", strength, draw).tolist() == [0, -15, -30, 30]
    assert amount("posterize", strength, draw).tolist() == [0, 2, 4, 4]
    first, second = place(chances(4000))
    for where in (first, second):
        assert 0 <= where.min() < 0.01 < 0.99 < where.max() < 1
    assert abs(float(torch.corrcoef(torch.stack((first, second)))[0, 1])) < 0.05


def at(name, draw=0.75, strength=1.0):
    """The operation on one image, and the positive or negative amount that the draw makes of it."""
    numbers = torch.tensor([strength]), torch.tensor([draw])
    size = float(amount(name, *numbers))
    return lambda image: apply_operation(name, image[None], *numbers)[0], size


OUTSIDE = {
    "brightness": lambda image, size: outside.adjust_brightness(image, 1 + size),
    "contrast": lambda image, size: outside.adjust_contrast(image, 1 + size),
    "saturation": lambda image, size: outside.adjust_saturation(image, 1 + size),
    "sharpness": lambda image, size: outside.adjust_sharpness(image, 1 + size),
    "posterize": lambda image, size: outside.posterize(image, 8 - round(size)),
    "solarize": lambda image, size: outside.solarize(image, (1 - size) * (255 if image.dtype == torch.uint8 else 1)),
    "autocontrast": lambda image, size: outside.autocontrast(image),
    "equalize": lambda image, size: outside.equalize(image),
    "invert": lambda image, size: outside.invert(image),
}
GREY = ("contrast", "saturation")
# The weights of its grey sum to 0.9999; and posterising floats it has levels of 1 / 2^bits, not those of uint8
OFF = {"contrast": 3e-4, "saturation": 3e-4, "posterize": 5e-3}


@pytest.mark.parametrize("draw", [0.25, 0.75])
@pytest.mark.parametrize("dtype", [torch.uint8, torch.float32])
@pytest.mark.parametrize("name", OUTSIDE)
def test_values_are_those_of_torchvision(name, dtype, draw):
    blended = name in ("autocontrast", "equalize", "invert")
    operation, size = at(name, draw, 1.0 if blended else 0.7)
    for image in pictures(4, dtype=dtype):
        expected = OUTSIDE[name](image, size)
        if dtype == torch.uint8:
            # torchvision cuts off what we round, and grey, too, on the way
            assert (operation(image).int() - expected.int()).abs().max() <= (2 if name in GREY else 1)
        else:
            torch.testing.assert_close(operation(image), expected, atol=OFF.get(name, 1e-5), rtol=0)


def affine(image, **changes):
    settings = {"angle": 0.0, "translate": [0, 0], "scale": 1.0, "shear": [0.0, 0.0], "fill": None}
    return outside.affine(image, **settings | {"interpolation": InterpolationMode.BILINEAR} | changes)


MOVES = {
    "rotate": lambda image, size: outside.rotate(image, size, InterpolationMode.BILINEAR),
    "shear_x": lambda image, size: affine(image, shear=[math.degrees(math.atan(size)), 0.0]),
    "shear_y": lambda image, size: affine(image, shear=[0.0, math.degrees(math.atan(size))]),
    "zoom": lambda image, size: affine(image, scale=1 + size),
    "translate_x": lambda image, size: affine(
        image, translate=[round(size * 20), 0], interpolation=InterpolationMode.NEAREST
    ),
    "translate_y": lambda image, size: affine(
        image, translate=[0, round(size * 16)], interpolation=InterpolationMode.NEAREST
    ),
}


@pytest.mark.parametrize("draw", [0.25, 0.75])
@pytest.mark.parametrize("dtype", [torch.uint8, torch.float32])
@pytest.mark.parametrize("name", MOVES)
def test_places_are_those_of_torchvision(name, dtype, draw):
    operation, size = at(name, draw, 0.8)
    for image in pictures(4, dtype=dtype):
        made, expected = operation(image).double(), MOVES[name](image, size).double()
        assert distance(made, image.double()) > 0.01
        torch.testing.assert_close(made, expected, atol=1 if dtype == torch.uint8 else 1e-4, rtol=0)


def test_flip_crop_and_erase_are_what_their_draws_say():
    images = pictures(256)
    draw = chances(256)
    for strength in (0.4, 1.0):
        strengths = torch.full((256,), strength)
        mirrored = torch.where((draw < strength / 2).view(-1, 1, 1, 1), images.flip(-1), images)
        assert torch.equal(apply_operation("flip", images, strengths, draw), mirrored)
        down, right = ((2 * where - 1) * 0.125 * strength for where in place(draw))
        moved = apply_operation("crop", images, strengths, draw)
        for row in range(256):
            y, x = round(float(down[row]) * 16), round(float(right[row]) * 20)
            assert torch.equal(
                moved[row], affine(images[row], translate=[x, y], interpolation=InterpolationMode.NEAREST)
            )
        erased = apply_operation("erase", images, strengths, draw)
        touched = (erased != images).any(1)
        sides = touched.any(2).sum(1), touched.any(1).sum(1)
        assert int(sides[0].max()) == round(16 * strength / 2)
        assert int(sides[1].max()) == round(20 * strength / 2)
        means = images.double().mean((2, 3)).round()
        inside = touched[:, None].expand_as(images)
        assert ((erased.double() - means[..., None, None]).abs()[inside] <= 1).all()


def test_grey_images_in_colour_have_nothing_to_saturate():
    grey = pictures(6, channels=1, dtype=torch.float32).expand(6, 3, 16, 20)
    assert distance(apply_operation("saturation", grey, torch.ones(6), chances(6)), grey) < 1e-4


def test_wrong_inputs_are_named():
    images, number = pictures(2), torch.ones(2)
    with pytest.raises(InputError, match=r"operation must be one of .*, got 'rotated'; did you mean 'rotate'\?"):
        apply_operation("rotated", images, number, number)
    with pytest.raises(InputError, match=r"images must be \(N, C, H, W\), uint8 or floating point, got torch.int64"):
        apply_operation("rotate", images.long(), number, number)
    with pytest.raises(InputError, match="images must be"):
        apply_operation("rotate", images[0], number, number)


def test_no_image_and_no_layer_are_no_trouble():
    assert apply_operation("rotate", pictures(2)[:0], torch.ones(0), torch.ones(0)).shape == (0, 3, 16, 20)
    images = pictures(2)
    assert torch.equal(apply_policy(images, *(torch.zeros(2, 0),) * 3), images)


@pytest.mark.skipif(not torch.cuda.is_available(), reason="no CUDA device")
def test_a_cuda_device_gives_the_same_images_without_waiting():
    images, settings = pictures(64, dtype=torch.float32), policy_for(64)
    expected = apply_policy(images, *settings)
    images, *settings = (one.cuda() for one in (images, *settings))
    apply_policy(images, *settings)
    torch.cuda.set_sync_debug_mode("error")
    try:
        made = apply_policy(images, *settings)
    finally:
        torch.cuda.set_sync_debug_mode("default")
    assert float(((made.cpu() - expected).abs() > 1e-3).float().mean()) < 1e-3
