"""`Runs`: several runs as one object, and what runs are selected by: beginnings of ids and commits, branches, times.

A `Runs` is an immutable sequence: runs of a store are read when they are first looked at, so that ``store[-5:]`` reads
five documents, however many runs the store holds.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from datetime import UTC, date, datetime, time, timedelta
from functools import cached_property
from typing import TYPE_CHECKING, Any, overload

from perfkit.model.codec import parse_time, utc
from perfkit.model.errors import NotStored, ReadError, did_you_mean, leave_out
from perfkit.model.records import Metric, Run

if TYPE_CHECKING:
    import pandas as pd

MOST_NAMED = 10  # of the runs that begin with one text, in the error that says so
FRAME_COLUMNS = ("run", "started_at", "commit", "service", "metric", "value", "standard_error")


@dataclass
class StoredRun:
    """A run of a store that is read when it is first needed, and then kept."""

    id: str
    read: Callable[[str], Run]

    @cached_property
    def run(self) -> Run:
        return self.read(self.id)


class Runs(Sequence[Run]):
    """An immutable sequence of runs; slices and ``+`` give `Runs` too, and ``runs["2026"]`` the run of that id.

    Parameters
    ----------
    runs
        In the order in which they are to stand, usually oldest first.

    Examples
    --------
    >>> import pandas as pd
    >>> from perfkit import run_from_requests
    >>> frame = pd.DataFrame({"start": [0.0, 1.0], "service": "api", "response_time_ms": [20.0, 22.0], "failed": False})
    >>> runs = Runs([run_from_requests(frame, scenario="smoke")])
    >>> len(runs + runs), [run.scenario for run in runs[:1]]
    (2, ['smoke'])
    >>> runs.to_frame().query("metric == 'avg_latency_ms'")["value"].tolist()
    [21.0]
    """

    if TYPE_CHECKING:

        @property
        def plot(self) -> Any:
            """The figures of the runs, which `perfkit/__init__` registers: `perfkit.report.plot.RunsPlots`."""

    def __init__(self, runs: Iterable[Run | StoredRun] = ()) -> None:
        self._runs: tuple[Run | StoredRun, ...] = runs._runs if isinstance(runs, Runs) else tuple(runs)

    def __len__(self) -> int:
        return len(self._runs)

    @overload
    def __getitem__(self, key: int | str) -> Run: ...
    @overload
    def __getitem__(self, key: slice) -> Runs: ...
    def __getitem__(self, key: int | str | slice) -> Run | Runs:
        """The run at a position or of an id (any unique beginning of it); of a slice, the `Runs`.

        Raises
        ------
        IndexError
            There is no such position.
        NotStored
            No run has an id that begins so, or several have.
        """
        if isinstance(key, slice):
            return Runs(self._runs[key])
        if isinstance(key, str):
            return self[self.ids.index(id_beginning(key, self.ids, "these runs"))]
        run = self._runs[key]
        return run.run if isinstance(run, StoredRun) else run

    def __iter__(self) -> Iterator[Run]:
        return (self[position] for position in range(len(self)))

    def __contains__(self, run: object) -> bool:
        """Whether a run, or the run of that id, is among them."""
        return run in self.ids if isinstance(run, str) else any(run == other for other in self)

    def __add__(self, other: Iterable[Run]) -> Runs:
        return Runs((*self._runs, *Runs(other)._runs)) if isinstance(other, Iterable) else NotImplemented

    def __radd__(self, other: Iterable[Run]) -> Runs:
        return Runs(other) + self if isinstance(other, Iterable) else NotImplemented

    def __eq__(self, other: object) -> bool:
        return tuple(self) == tuple(other) if isinstance(other, Runs) else NotImplemented

    __hash__ = None  # type: ignore[assignment]  # as of a list: runs hold mappings

    def __repr__(self) -> str:
        shown = [*self.ids[:2], "...", self.ids[-1]] if len(self) > 3 else self.ids
        text = ", ".join(f"{name[:80]}{'...' if len(name) > 80 else ''}" for name in shown)
        return f"<Runs: {len(self)}{': ' if shown else ''}{text}>"

    @property
    def ids(self) -> tuple[str, ...]:
        """The ids of the runs, in their order; no run is read for them."""
        return tuple(run.id for run in self._runs)

    def to_frame(self) -> pd.DataFrame:
        """One row per run, service and metric.

        Columns: run (id), started_at (UTC), commit (``None`` where unknown), service, metric, value (in the metric's
        unit), standard_error (within the run); ``NaN`` where a run cannot say.
        """
        import pandas as pd

        rows = [
            (
                *(run.id, run.started_at, run.git.get("commit"), name, metric.value),
                *(stats.value(metric), stats.standard_error(metric)),
            )
            for run in self
            for name, stats in run.services.items()
            for metric in Metric
        ]
        frame = pd.DataFrame(rows, columns=list(FRAME_COLUMNS)).astype({"value": float, "standard_error": float})
        return frame.assign(started_at=pd.to_datetime(frame["started_at"], utc=True))

    def requests(self) -> pd.DataFrame:
        """Every request of every run: the columns of `Run.requests`, after ``run``, the id.

        Runs that are only summaries have none, and are named on standard error by the command line.

        Raises
        ------
        ReadError
            None of the runs keeps its requests, or a file of them cannot be read.
        """
        import pandas as pd

        names: list[str] = []
        frames: list[pd.DataFrame] = []
        for run in self:
            if (frame := run.requests()) is not None:
                names.append(run.id)
                frames.append(frame)
            else:
                leave_out(f"{run.id} is left out: it is a summary without requests")
        if not frames:
            raise ReadError(f"{len(self)} runs: none of them keeps its requests; only their summaries are known")
        for name in frames[0].columns:
            if all(name in frame and isinstance(frame[name].dtype, pd.CategoricalDtype) for frame in frames):
                labels = list(dict.fromkeys(label for frame in frames for label in frame[name].cat.categories))
                frames = [frame.assign(**{name: frame[name].cat.set_categories(labels)}) for frame in frames]
        merged = pd.concat(frames, ignore_index=True)
        column = pd.Categorical(names, list(dict.fromkeys(names))).repeat([len(frame) for frame in frames])
        merged.insert(0, "run", pd.Series(column))
        return merged


def id_beginning(text: str, ids: Sequence[str], source: str) -> str:
    """The id that is this text, or the only one that begins so; ``NotStored`` names the nearest, or all of them."""
    if text in ids:
        return text
    matching = sorted({name for name in ids if name.startswith(text)}) if text else []
    if len(matching) == 1:
        return matching[0]
    if matching:
        more = f" and {len(matching) - MOST_NAMED} more" if len(matching) > MOST_NAMED else ""
        listed = ", ".join(matching[:MOST_NAMED])
        raise NotStored(f"{source}: {len(matching)} runs begin with {text!r}: {listed}{more}")
    raise NotStored(f"{source}: no run {text!r}{did_you_mean(text, ids)}; `perfkit runs` lists what is there")


def labels_text(labels: Mapping[str, str]) -> str:
    """Labels in a sentence, as they are typed: ``build=1.2 and machine=ci-4``."""
    return " and ".join(f"{key}={value}" for key, value in labels.items())


def parse_labels(texts: Iterable[str]) -> dict[str, str]:
    """``("build=1.4",)`` -> ``{"build": "1.4"}``; ``ValueError`` for anything else."""
    values: dict[str, str] = {}
    for text in texts:
        key, sign, value = text.partition("=")
        if not key or not sign:
            raise ValueError(f"expected KEY=VALUE, got {text!r}")
        if values.setdefault(key, value) != value:
            raise ValueError(f"{key!r} has two values")
    return values


def in_time(runs: Iterable[Run]) -> tuple[Run, ...]:
    """Oldest first; runs without a start time before all others."""
    undated = datetime.min.replace(tzinfo=UTC)
    return tuple(sorted(runs, key=lambda run: (run.started_at or undated, run.id)))


def commit_beginning(digits: str, commits: Iterable[str], source: str) -> str:
    """The one commit of these (oldest first) whose id begins so, at least 4 digits.

    ``ReadError``: these are not digits of a commit, or several or none begin so; names the newest ones then.
    """
    if not re.fullmatch(r"[0-9a-f]{4,64}", digits.lower()):
        raise ReadError(f"{source}: expected at least 4 hexadecimal digits of a commit, got {digits!r}")
    newest_first = list(dict.fromkeys(filter(None, reversed(list(commits)))))
    matching = sorted(commit for commit in newest_first if commit.lower().startswith(digits.lower()))
    if len(matching) > 1:
        raise ReadError(f"{source}: several commits begin so: {', '.join(commit[:12] for commit in matching)}")
    if not matching:
        newest = list(dict.fromkeys(commit[:10] for commit in newest_first))[:5]
        there = f"; the newest with runs are {', '.join(newest)}" if newest else "; these runs do not know their commit"
        raise ReadError(f"{source}: no valid run of that commit{there}")
    return matching[0]


def check_branch(name: str, branches: Iterable[str], source: str) -> None:
    """``ReadError`` when no run is of that branch; names those that there are."""
    distinct = list(dict.fromkeys(filter(None, branches)))
    if name not in distinct:
        there = (
            f"; there are runs of {', '.join(distinct[:8])}" if distinct else "; these runs do not know their branch"
        )
        raise ReadError(f"{source}: no valid run of that branch{did_you_mean(name, distinct)}{there}")


def moment(name: str, value: datetime | date | str | None, *, end_of_day: bool = False) -> datetime | None:
    """A time in UTC; of a day without a time its beginning, or its end.  ``ValueError`` for what is none."""
    if value is None:
        return None
    try:
        if isinstance(value, str):
            value = date.fromisoformat(value) if re.fullmatch(r"\d{4}-\d\d-\d\d", value.strip()) else parse_time(value)
        if isinstance(value, datetime):
            return value.replace(tzinfo=UTC) if value.tzinfo is None else utc(value)
    except ValueError as error:
        raise ValueError(f"{name}: expected a time such as 2026-11-01 or 2026-11-01T14:30, got {value!r}") from error
    if not isinstance(value, date):
        raise ValueError(f"{name}: expected a time or a day, got {value!r}")
    is_last = end_of_day and value == date.max  # after which there is no day
    return datetime.max.replace(tzinfo=UTC) if is_last else datetime.combine(value + timedelta(end_of_day), time(), UTC)
