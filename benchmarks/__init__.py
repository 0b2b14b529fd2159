"""Benchmarks: protocols, the code that times and tabulates, and `results/`."""
