"""Files of at most 1 MiB that are made to fill the memory, to take for ever, or to lie about their size."""

from __future__ import annotations

import functools
import io
import json
import pickle
import struct
import zipfile
import zlib
from collections.abc import Callable, Iterator, Sequence

import numpy as np
import torch

from benchmarks.load.targets import Target

LARGEST = 2**20  # bytes of a file
SIDE = 9400  # pixels: just below Pillow's limit on the pixels of an image
DEEP = 100_000


def _zeros(size: int, header: bytes = b"") -> bytes:
    """Zeros as zlib packs them, a part at a time."""
    packer, parts = zlib.compressobj(9), []
    parts.append(packer.compress(header))
    parts += [packer.compress(bytes(min(1 << 24, size - start))) for start in range(0, size, 1 << 24)]
    return b"".join(parts) + packer.flush()


def _png(side: int, kind: int, depth: int, width: int, *chunks: tuple[bytes, bytes], packed: bool = True) -> bytes:
    """A PNG of zeros: `kind` is its colour type, `width` its bytes per pixel."""
    header = struct.pack(">IIBBBBB", side, side, depth, kind, 0, 0, 0)
    rows = _zeros(side * (1 + side * width)) if packed else zlib.compress(b"\0" * 1000)
    return b"\x89PNG\r\n\x1a\n" + b"".join(
        struct.pack(">I", len(data)) + name + data + struct.pack(">I", zlib.crc32(name + data))
        for name, data in ((b"IHDR", header), *chunks, (b"IDAT", rows), (b"IEND", b""))
    )


def _icon() -> bytes:
    inside = _png(12_000, 6, 8, 4)
    return struct.pack("<HHH", 0, 1, 1) + struct.pack("<BBBBHHII", 16, 16, 0, 0, 1, 32, len(inside), 22) + inside


def _zip(members: dict[str, bytes], method: int) -> bytes:
    made = io.BytesIO()
    with zipfile.ZipFile(made, "w", method, compresslevel=9) as archive:
        for name, content in members.items():
            archive.writestr(zipfile.ZipInfo(name), content, compress_type=method)
    return made.getvalue()


def _npy(shape: tuple[int, ...], kind: str = "|u1", body: bytes = b"") -> bytes:
    made = io.BytesIO()
    np.lib.format.write_array_header_1_0(made, {"descr": kind, "fortran_order": False, "shape": shape})
    return made.getvalue() + body


def _npz(names: tuple[str, str], method: int, size: int = 1000 * 2**20) -> bytes:
    """An archive whose first array unpacks to so many bytes."""
    rows = size // 2**10
    return _zip(
        {f"{names[0]}.npy": _npy((rows, 32, 32), body=bytes(size)), f"{names[1]}.npy": _npy((2,), "<i8", bytes(16))},
        method,
    )


def _lying_npz(name: str) -> bytes:
    """An archive whose array is 48 bytes and declares a hundred terabytes."""
    return _zip(
        {f"{name}.npy": _npy((10**14,), body=bytes(48)), "labels.npy": _npy((2,), "<i8", bytes(16))}, zipfile.ZIP_STORED
    )


def _packed_pt() -> bytes:
    """A checkpoint whose storage is packed."""
    made = io.BytesIO()
    torch.save({"weight": torch.zeros(2**20)}, made)
    with zipfile.ZipFile(made) as archive:
        members = {name: archive.read(name) for name in archive.namelist()}
    place = next(name for name in members if name.endswith("data/0"))
    members[place] = bytes(1000 * 2**20)
    return _zip(members, zipfile.ZIP_DEFLATED)


def _maze() -> bytes:
    """A checkpoint of dictionaries that hold one another 100 times over, four deep."""
    value: object = {"weight": 1}
    for _ in range(5):
        value = {f"k{number}": value for number in range(100)}
    made = io.BytesIO()
    torch.save(value, made)
    return made.getvalue()


def _safetensors(length: int, header: bytes, body: bytes = b"") -> bytes:
    return struct.pack("<Q", length) + header + body


def _large_tensor(name: str) -> bytes:
    header = json.dumps({name: {"dtype": "F32", "shape": [10**6, 10**6], "data_offsets": [0, 4 * 10**12]}}).encode()
    return _safetensors(len(header), header, bytes(64))


def _deep(start: bytes = b"", end: bytes = b"\n") -> bytes:
    return start + b'{"x":[' * DEEP + b"1" + b"]}" * DEEP + end


