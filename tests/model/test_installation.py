"""The command that adds an extra is right for the way perfkit was installed, and never names an index."""

import json
from importlib import metadata

import pytest

from perfkit.model import installation
from perfkit.model.installation import extra_advice, extra_command

RECORDS = {
    "checkout": (
        {"url": "file:///srv/my%20work", "dir_info": {"editable": True}},
        "pip install -e '/srv/my work[lab]'",
    ),
    "folder": ({"url": "file:///srv/perfkit", "dir_info": {}}, "pip install '/srv/perfkit[lab]'"),
    "wheel": (
        {"url": "file:///tmp/perfkit-0.1.0-py3-none-any.whl", "archive_info": {}},
        "pip install '/tmp/perfkit-0.1.0-py3-none-any.whl[lab]'",
    ),
    "address": (
        {"url": "https://ci:s3cret@dist.example/perfkit.whl", "archive_info": {}},
        "pip install 'perfkit[lab] @ https://dist.example/perfkit.whl'",
    ),
    "git": (
        {"url": "https://x:s3cret@git.example/o/r", "vcs_info": {"vcs": "git", "commit_id": "4f2a"}},
        "pip install 'perfkit[lab] @ git+https://git.example/o/r@4f2a'",
    ),
    "not on record": (None, "pip install 'jupyterlab<5,>=4.2'"),
    "damaged": ("{", "pip install 'jupyterlab<5,>=4.2'"),
}


class _Installed:
    def __init__(self, record):
        self._record = record
        self.requires = ["click>=8.1", "jupyterlab<5,>=4.2 ; extra == 'lab'", "s3fs>=2024.6 ; extra == 's3'"]

    def read_text(self, name):
        assert name == "direct_url.json"
        return self._record if isinstance(self._record, str | None) else json.dumps(self._record)


@pytest.mark.parametrize(("record", "command"), RECORDS.values(), ids=RECORDS)
def test_the_command_names_the_source_of_this_installation(record, command, monkeypatch):
    monkeypatch.setattr(installation.metadata, "distribution", lambda _: _Installed(record))
    monkeypatch.setattr(installation.importlib.util, "find_spec", lambda _: object())
    assert extra_command("lab") == command
    assert extra_advice("lab") == f"install perfkit with the extra `lab`: {command}"


def test_without_pip_it_is_uv_that_installs(monkeypatch):
    monkeypatch.setattr(installation.metadata, "distribution", lambda _: _Installed(RECORDS["folder"][0]))
    monkeypatch.setattr(installation.importlib.util, "find_spec", lambda _: None)
    monkeypatch.setattr(installation.sys, "executable", "/srv/venv/bin/python")
    assert extra_command("lab") == "uv pip install --python /srv/venv/bin/python '/srv/perfkit[lab]'"


def test_what_was_never_installed_names_the_extra_alone(monkeypatch):
    def missing(name):
        raise metadata.PackageNotFoundError(name)

    monkeypatch.setattr(installation.metadata, "distribution", missing)
    assert extra_advice("lab") == "install perfkit with the extra `lab`"


def test_it_works_for_this_very_installation():
    """Every extra that the project declares can be named."""
    for extra in metadata.metadata("perfkit").get_all("Provides-Extra"):
        assert f"[{extra}]" in extra_command(extra) or "pip install" in extra_command(extra)
