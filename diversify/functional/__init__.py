"""The pure core: tensors in, tensors out. No files, no printing, no modules, no global random state."""
