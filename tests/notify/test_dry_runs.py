"""Dry runs show what would be sent, and need no recipient, repository, token or pull request for it."""

import email
import email.policy
import json
import subprocess

import pytest
from command_line import invoke
from samples import side

from perfkit import compare
from perfkit.model.codec import dump_json
from perfkit.notify.github_api import repository_at

UNNAMED = (
    "GITHUB_REPOSITORY",
    "GITHUB_TOKEN",
    "GITHUB_SERVER_URL",
    "GITHUB_REF",
    "GITHUB_EVENT_PATH",
    "GITHUB_API_URL",
)


@pytest.fixture
def here(rng, tmp_path, monkeypatch):
    """A folder with the result of a slower candidate, in a job that names nothing."""
    monkeypatch.chdir(tmp_path)
    for name in UNNAMED:
        monkeypatch.delenv(name, raising=False)
    comparison = compare(side(rng, 5), side(rng, 3, first=5, slower=1.3))
    (tmp_path / "result.json").write_text(dump_json(comparison.to_dict()), encoding="utf-8")
    return tmp_path


def with_remote(folder, address, name="origin"):
    subprocess.run(["git", "init", "-q", "."], cwd=folder, check=True)
    subprocess.run(["git", "remote", "add", name, address], cwd=folder, check=True)


def test_a_mail_without_a_recipient(here):
    code, out, err = invoke("email", "result.json", "--dry-run", "mail.eml")
    assert (code, err) == (0, "")
    assert "wrote mail.eml, sent nothing; no recipient is named yet, in [email]: to or with --to: " in out
    message = email.message_from_bytes((here / "mail.eml").read_bytes(), policy=email.policy.default)
    assert message["To"] == "recipient <recipient@example.invalid>"
    assert "regression" in message["Subject"]
    assert invoke("email", "result.json")[0] == 2


def test_a_chat_message_without_a_chat(here):
    code, out, err = invoke("notify", "result.json", "--dry-run")
    assert (code, err) == (0, "")
    assert out.startswith("[chat]: urls is missing")
    assert "regression" in out
    (here / "perfkit.toml").write_text('[chat]\nurls = ["${NOBODY_SET_THIS}"]\n')
    code, out, _ = invoke("notify", "result.json", "--dry-run")
    assert (code, "NOBODY_SET_THIS is not set, not sent:" in out, "regression" in out) == (0, True, True)
    assert invoke("notify", "result.json")[0] == 2


@pytest.mark.parametrize("command", [("issue",), ("comment", "--pull-request", "3"), ("comment",)])
def test_requests_without_a_repository_or_with_that_of_the_remote(here, command):
    name, *words = command
    code, out, err = invoke(name, "result.json", *words, "--dry-run")
    assert code == 0
    assert "no repository is named" in err
    assert {request["path"].split("/issues")[0] for request in json.loads(out)} == {"/repos/OWNER/NAME"}
    with_remote(here, "https://ci:s3cret-token@github.com/octo/shop.git")
    code, out, err = invoke(name, "result.json", *words, "--dry-run")
    assert (code, "s3cret" in out + err) == (0, False)
    assert {request["path"].split("/issues")[0] for request in json.loads(out)} == {"/repos/octo/shop"}
    assert ("shown for number 0" in err) is (command == ("comment",))


def test_what_is_really_sent_needs_a_token_for_the_repository_of_the_remote(here):
    code, _, err = invoke("issue", "result.json")
    assert (code, "no repository is named, and git has no remote on GitHub here" in err) == (2, True)
    with_remote(here, "git@github.com:octo/shop.git")
    code, _, err = invoke("issue", "result.json")
    assert (code, err.startswith("perfkit: GITHUB_TOKEN: is not set")) == (2, True)


@pytest.mark.parametrize(
    ("address", "server", "name"),
    [
        ("git@github.com:octo/shop.git", "", "octo/shop"),
        ("https://github.com/octo/shop", "", "octo/shop"),
        ("https://ci:token@github.com/octo/shop.git", "https://github.com", "octo/shop"),
        ("ssh://git@github.com:22/octo/shop.git", "", "octo/shop"),
        ("https://GitHub.com/octo/shop.js/", "", "octo/shop.js"),
        ("git@git.example:octo/shop.git", "https://git.example", "octo/shop"),
        ("git@gitlab.com:octo/shop.git", "", ""),
        ("https://github.com.evil.example/octo/shop", "", ""),
        ("https://github.com@evil.example/octo/shop", "", ""),
        ("https://github.com/octo/shop/../../x", "", ""),
        ("https://github.com/octo", "", ""),
        ("/srv/git/octo/shop.git", "", ""),
        ("file:///github.com/octo/shop", "", ""),
        ("http://[", "", ""),
        ("", "", ""),
    ],
)
def test_the_repository_that_a_remote_names(address, server, name):
    assert repository_at(address, server) == name
