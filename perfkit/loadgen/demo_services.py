"""Three small HTTP services with a known truth, to rehearse load tests on.

Each is a process of its own on 127.0.0.1 with log-normal service times and a queue in front of a limited number of
workers, so more load means more latency; `Change` makes one slower, unreliable or silent for a while.

A response time is queueing + service time + what HTTP costs (about 1 ms).  Timers are late by 0.1 to 0.4 ms on average,
and within -0.5 and 1.7 ms in 98 of 100 cases: epoll rounds a timeout up to the next millisecond, so the services aim
half a millisecond early.

`ServiceModel` and `Change` describe the real services and the simulated ones (`perfkit.loadgen.simulate`) alike.
"""

from __future__ import annotations

import asyncio
import importlib.util
import json
import math
import os
import random
import selectors
import socket
import subprocess
import sys
import tempfile
import threading
import time
from collections.abc import Iterable, Iterator, Mapping
from contextlib import ExitStack, contextmanager, suppress
from dataclasses import asdict, dataclass, fields
from typing import IO, TYPE_CHECKING

from perfkit.model.errors import LoadError, MissingExtra, SettingsError, did_you_mean
from perfkit.model.installation import extra_advice

if TYPE_CHECKING:
    from starlette.applications import Starlette
    from starlette.requests import Request
    from starlette.responses import Response

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


MODELS: Mapping[str, ServiceModel] = {
    model.name: model
    for model in (
        ServiceModel("api_gateway", median_ms=20.0, sigma=0.35, error_rate_pct=0.3, workers=8),
        ServiceModel("rag_service", median_ms=90.0, sigma=0.40, error_rate_pct=0.0, workers=16),
        ServiceModel("mcp_server", median_ms=240.0, sigma=0.45, error_rate_pct=0.0, workers=16),
    )
}


@dataclass(frozen=True, slots=True)
class Change:
    """What is different about a service; the default is no difference.

    ``ValueError`` for a value that is out of range.
    """

    slower_pct: float = 0.0  # every service time grows by so much
    tail_pct: float = 0.0  # so many of the requests
    tail_factor: float = 3.0  # take so many times as long
    error_rate_pct: float | None = None  # of requests answered with status 500; None keeps the model's
    stall_s: float = 0.0  # all work stands still so long,
    stall_at_s: float = 0.0  # so many seconds after the service started

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


def draw_requests(model: ServiceModel, change: Change, seed: int | None) -> Iterator[tuple[float, bool]]:
    """Service time in seconds and whether the answer is an error, request by request, without end."""
    times, tails, errors = (random.Random(None if seed is None else f"{seed} {model.name} {of}") for of in range(3))
    median_s = model.median_ms / 1000 * (1 + change.slower_pct / 100)
    error_rate_pct = model.error_rate_pct if change.error_rate_pct is None else change.error_rate_pct
    while True:
        in_tail = 100 * tails.random() < change.tail_pct
        seconds = times.lognormvariate(math.log(median_s), model.sigma) * (change.tail_factor if in_tail else 1.0)
        yield seconds, 100 * errors.random() < error_rate_pct


def completion_time(begin: float, seconds: float, stall_from: float, stall_to: float) -> float:
    """When work of so many seconds is done that begins at `begin` and stands still during the stall."""
    if begin + seconds <= stall_from or begin >= stall_to:
        return begin + seconds
    return stall_to + seconds - max(0.0, stall_from - begin)


def parse_changes(texts: Iterable[str]) -> dict[str, Change]:
    """Changes as people write them, ``api_gateway:slower_pct=20`` or ``rag_service:tail_pct=2,tail_factor=3``.

    ``SettingsError`` for another form, an unknown service or change, or a value that is out of range.
    """
    names = [field.name for field in fields(Change)]
    changes = {}
    for text in texts:
        service, colon, rest = text.partition(":")
        if not colon:
            raise SettingsError(f"{text!r}: write a change like api_gateway:slower_pct=20 or rag_service:tail_pct=2")
        if service not in MODELS:
            raise SettingsError(f"{text!r}: there is no demo service {service!r}{did_you_mean(service, MODELS)}")
        values = {}
        for part in rest.split(","):
            name, _, value = (word.strip() for word in part.partition("="))
            if name not in names:
                hint = f"{did_you_mean(name, names)}; known are {', '.join(names)}"
                raise SettingsError(f"{text!r}: unknown change {name!r}{hint}")
            try:
                values[name] = float(value)
            except ValueError as error:
                raise SettingsError(f"{text!r}: {name} must be a number, not {value!r}") from error
        try:
            changes[service] = Change(**values)
        except ValueError as error:
            raise SettingsError(f"{text!r}: {error}") from error
    return changes


