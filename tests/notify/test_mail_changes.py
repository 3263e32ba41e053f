"""E-mail as people get it from the command: who is told what, and when nothing is sent; over a real server."""

import json
import subprocess
import sys

import numpy as np
import pytest
from command_line import invoke
from mail_server import PASSWORD, USER, Authority, serving
from report_folders import HOSTILE, nightly, reported, trend_document, until
from samples import run, side

from perfkit import compare
from perfkit.config.policy import Policy
from perfkit.config.settings import BUILT_IN, EmailSettings, Settings
from perfkit.history.incidents import (
    NEVER_NOTIFIED,
    MissingService,
    Notified,
    NotifiedIncident,
    notification_diff,
    read_result,
    result_of,
)
from perfkit.history.monitor import monitor_timeline
from perfkit.history.timeline import Timeline
from perfkit.model.errors import DeliveryError, ReadError, SettingsError, StoreError
from perfkit.model.records import Check, Severity, Validity, Verdict
from perfkit.notify.delivery import Sent, SentLog, collect_results, deliver
from perfkit.notify.email import MailChannel
from perfkit.report.message import chat_text, message_of

ANN, BOB = "ann@example.org", "bob@example.org"


@pytest.fixture(scope="module")
def authority(tmp_path_factory):
    return Authority(tmp_path_factory.mktemp("authority"))


@pytest.fixture
def post(monkeypatch):
    """A server, and settings that use it."""
    with serving(security="none", login=False) as (box, port):
        monkeypatch.setenv("PERFKIT_SMTP_HOST", "localhost")
        monkeypatch.setenv("PERFKIT_SMTP_PORT", str(port))
        monkeypatch.setattr("perfkit.notify.email.PAUSES", ())
        yield box


@pytest.fixture
def settings(tmp_path):
    email = EmailSettings(to=(ANN,), sender="perfkit@example.org", security="none", when="changes")
    return Settings(BUILT_IN, Policy(), delivery=tmp_path / "delivery", email=email)


def lines(settings, *paths, when="", digest=False, **options):
    results = collect_results(paths).results
    messages = [results] if digest else [(result,) for result in results]
    channel = MailChannel(settings.email, **options)
    return list(deliver(messages, channel, when=when or settings.email.when, folder=settings.delivery))


def subjects(box):
    return [str(message["Subject"]) for _, message, _ in box.letters]


@pytest.mark.slow
def test_only_what_is_new_is_sent_and_every_thing_once(rng, post, settings, tmp_path):
    """Ninety nights: two worsenings, of which one is over and comes back, noise, and broken nights."""
    steps = [(40, "api", 1.25), (55, "api", 1.0), (62, "db", 1.3), (75, "api", 1.25)]
    history = nightly(rng, 90, steps, bad=(45, 46, 58, 70, 80))
    sent = {}
    for count in range(30, 91):
        folder = reported(tmp_path / f"night-{count}", trend_document(until(history, count)))
        (line,) = lines(settings, folder)
        if line.startswith("sent to"):
            sent[count] = subjects(post)[-1]
        else:
            assert line == "nothing new in nightly since the last message: nothing sent"
    assert [subject.split(": ")[0] for subject in sent.values()] == [
        "✗ regression",
        "★ recovered",
        "✗ regression",
        "✗ regression",
    ]
    texts = [message.get_body(("plain",)).get_content() for _, message, _ in post.letters]
    tags = [{tag for tag in ("new", "again", "over", "reported before") if f"[{tag}]" in text} for text in texts]
    assert tags[:3] == [{"new"}, {"over"}, {"new"}]
    assert tags[3] == {"again", "reported before"}
    assert [" of api " in texts[0], " of api " in texts[1], " of db " in texts[2]] == [True] * 3
    assert all(40 <= night - at <= 48 for night, at in zip(sent, (0, 15, 22, 35), strict=True))


