"""The comment of a pull request: one, changed in place, whatever the server does meanwhile."""

import html
import json
import re
from dataclasses import replace
from datetime import UTC, datetime, timedelta

import cmarkgfm
import pytest
from command_line import invoke
from github_results import plain_result, unsent
from github_server import REPOSITORY, TOKEN
from samples import plain_stats, run, side
from watched_results import HOSTILE, alert, trend

from perfkit import Policy, SettingsError, compare
from perfkit.history.commits import Attribution
from perfkit.model.errors import DeliveryError
from perfkit.model.records import ErrorKind
from perfkit.notify.github_api import Access, Patience
from perfkit.notify.github_plan import Comment
from perfkit.notify.github_sync import post_comment, pull_request_of
from perfkit.report.findings import findings_table
from perfkit.report.github import MOST_CHARACTERS, to_body, to_comment
from perfkit.report.mail import mail_of
from perfkit.report.message import ReportLocation, chat_text, message_of
from perfkit.runs.git import Commit


@pytest.fixture
def post(server, tmp_path):
    """Post a comment on the pull request #1."""
    server.add_issue("A pull request", pull_request={})

    def posting(text, number=1, name="api"):
        lines = []
        patience = Patience(timeout_s=1, first_wait_s=0.0, pause_s=0.0, sleep=lambda _: None)
        comment = Comment(number, name, text)
        post_comment(comment, Access.from_environment(), posting.outbox, patience=patience, report=lines.append)
        return lines

    posting.outbox = tmp_path / "delivery"
    return posting


def test_there_is_one_comment_that_is_changed_in_place(server, post):
    assert post("bad") == ["commented on pull request #1"]
    assert post("bad") == ["is up to date: pull request #1"]
    assert post("good") == ["updated the comment of pull request #1"]
    assert [text.partition("\n")[2] for text in server.said(1)] == ["good"]
    assert len(server.writes) == 2
    post("other", name="rag")
    assert len(server.said(1)) == 2


@pytest.mark.parametrize("acts", [False, True])
@pytest.mark.parametrize("how", ["status", "reset", "half", "broken", "silent"])
def test_a_failure_leaves_one_comment(server, post, how, acts):
    for number in range(3):
        server.failing(how=how, method="*", acts=acts, after=number)
        post(f"text {number}")
        server.faults.clear()
    assert [text.partition("\n")[2] for text in server.said(1)] == ["text 2"]


@pytest.mark.parametrize("acts", [False, True])
def test_what_could_not_be_sent_is_sent_with_the_next_call(server, post, acts):
    server.failing(method="*", acts=acts, times=100)
    with pytest.raises(DeliveryError, match=r"octo/shop: GitHub has a server error \(502.*is kept in"):
        post("lost?")
    server.faults.clear()
    (file,) = unsent(post)
    assert TOKEN not in file.read_text()
    strange = file.with_name("0.json")
    strange.write_text(json.dumps({**json.loads(file.read_text()), "content": {}}))
    with pytest.raises(DeliveryError, match=r"0\.json: content: number: is missing.*it is no comment that waits"):
        post("lost?")
    strange.unlink()
    server.comments.clear()
    server.failing(method="*", acts=acts, times=100)
    with pytest.raises(DeliveryError):
        post("lost?")
    server.faults.clear()
    server.add_issue("Another pull request", pull_request={})
    assert len(post("other", number=2)) == 2
    assert [text.partition("\n")[2] for text in (*server.said(1), *server.said(2))] == ["lost?", "other"]
    assert unsent(post) == []


def test_comments_beyond_the_first_page_are_found(server, post):
    post("old")
    mine = server.comments[1].pop()
    for number in range(230):
        server.comments[1].append({**mine, "id": 1000 + number, "body": f"talk {number}"})
    server.comments[1].append({**mine, "id": 5000})
    assert post("new") == ["updated the comment of pull request #1"]
    assert len(server.said(1)) == 231


