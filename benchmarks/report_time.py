"""How long a compare report takes, beside an empty notebook through papermill and nbconvert (the floor).

``python benchmarks/report_time.py [ROUNDS]`` runs both in turn, each in an interpreter of its own, and prints the
median wall and CPU time of each and their ratio (target: at most 1.3), the size of the report, and in Chromium its
first paint.  The kernel's time is in it.  A second floor is the same without the parser of IRIs that jsonschema builds
at each import where JupyterLab brought it along, which a report does not load.

``python benchmarks/report_time.py --large [ROUNDS]`` makes a report of 50 services and two runs of 1,000,000 requests,
and prints its size and first paint (target: at most 1 s).
"""

from __future__ import annotations

import os
import resource
import shutil
import statistics
import subprocess
import sys
import tempfile
import time
from dataclasses import dataclass, field
from pathlib import Path

import nbformat
import numpy as np
import pandas as pd

from perfkit import RunStore, run_from_requests

FLOOR = """
import sys, papermill
from nbconvert import HTMLExporter
papermill.execute_notebook(sys.argv[1], sys.argv[2], progress_bar=False)
open(sys.argv[3], "w").write(HTMLExporter(exclude_input=True).from_filename(sys.argv[2])[0])
"""
LIGHT_FLOOR = "import sys; sys.modules['rfc3987_syntax'] = None" + FLOOR
REPORT = """
import sys
from pathlib import Path
from perfkit.report.notebook import run_report
given = {"baseline": sys.argv[1], "candidate": sys.argv[2]}
print(run_report("compare", given, reports_dir=Path(sys.argv[3])).html)
"""


def made_up_run(rng: np.random.Generator, begin: float, slower: float) -> pd.DataFrame:
    """About 2,000 requests to three services in 20 s."""
    parts = [
        pd.DataFrame(
            {
                "start": begin + np.sort(rng.uniform(0, 20, 700)),
                "service": name,
                "response_time_ms": median * slower * rng.lognormal(0, 0.35, 700),
                "failed": rng.random(700) < 0.003,
            }
        )
        for name, median in (("api_gateway", 20), ("rag_service", 90), ("mcp_server", 240))
    ]
    return pd.concat(parts).sort_values("start")


@dataclass(slots=True)
class Timed:
    """Wall and CPU seconds of each fresh interpreter, with its kernel, and what the last one printed."""

    wall_s: list[float] = field(default_factory=list)
    cpu_s: list[float] = field(default_factory=list)
    text: str = ""

    def run(self, code: str, *arguments: Path) -> None:
        """Once more; modules are compiled, as they are where perfkit is installed."""
        environment = {**os.environ, "PYTHONPYCACHEPREFIX": str(arguments[-1].parent / "compiled")}
        environment.pop("PYTHONDONTWRITEBYTECODE", None)
        command = [sys.executable, "-c", code, *map(str, arguments)]
        begin, before = time.perf_counter(), resource.getrusage(resource.RUSAGE_CHILDREN)
        done = subprocess.run(
            command, check=True, text=True, stdout=subprocess.PIPE, stderr=subprocess.DEVNULL, env=environment
        )
        after = resource.getrusage(resource.RUSAGE_CHILDREN)
        self.wall_s.append(time.perf_counter() - begin)
        self.cpu_s.append(after.ru_utime + after.ru_stime - before.ru_utime - before.ru_stime)
        self.text = done.stdout.strip()

    def forget(self) -> None:
        """What was measured while modules were compiled."""
        self.wall_s.clear()
        self.cpu_s.clear()


