"""Codes the arrays of a .npz with NNCodec and decodes them again; prints the bytes. A process of its own, as NNCodec
wants older libraries than dcc: its interpreter runs `nncodec_coder.py IN.npz OUT.npz QP`.
"""

from __future__ import annotations

import contextlib
import io
import sys
import tempfile
from typing import Any

import numpy as np


def main(source: str, target: str, qp: int) -> None:
    """Code float32 arrays with a quantization parameter; a step of it is a factor of 2 ** (1/4)."""
    from nncodec import nn

    with np.load(source) as content:
        arrays = {name: np.ascontiguousarray(content[name]) for name in content.files}
    with tempfile.TemporaryDirectory() as folder, contextlib.redirect_stdout(io.StringIO()):
        coded = nn.encode(arrays, {"qp": qp, "results": folder, "verbose": False})
        decoded = nn.decode(coded)
    found: dict[str, Any] = {name: np.asarray(decoded[name], np.float32) for name in arrays}
    np.savez(target, **found)
    print(len(coded))


if __name__ == "__main__":
    if len(sys.argv) != 4:
        raise SystemExit("give IN.npz OUT.npz QP")
    main(sys.argv[1], sys.argv[2], int(sys.argv[3]))
