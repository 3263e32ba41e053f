"""What else changed where a level changed: the machine, versions, the load script, the set of services.

A confounder is named beside an event, it does not excuse it: whoever reads of a regression that began with another
machine looks there first.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

from perfkit.model.records import Comparison, Run, Verdict, environment_of

if TYPE_CHECKING:
    from perfkit.history.timeline import Timeline

MACHINE = ("environment: cpu", "environment: cores", "environment: machine", "environment: memory")
AROUND = 10  # runs on either side that tell what was usual
USUAL = 0.8  # share of them that have one value
LONGEST = 80  # characters of a value in a sentence
ENOUGH = 3  # runs on one machine that make a baseline of their own


@dataclass(frozen=True, slots=True)
class EnvironmentChange:
    """One fact of the environment that changed for good: ``machine``, ``os``, ``version of locust``, ``load script``.

    ``index`` is the first run with the new value.
    """

    name: str
    before: str
    after: str
    index: int

    @property
    def sentence(self) -> str:
        """``machine changed here: Xeon 8370C -> EPYC 7763``."""
        return f"{self.name} changed here: {_short(self.before)} -> {_short(self.after)}"


def environment_changes(timeline: Timeline, index: int, reach: int) -> tuple[EnvironmentChange, ...]:
    """What of the environment changed within ``reach`` runs of a place of the history.

    The usual value of the runs before differs from that of the runs after, and is not usual there.
    """
    found = [_nearest(name, values, index, reach) for name, values in _facts(timeline).items()]
    return tuple(change for change in found if change is not None)


def _facts(timeline: Timeline) -> Mapping[str, Sequence[str | None]]:
    """Each fact over the runs; ``None`` where a run is invalid or does not say.  The parts of a machine are one."""
    own = [dict(moment.environment) if moment.valid else {} for moment in timeline.runs]
    varied = [name for name in dict.fromkeys(key for of in own for key in of) if len({of.get(name) for of in own}) > 1]
    parts = [name for name in MACHINE if name in varied]
    facts: dict[str, Sequence[str | None]] = {}
    if parts:
        facts["machine"] = [_machine(of, parts) for of in own]
    for name in varied:
        if name not in MACHINE:
            facts[name.removeprefix("environment: ")] = [of.get(name) for of in own]
    return facts


def _machine(of: Mapping[str, str], parts: Sequence[str]) -> str | None:
    texts = [f"{of[name]} cores" if name.endswith("cores") else of[name] for name in parts if name in of]
    return ", ".join(texts) or None


def _nearest(name: str, values: Sequence[str | None], index: int, reach: int) -> EnvironmentChange | None:
    places = range(max(index - reach, 1), min(index + reach + 1, len(values)))
    for at in sorted(places, key=lambda place: abs(place - index)):
        if values[at] is None:
            continue
        before = [value for value in values[:at] if value is not None][-AROUND:]
        after = [value for value in values[at:] if value is not None][:AROUND]
        if not before or before[-1] == values[at]:
            continue
        old, new = _usual(before), _usual(after)
        if old is not None and new is not None and old != new and (before[-1], values[at]) == (old, new):
            return EnvironmentChange(name, old, new, at)
    return None


def _usual(values: Sequence[str]) -> str | None:
    value, count = Counter(values).most_common(1)[0]
    return value if count >= USUAL * len(values) else None


def _short(value: str) -> str:
    """A digest is told by its beginning."""
    is_digest = len(value) >= 32 and all(char in "0123456789abcdef" for char in value)
    return value[:12] if is_digest else value if len(value) <= LONGEST else f"{value[: LONGEST - 3]}..."


def machine_of(run: Run) -> str:
    """Processor, cores and kind of the machine of a run, in words; empty where nothing is known of it."""
    return _machine(environment_of(run), MACHINE) or ""


def machine_advice(comparison: Comparison) -> str:
    """What to do about a regression of candidates that ran on another machine than the baseline; else empty."""
    machines = [list(dict.fromkeys(map(machine_of, side.runs))) for side in (comparison.baseline, comparison.candidate)]
    if comparison.verdict is not Verdict.REGRESSION or not all(map(all, machines)):
        return ""
    if not set(machines[1]) - set(machines[0]):
        return ""
    return (
        f"The candidate ran on another machine ({', '.join(machines[1][:2])}) than the baseline "
        f"({', '.join(machines[0][:2])}): repeat it there, or measure both on one machine."
    )


def on_one_machine(runs: Sequence[Run], candidate: Run) -> tuple[tuple[Run, ...], str]:
    """Like with like: the runs on the candidate's machine, if `ENOUGH` were made there, and a note on the others.

    All of them where there are fewer, or where the candidate's machine is not known.
    """
    own = machine_of(candidate)
    same = tuple(run for run in runs if machine_of(run) == own)
    if not own or len(same) < ENOUGH or len(same) == len(runs):
        return tuple(runs), ""
    others = list(dict.fromkeys(machine_of(run) or "an unknown machine" for run in runs if machine_of(run) != own))
    gone, named = len(runs) - len(same), ", ".join(map(_short, others[:3]))
    verb = "runs of this level were" if gone > 1 else "run of this level was"
    return same, (
        f"{gone} {verb} made on another machine ({named}) and left out: the "
        f"candidate and the {len(same)} baseline runs ran on {_short(own)}."
    )
