"""The body of an e-mail: what it says, how large it gets, and how it looks in a real browser."""

import base64
import re
import struct
from dataclasses import replace
from datetime import UTC, datetime
from html.parser import HTMLParser

import pytest
from browser import needs_chromium
from histories import against_history, nights
from report_folders import HOSTILE, nightly, reported, trend_document
from samples import REPOSITORY, run, side

from perfkit import Policy, compare
from perfkit.history.acknowledgements import AcknowledgedChange, Acknowledgement
from perfkit.history.commits import Attribution
from perfkit.history.incidents import NEVER_NOTIFIED, notification_diff, read_result, result_of
from perfkit.model.records import Validity, Verdict
from perfkit.report.mail import LARGEST, LONGEST_SUBJECT, charts_of, mail_of
from perfkit.report.message import ReportLocation, message_of
from perfkit.runs.git import Commit

ATTACHED = ReportLocation("The full report is attached: report.html")


def of(comparison, place="result.json"):
    return result_of(comparison.to_dict(), place)


def slower(rng, factor=1.3, names=("api_gateway", "rag_service"), runs=3, **policy):
    before, after = side(rng, runs, first=0, names=names), side(rng, runs, first=9, names=names, slower=factor)
    return of(compare(before, after, policy=Policy(**policy)))


def step(rng, *, at=40, runs=60, **changes):
    return result_of(trend_document(nightly(rng, runs, [(at, "api", 1.2)], **changes)), "result.json")


def words(html):
    """What a reader without pictures sees."""
    return " ".join(re.sub(r"<[^>]*>", " ", html.partition("<body")[2]).split())


def test_a_comparison_tells_verdict_events_numbers_and_what_to_do(rng):
    result = slower(rng, {"api_gateway": 1.3})
    mail = mail_of([message_of(result, location=ATTACHED)])
    assert mail.subject.startswith("✗ regression: api: api_gateway got worse: ")
    for text in (words(mail.html), " ".join(mail.text.split())):
        assert "api_gateway got worse: " in text
        assert re.search(r"\+\d\d\.\d % \[\+\d\d\.\d, \+\d\d\.\d\]", text)
        assert "95 % interval" in text
        assert "Next: Inspect the services named above" in text
        assert "The full report is attached: report.html" in text
        assert "perfkit compare" in text
        assert "3 runs judged against 3 runs" in text
    finding = next(one for one in result.comparison.findings if one.verdict is Verdict.REGRESSION)
    assert f"{finding.change_pct:+.1f} %" in mail.html


def test_a_history_tells_each_event_once_with_its_commits_and_how_to_silence_it(rng):
    result = step(rng)
    (incident,) = result.open_incidents
    event = incident.last.event
    found = Attribution(
        event.last_before.commit,
        event.first_after.commit,
        (Commit("a" * 40, "Ann", "2026-11-24", "cache: <b>off</b>"), Commit("b" * 40, "Bob", "2026-11-24", "x" * 999)),
        7,
        ("This is a shallow clone.",),
    )
    mail = mail_of(
        [
            message_of(
                result,
                location=ReportLocation("Open the full report", "https://ci.example/r/1"),
                commits={event.id: found},
            )
        ]
    )
    assert mail.subject.startswith("✗ regression: nightly: Worse: ")
    assert mail.html.count("Worse: ") == 2  # and in the title
    for text in (words(mail.html), " ".join(mail.text.split())):
        assert f"Between run {event.last_before.run_id} (commit {event.last_before.commit[:9]})" in text
        assert "aaaaaaaaa cache: " in text
        assert "and 5 more" in text
        assert "This is a shallow clone." in text
        assert f"perfkit ack {event.id} --reason" in text
        assert f"perfkit bisect nightly --good {event.last_before.commit[:12]}" in text
        assert "perfkit report trend nightly" in text
    assert "<b>off" not in mail.html
    assert '<a href="https://ci.example/r/1"' in mail.html
    assert "https://ci.example/r/1" in mail.text


def test_one_commit_in_between_needs_no_search(rng):
    result = step(rng)
    event = result.open_incidents[0].last.event
    found = Attribution("a" * 40, "b" * 40, (Commit("b" * 40, "Ann", "2026-11-24", "off"),), 1)
    assert "perfkit bisect" not in mail_of([message_of(result, commits={event.id: found})]).text


