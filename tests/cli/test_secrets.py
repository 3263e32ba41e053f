"""Canaries in every setting, and every output swept for them: what is secret is neither kept nor shown nor sent."""

from __future__ import annotations

import base64
import io
import json
import os
import subprocess
import sys
import threading
import time
from contextlib import suppress
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from textwrap import dedent

import numpy as np
import psutil
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from command_line import invoke
from histories import nights
from object_store import KEYS, make_bucket, object_store
from samples import requests as frame_of

import perfkit
import perfkit.model.redaction
from perfkit.config.settings import Scenario, load_settings
from perfkit.loadgen.locust_process import check_host
from perfkit.loadgen.redacted_output import RedactedOutput
from perfkit.model.errors import LoadError, StoreError
from perfkit.model.files import redact_files
from perfkit.model.redaction import (
    Redacted,
    RedactedStream,
    conceal,
    conceal_environment,
    conceal_url,
    public_url,
    redact,
    redact_document,
)
from perfkit.model.serialization import document_hash
from perfkit.runs.maintenance import verify_run
from perfkit.runs.read import read_run
from perfkit.runs.store import RunStore

CANARY = "c4n4ry"  # stands in every secret of this file, and nowhere else


# What a secret is ---------------------------------------------------------------------------------------------------

ADDRESSES = {
    "http://127.0.0.1:8000": "http://127.0.0.1:8000",
    "http://ci:c4n4ry@127.0.0.1:8000": "http://127.0.0.1:8000",
    "https://c4n4ry@shop.example/api": "https://shop.example/api",
    "https://ci:p@c4n4ry@shop.example/": "https://shop.example/",
    "https://ci:c4/n4ry@shop.example/x": "https://shop.example/x",
    "https://ci:c4?n4#ry@shop.example/x": "https://shop.example/x",
    "HTTPS://CI:C4N4RY@SHOP/": "HTTPS://SHOP/",
    "http://ci:c4n4ry@[::1]:80/": "http://[::1]:80/",
    "https://shop/api?token=c4n4ry&v=2#c4n4ry": "https://shop/api?token=***&v=***",
    "https://shop/api?c4n4ry": "https://shop/api?***",
    "//ci:c4n4ry@shop/x": "//shop/x",
    "ci:c4n4ry@shop:8000": "shop:8000",
    "http:/ci:c4n4ry@shop": "http:/shop",
    "s3://key:c4n4ry@bucket/runs": "s3://bucket/runs",
    "memory://runs?token=c4n4ry": "memory://runs?token=***",
    "https://x-access-token:c4n4ry@github.com/o/r.git": "https://github.com/o/r.git",
    "git+branch://perf?repository=/srv/shop": "git+branch://perf?repository=/srv/shop",
    "http://shop:8000/users/@me": "http://shop:8000/users/@me",
    "/srv/a@b/runs": "/srv/a@b/runs",
}


@pytest.fixture(autouse=True)
def nothing_concealed(monkeypatch):
    """What other tests concealed by value is not masked in this one, whatever the order."""
    monkeypatch.setattr("perfkit.model.redaction._VALUES", perfkit.model.redaction._Values())


@pytest.mark.parametrize(("address", "public"), ADDRESSES.items(), ids=ADDRESSES)
def test_an_address_loses_user_info_and_query_values(address, public):
    assert (public_url(address), public_url(public)) == (public, public)


TEXTS = {
    "Max retries exceeded with url: /x?page=2&token=c4n4ry (Caused by 0)": "Max retries exceeded with url: /x?page=2&"
    "token=*** (Caused by 0)",
    "GET http://ci:c4n4ry@shop/x failed": "GET http://shop/x failed",
    "fatal: unable to access 'https://x:c4n4ry@github.com/o/r/': 403": "fatal: unable to access "
    "'https://github.com/o/r/': 403",
    '{"Authorization": "Basic YzRuNHJ5"}': '{"Authorization": "Basic ***"}',
    "Authorization: Bearer c4n4ry.x": "Authorization: Bearer ***",
    "GET,/x?api_key=c4n4ry,3": "GET,/x?api_key=***,3",
    "/search?q=shoes&author=smith&page=2": "/search?q=shoes&author=smith&page=2",
    "mail me@shop.example, a@b": "mail me@shop.example, a@b",
    "https://a.example,b@c.example": "https://a.example,b@c.example",
}


@pytest.mark.parametrize(("text", "public"), TEXTS.items(), ids=list(TEXTS))
def test_a_text_loses_credentials_and_nothing_else(text, public):
    assert (redact(text), redact(public)) == (public, public)


def test_a_value_that_is_known_is_found_however_it_is_written():
    conceal_url("http://bot:c4n4ry%2Fx+1@shop.example/?q=c4n4ryquery")
    header = base64.b64encode(b"bot:c4n4ry/x+1").decode()
    for form in ("c4n4ry/x+1", "c4n4ry%2Fx+1", "c4n4ry%2Fx%2B1", header, "/?q=c4n4ryquery"):
        assert CANARY not in redact(f"said {form}.")
        assert header not in redact(f"said {form}.")


