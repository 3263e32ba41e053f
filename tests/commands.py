"""Every command of the command line with words that it can work on, in a folder made for it."""

from __future__ import annotations

import io
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from typing import NamedTuple

import click
import numpy as np
from samples import EPOCH, known_answer_files, requests

import perfkit.cli
from perfkit import run_from_requests
from perfkit.cli import main
from perfkit.runs.store import RunStore

SETTINGS = """
[scenario.shop]
locustfile = "locustfile.py"
host = "http://127.0.0.1:1"
users = 1
spawn_rate = 1
duration = "1s"
serve = "true {port}"
"""
FIRST, LATER = "20251017T143004Z-api*", "20251017T14500*-api*"

# Words with which each command works here; None: it takes the place of this process, or loads this machine for a minute
WORDS: dict[str, list[str] | None] = {
    "run": ["shop", "--locustfile", "none.py"],
    "compare": ["api@last:4", "--candidate", "{last}"],
    "changes": ["api"],
    "bisect": ["shop", "--good", "HEAD~1", "--dry-run"],
    "report": [],
    "report baseline": ["nowhere"],
    "report compare": ["nowhere", "--candidate", "nowhere"],
    "report capacity": ["nowhere"],
    "report trend": ["nowhere"],
    "report result": ["nowhere"],
    "issue": ["result.json", "--dry-run", "--repository", "a/b"],
    "comment": ["result.json", "--dry-run", "--repository", "a/b", "--pull-request", "3"],
    "email": ["result.json", "--dry-run", "mail.html", "--to", "a@b.example", "--from", "c@d.example"],
    "notify": ["result.json", "--dry-run", "--url", "json://localhost"],
    "summary": ["result.json"],
    "demo": ["--inject", "api_gateway"],
    "check": ["--settings-only"],
    "lab": None,
    "plan": ["--scenario", "api", "--detect", "5%"],
    "replay": ["--scenario", "api", "--window", "3"],
    "runs": [],
    "runs list": [],
    "runs show": ["{last}"],
    "runs quarantine": ["{last}", "--reason", "x", "--lift"],
    "runs verify": [],
    "runs export": [],
    "runs rm": ["{last}", "--dry-run"],
    "runs gc": ["--dry-run"],
    "runs redact": ["{last}", "--dry-run"],
    "store sync": ["data/runs", "other", "--dry-run"],
    "import": ["metrics.json", "--store", "imported"],
    "metrics": ["metrics.json"],
    "baseline": ["list"],
    "baseline pin": ["anchor", "api@last:3", "--reason", "x"],
    "baseline accept": ["{last}", "--reason", "x"],
    "baseline list": [],
    "baseline show": ["anchor"],
    "baseline extract": ["metrics.json", "--output", "extracted.json"],
    "ack": ["--list"],
    "simulate": ["api", "--seed", "1", "--duration", "2s", "--users", "1", "--runs", "1", "--store", "simulated"],
    "init": ["new"],
    "completion": ["bash"],
    "docs": ["glossary"],
}


class Said(NamedTuple):
    code: int
    out: str
    err: str


def perfkit_in(encoding: str, *words: str) -> Said:
    """A command whose standard output and error have an encoding, and refuse what it lacks."""
    out, err = (io.TextIOWrapper(io.BytesIO(), encoding=encoding, write_through=True) for _ in range(2))
    code = main(words, out, err)
    texts = [stream.detach().getvalue().decode(encoding) for stream in (out, err)]  # type: ignore[attr-defined]
    return Said(code, *texts)


def every_command() -> Iterator[tuple[str, click.Command]]:
    """All commands that do something, hidden ones too, by the words that call them."""

    def walk(command: click.Command, path: tuple[str, ...]) -> Iterator[tuple[str, click.Command]]:
        if not isinstance(command, click.Group) or (path and command.invoke_without_command):
            yield " ".join(path), command
        if isinstance(command, click.Group):
            for name, part in command.commands.items():
                yield from walk(part, (*path, name))

    return walk(perfkit.cli.perfkit, ())


def workplace(folder: Path) -> list[str]:
    """Settings, a store of six runs, results and files to import; the ids of the runs."""
    rng = np.random.default_rng(3)
    store = RunStore(str(folder / "data" / "runs"))
    for number in range(6):
        frame = requests(rng, seconds=6, rate=20, begin=EPOCH + 300 * number, slower=1.0 if number < 5 else 1.6)
        run = run_from_requests(frame, scenario="api", build="×→")
        store.add(replace(run, git={"commit": f"{number:040x}", "branch": "main"}))
    known_answer_files(folder)
    (folder / "perfkit.toml").write_text(SETTINGS, encoding="utf-8")
    (folder / "locustfile.py").write_text("from locust import HttpUser\n", encoding="utf-8")
    return store.ids()
