"""The paper's tables beside ours: Table 1 (error, size, ratio), and what each layer takes (Tables 2 and 3).

    python benchmarks/paper_table.py --data mnist.npz model.onnx compiled.onnx [model.onnx compiled.onnx ...]
    python benchmarks/paper_table.py --data mnist.npz --compile 'prune(density=0.05),cluster,encode' model.onnx ...

The paper is Deep Compression (arXiv 1510.00149); a model is its LeNet-300-100 or LeNet-5 when the weights have those
sizes, and stands alone otherwise. Everything of ours is read from the two files and the test part of the data, which is
described in digits.py; --compile takes a preset or a pipeline, which sees the training part alone.

P is pruning, Q quantization, H Huffman coding, or the coder that was chosen in its place. Bits are per kept weight, the
index is the distance to the kept weight before. A coder that stores no distances has them in its weight bits, and no
rate before coding. A rate is the share of the layer's 32-bit size, codebook included; ours after coding is the frame.
"""

from __future__ import annotations

import argparse
import math
import tempfile
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import digits
import numpy as np
import onnx
from onnx import numpy_helper
from rich.console import Console
from rich.table import Table

from dc_compiler import compile_model, report, unpack_model
from dc_compiler.codec import binding
from dc_compiler.model import files, packed
from dc_compiler.recipe import PRESETS

WIDTH = 110  # of the output, also in a pipe
SUMMARY = ("network", "error %", "compressed", "size", "compressed", "ratio")
COLUMNS = (
    "layer", "weights", "kept %\nP", "weight bits\nP+Q", "\nP+Q+H", "index bits\nP+Q", "\nP+Q+H", "rate %\nP+Q",
    "\nP+Q+H",
)  # fmt: skip


@dataclass(frozen=True)
class Paper:
    """A network of the paper: the numbers of weights that tell it, its line of Table 1, and its table of layers."""

    weights: tuple[int, ...]
    summary: tuple[str, ...]
    layers: tuple[tuple[str, ...], ...]  # the last is the total


PAPER = (
    Paper(
        (235_200, 30_000, 1_000),
        ("LeNet-300-100", "1.64", "1.58", "1070 KB", "27 KB", "40x"),
        (
            ("ip1", "235K", "8", "6", "4.4", "5", "3.7", "3.1", "2.32"),
            ("ip2", "30K", "9", "6", "4.4", "5", "4.3", "3.8", "3.04"),
            ("ip3", "1K", "26", "6", "4.3", "5", "3.2", "15.7", "12.70"),
            ("total", "266K", "8", "6", "5.1", "5", "3.7", "3.1", "2.49"),
        ),
    ),
    Paper(
        (500, 25_000, 400_000, 5_000),
        ("LeNet-5", "0.80", "0.74", "1720 KB", "44 KB", "39x"),
        (
            ("conv1", "0.5K", "66", "8", "7.2", "5", "1.5", "78.5", "67.45"),
            ("conv2", "25K", "12", "8", "7.2", "5", "3.9", "6.0", "5.28"),
            ("ip1", "400K", "8", "5", "4.5", "5", "4.5", "2.7", "2.45"),
            ("ip2", "5K", "19", "5", "5.2", "5", "3.7", "6.9", "6.13"),
            ("total", "431K", "8", "5.3", "4.1", "5", "4.4", "3.05", "2.55"),
        ),
    ),
)


@dataclass(frozen=True)
class Layer:
    """What a compiled file holds for one weight; bits are totals over the layer, None where there is no such thing.

    ``bits`` and ``index`` are of fixed width, ``coded`` and ``coded_index`` as stored, with filler zeros; ``fixed`` is
    what the layer would take at fixed width, filler zeros and codebook included; ``stored`` is the frame.
    """

    name: str
    weights: int
    kept: int
    bits: float
    coded: float
    index: float | None
    coded_index: float | None
    fixed: float | None
    stored: float

    def cells(self) -> list[str]:
        """Texts in the order of COLUMNS."""
        each = [_text(v, self.kept, 1) for v in (self.bits, self.coded, self.index, self.coded_index)]
        rates = [_text(None if v is None else 100 * v, 32 * self.weights, 2) for v in (self.fixed, self.stored)]
        return [self.name, f"{self.weights:,}", f"{100 * self.kept / self.weights:.1f}", *each, *rates]


def _text(value: float | None, over: int, places: int) -> str:
    return "-" if value is None or not over else f"{value / over:.{places}f}"


def layers(model: Path, compiled: Path) -> list[Layer]:
    """Every stored tensor of two or more axes of the model, as the compiled file holds it.

    Raises:
        ModelError, CorruptFrameError: a file is not readable, or the second was not compiled by dcc.
    """
    dense = {t.name: numpy_helper.to_array(t) for t in unpack_model(compiled).graph.initializer}
    payloads = packed.open_packed(files.read_model(compiled).proto, str(compiled)).payloads
    owners = {weight.name: payload for payload in payloads for weight in payload.weights}
    result = []
    for tensor in onnx.load(model).graph.initializer:
        if len(tensor.dims) < 2:
            continue
        if tensor.name not in dense:
            raise SystemExit(f"{compiled} has no weight '{tensor.name}' of {model}; give files that belong together")
        count, values = math.prod(tensor.dims), dense[tensor.name]
        result.append(_layer(tensor.name, count, values, owners.get(tensor.name)))
    return result


