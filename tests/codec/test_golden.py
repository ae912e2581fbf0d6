"""Stored frames decode to their stored values in both decoders; what the encoder writes is pinned."""

from __future__ import annotations

import numpy as np
import pinned_sizes
import pytest
from golden_frames import FOLDER, bits, golden_frames

from dc_compiler.codec import binding, reference

LARGE = 5000  # elements; of coder context, the reference decoder takes seconds for more
NAMES = sorted(path.stem for path in FOLDER.glob("*.dccw"))


def test_every_golden_frame_is_stored_and_small() -> None:
    assert sorted(golden_frames()) == NAMES
    assert sorted(path.stem for path in FOLDER.glob("*.npy")) == NAMES
    assert max(path.stat().st_size for path in FOLDER.glob("*.dccw")) < 2048


@pytest.mark.parametrize("name", NAMES)
def test_golden_frame_decodes_to_its_values(name: str) -> None:
    frame = (FOLDER / f"{name}.dccw").read_bytes()
    wanted = np.load(FOLDER / f"{name}.npy")
    dtype = golden_frames()[name][1].dtype
    for values in (reference.decode(frame), binding.decode(frame, threads=1), binding.decode(frame, threads=2)):
        assert values.dtype == dtype
        assert values.shape == wanted.shape
        np.testing.assert_array_equal(bits(values), wanted)


@pytest.mark.parametrize(
    "name", [name for name in NAMES if name.startswith(("fixed", "huffman", "rans", "context", "rows"))]
)
def test_indices_of_golden_frame_agree(name: str) -> None:
    frame = (FOLDER / f"{name}.dccw").read_bytes()
    indices = binding.decode_indices(frame)
    assert indices.dtype == np.uint16
    np.testing.assert_array_equal(indices, reference.decode_indices(frame))


def test_encoder_writes_the_pinned_bytes() -> None:
    """On purpose changed? `python tests/codec/pinned_sizes.py --write`, and review the sizes in the diff."""
    assert pinned_sizes.rows() == pinned_sizes.pinned()


def test_pinned_frames_decode_in_the_reference_decoder() -> None:
    for name, frame in pinned_sizes.frames():
        native = binding.decode(frame)
        if reference.parse_header(frame).coder in (reference.CONTEXT, reference.ROWS) and native.size > LARGE:
            continue
        np.testing.assert_array_equal(bits(reference.decode(frame)), bits(native), err_msg=name)


def test_auto_is_never_larger_than_what_it_chooses_from() -> None:
    sizes = {name: int(size) for name, size, _ in pinned_sizes.pinned()}
    for name, size in sizes.items():
        tensor, _, coder = name.rpartition(" ")
        others = {other.rpartition(" ")[2]: sizes[other] for other in sizes if other.startswith(f"{tensor} ")}
        if coder == "auto":
            slower = ("context", "rows", "smallest")
            assert size <= min(n for other, n in others.items() if other not in slower), name
            assert size <= others.get("rows", size) * 257 // 256, name
        if coder == "smallest":
            assert size <= min(n for other, n in others.items() if other != "rows"), name
            assert size <= others.get("rows", size) * 257 // 256, name