def test_a_quiet_history_says_so(rng):
    mail = mail_of([message_of(result_of(trend_document(nightly(rng, 60, [])), "result.json"))])
    assert mail.subject == "✓ nothing new: nightly: No level got worse, or what got worse is over or acknowledged."
    assert "Next: Nothing to do." in mail.text
    assert len(mail.charts) == 1


def test_what_is_acknowledged_is_not_told(rng):
    history = nightly(rng, 60, [(40, "api", 1.2)])
    event = result_of(trend_document(history), "x").open_incidents[0].last.event
    known = Acknowledgement(
        id=event.id,
        scenario="nightly",
        around=(event.id,),
        changes=tuple(AcknowledgedChange.of_metric_change(item) for item in event.changes),
        reason="wanted",
        by="Ann",
        created=datetime(2026, 11, 1, tzinfo=UTC),
    )
    mail = mail_of([message_of(result_of(trend_document(history, [known]), "x"))])
    assert "Worse" not in mail.html + mail.text


def test_to_those_who_were_told_only_what_is_new_is_new(rng):
    history = nightly(rng, 90, [(40, "api", 1.2), (60, "api", 1.0), (70, "db", 1.3)])
    result = result_of(trend_document(history), "x")
    first = result_of(trend_document(nightly(rng, 60, [(40, "api", 1.2)])), "x")
    told = notification_diff(first, NEVER_NOTIFIED).after
    told = replace(told, open=(replace(told.open[0], names=result.incidents[0].fingerprints),))
    news = notification_diff(result, told)
    mail = mail_of([message_of(result, diff=news)])
    assert re.search(r"\[new\] Worse: \w+ latency of db", " ".join(mail.text.split()))
    assert re.search(r"\[over\] Worse: \w+ latency of api", " ".join(mail.text.split()))
    after = notification_diff(result, replace(news.after, open=(*told.open, *news.after.open)))
    recovered = mail_of([message_of(result, diff=after)])
    assert recovered.subject.startswith("★ recovered: nightly: Worse: ")
    assert "[reported before] Worse: " in recovered.text


def test_runs_that_cannot_be_judged_are_told_with_the_reason(rng):
    from perfkit.model.records import Check, Severity

    bad = Validity((Check("generator_saturated", 97.0, 90.0, Severity.INVALID, "Add workers."),))
    result = of(compare(side(rng, 3), [run(side(rng, 1)[0].services, number=9, validity=bad)]))
    mail = mail_of([message_of(result)])
    assert mail.subject.startswith("⊘ invalid: api: The runs cannot be judged. candidate run ")
    assert [text.count("Add workers.") for text in (mail.text, mail.html)] == [1, 1]  # each reason once
    assert "Warnings" not in mail.html


def test_the_table_of_many_effects_is_cut_and_says_so(rng):
    names = tuple(f"service {n:02d}" for n in range(50))
    result = slower(rng, {"service 07": 1.5}, names)
    mail = mail_of([message_of(result)])
    total = len(result.comparison.findings)
    assert total > 300
    shown = sum(row.verdict is not Verdict.NO_CHANGE for row in message_of(result).tables[0].rows[:24])
    for text in (words(mail.html), " ".join(mail.text.split())):
        assert re.search(
            rf"\b{total - shown} more(, all without regression,)? are in the report and in the result file", text
        )
    assert re.search(r"service \d\d", mail.html)[0] == "service 07"
    assert len(set(re.findall(r"service \d\d", mail.html))) > 5
    assert len(mail.html.encode()) <= LARGEST / 2


def test_a_result_without_intervals_promises_none(rng):
    mail = mail_of([message_of(slower(rng, rule="threshold"))])
    assert "change before, after verdict, tolerance" in words(mail.html)
    assert "Effects (change, before -> after, tolerance)" in mail.text


def test_no_number_or_length_of_names_makes_it_too_large(rng):
    names = tuple(f"{n}{text}" for n in range(10) for text in HOSTILE)
    result = slower(rng, 1.5, names, runs=2)
    for count in (1, 30):
        many = [message_of(replace(result, scenario=f"{n} {HOSTILE[3]}"), location=ATTACHED) for n in range(count)]
        mail = mail_of(many, [f"{n} {HOSTILE[3]}" for n in range(1000)])
        assert len(mail.html.encode()) <= LARGEST
        assert len(mail.subject) <= LONGEST_SUBJECT
        assert 1 <= len(mail.charts) <= 3


