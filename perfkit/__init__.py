"""perfkit: did this build get slower, and can I believe the answer?

A session in a notebook::

    import perfkit

    store = perfkit.open_store("data/runs")
    comparison = perfkit.compare("shop@last:5", "shop@last:1")
    comparison.plot.forest()
    perfkit.open_history(store, "shop").events.to_frame()

The public names below are imported on first use, so that ``import perfkit`` and ``perfkit --help`` stay quick.
Settings are read here, once per call, and handed down: of the nearest ``perfkit.toml`` in this folder or above it, or
of the file ``settings=``.  ``store=`` (a `RunStore` or its URL) and ``policy=`` (a `Policy` or its file: what is
accepted, and what services are called now) override theirs.
"""

from __future__ import annotations

import sys
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import replace
from importlib import import_module
from pathlib import Path
from typing import TYPE_CHECKING, Any, cast

if TYPE_CHECKING:
    from perfkit.analysis.baseline import BaselineSummary as _BaselineSummary
    from perfkit.analysis.capacity import Capacity as _Capacity
    from perfkit.config.policy import Policy as Policy
    from perfkit.config.settings import Settings
    from perfkit.history.events import Event as Event
    from perfkit.history.planning import Plan as Plan
    from perfkit.history.run_selector import HistoryContext
    from perfkit.history.trend import History as _History
    from perfkit.model.errors import DeliveryError as DeliveryError
    from perfkit.model.errors import HistoryError as HistoryError
    from perfkit.model.errors import LoadError as LoadError
    from perfkit.model.errors import LoadStopped as LoadStopped
    from perfkit.model.errors import MissingExtra as MissingExtra
    from perfkit.model.errors import NoEvent as NoEvent
    from perfkit.model.errors import NotComparable as NotComparable
    from perfkit.model.errors import NotStored as NotStored
    from perfkit.model.errors import PerfkitError as PerfkitError
    from perfkit.model.errors import ReadError as ReadError
    from perfkit.model.errors import RenderError as RenderError
    from perfkit.model.errors import SettingsError as SettingsError
    from perfkit.model.errors import StoreError as StoreError
    from perfkit.model.errors import UnknownFormat as UnknownFormat
    from perfkit.model.errors import UnsetVariable as UnsetVariable
    from perfkit.model.records import Comparison as _Comparison
    from perfkit.model.records import Finding as Finding
    from perfkit.model.records import LoadProfile as LoadProfile
    from perfkit.model.records import Metric as Metric
    from perfkit.model.records import Run as _Run
    from perfkit.model.records import ServiceStats as ServiceStats
    from perfkit.model.records import Validity as Validity
    from perfkit.model.records import Verdict as Verdict
    from perfkit.report import plot as plot
    from perfkit.report.display import BaselineTables, CapacityTables, ComparisonTables, HistoryTables
    from perfkit.report.explore import Explorer as Explorer
    from perfkit.report.html import write_result as write_result
    from perfkit.report.plot import BaselinePlots, CapacityPlots, ComparisonPlots, HistoryPlots, RunsPlots
    from perfkit.runs.collection import Runs as _Runs
    from perfkit.runs.read import read_run as read_run
    from perfkit.runs.requests import run_from_requests as run_from_requests
    from perfkit.runs.store import RunStore as RunStore
    from perfkit.stats.changepoints import ChangePoint as ChangePoint
    from perfkit.stats.changepoints import find_change_points as find_change_points
    from perfkit.stats.sequential import Watch as Watch
    from perfkit.stats.sequential import watch_history as watch_history

    # What `_SHOWN` registers at run time, for editors and type checkers.
    class Run(_Run):
        plot: RunsPlots

    class Runs(_Runs):
        plot: RunsPlots

    class Comparison(_Comparison):
        plot: ComparisonPlots
        table: ComparisonTables

        def for_service(self, name: str) -> Comparison: ...
        def with_warnings(self, more: Iterable[str]) -> Comparison: ...
        def explain(self, service: str, metric: str) -> str: ...

    class History(_History):
        plot: HistoryPlots
        table: HistoryTables

    class BaselineSummary(_BaselineSummary):
        plot: BaselinePlots
        table: BaselineTables

    class Capacity(_Capacity):
        plot: CapacityPlots
        table: CapacityTables


