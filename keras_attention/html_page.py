"""The parts of which self-contained pages are made: style, cards, tables, pictures."""

import base64
import html
import io
import re
from collections.abc import Iterable, Sequence

from matplotlib.axes import Axes
from matplotlib.figure import Figure

INK, BLUE, ORANGE = "#1c2733", "#2563a8", "#d9730d"

_STYLE = """
body { font: 16px/1.55 system-ui, sans-serif; color: #1c2733; background: #f4f6f8;
       margin: 0; }
main { max-width: 860px; margin: 0 auto; padding: 2.5rem 1.25rem 4rem; }
h1 { font-size: 1.7rem; line-height: 1.25; margin: 0 0 .4rem; }
h2 { font-size: 1.15rem; margin: 0 0 .6rem; }
section { background: #fff; border: 1px solid #dfe5ea; border-radius: 10px;
          padding: 1.2rem 1.4rem; margin-top: 1.2rem; overflow-x: auto; }
p { margin: .4rem 0; }
.small { color: #5a6874; font-size: .88rem; }
.cards { display: grid; grid-template-columns: repeat(auto-fit, minmax(170px, 1fr));
         gap: .8rem; margin-top: 1.2rem; }
.card { background: #fff; border: 1px solid #dfe5ea; border-radius: 10px;
        padding: .8rem 1rem; }
.card b { display: block; font-size: 1.5rem; color: #2563a8; }
table { border-collapse: collapse; width: 100%; font-variant-numeric: tabular-nums; }
th, td { text-align: right; padding: .4rem .5rem; border-bottom: 1px solid #e8edf1; }
th:first-child, td:first-child { text-align: left; }
th { color: #5a6874; font-weight: 600; font-size: .88rem; }
tr:last-child td { border-bottom: 0; }
table.result tr:last-child td { font-weight: 600; }
table.settings td { text-align: left; vertical-align: top; overflow-wrap: anywhere; }
img, svg { max-width: 100%; height: auto; display: block; margin: .6rem auto 0; }
code { background: #eef2f5; border-radius: 4px; padding: .05rem .3rem; }
"""


def page(title: str, body: str) -> str:
    """The whole page.

    Args:
        title: Plain text, the page's heading.
        body: HTML below the heading.

    Returns:
        HTML that needs no other file.
    """
    title = html.escape(title)
    return f"""<!doctype html>
<html lang="en">
<head>
<meta charset="utf-8">
<meta name="viewport" content="width=device-width, initial-scale=1">
<title>{title}</title>
<style>{_STYLE}</style>
</head>
<body>
<main>
<h1>{title}</h1>
{body}
</main>
</body>
</html>
"""


def section(title: str, *parts: str) -> str:
    """A framed part of the page.

    Args:
        title: Plain text.
        *parts: HTML.
    """
    inside = "\n".join(parts)
    return f"<section>\n<h2>{html.escape(title)}</h2>\n{inside}\n</section>"


def cards(pairs: Iterable[tuple[str, str]]) -> str:
    """The most important figures, large.

    Args:
        pairs: (figure, what it is), plain text.
    """
    inside = "".join(
        f'<div class="card"><b>{html.escape(value)}</b>{html.escape(text)}</div>'
        for value, text in pairs
    )
    return f'<div class="cards">{inside}</div>'


def small(text: str) -> str:
    """A remark in small letters, plain text."""
    return f'<p class="small">{html.escape(text)}</p>'


def table(head: Sequence[str], rows: Iterable[Sequence[str]], *, kind: str = "") -> str:
    """A table.

    Args:
        head: Titles of the columns, plain text; none: there is no such row.
        rows: Cells likewise.
        kind: "result" shows the last row bold, "settings" sets all columns left.
    """
    titles = _row("th", head) if head else ""
    inside = "".join(_row("td", row) for row in rows)
    return f'<table class="{kind}">{titles}{inside}</table>'


def _row(tag: str, texts: Sequence[str]) -> str:
    cells = "".join(f"<{tag}>{html.escape(text)}</{tag}>" for text in texts)
    return f"<tr>{cells}</tr>"


def image(figure: Figure, text: str) -> str:
    """A figure as pixels, inside of the page.

    Args:
        figure: What to show.
        text: For those who don't see it.
    """
    data = base64.b64encode(png(figure)).decode()
    return f'<img alt="{html.escape(text)}" src="data:image/png;base64,{data}">'


def drawing(figure: Figure, text: str) -> str:
    """A figure as lines (SVG), inside of the page; its letters are lines, too.

    Args:
        figure: What to show.
        text: For those who don't see it.
    """
    buffer = io.StringIO()
    nothing = dict.fromkeys(("Creator", "Date", "Format", "Type"))
    figure.savefig(buffer, format="svg", metadata=nothing)
    # Without the XML prologue it is a part of HTML.
    svg = buffer.getvalue()
    svg = svg[svg.index("<svg") :].strip()
    return re.sub("^<svg", f'<svg role="img" aria-label="{html.escape(text)}"', svg)


def tidy(axes: Axes) -> None:
    """Give a plot the pages' look: small dark numbers, no frame."""
    axes.tick_params(labelsize=8, colors=INK)
    axes.spines[["top", "right"]].set_visible(False)


def png(figure: Figure) -> bytes:
    """The bytes of a figure as a .png file."""
    buffer = io.BytesIO()
    figure.savefig(buffer, format="png", dpi=160)
    return buffer.getvalue()
