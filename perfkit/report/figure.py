"""What figures are made of: from the requests of runs to the few hundred numbers that are drawn, and panels.

No raw request leaves this module.  Panels lie below one another, as wide as the page: they read at 400 px as well as at
1280 px.  Figures have one template, `template`.
"""

from __future__ import annotations

import json
import math
import os
import textwrap
from collections.abc import Callable, Sequence
from contextlib import suppress
from dataclasses import dataclass, field
from functools import lru_cache
from importlib.util import find_spec
from typing import TYPE_CHECKING, Any

import numpy as np
import plotly.graph_objects as go
from numpy.typing import NDArray

from perfkit.model.records import Run
from perfkit.report.formatting import BASELINE_COLOUR, CANDIDATE_COLOUR, clean, label
from perfkit.report.html import PLOTLY
from perfkit.report.picture import svg_of
from perfkit.runs.requests import columns_of
from perfkit.stats.streams import Floats as Floats
from perfkit.stats.streams import Latencies, LatencyCounts, Totals

if TYPE_CHECKING:
    import pandas as pd

GRID_COLOUR = "rgba(128,136,150,0.22)"
FONT = "system-ui, -apple-system, 'Segoe UI', Roboto, 'Liberation Sans', 'DejaVu Sans', sans-serif"
BEYOND = 10
"""A percentile is drawn when at least this many requests lie above it."""
# Binomial weights: a Gaussian with a standard deviation of 1.4 bins.
_KERNEL = np.array([1, 8, 28, 56, 70, 56, 28, 8, 1]) / 256.0
_WIDTHS = (1, 2, 5, 10, 15, 20, 30, 60, 120, 300, 600, 900, 1800, 3600)


MOST_EXACT = 100_000  # requests of a run whose latencies are drawn as measured; of more they are rounded, and counted
_FINE, _COARSE = 12, 9  # binary digits: within 0.012 % of all requests, within 0.1 % of those of a stretch of time
MOST_BINS = 60  # of a time series


@dataclass(frozen=True, slots=True)
class Requests:
    """The requests of one service in one run, counted; arrays of shape ``(n,)``.

    Row ``i`` stands for ``counts[i]`` requests that began in the stretch of time from ``elapsed_s[i]``, took
    ``latency_ms[i]`` and failed or did not.  Times count from the first request of the run, whatever its service.
    ``latencies`` are those of all requests, more finely rounded; ``last_s`` is the start of the last one.
    """

    elapsed_s: Floats
    latency_ms: Floats
    failed: NDArray[np.bool_]
    counts: NDArray[np.int64]
    latencies: Latencies
    last_s: float


def requests_of_all(runs: Sequence[Run], service: str) -> tuple[Requests, ...]:
    """Of every run that has requests of the service, in the order of ``runs``; an imported summary has none."""
    samples = (_by_service(run.load_requests).get(service) for run in runs if run.load_requests is not None)
    return tuple(requests for requests in samples if requests is not None)


