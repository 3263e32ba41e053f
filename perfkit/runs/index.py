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
from collections.abc import Callable, Iterable, Iterator, Mapping
from dataclasses import dataclass
from datetime import UTC, datetime
from functools import lru_cache, partial
from itertools import accumulate, islice
from typing import TYPE_CHECKING, Any

from perfkit.model.errors import Activity, ReadError, StoreError, did_you_mean, leave_out, omissions
from perfkit.model.executors import parallel_map
from perfkit.model.records import Metric, Run, ServiceStats, environment_of, standard_errors_of, values_of
from perfkit.model.redaction import conceal_values_of, concealed_values
from perfkit.model.serialization import CHANGED, canonical, parse_run, run_to_document
from perfkit.runs.backends import Backend, document_path
from perfkit.runs.validity import in_future, misdated

if TYPE_CHECKING:
    import numpy as np
    import pandas as pd
    import pyarrow as pa

    from perfkit.stats.summary import Floats

AT_ONCE = 1000  # runs turned into a table at a time, which bounds the memory for their Python numbers
WORTH_PROCESSES = 4000  # runs: 2 s of work, against 0.7 s of CPU to start a process
ERROR = "_se"  # behind a metric's name: the standard error of its values


def identity(run: Run) -> str:
    """The same for the same measurements of the same scenario, under whatever id, and for nothing else."""
    content = run.content_hash
    if content is None:
        document = json.loads(canonical({**run_to_document(run), "id": None}), parse_int=float)  # 50 and 50.0 are one
        content = hashlib.sha256(canonical(document)).hexdigest()
    return hashlib.sha256(f"{run.scenario}\n{content}".encode()).hexdigest()


# The Arrow type of a column, and its value.  Besides these, `id`, `version_tag` and `service_service`.
COLUMNS: dict[str, tuple[str, Callable[[Run], Any]]] = {
    "identity": ("string", identity),
    "content_hash": ("string", lambda run: run.content_hash),
    "scenario": ("string", lambda run: run.scenario),
    "tool": ("string", lambda run: run.tool),
    "labels": ("string", lambda run: json.dumps(dict(run.labels))),
    "commit": ("string", lambda run: run.git.get("commit", "")),
    "branch": ("string", lambda run: run.git.get("branch", "")),
    "environment": ("string", lambda run: json.dumps(environment_of(run), sort_keys=True)),
    "started_at": ("time", lambda run: run.started_at),
    "valid": ("bool", lambda run: run.validity.ok),
    "why_invalid": (
        "string",
        lambda run: "" if run.validity.ok else "".join(f"{c.name}: {c.value}" for c in run.validity.problems[:1]),
    ),
    "ab_test": ("bool", lambda run: run.in_ab_test),
    "requests": ("int64", lambda run: sum(stats.count or 0 for stats in run.services.values())),
    "failures": ("int64", lambda run: sum(stats.failures or 0 for stats in run.services.values())),
    "users": ("int64", lambda run: None if run.profile.users is None else int(run.profile.users)),
    "duration_s": ("double", lambda run: None if run.duration_s is None else float(run.duration_s)),
}
SERVICE_COLUMNS: dict[str, tuple[str, Callable[[list[ServiceStats]], list[Any]]]] = {
    "service_count": ("int64", lambda services: [stats.count for stats in services]),
    "service_failed": ("int64", lambda services: [stats.failures for stats in services]),
    **{f"service_{metric.value}": ("double", partial(values_of, metric=metric)) for metric in Metric},
    **{f"service_{metric.value}{ERROR}": ("double", partial(standard_errors_of, metric=metric)) for metric in Metric},
}


def schema() -> pa.Schema:
    """Of the index; one that differs is not read."""
    import pyarrow as pa

    fields = {"id": "string", "version_tag": "string", **{name: kind for name, (kind, _) in COLUMNS.items()}}
    lists = {"service_service": "string", **{name: kind for name, (kind, _) in SERVICE_COLUMNS.items()}}
    return pa.schema(
        [pa.field(name, pa.timestamp("us", tz="UTC") if kind == "time" else kind) for name, kind in fields.items()]
        + [pa.field(name, pa.list_(pa.field("item", kind))) for name, kind in lists.items()]
    )


