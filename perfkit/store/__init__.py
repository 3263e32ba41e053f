"""Where runs are kept: one folder per run under any fsspec URL, or on a branch of a git repository."""

from __future__ import annotations

from perfkit.store.run_store import RunStore

__all__ = ["RunStore"]
