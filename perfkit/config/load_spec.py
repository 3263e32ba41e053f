"""Load as people write it, in ``perfkit.toml`` or on the command line, as a `LoadProfile`; and back as options.

Durations (``"15m"``), rates (``"200/s"``) and stages (``"2m:40"``) are parsed here; `plan_profile` checks that they fit
together and fills in what is not given.  Every error is a ``ValueError`` that names the key and shows what to write.
"""

from __future__ import annotations

import math
import re
from collections.abc import Mapping, Sequence
from typing import Any

from perfkit.config.toml_table import finite
from perfkit.model.errors import did_you_mean
from perfkit.model.records import KINDS, LoadProfile, Stage

ARRIVALS = ("constant", "poisson")
SOAK_S = 3600.0
PARTS = 5  # stages of a ramp or a soak that are summed up by themselves
SPIKE_FROM, SPIKE_TO = 0.4, 0.6  # of the duration
SHORT_RAMP = 0.25  # share of the run: a shorter rise to a level is warm-up and is cut off as such
IN_FLIGHT_S = 10.0  # the default limit of tasks in flight: what arrives during so long a silence of the target
LEAST_IN_FLIGHT, MOST_IN_FLIGHT = 100, 5000
AT_ONCE = 100.0  # users per second: Locust warns of more
_PER_S = {"s": 1.0, "sec": 1.0, "second": 1.0, "m": 60.0, "min": 60.0, "minute": 60.0, "h": 3600.0, "hour": 3600.0}
_DURATION = re.compile(r"^(?:(\d+(?:\.\d+)?)h)?(?:(\d+(?:\.\d+)?)m)?(?:(\d+(?:\.\d+)?)s?)?$")
_STAGE = re.compile(r"^\s*(?P<length>[^:]+):\s*(?:(?P<begin>[\d.]+)\s*-\s*)?(?P<end>[\d.]+)\s*(?P<unit>/\s*\w+)?\s*$")


def plan_profile(
    kind: str | None,
    *,
    users: int | None = None,
    spawn_rate: float | None = None,
    duration_s: float | None = None,
    rate: float | None = None,
    peak: float | None = None,
    stages: Sequence[Stage] = (),
    arrivals: str | None = None,
    max_in_flight: int | None = None,
) -> LoadProfile:
    """The load profile of these figures; all but the kind and the peak as in `LoadProfile`.

    Parameters
    ----------
    kind
        One of `KINDS`; ``None`` takes it from what else is given.
    peak
        Load at the height of a spike, users or arrivals per second; the spike lasts the fifth of the run after 40 %.

    Raises
    ------
    ValueError
        Something is missing, out of range, or contradicts the rest; says what to write.
    """
    if kind is not None and kind not in KINDS:
        raise ValueError(f"profile: unknown kind {kind!r}{did_you_mean(kind, KINDS)}; known are {', '.join(KINDS)}")
    if arrivals is not None and arrivals not in ARRIVALS:
        raise ValueError(f"arrivals: expected {' or '.join(ARRIVALS)}, got {arrivals!r}")
    if rate is None and (arrivals is not None or max_in_flight is not None):
        raise ValueError('arrivals and max_in_flight belong to an arrival rate, such as rate = "50/s"')
    if rate is not None and users is not None:
        raise ValueError("users and rate: say one of them; a rate starts as many users as it needs")
    if rate is not None and not 0 < rate < math.inf:
        raise ValueError(f"rate: must be > 0 and finite, got {rate!r}")
    if max_in_flight is not None and max_in_flight < 1:
        raise ValueError(f"max_in_flight: must be at least 1, got {max_in_flight!r}")
    if peak is not None and (kind not in (None, "spike") or stages):
        raise ValueError("peak: belongs to a spike; leave it out")
    if stages and kind not in (None, "stages"):
        raise ValueError(f"stages: belong to the profile 'stages', not to {kind!r}")
    if kind == "stages" and not stages:
        raise ValueError('stages: are missing, such as ["1m:10", "1m:20", "1m:40"]')
    if kind == "spike" and peak is None:
        raise ValueError("peak: is missing, the load at the height of the spike")
    if kind is not None and kind != "stages" and users is None and rate is None:
        raise ValueError(f"users or rate: is missing, the load of the profile {kind!r}")
    kind = kind or ("stages" if stages else "spike" if peak is not None else None)
    level = rate if rate is not None else users
    if kind == "soak":
        duration_s = duration_s or SOAK_S
    planned = _planned_stages(kind, level, peak, duration_s, spawn_rate, stages)
    top = max((edge for stage in planned for edge in (stage.begin, stage.end)), default=level)
    if rate is None and users is None and not stages:
        return LoadProfile("custom", duration_s=duration_s)
    length = sum(stage.duration_s for stage in planned) if stages else duration_s
    if rate is not None:
        if length is None:
            raise ValueError("duration: an arrival rate needs one, such as 2m")
        limit = max_in_flight or int(min(max(IN_FLIGHT_S * (top or 0), LEAST_IN_FLIGHT), MOST_IN_FLIGHT))
        return LoadProfile(kind or "steady", None, None, length, top, arrivals or "constant", limit, planned)
    peak_users = math.ceil(top) if top is not None and (stages or peak is not None) else users
    pace = spawn_rate  # users started per second; None leaves it to Locust, or to the stages
    if pace is None and peak_users is not None and kind is not None:
        is_rise = kind == "ramp" and duration_s is not None
        pace = peak_users / duration_s if is_rise and duration_s else min(float(peak_users), AT_ONCE)
    rises = pace is not None and peak_users is not None and pace < peak_users
    return LoadProfile(kind or ("ramp" if rises else "steady"), peak_users, pace, length, stages=planned)


