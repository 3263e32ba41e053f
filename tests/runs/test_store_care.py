"""Old requests go before old runs, baselines stay; damage is told; copies are whole; a git branch keeps summaries."""

import json
import os
import subprocess
import time
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace
from datetime import UTC, datetime, timedelta

import numpy as np
import pandas as pd
import pytest
from samples import EPOCH, REPOSITORY, plain_stats, requests, run

from perfkit import RunStore, StoreError, run_from_requests
from perfkit.history.timeline import load_timeline
from perfkit.loadgen.run import upload
from perfkit.runs.maintenance import (
    exported,
    measurements,
    parse_age,
    parse_size,
    plan_removal,
    plan_retention,
    protected_runs,
    remove,
    size_text,
    sync,
    verify_run,
)

DAY = 86_400.0
NOW = datetime.fromtimestamp(EPOCH, UTC) + timedelta(days=100)


@pytest.fixture
def store(rng, tmp_path):
    """A run every ten days, the oldest 100 days old, each with its requests."""
    kept = RunStore(tmp_path / "runs")
    for number in range(10):
        frame = requests(rng, seconds=2, services={"a": 20.0}, begin=EPOCH + 10 * DAY * number)
        kept.add(run_from_requests(frame, scenario="api", build=str(number)))
    return kept


def fsck(store):
    return {found.run_id: found for found in (verify_run(store, run_id) for run_id in store.ids())}


# Retention ------------------------------------------------------------------------------------------------------------


def test_requests_go_first_runs_last_and_baselines_never(store, tmp_path):
    ids = store.ids()
    folder = tmp_path / "baselines"
    folder.mkdir()
    (folder / "v1.json").write_text(
        json.dumps({"schema": "perfkit.baseline/1", "runs": [ids[0], f"data/runs/{ids[5]}"]})
    )
    keep = {"requests_for": timedelta(days=35), "runs_for": timedelta(days=75)}
    plan = plan_retention(store, protected_runs(folder), now=NOW, **keep)
    assert [(item.what, item.name) for item in plan] == [
        *(("requests", run_id) for run_id in (ids[3], ids[4], ids[6])),
        *(("run", run_id) for run_id in (ids[1], ids[2])),
    ]
    before = sum(folders(store).values())
    freed = remove(store, plan)
    assert store.ids() == [ids[0], *ids[3:]]
    assert len(store.history("api", "a", "rps")) == 8
    assert store.get(ids[3]).requests() is None
    assert store.get(ids[0]).requests() is not None
    notes = sum(size for name, size in folders(store).items() if name.endswith("dropped.json"))
    assert before - freed == sum(folders(store).values()) - notes
    assert plan_retention(store, protected_runs(folder), now=NOW, **keep) == ()
    assert not any(found.problems for found in fsck(store).values())


def test_a_store_that_is_too_large_loses_requests_before_runs(store):
    total = sum(store.backend.files("").values())
    requests_size = sum(size for name, size in store.backend.files("").items() if name.endswith("parquet"))
    plan = plan_retention(store, {}, most_bytes=total - 1, now=NOW)
    assert [(item.what, item.name) for item in plan] == [("requests", store.ids()[0])]
    plan = plan_retention(store, {store.ids()[1]: "x"}, most_bytes=total - requests_size - 1, now=NOW)
    assert [item.what for item in plan] == ["requests"] * 9 + ["run"] * (len(plan) - 9)
    assert store.ids()[1] not in {item.name for item in plan}
    plan = plan_retention(store, {}, most_bytes=0, now=NOW)
    assert sum(item.size for item in plan) <= total
    assert [item.what for item in plan] == ["requests"] * 10 + ["run"] * 10


def test_without_limits_only_leftovers_go(store):
    old, young = store.folder / ".incoming-aa", store.folder / ".incoming-bb"
    for folder in (old, young):
        folder.mkdir()
        (folder / "requests.parquet").write_bytes(b"12345")
    store.runs()
    half = store.folder / ".index" / ".runs.arrow.0123456789ab"
    half.write_bytes(b"1234567")
    for path in (old, half, store.folder / ".index" / "runs.arrow"):
        os.utime(path, (time.time() - 2 * DAY,) * 2)
    plan = plan_retention(store, {}, now=NOW)
    assert [(item.what, item.name, item.size) for item in plan] == [
        ("leftover", old.name, 5),
        ("leftover", f".index/{half.name}", 7),
    ]
    remove(store, plan)
    assert not old.exists()
    assert [path.name for path in half.parent.iterdir()] == ["runs.arrow"]
    assert young.exists()
    assert len(store.ids()) == 10


