"""The command line: parse, one call into the library, print, exit code.

Exit codes: 0 nothing to object; 1 regression (or what ``--fail-on`` names); 2 wrong usage or unreadable input;
3 invalid or not comparable runs; 4 a step failed (load, notebook, disk, network); 130 stopped by Ctrl-C.
"""

from __future__ import annotations

import errno
import io
import os
import sys
from collections.abc import Callable, Sequence
from contextlib import redirect_stderr, redirect_stdout
from typing import Any, TextIO, cast

import click

from perfkit import __version__
from perfkit.cli import (
    ack,
    baseline,
    bisect,
    changes,
    check,
    comment,
    compare,
    demo,
    email,
    files,
    init,
    issue,
    lab,
    notify,
    plan,
    removal,
    replay,
    report,
    run,
    runs,
    store,
    summary,
)
from perfkit.errors import (
    DeliveryError,
    HistoryError,
    LoadError,
    LoadStopped,
    MissingExtra,
    NotComparable,
    PerfkitError,
    ReadError,
    RenderError,
    SettingsError,
    StoreError,
)
from perfkit.redaction import Redacted, conceal_environment
from perfkit.render.theme import clean, shorten

EXIT_CODES: dict[type[PerfkitError], int] = {
    ReadError: 2,
    SettingsError: 2,
    MissingExtra: 2,
    NotComparable: 3,
    LoadStopped: 130,
    LoadError: 4,
    StoreError: 4,
    HistoryError: 4,
    RenderError: 4,
    DeliveryError: 4,
}

EPILOG = """\b
Examples:
  perfkit demo                                    see the whole chain at work, on this machine
  perfkit run api --host http://127.0.0.1:8000    run a load test and keep every request
  perfkit compare BASELINE... --candidate CANDIDATE...
  perfkit report compare BASELINE... --candidate CANDIDATE...

Exit codes: 0 nothing to object, 1 regression, 2 wrong usage or unreadable input, 3 invalid or not comparable runs,
4 a step failed."""


@click.group(context_settings={"help_option_names": ["-h", "--help"], "max_content_width": 110}, epilog=EPILOG)
@click.version_option(__version__, prog_name="perfkit")
def perfkit() -> None:
    """Did this build get slower, and can you believe the answer?

    perfkit runs Locust load tests, keeps every run, compares runs as a statistician would, and shows the evidence.
    """


for command in (
    run.run,
    compare.compare,
    changes.changes,
    bisect.bisect,
    bisect.step,
    report.report,
    issue.issue,
    comment.comment,
    email.email,
    notify.notify,
    summary.summary,
    demo.demo,
    check.check,
    lab.lab,
    plan.plan,
    replay.replay,
    runs.runs,
    store.store,
    files.import_,
    files.metrics,
    baseline.baseline,
    ack.ack,
    files.simulate,
    init.init,
):
    perfkit.add_command(command)
for part in (removal.rm, removal.gc):
    runs.runs.add_command(part)


def main(argv: Sequence[str], out: TextIO, err: TextIO) -> int:
    """Run one command and return its exit code; nothing is written but to ``out`` and ``err``, and no secret there."""
    conceal_environment()
    out, err = cast("TextIO", Redacted(out)), cast("TextIO", Redacted(err))
    with redirect_stdout(out), redirect_stderr(err):
        try:
            result = perfkit.main(list(argv), prog_name="perfkit", standalone_mode=False)
        except click.ClickException as error:
            error.show(err)
            return error.exit_code
        except click.exceptions.Exit as error:
            return error.exit_code
        except (click.Abort, KeyboardInterrupt):
            err.write("perfkit: stopped by Ctrl-C\n")
            return 130
        except PerfkitError as error:
            err.write(f"perfkit: {_told(error)}\n")
            return next(code for kind, code in EXIT_CODES.items() if isinstance(error, kind))
        except OSError as error:
            if error.errno != errno.ENAMETOOLONG:
                raise
            err.write(f"perfkit: {shorten(error.filename, 80)}: no file has so long a name\n")
            return EXIT_CODES[ReadError]
    return result if isinstance(result, int) else 0


def _told(error: PerfkitError) -> str:
    """Its text; names and other programs' words in it move no cursor, and command no runner of workflows."""
    lines = str(error).split("\n")
    return "\n".join(f"{line[: len(line) - len(line.lstrip(' '))]}{clean(line)}" for line in lines)


class _Gone(io.TextIOBase):
    """Standard output that keeps a command going when its reader (head, less) has gone: the exit code still counts."""

    def __init__(self, stream: TextIO) -> None:
        self._stream: TextIO | None = stream
        self.refusal: OSError | None = None  # why it could not be written

    def write(self, text: str) -> int:
        return self._do(lambda stream: stream.write(text)) or 0

    def flush(self) -> None:
        self._do(lambda stream: stream.flush())

    def isatty(self) -> bool:
        return self._stream is not None and self._stream.isatty()

    @property
    def encoding(self) -> str:  # type: ignore[override]
        return self._stream.encoding if self._stream is not None else "utf-8"

    def fileno(self) -> int:
        if self._stream is None:
            raise io.UnsupportedOperation("fileno")
        return self._stream.fileno()

    def _do(self, action: Callable[[TextIO], Any]) -> Any:
        if self._stream is None:
            return None
        try:
            return action(self._stream)
        except BrokenPipeError:
            self._stream = None
            # Without this, the interpreter complains while it ends.
            os.dup2(os.open(os.devnull, os.O_WRONLY), sys.__stdout__.fileno() if sys.__stdout__ else 1)
            return None
        except OSError as error:
            self.refusal = error
            raise


def entry() -> None:
    """The console script ``perfkit``."""
    out = _Gone(sys.stdout)
    try:
        code = main(sys.argv[1:], out, sys.stderr)  # type: ignore[arg-type]  # all of TextIO that click and rich use
        out.flush()
    except OSError as error:
        said = f"standard output cannot be written: {error.strerror or error}" if error is out.refusal else error
        sys.stderr.write(f"perfkit: {said}\n")
        os.dup2(os.open(os.devnull, os.O_WRONLY), 1)
        code = EXIT_CODES[StoreError]
    raise SystemExit(code)
