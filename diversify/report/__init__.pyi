from .diagnosis import render_html as render_html
from .diagnosis import render_markdown as render_markdown
from .thumbnails import take_pictures as take_pictures