def _planned_stages(
    kind: str | None,
    level: float | None,
    peak: float | None,
    duration_s: float | None,
    spawn_rate: float | None,
    stages: Sequence[Stage],
) -> tuple[Stage, ...]:
    """The stages that are summed up by themselves; none for one level after a short rise."""
    if stages:
        if max(edge for stage in stages for edge in (stage.begin, stage.end)) <= 0:
            raise ValueError("stages: at least one must have a load above 0")
        return tuple(stages)
    if level is None or duration_s is None:
        if kind in ("spike", "ramp"):
            raise ValueError(f"duration: the profile {kind!r} needs one, such as 5m")
        return ()
    if kind == "spike":
        height = float(peak if peak is not None else level)
        edges = (SPIKE_FROM, SPIKE_TO - SPIKE_FROM, 1 - SPIKE_TO)
        levels = (float(level), height, float(level))
        return tuple(Stage(share * duration_s, at, at) for share, at in zip(edges, levels, strict=True))
    if kind == "soak":
        return (Stage(duration_s / PARTS, level, level),) * PARTS
    at_once = spawn_rate is None or spawn_rate >= level  # Locust starts the users of the first second together
    rise_s = duration_s if kind == "ramp" and not spawn_rate else 0.0 if at_once else level / (spawn_rate or level)
    if rise_s <= SHORT_RAMP * duration_s:
        return ()
    seen_rise_s = min(rise_s, duration_s)
    top, held_s = level * seen_rise_s / rise_s, duration_s - seen_rise_s
    parts = [Stage(seen_rise_s / PARTS, top * part / PARTS, top * (part + 1) / PARTS) for part in range(PARTS)]
    return (*parts, *([Stage(held_s, float(level), float(level))] if held_s > 0 else []))


def parse_duration(value: Any, source: str = "") -> float:
    """Seconds from a number or text such as ``"90s"``, ``"15m"``, ``"1h30m"``; ``ValueError`` names the source."""
    where = f"{source}: " if source else ""
    if isinstance(value, int | float) and not isinstance(value, bool):
        seconds = finite(value)
    else:
        match = _DURATION.match(str(value).strip().lower()) if str(value).strip() else None
        if match is None:
            raise ValueError(f'{where}expected a length such as "90s", "15m" or "1h30m", got {value!r}')
        hours, minutes, rest = (float(part or 0) for part in match.groups())
        seconds = 3600 * hours + 60 * minutes + rest
    if not 0 < seconds < math.inf:
        raise ValueError(f"{where}must be longer than zero and finite, got {value!r}")
    return seconds


