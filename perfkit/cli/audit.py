"""Do the settings mean what their user thinks?  What they name that is not there, and what cannot work.

What an audit looks at: settings, the store that they name, the day.  What is read of the store is read once.

One thing that was looked at in the settings, and what to do about it.

Can results be sent where the settings want them?  Asked of the code that will send them; secrets are never shown.

Pinned baselines and acknowledged changes: are they still good, and of anything?

Tolerances that runs cannot show, and tolerances that let anything through.

Can runs be kept, and are there runs of what the settings name?
"""

from __future__ import annotations

import tempfile
from collections import defaultdict
from collections.abc import Callable, Collection, Iterable, Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass
from datetime import UTC, date, datetime
from enum import StrEnum
from functools import cached_property, partial
from pathlib import Path
from statistics import fmean
from typing import TYPE_CHECKING, Any

from perfkit.analysis.power import min_detectable
from perfkit.config.policy import Policy
from perfkit.config.settings import ChatSettings, EmailSettings, IssueSettings, Settings
from perfkit.config.toml_table import expand
from perfkit.history.acknowledgements import AcknowledgedFile, Acknowledgement, match
from perfkit.history.baselines import Baselines, Pinned, read_pinned
from perfkit.history.change_events import Event
from perfkit.history.context import HistoryAnalysis, HistoryContext
from perfkit.history.curation import baseline_quality
from perfkit.history.monitor import watch_timeline
from perfkit.history.run_selector import comparable_runs, since_last_change
from perfkit.history.timeline import load_timeline
from perfkit.model.errors import MissingExtra, ReadError, SettingsError, StoreError, did_you_mean
from perfkit.model.records import ALL_SERVICES, LATENCY_METRICS, Metric, Run
from perfkit.notify.chat import Chat, Webhook
from perfkit.notify.email import MailServer, addresses_of
from perfkit.notify.github_api import Access
from perfkit.runs.backends import GIT, public_address
from perfkit.runs.redacted import exposed_documents
from perfkit.runs.store import RunStore
from perfkit.runs.validity import misdated

if TYPE_CHECKING:
    import pandas as pd

NEWEST = 20  # valid runs of a scenario that tell how it varies now


@dataclass(frozen=True)
class Premises:
    """Settings, the policy in force, and the store."""

    settings: Settings
    policy: Policy
    store: RunStore

    @cached_property
    def now(self) -> datetime:
        """When the audit began."""
        return datetime.now(UTC)

    @cached_property
    def past(self) -> HistoryContext:
        """Where selectors look."""
        return HistoryContext(self.store, self.settings.baselines, alpha=self.policy.alpha)

    @cached_property
    def runs(self) -> pd.DataFrame:
        """All runs of the store, see `RunStore.runs`."""
        return self.store.runs()

    @property
    def scenarios(self) -> tuple[str, ...]:
        """Scenarios that have runs in the store."""
        return tuple(dict.fromkeys(self.runs["scenario"]))

    def services(self, scenario: str) -> tuple[str, ...]:
        """Services that any valid run of a scenario has."""
        return tuple(dict.fromkeys(service for service, _ in self.store.series(scenario, ab_tests=True).values))

    @cached_property
    def levels(self) -> dict[str, tuple[Run, ...]]:
        """The newest valid runs of each scenario, of one load and since its last change, oldest first."""
        return {scenario: self._level(scenario) for scenario in self.scenarios}

    def _level(self, scenario: str) -> tuple[Run, ...]:
        frame = self.runs[self.runs["scenario"] == scenario]
        ids = frame[frame["valid"] & ~frame["quarantined"] & ~frame["ab_test"].astype(bool)]["id"][-NEWEST:]
        runs = [self.store.get(run_id) for run_id in ids]
        kept = comparable_runs(runs, runs[-1])[0] if runs else ()
        return since_last_change(kept, self.past)

    def newest(self, scenario: str) -> Run:
        """The newest run of a scenario, whether it is valid or not."""
        return self.store.get(self.runs[self.runs["scenario"] == scenario]["id"].iloc[-1])


