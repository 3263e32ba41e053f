"""Load tests one can watch: `LiveView` draws what goes on, as HTML that a page of a browser or a notebook's cell shows.

`serving` is that page: on 127.0.0.1 alone, below a secret path, without any request elsewhere.  The pictures are drawn
here, so that page and cell look alike, and what stays in the cell needs no script.
"""

from __future__ import annotations

import hmac
import json
import math
import secrets
import sys
import threading
import time
from collections import Counter
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from datetime import datetime
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any
from urllib.parse import parse_qs, urlsplit

from markupsafe import Markup

from perfkit.config.settings import Scenario
from perfkit.loadgen.live import LiveRequests, ServiceFigures
from perfkit.loadgen.locust_process import Progress
from perfkit.loadgen.run import Execution
from perfkit.model.errors import SettingsError
from perfkit.report.formatting import (
    CANDIDATE_COLOUR,
    UNKNOWN,
    and_more,
    clean,
    clock,
    count_text,
    format_number,
    format_value,
    shorten,
)
from perfkit.report.html import Cell, html_table, inlined, render
from perfkit.report.run_summary import COLUMNS, MOST_ERRORS, basis_of, cells_of, errors_of, figures_of, next_step
from perfkit.runs.store import RunStore

MOST_SERVICES = 50  # rows of a table
MOST_ENDS = 10  # of earlier runs that are listed
POLL_S = 15.0  # how long a page waits for something new
LAST_LOOK_S = 3.0  # how long the end of the test waits for pages to come and see it
WATCHED_S = 20.0  # a page that has not asked for so long is closed
RED, GREY = "#d1480a", "#7f8b9b"
LEFT, RIGHT, TOP, BOTTOM = 44, 314, 8, 102  # of a picture of 320 x 120


@dataclass(frozen=True, slots=True)
class Look:
    """What there is to see at one moment: escaped HTML, and in a few words."""

    html: str
    title: str
    state: str
    ended: bool = False


