"""Image files are read as a person sees them, and bombs are refused by their header."""

import io
import os
import struct
import warnings
import zlib
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import EpsImagePlugin, Image
from small_data import VIEW, message_of

from diversify.data import decode
from diversify.data.decode import as_image, read_image
from diversify.data.images import ImageFiles, check_files
from diversify.data.load import load_data
from diversify.functional import draws


def noise(*shape):
    return draws.integers(256, "noise", torch.arange(int(np.prod(shape)))).view(shape).to(torch.uint8).numpy()


def saved(path, image, **options):
    path.parent.mkdir(parents=True, exist_ok=True)
    image.save(path, **options)
    return path


def pixels_of(path):
    return read_image(path).permute(1, 2, 0).numpy()


@pytest.mark.parametrize("ending", ["png", "tif", "webp"])
def test_transparent_pixels_show_white_and_their_hidden_colour_does_not(tmp_path, ending):
    picture = Image.new("RGBA", (3, 1), (255, 0, 0, 255))
    picture.putpixel((1, 0), (255, 0, 0, 0))
    picture.putpixel((2, 0), (0, 0, 0, 128))
    seen = pixels_of(saved(tmp_path / f"a.{ending}", picture, **({"lossless": True} if ending == "webp" else {})))
    assert seen[0].tolist() == [[255, 0, 0], [255, 255, 255], [127, 127, 127]]


def with_colour_key(mode, value, key):
    return Image.new(mode, (2, 2), value), {"transparency": key}


@pytest.mark.parametrize(
    ("picture", "options", "seen"),
    [
        (Image.new("LA", (2, 2), (40, 0)), {}, [255, 255, 255]),
        (Image.new("LA", (2, 2), (40, 255)), {}, [40, 40, 40]),
        (*with_colour_key("L", 7, 7), [255, 255, 255]),
        (*with_colour_key("L", 7, 8), [7, 7, 7]),
        (*with_colour_key("RGB", (1, 2, 3), (1, 2, 3)), [255, 255, 255]),
        (*with_colour_key("P", 0, 0), [255, 255, 255]),
        (Image.new("1", (2, 2), 1), {}, [255, 255, 255]),
        (Image.new("1", (2, 2), 0), {}, [0, 0, 0]),
        (Image.new("L", (2, 2), 9), {}, [9, 9, 9]),
        (Image.new("I;16", (2, 2), 65535), {}, [255, 255, 255]),
    ],
    ids=[
        "clear LA",
        "opaque LA",
        "key L",
        "other key L",
        "key RGB",
        "key P",
        "1 white",
        "1 black",
        "grey",
        "16 bit white",
    ],
)
def test_every_kind_of_png_is_seen_as_in_a_viewer(tmp_path, picture, options, seen):
    assert pixels_of(saved(tmp_path / "a.png", picture, **options))[1, 1].tolist() == seen


@pytest.mark.parametrize("mode", ["CMYK", "YCbCr", "LAB"])
def test_other_colour_spaces_become_rgb(tmp_path, mode):
    flat = {"CMYK": (0, 255, 255, 0), "YCbCr": (76, 85, 255), "LAB": (138, 208, 195)}[mode]  # red in each
    image = Image.new(mode, (4, 4), flat)
    red, green, blue = pixels_of(saved(tmp_path / "a.tif", image))[2, 2].tolist()
    assert red > 240
    assert max(green, blue) < 20
    assert as_image(image).shape == (3, 4, 4)
    assert as_image(Image.new("HSV", (2, 2), (0, 255, 255)))[:, 0, 0].tolist() == [255, 0, 0]
    assert as_image(Image.new("RGBa", (2, 2), (0, 0, 0, 0)))[:, 0, 0].tolist() == [255, 255, 255]
    assert as_image(Image.new("La", (2, 2), (0, 0)))[:, 0, 0].tolist() == [255, 255, 255]


def test_a_cmyk_jpeg_of_adobe_is_not_inverted(tmp_path):
    path = saved(tmp_path / "a.jpg", Image.new("CMYK", (16, 16), (0, 0, 0, 0)))
    assert b"Adobe" in path.read_bytes()
    assert pixels_of(path).min() > 250