class Grade(StrEnum):
    """How bad it is.

    An error makes the gate fail or lie until somebody mends it.  A warning makes it weaker than its user thinks; so is
    all that the next runs may cure, because a pipeline that stops at its first step makes none.
    """

    OK = "ok"
    WARN = "warn"
    ERROR = "error"


@dataclass(frozen=True, slots=True)
class Remark:
    """What was found of one subject.

    Parameters
    ----------
    check
        What was looked at, one of `CHECKS`.
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

    def to_dict(self) -> dict[str, Any]:
        """Plain JSON values."""
        return {**asdict(self), "grade": self.grade.value}


def fine(check: str, subject: str, found: str) -> Remark:
    """Nothing to object to."""
    return Remark(check, subject, Grade.OK, found)


def listed(names: list[str] | tuple[str, ...], most: int = 3) -> str:
    """The first few names, and how many more there are."""
    more = f" and {len(names) - most} more" if len(names) > most else ""
    return ", ".join(names[:most]) + more


Missing = Iterator[tuple[str, str]]  # what, and what to do


def credential_remarks(settings: Settings) -> Iterator[Remark]:
    """What is missing for each channel that is configured."""
    channels = {
        "[email]": _email(settings.email) if settings.email != EmailSettings() else None,
        "[issues]": _issues(settings.issues) if settings.issues != IssueSettings() else None,
        "[chat]": _chat(settings.chat) if settings.chat.urls or settings.chat.webhook else None,
    }
    for channel, missing in channels.items():
        if missing is None:
            continue
        found = dict(missing)
        yield from (Remark("credentials", channel, Grade.ERROR, what, advice) for what, advice in found.items())
        if not found:
            yield fine("credentials", channel, "complete")


def _refusal(step: Callable[[], object], advice: str) -> Missing:
    """What the settings lack for a step; nothing is sent by it."""
    try:
        step()
    except (SettingsError, MissingExtra) as error:
        yield str(error), advice


def _email(email: EmailSettings) -> Missing:
    advice = "Correct it, or no mail can be sent."
    yield from _refusal(lambda: MailServer.from_settings(email), advice)
    yield from _refusal(lambda: addresses_of(email.to, "[email]: to"), advice)
    try:
        server = MailServer.from_settings(email)
    except SettingsError:
        return
    if not server.user and server.security != "none":
        yield "PERFKIT_SMTP_USER and PERFKIT_SMTP_PASSWORD are not set", f"Set them where mail is sent by {server}."


def _issues(issues: IssueSettings) -> Missing:
    advice = "Correct it where issues are written."
    yield from _refusal(lambda: Access.from_environment(issues.repository, with_token=False), advice)
    yield from _refusal(lambda: Access.from_environment("any/repository"), advice)


def _chat(chat: ChatSettings) -> Missing:
    advice = "Correct it where messages are sent."
    for number, url in enumerate(chat.urls, 1):
        yield from _refusal(partial(_room, url, number), advice)
    if chat.webhook:
        yield from _refusal(lambda: Webhook(chat.webhook), advice)


def _room(url: str, number: int) -> Chat:
    return Chat(expand(url, f"[chat]: urls: number {number}"), number)


def baseline_remarks(premises: Premises) -> Iterator[Remark]:
    """Baselines that expired, went stale or lost their runs."""
    for path in sorted(Baselines(premises.settings.baselines).folder.glob("*/*.json")):
        try:
            pinned = read_pinned(path)
        except ReadError as error:
            advice = "Restore it from version control, or remove it."
            yield Remark("baseline", str(path), Grade.ERROR, f"cannot be read: {error}", advice)
            continue
        yield from _of_baseline(pinned, premises)


def _of_baseline(pinned: Pinned, premises: Premises) -> Iterator[Remark]:
    name = f"{pinned.scenario}@pinned:{pinned.name}"
    found = baseline_quality(premises.past, pinned)
    if not found.runs:
        advice = "It names no run, so comparisons with it fail: pin others, or restore its runs."
        yield Remark("baseline", name, Grade.ERROR, "; ".join(found.warnings) or "its runs are gone", advice)
        return
    advice = "Pin newer runs: `perfkit baseline pin`, or `accept` where a change was intended."
    for text in found.warnings:
        yield Remark("baseline", name, Grade.WARN, text, advice)
    if not found.warnings:
        yield fine("baseline", name, f"{len(found.runs)} runs")


def acknowledgement_remarks(premises: Premises) -> Iterator[Remark]:
    """Acknowledgements that ran out, or cover nothing that is seen."""
    file = AcknowledgedFile(premises.settings.acknowledged)
    try:
        every = file.read()
    except ReadError as error:
        advice = "Restore it from version control: comparisons against history fail without it."
        yield Remark("acknowledged", str(file.path), Grade.ERROR, f"cannot be read: {error}", advice)
        return
    seen = {name: _seen(name, premises) for name in {one.scenario for one in every} if name in premises.scenarios}
    for one in every:
        yield _of_acknowledgement(one, seen.get(one.scenario), premises.now.date())


@dataclass(frozen=True, slots=True)
class _Seen:
    """The runs of a scenario, and every change in them that is seen in hindsight or was heard."""

    run_ids: tuple[str, ...]
    events: tuple[Event, ...]


def _seen(scenario: str, premises: Premises) -> _Seen:
    timeline = load_timeline(premises.store, scenario)
    policy = premises.policy.for_scenario(scenario)
    history = HistoryAnalysis(timeline, policy.alpha)
    alerts = watch_timeline(history, policy).alerts
    return _Seen(history.run_ids, (*history.events, *(alert.event for alert in alerts)))


def _of_acknowledgement(one: Acknowledgement, seen: _Seen | None, today: date) -> Remark:
    name, remove = f"{one.scenario} {one.id}", f"`perfkit ack --remove {one.id}` takes it away"
    nothing = f"It matches nothing: {remove}."
    if not one.holds_on(today):
        return Remark(
            "acknowledged", name, Grade.WARN, f"ran out on {one.until}", f"It silences nothing now: {remove}."
        )
    if seen is None:
        return Remark("acknowledged", name, Grade.WARN, "its scenario has no runs", nothing)
    if one.place_in(seen.run_ids) is None:
        return Remark("acknowledged", name, Grade.WARN, "its runs are gone", nothing)
    if not match(seen.events, seen.run_ids, [one], today):
        found = "no change that is seen there is covered by it"
        advice = f"What is there was taken back, or has grown beyond what was acknowledged: {remove}."
        return Remark("acknowledged", name, Grade.WARN, found, advice)
    return fine("acknowledged", name, one.describe())


LEAST_RUNS = 3  # fewer do not tell how runs vary
MOST_RUNS = 10  # on each side of a comparison: few teams make more
DOUBLED_PCT = 100.0


def noise_remarks(premises: Premises) -> Iterator[Remark]:
    """Per scenario and metric: tolerances below what comparisons of runs like the stored ones can show."""
    for scenario in premises.scenarios:
        runs, policy = premises.levels[scenario], premises.policy.for_scenario(scenario)
        if len(runs) >= LEAST_RUNS:
            yield from _of_scenario(scenario, runs, policy)
        elif runs:
            found = f"{len(runs)} valid runs do not tell how they vary"
            advice = f"Make {LEAST_RUNS} or more: `perfkit run {scenario} --repeat {LEAST_RUNS}`."
            yield Remark("tolerance", scenario, Grade.WARN, found, advice)


@dataclass(frozen=True, slots=True)
class _Asked:
    """A tolerance, and the smallest worsening that 1, 2, ... runs on each side show, all in the change unit."""

    service: str
    tolerance: float
    shown: Mapping[int, float]

    @property
    def runs(self) -> int | None:
        """Runs on each side from which on a worsening of the tolerance's size is called."""
        return next((count for count, smallest in self.shown.items() if smallest <= self.tolerance), None)


