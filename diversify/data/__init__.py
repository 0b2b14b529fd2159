"""Images, labels and splits.

In: a data source by name, a folder, an `.npz` file, a table, or a data set of the user's own. Out: `Data`, with the
splits train, val and test, their labels and the preprocessing. Open `load.py` first.
"""

import lazy_loader as _lazy

__getattr__, __dir__, __all__ = _lazy.attach_stub(__name__, __file__)
