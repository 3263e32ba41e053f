"""A first locustfile: of a host, a list of addresses or an OpenAPI 3 document; and whether the host answers.

Names and paths come from outside: they stand in the file only as literals of Python.  Only requests that read are made
and written as tasks; what cannot be asked as it is stands there as a comment.
"""

from __future__ import annotations

import ipaddress
import json
import re
import time
from collections.abc import Iterable, Iterator, Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass, replace
from typing import Any
from urllib.parse import quote, urljoin, urlsplit

from perfkit.config.toml_table import url_parts
from perfkit.model.errors import LoadError, SettingsError
from perfkit.model.redaction import redact

MOST_TASKS = 60  # of one file; also paths that are tried
MOST_BYTES = 8 << 20  # of a document
TIMEOUT_S, ALL_S = (3.0, 5.0), 40.0  # to connect and to answer, of one path; of all paths
METHODS = ("get", "head", "options", "post", "put", "patch", "delete", "trace")
_PLAIN = re.compile(r"[ !#-\[\]-~]*")  # text that stands between double quotes as it is
_SAFE = "/:@!$&'()*+,;=~-._%"  # what a path may hold unescaped


@dataclass(frozen=True, slots=True)
class Endpoint:
    """A request: what is asked, and under which name it is summed."""

    path: str  # from the host on, with its query; percent-encoded
    name: str = ""  # the path as the document has it, such as ``/items/{id}``; empty where it is the same
    method: str = "GET"
    todo: str = ""  # why it stands in the locustfile as a comment; empty where it is a task

    @property
    def label(self) -> str:
        """How it is shown: method, and name or path."""
        return f"{self.method} {self.name or self.path}"


@dataclass(frozen=True, slots=True)
class Answer:
    """What the host said to one request: a status, or why there was none; ``is_reached`` is of the host itself."""

    endpoint: Endpoint
    status: int | None
    problem: str = ""
    is_reached: bool = True


def read_host(url: str, source: str = "--host") -> str:
    """An address of a host (and what all paths begin with), without a slash at its end.

    ``SettingsError`` for what is no http address, or holds a user, a password, a query or a fragment: these would stand
    in files.
    """
    parts = url_parts(url.strip())
    if parts is None:
        raise SettingsError(f"{source}: expected an address such as http://127.0.0.1:8000")
    if "@" in url:
        raise SettingsError(
            f"{source}: holds a user or password, which would stand in files; leave it out, and let the locustfile "
            "take it from an environment variable"
        )
    if parts.scheme not in ("http", "https") or not re.fullmatch(
        r"[\w.-]+|[0-9A-Fa-f:.]+", parts.hostname or "", re.ASCII
    ):
        raise SettingsError(f"{source}: expected an address such as http://127.0.0.1:8000, got {redact(url)[:200]!r}")
    if parts.query or parts.fragment:
        raise SettingsError(f"{source}: holds a query or fragment; name paths with --urls FILE")
    host = f"[{parts.hostname}]" if ":" in (parts.hostname or "") else parts.hostname
    path = quote(parts.path.rstrip("/"), safe=_SAFE)
    return f"{parts.scheme}://{host}{'' if parts.port is None else f':{parts.port}'}{path}"


def read_urls(text: str, host: str | None, source: str) -> tuple[str, tuple[Endpoint, ...]]:
    """The host and the requests of a list of addresses or paths, one a line, without empty lines and ``#`` comments.

    ``SettingsError`` for a line that is neither, holds a secret or is of another host, for an empty list, or without a
    host.
    """
    endpoints: dict[str, Endpoint] = {}
    for number, line in enumerate(text.splitlines(), 1):
        where, address = f"{source}, line {number}", line.strip()
        if not address or address.startswith("#"):
            continue
        _refuse_secrets(address, where)
        if address.startswith("/") and not address.startswith("//"):
            begin, path = host, address
        else:
            parts = url_parts(address)
            if parts is None or parts.scheme not in ("http", "https"):
                raise SettingsError(
                    f"{where}: expected an address such as http://127.0.0.1:8000/search, or a path such as /search"
                )
            begin = read_host(f"{parts.scheme}://{parts.netloc}", where)
            path = (parts.path or "/") + (f"?{parts.query}" if parts.query else "")
            if host is not None and host.startswith(begin) and path.startswith(host[len(begin) :] or "/"):
                begin, path = host, path[len(host) - len(begin) :] or "/"
        if host is not None and begin != host:
            raise SettingsError(f"{where}: is of {begin}, not of {host}; a locustfile has one host")
        host = begin
        endpoints.setdefault(path, Endpoint(_encoded(path)))
    if not endpoints:
        raise SettingsError(
            f"{source}: has no address; expected one a line, such as http://127.0.0.1:8000/ or /search?q=1"
        )
    if host is None:
        raise SettingsError(f"{source}: has only paths; say of which host: --host http://127.0.0.1:8000")
    return host, tuple(endpoints.values())


