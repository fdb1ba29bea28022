"""One style for all figures: units on axes, log scale for latency, machine and date below.

Colours differ in lightness and every line has a marker and a dash of its own, so that grey print tells
them apart. Ink, grid and curves have fixed colours; the report swaps them for those of the reader's page.
"""

from __future__ import annotations

import textwrap
from collections.abc import Mapping, Sequence
from typing import Any, Final

import matplotlib as mpl
import numpy as np
import pandas as pd
from matplotlib.axes import Axes
from matplotlib.axis import Axis
from matplotlib.figure import Figure
from matplotlib.ticker import FuncFormatter, LogLocator, NullLocator

from experiments import machine, runs
from experiments.measure import BITS, Histogram, bucket_edges
from experiments.panel import Panel

INK: Final = "#24292f"
GRID: Final = "#d0d4d9"
COLOURS: Final = ("#2c70c4", "#d9822b", "#2f9e6e", "#b8509a", "#8a8f98", "#c7a008", "#7566d8", "#c0392b")
ON_DARK: Final = ("#6aa9f4", "#f0a860", "#5cc99a", "#e08cc6", "#b3b9c2", "#e2c14a", "#a89cf5", "#f08577")
"""The same colours as light as dark paper needs them."""
MARKERS: Final = ("o", "s", "^", "D", "v", "P", "X", "<")
DASHES: Final = ("-", (0, (5, 2)), (0, (1, 1.5)), (0, (5, 1.5, 1, 1.5)), "-", (0, (3, 1)), (0, (1, 1)), (0, (7, 2)))
_LETTER_INCHES: Final = 0.088
_PLACES: Final = (1, 2, 5, 10, 20, 50, 100, 200)
_NUMBERS_MAX: Final = 100
NINES: Final = (0.5, 0.9, 0.99, 0.999, 0.9999, 0.99999)
STYLE: Final[dict[str, Any]] = {
    "axes.edgecolor": INK,
    "axes.grid": True,
    "axes.labelcolor": INK,
    "axes.spines.right": False,
    "axes.spines.top": False,
    "axes.titlelocation": "left",
    "axes.titlesize": 11,
    "axes.titleweight": "bold",
    "figure.facecolor": "none",
    "axes.facecolor": "none",
    "font.family": ["DejaVu Sans", "sans-serif"],
    "font.size": 9.5,
    "grid.color": GRID,
    "grid.linewidth": 0.6,
    "lines.linewidth": 1.8,
    "lines.markersize": 5,
    "svg.fonttype": "none",
    "text.color": INK,
    "xtick.color": INK,
    "ytick.color": INK,
}


def caption(rows: pd.DataFrame) -> str:
    """Return machine, date and run in which rows were measured."""
    facts = runs.manifest(rows.attrs["run_id"])
    return f"{machine.sentence(facts['machine'])} · {facts['started'][:10]} · run {facts['id']}"


def lines(
    rows: pd.DataFrame,
    *,
    x: str,
    y: str,
    by: str,
    title: str,
    xlabel: str,
    ylabel: str,
    scale: float = 1.0,
    logx: bool = False,
    logy: bool = False,
    marks: Mapping[str, float] | None = None,
) -> Panel:
    """Draw medians over `x`, a line for each value of `by`, with the range of the repeats as a band.

    `marks` are named places on the x axis, such as the sizes of caches.
    """
    figure, axes = _panel(title, xlabel, ylabel)
    _scales(axes, rows[x], logx, logy)
    ends, drawn = [], []
    for number, (label, group) in enumerate(rows.groupby(by, sort=False)):
        found = group.groupby(x)[y].agg(["median", "min", "max"]).astype(float) * scale
        drawn.append(found.reset_index(names=xlabel).assign(**{by: label}))
        style = _line_style(number)
        axes.plot(found.index, found["median"], **style)
        axes.fill_between(found.index.astype(float), found["min"], found["max"], color=style["color"], alpha=0.15, lw=0)
        ends.append((str(label), float(found["median"].iloc[-1]), style["color"]))
    if logy:
        _log_ticks(axes.yaxis, axes.get_ylim())
    else:
        axes.set_ylim(bottom=0)
    _draw_marks(axes, marks or {})
    _label_ends(axes, ends)
    numbers = pd.concat(drawn)[[by, xlabel, "median", "min", "max"]]
    return _finish(figure, rows, _extent(ends, ylabel), numbers, right=_longest(ends))