def test_a_second_look_at_the_same_result_sends_nothing(rng, post, settings, tmp_path):
    folder = reported(tmp_path / "r", trend_document(nightly(rng, 60, [(40, "api", 1.2)])))
    assert lines(settings, folder)[0].startswith(f"sent to {ANN}: ✗ regression: nightly: Worse: ")
    assert lines(settings, folder) == ["nothing new in nightly since the last message: nothing sent"]
    assert len(post.letters) == 1
    assert len(lines(settings, folder, when="always")) == 1
    assert len(post.letters) == 2


def test_who_did_not_get_it_gets_it_the_next_time_and_nobody_twice(rng, post, settings, tmp_path):
    folder = reported(tmp_path / "r", trend_document(nightly(rng, 60, [(40, "api", 1.2)])))
    post.answers[BOB] = ["550 mailbox full"]
    with pytest.raises(DeliveryError, match=rf"^not delivered to {BOB}: 550 mailbox full$"):
        lines(settings, folder, to=(ANN, BOB))
    assert lines(settings, folder, to=(ANN, BOB))[0].startswith(f"sent to {BOB}: ")
    assert lines(settings, folder, to=(ANN, BOB))[0].startswith("nothing new")
    assert [people for people, _, _ in post.letters] == [(ANN,), (BOB,)]


def test_a_server_that_is_down_loses_nothing(rng, post, settings, tmp_path, monkeypatch):
    folder = reported(tmp_path / "r", trend_document(nightly(rng, 60, [(40, "api", 1.2)])))
    post.ends = ["451 disk full"] * 9
    monkeypatch.setattr("perfkit.notify.email.PAUSES", (0.0,))
    with pytest.raises(DeliveryError, match="451 disk full"):
        lines(settings, folder)
    post.ends = []
    assert lines(settings, folder)[0].startswith("sent to")
    assert len(post.letters) == 1


def test_news_of_several_results_make_one_digest(rng, post, settings, tmp_path):
    folders = [
        reported(tmp_path / name, trend_document(nightly(rng, 60, steps, scenario=name)))
        for name, steps in (("shop", [(40, "api", 1.2)]), ("search", []), ("chat", [(40, "db", 1.2)]))
    ]
    (line,) = lines(settings, *folders, digest=True)
    assert "2 ✗ regression of 2 load tests: shop, chat" in line
    ((_, message, _),) = post.letters
    assert "Nothing new: search." in message.get_body(("plain",)).get_content()
    assert [part.get_filename() for part in message.iter_attachments()] == ["shop-shop.html", "chat-chat.html"]
    assert lines(settings, *folders, digest=True) == [
        "nothing new in shop, search, chat since the last message: nothing sent"
    ]


def test_a_comparison_and_a_history_that_heard_the_same_tell_it_once(rng, post, settings, tmp_path):
    document = trend_document(nightly(rng, 60, [(40, "api", 1.2)]))
    both = [reported(tmp_path / name, document) for name in "ab"]
    lines(settings, *both, digest=True)
    ((_, message, _),) = post.letters
    assert "Nothing new: nightly." in message.get_body(("plain",)).get_content()
    assert len(list(message.iter_attachments())) == 1


def test_comparisons_of_two_builds_are_told_once_per_baseline(rng, post, settings, tmp_path):
    before = side(rng, 5, sd=0.003)
    made = [
        reported(tmp_path / str(n), compare(before, side(rng, 5, first=9 * n, slower=factor, sd=0.003)).to_dict())
        for n, factor in enumerate((1.0, 1.3, 1.3, 1.0), start=1)
    ]
    kinds = [lines(settings, folder)[0].partition(":")[0] for folder in made]
    assert kinds == [
        "nothing new in api since the last message",
        f"sent to {ANN}",
        "nothing new in api since the last message",
        f"sent to {ANN}",
    ]
    assert [subject.partition(": ")[0] for subject in subjects(post)] == ["✗ regression", "★ recovered"]


def test_runs_that_cannot_be_judged_are_told_once(rng, post, settings, tmp_path):
    bad = Validity((Check("generator_saturated", 97.0, 90.0, Severity.INVALID, "Add workers."),))
    sick = compare(side(rng, 3), [run(side(rng, 1)[0].services, number=9, validity=bad)]).to_dict()
    fine = compare(side(rng, 3), side(rng, 3, first=9)).to_dict()
    kinds = [
        lines(settings, reported(tmp_path / str(n), document))[0].partition(" ")[0]
        for n, document in enumerate((sick, sick, fine, sick))
    ]
    assert kinds == ["sent", "nothing", "nothing", "sent"]


