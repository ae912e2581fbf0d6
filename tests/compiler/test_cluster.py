"""Clustering: k-means against a naive implementation, grids against their error bounds, exactness where promised."""

from __future__ import annotations

from typing import Any

import ml_dtypes
import numpy as np
import pytest
from hypothesis import assume, given, settings
from hypothesis import strategies as st
from small_programs import CONV, DTYPES, MATMUL, Array, apply, bits, normal, record

from dc_compiler import ir
from dc_compiler.pass_manager import Override
from dc_compiler.passes.cluster import Cluster
from dc_compiler.passes.cluster.kmeans import kmeans, nearest
from dc_compiler.passes.prune import Prune

FLOATS = st.floats(-(2.0**100), 2.0**100, width=32)
INITS = ("linear", "density", "forgy")


def lloyd_step(values: Array, centroids: Array) -> Array:
    """One iteration the obvious way: the nearest centroid of each value, the mean of each cluster. float64 [k]."""
    owner = np.abs(values[:, None] - centroids).argmin(1)
    return np.array([values[owner == j].mean() if (owner == j).any() else centroids[j] for j in range(len(centroids))])


def distances(values: Array, codebook: Array) -> Array:
    return np.abs(values.astype(np.float64).reshape(-1, 1) - codebook.astype(np.float64))


@st.composite
def samples(draw: st.DrawFn) -> Array:
    """Ascending float64 values of many shapes of distribution."""
    random = np.random.default_rng(draw(st.integers(0, 2**32)))
    size = draw(st.integers(20, 400))
    kind = draw(st.sampled_from(["normal", "heavy", "steps", "two heaps"]))
    values = {
        "normal": random.standard_normal(size),
        "heavy": random.standard_normal(size) ** 5,
        "steps": random.integers(-6, 6, size) / 4.0,
        "two heaps": random.standard_normal(size) * 0.01 + random.choice([-1.0, 3.0], size),
    }[kind]
    return np.sort(values * draw(st.sampled_from([1e-30, 1.0, 1e20])))


@given(samples(), st.integers(1, 40), st.integers(0, 1000))
@settings(deadline=None, max_examples=150)
def test_kmeans_has_converged(values: Array, count: int, seed: int) -> None:
    start = np.unique(np.random.default_rng(seed).choice(values, count))
    result = kmeans(values, start)
    assert len(result) == len(start)
    assert (np.diff(result) > 0).all()
    bounds = (result[1:] + result[:-1]) / 2
    assume((distances(values, bounds) > 1e-9 * np.abs(values).max()).all())  # halfway, rounding decides
    assert np.allclose(lloyd_step(values, result), result, rtol=1e-9, atol=1e-12 * np.abs(values).max())


def squared_error(values: Array, centroids: Array) -> float:
    return float(np.square(distances(values, centroids).min(1)).sum())


def both_squared_errors(values: Array, count: int) -> tuple[float, float]:
    """Of k-means and of scikit-learn's, which moves empty clusters to the points farthest from their centroids; both
    with a linear start, in units of the largest value's square."""
    from sklearn.cluster import KMeans

    values = values / np.abs(values).max()
    count = min(count, len(np.unique(values)) - 1)
    start = np.linspace(values[0], values[-1], count)
    theirs = KMeans(count, init=start[:, None], n_init=1, tol=0, max_iter=10_000, algorithm="lloyd")
    found = np.sort(theirs.fit(values[:, None]).cluster_centers_[:, 0])
    result = kmeans(values, start)
    assert len(result) == count or squared_error(values, result) < 1e-13  # rounding hides gains
    return squared_error(values, result), squared_error(values, found)


@given(samples(), st.integers(1, 24))
@settings(deadline=None, max_examples=80)
def test_kmeans_is_hardly_ever_worse_than_scikit_learns(values: Array, count: int) -> None:
    """Both end in some local optimum; where few values are as good as equal, one may have found a cluster more."""
    ours, theirs = both_squared_errors(values, count)
    assert ours <= 1.25 * theirs + 0.002 * len(values)


def test_kmeans_is_mostly_better_than_scikit_learns() -> None:
    values = [np.sort(normal(300, dtype=np.float64, seed=seed) ** power) for seed in range(15) for power in (1, 3, 5)]
    ratios = [ours / theirs for v in values for ours, theirs in (both_squared_errors(v, 16),)]
    assert np.exp(np.log(ratios).mean()) < 0.8
    assert np.mean(np.array(ratios) < 1.001) > 0.9


