"""The course of a series over its runs as a picture, with its levels; see `perfkit.history.excerpt`."""

from __future__ import annotations

import math
from collections.abc import Iterator, Mapping, Sequence
from datetime import datetime
from typing import TYPE_CHECKING, Any

from perfkit.model import Metric, Verdict
from perfkit.render.picture import SOFT, WIDTH, Picture, drawn_picture, tidy
from perfkit.render.theme import CANDIDATE_COLOUR, VERDICT_COLOURS, format_value, shorten

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

_PLOT = 150  # CSS pixels


def course_picture(course: Mapping[str, Any]) -> Picture:
    """Runs as dots, levels as lines, the newest level in the colour of what led to it."""
    height = _PLOT + 62
    return drawn_picture(height, _course_alt(course), lambda figure: _draw_course(figure, course, height))


def _draw_course(figure: Figure, course: Mapping[str, Any], height: int) -> None:
    metric, values = Metric(course["metric"]), course["values"]
    axes = figure.add_axes((58 / WIDTH, 30 / height, (WIDTH - 58 - 14) / WIDTH, _PLOT / height))
    figure.text(10 / WIDTH, 1 - 18 / height, _course_title(course), weight="bold", va="center")
    xs = [i for i, value in enumerate(values) if value is not None]
    axes.plot(xs, [values[i] for i in xs], "o", color="#8b95a1", markersize=3.2, markeredgewidth=0)
    last = len(course["levels"]) - 1
    for number, (begin, end, value) in enumerate(_levels(course)):
        colour = _level_colour(course, number) if number == last else SOFT
        axes.plot([begin - 0.5, end - 0.5], [value, value], color=colour, linewidth=2.6, solid_capstyle="butt")
        if number:
            axes.axvline(begin - 0.5, color=colour, linewidth=0.8, linestyle=(0, (3, 3)))
    axes.set_xlim(-1.0, len(values))
    axes.set_ylim(*_range([values[i] for i in xs], metric))
    _days(axes, course["started_at"])
    axes.set_ylabel(metric.unit, fontsize=9)
    axes.tick_params(length=0, labelsize=8.5)
    tidy(axes, "y")


def _levels(course: Mapping[str, Any]) -> Iterator[tuple[int, int, float]]:
    """By place in the picture."""
    first = course["first_index"]
    for part in course["levels"]:
        yield max(part["begin"] - first, 0), part["end"] - first, part["value"]


def _level_colour(course: Mapping[str, Any], number: int) -> str:
    if number == 0:
        return CANDIDATE_COLOUR
    before, after = (course["levels"][i]["value"] for i in (number - 1, number))
    worse = (after - before) * Metric(course["metric"]).worse > 0
    return VERDICT_COLOURS[Verdict.REGRESSION if worse else Verdict.IMPROVEMENT]


def _range(values: Sequence[float], metric: Metric) -> tuple[float, float]:
    """All values; from zero for error rates, where most are."""
    low, high = min(values), max(values)
    room = 0.12 * (high - low) or 0.1 * abs(high) or 1.0
    return (0.0 if metric is Metric.ERROR_RATE else low - room), high + room


def _days(axes: Axes, started_at: Sequence[str | None]) -> None:
    """At most five days below the runs, times where all are of one day; numbers of runs where no time is known."""
    step = max(math.ceil(len(started_at) / 5), 1)
    places = range(0, len(started_at), step)
    times = [datetime.fromisoformat(text) if (text := started_at[i]) else None for i in places]
    one_day = len({at.date() for at in times if at is not None}) == 1 < len(times)
    form = "{0:%H:%M}" if one_day else "{0.day} {0:%b}"
    axes.set_xticks(
        list(places), [form.format(at) if at else f"run {i + 1}" for i, at in zip(places, times, strict=True)]
    )


def _course_title(course: Mapping[str, Any]) -> str:
    levels = [part["value"] for part in course["levels"]]
    metric = course["metric"]
    change = " → ".join(format_value(metric, value) for value in levels[-2:])
    return f"{shorten(course['service'], 30)}, {Metric(metric).title}: {change}"


def _course_alt(course: Mapping[str, Any]) -> str:
    runs = sum(value is not None for value in course["values"])
    return f"Chart of {runs} runs, newest right, with their levels. {_course_title(course)}."
