"""Result files, read back: what a comparison or the history of a scenario came to, ready to be told elsewhere."""

from __future__ import annotations

import json
import math
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from perfkit.document import comparison_from_document, parse_time
from perfkit.errors import ReadError
from perfkit.history.episodes import Episode, Sighting, episodes_of, fingerprint
from perfkit.history.events import Event, Movement
from perfkit.history.timeline import Moment
from perfkit.model import Comparison, Finding, Metric, Verdict
from perfkit.stats.changepoints import ChangePoint

COMPARISON, TREND = "perfkit.comparison/1", "perfkit.trend/1"
RESULT, REPORT = "result.json", "report.html"


@dataclass(frozen=True, slots=True)
class Result:
    """What a result file says.

    Parameters
    ----------
    place
        Where it was read, for messages.
    comparison
        ``None`` for the history of a scenario.
    episodes
        Worsenings, in order of their beginning: of the history where it is known, else what the comparison calls.
    watched
        Whether `episodes` come of a watched history, which knows every worsening and whether it is over.
    report
        The HTML report beside it, where there is one.
    """

    place: str
    document: Mapping[str, Any]
    scenario: str
    verdict: Verdict
    comparison: Comparison | None
    episodes: tuple[Episode, ...]
    watched: bool
    report: Path | None = None

    @property
    def news(self) -> tuple[Episode, ...]:
        """Episodes that hold and that nobody acknowledged."""
        return tuple(one for one in self.episodes if one.is_open and not one.last.acknowledged)

    @property
    def fingerprint(self) -> str:
        """Under which a worsening since the same baseline is followed; empty without two builds to compare."""
        if self.comparison is None or not self.comparison.baseline.runs:
            return ""
        return fingerprint(self.scenario, _after(self.comparison))


def read_result(path: str | Path) -> Result:
    """Read a report folder, or the ``result.json`` or ``report.html`` in it, or what ``--format json`` wrote.

    Raises
    ------
    ReadError
        There is no such file, or it is not the result of a comparison or of a history.
    """
    file = _result_file(Path(path))
    try:
        document = json.loads(file.read_text("utf-8"))
    except (OSError, UnicodeDecodeError, json.JSONDecodeError) as error:
        raise ReadError(f"{file}: is no result file: {getattr(error, 'strerror', None) or error}") from error
    report = file.with_name(REPORT)
    return result_of(document, str(file), report if report.is_file() else None)


def _result_file(path: Path) -> Path:
    if path.is_dir():
        path /= RESULT
    elif path.name == REPORT:
        path = path.with_name(RESULT)
    if not path.is_file():
        raise ReadError(f"{path}: there is no such file; name a report folder, or what --format json wrote")
    return path


def result_of(document: Any, place: str, report: Path | None = None) -> Result:
    """What a result document says; ``ReadError`` names the place when it is none."""
    schema = document.get("schema") if isinstance(document, Mapping) else None
    try:
        if schema == COMPARISON:
            return _of_comparison(document, place, report)
        if schema == TREND:
            return _of_trend(document, place, report)
    except KeyError as error:
        raise ReadError(f"{place}: the key {error} is missing; the file is not a whole result") from error
    except (AttributeError, TypeError, ValueError) as error:
        raise ReadError(f"{place}: {error}") from error
    raise ReadError(f"{place}: not a result of schema {COMPARISON} or {TREND} (found {schema!r})")


def _of_comparison(document: Mapping[str, Any], place: str, report: Path | None) -> Result:
    comparison = comparison_from_document(document)
    runs = (*comparison.candidate.runs, *comparison.baseline.runs)
    scenario = runs[0].scenario if runs else ""
    history = document.get("history")
    sightings = [_sighting(one) for one in history["alerts"]] if history else _called(comparison, scenario)
    return Result(
        place, document, scenario, comparison.verdict, comparison, episodes_of(sightings), history is not None, report
    )


def _of_trend(document: Mapping[str, Any], place: str, report: Path | None) -> Result:
    watch = document["watch"]
    if watch is None:
        raise ValueError("this history was not watched; make the report with `perfkit report trend`")
    episodes = episodes_of(_sighting(one) for one in watch["alerts"])
    verdict = Verdict.REGRESSION if any(one["fails"] for one in watch["alerts"]) else Verdict.NO_CHANGE
    if watch.get("runs") == 0:
        verdict = Verdict.INVALID  # a history without a valid run says nothing
    return Result(place, document, document["scenario"], verdict, None, episodes, True, report)


def _called(comparison: Comparison, scenario: str) -> list[Sighting]:
    """What a comparison without history calls: one event, for all of it lies between the same two builds."""
    found = [finding for finding in comparison.by_verdict(Verdict.REGRESSION) if not finding.objective]
    if not found or comparison.verdict is Verdict.INVALID:
        return []
    before, after = (
        Moment(run.id, run.started_at, True, run.git.get("commit", ""), run.git.get("branch", ""))
        for run in (comparison.baseline.runs[-1], comparison.candidate.runs[0])
    )
    movements = tuple(_finding(one) for one in sorted(found, key=lambda f: f.p_adjusted if f.p_adjusted else 0.0))
    return [Sighting(Event(_after(comparison), scenario, 0, before, after, movements))]


def _after(comparison: Comparison) -> str:
    """The name of what happened since the baseline: other candidates, the same event."""
    return f"after-{comparison.baseline.runs[-1].id}"


def _finding(finding: Finding) -> Movement:
    ends = [_percent(finding, end) for end in (finding.ci_low, finding.ci_high)]
    p_value = finding.p_adjusted if finding.p_adjusted is not None else math.nan
    change = ChangePoint(
        0, _number(finding.baseline), _number(finding.candidate), _change(finding.change_pct), p_value, ends[0], ends[1]
    )
    return Movement(finding.service, Metric(finding.metric), change)


def _percent(finding: Finding, end: float | None) -> float:
    """An end of an interval in percent of the baseline."""
    if end is None or finding.change_unit == "%":
        return _number(end)
    return 100.0 * end / finding.baseline if finding.baseline else math.nan


def _sighting(alert: Mapping[str, Any]) -> Sighting:
    known = alert.get("acknowledged")
    return Sighting(_event(alert), bool(alert["holds"]), bool(known), alert.get("raised_at") or "")


def _event(plain: Mapping[str, Any]) -> Event:
    index = int(plain["index"])
    return Event(
        plain["id"],
        plain["scenario"],
        index,
        _moment(plain["last_before"]),
        _moment(plain["first_after"]),
        tuple(_movement(item, index) for item in plain["movements"]),
        tuple(plain["aliases"]),
    )


def _moment(plain: Mapping[str, Any]) -> Moment:
    time = parse_time(plain["started_at"]) if plain["started_at"] else None
    return Moment(plain["run"], time, True, plain["commit"], plain["branch"])


def _movement(plain: Mapping[str, Any], index: int) -> Movement:
    change = ChangePoint(
        index,
        _number(plain["before"]),
        _number(plain["after"]),
        _change(plain["change_pct"]),
        _number(plain["p_value"]),
        _number(plain["ci_low"]),
        _number(plain["ci_high"]),
    )
    return Movement(plain["service"], Metric(plain["metric"]), change)


def _number(value: float | None) -> float:
    return math.nan if value is None else float(value)


def _change(percent: float | None) -> float:
    """What is not told of a change is one from zero."""
    return math.inf if percent is None else float(percent)
