"""The service under test: the commit that is measured, the machine it runs on, and the service started from a commit.

Git is asked first, then the variables of the CI system.  A pull request is built from a merge commit that exists
nowhere else; what is recorded is the head commit of the pull request, as the event file or the variables name it.
Commands run without a shell, in a session of their own, and end with all that they started.
"""

from __future__ import annotations

import json
import os
import platform
import re
import shlex
import signal
import socket
import subprocess
import tempfile
import time
from collections.abc import Iterator, Mapping
from contextlib import ExitStack, contextmanager, suppress
from dataclasses import dataclass
from importlib import metadata
from pathlib import Path
from typing import IO, Any

from perfkit.model.errors import LoadError, SettingsError
from perfkit.runs.git import COMMIT_ID, Git, GitError

COMMIT, BRANCH = "PERFKIT_COMMIT", "PERFKIT_BRANCH"  # say what nothing else can
GIT_TIMEOUT_S = 10.0
MOST_EVENT_BYTES = 16 * 1024 * 1024
_MERGE = re.compile(r"refs/pull/\d+/merge")


def environment_fingerprint() -> dict[str, str]:
    """The facts of this machine that make runs comparable: no name, no address, nothing secret."""
    try:
        lines = Path("/proc/cpuinfo").read_text(encoding="utf-8", errors="replace").splitlines()
        models = [line.split(":", 1)[1].strip() for line in lines if line.startswith("model name")]
    except OSError:
        models = [platform.processor()]
    return {
        "cpu": next(filter(None, models), "unknown"),
        "cores": str(os.cpu_count()),
        "machine": platform.machine(),
        "os": f"{platform.system()} {platform.release()}",
        "python": platform.python_version(),
    }


def installed_versions() -> dict[str, str]:
    return {name: metadata.version(name) for name in ("perfkit", "locust", "gevent", "geventhttpclient")}


# The commit ----------------------------------------------------------------------------------------------------------


