"""The command lines that make a report again."""

from __future__ import annotations

import shlex
from collections import Counter
from collections.abc import Iterator, Sequence
from pathlib import PurePath

from perfkit.history.events import Event
from perfkit.model import Comparison, Run
from perfkit.profile_words import load_options
from perfkit.render.page import Html, render
from perfkit.render.theme import clean
from perfkit.results import Result

LONGEST = 2_000  # characters of a command line in a message: more are many runs, which the result names


def reproduce(comparison: Comparison, policy: str | None = None, rule: str | None = None) -> Html:
    """The command lines that judge these runs again, and those that measure again."""
    sides = comparison.baseline.runs, comparison.candidate.runs
    store = _common_store([*sides[0], *sides[1]])
    before, after = ([clean(run.id if store else run.source or run.id) for run in side] for side in sides)
    options = [
        *(("--store", clean(store)) if store else ()),
        *(("--policy", clean(policy)) if policy else ()),
        *(("--rule", clean(rule)) if rule else ()),
    ]
    judge = shlex.join(["perfkit", "compare", *before, "--candidate", *after, *options])
    report = shlex.join(["perfkit", "report", "compare", *before, "--candidate", *after, *options])
    measure = list(dict.fromkeys(line for side in sides for line in _measure(side)))
    return Html(render("reproduce.html.j2", judge=judge, report=report, measure=measure), text=judge)


def _common_store(runs: Sequence[Run]) -> str | None:
    """The folder in which all these runs lie under their own ids, so that ids suffice to name them."""
    if any(run.source is None or PurePath(run.source).name != run.id for run in runs):
        return None
    stores = {str(run.source)[: -len(run.id) - 1] for run in runs}
    return stores.pop() if len(stores) == 1 else None


def _measure(runs: Sequence[Run]) -> Iterator[str]:
    """One line per set-up that perfkit itself measured; how other tools were called is not known."""
    measured = [run for run in runs if run.locustfile_hash is not None]
    by_setup = Counter((run.git.get("commit", ""), tuple(_run_words(run))) for run in measured)
    for (commit, words), count in by_setup.items():
        command = [*words, "--repeat", str(count)] if words[1] == "run" else list(words)
        checkout = f"{shlex.join(['git', 'checkout', clean(commit)])} && " if commit else ""
        yield checkout + shlex.join(clean(word) for word in command)


def _run_words(run: Run) -> Iterator[str]:
    if run.scenario == "demo":  # brings its own services, and both sides
        yield from ("perfkit", "demo")
        return
    options = {"--host": run.target, **load_options(run.profile)}
    yield from ("perfkit", "run", run.scenario)
    yield from (word for option, value in options.items() if value is not None for word in (option, value))
    yield from (word for name, value in run.labels.items() for word in ("--label", f"{name}={value}"))


def judge_lines(result: Result) -> tuple[tuple[str, str], ...]:
    """The command lines that come to this result again, each with what it does."""
    comparison = result.comparison
    if comparison is None:
        words = [clean(result.scenario), *_store_of(result)]
        return (
            ("Write the report again", shlex.join(["perfkit", "report", "trend", *words])),
            ("List the changes", shlex.join(["perfkit", "changes", *words])),
        )
    rule = comparison.rule if comparison.rule != "evidence" else None
    line = _against_history(comparison) if result.watched else reproduce(comparison, rule=rule).text
    if not comparison.candidate.runs or len(line) > LONGEST:
        return ()
    return (("Judge the same runs again", line),)


def _store_of(result: Result) -> tuple[str, ...]:
    store = clean(result.document.get("store") or "")
    return ("--store", store) if store else ()


def _against_history(comparison: Comparison) -> str:
    """Judged without a baseline, a candidate is held against the history of its scenario."""
    runs = comparison.candidate.runs
    store = _common_store(runs)
    names = [clean(run.id if store else run.source or run.id) for run in runs]
    return shlex.join(["perfkit", "compare", "--candidate", *names, *(("--store", clean(store)) if store else ())])


def acknowledge_line(event_id: str) -> str:
    """The command that silences an event."""
    return f'{shlex.join(["perfkit", "ack", clean(event_id)])} --reason "..."'


def bisect_line(scenario: str, event: Event) -> tuple[str, ...]:
    """The command that finds the commit of an event; none where its ends are not two commits."""
    good, bad = clean(event.last_before.commit), clean(event.first_after.commit)
    if not good or not bad or good == bad:
        return ()
    return (shlex.join(["perfkit", "bisect", clean(scenario), "--good", good[:12], "--bad", bad[:12]]),)