# Module of perfkit -> the public names that are imported from it on first use.
_HOMES = {
    "analysis.baseline": "BaselineSummary",
    "analysis.capacity": "Capacity",
    "config.policy": "Policy",
    "history.events": "Event",
    "history.planning": "Plan",
    "history.trend": "History",
    "model.errors": "DeliveryError HistoryError LoadError LoadStopped MissingExtra NoEvent NotComparable NotStored "
    "PerfkitError ReadError RenderError SettingsError StoreError UnknownFormat UnsetVariable",
    "model.installation": "__version__",
    "model.records": "Comparison Finding LoadProfile Metric Run ServiceStats Validity Verdict",
    "report.explore": "Explorer",
    "report.html": "write_result",
    "runs.collection": "Runs",
    "runs.read": "read_run",
    "runs.requests": "run_from_requests",
    "runs.store": "RunStore",
    "stats.changepoints": "ChangePoint find_change_points",
    "stats.sequential": "Watch watch_history",
}
_HOME_OF = {name: f"perfkit.{home}" for home, names in _HOMES.items() for name in names.split()}

_FACADE = "baseline capacity compare explore open_history open_store plan plot read_comparison read_runs run"

__all__ = sorted([*_HOME_OF, *_FACADE.split()])  # type checkers see the names that are imported above as themselves


def __getattr__(name: str) -> Any:
    if name == "plot":
        value = import_module("perfkit.report.plot")
    elif name in _HOME_OF:
        value = getattr(import_module(_HOME_OF[name]), "VERSION" if name == "__version__" else name)
    else:
        raise AttributeError(f"module 'perfkit' has no attribute {name!r}")
    _register()
    globals()[name] = value
    return value


def __dir__() -> list[str]:
    return __all__


class _Accessor:
    """``.plot`` or ``.table`` of a class: the figures or tables of an object, from the room of reports."""

    def __init__(self, home: str, name: str) -> None:
        self.home, self.name = home, name

    def __get__(self, subject: object, owner: type) -> Any:
        accessor = getattr(import_module(self.home), self.name)
        return accessor if subject is None else accessor(subject)


# Module and class -> its figures, its tables, and the functions that write its line and its HTML: names in
# perfkit.report.plot and perfkit.report.display.  A class without a function for its line has one of its own.
_SHOWN = {
    ("perfkit.model.records", "Run"): ("RunsPlots", "", "run_line", "run_html"),
    ("perfkit.model.records", "Finding"): ("", "", "finding_line", "finding_html"),
    ("perfkit.model.records", "Comparison"): (
        "ComparisonPlots",
        "ComparisonTables",
        "comparison_line",
        "comparison_html",
    ),
    ("perfkit.runs.collection", "Runs"): ("RunsPlots", "", "", "runs_html"),
    ("perfkit.runs.store", "RunStore"): ("", "", "store_line", "store_html"),
    ("perfkit.analysis.baseline", "BaselineSummary"): (
        "BaselinePlots",
        "BaselineTables",
        "baseline_line",
        "baseline_html",
    ),
    ("perfkit.analysis.capacity", "Capacity"): ("CapacityPlots", "CapacityTables", "capacity_line", "capacity_html"),
    ("perfkit.history.events", "Event"): ("", "", "event_line", "event_html"),
    ("perfkit.history.trend", "History"): ("HistoryPlots", "HistoryTables", "history_line", "history_html"),
    ("perfkit.history.trend", "Events"): ("", "", "", "events_html"),
    ("perfkit.history.trend", "Alarms"): ("", "", "", "events_html"),
    ("perfkit.history.planning", "Plan"): ("", "", "plan_line", "plan_html"),
}
_registered: set[tuple[str, str]] = set()


def _register() -> None:
    """Give the public classes that are imported by now their figures, tables, line and HTML."""
    for key, (plots, tables, line, html) in _SHOWN.items():
        kind = getattr(sys.modules.get(key[0]), key[1], None)
        if kind is None or key in _registered:
            continue
        _registered.add(key)
        if plots:
            kind.plot = _Accessor("perfkit.report.plot", plots)
        if tables:
            kind.table = _Accessor("perfkit.report.display", tables)
        for method, function in (("__repr__", line), ("_repr_html_", html)):
            if function:
                setattr(kind, method, _written(function))
        if key[1] == "Comparison":
            kind.explain = _explain


def _written(function: str) -> Any:
    return lambda subject: getattr(import_module("perfkit.report.display"), function)(subject)


class _Lines(str):
    """A text of several lines that is shown as such."""

    __slots__ = ()

    def __repr__(self) -> str:
        return str(self)


def _explain(self: _Comparison, service: str, metric: str) -> str:
    """The arithmetic of one verdict, step by step, as it was computed; ``metric`` in short too.

    Raises
    ------
    SettingsError
        There is no such finding; names the nearest.
    """
    from perfkit.analysis.explain import explain

    return _Lines(explain(self, service, metric))


# The facade ----------------------------------------------------------------------------------------------------------


