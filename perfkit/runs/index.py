"""A cache of what the documents of all runs say, in one Arrow file that can be deleted at any time.

One row per run, with the metrics of its services as lists.  Before each use it is compared with the store itself: the
row of a run that is gone, or whose document is another, is dropped, and runs without a row are read (`current_index`).
The file is replaced whole, so writers at once do no harm: the last one wins, and what it did not know is read again.

The second half answers questions from the rows: a list of runs, one metric over time, all series of a scenario.
"""

from __future__ import annotations

import hashlib
import json
import zlib
from bisect import bisect_left
from collections.abc import Callable, Collection, Iterable, Iterator, Mapping
from dataclasses import dataclass
from datetime import UTC, datetime
from functools import lru_cache
from itertools import islice
from typing import TYPE_CHECKING, Any

from perfkit.model.errors import Activity, ReadError, StoreError, did_you_mean, leave_out
from perfkit.model.records import Metric, Run, environment_of
from perfkit.model.serialization import CHANGED, canonical, parse_run, run_to_document
from perfkit.runs.backends import Backend, document_path
from perfkit.runs.validity import in_future, misdated

if TYPE_CHECKING:
    import numpy as np
    import pandas as pd
    import pyarrow as pa

    from perfkit.stats.summary import Floats

AT_ONCE = 1000  # runs turned into a table at a time, which bounds the memory for their Python numbers
ERROR = "_se"  # behind a metric's name: the standard error of its values


def schema() -> pa.Schema:
    """Of the index; one that differs is not read."""
    import pyarrow as pa

    texts = (
        *("id", "version_tag", "identity", "content_hash", "scenario", "tool", "labels", "commit", "branch"),
        *("why_invalid", "environment"),
    )
    numbers = {"requests": pa.int64(), "failures": pa.int64(), "users": pa.int64(), "duration_s": pa.float64()}
    lists = {"service": pa.string(), "count": pa.int64(), "failed": pa.int64()}
    lists |= {name: pa.float64() for metric in Metric for name in (metric.value, f"{metric.value}{ERROR}")}
    fields = [pa.field(name, pa.string()) for name in texts]
    fields += [
        pa.field("started_at", pa.timestamp("us", tz="UTC")),
        *(pa.field(name, pa.bool_()) for name in ("valid", "ab_test")),
    ]
    fields += [pa.field(name, kind) for name, kind in numbers.items()]
    return pa.schema([*fields, *(pa.field(f"service_{name}", pa.list_(kind)) for name, kind in lists.items())])


def table_of(runs: Iterable[tuple[str, str, Run]]) -> pa.Table:
    """The rows of runs, each with its id and the version tag of its document, in the order given."""
    import pyarrow as pa

    left, kind = iter(runs), schema()
    chunks = iter(lambda: [_row(*run) for run in islice(left, AT_ONCE)], [])
    return pa.concat_tables([kind.empty_table(), *(pa.Table.from_pylist(rows, schema=kind) for rows in chunks)])


def identity(run: Run) -> str:
    """The same for the same measurements of the same scenario, under whatever id, and for nothing else."""
    content = run.content_hash
    if content is None:
        document = json.loads(canonical({**run_to_document(run), "id": None}), parse_int=float)  # 50 and 50.0 are one
        content = hashlib.sha256(canonical(document)).hexdigest()
    return hashlib.sha256(f"{run.scenario}\n{content}".encode()).hexdigest()


