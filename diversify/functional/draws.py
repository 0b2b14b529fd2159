"""Chance as a function: every draw is a hash of its key, the same on any device, in any order, in any process.

A key is any mix of names, integers and integer tensors, for example `("flip", seed, epoch, indices)`. Tensors broadcast.
The mixer is the finaliser of SplitMix64 (Steele, Lea, Flood, "Fast splittable pseudorandom number generators", 2014),
applied once per part of the key.
"""

from __future__ import annotations

import zlib

import torch
from torch import Tensor

_WORD = (1 << 64) - 1
_GOLDEN = 0x9E3779B97F4A7C15
_FIRST = 0xBF58476D1CE4E5B9
_SECOND = 0x94D049BB133111EB

Key = int | str | Tensor


def _signed(word: int) -> int:
    return word - (1 << 64) if word >> 63 else word


def _shift_right(word: Tensor, by: int) -> Tensor:
    """Logical shift: torch's `>>` copies the sign bit of an int64."""
    return (word >> by) & ((1 << (64 - by)) - 1)


def _mix_int(word: int) -> int:
    word = (word + _GOLDEN) & _WORD
    word = ((word ^ (word >> 30)) * _FIRST) & _WORD
    word = ((word ^ (word >> 27)) * _SECOND) & _WORD
    return word ^ (word >> 31)


def _mix(word: Tensor) -> Tensor:
    word = word + _signed(_GOLDEN)
    word = (word ^ _shift_right(word, 30)) * _signed(_FIRST)
    word = (word ^ _shift_right(word, 27)) * _signed(_SECOND)
    return word ^ _shift_right(word, 31)


def seed_for(*key: int | str) -> int:
    """One non-negative 63-bit seed for a generator that needs a seed of its own."""
    word = 0
    for part in key:
        number = zlib.crc32(part.encode()) if isinstance(part, str) else part
        word = _mix_int(word ^ (number & _WORD))
    return word >> 1


def bits(*key: Key) -> Tensor:
    """Uniform int64 words, one per element of the broadcast key. At least one part must be a tensor."""
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
    """float32 in [0, 1), on a grid of 2^-24, so that every device gives the same number."""
    return _shift_right(bits(*key), 40).to(torch.float32) * 2.0**-24


def number(*key: int | str) -> float:
    """What `uniform` gives for a key of which one part is a tensor of one number: the same, at a fraction of the cost."""
    return (seed_for(*key) >> 39) * 2.0**-24


def integers(high: int | Tensor, *key: Key) -> Tensor:
    """int64 in [0, high), for `high` up to 2^31; bias below high / 2^32."""
    return _shift_right(_shift_right(bits(*key), 32) * high, 32)


def permutation(count: int, *key: Key, device: torch.device | str = "cpu") -> Tensor:
    """`(count,)` a permutation of 0 .. count - 1."""
    return torch.argsort(bits(*key, torch.arange(count, device=device)), stable=True)


def normal(*key: Key) -> Tensor:
    """float32, standard normal by Box and Muller; the last bit may depend on the device's logarithm and cosine."""
    radius = (-2 * torch.log1p(-uniform(*key, "radius"))).sqrt()
    return radius * torch.cos(2 * torch.pi * uniform(*key, "angle"))
