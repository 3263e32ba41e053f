"""What the open model holds: arrivals per second, how late they start, and what that costs beside a closed loop.

Locust with `FastHttpUser` against a bare asyncio server on loopback; both share the processors of this machine.

    python benchmarks/open_model.py --rate 1000 --seconds 20
"""

import argparse
import subprocess
import sys
import tempfile
from pathlib import Path

import numpy as np

from perfkit.config.settings import Scenario
from perfkit.loadgen.locust_command import Distribution
from perfkit.loadgen.run import run_scenario
from perfkit.loadgen.service_under_test import free_port
from perfkit.runs.store import RunStore

SERVER = """
import asyncio, socket, sys
class Answer(asyncio.Protocol):
    def connection_made(self, transport):
        self.transport = transport
        transport.get_extra_info("socket").setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
    def data_received(self, data):
        count = data.count(b"\\r\\n\\r\\n")
        self.transport.write(b"HTTP/1.1 200 OK\\r\\nContent-Length: 5\\r\\n\\r\\nhello" * count)
async def main():
    loop = asyncio.get_running_loop()
    server = await loop.create_server(Answer, "127.0.0.1", int(sys.argv[1]), backlog=1000)
    print("ready", flush=True)
    await server.serve_forever()
asyncio.run(main())
"""
LOCUSTFILE = """
from locust import FastHttpUser, constant, task
class Caller(FastHttpUser):
    wait_time = constant(0.05)
    @task
    def call(self):
        self.client.get("/", name="front")
"""


def measure(folder, host, distribution=None, **load):
    file = folder / "locustfile.py"
    file.write_text(LOCUSTFILE)
    scenario = Scenario("open", file, host, **load)
    return run_scenario(scenario, RunStore(str(folder / "runs")), {}, distribution=distribution)


def main():
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--rate", type=float, default=1000.0)
    parser.add_argument("--seconds", type=float, default=20.0)
    given = parser.parse_args()
    port = free_port()
    server = subprocess.Popen([sys.executable, "-c", SERVER, str(port)], stdout=subprocess.PIPE)
    server.stdout.readline()
    host = f"http://127.0.0.1:{port}"
    users = round(given.rate * 0.0515)
    closed = {"users": users, "spawn_rate": float(users), "duration_s": given.seconds}
    opened = {"rate": given.rate, "duration_s": given.seconds}
    try:
        with tempfile.TemporaryDirectory() as name:
            cases = {
                f"closed, {users} users": measure(Path(name), host, **closed),
                "open, constant": measure(Path(name), host, **opened),
                "open, poisson": measure(Path(name), host, arrivals="poisson", **opened),
                "open, 2 workers": measure(Path(name), host, Distribution(2, bind_port=0), **opened),
            }
            for title, run in cases.items():
                print(describe(title, run))
    finally:
        server.kill()
        server.wait()


def describe(title, run):
    checks = {check.name: check.value for check in run.validity.checks}
    frame = run.requests()
    waited = (frame["response_time_ms"] - frame["service_time_ms"]).dropna()
    late = (
        f"{100 * (waited > 10).mean():.3f} % over 10 ms late, p99 {np.quantile(waited, 0.99):.2f} ms"
        if len(waited)
        else "-"
    )
    return (
        f"{title}: {len(frame) / run.duration_s:.0f} requests/s, median {frame['response_time_ms'].median():.2f} ms, "
        f"starts: {late}; CPU {checks['generator_cpu']} %, "
        f"{', '.join(check.name for check in run.validity.problems) or 'valid'}"
    )


if __name__ == "__main__":
    main()