def test_an_event_whose_place_moved_is_the_one_that_was_told(rng):
    before = result_of(trend_document(nightly(rng, 60, [(40, "api", 1.2)])), "x")
    told = notification_diff(before, NEVER_NOTIFIED).after
    moved = before.open_incidents[0].last.event.aliases[-1]
    other = json.loads(
        json.dumps(before.document).replace(f'"id": "{before.open_incidents[0].last.event.id}"', f'"id": "{moved}"')
    )
    assert not notification_diff(result_of(other, "x"), told)


def absent(history, service, *stretches):
    """The history with no request of a service in these stretches of runs."""
    away = np.zeros(len(history), dtype=bool)
    for begin, end in stretches:
        away[begin:end] = True
    parts = [
        {key: np.where(away & (key[0] == service), np.nan, values) for key, values in one.items()}
        for one in (history.series, history.errors)
    ]
    return Timeline(history.scenario, history.runs, *parts)


def test_the_end_of_a_service_and_its_return_are_told_once(rng, post, settings, tmp_path):
    """Where requests are not counted, one night without any may be chance: it is told after the second."""
    history = absent(nightly(rng, 48, [], services=("api", "db", "/pay")), "/pay", (34, 38), (44, 48))
    sent = {}
    for count in (30, 34, 35, 36, 38, 39, 40, 45, 46):
        (line,) = lines(settings, reported(tmp_path / str(count), trend_document(until(history, count))))
        if line != "nothing new in nightly since the last message: nothing sent":
            sent[count] = line.removeprefix(f"sent to {ANN}: ")
    assert sent == {
        36: "? service missing: nightly: Service /pay: no requests since run 20260034T020000Z-nightly (2026-07-05).",
        39: "★ recovered: nightly: Service /pay has requests again; it had none since run 20260034T020000Z-nightly.",
        46: "? service missing: nightly: Service /pay: no requests since run 20260044T020000Z-nightly (2026-07-15).",
    }
    texts = [message.get_body(("plain",)).get_content() for _, message, _ in post.letters]
    assert [tag for text in texts for tag in ("new", "over", "reported before") if f"[{tag}]" in text] == [
        "new",
        "over",
        "new",
    ]
    assert "Find out why: Service /pay: no requests since" in texts[0].replace("\n", " ")


def test_a_service_that_ended_long_ago_is_told_before_beside_what_is_new(rng, post, settings, tmp_path):
    history = absent(nightly(rng, 60, [(50, "api", 1.3)], services=("api", "db", "/pay")), "/pay", (34, 60))
    for count in (36, 60):
        lines(settings, reported(tmp_path / str(count), trend_document(until(history, count))))
    text = post.letters[-1][1].get_body(("plain",)).get_content()
    assert subjects(post)[-1].startswith("✗ regression: nightly: Worse: ")
    assert "[reported before] Service /pay: no requests since run 20260034T020000Z-nightly" in " ".join(text.split())


@pytest.mark.parametrize(
    ("names", "told"),
    [
        (tuple("abcde"), "? inconclusive: api: Not measured in the candidate: /pay (17 % of the baseline's requests)."),
        ((*"abcde", "/pay"), ""),
    ],
)
def test_a_candidate_that_lacks_a_service_is_told_once_and_its_return_too(rng, post, settings, tmp_path, names, told):
    every = (*"abcde", "/pay")
    before = side(rng, 5, names=every, sd=0.003)
    made = [
        reported(tmp_path / str(n), compare(before, side(rng, 5, first=9 * n, names=of, sd=0.003)).to_dict())
        for n, of in enumerate((names, names, every), start=1)
    ]
    said_lines = [lines(settings, folder)[0] for folder in made]
    none = "nothing new in api since the last message: nothing sent"
    back = f"sent to {ANN}: ★ recovered: api: Service /pay has requests again."
    assert said_lines == ([f"sent to {ANN}: {told}", none, back] if told else [none, none, none])


