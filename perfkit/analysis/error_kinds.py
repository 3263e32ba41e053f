"""Which requests failed, with what, and what of it is new: kinds of error of one or two sets of runs.

Counts of single requests, not a judgement: whether the error rate changed beyond what runs scatter, its finding says.
"""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from datetime import datetime

from perfkit.model.errors import PerfkitError
from perfkit.model.records import OTHER_KINDS, ErrorKind, Run, ServiceStats
from perfkit.runs.requests import Tally, columns_of, error_label, split_label

CHANGES = ("new", "more", "", "fewer", "gone")  # worst first
BEYOND_CHANCE = 2.576  # standard errors: two-sided 1 %, of single requests
MOST_REREAD = 100_000  # requests of a run of an older version, whose kinds are read again from them


@dataclass(slots=True)
class _Side:
    """What one side has of one service; ``is_whole`` where all runs say how many requests failed."""

    requests: int = 0
    is_whole: bool = True
    counts: Counter[str] = field(default_factory=Counter)

    def count(self, kind: str) -> int | None:
        """Failed requests of a kind; ``None`` where it may hide among those that have no name."""
        hides = kind and not self.counts[kind] and (self.counts[""] or self.counts[OTHER_KINDS])
        return None if hides or not self.is_whole else self.counts[kind]


def error_kinds(baseline: Sequence[Run], candidate: Sequence[Run] = ()) -> tuple[ErrorKind, ...]:
    """The kinds of failed requests of each service; empty where no request failed.

    What is new comes first, then what is more, then the most frequent.  Without a candidate nothing has changed.  A
    service of which a side cannot say how many requests failed has an entry without counts.
    """
    sides: tuple[dict[str, _Side], dict[str, _Side]] = ({}, {})
    times: dict[tuple[str, str], list[datetime]] = {}
    for side, runs in zip(sides, (baseline, candidate), strict=True):
        for run in runs:
            for service, stats in _with_kinds(run).items():
                of = side.setdefault(service, _Side())
                of.requests += stats.count or 0
                of.is_whole &= stats.failures is not None
                for kind, count in stats.failures_by_kind.items():
                    of.counts[_kind(kind)] += count
                for kind, ends in stats.error_times.items():
                    times.setdefault((service, _kind(kind)), []).extend(ends)
    kinds: list[ErrorKind] = []
    for service in dict.fromkeys((*sides[0], *sides[1])):
        before, after = (side.get(service, _Side()) for side in sides)
        names = dict.fromkeys((*+before.counts, *+after.counts))
        if not names and not (before.is_whole and after.is_whole):
            names = {"": None}
        for kind in names:
            counts = before.count(kind), after.count(kind)
            first, second = counts[0] or 0, counts[1] or 0
            change = ""
            is_named = kind not in ("", OTHER_KINDS)
            if candidate and is_named and before.requests and after.requests and None not in counts:
                share = after.requests / (before.requests + after.requests)
                expected, total = (first + second) * share, first + second
                if not first or not second:
                    change = "new" if second else "gone"
                elif abs(second - expected) > BEYOND_CHANCE * math.sqrt(total * share * (1.0 - share)):
                    change = "more" if second > expected else "fewer"
            began = times.get((service, kind), [])
            first_and_last = min(began, default=None), max(began, default=None)
            kinds.append(
                ErrorKind(
                    service, *split_label(kind), *counts, before.requests, after.requests, *first_and_last, change
                )
            )
    return tuple(
        sorted(kinds, key=lambda of: (CHANGES.index(of.change), -(of.candidate or 0), -(of.baseline or 0), of.service))
    )


def _kind(kind: str) -> str:
    """As the recorder names kinds, whatever a file says: never a message."""
    return kind if kind in ("", OTHER_KINDS) else error_label(kind)


def _with_kinds(run: Run) -> Mapping[str, ServiceStats]:
    """The services of a run with their kinds of error; those of older versions have them in their requests only."""
    services = run.services
    without = [name for name, stats in services.items() if stats.failures and not stats.error_times]
    if not without or run.load_requests is None or (run.request_count or 0) > MOST_REREAD:
        return services
    try:
        columns = columns_of(run.load_requests)
    except (PerfkitError, OSError, ValueError):  # a summary is enough to be compared
        return services
    tally, codes = Tally(columns), {name: code for code, name in enumerate(columns.names)}
    named = {name: replace(services[name], **tally.error_fields(codes[name])) for name in without if name in codes}
    return {**services, **named}
