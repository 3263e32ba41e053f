"""A real report, sent to a real server, opened in a real browser: body and attachment as their reader gets them."""

import pytest
from browser import Opened, needs_chromium
from mail_server import PASSWORD, USER, Authority, serving
from samples import REPOSITORY

from perfkit.config.settings import EmailSettings
from perfkit.history.incidents import read_result
from perfkit.notify.delivery import deliver
from perfkit.notify.email import MailChannel
from perfkit.report import notebook
from perfkit.report.mail import LARGEST

SAMPLES = REPOSITORY / "data" / "samples"
pytestmark = [pytest.mark.slow, *needs_chromium]


@pytest.fixture(scope="module", params=["compare", "trend"])
def received(request, tmp_path_factory):
    """The message that arrived."""
    folder = tmp_path_factory.mktemp("mail")
    given = {
        "compare": {"baseline": str(SAMPLES / "baseline"), "candidate": str(SAMPLES / "candidate")},
        "trend": {"store": str(SAMPLES / "history"), "scenario": "nightly"},
    }[request.param]
    report = notebook.run_report(request.param, given, reports_dir=folder)
    authority = Authority(folder)
    with serving(authority, security="tls") as (box, port), pytest.MonkeyPatch.context() as patch:
        said = {"HOST": "localhost", "PORT": str(port), "USER": USER, "PASSWORD": PASSWORD, "CA": str(authority.file)}
        for name, value in said.items():
            patch.setenv(f"PERFKIT_SMTP_{name}", value)
        email = EmailSettings(to=("ann@example.org",), sender="perf@example.org", security="tls")
        list(deliver([(read_result(report.folder),)], MailChannel(email), when="always", folder=folder))
    return box.letters[0][1]


def test_the_whole_message_is_small(received):
    assert len(received.as_bytes()) <= 2_500_000
    assert [part.get_content_type() for part in received.iter_attachments()] == ["text/html"]


def body(message, folder):
    """The HTML part with its pictures beside it, as a mail reader shows it."""
    html = message.get_body(("html",)).get_content()
    assert len(html.encode()) <= LARGEST
    for part in message.walk():
        if part.get_content_type() == "image/png":
            name = part.get_filename()
            (folder / name).write_bytes(part.get_payload(decode=True))
            html = html.replace(f"cid:{part['Content-ID'].strip('<>')}", name)
    (folder / "body.html").write_text(html, "utf-8")
    return folder / "body.html"


@pytest.mark.parametrize(("width", "scheme"), [(1280, "light"), (400, "dark")])
def test_the_body_shows_its_charts(browser, received, tmp_path, width, scheme):
    context = browser.new_context(viewport={"width": width, "height": 900}, color_scheme=scheme, offline=True)
    page = context.new_page()
    page.goto(body(received, tmp_path).as_uri())
    assert page.locator("img").count() >= 1
    assert page.evaluate("[...document.images].every(one => one.complete && one.naturalWidth > 500)")
    assert page.evaluate("document.documentElement.scrollWidth") <= width
    assert "regression" in page.locator("body").inner_text()
    context.close()


def test_the_attachment_is_the_whole_report(browser, received, tmp_path):
    (attached,) = received.iter_attachments()
    assert attached.get_content_type() == "text/html"
    file = tmp_path / attached.get_filename()
    file.write_bytes(attached.get_payload(decode=True))
    opened = Opened(browser, file)
    assert opened.count(".js-plotly-plot") >= 2
    assert opened.said == []
    assert opened.asked == [file.as_uri()]