class LiveView:
    """Follows the ``planned`` scenarios, in the order in which they run, and publishes a `Look` after each second.

    There may be fewer runs than planned where they are ``at_most`` so many.  ``options`` stand behind the commands that
    are advised, such as `` --store s3://team/runs``.
    """

    def __init__(
        self,
        planned: Sequence[Scenario],
        publish: Callable[[Look], None],
        store: RunStore,
        *,
        at_most: bool = False,
        options: str = "",
    ) -> None:
        self.label = ""  # of the run that goes on, beside its scenario: a side and a pair
        self._planned, self._publish, self._store = planned, publish, store
        self._at_most, self._options = at_most, options
        self._ends: list[tuple[str, Execution]] = []
        self._requests: LiveRequests | None = None
        self._begun = time.monotonic()
        self.is_finished = False

    def on_progress(self, scenario: Scenario, progress: Progress) -> None:
        """One second of a run.  What cannot be drawn does no harm to the load; that it cannot is said."""
        try:
            requests = self._requests
            if requests is None or requests.recording != progress.recording:
                self._close()
                requests = self._requests = LiveRequests(progress.recording)
            requests.read(progress.users)
            look = self._running(scenario, progress, requests)
        except (ArithmeticError, LookupError, OSError, TypeError, ValueError) as error:
            text = f"The run goes on, but cannot be drawn: {type(error).__name__}: {clean(error)}"
            look = Look("", f"{clean(scenario.name)}: running", text)
        self._publish(look)

    def on_end(self, execution: Execution) -> None:
        """A run has ended, or could not begin."""
        self._close()
        self._ends.append((self.label, execution))
        if len(self._ends) < len(self._planned):
            text = f"Run {len(self._ends)} of {self._of()} has ended."
            self._publish(self._ended(text, ended=False))

    def finish(self, sentence: str = "", notes: str = "") -> None:
        """The test is over; ``sentence`` says why, or how, and ``notes`` what is to be known besides."""
        self._close()
        self.is_finished = True
        made = count_text(sum(execution.run is not None for _, execution in self._ends), "run")
        stopped = any(execution.stopped for _, execution in self._ends)
        text = f"{'Stopped' if stopped else 'Ended'} at {datetime.now():%H:%M:%S} after {made}. {sentence}".strip()
        self._publish(self._ended(text, ended=True, notes=notes))

    def _close(self) -> None:
        if self._requests is not None:
            self._requests.close()
            self._requests = None

    def _of(self) -> str:
        return f"{'at most ' if self._at_most else ''}{len(self._planned)}"

    def _left_s(self, scenario: Scenario, elapsed_s: float) -> float | None:
        """Seconds until the last run ends, starts and ends of runs included; ``None`` where a locustfile decides."""
        lengths = [one.profile.duration_s for one in self._planned[len(self._ends) + 1 :]]
        length = scenario.profile.duration_s
        if length is None or None in lengths:
            return None
        between_s = 0.0
        if self._ends:
            spent = time.monotonic() - self._begun - elapsed_s
            ran = sum(end.run.duration_s or 0.0 for _, end in self._ends if end.run is not None)
            between_s = max(spent - ran, 0.0) / len(self._ends)
        return max(length - elapsed_s, 0.0) + sum(one or 0.0 for one in lengths) + between_s * len(lengths)

    def _running(self, scenario: Scenario, now: Progress, requests: LiveRequests) -> Look:
        profile, number = scenario.profile, len(self._ends) + 1
        length, left_s = profile.duration_s, self._left_s(scenario, now.elapsed_s)
        about = f", about {clock(left_s)} left" if left_s else ""
        of = f"run {number} of {self._of()}" if len(self._planned) > 1 else "running"
        of = f"{of} ({self.label})" if self.label else of
        if now.state in ("cleanup", "stopped") or (length is not None and now.elapsed_s >= length):
            about = ", its load is over; the requests are being summed up"
        title = f"{shorten(scenario.name, 60)}: {of}{about}"
        subtitle = f"{clock(now.elapsed_s)}{f' of {clock(length)}' if length else ''}; {profile.describe()}"
        load = f"of {profile.users}" if profile.users else ""
        if profile.is_open:
            load = f"in flight {now.in_flight}" + (f", {now.late} late" if now.late else "")
        failed = f"{100 * now.failures / now.requests:.2g} %" if now.requests else UNKNOWN
        tiles = [
            ("users", f"{now.users:,}", load),
            ("requests/s", format_number(now.rps), "last 5 s"),
            ("p50", format_value("p50_latency_ms", requests.recent(0.5)), "last 10 s"),
            ("p95", format_value("p95_latency_ms", now.p95_latency_ms), "last 10 s"),
            ("failures", f"{now.failures:,}", f"{failed} of {now.requests:,}"),
        ]
        course = requests.course()
        span_s = max(length or 0.0, now.elapsed_s, len(course.rps) * course.width_s, 1.0)
        charts = [
            _chart("Users", course.width_s, span_s, [("now", CANDIDATE_COLOUR, False, course.users)]),
            _chart(
                "Requests per second",
                course.width_s,
                span_s,
                [("all", CANDIDATE_COLOUR, False, course.rps), ("failed", RED, True, course.failures)],
            ),
            _chart(
                "Response time, ms",
                course.width_s,
                span_s,
                [("p50", GREY, True, course.p50), ("p95", CANDIDATE_COLOUR, False, course.p95)],
            ),
        ]
        charts[0]["lines"][0]["latest"] = f"{now.users:,}"  # the line ends a second ago, with the last whole one
        note = "So far, since the first request; times in ms, percentiles to 1 %."
        parts = [_services(requests.services(), note), *_errors(requests.errors), *self._earlier()]
        share = min(round(100 * now.elapsed_s / length), 100) if length else None
        html = render(
            "live.html.j2", title=title, subtitle=subtitle, share=share, tiles=tiles, charts=charts, parts=parts
        )
        return Look(inlined(html), title, title)

    def _ended(self, text: str, *, ended: bool, notes: str = "") -> Look:
        """What was measured, scenario by scenario; while more runs follow, only that of the last."""
        ends = self._ends if ended else self._ends[-1:]
        parts = []
        for name in dict.fromkeys(execution.scenario for _, execution in ends):
            runs = [end.run for _, end in ends if end.run is not None and end.scenario == name]
            sides = dict.fromkeys(run.labels.get("side", "") for run in runs) if self.label else [""]
            for side in sides:
                some = [run for run in runs if not side or run.labels.get("side") == side]
                if not some:
                    continue
                requests = sum(stats.count or 0 for run in some for stats in run.services.values())
                failures = sum(stats.failures or 0 for run in some for stats in run.services.values())
                counts = f"{requests:,} requests, {failures:,} failures"
                title = f"{shorten(name, 60)}{f', {side}' if side else ''}: {count_text(len(some), 'run')}, {counts}"
                parts += [_services(figures_of(some), basis_of(some), title), *_errors(errors_of(some))]
            if runs and ended and not self.label:
                advice, command = next_step(runs, self._store, self._options)
                parts.append(Part("", Markup(""), f"Next: {advice}{':' if command else '.'}", command))
        parts += self._earlier()
        html = render("live.html.j2", title=text, subtitle=notes, share=None, tiles=[], charts=[], parts=parts)
        return Look(inlined(html), f"perfkit run: {'ended' if ended else 'running'}", text, ended)

    def _earlier(self) -> list[Part]:
        """The runs that have ended, the newest first."""
        if not self._ends:
            return []
        rows: list[list[Cell | str]] = []
        for label, end in self._ends[: -MOST_ENDS - 1 : -1]:
            name = end.run.id if end.run is not None else end.scenario
            if end.run is None:
                remark = f"✗ {clean(end.error)}"
            elif (problem := next(iter(end.run.validity.problems), None)) is not None:
                remark = f"{'!' if end.run.validity.ok else '⊘ invalid:'} {problem.name} ({problem.value})"
            else:
                remark = "✓"
            rows.append([Cell(name, code=True, below=label), Cell(shorten(remark, 300), css="pk-wide")])
        left_out = len(self._ends) - len(rows)
        below = f"{count_text(left_out, 'run')} before" if left_out else ""
        return [Part("Runs that have ended", Markup(html_table("runs", ("run", "checks"), rows, below=below)))]


