"""How long a store of many runs takes to be listed, filtered and followed over time.

``python benchmarks/store.py [RUNS]`` makes run folders of 20 services x 7 metrics in a temporary folder (10,000 of
them; 100,000 take about 2 GB and half an hour; ``--store FOLDER`` keeps them, and takes those that are there) and
measures the CPU time, in fresh interpreters that have loaded their libraries:

- cold: no index, every ``run.json`` is read (target: at most 30 s for 100,000), in one process and in one per core;
- warm: the index is there (target: at most 1 s for each question of 100,000);
- one more run: the index lacks the newest run;
- floor: reading every ``run.json`` as JSON, and listing the folders, which no index can go below.
"""

from __future__ import annotations

import argparse
import hashlib
import os
import resource
import shutil
import subprocess
import sys
import tempfile
import time
from dataclasses import replace
from datetime import UTC, datetime, timedelta
from pathlib import Path

import numpy as np

from perfkit.model.records import LATENCY_METRICS, LoadProfile, Metric, Run, ServiceStats, Validity
from perfkit.runs.run_folder import sealed_document

SERVICES, SCENARIOS, TEMPLATES = 20, 5, 50
BEGIN = datetime(2020, 1, 1, tzinfo=UTC)
ASK = """
import sys, time
import pandas, pyarrow.parquet, pyarrow.compute
from perfkit.history.timeline import load_timeline
from perfkit.runs.store import RunStore
seconds = {}
store = RunStore(sys.argv[1])
def timed(title, ask):
    begin = time.process_time()
    found = ask()
    seconds[title] = time.process_time() - begin
    return found
timed("first", lambda: RunStore(sys.argv[1]).runs())
timed("list", lambda: RunStore(sys.argv[1]).runs())
timed("filter", lambda: RunStore(sys.argv[1]).runs(scenario="api1", branch="main", build="7"))
timed("history", lambda: RunStore(sys.argv[1]).history("api1", "GET /service/3", "p95_latency_ms"))
timed("timeline", lambda: load_timeline(RunStore(sys.argv[1]), "api1"))
print(*(f"{title}={value:.3f}" for title, value in seconds.items()))
"""
COLD = "import sys; from perfkit.runs.store import RunStore; RunStore(sys.argv[1], jobs=int(sys.argv[2])).index()"
FLOOR = """
import json, os, sys, time
begin = time.process_time()
for name in os.listdir(sys.argv[1]):
    if not name.startswith("."):
        with open(f"{sys.argv[1]}/{name}/run.json", "rb") as file:
            json.loads(file.read())
read = time.process_time() - begin
begin = time.process_time()
for name in os.listdir(sys.argv[1]):
    os.path.exists(f"{sys.argv[1]}/{name}/run.json")
print(f"read={read:.3f} stat={time.process_time() - begin:.3f}")
"""


def template(rng: np.random.Generator, number: int) -> Run:
    """A run whose numbers look like those of a load test."""
    services = {}
    for service in range(SERVICES):
        level = float((20.0 + service) * rng.lognormal(0, 0.05))
        values = {metric.value: level * (1.0 + 0.5 * number) for number, metric in enumerate(LATENCY_METRICS)}
        values |= {Metric.ERROR_RATE.value: 0.06, Metric.RPS.value: float(5000 / 60 * rng.lognormal(0, 0.01))}
        errors = {name: value * 0.01 for name, value in values.items()}
        services[f"GET /service/{service}"] = ServiceStats(5000, 3, **values, standard_errors=errors)
    return Run(
        id="",
        scenario=f"api{number % SCENARIOS}",
        started_at=BEGIN,
        duration_s=60.0,
        profile=LoadProfile("steady", 30, None, 60.0),
        validity=Validity(),
        services=services,
        tool="locust 2.47.0",
        labels={"build": str(number % 20)},
        git={"commit": hashlib.sha1(str(number).encode()).hexdigest(), "branch": "main"},
    )


def write_runs(folder: Path, first: int, count: int) -> None:
    """Straight into the folder: what is measured is reading."""
    rng = np.random.default_rng(1)
    templates = [template(rng, number) for number in range(TEMPLATES)]
    for number in range(first, first + count):
        one, started = templates[number % TEMPLATES], BEGIN + timedelta(minutes=10 * number)
        content = hashlib.sha256(str(number).encode()).hexdigest()
        run_id = f"{started:%Y%m%dT%H%M%SZ}-{one.scenario}-{content[:4]}"
        own = folder / run_id
        own.mkdir(parents=True)
        run = replace(one, id=run_id, started_at=started, content_hash=content)
        (own / "run.json").write_bytes(sealed_document(run, own / "none"))


def asked(code: str, folder: Path) -> dict[str, float]:
    done = subprocess.run([sys.executable, "-c", code, str(folder)], check=True, text=True, stdout=subprocess.PIPE)
    return {part.partition("=")[0]: float(part.partition("=")[2]) for part in done.stdout.split()}


def used(*words: str) -> tuple[float, float]:
    """CPU and wall seconds of a whole command and of the processes that it starts."""
    before, begin = resource.getrusage(resource.RUSAGE_CHILDREN), time.perf_counter()
    subprocess.run([sys.executable, *words], check=True, stdout=subprocess.DEVNULL)
    after = resource.getrusage(resource.RUSAGE_CHILDREN)
    cpu = after.ru_utime + after.ru_stime - before.ru_utime - before.ru_stime
    return cpu, time.perf_counter() - begin


def main(count: int, kept: Path | None) -> None:
    with tempfile.TemporaryDirectory(prefix="perfkit-bench-") as name:
        folder = kept or Path(name) / "runs"
        if there := len(list(folder.glob("*/run.json"))):
            count = there
            shutil.rmtree(folder / ".index", ignore_errors=True)
        else:
            write_runs(folder, 0, count)
        floor = asked(FLOOR, folder)
        several, wall = used("-c", COLD, str(folder), str(os.cpu_count()))
        shutil.rmtree(folder / ".index")
        cold, _ = used("-c", COLD, str(folder), "1")
        warm = asked(ASK, folder)
        write_runs(folder, count, 1)
        more = asked(ASK, folder)
        size = (folder / ".index" / "runs.arrow").stat().st_size
        command, _ = used("-m", "perfkit", "runs", "--store", str(folder), "--scenario", "api1")
    print(f"{count:,} runs x {SERVICES} services x {len(Metric)} metrics; index {size / 1e6:.1f} MB")
    print("| what | CPU seconds | times its floor |\n|---|--:|--:|")
    print(f"| floor of cold: every run.json read as JSON | {floor['read']:.2f} | 1 |")
    print(f"| floor of warm: every folder looked at | {floor['stat']:.2f} | 1 |")
    rows = {"cold: index made, interpreter included": (cold, floor["read"])}
    rows[f"cold: in {os.cpu_count()} processes ({wall:.1f} s of wall time)"] = several, floor["read"]
    rows |= {f"warm: {title}": (warm[title], floor["stat"]) for title in ("list", "filter", "history", "timeline")}
    rows["warm: list, one run not yet in the index"] = more["first"], floor["stat"]
    rows["`perfkit runs --scenario api1`, interpreter included"] = command, floor["stat"]
    for title, (seconds, least) in rows.items():
        print(f"| {title} | {seconds:.2f} | {seconds / least:.1f} |")


if __name__ == "__main__":
    words = argparse.ArgumentParser(description="A store of many runs.")
    words.add_argument("runs", nargs="?", type=int, default=10_000)
    words.add_argument("--store", type=Path, help="make the runs here, or take those that are here")
    given = words.parse_args()
    main(given.runs, given.store)