def test_a_comparison_with_its_history_tells_since_which_run(rng, tmp_path):
    document = compare(side(rng, 5), side(rng, 5, first=9)).to_dict()
    watch = monitor_timeline(absent(nightly(rng, 40, [], services=("api", "/pay")), "/pay", (34, 40)), Policy())
    result = result_of({**document, "history": {"news": [], "lines": [], **watch.to_dict()}}, "x")
    title, text = chat_text(message_of(result, diff=notification_diff(result, NEVER_NOTIFIED)))
    assert text.startswith("• new: Service /pay: no requests since run 20260034T020000Z-nightly (2026-07-05).")
    assert title == "? inconclusive: api"
    assert not notification_diff(result, notification_diff(result, NEVER_NOTIFIED).after)
    assert chat_text(message_of(result))[1].startswith("• Service /pay: no requests since run 20260034T020000Z")


def test_what_is_gone_is_remembered_in_the_file(tmp_path):
    file = SentLog(tmp_path, "email", "shop", watched=True)
    gone = MissingService("/pay", "r1", "Service /pay: no requests since run r1.", "Find out why.")
    told = Notified((), (), False, (gone,))
    file.write({ANN: told})
    assert file.read() == {ANN: told}
    plain = json.loads(file.path.read_text())
    del plain["readers"][ANN]["missing"]  # as 0.1.0 wrote it
    file.path.write_text(json.dumps(plain))
    assert file.read() == {ANN: NEVER_NOTIFIED}


def test_of_services_that_ended_together_only_those_still_gone_are_named(rng):
    history = absent(nightly(rng, 40, [], services=("api", "/a", "/b")), "/a", (30, 40))
    result = result_of(trend_document(absent(history, "/b", (30, 36))), "x")
    assert [item.service for item in result.missing_services] == ["/a"]
    assert result.missing_services[0].sentence.startswith("Service /a: no requests since run 20260030")
    assert result.measured_services == {"api", "/b"}


def test_of_two_neighbours_the_one_that_was_told_stays_silent_and_the_other_speaks(rng):
    (incident,) = result_of(trend_document(nightly(rng, 60, [(40, "api", 1.2)])), "x").open_incidents
    known = Notified((NotifiedIncident((*incident.fingerprints, "another"), "Worse"),), (), False)
    result = result_of(trend_document(nightly(rng, 60, [(40, "api", 1.2), (44, "db", 1.4)])), "x")
    news = notification_diff(result, known)
    assert len(news.new) == len(result.open_incidents) - 1 == 1
    assert news.new[0].last.services[0] == "db"


def test_what_is_not_in_a_result_at_all_is_neither_over_nor_forgotten(rng):
    told = Notified((NotifiedIncident(("elsewhere",), "Worse: x"),), (), False)
    news = notification_diff(result_of(trend_document(nightly(rng, 60, [])), "x"), told)
    assert not news
    assert news.after == told


@pytest.mark.parametrize("name", HOSTILE)
def test_any_scenario_has_a_file_of_its_own_in_the_folder(tmp_path, name):
    files = {
        SentLog(tmp_path, "email", text, watched=watched).path for text in (name, f"{name}x") for watched in (0, 1)
    }
    assert len(files) == 4
    for file in files:
        assert file.parent == tmp_path / "told"
        assert len(file.name) < 80
        assert file.name.isprintable()
    known = {ANN: Notified((NotifiedIncident(("a", "b"), name),), (NotifiedIncident(("c",), name),), True)}
    SentLog(tmp_path, "email", name, watched=True).write(known)
    assert SentLog(tmp_path, "email", name, watched=True).read() == known


