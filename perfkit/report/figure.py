"""A chart in the making.

From the requests of runs to the few hundred numbers that a chart draws.  No raw request leaves this module.

Panels one below the other, as wide as the page: they read at 400 px as well as at 1280 px.
"""

from __future__ import annotations

import math
import textwrap
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from functools import lru_cache
from typing import TYPE_CHECKING, Any

import numpy as np
import plotly.graph_objects as go
from numpy.typing import NDArray

from perfkit.model.records import Run
from perfkit.report.formatting import BASELINE_COLOUR, CANDIDATE_COLOUR, clean, label, layout

if TYPE_CHECKING:
    import pandas as pd

Floats = NDArray[np.float64]

BEYOND = 10
"""A percentile is drawn when at least this many requests lie above it."""
# Binomial weights: a Gaussian with a standard deviation of 1.4 bins.
_KERNEL = np.array([1, 8, 28, 56, 70, 56, 28, 8, 1]) / 256.0
_WIDTHS = (1, 2, 5, 10, 15, 20, 30, 60, 120, 300, 600, 900, 1800, 3600)


@dataclass(frozen=True, slots=True)
class Requests:
    """The requests of one service in one run, in order of start.

    ``elapsed_s`` counts from the first request of the run, whatever its service.
    """

    elapsed_s: Floats
    latency_ms: Floats
    failed: NDArray[np.bool_]
    ordered_ms: Floats  # the latencies again, ascending


def service_names(*sides: Sequence[Run]) -> tuple[str, ...]:
    """Every service of the runs, in the order in which they are first seen."""
    return tuple(dict.fromkeys(name for side in sides for run in side for name in run.services))


def requests_of(run: Run, service: str) -> Requests | None:
    """The requests of one service, or ``None`` when the run has none (an imported summary, another service)."""
    if run.load_requests is None:
        return None
    return _by_service(run.load_requests).get(service)


def requests_of_all(runs: Sequence[Run], service: str) -> tuple[Requests, ...]:
    """Of every run that has requests of the service, in the order of ``runs``."""
    found = (requests_of(run, service) for run in runs)
    return tuple(requests for requests in found if requests is not None)


# Several charts draw the same runs; reading and sorting them once is most of the time.
@lru_cache(maxsize=64)
def _by_service(load: Callable[[], pd.DataFrame]) -> dict[str, Requests]:
    frame = load().sort_values("start", kind="stable")
    frame = frame[np.isfinite(frame["response_time_ms"].to_numpy(dtype=float))]
    if frame.empty:
        return {}
    first = float(frame["start"].iloc[0])
    return {str(name): _requests(group, first) for name, group in frame.groupby("service", sort=False, observed=True)}


def _requests(frame: pd.DataFrame, first: float) -> Requests:
    latency = frame["response_time_ms"].to_numpy(dtype=float)
    return Requests(
        elapsed_s=frame["start"].to_numpy(dtype=float) - first,
        latency_ms=latency,
        failed=frame["failed"].to_numpy(dtype=bool),
        ordered_ms=np.sort(latency),
    )


def rounded(values: Any, digits: int = 4) -> list[float | None]:
    """Numbers for a chart: ``digits`` significant digits, ``None`` (a gap) for what is not finite."""
    return [float(f"{value:.{digits}g}") if math.isfinite(value) else None for value in np.asarray(values, dtype=float)]


def log_edges(samples: Sequence[Requests], bins: int) -> Floats:
    """Bin edges of equal width on a log axis, from the 0.05th to the 99.95th percentile of all samples.

    The outermost 0.1 % would stretch the axis for what nobody can see; `log_density` counts them in the end bins.
    """
    low = min(float(np.quantile(sample.ordered_ms, 0.0005)) for sample in samples)
    high = max(float(np.quantile(sample.ordered_ms, 0.9995)) for sample in samples)
    low, high = max(low, 1e-3), max(high, 2e-3)
    if high < low * 1.2:
        low, high = low / 1.1, low * 1.1
    return np.geomspace(low, high, bins + 1)