def read_openapi(text: str, host: str | None, source: str) -> tuple[str, tuple[Endpoint, ...]]:
    """The host and the operations of an OpenAPI 3 document, JSON or YAML.

    ``GET`` operations are requests where every parameter that they need has an example, an enumeration, a default or a
    constant; others, and those of other methods, which may change something, have a ``todo``.  Without ``host``, the
    document's own server counts where it is this machine or where the document came from.  ``SettingsError`` for
    another document, one without operations or a host that may be asked, or with a secret.
    """
    document = _parsed(text, source)
    version = str(document.get("openapi", ""))
    if not version.startswith("3."):
        what = "is Swagger 2.0" if "swagger" in document else "is no OpenAPI document: it has no key 'openapi'"
        raise SettingsError(f"{source}: {what if not version else f'is OpenAPI {version[:20]!r}'}; OpenAPI 3 is needed")
    base = _base(document, host, source)
    paths = document.get("paths")
    endpoints = []
    for path, item in paths.items() if isinstance(paths, dict) else ():
        item = _resolved(document, item)
        if not isinstance(path, str) or not path.startswith("/") or not isinstance(item, dict):
            continue
        for method in METHODS:
            if isinstance(operation := item.get(method), dict):
                endpoints.append(_endpoint(document, path, method.upper(), item, operation))
    if not endpoints:
        raise SettingsError(f"{source}: has no operation under 'paths'")
    for endpoint in endpoints:
        _refuse_secrets(f"{base}{endpoint.path}", f"{source}: {ascii(endpoint.name or endpoint.path)[:100]}")
    return base, tuple(endpoints)


def fetch(url: str) -> str:
    """The text of a document at an http address that leads nowhere else; ``LoadError`` when it cannot be had."""
    import requests

    read_host(url.partition("?")[0], "--openapi")
    _refuse_secrets(url, "--openapi")
    begun = time.monotonic()
    try:
        with requests.Session() as session:
            session.trust_env = False  # no proxy, and no password of .netrc
            with session.get(url, timeout=TIMEOUT_S, allow_redirects=False, stream=True) as response:
                if response.status_code != 200:
                    raise LoadError(f"{url}: answered {response.status_code}; name the address of the document itself")
                content = b""
                for chunk in response.iter_content(1 << 16):
                    content += chunk
                    if len(content) > MOST_BYTES or time.monotonic() - begun > ALL_S:
                        raise LoadError(f"{url}: is larger than {MOST_BYTES >> 20} MB, or takes over {ALL_S:.0f} s")
                return content.decode("utf-8", "replace")
    except requests.RequestException as error:
        raise LoadError(f"{url}: {_reason(error)}") from error


def ask(host: str, endpoints: Iterable[Endpoint]) -> Iterator[Answer]:
    """Ask each path of a host once, in order, without following redirects; ends when the host cannot be reached."""
    import requests

    begun = time.monotonic()
    with requests.Session() as session:
        session.trust_env = False
        for endpoint in endpoints:
            if time.monotonic() - begun > ALL_S:
                yield Answer(endpoint, None, "not tried: the others took too long")
                continue
            try:
                with session.get(
                    host + endpoint.path, timeout=TIMEOUT_S, allow_redirects=False, stream=True
                ) as response:
                    yield Answer(endpoint, response.status_code)
            except requests.ReadTimeout as error:
                yield Answer(endpoint, None, _reason(error))
            except (requests.RequestException, ValueError) as error:
                yield Answer(endpoint, None, _reason(error), is_reached=False)
                return


