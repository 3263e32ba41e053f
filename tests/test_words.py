"""One concept has one name on every surface: command-line help, templates and docs use no retired word.

Names of commands, options and the public API, and code in backquotes, may be what they are.
"""

import re
from collections.abc import Iterator

import click
import pytest
from samples import REPOSITORY

from perfkit.cli import perfkit

# Retired word -> what to write
RETIRED = {
    r"tolds?|tellings?|untold": "sent, notified, reported",
    r"hear|hears|heard|unheard": "detected, received",
    r"news": "new, reopened, resolved",
    r"strays?|strange": "outlier",
    r"creeps?|creeping": "slow drift",
    r"crews?": "worker pool",
    r"twins?": "duplicate",
    r"episodes?": "incident",
    r"sightings?": "occurrence",
    r"remembered": "recorded",
    r"shrugs?": "inconclusive",
    r"(cry|cries) wolf": "inflates the false-alarm rate",
    r"half a row": "row height",
    r"letters?": "message",
    r"premises": "audit context",
    r"surroundings": "environment",
    r"whole[ -]run": "aggregate",
    r"may (not )?speak": "alerts start after",
    r"troubles?": "error",
    r"known or over": "acknowledged or resolved",
    r"corrected p": "adjusted p",
    r"unharmed": "within tolerance",
    r"movements?": "change",
    r"held against": "compared with",
    r"tells": "shows, reports, decides",
    r"accepts": "tolerance",
}
DOCS = [
    REPOSITORY / "README.md",
    *sorted((REPOSITORY / "docs").rglob("*.md")),
    REPOSITORY / "examples" / "ci" / "README.md",
]
TEMPLATES = sorted(
    path for path in (REPOSITORY / "perfkit" / "report" / "templates").rglob("*") if path.suffix == ".j2"
)


def commands(command: click.Command, name: str) -> Iterator[tuple[str, str]]:
    """Every command with the texts of its help."""
    texts = [command.help, command.short_help, command.epilog]
    texts += [getattr(parameter, "help", None) for parameter in command.params]
    yield name, "\n".join(text for text in texts if text)
    for inner, each in getattr(command, "commands", {}).items():
        yield from commands(each, f"{name} {inner}")


def visible(path) -> str:
    """The text of a page or template without code, markup and what is filled in."""
    text = path.read_text(encoding="utf-8")
    if path.suffix == ".md":
        return re.sub(r"`[^`]*`", "", text.replace("```", ""))
    text = re.sub(r"\{#.*?#\}|\{%.*?%\}|\{\{.*?\}\}|<style.*?</style>|<script.*?</script>", " ", text, flags=re.S)
    return re.sub(r"<[^>]*>", " ", text)


def retired(text: str) -> list[str]:
    """Each retired word in a text, with what to write instead."""
    return [
        f"{found[0]!r} in {' '.join(text[max(found.start() - 40, 0) : found.end() + 20].split())!r}: {better}"
        for pattern, better in RETIRED.items()
        for found in re.finditer(rf"\b(?:{pattern})\b", text, re.IGNORECASE)
    ]


@pytest.mark.parametrize(("name", "text"), [*commands(perfkit, "perfkit")], ids=lambda value: value[:40])
def test_the_help_of_a_command_uses_no_retired_word(name, text):
    assert not retired(text)


@pytest.mark.parametrize("path", [*DOCS, *TEMPLATES], ids=lambda path: path.name)
def test_a_page_uses_no_retired_word(path):
    assert not retired(visible(path))


def test_a_retired_word_is_found():
    assert retired("It is heard again.") == ["'heard' in 'It is heard again.': detected, received"]
    assert not retired("It is whole, and a letterbox is none.")
