"""The command line: parse, one call into the library, print, exit code.

It may import every room; its modules import one another only for options, completion, exit codes and streams (`check`
has two of its own: `audit` and `selftest`).  Begin with `COMMANDS`, which says where each command is, and `options`.

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
from contextlib import redirect_stderr, redirect_stdout, suppress
from datetime import UTC, datetime
from importlib import import_module, metadata
from pathlib import Path
from typing import Any, TextIO, cast

import click

from perfkit.cli import completion
from perfkit.cli.exit_codes import EXIT_CODES, EXIT_FAILED, EXIT_STOPPED, exit_code_for_git, exit_code_of
from perfkit.cli.streams import Output, open_descriptors
from perfkit.model.errors import PerfkitError, ReadError, activities_of, omissions
from perfkit.model.installation import VERSION, collect_less_garbage, skip_unused_imports
from perfkit.model.redaction import Redacted, conceal_environment, redact
from perfkit.report.formatting import clean, shorten

DEBUG = "PERFKIT_DEBUG"
MOST_TEXT = 300  # characters of an exception's own message
TRACKERS = ("issues", "bug tracker", "tracker", "bugs")  # labels of the address to report a fault to
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
    "changes": "compare:changes",
    "check": "check:check",
    "comment": "notify:comment",
    "compare": "compare:compare",
    "completion": "completion:completion",
    "demo": "start:demo",
    "docs": "docs:docs",
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
        if completion.VARIABLE in os.environ:
            click.echo(completion.answer(perfkit))
            return 0
        # click's `main` ends a broken pipe of any file or socket with 1, and takes any `EOFError` for Ctrl-C
        with perfkit.make_context("perfkit", list(argv)) as context:
            result = perfkit.invoke(context)
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
        lines = [line for part in (str(error), *getattr(error, "__notes__", ())) for line in part.split("\n")]
        text = "\n".join(f"{line[: len(line) - len(line.lstrip(' '))]}{clean(line)}" for line in lines)
        err.write(f"perfkit: {text}\n")
        return exit_code_of(error)
    except (Exception, SystemExit) as error:  # the outermost boundary; SystemExit comes of libraries
        if error is getattr(out, "refusal", None):
            raise
        if (problem := _unusable_name(error, argv)) is None:
            return _unexpected(error, argv)
        err.write(f"perfkit: {problem}\n")
        return EXIT_CODES[ReadError]
    return result if isinstance(result, int) else 0


def _unusable_name(error: BaseException, argv: Sequence[str]) -> str | None:
    """What is wrong with a name that no file system takes, where that is all that went wrong."""
    if isinstance(error, OSError):
        too_long = error.errno == errno.ENAMETOOLONG
        return f"{shorten(error.filename, 80)}: no file has so long a name" if too_long else None
    if isinstance(error, RuntimeError):
        return f"{clean(str(error))}; remove the link" if str(error).startswith(LINK_LOOP) else None
    for word in argv:
        try:
            is_usable = b"\0" not in os.fsencode(word)
        except UnicodeEncodeError:
            is_usable = False
        if not is_usable:
            return f"{shorten(ascii(word), 80)}: holds a null character or half of a character; mend it"
    return None


def _unexpected(error: BaseException, argv: Sequence[str]) -> int:
    """One sentence on an exception that nobody foresaw; its traceback is kept in a file that the text names.

    The file is readable by its owner only.  It holds source lines and messages without secrets, neither values of
    variables, nor the environment, nor the words of the command line.  With ``PERFKIT_DEBUG`` set the text has the
    traceback itself.
    """
    import platform
    import tempfile
    import traceback

    details = redact("".join(traceback.format_exception(error)))
    text = shorten(str(error), MOST_TEXT)
    reason = f"unexpected error in perfkit ({type(error).__name__}{': ' if text else ''}{text})"
    if isinstance(error, MemoryError):
        reason = "out of memory. Give this machine more memory, or the command fewer and smaller runs."
    elif isinstance(error, OSError) and error.strerror:
        file = f"{clean(os.fsdecode(error.filename))}: " if isinstance(error.filename, str | bytes) else ""
        reason = f"{file}{error.strerror}"
    sentence = f"perfkit: {_activity(error, argv)}: {reason}"
    if os.environ.get(DEBUG, "0") not in ("", "0"):
        sys.stderr.write(f"{details}{sentence}\n")
        return EXIT_FAILED
    try:
        number, name = tempfile.mkstemp(prefix=f"perfkit-error-{datetime.now(UTC):%Y%m%dT%H%M%SZ}-", suffix=".log")
        with os.fdopen(number, "w", encoding="utf-8", errors="backslashreplace") as log:
            log.write(f"perfkit {VERSION}, Python {platform.python_version()}, {platform.platform()}\n{details}")
        kept = f"The traceback is in {name} ({DEBUG}=1 shows it here)."
    except OSError as problem:
        kept = f"The traceback could not be kept ({problem.strerror}); {DEBUG}=1 shows it."
    links = [text.partition(", ") for text in metadata.metadata("perfkit").get_all("Project-URL") or []]
    tracker = next((url for label, _, url in links if label.lower() in TRACKERS), None)
    to = tracker if tracker is not None else "the maintainers of your copy of perfkit"
    sys.stderr.write(f"{sentence}\n  {kept} Please report it, with that file, to {to}.\n")
    return EXIT_FAILED


def _activity(error: BaseException, argv: Sequence[str]) -> str:
    """What was being done, on which file: the innermost activity, else the files among the words of the command."""
    if done := activities_of(error):
        return shorten(done[0], MOST_TEXT)
    command, files = next((word for word in argv if not word.startswith("-")), ""), dict[str, None]()
    for word in argv:
        with suppress(OSError, ValueError):  # it is too long, or has a null character
            if word != command and not word.startswith("-") and Path(word).exists():
                files[clean(word)] = None
    return f"while running perfkit {clean(command)}".strip() + (f" on {', '.join(list(files)[:3])}" if files else "")


def entry() -> None:
    collect_less_garbage()
    skip_unused_imports()
    open_descriptors()
    raise SystemExit(main(sys.argv[1:], sys.stdout, sys.stderr))