def open_store(url: str | Path | None = None, *, settings: str | Path | None = None) -> RunStore:
    """The store of runs in a folder, or at any other URL.

    Parameters
    ----------
    url
        A folder, ``s3://...`` or another fsspec URL, or a branch of a git repository; ``None``: the store of the
        settings, ``data/runs`` where they name none.

    Examples
    --------
    >>> store = open_store("data/samples/history")
    >>> len(store), store[-1].scenario, [run.id for run in store.select("nightly", last=1)] == [store[-1].id]
    (60, 'nightly', True)
    """
    from perfkit.runs.store import RunStore

    _register()
    return RunStore(_beside(str(url) if url is not None else _settings(settings).store))


def read_runs(runs: Any, *, store: Any = None, policy: Any = None, settings: str | Path | None = None) -> Runs:
    """The runs that a text, a path or several of them name.

    Parameters
    ----------
    runs
        What the command line takes: ids of the store, paths, patterns (``data/runs/*-shop-*``), folders of runs, files
        of load-test tools, selectors such as ``shop@last:5``, ``shop@rolling`` or ``shop@commit:1ab2c3``; several as a
        sequence, or as one text with commas or line ends between them.  `Run` and `Runs` stay what they are.

    Raises
    ------
    ReadError
        A name names nothing, or what it names cannot be read.

    Examples
    --------
    >>> runs = read_runs("data/samples/baseline/*")
    >>> len(runs), len(runs[:2] + runs[-1:])
    (5, 3)
    """
    from perfkit.runs.collection import Runs as CollectedRuns

    context, rules, _ = _in_force(store, policy, settings)
    chosen, _ = _chosen("runs", runs, context, rules)
    _register()
    return cast("Runs", CollectedRuns(chosen))


def run(
    scenario: str,
    *,
    repeat: int = 1,
    labels: Mapping[str, str] | None = None,
    locustfile: str | Path | None = None,
    workers: int | None = None,
    store: Any = None,
    settings: str | Path | None = None,
    **load: Any,
) -> Runs:
    """Run a load test, keep it, and show it in the notebook's cell while it goes on.

    What ``perfkit run`` does.  Interrupting the cell ends the load in order, as Ctrl-C does; what was measured until
    then is kept, marked as interrupted.  Closing the notebook ends nothing.  Outside a notebook nothing is shown.

    Parameters
    ----------
    scenario
        A scenario of the settings, or a built-in one; with ``locustfile`` just a name.
    repeat
        Runs, at least 1.
    labels
        Free text stored with the runs, such as ``{"build": "1.4.2"}``.
    workers
        Make the load with so many processes.
    **load
        In place of what the settings say: ``host``, ``users``, ``spawn_rate`` (users per second), ``duration``
        (``"2m"``), ``profile``, ``stages`` (``["1m:10", "1m:20"]``), ``rate`` (``"200/s"``), ``arrivals``,
        ``max_in_flight``, ``peak``; ``arguments`` of the locustfile.

    Returns
    -------
    Runs
        Those that were made, as they are kept, oldest first.  A run that may not be judged is among them:
        ``run.validity``.

    Raises
    ------
    LoadStopped
        The cell was interrupted; names the runs that are kept.
    LoadError
        A run could not be made; so with ``SettingsError`` and ``StoreError``.
    ValueError
        ``repeat`` or ``workers`` below 1, or an unknown word of load.
    """
    import warnings

    from perfkit.config.settings import load_fields
    from perfkit.loadgen.locust_command import Distribution
    from perfkit.loadgen.run import run_scenarios
    from perfkit.loadgen.service_under_test import revision_of
    from perfkit.model.errors import LoadStopped, did_you_mean
    from perfkit.report.live import LiveView, notebook_cell
    from perfkit.runs.collection import Runs as CollectedRuns
    from perfkit.runs.store import RunStore

    for name, number in (("repeat", repeat), ("workers", 1 if workers is None else workers)):
        if number < 1:
            raise ValueError(f"{name}: must be at least 1, got {number!r}")
    for name in load:
        if name not in _LOAD:
            raise ValueError(f"{name}: unknown{did_you_mean(name, _LOAD)}; known are {', '.join(_LOAD)}")
    if isinstance(load.get("stages"), str):
        load["stages"] = load["stages"].split(",")
    fields = load_fields({"kind" if name == "profile" else name: value for name, value in load.items()}, "{}".format)
    if "arguments" in fields:
        fields["arguments"] = tuple(fields["arguments"])
    loaded = _settings(settings)
    revision = revision_of(Path.cwd())
    chosen = loaded.scenario(scenario, None if locustfile is None else Path(locustfile), **fields)
    chosen = replace(chosen, revision=revision.to_dict())
    opened = store if isinstance(store, RunStore) else RunStore(_beside(str(store or loaded.store)))
    cell = notebook_cell()
    if cell is None:
        for note in revision.notes:
            warnings.warn(note, stacklevel=2)
    view = LiveView([chosen] * repeat, cell, opened) if cell is not None else None
    try:
        done = run_scenarios(
            [chosen],
            opened.address,
            repeat=repeat,
            labels=labels,
            on_progress=view.on_progress if view is not None else None,
            on_end=view.on_end if view is not None else None,
            distribution=Distribution(workers, bind_port=0) if workers is not None else None,
        )
    finally:
        if view is not None:
            view.finish(notes=" ".join(revision.notes))
    made = [execution.run for execution in done if execution.run is not None]
    error = next((execution.error for execution in done if execution.error is not None), None)
    if error is None and any(execution.stopped for execution in done):
        error = LoadStopped(f"scenario {scenario!r}: the run was interrupted before its end")
    if error is not None:
        if made:
            kept = ", ".join(run.id for run in made)
            error.args = (f"{str(error).rstrip('.')}. Kept in {opened.url}: {kept}",)  # front ends show no notes
        raise error
    _register()
    return cast("Runs", CollectedRuns(made))


