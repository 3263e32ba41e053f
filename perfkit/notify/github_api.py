"""Requests to GitHub's API that are tried again within bounds, and never so that anything is there twice.

Which repository of which server, and with what right: checked before anything is sent.

What can go wrong with GitHub, in sentences, and whether trying again may help.

Whose hidden words are believed: a stranger could write them to keep a worsening from being told.
"""

from __future__ import annotations

import ipaddress
import os
import re
import time
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, field
from functools import cached_property
from typing import TYPE_CHECKING, Any, TypeVar
from urllib.parse import SplitResult, parse_qs, urlsplit

from perfkit.model.errors import DeliveryError, SettingsError
from perfkit.model.redaction import redact
from perfkit.report.formatting import shorten

if TYPE_CHECKING:
    import requests
    from github import GithubException
    from github.Requester import Requester

PUBLIC_API = "https://api.github.com"
_REPOSITORY = re.compile(r"[A-Za-z0-9][A-Za-z0-9_-]{0,99}/(?!\.\.?$)[A-Za-z0-9._-]{1,100}")
_TOKEN = re.compile(r"[\x21-\x7e]{1,1000}")


@dataclass(frozen=True, slots=True)
class Access:
    """A repository on a GitHub server.

    Parameters
    ----------
    token
        Empty where nothing is to be sent; in no text that this class makes.
    web
        Where its pages are, for links; empty where that is not known.
    code
        The repository that a workflow is of, whose commits are linked; empty: the same one.
    """

    repository: str
    api: str = PUBLIC_API
    token: str = field(default="", repr=False)
    web: str = ""
    code: str = ""

    @classmethod
    def from_environment(
        cls, repository: str = "", *, with_token: bool = True, environment: Mapping[str, str] | None = None
    ) -> Access:
        """That of `GITHUB_REPOSITORY` (unless named), `GITHUB_API_URL`, `GITHUB_SERVER_URL` and `GITHUB_TOKEN`.

        Raises
        ------
        SettingsError
            One of them is missing or cannot be right.  A token is needed only ``with_token``.
        """
        known = os.environ if environment is None else environment
        api = _api(known.get("GITHUB_API_URL") or PUBLIC_API)
        of_workflow = known.get("GITHUB_REPOSITORY", "")
        return cls(
            _repository(repository or of_workflow),
            api,
            _token(known.get("GITHUB_TOKEN", "").strip(), needed=with_token),
            _web(known.get("GITHUB_SERVER_URL", ""), api),
            of_workflow if _REPOSITORY.fullmatch(of_workflow) else "",
        )

    @property
    def path(self) -> str:
        """Of the repository in the API."""
        return f"/repos/{self.repository}"

    def without_secrets(self, text: str) -> str:
        """A text, such as an error of the server, without the token."""
        return redact(text, self.token)


def _repository(text: str) -> str:
    if not text:
        raise SettingsError(
            "GitHub: no repository is named: say --repository owner/name, repository in [issues], or GITHUB_REPOSITORY"
        )
    if not _REPOSITORY.fullmatch(text):
        raise SettingsError(f"GitHub: the repository must be owner/name, such as octo/shop; got {text[:200]!r}")
    return text


def _api(text: str) -> str:
    parts = _split(text)
    if parts is None or not parts.hostname or parts.scheme not in ("https", "http"):
        raise SettingsError(f"GITHUB_API_URL: must be an address such as {PUBLIC_API}; got {_shown(text)}")
    if parts.username is not None or parts.password is not None or parts.query or parts.fragment:
        raise SettingsError("GITHUB_API_URL: must hold no name, password, query or fragment; the token is GITHUB_TOKEN")
    if parts.scheme == "http" and not _is_loopback(parts.hostname):
        raise SettingsError(
            f"GITHUB_API_URL: must begin with https://, or the token can be read on the way; got {text!r}"
        )
    return text.rstrip("/")


def _split(text: str) -> SplitResult | None:
    """The parts of an address; ``None`` for what is none."""
    if not _TOKEN.fullmatch(text):
        return None
    try:
        parts = urlsplit(text)
        return parts if parts.port is None or parts.port > 0 else None
    except ValueError:
        return None


def _shown(text: str) -> str:
    """Without what may be a password."""
    return repr(text[:200]) if "@" not in text else "one with '@' in it"


def _is_loopback(host: str) -> bool:
    try:
        return ipaddress.ip_address(host).is_loopback
    except ValueError:
        return host == "localhost"


def _token(text: str, *, needed: bool) -> str:
    if not text and needed:
        raise SettingsError(
            "GITHUB_TOKEN: is not set; in a workflow: env: GITHUB_TOKEN: ${{ github.token }}, with permissions: "
            "issues: write (for comments pull-requests: write)"
        )
    if text and not _TOKEN.fullmatch(text):
        raise SettingsError("GITHUB_TOKEN: holds blanks, line ends or other characters that no token has (not shown)")
    return text


def _web(server: str, api: str) -> str:
    """Where the pages of the server are: as it says, else what its API's address tells."""
    parts = _split(server) if server else None
    if parts is not None and parts.hostname and parts.scheme in ("https", "http") and parts.username is None:
        return f"{parts.scheme}://{parts.netloc}{parts.path.rstrip('/')}"
    at = urlsplit(api)
    if at.hostname and at.hostname.startswith("api."):
        return f"{at.scheme}://{at.netloc.removeprefix('api.')}"
    return f"{at.scheme}://{at.netloc}" if at.path == "/api/v3" else ""


SECONDARY_WAIT_S = 60.0  # what GitHub asks for when it sets a secondary rate limit and says no time


