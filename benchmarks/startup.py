"""What it costs to start: CPU time of ``import perfkit`` and ``perfkit --help`` (target: at most 0.3 s each).

``python benchmarks/startup.py [ROUNDS]`` runs each in turn in a fresh interpreter, beside two floors: an empty
interpreter, and one that imports click, without which no command line of this kind starts.
"""

from __future__ import annotations

import resource
import statistics
import subprocess
import sys

STARTS = {
    "python -c pass": ["-c", "pass"],
    "python -c 'import click'": ["-c", "import click"],
    "python -c 'import perfkit'": ["-c", "import perfkit"],
    "perfkit --help": ["-m", "perfkit", "--help"],
}


def cpu_s(arguments: list[str]) -> float:
    """User and system seconds of one interpreter."""
    before = resource.getrusage(resource.RUSAGE_CHILDREN)
    subprocess.run([sys.executable, *arguments], check=True, stdout=subprocess.DEVNULL)
    after = resource.getrusage(resource.RUSAGE_CHILDREN)
    return after.ru_utime - before.ru_utime + after.ru_stime - before.ru_stime


def main(rounds: int) -> None:
    seen: dict[str, list[float]] = {title: [] for title in STARTS}
    for _ in range(rounds):
        for title, arguments in STARTS.items():
            seen[title].append(cpu_s(arguments))
    print("| start | CPU s, median | slowest |\n|---|---|---|")
    for title, values in seen.items():
        print(f"| `{title}` | {statistics.median(values):.3f} | {max(values):.3f} |")


if __name__ == "__main__":
    main(int(sys.argv[1]) if len(sys.argv) > 1 else 15)
