"""A GitHub that is down, slow, resetting, limiting, half-answering: nothing is there twice, nothing is lost."""

import json
import os
import signal
import socket
import subprocess
import sys
import time
from collections import Counter
from pathlib import Path

import pytest
from command_line import invoke
from github_results import unsent
from github_server import REPOSITORY, TOKEN
from watched_results import alert, trend

from perfkit.model.errors import DeliveryError

NIGHTS = (
    trend(alert(40)),
    trend(alert(40, services=("checkout", "cart"))),
    trend(alert(40, services=("checkout", "cart"), size=30.0)),
    trend(alert(40, services=("checkout", "cart"), size=30.0, holds=False)),
    trend(alert(40, services=("checkout", "cart"), size=30.0, holds=False), alert(80, services=("checkout",))),
    trend(alert(40, services=("checkout", "cart"), size=30.0, holds=False), alert(80, known="intended")),
)
MOST_REQUESTS = 6  # of one night
KINDS = [
    f"{how}, {'after it acted' if acts else 'before'}"
    for how in ("status", "reset", "half", "broken")
    for acts in (0, 1)
]


def state(server):
    """What people see: issues with their comments, without the hidden words."""
    return [
        (one["title"], one["state"], one["state_reason"], [text.partition("<!--")[0] for text in server.said(number)])
        for number, one in sorted(server.issues.items())
    ]


def calm(server, follow):
    """The state after the nights when nothing goes wrong."""
    follow(*NIGHTS)
    found = state(server)
    server.issues.clear(), server.comments.clear(), server.requests.clear()
    assert [one[1:3] for one in found] == [("closed", "not_planned")]
    assert len(found[0][3]) == 4
    return found


@pytest.mark.parametrize("kind", KINDS)
def test_one_failure_at_any_request_changes_nothing_in_the_end(server, follow, kind):
    """At each request of each night in turn; the call itself tries again."""
    expected = calm(server, follow)
    how, acts = kind.split(", ")
    for number in range(MOST_REQUESTS):
        for night in NIGHTS:
            server.failing(how=how, method="*", acts=acts != "before", after=number)
            follow(night)
            server.faults.clear()
        assert state(server) == expected
        assert unsent(follow) == []
        server.issues.clear(), server.comments.clear()


def raised(follow, night):
    """The text of the error that following a result ends with, if any."""
    try:
        follow(night)
    except DeliveryError as error:
        return str(error)
    return ""


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("method", ["POST", "PATCH", "GET"])
def test_a_call_that_gives_up_is_made_good_by_the_next(server, follow, kind, method):
    """The first request of that kind of each night fails until the call gives up; the next call sends what is kept."""
    expected = calm(server, follow)
    how, acts = kind.split(", ")
    failures = 0
    for night in NIGHTS:
        server.failing(how=how, method=method, acts=acts != "before", times=follow.patience.tries)
        error = raised(follow, night)
        if error:
            failures += 1
            assert "is kept in" in error
            assert TOKEN not in error
            assert len(unsent(follow)) == 1
        server.faults.clear()
        follow(night)
        assert unsent(follow) == []
    assert state(server) == expected
    assert failures >= (1 if acts == "before" or method == "GET" else 0)


def test_what_waits_is_sent_before_the_next_result_of_another_scenario(server, follow):
    server.failing(method="*", times=1000)
    with pytest.raises(DeliveryError, match="GitHub has a server error"):
        follow(NIGHTS[0])
    server.faults.clear()
    follow(trend(scenario="other"))
    assert [one["title"] for one in server.issues.values()] == ["checkout: p95 latency +20.0 % (api)"]
    assert unsent(follow) == []


def test_the_newer_result_of_a_history_replaces_what_waits(server, follow):
    server.failing(method="*", times=1000)
    for night in NIGHTS[:4]:
        with pytest.raises(DeliveryError):
            follow(night)
    assert len(unsent(follow)) == 1
    server.faults.clear()
    follow(NIGHTS[3])
    assert server.issues == {}  # it came and went while nobody could hear of it


@pytest.mark.parametrize(
    ("status", "headers", "message", "waits"),
    [
        (403, {"Retry-After": "7"}, "You have exceeded a secondary rate limit", 7.0),
        (429, {"Retry-After": "3"}, "Too many requests", 3.0),
        (403, {}, "You have exceeded a secondary rate limit. Please wait a few minutes before you try again.", 60.0),
        (403, {"X-RateLimit-Remaining": "0"}, "API rate limit exceeded for installation", 60.0),
    ],
)
def test_a_rate_limit_is_waited_for(server, follow, status, headers, message, waits):
    for method in ("GET", "POST"):
        server.failing(status=status, headers=headers, message=message, method=method)
    assert len(follow(NIGHTS[0])) == 1
    assert follow.waits == [waits, waits]
    assert len(server.issues) == 1
    assert sum(method == "POST" for method, _, _ in server.requests) == 2


def test_a_limit_that_lasts_long_is_left_for_the_next_call(server, follow):
    reset = str(int(time.time()) + 3000)
    server.failing(
        status=403, headers={"X-RateLimit-Remaining": "0", "X-RateLimit-Reset": reset}, message="API rate limit"
    )
    with pytest.raises(
        DeliveryError, match=r"limits the rate of requests \(403: API rate limit\): it asks to wait (29|30)"
    ):
        follow(NIGHTS[0])
    assert follow.waits == []
    follow(NIGHTS[0])
    assert len(server.issues) == 1


