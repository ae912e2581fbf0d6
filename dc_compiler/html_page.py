"""Self-contained HTML pages: no scripts, nothing from elsewhere, light and dark, and every text escaped."""

from __future__ import annotations

import html
from collections.abc import Iterable, Sequence

from dc_compiler.printable import printable

# Colours that people with any sight tell apart (Okabe and Ito 2008), of bars and what explains them
KINDS = ("#0072b2", "#e69f00", "#009e73", "#cc79a7", "#8c8c8c")
# What an element is for decides how it looks; charts are drawn black on white, and take the page's colours here
STYLE = """
:root{color-scheme:light dark;--ground:#fff;--text:#1c1e21;--faint:#63686e;--line:#dfe2e6;--panel:#f5f6f8}
@media(prefers-color-scheme:dark){:root{--ground:#16181b;--text:#e6e8ea;--faint:#9aa1a8;--line:#33383e;--panel:#1f2327}}
*{box-sizing:border-box}
body{font:15px/1.5 system-ui,sans-serif;margin:0 auto;padding:1.5em;max-width:70em;background:var(--ground);
color:var(--text)}
h1{font-size:1.5em;line-height:1.25;margin:0 0 .8em;overflow-wrap:anywhere}
h2{font-size:1.15em;margin:2.2em 0 .6em}
h3{font-size:.95em;font-weight:600;margin:0 0 .2em;overflow-wrap:anywhere}
ul{padding-left:1.3em;margin:.5em 0;overflow-wrap:anywhere}
p{margin:.8em 0}
.faint{color:var(--faint)}
.small{font-size:.85em}
.wide,.chart{overflow-x:auto;min-width:0;
background:linear-gradient(90deg,var(--ground) 40%,transparent) left/2em 100% no-repeat local,
linear-gradient(270deg,var(--ground) 40%,transparent) right/2em 100% no-repeat local,
linear-gradient(90deg,var(--line),transparent) left/.8em 100% no-repeat,
linear-gradient(270deg,var(--line),transparent) right/.8em 100% no-repeat}
table{border-collapse:collapse;font-size:.9em;font-variant-numeric:tabular-nums}
td,th{padding:.25em .7em;text-align:right;border-bottom:1px solid var(--line)}
td:first-child,th:first-child{text-align:left;overflow-wrap:anywhere;min-width:9em;padding-left:0}
td:last-child,th:last-child{min-width:5em}
.notes td:last-child,.notes th:last-child{text-align:left;min-width:11em}
.whole{white-space:nowrap}
.tiles,.grid{display:grid;gap:1em;grid-template-columns:repeat(auto-fit,minmax(min(100%,11em),1fr))}
.grid{grid-template-columns:repeat(auto-fill,minmax(min(100%,18em),1fr))}
.tile,.cell{background:var(--panel);border-radius:8px;padding:.8em 1em;min-width:0}
.tile b{display:block;font-size:1.7em;line-height:1.2;overflow-wrap:anywhere}
.bar{display:flex;height:1.1em;border-radius:3px;overflow:hidden;min-width:2px}
.bar i{min-width:0}
.bars{display:grid;grid-template-columns:minmax(6em,16em) 1fr max-content;gap:.3em .8em;align-items:center}
.bars>span{overflow-wrap:anywhere;font-size:.9em;line-height:1.25}
.bars>span:nth-child(3n){text-align:right;white-space:nowrap;font-variant-numeric:tabular-nums}
.key{display:flex;flex-wrap:wrap;gap:.2em 1.2em;margin:0 0 .8em;font-size:.9em}
.key i{display:inline-block;width:.8em;height:.8em;border-radius:2px;margin-right:.4em}
pre{background:var(--panel);border-radius:8px;padding:.8em 1em;overflow-x:auto;font-size:.85em}
.charts{display:grid;gap:1em;grid-template-columns:repeat(auto-fit,minmax(min(100%,30em),1fr))}
svg{display:block;max-width:100%;height:auto}
details{border-top:1px solid var(--line);margin-top:1.5em}
details>div{scroll-margin-top:4em}
summary{cursor:pointer;font-size:1.3em;font-weight:600;padding:.6em 0;overflow-wrap:anywhere}
.charts svg{font-size:14px}
svg text{fill:var(--text)}
svg [stroke="#eee"]{stroke:var(--line)}
svg [fill="#000000"]{fill:var(--text)}
svg [stroke="#000000"]{stroke:var(--text)}
@media(max-width:36em){body{padding:1em}.chart svg{min-width:38rem}.bars{grid-template-columns:1fr max-content}
.bars>span:nth-child(3n+1){grid-column:1/3;margin-top:.5em}}
@media print{body{max-width:none}}
"""


