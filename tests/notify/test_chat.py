"""Chats and webhooks over real HTTP: what they are told, that nobody is pinged, and servers that misbehave."""

import json
import re
import socket
import subprocess
import sys
import threading
from contextlib import contextmanager
from dataclasses import replace
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer

import pytest
from command_line import invoke
from hypothesis import given
from hypothesis import strategies as st
from report_folders import HOSTILE, nightly, reported, trend_document
from samples import side

from perfkit import MissingExtra, compare
from perfkit.config.policy import Policy
from perfkit.config.settings import BUILT_IN, ChatSettings, Settings
from perfkit.history.incidents import result_of
from perfkit.model.errors import DeliveryError, SettingsError
from perfkit.notify.chat import ChatChannel, Webhook, post
from perfkit.notify.delivery import collect_results, deliver
from perfkit.report.message import LARGEST, LONGEST, ReportLocation, chat_text, harmless, message_of, webhook_document

pytest.importorskip("apprise")


class _Handler(BaseHTTPRequestHandler):
    def do_POST(self):
        body = self.rfile.read(int(self.headers["Content-Length"]))
        self.server.got.append((self.path, dict(self.headers), json.loads(body)))
        answer = self.server.answers.pop(0) if self.server.answers else 200
        if answer == "drop":
            self.connection.shutdown(socket.SHUT_RDWR)
            return
        status, headers = answer if isinstance(answer, tuple) else (answer, {})
        self.send_response(status)
        for name, value in headers.items():
            self.send_header(name, value)
        self.send_header("Content-Length", "2")
        self.end_headers()
        self.wfile.write(b"ok")

    def log_message(self, *_):
        pass


@contextmanager
def listening():
    """A server that keeps what is posted and answers as told, else with 200."""
    with ThreadingHTTPServer(("127.0.0.1", 0), _Handler) as server:
        server.got, server.answers = [], []
        server.place = f"127.0.0.1:{server.server_address[1]}"
        thread = threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.01})
        thread.start()
        try:
            yield server
        finally:
            server.shutdown()
            thread.join()


@pytest.fixture
def server():
    with listening() as found:
        yield found


@pytest.fixture
def settings(tmp_path):
    return Settings(BUILT_IN, Policy(), delivery=tmp_path / "delivery")


def of(*urls, hook="", **more):
    return ChatSettings(urls=urls, webhook=hook, **more)


def lines(settings, *paths, when="", **options):
    messages = [(result,) for result in collect_results(paths).results]
    channel = ChatChannel(settings.chat, **options)
    return list(deliver(messages, channel, when=when or settings.chat.when, folder=settings.delivery))


def worse(rng, **changes):
    return trend_document(nightly(rng, 60, [(40, changes.get("services", ("api",))[0], 1.2)], **changes))


def test_a_chat_is_told_verdict_events_commands_and_link(rng, server, settings, tmp_path):
    folder = reported(tmp_path / "night 1", worse(rng))
    link = "https://ci.example/{report}/report.html"
    settings = replace(settings, chat=of(f"json://{server.place}/x", link=link))
    (line,) = lines(settings, folder)
    assert line == "sent to json 1: ✗ regression: nightly"
    ((path, _, message),) = server.got
    assert (path, message["title"], message["type"]) == ("/x", "✗ regression: nightly", "failure")
    assert re.search(r"• new: Worse: \w+ latency of api \+\d+\.?\d* % \[\+", message["message"])
    assert "If it is intended: perfkit ack 2026" in message["message"]
    assert message["message"].endswith("https://ci.example/night%201/report.html")
    assert len(message["message"]) <= LONGEST


def test_only_what_is_new_is_told(rng, server, settings, tmp_path):
    settings = replace(settings, chat=of(f"json://{server.place}/x"))
    quiet, loud = (
        reported(tmp_path / name, trend_document(nightly(rng, 60, steps)))
        for name, steps in (("a", []), ("b", [(40, "api", 1.2)]))
    )
    nothing = ["nothing new in nightly since the last message: nothing sent"]
    assert lines(settings, quiet) == nothing
    assert len(lines(settings, loud)) == 1
    assert lines(settings, loud) == nothing
    assert len(lines(settings, loud, when="always")) == 1
    assert len(server.got) == 2


