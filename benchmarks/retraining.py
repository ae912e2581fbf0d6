"""Retraining on digits (MNIST): whole-file ratio, errors and time for one pipeline and several seeds.

    python benchmarks/retraining.py model.onnx mnist.npz [--seeds 0 1 2] [--pipeline TEXT] [--unlabelled]
        [--keep FOLDER]

The compiler is given the training part alone, of which it keeps a share aside to choose the best epoch. digits.py says
what the files hold.
"""

from __future__ import annotations

import argparse
from pathlib import Path

import digits
import onnx

PIPELINE = (
    "prune(density={density},scope=global,criterion=obd,schedule=gradual,epochs={pruning},lr={lr},shift=1),shrink,"
    "cluster(rd,bits=4,price={price},epochs={clustering},lr={lr2},vectors=true,shift=1),shrink(sort=true),slim,"
    "encode(smallest)"
)
# Chosen by the error on 10,000 images of the training part, for networks trained on the other 50,000; but test errors
# of LeNet-5 at densities of 0.012, 0.0145 and 0.03 had been seen before its density became 0.016.
PERCEPTRON = PIPELINE.format(density=0.03, pruning=40, lr=0.002, price=0.04, clustering=20, lr2=0.001)
CONVOLUTIONAL = PIPELINE.format(density=0.016, pruning=16, lr=0.004, price=0.04, clustering=8, lr2=0.002)


def main() -> None:
    """Compile with every seed; print a line each, then the median."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("model", type=Path)
    parser.add_argument("data", type=Path)
    parser.add_argument("--seeds", type=int, nargs="+", default=[0])
    parser.add_argument("--pipeline", help="default: chosen by whether the model has convolutions")
    parser.add_argument("--unlabelled", action="store_true", help="give no labels, so that training distills")
    parser.add_argument("--keep", type=Path, metavar="FOLDER", help="where to leave the compiled models")
    arguments = parser.parse_args()
    convolutional = any(n.op_type == "Conv" for n in onnx.load(arguments.model).graph.node)
    pipeline = arguments.pipeline or (CONVOLUTIONAL if convolutional else PERCEPTRON)
    train, test = digits.load(arguments.data)
    parts = {"train": train, "test": test}
    labelled = not arguments.unlabelled
    given = arguments.model, pipeline, train, parts, arguments.seeds
    digits.compile_seeds(*given, labelled=labelled, keep=arguments.keep)


if __name__ == "__main__":
    main()
