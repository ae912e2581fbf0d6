"""The comparison of what two models give: arrays, and inside sequences, maps and optionals; what says nothing."""

from __future__ import annotations

import math
from typing import Any

import ml_dtypes
import numpy as np
import pytest

from dc_compiler.ort.compare import OutputComparison, compare

NAN, INF = math.nan, math.inf


def one(before: Any, after: Any) -> OutputComparison:
    return compare("y", [np.asarray(before)], [np.asarray(after)])


def test_known_differences() -> None:
    result = one([[3.0, 4.0]], [[3.0, 3.0]])
    assert not result.identical
    assert result.max_abs_error == 1
    assert result.sqnr_db == pytest.approx(10 * math.log10(25))
    assert result.cosine == pytest.approx(21 / (5 * math.sqrt(18)))
    assert result.top1_agreement == 0.0


@pytest.mark.parametrize("seed", range(8))
def test_equal_values_have_a_cosine_of_one_and_no_values_have_more(seed: int) -> None:
    """Rounding in square roots made equal outputs miss a demand for 1."""
    x = np.random.default_rng(seed).standard_normal((7, 31)).astype(np.float32)
    assert one(x, x.copy()).worst_cosine == 1.0
    near = one(x, x * np.float32(1 + 2**-20)).worst_cosine
    assert near is not None
    assert 1 - 1e-12 < near <= 1.0


def test_all_feeds_count() -> None:
    before = [np.array([[1.0, 0.0]]), np.array([[0.0, 1.0]])]
    after = [np.array([[1.0, 0.0]]), np.array([[2.0, 1.0]])]
    result = compare("y", before, after)
    assert (result.identical, result.max_abs_error, result.top1_agreement) == (False, 2.0, 0.5)
    assert result.cosine == pytest.approx(2 / math.sqrt(2 * 6))


@pytest.mark.parametrize(
    "values",
    [
        [1.0, NAN, INF, -INF],
        [1e300, 1e-300],
        [[True, False]],
        [[1, 2]],
        3.0,
        ["a", "b"],
        np.array([1, 2], ml_dtypes.bfloat16),
    ],
    ids=str,
)
def test_equal_is_identical(values: Any) -> None:
    result = one(values, np.array(values).copy())
    assert result.identical
    assert (result.max_abs_error, result.sqnr_db) == (0.0, None)
    assert result.cosine is None or result.cosine == pytest.approx(1.0)


def test_negative_zero_is_not_identical_but_equal() -> None:
    result = one([0.0, 1.0], [-0.0, 1.0])
    assert not result.identical
    assert result.max_abs_error == 0
    assert result.sqnr_db is None


@pytest.mark.parametrize(
    ("before", "after"),
    [
        ([1.0, 2.0], [1.0, NAN]),
        ([1.0, NAN], [1.0, 2.0]),
        ([1.0, INF], [1.0, -INF]),
        ([1.0, 2.0], [NAN, NAN]),
        ([1.0, 2.0], [1.0, INF]),
        ([1.0, 2.0], [[1.0, 2.0]]),
        ([1.0, 2.0], np.array([1, 2], np.float32)),
        ([1.0, 2.0], np.array([1, 2], np.int64)),
        ([0.0, 0.0], [0.0, 1.0]),
        ([0.0, 1.0], [0.0, 0.0]),
        ([1e300, 1e300], [1e300, -1e300]),
    ],
    ids=str,
)
def test_catastrophes_have_the_worst_cosine(before: Any, after: Any) -> None:
    """Else an output that became NaN would pass for good."""
    result = one(before, after)
    assert not result.identical
    assert result.cosine == 0.0


@pytest.mark.parametrize(
    ("before", "after", "error"),
    [
        ([[1, 2]], [[1, 5]], 3.0),
        ([[True, False]], [[True, True]], 1.0),
        (np.zeros((1, 1), np.uint8), np.full((1, 1), 255, np.uint8), 255.0),
    ],
    ids=str,
)
def test_numbers_that_are_not_floats(before: Any, after: Any, error: float) -> None:
    result = one(before, after)
    assert (result.identical, result.max_abs_error, result.cosine, result.sqnr_db) == (False, error, None, None)


@pytest.mark.parametrize(
    ("values", "reason"),
    [
        ([], "empty"),
        (np.zeros((0, 4), np.float32), "empty"),
        ([NAN, NAN], "no finite values"),
        ([INF, -INF, NAN], "no finite values"),
        ([0.0, 0.0], "constant"),
        ([[0.25, 0.25], [0.25, 0.25]], "constant"),
        ([[True, True]], "constant"),
        ([7, 7, 7], "constant"),
        (["a", "a"], "constant"),
    ],
    ids=str,
)
def test_what_says_nothing(values: Any, reason: str) -> None:
    """The same bits on both sides, yet nothing about the weights: never called identical."""
    result = one(values, np.array(values).copy())
    assert (result.not_compared, result.same_bits, result.identical) == (reason, True, False)
    assert result.top1_agreement is None