def _layer(name: str, count: int, values: np.ndarray, payload: packed.Payload | None) -> Layer:
    """``count`` is the model's number of weights; ``values`` are those left, without the channels that were removed."""
    kept = int(np.count_nonzero(values))
    if payload is None:  # left as it was
        return Layer(name, count, kept, 32.0 * kept, 32.0 * kept, None, None, 32.0 * count, 32.0 * count)
    row, info = report.frame_row(name, payload.frame), binding.frame_info(payload.frame)
    share = values.size / info.elements  # small weights may share a frame
    assert row.bits is not None
    width = row.position_bits
    is_plain = width is None and row.kept != 1  # zeros are symbols: no weights apart from their places
    codebook = 0 if row.codebook is None else 32 * row.codebook
    fixed = share * (info.entries * (row.bits + (width or 0)) + codebook)
    return Layer(
        name, count, kept, float(row.bits * kept), share * info.index_bits_total,
        None if width is None else float(width * kept),
        None if width is None else float(info.position_bits_total),
        None if is_plain else fixed, 8 * share * len(payload.frame),
    )  # fmt: skip


def total(parts: Sequence[Layer]) -> Layer:
    """All layers as one."""

    def add(values: Sequence[float | None]) -> float | None:
        known = [v for v in values if v is not None]
        return sum(known) if len(known) == len(values) else None

    return Layer(
        "total", sum(p.weights for p in parts), sum(p.kept for p in parts), sum(p.bits for p in parts),
        sum(p.coded for p in parts), add([p.index for p in parts]), add([p.coded_index for p in parts]),
        add([p.fixed for p in parts]), sum(p.stored for p in parts),
    )  # fmt: skip


def paper_of(parts: Sequence[Layer]) -> Paper | None:
    """The paper's network with as many weights in each layer."""
    return next((p for p in PAPER if p.weights == tuple(x.weights for x in parts)), None)


def layer_table(parts: Sequence[Layer], paper: Paper | None, title: str) -> Table:
    """Per layer a line of the paper's and a line of ours, then the totals."""
    table = _table(COLUMNS, title)
    for number, part in enumerate([*parts, total(parts)]):
        if paper is not None:
            table.add_row(f"paper, {paper.layers[number][0]}", *paper.layers[number][1:], style="dim")
        table.add_row(*part.cells(), end_section=True)
    return table


def summary(model: Path, compiled: Path, test: digits.Part) -> list[str]:
    """Our line of Table 1: whole files on disk, errors on the test part."""
    sizes = [path.stat().st_size for path in (model, compiled)]
    errors = [f"{digits.error(path, test):.2f}" for path in (model, compiled)]
    return [model.name, *errors, *(f"{size / 1000:.1f} KB" for size in sizes), f"{sizes[0] / sizes[1]:.1f}x"]


def _table(columns: Sequence[str], title: str) -> Table:
    table = Table(title=title, title_justify="left", box=None, header_style="bold")
    for number, column in enumerate(columns):
        table.add_column(column, justify="right" if number else "left")
    return table


def compiled_models(models: Sequence[Path], text: str, train: digits.Part, folder: Path) -> list[Path]:
    """Compile every model with a preset or a pipeline."""
    result = []
    for number, model in enumerate(models):
        result.append(folder / f"{number}.onnx")
        samples = {digits.input_name(model): train.images, "labels": train.labels}
        preset, pipeline = (text, None) if text in PRESETS else (None, text)
        compile_model(model, result[-1], preset=preset, pipeline=pipeline, data=samples, labels="labels", min_size=0)
    return result


def main() -> None:
    """Print Table 1, then a table of layers a model."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("files", nargs="+", type=Path, help="pairs of a model and what it was compiled to")
    parser.add_argument("--data", type=Path, required=True)
    parser.add_argument("--compile", metavar="TEXT", help="preset or pipeline; then FILES are models alone")
    arguments = parser.parse_args()
    files = arguments.files
    if arguments.compile is None and len(files) % 2:
        parser.error("give pairs of a model and what it was compiled to, or --compile")
    train, test = digits.load(arguments.data)
    console = Console(width=WIDTH, highlight=False)
    with tempfile.TemporaryDirectory() as folder:
        if arguments.compile is None:
            pairs = list(zip(files[::2], files[1::2], strict=True))
        else:
            pairs = list(zip(files, compiled_models(files, arguments.compile, train, Path(folder)), strict=True))
        parts = [layers(*pair) for pair in pairs]
        table = _table(SUMMARY, "Table 1: whole networks")
        for pair, part in zip(pairs, parts, strict=True):
            paper = paper_of(part)
            if paper is not None:
                table.add_row(f"paper, {paper.summary[0]}", *paper.summary[1:], style="dim")
            table.add_row(*summary(*pair, test), end_section=True)
        console.print(table)
        for (model, _), part in zip(pairs, parts, strict=True):
            console.print()
            console.print(layer_table(part, paper_of(part), f"Layers of {model.name}"))


if __name__ == "__main__":
    main()
