"""The process: signals and streams, progress, versions and commits, and imports of the user's code.

Open `signals.py` first.
"""
