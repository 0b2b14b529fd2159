"""Equal-budget comparisons of methods.

In: a `Protocol` (what is held fixed) and methods (what fills its slots). Out: one record per run, and `compare`, which
says what the records show, with intervals. Open `study.py` first.
"""

import lazy_loader as _lazy

__getattr__, __dir__, __all__ = _lazy.attach_stub(__name__, __file__)
