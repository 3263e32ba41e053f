"""An audit of the settings: what they name that is not there, and what cannot work.

`audit_settings` makes the checks of `CHECKS`, of settings, policy and store; no secret is shown.
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

from perfkit.analysis.coverage import does_gate, gate_of
from perfkit.analysis.power import detectable
from perfkit.config.policy import Policy
from perfkit.config.settings import EmailSettings, IssueSettings
from perfkit.config.toml_table import expand
from perfkit.history.acknowledgements import AcknowledgedFile, match
from perfkit.history.baselines import Baselines, read_pinned
from perfkit.history.change_events import HistoryAnalysis
from perfkit.history.curation import baseline_quality
from perfkit.history.monitor import monitor_timeline
from perfkit.history.run_selector import comparable_runs, since_last_change
from perfkit.history.timeline import load_timeline
from perfkit.model.errors import MissingExtra, ReadError, SettingsError, StoreError, did_you_mean
from perfkit.model.records import ALL_SERVICES, LATENCY_METRICS, Metric, Run
from perfkit.notify.chat import Chat, Webhook
from perfkit.notify.email import MailServer, addresses_of
from perfkit.notify.github_api import Access
from perfkit.runs.backends import public_address
from perfkit.runs.maintenance import exposed_documents
from perfkit.runs.requests import renamed_runs
from perfkit.runs.validity import misdated

if TYPE_CHECKING:
    import pandas as pd

    from perfkit.cli.options import Workspace
    from perfkit.runs.store import RunStore

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


OK, WARN, ERROR = Grade
Row = tuple[str, Grade, str, str]  # subject, grade, what was found, advice: a `LintFinding` without its check


@dataclass(frozen=True, slots=True)
class LintFinding:
    """What was found of one subject."""

    check: str  # one of `CHECKS`
    subject: str  # a scenario, a service, a file
    grade: Grade
    found: str
    advice: str  # empty where nothing is to be done


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
        return (*self.of(ERROR), *self.of(WARN))

    def ok(self, *, strict: bool = False) -> bool:
        """Whether there is no error; ``strict``: no warning either."""
        return not (self.problems if strict else self.of(ERROR))

    def to_dict(self) -> dict[str, Any]:
        return {"ok": self.ok(), "remarks": [asdict(finding) for finding in self.findings]}


def audit_settings(workspace: Workspace, *, skip: Collection[str] = ()) -> Audit:
    """Look at settings, policy and store, by `CHECKS` without those to ``skip``.

    ``ReadError`` where a run of the store is broken in a way that its index does not know of.
    """
    context = AuditContext(workspace)
    return Audit(
        tuple(
            LintFinding(name, *row)
            for name, check in CHECKS.items()
            if name not in skip and (name in WITHOUT_RUNS or not context.unreadable)
            for row in check(context)
        )
    )


class AuditContext:
    """Settings, the policy in force, and the store, read once."""

    def __init__(self, workspace: Workspace) -> None:
        self.workspace, self.settings, self.policy = workspace, workspace.settings, workspace.policy

    @property
    def store(self) -> RunStore:
        return self.workspace.run_store

    @cached_property
    def unreadable(self) -> str:
        """Why the store cannot be read, or nothing."""
        try:
            _ = self.runs
        except (StoreError, ReadError, MissingExtra, OSError) as error:
            return str(error) or type(error).__name__
        return ""

    @cached_property
    def runs(self) -> pd.DataFrame:
        """All runs of the store, see `RunStore.runs`."""
        return self.store.runs()

    @cached_property
    def newest(self) -> dict[str, Run]:
        """The newest run of each scenario that has runs."""
        ids = dict(zip(self.runs["scenario"], self.runs["id"], strict=True))
        return {scenario: self.store.get(run_id) for scenario, run_id in ids.items()}

    @cached_property
    def stable_runs(self) -> dict[str, tuple[Run, ...]]:
        """The newest valid runs of each scenario, of one load and since its last change, oldest first."""
        stable = {}
        for scenario in self.newest:
            frame = self.runs[self.runs["scenario"] == scenario]
            ids = frame[frame["valid"] & ~frame["quarantined"] & ~frame["ab_test"].astype(bool)]["id"][-NEWEST:]
            runs = renamed_runs([self.store.get(run_id) for run_id in ids], self.policy.service_names)
            comparable = comparable_runs(runs, runs[-1])[0] if runs else ()
            stable[scenario] = since_last_change(comparable, self.workspace.history())
        return stable


Check = Callable[[AuditContext], Iterator[Row]]


def _listed(names: Sequence[str], most: int = 3) -> str:
    """The first few names, and how many more there are."""
    more = f" and {len(names) - most} more" if len(names) > most else ""
    return ", ".join(names[:most]) + more


def check_store(context: AuditContext) -> Iterator[Row]:
    """Whether the store can be read and written, and its runs."""
    if context.unreadable:
        advice = "Nothing can be compared without it: correct `store`, or the credentials that it needs."
        yield public_address(context.workspace.store), ERROR, f"cannot be read: {context.unreadable}", advice
        return
    store, frame, now = context.store, context.runs, datetime.now(UTC)
    if broken := sorted(store.broken()):
        advice = "`perfkit runs verify` says what is wrong; restore them from a copy, or remove them."
        yield store.url, WARN, f"{len(broken)} broken runs: {_listed(broken)}", advice
    else:
        yield store.url, OK, f"{len(frame)} runs", ""
    dates = zip(frame["started_at"], frame["id"], strict=True)
    if wrong := sorted(((at, run_id) for at, run_id in dates if at == at and misdated(at, now)), reverse=True):
        names = _listed([f"{name} ({at:%Y-%m-%d})" for at, name in wrong])
        found = f"{len(wrong)} {'run has' if len(wrong) == 1 else 'runs have'} a wrong date: {names}"
        advice = "They are never taken for the newest; `perfkit runs rm` or `quarantine` removes them."
        yield store.url, WARN, found, f"A clock was wrong. {advice}"
    try:
        if store.folder is not None:
            folder = store.folder.absolute()
            existing = next(path for path in (folder, *folder.parents) if path.exists())
            tempfile.TemporaryFile(dir=existing).close()
        elif store.backend.derived is store.backend:  # else a write would be a commit, and is not tried
            store.backend.write(PROBE, b"")
            store.backend.remove(PROBE)
    except (OSError, StoreError) as error:
        found = f"cannot be written: {getattr(error, 'strerror', None) or error}"
        advice = "`perfkit run` could not keep what it measures: correct the permissions, or name another store."
        yield store.url, ERROR, found, advice


def check_blindness(context: AuditContext) -> Iterator[Row]:
    """Whether a latency may double without any limit being passed: in all services, in one, or in a scenario."""
    policy = context.policy
    scopes: list[tuple[Policy, str | None, str]] = [(policy, None, "all services")]
    scopes += [(policy, service, service) for service in policy.services]
    for scenario, rules in policy.scenarios.items():
        scoped = policy.for_scenario(scenario)
        scopes.append((scoped, None, f"scenario {scenario}"))
        services = (name for name, value in rules.items() if isinstance(value, Mapping) and name in scoped.services)
        scopes += [(scoped, service, f"{service} in {scenario}") for service in services]
    for scoped, service, subject in scopes:
        limits = list(filter(None, (scoped.limit(service or "", metric.value) for metric in LATENCY_METRICS)))
        # An absolute limit in ms may be below a doubling, depending on the level: it counts as sharp
        sharp = [limit for limit in limits if not limit.relative or limit.amount < DOUBLED_PCT]
        if sharp:
            yield subject, OK, f"from {min(sharp, key=lambda limit: limit.amount).describe()} on", ""
        elif scoped.objectives_of(service):
            yield subject, OK, "absolute limits only", ""
        else:
            loose = min((limit.amount for limit in limits), default=None)
            found = f"every latency has a tolerance of {loose:g} % or more" if limits else "no latency is judged"
            advice = "A service that takes twice as long passes: lower a tolerance of a latency below 100 %."
            yield subject, ERROR, found, advice


def check_scenarios(context: AuditContext) -> Iterator[Row]:
    """Scenarios that cannot be run, have no runs, or none that is valid."""
    settings, stored, usable = context.settings, context.newest, context.settings.scenarios
    for name in settings.own_scenarios:
        if name in settings.unusable:
            found = f"cannot be run here: {settings.unusable[name]}"
            yield name, WARN, found, "Set the variable where it is run."
        elif not usable[name].locustfile.exists():
            yield name, ERROR, f"{usable[name].locustfile}: there is no such locustfile", "Correct its path."
        if name not in stored:
            yield name, WARN, f"no run in {context.store.url}", f"Run it, `perfkit run {name}`, or take it out."
    for name in context.policy.scenarios:
        if name not in stored and name not in usable and name not in settings.own_scenarios:
            near = did_you_mean(name, [*usable, *stored])
            advice = f"Its tolerances hold for nothing: correct the name{near}, or take it out."
            yield name, WARN, "the policy names it; nobody else does", advice
    for name in stored:
        if context.stable_runs[name]:
            yield name, OK, f"{len(context.stable_runs[name])} valid runs on its present level", ""
        else:
            newest = context.newest[name]
            reason = next((check.advice for check in newest.validity.problems), "")
            yield name, WARN, "no valid run", f"Nothing can be judged against it. The newest, {newest.id}: {reason}"


def check_generators(context: AuditContext) -> Iterator[Row]:
    """Generators that were too weak for their load."""
    for name, newest in context.newest.items():
        weak = next((check for check in newest.validity.problems if check.name in WEAK), None)
        if weak is not None:
            yield name, WARN, f"too weak in the newest run, {newest.id}", weak.advice
        elif newest.validity.checks:
            yield name, OK, "as strong as its load asked for", ""


def check_services(context: AuditContext) -> Iterator[Row]:
    """Services that a policy names and no stored run has."""
    policy, stored = context.policy, {}
    for name in context.newest:
        stored[name] = load_timeline(context.store, name, ab_tests=True, service_names=policy.service_names).services
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
    for rules, there, consequence in tables if stored else ():
        for name in (key for key, value in rules.items() if isinstance(value, Mapping) and key not in set(Metric)):
            if name in there or name == ALL_SERVICES:
                yield name, OK, "has runs", ""
            else:
                near = did_you_mean(name, (*there, ALL_SERVICES))
                advice = f"Orphaned, so {consequence}: correct the name{near}, or take it out."
                yield name, WARN, "the policy names it, and no stored run has it", advice


def check_tolerances(context: AuditContext) -> Iterator[Row]:
    """Per scenario and metric: tolerances below what comparisons of runs like the stored ones can show."""
    for scenario, runs in context.stable_runs.items():
        policy = context.policy.for_scenario(scenario)
        if runs and len(runs) < LEAST_RUNS:
            advice = f"Make {LEAST_RUNS} or more: `perfkit run {scenario} --repeat {LEAST_RUNS}`."
            yield scenario, WARN, f"{len(runs)} valid runs do not show how they vary", advice
        if len(runs) < LEAST_RUNS:
            continue
        threshold = policy.rule == "threshold"
        most = 1 if threshold else max(MOST_RUNS, policy.required_runs)
        gate = None if threshold else gate_of((runs,), [*runs[0].services], policy)
        smallest: dict[str, dict[str, dict[int, float]]] = defaultdict(lambda: defaultdict(dict))
        rows = detectable(runs, policy=policy, most=most).itertuples(index=False)
        for service, name, count, change, _ in rows:
            if threshold or does_gate(policy, gate, service, Metric(name)):
                smallest[name][service][count] = change
        for metric in (metric for metric in Metric if threshold or metric.value in policy.gating):
            needed: list[int] = []  # runs per side that show the tolerance of a service
            short: list[tuple[float, float, str]] = []  # the services of which no number of runs does
            for service, changes in smallest[metric.value].items():
                limit = policy.limit(service, metric.value)
                values = [value for run in runs if (value := run.services[service].value(metric)) is not None]
                tolerance = limit.in_change_unit(fmean(values) if values else None) if limit is not None else None
                if tolerance is None:
                    continue
                enough = [count for count, change in changes.items() if change <= tolerance][:1]
                needed += enough
                if not enough:
                    short.append((changes[most], tolerance, service))
            subject, unit = f"{scenario}, {metric.title}", metric.change_unit
            if short:
                shown, tolerance, _ = max(short, key=lambda item: item[0] / max(item[1], 1e-9))
                names = _listed([service for _, _, service in sorted(short, key=lambda item: -item[0])])
                found = f"{names}: the tolerance is {tolerance:.3g} {unit}, runs show {shown:.3g} {unit} at best"
                advice = (
                    "Fixed limits below the noise alarm on identical builds: raise the limit, run longer, or use the "
                    "rule evidence."
                    if threshold
                    else f"Even {most} runs a side seldom call a worsening of that size: run longer, or raise it."
                )
                yield subject, WARN, found, advice
            elif needed:
                yield subject, OK, f"a worsening beyond it shows from {max(needed)} runs a side on", ""


def check_baselines(context: AuditContext) -> Iterator[Row]:
    """Baselines that expired, went stale or lost their runs."""
    for path in sorted(Baselines(context.settings.baselines).folder.glob("*/*.json")):
        try:
            pinned = read_pinned(path)
        except ReadError as error:
            yield str(path), ERROR, f"cannot be read: {error}", "Restore it from version control, or remove it."
            continue
        name, quality = f"{pinned.scenario}@pinned:{pinned.name}", baseline_quality(context.workspace.history(), pinned)
        if not quality.runs:
            advice = "It names no run, so comparisons with it fail: pin others, or restore its runs."
            yield name, ERROR, "; ".join(quality.warnings) or "its runs are gone", advice
        elif not quality.warnings:
            yield name, OK, f"{len(quality.runs)} runs", ""
        advice = "Pin newer runs: `perfkit baseline pin`, or `accept` where a change was intended."
        for text in quality.warnings if quality.runs else ():
            yield name, WARN, text, advice


def check_acknowledgements(context: AuditContext) -> Iterator[Row]:
    """Acknowledgements that ran out, or cover no change."""
    today, file = datetime.now(UTC).date(), AcknowledgedFile(context.settings.acknowledged)
    try:
        acknowledgements = file.read()
    except ReadError as error:
        advice = "Restore it from version control: comparisons against history fail without it."
        yield str(file.path), ERROR, f"cannot be read: {error}", advice
        return
    changes = {}  # of each scenario: its runs, and its changes in hindsight or as they were detected
    for scenario in {item.scenario for item in acknowledgements} & context.newest.keys():
        policy = context.policy.for_scenario(scenario)
        history = HistoryAnalysis(
            load_timeline(context.store, scenario, service_names=policy.service_names), policy.alpha
        )
        detected = (alert.event for alert in monitor_timeline(history, policy).alerts)
        changes[scenario] = history.run_ids, (*history.events, *detected)
    for item in acknowledgements:
        name, remove = f"{item.scenario} {item.id}", f"`perfkit ack --remove {item.id}` takes it away"
        run_ids, events = changes.get(item.scenario, ((), ()))
        if not item.holds_on(today):
            yield name, WARN, f"ran out on {item.until}", f"It silences nothing now: {remove}."
        elif item.index_in(run_ids) is None:
            gone = "its runs are gone" if item.scenario in changes else "its scenario has no runs"
            yield name, WARN, gone, f"It matches nothing: {remove}."
        elif not match(events, run_ids, [item], today):
            advice = f"What is there was taken back, or has grown beyond what was acknowledged: {remove}."
            yield name, WARN, "no change that is seen there is covered by it", advice
        else:
            yield name, OK, item.describe(), ""


def check_secrets(context: AuditContext) -> Iterator[Row]:
    """Runs that hold secrets, which an earlier perfkit, or an import, let in."""
    exposed = exposed_documents(context.store, MOST_DOCUMENTS)
    if not exposed:
        yield context.store.url, OK, "no secret in the runs", ""
        return
    parts = ", ".join(dict.fromkeys(part for run in exposed for part in run.notes))
    found = f"{len(exposed)} runs hold secrets ({parts}): {_listed([run.run_id for run in exposed])}"
    advice = (
        "`perfkit runs redact --all` rewrites and reseals them. Change these secrets where they are in use: what was "
        "pushed, sent or copied stays out there."
    )
    yield context.store.url, ERROR, found, advice


def check_credentials(context: AuditContext) -> Iterator[Row]:
    """What is missing for each channel that is configured, asked of the code that will send."""
    email, issues, chat = context.settings.email, context.settings.issues, context.settings.chat
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
            *(
                lambda number=number, url=url: Chat(expand(url, f"[chat]: urls: number {number}"), number)
                for number, url in enumerate(chat.urls, 1)
            ),
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
        yield from ((channel, ERROR, found, what) for found, what in missing.items())
        if not missing:
            yield channel, OK, "complete", ""


CHECKS: dict[str, Check] = {  # `perfkit.cli.options.AUDIT_CHECKS` are their names
    "store": check_store,
    "blind": check_blindness,
    "scenario": check_scenarios,
    "generator": check_generators,
    "service": check_services,
    "tolerance": check_tolerances,
    "baseline": check_baselines,
    "acknowledged": check_acknowledgements,
    "secrets": check_secrets,
    "credentials": check_credentials,
}
WITHOUT_RUNS = ("store", "blind", "credentials")  # are looked at also where the store cannot be read
