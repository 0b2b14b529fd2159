"""All methods by name."""

from __future__ import annotations

from collections.abc import Mapping

from ...errors import unknown
from ..protocol import Method
from .diversified import DIVERSIFIED
from .heads import HEADS
from .images import IMAGES, SAMPLING
from .losses import LOSSES
from .suffixes import with_suffixes

METHODS: Mapping[str, Method] = {method.name: method for method in (*LOSSES, *SAMPLING, *HEADS, *IMAGES, *DIVERSIFIED)}
"""The methods by name, without suffixes."""


def method_named(name: str) -> Method:
    """Return the method with this name, including its suffixes.

    Args:
        name: A name in `METHODS`, with any of `+images`, `+mix` and `+head` behind it.

    Raises:
        InputError: there is no such method or no such suffix.

    Example:
        >>> method_named("balanced_softmax+mix").meaning
        'Cross entropy with the log prior added to the logits; CutMix with partners drawn evenly from the classes'
    """
    first, *suffixes = name.split("+")
    if first not in METHODS:
        raise unknown("method", first, METHODS)
    return with_suffixes(METHODS[first], suffixes)
