"""Can runs be kept, and are there runs of what the settings name?"""

from __future__ import annotations

import tempfile
from collections.abc import Iterable, Iterator, Mapping
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

from perfkit.audit.premises import Premises
from perfkit.audit.remark import Grade, Remark, fine, listed
from perfkit.errors import MissingExtra, ReadError, StoreError, did_you_mean
from perfkit.judge.whole_run import NAME
from perfkit.model import Metric, Run
from perfkit.store import RunStore
from perfkit.store.place import GIT, public_address
from perfkit.store.redacted import exposed_documents
from perfkit.validity.clock import misdated

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
            store.place.write(PROBE, b"")
            store.place.remove(PROBE)
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
    for name in premises.settings.own:
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
        if name not in stored and name not in known and name not in premises.settings.own:
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
    known = (*known, NAME)
    for name in services:
        if name in known:
            yield fine("service", name, "has runs")
        else:
            advice = f"Orphaned, so {so}: correct the name{did_you_mean(name, known)}, or take it out."
            yield Remark("service", name, Grade.WARN, "the policy names it, and no stored run has it", advice)
