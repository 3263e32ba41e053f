"""`Explorer`: a comparison that is chosen by hand, runs, services, metrics and a stretch of time, in a notebook.

What is chosen is plain state; `Explorer.figures` draws it anywhere.  Where somebody sits before the notebook, widgets
change the state; where nobody does (papermill, nbconvert), the figures stand there as they are.
"""

from __future__ import annotations

import html
import json
import shlex
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from datetime import UTC
from functools import lru_cache
from importlib.util import find_spec
from typing import TYPE_CHECKING, Any

import numpy as np

from perfkit.analysis.compare import judge
from perfkit.analysis.error_kinds import error_kinds
from perfkit.config.policy import Policy
from perfkit.history.change_events import HistoryAnalysis
from perfkit.history.timeline import load_timeline, timeline_of
from perfkit.history.trend import History, trend_of
from perfkit.model.errors import MissingExtra, PerfkitError, SettingsError, did_you_mean
from perfkit.model.installation import extra_advice
from perfkit.model.records import Comparison, Metric, Run, service_names
from perfkit.report import display, plot
from perfkit.report.figure import requests_of_all, sentence
from perfkit.report.findings import worst_first
from perfkit.report.formatting import KEY_METRICS, SHORT_METRICS, clean, count_text, shorten
from perfkit.report.html import Html, note
from perfkit.runs.requests import RequestLoader, Requests, columns_of, renamed_runs
from perfkit.runs.store import RunStore

if TYPE_CHECKING:
    import pandas as pd
    import plotly.graph_objects as go

MOST_RUNS = 300  # to choose from, the newest
MOST_SERVICES = 6  # chosen where nobody chooses any: those that changed most
_WIDGETS = ("ipywidgets", "anywidget")
HEADINGS = {
    "comparison": "Comparison",
    "timeline": "Time course",
    "latency": "Distributions",
    "percentiles": "Percentiles",
    "errors": "Errors",
    "trend": "Trend",
    "commands": "The same elsewhere",
}
_OF_STRETCH = ("latency", "percentiles", "commands")  # what a stretch of time changes


