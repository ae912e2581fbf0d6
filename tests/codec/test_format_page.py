"""The examples in FORMAT.md are frames, and decode to what the page says."""

from __future__ import annotations

import re
from pathlib import Path

import numpy as np

from dc_compiler.codec import binding, reference

PAGE = (Path(reference.__file__).parents[1] / "FORMAT.md").read_text(encoding="utf-8")
EXAMPLE = np.array([[0, 0, -1.5, 0], [0, 0, 0, 0.5], [2, 0, 0, 0.5]], np.float32)


def example_frames() -> dict[str, bytes]:
    """Coder -> the frame in its dump: the hex at the start of each line, up to two blanks."""
    dumps = re.findall(r"### 10\.\d `(\w+)`[^`]*```text\n(.*?)```", PAGE, re.DOTALL)
    return {
        coder: b"".join(map(bytes.fromhex, re.findall(r"^((?:[0-9a-f]{2} ?)+)(?= )", text, re.MULTILINE)))
        for coder, text in dumps
    }


def test_examples_decode_in_both_decoders() -> None:
    frames = example_frames()
    assert list(frames) == ["huffman", "rans", "context"]
    for coder, frame in frames.items():
        assert f"`{coder}`" in PAGE
        assert re.search(rf"`{coder}`.*, {len(frame)} bytes", PAGE)
        np.testing.assert_array_equal(reference.decode(frame), EXAMPLE)
        np.testing.assert_array_equal(binding.decode(frame), EXAMPLE)


def test_bit_annotations_spell_the_bytes_before_them() -> None:
    pairs = re.findall(r"^((?:[0-9a-f]{2} )+) .*\n +bits ([^,\n]*(?:, padding 0+)?)", PAGE, re.MULTILINE)
    assert len(pairs) == 3
    for hexadecimal, annotation in pairs:
        written = "".join(f"{byte:08b}"[::-1] for byte in bytes.fromhex(hexadecimal))
        assert re.sub(r"\([^)]*\)|[^01]", "", annotation) == written
