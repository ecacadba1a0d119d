"""One self-contained HTML page: sections, tables and inlined figures, readable on a phone and in the dark."""

from __future__ import annotations

from collections.abc import Sequence
from html import escape

from matplotlib.figure import Figure

from qtx.pages.style import css_colors, svg

_CSS = """
*{box-sizing:border-box}
:root{color-scheme:light dark;--page:#fff;--card:#f6f8fa;--text:#1f2328;--muted:#59636e;--line:#d1d9e0;--accent:#0072b2}
@media (prefers-color-scheme:dark){:root{--page:#0d1117;--card:#161b22;--text:#e6edf3;--muted:#9198a1;--line:#30363d;
--accent:#58a6ff}}
html{-webkit-text-size-adjust:100%}
body{margin:0;background:var(--page);color:var(--text);font:16px/1.55 system-ui,-apple-system,"Segoe UI",sans-serif}
main{max-width:1120px;margin:0 auto;padding:2rem 1rem 4rem}
h1{font-size:1.9rem;line-height:1.2;margin:0 0 .4rem}
h2{font-size:1.3rem;margin:2.6rem 0 .6rem;padding-top:.9rem;border-top:1px solid var(--line)}
h3{font-size:1rem;margin:1.4rem 0 .4rem}
p{margin:.5rem 0;max-width:46rem}
.lead{color:var(--muted);font-size:1.05rem;max-width:52rem}
ul{max-width:46rem;padding-left:1.2rem}
.scroll{overflow-x:auto;margin:.2rem 0 .8rem}
table{border-collapse:collapse;font-variant-numeric:tabular-nums;font-size:.86rem}
.caption{color:var(--muted);font-size:.88rem;margin:1.2rem 0 0;max-width:60rem}
th,td{padding:.4rem .6rem;text-align:right;white-space:nowrap;border-bottom:1px solid var(--line)}
th:first-child,td:first-child{text-align:left;position:sticky;left:0;background:var(--page);padding-left:0}
thead th{border-bottom:2px solid var(--muted);font-weight:600;vertical-align:bottom}
tbody th{font-weight:600}
.figures{display:grid;grid-template-columns:repeat(auto-fit,minmax(min(100%,27rem),1fr));gap:1.1rem;margin:1rem 0;
align-items:start}
figure{margin:0;padding:.9rem;background:var(--card);border:1px solid var(--line);border-radius:10px;
display:flex;flex-direction:column}
figure svg{width:100%;height:auto;max-width:36rem;margin:0 auto;display:block}
figcaption{color:var(--muted);font-size:.88rem;line-height:1.45;margin-top:.6rem}
figure .caption{margin-top:0}
figure th:first-child{background:var(--card)}
figcaption b{color:var(--text)}
.note{background:var(--card);border:1px solid var(--line);border-left:4px solid var(--accent);border-radius:6px;
padding:.7rem 1rem;margin:1rem 0;max-width:52rem}
details{margin:1rem 0}
summary{cursor:pointer;font-weight:600}
dl{display:grid;grid-template-columns:minmax(9rem,max-content) 1fr;gap:.15rem 1rem;font-size:.88rem;margin:.6rem 0}
dt{color:var(--muted)}
dd{margin:0;overflow-wrap:anywhere}
footer{color:var(--muted);font-size:.85rem;margin-top:3rem;border-top:1px solid var(--line);padding-top:1rem}
@media (max-width:34rem){main{padding:1.2rem .8rem 3rem}h1{font-size:1.5rem}figure{padding:.6rem}
dl{grid-template-columns:1fr}dt{margin-top:.3rem}}
@media print{figure{break-inside:avoid}}
"""


def page(title: str, body: Sequence[str]) -> str:
    """Returns the whole document; `body` are pieces of HTML made with the other functions."""
    return (
        '<!doctype html>\n<html lang="en">\n<head>\n<meta charset="utf-8">\n'
        '<meta name="viewport" content="width=device-width, initial-scale=1">\n'
        f"<title>{escape(title)}</title>\n<style>{_CSS}{css_colors()}</style>\n</head>\n<body>\n<main>\n"
        + "\n".join(body)
        + "\n</main>\n</body>\n</html>\n"
    )


def paragraph(text: str, kind: str = "") -> str:
    """Returns a paragraph of plain text; `kind` is a class of the style sheet, such as "lead" or "note"."""
    return f'<p class="{kind}">{escape(text)}</p>' if kind else f"<p>{escape(text)}</p>"


def heading(text: str, level: int = 2) -> str:
    """Returns a heading of text, escaped."""
    return f"<h{level}>{escape(text)}</h{level}>"


def bullets(items: Sequence[str]) -> str:
    """Returns a list of texts, escaped."""
    return f"<ul>{''.join(f'<li>{escape(item)}</li>' for item in items)}</ul>"


def table(header: Sequence[str], rows: Sequence[Sequence[str]], caption: str) -> str:
    """Returns a table whose first column names the row; the table scrolls sideways on a narrow screen."""
    head = "".join(f'<th scope="col">{escape(cell)}</th>' for cell in header)
    body = "".join(
        f'<tr><th scope="row">{escape(first)}</th>{"".join(f"<td>{escape(cell)}</td>" for cell in rest)}</tr>'
        for first, *rest in rows
    )
    label = escape(caption)
    return (
        f'<p class="caption">{label}</p><div class="scroll"><table aria-label="{label}">'
        f"<thead><tr>{head}</tr></thead><tbody>{body}</tbody></table></div>"
    )


def figure(drawn: Figure, name: str, title: str, caption: str) -> str:
    """Returns a drawn figure with its title and one sentence that says how to read it; `name` is unique in the page."""
    label = escape(f"{title}. {caption}", quote=True)
    drawing = svg(drawn, name).replace("<svg ", f'<svg role="img" aria-label="{label}" ', 1)
    return f"<figure>{drawing}<figcaption><b>{escape(title)}.</b> {escape(caption)}</figcaption></figure>"


def figures(items: Sequence[str]) -> str:
    """Arranges figures side by side where there is room."""
    return f'<div class="figures">{"".join(items)}</div>'


def card(content: str) -> str:
    """Returns a card for something other than a figure, to stand beside figures."""
    return f"<figure>{content}</figure>"


def footer(text: str) -> str:
    """Returns a page's last line of text, escaped."""
    return f"<footer>{escape(text)}</footer>"


def definitions(summary: str, values: Sequence[tuple[str, str]]) -> str:
    """Returns a folded list of names and values."""
    rows = "".join(f"<dt>{escape(name)}</dt><dd>{escape(value)}</dd>" for name, value in values)
    return f"<details><summary>{escape(summary)}</summary><dl>{rows}</dl></details>"
