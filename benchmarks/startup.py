"""What it costs to start: CPU time of ``perfkit --help`` (target: 0.3 s) and of a comparison of stored runs (0.7 s).

``python benchmarks/startup.py [ROUNDS]`` runs each in turn in a fresh interpreter, beside the floors: an empty
interpreter, one that imports click, without which no command line of this kind starts, and one that also imports what
draws tables and what knows distributions.  Eight stored runs of three services are compared, some of whose requests
failed: as they are stored today, and as older versions did, which kept no kinds of errors in ``run.json``.

Modules are compiled in a round that does not count, as they are where perfkit is installed: without compiled files each
start takes twice as long (uv leaves them out unless told ``--compile-bytecode``).
"""

from __future__ import annotations

import os
import resource
import shutil
import statistics
import subprocess
import sys
import tempfile
from pathlib import Path

from perfkit.model.codec import dump_json, parse_json
from perfkit.runs.run_folder import resealed

STARTS = {
    "python -c pass": ["-c", "pass"],
    "python -c 'import click'": ["-c", "import click"],
    "python -c 'import click, rich.table, scipy.special'": [
        "-c",
        "import click, rich.console, rich.table, scipy.special",
    ],
    "python -c 'import perfkit'": ["-c", "import perfkit"],
    "perfkit --help": ["-m", "perfkit", "--help"],
}
SIMULATED = ["simulate", "api", "--seed", "1", "--runs", "8", "--duration", "60s", "--variation", "1"]


def cpu_s(arguments: list[str], environment: dict[str, str]) -> float:
    """User and system seconds of one interpreter."""
    before = resource.getrusage(resource.RUSAGE_CHILDREN)
    subprocess.run([sys.executable, *arguments], check=True, stdout=subprocess.DEVNULL, env=environment)
    after = resource.getrusage(resource.RUSAGE_CHILDREN)
    return after.ru_utime - before.ru_utime + after.ru_stime - before.ru_stime


def comparisons(folder: Path) -> dict[str, list[str]]:
    """Five runs against three of a store, and of one whose documents are of an older version."""
    today, older = folder / "today", folder / "older"
    words = [sys.executable, "-m", "perfkit", *SIMULATED, "--store", str(today)]
    subprocess.run(words, check=True, stdout=subprocess.DEVNULL)
    shutil.copytree(today, older)
    for path in older.glob("*/run.json"):
        document = parse_json(path.read_bytes(), str(path))
        for stats in document["services"].values():
            stats.pop("error_times", None)
            stats.pop("errors", None)
        path.write_text(dump_json(resealed(document)))
    ids = sorted(path.parent.name for path in today.glob("*/run.json"))
    sides = [*ids[:5], *(word for run_id in ids[5:] for word in ("--candidate", run_id))]
    compare = ["-m", "perfkit", "compare", *sides, "--fail-on", "never", "--store"]
    return {
        "perfkit compare, 5 + 3 stored runs": [*compare, str(today)],
        "perfkit compare, the same of an older version": [*compare, str(older)],
    }


def main(rounds: int) -> None:
    with tempfile.TemporaryDirectory(prefix="perfkit-bench-") as name:
        starts = {**STARTS, **comparisons(Path(name))}
        environment = {**os.environ, "PYTHONPYCACHEPREFIX": str(Path(name) / "compiled")}
        environment.pop("PYTHONDONTWRITEBYTECODE", None)
        seen: dict[str, list[float]] = {title: [] for title in starts}
        for number in range(rounds + 1):
            for title, arguments in starts.items():
                seconds = cpu_s(arguments, environment)
                if number:
                    seen[title].append(seconds)
    print("| start | CPU s, median | slowest |\n|---|---|---|")
    for title, values in seen.items():
        print(f"| `{title}` | {statistics.median(values):.3f} | {max(values):.3f} |")


if __name__ == "__main__":
    main(int(sys.argv[1]) if len(sys.argv) > 1 else 15)
