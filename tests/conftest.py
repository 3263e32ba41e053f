"""Fixtures for every test.  Real files that others wrote live outside the repository; tests that read them may skip."""

import gc
import os
import signal
import sys

# The matrices here are small: where BLAS has two threads for them, each waits for the other and burns a core meanwhile,
# beside other workers above all.  Before NumPy is imported; workers and processes that tests start inherit it.
os.environ.setdefault("OPENBLAS_NUM_THREADS", "1")

import numpy as np
import pytest
from browser import CHROMIUM
from hypothesis import HealthCheck, settings
from object_store import make_bucket, object_store
from samples import REPOSITORY

from perfkit.model.installation import skip_unused_imports

skip_unused_imports()  # before the tests are collected: a second of each worker

settings.register_profile("perfkit", deadline=None, derandomize=True, suppress_health_check=[HealthCheck.too_slow])
settings.load_profile("perfkit")

if signal.getsignal(signal.SIGINT) is signal.SIG_IGN:
    # Under nohup, and in the background of a script, SIGINT is ignored, and so it would be by every process that a test
    # starts and then interrupts: the test would wait for ever.  Processes that are started inherit the default again.
    signal.signal(signal.SIGINT, signal.default_int_handler)

# The tests start some hundred processes.  Where bytecode is not to be kept, each of them would compile Locust, pandas
# and SciPy again, which takes longer than what most of them do.
os.environ.pop("PYTHONDONTWRITEBYTECODE", None)
sys.dont_write_bytecode = False


def _fsync(file):
    """No power fails under a test: histories of many runs need not wait for the disk.  Processes of tests do."""
    os.fstat(file if isinstance(file, int) else file.fileno())


os.fsync = _fsync

DATA = REPOSITORY.parent / "shared" / "data"


SLOW_TIMEOUT_S = 1800  # of a test that is marked slow; the others have that of pyproject.toml


def pytest_collection_modifyitems(items):
    """Slow tests have a longer limit, unless they name their own.

    Tests that share something costly of their file are one group, which one worker runs (``--dist loadgroup``): else
    each worker would make it.
    """
    for item in items:
        if any(fixtures[-1].scope == "module" for fixtures in item._fixtureinfo.name2fixturedefs.values()):
            item.add_marker(pytest.mark.xdist_group(item.path.stem))
        if item.get_closest_marker("slow") and not item.get_closest_marker("timeout"):
            item.add_marker(pytest.mark.timeout(SLOW_TIMEOUT_S))


def pytest_collection_finish():
    """What is imported stays: full collections (statsmodels does one at each call) need not walk through it."""
    gc.collect()
    gc.freeze()


@pytest.fixture
def rng():
    """A generator with a fixed seed: a calibration must give the same answer every time."""
    return np.random.default_rng(20251017)


@pytest.fixture(scope="session")
def real_data():
    """The folder of real files beside the repository (see its README); they carry no licence to be kept in here."""
    if not DATA.is_dir():
        pytest.skip(f"{DATA} is not there: the real files of other projects are not part of this repository")
    return DATA


@pytest.fixture(scope="module")
def s3():
    """An object store with a bucket ``team``."""
    with object_store() as variables, pytest.MonkeyPatch.context() as patch:
        for name, value in variables.items():
            patch.setenv(name, value)
        make_bucket("team")
        yield "s3://team"


@pytest.fixture(scope="module")
def browser():
    """A real headless browser; not for the whole session, because its event loop runs in the thread of the tests."""
    sync_api = pytest.importorskip("playwright.sync_api")
    with sync_api.sync_playwright() as playwright:
        started = playwright.chromium.launch(executable_path=str(CHROMIUM), args=["--no-sandbox"])
        yield started
        started.close()
