"""What can be known before a load test starts, and is cheaper to know before.

Each check returns nothing or raises `LoadError`.
"""

import importlib.util
import socket
import sys
import urllib.request
import warnings
from pathlib import Path
from urllib.parse import urlsplit

from perfkit.errors import LoadError
from perfkit.redaction import public_url

CONNECT_TIMEOUT_S = 3.0
_PORTS = {"http": 80, "ws": 80, "https": 443, "wss": 443}


def check_locust() -> None:
    """Check that Locust is installed."""
    if importlib.util.find_spec("locust") is None:
        raise LoadError(f"Locust is not installed for {sys.executable}. Run: pip install locust")


def check_locustfile(path: Path) -> None:
    """Check that a locustfile exists and is Python; a folder of locustfiles is left to Locust."""
    if "," in str(path):
        raise LoadError(f"{path}: has a comma in its path, which separates locustfiles for Locust. Rename it.")
    if path.is_dir():
        return
    if not path.is_file():
        raise LoadError(f"{path}: there is no such locustfile. Check the path; it starts from {Path.cwd()}.")
    if path.suffix != ".py":
        raise LoadError(f"{path}: Locust takes only files that end with .py. Rename it.")
    try:
        with warnings.catch_warnings(action="ignore"):  # the user's code, the user's warnings
            compile(path.read_bytes(), str(path), "exec")
    except OSError as error:
        raise LoadError(f"{path}: cannot be read: {error.strerror}. Check its permissions.") from error
    except SyntaxError as error:
        raise LoadError(f"{path}:{error.lineno}: is not valid Python: {error.msg}. Correct that line.") from error
    except ValueError as error:  # Python 3.11 says so of null bytes
        raise LoadError(f"{path}: is not Python source: {error}. Name a locustfile.") from error


def check_host(url: str) -> None:
    """Check that a host takes TCP connections, by making one.

    Nothing is checked when a proxy is to be used, or when neither the URL nor its scheme says which port.

    Parameters
    ----------
    url
        Scheme, host and, where it is not the scheme's own, port: ``http://localhost:8080``.

    Raises
    ------
    LoadError
        The URL has no scheme or host, its name is unknown, or nobody answers within `CONNECT_TIMEOUT_S`.
    """
    url = public_url(url)  # user info takes no part here, and no message may repeat it
    try:
        parts = urlsplit(url)
        port = parts.port or _PORTS.get(parts.scheme)
    except ValueError as error:
        raise LoadError(f"host {url!r}: is not a URL: {error}. Write it like http://localhost:8080") from error
    if "://" not in url or not parts.hostname:
        raise LoadError(f"host {url!r}: needs a scheme and a name. Write it like http://localhost:8080")
    if port is None or _has_proxy(parts.scheme, parts.hostname):
        return
    place = f"host {parts.hostname}, port {port}"
    try:
        socket.create_connection((parts.hostname, port), CONNECT_TIMEOUT_S).close()
    except socket.gaierror as error:
        raise LoadError(
            f"{place}: the name is not known ({error.strerror}). Check its spelling and the VPN."
        ) from error
    except TimeoutError as error:
        raise LoadError(
            f"{place}: no answer within {CONNECT_TIMEOUT_S:g} s. Check that it is up and no firewall is in between."
        ) from error
    except (OSError, UnicodeError) as error:
        raise LoadError(f"{place}: takes no connection ({error}). Start the service, or correct the host.") from error


def _has_proxy(scheme: str, hostname: str) -> bool:
    return scheme in urllib.request.getproxies() and not urllib.request.proxy_bypass(hostname)
