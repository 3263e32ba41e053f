"""``perfkit init``."""

from __future__ import annotations

from pathlib import Path

import click

from perfkit.errors import StoreError

SETTINGS_TEXT = """# What perfkit runs and how it judges.  See docs/configuration.md.

store = "data/runs"

[scenario.shop]
locustfile = "locustfile.py"
host = "http://127.0.0.1:8000"
users = 20
spawn_rate = 5
duration = "2m"

[policy]
# alpha = 0.01                # chance that a comparison of identical builds calls any regression

[policy.tolerance]            # the largest worsening you accept; these are the defaults of the rule "evidence"
# avg_latency_ms = 5          # percent of the baseline
# p95_latency_ms = 10
# error_rate_pct = 0.5        # percentage points
"""

LOCUSTFILE_TEXT = """from locust import FastHttpUser, between, task


class Visitor(FastHttpUser):
    wait_time = between(0.5, 1.5)

    @task
    def front_page(self):
        self.client.get("/")
"""


@click.command(short_help="Write a perfkit.toml and a locustfile to start from.")
@click.argument("folder", type=click.Path(path_type=Path, file_okay=False), default=Path())
def init(folder: Path) -> None:
    """Write perfkit.toml and locustfile.py into FOLDER (this one by default).  Files that exist are left alone."""
    for name, text in (("perfkit.toml", SETTINGS_TEXT), ("locustfile.py", LOCUSTFILE_TEXT)):
        file = folder / name
        try:
            folder.mkdir(parents=True, exist_ok=True)
            with file.open("x", encoding="utf-8") as handle:
                handle.write(text)
        except FileExistsError:
            click.echo(f"{file} exists, left alone")
            continue
        except OSError as error:
            raise StoreError(f"{file}: cannot be written: {error.strerror}") from error
        click.echo(f"wrote {file}")
    click.echo("Next: perfkit run shop")
