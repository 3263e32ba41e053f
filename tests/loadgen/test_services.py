"""The demo services behave as their models say: real processes, real connections."""

import asyncio
import json
import os
import re
import signal
import socket
import statistics
import subprocess
import sys
import time
from itertools import islice

import pytest

from perfkit.loadgen import demo_services
from perfkit.loadgen.demo_services import (
    BODY_BYTES,
    MODELS,
    Change,
    completion_time,
    draw_requests,
    parse_changes,
    start_services,
)
from perfkit.model.errors import LoadError, MissingExtra, SettingsError

GATEWAY = MODELS["api_gateway"]


@pytest.fixture(scope="module")
def unchanged():
    with start_services(seed=1) as services:
        yield services.addresses


def port_of(address):
    return int(address.rsplit(":", 1)[1])


async def ask(address, path="/", times=1, method="GET"):
    """(status, seconds, body) of each of several requests, one after the other on one connection."""
    reader, writer = await asyncio.open_connection("127.0.0.1", port_of(address))
    answers = []
    for _ in range(times):
        start = time.perf_counter()
        writer.write(f"{method} {path} HTTP/1.1\r\nHost: localhost\r\nContent-Length: 0\r\n\r\n".encode())
        head = (await reader.readuntil(b"\r\n\r\n")).decode().lower()
        body = await reader.readexactly(int(head.partition("content-length:")[2].split()[0]))
        answers.append((int(head.split()[1]), time.perf_counter() - start, body))
    writer.close()
    await writer.wait_closed()
    return answers


def ask_now(*args, **kwargs):
    return asyncio.run(ask(*args, **kwargs))


