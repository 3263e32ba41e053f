"""`RunStore`: runs are kept, read back, listed, selected and followed over time.

A store is a URL: a local folder, any fsspec address, or a branch of a git repository (`perfkit.runs.backends`).  Each
run is one folder that never changes once it is published (`perfkit.runs.run_folder`).  Everything else can be computed
again: the index, which answers all questions about many runs at once, and the noise profiles.
"""

from __future__ import annotations

import re
import shutil
import tempfile
import weakref
from collections.abc import Callable, Collection, Iterator, Mapping
from contextlib import ExitStack, suppress
from dataclasses import replace
from datetime import UTC, date, datetime
from functools import cache
from pathlib import Path
from typing import TYPE_CHECKING, Any, overload

from perfkit.config.toml_table import expand
from perfkit.model.errors import (
    Activity,
    NotComparable,
    NotStored,
    PerfkitError,
    ReadError,
    StoreError,
    did_you_mean,
    refusals,
    what_there_is,
)
from perfkit.model.files import login
from perfkit.model.records import Metric, Run, Validity
from perfkit.model.serialization import make_run_id, parse_run, read_stored, slug
from perfkit.runs.backends import (
    CLAIM,
    DOCUMENT,
    HIDDEN,
    StagedRun,
    document_path,
    full_address,
    open_backend,
    public_address,
)
from perfkit.runs.collection import Runs, StoredRun, check_branch, commit_beginning, id_beginning, labels_text, moment
from perfkit.runs.index import (
    Index,
    ScenarioSeries,
    current_index,
    history_frame,
    history_rows,
    identity,
    oldest_first,
    runs_frame,
    scenario_series,
    selection_rows,
    usable,
)
from perfkit.runs.requests import RequestLoader, Requests
from perfkit.runs.run_folder import (
    QUARANTINE,
    REQUESTS,
    STARTED,
    QuarantineNote,
    count_checks,
    note_on,
    note_path,
    parse_note,
    read_requests,
    renamed,
    request_loader,
    sealed_document,
    write_requests,
)
from perfkit.runs.validity import duplicate_check, in_future

if TYPE_CHECKING:
    import pandas as pd
    import pyarrow as pa

MOST_FETCHED = 64 * 2**20  # bytes of a file of requests from elsewhere that becomes a frame: some 5 million requests
RUN_ID = re.compile(r"(\d{8}T\d{6}Z|undated)-.+-[0-9a-f]+")
NOISE = ".noise"  # folder of the noise profiles, which are derived from the runs; hidden from patterns such as *


def candidate_ids(run: Run, run_identity: str) -> list[str]:
    """Ids to try in turn: its own, then longer ones, in case another run has taken that in the same second."""
    stem = run.id.rpartition("-")[0] or run.id
    return [run.id, *(f"{stem}-{(run.content_hash or run_identity)[:digits]}" for digits in (8, 16, 64))]


