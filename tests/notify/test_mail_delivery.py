"""E-mail over real SMTP: TLS, login, refusals, and servers that break at every step; nothing twice, nothing lost."""

import base64
from datetime import UTC, datetime
from email.headerregistry import Address

import pytest
from hypothesis import given
from hypothesis import strategies as st
from mail_server import PASSWORD, USER, Authority, hangs_up, polite, scripted, serving, stalls, up_to

from perfkit.config.settings import EmailSettings
from perfkit.model.errors import SettingsError
from perfkit.notify.email import MailServer, addresses_of, attachment_name, email_message, send
from perfkit.report.mail import Mail, PngChart

NOW = datetime(2026, 11, 25, 3, 0, tzinfo=UTC)
SENDER = Address("perfkit", "perfkit", "example.org")
ANN, BOB, CY = "ann@example.org", "bob@example.org", "cy@example.org"
PNG = base64.b64decode(
    "iVBORw0KGgoAAAANSUhEUgAAAAEAAAABCAYAAAAfFcSJAAAADUlEQVR42mNk+M9QDwADhgGAWjR9awAAAABJRU5ErkJggg=="
)


def letter(*to, subject="✗ regression: shop", text=".\n..\nHello", report=b"<html>.\r\n.\r\n</html>"):
    mail = Mail(
        subject, "<p>.</p>\n.\n<img src='cid:chart@perfkit'>", text, {"chart@perfkit": PngChart(PNG, 1, 1, "x")}
    )
    people = [Address(addr_spec=one) for one in to]
    return email_message(mail, SENDER, people, [("report.html", report)], NOW)


def server(port, security="none", **more):
    return MailServer("localhost", port, security, timeout_s=5.0, **more)


def sent(port, *to, message=None, security="none", pauses=(0.0, 0.0), **more):
    return send(message or letter(*to), SENDER.addr_spec, to, server(port, security, **more), pauses=pauses)


@pytest.fixture(scope="module")
def authority(tmp_path_factory):
    return Authority(tmp_path_factory.mktemp("authority"))


@pytest.mark.parametrize("security", ["starttls", "tls"])
def test_with_tls_and_login_it_arrives_whole(authority, security):
    known = {"user": USER, "password": PASSWORD, "authority": str(authority.file)}
    with serving(authority, security=security) as (box, port):
        done = sent(port, ANN, BOB, security=security, **known)
    ((people, message, encrypted),) = box.letters
    assert (done.accepted, done.failed) == ((ANN, BOB), {})
    assert people == (ANN, BOB)
    assert encrypted or security == "tls"  # there it is the port that is encrypted
    assert box.logins == [(USER, PASSWORD)]
    assert message["Subject"] == "✗ regression: shop"
    assert message.get_body(("plain",)).get_content().split() == [".", "..", "Hello"]
    assert [part.get_content_type() for part in message.walk()] == [
        "multipart/mixed",
        "multipart/alternative",
        "text/plain",
        "multipart/related",
        "text/html",
        "image/png",
        "text/html",
    ]
    picture = next(part for part in message.walk() if part.get_content_type() == "image/png")
    assert (picture["Content-ID"], picture.get_content()) == ("<chart@perfkit>", PNG)
    (attached,) = message.iter_attachments()
    assert (attached.get_filename(), attached.get_payload(decode=True)) == ("report.html", b"<html>.\r\n.\r\n</html>")
    assert not message.defects


def test_nothing_goes_to_a_server_that_is_not_trusted(authority):
    with serving(authority, login=False) as (box, port):
        done = sent(port, ANN, security="starttls")
    assert "certificate is not trusted" in done.failed[ANN]
    assert "PERFKIT_SMTP_CA" in done.failed[ANN]
    assert box.letters == []


def test_nothing_goes_to_a_server_of_another_name(authority):
    with serving(authority, login=False) as (box, port):
        other = MailServer("127.0.0.1", port, "starttls", authority=str(authority.file), timeout_s=5.0)
        done = send(letter(ANN), SENDER.addr_spec, [ANN], other, pauses=())
    assert "not trusted" in done.failed[ANN]
    assert box.letters == []


def test_nothing_goes_out_plain_where_encryption_was_asked_for():
    with serving(security="none", login=False) as (box, port):
        done = sent(port, ANN, security="starttls", user=USER, password=PASSWORD)
    assert "STARTTLS" in done.failed[ANN]
    assert (box.letters, box.logins) == ([], [])


def test_a_server_without_tls_on_a_tls_port_is_asked_once():
    with scripted(polite) as (port, count):
        done = sent(port, ANN, security="tls")
    assert ANN in done.failed
    assert count["connections"] == 1