def test_what_one_chat_does_not_take_the_others_get_and_it_gets_the_next_time(rng, server, settings, tmp_path):
    folder = reported(tmp_path / "r", worse(rng))
    with listening() as broken:
        settings = replace(
            settings,
            chat=of(
                f"json://{broken.place}/s3cr3t-token", f"json://{server.place}/x", hook=f"http://{server.place}/hook"
            ),
        )
        broken.answers = [500]
        with pytest.raises(DeliveryError, match=r"^json 1 was not reached: .*500") as caught:
            lines(settings, folder)
        assert "s3cr3t-token" not in str(caught.value)
        assert broken.place not in str(caught.value)
        assert [path for path, _, _ in server.got] == ["/x", "/hook"]
        assert lines(settings, folder) == ["sent to json 1: ✗ regression: nightly"]
        assert len(broken.got) == 2
    assert len(server.got) == 2
    for file in (settings.delivery / "told").iterdir():
        assert "s3cr3t-token" not in file.read_text()


CHATS = {
    "json": ("json://{place}/x", "message"),
    "mattermost": ("mmost://{place}/token/", "text"),
    "slack": ("slack://T1JJ3T3L2/A1BRTD4JD/TIiajkdnlazkcOXrIdevi7FQ/#perf", "text"),
    "discord": ("discord://4174216298/JHMHI8qBe7bk2ZwO5U711o3dV_js/", "content"),
}


@pytest.mark.parametrize("chat", CHATS)
@pytest.mark.parametrize(
    "name", [*HOSTILE, "@here @channel @all <!here> <!subteam^S1> <@W1> <#C1> &lt;!channel&gt; ||x||"]
)
def test_no_name_pings_or_breaks_the_text_of_a_chat(rng, server, settings, tmp_path, monkeypatch, chat, name):
    from apprise.plugins.discord import NotifyDiscord
    from apprise.plugins.slack import NotifySlack

    # Apprise's own code, aimed at loopback
    monkeypatch.setattr(NotifySlack, "webhook_url", f"http://{server.place}/services")
    monkeypatch.setattr(NotifyDiscord, "notify_url", f"http://{server.place}/api", raising=True)
    document = worse(rng, services=(name, "db"), scenario=name, branch=name, commit=name)
    settings = replace(settings, chat=of(CHATS[chat][0].format(place=server.place)))
    lines(settings, reported(tmp_path / "r", document))
    ((_, _, message),) = server.got
    shown = json.dumps(message, ensure_ascii=False)
    for bad in ("@everyone", "@here", "@channel", "@all", "<!", "<@", "<#", "](", "http://evil", "||"):
        assert bad not in shown, bad
    assert not re.search(r"<script|&lt;!|\u202e|allowed_mentions\": \{\"parse\": \[\"", shown)
    assert "Worse" in shown


@given(st.text(alphabet="@<>!#&*_`~|[](){}:/\\ax\u202e\r\n-+=.", max_size=60))
def test_any_text_becomes_harmless(text):
    line = harmless(text)
    assert not set("@<>*`~|\\#&\r\n\u202e") & set(line)
    assert "](" not in line
    assert "://" not in line.replace(" ://", "")
    assert not re.match(r"[-+=:!/]\S", line)
    assert not re.search(r"(?<![A-Za-z0-9])_|_(?![A-Za-z0-9])", line)


def test_plain_names_stay_as_they_are():
    for text in ("GET /items/{id}", "api_gateway", "p95 latency +12.2 % [+10.5, +14.0]", "a-b.c:80"):
        assert harmless(text) == text


