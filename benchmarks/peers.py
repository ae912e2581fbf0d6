"""Other ways to make a model smaller, each as files to test: onnxruntime's quantizers and NNCodec."""

from __future__ import annotations

import logging
import lzma
import subprocess
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import onnx

from dc_compiler import ir
from dc_compiler.model import files, importer
from dc_compiler.model.opened import open_weights
from dc_compiler.ort import data as reading
from dc_compiler.ort.samples import runs

Array = np.ndarray
MOST = 256  # samples that activations are calibrated on
BATCH = 32
LEAST = 64  # elements of a weight that NNCodec gets
CODER = Path(__file__).with_name("nncodec_coder.py")


@dataclass(frozen=True)
class Result:
    """A model to test and the bytes it takes; ``model`` is None, and ``note`` says why, where there is none."""

    way: str
    setting: str
    bytes: int = 0
    model: Path | None = None
    note: str = ""


class RefusedError(Exception):
    """Why a way does not take a model."""


def quantized(model: Path, data: Path, folder: Path) -> Iterator[Result]:
    """onnxruntime's quantizers: int8 with and without calibrated activations, also packed by xz, and 4-bit MatMuls."""
    ways: dict[str, Callable[[Path, Path, Path], None]] = {
        "int8 static": _static, "int8 dynamic": _dynamic, "MatMulNBits 4 bits": _four_bits,
    }  # fmt: skip
    logging.getLogger().setLevel(logging.ERROR)  # advice of the quantizers
    for name, make in ways.items():
        target = folder / f"{name.replace(' ', '_')}.onnx"
        try:
            make(model, data, target)
        except Exception as e:  # the quantizers raise what they come across
            yield Result(name, "", note=f"refused: {' '.join(str(e).split())[:100] or type(e).__name__}")
            continue
        yield Result(name, "", files.file_size(target), target)
        if name.startswith("int8"):
            yield Result(f"{name}, xz", "", len(lzma.compress(target.read_bytes(), preset=9)), target)


def _static(model: Path, data: Path, target: Path) -> None:
    from onnxruntime.quantization import CalibrationDataReader, QuantFormat, QuantType, quantize_static

    prepared = _prepared(model, target)
    table = reading.read(data, reading.input_specs(onnx.load(model))).joined().feeds[0]
    count = min(MOST, len(next(iter(table.values()))))

    class Reader(CalibrationDataReader):  # type: ignore[misc]
        def __init__(self) -> None:
            self._feeds = iter([reading.take(table, rows) for rows in runs(count, BATCH)])

        def get_next(self) -> dict[str, Array] | None:
            return next(self._feeds, None)

    def quantize(per_channel: bool) -> None:
        quantize_static(
            prepared, target, Reader(), quant_format=QuantFormat.QDQ, per_channel=per_channel,
            activation_type=QuantType.QUInt8, weight_type=QuantType.QInt8,
        )  # fmt: skip

    try:
        quantize(per_channel=True)
    except ValueError:  # some biases are too much for it with a scale for every channel
        quantize(per_channel=False)


def _dynamic(model: Path, data: Path, target: Path) -> None:
    from onnxruntime.quantization import QuantType, quantize_dynamic

    # onnxruntime runs no convolution of signed weights whose activations are quantized as they come
    has_conv = any(n.op_type.startswith("Conv") for n in onnx.load(model).graph.node)
    quantize_dynamic(
        _prepared(model, target), target, per_channel=not has_conv,
        weight_type=QuantType.QUInt8 if has_conv else QuantType.QInt8,
    )  # fmt: skip


def _prepared(model: Path, target: Path) -> Path:
    """The model as the quantizers want it: optimized, batch normalization folded."""
    import onnxruntime as ort

    prepared = target.with_suffix(".prepared.onnx")
    options = ort.SessionOptions()
    options.graph_optimization_level = ort.GraphOptimizationLevel.ORT_ENABLE_BASIC
    options.optimized_model_filepath = str(prepared)
    options.log_severity_level = 3
    ort.InferenceSession(str(model), options, providers=["CPUExecutionProvider"])
    return prepared


def _four_bits(model: Path, data: Path, target: Path) -> None:
    # it needs the package onnx-ir, too
    from onnxruntime.quantization.matmul_nbits_quantizer import MatMulNBitsQuantizer

    quantizer = MatMulNBitsQuantizer(onnx.load(model), bits=4, block_size=32, is_symmetric=False)
    quantizer.process()
    made = quantizer.model.model
    if all(n.op_type != "MatMulNBits" for n in made.graph.node):
        raise RefusedError("no MatMul of a weight")
    onnx.save(made, target)


def nncodec(model: Path, folder: Path, python: str, qps: Sequence[int]) -> Iterator[Result]:
    """NNCodec at some quantization parameters, on the weights that dcc rounds, too. Its bytes are those of its stream,
    and of the model without these weights, packed by xz.

    Args:
        python: the interpreter that has it installed.
    """
    if subprocess.run([python, "-c", "import nncodec.nn"], capture_output=True).returncode:
        yield Result("NNCodec", "", note=f"not installed for {python} (--nncodec names another interpreter)")
        return
    program = importer.build_program(files.read_model(model), min_size=LEAST)
    records = [r for r in program.weights() if r.values.dtype == np.float32]
    rest = len(lzma.compress(_without(program, records), preset=9))
    source, decoded = folder / "weights.npz", folder / "decoded.npz"
    arrays: dict[str, Any] = {f"w{i}": r.values for i, r in enumerate(records)}
    np.savez(source, **arrays)
    for qp in qps:
        command = [python, str(CODER), str(source), str(decoded), str(qp)]
        done = subprocess.run(command, capture_output=True, text=True)
        if done.returncode:
            yield Result("NNCodec", f"qp {qp}", note=done.stderr.strip().splitlines()[-1])
            continue
        with np.load(decoded) as content:
            for i, record in enumerate(records):
                record.values = content[f"w{i}"].reshape(record.shape)
        target = folder / f"nncodec{qp}.onnx"
        onnx.save(open_weights(program, ()), target)
        yield Result("NNCodec", f"qp {qp}", rest + int(done.stdout.split()[-1]), target)


def _without(program: ir.Program, records: Sequence[ir.WeightRecord]) -> bytes:
    """The model with zeros for these weights, which xz packs to next to nothing."""
    kept = [(r, r.values) for r in records]
    for record in records:
        record.values = np.zeros_like(record.values)
    content = bytes(open_weights(program, ()).SerializeToString())
    for record, values in kept:
        record.values = values
    return content
