"""How many cores this process may keep busy."""

from __future__ import annotations

import os

CORES = "KNCL_CORES"  # environment variable: what is left to one process of several


def cores() -> int:
    """What it was told, or all that the system lets it use."""
    told = os.environ.get(CORES, "")
    if told.isascii() and told.isdigit() and int(told):
        return int(told)
    if hasattr(os, "sched_getaffinity"):
        return len(os.sched_getaffinity(0))
    return os.cpu_count() or 1
