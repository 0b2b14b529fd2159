"""Repair of a classifier's head on a frozen backbone.

Input: training embeddings, the head, a plan, and held-out embeddings on which to choose. Output: a new head, and
`HeadChoice`, the comparison of all repairs. Open `retrain.py` first.
"""

import lazy_loader as _lazy

__getattr__, __dir__, __all__ = _lazy.attach_stub(__name__, __file__)
