"""A finished figure: SVG, alternative text, the numbers that it draws, and the query for the rows behind it."""

from __future__ import annotations

import io
from typing import Any, Final

import matplotlib as mpl
import pandas as pd
from matplotlib.figure import Figure

from experiments import tables

NUMBERS: Final = "application/vnd.geometricledger.numbers+json"
"""Under this type a notebook's output carries the table and the query; the report shows both below the figure."""


class Panel:
    """One finished figure; shows itself in a notebook as SVG on white, so that a dark theme can show it, too."""

    def __init__(self, figure: Figure, alt: str, numbers: pd.DataFrame, rows: pd.DataFrame) -> None:
        buffer = io.StringIO()
        with mpl.rc_context({"svg.fonttype": "none", "svg.hashsalt": alt}):
            figure.savefig(buffer, format="svg", transparent=True, metadata={"Date": None, "Creator": None})
        text = buffer.getvalue()
        self.svg = text[text.index("<svg") :].replace("<svg", '<svg style="background:#fff"', 1)
        self.alt = alt
        self.numbers = {"table": tables.to_html(numbers), "query": query(rows)}

    def _repr_mimebundle_(self, include: Any = None, exclude: Any = None) -> dict[str, Any]:
        return {"image/svg+xml": self.svg, "text/plain": self.alt, NUMBERS: self.numbers}

    def __repr__(self) -> str:
        return self.alt


def query(rows: pd.DataFrame) -> str:
    """Return the SQL that finds the stored rows which `rows` was made of, from inside the folder of its run."""
    words = [f"experiment = '{rows.attrs['experiment']}'", "status = 'ok'"]
    if {"cell", "status"} <= set(rows.columns):
        cells = sorted({int(cell) for cell in rows.loc[rows["status"] == "ok", "cell"]})
        together = len(cells) > 2 and cells == list(range(cells[0], cells[-1] + 1))
        words.append(
            f"cell BETWEEN {cells[0]} AND {cells[-1]}" if together else f"cell IN ({', '.join(map(str, cells))})"
        )
    return f"SELECT * FROM 'rows.parquet' WHERE {' AND '.join(words)}"
