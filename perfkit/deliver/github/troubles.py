"""What can go wrong with GitHub, in sentences, and whether trying again may help."""

from __future__ import annotations

import time
from collections.abc import Mapping
from typing import TYPE_CHECKING, Any

from perfkit.errors import DeliveryError
from perfkit.render.theme import shorten

if TYPE_CHECKING:
    import requests
    from github import GithubException

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