def median_ms(address, connections, requests):
    async def load():
        await ask(address, "/health")  # the first answer of a process is slower than the rest
        return await asyncio.gather(*(ask(address, times=requests // connections) for _ in range(connections)))

    return 1000 * statistics.median(seconds for answers in asyncio.run(load()) for _, seconds, _ in answers)


def test_each_service_has_a_loopback_port_of_its_own(unchanged):
    assert list(unchanged) == ["api_gateway", "rag_service", "mcp_server"]
    assert all(address.startswith("http://127.0.0.1:") for address in unchanged.values())
    assert len(set(unchanged.values())) == 3


def test_is_not_reachable_but_by_loopback(unchanged):
    with (
        pytest.raises(ConnectionRefusedError),
        socket.create_connection(("127.0.0.2", port_of(unchanged["mcp_server"]))),
    ):
        pass


@pytest.mark.parametrize("service", MODELS)
@pytest.mark.parametrize("method", ["GET", "POST"])
def test_answers_json_of_one_size(unchanged, service, method):
    for path in ("/", f"/{service}"):
        ((_, _, body),) = ask_now(unchanged[service], path, method=method)
        assert len(body) == BODY_BYTES
        assert json.loads(body)["service"] == service


def test_a_connection_serves_many_requests_without_delayed_acknowledgements(unchanged):
    answers = ask_now(unchanged["api_gateway"], "/health", times=50)
    assert statistics.median(seconds for _, seconds, _ in answers) < 0.02  # 0.044 without TCP_NODELAY


@pytest.mark.parametrize("model", MODELS.values(), ids=MODELS)
def test_draws_follow_the_model(model):
    times, failed = zip(*islice(draw_requests(model, Change(), 1), 20_000), strict=True)
    assert 1000 * statistics.median(times) == pytest.approx(model.median_ms, rel=0.02)
    assert 100 * statistics.mean(failed) == pytest.approx(model.error_rate_pct, abs=0.15)


def test_a_seed_fixes_the_luck_and_a_change_keeps_it():
    plain, slower, other = (
        list(islice(draw_requests(GATEWAY, change, seed), 500))
        for change, seed in ((Change(), 1), (Change(slower_pct=50, tail_pct=10, tail_factor=4), 1), (Change(), 2))
    )
    assert plain == list(islice(draw_requests(GATEWAY, Change(), 1), 500)) != other
    ratios = [round(after / before, 6) for (before, _), (after, _) in zip(plain, slower, strict=True)]
    assert set(ratios) == {1.5, 6.0}
    assert 30 <= ratios.count(6.0) <= 70


@pytest.mark.parametrize(
    ("begin", "end"),
    [(0, 3), (7, 10), (8, 16), (9.5, 17.5), (10, 18), (14, 18), (15, 18), (20, 23)],
)
def test_work_stands_still_during_a_stall(begin, end):
    assert completion_time(begin, 3, 10, 15) == end


def test_no_stall_costs_nothing():
    assert completion_time(10, 3, 11, 11) == 13


def test_answers_take_as_long_as_was_drawn():
    """Each request on its own, against its own draw: what is over is HTTP; in the quickest tenth, not the machine."""
    with start_services(seed=3, names=["api_gateway"]) as services:
        answers = ask_now(services.addresses["api_gateway"], times=60)
    drawn = [seconds for seconds, _ in islice(draw_requests(GATEWAY, Change(), 3), 60)]
    over_ms = sorted(1000 * (took - due) for (_, took, _), due in zip(answers, drawn, strict=True))
    assert over_ms[0] > -1.5
    assert over_ms[len(over_ms) // 10] < 6


def test_slower_by_half_takes_half_as_long_again():
    async def in_turn(addresses):
        return [[(await ask(address))[0][1] for address in addresses] for _ in range(60)]

    slower = {"api_gateway": Change(slower_pct=50)}
    with (
        start_services(seed=3, names=["api_gateway"]) as one,
        start_services(slower, seed=3, names=["api_gateway"]) as other,
    ):
        pairs = asyncio.run(in_turn([one.addresses["api_gateway"], other.addresses["api_gateway"]]))
    assert statistics.median(after / before for before, after in pairs[1:]) == pytest.approx(1.5, abs=0.2)


def test_more_requests_than_workers_queue(unchanged):
    served, queued = (median_ms(unchanged["api_gateway"], n * GATEWAY.workers, 160) for n in (1, 4))
    assert queued > 2.5 * served


def test_the_error_rate_can_be_overridden_and_the_seed_reaches_the_process():
    change = Change(slower_pct=-90, error_rate_pct=50)
    expected = [500 if failed else 200 for _, failed in islice(draw_requests(GATEWAY, change, 5), 20)]
    with start_services({"api_gateway": change}, seed=5, names=["api_gateway"]) as services:
        answers = ask_now(services.addresses["api_gateway"], times=20)
    assert [status for status, _, _ in answers] == expected
    assert {len(body) for _, _, body in answers} == {BODY_BYTES}


def test_every_answer_is_an_error_at_100_percent():
    change = Change(slower_pct=-90, error_rate_pct=100)
    with start_services({"mcp_server": change}, names=["mcp_server"]) as services:
        assert {status for status, _, _ in ask_now(services.addresses["mcp_server"], times=10)} == {500}


def test_a_request_waits_for_the_end_of_a_stall():
    async def ask_both(address):
        stalled = asyncio.create_task(ask(address))
        await ask(address, "/health")
        assert not stalled.done()
        await stalled

    start = time.monotonic()
    with start_services({"api_gateway": Change(stall_s=1.2)}, names=["api_gateway"]) as services:
        asyncio.run(ask_both(services.addresses["api_gateway"]))
    assert time.monotonic() - start >= 1.2


def refuses(address):
    with socket.socket() as client:
        return client.connect_ex(("127.0.0.1", port_of(address))) != 0


def test_the_end_of_the_block_ends_the_services():
    with start_services(names=["api_gateway"]) as services:
        assert not refuses(services.addresses["api_gateway"])
    assert refuses(services.addresses["api_gateway"])


PARENT = """
import json
from perfkit.loadgen.demo_services import start_services
with start_services() as services:
    try:
        print(json.dumps(dict(services.addresses)), flush=True)
        services.wait()
    except KeyboardInterrupt:
        pass  # the signal came before wait() was entered
print("ended in order", flush=True)
"""


@pytest.fixture
def parent():
    environment = {**os.environ, "PYTHONPATH": os.pathsep.join(sys.path)}
    with subprocess.Popen([sys.executable, "-c", PARENT], stdout=subprocess.PIPE, env=environment) as process:
        yield process
        process.kill()


def test_the_services_die_with_a_killed_parent(parent):
    addresses = json.loads(parent.stdout.readline()).values()
    assert not any(refuses(address) for address in addresses)
    parent.kill()
    for _ in range(200):
        if all(refuses(address) for address in addresses):
            return
        time.sleep(0.02)
    pytest.fail("the services outlived their parent by 4 s")


def test_waiting_ends_with_ctrl_c(parent):
    addresses = json.loads(parent.stdout.readline()).values()
    parent.send_signal(signal.SIGINT)
    assert parent.stdout.readline() == b"ended in order\n"
    assert all(refuses(address) for address in addresses)


def test_waiting_ends_when_a_service_does():
    with start_services(names=["rag_service"]) as services:
        services._children[0].process.kill()
        with pytest.raises(LoadError, match="rag_service: the service ended by itself"):
            services.wait()


def test_a_service_that_cannot_start_says_why(monkeypatch, tmp_path):
    (tmp_path / "uvicorn.py").write_text("raise ImportError('uvicorn is broken')")
    monkeypatch.syspath_prepend(tmp_path)
    with (
        pytest.raises(LoadError, match=r"(?s)api_gateway: the service did not start\..*uvicorn is broken"),
        start_services(names=["api_gateway"]),
    ):
        pass


def test_a_service_that_starts_too_slowly_is_an_error(monkeypatch):
    monkeypatch.setattr(demo_services, "START_TIMEOUT_S", 0.0)
    with pytest.raises(LoadError, match="mcp_server: the service did not start"), start_services(names=["mcp_server"]):
        pass


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"slower_pct": -91}, "slower_pct must be from -90 to 1000, not -91"),
        ({"slower_pct": float("nan")}, "slower_pct must be from -90 to 1000, not nan"),
        ({"tail_pct": 101}, "tail_pct must be from 0 to 100, not 101"),
        ({"tail_factor": 0.5}, "tail_factor must be from 1 to 100, not 0.5"),
        ({"error_rate_pct": -0.1}, "error_rate_pct must be from 0 to 100, not -0.1"),
        ({"stall_s": -1}, "stall_s must be from 0 to 86400, not -1"),
        ({"stall_at_s": -1}, "stall_at_s must be from 0 to 86400, not -1"),
    ],
)
def test_a_change_out_of_range_names_range_and_value(change, message):
    with pytest.raises(ValueError, match=message):
        Change(**change)


