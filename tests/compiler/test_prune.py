"""Pruning: which elements are kept, and that the others are +0.0 in every element type."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from small_programs import CONV, DTYPES, MATMUL, Array, apply, bits, normal, program, record

from dc_compiler.errors import InvalidArgumentError
from dc_compiler.pass_manager import Context, Override, PassManager
from dc_compiler.passes.encode import Encode
from dc_compiler.passes.prune import Prune
from dc_compiler.recipe import parse_pipeline

DENSITIES = st.floats(0.001, 1.0)
# few distinct magnitudes, so that ties are common; both zeros among them
VALUES = st.sampled_from([-2.0, -1.5, -1.0, -0.5, -0.0, 0.0, 0.5, 1.0, 1.5, 2.0])


@st.composite
def tensors(draw: st.DrawFn) -> Array:
    """A weight of rank 2 and any float type, many of whose magnitudes are equal."""
    dtype = draw(st.sampled_from(DTYPES))
    rows, columns = draw(st.integers(2, 8)), draw(st.integers(2, 12))
    values = draw(st.lists(VALUES, min_size=rows * columns, max_size=rows * columns))
    return np.array(values).astype(dtype).reshape(rows, columns)


def kept(values: Array, count: int) -> Array:
    """The obvious way to say which ``count`` elements stay: sort by magnitude; the first of equals wins. bool [n]."""
    order = np.argsort(-np.abs(values.reshape(-1).astype(np.float64)), kind="stable")
    mask = np.zeros(values.size, bool)
    mask[order[:count]] = True
    return mask


def assert_pruned_to(result: Any, original: Array, mask: Array) -> None:
    """Kept elements have their bits; the others are +0.0."""
    flat = bits(result.values).reshape(-1)
    assert np.array_equal(flat, np.where(mask, bits(original).reshape(-1), 0))
    if result.mask is None:
        assert mask.all()
    else:
        assert np.array_equal(result.mask.reshape(-1), mask)


@given(tensors(), DENSITIES)
@settings(deadline=None, max_examples=200)
def test_keeps_exactly_the_largest(values: Array, density: float) -> None:
    weight = record(values.copy())
    apply(Prune(density=density), weight)
    assert_pruned_to(weight, values, kept(values, max(1, round(density * values.size))))


@given(st.lists(tensors(), min_size=1, max_size=4), DENSITIES)
@settings(deadline=None, max_examples=200)
def test_global_density_is_one_sort_over_all(arrays: list[Array], density: float) -> None:
    weights = [record(a.copy(), f"w{i}") for i, a in enumerate(arrays)]
    apply(Prune(density=density, scope="global"), *weights)
    everything = np.concatenate([a.reshape(-1).astype(np.float64) for a in arrays])
    mask = kept(everything, max(1, round(density * everything.size)))
    parts = np.split(mask, np.cumsum([a.size for a in arrays])[:-1])
    for weight, original, part in zip(weights, arrays, parts, strict=True):
        assert_pruned_to(weight, original, part)


@pytest.mark.parametrize("dtype", DTYPES, ids=str)
@pytest.mark.parametrize("quality", [0.0, 0.5, 1.0, 100.0])
def test_threshold_is_quality_times_deviation(dtype: Any, quality: float) -> None:
    values = normal(40, 30, dtype=dtype) + np.array(0.25, dtype)
    values[3, 4:6] = np.array([0.0, -0.0], dtype)
    weight = record(values.copy())
    apply(Prune(threshold=quality), weight)
    exact = values.astype(np.float64)
    assert_pruned_to(weight, values, (np.abs(exact) > quality * exact.std()).reshape(-1))


def test_default_densities_are_the_papers() -> None:
    convolution, dense = record(normal(10, 100), use=CONV), record(normal(10, 100), use=MATMUL)
    apply(Prune(), convolution, dense)
    assert convolution.mask is not None
    assert dense.mask is not None
    assert (convolution.mask.sum(), dense.mask.sum()) == (360, 100)


def test_density_one_changes_nothing() -> None:
    values = np.array([[0.0, -0.0], [1.0, -1.0]], np.float32)
    weight = record(values)
    apply(Prune(density=1.0), weight)
    assert weight.mask is None
    assert weight.values is values


def test_vectors_and_weights_left_alone_are_not_pruned() -> None:
    bias, skipped = record(normal(1, 100)), record(normal(10, 10))
    skipped.reason = "skipped"
    before = bias.values.copy(), skipped.values.copy()
    apply(Prune(density=0.1), bias, skipped)
    assert np.array_equal(bias.values, before[0])
    assert np.array_equal(skipped.values, before[1])


def test_overrides_choose_per_weight() -> None:
    first, second = record(normal(10, 100), "conv.w"), record(normal(10, 100, seed=1), "fc.w")
    overrides = [Override("*", {"density": "0.5"}), Override("fc.*", {"density": "0.25"})]
    apply(Prune(density=0.9), first, second, overrides=overrides)
    assert np.count_nonzero(first.values) == 500
    assert np.count_nonzero(second.values) == 250


@pytest.mark.parametrize("own", [{"density": "0.7"}, {"density": "0.7", "scope": "layer"}])
@pytest.mark.parametrize("position", range(3))
def test_a_weight_with_its_own_density_leaves_the_global_sort(own: dict[str, str], position: int) -> None:
    """Wherever it stands. The others share the global density among themselves: one threshold for both."""
    weights = [record(normal(10, 100, seed=i) * (i + 1), f"w{i}") for i in range(3)]
    before = [w.values for w in weights]
    apply(Prune(density=0.1, scope="global"), *weights, overrides=[Override(f"w{position}", own)])
    assert np.count_nonzero(weights[position].values) == 700
    others = [i for i in range(3) if i != position]
    together = kept(np.concatenate([before[i].reshape(-1) for i in others]), 200)
    for i, mask in zip(others, np.split(together, 2), strict=True):
        assert_pruned_to(weights[i], before[i], mask)


def test_own_densities_of_all_weights_leave_nothing_to_share() -> None:
    weights = [record(normal(10, 100, seed=i), f"w{i}") for i in range(2)]
    overrides = [Override("w0", {"density": "0.7"}), Override("w1", {"density": "0.05"})]
    apply(Prune(density=0.1, scope="global"), *weights, overrides=overrides)
    assert [np.count_nonzero(w.values) for w in weights] == [700, 50]


def test_an_own_threshold_takes_the_place_of_a_density_and_the_other_way_round() -> None:
    values = normal(10, 100)
    for base, own in (
        (Prune(density=0.1, scope="global"), {"threshold": "1.5"}),
        (Prune(density=0.1), {"threshold": "1.5"}),
    ):
        weight, other = record(values), record(normal(10, 100, seed=1), "v")
        apply(base, weight, other, overrides=[Override("w", own)])
        assert_pruned_to(weight, values, (np.abs(values) > 1.5 * values.astype(np.float64).std()).reshape(-1))
        assert np.count_nonzero(other.values) == 100
    weight = record(values)
    apply(Prune(threshold=1.5), weight, overrides=[Override("w", {"density": "0.25"})])
    assert np.count_nonzero(weight.values) == 250


def test_a_weight_may_leave_the_global_scope_or_join_it() -> None:
    alone, other = record(normal(10, 100), "w0"), record(10 * normal(10, 100, seed=1), "w1")
    apply(Prune(density=0.1, scope="global"), alone, other, overrides=[Override("w0", {"scope": "layer"})])
    assert [np.count_nonzero(w.values) for w in (alone, other)] == [100, 100]
    with pytest.raises(InvalidArgumentError, match="leave out scope=global"):
        apply(Prune(density=0.1), alone, overrides=[Override("w0", {"density": "0.3", "scope": "global"})])


def test_the_density_reported_counts_weights_that_keep_everything() -> None:
    first, second = record(normal(10, 100), "w0"), record(normal(10, 100, seed=1), "w1")
    net = program(first, second)
    report = Prune(density=0.5).run(net, Context(jobs=1, overrides=[Override("w1", {"density": "1"})]))
    assert report.facts["density"] == 0.75


def test_contradicting_overrides_are_refused() -> None:
    net = program(record(normal(10, 100)))
    overrides = [Override("w", {"density": "0.1", "threshold": "1"})]
    manager = PassManager(parse_pipeline("prune,encode"))
    with pytest.raises(InvalidArgumentError, match="either density or threshold"):
        manager.run(net, Context(jobs=1, overrides=overrides))


@pytest.mark.parametrize("dtype", DTYPES, ids=str)
def test_a_pruned_weight_survives_encoding(dtype: Any) -> None:
    values = normal(64, 64, dtype=dtype)
    weight = record(values)
    apply([Prune(density=0.1), Encode()], weight)
    assert weight.frame is not None
    assert len(weight.frame) < 0.4 * values.nbytes
