"""``perfkit docs``: the documentation in the terminal; its pages come with the package."""

from __future__ import annotations

import re
import shutil
from pathlib import Path

import click

from perfkit.model.errors import ReadError, did_you_mean

NARROW, WIDE = 40, 110  # columns in which text still reads well


@click.command()
@click.argument("topic", required=False)
def docs(topic: str | None) -> None:
    """Show a page of the documentation, or the list of its pages.

    TOPIC is the name of a page, or words of one of its headings.

    \b
    Examples:
      perfkit docs
      perfkit docs configuration
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
    words = topic.removesuffix(".md").lower()
    names = (
        [words]
        if words in pages
        else [name for name, text in pages.items() if any(words in heading.lower() for heading in headings(text))]
    )
    if len(names) != 1:
        advice = f"; it is in headings of {', '.join(names)}" if names else did_you_mean(words, pages)
        raise ReadError(f"no page {topic!r}{advice}. `perfkit docs` lists the pages.")
    columns = min(max(shutil.get_terminal_size().columns, NARROW), WIDE)
    Console(width=columns).print(Markdown(for_terminal(pages[names[0]])))


def documentation() -> dict[str, str]:
    """Name of each page -> its Markdown, from the installed package, else from the checkout.

    Raises
    ------
    ReadError
        This installation has no pages.
    """
    package = Path(__file__).resolve().parents[1]
    for folder in (package / "docs", package.parent / "docs"):
        paths = sorted((path for path in folder.rglob("*.md") if "reference" not in path.parts), key=lambda p: p.stem)
        if paths:
            return {path.stem: path.read_text(encoding="utf-8") for path in paths}
    raise ReadError("the documentation is missing from this installation; install perfkit again")


def headings(markdown: str) -> list[str]:
    """The headings of a page, code aside."""
    prose = re.sub(r"^```.*?^```", "", markdown, flags=re.MULTILINE | re.DOTALL)
    return re.findall(r"^#+ (.*)$", prose, flags=re.MULTILINE)


def for_terminal(markdown: str) -> str:
    """A page without what only a browser shows: comments, pictures, HTML, and files that the site puts in."""
    text = re.sub(r"<!--.*?-->\n?|^!\[.*?\]\(.*?\)\n?|^</?div.*?>\n?", "", markdown, flags=re.MULTILINE | re.DOTALL)
    text = re.sub(r'^--8<-- "(.*)"$', r"(the file \1 of the repository)", text, flags=re.MULTILINE)
    return re.sub(r'^```(\w+) title="(.*?)"$', r"`\2`:\n```\1", text, flags=re.MULTILINE)
