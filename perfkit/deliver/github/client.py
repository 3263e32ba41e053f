"""Requests to GitHub's API that are tried again within bounds, and never so that anything is there twice."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from functools import cached_property
from typing import TYPE_CHECKING, Any, TypeVar
from urllib.parse import parse_qs, urlsplit

from perfkit.deliver.github.access import Access
from perfkit.deliver.github.troubles import Trouble, of_answer, of_nonsense, of_silence

if TYPE_CHECKING:
    from github.Requester import Requester

PER_PAGE = 100
MOST_PAGES = 500
Found = TypeVar("Found")


@dataclass(frozen=True, slots=True)
class Patience:
    """How long to wait for what.

    Parameters
    ----------
    timeout_s
        For a connection, and for each part of an answer.
    tries
        Of one request.
    first_wait_s
        After the first failure; doubled after each further one.
    most_wait_s
        The longest wait that a server may ask for; beyond that, it is left for the next call.
    pause_s
        Between two writing requests, as GitHub asks.
    """

    timeout_s: int = 15
    tries: int = 4
    first_wait_s: float = 1.0
    most_wait_s: float = 90.0
    pause_s: float = 1.0
    sleep: Callable[[float], None] = time.sleep


class Client:
    """One repository, by way of PyGithub: its connection, its authentication, its pace of writing requests.

    Its own repeating is off: it would send a new issue again that the server had made before the connection broke.
    """

    def __init__(self, access: Access, patience: Patience | None = None) -> None:
        self.access = access
        self._patience = patience or Patience()

    @cached_property
    def _requester(self) -> Requester:
        from github import Auth, Github

        return Github(
            base_url=self.access.api,
            auth=Auth.Token(self.access.token) if self.access.token else None,
            timeout=self._patience.timeout_s,
            retry=None,
            seconds_between_requests=None,
            seconds_between_writes=self._patience.pause_s,
            user_agent="perfkit",
        ).requester

    def get(self, path: str, parameters: Mapping[str, Any] | None = None) -> tuple[Mapping[str, str], Any]:
        """Headers and content of an answer."""
        return self._patiently(lambda: self._once("GET", path, parameters=parameters))

    def pages(self, path: str, parameters: Mapping[str, Any]) -> Iterator[Mapping[str, Any]]:
        """The objects of a list, page after page."""
        query: dict[str, Any] = {**parameters, "per_page": PER_PAGE}
        for _ in range(MOST_PAGES):
            headers, found = self.get(path, query)
            if not isinstance(found, list) or not all(isinstance(item, Mapping) for item in found):
                raise of_nonsense(self.access.api, "something else than a list")
            yield from found
            following = _following(headers.get("link", ""))
            if not following:
                return
            query |= following
        raise Trouble(f"{self.access.repository}: its list of {path} has more than {MOST_PAGES * PER_PAGE:,} entries")

    def patch(self, path: str, payload: Mapping[str, Any]) -> Mapping[str, Any]:
        """Change something; the same twice is the same once."""
        return self._object(self._patiently(lambda: self._once("PATCH", path, payload=payload))[1])

    def post(
        self, path: str, payload: Mapping[str, Any], made: Callable[[], Found | None], read: Callable[[Any], Found]
    ) -> tuple[Found, bool]:
        """Make something that is not there yet, and say whether it was this call that made it.

        ``made`` looks for it on the server, before the first try and after each whose outcome is not known.
        """
        sure = False

        def attempt() -> tuple[Found, bool]:
            nonlocal sure
            found = None if sure else self._looked(made)
            if found is not None:
                return found, False
            try:
                return read(self._object(self._once("POST", path, payload=payload)[1])), True
            except Trouble as trouble:
                sure = trouble.undone
                raise

        return self._patiently(attempt)

    @staticmethod
    def _looked(made: Callable[[], Found | None]) -> Found | None:
        try:
            return made()
        except Trouble as trouble:
            trouble.again = False  # its own requests were tried again already
            raise

    def _object(self, answer: Any) -> Mapping[str, Any]:
        if not isinstance(answer, Mapping):
            raise of_nonsense(self.access.api, "something else than an object")
        return answer

    def _patiently(self, attempt: Callable[[], Found]) -> Found:
        patience = self._patience
        for number in range(patience.tries):
            try:
                return attempt()
            except Trouble as trouble:
                wait = patience.first_wait_s * 2.0**number if trouble.wait_s is None else trouble.wait_s
                if not trouble.again or number + 1 == patience.tries or wait > patience.most_wait_s:
                    raise
                patience.sleep(wait)
        raise AssertionError("unreachable: the last try returns or raises")

    def _once(
        self,
        method: str,
        path: str,
        *,
        payload: Mapping[str, Any] | None = None,
        parameters: Mapping[str, Any] | None = None,
    ) -> tuple[Mapping[str, str], Any]:
        import requests
        from github import GithubException

        given = dict(parameters) if parameters is not None else None
        try:
            return self._requester.requestJsonAndCheck(method, path, given, input=payload)
        except GithubException as error:
            trouble = of_answer(error, self.access.repository)
        except requests.RequestException as error:
            trouble = of_silence(error, self.access.api)
        except RuntimeError as error:  # PyGithub follows no redirection to another server
            trouble = Trouble(f"{self.access.api}: {error}")
        except (ValueError, TypeError, AttributeError):  # what PyGithub makes of an answer that is no JSON object
            trouble = of_nonsense(self.access.api, "what is no JSON")
        raise Trouble(
            self.access.without_secrets(str(trouble)),
            status=trouble.status,
            again=trouble.again,
            undone=trouble.undone,
            wait_s=trouble.wait_s,
        )


def _following(link: str) -> dict[str, str]:
    """How the next page differs: only that is taken from the address that the server names."""
    from requests.utils import parse_header_links

    for item in parse_header_links(link) if link else ():
        if item.get("rel") == "next":
            query = parse_qs(urlsplit(item.get("url", "")).query)
            return {name: query[name][-1] for name in ("page", "after") if name in query}
    return {}
