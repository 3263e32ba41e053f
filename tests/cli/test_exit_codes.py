"""1 means regression and nothing else: every command, wrong words, any encoding, errors that nobody foresaw."""

from __future__ import annotations

import errno
import os
import re
import shutil
import stat
import subprocess
import sys
from pathlib import Path

import click
import pytest
from commands import WORDS, every_command, perfkit_in, workplace

from perfkit.cli.exit_codes import EXIT_CODES, exit_code_of
from perfkit.history import run_selector
from perfkit.model.errors import PerfkitError
from perfkit.runs import read

COMMANDS = dict(every_command())
TRIED = [name for name in COMMANDS if WORDS.get(name) is not None]
GROUPS_ALONE = [name for name, command in COMMANDS.items() if isinstance(command, click.Group)]


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    return tmp_path_factory.mktemp("commands")


@pytest.fixture(scope="module")
def ids(folder):
    before = Path.cwd()
    os.chdir(folder)
    try:
        ids = workplace(folder)
        assert perfkit_in(
            "utf-8", "compare", *ids[:5], "--candidate", ids[5], "--format", "json", "--output", "result.json"
        )
    finally:
        os.chdir(before)
    return ids


@pytest.fixture
def here(folder, ids, monkeypatch, tmp_path):
    """The folder of the commands; logs of unforeseen errors go to a folder of this test."""
    monkeypatch.chdir(folder)
    monkeypatch.setattr("tempfile.tempdir", str(tmp_path))
    monkeypatch.delenv("PERFKIT_DEBUG", raising=False)
    return folder


def words_of(name, ids):
    return [*name.split(), *(word.replace("{last}", ids[-1]) for word in WORDS[name] or ())]


def logs(tmp_path):
    return sorted(tmp_path.glob("perfkit-error-*.log"))


def test_every_command_is_tried_here():
    assert set(COMMANDS) == set(WORDS) - {"baseline"}


# Encodings ------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("name", TRIED)
def test_an_encoding_changes_no_exit_code(here, ids, tmp_path, name):
    plain = perfkit_in("utf-8", *words_of(name, ids))
    if name == "baseline pin" and plain.code == 0:  # its name is taken from now on
        plain = perfkit_in("utf-8", *words_of(name, ids))
    for encoding in ("cp1252", "ascii", "latin-1", "cp437"):
        other = perfkit_in(encoding, *words_of(name, ids))
        assert other.code == plain.code, encoding
        assert not logs(tmp_path), plain.err + other.err
        if encoding == "ascii":
            assert (other.out + other.err).isascii()


def test_symbols_are_replaced_by_what_reads_alike(here, ids):
    said = perfkit_in("ascii", *words_of("compare", ids))
    assert said.code == 1
    assert "x regression" in said.out
    assert said.out.count("?") == perfkit_in("utf-8", *words_of("compare", ids)).out.count("?")  # inconclusive ones
    shown = perfkit_in("cp1252", "runs", "show", ids[0])
    assert "×" in shown.out  # cp1252 has it
    assert "->" in shown.out  # and has no arrow


def test_files_are_utf8_whatever_the_terminal_is(here, ids, tmp_path):
    words = [*words_of("compare", ids), "--output", str(tmp_path / "out.txt")]
    assert perfkit_in("ascii", *words).code == 1
    assert "✗ regression" in (tmp_path / "out.txt").read_text(encoding="utf-8")


VERDICT = ("compare", "performance-baselines-v2.json", "--candidate", "metrics.json", "--rule", "threshold")


def started(folder, *words, environment=None, **streams):
    env = {**os.environ, **(environment or {})}
    return subprocess.run([sys.executable, "-m", "perfkit", *words], cwd=folder, env=env, check=False, **streams)


@pytest.mark.parametrize(
    "environment",
    [
        {"PYTHONIOENCODING": "ascii:strict"},
        {"LC_ALL": "C", "PYTHONUTF8": "0", "PYTHONCOERCECLOCALE": "0"},
    ],
)
def test_the_process_keeps_the_verdict_under_any_encoding(here, environment):
    done = started(here, *VERDICT, environment=environment, capture_output=True)
    assert (done.returncode, done.stderr) == (1, b"")
    assert b"x regression" in done.stdout


