"""The documentation: the site builds without a warning, and the tutorial does what it says, typed as it stands."""

from __future__ import annotations

import io
import os
import re
import subprocess
import sys
from pathlib import Path
from typing import NamedTuple

import click
import pytest
from generator_load import STARVED
from samples import REPOSITORY

import perfkit.cli
from perfkit.cli import main

TUTORIAL = REPOSITORY / "docs" / "tutorial.md"
IDENTITY = ("-c", "user.name=Reader", "-c", "user.email=reader@example.org")


class Block(NamedTuple):
    """A block of console commands with the note above it (``<!-- exit 1 -->``)."""

    note: str
    commands: tuple[str, ...]


def files(page: Path) -> dict[str, str]:
    """Files that a page tells its reader to write: blocks with a title."""
    return dict(re.findall(r'```\w+ title="([^"]+)"\n(.*?)```', page.read_text("utf-8"), re.S))


def blocks(page: Path) -> list[Block]:
    found = re.findall(r"(?:<!-- ([^>]*) -->\n)?```console\n(.*?)```", page.read_text("utf-8"), re.S)
    return [Block(note, tuple(re.findall(r"^\$ (.*)$", text, re.M))) for note, text in found]


@pytest.mark.slow
def test_the_site_builds_without_a_warning_and_asks_no_other_machine(tmp_path):
    site = tmp_path / "site"
    environment = os.environ | {"NO_MKDOCS_2_WARNING": "1"}
    command = [sys.executable, "-m", "mkdocs", "build", "--strict", "--quiet", "--site-dir", str(site)]
    result = subprocess.run(command, cwd=REPOSITORY, env=environment, capture_output=True, text=True)
    assert (result.returncode, result.stderr) == (0, "")
    pages = {str(path.relative_to(site)) for path in site.rglob("index.html")}
    assert {"tutorial/index.html", "reference/api/index.html", "reference/cli/index.html", "faq/index.html"} <= pages
    for path in site.rglob("*.html"):
        loaded = re.findall(r'<(?:script|link|img)[^>]+(?:src|href)="(https?:[^"]+)"', path.read_text("utf-8"))
        assert [address for address in loaded if "canonical" not in address] == [], path
    reference = (site / "reference" / "api" / "index.html").read_text("utf-8")
    public = [name for name in perfkit.__all__ if name not in ("__version__", "plot")]
    assert [name for name in public if name not in reference] == []
    commands = (site / "reference" / "cli" / "index.html").read_text("utf-8")
    with click.Context(perfkit.cli.perfkit) as context:
        assert [name for name in perfkit.cli.perfkit.list_commands(context) if f"perfkit {name}" not in commands] == []


@pytest.mark.slow
@pytest.mark.timeout(900)
def test_the_tutorial_does_what_it_says(tmp_path):
    for name, text in files(TUTORIAL).items():
        (tmp_path / name).write_text(text, encoding="utf-8")
    assert {"shop.py", "locustfile.py", "perfkit.toml"} <= {path.name for path in tmp_path.iterdir()}
    environment = os.environ | {"PATH": f"{Path(sys.executable).parent}{os.pathsep}{os.environ['PATH']}"}
    background: list[subprocess.Popen[bytes]] = []
    try:
        for block in blocks(TUTORIAL):
            if block.note.startswith("not run"):
                continue
            for command in block.commands:
                if block.note == "in the background":
                    background.append(subprocess.Popen(command.split(), cwd=tmp_path, env=environment))
                    continue
                if command.startswith("git commit -a"):  # after the reader has made the service slower
                    shop = tmp_path / "shop.py"
                    text = shop.read_text(encoding="utf-8")
                    assert "WORK_MS = 20" in text
                    shop.write_text(text.replace("WORK_MS = 20", "WORK_MS = 26"), encoding="utf-8")
                    service = background.pop()
                    service.terminate()
                    service.wait(10)
                command = command.replace("git commit", f"git {' '.join(IDENTITY)} commit")
                for _ in range(3):
                    result = subprocess.run(
                        command, shell=True, cwd=tmp_path, env=environment, capture_output=True, text=True
                    )
                    if result.returncode != 3 or not any(name in result.stderr + result.stdout for name in STARVED):
                        break
                else:
                    pytest.skip(f"other programs took the load generator's machine away, three times: {command}")
                expected = int(block.note.removeprefix("exit ")) if block.note else 0
                assert result.returncode == expected, f"{command}\n{result.stdout}\n{result.stderr}"
    finally:
        for process in background:
            process.terminate()
            process.wait(10)


def shown(*words: str) -> tuple[int, str, str]:
    out, err = io.StringIO(), io.StringIO()
    return main(["docs", *words], out, err), out.getvalue(), err.getvalue()


def test_pages_are_shown_in_the_terminal():
    code, out, err = shown()
    assert (code, err) == (0, "")
    assert "glossary       Glossary" in out
    code, out, err = shown("glossary")
    assert (code, err) == (0, "")
    assert "coordinated omission" in out
    assert shown("pinned baselines")[1] == shown("history")[1] == shown("History.md")[1]
    assert "![" not in shown("method")[1] + shown("index")[1]


@pytest.mark.parametrize(
    ("topic", "words"),
    [
        ("glosary", "no page 'glosary' (did you mean 'glossary'?)"),
        ("change points", "it is in headings of history, method"),
        ("../../etc/passwd", "no page '../../etc/passwd'"),
        ("\x1b[31m", "perfkit docs` lists the pages"),
    ],
)
def test_a_page_that_does_not_exist_is_an_error_with_a_way_out(topic, words):
    code, out, err = shown(topic)
    assert (code, out) == (2, "")
    assert words in err
    assert "\x1b" not in err
