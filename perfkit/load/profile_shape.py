"""Stages of users, as a shape of Locust."""

from __future__ import annotations

from locust import LoadTestShape

from perfkit.load_profile import LoadProfile
from perfkit.profile_words import AT_ONCE


class ProfileShape(LoadTestShape):  # type: ignore[misc]  # Locust is not seen by the type check
    """Follows a `LoadProfile` of users, second by second."""

    def __init__(self, profile: LoadProfile) -> None:
        super().__init__()
        self.profile, self._users = profile, 0

    def tick(self) -> tuple[int, float] | None:
        """Users that are due now and the rate at which to get there; ``None`` at the end."""
        due = self.profile.level_at(self.get_run_time())
        if due is None:
            return None
        if (users := round(due)) != self._users:
            self._pace = self.profile.spawn_rate or min(max(abs(users - self._users), 1), AT_ONCE)
            self._users = users
        return users, getattr(self, "_pace", 1.0)