_LOAD = (  # words of `run` that say what load is made
    *("host", "users", "spawn_rate", "duration", "profile", "stages", "rate", "arrivals", "max_in_flight", "peak"),
    "arguments",
)


def compare(
    baseline: Any = None,
    candidate: Any = None,
    *,
    policy: Policy | str | Path | None = None,
    rule: str | None = None,
    history: Any = None,
    warnings: str | Iterable[str] | None = (),
    store: Any = None,
    settings: str | Path | None = None,
) -> Comparison:
    """Judge the candidate against the baseline.

    Parameters
    ----------
    baseline, candidate
        Runs, or what names them; see `read_runs`.  A selector of the baseline leaves the candidate out.  ``None`` for
        both: the newest A/B test of the store, or the newest run of its newest scenario against the level before it;
        where there is no store, perfkit's own samples.  ``None`` for the baseline alone: ``SCENARIO@rolling``.
    rule
        ``evidence`` or ``threshold``, instead of that of the policy.
    history
        Earlier runs of the scenario, oldest first, none of which is compared here, or a noise profile learned from
        such.  They show how much its runs vary, which makes small comparisons sharper; their level is not used.
    warnings
        What else to know of these runs, one a line; it is shown with them.

    Returns
    -------
    Comparison
        Its verdict is ``invalid`` when the sides are unfit or cannot be compared; the warnings say why.

    Raises
    ------
    ReadError
        A name names nothing, or a run cannot be read.
    NotComparable
        A side is empty.

    Examples
    --------
    >>> comparison = compare("data/samples/baseline/*", "data/samples/candidate/*")
    >>> comparison.verdict.value
    'regression'
    """
    from perfkit.analysis.compare import judge
    from perfkit.analysis.noise_profile import NoiseProfile, profile_of
    from perfkit.model.errors import NotComparable

    context, rules, loaded = _in_force(store, policy, settings, rule)
    if baseline is None and candidate is None:
        baseline, candidate = _by_default("sides", store, context, loaded)
    before, after, notes = _both_sides(baseline, candidate, context, rules)
    if history is not None and not isinstance(history, NoiseProfile):
        earlier, _ = _chosen("history", history, context, rules)
        if not earlier:
            raise NotComparable("history: has no runs; name at least one run, file or folder")
        fit = [run for run in earlier if run.validity.ok]
        history = profile_of(fit[0].scenario, fit) if fit else None
    _register()
    comparison = judge(before, after, rules, history)
    return cast("Comparison", comparison.with_warnings((*_lines(warnings), *notes)))


def read_comparison(
    result: str | Path,
    baseline: Any = None,
    candidate: Any = None,
    *,
    warnings: str | Iterable[str] | None = (),
    store: Any = None,
) -> Comparison:
    """A comparison as it was judged before, from its result file or report folder.

    Parameters
    ----------
    result
        What ``perfkit compare --format json`` or a report wrote.
    baseline, candidate
        The runs that it is about, for figures of their requests; see `read_runs`.
    warnings
        What else to know of these runs, one a line; it is shown with them.

    Raises
    ------
    ReadError
        It is no result of a comparison, or one of other runs.
    """
    from perfkit.history.incidents import read_judged
    from perfkit.model.errors import ReadError, SettingsError
    from perfkit.model.records import Side

    _register()
    _refuse_unknown_parameters()
    if not isinstance(result, str | Path):
        raise SettingsError(f"judged: expected the path of a result file, got {result!r}")
    judged = read_judged(result).with_warnings(_lines(warnings))
    if baseline is None or candidate is None:
        return cast("Comparison", judged)
    sides = [read_runs(side, store=store) for side in (baseline, candidate)]
    for judged_side, runs in zip((judged.baseline, judged.candidate), sides, strict=True):
        if {run.id for run in judged_side.runs} != set(runs.ids):
            raise ReadError(f"{result}: is not about these runs; name the runs that it was made from")
    return cast("Comparison", replace(judged, baseline=Side(tuple(sides[0])), candidate=Side(tuple(sides[1]))))


