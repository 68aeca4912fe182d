from foldfit import __version__

project = "foldfit"
author = "the foldfit authors"
release = version = __version__
extensions = ["myst_parser", "sphinx.ext.autodoc"]
myst_enable_extensions = ["dollarmath"]
myst_heading_anchors = 3
autodoc_member_order = "bysource"
autodoc_typehints = "signature"
html_theme = "furo"
html_title = f"foldfit {version}"
exclude_patterns = ["_build"]
