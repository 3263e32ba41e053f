"""The documentation: the site builds without a warning, and the tutorial does what it says, typed as it stands."""

from __future__ import annotations

import doctest
import io
import os
import re
import shlex
import shutil
import subprocess
import sys
from pathlib import Path
from typing import NamedTuple

import click
import pytest
from command_line import invoke
from documented_project import SETTINGS, make_project, servers, write_results
from generator_load import STARVED
from samples import REPOSITORY

import perfkit.cli
from perfkit.cli import main

TUTORIAL = REPOSITORY / "docs" / "tutorial.md"
IDENTITY = ("-c", "user.name=Reader", "-c", "user.email=reader@example.org")


class Block(NamedTuple):
    """A block of a page, with the language and the note above it (``<!-- exit 1 -->``)."""

    place: str
    note: str
    language: str
    title: str
    text: str

    @property
    def commands(self) -> list[str]:
        """The lines that a reader types, without their remarks; of a block with prompts only lines that have one."""
        lines = self.text.replace("\\\n", " ").splitlines()
        if any(line.startswith("$ ") for line in lines):
            lines = [line.removeprefix("$ ") for line in lines if line.startswith("$ ")]
        return [command for line in lines if (command := re.sub(r"(^|\s+)#.*", "", line).strip())]

    @property
    def exit_codes(self) -> list[int]:
        """What each command ends with: 0, or what the note says of each, or of all."""
        codes = [int(code) for code in re.findall(r"\d+", self.note)] if self.note.startswith("exit") else [0]
        return codes * len(self.commands) if len(codes) == 1 else codes


def blocks(page: Path) -> list[Block]:
    text = page.read_text("utf-8")
    found = re.finditer(
        r"(?:<!-- ([^>]*) -->\n)?^ *```(\w*)(?: title=\"([^\"\n]*)\")?\n(.*?)^ *```$", text, re.S | re.M
    )
    name = str(page.relative_to(REPOSITORY))
    return [
        Block(f"{name}:{text.count(chr(10), 0, match.start()) + 1}", *(part or "" for part in match.groups()))
        for match in found
    ]


PAGES = [REPOSITORY / "README.md", *sorted((REPOSITORY / "docs").rglob("*.md"))]
RUN_HERE = [page for page in PAGES if any(block.language in ("console", "python") for block in blocks(page))]
RUN_HERE.remove(TUTORIAL)  # is typed from its beginning to its end, with its own files
# Load and notebooks: these commands run with the slow tests
COSTLY = ("perfkit report ", "perfkit run ")
# What is typed here instead, so that no page costs minutes: pattern -> replacement.  `{host}` is the shop's address.
SHORTER = {
    r"(perfkit run .*)--duration \S+": r"\1--duration 2s",
    r"--max-time \S+": "--max-time 4s",
    r"--until-settled(?!.*--max-time)": "--until-settled --max-time 4s",
    r"--stages \S+": "--stages 2s:2,2s:4",
    r"--repeat \d+": "--repeat 1",
    r"--pairs \d+": "--pairs 1",
    r"--workers \d+": "--workers 2",
    r"--users \d+": "--users 4",
    r"--rate \d+/s": "--rate 20/s",
    r"--(spawn-rate) \d+": r"--\1 4",
    r"http://127.0.0.1:800\d": "{host}",
    r"https://hooks.example/perfkit": "{host}/hook",
    r"perfkit init (?=--)": "perfkit init begun ",  # the project has settings
    r"perfkit check(?!.*--settings-only)": "perfkit check --settings-only",  # tests of its own run the rest,
    r"perfkit bisect(?!.*--dry-run)": "perfkit bisect --dry-run",  # and of this
    r"perfkit report --all$": "perfkit report --all --scenario shop --kind compare --newest 3 --jobs 2",
    r"--confirm$": "--confirm --pairs 1",
}