def open_history(
    store: Any = None,
    scenario: str | None = None,
    *,
    service: str | None = None,
    metric: str | None = None,
    last: int | None = None,
    labels: Mapping[str, str] | Sequence[str] | str | None = None,
    policy: Policy | str | Path | None = None,
    acknowledged: str | Path | None = None,
    baselines: str | Path | None = None,
    settings: str | Path | None = None,
) -> History:
    """The history of a scenario: its levels, events and alarms.

    Parameters
    ----------
    store
        ``None``: that of the settings.
    scenario
        ``None``: that of the newest run of the store; where there is no store, perfkit's own sample of a history.
    service, metric
        Show only these; the metric in short too.  Events are looked for in the whole history in any case.
    last
        Figures show so many of the newest runs; what is known of them comes from all.
    labels
        Only runs that have all of these are its history: ``{"machine": "ci-4"}``, ``"machine=ci-4"`` or several such.
    policy
        Its ``alpha`` is the chance of any event in a history without a change.
    acknowledged, baselines
        The file of acknowledged events and the folder of pinned baselines; else those of the settings.

    Raises
    ------
    NotStored
        The store has no run of that scenario, or none with these labels; names the nearest.
    SettingsError
        There is no such service or metric.

    Examples
    --------
    >>> history = open_history("data/samples/history", "nightly")
    >>> history.events.to_frame()[["service", "metric", "unit"]].drop_duplicates().shape[1]
    3
    """
    from datetime import UTC, datetime

    from perfkit.history.acknowledgements import AcknowledgedFile
    from perfkit.history.baselines import Baselines
    from perfkit.history.change_events import HistoryAnalysis
    from perfkit.history.monitor import monitor_timeline
    from perfkit.history.timeline import load_timeline
    from perfkit.history.trend import acknowledged_events, trend_of
    from perfkit.model.errors import SettingsError

    context, rules, loaded = _in_force(store, policy, settings)
    _check_texts(scenario=scenario, service=service, metric=metric, acknowledged=acknowledged, baselines=baselines)
    if last is not None and (isinstance(last, bool) or not isinstance(last, int) or last < 1):
        raise SettingsError(f"last: expected a number of runs from 1 on, got {last!r}")
    if scenario is None:
        history_store, scenario = _by_default("history", store, context, loaded)
        context = replace(context, store=history_store)
    timeline = load_timeline(context.store, scenario, service_names=rules.service_names, labels=_labels(labels))
    analysis = HistoryAnalysis(timeline, rules.alpha)
    today = datetime.now(UTC).date()
    acknowledgements = AcknowledgedFile(Path(_beside(str(acknowledged or loaded.acknowledged)))).read()
    pinned = Baselines(Path(_beside(str(baselines or loaded.baselines)))).all(scenario)
    history = trend_of(
        analysis,
        service=service,
        metric=metric,
        last=last,
        acknowledged=acknowledged_events(analysis, acknowledgements, today),
        monitor=monitor_timeline(analysis, rules.for_scenario(scenario), acknowledgements, today, pinned),
    )
    _register()
    return cast("History", history)


def baseline(
    runs: Any = None,
    *,
    policy: Policy | str | Path | None = None,
    warnings: str | Iterable[str] | None = (),
    store: Any = None,
    settings: str | Path | None = None,
) -> BaselineSummary:
    """What is normal: the level of every metric over these runs, with the interval of the level and of the next run.

    Parameters
    ----------
    runs
        Runs, or what names them; see `read_runs`.  ``None``: those since the last change of the store's newest
        scenario; where there is no store, perfkit's own samples.
    warnings
        What else to know of these runs, one a line; it is shown with them.

    Examples
    --------
    >>> summary = baseline("data/samples/baseline/*")
    >>> summary.to_frame().columns[:4].tolist()
    ['service', 'metric', 'runs', 'value']
    """
    from perfkit.analysis.baseline import summarize_baseline

    context, rules, loaded = _in_force(store, policy, settings)
    if runs is None:
        runs = _by_default("level", store, context, loaded)
    chosen, notes = _chosen("runs", runs, context, rules)
    _register()
    remarks = dict.fromkeys((*_lines(warnings), *notes))
    return cast("BaselineSummary", summarize_baseline(chosen, tuple(remarks), policy=rules))


