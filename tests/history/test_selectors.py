"""Runs named by what they mean: what each selector chooses, what it says of that, and how it refuses."""

import json
import subprocess
from dataclasses import replace
from datetime import timedelta
from pathlib import Path
from types import SimpleNamespace

import nbformat
import pytest
from command_line import invoke
from histories import nights, stored
from samples import run

import perfkit
from perfkit import Policy, ReadError, RunStore, read_runs
from perfkit.history.run_selector import HistoryContext, Selector, misspelt, read_named, readings, select
from perfkit.model.records import Check, Severity, Validity
from perfkit.report import display, notebook
from perfkit.report.batch import build_report, report_jobs
from perfkit.report.notebook import declared_parameters, find_notebook
from perfkit.report.report_set import Outcome

BAD = Validity((Check("generator", 99, 80, Severity.INVALID, "The generator was saturated."),))


def ids(selected):
    return [one.id for one in selected.runs]


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("api@rolling", ("api", "rolling", "")),
        ("api@rolling:main", ("api", "rolling", "main")),
        ("api@pinned:v1.4", ("api", "pinned", "v1.4")),
        ("api@last:5", ("api", "last", "5")),
        ("api@commit:abc123", ("api", "commit", "abc123")),
        ("api@branch:feature/x@2", ("api", "branch", "feature/x@2")),
        ("api@merge-base", ("api", "merge-base", "")),
        ("shop @ night@last:2", ("shop @ night", "last", "2")),
        ("a@rolling@rolling", ("a@rolling", "rolling", "")),
        ("läden:1@branch:ü\nx", ("läden:1", "branch", "ü\nx")),
    ],
)
def test_texts_are_read_as_selectors(text, expected):
    assert readings(text)[0] == Selector(*expected)
    assert str(readings(text)[0]) == text


@pytest.mark.parametrize("text", ["api", "@rolling", "runs/2026*", "api@", "api@last", "me@host.csv", "api@rollin"])
def test_other_texts_are_not(text):
    assert readings(text) == ()


def test_a_scenario_whose_name_looks_like_a_selector_is_found(rng, tmp_path):
    store, _ = stored(tmp_path, nights(rng, 3, scenario="a@branch:x"), nights(rng, 3, scenario="odd, [name]*\n'@'"))
    assert len(select("a@branch:x@last:2", HistoryContext(store)).runs) == 2
    assert len(select("odd, [name]*\n'@'@rolling", HistoryContext(store)).runs) == 3


def test_rolling_begins_after_the_last_change(rng, tmp_path):
    store, every = stored(tmp_path, nights(rng, 20), nights(rng, 12, first=20, factor=1.3))
    chosen = ids(select("api@rolling", HistoryContext(store)))
    assert chosen == every[-len(chosen) :]
    assert abs(len(chosen) - 12) <= 2
    assert ids(select("api@last:5", HistoryContext(store))) == every[-5:]


def test_candidates_and_later_runs_are_never_their_own_baseline(rng, tmp_path):
    store, every = stored(tmp_path, nights(rng, 12))
    past = HistoryContext(store, candidates=(store.get(every[6]), store.get(every[7])))
    assert ids(select("api@rolling", past)) == every[:6]
    assert ids(select("api@last:3", past)) == every[3:6]
    with pytest.raises(ReadError, match=r"names no valid run besides the candidates; 'api' has 1[0-9]* runs?: meas"):
        select("api@rolling", HistoryContext(store, candidates=(store.get(every[0]),)))
    with pytest.raises(ReadError, match="it is a scenario: name runs of it, such as api@last:5"):
        read_named("api", store)


def test_invalid_runs_are_never_chosen(rng, tmp_path):
    bad = nights(rng, 3, first=10, validity=BAD, git={"commit": "c" * 40, "branch": "main"})
    store, every = stored(tmp_path, nights(rng, 10, git={"commit": "d" * 40, "branch": "main"}), bad)
    for text in ("api@rolling", "api@last:20", "api@branch:main"):
        assert ids(select(text, HistoryContext(store))) == every[:10]
    with pytest.raises(ReadError, match="no valid run of that commit; the newest with runs are dddddddddd"):
        select("api@commit:cccc", HistoryContext(store))


def test_runs_under_another_load_are_left_out_of_the_rolling_baseline_and_said(rng, tmp_path):
    store, _ = stored(tmp_path, nights(rng, 8), nights(rng, 2, first=3, users=90, salt="x"))
    selected = select("api@rolling", HistoryContext(store))
    assert {one.profile.users for one in selected.runs} == {30}
    assert len(selected.runs) == 8
    assert "2 runs were left out of api's history" in selected.warnings[0]


