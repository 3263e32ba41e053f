"""Git, asked by its command line: the only module that starts it.

Names are handed over as arguments, never to a shell, and after ``--end-of-options`` where they come from outside.  What
git answers (subjects, author names, branch names) was written by strangers: it is kept as it came, and whoever shows it
makes it harmless.
"""

from __future__ import annotations

import os
import re
import subprocess
import tempfile
from collections.abc import Iterator, Mapping
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from perfkit.model.errors import PerfkitError

# A hook sets some of them; they would win over the repository that is meant.  As `git rev-parse --local-env-vars` lists
# them, but for settings: CI systems hand over safe.directory in GIT_CONFIG_COUNT and its companions.
REPOSITORY_VARIABLES = (
    *("GIT_DIR", "GIT_WORK_TREE", "GIT_IMPLICIT_WORK_TREE", "GIT_INDEX_FILE", "GIT_COMMON_DIR", "GIT_NAMESPACE"),
    *("GIT_OBJECT_DIRECTORY", "GIT_ALTERNATE_OBJECT_DIRECTORIES", "GIT_QUARANTINE_PATH", "GIT_PREFIX"),
    *("GIT_SHALLOW_FILE", "GIT_GRAFT_FILE", "GIT_REPLACE_REF_BASE", "GIT_NO_REPLACE_OBJECTS"),
)
QUIET = {"GIT_TERMINAL_PROMPT": "0", "GIT_OPTIONAL_LOCKS": "0", "LC_ALL": "C"}
OFFLINE = {
    "GIT_NO_LAZY_FETCH": "1",
    "GIT_ALLOW_PROTOCOL": "none",  # older git fetches what a partial clone lacks, whatever it is told
}
COMMIT_ID = re.compile(r"[0-9a-f]{7,64}")
_DUBIOUS = "dubious ownership"
_NO_REPOSITORY = "not a git repository"


class GitError(PerfkitError):
    """Git cannot be started, does not answer in time, or refuses; callers say what they needed it for."""


@dataclass(frozen=True, slots=True)
class Commit:
    """One commit; ``date`` is when it was committed, ISO 8601.  Author and subject are hostile text."""

    id: str
    author: str
    date: str
    subject: str

    def to_dict(self) -> dict[str, Any]:
        return {"id": self.id, "author": self.author, "date": self.date, "subject": self.subject}


@dataclass(frozen=True, slots=True)
class Answer:
    """What git printed, and its exit code."""

    code: int
    output: bytes
    errors: str

    @property
    def text(self) -> str:
        return self.output.decode("utf-8", "replace").strip()

    @property
    def reason(self) -> str:
        """Git's own last words about a refusal."""
        lines = [line.strip() for line in self.errors.splitlines() if line.strip()]
        refusal = next((line for line in lines if line.startswith("fatal:")), lines[-1] if lines else "")
        return refusal or "it does not say why"