def test_a_comment_that_a_stranger_marked_is_left_alone(server, post):
    post("mine")
    server.comments[1][0] |= {"user": server._user("mallory"), "author_association": "NONE"}
    assert post("mine") == ["commented on pull request #1"]
    assert len(server.said(1)) == 2


def test_two_calls_at_once_keep_one_current(server, post):
    post("one")
    server.comments[1].append({**server.comments[1][0], "id": 77})
    post("two")
    assert [text.partition("\n")[2] for text in server.said(1)] == [
        "two",
        "The other comment of perfkit here is kept current.",
    ]
    before = len(server.writes)
    post("two")
    assert len(server.writes) == before


@pytest.mark.parametrize(
    ("event", "ref", "number"),
    [
        ({"pull_request": {"number": 412}, "number": 412}, "refs/pull/412/merge", 412),
        ({"issue": {"number": 9, "pull_request": {"url": "x"}}}, "refs/heads/main", 9),
        ({"issue": {"number": 9}}, "refs/heads/main", None),
        (None, "refs/pull/7/merge", 7),
        (None, "refs/heads/pull/7/", None),
    ],
)
def test_the_pull_request_is_that_of_the_job(tmp_path, event, ref, number):
    file = tmp_path / "event.json"
    file.write_text(json.dumps(event))
    known = {"GITHUB_REF": ref, **({"GITHUB_EVENT_PATH": str(file)} if event is not None else {})}
    if number is None:
        with pytest.raises(SettingsError, match=r"no job of a pull request.*add --pull-request NUMBER"):
            pull_request_of(known)
    else:
        assert pull_request_of(known) == number


def test_an_event_that_cannot_be_read_is_named(tmp_path):
    for content, told in (
        (None, "cannot be read: No such file"),
        ("{", "not JSON"),
        ("[]", "expected object, got array"),
        ('{"pull_request": {"number": "7"}}', "pull_request.number: expected int, got str"),
        ('{"pull_request": {"number": true}}', "pull_request.number: expected int, got bool"),
        ('{"issue": {"number": -1, "pull_request": {}}}', "issue.number: expected int >= 1"),
    ):
        if content is not None:
            (tmp_path / "event.json").write_text(content)
        with pytest.raises(SettingsError, match=rf"GITHUB_EVENT_PATH: .*event\.json: {told}"):
            pull_request_of({"GITHUB_EVENT_PATH": str(tmp_path / "event.json")})


def test_the_command_comments_and_changes_in_place(server, tmp_path, monkeypatch, rng):
    server.add_issue("A pull request", pull_request={})
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("GITHUB_REF", "refs/pull/1/merge")
    monkeypatch.delenv("GITHUB_EVENT_PATH", raising=False)
    base = side(rng, 5)
    for number, (slower, verdict) in enumerate(((1.3, "regression"), (1.0, "no regression"))):
        comparison = compare(base, side(rng, 5, first=5 + 5 * number, slower=slower))
        (tmp_path / "result.json").write_text(json.dumps(comparison.to_dict()))
        code, out, err = invoke("comment", ".", "--link", "https://ci.example/{report}")
        assert (code, err) == (0, "")
        (text,) = server.said(1)
        assert f": {'✗' if number == 0 else '✓'} {verdict}" in text
        assert f"(https://ci.example/{tmp_path.name})" in text
    assert out == "updated the comment of pull request #1\n"


def test_a_dry_run_needs_no_token_and_sends_nothing(server, tmp_path, monkeypatch):
    monkeypatch.delenv("GITHUB_TOKEN")
    (tmp_path / "result.json").write_text(json.dumps(trend(alert(40)).document))
    code, out, _ = invoke("comment", tmp_path, "--dry-run", "--pull-request", "3")
    (call,) = json.loads(out)
    assert (code, call["method"], call["path"]) == (0, "POST", f"/repos/{REPOSITORY}/issues/3/comments")
    assert "p95 latency of checkout +20" in call["json"]["body"]
    assert server.requests == []
    code, _, err = invoke("comment", tmp_path, "--pull-request", "3")
    assert (code, "GITHUB_TOKEN: is not set" in err) == (2, True)


