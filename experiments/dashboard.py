"""A dashboard: choose a stored run, experiment, operation, metric and factor; see figure, histogram and table."""

from __future__ import annotations

import statistics
from typing import Any, Final

import pandas as pd

from experiments import plots, runs, stored
from experiments.analysis import common
from experiments.errors import ParameterError, RunNotFoundError, nearest
from experiments.panel import Panel
from experiments.tables import to_html

_NO_METRICS: Final = {"trial", "cell", "repeat"}
_EMPTY: Final = "<p>There is no stored run with measured rows yet; <code>make report</code> makes one.</p>"


class Dashboard:
    """Five choices and what they show; without a widget front end, what was chosen first is shown as it is.

    Parameters
    ----------
    run, experiment, operation, metric, factor
        What is chosen first; "" is the newest run, the rows a second, and the first of the others.

    Raises
    ------
    ParameterError, RunNotFoundError
        What was asked for is not there.
    """

    def __init__(
        self, run: str = "", experiment: str = "", operation: str = "", metric: str = "", factor: str = ""
    ) -> None:
        import ipywidgets

        wanted = {"run": run, "experiment": experiment, "operation": operation, "metric": metric, "factor": factor}
        self._choosers = {name: ipywidgets.Dropdown(description=name) for name in wanted}
        self._shown = ipywidgets.HTML()
        self._shown.add_class("jp-RenderedHTMLCommon")  # how JupyterLab lays out tables
        choosers = ipywidgets.HBox(list(self._choosers.values()), layout={"flex_flow": "row wrap"})
        self._box = ipywidgets.VBox([choosers, self._shown])
        self._filling = False
        self._fill(wanted)
        for chooser in self._choosers.values():
            chooser.observe(self._changed, "value")

    def choose(self, **wanted: str) -> None:
        """Choose by name, as a click does."""
        self._fill(wanted)

    @property
    def html(self) -> str:
        """What is shown below the choices."""
        return str(self._shown.value)

    def _changed(self, _change: Any) -> None:
        """Follow a click."""
        if not self._filling:
            self._fill({})

    def _fill(self, wanted: dict[str, str]) -> None:
        """Offer what there is, from run to factor, keep what was chosen where it is still there, and show it."""
        chosen: dict[str, str] = {}
        rows = None
        self._filling = True
        try:
            for name, chooser in self._choosers.items():
                options = self._options(name, chosen, rows)
                value = wanted.get(name) or chooser.value
                if wanted.get(name) and options and value not in options:
                    kind = RunNotFoundError if name == "run" else ParameterError
                    raise kind(f"there is no {name} {value}", hint=nearest(value, options), name=name)
                chosen[name] = value if value in options else next(iter(options), "")
                chooser.options, chooser.value = options, chosen[name] or None
                if name == "experiment" and chosen[name]:
                    rows = runs.load(chosen["run"], chosen["experiment"])
                    rows = rows[rows["status"] == "ok"]
        finally:
            self._filling = False
        self._shown.value = _EMPTY if rows is None or not chosen["metric"] else _html(rows, chosen)

    @staticmethod
    def _options(name: str, chosen: dict[str, str], rows: pd.DataFrame | None) -> list[str]:
        """Return what can be chosen, given the choices before it."""
        if name == "run":
            return [row for row in stored.all_runs().frame.get("id", []) if stored.measured(row)]
        if not chosen["run"]:
            return []
        if name == "experiment":
            return stored.measured(chosen["run"])
        if rows is None:
            return []
        if name == "operation":
            return list(rows["operation"].dropna().unique())
        factors = runs.manifest(chosen["run"])["experiments"][chosen["experiment"]]["factors"]
        if name == "factor":
            return list(factors)
        there = rows[rows["operation"] == chosen["operation"]]
        metrics = [
            column
            for column in there
            if column not in _NO_METRICS | set(factors)
            and pd.api.types.is_numeric_dtype(there[column])
            and not pd.api.types.is_bool_dtype(there[column])
            and there[column].notna().any()
        ]
        return sorted(metrics, key=lambda column: column != "rows_per_s")

    def _repr_mimebundle_(self, include: Any = None, exclude: Any = None) -> dict[str, Any]:
        found = self._box._repr_mimebundle_()
        data = found[0] if isinstance(found, tuple) else found
        return {**data, "text/html": self.html}


def _html(rows: pd.DataFrame, chosen: dict[str, str]) -> str:
    """Return table, figure and histogram of what was chosen."""
    metric, factor = chosen["metric"], chosen["factor"]
    rows = rows[rows["operation"] == chosen["operation"]].dropna(subset=[metric])
    factors = runs.manifest(chosen["run"])["experiments"][chosen["experiment"]]["factors"]
    found = []
    for key, group in rows.groupby(factors, sort=True):
        values = group[metric].tolist()  # Python's numbers: whole ones above 2**53 stay what they are
        numbers = {"n": len(values), "median": statistics.median(values), "min": min(values), "max": max(values)}
        found.append({**dict(zip(factors, key, strict=True)), **numbers})
    caption = f"{chosen['operation']}: {metric}, medians of the repeats"
    panels = [_figure(rows, chosen, [name for name in factors if name != factor])]
    merged = common.merged(rows, ["operation"])
    panels += [plots.histogram({str(key[0]): found for key, found in merged.items()}, rows)] if merged else []
    svgs = (panel.svg.replace("background:#fff", "background:#fff;width:100%;height:auto", 1) for panel in panels)
    drawn = "".join(f'<div style="flex:1 1 360px;max-width:560px">{svg}</div>' for svg in svgs)
    return f'<div style="display:flex;flex-wrap:wrap;gap:12px">{drawn}</div>{to_html(found, caption)}'


def _figure(rows: pd.DataFrame, chosen: dict[str, str], others: list[str]) -> Panel:
    """Draw the metric against the factor: lines where it is a number, dots where it is a name."""
    metric, factor = chosen["metric"], chosen["factor"]
    title = f"{chosen['experiment']}, {chosen['operation']}: {metric} by {factor}"
    several = [name for name in others if rows[name].nunique() > 1][:1]
    line = rows[several[0]].astype(str) if several else pd.Series("all", rows.index)
    rows = rows.assign(line=(f"{several[0]} " if several else "") + line)
    if pd.api.types.is_numeric_dtype(rows[factor]):
        wide = rows[factor].min() > 0 and rows[factor].max() / rows[factor].min() > 20
        axes = {"x": factor, "y": metric, "xlabel": factor, "ylabel": metric, "logx": wide}
        return plots.lines(rows.sort_values(factor), by="line", title=title, **axes)
    table = rows.pivot_table(metric, factor, "line", "median", sort=False).astype(float)
    return plots.bars(table, rows, title=title, xlabel=metric)
