"""``python -m perfkit``: the same as the command ``perfkit``."""

from perfkit.cli import entry

entry()
