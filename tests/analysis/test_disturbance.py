"""What differs between the sides besides the build is said in one sentence, and no verdict changes for it."""

import json
from dataclasses import replace

import numpy as np
import pytest
from samples import SERVICES, plain_stats, run, side

from perfkit import compare, read_run
from perfkit.history.incidents import result_of
from perfkit.model.records import Check, Severity, Validity
from perfkit.model.serialization import comparison_from_document
from perfkit.report.findings import footnotes, headlines, next_step
from perfkit.report.message import message_of
from perfkit.report.text import to_markdown

LAG = "In 9 % of the seconds the generator was over 100 ms late."


def warned(runs, count, name="event_loop_lag", severity=Severity.WARN):
    """The runs, the first ``count`` of them with a check that did not pass."""
    checks = [Validity((Check(name, 6.0 + k, 5.0, severity, LAG),)) for k in range(count)]
    return [replace(one, validity=check) for one, check in zip(runs, checks, strict=False)] + runs[count:]


@pytest.fixture
def sides(rng):
    return side(rng, 5), side(rng, 3, first=50)


def test_a_generator_that_lagged_on_one_side_only_is_one_sentence_of_the_headline(sides):
    comparison = compare(warned(sides[0], 3), sides[1])
    said = [text for text in headlines(comparison) if "disturbed" in text]
    assert said == [
        "The baseline was disturbed (event loop lag in 3 of its 5 runs and in none of the candidate's), so effects are "
        "distorted; measure both sides in turn: perfkit run api --compare-with ..."
    ]
    assert comparison.disturbance == said[0]
    assert said[0] in comparison.warnings
    assert said[0] not in footnotes(comparison)
    document = json.loads(json.dumps(comparison.to_dict()))
    again = comparison_from_document(document, "result.json")
    assert headlines(again) == headlines(comparison)
    assert said[0] in [text for _, text in message_of(result_of(document, "result.json")).lines]
    assert to_markdown(again).count("was disturbed") == 1
    assert next_step(again).endswith("Measure both sides in turn before you believe the sizes.")
    other = compare(sides[0], warned(sides[1], 3))
    assert "The candidate was disturbed (event loop lag in 3 of its 3 runs" in " ".join(headlines(other))


@pytest.mark.parametrize(("baseline", "candidate"), [(2, 0), (3, 1), (5, 3), (0, 1), (0, 0)])
def test_what_is_rare_or_on_both_sides_is_no_headline(sides, baseline, candidate):
    comparison = compare(warned(sides[0], baseline), warned(sides[1], candidate))
    assert comparison.disturbance is None


def test_what_the_build_may_have_done_is_said_so(sides):
    text = compare(sides[0], warned(sides[1], 3, "drift")).disturbance
    assert text.startswith("Unless the build explains it, the candidate was disturbed (drift in 3 of its 3 runs")


def test_equal_warnings_are_one_line_with_a_count(sides):
    comparison = compare(warned(sides[0], 3), sides[1])
    lines = [text for text in comparison.warnings if LAG in text]
    assert lines == [f"baseline in 3 of 5 runs: event_loop_lag (6.0 to 8.0). {LAG}"]
    one = [text for text in compare(warned(sides[0], 1), sides[1]).warnings if LAG in text]
    assert one == [f"baseline run {sides[0][0].id}: event_loop_lag (6.0). {LAG}"]
    bad = compare(warned(sides[0], 2, severity=Severity.INVALID), sides[1])
    assert bad.verdict == "invalid"
    assert f"in 2 of 5 runs ({sides[0][0].id}, {sides[0][1].id}): event_loop_lag" in bad.warnings[0]


def test_equal_warnings_of_findings_are_one_line_with_a_count():
    """Twelve services whose answers have another size: each has three metrics that are not judged."""
    names = [f"s{k}" for k in range(12)]
    before = [run({n: plain_stats(p95_latency_ms=None) for n in names}, number=k) for k in range(3)]
    comparison = compare(before, [run({n: plain_stats() for n in names}, number=9)])
    rows = [replace(f, warnings=("why not",)) for f in comparison.findings if f.metric == "rps"]
    noted = replace(comparison, findings=tuple(rows), warnings=())
    assert footnotes(noted) == (f"throughput of {len(rows)} services: why not",)
    assert footnotes(replace(noted, findings=tuple(rows[1:2]))) == (f"{rows[1].service}, throughput: why not",)
    of_one = [replace(f, warnings=("why not",)) for f in comparison.findings if f.service == "s3"]
    assert footnotes(replace(noted, findings=tuple(of_one))) == (f"s3, {len(of_one)} metrics: why not",)


def test_services_that_share_nothing_and_move_alike_are_one_sentence_and_stay_a_regression(rng):
    comparison = compare(side(rng, 5, sd=0.005), side(rng, 3, first=50, sd=0.005, slower=1.2))
    assert comparison.verdict == "regression"
    said = [text for text in headlines(comparison) if "moved alike" in text]
    assert len(said) == 1
    assert said[0].startswith("All 3 services moved alike (average latency +1")
    assert said[0].endswith("measure both sides in turn: perfkit run api --compare-with ...")
    lagged = compare(warned(side(rng, 5, sd=0.005), 3), side(rng, 3, first=50, sd=0.005, slower=0.8))
    assert len([text for text in headlines(lagged) if "disturbed" in text or "alike" in text]) == 1
    assert "candidate's), and all 3 services moved alike (average latency -" in lagged.disturbance


@pytest.mark.parametrize(
    "slower",
    [
        1.0,
        {"rag_service": 1.3},
        {"rag_service": 1.2, "mcp_server": 1.2},
        dict(zip(SERVICES, (1.1, 1.2, 1.5), strict=True)),
    ],
)
def test_services_that_move_each_in_its_way_are_none(rng, slower):
    comparison = compare(side(rng, 5, sd=0.005), side(rng, 3, first=50, sd=0.005, slower=slower))
    assert comparison.disturbance is None


def test_runs_in_pairs_and_few_services_need_no_such_sentence(rng):
    pairs = [
        [replace(one, labels={"pair": str(k)}) for k, one in enumerate(side(rng, 5, first=50 * n, sd=0.005, slower=f))]
        for n, f in enumerate((1.0, 1.2))
    ]
    assert compare(*pairs).disturbance is None
    few = ("api_gateway", "rag_service")
    assert compare(side(rng, 5, names=few), side(rng, 3, first=50, names=few, slower=1.3)).disturbance is None


def test_identical_real_runs_are_not_called_disturbed(real_data):
    """Nine set-ups of ten identical runs, 5 against 3 and 3 against 1, some hundred comparisons."""
    rng = np.random.default_rng(5)
    said = total = 0
    for place in sorted(p for p in (real_data / "locust" / "topology").iterdir() if p.is_dir()):
        runs = [read_run(repeat) for repeat in sorted(place.iterdir()) if repeat.is_dir()]
        for sizes in ((5, 3), (3, 1)):
            for _ in range(8):
                chosen = [runs[i] for i in rng.permutation(len(runs))[: sum(sizes)]]
                said += compare(chosen[: sizes[0]], chosen[sizes[0] :]).disturbance is not None
                total += 1
    assert total >= 100
    assert said <= 1
