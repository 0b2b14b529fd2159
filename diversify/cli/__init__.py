"""The command line: typing, printing and exit codes. Open `commands.py` first; `entry.py` turns errors into one line."""
