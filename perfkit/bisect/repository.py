"""What a bisection asks of git, and the place where git keeps its state: a working tree of its own, without files."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from perfkit.errors import HistoryError, SettingsError
from perfkit.git import Commit, Git, GitError


def ask(folder: Path, *words: str) -> str:
    """What git says; ``HistoryError`` when it fails."""
    with _as_history_error():
        return Git(folder).text(*words)


@contextmanager
def _as_history_error() -> Iterator[None]:
    try:
        yield
    except GitError as error:
        raise HistoryError(str(error)) from error


def resolve(folder: Path, name: str, what: str) -> str:
    """The id of a commit, branch or tag."""
    with _as_history_error():
        git = Git(folder)
        commit = git.commit(name)
        if commit is None:
            raise SettingsError(f"{what} {name!r}: {git.why_unknown()}; go into the repository of the service")
        return commit


def is_ancestor(folder: Path, older: str, newer: str) -> bool:
    with _as_history_error():
        return Git(folder).is_ancestor(older, newer)


def commit_of(folder: Path, commit: str) -> Commit:
    """Author, date and subject; hostile text."""
    with _as_history_error():
        return Git(folder).log(commit, 1)[0]


def common_folder(folder: Path) -> Path:
    """Where the repository itself is, whichever of its working trees is asked."""
    with _as_history_error():
        return Git(folder).common_folder()


@contextmanager
def bisection(repository: Path, good: str, bad: str) -> Iterator[Path]:
    """A bisection that is begun, in a working tree of its own; nothing of it is left afterwards.

    The tree is without files: commits are checked out elsewhere, each into a folder of its own, so that nothing that
    one build leaves behind can get into another.
    """
    with _as_history_error(), Git(repository).worktree(bad, checkout=False) as tree:
        ask(tree, "bisect", "start", "--no-checkout", bad, good)
        yield tree


def under_test(tree: Path) -> str:
    """The commit that a bisection wants to know about."""
    return ask(tree, "rev-parse", "--verify", "BISECT_HEAD")


def marks(tree: Path) -> dict[str, str]:
    """What git took commits for: id to ``good``, ``bad`` or ``skip``."""
    lines = ask(tree, "for-each-ref", "--format=%(refname:lstrip=2) %(objectname)", "refs/bisect").splitlines()
    return {commit: name.split("-")[0] for name, _, commit in (line.partition(" ") for line in lines)}


def suspects(tree: Path) -> tuple[str, ...]:
    """The commits of which the first bad one is one, newest first; a single one when it is found."""
    goods = [commit for commit, mark in marks(tree).items() if mark == "good"]
    return tuple(ask(tree, "rev-list", "refs/bisect/bad", "--not", *goods, "--").split())
