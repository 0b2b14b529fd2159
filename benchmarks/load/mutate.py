"""Damage to files: bytes changed anywhere, and fields changed where a format has fields, with its checksums made good.

Each function takes the bytes of a valid file and a random generator, and returns other bytes. The same generator gives the same
bytes.
"""

from __future__ import annotations

import contextlib
import copy
import io
import json
import struct
import zipfile
import zlib
from collections.abc import Callable
from typing import Any

import numpy as np

Random = np.random.Generator
Mutation = Callable[[bytes, Random], bytes]

_BYTES = (b"\x00", b"\xff", b"\x7f", b"\x80", b"\x00" * 8, b"\xff" * 8, b"\x7f" + b"\xff" * 7, b"\n", b'"', b"{", b"\\")
_VALUES: tuple[Any, ...] = (
    *(None, True, False, 0, -1, 1, 2, 255, 2**31, 2**53, 2**63, -(2**63), 2**64, 10**30, 10**400),
    *(0.5, -0.0, 1e-320, 1e308, float("nan"), float("inf"), float("-inf")),
    *("", " ", "x", "0", "nan", "\x00", "\ud800", "é", "a\nb", "../../x", "%s{}", "9" * 30, "w" * 4000),
    *([], [[]], [None], [0], ["x"], {}, {"": None}, {"x": {}}, [[1, 2], [3]]),
)


def pick(random: Random, choices: Any) -> Any:
    """Return one of the choices."""
    return choices[int(random.integers(len(choices)))]


def of_bytes(data: bytes, random: Random) -> bytes:
    """Flip, set, insert, cut, repeat or zero bytes, one to eight times."""
    found = bytearray(data)
    for _ in range(int(random.integers(1, 9)) if random.random() < 0.5 else 1):
        size = len(found)
        if not size:
            break
        place, length = int(random.integers(size)), int(random.integers(1, 33))
        match int(random.integers(8)):
            case 0:
                found[place] ^= 1 << int(random.integers(8))
            case 1:
                found[place] = int(random.integers(256))
            case 2:
                found[place:place] = pick(random, _BYTES)
            case 3:
                del found[place : place + length]
            case 4:
                found[place:place] = found[place : place + length]
            case 5:
                found[place : place + length] = bytes(min(length, size - place))
            case 6:
                del found[place:]
            case _:
                chosen = pick(random, _BYTES)
                found[place : place + len(chosen)] = chosen
    return bytes(found)


def of_values(value: Any, random: Random) -> Any:
    """Return JSON values with one to three places changed: another value, one that stands elsewhere, none, twice, renamed, nested."""
    value = copy.deepcopy(value)
    for _ in range(int(random.integers(1, 4))):
        places = _places(value)
        if not places:
            return pick(random, _VALUES)
        holder, key = pick(random, places)
        match int(random.integers(8)):
            case 0 | 1 | 2:
                holder[key] = pick(random, _VALUES)
            case 3:
                other, name = pick(random, places)
                holder[key] = copy.deepcopy(other[name])
            case 4:
                del holder[key]
            case 5 if isinstance(holder, list):
                holder.insert(key, copy.deepcopy(holder[key]))
            case 5:
                holder[pick(random, ("x", "", f"{key}_", str(key).upper()))] = holder.pop(key)
            case 6:
                for _ in range(pick(random, (1, 2, 50))):
                    holder[key] = [holder[key]] if random.random() < 0.5 else {"x": holder[key]}
            case _ if isinstance(holder[key], int | float):
                factor, more = pick(random, (-1, 2, 1e6, 1e-6)), pick(random, (0, 1, -1))
                with contextlib.suppress(OverflowError):  # an integer too large for a float stays as it is
                    holder[key] = holder[key] * factor + more
            case _:
                holder[key] = str(holder[key])
    return value


def _places(value: Any) -> list[tuple[Any, Any]]:
    """Every place in JSON values: the list or object, and the key in it."""
    found: list[tuple[Any, Any]] = []
    open_: list[Any] = [value]
    while open_:
        holder = open_.pop()
        keys = list(holder) if isinstance(holder, dict) else range(len(holder)) if isinstance(holder, list) else ()
        found += [(holder, key) for key in keys]
        open_ += [holder[key] for key in keys if isinstance(holder[key], dict | list)]
    return found


def of_json(data: bytes, random: Random) -> bytes:
    """Change the values of a JSON file, or sometimes its bytes."""
    if random.random() < 0.2:
        return of_bytes(data, random)
    text = json.dumps(of_values(json.loads(data), random))
    if random.random() < 0.05:  # a name twice
        text = text.replace("{", '{"x": 1, "x": 2, ' if random.random() < 0.5 else '{"schema_version": 1, ', 1)
    return text.encode()


def of_jsonl(data: bytes, random: Random) -> bytes:
    """Change a line of a JSON-lines file, or its bytes, or put lines elsewhere."""
    lines = data.splitlines(keepends=True)
    place = int(random.integers(len(lines)))
    choice = random.random()
    if choice < 0.2:
        return of_bytes(data, random)
    if choice < 0.25:
        lines.insert(place, pick(random, (b"\n", b"{}\n", b"null\n", b"[]\n", b"\xff\n", lines[-1])))
    else:
        lines[place] = of_json(lines[place], random).rstrip(b"\n") + b"\n"
    return b"".join(lines)


