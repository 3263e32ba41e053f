"""Ages and sizes as people write and read them."""

from __future__ import annotations

import re
from datetime import timedelta

_DAYS = {"h": 1 / 24, "d": 1.0, "w": 7.0, "y": 365.25}
_BYTES = {"b": 1, "kb": 10**3, "mb": 10**6, "gb": 10**9, "tb": 10**12}


def parse_age(text: str) -> timedelta:
    """``90d``, ``12w``, ``2y`` or ``36h``; ``ValueError`` for anything else."""
    match = re.fullmatch(r"\s*(\d+(?:\.\d+)?)\s*([hdwy])\s*", text.lower())
    if match is None or not float(match[1]):
        raise ValueError(f"expected an age such as 90d, 12w, 2y or 36h, got {text!r}")
    try:
        return timedelta(days=float(match[1]) * _DAYS[match[2]])
    except OverflowError as error:
        raise ValueError(f"expected an age of at most 2,700,000 years, got {text!r}") from error


def parse_size(text: str) -> int:
    """Bytes from ``500MB`` or ``20 GB``, in powers of ten; ``ValueError`` for anything else."""
    match = re.fullmatch(r"\s*(\d+(?:\.\d+)?)\s*([kmgt]?b)\s*", text.lower())
    if match is None:
        raise ValueError(f"expected a size such as 500MB or 20GB, got {text!r}")
    return int(float(match[1]) * _BYTES[match[2]])


def size_text(size: int) -> str:
    """``3.4 MB``: three digits at most, in powers of ten."""
    for unit, of in reversed(_BYTES.items()):
        if size >= of and of > 1:
            return f"{size / of:.3g} {unit.upper() if unit != 'kb' else 'kB'}"
    return f"{size} B"
