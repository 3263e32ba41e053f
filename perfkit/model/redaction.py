"""Secrets stay secret: the only module that recognises them and takes them out of what is kept, shown or sent.

Some secrets are recognised by their position: user info and query values of an address (`public_url`), and in any text
user info, parameters with the name of a credential, and authorization headers (`redact`).  Others are recognised by
value, because a setting or a variable brought them (`conceal`, `conceal_url`, `conceal_environment`): they are taken
out of every text, as they are and as addresses and headers encode them.

Everything here is idempotent: text that was redacted stays as it is.
"""

from __future__ import annotations

import base64
import html
import json
import os
import re
import threading
from collections.abc import Iterable, Iterator, Mapping
from functools import lru_cache
from typing import Any
from urllib.parse import quote, quote_plus, unquote, unquote_plus

MASK = "***"
LEAST_LENGTH = 6  # characters of a secret that is looked for by value: "ci" stands in too many other words
LEAST_WORD = 10  # the same of one that is only letters
LONGEST_LINE, LINE_OVERLAP = 1 << 20, 1 << 16  # bytes of a stream: no line is longer; no secret without blanks is
_CREDENTIAL = (
    r"token|secret|passw(?:or)?d|passwd|passphrase|api_?-?key|access_?-?key|private_?-?key|credential|signature"
)
_CREDENTIALS = r"auth|authorization|session|session_?id|sid|sig|key|pass|pw|pwd|jwt|bearer"  # only as the whole name
_VARIABLE = re.compile(rf"(?i){_CREDENTIAL}|webhook|_(?:auth|key|pass|pw|pwd)$")
_URL = re.compile(r"([A-Za-z][A-Za-z0-9+.-]*:)?//")
_BRANCH = "git+branch:"  # a store whose query is the path of its repository
_FORGOTTEN = re.compile(r"(?i)(https?:/?)?(?![./])")  # an address without its scheme, or without all of its slashes
# What follows is searched for in names of any length and content: nothing here may take quadratic time.
_USER_INFO = re.compile(r"(?<=://)[^\s,/?#\"'<>|\\]*@")
_PARAMETER = re.compile(
    rf"(?i)([?&;](?:[\w.\[\]-]{{0,60}}(?:{_CREDENTIAL})[\w.\[\]-]{{0,60}}|{_CREDENTIALS})=)(?!\*\*\*)[^\s,&;#\"'<>\\]+"
)
_HEADER = re.compile(
    r"(?i)(authorization[\"']?\s*[:=]\s*[bf]?[\"']?(?:basic|bearer|token|digest)\s+)(?!\*\*\*)[^\s\"',]+"
)
_ORDINARY = re.compile(r"[A-Za-z]+(?:[-_.][A-Za-z]+)*(?:[-_.]?\d{1,3})?|v?\d+(?:[.,:+-]\w+)*")  # eu-west-1, v1.2.3, 42
_DOCUMENT_WORDS = frozenset(  # of documents and verdicts: as passwords they are masked in addresses alone
    {"acknowledged", "candidates", "comparable", "comparison", "confidence", "environment", "improvement"}
    | {"inconclusive", "regression", "resolutions"}
)


class _Values:
    """The secrets of this process that are looked for by value."""

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self.patterns: set[str] = set()
        self.pattern: re.Pattern[str] | None = None
        self.several_lines: frozenset[str] = frozenset()

    def add(self, patterns: Iterable[str], several_lines: Iterable[str] = ()) -> None:
        """Take regular expressions, and those texts of several lines that they match."""
        with self._lock:
            self.several_lines |= frozenset(several_lines)
            if self.patterns.issuperset(patterns):
                return
            self.patterns.update(patterns)
            longest_first = sorted(self.patterns, key=lambda pattern: (-len(pattern), pattern))
            self.pattern = re.compile("|".join(longest_first))

    def mask(self, text: str) -> str:
        return text if self.pattern is None else self.pattern.sub(MASK, text)

    def safe_cut(self, text: str, cut: int) -> int:
        """Where at most to cut a text whose end is not known yet, so that no secret is cut in two."""
        for secret in self.several_lines:  # begun at the end of the text
            first_line = secret[: secret.index("\n") + 1]
            begin = text.find(first_line, max(len(text) - len(secret) + 1, 0))
            while begin >= 0:
                if secret.startswith(text[begin:]):
                    cut = min(cut, begin)
                    break
                begin = text.find(first_line, begin + 1)
        if self.pattern is not None:
            for match in self.pattern.finditer(text):
                if match.start() < cut < match.end():
                    return match.start()
        return cut


_VALUES = _Values()


