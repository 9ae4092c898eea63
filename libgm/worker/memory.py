"""The resident memory of a worker: Python keeps what a large payload took, so a worker that has grown is replaced."""

from __future__ import annotations

import os

LIMIT = 26 << 10   # kB


def outgrown() -> bool:
    """Whether this process should be replaced by a fresh one."""
    with open("/proc/self/statm", "rb") as statm:
        resident = int(statm.read().split()[1]) * os.sysconf("SC_PAGE_SIZE") >> 10
    return resident > LIMIT
