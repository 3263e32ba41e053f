"""Links of a trend report: to run folders beside it, and to commits where a repository's address is given."""

from __future__ import annotations

import os
import re
from dataclasses import dataclass
from pathlib import Path
from urllib.parse import quote

from perfkit.errors import SettingsError
from perfkit.history.timeline import Moment
from perfkit.settings_file import url_parts

PLACE = "{commit}"


@dataclass(frozen=True, slots=True)
class Links:
    """Where links lead; ``beside`` is the folder of the report, ``commit_url`` has gone through `read_commit_url`."""

    beside: Path
    commit_url: str | None = None

    def run(self, moment: Moment) -> str | None:
        """The run's folder, relative to the report; ``None`` where it is not on this machine.

        Everything but letters, digits and ``_.-~/`` is quoted, so that no name can be an address of its own.
        """
        folder = Path(moment.source)
        if not moment.source or "://" in moment.source or not folder.is_dir():
            return None
        try:
            relative = os.path.relpath(folder.resolve(), self.beside.resolve())
        except ValueError:  # another drive
            return None
        return quote(Path(relative).as_posix()) + "/"

    def commit(self, moment: Moment) -> str | None:
        """The address of the run's commit, or ``None`` where either is not known."""
        if not self.commit_url or not moment.commit:
            return None
        return self.commit_url.replace(PLACE, quote(moment.commit, safe=""))


def trend_links(result: str | Path, commit_url: str | None = None) -> Links:
    """Links of the report that stands beside the file ``result``."""
    return Links(Path(result).absolute().parent, read_commit_url(commit_url))


def read_commit_url(text: str | None) -> str | None:
    """A template such as ``https://git.example/team/api/commit/{commit}``; ``None`` and empty are none.

    Raises
    ------
    SettingsError
        It is not an address of http or https, or has no place for the commit behind its host.
    """
    if not text:
        return None
    parts = url_parts(text)
    wrong = "write one such as https://git.example/team/api/commit/{commit}"
    if parts is None or parts.scheme not in ("http", "https") or not parts.hostname:
        raise SettingsError(f"commit URL {text!r}: is not an address of http or https; {wrong}")
    if "@" in parts.netloc:
        raise SettingsError(f"commit URL {text!r}: names a user, whom every reader of the report would see; {wrong}")
    if text.count(PLACE) != 1 or PLACE in parts.netloc or re.search(r"[\s\"'<>\\^`|\x00-\x1f\x7f]", text):
        raise SettingsError(f"commit URL {text!r}: must have {PLACE} once behind the host, and no spaces; {wrong}")
    return text
