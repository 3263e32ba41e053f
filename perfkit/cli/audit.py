"""An audit of the settings: what they name that is not there, and what cannot work.

`audit_settings` looks at settings, policy, store and credentials; nothing is sent, and no secret is shown.
"""

from __future__ import annotations

import tempfile
from collections import defaultdict
from collections.abc import Callable, Collection, Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass
from datetime import UTC, datetime
from enum import StrEnum
from functools import cached_property, partial
from statistics import fmean
from typing import TYPE_CHECKING, Any

from perfkit.analysis.power import min_detectable
from perfkit.config.policy import Policy
from perfkit.config.settings import EmailSettings, IssueSettings, Settings
from perfkit.config.toml_table import expand
from perfkit.history.acknowledgements import AcknowledgedFile, match
from perfkit.history.baselines import Baselines, read_pinned
from perfkit.history.change_events import HistoryAnalysis, HistoryContext
from perfkit.history.curation import baseline_quality
from perfkit.history.monitor import monitor_timeline
from perfkit.history.run_selector import comparable_runs, since_last_change
from perfkit.history.timeline import load_timeline
from perfkit.model.errors import MissingExtra, ReadError, SettingsError, StoreError, did_you_mean
from perfkit.model.records import ALL_SERVICES, LATENCY_METRICS, Metric, Run
from perfkit.notify.chat import Chat, Webhook
from perfkit.notify.email import MailServer, addresses_of
from perfkit.notify.github_api import Access
from perfkit.runs.backends import GIT, public_address
from perfkit.runs.maintenance import exposed_documents
from perfkit.runs.store import RunStore
from perfkit.runs.validity import misdated

if TYPE_CHECKING:
    import pandas as pd

NEWEST = 20  # valid runs of a scenario that show how it varies now
LEAST_RUNS = 3  # fewer do not show how runs vary
MOST_RUNS = 10  # on each side of a comparison: few teams make more
DOUBLED_PCT = 100.0
PROBE = ".noise/audit"  # a derived file, hidden, in a folder that the store has anyway
MOST_DOCUMENTS = 5_000  # runs, the newest, that are searched for secrets: a second
WEAK = ("generator_cpu", "event_loop_lag", "load_reached", "late_arrivals", "missed_arrivals", "workers")


class Grade(StrEnum):
    """How bad it is.

    An error makes the gate fail or lie until somebody corrects it.  A warning makes it weaker than its user thinks; so
    is all that the next runs may cure, because a pipeline that stops at its first step makes none.
    """

    OK = "ok"
    WARN = "warn"
    ERROR = "error"


@dataclass(frozen=True, slots=True)
class LintFinding:
    """What was found of one subject.

    Parameters
    ----------
    check
        What was looked at, one of `perfkit.cli.options.AUDIT_CHECKS`.
    subject
        What it is about: a scenario, a service, a file.
    advice
        What to do; empty where nothing is to be done.
    """

    check: str
    subject: str
    grade: Grade
    found: str
    advice: str = ""


def _ok(check: str, subject: str, found: str) -> LintFinding:
    return LintFinding(check, subject, Grade.OK, found)


def _warning(check: str, subject: str, found: str, advice: str) -> LintFinding:
    return LintFinding(check, subject, Grade.WARN, found, advice)


def _error(check: str, subject: str, found: str, advice: str) -> LintFinding:
    return LintFinding(check, subject, Grade.ERROR, found, advice)


@dataclass(frozen=True, slots=True)
class Audit:
    """Everything that was looked at, what is right too."""

    findings: tuple[LintFinding, ...]

    def of(self, grade: Grade) -> tuple[LintFinding, ...]:
        """The findings of one grade, in order."""
        return tuple(finding for finding in self.findings if finding.grade is grade)

    @property
    def problems(self) -> tuple[LintFinding, ...]:
        """What is to be done, errors first."""
        return (*self.of(Grade.ERROR), *self.of(Grade.WARN))

    def ok(self, *, strict: bool = False) -> bool:
        """Whether there is no error; ``strict``: no warning either."""
        return not (self.problems if strict else self.of(Grade.ERROR))

    def to_dict(self) -> dict[str, Any]:
        """Plain JSON values."""
        remarks = [{**asdict(finding), "grade": finding.grade.value} for finding in self.findings]
        return {"ok": self.ok(), "remarks": remarks}