def test_a_digest_tells_the_worst_first_and_who_is_quiet(rng):
    fine = replace(slower(rng, 1.0), scenario="fine")
    mail = mail_of([message_of(fine), message_of(step(rng))], ["shop", "search"])
    assert mail.subject.startswith("1 ✗ regression, 1 ")
    assert mail.html.index("nightly") < mail.html.index("fine")
    assert "Nothing new: shop, search." in mail.text
    assert "Nothing new: shop, search." in words(mail.html)


class Tags(HTMLParser):
    """The tags of a page with their attributes."""

    def __init__(self, html):
        super().__init__()
        self.found = []
        self.feed(html)

    def handle_starttag(self, tag, attrs):
        self.found.append((tag, dict(attrs)))


@pytest.mark.parametrize("hostile", [False, True])
def test_it_needs_no_script_no_style_sheet_and_nothing_from_elsewhere(rng, hostile):
    result = slower(rng, 1.4, HOSTILE) if hostile else step(rng)
    if hostile:
        result = replace(result, scenario=HOSTILE[4], source=HOSTILE[2])
    mail = mail_of([message_of(result, location=ReportLocation(f"It is in {HOSTILE[2]}"))], HOSTILE)
    tags = Tags(mail.html).found
    assert {tag for tag, _ in tags}.isdisjoint(
        {"script", "style", "link", "base", "iframe", "object", "embed", "form", "svg", "math", "video", "audio", "i"}
    )
    assert not [name for _, known in tags for name in known if name.startswith("on")]
    assert [known["src"] for tag, known in tags if tag == "img"] == [f"cid:{cid}" for cid in mail.charts]
    assert all(known["alt"] for tag, known in tags if tag == "img")
    assert not [known for tag, known in tags if tag == "a"]
    assert ("meta", {"name": "color-scheme", "content": "light dark"}) in tags
    assert all("style" in known for tag, known in tags if tag in ("td", "th", "table", "ul", "li"))
    styles = ";".join(known.get("style") or "" for _, known in tags)
    assert "url(" not in styles
    backgrounds = re.findall(r"(?<![-\w])background(?:-color)?:\s*([^;]+)", styles)  # that lie on light and dark
    assert all(re.fullmatch(r"transparent\b.*|rgba\([\d,]+,\.1\d?\)", text) for text in backgrounds), backgrounds
    assert set(re.findall(r"(?<![-\w])color:\s*([^;]+)", styles)) <= {
        "#d1480a",
        "#0b8f6b",
        "#5f7d95",
        "#a8760c",
        "#8b5fbf",
        "inherit",
    }


def test_against_history_the_events_come_before_the_newest_runs(rng, tmp_path):
    names = ("checkout", "search")
    before, after = (
        nights(rng, n, first=first, factor=f, slow=("checkout",), services=names)
        for n, first, f in ((40, 0, 1.0), (6, 40, 1.3))
    )
    result = of(against_history([*before, *after], tmp_path))
    mail = mail_of([message_of(result)])
    event = result.open_incidents[0].last.event
    text = " ".join(mail.text.split())
    assert text.index("What happened (change [95 % interval]") < text.index("1 run against the ")
    assert re.search(r"What happened .*: ✗ regression: checkout, [a-z0-9.]+ latency: \+[23]\d\.\d % \[", text)
    assert f"perfkit ack {event.id}" in text
    assert re.search(r"perfkit compare --candidate \S+ --store|perfkit compare --candidate", text)
    assert "Next: Inspect the commits in between" in text
    courses, effects = mail.charts.values()
    assert courses.alt.startswith("Chart of 46 runs, newest right, with their levels. checkout, ")
    assert "effects with their intervals" in effects.alt


def test_what_only_the_level_before_shows_is_told(rng, tmp_path):
    result = of(against_history(nights(rng, 41), tmp_path))
    comparison = result.comparison
    unheard = replace(comparison.history, news=("Worse: average latency of a +20 %, since run x.",))
    held = replace(result, comparison=replace(comparison, verdict=Verdict.REGRESSION, history=unheard))
    assert "* Worse: average latency of a +20 %, since run x." in mail_of([message_of(held)]).text


def test_hundreds_of_results_are_named_as_far_as_they_fit(rng):
    one = slower(rng, 1.3, ("a",), runs=2)
    mail = mail_of([message_of(replace(one, scenario=f"test {n:03d} {'x' * 99}")) for n in range(300)])
    assert len(mail.html.encode()) <= LARGEST
    assert "And 200 more load tests." in mail.text
    assert "And 200 more load tests." in words(mail.html)


