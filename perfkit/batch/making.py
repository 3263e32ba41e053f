"""One order carried out: the notebook of a scenario, and what its result says."""

from __future__ import annotations

import os
from collections.abc import Callable, Mapping
from dataclasses import replace
from datetime import UTC, datetime
from pathlib import Path

from perfkit import workflow
from perfkit.batch.orders import Order
from perfkit.document import dump_json
from perfkit.errors import NotComparable, PerfkitError
from perfkit.history.acknowledged import AcknowledgedFile
from perfkit.history.against import judge_history
from perfkit.history.selection import Past
from perfkit.model import Run
from perfkit.overview import Entry, Outcome
from perfkit.render.claims import account_of
from perfkit.render.notebook import Report, run_report
from perfkit.results import read_result
from perfkit.store import RunStore
from perfkit.store.place import public_address
from perfkit.validity.clock import in_future
from perfkit.whole_file import write_whole

SHOWN = 10  # runs in a picture of what is normal: the newest of the present level
JUDGING = ("compare", "trend")
JUDGED = "judged.json"


def make(order: Order) -> Entry:
    """Make a report and say what is in it, or why there is none; paths are relative to the folder above the order's."""
    entry = Entry(order.scenario, order.kind)
    try:
        report = _MAKERS[order.kind](order)
    except NotComparable as error:
        return replace(entry, outcome=Outcome.INCOMPARABLE, sentences=(str(error),))
    except PerfkitError as error:
        return replace(entry, outcome=Outcome.FAILED, sentences=(str(error),), notebook=_kept(order))
    entry = replace(entry, report=_relative(report.html, order), result=_relative(report.result, order))
    if order.kind not in JUDGING:
        return entry
    account = account_of(read_result(report.result))
    verdict = account.result.verdict if account.result is not None else None
    return replace(entry, verdict=verdict, sentences=tuple(claim.text for claim in account.claims))


def _compare(order: Order) -> Report:
    """The newest runs against the history before them, as ``perfkit compare --candidate`` judges them."""
    store = RunStore(order.store)
    frame = store.runs(scenario=order.scenario, ab_test=False)
    frame = frame[~frame["quarantined"].astype(bool)]
    late = in_future([None if at != at else at for at in frame["started_at"]], datetime.now(UTC))
    ids = frame["id"][[not flag for flag in late]]
    candidates = tuple(store.get(run_id) for run_id in ids.tail(order.newest))
    past = Past(store, Path(order.baselines), candidates=candidates)
    known = AcknowledgedFile(Path(order.acknowledged)).read()
    comparison = judge_history(candidates, past, workflow.policy_from(order.policy), known=known).comparison
    judged = Path(order.folder) / JUDGED
    write_whole(judged, dump_json(comparison.to_dict()))
    parameters = {
        "baseline": places(comparison.baseline.runs),
        "candidate": places(comparison.candidate.runs),
        "judged": str(judged.absolute()),
    }
    return _run("compare", parameters, order)


def _trend(order: Order) -> Report:
    parameters = {"store": public_address(order.store), "scenario": order.scenario, "acknowledged": order.acknowledged}
    return _run("trend", {**parameters, "baselines": order.baselines, "policy": order.policy}, order)


def _baseline(order: Order) -> Report:
    runs, notes = workflow.choose_runs(
        [f"{order.scenario}@rolling"], store=order.store, baselines=Path(order.baselines), alpha=_alpha(order)
    )
    parameters = {"runs": places(runs[-SHOWN:]), "policy": order.policy, "notes": "\n".join(notes) or None}
    return _run("baseline", parameters, order)


def _alpha(order: Order) -> float:
    return workflow.policy_from(order.policy).alpha


def _capacity(order: Order) -> Report:
    runs, _ = workflow.choose_runs(
        [f"{order.scenario}@rolling"], store=order.store, baselines=Path(order.baselines), alpha=_alpha(order)
    )
    return _run("capacity", {"runs": places(runs[-SHOWN:]), "policy": order.policy}, order)


_MAKERS: Mapping[str, Callable[[Order], Report]] = {
    "compare": _compare,
    "trend": _trend,
    "baseline": _baseline,
    "capacity": _capacity,
}


def places(runs: tuple[Run, ...]) -> str:
    """Absolute places of runs, one a line: a notebook may run in a folder of its own."""
    sources = [run.source or run.id for run in runs]
    return "\n".join(source if "://" in source else str(Path(source).resolve()) for source in sources)


def _run(kind: str, parameters: Mapping[str, object], order: Order) -> Report:
    given = {name: value for name, value in parameters.items() if value is not None}
    return run_report(kind, {**given, "title": order.scenario}, reports_dir=Path(order.folder))


def _kept(order: Order) -> str:
    """The executed notebook of a failure, where it came that far."""
    found = sorted(Path(order.folder).glob(f"*-{order.kind}*/executed.ipynb"))
    return _relative(found[-1], order) if found else ""


def _relative(path: Path, order: Order) -> str:
    return Path(os.path.relpath(path, Path(order.folder).parent)).as_posix()