def _of_scenario(scenario: str, runs: Sequence[Run], policy: Policy) -> Iterator[Remark]:
    table: dict[tuple[str, str], dict[int, float]] = defaultdict(dict)
    most = 1 if policy.rule == "threshold" else max(MOST_RUNS, policy.required_runs)
    for service, metric, count, smallest, _ in min_detectable(runs, policy, most):
        table[service, metric][count] = smallest
    for metric in (metric for metric in Metric if policy.rule == "threshold" or metric.value in policy.gating):
        asked = [
            _Asked(service, tolerance, shown)
            for (service, name), shown in table.items()
            if name == metric.value and (tolerance := _tolerance(policy, service, metric, runs)) is not None
        ]
        if asked:
            yield _of_metric(f"{scenario}, {metric.title}", metric.change_unit, asked, most, policy)


def _tolerance(policy: Policy, service: str, metric: Metric, runs: Sequence[Run]) -> float | None:
    limit = policy.limit(service, metric.value)
    values = [value for run in runs if (value := run.services[service].value(metric)) is not None]
    return limit.in_change_unit(fmean(values) if values else None) if limit is not None else None


def _of_metric(subject: str, unit: str, asked: Sequence[_Asked], most: int, policy: Policy) -> Remark:
    short = sorted((one for one in asked if one.runs is None), key=lambda one: -one.shown[most])
    if not short:
        needed = max(one.runs or 0 for one in asked)
        return fine("tolerance", subject, f"a worsening beyond it shows from {needed} runs a side on")
    worst = max(short, key=lambda one: one.shown[most] / max(one.tolerance, 1e-9))
    names = listed([one.service for one in short])
    found = f"{names}: {worst.tolerance:.3g} {unit} accepted, runs show {worst.shown[most]:.3g} {unit} at best"
    advice = (
        "Fixed limits below the noise alarm on identical builds: raise the limit, run longer, or use the rule evidence."
        if policy.rule == "threshold"
        else f"Even {most} runs a side seldom call a worsening of that size: run longer, or accept what can be shown."
    )
    return Remark("tolerance", subject, Grade.WARN, found, advice)