@dataclass(frozen=True, slots=True)
class Part:
    """A table with its heading, and a remark below."""

    title: str
    html: Markup
    note: str = ""
    command: str = ""


def _services(figures: Sequence[ServiceFigures], note: str, title: str = "") -> Part:
    rows: list[list[Cell | str]] = []
    for one in figures[:MOST_SERVICES]:
        name, *cells = cells_of(one)
        failures = Cell(cells[1], strong=bool(one.failures))
        rows.append([Cell(shorten(name, 80), css="pk-wide"), cells[0], failures, *cells[2:]])
    left_out = len(figures) - len(rows)
    columns = (COLUMNS[0], *(f">{name}" for name in COLUMNS[1:]))
    below = and_more(left_out, "services").strip()
    return Part(title, Markup(html_table("services", columns, rows, below=below, empty="No request yet.")), note)


def _errors(errors: Counter[tuple[str, str]]) -> list[Part]:
    """The most frequent ones; nothing where no request failed."""
    if not errors:
        return []
    shown = errors.most_common(MOST_ERRORS)
    rows: list[list[Cell | str]] = [
        [shorten(kind, 60), f"{count:,}", Cell(shorten(service, 80), css="pk-wide")] for (kind, service), count in shown
    ]
    below = and_more(len(errors) - len(shown)).strip()
    table = html_table("most frequent errors", ("error", ">requests", "service"), rows, below=below)
    return [Part("Most frequent errors", Markup(table))]


