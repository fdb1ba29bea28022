"""One offline HTML page of a run: summary first, then the executed notebooks.

Nothing is loaded from anywhere: styles and figures are in the page, there are no scripts. What comes from
data, labels or notebooks is escaped; the only markup taken as it is are our own tables and figures.
"""

from __future__ import annotations

import html
import json
import re
from collections.abc import Iterator
from pathlib import Path
from typing import Any, Final

import jinja2
from markupsafe import Markup
from pygments import highlight
from pygments.formatters import HtmlFormatter
from pygments.lexers import PythonLexer

from experiments.panel import NUMBERS, Panel
from experiments.plots import COLOURS, GRID, INK, ON_DARK
from ledger.pictures import LEFT

_TEMPLATES: Final = Path(__file__).parent / "templates"
_OUR_TABLE: Final = '<div class="table"><table>'
_ALLOWED: Final = re.compile(
    r"</?(?:div|table|caption|thead|tbody|tr|th|td)(?: (?:class|scope)=\"[a-z]+\")*>"
    r'|<span style="color:#[0-9a-f]{6}">|</span>'
    r'|<svg class="spark" width="\d+" height="\d+" viewBox="[\d ]+" role="img" aria-label="[^"<>]*">|</svg>'
    r'|<path fill="currentColor" d="[MhVvz\d. -]*"/>'
)
_SVG_REFUSED: Final = re.compile(
    r"<script|<foreignObject|<iframe|<image|\son\w+\s*=|(?:href|src)\s*=\s*[\"'](?!#)|@import|url\((?!['\"]?#)",
    re.IGNORECASE,
)


def render(context: dict[str, Any]) -> str:
    """Return the page of a run."""
    environment = jinja2.Environment(
        loader=jinja2.FileSystemLoader(_TEMPLATES), autoescape=True, undefined=jinja2.StrictUndefined,
        trim_blocks=True, lstrip_blocks=True,
    )  # fmt: skip
    styles = Markup(HtmlFormatter(style="default").get_style_defs(".code"))
    curves = Markup("".join(f" --curve{i}: {colour};" for i, colour in enumerate(COLOURS)))
    dark = Markup("".join(f" --curve{i}: {colour};" for i, colour in enumerate(ON_DARK)))
    return environment.get_template("report.html").render(code_styles=styles, curves=curves, dark=dark, **context)


def figure(panel: Panel) -> Markup:
    """Return a figure as inline SVG with its alternative text, in the colours of the reader's page, and its numbers."""
    return _figure(panel.svg, panel.alt, panel.numbers)


def table(markup: str) -> Markup:
    """Return one of our own tables, aligned by the page's style; anything that is not is escaped."""
    markup = markup.replace(LEFT, "")
    if markup.startswith(_OUR_TABLE) and "<" not in _ALLOWED.sub("", markup):
        return Markup(markup)
    return Markup(f"<pre>{html.escape(markup)}</pre>")


def notebook_cells(path: Path) -> Iterator[dict[str, Any]]:
    """Yield the cells of an executed notebook as the template takes them: kind and markup."""
    for cell in json.loads(path.read_text(encoding="utf-8"))["cells"]:
        source = _text(cell["source"])
        if cell["cell_type"] == "markdown":
            yield {"kind": "text", "body": markdown(source)}
        elif cell["cell_type"] == "code":
            code = Markup(highlight(source, PythonLexer(), HtmlFormatter(nowrap=True)))
            yield {"kind": "code", "source": code, "outputs": [_output(item) for item in cell["outputs"]]}


def notebook_figures(path: Path) -> Iterator[str]:
    """Yield the figures of an executed notebook as SVG."""
    for cell in json.loads(path.read_text(encoding="utf-8"))["cells"]:
        for output in cell.get("outputs", []):
            if "image/svg+xml" in output.get("data", {}):
                yield _text(output["data"]["image/svg+xml"])


