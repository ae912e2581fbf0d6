"""Presets that find out their settings: they never hand out a worse model, and say what they did."""

from __future__ import annotations

import functools
import itertools
import math
import re
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import pytest
from interruption import stopping_at
from numpy.typing import NDArray
from small_models import perceptron, program

from dc_compiler import CompileResult, compile_model
from dc_compiler.calibration.goals import MARGIN
from dc_compiler.model import packed
from dc_compiler.training import effort, limits, presets

Array = NDArray[Any]


@functools.cache
def samples() -> tuple[dict[str, Array], dict[str, Array]]:
    """Points around three centres, of which a tenth have another label: a half to train the original on, a half that it
    has not seen."""
    random = np.random.default_rng(5)
    centres = random.standard_normal((3, 16))
    true = random.integers(0, 3, 2400)
    x = (centres[true] + random.standard_normal((2400, 16))).astype(np.float32)
    labels = np.where(random.random(2400) < 0.1, random.integers(0, 3, 2400), true)
    first, second = ({"x": x[h], "labels": labels[h]} for h in (slice(0, 1200), slice(1200, None)))
    return first, second


@functools.cache
def original() -> onnx.ModelProto:
    """A network that knows the first half by heart, noise included: what is kept from training is there again."""
    trained = compile_model(
        perceptron(hidden=128), pipeline="finetune(epochs=40,lr=0.01),encode(lossless)",
        data={k: np.tile(v, (3, *[1] * (v.ndim - 1))) for k, v in samples()[0].items()}, labels="labels", min_size=0,
    )  # fmt: skip
    return packed.unpack(trained.model, "the trained model")


def compiled(data: dict[str, Array], **options: Any) -> CompileResult:
    return compile_model(original(), **({"preset": "smallest", "data": data, "labels": "labels"} | options))


def error(model: onnx.ModelProto, data: dict[str, Array]) -> float:
    import onnxruntime as ort

    session = ort.InferenceSession(model.SerializeToString(), providers=["CPUExecutionProvider"])
    return float((session.run(None, {"x": data["x"]})[0].argmax(-1) != data["labels"]).mean())


def densities(result: CompileResult) -> list[float]:
    return [p.facts["density"] for p in result.report.passes if p.name == "prune"]


def test_samples_that_the_original_knows_by_heart() -> None:
    """Its error there is no measure: one trained from the start is; on new samples nothing is lost."""
    seen, new = samples()
    result = compiled(seen)
    note = next(n for n in result.report.notes if "by heart" in n)
    fresh, value = (float(t) for t in re.findall(r"validation error of ([\d.]+); the result has ([\d.]+)", note)[0])
    margin = MARGIN * np.sqrt(fresh * (1 - fresh) / 108)  # the validation part has so many samples
    assert value <= fresh - margin + 1e-3
    before, after = error(original(), new), error(packed.unpack(result.model, "it"), new)
    assert after <= before + 0.02  # 1,200 samples have a standard error of 0.011
    assert densities(result)[-1] < 0.1
    assert result.report.ratio > 5


def test_samples_that_the_original_has_not_seen() -> None:
    seen, new = samples()
    result = compiled(new)
    assert any("the original's validation error is" in note for note in result.report.notes)
    assert densities(result)[-1] < 0.2
    assert error(packed.unpack(result.model, "it"), seen) <= 0.25


@pytest.mark.usefixtures("short")
def test_samples_on_which_nothing_errs() -> None:
    """Less than no error cannot be asked for."""
    random = np.random.default_rng(5)
    labels = random.integers(0, 3, 600)
    x = (8 * np.eye(3, 16)[labels] + random.standard_normal((600, 16))).astype(np.float32)
    data: dict[str, Array] = {"x": x, "labels": labels}
    soft = compile_model(
        perceptron(hidden=128), pipeline="finetune(epochs=40),encode(lossless)", data=data, labels="labels", min_size=0
    )
    result = compile_model(packed.unpack(soft.model, "it"), preset="smallest", data=data, labels="labels")
    assert any("by heart" in note and "the result has 0" in note for note in result.report.notes)
    assert densities(result)
    assert error(packed.unpack(result.model, "it"), data) <= 0.01


@pytest.fixture
def short(monkeypatch: pytest.MonkeyPatch) -> None:
    """Few steps of training."""
    monkeypatch.setattr(presets, "STEPS", 1000)
    monkeypatch.setattr(presets, "MOST", 10.0)


@pytest.mark.usefixtures("short")
def test_the_pipeline_written_down_gives_the_same_bytes() -> None:
    result = compiled(samples()[1])
    again = compile_model(
        original(), pipeline=result.report.pipeline, data=samples()[1], labels="labels", min_size=0, jobs=1
    )
    assert again.model.SerializeToString(deterministic=True) == result.model.SerializeToString(deterministic=True)


