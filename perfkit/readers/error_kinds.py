"""Error texts of load-test tools -> kinds of errors, as the recorder names them.

Messages hold ids, addresses and tokens; only the class of the exception and the HTTP status are kept.
"""

from __future__ import annotations

import re
from collections.abc import Iterable

MOST_KINDS = 5  # kept of each service, the most frequent ones
_CLASS = re.compile(r"^(?:[A-Za-z_]\w*\.)*([A-Z]\w{2,60})(?=$|\(|:| \d{3}$)")
_STATUS = re.compile(r"^(?:[\w.]*\(\s*['\"]|[\w.]+ )?([1-5]\d\d)(?!\d)")


def error_label(text: object) -> str:
    """The kind of an error, ``error`` where its text does not begin with one.

    >>> error_label("HTTPError('500 Server Error: Internal Server Error for url: /pay?token=abc')")
    'HTTPError 500'
    >>> error_label("requests.exceptions.ConnectionError: host 10.0.0.1"), error_label("no stock for user 17")
    ('ConnectionError', 'error')
    """
    words = str(text).strip()
    found, status = _CLASS.match(words), _STATUS.match(words)
    if status is not None and found is None:
        return f"HTTP {status[1]}"
    return " ".join(part for part in (found[1] if found else "error", status[1] if status else "") if part)


def most_frequent(counts: Iterable[tuple[object, int]]) -> dict[str, int]:
    """Kinds and how often each occurred, the most frequent first, at most `MOST_KINDS`."""
    summed: dict[str, int] = {}
    for text, count in counts:
        kind = error_label(text)
        summed[kind] = summed.get(kind, 0) + count
    return dict(sorted(summed.items(), key=lambda item: -item[1])[:MOST_KINDS])
