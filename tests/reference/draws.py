"""SplitMix64's finaliser over a key, with Python's integers, and test data drawn from it."""

import math
import zlib

WORD = (1 << 64) - 1


def mix(word):
    word = (word + 0x9E3779B97F4A7C15) & WORD
    word = ((word ^ (word >> 30)) * 0xBF58476D1CE4E5B9) & WORD
    word = ((word ^ (word >> 27)) * 0x94D049BB133111EB) & WORD
    return word ^ (word >> 31)


def word(*key):
    """Unsigned 64-bit word."""
    state = 0
    for part in key:
        number = zlib.crc32(part.encode()) if isinstance(part, str) else part
        state = mix(state ^ (number & WORD))
    return state


def signed(number):
    return number - (1 << 64) if number >> 63 else number


def uniform(*key):
    return (word(*key) >> 40) / (1 << 24)


def integer(high, *key):
    return ((word(*key) >> 32) * high) >> 32


def normal(*key):
    radius = math.sqrt(-2 * math.log(1 - uniform(*key, "radius")))
    return radius * math.cos(2 * math.pi * uniform(*key, "angle"))


def normals(rows, columns, *key):
    return [[normal(*key, row, column) for column in range(columns)] for row in range(rows)]


def labelled(key, columns=5):
    """29 rows in 6 classes: features of both signs with duplicates and ties; class 4 is absent, class 5 has one row."""
    labels = [5] + [integer(4, "label", key, row) for row in range(20)] + [0, 1, 2, 3] * 2
    features = [[round(2 * normal("feature", key, row, column)) / 2 for column in range(columns)] for row in range(25)]
    features += [list(features[3]), list(features[3]), [0.0] * columns, list(features[7])]
    return features, labels, 6
