"""A trained model to embeddings.

In: any classifier with a linear or cosine head, and a loader. Out: `SplitModel` (backbone and head) and `Embeddings`
(features, labels, logits, indices). Nothing about the model changes. Open `split.py` first.
"""

import lazy_loader as _lazy

__getattr__, __dir__, __all__ = _lazy.attach_stub(__name__, __file__)
