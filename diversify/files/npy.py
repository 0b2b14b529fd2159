"""Read the arrays of `.npz` files, and the headers of `.npy` files, without trusting the sizes that they declare."""

from __future__ import annotations

import errno
import math
import zipfile
from collections.abc import Collection
from pathlib import Path
from typing import IO, Any

import numpy as np

from ..errors import InputError, must

Array = np.ndarray[Any, Any]

MODEST = 2**28
"""Bytes to which a file may always unpack."""

RATIO = 200
"""The most bytes per byte to which a larger file may unpack; real images and features stay far below it."""

_METHODS = (zipfile.ZIP_STORED, zipfile.ZIP_DEFLATED)  # the only ones that NumPy and PyTorch write


class DamagedError(Exception):
    """A file that is not what it should be; `array` is the name of the array that is to blame, if it is one."""

    def __init__(self, array: str = "") -> None:
        super().__init__(array)
        self.array = array


def check_header(file: IO[bytes], size: int) -> None:
    """Check that the header of a `.npy` file declares an array of numbers or text that the file can hold.

    Args:
        file: The opened file, at its start.
        size: Bytes of the file.

    Raises:
        DamagedError: It does not.

    Example:
        >>> import io
        >>> file = io.BytesIO()
        >>> np.save(file, np.zeros(1000))
        >>> check_header(io.BytesIO(file.getvalue()), 8128)
        >>> check_header(io.BytesIO(file.getvalue()), 8127)
        Traceback (most recent call last):
        diversify.files.npy.DamagedError
    """
    try:
        version = np.lib.format.read_magic(file)
        read = np.lib.format.read_array_header_1_0 if version == (1, 0) else np.lib.format.read_array_header_2_0
        shape, _, kind = read(file)
        fits = all(each >= 0 for each in shape) and math.prod(shape) * kind.itemsize <= size - file.tell()
    except Exception:  # the parser of the header raises many kinds for broken text
        raise DamagedError from None
    if not fits or kind.hasobject or kind.kind == "V" or (kind.itemsize == 0 and 0 not in shape):
        raise DamagedError


def is_npy(path: Path) -> bool:
    """Return whether a file begins as a `.npy` file does.

    Example:
        >>> import tempfile
        >>> with tempfile.TemporaryDirectory() as folder:
        ...     np.save(f"{folder}/a.npy", np.zeros(2))
        ...     is_npy(Path(folder) / "a.npy")
        True
    """
    with path.open("rb") as file:
        return file.read(6) == b"\x93NUMPY"


def read_archive(path: Path, wanted: Collection[str], name: str) -> tuple[dict[str, Array], list[str]]:
    """Return the wanted arrays of a `.npz` file, and the names of all its arrays; nothing is unpickled.

    Args:
        path: The file.
        wanted: The names that are looked for.
        name: The file as errors name it.

    Raises:
        DamagedError: It is no such file, or a wanted array is not whole or holds Python objects.
        InputError: Its arrays would fill far more memory than the file is large, or two have one name.

    Example:
        >>> import tempfile
        >>> with tempfile.TemporaryDirectory() as folder:
        ...     np.savez(f"{folder}/a.npz", labels=np.arange(3), other=np.zeros(2))
        ...     read_archive(Path(folder) / "a.npz", ["labels", "features"], "npz file")
        ({'labels': array([0, 1, 2])}, ['labels', 'other'])
    """
    found: dict[str, Array] = {}
    try:
        with zipfile.ZipFile(path) as archive:
            members: dict[str, zipfile.ZipInfo] = {}
            for each in archive.infolist():
                array = each.filename.removesuffix(".npy")
                if array in members:
                    raise must(name, "hold each array once", f"two of the name {array!r} in {path}")
                members[array] = each
            read = {each: member for each, member in members.items() if each in wanted}
            require_modest(list(read.values()), path, name)
            for array, member in read.items():
                try:
                    with archive.open(member) as file:
                        check_header(file, member.file_size)
                    with archive.open(member) as file:
                        found[array] = np.lib.format.read_array(file, allow_pickle=False)
                except (MemoryError, OSError):
                    raise
                except Exception:  # damaged members raise many kinds of errors
                    raise DamagedError(array) from None
    except InputError:
        raise
    except (zipfile.BadZipFile, ValueError, NotImplementedError):
        raise DamagedError from None
    except OSError as error:
        if error.errno == errno.EINVAL:  # the place of a member lies before the file
            raise DamagedError from None
        raise
    return found, list(members)


def require_modest(members: Collection[zipfile.ZipInfo], path: Path, name: str) -> None:
    """Check that members of an archive unpack to sizes that a file of this size may have, by the methods in use.

    Args:
        members: The members that will be unpacked.
        path: The archive.
        name: The file as errors name it.

    Raises:
        DamagedError: One is packed by another method than NumPy and PyTorch use.
        InputError: Together they unpack to more than `MODEST` bytes and to more than `RATIO` times the file.
    """
    if any(each.compress_type not in _METHODS for each in members):
        raise DamagedError
    unpacked, packed = sum(each.file_size for each in members), path.stat().st_size
    if unpacked > max(MODEST, RATIO * packed):
        law = f"unpack to at most {RATIO} times its size"
        raise must(name, law, f"{unpacked:,} bytes from the {packed:,} of {path}", "save it without compression")