def parse_rate(value: Any, source: str) -> float:
    """Arrivals per second from a number or text such as ``"200/s"`` or ``"12000/min"``."""
    text = str(value).replace(" ", "")
    number, slash, unit = text.partition("/")
    if isinstance(value, bool) or (slash and unit not in _PER_S):
        raise ValueError(f'{source}: expected a rate such as "200/s" or "600/min", got {value!r}')
    try:
        rate = float(number) / _PER_S.get(unit, 1.0)
    except ValueError as error:
        raise ValueError(f'{source}: expected a rate such as "200/s" or "600/min", got {value!r}') from error
    if not 0 < rate < math.inf:
        raise ValueError(f"{source}: must be > 0 and finite, got {value!r}")
    return rate


def parse_stages(values: Sequence[Any], source: str) -> tuple[tuple[Stage, ...], bool]:
    """Stages, and whether their levels are arrivals per second.

    Each is text such as ``"2m:40"`` (40 users for two minutes), ``"30s:0-40"`` (from 0 to 40) or ``"1m:50/s"``, or a
    table with ``duration``, ``users`` or ``rate``, and perhaps ``from``.
    """
    parsed = [_parse_stage(value, f"{source} {number}") for number, value in enumerate(values, 1)]
    kinds = {is_rate for _, is_rate in parsed}
    if len(kinds) > 1:
        raise ValueError(f"{source}: some have users and some a rate; say the same of all")
    return tuple(stage for stage, _ in parsed), kinds == {True}


def _parse_stage(value: Any, source: str) -> tuple[Stage, bool]:
    if isinstance(value, Mapping):
        keys = ("duration", "users", "rate", "from")
        for key in value:
            if key not in keys:
                raise ValueError(f"{source}: unknown key {key!r}{did_you_mean(key, keys)}; known are {', '.join(keys)}")
        if "duration" not in value or ("users" in value) == ("rate" in value):
            example = '{duration = "1m", users = 20}'
            raise ValueError(f"{source}: needs duration and either users or rate, such as {example}")
        is_rate, levels = "rate" in value, []
        for key in ("from", "users", "rate"):
            if (level := value.get(key)) is None:
                continue
            if is_rate and level != 0:
                levels.append(parse_rate(level, f"{source}: {key}"))
            elif isinstance(level, bool) or not isinstance(level, int | float):
                raise ValueError(f"{source}: {key}: expected a number, got {level!r}")
            else:
                levels.append(finite(level))
        return Stage(parse_duration(value["duration"], f"{source}: duration"), levels[0], levels[-1]), is_rate
    match = _STAGE.match(str(value))
    if match is None:
        raise ValueError(f'{source}: expected LENGTH:LOAD such as "2m:40", "30s:0-40" or "1m:50/s", got {value!r}')
    unit = (match["unit"] or "").replace(" ", "").removeprefix("/")
    if unit and unit not in _PER_S:
        raise ValueError(f"{source}: unknown unit /{unit}; write /s, /min or /h")
    try:
        levels = [float(match[name]) / _PER_S.get(unit, 1.0) for name in ("begin", "end") if match[name] is not None]
    except ValueError as error:
        raise ValueError(f"{source}: the load is not a number in {value!r}") from error
    return Stage(parse_duration(match["length"], source), levels[0], levels[-1]), bool(unit)


def load_options(profile: LoadProfile) -> dict[str, str]:
    """The options of ``perfkit run`` that ask for this load."""
    options: dict[str, str] = {}
    if profile.kind == "stages":
        texts = [
            f"{stage.duration_s:g}s:{'' if stage.begin == stage.end else f'{stage.begin:g}-'}{stage.end:g}"
            for stage in profile.stages
        ]
        options["--stages"] = ",".join(f"{text}/s" if profile.is_open else text for text in texts)
    else:
        level = profile.rate if profile.is_open else profile.users
        if profile.kind == "spike":
            options["--peak"] = f"{level:g}"
            level = profile.stages[0].begin
        if level is not None:
            options |= {"--rate": f"{level:g}/s"} if profile.is_open else {"--users": f"{level:g}"}
        rises = (profile.spawn_rate or math.inf) < (profile.users or 0)  # a steady load would be taken for a ramp
        if {"soak": True, "ramp": profile.is_open, "steady": rises}.get(profile.kind):
            options["--profile"] = profile.kind
        if profile.spawn_rate:
            options["--spawn-rate"] = f"{profile.spawn_rate:g}"
        if profile.duration_s:
            options["--duration"] = f"{profile.duration_s:g}s"
    if profile.is_open:
        options |= {"--arrivals": profile.arrivals or "constant", "--max-in-flight": str(profile.max_in_flight)}
    return options
