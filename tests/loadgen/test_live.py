"""A load test is watched while it goes on: from its recording, over HTTP, in a browser, and in a notebook."""

import json
import math
import socket
import subprocess
import sys
import time
import urllib.error
import urllib.request

import numpy as np
import pytest
from browser import needs_chromium
from loopback import serving as target_serving
from samples import REPOSITORY

import perfkit
from perfkit.cli import main
from perfkit.loadgen.live import MOST_POINTS, MOST_SERVICES, OTHERS, LiveRequests
from perfkit.loadgen.recording import FileSink, RequestBuffer
from perfkit.report.live import Look, serving

HOSTILE = "<img src=x onerror=alert(1)></script>\u202eGET /y"
LOCUSTFILE = f"""
from locust import FastHttpUser, constant, task

class Caller(FastHttpUser):
    wait_time = constant(0.05)

    @task(3)
    def get(self):
        self.client.get("/ok", name="GET /ok")

    @task
    def fail(self):
        self.client.get("/fail?status=500", name={HOSTILE!r})
"""


def record(sink, buffer, requests):
    """Write ``(name, ms, error, start)`` as one batch."""
    for name, ms, error, start in requests:
        buffer.on_request("GET", name, ms, 10, error, start)
    sink.write_batch(buffer.take())


def test_a_growing_recording_is_summed_up_as_far_as_it_is_whole(tmp_path, rng):
    path, whole = tmp_path / "growing.arrow", tmp_path / "whole.arrow"
    live, sink, buffer = LiveRequests(path), FileSink(whole, tmp_path / "generator.csv"), RequestBuffer()
    live.read(3)  # there is no file yet
    assert live.services() == ()
    times = rng.lognormal(4, 1, 4000)
    start = time.time() - 100
    for part in range(4):
        mine = times[part * 1000 : part * 1000 + 1000]
        failed = (ValueError("token 4711") if n % 100 == 0 else None for n in range(1000))
        record(
            sink,
            buffer,
            [(f"s{n % 2}", ms, error, start + part) for n, (ms, error) in enumerate(zip(mine, failed, strict=True))],
        )
    content = whole.read_bytes()
    for end in (3, 900, len(content) // 2, len(content) - 1):  # cut anywhere
        path.write_bytes(content[:end])
        live.read(3)
        live.read(3)
    assert sum(one.count for one in live.services()) == 3000
    path.write_bytes(content)
    live.read(3)
    first, second = live.services()
    assert (first.service, first.count, first.failures, second.failures) == ("s0", 2000, 40, 0)
    assert first.avg == pytest.approx(times[::2].mean())
    assert first.max == pytest.approx(times[::2].max())
    for quantile, value in ((0.5, first.p50), (0.95, first.p95), (0.99, first.p99)):
        assert value == pytest.approx(np.quantile(times[::2], quantile, method="inverted_cdf"), rel=0.0101)
    assert live.errors == {("ValueError", "s0"): 40}
    assert live.course().rps.sum() == 4000
    live.close()
    sink._table.close()


def test_a_late_look_leaves_no_gap_in_the_users(tmp_path, monkeypatch):
    path, now = tmp_path / "late.arrow", time.time()
    live, sink, buffer = LiveRequests(path), FileSink(path, tmp_path / "generator.csv"), RequestBuffer()
    record(sink, buffer, [("GET /", 10.0, None, now)])
    for later, users in ((0.5, 2), (3.5, 4), (3.6, 5)):
        monkeypatch.setattr("perfkit.loadgen.live.time.time", lambda at=now + later: at)
        live.read(users)
    assert live._users[:5].tolist()[:4] == [2, 4, 4, 5]
    assert math.isnan(live._users[4])
    live.close()
    sink._table.close()


def test_memory_is_bounded_in_time_services_and_kinds(tmp_path):
    path = tmp_path / "long.arrow"
    live, sink, buffer = LiveRequests(path), FileSink(path, tmp_path / "generator.csv"), RequestBuffer()
    start = time.time() - 10_000
    record(sink, buffer, [(f"GET /item/{n}", 10.0, None, start + n) for n in range(10_000)])
    live.read(1)
    services, course = live.services(), live.course()
    assert len(services) == MOST_SERVICES + 1
    assert services[0].service == OTHERS
    assert sum(one.count for one in services) == 10_000
    assert course.width_s == 64.0
    assert len(course.rps) <= MOST_POINTS
    assert np.median(course.rps) == pytest.approx(1.0)
    assert math.isnan(course.users[0])
    live.close()
    sink._table.close()


def test_a_recording_that_is_damaged_adds_nothing(tmp_path):
    path = tmp_path / "damaged.arrow"
    path.write_bytes(b"\xff\xff\xff\xff" + b"x" * 500)
    live = LiveRequests(path)
    live.read(1)
    assert live.services() == ()
    live.close()


def get(url, **headers):
    with urllib.request.urlopen(urllib.request.Request(url, headers=headers), timeout=30) as answer:
        return answer.status, answer.read().decode(), dict(answer.headers)


def refused(url, **headers):
    try:
        return get(url, **headers)[0]
    except urllib.error.HTTPError as error:
        error.close()
        return error.code


def test_only_who_knows_the_address_sees_the_page():
    with serving() as page:
        page.publish(Look("<p>x</p>", "t", "s"))
        assert page.server_address[0] == "127.0.0.1"
        host = f"127.0.0.1:{page.server_port}"
        _, html, headers = get(page.url)
        assert "http" not in html.replace("http://www.w3.org", "")
        assert "default-src 'none'" in headers["Content-Security-Policy"]
        assert json.loads(get(f"{page.url}view")[1])["html"] == "<p>x</p>"
        assert refused(f"http://{host}/") == 404
        assert refused(f"http://{host}/wrong/view") == 404
        assert refused(f"{page.url}other") == 404
        assert refused(page.url, Host=f"evil.example:{page.server_port}") == 404  # DNS rebinding
        assert refused(f"{page.url}view?after=nonsense") == 200


def test_closed_pages_and_a_server_that_died_do_no_harm():
    with serving() as page:
        asking = [socket.create_connection(page.server_address) for _ in range(3)]
        for one in asking:
            path = page.url.split("/", 3)[3]
            one.sendall(f"GET /{path}view?after=-1 HTTP/1.1\r\nHost: 127.0.0.1:{page.server_port}\r\n\r\n".encode())
        for one in asking:
            one.close()
        page.publish(Look("x" * 1_000_000, "t", "s"))
        assert get(page.url)[0] == 200
        page.shutdown()  # as if its thread had died
        page.server_close()
        page.publish(Look("", "t", "s"))


def test_a_port_that_is_taken_is_said_before_the_load(tmp_path, capsys):
    with socket.create_server(("127.0.0.1", 0)) as taken:
        port = taken.getsockname()[1]
        words = ["run", "baseline", "--live", "--live-port", str(port), "--store", str(tmp_path / "runs")]
        assert main(words, sys.stdout, sys.stderr) == 2
    assert f"--live-port {port}: cannot be listened on" in capsys.readouterr().err
    assert not (tmp_path / "runs").exists()
    assert main(["run", "baseline", "--live-port", str(port)], sys.stdout, sys.stderr) == 2
    assert "--live-port needs --live" in capsys.readouterr().err


@pytest.mark.parametrize("width", [pytest.param(400, marks=needs_chromium)])
def test_a_real_run_is_watched_until_its_end(tmp_path, browser, width):
    (tmp_path / "locustfile.py").write_text(LOCUSTFILE)
    words = ["--locustfile", "locustfile.py", "--users", "5", "--duration", "4s", "--live", "--store", "runs"]
    with target_serving() as target:
        command = [sys.executable, "-m", "perfkit", "run", "shop", "--host", target.url, *words]
        with subprocess.Popen(
            command, cwd=tmp_path, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True
        ) as process:
            try:
                url = next(line.split()[1] for line in process.stderr if line.startswith("live: "))
                context = browser.new_context(viewport={"width": width, "height": 900}, color_scheme="dark")
                page, said, asked = context.new_page(), [], []
                page.on("console", lambda message: said.append(message.text))
                page.on("pageerror", lambda error: said.append(str(error)))
                page.on("dialog", lambda dialog: (said.append(dialog.message), dialog.dismiss()))
                page.on("request", lambda request: asked.append(request.url))
                page.goto(url)
                closed = context.new_page()
                closed.goto(url)
                page.locator(".pk-tile").first.wait_for(timeout=60_000)
                closed.close()
                page.locator("th", has_text="LocustBadStatusCode 500").wait_for(timeout=30_000)
                running = json.loads(get(f"{url}view")[1])
                shown = page.inner_text("main")
                paths = page.locator("svg path").count()
                page.wait_for_selector("html[data-ended]", state="attached", timeout=60_000)
                end, fits = page.inner_text("main"), page.evaluate("document.documentElement.scrollWidth") <= width
                axe = pytest.importorskip("axe_playwright_python.sync_playwright")
                barriers = [one["id"] for one in axe.Axe().run(page).response["violations"]]
                context.close()
                out, err = process.communicate(timeout=60)
            finally:
                process.kill()
    assert (said, barriers) == ([], [])
    assert all(one.startswith((url, "data:")) for one in asked)
    assert "shop: running, about 0:0" in running["state"]
    assert "users" in shown
    assert "GET /ok" in shown
    assert "<img src=x onerror=alert(1)></script>GET /y" in shown
    assert paths == 5
    assert fits
    (folder,) = (tmp_path / "runs").iterdir()
    run = perfkit.read_run(folder)
    assert process.returncode == (0 if run.validity.ok else 3), err
    failures = run.services["GET /ok"].failures, sum(one.failures for one in run.services.values())
    assert failures[0] == 0
    count = sum(one.count for one in run.services.values())
    assert "Ended at" in end
    assert f"shop: 1 run, {count:,} requests, {failures[1]:,} failures" in end
    assert f"{failures[1]:,}  LocustBadStatusCode 500  <img src=x" in out
    assert "\u202e" not in out + end


@pytest.mark.slow
def test_a_cell_shows_its_runs_and_interrupting_it_ends_the_load_in_order(tmp_path, monkeypatch):
    """In a real kernel: the view is replaced in place, the runs come back, and Ctrl-C keeps what was measured."""
    from jupyter_client.manager import start_new_kernel

    (tmp_path / "locustfile.py").write_text(LOCUSTFILE)
    monkeypatch.setenv("PYTHONPATH", str(REPOSITORY))
    manager, client = start_new_kernel(cwd=str(tmp_path))
    try:
        with target_serving() as target:
            words = f'"shop", locustfile="locustfile.py", host="{target.url}", users=5, store="runs"'
            code = f'runs = perfkit.run({words}, duration="3s", labels={{"a": "b"}})'
            client.execute(f"import perfkit\n{code}\nlen(runs)")
            shown, ids, result = [], set(), None
            while (message := client.get_iopub_msg(timeout=60))["content"].get("execution_state") != "idle":
                content = message["content"]
                assert message["msg_type"] != "error", content
                if message["msg_type"] in ("display_data", "update_display_data"):
                    shown.append(content["data"])
                    ids.add(content["transient"]["display_id"])
                if message["msg_type"] == "execute_result":
                    result = content["data"]["text/plain"]
            assert result == "1"
            assert len(ids) == 1
            assert any(data["text/plain"].startswith("shop: running") for data in shown)
            assert shown[-1]["text/plain"].startswith("Ended at")
            assert "&lt;img src=x" in shown[-1]["text/html"]
            assert "<script" not in shown[-1]["text/html"]

            client.execute(f'perfkit.run({words}, duration="60s")')
            while "shop: running" not in str(client.get_iopub_msg(timeout=60)["content"].get("data")):
                pass
            manager.interrupt_kernel()
            while (message := client.get_iopub_msg(timeout=60))["msg_type"] != "error":
                pass
            assert message["content"]["ename"] == "LoadStopped"
    finally:
        client.stop_channels()
        manager.shutdown_kernel(now=True)
    whole, stopped = perfkit.RunStore(tmp_path / "runs")[:]
    assert whole.labels == {"a": "b"}
    assert "interrupted" in {check.name for check in stopped.validity.problems}
    assert message["content"]["evalue"].endswith(f"Kept in runs: {stopped.id}")


def test_words_of_load_that_are_unknown_are_said_before_the_load(tmp_path):
    with pytest.raises(ValueError, match=r"user: unknown \(did you mean 'users'"):
        perfkit.run("baseline", user=3, store=tmp_path)
    with pytest.raises(ValueError, match="repeat: must be at least 1, got 0"):
        perfkit.run("baseline", repeat=0, store=tmp_path)
    assert list(tmp_path.iterdir()) == []