def test_a_wrong_password_is_told_once_and_shown_to_nobody(authority):
    with serving(authority) as (box, port):
        wrong = {"user": USER, "password": "hunter2 ä", "authority": str(authority.file)}
        done = sent(port, ANN, security="starttls", **wrong)
        assert "hunter2" not in repr(server(port, **wrong))
    assert done.failed[ANN].startswith(f"localhost:{port}: the login as robot was refused: 535")
    assert len(set(box.logins)) == 1
    assert box.letters == []


def test_a_server_that_repeats_the_password_does_not_make_us_repeat_it():
    known = server(25, user=USER, password=PASSWORD)
    for secret in (PASSWORD, *(base64.b64encode(x.encode()).decode() for x in (PASSWORD, f"\0{USER}\0{PASSWORD}"))):
        assert known.without_secrets(f"535 no: {secret}\r\nInjected: \u202e x") == "535 no: *** Injected: x"


def test_a_refused_recipient_is_named_and_the_others_get_it():
    with serving(security="none", login=False) as (box, port):
        box.answers[BOB] = ["550 no such user"]
        done = sent(port, ANN, BOB, CY)
    assert (done.accepted, done.failed) == ((ANN, CY), {BOB: "550 no such user"})
    assert [people for people, _, _ in box.letters] == [(ANN, CY)]
    assert box.asked[BOB] == 1


def test_who_shall_be_asked_again_is_asked_again_alone():
    with serving(security="none", login=False) as (box, port):
        box.answers[BOB] = ["451 greylisted", "451 greylisted"]
        done = sent(port, ANN, BOB)
    assert (sorted(done.accepted), done.failed) == ([ANN, BOB], {})
    assert [people for people, _, _ in box.letters] == [(ANN,), (BOB,)]
    assert len({message["Message-ID"] for _, message, _ in box.letters}) == 1


def test_who_is_never_let_in_is_named_with_the_last_answer():
    with serving(security="none", login=False) as (box, port):
        box.answers[BOB] = ["451 later"] * 9
        done = sent(port, ANN, BOB)
    assert (done.accepted, done.failed) == ((ANN,), {BOB: "451 later"})
    assert (box.asked[ANN], box.asked[BOB]) == (1, 3)


def test_all_refused_sends_nothing():
    with serving(security="none", login=False) as (box, port):
        box.answers = {ANN: ["550 no"], BOB: ["553 no"]}
        done = sent(port, ANN, BOB)
    assert done.failed == {ANN: "550 no", BOB: "553 no"}
    assert box.letters == []


def test_a_server_in_trouble_is_asked_again_after_growing_pauses():
    waits = []
    with serving(security="none", login=False) as (box, port):
        box.ends = ["451 disk full", "452 disk full"]
        done = send(letter(ANN), SENDER.addr_spec, [ANN], server(port), sleep=waits.append)
    assert done.accepted == (ANN,)
    assert len(box.letters) == 1
    assert waits == [2.0, 10.0]


def test_a_message_that_is_not_wanted_is_not_sent_again():
    with serving(security="none", login=False) as (box, port):
        box.ends = ["552 too large"]
        done = sent(port, ANN)
    assert done.failed[ANN].startswith(f"localhost:{port}: 552 too large; attach_mb in [email]")
    assert box.asked[ANN] == 1


@pytest.mark.parametrize("command", ["EHLO", "MAIL", "RCPT", "DATA"])
def test_a_connection_that_breaks_before_the_message_is_made_anew(command):
    with scripted(up_to(command), hangs_up, polite) as (port, count):
        done = sent(port, ANN)
    assert done.accepted == (ANN,)
    assert (count["connections"], count["messages"]) == (3, 1)


def test_a_connection_that_breaks_before_the_answer_is_not_made_anew():
    with scripted(up_to("."), polite) as (port, count):
        done = sent(port, ANN)
    assert "may have arrived, and is not sent again" in done.failed[ANN]
    assert count["connections"] == 1


def test_a_connection_that_breaks_after_the_answer_harms_nothing():
    with scripted(up_to("QUIT")) as (port, count):
        done = sent(port, ANN)
    assert (done.accepted, done.failed) == ((ANN,), {})
    assert (count["connections"], count["messages"]) == (1, 1)


def test_a_server_that_stalls_is_given_up():
    with scripted(stalls) as (port, _):
        slow = MailServer("localhost", port, "none", timeout_s=0.05)
        done = send(letter(ANN), SENDER.addr_spec, [ANN], slow, pauses=(0.0,))
    assert done.failed == {ANN: f"localhost:{port}: no answer within 0.05 s"}


def test_a_server_that_is_down_is_named():
    with scripted(polite) as (port, _):
        pass
    done = sent(port, ANN, BOB)
    assert done.failed == dict.fromkeys((ANN, BOB), f"localhost:{port}: Connection refused")


def test_a_name_that_nobody_knows_is_asked_for_once():
    waits = []
    nowhere = MailServer("mail.invalid", 25, "none", timeout_s=5.0)
    done = send(letter(ANN), SENDER.addr_spec, [ANN], nowhere, sleep=waits.append)
    assert done.failed[ANN].startswith("mail.invalid:25: ")


