"""A plotly figure as a static picture: SVG, drawn without a browser.

Viewers that run no script (GitHub's and VS Code's previews, nbconvert's stock templates, Markdown) show a picture where
they cannot show plotly's JSON.  kaleido needs a browser for it and a second per figure; perfkit's figures are lines,
markers, bands, rectangles and texts on linear, logarithmic, date or category axes, which is what is drawn here, in
milliseconds.  What a figure has beyond that makes `svg_of` answer ``None``: no picture is better than a wrong one.

The picture has a light ground of its own, so that it reads on dark pages too.  It shows what the figure shows at first:
hidden traces are not drawn.
"""

from __future__ import annotations

import html
import math
import re
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from itertools import pairwise
from typing import Any

WIDTH = 900  # pixels
_INK, _SOFT, _GRID, _GROUND = "#24292f", "#5d6570", "#e4e7ea", "#ffffff"
_FONT = 12.0
_DASHES = {"dash": "6 4", "dot": "2 3", "longdash": "10 4", "dashdot": "6 3 2 3"}
_DRAWN = {
    *("circle", "circle-x", "square", "diamond", "x", "cross", "star", "line-ns", "line-ew"),
    *("triangle-up", "triangle-down", "triangle-left", "triangle-right"),
}
_TAG = re.compile(r"<(/?)(b|i|br|span|a|sup|sub)\b[^>]*>", re.IGNORECASE)


def svg_of(figure: Mapping[str, Any], width: int = WIDTH) -> str | None:
    """The picture of a figure's JSON, or ``None`` where it holds what is not drawn here (bars, maps, 3D, ...)."""
    layout = figure.get("layout", {})
    traces = [trace for trace in figure.get("data", ()) if trace.get("visible", True) is True]
    if not traces or any(not _is_drawable(trace) for trace in traces):
        return None
    try:
        return _Picture(layout, traces, width).draw()
    except (KeyError, TypeError, ValueError):  # a layout that plotly accepts and this module does not know
        return None


def _is_drawable(trace: Mapping[str, Any]) -> bool:
    marker = trace.get("marker", {})
    symbols = marker.get("symbol", "circle")
    symbols = symbols if isinstance(symbols, list | tuple) else [symbols]
    return (
        trace.get("type", "scatter") == "scatter"
        and trace.get("fill", "none") in ("none", "toself")
        and not ({"error_x", "error_y", "stackgroup"} & set(trace))
        and "text" not in str(trace.get("mode", ""))
        and all(str(symbol).removesuffix("-open") in _DRAWN for symbol in symbols)
        and trace.get("line", {}).get("shape", "linear") in ("linear", "hv")
    )


