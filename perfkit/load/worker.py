"""A worker of a master on another machine: it makes load, and sends what it records to its master."""

from __future__ import annotations

import json
import os
import subprocess
import sys

from perfkit.config import Scenario
from perfkit.load.locust import locustfiles
from perfkit.load.locust_settings import without_early
from perfkit.load.masked_output import MaskedOutput
from perfkit.load.preflight import check_locust, check_locustfile


def run_worker(scenario: Scenario, host: str, port: int) -> int:
    """Run Locust as a worker until its master ends it; returns Locust's exit code.

    Users, rate and duration come from the master; the locustfile, and the course of an open model, from here.

    Raises
    ------
    LoadError
        Locust is not there, or the locustfile cannot be used.
    """
    check_locust()
    check_locustfile(scenario.locustfile)
    environment = without_early({**os.environ, **scenario.environment})
    if scenario.profile.is_open:
        environment["PERFKIT_LOAD_PROFILE"] = json.dumps(scenario.profile.to_dict())
    command = [sys.executable, "-P", "-m", "locust", "-f", locustfiles(scenario.locustfile), "--worker"]
    given = ["--exit-code-on-error", "0", "--master-host", host, "--master-port", str(port), *scenario.arguments]
    out, err = MaskedOutput(1), MaskedOutput(2)  # the terminal, or a file that the caller has opened
    process = subprocess.Popen([*command, *given], env=environment, stdout=out.fd, stderr=err.fd)
    try:
        for output in (out, err):
            output.close_here()
        while True:
            try:
                return process.wait()
            except KeyboardInterrupt:
                continue  # the terminal has told the worker too; it says good-bye to its master
    finally:
        for output in (out, err):
            output.finish()
