"""The index as people ask for it: a list of runs, one metric over time, all series of a scenario."""

from __future__ import annotations

import json
from collections.abc import Callable, Collection, Mapping
from dataclasses import dataclass
from datetime import UTC, datetime
from functools import lru_cache
from typing import TYPE_CHECKING, Any

from perfkit.errors import did_you_mean
from perfkit.model import Metric
from perfkit.store.index_rows import ERROR
from perfkit.validity.clock import in_future, misdated

if TYPE_CHECKING:
    import numpy as np
    import pandas as pd
    import pyarrow as pa

    from perfkit.stats.summary import Floats

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
    `perfkit.alike.environment_of`, as pairs.
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

    plain = table.select([name for name in RUN_COLUMNS if name in table.column_names])
    frame = plain.to_pandas()
    frame["services"] = pc.list_value_length(table["service_service"]).to_pandas()
    frame["quarantined"] = frame["id"].isin(list(set_aside))
    frame["source"] = [where(run_id) for run_id in frame["id"]]
    keep = pd.Series(True, index=frame.index)
    labels = [json.loads(text) for text in table["labels"].to_pylist()] if filters.keys() - set(RUN_COLUMNS) else []
    for name, value in filters.items():
        if name in RUN_COLUMNS:
            keep &= frame[name].isna() if value is None else frame[name] == value
        else:
            _known_label(name, labels)
            keep &= pd.Series([of.get(name) == value for of in labels], index=frame.index, dtype=bool)
    chosen: pd.DataFrame = frame.loc[keep, list(RUN_COLUMNS)].reset_index(drop=True)
    return chosen


def _known_label(name: str, labels: list[dict[str, str]]) -> None:
    known = {*RUN_COLUMNS, *(label for of in labels for label in of)}
    if labels and name not in known:
        near, columns = did_you_mean(name, known), ", ".join(RUN_COLUMNS)
        raise ValueError(f"{name}: neither a column nor a label of any run{near}; columns are {columns}")


def of_scenario(table: pa.Table, scenario: str) -> pa.Table:
    """The rows of one scenario."""
    import pyarrow.compute as pc

    return table.filter(pc.equal(table["scenario"], scenario))


def of_history(table: pa.Table, scenario: str, *, ab_tests: bool = False) -> pa.Table:
    """The rows of one scenario, without those of A/B tests unless they are asked for."""
    import pyarrow.compute as pc

    rows = of_scenario(table, scenario)
    return rows if ab_tests else rows.filter(pc.invert(rows["ab_test"]))


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
    own = pc.equal(pc.list_flatten(table["service_service"]), service)
    at = runs.filter(own)
    columns = {"value": f"service_{metric.value}", "standard_error": f"service_{metric.value}{ERROR}"}
    parts = {title: pc.list_flatten(table[name]).filter(own) for title, name in columns.items()}
    frame = pd.DataFrame({name: table[name].take(at).to_pandas() for name in ("id", "started_at")})
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
