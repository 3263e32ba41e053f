"""The life of issues, against a GitHub that holds state: opened once, kept current, closed, reopened, left alone."""

import json
import re
import threading
from dataclasses import replace

import pytest
from command_line import invoke
from github_results import plain_result, unsent
from github_server import REPOSITORY, TOKEN
from histories import nights
from samples import plain_stats, run, side
from watched_results import HOSTILE, alert, trend

from perfkit import compare
from perfkit.config.policy import Policy
from perfkit.config.settings import IssueSettings, Settings
from perfkit.history.incidents import result_of
from perfkit.history.monitor import monitor_timeline
from perfkit.history.timeline import timeline_of
from perfkit.model.errors import DeliveryError, SettingsError
from perfkit.notify.github_api import Patience
from perfkit.notify.github_plan import read_marker
from perfkit.notify.github_sync import planned_requests, sync_issues


def test_an_event_is_one_issue_whatever_number_of_runs_sees_it(server, follow):
    done = follow(*[trend(alert(40))] * 5)
    assert done == ["opened: #1 checkout: p95 latency +20.0 % (api)"]
    (issue,) = server.issues.values()
    assert [label["name"] for label in issue["labels"]] == ["performance"]
    assert len(server.writes) == 1
    assert unsent(follow) == []


def test_a_quiet_history_sends_nothing_at_all(server, follow):
    assert follow(trend()) == []
    assert server.requests == []


@pytest.mark.parametrize("moved", [1, 2, -2])
def test_an_event_whose_place_moves_keeps_its_issue(server, follow, moved):
    follow(trend(alert(40)), trend(alert(40 + moved, heard=43)), trend(alert(40 + 2 * moved, heard=43)))
    assert len(server.issues) == 1


def test_an_event_whose_place_moves_far_is_known_by_the_run_that_heard_it(server, follow):
    follow(trend(alert(40)), trend(alert(48, heard=43)))
    assert len(server.issues) == 1


def test_an_event_is_known_by_a_place_that_both_may_have_had(server, follow):
    follow(trend(alert(40, heard=43)), trend(alert(44, heard=47)))
    assert len(server.issues) == 1


def test_an_issue_whose_event_is_no_more_in_the_history_is_left_and_named(server, follow):
    follow(trend(alert(40)))
    done = follow(trend(alert(400, services=("cart",))))
    assert done[-1] == (
        "left as it is: #1 checkout: p95 latency +20.0 % (api): this history does not hold what it follows"
    )
    assert [one["state"] for one in server.issues.values()] == ["open", "open"]


def test_neighbours_have_an_issue_each(server, follow):
    both = alert(40, aliases=("run39", "run40", "run42")), alert(44, aliases=("run42", "run44"), services=("cart",))
    follow(trend(both[0]), trend(*both), trend(*both))
    assert [one["title"].split(":")[0] for one in server.issues.values()] == ["checkout", "cart"]


def test_the_text_is_sent_anew_only_when_numbers_move(server, follow):
    assert len(follow(trend(alert(40)), trend(alert(40, size=20.4)))) == 1
    assert follow(trend(alert(40, size=26.0))) == ["updated: #1 checkout: p95 latency +20.0 % (api)"]
    (issue,) = server.issues.values()
    assert issue["title"] == "checkout: p95 latency +26.0 % (api)"
    assert "+26.0 % [+24.0, +28.0]" in issue["body"]
    assert server.said(1) == []


def test_a_spread_is_told_once(server, follow):
    follow(trend(alert(40)), *[trend(alert(40, services=("checkout", "cart")))] * 2)
    (comment,) = server.said(1)
    assert "**It spreads:** cart got worse" in comment
    assert "cart" in server.issues[1]["body"]
    assert len(server.writes) == 3


