"""Safe input and output of files.

In: values and paths. Out: files and folders that are written whole or not at all, read without unpickling, and locked
against a second writer. Nothing here knows a type of this library. Open `atomic.py` first.
"""
