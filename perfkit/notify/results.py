"""The results that a notification is about, where their reports are, and the commits behind their events.

A result is read from a file or a report folder, or judged now from a store and a scenario.  No notebook runs for it.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from urllib.parse import quote

from perfkit.config.policy import Policy
from perfkit.config.settings import Settings
from perfkit.config.toml_table import expand, url_parts
from perfkit.history.commits import Attribution, attribute
from perfkit.history.incidents import Result, read_result
from perfkit.history.run_names import newest_result
from perfkit.model.errors import ReadError, SettingsError
from perfkit.report.formatting import clean, shorten
from perfkit.report.message import MOST_STATEMENTS, Message, ReportLocation, message_of, message_of_entry
from perfkit.report.report_set import is_overview, read_overview

MEGABYTE = 1e6


@dataclass(frozen=True, slots=True)
class ResultSet:
    """Results to notify about, in the order in which they were named.

    Parameters
    ----------
    messages
        One for each result, and one for each report of a set that could not be made.
    folder
        Name of the folder of the first result file; empty for results from a store.
    """

    messages: tuple[Message, ...]
    folder: str = ""

    @property
    def results(self) -> tuple[Result, ...]:
        """The results of comparisons and histories, each file once; ``ReadError`` when there is none."""
        found = {Path(one.result.place).resolve(): one.result for one in self.messages if one.result is not None}
        if not found:
            raise ReadError("holds no result of a comparison or of a history: each of its reports failed")
        return tuple(found.values())


def collect_results(
    files: Sequence[Path], scenarios: Sequence[str], *, store: str, settings: Settings, policy: Policy
) -> ResultSet:
    """Results of files, then the newest run of each scenario of a store against its history.

    Parameters
    ----------
    files
        Report folders, result files, or folders of ``perfkit report --all``.

    Raises
    ------
    ReadError
        A file is no result.
    NotStored
        The store has no run of a scenario.
    NotComparable
        The newest run of a scenario has no valid run before it.
    """
    messages = [message for file in files for message in _messages_in(file)]
    for name in scenarios:
        messages.append(message_of(newest_result(store, name, settings=settings, policy=policy)))
    first = next(iter(files), None)
    folder = "" if first is None else (first if first.is_dir() else first.parent).resolve().name
    return ResultSet(tuple(messages), folder)


def _messages_in(file: Path) -> Iterator[Message]:
    if not is_overview(file):
        yield message_of(read_result(file))
        return
    folder = file if file.is_dir() else file.parent
    for entry in read_overview(file).entries:
        yield message_of_entry(entry, read_result(folder / entry.result) if entry.result and entry.verdict else None)


def link_template(text: str, setting: str) -> str:
    """A web address with ``{report}`` in it, its variables replaced; ``SettingsError`` for any other text."""
    address = expand(text, setting)
    parts = url_parts(address)
    if address and (parts is None or parts.scheme not in ("http", "https") or clean(address) != address):
        example = "https://ci.example/reports/{report}"
        raise SettingsError(f"{setting}: expected an address such as {example}, got {text!r}")
    return address


def report_link(template: str, folder: str) -> str:
    """The address of the report in a folder of that name; empty where there is no address or no such folder."""
    if not template or ("{report}" in template and not folder):
        return ""
    # Escaped whole, so that no part of it ends a link in Markdown
    return quote(template.replace("{report}", quote(folder, safe="")), safe="!#$%&'*+,/:;=?@[]~._-")


def report_place(result: Result, link: str) -> ReportLocation:
    """Where a report is that is not attached to the message."""
    if result.stored:
        return ReportLocation("Open the report" if link else f"Judged from {shorten(result.place, 200)}", link)
    if result.report is None:
        return ReportLocation("Open the report" if link else f"The result is in {shorten(result.place, 200)}", link)
    size = f"{result.report.stat().st_size / MEGABYTE:.1f} MB"
    if link:
        return ReportLocation(f"Open the full report ({size})", link)
    return ReportLocation(f"The full report ({size}) is {shorten(result.report.resolve(), 200)}")


def commits_of(result: Result, checkout: Path | None) -> dict[str, Attribution]:
    """The commits between the runs of each open event, by the event's id."""
    events = [incident.last.event for incident in result.open_incidents[-MOST_STATEMENTS:]]
    return {event.id: attribute(event, checkout) for event in events}
