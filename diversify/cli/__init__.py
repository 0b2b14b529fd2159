"""The command line: flags, printing and exit codes. Open `commands.py` first; `entry.py` turns every error into one line."""