def test_it_is_closed_when_it_is_over_and_reopened_when_it_comes_back(server, follow):
    over, again = alert(40, holds=False), alert(70)
    done = follow(*[trend(alert(40))] * 2, *[trend(over)] * 2, *[trend(over, again)] * 2)
    assert [line.split(":")[0] for line in done] == ["opened", "closed, resolved", "reopened"]
    (issue,) = server.issues.values()
    assert (issue["state"], issue["state_reason"]) == ("open", "reopened")
    assert [text.split("*")[2] for text in server.said(1)] == ["Over.", "It is back."]
    follow(trend(over, replaced(again, holds=False, fails=False)))
    assert (issue["state"], issue["state_reason"]) == ("closed", "completed")
    assert len(server.said(1)) == 3


def replaced(plain, **changes):
    return {**plain, **changes}


def test_what_was_over_before_anybody_heard_of_it_opens_nothing(server, follow):
    assert follow(trend(alert(40, holds=False), alert(80, fails=False))) == []
    assert server.writes == []


def test_an_acknowledged_one_is_closed_as_not_planned_with_its_reason(server, follow):
    known = trend(alert(40, known="TLS everywhere, @everyone agreed in #412"))
    assert follow(known) == []  # silent when there is none
    follow(trend(alert(40)), known, known)
    (issue,) = server.issues.values()
    assert (issue["state"], issue["state_reason"]) == ("closed", "not_planned")
    (comment,) = server.said(1)
    assert "cknowledged by ada on 2026-11-01" in comment
    assert "@everyone" not in comment
    assert follow(trend(alert(40))) == ["reopened: #1 checkout: p95 latency +20.0 % (api)"]  # the reason has run out


def test_one_that_a_person_closed_stays_closed_until_it_comes_back(server, follow):
    follow(trend(alert(40)))
    server.issues[1]["state"] = "closed"
    over = alert(40, holds=False)
    more = alert(40, services=("checkout", "cart"), size=50.0)
    assert follow(trend(alert(40)), trend(more), trend(alert(41))) == []
    assert len(server.writes) == 1
    assert [line.split(":")[0] for line in follow(trend(over), trend(over, alert(70)))] == [
        "noted as resolved",
        "reopened",
    ]
    server.issues[1]["state"] = "closed"
    assert follow(trend(over, alert(70))) == []
    done = follow(trend(over, alert(70, holds=False), alert(99)))  # another occurrence, and nobody saw it over
    assert done == ["reopened: #1 checkout: p95 latency +20.0 % (api)"]


def test_what_holds_again_without_another_alarm_is_reopened(server, follow):
    """Long after it was first heard it is no news any more."""
    done = follow(trend(alert(40)), trend(alert(40, holds=False)), trend(alert(40, fails=False)))
    assert [line.split(":")[0] for line in done] == ["opened", "closed, resolved", "reopened"]


def test_one_that_a_person_reopened_stays_open(server, follow):
    over = alert(40, holds=False)
    follow(trend(alert(40)), trend(over))
    server.issues[1]["state"] = "open"
    assert follow(trend(over), trend(over)) == []
    assert follow(trend(over, alert(70))) == ["updated: #1 checkout: p95 latency +20.0 % (api)"]
    follow(trend(over, alert(70, holds=False)))
    assert server.issues[1]["state"] == "closed"


def test_what_people_write_stays(server, follow):
    follow(trend(alert(40)))
    issue = server.issues[1]
    issue["title"] = "Checkout is slow"
    issue["body"] = "Ours!\r\n\r\n" + issue["body"].replace("\n", "\r\n") + "\r\n\r\nSee the log."
    follow(trend(alert(40, size=40.0)))
    assert issue["title"] == "Checkout is slow"
    assert issue["body"].startswith("Ours!\n\n<!-- perfkit-issue ")
    assert issue["body"].endswith("See the log.")
    assert "+40.0 %" in issue["body"]
    assert issue["body"].count("perfkit-issue {") == 1
    follow(trend(alert(40, holds=False)))
    assert issue["state"] == "closed"


def test_an_issue_is_found_without_its_label_before_another_is_opened(server, follow):
    follow(trend(alert(40)))
    server.issues[1]["labels"] = []
    assert follow(trend(alert(40))) == []
    assert follow(trend(alert(40)), labels=()) == []
    assert len(server.issues) == 1


