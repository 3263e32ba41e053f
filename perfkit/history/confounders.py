"""What else changed where a level changed: the machine, versions, the load script, the set of services.

A confounder is named beside an event, it does not excuse it: whoever reads of a regression that began with another
machine looks there first.

A service that ends or begins is an event of its own.  It also changes the mix of requests, and with it the throughput
of every other service: users who ask for two pages instead of three ask for each more often.  How much more depends on
how the load script is written (tasks drawn by weight, or steps one after the other), which the runs cannot tell.  So
throughput is compared only among runs of one mix: change points align the levels on both sides of a change of the mix,
and the monitor takes each mix for a series of its own.  Latencies and error rates keep their whole history.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import replace
from typing import TYPE_CHECKING

import numpy as np
from numpy.typing import NDArray

from perfkit.analysis.comparability import MACHINE, machine_of, machine_text
from perfkit.analysis.coverage import rename_advice, renamed_pairs
from perfkit.history.events import ServiceChange
from perfkit.model.records import Metric, Run
from perfkit.stats.changepoints import segment
from perfkit.stats.summary import Floats

if TYPE_CHECKING:
    from perfkit.history.timeline import Timeline

NEGLIGIBLE = 0.002  # share of requests, and of the time spent in them, below which a service moves no throughput
CERTAIN_COUNT = 7.0  # requests per run from which a run without any is no chance (Poisson, less than 0.1 %)
MOST_ABSENCES = 3  # of similar length; a service that is left out more often is one that is called now and then
RECENT = 10  # runs that tell a service's share before it ended
AROUND = 10  # runs on either side that tell what was usual
USUAL = 0.8  # share of them that have one value
LONGEST = 80  # characters of a value in a sentence
ENOUGH = 3  # runs on one machine that make a baseline of their own


def environment_changes(timeline: Timeline, index: int, reach: int) -> Iterator[str]:
    """What of the environment changed for good within ``reach`` runs of a place: ``machine changed here: A -> B``.

    The usual value of the runs before differs from that of the runs after, and is not usual there.
    """
    facts = [dict(run.environment) if run.valid else {} for run in timeline.runs]
    names = dict.fromkeys(name for fact in facts for name in fact)
    varied = [name for name in names if len({fact.get(name) for fact in facts}) > 1]
    over_time: dict[str, list[str | None]] = {}  # ``None`` where a run does not say; the parts of a machine are one
    if parts := [name for name in MACHINE if name in varied]:
        over_time["machine"] = [machine_text(fact, parts) for fact in facts]
    for name in varied:
        if name not in MACHINE:
            over_time[name.removeprefix("environment: ")] = [fact.get(name) for fact in facts]
    around = range(max(index - reach, 1), min(index + reach + 1, len(facts)))
    nearest_first = sorted(around, key=lambda run: abs(run - index))
    for name, values in over_time.items():
        for run in nearest_first:
            before = [value for value in values[:run] if value is not None][-AROUND:]
            after = [value for value in values[run:] if value is not None][:AROUND]
            if before and values[run] not in (None, before[-1]):
                old, new = _usual(before), _usual(after)
                if (old, new) == (before[-1], values[run]):
                    yield f"{name} changed here: {_short(old)} -> {_short(new)}"
                    break


def _usual(values: Sequence[str]) -> str:
    """The value that nearly all have; empty where there is none."""
    value, count = Counter(values).most_common(1)[0]
    return value if count >= USUAL * len(values) else ""


def _short(value: str) -> str:
    """Of a digest its beginning."""
    is_digest = len(value) >= 32 and all(char in "0123456789abcdef" for char in value)
    return value[:12] if is_digest else value if len(value) <= LONGEST else f"{value[: LONGEST - 3]}..."


def on_one_machine(runs: Sequence[Run], candidate: Run) -> tuple[tuple[Run, ...], str]:
    """The runs on the candidate's machine, where it is known and has `ENOUGH` of them, and a note on the others."""
    machine = machine_of(candidate)
    same = tuple(run for run in runs if machine_of(run) == machine)
    if not machine or len(same) < ENOUGH or len(same) == len(runs):
        return tuple(runs), ""
    others = list(dict.fromkeys(machine_of(run) or "an unknown machine" for run in runs if machine_of(run) != machine))
    gone, named = len(runs) - len(same), ", ".join(map(_short, others[:3]))
    verb = "runs of this level were" if gone > 1 else "run of this level was"
    return same, (
        f"{gone} {verb} made on another machine ({named}) and left out: the "
        f"candidate and the {len(same)} baseline runs ran on {_short(machine)}."
    )


