"""Repairs of the head on a frozen backbone.

In: training embeddings, the head, a plan, and held-out embeddings to choose on. Out: another head, and `HeadChoice`,
which says what each repair is worth. Open `retrain.py` first.
"""

import lazy_loader as _lazy

__getattr__, __dir__, __all__ = _lazy.attach_stub(__name__, __file__)