@pytest.mark.usefixtures("short")
def test_a_stopped_search_goes_on_where_it_was(tmp_path: Path) -> None:
    """Also with another number of threads."""
    expected = compiled(samples()[1], jobs=1).model.SerializeToString(deterministic=True)
    for stop in (60, 300):
        with pytest.raises(KeyboardInterrupt):
            compiled(samples()[1], checkpoint=tmp_path / "state", progress=stopping_at(stop), jobs=2)
    result = compiled(samples()[1], checkpoint=tmp_path / "state", jobs=2)
    assert result.model.SerializeToString(deterministic=True) == expected
    assert not (tmp_path / "state").exists()


@pytest.mark.parametrize("preset", ["smallest", "deep-compression"])
def test_a_result_that_misses_the_limit_is_put_aside(preset: str, monkeypatch: pytest.MonkeyPatch) -> None:
    never = limits.Limit(-1.0, lambda program, facts: float(facts["validation error after"]), "nothing is good enough")
    monkeypatch.setattr(presets, "MOST", 1.0)
    monkeypatch.setattr(presets, "of_original", lambda *arguments: never)
    result = compiled(samples()[1], preset=preset)
    assert any("compiled without training" in note for note in result.report.notes)
    assert not densities(result)
    scores = result.report.verification
    assert scores is not None
    assert scores.outputs[0].top1_agreement is not None
    assert scores.outputs[0].top1_agreement > 0.95


def test_without_labels_the_answers_stay_near_the_originals() -> None:
    seen, new = samples()
    soft = compile_model(
        perceptron(hidden=128), pipeline="finetune(epochs=4),encode(lossless)", data=seen, labels="labels", min_size=0
    )
    result = compile_model(packed.unpack(soft.model, "it"), preset="smallest", data={"x": new["x"]})
    assert any("nats" in note for note in result.report.notes)
    scores = result.report.verification
    assert scores is not None
    assert scores.outputs[0].top1_agreement is not None
    assert scores.outputs[0].top1_agreement > 0.87
    assert densities(result)[-1] <= 0.125


LAW = (0.25, 0.0625, 0.031, 0.0156, 0.0078)  # densities of a curve


def value_of(density: float) -> float:
    """An error that grows as weights go, as those of trained networks do."""
    return float(0.006 + 0.00005 / density)


def tried(most: float, height: float, noise: Sequence[float] = ()) -> list[tuple[float, float]]:
    """Densities and values of a search where whole runs have ``height`` times the values of the curve."""
    found: list[tuple[float, float]] = []

    def value_at(density: float) -> float:
        factor = noise[len(found)] if noise else 1.0
        found.append((density, height * factor * value_of(density)))
        return found[-1][1]

    presets.search(presets.Curve(LAW, np.array([value_of(d) for d in LAW])), most, value_at)
    return found


@pytest.mark.parametrize("height", [0.4, 0.65, 1.0])
@pytest.mark.parametrize("most", [0.0068, 0.0075])
def test_the_search_ends_near_the_limit_wherever_the_curve_lies(most: float, height: float) -> None:
    found = tried(most, height)
    assert len(found) <= presets.TRIES
    held = [d for d, value in found if value <= most]
    assert held == sorted(held, reverse=True)
    if height * value_of(LAW[-1]) > most and height * value_of(LAW[0]) < presets.AIM * most:
        aim = next(d for d in np.geomspace(LAW[-1], LAW[0], 500) if height * value_of(d) <= presets.AIM * most)
        assert held[-1] <= presets.NEAREST * aim


def test_the_search_goes_back_to_more_weights() -> None:
    (first, value), (second, _), *_ = tried(0.0075, 1.0)
    assert value > 0.0075
    assert second >= presets.NEAREST * first * 0.99
    assert len(tried(0.0075, 0.65, [1.3, 1.0, 1.0])) > 1
    assert [round(d / c, 1) for (c, _), (d, _) in itertools.pairwise(tried(1e-9, 1.0))] == [1.2, 1.2]


def test_a_curve_never_falls_where_weights_go() -> None:
    curve = presets.Curve((0.5, 0.25, 0.125), np.array([0.02, 0.01, 0.03]))
    assert 0.24 < curve.density(presets.LONGER * 0.0201) <= 0.5
    curve.learn(0.125, 0.06)
    assert math.isclose(curve.density(0.06), 0.125, rel_tol=0.01)
    assert curve.density(1.0) == pytest.approx(0.125)
    assert curve.density(0.0) == pytest.approx(0.5)


def test_cost_counts_positions() -> None:
    net = program(perceptron(hidden=32))
    assert effort.cost(net, samples()[0]) == 16 * 32 + 32 * 3


def test_shuffled_weights_are_the_same_numbers() -> None:
    net = program(perceptron())
    weights = net.weights()
    mixed = presets.shuffled(net, weights, 0)
    for before, after in zip(net.records, mixed.records, strict=True):
        assert np.array_equal(np.sort(before.values, axis=None), np.sort(after.values, axis=None))
        assert np.array_equal(before.values, after.values) == (before not in weights)
