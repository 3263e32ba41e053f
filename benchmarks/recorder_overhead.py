"""What it costs to record every request.

    python benchmarks/recorder_overhead.py [--pairs 12] [--seconds 8] [--users 30]
    python benchmarks/recorder_overhead.py --memory [--requests 5000000]

Without ``--memory``: Locust with `FastHttpUser`, without waiting, against a bare asyncio server, alternately with and
without the recorder (ABBA, so that a drift of the machine cancels).  Two figures of each: requests per second, and CPU
time of the Locust process per request, which hardly depends on what else the machine does.

With ``--memory``: resident memory while requests go through the recorder's own listener, written as in production.

Both print Markdown for the README beside this file.
"""

import argparse
import asyncio
import json
import os
import statistics
import subprocess
import sys
import tempfile
import time
from pathlib import Path

ROOT = Path(__file__).resolve().parents[1]
RECORDER = ROOT / "perfkit" / "load" / "recorder.py"
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


def measure(folder: Path, port: str, seconds: int, users: int, is_recorded: bool) -> dict[str, float]:
    """Run Locust once; return requests per second, CPU µs per request and peak MB."""
    user = folder / "busy.py"
    user.write_text(LOCUSTFILE % WARM_UP_S)
    files = f"{RECORDER},{user}" if is_recorded else str(user)
    load = ["-H", f"http://127.0.0.1:{port}", "-u", str(users), "-r", "100", "-t", str(seconds)]
    reading, writing = os.pipe()
    own = {
        "PERFKIT_RECORDING": str(folder / "requests.arrow"),
        "PERFKIT_GENERATOR_CSV": str(folder / "generator.csv"),
        "PERFKIT_PROGRESS_FD": str(writing),
    }
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
    return next(json.loads(line) for line in done.stdout.splitlines() if line.startswith("{"))


def compare(pairs: int, seconds: int, users: int) -> None:
    """Print all pairs and the medians of their ratios."""
    print(
        "| pair | rps without | with | ratio | CPU µs/request without | with | ratio |\n|---|---|---|---|---|---|---|"
    )
    rates, costs, peaks = [], [], ([], [])
    with (
        tempfile.TemporaryDirectory() as name,
        subprocess.Popen([sys.executable, __file__, "--serve"], stdout=subprocess.PIPE, text=True) as server,
    ):
        try:
            port = server.stdout.readline().strip()
            for pair in range(pairs):
                order = (False, True) if pair % 2 == 0 else (True, False)
                runs = {kind: measure(Path(name), port, seconds, users, kind) for kind in order}
                without, recorded = runs[False], runs[True]
                rates.append(recorded["rps"] / without["rps"])
                costs.append(recorded["cpu_us"] / without["cpu_us"])
                for kind in (False, True):
                    peaks[kind].append(runs[kind]["peak_mb"])
                print(
                    f"| {pair + 1} | {without['rps']:.0f} | {recorded['rps']:.0f} | {rates[-1]:.3f} "
                    f"| {without['cpu_us']:.1f} | {recorded['cpu_us']:.1f} | {costs[-1]:.3f} |",
                    flush=True,
                )
        finally:
            server.kill()
    print(f"| **median** | | | **{statistics.median(rates):.3f}** | | | **{statistics.median(costs):.3f}** |")
    print(f"\nPeak RSS of Locust: {max(peaks[False]):.0f} MB without, {max(peaks[True]):.0f} MB with the recorder.")


def resident_mb() -> float:
    """Return the resident memory of this process (Linux)."""
    pages = int(Path("/proc/self/statm").read_text().split()[1])
    return pages * os.sysconf("SC_PAGE_SIZE") / 2**20


def memory(requests: int) -> None:
    """Send requests through the recorder in this process and print its memory at every million."""
    with tempfile.TemporaryDirectory() as name:
        os.environ["PERFKIT_RECORDING"] = str(Path(name) / "requests.arrow")
        import gevent
        from locust import events
        from locust.env import Environment

        sys.path.insert(0, str(ROOT))
        from perfkit.load.recorder import BUFFER

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
                size_mb = Path(os.environ["PERFKIT_RECORDING"]).stat().st_size / 2**20
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
    parser.add_argument("--pairs", type=int, default=12)
    parser.add_argument("--seconds", type=int, default=8)
    parser.add_argument("--users", type=int, default=30)
    parser.add_argument("--requests", type=int, default=5_000_000)
    parser.add_argument("--memory", action="store_true")
    parser.add_argument("--serve", action="store_true", help=argparse.SUPPRESS)
    given = parser.parse_args()
    if given.serve:
        asyncio.run(serve())
    elif given.memory:
        memory(given.requests)
    else:
        compare(given.pairs, given.seconds, given.users)


if __name__ == "__main__":
    main()
