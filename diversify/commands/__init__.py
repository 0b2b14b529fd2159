"""The commands as functions of the library: they compute and write files, but do not print.

Each command writes one folder, whose `run.json` records its inputs, settings and versions (`plan` and `benchmark` write
one file). `say` receives each line for the user; `progress` receives the stage, the steps done and the steps in total.
Open `diagnose.py` first.
"""
