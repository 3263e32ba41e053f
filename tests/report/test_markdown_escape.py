"""Texts from outside stay texts in Markdown, as GitHub's own renderer sees it."""

import html
import re

import cmarkgfm
import pytest

from perfkit.report.text import escape

NAMES = (
    "@everyone",
    "see @octo/team",
    "a@b.example",
    "mailto:a@b.example",
    "xmpp:a@b.example",
    "www.evil.example/x",
    "WWW.evil.example",
    "https://evil.example/?a=b",
    "fixes #12, GH-12 and o/r#12",
    "![x](javascript:alert(1))",
    "[x](https://evil.example)",
    "[x]: https://evil.example",
    "[^1]",
    "<script>alert(1)</script>",
    "<!-- perfkit-issue {} -->",
    "a | b",
    "`x` *b* _i_ ~~s~~ ~s~ $x$",
    "&amp; &lt;b&gt; &#64;x",
    ":tada: GET:key:1",
    "1. one",
    "12) twelve",
    "- [ ] task",
    "# head",
    "> quote",
    "a\r\n\r\n# head\n\n    code",
    "left\u202eright\u200b",
    "x" * 10_000,
)


@pytest.mark.parametrize("name", NAMES, ids=lambda name: name[:20])
def test_a_hostile_name_is_nothing_but_text(name):
    for place in ("{}", "- {}", "**{}** got worse", "| a |\n| :-- |\n| {} |"):
        shown = cmarkgfm.github_flavored_markdown_to_html(place.format(escape(name)))
        tags = set(re.findall(r"<(\w+)", shown))
        assert tags <= {"p", "ul", "li", "strong", "table", "thead", "tbody", "tr", "th", "td"}, shown
        assert shown.count("<td") == place.count("{} |"), shown
        text = html.unescape(re.sub(r"<[^>]+>", "", shown))
        assert not re.search(r"@\w|#\d|\bGH-\d|:\w+:", text), text
        assert len(text) < 200


@pytest.mark.parametrize("name", ["GET /items?page=2&q=%20", "a_b", "shop (EU), 10:30:15", "[x] y"])
def test_a_name_reads_as_it_was(name):
    shown = cmarkgfm.github_flavored_markdown_to_html(escape(name))
    assert html.unescape(re.sub(r"<[^>]+>", "", shown)).strip().replace("\u200b", "") == name