@pytest.mark.parametrize("services", [("api", "db"), tuple(f"{n}{name}" for n in range(8) for name in HOSTILE)])
def test_a_text_is_short_whatever_happened(rng, services):
    before, after = (side(rng, 3, first=n, names=services, slower=f) for n, f in ((0, 1.0), (9, 1.5)))
    result = result_of(compare(before, after).to_dict(), HOSTILE[3])
    title, text = chat_text(message_of(result, location=ReportLocation(HOSTILE[3], "")))
    assert len(title) <= 120
    assert len(text) <= LONGEST
    assert "\n".join(text.splitlines()) == text


def test_a_webhook_gets_the_result_as_a_document(rng, server, settings, tmp_path):
    document = worse(rng)
    settings = replace(settings, chat=of(hook=f"http://{server.place}/hook?key=1"))
    (line,) = lines(settings, reported(tmp_path / "r", document))
    assert line == f"sent to webhook http://{server.place}: ✗ regression: nightly"
    ((path, headers, message),) = server.got
    assert (path, headers["Content-Type"]) == ("/hook?key=1", "application/json")
    assert message["result"] == json.loads(json.dumps(document))
    assert (message["schema"], message["scenario"], message["verdict"]) == ("perfkit.notice/1", "nightly", "regression")
    assert message["headlines"][0].startswith("Worse: ")
    assert len(message["news"]["appeared"]) == 1


def test_a_large_result_is_left_out_of_the_document(rng):
    names = tuple(f"service {n}" for n in range(200))
    result = result_of(compare(side(rng, 2, names=names), side(rng, 2, first=5, names=names)).to_dict(), "x")
    document = webhook_document(message_of(result))
    assert document["result"] is None
    assert document["result_bytes"] > LARGEST
    assert len(json.dumps(document)) <= LARGEST


@pytest.mark.parametrize(
    ("answers", "tries", "why"),
    [
        ([200], 1, ""),
        ([204], 1, ""),
        ([503, 429, 502, 200], 4, ""),
        ([(429, {"Retry-After": "0"}), 200], 2, ""),
        ([503] * 9, 4, "answered 503"),
        ([500], 1, "answered 500"),
        ([404], 1, "answered 404"),
        ([(302, {"Location": "http://127.0.0.1:9/steal"})], 1, "answered 302"),
        (["drop", 200], 1, "may have arrived, and is not sent again"),
    ],
)
def test_a_webhook_is_asked_again_where_that_helps(server, answers, tries, why):
    server.answers = answers
    said_why = post(f"http://{server.place}/x", {"a": 1}, backoff_s=0.0)
    assert why in said_why
    assert bool(why) == bool(said_why)
    assert len(server.got) == tries
    assert len({headers["Idempotency-Key"] for _, headers, _ in server.got}) == 1


def test_a_webhook_that_is_down_or_silent_is_named_without_its_secrets(caplog, capfd):
    with socket.create_server(("127.0.0.1", 0)) as silent:
        place = f"127.0.0.1:{silent.getsockname()[1]}"
        why = post(f"http://{place}/s3cr3t", {}, backoff_s=0.0, timeout_s=0.05)
        assert why == "no answer in time; it may have arrived, and is not sent again"
    assert post(f"http://{place}/s3cr3t", {}, backoff_s=0.0) == "no connection"
    hook = Webhook("https://user:pass@hooks.example:8443/services/T0/s3cr3t?key=1")
    assert hook.name == "webhook https://hooks.example:8443"
    assert "s3cr3t" not in caplog.text + "".join(capfd.readouterr())  # urllib3 logs the paths that it asks for again


def test_a_server_cannot_make_us_wait_for_ever(server, monkeypatch):
    waits = []
    monkeypatch.setattr("time.sleep", waits.append)
    server.answers = [(503, {"Retry-After": "86400"}), 200]
    assert post(f"http://{server.place}/x", {}) == ""
    assert [wait for wait in waits if wait >= 1] == [60.0]


