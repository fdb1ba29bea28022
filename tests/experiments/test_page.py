"""The page loads nothing, runs nothing, and escapes what it shows."""

from __future__ import annotations

import html.parser
import json
import re

import pytest

from experiments import page, tables

EVIL = "<script>alert(1)</script> & é"


class Loads(html.parser.HTMLParser):
    """Collects what a page would load or run."""

    def __init__(self, text):
        super().__init__()
        self.found = []
        self.feed(text)

    def handle_starttag(self, tag, attrs):
        if tag in ("script", "link", "iframe", "object", "embed", "base", "form"):
            self.found.append(tag)
        for name, value in attrs:
            if name in ("src", "href", "xlink:href", "srcset", "action", "data") and not (value or "").startswith(
                ("#", "data:image/png")
            ):
                self.found.append(f"{tag} {name}={value}")
            if name.startswith("on"):
                self.found.append(name)


def assert_offline(text):
    assert [] == Loads(text).found
    assert not re.search(r"@import|url\(\s*['\"]?(?!#)|https?://(?!www\.w3\.org/)", text)
    assert '<meta charset="utf-8">' in text


def notebook(path, *outputs, source="x = 1"):
    cells = [
        {"cell_type": "markdown", "source": f"# {EVIL}\n![x](http://example.org/x.png)\n[y](javascript:alert(1))"},
        {"cell_type": "code", "source": source, "outputs": list(outputs)},
    ]
    path.write_text(json.dumps({"cells": cells}))
    return "".join(
        str(part)
        for cell in page.notebook_cells(path)
        for part in [cell.get("body", ""), cell.get("source", ""), *cell.get("outputs", [])]
    )


def shown(data):
    return {"output_type": "display_data", "data": data}


@pytest.mark.parametrize(
    "output",
    [
        {"output_type": "stream", "text": EVIL},
        {"output_type": "error", "traceback": ["\x1b[31m" + EVIL]},
        shown({"text/html": EVIL, "text/plain": EVIL}),
        shown({"text/html": page._OUR_TABLE + "<img src=x onerror=alert(1)></table></div>", "text/plain": "t"}),
        shown({"text/markdown": EVIL}),
        shown({"image/png": 'AAAA" onload="alert(1)', "text/plain": '"' + EVIL}),
        shown({"image/svg+xml": "<svg><script>alert(1)</script></svg>", "text/plain": EVIL}),
        shown({"image/svg+xml": '<svg><image href="http://example.org/x.png"/></svg>', "text/plain": EVIL}),
        shown({"image/svg+xml": '<svg onload="alert(1)"></svg>', "text/plain": EVIL}),
        shown({"image/svg+xml": '<svg><style>@import "http://example.org"</style></svg>', "text/plain": EVIL}),
        shown({"application/javascript": "alert(1)", "text/plain": EVIL}),
    ],
    ids=str,
)
def test_an_output_cannot_run_or_load_anything(tmp_path, output):
    found = notebook(tmp_path / "n.ipynb", output, source="print('" + EVIL + "')")
    assert "<script" not in found and "javascript:" not in found
    assert [] == [item for item in Loads(found).found if not item.endswith(("href=#harmful-link",))]


def test_our_own_tables_are_taken_as_they_are(tmp_path):
    table = tables.to_html([{"a": EVIL, "n": 2**60 + 1}], caption=EVIL)
    found = notebook(tmp_path / "n.ipynb", shown({"text/html": table, "text/plain": "t"}))
    assert table in found
