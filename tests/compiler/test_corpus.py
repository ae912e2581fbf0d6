"""Every model with float weights in onnx's backend test data compiles without loss in both forms."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import numpy as np
import onnx
import onnxruntime as ort
import pytest
from onnx import TensorProto, numpy_helper
from onnx.reference import ReferenceEvaluator
from test_graphs import FORMS, is_exact, run, same

from dc_compiler import compile_model, ir, unpack_model

DATA = Path(onnx.__file__).parent / "backend" / "test" / "data"
COLLECTIONS = ("simple", "pytorch-converted", "pytorch-operator")


def holds_float_tensors(model: onnx.ModelProto) -> bool:
    tensors = [site.tensor for site in ir.weight_sites(model.graph)]
    return any(t is not None and ir.is_compressible(t.data_type) for t in tensors)


def models() -> Iterator[Path]:
    for collection in COLLECTIONS:
        for path in sorted((DATA / collection).glob("*/model.onnx")):
            if holds_float_tensors(onnx.load(path)):
                yield path


PATHS = list(models())


def load(path: Path, name: str) -> np.ndarray:
    tensor = TensorProto()
    tensor.ParseFromString(path.with_name("test_data_set_0").joinpath(name).read_bytes())
    return np.asarray(numpy_helper.to_array(tensor))


def feed_of(path: Path, model: onnx.ModelProto) -> dict[str, np.ndarray]:
    stored = {t.name for t in model.graph.initializer}
    names = [i.name for i in model.graph.input if i.name not in stored]
    return {name: load(path, f"input_{i}.pb") for i, name in enumerate(names)}


def runs(model: onnx.ModelProto) -> bool:
    """Whether onnxruntime loads the model: it guarantees operator sets from 7 on."""
    options = ort.SessionOptions()
    options.log_severity_level = 4
    try:
        ort.InferenceSession(model.SerializeToString(), options, providers=["CPUExecutionProvider"])
    except Exception:
        return False
    return True


@pytest.mark.parametrize("path", PATHS, ids=lambda p: p.parent.name)
def test_lossless(path: Path, tmp_path: Path) -> None:
    """The outputs keep every bit in session form and are equal up to rounding in graph form."""
    model = onnx.load(path)
    feed = feed_of(path, model)
    usable = runs(model)
    for form in FORMS:
        output = tmp_path / f"{form}.onnx"
        result = compile_model(path, preset="lossless", min_size=0, emit=form, force=not usable)
        onnx.save(result.model, output)  # also where it is larger than the original, as those of an operator are
        check = result.report.verification
        assert check is not None
        assert result.report.form == form
        if usable:
            assert same(run(model, feed), run(result.model, feed), exact=is_exact(result.report))
        else:
            assert check.skipped is not None
            assert "onnxruntime cannot load" in check.skipped
            packed = any(t.reason is None for t in result.report.tensors)
            dense = unpack_model(output) if packed or form == "session" else result.model
            expected = ReferenceEvaluator(model).run(None, feed)
            assert same(expected, ReferenceEvaluator(dense).run(None, feed), exact=True)


def test_the_corpus_is_what_it_should_be() -> None:
    """Enough models of each kind, some too old for onnxruntime: else the test above could pass by finding nothing."""
    kinds = [p.parent.parent.name for p in PATHS]
    assert kinds.count("pytorch-converted") >= 40
    assert kinds.count("pytorch-operator") >= 5
    assert {runs(onnx.load(p)) for p in PATHS if p.parent.parent.name == "pytorch-converted"} == {True, False}


@pytest.mark.parametrize("form", FORMS)
@pytest.mark.parametrize("name", ["light_squeezenet", "light_shufflenet", "light_inception_v2"])
def test_topologies(name: str, form: str) -> None:
    """Real architectures whose large weights are made by nodes; what they store is small. (The others take longer.)

    Those weights are constant, and so are the outputs: the bits are the same, which says nothing about the weights."""
    result = compile_model(DATA / "light" / f"{name}.onnx", preset="lossless", min_size=0, emit=form)
    check = result.report.verification
    assert check is not None
    assert check.feeds > 0
    assert check.same_bits
    assert not check.compared
    assert check.weights_unchanged
