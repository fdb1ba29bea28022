"""Small tables and bars in HTML, with which results show themselves in a notebook; nothing is imported for them."""

from __future__ import annotations

from collections.abc import Iterable, Sequence

LEFT = ' style="text-align:left"'  # JupyterLab puts all cells to the right
_WIDTH, _HEIGHT = 160, 18
_COLUMNS = 80


class Bars:
    """A small picture of numbers, one bar each.

    Parameters
    ----------
    values
        Not negative; more than 80 are added up to 80 groups.
    words
        What the picture shows, for those who do not see it.
    top
        The number whose bar is as high as the line; the greatest if None.
    """

    def __init__(self, values: Sequence[float], words: str = "", top: float | None = None) -> None:
        group = -(-len(values) // _COLUMNS) or 1
        self.values = [float(sum(values[i : i + group])) for i in range(0, len(values), group)]
        self.top = top or max(self.values, default=0) or 1
        self.words = words or f"{len(values)} bars"

    @property
    def svg(self) -> str:
        """The picture in the colour of the text around it."""
        step = min(_WIDTH / max(len(self.values), 1), _WIDTH / 8)
        path = "".join(
            f"M{i * step:.1f} {_HEIGHT}h{step * 0.8:.1f}v-{max(value / self.top * _HEIGHT, 0.5):.1f}h-{step * 0.8:.1f}z"
            for i, value in enumerate(self.values)
            if value > 0
        )
        return (
            f'<svg class="spark" width="{_WIDTH}" height="{_HEIGHT}" viewBox="0 0 {_WIDTH} {_HEIGHT}" role="img" '
            f'aria-label="{_escaped(self.words)}"><path fill="currentColor" d="{path}"/></svg>'
        )

    def __str__(self) -> str:
        """Return the words."""
        return self.words


def table(caption: str, rows: Iterable[tuple[str, object]]) -> str:
    """Return pairs of a name and a value as a table; whole numbers keep every digit."""
    body = "".join(
        f'<tr><th scope="row"{LEFT}>{_escaped(name)}</th>'
        f'<td class="text"{LEFT}>{value.svg if isinstance(value, Bars) else _escaped(_text(value))}</td></tr>'
        for name, value in rows
    )
    title = f"<caption{LEFT}>{_escaped(caption)}</caption>"
    return f'<div class="table"><table>{title}<tbody>{body}</tbody></table></div>'


def size(size_bytes: float) -> str:
    """Return a size in the unit that suits it."""
    units = ["B", "KiB", "MiB", "GiB", "TiB"]
    while size_bytes >= 1024 and len(units) > 1:
        size_bytes /= 1024
        del units[0]
    return f"{size_bytes:,.{0 if units[0] == 'B' else 1}f} {units[0]}"


def _text(value: object) -> str:
    """Return a value as people read it."""
    if isinstance(value, bool):
        return "yes" if value else "no"
    if isinstance(value, float):
        return f"{value:.3g}"
    if isinstance(value, (list, tuple)):
        return "; ".join(map(_text, value)) or "none"
    return "none" if value is None else str(value)


def _escaped(text: str) -> str:
    """Return text without markup in it."""
    from html import escape

    return escape(text)
