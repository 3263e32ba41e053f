"""Git, by its command line: the only module that starts it.

Names are handed over as arguments, never to a shell, and after ``--end-of-options`` where they come from outside.  What
git answers (subjects, author names, branch names) was written by strangers: it is kept as it came, and whoever shows it
makes it harmless.
"""

from __future__ import annotations

import io
import os
import re
import subprocess
import tempfile
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from pathlib import Path

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
NO_AUTHOR = {"NAME": "perfkit", "EMAIL": "perfkit@localhost"}  # where git knows no author, as on a fresh runner
COMMIT_ID = re.compile(r"[0-9a-f]{7,64}")


class GitError(PerfkitError):
    """Git cannot be started, does not answer in time, or refuses; callers say what they needed it for."""


@dataclass(frozen=True, slots=True)
class Commit:
    """One commit; ``date`` is when it was committed, ISO 8601.  Author and subject are hostile text."""

    id: str
    author: str
    date: str
    subject: str


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
    """Questions to the repository of a folder."""

    folder: Path  # any folder of a working tree, or the repository itself
    offline: bool = False  # whether git may not fetch what a partial clone lacks
    timeout_s: float | None = None  # of one question; ``None``: none

    def ask(self, *words: str, stdin: bytes = b"", environment: Mapping[str, str] | None = None) -> Answer:
        """What git answers, also when it refuses; ``GitError`` when there is no answer."""
        clean = {name: value for name, value in os.environ.items() if name not in REPOSITORY_VARIABLES}
        command = ["git", "-C", str(self.folder), "-c", "core.fsmonitor=false", *words]
        try:
            done = subprocess.run(
                command,
                input=stdin,
                capture_output=True,
                timeout=self.timeout_s,
                check=False,
                env=clean | QUIET | (OFFLINE if self.offline else {}) | dict(environment or {}),
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

    def _refusal(self, word: str, answer: Answer) -> str:
        where = "This folder" if self.folder == Path() else str(self.folder)
        if "not a git repository" in answer.errors:
            return f"{where} is not a git repository"
        if "dubious ownership" in answer.errors:
            named = re.search(r"dubious ownership in repository at '([^'\n]+)'", answer.errors)
            return (
                f"{where} is a repository of another user, which git refuses; if you trust it: "
                f"git config --global --add safe.directory {named[1] if named else self.folder.resolve()}"
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

    def remote_address(self) -> str:
        """Where ``origin`` is, or the only remote, password and all; empty where there is none, or no repository."""
        with suppress(GitError):  # there is no git
            names = self.ask("remote").text.split()
            name = "origin" if "origin" in names else names[0] if len(names) == 1 else ""
            return self.ask("remote", "get-url", name).text if name else ""
        return ""

    def is_dirty(self) -> bool:
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

    # Objects and branches -------------------------------------------------------------------------------------------

    def blobs(self, commit: str) -> dict[str, tuple[str, int]]:
        """Every file of a commit: its hash and its size in bytes, 0 where git has lost it."""
        files = {}
        for line in os.fsdecode(self.output("ls-tree", "--full-tree", "-r", "-l", "-z", commit)).split("\0"):
            facts, _, path = line.partition("\t")
            if path and facts.split()[1] == "blob":
                _, _, blob, size = facts.split()
                files[path] = blob, int(size) if size.isdigit() else 0
        return files

    def contents(self, blobs: Sequence[str]) -> list[bytes | None]:
        """The contents of several blobs, from one process; ``None`` for what git has lost."""
        words = "".join(f"{blob}\n" for blob in blobs).encode()
        answer, contents = io.BytesIO(self.output("cat-file", "--batch", stdin=words)), list[bytes | None]()
        for _ in blobs:
            *_, size = answer.readline().split()
            contents.append(None if size == b"missing" else answer.read(int(size) + 1)[:-1])
        return contents

    def worktree_of(self, ref: str) -> str | None:
        """The working tree in which a branch is checked out, if any."""
        tree = ""
        for line in os.fsdecode(self.output("worktree", "list", "--porcelain")).splitlines():
            word, _, rest = line.partition(" ")
            tree = rest if word == "worktree" else tree
            if line == f"branch {ref}":
                return tree
        return None

    def write_commit(self, parent: str | None, changes: Mapping[str, bytes | None], message: str) -> str:
        """A commit on top of ``parent`` that writes some files and removes others (``None``); it moves no branch."""
        written = {path: content for path, content in changes.items() if content is not None}
        with tempfile.TemporaryDirectory(prefix="perfkit-git-") as folder:
            index = {"GIT_INDEX_FILE": str(Path(folder) / "index")}
            if parent is not None:
                self.output("read-tree", parent, environment=index)
            for number, content in enumerate(written.values()):
                (Path(folder) / str(number)).write_bytes(content)
            files = os.fsencode("".join(f"{Path(folder) / str(number)}\n" for number in range(len(written))))
            hashes = self.output("hash-object", "-w", "--no-filters", "--stdin-paths", stdin=files).decode().split()
            lines = [f"100644 {blob}\t{path}\0" for path, blob in zip(written, hashes, strict=True)]
            # The mode 0 removes a file; its hash is as many zeros as this repository's hashes have digits
            lines += [f"0 {'0' * len(parent or '')}\t{path}\0" for path in changes if path not in written]
            update = os.fsencode("".join(lines))
            self.output("update-index", "-z", "--index-info", stdin=update, environment=index)
            tree = self.output("write-tree", environment=index).decode().strip()
        author = {}
        if self.ask("var", "GIT_COMMITTER_IDENT").code:
            author = {f"GIT_{who}_{key}": value for who in ("AUTHOR", "COMMITTER") for key, value in NO_AUTHOR.items()}
        parents = ["-p", parent] if parent is not None else []
        return self.output("commit-tree", tree, *parents, "-m", message, environment=author).decode().strip()

    # Folders --------------------------------------------------------------------------------------------------------

    def common_folder(self) -> Path:
        """Where the repository itself is, whichever of its working trees is asked."""
        return Path(os.fsdecode(self.output("rev-parse", "--path-format=absolute", "--git-common-dir").rstrip(b"\n")))

    @contextmanager
    def worktree(self, commit: str, *, checkout: bool = True) -> Iterator[Path]:
        """A temporary working tree of a commit, detached; nothing of it is left afterwards."""
        with tempfile.TemporaryDirectory(prefix="perfkit-tree-") as parent:
            tree = Path(parent) / "tree"
            files = () if checkout else ("--no-checkout",)
            try:  # also of one that Ctrl-C interrupts
                self.output("worktree", "add", "--quiet", "--detach", *files, str(tree), commit)
                yield tree
            finally:
                with suppress(GitError):
                    self.output("worktree", "remove", "--force", str(tree))
