"""An e-mail as it travels: plain text, HTML with its pictures, and the reports as attachments."""

from __future__ import annotations

import hashlib
import re
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from datetime import datetime
from email.headerregistry import Address
from email.message import EmailMessage
from email.policy import SMTP
from email.utils import format_datetime

from perfkit.render.mail import Mail

# Every line is short ASCII, whatever the servers on its way can do
_POLICY = SMTP.clone(cte_type="7bit")


@dataclass(frozen=True, slots=True)
class Attachment:
    """An HTML report, and the name of its file."""

    name: str
    content: bytes


def attachment_name(scenario: str, folder: str) -> str:
    """A file name for the report of a scenario that is one on every system."""
    words = [re.sub(r"[^A-Za-z0-9_-]+", "-", text)[:60].strip("-") for text in (scenario, folder)]
    return f"{'-'.join(word for word in words if word) or 'report'}.html"


def letter_of(
    mail: Mail, sender: Address, recipients: Sequence[Address], attachments: Iterable[Attachment], now: datetime
) -> EmailMessage:
    """The whole message.

    Its id comes of what it says and to whom: a copy that a broken connection let through twice is known as one.
    """
    message = EmailMessage(policy=_POLICY)
    message["From"] = sender
    message["To"] = tuple(recipients)
    message["Subject"] = mail.subject
    message["Date"] = format_datetime(now)
    message["Message-ID"] = _id(mail, sender, recipients)
    message["Auto-Submitted"] = "auto-generated"  # RFC 3834: no machine should answer
    message.set_content(mail.text, cte="quoted-printable")
    message.add_alternative(mail.html, subtype="html", cte="quoted-printable")
    html = message.get_body(("html",))
    if html is not None:
        for cid, picture in mail.pictures.items():
            html.add_related(picture.png, "image", "png", cid=f"<{cid}>", disposition="inline", filename=_file(cid))
    for one in attachments:
        message.add_attachment(one.content, "text", "html", filename=one.name)
    return message


def _file(cid: str) -> str:
    return f"{cid.partition('@')[0]}.png"


def _id(mail: Mail, sender: Address, recipients: Sequence[Address]) -> str:
    told = "\n".join([mail.subject, mail.text, mail.html, *(one.addr_spec for one in recipients)])
    return f"<perfkit.{hashlib.sha256(told.encode()).hexdigest()[:32]}@{sender.domain}>"