class Trouble(DeliveryError):
    """No answer, or one that says no.

    Parameters
    ----------
    status
        Of the answer; 0 without one.
    again
        Whether it may work a little later.
    undone
        Whether the server surely did nothing: what was sent may be sent again.
    wait_s
        What the server asks to wait; ``None`` where it does not say.
    """

    def __init__(
        self, text: str, *, status: int = 0, again: bool = False, undone: bool = False, wait_s: float | None = None
    ) -> None:
        super().__init__(text)
        self.status = status
        self.again = again
        self.undone = undone
        self.wait_s = wait_s


def of_answer(error: GithubException, repository: str) -> Trouble:
    """What an answer with an error's status means."""
    status = int(error.status)
    headers = {str(name).lower(): str(value) for name, value in (error.headers or {}).items()}
    said = _said(error.data)
    if status == 429 or (status == 403 and _is_limit(headers, said)):
        wait = _wait(headers)
        text = f"GitHub limits the rate of requests ({status}{said}): it asks to wait {wait:.0f} s"
        return Trouble(text, status=status, again=True, undone=True, wait_s=wait)
    if status >= 500:
        asked = _wait(headers) if "retry-after" in headers else None
        return Trouble(f"GitHub is in trouble ({status}{said})", status=status, again=True, wait_s=asked)
    return Trouble(_REASONS.get(status, _OTHER).format(repository=repository, status=status, said=said), status=status)


_OTHER = "GitHub refuses it ({status}{said})"
_REASONS = {
    401: "GitHub does not accept the token ({status}{said}): GITHUB_TOKEN has run out, was revoked, or is of another "
    "server",
    403: "the token may not do this in {repository} ({status}{said}): a workflow needs permissions: issues: write (for "
    "comments pull-requests: write), a fine-grained token Issues: read and write",
    404: "{repository} is not there for this token ({status}{said}): check the repository's name, and that the token "
    "may see it",
    410: "{repository} has its issues turned off ({status}{said}): turn them on, or name another in [issues]",
    422: "GitHub does not accept what was sent ({status}{said})",
}


def of_silence(error: requests.RequestException, api: str) -> Trouble:
    """What it means that there was no whole answer."""
    import requests

    again = not isinstance(error, requests.exceptions.SSLError | requests.exceptions.InvalidURL)
    undone = _never_sent(error)
    how = "does not answer in time" if isinstance(error, requests.Timeout) else "gave no whole answer"
    text = f"{api} cannot be reached" if undone else f"{api} {how}"
    return Trouble(f"{text} ({_cause(error)})", again=again, undone=undone)


def of_nonsense(api: str, what: str) -> Trouble:
    """An answer that cannot be one of GitHub's: cut off, or of something else on the way."""
    return Trouble(f"{api}: answered with {what}, not as GitHub does; check GITHUB_API_URL", again=True)


def _never_sent(error: requests.RequestException) -> bool:
    import requests
    from urllib3.exceptions import NewConnectionError, ProxyError, SSLError

    reason = getattr(error.args[0], "reason", None) if error.args else None
    return isinstance(error, requests.ConnectTimeout) or isinstance(reason, NewConnectionError | ProxyError | SSLError)


def _cause(error: BaseException) -> str:
    """The innermost words of an error, which name no more than host and reason."""
    inner: Any = error
    while getattr(inner, "args", None) and isinstance(inner.args[-1], BaseException):
        inner = inner.args[-1]
    reason = getattr(inner, "reason", None)
    text = getattr(inner, "strerror", None) or (_cause(reason) if isinstance(reason, BaseException) else str(inner))
    return shorten(text or type(error).__name__, 160)


def _said(data: Any) -> str:
    """What the server says itself: its message, and which fields it does not like."""
    if not isinstance(data, Mapping):
        return ""
    parts = [str(data.get("message") or "")]
    for item in data.get("errors") or () if isinstance(data.get("errors"), list) else ():
        words = (item.get(key) for key in ("field", "code", "value", "message")) if isinstance(item, Mapping) else ()
        parts.append(" ".join(str(word) for word in words if word) or str(item))
    text = "; ".join(part for part in parts if part)
    return f": {shorten(text, 300)}" if text else ""


def _is_limit(headers: Mapping[str, str], said: str) -> bool:
    return "retry-after" in headers or headers.get("x-ratelimit-remaining") == "0" or "rate limit" in said.lower()


def _wait(headers: Mapping[str, str]) -> float:
    after = headers.get("retry-after", "")
    if after.isdigit():
        return float(after)
    reset = headers.get("x-ratelimit-reset", "")
    if headers.get("x-ratelimit-remaining") == "0" and reset.isdigit():
        return max(float(reset) - time.time(), 0.0) + 1.0  # it is not said when in that second
    return SECONDARY_WAIT_S


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


HOUSE = ("OWNER", "MEMBER", "COLLABORATOR")


class Trust:
    """Bots, people who belong to the repository, and the token's own user."""

    def __init__(self, client: Client) -> None:
        self._client = client

    def covers(self, plain: Mapping[str, Any]) -> bool:
        """Whether an issue or a comment is by somebody who is believed."""
        user = plain.get("user")
        known: Mapping[str, Any] = user if isinstance(user, Mapping) else {}
        if known.get("type") == "Bot" or plain.get("author_association") in HOUSE:
            return True
        return bool(known.get("login")) and known["login"] == self._own

    @cached_property
    def _own(self) -> str:
        """The token's own user; a workflow's token has none, and is a bot."""
        try:
            _, user = self._client.get("/user")
        except Trouble as trouble:
            if trouble.status in (401, 403, 404):
                return ""
            raise
        return str(user.get("login") or "") if isinstance(user, Mapping) else ""
