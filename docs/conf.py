"""Sphinx configuration: `make docs` builds `docs/_build/html`, without network, with warnings as errors."""

from __future__ import annotations

import logging
import os
import sys
import warnings
from pathlib import Path

HERE = Path(__file__).parent
sys.path[:0] = [str(HERE / "ext"), str(HERE.parent)]

os.environ.setdefault("NO_ALBUMENTATIONS_UPDATE", "1")
os.environ.setdefault("MPLBACKEND", "agg")

import torch  # noqa: E402

import diversify  # noqa: E402

torch.set_num_threads(1)  # the examples are small: more threads only wait for each other
logging.getLogger("matplotlib").setLevel(logging.WARNING)
warnings.filterwarnings("ignore", category=DeprecationWarning)
warnings.filterwarnings("ignore", message=".*pin_memory.*")
warnings.filterwarnings("ignore", message=".*non-interactive.*")

project = "diversify"
author = "The diversify authors"
copyright = author  # noqa: A001 - Sphinx's name
version = release = diversify.__version__

extensions = [
    "sphinx.ext.autodoc",
    "sphinx.ext.napoleon",
    "sphinx_gallery.gen_gallery",
    "myst_parser",
    "sphinx_design",
    "sphinx_copybutton",
    # ours, in docs/ext
    "pages",
    "scrapers",
]
exclude_patterns = ["_build", "generated/**/*.zip", "generated/gallery/*.ipynb"]
source_suffix = {".rst": "restructuredtext", ".md": "markdown"}
default_role = "code"
smartquotes = False  # "--root" is an option
suppress_warnings = ["config.cache"]

# Markdown
myst_enable_extensions = ["colon_fence", "deflist", "attrs_inline"]
myst_heading_anchors = 4

# API reference
autodoc_member_order = "bysource"
autodoc_typehints = "none"
autoclass_content = "class"
napoleon_google_docstring = True
napoleon_numpy_docstring = False
napoleon_use_rtype = False
napoleon_use_ivar = True
add_module_names = False
python_use_unqualified_type_names = True

# Gallery
sphinx_gallery_conf = {
    "examples_dirs": [str(HERE.parent / "examples" / "gallery")],
    "gallery_dirs": ["generated/gallery"],
    "backreferences_dir": None,
    "filename_pattern": r"/plot_",
    "within_subsection_order": "FileNameSortKey",
    "capture_repr": (),
    "image_scrapers": ("matplotlib", "scrapers.drawings"),
    "reset_modules": ("matplotlib", "scrapers.reset"),
    "remove_config_comments": True,
    "download_all_examples": False,
    "show_memory": False,
    "show_signature": False,
    "min_reported_time": 1,
    "abort_on_example_error": False,
    "nested_sections": False,
    "write_computation_times": False,  # that page would load scripts from the network
    "notebook_extensions": set(),
}

# HTML: everything lies beside the pages, so that they work from file:// and without a network
html_theme = "furo"
html_title = f"diversify {release}"
html_static_path = ["_static"]
html_css_files = ["diversify.css"]
html_copy_source = False
html_show_sourcelink = False
html_use_opensearch = ""
html_theme_options = {
    "light_css_variables": {"color-brand-primary": "#0b5394", "color-brand-content": "#0b5394"},
    "dark_css_variables": {"color-brand-primary": "#7db7f0", "color-brand-content": "#7db7f0"},
    "navigation_with_keys": False,
}
copybutton_prompt_text = r">>> |\.\.\. |\$ "
copybutton_prompt_is_regexp = True
