"""What moved together is one event, wherever noise puts the place of each series; apart in time is apart."""

from collections import Counter
from dataclasses import replace
from datetime import UTC, datetime, timedelta

import numpy as np
import pytest

from perfkit.history.change_events import FAR, HistoryAnalysis, find_events, group, possible_places, shared_alpha
from perfkit.history.events import Event, MetricChange, RunReference
from perfkit.history.timeline import Timeline
from perfkit.model.codec import encode
from perfkit.model.records import Metric
from perfkit.stats.changepoints import ChangePoint, segment

DAY = datetime(2026, 1, 1, tzinfo=UTC)


def timeline(series, n=None, invalid=()):
    n = n or len(next(iter(series.values())))
    moments = [RunReference(f"r{i}", DAY + timedelta(days=i), i not in invalid, f"{i:040x}") for i in range(n)]
    return Timeline("api", tuple(moments), {key: np.asarray(values, float) for key, values in series.items()}, {})


def moved(index, *, service="a", metric=Metric.AVG, before=100.0, after=120.0, p=1e-9, reach=1):
    change = 100 * (after - before) / before if before else float("inf")
    return MetricChange(service, metric, ChangePoint(index, before, after, change, p, change - 2, change + 2), reach)


def grouped(*movements, n=100):
    return [
        [(item.service, item.change.index) for item in event.changes]
        for event in group(timeline({("a", Metric.AVG): np.ones(n)}), movements)
    ]


@pytest.mark.parametrize(
    ("movements", "events"),
    [
        # two runs apart, on either side, is one place
        ([moved(40, p=1e-20), moved(38, service="b"), moved(42, service="c")], [["a", "b", "c"]]),
        # far apart is two
        ([moved(40), moved(50, service="b")], [["a"], ["b"]]),
        # a chain does not grow: each is near to the one before, the last is not near to the strongest
        (
            [
                moved(40, p=1e-20),
                moved(43, service="b", p=1e-9),
                moved(46, service="c", p=1e-8),
                moved(49, service="d", p=1e-7),
            ],
            [["a", "b"], ["c", "d"]],
        ),
        # one series up and soon down again is two events, and each takes what is nearest
        ([moved(40, p=1e-20), moved(43, p=1e-18), moved(42, service="b")], [["a"], ["a", "b"]]),
        # an unclear place may be far off
        ([moved(40, p=1e-20), moved(46, service="b", reach=3)], [["a", "b"]]),
        ([moved(40, p=1e-20, reach=FAR), moved(40 + FAR + 1, service="b", reach=FAR)], [["a"], ["b"]]),
    ],
)
def test_what_is_near_is_one_event_and_chains_do_not_grow(movements, events):
    found = [[service for service, _ in members] for members in grouped(*movements)]
    assert found == events
    assert sorted(map(sorted, grouped(*movements[::-1]))) == sorted(map(sorted, grouped(*movements)))


def history(rng, *, at, size, services=5, n=100, sd=0.03):
    series = {}
    for service in range(services):
        for metric in (Metric.AVG, Metric.P50, Metric.P95, Metric.P99):
            values = 100 * np.exp(rng.normal(0, sd, n))
            values[at:] *= 1 + size
            series[f"s{service}", metric] = values
    return timeline(series)


def test_a_change_in_twenty_series_is_one_event_at_its_place(rng):
    """At 1.7 noise standard deviations single series are up to ten runs off; the event is not."""
    places = Counter(tuple(event.index for event in find_events(history(rng, at=60, size=0.05))) for _ in range(60))
    alone = sum(count for found, count in places.items() if len(found) == 1)
    assert alone >= 56
    assert sum(count for found, count in places.items() if any(abs(at - 60) <= 1 for at in found)) >= 59


