"""What a row, a page and an advice say of a verdict: words that the interval beside them bears out."""

import io
import json
import re
from dataclasses import replace

import pytest
from rich.console import Console
from samples import plain_stats, run, side

from perfkit import compare
from perfkit.history.incidents import result_of
from perfkit.model.records import Verdict
from perfkit.model.serialization import comparison_from_document
from perfkit.report.display import findings_table, runs_table, verdict_banner
from perfkit.report.findings import finding_row, next_step, open_questions
from perfkit.report.formatting import finding_word
from perfkit.report.github import to_comment
from perfkit.report.mail import mail_of
from perfkit.report.message import message_of
from perfkit.report.text import print_comparison, to_markdown, to_summary

BASE = compare([run({"a": plain_stats()}, number=n) for n in range(3)], [run({"a": plain_stats()}, number=9)])
ROW = replace(BASE.findings[0], arithmetic=None, ci_low=-1.0, ci_high=1.0, verdict=Verdict.NO_CHANGE)


def terminal(comparison, width=160):
    console = Console(file=io.StringIO(), width=width)
    print_comparison(comparison, console)
    return console.file.getvalue()


@pytest.mark.parametrize(
    ("metric", "verdict", "interval", "words"),
    [
        ("avg_latency_ms", "no_change", (-1.0, 1.0), "no regression"),
        ("avg_latency_ms", "no_change", (-9.0, -2.0), "no regression, likely better"),
        ("avg_latency_ms", "no_change", (0.4, 2.0), "no regression, likely worse"),
        ("rps", "no_change", (0.4, 2.0), "no regression, likely better"),
        ("rps", "no_change", (-2.0, -0.1), "no regression, likely worse"),
        ("error_rate_pct", "no_change", (0.01, 0.2), "no regression, likely worse"),
        ("avg_latency_ms", "inconclusive", (0.4, 9.0), "inconclusive, likely worse"),
        ("avg_latency_ms", "inconclusive", (-1.0, 9.0), "inconclusive"),
        ("avg_latency_ms", "regression", (6.0, 9.0), "regression"),
        ("avg_latency_ms", "improvement", (-9.0, -6.0), "improvement"),
        ("avg_latency_ms", "no_change", (None, None), "no regression"),
    ],
)
def test_a_row_says_what_its_interval_shows(metric, verdict, interval, words):
    finding = replace(ROW, metric=metric, verdict=Verdict(verdict), ci_low=interval[0], ci_high=interval[1])
    assert finding_word(finding) == words


def test_a_limit_that_is_kept_is_no_improvement_and_one_that_is_exceeded_no_worsening():
    kept = replace(ROW, objective=True, ci_low=-40.0, ci_high=-30.0)
    exceeded = replace(kept, verdict=Verdict.REGRESSION, ci_low=30.0, ci_high=40.0)
    assert [finding_word(finding) for finding in (kept, exceeded)] == ["limit kept", "limit exceeded"]
    assert finding_row(exceeded).cells["before"].startswith("≤ ")


def test_what_is_not_judged_is_not_likely_anything():
    """Other load: the numbers say worse, and the verdict is that of a reason, not of the numbers."""
    numbers = replace(BASE.findings[0].arithmetic, verdict="regression")
    capped = replace(ROW, verdict=Verdict.INCONCLUSIVE, ci_low=20.0, ci_high=30.0, arithmetic=numbers)
    assert finding_word(capped) == "inconclusive"


@pytest.fixture
def faster(rng):
    """Better beyond chance, short of the tolerance: every surface marks it."""
    return compare(side(rng, 5, names=("a",), sd=0.004), side(rng, 3, first=50, names=("a",), sd=0.004, slower=0.97))


def test_no_surface_says_no_change_beside_an_interval_that_leaves_out_zero(faster, rng):
    result = result_of(json.loads(json.dumps(faster.to_dict())), "result.json")
    told = [message_of(result)]
    mail = mail_of([message_of(result)])
    surfaces = {
        "terminal": terminal(faster),
        "Markdown": to_markdown(faster),
        "report": findings_table(faster).html,
        "banner": verdict_banner(faster).html,
        "summary": to_summary(told),
        "comment": to_comment(told),
        "mail": mail.html,
        "mail as text": re.sub(r"\s+", " ", mail.text),
    }
    marked = [finding for finding in faster.findings if finding_word(finding).endswith("likely better")]
    assert marked
    for name, text in surfaces.items():
        assert "no change" not in text, name
        assert "no regression" in text, name
        assert name == "banner" or "no regression, likely better" in text, name


def test_json_keeps_its_words(faster):
    document = faster.to_dict()
    assert {"no_change"} <= {finding["verdict"] for finding in document["findings"]}
    assert document["verdict"] == "no_change"


def test_a_narrow_terminal_loses_no_number_for_the_words(faster):
    text = terminal(faster, width=80)
    assert "likely better" in text
    assert "…" not in text
    assert max(map(len, text.splitlines())) <= 80


def test_requests_are_those_of_the_result(rng):
    comparison = compare(side(rng, 2), side(rng, 2, first=50))
    document = json.loads(json.dumps(comparison.to_dict()))
    again = comparison_from_document(document, "result.json")
    told = [message_of(result_of(document, "result.json"))]
    for text in (to_markdown(comparison), to_markdown(again), to_summary(told), to_comment(told)):
        assert "| 15,000 |" in text
        assert "| ~ | yes |" not in text
    assert [one.request_count for one in again.candidate.runs] == [15000, 15000]


def test_requests_that_a_source_does_not_count_are_unknown_and_not_zero():
    """Of one service 1,000 are known, of the other nothing: it was 1,000."""
    half = run({"a": plain_stats(), "b": plain_stats(count=None, failures=None, error_rate_pct=None)})
    assert half.request_count is None
    assert run({"a": plain_stats()}).request_count == 1000
    assert "<td>~</td>" in re.sub(r' class="[^"]*"', "", runs_table([half]).html)


def test_the_advice_comes_from_the_finding_that_matters_most():
    """Not from the one that needs most runs."""
    rows = {
        "avg_latency_ms": replace(ROW, verdict=Verdict.INCONCLUSIVE, change_pct=2.0, ci_high=6.0, runs_needed=2),
        "rps": replace(ROW, metric="rps", verdict=Verdict.INCONCLUSIVE, change_pct=-1.0, runs_needed=73),
    }
    weighed = [
        replace(row, gating=True, arithmetic=replace(BASE.findings[0].arithmetic, share=share, verdict="inconclusive"))
        for row, share in zip(rows.values(), (0.6, 0.06), strict=True)
    ]
    comparison = replace(BASE, verdict=Verdict.INCONCLUSIVE, findings=tuple(weighed[::-1]))
    text = next_step(comparison)
    assert text.startswith("About 2 further runs on each side would settle average latency of a.")
    assert "73" not in text
    assert "1 more gating question is open; the table says how many runs would settle it." in text
    beyond = replace(weighed[1], change_pct=-9.0, p_value=0.01)  # seen to be worse than is accepted
    worse = replace(comparison, findings=(weighed[0], beyond))
    assert open_questions(worse)[0].metric == "rps"
    assert next_step(worse).startswith("About 73 further runs on each side would settle throughput of a.")
    hopeless = replace(
        comparison, findings=(replace(weighed[0], runs_needed=None, warnings=("sizes differ",)), weighed[1])
    )
    assert next_step(hopeless).startswith("More runs like these cannot settle average latency of a (sizes differ).")
