"""What trellis-coded grids would save: bits at equal error, against the grid with rate-distortion choice that dcc has.

    python benchmarks/trellis.py model.onnx [model.onnx ...] [--data inputs.npz [inputs.npz ...]]

Dependent quantization as in VVC (Schwarz et al., IEEE TCSVT 31(10), 2021, section II) and NNCodec: even multiples of a
step and odd ones with zero are two grids, and a machine of 4 or 8 states, which the parity of each index moves, says
which of them the next weight is on. A Viterbi search finds the indices of least squared error plus price of bits.

Bits are those of an ideal adaptive code of each weight: Krichevsky and Trofimov's, with statistics of its own for each
of the two grids; with contexts, also for how many of the elements to the left and above are zero or one. Each line is a
step of the grid with rate-distortion choice, and says how much more or less the others take for the error that every
weight has there: squared errors, or with --data those of the layer's outputs on these inputs, rounded so that errors
make up for each other (passes/cluster/compensate.py); a trellis then runs down each column.
"""

from __future__ import annotations

import argparse
import math
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from dc_compiler import ir
from dc_compiler.calibration.grams import collect
from dc_compiler.model import files, importer
from dc_compiler.ort.samples import Samples
from dc_compiler.pass_manager import Context
from dc_compiler.passes.cluster.cluster import SIZE_EXPONENT
from dc_compiler.passes.cluster.compensate import DAMPING
from dc_compiler.passes.cluster.grid import channel_statistics, fits_a_grid
from dc_compiler.pipeline.manager import run_passes
from dc_compiler.recipe import DEFAULT_MIN_SIZE, parse_pipeline

Array = np.ndarray
STEPS = (0.25, 0.35, 0.5, 0.6, 0.7, 0.85, 1.0, 1.2, 1.4, 1.7)  # of the grid; the first and the last two only bracket
FINER = 1.7  # so many times is a trellis' step smaller at equal error
# Prices of a bit in squared steps: of the grid, where the one that errors are taken from is first, and of a trellis
GRID_PRICES, TRELLIS_PRICES = (0.035, 0.0, 0.07, 0.12), (0.1, 0.2, 0.36)
REFITS = 3  # how often the code is taken from what was chosen before
SEQUENCE = 256  # elements of a weight that a trellis runs over, where it need not run down columns


@dataclass(frozen=True)
class Machine:
    """``following[s, p]`` is the state after an index of parity p in state s, ``grids[s]`` the grid that s is on; of a
    single state: the plain grid. ``edges[s]`` are the two that lead to a state, numbered 2 * state + parity."""

    name: str
    following: Array
    grids: Array

    @property
    def edges(self) -> Array:
        return np.argsort(self.following.reshape(-1), kind="stable").reshape(-1, 2)

    @property
    def is_plain(self) -> bool:
        return len(self.grids) == 1


PLAIN = Machine("grid", np.array([[0, 0]]), np.array([0]))
FOUR = Machine("4 states", np.array([[0, 2], [2, 0], [1, 3], [3, 1]]), np.array([0, 0, 1, 1]))
EIGHT = Machine(
    "8 states", np.array([[0, 2], [7, 5], [1, 3], [6, 4], [2, 0], [5, 7], [3, 1], [4, 6]]), np.array([0, 1] * 4)
)


@dataclass(frozen=True)
class Layer:
    """A weight as matrices, values and steps [o, k] of each; ``gram`` [k, k] is None where its inputs do not count."""

    name: str
    values: list[Array]
    steps: list[Array]
    grams: list[Array | None]

    @property
    def size(self) -> int:
        return sum(v.size for v in self.values)


@dataclass(frozen=True)
class Coded:
    """What a setting makes of a layer: bits by the codes without and with contexts, and the error."""

    bits: float
    context_bits: float
    error: float


def points(indices: Array, grids: Array, machine: Machine) -> Array:
    """Multiples of the step that indices stand for."""
    return indices if machine.is_plain else 2 * indices - grids * np.sign(indices)


