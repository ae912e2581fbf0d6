"""Every rule of FORMAT.md is enforced by both decoders, with right CRCs too, and without trusting claimed sizes."""

from __future__ import annotations

import ast
import ctypes
import os
import re
import subprocess
import sys
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from bad_frames import ALL_GOOD, BAD, GRID, HUGE, LOG, PLAIN, RAW
from frame_builder import fixed

from dc_compiler.codec import binding, reference
from dc_compiler.errors import CorruptFrameError

LIMIT = 1 << 24


def _message_patterns() -> list[str]:
    """One pattern for each error that the reference can raise, read from its source."""
    patterns = []
    raisers = ("require", "CorruptFrameError")
    sources = [path.read_text(encoding="utf-8") for path in sorted(Path(reference.__file__).parent.glob("*.py"))]
    for node in (node for source in sources for node in ast.walk(ast.parse(source))):
        if isinstance(node, ast.Call) and isinstance(node.func, ast.Name) and node.func.id in raisers:
            text = node.args[-1]
            parts = text.values if isinstance(text, ast.JoinedStr) else [text]
            patterns.append("".join(re.escape(str(p.value)) if isinstance(p, ast.Constant) else ".*" for p in parts))
    return patterns


@pytest.mark.parametrize("name", ALL_GOOD)
def test_frames_that_the_bad_ones_are_made_of_are_good(name: str) -> None:
    frame = ALL_GOOD[name].to_bytes()
    values = reference.decode(frame)
    native = binding.decode(frame)
    assert native.dtype == values.dtype
    np.testing.assert_array_equal(native, values)


@pytest.mark.parametrize("name", BAD)
def test_bad_frame_is_refused(name: str) -> None:
    with pytest.raises(CorruptFrameError):
        reference.decode(BAD[name], max_bytes=LIMIT)
    with pytest.raises(CorruptFrameError):
        binding.decode(BAD[name])


def test_every_rule_of_the_reference_decoder_is_broken_by_some_frame() -> None:
    messages = []
    for frame in BAD.values():
        with pytest.raises(CorruptFrameError) as caught:
            reference.decode(frame, max_bytes=LIMIT)
        messages.append(str(caught.value))
    with pytest.raises(CorruptFrameError) as caught:
        reference.decode_indices(RAW.to_bytes())
    messages.append(str(caught.value))
    for other in (PLAIN, GRID, replace(LOG, lo=-129, zero=0)):
        with pytest.raises(CorruptFrameError) as caught:
            reference.decode_points(fixed(other).to_bytes())
        messages.append(str(caught.value))
    patterns = _message_patterns()
    assert len(patterns) > 60
    missing = [pattern for pattern in patterns if not any(re.search(pattern, message) for message in messages)]
    assert missing == []


PEAK_SCRIPT = """
import resource, sys
from pathlib import Path
from dc_compiler.codec import binding
from dc_compiler.errors import CorruptFrameError
peak = lambda: resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
good, *frames = [path.read_bytes() for path in sorted(Path(sys.argv[1]).iterdir())]
binding.decode(good)
before = peak()
refused = 0
for frame in frames:
    try:
        binding.decode(frame)
    except CorruptFrameError:
        refused += 1
print(refused, peak() - before)
"""


@pytest.mark.skipif(sys.platform != "linux", reason="reads the peak memory as Linux reports it")
def test_huge_claims_are_refused_without_memory(tmp_path: Path) -> None:
    (tmp_path / "a good one").write_bytes(RAW.to_bytes())
    for name, frame in HUGE.items():
        (tmp_path / name).write_bytes(frame.to_bytes())
    root = Path(reference.__file__).parents[3]
    environment = {**os.environ, "PYTHONPATH": str(root)}
    command = [sys.executable, "-c", PEAK_SCRIPT, str(tmp_path)]
    done = subprocess.run(command, env=environment, capture_output=True, text=True, timeout=30, check=True)
    refused, grown_kib = map(int, done.stdout.split())
    assert refused == len(HUGE)
    assert grown_kib < 8192


@pytest.mark.parametrize("name", ALL_GOOD)
@pytest.mark.parametrize("difference", [-1, 1, 1 << 40])
def test_buffer_of_another_size_is_refused_before_it_is_touched(name: str, difference: int) -> None:
    """The C interface compares the frame's own size with the caller's, whatever either says."""
    frame = ALL_GOOD[name].to_bytes()
    out = np.full(256, 0xAA, np.uint8)
    size = reference.parse_header(frame).bytes_of(reference.decode(frame).size) + difference
    decode = ctypes.CDLL(binding.get_library_path()).dcc_frame_decode
    pointer, length = ctypes.c_void_p(out.ctypes.data), ctypes.c_size_t
    message = ctypes.create_string_buffer(256)
    assert decode(frame, length(len(frame)), pointer, length(size), 1, message, length(256)) == 2
    assert b"buffer" in message.value
    assert (out == 0xAA).all()
