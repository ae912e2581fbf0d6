"""Runs on made-up inputs that a little noise throws over are not counted, and said so; ruin still is seen."""

from __future__ import annotations

from typing import Any

import numpy as np
import onnx
import pytest
from models.graphs import Array, model, node, tensor, weight, x_in, y_out

from dc_compiler.errors import ModelError
from dc_compiler.model import files
from dc_compiler.ort import made_up, quality, stability, verify
from dc_compiler.ort.data import Dataset
from dc_compiler.ort.sessions import Sessions
from dc_compiler.report import verification_lines

W = weight(64, 1)
TIE = 1e-4  # how far from the point between two states an input lies, as a cosine


def two_states(w: Array) -> onnx.ModelProto:
    """One of two opposite outputs, depending on the side of ``w`` on which the input lies."""
    nodes = [
        node("MatMul", ["x", "w"], ["side"]),
        node("Mul", ["side", "steep"], ["far"]),
        node("Tanh", ["far"], ["state"]),
        node("MatMul", ["state", "v"], ["y"]),
    ]
    stored = [tensor("w", w), tensor("steep", np.array(1e9, np.float32)), tensor("v", weight(1, 8, seed=3))]
    return model(nodes, [x_in("batch", 64)], [y_out("batch", 8)], stored)


def clear(seed: int) -> Array:
    """An input on one side for sure."""
    side = 1 if seed % 2 else -1
    return np.asarray(side * W.T + 0.3 * weight(1, 64, seed=seed), np.float32)


def tie(seed: int) -> Array:
    """An input next to the point between both states."""
    x, unit = weight(1, 64, seed=seed).astype(np.float64), W.T / np.linalg.norm(W)
    x -= (x @ unit.T) * unit
    return np.asarray(x + TIE * np.linalg.norm(x) * unit, np.float32)


def flipped(*ties: Array) -> Array:
    """The weight a little changed, so that these inputs come to lie on the other side."""
    result = W.astype(np.float64)
    for x in ties:
        result -= 2 * float((x @ W).item()) / float((x @ x.T).item()) * x.T
    return np.asarray(result, np.float32)


ONE_TIE = [clear(1), clear(2), tie(3), clear(4)]
ALL_TIES = [tie(seed) for seed in range(3, 7)]


def verified(
    compiled: Array, inputs: list[Array], monkeypatch: pytest.MonkeyPatch, *, data: bool = False
) -> verify.Verification:
    original = files.read_model(two_states(W))
    feeds = [{"x": x} for x in inputs]

    def made(session: Any, *_: object) -> made_up.MadeUp:
        return made_up.MadeUp(feeds, [session.run(None, f) for f in feeds])

    monkeypatch.setattr(made_up, "feeds", made)
    given = Dataset(feeds, None) if data else None
    return verify.verify(original, two_states(compiled), given)


def test_a_run_that_noise_throws_over_is_not_counted(monkeypatch: pytest.MonkeyPatch) -> None:
    result = verified(flipped(ONE_TIE[2]), ONE_TIE, monkeypatch)
    assert result.outputs[0].worst_cosine == -1
    left = result.steady["y"]
    assert (left.thrown, left.comparison.worst_cosine) == (1, 1)
    assert quality.catastrophe(result) is None
    (line,) = (line for line in verification_lines(result) if "not counted" in line)
    assert line.startswith(
        "  1 of 4 runs not counted, which noise of 2 % of the weights' standard deviation throws over"
    )


def test_a_model_that_noise_throws_over_everywhere_is_judged_as_it_is(monkeypatch: pytest.MonkeyPatch) -> None:
    result = verified(flipped(*ALL_TIES), ALL_TIES, monkeypatch)
    assert result.steady == {}
    assert "cosine -1.0000" in (quality.catastrophe(result) or "")


def test_ruin_is_seen_on_the_other_runs(monkeypatch: pytest.MonkeyPatch) -> None:
    result = verified(-W, ONE_TIE, monkeypatch)
    assert result.steady["y"].thrown == 1
    assert "cosine -1.0000" in (quality.catastrophe(result) or "")


def test_data_is_judged_as_a_whole(monkeypatch: pytest.MonkeyPatch) -> None:
    result = verified(flipped(ONE_TIE[2]), ONE_TIE, monkeypatch, data=True)
    assert result.steady == {}
    assert "below 0.8" in (quality.catastrophe(result) or "")


def test_thresholds_count_every_run(monkeypatch: pytest.MonkeyPatch) -> None:
    """Who sets a bound means it."""
    result = verified(flipped(ONE_TIE[2]), ONE_TIE, monkeypatch)
    assert quality.missed(result, quality.Thresholds(cosine=0.9)) == ["--min-cosine 0.9: cosine of y is -1"]


def test_noise_goes_into_changed_weights_alone() -> None:
    """What compiling has not changed stays, and the noise is the same for a seed."""
    net = two_states(W)
    made = [
        {t.name: onnx.numpy_helper.to_array(t) for t in noisy.graph.initializer}
        for noisy in stability._noisy(net, {"w"}, 5)
    ]
    assert len(made) == stability.TRIALS
    for tensors in made:
        assert np.array_equal(tensors["v"], weight(1, 8, seed=3))
        assert np.std(tensors["w"] - W) == pytest.approx(0.02 * W.std(), rel=0.3)
    assert not np.array_equal(made[0]["w"], made[1]["w"])
    again = next(stability._noisy(two_states(W), {"w"}, 5))
    assert np.array_equal(onnx.numpy_helper.to_array(again.graph.initializer[0]), made[0]["w"])


def test_a_run_that_fails_ends_in_a_sentence() -> None:
    original = files.read_model(two_states(W))
    with pytest.raises(ModelError, match="x"):
        stability.steady(original, two_states(-W), ["y"], [{"x": np.zeros((1, 3), np.float32)}], Sessions(), 1, 0)
