"""Without data: what rounding does to a model on made-up inputs, beside what it does on real ones.

    python benchmarks/no_data.py model.onnx inputs.npz [model.onnx inputs.npz ...] [--rows 64]

For a few steps, the relative squared error of the outputs (before a softmax or sigmoid, with the model's own choices
held) on the inputs that the default preset makes up, with errors like those of a grid, and on rows of real inputs, with
the grid itself. Then the step that the default preset takes, and how well the first column predicts the second.
"""

from __future__ import annotations

import argparse
import math
from pathlib import Path

import numpy as np

from dc_compiler import ir
from dc_compiler.calibration.tolerance import Probe, tolerance
from dc_compiler.model import files, importer
from dc_compiler.ort import data, made_up
from dc_compiler.ort.samples import Samples
from dc_compiler.ort.sessions import Sessions
from dc_compiler.pass_manager import Context
from dc_compiler.pipeline.manager import run_passes
from dc_compiler.recipe import make_recipe

STEPS = (0.08, 0.16, 0.32)
BATCH = 16


def rounded(program: ir.Program, step: float, context: Context) -> ir.Program:
    """The program as the pass itself clusters it."""
    result = program.copy()
    run_passes([make_recipe(pipeline=f"cluster(grid,step={step}),encode").manager().passes[0]], result, context)
    return result


def compare(path: Path, inputs: Path, rows: int) -> tuple[list[tuple[float, float, float]], float]:
    """For every step, the error on made-up inputs and on real ones; and the step that is taken."""
    sessions, context = Sessions(), Context()
    source = files.read_model(path)
    recipe = make_recipe()
    program = importer.build_program(source, min_size=recipe.min_size)
    original = files.SourceModel(program.proto, source.path, source.base_dir, source.size)
    before, cluster = recipe.manager().passes[0], recipe.manager().passes[1]
    run_passes([before], program, context)
    samples = Samples(inputs, None, original, trains=False, sessions=sessions)
    samples.read()
    chosen = np.random.default_rng(0).permutation(samples.count)[:rows]
    real = Probe(program, samples.batches(np.sort(chosen), samples.fixed_batch or BATCH), context, sessions)
    session = sessions.original(original, context.threads)
    feeds = made_up.rich_feeds(session, data.input_specs(original.proto), original.proto, context.seed)
    probe = Probe(program, feeds, context, sessions)
    found = [(s, probe.error(cluster, s), real.error_of(rounded(program, s, context))) for s in STEPS]
    return found, tolerance(program, cluster, context, original, sessions).step


def main() -> None:
    """Print a line for each model and step, and figures over all of them."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("pairs", nargs="+", type=Path)
    parser.add_argument("--rows", type=int, default=64)
    arguments = parser.parse_args()
    print(f"{'model':14} {'step':>5} {'made-up':>9} {'real':>9} {'made-up / real':>15}")
    made, real = [], []
    for path, inputs in zip(arguments.pairs[::2], arguments.pairs[1::2], strict=True):
        found, taken = compare(path, inputs, arguments.rows)
        for step, one, other in found:
            made.append(one)
            real.append(other)
            print(f"{path.stem:14} {step:5g} {one:9.5f} {other:9.5f} {one / other:15.2f}", flush=True)
        print(f"{path.stem:14} takes step {taken:g}", flush=True)
    ratios = np.array(made) / np.array(real)
    order = float(np.corrcoef(np.argsort(np.argsort(made)), np.argsort(np.argsort(real)))[0, 1])
    middle = math.exp(float(np.mean(np.log(ratios))))
    print(f"rank correlation {order:.2f}, geometric mean of made-up / real {middle:.2f}, least {ratios.min():.2f}")


if __name__ == "__main__":
    main()
