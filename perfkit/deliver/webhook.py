"""A JSON document posted to an address: tries again where that helps, and never where it may have arrived."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Mapping
from typing import Any
from urllib.parse import urlsplit

from perfkit.errors import SettingsError
from perfkit.redaction import public_url
from perfkit.render.theme import shorten

TIMEOUT_S = 30.0
TRIES = 3  # further ones
BACKOFF_S = 1.0  # before the second of them, then twice as long each
LONGEST_WAIT_S = 60.0  # whatever the server asks for
_PASSES = (429, 502, 503, 504)


def address(text: str, place: str) -> str:
    """An address of the web; ``SettingsError`` for any other, which does not repeat it: it may be a secret."""
    try:
        parts = urlsplit(text)
        good = parts.scheme in ("http", "https") and bool(parts.hostname) and (parts.port or 1) > 0
    except ValueError:
        good = False
    if not good or not text.isprintable() or " " in text:
        raise SettingsError(f"{place}: expected an address such as https://hooks.example/perfkit")
    return text


def name_of(url: str) -> str:
    """The address without what may be secret in it."""
    parts = urlsplit(public_url(url))
    return f"{parts.scheme}://{parts.hostname}{f':{parts.port}' if parts.port else ''}"


def post(url: str, document: Mapping[str, Any], *, backoff_s: float = BACKOFF_S, timeout_s: float = TIMEOUT_S) -> str:
    """Post it once; why it could not be, or an empty text.

    A connection that cannot be made, and answers by which a server asks for patience, are tried again; a request that
    was sent and not answered is not.  Redirects are not followed: they could lead anywhere.
    """
    import requests
    from requests.adapters import HTTPAdapter
    from urllib3.util import Retry

    class Patience(Retry):
        """Waits as long as the server asks for, within reason."""

        def get_retry_after(self, response: Any) -> float | None:
            asked = super().get_retry_after(response)
            return None if asked is None else min(asked, LONGEST_WAIT_S)

    retries = Patience(
        total=TRIES,
        read=0,
        redirect=0,
        other=0,
        allowed_methods=None,
        status_forcelist=_PASSES,
        backoff_factor=backoff_s,
        raise_on_status=False,
    )
    body = json.dumps(document, allow_nan=False).encode()
    headers = {
        "Content-Type": "application/json",
        "User-Agent": "perfkit",
        "Idempotency-Key": hashlib.sha256(body).hexdigest()[:32],
    }
    with requests.Session() as session:
        for scheme in ("http://", "https://"):
            session.mount(scheme, HTTPAdapter(max_retries=retries))
        try:
            with session.post(
                url, body, headers=headers, timeout=timeout_s, allow_redirects=False, stream=True
            ) as answer:
                return "" if answer.ok and not answer.is_redirect else f"answered {answer.status_code}"
        except requests.exceptions.SSLError:
            return "its certificate is not trusted, or it speaks no TLS"
        except requests.exceptions.ConnectTimeout:
            return f"no connection within {timeout_s:g} s"
        except requests.exceptions.ConnectionError as error:
            return _broken(error)
        except (requests.exceptions.RequestException, UnicodeError) as error:
            return shorten(type(error).__name__, 80)


def _broken(error: Exception) -> str:
    """Whether it broke before anything was sent; texts of the library hold the address, and are not shown."""
    from urllib3.exceptions import MaxRetryError, NewConnectionError, ReadTimeoutError, ResponseError

    cause = error.args[0] if error.args else error
    if isinstance(cause, MaxRetryError):
        cause = cause.reason or cause
    if isinstance(cause, NewConnectionError):
        return "no connection"
    if isinstance(cause, ResponseError):
        return "asked for patience too often"
    why = "no answer in time" if isinstance(cause, ReadTimeoutError) else "the connection broke before its answer"
    return f"{why}; it may have arrived, and is not sent again"