@pytest.mark.parametrize("word", ["baseline", "regression", "admin", "1234567", "2026", "ab1"])
def test_a_plain_word_or_number_is_masked_in_addresses_alone(word):
    conceal(word)
    assert redact(f"no {word} here") == f"no {word} here"
    assert redact(f"http://ci:{word}@shop/") == "http://shop/"


def test_the_path_of_a_repository_is_no_secret():
    for address in ("git+branch://x?repository=", "git+branch://x?repository=/srv/c4n4ry-shop-1"):
        conceal_url(address)
        assert redact(address) == address


def test_what_a_channel_is_about_is_taken_out_of_its_texts_however_plain_it_is():
    said_by_server = "535 no: secret (c2VjcmV0) for \0ann\0secret"
    assert redact(said_by_server, "secret", "\0ann\0secret") == "535 no: *** (***) for ***"


@pytest.mark.parametrize(
    "text", ["x", "token", "a://", "?token", "?a=b", "x@", "://x", "authorization: ", "%41"], ids=lambda text: text[:5]
)
def test_long_texts_take_no_quadratic_time(text):
    """A name of a megabyte, which in quadratic time would take hours: the time limit of tests ends it."""
    redact(f"{text * (1_000_000 // len(text))} ?token=c4n4ry")
    public_url(f"http://{text * (1_000_000 // len(text))}")


def test_variables_with_the_name_of_a_credential_are_known():
    conceal_environment({"SHOP_TOKEN": "c4n4ry-token", "SHOP": "shop-name-1", "DB": "pg://u:c4n4ry-db@db/x"})
    assert redact("c4n4ry-token shop-name-1 c4n4ry-db") == "*** shop-name-1 ***"


def test_keys_that_become_one_are_numbered():
    document = {"services": {"/x?token=a": 1, "/x?token=b": {"deep": ["http://u:c4n4ry@h"]}}}
    assert redact_document(document) == {"services": {"/x?token=***": 1, "/x?token=*** (2)": {"deep": ["http://h"]}}}


def test_files_are_rewritten_where_they_must_be(tmp_path):
    (tmp_path / "a.log").write_text("http://u:c4n4ry@h/\n")
    (tmp_path / "b.log").write_text("nothing\n")
    (tmp_path / "c.bin").write_bytes(b"\xff\x00http://u:c4n4ry@h/")
    (tmp_path / "d.log").write_bytes(b"caf\xe9 http://u:c4n4ry@h/\n")
    assert redact_files(tmp_path) == ("a.log", "d.log")
    assert (tmp_path / "a.log").read_text() == "http://h/\n"
    assert (tmp_path / "d.log").read_bytes() == b"caf\xe9 http://h/\n"


PEM = "-----BEGIN KEY-----\nc4n4ryAAAA1111\nc4n4ryBBBB2222\nc4n=\n-----END KEY-----"


@pytest.mark.parametrize(
    ("secret", "text"),
    [
        (PEM, f"a\n{PEM}\nb\n"),
        (PEM, "".join(f"| {line}\r\n" for line in PEM.splitlines()[:3])),
        (PEM, f"{json.dumps(PEM)}\n{PEM!r}\n"),
        ('c4n4ry"q<uote', json.dumps({"a": 'c4n4ry"q<uote'}) + "\nc4n4ry&quot;q&lt;uote\n"),
        ("c4n4ry-plain", "a c4n4ry-plain\nno end: c4n4ry-plain"),
        (None, "x http://u:c4n4ry@h/?token=c4n4ry&a=b\nAuthorization: Bearer c4n4ry\n"),
        (None, b"\xff \0 http://u:c4n4ry@h/ \xc3\xa9\n".decode(errors="surrogateescape")),
    ],
    ids=["block", "lines", "encoded", "quoted", "no end", "position", "stray bytes"],
)
def test_a_stream_is_redacted_wherever_it_is_cut(secret, text):
    """Nothing that is handed out at any moment holds a part of the secret, and all else comes through."""
    conceal(secret)
    content = text.encode(errors="surrogateescape")
    whole = redact(text).encode(errors="surrogateescape")
    assert b"c4n" not in whole
    for size in (1, 7, 16, 1000):
        stream, written = RedactedStream(), b""
        for begin in range(0, len(content), size):
            written += stream.feed(content[begin : begin + size])
            assert b"c4n" not in written
        assert written + stream.finish() == whole


def test_a_line_without_an_end_is_neither_kept_for_ever_nor_cut_in_a_secret():
    conceal("c4n4ry" + "z" * 100)
    stream, written = RedactedStream(), b""
    content = ("." * 1000 + "c4n4ry" + "z" * 100) * 2500
    for begin in range(0, len(content), 65536):
        written += stream.feed(content[begin : begin + 65536].encode())
    assert len(written) > 1_000_000
    written += stream.finish()
    assert written == (b"." * 1000 + b"***") * 2500


