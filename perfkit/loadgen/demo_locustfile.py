"""Users of the three demo services; weights and addresses come from the environment.

``PERFKIT_DEMO_WEIGHTS`` (``api_gateway=18,rag_service=1``) says how often each service is called, and
``PERFKIT_DEMO_ADDRESSES`` (``api_gateway=http://127.0.0.1:8001,...``) where it is.  Without addresses, all calls go to
Locust's ``--host``, as ``/api_gateway`` and so on.
"""

import os
import random

from locust import FastHttpUser, between, task


def _table(name: str, default: str) -> dict[str, str]:
    return dict(item.split("=", 1) for item in os.environ.get(name, default).split(",") if item)


WEIGHTS = {name: float(text) for name, text in _table("PERFKIT_DEMO_WEIGHTS", "api_gateway=1").items()}
ADDRESSES = _table("PERFKIT_DEMO_ADDRESSES", "")


class DemoUser(FastHttpUser):  # type: ignore[misc]  # Locust is not seen by the type check
    """Thinks for a moment, then calls one of the services."""

    wait_time = between(0.1, 0.4)
    if ADDRESSES:
        host = next(iter(ADDRESSES.values()))

    @task  # type: ignore[untyped-decorator]
    def call(self) -> None:
        (service,) = random.choices(list(WEIGHTS), list(WEIGHTS.values()))
        self.client.get(f"{ADDRESSES.get(service, '')}/{service}", name=service)
