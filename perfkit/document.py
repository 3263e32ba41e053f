"""A run as the JSON document ``run.json`` (schema ``perfkit.run/1``), and back; a comparison, back from its document.

Pure: no files are touched.
"""

from __future__ import annotations

import json
import re
from collections.abc import Mapping
from dataclasses import asdict
from datetime import UTC, datetime
from typing import Any

from perfkit.errors import ReadError
from perfkit.load_profile import LoadProfile, Stage
from perfkit.model import (
    Check,
    Comparison,
    Finding,
    HistoryNote,
    Metric,
    Run,
    ServiceStats,
    Severity,
    Side,
    StageStats,
    Validity,
    Verdict,
)

SCHEMA = "perfkit.run/1"
_TEXTS = ("labels", "environment", "git", "versions")


def run_to_document(run: Run) -> dict[str, Any]:
    """Everything of a run but its requests; keys in a fixed order, so that files diff well."""
    return {
        "schema": SCHEMA,
        "id": run.id,
        "scenario": run.scenario,
        "started_at": run.started_at.isoformat() if run.started_at else None,
        "duration_s": run.duration_s,
        "profile": run.profile.to_dict(),
        "target": run.target,
        "tool": run.tool,
        **{name: dict(getattr(run, name)) for name in _TEXTS},
        "locustfile_hash": run.locustfile_hash,
        "content_hash": run.content_hash,
        "validity": {"ok": run.validity.ok, "checks": [check.to_dict() for check in run.validity.checks]},
        "services": {name: _stats_to_document(stats) for name, stats in run.services.items()},
        **({"stages": [_stage_to_document(stage) for stage in run.stages]} if run.stages else {}),
    }


def _stage_to_document(of: StageStats) -> dict[str, Any]:
    return {
        "name": of.name,
        "stage": asdict(of.stage),
        "begin_s": of.begin_s,
        "end_s": of.end_s,
        "services": {name: _stats_to_document(stats) for name, stats in of.services.items()},
    }


def _stage_from_document(item: Any) -> StageStats:
    if not isinstance(item, Mapping):
        raise TypeError(f"stages: expected an object, got {item!r}"[:200])
    services = {name: _stats_from_document(name, stats) for name, stats in _table(item, "services").items()}
    return StageStats(_text(item["name"]), Stage(**_table(item, "stage")), item["begin_s"], item["end_s"], services)


def _stats_to_document(stats: ServiceStats) -> dict[str, Any]:
    values = {metric.value: stats.value(metric) for metric in Metric}
    return {
        "count": stats.count,
        "failures": stats.failures,
        **{name: value for name, value in values.items() if value is not None},
        "standard_errors": {str(name): error for name, error in stats.standard_errors.items()},
        "resolutions": {str(name): step for name, step in stats.resolutions.items()},
        "assumed": list(stats.assumed),
        "response_bytes": stats.response_bytes,
        "warnings": list(stats.warnings),
    }


def run_from_document(document: Any, place: str) -> Run:
    """Rebuild a run; ``ReadError`` names the place and the part that is wrong."""
    if not isinstance(document, Mapping) or document.get("schema") != SCHEMA:
        schema = document.get("schema") if isinstance(document, Mapping) else None
        raise ReadError(f"{place}: not a run of schema {SCHEMA!r} (found {schema!r}); it may come from a newer perfkit")
    try:
        texts: dict[str, Any] = {name: {k: str(v) for k, v in _table(document, name).items()} for name in _TEXTS}
        return Run(
            id=_text(document["id"]),
            scenario=_text(document["scenario"]),
            started_at=parse_time(document["started_at"]) if document["started_at"] else None,
            duration_s=document["duration_s"],
            profile=LoadProfile.from_dict(_table(document, "profile")),
            validity=Validity(tuple(_check(item) for item in _table(document, "validity")["checks"])),
            services={name: _stats_from_document(name, item) for name, item in _table(document, "services").items()},
            tool=_text(document["tool"]),
            target=document["target"],
            **texts,
            locustfile_hash=document["locustfile_hash"],
            content_hash=document["content_hash"],
            stages=tuple(_stage_from_document(item) for item in document.get("stages", ())),
            source=place,
        )
    except KeyError as error:
        raise ReadError(f"{place}: the key {error} is missing; the file is not a whole run.json") from error
    except (AttributeError, TypeError, ValueError) as error:
        raise ReadError(f"{place}: {error}") from error


def _text(value: Any) -> str:
    if not isinstance(value, str):
        raise TypeError(f"expected text, got {value!r}")
    return value


def _table(document: Mapping[str, Any], name: str) -> Mapping[str, Any]:
    value = document[name]
    if not isinstance(value, Mapping):
        raise TypeError(f"{name}: expected an object, got {value!r}"[:200])
    return value


