"""Serving cost: compiled models of both forms against the dense model that `dcc unpack` gives, in one run.

Prints size, load time, peak memory and latency as ratios with their quartiles, and whether the outputs are identical.
AlexNet is pruned and clustered as in the paper's Table 4, NAME:SHARE to that share of every weight; the others take the
default preset. Where few weights are kept, layers of the session form run from these.
"""

from __future__ import annotations

import argparse
import statistics
import tempfile
import time
from pathlib import Path

import numpy as np
import onnx
from onnx import TensorProto, helper, numpy_helper
from topologies import ALEXNET_KEPT, filled

from dc_compiler import compile_model, unpack_model, verify_models
from dc_compiler.ort import bench
from dc_compiler.ort.sessions import Sessions

MODELS = ("bvlc_alexnet", "resnet50", "squeezenet", "resnet50:0.1")


def with_weights_as_inputs(model: onnx.ModelProto) -> tuple[onnx.ModelProto, dict[str, np.ndarray]]:
    """The model with its matrices and kernels as graph inputs, so that they are no constants for onnxruntime."""
    result = onnx.ModelProto()
    result.CopyFrom(model)
    moved = {t.name: numpy_helper.to_array(t) for t in model.graph.initializer if len(t.dims) > 1}
    kept = [t for t in model.graph.initializer if t.name not in moved]
    del result.graph.initializer[:]
    result.graph.initializer.extend(kept)
    for name, array in moved.items():
        result.graph.input.append(helper.make_tensor_value_info(name, TensorProto.FLOAT, array.shape))
    return result, moved


def unprepared_ratio(dense: Path, threads: int) -> float:
    """Latency of the dense model with its weights handed over as inputs, over that of the dense model itself."""
    model = onnx.load(dense)
    variable, weights = with_weights_as_inputs(model)
    sessions = Sessions()
    plain, bound = sessions.open(model, threads), sessions.open(variable, threads)
    feed = {i.name: np.random.default_rng(0).standard_normal(i.shape).astype(np.float32) for i in plain.get_inputs()}
    binding = bound.io_binding()
    for name, array in (feed | weights).items():
        binding.bind_cpu_input(name, array)
    for output in bound.get_outputs():
        binding.bind_output(output.name)
    ratios = []
    for _ in range(15):
        times = []
        for run, argument in ((bound.run_with_iobinding, (binding,)), (plain.run, (None, feed))):
            start = time.perf_counter()
            run(*argument)
            times.append(time.perf_counter() - start)
        ratios.append(times[0] / times[1])
    return statistics.median(ratios)


def measure(name: str, form: str, threads: int, folder: Path) -> None:
    """Compile, unpack and compare one model in one form."""
    topology, _, share = name.partition(":")
    original, compiled, dense = (folder / f"{topology}.{kind}.onnx" for kind in ("original", form, "dense"))
    if not original.exists():
        onnx.save(filled(topology), original)
    kept = [f"{k}:density={v}" for k, v in ALEXNET_KEPT.items()] if topology == "bvlc_alexnet" else []
    pipeline = f"canonicalize,prune(density={share}),cluster,encode" if share else None
    pipeline = "prune,cluster,encode" if kept else pipeline
    report = compile_model(original, compiled, emit=form, force=True, pipeline=pipeline, set=kept).report
    unpack_model(compiled, dense)
    identical = verify_models(dense, compiled).identical
    print(f"{name}, {form} form: {report.ratio:.2f}x smaller, outputs {'identical' if identical else 'rounded'}")
    for row in bench.bench(dense, compiled, threads=threads).rows:
        print(f"  {row.name:12} compiled / dense {row.ratio:6.3f}  ({row.low:.3f} to {row.high:.3f})")
    if form == "graph":
        ratio = unprepared_ratio(dense, threads)
        print(f"  for comparison, latency of the dense model with its weights as inputs / dense {ratio:.3f}")


def main() -> None:
    """Measure all models in both forms."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--threads", type=int, default=1)
    parser.add_argument("--models", nargs="+", default=list(MODELS))
    arguments = parser.parse_args()
    with tempfile.TemporaryDirectory() as folder:
        for name in arguments.models:
            for form in ("session", "graph"):
                measure(name, form, arguments.threads, Path(folder))


if __name__ == "__main__":
    main()
