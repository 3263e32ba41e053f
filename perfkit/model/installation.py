"""How perfkit was installed here, and the command that adds one of its extras to just that installation.

perfkit is in no package index: a command that fetches the name ``perfkit`` from one would install whatever somebody
registered there.
"""

from __future__ import annotations

import gc
import importlib.util
import json
import re
import shlex
import sys
from importlib import metadata
from pathlib import Path
from typing import Any
from urllib.parse import unquote, urlsplit

from perfkit.model.redaction import public_url

VERSION = "0.1.0"  # of perfkit; pyproject.toml has the same, and a test says so


def skip_unused_imports() -> None:
    """Keep a process, which must be perfkit's own, from importing what it would import in vain: a second of a report.

    Where JupyterLab is installed, nbformat's schema library imports this one, for formats that no notebook has, and
    it builds a grammar then.
    """
    sys.modules.setdefault("rfc3987_syntax", None)  # type: ignore[arg-type]


def collect_less_garbage() -> None:
    """Let a process, which must be perfkit's own, look for garbage less often: that took a tenth of reading many runs,
    of which nothing is garbage."""
    gc.set_threshold(20_000, 20, 20)


def extra_advice(extra: str) -> str:
    """What to do where a package of an extra is missing: its name, and the command for this installation."""
    command = extra_command(extra)
    return f"install perfkit with the extra `{extra}`{f': {command}' if command else ''}"


def extra_command(extra: str) -> str:
    """The command that installs an extra as perfkit itself was installed; empty where perfkit was not installed.

    From an editable checkout, a folder, a wheel or a version control system it names that source again.  Where the
    source is not on record (a wheel that was found in a folder of wheels), it names the packages of the extra.
    """
    try:
        distribution = metadata.distribution("perfkit")
    except metadata.PackageNotFoundError:
        return ""
    packages: list[str] = []
    origin = _origin()
    url = str(origin.get("url", ""))
    if "dir_info" in origin:
        packages = [*(["-e"] if origin["dir_info"].get("editable") else []), f"{_path(url)}[{extra}]"]
    elif "vcs_info" in origin:
        what = origin["vcs_info"]
        at = what.get("requested_revision") or what.get("commit_id")
        packages = [f"perfkit[{extra}] @ {what['vcs']}+{public_url(url)}{f'@{at}' if at else ''}"]
    elif url:
        packages = [f"{_path(url)}[{extra}]" if url.startswith("file:") else f"perfkit[{extra}] @ {public_url(url)}"]
    if not packages:
        marker = re.compile(rf"extra\s*==\s*['\"]{re.escape(extra)}['\"]")
        requirements = [text for text in distribution.requires or [] if marker.search(text)]
        packages = [text.partition(";")[0].strip() for text in requirements]
    has_pip = importlib.util.find_spec("pip") is not None
    installer = ["pip", "install"] if has_pip else ["uv", "pip", "install", "--python", sys.executable]
    return shlex.join([*installer, *packages]) if packages else ""


def installation_source() -> Path | None:
    """The folder or wheel on this machine that perfkit was installed from, whether or not it is still there."""
    url = str(_origin().get("url", ""))
    return Path(_path(url)) if url.startswith("file:") else None


def shipped_files(folder: str, pattern: str) -> list[Path]:
    """Files of a folder that comes with perfkit (``docs``, ``notebooks``), sorted: of package or checkout."""
    package = Path(__file__).resolve().parents[1]
    files = (list((root / folder).rglob(pattern)) for root in (package, package.parent))
    return sorted(next(filter(None, files), []), key=lambda path: path.stem)


def _origin() -> dict[str, Any]:
    """Where perfkit was installed from, as PEP 610 records it; empty where there is no such record."""
    try:
        origin = json.loads(metadata.distribution("perfkit").read_text("direct_url.json") or "{}")
    except (metadata.PackageNotFoundError, ValueError):
        return {}
    return origin if isinstance(origin, dict) and "url" in origin else {}


def _path(url: str) -> str:
    return str(Path(unquote(urlsplit(url).path)))
