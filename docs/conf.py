"""Sphinx builds the documentation from this file: ``make docs``; a warning is an error."""

import logging
import os
import sys
from pathlib import Path

ROOT = Path(__file__).parents[1]
sys.path.insert(0, str(ROOT))
sys.path.insert(0, str(ROOT / "examples"))
os.environ.setdefault("PL_ONECYCLE_LIGHTNING", "lightning")

project = "pl_onecycle"
author = "The pl_onecycle authors"
copyright = f"2026, {author}"

extensions = [
    "sphinx.ext.autodoc",
    "sphinx.ext.napoleon",
    "sphinx.ext.intersphinx",
    "myst_nb",
    "sphinx_copybutton",
]
exclude_patterns = ["_build", "**/.ipynb_checkpoints"]

# ---------------------------------------------------------------------------------------------- look
html_theme = "furo"
html_title = "pl_onecycle"
html_static_path = ["_static"]
html_css_files = ["docs.css"]
pygments_style = "default"  # red and green lines in a diff
html_show_sphinx = False
copybutton_prompt_text = r">>> |\.\.\. |\$ "
copybutton_prompt_is_regexp = True

# ---------------------------------------------------------------------------------------- docstrings
default_role = "py:obj"  # `LRRangeTest` in a docstring is a link
autodoc_member_order = "bysource"
autodoc_typehints = "description"
autodoc_typehints_description_target = "documented"
napoleon_google_docstring = True
napoleon_numpy_docstring = False
napoleon_use_ivar = True

# --------------------------------------------------------------------------------------------- pages
myst_enable_extensions = ["attrs_inline", "colon_fence", "deflist"]
myst_heading_anchors = 3
nb_execution_mode = "off"  # tests run what the pages show

# --------------------------------------------------------------------------------------------- links
intersphinx_mapping = {
    "python": ("https://docs.python.org/3", None),
    "torch": ("https://docs.pytorch.org/docs/stable", None),
    "lightning": ("https://lightning.ai/docs/pytorch/stable", None),
}
intersphinx_timeout = 5


class _OfflineIsNoError(logging.Filter):
    """Without a network, links to other projects are plain text; that is no reason to fail."""

    def filter(self, record: logging.LogRecord) -> bool:
        if str(record.msg).startswith("failed to reach any of the inventories"):
            record.levelno, record.levelname = logging.INFO, "INFO"
        return True


logging.getLogger("sphinx.sphinx.ext.intersphinx").addFilter(_OfflineIsNoError())
