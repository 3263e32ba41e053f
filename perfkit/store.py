"""Where runs are kept: one folder per run under any fsspec URL (a local folder by default).

Run folders are immutable, and ``run.json`` is written last: a folder without it is not a run.
"""

from __future__ import annotations

import json
import posixpath
from collections.abc import Collection, Iterator
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Any
from uuid import uuid4

from perfkit.document import dump_json, run_from_document, run_to_document, slug
from perfkit.errors import MissingExtra, ReadError, StoreError, did_you_mean
from perfkit.model import Metric, Run
from perfkit.noise_profile import NoiseProfile, profile_of
from perfkit.readers.run_folder import DOCUMENT, REQUESTS, STARTED

if TYPE_CHECKING:
    import pandas as pd


NOISE = ".noise"  # folder of the noise profiles, which are derived from the runs; hidden from patterns such as *


class RunStore:
    """Runs under a URL: ``data/runs``, ``/srv/runs``, ``s3://bucket/runs`` or any other fsspec address.

    Parameters
    ----------
    url
        Created on the first write.
    """

    def __init__(self, url: str | Path = "data/runs") -> None:
        import fsspec

        self.url = str(url)
        try:
            self._fs, self._root = fsspec.core.url_to_fs(self.url)
        except (ImportError, ValueError) as error:
            raise MissingExtra(f"{self.url}: {error}") from error

    @property
    def folder(self) -> Path | None:
        """The local folder of this store, or ``None`` when it is elsewhere."""
        return Path(self._root) if "file" in _protocols(self._fs) else None

    def add(self, run: Run) -> str:
        """Keep a run and return its id, which is the name of its folder.  The same run twice is kept once.

        Raises
        ------
        StoreError
            It could not be written (disk full, no permission); nothing that looks like a run is left behind.
        """
        run = self._with_free_id(run)
        target = self._path(run.id)
        if self._fs.exists(posixpath.join(target, DOCUMENT)):
            return run.id
        try:
            self._fs.makedirs(target, exist_ok=True)
            self._write_requests(run, posixpath.join(target, REQUESTS))
            self._write_whole(posixpath.join(target, DOCUMENT), dump_json(run_to_document(run)).encode())
        except OSError as error:
            raise StoreError(f"{target}: the run could not be written: {error.strerror or error}") from error
        return run.id

    def add_files(self, run_id: str, folder: Path) -> None:
        """Copy what a tool itself wrote beside a run that is already stored."""
        try:
            self._fs.put(str(folder), posixpath.join(self._path(run_id), folder.name), recursive=True)
        except OSError as error:
            raise StoreError(f"{self.url}: {folder.name} of {run_id} could not be written: {error}") from error

    def _with_free_id(self, run: Run) -> Run:
        """Another run may have taken the id in the same second: then more of the content's hash tells them apart."""
        for digits in (4, 8, 16, 64):
            stem, _, _ = run.id.rpartition("-")
            name = run.id if digits == 4 else f"{stem}-{(run.content_hash or '')[:digits]}"
            document = posixpath.join(self._path(name), DOCUMENT)
            if not self._fs.exists(document):
                return replace(run, id=name)
            if self._content_hash(document) == run.content_hash:
                return replace(run, id=name)
        raise StoreError(f"{self.url}: another run already has the id {run.id}")

    def _content_hash(self, document: str) -> str | None:
        """Of a stored run; empty, so unlike any other, when its document is broken."""
        try:
            return run_from_document(json.loads(self._fs.cat_file(document)), document).content_hash
        except (ReadError, ValueError):
            return ""

    def _write_requests(self, run: Run, path: str) -> None:
        if run.load_requests is None or self._fs.exists(path):
            return
        import pyarrow as pa
        import pyarrow.parquet as pq

        try:
            table = pa.Table.from_pandas(run.load_requests(), preserve_index=False)
        except (pa.ArrowInvalid, pa.ArrowTypeError, pa.ArrowNotImplementedError) as error:
            raise StoreError(
                f"{path}: the table of requests cannot be kept: {'; '.join(map(str, error.args))}"
            ) from error
        partial = _partial(path)
        try:
            with self._fs.open(partial, "wb") as file:
                pq.write_table(table, file, compression="zstd")
            self._fs.mv(partial, path)
        except OSError:
            self._discard(partial)
            raise

    def _write_whole(self, path: str, content: bytes) -> None:
        partial = _partial(path)
        try:
            with self._fs.open(partial, "wb") as file:
                file.write(content)
            self._fs.mv(partial, path)
        except OSError:
            self._discard(partial)
            raise

    def _discard(self, path: str) -> None:
        if self._fs.exists(path):
            self._fs.rm_file(path)

    def get(self, run_id: str) -> Run:
        """The run with that id; ``StoreError`` when there is none."""
        place = posixpath.join(self._path(run_id), DOCUMENT)
        try:
            content = self._fs.cat_file(place)
        except FileNotFoundError as error:
            raise StoreError(f"{self.url}: has no run {run_id!r}; `perfkit runs` lists what is there") from error
        try:
            run = run_from_document(json.loads(content), place)
        except ValueError as error:
            raise ReadError(f"{place}: not JSON: {error}") from error
        parquet = posixpath.join(self._path(run_id), REQUESTS)
        loader = (lambda: self._read_requests(parquet)) if self._fs.exists(parquet) else None
        return replace(run, source=self._path(run_id), load_requests=loader)

    def _read_requests(self, path: str) -> pd.DataFrame:
        import pyarrow.parquet as pq

        with self._fs.open(path, "rb") as file:
            frame: pd.DataFrame = pq.read_table(file).to_pandas()
        return frame

    def _folders(self) -> list[str]:
        if not self._fs.exists(self._root):
            return []
        if self._fs.isfile(self._root):
            raise StoreError(f"{self.url}: is a file; a store is a folder of runs")
        return [posixpath.basename(path.rstrip("/")) for path in self._fs.ls(self._root, detail=False)]

    def ids(self) -> list[str]:
        """Ids of all whole runs, oldest first."""
        names = self._folders()
        return sorted(name for name in names if self._fs.exists(posixpath.join(self._path(name), DOCUMENT)))

    def unfinished(self) -> list[str]:
        """Folders of runs that are still under way or were killed: begun, and never finished."""
        names = self._folders()
        begun = [name for name in names if self._fs.exists(posixpath.join(self._path(name), STARTED))]
        return sorted(name for name in begun if not self._fs.exists(posixpath.join(self._path(name), DOCUMENT)))

    def _all(self) -> Iterator[Run]:
        for run_id in self.ids():
            try:
                yield self.get(run_id)
            except ReadError:
                continue  # a corrupt or foreign folder must not hide the others; `broken` names it

    def with_content(self, content_hash: str | None) -> list[str]:
        """Ids of the runs that hold the same measurements; none for content that is not known."""
        return [run.id for run in self._all() if content_hash is not None and run.content_hash == content_hash]

    def broken(self) -> dict[str, str]:
        """Folders whose run.json cannot be read: id to reason."""
        found = {}
        for run_id in self.ids():
            try:
                self.get(run_id)
            except ReadError as error:
                found[run_id] = str(error)
        return found

    def runs(self, **filters: Any) -> pd.DataFrame:
        """One row per run, oldest first; ``filters`` keep rows whose column (or label) equals the value.

        ``ValueError`` for a name that is neither a column nor a label of any run.

        Columns: id, scenario, started_at (UTC), duration_s, users, services, requests, failures, valid, tool, source.
        """
        import pandas as pd

        every = [(run, _row(run)) for run in self._all()]
        known = {*_COLUMNS, *(label for run, _ in every for label in run.labels)}
        for name in filters:
            if every and name not in known:
                near = did_you_mean(name, known)
                raise ValueError(f"{name}: neither a column nor a label of any run{near}; columns are {_LISTED}")
        rows = [row for run, row in every if _matches(run, row, filters)]
        return pd.DataFrame(rows, columns=list(_COLUMNS))

    def history(self, scenario: str, service: str, metric: str) -> pd.DataFrame:
        """One metric of one service over the valid runs of a scenario, oldest first.

        Columns: id, started_at, value, standard_error (in the metric's unit).
        """
        import pandas as pd

        name = Metric(metric)
        rows = [
            (run.id, run.started_at, run.services[service].value(name), run.services[service].standard_error(name))
            for run in self._all()
            if run.scenario == scenario and service in run.services and run.validity.ok
        ]
        return pd.DataFrame(rows, columns=["id", "started_at", "value", "standard_error"])

    def noise_profile(self, scenario: str, *, without: Collection[str] = ()) -> NoiseProfile:
        """What the valid runs of a scenario tell of its noise.

        It is kept in the store, and learned anew when runs were added.  ``without`` names runs to leave out, such as
        those that are to be compared.  `StoreError` when there is no run.
        """
        runs = [run for run in self._all() if run.scenario == scenario and run.validity.ok and run.id not in without]
        if not runs:
            known = sorted({run.scenario for run in self._all()})
            near = did_you_mean(scenario, known)
            there = f"; there are {', '.join(known)}" if known else ""
            raise StoreError(f"{self.url}: no valid runs of the scenario {scenario!r}{near}{there}")
        kept = posixpath.join(self._root, NOISE, f"{slug(scenario)}.json")
        profile = self._kept_profile(kept)
        if profile is not None and profile.scenario == scenario and profile.run_ids == tuple(run.id for run in runs):
            return profile
        profile = profile_of(scenario, runs)
        if not without:
            try:
                self._fs.makedirs(posixpath.dirname(kept), exist_ok=True)
                self._write_whole(kept, dump_json(profile.to_dict()).encode())
            except OSError:
                pass  # it can be learned anew; a store that may only be read is no reason to fail
        return profile

    def _kept_profile(self, path: str) -> NoiseProfile | None:
        """A profile is derived: a broken one is learned anew."""
        try:
            return NoiseProfile.from_dict(json.loads(self._fs.cat_file(path)))
        except (OSError, ValueError):
            return None

    def _path(self, run_id: str) -> str:
        if "/" in run_id or run_id in ("", ".", ".."):
            raise StoreError(f"run id {run_id!r}: is not the name of a run folder")
        return posixpath.join(self._root, run_id)


_COLUMNS = (
    "id",
    "scenario",
    "started_at",
    "duration_s",
    "users",
    "services",
    "requests",
    "failures",
    "valid",
    "tool",
    "source",
)


_LISTED = ", ".join(_COLUMNS)


def _row(run: Run) -> dict[str, Any]:
    return {
        "id": run.id,
        "scenario": run.scenario,
        "started_at": run.started_at,
        "duration_s": run.duration_s,
        "users": run.profile.users,
        "services": len(run.services),
        "requests": sum(stats.count or 0 for stats in run.services.values()),
        "failures": sum(stats.failures or 0 for stats in run.services.values()),
        "valid": run.validity.ok,
        "tool": run.tool,
        "source": run.source,
    }


def _matches(run: Run, row: dict[str, Any], filters: dict[str, Any]) -> bool:
    return all((row[name] if name in row else run.labels.get(name)) == value for name, value in filters.items())


def _partial(path: str) -> str:
    """A name of its own for each writer, so that two at once do not move each other's file away."""
    return f"{path}.{uuid4().hex[:8]}.partial"


def _protocols(fs: Any) -> tuple[str, ...]:
    return (fs.protocol,) if isinstance(fs.protocol, str) else tuple(fs.protocol)