def correlated(rng, at, *, size=0.04, correlation=0.3, n=120, sd=0.02):
    """Runs that resemble their neighbours; by two standard deviations slower from a run on."""
    shocks = rng.normal(0, sd, n)
    noise = np.zeros(n)
    for i in range(1, n):
        noise[i] = correlation * noise[i - 1] + shocks[i] * (1 - correlation**2) ** 0.5
    return 100 * np.exp(noise + size * (np.arange(n) >= at))


def test_series_that_noise_puts_far_off_are_of_the_same_event(rng):
    """Of twenty series one is often over ten runs off where neighbouring runs resemble each other."""
    alone = 0
    for _ in range(40):
        found = find_events(timeline({(f"s{i}", Metric.AVG): correlated(rng, 60) for i in range(20)}))
        alone += len(found) == 1 and abs(found[0].index - 60) <= 2
    assert alone >= 38


def test_events_of_different_services_eight_runs_apart_stay_two(rng):
    """Two standard deviations of one run each."""
    two = 0
    for _ in range(40):
        series = {(f"s{i}", Metric.AVG): correlated(rng, 60 + 8 * (i % 2)) for i in range(20)}
        places = [event.index for event in find_events(timeline(series))]
        two += len(places) == 2 and abs(places[0] - 60) <= 2 and abs(places[1] - 68) <= 2
    assert two >= 31


def test_where_else_a_change_may_have_been():
    clear = step(40, 20)
    (change,) = segment(clear, alpha=0.01).changes
    assert possible_places(clear, segment(clear, alpha=0.01), 0) == (20, 20) == (change.index,) * 2
    gap = clear.copy()
    gap[18:20] = (gap[18:20] + gap[22:24]) / 2  # halfway between both levels
    found = segment(gap, alpha=0.01)
    first, last = possible_places(gap, found, 0)
    assert first <= 18
    assert last >= 20
    assert possible_places(np.repeat([1.0, 2.0], 20), segment(np.repeat([1.0, 2.0], 20), alpha=0.01), 0) == (20, 20)


def test_nothing_happened_in_a_history_without_a_change(rng):
    assert sum(bool(find_events(history(rng, at=0, size=0.0, services=3, n=60))) for _ in range(100)) <= 5


def test_its_name_stands_while_runs_are_added(rng):
    """The place may move by a run or two; the name that was given to the event first still means it."""
    kept = 0
    for _ in range(20):
        whole = history(rng, at=40, size=0.08, services=2, n=80)
        names = []
        for n in range(50, 81, 3):
            short = timeline({key: values[:n] for key, values in whole.series.items()})
            names.append(next((event for event in find_events(short) if abs(event.index - 40) <= 5), None))
        assert all(names)
        assert all(event.answers_to(event.id) for event in names)
        kept += all(event.answers_to(names[0].id) for event in names)
    assert kept >= 19


def test_aliases_of_neighbours_do_not_overlap():
    events = group(timeline({("a", Metric.AVG): np.ones(60)}), [moved(30, p=1e-20), moved(34, p=1e-10)])
    assert [event.aliases for event in events] == [
        ("r28", "r29", "r30", "r31", "r32"),
        ("r32", "r33", "r34", "r35", "r36"),
    ]


def step(n=40, at=20, size=0.5):
    wave = 100 + np.resize([0.0, 1.0, 2.0, 1.0], n)
    wave[at:] *= 1 + size
    return wave


def test_runs_without_a_value_are_stepped_over():
    """Runs 17 to 19 are invalid, and 20 and 21 did not measure: it happened between 16 and 22."""
    values = step()
    values[17:22] = np.nan
    (event,) = find_events(timeline({("a", Metric.AVG): values}, invalid=(17, 18, 19)))
    assert (event.last_before.run_id, event.first_after.run_id, event.index) == ("r16", "r22", 22)


def test_another_series_that_moved_there_tells_more():
    partly = step()
    partly[17:20] = np.nan
    (event,) = find_events(timeline({("a", Metric.AVG): partly, ("b", Metric.AVG): step()}))
    assert (event.last_before.run_id, event.first_after.run_id) == ("r19", "r20")


