"""How numbers, verdicts and names are written, and the colours of verdicts, for every outlet alike.

Colours were chosen to stay apart under the common colour-vision deficiencies and to have a contrast of at least 3:1 on
white and on the report's dark page; a verdict always has a symbol as well, never colour alone.  Importing this module
is cheap: it needs no plotting library.
"""

from __future__ import annotations

import math
import re
import unicodedata
from collections.abc import Mapping, Sequence
from types import MappingProxyType
from typing import TYPE_CHECKING, Any

from perfkit.model.records import Finding, Metric, Verdict

if TYPE_CHECKING:
    from perfkit.history.events import RunReference

BLOCKS = "▁▂▃▄▅▆▇█"
MOST_POINTS = 60
GAP = "·"  # a run without a value
UNKNOWN = "~"
"""What is printed where a number cannot be said."""

BASELINE_COLOUR = "#7f8b9b"
CANDIDATE_COLOUR = "#2b7fd4"
TOLERANCE_COLOUR = "#b8860b"
NEUTRAL_COLOUR = "#7c7c7c"

# Of each verdict: symbol, words, colour, marker of plotly
_VERDICTS: Mapping[Verdict, tuple[str, str, str, str]] = {
    Verdict.REGRESSION: ("✗", "regression", "#d1480a", "x"),
    Verdict.IMPROVEMENT: ("★", "improvement", "#0b8f6b", "star"),
    Verdict.NO_CHANGE: ("✓", "no regression", "#5f7d95", "circle"),  # one-sided: not worse than the tolerance
    Verdict.INCONCLUSIVE: ("?", "inconclusive", "#a8760c", "diamond-open"),
    Verdict.INVALID: ("⊘", "invalid", "#8b5fbf", "circle-x-open"),
}
VERDICT_SYMBOLS, VERDICT_WORDS, VERDICT_COLOURS, VERDICT_MARKERS = (
    MappingProxyType({verdict: style[part] for verdict, style in _VERDICTS.items()}) for part in range(4)
)
# Of each kind of event: the verdict that it looks like
EVENT_VERDICTS: Mapping[str, Verdict] = {
    "regression": Verdict.REGRESSION,
    "improvement": Verdict.IMPROVEMENT,
    "mixed": Verdict.INCONCLUSIVE,
}
EVENT_COLOURS = {kind: VERDICT_COLOURS[verdict] for kind, verdict in EVENT_VERDICTS.items()}
EVENT_SYMBOLS = {kind: VERDICT_SYMBOLS[verdict] for kind, verdict in EVENT_VERDICTS.items()} | {"mixed": "±"}
EVENT_WORDS: Mapping[str, str] = {"regression": "got worse", "improvement": "got better", "mixed": "changed"}
KEY_METRICS = (Metric.AVG, Metric.P95, Metric.ERROR_RATE, Metric.RPS)  # what is read first
SHORT_METRICS: Mapping[str, str] = MappingProxyType(
    {
        Metric.AVG.value: "average",
        Metric.P50.value: "median",
        Metric.P95.value: "p95",
        Metric.P99.value: "p99",
        Metric.P999.value: "p99.9",
        Metric.ERROR_RATE.value: "errors",
        Metric.RPS.value: "rps",
    }
)
"""What fits beside an axis on a telephone."""


def sparkline(values: Sequence[float | None]) -> tuple[str, float, float, int]:
    """The newest values as blocks, with the lowest and highest of them and their number; empty where there is none.

    >>> sparkline([1.0, None, 2.0, 3.0])
    ('▁·▅█', 1.0, 3.0, 4)
    """
    newest = list(values[-MOST_POINTS:])
    numbers = [value for value in newest if value is not None]
    if not numbers:
        return "", 0.0, 0.0, 0
    low, high = min(numbers), max(numbers)
    step = (high - low) / (len(BLOCKS) - 1)
    blocks = (GAP if value is None else BLOCKS[round((value - low) / step) if step else 0] for value in newest)
    return "".join(blocks), low, high, len(newest)


def verdict_text(verdict: Verdict) -> str:
    """Symbol and word: ``✗ regression``."""
    return f"{VERDICT_SYMBOLS[verdict]} {VERDICT_WORDS[verdict]}"


def likely_direction(worse: int, low: float | None, high: float | None) -> str:
    """``worse`` or ``better`` where an interval leaves out zero; else empty.  ``worse`` is +1 where more is worse.

    >>> [likely_direction(1, *interval) for interval in ((0.5, 2.0), (-3.0, -1.0), (-1.0, 1.0), (None, None))]
    ['worse', 'better', '', '']
    """
    rises, falls = low is not None and low > 0, high is not None and high < 0
    return ("worse" if rises == (worse > 0) else "better") if rises != falls else ""


