"""perfkit as a wheel of itself, so that a load container runs the very code that started it.

It needs neither a checkout nor a build tool nor a network: the files of the running package are packed as they are.
"""

from __future__ import annotations

import hashlib
import zipfile
from base64 import urlsafe_b64encode
from collections.abc import Mapping
from importlib import metadata
from pathlib import Path

PACKAGE = Path(__file__).parents[1]
_WHEEL = "Wheel-Version: 1.0\nGenerator: perfkit\nRoot-Is-Purelib: true\nTag: py3-none-any\n"


def own_files() -> dict[str, bytes]:
    """The contents of a wheel but its RECORD, by name, sorted."""
    files = (path for path in PACKAGE.rglob("*") if path.is_file() and "__pycache__" not in path.parts)
    found = {path.relative_to(PACKAGE.parent).as_posix(): path.read_bytes() for path in files}
    distribution = metadata.distribution("perfkit")
    about = {name: distribution.read_text(name) or "" for name in ("METADATA", "entry_points.txt")} | {"WHEEL": _WHEEL}
    found |= {f"{_info(distribution.version)}/{name}": text.encode() for name, text in about.items()}
    return dict(sorted(found.items()))


def write_wheel(files: Mapping[str, bytes], folder: Path) -> Path:
    """Write ``perfkit-VERSION-py3-none-any.whl`` into a folder and return its path."""
    version = metadata.version("perfkit")
    record = f"{_info(version)}/RECORD"
    lines = [f"{name},sha256={_digest(content)},{len(content)}" for name, content in files.items()]
    wheel = folder / f"perfkit-{version}-py3-none-any.whl"
    with zipfile.ZipFile(wheel, "w", zipfile.ZIP_DEFLATED) as archive:
        for name, content in {**files, record: "\n".join([*lines, f"{record},,\n"]).encode()}.items():
            entry = zipfile.ZipInfo(name)  # without a time: the same files make the same wheel
            entry.external_attr = 0o644 << 16
            archive.writestr(entry, content, zipfile.ZIP_DEFLATED)
    return wheel


def _info(version: str) -> str:
    return f"perfkit-{version}.dist-info"


def _digest(content: bytes) -> str:
    return urlsafe_b64encode(hashlib.sha256(content).digest()).rstrip(b"=").decode()
