"""What samples bring to the trees of a program."""

from __future__ import annotations

import numpy as np

from dc_compiler import ir
from dc_compiler.ort.activations import activations
from dc_compiler.ort.samples import Samples

Array = np.ndarray


def inputs_of(program: ir.Program, site: ir.EnsembleSite, samples: Samples, rows: Array | None = None) -> Array:
    """The rows [n, features] that an ensemble decides about, of the train part unless rows are given."""
    name = site.node.input[0]
    found = activations(program, [name], _joined, samples, rows)[name]
    return found.reshape(len(found), -1)


def _joined(so_far: Array | None, batch: Array) -> Array:
    return batch if so_far is None else np.concatenate([so_far, batch])
