"""Sphinx's configuration of the book; `build_book.py` calls it."""

import sys
from pathlib import Path

HERE = Path(__file__).parent
sys.path.insert(0, str(HERE))
import api_pages  # noqa: E402

import simlab  # noqa: E402

project = "simlab"
author = "The simlab authors"
version = release = simlab.__version__
root_doc = "index"
html_title = "simlab"

extensions = [
    "sphinx.ext.autodoc",
    "sphinx.ext.napoleon",
    "sphinx.ext.viewcode",
    "myst_nb",
    "sphinx_codeautolink",
    "book_extension",
]
html_theme = "sphinx_book_theme"
html_theme_options = {
    "show_toc_level": 2,
    "max_navbar_depth": 3,
    "use_fullscreen_button": False,
    "footer_content_items": [],
}
html_static_path = ["book.css"]
html_css_files = ["book.css"]
html_show_copyright = False

# Notebooks are executed before; of an output that can be played with, the image is shown.
nb_execution_mode = "off"
nb_merge_streams = True
myst_enable_extensions = ["dollarmath"]
myst_heading_anchors = 4

# The code of lessons and documents links to the reference.
codeautolink_concat_default = True
codeautolink_inventory_map = api_pages.aliases()

autodoc_member_order = "bysource"
autodoc_typehints = "description"
autodoc_typehints_description_target = "documented"
autodoc_preserve_defaults = True
autodoc_inherit_docstrings = False
napoleon_numpy_docstring = False
napoleon_use_ivar = True
python_maximum_signature_line_length = 80
default_role = "py:obj"  # `names` in docstrings: links where there is such a thing
highlight_language = "text"

# References must lead somewhere, but for other libraries' (their pages need a network) and for
# what stands between backticks and is a value or an argument.
nitpicky = True
nitpick_ignore_regex = [
    (r"py:.*", r"(torch|numpy|np|pandas|pd|matplotlib|collections|typing|pathlib|PIL)(\..*)?"),
    (r"py:obj", r".*"),
    (
        r"py:class",
        r"simlab\._checks\..*",
    ),  # bounds of fields, said in words
    (r"py:class", r"simlab\..*\.(Config|Task|Processes|PositionsPool)"),  # not in the reference
    (r"py:class", r"(?!simlab\.).*"),  # the first words of a "Returns:" that has no type
]
# The glossary's anchors are HTML, which MyST does not read; a test follows every link of the pages.
suppress_warnings = ["myst.xref_missing"]
