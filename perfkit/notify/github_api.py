"""GitHub's REST API for one repository: requests are retried within limits, and nothing is made twice.

PyGithub and urllib3 retry by HTTP method, and would send a new issue again that the server had made before the
connection broke.  `Client.post` looks on the server instead, before the first try and after each whose outcome is
unknown.  Errors say in one sentence what the server's answer means; the token is in none of them.
"""

from __future__ import annotations

import ipaddress
import os
import re
import time
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, field
from functools import cached_property, partial
from typing import TYPE_CHECKING, Any, TypeVar
from urllib.parse import parse_qs, urljoin, urlsplit

from perfkit.config.toml_table import url_parts
from perfkit.model.errors import DeliveryError, SettingsError
from perfkit.model.redaction import redact
from perfkit.report.formatting import shorten

if TYPE_CHECKING:
    import requests

PUBLIC_API = "https://api.github.com"
SECONDARY_WAIT_S = 60.0  # what GitHub asks for when it sets a secondary rate limit and names no time
PER_PAGE = 100
MOST_PAGES = 500
MOST_REDIRECTS = 3
MEMBERS = ("OWNER", "MEMBER", "COLLABORATOR")
_REPOSITORY = re.compile(r"[A-Za-z0-9][A-Za-z0-9_-]{0,99}/(?!\.\.?$)[A-Za-z0-9._-]{1,100}")
_TOKEN = re.compile(r"[\x21-\x7e]{1,1000}")
_REFUSALS = {
    401: "GitHub does not accept the token ({status}{message}): GITHUB_TOKEN has expired, was revoked, or is of "
    "another server",
    403: "the token may not do this in {repository} ({status}{message}): a workflow needs permissions: issues: write "
    "(for comments pull-requests: write), a fine-grained token Issues: read and write",
    404: "{repository} is not there for this token ({status}{message}): check its name, and that the token may see it",
    410: "{repository} has its issues turned off ({status}{message}): turn them on, or name another in [issues]",
    422: "GitHub does not accept what was sent ({status}{message})",
}
Found = TypeVar("Found")


@dataclass(frozen=True, slots=True)
class Access:
    """A repository on a GitHub server, and the token for it."""

    repository: str
    api: str = PUBLIC_API
    token: str = field(default="", repr=False)  # empty where nothing is to be sent; in no text that this class makes
    web: str = ""  # where its pages are, for links; empty where that is not known
    code: str = ""  # the repository that a workflow is of, whose commits are linked; empty: the same one

    @classmethod
    def from_environment(
        cls, repository: str = "", *, with_token: bool = True, environment: Mapping[str, str] | None = None
    ) -> Access:
        """That of `GITHUB_REPOSITORY` (unless named), `GITHUB_API_URL`, `GITHUB_SERVER_URL` and `GITHUB_TOKEN`.

        ``SettingsError``: one of them is missing or cannot be right.  A token is needed only ``with_token``.
        """
        variables = os.environ if environment is None else environment
        workflow = variables.get("GITHUB_REPOSITORY", "")
        name, token = repository or workflow, variables.get("GITHUB_TOKEN", "").strip()
        if not name:
            raise SettingsError(
                "GitHub: no repository is named, and git has no remote on GitHub here: add --repository owner/name, "
                "repository in [issues], or GITHUB_REPOSITORY"
            )
        if not _REPOSITORY.fullmatch(name):
            raise SettingsError(f"GitHub: the repository must be owner/name, such as octo/shop; got {name[:200]!r}")
        api = _checked_api(variables.get("GITHUB_API_URL") or PUBLIC_API)
        if not token and with_token:
            raise SettingsError(
                "GITHUB_TOKEN: is not set; in a workflow: env: GITHUB_TOKEN: ${{ github.token }}, with permissions: "
                "issues: write (for comments pull-requests: write)"
            )
        if token and not _TOKEN.fullmatch(token):
            raise SettingsError(
                "GITHUB_TOKEN: holds blanks, line ends or other characters that no token has (not shown)"
            )
        server = variables.get("GITHUB_SERVER_URL", "")
        parts, api_parts = url_parts(server) if _TOKEN.fullmatch(server) else None, urlsplit(api)
        web = ""
        if parts is not None and parts.hostname and parts.scheme in ("https", "http") and parts.username is None:
            web = f"{parts.scheme}://{parts.netloc}{parts.path.rstrip('/')}"
        elif api_parts.hostname and api_parts.hostname.startswith("api."):
            web = f"{api_parts.scheme}://{api_parts.netloc.removeprefix('api.')}"
        elif api_parts.path == "/api/v3":
            web = f"{api_parts.scheme}://{api_parts.netloc}"
        return cls(name, api, token, web, workflow if _REPOSITORY.fullmatch(workflow) else "")

    @property
    def path(self) -> str:
        """Of the repository in the API."""
        return f"/repos/{self.repository}"


