"""The hand-built graphs are valid, reproducible, run in onnxruntime and mean what ONNX says they mean."""

from __future__ import annotations

import numpy as np
import onnx
import onnxruntime as ort
import pytest
from onnx.reference import ReferenceEvaluator

from .graphs import GRAPHS

# Graphs that onnx's reference evaluator (1.23) cannot run, or runs against the operator's definition.
NO_REFERENCE = {
    "contrib_attention": "operator outside ONNX",
    "contrib_operator": "operator outside ONNX",
    "conv_transpose_grouped": "reference lacks groups",
    "loop_body": "reference skips the loop when the condition is absent",
    "loop_nested_if": "reference skips the loop when the condition is absent",
    "map_output": "reference lacks ZipMap",
    "opset_7": "reference returns a tuple from BatchNormalization 7",
    "opset_8": "reference returns a tuple from BatchNormalization 7",
    "opset_9": "reference updates the statistics in BatchNormalization 9",
    "opset_11": "reference updates the statistics in BatchNormalization 9",
    "opset_13": "reference updates the statistics in BatchNormalization 9",
    "optional_output": "reference wraps the value in a list",
    "quantized": "reference lacks DequantizeLinear 13",
    "sparse_initializer": "reference reads dense initializers only",
}


@pytest.mark.parametrize("name", GRAPHS)
def test_graph_is_valid_and_reproducible(name: str) -> None:
    model, _ = GRAPHS[name]()
    # Shape inference (1.23) does not know the shape of a sparse initializer.
    onnx.checker.check_model(model, full_check=name != "sparse_initializer")
    again, _ = GRAPHS[name]()
    assert model.SerializeToString(deterministic=True) == again.SerializeToString(deterministic=True)


@pytest.mark.parametrize("name", GRAPHS)
def test_graph_runs(name: str) -> None:
    model, feeds = GRAPHS[name]()
    session = ort.InferenceSession(model.SerializeToString(), providers=["CPUExecutionProvider"])
    outputs = session.run(None, feeds)
    assert [o.name for o in session.get_outputs()] == [o.name for o in model.graph.output]
    assert all(len(output) > 0 for output in outputs)
    if name in NO_REFERENCE:
        return
    for output, expected in zip(outputs, ReferenceEvaluator(model).run(None, feeds), strict=True):
        compare(output, expected)


def compare(output: object, expected: object) -> None:
    """Equality up to float rounding; sequences item by item, strings exactly."""
    if isinstance(output, list) and isinstance(expected, list):
        for item, expected_item in zip(output, expected, strict=True):
            compare(item, expected_item)
    elif isinstance(expected, np.ndarray) and expected.dtype.kind in "OU":
        np.testing.assert_array_equal(np.asarray(output, str), expected.astype(str))
    else:
        half = isinstance(expected, np.ndarray) and expected.dtype == np.float16
        np.testing.assert_allclose(np.asarray(output), np.asarray(expected), rtol=2e-3 if half else 1e-5, atol=1e-5)