def percentiles(histograms: Mapping[str, Histogram], rows: pd.DataFrame, *, title: str) -> Panel:
    """Draw latency against percentile, each curve as far as ten samples remain beyond it."""
    figure, axes = _panel(title, "percentile of calls", "latency of a call (µs)")
    axes.set_xscale("log")
    axes.set_yscale("log")
    ends = []
    least = 0.5
    for number, (label, histogram) in enumerate(histograms.items()):
        latency, beyond = histogram.curve()
        shown = beyond <= 0.9
        if not shown.any():
            continue
        style = _line_style(number) | {"marker": None}
        axes.plot(1 / beyond[shown], latency[shown] / 1e3, drawstyle="steps-post", **style)
        ends.append((label, float(latency[shown][-1] / 1e3), style["color"]))
        least = min(least, float(beyond[shown][-1]))
    nines = [q for q in NINES if 1 - q >= least * 0.5]
    axes.set_xticks([1 / (1 - q) for q in nines], [f"{q * 100:.6g}" for q in nines])
    axes.xaxis.set_minor_locator(NullLocator())
    axes.set_xlim(left=1 / 0.9)
    _log_ticks(axes.yaxis, axes.get_ylim())
    _label_ends(axes, ends)
    numbers = pd.DataFrame(
        {"curve": label, "calls": histogram.n}
        | {f"p{q * 100:.6g} (µs)": None if (ns := histogram.quantile(q)) is None else ns / 1e3 for q in NINES}
        for label, histogram in histograms.items()
    )
    said = _extent(ends, "µs at the last percentile shown")
    return _finish(figure, rows, said, numbers, right=_longest(ends))


def histogram(histograms: Mapping[str, Histogram], rows: pd.DataFrame) -> Panel:
    """Draw the share of calls by latency, in eighths of an octave."""
    figure, axes = _panel("Calls by latency", "latency of a call (µs)", "share of calls")
    axes.set_xscale("log")
    drawn = []
    for number, (label, found) in enumerate(histograms.items()):
        buckets, counts = found.sparse()
        eighths = buckets >> BITS - 3
        shares = np.bincount(eighths - eighths[0], counts) / found.n
        edges = bucket_edges(np.arange(eighths[0], eighths[-1] + 2) << BITS - 3)[0] / 1e3
        axes.stairs(shares, edges, color=COLOURS[number], fill=True, alpha=0.5)
        drawn += [{"curve": label, "from (µs)": at, "share": share} for at, share in zip(edges, shares, strict=False)]
    _log_ticks(axes.xaxis, axes.get_xlim())
    said = ", ".join(f"{label}: {found.n} calls" for label, found in histograms.items())
    return _finish(figure, rows, said, pd.DataFrame(drawn))