def audit_settings(settings: Settings, policy: Policy, store: str, *, skip: Collection[str] = ()) -> Audit:
    """Look at settings, policy and store; ``skip`` names checks to leave out.

    Raises
    ------
    ReadError
        A run of the store is broken in a way that its index does not know of.
    """
    return Audit(tuple(item for item in _findings(settings, policy, store) if item.check not in skip))


def _findings(settings: Settings, policy: Policy, url: str) -> Iterator[LintFinding]:
    store, findings = _open(url)
    yield from findings
    yield from _blind_policies(policy)
    if store is not None:
        context = AuditContext(settings, policy, store)
        yield from _scenarios(context)
        yield from _services(context)
        for scenario in context.scenarios:
            yield from _tolerances(context, scenario)
        yield from _baselines(context)
        yield from _acknowledgements(context)
        yield from _secrets(store)
    yield from _credentials(settings)


@dataclass(frozen=True)
class AuditContext:
    """Settings, the policy in force, and the store, read once."""

    settings: Settings
    policy: Policy
    store: RunStore

    @cached_property
    def history(self) -> HistoryContext:
        """The histories in the store, with the pinned baselines."""
        return HistoryContext(self.store, self.settings.baselines, alpha=self.policy.alpha)

    @cached_property
    def runs(self) -> pd.DataFrame:
        """All runs of the store, see `RunStore.runs`."""
        return self.store.runs()

    @cached_property
    def scenarios(self) -> tuple[str, ...]:
        """Scenarios that have runs in the store."""
        return tuple(dict.fromkeys(self.runs["scenario"]))

    @cached_property
    def levels(self) -> dict[str, tuple[Run, ...]]:
        """The newest valid runs of each scenario, of one load and since its last change, oldest first."""
        levels = {}
        for scenario in self.scenarios:
            frame = self.runs[self.runs["scenario"] == scenario]
            ids = frame[frame["valid"] & ~frame["quarantined"] & ~frame["ab_test"].astype(bool)]["id"][-NEWEST:]
            runs = [self.store.get(run_id) for run_id in ids]
            comparable = comparable_runs(runs, runs[-1])[0] if runs else ()
            levels[scenario] = since_last_change(comparable, self.history)
        return levels


def _listed(names: Sequence[str], most: int = 3) -> str:
    """The first few names, and how many more there are."""
    more = f" and {len(names) - most} more" if len(names) > most else ""
    return ", ".join(names[:most]) + more


def _open(url: str) -> tuple[RunStore | None, list[LintFinding]]:
    """Whether the store can be read and written; the store is ``None`` when it cannot be read."""
    try:
        store = RunStore(url)
        frame, broken = store.runs(), sorted(store.broken())
    except (StoreError, ReadError, MissingExtra, OSError) as error:
        advice = "Nothing can be compared without it: correct `store`, or the credentials that it needs."
        return None, [_error("store", public_address(url), f"cannot be read: {error}", advice)]
    url, now = store.url, datetime.now(UTC)
    findings = [_ok("store", url, f"{len(frame)} runs")]
    if broken:
        advice = "`perfkit runs verify` says what is wrong; restore them from a copy, or remove them."
        findings = [_warning("store", url, f"{len(broken)} broken runs: {_listed(broken)}", advice)]
    dates = zip(frame["id"], frame["started_at"], strict=True)
    wrong = {run_id: at for run_id, at in dates if at == at and misdated(at, now)}
    if wrong:
        latest_first = sorted(wrong, key=lambda run_id: wrong[run_id], reverse=True)
        named = _listed([f"{name} ({wrong[name]:%Y-%m-%d})" for name in latest_first])
        found = f"{len(wrong)} {'run has' if len(wrong) == 1 else 'runs have'} a wrong date: {named}"
        advice = (
            "A clock was wrong. They are never taken for the newest; `perfkit runs rm` or `quarantine` removes them."
        )
        findings.append(_warning("store", url, found, advice))
    if not url.startswith(GIT):  # there a write would be a commit, and is not tried
        try:
            if store.folder is not None:
                folder = store.folder.absolute()
                existing = next(path for path in (folder, *folder.parents) if path.exists())
                tempfile.TemporaryFile(dir=existing).close()
            else:
                store.backend.write(PROBE, b"")
                store.backend.remove(PROBE)
        except (OSError, StoreError) as error:
            found = f"cannot be written: {getattr(error, 'strerror', None) or error}"
            advice = "`perfkit run` could not keep what it measures: correct the permissions, or name another store."
            findings.append(_error("store", url, found, advice))
    return store, findings