def test_commit_and_branch(rng, tmp_path):
    one, other = "ab12" + "0" * 36, "ab13" + "0" * 36
    store, every = stored(
        tmp_path,
        nights(rng, 3, git={"commit": one, "branch": "main", "dirty": "no"}),
        nights(rng, 3, first=3, git={"commit": other, "branch": "-x; $(touch y)", "dirty": "yes"}),
    )
    assert ids(select("api@commit:ab12", HistoryContext(store))) == every[:3]
    (note,) = (note for note in select("api@commit:AB13", HistoryContext(store)).warnings if "uncommitted" in note)
    assert "3 of its 3 runs were made from a tree with uncommitted changes" in note
    assert ids(select("api@branch:-x; $(touch y)", HistoryContext(store))) == every[3:]
    assert ids(select("api@rolling:main", HistoryContext(store))) == every[:3]
    assert any("has runs of 2 branches" in note for note in select("api@rolling", HistoryContext(store)).warnings)
    for text, told in (
        ("api@commit:zz", "at least 4 hexadecimal digits"),
        ("api@commit:ab1", "at least 4"),
        ("api@branch:mian", r"did you mean 'main'\?.*; there are runs of main"),
        ("api@last:0", "number of runs from 1 on"),
        ("api@last:x", "number of runs from 1 on"),
        ("apu@rolling", r"no scenario 'apu' in .*did you mean 'api'"),
    ):
        with pytest.raises(ReadError, match=told):
            select(text, HistoryContext(store))
    store.add(nights(rng, 1, first=9, git={"commit": "ab12" + "f" * 36})[0])
    with pytest.raises(ReadError, match="several commits begin so: ab12"):
        select("api@commit:ab12", HistoryContext(store))


def test_what_makes_a_baseline_weak_is_said(rng, tmp_path):
    store, every = stored(tmp_path, nights(rng, 2), nights(rng, 60, first=2))
    past = HistoryContext(store)
    later = run(store.get(every[0]).services, number=0, salt="late", started_at=store.get(every[-1]).started_at)
    later = HistoryContext(store, candidates=(replace(later, started_at=later.started_at + timedelta(days=40)),))
    assert any("stale: its newest run is 40 days older" in note for note in select("api@rolling", later).warnings)
    assert any("single run" in note for note in select("api@last:1", past).warnings)
    old = replace(store.get(every[3]), id="x-api-1", content_hash="1", git={"commit": "e" * 40})
    store.add(old)
    near = HistoryContext(store, candidates=(replace(later.candidates[0], started_at=store.get(every[-1]).started_at),))
    assert any(" runs of this scenario came after" in note for note in select("api@commit:eeee", near).warnings)


def test_a_selection_that_mixes_two_levels_says_so(rng, tmp_path):
    store, _ = stored(tmp_path, nights(rng, 15), nights(rng, 15, first=15, factor=1.4))
    assert any(
        "mixes two levels: the history changed at" in n for n in select("api@last:25", HistoryContext(store)).warnings
    )
    assert not any("mixes" in note for note in select("api@rolling", HistoryContext(store)).warnings)


def test_undated_runs_and_an_empty_store(rng, tmp_path):
    store, _ = stored(tmp_path / "a", [replace(nights(rng, 1)[0], started_at=None, id="undated-api-1")])
    assert len(select("api@last:3", HistoryContext(store)).runs) == 1
    with pytest.raises(ReadError, match=r"no scenario 'api' in .*it has no runs yet"):
        select("api@rolling", HistoryContext(RunStore(tmp_path / "none")))


# Wherever a run is asked for ----------------------------------------------------------------------------------------


def test_a_misspelt_selector_is_told(rng, tmp_path):
    store, _ = stored(tmp_path, nights(rng, 3))
    with pytest.raises(ReadError, match=r"there is no such file.*no selector .did you mean 'rolling'"):
        read_runs("api@roling", store=store.url)
    with pytest.raises(ReadError, match="a word must follow, such as api@last:5"):
        read_runs(["api@last"], store=store.url)
    assert misspelt("plain.csv") == ""