@pytest.mark.parametrize(
    "url",
    ["ftp://x/s3cr3t", "javascript:alert(1)", "http://", "https://x y/s3cr3t", "http://[/s3cr3t", "https://x:99999/"],
)
def test_what_is_no_address_is_refused_and_not_repeated(rng, settings, tmp_path, url):
    folder = reported(tmp_path / "r", worse(rng))
    with pytest.raises(SettingsError, match=r"\[chat\]: webhook: expected an address") as caught:
        lines(settings, folder, webhook=url)
    assert "s3cr3t" not in str(caught.value)


@pytest.mark.parametrize("url", ["nosuch://s3cr3t", "slack://s3cr3t", "s3cr3t", ""])
def test_what_apprise_does_not_know_is_refused_and_not_repeated(rng, settings, tmp_path, url, capsys):
    folder = reported(tmp_path / "r", worse(rng))
    with pytest.raises(SettingsError, match="number 2 is no address that Apprise knows") as caught:
        lines(replace(settings, chat=of("json://localhost", url)), folder)
    assert "s3cr3t" not in str(caught.value)
    assert capsys.readouterr() == ("", "")


def test_nobody_to_tell_is_an_error(rng, settings, tmp_path):
    with pytest.raises(SettingsError, match="urls is missing"):
        lines(settings, reported(tmp_path / "r", worse(rng)))


def test_a_trial_sends_and_remembers_nothing(rng, server, settings, tmp_path):
    folder = reported(tmp_path / "r", worse(rng))
    settings = replace(settings, chat=of(f"json://{server.place}/x", hook=f"http://{server.place}/hook"))
    for _ in range(2):
        room, hook = lines(settings, folder, dry_run=True)
        assert room.startswith("json 1, not sent:\n✗ regression: nightly\n• new: Worse: ")
        assert json.loads(hook.partition("\n")[2])["schema"] == "perfkit.notice/1"
    assert server.got == []
    assert not settings.delivery.exists()


def test_the_command_tells_whom_the_settings_name(rng, server, tmp_path, monkeypatch):
    folder = reported(tmp_path / "r", worse(rng))
    (tmp_path / "perfkit.toml").write_text('[chat]\nurls = ["${ROOM}"]\nwebhook = "${HOOK}"\n')
    monkeypatch.chdir(tmp_path)
    assert invoke("notify", folder)[::2] == (2, "perfkit: [chat]: urls: the environment variable ROOM is not set\n")
    monkeypatch.setenv("ROOM", f"json://{server.place}/r00m-secret")
    monkeypatch.setenv("HOOK", f"http://{server.place}/hook")
    server.answers = [500, 404]
    code, out, err = invoke("notify", folder)
    assert (code, out) == (4, "")
    assert err.count("was not reached") == 2
    assert "r00m-secret" not in err
    assert invoke("notify", folder) == (
        0,
        f"sent to json 1: ✗ regression: nightly\nsent to webhook http://{server.place}: ✗ regression: nightly\n",
        "",
    )
    assert invoke("notify", folder) == (0, "nothing new in nightly since the last message: nothing sent\n", "")


def test_without_apprise_the_extra_is_named_and_webhooks_work(rng, server, settings, tmp_path, monkeypatch):
    folder = reported(tmp_path / "r", worse(rng))
    monkeypatch.setitem(sys.modules, "apprise", None)
    with pytest.raises(MissingExtra, match="install perfkit with the extra `chat`"):
        lines(settings, folder, urls=("json://localhost",))
    assert len(lines(settings, folder, webhook=f"http://{server.place}/x")) == 1


def test_the_command_line_loads_neither_apprise_nor_matplotlib():
    heavy = ("apprise", "matplotlib", "css_inline", "requests", "smtplib")
    code = f"""
import sys
from perfkit.cli import main
for command in ("notify", "email"):
    main([command, "--help"], sys.stdout, sys.stderr)
sys.exit(", ".join(name for name in {heavy!r} if name in sys.modules) or None)
"""
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=False)
    assert (done.returncode, done.stderr) == (0, "")
