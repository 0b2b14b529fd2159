"""Pure functions on tensors: no files, no printing, no modules, no global random state.

`counts`, `metrics`, `stats`, `diversity`, `magnitude`, `geometry` and `neighbors` measure; `oversample`, `mixing`,
`image_ops` and `losses` are the formulas of remedies; `draws` and `allocate` are the random draws and the order of an
epoch.
"""