@dataclass
class Explorer:
    """What is looked at; `perfkit.explore` makes one.

    Attributes
    ----------
    stores
        Where the runs are: one store, or the folders of perfkit's samples.
    scenario
        Its runs may be chosen.
    baseline, candidate
        Ids of runs.
    services
        Names; empty: those that changed most.
    metrics
        Of the comparison and of the trend, in short too; empty: the usual ones.
    seconds
        Only requests that began between these seconds of their run are in the distributions; ``None``: all.
    """

    stores: tuple[RunStore, ...]
    policy: Policy
    scenario: str
    baseline: tuple[str, ...]
    candidate: tuple[str, ...]
    services: tuple[str, ...] = ()
    metrics: tuple[Metric, ...] = ()
    seconds: tuple[float, float] | None = None
    options: Mapping[str, str] = field(default_factory=dict)  # of the command line, such as --store
    outside: Sequence[Run] = ()  # runs that are in none of the stores
    _read: dict[str, Run] = field(init=False, repr=False, default_factory=dict)
    _judged: dict[tuple[tuple[str, ...], ...], Comparison] = field(init=False, repr=False, default_factory=dict)
    _histories: dict[str, History] = field(init=False, repr=False, default_factory=dict)

    def __post_init__(self) -> None:
        self._read.update({run.id: run for run in self.outside})
        if self.seconds is not None:
            ends = tuple(self.seconds) if isinstance(self.seconds, list | tuple) else ()
            if len(ends) != 2 or not all(isinstance(end, int | float) for end in ends) or not 0 <= ends[0] < ends[1]:
                raise SettingsError(
                    f"seconds: expected two numbers, such as [10, 20], the second larger, got {self.seconds!r}"
                )
            self.seconds = ends
        self.services = _texts("services", self.services)
        try:
            self.metrics = tuple(map(Metric, _texts("metrics", self.metrics))) or KEY_METRICS
        except ValueError as error:
            raise SettingsError(f"metrics: {error}") from error
        there = self.all_services if self.services else ()
        for name in self.services:
            if name not in there:
                listed = ", ".join(there[:8])
                raise SettingsError(f"services: no service {name!r}{did_you_mean(name, there)}; there are {listed}")

    def __repr__(self) -> str:
        runs, services = f"{len(self.baseline)} against {len(self.candidate)} runs", len(self.shown_services)
        return f"<Explorer: {shorten(self.scenario)}; {runs}; {count_text(services, 'service')}>"

    @property
    def index(self) -> pd.DataFrame:
        """The runs of all scenarios, oldest first; columns as of `RunStore.runs`."""
        import pandas as pd

        frames = [frame for store in self.stores if len(frame := store.runs())]
        if not frames:
            return self.stores[0].runs()
        return pd.concat(frames, ignore_index=True).sort_values(["started_at", "id"], ignore_index=True)

    def run(self, run_id: str) -> Run:
        """A run by its id, under the names that its services have now."""
        if run_id not in self._read:
            holder = next((store for store in self.stores if run_id in store), self.stores[0])
            self._read[run_id] = renamed_runs([holder.get(run_id)], self.policy.service_names)[0]
        return self._read[run_id]

    @property
    def sides(self) -> tuple[tuple[Run, ...], tuple[Run, ...]]:
        """The runs of baseline and candidate."""
        return tuple(map(self.run, self.baseline)), tuple(map(self.run, self.candidate))

    @property
    def comparison(self) -> Comparison:
        """The whole runs, compared: services and a stretch of time that are chosen by eye do not change the verdict."""
        key = (self.baseline, self.candidate)
        if key not in self._judged:
            self._judged[key] = judge(*self.sides, self.policy)
        return self._judged[key]

    @property
    def history(self) -> History:
        """The history of the scenario."""
        if self.scenario not in self._histories:
            if len(self.stores) == 1:
                names = self.policy.service_names
                timeline = load_timeline(self.stores[0], self.scenario, service_names=names)
            else:
                frame = self.index
                timeline = timeline_of(self.scenario, map(self.run, frame["id"][frame["scenario"] == self.scenario]))
            self._histories[self.scenario] = trend_of(HistoryAnalysis(timeline, self.policy.alpha))
        return self._histories[self.scenario]

    @property
    def all_services(self) -> tuple[str, ...]:
        """Services of the chosen runs: those that changed most first."""
        before, after = self.sides
        names, ranked = service_names(before, after), list[str]()
        if before and after:  # a finding may be one of all services together
            ranked = [f.service for f in worst_first(self.comparison.findings) if f.service in names]
        return tuple(dict.fromkeys((*ranked, *names)))

    @property
    def shown_services(self) -> tuple[str, ...]:
        """The services that are drawn."""
        there = self.all_services
        return tuple(name for name in self.services if name in there) or there[:MOST_SERVICES]

    def requests(self) -> pd.DataFrame:
        """The requests that the distributions show: of both sides, with ``run``, of the chosen services and stretch."""
        from perfkit.runs.collection import Runs

        frame = Runs([run for side in self._stretched() for run in side]).requests()
        return frame[frame["service"].isin(self.shown_services)]

    def summary(self) -> pd.DataFrame:
        """A row per run and service of those requests: how many, of which failed, and latencies in ms."""
        import pandas as pd

        stretched = [run for side in self._stretched() for run in side]
        rows = [
            (
                *(run.id, name, of.latencies.total, int(of.counts[of.failed].sum())),
                *of.latencies.quantiles([0.5, 0.95, 0.99, 1.0]),
            )
            for run in stretched
            for name in self.shown_services
            for of in requests_of_all([run], name)
        ]
        columns = ["run", "service", "requests", "failed", "p50_ms", "p95_ms", "p99_ms", "max_ms"]
        return pd.DataFrame(rows, columns=columns).set_index(["run", "service"])

    def figures(self, names: Sequence[str] = tuple(HEADINGS)) -> dict[str, go.Figure | Html]:
        """What `HEADINGS` names, drawn; what cannot be drawn says why."""
        return {name: self._drawn(name) for name in names}

    def command(self) -> str:
        """The command line that compares these runs."""
        options = [word for pair in self.options.items() for word in pair]
        before, after = self._names()
        return shlex.join(["perfkit", "compare", *before, "--candidate", *after, *options])

    def report_command(self, notebook: str = "compare.ipynb") -> str:
        """The command line that executes ``compare.ipynb`` or ``explore.ipynb`` with these runs by papermill."""
        values: dict[str, Any] = dict(zip(("baseline", "candidate"), self._names(), strict=True))
        if "--policy" in self.options:
            values["policy"] = self.options["--policy"]
        if notebook == "explore.ipynb":
            if "--store" in self.options:
                values["store"] = self.options["--store"]
            values |= {"scenario": self.scenario, "services": list(self.shown_services)}
            values |= {"metrics": [metric.value for metric in self.metrics]}
            values |= {"seconds": list(self.seconds)} if self.seconds else {}
        parameters = [word for name, value in values.items() for word in ("-y", json.dumps({name: value}))]
        return shlex.join(["papermill", notebook, "out.ipynb", *parameters])

    def _names(self) -> tuple[list[str], list[str]]:
        """What names the runs of both sides on a command line: ids of the store, or paths."""

        def name(run_id: str) -> str:
            holder = next((store for store in self.stores if run_id in store), None)
            if holder is None:
                return str(self.run(run_id).source or run_id)
            return run_id if len(self.stores) == 1 else f"{holder.url}/{run_id}"

        return list(map(name, self.baseline)), list(map(name, self.candidate))

    # What is drawn ----------------------------------------------------------------------------------------------------

    def _drawn(self, name: str) -> go.Figure | Html:
        if not self.baseline or not self.candidate:
            return note("Choose at least one run on each side.")
        services = self.shown_services
        try:
            if name == "comparison":
                shown = [f for f in self.comparison.findings if f.service in services and f.metric in self.metrics]
                return plot.forest(replace(self.comparison, findings=tuple(shown)))
            if name == "timeline":
                return plot.timeline(*self.sides, service=services)
            if name == "latency":
                return plot.latency(*self._stretched(), service=services)
            if name == "percentiles":
                return plot.percentiles(*self._stretched(), service=services)
            if name == "errors":
                return display.errors_table([kind for kind in error_kinds(*self.sides) if kind.service in services])
            if name == "trend":
                courses = self.history.metric_trends
                drawn = tuple(c for c in courses if c.metric in self.metrics and c.service in services)
                if not drawn:
                    return sentence("The history has none of these services and metrics.")
                only = self.metrics[0] if len(self.metrics) == 1 else None
                return plot.trend(replace(self.history, metric_trends=drawn, metric=only))
            return self._commands()
        except PerfkitError as error:
            return sentence(f"{type(error).__name__}: {error}")

    def _stretched(self) -> tuple[tuple[Run, ...], tuple[Run, ...]]:
        """The runs of both sides with only the requests of the chosen stretch."""
        before, after = self.sides
        if self.seconds is None:
            return before, after
        low, high = self.seconds
        return tuple(_cut(run, low, high) for run in before), tuple(_cut(run, low, high) for run in after)

    def _commands(self) -> Html:
        texts = {
            "Compare these runs": self.command(),
            "Their report, as a notebook": self.report_command(),
            "This page, as a notebook": self.report_command("explore.ipynb"),
        }
        style = "white-space:pre-wrap;overflow-wrap:anywhere;margin:2px 0 10px;font-size:12px"
        parts = (f'<div>{title}</div><pre style="{style}">{html.escape(text)}</pre>' for title, text in texts.items())
        return Html("".join(parts), text="\n".join(texts.values()))

    def _heading(self) -> Html:
        """The verdict and its reasons, or what keeps from one."""
        if not self.baseline or not self.candidate:
            return note("Choose at least one run on each side.")
        try:
            return display.verdict_banner(self.comparison)
        except PerfkitError as error:
            return note(f"{type(error).__name__}: {error}")

    # What is shown ----------------------------------------------------------------------------------------------------

    def _ipython_display_(self) -> None:
        """Widgets where somebody can use them (`MissingExtra` without them); else the figures as they are."""
        from IPython import display as ipython

        show: Any = ipython.display
        if not _is_attended():
            show(self._heading())
            for name, drawn in self.figures().items():
                show(Html(f"<h3>{HEADINGS[name]}</h3>", text=HEADINGS[name]))
                show(drawn)
            return
        view = {**self.widget()._repr_mimebundle_(), "text/html": self._still(), "text/plain": repr(self)}
        show(view, raw=True)

    def _still(self) -> str:
        """What a viewer shows that has no widgets: the pictures, as they were when the cell ran."""
        parts = [self._heading()._repr_html_()]
        for name, drawn in self.figures().items():
            bundle = {} if isinstance(drawn, Html) else drawn._repr_mimebundle_()
            text = html.escape(bundle.get("text/plain", ""))
            body = drawn._repr_html_() if isinstance(drawn, Html) else bundle.get("image/svg+xml", f"<p>{text}</p>")
            parts.append(f"<h3>{HEADINGS[name]}</h3>{body}")
        return "".join(parts)

    def widget(self) -> Any:
        """The page of widgets, an ``ipywidgets.VBox``; each has its own widgets, and all change this object.

        Raises
        ------
        MissingExtra
            ipywidgets or anywidget is not installed.
        """
        for package in _WIDGETS:
            if find_spec(package) is None:
                raise MissingExtra(f"{package} is not installed in this kernel; {extra_advice('lab')}")
        return _Page(self).box


