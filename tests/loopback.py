"""A small HTTP server that counts what it answered, and locustfiles to call it."""

import threading
import time
from collections import Counter
from collections.abc import Iterator
from contextlib import contextmanager
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from textwrap import dedent
from urllib.parse import parse_qs, urlsplit

from perfkit.config.settings import Scenario
from perfkit.loadgen.locust_command import LocustCommand


class _Handler(BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"
    disable_nagle_algorithm = True

    def do_GET(self) -> None:
        """Answer with ``?status=`` (default 200) after ``?ms=`` (default none)."""
        parts = urlsplit(self.path)
        wish = {name: int(values[0]) for name, values in parse_qs(parts.query).items()}
        if "ms" in wish:
            self.server.slow_came.set()
            time.sleep(wish["ms"] / 1000)
        body = b"hello"
        self.wfile.write(b"HTTP/1.1 %d X\r\nContent-Length: 5\r\n\r\n%s" % (wish.get("status", 200), body))
        with self.server.lock:
            self.server.answered[parts.path] += 1

    def handle(self) -> None:
        try:
            super().handle()
        except ConnectionError:  # Locust was killed
            self.close_connection = True

    def log_message(self, *_: object) -> None:
        pass


class Loopback(ThreadingHTTPServer):
    """`answered` counts the answers of each path."""

    daemon_threads = True
    request_queue_size = 128

    def __init__(self) -> None:
        super().__init__(("127.0.0.1", 0), _Handler)
        self.answered: Counter[str] = Counter()
        self.lock = threading.Lock()
        self.slow_came = threading.Event()

    @property
    def url(self) -> str:
        return f"http://127.0.0.1:{self.server_address[1]}"


@contextmanager
def serving() -> Iterator[Loopback]:
    """Serve on a free port of 127.0.0.1."""
    with Loopback() as loopback:
        thread = threading.Thread(target=loopback.serve_forever, kwargs={"poll_interval": 0.01})
        thread.start()
        try:
            yield loopback
        finally:
            loopback.shutdown()
            thread.join()


def command(folder: Path, source: str, host: str | None = None, name: str = "locustfile.py", **more) -> LocustCommand:
    """Write a locustfile and return the command that runs it."""
    file = folder / name
    file.write_text(dedent(source))
    load = {} if "rate" in more else {"users": 1, "spawn_rate": 100}
    return LocustCommand(Scenario("test", file, host=host, **(load | more)), folder / "run")


ENDLESS = """
    import os, pathlib
    from locust import FastHttpUser, constant, task

    pathlib.Path(__file__).with_name("pid").write_text(str(os.getpid()))

    class Endless(FastHttpUser):
        wait_time = constant(0.001)

        @task
        def get(self):
            self.client.get("/ok")
"""
"""Users that never stop; the process writes its id beside its locustfile."""