def blind_remarks(policy: Policy) -> Iterator[Remark]:
    """Whether a latency may double without any limit being passed: in all services, in one, or in a scenario."""
    yield _blindness(policy, None, "all services")
    for service in policy.services:
        yield _blindness(policy, service, service)
    for scenario, table in policy.scenarios.items():
        own = policy.for_scenario(scenario)
        yield _blindness(own, None, f"scenario {scenario}")
        for service in (name for name, value in table.items() if isinstance(value, Mapping) and name in own.services):
            yield _blindness(own, service, f"{service} in {scenario}")


def _blindness(policy: Policy, service: str | None, subject: str) -> Remark:
    limits = [policy.limit(service or "", metric.value) for metric in LATENCY_METRICS]
    # An absolute limit in ms may be below a doubling, depending on the level: it counts as sharp
    sharp = [limit for limit in limits if limit is not None and (not limit.relative or limit.amount < DOUBLED_PCT)]
    if sharp or policy.objectives_of(service):
        least = min(sharp, key=lambda limit: limit.amount, default=None)
        return fine("blind", subject, f"from {least.describe()} on" if least is not None else "absolute limits only")
    loose = min((limit.amount for limit in limits if limit is not None), default=None)
    found = "no latency is judged" if loose is None else f"{loose:g} % and more accepted of every latency"
    advice = "A service that takes twice as long passes: lower a tolerance of a latency below 100 %."
    return Remark("blind", subject, Grade.ERROR, found, advice)


PROBE = ".noise/audit"  # a derived file, hidden, in a folder that the store has anyway
MOST_DOCUMENTS = 5_000  # runs, the newest, that are looked at for secrets: a second
WEAK = ("generator_cpu", "event_loop_lag", "load_reached", "late_arrivals", "missed_arrivals", "workers")


def store_remarks(url: str) -> tuple[RunStore | None, list[Remark]]:
    """Whether the store can be read and written; the store is ``None`` when it cannot be read."""
    try:
        store = RunStore(url)
        count, broken = len(store.runs()), sorted(store.broken())
    except (StoreError, ReadError, MissingExtra, OSError) as error:
        advice = "Nothing can be compared without it: correct `store`, or the credentials that it needs."
        return None, [Remark("store", public_address(url), Grade.ERROR, f"cannot be read: {error}", advice)]
    url = store.url
    said = [fine("store", url, f"{count} runs")]
    if broken:
        advice = "`perfkit runs verify` says what is wrong; restore them from a copy, or remove them."
        said = [Remark("store", url, Grade.WARN, f"{len(broken)} broken runs: {listed(broken)}", advice)]
    said += _misdated(store)
    if (why := _why_not_writable(store)) is not None:
        advice = "`perfkit run` could not keep what it measures: correct the permissions, or name another store."
        said.append(Remark("store", url, Grade.ERROR, f"cannot be written: {why}", advice))
    return store, said