def service_changes(timeline: Timeline, alpha: float = 0.01) -> tuple[ServiceChange, ...]:
    """The runs at which services ended or began, oldest first.

    A run without a service is no event where chance explains it: by the number of its requests in the other runs
    (Poisson) at ``alpha``, shared over services and runs, or because runs lack it now and then.
    """
    valid = _valid(timeline)
    alpha_each = alpha / max(len(timeline.services) * valid.size, 1)
    ended: dict[int, list[str]] = {}
    began: dict[int, list[str]] = {}
    for service in timeline.services:
        present = presence(timeline, service)[valid]
        counts = timeline.counts.get(service)
        requests = np.full(valid.size, np.nan) if counts is None else counts[valid]
        for begin, end in _absences(present, requests, alpha_each, alpha):
            if begin > 0:
                ended.setdefault(begin, []).append(service)
            if end < valid.size:
                began.setdefault(end, []).append(service)
    return tuple(_change(timeline, valid, at, ended.get(at, []), began.get(at, [])) for at in sorted({*ended, *began}))


def _absences(present: NDArray[np.bool_], counts: Floats, alpha_each: float, alpha: float) -> list[tuple[int, int]]:
    """Runs, each time from the first up to and without the end, in which a service was not called at all.

    Longest first, each is held against the runs outside of it and of those before it.
    """
    edges = np.flatnonzero(np.diff(np.concatenate([[True], present, [True]]).astype(int)))
    blocks = [(int(begin), int(end)) for begin, end in zip(edges[::2], edges[1::2], strict=True)]
    absences: list[tuple[int, int]] = []
    for begin, end in sorted(blocks, key=lambda block: block[0] - block[1]):
        length = end - begin
        similar = [other for other in blocks if other != (begin, end) and other[1] - other[0] >= length / 2.0]
        apart = [(begin, end), *absences, *(similar if len(similar) < MOST_ABSENCES else [])]
        rest = np.ones(present.size, dtype=bool)
        for first, last in apart:
            rest[first:last] = False
        gaps = int(np.count_nonzero(rest & ~present))
        runs = int(np.count_nonzero(rest))
        if runs == gaps:
            continue  # it is in no other run
        expected = float(np.nanmean(counts[rest])) if not np.isnan(counts[rest]).all() else np.inf
        by_number = np.exp(-expected * length)
        lacks = gaps > 0 or not np.isfinite(expected)
        by_gaps = ((gaps + 1.0) / (runs + 2.0)) ** length if lacks else 0.0
        if by_number < alpha_each and by_gaps < alpha / len(blocks):
            absences.append((begin, end))
    return absences


def _change(
    timeline: Timeline, valid: NDArray[np.intp], at: int, ended: Sequence[str], began: Sequence[str]
) -> ServiceChange:
    shares: dict[str, float | None] = {}  # of all requests of the runs beside it; ``None`` where counts are not known
    for names, runs in ((ended, valid[max(at - RECENT, 0) : at]), (began, valid[at : at + RECENT])):
        total = sum(float(counts[runs].sum()) for counts in timeline.counts.values())
        for name in names:
            requests = float(timeline.counts[name][runs].sum()) if name in timeline.counts else float("nan")
            shares[name] = requests / total if total > 0.0 and requests == requests else None
    ranked = [sorted(names, key=lambda name: -(shares[name] or 0.0)) for names in (ended, began)]
    after = timeline.runs[valid[at]]
    return ServiceChange(
        after.run_id,
        timeline.scenario,
        int(valid[at]),
        timeline.runs[valid[at - 1]],
        after,
        tuple(ranked[0]),
        tuple(ranked[1]),
        tuple((name, share) for name, share in shares.items() if share),
        tuple(renamed_pairs(*({name: shares[name] for name in names} for names in ranked)).items()),
    )


def missing_services(changes: Sequence[ServiceChange]) -> tuple[tuple[str, ServiceChange], ...]:
    """The services that are gone from the newest runs, each with the change, of it alone, at which it ended."""
    last: dict[str, ServiceChange] = {}
    for change in changes:
        last |= dict.fromkeys(change.ended, change)
        for name in change.began:
            last.pop(name, None)
    gone = {id(change): tuple(name for name in change.ended if last.get(name) is change) for change in changes}
    return tuple((name, replace(change, ended=gone[id(change)])) for name, change in last.items())


def missing_service_advice(service: str, change: ServiceChange) -> str:
    """What to do about a service that ended."""
    since = f"Service {service} has no requests since run {change.id}"
    new = dict(change.renamed).get(service)
    if new is not None:
        return f"{since}. {rename_advice(service, new)}"
    return f"{since}: find out why, unless it was removed on purpose."


def measured_services(timeline: Timeline) -> tuple[str, ...]:
    """The services that the newest valid run has requests of."""
    valid = _valid(timeline)
    return tuple(name for name in timeline.services if valid.size and presence(timeline, name)[valid[-1]])