def test_a_stream_and_an_error_are_redacted():
    stream = io.StringIO()
    assert Redacted(stream).write("http://u:c4n4ry@h") == len("http://u:c4n4ry@h")
    assert stream.getvalue() == "http://h"
    assert str(StoreError("s3://k:c4n4ry@b: cannot be read")) == "s3://b: cannot be read"


def test_nothing_that_is_printed_of_settings_has_secrets(tmp_path, monkeypatch):
    monkeypatch.setenv("SHOP_PASSWORD", "c4n4ry-password")
    (tmp_path / "perfkit.toml").write_text(
        'store = "s3://k:c4n4ry@b/x"\n[scenario.t]\nlocustfile = "l.py"\nhost = "http://u:${SHOP_PASSWORD}@h"\n'
        'serve = "python app.py --password ${SHOP_PASSWORD}"\nenvironment = { TOKEN = "c4n4ry" }\n'
    )
    settings = load_settings(tmp_path / "perfkit.toml")
    assert settings.scenario("t").host == "http://u:c4n4ry-password@h"
    assert CANARY not in redact(repr(settings))
    assert CANARY not in repr(Scenario("t", Path("l.py"), host="http://u:c4n4ry@h", environment={"A": "c4n4ry"}))


# A load test --------------------------------------------------------------------------------------------------------


class _Guarded(BaseHTTPRequestHandler):
    """Answers who sends user and password."""

    protocol_version = "HTTP/1.1"

    def do_GET(self):
        right = "Basic " + base64.b64encode(b"ci:c4n4ry-p4ss").decode()
        status = 200 if self.headers.get("Authorization") == right else 401
        self.wfile.write(b"HTTP/1.1 %d X\r\nContent-Length: 2\r\n\r\nok" % status)

    def log_message(self, *_):
        pass


@pytest.fixture(scope="module")
def guarded():
    with ThreadingHTTPServer(("127.0.0.1", 0), _Guarded) as server:
        server.daemon_threads = True
        thread = threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.01})
        thread.start()
        yield server.server_address[1]
        server.shutdown()
        thread.join()


TALKATIVE = """
    import logging, os, pathlib, subprocess, sys
    from locust import HttpUser, constant, events, task

    @events.test_start.add_listener
    def look_round(environment, **_):
        listed = subprocess.run(["ps", "-eww", "-o", "args"], capture_output=True, text=True).stdout
        pathlib.Path(os.environ["SEEN"]).write_text(listed)

    class Caller(HttpUser):
        wait_time = constant(0.02)

        @task
        def call(self):
            self.client.get("/items?page=2")
            self.client.get("/items?token=c4n4ry-request%d" % id(self))
            print("I call", self.host, "with", os.environ["SHOP_TOKEN"])
            logging.error("%s refused", self.host)

        @task
        def fail(self):
            self.client.get("http://u:c4n4ry-other@127.0.0.1:9/x?api_key=c4n4ry-key")
            raise ValueError(f"no answer of {self.host}/x?secret=c4n4ry-exception")
"""


@pytest.fixture(scope="module")
def measured(guarded, tmp_path_factory):
    """A real run whose host, environment, requests, log and exceptions hold canaries, made by a process of its own."""
    folder = tmp_path_factory.mktemp("measured")
    (folder / "locustfile.py").write_text(dedent(TALKATIVE))
    (folder / "perfkit.toml").write_text(
        f'store = "runs"\n[scenario.t]\nlocustfile = "locustfile.py"\nhost = "http://ci:${{API_PASSWORD}}@127.0.0.1:{guarded}"\n'
        f'users = 2\nduration = "2s"\nenvironment = {{ SHOP_TOKEN = "c4n4ry-environment", SEEN = "{folder}/seen" }}\n'
    )
    done = subprocess.run(
        [sys.executable, "-P", "-m", "perfkit", "run", "t", "--label", "url=https://x:c4n4ry@ci.example/7"],
        cwd=folder,
        env={**os.environ, "API_PASSWORD": "c4n4ry-p4ss"},
        capture_output=True,
        text=True,
        check=False,
    )
    return folder, done


def everything_in(folder):
    """Names and contents of all files below a folder; tables as text."""
    for file in sorted(path for path in folder.rglob("*") if path.is_file()):
        yield str(file), file.read_bytes().decode(errors="replace")
        if file.suffix == ".parquet":
            yield str(file), str(pq.read_table(file).to_pydict())


def test_a_run_sends_the_credentials_and_keeps_none(measured):
    folder, done = measured
    store = RunStore(folder / "runs")
    run = store.get(store.ids()[0])
    assert run.target.startswith("http://127.0.0.1:")
    assert run.services["/items?page=2"].count > 5
    assert run.services["/items?page=2"].failures == 0  # the target was sent user and password
    assert run.services["/items?token=***"].count > 5  # names that differ by a secret alone are one service
    assert run.labels == {"url": "https://ci.example/7"}
    assert CANARY not in done.stdout + done.stderr
    assert [name for name, text in everything_in(folder / "runs") if CANARY in text] == []
    log = (folder / "runs" / run.id / "source" / "locust.log").read_text()
    assert "I call http://127.0.0.1:" in log
    assert "*** refused" not in log