def test_a_baseline_that_cannot_be_read_stops_everything(tmp_path):
    (tmp_path / "v1.json").write_text("{")
    with pytest.raises(
        StoreError, match=r"v1.json: not JSON: .*; so the runs that this baseline protects are not known"
    ):
        protected_runs(tmp_path)
    assert protected_runs(tmp_path / "nothing") == {}


def test_a_run_of_a_baseline_is_not_removed_by_name_either(store):
    one, other = store.ids()[:2]
    with pytest.raises(StoreError, match=r"the baseline v1\.json needs it"):
        plan_removal(store, [other, one], {one: "v1.json"})
    plan = plan_removal(store, [other], {one: "v1.json"}, only_requests=True)
    remove(store, plan)
    assert other in store.ids()
    store.quarantine(other, "odd")
    assert remove(store, plan_removal(store, [other], {})) > 1000
    assert other not in store.ids()
    assert store.quarantined() == {}
    assert not [path for path in store.folder.iterdir() if path.name.startswith(".outgoing")]


@pytest.mark.parametrize("text", ["", "x", "3", "-3d", "0d", "3 months", "1e3d", "nand"])
def test_an_age_that_is_none(text):
    with pytest.raises(ValueError, match="expected an age such as 90d"):
        parse_age(text)


def test_ages_and_sizes():
    assert (parse_age("36h"), parse_age(" 2W ")) == (timedelta(hours=36), timedelta(weeks=2))
    assert (parse_size("1.5 GB"), parse_size("0b")) == (1_500_000_000, 0)
    assert [size_text(size) for size in (0, 999, 1000, 20_480_000, 3 * 10**12)] == [
        "0 B",
        "999 B",
        "1 kB",
        "20.5 MB",
        "3 TB",
    ]
    with pytest.raises(ValueError, match="expected a size"):
        parse_size("many")


# Damage ---------------------------------------------------------------------------------------------------------------


def flip(path, at=-20):
    content = bytearray(path.read_bytes())
    content[at] ^= 1
    path.write_bytes(bytes(content))


def edit(path):
    path.write_text(path.read_text().replace('"scenario": "api"', '"scenario": "apu"'))


@pytest.mark.parametrize(
    ("damage", "name", "said"),
    [
        (flip, "requests.parquet", "requests.parquet is not the file that was written"),
        (os.unlink, "requests.parquet", "requests.parquet is missing"),
        (edit, "run.json", "run.json was changed after it was written"),
        (lambda path: path.write_text("{"), "run.json", "run.json: not JSON"),
    ],
)
def test_damage_is_told(store, damage, name, said):
    one = store.ids()[3]
    assert not fsck(store)[one].problems
    damage(store.folder / one / name)
    found = fsck(store)
    assert said in found[one].problems[0]
    assert [run_id for run_id, item in found.items() if item.problems] == [one]


def test_runs_of_an_earlier_perfkit_are_held_against_their_requests(tmp_path):
    import shutil

    shutil.copytree(REPOSITORY / "data" / "samples" / "baseline", tmp_path / "runs")
    store = RunStore(tmp_path / "runs")
    first, other = store.ids()[:2]
    assert not any(found.problems for found in fsck(store).values())
    assert "has no seal" in fsck(store)[first].notes[0]
    shutil.copy(store.folder / other / "requests.parquet", store.folder / first / "requests.parquet")
    assert "holds 4,259 requests; run.json was made of 4,267" in fsck(store)[first].problems[0]


def test_a_copied_folder_is_noted(store):
    (store.folder / store.ids()[0]).rename(store.folder / "20990101T000000Z-api-copy")
    assert "the folder was renamed" in fsck(store)["20990101T000000Z-api-copy"].notes[0]
    assert store.get("20990101T000000Z-api-copy").id == "20990101T000000Z-api-copy"


# Copies ---------------------------------------------------------------------------------------------------------------


def folders(store):
    every = store.backend.files("")
    return {
        name: size for name, size in every.items() if not name.rpartition("/")[2].startswith(".") and name[0] != "."
    }