def _misdated(store: RunStore) -> Iterator[Remark]:
    """Runs that cannot have been made when they say."""
    now, frame = datetime.now(UTC), store.runs()
    pairs = zip(frame["id"], frame["started_at"], strict=True)
    wrong = {run_id: at for run_id, at in pairs if at == at and misdated(at, now)}
    if wrong:
        noun = "run has" if len(wrong) == 1 else "runs have"
        latest_first = sorted(wrong, key=lambda run_id: wrong[run_id], reverse=True)
        named = listed([f"{name} ({wrong[name]:%Y-%m-%d})" for name in latest_first])
        found = f"{len(wrong)} {noun} a wrong date: {named}"
        advice = (
            "A clock was wrong. They are never taken for the newest; `perfkit runs rm` or `quarantine` removes them."
        )
        yield Remark("store", store.url, Grade.WARN, found, advice)


def _why_not_writable(store: RunStore) -> str | None:
    """By writing what leaves no trace; on a git branch a write would be a commit, and is not tried."""
    if store.url.startswith(GIT):
        return None
    try:
        if store.folder is not None:
            there = next(path for path in (store.folder.absolute(), *store.folder.absolute().parents) if path.exists())
            tempfile.TemporaryFile(dir=there).close()
        else:
            store.backend.write(PROBE, b"")
            store.backend.remove(PROBE)
    except (OSError, StoreError) as error:
        return str(getattr(error, "strerror", None) or error)
    return None


def secret_remarks(premises: Premises) -> Iterator[Remark]:
    """Runs that hold secrets, which an earlier perfkit, or an import, let in."""
    exposed = exposed_documents(premises.store, MOST_DOCUMENTS)
    if not exposed:
        yield fine("secrets", premises.store.url, "no secret in the runs")
        return
    where = ", ".join(dict.fromkeys(part for run in exposed for part in run.where))
    found = f"{len(exposed)} runs hold secrets ({where}): {listed([run.run_id for run in exposed])}"
    advice = (
        "`perfkit runs redact --all` rewrites and reseals them. Change these secrets where they are in use: what was "
        "pushed, sent or copied stays out there."
    )
    yield Remark("secrets", premises.store.url, Grade.ERROR, found, advice)


def scenario_remarks(premises: Premises) -> Iterator[Remark]:
    """Scenarios that have no runs, none that is valid, or a generator that was too weak for its load."""
    stored, known = premises.scenarios, premises.settings.scenarios
    for name in premises.settings.own_scenarios:
        if name in premises.settings.unusable:
            why = str(premises.settings.unusable[name])
            yield Remark(
                "scenario", name, Grade.WARN, f"cannot be run here: {why}", "Set the variable where it is run."
            )
        elif not known[name].locustfile.exists():
            yield _no_locustfile(name, known[name].locustfile)
        if name not in stored:
            found = f"no run in {premises.store.url}"
            yield Remark("scenario", name, Grade.WARN, found, f"Run it, `perfkit run {name}`, or take it out.")
    for name in premises.policy.scenarios:
        if name not in stored and name not in known and name not in premises.settings.own_scenarios:
            near = did_you_mean(name, [*known, *stored])
            advice = f"Its tolerances hold for nothing: correct the name{near}, or take it out."
            yield Remark("scenario", name, Grade.WARN, "the policy names it; nobody else does", advice)
    for name in stored:
        yield from _of_runs(name, premises)


def _no_locustfile(name: str, file: Path) -> Remark:
    return Remark("scenario", name, Grade.ERROR, f"{file}: there is no such locustfile", "Correct its path.")


