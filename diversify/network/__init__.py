"""Turn a trained model into embeddings.

Input: any classifier with a linear or cosine head, and a loader. Output: `SplitModel` (backbone and head) and
`Embeddings` (features, labels, logits, indices). The model itself is not changed. Open `split.py` first.
"""

import lazy_loader as _lazy

__getattr__, __dir__, __all__ = _lazy.attach_stub(__name__, __file__)
