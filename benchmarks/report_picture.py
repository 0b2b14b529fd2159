"""Take the picture at the top of the README: parts of a report, stacked, as Chromium renders them.

python -m benchmarks.report_picture RUN/report.html docs/report.png
"""

from __future__ import annotations

import io
import sys
import tempfile
from pathlib import Path

from PIL import Image

sys.path.append(str(Path(__file__).parent.parent / "tests"))
from browser import Browser

WIDTH = 1180
MARGIN, GAP = 24, 28
# Each part reaches from the top of the first element to the bottom of the second, given as JavaScript expressions.
PARTS = (
    ("document.querySelector('h1')", "document.querySelector('.headlines')"),
    ("document.querySelectorAll('.findings li')[2]", "document.querySelectorAll('.findings li')[3]"),
    (
        "document.querySelector('#coverage')",
        "document.querySelector('#coverage').closest('section').querySelector('.figures')",
    ),
    (
        "document.querySelector('table.blue').closest('.scroll').previousElementSibling.previousElementSibling",
        "document.querySelector('table.blue').closest('.scroll')",
    ),
    (
        "document.querySelector('#clusters')",
        "document.querySelector('#clusters').closest('section').querySelector('.gallery')",
    ),
)


def picture(page: Path) -> Image.Image:
    """Return the parts, stacked."""
    with tempfile.TemporaryDirectory() as profile:
        browser = Browser(Path(profile))
        browser.show(page.resolve(), width=WIDTH)
        whole = Image.open(io.BytesIO(browser.picture())).convert("RGB")
        boxes = []
        for first, last in PARTS:
            top = browser.run(f"{first}.getBoundingClientRect().top + scrollY")
            bottom = browser.run(f"{last}.getBoundingClientRect().bottom + scrollY")
            boxes.append((0, int(top), WIDTH, int(bottom) + 1))
        browser.close()
    height = sum(box[3] - box[1] for box in boxes) + GAP * (len(boxes) - 1) + 2 * MARGIN
    joined = Image.new("RGB", (WIDTH, height), whole.getpixel((1, 1)))
    top = MARGIN
    for box in boxes:
        joined.paste(whole.crop(box), (0, top))
        top += box[3] - box[1] + GAP
    return joined


if __name__ == "__main__":
    source, target = map(Path, sys.argv[1:])
    picture(source).save(target, optimize=True)