def after_answers(endpoints: Sequence[Endpoint], answers: Sequence[Answer]) -> tuple[Endpoint, ...]:
    """The endpoints, where some answered well with those as comments that did not."""
    failed = {
        item.endpoint: f"answered {item.status} when it was tried" if item.status else item.problem
        for item in answers
        if item.status is None or item.status >= 400
    }
    if not any(item.status is not None and item.status < 400 for item in answers):
        return tuple(endpoints)
    return tuple(replace(item, todo=failed[item]) if item in failed else item for item in endpoints)


def locustfile_text(endpoints: Sequence[Endpoint]) -> str:
    """Python source of a locustfile that asks for these; those with a ``todo`` stand there as comments."""
    lines = [
        '"""A first load test, written by `perfkit init`: change it as you like."""',
        "",
        "from locust import FastHttpUser, between, task",
        "",
        "",
        "class Visitor(FastHttpUser):",
        "    wait_time = between(0.5, 1.5)",
    ]
    names: set[str] = set()
    for endpoint in endpoints:
        name = re.sub(r"[^a-z0-9]+", "_", (endpoint.name or endpoint.path).partition("?")[0].lower()).strip("_")[:50]
        base = name = f"{endpoint.method.lower()}_{name or 'root'}"
        number = 2
        while name in names:
            name, number = f"{base}_{number}", number + 1
        names.add(name)
        named = f", name={_literal(endpoint.name)}" if endpoint.name else ""
        call = f"self.client.{endpoint.method.lower()}({_literal(endpoint.path)}{named})"
        task = ["@task", f"def {name}(self):", f"    {call}"]
        if endpoint.todo:
            task = [f"# TODO: {ascii(endpoint.todo)[1:-1]}", *(f"# {line}" for line in task)]
        lines += ["", *(f"    {line}" for line in task)]
    return "\n".join(lines) + "\n"


def _literal(text: str) -> str:
    return f'"{text}"' if _PLAIN.fullmatch(text) else ascii(text)


def _encoded(path: str) -> str:
    begin, mark, query = path.partition("?")
    return quote(begin, safe=_SAFE) + mark + quote(query.partition("#")[0], safe=_SAFE + "?")


def _refuse_secrets(address: str, where: str) -> None:
    if redact(address) != address or re.match(r"[a-z]+://[^/?#]*@", address, re.IGNORECASE):
        raise SettingsError(
            f"{where}: holds a secret, which would stand in a file; leave it out, and let the locustfile take it from "
            "an environment variable"
        )


def _reason(error: Exception) -> str:
    """Why there was no answer, in a few words."""
    import requests

    text = str(error)
    if isinstance(error, requests.ConnectTimeout):
        return f"no connection in {TIMEOUT_S[0]:.0f} s"
    if isinstance(error, requests.Timeout):
        return f"no answer in {TIMEOUT_S[1]:.0f} s"
    if isinstance(error, requests.exceptions.SSLError):
        return "no TLS connection: its certificate is not trusted here, or it speaks plain http"
    for sign, reason in (("refused", "refuses connections"), ("Name or service", "is not known to the name server")):
        if sign in text:
            return reason
    return "is not known to the name server" if "resolve" in text else f"does not answer ({type(error).__name__})"


def _parsed(text: str, source: str) -> Mapping[str, Any]:
    if len(text) > MOST_BYTES:
        raise SettingsError(f"{source}: is larger than {MOST_BYTES >> 20} MB")
    import yaml

    kind = "JSON" if text.lstrip()[:1] == "{" else "YAML"
    try:
        loader = getattr(yaml, "CSafeLoader", yaml.SafeLoader)
        document = json.loads(text) if kind == "JSON" else yaml.load(text, Loader=loader)
    except (ValueError, RecursionError, yaml.YAMLError) as error:
        raise SettingsError(f"{source}: is no {kind}: {' '.join(str(error).split())[:200]}") from error
    if not isinstance(document, dict):
        raise SettingsError(f"{source}: is no OpenAPI document")
    return document


