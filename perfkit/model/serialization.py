"""The documents of a run (``run.json``, schema ``perfkit.run/1``) and of a comparison, read back and checked.

Numbers that contradict each other are refused: in a run by `run_contradiction`, in a result file by
`comparison_contradiction`.  Rounding by a source is no contradiction; the constants say how much.  A stored run is
checked against its seal too, the hashes that the store noted.  One written by perfkit 0.1.0 has none, and is read.
"""

from __future__ import annotations

import hashlib
import json
import math
import re
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, replace
from datetime import UTC, datetime
from itertools import chain, pairwise
from operator import attrgetter
from typing import Any

import msgspec

from perfkit.model.codec import Count, Share, Size, Time, decode, encode, parse_sorted, sorted_json, utc
from perfkit.model.errors import ReadError
from perfkit.model.records import (
    ALL_SERVICES,
    LATENCY_METRICS,
    RULES,
    Arithmetic,
    Check,
    Comparison,
    ErrorKind,
    Finding,
    Gap,
    Gate,
    HistoryNote,
    LevelArithmetic,
    LoadProfile,
    Metric,
    RateArithmetic,
    Run,
    RunSummary,
    Scope,
    ServiceStats,
    Severity,
    Side,
    StageStats,
    Validity,
    Verdict,
    overall_verdict,
    staged_label,
    verdict_of,
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
    """What a ``run.json`` holds, and whether it is what was sealed; 0.1.0 wrote no seal."""

    run: Run
    seal: Seal | None
    changed: bool


_CHANGED = Check(
    CHANGED,
    "changed after it was stored",
    "as it was stored",
    Severity.INVALID,
    "Its run.json is not what was written: bring the file back from a copy of the store, or measure again. "
    "`perfkit runs verify` names all such runs.",
)


def read_stored(content: bytes, source: str) -> Stored:
    """A ``run.json``; ``ReadError`` names the source and the field that is wrong.

    A run whose document was changed after it was stored is invalid, and says so in its checks.
    """
    document, text = parse_sorted(content, source)
    parsed = decode(document, RunDocument, source, schema=SCHEMA, title="run")
    run, seal = parsed.run(source), parsed.seal
    # msgspec writes the same bytes as `canonical` in a seventh of the time, but for numbers with an exponent, and what
    # else has another form: only then the slow way is asked
    unsealed = text.replace(b',"seal":' + sorted_json(document.get(SEAL)), b"", 1)
    changed = seal is not None and (
        hashlib.sha256(unsealed).hexdigest() != seal.document and document_hash(document) != seal.document
    )
    if not changed and (contradiction := parsed.contradiction) is not None:
        raise ReadError(f"{source}: {contradiction}")
    if changed:
        run = replace(run, validity=Validity((_CHANGED, *run.validity.checks)))
    return Stored(run, seal, changed)


def parse_run(content: bytes, source: str) -> Run:
    """The run of a ``run.json``, as `read_stored`."""
    return read_stored(content, source).run


def make_run_id(started_at: datetime | None, scenario: str, content_hash: str) -> str:
    """``20251017T143004Z-api-3f9c``: UTC start, scenario, the first 4 hex digits of the content's hash."""
    when = started_at.astimezone(UTC).strftime("%Y%m%dT%H%M%SZ") if started_at else "undated"
    return f"{when}-{slug(scenario)}-{content_hash[:4]}"


def slug(text: str) -> str:
    """A name as it may stand in a file name: letters, digits, ``_`` and ``.``; at most 40 of them, never empty."""
    safe = re.sub(r"[^A-Za-z0-9_.]+", "_", text).strip("._")[:40]
    return safe or "run"


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
    errors: tuple[ErrorKind, ...] | None = None
    gate: Gate | None = None

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


class _Sentences(msgspec.Struct, frozen=True):
    news: tuple[str, ...] = ()
    lines: tuple[str, ...] = ()


def comparison_from_document(document: Any, source: str) -> Comparison:
    """The comparison of ``Comparison.to_dict()``, with runs that have no services; ``ReadError`` names the field."""
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


DAY_MS = 86_400_000.0
ROUNDED_RATE_PCT = 0.051  # tenths of a percent
ROUNDED_LATENCY = 1.1  # Locust's percentiles are rounded, its averages are not
ROUNDED_TAIL_MS = 1e-3
ROUNDED_RPS = 0.05  # what is shown as 0.0
FEW_REQUESTS = 10  # have a rate that rounds to 0 in runs of a few minutes
ABSURD = 1000.0  # times: warm-up, bursts and services with lengths of their own explain less
CLOSE = 1e-6  # relative; result files hold numbers in full
ACKNOWLEDGED = "acknowledged"  # the limit of a finding whose tolerance an acknowledgement has moved


_latencies = attrgetter(*(metric.value for metric in LATENCY_METRICS))  # the average first
_BEYOND = tuple(1.0 - (metric.quantile or 0.0) for metric in LATENCY_METRICS)  # share of requests


def run_contradiction(services: Mapping[str, ServiceStats], duration_s: float | None = None) -> str | None:
    """The first contradiction among the numbers of a run; ``None`` where there is none."""
    for name, stats in services.items():
        if (text := stats_contradiction(stats, duration_s)) is not None:
            return f"{name}: {text}"
    if duration_s is None:
        return None
    if not 0 < duration_s < math.inf:
        return f"duration_s: must be > 0, got {duration_s!r}"
    measured = [stats for stats in services.values() if stats.count and stats.rps]
    count, rps = sum(stats.count or 0 for stats in measured), sum(stats.rps or 0.0 for stats in measured)
    if count <= FEW_REQUESTS or 1 / ABSURD <= count / rps / duration_s <= ABSURD:
        return None
    return f"duration_s is {duration_s:g}, and {count:,} requests at {rps:g} rps take {count / rps:.3g} s"


def stats_contradiction(stats: ServiceStats, duration_s: float | None = None) -> str | None:
    """The first contradiction among the numbers of one service; ``None`` where there is none."""
    return next(_stats_contradictions(stats, duration_s), None)


def _stats_contradictions(stats: ServiceStats, duration_s: float | None) -> Iterator[str]:
    count, failures, rate, rps = stats.count, stats.failures, stats.error_rate_pct, stats.rps
    if count is not None and failures is not None and failures > count:
        yield f"{failures} failures of {count} requests"
    if rate is not None and rate > 100.0:
        yield f"error_rate_pct: must be <= 100, got {rate!r}"
    if rate is not None and count and failures is not None:
        rounded = ROUNDED_RATE_PCT + 50.0 / count  # failures are whole, and may be made of the rate
        if abs(rate - 100.0 * failures / count) > rounded:
            yield f"error_rate_pct is {rate:g}, and {failures} of {count} requests failed"
    tail, p95 = stats.tail, stats.p95_latency_ms
    if tail is not None and count is not None and tail.requests > count:
        yield f"tail: {tail.requests} of {count} requests"
    if tail is not None and (p95 is None or abs(tail.latencies_ms[0] - p95) > ROUNDED_TAIL_MS):
        yield f"tail begins at {tail.latencies_ms[0]:g} ms, and p95_latency_ms is {p95}"
    if count == 0:
        measured = [metric for metric in (*LATENCY_METRICS, Metric.RPS) if stats.value(metric)]
        if measured:
            yield f"{measured[0].value} is {stats.value(measured[0]):g}, and there was no request"
    if count and rps == 0:
        shown = max(ROUNDED_RPS, stats.resolutions.get(Metric.RPS, 0.0))
        if count / duration_s > shown if duration_s else count > FEW_REQUESTS:
            yield f"rps is 0, and there were {count} requests"
    latencies = zip(LATENCY_METRICS, _BEYOND, _latencies(stats), strict=True)
    rising = [of for of in latencies if of[2] is not None]
    for metric, _, value in rising:
        if value > DAY_MS:
            yield f"{metric.value}: must be <= {DAY_MS:,.0f} ms, a day, got {value!r}"
    if (average := stats.avg_latency_ms) is not None:
        del rising[0]
    for (low, _, before), (high, _, after) in pairwise(rising):
        if after < before:
            yield f"{high.value} is {after:g} and {low.value} is {before:g}: percentiles rise"
    for metric, beyond, value in rising:
        # as large a share as lies beyond the percentile takes as long at least, and the average with it
        if average is not None and average * ROUNDED_LATENCY < beyond * value:
            yield f"{Metric.AVG.value} is {average:g}, too little for {metric.value} {value:g}"


def comparison_contradiction(comparison: Comparison) -> str | None:
    """The first contradiction between a comparison's verdict, its findings and their numbers."""
    if (text := next(_verdict_contradictions(comparison), None)) is not None:
        return text
    for number, finding in enumerate(comparison.findings):
        for text in chain(_effect_contradictions(finding), _judgement_contradictions(finding, comparison)):
            return f"findings.{number}: {finding.label} {finding.metric}: {text}"
    return None


def _verdict_contradictions(comparison: Comparison) -> Iterator[str]:
    verdict, findings, history = comparison.verdict, comparison.findings, comparison.history
    verdicts = {finding.verdict for finding in findings}
    if verdict is Verdict.INVALID:
        if comparison.comparable:
            yield "verdict: is invalid, and the runs are comparable"
        if judged := verdicts - {Verdict.INVALID}:
            yield f"verdict: is invalid, and a finding is {min(judged).value}"
        return
    if not comparison.comparable:
        yield f"verdict: is {verdict.value}, and the runs are not comparable"
    if not findings and verdict is not Verdict.REGRESSION:
        yield f"verdict: is {verdict.value}, and there is no finding"
    if Verdict.INVALID in verdicts:
        yield f"verdict: is {verdict.value}, and a finding is invalid"
    if verdict is Verdict.REGRESSION and verdict not in verdicts and history is None:
        yield "verdict: is regression, and no finding is one"
    if verdict in (Verdict.NO_CHANGE, Verdict.IMPROVEMENT):
        for gap in comparison.gaps:
            yield f"verdict: is {verdict.value}, and something is missing: {gap.text}"
        for finding in comparison.by_verdict(Verdict.REGRESSION):
            yield f"verdict: is {verdict.value}, and {finding.label} {finding.metric} a regression"
    of_findings = overall_verdict(findings, comparison.rule, comparison.gaps)
    possible = {of_findings}
    if history is not None:
        if history.news:
            possible = {Verdict.REGRESSION}
        elif of_findings in (Verdict.NO_CHANGE, Verdict.IMPROVEMENT):
            possible.add(Verdict.INCONCLUSIVE)  # while a worsening is open that is not confirmed
    if verdict not in possible:
        because = "its history is news" if history and history.news else f"its findings come to {of_findings.value}"
        yield f"verdict: is {verdict.value}, and {because}"


def _effect_contradictions(finding: Finding) -> Iterator[str]:
    """Sizes, interval and p of a finding against each other."""
    before, after, change = finding.baseline, finding.candidate, finding.change
    if before is not None and after is not None:
        if finding.change_abs is None or _differ(finding.change_abs, after - before, abs(before) + abs(after)):
            yield f"change_abs is {finding.change_abs}, from {before:g} to {after:g}"
        percent = 100.0 * (after - before) / before if before else math.inf if after else 0.0
        if finding.change_pct is None or _differ(finding.change_pct, percent, 100.0):
            yield f"change_pct is {finding.change_pct}, from {before:g} to {after:g}"
    low, high = finding.ci_low, finding.ci_high
    if (low is None) != (high is None):
        yield "ci_low and ci_high: one is missing"
    paired = finding.arithmetic is not None and finding.arithmetic.paired  # of the runs that have a partner
    if low is not None and high is not None and change is not None and math.isfinite(change) and not paired:
        slack = CLOSE * (100.0 + abs(change))
        if not low - slack <= change <= high + slack:
            yield f"the change of {change:g} lies outside of its interval, {low:g} to {high:g}"
    p_value, adjusted = finding.p_value, finding.p_adjusted
    if p_value is not None and adjusted is not None and adjusted < p_value * (1.0 - CLOSE):
        yield f"p_adjusted is {adjusted:g}, less than p_value {p_value:g}"


def _judgement_contradictions(finding: Finding, comparison: Comparison) -> Iterator[str]:
    """A finding's verdict against the numbers that it was computed from."""
    arithmetic, verdict = finding.arithmetic, finding.verdict
    if verdict is Verdict.INVALID:
        return
    acknowledged = finding.limit == ACKNOWLEDGED
    if arithmetic is not None:
        yield from _arithmetic_contradictions(finding, arithmetic)
        if arithmetic.alpha is not None and _differ(arithmetic.alpha, comparison.alpha):
            yield f"arithmetic.alpha is {arithmetic.alpha:g}, that of the comparison {comparison.alpha:g}"
        shown = _judged(finding, comparison.rule, arithmetic.alpha)
        if shown is not None and arithmetic.verdict != shown and not acknowledged:
            yield f"arithmetic.verdict is {arithmetic.verdict}, and its numbers say {shown.value}"
        computed: str | None = arithmetic.verdict
    else:
        shown = None if finding.objective or acknowledged else _judged(finding, comparison.rule, comparison.alpha)
        computed = shown.value if shown is not None else None
    if computed is None or verdict.value == computed:
        return
    claims_nothing = all(other.verdict is Verdict.INCONCLUSIVE for other in comparison.findings)
    withdrawn = verdict is Verdict.INCONCLUSIVE and (finding.warnings or claims_nothing)
    if not withdrawn and not (acknowledged and verdict is Verdict.NO_CHANGE):
        yield f"verdict: is {verdict.value}, and its numbers say {computed}"


def _judged(finding: Finding, rule: str, alpha: float | None) -> Verdict | None:
    """What a finding's own numbers come to; ``None`` where they cannot tell, or lie on the edge."""
    change, tolerance, worse = finding.change, finding.tolerance, Metric(finding.metric).worse
    if change is None or tolerance is None:
        return None
    worsening = change * worse
    slack = CLOSE * (100.0 + abs(tolerance))
    if rule == "threshold" and not finding.objective:
        on_edge = abs(worsening - tolerance) <= slack
        return None if on_edge else Verdict.REGRESSION if worsening > tolerance else Verdict.NO_CHANGE
    if alpha is None or finding.p_adjusted is None or finding.ci_low is None or finding.ci_high is None:
        return None
    worst = finding.ci_high if worse > 0 else -finding.ci_low
    if abs(finding.p_adjusted - alpha) <= CLOSE * alpha or abs(worst - tolerance) <= slack:
        return None
    if not finding.objective and abs(abs(worsening) - tolerance) <= slack:
        return None
    is_significant = finding.p_adjusted <= alpha
    return verdict_of(is_significant, is_significant and not finding.objective, worsening, worst, tolerance)


def _arithmetic_contradictions(finding: Finding, arithmetic: Arithmetic) -> Iterator[str]:
    """The steps of a judgement against each other, and against what the finding says of them."""
    if isinstance(arithmetic.levels, LevelArithmetic):
        yield from _level_contradictions(finding, arithmetic.levels, arithmetic.paired)
        sides = (("baseline", arithmetic.baseline), ("candidate", arithmetic.candidate))
        for (name, side), mean in zip(sides, arithmetic.levels.means, strict=True):
            values = [value for value in side if value is not None]
            if any(value <= 0 for value in values):
                yield f"arithmetic.{name}: must be > 0"
            elif values and _differ(sum(map(math.log, values)) / len(values), mean, 1.0):
                yield f"arithmetic.{name} and arithmetic.levels.means: another mean"
    if isinstance(arithmetic.rates, RateArithmetic):
        rates = arithmetic.rates
        levels = (finding.baseline, finding.candidate)[-len(rates.requests) :]
        for failed, requests, value in zip(rates.failed, rates.requests, levels, strict=False):
            if failed > requests or not requests:
                yield f"arithmetic.rates: {failed} failures of {requests} requests"
            elif rates.beyond_ms is None and value is not None and _differ(value, 100.0 * failed / requests):
                yield f"an error rate is {value:g}, and {failed} of {requests} requests failed"


def _level_contradictions(finding: Finding, levels: LevelArithmetic, paired: bool) -> Iterator[str]:
    shift = levels.means[1] - levels.means[0]
    if _differ(levels.shift, shift, 1.0):
        yield f"arithmetic.levels.shift is {levels.shift:g}, between means that are {shift:g} apart"
    for name, mean, value in zip(
        ("baseline", "candidate"), levels.means, (finding.baseline, finding.candidate), strict=True
    ):
        if value is not None and not paired and (value <= 0 or _differ(math.log(value), mean, 1.0)):
            yield f"{name} is {value:g}, and the mean of its runs another"
    if not all(levels.runs):
        yield "arithmetic.levels.runs: must be > 0"
        return
    error = levels.sd * math.sqrt(sum(1.0 / count for count in levels.runs) + levels.weekday_error)
    if _differ(levels.error, error):
        yield f"arithmetic.levels.error is {levels.error:g}, and its runs make it {error:g}"
    squares = levels.weight * levels.prior_sd**2 + sum(levels.squares) + levels.history_squares
    if levels.df > 0 and _differ(levels.sd, max(math.sqrt(squares / levels.df), levels.floor_sd)):
        yield f"arithmetic.levels.sd is {levels.sd:g}, and its squares make it another"
    half = levels.quantile * levels.error
    for name, end, log in (("ci_low", finding.ci_low, shift - half), ("ci_high", finding.ci_high, shift + half)):
        bound = 100.0 * math.expm1(log) if log < 700.0 else math.inf
        if end is not None and _differ(end, bound, 100.0):
            yield f"{name} is {end:g}, and its arithmetic makes it {bound:g}"


def _differ(first: float, second: float, scale: float = 0.0) -> bool:
    return not (first == second or abs(first - second) <= CLOSE * (abs(first) + abs(second) + scale) + 1e-9)
