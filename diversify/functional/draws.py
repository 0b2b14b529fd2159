"""Random draws as pure functions: every draw is a hash of its key, so it depends on neither device, order nor process.

A key is any mix of names, integers and integer tensors, for example `("flip", seed, epoch, indices)`. Tensors
broadcast. The mixer is the finaliser of SplitMix64 (Steele, Lea and Flood, "Fast splittable pseudorandom number
generators", 2014), applied once per part of the key.
"""

from __future__ import annotations

import zlib

import numpy as np
import torch
from torch import Tensor

_WORD = (1 << 64) - 1
_GOLDEN = 0x9E3779B97F4A7C15
_FIRST = 0xBF58476D1CE4E5B9
_SECOND = 0x94D049BB133111EB
_PART = 1 << 14  # words at a time on the CPU: they stay in the cache

Key = int | str | Tensor


def _signed(word: int) -> int:
    return word - (1 << 64) if word >> 63 else word


def _shift_right(word: Tensor, by: int) -> Tensor:
    """Logical shift: torch's `>>` copies the sign bit of an int64."""
    if word.device.type == "cpu":
        return torch.from_numpy(np.asarray(word.numpy().view(np.uint64) >> np.uint64(by)).view(np.int64))
    return (word >> by) & ((1 << (64 - by)) - 1)


def _mix_int(word: int) -> int:
    word = (word + _GOLDEN) & _WORD
    word = ((word ^ (word >> 30)) * _FIRST) & _WORD
    word = ((word ^ (word >> 27)) * _SECOND) & _WORD
    return word ^ (word >> 31)


def _mix(word: Tensor) -> Tensor:
    """Mix words that nothing else refers to: on the CPU they are overwritten, in NumPy, several times faster than torch."""
    if word.device.type == "cpu":
        word = word.contiguous()
        words = word.numpy().view(np.uint64).reshape(-1)
        spare = np.empty(min(_PART, len(words)), np.uint64)
        for start in range(0, len(words), _PART):
            part = words[start : start + _PART]
            part += np.uint64(_GOLDEN)
            for by, factor in ((30, _FIRST), (27, _SECOND), (31, 1)):
                part ^= np.right_shift(part, np.uint64(by), out=spare[: len(part)])
                if factor != 1:
                    part *= np.uint64(factor)
        return word
    word = word + _signed(_GOLDEN)
    word = (word ^ _shift_right(word, 30)) * _signed(_FIRST)
    word = (word ^ _shift_right(word, 27)) * _signed(_SECOND)
    return word ^ _shift_right(word, 31)


def seed_for(*key: int | str) -> int:
    """Return a non-negative 63-bit seed for a generator that needs a seed of its own.

    Args:
        key: Names and integers.

    Example:
        >>> seed_for("folds", 0) == seed_for("folds", 0), seed_for("folds", 0) == seed_for("folds", 1)
        (True, False)
    """
    word = 0
    for part in key:
        number = zlib.crc32(part.encode()) if isinstance(part, str) else part
        word = _mix_int(word ^ (number & _WORD))
    return word >> 1


def bits(*key: Key) -> Tensor:
    """Draw uniform int64 words, one per element of the broadcast key.

    Args:
        key: Names, integers and at least one integer tensor, which gives the shape and the device.

    Raises:
        TypeError: No part of the key is a tensor.

    Example:
        >>> words = bits("flip", 0, torch.arange(3))
        >>> torch.equal(words[2:], bits("flip", 0, torch.tensor([2])))
        True
    """
    scalar, word = 0, None
    for part in key:
        if isinstance(part, Tensor):
            number = part.to(torch.int64)
            word = _mix(number ^ (_signed(scalar) if word is None else word))
        else:
            number_int = zlib.crc32(part.encode()) if isinstance(part, str) else part
            if word is None:
                scalar = _mix_int(scalar ^ (number_int & _WORD))
            else:
                word = _mix(word ^ _signed(number_int & _WORD))
    if word is None:
        raise TypeError("bits() needs a tensor among its key, to say how many draws and on which device")
    return word


def uniform(*key: Key) -> Tensor:
    """Draw float32 numbers in [0, 1) on a grid of 2^-24, so that every device gives the same numbers.

    Args:
        key: As in `bits`.

    Example:
        >>> [round(draw, 3) for draw in uniform("crop", 0, torch.arange(3)).tolist()]
        [0.757, 0.302, 0.771]
    """
    return _shift_right(bits(*key), 40).to(torch.float32) * 2.0**-24


def number(*key: int | str) -> float:
    """Draw one number in [0, 1): the same as `uniform` for a key whose tensor has one element, but much faster.

    Args:
        key: Names and integers.

    Example:
        >>> number("crop", 0, 2) == float(uniform("crop", 0, torch.tensor([2])))
        True
    """
    return (seed_for(*key) >> 39) * 2.0**-24


def integers(high: int | Tensor, *key: Key) -> Tensor:
    """Draw int64 numbers in [0, high).

    Args:
        high: Up to 2^31; the bias of the draw is below high / 2^32.
        key: As in `bits`.

    Example:
        >>> integers(10, "row", 0, torch.arange(5)).tolist()
        [5, 6, 2, 5, 8]
    """
    return _shift_right(_shift_right(bits(*key), 32) * high, 32)


def permutation(count: int, *key: Key, device: torch.device | str = "cpu") -> Tensor:
    """Draw a random permutation of 0 .. count - 1.

    Args:
        count: Length.
        key: Names and integers.
        device: Where the permutation is made.

    Returns:
        `(count,)` int64.

    Example:
        >>> permutation(5, "order", 0).tolist()
        [2, 4, 0, 3, 1]
    """
    return torch.argsort(bits(*key, torch.arange(count, device=device)), stable=True)


def normal(*key: Key) -> Tensor:
    """Draw float32 numbers from the standard normal distribution, by the method of Box and Muller.

    The last bit may depend on the device's logarithm and cosine.

    Args:
        key: As in `bits`.

    Example:
        >>> [round(draw, 2) for draw in normal("noise", 0, torch.arange(3)).tolist()]
        [2.16, 0.59, 0.69]
    """
    radius = (-2 * torch.log1p(-uniform(*key, "radius"))).sqrt()
    return radius * torch.cos(2 * torch.pi * uniform(*key, "angle"))