@dataclass(frozen=True, slots=True)
class Revision:
    """The commit of a build."""

    commit: str = ""  # empty where unknown, as the branch
    branch: str = ""
    dirty: bool | None = None  # whether tracked files differ from the commit; ``None`` where nobody can say
    notes: tuple[str, ...] = ()  # sentences: what is unknown, why, and what helps

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

    ``environment`` are the variables of the CI system; ``None``: those of this process.
    """
    variables = os.environ if environment is None else environment
    ci = ci_build(variables)
    git, dirty = Git(folder, offline=True, timeout_s=GIT_TIMEOUT_S), None
    try:
        git.text("rev-parse", "--git-dir")  # says why, where this is no repository, or another user's
        head, branch = git.commit("HEAD") or "", git.branch() or ""
        commit, why = head, "HEAD is detached"
        if not head:
            why = f"{git.folder} has none yet"
        elif head == ci.checked_out and ci.is_merge:
            commit, why = ci.commit, "HEAD is a merge commit of the CI system"
            if not commit:  # the second parent of HEAD, also in a shallow clone
                lines = git.text("cat-file", "commit", "HEAD").split("\n\n", 1)[0].splitlines()
                parents = [line.removeprefix("parent ") for line in lines if line.startswith("parent ")]
                commit = parents[1] if len(parents) == 2 else ""
        if head and head in (ci.checked_out, ci.commit):
            branch = branch or ci.branch
        dirty = _dirty(git) if head else None
    except GitError as error:
        commit, branch, why = ci.commit, ci.branch, str(error)
    named = _commit_id(variables.get(COMMIT, ""))
    if named and named != commit:  # changes of the working tree say nothing about another commit
        commit, dirty = named, None
    branch = variables.get(BRANCH, "").strip() or branch
    missing = " and ".join(name for name, value in (("commit", commit), ("branch", branch)) if not value)
    if not missing:
        return Revision(commit, branch, dirty)
    verb = "are" if " and " in missing else "is"
    note = f"The {missing} of what is measured {verb} unknown ({why}): set {COMMIT} and {BRANCH}."
    return Revision(commit, branch, dirty, (note,))


def revision_of_ref(tree: Path, ref: str) -> Revision:
    """The commit of a working tree that was made for a commit, branch or tag; never raises.

    What the CI system says is of another tree, and is not asked.
    """
    git = Git(tree, offline=True, timeout_s=GIT_TIMEOUT_S)
    try:
        is_branch = any(git.commit(f"refs/{kind}/{ref}") is not None for kind in ("heads", "remotes"))
        return Revision(git.text("rev-parse", "HEAD"), ref if is_branch else "", _dirty(git))
    except GitError:
        return Revision()


def _dirty(git: Git) -> bool | None:
    try:
        return git.is_dirty()
    except GitError:  # too slow, or it lacks files of a partial clone
        return None


# Variables of commits and of branches, the most specific first; the first commit is measured, the last is checked out
CI_SYSTEMS = (
    (
        ("CI_MERGE_REQUEST_SOURCE_BRANCH_SHA", "CI_COMMIT_SHA"),  # the first is set where a merged result is built
        ("CI_MERGE_REQUEST_SOURCE_BRANCH_NAME", "CI_COMMIT_BRANCH", "CI_COMMIT_SOURCE_BRANCH", "CI_COMMIT_REF_NAME"),
    ),
    (
        ("SYSTEM_PULLREQUEST_SOURCECOMMITID", "BUILD_SOURCEVERSION"),  # Azure
        ("SYSTEM_PULLREQUEST_SOURCEBRANCH", "BUILD_SOURCEBRANCH"),
    ),
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
    # Jenkins; of a multibranch job BRANCH_NAME is PR-12 for a pull request, whose own branch is CHANGE_BRANCH
    (("GIT_COMMIT",), ("CHANGE_BRANCH", "BRANCH_NAME", "GIT_LOCAL_BRANCH", "GIT_BRANCH")),
)


def ci_build(variables: Mapping[str, str]) -> Build:
    """What the variables of a CI system say; the first system that names a commit counts."""
    build = _github_build(variables)
    if build.checked_out:
        return build
    for commit_names, branch_names in CI_SYSTEMS:
        commits = [commit for name in commit_names if (commit := _commit_id(variables.get(name, "")))]
        if commits:
            branch = next((text for name in branch_names if (text := variables.get(name, "").strip())), "")
            branch = branch.removeprefix("refs/heads/")
            if "GIT_BRANCH" in branch_names:
                branch = branch.removeprefix("origin/")
            if branch.startswith("refs/") or (variables.get("CI_COMMIT_TAG") and "CI_COMMIT_SHA" in commit_names):
                branch = ""  # a tag, say
            return Build(commits[0], branch, commits[-1])
    return Build()


def _github_build(variables: Mapping[str, str]) -> Build:
    checked_out = _commit_id(variables.get("GITHUB_SHA", ""))
    ref, head_branch = variables.get("GITHUB_REF", ""), variables.get("GITHUB_HEAD_REF", "")
    is_merge = bool(_MERGE.fullmatch(ref))
    if not is_merge and (ref or not head_branch):  # `pull_request_target` has a head branch, and checks out the base
        is_branch = variables.get("GITHUB_REF_TYPE", "branch") == "branch"
        return Build(checked_out, variables.get("GITHUB_REF_NAME", "") if is_branch else "", checked_out)
    head: Any = {}
    with suppress(OSError, ValueError, RecursionError, LookupError, TypeError):  # there may be no such file or object
        file = Path(variables["GITHUB_EVENT_PATH"])
        if file.is_file() and file.stat().st_size <= MOST_EVENT_BYTES:
            head = json.loads(file.read_bytes())["pull_request"]["head"]
    head = head if isinstance(head, dict) else {}
    commit = _commit_id(str(head.get("sha", "")))
    branch = head_branch or str(head.get("ref") or "")
    return Build(commit or ("" if is_merge else checked_out), branch, checked_out, is_merge)


def _commit_id(text: str) -> str:
    """The id, or nothing for what is none, such as ``HEAD``."""
    commit = text.strip().lower()
    return commit if COMMIT_ID.fullmatch(commit) else ""


# The service ---------------------------------------------------------------------------------------------------------

BUILD_TIMEOUT_S = 3600.0
READY_TIMEOUT_S = 60.0
END_TIMEOUT_S = 5.0
SETTLED_S = 0.3  # a service whose port is taken ends within this time
PORTS_TRIED = 3  # the service binds the port, not we: somebody may be quicker
LOG_LINES = 10  # of a command that failed, which its error repeats
PORT_IN_USE = re.compile("in use|EADDRINUSE", re.IGNORECASE)


class BuildFailed(LoadError):
    """A commit cannot be built."""


@contextmanager
def checkout(ref: str, repository: Path) -> Iterator[Path]:
    """A temporary worktree of a commit, branch or tag; ``LoadError`` when git does not know it."""
    git = Git(repository)
    with ExitStack() as stack:
        try:
            commit = git.commit(ref)
            if commit is None:
                raise LoadError(f"{ref!r}: {git.why_unknown()}")
            tree = stack.enter_context(git.worktree(commit))
        except GitError as error:
            raise LoadError(f"{ref!r}: {error}, or compare with a host") from error
        yield tree


def command_words(command: str, option: str) -> list[str]:
    """The words of a command that is started without a shell; ``SettingsError`` where it cannot be taken apart."""
    try:
        words = shlex.split(command)
    except ValueError as error:
        raise SettingsError(f"{option} {command!r}: cannot be taken apart ({error}); close what is quoted") from error
    if not words:
        raise SettingsError(f"{option} {command!r}: is empty; leave it out, or write a command")
    return words


def build(command: str | None, tree: Path) -> None:
    """Run a build command in a worktree; `BuildFailed` repeats its last lines."""
    if command is None:
        return
    try:
        with _running(command_words(command, "build"), tree) as (process, output):
            code = process.wait(BUILD_TIMEOUT_S)
            lines = _lines(output)
    except OSError as error:
        raise BuildFailed(f"build {command!r}: cannot be started: {error.strerror}") from error
    except subprocess.TimeoutExpired as error:
        raise BuildFailed(f"build {command!r}: did not end within {BUILD_TIMEOUT_S:g} s") from error
    if code:
        text = " | ".join(lines[-LOG_LINES:]) or "it wrote nothing"
        raise BuildFailed(f"build {command!r}: failed with exit code {code}: {text}")


def free_port() -> int:
    """A port of this machine that nobody listens on at the moment."""
    with socket.socket() as listener:
        listener.bind(("127.0.0.1", 0))
        port: int = listener.getsockname()[1]
    return port


@contextmanager
def running_service(command: str, folder: Path) -> Iterator[str]:
    """Start a service in a folder and yield its address once it takes connections.

    ``{port}`` in the command, and ``PORT`` in its environment, is the port that it shall listen on.  ``LoadError``,
    with its last lines, when it cannot be started, ends, or does not listen within a minute; ``SettingsError`` for a
    command that cannot be taken apart into words.
    """
    for attempt in range(1, PORTS_TRIED + 1):
        port = free_port()
        words = [word.replace("{port}", str(port)) for word in command_words(command, "serve")]
        with ExitStack() as stack:
            try:
                process, output = stack.enter_context(_running(words, folder, PORT=str(port)))
            except OSError as error:
                raise LoadError(f"{command!r} in {folder}: cannot be started: {error.strerror}.") from error
            if _listens(process, port):
                yield f"http://127.0.0.1:{port}"
                return
            lines = _lines(output)
        if attempt == PORTS_TRIED or not any(map(PORT_IN_USE.search, lines)):
            text = "".join(f"\n  {line}" for line in lines[-LOG_LINES:]) or " It wrote nothing."
            raise LoadError(f"{command!r} in {folder}: does not listen on port {port}.{text}")


def _listens(process: subprocess.Popen[bytes], port: int) -> bool:
    give_up = time.monotonic() + READY_TIMEOUT_S
    while process.poll() is None and time.monotonic() < give_up:
        try:
            socket.create_connection(("127.0.0.1", port), 1.0).close()
        except OSError:
            time.sleep(0.05)
        else:
            with suppress(subprocess.TimeoutExpired):  # it may be another's port: then the service ends
                process.wait(SETTLED_S)
            return process.poll() is None
    return False


@contextmanager
def _running(words: list[str], folder: Path, **variables: str) -> Iterator[tuple[subprocess.Popen[bytes], IO[bytes]]]:
    """A process and its output; afterwards it and what it started are ended."""
    with tempfile.TemporaryFile() as output:
        process = subprocess.Popen(
            words,
            cwd=folder,
            stdin=subprocess.DEVNULL,
            stdout=output,
            stderr=subprocess.STDOUT,
            env={**os.environ, **variables},
            start_new_session=True,
        )
        try:
            yield process, output
        finally:
            with suppress(ProcessLookupError):
                os.killpg(process.pid, signal.SIGTERM)
            with suppress(subprocess.TimeoutExpired):
                process.wait(END_TIMEOUT_S)
            with suppress(ProcessLookupError):
                os.killpg(process.pid, signal.SIGKILL)  # also what outlived it
            process.wait()


def _lines(output: IO[bytes]) -> list[str]:
    output.seek(0)
    return output.read().decode(errors="replace").splitlines()
