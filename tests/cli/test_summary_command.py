"""Results told to a pipeline: step summary, annotations, JUnit; names from outside do nothing in any of them."""

import json
import re
import resource
from datetime import UTC, datetime

import pytest
import xmlschema
from command_line import invoke
from histories import nights
from junit_reports import junit, schema
from samples import plain_stats, run, side

from perfkit import RunStore, compare
from perfkit.config.policy import Policy
from perfkit.history.gate import judge_history
from perfkit.history.monitor import monitor_timeline
from perfkit.history.run_selector import HistoryContext
from perfkit.history.timeline import load_timeline
from perfkit.history.trend import trend_of
from perfkit.model.codec import dump_json
from perfkit.model.records import Check, Severity, Validity, Verdict
from perfkit.report.report_set import Entry, Outcome, Overview, read_overview, worst
from perfkit.report.text import MOST_BYTES, to_junit, to_summary

HOSTILE = (
    "</script><script>alert(1)</script>",
    "![x](javascript:alert(1)) [y](https://evil.example)",
    "@everyone #1 GH-1",
    "a | b\n| --- |\r\n::error::forged",
    "##[add-mask]e",
    "::stop-commands::x",
    "right \u202eto left\u202c, bell \x07, \ufffe",
    "long" * 2500,
)


def written(path, comparison):
    path.write_text(dump_json(comparison.to_dict()), encoding="utf-8")
    return path


@pytest.fixture
def slower(rng, tmp_path):
    return written(tmp_path / "slower.json", compare(side(rng, 3), side(rng, 3, first=3, slower={"rag_service": 1.3})))


@pytest.fixture
def same(rng, tmp_path):
    return written(tmp_path / "same.json", compare(side(rng, 9), side(rng, 9, first=9)))


@pytest.fixture
def unsure(rng, tmp_path):
    return written(tmp_path / "unsure.json", compare(side(rng, 1), side(rng, 1, first=1)))


@pytest.fixture
def invalid(rng, tmp_path):
    broken = Validity((Check("too_short", "1 s", "10 s", Severity.INVALID, "run for longer"),))
    bad = run({"a": plain_stats()}, number=3, validity=broken)
    return written(tmp_path / "invalid.json", compare([run({"a": plain_stats()}, number=1)], [bad]))


@pytest.fixture
def hostile(rng, tmp_path):
    sides = (side(rng, 3, names=HOSTILE), side(rng, 3, first=3, names=HOSTILE, slower=1.4))
    warned = compare(*sides).with_warnings(HOSTILE)
    return written(tmp_path / "hostile.json", warned)


def test_without_a_pipeline_the_page_is_printed(slower, monkeypatch):
    monkeypatch.delenv("GITHUB_STEP_SUMMARY", raising=False)
    code, out, err = invoke("summary", slower)
    assert (code, err) == (0, "")
    assert out.startswith("# Regression analysis: ✗ regression\n\n- rag_service got worse")


def test_the_page_is_added_to_what_other_steps_said(slower, same, tmp_path, monkeypatch):
    page = tmp_path / "step summary.md"
    page.write_text("before\n")
    monkeypatch.setenv("GITHUB_STEP_SUMMARY", str(page))
    code, out, err = invoke("summary", slower, same)
    assert (code, out, err) == (0, "", f"added to {page}\n")
    text = page.read_text(encoding="utf-8")
    assert text.startswith("before\n# Load tests\n\n| Verdict | Scenario | Report | What it says |")
    assert "| ✗ regression | api | compare | rag_service got worse: " in text
    assert "<details open><summary>✗ regression: api, compare</summary>" in text
    assert "<details><summary>✓ no regression: api, compare</summary>" in text


def test_a_summary_that_cannot_be_written_is_told(slower, tmp_path, monkeypatch):
    monkeypatch.setenv("GITHUB_STEP_SUMMARY", str(tmp_path / "none" / "page.md"))
    code, _, err = invoke("summary", slower)
    assert code == 4
    assert "No such file or directory; it is named by GITHUB_STEP_SUMMARY" in err


def test_half_a_summary_is_taken_back(slower, tmp_path, monkeypatch):
    page = tmp_path / "page.md"
    page.write_text("before\n")
    monkeypatch.setenv("GITHUB_STEP_SUMMARY", str(page))
    soft, hard = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (1_000, hard))
    try:
        code, _, err = invoke("summary", slower)
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, (soft, hard))
    assert (code, "File too large; it is named by GITHUB_STEP_SUMMARY" in err) == (4, True)
    assert page.read_text() == "before\n"


@pytest.mark.parametrize(
    ("name", "verdict"),
    [("slower", "regression"), ("same", "no_change"), ("unsure", "inconclusive"), ("invalid", "invalid")],
)
def test_the_worst_verdict_in_one_word(name, verdict, same, request):
    assert invoke("summary", same, request.getfixturevalue(name), "--verdict") == (0, f"{verdict}\n", "")


