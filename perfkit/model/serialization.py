"""A run as the JSON document ``run.json`` (schema ``perfkit.run/1``), and back; a comparison, back from its document.

Pure: no files are touched.
"""

from __future__ import annotations

import hashlib
import json
import math
import re
from collections.abc import Mapping
from dataclasses import asdict, dataclass, replace
from datetime import UTC, datetime
from typing import Any

import msgspec

from perfkit.model.codec import Count, Share, Size, Time, decode, parse_json, utc
from perfkit.model.consistency import comparison_contradiction, run_contradiction
from perfkit.model.errors import ReadError
from perfkit.model.load_profile import LoadProfile
from perfkit.model.records import (
    ALL_SERVICES,
    RULES,
    Check,
    Comparison,
    Finding,
    Gap,
    HistoryNote,
    Metric,
    Run,
    Scope,
    ServiceStats,
    Severity,
    Side,
    StageStats,
    Validity,
    Verdict,
    staged_label,
)

SCHEMA = "perfkit.run/1"
SEAL = "seal"
CHANGED = "seal"  # name of the check of a run whose document is not what was stored
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
        **({"errors": dict(stats.errors)} if stats.errors else {}),
    }


class _Validity(msgspec.Struct, frozen=True):
    ok: bool
    checks: tuple[Check, ...]

    def __post_init__(self) -> None:
        if self.ok != Validity(self.checks).ok:
            raise ValueError(f"ok: is {self.ok}, which the checks contradict")


class Seal(msgspec.Struct, frozen=True):
    """What a store noted of a run when it was kept: hashes of the document without this part, and of its requests."""

    document: str
    requests: str | None = None
    requests_bytes: Count | None = None


class RunDocument(msgspec.Struct, frozen=True, kw_only=True):
    """``run.json``."""

    id: str
    scenario: str
    started_at: Time | None
    duration_s: Size | None
    profile: LoadProfile
    target: str | None
    tool: str
    labels: dict[str, str]
    environment: dict[str, str]
    git: dict[str, str]
    versions: dict[str, str]
    locustfile_hash: str | None
    content_hash: str | None
    validity: _Validity
    services: dict[str, ServiceStats]
    stages: tuple[StageStats, ...] = ()
    seal: Seal | None = None

    def __post_init__(self) -> None:
        if self.started_at is not None:
            utc(self.started_at)

    @property
    def contradiction(self) -> str | None:
        """The first among the numbers of a run that calls itself fit to be judged; foreign files may hold some."""
        if not self.validity.ok:
            return None
        if (text := run_contradiction(self.services, self.duration_s)) is not None:
            return text if text.startswith("duration_s") else f"services: {text}"
        stages = ((stage.name, run_contradiction(stage.services)) for stage in self.stages)
        return next((f"stages: {name}: {text}" for name, text in stages if text is not None), None)


def document_hash(document: Mapping[str, Any]) -> str:
    """SHA-256 of a document without its seal, whatever its spaces and the order of its keys."""
    return hashlib.sha256(canonical({key: value for key, value in document.items() if key != SEAL})).hexdigest()


def canonical(document: Mapping[str, Any]) -> bytes:
    """The same bytes for the same values."""
    return json.dumps(document, sort_keys=True, separators=(",", ":"), ensure_ascii=False).encode(errors="replace")


@dataclass(frozen=True, slots=True)
class Stored:
    """What a ``run.json`` holds: the run, and the seal; ``None`` where an earlier perfkit wrote none.

    ``changed``: its content is not what was sealed.
    """

    run: Run
    seal: Seal | None
    changed: bool


def read_stored(content: bytes, place: str) -> Stored:
    """A ``run.json``; ``ReadError`` names the place and the field that is wrong.

    A run whose document was changed after it was stored is invalid, and says so in its checks.
    """
    document = parse_json(content, place)
    known = decode(document, RunDocument, place, schema=SCHEMA, title="run")
    run, seal = _run_of(known, place), known.seal
    changed = seal is not None and seal.document != document_hash(document)
    if not changed and (text := known.contradiction) is not None:
        raise ReadError(f"{place}: {text}")
    if changed:
        run = replace(run, validity=Validity((_CHANGED, *run.validity.checks)))
    return Stored(run, seal, changed)


def parse_run(content: bytes, place: str) -> Run:
    """The run of a ``run.json``, as `read_stored`."""
    return read_stored(content, place).run


_CHANGED = Check(
    CHANGED,
    "changed after it was stored",
    "as it was stored",
    Severity.INVALID,
    "Its run.json is not what was written: bring the file back from a copy of the store, or measure again. "
    "`perfkit runs verify` names all such runs.",
)


def run_from_document(document: Any, place: str) -> Run:
    """Rebuild a run; ``ReadError`` names the place and the field that is wrong."""
    known = decode(document, RunDocument, place, schema=SCHEMA, title="run")
    if (text := known.contradiction) is not None:
        raise ReadError(f"{place}: {text}")
    return _run_of(known, place)


