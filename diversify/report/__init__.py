"""Offline HTML pages and Markdown.

In: a diagnosis, a comparison, a repair, the records of a study. Out: one page each, with the numbers as text and the
drawings as SVG. Open `page.py` first.
"""

import lazy_loader as _lazy

__getattr__, __dir__, __all__ = _lazy.attach_stub(__name__, __file__)
