"""Training models with operators of com.microsoft and with integer arithmetic."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import onnxruntime as ort
import pytest
from numpy.typing import NDArray
from onnx import TensorProto, helper, numpy_helper
from onnxruntime.quantization import CalibrationDataReader, quantize_dynamic, quantize_static
from small_models import context, perceptron, program, samples, weight

from dc_compiler import compile_model
from dc_compiler.errors import InvalidArgumentError, ModelError
from dc_compiler.passes.finetune import Finetune
from dc_compiler.training import contrib, gradients, shapes
from dc_compiler.training.graph import trainable

Array = NDArray[Any]
CONTRIB = "com.microsoft"


def normal(*shape: int, seed: int = 0) -> Array:
    return np.random.default_rng([seed, *shape]).standard_normal(shape).astype(np.float32)


def model(
    nodes: Sequence[onnx.NodeProto], weights: dict[str, Array], *, features: int = 16, opset: int = 17
) -> onnx.ModelProto:
    """x [n, features] -> y of a shape that nothing declares."""
    graph = helper.make_graph(
        list(nodes),
        "g",
        [helper.make_tensor_value_info("x", TensorProto.FLOAT, ["n", features])],
        [onnx.ValueInfoProto(name="y", type=onnx.TypeProto(tensor_type=onnx.TypeProto.Tensor(elem_type=1)))],
        [numpy_helper.from_array(v, k) for k, v in weights.items()],
    )
    sets = [helper.make_opsetid("", opset), helper.make_opsetid(CONTRIB, 1)]
    return helper.make_model(graph, opset_imports=sets, ir_version=8)


def contrib_node(kind: str, inputs: Sequence[str], outputs: Sequence[str], **options: Any) -> onnx.NodeProto:
    return helper.make_node(kind, inputs, outputs, f"my {kind}", domain=CONTRIB, **options)


FORMS: dict[str, tuple[onnx.NodeProto, dict[str, Array]]] = {
    "Gelu": (contrib_node("Gelu", ["a"], ["y"]), {"a": normal(3, 8)}),
    "BiasGelu": (contrib_node("BiasGelu", ["a", "b"], ["y"]), {"a": normal(3, 8), "b": normal(8)}),
    "FastGelu": (contrib_node("FastGelu", ["a"], ["y"]), {"a": normal(3, 8)}),
    "FastGelu with bias": (contrib_node("FastGelu", ["a", "b"], ["y"]), {"a": normal(3, 8), "b": normal(8)}),
    "QuickGelu": (contrib_node("QuickGelu", ["a"], ["y"], alpha=1.5), {"a": normal(3, 8)}),
    "FusedMatMul": (
        contrib_node("FusedMatMul", ["a", "b"], ["y"], alpha=0.5, transA=1, transB=1),
        {"a": normal(2, 4, 3), "b": normal(2, 5, 4)},
    ),
    "FusedGemm": (
        contrib_node("FusedGemm", ["a", "b", "c"], ["y"], activation="LeakyRelu", activation_alpha=0.2, transB=1),
        {"a": normal(3, 4), "b": normal(5, 4), "c": normal(5)},
    ),
    "FusedConv": (
        contrib_node("FusedConv", ["a", "b"], ["y"], activation="Relu", pads=[1, 1, 1, 1], kernel_shape=[3, 3]),
        {"a": normal(2, 3, 5, 5), "b": normal(4, 3, 3, 3)},
    ),
    "SkipLayerNormalization": (
        contrib_node("SkipLayerNormalization", ["a", "b", "c", "d", "e"], ["y"], epsilon=1e-5),
        {"a": normal(2, 3, 8), "b": normal(2, 3, 8, seed=1), "c": normal(8), "d": normal(8, seed=1), "e": normal(8)},
    ),
    "SkipLayerNormalization with its sum": (
        contrib_node("SkipLayerNormalization", ["a", "b", "c"], ["u", "", "", "y"]),
        {"a": normal(2, 3, 8), "b": normal(2, 3, 8, seed=1), "c": normal(8)},
    ),
}


def session(net: onnx.ModelProto) -> ort.InferenceSession:
    return ort.InferenceSession(net.SerializeToString(), providers=["CPUExecutionProvider"])


@pytest.mark.parametrize("case", FORMS.values(), ids=FORMS)
def test_standard_form(case: tuple[onnx.NodeProto, dict[str, Array]]) -> None:
    """It computes the same, and its gradient is the slope of onnxruntime's own operator along a random direction."""
    node, arrays = case
    graph = helper.make_graph(
        [node, helper.make_node("Sin", ["y"], ["s"]), helper.make_node("ReduceSum", ["s"], ["loss"], keepdims=0)],
        "g",
        [helper.make_tensor_value_info(k, TensorProto.FLOAT, v.shape) for k, v in arrays.items()],
        [helper.make_tensor_value_info("loss", TensorProto.FLOAT, [])],
    )
    sets = [helper.make_opsetid("", 17), helper.make_opsetid(CONTRIB, 1)]
    net = helper.make_model(graph, opset_imports=sets, ir_version=8)
    original = session(net)
    known = shapes.known_values(net, [arrays], session)
    contrib.decompose(net, {k: s for k, (_, s) in known.items()}, {k: t for k, (t, _) in known.items()})
    assert all(n.domain == "" for n in net.graph.node)
    shapes.declare(net.graph, known)
    loss = float(original.run(["loss"], arrays)[0])
    assert float(session(net).run(["loss"], arrays)[0]) == pytest.approx(loss, abs=1e-3)
    used = [k for k in arrays if not (k == "c" and "u" in node.output)]
    found = session(gradients.add_gradients(net, used, "loss")).run([gradients.GRADIENT + k for k in used], arrays)
    for name, gradient in zip(used, found, strict=True):
        direction = normal(*arrays[name].shape, seed=7)
        step = np.float32(2e-3 / np.linalg.norm(direction) * np.sqrt(direction.size))
        ends = [original.run(["loss"], {**arrays, name: arrays[name] + s * step * direction})[0] for s in (1, -1)]
        slope = float(ends[0] - ends[1]) / (2 * float(step))
        size = float(np.linalg.norm(gradient) * np.linalg.norm(direction))
        assert size > 0
        assert float((gradient.reshape(direction.shape) * direction).sum()) == pytest.approx(slope, abs=0.02 * size), (
            name
        )