def cheapest(exact: Array, weight: Array, costs: Array, machine: Machine) -> tuple[Array, Array]:
    """The best index of each parity on each grid, and its cost; [t, lanes, grids, 2] of exact multiples [t, lanes].

    Args:
        weight: of the squared error, broadcast to [t, lanes].
        costs: of indices on each grid, [lanes, grids, 2 m + 1], that of zero in the middle.
    """
    grids = np.arange(costs.shape[1])
    size = np.abs(exact)[..., None, None]
    unit = 1 if machine.is_plain else 2
    below = np.floor((size + grids[:, None] * (unit - 1)) / unit)
    tried = np.concatenate([np.maximum(below - 1, 0), below, below + 1, np.zeros_like(below)], -1).astype(np.int64)
    middle = costs.shape[2] // 2
    tried = np.minimum(tried, middle) * np.where(exact < 0, -1, 1)[..., None, None]
    error = exact[..., None, None] - points(tried, grids[:, None], machine)
    lanes = np.arange(costs.shape[0])[:, None, None]
    total = weight[..., None, None] * error**2 + costs[lanes, grids[:, None], tried + middle]
    parity = tried & 1 if not machine.is_plain else np.zeros_like(tried)
    each = np.where(parity[..., None, :] == np.arange(2)[:, None], total[..., None, :], np.inf)
    best = each.argmin(-1)
    return np.take_along_axis(tried, best, -1), each.min(-1)


def searched(exact: Array, weight: Array, costs: Array, machine: Machine, state: Array) -> tuple[Array, Array, Array]:
    """Indices of least cost [t, lanes], the grids they are on, and the last states [lanes], from these states on."""
    indices, cost = cheapest(exact, weight, costs, machine)
    if machine.is_plain:
        return indices[..., 0, 0], np.zeros(exact.shape, np.int64), state
    edges = machine.edges
    lanes, states = np.arange(exact.shape[1]), len(machine.grids)
    total = np.full((len(lanes), states), np.inf)
    total[lanes, state] = 0
    picks = np.empty((len(exact), len(lanes), states), np.int8)
    for t, now in enumerate(cost):
        each = (total[:, :, None] + now[:, machine.grids]).reshape(len(lanes), -1)
        one, other = each[:, edges[:, 0]], each[:, edges[:, 1]]
        picks[t] = other < one
        total = np.minimum(one, other)
        total -= total.min(1, keepdims=True)
    last = state = total.argmin(1)
    found, grids = np.empty(exact.shape, np.int64), np.empty(exact.shape, np.int64)
    for t in range(len(exact) - 1, -1, -1):
        edge = edges[state, picks[t, lanes, state]]
        state = edge >> 1
        grids[t] = machine.grids[state]
        found[t] = indices[t, lanes, grids[t], edge & 1]
    return found, grids, last


def code_bits(indices: Array, contexts: Array) -> float:
    """Bits of Krichevsky and Trofimov's code with statistics of its own for each context; all of one shape."""
    low, count = int(indices.min()), int(np.ptp(indices)) + 1
    seen = np.bincount(contexts.reshape(-1) * count + indices.reshape(-1) - low)
    seen = np.pad(seen, (0, -len(seen) % count)).reshape(-1, count)
    bits = 0.0
    for row in seen[seen.sum(1) > 0]:
        bits += math.lgamma(row.sum() + count / 2) - math.lgamma(count / 2)
        bits -= sum(math.lgamma(c + 0.5) - math.lgamma(0.5) for c in row if c)
    return bits / math.log(2)


def around(indices: Array) -> Array:
    """0 to 8 for [o, k]: whether the elements to the left and above are 0, 1 or more."""
    size = np.minimum(np.abs(indices), 2)
    left, above = np.zeros_like(size), np.zeros_like(size)
    left[:, 1:], above[1:] = size[:, :-1], size[:-1]
    return np.asarray(3 * left + above)


def ideal_costs(indices: Array, grids: Array, machine: Machine, middle: int) -> Array:
    """Bits of each index on each grid, from how often it was taken, [grids, 2 m + 1]."""
    count, width = 1 if machine.is_plain else 2, 2 * middle + 1
    seen = np.bincount((grids * width + indices + middle).reshape(-1), minlength=count * width).reshape(count, width)
    totals = seen.sum(1, keepdims=True)
    return np.asarray(np.log2(totals + width / 2) - np.log2(seen + 0.5))


def first_costs(mean: float, machine: Machine, middle: int) -> Array:
    """Bits of each index where they fall off exponentially from zero, given the mean magnitude in steps."""
    mean = mean / (1 if machine.is_plain else 2) + 0.3
    costs = np.abs(np.arange(-middle, middle + 1)) / (mean * math.log(2)) + math.log2(2 * mean + 1)
    return np.tile(costs, (1 if machine.is_plain else 2, 1))