class Markup(str):
    """Text that is HTML already."""


def escape(text: str) -> str:
    """The text as HTML that shows it."""
    return text if isinstance(text, Markup) else html.escape(printable(text))


def link(text: str, target: str) -> Markup:
    """The text, which leads to a place on this page or another one."""
    return Markup(f"<a href='{html.escape(target)}'>{escape(text)}</a>")


def table(
    titles: Sequence[str], lines: Iterable[Sequence[str]], total: Sequence[str] | None = None, *, notes: bool = False
) -> str:
    """A table of texts; ``total`` is a last line in bold; with ``notes`` the last column holds words. Figures stay
    whole: browsers break 1e-05 at the hyphen."""

    def cell(text: str, tag: str) -> str:
        attribute = " class=whole" if text[:1].isdigit() and " " not in text else ""
        return f"<{tag}{attribute}>{escape(text)}</{tag}>"

    def row(texts: Sequence[str], tag: str) -> str:
        return "<tr>" + "".join(cell(t, tag) for t in texts) + "</tr>"

    body = [row(titles, "th"), *(row(line, "td") for line in lines)]
    last = "" if total is None else row(total, "th")
    return f"<div class='wide{' notes' if notes else ''}'><table>{''.join(body)}{last}</table></div>"


def tiles(facts: Iterable[tuple[str, str, str]]) -> str:
    """Figures to be seen first: what each is, the figure, and what to know about it."""
    shown = (
        f"<div class=tile><span class='faint small'>{escape(title)}</span><b>{escape(figure)}</b>"
        f"<span class='faint small'>{escape(more)}</span></div>"
        for title, figure, more in facts
    )
    return f"<div class=tiles>{''.join(shown)}</div>"


def bars(kinds: Sequence[str], lines: Sequence[tuple[str, Sequence[int], str]]) -> str:
    """Stacked horizontal bars. A line is a name, how much there is of each kind, and a text at the end; the longest
    fills the width. :func:`key` tells the kinds by their colours."""
    longest = max((sum(amounts) for _, amounts, _ in lines), default=0) or 1

    def bar(amounts: Sequence[int]) -> str:
        whole = sum(amounts) or 1
        parts = "".join(
            f"<i style='width:{100 * n / whole:.2f}%;background:{KINDS[i]}' title='{escape(f'{kinds[i]}: {n:,}')}'></i>"
            for i, n in enumerate(amounts)
            if n
        )
        return f"<div class=bar style='width:{100 * sum(amounts) / longest:.2f}%'>{parts}</div>"

    rows = "".join(f"<span>{escape(n)}</span>{bar(a)}<span>{escape(end)}</span>" for n, a, end in lines)
    return f"<div class=bars>{rows}</div>"


def key(kinds: Sequence[str], colours: Sequence[str] = KINDS) -> str:
    """What colours stand for: by default those of bars."""
    entries = (f"<span><i style='background:{colours[i]}'></i>{escape(k)}</span>" for i, k in enumerate(kinds))
    return f"<div class=key>{''.join(entries)}</div>" if kinds else ""


def section(title: str, *parts: str) -> str:
    """A heading and what belongs to it."""
    return f"<h2>{escape(title)}</h2>{''.join(parts)}"


def folded(title: str, anchor: str, *parts: str) -> str:
    """What belongs to a heading, shown when that is clicked, or when a link leads to the anchor."""
    inside = f"<div id='{html.escape(anchor)}'>{''.join(parts)}</div>"
    return f"<details><summary>{escape(title)}</summary>{inside}</details>"


def paragraph(text: str) -> str:
    """A sentence that explains."""
    return f"<p class=faint>{escape(text)}</p>"


def sentences(texts: Iterable[str]) -> str:
    """A list of them."""
    items = "".join(f"<li>{escape(t)}</li>" for t in texts)
    return f"<ul>{items}</ul>" if items else ""


def verbatim(text: str) -> str:
    """Lines to copy."""
    return f"<pre>{chr(10).join(map(escape, text.split(chr(10))))}</pre>"


def page(title: str, facts: Iterable[str], parts: Iterable[str]) -> str:
    """A whole page: a list of sentences, then parts that are HTML."""
    head = (
        "<!doctype html><html lang=en><meta charset=utf-8><meta name=viewport content='width=device-width'>"
        f"<title>{escape(title)}</title><style>{STYLE}</style>"
    )
    return f"{head}<h1>{escape(title)}</h1>{sentences(facts)}{''.join(parts)}\n"
