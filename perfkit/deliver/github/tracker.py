"""The issues of a repository that bear perfkit's marker, as far as they were looked at."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from typing import Any

from perfkit.deliver.github.client import PER_PAGE, Client
from perfkit.deliver.github.matching import Issue, score
from perfkit.deliver.github.troubles import of_nonsense
from perfkit.deliver.github.trust import Trust
from perfkit.deliver.github.wanted import Wanted

SURE = 4  # points of `score` from which an issue is that of a worsening, and not a neighbour's


class Tracker:
    """Looks, and remembers; ``label`` is one that its issues bear.

    Only those issues count whose authors are trusted.
    """

    def __init__(self, client: Client, label: str = "") -> None:
        self._client = client
        self._trust = Trust(client)
        self._path = f"{client.access.path}/issues"
        self._label = label if "," not in label else ""  # the API would take it for two
        self._known: dict[int, Issue] = {}
        self._seen_all = False

    def followed(self) -> list[Issue]:
        """Those with the label; the others of the repository are not looked at."""
        if not self._seen_all:
            self._look({"labels": self._label} if self._label else {})
            self._seen_all = not self._label
        return list(self._known.values())

    def everything(self) -> list[Issue]:
        """Those without the label too, for somebody may have taken it away."""
        if not self._seen_all:
            self._look({})
            self._seen_all = True
        return list(self._known.values())

    def newest(self) -> list[Issue]:
        """What is known, and what was opened since by others: the newest page is looked at again."""
        query = {"state": "all", "sort": "created", "direction": "desc", "per_page": PER_PAGE}
        _, found = self._client.get(self._path, query)
        if not isinstance(found, list):
            raise of_nonsense(self._client.access.api, "something else than a list")
        self._learn(found)
        return list(self._known.values())

    def same(self, wanted: Wanted) -> list[Issue]:
        """The issues that surely follow a worsening, oldest first; the newest page is looked at again."""
        return sorted((one for one in self.newest() if score(wanted, one.marker) >= SURE), key=lambda one: one.number)

    def read(self, plain: Mapping[str, Any]) -> Issue:
        """An issue as the server answered it to a change; it is known from now on."""
        try:
            issue = Issue.read(plain)
        except (KeyError, TypeError, ValueError) as error:
            raise of_nonsense(self._client.access.api, "something else than an issue") from error
        if issue is None:
            raise of_nonsense(self._client.access.api, "an issue without what was sent")
        self._known[issue.number] = issue
        return issue

    def says(self, number: int, word: str) -> bool | None:
        """Whether a comment of an issue holds a hidden word; ``None`` if not."""
        for comment in self._client.pages(f"{self._path}/{number}/comments", {}):
            if word in str(comment.get("body")) and self._trust.covers(comment):
                return True
        return None

    def _look(self, parameters: Mapping[str, Any]) -> None:
        # By age, so that what is opened while pages are read shifts none of them
        query = {"state": "all", "sort": "created", "direction": "asc", **parameters}
        self._learn(self._client.pages(self._path, query))

    def _learn(self, found: Iterable[Mapping[str, Any]]) -> None:
        for plain in found:
            try:
                issue = Issue.read(plain)
            except (KeyError, TypeError, ValueError) as error:
                raise of_nonsense(self._client.access.api, "something else than issues") from error
            if issue is not None and self._trust.covers(plain):
                self._known[issue.number] = issue
