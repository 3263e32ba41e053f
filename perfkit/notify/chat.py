"""Results in chats and for programs.

Chats go through Apprise, which knows more than a hundred kinds by address (extra ``perfkit[chat]``).  A webhook gets a
JSON document by POST; it is retried where that helps, and never where it may have arrived.
"""

from __future__ import annotations

import hashlib
import io
import json
import logging
import re
import warnings
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

from perfkit.config.settings import ChatSettings
from perfkit.config.toml_table import expand, url_parts
from perfkit.history.incidents import digest
from perfkit.model.codec import dump_json
from perfkit.model.errors import MissingExtra, SettingsError
from perfkit.model.installation import extra_advice
from perfkit.model.records import Verdict
from perfkit.model.redaction import public_url, redact
from perfkit.notify.delivery import Batch, Sent, link_template, message_about, report_link, report_location
from perfkit.report.formatting import shorten
from perfkit.report.message import Message, chat_text, webhook_document
from perfkit.report.report_set import Outcome

TIMEOUT_S = 30.0
RETRIES = 3
BACKOFF_S = 1.0  # before the second retry, then twice as long each
LONGEST_WAIT_S = 60.0  # whatever the server asks for
_RETRIED = (429, 502, 503, 504)
_KINDS: dict[Verdict | Outcome, str] = {
    Verdict.REGRESSION: "failure",
    Verdict.IMPROVEMENT: "success",
    Verdict.NO_CHANGE: "success",
}  # of all others: warning


class Chat:
    """One address of Apprise, such as ``slack://...``.

    It is named by ``number``, its position in the settings: its address may be a secret and is never shown.
    """

    def __init__(self, url: str, number: int) -> None:
        try:
            import apprise
        except ImportError as error:
            raise MissingExtra(f"messages to chats need Apprise; {extra_advice('chat')}") from error
        scheme = re.match(r"[A-Za-z0-9+-]{1,20}(?=://)", url)
        kind = scheme[0].lower() if scheme else "address"
        self.name = f"{kind} {number}"
        self.key = f"{kind}-{digest(url)}"
        asset = apprise.AppriseAsset(app_id="perfkit", app_desc="load tests", app_url="", image_url_mask="")
        self._apprise = apprise.Apprise(asset=asset)
        with _captured_log("apprise"):
            added = self._apprise.add(url)
        if not added:
            raise SettingsError(f"[chat]: urls: number {number} is no address that Apprise knows ({self.name})")
        self._secrets = [part for part in re.split(r"[/:@?&=]+", url) if len(part) > 5]

    def send(self, message: Message) -> str:
        """Send it once; why it could not be sent, or an empty text."""
        import apprise

        title, text = chat_text(message)
        with _captured_log("apprise") as log:
            sent = self._apprise.notify(
                title=title,
                body=text,
                body_format=apprise.NotifyFormat.TEXT,
                notify_type=apprise.NotifyType(_KINDS.get(message.verdict, "warning")),
            )
            reason = log.getvalue()
        return "" if sent else shorten(redact(reason, *self._secrets), 200) or "Apprise does not say why"


class Nowhere:
    """In place of a chat or webhook, for a dry run: shows what would be sent, and says why it could not be."""

    def __init__(self, reason: str) -> None:
        self.name, self.key = reason, f"nowhere-{digest(reason)}"

    def send(self, _: Message) -> str:
        """Nothing can be sent there."""
        return self.name


@contextmanager
def _captured_log(library: str) -> Iterator[io.StringIO]:
    """What a library logs, kept from all other handlers: there may be addresses in it."""
    log, text = logging.getLogger(library), io.StringIO()
    handler, propagate = logging.StreamHandler(text), log.propagate
    handler.setLevel(logging.WARNING)
    log.addHandler(handler)
    log.propagate = False
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore", DeprecationWarning)  # of what it imports
            yield text
    finally:
        log.removeHandler(handler)
        log.propagate = propagate


class Webhook:
    """An address that gets results as JSON; ``SettingsError`` for none of the web, which may be a secret, unnamed."""

    def __init__(self, url: str, setting: str = "[chat]: webhook") -> None:
        address = expand(url, setting)
        parts = url_parts(address)
        is_web = parts is not None and parts.scheme in ("http", "https") and parts.hostname and parts.port != 0
        if not is_web or not address.isprintable() or " " in address:
            raise SettingsError(f"{setting}: expected an address such as https://hooks.example/perfkit")
        self._url = address
        public = urlsplit(public_url(address))
        self.name = f"webhook {public.scheme}://{public.hostname}{f':{public.port}' if public.port else ''}"
        self.key = f"webhook-{digest(address)}"

    def send(self, message: Message) -> str:
        """Post it once; why it could not be posted, or an empty text."""
        return post(self._url, webhook_document(message))