def _blind_policies(policy: Policy) -> Iterator[LintFinding]:
    """Whether a latency may double without any limit being passed: in all services, in one, or in a scenario."""
    yield _blindness(policy, None, "all services")
    for service in policy.services:
        yield _blindness(policy, service, service)
    for scenario, rules in policy.scenarios.items():
        scoped = policy.for_scenario(scenario)
        yield _blindness(scoped, None, f"scenario {scenario}")
        for service in (name for name, value in rules.items() if isinstance(value, Mapping)):
            if service in scoped.services:
                yield _blindness(scoped, service, f"{service} in {scenario}")


def _blindness(policy: Policy, service: str | None, subject: str) -> LintFinding:
    limits = [policy.limit(service or "", metric.value) for metric in LATENCY_METRICS]
    # An absolute limit in ms may be below a doubling, depending on the level: it counts as sharp
    sharp = [limit for limit in limits if limit is not None and (not limit.relative or limit.amount < DOUBLED_PCT)]
    if sharp or policy.objectives_of(service):
        least = min(sharp, key=lambda limit: limit.amount, default=None)
        return _ok("blind", subject, f"from {least.describe()} on" if least is not None else "absolute limits only")
    loose = min((limit.amount for limit in limits if limit is not None), default=None)
    found = "no latency is judged" if loose is None else f"every latency has a tolerance of {loose:g} % or more"
    advice = "A service that takes twice as long passes: lower a tolerance of a latency below 100 %."
    return _error("blind", subject, found, advice)


def _scenarios(context: AuditContext) -> Iterator[LintFinding]:
    """Scenarios that have no runs, none that is valid, or a generator that was too weak for its load."""
    settings, stored, known = context.settings, context.scenarios, context.settings.scenarios
    for name in settings.own_scenarios:
        if name in settings.unusable:
            found = f"cannot be run here: {settings.unusable[name]}"
            yield _warning("scenario", name, found, "Set the variable where it is run.")
        elif not known[name].locustfile.exists():
            found = f"{known[name].locustfile}: there is no such locustfile"
            yield _error("scenario", name, found, "Correct its path.")
        if name not in stored:
            advice = f"Run it, `perfkit run {name}`, or take it out."
            yield _warning("scenario", name, f"no run in {context.store.url}", advice)
    for name in context.policy.scenarios:
        if name not in stored and name not in known and name not in settings.own_scenarios:
            near = did_you_mean(name, [*known, *stored])
            advice = f"Its tolerances hold for nothing: correct the name{near}, or take it out."
            yield _warning("scenario", name, "the policy names it; nobody else does", advice)
    for name in stored:
        newest = context.store.get(context.runs[context.runs["scenario"] == name]["id"].iloc[-1])
        level, problems = context.levels[name], newest.validity.problems
        if level:
            yield _ok("scenario", name, f"{len(level)} valid runs on its present level")
        else:
            reason = problems[0].advice if problems else ""
            advice = f"Nothing can be judged against it. The newest, {newest.id}: {reason}"
            yield _warning("scenario", name, "no valid run", advice)
        weak = next((check for check in problems if check.name in WEAK), None)
        if weak is not None:
            yield _warning("generator", name, f"too weak in the newest run, {newest.id}", weak.advice)
        elif newest.validity.checks:
            yield _ok("generator", name, "as strong as its load asked for")


