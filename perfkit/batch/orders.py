"""Which notebooks a scenario is worth: an order for each."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

from perfkit.document import slug
from perfkit.errors import NotStored, SettingsError, did_you_mean
from perfkit.render.notebook import KINDS
from perfkit.store import RunStore

_VARIED_LOAD = ("ramp", "stages")  # load profiles that tell how much a service takes


@dataclass(frozen=True, slots=True)
class Order:
    """One notebook of one scenario; plain values, for it goes to another process.

    Parameters
    ----------
    folder
        Where its report goes: the scenario's folder, which no other scenario shares.
    policy
        File of the policy; ``None``: that of the settings nearest to the current folder.
    newest
        So many of the newest runs are judged.
    """

    scenario: str
    kind: str
    store: str
    folder: str
    policy: str | None
    acknowledged: str
    baselines: str
    newest: int = 1


@dataclass(frozen=True, slots=True)
class Wish:
    """What was asked for: everything, unless scenarios or kinds are named."""

    scenarios: tuple[str, ...] = ()
    kinds: tuple[str, ...] = ()
    newest: int = 1


def orders_of(
    store: str, folder: Path, wish: Wish, *, policy: str | None, acknowledged: Path, baselines: Path
) -> tuple[Order, ...]:
    """Orders for every scenario of a store, by name: ``compare`` first, then ``trend``, ``baseline``, ``capacity``.

    What cannot be made of a scenario's runs is not ordered: a baseline without a valid run, a capacity without a ramp.

    Raises
    ------
    NotStored
        The store has no run, or none of a scenario that was named.
    """
    known = RunStore(store)
    every = known.runs()
    every = every[~(every["quarantined"] | every["ab_test"]).astype(bool)]
    names = sorted(set(every["scenario"]))
    if not names:
        raise NotStored(f"{store}: has no run to report on; keep one with perfkit run or perfkit import")
    for name in wish.scenarios:
        if name not in names:
            raise NotStored(f"{store}: no runs of the scenario {name!r}{did_you_mean(name, names)}")
    chosen = [name for name in names if not wish.scenarios or name in wish.scenarios]
    place = store if "://" in store else str(Path(store).resolve())
    found = []
    for name, own in zip(chosen, _folders(folder, chosen), strict=True):
        runs = every[every["scenario"] == name]
        for kind in _worth(known, runs["id"].tolist(), runs["valid"].tolist()):
            if kind in (wish.kinds or KINDS):
                where = str(acknowledged.resolve()), str(baselines.resolve())
                found.append(Order(name, kind, place, str(own), policy, *where, wish.newest))
    if not found:
        raise SettingsError(f"{store}: its runs are worth none of these reports: {', '.join(wish.kinds)}")
    return tuple(found)


def _worth(store: RunStore, ids: Sequence[str], valid: Sequence[bool]) -> Iterator[str]:
    yield "compare"
    yield "trend"
    if any(valid):
        yield "baseline"
        newest = store.get([run_id for run_id, ok in zip(ids, valid, strict=True) if ok][-1])
        if newest.profile.kind in _VARIED_LOAD and newest.load_requests is not None:
            yield "capacity"


def _folders(folder: Path, names: Iterable[str]) -> Iterator[Path]:
    """One for each name, also where two names look alike as files do."""
    taken: set[str] = set()
    for name in names:
        stem = slug(name)
        own = next(text for n in range(1, len(taken) + 2) if (text := stem if n == 1 else f"{stem}-{n}") not in taken)
        taken.add(own.lower())  # some disks know no capitals
        yield folder / own
