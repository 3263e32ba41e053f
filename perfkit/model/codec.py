"""JSON of perfkit: `encode` writes records, `decode` reads them back, and nobody parses perfkit's JSON by hand.

A record is a dataclass or a `msgspec.Struct`, declared where it belongs; its fields are its JSON.  Types, ranges
(`Count`, `Size`, `Share`, `Time`, any `msgspec.Meta`) and sense (a ``ValueError`` in ``__post_init__``) are checked
while it is decoded, and what is wrong is one `ReadError` that names the file and the field::

    plain = read_json(path)  # or parse_json(bytes, source)
    record = decode(plain, Record, str(path), schema="perfkit.thing/1", title="thing")
    atomic_write(path, dump_json({"schema": "perfkit.thing/1", **encode(record)}))
"""

from __future__ import annotations

import dataclasses
import json
import math
import re
from collections.abc import Iterator, Mapping
from contextlib import suppress
from datetime import UTC, date, datetime
from enum import Enum
from functools import cache
from pathlib import Path
from stat import S_ISREG
from typing import Annotated, Any, TypeVar

import msgspec

from perfkit.model.errors import ReadError
from perfkit.model.redaction import redact_document

Record = TypeVar("Record")

Count = Annotated[int, msgspec.Meta(ge=0, le=10**15)]  # also the sum of many fits into 64 bits
Size = Annotated[float, msgspec.Meta(ge=0)]
Share = Annotated[float, msgspec.Meta(ge=0, le=1)]
Time = Annotated[datetime, msgspec.Meta(tz=True)]

sorted_json = msgspec.json.Encoder(order="sorted").encode
MOST_BYTES = 64 * 1024 * 1024  # of a JSON file of perfkit: a run of 10,000 services has 12 MB
_STEP = re.compile(r"\.([^.\[]+)|\[(\d+|\.\.\.)\]")


def utc(time: datetime) -> datetime:
    """An aware time in UTC; ``ValueError`` where UTC has no such year."""
    try:
        return time.astimezone(UTC)
    except OverflowError as error:
        raise ValueError(f"{time.isoformat()} lies outside the years 1 to 9999") from error


def parse_time(text: str) -> datetime:
    """An ISO 8601 time as aware UTC; one without a zone is taken as UTC.  ``ValueError`` when it is none."""
    time = datetime.fromisoformat(text)
    return utc(time if time.tzinfo else time.replace(tzinfo=UTC))


@cache
def _json_fields(kind: type) -> tuple[tuple[str, str, object], ...]:
    """The fields of a record in their order: name, name in JSON, and the value at which it is left out."""
    if issubclass(kind, msgspec.Struct):
        names, keys = kind.__struct_fields__, kind.__struct_encode_fields__
        optional = names if kind.__struct_config__.omit_defaults else ()
        defaults = {field.name: field.default for field in msgspec.structs.fields(kind)}
    elif dataclasses.is_dataclass(kind):
        names = keys = tuple(field.name for field in dataclasses.fields(kind))
        optional = getattr(kind, "OMITTED_DEFAULTS", ())
        defaults = {
            field.name: field.default_factory() if callable(field.default_factory) else field.default
            for field in dataclasses.fields(kind)
        }
    else:
        raise TypeError(f"{kind.__name__} has no JSON form")
    fields = zip(names, keys, strict=True)
    return tuple((name, key, defaults[name] if name in optional else ...) for name, key in fields)


def encode(value: Any) -> Any:
    """The plain JSON values of a record, or of anything made of records; `decode` is the way back.

    A record (a dataclass or `msgspec.Struct`) becomes an object with its fields in their order, all of them but those
    that have their default and are named in its ``OMITTED_DEFAULTS`` (of a `msgspec.Struct`: under ``omit_defaults``).
    A record whose JSON has another form says so by a property ``json_form``.  Times become ISO 8601, an enumeration its
    value, and a number that is infinite or none ``null``, for JSON has no word for it.
    """
    if isinstance(value, Enum):
        return value.value
    if value is None or isinstance(value, str | bool | int):
        return value
    if isinstance(value, float):
        return value if math.isfinite(value) else None
    if isinstance(value, Mapping):
        return {str(name): encode(item) for name, item in value.items()}
    if isinstance(value, list | tuple):
        return [encode(item) for item in value]
    if isinstance(value, date):
        return value.isoformat()
    if (form := getattr(value, "json_form", None)) is not None:
        return encode(form)
    items = ((key, getattr(value, name), default) for name, key, default in _json_fields(value.__class__))
    return {key: encode(item) for key, item, default in items if default is ... or item != default}


def dump_json(document: Any) -> str:
    """JSON as perfkit writes it everywhere: readable, strict (no NaN), one newline at the end, and no secret in it."""
    return json.dumps(redact_document(document), indent=2, ensure_ascii=False, allow_nan=False) + "\n"


def read_json(path: Path) -> Any:
    """The plain values of a JSON file; ``ReadError`` for anything else, ``FileNotFoundError`` when there is none."""
    return parse_json(read_bytes(path), str(path))


def read_bytes(path: Path) -> bytes:
    """A regular file of at most `MOST_BYTES`; ``ReadError`` for others, ``FileNotFoundError`` where there is none."""
    try:
        facts = path.stat()
        if not S_ISREG(facts.st_mode):
            raise ReadError(f"{path}: is no regular file")
        if facts.st_size > MOST_BYTES:
            raise ReadError(f"{path}: holds {facts.st_size:,} bytes; no file of perfkit is larger than {MOST_BYTES:,}")
        return path.read_bytes()
    except FileNotFoundError:
        raise
    except OSError as error:
        raise ReadError(f"{path}: cannot be read: {error.strerror or error}") from error


