"""Issues of a GitHub server on loopback that follow results."""

from dataclasses import replace

import pytest
from github_server import serving

from perfkit.config.settings import IssueSettings, Settings
from perfkit.notify.github_api import Patience
from perfkit.notify.github_sync import sync_issues

UNMOVED = dict.fromkeys(["GITHUB_SERVER_URL", "HTTP_PROXY", "http_proxy", "ALL_PROXY", "all_proxy"])


@pytest.fixture
def server(monkeypatch):
    with serving() as running:
        for name in UNMOVED:
            monkeypatch.delenv(name, raising=False)
        for name, value in running.environment(NO_PROXY="127.0.0.1").items():
            monkeypatch.setenv(name, value)
        yield running


@pytest.fixture
def follow(server, tmp_path):
    """Follow results; `waits` are the seconds that were waited."""

    def following(*results, **changes):
        known = replace(Settings(), delivery=tmp_path / "delivery", issues=IssueSettings(**changes))
        done = []
        for result in results:
            done += sync_issues(result, known, patience=following.patience)
        return done

    following.waits = []
    following.patience = Patience(timeout_s=1, first_wait_s=0.5, pause_s=0.0, sleep=following.waits.append)
    following.outbox = tmp_path / "delivery"
    return following
