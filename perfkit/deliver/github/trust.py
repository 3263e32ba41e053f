"""Whose hidden words are believed: a stranger could write them to keep a worsening from being told."""

from __future__ import annotations

from collections.abc import Mapping
from functools import cached_property
from typing import Any

from perfkit.deliver.github.client import Client
from perfkit.deliver.github.troubles import Trouble

HOUSE = ("OWNER", "MEMBER", "COLLABORATOR")


class Trust:
    """Bots, people who belong to the repository, and the token's own user."""

    def __init__(self, client: Client) -> None:
        self._client = client

    def covers(self, plain: Mapping[str, Any]) -> bool:
        """Whether an issue or a comment is by somebody who is believed."""
        user = plain.get("user")
        known: Mapping[str, Any] = user if isinstance(user, Mapping) else {}
        if known.get("type") == "Bot" or plain.get("author_association") in HOUSE:
            return True
        return bool(known.get("login")) and known["login"] == self._own

    @cached_property
    def _own(self) -> str:
        """The token's own user; a workflow's token has none, and is a bot."""
        try:
            _, user = self._client.get("/user")
        except Trouble as trouble:
            if trouble.status in (401, 403, 404):
                return ""
            raise
        return str(user.get("login") or "") if isinstance(user, Mapping) else ""
