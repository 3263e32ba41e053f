"""Memory and time of runs of many requests: sealed, summarised, compared, drawn (target: 50 million within 1 GB).

``python benchmarks/large_run.py [MILLIONS ...]`` (default 1 5 10; 50 needs 5 GB of disk) writes a
recording as the recorder does, and measures in a process each the CPU time and the peak of resident memory of

- sealing: the recording is read, written as Parquet, summed up, and the run is stored;
- comparing that stored run with itself under another id, which reads no request;
- drawing the two: every figure and table of the comparison's report;
- ``perfkit report compare`` of the two, the largest of its processes (its kernel);
- ``explore.ipynb`` with a stretch of time, the same;
- the floor: DuckDB's exact percentiles and counts of each service from the same Parquet file, in two threads and with
  1 GB of memory.  It is no dependency of perfkit: ``--duckdb PYTHON`` names an interpreter that has it, such as that
  of ``uv venv /tmp/duck && uv pip install --python /tmp/duck/bin/python duckdb``.

Percentiles of a run are those of all requests, not of a histogram: beside DuckDB's they differ by rounding alone, which
the last column shows.  Those of figures come from counts: the column shows how far they are from the run's own.
"""

from __future__ import annotations

import argparse
import json
import subprocess
import sys
import tempfile
from pathlib import Path

import numpy as np
import pyarrow as pa

from perfkit.runs.recording_stream import RECORDING_SCHEMA

PER_SECOND, SERVICES = 10_000, 10
MEASURED = """
import json, resource, sys
def done(**values):
    used = [resource.getrusage(who) for who in (resource.RUSAGE_SELF, resource.RUSAGE_CHILDREN)]
    cpu_s = sum(of.ru_utime + of.ru_stime for of in used)
    values |= {"cpu_s": cpu_s, "peak_mb": max(of.ru_maxrss for of in used) / 1e3}
    print(json.dumps(values))
"""
SEAL = """
from dataclasses import replace
from datetime import UTC, datetime
from pathlib import Path
from perfkit.loadgen.recording import finish_recording
from perfkit.model.records import LoadProfile, Run, Validity
from perfkit.runs.run_folder import measured_run, recorded_requests, sealed_document
folder = Path(sys.argv[1])
finish_recording(folder / "requests.arrow", folder / "requests.parquet")
run = Run("", "large", datetime.now(UTC), None, LoadProfile(), Validity(), {}, tool="benchmark")
run = measured_run(run, recorded_requests(folder / "requests.parquet"), folder)
for name in ("20260101T000000Z-large-0001", "20260102T000000Z-large-0002"):
    own = folder / "runs" / name
    own.mkdir(parents=True)
    (own / "requests.parquet").hardlink_to(folder / "requests.parquet")
    one = replace(run, id=name, started_at=datetime.fromisoformat(name[:8]).replace(tzinfo=UTC))
    (own / "run.json").write_bytes(sealed_document(one, own / "requests.parquet"))
done(services={name: [stats.count, stats.p50_latency_ms, stats.p99_latency_ms, stats.p999_latency_ms]
               for name, stats in run.services.items()})
"""
COMPARE = """
from pathlib import Path
from perfkit import compare, read_run
runs = [read_run(path) for path in sorted((Path(sys.argv[1]) / "runs").iterdir())]
done(verdict=str(compare(runs[:1], runs[1:]).verdict))
"""
DRAW = """
from pathlib import Path
from perfkit import compare, read_run
from perfkit.report.figure import requests_of_all
runs = [read_run(path) for path in sorted((Path(sys.argv[1]) / "runs").iterdir())]
drawn = compare(runs[:1], runs[1:])
for part in ("forest", "latency", "percentiles", "timeline", "runs"):
    getattr(drawn.plot, part)()
for part in ("findings", "errors", "response_times", "warnings", "runs"):
    getattr(drawn.table, part)()
done(services={name: [int(of.latencies.total), *of.latencies.quantiles([0.5, 0.99, 0.999]).tolist()]
               for name in runs[0].services for of in requests_of_all(runs[:1], name)})
"""
REPORT = """
import os, subprocess
os.chdir(sys.argv[1])
one, other = sorted(os.listdir("runs"))
subprocess.run([sys.executable, "-m", "perfkit", "report", "compare", one, "--candidate", other, "--store", "runs"],
               stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)  # 1: a regression; 4 is a report that failed
done(made=[str(path) for path in __import__("pathlib").Path("reports").glob("*/report.html")])
"""
EXPLORE = """
import os, papermill
os.chdir(sys.argv[1])
from perfkit.report.notebook import find_notebook
one, other = sorted(os.listdir("runs"))
papermill.execute_notebook(str(find_notebook("explore")), None, progress_bar=False, kernel_name="python3", parameters={
    "store": "runs", "baseline": one, "candidate": other, "seconds": [10, 20]})
done()
"""
FLOOR = """
import duckdb
base = duckdb.connect(config={"memory_limit": "1GB", "threads": 2, "temp_directory": sys.argv[1]})
rows = base.execute('''select service, count(*), quantile_cont(response_time_ms, [0.5, 0.99, 0.999]), avg(failed::int)
                       from read_parquet(?) group by service''', [sys.argv[1] + "/requests.parquet"]).fetchall()
done(services={service: [count, *values] for service, count, values, _ in rows})
"""