def capacity(
    runs: Any = None,
    candidate: Any = None,
    objective: str | None = None,
    *,
    policy: Policy | str | Path | None = None,
    store: Any = None,
    settings: str | Path | None = None,
) -> Capacity:
    """How much load the services of these runs take, and whether the candidate takes less.

    Parameters
    ----------
    runs, candidate
        Runs whose load changes (ramps, stages), with their requests, or what names them; see `read_runs`.  No
        ``runs``: the newest such runs of the store; where there is no store, perfkit's own samples.
    objective
        What must hold, such as ``p95 < 300 ms`` or ``error_rate < 1 %``.

    Raises
    ------
    NotComparable
        There is no run, or the sides have no service in common.
    ReadError
        A run has no single requests.

    Examples
    --------
    >>> capacity("data/samples/ramp/*", objective="p95 < 300 ms").load_unit
    'users'
    """
    from perfkit.analysis.capacity import capacity_of

    context, rules, loaded = _in_force(store, policy, settings)
    _check_texts(objective=objective)
    if runs is None:
        runs = _by_default("ramps", store, context, loaded)
    before, _ = _chosen("runs", runs, context, rules)
    after, _ = _chosen("candidate", () if candidate is None else candidate, context, rules)
    _register()
    return cast("Capacity", capacity_of(tuple(before), tuple(after), objective))


def explore(
    store: Any = None,
    scenario: str | None = None,
    baseline: Any = None,
    candidate: Any = None,
    *,
    services: str | Sequence[str] | None = None,
    metrics: str | Sequence[str] | None = None,
    seconds: Sequence[float] | None = None,
    policy: Policy | str | Path | None = None,
    settings: str | Path | None = None,
) -> Explorer:
    """A page to choose runs, services and metrics on, whose figures follow; the last line of a cell shows it.

    Where nobody can use widgets (papermill, nbconvert), the figures stand there as they are.

    Parameters
    ----------
    store
        ``None``: that of the settings; where there is none, perfkit's own samples.
    scenario
        ``None``: that of the candidate, or of the newest run.
    baseline, candidate
        Runs, or what names them, to begin with; see `compare`.
    services, metrics
        To begin with: names, and metrics in short too.  ``None``: those that changed most, and the usual metrics.
    seconds
        Two numbers: only requests that began between these seconds of their run are in the distributions.

    Raises
    ------
    SettingsError
        There is no such service or metric.
    MissingExtra
        When it is shown in JupyterLab: the widgets are not installed in this kernel.

    Examples
    --------
    >>> explore(baseline="data/samples/baseline/*", candidate="data/samples/candidate/*")
    <Explorer: demo; 5 against 3 runs; 3 services>
    """
    from perfkit.history.run_selector import default_sides
    from perfkit.model.errors import NotComparable, SettingsError, what_there_is
    from perfkit.report.explore import Explorer
    from perfkit.runs.store import RunStore

    context, rules, loaded = _in_force(store, policy, settings)
    _check_texts(scenario=scenario)
    if scenario is not None and scenario not in (there := context.scenarios):
        listed = what_there_is(scenario, there, "; there are no runs yet")
        raise SettingsError(f"scenario: no runs of {scenario!r}{listed}")
    if baseline is None and candidate is None:
        if scenario is None:
            baseline, candidate = _by_default("sides", store, context, loaded)
        else:
            baseline, candidate = default_sides(context, scenario)
    before, after, _ = _both_sides(baseline, candidate, context, rules)
    if not before:
        raise NotComparable("baseline: has no runs; name at least one")
    stores: tuple[RunStore, ...] = (context.store,)
    if not len(context.store):
        folders = dict.fromkeys(str(Path(run.source).parent) for run in (*before, *after) if run.source)
        stores = tuple(map(RunStore, folders)) or stores
    options = {"--store": store, "--policy": policy}
    _register()
    return Explorer(
        stores=stores,
        policy=rules,
        scenario=scenario or after[0].scenario,
        baseline=tuple(run.id for run in before),
        candidate=tuple(run.id for run in after),
        # It checks them itself
        services=cast("Any", services or ()),
        metrics=cast("Any", metrics or ()),
        seconds=cast("Any", seconds),
        options={name: str(value) for name, value in options.items() if isinstance(value, str | Path)},
        outside=(*before, *after),
    )


