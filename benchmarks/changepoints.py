"""Change points and the watch beside their peers: how often they are right, and how long they take.

Histories are simulated like those of performance tests: 30 to 500 runs, six kinds of noise (tests/noise.py), 0 to 3
steps of 1.5 to 4 standard deviations at least eight runs apart; F1 counts a change found within 5 runs.  Peers have
environments of their own, because they pin an old NumPy:

    python -m venv otava && otava/bin/pip install apache-otava
    python -m venv mongo && mongo/bin/pip install signal-processing-algorithms "numpy<1.27"       # Python 3.10
    python benchmarks/changepoints.py --otava otava/bin/python --mongo mongo/bin/python [--tcpd FOLDER]

``--tcpd`` names a folder with ``annotations.json`` and ``NAME.json`` ({"name", "values"}) of the Turing Change Point
Dataset, which is scored as its authors do (F1 with margin 5, cover; van den Burg & Williams 2020, arXiv:2003.06222).
"""

from __future__ import annotations

import argparse
import json
import subprocess
import sys
import time
from collections.abc import Callable, Sequence
from itertools import pairwise
from pathlib import Path

import numpy as np

sys.path.insert(0, str(Path(__file__).parents[1] / "tests"))
from noise import NOISE, WATCHED
from test_exchangeable import EXCHANGEABLE

from perfkit.stats.changepoints import find_change_points
from perfkit.stats.sequential import watch_history

MARGIN = 5
Detector = Callable[[list[list[float]]], tuple[list[list[int]], float]]
PEER = """
import json, sys, time
series = json.load(sys.stdin)
{prepare}
found, begun = [], time.perf_counter()
for values in series:
    found.append([int(at) for at in {call}])
json.dump([found, time.perf_counter() - begun], sys.stdout)
"""
PEERS = {
    "otava": (
        "from otava.analysis import compute_change_points",
        "(change.index for change in compute_change_points(values)[0])",
    ),
    "mongo": (
        "from signal_processing_algorithms.energy_statistics.energy_statistics import e_divisive",
        "e_divisive(values, pvalue=0.05, permutations=100)",
    ),
}


def perfkit(series: list[list[float]]) -> tuple[list[list[int]], float]:
    """Places in each series, and seconds in all."""
    find_change_points(series[0])  # imports are no part of it
    begun = time.perf_counter()
    found = [[change.index for change in find_change_points(values)] for values in series]
    return found, time.perf_counter() - begun


def peer(name: str, python: str) -> Detector:
    """The same from another library, in its own environment."""
    prepare, call = PEERS[name]

    def detect(series: list[list[float]]) -> tuple[list[list[int]], float]:
        program = PEER.format(prepare=prepare, call=call)
        done = subprocess.run(
            [python, "-c", program], input=json.dumps(series), capture_output=True, text=True, check=True
        )
        found, seconds = json.loads(done.stdout)
        return found, seconds

    return detect


def history(rng: np.random.Generator, kind: str, count: int, steps: Sequence[tuple[int, float]] = ()) -> list[float]:
    noise = NOISE[kind](rng, count)
    for place, size in steps:
        noise[place:] += size
    return (100.0 + 3.0 * noise).tolist()


