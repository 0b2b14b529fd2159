"""A `Diagnosis` to a `Plan`.

In: a diagnosis, or class counts alone. Out: a plan that a person can read, edit and compare: per class its share of the
draws, its augmentation, and the reason for each choice. Open `make.py` first; `rules.py` is the table of rules.
"""

import lazy_loader as _lazy

__getattr__, __dir__, __all__ = _lazy.attach_stub(__name__, __file__)
