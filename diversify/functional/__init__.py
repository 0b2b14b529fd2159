"""Pure functions on tensors: no files, no printing, no modules, no global random state.

In: tensors. Out: tensors and numbers. `counts`, `labels`, `metrics`, `stats`, `diversity`, `magnitude`, `geometry`,
`neighbors`, `ceiling`, `projection` and `multilabel` measure; `oversample`, `mixing`, `image_ops` with `image_changes` and `image_bytes`,
`losses` and `multilabel_losses` are the formulas of remedies; `draws` and `allocate` are the random draws and the order of
an epoch. Open `magnitude.py` first.
"""
