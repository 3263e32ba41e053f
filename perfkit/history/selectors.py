"""Runs named by what they mean: ``api@rolling``, ``api@pinned:v1.4``, ``api@last:5``, ``api@commit:abc123``, ...

::

    SCENARIO@rolling[:BRANCH]       the runs since the last change of the scenario's history
    SCENARIO@pinned:NAME            the runs of a pinned baseline
    SCENARIO@last:N                 the newest N
    SCENARIO@commit:ABC123          those of a commit (its first 4 digits or more)
    SCENARIO@branch:NAME            those of a branch
    SCENARIO@merge-base[:BRANCH]    those of the commit where the current branch left BRANCH, or of the nearest before

Only valid runs are ever chosen.
"""

from __future__ import annotations

import re
from dataclasses import dataclass

from perfkit.errors import did_you_mean

# kind -> whether a word must or may follow it
KINDS = {"rolling": "may", "pinned": "must", "last": "must", "commit": "must", "branch": "must", "merge-base": "may"}
_READING = re.compile(rf"@({'|'.join(KINDS)})(?::(.+))?\Z", re.DOTALL)
_EXAMPLES = {"pinned": "v1.4", "last": "5", "commit": "abc123", "branch": "main"}


@dataclass(frozen=True, slots=True)
class Selector:
    """One reading of a text such as ``api@last:5``."""

    scenario: str
    kind: str
    argument: str = ""

    def __str__(self) -> str:
        return f"{self.scenario}@{self.kind}{f':{self.argument}' if self.argument else ''}"


def readings(text: str) -> tuple[Selector, ...]:
    """Every way to read a text as a selector; empty when it is none.

    >>> [str(one) for one in readings("api@last:5")], readings("data/runs/20261101T*")
    (['api@last:5'], ())
    """
    found = []
    for at in (match.start() for match in re.finditer("@", text)):
        match = _READING.match(text, at)
        if match and text[:at].strip() and (KINDS[match[1]] == "may" or match[2]):
            found.append(Selector(text[:at], match[1], match[2] or ""))
    return tuple(found)


def misspelt(text: str) -> str:
    """What may be wrong with a text that looks like a selector and is none; empty when it does not look like one."""
    scenario, at, rest = text.rpartition("@")
    if not at or not scenario:
        return ""
    kind, _, _ = rest.partition(":")
    if kind in KINDS:
        return f"a word must follow, such as {scenario}@{kind}:{_EXAMPLES[kind]}"
    return f"no selector{did_you_mean(kind, KINDS)}; after the @ there may be {', '.join(KINDS)}"
