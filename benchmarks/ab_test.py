"""Interleaved pairs under a noisy neighbour: how often is +5 % on one service found, and how often is nothing called?

Two sets of demo services run side by side, the candidate's api_gateway slower by the given percent, while another
process uses the processor in bursts.  Each trial runs pairs until the verdict is settled.

    python benchmarks/ab_test.py --trials 10 --slower 5
"""

import argparse
import os
import random
import signal
import subprocess
import sys
import tempfile
import time
from collections import Counter
from dataclasses import replace

from perfkit.config.policy import Policy
from perfkit.config.settings import BUILT_IN
from perfkit.loadgen.ab_test import MOST_PAIRS, ABPlan, ABTest
from perfkit.loadgen.demo_services import Change, start_services
from perfkit.loadgen.run import with_demo_addresses
from perfkit.model.records import Verdict

NEIGHBOUR = """
import random, time
rng = random.Random(7)
while True:
    until = time.monotonic() + rng.uniform(0.05, 1.5)
    while time.monotonic() < until:
        sum(range(1000))
    time.sleep(rng.uniform(0.2, 3.0))
"""
POLICY = Policy(tolerance={"avg_latency_ms": 3.0, "p50_latency_ms": 3.0}, gating=("avg_latency_ms",))


def trial(slower, pairs, seconds, users, seed):
    weights = {"PERFKIT_DEMO_WEIGHTS": "api_gateway=6,rag_service=1,mcp_server=1"}
    load = {"users": users, "spawn_rate": float(users), "duration_s": float(seconds)}
    scenario = replace(BUILT_IN["baseline"], name="pairs", environment=weights, **load)
    changes = {"api_gateway": Change(slower_pct=slower)}
    with (
        tempfile.TemporaryDirectory() as store,
        start_services(seed=2 * seed) as before,
        start_services(changes, seed=2 * seed + 1) as after,
    ):
        targets = {
            "baseline": with_demo_addresses(scenario, before.addresses),
            "candidate": with_demo_addresses(scenario, after.addresses),
        }
        plan = ABPlan(pairs, until_settled=True)
        return ABTest(targets, store, POLICY, plan, lambda _: None).decide()


def main():
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--trials", type=int, default=10)
    parser.add_argument("--slower", type=float, default=5.0)
    parser.add_argument("--pairs", type=int, default=MOST_PAIRS)
    parser.add_argument("--seconds", type=int, default=8)
    parser.add_argument("--users", type=int, default=60)
    given = parser.parse_args()
    found, others, begun = 0, Counter(), time.monotonic()
    neighbour = subprocess.Popen([sys.executable, "-c", NEIGHBOUR])
    try:
        for number in range(given.trials):
            seed = random.SystemRandom().randrange(10**6)
            outcome = trial(given.slower, given.pairs, given.seconds, given.users, seed)
            called = {f.service for f in outcome.comparison.by_verdict(Verdict.REGRESSION)}
            found += "api_gateway" in called
            others.update(called - {"api_gateway"})
            change = next(
                f.change_pct
                for f in outcome.comparison.findings
                if (f.service, f.metric) == ("api_gateway", "avg_latency_ms")
            )
            print(
                f"{number + 1}: {outcome.comparison.verdict.value}, {sorted(called) or 'nothing'} called, api_gateway "
                f"{change:+.1f} %, {outcome.why}",
                flush=True,
            )
    finally:
        os.kill(neighbour.pid, signal.SIGKILL)
        neighbour.wait()
    minutes = (time.monotonic() - begun) / 60
    print(f"api_gateway called in {found} of {given.trials}; others: {dict(others) or 'none'}; {minutes:.0f} min")


if __name__ == "__main__":
    main()