def words(command: str) -> list[str]:
    """A command's words as a shell would hand them on: quotes, variables, patterns of files."""
    parts = []
    for raw in re.findall(r"(?:'[^']*'|\"[^\"]*\"|[^\s'\"])+", command):
        text = "".join(shlex.split(raw if raw.startswith("'") else os.path.expandvars(raw)))
        matches = sorted(str(path) for path in Path().glob(text)) if "*" in text and not {"'", '"'} & set(raw) else []
        parts += matches or [text]
    return parts


class Reader:
    """Types the blocks of pages in one project, and notes what does not work as it is written."""

    def __init__(self, host: str) -> None:
        self.host = host
        self.typed: set[str] = set()
        self.faults: list[str] = []

    def types(self, page: Path, *, costly: str = "") -> None:
        names: dict[str, object] = {}
        for block in blocks(page):
            if block.note.startswith("not run"):
                continue
            if block.language == "toml" and block.title:
                Path(block.title).write_text(block.text, encoding="utf-8")
            elif block.language == "console":
                self.commands(block, costly)
            elif block.language == "python" and not costly:
                self.python(block, names)

    def commands(self, block: Block, costly: str) -> None:
        if len(block.commands) != len(block.exit_codes):
            self.faults.append(f"{block.place}: {len(block.commands)} commands, and exit codes {block.exit_codes}")
            return
        for command, expected in zip(block.commands, block.exit_codes, strict=True):
            if next((start for start in COSTLY if command.startswith(start)), "") != costly:
                continue
            for pattern, replacement in SHORTER.items():
                command = re.sub(pattern, replacement.replace("{host}", self.host), command)
            options = [word for word in command.split() if word.startswith("--")]
            key = " ".join([*command.split()[:3], *options]) if costly == COSTLY[0] else command
            if costly and key in self.typed:  # it is on several pages
                continue
            self.typed.add(key)
            first, *rest = words(command)
            if first == "perfkit":
                code, out, err = invoke(*rest)
            else:
                result = subprocess.run(command, shell=True, capture_output=True, text=True)
                code, out, err = result.returncode, result.stdout, result.stderr
            # A second of load may be too short to be judged, and a single pair of such runs differ on a busy machine:
            # that the command works is what a page promises
            is_load, is_pair = command.startswith("perfkit run "), "--compare-with" in command
            if code != expected and not (is_load and (code == 3 or (is_pair and code == 1))):
                self.faults.append(f"{block.place}: {command}\n  exit {code}, not {expected}: {(err or out)[-600:]}")

    def python(self, block: Block, names: dict[str, object]) -> None:
        if ">>>" in block.text:
            test = doctest.DocTestParser().get_doctest(block.text, names, block.place, block.place, 0)
            runner, said = doctest.DocTestRunner(verbose=False), io.StringIO()
            runner.run(test, out=said.write, clear_globs=False)
            names.update(test.globs)
            if runner.failures:
                self.faults.append(f"{block.place}: {said.getvalue()[-800:]}")
            return
        try:
            exec(compile(block.text, block.place, "exec"), names)
        except Exception as error:
            self.faults.append(f"{block.place}: {type(error).__name__}: {error}")


@pytest.fixture(scope="module")
def project(tmp_path_factory):
    """A project as pages assume it, to be copied."""
    return make_project(tmp_path_factory.mktemp("documented") / "project")


@pytest.fixture
def reader(project, tmp_path, monkeypatch):
    """A reader in a project of their own, with a shop, a mail server and GitHub that answer."""
    folder = shutil.copytree(project, tmp_path / "project", symlinks=True)
    shutil.copytree(project.parent / "origin.git", tmp_path / "origin.git")
    monkeypatch.chdir(folder)
    for name in ("GITHUB_STEP_SUMMARY", "GITHUB_EVENT_PATH", "GITHUB_SERVER_URL", "HTTP_PROXY", "http_proxy"):
        monkeypatch.delenv(name, raising=False)
    monkeypatch.setenv("PATH", f"{Path(sys.executable).parent}{os.pathsep}{os.environ['PATH']}")
    with servers() as (host, smtp, variables):
        for name, value in variables.items():
            monkeypatch.setenv(name, value)
        (folder / "perfkit.toml").write_text(SETTINGS.format(host=host, smtp=smtp, python=sys.executable), "utf-8")
        write_results(folder)
        yield Reader(host)


