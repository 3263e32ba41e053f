"""Which commit and branch is measured: git is asked first, then the variables of the CI system.

A pull request is built from a merge commit that exists nowhere else; what is recorded is the head commit of the pull
request, as the event file or the CI system's variables name it.
"""

from __future__ import annotations

import json
import os
import re
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from perfkit.runs.git import COMMIT_ID, Git, GitError

COMMIT, BRANCH = "PERFKIT_COMMIT", "PERFKIT_BRANCH"  # say what nothing else can
TIMEOUT_S = 10.0
MOST_EVENT_BYTES = 16 * 1024 * 1024
_REMEDY = f"set {COMMIT} and {BRANCH}"
_MERGE = re.compile(r"refs/pull/\d+/merge")


@dataclass(frozen=True, slots=True)
class Revision:
    """The commit of a build.

    Parameters
    ----------
    commit, branch
        Empty where unknown.
    dirty
        Whether tracked files differ from the commit; ``None`` where nobody can say.
    notes
        Sentences: what is unknown, why, and what helps.
    """

    commit: str = ""
    branch: str = ""
    dirty: bool | None = None
    notes: tuple[str, ...] = ()

    def to_dict(self) -> dict[str, str]:
        """As runs keep it: what is unknown is absent."""
        dirty = {} if self.dirty is None else {"dirty": "yes" if self.dirty else "no"}
        texts = {"commit": self.commit, "branch": self.branch}
        return {**{name: text for name, text in texts.items() if text}, **dirty}


@dataclass(frozen=True, slots=True)
class Build:
    """What a CI system says about the build.

    ``checked_out`` is the commit that it put into the working tree; ``is_merge`` where that was made for a pull request
    and exists nowhere else.
    """

    commit: str = ""
    branch: str = ""
    checked_out: str = ""
    is_merge: bool = False


def revision_of(folder: Path, environment: Mapping[str, str] | None = None) -> Revision:
    """The commit and branch of what a folder holds; never raises.

    Parameters
    ----------
    environment
        Variables of the CI system; ``None``: those of this process.
    """
    variables = os.environ if environment is None else environment
    build = ci_build(variables)
    try:
        revision = _from_git(Git(folder, offline=True, timeout_s=TIMEOUT_S), build)
    except GitError as error:
        revision = Revision(build.commit, build.branch, notes=_unknown(build.commit, build.branch, f"{error}"))
    commit = _commit_id(variables.get(COMMIT, "")) or revision.commit
    branch = variables.get(BRANCH, "").strip() or revision.branch
    # Changes of the working tree say nothing about another commit, which a variable names.
    dirty = revision.dirty if commit == revision.commit else None
    return Revision(commit, branch, dirty, () if commit and branch else revision.notes)


def revision_of_ref(tree: Path, ref: str) -> Revision:
    """The commit of a working tree that was made for a commit, branch or tag; never raises.

    What the CI system says is of another tree, and is not asked.
    """
    git = Git(tree, offline=True, timeout_s=TIMEOUT_S)
    try:
        names = (f"refs/heads/{ref}", f"refs/remotes/{ref}")
        is_branch = any(git.commit(name) is not None for name in names)
        return Revision(git.text("rev-parse", "HEAD"), ref if is_branch else "", _dirty(git))
    except GitError:
        return Revision()


def _from_git(git: Git, build: Build) -> Revision:
    git.text("rev-parse", "--git-dir")  # says why, where this is no repository, or another user's
    head, branch = git.commit("HEAD"), git.branch() or ""
    if head is None:
        return Revision("", branch, None, (f"The commit of what is measured is unknown: {git.folder} has none yet.",))
    commit = head
    if head == build.checked_out and build.is_merge:
        commit = build.commit
        if not commit:  # the second parent of HEAD, also in a shallow clone
            lines = git.text("cat-file", "commit", "HEAD").split("\n\n", 1)[0].splitlines()
            parents = [line.removeprefix("parent ") for line in lines if line.startswith("parent ")]
            commit = parents[1] if len(parents) == 2 else ""
    if head in (build.checked_out, build.commit):
        branch = branch or build.branch
    why = "HEAD is a merge commit of the CI system" if not commit else "HEAD is detached"
    return Revision(commit, branch, _dirty(git), _unknown(commit, branch, why))


def _dirty(git: Git) -> bool | None:
    try:
        return git.is_dirty()
    except GitError:  # too slow, or it lacks files of a partial clone
        return None


def _unknown(commit: str, branch: str, why: str) -> tuple[str, ...]:
    """What is unknown, as one sentence; nothing where both are known."""
    missing = " and ".join(name for name, value in (("commit", commit), ("branch", branch)) if not value)
    if not missing:
        return ()
    verb = "are" if " and " in missing else "is"
    return (f"The {missing} of what is measured {verb} unknown ({why}): {_REMEDY}.",)


def ci_build(variables: Mapping[str, str]) -> Build:
    """What the variables of a CI system say; the first system that names a commit counts."""
    for system in (_github, _gitlab, _azure, *map(_reader, _PLAIN), _jenkins):
        build: Build = system(variables)
        if build.checked_out:
            return build
    return Build()


