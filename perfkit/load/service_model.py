"""What is true of the demo services, and what can be changed about them; for the real ones and the simulated alike."""

import math
import random
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass, fields
from types import MappingProxyType

from perfkit.errors import SettingsError, did_you_mean

BODY_BYTES = 256  # of every answer


@dataclass(frozen=True, slots=True)
class ServiceModel:
    """What is true of one unchanged service.

    Service times are log-normal with median `median_ms`; `sigma` is the standard deviation of their natural logarithm.
    """

    name: str
    median_ms: float
    sigma: float
    error_rate_pct: float
    workers: int  # requests served at a time; the others queue, first come first served


MODELS: Mapping[str, ServiceModel] = MappingProxyType(
    {
        model.name: model
        for model in (
            ServiceModel("api_gateway", median_ms=20.0, sigma=0.35, error_rate_pct=0.3, workers=8),
            ServiceModel("rag_service", median_ms=90.0, sigma=0.40, error_rate_pct=0.0, workers=16),
            ServiceModel("mcp_server", median_ms=240.0, sigma=0.45, error_rate_pct=0.0, workers=16),
        )
    }
)


@dataclass(frozen=True, slots=True)
class Change:
    """What is different about a service; the default is no difference.

    Parameters
    ----------
    slower_pct
        Every service time grows by so many percent, -90 to 1000.
    tail_pct, tail_factor
        `tail_pct` percent of the requests (0 to 100) take `tail_factor` times as long (1 to 100).
    error_rate_pct
        Percent of requests answered with status 500, 0 to 100; None keeps the model's.
    stall_s, stall_at_s
        All work stands still for `stall_s` seconds, `stall_at_s` seconds after the service started (each 0 to 86400).

    Raises
    ------
    ValueError
        A value is out of range.
    """

    slower_pct: float = 0.0
    tail_pct: float = 0.0
    tail_factor: float = 3.0
    error_rate_pct: float | None = None
    stall_s: float = 0.0
    stall_at_s: float = 0.0

    def __post_init__(self) -> None:
        for name, (low, high) in _RANGES.items():
            value = getattr(self, name)
            if value is not None and not low <= value <= high:  # nan fails too
                raise ValueError(f"{name} must be from {low:g} to {high:g}, not {value!r}")


_RANGES = {
    "slower_pct": (-90.0, 1000.0),
    "tail_pct": (0.0, 100.0),
    "tail_factor": (1.0, 100.0),
    "error_rate_pct": (0.0, 100.0),
    "stall_s": (0.0, 86400.0),
    "stall_at_s": (0.0, 86400.0),
}


def draws(model: ServiceModel, change: Change, seed: int | None) -> Iterator[tuple[float, bool]]:
    """Service time in seconds and whether the answer is an error, request by request, without end."""
    times, tails, errors = (random.Random(None if seed is None else f"{seed} {model.name} {of}") for of in range(3))
    median_s = model.median_ms / 1000 * (1 + change.slower_pct / 100)
    error_rate_pct = model.error_rate_pct if change.error_rate_pct is None else change.error_rate_pct
    while True:
        in_tail = 100 * tails.random() < change.tail_pct
        seconds = times.lognormvariate(math.log(median_s), model.sigma) * (change.tail_factor if in_tail else 1.0)
        yield seconds, 100 * errors.random() < error_rate_pct


def finish(begin: float, seconds: float, stall_from: float, stall_to: float) -> float:
    """When work of so many seconds is done that begins at `begin` and stands still during the stall."""
    if begin + seconds <= stall_from or begin >= stall_to:
        return begin + seconds
    return stall_to + seconds - max(0.0, stall_from - begin)


def parse_changes(texts: Iterable[str]) -> dict[str, Change]:
    """Changes as people write them, ``api_gateway:slower_pct=20`` or ``rag_service:tail_pct=2,tail_factor=3``.

    Raises
    ------
    SettingsError
        The text has another form, or names an unknown service or change, or a value is out of range.
    """
    return dict(_parse_change(text) for text in texts)


def _parse_change(text: str) -> tuple[str, Change]:
    service, colon, rest = text.partition(":")
    if not colon:
        raise SettingsError(f"{text!r}: write a change like api_gateway:slower_pct=20 or rag_service:tail_pct=2")
    if service not in MODELS:
        raise SettingsError(f"{text!r}: there is no demo service {service!r}{did_you_mean(service, MODELS)}")
    known = [field.name for field in fields(Change)]
    values = {}
    for part in rest.split(","):
        name, _, value = (word.strip() for word in part.partition("="))
        if name not in known:
            raise SettingsError(
                f"{text!r}: unknown change {name!r}{did_you_mean(name, known)}; known are {', '.join(known)}"
            )
        try:
            values[name] = float(value)
        except ValueError as error:
            raise SettingsError(f"{text!r}: {name} must be a number, not {value!r}") from error
    try:
        return service, Change(**values)
    except ValueError as error:
        raise SettingsError(f"{text!r}: {error}") from error