# Plotly draws its widget before it has a place, 700 pixels wide; the page grows when that is done
_MEASURE = """
new ResizeObserver((_, observer) => {
  const page = element.closest(".perfkit-explorer");
  if (page) observer.observe(page);
  window.dispatchEvent(new Event("resize"));
}).observe(element);
"""


class _Page:
    """The widgets of an explorer, and what each changes."""

    def __init__(self, explorer: Explorer) -> None:
        import ipywidgets
        import plotly.graph_objects as go

        self.explorer = explorer
        self.is_filling = False  # while options are set, which widgets tell of too
        wide = ipywidgets.Layout(width="auto", height="140px")
        names = dict.fromkeys(reversed(explorer.index["scenario"].to_list()))  # the newest first
        scenarios = [(shorten(name), name) for name in names]
        self.scenario = ipywidgets.Dropdown(options=scenarios, value=explorer.scenario)
        self.baseline, self.candidate, self.services = (ipywidgets.SelectMultiple(layout=wide) for _ in range(3))
        self.metrics = ipywidgets.SelectMultiple(
            options=[(SHORT_METRICS[metric], metric) for metric in Metric], value=explorer.metrics, layout=wide
        )
        self.seconds = ipywidgets.FloatRangeSlider(
            readout_format=".0f", continuous_update=False, layout=ipywidgets.Layout(width="100%", max_width="640px")
        )
        self.heading = ipywidgets.HTML()
        self.outputs = {name: ipywidgets.Output() for name in HEADINGS if name != "timeline"}
        self._fill()
        # With its marks from the beginning: what is sent to a widget that the browser has yet to load is lost
        self.timeline = go.FigureWidget(self._timeline_figure(explorer.figures(("timeline",))["timeline"]))
        self.timeline.layout.on_change(self._zoomed, "xaxis.range")
        self.timeline._config = {**self.timeline._config, "responsive": True}  # it measures again, see `_MEASURE`
        self.draw([name for name in HEADINGS if name != "timeline"])
        labelled = {
            "Baseline": self.baseline,
            "Candidate": self.candidate,
            "Services": self.services,
            "Metrics": self.metrics,
        }
        column = ipywidgets.Layout(flex="1 1 150px", min_width="150px")
        lists = [
            ipywidgets.VBox([ipywidgets.HTML(f"<b>{text}</b>"), chosen], layout=column)
            for text, chosen in labelled.items()
        ]
        parts: list[Any] = [
            ipywidgets.HBox([ipywidgets.HTML("<b>Scenario</b>"), self.scenario]),
            ipywidgets.HTML("Ctrl or Shift chooses several."),
            ipywidgets.HBox(lists, layout=ipywidgets.Layout(flex_flow="row wrap")),
            self.heading,
        ]
        for name, text in HEADINGS.items():
            parts.append(ipywidgets.HTML(f"<h3 style='margin:14px 0 2px'>{text}</h3>"))
            if name != "timeline":
                parts.append(self.outputs[name])
                continue
            way = "Drag across the time course, or move the slider: the distributions follow. Double click: all of it."
            parts += [ipywidgets.HTML(way), ipywidgets.HBox([ipywidgets.HTML("Seconds"), self.seconds]), self.timeline]
        script = {"output_type": "display_data", "data": {"application/javascript": _MEASURE}, "metadata": {}}
        self.box = ipywidgets.VBox([*parts, ipywidgets.Output(outputs=(script,))])
        self.box.add_class("perfkit-explorer")
        for chosen in (self.scenario, self.baseline, self.candidate, self.services, self.metrics, self.seconds):
            chosen.observe(self._follow, names="value")

    def _fill(self) -> None:
        """Set the options of the lists to what there is of the scenario."""
        explorer = self.explorer
        frame = explorer.index
        frame = frame[(frame["scenario"] == explorer.scenario)].tail(MOST_RUNS)
        options = [(_run_label(row), row.id) for row in frame[::-1].itertuples()]
        listed = {run_id for _, run_id in options}
        options += [(run_id, run_id) for run_id in (*explorer.baseline, *explorer.candidate) if run_id not in listed]
        for chosen, value in ((self.baseline, explorer.baseline), (self.candidate, explorer.candidate)):
            chosen.options, chosen.value = options, value
        self._fill_services()

    def _fill_services(self) -> None:
        names = [(shorten(name, 40), name) for name in self.explorer.all_services]
        self.services.options, self.services.value = names, self.explorer.shown_services

    def _follow(self, change: Mapping[str, Any]) -> None:
        """Take over what a widget was set to, and draw what depends on it."""
        if self.is_filling:
            return
        self.is_filling = True
        explorer, owner = self.explorer, change["owner"]
        try:
            if owner is self.seconds:
                low, high = self.seconds.value
                is_all = low <= self.seconds.min and high >= self.seconds.max
                explorer.seconds = None if is_all else (low, high)
                self.timeline.layout.xaxis.range = (low, high)
                self.draw(_OF_STRETCH)
                return
            if owner is self.scenario:
                explorer.scenario, explorer.services, explorer.seconds = self.scenario.value, (), None
                frame = explorer.index  # the newest valid run of the scenario, against the (at most five) before it
                frame = frame[(frame["scenario"] == explorer.scenario) & frame["valid"].astype(bool)]
                explorer.baseline, explorer.candidate = tuple(frame["id"][-6:-1]), tuple(frame["id"][-1:])
                self._fill()
            elif owner is self.services:
                explorer.services = tuple(self.services.value)
            elif owner is self.metrics:
                explorer.metrics = tuple(self.metrics.value) or tuple(map(Metric, KEY_METRICS))
                self.draw(("comparison", "trend", "commands"))
                return
            else:
                explorer.baseline, explorer.candidate = tuple(self.baseline.value), tuple(self.candidate.value)
                self._fill_services()
            self.draw(tuple(HEADINGS))
        finally:
            self.is_filling = False

    def _zoomed(self, _: Any, ends: Sequence[float] | None) -> None:
        """The reader dragged across the time course, or double-clicked it."""
        if self.is_filling or ends is None:
            return
        low, high = max(self.seconds.min, float(ends[0])), min(self.seconds.max, float(ends[1]))
        self.seconds.value = (low, high) if high > low else (self.seconds.min, self.seconds.max)

    def draw(self, names: Sequence[str]) -> None:
        """Draw anew; the verdict too, where the comparison may be another."""
        was_filling, self.is_filling = self.is_filling, True
        try:
            if "comparison" in names:
                # as wide as the page: a table in it scrolls, and does not widen it
                self.heading.value = f'<div style="contain: inline-size">{self.explorer._heading()._repr_html_()}</div>'
            for name, drawn in self.explorer.figures(names).items():
                if name == "timeline":
                    self._draw_timeline(drawn)
                    continue
                bundle = {"text/html": drawn._repr_html_()} if isinstance(drawn, Html) else drawn._repr_mimebundle_()
                self.outputs[name].outputs = ({"output_type": "display_data", "data": bundle, "metadata": {}},)
        finally:
            self.is_filling = was_filling

    def _timeline_figure(self, drawn: go.Figure | Html) -> go.Figure:
        """The time course as far as the slider says, which gets its ends from the runs."""
        figure = sentence(drawn.text) if isinstance(drawn, Html) else drawn
        longest = max((run.duration_s or 0.0 for side in self.explorer.sides for run in side), default=0.0) or 1.0
        low, high = self.explorer.seconds or (0.0, longest)
        self.seconds.max = longest
        self.seconds.value = (min(low, longest), min(high, longest))
        return figure.update_layout(xaxis_range=self.seconds.value) if figure.data else figure

    def _draw_timeline(self, drawn: go.Figure | Html) -> None:
        figure = self._timeline_figure(drawn)
        if not figure.layout.updatemenus:  # a menu that is left out stays where it was
            figure.update_layout(updatemenus=[{"visible": False}])
        with self.timeline.batch_update():
            self.timeline.data = ()
            self.timeline.add_traces(figure.data)
            self.timeline.layout = figure.layout
        self.timeline.layout.on_change(self._zoomed, "xaxis.range")


