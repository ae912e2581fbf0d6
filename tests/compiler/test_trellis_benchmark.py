"""benchmarks/trellis.py: the search against trying everything, the code against counting, and what is printed."""

from __future__ import annotations

import itertools
import math
import sys
from pathlib import Path

import numpy as np
import onnx
import pytest
import trellis
from models.graphs import sample
from onnx import TensorProto, helper, numpy_helper

Array = np.ndarray
MOST = 3  # largest index that is tried


def value(index: int, grid: int) -> int:
    """Multiple of the step, as the papers have it."""
    return 2 * index if grid == 0 else 2 * index - int(np.sign(index))


@pytest.mark.parametrize("machine", [trellis.FOUR, trellis.EIGHT], ids=lambda m: m.name)
@pytest.mark.parametrize("price", [0.0, 0.1])
def test_the_search_finds_the_best(machine: trellis.Machine, price: float) -> None:
    exact = 1.5 * sample(5, 3)  # five elements, three lanes
    slopes = price * np.array([1, 2, 3])[:, None, None] * np.array([1, 1.5])[:, None]  # for each lane and grid
    costs = slopes * np.abs(np.arange(-MOST, MOST + 1))
    start = np.array([0, 1, len(machine.grids) - 1])
    indices, grids, last = trellis.searched(exact, np.ones((1, 1)), costs, machine, start)
    for lane, state in enumerate(start):
        best = math.inf
        for tried in itertools.product(range(-MOST, MOST + 1), repeat=len(exact)):
            best = min(best, _cost(tried, exact[:, lane], costs[lane], machine, int(state))[0])
        found, walked, end = _cost(tuple(indices[:, lane]), exact[:, lane], costs[lane], machine, int(state))
        assert list(grids[:, lane]) == walked
        assert last[lane] == end
        assert found == pytest.approx(best)


def _cost(
    indices: tuple[int, ...], exact: Array, costs: Array, machine: trellis.Machine, state: int
) -> tuple[float, list[int], int]:
    total, grids = 0.0, []
    for index, wanted in zip(indices, exact, strict=True):
        grid = int(machine.grids[state])
        total += (float(wanted) - value(index, grid)) ** 2 + costs[grid, index + MOST]
        grids.append(grid)
        state = int(machine.following[state, index & 1])
    return total, grids, state


def test_the_code_counts_as_it_goes() -> None:
    indices = np.array([0, 1, 0, 0, 2, 1, 0, 0])
    contexts = np.array([0, 0, 1, 0, 1, 1, 0, 0])
    bits, seen = 0.0, np.full((2, 3), 0.5)
    for index, context in zip(indices, contexts, strict=True):
        bits -= math.log2(seen[context, index] / seen[context].sum())
        seen[context, index] += 1
    assert trellis.code_bits(indices, contexts) == pytest.approx(bits)


def test_errors_are_those_of_the_outputs() -> None:
    """Without a price and with independent inputs, compensated rounding to the grid is rounding."""
    values, inputs = sample(16, 12).astype(np.float64), sample(500, 12, seed=1).astype(np.float64)
    gram = inputs.T @ inputs / len(inputs)
    for machine in (trellis.PLAIN, trellis.EIGHT):
        for matrix in (gram, np.eye(12)):
            layer = trellis.Layer("w", [values], [np.ones_like(values)], [matrix])
            indices, grids, errors = trellis._rounded(
                values, layer.steps[0], matrix, machine, np.array([0.5, 1.0]), np.zeros((2, 2, 41))
            )
            for lane, step in enumerate((0.5, 1.0)):
                left = values - step * trellis.points(indices[..., lane], grids[..., lane], machine)
                assert errors[lane] == pytest.approx(np.einsum("ok,kl,ol", left, matrix, left))
                if machine is trellis.PLAIN and matrix is not gram:
                    np.testing.assert_array_equal(indices[..., lane], np.rint(values / step))


def test_a_table(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> None:
    weights = {"a": sample(64, 96), "b": sample(96, 64, seed=1)}
    nodes = [helper.make_node("MatMul", ["x", "a"], ["h"]), helper.make_node("MatMul", ["h", "b"], ["y"])]
    x, y = (helper.make_tensor_value_info(name, TensorProto.FLOAT, ["n", 64]) for name in "xy")
    graph = helper.make_graph(nodes, "net", [x], [y], [numpy_helper.from_array(w, n) for n, w in weights.items()])
    onnx.save(
        helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)], ir_version=8), tmp_path / "net.onnx"
    )
    np.savez(tmp_path / "x.npz", x=sample(64, 64, seed=2))
    monkeypatch.setattr(trellis, "STEPS", (0.25, 0.5, 1.0, 1.4, 1.7))
    monkeypatch.chdir(tmp_path)
    for data, names in (([], ["4", "states", "8", "states"]), (["--data", "x.npz"], ["8", "states"])):
        monkeypatch.setattr(sys, "argv", ["trellis.py", "net.onnx", *data])
        trellis.main()
        title, columns, *rows = capsys.readouterr().out.splitlines()
        assert title == "net: 2 weights of 12,288 elements"
        assert columns.split()[: 3 + len(names)] == ["step", "bits", "rounded", *names]
        figures = np.array([[float(word) for word in row.replace("%", "").split()] for row in rows])
        assert list(figures[:, 0]) == [0.5, 1.0]
        assert (figures[:, 1] > 1.5).all()
        assert (figures[:, 2] > -0.1).all()  # what is only rounded takes no less
        assert (figures[:, 2 + len(names) // 2] < -3).all()  # and 8 states take less
