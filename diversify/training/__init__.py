"""Training: `fit`, the reference loop.

Input: a model, a training set, a `Recipe`, and `Ingredients`, the parts that a method adds (sampler, augmentation, loss).
Output: one record per epoch. Open `loop.py` first.
"""

import lazy_loader as _lazy

__getattr__, __dir__, __all__ = _lazy.attach_stub(__name__, __file__)
