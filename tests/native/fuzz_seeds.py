"""`python fuzz_seeds.py FOLDER`: inputs for fuzz_topology.cpp to begin with, one a file.

Golden frames, compiled test graphs of both forms and their topologies, and topologies that the tests of untrusted files
have refused.
"""

from __future__ import annotations

import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import onnx

TESTS = Path(__file__).resolve().parents[1]
sys.path[:0] = [str(TESTS / "codec"), str(TESTS / "ort"), str(TESTS)]

import ort_models  # noqa: E402
import test_untrusted as untrusted  # noqa: E402
from models import ensembles  # noqa: E402
from models.graphs import GRAPHS  # noqa: E402

from dc_compiler import compile_model  # noqa: E402
from dc_compiler.codec import binding  # noqa: E402

TOPOLOGY, FRAME, FILE = b"\0", b"\1", b"\2"  # an input's first byte
MOST_BYTES = 1 << 13  # larger inputs only slow the search down
COMPILED = ("matmul", "small_parameters", "if_captured", "loop_nested_if", "function_nested", "sparse_initializer",
            "quantized", "annotated")  # fmt: skip


def topology_of(model: onnx.ModelProto) -> bytes:
    """The count of payloads and the decoded topology of a compiled model in session form."""
    (node,) = model.graph.node
    names = node.input[node.attribute[0].i :]
    stored = {t.name: t.raw_data for t in model.graph.initializer}
    return bytes([len(names) - 1]) + binding.decode(stored[names[0]]).tobytes()


def topologies() -> Iterator[bytes]:
    for name in COMPILED:
        yield topology_of(compile_model(GRAPHS[name]()[0], preset="lossless", min_size=16, emit="session").model)
    crafted = [make() for make in (*untrusted.EXTERNAL.values(), *untrusted.HOLDS_DCC.values())]
    crafted += [untrusted.chain_of_functions(4, 2, depth=2), untrusted.chain_of_functions(3, 1, circle=True)]
    inner = [model.SerializeToString() for model in crafted] + [content for content, _ in untrusted.WIRE.values()]
    yield from (b"\0" + ort_models.manifest({}) + content for content in inner)
    yield b"\2" + ort_models.manifest({"a": (1, [2, 3]), "b": (10, [])}, {"a": b"decode", "b": b"decode"})


def files() -> Iterator[bytes]:
    pipeline = "prune(density=0.2),cluster(grid),encode"
    ways: list[dict[str, Any]] = [
        {"emit": "graph"},
        {"emit": "session"},
        {"execution": "sparse"},
        {"execution": "int8"},
    ]
    for name in COMPILED:
        for way in ways:
            model = compile_model(GRAPHS[name]()[0], pipeline=pipeline, min_size=16, force=True, **way).model
            yield model.SerializeToString()
    trees = ensembles.forest(8, 4, digits=1)
    for node in (ensembles.regressor(trees), ensembles.ensemble_5(trees)):
        yield compile_model(ensembles.model(node), preset="lossless").model.SerializeToString()


def main(folder: Path) -> None:
    folder.mkdir(parents=True, exist_ok=True)
    seeds = [FRAME + path.read_bytes() for path in sorted((TESTS / "codec" / "golden").glob("*.dccw"))]
    seeds += [TOPOLOGY + topology for topology in topologies()]
    seeds += [FILE + file for file in files()]
    for number, seed in enumerate(s for s in seeds if len(s) <= MOST_BYTES):
        (folder / f"{number:03}").write_bytes(seed)


if __name__ == "__main__":
    main(Path(sys.argv[1]))
