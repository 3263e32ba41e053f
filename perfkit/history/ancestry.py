"""The commits that a checkout descends from, as git tells them: where a branch left, and what was before."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

from perfkit.errors import ReadError
from perfkit.git import Git, GitError

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
    git = Git(folder)
    try:
        return _ancestry(git, branch)
    except GitError as error:
        raise ReadError(f"{error}; merge-base needs the checkout of what is judged") from error


def _ancestry(git: Git, branch: str) -> Ancestry:
    main, tip = _main_branch(git, branch)
    head = git.text("rev-parse", "--verify", "HEAD")
    base = git.ask("merge-base", tip, head).text
    if not base:
        todo = "fetch the whole history (git fetch --unshallow)" if git.is_shallow() else "name another branch"
        raise ReadError(f"{git.folder}: HEAD and {main} have no commit in common; {todo}")
    commits = git.text("rev-list", "--first-parent", f"--max-count={FARTHEST}", base).split()
    if base == head and not git.is_dirty():
        return Ancestry(tuple(commits[1:]), f"HEAD has not left {main}, so its parent {_parent(commits)} counts")
    return Ancestry(tuple(commits), f"the branch left {main} at {base[:10]}")


def _parent(commits: list[str]) -> str:
    return commits[1][:10] if len(commits) > 1 else "(none)"


def _main_branch(git: Git, branch: str) -> tuple[str, str]:
    """Name and newest commit of the branch that was named, else of the main one."""
    git.text("rev-parse", "--git-dir")
    for name in (branch, f"origin/{branch}") if branch else MAIN:
        if (tip := git.commit(name)) is not None:
            return name, tip
    looked = branch or ", ".join(MAIN)
    raise ReadError(f"{git.folder}: git knows no branch {looked}; name one, such as SCENARIO@merge-base:develop")
