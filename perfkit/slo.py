"""A promise on a service as people write it, ``p95 < 300 ms``, read into an absolute limit."""

from __future__ import annotations

import re
from collections.abc import Mapping
from types import MappingProxyType

from perfkit.errors import SettingsError, did_you_mean
from perfkit.model import SHORT_NAMES, Metric
from perfkit.policy import Objective

WORDS: Mapping[str, Metric] = MappingProxyType(
    {
        name: metric
        for name, metric in {**SHORT_NAMES, **{metric.value: metric for metric in Metric}}.items()
        if metric is not Metric.RPS
    }
)
_UNITS: Mapping[str, float] = MappingProxyType({"ms": 1.0, "s": 1000.0})
_SLO = re.compile(r"\s*([a-z][\w.]*)\s*(<=|<|≤)\s*(\d+(?:\.\d+)?)\s*(ms|s|%)?\s*", re.IGNORECASE)
EXAMPLES = "p95 < 300 ms, p99 < 1 s, avg < 80 ms or error_rate < 1 %"


def parse_slo(text: str) -> Objective:
    """Read a promise: one metric, ``<``, a number and its unit.

    Raises
    ------
    SettingsError
        It has another form, names an unknown metric (the nearest is named), or lacks its unit.

    Examples
    --------
    >>> parse_slo("p99<1s"), describe_slo(parse_slo("error_rate < 1 %"))
    (Objective(metric=<Metric.P99: 'p99_latency_ms'>, amount=1000.0), 'error rate below 1 %')
    """
    match = _SLO.fullmatch(text)
    if match is None:
        raise SettingsError(f"SLO {text!r}: write a metric, <, a number and its unit, such as {EXAMPLES}")
    word, _, number, unit = match.groups()
    if word.lower() not in WORDS:
        known = [name for name in WORDS if not name.endswith(("_ms", "_pct"))]
        raise SettingsError(
            f"SLO {text!r}: unknown metric {word!r}{did_you_mean(word.lower(), known)}; known are {', '.join(known)}"
        )
    metric = WORDS[word.lower()]
    wanted = ("%",) if metric is Metric.ERROR_RATE else tuple(_UNITS)
    unit = (unit or (metric.unit if word.lower() == metric.value else "")).lower()
    if unit not in wanted:
        raise SettingsError(f"SLO {text!r}: {metric.title} is in {' or '.join(wanted)}, got {unit or 'no unit'}")
    amount = float(number) * _UNITS.get(unit, 1.0)
    if amount <= 0 or (unit == "%" and amount >= 100):
        allowed = "above 0 and below 100 %" if unit == "%" else "above 0"
        raise SettingsError(f"SLO {text!r}: the limit must be {allowed}")
    return Objective(metric, amount)


def describe_slo(slo: Objective) -> str:
    """As a sentence says it: ``p95 latency below 300 ms``."""
    return f"{slo.metric.title} below {slo.amount:g} {slo.metric.unit}"