def table_of(runs: Iterable[tuple[str, str, Run]]) -> pa.Table:
    """The rows of runs, each with its id and the version tag of its document, in the order given."""
    import pyarrow as pa

    left, kind = iter(runs), schema()
    chunks = iter(lambda: list(islice(left, AT_ONCE)), [])
    return pa.concat_tables([kind.empty_table(), *(_chunk(rows, kind) for rows in chunks)])


def _chunk(runs: list[tuple[str, str, Run]], kind: pa.Schema) -> pa.Table:
    """Column by column: a table of one dictionary per row takes four times as long."""
    import pyarrow as pa

    services = [stats for _, _, run in runs for stats in run.services.values()]
    offsets = pa.array([0, *accumulate(len(run.services) for _, _, run in runs)], pa.int32())
    columns: dict[str, list[Any]] = {
        "id": [run_id for run_id, _, _ in runs],
        "version_tag": [tag for _, tag, _ in runs],
    }
    columns |= {name: [value(run) for _, _, run in runs] for name, (_, value) in COLUMNS.items()}
    lists: dict[str, list[Any]] = {"service_service": [name for _, _, run in runs for name in run.services]}
    lists |= {name: values(services) for name, (_, values) in SERVICE_COLUMNS.items()}
    arrays = {name: pa.array(values, kind.field(name).type) for name, values in columns.items()}
    for name, values in lists.items():
        inner = pa.array(values, kind.field(name).type.value_type)
        arrays[name] = pa.ListArray.from_arrays(offsets, inner, type=kind.field(name).type)
    return pa.Table.from_arrays([arrays[field.name] for field in kind], schema=kind)


FILE = ".index/runs.arrow"
_TITLE = b"perfkit.index/4"  # also counted up when runs are read in another way
_BLOCK = 4096  # bytes that are summed up as one row
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


def current_index(
    backend: Backend,
    earlier: Index | None = None,
    jobs: int = 1,
    on_progress: Callable[[int, int], None] = lambda *_: None,
) -> Index:
    """What the store holds now; ``earlier`` is the index that was last made of it, else that of its file.

    Where many runs of a local folder have no row yet they are read in so many processes; ``on_progress`` gets how many
    are done, and how many there are.
    """
    import pyarrow as pa

    earlier = earlier or read_index(backend)
    tags = backend.version_tags()
    rows = dict(zip(earlier.table["id"].to_pylist(), earlier.table["version_tag"].to_pylist(), strict=True))
    if rows == tags and UNKNOWN_TAG not in tags.values() and not earlier.unwritten:
        return Index(earlier.table, {})
    keep = [tags.get(run_id) == tag for run_id, tag in rows.items()]
    table = earlier.table if all(keep) else earlier.table.filter(pa.array(keep, pa.bool_()))
    broken: dict[str, str] = {}
    names = sorted(tags.keys() - set(table["id"].to_pylist()))
    parts = [{name: tags[name] for name in names[at : at + AT_ONCE]} for at in range(0, len(names), AT_ONCE)]
    done = accumulate(map(len, parts))
    tasks = [(backend, part, concealed_values()) for part in parts]
    jobs = min(jobs, len(parts)) if len(names) >= WORTH_PROCESSES and backend.folder is not None else 1
    tables = [schema().empty_table()]
    for rows_of_part, why, sentences in parallel_map(
        _rows_of, tasks, jobs=jobs, on_result=lambda _: on_progress(next(done), len(names))
    ):
        tables.append(rows_of_part)
        broken |= why
        for sentence in sentences:
            leave_out(sentence)
    new = pa.concat_tables(tables)
    for run_id, reason in broken.items():
        leave_out(f"{run_id} is left out: {reason}")
    unwritten = earlier.unwritten + keep.count(False) + len(new)
    index = Index((_merged(table, new) if len(new) else table).combine_chunks(), broken, unwritten)
    if not unwritten or unwritten < min(MOST_UNWRITTEN, SHARE_UNWRITTEN * len(index.table)):
        return index
    sink = pa.BufferOutputStream()
    try:
        backend = backend.derived
        options = pa.ipc.IpcWriteOptions(compression=None if backend.folder is not None else "zstd")
        with pa.ipc.new_file(sink, schema(), options=options) as writer:
            writer.write_table(index.table)
        body = sink.getvalue()
        backend.write(FILE, _header(body) + body.to_pybytes())
    except (OSError, StoreError):
        return index  # a store that may only be read is no reason to fail
    return Index(index.table, broken)


