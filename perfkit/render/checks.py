"""What to know of the runs before believing them: warnings, failed checks, and every check that was made."""

from __future__ import annotations

from collections.abc import Sequence

from perfkit.capacity.results import Capacity
from perfkit.levels import Levels
from perfkit.model import Check, Comparison, Run, Severity
from perfkit.render.page import Html, render
from perfkit.render.theme import UNKNOWN, format_number

MOST_VALUES = 3


def warnings_list(subject: Comparison | Capacity | Levels | Sequence[Run]) -> Html:
    """What to know before believing the result: warnings of the comparison, and every check that did not pass."""
    sides: list[tuple[str, Sequence[Run]]] = []
    warnings: tuple[str, ...] = ()
    checks: list[tuple[str, Check]] = []
    if isinstance(subject, Comparison):
        sides += [("baseline", subject.baseline.runs), ("candidate", subject.candidate.runs)]
        warnings = subject.warnings
        # Those of single runs are told with their run, below
        own = [check for check in subject.checks if not check.name.startswith("run_")]
        checks += [("", check) for check in own if check.severity is not Severity.OK]
    elif isinstance(subject, Capacity):
        sides += [("baseline" if subject.candidate else "run", subject.runs), ("candidate", subject.candidate)]
        warnings = subject.warnings
    elif isinstance(subject, Levels):
        sides.append(("run", subject.runs))
        warnings = subject.warnings
    else:
        sides.append(("run", subject))
    checks += [(f"{side} {run.id}", check) for side, runs in sides for run in runs for check in run.validity.problems]
    rows = [
        {"place": place, "name": check.name, "severity": check.severity.value, "advice": check.advice}
        | {"value": _plain(check.value), "limit": _plain(check.limit)}
        for place, check in checks
    ]
    every = [run for _, runs in sides for run in runs]
    html = render("warnings.html.j2", warnings=warnings, checks=rows, all_checks=_over_runs(every), runs=len(every))
    return Html(html, text="\n".join(warnings))


def _over_runs(runs: Sequence[Run]) -> list[dict[str, str]]:
    """Every check that was made, one row each, over all runs: passed ones too, so that one sees what was looked at."""
    made: dict[str, list[Check]] = {}
    for run in runs:
        for check in run.validity.checks:
            made.setdefault(check.name, []).append(check)
    return [_over(name, checks) for name, checks in made.items()]


def _over(name: str, checks: Sequence[Check]) -> dict[str, str]:
    bad = [check for check in checks if check.severity is not Severity.OK]
    numbers = [float(check.value) for check in checks if isinstance(check.value, int | float)]
    texts = dict.fromkeys(_plain(check.value) for check in checks)
    values = " / ".join(list(texts)[:MOST_VALUES]) + (" / ..." if len(texts) > MOST_VALUES else "")
    if len(numbers) == len(checks) and len(set(numbers)) > 1:
        values = f"{format_number(min(numbers))} to {format_number(max(numbers))}"
    limits = dict.fromkeys(_plain(check.limit) for check in checks)
    return {
        "name": name,
        "values": values,
        "limit": " / ".join(list(limits)[:MOST_VALUES]),
        "passed": f"{len(checks) - len(bad)} of {len(checks)}",
        "severity": max((check.severity.value for check in bad), default="ok", key=["ok", "warn", "invalid"].index),
    }


def _plain(value: float | str | None) -> str:
    if value is None:
        return UNKNOWN
    return value if isinstance(value, str) else format_number(float(value))
