"""`--budget`: weights are trained under their grids, for as long as the minutes given would last somewhere."""

from __future__ import annotations

import functools
from pathlib import Path
from typing import Any, ClassVar, cast

import numpy as np
import onnx
import pytest
from classifier import classifier, data
from interruption import stopping_at

from dc_compiler import CompileResult, compile_model, ir
from dc_compiler.calibration import longer
from dc_compiler.calibration.divergence import Distance
from dc_compiler.calibration.search import Goal, Search, Try
from dc_compiler.errors import InvalidArgumentError

Array = np.ndarray
MINUTES = 0.012


@functools.cache
def inputs() -> dict[str, Array]:
    return {"x": data(3000)["x"]}


def compiled(**options: Any) -> CompileResult:
    chosen: dict[str, Any] = {"data": inputs(), "jobs": 1} | options
    return compile_model(classifier(), **chosen)


@functools.cache
def trained() -> CompileResult:
    return compiled(budget=MINUTES)


def facts(result: CompileResult) -> dict[str, Any]:
    return next(p.facts for p in result.report.passes if p.name == "cluster")


def same(one: onnx.ModelProto, other: onnx.ModelProto) -> bool:
    return bool(one.SerializeToString(deterministic=True) == other.SerializeToString(deterministic=True))


def test_training_makes_it_smaller_within_the_same_bound() -> None:
    assert "epochs=" in trained().report.pipeline
    assert trained().report.output_bytes < 0.995 * compiled().report.output_bytes
    assert facts(trained())["divergence"] <= 0.0125
    assert {"step", "bytes", "divergence"} <= set(facts(trained())["tries"][-1])


def test_the_pipeline_written_down_gives_the_same_bytes_on_any_number_of_threads() -> None:
    again = compile_model(classifier(), pipeline=trained().report.pipeline, min_size=16, data=inputs(), jobs=2)
    assert same(again.model, trained().model)


@pytest.mark.slow
def test_a_size_is_kept_and_outputs_move_less() -> None:
    # without rounding in the order of use, which leaves training little to gain
    text = "canonicalize,cluster(grid,calibrate=true,rate=0.3,shorten=true),encode"
    plain = compiled(target_size=8000, pipeline=text, min_size=16)
    better = compiled(target_size=8000, pipeline=text, min_size=16, budget=4 * MINUTES)
    assert better.report.output_bytes <= 8000
    divergence = facts(plain)["tries"][-1]["divergence"]
    assert facts(better)["divergence"] < 0.9 * divergence
    assert facts(better)["bits a weight"] == pytest.approx(longer.UNSPENT * 2.6, rel=0.05)


@pytest.mark.slow
def test_a_stopped_training_goes_on_where_it_was(tmp_path: Path) -> None:
    for stop in (40, 200):
        with pytest.raises(KeyboardInterrupt):
            compiled(budget=MINUTES, checkpoint=tmp_path / "state", progress=stopping_at(stop))
    result = compiled(budget=MINUTES, checkpoint=tmp_path / "state")
    assert same(result.model, trained().model)
    assert not (tmp_path / "state").exists()


@pytest.mark.slow
def test_a_checkpoint_of_another_budget_is_refused(tmp_path: Path) -> None:
    with pytest.raises(KeyboardInterrupt):
        compiled(budget=MINUTES, checkpoint=tmp_path / "state", progress=stopping_at(1))
    with pytest.raises(InvalidArgumentError, match="whose options differed"):
        compiled(budget=2 * MINUTES, checkpoint=tmp_path / "state")


@pytest.mark.slow
def test_a_drop_is_kept_after_training() -> None:
    result = compiled(max_drop=5, budget=MINUTES)
    assert result.report.verification is not None
    agreement = result.report.verification.outputs[0].top1_agreement
    assert agreement is not None
    assert agreement >= 0.95


@pytest.mark.slow
def test_what_training_does_not_help_stays(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(longer, "COARSER", (0.05,))
    monkeypatch.setattr(longer, "FINER", (0.04, 0.03))
    result = compiled(budget=MINUTES)
    assert longer.NO_GAIN in result.report.notes
    assert "epochs" not in result.report.pipeline


@pytest.mark.parametrize(
    ("bears", "tried", "better"),
    [
        (3.0, [1.5, 1.9, 2.3], [2.3, 1.9, 1.5]),
        (2.0, [1.5, 1.9, 2.3], [1.9, 1.5]),
        (1.6, [1.5, 1.9], [1.5]),
        (1.3, [1.5, 1.2], [1.2]),
        (1.1, [1.5, 1.2, 1.1], [1.1]),
        (1.0, [1.5, 1.2, 1.1], []),
    ],
)
def test_coarser_steps_are_trained_while_they_succeed(bears: float, tried: list[float], better: list[float]) -> None:
    """`bears`: times the step found, what training makes up for."""

    class Trials:
        steps: ClassVar[list[float]] = []

        def at(self, step: float, **options: str) -> Try:
            self.steps.append(step)
            distance = Distance(0.01 if step <= bears else 0.02)
            return Try(step, program, [], [], distance, int(1000 / step), distance)

    program, trials = ir.Program(classifier(), [], [], "", 0, Path()), Trials()
    trials.steps.clear()
    found = Try(1.0, program, [], [], Distance(0.01), 1000, Distance(0.01))
    plan = longer._Plan(steps=100, batch=16, train=100, shift=0, mirror=False, mix=0)
    goal = Goal(excess=lambda d: d.divergence / 0.01)
    made = longer._smaller(cast(Search, trials), found, goal, plan, within=0.01)
    assert trials.steps == tried
    assert [t.step for t in made] == better


def test_a_model_without_gradients_is_calibrated_only() -> None:
    model = onnx.ModelProto()
    model.CopyFrom(classifier())
    node = onnx.helper.make_node("Trilu", ["mb"], ["rb"], domain="com.microsoft", upper=0)
    model.graph.node[3].CopyFrom(node)
    model.opset_import.append(onnx.helper.make_opsetid("com.microsoft", 1))
    result = compile_model(model, data=inputs(), budget=MINUTES)
    assert any(note.startswith("not trained: ") for note in result.report.notes)
    assert "calibrate=true" in result.report.pipeline


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"budget": 0}, "--budget 0 is not valid"),
        ({"budget": 1, "data": None}, "--budget needs --data"),
        ({"budget": 1, "preset": "lossless"}, r"a budget asks for the step of cluster\(grid\)"),
    ],
)
def test_bad_budgets(options: dict[str, Any], message: str) -> None:
    with pytest.raises(InvalidArgumentError, match=message):
        compiled(**options)


@pytest.mark.parametrize("options", [{}, {"target_size": 8000}, {"preset": "smallest"}])
def test_hardly_any_time(options: dict[str, Any]) -> None:
    """As of a large model, of which a minute is less than a step."""
    samples = {"x": inputs()["x"][:200]}
    assert compiled(budget=1e-9, data=samples, **options).report.output_bytes > 0


def test_few_samples_are_not_trained_on() -> None:
    result = compiled(data={"x": inputs()["x"][:20]}, budget=MINUTES)
    assert any("too few to calibrate on" in note for note in result.report.notes)
    assert "calibrate" not in result.report.pipeline
