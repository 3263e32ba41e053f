"""What it costs to record every request.

    python benchmarks/recorder_overhead.py [--pairs 12] [--seconds 8] [--users 30]
    python benchmarks/recorder_overhead.py --slices [--pairs 60]
    python benchmarks/recorder_overhead.py --live [--pairs 60]
    python benchmarks/recorder_overhead.py --memory [--requests 5000000]

Without either: Locust with `FastHttpUser`, without waiting, against a bare asyncio server, alternately with and
without the recorder (ABBA, so that a drift of the machine cancels).  Two figures of each: requests per second, and CPU
time of the Locust process per request, which hardly depends on what else the machine does.

With ``--slices``: one Locust process in which the recorder is switched on and off every second (ABBA), each second
with it holding one write.  Neighbours of a shared machine change more slowly than that, so it is by far the sharper
comparison.

With ``--live``: what it costs beyond that to watch a run.  One Locust process with the recorder, of which this process
follows every other second (ABBA) as ``perfkit run --live`` does: the recording is read, the page drawn and fetched.

With ``--memory``: resident memory while requests go through the recorder's own listener, written as in production.

All print Markdown for the README beside this file.
"""

import argparse
import asyncio
import json
import os
import statistics
import subprocess
import sys
import tempfile
import threading
import time
import urllib.request
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from scipy.stats import binom

ROOT = Path(__file__).resolve().parents[1]
RECORDER = ROOT / "perfkit" / "loadgen" / "recorder.py"
WARM_UP_S = 1.0
LOCUSTFILE = """
import json, resource, time
import gevent
from locust import FastHttpUser, events, task

class Busy(FastHttpUser):
    @task
    def get(self):
        self.client.get("/item", name="/item")

def clocks(environment):
    return environment.stats.total.num_requests, time.perf_counter(), time.process_time()

@events.test_start.add_listener
def start(environment, **_):
    gevent.spawn_later(%s, lambda: begun.extend(clocks(environment)))

begun = []

@events.test_stopping.add_listener
def stop(environment, **_):
    requests, seconds, cpu_s = (after - before for after, before in zip(clocks(environment), begun))
    peak_mb = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024
    print(json.dumps({"rps": requests / seconds, "cpu_us": 1e6 * cpu_s / requests, "peak_mb": peak_mb}), flush=True)
"""

ALTERNATING = """
import json, time
from contextlib import contextmanager
import gevent
from locust import FastHttpUser, events, task

class Busy(FastHttpUser):
    @task
    def get(self):
        self.client.get("/item", name="/item")

@events.test_start.add_listener
def start(environment, **_):
    gevent.spawn(alternate, environment)

def alternate(environment):
    switched = treatment()
    gevent.sleep(2)
    for pair in range(%d):
        rows = {}
        for is_on in (False, True) if pair %% 2 == 0 else (True, False):
            with switched(is_on) as finish:
                before = clocks(environment)
                gevent.sleep(1)
                finish()
                requests, seconds, cpu_s = (now - then for now, then in zip(clocks(environment), before))
            rows[is_on] = {"rps": requests / seconds, "cpu_us": 1e6 * cpu_s / requests}
        print(json.dumps([rows[False], rows[True]]), flush=True)
    environment.runner.quit()

def clocks(environment):
    return environment.stats.total.num_requests, time.perf_counter(), time.process_time()
"""

SLICES = (
    ALTERNATING
    + """
def treatment():
    buffer = events.perfkit_buffer
    recorder = buffer.on_full.__self__
    write, recorder.tick = recorder.tick, lambda: None
    events.request.remove_listener(buffer.on_request)

    @contextmanager
    def recorded(is_on):
        if is_on:
            events.request.add_listener(buffer.on_request)
        yield write if is_on else lambda: None
        if is_on:
            events.request.remove_listener(buffer.on_request)

    return recorded
"""
)

LIVE = (
    ALTERNATING
    + """
def treatment():
    @contextmanager
    def watched(is_on):
        print(json.dumps(is_on), flush=True)
        yield lambda: None

    return watched
"""
)


class Answer(asyncio.Protocol):
    """Answers whatever comes with the same few bytes."""

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        self.transport = transport

    def data_received(self, _: bytes) -> None:
        self.transport.write(b"HTTP/1.1 200 OK\r\nContent-Length: 2\r\n\r\nok")


