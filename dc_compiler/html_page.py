"""Self-contained HTML pages: no scripts, nothing from elsewhere, and every text escaped."""

from __future__ import annotations

import html
from collections.abc import Iterable, Sequence

from dc_compiler.printable import printable

STYLE = (
    "body{font:14px sans-serif;margin:2em}td,th{padding:.2em .8em;text-align:right}.whole{white-space:nowrap}"
    "td:first-child,th:first-child{text-align:left;overflow-wrap:anywhere}"
)


def escape(text: str) -> str:
    """The text as HTML that shows it."""
    return html.escape(printable(text))


def table(titles: Sequence[str], lines: Iterable[Sequence[str]], total: Sequence[str] | None = None) -> str:
    """A table of texts; ``total`` is a last line in bold. Figures stay whole: browsers break 1e-05 at the hyphen."""

    def cell(text: str, tag: str) -> str:
        attribute = " class=whole" if text[:1].isdigit() and " " not in text else ""
        return f"<{tag}{attribute}>{escape(text)}</{tag}>"

    def row(texts: Sequence[str], tag: str) -> str:
        return "<tr>" + "".join(cell(t, tag) for t in texts) + "</tr>"

    body = [row(titles, "th"), *(row(line, "td") for line in lines)]
    return f"<table>{''.join(body)}{row(total, 'th') if total is not None else ''}</table>"


def page(title: str, facts: Iterable[str], parts: Iterable[str]) -> str:
    """A whole page: a list of sentences, then parts that are HTML."""
    items = "".join(f"<li>{escape(f)}</li>" for f in facts)
    head = f"<!doctype html><meta charset=utf-8><title>{escape(title)}</title><style>{STYLE}</style>"
    return f"{head}<h1>{escape(title)}</h1><ul>{items}</ul>{''.join(parts)}\n"
