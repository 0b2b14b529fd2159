"""A `Plan` in loaders and training loops.

In: a plan and the user's data set, batches or embeddings. Out: a sampler, a data set wrapper, an augmenter of batches
and one of features. Each works alone. Open `sampler.py` first.
"""

import lazy_loader as _lazy

__getattr__, __dir__, __all__ = _lazy.attach_stub(__name__, __file__)