START_TIMEOUT_S = 20.0
KEEP_ALIVE_S = 600  # an idle connection that the server closes looks like a failed request to a load generator
BACKLOG = 4096
TIMER_LATENESS_S = 0.0005 if sys.platform == "linux" else 0.0  # the mean of epoll's rounding up to whole milliseconds


@dataclass(frozen=True, slots=True)
class _ServiceProcess:
    """One service as its parent sees it."""

    name: str
    process: subprocess.Popen[bytes]
    stdout: IO[bytes]
    stderr: IO[bytes]

    def log_tail(self) -> str:
        self.stderr.seek(0)
        lines = self.stderr.read().decode(errors="replace").splitlines()[-10:]
        return "".join(f"\n  {line}" for line in lines) or " It wrote nothing to stderr."

    def end(self) -> None:
        self.process.kill()  # it holds nothing worth an orderly end
        with self.process, self.stderr:
            pass


@dataclass(frozen=True, slots=True)
class DemoServices:
    """Running demo services; ``addresses`` maps a name to ``http://127.0.0.1:PORT``."""

    addresses: Mapping[str, str]
    _children: tuple[_ServiceProcess, ...]

    def wait(self) -> None:
        """Block until Ctrl-C, then return, while the services go on; ``LoadError`` when one has ended by itself."""
        with suppress(KeyboardInterrupt), selectors.DefaultSelector() as selector:
            for child in self._children:
                selector.register(child.stdout, selectors.EVENT_READ, child)
            (ended, _), *_ = selector.select()  # nothing more is ever written to stdout: readable means end of file
            raise LoadError(f"{ended.data.name}: the service ended by itself.{ended.data.log_tail()}")


@contextmanager
def start_services(
    changes: Mapping[str, Change] | None = None, *, seed: int | None = None, names: Iterable[str] = tuple(MODELS)
) -> Iterator[DemoServices]:
    """Start demo services, one process each; all of them answer in the ``with`` block, and end with it.

    They also end when the process that started them dies, however it dies; requests under way are cut off.

    ``GET`` and ``POST`` on ``/`` and ``/NAME`` go through the queue; ``GET /health`` answers at once, even in a stall.
    Every answer is JSON of the same size.  With a ``seed``, the k-th request that reaches a service meets the same luck
    every time, with or without a change.

    ``ValueError`` for an unknown name, or a change of a service that is not started; ``MissingExtra`` without the
    servers' libraries; ``LoadError``, with its last words, for a service that does not start within `START_TIMEOUT_S`.
    """
    names, changes = tuple(dict.fromkeys(names)), changes or {}
    if unknown := set(names) - set(MODELS):
        raise ValueError(f"names must be among {', '.join(MODELS)}, not {', '.join(sorted(unknown))}")
    if unknown := set(changes) - set(names):
        raise ValueError(f"changes must be for {', '.join(names)}, not {', '.join(sorted(unknown))}")
    if missing := [name for name in ("starlette", "uvicorn") if importlib.util.find_spec(name) is None]:
        raise MissingExtra(f"the demo services need {' and '.join(missing)}; {extra_advice('demo')}")
    with ExitStack() as ending:
        children = []
        for name in names:
            stderr = tempfile.TemporaryFile()  # noqa: SIM115 - closed by _ServiceProcess.end; an unread pipe could fill up
            settings = {"service": name, "change": asdict(changes.get(name, Change())), "seed": seed}
            process = subprocess.Popen(
                [sys.executable, "-P", "-m", "perfkit.loadgen.demo_services", json.dumps(settings)],
                stdin=subprocess.PIPE,  # never written to: its end of file ends the service when we are gone
                stdout=subprocess.PIPE,
                stderr=stderr,
                bufsize=0,
                env={**os.environ, "PYTHONPATH": os.pathsep.join(sys.path)},  # the child imports what we import
                start_new_session=True,  # Ctrl-C is for the parent
            )
            assert process.stdout is not None
            children.append(_ServiceProcess(name, process, process.stdout, stderr))
            ending.callback(children[-1].end)
        ports = _ports(children)
        addresses = {name: f"http://127.0.0.1:{ports[name]}" for name in names}
        yield DemoServices(addresses, tuple(children))


