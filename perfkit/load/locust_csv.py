"""Locust's own statistics files: written every second, with names and errors as the locustfile makes them."""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any

from locust import stats

from perfkit.redaction import redact


class _RedactedRows:
    """A writer of the module `csv` that redacts every text."""

    def __init__(self, writer: Any) -> None:
        self._writer = writer

    def writerow(self, row: Iterable[object]) -> None:
        plain = (int, float, type(None))
        self._writer.writerow([cell if isinstance(cell, plain) else redact(str(cell)) for cell in row])


class RedactedStatistics(stats.StatsCSVFileWriter):  # type: ignore[misc]
    """Locust's writer of statistics, whose files hold no secrets at any time."""

    def __init__(self, *arguments: Any, **options: Any) -> None:
        super().__init__(*arguments, **options)
        for name, value in list(vars(self).items()):
            if hasattr(value, "writerow"):
                setattr(self, name, _RedactedRows(value))


def redact_statistics() -> None:
    """Have Locust use it, which looks for its writer when it begins."""
    stats.StatsCSVFileWriter = RedactedStatistics
