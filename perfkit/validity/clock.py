"""Can a run have been made when it says?  One dated in the future, or long before there were such tests, cannot.

Its measurements may be fine; its place in a history is not.  It is named wherever runs are looked over, and never taken
for the newest.
"""

from __future__ import annotations

from collections.abc import Sequence
from datetime import UTC, datetime, timedelta

SKEW = timedelta(minutes=10)  # by which the clocks of two machines may differ
EARLIEST = datetime(2005, 1, 1, tzinfo=UTC)  # before it, a clock that was never set: 1970, 1980, 2000


def misdated(started_at: datetime | None, now: datetime) -> str:
    """What is wrong with the date of a run, in words; empty where nothing is, or it is not known.

    >>> misdated(datetime(2031, 5, 1, tzinfo=UTC), datetime(2026, 11, 2, tzinfo=UTC))
    'dated 2031-05-01 00:00 UTC, in the future'
    """
    if started_at is None:
        return ""
    when = f"dated {started_at.astimezone(UTC):%Y-%m-%d %H:%M} UTC"
    if started_at > now + SKEW:
        return f"{when}, in the future"
    return f"{when}, far in the past" if started_at < EARLIEST else ""


def in_future(times: Sequence[datetime | None], now: datetime) -> tuple[bool, ...]:
    """Which of the runs of a history are dated in the future.

    None where all whose time is known are: then it is the clock here that is wrong.
    """
    late = tuple(time is not None and time > now + SKEW for time in times)
    dated = sum(time is not None for time in times)
    return late if sum(late) < dated else (False,) * len(late)