def repository_at(address: str, server: str = "") -> str:
    """The repository ``owner/name`` that the address of a git remote names, or an empty text.

    Only of ``server``, the address of a GitHub server such as ``GITHUB_SERVER_URL``, by default of github.com: a
    remote elsewhere is nobody's to write issues to.
    """
    match = re.fullmatch(r"(?:[^@/]+@)?([^/:@]+):(?!//)/*(.+)", address)  # git@github.com:octo/shop.git
    parts = None if match else url_parts(address)
    host, path = (match[1], match[2]) if match else (parts.hostname, parts.path) if parts else ("", "")
    expected = url_parts(server or "https://github.com")
    name = (path or "").strip("/").removesuffix(".git")
    is_there = expected is not None and (host or "").lower() == expected.hostname
    return name if is_there and _REPOSITORY.fullmatch(name) else ""


def _checked_api(text: str) -> str:
    parts = url_parts(text) if _TOKEN.fullmatch(text) else None
    if parts is None or not parts.hostname or parts.scheme not in ("https", "http") or parts.port == 0:
        shown = repr(text[:200]) if "@" not in text else "one with '@' in it"  # which may be a password
        raise SettingsError(f"GITHUB_API_URL: must be an address such as {PUBLIC_API}; got {shown}")
    if parts.username is not None or parts.password is not None or parts.query or parts.fragment:
        raise SettingsError("GITHUB_API_URL: must hold no name, password, query or fragment; the token is GITHUB_TOKEN")
    try:
        loopback = ipaddress.ip_address(parts.hostname).is_loopback
    except ValueError:
        loopback = parts.hostname == "localhost"
    if parts.scheme == "http" and not loopback:
        raise SettingsError(
            f"GITHUB_API_URL: must begin with https://, or the token can be read on the way; got {text!r}"
        )
    return text.rstrip("/")


class GitHubError(DeliveryError):
    """A request that failed; ``status`` is that of the response, 0 without one.

    A ``retryable`` one may succeed a little later, after ``wait_s`` where the server says so.  Of one that is
    ``not_done`` the server surely did nothing: the same may be sent again.
    """

    def __init__(
        self,
        text: str,
        *,
        status: int = 0,
        retryable: bool = False,
        not_done: bool = False,
        wait_s: float | None = None,
    ) -> None:
        super().__init__(text)
        self.status, self.retryable, self.not_done, self.wait_s = status, retryable, not_done, wait_s


@dataclass(frozen=True, slots=True)
class Patience:
    """How long to wait for what."""

    timeout_s: float = 15  # for a connection, and for each part of a response
    tries: int = 4  # of one request
    first_wait_s: float = 1.0  # after the first failure; doubled after each further one
    most_wait_s: float = 90.0  # that a server may ask for; beyond that, it is left for the next call
    pause_s: float = 1.0  # between two writing requests, as GitHub asks
    sleep: Callable[[float], None] = time.sleep


