"""The numbers of each kind of drawing, as frozen records."""

from __future__ import annotations

import dataclasses
import math
from typing import Literal

from .text import NAME

FRAGILE = "◆"  # the sign of a fragile class


@dataclasses.dataclass(frozen=True, kw_only=True)
class ByCount:
    """A scatter plot of one measure against the number of training images, one point per class.

    Attributes:
        label: The name of the measure, at the vertical axis.
        names: The names of the classes.
        count: Training images per class.
        value: The measure per class.
        low: Lower ends of its intervals; NaN for none.
        high: Upper ends.
        fragile: Whether each class is fragile.
        shown: Whether each class gets its interval and, if there is room, its name; other classes are pale dots.
        line: Slope and intercept of a line on the natural logarithm of the count; None if undefined.
        percent: Whether the measure is a share in [0, 1].
        bad: The end of the scale at which names are placed first.
        rows_are: What the points are, in the singular and in the plural.
    """

    label: str
    names: tuple[str, ...]
    count: tuple[float, ...]
    value: tuple[float, ...]
    low: tuple[float, ...]
    high: tuple[float, ...]
    fragile: tuple[bool, ...]
    shown: tuple[bool, ...]
    line: tuple[float, float] | None
    percent: bool = True
    bad: Literal["low", "high"] = "low"
    rows_are: tuple[str, str] = ("class", "classes")


@dataclasses.dataclass(frozen=True, kw_only=True)
class Series:
    """One value per row with its interval.

    Attributes:
        name: The name in the legend.
        values: One value per row; NaN for none.
        low: Lower ends of the intervals; NaN for none.
        high: Upper ends.
        color: A name of `canvas.COLORS`.
        marker: A matplotlib marker, so that series can be told apart without colour.
        hollow: Whether the marker is not filled.
    """

    name: str
    values: tuple[float, ...]
    low: tuple[float, ...]
    high: tuple[float, ...]
    color: str = "blue"
    marker: str = "o"
    hollow: bool = False


@dataclasses.dataclass(frozen=True, kw_only=True)
class Rows:
    """A dot plot: one row per class or method, the first at the top, with one mark per series.

    Attributes:
        names: The names of the rows.
        signs: A sign behind each name; "" for none.
        series: The values.
        reference: Where a dashed vertical line is drawn; None for no line.
        limits: Values outside these limits are drawn at the edge, as arrows.
        percent: Whether the values are shares in [0, 1].
        points: Whether the values are differences of shares.
        joined: Whether a line joins the marks of a row, instead of drawing them one below the other.
        longest: Characters of a name that are drawn.
    """

    names: tuple[str, ...]
    signs: tuple[str, ...]
    series: tuple[Series, ...]
    reference: float | None = None
    limits: tuple[float, float] = (-math.inf, math.inf)
    percent: bool = False
    points: bool = False
    joined: bool = False
    longest: int = NAME


@dataclasses.dataclass(frozen=True, kw_only=True)
class Profile:
    """A line plot over the top-K features of one class.

    Attributes:
        features: The indices of the features, strongest first.
        series: Per series, the mean magnitude of each feature, in logits.
        top: The upper end of the axis, the same for profiles side by side.
    """

    features: tuple[int, ...]
    series: tuple[Series, ...]
    top: float


@dataclasses.dataclass(frozen=True, kw_only=True)
class Stacked:
    """Stacked bars: one bar per class, the first at the top.

    Attributes:
        names: The names of the classes.
        signs: A sign behind each name; "" for none.
        parts: Names and shares per class of at most four parts, which add up to 1; NaN for a class without value.
    """

    names: tuple[str, ...]
    signs: tuple[str, ...]
    parts: tuple[tuple[str, tuple[float, ...]], ...]


@dataclasses.dataclass(frozen=True, kw_only=True)
class Points:
    """A map of images in two dimensions.

    Attributes:
        x: Horizontal places.
        y: Vertical places.
        group: Per image, an index into `groups`, which sets colour and marker; -1 for a pale dot.
        missed: Whether each image was predicted as another class; such images are drawn hollow.
        groups: The names of the groups.
        places: Names of classes, with the place where each is written.
    """

    x: tuple[float, ...]
    y: tuple[float, ...]
    group: tuple[int, ...]
    missed: tuple[bool, ...]
    groups: tuple[str, ...]
    places: tuple[tuple[str, float, float], ...]


@dataclasses.dataclass(frozen=True, kw_only=True)
class Against:
    """A scatter plot of a share against its cost, with the name of every point.

    Attributes:
        label: The name of the share, at the vertical axis.
        across: The name of the cost, at the horizontal axis.
        names: The names of the points.
        x: Costs.
        y: Shares in [0, 1], or other values.
        low: Lower ends of their intervals; NaN for none.
        high: Upper ends.
        marked: Whether each point has the second colour and marker.
        kinds: What unmarked and marked points are called in the legend.
        percent: Whether the values are shares in [0, 1].
    """

    label: str
    across: str
    names: tuple[str, ...]
    x: tuple[float, ...]
    y: tuple[float, ...]
    low: tuple[float, ...]
    high: tuple[float, ...]
    marked: tuple[bool, ...]
    kinds: tuple[str, str]
    percent: bool = True


@dataclasses.dataclass(frozen=True, kw_only=True)
class ByCoverage:
    """A scatter plot of coverage against the number of training images, one point per class, filled by its held-out recall.

    If all classes have equally many images, coverage is drawn across and recall upwards.

    Attributes:
        names: The names of the classes.
        count: Training images per class.
        coverage: Coverage of held-out images per class.
        low: Lower ends of its intervals; NaN for none.
        high: Upper ends.
        recall: Held-out recall per class.
        fragile: Whether each class is fragile.
        shown: Whether each class gets its interval; other classes are small dots.
        named: Whether each class gets its name if there is room.
        narrow_below: The coverage below which a class is narrow; NaN for no such line.
        small_below: The number of training images below which a class is small; NaN for no such line.
    """

    names: tuple[str, ...]
    count: tuple[float, ...]
    coverage: tuple[float, ...]
    low: tuple[float, ...]
    high: tuple[float, ...]
    recall: tuple[float, ...]
    fragile: tuple[bool, ...]
    shown: tuple[bool, ...]
    named: tuple[bool, ...]
    narrow_below: float = math.nan
    small_below: float = math.nan

    @property
    def placed(self) -> list[int]:
        """The classes that have a point."""
        known = zip(self.count, self.coverage, self.recall, strict=True)
        return [c for c, each in enumerate(known) if each[0] > 0 and all(map(math.isfinite, each))]

    @property
    def equal_counts(self) -> bool:
        """Whether all classes drawn have equally many training images."""
        return len({self.count[c] for c in self.placed}) < 2


Plot = ByCount | ByCoverage | Rows | Profile | Stacked | Points | Against
