"""What every table of a TOML file needs: read, keys known, values of the right kind, variables of the environment."""

from __future__ import annotations

import math
import os
import re
import tomllib
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any
from urllib.parse import SplitResult, urlsplit

from perfkit.model.codec import read_bytes
from perfkit.model.errors import ReadError, SettingsError, UnsetVariable, did_you_mean
from perfkit.model.redaction import conceal_environment

# A key of more parts than any settings have: tables would be nested so deep, and tomllib takes minutes over thousands.
_LONG_KEY = re.compile(r"""(?<![\w"'-])(?:[\w"'-]+[ \t]*\.[ \t]*){65}""")


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


def read_toml(path: Path) -> dict[str, Any]:
    """The content of a TOML file; ``SettingsError`` names file and place of what is wrong."""
    document = _parsed(path)
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


def _parsed(path: Path) -> dict[str, Any]:
    if path.is_dir():
        raise SettingsError(f"{path}: is no regular file but a folder; name the file in it")
    if path.exists() and not path.is_file():  # it may be read more than once, and by notebooks in other processes
        raise SettingsError(f"{path}: is no regular file, and a pipe can be read only once; write it to a file first")
    try:
        text = read_bytes(path).decode()
        if _LONG_KEY.search(text) is not None:
            raise RecursionError
        return tomllib.loads(text.replace("\r\n", "\n"))
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


def known_keys(table: Mapping[str, Any], known: Sequence[str], place: str) -> None:
    """``SettingsError`` for a key that is not known; it names the nearest one."""
    for key in table:
        if key not in known:
            raise SettingsError(f"{place}: unknown key {key!r}{did_you_mean(key, known)}; known are {', '.join(known)}")


def subtable(document: Mapping[str, Any], key: str, place: str) -> Mapping[str, Any]:
    """The table under a key; an empty one where there is none."""
    table: Mapping[str, Any] = typed(document.get(key, {}), dict, f"{place}: [{key}]")
    return table


def typed(value: Any, kind: Any, place: str) -> Any:
    """The value when it is of that kind, else ``SettingsError``."""
    if not isinstance(value, kind) or (isinstance(value, bool) and kind is not bool):
        names = {str: "text", int: "a whole number", bool: "true or false", list: "a list", dict: "a table"}
        raise SettingsError(f"{place}: expected {names.get(kind, 'a number')}, got {value!r}")
    return value


def path_text(value: Any, place: str) -> str:
    """The name of a file or folder, which is never empty, or ``SettingsError``."""
    text: str = typed(value, str, place)
    if not text.strip():
        raise SettingsError(f"{place}: expected the name of a file or folder, got {text!r}")
    return text


def texts(value: Any, place: str) -> tuple[str, ...]:
    """A list of texts, or ``SettingsError``."""
    return tuple(typed(item, str, place) for item in typed(value, list, place))


def expand(text: str, place: str) -> str:
    """Replace ``${NAME}`` by the variable, so that secrets and addresses stay out of the file."""

    def value(match: re.Match[str]) -> str:
        if match[1] not in os.environ:
            raise UnsetVariable(f"{place}: the environment variable {match[1]} is not set")
        conceal_environment({match[1]: os.environ[match[1]]})
        return os.environ[match[1]]

    return re.sub(r"\$\{([A-Za-z_][A-Za-z0-9_]*)\}", value, text)