def least_squared_error(values: Array, count: int) -> float:
    """The global optimum by dynamic programming over ranges (Wang & Song 2011)."""
    n = len(values)
    sums, squares = (np.concatenate([[0.0], np.cumsum(v)]) for v in (values, values**2))
    best = np.full(n + 1, np.inf)
    best[0] = 0
    for _ in range(count):
        last = best.copy()
        for end in range(1, n + 1):
            starts = np.arange(end)
            costs = squares[end] - squares[:end] - (sums[end] - sums[:end]) ** 2 / (end - starts)
            best[end] = (last[:end] + np.maximum(costs, 0)).min()
        best[0] = np.inf
    return float(best[n])


@pytest.mark.parametrize("power", [1, 3, 5])
@pytest.mark.parametrize("count", [4, 12, 31])
def test_kmeans_is_near_the_optimum_from_a_linear_start(power: int, count: int) -> None:
    """Of heavy tails most of a linear start is empty: without relocation the error is up to a thousand times larger."""
    values = np.sort(normal(300, dtype=np.float64) ** power)
    result = kmeans(values, np.linspace(values[0], values[-1], count))
    assert len(result) == count
    assert squared_error(values, result) <= 1.4 * least_squared_error(values, count)


def test_fewer_distinct_values_than_clusters() -> None:
    values = np.sort(np.random.default_rng(0).choice([-3.0, 0.5, 0.6, 40.0], 500))
    assert np.allclose(kmeans(values, np.linspace(-3, 40, 16)), [-3, 0.5, 0.6, 40], rtol=1e-12)


@pytest.mark.parametrize("init", INITS)
def test_all_entries_of_a_codebook_are_used(init: Any) -> None:
    weight = record(normal(200, 100) ** 5)
    apply([Prune(density=0.2), Cluster(mode="kmeans", bits=5, init=init)], weight)
    assert weight.clustered is not None
    assert weight.clustered.size == 32


@pytest.mark.parametrize("dtype", DTYPES, ids=str)
@pytest.mark.parametrize("init", INITS)
@pytest.mark.parametrize("width", [1, 3, 6])
def test_kmeans_codebook(dtype: Any, init: Any, width: int) -> None:
    values = normal(60, 50, dtype=dtype)
    weight = record(values)
    apply(Cluster(mode="kmeans", bits=width, init=init), weight)
    done = weight.clustered
    assert done is not None
    assert done.codebook is not None
    assert done.size == len(done.codebook) <= 1 << width
    assert (np.diff(done.codebook.astype(np.float64)) > 0).all()
    chosen = distances(values, done.codebook)[np.arange(values.size), done.indices]
    assert np.array_equal(chosen, distances(values, done.codebook).min(1))
    assert len(np.unique(done.indices)) == done.size, "entries that nothing uses are dropped"


@pytest.mark.parametrize("dtype", DTYPES, ids=str)
@pytest.mark.parametrize("init", INITS)
@pytest.mark.parametrize("width", [1, 4])
def test_pruned_weights_stay_zero(dtype: Any, init: Any, width: int) -> None:
    """The pruned zero is one of the 2**bits entries, and no entry is -0.0."""
    weight = record(normal(60, 50, dtype=dtype))
    apply(Prune(density=0.3), weight)
    assert weight.mask is not None
    mask = weight.mask.copy()
    apply(Cluster(mode="kmeans", bits=width, init=init), weight)
    done = weight.clustered
    assert done is not None
    assert done.codebook is not None
    assert done.size <= 1 << width
    assert done.zero is not None
    assert bits(done.codebook)[done.zero] == 0
    assert (bits(weight.values)[~mask] == 0).all()
    assert np.count_nonzero(weight.values) > 0


@pytest.mark.parametrize("dtype", DTYPES, ids=str)
def test_pruned_weights_stay_zero_on_a_grid(dtype: Any) -> None:
    """Balancing the errors of a channel never moves a zero."""
    values = normal(30, 400, dtype=dtype) + np.array(3, dtype)
    weight = record(values, use=CONV)
    apply([Prune(density=0.5), Cluster(mode="grid", step=1.5)], weight)
    assert weight.mask is not None
    assert weight.clustered is not None
    assert weight.clustered.codebook is None or dtype == ml_dtypes.bfloat16, "few bfloat16 numbers: exact"
    assert (bits(weight.values)[~weight.mask] == 0).all()


def test_inits_differ_and_the_seed_matters() -> None:
    def codebook(init: Any, seed: int) -> bytes:
        weight = record(normal(100, 100) ** 3)
        apply(Cluster(mode="kmeans", bits=4, init=init), weight, seed=seed)
        assert weight.clustered is not None
        assert weight.clustered.codebook is not None
        return weight.clustered.codebook.tobytes()

    assert len({codebook(init, 0) for init in INITS}) == 3
    assert codebook("linear", 0) == codebook("linear", 1)
    assert codebook("forgy", 0) == codebook("forgy", 0)
    assert codebook("forgy", 0) != codebook("forgy", 1)