def visible(text):
    """The lines that a reader sees before anything is unfolded."""
    page = cmarkgfm.github_flavored_markdown_to_html(text, options=cmarkgfm.Options.CMARK_OPT_UNSAFE)
    while "<details>" in page:  # the innermost first
        page = re.sub(
            r"<details><summary>(.*?)</summary>(?:(?!<details>).)*?</details>", r"<p>\1</p>", page, flags=re.DOTALL
        )
    return [
        re.sub(r"<[^>]+>", " ", line)
        for line in re.findall(r"(?:<tr|<p|<li|<h3|<br)(?:(?!<tr|<p|<li|<h3|<br).)*", page, flags=re.DOTALL)
    ]


@pytest.mark.parametrize("services", [3, 50])
def test_a_comment_says_what_matters_in_some_twenty_lines(rng, services):
    names = tuple(f"GET /resource/{number}" for number in range(services))
    git = ({"commit": "a" * 40, "branch": "main"}, {"commit": "b" * 40, "branch": "x`|@everyone"})
    before, after = (
        [replace(one, git=of) for one in side(rng, 4, first=first, names=names, slower=slower)]
        for of, first, slower in ((git[0], 0, 1.0), (git[1], 9, dict.fromkeys(names, 1.3) | {names[0]: 0.7}))
    )
    result = plain_result(compare(before, after))
    (incident,) = result.open_incidents
    commits = {
        incident.last.event.id: Attribution("a", "b", (Commit("c" * 40, "Ann", "2026-11-24", "cache off"),), 1, ())
    }
    text = to_comment([message_of(result, commits=commits)], ReportLocation("The report", "https://ci.example/r"))
    lines = visible(text)
    assert len(lines) <= 25
    seen = "\n".join(lines)
    assert "regression" in lines[0]
    assert f"commit {'a' * 9} (main)" in seen
    assert f"{'c' * 9} cache off (Ann)" in seen
    assert 'href="https://ci.example/r"' in cmarkgfm.github_flavored_markdown_to_html(text)
    row = next(row for row in findings_table(result.comparison, ranked=True).rows if row.verdict == "regression")
    shown = next(line for line in lines if f"✗ {row.cells['service']}" in line and row.cells["metric_short"] in line)
    for name in ("before", "after", "change", "interval"):
        assert row.cells[name].replace(" ", "\N{NO-BREAK SPACE}") in html.unescape(shown).replace(
            " ", "\N{NO-BREAK SPACE}"
        )
    assert f"★ {names[0]}" in seen or services == 50  # nine rows go to what got worse
    assert "Next:" in seen


