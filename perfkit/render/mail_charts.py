"""Which charts a message shows."""

from __future__ import annotations

from collections.abc import Mapping
from functools import partial
from typing import Any

from perfkit.model import Comparison
from perfkit.render.course_picture import course_picture
from perfkit.render.effects_picture import effects_picture, most_telling
from perfkit.render.picture import Picture

MOST_PICTURES = 3


def pictures_of(
    document: Mapping[str, Any], comparison: Comparison | None, most: int = MOST_PICTURES
) -> tuple[Picture, ...]:
    """The charts of a result, at most so many; none where it holds nothing that could be drawn."""
    history = document.get("history", {}) if comparison is not None else document
    courses = [one for one in history.get("courses", ()) if any(value is not None for value in one["values"])]
    drawn = [partial(course_picture, one) for one in courses]
    effects = most_telling(comparison.findings) if comparison is not None else ()
    if effects and comparison is not None:
        drawn.insert(1, partial(effects_picture, effects, len(comparison.findings)))
    return tuple(draw() for draw in drawn[:most])
