"""Opens a compiled model, runs it and closes it again, many times: a server whose sessions come and go.

    python samples/serving/soak.py MODEL [--sessions 5000] [--most 8]

Prints the resident memory after a tenth of the sessions, when caches are filled, and after each further tenth. Exit
code 1 when it grew by more than ``--most`` MiB in between, or when an output changed. samples/cpp/soak.cpp is the same
in C++.
"""

from __future__ import annotations

import argparse
import re
from pathlib import Path

import numpy as np

from dc_compiler import InferenceSession, session_options


def resident() -> float:
    """Resident memory of this process in MiB (Linux)."""
    found = re.search(r"VmRSS:\s+(\d+) kB", Path("/proc/self/status").read_text())
    if found is None:
        raise SystemExit("/proc/self/status tells no VmRSS")
    return int(found[1]) / 1024


def first_output(model: str) -> np.ndarray:
    """The first output for inputs of 0.5 (float32; symbolic dimensions are 1), from a session made for it."""
    session = InferenceSession(model, session_options(intra_op_num_threads=1))
    shapes = {i.name: [e if isinstance(e, int) else 1 for e in i.shape] for i in session.get_inputs()}
    feed = {name: np.full(shape, 0.5, np.float32) for name, shape in shapes.items()}
    return np.asarray(session.run(None, feed)[0])


def soak(model: str, sessions: int) -> float:
    """By how many MiB memory grew between the first tenth of the sessions and the last.

    Raises:
        SystemExit: an output changed.
    """
    expected = first_output(model)
    tenth = sessions // 10
    filled = now = 0.0
    for i in range(1, sessions + 1):
        if not np.array_equal(first_output(model), expected):
            raise SystemExit(f"session {i} gives another output")
        if i % tenth == 0:
            now = resident()
            filled = now if i == tenth else filled
            print(f"{i:,} sessions: {now:.1f} MiB", flush=True)
    return now - filled


def main() -> None:
    """Soak and judge."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("model")
    parser.add_argument("--sessions", type=int, default=5000)
    parser.add_argument("--most", type=float, default=8.0, help="MiB that memory may grow (default 8)")
    options = parser.parse_args()
    if options.sessions < 10:
        parser.error("give 10 sessions or more")
    grown = soak(options.model, options.sessions)
    print(f"grew by {grown:.1f} MiB from session {options.sessions // 10:,} to {options.sessions:,}")
    raise SystemExit(grown > options.most)


if __name__ == "__main__":
    main()
