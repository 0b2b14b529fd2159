"""Safe input and output of files.

Files and folders are written completely or not at all, read without unpickling, and locked against a second writer.
Nothing here depends on the rest of the library but its errors. Open `atomic.py` first.
"""
