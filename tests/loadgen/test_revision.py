"""Which commit and branch a run is of: git first, then the variables of the CI system; what is unknown is said."""

from __future__ import annotations

import json
import os

import pytest
from repositories import commit, git
from samples import REPOSITORY

from perfkit.loadgen.service_under_test import Build, ci_build, revision_of
from perfkit.runs.git import Git, GitError

HEAD, MERGE, OTHER = "a" * 40, "b" * 40, "c" * 40


@pytest.fixture
def repository(tmp_path):
    folder = tmp_path / "service"
    folder.mkdir()
    git(folder, "init", "-q", "-b", "main")
    (folder / "app.py").write_text("x")
    git(folder, "add", ".")
    commit(folder, "first")
    return folder


@pytest.fixture
def outside(tmp_path, monkeypatch):
    monkeypatch.setenv("GIT_CEILING_DIRECTORIES", str(tmp_path))
    folder = tmp_path / "no repository"
    folder.mkdir()
    return folder


def event(tmp_path, document):
    file = tmp_path / "event.json"
    file.write_text(document if isinstance(document, str) else json.dumps(document))
    return str(file)


def test_git_is_asked_first(repository):
    sha = git(repository, "rev-parse", "HEAD")
    revision = revision_of(repository, {"GITHUB_SHA": OTHER, "GITHUB_REF_NAME": "other", "CI_COMMIT_BRANCH": "x"})
    assert revision.to_dict() == {"commit": sha, "branch": "main", "dirty": "no"}
    assert revision.notes == ()
    (repository / "app.py").write_text("y")
    assert revision_of(repository, {}).dirty is True


def test_a_detached_head_takes_its_branch_from_the_ci_system_if_it_means_this_commit(repository):
    sha = git(repository, "rev-parse", "HEAD")
    git(repository, "checkout", "-q", "--detach")
    assert revision_of(repository, {"CI_COMMIT_SHA": sha, "CI_COMMIT_BRANCH": "feature"}).branch == "feature"
    other = revision_of(repository, {"CI_COMMIT_SHA": OTHER, "CI_COMMIT_BRANCH": "feature"})
    assert (other.commit, other.branch) == (sha, "")
    assert other.notes == (
        "The branch of what is measured is unknown (HEAD is detached): set PERFKIT_COMMIT and PERFKIT_BRANCH.",
    )


def test_a_pull_request_is_its_head_commit_not_the_merge(repository, tmp_path):
    git(repository, "checkout", "-q", "-b", "feature")
    head = commit(repository, "work")
    git(repository, "checkout", "-q", "main")
    base = commit(repository, "meanwhile")
    git(repository, "checkout", "-q", "--detach")
    git(repository, "merge", "-q", "--no-ff", "-m", "merge", "feature")
    merge = git(repository, "rev-parse", "HEAD")
    variables = {
        "GITHUB_SHA": merge,
        "GITHUB_REF": "refs/pull/7/merge",
        "GITHUB_REF_NAME": "7/merge",
        "GITHUB_HEAD_REF": "feature",
        "GITHUB_EVENT_PATH": event(tmp_path, {"pull_request": {"head": {"sha": head, "ref": "feature"}}}),
    }
    expected = {"commit": head, "branch": "feature", "dirty": "no"}
    assert revision_of(repository, variables).to_dict() == expected
    # without the event file git knows the merged commit, also where the clone is shallow
    del variables["GITHUB_EVENT_PATH"]
    assert revision_of(repository, variables).to_dict() == expected
    shallow = tmp_path / "shallow"
    git(tmp_path, "clone", "-q", "--depth", "1", f"file://{repository}", str(shallow))
    assert git(shallow, "rev-parse", "--is-shallow-repository") == "true"
    assert revision_of(shallow, variables).to_dict() == expected
    # a workflow that checks the base out to measure it measures the base
    git(repository, "checkout", "-q", base)
    assert revision_of(repository, variables).to_dict() == {"commit": base, "dirty": "no"}
    git(repository, "checkout", "-q", head)
    named = {**variables, "GITHUB_EVENT_PATH": event(tmp_path, {"pull_request": {"head": {"sha": head}}})}
    assert revision_of(repository, named).to_dict() == expected  # one that checks out the head itself


