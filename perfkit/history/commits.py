"""Commits: those that an event may come of, and those that a checkout descends from.

An event lies between the last run before it and the first run after it.  Git is not let on the network for it; what
stands in the way of an answer is a note.
"""

from __future__ import annotations

from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING

from perfkit.model.errors import ReadError
from perfkit.runs.git import COMMIT_ID, Commit, Git, GitError

if TYPE_CHECKING:
    from perfkit.history.events import HistoryChange

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
    to be judged is no baseline.  ``ReadError``: not a repository, an unknown branch, or a clone too shallow to tell.
    """
    git = Git(folder)
    try:
        git.text("rev-parse", "--git-dir")
        names = (branch, f"origin/{branch}") if branch else MAIN
        main, tip = next(((name, tip) for name in names if (tip := git.commit(name)) is not None), ("", ""))
        if not tip:
            looked = branch or ", ".join(MAIN)
            raise ReadError(f"{folder}: git knows no branch {looked}; name one, such as SCENARIO@merge-base:develop")
        head = git.text("rev-parse", "--verify", "HEAD")
        base = git.ask("merge-base", tip, head).text
        if not base:
            todo = "fetch the whole history (git fetch --unshallow)" if git.is_shallow() else "name another branch"
            raise ReadError(f"{folder}: HEAD and {main} have no commit in common; {todo}")
        commits = git.text("rev-list", "--first-parent", f"--max-count={FARTHEST}", base).split()
        if base == head and not git.is_dirty():
            parent = commits[1][:10] if len(commits) > 1 else "(none)"
            return Ancestry(tuple(commits[1:]), f"HEAD has not left {main}, so its parent {parent} counts")
        return Ancestry(tuple(commits), f"the branch left {main} at {base[:10]}")
    except GitError as error:
        raise ReadError(f"{error}; merge-base needs the checkout of what is judged") from error


MOST_COMMITS = 50  # that are listed
TIMEOUT_S = 20.0  # of one question to git


@dataclass(frozen=True, slots=True)
class Attribution:
    """The commits between two runs."""

    # before, after: commits of the two runs, as the runs say; empty where they do not
    before: str
    after: str
    commits: tuple[Commit, ...] = ()  # newest first, at most `MOST_COMMITS`; empty where they cannot be told
    total: int | None = None  # how many there are; ``None`` where it cannot be told
    notes: tuple[str, ...] = ()  # sentences: why there is no list, or what to know about it

    @property
    def span(self) -> str:
        """``3f2a1b0c9..77de01aa2``, one commit where both are the same, empty where neither is known."""
        ends = [commit[:9] for commit in (self.before, self.after)]
        if ends[0] == ends[1]:
            return ends[0]
        return "..".join(end or "?" for end in ends)


def attribute(event: HistoryChange, repository: Path | None = None) -> Attribution:
    """The commits between the runs of an event; ``repository`` is a folder inside the repository that they are of."""
    attribution = commits_between(event.last_before.commit, event.first_after.commit, repository)
    if not attribution.commits or not event.reach:
        return attribution
    many = f"{event.reach} run{'s' if event.reach > 1 else ''}"
    note = f"The place is certain to within {many}: the commits of neighbouring runs are possible too."
    return replace(attribution, notes=(*attribution.notes, note))


def commits_between(before: str, after: str, repository: Path | None = None) -> Attribution:
    """What is in ``after`` and not in ``before``; whatever prevents an answer is said in `Attribution.notes`."""

    def untold(*notes: str) -> Attribution:
        return Attribution(before, after, notes=notes)

    missing = [name for name, commit in (("before", before), ("after", after)) if not commit]
    if missing:
        runs = "neither run says" if len(missing) == 2 else f"the run {missing[0]} it does not say"
        return untold(f"The commits in between are not known: {runs} which commit it measured.")
    if any(not COMMIT_ID.fullmatch(commit) for commit in (before, after)):
        return untold("What the runs say of their commits is no commit id.")
    if before.startswith(after) or after.startswith(before):
        return untold(
            f"Both runs are of the same commit {before[:9]}: not the committed code, but changes that were not "
            "committed, the machine, the data or the load."
        )
    if repository is None:
        return untold("No repository is at hand to list the commits.")
    git = Git(repository, offline=True, timeout_s=TIMEOUT_S)
    try:
        unknown = [commit for commit in (before, after) if git.commit(commit) is None]
        if unknown:
            why = "this shallow clone; `git fetch --unshallow` may bring it."
            if not git.is_shallow():
                reasons = "it was never fetched, was rewritten since (by rebase or squash), or is of another repository"
                why = f"this repository: {reasons}."
            return untold(*(f"The commit {commit[:9]} is not in {why}" for commit in unknown))
        ahead, behind = git.count(f"{before}..{after}"), git.count(f"{after}..{before}")
        if behind and not ahead:
            note = f"The later run is of an earlier commit: {behind} commits were taken back. They are listed."
            return Attribution(before, after, git.log(f"{after}..{before}", MOST_COMMITS), behind, (note,))
        notes: list[str] = []
        if behind:
            notes.append(
                f"{before[:9]} is no ancestor of {after[:9]}: the history was rewritten, or the runs are of different "
                f"branches. {behind} commits of the run before are missing from the run after it."
            )
        if git.is_shallow():
            notes.append("This is a shallow clone: commits may be missing. `git fetch --unshallow` brings them.")
        if ahead > MOST_COMMITS:
            notes.append(f"The newest {MOST_COMMITS} of {ahead} commits are listed.")
        return Attribution(before, after, git.log(f"{before}..{after}", MOST_COMMITS), ahead, tuple(notes))
    except GitError as error:
        return untold(f"{error}: the commits in between cannot be listed.")