def test_a_constant_that_changes_is_compared() -> None:
    for before, after in (([1.0, 1.0], [1.0, 1.5]), ([1, 1], [1, 2]), (["a", "a"], ["a", "b"])):
        assert one(before, after).not_compared is None


def test_a_single_value_is_no_constant() -> None:
    """One number of one run may well depend on the weights; the same number in every run says nothing."""
    assert one([0.5], [0.5]).identical
    assert compare("y", [np.array([0.5])] * 4, [np.array([0.5])] * 4).not_compared == "constant"
    assert compare("y", [np.array([0.5]), np.array([0.6])], [np.array([0.5]), np.array([0.6])]).identical


def test_rows_without_a_largest_element_do_not_agree() -> None:
    """argmax of NaN, or of equal values, is 0 on both sides."""
    before = [[NAN, 1.0], [3.0, 3.0], [1.0, 2.0], [2.0, 1.0]]
    after = [[NAN, 1.0], [3.0, 3.0], [1.0, 2.0], [1.0, 2.0]]
    assert one(before, after).top1_agreement == 0.5


def test_the_worst_feed_shows() -> None:
    """A branch that is ruined must not hide behind one that is not; a silent feed says nothing by its angle."""
    before = [np.array([3.0, 4.0]), np.array([4.0, 3.0]), np.array([1e-6, 0.0])]
    after = [np.array([3.0, 4.0]), np.array([3.0, -4.0]), np.array([0.0, 1e-6])]
    result = compare("y", before, after)
    assert result.cosine == pytest.approx(0.5)
    assert result.worst_cosine == 0.0


@pytest.mark.parametrize(
    ("before", "after", "share"),
    [([[1, 2, 3, 4]], [[1, 2, 3, 5]], 0.75), ([[True, False]], [[True, True]], 0.5), (["a", "b"], ["a", "c"], 0.5)],
    ids=str,
)
def test_share_of_equal_elements(before: Any, after: Any, share: float) -> None:
    assert one(before, after).equal_share == share


def test_shapes_that_differ() -> None:
    """What both have is compared, and never the whole called ruined."""
    before = np.arange(12.0).reshape(4, 3)
    result = one(before, before[:3])
    assert (result.shapes, result.same_bits, result.identical) == (["4x3", "3x3"], False, False)
    assert (result.max_abs_error, result.not_compared) == (0.0, None)
    assert result.cosine == pytest.approx(1.0)
    nothing = one(before, before[:0])
    assert (nothing.shapes, nothing.not_compared) == (["4x3", "0x3"], "nothing in common")


def test_inside_sequences_maps_and_optionals() -> None:
    a, b = np.array([[1.0, 2.0]]), np.array([[3.0, 4.0, 5.0]])
    same = compare("q", [[a, b]], [[a.copy(), b.copy()]])
    assert (same.identical, same.max_abs_error) == (True, 0.0)
    other = compare("q", [[a, b]], [[a, b + np.array([0.0, 0.0, 2.0])]])
    assert (other.identical, other.max_abs_error, other.shapes) == (False, 2.0, None)
    assert other.cosine == pytest.approx((55 + 10) / math.sqrt(55 * (55 + 24)))
    shorter = compare("q", [[a, b]], [[a]])
    assert (shorter.shapes, shorter.max_abs_error, shorter.same_bits) == (["2 elements", "1 elements"], 0.0, False)
    deep = compare("q", [[{"k": [a]}]], [[{"k": [a + 1]}]])
    assert (deep.max_abs_error, deep.shapes) == (1.0, None)
    assert compare("o", [None, a], [None, a]).identical
    assert compare("o", [None], [None]).not_compared == "empty"
    assert compare("o", [a], [None]).cosine == 0.0
    assert compare("o", [[a]], [a]).cosine == 0.0


def test_maps_of_scores() -> None:
    """A sequence of maps from classes to scores, as scikit-learn's classifiers give: vectors with a largest element."""
    before = [{0: 0.1, 1: 0.9}, {0: 0.8, 1: 0.2}]
    after = [{0: 0.2, 1: 0.8}, {0: 0.4, 1: 0.6}]
    result = compare("p", [before], [after])
    assert result.max_abs_error == pytest.approx(0.4)
    assert result.top1_agreement == 0.5
    assert compare("p", [before], [before]).identical
    fewer = compare("p", [before], [[{0: 0.1}, before[1]]])
    assert (fewer.shapes, fewer.max_abs_error) == (["2 keys", "1 keys"], 0.0)
    texts = compare("t", [np.array(["a"], object)], [np.array(["b"], object)])
    assert (texts.same_bits, texts.equal_share) == (False, 0.0)
