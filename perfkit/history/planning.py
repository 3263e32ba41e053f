"""What the history of a scenario says of the noise of its runs, and how many runs a comparison needs therefore."""

from __future__ import annotations

from collections.abc import Collection, Mapping
from contextlib import suppress
from dataclasses import dataclass, field
from typing import TYPE_CHECKING

from perfkit.analysis.noise_profile import SCHEMA, NoiseProfile, profile_of
from perfkit.analysis.power import runs_needed, with_tails
from perfkit.config.policy import Policy
from perfkit.history.confounders import RECENT
from perfkit.history.run_selector import HistoryContext, history_runs, is_selector
from perfkit.history.timeline import load_timeline, timeline_of
from perfkit.model.codec import decode, dump_json, parse_json
from perfkit.model.errors import NotStored, ReadError
from perfkit.model.serialization import slug
from perfkit.runs.requests import renamed_runs
from perfkit.runs.store import NOISE, RunStore

if TYPE_CHECKING:
    import pandas as pd


def stored_profile(
    store: RunStore, scenario: str, *, without: Collection[str] = (), service_names: Mapping[str, str] | None = None
) -> NoiseProfile:
    """What the valid runs of a scenario in a store tell of its noise.

    It is kept in the store, and learned anew when runs were added.  ``without`` names runs to leave out, such as those
    that are to be compared.  With ``service_names`` (see `Policy`) it is learned of the services under their new names,
    and not kept.  `PerfkitError` when there is no run.
    """
    ids = tuple(run_id for run_id in store.valid_ids(scenario) if run_id not in without)
    if not ids:
        raise NotStored(f"{store.url}: every valid run of {scenario!r} is one of those to be compared")
    if service_names:
        runs = renamed_runs([store.get(run_id) for run_id in ids], service_names)
        return with_tails(profile_of(scenario, runs), runs)
    path = f"{NOISE}/{slug(scenario)}.json"
    if (content := store.derived(path)) is not None:
        with suppress(ReadError):  # a broken one is learned anew
            plain = parse_json(content, path)
            profile = decode(plain, NoiseProfile, path, schema=SCHEMA, title="noise profile")
            if (profile.scenario, profile.runs) == (scenario, ids) and profile.weekdays is not None:
                return profile
    summaries = list(store.summaries(ids))
    profile = with_tails(profile_of(scenario, summaries), summaries)
    if not without:
        store.keep_derived(path, dump_json(profile.to_dict()).encode())
    return profile


@dataclass(frozen=True, slots=True)
class Plan:
    """How many runs a comparison needs on each side to call a worsening.

    Parameters
    ----------
    scenario
        Whose history tells the noise.
    change_pct
        The worsening to be called, in percent of the baseline.
    power
        Chance that a comparison of so many runs calls it.
    frame
        One row per service and metric; see `to_frame`.
    """

    scenario: str
    change_pct: float
    power: float
    frame: pd.DataFrame = field(repr=False, compare=False)

    def to_frame(self) -> pd.DataFrame:
        """One row per service and metric that has a tolerance.

        Columns: service, metric, variation_pct (run-to-run standard deviation in percent; ``NaN`` of a percentile that
        only all runs of a side tell together), history_runs (behind it),
        runs_per_side (``NaN`` where no number of runs would do), tolerance_pct, hours (of load, both sides).
        """
        return self.frame.copy()


def plan_runs(context: HistoryContext, scenario: str, change_pct: float, *, power: float, policy: Policy) -> Plan:
    """How many runs a comparison needs on each side to call a worsening of ``change_pct``.

    Learned from all runs of a scenario, or from those that a selector such as ``api@rolling`` names.  One row per
    service and limited metric but the error rate, which depends on requests and not on runs.
    """
    import pandas as pd

    if is_selector(scenario) or context.labels:
        runs = tuple(run for run in history_runs(scenario, context) if run.validity.ok)
        if not runs:
            raise NotStored(f"{context.store.url}: {scenario} has no valid run that tells its noise")
        profile = with_tails(profile_of(runs[0].scenario, runs), runs)
        lengths = pd.Series([run.duration_s for run in runs], dtype=float)
        timeline = timeline_of(runs[0].scenario, runs)
    else:
        profile = stored_profile(context.store, scenario, service_names=context.service_names)
        timeline = load_timeline(context.store, scenario, service_names=context.service_names)
        lengths = context.store.runs(scenario=scenario, ab_test=False)["duration_s"]
    levels = {key: float(pd.Series(values).dropna().tail(RECENT).median()) for key, values in timeline.series.items()}
    rows = runs_needed(profile, policy, change_pct, power, levels)
    columns = ["service", "metric", "variation_pct", "history_runs", "runs_per_side", "tolerance_pct"]
    frame = pd.DataFrame(rows, columns=columns)
    frame = frame.assign(
        **{name: pd.to_numeric(frame[name]) for name in ("variation_pct", "runs_per_side", "tolerance_pct")}
    )
    hours = 2 * frame["runs_per_side"].astype(float) * lengths.astype(float).median() / 3600
    return Plan(scenario, change_pct, power, frame.assign(hours=hours))
