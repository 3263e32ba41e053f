"""The gate as a pipeline calls it: `perfkit compare` in a process of its own, and the code with which that ends."""

from __future__ import annotations

import json
import os
import subprocess
import sys
import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

TIMEOUT_S = 60.0  # of one comparison of a few stored runs, which takes one or two


@dataclass(frozen=True, slots=True)
class Answer:
    """What the gate said.

    Parameters
    ----------
    code
        Its exit code; ``None`` when it had to be ended after `TIMEOUT_S`.
    document
        The comparison that it printed; empty where it printed none.
    said
        What it wrote to standard error.
    """

    code: int | None
    document: Mapping[str, Any]
    said: str
    seconds: float

    @property
    def verdict(self) -> str:
        """The verdict of the comparison; empty where there is none."""
        return str(self.document.get("verdict", ""))

    @property
    def findings(self) -> list[dict[str, Any]]:
        """The findings of the comparison, as its document has them."""
        return list(self.document.get("findings", ()))


@dataclass(frozen=True, slots=True)
class Gate:
    """A command that compares; ``options`` are the words that the pipeline adds: policy, rule, settings, fail-on."""

    options: tuple[str, ...] = ()

    def compare(self, baseline: Sequence[Path], candidate: Sequence[Path], more: Sequence[str] = ()) -> Answer:
        """Ask it; ``more`` are further words, which come last and so count."""
        sides = [*map(_word, baseline), "--candidate", *map(_word, candidate)]
        command = [sys.executable, "-P", "-m", "perfkit", "compare", *sides, "--format", "json", *self.options, *more]
        begun = time.monotonic()
        try:
            done = subprocess.run(
                command,
                capture_output=True,
                encoding="utf-8",
                errors="replace",
                timeout=TIMEOUT_S,
                check=False,
                stdin=subprocess.DEVNULL,
                env={**os.environ, "PYTHONPATH": os.pathsep.join(sys.path)},  # it imports what we import
            )
        except subprocess.TimeoutExpired:
            return Answer(None, {}, f"it did not end within {TIMEOUT_S:g} s", time.monotonic() - begun)
        return Answer(done.returncode, _document(done.stdout), done.stderr.strip(), time.monotonic() - begun)


def _word(path: Path) -> str:
    return str(path.absolute())


def _document(text: str) -> Mapping[str, Any]:
    try:
        found = json.loads(text)
    except ValueError:
        return {}
    return found if isinstance(found, Mapping) else {}