@pytest.mark.parametrize(
    "text", ["", "{", "[]", '{"schema": "x/1"}', '{"schema": "perfkit.told/1", "readers": {"a": {}}}']
)
def test_a_broken_memory_is_named_and_sends_nothing(rng, post, settings, tmp_path, text):
    folder = reported(tmp_path / "r", trend_document(nightly(rng, 60, [(40, "api", 1.2)])))
    lines(settings, folder)
    (file,) = (settings.delivery / "told").iterdir()
    file.write_text(text)
    with pytest.raises(
        ReadError, match=r"told/email-nightly-\w+\.json: .*; without it everything that is open is sent once more"
    ):
        lines(settings, folder)
    assert len(post.letters) == 1


def test_what_could_not_be_remembered_is_not_sent(rng, post, settings, tmp_path):
    folder = reported(tmp_path / "r", trend_document(nightly(rng, 60, [(40, "api", 1.2)])))
    settings.delivery.write_text("a file where a folder should be")
    with pytest.raises((ReadError, StoreError), match="cannot be"):
        lines(settings, folder)
    assert post.letters == []


def test_two_at_once_do_not_tell_the_same(rng, post, settings, tmp_path):
    folder = reported(tmp_path / "r", trend_document(nightly(rng, 60, [(40, "api", 1.2)])))
    (tmp_path / "perfkit.toml").write_text(
        f'[email]\nto = ["{ANN}"]\nfrom = "perf@example.org"\nsecurity = "none"\nwhen = "changes"\n'
    )
    words = [sys.executable, "-m", "perfkit", "email", str(folder)]
    both = [subprocess.Popen(words, cwd=tmp_path, stdout=subprocess.PIPE, text=True) for _ in range(2)]
    told = sorted(one.communicate(timeout=60)[0].partition(" ")[0] for one in both)
    assert told == ["nothing", "sent"]
    assert [one.returncode for one in both] == [0, 0]
    assert len(post.letters) == 1


def test_a_trial_sends_and_remembers_nothing(rng, settings, tmp_path):
    folder = reported(tmp_path / "r", trend_document(nightly(rng, 60, [(40, "api", 1.2)])))
    for _ in range(2):
        (line,) = lines(settings, folder, dry_run=tmp_path / "mail.eml")
        assert line.startswith(f"wrote {tmp_path / 'mail.eml'}, sent nothing: ✗ regression: nightly")
    assert not settings.delivery.exists()


def test_a_large_report_is_linked_or_its_place_named(rng, post, settings, tmp_path):
    from dataclasses import replace

    document = trend_document(nightly(rng, 60, [(40, "api", 1.2)]))
    folder = reported(tmp_path / "r 1%", document, "x" * 200_000)
    for link, says in (("", "The full report (0.2 MB) is "), ("https://ci.example/{report}/report.html", "r%201%25")):
        email = replace(settings.email, attach_mb=0.1, link=link, when="always")
        lines(replace(settings, email=email), folder)
        message = post.letters[-1][1]
        assert list(message.iter_attachments()) == []
        text = " ".join(message.get_body(("plain",)).get_content().split())
        assert says in text
        assert "It is not attached: more than the 0.1 MB that attach_mb of [email] allows for a message." in text
    with pytest.raises(SettingsError, match=r"\[email\]: link: expected an address such as"):
        lines(replace(settings, email=replace(settings.email, link="javascript:alert(1)")), folder)


def test_what_is_missing_is_told_before_anything_is_sent(rng, settings, tmp_path, monkeypatch):
    from dataclasses import replace

    folder = reported(tmp_path / "r", trend_document(nightly(rng, 60, [])))
    monkeypatch.delenv("PERFKIT_SMTP_HOST", raising=False)
    with pytest.raises(SettingsError, match="host is missing"):
        lines(settings, folder)
    with pytest.raises(SettingsError, match="to is missing"):
        lines(replace(settings, email=replace(settings.email, to=())), folder)
    monkeypatch.setenv("PERFKIT_SMTP_HOST", "localhost")
    with pytest.raises(SettingsError, match="from is missing"):
        lines(replace(settings, email=replace(settings.email, sender="")), folder)


