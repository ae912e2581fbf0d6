"""The samples that passes train on, and what the original model answers to them."""

from __future__ import annotations

from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from functools import cached_property
from typing import Any

import numpy as np
import onnx
from onnx import helper

from dc_compiler.codec import binding
from dc_compiler.errors import DataError
from dc_compiler.model import files
from dc_compiler.ort import data
from dc_compiler.ort.sessions import Sessions

Array = np.ndarray
BATCH = 256  # samples a run where nothing is trained and the model leaves it open


class TrainingData:
    """The samples given with ``--data`` and the answers to them: labels, or the outputs of the original model.

    Args:
        source, labels: as for :func:`dc_compiler.ort.data.load_dataset`; every sample is used.
        original: the model before compilation.
        sessions: opens the models to run, with the libraries they need.
        threads: runs of the model at a time. Every run has one thread of its own, so that results do not depend on it.

    Reading happens on first use.
    """

    def __init__(
        self,
        source: Any,
        labels: str | None,
        original: files.SourceModel,
        threads: int,
        sessions: Sessions | None = None,
    ) -> None:
        self.sessions = sessions or Sessions()
        self._source, self._label_name, self._original = source, labels, original
        self._outputs: dict[str, Array] = {}
        self.pool = ThreadPoolExecutor(threads, initializer=binding.flush_denormals)

    @cached_property
    def _dataset(self) -> data.Dataset:
        session = self.sessions.original(self._original, 1)
        return data.load_dataset(self._source, data.input_specs(session), self._label_name, limit=2**62, batch=2**62)

    @cached_property
    def inputs(self) -> data.Feed:
        """All samples: one array an input, first axis = samples.

        Raises:
            DataError: the data cannot be read, or its feeds have different shapes.
        """
        feeds = self._dataset.feeds
        try:
            return {k: v if len(feeds) == 1 else np.concatenate([f[k] for f in feeds]) for k, v in feeds[0].items()}
        except ValueError:
            raise DataError("training needs samples of one shape, but the feeds differ") from None

    @property
    def labels(self) -> Array | None:
        """The answers to the samples, [n, ...] as in the data, or None."""
        return self._dataset.labels

    @property
    def count(self) -> int:
        """Number of samples."""
        return len(next(iter(self.inputs.values())))

    @property
    def fixed_batch(self) -> int | None:
        """Samples a run where the model fixes its first extent, else None."""
        extents = {_first_extent(i) for i in _real_inputs(self._original.proto.graph)} - {None}
        return max(extents, key=lambda e: e or 0, default=None)

    def original_output(self, value: str) -> Array:
        """What the original computes for a value of its main graph, over all samples: [n, ...]."""
        if value not in self._outputs:
            given = self._original
            source = files.read_model(given.path if given.path is not None else given.proto)
            files.embed_external_data(source)
            model = source.proto
            expose(model, value)
            session = self.sessions.open(model, 1)
            batch = self.fixed_batch or BATCH
            parts = self.pool.map(lambda rows: session.run([value], self.take(rows))[0], runs(self.count, batch))
            self._outputs[value] = np.concatenate(list(parts))
        return self._outputs[value]

    def take(self, rows: Array | slice) -> data.Feed:
        """The samples of these rows."""
        return {k: np.ascontiguousarray(v[rows]) for k, v in self.inputs.items()}


def runs(count: int, batch: int) -> Iterator[slice]:
    """Slices of at most ``batch`` that cover ``range(count)``."""
    for start in range(0, count, batch):
        yield slice(start, min(count, start + batch))


def _real_inputs(graph: onnx.GraphProto) -> list[onnx.ValueInfoProto]:
    stored = {t.name for t in graph.initializer}
    return [i for i in graph.input if i.name not in stored]


def _first_extent(value: onnx.ValueInfoProto) -> int | None:
    dims = value.type.tensor_type.shape.dim
    return int(dims[0].dim_value) or None if dims else None


def expose(model: onnx.ModelProto, value: str) -> None:
    """Make a value of the main graph an output."""
    if all(o.name != value for o in model.graph.output):
        model.graph.output.append(helper.make_tensor_value_info(value, element_type(model, value), None))


def element_type(model: onnx.ModelProto, value: str) -> int:
    """Element type of a value of the main graph; float32 when inference does not find it."""
    inferred = onnx.shape_inference.infer_shapes(model).graph
    for info in (*inferred.value_info, *inferred.output, *inferred.input):
        if info.name == value and info.type.tensor_type.elem_type:
            return int(info.type.tensor_type.elem_type)
    return int(onnx.TensorProto.FLOAT)