@pytest.mark.skipif(not Path("/dev/full").exists(), reason="needs /dev/full")
def test_streams_that_are_closed_full_or_without_reader(here):
    shell = f'"{sys.executable}" -m perfkit {" ".join(VERDICT)}'
    for redirection in (">&- 2>&- <&-", "--output out.txt 2>/dev/full"):
        assert subprocess.run(f"{shell} {redirection}", shell=True, cwd=here, check=False).returncode == 1, redirection
    full = subprocess.run(f"{shell} >/dev/full", shell=True, cwd=here, check=False, capture_output=True)
    assert full.returncode == 4
    assert full.stderr == b"perfkit: standard output cannot be written: No space left on device\n"
    reader, writer = os.pipe()
    os.close(reader)
    gone = started(here, *VERDICT, stdout=writer, stderr=subprocess.PIPE)
    os.close(writer)
    assert (gone.returncode, gone.stderr) == (1, b"")


# Errors that nobody foresaw -------------------------------------------------------------------------------------------


class _Interrupted:
    """Raises inside a reader, where a file is being read."""

    def __init__(self, error):
        self.error = error

    def sniff(self, path):
        raise self.error


UNFORESEEN = [
    (KeyError("p95"), "unexpected error in perfkit (KeyError: 'p95')"),
    (ValueError("no array"), "unexpected error in perfkit (ValueError: no array)"),
    (AssertionError(), "unexpected error in perfkit (AssertionError)"),
    (RecursionError("maximum recursion depth exceeded"), "RecursionError"),
    (EOFError("ran out of input"), "EOFError"),
    (SystemExit(1), "SystemExit: 1"),
    (SystemExit("usage: other"), "SystemExit: usage: other"),
    (MemoryError(), "out of memory"),
    (BrokenPipeError(errno.EPIPE, "Broken pipe"), "Broken pipe"),
    (PermissionError(errno.EACCES, "Permission denied", "secret.bin"), "secret.bin: Permission denied"),
    (UnicodeEncodeError("ascii", "é", 0, 1, "ordinal not in range"), "UnicodeEncodeError"),
]


def break_reading(monkeypatch, error):
    monkeypatch.setattr(read, "READERS", (_Interrupted(error),))


@pytest.mark.parametrize(("error", "reason"), UNFORESEEN, ids=lambda value: type(value).__name__)
def test_any_other_exception_ends_in_4_with_a_sentence_and_a_log(here, tmp_path, monkeypatch, error, reason):
    if not isinstance(error, OSError):
        break_reading(monkeypatch, error)
        during = "perfkit: while reading metrics.json: "
    else:  # what a reader meets of these is a file that cannot be read
        monkeypatch.setattr(run_selector, "choose_runs", lambda *_, **__: (_ for _ in ()).throw(error))
        during = "perfkit: while running perfkit compare on metrics.json: "
    code, out, err = perfkit_in("utf-8", "compare", "metrics.json", "--candidate", "metrics.json")
    first, second = err.splitlines()
    assert (code, out) == (4, "")
    assert first.startswith(during)
    assert reason in first
    (log,) = logs(tmp_path)
    assert f"The traceback is in {log} (PERFKIT_DEBUG=1 shows it here). Please report it" in second
    assert stat.S_IMODE(log.stat().st_mode) == 0o600
    assert "Traceback (most recent call last)" in log.read_text()


def test_debugging_shows_the_traceback_instead(here, tmp_path, monkeypatch):
    break_reading(monkeypatch, KeyError("p95"))
    monkeypatch.setenv("PERFKIT_DEBUG", "1")
    code, _, err = perfkit_in("utf-8", "metrics", "metrics.json")
    assert code == 4
    assert "Traceback (most recent call last)" in err
    assert not logs(tmp_path)


def test_a_log_tells_no_values_and_no_environment(here, tmp_path, monkeypatch):
    monkeypatch.setenv("CANARY", "canary-in-the-environment")
    break_reading(monkeypatch, KeyError("p95"))
    perfkit_in("utf-8", "compare", "metrics.json", "--candidate", "metrics.json", "--output", "canary-in-a-word.json")
    assert "canary" not in logs(tmp_path)[0].read_text()


def test_where_no_log_can_be_written_that_is_said(here, tmp_path, monkeypatch):
    monkeypatch.setattr("tempfile.tempdir", str(tmp_path / "nowhere"))
    break_reading(monkeypatch, KeyError("p95"))
    code, _, err = perfkit_in("utf-8", "metrics", "metrics.json")
    assert code == 4
    assert "could not be kept (No such file or directory)" in err