def coded(layer: Layer, machine: Machine, settings: Sequence[tuple[float, float]]) -> list[Coded]:
    """What a machine makes of a layer for every step and price of a bit, in squared steps."""
    steps, prices = np.array(settings).T
    steps = steps if machine.is_plain else steps / FINER
    largest = max(float(np.abs(v / s).max()) for v, s in zip(layer.values, layer.steps, strict=True))
    middle = int(largest / min(steps)) + 8  # errors that are passed on make values larger
    costs = np.stack([first_costs(_mean_magnitude(layer) / step, machine, middle) for step in steps])
    for _ in range(REFITS if prices.any() else 1):
        found = [
            _rounded(values, sizes, gram, machine, steps, prices[:, None, None] * costs)
            for values, sizes, gram in zip(layer.values, layer.steps, layer.grams, strict=True)
        ]
        lanes = [[(i[..., lane], g[..., lane]) for i, g, _ in found] for lane in range(len(steps))]
        flat = [
            [np.concatenate([part.reshape(-1) for part in parts]) for parts in zip(*lane, strict=True)]
            for lane in lanes
        ]
        costs = np.stack([ideal_costs(i, g, machine, middle) for i, g in flat])
    result = []
    for number, (lane, (indices, grids)) in enumerate(zip(lanes, flat, strict=True)):
        near = np.concatenate([around(i).reshape(-1) for i, _ in lane])
        bits = code_bits(indices, grids)
        context_bits = min(bits, code_bits(indices, 9 * grids + near))
        result.append(Coded(bits, context_bits, sum(float(e[number]) for *_, e in found)))
    return result


def _mean_magnitude(layer: Layer) -> float:
    total = sum(float(np.abs(v / s).sum()) for v, s in zip(layer.values, layer.steps, strict=True))
    return total / layer.size


def _rounded(
    values: Array, sizes: Array, gram: Array | None, machine: Machine, steps: Array, costs: Array
) -> tuple[Array, Array, Array]:
    """Indices and grids of a matrix, [o, k, lanes] with a lane for each step, and the errors [lanes]."""
    if gram is None:
        return _plainly(values / sizes, machine, steps, costs)
    order, upper = inverse_factor(gram)
    rest = np.repeat(values[:, order, None], len(steps), 2)
    size = sizes[:, order, None] * steps
    weight = 1 / np.diagonal(upper) ** 2
    weight /= weight.mean()
    indices, grids = np.empty(rest.shape, np.int64), np.empty(rest.shape, np.int64)
    state = np.zeros(len(steps), np.int64)
    left = np.empty(rest.shape)
    for j in range(len(order)):
        exact = rest[:, j] / size[:, j]
        indices[:, j], grids[:, j], state = searched(exact, np.full((1, 1), weight[j]), costs, machine, state)
        error = rest[:, j] - points(indices[:, j], grids[:, j], machine) * size[:, j]
        left[:, j] = error + values[:, order[j], None] - rest[:, j]
        rest[:, j + 1 :] -= error[:, None] * (upper[j, j + 1 :] / upper[j, j])[:, None]
    moved = np.tensordot(gram[np.ix_(order, order)], left, (1, 1))  # [k, o, lanes]
    errors = np.einsum("kol,okl->l", moved, left)
    back = np.argsort(order)
    return indices[:, back], grids[:, back], errors


def inverse_factor(gram: Array) -> tuple[Array, Array]:
    """Inputs by falling power [k], and the upper factor of the inverse of the damped Gram matrix in this order."""
    order = np.argsort(-np.diagonal(gram), kind="stable")
    damped = gram[np.ix_(order, order)] + np.eye(len(gram)) * (DAMPING * np.diagonal(gram).mean() or 1.0)
    return order, np.linalg.inv(np.linalg.cholesky(damped[::-1, ::-1]))[::-1, ::-1]


