"""Hundreds of damaged files of every kind through every command that reads them: one sentence, never a traceback.

Bytes are damaged at random, and fields get values of another type or range.  A command says that it could not read the
file (2), that the runs cannot be judged (3) or that a step failed (4).  With 0 or 1 it has named what was left out, or
the damage is none: what the file says is the same, or is a whole and sensible document that nobody can tell from one
that was meant (a digit of a reason; what is sealed has no such digits).
"""

import io
import json
import random
import re
import shutil
import warnings
from contextlib import suppress
from pathlib import Path

import numpy as np
import pytest
from damage import damaged, killed_run
from samples import KNOWN_BASELINE, KNOWN_CANDIDATE, REPOSITORY

from perfkit.cli import main

OLD = REPOSITORY / "tests" / "written_by_0_1_0"
API = [f"20251017T17{minute}04Z-api-" for minute in ("30", "35", "40", "45", "50")]
LAST = "20251017T175504Z-api-b508"
SHOP = "20251018T143004Z-shop-be8a"
OTHER_SHOP = "20251017T143004Z-shop-1727"
NESTED = "<nested>"  # takes the place of a value: a hundred thousand brackets
DIGITS = "<digits>"  # five thousand of them
BAD_VALUES = [None, True, -1, -0.5, 1e300, 10**30, "", "x", [], {}, [3], {"a": 3}, NESTED, DIGITS, "<1e999>", "<NaN>"]


class World:
    """Files of every kind, and the commands that read each."""

    def __init__(self, folder):
        self.folder = folder
        shutil.copytree(OLD, folder, dirs_exist_ok=True)
        killed = killed_run(folder / "runs" / "20251019T000000Z-api-dead", np.random.default_rng(1)).parent
        shutil.copy(folder / "compare.json", folder / "result.json")
        (folder / "baseline.json").write_text(json.dumps(KNOWN_BASELINE))
        (folder / "metrics.json").write_text(json.dumps(KNOWN_CANDIDATE))
        (folder / "event.json").write_text(json.dumps({"pull_request": {"number": 7}}))
        (folder / "perfkit.toml").write_text(
            'store = "runs"\n[email]\nfrom = "a@example.org"\nto = ["b@example.org"]\nhost = "127.0.0.1"\nport = 9\n'
        )
        ids = [next(path.name for path in (folder / "runs").glob(f"{begin}*")) for begin in API]
        against = ("compare", *ids[:3], "--candidate")
        results = [
            ("summary", "{}"),
            ("summary", "{}", "--verdict"),
            ("issue", "{}", "--dry-run", "--repository", "o/r"),
            ("comment", "{}", "--dry-run", "--repository", "o/r", "--pull-request", "7"),
            ("notify", "{}", "--dry-run", "--webhook", "https://hooks.example/x", "--when", "always"),
            ("email", "{}", "--dry-run", "mail.eml"),
        ]
        stored = [
            ("runs", "list"),
            ("runs", "show", LAST),
            ("runs", "verify"),
            ("runs", "export"),
            ("changes", "api"),
            (*against, LAST),
            ("compare", "--candidate", LAST),
            ("compare", "api@last:3", "--candidate", LAST, "--history"),
            ("store", "sync", "runs", "copies"),
            ("runs", "gc", "--dry-run"),
        ]
        self.commands = {
            f"runs/{LAST}/run.json": stored,
            f"runs/{SHOP}/requests.parquet": [("runs", "verify", SHOP), ("store", "sync", "runs", "copies")],
            f"runs/{killed.name}/requests.arrow": [(*against, f"runs/{killed.name}")],
            f"runs/{killed.name}/started.json": [(*against, f"runs/{killed.name}"), ("runs", "list")],
            "runs/.quarantine/20251017T143004Z-shop-1727.json": [
                ("runs", "quarantine"),
                ("compare", SHOP, "--candidate", "20251017T143004Z-shop-1727"),
            ],
            "runs/.noise/api.json": [("compare", "api@last:3", "--candidate", LAST, "--history")],
            "data/acknowledged.json": [("ack", "--list"), ("compare", "--candidate", LAST), ("changes", "api")],
            "data/baselines/api/v1.json": [
                ("baseline", "list"),
                ("baseline", "show", "v1"),
                ("compare", "api@pinned:v1", "--candidate", LAST),
                ("runs", "gc", "--dry-run"),
            ],
            "compare.json": results,
            "history.json": results,
            "trend.json": results,
            "index.json": [("summary", "."), ("summary", ".", "--verdict")],
            "event.json": [("comment", "compare.json", "--dry-run", "--repository", "o/r")],
            "baseline.json": [("compare", "{}", "--candidate", "metrics.json", "--rule", "threshold")],
            "metrics.json": [
                ("compare", "baseline.json", "--candidate", "{}", "--rule", "threshold"),
                ("import", "{}"),
            ],
        }
        self.whole = {name: (folder / name).read_bytes() for name in self.commands}

    def try_command(self, name, content, argv):
        """Exit code, output and errors of a command while a file holds something else."""
        file = self.folder / name
        file.write_bytes(content)
        out, err = io.StringIO(), io.StringIO()
        try:
            with warnings.catch_warnings():
                warnings.simplefilter("error")
                code = main([word.replace("{}", name) for word in argv], out, err)
        finally:
            file.write_bytes(self.whole[name])
            shutil.rmtree(self.folder / "copies", ignore_errors=True)
        return code, out.getvalue(), err.getvalue()


