"""What chat rooms and webhooks are told of a result: a few lines that ping nobody, and a document for programs."""

from __future__ import annotations

import json
import re
from collections.abc import Iterator, Mapping
from typing import Any

from perfkit.model import Verdict
from perfkit.news import News
from perfkit.render.notice import Notice, Telling, notice_of
from perfkit.render.theme import clean, shorten

MOST_LINES = 5  # events and remarks; the report has all
LONGEST = 1_500  # characters: what every chat takes in one piece
LONGEST_LINE = 260
LARGEST = 200_000  # bytes of a document; a larger result is left out of it
SCHEMA = "perfkit.notice/1"

# Signs of which chats make mentions, links and markup, and what looks like them and is none.  No chat's own escapes are
# used: Slack's "&lt;!channel&gt;" is made a mention again by Apprise, and others show escapes as they are.
_LOOKS = str.maketrans(
    {"@": "＠", "<": "‹", ">": "›", "*": "∗", "`": "ˋ", "~": "∼", "|": "¦", "\\": "＼", "#": "＃", "&": "＆"}
)
_MARKUP = re.compile(r"(?<![A-Za-z0-9])_|_(?![A-Za-z0-9])")
_LINK = re.compile(r"(?<=\])\(|:(?=//)|(?<=www)\.|(?<=^)[-+=:!/](?=\S)", re.IGNORECASE)


def harmless(text: object, limit: int = LONGEST_LINE) -> str:
    """A text from outside as one that every chat shows as it is.

    >>> harmless("<!channel> @here [x](http://evil.example) *b*")
    '‹!channel› ＠here [x] (http ://evil.example) ∗b∗'
    """
    plain = shorten(text, limit).translate(_LOOKS)
    return _LINK.sub(lambda found: f" {found[0]}", _MARKUP.sub("ˍ", plain))


def chat_text(telling: Telling) -> tuple[str, str]:
    """Title and text: verdict, what happened, what to do, where the report is."""
    notice = notice_of(telling)
    lines = [f"• {tag}{harmless(text)}" for tag, text in _sentences(notice)]
    hidden = len(lines) - MOST_LINES + notice.hidden
    lines = [*lines[:MOST_LINES], *([f"• and {hidden} more, in the report"] if hidden > 0 else [])]
    lines.append(f"Next: {harmless(notice.next_step)}")
    lines += [f"{what}: {command}" for what, command in _commands(notice)]
    tail = notice.place.link or harmless(notice.place.words, 200)
    room = LONGEST - len(tail) - 1
    while sum(len(line) + 1 for line in lines) > room:
        lines.pop()
    return _title(notice), "\n".join([*lines, *([tail] if tail else [])])


def _title(notice: Notice) -> str:
    return f"{notice.title}: {harmless(notice.scenario, 60)}"


def _sentences(notice: Notice) -> Iterator[tuple[str, str]]:
    for one in notice.happenings:
        yield from ((f"{one.tag}: " if one.tag else "", text) for text in one.texts)
    yield from (("", text) for text in notice.remarks)


def _commands(notice: Notice) -> Iterator[tuple[str, str]]:
    """Of the first event; only such as a chat shows as they are, for a command that looks right must be right."""
    fresh = [one for one in notice.happenings if one.commands][:1]
    for what, command in (line for one in fresh for line in one.commands):
        if harmless(command, 200) == command:
            yield what, command


def document_of(telling: Telling) -> Mapping[str, Any]:
    """The same for programs, with the whole result; ``text`` is what a chat would show.

    A result that would make it larger than `LARGEST` bytes is ``null``, and ``result_bytes`` says how large it is.
    """
    notice, result = notice_of(telling), telling.result
    title, text = chat_text(telling)
    size = len(json.dumps(result.document).encode())
    return {
        "schema": SCHEMA,
        "scenario": shorten(result.scenario, 200),
        "verdict": result.verdict.value,
        "fails": result.verdict in (Verdict.REGRESSION, Verdict.INVALID),
        "title": title,
        "text": f"{title}\n{text}",
        "headlines": [clean(text) for _, text in _sentences(notice)],
        "link": notice.place.link or None,
        "news": _news(telling.news),
        "result_bytes": size,
        "result": result.document if size <= LARGEST else None,
    }


def _news(news: News | None) -> dict[str, Any] | None:
    if news is None:
        return None
    return {
        "appeared": [one.fingerprint for one in news.appeared],
        "returned": [one.fingerprint for one in news.returned],
        "over": [one.names[0] for one in news.over],
        "invalid": news.invalid,
        "missing_services": [clean(item.service) for item in news.missing],
        "measured_again": [clean(item.service) for item in news.measured_again],
    }
