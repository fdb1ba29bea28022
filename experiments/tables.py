"""Tables as HTML: whole numbers exactly, everything else short, all text escaped."""

from __future__ import annotations

import html
import numbers
from collections.abc import Iterable, Mapping
from typing import Any

import numpy as np
import pandas as pd

from ledger.pictures import LEFT, Bars


class Marked(str):
    """Text that a table shows in a colour (``#rrggbb``); the text says it all, the colour only helps to find it."""

    colour: str

    def __new__(cls, text: str, colour: str) -> Marked:
        """Return the text with its colour."""
        marked = super().__new__(cls, text)
        marked.colour = colour
        return marked


class Table:
    """A table that shows itself in a notebook and in the report.

    Whole numbers are shown with every digit: a browser that reads them from JSON would round those above
    2**53, so they travel as text.
    """

    def __init__(self, rows: pd.DataFrame | Iterable[Mapping[str, Any]], caption: str = "") -> None:
        self.frame = rows if isinstance(rows, pd.DataFrame) else pd.DataFrame(list(rows), dtype=object)
        self.caption = caption

    def _repr_html_(self) -> str:
        return to_html(self.frame, caption=self.caption)

    def __repr__(self) -> str:
        shown = self.frame.map(format_cell)
        return f"{self.caption}\n{shown.to_string(index=False)}".lstrip()


def to_html(rows: pd.DataFrame | Iterable[Mapping[str, Any]], caption: str = "") -> str:
    """Return a table in HTML; numbers to the right, text to the left, nothing unescaped."""
    frame = rows if isinstance(rows, pd.DataFrame) else pd.DataFrame(list(rows), dtype=object)
    numeric = [_is_numeric(frame.iloc[:, place]) for place in range(frame.shape[1])]
    sides = ['class="number"' if number else f'class="text"{LEFT}' for number in numeric]
    head = "".join(
        f'<th scope="col" {side}>{html.escape(str(name))}</th>' for name, side in zip(frame.columns, sides, strict=True)
    )
    body = []
    for row in frame.itertuples(index=False, name=None):
        cells = (f"<td {side}>{_markup(cell)}</td>" for cell, side in zip(row, sides, strict=True))
        body.append(f"<tr>{''.join(cells)}</tr>")
    title = f"<caption{LEFT}>{html.escape(caption)}</caption>" if caption else ""
    return (
        f'<div class="table"><table>{title}<thead><tr>{head}</tr></thead><tbody>{"".join(body)}</tbody></table></div>'
    )


def format_cell(value: Any) -> str:
    """Return a value as a table shows it.

    Examples
    --------
    >>> format_cell(2**60 + 1), format_cell(0.123456), format_cell(999.9), format_cell(12345678.9), format_cell(None)
    ('1152921504606846977', '0.123', '1,000', '12,345,679', '–')
    """
    if value is None or value is pd.NA or (isinstance(value, float) and np.isnan(value)):
        return "–"
    if isinstance(value, (bool, np.bool_)):
        return "yes" if value else "no"
    if isinstance(value, numbers.Integral):
        return str(int(value))
    if isinstance(value, numbers.Real):
        number = float(value)
        if number == 0 or 1e-3 <= abs(number) < 999.5:
            return f"{number:.3g}"
        return f"{number:,.0f}" if 999.5 <= abs(number) < 1e12 else f"{number:.2e}"
    return str(value)


def _markup(cell: Any) -> str:
    """Return what a cell shows: a picture, coloured text, or text."""
    if isinstance(cell, Bars):
        return cell.svg
    text = html.escape(format_cell(cell))
    return f'<span style="color:{cell.colour}">{text}</span>' if isinstance(cell, Marked) else text


def _is_numeric(column: pd.Series) -> bool:
    """Return whether all values that are there are numbers: such a column is aligned to the right."""
    present = column.dropna()
    kinds = (isinstance(value, numbers.Real) and not isinstance(value, (bool, np.bool_)) for value in present)
    return len(present) > 0 and all(kinds)
