"""The process and its surroundings.

In: signals, the installed packages, the checkout, and names of the user's own functions. Out: one KeyboardInterrupt that
loses nothing, the origin of a result, progress, and imported objects. Open `signals.py` first.
"""