@pytest.mark.parametrize("label", ["perf & löad", "a,b", "?x=1#2", "@everyone"])
def test_any_label_will_do(server, follow, label):
    follow(*[trend(alert(40))] * 2, labels=(label,))
    assert [one["name"] for one in server.issues[1]["labels"]] == [label]


def test_at_most_so_many_are_opened_at_once_and_the_others_with_the_next_call(server, follow):
    night = trend(*(alert(40 * i, services=(f"s{i}",)) for i in range(1, 8)))
    assert follow(night, most_new=3)[-1] == "4 more new issues are left for the next call (most_new in [issues])"
    assert len(unsent(follow)) == 1
    follow(night, most_new=3)
    follow(trend(scenario="other"), most_new=3)  # a result of another scenario brings what waits along
    assert len(server.issues) == 7
    assert unsent(follow) == []


def test_hundreds_of_issues_are_looked_through(server, follow):
    follow(trend(alert(40)))
    for number in range(250):
        server.add_issue(labels=[{"name": "performance"}] if number % 2 else [])
    server.issues[1]["labels"] = []
    (line,) = follow(trend(alert(40)), trend(alert(40, holds=False), alert(80)))  # was over and came back unseen
    assert line == "updated: #1 checkout: p95 latency +20.0 % (api)"
    assert len(server.issues) == 251
    assert len([path for method, path, _ in server.requests if method == "GET"]) < 20
    server.issues[1]["state"] = "closed"
    assert follow(trend(alert(40, holds=False), alert(80))) == []


def test_a_marker_that_a_stranger_wrote_is_not_believed(server, follow):
    follow(trend(alert(40)))
    body = server.issues.pop(1)["body"]
    server.add_issue(body=body, user=server._user("mallory"), author_association="NONE")
    follow(trend(alert(40)))
    assert len(server.issues) == 2


def test_the_issues_of_a_user_without_any_role_are_its_own(server, follow):
    server.login, server.is_bot = "ci-user", False
    follow(*[trend(alert(40))] * 3)
    assert len(server.issues) == 1


def test_two_calls_at_once_leave_one_issue_open(server, follow):
    def meanwhile(github):
        github.after_issue = None
        mine = github.issues[max(github.issues)]
        rival = {**mine, "number": mine["number"], "title": "the other's"}
        mine["number"] += 1
        github.issues[mine["number"]], github.issues[rival["number"]] = mine, rival

    server.after_issue = meanwhile
    done = follow(trend(alert(40)))
    assert [line.split(":")[0] for line in done] == ["opened", "closed as a duplicate of #1"]
    assert [one["state"] for _, one in sorted(server.issues.items())] == ["open", "closed"]
    assert follow(trend(alert(40))) == []


def test_duplicates_that_are_there_are_closed_in_favour_of_the_oldest(server, follow):
    follow(trend(alert(40)))
    server.add_issue(body=server.issues[1]["body"], labels=server.issues[1]["labels"])
    assert follow(trend(alert(40))) == ["closed as a duplicate of #1: #2 Another one"]
    assert server.said(2)[0].startswith("Duplicate of #1")
    assert follow(trend(alert(40))) == []


def test_a_comparison_without_history_is_one_issue_for_its_baseline(server, follow, rng):
    base = side(rng, 5)
    bad = [plain_result(compare(base, side(rng, 3, first=at, slower=1.3))) for at in (5, 8, 11)]
    good = plain_result(compare(base, side(rng, 5, first=14)))
    unsure = plain_result(compare([base[-1]], side(rng, 1, first=20)))
    assert (good.verdict.value, unsure.verdict.value) == ("no_change", "inconclusive")
    follow(bad[0], bad[0], unsure)
    assert len(server.issues) == 1
    assert server.issues[1]["state"] == "open"
    follow(good, good)
    assert server.issues[1]["state"] == "closed"
    assert len(server.said(1)) == 1
    follow(bad[1])
    assert server.issues[1]["state"] == "open"
    server.issues[1]["state"] = "closed"  # by a person
    assert follow(bad[2]) == []
    assert [line.split(":")[0] for line in follow(good, bad[2])] == ["noted as resolved", "reopened"]
    assert len(server.issues) == 1


