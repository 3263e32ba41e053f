"""What else changed where a level changed: the machine, versions, the load script, the set of services.

A confounder is named beside an event, it does not excuse it: whoever reads of a regression that began with another
machine looks there first.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from itertools import pairwise
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from perfkit.analysis.comparability import MACHINE, machine_of, machine_text
from perfkit.analysis.coverage import rename_advice, renamed_pairs
from perfkit.history.events import RunReference
from perfkit.model.records import Metric, Run
from perfkit.stats.changepoints import segment
from perfkit.stats.summary import Floats

if TYPE_CHECKING:
    from perfkit.history.timeline import Timeline

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
        facts["machine"] = [machine_text(of, parts) for of in own]
    for name in varied:
        if name not in MACHINE:
            facts[name.removeprefix("environment: ")] = [of.get(name) for of in own]
    return facts


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


NEGLIGIBLE = 0.002  # share of requests, and of the time spent in them, below which a service moves no throughput
CERTAIN_COUNT = 7.0  # requests per run from which a run without any is no chance (Poisson, less than 0.1 %)
MOST_ABSENCES = 3  # of similar length; a service that is left out more often is one that is called now and then
RECENT = 10  # runs that tell a service's share before it ended

Series = tuple[str, Metric]


@dataclass(frozen=True, slots=True)
class ServiceChange:
    """Services that ended or began at one run of a history.

    Parameters
    ----------
    id
        Of the first run with the new set of services.
    index
        Of that run in the timeline.
    last_before, first_after
        The last valid run with the old set, the first with the new one.
    ended, began
        Names of the services, those with most requests first.
    shares
        Of each of them: its share of the requests, in (0, 1], where counts are known.
    renamed
        Pairs of old and new name that are alike.
    """

    id: str
    scenario: str
    index: int
    last_before: RunReference
    first_after: RunReference
    ended: tuple[str, ...]
    began: tuple[str, ...]
    shares: tuple[tuple[str, float], ...] = ()
    renamed: tuple[tuple[str, str], ...] = ()

    @property
    def kind(self) -> str:
        """As in the kinds of an `Event`."""
        return "services"

    @property
    def reach(self) -> int:
        """As that of an `Event`: by how many runs its place may be off."""
        return 0

    @property
    def headline(self) -> str:
        """What ended and what began, and since when.  Names are as they came."""
        when = f" ({self.first_after.started_at:%Y-%m-%d})" if self.first_after.started_at else ""
        since = f"run {self.id}{when}"
        parts = [
            f"service{'s' if len(names) > 1 else ''} {self._with_shares(names)}: {text} {since}"
            for names, text in ((self.ended, "no requests since"), (self.began, "first requests in"))
            if names
        ]
        pairs = [f"{old} is gone, {new} is new: renamed?" for old, new in self.renamed]
        advice = f" {' '.join(pairs)} [services] of the settings can map them." if pairs else ""
        return f"S{'; '.join(parts)[1:]}.{advice}"

    @property
    def brief(self) -> Iterator[str]:
        """``service /pay ended here``, for an event at the same place."""
        for names, word in ((self.ended, "ended"), (self.began, "began")):
            if names:
                yield f"service{'s' if len(names) > 1 else ''} {', '.join(names)} {word} here"

    def _with_shares(self, names: Sequence[str]) -> str:
        shares = {name: f" ({100.0 * share:.2g} % of the requests)" for name, share in self.shares}
        return ", ".join(f"{name}{shares.get(name, '')}" for name in names)

    def to_dict(self) -> dict[str, Any]:
        """Plain JSON values, with the keys of an `Event`; nothing moved, so ``movements`` is empty."""
        moments = {"last_before": self.last_before, "first_after": self.first_after}
        return {
            "id": self.id,
            "scenario": self.scenario,
            "kind": self.kind,
            "headline": self.headline,
            "index": self.index,
            "reach": self.reach,
            "aliases": [self.id],
            **{name: moment.to_dict() for name, moment in moments.items()},
            "ended": list(self.ended),
            "began": list(self.began),
            "shares": dict(self.shares),
            "renamed": [list(pair) for pair in self.renamed],
            "movements": [],
        }


def service_changes(timeline: Timeline, alpha: float = 0.01) -> tuple[ServiceChange, ...]:
    """The runs at which services ended or began, oldest first.

    A run without a service is no event where chance explains it: by the number of its requests in the other runs
    (Poisson) at ``alpha``, shared over services and runs, or because runs lack it now and then.
    """
    valid = _valid(timeline)
    each = alpha / max(len(timeline.services) * valid.size, 1)
    ended: dict[int, list[str]] = {}
    began: dict[int, list[str]] = {}
    for service in timeline.services:
        present = presence(timeline, service)[valid]
        counts = timeline.counts.get(service, np.full(len(timeline), np.nan))[valid]
        for begin, end in _absences(present, counts, each, alpha):
            if begin > 0:
                ended.setdefault(begin, []).append(service)
            if end < present.size:
                began.setdefault(end, []).append(service)
    places = sorted({*ended, *began})
    return tuple(_change(timeline, valid, at, ended.get(at, []), began.get(at, [])) for at in places)


def missing_services(changes: Sequence[ServiceChange]) -> tuple[tuple[str, ServiceChange], ...]:
    """The services that are gone from the newest runs, each with the change at which it ended.

    Of services that ended there and have requests again, the change does not speak.
    """
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
    there = np.zeros(len(timeline), dtype=bool)
    for metric in Metric:
        values = timeline.series.get((service, metric))
        if values is not None:
            there |= ~np.isnan(values)
    counts = timeline.counts.get(service)
    return there if counts is None else there & ~(counts == 0)


def _valid(timeline: Timeline) -> NDArray[np.intp]:
    return np.nonzero([moment.valid for moment in timeline.runs])[0]


def _absences(present: NDArray[np.bool_], counts: Floats, each: float, alpha: float) -> list[tuple[int, int]]:
    """Stretches of runs, each from its first run up to and without its end, in which a service was not called at all.

    Longest first, each is held against the runs outside of it and of those that were found.
    """
    blocks = _blocks(~present)
    found: list[tuple[int, int]] = []
    for begin, end in sorted(blocks, key=lambda block: block[0] - block[1]):
        length = end - begin
        similar = [other for other in blocks if other != (begin, end) and other[1] - other[0] >= length / 2.0]
        apart = [(begin, end), *found, *(similar if len(similar) < MOST_ABSENCES else [])]
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
        if by_number < each and by_gaps < alpha / len(blocks):
            found.append((begin, end))
    return found


def _blocks(flags: NDArray[np.bool_]) -> list[tuple[int, int]]:
    edges = np.flatnonzero(np.diff(np.concatenate([[False], flags, [False]]).astype(int)))
    return [(int(begin), int(end)) for begin, end in zip(edges[::2], edges[1::2], strict=True)]


def _change(
    timeline: Timeline, valid: NDArray[np.intp], at: int, ended: Sequence[str], began: Sequence[str]
) -> ServiceChange:
    after = timeline.runs[valid[at]]
    before, since = valid[max(at - RECENT, 0) : at], valid[at : at + RECENT]
    shares = {name: _share(timeline, name, runs) for names, runs in ((ended, before), (began, since)) for name in names}
    ranked = [sorted(names, key=lambda name: -(shares[name] or 0.0)) for names in (ended, began)]
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


def _share(timeline: Timeline, service: str, runs: NDArray[np.intp]) -> float | None:
    """Of all requests of these runs; ``None`` where counts are not known."""
    total = sum(float(counts[runs].sum()) for counts in timeline.counts.values())
    own = float(timeline.counts[service][runs].sum()) if service in timeline.counts else float("nan")
    return own / total if total > 0.0 and own == own else None


def mixes(timeline: Timeline) -> NDArray[np.intp]:
    """Which mix of services each run has, counted from 0 in order of appearance, shape ``(n_runs,)``; -1 where invalid.

    Two runs have one mix when they have the same services, negligible ones and those that chance leaves out aside.
    """
    valid = _valid(timeline)
    numbers: NDArray[np.intp] = np.full(len(timeline), -1, dtype=np.intp)
    if not valid.size:
        return numbers
    flags = [presence(timeline, name)[valid] for name in timeline.services if _moves_throughput(timeline, name)]
    if not flags or all(flag.all() for flag in flags):
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
    own, total = np.zeros(2), np.zeros(2)
    for name, every in timeline.counts.items():
        latency = timeline.series.get((name, Metric.AVG))
        number = np.nan_to_num(every[there])
        sums = np.array([number.sum(), (number * np.nan_to_num(latency[there])).sum() if latency is not None else 0.0])
        total += sums
        own = sums if name == service else own
    return bool((own > NEGLIGIBLE * total).any())


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
    (known,) = np.nonzero(~np.isnan(values))
    own = numbers[known]
    edges = [0, *(np.flatnonzero(np.diff(own)) + 1), known.size]
    stretches = [known[begin:end] for begin, end in pairwise(edges)]
    factor: dict[int, float] = {int(own[-1]): 1.0}
    for left, right in zip(stretches[-2::-1], stretches[:0:-1], strict=True):  # backwards in time
        ends = _edge_level(values[left], newest=True), _edge_level(values[right], newest=False)
        before, after = int(numbers[left[0]]), int(numbers[right[0]])
        if before not in factor:
            factor[before] = factor[after] * (ends[1] / ends[0] if ends[0] > 0.0 and ends[1] > 0.0 else 1.0)
    return np.array([factor.get(int(number), 1.0) for number in numbers])


def _edge_level(values: Floats, *, newest: bool) -> float:
    """The first or the newest level of a stretch of one mix."""
    found = segment(values, alpha=0.01)
    edge = len(values) if newest else 0
    for drift in found.drifts:
        if edge == (drift.end if newest else drift.begin):
            return drift.after if newest else drift.before
    return found.levels[-1 if newest else 0]


def by_mix(values: Floats, numbers: NDArray[np.intp]) -> Mapping[int, Floats]:
    """One series as one per mix, in order of appearance, ``NaN`` in the runs of other mixes; those without a value are
    left out."""
    found = {int(number): np.where(numbers == number, values, np.nan) for number in np.unique(numbers) if number >= 0}
    return {number: own for number, own in found.items() if not np.isnan(own).all()}
