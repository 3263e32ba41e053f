"""What the gate must answer, and whether it did: one `Trial` for each question."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from typing import Any

from perfkit.model import LATENCY_METRICS, Metric, Run, Verdict
from perfkit.selftest.gate import Answer

OBJECT = 1  # exit code of a gate that objects
UNREADABLE, UNFIT = 2, 3
CHANCE = 2.0  # times the change that was seen: no fresh runs show one beyond that
_AGAIN = "keep the runs with --keep FOLDER, and compare those that are in there"


@dataclass(frozen=True, slots=True)
class Trial:
    """One question to the gate.

    Parameters
    ----------
    advice
        What it means that the answer was another, and what to do; empty where it was as expected.
    by_chance
        Whether fresh runs may get another answer.
    """

    name: str
    expected: str
    got: str
    ok: bool
    seconds: float
    advice: str = ""
    by_chance: bool = False

    def to_dict(self) -> dict[str, Any]:
        """Plain JSON values."""
        return {**asdict(self), "seconds": round(self.seconds, 3)}


def load_trial(runs: Sequence[Run], seconds: float) -> Trial:
    """Whether the runs made here may be judged at all."""
    unfit = [run for run in runs if not run.validity.ok]
    if not unfit:
        return Trial("load", "valid runs", f"{len(runs)} valid runs", True, seconds)
    worst = unfit[0].validity.problems[0]
    advice = f"This machine could not make the load of the self-test, so it cannot tell: {worst.advice}"
    got = f"{len(unfit)} of {len(runs)} invalid ({worst.name})"
    return Trial("load", "valid runs", got, False, seconds, advice, by_chance=True)


def slowdown_trial(answer: Answer, slower_pct: float, fail_on: str) -> Trial:
    """A service that takes so much longer must end with exit code 1, for a reason that is relative to the baseline."""
    ok = answer.code == OBJECT and bool(_called(answer))
    advice = "" if ok else _why_not_red(answer, slower_pct, fail_on)
    name, chance = f"slower by {slower_pct:g} %", not ok and _may_yet_be_red(answer, fail_on)
    return Trial(name, "exit 1, regression", _got(answer), ok, answer.seconds, advice, chance)


def identical_trial(answer: Answer, fail_on: str) -> Trial:
    """Identical builds must not be called a regression.

    Absolute limits of a policy are about its user's services: that the demo service breaks one says nothing.  Under
    ``--fail-on inconclusive`` so few short runs may end with exit code 1 for want of evidence.
    """
    objects = _called(answer)
    excused = answer.verdict == Verdict.REGRESSION or fail_on == "inconclusive"
    ok = bool(answer.verdict) and not objects and (answer.code == 0 or (answer.code == OBJECT and excused))
    advice = "" if ok else _why_red(answer, objects)
    expected = "no regression" if fail_on == "inconclusive" else "exit 0, no regression"
    return Trial("identical builds", expected, _got(answer), ok, answer.seconds, advice, not ok)


def unfit_trial(name: str, answer: Answer) -> Trial:
    """What cannot be read or judged must end with exit code 2 or 3."""
    ok = answer.code in (UNREADABLE, UNFIT)
    advice = ""
    if not ok:
        advice = (
            f"The gate did not refuse what it cannot judge: {_last_line(answer) or 'it said nothing'}. A pipeline that "
            "reads such a file would take silence for health. Is this perfkit installed whole? Reinstall it; if that "
            "does not help, report it."
        )
    return Trial(name, "exit 2 or 3", _got(answer), ok, answer.seconds, advice)


def believed(first: Trial, second: Trial) -> Trial:
    """The second look at a trial that failed at first; one that was as expected at first stays so."""
    if first.ok:
        return first
    return Trial(
        first.name,
        first.expected,
        f"{second.got} (at first {first.got})",
        second.ok,
        first.seconds + second.seconds,
        second.advice,
    )


def _may_yet_be_red(answer: Answer, fail_on: str) -> bool:
    if answer.code not in (0, OBJECT) or not answer.verdict:
        return True
    if fail_on == "never" and answer.verdict == Verdict.REGRESSION:
        return False
    relative = [f for f in answer.findings if not f.get("objective") and f.get("tolerance") is not None]
    worsenings = ((f.get("change_pct") or 0.0) * Metric(f["metric"]).worse for f in relative)
    return any(f["tolerance"] < CHANCE * worsening for f, worsening in zip(relative, worsenings, strict=True))


def _is_relative_latency(finding: Mapping[str, Any]) -> bool:
    return finding.get("metric") in LATENCY_METRICS and not finding.get("objective")


def _called(answer: Answer) -> list[dict[str, Any]]:
    """Findings that object because of a change, not because of an absolute limit."""
    return [f for f in answer.findings if f.get("verdict") == Verdict.REGRESSION and not f.get("objective")]


def _got(answer: Answer) -> str:
    if answer.code is None:
        return "no end"
    return f"exit {answer.code}{', ' + answer.verdict.replace('_', ' ') if answer.verdict else ''}"


def _why_not_red(answer: Answer, slower_pct: float, fail_on: str) -> str:
    if answer.code not in (0, OBJECT):
        return _why_not_judged(answer)
    lets = "THE GATE LETS SLOWDOWNS THROUGH: "
    if answer.verdict == Verdict.REGRESSION and fail_on == "never":
        return f"{lets}it saw the regression, but --fail-on never ends with 0 whatever is seen; leave it out."
    latencies = [finding for finding in answer.findings if _is_relative_latency(finding)]
    if not latencies:
        return f"{lets}its policy judges no change of a latency at all; give latencies a tolerance."
    loose = [f for f in latencies if (f.get("tolerance") or 0.0) >= (f.get("change_pct") or 0.0)]
    if len(loose) == len(latencies):
        least = min(loose, key=lambda finding: finding["tolerance"])
        title = Metric(least["metric"]).title
        return (
            f"{lets}the {title} rose by {least['change_pct']:.0f} % ({slower_pct:g} % were injected), and the policy "
            f"accepts {least['tolerance']:g} %, no latency less; lower the tolerance."
        )
    said = answer.verdict.replace("no_change", "no regression") or "nothing"
    return f"{lets}it said {said}, with exit code {answer.code}. Look at alpha and at the gating metrics; {_AGAIN}."


def _why_red(answer: Answer, objects: Sequence[dict[str, Any]]) -> str:
    if not objects:
        return _why_not_judged(answer)
    worst = objects[0]
    found = f"{Metric(worst['metric']).title} {worst['change_pct'] or 0.0:+.1f} %"
    return (
        f"THE GATE CALLS IDENTICAL BUILDS A REGRESSION: {found}, accepted are {worst.get('limit') or 'less'}. Fixed "
        "limits below the noise do that: raise the limit, or use the rule evidence, which knows the noise."
    )


def _why_not_judged(answer: Answer) -> str:
    if answer.code == UNFIT:
        return f"The runs could not be judged: {_invalid_because(answer)}"
    return f"The comparison failed: {_last_line(answer) or 'it said nothing'}; {_AGAIN}."


def _invalid_because(answer: Answer) -> str:
    checks = [check for check in answer.document.get("checks", ()) if check.get("severity") == "invalid"]
    texts = [check.get("advice", "") for check in checks] or list(answer.document.get("warnings", ()))
    return texts[0] if texts else _last_line(answer) or "no reason was given"


def _last_line(answer: Answer) -> str:
    lines = answer.said.splitlines()
    return lines[-1][:300] if lines else ""
