"""How much load can it take: windows, knee, scalability law, capacity under a promise, two builds at equal load."""

from __future__ import annotations

