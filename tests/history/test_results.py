"""Results written as JSON tell the same when they are read back; worsenings become incidents."""

import json

import pytest
from histories import against_history, nights
from samples import REPOSITORY, plain_stats, run, side
from watched_results import alert, trend

from perfkit import ReadError, compare
from perfkit.history.events import Event, MetricChange, RunReference
from perfkit.history.incidents import (
    NEVER_NOTIFIED,
    Occurrence,
    incidents_of,
    notification_diff,
    read_result,
    result_of,
)
from perfkit.model.records import Metric, Verdict
from perfkit.report.findings import headlines, next_step
from perfkit.report.text import to_markdown
from perfkit.stats.changepoints import ChangePoint


def again(comparison):
    return result_of(json.loads(json.dumps(comparison.to_dict(), allow_nan=False)), "result.json")


@pytest.mark.parametrize("slower", [1.0, 1.2])
def test_a_comparison_read_back_is_the_same(rng, slower):
    before = compare(side(rng, 3, first=0), side(rng, 3, first=3, slower=slower))
    read = again(before)
    assert read.comparison.to_dict() | {"baseline": 0, "candidate": 0} == before.to_dict() | {
        "baseline": 0,
        "candidate": 0,
    }
    assert (headlines(read.comparison), next_step(read.comparison)) == (headlines(before), next_step(before))
    assert (read.scenario, read.verdict, read.watched) == ("api", before.verdict, False)
    runs = read.comparison.baseline.runs
    assert [(one.id, one.profile, one.validity.ok) for one in runs] == [
        (one.id, one.profile, True) for one in before.baseline.runs
    ]
    assert to_markdown(read.comparison).partition("## Runs")[0] == to_markdown(before).partition("## Runs")[0]


def test_a_change_from_zero_stays_one(rng):
    before = compare(
        [run({"a": plain_stats(failures=0)}, number=n) for n in range(3)],
        [run({"a": plain_stats(failures=90)}, number=n) for n in range(3, 6)],
    )
    read = again(before)
    assert [one.change_pct for one in read.comparison.findings] == [one.change_pct for one in before.findings]
    assert any(item.metric is Metric.ERROR_RATE for item in read.open_incidents[0].last.worse)


def test_a_comparison_of_two_builds_is_one_episode_that_keeps_its_name(rng):
    baseline = side(rng, 3, first=0)
    found = [
        again(compare(baseline, side(rng, 3, first=begin, slower=1.3, names=tuple("ab")))).open_incidents
        for begin in (3, 9)
    ]
    assert again(compare(side(rng, 3), side(rng, 3, first=3))).incidents == ()
    assert not found[0]  # nothing in common: no claim
    slow = [again(compare(baseline, side(rng, 3, first=begin, slower=1.3))).open_incidents for begin in (3, 9)]
    assert [len(news) for news in slow] == [1, 1]
    assert slow[0][0].fingerprint == slow[1][0].fingerprint
    assert len(slow[0][0].last.services) == 3


def test_the_history_of_a_comparison_is_read_back(rng, tmp_path):
    runs = [*nights(rng, 40, services=("a", "b")), *nights(rng, 5, first=40, factor=1.3, services=("a", "b"))]
    comparison = against_history(runs, tmp_path)
    read = again(comparison)
    (incident,) = read.open_incidents
    (alert,) = comparison.history.document["alerts"]
    assert read.comparison.history == comparison.history
    assert (incident.last.event.headline, incident.last.event.kind) == (alert["headline"], "regression")
    assert set(incident.last.services) == {"a", "b"}
    assert incident.last.detected_at == alert["raised_at"]
    assert all(item.size_low < item.size < item.size_high for item in incident.last.worse)


def test_an_acknowledged_or_passed_worsening_is_no_news():
    assert [one.is_open for one in incidents_of([seen(3, holds=False)])] == [False]
    plain = {"schema": "perfkit.trend/1"}
    with pytest.raises(ReadError, match="x: scenario: is missing; the file is not whole"):
        result_of(plain, "x")


