"""`python make_models.py FOLDER`: compiled models with what they expand to, and files that are refused, for the tests.

FOLDER/good holds NAME.onnx and NAME.dense.onnx, FOLDER/bad holds NAME.onnx and NAME.txt: a regular expression that the
error matches. The library that the tests compare with has made the dense models.
"""

from __future__ import annotations

import re
import sys
from collections.abc import Iterator
from pathlib import Path

import onnx

ROOT = Path(__file__).resolve().parents[2]
TESTS, SAMPLES = ROOT / "tests", ROOT / "samples"
sys.path[:0] = [str(TESTS / name) for name in ("codec", "compiler", "ort")] + [str(TESTS)]

import ort_models  # noqa: E402
import test_unpack  # noqa: E402
import test_untrusted as untrusted  # noqa: E402
from fixtures.inputs import FIXTURES  # noqa: E402
from models.graphs import GRAPHS  # noqa: E402

from dc_compiler import compile_model  # noqa: E402
from dc_compiler.codec import binding  # noqa: E402

GRID = "canonicalize,cluster(grid),encode"
FORMS = ("session", "graph")
FIXTURE_NAMES = (
    "keras_lstm",
    "torch_cnn_dynamo",
    "torch_embedding_bf16_dynamo",
    "torch_gru_legacy",
    "torch_mlp_fp16_dynamo",
)
GRAPH_NAMES = ("annotated", "bfloat16_raw", "float64_raw", "if_initializers", "function_nested", "overridable_default")


def good() -> Iterator[tuple[str, onnx.ModelProto]]:
    for form in FORMS:
        for name in FIXTURE_NAMES:
            yield (
                f"{name}.{form}",
                compile_model(FIXTURES[name], pipeline=GRID, min_size=64, emit=form, force=True).model,
            )
        for name in GRAPH_NAMES:
            model, _ = GRAPHS[name]()
            yield f"{name}.{form}", compile_model(model, preset="lossless", min_size=16, emit=form, force=True).model
    for coder in ("huffman", "rans", "fixed", "context", "rows"):
        model, _ = GRAPHS["conv"]()
        yield (
            f"conv.{coder}",
            compile_model(model, pipeline=f"cluster(grid),encode({coder})", min_size=16, force=True).model,
        )
    for name, prune in (("rows", ""), ("rows_pruned", "prune(density=0.2),"), ("rows_rounded", "prune(density=0.9),")):
        pipeline = f"{prune}cluster(grid,step={0.1 if prune else 0.5}),encode(rows)"
        yield f"lenet5.{name}", compile_model(SAMPLES / "lenet5.onnx", pipeline=pipeline, min_size=0, force=True).model
    for execution in ("sparse", "int8"):
        model, _ = GRAPHS["matmul"]()
        pipeline = "prune(density=0.2),cluster(grid),encode"
        yield execution, compile_model(model, pipeline=pipeline, min_size=16, execution=execution, force=True).model


def bad() -> Iterator[tuple[str, bytes, str]]:
    for name, (make, sentence) in test_unpack.REFUSED.items():
        yield name, make(), sentence
    for name, bomb in untrusted.BOMBS.items():
        sentence = "would make the file decode to|more weights than|packed weights|too large"
        yield name, bomb().SerializeToString(), sentence
    inner = {"external data": untrusted.EXTERNAL, "uses the operator domain 'dcc'": untrusted.HOLDS_DCC}
    for sentence, models in inner.items():
        for name, build in models.items():
            outputs = [ort_models.value("y", untrusted.FLOAT, [2])]
            yield f"{sentence[:8]} {name}", untrusted.wrapped(build(), [], outputs).SerializeToString(), sentence


def main() -> None:
    folder = Path(sys.argv[1])
    for part in ("good", "bad"):
        (folder / part).mkdir(parents=True)
    for name, model in good():
        data = model.SerializeToString()
        (folder / "good" / f"{name}.onnx").write_bytes(data)
        (folder / "good" / f"{name}.dense.onnx").write_bytes(binding.unpack(data))
    for name, data, sentence in bad():
        file = re.sub(r"[^a-z0-9]+", "_", name.lower())
        (folder / "bad" / f"{file}.onnx").write_bytes(data)
        (folder / "bad" / f"{file}.txt").write_text(sentence)


if __name__ == "__main__":
    main()
