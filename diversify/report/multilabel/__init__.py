"""The reports on images with several labels each: a diagnosis (`page.py`) and a repaired head (`remedy.py`)."""

from .page import multilabel_report_of as multilabel_report_of
from .remedy import render_multilabel_remedy_html as render_multilabel_remedy_html
from .remedy import render_multilabel_remedy_markdown as render_multilabel_remedy_markdown
