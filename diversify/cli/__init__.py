"""The command line: the only folder that prints.

In: what a user types. Out: lines, tables, progress bars and an exit code. Open `commands.py` first, which lists the
commands; `entry.py` turns errors into one line, and parameters into flags.
"""
