"""A course as one line of text."""

from __future__ import annotations

from collections.abc import Sequence

BLOCKS = "▁▂▃▄▅▆▇█"
MOST_POINTS = 60
GAP = "·"  # a run without a value


def sparkline(values: Sequence[float | None]) -> tuple[str, float, float, int]:
    """The newest values as blocks, with the lowest and highest of them and their number; empty where there is none.

    >>> sparkline([1.0, None, 2.0, 3.0])
    ('▁·▅█', 1.0, 3.0, 4)
    """
    newest = list(values[-MOST_POINTS:])
    known = [value for value in newest if value is not None]
    if not known:
        return "", 0.0, 0.0, 0
    low, high = min(known), max(known)
    step = (high - low) / (len(BLOCKS) - 1)
    drawn = "".join(GAP if one is None else BLOCKS[round((one - low) / step) if step else 0] for one in newest)
    return drawn, low, high, len(newest)
