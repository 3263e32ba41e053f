"""Chat rooms, by Apprise, which knows more than a hundred of them by address (extra ``perfkit[chat]``)."""

from __future__ import annotations

import hashlib
import io
import logging
import re
import warnings
from collections.abc import Iterator
from contextlib import contextmanager

from perfkit.errors import MissingExtra, SettingsError
from perfkit.installation import extra_advice
from perfkit.model import Verdict
from perfkit.redaction import redact
from perfkit.render.theme import shorten

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
