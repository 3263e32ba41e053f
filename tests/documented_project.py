"""The project in which the documentation's commands run: a git repository with a service, settings and a store of runs.

Its scenario ``shop`` was simulated by perfkit's own simulator: nights, then five runs of 1 November 2026, then runs of
2 November, since when ``GET /cart`` takes longer.  Results and report folders are those that pages name.
"""

import json
import threading
from contextlib import ExitStack, contextmanager
from dataclasses import replace
from datetime import UTC, datetime, timedelta
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path

import github_server
import mail_server
from command_line import invoke
from repositories import commit, git
from samples import REPOSITORY

from perfkit import RunStore, open_history, run_from_requests
from perfkit.config.settings import BUILT_IN, override
from perfkit.loadgen.demo_services import Change
from perfkit.loadgen.simulate import WEIGHTS, simulate_requests
from perfkit.model.records import Verdict
from perfkit.report.report_set import Entry, Overview

SERVICES = {"api_gateway": "GET /cart", "rag_service": "GET /search"}
NEW_LEVEL = "20261102T020000Z-shop-3f9c"  # the id that pages name
SERVICE = """import http.server, sys
class Shop(http.server.BaseHTTPRequestHandler):
    protocol_version, wbufsize = "HTTP/1.1", -1
    def do_GET(self):
        self.send_response(200); self.send_header("Content-Length", "2"); self.end_headers(); self.wfile.write(b"ok")
    def log_message(self, *_): pass
http.server.ThreadingHTTPServer(("127.0.0.1", int(sys.argv[1])), Shop).serve_forever()
"""
LOCUSTFILE = """from locust import FastHttpUser, constant, events, task

@events.init_command_line_parser.add_listener
def _(parser):
    parser.add_argument("--my-arg", type=int, default=1)

class Buyer(FastHttpUser):
    wait_time = constant(0.02)
    @task
    def cart(self):
        self.client.get("/cart")
"""
SETTINGS = """
[scenario.shop]
locustfile = "locustfile.py"
host = "{host}"
users = 4
spawn_rate = 4
duration = "2s"
serve = "{python} shop.py {{port}}"

[email]
to = ["team@example.org"]
from = "perf@example.org"
host = "127.0.0.1"
port = {smtp}
security = "none"

[issues]
repository = "octo/shop"

[chat]
webhook = "{host}/hook"
"""


def begins():
    """When the runs began: 24 nights, five runs of one day, and eight of the next."""
    nights = [datetime(2026, 10, 8, 2, tzinfo=UTC) + timedelta(days=day) for day in range(24)]
    days = [(datetime(2026, 11, day, 2, tzinfo=UTC), count) for day, count in ((1, 5), (2, 8))]
    return nights + [day + timedelta(minutes=10 * number) for day, count in days for number in range(count)]