def _chart(title: str, width_s: float, span_s: float, lines: Sequence[tuple[str, str, bool, Any]]) -> dict[str, Any]:
    """Lines over the time of a run; a gap where there was nothing."""
    values = [float(value) for *_, series in lines for value in series if not math.isnan(value)]
    top = _round_up(max(values, default=1.0))

    def path(series: Sequence[float]) -> str:
        words, pen_is_up = [], True
        for point, value in enumerate(series):
            if math.isnan(value):
                pen_is_up = True
                continue
            x = LEFT + (RIGHT - LEFT) * min((point + 0.5) * width_s / span_s, 1.0)
            y = BOTTOM - (BOTTOM - TOP) * value / top
            words.append(f"{'M' if pen_is_up else 'L'}{x:.1f} {y:.1f}")
            if pen_is_up:
                words.append("h0.1")  # a point alone shows too
            pen_is_up = False
        return "".join(words)

    def latest(series: Sequence[float]) -> str:
        value = float(series[-1]) if len(series) else math.nan
        return UNKNOWN if math.isnan(value) else f"{value:,.0f}" if value == round(value) else format_number(value)

    return {
        "title": title,
        "levels": [(BOTTOM - (BOTTOM - TOP) * part, f"{top * part:,g}") for part in (0.0, 0.5, 1.0)],
        "times": [
            (LEFT, "0:00", "start"),
            ((LEFT + RIGHT) / 2, clock(span_s / 2), "middle"),
            (RIGHT, clock(span_s), "end"),
        ],
        "lines": [
            {"name": name, "colour": colour, "dashed": dashed, "path": path(series), "latest": latest(series)}
            for name, colour, dashed, series in lines
        ],
    }


def _round_up(value: float) -> float:
    """The next of 1, 2, 4, 5 and 10 times a power of ten.

    >>> [_round_up(x) for x in (0.0, 0.3, 31.0, 40.0, 77.0)]
    [1.0, 0.4, 40.0, 40.0, 100.0]
    """
    if value <= 0:
        return 1.0
    power = 10.0 ** math.floor(math.log10(value))
    return next(step * power for step in (1.0, 2.0, 4.0, 5.0, 10.0) if step * power >= value * (1 - 1e-9))


# A cell of a notebook ------------------------------------------------------------------------------------------------


def notebook_cell() -> Callable[[Look], None] | None:
    """What shows each `Look` in the cell that is running, in place of the one before; ``None`` outside a notebook."""
    if "IPython" not in sys.modules:
        return None
    from IPython import get_ipython
    from IPython.display import display

    shell = get_ipython()
    if getattr(shell, "kernel", None) is None:
        return None

    def bundle(look: Look) -> dict[str, str]:
        return {"text/html": look.html, "text/plain": look.state}

    waiting = Look("<p>Waiting for the load to begin.</p>", "", "Waiting for the load to begin.")
    handle = display(bundle(waiting), raw=True, display_id=True)  # type: ignore[no-untyped-call]
    return lambda look: handle.update(bundle(look), raw=True)


# A page of a browser -------------------------------------------------------------------------------------------------


