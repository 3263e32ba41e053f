"""``perfkit changes``: the stored history in events, the same however it is computed."""

import json
import sys
from dataclasses import replace
from datetime import UTC, datetime

import msgspec
import numpy as np
import pytest
from histories import nights, stored
from repositories import git
from samples import plain_stats
from samples import run as make_run

from perfkit.cli import main
from perfkit.cli.compare import exit_code
from perfkit.config.policy import Policy
from perfkit.history.acknowledgements import AcknowledgedChange, AcknowledgedFile, Acknowledgement
from perfkit.history.change_events import CHUNK, detect_changes, segment_all, stored_timelines
from perfkit.history.monitor import monitor_timeline
from perfkit.history.timeline import timeline_of
from perfkit.model.errors import HistoryError, MissingExtra, SettingsError
from perfkit.model.records import Check, Metric, ServiceStats, Severity, Validity
from perfkit.runs.store import RunStore

HOSTILE = "<b>cart</b>|\x1b[31m"


def filled(folder, rng, *, scenario="api", runs=30, at=20, size=0.4, commits=None, services=("shop", HOSTILE)):
    """A store whose scenario changes at a run; run 10 is strange, run 19 is invalid."""
    store = RunStore(str(folder))
    unfit = Validity((Check("generator", "busy", "idle", Severity.INVALID, ""),))
    for number in range(runs):
        level = 20.0 * (1 + size * (number >= at)) * (1.5 if number == 10 else 1.0)
        stats = {name: plain_stats(level * float(np.exp(rng.normal(0, 0.02)))) for name in services}
        made = make_run(stats, number=number, scenario=scenario, git={"commit": commits[number]} if commits else {})
        store.add(replace(made, validity=unfit) if number == 19 else made)
    return store


@pytest.fixture
def repository(tmp_path):
    """A commit for every run; the one of run 20 says what no terminal should obey."""
    git(tmp_path, "init", "-q", "-b", "main")
    commits = []
    for number in range(30):
        subject = f"change {number}" if number != 20 else "slow <img src=x> \x1b]0;owned\x07 | @everyone"
        git(tmp_path, "commit", "-q", "--allow-empty", "-m", subject)
        commits.append(git(tmp_path, "rev-parse", "HEAD"))
    return tmp_path, commits


def test_a_step_is_told_with_run_commit_and_size(repository, rng, monkeypatch, capsys):
    folder, commits = repository
    filled(folder / "runs", rng, commits=commits)
    monkeypatch.chdir(folder)
    assert main(["changes", "api", "--store", "runs"], sys.stdout, sys.stderr) == 0
    said = capsys.readouterr().out
    # the last valid run before is run 18, so two commits are possible
    assert f"{commits[18][:9]}..{commits[20][:9]}" in said
    assert "2 commits in between" in said
    assert "30 runs (1 invalid), 14 series, alpha 0.01: 1 event" in said
    assert "✗ regression" in said
    assert "outlier, no change: run" in said
    assert "slow <img src=x> ]0;owned | @everyone" in said
    assert "\x1b" not in said


def test_markdown_shows_hostile_names_and_obeys_none(repository, rng, capsys):
    folder, commits = repository
    filled(folder / "runs", rng, commits=commits)
    words = ["changes", "--store", str(folder / "runs"), "--format", "markdown", "--repository", str(folder)]
    assert main(words, sys.stdout, sys.stderr) == 0
    said = capsys.readouterr().out
    assert "&#60;b&#62;cart" in said
    assert not {"<img", "<b>", "@everyone", "\x1b"} & {
        word for word in ("<img", "<b>", "@everyone", "\x1b") if word in said
    }


def test_json_has_all_of_it(repository, rng, capsys):
    folder, commits = repository
    filled(folder / "runs", rng, commits=commits)
    target = folder / "out" / "changes.json"
    words = ["changes", "--all", "--store", str(folder / "runs"), "--format", "json", "--repository", str(folder)]
    assert main([*words, "--output", str(target)], sys.stdout, sys.stderr) == 0
    document = json.loads(target.read_text())
    assert document["schema"] == "perfkit.changes/1"
    (api,) = document["scenarios"]
    (event,) = api["events"]
    assert (event["kind"], event["index"], event["acknowledged"]) == ("regression", 20, False)
    assert [one["id"] for one in event["commits"]["commits"]] == [commits[20], commits[19]]
    assert {item["service"] for item in event["movements"]} == {"shop", HOSTILE}
    assert [item["index"] for item in api["outliers"]] == [10]


def test_only_what_is_asked_for_is_shown_and_events_stay_the_same(tmp_path, rng):
    store = filled(tmp_path, rng)
    (every,) = detect_changes(stored_timelines(store))
    (some,) = detect_changes(stored_timelines(store), services=["shop"], metrics=["p95"])
    assert [event.id for event in some.events] == [event.id for event in every.events]
    assert [(item.service, item.metric) for item in some.events[0].changes] == [("shop", "p95_latency_ms")]
    assert list(some.segmentations) == [("shop", "p95_latency_ms")]


