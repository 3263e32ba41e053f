"""The command line: parse, one call into the library, print, exit code.

Exit codes: 0 nothing to object; 1 regression (or what ``--fail-on`` names); 2 wrong usage or unreadable input;
3 invalid or not comparable runs; 4 a step failed (load, notebook, disk, network) or perfkit itself did; 130 stopped by
Ctrl-C.  No failure of ours looks like a regression: an exception that is no `PerfkitError` ends in 4.
"""

from __future__ import annotations

import errno
import os
import sys
from collections import UserDict
from collections.abc import Sequence
from contextlib import redirect_stderr, redirect_stdout
from importlib import import_module
from typing import Any, TextIO, cast

import click

from perfkit.cli.exit_codes import EXIT_CODES, EXIT_FAILED, EXIT_STOPPED, exit_code_for_git, exit_code_of
from perfkit.cli.streams import Output, open_descriptors
from perfkit.model.errors import PerfkitError, ReadError, SettingsError, omissions
from perfkit.model.installation import VERSION
from perfkit.model.redaction import Redacted, conceal_environment, redact
from perfkit.report.formatting import clean, shorten

COMPLETION = "_PERFKIT_COMPLETE"  # set by the completion scripts of shells
LINK_LOOP = "Symlink loop"  # how pathlib of Python before 3.13 begins to speak of one
EPILOG = """\b
Examples:
  perfkit demo                                    see the whole chain at work, on this machine
  perfkit run api --host http://127.0.0.1:8000    run a load test and keep every request
  perfkit compare BASELINE... --candidate CANDIDATE...
  perfkit report compare BASELINE... --candidate CANDIDATE...

Exit codes: 0 nothing to object, 1 regression, 2 wrong usage or unreadable input, 3 invalid or not comparable runs,
4 a step failed."""


# Name of a command -> module of this package, and attribute in it
COMMANDS = {
    "ack": "curation:ack",
    "baseline": "curation:baseline",
    "bisect": "bisect:bisect",
    "changes": "history:changes",
    "check": "check:check",
    "comment": "notify:comment",
    "compare": "compare:compare",
    "demo": "start:demo",
    "email": "notify:email",
    "import": "runs:import_",
    "init": "start:init",
    "issue": "notify:issue",
    "lab": "start:lab",
    "metrics": "runs:metrics",
    "notify": "notify:notify",
    "plan": "compare:plan",
    "replay": "compare:replay",
    "report": "report:report",
    "run": "run:run",
    "runs": "runs:runs",
    "simulate": "runs:simulate",
    "store": "runs:store",
    "summary": "notify:summary",
}


class LazyCommands(UserDict[str, Any]):
    """Commands by name; the module of one is imported when the command is asked for."""

    def __getitem__(self, name: str) -> click.Command:
        module, _, attribute = self.data[name].partition(":")
        command: click.Command = getattr(import_module(f"perfkit.cli.{module}"), attribute)
        return command


@click.group(
    commands=LazyCommands(COMMANDS),
    context_settings={"help_option_names": ["-h", "--help"], "max_content_width": 110},
    epilog=EPILOG,
)
@click.version_option(VERSION, prog_name="perfkit")
def perfkit() -> None:
    """Did this build get slower, and can you believe the answer?

    perfkit runs Locust load tests, keeps every run, compares runs as a statistician would, and shows the evidence.
    """


def main(argv: Sequence[str], out: TextIO | None, err: TextIO | None) -> int:
    """Run one command and return its exit code; nothing is written but to ``out`` and ``err``, and no secret there.

    A stream that is closed is ``None``.
    """
    conceal_environment()
    streams = Output(out, required=True), Output(err, required=False)
    output, errors = (cast("TextIO", Redacted(stream)) for stream in streams)
    with redirect_stdout(output), redirect_stderr(errors), omissions() as left_out:
        try:
            code = _run(argv)
            for sentence in map(clean, left_out) if code != EXIT_CODES[ReadError] else ():
                if not any(stream.holds(redact(sentence)) for stream in streams):
                    errors.write(f"! {sentence}\n")
            output.flush()
        except OSError as error:  # standard output is on a full disk, say
            errors.write(f"perfkit: standard output cannot be written: {error.strerror or error}\n")
            code = EXIT_FAILED
    return exit_code_for_git(code) if list(argv[:1]) == ["bisect"] and "--step" in argv else code


def _run(argv: Sequence[str]) -> int:
    out, err = sys.stdout, sys.stderr
    try:
        result = _invoke(argv)
    except click.ClickException as error:
        error.show(err)
        # click ends what it cannot open with 1, which means a regression here
        return EXIT_CODES[ReadError]
    except click.exceptions.Exit as error:
        return error.exit_code
    except (click.Abort, KeyboardInterrupt):
        err.write("perfkit: stopped by Ctrl-C\n")
        return EXIT_STOPPED
    except PerfkitError as error:
        # Names and other programs' words in it move no cursor, and command no runner of workflows
        lines = str(error).split("\n")
        text = "\n".join(f"{line[: len(line) - len(line.lstrip(' '))]}{clean(line)}" for line in lines)
        err.write(f"perfkit: {text}\n")
        return exit_code_of(error)
    except OSError as error:
        if error is getattr(out, "refusal", None):
            raise
        if error.errno != errno.ENAMETOOLONG:
            return _unexpected(error, argv)
        err.write(f"perfkit: {shorten(error.filename, 80)}: no file has so long a name\n")
        return EXIT_CODES[ReadError]
    except RuntimeError as error:
        if not str(error).startswith(LINK_LOOP):
            return _unexpected(error, argv)
        err.write(f"perfkit: {clean(str(error))}; remove the link\n")
        return EXIT_CODES[ReadError]
    except (Exception, SystemExit) as error:  # the outermost boundary; SystemExit comes of libraries
        unusable = next((word for word in argv if not _is_encodable(word)), None)
        if unusable is not None:  # no library and no file system takes it
            word = shorten(ascii(unusable), 80)
            err.write(f"perfkit: {word}: holds a null character or half of a character; mend it\n")
            return EXIT_CODES[SettingsError]
        return _unexpected(error, argv)
    return result if isinstance(result, int) else 0


def _invoke(argv: Sequence[str]) -> object:
    """Run the command.

    Not by click's ``main``, which ends a broken pipe of any file or socket with 1, and takes any ``EOFError`` for
    Ctrl-C.
    """
    if COMPLETION in os.environ:
        return perfkit.main(list(argv), prog_name="perfkit", complete_var=COMPLETION, standalone_mode=False)
    with perfkit.make_context("perfkit", list(argv)) as context:
        return perfkit.invoke(context)


def _is_encodable(word: str) -> bool:
    """Whether the operating system can be handed this word."""
    try:
        return b"\0" not in os.fsencode(word)
    except UnicodeEncodeError:
        return False


def _unexpected(error: BaseException, argv: Sequence[str]) -> int:
    from perfkit.cli.unexpected import report_unexpected

    sys.stderr.write(report_unexpected(error, argv))
    return EXIT_FAILED


def entry() -> None:
    """The console script ``perfkit``."""
    open_descriptors()
    raise SystemExit(main(sys.argv[1:], sys.stdout, sys.stderr))
