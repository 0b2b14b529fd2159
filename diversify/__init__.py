"""Find out why a CNN fails on its rare classes, and which remedy the evidence points to.

The short way, with a trained model and loaders of its training and of unseen images:

    import diversify as dv
    diagnosis = dv.diagnose_model(model, train_loader, heldout_loader)
    for finding in diagnosis.findings:
        print(finding.text)

The same in parts, each usable alone:

    split = dv.split_head(model)                     # backbone and linear head, parameters shared
    train = dv.extract(split, train_loader)          # Embeddings: features, labels, logits, indices
    heldout = dv.extract(split, heldout_loader)
    diagnosis = dv.diagnose(train, heldout, head=split.head)
    diagnosis.to_dataframe()

Names are imported when they are first used, so `import diversify` is quick.
"""

import lazy_loader as _lazy

__version__ = "0.1.0"

__getattr__, __dir__, __all__ = _lazy.attach_stub(__name__, __file__)
__all__ += ["__version__"]