@dataclass(slots=True)
class _Axis:
    """One axis: from values to pixels, and its ticks."""

    kind: str  # linear, log, date, category
    low: float
    high: float
    begin: float  # pixels
    end: float
    categories: tuple[Any, ...]
    options: Mapping[str, Any]

    def number(self, value: Any) -> float:
        """A value in the units of the axis (a logarithm, seconds since the epoch, the place of a category)."""
        if value is None:
            return math.nan
        if self.kind == "category":
            if isinstance(value, int | float):  # a place among them
                return float(value)
            first, steps = value if isinstance(value, tuple) else (value, 0.0)
            return self.categories.index(first) + steps if first in self.categories else math.nan
        if self.kind == "date":
            return _seconds(value)
        number = float(value)
        return (math.log10(number) if number > 0 else math.nan) if self.kind == "log" else number

    def pixel(self, value: Any) -> float:
        return self.at(self.number(value))

    def at(self, number: float) -> float:
        share = (number - self.low) / (self.high - self.low) if self.high != self.low else 0.5
        return self.begin + share * (self.end - self.begin)

    def ticks(self) -> list[tuple[float, str]]:
        """Place in pixels and text of each tick."""
        options = self.options
        if options.get("showticklabels") is False or options.get("visible") is False:
            return []
        if options.get("tickvals") is not None:
            values = list(options["tickvals"])
            texts = options.get("ticktext") or [_short(value) for value in values]
            pairs = [(self.number(value), str(text)) for value, text in zip(values, texts, strict=False)]
        elif self.kind == "category":
            pairs = [(float(i), str(category)) for i, category in enumerate(self.categories)]
        elif self.kind == "date":
            pairs = _date_ticks(self.low, self.high)
        elif self.kind == "log":
            first, last = math.ceil(min(self.low, self.high)), math.floor(max(self.low, self.high))
            pairs = [(float(i), _short(10.0**i)) for i in range(first, last + 1)]
        else:
            most = int(options.get("nticks") or max(2, abs(self.end - self.begin) // 70))
            pairs = [(value, _short(value)) for value in _steps(self.low, self.high, most)]
        suffix = options.get("ticksuffix", "")
        inside = (min(self.low, self.high) - 1e-9, max(self.low, self.high) + 1e-9)
        return [(self.at(number), text + suffix) for number, text in pairs if inside[0] <= number <= inside[1]]


class _Picture:
    """A picture in the making; places are in pixels from the top left."""

    def __init__(self, layout: Mapping[str, Any], traces: Sequence[Mapping[str, Any]], width: int) -> None:
        template = layout.get("template", {}).get("layout", {})
        self.layout, self.traces = layout, traces
        margin = {"l": 70, "r": 30, "t": 60, "b": 60} | template.get("margin", {}) | layout.get("margin", {})
        self.width, self.height = width, int(layout.get("height") or 450)
        self.left, self.right = float(margin["l"]), width - float(margin["r"])
        self.top, self.bottom = float(margin["t"]), self.height - float(margin["b"])
        self.legend_style = template.get("legend", {}) | layout.get("legend", {})
        self.parts: list[str] = []
        names = {name for trace in traces for name in (trace.get("xaxis", "x"), trace.get("yaxis", "y"))}
        self.axes = {name: self._axis(name, template) for name in sorted(names)}

    def draw(self) -> str:
        """The whole picture."""
        for name, axis in self.axes.items():
            self._grid(name, axis)
        shapes = self.layout.get("shapes") or ()
        for shape in (shape for shape in shapes if shape.get("layer") == "below"):
            self._shape(shape)
        for trace in self.traces:
            self._trace(trace)
        for shape in (shape for shape in shapes if shape.get("layer") != "below"):
            self._shape(shape)
        for note in self.layout.get("annotations") or ():
            self._note(note)
        for menu in self.layout.get("updatemenus") or ():  # what it stands at says what is drawn
            buttons = menu.get("buttons") or ()
            if not buttons:  # a menu that is hidden
                continue
            active = int(menu.get("active") or 0)
            chosen = buttons[active]["label"]
            more = f" ({active + 1} of {len(buttons)})" if len(buttons) > 1 else ""
            self._text(
                f"<b>{chosen}{more}</b>", 10.0, self._place(menu.get("y", 1.0), "paper", "y") + 16.0, "start", _INK
            )
        self._legend()
        meta = self.layout.get("meta")
        title = meta.get("alt", "") if isinstance(meta, Mapping) else ""
        return (
            f'<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 {self.width} {self.height}" width="{self.width}" '
            f'height="{self.height}" font-family="system-ui,Helvetica,Arial,sans-serif" font-size="{_FONT:g}" '
            f'fill="{_INK}" role="img" aria-label="{html.escape(title)}">'
            f'<rect width="100%" height="100%" fill="{_GROUND}"/>{"".join(self.parts)}</svg>'
        )

    def _axis(self, name: str, template: Mapping[str, Any]) -> _Axis:
        key = f"{name[0]}axis{name[1:]}"
        options = {**template.get(f"{name[0]}axis", {}), **self.layout.get(key, {})}
        axis_of = "xaxis" if name[0] == "x" else "yaxis"
        values = [v for t in self.traces if t.get(axis_of, name[0]) == name for v in _values(t, name[0])]
        kind = options.get("type") or _kind(values)
        low_share, high_share = options.get("domain") or self._domain(name)
        if name[0] == "x":
            begin = self.left + low_share * (self.right - self.left)
            end = self.left + high_share * (self.right - self.left)
        else:
            begin = self.bottom - low_share * (self.bottom - self.top)
            end = self.bottom - high_share * (self.bottom - self.top)
        categories: tuple[Any, ...] = ()
        if kind == "category":
            categories = tuple(
                dict.fromkeys([*options.get("categoryarray", ()), *(v for v in values if isinstance(v, str))])
            )
        axis = _Axis(kind, 0.0, 1.0, begin, end, categories, options)
        if options.get("range") is not None:
            low, high = (_seconds(v) if kind == "date" else float(v) for v in options["range"])
        else:
            numbers = [number for number in map(axis.number, values) if math.isfinite(number)] or [0.0, 1.0]
            low, high = min(numbers), max(numbers)
            pad = 0.5 if kind == "category" else 0.06 * (high - low) or 0.05 * abs(high) or 1.0
            lines_only = name[0] == "x" and not any("markers" in str(t.get("mode", "")) for t in self.traces)
            low, high = (low, high) if lines_only and kind != "category" and high > low else (low - pad, high + pad)
            if kind == "linear" and options.get("rangemode") in ("tozero", "nonnegative") and min(numbers) >= 0.0:
                low = 0.0
        axis.low, axis.high = low, high
        return axis

    def _domain(self, name: str) -> tuple[float, float]:
        """The share of the height (from below) or width that an axis has in plotly's grid."""
        grid = self.layout.get("grid") or {}
        rows = int(grid.get("rows") or 1)
        if name[0] == "x" or rows == 1:
            return 0.0, 1.0
        row = next((i for i, cells in enumerate(grid.get("subplots", ())) if cells[0].endswith(name)), None)
        if row is None or not any(cell.partition("y")[2] == name[1:] for cell in grid["subplots"][row]):
            row = next(i for i, cells in enumerate(grid["subplots"]) if cells[0].partition("y")[2] == name[1:])
        low, high = (grid.get("domain") or {}).get("y", (0.0, 1.0))
        gap = float(grid.get("ygap", 0.1 if rows > 1 else 0.0))
        step = (high - low) / (rows - gap)
        begin = low + (rows - 1 - row) * step
        return begin, begin + step * (1.0 - gap)

    def _grid(self, name: str, axis: _Axis) -> None:
        options = axis.options
        if options.get("visible") is False:
            return
        across = self._across(name, axis)
        ticks = axis.ticks()
        positions = [position for position, _ in ticks] if options.get("showgrid") is not False else []
        if (
            options.get("zeroline")
            and axis.kind == "linear"
            and min(axis.low, axis.high) <= 0 <= max(axis.low, axis.high)
        ):
            self._stroke(name, axis.at(0.0), across, _SOFT)
        for position in positions:
            self._stroke(name, position, across, _GRID)
        gap = 6.0 + float(options.get("ticklabelstandoff") or 0.0)
        for position, text in ticks:
            if name[0] == "x":
                half = 0.29 * _FONT * max(map(len, text.split("<br>")))  # what it takes at either side
                inside = min(max(position, half), self.width - half)
                self._text(text, inside, across[0] + gap + 9.0, "middle", _SOFT)
            else:
                self._text(text, across[0] - gap, position + 4.0, "end", _SOFT)
        title = options.get("title") or {}
        heading = title.get("text") if isinstance(title, Mapping) else title
        if name[0] == "x" and heading:
            lines = max((tick.count("<br>") for _, tick in ticks), default=0)
            below = across[0] + gap + 28.0 + 14.0 * lines
            self._text(str(heading), (axis.begin + axis.end) / 2, below, "middle", _SOFT)

    def _across(self, name: str, axis: _Axis) -> tuple[float, float]:
        """Where strokes of the grid begin and end: along the other axis."""
        if name[0] == "x":
            ys = [a for n, a in self.axes.items() if n[0] == "y" and a.options.get("visible") is not False]
            anchored = self.axes.get(str(axis.options.get("anchor", "y")))
            axes = [a for n, a in self.axes.items() if n[0] == "y" and a.options.get("anchor", "x") == name]
            axes = [a for a in axes if a.options.get("visible") is not False] or ([anchored] if anchored else ys)
            return max(a.begin for a in axes), min(a.end for a in axes)
        other = self.axes.get(str(axis.options.get("anchor", "x")))
        return (other.begin, other.end) if other else (self.left, self.right)

    def _stroke(self, name: str, position: float, across: tuple[float, float], colour: str) -> None:
        x1, x2, y1, y2 = (position, position, *across) if name[0] == "x" else (*across, position, position)
        self.parts.append(f'<path d="M{_p(x1)} {_p(y1)}L{_p(x2)} {_p(y2)}" stroke="{colour}"/>')

    def _trace(self, trace: Mapping[str, Any]) -> None:
        x, y = self.axes[trace.get("xaxis", "x")], self.axes[trace.get("yaxis", "y")]
        points = [(x.pixel(a), y.pixel(b)) for a, b in zip(_values(trace, "x"), _values(trace, "y"), strict=False)]
        opacity = f' opacity="{trace["opacity"]:g}"' if trace.get("opacity") is not None else ""
        mode, line = str(trace.get("mode", "lines")), trace.get("line", {})
        if trace.get("fill") == "toself":
            path = "".join(f"M{_path(piece)}Z" for piece in _pieces(points))
            self.parts.append(f'<path d="{path}" {_paint("fill", trace.get("fillcolor", _GRID))}{opacity}/>')
        if "lines" in mode and line.get("width", 2) > 0:
            if line.get("shape") == "hv":
                points = [p for a, b in pairwise(points) for p in (a, (b[0], a[1]))] + points[-1:]
            path = "".join(f"M{_path(piece)}" for piece in _pieces(points) if len(piece) > 1)
            if path:
                self.parts.append(f'<path d="{path}" fill="none" {_line(line)} stroke-linejoin="round"{opacity}/>')
        if "markers" in mode:
            marks = [(px, py, i) for i, (px, py) in enumerate(points) if math.isfinite(px) and math.isfinite(py)]
            marker = trace.get("marker", {})
            if _is_dot(marker):  # a history has thousands: a stroke without length and with round ends is short
                dots = "".join(f"M{_p(px)} {_p(py)}h0" for px, py, _ in marks)
                ink = _paint("stroke", marker.get("color", _SOFT))
                seen = f' opacity="{marker["opacity"]:g}"' if marker.get("opacity") is not None else ""
                wide = f'stroke-width="{float(marker.get("size", 6)):g}" stroke-linecap="round"'
                self.parts.append(f'<path d="{dots}" {ink} {wide}{seen}/>')
            else:
                self.parts += [_marker(marker, *mark) for mark in marks]

    def _shape(self, shape: Mapping[str, Any]) -> None:
        x1, x2 = (self._place(shape[key], shape.get("xref", "x"), "x") for key in ("x0", "x1"))
        y1, y2 = (self._place(shape[key], shape.get("yref", "y"), "y") for key in ("y0", "y1"))
        line = shape.get("line", {})
        opacity = f' opacity="{shape["opacity"]:g}"' if shape.get("opacity") is not None else ""
        stroke = _line(line)
        if shape.get("type") == "line":
            self.parts.append(f'<path d="M{_p(x1)} {_p(y1)}L{_p(x2)} {_p(y2)}" {stroke}{opacity}/>')
            return
        size = f'width="{_p(abs(x2 - x1))}" height="{_p(abs(y2 - y1))}"'
        edge = f" {stroke}" if line.get("width", 2) else ""
        fill = _paint("fill", shape.get("fillcolor", "none"))
        self.parts.append(f'<rect x="{_p(min(x1, x2))}" y="{_p(min(y1, y2))}" {size} {fill}{edge}{opacity}/>')

    def _place(self, value: Any, reference: str, direction: str) -> float:
        """A place in pixels of a value that refers to the picture (``paper``), an axis, or an axis's length."""
        if reference == "paper":
            begin, end = (self.left, self.right) if direction == "x" else (self.bottom, self.top)
            return begin + float(value) * (end - begin)
        axis = self.axes[reference.removesuffix(" domain")]
        if reference.endswith(" domain"):
            return axis.begin + float(value) * (axis.end - axis.begin)
        return axis.pixel(value)

    def _note(self, note: Mapping[str, Any]) -> None:
        x = self._place(note.get("x", 0.5), note.get("xref", "x"), "x") + float(note.get("xshift") or 0)
        y = self._place(note.get("y", 0.5), note.get("yref", "y"), "y") - float(note.get("yshift") or 0)
        anchor = {"left": "start", "right": "end"}.get(note.get("xanchor", "center"), "middle")
        size = float((note.get("font") or {}).get("size") or _FONT)
        lines = str(note.get("text", "")).count("<br>") + 1
        below = {"bottom": -3.0 - (lines - 1) * size * 1.3, "top": size}.get(
            note.get("yanchor", "middle"), size * 0.35 - (lines - 1) * size * 0.65
        )
        self._text(str(note.get("text", "")), x, y + below, anchor, (note.get("font") or {}).get("color", _INK), size)

    def _text(self, text: str, x: float, y: float, anchor: str, colour: str, size: float = _FONT) -> None:
        """A text of plotly's HTML: bold and breaks are kept, other tags left out, and names escaped anew."""
        lines = []
        for i, part in enumerate(re.split(r"<br\s*/?>", text, flags=re.IGNORECASE)):
            bold = ' font-weight="600"' if re.search(r"<b\b", part, re.IGNORECASE) else ""
            plain = html.escape(html.unescape(_TAG.sub("", part)))
            lines.append(f'<tspan x="{_p(x)}" y="{_p(y + i * size * 1.3)}"{bold}>{plain}</tspan>')
        self.parts.append(
            f'<text text-anchor="{anchor}" font-size="{size:g}" {_paint("fill", colour)}>{"".join(lines)}</text>'
        )

    def _legend(self) -> None:
        """The entries above the panels, in rows."""
        if self.layout.get("showlegend") is False:
            return
        entries = [trace for trace in self.traces if trace.get("showlegend", True) and trace.get("name")]
        if len(entries) < 2 and not self.layout.get("showlegend"):
            return
        x, y = 14.0, 18.0
        for trace in entries:
            name = html.unescape(_TAG.sub("", str(trace["name"])))
            wide = max(28.0 + 6.6 * len(name) + 14.0, float(self.legend_style.get("entrywidth") or 0.0))
            if x + wide > self.width and x > 14.0:
                x, y = 14.0, y + 20.0
            mode, line = str(trace.get("mode", "lines")), trace.get("line", {})
            if "lines" in mode:
                self.parts.append(f'<path d="M{_p(x)} {_p(y - 4)}h22" {_line(line)}/>')
            if "markers" in mode:
                self.parts.append(_marker(trace.get("marker", {}), x + 11.0, y - 4.0, 0))
            self._text(html.escape(name), x + 28.0, y, "start", _INK)
            x += wide


def _values(trace: Mapping[str, Any], direction: str) -> Sequence[Any]:
    """The values of a trace along an axis; plotly counts them where only the first and the step are given."""
    values = trace.get(direction)
    if values is not None:
        if isinstance(values, Mapping):
            raise ValueError("binary arrays are not read")
        return list(values)
    other = trace.get("y" if direction == "x" else "x") or ()
    first, step = trace.get(f"{direction}0", 0), float(trace.get(f"d{direction}", 1))
    if isinstance(first, str):  # a category, and steps from it
        return [(first, i * step) for i in range(len(other))]
    return [float(first) + i * step for i in range(len(other))]


def _kind(values: Sequence[Any]) -> str:
    texts = [value for value in values if isinstance(value, str)]
    if not texts:
        return "linear"
    return "date" if all(re.match(r"\d{4}-\d\d-\d\d", text) for text in texts) else "category"


def _seconds(value: Any) -> float:
    """Seconds since the epoch of a date as plotly writes it."""
    if isinstance(value, int | float):
        return float(value) / 1000.0
    at = datetime.fromisoformat(str(value))
    return (at if at.tzinfo else at.replace(tzinfo=UTC)).timestamp()


def _steps(low: float, high: float, most: int) -> list[float]:
    """Round values between two ends, at most about so many."""
    low, high = min(low, high), max(low, high)
    if not high > low:
        return [low]
    raw = (high - low) / max(most, 1)
    power = 10.0 ** math.floor(math.log10(raw))
    step = next(factor * power for factor in (1.0, 2.0, 5.0, 10.0) if factor * power >= raw * 0.999)
    first = math.ceil(low / step - 1e-9)
    return [i * step for i in range(first, math.floor(high / step + 1e-9) + 1)]


def _date_ticks(low: float, high: float) -> list[tuple[float, str]]:
    """At most seven days, or hours within one day."""
    hours = (high - low) / 3600.0
    step = next((h for h in (1, 3, 6, 12, 24, 48, 168, 336, 720, 2160, 8760) if hours / h <= 7), 8760) * 3600.0
    first = math.ceil(low / step) * step
    form = "{0:%H:%M}" if step < 86400 else "{0.day} {0:%b}"
    begin = datetime.fromtimestamp(first, UTC)
    count = int((high - first) // step) + 1 if high >= first else 0
    moments = [begin + timedelta(seconds=i * step) for i in range(count)]
    return [(at.timestamp(), form.format(at)) for at in moments]


def _short(value: Any) -> str:
    if not isinstance(value, int | float):
        return str(value)
    for limit, sign in ((1e9, "G"), (1e6, "M"), (1e4, "k")):
        if abs(value) >= limit:
            return f"{value / (1e3 if sign == 'k' else limit):g}{sign}"
    return f"{value:.6g}"


def _pieces(points: Sequence[tuple[float, float]]) -> Iterator[list[tuple[float, float]]]:
    """Stretches without a gap."""
    piece: list[tuple[float, float]] = []
    for point in points:
        if all(map(math.isfinite, point)):
            piece.append(point)
        elif piece:
            yield piece
            piece = []
    if piece:
        yield piece


def _path(points: Sequence[tuple[float, float]]) -> str:
    return "L".join(f"{_p(x)} {_p(y)}" for x, y in points)


def _p(value: float) -> str:
    """A place in tenths of a pixel."""
    return f"{value:.1f}".removesuffix(".0")


def _paint(attribute: str, colour: Any) -> str:
    """A colour as an attribute; SVG has no ``rgba`` everywhere."""
    match = re.fullmatch(r"rgba\(\s*(\d+)\s*,\s*(\d+)\s*,\s*(\d+)\s*,\s*([\d.]+)\s*\)", str(colour))
    if not match:
        return f'{attribute}="{html.escape(str(colour))}"'
    return f'{attribute}="rgb({match[1]},{match[2]},{match[3]})" {attribute}-opacity="{match[4]}"'


def _line(line: Mapping[str, Any]) -> str:
    """Colour, width and dashes of a plotly line as attributes."""
    dash = f' stroke-dasharray="{_DASHES[line["dash"]]}"' if line.get("dash") in _DASHES else ""
    return f'{_paint("stroke", line.get("color", _SOFT))} stroke-width="{line.get("width", 2):g}"{dash}'


def _is_dot(marker: Mapping[str, Any]) -> bool:
    """Whether all markers are one filled circle without an edge."""
    style = (marker.get(key) for key in ("size", "color", "opacity", "symbol"))
    return (
        not any(isinstance(value, list | tuple) for value in style)
        and marker.get("symbol", "circle") == "circle"
        and not marker.get("line", {}).get("width")
    )


def _marker(marker: Mapping[str, Any], x: float, y: float, index: int) -> str:
    """One marker; its options are one for all, or one each."""

    def value_of(value: Any) -> Any:
        return value[index % len(value)] if isinstance(value, list | tuple) and value else value

    symbol = str(value_of(marker.get("symbol", "circle")))
    size, colour = float(value_of(marker.get("size", 6))), value_of(marker.get("color", _SOFT))
    line = marker.get("line", {})
    edge, wide = value_of(line.get("color", colour)), float(value_of(line.get("width", 0)) or 0)
    is_open, r = symbol.endswith("-open"), size / 2.0
    shape = symbol.removesuffix("-open")
    if shape == "circle":
        body = f'<circle cx="{_p(x)}" cy="{_p(y)}" r="{r:g}"'
    elif shape == "circle-x":
        d = r * 0.70711
        cross = f"M{_p(x - d)} {_p(y - d)}l{2 * d:.1f} {2 * d:.1f}M{_p(x + d)} {_p(y - d)}l{-2 * d:.1f} {2 * d:.1f}"
        body = f'<path d="M{_p(x - r)} {_p(y)}a{r:g} {r:g} 0 1 0 {size:g} 0a{r:g} {r:g} 0 1 0 {-size:g} 0{cross}"'
    else:
        body = f'<path d="{_outline(shape, x, y, r)}"'
    if is_open or shape.startswith("line"):
        paint = f'fill="none" {_paint("stroke", edge if is_open else colour)} stroke-width="{max(wide, 1.5):g}"'
    else:
        paint = _paint("fill", colour) + (f' {_paint("stroke", edge)} stroke-width="{wide:g}"' if wide else "")
    opacity = value_of(marker.get("opacity"))
    return f"{body} {paint}{f' opacity={chr(34)}{opacity:g}{chr(34)}' if opacity is not None else ''}/>"


def _outline(shape: str, x: float, y: float, r: float) -> str:
    if shape == "line-ns":
        return f"M{_p(x)} {_p(y - r)}V{_p(y + r)}"
    if shape == "line-ew":
        return f"M{_p(x - r)} {_p(y)}H{_p(x + r)}"
    corners: list[tuple[float, float]]
    if shape == "square":
        corners = [(-1, -1), (1, -1), (1, 1), (-1, 1)]
    elif shape == "diamond":
        corners = [(0, -1.3), (1.3, 0), (0, 1.3), (-1.3, 0)]
    elif shape == "triangle-up":
        corners = [(0, -1.1), (1.15, 0.9), (-1.15, 0.9)]
    elif shape == "triangle-down":
        corners = [(0, 1.1), (1.15, -0.9), (-1.15, -0.9)]
    elif shape == "triangle-left":
        corners = [(-1.1, 0), (0.9, 1.15), (0.9, -1.15)]
    elif shape == "triangle-right":
        corners = [(1.1, 0), (-0.9, 1.15), (-0.9, -1.15)]
    elif shape == "star":
        corners = [
            (radius * math.sin(i * math.pi / 5), -radius * math.cos(i * math.pi / 5))
            for i, radius in enumerate((1.4, 0.6) * 5)
        ]
    else:  # a cross, upright or slanting
        arm = [(-0.4, -1.2), (0.4, -1.2), (0.4, -0.4), (1.2, -0.4), (1.2, 0.4), (0.4, 0.4)]
        corners = arm + [(-a, -b) for a, b in arm]
        if shape == "x":
            corners = [((a - b) * 0.70711, (a + b) * 0.70711) for a, b in corners]
    return "M" + "L".join(f"{_p(x + a * r)} {_p(y + b * r)}" for a, b in corners) + "Z"
