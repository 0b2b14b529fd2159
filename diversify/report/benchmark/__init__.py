"""The report of a benchmark study: statements, tables and charts, made from its records. Open `page.py` first."""