def first_paint(html: Path, rounds: int) -> list[float]:
    """Milliseconds until Chromium has painted the verdict, which stands first in the page; none without Chromium."""
    chromium = shutil.which("chromium")
    if chromium is None:
        return []
    from playwright.sync_api import sync_playwright

    painted = """new Promise(done => new PerformanceObserver(list => list.getEntries().forEach(entry => {
      if (entry.name === "first-contentful-paint") done(entry.startTime);
    })).observe({type: "paint", buffered: true}))"""
    with sync_playwright() as playwright:
        browser = playwright.chromium.launch(executable_path=chromium, args=["--no-sandbox"])
        found = []
        for _ in range(rounds):
            page = browser.new_context(offline=True).new_page()
            page.goto(html.as_uri(), wait_until="commit")
            found.append(float(page.evaluate(painted)))
            page.context.close()
        browser.close()
    return found


def main(rounds: int) -> None:
    rng = np.random.default_rng(1)
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        for number in range(8):
            side, slower = ("baseline", 1.0) if number < 5 else ("candidate", 1.2)
            run = run_from_requests(made_up_run(rng, 1.76e9 + 60 * number, slower), scenario="bench")
            RunStore(folder / side).add(run)
        metadata = {"kernelspec": {"name": "python3", "display_name": "Python 3", "language": "python"}}
        cells = [nbformat.v4.new_code_cell("None")]
        nbformat.write(nbformat.v4.new_notebook(cells=cells, metadata=metadata), folder / "empty.ipynb")
        empty = folder / "empty.ipynb", folder / "out.ipynb", folder / "out.html"
        floor, light, report = Timed(), Timed(), Timed()
        for number in range(rounds + 1):
            floor.run(FLOOR, *empty)
            light.run(LIGHT_FLOOR, *empty)
            report.run(REPORT, folder / "baseline", folder / "candidate", folder / "reports")
            if number == 0:
                for each in (floor, light, report):
                    each.forget()
        print("| what | wall s | report / it | CPU s | report / it |\n|---|--:|--:|--:|--:|")
        titles = ("empty notebook", "the same without the parser of IRIs", "compare report")
        for title, timed in zip(titles, (floor, light, report), strict=True):
            seconds = statistics.median(timed.wall_s), statistics.median(timed.cpu_s)
            ratios = statistics.median(report.wall_s) / seconds[0], statistics.median(report.cpu_s) / seconds[1]
            print(f"| {title} | {seconds[0]:.2f} | {ratios[0]:.2f} | {seconds[1]:.2f} | {ratios[1]:.2f} |")
        show_page(Path(report.text), rounds)


def show_page(html: Path, rounds: int) -> None:
    print(f"report.html {html.stat().st_size:,} bytes")
    if painted := first_paint(html, rounds):
        each = ", ".join(f"{ms:.0f}" for ms in painted)
        print(f"first paint {statistics.median(painted):.0f} ms  (all: {each})")


def large(rounds: int) -> None:
    """Two runs of 1,000,000 requests to 50 services, stored, compared and shown."""
    rng = np.random.default_rng(1)
    with tempfile.TemporaryDirectory() as name:
        folder, seconds, count = Path(name), 600.0, 1_000_000
        for side, slower in (("baseline", 1.0), ("candidate", 1.1)):
            service = rng.integers(0, 50, count)
            frame = pd.DataFrame(
                {
                    "start": 1.76e9 + np.sort(rng.uniform(0, seconds, count)),
                    "service": pd.Categorical.from_codes(service, [f"GET /service/{code}" for code in range(50)]),
                    "response_time_ms": (20.0 + 5.0 * service) * slower * rng.lognormal(0, 0.35, count),
                    "failed": rng.random(count) < 0.003,
                }
            )
            RunStore(folder / side).add(run_from_requests(frame, scenario="bench"))
        report = Timed()
        report.run(REPORT, folder / "baseline", folder / "candidate", folder / "reports")
        print(f"report of 2 x {count:,} requests to 50 services: {report.wall_s[0]:.1f} s, CPU {report.cpu_s[0]:.1f} s")
        show_page(Path(report.text), rounds)


if __name__ == "__main__":
    words = [word for word in sys.argv[1:] if word != "--large"]
    (large if "--large" in sys.argv else main)(int(words[0]) if words else 5)