OF_HEAD = {"pull_request": {"head": {"sha": HEAD}}}
PULL_REQUEST = {"GITHUB_SHA": MERGE, "GITHUB_REF": "refs/pull/7/merge", "GITHUB_HEAD_REF": "f"}
TAG = {"GITHUB_REF": "refs/tags/v1", "GITHUB_REF_NAME": "v1", "GITHUB_REF_TYPE": "tag"}
ON_BASE = {"GITHUB_SHA": OTHER, "GITHUB_REF": "refs/heads/main", "GITHUB_REF_NAME": "main", "GITHUB_HEAD_REF": "f"}
MERGED_RESULT = {"CI_MERGE_REQUEST_SOURCE_BRANCH_SHA": HEAD, "CI_MERGE_REQUEST_SOURCE_BRANCH_NAME": "f"}
AZURE = {"SYSTEM_PULLREQUEST_SOURCEBRANCH": "refs/heads/f", "SYSTEM_PULLREQUEST_SOURCECOMMITID": HEAD}
TRAVIS = {"TRAVIS_PULL_REQUEST_SHA": HEAD, "TRAVIS_PULL_REQUEST_BRANCH": "f", "TRAVIS_BRANCH": "main"}


@pytest.mark.parametrize(
    ("variables", "event_file", "commit", "branch"),
    [
        ({"GITHUB_SHA": HEAD, "GITHUB_REF_NAME": "main"}, None, HEAD, "main"),
        ({"GITHUB_SHA": HEAD, "GITHUB_REF": "refs/heads/main", "GITHUB_REF_NAME": "main"}, None, HEAD, "main"),
        ({"GITHUB_SHA": HEAD, **TAG}, None, HEAD, ""),
        (PULL_REQUEST, OF_HEAD, HEAD, "f"),
        ({"GITHUB_SHA": MERGE, "GITHUB_HEAD_REF": "f"}, OF_HEAD, HEAD, "f"),
        (PULL_REQUEST, "no json", "", "f"),
        (PULL_REQUEST, {"pull_request": {"head": "x"}}, "", "f"),
        (PULL_REQUEST, [1], "", "f"),
        # pull_request_target runs on the base, although the event has a head
        (ON_BASE, OF_HEAD, OTHER, "main"),
        ({"CI_COMMIT_SHA": HEAD, "CI_COMMIT_REF_NAME": "main"}, None, HEAD, "main"),
        ({"CI_COMMIT_SHA": HEAD, "CI_COMMIT_REF_NAME": "v1", "CI_COMMIT_TAG": "v1"}, None, HEAD, ""),
        ({"CI_COMMIT_SHA": MERGE, **MERGED_RESULT}, None, HEAD, "f"),
        ({"GIT_COMMIT": HEAD, "GIT_BRANCH": "origin/release"}, None, HEAD, "release"),
        ({"GIT_COMMIT": HEAD, "BRANCH_NAME": "PR-7", "CHANGE_BRANCH": "f", "GIT_BRANCH": "PR-7"}, None, HEAD, "f"),
        ({"GIT_COMMIT": HEAD, "BRANCH_NAME": "main"}, None, HEAD, "main"),
        ({"BUILD_SOURCEVERSION": HEAD, "BUILD_SOURCEBRANCH": "refs/heads/a/b"}, None, HEAD, "a/b"),
        ({"BUILD_SOURCEVERSION": MERGE, **AZURE}, None, HEAD, "f"),
        ({"CIRCLE_SHA1": HEAD, "CIRCLE_BRANCH": "main"}, None, HEAD, "main"),
        ({"TRAVIS_COMMIT": MERGE, **TRAVIS}, None, HEAD, "f"),
        ({"BITBUCKET_COMMIT": HEAD, "BITBUCKET_BRANCH": "main"}, None, HEAD, "main"),
        ({"BUILDKITE_COMMIT": "HEAD", "BUILDKITE_BRANCH": "main"}, None, "", ""),
        ({"PERFKIT_COMMIT": OTHER, "PERFKIT_BRANCH": "mine", "GITHUB_SHA": HEAD}, None, OTHER, "mine"),
        ({"GITHUB_SHA": "$(touch owned)", "GIT_COMMIT": HEAD}, None, HEAD, ""),
        ({}, None, "", ""),
    ],
)
def test_without_git_the_ci_system_is_asked(outside, tmp_path, variables, event_file, commit, branch):
    if event_file is not None:
        variables = {**variables, "GITHUB_EVENT_PATH": event(tmp_path, event_file)}
    revision = revision_of(outside, variables)
    assert (revision.commit, revision.branch, revision.dirty) == (commit, branch, None)
    assert len(revision.notes) == (0 if commit and branch else 1)
    assert all("is not a git repository): set PERFKIT_COMMIT and PERFKIT_BRANCH." in note for note in revision.notes)


