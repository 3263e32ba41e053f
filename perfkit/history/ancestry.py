"""The commits that a checkout descends from, as git tells them: where a branch left, and what was before."""

from __future__ import annotations

import subprocess
from dataclasses import dataclass
from pathlib import Path

from perfkit.errors import ReadError

MAIN = ("origin/HEAD", "origin/main", "main", "origin/master", "master")  # tried in this order
FARTHEST = 2000  # commits: runs that are older belong to another time


@dataclass(frozen=True, slots=True)
class Ancestry:
    """Commits whose runs may serve as baseline, nearest first; ``left`` says in words where the branch left."""

    commits: tuple[str, ...]
    left: str


def ancestry_of(folder: Path, branch: str = "") -> Ancestry:
    """Where the current branch left ``branch`` (else the main one), and the first parents from there on.

    On that branch itself, with nothing changed since the last commit, the ancestors begin at the commit before: what is
    to be judged is no baseline.

    Raises
    ------
    ReadError
        Not a repository, an unknown branch, or a clone too shallow to tell.
    """
    main = _main_branch(folder, branch)
    head, tip = _commit(folder, "HEAD"), _commit(folder, main)
    base = _git(folder, "merge-base", tip, head)
    if not base:
        shallow = _git(folder, "rev-parse", "--is-shallow-repository") == "true"
        todo = "fetch the whole history (git fetch --unshallow)" if shallow else "name another branch"
        raise ReadError(f"{folder}: HEAD and {main} have no commit in common; {todo}")
    commits = _git(folder, "rev-list", "--first-parent", f"--max-count={FARTHEST}", base).split()
    if base == head and not _git(folder, "status", "--porcelain", "--untracked-files=no"):
        return Ancestry(tuple(commits[1:]), f"HEAD has not left {main}, so its parent {_parent(commits)} counts")
    return Ancestry(tuple(commits), f"the branch left {main} at {base[:10]}")


def _parent(commits: list[str]) -> str:
    return commits[1][:10] if len(commits) > 1 else "(none)"


def _main_branch(folder: Path, branch: str) -> str:
    if not _git(folder, "rev-parse", "--git-dir"):
        raise ReadError(f"{folder}: not in a git repository; merge-base needs the checkout of what is judged")
    for name in (branch, f"origin/{branch}") if branch else MAIN:
        if _commit(folder, name):
            return name
    looked = branch or ", ".join(MAIN)
    raise ReadError(f"{folder}: git knows no branch {looked}; name one, such as SCENARIO@merge-base:develop")


def _commit(folder: Path, name: str) -> str:
    """The commit of a name; empty when git knows none."""
    return _git(folder, "rev-parse", "--verify", "--quiet", "--end-of-options", f"{name}^{{commit}}")


def _git(folder: Path, *words: str) -> str:
    """What git prints; empty when it says no.  Names from outside come after ``--end-of-options``, or as hashes."""
    try:
        done = subprocess.run(
            ["git", "-C", str(folder), *words], capture_output=True, text=True, errors="replace", check=False
        )
    except OSError as error:
        raise ReadError(f"git: cannot be started ({error.strerror}); merge-base needs it") from error
    return done.stdout.strip() if done.returncode == 0 else ""