def parse_json(content: bytes, source: str) -> Any:
    """The plain values of a JSON text; ``ReadError`` names the source.

    Stricter than the ``json`` module: no NaN, no number beyond floats or of thousands of digits, no half of a surrogate
    pair, no key twice in one object, no nesting without end.
    """
    return parse_sorted(content, source)[0]


def parse_sorted(content: bytes, source: str) -> tuple[Any, bytes]:
    """What `parse_json` finds, and that as JSON whose keys are sorted."""
    try:
        plain = msgspec.json.decode(content)
    except RecursionError as error:
        raise ReadError(f"{source}: not JSON of perfkit: nested too deeply") from error
    except msgspec.ValidationError as error:
        raise ReadError(f"{source}: {_worded(error)}") from error
    except (msgspec.DecodeError, UnicodeDecodeError) as error:
        raise ReadError(f"{source}: not JSON: {_malformed(content, error)}") from error
    if (twice := _repeated_key(content, text := sorted_json(plain))) is not None:
        raise ReadError(f"{source}: the key {twice!r} stands there twice in one object; which one holds?")
    return plain, text


def _malformed(content: bytes, error: Exception) -> str:
    """What is wrong, with the line where that is known."""
    if content.startswith(b"\xef\xbb\xbf"):
        return "begins with a byte order mark; save it as UTF-8 without one"
    try:
        content.decode()
    except UnicodeDecodeError as wrong:
        return f"is not UTF-8 text (byte {wrong.start})"
    text = str(error).removeprefix("JSON is malformed: ")
    if at := re.search(r"\(byte (\d+)\)", text):
        line = content.count(b"\n", 0, int(at[1])) + 1
        if word := re.match(rb"NaN|Infinity", content[int(at[1]) :]):
            text = f"{word[0].decode()} is not a number; leave out what is not known"
        return f"line {line}: {text}"
    return "it ends in the middle" if text == "Input data was truncated" else text


def _repeated_key(content: bytes, text: bytes) -> str | None:
    """A key that an object has twice.

    What was read has each key once, so content without repeated keys has as many colons as the JSON of what was read.
    Only where the numbers differ (or a text escapes its colons) is it looked at key by key.
    """
    if content.count(b":") == text.count(b":"):
        return None
    repeated: list[str] = []

    def keys_of(pairs: list[tuple[str, Any]]) -> None:
        names = [name for name, _ in pairs]
        repeated.extend(name for name in set(names) if names.count(name) > 1)

    with suppress(RecursionError):
        json.loads(content, object_pairs_hook=keys_of)
    return repeated[0] if repeated else None


def decode(
    plain: Any,
    kind: type[Record],
    source: str,
    *,
    schema: str | int = "",
    title: str = "file",
) -> Record:
    """A typed record of plain values.

    ``schema`` is the one that the document must name, empty: none; ``title`` says what it is where it names another.
    ``ReadError``: a field is missing or has a wrong type, range or sense; names the source and the field.
    """
    if schema:
        there = plain.get("schema") if isinstance(plain, Mapping) else None
        if there != schema:
            article = "an" if title[0] in "aeiou" else "a"
            raise ReadError(
                f"{source}: not {article} {title} of schema {schema!r} (found {_short(repr(there))}); "
                "it may come from a newer perfkit"
            )
    try:
        return msgspec.convert(plain, kind)
    except msgspec.ValidationError as error:
        raise ReadError(f"{source}: {_worded(error, plain, kind)}") from error
    except (RecursionError, OverflowError) as error:
        raise ReadError(f"{source}: {error}") from error


def _worded(error: Exception, plain: Any = None, kind: Any = None) -> str:
    """As ``services.api.count: expected int >= 0``, from "Expected `int` >= 0 - at `$.services[...].count`"."""
    text, _, path = str(error).partition(" - at `")
    steps = [name or number for name, number in _STEP.findall(path.rstrip("`"))] if plain is not None else []
    missing = re.fullmatch(r"Object missing required field `(.*)`", text)
    names = list(_named(steps, plain, kind)) + ([missing[1]] if missing else [])
    what = "is missing; the file is not whole" if missing else text[:1].lower() + text[1:].replace("`", "")
    return f"{'.'.join(names)}: {what}" if names else what


def _named(steps: list[str], plain: Any, kind: Any) -> Iterator[str]:
    """The steps of a path to what is wrong, with the keys that msgspec leaves out."""
    here, path = plain, list[str]()
    for step in steps:
        if step == "..." and isinstance(here, Mapping):
            step = _culprit(plain, path, here, kind)
        path.append(step)
        yield _short(step)
        if isinstance(here, Mapping):
            here = here.get(step)
        elif isinstance(here, list) and step.isdigit() and int(step) < len(here):
            here = here[int(step)]
        else:
            here = None


def _culprit(plain: Any, path: list[str], table: Mapping[str, Any], kind: Any) -> str:
    """The key of a table whose value alone is refused too."""
    for key in table:
        try:
            msgspec.convert(_with(plain, path, {key: table[key]}), kind)
        except (msgspec.ValidationError, RecursionError, OverflowError):
            return key
    return "..."


def _with(plain: Any, path: list[str], value: Any) -> Any:
    """Plain values with another value at the end of a path."""
    if not path:
        return value
    first, *rest = path
    if isinstance(plain, Mapping) and first in plain:
        return {**plain, first: _with(plain[first], rest, value)}
    if isinstance(plain, list) and first.isdigit():
        return [_with(item, rest, value) if at == int(first) else item for at, item in enumerate(plain)]
    return plain


def _short(text: str) -> str:
    return text if len(text) <= 100 else f"{text[:100]}..."
