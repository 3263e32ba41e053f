"""Which repository of which server, and with what right: checked before anything is sent."""

from __future__ import annotations

import ipaddress
import os
import re
from collections.abc import Mapping
from dataclasses import dataclass, field
from urllib.parse import SplitResult, urlsplit

from perfkit.errors import SettingsError
from perfkit.redaction import redact

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
