"""Memory of this process."""

from __future__ import annotations

import resource
import sys
from pathlib import Path


def resident() -> int:
    """Bytes that are in memory now.

    Raises:
        OSError, StopIteration: the system does not tell.
    """
    return _status("VmRSS")


def peak() -> int:
    """Most bytes that were in memory at a time. A process that a large one started inherits the figure of getrusage,
    which is only taken where the system has no other."""
    try:
        return _status("VmHWM")
    except (OSError, StopIteration):
        return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * (1 if sys.platform == "darwin" else 1024)


def _status(field: str) -> int:
    lines = Path("/proc/self/status").read_text().splitlines()
    return 1024 * int(next(line.split()[1] for line in lines if line.startswith(field)))
