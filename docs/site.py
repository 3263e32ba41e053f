"""Hooks of the documentation's site: pages that lie elsewhere in the repository, and links to files that are no pages.

Pages of ``docs/`` link to files beside it (``../benchmarks/README.md``), as readers of the repository need it.  On the
site such a file is a page of its own, or stands in one; a link to any other file ends the build.
"""

from __future__ import annotations

import posixpath
import re
from pathlib import Path
from typing import Any

from mkdocs.exceptions import PluginError
from mkdocs.structure.files import File, Files

ROOT = Path(__file__).parents[1]
PAGES = {
    "benchmarks/README.md": "figures.md",
    "examples/ci/README.md": "pipelines.md",
    "deploy/README.md": "deploy.md",
    "CHANGELOG.md": "changes.md",
    "README.md": "index.md",
}
SHOWN = {  # files that a page shows whole
    "examples/ci/github/perf-pull-request.yml": "howto/github.md",
    "examples/ci/github/perf-nightly.yml": "howto/github.md",
    "examples/ci/github/perf-nightly-s3.yml": "howto/s3.md",
    "examples/ci/github/perf-notebooks.yml": "howto/github.md",
    "examples/ci/gitlab/.gitlab-ci.yml": "howto/gitlab.md",
    "examples/ci/jenkins/Jenkinsfile": "howto/jenkins.md",
}
_LINK = re.compile(r"(?<=\]\()(?!https?:|mailto:|#)([^)\s#]+)(#[^)\s]*)?(?=\))")


def on_files(files: Files, config: Any) -> Files:
    """Add the pages that lie outside ``docs/``."""
    for source, page in PAGES.items():
        if page == "index.md":  # the site's own; links to the README lead there
            continue
        text = (ROOT / source).read_text(encoding="utf-8")
        files.append(File.generated(config, page, content=_relinked(text, source, page)))
    return files


def on_page_markdown(markdown: str, page: Any, **_: Any) -> str:
    """Links of a page of ``docs/``; those of the others were made in `on_files`."""
    name = page.file.src_uri
    return markdown if name in PAGES.values() else _relinked(markdown, f"docs/{name}", name)


def _relinked(markdown: str, source: str, page: str) -> str:
    """The text of a file of the repository as that of a page."""

    def target(match: re.Match[str]) -> str:
        path = posixpath.normpath(posixpath.join(posixpath.dirname(source), match[1]))
        here = path.removeprefix("docs/") if path.startswith("docs/") else {**PAGES, **SHOWN}.get(path)
        if here is None:
            raise PluginError(f"{source}: {match[1]} is no page of the site; see docs/site.py")
        return posixpath.relpath(here, posixpath.dirname(page) or ".") + (match[2] or "")

    return _LINK.sub(target, markdown)