@pytest.fixture(scope="module")
def world(tmp_path_factory):
    return World(tmp_path_factory.mktemp("world"))


@pytest.fixture
def at_work(world, monkeypatch):
    monkeypatch.chdir(world.folder)
    monkeypatch.setenv("GITHUB_EVENT_PATH", "event.json")
    for name in ("GITHUB_REF", "GITHUB_TOKEN", "GITHUB_STEP_SUMMARY", "GITHUB_REPOSITORY"):
        monkeypatch.delenv(name, raising=False)
    return world


def leaves(value, path=()):
    """Paths to all values in a document, containers too."""
    if path:
        yield path
    items = value.items() if isinstance(value, dict) else enumerate(value) if isinstance(value, list) else ()
    for key, item in items:
        yield from leaves(item, (*path, key))


def with_field(document, draw):
    """The text of a document in which one field is missing, or has a value of another type or range."""
    plain = json.loads(document)
    path = draw.choice(list(leaves(plain)))
    at = plain
    for key in path[:-1]:
        at = at[key]
    if draw.random() < 0.15:
        del at[path[-1]]
    else:
        at[path[-1]] = draw.choice(BAD_VALUES)
    text = json.dumps(plain, indent=2)
    for sign, raw in ((NESTED, "[" * 100_000), (DIGITS, "9" * 5000), ("<1e999>", "1e999"), ("<NaN>", "NaN")):
        text = text.replace(f'"{sign}"', raw)
    return text.encode(), path


def same(first, second):
    with suppress(ValueError, RecursionError):
        return json.loads(first) == json.loads(second)
    return False


# What commands read of a file is checked; what they do not read (words for people, drawings of reports) is free.
FREE = re.compile(
    r"reason|by|history|profile|environment|headline|courses|lines|news|anchors|warnings|sentences|notebook|report|result|"
    r"store|scenario|id|service|advice|target|labels|git|commit|branch|aliases|around|title|kind|value|limit|name|worst|"
    r"levels|strays|trends|drifts|capacity|load|checks|series|made_at|created|until|expires|at|timestamp|schema_note"
)
SEALED = ("run.json", ".parquet")


