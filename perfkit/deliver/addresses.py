"""E-mail addresses as people write them, checked so that no header and no SMTP command can come of them."""

from __future__ import annotations

import re
import unicodedata
from collections.abc import Iterable
from email.headerregistry import Address
from email.utils import getaddresses

from perfkit.errors import SettingsError
from perfkit.settings_file import expand

_LOCAL = re.compile(r"[A-Za-z0-9.!#$%&'*+/=?^_`{|}~-]{1,64}")
_DOMAIN = re.compile(r"[A-Za-z0-9](?:[A-Za-z0-9.-]{0,253}[A-Za-z0-9])?")


def addresses_of(texts: Iterable[str], place: str) -> tuple[Address, ...]:
    """Every address in these texts, once; each text may hold several, separated by commas, and ``${NAME}``.

    Raises
    ------
    SettingsError
        One is no address; it is named, with its place.
    """
    found: dict[str, Address] = {}
    for text in texts:
        for address in _several(expand(text, place), place):
            found.setdefault(address.addr_spec.lower(), address)
    return tuple(found.values())


def address_of(text: str, place: str) -> Address:
    """The only address in a text."""
    every = _several(expand(text, place), place)
    if len(every) != 1:
        raise SettingsError(f"{place}: expected one address, got {len(every)}")
    return every[0]


def _several(text: str, place: str) -> list[Address]:
    if any(unicodedata.category(char) in ("Cc", "Zl", "Zp") for char in text):
        raise SettingsError(f"{place}: {text!r:.120} holds a line break or another control character")
    pairs = getaddresses([text])
    if not any(spec for _, spec in pairs):
        raise SettingsError(f"{place}: {text!r:.120} is no address, such as team@example.org")
    for _, spec in pairs:
        if spec not in text:  # the parser puts right what it takes for a slip, and so may write to somebody else
            raise SettingsError(f"{place}: {text!r:.120} is no address, such as team@example.org")
    return [_checked(name, spec, place) for name, spec in pairs]


def _checked(name: str, spec: str, place: str) -> Address:
    local, _, domain = spec.rpartition("@")
    try:
        domain = domain.encode("idna").decode()
    except UnicodeError:
        domain = ""
    if not _LOCAL.fullmatch(local) or not _DOMAIN.fullmatch(domain):
        raise SettingsError(f"{place}: {spec!r:.120} is no address, such as team@example.org")
    return Address(display_name=name, username=local, domain=domain)
