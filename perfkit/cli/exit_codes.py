"""Exit codes: 0 nothing to object; 1 regression, and nothing else; 2 to 4, and 130, by the kind of error."""

from __future__ import annotations

from perfkit.model import errors
from perfkit.model.errors import PerfkitError
from perfkit.model.records import Verdict

EXIT_INVALID = 3
EXIT_FAILED = 4
EXIT_STOPPED = 130
GIT_VERDICTS = (0, 1, 125)  # of a step of `git bisect run`: good, bad, skip
GIT_ABORT = 255
EXIT_CODES: dict[type[PerfkitError], int] = {
    errors.ReadError: 2,
    errors.SettingsError: 2,
    errors.MissingExtra: 2,
    errors.NotComparable: 3,
    errors.LoadStopped: 130,
    errors.LoadError: 4,
    errors.NotStored: 2,
    errors.StoreError: 4,
    errors.HistoryError: 4,
    errors.RenderError: 4,
    errors.DeliveryError: 4,
}


def exit_code_of(error: PerfkitError) -> int:
    """The exit code that an error ends a command with."""
    return next((code for kind, code in EXIT_CODES.items() if isinstance(error, kind)), EXIT_FAILED)


def exit_code_for_git(code: int) -> int:
    """The exit code of a step: `git bisect run` takes 1 to 127 for a verdict, and no failure may look like one."""
    return code if code in GIT_VERDICTS or code > 127 else GIT_ABORT


def exit_code_of_verdict(verdict: Verdict, fail_on: str = "regression") -> int:
    """0, 1 or 3; runs that cannot be judged are never green, whatever ``fail_on`` says."""
    if verdict is Verdict.INVALID:
        return EXIT_INVALID
    failing = {"regression": (Verdict.REGRESSION,), "inconclusive": (Verdict.REGRESSION, Verdict.INCONCLUSIVE)}
    return int(verdict in failing.get(fail_on, ()))