def _output(output: dict[str, Any]) -> Markup:
    """Return one output of a cell: figure, table, text or error."""
    if output["output_type"] == "stream":
        return _pre(_text(output["text"]))
    if output["output_type"] == "error":
        trace = _plain("\n".join(output["traceback"]))
        return Markup(f'<pre class="error">{html.escape(trace)}</pre>')
    data = output.get("data", {})
    text = _text(data.get("text/plain", ""))
    if "image/svg+xml" in data:
        return _figure(_text(data["image/svg+xml"]), text, data.get(NUMBERS))
    if "image/png" in data:
        source = re.sub(r"[^A-Za-z0-9+/=]", "", _text(data["image/png"]))
        return Markup(f'<figure><img alt="{html.escape(text)}" src="data:image/png;base64,{source}"></figure>')
    if "text/html" in data and _text(data["text/html"]).startswith(_OUR_TABLE):
        return table(_text(data["text/html"]))
    if "text/markdown" in data:
        return Markup(f'<div class="words">{markdown(_text(data["text/markdown"]))}</div>')
    return _pre(text)


def _figure(svg: str, alt: str, numbers: dict[str, str] | None) -> Markup:
    """Return a figure: the SVG inline, below it what it draws in numbers, and the stored rows behind them."""
    drawn = _svg(svg, alt)
    below = ""
    if numbers:
        where = 'From <a href="rows.parquet">rows.parquet</a>, beside this page:'
        query = f"<p>{where} <code>{html.escape(_text(numbers['query']))}</code></p>"
        words = html.escape(alt)
        table_ = table(_text(numbers["table"]))
        below = f'<details class="numbers"><summary>numbers</summary><p>{words}</p>{table_}{query}</details>'
    return Markup(f"<figure>{drawn}{below}</figure>")


def _svg(svg: str, alt: str) -> Markup:
    """Return an SVG inline, its fixed colours swapped for the page's; one that loads or runs things is refused."""
    svg = svg[svg.find("<svg") :]
    if not svg.startswith("<svg") or _SVG_REFUSED.search(svg):
        return _pre(alt)
    svg = re.sub(r"<metadata>.*?</metadata>|<!--.*?-->|<\?.*?\?>", "", svg, flags=re.DOTALL)
    svg, cut = _without_caption(svg)
    svg = re.sub(
        r' xmlns(?::xlink)?="[^"]*"|(?<=<svg) style="[^"]*"|(?<=<g) id="[^"]*"|font-family: [^;"]*;? ?', "", svg
    )
    svg = svg.replace("xlink:href", "href").replace(INK, "currentColor").replace(GRID, "var(--grid)")
    for number, colour in enumerate(COLOURS):
        svg = svg.replace(colour, f"var(--curve{number})")
    size = re.search(r'<svg[^>]*?\swidth="([\d.]+)pt"', svg)
    head = re.sub(r'\s(?:width|height)="[\d.]+pt"', "", svg[: svg.index(">")])
    head = re.sub(r'(viewBox="0 0 [\d.]+ )([\d.]+)"', lambda box: f'{box[1]}{float(box[2]) - cut:.1f}"', head)
    width = f' style="max-width:{float(size[1]) * 96 / 72:.0f}px"' if size else ""
    head = f'{head} role="img" aria-label="{html.escape(alt)}"{width}'
    return Markup(f"{head}{svg[svg.index('>') :]}")


def _without_caption(svg: str) -> tuple[str, float]:
    """Return a figure without the caption that says machine and run, as the page does so, and the height to cut off."""
    found = re.search(r'<g id="caption-(\d+)">.*?</g>', svg, flags=re.DOTALL)
    return (svg, 0.0) if found is None else (svg[: found.start()] + svg[found.end() :], float(found[1]))


def markdown(source: str) -> Markup:
    """Return Markdown as HTML; markup inside it is shown, not taken, and pictures from elsewhere are not loaded."""
    import mistune

    text = mistune.create_markdown(escape=True, plugins=["table"])(source)
    return Markup(re.sub(r"<img[^>]*>", "", str(text)))


def _pre(text: str) -> Markup:
    """Return preformatted text."""
    text = _plain(text)
    return Markup(f"<pre>{html.escape(text)}</pre>" if text.strip() else "")


def _plain(text: str) -> str:
    """Return text without terminal colours."""
    return re.sub(r"\x1b\[[0-9;]*[A-Za-z]", "", text)


def _text(value: Any) -> str:
    """Return what a notebook holds as text or as a list of lines."""
    return "".join(value) if isinstance(value, list) else str(value)