def _of_runs(name: str, premises: Premises) -> Iterator[Remark]:
    newest, level = premises.newest(name), premises.levels[name]
    if not level:
        why = newest.validity.problems[0].advice if newest.validity.problems else ""
        advice = f"Nothing can be judged against it. The newest, {newest.id}: {why}"
        yield Remark("scenario", name, Grade.WARN, "no valid run", advice)
    else:
        yield fine("scenario", name, f"{len(level)} valid runs on its present level")
    yield from _generator(name, newest)


def _generator(name: str, newest: Run) -> Iterator[Remark]:
    weak = [check for check in newest.validity.problems if check.name in WEAK]
    for check in weak[:1]:
        yield Remark("generator", name, Grade.WARN, f"too weak in the newest run, {newest.id}", check.advice)
    if not weak and newest.validity.checks:
        yield fine("generator", name, "as strong as its load asked for")


def service_remarks(premises: Premises) -> Iterator[Remark]:
    """Services that a policy names and no stored run has."""
    stored = {name: premises.services(name) for name in premises.scenarios}
    if not stored:
        return
    every = tuple(dict.fromkeys(service for services in stored.values() for service in services))
    policy = premises.policy
    yield from _orphans(policy.tolerance, every, "the common tolerances hold for what is meant")
    yield from _orphans(policy.objectives, every, "the absolute limit is never checked")
    for scenario, table in policy.scenarios.items():
        if scenario in stored:
            yield from _orphans(table, stored[scenario], f"the common tolerances hold in {scenario}")


def _orphans(table: Mapping[str, Any], known: Iterable[str], so: str) -> Iterator[Remark]:
    services = [name for name, value in table.items() if isinstance(value, Mapping) and name not in set(Metric)]
    known = (*known, ALL_SERVICES)
    for name in services:
        if name in known:
            yield fine("service", name, "has runs")
        else:
            advice = f"Orphaned, so {so}: correct the name{did_you_mean(name, known)}, or take it out."
            yield Remark("service", name, Grade.WARN, "the policy names it, and no stored run has it", advice)


__all__ = ["CHECKS", "Audit", "Grade", "Remark", "audit_settings"]

CHECKS = (
    "store",
    "scenario",
    "generator",
    "service",
    "tolerance",
    "blind",
    "baseline",
    "acknowledged",
    "secrets",
    "credentials",
)
_OF_STORE: tuple[Callable[[Premises], Iterable[Remark]], ...] = (
    scenario_remarks,
    service_remarks,
    noise_remarks,
    baseline_remarks,
    acknowledgement_remarks,
    secret_remarks,
)


@dataclass(frozen=True, slots=True)
class Audit:
    """Everything that was looked at, fine things too."""

    remarks: tuple[Remark, ...]

    def of(self, grade: Grade) -> tuple[Remark, ...]:
        """The remarks of one grade, in order."""
        return tuple(remark for remark in self.remarks if remark.grade is grade)

    @property
    def problems(self) -> tuple[Remark, ...]:
        """What is to be done, errors first."""
        return (*self.of(Grade.ERROR), *self.of(Grade.WARN))

    def ok(self, *, strict: bool = False) -> bool:
        """Whether there is no error; ``strict``: no warning either."""
        return not (self.problems if strict else self.of(Grade.ERROR))

    def to_dict(self) -> dict[str, Any]:
        """Plain JSON values."""
        return {"ok": self.ok(), "remarks": [remark.to_dict() for remark in self.remarks]}


def audit_settings(settings: Settings, policy: Policy, store: str, *, skip: Collection[str] = ()) -> Audit:
    """Look at settings, policy and store; ``skip`` names `CHECKS` to leave out.

    Raises
    ------
    ReadError
        A run of the store is broken in a way that its index does not know of.
    """
    return Audit(tuple(remark for remark in _remarks(settings, policy, store) if remark.check not in skip))


def _remarks(settings: Settings, policy: Policy, url: str) -> Iterator[Remark]:
    store, said = store_remarks(url)
    yield from said
    yield from blind_remarks(policy)
    if store is not None:
        premises = Premises(settings, policy, store)
        for look in _OF_STORE:
            yield from look(premises)
    yield from credential_remarks(settings)