def test_annotations_say_how_serious_it_is(slower, same, unsure, invalid):
    code, out, _ = invoke("summary", slower, same, unsure, invalid, "--annotations")
    lines = out.splitlines()
    assert code == 0
    assert [line.split()[0] for line in lines if "to know" not in line] == ["::error"] * 2 + ["::warning", "::notice"]
    assert lines[0].startswith("::error title=perfkit compare api%3A ✗ regression::rag_service got worse: ")
    assert "%25 [" in lines[0]
    assert lines[1].startswith("::error title=perfkit compare api%3A ⊘ invalid::The runs cannot be judged. ")
    assert "on each side would settle " in out


def test_at_most_ten_annotations_of_a_kind(rng, tmp_path):
    names = tuple(f"service{n}" for n in range(24))
    found = compare(side(rng, 3, names=names), side(rng, 3, first=3, names=names, slower=1.5))
    _, out, _ = invoke("summary", written(tmp_path / "many.json", found), "--annotations")
    errors = [line for line in out.splitlines() if line.startswith("::error")]
    assert len(errors) == 10
    assert re.search(r"::error title=perfkit::\d+ more: see the summary or the report\.$", errors[-1])


def test_hostile_names_become_no_command(hostile):
    code, out, _ = invoke("summary", hostile, "--annotations")
    assert code == 0
    for line in out.splitlines():
        assert re.match(r"::(error|warning|notice) title=[^:,]*::[^\r\n]*$", line), line
    assert "##[" not in out
    assert not re.search("[\u202e\x07\ufffe]", out)
    assert max(map(len, out.splitlines())) < 1200


def test_hostile_names_are_shown_and_do_nothing_in_markdown(hostile, monkeypatch):
    monkeypatch.delenv("GITHUB_STEP_SUMMARY", raising=False)
    code, out, _ = invoke("summary", hostile, hostile)
    assert code == 0
    for bad in ("<script", "</script", "@everyone", "](", "https://", "\u202e", "\r"):
        assert bad not in out, bad
    tables = [line for line in out.splitlines() if line.startswith("| ")]
    widths = {line.count(" | ") for line in tables}
    assert widths == {3, 9, 5}  # the columns of the three tables, minus one
    assert out.count("<details") == out.count("</details>")
    assert not re.search(r"^(::|\|\s*-)", out, re.MULTILINE)


def test_hostile_names_do_nothing_in_junit(hostile, tmp_path):
    file = tmp_path / "out" / "junit.xml"
    assert invoke("summary", hostile, "--junit", file)[:2] == (0, "")
    (suite,) = junit(file.read_text(encoding="utf-8"))
    assert len(suite.findall("testcase")) == int(suite.get("tests")) > 8
    assert all(len(case.get("name")) < 300 for case in suite.findall("testcase"))


def test_junit_tells_the_verdicts_apart(slower, same, unsure, invalid, tmp_path):
    file = tmp_path / "junit.xml"
    invoke("summary", slower, same, unsure, invalid, "--junit", file)
    found = junit(file.read_text(encoding="utf-8"))
    ends = [{tag: len(list(suite.iter(tag))) for tag in ("failure", "error", "skipped")} for suite in found]
    assert ends[0]["failure"] > 0 == ends[0]["error"]
    assert ends[1] == {"failure": 0, "error": 0, "skipped": ends[1]["skipped"]}
    assert ends[2]["skipped"] > 0 == ends[2]["failure"] == ends[2]["error"]
    assert all("inconclusive: " in case.get("message") for case in found[2].iter("skipped"))
    assert any("further run" in case.get("message") for case in found[2].iter("skipped"))
    assert ends[3]["error"] == 1
    assert ends[3]["failure"] == 0
    assert "too_short" in "".join(error.text for error in found[3].iter("error"))
    names = [(case.get("classname"), case.get("name")) for case in found[0].iter("testcase")]
    assert len(set(names)) == len(names)


def test_what_compare_writes_as_junit_fits_the_schema_too(slower, rng):
    (suite,) = junit(to_junit(compare(side(rng, 2), side(rng, 2, first=2, slower=1.5))))
    assert suite.get("name") == "perfkit compare"


def test_a_schema_that_finds_nothing_would_be_noticed():
    with pytest.raises(xmlschema.XMLSchemaValidationError):
        schema().validate("<testsuites><testsuite name='x'/></testsuites>")


def test_tables_have_ten_rows_and_lists_ten_lines(rng, tmp_path, monkeypatch):
    monkeypatch.delenv("GITHUB_STEP_SUMMARY", raising=False)
    names = tuple(f"service{n}" for n in range(40))
    found = compare(side(rng, 14, names=names), side(rng, 14, first=14, names=names, slower=1.5)).with_warnings(
        f"warning {n}" for n in range(30)
    )
    _, out, _ = invoke("summary", written(tmp_path / "many.json", found))
    unfolded = re.sub(r"<details>.*?</details>", "", out, flags=re.DOTALL)
    for block in re.split(r"\n\n", unfolded):
        rows = block.splitlines()
        assert len(rows) <= 12 if rows and rows[0].startswith("|") else len(rows) <= 11, block
    assert "<details><summary>20 more</summary>" in out