def _is_attended() -> bool:
    """Whether somebody is before this notebook: papermill and nbconvert cannot be asked for input, JupyterLab can."""
    from IPython.core.getipython import get_ipython

    kernel = getattr(get_ipython(), "kernel", None)
    parent = kernel.get_parent("shell") if kernel is not None else {}
    return bool((parent or {}).get("content", {}).get("allow_stdin"))


def _texts(parameter: str, value: object) -> tuple[str, ...]:
    """One text or several, or ``SettingsError``."""
    values = (value,) if isinstance(value, str) else value
    if not isinstance(values, list | tuple) or not all(isinstance(item, str) for item in values):
        raise SettingsError(f"{parameter}: expected a name, or a list of names, got {value!r}")
    return tuple(values)


def _cut(run: Run, low: float, high: float) -> Run:
    """The run with only the requests that began between two seconds of it."""
    load = run.load_requests
    return run if load is None else replace(run, load_requests=_stretch_of(load, low, high))


@lru_cache(maxsize=64)  # figures know requests that they counted by their loader
def _stretch_of(load: Callable[[], pd.DataFrame], low: float, high: float) -> RequestLoader:
    def frame() -> pd.DataFrame:
        whole: pd.DataFrame = load()
        elapsed = whole["start"] - whole["start"].min()
        kept: pd.DataFrame = whole[(elapsed >= low) & (elapsed <= high)]
        return kept

    def columns() -> Requests:
        requests = columns_of(load)
        begin = min((part.start_s.min(initial=np.inf) for part in requests.parts()), default=np.inf)
        return requests.where(lambda part: (part.start_s - begin >= low) & (part.start_s - begin <= high))

    return RequestLoader(frame, columns)


def _run_label(row: Any) -> str:
    """``30 Nov 06:12 · 1ab2c3d · 3f9c``; a run that may not be judged says so."""
    began = row.started_at
    parts = [f"{began.tz_convert(UTC):%d %b %Y %H:%M}" if began == began and began is not None else "undated"]
    parts += [clean(str(row.commit))[:7]] if row.commit else []
    parts += [clean(row.id.rpartition("-")[2])]
    return " · ".join(parts) + ("" if row.valid else " (invalid)") + (" (A/B)" if row.ab_test else "")