def test_invalid_runs_change_nothing_and_say_so(server, follow, rng, tmp_path):
    bad = compare(side(rng, 3, first=0), side(rng, 3, first=3, names=("x",), common=False))
    follow(trend(alert(40)))
    before = len(server.writes)
    (line,) = follow(plain_result(bad))
    assert line.startswith("result.json: its runs cannot be judged: no issue is changed. The two sides have no service")
    assert len(server.writes) == before
    file = tmp_path / "result.json"
    file.write_text(json.dumps(bad.to_dict()))
    assert invoke("issue", file)[0] == 3


def test_an_assignee_who_is_gone_hides_nothing(server, follow):
    done = follow(trend(alert(40)), assignees=("octocat", "gone"))
    assert done[0].startswith("nobody is assigned: GitHub does not accept what was sent (422: Validation Failed; ")
    assert done[1] == "opened: #1 checkout: p95 latency +20.0 % (api)"
    follow(trend(alert(80, scenario="b"), scenario="b"), assignees=("octocat",))
    assert [one["login"] for one in server.issues[2]["assignees"]] == ["octocat"]


def test_hostile_names_are_nothing_but_names(server, follow):
    import cmarkgfm

    names = tuple(HOSTILE + str(number) + "x" * 10_000 for number in range(60))
    many = alert(40, services=names, scenario=HOSTILE, known=None)
    for moment in ("last_before", "first_after"):
        many[moment] |= {"commit": HOSTILE, "branch": HOSTILE, "run": HOSTILE}
    follow(trend(alert(40, services=names[:1], scenario=HOSTILE), scenario=HOSTILE), trend(many, scenario=HOSTILE))
    follow(trend(replaced(many, holds=False, fails=False), scenario=HOSTILE))
    (issue,) = server.issues.values()
    assert len(issue["body"]) < 65_536
    assert len(issue["title"]) <= 256
    assert "@everyone" not in issue["title"]
    assert not re.search(r"[\r\n\u202e]", issue["title"])
    for text in (issue["body"], *server.said(1)):
        shown = cmarkgfm.github_flavored_markdown_to_html(text)
        outside = re.sub(r"<pre.*?</pre>", "", shown, flags=re.DOTALL)  # nobody is mentioned in a block of code
        assert not re.search(r"<(script|img|a)\b|@everyone|#1\b", outside)
        assert shown.count("<pre") <= 2
    assert server.said(1)[-1].startswith("**Over.**")
    assert read_marker(issue["body"]) is not None


def test_the_text_says_what_people_need(server, follow):
    values = [100.0, 101.0, 99.0, 120.0, 121.0]
    course = {"service": "checkout", "metric": "p95_latency_ms", "values": values, "first_index": 37, "levels": []}
    course["started_at"] = [None] * len(values)
    follow(
        trend(alert(40), courses=[course], place="reports/trend api/result.json"),
        link="https://ci.example/{report}/report.html",
    )
    body = server.issues[1]["body"]
    for text in (
        "P95 latency of checkout got worse: +20.0 % [+18.0, +22.0].",
        "| checkout | p95 latency | 100 ms | 120 ms | +20.0 % | [+18.0, +22.0] |",
        "`▁▂▁██`",
        "between the runs run39 and run40; detected at run run43.",
        "(https://ci.example/trend%20api/report.html)",
        "perfkit report trend api",
        f"perfkit bisect api --good {39:012x} --bad {40:012x}",
        'perfkit ack run40 --reason "..."',
    ):
        assert text in body.replace("&#45;", "-"), (text, body)


def test_commits_in_between_are_linked_where_the_server_has_pages(follow, server, monkeypatch):
    monkeypatch.setenv("GITHUB_SERVER_URL", "https://github.example")
    first, second = (f"{at:012x}{0:028x}" for at in (39, 40))
    follow(trend(alert(40)))
    assert f"(https://github.example/{REPOSITORY}/compare/{first}...{second})" in server.issues[1]["body"]


