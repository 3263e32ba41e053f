"""What a bisection asks of git, and the place where git keeps its state: a working tree of its own, without files."""

from __future__ import annotations

import subprocess
import tempfile
from collections.abc import Iterator, Sequence
from contextlib import contextmanager, suppress
from pathlib import Path

from perfkit.errors import HistoryError, SettingsError
from perfkit.history.attribution import Commit


def ask(folder: Path, *words: str) -> str:
    """What git says; ``HistoryError`` when it fails."""
    done = _run(folder, words)
    if done.returncode:
        lines = done.stderr.strip().splitlines()
        raise HistoryError(f"git {words[0]} in {folder} failed: {lines[-1] if lines else 'it does not say why'}")
    return done.stdout.strip()


def _run(folder: Path, words: Sequence[str]) -> subprocess.CompletedProcess[str]:
    try:
        return subprocess.run(
            ["git", "-C", str(folder), *words],
            stdin=subprocess.DEVNULL,
            capture_output=True,
            encoding="utf-8",
            errors="replace",
            check=False,
        )
    except OSError as error:
        raise HistoryError(f"git cannot be started: {error.strerror}; install git") from error


def resolve(folder: Path, name: str, what: str) -> str:
    """The id of a commit, branch or tag."""
    done = _run(folder, ("rev-parse", "--verify", "--quiet", "--end-of-options", f"{name}^{{commit}}"))
    if done.returncode:
        raise SettingsError(f"{what} {name!r}: {_why_unknown(folder)}")
    return done.stdout.strip()


def _why_unknown(folder: Path) -> str:
    shallow = _run(folder, ("rev-parse", "--is-shallow-repository"))
    if shallow.returncode:
        return f"{folder} is in no git repository; go into the one of the service"
    hint = ": it is a shallow clone, and `git fetch --unshallow` may bring it" if "true" in shallow.stdout else ""
    return f"git knows no such commit, branch or tag in {folder}{hint}"


def is_ancestor(folder: Path, older: str, newer: str) -> bool:
    return _run(folder, ("merge-base", "--is-ancestor", older, newer)).returncode == 0


def commit_of(folder: Path, commit: str) -> Commit:
    """Author, date and subject; hostile text."""
    fields = ask(folder, "show", "--no-patch", "--no-show-signature", "--format=%H%x00%an%x00%cI%x00%s", commit)
    return Commit(*(*fields.split("\0"), "", "", "")[:4])


def common_folder(folder: Path) -> Path:
    """Where the repository itself is, whichever of its working trees is asked."""
    return Path(ask(folder, "rev-parse", "--path-format=absolute", "--git-common-dir"))


@contextmanager
def bisection(repository: Path, good: str, bad: str) -> Iterator[Path]:
    """A bisection that is begun, in a working tree of its own; nothing of it is left afterwards.

    The tree is without files: commits are checked out elsewhere, each into a folder of its own, so that nothing that
    one build leaves behind can get into another.
    """
    with tempfile.TemporaryDirectory(prefix="perfkit-bisect-") as parent:
        tree = Path(parent) / "state"
        ask(repository, "worktree", "add", "--quiet", "--detach", "--no-checkout", str(tree), bad)
        try:
            ask(tree, "bisect", "start", "--no-checkout", bad, good)
            yield tree
        finally:
            with suppress(HistoryError):
                ask(repository, "worktree", "remove", "--force", str(tree))


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
