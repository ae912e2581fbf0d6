"""Peak memory is this process's own."""

from __future__ import annotations

import subprocess
import sys

from dc_compiler.ort import memory

CHILD = "from dc_compiler.ort import memory; print(memory.peak())"
# a preexec_fn makes the child a copy of its parent before it starts another program
PARENT = f"""
import subprocess, sys
large = b"x" * (600 << 20)
subprocess.run([sys.executable, "-c", {CHILD!r}], preexec_fn=lambda: None, check=True)
"""


def test_the_peak_is_not_inherited() -> None:
    done = subprocess.run([sys.executable, "-c", PARENT], capture_output=True, text=True, check=True)
    assert 1 << 20 < int(done.stdout) < 300 << 20


def test_the_peak_grows_with_what_is_used() -> None:
    before = memory.resident()
    large = bytearray(b"x" * (200 << 20))
    assert memory.peak() >= before + len(large)
