"""Input data for running models: files and functions given with ``--data``."""

from __future__ import annotations

import importlib
import os
import sys
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, overload

import numpy as np
import onnx

from dc_compiler import ir
from dc_compiler.errors import DataError

Feed = dict[str, np.ndarray]

ORT_DTYPES: dict[str, np.dtype] = {t.ort_name: t.dtype for t in ir.ELEMENT_TYPES if t.carried}


@dataclass(frozen=True)
class InputSpec:
    """One input of a model: its name, dtype and dims (None where the model leaves an extent open).

    ``any_rank`` says that it declares no shape at all; ``dims`` is empty then.
    """

    name: str
    dtype: np.dtype
    dims: tuple[int | None, ...]
    any_rank: bool = False


def input_specs(model: onnx.ModelProto) -> list[InputSpec]:
    """Specs of the inputs that a model needs.

    Raises:
        DataError: an input is not a tensor of numbers, so inputs cannot be made or read for it.
    """
    stored = {t.name for t in model.graph.initializer} | {t.values.name for t in model.graph.sparse_initializer}
    return [_spec(value) for value in model.graph.input if value.name not in stored]


def _spec(value: onnx.ValueInfoProto) -> InputSpec:
    kind = str(value.type.WhichOneof("value") or "value of no known type").removesuffix("_type")
    if kind == "tensor":
        kind = f"tensor({onnx.TensorProto.DataType.Name(value.type.tensor_type.elem_type).lower()})"
    if kind not in ORT_DTYPES:
        raise DataError(f"input '{value.name}' is a {kind}, for which no data can be given")
    tensor = value.type.tensor_type
    extents = (d.dim_value if d.HasField("dim_value") else -1 for d in tensor.shape.dim)
    dims = tuple(e if e >= 0 else None for e in extents)
    return InputSpec(value.name, ORT_DTYPES[kind], dims, any_rank=not tensor.HasField("shape"))


@dataclass(frozen=True)
class Dataset:
    """Samples for a model: ready-made feeds, or, in a table, one feed with all samples along the first axes.

    ``labels`` are the answers to all of them, integers or floats [n, ...]; :func:`fit_labels` brings them into the form
    of an output.
    """

    feeds: Sequence[Feed]
    labels: np.ndarray | None
    is_table: bool = False

    @property
    def count(self) -> int:
        """Number of samples; a feed without any axis counts as one."""
        return sum(_length(feed) for feed in self.feeds)

    def joined(self) -> Dataset:
        """All feeds as a table.

        Raises:
            DataError: the feeds differ in shape, or do not agree on how many samples they have.
        """
        parts = {name: [feed[name] for feed in self.feeds] for name in self.feeds[0]}
        try:
            table = {name: found[0] if len(found) == 1 else np.concatenate(found) for name, found in parts.items()}
            counts = {name: len(array) for name, array in table.items()}
        except (ValueError, TypeError):
            raise DataError(
                "training needs samples of one shape, but the feeds differ or have no axis of samples"
            ) from None
        _check_counts(counts, self.labels, "the data")
        return Dataset([table], self.labels, is_table=True)