def presence(timeline: Timeline, service: str) -> NDArray[np.bool_]:
    """Whether each run has requests of a service, shape ``(n_runs,)``; false where it is invalid."""
    series = [timeline.series[service, metric] for metric in Metric if (service, metric) in timeline.series]
    there = np.zeros(len(timeline), dtype=bool)
    for values in series:
        there |= ~np.isnan(values)
    counts = timeline.counts.get(service)
    return there if counts is None else there & ~(counts == 0)


def _valid(timeline: Timeline) -> NDArray[np.intp]:
    return np.nonzero([run.valid for run in timeline.runs])[0]


def mixes(timeline: Timeline) -> NDArray[np.intp]:
    """Which mix of services each run has, counted from 0 in order of appearance, shape ``(n_runs,)``; -1 where invalid.

    Two runs have one mix when they have the same services, negligible ones and those that chance leaves out aside.
    """
    valid = _valid(timeline)
    numbers: NDArray[np.intp] = np.full(len(timeline), -1, dtype=np.intp)
    if not valid.size:
        return numbers
    there = {name: presence(timeline, name)[valid] for name in timeline.services}
    flags = [flag for name, flag in there.items() if not flag.all() and _moves_throughput(timeline, name)]
    if not flags:
        numbers[valid] = 0
        return numbers
    seen: dict[bytes, int] = {}
    for run, row in zip(valid, np.array(flags).T, strict=True):
        numbers[run] = seen.setdefault(row.tobytes(), len(seen))
    return numbers


def _moves_throughput(timeline: Timeline, service: str) -> bool:
    """Whether a run without this service has another mix."""
    there = presence(timeline, service)
    counts = timeline.counts.get(service)
    if counts is None or np.isnan(counts[there]).all():
        return True
    if float(np.nanmean(counts[there])) < CERTAIN_COUNT:
        return False
    of_service, total = np.zeros(2), np.zeros(2)
    for name, requests in timeline.counts.items():
        latency = timeline.series.get((name, Metric.AVG))
        number = np.nan_to_num(requests[there])
        sums = np.array([number.sum(), (number * np.nan_to_num(latency[there])).sum() if latency is not None else 0.0])
        total += sums
        of_service = sums if name == service else of_service
    return bool((of_service > NEGLIGIBLE * total).any())


def in_one_mix(timeline: Timeline) -> Timeline:
    """The timeline with every throughput as if all runs had the mix of the newest valid one.

    Where the mix changes, the levels on both sides are aligned, so that no change is seen there; runs whose mix came
    before have the factor that it had then.  ``scale`` of the result holds the factors.
    """
    numbers = mixes(timeline)
    if numbers.max(initial=-1) < 1:
        return timeline
    scale = {
        key: _factors(values, numbers)
        for key, values in timeline.series.items()
        if key[1] is Metric.RPS and np.unique(numbers[~np.isnan(values)]).size > 1
    }
    series = {key: values * scale[key] if key in scale else values for key, values in timeline.series.items()}
    return replace(timeline, series=series, scale=scale)


def _factors(values: Floats, numbers: NDArray[np.intp]) -> Floats:
    """Of each run of one series: by what to multiply its value, shape ``(n_runs,)``."""
    (measured,) = np.nonzero(~np.isnan(values))
    run_mixes = numbers[measured]
    parts = np.split(measured, np.flatnonzero(np.diff(run_mixes)) + 1)
    factor: dict[int, float] = {int(run_mixes[-1]): 1.0}
    for left, right in zip(parts[-2::-1], parts[:0:-1], strict=True):  # backwards in time
        ends = _edge_level(values[left], newest=True), _edge_level(values[right], newest=False)
        before, after = int(numbers[left[0]]), int(numbers[right[0]])
        if before not in factor:
            factor[before] = factor[after] * (ends[1] / ends[0] if ends[0] > 0.0 and ends[1] > 0.0 else 1.0)
    return np.array([factor.get(int(number), 1.0) for number in numbers])


def _edge_level(values: Floats, *, newest: bool) -> float:
    """The first or the newest level of runs of one mix."""
    segmentation = segment(values, alpha=0.01)
    edge = len(values) if newest else 0
    for drift in segmentation.drifts:
        if edge == (drift.end if newest else drift.begin):
            return drift.after if newest else drift.before
    return segmentation.levels[-1 if newest else 0]


def by_mix(values: Floats, numbers: NDArray[np.intp]) -> Mapping[int, Floats]:
    """One series as one per mix, in order of appearance, ``NaN`` in the runs of other mixes; without those that have
    no value."""
    parts = {int(number): np.where(numbers == number, values, np.nan) for number in np.unique(numbers) if number >= 0}
    return {number: part for number, part in parts.items() if not np.isnan(part).all()}
