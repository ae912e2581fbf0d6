"""Serving cost: compiled models of both forms against the dense model that `dcc unpack` gives, in one run.

Prints size, load time, peak memory and latency as ratios with their quartiles, and whether the outputs are identical.
AlexNet is pruned and clustered as in the paper's Table 4; the others take the default preset.
"""

from __future__ import annotations

import argparse
import tempfile
from pathlib import Path

import onnx
from topologies import filled

from dc_compiler import bench, compile_model, unpack_model, verify_models

# Kept share of each layer, arXiv 1510.00149, Table 4; codebooks of 8 bits for convolutions and 5 bits otherwise
ALEXNET_KEPT = {
    "conv1_w_0": 0.84, "conv2_w_0": 0.38, "conv3_w_0": 0.35, "conv4_w_0": 0.37, "conv5_w_0": 0.37,
    "fc6_w_0": 0.09, "fc7_w_0": 0.09, "fc8_w_0": 0.25,
}  # fmt: skip
MODELS = ("bvlc_alexnet", "resnet50", "squeezenet")


def measure(name: str, form: str, threads: int, folder: Path) -> None:
    """Compile, unpack and compare one model in one form."""
    original, compiled, dense = (folder / f"{name}.{kind}.onnx" for kind in ("original", form, "dense"))
    if not original.exists():
        onnx.save(filled(name), original)
    paper = name == "bvlc_alexnet"
    kept = [f"{k}:density={v}" for k, v in ALEXNET_KEPT.items()] if paper else []
    pipeline = "prune,cluster,encode" if paper else None
    report = compile_model(original, compiled, emit=form, force=True, pipeline=pipeline, set=kept).report
    unpack_model(compiled, dense)
    identical = verify_models(dense, compiled).identical
    print(f"{name}, {form} form: {report.ratio:.2f}x smaller, outputs {'identical' if identical else 'rounded'}")
    for row in bench.bench(dense, compiled, threads=threads).rows:
        print(f"  {row.name:12} compiled / dense {row.ratio:6.3f}  ({row.low:.3f} to {row.high:.3f})")


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
