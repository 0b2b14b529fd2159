"""What each command does, without printing.

Every command makes one folder whose `run.json` says where it comes from. `say` takes a line for the reader, `progress`
takes (what, done, in all). Open `diagnose.py` first.
"""
