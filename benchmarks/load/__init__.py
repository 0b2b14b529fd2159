"""What the library stands: kills, damaged files, too little room, workers without a parent, long use. Records: `benchmarks/results/load.jsonl`.

    python -m benchmarks.load kills [--times 50] [--commands train ...]
    python -m benchmarks.load fuzz [--cases 100000]
    python -m benchmarks.load places [--only "full disk"]
    python -m benchmarks.load memory [--minutes 60]
    python -m benchmarks.load orphans

Each part says how many times it tried, and how many of these were lost: a file that could not be read, another end, a traceback,
a process left over. It needs a system with `fork` and `/proc`.
"""