def test_the_first_system_that_names_a_commit_counts():
    assert ci_build({"GITHUB_SHA": HEAD, "GIT_COMMIT": OTHER}) == Build(HEAD, "", HEAD)
    assert ci_build({"GITHUB_REF_NAME": "main", "GIT_COMMIT": OTHER}).commit == OTHER


def test_no_git_at_all(outside, monkeypatch, tmp_path):
    monkeypatch.setenv("PATH", str(tmp_path))
    (note,) = revision_of(outside, {}).notes
    assert "git cannot be started: No such file or directory; install git" in note
    assert revision_of(outside, {"GITHUB_SHA": HEAD, "GITHUB_REF_NAME": "main"}).to_dict() == {
        "commit": HEAD,
        "branch": "main",
    }


def test_an_empty_repository_and_a_hook_of_another_one(tmp_path, repository, monkeypatch):
    empty = tmp_path / "empty"
    empty.mkdir()
    git(empty, "init", "-q", "-b", "trunk")
    revision = revision_of(empty, {})
    assert (revision.commit, revision.branch) == ("", "trunk")
    assert "has none yet" in revision.notes[0]
    for name in ("GIT_DIR", "GIT_WORK_TREE", "GIT_INDEX_FILE", "GIT_OBJECT_DIRECTORY"):
        monkeypatch.setenv(name, str(empty / ".git"))
    assert revision_of(repository, {}).branch == "main"


@pytest.mark.skipif(os.geteuid() != 0, reason="only root may give a folder to another user")
def test_a_repository_of_another_owner_is_named_with_the_remedy(repository, monkeypatch):
    for path in (repository, repository / ".git"):
        os.chown(path, 12345, 12345)
    monkeypatch.setenv("GIT_CONFIG_GLOBAL", os.devnull)
    monkeypatch.delenv("SUDO_UID", raising=False)
    (note,) = revision_of(repository, {}).notes
    assert f"git config --global --add safe.directory {repository}" in note
    assert revision_of(repository, {"GITHUB_SHA": HEAD, "GITHUB_REF_NAME": "main"}).commit == HEAD
    monkeypatch.setenv("GIT_CONFIG_COUNT", "1")
    monkeypatch.setenv("GIT_CONFIG_KEY_0", "safe.directory")
    monkeypatch.setenv("GIT_CONFIG_VALUE_0", str(repository))
    assert revision_of(repository, {}).branch == "main"


def test_git_says_why_it_gives_no_answer(outside):
    with pytest.raises(GitError, match="no repository is not a git repository"):
        Git(outside).text("rev-parse", "HEAD")


def test_one_module_starts_git():
    sources = (REPOSITORY / "perfkit").rglob("*.py")
    assert [path.name for path in sources if '["git"' in path.read_text(encoding="utf-8")] == ["git.py"]
