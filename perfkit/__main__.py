"""``python -m perfkit`` and the console script: the command line, or why it cannot even be loaded."""

from __future__ import annotations

import sys


def entry() -> None:
    """Run the command line; a broken installation ends in 4, where Python's own 1 would mean a regression."""
    try:
        from perfkit.cli import entry as command
    except ImportError as error:
        sys.stderr.write(f"perfkit: is not completely installed ({error}); install it again with what it depends on\n")
        raise SystemExit(4) from error
    command()


if __name__ == "__main__":
    entry()