def test_read_runs_takes_selectors_ids_paths_and_globs(rng, tmp_path, monkeypatch):
    store, every = stored(tmp_path / "data" / "runs", nights(rng, 6))
    monkeypatch.chdir(tmp_path)
    assert [one.id for one in read_runs("api@last:2")] == every[-2:]  # the store of the settings
    both = read_runs(["api@last:1", every[0], f"data/runs/{every[1]}", f"{every[2][:12]}*"], store=store.url)
    assert {one.id for one in both} >= {every[-1], every[0], every[1]}
    (tmp_path / "api@rolling").mkdir()
    with pytest.raises(ReadError):
        read_runs(["api@rolling"], store=store.url)  # a folder of that name comes first


def test_selectors_on_the_command_line(rng, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    store, every = stored(tmp_path / "runs", nights(rng, 20))
    words = ("compare", "api@rolling", "--candidate", every[-1], "--store", store.url, "--format", "json")
    code, out, _ = invoke(*words)
    document = json.loads(out)
    assert code == 0
    chosen = [one["id"] for one in document["baseline"]["runs"]]
    assert chosen == every[:-1][-len(chosen) :]
    document = json.loads(invoke(*words[:1], "api@last:2", *words[2:])[1])
    assert any("is 2 runs: too few" in text for text in document["warnings"])
    assert invoke("compare", "api@rolling", "--candidate", "api@lst:1", "--store", store.url)[0] == 2
    code, out, err = invoke("plan", "--scenario", "api@rolling", "--detect", "8%", "--store", store.url)
    assert code == 0, err


NAMES = [
    *("rolling", "rolling:main", "pinned:v1", "last:4", "previous:4", "commit:abcd", "branch:main"),
    "label:build=1.3",
]


@pytest.fixture
def beside(rng, tmp_path, monkeypatch):
    """Ids of twenty runs in the store of the folder that is worked in, twelve of them pinned."""
    monkeypatch.chdir(tmp_path)
    facts = {"git": {"commit": "abcd" * 10, "branch": "main"}}
    earlier = nights(rng, 12, labels={"build": "1.3", "machine": "a"}, **facts)
    _, every = stored("data/runs", earlier, nights(rng, 8, first=12, factor=1.4, labels={"build": "1.4"}, **facts))
    assert invoke("baseline", "pin", "v1", *every[:12], "--reason", "r")[0] == 0
    return every


@pytest.mark.parametrize(
    "name", [*(f"api@{name}" for name in NAMES), "{id}", "{id:.21}", "data/runs/{id}", "data/runs/*", "2025*"]
)
def test_runs_are_named_alike_wherever_they_are_asked_for(beside, name):
    words = name.format(id=beside[3])
    for command in (
        ("metrics", words),
        ("baseline", "extract", words, "--output", "metrics.json"),
        ("baseline", "pin", "v2", words, "--reason", "r"),
        ("compare", words, "--candidate", beside[-1], "--fail-on", "never"),
        ("runs", "verify", words),
    ):
        if (command[0] == "compare" and "*" in name) or (command[0] == "runs" and "data/" in name):
            continue  # the candidate itself is among them; `perfkit runs` is of what is in the store
        code, out, err = invoke(*command)
        assert (command, code) == (command, 0), out + err


@pytest.mark.parametrize("name", NAMES)
def test_histories_are_named_by_selectors_too(beside, name):
    for command in (("plan", "--detect", "9%"), ("replay", "--window", "2")):
        code, out, err = invoke(*command, "--scenario", f"api@{name}")
        assert (command, code) == (command, 0), out + err
    code, _, err = invoke("replay", "--scenario", "apj")
    assert (code, "no scenario 'apj' (did you mean 'api'?)" in err) == (2, True)


@pytest.mark.parametrize("name", ["api@rolling", "data/runs/{id}", "{id}*", "{id:.21}"])
def test_the_first_of_the_runs_named_is_acknowledged_and_accepted(beside, name):
    words = name.format(id=beside[12])
    code, _, err = invoke("ack", words, "--reason", "r")
    assert code == 0, err
    assert json.loads(invoke("ack", "--list", "--format", "json")[1])[0]["id"] == beside[12]
    assert invoke("baseline", "accept", words, "--reason", "r")[0] == 0
    assert json.loads(invoke("baseline", "show", "v1", "--format", "json")[1])["runs"] == beside[12:]


def test_a_notebook_is_told_what_speaks_against_a_baseline(beside, monkeypatch):
    """Also one that is opened in the folder below."""
    Path("notebooks").mkdir()
    for place in (".", "notebooks"):
        monkeypatch.chdir(place)
        after = read_runs("api@last:1")
        comparison = perfkit.compare("api@last:2", after)
        assert [one.id for one in (*comparison.baseline.runs, *after)] == beside[-3:]
        assert any("is 2 runs: too few" in text for text in comparison.warnings)
        levels = perfkit.baseline("api@last:2", warnings=["known already", "and this"])
        assert levels.warnings[:2] == ("known already", "and this")
        assert "is 2 runs: too few" in levels.warnings[2]
    assert levels.to_dict()["warnings"] == list(levels.warnings)
    assert "known already" in display.warnings_list(levels).html
    for kind in ("baseline", "compare"):
        assert "notes" in declared_parameters(nbformat.read(find_notebook(kind), as_version=4), kind)


def test_reports_hand_on_what_is_said_of_a_baseline(beside, monkeypatch):
    given = []

    def made(kind, parameters, **_):
        given.append((kind, parameters))
        return SimpleNamespace(html=Path("report.html"))

    monkeypatch.setattr(notebook, "run_report", made)
    assert invoke("report", "compare", "api@pinned:v1", "api@last:1", "--candidate", beside[-3])[0] == 0
    code, _, err = invoke("report", "baseline", "api@last:2")
    assert code == 0, err
    for kind, parameters in given:
        assert "too few to know how runs vary" in parameters["notes"], kind
        assert "too few to know how runs vary" in err


def test_an_empty_name_names_nothing(beside):
    assert beside
    code, _, err = invoke("compare", "", "--candidate", "api@last:1")
    assert (code, "baseline: has no runs" in err) == (3, True)


def test_the_folder_of_the_settings_holds_the_baselines_of_every_command(beside):
    Path("data/baselines").rename("kept")
    Path("other.toml").write_text('baselines = "kept"\n')
    for command in (("plan", "--detect", "9%"), ("replay", "--window", "2")):
        assert invoke(*command, "--scenario", "api@pinned:v1", "--settings", "other.toml")[0] == 0
        assert invoke(*command, "--scenario", "api@pinned:v1")[0] == 2
    assert invoke("runs", "--settings", "other.toml", "verify", "api@pinned:v1")[0] == 0
    assert invoke("runs", "verify", "api@pinned:v1")[0] == 2


def side(document, name):
    return [one["id"] for one in document[name]["runs"]]


def test_the_five_before_never_overlap_those_that_are_judged(beside):
    document = json.loads(invoke("compare", "api@previous:5", "--candidate", "api@last:5", "--format", "json")[1])
    assert (side(document, "baseline"), side(document, "candidate")) == (beside[-10:-5], beside[-5:])
    document = json.loads(invoke("compare", "api@previous:3", "--candidate", *beside[4:6], "--format", "json")[1])
    assert side(document, "baseline") == beside[1:4]
    assert [one.id for one in read_runs("api@previous:5")] == beside[-10:-5]  # without candidates, before the newest 5
    assert "only 2 valid runs before" in invoke("compare", "api@previous:5", "--candidate", beside[2])[1]
    assert "names no valid run" in invoke("compare", "api@previous:20", "--candidate", beside[0])[2]
    assert "number of runs from 1 on, such as api@previous:5" in invoke("metrics", "api@previous:0")[2]


def test_labels_select_runs_wherever_they_are_asked_for(beside):
    earlier, later = beside[:12], beside[12:]
    words = ("compare", "--label", "build=1.3", "--candidate-label", "build=1.4", "--format", "json")
    document = json.loads(invoke(*words)[1])
    assert (side(document, "baseline"), side(document, "candidate")) == (earlier, later)
    narrowed = ("compare", "api@last:3", "--label", "build=1.3", "--label", "machine=a", "--candidate", beside[-1])
    assert side(json.loads(invoke(*narrowed, "--format", "json")[1]), "baseline") == earlier[-3:]
    assert [row["id"] for row in json.loads(invoke("runs", "--label", "build=1.4", "--format", "json")[1])] == later
    exported = json.loads(invoke("runs", "export", "api@last:9", "--label", "build=1.4", "--format", "json")[1])
    assert list(dict.fromkeys(row["id"] for row in exported)) == later
    for command in (
        ("runs", "list"),
        ("runs", "show"),
        ("runs", "verify"),
        ("runs", "quarantine", "--lift"),
        ("runs", "redact", "--dry-run"),
        ("metrics",),
        ("baseline", "extract", "--output", "m.json"),
        ("baseline", "pin", "labelled", "--reason", "r"),
        ("changes",),
        ("plan", "--scenario", "api", "--detect", "9%"),
        ("replay", "--scenario", "api", "--window", "2"),
        ("compare", "--candidate", beside[-1], "--fail-on", "never", "--explain", "a", "avg"),
    ):
        code, out, err = invoke(*command, "--label", "build=1.3")
        assert (command, code) == (command, 0), out + err
        code, _, err = invoke(*command, "--label", "build=1.9")
        assert (command, code) == (command, 2)
        assert "no run is labelled build=1.9; there are 1.3, 1.4" in err
    assert json.loads(invoke("baseline", "show", "labelled", "--format", "json")[1])["runs"] == earlier
    assert "8 whole runs" in invoke("runs", "rm", "--label", "build=1.4", "--dry-run")[1]
    assert "no run has a label 'biuld' (did you mean 'build'?)" in invoke("changes", "--label", "biuld=1")[2]
    assert "'build' has two values" in invoke("runs", "--label", "build=1.3", "--label", "build=1.4")[2]
    assert f"{beside[-1]}: is not labelled build=1.3" in invoke("metrics", beside[-1], "--label", "build=1.3")[2]
    assert "no run has all of the labels" in invoke("runs", "--label", "build=1.4", "--label", "machine=a")[2]
    for command in (("metrics",), ("runs", "show"), ("report", "baseline")):
        assert "name runs, or say --label KEY=VALUE" in invoke(*command)[2]


def test_a_label_makes_a_history_of_its_own_for_those_who_are_sent_results(beside):
    """The gap of both builds is no event where one build alone is looked at; nor is what is open there over here."""
    whole, part = (
        json.loads(invoke("changes", *words, "--format", "json")[1])["scenarios"][0] for words in ((), LABEL)
    )
    assert (whole["runs"], len(whole["events"]) > 0, whole["labels"]) == (20, True, {})
    assert (part["runs"], part["events"], part["labels"]) == (12, [], {"build": "1.3"})
    assert (history := perfkit.open_history(scenario="api", labels="build=1.3")).to_frame()["run"].nunique() == 12
    assert "12 runs of api that are labelled build=1.3" in display.history_summary(history).html
    assert len(perfkit.open_history(scenario="api", labels={"build": "1.3", "machine": "a"})) == 12
    for labels, reason in (
        ("build", "expected KEY=VALUE"),
        (7, "a list of such or a mapping"),
        ("build=9", "no run is"),
    ):
        with pytest.raises(perfkit.PerfkitError, match=reason):
            perfkit.open_history(scenario="api", labels=labels)

    for command in (
        ("email", "--to", "a@team.example", "--dry-run", "m.eml"),
        ("notify", "--webhook", "http://127.0.0.1:9/", "--when", "always", "--dry-run"),
        ("comment", "--pull-request", "1", "--repository", "octo/shop", "--dry-run"),
        ("summary",),
    ):
        code, out, err = invoke(*command, *LABEL)  # --scenario is that of the labelled runs
        assert (command, code) == (command, 0), out + err
        assert ("labelled build=1.3 count as its history" if command[0] == "summary" else "api (build=1.3)") in out
        assert "regression" not in out.split("no regression")[0]
        assert "no run is labelled build=1.9" in invoke(*command, "--scenario", "api", "--label", "build=1.9")[2]
        assert "and a RESULT is judged already" in invoke(*command, "result.json", *LABEL)[2]
    issue = ("issue", "--repository", "octo/shop", "--dry-run")
    assert json.loads(invoke(*issue, "--scenario", "api", *LABEL)[1]) == []
    words = ("summary", "--scenario", "api", "--verdict")
    assert [invoke(*words, *more)[1] for more in ((), LABEL)] == ["regression\n", "no_change\n"]
    code, _, err = invoke("summary", "--scenario", "api", "--label", "build=1.4", "--label", "alone=yes")
    assert (code, "no run has a label 'alone'" in err) == (2, True)

    for command in (("report", "trend", "api"), ("report", "--all")):  # before any notebook
        assert "no run is labelled build=1.9" in invoke(*command, "--label", "build=1.9")[2]
    kinds = [(job.kind, job.labels) for job in jobs_of({"build": "1.4"})]
    assert kinds == [(kind, {"build": "1.4"}) for kind in ("compare", "trend", "baseline")]
    assert build_report(jobs_of({"build": "1.3"}, newest=99)[0]).outcome is Outcome.INCOMPARABLE

    code, _, err = invoke("ack", beside[4], "--reason", "r", "--yes", "--label", "build=1.4")
    assert (code, "none of these runs is labelled build=1.4" in err) == (2, True)
    assert "--label chooses among runs" in invoke("ack", "--list", *LABEL)[2]
    assert invoke("runs", "gc", "--runs-older-than", "1d", "--dry-run", "--label", "build=1.4")[1].count("too old") == 8
    assert invoke("runs", "gc", "--dry-run", "--label", "build=1.4")[1] == "nothing to remove\n"


LABEL = ("--label", "build=1.3")


def jobs_of(labels, newest=1):
    """Jobs of the reports of labelled runs."""
    kinds = {
        "policy_file": None,
        "policy": Policy(),
        "acknowledged": Path("a.json"),
        "baselines": Path("data/baselines"),
    }
    return report_jobs("data/runs", Path("reports"), newest=newest, labels=labels, **kinds)


def test_a_beginning_of_several_runs_names_them_all(beside):
    for command in (("compare", "2025", "--candidate", beside[-1]), ("runs", "show", "2025"), ("metrics", "2025")):
        code, _, err = invoke(*command)
        assert (code, "20 runs begin with '2025'" in err, beside[9] in err, "and 10 more" in err) == (2, *[True] * 3)


# git ----------------------------------------------------------------------------------------------------------------


@pytest.fixture
def repository(tmp_path, monkeypatch):
    place = tmp_path / "checkout"
    place.mkdir()
    monkeypatch.chdir(place)
    for name in ("GIT_AUTHOR_NAME", "GIT_AUTHOR_EMAIL", "GIT_COMMITTER_NAME", "GIT_COMMITTER_EMAIL"):
        monkeypatch.setenv(name, "x")
    monkeypatch.setenv("GIT_CONFIG_GLOBAL", "/dev/null")
    git("init", "--quiet", "--initial-branch", "main")
    return place


def git(*words):
    return subprocess.run(["git", *words], capture_output=True, text=True, check=True).stdout.strip()


def commit():
    git("commit", "--quiet", "--allow-empty", "-m", "x")
    return git("rev-parse", "HEAD")


def made_from(rng, sha, first, n=3, **git_facts):
    return nights(rng, n, first=first, git={"commit": sha, "branch": "main", "dirty": "no", **git_facts})


def test_merge_base_takes_the_runs_of_the_commit_where_the_branch_left(rng, tmp_path, repository):
    commits = [commit() for _ in range(4)]
    git("checkout", "--quiet", "-b", "feature/-x", commits[2])
    commit()
    store, every = stored(
        tmp_path / "runs",
        *(made_from(rng, sha, 3 * i) for i, sha in enumerate(commits)),
        made_from(rng, commits[2], 20, dirty="yes"),
    )
    assert ids(select("api@merge-base", HistoryContext(store))) == every[6:9]
    assert ids(select("api@merge-base:main", HistoryContext(store))) == every[6:9]
    with pytest.raises(ReadError, match="git knows no branch --output=x"):
        select("api@merge-base:--output=x", HistoryContext(store))


def test_merge_base_falls_back_by_ancestry_and_says_so(rng, tmp_path, repository):
    commits = [commit() for _ in range(4)]
    git("checkout", "--quiet", "-b", "feature")
    commit()
    store, every = stored(tmp_path / "runs", made_from(rng, commits[1], 0))
    selected = select("api@merge-base", HistoryContext(store))
    assert ids(selected) == every
    assert f"{commits[1][:10]}, 2 commits before, stands in" in selected.warnings[0]
    empty, _ = stored(tmp_path / "other", made_from(rng, "f" * 40, 0))
    with pytest.raises(ReadError, match="neither that commit nor any of the 4 before it"):
        select("api@merge-base", HistoryContext(empty))


def test_on_the_main_branch_itself_the_commit_before_counts(rng, tmp_path, repository):
    commits = [commit() for _ in range(3)]
    store, every = stored(tmp_path / "runs", *(made_from(rng, sha, 3 * i) for i, sha in enumerate(commits)))
    assert ids(select("api@merge-base", HistoryContext(store))) == every[3:6]
    (repository / "f").write_text("x")
    git("add", "f")  # what is judged is the changed tree: the last commit is its baseline
    assert ids(select("api@merge-base", HistoryContext(store))) == every[6:9]


def test_merge_base_outside_a_repository_is_refused(rng, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("GIT_CEILING_DIRECTORIES", str(tmp_path.parent))
    store, _ = stored(tmp_path / "runs", nights(rng, 3))
    with pytest.raises(ReadError, match="is not a git repository; merge-base needs the checkout"):
        select("api@merge-base", HistoryContext(store))
