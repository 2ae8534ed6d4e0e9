"""Pages for people as single HTML files that need nothing from anywhere.

In: text, rows of cells, pictures. Out: HTML. There is no script, and the page's policy lets a browser fetch
nothing. Every text is escaped. A figure that there is none of is shown as "none".
"""

from __future__ import annotations

import base64
from collections.abc import Iterable, Sequence
from html import escape

STYLE = (
    "body{font:15px/1.5 sans-serif;max-width:62rem;margin:2rem auto;padding:0 1rem;color:#222}"
    "table{border-collapse:collapse;margin:.6rem 0 1.2rem}"
    "th,td{border-bottom:1px solid #ddd;padding:.2rem .8rem .2rem 0;text-align:left;vertical-align:top}"
    "td.n{text-align:right;font-variant-numeric:tabular-nums}"
    "figure{display:inline-block;margin:0 1rem 1rem 0}img{max-width:100%}figcaption{color:#555}"
    ".fail{color:#a00}.pass{color:#070}.inconclusive{color:#850}"
)
FETCH_NOTHING = "default-src 'none'; img-src data:; style-src 'unsafe-inline'"
NONE = "none"
Cell = str | float | int | None


def number(value: float | None, digits: int = 4) -> str:
    """A figure for people."""
    return NONE if value is None else f"{value:,.{digits}f}"


def table(head: Sequence[str], rows: Iterable[Sequence[Cell]]) -> str:
    """Rows of cells; numbers stand on the right."""
    body = "".join(f"<tr>{''.join(map(_cell, row))}</tr>" for row in rows)
    if not body:
        return "<p>None.</p>"
    return f"<table><tr>{''.join(f'<th>{escape(name)}</th>' for name in head)}</tr>{body}</table>"


def _cell(value: Cell) -> str:
    if value is None or isinstance(value, str):
        return f"<td>{escape(NONE if value is None else value)}</td>"
    text = number(value) if isinstance(value, float) else f"{value:,}"
    return f'<td class="n">{text}</td>'


def figure(title: str, png: bytes) -> str:
    """A picture inside the page."""
    content, text = base64.b64encode(png).decode(), escape(title)
    return (
        f'<figure><img alt="{text}" src="data:image/png;base64,{content}">'
        f"<figcaption>{text}</figcaption></figure>"
    )


def page(
    title: str, parts: Iterable[str], *, style: str = STYLE, heading: bool = True, reload_seconds: int = 0
) -> str:
    """The whole page; `parts` is HTML. With `reload_seconds` a browser loads it again and again."""
    reload = f'<meta http-equiv="refresh" content="{reload_seconds}">' if reload_seconds else ""
    above = f"<h1>{escape(title)}</h1>" if heading else ""
    return (
        '<!doctype html><html lang="en"><head><meta charset="utf-8">'
        f'<meta http-equiv="Content-Security-Policy" content="{escape(FETCH_NOTHING)}">'
        f"{reload}<title>{escape(title)}</title><style>{style}</style></head>"
        f"<body>{above}{''.join(parts)}</body></html>\n"
    )