@pytest.mark.parametrize("name", ["a.png", "a.tif", "a.pgm"])
def test_sixteen_bits_of_grey_are_scaled_by_their_full_range(tmp_path, name):
    values = np.array([[0, 128, 129, 257, 514, 40_000, 65_535]], dtype=np.uint16)
    seen = pixels_of(saved(tmp_path / name, Image.fromarray(values)))
    assert seen[0, :, 0].tolist() == [round(int(value) * 255 / 65535) for value in values[0]]
    assert np.array_equal(seen[..., 0], seen[..., 2])
    big_endian = Image.frombytes("I;16B", (7, 1), values.astype(">u2").tobytes())
    for image in (Image.fromarray(values), Image.fromarray(values.astype(np.int32)), big_endian):
        assert torch.equal(as_image(image)[0], torch.from_numpy(seen[..., 0].copy()))


@pytest.mark.parametrize(
    ("image", "got"),
    [
        (
            Image.fromarray(np.zeros((2, 2), dtype=np.float32)),
            "whole numbers for pixels, got floating point, PIL mode F",
        ),
        (
            Image.fromarray(np.array([[0, 65536]], dtype=np.int32)),
            "at most 16 bits per channel, got grey values from 0 to 65536",
        ),
        (
            Image.fromarray(np.array([[-1, 5]], dtype=np.int32)),
            "at most 16 bits per channel, got grey values from -1 to 5",
        ),
    ],
    ids=["float", "too large", "negative"],
)
def test_pixels_without_one_look_are_refused(tmp_path, image, got):
    path = saved(tmp_path / "a.tif", image)
    assert message_of(lambda: read_image(path)) == f"image file must have {got} in {path}"
    assert message_of(lambda: as_image(image)) == f"an image of the data set must have {got}"


def test_the_transparent_value_of_sixteen_bit_grey_shows_white(tmp_path):
    values = np.array([[0, 257, 514, 65535]], dtype=np.uint16)
    path = saved(tmp_path / "x.png", Image.fromarray(values), transparency=257)
    assert pixels_of(path)[0, :, 0].tolist() == [0, 255, 2, 255]


def test_pictures_that_another_program_would_draw_are_never_opened(tmp_path, monkeypatch):
    def drawn(*_, **__):
        raise AssertionError("Ghostscript was asked")

    monkeypatch.setattr(EpsImagePlugin, "Ghostscript", drawn)
    path = tmp_path / "x.png"
    saved(path, Image.fromarray(noise(6, 6, 3)), format="EPS")
    files = ImageFiles([path], torch.tensor([0]))
    assert check_files([files]) == [{0: "no image"}]
    assert message_of(lambda: read_image(path)) == f"image file must be a readable image, got {path}"
    expected = "an image of the data set must be made of pixels, got EPS"
    assert message_of(lambda: as_image(Image.open(path))) == expected


@pytest.mark.parametrize("ending", ["gif", "webp", "png", "tif"])
def test_of_several_frames_the_first_is_taken(tmp_path, ending):
    frames = [Image.new("RGB", (4, 4), colour) for colour in ("red", "lime", "blue")]
    options = {"lossless": True} if ending == "webp" else {}
    path = saved(tmp_path / f"a.{ending}", frames[0], save_all=True, append_images=frames[1:], **options)
    with Image.open(path) as image:
        assert image.n_frames == 3
    assert pixels_of(path)[1, 1].tolist() == [255, 0, 0]


@pytest.mark.parametrize("orientation", range(1, 9))
@pytest.mark.parametrize("ending", ["png", "tif", "jpg"])
def test_the_orientation_of_the_camera_is_applied_once(tmp_path, ending, orientation):
    upright = (
        noise(2, 3, 3) if ending != "jpg" else np.kron(noise(2, 3), np.ones((16, 16), np.uint8))[..., None].repeat(3, 2)
    )
    stored = {  # how a camera in each position stores what is upright
        1: lambda a: a,
        2: lambda a: a[:, ::-1],
        3: lambda a: a[::-1, ::-1],
        4: lambda a: a[::-1],
        5: lambda a: a.transpose(1, 0, 2),
        6: lambda a: a.transpose(1, 0, 2)[::-1],
        7: lambda a: a.transpose(1, 0, 2)[::-1, ::-1],
        8: lambda a: a.transpose(1, 0, 2)[:, ::-1],
    }[orientation](upright)
    exif = Image.Exif()
    exif[0x0112] = orientation
    path = saved(tmp_path / f"a.{ending}", Image.fromarray(np.ascontiguousarray(stored)), exif=exif)
    seen = pixels_of(path)
    tolerance = 8 if ending == "jpg" else 0
    assert seen.shape == upright.shape
    assert np.abs(seen.astype(int) - upright).max() <= tolerance
    files = ImageFiles([path], torch.tensor([0]))
    assert check_files([files]) == [{}]
    assert files.sizes == [(upright.shape[1], upright.shape[0])]
    with Image.open(path) as image:
        assert torch.equal(as_image(image), read_image(path))