def conceal(*secrets: str | None) -> None:
    """Take these values out of every text from now on.

    What is too short, a plain word or a number is not looked for by value, lest it be taken out of words and figures
    that have nothing to do with it; where it stands in an address it is taken out there.
    """
    forms = {form for secret in secrets if secret for form in _forms(secret)}
    if forms:
        _VALUES.add({re.escape(form) for form in forms}, {form for form in forms if "\n" in form})


def concealed_values() -> str:
    """What this process looks for by value, as JSON in one line; for `conceal_values_of`, and for no file."""
    return json.dumps([sorted(_VALUES.patterns.copy()), sorted(_VALUES.several_lines)])


def conceal_values_of(another: str) -> None:
    """`conceal` what another process of ours looks for by value: its `concealed_values`."""
    _VALUES.add(*json.loads(another))


def conceal_url(url: str | None) -> None:
    """`conceal` the user info and the query values of an address, and the header that they become."""
    if not url or url.startswith(_BRANCH) or not (match := _URL.match(url)):
        return
    user_info, _, query = _parts(url[match.end() :])
    user, _, password = user_info.partition(":")
    tokens = (user, unquote(user)) if len(user) > 2 * LEAST_LENGTH else ()
    conceal(password, unquote(password), *tokens)
    if password or tokens:
        header = base64.b64encode(f"{unquote(user)}:{unquote(password)}".encode()).decode()
        conceal(header, header.rstrip("="))
    pairs = (part.partition("=") for part in re.split("[&;]", query.partition("#")[0]))
    for name, sign, value in pairs:
        if value:
            _VALUES.add({f"(?<=[?&]{re.escape(name)}=){re.escape(value)}"})
        secret = value if sign else name  # a query without a name is a value itself
        if not _ORDINARY.fullmatch(secret):
            conceal(secret, unquote_plus(secret))


def conceal_environment(variables: Mapping[str, str] | None = None) -> None:
    """`conceal` the values of variables that have the name of a credential; those of this process when none are given.

    ``API_TOKEN``, ``DB_PASSWORD``, ``AWS_SECRET_ACCESS_KEY``, ``SLACK_WEBHOOK`` are such names.
    """
    for name, value in (os.environ if variables is None else variables).items():
        if "://" in value:
            conceal_url(value)
        if _VARIABLE.search(name) and not os.path.isabs(value):  # noqa: PTH117 - text, which may be no path at all
            conceal(value)


def public_url(url: str) -> str:
    """An address without its user info and without the values of its query: what may be kept and shown of it.

    The names of the query stay, with `MASK` for their values; a fragment goes.  A branch store keeps the path of its
    repository.

    >>> public_url("https://ci:s3cret@shop.example:8443/api?token=abc&v=2#x")
    'https://shop.example:8443/api?token=***&v=***'
    >>> public_url("http://127.0.0.1:8000")
    'http://127.0.0.1:8000'
    """
    if not (match := _URL.match(url)):
        begin = _FORGOTTEN.match(url) if "@" in url else None
        return redact(f"{begin[1] or ''}{url.rpartition('@')[2]}" if begin is not None else url)
    _, host, query = _parts(url[match.end() :])
    if url.startswith(_BRANCH):
        return redact(f"{match[0]}{host}{'?' if query else ''}{query}")
    pairs = (part.partition("=") for part in query.partition("#")[0].split("&") if part)
    values = [f"{name}={MASK}" if sign else MASK for name, sign, _ in pairs]
    return redact(f"{match[0]}{host}{'?' if values else ''}{'&'.join(values)}")


def _parts(rest: str) -> tuple[str, str, str]:
    """User info, host with path, and query of what follows ``//``, also where a password was not encoded."""
    authority = re.match(r"[^/?#]*", rest)
    end = authority.end() if authority else 0
    host = rest[:end]
    at = host.rfind("@")
    if at < 0 and not re.fullmatch(r"[^:]*(:\d*)?|\[[^\]]*\](:\d*)?", host):
        at = rest.rfind("@")  # no port is that: a password with a slash, a question mark or a hash in it
    user_info, rest = (rest[:at], rest[at + 1 :]) if at >= 0 else ("", rest)
    path, _, query = rest.partition("?")
    return user_info, path.partition("#")[0], query


def redact(text: str, *secrets: str) -> str:
    """A text without the secrets in it: known values, user info of addresses, parameters and headers of credentials.

    ``secrets`` are values that this text must not hold, however plain they are: those of the channel that it is about.

    >>> redact("GET http://ci:s3cret@shop/items?page=2&api_key=abc failed")
    'GET http://shop/items?page=2&api_key=*** failed'
    """
    for secret in sorted(filter(None, secrets), key=len, reverse=True):
        for form in _spellings(secret):
            text = text.replace(form, MASK)
    text = mask(text)
    if "://" in text:
        text = _USER_INFO.sub("", text)
    if "=" in text:
        text = _PARAMETER.sub(rf"\1{MASK}", text)
    return _HEADER.sub(rf"\1{MASK}", text)