ENDLESS = r"""
    import os, subprocess, sys
    from locust import User, constant, stats, task

    stats.CSV_STATS_FLUSH_INTERVAL_SEC = 0

    class Caller(User):
        wait_time = constant(0.02)

        @task
        def call(self):
            token = os.environ["SHOP_TOKEN"]
            self.environment.events.request.fire(
                request_type="GET", name="/" + token, response_time=1, response_length=0,
                exception=ValueError("refused " + token), context={},
            )
            os.write(1, b"stray \xff " + token.encode() + b"\n" + os.environ["SHOP_PRIVATE_KEY"].encode() + b"\n")
            subprocess.run([sys.executable, "-c", "import os, sys; sys.exit(os.environ['SHOP_TOKEN'])"], check=False)
            print(os.environ["SHOP_PASSWORD"], flush=True)
            print("begun: " + token[:6], end="", flush=True)
            os.write(1, token[6:].encode())
            raise ValueError(token)
"""


@pytest.mark.parametrize(
    "more", [(), pytest.param(("--workers", "2"), marks=pytest.mark.slow)], ids=["alone", "workers"]
)
def test_a_run_that_is_killed_has_written_no_secret_at_any_time(more, guarded, tmp_path):
    """SIGKILL for perfkit while Locust writes canaries in every way; nothing runs on, and no file holds one."""
    here, temporary = tmp_path / "here", tmp_path / "tmp"
    here.mkdir()
    temporary.mkdir()
    (here / "locustfile.py").write_text(dedent(ENDLESS))
    environment = {
        "SHOP_TOKEN": "c4n4ry-token-1",
        "SHOP_PASSWORD": "c4n4ry\"pass'word",
        "SHOP_PRIVATE_KEY": PEM,
        "TMPDIR": str(temporary),
        "PYTHONFAULTHANDLER": "1",
    }

    def stars(name):
        return sum(file.read_bytes().count(b"***") for file in here.rglob(name))

    words = ["run", "t", "--locustfile", "locustfile.py", "--host", f"http://ci:c4n4ry-host@127.0.0.1:{guarded}"]
    with subprocess.Popen(
        [sys.executable, "-P", "-m", "perfkit", *words, "--users", "1", "--duration", "600s", *more],
        cwd=here,
        env={**os.environ, **environment},
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
    ) as process:
        try:
            lines = [process.stdout.readline()]
            until = time.monotonic() + 60
            while stars("locust.log") < 20 or not stars("locust_failures.csv"):
                assert time.monotonic() < until, lines
                assert process.poll() is None, process.stdout.read()
                time.sleep(0.01)
                assert_no_canary(here)
            family = psutil.Process(process.pid).children(recursive=True)
        finally:
            process.kill()
        lines.append(process.stdout.read())  # until the last of them has ended
    _, alive = psutil.wait_procs(family, timeout=30)
    assert alive == []
    assert_no_canary(here, temporary)
    assert CANARY not in "".join(lines)
    (log,) = here.rglob("locust.log")
    assert "stray \udcff ***" in log.read_text(errors="surrogateescape")
    assert "refused ***" in log.with_name("locust_failures.csv").read_text()
    assert set(read_run(log.parents[1]).services) == {"/***"}


@pytest.mark.slow
def test_a_worker_of_a_master_elsewhere_prints_no_secret(tmp_path):
    (tmp_path / "l.py").write_text(
        "import os\nfrom locust import User\nprint('I am', os.environ['SHOP_TOKEN'], flush=True)\nclass U(User): pass\n"
    )
    words = ["run", "t", "--locustfile", "l.py", "--worker", "--master-port", "1"]
    with subprocess.Popen(
        [sys.executable, "-P", "-m", "perfkit", *words],
        cwd=tmp_path,
        env={**os.environ, "SHOP_TOKEN": "c4n4ry-worker"},
        stdout=subprocess.PIPE,
        text=True,
    ) as process:
        try:
            assert next(line for line in process.stdout if line.startswith("I am")) == "I am ***\n"
        finally:
            process.kill()
            process.stdout.read()  # until the last of them has ended


def assert_no_canary(*folders):
    for file in (path for folder in folders for path in folder.rglob("*")):
        with suppress(FileNotFoundError, IsADirectoryError):  # files are replaced meanwhile
            assert b"c4n" not in file.read_bytes(), file


def test_a_log_that_cannot_be_written_stops_nobody_and_is_told():
    with Path("/dev/full").open("wb") as full:
        output = RedactedOutput(full)
    os.write(output.fd, b"line\n" * 10_000)
    os.write(output.fd, b"line\n" * 10_000)
    output.finish()
    assert not output.is_complete