def test_a_copy_is_whole_and_made_once(store, s3, tmp_path):
    (store.folder / store.ids()[0] / "source").mkdir()
    (store.folder / store.ids()[0] / "source" / "locust.log").write_text("hello")
    store.quarantine(store.ids()[1], "odd")
    there, back = RunStore(f"{s3}/{tmp_path.name}"), RunStore(tmp_path / "back")
    done = []
    first = sync(store, there, lambda *facts: done.append(facts))
    assert (len(first.copied), first.present, first.refused) == (10, 0, ())
    assert done[-1] == (10, 10)
    again = sync(store, there)
    assert (again.copied, again.present) == ((), 10)
    sync(there, back)
    assert folders(back) == folders(there) == folders(store)
    assert list(back.quarantined()) == [store.ids()[1]]
    for path in folders(store):
        assert back.backend.read(path) == store.backend.read(path)
    assert not any(found.problems for found in (*fsck(there).values(), *fsck(back).values()))


def test_an_interrupted_copy_is_taken_up_again(store, tmp_path):
    class Stop(Exception):
        pass

    def stop(done, wanted):
        if done == 4:
            raise Stop

    there = RunStore(tmp_path / "there")
    with pytest.raises(Stop):
        sync(store, there, stop)
    assert 4 <= len(there.ids()) <= 10
    rest = sync(store, there)
    assert len(rest.copied) + rest.present == 10
    assert folders(there) == folders(store)


def test_damaged_runs_are_not_copied_and_named(store, tmp_path):
    bad, broken = store.ids()[:2]
    flip(store.folder / bad / "requests.parquet")
    (store.folder / broken / "run.json").write_text("{")
    found = sync(store, RunStore(tmp_path / "there"))
    assert len(found.copied) == 8
    assert [name for name, _ in found.refused] == [bad, broken]


def test_two_runs_of_one_id_in_two_stores_are_both_kept(tmp_path):
    one = run({"a": plain_stats()})
    left, right = RunStore(tmp_path / "left"), RunStore(tmp_path / "right")
    left.add(one)
    right.add(replace(one, content_hash="f" * 64, labels={"of": "right"}))
    found = sync(left, right)
    assert len(right.ids()) == 2
    assert found.copied != (one.id,)
    assert not any(item.problems or item.notes for item in fsck(right).values())
    assert sync(left, right).present == 1


def test_copies_made_at_once_hold_every_run_once(store, tmp_path):
    there = str(tmp_path / "there")
    with ThreadPoolExecutor(4) as pool:
        list(pool.map(lambda _: sync(RunStore(store.url), RunStore(there)), range(4)))
    assert RunStore(there).ids() == store.ids()


# A git branch ---------------------------------------------------------------------------------------------------------


@pytest.fixture
def repository(tmp_path, monkeypatch):
    """A repository with one commit on main, where git knows no author."""
    for name in ("GIT_CONFIG_GLOBAL", "GIT_CONFIG_SYSTEM"):
        monkeypatch.setenv(name, os.devnull)
    monkeypatch.setenv("HOME", str(tmp_path))
    folder = tmp_path / "repository"
    git(tmp_path, "init", "-q", "-b", "main", str(folder))
    (folder / "file.txt").write_text("work\n")
    git(folder, "add", "file.txt")
    git(folder, "-c", "user.name=A", "-c", "user.email=a@b", "commit", "-q", "-m", "first")
    (folder / "file.txt").write_text("work that is not committed\n")
    return folder


def git(folder, *words):
    return subprocess.run(["git", "-C", folder, *words], check=True, capture_output=True, text=True).stdout


def branch(repository, name="perf-history"):
    return RunStore(f"git+branch://{name}?repository={repository}")


def test_a_git_branch_keeps_summaries_and_leaves_the_work_alone(repository, store):
    kept = branch(repository)
    assert kept.ids() == []
    before = git(repository, "status", "--porcelain"), git(repository, "rev-parse", "main")
    one = store.get(store.ids()[0])
    assert kept.add(one) == kept.add(one) == one.id
    other = kept.add(replace(one, content_hash="0" * 64))
    assert branch(repository).ids() == sorted([one.id, other])
    assert (git(repository, "status", "--porcelain"), git(repository, "rev-parse", "main")) == before
    assert git(repository, "log", "--format=%an", "perf-history").split() == ["perfkit"] * 2
    assert git(repository, "rev-list", "--max-parents=0", "perf-history") != git(repository, "rev-parse", "main")
    again = kept.get(one.id)
    assert (again.services, again.requests()) == (one.services, None)
    kept.backend.remove_runs([other])
    assert kept.ids() == [one.id]
    assert not verify_run(kept, one.id).problems


