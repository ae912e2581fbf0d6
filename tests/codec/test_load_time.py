"""The price of load time: a share of 1 % of the file for each doubling."""

from __future__ import annotations

import numpy as np
import pytest

from dc_compiler.codec import binding, load_time
from dc_compiler.codec.load_time import Alternative, worth_their_time

FILE = 1_000_000


@pytest.mark.parametrize(
    ("saved", "seconds", "is_worth_it"),
    [
        (10_000, 1.0, True),  # 1 % for twice the time
        (9_999, 1.0, False),
        (20_000, 3.0, True),  # 2 % for four times
        (19_999, 3.0, False),
        (6_000, 21.0, False),  # 0.6 % for 22 times
        (45_000, 21.0, True),
    ],
)
def test_one_alternative(saved: int, seconds: float, is_worth_it: bool) -> None:
    assert worth_their_time([Alternative(saved, seconds)], FILE, 1.0) == ([0] if is_worth_it else [])


def test_the_best_come_first_and_the_rest_is_left() -> None:
    good, poor, best = Alternative(20_000, 0.5), Alternative(1_000, 5.0), Alternative(20_000, 0.1)
    assert worth_their_time([poor, good, best], FILE, 1.0) == [1, 2]


def test_many_may_be_worth_it_together_where_one_is_not() -> None:
    """A doubling is dearer when little time has been spent yet."""
    one = Alternative(14_000, 1.0)
    assert worth_their_time([Alternative(9_000, 1.0)], FILE, 1.0) == []
    assert worth_their_time([Alternative(9_000, 1.0)] * 7, FILE, 1.0) == list(range(7))
    assert worth_their_time([one, one], FILE, 1.0) == [0, 1]


@pytest.mark.parametrize(("saved", "is_worth_it"), [(13_220, False), (103_219, False), (103_220, True)])
def test_time_is_ten_times_as_dear_from_half_as_long_again_as_the_original_on(saved: int, is_worth_it: bool) -> None:
    """From 1.2 to 1.5 times the original's 0.322 doublings at 1 %, from there to 3 times one at 10 %."""
    taken = worth_their_time([Alternative(saved, 1.8)], FILE, 1.2, original=1.0)
    assert taken == ([0] if is_worth_it else [])


def test_frames_that_save_less_for_their_time_than_the_next_are_left_out() -> None:
    indices = np.random.default_rng(0).integers(0, 40, 4000).astype(np.uint16)
    frames = {
        coder: binding.encode_codebook(indices, (40, 100), np.float32, grid_lo=0, k=40, coder=coder)
        for coder in ("fixed", "rans", "context")
    }
    found = load_time.alternatives_of(list(frames.values()))
    sizes = [len(frames["fixed"])]
    for frame, step in found:
        assert step.saved == sizes[-1] - len(frame)
        assert step.seconds > 0
        sizes.append(len(frame))
    rates = [step.saved / step.seconds for _, step in found]
    assert rates == sorted(rates, reverse=True)


def test_nothing_to_choose_from() -> None:
    assert worth_their_time([], FILE, 1.0) == []


def test_decoding_costs_what_the_table_of_coders_says() -> None:
    indices = np.zeros(1000, np.uint16)
    indices[:100] = 1
    seconds = {}
    for coder in ("rans", "context"):
        frame = binding.encode_codebook(indices, (1000,), np.float32, grid_lo=0, k=2, zero=0, coder=coder)
        info = binding.coders()[coder]
        seconds[coder] = load_time.decode_seconds(frame)
        picoseconds = 1000 * info.decode_picoseconds + 100 * info.nonzero_picoseconds
        assert seconds[coder] == pytest.approx(picoseconds * 1e-12 + info.frame_nanoseconds * 1e-9)
    assert seconds["context"] > 20 * seconds["rans"]


def test_the_library_tells_its_coders() -> None:
    infos = binding.coders()
    kinds = {
        "raw": "ELEMENTS", "fixed": "INDICES", "huffman": "INDICES", "rans": "INDICES", "lossless": "ELEMENTS",
        "lz": "BYTES", "context": "INDICES", "rows": "INDICES", "text": "BYTES", "trees": "BYTES",
    }  # fmt: skip
    assert kinds.items() <= {name: info.stores.name for name, info in infos.items()}.items()
    assert {name for name in kinds if infos[name].is_slow} == {"context", "text", "trees"}