def _count(value: Any, place: str) -> int | None:
    if value is not None and (isinstance(value, bool) or not isinstance(value, int) or value < 0):
        raise ValueError(f"{place}: expected a whole number >= 0, got {value!r}")
    return value


def _check(item: Mapping[str, Any]) -> Check:
    return Check(item["name"], item["value"], item["limit"], Severity(item["severity"]), item["advice"])


def _stats_from_document(service: str, item: Any) -> ServiceStats:
    if not isinstance(item, Mapping):
        raise TypeError(f"services: {service}: expected an object, got {item!r}"[:200])
    return ServiceStats(
        _count(item["count"], f"{service}: count"),
        _count(item["failures"], f"{service}: failures"),
        **{metric.value: item.get(metric.value) for metric in Metric},
        standard_errors={Metric(name).value: float(error) for name, error in item["standard_errors"].items()},
        resolutions={Metric(name).value: float(step) for name, step in item["resolutions"].items()},
        assumed=tuple(Metric(name).value for name in item.get("assumed", ())),
        response_bytes=item["response_bytes"],
        warnings=tuple(item["warnings"]),
    )


def comparison_from_document(document: Mapping[str, Any]) -> Comparison:
    """Rebuild a comparison from ``Comparison.to_dict()``; its runs have no services, which the document does not hold.

    ``KeyError``, ``TypeError`` or ``ValueError`` for what is no such document.
    """
    history = document.get("history")
    return Comparison(
        verdict=Verdict(document["verdict"]),
        comparable=bool(document["comparable"]),
        rule=_text(document["rule"]),
        alpha=float(document["alpha"]),
        confidence=float(document["confidence"]),
        baseline=_side(_table(document, "baseline")),
        candidate=_side(_table(document, "candidate")),
        findings=tuple(_finding(item) for item in document["findings"]),
        warnings=tuple(_text(item) for item in document["warnings"]),
        checks=tuple(_check(item) for item in document["checks"]),
        history=_history(history) if history is not None else None,
    )


def _side(plain: Mapping[str, Any]) -> Side:
    return Side(tuple(_summarised_run(item) for item in plain["runs"]))


def _summarised_run(plain: Mapping[str, Any]) -> Run:
    return Run(
        id=_text(plain["id"]),
        scenario=_text(plain["scenario"]),
        started_at=parse_time(plain["started_at"]) if plain["started_at"] else None,
        duration_s=plain["duration_s"],
        profile=LoadProfile.from_dict(plain.get("load", {})),
        validity=Validity(tuple(_check(item) for item in plain["checks"])),
        services={},
        tool=_text(plain["tool"]),
        target=plain["target"],
        labels=dict(_table(plain, "labels")),
        environment=dict(_table(plain, "environment")),
        git=dict(_table(plain, "git")),
        source=plain["source"],
    )


def _finding(plain: Mapping[str, Any]) -> Finding:
    fields = {**plain, "verdict": Verdict(plain["verdict"]), "warnings": tuple(plain["warnings"])}
    if fields["change_pct"] is None and fields["change_abs"] is not None:
        fields["change_pct"] = float("inf") if fields["change_abs"] else None  # from zero
    return Finding(**fields)


def _history(plain: Mapping[str, Any]) -> HistoryNote:
    own = {key: value for key, value in plain.items() if key not in ("news", "lines")}
    return HistoryNote(tuple(plain.get("news", ())), tuple(plain.get("lines", ())), own)


def dump_json(document: Any) -> str:
    """JSON as perfkit writes it everywhere: readable, strict (no NaN), one newline at the end."""
    return json.dumps(document, indent=2, ensure_ascii=False, allow_nan=False) + "\n"


def parse_time(text: str) -> datetime:
    """An ISO 8601 time as aware UTC; one without a zone is taken as UTC.  ``ValueError`` when it is none."""
    time = datetime.fromisoformat(text)
    try:
        return (time if time.tzinfo else time.replace(tzinfo=UTC)).astimezone(UTC)
    except OverflowError as error:
        raise ValueError(f"{text!r} lies outside the years 1 to 9999") from error


def make_run_id(started_at: datetime | None, scenario: str, content_hash: str) -> str:
    """``20251017T143004Z-api-3f9c``: UTC start, scenario, the first 4 hex digits of the content's hash."""
    when = started_at.astimezone(UTC).strftime("%Y%m%dT%H%M%SZ") if started_at else "undated"
    return f"{when}-{slug(scenario)}-{content_hash[:4]}"


def slug(text: str) -> str:
    """A name as it may stand in a file name: letters, digits, ``_`` and ``.``; at most 40 of them, never empty."""
    safe = re.sub(r"[^A-Za-z0-9_.]+", "_", text).strip("._")[:40]
    return safe or "run"