def _rows_of(task: tuple[Backend, Mapping[str, str], str]) -> tuple[pa.Table, dict[str, str], list[str]]:
    """The rows of some runs, why others can have none, and what is to be said of them; in whatever process."""
    backend, tags, secrets = task
    conceal_values_of(secrets)
    broken: dict[str, str] = {}
    with omissions() as sentences:
        return table_of(_read_runs(backend, tags, broken)), broken, list(sentences)


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
    paths = {document_path(name): name for name in tags}
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

    try:
        backend = backend.derived
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


def _header(body: pa.Buffer) -> bytes:
    """With the checksum of the sums over blocks: that of all bytes would take most of the time of a list."""
    import numpy as np

    whole = len(body) // _BLOCK * _BLOCK
    sums = np.frombuffer(body, np.uint64, whole // 8).reshape(-1, _BLOCK // 8).sum(0, np.uint64)
    checksum = zlib.crc32(body.slice(whole), zlib.crc32(sums.tobytes(), len(body)))
    return b"%s %08x" % (_TITLE, checksum) + b"\n".rjust(_HEAD - len(_TITLE) - 9)


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


def history_rows(
    table: pa.Table, set_aside: Mapping[str, str], scenario: str | None = None, *, ab_tests: bool = False
) -> pa.Table:
    """The rows of one scenario (of all, for ``None``), without those of A/B tests unless they are asked for.

    They have one column more, ``quarantined``: the reason why the run was ``set_aside``, null where it was not.
    """
    import pyarrow as pa
    import pyarrow.compute as pc

    keep = pc.or_(pc.invert(table["ab_test"]), ab_tests)
    keep = keep if scenario is None else pc.and_(keep, pc.equal(table["scenario"], scenario))
    if not pc.all(keep).as_py():
        table = table.filter(keep)
    return table.append_column(
        "quarantined", pa.array([set_aside.get(run_id) for run_id in table["id"].to_pylist()], pa.string())
    )


def usable(table: pa.Table) -> pa.Table:
    """The rows of valid runs that were not set aside."""
    import pyarrow.compute as pc

    return table.filter(pc.and_(table["valid"], pc.is_null(table["quarantined"])))


def oldest_first(table: pa.Table) -> pa.Table:
    """In the order of time; runs whose time is not known count as older than all others."""
    import pyarrow as pa

    table = table.sort_by([("started_at", "ascending"), ("id", "ascending")])
    dated = len(table) - table["started_at"].null_count  # these come first now
    return pa.concat_tables([table.slice(dated), table.slice(0, dated)]).combine_chunks()


def runs_frame(table: pa.Table, where: Callable[[str], str], filters: Mapping[str, Any]) -> pd.DataFrame:
    """One row per run; ``filters`` keep rows whose column (or label) equals the value; ``where`` makes addresses."""
    import numpy as np
    import pandas as pd
    import pyarrow.compute as pc

    frame = table.select([name for name in RUN_COLUMNS if name in table.column_names]).to_pandas()
    frame["services"] = pc.list_value_length(table["service_service"]).to_pandas()
    frame["quarantined"] = frame["quarantined"].notna()
    frame["source"] = [where(run_id) for run_id in frame["id"]]
    keep = pd.Series(True, index=frame.index)
    labels = list(map(_labels, table["labels"].to_pylist())) if filters.keys() - set(RUN_COLUMNS) else []
    names = {*RUN_COLUMNS, *(label for of_run in labels for label in of_run)}
    for name, value in filters.items():
        if name in RUN_COLUMNS:
            keep &= frame[name].isna() if value is None else frame[name] == value
        elif labels and name not in names:
            near, columns = did_you_mean(name, names), ", ".join(RUN_COLUMNS)
            raise ValueError(f"{name}: neither a column nor a label of any run{near}; columns are {columns}")
        else:
            keep &= np.fromiter((of_run.get(name) == value for of_run in labels), bool, len(labels))
    chosen: pd.DataFrame = frame.loc[keep, list(RUN_COLUMNS)].reset_index(drop=True)
    return chosen


def selection_rows(table: pa.Table) -> list[dict[str, Any]]:
    """What runs are selected by, oldest first: id, started_at, commit, branch, labels, valid (and not set aside)."""
    columns = ["id", "started_at", "valid", "commit", "branch", "labels", "quarantined"]
    rows: list[dict[str, Any]] = oldest_first(table.select(columns)).to_pylist()
    for row in rows:
        row |= {"valid": row["valid"] and row.pop("quarantined") is None, "labels": json.loads(row["labels"])}
    return rows


def history_frame(table: pa.Table, service: str, metric: Metric) -> pd.DataFrame:
    """One metric of one service over the runs that may be used."""
    import pandas as pd
    import pyarrow.compute as pc

    table = usable(table)
    runs = pc.list_parent_indices(table["service_service"])
    of_service = pc.equal(pc.list_flatten(table["service_service"]), service)
    rows = runs.filter(of_service)
    columns = {"value": f"service_{metric.value}", "standard_error": f"service_{metric.value}{ERROR}"}
    parts = {title: pc.list_flatten(table[name]).filter(of_service) for title, name in columns.items()}
    frame = pd.DataFrame({name: table[name].take(rows).to_pandas() for name in ("id", "started_at")})
    return frame.assign(**{title: values.to_numpy() for title, values in parts.items()})


def scenario_series(table: pa.Table, scenario: str) -> ScenarioSeries:
    """Arrange the rows of a history by the time at which its runs started."""
    import numpy as np
    import pyarrow.compute as pc

    table, now = oldest_first(table), datetime.now(UTC)
    times = table["started_at"].to_pylist()
    valid, why_invalid = [], []
    columns = (table[name].to_pylist() for name in ("valid", "why_invalid", "quarantined"))
    for time, late, ok, why, note in zip(times, in_future(times, now), *columns, strict=True):
        valid.append(ok and note is None and not late)
        why_invalid.append(f"quarantined: {note}" if note is not None else misdated(time, now) if late else why)

    runs = pc.list_parent_indices(table["service_service"]).to_numpy()
    is_valid = np.array(valid, dtype=bool)
    of_valid = is_valid[runs]
    names = pc.list_flatten(table["service_service"]).filter(of_valid).combine_chunks().dictionary_encode()
    services, codes, runs = names.dictionary.to_pylist(), names.indices.to_numpy(), runs[of_valid]

    def spread(column: str, matrix: np.ndarray[Any, np.dtype[np.float64]]) -> list[Floats]:
        matrix[codes, runs] = pc.list_flatten(table[column]).to_numpy(zero_copy_only=False)[of_valid]
        return list(matrix)

    shape = len(services), len(table)
    values: dict[tuple[str, Metric], Floats] = {}
    errors: dict[tuple[str, Metric], Floats] = {}
    parts = [spread(f"service_{metric.value}", np.full(shape, np.nan)) for metric in Metric]
    error_parts = [spread(f"service_{metric.value}{ERROR}", np.full(shape, np.nan)) for metric in Metric]
    for code, service in enumerate(services):  # in the order of their first valid run
        for metric, level, error in zip(Metric, parts, error_parts, strict=True):
            if not np.isnan(level[code]).all():
                values[service, metric], errors[service, metric] = level[code], error[code]
    return ScenarioSeries(
        scenario,
        tuple(table["id"].to_pylist()),
        tuple(times),
        tuple(valid),
        tuple(why_invalid),
        tuple(table["commit"].to_pylist()),
        tuple(table["branch"].to_pylist()),
        values,
        errors,
        dict(zip(services, spread("service_count", np.where(is_valid, 0.0, np.nan) * np.ones(shape)), strict=True)),
        tuple(map(_environment, table["environment"].to_pylist())),
    )


@lru_cache(maxsize=1024)
def _labels(text: str) -> Mapping[str, str]:
    labels: Mapping[str, str] = json.loads(text)
    return labels


@lru_cache(maxsize=1024)
def _environment(text: str) -> tuple[tuple[str, str], ...]:
    """Most runs of a store were made alike."""
    return tuple(json.loads(text).items())
