"""What an issue remembers of the worsening that it follows: a hidden comment at the head of perfkit's part of its text.

It holds nothing but digests and numbers, so that no name can end the comment, and never more than some 20 kB.  The text
before and after that part belongs to people.
"""

from __future__ import annotations

import hashlib
import json
import re
from collections.abc import Mapping
from dataclasses import dataclass, field
from types import MappingProxyType
from typing import Any

OPEN, TWIN = "open", "twin"
MOST_SERVICES = 500
MOST_NAMES = 100
_BEGIN = re.compile(r"<!-- perfkit-issue (\{[^<>]*\}) -->\n?")
_END = "<!-- /perfkit-issue -->"
_SAID = "<!-- perfkit-said {} -->"


def digest(text: str, length: int = 12) -> str:
    """Hexadecimal digits that stand for a text."""
    return hashlib.sha256(text.encode()).hexdigest()[:length]


@dataclass(frozen=True, slots=True)
class Marker:
    """What is known of an issue without reading it as people do.

    Parameters
    ----------
    scenario
        Fingerprint of its name.
    names
        Fingerprints of all places under which any sighting may have been known; the first is its own name.
    last
        Those of the last sighting.
    heard
        Fingerprints of the runs at which its sightings were first heard.
    services
        Digests of the services that were named.
    sizes
        Digest of a service and metric to the size of its change that is shown.
    state
        How perfkit left it: ``open``, or closed because it was ``over``, ``known`` or the ``twin`` of another issue.
        What is open or closed against that was opened or closed by a person.
    turn
        Counts what perfkit did with it.
    title, text
        Digests of the title and the text as perfkit wrote them.
    """

    scenario: str
    names: tuple[str, ...]
    last: tuple[str, ...]
    heard: tuple[str, ...] = ()
    services: tuple[str, ...] = ()
    sizes: Mapping[str, float | None] = field(default_factory=lambda: MappingProxyType({}))
    state: str = OPEN
    turn: int = 0
    title: str = ""
    text: str = ""

    def to_text(self) -> str:
        """The comment."""
        plain = {name: _plain(getattr(self, name)) for name in self.__slots__}
        return f"<!-- perfkit-issue {json.dumps(plain, separators=(',', ':'))} -->"


def _plain(value: Any) -> Any:
    return dict(value) if isinstance(value, Mapping) else value


def read_marker(body: str) -> Marker | None:
    """The marker in the text of an issue; ``None`` where there is none that could be perfkit's."""
    found = _BEGIN.search(body)
    if found is None:
        return None
    try:
        plain = json.loads(found[1])
        sizes = {str(name): None if size is None else float(size) for name, size in plain["sizes"].items()}
        given: dict[str, Any] = {"sizes": sizes, "turn": int(plain["turn"])}
        given |= {name: tuple(map(str, plain[name])) for name in ("names", "last", "heard", "services")}
        given |= {name: str(plain[name]) for name in ("scenario", "state", "title", "text")}
        return Marker(**given)
    except (ValueError, TypeError, KeyError, AttributeError, RecursionError):
        return None


def wrapped(marker: Marker, text: str) -> str:
    """perfkit's part of the text of an issue."""
    return f"{marker.to_text()}\n{text}\n{_END}"


def replaced(body: str, part: str) -> str:
    """The text of an issue with perfkit's part anew; what people wrote around it stays."""
    found = _BEGIN.search(body)
    if found is None:
        return part
    end = body.find(_END, found.end())
    rest = body[end + len(_END) :] if end >= 0 else ""
    return f"{body[: found.start()]}{part}{rest}"


def marked_anew(body: str, marker: Marker) -> str:
    """The text of an issue with another marker, and else as it is."""
    return _BEGIN.sub(lambda _: f"{marker.to_text()}\n", body, count=1)


def said(kind: str, marker: Marker) -> str:
    """A hidden comment for what is said of an issue in this state: it is said once."""
    return _SAID.format(f"{kind}-{digest(marker.to_text())}")
