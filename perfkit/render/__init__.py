"""What people look at: charts, tables, notebooks and the report.  Nothing here computes a verdict.

The public names are imported on first use, so that a command which draws nothing does not pay for plotly.
"""

from __future__ import annotations

from importlib import import_module
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from perfkit.render.capacity import capacity_banner, capacity_table, differences_table, scalability_table
    from perfkit.render.charts import (
        detectable,
        forest,
        latency_overlay,
        percentile_curve,
        run_values,
        time_course,
    )
    from perfkit.render.checks import warnings_list
    from perfkit.render.commands import reproduce
    from perfkit.render.event_calendar import trend_calendar
    from perfkit.render.load_charts import changes_by_load, load_curves
    from perfkit.render.moment_links import trend_links
    from perfkit.render.notebook import Report, prepare_notebook, run_report, write_result
    from perfkit.render.responses import response_times
    from perfkit.render.service_sheet import trend_sheet
    from perfkit.render.tables import (
        findings_table,
        levels_table,
        runs_table,
        verdict_banner,
        worst_first,
    )
    from perfkit.render.trend import trend_banner, trend_events, trend_levels, trend_runs
    from perfkit.render.trend_charts import trend_chart

_HOMES = {
    "perfkit.render.charts": (
        "detectable",
        "forest",
        "latency_overlay",
        "percentile_curve",
        "run_values",
        "time_course",
    ),
    "perfkit.render.notebook": ("Report", "prepare_notebook", "run_report", "write_result"),
    "perfkit.render.checks": ("warnings_list",),
    "perfkit.render.commands": ("reproduce",),
    "perfkit.render.responses": ("response_times",),
    "perfkit.render.capacity": ("capacity_banner", "capacity_table", "differences_table", "scalability_table"),
    "perfkit.render.load_charts": ("changes_by_load", "load_curves"),
    "perfkit.render.tables": (
        "findings_table",
        "levels_table",
        "runs_table",
        "verdict_banner",
        "worst_first",
    ),
    "perfkit.render.trend": ("trend_banner", "trend_events", "trend_levels", "trend_runs"),
    "perfkit.render.event_calendar": ("trend_calendar",),
    "perfkit.render.trend_charts": ("trend_chart",),
    "perfkit.render.moment_links": ("trend_links",),
    "perfkit.render.service_sheet": ("trend_sheet",),
}
_HOME_OF = {name: home for home, names in _HOMES.items() for name in names}

__all__ = [
    "Report",
    "capacity_banner",
    "capacity_table",
    "changes_by_load",
    "detectable",
    "differences_table",
    "findings_table",
    "forest",
    "latency_overlay",
    "levels_table",
    "load_curves",
    "percentile_curve",
    "prepare_notebook",
    "reproduce",
    "response_times",
    "run_report",
    "run_values",
    "runs_table",
    "scalability_table",
    "time_course",
    "trend_banner",
    "trend_calendar",
    "trend_chart",
    "trend_events",
    "trend_levels",
    "trend_links",
    "trend_runs",
    "trend_sheet",
    "verdict_banner",
    "warnings_list",
    "worst_first",
    "write_result",
]


def __getattr__(name: str) -> Any:
    if name not in _HOME_OF:
        raise AttributeError(f"module 'perfkit.render' has no attribute {name!r}")
    return getattr(import_module(_HOME_OF[name]), name)


def __dir__() -> list[str]:
    return __all__