class Client:
    """Reads and writes one repository."""

    def __init__(self, access: Access, patience: Patience | None = None) -> None:
        self.access = access
        self._patience = patience or Patience()
        self._next_write = 0.0  # on the monotonic clock

    def get(self, path: str, parameters: Mapping[str, Any] | None = None) -> Any:
        """The content of a response."""
        return self._retried(lambda: self._request("GET", path, parameters=parameters))[0]

    def pages(self, path: str, parameters: Mapping[str, Any]) -> Iterator[Mapping[str, Any]]:
        """The objects of a list, page after page."""
        query: dict[str, Any] = {**parameters, "per_page": PER_PAGE}
        for _ in range(MOST_PAGES):
            items, following = self._retried(partial(self._request, "GET", path, parameters=query))
            if not isinstance(items, list) or not all(isinstance(item, Mapping) for item in items):
                raise self.malformed("something else than a list")
            yield from items
            if not following:
                return
            query |= following
        raise GitHubError(
            f"{self.access.repository}: its list of {path} has more than {MOST_PAGES * PER_PAGE:,} entries"
        )

    def patch(self, path: str, payload: Mapping[str, Any]) -> Mapping[str, Any]:
        """Change something; the same twice is the same once."""
        return self._object(self._retried(lambda: self._request("PATCH", path, payload=payload))[0])

    def post(
        self, path: str, payload: Mapping[str, Any], find: Callable[[], Found | None], read: Callable[[Any], Found]
    ) -> tuple[Found, bool]:
        """Make something that is not there yet, and say whether it was this call that made it.

        ``find`` looks for it on the server, before the first try and after each whose outcome is unknown.
        """
        surely_absent = False

        def attempt() -> tuple[Found, bool]:
            nonlocal surely_absent
            if not surely_absent:
                try:
                    existing = find()
                except GitHubError as error:
                    error.retryable = False  # its own requests were retried already
                    raise
                if existing is not None:
                    return existing, False
            try:
                return read(self._object(self._request("POST", path, payload=payload)[0])), True
            except GitHubError as error:
                surely_absent = error.not_done
                raise

        return self._retried(attempt)

    def trusts(self, item: Mapping[str, Any]) -> bool:
        """Whether an issue or comment is by a bot, a member of the repository, or the token's own user.

        A stranger could write perfkit's hidden words to keep a regression from being reported.
        """
        user = item.get("user")
        author: Mapping[str, Any] = user if isinstance(user, Mapping) else {}
        if author.get("type") == "Bot" or item.get("author_association") in MEMBERS:
            return True
        return bool(author.get("login")) and author["login"] == self._login

    def malformed(self, what: str) -> GitHubError:
        """The error for a response that cannot be GitHub's: cut off, or of another server on the way."""
        return GitHubError(
            f"{self.access.api}: answered with {what}, not as GitHub does; check GITHUB_API_URL", retryable=True
        )

    @cached_property
    def _login(self) -> str:
        """The token's own user; a workflow's token has none, and is a bot."""
        try:
            user = self.get("/user")
        except GitHubError as error:
            if error.status in (401, 403, 404):
                return ""
            raise
        return str(user.get("login") or "") if isinstance(user, Mapping) else ""

    @cached_property
    def _session(self) -> requests.Session:
        import requests

        def authorize(request: requests.PreparedRequest) -> requests.PreparedRequest:
            if self.access.token:
                request.headers["Authorization"] = f"Bearer {self.access.token}"
            return request

        session = requests.Session()
        session.auth = authorize  # and so none of ~/.netrc
        version = {"Accept": "application/vnd.github+json", "X-GitHub-Api-Version": "2022-11-28"}
        session.headers.update({"User-Agent": "perfkit", **version})
        return session

    def _object(self, content: Any) -> Mapping[str, Any]:
        if not isinstance(content, Mapping):
            raise self.malformed("something else than an object")
        return content

    def _retried(self, attempt: Callable[[], Found]) -> Found:
        patience = self._patience
        for number in range(patience.tries):
            try:
                return attempt()
            except GitHubError as error:
                wait = patience.first_wait_s * 2.0**number if error.wait_s is None else error.wait_s
                if not error.retryable or number + 1 == patience.tries or wait > patience.most_wait_s:
                    raise
                patience.sleep(wait)
                self._session.close()  # the next try gets a connection of its own
        raise AssertionError("unreachable: the last try returns or raises")

    def _request(
        self,
        method: str,
        path: str,
        *,
        payload: Mapping[str, Any] | None = None,
        parameters: Mapping[str, Any] | None = None,
    ) -> tuple[Any, dict[str, str]]:
        """The content of a response, and how the query of its next page differs; `GitHubError` for any other end.

        Redirections, as after a repository was renamed, are followed on the same server only.
        """
        import requests

        if method != "GET" and (pause := self._next_write - time.monotonic()) > 0:
            self._patience.sleep(pause)
        url = self.access.api + path
        try:
            for _ in range(1 + MOST_REDIRECTS):
                with self._session.request(
                    method,
                    url,
                    params=parameters,
                    json=payload,
                    timeout=self._patience.timeout_s,
                    allow_redirects=False,
                ) as response:
                    if not response.is_redirect or response.status_code == 303:
                        return self._content(response)
                    target = urljoin(url, response.headers["Location"])
                if urlsplit(target)[:2] != urlsplit(url)[:2]:
                    break
                url, parameters = target, None
            text = f"{self.access.api}: redirects to {shorten(target, 160)}; check GITHUB_API_URL and the repository"
            raise GitHubError(redact(text, self.access.token))
        except requests.RequestException as error:
            raise self._unanswered(error) from None
        finally:
            if method != "GET":
                self._next_write = time.monotonic() + self._patience.pause_s

    def _content(self, response: requests.Response) -> tuple[Any, dict[str, str]]:
        try:
            content = response.json()
        except ValueError:
            content = None
            if response.ok:
                raise self.malformed("what is no JSON") from None
        if not response.ok:
            raise self._refused(response, content)
        following = urlsplit(response.links.get("next", {}).get("url", ""))
        query = parse_qs(following.query)  # only this is taken from the address that the server names
        return content, {name: query[name][-1] for name in ("page", "after") if name in query}

    def _refused(self, response: requests.Response, content: Any) -> GitHubError:
        """What a response with an error's status means."""
        status, headers, message = response.status_code, response.headers, ""
        if isinstance(content, Mapping):
            errors = content.get("errors")
            parts = [str(content.get("message") or "")]
            for item in errors if isinstance(errors, list) else ():
                fields = item if isinstance(item, Mapping) else {}
                values = (fields.get(key) for key in ("field", "code", "value", "message"))
                parts.append(" ".join(str(value) for value in values if value) or str(item))
            text = "; ".join(part for part in parts if part)
            message = f": {shorten(redact(text, self.access.token), 300)}" if text else ""
        after, reset = headers.get("retry-after", ""), headers.get("x-ratelimit-reset", "")
        used_up = headers.get("x-ratelimit-remaining") == "0"
        wait = SECONDARY_WAIT_S
        if after.isdecimal():
            wait = float(after)
        elif used_up and reset.isdecimal():
            wait = max(float(reset) - time.time(), 0.0) + 1.0  # it is not said when in that second
        if status == 429 or (status == 403 and (after or used_up or "rate limit" in message.lower())):
            text = f"GitHub limits the rate of requests ({status}{message}): it asks to wait {wait:.0f} s"
            return GitHubError(text, status=status, retryable=True, not_done=True, wait_s=wait)
        if status >= 500:
            text = f"GitHub has a server error ({status}{message})"
            return GitHubError(text, status=status, retryable=True, wait_s=wait if after else None)
        reason = _REFUSALS.get(status, "GitHub refuses it ({status}{message})")
        text = reason.format(repository=self.access.repository, status=status, message=message)
        return GitHubError(text, status=status)

    def _unanswered(self, error: requests.RequestException) -> GitHubError:
        """What it means that there was no whole response."""
        import requests
        from urllib3.exceptions import NewConnectionError, ProxyError, SSLError

        reason = getattr(error.args[0], "reason", None) if error.args else None
        not_sent = isinstance(error, requests.ConnectTimeout) or isinstance(
            reason, NewConnectionError | ProxyError | SSLError
        )
        if not_sent:
            what = "cannot be reached"
        else:
            what = "does not answer in time" if isinstance(error, requests.Timeout) else "gave no whole answer"
        retryable = not isinstance(error, requests.exceptions.SSLError | requests.exceptions.InvalidURL)
        text = redact(f"{self.access.api} {what} ({_innermost(error)})", self.access.token)
        return GitHubError(text, retryable=retryable, not_done=not_sent)


def _innermost(error: BaseException) -> str:
    """The text of the cause of an error, which names no more than host and reason."""
    inner: Any = error
    while getattr(inner, "args", None) and isinstance(inner.args[-1], BaseException):
        inner = inner.args[-1]
    reason = getattr(inner, "reason", None)
    text = getattr(inner, "strerror", None) or (_innermost(reason) if isinstance(reason, BaseException) else str(inner))
    return shorten(text or type(error).__name__, 160)