def _plainly(values: Array, machine: Machine, steps: Array, costs: Array) -> tuple[Array, Array, Array]:
    flat = values.reshape(-1)
    found = []
    for step, cost in zip(steps, costs, strict=True):
        count = -(-flat.size // SEQUENCE)
        exact = np.pad(flat, (0, count * SEQUENCE - flat.size)).reshape(count, SEQUENCE).T / step
        lanes = np.broadcast_to(cost, (count, *cost.shape))
        one = searched(exact, np.ones((1, 1)), lanes, machine, np.zeros(count, np.int64))[:2]
        indices, grids = (part.T.reshape(-1)[: flat.size] for part in one)
        error = float(np.square(flat - points(indices, grids, machine) * step).sum())
        found.append((indices.reshape(values.shape), grids.reshape(values.shape), error))
    indices, grids, errors = (np.stack(part, -1) for part in zip(*found, strict=True))
    return indices, grids, errors


def layers(path: Path, data: Path | None) -> list[Layer]:
    """The weights of a model that dcc would round; with data those whose inputs are known."""
    source = files.read_model(path)
    program = importer.build_program(source, min_size=DEFAULT_MIN_SIZE)
    run_passes(parse_pipeline("canonicalize"), program, Context())
    records = [r for r in program.weights() if r.size >= DEFAULT_MIN_SIZE and fits_a_grid(r.values)]
    grams = {}
    if data is not None:
        samples = Samples(data, None, source, trains=True, seed=0, threads=1)
        grams = collect(program, samples, names={r.name for r in records})
    sizes = np.array([r.size for r in records])
    typical = math.exp(float(np.average(np.log(sizes), weights=sizes)))
    result = []
    for record in records:
        channels, inner = ir.channel_layout(record.shape, record.uses)
        deviation, _ = channel_statistics(record.values.reshape(-1), channels, inner)
        size = np.where(deviation > 0, deviation, 1) * (record.size / typical) ** SIZE_EXPONENT
        steps = np.broadcast_to(size[:, None], (record.size // (channels * inner), channels, inner))
        steps = steps.reshape(record.shape)
        layer = Layer(record.name, [], [], [])
        for gram in grams.get(record.name, ()):
            values, scale = (gram.place.apply(part).astype(np.float64) for part in (record.values, steps))
            for i, matrix in enumerate(values):
                layer.values.append(matrix)
                layer.steps.append(np.broadcast_to(scale, values.shape)[i])
                layer.grams.append(gram.matrices[min(i, len(gram.matrices) - 1)].astype(np.float64))
        if data is None:
            rows = record.shape[0]
            layer.values.append(record.values.reshape(rows, -1).astype(np.float64))
            layer.steps.append(steps.reshape(rows, -1))
            layer.grams.append(None)
        if layer.values:
            result.append(layer)
    return result


Curves = dict[float, list[list[Coded]]]  # by price: of each layer, at every step


def curves(found: Sequence[Layer], machine: Machine) -> Curves:
    """What a machine makes of all layers, at every price and step."""
    prices = GRID_PRICES if machine.is_plain else TRELLIS_PRICES
    each = [coded(layer, machine, [(step, price) for price in prices for step in STEPS]) for layer in found]
    count = len(STEPS)
    return {price: [of[i * count : (i + 1) * count] for of in each] for i, price in enumerate(prices)}


def bits_at(errors: Sequence[float], of: Sequence[Sequence[Coded]], *, contexts: bool) -> float:
    """Bits of all layers where each has this error, between two steps on a line over the error's logarithm; NaN beyond
    the steps."""
    total = 0.0
    for error, curve in zip(errors, of, strict=True):
        known = sorted((math.log(c.error), c.context_bits if contexts else c.bits) for c in curve if c.error > 0)
        logs, bits = np.array(known).T
        total += float(np.interp(math.log(error), logs, bits, left=np.nan, right=np.nan))
    return total


def lines(found: Sequence[Layer]) -> Iterator[str]:
    """The table of a model."""
    grid = curves(found, PLAIN)
    machines = (FOUR, EIGHT) if found[0].grams[0] is None else (EIGHT,)
    others = {machine.name: curves(found, machine) for machine in machines}
    size = sum(layer.size for layer in found)
    columns = {"rounded": {0.0: grid[0.0]}, **others}
    yield f"{'step':>6} {'bits':>6} " + " ".join(f"{name:>12}" for name in [*columns, *(f"{n}, c." for n in columns)])
    for number in range(1, len(STEPS) - 2):
        errors = [curve[number].error for curve in grid[GRID_PRICES[0]]]
        cells = []
        for contexts in (False, True):

            def least(of: Curves, contexts: bool = contexts, errors: Sequence[float] = errors) -> float:
                return float(np.nanmin([bits_at(errors, part, contexts=contexts) for part in of.values()]))

            base = least(grid)
            cells += [100 * (least(of) / base - 1) for of in columns.values()]
        yield f"{STEPS[number]:6.2f} {least(grid) / size:6.3f} " + " ".join(f"{cell:+10.1f} %" for cell in cells)


def main() -> None:
    """Print a table for each model."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("models", nargs="+", type=Path)
    parser.add_argument("--data", nargs="+", type=Path, help="a file a model, arrays named as the inputs")
    arguments = parser.parse_args()
    data = arguments.data or [None] * len(arguments.models)
    if len(data) != len(arguments.models):
        parser.error("give a file of --data for each model")
    for model, inputs in zip(arguments.models, data, strict=True):
        found = layers(model, inputs)
        print(f"{model.stem}: {len(found)} weights of {sum(layer.size for layer in found):,} elements")
        for line in lines(found):
            print(line, flush=True)


if __name__ == "__main__":
    main()