class Batches(Sequence[Feed]):
    """Some rows of a table as feeds, each copied out of it when it is asked for."""

    def __init__(self, table: Feed, rows: np.ndarray, size: int) -> None:
        self._table, self._rows, self._size = table, rows, size

    def __len__(self) -> int:
        return -(-len(self._rows) // self._size)

    @overload
    def __getitem__(self, index: int) -> Feed: ...
    @overload
    def __getitem__(self, index: slice) -> list[Feed]: ...
    def __getitem__(self, index: int | slice) -> Feed | list[Feed]:
        if isinstance(index, slice):
            return [self[i] for i in range(*index.indices(len(self)))]
        if not 0 <= index < len(self):
            raise IndexError(index)
        return take(self._table, self._rows[index * self._size :][: self._size])


def take(table: Feed, rows: np.ndarray | slice) -> Feed:
    """The samples of these rows."""
    return {name: np.ascontiguousarray(array[rows]) for name, array in table.items()}


def _length(feed: Feed) -> int:
    return max((a.shape[0] for a in feed.values() if a.ndim), default=1)


def _check_counts(counts: Mapping[str, int], labels: np.ndarray | None, label: str) -> None:
    if len(set(counts.values())) > 1:
        raise DataError(f"{label}: the arrays have different numbers of samples: {dict(counts)}")
    total = next(iter(counts.values()), 0)
    if total == 0:
        raise DataError(f"{label} holds no samples")
    if labels is not None and len(labels) != total:
        raise DataError(f"{label}: there are {len(labels)} labels for {total} samples")


def read(
    source: str | os.PathLike[str] | Mapping[str, np.ndarray] | Iterable[Feed],
    specs: Sequence[InputSpec],
    labels: str | None = None,
    limit: int | None = None,
) -> Dataset:
    """Read data for a model, once; :class:`dc_compiler.ort.samples.Samples` is the owner of what was read.

    Args:
        source: a .npz (arrays named as the inputs, first axis = samples), a folder of .npy files named so, the text
            ``module:function`` (a function that yields input dicts), a mapping of arrays, or an iterable of feeds.
        specs: the model's inputs.
        labels: name of the array that holds the answers, first axis = samples: class numbers, or values as floats.
        limit: feeds are taken until there are so many samples; None takes all.

    Raises:
        DataError: the source is missing or broken, or does not fit the model's inputs.
    """
    if isinstance(source, str | os.PathLike):
        text = os.fspath(source)
        if ":" in text and not Path(text).exists():
            return _from_function(text, specs, labels, limit)
        arrays = _read_folder(Path(text)) if Path(text).is_dir() else _read_npz(Path(text))
        return _from_arrays(arrays, specs, labels, text)
    if isinstance(source, Mapping):
        return _from_arrays(dict(source), specs, labels, "the given data")
    return _from_feeds(source, specs, labels, limit, "the given data")


def _read_npz(path: Path) -> dict[str, np.ndarray]:
    try:
        content = np.load(path, allow_pickle=False)
        if isinstance(content, np.ndarray):
            raise DataError(f"{path} holds a single array; give a .npz with one array an input")
        with content:
            return {name: content[name] for name in content.files}
    except FileNotFoundError:
        raise DataError(f"{path} does not exist") from None
    except DataError:
        raise
    except Exception:  # numpy and zipfile raise many kinds for broken files, and numpy's advice is to unpickle
        remedy = "give one that numpy.savez wrote, without objects"
        raise DataError(f"{path} is not a readable .npz file; {remedy}") from None


def _read_folder(path: Path) -> dict[str, np.ndarray]:
    files = sorted(path.glob("*.npy"))
    if not files:
        raise DataError(f"the folder {path} holds no .npy files")
    try:
        return {f.stem: np.load(f, allow_pickle=False, mmap_mode="r") for f in files}
    except Exception as e:
        raise DataError(f"{path}: not readable: {e}") from None


def _from_arrays(arrays: dict[str, np.ndarray], specs: Sequence[InputSpec], labels: str | None, label: str) -> Dataset:
    chosen: Feed = {}
    for spec in specs:
        if spec.name not in arrays:
            raise DataError(f"{label} has no array '{spec.name}'; it has: {', '.join(sorted(arrays)) or 'none'}")
        if not (spec.dims or spec.any_rank):
            raise DataError(f"input '{spec.name}' is a scalar, without an axis for samples; give module:function")
        chosen[spec.name] = _fitting(np.asanyarray(arrays[spec.name]), spec, label)
        if chosen[spec.name].ndim == 0:
            raise DataError(f"{label}: '{spec.name}' is a single number, without an axis for samples")
    wanted = _labels(arrays, labels, label)
    _check_counts({name: len(a) for name, a in chosen.items()}, wanted, label)
    return Dataset([chosen], wanted, is_table=True)


def _labels(arrays: dict[str, np.ndarray], name: str | None, label: str) -> np.ndarray | None:
    if name is None:
        return None
    if name not in arrays:
        raise DataError(f"{label} has no array '{name}' for the labels; it has: {', '.join(sorted(arrays))}")
    found = np.asanyarray(arrays[name])
    if found.dtype.kind not in "iubf":
        raise DataError(f"{label}: the labels '{name}' are {found.dtype}, neither class numbers nor floats")
    if found.ndim == 0:
        raise DataError(f"{label}: the labels '{name}' are a single number, without an axis for samples")
    return found


def fit_labels(labels: np.ndarray, shape: Sequence[int]) -> np.ndarray:
    """Labels as an output of this shape asks for them; axes of extent 1 do not matter, except the first.

    Args:
        labels: as in :class:`Dataset`. shape: of the output over all samples, [n, ...].

    Returns:
        The values wanted, float32 or float64 of ``shape``, for floats and for labels of the output's own shape; else
        class numbers, int64, one for every vector along the last axis with more than one element.

    Raises:
        DataError: the labels fit neither way, or a class number is none of the output's.
    """
    wide = [*shape[:1], *(d for d in shape[1:] if d != 1)]
    given = [*labels.shape[:1], *(d for d in labels.shape[1:] if d != 1)]
    if given == wide:
        return labels.reshape(shape).astype(np.float64 if labels.dtype == np.float64 else np.float32)
    sizes = f"labels of shape {list(labels.shape)} do not fit outputs of shape {list(shape)}"
    if labels.dtype.kind == "f":
        raise DataError(f"{sizes}; floats are compared one by one, class numbers must be integers")
    if given != wide[:-1]:
        raise DataError(f"{sizes}; give a class number for each of {wide[:-1]}")
    if labels.min() < 0 or labels.max() >= wide[-1]:
        raise DataError(f"labels up to {labels.max()} do not fit outputs of shape {list(shape)}; start at class 0")
    return labels.reshape(wide[:-1]).astype(np.int64)


def _fitting(array: np.ndarray, spec: InputSpec, label: str) -> np.ndarray:
    """The array as the input's dtype, or an error when it cannot be the input."""
    if array.ndim != len(spec.dims) and not spec.any_rank:
        raise DataError(f"{label}: '{spec.name}' has {array.ndim} axes, the model's input has {len(spec.dims)}")
    for axis, (have, want) in enumerate(zip(array.shape[1:], spec.dims[1:], strict=not spec.any_rank), 1):
        if want is not None and have != want:
            raise DataError(f"{label}: '{spec.name}' has extent {have} on axis {axis}, the model's input has {want}")
    if array.dtype == spec.dtype:
        return array
    if array.dtype.kind == "f" and spec.dtype.kind in "fV":
        return array.astype(spec.dtype)
    if array.dtype.kind in "iu" and spec.dtype.kind in "iu":
        return array.astype(spec.dtype)
    raise DataError(f"{label}: '{spec.name}' is {array.dtype}, the model's input is {spec.dtype}")


def _from_function(text: str, specs: Sequence[InputSpec], labels: str | None, limit: int | None) -> Dataset:
    function = import_function(text, "--data")
    try:
        feeds = function()
    except (Exception, SystemExit) as e:  # anything may happen in the user's own code
        raise DataError(f"--data {text} cannot be used: {type(e).__name__}: {e}") from None
    return _from_feeds(feeds, specs, labels, limit, f"--data {text}")


def import_function(text: str, option: str) -> Callable[..., Any]:
    """What ``module:function`` names, looked for in the current folder first.

    Raises:
        DataError: there is no such module, or it has no such function.
    """
    module_name, _, function_name = text.rpartition(":")
    sys.path.insert(0, os.getcwd())
    try:
        function = getattr(importlib.import_module(module_name), function_name)
        if not callable(function):
            raise TypeError(f"'{function_name}' is not callable")
        return function  # type: ignore[no-any-return]
    except (Exception, SystemExit) as e:  # anything may happen in the user's own code
        raise DataError(f"{option} {text} cannot be used: {type(e).__name__}: {e}") from None
    finally:
        sys.path.pop(0)


def _from_feeds(
    feeds: Iterable[Feed], specs: Sequence[InputSpec], labels: str | None, limit: int | None, label: str
) -> Dataset:
    taken: list[Feed] = []
    answers: list[np.ndarray] = []
    samples = 0
    as_array = np.array if isinstance(feeds, Iterator) else np.asarray  # a generator may fill the same buffer again
    try:
        for feed in feeds:
            arrays = {k: as_array(v) for k, v in feed.items()}
            for spec in specs:
                if spec.name not in arrays:
                    raise DataError(f"{label} yields no '{spec.name}'; it yields: {', '.join(sorted(arrays))}")
            taken.append({s.name: _fitting(arrays[s.name], s, label) for s in specs})
            found = _labels(arrays, labels, label)
            if found is not None:
                answers.append(found)
            samples += _length(taken[-1])
            if limit is not None and samples >= limit:
                break
    except DataError:
        raise
    except (Exception, SystemExit) as e:
        raise DataError(f"{label} failed: {type(e).__name__}: {e}") from None
    if not taken:
        raise DataError(f"{label} yields no samples")
    try:
        return Dataset(taken, np.concatenate(answers) if answers else None)
    except ValueError:
        raise DataError(f"{label} yields labels '{labels}' of different shapes; pad them to one") from None
