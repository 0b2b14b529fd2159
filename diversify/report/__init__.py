"""Reports as offline HTML pages and Markdown.

In: a diagnosis, a comparison of two models, a repaired head, the records of a study. Out: one page each, with the numbers
as text and the drawings as SVG.

- `record.py`: what a report consists of; `page.py` lays it out as HTML or Markdown
- `diagnosis/`, `comparison.py`, `remedy.py`, `demo.py`, `benchmark/`: the records of the five reports
- `plots/`: the drawings; `wording.py`: how numbers and names are written; `thumbnails.py`: small pictures

Open `record.py` first.
"""

import lazy_loader as _lazy

__getattr__, __dir__, __all__ = _lazy.attach_stub(__name__, __file__)