@pytest.fixture
def history(rng, tmp_path):
    runs = [*nights(rng, 40, services=("a", "b")), *nights(rng, 6, first=40, factor=1.3, services=("a", "b"))]
    store = RunStore(tmp_path / "runs")
    for one in runs:
        store.add(one)
    past = load_timeline(store, "api")
    trend = trend_of(past, monitor=monitor_timeline(past, Policy()))
    (tmp_path / "trend.json").write_text(dump_json(trend.to_dict()), encoding="utf-8")
    against = judge_history(runs[-1:], HistoryContext(store, candidates=tuple(runs[-1:])), Policy())
    return tmp_path / "trend.json", written(tmp_path / "against.json", against)


def test_a_history_is_told_like_a_comparison(history, tmp_path, monkeypatch):
    monkeypatch.delenv("GITHUB_STEP_SUMMARY", raising=False)
    trend, against = history
    assert "# History of api: ✗ regression" in invoke("summary", trend)[1]
    assert invoke("summary", trend, "--verdict")[1] == "regression\n"
    lines = invoke("summary", trend, against, "--annotations")[1].splitlines()
    assert lines[0].startswith("::error title=perfkit trend api%3A ✗ regression::Worse: ")
    assert any(line.startswith("::error title=perfkit compare api%3A ✗ regression::Worse: ") for line in lines)
    invoke("summary", trend, against, "--junit", tmp_path / "junit.xml")
    suites = junit((tmp_path / "junit.xml").read_text())
    assert [case.get("name")[:23] for case in suites[0].iter("testcase")] == ["no regression since run"]
    assert int(suites[0].get("failures")) == 1


@pytest.fixture
def batch(slower, tmp_path):
    """The folder of several reports, one of which failed, and one of a first run."""
    (tmp_path / "all" / "api").mkdir(parents=True)
    (tmp_path / "all" / "api" / "result.json").write_text(slower.read_text(encoding="utf-8"), encoding="utf-8")
    entries = (
        Entry("new", "compare", Outcome.INCOMPARABLE, sentences=("new: no earlier valid run",)),
        Entry("api", "compare", verdict=Verdict.REGRESSION, sentences=("x",), result="api/result.json"),
        Entry("api", "baseline", report="api/report.html", result="api/none.json"),
        Entry("shop", "trend", Outcome.FAILED, sentences=("notebook trend, cell 3: @everyone | </script>",)),
    )
    Overview(entries, datetime(2026, 11, 25, tzinfo=UTC), "data/runs").write(tmp_path / "all")
    return tmp_path / "all"


def test_an_overview_reads_back_as_it_was_written(batch):
    read = read_overview(batch)
    assert read == read_overview(batch / "index.json")
    assert json.loads((batch / "index.json").read_text()) == json.loads(dump_json(read.to_dict()))
    assert [name for name, _ in read.scenarios] == ["shop", "new", "api"]
    assert worst(read.entries).word is Outcome.FAILED


def test_what_failed_is_never_left_out(batch, tmp_path, monkeypatch):
    monkeypatch.delenv("GITHUB_STEP_SUMMARY", raising=False)
    assert invoke("summary", batch, "--verdict")[1] == "failed\n"
    page = invoke("summary", batch)[1]
    assert "| ! failed | shop | trend | notebook trend, cell 3: " in page
    assert "@everyone" not in page
    assert "| ⊘ nothing to compare with | new | compare | new: no earlier valid run |" in page
    assert "rag_service got worse" in page
    lines = invoke("summary", batch, "--annotations")[1].splitlines()
    assert sum(line.startswith("::error") for line in lines) == 3
    invoke("summary", batch, "--junit", tmp_path / "junit.xml")
    suites = junit((tmp_path / "junit.xml").read_text())
    assert [int(suite.get("errors")) for suite in suites] == [1, 0, 1]


EMPTY = '{"schema": "perfkit.overview/1", "entries": [], "made_at": "2026-11-25T00:00:00Z", "store": ""}'


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("{", "index.json: not JSON"),
        ('{"schema": "x"}', "not an overview of reports of schema 'perfkit.overview/1' (found 'x')"),
        (EMPTY, "entries: holds no report at all"),
    ],
)
def test_a_broken_overview_is_no_green_one(tmp_path, text, message):
    (tmp_path / "index.json").write_text(text)
    code, out, err = invoke("summary", tmp_path, "--verdict")
    assert (code, out) == (2, "")
    assert message in err


def test_a_page_too_long_for_github_says_what_is_missing(rng):
    from perfkit.history.incidents import result_of
    from perfkit.report.message import message_of

    names = tuple(f"service{n}" + "|" * 50 for n in range(60))
    found = compare(side(rng, 3, names=names), side(rng, 3, first=3, names=names, slower=1.5))
    told = message_of(result_of(json.loads(dump_json(found.to_dict())), "x"))
    page = to_summary([told] * 60)
    assert len(page.encode()) <= MOST_BYTES
    assert re.search(r"\n\d+ more would be too long for this page; the reports have everything\.\n$", page)
    assert page.count("<details") == page.count("</details>")
