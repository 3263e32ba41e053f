"""A run that the store it was meant for does not take is kept on this machine, where a copy finds it."""

from __future__ import annotations

import shlex
from pathlib import Path

from perfkit.errors import StoreError
from perfkit.model import Run
from perfkit.store import RunStore

UNSENT = Path("data/unsent")


def send(run: Run, folder: Path, store: RunStore) -> Run:
    """Put a run, recorded in a folder that is about to go, into a store elsewhere; returns it as it is there.

    Raises
    ------
    StoreError
        The store did not take it.  What was measured is in the store `UNSENT` then, which the error names.
    """
    try:
        return _put(run, folder, store)
    except StoreError as error:
        try:
            _put(run, folder, RunStore(UNSENT))
        except StoreError as another:
            raise StoreError(f"{error}; nor could it be kept here: {another}") from error
        how = shlex.join(["perfkit", "store", "sync", str(UNSENT), store.url])
        raise StoreError(f"{error}; the run is kept in {UNSENT}, `{how}` sends it") from error


def _put(run: Run, folder: Path, store: RunStore) -> Run:
    run_id = store.add(run)
    store.add_files(run_id, folder / "source")
    return store.get(run_id)
