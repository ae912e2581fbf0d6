"""Retraining on digits (MNIST): whole-file ratio, errors and time for one preset or pipeline and several seeds.

    python benchmarks/retraining.py model.onnx mnist.npz [--seeds 0 1 2] [--preset NAME | --pipeline TEXT]
        [--density D] [--unlabelled] [--keep FOLDER]

The compiler is given the training part alone, of which it keeps shares aside to choose and to check. What presets know
was chosen on them, too. digits.py says what the files hold.
"""

from __future__ import annotations

import argparse
from pathlib import Path

import digits


def main() -> None:
    """Compile with every seed; print a line each, then the median."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("model", type=Path)
    parser.add_argument("data", type=Path)
    parser.add_argument("--seeds", type=int, nargs="+", default=[0])
    parser.add_argument("--preset", default="smallest")
    parser.add_argument("--pipeline", help="instead of the preset")
    parser.add_argument("--density", type=float, metavar="D", help="kept share, which the preset need not look for")
    parser.add_argument("--unlabelled", action="store_true", help="give no labels, so that training distills")
    parser.add_argument("--keep", type=Path, metavar="FOLDER", help="where to leave the compiled models")
    arguments = parser.parse_args()
    preset = None if arguments.pipeline else arguments.preset
    train, test = digits.load(arguments.data)
    parts = {"train": train, "test": test}
    labelled = not arguments.unlabelled
    options = {"preset": preset, "pipeline": arguments.pipeline, "density": arguments.density}
    given = arguments.model, train, parts, arguments.seeds
    digits.compile_seeds(*given, labelled=labelled, keep=arguments.keep, **options)


if __name__ == "__main__":
    main()