def plan(
    scenario: str,
    change_pct: float,
    *,
    power: float = 0.8,
    policy: Policy | str | Path | None = None,
    store: Any = None,
    settings: str | Path | None = None,
) -> Plan:
    """How many runs a comparison needs on each side to call a worsening, by the noise of a scenario's history.

    Parameters
    ----------
    scenario
        A scenario of the store, or a selector of some of its runs, such as ``shop@rolling``.
    change_pct
        The worsening to be called, in percent of the baseline, above 0 and below 1000.
    power
        Chance that a comparison of so many runs calls it, between 0 and 1.

    Examples
    --------
    >>> plan("nightly", 10, store="data/samples/history").to_frame().columns[:2].tolist()
    ['service', 'metric']
    """
    from perfkit.history.gate import under_policy
    from perfkit.history.planning import plan_runs

    context, rules, _ = _in_force(store, policy, settings)
    planned = plan_runs(under_policy(context, rules), scenario, change_pct, power=power, policy=rules)
    _register()
    return planned


def _settings(settings: Settings | str | Path | None) -> Settings:
    from perfkit.config.settings import Settings, load_settings, nearest_settings

    if isinstance(settings, Settings):
        return settings
    return load_settings(Path(settings)) if settings is not None else nearest_settings(Path.cwd())


def _beside(text: str) -> str:
    """A path, or the same in the folder above where only that is there: for notebooks opened in ``notebooks/``."""
    from glob import escape, glob

    def is_there(path: str) -> bool:
        return bool(Path(path).exists() or glob(path) or glob(f"{escape(path)}_*"))  # noqa: PTH207 - absolute ones too

    above = str(Path("..") / text)
    return above if "://" not in text and not is_there(text) and is_there(above) else text


def _in_force(
    store: Any, policy: Any, settings: Settings | str | Path | None, rule: str | None = None
) -> tuple[HistoryContext, Policy, Settings]:
    """The histories of the store, the policy and the settings that a call is about."""
    from perfkit.config.policy import Policy
    from perfkit.history.run_selector import HistoryContext
    from perfkit.model.errors import PerfkitError, SettingsError
    from perfkit.runs.store import RunStore

    _refuse_unknown_parameters()
    _check_texts(rule=rule)
    if not isinstance(store, RunStore):
        _check_texts(store=store)
    if not isinstance(policy, Policy):
        _check_texts(policy=policy)
    loaded = _settings(settings)
    try:
        rules = policy if isinstance(policy, Policy) else loaded.policy_of(policy)
    except PerfkitError as error:
        raise type(error)(f"policy: {error}" if policy is not None else str(error)) from error
    try:
        rules = rules.with_rule(rule)
    except ValueError as error:
        raise SettingsError(str(error)) from error
    opened = store if isinstance(store, RunStore) else RunStore(_beside(str(store or loaded.store)))
    return HistoryContext(opened, Path(_beside(str(loaded.baselines))), alpha=rules.alpha), rules, loaded


def _labels(labels: Mapping[str, str] | Sequence[str] | str | None) -> Mapping[str, str]:
    from perfkit.model.errors import SettingsError
    from perfkit.runs.collection import parse_labels

    if isinstance(labels, Mapping):
        return {str(name): str(value) for name, value in labels.items()}
    texts: Any = labels.splitlines() if isinstance(labels, str) else labels or []
    if not isinstance(texts, list | tuple) or not all(isinstance(text, str) for text in texts):
        raise SettingsError(f'labels: expected "KEY=VALUE", a list of such or a mapping, got {labels!r}')
    try:
        return parse_labels(texts)
    except ValueError as error:
        raise SettingsError(f"labels: {error}") from error


def _refuse_unknown_parameters() -> None:
    """papermill runs on with a notebook's defaults after a misspelt parameter: the notebook itself then objects."""
    shell = sys.modules["IPython"].get_ipython() if "IPython" in sys.modules else None
    cells: Sequence[str] = shell.user_ns.get("In", ()) if shell is not None else ()
    if len(cells) > 2 and cells[2].startswith("# Parameters\n"):
        from perfkit.report.notebook import check_injected

        check_injected(*cells[1:3])