def test_the_past_of_a_git_branch_is_followed_without_its_index_being_committed(repository, store):
    kept = branch(repository, "perf/history")
    found = sync(store, kept)
    assert len(found.copied) == 10
    assert git(repository, "rev-list", "--count", "perf/history").strip() == "1"
    told, read = load_timeline(kept, "api"), load_timeline(store, "api")
    for key, values in read.series.items():
        np.testing.assert_array_equal(told.series[key], values)
    files = git(repository, "ls-tree", "-r", "--name-only", "perf/history").split()
    assert {name.rpartition("/")[2] for name in files} == {"run.json"}
    kept.quarantine(store.ids()[0], "odd")
    assert list(branch(repository, "perf/history").quarantined()) == [store.ids()[0]]
    assert sync(kept, branch(repository, "copy")).refused == ()


def test_writers_of_one_branch_at_once_lose_nothing(repository):
    runs = [run({"a": plain_stats(20.0 + n)}, number=n) for n in range(12)]
    with ThreadPoolExecutor(4) as pool:
        ids = list(pool.map(lambda one: branch(repository).add(one), [*runs, *runs]))
    assert sorted(set(ids)) == branch(repository).ids()
    assert len(branch(repository).ids()) == 12
    git(repository, "fsck", "--strict")


def test_two_runners_that_push_at_once_are_brought_together(repository, tmp_path):
    """The lines of the documentation: a push that comes second is refused, and a sync merges."""
    git(tmp_path, "init", "-q", "--bare", str(tmp_path / "origin"))
    clones = [tmp_path / name for name in ("one", "two")]
    for number, clone in enumerate(clones):
        git(tmp_path, "clone", "-q", str(repository), str(clone))
        git(clone, "remote", "set-url", "origin", str(tmp_path / "origin"))
        branch(clone).add(run({"a": plain_stats()}, number=number))
    git(clones[0], "push", "-q", "origin", "perf-history")
    with pytest.raises(subprocess.CalledProcessError):
        git(clones[1], "push", "-q", "origin", "perf-history")
    git(clones[1], "fetch", "-q", "origin", "perf-history:merged")
    sync(branch(clones[1]), branch(clones[1], "merged"))
    git(clones[1], "push", "-q", "origin", "merged:perf-history")
    git(clones[0], "fetch", "-q", "origin", "perf-history:all")
    assert len(branch(clones[0], "all").ids()) == 2


def test_summaries_that_come_back_from_a_branch_are_whole(repository, store, tmp_path):
    sync(store, branch(repository))
    back, on = RunStore(tmp_path / "back"), RunStore(tmp_path / "on")
    sync(branch(repository), back)
    assert not any(found.problems for found in fsck(back).values())
    assert fsck(back)[store.ids()[0]].notes == ("its requests were dropped",)
    assert sync(back, on).refused == ()
    assert folders(on) == folders(back)


@pytest.mark.parametrize("name", ["ü<&>|\"'`$(x)", "-x", "HEAD", "a#b", "x/y+z", "100%25"])
def test_a_branch_may_be_called_what_git_allows(repository, name):
    kept = branch(repository, name)
    one = kept.add(run({"a": plain_stats()}))
    assert kept.ids() == [one]
    assert one in git(repository, "ls-tree", "--name-only", f"refs/heads/{name.replace('%25', '%')}")
    assert git(repository, "rev-list", "--count", "main").strip() == "1"


def test_a_folder_below_the_repository_will_do(repository, monkeypatch):
    one = branch(repository).add(run({"a": plain_stats()}))
    (repository / "service").mkdir()
    monkeypatch.chdir(repository / "service")
    below = RunStore("git+branch://perf-history")
    assert below.add(run({"a": plain_stats()})) == one
    other = below.add(run({"a": plain_stats(21.0)}, number=1))
    assert below.ids() == branch(repository).ids() == [one, other]
    below.backend.remove_runs([other])
    assert branch(repository).ids() == [one]