def _row(run_id: str, tag: str, run: Run) -> dict[str, Any]:
    stats = list(run.services.values())
    why_invalid = [f"{check.name}: {check.value}" for check in run.validity.problems[:1] if not run.validity.ok]
    row: dict[str, Any] = {
        "id": run_id,
        "version_tag": tag,
        "identity": identity(run),
        "content_hash": run.content_hash,
        "scenario": run.scenario,
        "tool": run.tool,
        "ab_test": run.in_ab_test,
        "labels": json.dumps(dict(run.labels)),
        "commit": run.git.get("commit", ""),
        "branch": run.git.get("branch", ""),
        "why_invalid": "".join(why_invalid),
        "environment": json.dumps(environment_of(run), sort_keys=True),
        "started_at": run.started_at,
        "valid": run.validity.ok,
        "requests": sum(of.count or 0 for of in stats),
        "failures": sum(of.failures or 0 for of in stats),
        "users": None if run.profile.users is None else int(run.profile.users),
        "duration_s": None if run.duration_s is None else float(run.duration_s),
        "service_service": list(run.services),
        "service_count": [of.count for of in stats],
        "service_failed": [of.failures for of in stats],
    }
    for metric in Metric:
        values = [of.value(metric) for of in stats]
        row[f"service_{metric.value}"] = [None if value is None else float(value) for value in values]
        row[f"service_{metric.value}{ERROR}"] = [of.standard_error(metric) for of in stats]
    return row


FILE = ".index/runs.arrow"
_TITLE = b"perfkit.index/3"  # also counted up when runs are read in another way
_HEAD = 64  # bytes: title and checksum; Arrow wants its buffers aligned to this
CHANGED_SINCE = "its run.json was changed after it was stored."
UNKNOWN_TAG = ""  # of what is read anew each time, so that it is reported each time
SHARE_UNWRITTEN, MOST_UNWRITTEN = 0.02, 64  # runs read anew each time before the file is written again


@dataclass(frozen=True, slots=True)
class Index:
    """One row per run that can be read, sorted by id; and why the others cannot."""

    table: pa.Table
    broken: Mapping[str, str]
    unwritten: int = 0  # rows by which the file differs

    @property
    def ids(self) -> list[str]:
        """Of all runs that can be read, sorted."""
        ids: list[str] = self.table["id"].to_pylist()
        return ids


def current_index(backend: Backend, earlier: Index | None = None) -> Index:
    """What the store holds now; ``earlier`` is the index that was last made of it, else that of its file."""
    import pyarrow as pa

    earlier = earlier or read_index(backend)
    tags = backend.version_tags()
    rows = zip(earlier.table["id"].to_pylist(), earlier.table["version_tag"].to_pylist(), strict=True)
    keep = [tags.get(run_id) == tag for run_id, tag in rows]
    table = earlier.table if all(keep) else earlier.table.filter(pa.array(keep, pa.bool_()))
    there = set(table["id"].to_pylist())
    broken: dict[str, str] = {}
    new = table_of(_read_runs(backend, {name: tag for name, tag in tags.items() if name not in there}, broken))
    for run_id, reason in broken.items():
        leave_out(f"{run_id} is left out: {reason}")
    unwritten = earlier.unwritten + keep.count(False) + len(new)
    index = Index((_merged(table, new) if len(new) else table).combine_chunks(), broken, unwritten)
    if not unwritten or unwritten < min(MOST_UNWRITTEN, SHARE_UNWRITTEN * len(index.table)):
        return index
    try:
        write_index(backend, index.table)
    except (OSError, StoreError):
        return index  # a store that may only be read is no reason to fail
    return Index(index.table, broken)


def _merged(table: pa.Table, new: pa.Table) -> pa.Table:
    """Of two that are sorted by id, in pieces: to sort a table of lists takes 3 s where 100,000 runs are known."""
    import pyarrow as pa

    old_ids, new_ids = table["id"].to_pylist(), new["id"].to_pylist()
    pieces, at, row = [], 0, 0
    while row < len(new_ids):
        to = bisect_left(old_ids, new_ids[row], at)
        end = bisect_left(new_ids, old_ids[to], row) if to < len(old_ids) else len(new_ids)
        pieces += [table.slice(at, to - at), new.slice(row, end - row)]
        at, row = to, end
    return pa.concat_tables([*pieces, table.slice(at)])


