"""Benchmarks: declarations, the code that times and tabulates, and `results/`."""