class RunStore:
    """Runs under a URL: ``data/runs``, ``/srv/runs``, ``s3://bucket/runs``, any other fsspec address, or a git branch.

    It is a collection: ``len(store)``, ``for run in store``, ``store[-1]``, ``store[-5:]``, ``store["20261101T"]``.

    Parameters
    ----------
    url
        Created on the first write.  ``git+branch://NAME`` keeps summaries alone.
    jobs
        Processes that read thousands of runs which no index knows yet.  A script that asks for more than one must
        guard its main module (``if __name__ == "__main__"``), as for `multiprocessing`.
    on_progress
        Called with how many of these are read, and how many there are.

    Attributes
    ----------
    url
        Where it is, for people: without user info and query values.
    address
        The same with them, to open it again; for no output.
    backend
        Where the run folders are, for what works on their files.
    """

    def __init__(
        self,
        url: str | Path = "data/runs",
        *,
        jobs: int = 1,
        on_progress: Callable[[int, int], None] = lambda *_: None,
    ) -> None:
        self.address = full_address(expand(str(url), "store"))
        self.url = public_address(self.address)
        self.backend = open_backend(self.address)
        self._index: Index | None = None
        self._reading = jobs, on_progress

    @property
    def folder(self) -> Path | None:
        """The local folder of this store, or ``None`` when it is elsewhere."""
        return self.backend.folder

    # Keeping runs -----------------------------------------------------------------------------------------------------

    def add(self, run: Run, *, requests: Path | None = None) -> str:
        """Keep a run and return its id, which is the name of its folder.  The same run twice is kept once.

        Another run may have taken the id in the same second: then more of the content's hash tells them apart.

        Parameters
        ----------
        requests
            The Parquet file of the run's requests, where the caller has just written it: it is copied as it is.

        Raises
        ------
        StoreError
            It could not be written (disk full, no permission); nothing that looks like a run is left behind.
        """
        run_identity = identity(run)
        names = candidate_ids(run, run_identity)
        document_path(run.id)
        with refusals(f"{self.backend.where(run.id)}: the run could not be written"):
            for name in names:
                if self.identity_of(name) == run_identity:
                    return name
            folder = None if run.source is None else Path(run.source)
            is_here = folder and self.folder and folder.resolve() == (self.folder / run.id).resolve()
            if folder and is_here and (folder / STARTED).is_file() and not (folder / DOCUMENT).exists():
                write_requests(run, folder)
                self.backend.write(document_path(run.id), sealed_document(run, folder / REQUESTS))
                return run.id
            with self.backend.staging() as folder:
                if self.backend.keeps_requests and requests is not None:
                    shutil.copyfile(requests, folder / REQUESTS)
                elif self.backend.keeps_requests:
                    write_requests(run, folder)
                (folder / DOCUMENT).write_bytes(sealed_document(run, folder / REQUESTS))
                return self.publish(StagedRun(folder, run.id, run_identity))

    def publish(self, staged: StagedRun) -> str:
        """Publish a run under its id, or a longer one where another run has that; it may have come there meanwhile."""
        document = staged.folder / DOCUMENT
        for name in candidate_ids(parse_run(document.read_bytes(), staged.run_id), staged.identity):
            if name != staged.run_id:
                document.write_bytes(renamed(document.read_bytes(), name))
            is_new = self.backend.publish([replace(staged, run_id=name)])[0]
            if is_new or self.identity_of(name) == staged.identity:
                return name
        raise StoreError(f"{self.url}: another run already has the id {staged.run_id}")

    def import_run(self, run: Run, scenario: str | None = None, labels: Mapping[str, str] | None = None) -> str:
        """Keep a run that was read from a foreign file; returns its id.

        The same content is kept once.  Under the name of another scenario it is kept again, and marked as a duplicate.
        """
        named = scenario or run.scenario
        run_id = make_run_id(run.started_at, named, run.content_hash or "0000")
        table = self.index().table.select(["id", "content_hash"]).to_pylist() if run.content_hash is not None else []
        copies = [row["id"] for row in table if row["content_hash"] == run.content_hash and row["id"] != run_id]
        validity = Validity((*run.validity.checks, duplicate_check(copies[0] if copies else None)))
        labels = {**run.labels, **(labels or {})}
        return self.add(replace(run, id=run_id, scenario=named, labels=labels, validity=validity))

    def identity_of(self, run_id: str) -> str | None:
        """What tells a stored run from all others; ``None`` when there is none, or its document is broken."""
        path = document_path(run_id)
        try:
            return identity(parse_run(self.backend.read(path), path))
        except (FileNotFoundError, NotADirectoryError, ReadError):
            return None

    def add_files(self, run_id: str, folder: Path) -> None:
        """Copy what a tool itself wrote beside a run that is already stored; not into a store of summaries."""
        if not self.backend.keeps_requests:
            return
        with refusals(f"{self.url}: {folder.name} of {run_id} could not be written"):
            for file in sorted(path for path in folder.rglob("*") if path.is_file() and not path.is_symlink()):
                name = file.relative_to(folder.parent).as_posix()
                self.backend.write(f"{run_id}/{name}", file.read_bytes())

    # Reading runs -----------------------------------------------------------------------------------------------------

    def get(self, run_id: str) -> Run:
        """The run with that id; ``StoreError`` when there is none."""
        path, parquet = document_path(run_id), f"{run_id}/{REQUESTS}"
        where = self.backend.where(path)
        with refusals(f"{where}: cannot be read", ReadError):
            try:
                content = self.backend.read(path)
            except (FileNotFoundError, NotADirectoryError) as error:
                raise self._no_run(run_id) from error
        with Activity(f"reading {where}"):
            stored = read_stored(content, where)

        def fetch(folder: str) -> Path:
            with refusals(f"{self.backend.where(parquet)}: cannot be read", ReadError):
                self.backend.fetch(parquet, Path(folder) / REQUESTS)
            return Path(folder) / REQUESTS

        def fetched() -> pd.DataFrame:
            with tempfile.TemporaryDirectory(prefix="perfkit-store-") as folder:
                return read_requests(fetch(folder), stored.run, stored.seal)

        @cache
        def columns() -> Requests | None:
            """Of a large file, whose copy stays as long as it is needed; a small one becomes a frame, which stays."""
            if stored.seal is None or (stored.seal.requests_bytes or 0) <= MOST_FETCHED:
                return None
            with ExitStack() as stack:
                folder = stack.enter_context(tempfile.TemporaryDirectory(prefix="perfkit-store-"))
                requests = request_loader(fetch(folder), stored).columns()
                weakref.finalize(requests.parts, stack.pop_all().close)
            return requests

        loader = None
        if self.backend.keeps_requests and self.backend.exists(parquet):
            local = self.folder
            loader = RequestLoader(fetched, columns) if local is None else request_loader(local / parquet, stored)
        note = note_on(self.backend, run_id)
        counted = count_checks(self.folder / parquet, stored) if self.folder is not None else ()
        return replace(
            stored.run,
            id=run_id,
            source=self.backend.where(run_id),
            load_requests=loader,
            validity=Validity((*stored.run.validity.checks, *counted, *([note.check] if note else []))),
        )

    def _no_run(self, run_id: str) -> NotStored:
        return NotStored(f"{self.url}: has no run {run_id!r}; `perfkit runs` lists what is there")

    def summaries(self, ids: Collection[str]) -> Iterator[Run]:
        """Runs without their requests; one that has gone, or was damaged, meanwhile is left out."""
        for path, content in self.backend.read_many([document_path(run_id) for run_id in ids]):
            if isinstance(content, bytes):
                with suppress(ReadError):  # damaged since it was listed
                    yield replace(parse_run(content, self.backend.where(path)), id=path.split("/")[0])

    # The store as a collection ----------------------------------------------------------------------------------------

    def __len__(self) -> int:
        """The number of runs that can be read."""
        return len(self.index().ids)

    def __iter__(self) -> Iterator[Run]:
        """The runs, oldest first; each is read when its turn comes."""
        return iter(self[:])

    def __contains__(self, run: object) -> bool:
        """Whether there is a run of this id, or this run."""
        return (run.id if isinstance(run, Run) else run) in self.index().ids

    @overload
    def __getitem__(self, key: int | str) -> Run: ...
    @overload
    def __getitem__(self, key: slice) -> Runs: ...
    def __getitem__(self, key: int | str | slice) -> Run | Runs:
        """The run of an id (any unique beginning of it) or at a position, oldest first; of a slice, the `Runs`.

        Raises
        ------
        IndexError
            There is no such position.
        NotStored
            No run has an id that begins so, or several have; names them.
        ReadError
            The run is there, and cannot be read.

        Examples
        --------
        >>> import pandas as pd, tempfile
        >>> from perfkit import RunStore, run_from_requests
        >>> frame = pd.DataFrame({"start": [0.0], "service": "api", "response_time_ms": [20.0], "failed": False})
        >>> store = RunStore(tempfile.mkdtemp())
        >>> run_id = store.add(run_from_requests(frame, scenario="smoke"))
        >>> len(store), store[-1].id == store[run_id[:8]].id == store.select("smoke", last=5).ids[0] == run_id
        (1, True)
        """
        if isinstance(key, str):
            return self.get(id_beginning(key, self.ids(), self.url))
        ids = oldest_first(self.index().table.select(["id", "started_at"]))["id"].to_pylist()
        return Runs(StoredRun(run_id, self.get) for run_id in ids)[key]

    def select(
        self,
        scenario: str | None = None,
        *,
        last: int | None = None,
        since: datetime | date | str | None = None,
        until: datetime | date | str | None = None,
        commit: str | None = None,
        branch: str | None = None,
        labels: Mapping[str, str] | None = None,
        valid: bool | None = True,
    ) -> Runs:
        """The runs that meet every condition, oldest first; empty when none does.

        Runs of A/B tests are in no history, and never selected: name them by their ids.

        Parameters
        ----------
        scenario
            ``None``: of every scenario.
        last
            The newest so many of those that meet the other conditions; runs dated in the future are never the newest.
        since, until
            Started at this time or later, and before that time: ISO 8601, UTC where no zone is given.  A day counts
            from its beginning, and through its end.
        commit
            The first 4 digits of a commit or more.
        branch
            The name of a git branch.
        labels
            Every label must have its value.
        valid
            ``True``: runs that may be judged; ``False``: those that may not; ``None``: both.

        Raises
        ------
        NotStored
            There is no such scenario, or none of its runs belongs to its history; names the nearest.
        ReadError
            No run is of that branch or commit; names those that there are.
        """
        if last is not None and (isinstance(last, bool) or last < 1):
            raise ValueError(f"last: expected a number of runs from 1 on, got {last!r}")
        begin, end = moment("since", since), moment("until", until, end_of_day=True)
        where = f"{self.url}{f': {scenario}' if scenario else ''}"
        rows = selection_rows(self._rows(scenario))
        if scenario is not None and not rows:
            raise self._no_scenario("runs", scenario)
        if valid is not None:
            rows = [row for row in rows if row["valid"] is valid]
        if labels:
            values = {name: str(value) for name, value in labels.items()}
            rows = [row for row in rows if values.items() <= row["labels"].items()]
        if branch is not None:
            check_branch(branch, (row["branch"] for row in rows), where)
            rows = [row for row in rows if row["branch"] == branch]
        if commit is not None:
            whole = commit_beginning(commit, (row["commit"] for row in rows), where)
            rows = [row for row in rows if row["commit"] == whole]
        if begin is not None:
            rows = [row for row in rows if row["started_at"] is not None and row["started_at"] >= begin]
        if end is not None:
            rows = [row for row in rows if row["started_at"] is not None and row["started_at"] < end]
        if last is not None:
            late = in_future([row["started_at"] for row in rows], datetime.now(UTC))
            rows = [row for row, is_late in zip(rows, late, strict=True) if not is_late][-last:]
        return Runs(StoredRun(row["id"], self.get) for row in rows)

    def labelled(self, labels: Mapping[str, str]) -> list[str]:
        """Ids of all runs, oldest first, whose labels have every one of these values, also of unfit ones.

        Raises
        ------
        NotStored
            No run has such a label, or none that value; names the nearest.
        """
        rows = [(row["id"], row["labels"]) for row in selection_rows(self._rows(ab_tests=True))]
        for key, value in labels.items():
            stored = list(dict.fromkeys(of_run[key] for _, of_run in rows if key in of_run))
            if not stored:
                there = list(dict.fromkeys(name for _, of_run in rows for name in of_run))
                named = f"; there are {', '.join(there[:8])}" if there else ""
                raise NotStored(f"{self.url}: no run has a label {key!r}{did_you_mean(key, there)}{named}")
            if value not in stored:
                raise NotStored(f"{self.url}: no run is labelled {key}={value}; there are {', '.join(stored[-8:])}")
        matching = [run_id for run_id, of_run in rows if labels.items() <= of_run.items()]
        if not matching:
            raise NotStored(f"{self.url}: no run has all of the labels {labels_text(labels)}")
        return matching

    # The index --------------------------------------------------------------------------------------------------------

    def index(self) -> Index:
        """What is in the store now."""
        self._index = current_index(self.backend, self._index, *self._reading)
        return self._index

    def _rows(self, scenario: str | None = None, *, ab_tests: bool = False) -> pa.Table:
        """The rows of a history in the index, with the reason why a run was set aside; see `history_rows`."""
        table = self.index().table
        reasons = {run_id: note.reason for run_id, note in self.quarantined().items()}
        return history_rows(table, reasons, scenario, ab_tests=ab_tests)

    def ids(self) -> list[str]:
        """Ids of all whole runs, oldest first; also of those whose document is broken."""
        if self.folder is not None:
            return sorted(self.backend.version_tags())
        index = self.index()
        return sorted([*index.ids, *index.broken])

    def no_runs(self) -> tuple[list[str], list[str]]:
        """All folders that are not whole runs: the `unfinished` and the `foreign` ones."""
        index = self._index  # what was asked before need not be looked at again, but for what is new since
        runs = set(self.ids()) if index is None else {*index.ids, *index.broken}
        unfinished, foreign = list[str](), list[str]()
        for name in self.backend.folders():
            if name not in runs and not self.backend.exists(document_path(name)):
                is_begun = any(self.backend.exists(f"{name}/{sign}") for sign in (STARTED, CLAIM))
                (unfinished if is_begun else foreign).append(name)
        return unfinished, foreign

    def unfinished(self) -> list[str]:
        """Folders of runs that are still under way or were killed: begun, and never finished."""
        return self.no_runs()[0]

    def broken(self) -> dict[str, str]:
        """Folders whose run.json cannot be read: id to reason."""
        return dict(self.index().broken)

    def left_out(self, scenario: str) -> tuple[str, ...]:
        """A sentence for each run whose document cannot be read, of those that may be of this scenario by their id."""
        part = f"-{slug(scenario)}-"
        return tuple(
            f"{run_id} is left out: {reason}"
            for run_id, reason in self.broken().items()
            if part in run_id or not RUN_ID.fullmatch(run_id)
        )

    def runs(self, **filters: Any) -> pd.DataFrame:
        """One row per run, oldest first; ``filters`` keep rows whose column (or label) equals the value.

        ``ValueError`` for a name that is neither a column nor a label of any run.

        Columns: id, scenario, started_at (UTC), duration_s, users, services, requests, failures, valid, tool, source,
        commit, branch (empty where unknown), quarantined, ab_test (whether it is one of a pair of an A/B test).
        """
        return runs_frame(self._rows(ab_tests=True), self.backend.where, filters)

    def history(self, scenario: str, service: str, metric: str, *, ab_tests: bool = False) -> pd.DataFrame:
        """One metric of one service over the valid runs of a scenario, oldest first.

        Columns: id, started_at, value, standard_error (in the metric's unit; ``NaN`` where a run cannot say).  Runs in
        quarantine are left out, and those of A/B tests unless ``ab_tests`` asks for them.
        """
        return history_frame(self._rows(scenario, ab_tests=ab_tests), service, Metric(metric))

    def series(self, scenario: str, *, ab_tests: bool = False) -> ScenarioSeries:
        """Every metric of every service over all runs of a scenario; `perfkit.history.timeline` makes a timeline of it.

        Runs of A/B tests are left out unless ``ab_tests`` asks for them.

        Raises
        ------
        NotStored
            There is no such scenario, or none of its runs belongs to its history; names the nearest.
        """
        series = scenario_series(self._rows(scenario, ab_tests=ab_tests), scenario)
        if not series.run_ids:
            raise self._no_scenario("runs", scenario)
        return series

    def _no_scenario(self, what: str, scenario: str) -> PerfkitError:
        scenarios = self.index().table["scenario"].to_pylist()
        if (apart := scenarios.count(scenario)) and scenario:
            hint = f"its {apart} runs are of A/B tests (`perfkit run --compare-with`), invalid, or set aside"
            kind = NotComparable if what == "valid runs" else NotStored
            return kind(f"{self.url}: no {what} of the scenario {scenario!r} in its history: {hint}")
        there = what_there_is(scenario, sorted(set(scenarios)))
        return NotStored(f"{self.url}: no {what} of the scenario {scenario!r}{there}")

    def valid_ids(self, scenario: str) -> list[str]:
        """Ids of the valid runs of a scenario that count in its history, oldest first; `PerfkitError` if none."""
        ids: list[str] = usable(self._rows(scenario))["id"].to_pylist()
        if not ids:
            raise self._no_scenario("valid runs", scenario)
        return ids

    # Quarantine -------------------------------------------------------------------------------------------------------

    def quarantine(self, run_id: str, reason: str, by: str | None = None) -> QuarantineNote:
        """Set a run aside: it stays as it is, and counts as invalid; a later reason replaces an earlier one.

        ``StoreError`` when there is no such run.
        """
        if not self.backend.exists(document_path(run_id)):
            raise self._no_run(run_id)
        if not reason.strip():
            raise ValueError("reason: must say why the run is not to be used, got nothing")
        note = QuarantineNote(reason.strip(), by or login(), datetime.now(UTC).isoformat(timespec="seconds"), run_id)
        with refusals(f"{self.url}: the note on {run_id} could not be written"):
            self.backend.write(note_path(run_id), note.to_json())
        return note

    def lift_quarantine(self, run_id: str) -> None:
        """The run counts again as what its own checks say; nothing happens when it was not set aside."""
        with refusals(f"{self.url}: the note on {run_id} could not be written"):
            self.backend.remove(note_path(run_id))

    def quarantined(self) -> dict[str, QuarantineNote]:
        """The runs that were set aside, by id.  ``StoreError`` when they cannot be known, lest they count as valid."""
        with refusals(f"{self.url}: the notes on runs cannot be read"):
            names = sorted(self.backend.files(QUARANTINE))
            ids = [name[:-5] for name in names if name.endswith(".json") and not name.startswith(HIDDEN)]
            contents = self.backend.read_many([note_path(run_id) for run_id in ids])
            return {run_id: parse_note(content, run_id) for run_id, (_, content) in zip(ids, contents, strict=True)}

    # What is derived from the runs ------------------------------------------------------------------------------------

    def derived(self, path: str) -> bytes | None:
        """A file that was computed from the runs and kept with `keep_derived`; ``None`` when it is not there."""
        try:
            return self.backend.derived.read(path)
        except OSError:
            return None

    def keep_derived(self, path: str, content: bytes) -> None:
        """Keep what can be computed anew: a store that may only be read is no reason to fail."""
        with suppress(OSError, StoreError):
            self.backend.derived.write(path, content)
