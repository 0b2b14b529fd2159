"""The report of a diagnosis, one file for each section. Open `page.py` first."""

from .class_table import CLASS_COLUMNS as CLASS_COLUMNS
from .page import render_html as render_html
from .page import render_markdown as render_markdown
from .page import report_of as report_of