@pytest.mark.parametrize("page", RUN_HERE, ids=lambda page: str(page.relative_to(REPOSITORY)))
def test_every_block_of_a_page_works_as_it_is_written(page, reader):
    reader.types(page)
    assert reader.faults == [], "\n".join(reader.faults)


@pytest.mark.slow
def test_reports_and_load_of_the_pages_work_as_they_are_written(reader):
    for command in ("perfkit report ", "perfkit run "):  # runs of two seconds are no history to report
        for page in RUN_HERE:
            reader.types(page, costly=command)
    assert reader.faults == [], "\n".join(reader.faults)


def test_what_is_not_run_says_why_and_nothing_hides_from_the_test():
    for page in PAGES:
        fences = re.findall(r"^ *```\w", page.read_text("utf-8"), re.M)
        assert len([block for block in blocks(page) if block.language]) == len(fences), page
        for block in blocks(page):
            if block.note.startswith("not run"):
                assert re.match(r"not run: \S", block.note), block.place
            else:
                assert block.language not in ("sh", "bash", "shell"), f"{block.place}: write ```console"
        assert not re.search(r"^ {4,}\$? ?perfkit \w", page.read_text("utf-8"), re.M), f"{page}: an indented command"


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
    for block in blocks(TUTORIAL):
        if block.title:
            (tmp_path / block.title).write_text(block.text, encoding="utf-8")
    assert {"shop.py", "locustfile.py", "perfkit.toml"} <= {path.name for path in tmp_path.iterdir()}
    environment = os.environ | {"PATH": f"{Path(sys.executable).parent}{os.pathsep}{os.environ['PATH']}"}
    background: list[subprocess.Popen[bytes]] = []
    try:
        for block in blocks(TUTORIAL):
            if block.language != "console" or block.note.startswith("not run"):
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
                expected = block.exit_codes[0]
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
    policy = shown("configuration#policy")[1]
    assert "required_runs" in policy
    assert "Scenarios" not in policy
    assert "Services" not in policy
    assert "![" not in shown("method")[1] + shown("index")[1]


@pytest.mark.parametrize(
    ("topic", "words"),
    [
        ("glosary", "no page 'glosary' (did you mean 'glossary'?)"),
        ("change points", "it is in headings of history, method"),
        ("configuration#polcy", "no section 'polcy' (did you mean 'policy'?)"),
        ("../../etc/passwd", "no page '../../etc/passwd'"),
        ("\x1b[31m", "perfkit docs` lists the pages"),
    ],
)
def test_a_page_that_does_not_exist_is_an_error_with_a_way_out(topic, words):
    code, out, err = shown(topic)
    assert (code, out) == (2, "")
    assert words in err
    assert "\x1b" not in err


@pytest.mark.parametrize(
    ("text", "section"),
    [
        ("reporst = 'x'", "perfkittoml"),
        ("store = [", "perfkittoml"),
        ("[scenario.shop]\nusers = 3", "scenarios"),
        ("[scenario.shop]\nlocustfile = 'a.py'\nduration = 'long'", "scenarios"),
        ("[policy]\nalpha = 2", "policy"),
        ("[policy.tolerance]\np95 = 'much'", "policy"),
        ("[services]\na = 3", "services"),
        ("[email]\nport = 70000", "messages"),
        ("[chat]\nwhen = 'never'", "messages"),
    ],
)
def test_an_error_of_a_setting_names_the_section_that_explains_it(text, section, tmp_path, monkeypatch):
    (tmp_path / "perfkit.toml").write_text(text, encoding="utf-8")
    monkeypatch.chdir(tmp_path)
    code, _, err = invoke("runs")
    assert code == 2
    assert err.endswith(f"\nSee: perfkit docs configuration#{section}\n")
    assert shown(f"configuration#{section}")[0] == 0