HOSTILE = (
    "x\r\nBcc: eve@example.org",
    "x\n\n<script>",
    "\u202egnp.exe",
    "@everyone | ![x](javascript:y)",
    "w" * 10_000,
    "",
)


@pytest.mark.parametrize("text", HOSTILE)
def test_a_hostile_subject_injects_no_header(text):
    from perfkit.report.mail import subject_line

    message = letter(ANN, subject=subject_line(text))
    head = message.as_bytes().partition(b"\r\n\r\n")[0]
    names = [line.split(b":")[0] for line in head.split(b"\r\n") if not line.startswith(b" ")]
    assert sorted(names) == sorted(
        [b"From", b"To", b"Subject", b"Date", b"Message-ID", b"Auto-Submitted", b"MIME-Version", b"Content-Type"]
    )
    assert max(map(len, message.as_bytes().split(b"\r\n"))) <= 998


@given(st.text(max_size=300))
def test_any_subject_arrives_as_it_was(text):
    from email import message_from_bytes
    from email.policy import default

    from perfkit.report.mail import subject_line

    line = subject_line(text)
    got = message_from_bytes(letter(ANN, subject=line).as_bytes(), policy=default)
    assert " ".join(got["Subject"].split()) == " ".join(line.split())


@pytest.mark.parametrize(
    "text",
    [
        "ann@example.org\r\nBcc: eve@example.org",
        "ann@example.org\nRCPT TO:<eve@example.org>",
        "ann@example.org>\u2028<eve@example.org",
        "ann",
        "@example.org",
        "ann@",
        "ann@exa mple.org",
        "änn@example.org",
        "<script>@example.org",
        "",
        ",",
        "a@b,,c",
        "x" * 65 + "@example.org",
    ],
)
def test_what_is_no_address_is_refused(text):
    with pytest.raises(SettingsError, match=r"^\[email\]: to: "):
        addresses_of([text], "[email]: to")


def test_addresses_are_read_as_people_write_them(monkeypatch):
    monkeypatch.setenv("TEAM", "Ann <ann@example.org>, bob@example.org")
    found = addresses_of(["${TEAM}", "BOB@example.org", "Ünal Ö. <u@bücher.example>"], "to")
    assert [one.addr_spec for one in found] == [ANN, BOB, "u@xn--bcher-kva.example"]
    assert found[0].display_name == "Ann"
    message = letter(ANN)
    del message["To"]
    message["To"] = found
    assert b"b\xc3\xbc" not in message.as_bytes()


def test_the_environment_names_the_server():
    settings = EmailSettings(host="mail.example.org")
    assert str(MailServer.from_settings(settings, {})) == "mail.example.org:587"
    assert str(MailServer.from_settings(EmailSettings(host="m", security="tls"), {})) == "m:465"
    said = {"PERFKIT_SMTP_HOST": "other", "PERFKIT_SMTP_PORT": "2525", "PERFKIT_SMTP_USER": "u"}
    known = MailServer.from_settings(settings, said | {"PERFKIT_SMTP_PASSWORD": "p"})
    assert (str(known), known.user, known.password) == ("other:2525", "u", "p")


@pytest.mark.parametrize(
    ("settings", "environment", "said"),
    [
        ({}, {}, "host is missing"),
        ({"host": "a b\r\n"}, {}, "is no name of a server"),
        ({"host": "m:587"}, {}, "holds a port"),
        ({"host": "m"}, {"PERFKIT_SMTP_PORT": "smtp"}, "PERFKIT_SMTP_PORT: from 1 to 65535, got 'smtp'"),
        ({"host": "m"}, {"PERFKIT_SMTP_USER": "u"}, "PERFKIT_SMTP_PASSWORD is not"),
        (
            {"host": "m", "security": "none"},
            {"PERFKIT_SMTP_USER": "u", "PERFKIT_SMTP_PASSWORD": "hunter2"},
            "would send the password readable to all",
        ),
    ],
)
def test_what_is_wrong_with_a_server_is_told_before_anything_is_sent(settings, environment, said):
    with pytest.raises(SettingsError, match=said) as caught:
        MailServer.from_settings(EmailSettings(**settings), environment)
    assert "hunter2" not in str(caught.value)


def test_a_file_that_holds_no_certificate_is_named(tmp_path):
    (tmp_path / "ca.pem").write_text("nothing")
    with serving(security="none", login=False) as (_, port), pytest.raises(SettingsError, match="PERFKIT_SMTP_CA"):
        sent(port, ANN, security="starttls", authority=str(tmp_path / "ca.pem"))


def test_attachments_have_names_that_are_fine_everywhere():
    assert attachment_name("shop", "20261125T030000Z-trend") == "shop-20261125T030000Z-trend.html"
    assert attachment_name("../\r\n\u202e<x>:|", "..") == "x.html"
    assert attachment_name("", "") == "report.html"
