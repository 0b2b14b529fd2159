"""Which repairs a head without a bias can hold."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace

from ..errors import must
from ..network.linear_head import LinearHead
from .candidate import Candidate


def without_bias(candidates: Sequence[Candidate]) -> tuple[list[Candidate], list[str]]:
    """Return the candidates that need no bias, with the options that need none, and the names of what is left out.

    Args:
        candidates: The candidates to compare.

    Example:
        >>> import diversify as dv
        >>> train, heldout, head = dv.make_embeddings()
        >>> kept, left_out = without_bias(dv.default_candidates(train, head)[:3])
        >>> [one.name for one in kept], left_out
        (['untouched', 'tau-norm'], ['logit adjustment'])
    """
    kept: list[Candidate] = []
    left_out: list[str] = []
    for one in candidates:
        if not isinstance(one, Candidate):
            kept.append(one)  # `choose_head` says so
        elif one.needs_bias or (one.taus and 0.0 not in one.taus):
            left_out.append(one.name)
        else:
            adjusted = any(tau != 0 for tau in one.taus)
            left_out += [f"{one.name} with a logit adjustment"] if adjusted else []
            kept.append(replace(one, taus=(0.0,)) if adjusted else one)
    return kept, left_out


def left_out_in_words(names: Sequence[str]) -> tuple[str, ...]:
    """Return why candidates are missing from a comparison, in a sentence; nothing where none are.

    Args:
        names: What is left out.

    Example:
        >>> left_out_in_words(["logit adjustment"])
        ('The head has no bias, so what needs one is not compared: logit adjustment.',)
    """
    return (f"The head has no bias, so what needs one is not compared: {', '.join(names)}.",) if names else ()


def require_writable(made: LinearHead, head: LinearHead, name: str) -> None:
    """Raise an InputError if a candidate's head has another bias than the present head, which has none to hold it.

    Args:
        made: The candidate's head.
        head: The present head.
        name: The candidate's name.

    Raises:
        InputError: It has one.
    """
    offsets = made.bias - head.bias.to(made.bias)
    if not head.has_bias and bool((offsets != offsets[0]).any()):
        advice = "set needs_bias=True, so that it is left out"
        raise must(f"result of candidate {name!r}", "have no bias where the head has none", "one", advice)
