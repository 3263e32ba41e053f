"""Where the report of a result is, for those who read a message about it, and which commits lie behind its events."""

from __future__ import annotations

from pathlib import Path
from urllib.parse import quote

from perfkit.errors import SettingsError
from perfkit.history.attribution import Attribution, attribute
from perfkit.render.notice import MOST_HAPPENINGS, Place
from perfkit.render.theme import clean, shorten
from perfkit.results import Result
from perfkit.settings_file import expand, url_parts

MEGABYTE = 1e6


def report_place(result: Result, link: str) -> Place:
    """Where a report is that does not go along with the message."""
    if result.report is None:
        return Place("Open the report" if link else f"The result is in {shorten(result.place, 200)}", link)
    size = f"{result.report.stat().st_size / MEGABYTE:.1f} MB"
    if link:
        return Place(f"Open the full report ({size})", link)
    return Place(f"The full report ({size}) is {shorten(result.report.resolve(), 200)}")


def link_template(text: str, place: str) -> str:
    """An address with ``{report}``; ``SettingsError`` when it is none of the web."""
    address = expand(text, place)
    parts = url_parts(address)
    if address and (parts is None or parts.scheme not in ("http", "https") or clean(address) != address):
        raise SettingsError(f"{place}: expected an address such as https://ci.example/reports/{{report}}, got {text!r}")
    return address


def report_link(result: Result, template: str) -> str:
    """The address of a report; empty where there is none."""
    if not template:
        return ""
    folder = (result.report or Path(result.place)).resolve().parent.name
    return template.replace("{report}", quote(folder, safe=""))


def commits_of(result: Result, repository: Path | None) -> dict[str, Attribution]:
    """What lies between the runs of the events that are told."""
    events = [one.last.event for one in result.news[-MOST_HAPPENINGS:]]
    return {event.id: attribute(event, repository) for event in events}
