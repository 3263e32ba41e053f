"""The command lines that make a report again."""

from __future__ import annotations

import shlex
from collections.abc import Iterator, Sequence
from pathlib import PurePath

from perfkit.model import Comparison, Run
from perfkit.render.page import Html, render
from perfkit.render.theme import clean


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
    by_setup: dict[tuple[str, str, tuple[str, ...]], int] = {}
    for run in runs:
        labels = tuple(f"{name}={value}" for name, value in run.labels.items())
        key = (run.git.get("commit", ""), run.scenario, labels)
        by_setup[key] = by_setup.get(key, 0) + 1
    for (commit, scenario, labels), count in by_setup.items():
        command = ["perfkit", "run", scenario, "--repeat", str(count)]
        command += [word for label in labels for word in ("--label", label)]
        if scenario == "demo":  # brings its own services, and both sides
            command = ["perfkit", "demo"]
        checkout = f"{shlex.join(['git', 'checkout', clean(commit)])} && " if commit else ""
        yield checkout + shlex.join(clean(word) for word in command)