def test_a_run_that_its_store_does_not_take_is_kept_here(repository, store, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    one = store.get(store.ids()[0])
    (store.folder / one.id / "source").mkdir()
    (store.folder / one.id / "source" / "locust.log").write_text("hello")
    with pytest.raises(
        StoreError, match=r"checked out.*the run is kept in data/unsent, `perfkit store sync .*` sends it"
    ):
        upload(one, store.folder / one.id, branch(repository, "main"))
    assert folders(RunStore("data/unsent")) == {
        name: size for name, size in folders(store).items() if name.startswith(one.id)
    }
    assert sync(RunStore("data/unsent"), branch(repository)).copied == (one.id,)


def test_a_branch_that_somebody_works_on_is_left_alone(repository):
    before = git(repository, "status", "--porcelain"), git(repository, "rev-parse", "main")
    with pytest.raises(StoreError, match=r"is checked out in .*repository, where runs would seem deleted"):
        branch(repository, "main").add(run({"a": plain_stats()}))
    assert (git(repository, "status", "--porcelain"), git(repository, "rev-parse", "main")) == before


def test_a_branch_that_cannot_be_made_is_refused_in_the_words_of_git(repository):
    branch(repository, "a").add(run({"a": plain_stats()}))
    with pytest.raises(StoreError, match="'refs/heads/a' exists; cannot create 'refs/heads/a/b'"):
        branch(repository, "a/b").add(run({"a": plain_stats()}))


def test_a_document_that_git_has_lost_hides_no_other(repository):
    kept = branch(repository)
    ids = [kept.add(run({"a": plain_stats()}, number=number)) for number in range(2)]
    blob = git(repository, "rev-parse", f"perf-history:{ids[0]}/run.json").strip()
    (repository / ".git" / "objects" / blob[:2] / blob[2:]).unlink()
    assert list(branch(repository).runs()["id"]) == ids[1:]
    assert "git has lost its content" in branch(repository).broken()[ids[0]]


def test_a_repository_with_long_hashes(tmp_path, repository):
    git(tmp_path, "init", "-q", "--object-format=sha256", str(tmp_path / "long"))
    kept = branch(tmp_path / "long")
    ids = [kept.add(run({"a": plain_stats()}, number=number)) for number in range(2)]
    kept.backend.remove_runs(ids[:1])
    assert kept.ids() == ids[1:]


@pytest.mark.parametrize(
    ("url", "said"),
    [
        ("git+branch://perf-history?repository=nowhere", "git rev-parse in nowhere failed: fatal: "),
        ("git+branch://a..b?repository=HERE", "'a..b' is not the name of a branch"),
        ("git+branch://?repository=HERE", "'' is not the name of a branch"),
        ("git+branch://x?repo=HERE", "unknown part 'repo'; known is .repository=PATH"),
        ("git+branch://x?repository=", "unknown part 'repository='"),
        ("git+branch://[x?repository=HERE", r"'\[x' is not the name of a branch"),
        ("git+branch://x\ny?repository=HERE", r"'x.ny' is not the name of a branch"),
        ("git+branch://x%00?repository=HERE", "the letter NUL"),
    ],
)
def test_addresses_of_git_branches_that_are_none(repository, url, said):
    with pytest.raises(StoreError, match=said):
        RunStore(url.replace("HERE", str(repository)))


# Export ---------------------------------------------------------------------------------------------------------------


def test_a_run_without_a_date_is_exported_too(tmp_path):
    store = RunStore(tmp_path)
    store.add(run({"a": plain_stats()}))
    store.add(replace(run({"a": plain_stats()}, number=1), id="undated-api-1234", started_at=None))
    rows = json.loads(exported(measurements(store, store.ids()), "json"))
    assert [row["started_at"] for row in rows] == ["2025-10-17T14:30:04+00:00", None]


@pytest.mark.parametrize("format_", ["csv", "parquet", "json"])
def test_an_export_holds_every_number(store, tmp_path, format_):
    import io

    store.add(run({"b,\n": plain_stats(), "c": plain_stats(7.0, p999_latency_ms=None)}, number=-3, scenario="x"))
    frame = measurements(store, store.ids())
    assert len(frame) == 12
    content = exported(frame, format_)
    if format_ == "json":
        again = pd.DataFrame(json.loads(content))
    else:
        again = {"csv": pd.read_csv, "parquet": pd.read_parquet}[format_](io.BytesIO(content))
    assert list(again.columns) == list(frame.columns)
    for column in ("id", "service", "count", "p95_latency_ms", "rps_se", "valid"):
        assert list(again[column]) == list(frame[column])
    times = pd.to_datetime(again["started_at"], format="ISO8601")
    assert list(times) == list(frame["started_at"])
    one = store.get(store.ids()[-1])
    assert frame["p95_latency_ms"].iloc[-1] == one.services["a"].p95_latency_ms
    assert pd.isna(frame.loc[frame["service"] == "c", "p999_latency_ms"]).all()