@dataclass(frozen=True, slots=True)
class Git:
    """Questions to the repository of a folder.

    Parameters
    ----------
    folder
        Any folder of a working tree, or the repository itself.
    offline
        Whether git may not fetch what a partial clone lacks.
    timeout_s
        Of one question; ``None``: none.
    """

    folder: Path
    offline: bool = False
    timeout_s: float | None = None

    def ask(self, *words: str, stdin: bytes = b"", environment: Mapping[str, str] | None = None) -> Answer:
        """What git answers, also when it refuses; ``GitError`` when there is no answer."""
        command = ["git", "-C", str(self.folder), "-c", "core.fsmonitor=false", *words]
        try:
            done = subprocess.run(
                command,
                input=stdin,
                capture_output=True,
                timeout=self.timeout_s,
                check=False,
                env={**git_environment(offline=self.offline), **(environment or {})},
            )
        except OSError as error:
            raise GitError(f"git cannot be started: {error.strerror}; install git") from error
        except subprocess.TimeoutExpired as error:
            raise GitError(f"git {words[0]} in {self.folder} did not answer within {self.timeout_s:g} s") from error
        return Answer(done.returncode, done.stdout, done.stderr.decode("utf-8", "replace"))

    def output(self, *words: str, stdin: bytes = b"", environment: Mapping[str, str] | None = None) -> bytes:
        """What git prints; ``GitError`` with its reason when it refuses."""
        answer = self.ask(*words, stdin=stdin, environment=environment)
        if answer.code:
            raise GitError(self._refusal(words[0], answer))
        return answer.output

    def text(self, *words: str) -> str:
        """What git prints, without white space around it; ``GitError`` when it refuses."""
        return self.output(*words).decode("utf-8", "replace").strip()

    def start(self, *words: str, pass_fds: tuple[int, ...] = ()) -> subprocess.Popen[bytes]:
        """Start what takes long and has programs of its own run, in a session of its own."""
        return subprocess.Popen(
            ["git", "-C", str(self.folder), *words],
            stdin=subprocess.DEVNULL,
            stdout=subprocess.DEVNULL,
            env=_without_repository(),
            start_new_session=True,
            pass_fds=pass_fds,
        )

    def _refusal(self, word: str, answer: Answer) -> str:
        where = "This folder" if self.folder == Path() else str(self.folder)
        if _NO_REPOSITORY in answer.errors:
            return f"{where} is not a git repository"
        if _DUBIOUS in answer.errors:
            folder = self.folder.resolve()
            return (
                f"{where} is a repository of another user, which git refuses; if you trust it: "
                f"git config --global --add safe.directory {_owner_folder(answer.errors) or folder}"
            )
        return f"git {word} in {self.folder} failed: {answer.reason}"

    # Commits --------------------------------------------------------------------------------------------------------

    def commit(self, name: str) -> str | None:
        """The id of a commit, branch or tag; ``None`` when git knows none of that name."""
        answer = self.ask("rev-parse", "--verify", "--quiet", "--end-of-options", f"{name}^{{commit}}")
        return answer.text if answer.code == 0 else None

    def why_unknown(self) -> str:
        """Why `commit` gives ``None``, and what may help."""
        shallow = self.ask("rev-parse", "--is-shallow-repository")
        if shallow.code:
            return self._refusal("rev-parse", shallow)
        hint = ": it is a shallow clone, and `git fetch --unshallow` may bring it" if shallow.text == "true" else ""
        return f"git knows no such commit, branch or tag in {self.folder}{hint}"

    def branch(self) -> str | None:
        """The branch that is checked out; ``None`` where HEAD is detached."""
        answer = self.ask("symbolic-ref", "--quiet", "--short", "HEAD")
        return answer.text if answer.code == 0 else None

    def is_dirty(self) -> bool:
        """Whether tracked files differ from HEAD."""
        return bool(self.text("status", "--porcelain", "--untracked-files=no"))

    def is_shallow(self) -> bool:
        return self.text("rev-parse", "--is-shallow-repository") == "true"

    def is_ancestor(self, older: str, newer: str) -> bool:
        return self.ask("merge-base", "--is-ancestor", older, newer).code == 0

    def count(self, span: str) -> int:
        """How many commits are in a span such as ``abc..def``."""
        return int(self.text("rev-list", "--count", "--end-of-options", span, "--"))

    def log(self, span: str, most: int) -> tuple[Commit, ...]:
        """The commits of a span, or a commit and its ancestors; newest first."""
        form = "--format=%H%x00%an%x00%cI%x00%s%x00"
        words = ("log", "--no-show-signature", "--no-color", f"--max-count={most}", form)
        fields = self.output(*words, "--end-of-options", span, "--").decode("utf-8", "replace").split("\0")
        rows = zip(*[iter(fields)] * 4, strict=False)
        return tuple(Commit(row[0].strip(), *row[1:]) for row in rows)

    # Places ---------------------------------------------------------------------------------------------------------

    def common_folder(self) -> Path:
        """Where the repository itself is, whichever of its working trees is asked."""
        return Path(os.fsdecode(self.output("rev-parse", "--path-format=absolute", "--git-common-dir").rstrip(b"\n")))

    @contextmanager
    def worktree(self, commit: str, *, checkout: bool = True) -> Iterator[Path]:
        """A temporary working tree of a commit, detached; nothing of it is left afterwards."""
        with tempfile.TemporaryDirectory(prefix="perfkit-tree-") as parent:
            tree = Path(parent) / "tree"
            files = () if checkout else ("--no-checkout",)
            self.output("worktree", "add", "--quiet", "--detach", *files, str(tree), commit)
            try:
                yield tree
            finally:
                with suppress(GitError):
                    self.output("worktree", "remove", "--force", str(tree))


def git_environment(*, offline: bool = False) -> dict[str, str]:
    """The environment for git: nothing in it aims git at another repository, and git asks nobody."""
    return {**_without_repository(), **QUIET, **(OFFLINE if offline else {})}


def _without_repository() -> dict[str, str]:
    return {name: value for name, value in os.environ.items() if name not in REPOSITORY_VARIABLES}


def _owner_folder(errors: str) -> str | None:
    """The folder that git names in its refusal."""
    found = re.search(r"dubious ownership in repository at '([^'\n]+)'", errors)
    return found[1] if found else None
