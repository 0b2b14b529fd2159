"""Equal-budget comparisons of methods.

A `Protocol` says what is the same for every method, and a `Method` fills the slots of the shared training loop.
`run_study` writes one record per run, and `compare` turns the records into scores and paired differences with intervals.
Open `study.py` first.
"""

import lazy_loader as _lazy

__getattr__, __dir__, __all__ = _lazy.attach_stub(__name__, __file__)
