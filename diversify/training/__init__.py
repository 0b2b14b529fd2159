"""Training: `fit`, the one reference loop.

In: a model, a training set, a `Recipe` and `Ingredients` (what a method brings: sampler, augmentation, loss). Out: one
record per epoch. Open `loop.py` first.
"""

import lazy_loader as _lazy

__getattr__, __dir__, __all__ = _lazy.attach_stub(__name__, __file__)
