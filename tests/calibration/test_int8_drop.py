"""--max-drop holds for the model as it runs: int8 is taken where the samples allow it, and missed where they do not."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
from classifier import classifier, data

from dc_compiler import InferenceSession, compile_model
from dc_compiler.codec import binding
from dc_compiler.compiler import CompileResult
from dc_compiler.errors import QualityError
from dc_compiler.model.int8 import choose


@pytest.fixture(autouse=True)
def small_layers_gain(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(choose, "LEAST_SIZE", 1)
    monkeypatch.setattr(choose, "LEAST_EXTENT", 1)


def compiled(**options: Any) -> CompileResult:
    return compile_model(classifier(), data={"x": data()["x"]}, **options)


def runs_int8(result: CompileResult) -> bool:
    return any(t.execution == "int8" for t in result.report.tensors)


def test_auto_takes_int8_where_a_drop_is_allowed(monkeypatch: pytest.MonkeyPatch) -> None:
    """And where it keeps within it on both parts, without a larger file."""
    dense = compiled(max_drop=20, execution="dense")
    monkeypatch.setattr("dc_compiler.compilation.keeps", lambda judge, program, drop: judge.of(program).divergence < 1)
    result = compiled(max_drop=20)
    assert runs_int8(result)
    assert result.report.output_bytes < 1.1 * dense.report.output_bytes
    x, labels = data()["x"], data()["label"]
    session = InferenceSession(result.model.SerializeToString())
    agreement = np.mean(np.asarray(session.run(None, {"x": x})[0]).argmax(1) == labels)
    assert agreement > 0.95 - 0.3


def test_what_is_asked_for_is_judged_as_it_runs() -> None:
    result = compiled(max_drop=20, execution="int8")
    assert runs_int8(result)
    assert "points=120" in result.report.pipeline


def test_dense_stays_dense() -> None:
    assert not runs_int8(compiled(max_drop=20, execution="dense"))
    assert not runs_int8(compiled())


def test_what_int8_loses_counts(monkeypatch: pytest.MonkeyPatch) -> None:
    """Here rounding of activations ruins everything: auto keeps floats, int8 misses the target."""
    real = choose.choose_int8

    def ruined(program: Any, ranges: Any, **options: Any) -> None:
        real(program, ranges, **options)
        for record in program.records:
            if record.execution == "int8":
                record.values = np.zeros_like(record.values)
                record.frame = zero_frame(record.frame)

    monkeypatch.setattr("dc_compiler.model.int8.choose_int8", ruined)
    result = compiled(max_drop=5)
    assert not runs_int8(result)
    assert "in int8, the samples show a larger drop than 5, so numbers stay exact" in result.report.notes
    with pytest.raises(QualityError, match="the targets cannot be reached"):
        compiled(max_drop=5, execution="int8")
    assert runs_int8(compiled(max_drop=5, execution="int8", force=True))


def zero_frame(frame: bytes) -> bytes:
    """A frame of the same kind whose points are all zero."""
    info = binding.frame_info(frame)
    return binding.encode_codebook(
        np.zeros(info.elements, int), info.dims, np.float32, grid_lo=0, k=1, zero=0,
        log_scales=np.zeros(info.channels, int), channels=info.channels, inner=info.inner,
    )  # fmt: skip