def _run_of(known: RunDocument, place: str) -> Run:
    return Run(
        id=known.id,
        scenario=known.scenario,
        started_at=utc(known.started_at) if known.started_at is not None else None,
        duration_s=known.duration_s,
        profile=known.profile,
        validity=Validity(known.validity.checks),
        services=known.services,
        tool=known.tool,
        target=known.target,
        labels=known.labels,
        environment=known.environment,
        git=known.git,
        versions=known.versions,
        locustfile_hash=known.locustfile_hash,
        content_hash=known.content_hash,
        stages=known.stages,
        source=place,
    )


class _RunSummary(msgspec.Struct, frozen=True, kw_only=True):
    """A run as `run_summary` tells it."""

    id: str
    scenario: str
    started_at: Time | None
    duration_s: Size | None
    tool: str
    target: str | None
    labels: dict[str, str]
    environment: dict[str, str]
    git: dict[str, str]
    checks: tuple[Check, ...]
    source: str | None
    load: LoadProfile = LoadProfile()
    requests: Count | None = None

    def run(self) -> Run:
        """Without services, which the summary does not hold."""
        return Run(
            id=self.id,
            scenario=self.scenario,
            started_at=utc(self.started_at) if self.started_at is not None else None,
            duration_s=self.duration_s,
            profile=self.load,
            validity=Validity(self.checks),
            services={},
            tool=self.tool,
            target=self.target,
            labels=self.labels,
            environment=self.environment,
            git=self.git,
            source=self.source,
            summary_requests=self.requests,
        )


class _Side(msgspec.Struct, frozen=True):
    runs: tuple[_RunSummary, ...]


class _Comparison(msgspec.Struct, frozen=True, kw_only=True):
    """The document ``perfkit.comparison/1``."""

    verdict: Verdict
    comparable: bool
    rule: str
    alpha: Share
    confidence: Share
    baseline: _Side
    candidate: _Side
    findings: tuple[Finding, ...]
    warnings: tuple[str, ...]
    checks: tuple[Check, ...]
    history: dict[str, Any] | None = None
    gaps: tuple[Gap, ...] = ()

    def __post_init__(self) -> None:
        if self.rule not in RULES:
            raise ValueError(f"rule: expected {' or '.join(RULES)}, got {self.rule!r}")
        for number, finding in enumerate(self.findings):
            if Metric(finding.metric).value != finding.metric:  # short names are for people
                raise ValueError(f"findings: unknown metric {finding.metric!r}; its name is {Metric(finding.metric)!s}")
            if finding in self.findings[:number]:
                raise ValueError(f"findings.{number}: {finding.label} {finding.metric} stands there twice")
            for name, value in (("baseline", finding.baseline), ("candidate", finding.candidate)):
                if value is not None and value < 0:
                    raise ValueError(f"findings.{number}.{name}: must be >= 0, got {value!r}")


def comparison_from_document(document: Any, place: str) -> Comparison:
    """Rebuild a comparison from ``Comparison.to_dict()``; its runs have no services, which the document does not hold.

    ``ReadError`` names the place and the field that is wrong.
    """
    known = decode(document, _Comparison, place)
    comparison = Comparison(
        verdict=known.verdict,
        comparable=known.comparable,
        rule=known.rule,
        alpha=known.alpha,
        confidence=known.confidence,
        baseline=Side(tuple(item.run() for item in known.baseline.runs)),
        candidate=Side(tuple(item.run() for item in known.candidate.runs)),
        findings=tuple(map(_restored, known.findings, document["findings"])),
        warnings=known.warnings,
        checks=known.checks,
        history=_history(known.history, place) if known.history is not None else None,
        gaps=known.gaps,
    )
    if (text := comparison_contradiction(comparison)) is not None:
        raise ReadError(f"{place}: {text}; make the result again")
    return comparison


def _restored(finding: Finding, plain: Mapping[str, Any]) -> Finding:
    """A finding as it was before `Finding.to_dict`: its service without the stage, and infinite changes from zero.

    Files of versions that did not write the scope name the whole run by its service.
    """
    if finding.change_pct is None and finding.change_abs:
        finding = replace(finding, change_pct=math.inf)
    if finding.stage is not None:
        finding = replace(finding, service=finding.service.removesuffix(staged_label("", finding.stage)))
    if "scope" not in plain and finding.service == ALL_SERVICES:
        finding = replace(finding, scope=Scope.RUN)
    return finding


class _Sentences(msgspec.Struct, frozen=True):
    news: tuple[str, ...] = ()
    lines: tuple[str, ...] = ()


def _history(plain: Mapping[str, Any], place: str) -> HistoryNote:
    own = {key: value for key, value in plain.items() if key not in ("news", "lines")}
    told = decode(plain, _Sentences, f"{place}: history")
    return HistoryNote(told.news, told.lines, own)


def make_run_id(started_at: datetime | None, scenario: str, content_hash: str) -> str:
    """``20251017T143004Z-api-3f9c``: UTC start, scenario, the first 4 hex digits of the content's hash."""
    when = started_at.astimezone(UTC).strftime("%Y%m%dT%H%M%SZ") if started_at else "undated"
    return f"{when}-{slug(scenario)}-{content_hash[:4]}"


def slug(text: str) -> str:
    """A name as it may stand in a file name: letters, digits, ``_`` and ``.``; at most 40 of them, never empty."""
    safe = re.sub(r"[^A-Za-z0-9_.]+", "_", text).strip("._")[:40]
    return safe or "run"