def finding_word(finding: Finding) -> str:
    """The verdict of a row, in words that its interval bears out: ``no regression, likely better``.

    A change beyond chance is named where it is not called: short of its part of the alarm budget, or of the tolerance.
    """
    word = VERDICT_WORDS[finding.verdict]
    if finding.objective:
        return {Verdict.NO_CHANGE: "limit kept", Verdict.REGRESSION: "limit exceeded"}.get(finding.verdict, word)
    judged = finding.arithmetic is None or finding.arithmetic.verdict == finding.verdict
    if finding.verdict not in (Verdict.NO_CHANGE, Verdict.INCONCLUSIVE) or not judged:
        return word
    direction = likely_direction(Metric(finding.metric).worse, finding.ci_low, finding.ci_high)
    return f"{word}, likely {direction}" if direction else word


def finding_text(finding: Finding) -> str:
    """Symbol and `finding_word`."""
    return f"{VERDICT_SYMBOLS[finding.verdict]} {finding_word(finding)}"


def format_number(value: float) -> str:
    """At least three significant digits, no exponent: ``0.0331 3.31 33.1 331 33,100``.

    >>> [format_number(x) for x in (1e-12, 0.0331, 3.314, 33.14, 331.4, 33140.0, float("inf"))]
    ['0', '0.0331', '3.31', '33.1', '331', '33,140', '∞']
    """
    if math.isinf(value):
        return "∞" if value > 0 else "-∞"
    if abs(value) < 5e-7:  # the dust of arithmetic, in any unit
        return "0"
    digits = max(0, min(9, 2 - math.floor(math.log10(abs(value)) + 1e-12)))
    return f"{value:,.{digits}f}"


def format_value(metric: str, value: float | None) -> str:
    """A metric's value with its unit: ``147 ms``, ``0.33 %``, ``50.0/s``; ``~`` when unknown.

    >>> format_value("p95_latency_ms", 147.2), format_value("error_rate_pct", 0.3333), format_value("rps", 50.0)
    ('147 ms', '0.333 %', '50.0/s')
    """
    if value is None or math.isnan(value):
        return UNKNOWN
    unit = Metric(metric).unit
    return f"{format_number(value)}/s" if unit == "1/s" else f"{format_number(value)} {unit}"


def format_signed(value: float | None, unit: str) -> str:
    """A change as a bare number: one decimal for percent (none from 100 on), two for percentage points.

    >>> [format_signed(x, "%") for x in (20.34, -0.04, 203.03, float("inf"), None)], format_signed(0.451, "pp")
    (['+20.3', '0.0', '+203', '+∞', '~'], '+0.45')
    """
    if value is None or math.isnan(value):
        return UNKNOWN
    if math.isinf(value):
        return "+∞" if value > 0 else "-∞"
    digits = 2 if unit == "pp" else 0 if abs(value) >= 99.95 else 1
    text = f"{value:+,.{digits}f}"
    return text[1:] if float(text.replace(",", "")) == 0 else text


def format_change(finding: Finding) -> str:
    """The change of a finding: ``+20.3 %``, ``+0.45 pp``, ``+∞ % (from zero)``; ``~`` when unknown."""
    text = format_signed(finding.change, finding.change_unit)
    if text == UNKNOWN:
        return text
    return f"{text} {finding.change_unit}{' (from zero)' if text.endswith('∞') else ''}"


def format_interval(finding: Finding) -> str:
    """The interval of a finding in its change unit: ``[+18.2, +22.1]``; ``~`` when there is none."""
    return format_bounds(finding.ci_low, finding.ci_high, finding.change_unit)


def format_bounds(low: float | None, high: float | None, unit: str) -> str:
    """An interval of changes in that unit; ``~`` unless both ends are known."""
    ends = [format_signed(end, unit) for end in (low, high)]
    return UNKNOWN if UNKNOWN in ends else f"[{ends[0]}, {ends[1]}]"


def effects_reach(findings: Sequence[Finding]) -> float:
    """How far an axis of effects goes: all estimates and tolerances, and most intervals."""
    changes = [abs(f.change) for f in findings if f.change is not None and math.isfinite(f.change)]
    limits = [f.tolerance for f in findings if f.tolerance is not None]
    bounds = [max(abs(f.ci_low), abs(f.ci_high)) for f in findings if f.ci_low is not None and f.ci_high is not None]
    ends = sorted(end for end in bounds if math.isfinite(end))
    most = ends[min(len(ends) - 1, int(0.85 * len(ends)))] if ends else 0.0
    return max(*changes, *limits, most, 1e-3, 1e-3)


