"""Asks the C library to keep the memory that a training step frees, for the next step to use.

Without it glibc returns a step's activations to the system and takes them back page by page: some
800 page faults an update of the smallest preset, and threads that wait for each other over them.
"""

from __future__ import annotations

import ctypes
import sys

# `mallopt` parameters of malloc.h, and the largest threshold that it takes for its heaps.
M_TRIM_THRESHOLD, M_TOP_PAD, M_MMAP_THRESHOLD = -1, -2, -3
LARGEST_THRESHOLD = 32 << 20  # [bytes]


def keep_freed_memory() -> bool:
    """Raise the thresholds of this process' allocator; whether it could be asked.

    For the edge of a program, not for a library: it holds for the whole process. Freed memory
    below 32 MiB a piece stays with the process (mallopt(3)).
    """
    if not sys.platform.startswith("linux"):
        return False
    mallopt = getattr(ctypes.CDLL(None), "mallopt", None)  # musl has none
    if mallopt is None:
        return False
    settings = {
        M_MMAP_THRESHOLD: LARGEST_THRESHOLD,
        M_TRIM_THRESHOLD: 2**31 - 1,
        M_TOP_PAD: 2 * LARGEST_THRESHOLD,
    }
    answers = [mallopt(name, value) for name, value in settings.items()]
    return answers == [1] * len(settings)
