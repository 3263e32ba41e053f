"""``perfkit docs``: the documentation in the terminal; its pages come with the package."""

from __future__ import annotations

import re
import shutil

import click

from perfkit.cli.completion import complete_pages
from perfkit.model.errors import ReadError, did_you_mean
from perfkit.model.installation import shipped_files

NARROW, WIDE = 40, 110  # columns in which text still reads well


@click.command()
@click.argument("topic", required=False, shell_complete=complete_pages)
def docs(topic: str | None) -> None:
    """Show a page of the documentation, or the list of its pages.

    TOPIC is the name of a page, or words of one of its headings; PAGE#SECTION shows one section alone.

    \b
    Examples:
      perfkit docs
      perfkit docs configuration
      perfkit docs configuration#policy
      perfkit docs "pinned baselines"
      perfkit docs history | less -R
    """
    from rich.console import Console
    from rich.markdown import Markdown

    pages = documentation()
    if topic is None:
        width = max(map(len, pages))
        for name, text in pages.items():
            click.echo(f"{name:<{width}}  {headings(text)[0]}")
        click.echo("\nNext: perfkit docs TOPIC")
        return
    page, _, anchor = topic.partition("#")
    words = page.removesuffix(".md").lower()
    names = (
        [words]
        if words in pages
        else [name for name, text in pages.items() if any(words in heading.lower() for heading in headings(text))]
    )
    if len(names) != 1:
        advice = f"; it is in headings of {', '.join(names)}" if names else did_you_mean(words, pages)
        raise ReadError(f"no page {page!r}{advice}. `perfkit docs` lists the pages.")
    text = section(pages[names[0]], anchor) if anchor else pages[names[0]]
    columns = min(max(shutil.get_terminal_size().columns, NARROW), WIDE)
    Console(width=columns).print(Markdown(for_terminal(text)))


def documentation() -> dict[str, str]:
    """Name of each page -> its Markdown; ``ReadError`` for an installation without pages."""
    paths = [path for path in shipped_files("docs", "*.md") if "reference" not in path.parts]
    if paths:
        return {path.stem: path.read_text(encoding="utf-8") for path in paths}
    raise ReadError("the documentation is missing from this installation; install perfkit again")


def section(markdown: str, anchor: str) -> str:
    """The section of a page with an anchor, as the site makes it of the heading; ``ReadError`` names the nearest."""
    sections = [
        (re.sub(r"[^\w]+", "-", re.sub(r"[^\w\s-]", "", line.lower())).strip("-"), at, line)
        for at, line in _headings(markdown)
    ]
    for number, (name, at, line) in enumerate(sections):
        if name == anchor.lower():
            level = len(line) - len(line.lstrip("#"))
            ends = (end for _, end, later in sections[number + 1 :] if len(later) - len(later.lstrip("#")) <= level)
            return markdown[at : next(ends, None)]
    names = [name for name, _, _ in sections[1:]]
    raise ReadError(f"no section {anchor!r}{did_you_mean(anchor, names)}; there are {', '.join(names)}")


def headings(markdown: str) -> list[str]:
    """The headings of a page, code aside."""
    return [line.lstrip("# ") for _, line in _headings(markdown)]


def _headings(markdown: str) -> list[tuple[int, str]]:
    """Where each heading begins, and its line; code has none."""
    parts = re.finditer(r"^```.*?^```|^#+ [^\n]*", markdown, flags=re.MULTILINE | re.DOTALL)
    return [(part.start(), part[0]) for part in parts if part[0].startswith("#")]


def for_terminal(markdown: str) -> str:
    """A page without what only a browser shows: comments, pictures, HTML, and files that the site puts in."""
    text = re.sub(r"<!--.*?-->\n?|^!\[.*?\]\(.*?\)\n?|^</?div.*?>\n?", "", markdown, flags=re.MULTILINE | re.DOTALL)
    text = re.sub(r'^--8<-- "(.*)"$', r"(the file \1 of the repository)", text, flags=re.MULTILINE)
    return re.sub(r'^```(\w+) title="(.*?)"$', r"`\2`:\n```\1", text, flags=re.MULTILINE)
