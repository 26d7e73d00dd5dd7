"""The documentation's settings; `make docs` builds it, with every warning an error, and asks no other machine."""

import ast
import sys
from pathlib import Path

HERE = Path(__file__).parent
sys.path.insert(0, str(HERE.parent))  # docs._extensions, and segcal where it is not installed


def _version() -> str:
    """`__version__` of segcal/__init__.py, read and not imported."""
    for statement in ast.parse((HERE.parent / "segcal" / "__init__.py").read_text()).body:
        if isinstance(statement, ast.Assign) and ast.unparse(statement.targets[0]) == "__version__":
            return str(ast.literal_eval(statement.value))
    raise ValueError("segcal/__init__.py must set __version__")


project = "segcal"
author = "the segcal authors"
project_copyright = "the segcal authors. Apache-2.0"
version = release = _version()

extensions = ["myst_parser", "sphinx_copybutton", "docs._extensions.generated", "docs._extensions.shell_blocks"]
source_suffix = {".md": "markdown"}
exclude_patterns = ["_extensions/**", "_static/**", "figures/**", "**/README.md"]
pygments_style, pygments_dark_style = "friendly", "github-dark"

myst_enable_extensions = ["colon_fence", "deflist", "attrs_block"]
myst_heading_anchors = 4  # as a git host names them
suppress_warnings = ["misc.highlighting_failure"]  # "…" in JSON stands for what was left out

# Every segcal name in a signature or a docstring leads to its entry. Other packages' names are no links: looking them
# up would need the network.
nitpicky = True
nitpick_ignore_regex = [(r"py:.*", r"(?!segcal\.).*")]
python_use_unqualified_type_names = True
python_display_short_literal_types = True
python_maximum_signature_line_length = 80
toc_object_entries = False
add_module_names = False
smartquotes = False  # `--json` is no dash

FONT = "system-ui, 'Segoe UI', Helvetica, Arial, sans-serif"  # the explorer's
html_theme = "furo"
html_title = f"segcal {version}"
html_logo = "../dashboards/assets/icon.svg"
html_favicon = "../dashboards/assets/icon.svg"
html_static_path = ["_static"]
html_css_files = ["segcal.css"]
html_copy_source = False
html_theme_options = {
    "navigation_with_keys": True,
    "light_css_variables": {
        "color-brand-primary": "#0072b2", "color-brand-content": "#0072b2", "color-brand-visited": "#0072b2",
        "color-foreground-primary": "#1d2733", "color-foreground-secondary": "#566472",
        "color-background-secondary": "#f6f8fa", "color-background-border": "#dfe5ea",
        "color-code-background": "#f6f8fa",
        "color-api-name": "#1d2733", "color-api-pre-name": "#566472", "color-api-background": "#f6f8fa",
        "font-stack": FONT,
    },
    "dark_css_variables": {
        "color-brand-primary": "#5cb8ec", "color-brand-content": "#5cb8ec", "color-brand-visited": "#5cb8ec",
        "color-foreground-primary": "#e4e9ee", "color-foreground-secondary": "#a3b0bc",
        "color-background-primary": "#12181f", "color-background-secondary": "#1a222b",
        "color-background-border": "#2c3742", "color-code-background": "#1a222b",
        "color-api-name": "#e4e9ee", "color-api-pre-name": "#a3b0bc", "color-api-background": "#1a222b",
    },
}  # fmt: skip
copybutton_prompt_text = r">>> |\.\.\. |\$ "
copybutton_prompt_is_regexp = True

linkcheck_ignore = [
    r"https?://[^/]*\bexample\.(org|com)\b.*",  # names that stand for a reader's own
    r"https?://(localhost|127\.0\.0\.\d+|0\.0\.0\.0)\b.*",
]
linkcheck_timeout, linkcheck_retries, linkcheck_workers = 20, 2, 4
linkcheck_anchors_ignore_for_url = [r"https://github\.com/.*"]  # drawn by scripts