def write_recording(path: Path, requests: int) -> None:
    """Batches of a second, ten services, log-normal times, 0.2 % failed."""
    rng = np.random.default_rng(1)
    names = pa.array([f"GET /service/{number}" for number in range(SERVICES)])
    with pa.ipc.new_stream(str(path), RECORDING_SCHEMA) as stream:
        for second in range(requests // PER_SECOND):
            codes, failed = rng.integers(0, SERVICES, PER_SECOND, np.int32), rng.random(PER_SECOND) < 0.002
            zeros = np.zeros(PER_SECOND, np.int32)
            columns = [
                pa.array(1.76e9 + second + np.sort(rng.uniform(0, 1, PER_SECOND))),
                pa.DictionaryArray.from_arrays(pa.array(codes), names),
                pa.DictionaryArray.from_arrays(pa.array(zeros), pa.array(["GET"])),
                pa.array((20.0 + 5.0 * codes) * rng.lognormal(0, 0.35, PER_SECOND)),
                pa.array(failed),
                pa.DictionaryArray.from_arrays(pa.array(zeros, mask=~failed), pa.array(["HTTPError 500"])),
                pa.array(np.full(PER_SECOND, 256, np.int64)),
                pa.array(np.zeros(PER_SECOND), mask=np.ones(PER_SECOND, bool)),
            ]
            stream.write_batch(pa.RecordBatch.from_arrays(columns, schema=RECORDING_SCHEMA))


def measured(code: str, folder: Path, python: str = sys.executable) -> dict[str, object]:
    words = [python, "-c", MEASURED + code, str(folder)]
    done = subprocess.run(words, check=True, text=True, stdout=subprocess.PIPE)
    answer: dict[str, object] = json.loads(done.stdout.splitlines()[-1])  # DuckDB shows its progress before it
    return answer


def main(millions: list[float], duckdb: str | None) -> None:
    print("| requests | what | CPU s | peak MB | largest difference of a percentile |\n|--:|---|--:|--:|--:|")
    for million in millions:
        with tempfile.TemporaryDirectory(prefix="perfkit-bench-") as name:
            folder, requests = Path(name), int(million * 1e6)
            write_recording(folder / "requests.arrow", requests)
            sealed = measured(SEAL, folder)
            print(
                f"| {requests:,} | Parquet file: {(folder / 'requests.parquet').stat().st_size / 1e6:,.0f} MB | | | |"
            )
            rows = {
                "sealed, summarised, stored": sealed,
                "compared": measured(COMPARE, folder),
                "figures and tables of both": measured(DRAW, folder),
                "`perfkit report compare` of both": measured(REPORT, folder),
                "`explore.ipynb` with a stretch": measured(EXPLORE, folder),
            }
            if not rows["`perfkit report compare` of both"]["made"]:
                raise SystemExit("no report was made")
            if duckdb is not None:
                try:
                    rows["floor: DuckDB"] = measured(FLOOR, folder, duckdb)
                except subprocess.CalledProcessError:
                    print(f"| {requests:,} | floor: DuckDB | failed, see above | | |")
        for what, row in rows.items():
            off = ""
            if what != "sealed, summarised, stored" and "services" in row:
                pairs = ((sealed["services"][service], values) for service, values in row["services"].items())
                off = f"{max(abs(a / b - 1) for ours, theirs in pairs for a, b in zip(ours, theirs, strict=True)):.1e}"
            print(f"| {requests:,} | {what} | {row['cpu_s']:.1f} | {row['peak_mb']:,.0f} | {off} |", flush=True)


if __name__ == "__main__":
    words = argparse.ArgumentParser(description="One run of many requests.")
    words.add_argument("millions", nargs="*", type=float, default=[1, 5, 10])
    words.add_argument("--duckdb", help="an interpreter that has duckdb")
    given = words.parse_args()
    main(given.millions, given.duckdb)
