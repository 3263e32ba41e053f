"""Did all runs happen in the same surroundings: between the two sides, and among the runs of each?"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from datetime import UTC, datetime

import numpy as np

from perfkit.model import Check, Metric, Run, Severity
from perfkit.validity.clock import misdated

NAMED_AFTER_FILE = ("locust csv", "metrics file")  # what these tools write does not name its scenario
PRECISION_DIFFERS = 2.0  # factor between the steps to which the two sources round
_ROUNDED = (Metric.AVG, Metric.RPS)  # percentiles are rounded to a step that grows with the value


def check_alike(baseline: Sequence[Run], candidate: Sequence[Run]) -> Iterator[Check]:
    """Warnings where scenario, tool, load script, environment or precision differ.

    A fact that differs among the runs of one side is a hidden dimension: it is named, with what it does to latency,
    because it widens every interval and may be the whole difference.
    """
    facts = [[_facts(run) for run in runs] for runs in (baseline, candidate)]
    for name in sorted({name for side in facts for of_run in side for name in of_run}):
        mixed = [*_mixed("baseline", name, baseline), *_mixed("candidate", name, candidate)]
        yield from mixed
        if not mixed and not name.startswith("label "):
            yield from _differs(name, facts)
    yield from _precision(baseline, candidate)
    yield from _dates((*baseline, *candidate))


def _dates(runs: Sequence[Run]) -> Iterator[Check]:
    """Runs that cannot have been made when they say."""
    now = datetime.now(UTC)
    wrong = {run.id: text for run in runs if (text := misdated(run.started_at, now))}
    if wrong:
        first, text = next(iter(wrong.items()))
        more = f" (and {len(wrong) - 1} more such runs)" if len(wrong) > 1 else ""
        advice = f"Run {first} is {text}{more}: a clock was wrong. It is never taken for the newest of its history."
        yield Check("clock", text, "the present", Severity.WARN, advice)


def environment_of(run: Run) -> dict[str, str]:
    """Environment of a run by name: ``environment: cpu``, ``version of locust``, ``load script``, ``tool``."""
    facts = {"tool": run.tool, "load script": run.locustfile_hash}
    facts |= {f"environment: {key}": value for key, value in run.environment.items()}
    facts |= {f"version of {key}": value for key, value in run.versions.items()}
    return {name: str(value) for name, value in facts.items() if value}


def _facts(run: Run) -> dict[str, str]:
    """What is known of how a run was made, by name; labels too, which may differ between the sides."""
    facts = environment_of(run)
    if run.tool not in NAMED_AFTER_FILE:
        facts["scenario"] = run.scenario
    return facts | {f"label {key}": str(value) for key, value in run.labels.items() if value}


def _differs(name: str, facts: Sequence[Sequence[Mapping[str, str]]]) -> Iterator[Check]:
    before, after = (next((of_run[name] for of_run in side if name in of_run), None) for side in facts)
    if before is None or after is None or before == after:
        return
    before, after = _short(name, before), _short(name, after)
    advice = f"{name[0].upper()}{name[1:]} differs: {before} in the baseline, {after} in the candidate."
    yield Check(_check_name(name), f"{before} / {after}", "same", Severity.WARN, advice)


def _mixed(title: str, name: str, runs: Sequence[Run]) -> Iterator[Check]:
    known = [(run, _facts(run)[name]) for run in runs if name in _facts(run)]
    counts = Counter(value for _, value in known)
    if len(counts) < 2 or (name.startswith("label ") and len(counts) == len(known)):
        return  # a label that no two runs share tells them apart and groups nothing
    groups = ", ".join(f"{_short(name, value)} in {count}" for value, count in counts.most_common())
    (first, _), (second, _) = counts.most_common(2)
    effect = _effect([run for run, value in known if value == first], [run for run, value in known if value == second])
    told = "" if effect is None else f" (average latency {effect:+.1f} % from the first to the second)"
    advice = (
        f"Runs of the {title} differ among themselves: {name} is {groups}{told}. "
        "Compare runs that were made alike, or give each kind a comparison of its own."
    )
    yield Check(f"mixed_{_check_name(name)}", groups, "same", Severity.WARN, advice)


def _effect(one: Sequence[Run], other: Sequence[Run]) -> float | None:
    """Percent from the geometric mean of average latencies of some runs to that of others, services weighing alike."""
    names = [name for name in one[0].services if all(name in run.services for run in (*one, *other))]
    values = [[run.services[name].avg_latency_ms or np.nan for run in runs for name in names] for runs in (one, other)]
    before, after = (float(np.mean(np.log(side))) if side else np.nan for side in values)
    change = 100.0 * float(np.expm1(after - before))
    return change if np.isfinite(change) else None


def _check_name(name: str) -> str:
    return name.replace(": ", "_").replace(" ", "_")


def _short(name: str, value: str) -> str:
    """A digest is told by its beginning."""
    return value[:12] if name == "load script" else value


def _precision(baseline: Sequence[Run], candidate: Sequence[Run]) -> Iterator[Check]:
    for metric in _ROUNDED:
        steps = [
            max((stats.resolutions.get(metric, 0.0) for run in runs for stats in run.services.values()), default=0.0)
            for runs in (baseline, candidate)
        ]
        if max(steps) > PRECISION_DIFFERS * min(steps):
            words = [f"to {step:g} {metric.unit}" if step else "exactly" for step in steps]
            advice = (
                f"Precision differs: {metric.title} is known {words[0]} in the baseline, {words[1]} in the candidate. "
                "The rounding is counted as error."
            )
            yield Check(f"precision_{metric}", " / ".join(words), PRECISION_DIFFERS, Severity.WARN, advice)