def _read_runs(backend: Backend, tags: Mapping[str, str], broken: dict[str, str]) -> Iterator[tuple[str, str, Run]]:
    """Runs that have no row yet; a folder without a document is not a run, a bad one is ``broken``."""
    paths = {document_path(name): name for name in sorted(tags)}
    for path, content in backend.read_many(list(paths)):
        name = paths[path]
        try:
            if isinstance(content, OSError):
                raise content
            with Activity(f"reading {backend.where(path)}"):
                run = parse_run(content, backend.where(path))
        except FileNotFoundError:
            continue
        except OSError as error:
            broken[name] = f"{backend.where(path)}: cannot be read: {error.strerror or error}"
        except ReadError as error:
            broken[name] = str(error)
        else:
            is_changed = any(check.name == CHANGED for check in run.validity.problems)
            if is_changed:
                leave_out(f"{name} is left out: {CHANGED_SINCE}")
            yield name, UNKNOWN_TAG if is_changed else tags[name], run


def read_index(backend: Backend) -> Index:
    """The file, or an empty index when it is not there, damaged, or of another version."""
    import pyarrow as pa

    backend = backend.derived
    try:
        if backend.folder is not None:  # mapped: only the columns that are asked for are ever copied
            buffer = pa.memory_map(str(backend.folder / FILE)).read_buffer()
        else:
            buffer = pa.py_buffer(backend.read(FILE))
        head, body = bytes(buffer.slice(0, _HEAD)), buffer.slice(_HEAD)
        if head != _header(body):
            raise ValueError("damaged")
        table = pa.ipc.open_file(pa.BufferReader(body)).read_all()
        if not table.schema.equals(schema()):
            raise ValueError("of another version")
    except (OSError, StoreError, ValueError, IndexError):  # Arrow's own errors are of these kinds
        return Index(schema().empty_table(), {})
    return Index(table, {})


def write_index(backend: Backend, table: pa.Table) -> None:
    """Replace the file."""
    import pyarrow as pa

    backend = backend.derived
    sink = pa.BufferOutputStream()
    compression = None if backend.folder is not None else "zstd"
    with pa.ipc.new_file(sink, schema(), options=pa.ipc.IpcWriteOptions(compression=compression)) as writer:
        writer.write_table(table)
    body = sink.getvalue()
    backend.write(FILE, _header(body) + body.to_pybytes())


def _header(body: pa.Buffer) -> bytes:
    return b"%s %08x" % (_TITLE, zlib.crc32(body)) + b"\n".rjust(_HEAD - len(_TITLE) - 9)


# Answers from the rows ----------------------------------------------------------------------------------------------

RUN_COLUMNS = (
    *("id", "scenario", "started_at", "duration_s", "users", "services", "requests", "failures", "valid", "tool"),
    *("source", "commit", "branch", "quarantined", "ab_test"),
)


@dataclass(frozen=True, slots=True)
class ScenarioSeries:
    """Every metric of every service over the runs of a scenario, oldest first.

    ``values`` and ``errors`` map (service, metric) to one number per run, shape ``(n_runs,)``: ``NaN`` where the run is
    invalid, set aside, or cannot say.  ``counts`` maps services to their requests in each run: 0 where a valid run has
    none, ``NaN`` where it is invalid or the number is not known.  ``environments`` are those of
    `perfkit.model.records.environment_of`, as pairs.
    """

    scenario: str
    run_ids: tuple[str, ...]
    started_at: tuple[datetime | None, ...]
    valid: tuple[bool, ...]
    why_invalid: tuple[str, ...]
    commits: tuple[str, ...]
    branches: tuple[str, ...]
    values: Mapping[tuple[str, Metric], Floats]
    errors: Mapping[tuple[str, Metric], Floats]
    counts: Mapping[str, Floats]
    environments: tuple[tuple[tuple[str, str], ...], ...]