def changed(rng: np.random.Generator, kind: str) -> tuple[list[float], list[int]]:
    count = int(rng.integers(30, 501))
    most = min(int(rng.integers(0, 4)), count // 20)
    places = sorted(8 + 8 * rng.choice(count // 8 - 2, most, replace=False))
    steps = [(int(at), float(rng.uniform(1.5, 4.0) * rng.choice([-1, 1]))) for at in places]
    return history(rng, kind, count, steps), [at for at, _ in steps]


def f1(found: list[list[int]], truth: list[list[int]]) -> float:
    hits = sum(any(abs(at - place) <= MARGIN for at in f) for f, t in zip(found, truth, strict=True) for place in t)
    return 2 * hits / (sum(map(len, found)) + sum(map(len, truth)))


def simulated(detectors: dict[str, Detector], each: int, seed: int) -> None:
    rng = np.random.default_rng(seed)
    kinds = [kind for kind in NOISE for _ in range(each)]
    pairs = [changed(rng, kind) for kind in kinds]
    clean = [history(rng, kind, int(rng.integers(30, 501))) for kind in kinds]
    print(f"{len(pairs)} histories with changes, {len(clean)} without\n")
    print("| detector | F1 | clean histories with an alarm | by kind (F1 / alarms) | ms per history |")
    print("|---|--:|--:|---|--:|")
    for name, detect in detectors.items():
        found, seconds = detect([values for values, _ in pairs])
        alarms, more = detect(clean)
        rows = []
        for kind in NOISE:
            own = [i for i, k in enumerate(kinds) if k == kind]
            score = f1([found[i] for i in own], [pairs[i][1] for i in own])
            rows.append(f"{kind} {score:.2f} / {100 * np.mean([bool(alarms[i]) for i in own]):.1f} %")
        share = 100 * np.mean([bool(item) for item in alarms])
        per = 1000 * (seconds + more) / (2 * len(pairs))
        print(f"| {name} | {f1(found, [t for _, t in pairs]):.3f} | {share:.1f} % | {', '.join(rows)} | {per:.2f} |")


WAYS = {  # size in standard deviations, runs within which it is to be heard, earliest and latest place, back again
    "+10 % (2 sd) within 20 runs": (2.0, 20, 40, 80, 0),
    "+20 % (4 sd) within 5": (4.0, 5, 40, 80, 0),
    "+50 % (8 sd) early, within 5": (8.0, 5, 20, 35, 0),
    "+30 % (6 sd) gone after 12, within 8": (6.0, 8, 40, 80, 12),
}


def watched(each: int, seed: int) -> None:
    rng = np.random.default_rng(seed)
    level = 0.05 / 20
    print(f"\nwatch, budget 5 % over 20 metrics x 100 runs ({level:.2%} each), {each} histories each\n")
    print(f"| noise | false alarms per metric | x 20 metrics | {' | '.join(WAYS)} |")
    print(f"|---|--:|--:|{'--:|' * len(WAYS)}")
    for kind, noise in WATCHED.items():
        false = np.mean(
            [bool(watch_history(100 * np.exp(0.05 * noise(rng, 100)), alpha=level).alarms) for _ in range(each)]
        )
        heard = [_heard(rng, noise, each // 6, level, *way) for way in WAYS.values()]
        joint = 1 - (1 - false) ** 20
        print(f"| {kind} | {false:.2%} | {joint:.1%} | {' | '.join(f'{share:.0%}' for share in heard)} |", flush=True)


def _heard(rng, noise, count, level, size, within, first, last, back):  # type: ignore[no-untyped-def]
    """Share of changes (or of their ends, ``back`` runs later) that are heard of in time."""
    hits = 0
    for _ in range(count):
        at = int(rng.integers(first, last))
        values = noise(rng, at + back + within)
        values[at:] += size
        if back:
            values[at + back :] -= size
        alarms = watch_history(100 * np.exp(0.05 * values), alpha=level).alarms
        hits += any(alarm.raised_at >= at + back for alarm in alarms)
    return hits / count


def exchangeable(each: int, seed: int) -> None:
    """Histories in which runs only differ in order: how many show a change, and how many raise an alarm."""
    print(f"\nnothing changes, runs in random order, {each} histories of each, alpha 1 %\n")
    print("| runs | a change in 60 / 120 / 300 runs | an alarm in 120 runs |\n|---|--:|--:|")
    for kind, make in EXCHANGEABLE.items():
        rng = np.random.default_rng([seed, len(kind), ord(kind[-1])])
        shown = [np.mean([bool(find_change_points(make(rng, count))) for _ in range(each)]) for count in (60, 120, 300)]
        raised = np.mean([bool(watch_history(make(rng, 120), alpha=0.01).alarms) for _ in range(each)])
        print(f"| {kind} | {' / '.join(f'{share:.1%}' for share in shown)} | {raised:.1%} |", flush=True)


def timed() -> None:
    rng = np.random.default_rng(0)
    find_change_points(rng.normal(size=50))
    print("\n| what | CPU s |\n|---|--:|")
    for count, length in ((1, 100), (1000, 365), (1, 100_000)):
        series = [100 + rng.normal(size=length) for _ in range(count)]
        rounds = 200 if count == 1 and length == 100 else 1
        begun = time.process_time()
        for _ in range(rounds):
            for values in series:
                find_change_points(values)
        print(f"| {count:,} series of {length:,} runs | {(time.process_time() - begun) / rounds:.4f} |")


def tcpd(folder: Path, detectors: dict[str, Detector]) -> None:
    annotations = json.loads((folder / "annotations.json").read_text())
    files = [path for path in sorted(folder.glob("*.json")) if path.stem in annotations]
    names = [path.stem for path in files]
    series = [[np.nan if v is None else v for v in json.loads(path.read_text())["values"]] for path in files]
    print(f"\nTCPD, {len(names)} univariate series, default parameters\n\n| detector | F1 | cover |\n|---|--:|--:|")
    for name, detect in {**detectors, "silence": lambda series: ([[] for _ in series], 0.0)}.items():
        whole = series if name == "perfkit" else [np.nan_to_num(v, nan=float(np.nanmean(v))).tolist() for v in series]
        found, _ = detect(whole)
        scores = [
            (_f1_annotated(list(annotations[n].values()), f), _cover(list(annotations[n].values()), f, len(v)))
            for n, f, v in zip(names, found, series, strict=True)
        ]
        print(f"| {name} | {np.mean([s[0] for s in scores]):.3f} | {np.mean([s[1] for s in scores]):.3f} |")


def _matched(truth: set[int], found: set[int]) -> int:
    left, count = set(found), 0
    for place in sorted(truth):
        near = [at for at in left if abs(at - place) <= MARGIN]
        if near:
            left.discard(min(near, key=lambda at: abs(at - place)))
            count += 1
    return count


def _f1_annotated(annotators: list[list[int]], found: list[int]) -> float:
    marks = [{0, *places} for places in annotators]
    own = {0, *found}
    precision = _matched(set().union(*marks), own) / len(own)
    recall = float(np.mean([_matched(places, own) / len(places) for places in marks]))
    return 2 * precision * recall / (precision + recall)


def _cover(annotators: list[list[int]], found: list[int], count: int) -> float:
    def parts(places: list[int]) -> list[set[int]]:
        edges = [0, *sorted({at for at in places if 0 < at < count}), count]
        return [set(range(a, b)) for a, b in pairwise(edges)]

    own = parts(found)
    each = [sum(len(p) * max(len(p & q) / len(p | q) for q in own) for p in parts(a)) / count for a in annotators]
    return float(np.mean(each))


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    for name in PEERS:
        parser.add_argument(f"--{name}", metavar="PYTHON", help="interpreter that has it")
    parser.add_argument("--tcpd", type=Path)
    parser.add_argument("--each", type=int, default=100, help="histories of each kind of noise")
    parser.add_argument("--seed", type=int, default=1)
    given = parser.parse_args()
    detectors: dict[str, Detector] = {"perfkit": perfkit}
    detectors |= {name: peer(name, getattr(given, name)) for name in PEERS if getattr(given, name)}
    timed()
    print()
    simulated(detectors, given.each, given.seed)
    if given.tcpd:
        tcpd(given.tcpd, detectors)
    watched(10 * given.each, given.seed)
    exchangeable(2 * given.each, given.seed)


if __name__ == "__main__":
    main()
