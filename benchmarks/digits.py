"""Digits for the benchmarks: a file of images and labels, pixels as the models take them, and a model's error on them.

The .npz holds x_train, x_test (uint8 [n, 28, 28]), y_train and y_test. Models take [n, 1, 28, 28] pixels, less the mean
and over the standard deviation of the training part.
"""

from __future__ import annotations

import tempfile
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import onnx
from numpy.typing import NDArray

from dc_compiler import compile_model, get_library_path

Array = NDArray[Any]


@dataclass(frozen=True)
class Part:
    """Images, float32 [n, 1, 28, 28], and their labels, int64 [n]."""

    images: Array
    labels: Array


def load(path: Path) -> tuple[Part, Part]:
    """The training part and the test part."""
    with np.load(path) as data:
        train, test = (data[f"x_{part}"].astype(np.float32)[:, None] / 255 for part in ("train", "test"))
        labels = [data[f"y_{part}"].astype(np.int64) for part in ("train", "test")]
    mean, deviation = train.mean(dtype=np.float64), train.std(dtype=np.float64)
    train, test = (((x - mean) / deviation).astype(np.float32) for x in (train, test))
    return Part(train, labels[0]), Part(test, labels[1])


def error(model: str | Path, part: Part) -> float:
    """Share of wrong answers, in percent, of a plain or a compiled model."""
    import onnxruntime as ort

    options = ort.SessionOptions()
    options.register_custom_ops_library(get_library_path())
    session = ort.InferenceSession(str(model), options, providers=["CPUExecutionProvider"])
    name = session.get_inputs()[0].name
    starts = range(0, len(part.images), 250)
    answers = [session.run(None, {name: part.images[i : i + 250]})[0].argmax(-1) for i in starts]
    return float(100 * np.mean(np.concatenate(answers) != part.labels))


def input_name(model: Path) -> str:
    """Name of the model's first input."""
    return str(onnx.load(model).graph.input[0].name)


def errors(model: Path, parts: Mapping[str, Part]) -> dict[str, float]:
    """Error in every part, in percent."""
    return {name: error(model, part) for name, part in parts.items()}


def text(found: Mapping[str, float]) -> str:
    """Errors on one line."""
    return ", ".join(f"{name} {value:.2f} %" for name, value in found.items())


def compile_seeds(
    model: Path, given: Part, parts: Mapping[str, Part], seeds: Sequence[int], *, preset: str | None = None,
    pipeline: str | None = None, density: float | None = None, labelled: bool = True, keep: Path | None = None,
) -> None:  # fmt: skip
    """Compile with every seed; print size and errors of each, then the median, the spread and the worst.

    Args:
        given: what the compiler gets; without labels it distills.
        parts: what errors are measured on. Where no validation part is among them, that of the compiler's own
            validation share is printed.
        preset, pipeline, density: as ``compile_model`` takes them.
        keep: folder for the compiled models, SEED.onnx.
    """
    samples = {input_name(model): given.images} | ({"labels": given.labels} if labelled else {})
    ratios, found = [], []
    before = errors(model, parts)
    print(f"{pipeline or preset}\n{model.name}: {model.stat().st_size:,} bytes, error: {text(before)}", flush=True)
    with tempfile.TemporaryDirectory() as temporary:
        folder = keep or Path(temporary)
        folder.mkdir(parents=True, exist_ok=True)
        for seed in seeds:
            output = folder / f"{seed}.onnx"
            report = compile_model(
                model, output, preset=preset, pipeline=pipeline, density=density, data=samples,
                labels="labels" if labelled else None, min_size=0, seed=seed,
            ).report  # fmt: skip
            trained = [p.facts for p in report.passes if "validation error after" in p.facts]
            own = {"validation": 100 * trained[-1]["validation error after"]} if trained else {}
            ratios.append(report.ratio)
            found.append(own | errors(output, parts))
            size = f"{report.output_bytes:,} bytes {report.ratio:.1f}x"
            print(f"seed {seed}: {size}, error: {text(found[-1])}, {report.seconds:.0f} s", flush=True)
    for label, ratio, choose in (
        ("median", np.median(ratios), np.median),
        ("best", max(ratios), np.min),
        ("worst", min(ratios), np.max),
    ):
        print(f"{label} {ratio:.1f}x, error: {text({name: choose([f[name] for f in found]) for name in found[0]})}")