def make_project(folder: Path) -> Path:
    """Write everything but the settings, whose servers each test starts."""
    folder.mkdir(parents=True)
    git(folder, "init", "-q", "-b", "main")
    (folder / "shop.py").write_text(SERVICE, encoding="utf-8")
    (folder / "strict.toml").write_text("[tolerance]\np95_latency_ms = 5\n", encoding="utf-8")
    for path in ("locustfile.py", "tests/locustfile.py"):
        (folder / path).parent.mkdir(exist_ok=True)
        (folder / path).write_text(LOCUSTFILE, encoding="utf-8")
    (folder / ".gitignore").write_text("data\nreports\n*.json\n*.toml\n", encoding="utf-8")
    git(folder, "add", ".")
    release = commit(folder, "A shop")
    git(folder, "tag", "v1.4")
    slower = commit(folder, "Show related products")
    git(folder, "init", "-q", "--bare", "../origin.git")
    git(folder, "remote", "add", "origin", "../origin.git")
    git(folder, "push", "-q", "origin", "main", "v1.4")
    scenario = override(
        BUILT_IN["api"],
        "test",
        users=4,
        spawn_rate=4,
        duration_s=16.0,
        environment={WEIGHTS: "api_gateway=1,rag_service=1"},
    )
    store = RunStore(str(folder / "data" / "runs"))
    for number, begin in enumerate(begins()):
        is_new = begin >= datetime(2026, 11, 2, tzinfo=UTC)
        changes = {"api_gateway": Change(slower_pct=40)} if is_new else {}
        frame = simulate_requests(scenario, number, started_at=begin, changes=changes, run_to_run_pct=1.0)
        frame["service"] = frame["service"].map(SERVICES)
        run = run_from_requests(frame, scenario="shop", build="1.5" if is_new else "1.4", machine="ci-4")
        run = replace(run, git={"commit": slower if is_new else release, "branch": "main"})
        store.add(replace(run, id=NEW_LEVEL) if f"{begin:%Y%m%dT%H%M%SZ}" in NEW_LEVEL else run)
    store_as_branch = RunStore(f"git+branch://perf-history?repository={folder}")
    for name in store.ids()[-3:]:
        store_as_branch.add(store.get(name))
    git(folder, "push", "-q", "origin", "perf-history")
    git(folder, "branch", "-q", "-D", "perf-history")
    (folder / "data" / "samples").symlink_to(REPOSITORY / "data" / "samples")
    return folder


def write_results(folder: Path) -> None:
    """Result files and folders of reports, in the current folder: what reports keep, without their notebooks."""
    sides = ("data/runs/20261101T*", "--candidate", "data/runs/20261102T*")
    code, result, _ = invoke("compare", *sides, "--format", "json")
    assert code == 1
    trend = json.dumps(open_history(None, "shop").to_dict())
    (folder / "result.json").write_text(result, encoding="utf-8")
    for kind, text in (("compare", result), ("trend", trend)):
        report = folder / "reports" / f"20261102T020000Z-{kind}"
        report.mkdir(parents=True)
        (report / "result.json").write_text(text, encoding="utf-8")
        (report / "report.html").write_text("<html><body>A report</body></html>", encoding="utf-8")
    whole = folder / "reports" / "20261102T020000Z-all"
    (whole / "shop-compare").mkdir(parents=True)
    (whole / "shop-compare" / "result.json").write_text(result, encoding="utf-8")
    entry = Entry("shop", "compare", verdict=Verdict.REGRESSION, result="shop-compare/result.json")
    Overview((entry,), datetime(2026, 11, 2, tzinfo=UTC)).write(whole)


class _Answer(BaseHTTPRequestHandler):
    """Answers everything: the shop under load, and a webhook."""

    protocol_version = "HTTP/1.1"

    def do_GET(self) -> None:
        self.rfile.read(int(self.headers.get("Content-Length", 0)))
        self.wfile.write(b"HTTP/1.1 200 OK\r\nContent-Length: 2\r\n\r\nok")

    do_POST = do_GET

    def log_message(self, *_: object) -> None:
        pass


@contextmanager
def servers():
    """Address of the shop, port of a mail server, and the variables of a job of pull request 412 on GitHub."""
    with ExitStack() as stack:
        shop = stack.enter_context(ThreadingHTTPServer(("127.0.0.1", 0), _Answer))
        thread = threading.Thread(target=shop.serve_forever, kwargs={"poll_interval": 0.01})
        thread.start()
        stack.callback(thread.join)
        stack.callback(shop.shutdown)
        _, smtp = stack.enter_context(mail_server.serving(security="none", login=False))
        github = stack.enter_context(github_server.serving())
        addresses = dict.fromkeys(("url", "html_url", "diff_url", "patch_url"))
        github.issues = {412: github.add_issue("A pull request", number=412, pull_request=addresses)}
        variables = github.environment(NO_PROXY="127.0.0.1", GITHUB_REF="refs/pull/412/merge")
        yield f"http://127.0.0.1:{shop.server_address[1]}", smtp, variables
