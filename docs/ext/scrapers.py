"""Gallery pictures that are no pyplot figures: SVG drawings of the report, and pictures of PIL.

A code block of an example shows what it binds to the name `drawing`: SVG text, or a `PIL.Image`.
"""

from __future__ import annotations

import gc
import random
from pathlib import Path
from typing import Any

from PIL import Image
from sphinx_gallery.scrapers import figure_rst

_SVG = 'xmlns="http://www.w3.org/2000/svg" xmlns:xlink="http://www.w3.org/1999/xlink"'


def drawings(block: tuple[Any, ...], block_vars: dict[str, Any], gallery_conf: dict[str, Any]) -> str:
    """The reStructuredText that shows the drawing of this code block, if it made one."""
    found = block_vars["example_globals"].pop("drawing", None)
    if found is None:
        return ""
    path = Path(next(block_vars["image_path_iterator"]))
    path.parent.mkdir(parents=True, exist_ok=True)
    if isinstance(found, Image.Image):
        found.save(path)
    else:
        path = path.with_suffix(".svg")
        path.write_text(found if "xmlns=" in found else found.replace("<svg", f"<svg {_SVG}", 1))
    return str(figure_rst([str(path)], gallery_conf["src_dir"]))


def reset(gallery_conf: dict[str, Any], fname: str) -> None:
    """Every example begins with the same random state, and with matplotlib's own look."""
    import matplotlib.pyplot as plt
    import torch

    gc.collect()
    random.seed(0)
    torch.manual_seed(0)
    plt.rcParams.update({"figure.figsize": (7.2, 3.6), "figure.dpi": 110, "axes.spines.top": False})
    plt.rcParams.update({"axes.spines.right": False, "legend.frameon": False, "figure.constrained_layout.use": True})


def setup(app: Any) -> dict[str, bool]:
    """Sphinx loads this module by name; the functions above are named in `conf.py`."""
    return {"parallel_read_safe": True, "parallel_write_safe": True}
