"""How long a compare report takes, beside an empty notebook through papermill and nbconvert (the floor).

``python benchmarks/report_time.py [ROUNDS]`` runs both in turn, each in an interpreter of its own, and prints the
median wall time of each and their ratio (target: at most 1.5), the size of the report, and in Chromium its first paint.
"""

from __future__ import annotations

import shutil
import statistics
import subprocess
import sys
import tempfile
import time
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


def timed(code: str, *arguments: Path) -> tuple[float, str]:
    """Wall seconds of a fresh interpreter, and what it printed."""
    begin = time.perf_counter()
    command = [sys.executable, "-c", code, *map(str, arguments)]
    done = subprocess.run(command, check=True, text=True, stdout=subprocess.PIPE, stderr=subprocess.DEVNULL)
    return time.perf_counter() - begin, done.stdout.strip()


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
        floor, report, html = [], [], ""
        for _ in range(rounds):
            floor.append(timed(FLOOR, folder / "empty.ipynb", folder / "out.ipynb", folder / "out.html")[0])
            seconds, html = timed(REPORT, folder / "baseline", folder / "candidate", folder / "reports")
            report.append(seconds)
        below, above = statistics.median(floor), statistics.median(report)
        print(f"empty notebook  {below:6.2f} s   (all: {', '.join(f'{value:.2f}' for value in floor)})")
        print(f"compare report  {above:6.2f} s   (all: {', '.join(f'{value:.2f}' for value in report)})")
        print(f"ratio           {above / below:6.2f}     report.html {Path(html).stat().st_size:,} bytes")
        if painted := first_paint(Path(html), rounds):
            each = ", ".join(f"{ms:.0f}" for ms in painted)
            print(f"first paint     {statistics.median(painted):6.0f} ms  (all: {each})")


if __name__ == "__main__":
    main(int(sys.argv[1]) if len(sys.argv) > 1 else 5)