def test_a_server_that_is_slow_is_looked_at_again(server, follow):
    server.failing(how="silent", acts=True)
    assert follow(NIGHTS[0]) == ["is there already: #1 checkout: p95 latency +20.0 % (api)"]
    assert follow(NIGHTS[0]) == []
    assert len(server.issues) == 1


def test_a_server_that_is_down_is_named(follow, monkeypatch):
    with socket.socket() as taken:
        taken.bind(("127.0.0.1", 0))
        url = f"http://127.0.0.1:{taken.getsockname()[1]}"
        monkeypatch.setenv("GITHUB_API_URL", url)
        with pytest.raises(DeliveryError, match=f"{url} cannot be reached .*refused.* is kept in"):
            follow(NIGHTS[0])
    assert follow.waits == [0.5, 1.0, 2.0]
    assert len(unsent(follow)) == 1


@pytest.mark.parametrize(
    ("change", "says"),
    [
        ({"enabled": False}, "has its issues turned off (410"),
        ({"may_write": False}, "the token may not do this in octo/shop (403: Resource not accessible by integration)"),
    ],
)
def test_a_refusal_is_explained_and_nothing_is_lost(server, follow, change, says):
    for name, value in change.items():
        setattr(server, name, value)
    with pytest.raises(DeliveryError) as caught:
        follow(NIGHTS[0])
    assert says in str(caught.value)
    assert follow.waits == []
    for name in change:
        setattr(server, name, True)
    follow(NIGHTS[0])
    assert len(server.issues) == 1


@pytest.mark.parametrize(
    ("fault", "says"),
    [
        ({"how": "page"}, "answered with what is no JSON, not as GitHub does; check GITHUB_API_URL"),
        ({"how": "redirect"}, "redirects to https://elsewhere.example/x; check GITHUB_API_URL and the repository"),
        ({"status": 404, "message": "Not Found"}, "octo/shop is not there for this token (404: Not Found)"),
        ({"status": 401, "message": f"Bad credentials {TOKEN}"}, "(401: Bad credentials ***)"),
        ({"status": 500, "message": "a\r\n\x1b[31m\u202eb" + "x" * 9000}, "GitHub has a server error (500: a [31mb"),
    ],
)
def test_strange_answers_are_told_without_the_token(server, follow, fault, says):
    server.failing(method="GET", times=100, **fault)
    with pytest.raises(DeliveryError) as caught:
        follow(NIGHTS[0])
    assert says in str(caught.value)
    assert TOKEN not in str(caught.value)
    assert len(str(caught.value)) < 1500
    assert server.writes == []


def test_one_that_is_refused_does_not_stop_the_others(server, follow):
    night = trend(alert(40), alert(80, services=("cart",)))
    server.failing(status=422, message="Validation Failed")
    with pytest.raises(DeliveryError, match="422: Validation Failed"):
        follow(night)
    assert [one["title"].split(":")[0] for one in server.issues.values()] == ["cart"]
    follow(night)
    assert len(server.issues) == 2


def test_a_file_in_the_outbox_that_is_broken_is_named_and_left(server, follow):
    server.failing(method="*", times=1000)
    with pytest.raises(DeliveryError):
        follow(NIGHTS[0])
    server.faults.clear()
    (file,) = unsent(follow)
    broken = file.with_name("0000.json")
    broken.write_text("{")
    assert follow(NIGHTS[0])[0] == f"{broken}: not JSON: it ends in the middle; it is left there and not sent"
    assert unsent(follow) == [broken]


def test_what_cannot_be_kept_is_sent_all_the_same(server, follow):
    follow.outbox.write_text("a file, no folder")
    assert "cannot be written" in follow(NIGHTS[0])[0]
    assert len(server.issues) == 1


@pytest.mark.slow
@pytest.mark.parametrize("point", ["opened", "commented"])
def test_a_call_that_is_killed_is_made_good_by_the_next(server, follow, tmp_path, point):
    """Killed while the server has acted and not answered yet: there is no time to clean up."""
    (tmp_path / "perfkit.toml").write_text("")
    night = NIGHTS[0] if point == "opened" else NIGHTS[3]
    if point == "commented":
        follow(*NIGHTS[:3])
    (tmp_path / "result.json").write_text(json.dumps(night.document))
    server.failing(how="silent", acts=True, path="comments" if point == "commented" else "")
    process = subprocess.Popen(
        [sys.executable, "-m", "perfkit", "issue", "result.json"], cwd=tmp_path, env=os.environ, start_new_session=True
    )
    before = len(server.writes)
    deadline = time.monotonic() + 60
    while len(server.writes) == before and time.monotonic() < deadline:
        server.closing.wait(0.05)
    os.killpg(process.pid, signal.SIGKILL)
    process.wait()
    (file,) = Path(tmp_path / "data" / "delivery").rglob("*.json")
    assert invoke("issue", tmp_path / "result.json", "--settings", tmp_path / "perfkit.toml")[0] == 0
    assert not file.exists()
    assert len(server.issues) == 1
    counts = Counter(text.partition("<!--")[0] for text in server.said(1))
    assert max(counts.values(), default=1) == 1
    assert server.issues[1]["state"] == ("open" if point == "opened" else "closed")
    assert REPOSITORY == "octo/shop"