class LivePage(ThreadingHTTPServer):
    """Serves the newest `Look`; who has closed the page, or never opened it, makes no difference to the load."""

    daemon_threads = True
    block_on_close = False

    def __init__(self, port: int = 0) -> None:
        try:
            super().__init__(("127.0.0.1", port), _Handler)
        except OSError as error:
            raise SettingsError(
                f"--live-port {port}: cannot be listened on: {error.strerror}. Choose another, or leave it out: then a "
                "free one is taken"
            ) from error
        self._token = secrets.token_urlsafe(16)
        self._look: Look | None = None
        self._version = 0
        self._changed = threading.Condition()
        self._asking = 0  # answers under way
        self._asked = -math.inf
        self._has_shown_end = False

    @property
    def url(self) -> str:
        """Its address; whoever does not know it sees nothing."""
        return f"http://127.0.0.1:{self.server_port}/{self._token}/"

    def publish(self, look: Look) -> None:
        """Hand a look to the pages that wait for it."""
        with self._changed:
            self._look, self._version = look, self._version + 1
            self._changed.notify_all()

    def wait_for_last_look(self) -> None:
        """Let open pages fetch the end; at most `LAST_LOOK_S`, and not at all where none is open."""
        with self._changed:
            if self._look is not None and self._look.ended and time.monotonic() - self._asked < WATCHED_S:
                self._changed.wait_for(lambda: self._has_shown_end and not self._asking, LAST_LOOK_S)

    def is_meant(self, host: str | None, path: str) -> bool:
        """Whether a request comes from the page itself: other names of this machine could be anybody's."""
        names = {f"{name}:{self.server_port}" for name in ("127.0.0.1", "localhost")}
        first = path.split("/")[1] if path.startswith("/") else ""
        return host in names and hmac.compare_digest(first.encode(), self._token.encode())

    @contextmanager
    def newer(self, than: int) -> Iterator[bytes]:
        """A look newer than that version as JSON; empty when none has come for `POLL_S`."""
        with self._changed:
            self._asking += 1
            self._changed.wait_for(lambda: self._look is not None and self._version != than, POLL_S)
            look, version = self._look, self._version
        try:
            answer = b""
            if look is not None and version != than:
                parts = {"html": look.html, "title": look.title, "state": look.state, "ended": look.ended}
                answer = json.dumps({"version": version, **parts}).encode()
            yield answer
        finally:
            with self._changed:
                self._asking -= 1
                self._asked = time.monotonic()
                self._has_shown_end |= bool(look is not None and look.ended)
                self._changed.notify_all()

    def handle_error(self, *_: object) -> None:
        """A page that was closed in the middle of an answer is nobody's concern."""


class _Handler(BaseHTTPRequestHandler):
    server: LivePage
    protocol_version = "HTTP/1.1"
    timeout = 60.0

    def do_GET(self) -> None:
        parts = urlsplit(self.path)
        _, _, name = parts.path[1:].partition("/")
        if not self.server.is_meant(self.headers.get("Host"), parts.path) or name not in ("", "view"):
            self._answer(404, b"There is nothing here. The address that perfkit printed is the whole address.\n")
        elif name == "":
            nonce = secrets.token_urlsafe(12)
            page = render("live_page.html.j2", nonce=nonce)
            self._answer(200, page.encode(), "text/html; charset=utf-8", f"script-src 'nonce-{nonce}'")
        else:
            given = parse_qs(parts.query).get("after", ["-1"])[0]
            with self.server.newer(int(given) if given.lstrip("-").isdecimal() else -1) as look:
                self._answer(200 if look else 204, look, "application/json")

    def _answer(self, status: int, body: bytes, kind: str = "text/plain; charset=utf-8", policy: str = "") -> None:
        rules = "default-src 'none'; style-src 'unsafe-inline'; img-src data:; connect-src 'self'; base-uri 'none'; "
        self.send_response(status)
        for header, value in (
            ("Content-Type", kind),
            ("Content-Length", str(len(body))),
            ("Cache-Control", "no-store"),
            ("Referrer-Policy", "no-referrer"),
            ("X-Content-Type-Options", "nosniff"),
            ("Content-Security-Policy", f"{rules}form-action 'none'; frame-ancestors 'none'; {policy}"),
        ):
            self.send_header(header, value)
        self.end_headers()
        self.wfile.write(body)
        self.wfile.flush()

    def version_string(self) -> str:
        return "perfkit"

    def log_message(self, *_: object) -> None:
        """Nothing: the terminal shows the run."""


@contextmanager
def serving(port: int = 0) -> Iterator[LivePage]:
    """Serve a page on 127.0.0.1; ``SettingsError`` when the port is taken.  Port 0: a free one."""
    with LivePage(port) as page:
        thread = threading.Thread(target=page.serve_forever, daemon=True, name="perfkit-live")
        thread.start()
        try:
            yield page
        finally:
            with suppress(KeyboardInterrupt):  # an impatient second Ctrl-C
                page.wait_for_last_look()
            page.shutdown()
            thread.join()
