"""The page loads nothing, runs nothing, and escapes what it shows."""

from __future__ import annotations

import html as html_
import html.parser
import json
import re

import numpy as np
import pandas as pd
import pytest

from experiments import machine, page, plots, runs, tables
from experiments.measure import Histogram
from ledger.pictures import LEFT, Bars

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
            followed = (
                tag == "a" and name == "href" and re.fullmatch(r"[a-z.]+", value or "")
            )  # loads when it is clicked
            loads = name in ("src", "href", "xlink:href", "srcset", "action", "data")
            if loads and not followed and not (value or "").startswith(("#", "data:image/png")):
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
    table = tables.to_html([{"a": EVIL, "n": 2**60 + 1, "bars": Bars([1, 2], EVIL)}], caption=EVIL)
    found = notebook(tmp_path / "n.ipynb", shown({"text/html": table, "text/plain": "t"}))
    assert table.replace(LEFT, "") in found and LEFT in table


@pytest.fixture
def rows(results):
    """Return the stored rows of a small run: two cells of three rows each, one of them failed."""
    run = runs.Run.create(["e"], "smoke", {"machine": machine.describe(results.parent)})
    common = {"experiment": "e", "operation": "work", "error": None, "reason": None, "state_hash": "-"}
    run.add(
        {**common, "trial": i, "cell": 2 * (i % 2), "repeat": i // 2, "size": 10 + 20 * (i % 2),
         "status": "failed" if i == 5 else "ok", "speed": None if i == 5 else 1000.0 * (i + 1)}
        for i in range(6)
    )  # fmt: skip
    run.finish("complete")
    return runs.load(run.id, "e")


def drawn(kind, rows):
    """Return one figure of each kind."""
    measured = rows[rows["status"] == "ok"]
    shares = np.array([0.5, 0.25, 0.25])
    made = {
        "lines": lambda: plots.lines(
            measured, x="size", y="speed", by="operation", title="T & t", xlabel="size", ylabel="rows a second"
        ),
        "percentiles": lambda: plots.percentiles({"work": Histogram.of(range(1000, 3000))}, measured, title="T & t"),
        "timeline": lambda: plots.timeline(
            {"longest": pd.Series(np.arange(1.0, 300.0))}, measured, title="T & t", ylabel="µs", spans=[(1, 2)]
        ),
        "distribution": lambda: plots.distribution({"a": (shares, shares)}, measured, title="T & t", xlabel="probes"),
        "bars": lambda: plots.bars(
            pd.DataFrame({"got": [1.0, 2.0]}, index=["a", "b"]), measured, title="T & t", xlabel="speed", absent=["c"]
        ),
    }
    return made[kind]()


@pytest.mark.parametrize("kind", ["lines", "percentiles", "timeline", "distribution", "bars"])
def test_a_figure_says_what_it_draws_and_has_its_numbers_and_the_query_for_its_rows_below(rows, kind):
    panel = drawn(kind, rows)
    found = str(page.figure(panel))
    assert [] == Loads(found).found
    (alt,) = re.findall(r'role="img" aria-label="([^"]*)"', found)
    assert alt == html_.escape(panel.alt) and alt.startswith("T &amp; t. x: ")
    assert panel.numbers["table"].replace(LEFT, "") in found and 2 <= found.count("<tr>") <= 101
    assert found.index("</svg>") < found.index("<details") < found.index('href="rows.parquet"')
    assert not set(re.findall(r"#[0-9a-f]{6}", found)) & {plots.INK, plots.GRID, *plots.COLOURS}
    assert machine.sentence(runs.manifest(rows.attrs["run_id"])["machine"])[:20] not in found
    heights = [float(re.search(r'viewBox="0 0 [\d.]+ ([\d.]+)"', text)[1]) for text in (panel.svg, found)]
    assert heights[0] - 40 < heights[1] < heights[0]


def test_the_query_below_a_figure_finds_the_rows_that_it_draws(rows, monkeypatch):
    import duckdb

    monkeypatch.chdir(rows.attrs["path"])
    panel = drawn("lines", rows[rows["cell"] == 2])
    found = duckdb.sql(panel.numbers["query"]).df()
    assert [1, 3] == sorted(found["trial"])
    assert ["work", "30", "3,000", "2,000", "4,000"] == re.findall(r"<td[^>]*>([^<]*)", panel.numbers["table"])


def test_a_notebook_hands_the_numbers_of_its_figures_to_the_page(tmp_path, rows):
    panel = drawn("lines", rows)
    assert panel.numbers["table"].replace(LEFT, "") in notebook(tmp_path / "n.ipynb", shown(panel._repr_mimebundle_()))
    forged = panel._repr_mimebundle_() | {page.NUMBERS: {"table": EVIL, "query": EVIL}}
    found = notebook(tmp_path / "n.ipynb", shown(forged))
    assert "<script" not in found and 2 <= found.count("&lt;script&gt;")