@pytest.mark.parametrize(
    ("words", "code", "said"),
    [
        (["aip"], 2, "no runs of the scenario 'aip' (did you mean 'api'?)"),
        (["api", "--service", "shp"], 2, "service 'shp': is in no history"),
        (["api", "--metric", "p59"], 2, "unknown metric 'p59' (did you mean"),
        (["api", "--all"], 2, "name scenarios, or say --all"),
        (["api", "--jobs", "2", "--scheduler", "tcp://127.0.0.1:1"], 2, "say one of them"),
        (["api", "--scheduler", "nonsense://"], 2, "no Dask scheduler answers there"),
        (["api", "--scheduler", "nonsense"], 2, "write one such as tcp://10.0.0.5:8786"),
        (["api", "--scheduler", "http://127.0.0.1:8786"], 2, "write one such as tcp://10.0.0.5:8786"),
    ],
)
def test_mistakes_are_told(tmp_path, rng, capsys, words, code, said):
    filled(tmp_path, rng, runs=6)
    assert main(["changes", *words, "--store", str(tmp_path)], sys.stdout, sys.stderr) == code
    assert said in capsys.readouterr().err


def test_an_empty_store_is_never_green(tmp_path, capsys):
    assert main(["changes", "--store", str(tmp_path / "none")], sys.stdout, sys.stderr) == 2
    assert "has no runs yet" in capsys.readouterr().err


@pytest.mark.parametrize(("size", "code"), [(0.4, 1), (-0.3, 0), (0.0, 0)])
def test_it_fails_on_a_regression_when_asked_to(tmp_path, rng, capsys, size, code):
    filled(tmp_path, rng, size=size)
    words = ["changes", "api", "--store", str(tmp_path)]
    assert main(words, sys.stdout, sys.stderr) == 0
    assert main([*words, "--fail-on", "regression"], sys.stdout, sys.stderr) == code


def test_news_of_another_service_hide_no_regression(tmp_path, rng):
    """shop gets worse and stays so; cart gets worse and better again, which is the newest event."""
    store = RunStore(str(tmp_path))
    for number in range(60):
        factors = {"shop": 1.4 if number >= 20 else 1.0, "cart": 1.4 if 30 <= number < 45 else 1.0}
        stats = {
            name: plain_stats(20.0 * factor * float(np.exp(rng.normal(0, 0.02)))) for name, factor in factors.items()
        }
        store.add(make_run(stats, number=number, scenario="api"))
    found = detect_changes(stored_timelines(store))
    assert [event.kind for event in found[0].events] == ["regression", "regression", "improvement"]
    (held,) = found[0].history.worsenings
    assert held.services == ("shop",)
    assert judged(found, "regression", tmp_path) == 1
    assert judged(found, "never", tmp_path) == 0
    assert judged(found, "regression", tmp_path, held.id) == 0


def judged(found, fail_on, folder, *acknowledged):
    """The exit code, with events acknowledged under these names."""
    file = AcknowledgedFile(folder / "acknowledged.json")
    for name in acknowledged:
        event = next(event for event in found[0].events if event.answers_to(name))
        around = [found[0].timeline.runs[i].run_id for i in range(event.index - 2, event.index + 3)]
        moved = tuple(AcknowledgedChange.of_metric_change(item) for item in event.changes)
        every = (*moved, *(msgspec.structs.replace(item, metric=metric) for item in moved for metric in Metric))
        at = name if name in around else event.id
        file.add(
            Acknowledgement(
                id=at,
                scenario=found[0].scenario,
                around=tuple(around),
                changes=every,
                reason="known",
                by="me",
                created=datetime.now(UTC),
            )
        )
    today, policy = datetime.now(UTC).date(), Policy()
    watches = [
        monitor_timeline(item.history, policy.for_scenario(item.scenario), file.read(), today, ()) for item in found
    ]
    return exit_code(found, watches, fail_on)


def test_what_is_acknowledged_fails_no_more(tmp_path, rng):
    found = detect_changes(stored_timelines(filled(tmp_path, rng)))
    event = found[0].events[-1]
    assert judged(found, "regression", tmp_path) == 1
    assert judged(found, "regression", tmp_path / "id", event.id) == 0
    assert judged(found, "regression", tmp_path / "alias", event.aliases[0]) == 0  # before a run more was known