def test_what_is_said_of_it():
    series = {("shop", Metric.AVG): step(), ("shop", Metric.P95): step(), ("cart", Metric.RPS): step(size=-0.3)}
    (event,) = find_events(timeline(series))
    assert event.kind == "regression"
    assert event.headline.startswith("Worse: ")
    assert ", and 2 more in 2 services, since run r20 (2026-01-21)." in event.headline
    assert event.to_dict()["last_before"] == {
        "run": "r19",
        "started_at": "2026-01-20T00:00:00+00:00",
        "commit": f"{19:040x}",
        "branch": "",
    }
    (mixed,) = find_events(timeline({("shop", Metric.AVG): step(), ("cart", Metric.AVG): step(size=-0.3)}))
    (better,) = find_events(timeline({("shop", Metric.AVG): step(size=-0.3)}))
    assert (mixed.kind, better.kind) == ("mixed", "improvement")


def test_it_leads_with_what_hurts_most_not_with_what_is_surest():
    rps = moved(50, metric=Metric.RPS, before=50.0, after=48.7, p=1e-30)
    median = moved(50, metric=Metric.P50, before=20.0, after=26.6, p=1e-6)
    tail = moved(50, metric=Metric.P999, before=100.0, after=150.0, p=1e-6)
    better = moved(50, service="b", before=100.0, after=20.0, p=1e-40)
    event = Event(
        "r", "s", 50, RunReference("q", None, True), RunReference("r", None, True), (better, rps, tail, median)
    )
    assert [change.metric for change in event.changes] == [Metric.P50, Metric.P999, Metric.RPS, Metric.AVG]
    assert "median latency of a +33" in event.headline
    assert event.services == ("a", "b")


def test_the_error_rate_changes_in_points_and_from_zero_has_no_interval():
    points = moved(5, metric=Metric.ERROR_RATE, before=2.0, after=3.0)
    assert (points.size, points.size_low, points.size_high) == (1.0, pytest.approx(0.96), pytest.approx(1.04))
    assert points.describe() == "error rate of a +1 pp [+0.96, +1.04]"
    nothing = MetricChange(
        "a", Metric.ERROR_RATE, ChangePoint(5, 0.0, 3.0, float("inf"), 1e-9, float("inf"), float("inf"))
    )
    assert nothing.describe() == "error rate of a +3 pp"
    assert encode(nothing)["change_pct"] is None


def test_alpha_is_shared_among_the_series_that_can_show_anything():
    few = np.full(30, np.nan)
    few[:3] = 1.0
    line = timeline({("a", Metric.AVG): step(30), ("a", Metric.P95): step(30), ("b", Metric.AVG): few})
    assert shared_alpha(line, 0.01) == 0.005
    assert shared_alpha(timeline({("b", Metric.AVG): few}), 0.01) == 0.01
    each = {key: segment(values, alpha=0.005) for key, values in line.series.items()}
    assert HistoryAnalysis(line, segmentations=each).events == find_events(line)


def test_one_that_joined_before_a_nearer_event_began_goes_to_that_one():
    wide = replace(moved(24, metric=Metric.P999, p=1e-12), index_range=(23, 28))
    assert grouped(moved(28, service="b", p=1e-15), wide, moved(24, p=1e-10)) == [
        [("a", 24), ("a", 24)],
        [("b", 28)],
    ]


def test_what_becomes_known_later_joins_events_and_rearranges_none():
    base = timeline({("a", Metric.AVG): np.ones(60)})
    first, late = moved(44, p=1e-6, reach=0), moved(46, metric=Metric.P999, p=1e-7)
    after = moved(47, service="b", before=120.0, after=100.0, p=1e-20, reach=0)
    heard = [[item.change.index for item in event.changes] for event in group(base, [first], [late], [after])]
    assert heard == [[44, 46], [47]]
    # Known all at once, the one in between is nearest to the last
    assert [[item.change.index for item in event.changes] for event in group(base, [first, late, after])] == [
        [44],
        [46, 47],
    ]