def log_density(sample: Requests, edges: Floats) -> Floats:
    """Share of requests in percent per bin, smoothed over its neighbours, one value per bin."""
    inside = np.clip(sample.ordered_ms, edges[0], edges[-1])
    share = np.histogram(inside, bins=edges)[0] / len(inside) * 100.0
    padded = np.pad(share, len(_KERNEL) // 2, mode="reflect")
    smooth: Floats = np.convolve(padded, _KERNEL, mode="valid")
    return smooth


def quantiles(sample: Requests, levels: Floats, beyond: int = BEYOND) -> Floats:
    """Exact quantiles (linear between order statistics); ``nan`` where fewer than ``beyond`` requests lie above."""
    values = np.quantile(sample.ordered_ms, levels)
    return np.where(len(sample.ordered_ms) * (1.0 - levels) >= beyond, values, np.nan)


def pooled(samples: Sequence[Requests]) -> Requests:
    """All requests of several runs as one sample; only its order statistics have a meaning."""
    latency = np.concatenate([sample.latency_ms for sample in samples])
    return Requests(
        elapsed_s=np.concatenate([sample.elapsed_s for sample in samples]),
        latency_ms=latency,
        failed=np.concatenate([sample.failed for sample in samples]),
        ordered_ms=np.sort(latency),
    )


def bin_width(samples: Sequence[Requests], most: int) -> int:
    """Whole seconds per point of a time course, so that the longest run has at most about ``most`` points."""
    longest = max(float(sample.elapsed_s[-1]) for sample in samples)
    return next((width for width in _WIDTHS if longest / width <= most), _WIDTHS[-1])


def course(sample: Requests, width: int, length: int) -> dict[str, Floats]:
    """Throughput (1/s), p50 and p95 (ms) and errors (%) in each of ``length`` bins of ``width`` seconds.

    A bin without requests has throughput 0 and no latency; a percentile needs 5 requests, a p95 needs 20.
    """
    index = (sample.elapsed_s / width).astype(np.int64)
    keep = index < length
    index, latency = index[keep], sample.latency_ms[keep]
    count = np.bincount(index, minlength=length).astype(float)
    failures = np.bincount(index, weights=sample.failed[keep], minlength=length)
    ordered = latency[np.lexsort((latency, index))]
    ends = np.cumsum(count).astype(np.int64)
    with np.errstate(divide="ignore", invalid="ignore"):
        errors = failures / count * 100.0
    return {
        "rps": count / width,
        "p50": _bin_quantile(ordered, ends, count, 0.5, 5),
        "p95": _bin_quantile(ordered, ends, count, 0.95, 20),
        "errors": errors,
    }


def _bin_quantile(ordered: Floats, ends: NDArray[np.int64], count: Floats, level: float, least: int) -> Floats:
    if ordered.size == 0:
        return np.full(len(count), np.nan)
    rank = ends - count.astype(np.int64) + np.maximum(np.ceil(count * level).astype(np.int64) - 1, 0)
    values = ordered[np.minimum(rank, ordered.size - 1)]
    return np.where(count >= least, values, np.nan)


def whole_bins(samples: Sequence[Requests], width: int) -> int:
    """Number of bins that the median run fills to the end."""
    return max(1, int(np.median([sample.elapsed_s[-1] for sample in samples]) // width))


def spread(rows: Sequence[Floats]) -> tuple[Floats, Floats, Floats]:
    """Lowest, median and highest over runs at each point; ``nan`` where no run has a value."""
    table = np.vstack(rows)
    empty = np.isnan(table).all(axis=0)
    filled = np.where(empty, 0.0, table)
    bounds = (np.nanmin(filled, axis=0), np.nanmedian(filled, axis=0), np.nanmax(filled, axis=0))
    low, middle, high = (np.where(empty, np.nan, bound) for bound in bounds)
    return low, middle, high


@dataclass(slots=True)
class Drawing:
    """The parts of a chart, as plotly names them, until `figure` makes one of them.

    plotly checks every part whenever one is added, so a chart with hundreds of marks that grows piece by piece takes
    many seconds; checked as a whole it takes milliseconds.
    """

    traces: list[dict[str, Any]] = field(default_factory=list)
    annotations: list[dict[str, Any]] = field(default_factory=list)
    shapes: list[dict[str, Any]] = field(default_factory=list)
    layout: dict[str, Any] = field(default_factory=dict)

    def scatter(self, **trace: Any) -> None:
        """Add marks or a line."""
        self.traces.append({"type": "scatter", **trace})

    def text(self, **annotation: Any) -> None:
        """Add a text; it is plotly's HTML, so names must have gone through `perfkit.report.formatting.label`."""
        self.annotations.append({"showarrow": False, **annotation})

    def shape(self, **shape: Any) -> None:
        """Add a rectangle or a stroke."""
        self.shapes.append(shape)

    def arrange(self, **parts: Any) -> None:
        """Set parts of the layout; a part that is there already, such as an axis, is added to."""
        for name, part in parts.items():
            before = self.layout.get(name)
            self.layout[name] = {**before, **part} if isinstance(before, dict) and isinstance(part, dict) else part

    def figure(self) -> go.Figure:
        """The finished chart."""
        layout = {**self.layout, "annotations": self.annotations, "shapes": self.shapes}
        return go.Figure({"data": self.traces, "layout": layout})


def sentence(text: str) -> go.Figure:
    """A figure without marks that says why there is nothing to draw; its ``layout.meta`` has the text as ``note``."""
    lines = textwrap.wrap(clean(text), 56)
    drawing = Drawing()
    place = {"x": 0, "xref": "paper", "xanchor": "left", "y": 0.5, "yref": "paper", "yanchor": "middle"}
    drawing.text(text="<br>".join(label(line, 60) for line in lines), align="left", font={"size": 13}, **place)
    hidden = {"visible": False, "fixedrange": True}
    margin = {"l": 12, "r": 12, "t": 8, "b": 8}
    drawing.arrange(**layout(26 + 20 * len(lines), text, margin=margin, xaxis=hidden, yaxis=hidden, dragmode=False))
    drawing.arrange(meta={"note": text})
    return drawing.figure()


EVERY = "\0"
"""The owner of a trace that is seen whatever service is chosen."""
MOST_SERVICES = 30
"""More services than this make a chart that nobody reads; the tables have them all."""


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


@dataclass(frozen=True, slots=True)
class Stack:
    """Geometry, in pixels, of ``rows`` panels of equal height under one another, below a strip of ``head``, if any."""

    rows: int
    row: int
    gap: int = 34
    top: int = 52
    bottom: int = 46
    head: int = 0

    @property
    def plot(self) -> int:
        """Height of all panels and the gaps between them."""
        return self.rows * self.row + (self.rows - 1) * self.gap + (self.head + self.gap if self.head else 0)

    @property
    def height(self) -> int:
        """Height of the whole chart."""
        return self.plot + self.top + self.bottom

    def domain(self, index: int) -> list[float]:
        """Where panel ``index`` (0 is at the top) lies, as plotly wants it."""
        start = index * (self.row + self.gap) + (self.head + self.gap if self.head else 0)
        return [max(0.0, 1.0 - (start + self.row) / self.plot), 1.0 - start / self.plot]

    @property
    def strip(self) -> list[float]:
        """Where the strip above the panels lies."""
        return [1.0 - self.head / self.plot, 1.0]

    def title(self, drawing: Drawing, index: int, text: str) -> None:
        """Write ``text`` above panel ``index``; it is plotly's HTML, so names must have gone through `label`."""
        drawing.text(
            x=0,
            xref="paper",
            xanchor="left",
            xshift=-46,
            y=self.domain(index)[1],
            yref="paper",
            yanchor="bottom",
            yshift=6,
            text=text,
            font={"size": 12},
        )


def axis(index: int) -> str:
    """plotly counts axes ``x``, ``x2``, ``x3``."""
    return "" if index == 0 else str(index + 1)


def band(drawing: Drawing, side: Side, x: Sequence[Any], low: Floats, high: Floats, **where: Any) -> None:
    """Draw the stretch from the lowest to the highest run, gaps left out."""
    keep = [i for i in range(len(x)) if math.isfinite(low[i]) and math.isfinite(high[i])]
    xs = [x[i] for i in keep]
    lows, highs = rounded(low[keep]), rounded(high[keep])
    drawing.scatter(
        x=xs + xs[::-1],
        y=highs + lows[::-1],
        mode="lines",
        line={"width": 0},
        fill="toself",
        fillcolor=side.band,
        hoverinfo="skip",
        showlegend=False,
        **where,
    )


def line(drawing: Drawing, side: Side, x: Sequence[Any], y: Floats, **extra: Any) -> None:
    """Draw the line of one side."""
    style = {"color": side.colour, "width": 2.2, "dash": side.dash}
    drawing.scatter(x=list(x), y=rounded(y), mode="lines", line=style, name=side.name, **extra)


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


def selector(drawing: Drawing, services: Sequence[str], owners: Sequence[str], stack: Stack, below: int = 28) -> None:
    """Let the reader choose the service whose traces are seen.

    ``owners`` names the service of each trace, or `EVERY`; ``below`` is where the menu begins, in pixels from the top.
    """
    for trace, owner in zip(drawing.traces, owners, strict=True):
        trace["visible"] = owner in (services[0], EVERY)
    if len(services) < 2:
        return
    buttons = [
        {"label": label(name, 34), "method": "restyle", "args": [{"visible": [o in (name, EVERY) for o in owners]}]}
        for name in services
    ]
    drawing.arrange(
        updatemenus=[
            {
                "buttons": buttons,
                "x": 0,
                "xanchor": "left",
                "y": 1 + (stack.top - below) / stack.plot,
                "yanchor": "top",
                "pad": {"l": -46, "t": 0, "b": 0, "r": 0},
                "bgcolor": "rgba(128,136,150,0.10)",
                "bordercolor": "rgba(128,136,150,0.45)",
                "showactive": True,
            }
        ]
    )
