"""Embeddings to a `Diagnosis`.

In: embeddings of training and held-out images, and the head. Out: one column per measure and one row per class, with
intervals, and the findings in words. Open `measure.py` first; `catalogue.py` defines every measure, `columns.py` computes it.
"""

import lazy_loader as _lazy

__getattr__, __dir__, __all__ = _lazy.attach_stub(__name__, __file__)