def _github(variables: Mapping[str, str]) -> Build:
    checked_out = _commit_id(variables.get("GITHUB_SHA", ""))
    ref, head_branch = variables.get("GITHUB_REF", ""), variables.get("GITHUB_HEAD_REF", "")
    is_merge = bool(_MERGE.fullmatch(ref))
    if not is_merge and (ref or not head_branch):  # `pull_request_target` has a head branch, and checks out the base
        is_branch = variables.get("GITHUB_REF_TYPE", "branch") == "branch"
        return Build(checked_out, variables.get("GITHUB_REF_NAME", "") if is_branch else "", checked_out)
    head = _json_object(variables.get("GITHUB_EVENT_PATH", ""), "pull_request", "head")
    commit = _commit_id(str(head.get("sha", "")))
    branch = head_branch or str(head.get("ref") or "")
    return Build(commit or ("" if is_merge else checked_out), branch, checked_out, is_merge)


def _gitlab(variables: Mapping[str, str]) -> Build:
    checked_out = _commit_id(variables.get("CI_COMMIT_SHA", ""))
    # Empty but in pipelines of a merged result, which build a merge commit.
    head = _commit_id(variables.get("CI_MERGE_REQUEST_SOURCE_BRANCH_SHA", ""))
    names = ("CI_MERGE_REQUEST_SOURCE_BRANCH_NAME", "CI_COMMIT_BRANCH", "CI_COMMIT_SOURCE_BRANCH")
    branch = _first(variables, names)
    if not branch and not variables.get("CI_COMMIT_TAG"):
        branch = variables.get("CI_COMMIT_REF_NAME", "")
    return Build(head or checked_out, branch, checked_out)


def _azure(variables: Mapping[str, str]) -> Build:
    checked_out = _commit_id(variables.get("BUILD_SOURCEVERSION", ""))
    head = _commit_id(variables.get("SYSTEM_PULLREQUEST_SOURCECOMMITID", ""))
    branch = _first(variables, ("SYSTEM_PULLREQUEST_SOURCEBRANCH", "BUILD_SOURCEBRANCH"))
    is_branch = not branch.startswith("refs/") or branch.startswith("refs/heads/")
    return Build(head or checked_out, branch.removeprefix("refs/heads/") if is_branch else "", checked_out)


# Commits and branches, the most specific variable first
_PLAIN = (
    (("CIRCLE_SHA1",), ("CIRCLE_BRANCH",)),
    (("TRAVIS_PULL_REQUEST_SHA", "TRAVIS_COMMIT"), ("TRAVIS_PULL_REQUEST_BRANCH", "TRAVIS_BRANCH")),
    (("BITBUCKET_COMMIT",), ("BITBUCKET_BRANCH",)),
    (("BUILDKITE_COMMIT",), ("BUILDKITE_BRANCH",)),
    (("DRONE_COMMIT_SHA",), ("DRONE_SOURCE_BRANCH", "DRONE_BRANCH")),
    (
        ("APPVEYOR_PULL_REQUEST_HEAD_COMMIT", "APPVEYOR_REPO_COMMIT"),
        ("APPVEYOR_PULL_REQUEST_HEAD_REPO_BRANCH", "APPVEYOR_REPO_BRANCH"),
    ),
    (("SEMAPHORE_GIT_PR_SHA", "SEMAPHORE_GIT_SHA"), ("SEMAPHORE_GIT_PR_BRANCH", "SEMAPHORE_GIT_BRANCH")),
    (("CODEBUILD_RESOLVED_SOURCE_VERSION",), ()),
    (("BUILD_VCS_NUMBER",), ()),  # TeamCity
)


def _reader(names: tuple[tuple[str, ...], tuple[str, ...]]) -> Callable[[Mapping[str, str]], Build]:
    """A system whose variables say it plainly."""
    commits, branches = names

    def read(variables: Mapping[str, str]) -> Build:
        ids = [commit for name in commits if (commit := _commit_id(variables.get(name, "")))]
        return Build(ids[0], _first(variables, branches), ids[-1]) if ids else Build()

    return read


def _jenkins(variables: Mapping[str, str]) -> Build:
    commit = _commit_id(variables.get("GIT_COMMIT", ""))
    # Of a multibranch job: BRANCH_NAME is PR-12 for a pull request, whose own branch is CHANGE_BRANCH.
    branch = _first(variables, ("CHANGE_BRANCH", "BRANCH_NAME", "GIT_LOCAL_BRANCH", "GIT_BRANCH"))
    return Build(commit, branch.removeprefix("refs/heads/").removeprefix("origin/"), commit)


def _first(variables: Mapping[str, str], names: tuple[str, ...]) -> str:
    return next((value for name in names if (value := variables.get(name, "").strip())), "")


def _commit_id(text: str) -> str:
    """The id, or nothing for what is none, such as ``HEAD``."""
    commit = text.strip().lower()
    return commit if COMMIT_ID.fullmatch(commit) else ""


def _json_object(path: str, *keys: str) -> Mapping[str, Any]:
    """An object inside the event file; empty where there is no such file or object."""
    try:
        file = Path(path)
        if not path or not file.is_file() or file.stat().st_size > MOST_EVENT_BYTES:
            return {}
        value = json.loads(file.read_bytes())
    except (OSError, ValueError, RecursionError):
        return {}
    for key in keys:
        value = value.get(key) if isinstance(value, dict) else None
    return value if isinstance(value, dict) else {}
