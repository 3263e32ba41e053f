"""TOML files as typed tables: unknown keys, values of the wrong type and unset variables are errors that name the key.

What a table may hold is declared once, as a dataclass or `msgspec.Struct`, and read by `read_table`.
"""

from __future__ import annotations

import math
import os
import re
import tomllib
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Annotated, Any, Literal, TypeVar, get_args, get_origin, get_type_hints
from urllib.parse import SplitResult, urlsplit

import msgspec

from perfkit.model.codec import read_bytes
from perfkit.model.errors import ReadError, SettingsError, UnsetVariable, did_you_mean
from perfkit.model.redaction import conceal_environment

Table = TypeVar("Table")
PathText = Annotated[str, msgspec.Meta(pattern=r"\S")]  # the name of a file or folder, which is never empty

# A key of more parts than any settings have: tables would be nested so deep, and tomllib takes minutes over thousands.
_LONG_KEY = re.compile(r"""(?<![\w"'-])(?:[\w"'-]+[ \t]*\.[ \t]*){65}""")
_TYPES = {
    "str": "text",
    "int": "a whole number",
    "float": "a number",
    "bool": "true or false",
    "array": "a list",
    "object": "a table",
}


@contextmanager
def explained(section: str) -> Iterator[None]:
    """A settings error that passes has a note: the section of the page *Configuration* that explains the setting."""
    try:
        yield
    except SettingsError as error:
        if not getattr(error, "__notes__", ()):
            error.add_note(f"See: perfkit docs configuration#{section}")
        raise


def read_toml(path: Path) -> dict[str, Any]:
    """The content of a TOML file; ``SettingsError`` names the file and what is wrong."""
    if path.is_dir():
        raise SettingsError(f"{path}: is no regular file but a folder; name the file in it")
    if path.exists() and not path.is_file():  # it may be read more than once, and by notebooks in other processes
        raise SettingsError(f"{path}: is no regular file, and a pipe can be read only once; write it to a file first")
    try:
        text = read_bytes(path).decode()
        if _LONG_KEY.search(text) is not None:
            raise RecursionError
        document = tomllib.loads(text.replace("\r\n", "\n"))
    except FileNotFoundError as error:
        raise SettingsError(f"{path}: there is no such file") from error
    except ReadError as error:
        raise SettingsError(str(error)) from error
    except UnicodeDecodeError as error:
        raise SettingsError(f"{path}: is not UTF-8 text (byte {error.start})") from error
    except RecursionError as error:
        raise SettingsError(f"{path}: is not TOML that anybody means: it is nested too deeply") from error
    except ValueError as error:  # of TOML, or of a number with thousands of digits
        raise SettingsError(f"{path}: is not TOML: {error}") from error
    for key, value in _values(document):
        if isinstance(value, int) and not -(2**63) <= value < 2**63:
            raise SettingsError(f"{path}: {key}: a whole number has at most 64 bits in TOML")
        if isinstance(value, str) and "\0" in value:
            raise SettingsError(f"{path}: {key}: holds a null character")
    return document


def _values(value: Any, key: str = "") -> Iterator[tuple[str, Any]]:
    """Every value that is no table or list, with the path of its key."""
    if isinstance(value, dict):
        for name, inner in value.items():
            yield from _values(inner, f"{key}.{name}" if key else name)
    elif isinstance(value, list):
        for inner in value:
            yield from _values(inner, key)
    else:
        yield key, value


def read_table(table: Any, kind: type[Table], source: str, keys: Mapping[str, str] | None = None) -> Table:
    """A TOML table as the record that declares it; ``keys`` are keys of the file that the record calls otherwise.

    ``SettingsError``, with source and key, where it is no table, a key is unknown (the nearest is named), or a value
    has the wrong type or no sense.
    """
    if not isinstance(table, Mapping):
        raise SettingsError(f"{source}: expected a table, got {table!r}")
    types = get_type_hints(kind, include_extras=True)
    field_of = {key: key for key in types if key not in (keys or {}).values()} | dict(keys or {})
    check_keys(table, [key for field in types for key in field_of if field_of[key] == field], source)
    values = {}
    for key, value in table.items():
        try:
            values[field_of[key]] = msgspec.convert(value, types[field_of[key]])
        except msgspec.ValidationError as error:
            raise SettingsError(f"{source}: {key}: {_type_error(str(error), value, types[field_of[key]])}") from error
    try:
        return kind(**values)
    except ValueError as error:
        raise SettingsError(f"{source}: {error}") from error


def _type_error(text: str, value: Any, kind: Any) -> str:
    """``expected a whole number, got 1.5``, from "Expected `int | null`, got `float`"."""
    if get_origin(kind) is Literal:
        choices = get_args(kind)
        return f"one of {', '.join(choices)}, got {value!r}{did_you_mean(value, choices)}"
    if at := re.search(r"at `\$\[(\d+)\]", text):
        value = value[int(at[1])]
    if "matching regex" in text:
        return f"expected the name of a file or folder, got {value!r}"
    expected = re.match(r"Expected `([^`]*)`( [<>]=? \S+)?", text)
    names = [_TYPES.get(name, name) for name in expected[1].split(" | ") if name != "null"] if expected else []
    bound = (expected and expected[2]) or ""
    return f"expected {' or '.join(names) or 'another value'}{bound}, got {value!r}"


def check_keys(table: Mapping[str, Any], keys: Sequence[str], source: str) -> None:
    """``SettingsError`` for a key that is not known; it names the nearest one."""
    for key in table:
        if key not in keys:
            raise SettingsError(f"{source}: unknown key {key!r}{did_you_mean(key, keys)}; known are {', '.join(keys)}")


def expand(text: str, source: str) -> str:
    """Replace ``${NAME}`` by the variable, so that secrets and addresses stay out of the file."""

    def value(match: re.Match[str]) -> str:
        if match[1] not in os.environ:
            raise UnsetVariable(f"{source}: the environment variable {match[1]} is not set")
        conceal_environment({match[1]: os.environ[match[1]]})
        return os.environ[match[1]]

    return re.sub(r"\$\{([A-Za-z_][A-Za-z0-9_]*)\}", value, text)


def url_parts(text: str) -> SplitResult | None:
    """The parts of an address; ``None`` for what cannot be taken apart, such as ``http://[``."""
    try:
        parts = urlsplit(text)
        _ = parts.port
    except ValueError:
        return None
    return parts


def finite(number: float) -> float:
    """A number as a float, infinite where it is a whole number that no float can hold."""
    try:
        return float(number)
    except OverflowError:
        return math.inf if number > 0 else -math.inf
