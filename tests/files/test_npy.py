"""Arrays in files that lie about their size, or unpack to far more than it."""

import io
import re
import struct
import warnings
import zipfile
from pathlib import Path

import numpy as np
import pytest
from small_data import message_of

from diversify.data.sources import read_npz
from diversify.files import arrays, atomic, npy


def header(shape: object, kind: str = "<f4") -> bytes:
    text = repr({"descr": kind, "fortran_order": False, "shape": shape}).encode()
    return b"\x93NUMPY\x01\x00" + struct.pack("<H", len(text)) + text


@pytest.mark.parametrize("shape", [(10**14,), (2**62, 4), (10**30,), (-1,), (1.5,), "x", ((((),),),)], ids=str)
def test_a_header_that_declares_more_than_the_file_holds(shape: object, tmp_path: Path) -> None:
    content = header(shape) + bytes(48)
    with pytest.raises(npy.DamagedError):
        npy.check_header(io.BytesIO(content), len(content))
    (tmp_path / "a.npy").write_bytes(content)
    assert "be a whole .npy file" in message_of(lambda: atomic.open_array(tmp_path / "a.npy", "labels"))
    with zipfile.ZipFile(tmp_path / "a.npz", "w") as archive:
        archive.writestr("features.npy", content)
        archive.writestr("train_images.npy", content)
    assert "got objects, fields or damage" in message_of(
        lambda: arrays.read_columns(tmp_path / "a.npz", ["features"], "features")
    )
    assert "be a whole NumPy .npz" in message_of(lambda: read_npz(tmp_path / "a.npz"))


@pytest.mark.parametrize("text", ["{'descr': '<f4', ", "(" * 300, "{'descr': '<f4', 'x': [", "\xff"])
def test_a_header_that_is_no_header(text: str, tmp_path: Path) -> None:
    content = b"\x93NUMPY\x01\x00" + struct.pack("<H", len(text)) + text.encode("latin-1")
    (tmp_path / "a.npy").write_bytes(content)
    assert "be a whole .npy file" in message_of(lambda: atomic.open_array(tmp_path / "a.npy", "labels"))


def test_an_archive_that_unpacks_to_far_more_than_its_size(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(npy, "MODEST", 1000)
    np.savez_compressed(tmp_path / "a.npz", features=np.zeros(10**6), labels=np.zeros(3))
    size = (tmp_path / "a.npz").stat().st_size
    expected = rf"features must unpack to at most 200 times its size, got 8,000,\d+ bytes from the {size:,} of .*; save it without"
    assert re.match(expected, message_of(lambda: arrays.read_columns(tmp_path / "a.npz", ["features"], "features")))
    assert (
        len(arrays.read_columns(tmp_path / "a.npz", ["labels"], "features")["labels"]) == 3
    )  # what is not read is not counted


@pytest.mark.parametrize("kind", [[("a", "<f4"), ("b", "<i8")], "V8", [("a", "<f4")]], ids=str)
def test_an_array_of_fields_or_of_raw_bytes_is_refused(kind: object, tmp_path: Path) -> None:
    rows = np.zeros(3, dtype=kind)
    np.save(tmp_path / "a.npy", rows)
    np.savez(tmp_path / "a.npz", features=rows, train_images=rows)
    assert "be a whole .npy file" in message_of(lambda: atomic.open_array(tmp_path / "a.npy", "labels"))
    expected = "be an array of numbers or text, got objects, fields or damage"
    assert expected in message_of(lambda: arrays.read_columns(tmp_path / "a.npz", ["features"], "features"))
    assert "be a whole NumPy .npz" in message_of(lambda: read_npz(tmp_path / "a.npz"))


@pytest.mark.parametrize("second", ["labels.npy", "labels"])
def test_an_archive_with_two_arrays_of_one_name(second: str, tmp_path: Path) -> None:
    with zipfile.ZipFile(tmp_path / "a.npz", "w") as archive, warnings.catch_warnings():
        warnings.simplefilter("ignore")  # of zipfile, that the name is there already
        for member, value in (("labels.npy", 0), (second, 1)):
            content = io.BytesIO()
            np.save(content, np.full(3, value))
            archive.writestr(member, content.getvalue())
    expected = f"features must hold each array once, got two of the name 'labels' in {tmp_path / 'a.npz'}"
    assert message_of(lambda: arrays.read_columns(tmp_path / "a.npz", ["labels"], "features")) == expected


def test_an_archive_packed_by_another_method(tmp_path: Path) -> None:
    with zipfile.ZipFile(tmp_path / "a.npz", "w", zipfile.ZIP_BZIP2) as archive:
        archive.writestr("features.npy", header((0,)))
    assert "be a whole .npz file" in message_of(
        lambda: arrays.read_columns(tmp_path / "a.npz", ["features"], "features")
    )


def test_an_empty_array_is_read(tmp_path: Path) -> None:
    np.save(tmp_path / "a.npy", np.zeros((0, 4), np.float32))
    assert atomic.open_array(tmp_path / "a.npy", "features").shape == (0, 4)