def test_a_model_with_gelu_learns() -> None:
    """Nothing is known of the shapes behind the operator but from a run."""
    nodes = [
        helper.make_node("MatMul", ["x", "w1"], ["h"]),
        contrib_node("Gelu", ["h"], ["g"]),
        helper.make_node("MatMul", ["g", "w2"], ["y"]),
    ]
    net = model(nodes, {"w1": normal(16, 24) / 4, "w2": normal(24, 3) / 5})
    result = compile_model(
        net,
        pipeline="prune(density=0.5),finetune(epochs=20,lr=0.01),encode",
        data=samples(),
        labels="labels",
        min_size=16,
    )
    facts = result.report.passes[1].facts
    assert facts["validation error before"] > 0.3
    assert facts["validation error after"] < 0.1


def test_the_users_own_node_is_named() -> None:
    nodes = [
        helper.make_node("MatMul", ["x", "w1"], ["h"]),
        contrib_node("BifurcationDetector", ["h"], ["g"]),
        helper.make_node("MatMul", ["g", "w2"], ["y"]),
    ]
    net = model(nodes, {"w1": normal(16, 24), "w2": normal(24, 3)})
    with pytest.raises(ModelError, match=r"node 'my BifurcationDetector' \(.* of com.microsoft\).*--skip"):
        gradients.add_gradients(net, ["w1"], "y")
    gradients._refuse_foreign(net.graph, ["w2"], "y")  # nothing before it is trained: no gradient is needed


def quantized_front() -> onnx.ModelProto:
    """An int8 layer of com.microsoft before a float one."""
    nodes = [
        contrib_node("DynamicQuantizeMatMul", ["x", "q", "scale", "zero", "b1"], ["h"]),
        helper.make_node("Relu", ["h"], ["r"]),
        helper.make_node("MatMul", ["r", "w2"], ["y"]),
    ]
    q = np.random.default_rng(0).integers(-100, 100, (16, 32)).astype(np.int8)
    return model(
        nodes,
        {"q": q, "scale": np.float32(0.004) * np.ones((), np.float32), "zero": np.zeros((), np.int8),
         "b1": normal(32), "w2": normal(32, 3) / 5},
    )  # fmt: skip


def test_a_frozen_front_needs_no_gradient() -> None:
    net = quantized_front()
    parts = program(net)
    assert [r.name for r in trainable(parts)] == ["w2"]
    run = context(net, samples())
    before = weight(parts, "b1").values.copy()
    report = Finetune(epochs=20, lr=0.02).run(parts, run)
    assert report.facts["validation error after"] < report.facts["validation error before"]
    assert np.array_equal(weight(parts, "b1").values, before)


class _Feeds(CalibrationDataReader):  # type: ignore[misc]
    def __init__(self) -> None:
        self._feeds = iter([{"x": samples()["x"][i : i + 8]} for i in range(0, 64, 8)])

    def get_next(self) -> dict[str, Array] | None:
        return next(self._feeds, None)


def test_dynamically_quantized(tmp_path: Path) -> None:
    """Its scales stay exact, and what is before integer arithmetic is not touched."""
    plain, path = tmp_path / "plain.onnx", tmp_path / "dynamic.onnx"
    onnx.save(perceptron(hidden=64), plain)
    quantize_dynamic(plain, path)
    net = onnx.load(path)

    def floats(graph: onnx.GraphProto) -> dict[str, Array]:
        return {t.name: numpy_helper.to_array(t) for t in graph.initializer if t.data_type == TensorProto.FLOAT}

    result = compile_model(
        path, pipeline="prune(density=0.5,schedule=gradual,epochs=2),shrink,cluster(rd,bits=4,epochs=2,vectors=true),"
        "shrink(sort=true),slim,encode(smallest)", data=samples(), labels="labels", min_size=0, emit="graph",
    )  # fmt: skip
    before, after = floats(net.graph), floats(result.model.graph)
    changed = [name for name in before if not np.array_equal(before[name], after[name])]
    assert changed == ["b2"]
    assert len(before) == 4


def test_fully_quantized(tmp_path: Path) -> None:
    plain, path = tmp_path / "plain.onnx", tmp_path / "qdq.onnx"
    onnx.save(perceptron(hidden=64), plain)
    quantize_static(plain, path, _Feeds())
    with pytest.raises(InvalidArgumentError, match="finds no weight that it could train"):
        compile_model(path, pipeline="finetune(epochs=1),encode", data=samples(), labels="labels")
    result = compile_model(path, preset="smallest", data=samples(), labels="labels")
    assert any("compiled without training: no weight can be trained" in note for note in result.report.notes)