def test_default_bits_are_the_papers() -> None:
    convolution, dense = record(normal(60, 50), "a", CONV), record(normal(60, 50), "b", MATMUL)
    apply(Cluster(mode="kmeans"), convolution, dense)
    assert convolution.clustered is not None
    assert dense.clustered is not None
    assert 200 < convolution.clustered.size <= 256
    assert 25 < dense.clustered.size <= 32


def test_sixteen_bits() -> None:
    """The largest codebook: its indices fill 16 bits."""
    weight = record(normal(400, 400))
    apply(Cluster(mode="kmeans", bits=16, init="density"), weight)
    assert weight.clustered is not None
    assert 60_000 < weight.clustered.size <= 65_536
    assert weight.clustered.indices.max() == weight.clustered.size - 1


@pytest.mark.parametrize("dtype", DTYPES, ids=str)
@pytest.mark.parametrize("options", [{"mode": "grid"}, {"mode": "kmeans", "bits": 3}, {"mode": "kmeans", "bits": 8}])
def test_few_distinct_values_are_kept_bit_for_bit(dtype: Any, options: dict[str, Any]) -> None:
    """Ternary weights, say: both zeros and a subnormal among them."""
    tiny = ml_dtypes.finfo(dtype).smallest_subnormal  # type: ignore[no-untyped-call]
    choices = np.array([-1, -0.0, 0.0, float(tiny), 0.3, 7, 8, 100]).astype(dtype)
    values = np.random.default_rng(0).choice(choices, (40, 30))
    weight = record(values.copy())
    apply(Cluster(**options), weight)
    assert weight.clustered is not None
    assert weight.clustered.size == 8
    assert np.array_equal(bits(weight.values), bits(values))
    assert weight.noise == 0


@pytest.mark.parametrize("dtype", DTYPES, ids=str)
def test_channel_scales_follow_the_channels(dtype: Any) -> None:
    """Channels of very different size share one codebook with small relative error in each."""
    gains = (10.0 ** np.arange(-2, 2)).astype(np.float64)
    values = (normal(4, 900).astype(np.float64) * gains[:, None]).astype(dtype)
    scaled, plain = record(values.copy(), use=CONV), record(values.copy(), use=CONV)
    apply(Cluster(mode="kmeans", bits=5, scales="channel"), scaled)
    apply(Cluster(mode="kmeans", bits=5), plain)
    assert scaled.clustered is not None
    assert scaled.clustered.scales is not None
    assert (scaled.clustered.scales.channels, scaled.clustered.scales.inner) == (4, 900)

    def relative_noise(result: Array) -> Array:
        error = (result.astype(np.float64) - values.astype(np.float64)) ** 2
        return np.asarray(error.mean(1) / (values.astype(np.float64) ** 2).mean(1))

    assert (relative_noise(scaled.values) < 0.01).all()
    assert relative_noise(plain.values)[0] > 0.5


@pytest.mark.parametrize(
    ("use", "shape", "layout"),
    [
        (ir.Use("Conv", 1), (6, 5, 3, 3), (6, 45)),
        (ir.Use("ConvTranspose", 1), (6, 5, 3, 3), (5, 9)),
        (ir.Use("Gemm", 1), (6, 5), (5, 1)),
        (ir.Use("Gemm", 1, transposed=True), (6, 5), (6, 5)),
        (ir.Use("MatMul", 1), (2, 6, 5), (5, 1)),
        (ir.Use("MatMul", 0), (6, 5), (6, 5)),
        (ir.Use("Gather", 0), (6, 5), (6, 5)),
        (ir.Use("LSTM", 1), (2, 8, 3), (16, 3)),
        (ir.Use("Unheard", 3), (6, 5, 2), (6, 10)),
        (ir.Use("Conv", 1), (6,), (1, 6)),
    ],
    ids=str,
)
def test_channel_layout(use: ir.Use, shape: tuple[int, ...], layout: tuple[int, int]) -> None:
    assert ir.channel_layout(shape, [use]) == layout


@st.composite
def grid_weights(draw: st.DrawFn) -> tuple[ir.WeightRecord, Array]:
    """A weight of any float type and magnitude, with channels of zeros and of equal values; and a copy of it."""
    dtype = draw(st.sampled_from(DTYPES))
    use = draw(st.sampled_from([CONV, MATMUL]))
    random = np.random.default_rng(draw(st.integers(0, 2**32)))
    shape = draw(st.integers(2, 12)), draw(st.integers(30, 90))
    exponent = draw(st.integers(-4, 3) if dtype == np.float16 else st.integers(-25, 25))
    values = random.standard_normal(shape) ** draw(st.sampled_from([1, 3])) * 10.0**exponent
    values[0] *= draw(st.sampled_from([0.0, 1e-3, 1.0]))
    values[1] = draw(st.sampled_from([values[1], np.full(shape[1], values[1, 0])]))
    if dtype == np.float16:
        values = values.clip(-8000, 8000)
    result = values.astype(dtype)
    return record(result.copy(), use=use), result