def test_the_command_sends_over_tls_with_a_login_and_names_who_was_refused(rng, authority, tmp_path, monkeypatch):
    folder = reported(
        tmp_path / "reports" / "r", trend_document(nightly(rng, 60, [(40, "api", 1.2)], scenario=HOSTILE[0]))
    )
    monkeypatch.chdir(tmp_path)
    with serving(authority) as (box, port):
        (tmp_path / "perfkit.toml").write_text(
            f'[email]\nto = ["${{TEAM}}"]\nfrom = "Perf <perf@example.org>"\nhost = "localhost"\nport = {port}\n'
        )
        box.answers[BOB] = ["550 no such user: \x1b[31m\u202e"]
        for name, value in (("USER", USER), ("PASSWORD", PASSWORD), ("CA", str(authority.file))):
            monkeypatch.setenv(f"PERFKIT_SMTP_{name}", value)
        monkeypatch.setenv("TEAM", f"{ANN}, {BOB}")
        code, out, err = invoke("email", folder)
        assert (code, err) == (4, f"perfkit: not delivered to {BOB}: 550 no such user: [31m\n")
        assert out.startswith(f"sent to {ANN}: ✗ regression: ")
        assert box.logins == [(USER, PASSWORD)]
        monkeypatch.setenv("PERFKIT_SMTP_PASSWORD", "wr0ng!")
        code, out, err = invoke("email", folder)
    assert (code, out) == (4, "")
    assert "the login as robot was refused: 535" in err
    everything = out + err + "".join(message.as_string() for _, message, _ in box.letters)
    assert PASSWORD not in everything
    assert "wr0ng!" not in everything


def test_the_command_writes_a_trial(rng, tmp_path):
    folder = reported(tmp_path / "r", trend_document(nightly(rng, 60, [])))
    file = tmp_path / "mails" / "m.eml"
    code, out, err = invoke("email", folder, "--to", ANN, "--dry-run", file)
    assert (code, err) == (0, "")
    assert out.startswith(f"wrote {file}, sent nothing: ✓ nothing new: nightly")
    assert file.read_bytes().startswith(b"From: ")
    code, out, err = invoke("email", folder, folder, "--to", ANN, "--dry-run")
    assert (code, err) == (0, "")
    assert out.startswith(f"To: {ANN}\nSubject: ✓ nothing new: nightly")
    assert out.count("The full report is attached: ") == 1, "the same result is told once"
    result = folder / "result.json"
    code, _, err = invoke("email", folder, "--dry-run", result)
    assert (code, json.loads(result.read_text())["scenario"]) == (2, "nightly"), "no result is overwritten"
    assert "would be overwritten; put --dry-run last" in err
    assert invoke("email", folder, folder, "--to", ANN, "--dry-run", file)[0] == 2
    assert invoke("email", tmp_path / "none", "--to", ANN, "--dry-run", file)[0] == 2
    assert invoke("email", folder, "--to", f"{ANN}\r\nBcc: {BOB}", "--dry-run", file)[0] == 2


def test_the_same_report_named_twice_is_one(rng, settings, tmp_path):
    folder = reported(tmp_path / "r", trend_document(nightly(rng, 60, [])))
    assert len(lines(settings, folder, folder / "report.html", dry_run=tmp_path / "m.eml", when="always")) == 1


def test_readers_are_kept_apart(rng, tmp_path):
    result = read_result(reported(tmp_path / "r", trend_document(nightly(rng, 60, [(40, "api", 1.2)]))))
    assert result.verdict is Verdict.REGRESSION

    class Spoken:
        """A channel that notes who was sent what is new."""

        def __init__(self, name, *recipients):
            self.name, self.recipients, self.dry_run, self.batches = name, recipients, False, []

        def send(self, batch):
            self.batches.append((batch.recipients, batch.contents[0][1].key))
            return Sent(recipients=batch.recipients)

    def batches(*channel):
        channel = Spoken(*channel)
        list(deliver([(result,)], channel, when="changes", folder=tmp_path / "delivery"))
        return channel.batches

    ((recipients, new),) = batches("email", ANN)
    assert recipients == (ANN,)
    assert batches("email", ANN) == []
    assert batches("email", ANN, BOB) == [((BOB,), new)]
    assert batches("chat", ANN, BOB) == [((ANN, BOB), new)]
