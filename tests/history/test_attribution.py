"""Between which commits: real repositories, and all that can be amiss with them."""

from datetime import UTC, datetime

import pytest
from repositories import commit, git

from perfkit.history.commits import MOST_COMMITS, Attribution, attribute, commits_between
from perfkit.history.events import Event, MetricChange, RunReference
from perfkit.model.records import Metric
from perfkit.stats.changepoints import ChangePoint


@pytest.fixture
def repository(tmp_path):
    folder = tmp_path / "repo with spaces"
    folder.mkdir()
    git(folder, "init", "-q", "-b", "main")
    return folder


def test_the_commits_in_between_newest_first(repository):
    ids = [commit(repository, f"change {i}") for i in range(4)]
    found = commits_between(ids[0], ids[3], repository)
    assert [(one.id, one.subject, one.author) for one in found.commits] == [
        (ids[i], f"change {i}", "Ann") for i in (3, 2, 1)
    ]
    assert (found.total, found.notes) == (3, ())
    assert found.span == f"{ids[0][:9]}..{ids[3][:9]}"
    datetime.fromisoformat(found.commits[0].date)


def test_subjects_are_text_and_nothing_else(repository):
    hostile = "$(touch owned); `touch owned` | <script>alert(1)</script> \x1b[31m\u202e --output=owned % %H"
    first = commit(repository, "first")
    last = commit(repository, hostile)
    (one,) = commits_between(first, last, repository).commits
    assert one.subject == hostile
    assert not (repository / "owned").exists()


@pytest.mark.parametrize("name", ["--output=owned", "HEAD", "main; touch owned", "$(touch owned)", "", "zzzzzzz"])
def test_what_is_no_commit_id_never_reaches_git(repository, name):
    known = commit(repository, "first")
    found = commits_between(known, name, repository)
    assert found.commits == ()
    assert ("no commit id" if name else "the run after it does not say") in found.notes[0]
    assert not (repository / "owned").exists()


def test_nobody_says_a_commit():
    assert "neither run says" in commits_between("", "").notes[0]
    assert commits_between("", "").span == ""


def test_the_same_commit_is_not_the_code(repository):
    only = commit(repository, "only")
    for other in (only, only[:10]):
        (note,) = commits_between(only, other, repository).notes
        assert f"Both runs are of the same commit {only[:9]}" in note


def test_many_are_counted_and_the_newest_listed(repository):
    ids = [commit(repository, f"change {i}") for i in range(MOST_COMMITS + 4)]
    found = commits_between(ids[0], ids[-1], repository)
    assert (found.total, len(found.commits)) == (MOST_COMMITS + 3, MOST_COMMITS)
    assert found.notes == (f"The newest {MOST_COMMITS} of {MOST_COMMITS + 3} commits are listed.",)


def test_a_commit_that_is_not_there(repository):
    known = commit(repository, "first")
    found = commits_between(known, "0123456789abcdef0123456789abcdef01234567", repository)
    assert found.notes[0].startswith("The commit 012345678 is not in this repository")


def test_a_shallow_clone_is_named(repository, tmp_path):
    ids = [commit(repository, f"change {i}") for i in range(4)]
    git(tmp_path, "clone", "-q", "--depth", "2", repository.as_uri(), "shallow")
    lost = commits_between(ids[0], ids[3], tmp_path / "shallow")
    assert lost.notes == (
        f"The commit {ids[0][:9]} is not in this shallow clone; `git fetch --unshallow` may bring it.",
    )
    near = commits_between(ids[2], ids[3], tmp_path / "shallow")
    assert [one.id for one in near.commits] == [ids[3]]
    assert "shallow clone" in near.notes[0]


def test_a_history_that_was_rewritten(repository):
    first = commit(repository, "first")
    old = commit(repository, "old")
    git(repository, "reset", "-q", "--hard", first)
    new = commit(repository, "new")
    found = commits_between(old, new, repository)
    assert [one.subject for one in found.commits] == ["new"]
    assert f"{old[:9]} is no ancestor of {new[:9]}" in found.notes[0]
    assert "1 commits of the run before are missing" in found.notes[0]


def test_a_build_that_was_taken_back(repository):
    first, last = commit(repository, "first"), commit(repository, "slow")
    found = commits_between(last, first, repository)
    assert [one.subject for one in found.commits] == ["slow"]
    assert "1 commits were taken back" in found.notes[0]


def test_without_a_repository_or_git(repository, tmp_path, monkeypatch):
    ids = [commit(repository, name) for name in ("first", "second")]
    assert commits_between(*ids).notes == ("No repository is at hand to list the commits.",)
    (note,) = commits_between(*ids, tmp_path).notes
    assert "not a git repository" in note
    monkeypatch.setenv("PATH", str(tmp_path))
    (note,) = commits_between(*ids, repository).notes
    assert note.startswith("git cannot be started: No such file or directory; install git")


def test_a_hook_of_another_repository_does_not_aim_it_elsewhere(repository, tmp_path, monkeypatch):
    ids = [commit(repository, name) for name in ("first", "second")]
    monkeypatch.setenv("GIT_DIR", str(tmp_path / "elsewhere"))
    assert [one.id for one in commits_between(*ids, repository).commits] == [ids[1]]


def event(before, after, reach):
    change = ChangePoint(1, 100.0, 120.0, 20.0, 1e-9, 18.0, 22.0)
    ends = [
        RunReference(name, datetime(2026, 1, 1, tzinfo=UTC), True, of) for name, of in (("r0", before), ("r1", after))
    ]
    return Event("r1", "api", 1, *ends, (MetricChange("a", Metric.AVG, change, reach),))


def test_an_event_tells_how_certain_its_place_is(repository):
    ids = [commit(repository, name) for name in ("first", "second")]
    sure = attribute(event(*ids, 0), repository)
    vague = attribute(event(*ids, 3), repository)
    assert (len(sure.commits), sure.notes) == (1, ())
    assert "certain to within 3 runs" in vague.notes[0]
    assert sure.commits[0].subject == "second"
    assert isinstance(vague, Attribution)