def runs_frame(
    table: pa.Table, set_aside: Collection[str], where: Callable[[str], str], filters: Mapping[str, Any]
) -> pd.DataFrame:
    """One row per run; ``filters`` keep rows whose column (or label) equals the value; ``where`` makes addresses."""
    import pandas as pd
    import pyarrow.compute as pc

    frame = table.select([name for name in RUN_COLUMNS if name in table.column_names]).to_pandas()
    frame["services"] = pc.list_value_length(table["service_service"]).to_pandas()
    frame["quarantined"] = frame["id"].isin(list(set_aside))
    frame["source"] = [where(run_id) for run_id in frame["id"]]
    keep = pd.Series(True, index=frame.index)
    labels = [json.loads(text) for text in table["labels"].to_pylist()] if filters.keys() - set(RUN_COLUMNS) else []
    names = {*RUN_COLUMNS, *(label for of_run in labels for label in of_run)}
    for name, value in filters.items():
        if name in RUN_COLUMNS:
            keep &= frame[name].isna() if value is None else frame[name] == value
        elif labels and name not in names:
            near, columns = did_you_mean(name, names), ", ".join(RUN_COLUMNS)
            raise ValueError(f"{name}: neither a column nor a label of any run{near}; columns are {columns}")
        else:
            keep &= pd.Series([of_run.get(name) == value for of_run in labels], index=frame.index, dtype=bool)
    chosen: pd.DataFrame = frame.loc[keep, list(RUN_COLUMNS)].reset_index(drop=True)
    return chosen


def of_scenario(table: pa.Table, scenario: str) -> pa.Table:
    """The rows of one scenario."""
    import pyarrow.compute as pc

    return table.filter(pc.equal(table["scenario"], scenario))


def of_history(table: pa.Table, scenario: str | None, *, ab_tests: bool = False) -> pa.Table:
    """The rows of one scenario (of all, for ``None``), without those of A/B tests unless they are asked for."""
    import pyarrow.compute as pc

    rows = of_scenario(table, scenario) if scenario is not None else table
    return rows if ab_tests else rows.filter(pc.invert(rows["ab_test"]))


def selection_rows(table: pa.Table, set_aside: Collection[str]) -> list[dict[str, Any]]:
    """What runs are selected by, oldest first: id, started_at, commit, branch, labels, valid (and not set aside)."""
    rows = _in_time(table.select(["id", "started_at", "valid", "commit", "branch", "labels"])).to_pylist()
    for row in rows:
        row |= {"valid": row["valid"] and row["id"] not in set_aside, "labels": json.loads(row["labels"])}
    return list(rows)


def valid_ids(table: pa.Table, set_aside: Collection[str]) -> list[str]:
    """Ids of the runs that may be used, in the order of the table."""
    pairs = zip(table["id"].to_pylist(), table["valid"].to_pylist(), strict=True)
    return [run_id for run_id, valid in pairs if valid and run_id not in set_aside]


def history_frame(table: pa.Table, set_aside: Collection[str], service: str, metric: Metric) -> pd.DataFrame:
    """One metric of one service over the runs that may be used."""
    import pandas as pd
    import pyarrow as pa
    import pyarrow.compute as pc

    usable = set(valid_ids(table, set_aside))
    table = table.filter(pa.array([run_id in usable for run_id in table["id"].to_pylist()], pa.bool_()))
    runs = pc.list_parent_indices(table["service_service"])
    of_service = pc.equal(pc.list_flatten(table["service_service"]), service)
    rows = runs.filter(of_service)
    columns = {"value": f"service_{metric.value}", "standard_error": f"service_{metric.value}{ERROR}"}
    parts = {title: pc.list_flatten(table[name]).filter(of_service) for title, name in columns.items()}
    frame = pd.DataFrame({name: table[name].take(rows).to_pandas() for name in ("id", "started_at")})
    return frame.assign(**{title: values.to_numpy() for title, values in parts.items()})


