"""Experiments whose designs stand in the library: what size and diversity do to recall, and the claims of the paper.

Each is many small trainings that are independent of each other; every one leaves a record, and records that are there are
not made again. `diversify benchmark` runs them by the names in `suites.py`. Open `suites.py` first.
"""
