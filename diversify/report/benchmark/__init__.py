"""The report of a study: tables, charts and statements made from its records. Open `page.py` first."""