def test_pictures_are_real_and_say_in_words_what_they_show(rng):
    effects, courses = slower(rng, {"api_gateway": 1.3}), step(rng)
    for result in (effects, courses):
        drawn = charts_of(result.document, result.comparison)
        assert 1 <= len(drawn) <= 3
        for one in drawn:
            assert one.png.startswith(b"\x89PNG\r\n\x1a\n")
            width, height = struct.unpack(">II", one.png[16:24])
            assert width == pytest.approx(one.width * 1.75, abs=2)
            assert height == pytest.approx(one.height * 1.75, abs=2)
            assert len(one.png) <= 150_000
            assert len(one.alt) <= 400
    assert re.search(r"api_gateway \w+ latency \+\d", charts_of(effects.document, effects.comparison)[0].alt)
    (course,) = charts_of(courses.document, None)  # one event, one course
    assert "Chart of 60 runs" in course.alt


def test_a_result_without_anything_to_draw_has_no_picture(rng):
    result = of(compare(side(rng, 2, names=("a",)), side(rng, 2, first=5, names=("b",))))
    assert charts_of(result.document, result.comparison) == ()
    assert "<img" not in mail_of([message_of(result)]).html
    old = {key: value for key, value in trend_document(nightly(rng, 30, [])).items() if key != "courses"}
    assert mail_of([message_of(result_of(old, "x"))]).charts == {}


def test_the_sample_runs_make_a_whole_mail(tmp_path):
    samples = REPOSITORY / "data" / "samples"
    sides = [sorted(path.parent for path in (samples / name).glob("*/run.json")) for name in ("baseline", "candidate")]
    mail = mail_of([message_of(read_result(reported(tmp_path / "r", compare(*sides).to_dict())))])
    assert mail.subject.startswith("✗ regression: demo: api_gateway got worse: ")


def shown(mail, file):
    """The body as a mail reader shows it: pictures in their places."""
    html = mail.html
    for cid, picture in mail.charts.items():
        html = html.replace(f"cid:{cid}", f"data:image/png;base64,{base64.b64encode(picture.png).decode()}")
    file.write_text(html, "utf-8")
    return file


CONTRAST = """
() => {
  const light = rgb => { const c = rgb.map(v => (v /= 255) <= 0.03928 ? v / 12.92 : ((v + 0.055) / 1.055) ** 2.4);
                         return 0.2126 * c[0] + 0.7152 * c[1] + 0.0722 * c[2]; };
  const page = matchMedia("(prefers-color-scheme: dark)").matches ? [18, 18, 18] : [255, 255, 255];
  const worst = {};
  for (const node of document.querySelectorAll("body *")) {
    if (![...node.childNodes].some(child => child.nodeType === 3 && child.textContent.trim())) continue;
    const style = getComputedStyle(node), rgb = style.color.match(/[\\d.]+/g).slice(0, 3).map(Number);
    const [a, b] = [light(rgb), light(page)].sort((x, y) => y - x), ratio = (a + 0.05) / (b + 0.05);
    const kind = parseFloat(style.fontSize) >= 18 || node.getAttribute("aria-hidden") ? "large" : "small";
    worst[kind] = Math.min(worst[kind] ?? 99, ratio);
  }
  return worst;
}
"""


@pytest.mark.usefixtures("browser")
class TestInBrowser:
    """What only a browser can tell."""

    pytestmark = needs_chromium

    @pytest.mark.parametrize(("width", "scheme"), [(1280, "light"), (1280, "dark"), (400, "light"), (400, "dark")])
    def test_it_can_be_read_everywhere(self, browser, rng, tmp_path, width, scheme):
        mail = mail_of([message_of(slower(rng, 1.4, HOSTILE)), message_of(step(rng), location=ATTACHED)], HOSTILE)
        context = browser.new_context(viewport={"width": width, "height": 900}, color_scheme=scheme, offline=True)
        page, said, asked = context.new_page(), [], []
        page.on("console", lambda message: said.append(message.text))
        page.on("dialog", lambda dialog: said.append(dialog.message))
        page.on("request", lambda request: asked.append(request.url))
        file = shown(mail, tmp_path / "mail.html")
        page.goto(file.as_uri())
        assert page.evaluate("window.pwned") is None
        assert said == []
        assert {url.partition(":")[0] for url in asked} <= {"file", "data"}
        assert page.evaluate("document.documentElement.scrollWidth") <= width
        assert page.evaluate("[...document.images].every(one => one.complete && one.naturalWidth > 500)")
        contrast = page.evaluate(CONTRAST)
        assert contrast["large"] >= 3.0
        assert contrast["small"] >= 4.5
        context.close()