def _ports(children: Iterable[_ServiceProcess]) -> dict[str, int]:
    """Service name -> port, which each child writes once it listens."""
    ports: dict[str, int] = {}
    deadline = time.monotonic() + START_TIMEOUT_S
    with selectors.DefaultSelector() as selector:
        for child in children:
            selector.register(child.stdout, selectors.EVENT_READ, child)
        while waiting := [key.data for key in selector.get_map().values()]:
            ready = [key.data for key, _ in selector.select(max(0.0, deadline - time.monotonic()))]
            for child in ready:
                selector.unregister(child.stdout)
                ports[child.name] = int(child.stdout.readline() or 0)
            for child in ready or waiting:
                if not ports.get(child.name):
                    raise LoadError(f"{child.name}: the service did not start.{child.log_tail()}")
    return ports


def _application(model: ServiceModel, change: Change, seed: int | None, started: float) -> Starlette:
    from starlette.applications import Starlette
    from starlette.responses import Response
    from starlette.routing import Route

    luck = draw_requests(model, change, seed)
    workers = asyncio.Semaphore(model.workers)
    stall_from = started + change.stall_at_s
    content = {}
    for status in (200, 500):
        document = {"service": model.name, "status": status, "data": ""}
        padding = "x" * (BODY_BYTES - len(json.dumps(document)))
        content[status] = json.dumps({**document, "data": padding}).encode()

    async def respond(_: Request) -> Response:
        seconds, failed = next(luck)
        async with workers:
            begin = time.monotonic()
            end = completion_time(begin, seconds, stall_from, stall_from + change.stall_s)
            await asyncio.sleep(end - begin - TIMER_LATENESS_S)
        status = 500 if failed else 200
        return Response(content[status], status, media_type="application/json")

    async def health(_: Request) -> Response:
        return Response(content[200], media_type="application/json")

    queued = [Route(path, respond, methods=["GET", "POST"]) for path in ("/", f"/{model.name}")]
    return Starlette(routes=[*queued, Route("/health", health)])


async def _serve(model: ServiceModel, change: Change, seed: int | None) -> None:
    import uvicorn

    # asyncio sets TCP_NODELAY only on sockets that name their protocol; without it every answer waits 40 ms for an ACK
    listener = socket.socket(socket.AF_INET, socket.SOCK_STREAM, socket.IPPROTO_TCP)
    listener.bind(("127.0.0.1", 0))
    listener.listen(BACKLOG)
    config = uvicorn.Config(
        _application(model, change, seed, started=time.monotonic()),
        lifespan="off",
        ws="none",
        access_log=False,
        log_level="warning",
        timeout_keep_alive=KEEP_ALIVE_S,
        backlog=BACKLOG,
    )
    config.load()  # whatever can fail has been done before the port is written
    os.write(sys.stdout.fileno(), b"%d\n" % listener.getsockname()[1])
    await uvicorn.Server(config).serve(sockets=[listener])


def main(settings: str) -> None:
    """Serve the service that a JSON object describes until standard input ends; writes its port to standard output."""

    def end_with_parent() -> None:
        os.read(sys.stdin.fileno(), 1)  # returns when the parent's end of the pipe is closed, even by kill -9
        os._exit(0)

    job = json.loads(settings)
    threading.Thread(target=end_with_parent, daemon=True).start()
    asyncio.run(_serve(MODELS[job["service"]], Change(**job["change"]), job["seed"]))


if __name__ == "__main__":
    main(sys.argv[1])
