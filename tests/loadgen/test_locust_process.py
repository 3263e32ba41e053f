"""Locust as a process: how it is started, how it ends, and what is said when it does not work."""

import os
import select
import signal
import socket
import subprocess
import sys
from collections.abc import Iterator
from contextlib import closing
from pathlib import Path

import pytest
from loopback import ENDLESS, Loopback, command, serving
from samples import REPOSITORY

from perfkit.config.settings import Scenario
from perfkit.loadgen.locust_command import LocustCommand
from perfkit.loadgen.locust_process import _StopRequest, check_host, check_locustfile, run_locust
from perfkit.model.errors import LoadError
from perfkit.runs.recording_stream import read_recording

SLOW = """
    from locust import FastHttpUser, task

    class Slow(FastHttpUser):
        @task
        def get(self):
            self.client.get("/slow?ms=1200", name="/slow")
"""


@pytest.fixture
def server() -> Iterator[Loopback]:
    with serving() as loopback:
        yield loopback


def once(number: int, when):
    """A listener that raises a signal at the first progress that fulfils a condition."""
    raised = []

    def listener(progress):
        if not raised and when(progress):
            raised.append(progress)
            signal.raise_signal(number)

    return listener


def pid_of(folder: Path) -> int:
    return int((folder / "pid").read_text())


@pytest.mark.parametrize(
    ("number", "returncode", "reason"),
    [
        (signal.SIGKILL, -signal.SIGKILL, "Locust was ended by SIGKILL (SIGKILL often means: out of memory)"),
        (signal.SIGTERM, 0, "Locust was asked to end by a signal"),
    ],
)
def test_locust_ended_from_outside_leaves_a_readable_recording(tmp_path, server, number, returncode, reason):
    asked = command(tmp_path, ENDLESS, server.url)
    outcome = run_locust(asked, lambda progress: os.kill(pid_of(tmp_path), number) if progress.requests else None)
    assert (outcome.returncode, outcome.interrupted, outcome.reason) == (returncode, True, reason)
    assert 0 < read_recording(asked.recording).num_rows <= server.answered["/ok"]


PARENT = """
import sys
from pathlib import Path
from perfkit.config.settings import Scenario
from perfkit.loadgen.locust_command import LocustCommand
from perfkit.loadgen.locust_process import run_locust

file, host, folder = sys.argv[1:]
asked = LocustCommand(Scenario("test", Path(file), host, 2, 2), Path(folder))
run_locust(asked, lambda progress: print(progress.requests, flush=True))
"""


def ended(process_fd: int, within_s: float) -> bool:
    """Whether the process of a pidfd ends; the kernel tells, also of a zombie that nobody waits for."""
    return bool(select.select([process_fd], [], [], within_s)[0])


@pytest.mark.skipif(not hasattr(os, "pidfd_open"), reason="needs Linux, to wait for a process that is not a child")
@pytest.mark.parametrize("source", [ENDLESS, SLOW], ids=["busy", "waiting"])
def test_locust_does_not_outlive_a_killed_parent(tmp_path, server, source):
    file = command(tmp_path, ENDLESS.rstrip() + source.replace("FastHttpUser, task", "task")).scenario.locustfile
    argv = [sys.executable, "-c", PARENT, str(file), server.url, str(tmp_path / "run")]
    root = REPOSITORY
    with subprocess.Popen(argv, stdout=subprocess.PIPE, text=True, cwd=root) as parent:
        while int(parent.stdout.readline()) == 0:
            pass
        locust = os.pidfd_open(pid_of(tmp_path))
        parent.kill()
    try:
        assert ended(locust, 3.0)
    finally:
        os.close(locust)
    assert read_recording(tmp_path / "run" / "requests.arrow").num_rows > 0


@pytest.mark.parametrize(
    ("number", "reason"), [(signal.SIGINT, "stopped by Ctrl-C"), (signal.SIGTERM, "stopped by SIGTERM")]
)
def test_a_signal_ends_the_run_in_order_and_requests_in_flight_finish(tmp_path, server, number, reason):
    asked = command(tmp_path, SLOW, server.url)
    before = signal.getsignal(number)

    outcome = run_locust(asked, once(number, lambda _: server.slow_came.is_set()))
    assert (outcome.returncode, outcome.interrupted, outcome.reason) == (0, True, reason)
    assert read_recording(asked.recording)["service"].to_pylist() == ["/slow"] * server.answered["/slow"]
    assert server.answered["/slow"] >= 1
    assert signal.getsignal(number) is before


