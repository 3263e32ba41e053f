"""What the index keeps of each run: one row, with the metrics of its services as lists."""

from __future__ import annotations

import json
from collections.abc import Iterable, Iterator
from itertools import islice
from typing import TYPE_CHECKING, Any

from perfkit.alike import environment_of
from perfkit.model import Metric, Run
from perfkit.store.sealed import identity

if TYPE_CHECKING:
    import pyarrow as pa

AT_ONCE = 1000  # runs turned into a table at a time, which bounds the memory for their Python numbers
ERROR = "_se"  # behind a metric's name: the standard error of its values


def schema() -> pa.Schema:
    """Of the index; one that differs is not read."""
    import pyarrow as pa

    texts = (
        *("id", "stamp", "identity", "content_hash", "scenario", "tool", "labels", "commit", "branch", "why_invalid"),
        "environment",
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
    """The rows of runs, each with its id and the stamp of its document, in the order given."""
    import pyarrow as pa

    left, kind = iter(runs), schema()
    chunks = iter(lambda: [_row(*item) for item in islice(left, AT_ONCE)], [])
    return pa.concat_tables([kind.empty_table(), *(pa.Table.from_pylist(rows, schema=kind) for rows in chunks)])


def _row(run_id: str, stamp: str, run: Run) -> dict[str, Any]:
    every = list(run.services.values())
    first = run.validity.problems[:1] if not run.validity.ok else ()
    row = {
        "id": run_id,
        "stamp": stamp,
        "identity": identity(run),
        "content_hash": run.content_hash,
        "scenario": run.scenario,
        "tool": run.tool,
        "ab_test": run.in_ab_test,
        "labels": json.dumps(dict(run.labels)),
        "commit": run.git.get("commit", ""),
        "branch": run.git.get("branch", ""),
        "why_invalid": "".join(f"{check.name}: {check.value}" for check in first),
        "environment": json.dumps(environment_of(run), sort_keys=True),
        "started_at": run.started_at,
        "valid": run.validity.ok,
        "requests": sum(stats.count or 0 for stats in every),
        "failures": sum(stats.failures or 0 for stats in every),
        "users": None if run.profile.users is None else int(run.profile.users),
        "duration_s": _float(run.duration_s),
        "service_service": list(run.services),
        "service_count": [stats.count for stats in every],
        "service_failed": [stats.failures for stats in every],
    }
    return row | dict(_measured(run))


def _measured(run: Run) -> Iterator[tuple[str, list[float | None]]]:
    every = run.services.values()
    for metric in Metric:
        yield f"service_{metric.value}", [_float(stats.value(metric)) for stats in every]
        yield f"service_{metric.value}{ERROR}", [stats.standard_error(metric) for stats in every]


def _float(value: float | None) -> float | None:
    return None if value is None else float(value)
