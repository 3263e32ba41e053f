"""Fifty services: the worst first, the rest folded; in a terminal and on a page.  And errors and absolute limits."""

from __future__ import annotations

import io
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from browser import needs_chromium
from rich.console import Console
from samples import run, side

import perfkit
from perfkit.config.policy import Policy
from perfkit.model.records import ErrorKind, Verdict
from perfkit.report import display
from perfkit.report.findings import is_quiet, objectives_table, services_worst_first
from perfkit.report.html import EMPTY
from perfkit.report.text import MOST_LINES, print_comparison

NAMES = tuple(f"GET /items/{number:02d}" for number in range(49))
HOSTILE = "<script>alert(1)</script>\x1b[31m"


@pytest.fixture(scope="module")
def comparison():
    rng = np.random.default_rng(5)
    names = (*NAMES, HOSTILE)
    before = side(rng, 5, names=names)
    after = side(rng, 3, first=5, names=names, slower={NAMES[7]: 1.4, HOSTILE: 1.3, NAMES[30]: 0.7})
    policy = Policy(
        objectives={NAMES[7]: {"p95_latency_ms": {"max": 100.0}}, NAMES[8]: {"p95_latency_ms": {"max": 500.0}}}
    )
    return perfkit.compare(before, after, policy=policy)


def printed(comparison, width=100, **options):
    screen = Console(width=width, file=io.StringIO(), color_system=None)
    print_comparison(comparison, screen, **options)
    return screen.file.getvalue()


@pytest.mark.parametrize("width", [60, 80, 160])
def test_a_terminal_has_forty_lines_and_says_what_is_hidden(comparison, width):
    text = printed(comparison, width)
    assert len(text.splitlines()) <= MOST_LINES
    assert "--all prints them" in " ".join(text.split())
    assert text.startswith("✗ regression")
    assert "\x1b" not in text


def test_everything_is_printed_where_it_is_asked_for(comparison):
    whole = printed(comparison, 160, everything=True)
    assert all(name in whole for name in NAMES)
    assert "--all" not in whole


def test_what_has_room_is_printed_whole(comparison):
    text = printed(comparison.for_service(NAMES[7]))
    assert "--all" not in text
    assert text.count("✗ regression") > 1


def test_the_worst_service_comes_first_and_quiet_ones_are_folded(comparison):
    services = services_worst_first(comparison.findings)
    changed = {f.label for v in (Verdict.REGRESSION, Verdict.IMPROVEMENT) for f in comparison.by_verdict(v)}
    assert set(list(services)[: len(changed)]) == changed == {NAMES[7], NAMES[30], HOSTILE}
    assert [name for name, members in services.items() if not is_quiet(comparison, members)] == list(services)[:3]
    html = comparison.table.findings().html
    unfolded, folded = html.split("<details", 1)
    assert NAMES[7] in unfolded
    assert NAMES[8] not in unfolded
    assert NAMES[8] in folded
    assert "more services: " in folded
    assert "<script>alert" not in html


@pytest.mark.browser
@needs_chromium[1]
def test_a_page_filters_and_sorts_and_is_a_plain_table_without_scripts(comparison, browser, tmp_path):
    script = (Path(display.__file__).parent / "templates/report/findings.js").read_text("utf-8")
    page_of = '<!doctype html><meta charset="utf-8"><title>x</title>{}<script>{}</script>'
    (tmp_path / "page.html").write_text(page_of.format(comparison.table.findings().html, script), "utf-8")
    plain = browser.new_context(java_script_enabled=False, offline=True).new_page()
    plain.goto((tmp_path / "page.html").as_uri())
    assert plain.locator("table tbody").count() >= 50
    assert plain.locator(".pk-filter").count() == 0
    page = browser.new_context(offline=True).new_page()
    said = []
    page.on("pageerror", lambda error: said.append(str(error)))
    page.goto((tmp_path / "page.html").as_uri())
    page.get_by_label("Filter services").fill("items/08")
    assert page.locator("tbody:visible").count() == 1
    assert page.locator(".pk-filter output").inner_text() == "1 service"
    page.get_by_label("Filter services").fill("")
    assert not page.locator("details").evaluate("fold => fold.open")
    page.get_by_label("every metric").select_option("p95 latency")
    page.get_by_label("every verdict").select_option("regression")
    assert page.locator("tbody:visible").count() == 2
    button = page.locator("table").first.get_by_role("button", name="change")
    button.click()
    assert page.locator("th[aria-sort=descending]").count() == 1
    assert NAMES[7] in page.locator("tbody:visible").first.inner_text()
    button.press("Enter")
    assert NAMES[7] in page.locator("tbody:visible").nth(1).inner_text()
    assert said == []


def test_objectives_have_symbol_and_word_and_none_are_left_out(comparison):
    table = objectives_table(comparison)
    assert [row.cells["verdict"] for row in table.rows] == ["✗ exceeded", "✓ kept"]
    html = comparison.table.objectives().html
    assert "exceeded" in html
    assert "kept" in html
    without = replace(comparison, findings=tuple(f for f in comparison.findings if not f.objective))
    assert without.table.objectives().html.startswith(f'<p class="{EMPTY}">')


def test_errors_of_a_report_are_escaped_and_folded(comparison):
    kinds = tuple(ErrorKind(f"{HOSTILE}{n}", "<img src=x>", None, 0, 5 + n, 10, 10, change="new") for n in range(30))
    html = replace(comparison, errors=kinds).table.errors().html
    assert "<img" not in html
    assert "<script" not in html
    assert "22 more" in html
    assert comparison.table.errors().text
    assert "No request failed." in replace(comparison, errors=()).table.errors().html


def test_the_head_says_what_was_measured():
    names = {"commit": "a1b2c3d4e5f6" * 3, "branch": "main", "dirty": "yes"}
    runs = side(np.random.default_rng(1), 2)
    before = [run(runs[0].services, number=n, git=names, target="http://shop.test") for n in range(2)]
    html = display.sides_table(baseline=before, candidate=[replace(before[0], labels={"build": HOSTILE})])
    for text in ("Scenario api", "http://shop.test", "a1b2c3d4e (main, uncommitted changes)", "14:30 to 14:35"):
        assert text in html
    assert "<script" not in html