def test_comment_issue_and_mail_name_errors_and_objectives_of_both_sides(rng):
    at = datetime(2026, 11, 25, 2, 3, 4, tzinfo=UTC)
    counts = {"baseline_requests": 5000, "candidate_requests": 5000, "first": at, "last": at + timedelta(minutes=6)}
    kinds = (
        ErrorKind(service=HOSTILE, kind="HTTPError", status=503, baseline=0, candidate=123, change="new", **counts),
        ErrorKind(service="b", kind="<b>|@everyone", status=None, baseline=9, candidate=9, change="", **counts),
    )
    policy = Policy(objectives={"p95_latency_ms": {"max": 38.0}})
    comparison = compare(side(rng, 3, names=("b",)), side(rng, 3, first=9, names=("b",), slower=2.0), policy=policy)
    message = message_of(plain_result(replace(comparison, errors=kinds)))
    comment, mail = to_comment([message]), mail_of([message])
    issue = to_body(message, message.result.incidents[0])
    issue_page = cmarkgfm.github_flavored_markdown_to_html(issue, options=cmarkgfm.Options.CMARK_OPT_UNSAFE)
    page = cmarkgfm.github_flavored_markdown_to_html(comment, options=cmarkgfm.Options.CMARK_OPT_UNSAFE)
    for name, text in {"comment": page, "issue": issue_page, "mail": mail.html, "text": mail.text}.items():
        words = " ".join(html.unescape(re.sub(r"<[^>]+>", " ", text)).split())
        for part in (
            "HTTPError",
            "503",
            "123 (2.46 %)",
            "2026-11-25 02:03:04",
            "02:09:04",
            "New: HTTPError 503",
            "about as often",
        ):
            assert part in words, (name, part)
        assert re.search(r"Objectives:? ✗ 1 exceeded\.", words), name
        assert re.search(r"✗ exceeded", words), name
    assert not re.search(r"<(script|b)\b|@everyone|href", page)
    assert not re.search(r"<(script|b|img)\b|@everyone|href", issue_page)
    chat = chat_text(message)[1]
    (line,) = [line for line in chat.splitlines() if "503" in line]
    assert (line[:14], line[-9:], "@" in line) == ("• new: 503 on ", ", 0 → 123", False)
    assert not re.search(r"<(script|b)\b|href", mail.html)
    assert message_of(plain_result(replace(comparison, errors=()))).details[-1].sentence == "No request failed."


def test_a_comment_links_the_job_where_no_report_has_an_address(server, tmp_path, monkeypatch):
    (tmp_path / "result.json").write_text(json.dumps(trend(alert(40)).document))
    jobs = [
        (
            {"GITHUB_SERVER_URL": "https://github.com", "GITHUB_RUN_ID": "77"},
            f"https://github.com/{REPOSITORY}/actions/runs/77",
        ),
        ({"CI_JOB_URL": "https://gitlab.example/o/r/-/jobs/5"}, "https://gitlab.example/o/r/-/jobs/5"),
        (
            {"BUILD_URL": "https://jenkins.example/job/a b/) [x](javascript:1)"},
            "https://jenkins.example/job/a%20b/%29%20[x]%28javascript:1%29",
        ),
        ({"BUILD_URL": "javascript:alert(1)"}, ""),
        ({}, ""),
    ]
    for variables, address in jobs:
        with monkeypatch.context() as patch:
            for name in ("GITHUB_RUN_ID", "CI_JOB_URL", "BUILD_URL"):
                patch.delenv(name, raising=False)
            for name, value in variables.items():
                patch.setenv(name, value)
            code, out, _ = invoke("comment", tmp_path, "--dry-run", "--pull-request", "3")
        (call,) = json.loads(out)
        links = re.findall(r"\]\((.*?)\)", call["json"]["body"])
        assert (code, links) == (0, [address] if address else [])


def test_a_comment_fits_whatever_the_result(rng):
    names = [f"{HOSTILE}{number}{'x' * 300}" for number in range(100)]
    sides = [
        [run({name: plain_stats(20.0 * factor * (1 + number / 500)) for name in names}, number=number) for number in of]
        for factor, of in ((1.0, range(3)), (2.0, range(3, 6)))
    ]
    big = message_of(plain_result(compare(*sides)))
    text = to_comment([big])
    assert 1_000 < len(text) <= MOST_CHARACTERS
    assert re.search(
        r"<summary>Every finding \(the first \d+ of \d{3}; \d{3} changed, in \d{3} services\)</summary>", text
    )
    many = [replace(big, scenario=f"s{number}{HOSTILE}") for number in range(200)]
    text = to_comment(many, ReportLocation("The report", "https://ci.example/x"))
    assert 1_000 < len(text) <= MOST_CHARACTERS
    shown = re.sub(r"<pre.*?</pre>", "", cmarkgfm.github_flavored_markdown_to_html(text), flags=re.DOTALL)
    assert not re.search(r"<(script|img)\b|@everyone|#1\b|href=\"(?!https://ci\.example/x\")", shown)