def faults_of(name, path, argv, code, out, err):
    """What is wrong with how a command took a damage of a file, at a path in it."""
    text, sentences = out + err, [line for line in err.splitlines() if line.startswith("perfkit: ")]
    if "Traceback" in text or "Warning" in err or len(err) > 20_000:
        yield "no sentence for people"
    if len(sentences) > 1 or (code in (2, 4) and not sentences and argv[:2] not in TELL_EACH):
        yield f"{len(sentences)} sentences"
    if code not in (0, 1):
        return
    if name.endswith(SEALED) and not is_named(name, text) and argv[:2] not in UNREAD:
        yield "sealed, and green in silence"
    is_read = path and not any(FREE.fullmatch(str(key)) for key in path)
    if is_read and name not in DERIVED and not is_named(name, text) and argv[:2] not in UNREAD:
        yield "a field, and green in silence"


def is_named(name, text):
    path = Path(name)
    return path.stem in text or path.parent.name in text


DERIVED = ("runs/.noise/api.json",)  # learned anew when it cannot be read
UNREAD = (("runs", "gc"),)  # of files that they need not read
TELL_EACH = (("runs", "verify"), ("store", "sync"))  # runs one by one, and end with 2


@pytest.mark.parametrize("count", [100, pytest.param(1000, marks=pytest.mark.slow)])
def test_no_damage_is_green_in_silence(at_work, count):
    names, codes, faults = list(at_work.commands), [], []
    for number in range(count):
        draw = random.Random(number)
        name = names[number % len(names)]
        whole, path = at_work.whole[name], ()
        if number % 3 and name.endswith(".json"):
            content, path = with_field(whole, draw)
        else:
            content = damaged(whole, np.random.default_rng(number))
        if content == whole or same(content, whole):
            continue
        every = at_work.commands[name]
        for argv in every if len(every) < 4 else draw.sample(every, 3):
            where = f"damage {number} of {name} {path}: {' '.join(argv)}"
            try:
                code, out, err = at_work.try_command(name, content, argv)
            except Exception as error:
                faults.append(f"{where}: {type(error).__name__}: {error}"[:1000])
                continue
            codes.append(code)
            faults += [
                f"{where}: exit {code}: {why}: {out[-300:]} {err[-300:]}"
                for why in faults_of(name, path, argv, code, out, err)
            ]
    assert not faults, f"{len(faults)} of {len(codes)}: " + "\n".join(faults[:40])
    assert len(codes) > count
    assert codes.count(2) > 0.4 * len(codes)


def test_the_whole_files_are_read(at_work):
    for name, every in at_work.commands.items():
        for argv in every:
            code, _, err = at_work.try_command(name, at_work.whole[name], argv)
            assert code in (0, 1, 3), (argv, err)


# Numbers that contradict each other -----------------------------------------------------------------------------------


def changed_at(document, path, value):
    """A copy of a JSON document with another value at a path."""
    plain = json.loads(document)
    at = plain
    for key in path[:-1]:
        at = at[key]
    at[path[-1]] = value
    return json.dumps(plain).encode()


@pytest.mark.parametrize(
    ("field", "value", "told"),
    [
        ("rps", 0, "api_gateway: rps is 0, and there were 1500 requests; mend the file"),
        ("duration_s", 0, "api_gateway: duration_s: expected a number > 0, got 0; mend the file"),
        ("total_requests", 0, "api_gateway: 15 failures of 0 requests; mend the file"),
        ("baseline_users", 2.5, "api_gateway: baseline_users: expected a whole number, got 2.5"),
        ("error_rate_pct", 9, "api_gateway: error_rate_pct is 9, and 15 of 1500 requests failed"),
    ],
)
def test_a_metrics_file_does_not_contradict_itself(at_work, field, value, told):
    content = changed_at(at_work.whole["metrics.json"], ("api_gateway", field), value)
    for argv in at_work.commands["metrics.json"]:
        code, _, err = at_work.try_command("metrics.json", content, argv)
        assert (code, err.count("\n")) == (2, 1), err
        assert f"metrics.json: {told}" in err