def _twice() -> bytes:
    names = ",".join(f'"{number}":0' for number in range(90_000))
    return ("{" + names + ',"last":0,"last":0}\n').encode()


def _many_classes(valid: bytes) -> bytes:
    """A plan of 1,200 classes."""
    plan = json.loads(valid)
    one = {"count": 1, "draws": 1 / 1200}
    plan["classes"] = [{"name": str(number), **one} for number in range(1200)]
    return json.dumps(plan).encode()


def _far_feature(valid: bytes) -> bytes:
    """A diagnosis of two thousand million features."""
    values = json.loads(valid)
    values["num_features"] = 2**31 - 1
    return json.dumps(values).encode()


def bombs(every: Sequence[Target]) -> Iterator[Target]:
    """Yield the cases, for the readers of the valid files of the same name, as far as they are there.

    Args:
        every: The kinds of files, as `targets` returns them.
    """
    of = {target.file: target for target in every}
    made: list[tuple[str, Callable[[], bytes]]] = [
        ("a.png", functools.partial(_png, 50_000, 2, 8, 3, packed=False)),
        ("a.png", functools.partial(_png, SIDE, 2, 8, 3)),
        ("clear.png", functools.partial(_png, SIDE, 6, 8, 4)),
        ("deep.png", functools.partial(_png, SIDE, 0, 16, 2)),
        ("deep.png", functools.partial(_png, SIDE, 4, 16, 4)),
        ("palette.png", functools.partial(_png, SIDE, 3, 8, 1, (b"PLTE", bytes(768)), (b"tRNS", bytes(256)))),
        ("a.png", functools.partial(_png, 20, 2, 8, 3, (b"zTXt", b"a\0\0" + _zeros(500 * 2**20)))),
        ("a.png", functools.partial(_png, 20, 2, 8, 3, (b"iCCP", b"a\0\0" + _zeros(500 * 2**20)))),
        ("a.ico", _icon),
        *(
            ("data.npz", functools.partial(_npz, ("train_images", "train_labels"), method, size * 2**20))
            for method, size in ((zipfile.ZIP_DEFLATED, 1000), (zipfile.ZIP_BZIP2, 300), (zipfile.ZIP_LZMA, 300))
        ),
        *(
            ("features.npz", functools.partial(_npz, ("features", "labels"), method, size * 2**20))
            for method, size in ((zipfile.ZIP_DEFLATED, 1000), (zipfile.ZIP_BZIP2, 300))
        ),
        ("data.npz", functools.partial(_npz, ("train_images", "train_labels"), zipfile.ZIP_DEFLATED, 250 * 2**20)),
        ("data.npz", functools.partial(_lying_npz, "train_images")),
        ("features.npz", functools.partial(_lying_npz, "features")),
        ("features.npy", functools.partial(_npy, (10**14, 6), "<f4", bytes(48))),
        ("m.pt", _packed_pt),
        ("m.pt", _maze),
        ("l.pt", functools.partial(pickle.dumps, [b"x"] * 10, 2)),
        ("m.safetensors", functools.partial(_safetensors, 99_999_999, b"{}", bytes(2**19))),
        ("m.safetensors", functools.partial(_safetensors, 2**63, b"{}")),
        ("m.safetensors", functools.partial(_large_tensor, "weight")),
        ("head.safetensors", functools.partial(_large_tensor, "weight")),
        ("m.safetensors", lambda: _safetensors(8 * DEEP + 1, _deep(end=b""))),
        *(
            (name, _deep)
            for name in ("plan.json", "text.json", "diagnosis.json", "several.json", "study.jsonl", "read.jsonl")
        ),
        *(
            (name, _deep)
            for name in ("study.protocol.json", "model.safetensors.index.json", "index.json", "run.json", "cost.json")
        ),
        *(
            (name, _twice)
            for name in ("plan.json", "diagnosis.json", "study.jsonl", "index.json", "model.safetensors.index.json")
        ),
        ("plan.json", lambda: _many_classes(of["plan.json"].valid)),
        ("diagnosis.json", lambda: _far_feature(of["diagnosis.json"].valid)),
        ("prior.csv", lambda: b"class,share\n" + b"x" * (LARGEST - 20)),
        ("prior.csv", lambda: b"cat,1\n" * (LARGEST // 8)),
    ]
    for file, make in made:
        if file not in of:
            continue
        valid = of[file]

        def damage(_: bytes, __: np.random.Generator, make: Callable[[], bytes] = make) -> bytes:
            return make()

        yield Target(kind=valid.kind, file=file, valid=valid.valid, damage=damage, read=valid.read, beside=valid.beside)