def test_a_process_that_keeps_the_log_open_is_not_waited_for(tmp_path):
    with (tmp_path / "log").open("wb") as log:
        output = RedactedOutput(log)
    left = os.dup(output.fd)
    os.write(left, b"http://u:c4n4ry@h/\nand more")
    output.finish()
    os.close(left)
    assert output.is_complete
    assert (tmp_path / "log").read_bytes() == b"http://h/\nand more"


def test_no_process_has_a_secret_among_its_arguments(measured):
    folder, _ = measured
    seen = (folder / "seen").read_text()
    assert "recorder.py" in seen  # Locust's own line is there
    assert [line for line in seen.splitlines() if CANARY in line and "perfkit run" not in line] == []


@pytest.mark.parametrize(
    "host", ["ci:{}@127.0.0.1:1", "http://ci:{}@", "http://ci:{}@h:x", "http://ci:{}/y@h", "http://ci:{}@127.0.0.1:1"]
)
def test_a_host_is_refused_without_its_password_which_nobody_named_before(host):
    password = "pl4ceh0lder"  # of no other test: what was concealed once is concealed to the end of the process
    with pytest.raises(LoadError) as refused:
        check_host(host.format(password))
    assert password not in str(refused.value)


def test_a_host_that_cannot_be_used_is_not_repeated(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    (tmp_path / "l.py").write_text("from locust import HttpUser\nclass U(HttpUser): pass\n")
    for host in ("ci:c4n4ry@127.0.0.1:1", "http://ci:c4n4ry@127.0.0.1:1", "http://ci:c4n4ry@", "http://a:c4n4ry@h:x"):
        code, out, err = invoke("run", "t", "--locustfile", "l.py", "--host", host, "--duration", "1s", "--users", "1")
        assert code == 4
        assert CANARY not in out + err
    code, out, err = invoke(
        *["run", "t", "--locustfile", "l.py", "--duration", "1s", "--users", "1", "--compare-with"],
        "http://a:c4n4ry@h:x",
    )
    assert code == 4
    assert CANARY not in out + err


# Older runs, and every output of them -------------------------------------------------------------------------------

TARGET = "http://ci:c4n4ry@shop.example:8000/api?tenant=c4n4ry"


def leak(store, run_id):
    """Make of a stored run one that an earlier perfkit would have written: sealed, with secrets in it."""
    file = store.folder / run_id / "run.json"
    document = json.loads(file.read_text())
    document |= {"target": TARGET, "labels": {"url": "https://x:c4n4ry@ci.example/7"}}
    document["services"] = {f"{name}?token=c4n4ry": stats for name, stats in document["services"].items()}
    document["validity"]["checks"] += [
        {"name": "x", "value": "1", "limit": "2", "severity": "warn", "advice": "http://u:c4n4ry@h"}
    ]
    document["seal"]["document"] = document_hash(document)
    file.write_text(json.dumps(document))
    source = store.folder / run_id / "source"
    source.mkdir(exist_ok=True)
    (source / "locust.log").write_text("calling http://ci:c4n4ry@shop.example:8000\n")


@pytest.fixture
def leaky(tmp_path, monkeypatch):
    """Six runs with secrets, in the current folder."""
    store = RunStore(tmp_path / "runs")
    rng = np.random.default_rng(3)
    ids = [store.add(run) for run in (*nights(rng, 3), *nights(rng, 3, first=3, factor=1.5))]
    for run_id in ids:
        leak(store, run_id)
    (tmp_path / "perfkit.toml").write_text(
        'store = "runs"\n[scenario.api]\nlocustfile = "l.py"\nhost = "http://ci:c4n4ry@h"\n'
        '[email]\nfrom = "a@example.org"\nto = ["b@example.org"]\nhost = "mail.example"\nwhen = "always"\n'
        '[issues]\nrepository = "octo/shop"\n[chat]\nwhen = "always"\nwebhook = "${HOOK}"\n'
    )
    (tmp_path / "l.py").write_text("")
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("AWS_ENDPOINT_URL", "http://127.0.0.1:9")
    monkeypatch.setenv("AWS_MAX_ATTEMPTS", "1")
    monkeypatch.setenv("HOOK", "https://u:c4n4ry@hooks.example/c4n4ry-hook")
    monkeypatch.setenv("GITHUB_TOKEN", "c4n4ry-github")
    monkeypatch.setenv("PERFKIT_SMTP_USER", "perf")
    monkeypatch.setenv("PERFKIT_SMTP_PASSWORD", "c4n4ry-smtp")
    return store, ids


OUTPUTS = (
    "runs list --format json",
    "runs show {first}",
    "runs show {first} --format json",
    "runs export",
    "runs verify",
    "runs gc --dry-run",
    "compare {first} --candidate {last}",
    "compare {first} --candidate {last} --format markdown",
    "compare {first} --candidate {last} --format junit",
    "compare {first} --candidate {last} --format json --output result.json",
    "compare {first} --candidate {last} --explain a?token=*** avg_latency_ms",
    "changes",
    "metrics {first}",
    "baseline pin anchor {first} --reason because-of-http://u:c4n4ry@h/",
    "baseline show anchor",
    "baseline extract {first} --output b.json",
    "runs quarantine {last} --reason see-http://u:c4n4ry@h/x?token=c4n4ry",
    "summary result.json --junit junit.xml --annotations",
    "issue result.json --dry-run",
    "comment result.json --pull-request 1 --repository octo/shop --dry-run",
    "notify result.json --dry-run",
    "email result.json --dry-run mail.eml",
    "check --settings-only",
    "check --settings-only --format json",
    "runs redact --all --dry-run",
    "store sync s3://key:c4n4ry@bucket/x copy",
    "store sync memory://x?token=c4n4ry copy",
    "compare {first} --candidate {last} --store ftp://u:c4n4ry@127.0.0.1:1/runs",
)


def test_no_output_of_an_older_run_shows_its_secrets(leaky, tmp_path):
    """All that these commands print, and all files that they leave."""
    store, ids = leaky
    before = {file for file in tmp_path.rglob("*") if file.is_file()}
    for words in OUTPUTS:
        _, out, err = invoke(*words.format(first=ids[0], last=ids[-1]).split())
        assert CANARY not in out + err, words
        assert "Traceback" not in err, words
    written = {file for file in tmp_path.rglob("*") if file.is_file()} - before
    assert {"result.json", "junit.xml", "mail.eml"} <= {file.name for file in written}
    for file in written:
        assert CANARY not in file.read_bytes().decode(errors="replace"), file
    assert store.get(ids[0]).target == "http://shop.example:8000/api?tenant=***"


def test_older_targets_are_compared_after_the_same_removal(leaky):
    _, ids = leaky
    _, out, _ = invoke("compare", *ids[:2], "--candidate", ids[2], "--format", "json")
    sides = json.loads(out)
    targets = {run["target"] for side in ("baseline", "candidate") for run in sides[side]["runs"]}
    assert targets == {"http://shop.example:8000/api?tenant=***"}
    assert "target" not in " ".join(sides["warnings"])


def test_the_audit_finds_what_is_stored_and_one_command_takes_it_out(leaky):
    store, ids = leaky
    code, out, _ = invoke("check", "--settings-only", "--format", "json", "--skip", "credentials")
    (remark,) = [item for item in json.loads(out)["settings"]["remarks"] if item["check"] == "secrets"]
    assert (code, remark["grade"]) == (2, "error")
    assert remark["found"].startswith("6 runs hold secrets (")
    assert "runs redact --all" in remark["advice"]
    code, out, err = invoke("runs", "redact", "--all", "--dry-run")
    assert code == 2
    assert f"{ids[0]}: target, labels, validity, services, source/locust.log\n" in out
    code, out, err = invoke("runs", "redact", "--all")
    assert code == 0
    assert "change these secrets" in err
    assert [name for name, text in everything_in(store.folder) if CANARY in text] == []
    assert [verify_run(store, run_id).problems for run_id in ids] == [()] * 6
    assert store.ids() == sorted(ids)
    assert invoke("runs", "redact", "--all")[1] == "no secret found\n"
    remarks = json.loads(invoke("check", "--settings-only", "--format", "json")[1])["settings"]["remarks"]
    assert [item["grade"] for item in remarks if item["check"] == "secrets"] == ["ok"]


def test_a_copy_takes_no_secret_along(leaky, tmp_path):
    store, ids = leaky
    _, with_names = with_requests(store.folder)
    code, _, err = invoke("store", "sync", "runs", "copy")
    assert code == 2
    assert f"{with_names}: not copied: holds secrets in its requests; `perfkit runs redact` takes them out" in err
    copy = RunStore("copy")
    assert copy.ids() == ids
    assert [verify_run(copy, run_id).problems for run_id in ids] == [()] * 6
    assert [name for name, text in everything_in(tmp_path / "copy") if CANARY in text] == []
    assert invoke("store", "sync", "copy", "again")[0] == 0


def test_a_run_that_was_changed_is_not_sealed_anew(leaky):
    store, ids = leaky
    file = store.folder / ids[0] / "run.json"
    file.write_text(file.read_text().replace('"duration_s": ', '"duration_s": 1'))
    code, out, err = invoke("runs", "redact", ids[0])
    assert code == 4
    assert "was changed after it was written" in err
    assert CANARY not in out + err


def with_requests(folder):
    """A stored run whose requests have secrets in their names, as an earlier perfkit kept them."""
    store = RunStore(folder)
    frame = frame_of(np.random.default_rng(5), seconds=5.0)
    run_id = store.add(perfkit.run_from_requests(frame, scenario="api"))
    parquet = store.folder / run_id / "requests.parquet"
    table = pq.read_table(parquet).to_pandas()
    table["service"] = (table["service"].astype(str) + "?token=c4n4ry").astype("category")
    pq.write_table(pa.Table.from_pandas(table, preserve_index=False), parquet)
    document = json.loads((store.folder / run_id / "run.json").read_text())
    document["services"] = {f"{name}?token=c4n4ry": stats for name, stats in document["services"].items()}
    import hashlib

    document["seal"] |= {"requests": hashlib.sha256(parquet.read_bytes()).hexdigest()}
    document["seal"]["document"] = document_hash(document)
    (store.folder / run_id / "run.json").write_text(json.dumps(document))
    assert verify_run(store, run_id).problems == ()
    return store, run_id


def test_requests_are_rewritten_too(tmp_path):
    store, run_id = with_requests(tmp_path / "runs")
    shown = store.get(run_id)
    assert (
        set(shown.services)
        == set(shown.requests()["service"])
        == {f"{name}?token=***" for name in ("api_gateway", "rag_service", "mcp_server")}
    )
    before = shown.requests()
    code, _, _ = invoke("runs", "redact", run_id, "--store", store.folder)
    assert code == 0
    assert [name for name, text in everything_in(store.folder) if CANARY in text] == []
    again = store.get(run_id)
    assert verify_run(store, run_id).problems == ()
    assert list(again.requests()["response_time_ms"]) == list(before["response_time_ms"])
    assert list(again.requests()["service"].astype(str)) == list(before["service"].astype(str))
    from perfkit.runs.requests import request_columns

    assert request_columns(again.requests()).digest() == again.content_hash


def test_a_rewriting_that_was_cut_off_goes_on(tmp_path, monkeypatch):
    store, run_id = with_requests(tmp_path / "runs")
    write = type(store.backend).write

    def full(place, path, content):
        if path.endswith("/run.json"):
            raise OSError(28, "No space left on device")
        write(place, path, content)

    with monkeypatch.context() as patch:
        patch.setattr(type(store.backend), "write", full)
        assert invoke("runs", "redact", run_id, "--store", store.folder)[0] == 4
    assert verify_run(store, run_id).problems  # half done, and that is seen
    assert invoke("runs", "redact", run_id, "--store", store.folder)[0] == 0
    assert verify_run(store, run_id).problems == ()
    assert [name for name, text in everything_in(store.folder) if CANARY in text] == []


# Stores elsewhere ---------------------------------------------------------------------------------------------------


def test_a_branch_keeps_no_secret_at_its_tip(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    subprocess.run(["git", "init", "-q", "."], check=True)
    local = RunStore("runs")
    run_id = local.add(nights(np.random.default_rng(1), 1)[0])
    leak(local, run_id)
    store = RunStore("git+branch://perf")
    store.backend.write(f"{run_id}/run.json", (local.folder / run_id / "run.json").read_bytes())
    code, _, err = invoke("runs", "redact", run_id, "--store", "git+branch://perf")
    assert code == 0
    assert "earlier commits of the branch still hold them" in err
    kept = subprocess.run(["git", "show", f"perf:{run_id}/run.json"], capture_output=True, text=True, check=True).stdout
    assert CANARY not in kept
    assert verify_run(RunStore("git+branch://perf"), run_id).problems == ()


def rewritten_after_any_interruption(address, copy, notice, monkeypatch):
    """`perfkit runs redact --all`, cut off before its first change, then its second, ..., and then once more.

    ``copy`` puts the leaky runs there.  Yields the store after each; what was cut off is known to be half done.
    """
    for cut in range(30):
        copy()
        place = type(RunStore(address).backend)
        write, remove, changes = place.write, place.remove, []

        def cut_off(original, cut=cut, changes=changes):
            def change(self, path, *content):
                changes.append(path)
                if len(changes) > cut:
                    raise OSError(28, "No space left on device")
                original(self, path, *content)

            return change

        with monkeypatch.context() as patch:
            patch.setattr(place, "write", cut_off(write))
            patch.setattr(place, "remove", cut_off(remove))
            code, out, err = invoke("runs", "redact", "--all", "--store", address)
        assert CANARY not in out + err
        is_cut = len(changes) > cut
        assert code == (4 if is_cut else 0)
        if is_cut:
            assert "cannot be rewritten: No space left on device" in err
            assert invoke("runs", "redact", "--all", "--dry-run", "--store", address)[0] == 2
            assert invoke("runs", "redact", "--all", "--store", address)[0] == 0
        yield RunStore(address)
        if not is_cut:
            assert notice in err
            return
    raise AssertionError("it was never let through")


@pytest.mark.slow
def test_a_bucket_is_rewritten_and_an_interruption_loses_nothing(tmp_path, monkeypatch):
    local, run_id = with_requests(tmp_path / "runs")
    leak(local, run_id)
    local.quarantine(run_id, "see http://u:c4n4ry@h")
    killed = local.folder / "20261017T143004Z-api-3f9c"
    killed.mkdir()
    (killed / "started.json").write_bytes((local.folder / run_id / "run.json").read_bytes())
    before = local.get(run_id).requests()
    files = {file.relative_to(local.folder).as_posix(): file for file in local.folder.rglob("*") if file.is_file()}
    (local.folder / ".quarantine" / f"{run_id}.json").write_text('{"reason": "see http://u:c4n4ry@h", "by": null}')
    with object_store() as variables:
        for name, value in variables.items():
            monkeypatch.setenv(name, value)
        make_bucket("shop")
        address = "s3://shop/runs"

        def copy():
            for name, file in files.items():
                RunStore(address).backend.write(name, file.read_bytes())

        steps = 0
        for store in rewritten_after_any_interruption(address, copy, "a bucket that keeps versions", monkeypatch):
            steps += 1
            place = store.backend
            kept = {name: place.read(name) for name in place.files("")}
            assert [name for name, content in kept.items() if CANARY.encode() in content] == []
            assert set(kept) >= {name for name in files if not name.startswith((".index", ".noise"))}
            assert not [name for name in kept if "redacted.json" in name]
            assert verify_run(store, run_id).problems == ()
            again = store.get(run_id)
            assert again.target == "http://shop.example:8000/api?tenant=***"
            assert list(again.requests()["response_time_ms"]) == list(before["response_time_ms"])
            assert list(again.requests()["service"].astype(str)) == list(before["service"].astype(str))
            assert list(store.runs()["id"]) == store.ids() == [run_id]
        assert steps > 7  # pending, three files of the run, its document, the note, the index, the other run


@pytest.mark.slow
def test_a_branch_is_rewritten_and_an_interruption_loses_nothing(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    local = RunStore("runs")
    ids = [local.add(run) for run in nights(np.random.default_rng(1), 2)]
    for run_id in ids:
        leak(local, run_id)
    subprocess.run(["git", "init", "-q", "."], check=True)

    def copy():
        for run_id in ids:
            RunStore("git+branch://perf").backend.write(
                f"{run_id}/run.json", (local.folder / run_id / "run.json").read_bytes()
            )

    for store in rewritten_after_any_interruption("git+branch://perf", copy, "earlier commits", monkeypatch):
        kept = {name: store.backend.read(name) for name in store.backend.files("")}
        assert sorted(kept) == sorted(f"{run_id}/run.json" for run_id in ids)
        assert [name for name, content in kept.items() if CANARY.encode() in content] == []
        for run_id in ids:
            assert verify_run(store, run_id).problems == ()
            assert store.get(run_id).services.keys() == local.get(run_id).services.keys()


@pytest.fixture
def keyed(monkeypatch, tmp_path):
    """An address of a bucket with its keys in a variable, which is the only place where they stand."""
    monkeypatch.chdir(tmp_path)
    with object_store() as variables:
        for name, value in variables.items():
            monkeypatch.setenv(name, value)
        make_bucket("shop")
        for name in ("AWS_ACCESS_KEY_ID", "AWS_SECRET_ACCESS_KEY"):
            monkeypatch.delenv(name)
        monkeypatch.setenv("AWS_EC2_METADATA_DISABLED", "true")
        monkeypatch.setenv("AWS_CONFIG_FILE", os.devnull)
        monkeypatch.setenv("AWS_SHARED_CREDENTIALS_FILE", os.devnull)
        monkeypatch.setenv("SHOP_KEYS", f"{KEYS['AWS_ACCESS_KEY_ID']}:c4n4ry%2Fsecret")
        yield "s3://${SHOP_KEYS}@shop/runs"


def test_keys_in_the_address_of_a_bucket_open_it_and_are_shown_nowhere(keyed):
    store = RunStore(keyed)
    run_id = store.add(nights(np.random.default_rng(1), 1)[0])
    assert store.url == "s3://shop/runs"
    assert store.get(run_id).source == f"s3://shop/runs/{run_id}"
    assert RunStore("s3://shop/runs").get(run_id).id == run_id  # this process knows the keys of that address
    assert store.backend.fs.fs.secret == "c4n4ry/secret"


@pytest.mark.slow
def test_an_executed_notebook_opens_a_store_whose_keys_it_does_not_name(keyed, tmp_path):
    store = RunStore(keyed)
    ids = [store.add(run) for run in nights(np.random.default_rng(1), 8)]
    (tmp_path / "perfkit.toml").write_text(f'store = "{keyed}"\n')
    for words in (("trend", "api"), ("compare", *ids[:3], "--candidate", *ids[3:6])):
        code, out, err = invoke("report", *words)
        assert code in (0, 1), err
        assert CANARY not in out + err
    assert len(list(tmp_path.glob("reports/*/executed.ipynb"))) == 2
    assert [name for name, text in everything_in(tmp_path / "reports") if CANARY in text] == []
    assert "s3://shop/runs" in next(tmp_path.glob("reports/*-trend/executed.ipynb")).read_text()