def test_a_dry_run_prints_the_requests_and_changes_nothing(server, follow, tmp_path, monkeypatch):
    file = tmp_path / "result.json"
    file.write_text(json.dumps(trend(alert(40)).document))
    code, out, err = invoke("issue", file, "--dry-run")
    (call,) = json.loads(out)
    assert (code, call["method"], call["path"]) == (0, "POST", f"/repos/{REPOSITORY}/issues")
    assert call["json"]["labels"] == ["performance"]
    assert server.writes == []
    follow(trend(alert(40)))
    assert server.issues[1]["title"] == call["json"]["title"]
    assert json.loads(invoke("issue", file, "--dry-run")[1]) == []
    monkeypatch.delenv("GITHUB_TOKEN")
    before = len(server.requests)
    code, out, err = invoke("issue", file, "--dry-run", "--repository", "octo/other")
    assert (code, json.loads(out)[0]["path"]) == (0, "/repos/octo/other/issues")
    assert "no GITHUB_TOKEN" in err
    monkeypatch.setenv("GITHUB_TOKEN", TOKEN)
    monkeypatch.setenv("GITHUB_API_URL", "http://127.0.0.1:9")
    code, out, err = invoke("issue", file, "--dry-run")
    assert (code, len(json.loads(out))) == (0, 1)
    assert "cannot be reached" in err
    assert len(server.requests) == before