# Several charts draw the same runs; reading and counting them once is most of the time.
@lru_cache(maxsize=64)
def _by_service(load: Callable[[], pd.DataFrame]) -> dict[str, Requests]:
    requests = columns_of(load)
    totals = Totals.of(requests.parts, len(requests.names))
    if not totals.counts.any():
        return {}
    longest = float(totals.last_s.max()) - totals.begin_s
    # A stretch is a part of whatever `bin_width` may ask for
    width = math.gcd(*(w for w in _WIDTHS if longest / w <= MOST_BINS)) or _WIDTHS[-1]
    width = max(width, math.ceil(longest * len(requests.names) / 2**29))  # of years there are fewer
    stretches = int(longest / width) + 1
    is_exact = totals.counts.sum() <= MOST_EXACT
    fine, coarse = LatencyCounts(23 if is_exact else _FINE), LatencyCounts(23 if is_exact else _COARSE)
    for part in requests.parts():
        stretch = ((part.start_s - totals.begin_s) / width).astype(np.int64)
        fine.add(part.codes, part.response_time_ms)
        coarse.add((part.codes * stretches + stretch) * 2 + part.failed, part.response_time_ms)
    by_service = {}
    for code in np.flatnonzero(totals.counts).tolist():
        _, latencies = fine.between(code, code + 1)
        cells, counted = coarse.between(2 * code * stretches, 2 * (code + 1) * stretches)
        elapsed: Floats = (cells // 2 - code * stretches).astype(np.float64) * width
        last = float(totals.last_s[code]) - totals.begin_s
        by_service[requests.names[code]] = Requests(
            elapsed, counted.ms, cells % 2 == 1, counted.counts, latencies, last
        )
    return by_service


def rounded(values: Any, digits: int = 4) -> list[float | None]:
    """Numbers for a figure: ``digits`` significant digits, ``None`` (a gap) for what is not finite."""
    return [float(f"{value:.{digits}g}") if math.isfinite(value) else None for value in np.asarray(values, dtype=float)]


def log_edges(samples: Sequence[Requests], bins: int) -> Floats:
    """Bin edges of equal width on a log axis, from the 0.05th to the 99.95th percentile of all samples.

    The outermost 0.1 % would stretch the axis for what nobody can see; `log_density` counts them in the end bins.
    """
    low = min(float(sample.latencies.quantiles(0.0005)) for sample in samples)
    high = max(float(sample.latencies.quantiles(0.9995)) for sample in samples)
    low, high = max(low, 1e-3), max(high, 2e-3)
    if high < low * 1.2:
        low, high = low / 1.1, low * 1.1
    return np.geomspace(low, high, bins + 1)


def log_density(sample: Requests, edges: Floats) -> Floats:
    """Share of requests in percent per bin, smoothed over its neighbours, one value per bin."""
    inside = np.clip(sample.latencies.ms, edges[0], edges[-1])
    share = np.histogram(inside, bins=edges, weights=sample.latencies.counts)[0] / sample.latencies.total * 100.0
    padded = np.pad(share, len(_KERNEL) // 2, mode="reflect")
    smooth: Floats = np.convolve(padded, _KERNEL, mode="valid")
    return smooth


def quantiles(latencies: Latencies, levels: Floats, beyond: int = BEYOND) -> Floats:
    """Quantiles (linear between order statistics); ``nan`` where fewer than ``beyond`` requests lie above."""
    return np.where(latencies.total * (1.0 - levels) >= beyond, latencies.quantiles(levels), np.nan)


def pooled(samples: Sequence[Requests]) -> Latencies:
    """The latencies of all requests of several runs."""
    return Latencies.pooled([sample.latencies for sample in samples])


def bin_width(samples: Sequence[Requests], most: int) -> int:
    """Whole seconds per point of a time series, so that the longest run has at most about ``most`` points."""
    longest = max(sample.last_s for sample in samples)
    whole = _WIDTHS[-1] * math.ceil(longest / most / _WIDTHS[-1])  # of weeks, or of a clock that was wrong by years
    return next((width for width in _WIDTHS if longest / width <= most), whole)


def time_series(sample: Requests, width: int, length: int) -> dict[str, Floats]:
    """Throughput (1/s), p50 and p95 (ms) and errors (%) in each of ``length`` bins of ``width`` seconds.

    A bin without requests has throughput 0 and no latency; a percentile needs 5 requests, a p95 needs 20.
    """
    index = (sample.elapsed_s / width).astype(np.int64)
    keep = index < length
    index, latency, counts = index[keep], sample.latency_ms[keep], sample.counts[keep]
    count = np.bincount(index, weights=counts, minlength=length).astype(np.float64)
    failures = np.bincount(index, weights=counts * sample.failed[keep], minlength=length)
    order = np.lexsort((latency, index))
    latencies = Latencies(latency[order], counts[order])
    with np.errstate(divide="ignore", invalid="ignore"):
        errors = failures / count * 100.0
    return {
        "rps": count / width,
        "p50": _bin_quantile(latencies, count, 0.5, 5),
        "p95": _bin_quantile(latencies, count, 0.95, 20),
        "errors": errors,
    }


def _bin_quantile(ordered: Latencies, count: Floats, level: float, least: int) -> Floats:
    """Of each bin, from latencies that ascend in each of them."""
    if ordered.ms.size == 0:
        return np.full(len(count), np.nan)
    rank = np.cumsum(count) - count + np.maximum(np.ceil(count * level) - 1, 0)
    row = np.searchsorted(np.cumsum(ordered.counts), rank, side="right")
    return np.where(count >= least, ordered.ms[np.minimum(row, ordered.ms.size - 1)], np.nan)


def whole_bins(samples: Sequence[Requests], width: int) -> int:
    """Number of bins that the median run fills to the end."""
    return max(1, int(np.median([sample.last_s for sample in samples]) // width))


def spread(rows: Sequence[Floats]) -> tuple[Floats, Floats, Floats]:
    """Lowest, median and highest over runs at each point; ``nan`` where no run has a value."""
    table = np.vstack(rows)
    empty = np.isnan(table).all(axis=0)
    filled = np.where(empty, 0.0, table)
    bounds = (np.nanmin(filled, axis=0), np.nanmedian(filled, axis=0), np.nanmax(filled, axis=0))
    low, middle, high = (np.where(empty, np.nan, bound) for bound in bounds)
    return low, middle, high


class Figure(go.Figure):  # type: ignore[misc]
    """A plotly figure that is seen everywhere: it hands out plotly's JSON, a picture, and what it shows in words.

    JupyterLab draws the JSON; nbconvert's stock templates, Markdown and the previews of GitHub and VS Code, which run
    no script, show the picture.  It is drawn by `perfkit.report.picture`, or by kaleido where that is installed and the
    figure was restyled beyond what perfkit draws.  A renderer named by ``PLOTLY_RENDERER`` has precedence.
    """

    _repr_html_ = None  # plotly's loads its script from another machine

    def _ipython_display_(self) -> None:
        if os.environ.get("PLOTLY_RENDERER"):
            super()._ipython_display_()
        else:  # IPython then asks for the bundle
            raise NotImplementedError

    def _repr_mimebundle_(self, *_: Any, **__: Any) -> dict[str, Any]:
        document = json.loads(self.to_json())
        meta = document["layout"].get("meta")
        alt = meta.get("alt") if isinstance(meta, dict) else None
        bundle = {PLOTLY: document, "text/plain": alt or repr(self)}
        if picture := svg_of(document) or self._by_kaleido():
            bundle["image/svg+xml"] = picture
        return bundle

    def _by_kaleido(self) -> str | None:
        if find_spec("kaleido") is None:
            return None
        with suppress(OSError, RuntimeError, ValueError):  # it finds no browser, say
            picture: str = self.to_image("svg").decode()
            return picture
        return None


EVERY = "\0"
"""The service of marks that are seen whatever service is chosen."""
MOST_SERVICES = 30
"""More services than this make a figure that nobody reads; the tables have them all."""


def points(services: int, most: int) -> int:
    """Points per line: fewer where there are many services, so that a report of any size stays a few MB."""
    return max(20, min(most, 12 * most // services))


@dataclass(frozen=True, slots=True)
class Side:
    """How one side of a comparison is drawn; dashes tell the sides apart where colour does not."""

    name: str
    runs: tuple[Run, ...]
    colour: str
    dash: str

    @property
    def band(self) -> str:
        """The fill of the band from the lowest to the highest run."""
        red, green, blue = (int(self.colour[i : i + 2], 16) for i in (1, 3, 5))
        return f"rgba({red},{green},{blue},0.22)"


def sides(baseline: Sequence[Run], candidate: Sequence[Run]) -> tuple[Side, ...]:
    """The sides that have runs; a side that is alone is drawn as the subject, not as a background."""
    if not candidate:
        return (Side("baseline", tuple(baseline), CANDIDATE_COLOUR, "solid"),) if baseline else ()
    both = (
        Side("baseline", tuple(baseline), BASELINE_COLOUR, "dash"),
        Side("candidate", tuple(candidate), CANDIDATE_COLOUR, "solid"),
    )
    return tuple(side for side in both if side.runs)


def axis(index: int) -> str:
    """plotly counts axes ``x``, ``x2``, ``x3``."""
    return "" if index == 0 else str(index + 1)


@dataclass(slots=True)
class Panels:
    """A figure in the making: panels of equal height below one another, laid out by plotly's grid.

    It holds the parts of a figure as plotly names them, and `figure` checks them all at once: plotly checks every part
    whenever one is added, so that a figure with hundreds of marks which grows piece by piece takes many seconds, and
    `plotly.subplots` alone takes 50 ms and more.
    """

    # One per panel. They are plotly's HTML: names must have gone through `perfkit.report.formatting.label`.
    titles: Sequence[str]
    # row, gap, top, bottom: Heights in pixels: of a panel, between two, above and below all. A row of 0 has its place
    # from its axis.
    row: int
    gap: int = 34
    top: int = 52
    bottom: int = 46
    strip: int = 0  # height of a narrow panel without axes above the others; its index is the number of titles
    own_x: bool = False  # each panel has an axis of x of its own, instead of one below all, which one hover serves
    service: str = EVERY  # of the marks that are added next; `figure` lets the reader choose between services
    traces: list[dict[str, Any]] = field(default_factory=list)
    owners: list[str] = field(default_factory=list)
    annotations: list[dict[str, Any]] = field(default_factory=list)
    shapes: list[dict[str, Any]] = field(default_factory=list)
    axes: dict[str, dict[str, Any]] = field(default_factory=dict)

    @property
    def height(self) -> int:
        """Of all panels and the gaps between them, in pixels."""
        rows = len(self.titles)
        return rows * self.row + (rows - 1) * self.gap + (self.strip + self.gap if self.strip else 0)

    def add(self, panel: int = 0, **trace: Any) -> None:
        """Add marks or a line to a panel."""
        x = f"x{axis(panel)}" if self.own_x else "x"
        self.traces.append({"type": "scatter", "xaxis": x, "yaxis": f"y{axis(panel)}", **trace})
        self.owners.append(self.service)

    def legend(self, name: str, **style: Any) -> None:
        """Add an entry to the legend that stands for the marks of the legend group ``name``."""
        self.add(x=[None], y=[None], name=name, legendgroup=name, hoverinfo="skip", **style)

    def band(self, side: Side, x: Sequence[Any], low: Floats, high: Floats, panel: int = 0) -> None:
        """Draw the stretch from the lowest to the highest run, gaps left out."""
        keep = [i for i in range(len(x)) if math.isfinite(low[i]) and math.isfinite(high[i])]
        xs = [x[i] for i in keep]
        lows, highs = rounded(low[keep]), rounded(high[keep])
        fill = {"fill": "toself", "fillcolor": side.band, "line": {"width": 0}, "mode": "lines"}
        group = {"hoverinfo": "skip", "showlegend": False, "legendgroup": side.name}
        self.add(panel, x=xs + xs[::-1], y=highs + lows[::-1], **fill, **group)

    def line(self, side: Side, x: Sequence[Any], y: Floats, panel: int = 0, **extra: Any) -> None:
        """Draw the line of one side; that of the first panel stands in the legend for all marks of the side."""
        style = {"color": side.colour, "width": 2.2, "dash": side.dash}
        group = {"name": side.name, "legendgroup": side.name, "showlegend": panel == 0}
        self.add(panel, x=list(x), y=rounded(y), mode="lines", line=style, **group, **extra)

    def text(self, text: str, **annotation: Any) -> None:
        """Add a text; it is plotly's HTML, so names must have gone through `perfkit.report.formatting.label`."""
        self.annotations.append({"showarrow": False, "text": text, **annotation})

    def shape(self, **shape: Any) -> None:
        """Add a rectangle or a stroke."""
        self.shapes.append(shape)

    def axis(self, name: str, **style: Any) -> None:
        """Style an axis, such as ``x`` or ``y2``."""
        key = f"{name[0]}axis{name[1:]}"
        self.axes[key] = {**self.axes.get(key, {}), **style}

    def every_y(self, **style: Any) -> None:
        """Style the axis of y of every panel."""
        for index in range(len(self.titles)):
            self.axis(f"y{axis(index)}", **style)

    def figure(self, alt: str, services: Sequence[str] = (), below: int = 28, **extra: Any) -> go.Figure:
        """The finished figure; ``alt`` says in words what it shows, ``extra`` of plotly's layout stands above its own.

        Of several services the reader chooses one at a time from a menu, ``below`` so many pixels from the top; the
        first is seen at first.
        """
        rows = len(self.titles)
        for index, title in enumerate(self.titles):
            self.axis(f"y{axis(index)}", anchor=f"x{axis(index)}" if self.own_x else "x")
            if not title:
                continue
            position = {"x": 0, "xref": "paper", "xanchor": "left", "xshift": -46}
            above = {"y": 1, "yref": f"y{axis(index)} domain", "yanchor": "bottom", "yshift": 6}
            self.text(title, font={"size": 12}, **position, **above)
        if not self.own_x:
            self.axis("x", anchor=f"y{axis(rows - 1)}")
        grid: dict[str, Any] = {
            "rows": rows,
            "columns": 1,
            "subplots": [[f"x{axis(index) if self.own_x else ''}y{axis(index)}"] for index in range(rows)],
            "ygap": self.gap / (self.row + self.gap) if self.row else 0.0,
        }
        if self.strip:
            below_strip = [0.0, 1.0 - (self.strip + self.gap) / self.height]
            grid["domain"] = {"y": below_strip}
            if rows == 1:  # plotly passes over a grid of one cell
                self.axis("y", domain=below_strip)
            self.axis(f"y{axis(rows)}", domain=[1.0 - self.strip / self.height, 1.0], anchor="x", visible=False)
        parts = {
            "margin": {"l": 56, "r": 14, "t": self.top, "b": self.bottom},
            "grid": grid,
            **self.axes,
            **extra,
            "annotations": self.annotations,
            "shapes": self.shapes,
        }
        if services:
            for trace, owner in zip(self.traces, self.owners, strict=True):
                trace["visible"] = owner in (services[0], EVERY)
        if len(services) > 1:
            parts["updatemenus"] = [self._menu(services, below)]
        height = parts.pop("height", self.height + self.top + self.bottom)
        return Figure({"data": self.traces, "layout": layout(height, alt, **parts)})

    def _menu(self, services: Sequence[str], below: int) -> dict[str, Any]:
        buttons = [
            {
                "label": label(name, 34),
                "method": "restyle",
                "args": [{"visible": [owner in (name, EVERY) for owner in self.owners]}],
            }
            for name in services
        ]
        return {
            "buttons": buttons,
            "x": 0,
            "xanchor": "left",
            "y": 1 + (self.top - below) / self.height,
            "yanchor": "top",
            "pad": {"l": -46, "t": 0, "b": 0, "r": 0},
            "bgcolor": "rgba(128,136,150,0.10)",
            "bordercolor": "rgba(128,136,150,0.45)",
            "showactive": True,
        }


def sentence(text: str, *, is_empty: bool = False) -> go.Figure:
    """A figure without marks that says why there is nothing to draw; its ``layout.meta`` has the text as ``note``.

    ``is_empty``: nobody asked, and a report leaves its section out.
    """
    lines = textwrap.wrap(clean(text), 56)
    drawn = {
        "text": "<br>".join(label(line, 60) for line in lines),
        "align": "left",
        "font": {"size": 13},
        "showarrow": False,
        **{"x": 0, "xref": "paper", "xanchor": "left", "y": 0.5, "yref": "paper", "yanchor": "middle"},
    }
    hidden = {"visible": False, "fixedrange": True}
    position = {"margin": {"l": 12, "r": 12, "t": 8, "b": 8}, "xaxis": hidden, "yaxis": hidden}
    parts = layout(26 + 20 * len(lines), text, **position, annotations=[drawn])
    return Figure({"data": [], "layout": {**parts, "meta": {"alt": text, "note": text, "empty": is_empty}}})


def log_ticks(low: float, high: float) -> dict[str, Any]:
    """Ticks of a log axis in milliseconds at 1, 2 and 5 times powers of ten; fewer when the axis is long."""
    decades = math.log10(high / low)
    steps = (1.0, 2.0, 5.0) if decades < 2.2 else (1.0, 3.0) if decades < 3.2 else (1.0,)
    powers = range(math.floor(math.log10(low)), math.ceil(math.log10(high)) + 1)
    values = [step * 10.0**power for power in powers for step in steps if low <= step * 10.0**power <= high]
    if len(values) < 2:
        values = [low, math.sqrt(low * high), high]
    return {"tickvals": values, "ticktext": [duration(value) for value in values]}


def duration(milliseconds: float) -> str:
    """``5 ms``, ``200 ms``, ``2 s``."""
    return f"{milliseconds / 1000:.3g} s" if milliseconds >= 1000 else f"{milliseconds:.3g} ms"


def layout(height: int, alt: str, **extra: Any) -> dict[str, Any]:
    """The common layout of a chart; the report reads ``alt`` to people who cannot see it.

    Backgrounds are transparent and greys are half-transparent, so that it sits on a light and on a dark page alike.
    """
    return {"height": height, "autosize": True, "meta": {"alt": alt}, "template": template(), **extra}


def template() -> dict[str, Any]:
    """The plotly template of every figure."""
    axis = {
        "gridcolor": GRID_COLOUR,
        "linecolor": GRID_COLOUR,
        "zerolinecolor": "rgba(128,136,150,0.55)",
        "zerolinewidth": 1,
        "ticks": "",
        "title": {"font": {"size": 12}, "standoff": 8},
        "tickfont": {"size": 11},
        "automargin": True,
    }
    return {
        "layout": {
            "font": {"family": FONT, "size": 12, "color": "#747b86"},
            "paper_bgcolor": "rgba(0,0,0,0)",
            "plot_bgcolor": "rgba(0,0,0,0)",
            "margin": {"l": 56, "r": 12, "t": 34, "b": 44},
            "hovermode": "closest",
            "hoverlabel": {"align": "left", "font": {"family": FONT, "size": 12}, "namelength": -1},
            # Dragging zooms, with shift it pans: more buttons would lie on the legend of a narrow chart.  JupyterLab's
            # plotly has one that uploads the chart's data to plotly.com.
            "modebar": {
                "remove": [
                    *("zoom2d", "pan2d", "select2d", "lasso2d", "zoomIn2d", "zoomOut2d", "autoScale2d"),
                    *("sendChartToCloud", "sendDataToCloud", "editInChartStudio"),
                ],
                "bgcolor": "rgba(0,0,0,0)",
            },
            "legend": {
                "orientation": "h",
                "x": 0,
                "xref": "container",
                "xanchor": "left",
                "y": 1,
                "yref": "container",
                "yanchor": "top",
                "font": {"size": 12},
                "itemwidth": 30,
            },
            "xaxis": axis,
            "yaxis": axis,
            # At the right, where a title that an analyst gives does not lie on the legend.
            "title": {
                "x": 1,
                "xanchor": "right",
                "y": 1,
                "yref": "container",
                "yanchor": "top",
                "pad": {"t": 6, "r": 14},
                "font": {"size": 14},
            },
            "annotationdefaults": {"showarrow": False},
        }
    }