def of_safetensors(data: bytes, random: Random) -> bytes:
    """Change the header's fields, the length that it declares, or bytes anywhere."""
    size = struct.unpack("<Q", data[:8])[0]
    header, body = data[8 : 8 + size], data[8 + size :]
    choice = random.random()
    if choice < 0.25:
        return of_bytes(data, random)
    if choice < 0.4:
        wrong = pick(random, (0, 1, size - 1, size + 1, len(data), 2**31, 10**8 - 1, 2**63, 2**64 - 1))
        return struct.pack("<Q", wrong) + header + body
    header = of_json(header, random)
    return struct.pack("<Q", len(header)) + header + body


def of_zip(data: bytes, random: Random, inside: Mutation = of_bytes) -> bytes:
    """Change a member of an archive and write the archive anew, or rename, drop or repeat one, or change bytes anywhere."""
    if random.random() < 0.25:
        return of_bytes(data, random)
    with zipfile.ZipFile(io.BytesIO(data)) as archive:
        members = [(name, archive.read(name)) for name in archive.namelist()]
    place = int(random.integers(len(members)))
    name, content = members[place]
    match int(random.integers(10)):
        case 0:
            del members[place]
        case 1:
            members[place] = (pick(random, ("x", f"{name}.npy", name.upper(), "../x.npy", "archive/x")), content)
        case 2:
            members[place] = (name, members[int(random.integers(len(members)))][1])
        case 3:
            members[place] = (name, b"" if random.random() < 0.5 else content[: len(content) // 2])
        case _:
            members[place] = (name, inside(content, random))
    made = io.BytesIO()
    method = pick(
        random, (zipfile.ZIP_STORED, zipfile.ZIP_STORED, zipfile.ZIP_DEFLATED, zipfile.ZIP_BZIP2, zipfile.ZIP_LZMA)
    )
    with zipfile.ZipFile(made, "w", method) as archive:
        for name, content in members:
            archive.writestr(zipfile.ZipInfo(name), content, compress_type=method)
    return made.getvalue()


_SHAPES = (
    "(0,)",
    "()",
    "(1,)",
    "(-1,)",
    "(3, 0)",
    f"({10**6},)",
    f"({2**40},)",
    f"({2**62}, 4)",
    f"({10**30},)",
    "(1.5,)",
    "'x'",
)
_KINDS = (
    "<f8",
    "<f4",
    "<f2",
    ">f4",
    "<i8",
    "<u8",
    "|u1",
    "|b1",
    "<c16",
    "|O",
    "<U3",
    "|S0",
    "<M8[s]",
    "|V8",
    "x",
    "<i9",
)


def of_npy(data: bytes, random: Random) -> bytes:
    """Change the shape, the type or the order that an array's header declares, or bytes anywhere."""
    if random.random() < 0.3 or data[:6] != b"\x93NUMPY":
        return of_bytes(data, random)
    size = struct.unpack("<H", data[8:10])[0]
    header, body = data[10 : 10 + size].decode("latin-1"), data[10 + size :]
    shape = header[header.index("(") : header.index(")") + 1]
    kind = header[header.index("'descr': ") + 9 : header.index(", 'fortran_order'")]
    match int(random.integers(4)):
        case 0:
            header = header.replace(shape, pick(random, _SHAPES))
        case 1:
            header = header.replace(kind, repr(pick(random, _KINDS)))
        case 2:
            header = header.replace("False", "True")
        case _:
            header = header.replace(
                pick(random, ("descr", "shape", "{", "}", "'")), pick(random, ("", "x", "{", "(" * 200)), 1
            )
    if random.random() < 0.2:
        body = of_bytes(body, random) if body else body
    return data[:8] + struct.pack("<H", len(header) % 65536) + header.encode("latin-1") + body


def of_npz(data: bytes, random: Random) -> bytes:
    """Change an archive of arrays."""
    return of_zip(data, random, of_npy)


def of_png(data: bytes, random: Random) -> bytes:
    """Change the content of a chunk and make its checksum good, or bytes anywhere."""
    if random.random() < 0.3:
        return of_bytes(data, random)
    chunks, place = [], 8
    while place + 12 <= len(data):
        size = struct.unpack(">I", data[place : place + 4])[0]
        chunks.append((data[place + 4 : place + 8], data[place + 8 : place + 8 + size]))
        place += 12 + size
    place = int(random.integers(len(chunks)))
    kind, content = chunks[place]
    match int(random.integers(4)):
        case 0:
            del chunks[place]
        case 1:
            kind = pick(
                random, (b"tRNS", b"PLTE", b"IHDR", b"IDAT", b"eXIf", b"acTL", b"fcTL", b"fdAT", b"zTXt", b"iCCP")
            )
            chunks.insert(place, (kind, of_bytes(content or b"\0" * 8, random)))
        case _:
            chunks[place] = (kind, of_bytes(content, random) if content else content)
    return data[:8] + b"".join(
        struct.pack(">I", len(content)) + kind + content + struct.pack(">I", zlib.crc32(kind + content))
        for kind, content in chunks
    )