def unsealed(document):
    plain = json.loads(document)
    return json.dumps({key: value for key, value in plain.items() if key != "seal"}).encode()


@pytest.mark.parametrize(
    ("field", "value", "told"),
    [
        ("error_rate_pct", 99.0, "error_rate_pct is 99, and "),
        ("p99_latency_ms", 0.5, "p99_latency_ms is 0.5 and p95_latency_ms is "),
        ("avg_latency_ms", 0.01, "avg_latency_ms is 0.01, too little for p50_latency_ms"),
        ("rps", 0.0, "rps is 0, and there were "),
        ("failures", 10**9, "1000000000 failures of "),
        (None, 1e9, "duration_s is 1e+09, and "),
        (None, 1e-4, "duration_s is 0.0001, and "),
        (None, 0.0, "duration_s: must be > 0, got 0.0"),
    ],
)
def test_a_run_without_a_seal_does_not_contradict_itself(at_work, field, value, told):
    name = f"runs/{LAST}/run.json"
    whole = unsealed(at_work.whole[name])
    service = next(iter(json.loads(whole)["services"]))
    content = changed_at(whole, ("services", service, field) if field else ("duration_s",), value)
    compared = next(argv for argv in at_work.commands[name] if argv[0] == "compare")
    for argv, right in ((compared, 2), (("runs", "list"), 0), (("changes", "api"), 0)):
        code, out, err = at_work.try_command(name, content, argv)
        assert code == right, err
        assert told in " ".join((out + err).split())
        assert LAST in out + err
    assert at_work.try_command(name, whole, compared)[0] in (0, 1)


def test_a_run_without_a_seal_has_as_many_requests_as_it_says(at_work):
    name = f"runs/{SHOP}/run.json"
    plain = json.loads(unsealed((at_work.folder / name).read_bytes()))
    stats = next(iter(plain["services"].values()))
    stats["count"] += 10 * stats["count"]
    stats["error_rate_pct"] = 100.0 * stats["failures"] / stats["count"]
    at_work.whole.setdefault(name, (at_work.folder / name).read_bytes())
    code, out, _ = at_work.try_command(name, json.dumps(plain).encode(), ("compare", OTHER_SHOP, "--candidate", SHOP))
    assert code == 3
    assert "one of them was changed" in " ".join(out.split())


RESULT = "compare.json"


def test_no_verdict_of_a_result_can_be_turned(at_work):
    """The verdict of the whole and of each finding, to each of the four others: refused by every command."""
    whole, passed, tried = at_work.whole[RESULT], [], 0
    plain = json.loads(whole)
    verdicts = ("regression", "improvement", "no_change", "inconclusive", "invalid")
    places = [("verdict",), *(("findings", at, "verdict") for at in range(len(plain["findings"])))]
    for path in places:
        for verdict in verdicts:
            content = changed_at(whole, path, verdict)
            if json.loads(content) == plain:
                continue
            tried += 1
            code, _, err = at_work.try_command(RESULT, content, ("summary", RESULT, "--verdict"))
            if code != 2 or not err.startswith(f"perfkit: {RESULT}: "):
                passed.append((path, verdict, code))
    assert tried == 4 * len(places)
    assert not passed


@pytest.mark.parametrize(
    ("field", "value"),
    [
        ("baseline", 1e-3),
        ("candidate", 1e6),
        ("change_pct", -99.0),
        ("change_abs", 1e6),
        ("ci_low", 1e5),
        ("ci_high", -99.5),
        ("p_adjusted", 0.0),
    ],
)
def test_no_number_of_a_finding_can_be_turned(at_work, field, value):
    content = changed_at(at_work.whole[RESULT], ("findings", 0, field), value)
    for argv in at_work.commands[RESULT]:
        code, _, err = at_work.try_command(RESULT, content, argv)
        assert (code, err.count("\n")) == (2, 1), (argv, err)
        assert f"{RESULT}: findings.0: " in err
