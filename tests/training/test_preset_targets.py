"""Presets that train keep to what the user wants: a drop, a size, or both; or say what came nearest."""

from __future__ import annotations

import itertools
from pathlib import Path
from typing import Any

import onnx
import pytest
from numpy.typing import NDArray
from small_models import perceptron
from test_preset_search import compiled, densities, original, samples

from dc_compiler import CompileResult, compile_model
from dc_compiler.errors import InvalidArgumentError, QualityError
from dc_compiler.training import limits, presets

Array = NDArray[Any]


@pytest.fixture(autouse=True)
def short(monkeypatch: pytest.MonkeyPatch) -> None:
    """Few steps of training."""
    monkeypatch.setattr(presets, "STEPS", 1000)
    monkeypatch.setattr(presets, "MOST", 10.0)


def lost(result: CompileResult) -> float:
    """Points of accuracy that the check part shows."""
    scores = result.report.verification
    assert scores is not None
    assert scores.scores is not None
    return 100 * (scores.scores.before - scores.scores.after)


@pytest.mark.parametrize("preset", ["smallest", "deep-compression"])
def test_a_drop_is_the_limit(preset: str) -> None:
    result = compiled(samples()[1], preset=preset, max_drop=2)
    assert any("may fall by 2 points" in note for note in result.report.notes)
    assert lost(result) <= 2
    assert densities(result)[-1] <= 0.5
    assert result.report.ratio > 2.5


def test_more_may_go_where_more_may_be_lost() -> None:
    strict, loose = (compiled(samples()[1], max_drop=drop).report.output_bytes for drop in (1, 10))
    assert loose < strict


@pytest.mark.parametrize(("preset", "size"), [("smallest", 1200), ("deep-compression", 3300)])
def test_a_size_is_used_up(preset: str, size: int) -> None:
    result = compiled(samples()[1], preset=preset, target_size=size)
    assert 0.95 * size <= result.report.output_bytes <= size
    assert densities(result)


def test_a_size_that_no_density_gives() -> None:
    with pytest.raises(QualityError, match="the targets cannot be reached: the nearest has"):
        compiled(samples()[1], target_size=300)
    result = compiled(samples()[1], target_size=300, force=True)
    assert result.report.output_bytes > 300
    assert any("no density gave a file of 300 bytes" in note for note in result.report.notes)


def test_a_drop_that_no_training_holds(monkeypatch: pytest.MonkeyPatch) -> None:
    """The pipeline without training finds a step instead."""
    never = limits.Limit(-1.0, lambda program, facts: 0.0, "nothing is good enough")
    monkeypatch.setattr(presets, "of_drop", lambda *arguments: never)
    result = compiled(samples()[1], max_drop=2)
    assert any("compiled without training" in note for note in result.report.notes)
    assert any("the step of cluster is" in note for note in result.report.notes)
    assert lost(result) <= 2


def test_the_check_part_has_the_last_word(monkeypatch: pytest.MonkeyPatch) -> None:
    """A result that it does not confirm is taken with more weights."""
    asked = itertools.count(1)

    def of_drop(*arguments: Any) -> limits.Limit:
        return limits.Limit(1.0, lambda program, facts: 0.5, "anything goes", confirm)

    def confirm(program: Any) -> bool:
        return next(asked) == 3

    monkeypatch.setattr(presets, "of_drop", of_drop)
    result = compiled(samples()[1], max_drop=2)
    refused = [
        float(n.split()[11].rstrip(","))
        for n in result.report.notes
        if n.startswith("the check part showed a larger drop")
    ]
    assert len(refused) == 2
    assert refused[0] < refused[1] < densities(result)[-1]


def test_without_labels_a_drop_is_of_answers() -> None:
    seen, new = samples()
    soft = compile_model(
        perceptron(hidden=128), pipeline="finetune(epochs=4),encode(lossless)", data=seen, labels="labels", min_size=0
    )
    model: onnx.ModelProto = soft.model
    from dc_compiler.model import packed

    result = compile_model(packed.unpack(model, "it"), preset="smallest", data={"x": new["x"]}, max_drop=5)
    scores = result.report.verification
    assert scores is not None
    agreement = scores.outputs[0].top1_agreement
    assert agreement is not None
    assert agreement >= 0.95
    assert result.report.ratio > 5


@pytest.mark.parametrize(
    ("size", "wanted"), [(lambda d: int(40_000 * d) + 900, 4000), (lambda d: int(20_000 * d**0.6), 5000)]
)
def test_the_search_for_a_size(size: Any, wanted: int) -> None:
    tried: list[float] = []

    def bytes_at(density: float) -> int:
        tried.append(density)
        return int(size(density))

    presets.search_size(0.3, wanted, bytes_at)
    assert len(tried) <= presets.SIZE_TRIES
    assert (1 - presets.UNUSED) * wanted <= size(tried[-1]) <= wanted


def test_targets_need_a_density_or_a_step_to_choose(tmp_path: Path) -> None:
    with pytest.raises(InvalidArgumentError, match=r"step of cluster\(grid\), which the pipeline lacks"):
        compile_model(
            original(), tmp_path / "out.onnx", preset="smallest", density=0.1, data=samples()[1], target_size=4000
        )
