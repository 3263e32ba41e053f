"""The command line: parse, one call into the library, print, exit code.

Exit codes: 0 nothing to object; 1 regression (or what ``--fail-on`` names); 2 wrong usage or unreadable input;
3 invalid or not comparable runs; 4 a step failed (load, notebook, disk, network); 130 stopped by Ctrl-C.
"""

from __future__ import annotations

import sys
from collections.abc import Sequence
from contextlib import redirect_stderr, redirect_stdout
from typing import TextIO

import click

from perfkit import __version__
from perfkit.cli import compare, demo, files, init, report, run, runs
from perfkit.errors import (
    LoadError,
    MissingExtra,
    NotComparable,
    PerfkitError,
    ReadError,
    RenderError,
    SettingsError,
    StoreError,
)

EXIT_CODES: dict[type[PerfkitError], int] = {
    ReadError: 2,
    SettingsError: 2,
    MissingExtra: 2,
    NotComparable: 3,
    LoadError: 4,
    StoreError: 4,
    RenderError: 4,
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
    report.report,
    demo.demo,
    runs.runs,
    files.import_,
    files.metrics,
    files.baseline,
    files.simulate,
    init.init,
):
    perfkit.add_command(command)


def main(argv: Sequence[str], out: TextIO, err: TextIO) -> int:
    """Run one command and return its exit code; nothing is written but to ``out`` and ``err``."""
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
            err.write(f"perfkit: {error}\n")
            return next(code for kind, code in EXIT_CODES.items() if isinstance(error, kind))
    return result if isinstance(result, int) else 0


def entry() -> None:
    """The console script ``perfkit``."""
    try:
        code = main(sys.argv[1:], sys.stdout, sys.stderr)
        sys.stdout.flush()
    except BrokenPipeError:
        # The reader (head, less) has gone; without this, the interpreter complains while it ends.
        sys.stdout = None
        code = 0
    raise SystemExit(code)