STUBBORN = """
    import signal
    import gevent
    from locust import User, events, task

    @events.test_start.add_listener
    def refuse(**_):
        gevent.signal_handler(signal.SIGTERM, lambda: None)

    class Stubborn(User):
        @task
        def stay(self):
            while True:
                try:
                    gevent.sleep(60)
                except BaseException:
                    pass
"""


def test_who_does_not_listen_is_killed(tmp_path, monkeypatch):
    monkeypatch.setattr("perfkit.loadgen.locust_process.ORDERLY_END_S", 0.5)
    monkeypatch.setattr("perfkit.loadgen.locust_process.FORCED_END_S", 0.5)
    outcome = run_locust(command(tmp_path, STUBBORN), once(signal.SIGINT, lambda _: True))
    assert (outcome.returncode, outcome.interrupted) == (-signal.SIGKILL, True)


def test_an_error_of_the_listener_leaves_no_process_behind(tmp_path, server):
    with pytest.raises(ZeroDivisionError):
        run_locust(command(tmp_path, ENDLESS, server.url), lambda _: 1 / 0)
    with pytest.raises(ProcessLookupError):
        os.kill(pid_of(tmp_path), 0)


SHAPED = """
    from locust import FastHttpUser, LoadTestShape, constant, events, task

    class Shaped(FastHttpUser):
        wait_time = constant(0.05)
        @task
        def get(self):
            self.client.get("/ok")

    class TwoSteps(LoadTestShape):
        def tick(self):
            return None if self.get_run_time() > LENGTH_S else (2 if self.get_run_time() < 1 else 4, 100)
"""


def test_a_load_shape_ends_by_itself(tmp_path, server):
    asked = command(tmp_path, SHAPED.replace("LENGTH_S", "2"), server.url, users=None, spawn_rate=None)
    seen = []
    outcome = run_locust(asked, seen.append)
    assert (outcome.returncode, outcome.interrupted) == (0, False)
    assert max(progress.users for progress in seen) == 4
    assert read_recording(asked.recording).num_rows == server.answered["/ok"] == seen[-1].requests


def test_a_load_shape_can_be_interrupted(tmp_path, server):
    asked = command(tmp_path, SHAPED.replace("LENGTH_S", "60"), server.url, users=None, spawn_rate=None)
    outcome = run_locust(asked, once(signal.SIGINT, lambda progress: progress.users))
    assert (outcome.returncode, outcome.interrupted) == (0, True)
    assert read_recording(asked.recording).num_rows == server.answered["/ok"]


TAGGED = """
    import os
    from locust import FastHttpUser, constant, events, tag, task

    class Tagged(FastHttpUser):
        wait_time = constant(0.01)

        @tag("wanted")
        @task
        def wanted(self):
            self.client.get(os.environ["WANTED_PATH"])

        @tag("wanted", "dangerous")
        @task
        def dangerous(self):
            self.client.get("/dangerous")

        @task
        def other(self):
            self.client.get("/other")

    @events.quitting.add_listener
    def verdict(environment, **_):
        environment.process_exit_code = 3
"""


def test_tags_duration_environment_and_exit_code_reach_their_ends(tmp_path, server, monkeypatch):
    monkeypatch.chdir(tmp_path)
    asked = command(
        tmp_path,
        TAGGED,
        server.url,
        name="locust.py",  # in the current folder, where it must not be taken for Locust itself
        duration_s=2.0,
        tags=("wanted",),
        exclude_tags=("dangerous",),
        environment={"WANTED_PATH": "/wanted"},
    )
    seen = []
    outcome = run_locust(asked, seen.append)
    assert (outcome.returncode, outcome.interrupted) == (3, False)
    assert "exit code 3" in outcome.reason
    assert set(server.answered) == {"/wanted"}
    assert seen[-1].elapsed_s >= 1.9  # Locust starts its clock before it imports the locustfiles, if one lets it
    assert "Shutting down (exit code 3)" in asked.log.read_text()