@pytest.mark.parametrize("error", [KeyboardInterrupt(), click.Abort()])
def test_ctrl_c_is_130(here, tmp_path, monkeypatch, error):
    break_reading(monkeypatch, error)
    assert perfkit_in("utf-8", "metrics", "metrics.json") == (130, "", "perfkit: stopped by Ctrl-C\n")
    assert not logs(tmp_path)


def test_what_click_ends_with_1_is_wrong_usage(here, monkeypatch):
    break_reading(monkeypatch, click.FileError("x.csv", "cannot be opened"))
    assert click.FileError("x").exit_code == 1
    assert perfkit_in("utf-8", "metrics", "metrics.json").code == 2


def test_a_step_of_a_bisection_never_looks_like_a_verdict(here, tmp_path):
    words = ["bisect", "shop", "--step", "--good", "nowhere"]
    for more in ([], ["--nonsense"], ["--serve", "x", "--locustfile", "none.py"]):
        assert perfkit_in("utf-8", *words, *more).code == 255


def test_every_error_of_ours_has_an_exit_code_other_than_1():
    kinds = [
        PerfkitError,
        *PerfkitError.__subclasses__(),
        *(k for c in PerfkitError.__subclasses__() for k in c.__subclasses__()),
    ]
    assert {exit_code_of(kind("x")) for kind in kinds} == {2, 3, 4, 130}
    assert 1 not in EXIT_CODES.values()


def test_a_broken_installation_is_no_regression(tmp_path):
    (tmp_path / "click.py").write_text("raise ImportError('no click here')\n")
    done = started(tmp_path, "compare", environment={"PYTHONPATH": str(tmp_path)}, capture_output=True)
    assert done.returncode == 4
    assert b"perfkit: is not completely installed (no click here)" in done.stderr


# Wrong arguments ------------------------------------------------------------------------------------------------------

WRONG = ("", "nan", "-1", "9" * 400, "x" * 300, "[", "@", "http://[", "\ud800", "a\0b", "0001-01-01")


def wrong_values(name):
    """The empty word means this folder, whose load test or report would be made."""
    return WRONG[1:3] if name == "run" else WRONG[1:] if name.startswith("report") else WRONG


def wrong_calls(name, ids):
    """A command with each of its options and arguments wrong, one after the other."""
    words = words_of(name, ids)
    own = words[len(name.split()) :]
    for parameter in COMMANDS[name].params:
        if isinstance(parameter, click.Argument):
            for value in wrong_values(name):
                yield parameter, value, [*name.split(), value, *own[1:]]
        elif not getattr(parameter, "is_flag", False):
            for value in wrong_values(name):
                yield parameter, value, [*words, parameter.opts[0], *[value] * parameter.nargs]


@pytest.mark.parametrize("name", [name for name in TRIED if name not in ("init", "email", "notify")])
def test_wrong_words_are_refused_in_words(here, ids, tmp_path, name):
    """Never 1, never a traceback; what has a type of its own is refused with 2.

    What a call wrote into the folder goes, lest the next one finds a file of a wrong name and makes a report of it.
    """
    held = set(here.iterdir())
    for parameter, value, words in wrong_calls(name, ids):
        code, _, err = perfkit_in("utf-8", *words)
        for written in set(here.iterdir()) - held:
            shutil.rmtree(written) if written.is_dir() else written.unlink()
        call = [word[:40] for word in words]
        assert not logs(tmp_path), (call, err)
        assert code in ((1, 0, 2, 3, 4) if name in ("compare", "summary") else (0, 2, 3, 4, 255)), (call, err)
        typed = parameter.type.name in ("integer", "integer range", "number", "choice")
        if typed and not re.fullmatch(r"-?\d+|nan", value):
            assert code == 2, (call, err)


