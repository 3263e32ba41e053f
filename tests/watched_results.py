"""Results of a watched history, written by hand: what happened is exactly known."""

import json

from perfkit.history.events import Event, MetricChange, RunReference
from perfkit.history.incidents import result_of
from perfkit.model.records import Metric
from perfkit.stats.changepoints import ChangePoint

HOSTILE = "</script><!-- --> ![x](javascript:alert(1)) @everyone | a\r\nb \u202e#1 www.evil.example `x` -->"


def alert(
    index,
    *,
    services=("checkout",),
    size=20.0,
    holds=True,
    fails=True,
    known=None,
    heard=None,
    scenario="api",
    aliases=(),
):
    """What watching heard at run ``index``; ``known`` is the reason why it is acknowledged."""
    movements = tuple(
        MetricChange(name, Metric.P95, ChangePoint(index, 100.0, 100.0 + size, size, 1e-9, size - 2, size + 2))
        for name in services
    )
    moments = [RunReference(f"run{at}", None, True, f"{at:012x}{0:028x}") for at in (index - 1, index)]
    names = aliases or tuple(f"run{at}" for at in range(index - 2, index + 3))
    event = Event(f"run{index}", scenario, index, *moments, movements, names)
    acknowledged = {"reason": known, "by": "ada", "created": "2026-11-01T00:00:00+00:00", "until": None}
    return {
        **event.to_dict(),
        "raised_at": f"run{heard or index + 3}",
        "raised_runs_ago": 1,
        "holds": holds,
        "fails": fails and holds and known is None,
        "acknowledged": acknowledged if known is not None else None,
    }


def trend(*alerts, scenario="api", place="reports/trend/result.json", **more):
    """The result of a history in which that was heard, as it is read from a file."""
    document = {"schema": "perfkit.trend/1", "scenario": scenario, "watch": {"alerts": list(alerts)}, **more}
    return result_of(json.loads(json.dumps(document)), place)