@pytest.mark.parametrize(
    ("source", "message"),
    [
        ("import no_such_module\n", r"could not be loaded: ModuleNotFoundError: .*no_such_module.*Install"),
        ("answer = 42\n", r"has no User class\. Define one"),
        ("import os\nos._exit(5)\n", r"Locust ended with exit code 5 before it made any load: it wrote nothing"),
    ],
)
def test_a_locustfile_that_cannot_be_used(tmp_path, source, message):
    with pytest.raises(LoadError, match=rf"locustfile\.py: {message}"):
        run_locust(command(tmp_path, source))


@pytest.mark.parametrize(
    ("name", "content", "message"),
    [
        ("bad.py", b"a = 1\ndef b(:\n", r"bad\.py:2: is not valid Python: .*Correct that line"),
        ("null.py", b"a = 1\0", "is not"),
        ("missing.py", None, r"there is no such locustfile.*leads to /.*missing\.py"),
        ("load.txt", b"", r"only files that end with \.py"),
        ("a,b.py", b"", "comma"),
    ],
)
def test_a_locustfile_is_checked_before_anything_starts(tmp_path, name, content, message):
    if content is not None:
        (tmp_path / name).write_bytes(content)
    asked = LocustCommand(Scenario("test", tmp_path / name, None, 1, 1, 1), tmp_path / "run")
    with pytest.raises(LoadError, match=message):
        run_locust(asked)
    assert not asked.folder.exists()


def test_warnings_of_a_locustfile_are_no_errors(tmp_path):
    (tmp_path / "locustfile.py").write_text('"\\d" is 3\n')
    check_locustfile(tmp_path / "locustfile.py")


def test_locust_must_be_installed(tmp_path, monkeypatch):
    monkeypatch.setattr("importlib.util.find_spec", lambda _: None)
    with pytest.raises(LoadError, match="pip install locust"):
        run_locust(command(tmp_path, ENDLESS))


def test_a_folder_that_cannot_be_written(tmp_path):
    (tmp_path / "run").write_text("a file")
    with pytest.raises(LoadError, match="Choose a folder that can be written"):
        run_locust(command(tmp_path, ENDLESS))


def closed_port() -> int:
    with closing(socket.create_server(("127.0.0.1", 0))) as listener:
        return listener.getsockname()[1]


def test_an_unreachable_host_is_named_with_its_port(tmp_path):
    port = closed_port()
    with pytest.raises(LoadError, match=rf"host 127\.0\.0\.1, port {port}: takes no connection.*Start the service"):
        run_locust(command(tmp_path, ENDLESS, f"http://127.0.0.1:{port}"))


@pytest.mark.parametrize(
    ("url", "message"),
    [
        ("localhost:8080", "needs a scheme"),
        ("127.0.0.1", "needs a scheme"),
        ("http://", "needs a scheme and a name"),
        ("http://localhost:99999", "is not a URL"),
        ("http://no-such-name.invalid", r"host no-such-name\.invalid, port 80: the name is not known"),
    ],
)
def test_a_malformed_host(url, message):
    with pytest.raises(LoadError, match=message):
        check_host(url)


def test_a_reachable_host(server: Loopback, monkeypatch):
    check_host(server.url)
    check_host("grpc://no-such-name.invalid")  # nobody knows the port of that scheme
    monkeypatch.setenv("http_proxy", "http://127.0.0.1:1")
    check_host("http://no-such-name.invalid")  # the proxy will know the name


def test_a_closed_terminal_asks_once_and_no_exception_leaves_locust_behind():
    """Whoever cleans up after SIGHUP with an exception gets it while Locust is under way as a request to end it."""

    def interrupt(*_):
        raise KeyboardInterrupt

    before = signal.signal(signal.SIGHUP, interrupt)
    try:
        with _StopRequest() as stop:
            os.kill(os.getpid(), signal.SIGHUP)
            os.kill(os.getpid(), signal.SIGHUP)
            since = stop._since
            assert (stop.signal, stop.reason, stop.by_user) == (signal.SIGHUP, "stopped by SIGHUP", True)
            os.kill(os.getpid(), signal.SIGTERM)  # asks again
            assert stop._since < since
        os.kill(os.getpid(), signal.SIGHUP)  # the terminal's last, which comes while others clean up
        signal.signal(signal.SIGHUP, signal.SIG_DFL)
        with _StopRequest():
            assert signal.getsignal(signal.SIGHUP) is signal.SIG_DFL
    finally:
        signal.signal(signal.SIGHUP, before)
