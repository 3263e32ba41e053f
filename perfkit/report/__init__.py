"""What people look at: charts, tables, notebooks and the report.  Nothing here computes a verdict.

The public names are imported on first use, so that a command which draws nothing does not pay for plotly.
"""

from __future__ import annotations

from importlib import import_module
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from perfkit.report.capacity import (
        capacity_banner,
        capacity_table,
        differences_table,
        scalability_table,
    )
    from perfkit.report.capacity_charts import changes_by_load, load_curves
    from perfkit.report.charts import (
        detectable,
        forest,
        latency_overlay,
        percentile_curve,
        response_times,
        run_values,
        time_course,
    )
    from perfkit.report.notebook import Report, prepare_notebook, run_report, write_result
    from perfkit.report.sentences import reproduce
    from perfkit.report.tables import (
        findings_table,
        levels_table,
        runs_table,
        verdict_banner,
        warnings_list,
        worst_first,
    )
    from perfkit.report.trend import (
        trend_banner,
        trend_calendar,
        trend_events,
        trend_levels,
        trend_links,
        trend_runs,
    )
    from perfkit.report.trend_charts import trend_chart, trend_sheet

_HOMES = {
    "perfkit.report.capacity": (
        "capacity_banner",
        "capacity_table",
        "differences_table",
        "scalability_table",
    ),
    "perfkit.report.capacity_charts": (
        "changes_by_load",
        "load_curves",
    ),
    "perfkit.report.charts": (
        "detectable",
        "forest",
        "latency_overlay",
        "percentile_curve",
        "run_values",
        "time_course",
        "response_times",
    ),
    "perfkit.report.notebook": (
        "Report",
        "prepare_notebook",
        "run_report",
        "write_result",
    ),
    "perfkit.report.sentences": ("reproduce",),
    "perfkit.report.tables": (
        "warnings_list",
        "findings_table",
        "levels_table",
        "runs_table",
        "verdict_banner",
        "worst_first",
    ),
    "perfkit.report.trend": (
        "trend_banner",
        "trend_events",
        "trend_levels",
        "trend_runs",
        "trend_calendar",
        "trend_links",
    ),
    "perfkit.report.trend_charts": (
        "trend_chart",
        "trend_sheet",
    ),
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
        raise AttributeError(f"module 'perfkit.report' has no attribute {name!r}")
    return getattr(import_module(_HOME_OF[name]), name)


def __dir__() -> list[str]:
    return __all__