def _by_default(what: str, store: Any, context: HistoryContext, loaded: Settings) -> Any:
    """What names the runs where nobody does, and a printed line that says so: of the store, or else of the samples.

    ``what`` is ``sides`` (of a comparison), ``level``, ``history`` (store and scenario) or ``ramps``.
    """
    from perfkit.history.run_selector import default_sides, newest_scenario, runs_under_changing_load
    from perfkit.model.errors import NotStored
    from perfkit.runs.store import RunStore

    samples = next(
        (
            folder
            for root in (Path(), Path(".."), Path(__file__).parents[1])
            if (folder := root / "data/samples").is_dir()
        ),
        None,
    )
    if samples is not None and store is None and loaded.path is None and not len(context.store):
        print(f"There is no store of runs here: these are perfkit's own samples, {samples}.")
        if what == "history":
            return RunStore(str(samples / "history")), "nightly"
        before, after, ramp = (f"{samples}/{name}/*" for name in ("baseline", "candidate", "ramp"))
        return (before, after) if what == "sides" else ramp if what == "ramps" else before
    try:
        scenario = newest_scenario(context)
        sides = default_sides(context, scenario) if what == "sides" else ((), ())
    except NotStored as error:
        name = next(iter(loaded.own_scenarios), "")
        first = "" if name else "perfkit init, then "
        raise NotStored(f"{error}; next: {first}perfkit run {name or 'shop'}") from None
    if what == "sides":
        print(f"No runs were named. Baseline: {', '.join(sides[0])}. Candidate: {', '.join(sides[1])}.")
        return sides
    if what == "history":
        return context.store, scenario
    ramps = runs_under_changing_load(context) if what == "ramps" else ()
    names = ramps or (f"{scenario}@rolling",)
    more = " None of this store has a load that changes." if what == "ramps" and not ramps else ""
    print(f"No runs were named. These are {', '.join(names)}.{more}")
    return names


def _check_texts(**parameters: object) -> None:
    """``SettingsError`` names the parameter that is neither a text nor ``None``; paths are texts here."""
    from perfkit.model.errors import SettingsError

    for name, value in parameters.items():
        if value is not None and not isinstance(value, str | Path):
            spelling = f"{name} (slo of a notebook)" if name == "objective" else name
            raise SettingsError(f"{spelling}: expected a text or None, got {value!r}")


def _lines(texts: str | Iterable[str] | None) -> tuple[str, ...]:
    """Sentences of a list, or of one text with one a line."""
    from perfkit.model.errors import SettingsError

    if texts is not None and not isinstance(texts, Iterable):
        raise SettingsError(f"warnings (notes of a notebook): expected a text, or a list of texts, got {texts!r}")
    lines = texts.splitlines() if isinstance(texts, str) else texts or ()
    return tuple(str(line) for line in lines)


def _both_sides(
    baseline: Any, candidate: Any, context: HistoryContext, policy: Policy
) -> tuple[list[_Run], list[_Run], list[str]]:
    """The runs of a baseline and of a candidate, and what must be known of them; see `compare`."""
    from perfkit.model.errors import NotComparable, SettingsError

    if candidate is None:
        _chosen("baseline", baseline, context, policy)
        raise SettingsError("candidate: name the runs to judge, such as shop@last:1, or no runs at all")
    after, notes = _chosen("candidate", candidate, context, policy)
    if not after:
        raise NotComparable("candidate: has no runs; name at least one run, file or folder")
    if baseline is None:
        baseline = tuple(f"{scenario}@rolling" for scenario in dict.fromkeys(run.scenario for run in after))
    beside = replace(context, candidates=tuple(after))
    before, more = _chosen("baseline", baseline, beside, policy)
    return before, after, [*more, *notes]


def _chosen(parameter: str, runs: Any, context: HistoryContext, policy: Policy) -> tuple[list[_Run], list[str]]:
    """Runs by their names, in order, and what to know of those that selectors chose; runs stay as they are.

    One text may name several, with commas or line ends between them.  Selectors leave the context's candidates out.
    """
    from perfkit.history.gate import choose_baseline
    from perfkit.model.errors import PerfkitError, SettingsError
    from perfkit.model.records import Run

    if not isinstance(runs, str | Path | Run | Iterable):
        way = "an id, a path, a pattern, a selector such as shop@last:5, or a list of these"
        raise SettingsError(f"{parameter}: expected what names runs ({way}), got {runs!r}")
    if isinstance(runs, str):
        is_whole = "\n" in runs or any((root / runs.strip()).exists() for root in (Path(), Path("..")))
        items: Sequence[Any] = runs.splitlines() if is_whole else runs.split(",")
    else:
        items = (runs,) if isinstance(runs, Path | Run) else tuple(runs)
    chosen: list[_Run] = []
    notes: list[str] = []
    for item in items:
        if isinstance(item, str | Path):
            try:
                named = choose_baseline([_beside(str(item).strip())], context, policy)
            except PerfkitError as error:
                raise type(error)(f"{parameter}: {error}") from error
            chosen += named.runs
            notes += named.warnings
        elif isinstance(item, Run):
            chosen.append(item)
        else:
            raise TypeError(f"{parameter}: expected runs or paths, got {item!r}")
    return chosen, notes