def post(url: str, document: Mapping[str, Any], *, backoff_s: float = BACKOFF_S, timeout_s: float = TIMEOUT_S) -> str:
    """Post a document once; why it could not be posted, or an empty text.

    A connection that cannot be made, and responses by which a server asks to wait, are retried; a request that was sent
    and not answered is not.  Redirects are not followed: they could lead anywhere.
    """
    import requests
    from requests.adapters import HTTPAdapter
    from urllib3.exceptions import MaxRetryError, NewConnectionError, ReadTimeoutError, ResponseError
    from urllib3.util import Retry

    class BoundedRetry(Retry):
        """Waits as long as the server asks for, within reason."""

        def get_retry_after(self, response: Any) -> float | None:
            asked = super().get_retry_after(response)
            return None if asked is None else min(asked, LONGEST_WAIT_S)

    retries = BoundedRetry(
        total=RETRIES,
        read=0,
        redirect=0,
        other=0,
        allowed_methods=None,
        status_forcelist=_RETRIED,
        backoff_factor=backoff_s,
        raise_on_status=False,
    )
    body = json.dumps(document, allow_nan=False).encode()
    headers = {
        "Content-Type": "application/json",
        "User-Agent": "perfkit",
        "Idempotency-Key": hashlib.sha256(body).hexdigest()[:32],
    }
    with requests.Session() as session, _captured_log("urllib3.connectionpool"):
        for scheme in ("http://", "https://"):
            session.mount(scheme, HTTPAdapter(max_retries=retries))
        try:
            with session.post(
                url, body, headers=headers, timeout=timeout_s, allow_redirects=False, stream=True
            ) as response:
                return "" if response.ok and not response.is_redirect else f"answered {response.status_code}"
        except requests.exceptions.SSLError:
            return "its certificate is not trusted, or it speaks no TLS"
        except requests.exceptions.ConnectTimeout:
            return f"no connection within {timeout_s:g} s"
        except requests.exceptions.ConnectionError as error:  # its text holds the address, and is not shown
            cause = error.args[0] if error.args else error
            if isinstance(cause, MaxRetryError):
                cause = cause.reason or cause
            if isinstance(cause, NewConnectionError):
                return "no connection"
            if isinstance(cause, ResponseError):
                return "asked too often to wait"
            timed_out = isinstance(cause, ReadTimeoutError)
            reason = "no answer in time" if timed_out else "the connection broke before its answer"
            return f"{reason}; it may have arrived, and is not sent again"
        except (requests.exceptions.RequestException, UnicodeError) as error:
            return shorten(type(error).__name__, 80)


class ChatChannel:
    """All chats and the webhook as a channel; what one does not take, the others get.

    Addresses are those of the settings where none is given.  Commits of events are looked up in ``checkout``.
    """

    name = "chat"

    def __init__(
        self,
        settings: ChatSettings,
        *,
        urls: Sequence[str] = (),
        webhook: str = "",
        dry_run: bool = False,
        checkout: Path | None = None,
    ) -> None:
        setting = "--url" if urls or webhook else "[chat]: urls"
        if not urls and not webhook:
            urls, webhook = settings.urls, settings.webhook
        self._link = link_template(settings.link, "[chat]: link")
        targets: list[Chat | Webhook | Nowhere] = []
        try:
            targets += [Chat(expand(url, setting), number) for number, url in enumerate(urls, start=1)]
            targets += [Webhook(webhook)] if webhook else []
            if not targets:
                raise SettingsError("[chat]: urls is missing: name chats or a webhook there, or add --url or --webhook")
        except (MissingExtra, SettingsError) as error:
            if not dry_run:
                raise
            targets.append(Nowhere(str(error)))
        self._targets = {target.key: target for target in targets}
        self._checkout = checkout
        self.recipients = tuple(self._targets)
        self.dry_run = dry_run

    def send(self, batch: Batch) -> Sent:
        """Send to each recipient by itself."""
        ((result, diff),) = batch.contents
        location = report_location(result, report_link(self._link, result.report_folder))
        message = message_about(result, diff, location, self._checkout)
        targets = {key: self._targets[key] for key in batch.recipients}
        if self.dry_run:
            text = "\n".join(chat_text(message))
            document = dump_json(dict(webhook_document(message))).rstrip()
            previews = ((item.name, document if isinstance(item, Webhook) else text) for item in targets.values())
            return Sent(tuple(f"{name}, not sent:\n{preview}" for name, preview in previews))
        errors = {key: target.send(message) for key, target in targets.items()}
        title = chat_text(message)[0]
        return Sent(
            tuple(f"sent to {targets[key].name}: {title}" for key, error in errors.items() if not error),
            tuple(key for key, error in errors.items() if not error),
            tuple(f"{targets[key].name} was not reached: {error}" for key, error in errors.items() if error),
        )
