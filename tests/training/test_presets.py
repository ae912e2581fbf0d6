"""The presets that train, from a dense model to a compiled one."""

from __future__ import annotations

import numpy as np
import pytest
from small_models import perceptron, samples

from dc_compiler import compile_model
from dc_compiler.model import packed


@pytest.mark.parametrize("preset", ["deep-compression", "smallest"])
def test_it_trains_and_keeps_what_the_model_knows(preset: str) -> None:
    model, data = perceptron(hidden=300), samples()
    trained = compile_model(model, pipeline="finetune(epochs=10),encode(lossless)", data=data, labels="labels")
    dense = packed.unpack(trained.model, "the trained model")
    result = compile_model(dense, preset=preset, density=0.2, data=data, labels="labels")
    checked = result.report.verification
    assert checked is not None
    assert checked.accuracy_before is not None
    assert checked.accuracy_after is not None
    assert checked.accuracy_after > checked.accuracy_before - 0.02
    before, after = (sum(t.raw_data.__len__() for t in m.graph.initializer) for m in (dense, result.model))
    assert before > 4 * after
    if preset == "smallest":
        shapes = {t.name: t.shape for t in result.report.tensors}
        assert shapes["w1"][1] == shapes["w2"][0] < 300


def test_bytes_do_not_depend_on_threads() -> None:
    model, data = perceptron(hidden=100), samples()
    options = {"preset": "smallest", "density": 0.3, "data": data, "labels": "labels"}
    one, two = (compile_model(model, jobs=jobs, **options).model for jobs in (1, 2))  # type: ignore[arg-type]
    assert one.SerializeToString(deterministic=True) == two.SerializeToString(deterministic=True)


def test_without_labels_it_distills() -> None:
    model, data = perceptron(hidden=100), samples()
    result = compile_model(model, preset="smallest", density=0.3, data={"x": data["x"]})
    checked = result.report.verification
    assert checked is not None
    agreement = checked.outputs[0].top1_agreement
    assert agreement is not None
    assert agreement > 0.85  # by chance it would be a third
    assert np.isfinite(checked.outputs[0].max_abs_error or 0)
