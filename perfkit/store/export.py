"""All runs as one table, for other tools: one row per run and service."""

from __future__ import annotations

import io
import re
from collections.abc import Collection
from typing import TYPE_CHECKING

from perfkit.document import dump_json
from perfkit.model import Metric
from perfkit.store.index_rows import ERROR
from perfkit.store.run_store import RunStore

if TYPE_CHECKING:
    import pandas as pd
    import pyarrow as pa

FORMATS = ("csv", "parquet", "json")
RUN_PARTS = ("id", "scenario", "started_at", "duration_s", "users", "tool", "commit", "branch", "valid", "quarantined")

_TEXTS = ("id", "scenario", "tool", "commit", "branch", "service")
_FORMULA = re.compile(r"^(?=[=+@\t\r-])")  # owasp.org/www-community/attacks/CSV_Injection


def measurements(store: RunStore, run_ids: Collection[str]) -> pd.DataFrame:
    """One row per run and service, runs oldest first: what the run was, counts, every metric, and its standard error.

    Standard errors (``NAME_se``) are within the run, in the metric's unit.  What a run cannot say is missing.
    """
    import pyarrow as pa
    import pyarrow.compute as pc

    table = store.index().table
    wanted = set(run_ids)
    table = table.filter(
        pa.array([run_id in wanted for run_id in table["id"].to_pylist()], pa.bool_())
    ).combine_chunks()
    runs = pc.list_parent_indices(table["service_service"])
    set_aside = store.quarantined()
    table = table.append_column(
        "quarantined", pa.array([name in set_aside for name in table["id"].to_pylist()], pa.bool_())
    )
    frame: pd.DataFrame = table.select(RUN_PARTS).take(runs).to_pandas()
    lists = {"service": "service_service", "count": "service_count", "failures": "service_failed"}
    lists |= {name: f"service_{name}" for metric in Metric for name in (metric.value, f"{metric.value}{ERROR}")}
    return frame.assign(**{title: _flat(table, name) for title, name in lists.items()})


def _flat(table: pa.Table, name: str) -> pd.Series:
    import pyarrow.compute as pc

    flat: pd.Series = pc.list_flatten(table[name]).to_pandas()
    return flat


def exported(frame: pd.DataFrame, format_: str) -> bytes:
    """A table as CSV, Parquet or JSON (a list of objects); times are ISO 8601, what is missing is empty or null.

    In CSV, a text that a spreadsheet would take for a formula gets an apostrophe in front.
    """
    if format_ == "parquet":
        buffer = io.BytesIO()
        frame.to_parquet(buffer, index=False)
        return buffer.getvalue()
    if format_ == "json":
        plain = frame.astype(object).where(frame.notna(), None)
        rows = plain.to_dict("records")
        times = (row["started_at"] for row in rows)
        return dump_json(
            [{**row, "started_at": time and time.isoformat()} for row, time in zip(rows, times, strict=True)]
        ).encode()
    if format_ == "csv":
        safe = frame.assign(**{name: frame[name].str.replace(_FORMULA, "'", regex=True) for name in _TEXTS})
        return safe.to_csv(index=False, date_format="%Y-%m-%dT%H:%M:%S.%f%z").encode()
    raise ValueError(f"format: must be one of {', '.join(FORMATS)}, got {format_!r}")