def mask(text: str) -> str:
    """A text without the values that were concealed; all else is left, so that it serves for code and markup too."""
    return _VALUES.mask(text)


class Redacted:
    """A text stream whose writes are redacted; all else is that of the stream itself."""

    def __init__(self, stream: Any) -> None:
        self._stream = stream

    def write(self, text: str) -> int:
        """As much as was asked for counts as written."""
        self._stream.write(redact(text))
        return len(text)

    def writelines(self, lines: Iterable[str]) -> None:
        for line in lines:
            self.write(line)

    def __getattr__(self, name: str) -> Any:
        return getattr(self._stream, name)


def redact_document(document: Any) -> Any:
    """A JSON document with every text in it redacted, keys too; two keys that become one are numbered."""
    if isinstance(document, str):
        return redact(document)
    if isinstance(document, Mapping):
        return {name: redact_document(value) for name, value in redact_names(document).items()}
    if isinstance(document, list | tuple):
        return [redact_document(item) for item in document]
    return document


def redact_bytes(content: bytes) -> bytes:
    """`redact` a text in UTF-8, also one with stray bytes in it; what holds zero bytes besides is no text."""
    try:
        return redact(content.decode()).encode()
    except UnicodeDecodeError:
        return content if b"\0" in content else _redact_any(content)


def _redact_any(content: bytes) -> bytes:
    return redact(content.decode(errors="surrogateescape")).encode(errors="surrogateescape")


class RedactedStream:
    """A text in UTF-8 that comes in pieces: handed out redacted, by whole lines, wherever it was cut.

    A line waits for its end, and a secret of several lines for its last one.  Of a line without an end all but
    `LINE_OVERLAP` bytes are handed out when it exceeds `LONGEST_LINE`.
    """

    def __init__(self) -> None:
        self._rest = bytearray()

    def feed(self, chunk: bytes) -> bytes:
        """What can be written of the text so far."""
        self._rest += chunk
        if b"\n" not in chunk and len(self._rest) <= LONGEST_LINE:
            return b""
        text = self._rest.decode(errors="surrogateescape")
        cut = _VALUES.safe_cut(text, text.rfind("\n") + 1)
        if len(text) - cut > LONGEST_LINE:
            cut = _VALUES.safe_cut(text, max(cut, len(text) - LINE_OVERLAP))
        self._rest = bytearray(text[cut:].encode(errors="surrogateescape"))
        return redact(text[:cut]).encode(errors="surrogateescape")

    def finish(self) -> bytes:
        """What is left at the end."""
        rest, self._rest = bytes(self._rest), bytearray()
        return _redact_any(rest)


def redact_names(names: Mapping[Any, Any]) -> dict[Any, Any]:
    """A mapping with its keys redacted, and its values as they are."""
    public: dict[Any, Any] = {}
    for name, value in names.items():
        new = stem = _redacted(name, _VALUES.pattern) if isinstance(name, str) else name
        count = 1
        while new in public:
            count += 1
            new = f"{stem} ({count})"
        public[new] = value
    return public


@lru_cache(maxsize=4096)  # all runs of a store have the same services
def _redacted(name: str, _: re.Pattern[str] | None) -> str:
    """Under what is concealed now; what is concealed later has another pattern."""
    return redact(name)


def _forms(secret: str) -> Iterator[str]:
    """The spellings of a secret, and of each of its lines; nothing for what is no distinctive value."""
    secret = secret.strip()
    if MASK in secret or not _is_distinctive(secret):
        return
    yield from _spellings(secret)
    if "\n" in secret:  # lines get prefixes, other line ends, or another process writes between them
        lines = (line.strip() for line in secret.splitlines())
        yield from (line for line in lines if _is_distinctive(line) and not line.startswith("-----"))


def _spellings(secret: str) -> Iterator[str]:
    """A secret as it is, as addresses, Python, JSON, HTML and CSV write it, and as base64."""
    yield from (secret, quote(secret, safe=""), quote_plus(secret), repr(secret)[1:-1])
    yield from (json.dumps(secret)[1:-1], json.dumps(secret, ensure_ascii=False)[1:-1], html.escape(secret))
    yield secret.replace('"', '""')
    code = base64.b64encode(secret.encode(errors="replace")).decode()
    if len(bare := code.rstrip("=")) >= LEAST_LENGTH:
        yield from (code, bare)


def _is_distinctive(text: str) -> bool:
    """Whether a text can be looked for by value: not short, no plain word, no number."""
    if len(text) < LEAST_LENGTH or text in _DOCUMENT_WORDS:
        return False
    if text.isalpha() and (text.islower() or text.isupper() or text.istitle()):
        return len(text) >= LEAST_WORD
    return not re.fullmatch(r"[\d.,:+-]+", text) or len(text) > 2 * LEAST_LENGTH
