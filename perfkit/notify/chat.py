"""Results told in chats and to programs.

Chat rooms, by Apprise, which knows more than a hundred of them by address (extra ``perfkit[chat]``).

A JSON document posted to an address: tries again where that helps, and never where it may have arrived.
"""

from __future__ import annotations

import hashlib
import io
import json
import logging
import re
import warnings
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

from perfkit.config.settings import Settings
from perfkit.config.toml_table import expand
from perfkit.history.incidents import Result
from perfkit.model.codec import dump_json
from perfkit.model.errors import MissingExtra, SettingsError
from perfkit.model.installation import extra_advice
from perfkit.model.records import Verdict
from perfkit.model.redaction import public_url, redact
from perfkit.notify.results import commits_of, link_template, report_link, report_place
from perfkit.notify.sent_log import Batch, Memory, tell
from perfkit.report.formatting import shorten
from perfkit.report.message import Telling, chat_text, document_of

_KINDS = {
    Verdict.REGRESSION: "failure",
    Verdict.INVALID: "warning",
    Verdict.INCONCLUSIVE: "warning",
    Verdict.IMPROVEMENT: "success",
    Verdict.NO_CHANGE: "success",
}


class Room:
    """One address of Apprise, such as ``slack://...``.

    Parameters
    ----------
    number
        Its place in the settings: its address may be a secret and is never shown.
    """

    def __init__(self, url: str, number: int) -> None:
        try:
            import apprise
        except ImportError as error:
            raise MissingExtra(f"messages to chats need Apprise; {extra_advice('chat')}") from error
        scheme = re.match(r"[A-Za-z0-9+-]{1,20}(?=://)", url)
        self.name = f"{scheme[0].lower() if scheme else 'address'} {number}"
        self.key = f"{self.name.split(' ')[0]}-{hashlib.sha256(url.encode()).hexdigest()[:12]}"
        asset = apprise.AppriseAsset(app_id="perfkit", app_desc="load tests", app_url="", image_url_mask="")
        self._apprise = apprise.Apprise(asset=asset)
        with _overheard():
            known = self._apprise.add(url)
        if not known:
            raise SettingsError(f"[chat]: urls: number {number} is no address that Apprise knows ({self.name})")
        self._secrets = [part for part in re.split(r"[/:@?&=]+", url) if len(part) > 5]

    def say(self, title: str, text: str, verdict: Verdict) -> str:
        """Say it once; why it could not be, or an empty text."""
        import apprise

        with _overheard() as said:
            done = self._apprise.notify(
                title=title,
                body=text,
                body_format=apprise.NotifyFormat.TEXT,
                notify_type=apprise.NotifyType(_KINDS[verdict]),
            )
            why = said.getvalue()
        return "" if done else shorten(redact(why, *self._secrets), 200) or "Apprise does not say why"


@contextmanager
def _overheard() -> Iterator[io.StringIO]:
    """What Apprise says to its log, which nobody else is to hear: there may be addresses in it."""
    log, heard = logging.getLogger("apprise"), io.StringIO()
    handler, propagate = logging.StreamHandler(heard), log.propagate
    handler.setLevel(logging.WARNING)
    log.addHandler(handler)
    log.propagate = False
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore", DeprecationWarning)  # of what it imports
            yield heard
    finally:
        log.removeHandler(handler)
        log.propagate = propagate


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


@dataclass(frozen=True, slots=True)
class ChatOptions:
    """What the command line says of messages to chats; what it leaves empty is as the settings say."""

    urls: tuple[str, ...] = ()
    webhook: str = ""
    when: str = ""
    dry_run: bool = False
    repository: Path | None = None


def send_chat(results: Sequence[Result], settings: Settings, order: ChatOptions) -> Iterator[str]:
    """Tell results in chats and to a webhook; each line says what was done, in a trial what would be said.

    Everything is read and checked before anything is sent.

    Raises
    ------
    DeliveryError
        A chat was not reached, after all others were; it names which and why.
    """
    rooms = _Rooms(settings, order)
    units = [(one,) for one in results]
    yield from tell(units, rooms, order.when or settings.chat.when, Memory(settings.delivery, "chat"))


@dataclass(frozen=True, slots=True)
class _Reader:
    """Somebody to tell: under which name people know it, and how."""

    name: str
    say: Callable[[Telling], str]
    shows: Callable[[Telling], str]


class _Rooms:
    """All chats and the webhook, each told by itself: what one does not take, the others get."""

    def __init__(self, settings: Settings, order: ChatOptions) -> None:
        self._order = order
        own = order.urls or order.webhook
        urls, hook = (order.urls, order.webhook) if own else (settings.chat.urls, settings.chat.webhook)
        self._link = link_template(settings.chat.link, "[chat]: link")
        self._readers = dict(_readers(urls, hook, "--url" if own else "[chat]: urls"))
        if not self._readers:
            raise SettingsError("[chat]: urls is missing: name chats or a webhook there, or say --url or --webhook")
        self.readers = tuple(self._readers)
        self.remembers = not order.dry_run
        self.reached: set[str] = set()
        self.failures: list[str] = []

    def deliver(self, batch: Batch) -> Iterator[str]:
        """Tell every reader, one by one."""
        ((result, news),) = batch.told
        place = report_place(result, report_link(self._link, result.report_folder))
        telling = Telling(result, place, news, commits_of(result, self._order.repository))
        for key in batch.readers:
            reader = self._readers[key]
            if self._order.dry_run:
                yield f"{reader.name}, not sent:\n{reader.shows(telling)}"
                continue
            why = reader.say(telling)
            if why:
                self.failures.append(f"{reader.name} was not reached: {why}")
                continue
            self.reached.add(key)
            yield f"told {reader.name}: {chat_text(telling)[0]}"


def _readers(urls: Sequence[str], hook: str, place: str) -> Iterator[tuple[str, _Reader]]:
    """By a key that gives no secret away."""
    for number, text in enumerate(urls, start=1):
        room = Room(expand(text, place), number)
        yield room.key, _Reader(room.name, _to_room(room), lambda telling: "\n".join(chat_text(telling)))
    if hook:
        url = address(expand(hook, "[chat]: webhook"), "[chat]: webhook")
        key = f"webhook-{hashlib.sha256(url.encode()).hexdigest()[:12]}"
        yield key, _Reader(f"webhook {name_of(url)}", _to_hook(url), lambda telling: _json(telling).rstrip())


def _to_room(room: Room) -> Callable[[Telling], str]:
    def say(telling: Telling) -> str:
        return room.say(*chat_text(telling), telling.result.verdict)

    return say


def _to_hook(url: str) -> Callable[[Telling], str]:
    def say(telling: Telling) -> str:
        return post(url, document_of(telling))

    return say


def _json(telling: Telling) -> str:
    document: dict[str, Any] = dict(document_of(telling))
    return dump_json(document)