def test_histories_under_other_labels_have_other_incidents():
    """What is open in the history of one machine is not over in that of another, though runs have the same names."""
    whole, part = trend(alert(40)), trend(alert(40, holds=False), labels={"machine": "ci-4"})
    assert (whole.subject, part.subject, part.scenario) == ("api", "api (machine=ci-4)", "api")
    assert part.incidents[0].scenario == part.subject
    assert not set(whole.incidents[0].fingerprints) & set(part.incidents[0].fingerprints)
    notified = notification_diff(whole, NEVER_NOTIFIED).after
    assert not notification_diff(part, notified).resolved
    assert notification_diff(trend(alert(40, holds=False)), notified).resolved


def test_what_is_taken_back_by_a_little_holds_and_what_comes_back_is_an_event_of_its_own(rng, tmp_path):
    night = {"services": ("a",), "sd": 0.01}
    risen = [*nights(rng, 40, **night), *nights(rng, 20, first=40, factor=1.5, **night)]
    for number, (factors, holds) in enumerate((((1.45,), [True]), ((1.0,), [False]), ((1.0, 1.5), [False, True]))):
        runs = list(risen)
        for factor in factors:
            runs += nights(rng, 10, first=len(runs), factor=factor, **night)
        alerts = against_history(runs, tmp_path / str(number)).history.document["alerts"]
        assert [one["holds"] for one in alerts if one["kind"] == "regression"] == holds


def seen(index, *, size=20.0, service="a", before=100.0, **changes):
    change = ChangePoint(index, before, before + size, size, 1e-9, size - 1, size + 1)
    moments = [RunReference(f"run{at}", None, True) for at in (index - 1, index)]
    names = tuple(f"run{at}" for at in range(index - 1, index + 2))
    return Occurrence(
        Event(f"run{index}", "api", index, *moments, (MetricChange(service, Metric.P95, change),), names), **changes
    )


def test_what_comes_back_is_the_same_episode():
    (one,) = incidents_of([seen(10, holds=False), seen(20, size=-20.0, before=120.0), seen(30, size=22.0)])
    assert (one.relapses, one.is_open, one.first.event.id, one.last.event.id) == (1, True, "run10", "run30")


@pytest.mark.parametrize("other", [{"size": 60.0}, {"service": "b"}])
def test_another_size_or_service_is_another_episode(other):
    assert len(incidents_of([seen(10, holds=False), seen(30, **other)])) == 2


def test_a_second_step_while_the_first_holds_is_an_episode_of_its_own():
    assert len(incidents_of([seen(10), seen(30, before=120.0)])) == 2


def test_the_fingerprint_is_found_again_when_the_place_moved():
    before, after = incidents_of([seen(10)])[0], incidents_of([seen(11)])[0]
    assert before.fingerprint != after.fingerprint
    assert before.fingerprint in after.fingerprints


@pytest.mark.parametrize(
    ("text", "said"),
    [
        ("{", "not JSON: "),
        ("[]", "not a result of schema"),
        ('{"schema": "perfkit.comparison/1"}', "verdict: is missing; the file is not whole"),
        ('{"schema": "perfkit.capacity/1"}', "found 'perfkit.capacity/1'"),
    ],
)
def test_what_is_no_result_is_named(tmp_path, text, said):
    (tmp_path / "result.json").write_text(text)
    with pytest.raises(ReadError, match=said):
        read_result(tmp_path)


def test_a_report_is_found_beside_its_result(tmp_path):
    samples = REPOSITORY / "data" / "samples"
    sides = [sorted(path.parent for path in (samples / name).glob("*/run.json")) for name in ("baseline", "candidate")]
    comparison = compare(*sides)
    (tmp_path / "result.json").write_text(json.dumps(comparison.to_dict()))
    assert read_result(tmp_path).report is None
    (tmp_path / "report.html").write_text("<html></html>")
    for name in (".", "report.html", "result.json"):
        assert read_result(tmp_path / name).report == tmp_path / "report.html"
    assert read_result(tmp_path).verdict is Verdict.REGRESSION
    with pytest.raises(ReadError, match="there is no such file"):
        read_result(tmp_path / "none")