def timeline(
    curves: Mapping[str, pd.Series],
    rows: pd.DataFrame,
    *,
    title: str,
    ylabel: str,
    spans: Sequence[tuple[float, float]] = (),
) -> Panel:
    """Draw values against time in seconds (the index) on a log scale, with spans of time shaded."""
    figure, axes = _panel(title, "time (s)", ylabel)
    axes.set_yscale("log")
    ends = []
    for number, (label, values) in enumerate(curves.items()):
        colour = COLOURS[number]
        axes.plot(values.index.astype(float), values.astype(float), color=colour, lw=0.9)
        ends.append((label, float(values.median()), colour))
    for first, last in spans:
        axes.axvspan(first, last, color=INK, alpha=0.13, lw=0)
    axes.margins(x=0.01)
    _log_ticks(axes.yaxis, axes.get_ylim())
    _label_ends(axes, ends)
    every = -(-max(len(values) for values in curves.values()) // _NUMBERS_MAX)
    numbers = pd.DataFrame({label: values.iloc[::every] for label, values in curves.items()})
    numbers = numbers.rename_axis("time (s)" if every == 1 else f"time (s), each {every}. point").reset_index()
    said = (
        f"medians {', '.join(f'{label} {short(value)}' for label, value, _ in ends)}; {len(spans)} spans of time shaded"
    )
    return _finish(figure, rows, said, numbers, right=_longest(ends))


def distribution(
    curves: Mapping[str, tuple[np.ndarray, np.ndarray]], rows: pd.DataFrame, *, title: str, xlabel: str
) -> Panel:
    """Draw shares beyond a distance: measured as points, expected as lines, on a log scale.

    `curves` maps a label to (measured, expected), each the probability of distance 0, 1, 2 ...
    """
    figure, axes = _panel(title, xlabel, "share with this many or more")
    axes.set_yscale("log")
    ends, drawn = [], []
    for number, (label, (measured, expected)) in enumerate(curves.items()):
        style = _line_style(number)
        tail = 1 - np.cumsum(measured) + measured
        wanted = 1 - np.cumsum(expected) + expected
        shown = np.flatnonzero(tail > 1e-5)
        every = np.unique(np.geomspace(1, shown.size, 28).astype(int)) - 1
        axes.plot(shown[every] + 1, tail[shown][every], ls="", color=style["color"], marker=style["marker"])
        axes.plot(np.arange(wanted.size) + 1, np.maximum(wanted, 1e-9), color=style["color"], lw=1.2)
        ends.append((label, float(tail[shown[-1]]), style["color"]))
        drawn += [
            {"curve": label, xlabel: place, "measured share": tail[place - 1], "expected share": wanted[place - 1]}
            for place in _PLACES
            if place <= shown.size
        ]
    axes.set_ylim(1e-5, 1.3)
    axes.yaxis.set_major_formatter(FuncFormatter(short))
    axes.set_xscale("log")
    axes.set_xlim(1, 300)
    axes.set_xticks(_PLACES, list(map(str, _PLACES)))
    axes.xaxis.set_minor_locator(NullLocator())
    handles = axes.lines[::2]
    axes.legend(handles, [label for label, _, _ in ends], frameon=False, fontsize=8.5, loc="lower left", labelcolor=INK)
    said = f"{', '.join(curves)}: points are measured, lines expected"
    return _finish(figure, rows, said, pd.DataFrame(drawn))


def bars(
    table: pd.DataFrame,
    rows: pd.DataFrame,
    *,
    title: str,
    xlabel: str,
    log: bool = False,
    absent: Sequence[str] = (),
) -> Panel:
    """Draw one dot for each column of each row of `table`; cells that cannot exist are named, not drawn as 0."""
    figure, axes = _panel(title, xlabel, "", height=1.35 + 0.3 * (len(table) + len(absent)))
    if log:
        axes.set_xscale("log")
        axes.xaxis.set_minor_locator(NullLocator())
    names = [*map(str, table.index), *absent]
    places = np.arange(len(names))[::-1]
    for number, column in enumerate(table.columns):
        axes.plot(
            table[column], places[: len(table)], ls="", marker=MARKERS[number], color=COLOURS[number], label=column
        )
    for place in places[len(table) :]:
        axes.text(
            0.02,
            place,
            "not applicable",
            transform=axes.get_yaxis_transform(),
            fontsize=8,
            va="center",
            style="italic",
            color=INK,
        )
    axes.set_yticks(places, names)
    axes.set_ylim(-0.6, len(names) - 0.4)
    axes.xaxis.set_major_formatter(FuncFormatter(short))
    if log:
        _log_ticks(axes.xaxis, axes.get_xlim())
    if not log:
        axes.set_xlim(left=0, right=max(1e-12, float(np.nanmax(table.to_numpy(float)))) * 1.08)
    if len(table.columns) > 1:
        place = {"loc": "lower left", "bbox_to_anchor": (0, 1), "ncols": len(table.columns)}
        axes.legend(
            frameon=False, fontsize=8.5, labelcolor=INK, borderpad=0, borderaxespad=0.3, handletextpad=0.2, **place
        )
    said = "; ".join(
        f"{name}: " + ", ".join(f"{column} {short(value)}" for column, value in row.items() if pd.notna(value))
        for name, row in table.iterrows()
    )
    numbers = table.reset_index(names=xlabel)
    return _finish(figure, rows, said, numbers, left=max(map(len, names)))


def intervals(
    groups: Mapping[str, Mapping[str, Sequence[float]]],
    rows: pd.DataFrame,
    *,
    title: str,
    xlabel: str,
    colours: Mapping[str, str],
) -> Panel:
    """Draw a line for each item of each group on a log axis, below the name of its group.

    An item is the ends of a range, drawn as a grey bar, and low, middle and high of the interval that is set beside it.
    """
    labels = [label for group, items in groups.items() for label in (group, *items)]
    figure, axes = _panel(title, xlabel, "", height=1.35 + 0.19 * len(labels))
    axes.set_xscale("log")
    place = len(labels)
    for number, (group, items) in enumerate(groups.items()):
        place -= 1
        style = {"color": colours[group], "marker": MARKERS[number]}
        for first, last, low, middle, high in items.values():
            place -= 1
            axes.plot([first * 0.97, last * 1.03], [place, place], color=GRID, lw=7, solid_capstyle="butt")
            axes.plot([low, high], [place, place], color=style["color"], lw=2.2)
            axes.plot(middle, place, **style)
    axes.axvline(1.0, color=INK, lw=0.8, ls=(0, (2, 3)))
    axes.set_yticks(range(len(labels))[::-1], labels, fontsize=7.5)
    for text in axes.get_yticklabels():
        if text.get_text() in groups:
            text.set(color=colours[text.get_text()], weight="bold", fontsize=8.5)
    axes.set_ylim(-0.7, len(labels) - 0.3)
    _log_ticks(axes.xaxis, axes.get_xlim())
    said = "; ".join(
        f"{group}: {', '.join(f'{name} {short(item[3])}' for name, item in items.items())}"
        for group, items in groups.items()
    )
    numbers = pd.DataFrame(
        {
            "item": name,
            "group": group,
            "range from": item[0],
            "to": item[1],
            "low": item[2],
            xlabel: item[3],
            "high": item[4],
        }
        for group, items in groups.items()
        for name, item in items.items()
    )
    return _finish(figure, rows, said, numbers, left=int(max(map(len, labels), default=0) * 0.8))


def _panel(title: str, xlabel: str, ylabel: str, height: float = 3.7) -> tuple[Figure, Axes]:
    """Return an empty figure in our style."""
    with mpl.rc_context(STYLE):
        figure = Figure(figsize=(5.4, height))
        axes = figure.subplots()
        axes.set_title(title)
        axes.set_xlabel(xlabel)
        axes.set_ylabel(ylabel)
        axes.tick_params(length=3)
        axes.set_axisbelow(True)
    return figure, axes


def _finish(
    figure: Figure, rows: pd.DataFrame, said: str, numbers: pd.DataFrame, *, left: int = 0, right: int = 0
) -> Panel:
    """Add the caption and lay the figure out, with room for names of so many letters on the left and right.

    The room is reckoned, not tried out: matplotlib's own layouts draw everything once more. The alternative text is
    title, axes, and what was `said` of the data.
    """
    width, height = figure.get_size_inches()
    axes = figure.axes[0]
    alt = f"{axes.get_title(loc='left')}. {_axes_words(axes)}. {said}."
    text = textwrap.fill(caption(rows), 98)
    before = 0.16 + _LETTER_INCHES * left if left else 0.72
    title = textwrap.fill(axes.get_title(loc="left"), int((width - before) / 0.092))
    with mpl.rc_context(STYLE):
        axes.set_title(title, pad=24 if axes.get_legend() and left else 8)
    above = 0.16 + 0.19 * (title.count("\n") + 1) + (0.22 if axes.get_legend() and left else 0)
    figure.subplots_adjust(
        left=before / width,
        right=1 - (0.14 + _LETTER_INCHES * right) / width,
        top=1 - above / height,
        bottom=(0.58 + 0.13 * (text.count("\n") + 1)) / height,
    )
    words = figure.text(0.01, 0.04 / height, text, fontsize=6.8, va="bottom", color=INK, alpha=0.8)
    words.set_gid(f"caption-{(0.06 + 0.13 * (text.count(chr(10)) + 1)) * 72:.0f}")  # what the report cuts off below
    return Panel(figure, alt, numbers, rows)


def _axes_words(axes: Axes) -> str:
    """Say what the axes show, and from where to where."""
    words = []
    for name, axis, (low, high) in (("x", axes.xaxis, axes.get_xlim()), ("y", axes.yaxis, axes.get_ylim())):
        if label := axis.get_label_text():
            log = ", log scale" if axis.get_scale() != "linear" else ""
            words.append(f"{name}: {label}, {short(low)} to {short(high)}{log}")
    return "; ".join(words)


def _line_style(number: int) -> dict[str, Any]:
    """Return colour, marker and dash of a line."""
    number %= len(COLOURS)
    return {"color": COLOURS[number], "marker": MARKERS[number], "ls": DASHES[number]}


def _scales(axes: Axes, x: pd.Series, logx: bool, logy: bool) -> None:
    """Set log scales with plain numbers at the levels."""
    levels = sorted(x.unique())
    if logx:
        axes.set_xscale("log" if levels[0] > 0 else "symlog", **({} if levels[0] > 0 else {"linthresh": 1}))
    if logy:
        axes.set_yscale("log")
    axes.yaxis.set_major_formatter(FuncFormatter(short))
    axes.set_xticks(levels, [short(level) for level in levels])
    axes.xaxis.set_minor_locator(NullLocator())


def _draw_marks(axes: Axes, marks: Mapping[str, float]) -> None:
    """Draw named places on the x axis, each name lower than the one before."""
    low, high = axes.get_xlim()
    inside = sorted((place, name) for name, place in marks.items() if low < place < high)
    for number, (place, name) in enumerate(inside):
        axes.axvline(place, color=INK, lw=0.8, ls=(0, (2, 3)))
        axes.text(
            place,
            0.02 + 0.07 * number,
            f"{name} ",
            transform=axes.get_xaxis_transform(),
            ha="right",
            fontsize=7.5,
            color=INK,
        )


def _log_ticks(axis: Axis, limits: tuple[float, float]) -> None:
    """Mark a log axis in plain numbers: 1, 2 and 5 of each decade where it spans few."""
    axis.set_minor_locator(NullLocator())
    axis.set_major_formatter(FuncFormatter(short))
    if limits[1] / limits[0] < 100:
        axis.set_major_locator(LogLocator(subs=(1, 2, 5)))


def _label_ends(axes: Axes, ends: Sequence[tuple[str, float, str]]) -> None:
    """Write each line's name behind its end, pushed apart where they would overlap."""
    if not ends:
        return
    to_axes = axes.transData + axes.transAxes.inverted()
    middle = axes.get_xlim()[1]
    order = sorted(range(len(ends)), key=lambda i: ends[i][1])
    place = -1.0
    places: dict[int, float] = {}
    for i in order:
        place = max(place + 0.065, float(to_axes.transform((middle, ends[i][1]))[1]))
        places[i] = place
    over = max(0.0, place - 1.0)
    for i, (label, _, colour) in enumerate(ends):
        axes.text(
            1.015,
            places[i] - over,
            label,
            transform=axes.transAxes,
            color=colour,
            va="center",
            fontsize=8.5,
            weight="bold",
        )


def _longest(ends: Sequence[tuple[str, float, str]]) -> int:
    """Return the letters of the longest name at a line's end."""
    return max((len(label) for label, _, _ in ends), default=0) + 1


def _extent(ends: Sequence[tuple[str, float, str]], unit: str) -> str:
    """Say in words where the lines end."""
    return "; ".join(f"{label} ends at {short(value)}" for label, value, _ in ends) + f" ({unit})"


def short(value: float, _position: Any = None) -> str:
    """Return a number as an axis shows it: 45000 is 45k."""
    if value == 0:
        return "0"
    for limit, sign in ((1e9, "G"), (1e6, "M"), (1e3, "k")):
        if abs(value) >= limit:
            return f"{value / limit:.3g}{sign}"
    return f"{value:.3g}"
