"""How a run is shown: as a table in a notebook."""

import html
from typing import Any


def html_table(caption: str, rows: dict[str, Any]) -> str:
    """Return a table of names and values."""
    cells = [_html_row(name, value) for name, value in rows.items()]
    return f"<table><caption>{html.escape(caption)}</caption>{''.join(cells)}</table>"


def _html_row(name: str, value: object) -> str:
    text = f"{value:.4g}" if isinstance(value, float) else str(value)
    return f"<tr><th>{html.escape(name)}</th><td>{html.escape(text)}</td></tr>"