def test_an_upright_and_a_turned_photograph_have_one_size(tmp_path):
    exif = Image.Exif()
    exif[0x0112] = 6
    saved(tmp_path / "a/1.jpg", Image.new("RGB", (20, 30)))
    saved(tmp_path / "a/2.jpg", Image.new("RGB", (30, 20)), exif=exif)
    assert len(load_data(f"folder:{tmp_path}", holdout=0, **VIEW).train) == 2
    saved(tmp_path / "a/3.jpg", Image.new("RGB", (20, 30)), exif=exif)
    expected = f"image files must have one size, got 20 x 30 in {tmp_path}/a/1.jpg and 30 x 20 in {tmp_path}/a/3.jpg"
    assert message_of(lambda: load_data(f"folder:{tmp_path}", holdout=0, **VIEW)).startswith(expected)


def test_broken_metadata_around_a_whole_picture_is_no_matter(tmp_path):
    path = saved(tmp_path / "a.jpg", Image.new("RGB", (20, 30), "red"), exif=b"Exif\x00\x00II*\x00\xff\xff\xff\xff")
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        assert check_files([ImageFiles([path], torch.tensor([0]))]) == [{}]
    with pytest.warns(UserWarning, match="EXIF"):
        assert read_image(path).shape == (3, 30, 20)


def test_endings_decide_what_is_an_image_of_the_tree(tmp_path):
    for name in ("a/1.PNG", "a/2.Jpg", "a/3.TIFF", "a/4.WebP"):
        saved(tmp_path / name, Image.new("RGB", (2, 2)))
    for name in ("a/notes.txt", "a/5", "a/6.png.part", "a/.7.png"):
        (tmp_path / name).write_text("no image")
    os.mkfifo(tmp_path / "a/8.png")
    assert len(load_data(f"folder:{tmp_path}", holdout=0, **VIEW).train) == 4


def png_of(width, height):
    """A PNG whose header promises this many pixels."""
    stream = io.BytesIO()
    Image.new("1", (1, 1)).save(stream, "PNG")
    content = bytearray(stream.getvalue())
    content[16:24] = struct.pack(">II", width, height)
    content[29:33] = struct.pack(">I", zlib.crc32(bytes(content[12:29])))
    return bytes(content)


@pytest.mark.parametrize("times", [1.5, 3])  # where Pillow warns, and where it refuses
@pytest.mark.parametrize("warning", ["ignore", "error"])
def test_a_decompression_bomb_is_refused_by_its_header(tmp_path, times, warning):
    limit = Image.MAX_IMAGE_PIXELS
    width = int(limit * times / 10_000)
    path = tmp_path / "a.png"
    path.write_bytes(png_of(width, 10_000))
    with warnings.catch_warnings():
        warnings.simplefilter(warning, Image.DecompressionBombWarning)
        message = message_of(lambda: read_image(path))
    assert message == f"image file must have at most {limit:,} pixels, Pillow's limit, got {width * 10_000:,} in {path}"
    assert limit == Image.MAX_IMAGE_PIXELS


def test_a_bomb_in_a_tree_is_named_without_a_warning(tmp_path):
    saved(tmp_path / "a/1.png", Image.new("RGB", (2, 2)))
    (tmp_path / "a/2.png").write_bytes(png_of(10_000, 10_000))
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        message = message_of(lambda: load_data(f"folder:{tmp_path}", **VIEW))
    limit = f"{Image.MAX_IMAGE_PIXELS:,}"
    assert f"a/2.png (100,000,000 pixels, Pillow's limit is {limit})" in message