def _services(context: AuditContext) -> Iterator[LintFinding]:
    """Services that a policy names and no stored run has."""
    policy, stored = context.policy, {}
    for name in context.scenarios:
        series = context.store.series(name, ab_tests=True).values
        stored[name] = tuple(dict.fromkeys(service for service, _ in series))
    if not stored:
        return
    services = tuple(dict.fromkeys(service for names in stored.values() for service in names))
    tables: list[tuple[Mapping[str, Any], Sequence[str], str]] = [
        (policy.tolerance, services, "the common tolerances hold for what is meant"),
        (policy.objectives, services, "the absolute limit is never checked"),
        *(
            (rules, stored[name], f"the common tolerances hold in {name}")
            for name, rules in policy.scenarios.items()
            if name in stored
        ),
    ]
    for rules, known, consequence in tables:
        for name in (key for key, value in rules.items() if isinstance(value, Mapping) and key not in set(Metric)):
            if name in known or name == ALL_SERVICES:
                yield _ok("service", name, "has runs")
            else:
                near = did_you_mean(name, (*known, ALL_SERVICES))
                advice = f"Orphaned, so {consequence}: correct the name{near}, or take it out."
                yield _warning("service", name, "the policy names it, and no stored run has it", advice)


def _tolerances(context: AuditContext, scenario: str) -> Iterator[LintFinding]:
    """Per metric: tolerances below what comparisons of runs like the stored ones can show."""
    runs, policy = context.levels[scenario], context.policy.for_scenario(scenario)
    if not runs:
        return
    if len(runs) < LEAST_RUNS:
        advice = f"Make {LEAST_RUNS} or more: `perfkit run {scenario} --repeat {LEAST_RUNS}`."
        yield _warning("tolerance", scenario, f"{len(runs)} valid runs do not show how they vary", advice)
        return
    threshold = policy.rule == "threshold"
    most = 1 if threshold else max(MOST_RUNS, policy.required_runs)
    smallest: dict[str, dict[str, dict[int, float]]] = defaultdict(lambda: defaultdict(dict))
    for service, name, count, change, _ in min_detectable(runs, policy, most):
        smallest[name][service][count] = change
    for metric in (metric for metric in Metric if threshold or metric.value in policy.gating):
        needed: list[int] = []  # runs per side that show the tolerance of a service
        short: list[tuple[float, float, str]] = []  # the services of which no number of runs does
        for service, by_count in smallest[metric.value].items():
            limit = policy.limit(service, metric.value)
            values = [value for run in runs if (value := run.services[service].value(metric)) is not None]
            tolerance = limit.in_change_unit(fmean(values) if values else None) if limit is not None else None
            if tolerance is None:
                continue
            counts = [count for count, change in by_count.items() if change <= tolerance]
            if counts:
                needed.append(counts[0])
            else:
                short.append((by_count[most], tolerance, service))
        subject, unit = f"{scenario}, {metric.title}", metric.change_unit
        if short:
            shown, tolerance, _ = max(short, key=lambda item: item[0] / max(item[1], 1e-9))
            names = _listed([service for _, _, service in sorted(short, key=lambda item: -item[0])])
            found = f"{names}: the tolerance is {tolerance:.3g} {unit}, runs show {shown:.3g} {unit} at best"
            advice = (
                "Fixed limits below the noise alarm on identical builds: raise the limit, run longer, or use the rule "
                "evidence."
                if threshold
                else f"Even {most} runs a side seldom call a worsening of that size: run longer, or raise it."
            )
            yield _warning("tolerance", subject, found, advice)
        elif needed:
            yield _ok("tolerance", subject, f"a worsening beyond it shows from {max(needed)} runs a side on")


def _baselines(context: AuditContext) -> Iterator[LintFinding]:
    """Baselines that expired, went stale or lost their runs."""
    for path in sorted(Baselines(context.settings.baselines).folder.glob("*/*.json")):
        try:
            pinned = read_pinned(path)
        except ReadError as error:
            advice = "Restore it from version control, or remove it."
            yield _error("baseline", str(path), f"cannot be read: {error}", advice)
            continue
        name, quality = f"{pinned.scenario}@pinned:{pinned.name}", baseline_quality(context.history, pinned)
        if not quality.runs:
            advice = "It names no run, so comparisons with it fail: pin others, or restore its runs."
            yield _error("baseline", name, "; ".join(quality.warnings) or "its runs are gone", advice)
        elif not quality.warnings:
            yield _ok("baseline", name, f"{len(quality.runs)} runs")
        else:
            advice = "Pin newer runs: `perfkit baseline pin`, or `accept` where a change was intended."
            yield from (_warning("baseline", name, text, advice) for text in quality.warnings)


