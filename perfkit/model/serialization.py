"""The documents of a run (``run.json``, schema ``perfkit.run/1``) and of a comparison, read back and checked.

A document that was read is checked for contradictions among its numbers (`perfkit.model.consistency`), and a stored run
against its seal, the hashes that the store noted.  A store written by perfkit 0.1.0, without seals, is read too.  No
files are touched here.
"""

from __future__ import annotations

import hashlib
import json
import math
import re
from collections.abc import Mapping
from dataclasses import dataclass, replace
from datetime import UTC, datetime
from typing import Any

import msgspec

from perfkit.model.codec import Count, Share, Size, Time, decode, encode, parse_json, utc
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
    RunSummary,
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


class _Validity(msgspec.Struct, frozen=True):
    ok: bool
    checks: tuple[Check, ...]

    def __post_init__(self) -> None:
        if self.ok != Validity(self.checks).ok:
            raise ValueError(f"ok: is {self.ok}, which the checks contradict")


class Seal(msgspec.Struct, frozen=True):
    """SHA-256 of a run's document without the seal, and of its file of requests, as the store noted them."""

    document: str
    requests: str | None = None
    requests_bytes: Count | None = None


class RunDocument(msgspec.Struct, frozen=True, kw_only=True, omit_defaults=True):
    """``run.json``: everything of a run but its requests; keys in a fixed order, so that files diff well."""

    id: str
    scenario: str
    started_at: Time | None
    duration_s: Size | None
    profile: LoadProfile
    target: str | None
    tool: str
    labels: Mapping[str, str]
    environment: Mapping[str, str]
    git: Mapping[str, str]
    versions: Mapping[str, str]
    locustfile_hash: str | None
    content_hash: str | None
    validity: _Validity
    services: Mapping[str, ServiceStats]
    stages: tuple[StageStats, ...] = ()
    seal: Seal | None = None

    def __post_init__(self) -> None:
        if self.started_at is not None:
            msgspec.structs.force_setattr(self, "started_at", utc(self.started_at))

    @classmethod
    def of(cls, run: Run) -> RunDocument:
        """The document of a run, which no store has sealed yet."""
        validity = _Validity(run.validity.ok, run.validity.checks)
        return cls(validity=validity, **{name: getattr(run, name) for name in _AS_IN_RUN})

    def run(self, source: str) -> Run:
        """The run, which was read from ``source``."""
        validity = Validity(self.validity.checks)
        return Run(validity=validity, source=source, **{name: getattr(self, name) for name in _AS_IN_RUN})

    @property
    def contradiction(self) -> str | None:
        """The first among the numbers of a run that calls itself fit to be judged; foreign files may hold some."""
        if not self.validity.ok:
            return None
        if (text := run_contradiction(self.services, self.duration_s)) is not None:
            return text if text.startswith("duration_s") else f"services: {text}"
        stages = ((stage.name, run_contradiction(stage.services)) for stage in self.stages)
        return next((f"stages: {name}: {text}" for name, text in stages if text is not None), None)


_AS_IN_RUN = tuple(name for name in RunDocument.__struct_fields__ if name not in ("validity", "seal"))


def run_to_document(run: Run) -> dict[str, Any]:
    """The plain values of `RunDocument`, with the schema."""
    return {"schema": SCHEMA, **encode(RunDocument.of(run))}


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


def read_stored(content: bytes, source: str) -> Stored:
    """A ``run.json``; ``ReadError`` names the source and the field that is wrong.

    A run whose document was changed after it was stored is invalid, and says so in its checks.
    """
    document = parse_json(content, source)
    parsed = decode(document, RunDocument, source, schema=SCHEMA, title="run")
    run, seal = parsed.run(source), parsed.seal
    changed = seal is not None and seal.document != document_hash(document)
    if not changed and (text := parsed.contradiction) is not None:
        raise ReadError(f"{source}: {text}")
    if changed:
        run = replace(run, validity=Validity((_CHANGED, *run.validity.checks)))
    return Stored(run, seal, changed)


def parse_run(content: bytes, source: str) -> Run:
    """The run of a ``run.json``, as `read_stored`."""
    return read_stored(content, source).run


_CHANGED = Check(
    CHANGED,
    "changed after it was stored",
    "as it was stored",
    Severity.INVALID,
    "Its run.json is not what was written: bring the file back from a copy of the store, or measure again. "
    "`perfkit runs verify` names all such runs.",
)


def run_from_document(document: Any, source: str) -> Run:
    """Rebuild a run; ``ReadError`` names the source and the field that is wrong."""
    parsed = decode(document, RunDocument, source, schema=SCHEMA, title="run")
    if (text := parsed.contradiction) is not None:
        raise ReadError(f"{source}: {text}")
    return parsed.run(source)


class _Side(msgspec.Struct, frozen=True):
    runs: tuple[RunSummary, ...]


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


def comparison_from_document(document: Any, source: str) -> Comparison:
    """Rebuild a comparison from ``Comparison.to_dict()``; its runs have no services, which the document does not hold.

    ``ReadError`` names the source and the field that is wrong.
    """
    parsed = decode(document, _Comparison, source)
    parts = msgspec.structs.asdict(parsed)
    for side in ("baseline", "candidate"):
        parts[side] = Side(tuple(summary.run() for summary in parts[side].runs))
    parts["findings"] = tuple(map(_restored, parsed.findings, document["findings"]))
    if parsed.history is not None:
        sentences = decode(parsed.history, _Sentences, f"{source}: history")
        rest = {key: value for key, value in parsed.history.items() if key not in ("news", "lines")}
        parts["history"] = HistoryNote(sentences.news, sentences.lines, rest)
    comparison = Comparison(**parts)
    if (text := comparison_contradiction(comparison)) is not None:
        raise ReadError(f"{source}: {text}; make the result again")
    return comparison


def _restored(finding: Finding, plain: Mapping[str, Any]) -> Finding:
    """A finding as it was before `Finding.json_form`: its service without the stage, and infinite changes from zero.

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


def make_run_id(started_at: datetime | None, scenario: str, content_hash: str) -> str:
    """``20251017T143004Z-api-3f9c``: UTC start, scenario, the first 4 hex digits of the content's hash."""
    when = started_at.astimezone(UTC).strftime("%Y%m%dT%H%M%SZ") if started_at else "undated"
    return f"{when}-{slug(scenario)}-{content_hash[:4]}"


def slug(text: str) -> str:
    """A name as it may stand in a file name: letters, digits, ``_`` and ``.``; at most 40 of them, never empty."""
    safe = re.sub(r"[^A-Za-z0-9_.]+", "_", text).strip("._")[:40]
    return safe or "run"