@pytest.mark.filterwarnings("ignore::PIL.Image.DecompressionBombWarning")
def test_the_limit_is_the_users_own(tmp_path, monkeypatch):
    path = saved(tmp_path / "a.png", Image.new("RGB", (10, 10)))
    monkeypatch.setattr(Image, "MAX_IMAGE_PIXELS", 99)
    assert "at most 99 pixels" in message_of(lambda: read_image(path))
    expected = "an image of the data set must have at most 99 pixels, Pillow's limit, got 100"
    assert message_of(lambda: as_image(Image.new("RGB", (10, 10)))) == expected
    monkeypatch.setattr(Image, "MAX_IMAGE_PIXELS", None)
    assert read_image(path).shape == (3, 10, 10)


@pytest.mark.parametrize("mode", ["RGB", "L", "CMYK"])
def test_a_jpeg_has_the_pixels_of_pillow_whichever_library_decodes_it(tmp_path, monkeypatch, mode):
    turned = Image.Exif()
    turned[0x0112] = 6
    whole = Image.fromarray(noise(45, 61, 3)).convert(mode)
    forms = [
        {"quality": 95},
        {"quality": 60, "subsampling": 2},
        {"progressive": True, "subsampling": 1},
        {"exif": turned},
    ]
    for number, form in enumerate(forms):
        path = saved(tmp_path / f"{number}.jpg", whole, **form)
        seen = read_image(path)
        with monkeypatch.context() as patched:
            patched.setattr(decode, "_decoders_agree", lambda: False)
            assert torch.equal(read_image(path), seen)
        with Image.open(path) as image:
            found = decode._fast_jpeg(path, image)
        assert (found is None) == (mode == "CMYK" or "exif" in form)


def test_a_jpeg_that_ends_early_is_refused_whichever_library_decodes_it(tmp_path):
    path = saved(tmp_path / "a.jpg", Image.fromarray(noise(45, 61, 3)))
    content = path.read_bytes()
    for share in (0.3, 0.6, 0.95):
        path.write_bytes(content[: int(share * len(content))])
        assert "image file must be a readable image" in message_of(lambda: read_image(path))


def test_damage_within_a_jpeg_is_passed_over_with_a_line_of_the_decoder(tmp_path, monkeypatch, capfd):
    file = io.BytesIO()
    noise = draws.integers(256, "damage", torch.arange(3 * 64 * 64)).to(torch.uint8).view(64, 64, 3)
    Image.fromarray(noise.numpy()).save(file, "JPEG", quality=80)
    content = bytearray(file.getvalue())
    content[len(content) // 2 : len(content) // 2 + 40] = bytes(40)
    path = tmp_path / "damaged.jpg"
    path.write_bytes(content)
    assert decode._decoders_agree()
    found = read_image(path)
    assert "Corrupt JPEG data: " in capfd.readouterr().err
    monkeypatch.setattr(decode, "_decoders_agree", lambda: False)
    assert torch.equal(found, read_image(path)), "with Pillow"
    assert capfd.readouterr().err == ""


def test_decoders_that_differ_are_not_mixed(monkeypatch):
    assert decode._decoders_agree.__wrapped__()  # of the pinned wheels
    by_torchvision = decode._by_torchvision
    monkeypatch.setattr(decode, "_by_torchvision", lambda content: by_torchvision(content).clamp(max=250))
    assert not decode._decoders_agree.__wrapped__()


@pytest.mark.parametrize("mode", ["RGBA", "LA", "P", "I;16"])
def test_a_large_image_read_by_bands_has_the_pixels_of_one_read_whole(
    mode: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    pixels = noise(30, 20, 4)
    image = Image.fromarray(pixels) if mode != "I;16" else Image.fromarray(pixels[..., 0].astype(np.uint16) * 200)
    image = image if mode == "I;16" else image.convert("RGB").convert("P") if mode == "P" else image.convert(mode)
    image.save(tmp_path / "a.png", **({"transparency": 7} if mode == "P" else {}))
    whole = read_image(tmp_path / "a.png")
    monkeypatch.setattr("diversify.data.decode._BAND", 60)
    assert torch.equal(read_image(tmp_path / "a.png"), whole)