def _acknowledgements(context: AuditContext) -> Iterator[LintFinding]:
    """Acknowledgements that ran out, or cover no change."""
    check, today, file = "acknowledged", datetime.now(UTC).date(), AcknowledgedFile(context.settings.acknowledged)
    try:
        acknowledgements = file.read()
    except ReadError as error:
        advice = "Restore it from version control: comparisons against history fail without it."
        yield _error(check, str(file.path), f"cannot be read: {error}", advice)
        return
    changes = {}  # of each scenario: its runs, and its changes in hindsight or as they were detected
    for scenario in {item.scenario for item in acknowledgements} & set(context.scenarios):
        policy = context.policy.for_scenario(scenario)
        history = HistoryAnalysis(load_timeline(context.store, scenario), policy.alpha)
        detected = (alert.event for alert in monitor_timeline(history, policy).alerts)
        changes[scenario] = history.run_ids, (*history.events, *detected)
    for item in acknowledgements:
        name, remove = f"{item.scenario} {item.id}", f"`perfkit ack --remove {item.id}` takes it away"
        run_ids, events = changes.get(item.scenario, ((), ()))
        if not item.holds_on(today):
            yield _warning(check, name, f"ran out on {item.until}", f"It silences nothing now: {remove}.")
        elif item.scenario not in changes:
            yield _warning(check, name, "its scenario has no runs", f"It matches nothing: {remove}.")
        elif item.place_in(run_ids) is None:
            yield _warning(check, name, "its runs are gone", f"It matches nothing: {remove}.")
        elif not match(events, run_ids, [item], today):
            advice = f"What is there was taken back, or has grown beyond what was acknowledged: {remove}."
            yield _warning(check, name, "no change that is seen there is covered by it", advice)
        else:
            yield _ok(check, name, item.describe())


def _secrets(store: RunStore) -> Iterator[LintFinding]:
    """Runs that hold secrets, which an earlier perfkit, or an import, let in."""
    exposed = exposed_documents(store, MOST_DOCUMENTS)
    if not exposed:
        yield _ok("secrets", store.url, "no secret in the runs")
        return
    parts = ", ".join(dict.fromkeys(part for run in exposed for part in run.notes))
    found = f"{len(exposed)} runs hold secrets ({parts}): {_listed([run.run_id for run in exposed])}"
    advice = (
        "`perfkit runs redact --all` rewrites and reseals them. Change these secrets where they are in use: what was "
        "pushed, sent or copied stays out there."
    )
    yield _error("secrets", store.url, found, advice)


def _credentials(settings: Settings) -> Iterator[LintFinding]:
    """What is missing for each channel that is configured, asked of the code that will send."""
    email, issues, chat = settings.email, settings.issues, settings.chat

    def chat_of(number: int, url: str) -> Chat:
        return Chat(expand(url, f"[chat]: urls: number {number}"), number)

    steps: dict[tuple[str, str], list[Callable[[], object]]] = {}
    if email != EmailSettings():
        steps["[email]", "Correct it, or no mail can be sent."] = [
            partial(MailServer.from_settings, email),
            partial(addresses_of, email.to, "[email]: to"),
        ]
    if issues != IssueSettings():
        steps["[issues]", "Correct it where issues are written."] = [
            partial(Access.from_environment, issues.repository, with_token=False),
            partial(Access.from_environment, "any/repository"),
        ]
    if chat.urls or chat.webhook:
        steps["[chat]", "Correct it where messages are sent."] = [
            *(partial(chat_of, number, url) for number, url in enumerate(chat.urls, 1)),
            *([partial(Webhook, chat.webhook)] if chat.webhook else []),
        ]
    for (channel, advice), tries in steps.items():
        missing: dict[str, str] = {}
        for step in tries:
            try:
                made = step()
            except (SettingsError, MissingExtra) as error:
                missing[str(error)] = advice
                continue
            if isinstance(made, MailServer) and not made.user and made.security != "none":
                found = "PERFKIT_SMTP_USER and PERFKIT_SMTP_PASSWORD are not set"
                missing[found] = f"Set them where mail is sent by {made}."
        yield from (_error("credentials", channel, found, what) for found, what in missing.items())
        if not missing:
            yield _ok("credentials", channel, "complete")