def test_the_command_says_what_it_did(server, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    (tmp_path / "perfkit.toml").write_text('[issues]\nlabels = ["perf"]\ntitle = "{service} {metric}"\n')
    (tmp_path / "result.json").write_text(json.dumps(trend(alert(40)).document))
    assert invoke("issue", ".") == (0, "opened: #1 checkout p95 latency\n", "")
    assert invoke("issue", ".") == (0, "nothing to do\n", "")


@pytest.mark.parametrize(
    ("name", "value", "says"),
    [
        ("GITHUB_TOKEN", "", "GITHUB_TOKEN: is not set"),
        ("GITHUB_TOKEN", f"{TOKEN}\r\nX-Evil: 1", "GITHUB_TOKEN: holds blanks, line ends or other"),
        ("GITHUB_REPOSITORY", "", "no repository is named"),
        ("GITHUB_REPOSITORY", "https://github.com/octo/shop", "must be owner/name"),
        ("GITHUB_REPOSITORY", "octo/..", "must be owner/name"),
        ("GITHUB_REPOSITORY", "octo/shop?x=1", "must be owner/name"),
        ("GITHUB_API_URL", "ftp://x", "GITHUB_API_URL: must be an address"),
        ("GITHUB_API_URL", "https://[", "GITHUB_API_URL: must be an address"),
        ("GITHUB_API_URL", "https://x:99999", "GITHUB_API_URL: must be an address"),
        ("GITHUB_API_URL", "https://u:geheim@x", "must hold no name, password"),
        ("GITHUB_API_URL", "https://x/?a=1", "must hold no name, password, query"),
        ("GITHUB_API_URL", "http://ghe.example/api/v3", "must begin with https://"),
        ("GITHUB_API_URL", "https://x y", "must be an address"),
    ],
)
def test_the_environment_is_checked_before_anything_is_sent(server, follow, monkeypatch, name, value, says):
    monkeypatch.setenv(name, value)
    with pytest.raises(SettingsError, match=re.escape(says)) as caught:
        follow(trend(alert(40)))
    assert TOKEN not in str(caught.value)
    assert "geheim" not in str(caught.value)
    assert server.requests == []
    assert unsent(follow) == []


@pytest.mark.parametrize(
    ("changes", "says"),
    [
        ({"title": "{servic}"}, "title"),
        ({"title": "{service.__class__}"}, "title"),
        ({"title": "{"}, "is no template"),
        ({"link": "javascript:alert(1)"}, "expected an address such as https://"),
        ({"link": "${NO_SUCH_VARIABLE}"}, "NO_SUCH_VARIABLE is not set"),
        ({"repository": "x"}, "must be owner/name"),
    ],
)
def test_the_settings_are_checked_before_anything_is_sent(server, follow, changes, says):
    with pytest.raises(SettingsError, match=re.escape(says)):
        follow(trend(alert(40)), **changes)
    assert server.requests == []


def test_a_plan_needs_no_server(monkeypatch):
    monkeypatch.delenv("GITHUB_TOKEN", raising=False)
    monkeypatch.delenv("GITHUB_API_URL", raising=False)
    calls = planned_requests(trend(alert(40)), Settings(), repository="octo/shop")
    assert [(one["method"], one["path"]) for one in calls] == [("POST", "/repos/octo/shop/issues")]


def test_several_results_are_followed_and_kept_together(server, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    (tmp_path / "perfkit.toml").write_text("")
    for name in ("api", "rag"):
        (tmp_path / f"{name}.json").write_text(json.dumps(trend(alert(40, scenario=name), scenario=name).document))
    server.enabled = False
    code, _, err = invoke("issue", "api.json", "rag.json")
    assert (code, err.count("has its issues turned off")) == (4, 1)
    assert len(list((tmp_path / "data").rglob("*.json"))) == 2
    server.enabled = True
    code, out, _ = invoke("issue", "rag.json")
    assert (code, out.count("opened: ")) == (0, 2)
    assert len(json.loads(invoke("issue", "api.json", "rag.json", "--dry-run")[1])) == 0


def test_a_delivery_error_is_no_traceback(server, tmp_path, monkeypatch):
    monkeypatch.setenv("GITHUB_TOKEN", "wrong")
    monkeypatch.chdir(tmp_path)
    (tmp_path / "result.json").write_text(json.dumps(trend(alert(40)).document))
    code, out, err = invoke("issue", ".")
    assert (code, out) == (4, "")
    assert err.startswith("perfkit: octo/shop: GitHub does not accept the token (401: Bad credentials)")
    assert DeliveryError.__doc__


def test_an_slo_alone_is_said(server, follow, rng):
    policy = Policy.from_mapping({"objectives": {"p95_latency_ms": {"max": 1}}}, "x")
    same = [run({"a": plain_stats()}, number=n) for n in range(6)]
    result = plain_result(compare(same[:3], same[3:], policy=policy))
    (line,) = follow(result)
    assert "of absolute limits" in line


def test_a_real_history_that_steps_recovers_and_steps_again_is_one_issue(server, follow, rng):
    kind = {"services": ("a", "b"), "sd": 0.03}
    runs = []
    for count, factor in ((30, 1.0), (14, 1.3), (14, 1.0), (14, 1.3)):
        runs += nights(rng, count, first=len(runs), factor=factor, **kind)
    done = []
    for known in (30, 36, 40, 50, 51, 66, 72):
        watch = monitor_timeline(timeline_of("api", runs[:known]), Policy())
        document = {"schema": "perfkit.trend/1", "scenario": "api", "watch": watch.to_dict()}
        done += follow(result_of(json.loads(json.dumps(document)), "reports/trend/result.json"))
    assert [line.split(":")[0] for line in done if not line.startswith("updated")] == [
        "opened",
        "closed, resolved",
        "reopened",
    ]
    assert len(server.issues) == 1


def test_calls_at_the_same_time_leave_one_issue_open(server, tmp_path):
    together = threading.Barrier(4)
    opened = []

    def call(number):
        known = replace(Settings(), delivery=tmp_path / str(number), issues=IssueSettings())
        together.wait(10)
        opened.extend(sync_issues(trend(alert(40)), known, patience=Patience(pause_s=0.0, first_wait_s=0.0)))

    threads = [threading.Thread(target=call, args=(number,)) for number in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert any(line.startswith("opened") for line in opened)
    open_ones = [number for number, one in server.issues.items() if one["state"] == "open"]
    assert open_ones == [1]


def test_more_services_than_a_marker_holds_are_told_once(server, follow):
    many = tuple(f"s{number}" for number in range(700))
    follow(*[trend(alert(40, services=many))] * 3)
    assert len(server.writes) == 1
    assert len(server.issues[1]["body"]) < 65_536