async def serve() -> None:
    """Serve on a free port and print it."""
    server = await asyncio.get_running_loop().create_server(Answer, "127.0.0.1", 0)
    print(server.sockets[0].getsockname()[1], flush=True)
    await server.serve_forever()


def locust(folder: Path, port: str, users: int, source: str, is_recorded: bool, *more: str) -> list:
    """Run Locust once; return the lines of JSON that its locustfile printed."""
    user = folder / "busy.py"
    user.write_text(source)
    files = f"{RECORDER},{user}" if is_recorded else str(user)
    load = ["-H", f"http://127.0.0.1:{port}", "-u", str(users), "-r", "100", *more]
    reading, writing = os.pipe()
    (folder / "source").mkdir(exist_ok=True)
    own = {"PERFKIT_RUN_FOLDER": str(folder), "PERFKIT_PROGRESS_FD": str(writing)}
    done = subprocess.run(
        [sys.executable, "-P", "-m", "locust", "-f", files, "--headless", "--only-summary", *load],
        env={**os.environ, **own},
        pass_fds=(writing,),
        capture_output=True,
        text=True,
        check=True,
    )
    os.close(reading)
    os.close(writing)
    return [json.loads(line) for line in done.stdout.splitlines() if line.startswith(("{", "["))]


@contextmanager
def serving() -> Iterator[str]:
    """Run the server as a process of its own; yield its port."""
    with subprocess.Popen([sys.executable, __file__, "--serve"], stdout=subprocess.PIPE, text=True) as server:
        try:
            yield server.stdout.readline().strip()
        finally:
            server.kill()


def median_interval(values: list[float]) -> str:
    """Return the median and its 95 % interval from order statistics."""
    low, high = (int(binom.ppf(tail, len(values), 0.5)) for tail in (0.025, 0.975))
    ordered = sorted(values)
    return f"{statistics.median(values):.3f} ({ordered[low]:.3f} to {ordered[min(high, len(values) - 1)]:.3f})"


def table(pairs: list[tuple[dict, dict]]) -> None:
    """Print pairs without and with the recorder, and the medians of their ratios."""
    print(
        "| pair | rps without | with | ratio | CPU µs/request without | with | ratio |\n|---|---|---|---|---|---|---|"
    )
    ratios = {key: [recorded[key] / without[key] for without, recorded in pairs] for key in ("rps", "cpu_us")}
    for number, (without, recorded) in enumerate(pairs):
        print(
            f"| {number + 1} | {without['rps']:.0f} | {recorded['rps']:.0f} | {ratios['rps'][number]:.3f} "
            f"| {without['cpu_us']:.1f} | {recorded['cpu_us']:.1f} | {ratios['cpu_us'][number]:.3f} |"
        )
    print(
        f"| **median** (95 % interval) | | | **{median_interval(ratios['rps'])}** "
        f"| | | **{median_interval(ratios['cpu_us'])}** |"
    )


def compare(pairs: int, seconds: int, users: int) -> None:
    """Compare processes with and without the recorder."""
    results = []
    with tempfile.TemporaryDirectory() as name, serving() as port:
        for pair in range(pairs):
            order = (False, True) if pair % 2 == 0 else (True, False)
            runs = {
                kind: locust(Path(name), port, users, LOCUSTFILE % WARM_UP_S, kind, "-t", str(seconds))[0]
                for kind in order
            }
            results.append((runs[False], runs[True]))
    table(results)
    without, recorded = (max(pair[kind]["peak_mb"] for pair in results) for kind in (0, 1))
    print(f"\nPeak RSS of Locust: {without:.0f} MB without, {recorded:.0f} MB with the recorder.")


def slices(pairs: int, users: int) -> None:
    """Compare seconds with and without the recorder in one process."""
    with tempfile.TemporaryDirectory() as name, serving() as port:
        table(locust(Path(name), port, users, SLICES % pairs, True))


