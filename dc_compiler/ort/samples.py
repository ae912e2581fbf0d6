"""The samples given with ``--data``: read once, split once, and what the original model answers to them."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from functools import cached_property
from typing import Any

import numpy as np
import onnx
from onnx import helper

from dc_compiler.codec import binding
from dc_compiler.errors import DataError, ModelError
from dc_compiler.model import files
from dc_compiler.ort import data
from dc_compiler.ort.sessions import Sessions, short

Array = np.ndarray
BATCH = 256  # samples a run where nothing is trained and the model leaves it open
CHECK_BATCH = 32  # samples a run of the check part
CHECK = 0.1  # share of the samples that only the figures shown are made of, where something is trained
VALIDATION = 0.1  # share of the rest that chooses what is kept of a training
CALIBRATED = 32  # least samples that settings are found on by default, or feeds where these differ in shape
CALIBRATED_BATCHES = 6  # likewise of batches, where the model fixes how many samples they have
CALIBRATION_CHECK, CALIBRATION_VALIDATION = 0.15, 0.4  # likewise where few are enough to calibrate
CHECKED = 10_000  # most samples that are checked where nothing is trained
FEW = 50  # figures made of fewer samples say little


@dataclass(frozen=True)
class Parts:
    """Rows of the samples, disjoint and in ascending order: what is trained on, what chooses the best state, and what
    the figures shown are made of."""

    train: Array
    validation: Array
    check: Array


class Samples:
    """The samples given with ``--data`` and the answers to them: labels, or the outputs of the original model.

    They are read once, on first use, and split once: depending on the seed, on their number and on their labels alone.
    Where something is trained, ``CHECK`` of them are the check part and ``VALIDATION`` of the rest the validation part,
    each with the share of every class that the whole has; larger shares where something is calibrated, which takes
    fewer samples; otherwise all are the check part, or ``CHECKED`` of them. Where feeds differ in shape, so that there
    is no table of samples, calibration splits the feeds.

    Args:
        source, labels: as for :func:`dc_compiler.ort.data.read`.
        original: the model before compilation.
        trains: whether something is trained on them. calibrates: whether a pass calibrates on them, trained or not.
        sessions: opens the models to run, with the libraries they need.
        threads: runs of the model at a time. Every run has one thread of its own, so that results do not depend on it.
    """

    def __init__(
        self, source: Any, labels: str | None, original: files.SourceModel, *, trains: bool = True,
        calibrates: bool = False, seed: int = 0, threads: int = 1, sessions: Sessions | None = None,
    ) -> None:  # fmt: skip
        self.sessions = sessions or Sessions()
        self._source, self._label_name, self._original = source, labels, original
        self._trains, self._splits, self._seed = trains, trains or calibrates, seed
        self._calibrates = calibrates
        few = calibrates or not trains
        self._check = CALIBRATION_CHECK if few else CHECK
        self._validation = CALIBRATION_VALIDATION if few else VALIDATION
        self._outputs: dict[str, Array] = {}
        self._answering: dict[str, Any] = {}  # sessions of the original, by the value that they give
        self._left_out = 0
        self.threads = threads
        self.pool = ThreadPoolExecutor(threads, initializer=binding.flush_denormals)

    @cached_property
    def _specs(self) -> list[data.InputSpec]:
        return data.input_specs(self._original.proto)

    @cached_property
    def _dataset(self) -> data.Dataset:
        found = data.read(self._source, self._specs, self._label_name, None if self._splits else CHECKED)
        self._source = None
        if self._trains:
            found = found.joined()
        return self._in_batches(found) if self._splits and found.is_table else found

    def _in_batches(self, table: data.Dataset) -> data.Dataset:
        """The samples that fill batches, where the model fixes how many these have."""
        count, unit = table.count, self._unit or 1
        self._left_out = count % unit if count > unit else 0
        if not self._left_out:
            return table
        whole = slice(0, count - self._left_out)
        labels = None if table.labels is None else table.labels[whole]
        return data.Dataset([data.take(table.feeds[0], whole)], labels, is_table=True)

    def read(self) -> None:
        """Read and split the data now, so that what does not fit is refused before any work.

        Raises:
            DataError
        """
        self.sizes()

    def only_check(self) -> None:
        """Use all samples as check part after all; before any part was looked at."""
        self._splits = False

    @cached_property
    def _table(self) -> data.Dataset:
        return self._dataset if self.is_table else self._dataset.joined()

    @property
    def inputs(self) -> data.Feed:
        """All samples: one array an input, first axis = samples.

        Raises:
            DataError: the data cannot be read, or its feeds have different shapes.
        """
        return self._table.feeds[0]

    @property
    def labels(self) -> Array | None:
        """The answers to the samples, [n, ...] as in the data, or None."""
        return self._dataset.labels

    @property
    def count(self) -> int:
        """Number of samples."""
        return self._dataset.count

    @property
    def too_few(self) -> str | None:
        """Why settings are not found on these samples by default, as a sentence; None where they are."""
        least = max(CALIBRATED, CALIBRATED_BATCHES * (self.fixed_batch or 1))
        if self.examples >= least:
            return None
        return f"{self.examples} samples are too few to calibrate on; give {least} or more"

    @property
    def examples(self) -> int:
        """What can be shared out: samples, or feeds where there is no table."""
        return self.count if self.is_table else len(self._dataset.feeds)

    @property
    def is_table(self) -> bool:
        """Whether there are rows to choose from; else feeds are run as they were given."""
        return self._dataset.is_table

    @property
    def fixed_batch(self) -> int | None:
        """Samples a run where the model fixes the first extents of its inputs, else None.

        It does not matter where there is no table to cut.

        Raises:
            DataError: it fixes them differently, so that nothing can be cut from arrays for it.
        """
        return self._unit if self.is_table else None

    @property
    def _unit(self) -> int | None:
        extents = {spec.dims[0] for spec in self._specs if spec.dims} - {None}
        if len(extents) > 1:
            raise DataError(
                f"the inputs have first extents {sorted(e or 0 for e in extents)}, so arrays of samples cannot be cut "
                "for them; give module:function that yields whole inputs"
            )
        return extents.pop() or None if extents else None

    @cached_property
    def check(self) -> data.Dataset:
        """The check part, as feeds with their labels.

        Raises:
            DataError: the data cannot be read, or is too small to be split.
        """
        found = self._dataset
        if not found.is_table and not self._splits:
            return found
        rows = self.parts().check
        if not found.is_table:
            return data.Dataset([found.feeds[i] for i in rows], None)
        feeds = data.Batches(found.feeds[0], rows, self.fixed_batch or CHECK_BATCH)
        return data.Dataset(feeds, None if found.labels is None else found.labels[rows])

    def parts(self, validation: float | None = None) -> Parts:
        """Rows of the three parts; of a table alone.

        Args:
            validation: its share of what is not checked, but where something is calibrated; a smaller part lies within
                a larger one.

        Raises:
            DataError: too few samples.
        """
        count, unit = self.examples, (self.fixed_batch or 1) if self.is_table else 1
        if count < unit:
            raise DataError(f"the data holds {count} samples, but the model takes {unit} at a time")
        if not self._splits:
            nothing = np.arange(0)
            return Parts(nothing, nothing, np.sort(self._order[: min(count, max(CHECKED, unit)) // unit * unit]))
        if validation is not None and not self._calibrates:
            self._validation = validation
        checked = _some_of(count, self._check, unit)
        held = _some_of(count - checked, self._validation, unit)
        if count - checked - held < unit:
            parts = "one to train on, one to choose the best state, one to check the result"
            batches = "samples" if unit == 1 else f"batches of {unit} samples"
            what = "training" if self._trains else "calibration"
            raise DataError(f"{what} needs at least three {batches} ({parts}), the data has {count} samples")
        cuts = np.split(self._order, [checked, checked + held])
        return Parts(train=np.sort(cuts[2]), validation=np.sort(cuts[1]), check=np.sort(cuts[0]))

    def for_statistics(self) -> Array:
        """Rows that statistics are taken of: the train part, or all that check where nothing is shared out."""
        parts = self.parts()
        return parts.train if len(parts.train) else parts.check

    def sizes(self) -> dict[str, int]:
        """Number of samples in each part."""
        if not self.is_table and not self._splits:
            return {"train": 0, "validation": 0, "check": self.count}
        parts = self.parts()
        return {"train": len(parts.train), "validation": len(parts.validation), "check": len(parts.check)}

    def notes(self) -> list[str]:
        """What a reader of the figures should know about their samples."""
        checked = self.sizes()["check"]
        found = []
        if self._left_out:
            found.append(f"{self._left_out} samples that fill no batch of {self.fixed_batch} were left out")
        if self._splits and checked < FEW:
            found.append(
                f"only {checked} samples, kept from training, check the result; give more data for surer figures"
            )
        if self.is_table and checked < self.count and not self._splits:
            found.append(f"{checked:,} of {self.count:,} samples check the result")
        return found

    def batches(self, rows: Array, size: int) -> Sequence[data.Feed]:
        """The samples of these rows, so many in a feed; feeds as they were given where there is no table."""
        if self.is_table:
            return data.Batches(self.inputs, rows, size)
        return [self._dataset.feeds[i] for i in rows]

    @cached_property
    def _order(self) -> Array:
        """All rows, shuffled so that every stretch has about the share of each class that the whole has.

        The i-th of n samples of a class lies at (i + u) / n of the way, with a random u for each class. Only raw draws
        are used, which are the same in every version of NumPy.
        """
        labels = self.labels
        count = self.examples
        generator = np.random.PCG64([self._seed, count])
        order = np.argsort(generator.random_raw(count), kind="stable")
        if not self.is_table or labels is None or labels.dtype.kind not in "iub" or labels.size != self.count:
            return order
        classes, of_class, sizes = np.unique(labels.ravel()[order], return_inverse=True, return_counts=True)
        by_class = np.argsort(of_class, kind="stable")
        within = np.empty(self.count)
        within[by_class] = np.arange(self.count) - np.repeat(np.cumsum(sizes) - sizes, sizes)
        start = generator.random_raw(len(classes)) / 2.0**64
        return order[np.argsort((within + start[of_class]) / sizes[of_class], kind="stable")]

    def original_output(self, value: str) -> Array:
        """What the original computes for a value of its main graph, over all samples: [n, ...].

        Raises:
            ModelError: the original does not run on the samples, or the value is no tensor or has no row for each.
        """
        if value not in self._outputs:
            self._outputs[value] = self._answers(self._session_with(value), value, self.inputs, BATCH)
        return self._outputs[value]

    def original_answers(self, value: str, inputs: data.Feed) -> Array:
        """What the original computes for a value of its main graph, given other inputs than these samples: [n, ...].

        Raises:
            ModelError: as :meth:`original_output`.
        """
        if value not in self._answering:
            self._answering[value] = self._session_with(value)
        return self._answers(self._answering[value], value, inputs, CHECK_BATCH)

    def _answers(self, session: Any, value: str, inputs: data.Feed, batch: int) -> Array:
        cuts = runs(len(next(iter(inputs.values()))), self.fixed_batch or batch)
        parts = self.pool.map(lambda rows: self._rows_of(session, value, data.take(inputs, rows)), cuts)
        return np.concatenate(list(parts))

    def _rows_of(self, session: Any, value: str, inputs: data.Feed) -> Array:
        count = len(next(iter(inputs.values())))
        try:
            output = session.run([value], inputs)[0]
        except Exception as e:  # onnxruntime's exceptions share no base class
            raise ModelError(f"the original does not run on {count} samples of the data: {short(e)}") from None
        if not isinstance(output, np.ndarray):
            raise ModelError(f"the model cannot be trained: '{value}' is no tensor")
        if output.shape[:1] != (count,):
            raise ModelError(
                f"the model cannot be trained: '{value}' has no row for each sample along its first axis, but is "
                f"{list(output.shape)} for {count} samples along the first axis of the inputs"
            )
        return output

    def _session_with(self, value: str) -> Any:
        """A session of the original with this value among its outputs."""
        given = self._original
        if any(o.name == value for o in given.proto.graph.output):
            return self.sessions.original(given, 1)
        source = files.read_model(given.path if given.path is not None else given.proto)
        files.embed_external_data(source)
        expose(source.proto, value)
        return self.sessions.open(source.proto, 1)

    def take(self, rows: Array | slice) -> data.Feed:
        """The samples of these rows."""
        return data.take(self.inputs, rows)


def runs(count: int, batch: int) -> Iterator[slice]:
    """Slices of at most ``batch`` that cover ``range(count)``."""
    for start in range(0, count, batch):
        yield slice(start, min(count, start + batch))


def _some_of(count: int, share: float, unit: int) -> int:
    """About a share of so many samples: a multiple of ``unit``, not zero."""
    return max(1, round(count * share / unit)) * unit


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
