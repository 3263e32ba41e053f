"""Files that a gate must refuse, made from good runs: cut off, garbage, empty, invalid."""

from __future__ import annotations

import shutil
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path

from perfkit.codec import read_json
from perfkit.document import dump_json
from perfkit.readers.run_folder import DOCUMENT, STARTED
from perfkit.store.sealed import resealed
from perfkit.whole_file import write_whole

GARBAGE = bytes(range(256)) * 8
MISSPELT = '[policy]\ntolerence = { "p95_latency_ms" = 10 }\n'


@dataclass(frozen=True, slots=True)
class Unfit:
    """A comparison that must be refused: its two sides, and further words of the command."""

    name: str
    baseline: tuple[Path, ...]
    candidate: tuple[Path, ...]
    more: tuple[str, ...] = ()


def unfit_inputs(good: tuple[Path, ...], folder: Path) -> Iterator[Unfit]:
    """Every case, made in ``folder`` from the folders of good runs."""
    for name, spoil in _SPOILT.items():
        place = folder / name.replace(" ", "-").replace(".", "-")
        shutil.copytree(good[-1], place)
        spoil(place)
        yield Unfit(name, good, (place,))
        if spoil is _cut_off:
            yield Unfit(f"{name} in the baseline", (*good[1:], place), good[:1])
    (folder / "empty").mkdir()
    yield Unfit("empty folder", good, (folder / "empty",))
    yield Unfit("nothing there", good, (folder / "no-such-run",))
    (folder / "results_stats.csv").write_bytes(GARBAGE)
    yield Unfit("garbage for results", good, (folder / "results_stats.csv",))
    (folder / "policy.toml").write_text(MISSPELT, encoding="utf-8")
    yield Unfit("misspelt policy", good[:1], good[1:], ("--policy", str((folder / "policy.toml").absolute())))


def _cut_off(place: Path) -> None:
    content = (place / DOCUMENT).read_bytes()
    (place / DOCUMENT).write_bytes(content[: len(content) // 2])


def _garble(place: Path) -> None:
    (place / DOCUMENT).write_bytes(GARBAGE)


def _kill(place: Path) -> None:
    """As a run that was killed leaves its folder."""
    (place / DOCUMENT).rename(place / STARTED)


def _invalidate(place: Path) -> None:
    """As a run is kept whose generator was saturated."""
    document = read_json(place / DOCUMENT)
    check = {"name": "generator_cpu", "value": 100.0, "limit": 90.0, "severity": "invalid", "advice": "saturated"}
    document["validity"] = {"ok": False, "checks": [check]}
    write_whole(place / DOCUMENT, dump_json(resealed(document)))


def _forge(place: Path) -> None:
    """As a run is found whose numbers somebody made better."""
    document = read_json(place / DOCUMENT)
    stats = next(iter(document["services"].values()))
    write_whole(place / DOCUMENT, dump_json({**document, "services": {"forged": stats, **document["services"]}}))


_SPOILT: dict[str, Callable[[Path], None]] = {
    "run.json cut off": _cut_off,
    "garbage for run.json": _garble,
    "killed run": _kill,
    "invalid run": _invalidate,
    "run.json changed afterwards": _forge,
}