@pytest.mark.parametrize(
    ("words", "text"),
    [
        (("run", "shop", "--users", "9" * 50), "users: must be at most 10,000,000"),
        (("run", "shop", "--duration", "99999999h"), "duration_s: must be at most"),
        (("run", "shop", "--spawn-rate", "nan"), "'nan' is not a finite number"),
        (("run", "shop", "--rate", "nan/s", "--duration", "5s"), "--rate: must be > 0 and finite"),
        (("run", "shop", "--compare-with", "x", "--max-time", "-5s"), "--max-time"),
        (("run", "shop", "--abort-on", "p95>"), "abort"),
        (("plan", "--scenario", "api", "--detect", "nan"), "expected a percentage"),
        (("plan", "--scenario", "api", "--detect", "5%", "--power", "nan"), "'nan' is not a finite number"),
        (("changes", "api", "--alpha", "inf"), "--alpha"),
        (("simulate", "api", "--seed", "1", "--runs", "2", "--variation", "nan"), "'nan' is not a finite number"),
        (
            ("simulate", "api", "--seed", "1", "--runs", "2", "--variation", "101"),
            "variation_pct: must be from 0 to 100",
        ),
        (("simulate", "api", "--seed", "1", "--at", "2026-99-99"), "expected an ISO 8601 time"),
        (("simulate", "api", "--seed", "1", "--at", "9999-12-31T23:59:59-23:59"), "expected an ISO 8601 time"),
        (("runs", "gc", "--runs-older-than", "9" * 30 + "d"), "2,700,000 years"),
        (("runs", "--store", "a\0b"), "holds a null character or half of a character"),
        (("runs", "--settings", "\ud800"), "holds a null character or half of a character"),
        (("runs", "--store", "http://h:99999999"), "is not the URL of a store: Port out of range"),
        (("baseline", "pin", "a", "api@last:3", "--reason", "x", "--expires", "1900-01-01"), "is over already"),
    ],
)
def test_wrong_values_are_named(here, words, text):
    code, _, err = perfkit_in("utf-8", *words)
    assert (code, text in err) == (2, True), err


SETTINGS_VALUES = ["1" + "0" * 400, "nan", "inf", "-1", '"a\\u0000b"', '""', "[]", "{}", "true", "[[1]]", '"1e999%"']
KEYS = [
    *(
        f"[scenario.shop]\nlocustfile = 'x.py'\n{key}"
        for key in ("users", "duration", "rate", "stages", "tags", "environment")
    ),
    *(
        f"[policy]\n{key}"
        for key in ("alpha", "confidence", "rule", "gating", "required_runs", "tolerance", "objectives")
    ),
    *("[policy.tolerance]\np95_latency_ms", "[policy.objectives]\napi_gateway", "store", "baselines"),
    *("[email]\nattach_mb", "[email]\nport", "[issues]\nmost_new", "[chat]\nurls"),
]


@pytest.mark.parametrize("key", KEYS, ids=lambda key: key.replace("\n", " "))
def test_wrong_settings_are_refused_in_words(here, tmp_path, key):
    for value in SETTINGS_VALUES:
        (tmp_path / "perfkit.toml").write_text(f"{key} = {value}\n")
        code, _, err = perfkit_in("utf-8", "runs", "--settings", str(tmp_path / "perfkit.toml"))
        assert not logs(tmp_path), (value, err)
        assert code in (0, 2), (value, err)
        if value.startswith("10") or "u0000" in value:
            assert code == 2, (value, err)


@pytest.mark.parametrize(
    ("words", "code"),
    [
        (("runs",), 0),
        (("metrics", "metrics.json"), 0),
        (("compare", "metrics.json", "--candidate", "metrics.json"), 3),
        (("changes", "api"), 0),
        (("simulate", "api", "--seed", "1", "--runs", "1", "--duration", "1s", "--users", "1", "--store", "other"), 0),
        (("check", "--settings-only", "--skip", "credentials"), 0),
        (("run", "lacking"), 2),
        (("run", "lacking", "--locustfile", "none.py"), 2),
        (("run", "--all"), 2),
        (("bisect", "lacking", "--good", "x"), 2),
    ],
)
def test_a_variable_that_is_not_set_stops_what_needs_its_scenario(here, tmp_path, monkeypatch, words, code):
    (tmp_path / "perfkit.toml").write_text(
        "[scenario.lacking]\nlocustfile = 'x.py'\nhost = '${PERFKIT_NOT_SET}'\n"
        "[scenario.second]\nlocustfile = 'none.py'\n"
    )
    monkeypatch.delenv("PERFKIT_NOT_SET", raising=False)
    words = [
        *words,
        "--settings",
        str(tmp_path / "perfkit.toml"),
        *(["--store", "data/runs"] if words[0] != "metrics" else []),
    ]
    got, out, err = perfkit_in("utf-8", *words)
    assert got == code or (words[0] == "check" and got in (0, 2)), out + err
    assert (words[0] not in ("run", "bisect")) or "PERFKIT_NOT_SET is not set" in err
    assert words[0] != "check" or "PERFKIT_NOT_SET" in out