@given(grid_weights(), st.sampled_from([0.02, 0.08, 0.3, 2.0]))
@settings(deadline=None, max_examples=200)
def test_grid_error_bounds(weight_and_original: tuple[ir.WeightRecord, Array], step: float) -> None:
    """Every element within one step of its weight, and the errors of a channel sum to within half a step."""
    weight, original = weight_and_original
    apply(Cluster(mode="grid", step=step), weight)
    done = weight.clustered
    assert done is not None
    if done.codebook is not None:  # few distinct values: exact
        assert np.array_equal(bits(weight.values), bits(original))
        return
    assert done.scales is not None
    scales = ir.log_step_values(done.scales.log_steps)
    assert (scales > 0).all()
    channel = (np.arange(original.size) // done.scales.inner) % done.scales.channels
    points = done.indices.astype(np.float64) + done.grid_lo
    errors = original.reshape(-1).astype(np.float64) / scales[channel] - points
    assert np.abs(errors).max() <= 1 + 1e-9
    sums = np.bincount(channel, errors, done.scales.channels)
    assert np.abs(sums).max() <= 0.5 + original.size * 2.0**-20
    if done.zero is not None:
        assert done.zero + done.grid_lo == 0
    assert np.isfinite(weight.values.astype(np.float64)).all()


def test_grid_step_follows_the_deviation() -> None:
    """A step of s deviations leaves relative noise s**2 / 12."""
    weight = record(normal(200, 300), use=CONV)
    apply(Cluster(mode="grid", step=0.08), weight)
    assert weight.signal is not None
    assert weight.noise / weight.signal == pytest.approx(0.08**2 / 12, rel=0.1)


@pytest.mark.parametrize("scale", [1e-310, 1e-60, 1e-39, 1e35, 1e60, 1e300])
def test_magnitudes_that_scales_cannot_express(scale: float) -> None:
    """Scales reach from 2**-126 to 2**127 (FORMAT.md 3): weights beyond are left alone, not wrecked."""
    values = (normal(40, 50, dtype=np.float64) * scale).astype(np.float32 if 1e-40 < scale < 1e38 else np.float64)
    weight = record(values.copy())
    apply(Cluster(mode="grid"), weight)
    assert weight.reason == "its values are too large or too small for a grid"
    assert np.array_equal(bits(weight.values), bits(values))


def test_a_feeble_channel_beside_a_strong_one() -> None:
    """Channels 2**32 times weaker than the strongest share the smallest scale that the format can express."""
    values = normal(2, 500, dtype=np.float64)
    values[1] *= 1e-15
    weight = record(values.copy(), use=CONV)
    apply(Cluster(mode="grid"), weight)
    assert weight.clustered is not None
    assert weight.clustered.scales is not None
    assert np.ptp(weight.clustered.scales.log_steps) == 255
    assert np.abs(weight.values[1]).max() < 1e-10


def test_overrides_choose_the_mode() -> None:
    first, second = record(normal(60, 50), "a"), record(normal(60, 50), "b")
    apply(Cluster(mode="grid"), first, second, overrides=[Override("b", {"mode": "kmeans", "bits": "2"})])
    assert first.clustered is not None
    assert first.clustered.codebook is None
    assert second.clustered is not None
    assert second.clustered.size == 4


@given(st.lists(FLOATS, min_size=1, max_size=50), st.lists(FLOATS, min_size=1, max_size=50))
@settings(deadline=None)
def test_nearest_is_nearest(values: list[float], entries: list[float]) -> None:
    """Also at ties, where the lower entry is taken."""
    flat, codebook = np.array(values, np.float32), np.unique(np.array(entries, np.float32))
    expected = distances(flat, codebook)
    assert np.array_equal(expected[np.arange(len(flat)), nearest(flat, codebook)], expected.min(1))


@given(st.lists(st.floats(2.0**-120, 2.0**120), min_size=1, max_size=20))
def test_nearest_log_step(values: list[float]) -> None:
    """The step nearest on a logarithmic scale, give or take what lies at the border."""
    steps = ir.nearest_log_step(np.array(values))
    assert np.abs(np.log2(values) * 8 - steps).max() <= 0.5001


def test_rd_of_a_weight_that_lost_everything() -> None:
    """Pruning all weights together may leave nothing of one: its only entry is zero."""
    lost, large = record(normal(8, 8) * np.float32(1e-3), "lost"), record(normal(8, 8), "large")
    apply([Prune(density=0.25, scope="global"), Cluster(mode="rd", bits=4)], lost, large)
    assert lost.clustered is not None
    assert lost.clustered.size == 1
    assert not lost.values.any()
    assert np.count_nonzero(large.values) > 0
