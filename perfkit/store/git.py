"""Git's plumbing, as far as a store needs it: blobs in, trees and commits out, a branch moved from a known commit."""

from __future__ import annotations

import os
import tempfile
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

from perfkit.errors import StoreError
from perfkit.git import Answer, Git, GitError

NOBODY = {"NAME": "perfkit", "EMAIL": "perfkit@localhost"}  # commits where git knows no author, as on a fresh runner


@dataclass(frozen=True, slots=True)
class GitStorage:
    """The objects and branches of a repository."""

    place: str  # as errors name it
    repository: Path

    def __call__(self, *words: str, given: bytes = b"", extra: Mapping[str, str] | None = None) -> bytes:
        """What git prints; ``StoreError`` with its own words when it refuses."""
        answer = self._answer(words, given, extra)
        if answer.code:
            raise StoreError(f"{self.place}: git {words[0]}: {answer.errors.strip()}")
        return answer.output

    def ask(self, *words: str) -> bytes | None:
        """What git prints, or ``None`` when it says no."""
        answer = self._answer(words, b"", None)
        return None if answer.code else answer.output

    def _answer(self, words: Sequence[str], given: bytes, extra: Mapping[str, str] | None) -> Answer:
        try:
            return Git(self.repository).ask(*words, stdin=given, environment=extra)
        except GitError as error:
            raise StoreError(f"{self.place}: {error}") from error

    def blobs(self, commit: str) -> dict[str, tuple[str, int]]:
        """Every file of a commit: its hash and its size in bytes, 0 when git has lost it."""
        found = {}
        for line in os.fsdecode(self("ls-tree", "--full-tree", "-r", "-l", "-z", commit)).split("\0"):
            facts, _, path = line.partition("\t")
            if path and facts.split()[1] == "blob":
                _, _, blob, size = facts.split()
                found[path] = blob, int(size) if size.isdigit() else 0
        return found

    def contents(self, blobs: Sequence[str]) -> list[bytes | None]:
        """Of several blobs, from one process; ``None`` for what git has lost."""
        answer = self("cat-file", "--batch", given="".join(f"{blob}\n" for blob in blobs).encode())
        found: list[bytes | None] = []
        at = 0
        for _ in blobs:
            begin = answer.index(b"\n", at) + 1
            size = answer[at : begin - 1].split()[-1]
            if size == b"missing":
                at = begin
                found.append(None)
                continue
            at = begin + int(size) + 1
            found.append(answer[begin : at - 1])
        return found

    def checked_out_in(self, ref: str) -> str | None:
        """The working tree that shows a branch, if any does."""
        tree = ""
        for line in os.fsdecode(self("worktree", "list", "--porcelain")).splitlines():
            word, _, rest = line.partition(" ")
            tree = rest if word == "worktree" else tree
            if line == f"branch {ref}":
                return tree
        return None

    def commit(self, tip: str | None, changes: Mapping[str, bytes | None], message: str) -> str:
        """A commit on top of ``tip`` with some files put there and others (``None``) taken away; moves nothing."""
        with tempfile.TemporaryDirectory(prefix="perfkit-git-") as folder:
            index = {"GIT_INDEX_FILE": str(Path(folder) / "index")}
            if tip is not None:
                self("read-tree", tip, extra=index)
            lines = self._lines(Path(folder), changes, "0" * len(tip or ""))
            self("update-index", "-z", "--index-info", given=os.fsencode("".join(lines)), extra=index)
            tree = self("write-tree", extra=index).decode().strip()
        parents = ["-p", tip] if tip is not None else []
        return self("commit-tree", tree, *parents, "-m", message, extra=self._author()).decode().strip()

    def _lines(self, folder: Path, changes: Mapping[str, bytes | None], nothing: str) -> list[str]:
        """For ``update-index --index-info``, where the mode 0 takes a file away; ``nothing`` is a hash of zeros."""
        new = {path: content for path, content in changes.items() if content is not None}
        for number, content in enumerate(new.values()):
            (folder / str(number)).write_bytes(content)
        files = "".join(f"{folder / str(number)}\n" for number in range(len(new)))
        hashes = self("hash-object", "-w", "--no-filters", "--stdin-paths", given=os.fsencode(files)).decode().split()
        lines = [f"100644 {blob}\t{path}\0" for path, blob in zip(new, hashes, strict=True)]
        return lines + [f"0 {nothing}\t{path}\0" for path in changes if path not in new]

    def _author(self) -> dict[str, str]:
        if self.ask("var", "GIT_COMMITTER_IDENT") is not None:
            return {}
        return {f"GIT_{who}_{what}": value for who in ("AUTHOR", "COMMITTER") for what, value in NOBODY.items()}