def format_p(value: float | None) -> str:
    """A probability: ``0.034``, ``<0.0001``; ``~`` when there is none."""
    if value is None or math.isnan(value):
        return UNKNOWN
    return "<0.0001" if value < 0.0001 else f"{value:.2g}" if value < 0.1 else f"{value:.2f}"


def format_load(value: float | None, unit: str = "") -> str:
    """A load: whole users, ``52 users``; ``~`` when unknown."""
    if value is None:
        return UNKNOWN
    text = f"{value:,.0f}" if unit == "users" else format_number(value)
    return f"{text} {unit}".rstrip()


def format_time(at: Any, form: str = "%Y-%m-%d %H:%M") -> str:
    """A time, or its day; ``~`` when unknown (``None``, ``NaT``)."""
    return UNKNOWN if at is None or at != at else format(at, form)


def format_day(run: RunReference) -> str:
    """``12 Oct 2026``; ``~`` for a run whose time is not known."""
    return format_time(run.started_at, f"{run.started_at.day if run.started_at else ''} %b %Y")


def commit_text(run: RunReference) -> str:
    """What fits beside a date; empty where unknown."""
    return clean(run.commit)[:10]


def clock(seconds: float) -> str:
    """A length of time: ``1:20``.

    >>> clock(80.4), clock(3723)
    ('1:20', '1:02:03')
    """
    minutes, rest = divmod(int(seconds), 60)
    return f"{minutes}:{rest:02d}" if minutes < 60 else f"{minutes // 60}:{minutes % 60:02d}:{rest:02d}"


def count_text(count: int, noun: str) -> str:
    """``1 run``, ``3 runs``, ``1,200 runs``."""
    return f"{count:,} {noun}{'' if count == 1 else 's'}"


def at_most(texts: Sequence[str], most: int, rest: str) -> tuple[str, ...]:
    """The first so many; where some are left out, then ``rest`` with their number for ``{}``."""
    more = len(texts) - most
    return (*texts[:most], *((rest.format(more),) if more > 0 else ()))


def and_more(count: int, noun: str = "") -> str:
    """`` and 3 more``, to stand behind a list; empty where nothing is left out."""
    return "" if count <= 0 else f" and {count} more{f' {noun}' if noun else ''}"


# GitHub's runner obeys "::name ...::" where a line begins, be it one that was wrapped there, and "##[name]" anywhere
_WORKFLOW_COMMAND = re.compile(r"(?<!\S):(?=:[A-Za-z])|##(?=\[)")


def clean(text: object) -> str:
    """A text from outside on one line, without control, bidirectional and other invisible characters.

    No runner of workflows takes a part of it for a command.

    >>> clean("::error::x\\r\\n##[add-mask]x  std::sort")
    ': :error::x ## [add-mask]x std::sort'
    """
    plain = str(text)
    if not plain.isprintable():  # rare, and a hundred times as slow
        visible = (" " if unicodedata.category(c) in ("Cc", "Zl", "Zp") else c for c in plain)
        plain = "".join(c for c in visible if unicodedata.category(c) not in ("Cf", "Cs", "Co", "Cn"))
    line = " ".join(plain.split())
    return _WORKFLOW_COMMAND.sub(lambda match: f"{match[0]} ", line) if "::" in line or "##[" in line else line


def shorten(text: object, limit: int = 40) -> str:
    """`clean`, with the middle left out when longer than ``limit`` characters: the ends of a URL tell it apart."""
    name = clean(text)
    tail = limit // 3
    return name if len(name) <= limit else f"{name[: limit - tail - 1]}…{name[len(name) - tail :]}"


def label(text: object, limit: int = 40) -> str:
    """A name from outside, made harmless for plotly.

    plotly reads a subset of HTML in every text it draws, and ``%{...}`` in hover templates; both are written as
    character references here, which plotly turns back into the characters themselves.

    >>> label("<b>GET</b> /a&b")
    '&lt;b&gt;GET&lt;/b&gt; /a&amp;b'
    """
    escaped = shorten(text, limit).replace("&", "&amp;").replace("<", "&lt;").replace(">", "&gt;")
    return escaped.replace("{", "&#123;").replace("$", "&#36;")