def test_unknown_services_are_refused():
    with pytest.raises(ValueError, match=r"names must be among .*, not gateway"), start_services(names=["gateway"]):
        pass
    with (
        pytest.raises(ValueError, match="changes must be for api_gateway, not mcp_server"),
        start_services({"mcp_server": Change()}, names=["api_gateway"]),
    ):
        pass


def test_importing_the_module_is_cheap():
    heavy = "sorted({'numpy', 'starlette', 'uvicorn', 'pandas', 'locust'} & set(sys.modules))"
    code = f"import sys, perfkit.loadgen.demo_services; print({heavy})"
    environment = {**os.environ, "PYTHONPATH": os.pathsep.join(sys.path)}
    assert subprocess.check_output([sys.executable, "-c", code], env=environment, text=True) == "[]\n"


def test_changes_as_people_write_them():
    written = ["api_gateway:slower_pct=20", "rag_service: tail_pct=2, tail_factor=4"]
    assert parse_changes(written) == {
        "api_gateway": Change(slower_pct=20),
        "rag_service": Change(tail_pct=2, tail_factor=4),
    }


@pytest.mark.parametrize(
    ("text", "says"),
    [
        ("api_gateway=20", "write a change like api_gateway:slower_pct=20"),
        ("api_gatway:slower_pct=20", "there is no demo service 'api_gatway' (did you mean 'api_gateway'?)"),
        ("api_gateway:slower=20", "unknown change 'slower'"),
        ("api_gateway:slower_pct=fast", "slower_pct must be a number, not 'fast'"),
        ("api_gateway:slower_pct=9999", "slower_pct must be from -90 to 1000"),
    ],
)
def test_a_change_that_cannot_be_meant(text, says):
    with pytest.raises(SettingsError, match=re.escape(text)) as caught:
        parse_changes([text])
    assert says in str(caught.value)


def test_without_the_servers_libraries_the_error_names_the_extra(monkeypatch):
    monkeypatch.setattr(demo_services.importlib.util, "find_spec", lambda name: None if name == "uvicorn" else name)
    with (
        pytest.raises(MissingExtra, match=r"the demo services need uvicorn; install perfkit with the extra `demo`"),
        start_services(),
    ):
        pass
