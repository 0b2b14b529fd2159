"""Drawings: frozen plot data in, SVG text out; one file for each kind. Open `drawing.py` first."""

from .data import FRAGILE as FRAGILE
from .data import Against as Against
from .data import ByCount as ByCount
from .data import ByCoverage as ByCoverage
from .data import Plot as Plot
from .data import Points as Points
from .data import Profile as Profile
from .data import Rows as Rows
from .data import Series as Series
from .data import Stacked as Stacked
from .drawing import draw as draw
from .feature_map import MAP_GROUPS as MAP_GROUPS
from .text import cut as cut
from .text import shortened as shortened
