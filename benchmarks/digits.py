"""Digits for the benchmarks: a file of images and labels, pixels as the models take them, and a model's error on them.

The .npz holds x_train, x_test (uint8 [n, 28, 28]), y_train and y_test. Models take [n, 1, 28, 28] pixels, less the mean
and over the standard deviation of the training part.
"""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from dc_compiler import get_library_path

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