def many(rng, count=60, n=3000):
    """Series that fill several chunks, with steps, spikes, gaps and zeros."""
    tasks = []
    for number in range(count):
        values = rng.normal(100, 3, n)
        values[n // 2 :] += number % 7
        values[number] = np.nan
        values[5 * number] *= 3
        tasks.append((values if number % 5 else np.abs(values - 103), 0.01 / count))
    assert count * n > 2 * CHUNK
    return tasks


def test_processes_give_the_same_to_the_last_bit(rng):
    tasks, told = many(rng), []
    assert segment_all(tasks, jobs=2, on_progress=lambda *said: told.append(said)) == segment_all(tasks, jobs=1)
    assert told[-1] == (60, 60)
    assert [done for done, _ in told] == sorted(done for done, _ in told)


@pytest.mark.slow
def test_a_cluster_gives_the_same_to_the_last_bit(rng):
    from distributed import LocalCluster

    tasks, told = many(rng), []
    with LocalCluster(n_workers=2, threads_per_worker=1, processes=True, dashboard_address=":0") as cluster:
        found = segment_all(tasks, scheduler=cluster.scheduler_address, on_progress=lambda *said: told.append(said))
    assert found == segment_all(tasks, jobs=1)
    assert told[-1] == (60, 60)


@pytest.mark.slow
def test_a_cluster_that_loses_its_workers_is_told(rng, monkeypatch):
    from distributed import LocalCluster

    monkeypatch.setattr("perfkit.model.executors.ALIVE_S", 0.5)
    with LocalCluster(n_workers=1, threads_per_worker=1, processes=True, dashboard_address=":0") as cluster:
        tell = lambda done, _: cluster.scale(0)  # noqa: E731 - the first result is the last one
        with pytest.raises(HistoryError, match="no worker is left"):
            segment_all(many(rng, count=400, n=2000), scheduler=cluster.scheduler_address, on_progress=tell)


def test_without_dask_the_extra_is_named(monkeypatch):
    monkeypatch.setitem(sys.modules, "distributed", None)
    with pytest.raises(MissingExtra, match="install perfkit with the extra `dask`"):
        segment_all([], scheduler="tcp://127.0.0.1:8786")


def test_where_no_scheduler_listens(closed_port, monkeypatch):
    monkeypatch.setattr("perfkit.model.executors.CONNECT_S", 0.5)
    with pytest.raises(SettingsError, match="no Dask scheduler answers there"):
        segment_all([], scheduler=f"tcp://127.0.0.1:{closed_port}")


@pytest.fixture
def closed_port():
    from perfkit.loadgen.service_under_test import free_port

    return free_port()


def test_nothing_to_look_at():
    assert segment_all([]) == []


def test_a_metric_that_no_run_could_tell_is_refused_and_no_agreement():
    lines = [
        timeline_of("api", [make_run({"a": ServiceStats(500, 0, avg_latency_ms=20.0)}, number=n) for n in range(5)])
    ]
    with pytest.raises(SettingsError, match=r"no run could tell p999_latency_ms of any service; there are avg_latency"):
        detect_changes(lines, metrics=["p999"])


@pytest.mark.parametrize(
    ("slow", "factor", "words", "code"),
    [
        (1, 1.4, (), 1),  # nobody can tell it from an outlier yet; compare fails, and so must this
        (2, 1.4, (), 1),
        (5, 1.4, (), 1),  # the history shows it by itself
        (2, 1.4, ("--service", "cart"), 0),
        (1, 1.0, (), 0),
    ],
)
def test_it_ends_as_the_comparison_of_the_newest_run_does(
    tmp_path, rng, capsys, monkeypatch, slow, factor, words, code
):
    monkeypatch.chdir(tmp_path)
    groups = [
        nights(rng, count, first=first, services=("shop", "cart"), factor=slower, slow=("shop",))
        for first, count, slower in ((0, 40, 1.0), (40, slow, factor))
    ]
    store, ids = stored(tmp_path / "runs", *groups)
    where = ("--store", store.address)
    compared = main(["compare", "--candidate", ids[-1], *where], sys.stdout, sys.stderr)
    assert compared == (1 if factor > 1 else 0)
    capsys.readouterr()
    assert main(["changes", "api", *words, *where, "--fail-on", "regression"], sys.stdout, sys.stderr) == code
    said = f"! Not confirmed yet, and a regression of the newest run ({ids[-1]}) against the runs before it: shop got"
    assert (said in capsys.readouterr().err) == (code == 1 and slow < 5)
    assert main(["changes", "api", *words, *where], sys.stdout, sys.stderr) == 0


def test_a_newest_run_that_is_acknowledged_fails_no_more(tmp_path, rng, monkeypatch):
    monkeypatch.chdir(tmp_path)
    store, ids = stored(tmp_path / "runs", nights(rng, 40), nights(rng, 2, first=40, factor=1.4))
    where = ("--store", store.address)
    words = ["changes", "api", *where, "--fail-on", "regression"]
    assert main(words, sys.stdout, sys.stderr) == 1
    words_of_ack = ["ack", ids[-2], "--reason", "intended", *where]
    assert main(words_of_ack, sys.stdout, sys.stderr) == 2  # two runs begin no event of the history yet: it asks
    assert main([*words_of_ack, "--yes"], sys.stdout, sys.stderr) == 0
    assert main(words, sys.stdout, sys.stderr) == 0