def _base(document: Mapping[str, Any], host: str | None, source: str) -> str:
    """The host with the path that the document's first server has."""
    servers = document.get("servers")
    first = servers[0] if isinstance(servers, list) and servers and isinstance(servers[0], dict) else {}
    url, variables = str(first.get("url", "/")), first.get("variables")
    for name, variable in variables.items() if isinstance(variables, dict) else ():
        if isinstance(variable, dict):
            url = url.replace(f"{{{name}}}", str(variable.get("default", "")))
    _refuse_secrets(url, f"{source}: servers")
    if host is not None:
        with suppress(ValueError):
            path = quote(urlsplit(url).path.rstrip("/"), safe=_SAFE)
            return host if urlsplit(host).path else host + path
    if source.startswith(("http://", "https://")):
        url = urljoin(source, url)
    if "://" not in url:
        raise SettingsError(f"{source}: names no host; say which: --host http://127.0.0.1:8000")
    base = read_host(url, f"{source}: servers")
    asked, host = urlsplit(source).hostname if "://" in source else None, urlsplit(base).hostname or ""
    is_this_machine = host == "localhost"
    with suppress(ValueError):
        is_this_machine |= ipaddress.ip_address(host).is_loopback
    if host != asked and not is_this_machine:
        raise SettingsError(f"{source}: its server is {base}; say so if that may be loaded: --host {base}")
    return base


def _resolved(document: Mapping[str, Any], item: Any) -> Any:
    """What a reference within the document leads to; ``None`` where it leads nowhere, elsewhere, or in a circle."""
    for _ in range(20):
        if not isinstance(item, dict) or "$ref" not in item:
            return item
        reference, item = str(item["$ref"]), document
        if not reference.startswith("#/"):
            return None
        for part in reference[2:].split("/"):
            item = item.get(part.replace("~1", "/").replace("~0", "~")) if isinstance(item, dict) else None
    return None


def _endpoint(
    document: Mapping[str, Any], path: str, method: str, item: Mapping[str, Any], operation: Mapping[str, Any]
) -> Endpoint:
    """One operation, with values for the parameters that it needs, or why it is none to be run."""
    parameters: dict[tuple[str, str], Mapping[str, Any]] = {}
    missing: list[str] = []
    for of in (item, operation):
        described = of.get("parameters")
        for parameter in described if isinstance(described, list) else ():
            parameter = _resolved(document, parameter)
            if isinstance(parameter, dict):
                parameters[str(parameter.get("in")), str(parameter.get("name"))] = parameter
            else:
                missing.append("a parameter that is described elsewhere")
    filled, query = path, []
    for (location, name), parameter in parameters.items():
        if location != "path" and not parameter.get("required"):
            continue
        value = _value(document, parameter)
        is_secret = redact(f"?{name}=x1y2z3w4") != f"?{name}=x1y2z3w4"
        if location not in ("path", "query") or value is None or is_secret:
            missing.append(f"{location} parameter {name}")
        elif location == "path":
            filled = filled.replace(f"{{{name}}}", quote(value, safe=""))
        else:
            query.append(f"{quote(name, safe='')}={quote(value, safe='')}")
    missing += [f"path parameter {name}" for name in re.findall(r"\{([^{}]*)\}", filled)]
    todo = f"needs a value for {', '.join(dict.fromkeys(missing))}" if missing else ""
    if method != "GET":
        todo = "; ".join(filter(None, (f"{method} may change something: check it first", todo)))
    asked = _encoded(filled) + (f"?{'&'.join(query)}" if query else "")
    return Endpoint(asked, path if asked != path else "", method, todo)


def _value(document: Mapping[str, Any], parameter: Mapping[str, Any]) -> str | None:
    """The value that the document gives for a parameter: an example, an enumeration's first, a default, a constant."""
    schema = _resolved(document, parameter.get("schema"))
    schema = schema if isinstance(schema, dict) else {}
    examples = parameter.get("examples")
    named = [_resolved(document, one) for one in examples.values()] if isinstance(examples, dict) else []
    offered = [
        parameter.get("example"),
        *(one.get("value") for one in named if isinstance(one, dict)),
        schema.get("example"),
        *(schema["examples"][:1] if isinstance(schema.get("examples"), list) else ()),
        *(schema["enum"][:1] if isinstance(schema.get("enum"), list) else ()),
        schema.get("default"),
        schema.get("const"),
    ]
    for value in offered:
        if isinstance(value, bool):
            return str(value).lower()
        if isinstance(value, str | int | float) and str(value):
            return str(value)
    return None
