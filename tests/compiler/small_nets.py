"""Small networks of one float input, for tests of how layers run."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import numpy as np
import onnx
from onnx import TensorProto, helper, numpy_helper


def net(
    nodes: Sequence[onnx.NodeProto], weights: Mapping[str, np.ndarray], x: Sequence[int | str | None], opset: int = 17
) -> onnx.ModelProto:
    """Nodes from input ``x`` of this shape to output ``y``."""
    graph = helper.make_graph(
        nodes,
        "g",
        [helper.make_tensor_value_info("x", TensorProto.FLOAT, x)],
        [helper.make_tensor_value_info("y", TensorProto.FLOAT, None)],
        [numpy_helper.from_array(a, name) for name, a in weights.items()],
    )
    return helper.make_model(graph, opset_imports=[helper.make_opsetid("", opset)], ir_version=8)
