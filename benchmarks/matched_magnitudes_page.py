"""The tables of `benchmarks.matched_magnitudes`, made from its records."""

from __future__ import annotations

from collections.abc import Sequence
from statistics import mean

from benchmarks.matched_magnitudes import (
    ALL,
    ALL_OTHER,
    BASE,
    BOTH,
    METHODS,
    SETS,
    SHIFTED,
    SHIFTED_OTHER,
    SUITE,
    TOP,
    TOP_OTHER,
    TRIED,
    UNSEEN,
    WITHOUT,
    records_of,
)
from benchmarks.unseen_rows import HALVES, ROWS
from diversify.diagnosis.measure import usual_top_k
from diversify.functional import stats

PAIRS = (
    (TOP, BASE),
    (TOP, TOP_OTHER),
    ("pooled ratio", BASE),
    (ALL, BASE),
    (ALL, ALL_OTHER),
    (SHIFTED, BASE),
    (SHIFTED, SHIFTED_OTHER),
    (SHIFTED, ALL),
    (UNSEEN, BASE),
    (UNSEEN, SHIFTED),
    ("unseen rows + matched", UNSEEN),
    (BOTH, UNSEEN),
)
NONE = "No records yet."
_Network = tuple[str, int]


def _values(half: str, score: str) -> dict[tuple[str, int], dict[_Network, float]]:
    """Return a score in percent, by method and rows, then by network."""
    found: dict[tuple[str, int], dict[_Network, float]] = {}
    for one in records_of(half):
        network = str(one["data"]), int(one["tail_order"])
        found.setdefault((str(one["method"]), int(one["rows"])), {})[network] = 100 * float(one[score])
    return found


def gains(half: str, method: str, base: str, score: str, rows: Sequence[int] = ROWS[1:]) -> list[float]:
    """Return how far a method is ahead of another on each network, in points, as the mean over numbers of rows."""
    values = _values(half, score)
    by_network: dict[_Network, list[float]] = {}
    for number in rows:
        ours, theirs = (values.get((name, number), {}) for name in (method, base))
        for network in sorted(set(ours) & set(theirs)):
            by_network.setdefault(network, []).append(ours[network] - theirs[network])
    return [mean(each) for each in by_network.values() if len(each) == len(rows)]


def _shown(values: Sequence[float]) -> str:
    """Return the mean with its bootstrap interval over networks."""
    if not values:
        return "–"
    low, high = stats.bootstrap_mean_interval(values, name=SUITE)
    return f"{mean(values):+.2f} ({low:+.2f} to {high:+.2f})"


def curve_table(half: str = HALVES[1], score: str = "balanced_accuracy") -> str:
    """Return the mean over networks of every method, by the number of unseen rows a class."""
    found = _values(half, score)
    if not found:
        return NONE
    lines = [f"| method | {' | '.join(f'{rows} rows' for rows in ROWS[1:])} |", f"|:--|{'--:|' * len(ROWS[1:])}"]
    for name in {**METHODS, **TRIED}:
        cells = [found.get((name, rows), {}) for rows in ROWS[1:]]
        if any(cells):
            shown = (f"{mean(one.values()):.1f}" if one else "–" for one in cells)
            lines.append(f"| `{name}` | {' | '.join(shown)} |")
    return "\n".join(lines)


def difference_table(half: str = HALVES[1]) -> str:
    """Return how far each method is ahead of another, on the same networks and rows."""
    if not records_of(half):
        return NONE
    titles = ("balanced accuracy", "the same, 30 rows", "worst third")
    lines = [f"| | {' | '.join(titles)} |", f"|:--|{'--:|' * len(titles)}"]
    for method, base in PAIRS:
        cells = (
            gains(half, method, base, "balanced_accuracy"),
            gains(half, method, base, "balanced_accuracy", (30,)),
            gains(half, method, base, "worst_third"),
        )
        if cells[0]:
            lines.append(f"| `{method}` over `{base}` | {' | '.join(map(_shown, cells))} |")
    return "\n".join(lines)


def without_table(half: str = HALVES[1]) -> str:
    """Return how far what needs no held-out set is ahead of training rows as they are."""
    if not records_of(half):
        return NONE
    lines = ["| method | balanced accuracy | worst third |", "|:--|--:|--:|"]
    for name in WITHOUT:
        if name != BASE:
            cells = (gains(half, name, BASE, score, (0,)) for score in ("balanced_accuracy", "worst_third"))
            lines.append(f"| `{name}` | {' | '.join(map(_shown, cells))} |")
    return "\n".join(lines)


def text(half: str = HALVES[1]) -> str:
    """Return what the records are of, and what they say."""
    records = records_of()
    if not records_of(half):
        return NONE
    networks = {
        side: len({(one["data"], one["tail_order"]) for one in records if one["half"] == side}) for side in HALVES
    }
    sets = "; ".join(f"{one.data} {one.imbalance}, {one.epochs} epochs in batches of {one.batch_size}" for one in SETS)
    most = [one["pooled_ratio"] for one in records_of(half) if one["method"] == TOP and one["rows"] == ROWS[-1]]
    pooled = ", ".join(
        f"{mean(one[source] for one in most):.2f} {where}"
        for source, where in (
            ("unseen", f"by {ROWS[-1]} unseen images of each class"),
            ("augmented", "by augmented training images"),
            ("out of fold", "out of fold"),
        )
        if most
    )
    said = []
    for method, base in ((TOP, BASE), (TOP, TOP_OTHER), (SHIFTED, BASE), (SHIFTED, SHIFTED_OTHER), (BOTH, UNSEEN)):
        side = gains(half, method, base, "balanced_accuracy")
        ahead = sum(value > 0 for value in side)
        said.append(f"`{method}` over `{base}` {_shown(side)}, ahead on {ahead} of {len(side)} networks")
    return (
        f"{networks[HALVES[0]]} networks for development, {networks[HALVES[1]]} for confirmation ({sets}). The ratio of the"
        f" top {usual_top_k(64)} features of all classes together is {pooled}. Gains in balanced accuracy, in points, as means over"
        f" {', '.join(map(str, ROWS[1:]))} unseen rows a class, with bootstrap intervals over networks, which are too narrow with so few:"
        f" {'; '.join(said)}."
    )