def scenario_series(table: pa.Table, set_aside: Mapping[str, str], scenario: str) -> ScenarioSeries:
    """Arrange the rows of a history by the time at which its runs started."""
    table = _in_time(table)
    ids = table["id"].to_pylist()
    valid = [ok and run_id not in set_aside for run_id, ok in zip(ids, table["valid"].to_pylist(), strict=True)]
    times, now = table["started_at"].to_pylist(), datetime.now(UTC)
    late = in_future(times, now)
    dates = {run_id: misdated(time, now) for run_id, time, is_late in zip(ids, times, late, strict=True) if is_late}
    valid = [ok and run_id not in dates for run_id, ok in zip(ids, valid, strict=True)]
    set_aside = {**dates, **{run_id: f"quarantined: {reason}" for run_id, reason in set_aside.items()}}
    reasons = zip(ids, table["why_invalid"].to_pylist(), strict=True)
    values, errors, counts = _matrices(table, valid)
    return ScenarioSeries(
        scenario,
        tuple(ids),
        tuple(table["started_at"].to_pylist()),
        tuple(valid),
        tuple(set_aside.get(run_id) or why for run_id, why in reasons),
        tuple(table["commit"].to_pylist()),
        tuple(table["branch"].to_pylist()),
        values,
        errors,
        counts,
        tuple(map(_environment, table["environment"].to_pylist())),
    )


@lru_cache(maxsize=1024)
def _environment(text: str) -> tuple[tuple[str, str], ...]:
    """Most runs of a store were made alike."""
    return tuple(json.loads(text).items())


def _in_time(table: pa.Table) -> pa.Table:
    """Oldest first; runs whose time is not known count as older than all others."""
    import pyarrow as pa

    table = table.sort_by([("started_at", "ascending"), ("id", "ascending")])
    dated = len(table) - table["started_at"].null_count  # these come first now
    return pa.concat_tables([table.slice(dated), table.slice(0, dated)]).combine_chunks()


def _matrices(
    table: pa.Table, valid: list[bool]
) -> tuple[dict[tuple[str, Metric], Floats], dict[tuple[str, Metric], Floats], dict[str, Floats]]:
    """Values and errors of each series, and counts; services in the order of their first valid run."""
    import numpy as np
    import pyarrow.compute as pc

    runs = pc.list_parent_indices(table["service_service"]).to_numpy()
    usable = np.array(valid, dtype=bool)[runs]
    names = pc.list_flatten(table["service_service"]).filter(usable).combine_chunks().dictionary_encode()
    services, codes, runs = names.dictionary.to_pylist(), names.indices.to_numpy(), runs[usable]

    def spread(column: str) -> np.ndarray[Any, np.dtype[np.float64]]:
        matrix = np.full((len(services), len(table)), np.nan)
        matrix[codes, runs] = pc.list_flatten(table[column]).to_numpy()[usable]
        return matrix

    values: dict[tuple[str, Metric], Floats] = {}
    errors: dict[tuple[str, Metric], Floats] = {}
    for metric in Metric:
        level, error = spread(f"service_{metric.value}"), spread(f"service_{metric.value}{ERROR}")
        for code, service in enumerate(services):
            if not np.isnan(level[code]).all():
                values[service, metric], errors[service, metric] = level[code], error[code]
    order = {service: number for number, service in enumerate(services)}
    keys = sorted(values, key=lambda key: (order[key[0]], list(Metric).index(key[1])))
    counts = np.where(np.array(valid, dtype=bool), 0.0, np.nan) * np.ones((len(services), 1))
    counts[codes, runs] = pc.list_flatten(table["service_count"]).to_numpy(zero_copy_only=False)[usable]
    by_service = {service: counts[code] for code, service in enumerate(services)}
    return {key: values[key] for key in keys}, {key: errors[key] for key in keys}, by_service