def live(pairs: int, users: int) -> None:
    """Compare seconds of a run that is watched with seconds in which it is not."""
    sys.path.insert(0, str(ROOT))
    from perfkit.config.settings import Scenario
    from perfkit.loadgen.locust_process import Progress
    from perfkit.report.live import LiveView
    from perfkit.report.live import serving as serving_page
    from perfkit.runs.store import RunStore

    results, spent_s = [], []
    with tempfile.TemporaryDirectory() as name, serving() as port, serving_page() as page:
        folder = Path(name)
        user, recording = folder / "busy.py", folder / "requests.arrow"
        user.write_text(LIVE % pairs)
        scenario = Scenario("busy", user, users=users, duration_s=2.0 * pairs + 2)
        view = LiveView([scenario], page.publish, RunStore(folder / "runs"))

        def reader() -> None:
            version = -1
            while answer := urllib.request.urlopen(f"{page.url}view?after={version}").read() or b"{}":
                version = json.loads(answer).get("version", version)
                if json.loads(answer).get("ended"):
                    return

        threading.Thread(target=reader, daemon=True).start()
        (folder / "source").mkdir(exist_ok=True)
        own = {"PERFKIT_RUN_FOLDER": str(folder)}
        command = [sys.executable, "-P", "-m", "locust", "-f", f"{RECORDER},{user}", "--headless", "--only-summary"]
        load = ["-H", f"http://127.0.0.1:{port}", "-u", str(users), "-r", "100"]
        begun = time.time()
        with subprocess.Popen(
            [*command, *load], env={**os.environ, **own}, stdout=subprocess.PIPE, stderr=subprocess.DEVNULL, text=True
        ) as locust:
            for line in locust.stdout:
                if not line.startswith(("true", "false", "[")):
                    continue
                if (word := json.loads(line)) is True:
                    before, now = time.process_time(), time.time()
                    view.on_progress(
                        scenario,
                        Progress(now, now - begun, users, 0, 0, 0, 0.0, None, 0.0, "running", recording=recording),
                    )
                    spent_s.append(time.process_time() - before)
                elif word:
                    results.append(word)
        view.finish()
    table(results)
    print(f"\nCPU of the process that watches: {1e3 * statistics.median(spent_s):.0f} ms per second, median.")


def resident_mb() -> float:
    """Return the resident memory of this process (Linux)."""
    pages = int(Path("/proc/self/statm").read_text().split()[1])
    return pages * os.sysconf("SC_PAGE_SIZE") / 2**20


def memory(requests: int) -> None:
    """Send requests through the recorder in this process and print its memory at every million."""
    with tempfile.TemporaryDirectory() as name:
        os.environ["PERFKIT_RUN_FOLDER"] = name
        (Path(name) / "source").mkdir()
        import gevent
        from locust import events
        from locust.env import Environment

        sys.path.insert(0, str(ROOT))
        from perfkit.loadgen.recorder import BUFFER

        environment = Environment(events=events)
        environment.create_local_runner()
        events.init.fire(environment=environment, runner=environment.runner, web_ui=None)
        print(
            "| requests | RSS MB | recording MB | CPU µs per request, of making and recording it |\n|---|---|---|---|"
        )
        begun = time.process_time()
        for number in range(requests + 1):
            if number % 1000 == 0:
                gevent.sleep(0)  # where Locust would wait for an answer, and the recorder gets its turn
            if number % 1_000_000 == 0:
                size_mb = (Path(name) / "requests.arrow").stat().st_size / 2**20
                each_us = 1e6 * (time.process_time() - begun) / max(number, 1)
                print(f"| {number:,} | {resident_mb():.1f} | {size_mb:.0f} | {each_us:.2f} |", flush=True)
            BUFFER.on_request(
                request_type="GET",
                name=f"/item/{number % 50}",
                context={},
                response=None,
                exception=None,
                start_time=1.7e9 + number,
                url="",
                response_length=number % 997,
                response_time=number % 1009 / 7,
            )


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--pairs", type=int, help="default: 12 of processes, 60 of slices")
    parser.add_argument("--seconds", type=int, default=8)
    parser.add_argument("--users", type=int, default=30)
    parser.add_argument("--requests", type=int, default=5_000_000)
    parser.add_argument("--slices", action="store_true")
    parser.add_argument("--live", action="store_true")
    parser.add_argument("--memory", action="store_true")
    parser.add_argument("--serve", action="store_true", help=argparse.SUPPRESS)
    given = parser.parse_args()
    if given.serve:
        asyncio.run(serve())
    elif given.memory:
        memory(given.requests)
    elif given.live:
        live(given.pairs or 60, given.users)
    elif given.slices:
        slices(given.pairs or 60, given.users)
    else:
        compare(given.pairs or 12, given.seconds, given.users)


if __name__ == "__main__":
    main()
