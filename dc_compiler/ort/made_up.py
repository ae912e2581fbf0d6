"""Makes inputs up from a model's own description, and keeps those that it runs on and answers to."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import onnx

from dc_compiler import ir
from dc_compiler.ort import shapes
from dc_compiler.ort.data import Feed, InputSpec
from dc_compiler.ort.extents import LARGE, Extents, OpenAxes
from dc_compiler.ort.sessions import short

COUNT = 4
MAX_FAILURES = 60  # runs that fail, after which no more is tried
MORE_EXTENTS = 6  # tried after the first that run, where an input chooses a way and not all ways ran
SIGNAL_LENGTH = 1000  # samples from which on an axis of fixed extent may be a signal in time
# How floats are made, tried in turn until outputs are finite and not constant: logarithms and roots want positive
# numbers, exponentials small ones, and some models are made for pixels
FLOATS = ("normal", "unit", "positive", "small", "pixels")
# How integers that index no table are made: counts and flags want 1 or 0, masks both, lengths the extent of other axes
INTEGERS = ("ones", "random", "zeros", "random")
OTHER_INTEGERS = ("ones", "zeros", "extent", "random")
RICH = 2  # feeds that have much in them, of batches of this many samples where the model takes batches
BATCH = 8
# Multiplications of a run of one, and of one that the model asks for by itself
MOST_WORK, MOST_WORK_OF_ONE = 1_000_000_000, 5_000_000_000
CODES = 128  # integers that index no table, where nothing else is given, are codes below this: bytes or letters
COMPARISONS = frozenset({"Equal", "Greater", "GreaterOrEqual", "Less", "LessOrEqual"})
ON_THE_WAY = frozenset({
    "Add", "Cast", "Div", "Identity", "Mul", "Pad", "Reshape", "Slice", "Squeeze", "Sub", "Transpose", "Unsqueeze",
})  # fmt: skip


@dataclass
class MadeUp:
    """Feeds that the model runs on, and the outputs that it gives for each; or the ``reason`` why there is none."""

    feeds: list[Feed] = field(default_factory=list)
    outputs: list[list[Any]] = field(default_factory=list)
    reason: str | None = None


def feeds(session: Any, specs: Sequence[InputSpec], model: onnx.ModelProto, seed: int, count: int = COUNT) -> MadeUp:
    """Find up to ``count`` feeds that a model runs on: the same for a seed, and cheap for models of any size.

    Open extents are those that the graph asks for, else a few are tried, small ones first and none that would take more
    than a bounded amount of memory (:mod:`dc_compiler.ort.extents`). Floats are standard normal, or of another kind
    where the outputs would not be finite or would be constant; among signals in time are tones and quiet noise.
    Integers lie below the smallest table that they may index, else they are zeros, ones or both, or pixels where bytes
    have three axes or more; single ones also take the values that the graph compares them with, such as a sample rate.
    Booleans take both values.

    Args:
        session: of the original model. specs: its inputs. model: its message; weights are not read.
    """
    maker = _Maker(specs, model, seed)
    errors: list[Exception] = []
    best, more = MadeUp(), MORE_EXTENTS if maker.chooses else 0
    for extents in maker.axes.attempts():
        found = _at(session, maker, extents, count, errors)
        best = max(best, found, key=lambda m: len(m.feeds))
        if len(best.feeds) == count or len(errors) > MAX_FAILURES or (best.feeds and not more):
            break
        more -= bool(best.feeds)
    return best if best.feeds else MadeUp(reason=_reason(specs, maker.axes, errors))


def rich_feeds(session: Any, specs: Sequence[InputSpec], model: onnx.ModelProto, seed: int) -> list[Feed]:
    """A few feeds with much in them, to judge by how far a change moves the outputs; none where a run takes too much.

    They are batches with long axes, noise or signals without masks, as far as the model runs on that. The same for a
    seed.
    """
    maker = _Maker(specs, model, seed)
    errors: list[Exception] = []
    for batch in (BATCH, 1):
        for extents in maker.axes.larger(batch, LARGE, MOST_WORK):
            runs = [_rich_run(session, maker, extents, slot, errors) for slot in maker.unmasked_slots(RICH)]
            if runs[0] is not None:
                return [r.feed for r in runs if r is not None]
            if len(errors) > MAX_FAILURES:
                return []
    found = feeds(session, specs, model, seed, RICH).feeds
    small = shapes.skeleton(model)
    affordable = (
        f for f in found if shapes.cost(small, shapes.infer(small, _dims(f))).multiplications <= MOST_WORK_OF_ONE
    )
    return list(affordable)


def _dims(feed: Feed) -> dict[str, tuple[int, ...]]:
    return {name: array.shape for name, array in feed.items()}


@dataclass
class _Run:
    """A feed, what the model gave for it, and how many of its float outputs say something."""

    feed: Feed
    outputs: list[Any]
    score: int


def _at(session: Any, maker: _Maker, extents: Extents, count: int, errors: list[Exception]) -> MadeUp:
    """Feeds of these extents; what onnxruntime says against others goes to ``errors``."""
    kept: list[_Run] = []
    kind = FLOATS[0]
    spare: tuple[str, ...] = OTHER_INTEGERS if maker.has_integers else ()  # for when the slot's own integers do not run
    for slot in range(count):
        for integers in (None, *spare):
            run = _try(session, maker.feed(extents, slot, kind, integers), errors)
            if run is not None:
                break
        else:
            spare = spare if kept else ()
            continue
        wanted = max((k.score for k in kept), default=2 * len(_floats(run.outputs)))
        if run.score < wanted:  # NaN or constant: floats of another kind may do better
            run, better = _best_kind(session, maker, extents, slot, integers, run, wanted, errors)
            kind = kind if kept else better
        if not kept:
            spare = (integers or INTEGERS[0],) if spare else ()
        kept.append(run)
    best = max((k.score for k in kept), default=0)
    kept = [k for k in kept if k.score > 0 or best == 0]
    return MadeUp([k.feed for k in kept], [k.outputs for k in kept])


def _rich_run(session: Any, maker: _Maker, extents: Extents, slot: int, errors: list[Exception]) -> _Run | None:
    """The run of a feed without masks, of the kind of floats that says most."""
    for integers in (maker.codes, *(OTHER_INTEGERS if maker.has_integers else ())):
        run = _try(session, maker.feed(extents, slot, FLOATS[0], integers), errors)
        if run is not None:
            wanted = 2 * len(_floats(run.outputs))
            if run.score < wanted:
                run, _ = _best_kind(session, maker, extents, slot, integers, run, wanted, errors)
            return run
    return None


def _best_kind(
    session: Any, maker: _Maker, extents: Extents, slot: int, integers: str | None, run: _Run, wanted: int,
    errors: list[Exception],
) -> tuple[_Run, str]:  # fmt: skip
    """The first run that scores ``wanted``, or else the best, and its kind of floats."""
    best, kind = run, FLOATS[0]
    for other in FLOATS[1:]:
        again = _try(session, maker.feed(extents, slot, other, integers), errors)
        if again is not None and again.score > best.score:
            best, kind = again, other
            if best.score >= wanted:
                break
    return best, kind


def _try(session: Any, feed: Feed, errors: list[Exception]) -> _Run | None:
    try:
        outputs = session.run(None, feed)
    except Exception as e:  # onnxruntime's exceptions share no base class; the next guess at the inputs may fit
        errors.append(e)
        return None
    return _Run(feed, outputs, sum(map(_score, _floats(outputs))))


def _floats(value: Any) -> list[np.ndarray]:
    """The float arrays in outputs, sequences included."""
    if isinstance(value, list | tuple):
        return [array for v in value for array in _floats(v)]
    return [value] if isinstance(value, np.ndarray) and value.dtype.kind in "fV" else []


@np.errstate(all="ignore")
def _score(output: np.ndarray) -> int:
    """2 for an output without NaN whose finite values differ, 1 for one with some such values, 0 for others."""
    values = output.astype(np.float64).ravel()
    finite = values[np.isfinite(values)]
    if finite.size == 0 or (finite.size > 1 and finite.min() == finite.max()):
        return 0
    return 1 if np.isnan(values).any() else 2


class _Maker:
    """Makes feeds for one model."""

    def __init__(self, specs: Sequence[InputSpec], model: onnx.ModelProto, seed: int) -> None:
        self._specs, self._seed = specs, seed
        self._bounds = _index_bounds(model)
        self._compared = _compared(specs, model)
        self.chooses = bool(self._compared)
        self._signals = {s.name for s in specs if s.dtype.kind in "fV" and _is_signal(s, model)}
        self.axes = OpenAxes(model, [s.name for s in specs], sorted(self._signals))
        self.has_integers = any(s.dtype.kind in "iu" for s in specs)
        self.codes = "codes" if not self._bounds and all(s.dtype.kind in "iu" for s in specs) else None

    def unmasked_slots(self, count: int) -> list[int]:
        """Slots of feeds with other random numbers each, whose masks hide nothing."""
        return list(range(count)) if self._signals else [COUNT * i for i in range(count)]

    def feed(self, extents: Extents, slot: int, floats: str, integers: str | None) -> Feed:
        """One feed; what is random depends on the seed and the slot. ``integers`` is a kind for all of them when those
        of the slot do not run."""
        random = np.random.default_rng([self._seed, slot])
        result: Feed = {}
        flags = 0
        for spec in self._specs:
            shape = extents.inputs[spec.name]
            if spec.dtype.kind in "iu":
                result[spec.name] = self._integers(spec, shape, slot, integers, extents.main, random)
            elif spec.dtype.kind == "b":
                is_true = (slot >> flags % 2) & 1 == 0
                flags += 1
                single = int(np.prod(shape)) == 1
                result[spec.name] = np.full(shape, is_true) if single or is_true else random.integers(0, 2, shape) > 0
            elif spec.name in self._signals and slot % COUNT and floats == FLOATS[0]:
                result[spec.name] = _signal(shape, slot % COUNT, random).astype(spec.dtype)
            else:
                result[spec.name] = _numbers(shape, floats, random).astype(spec.dtype)
        return result

    def _integers(
        self, spec: InputSpec, shape: tuple[int, ...], slot: int, kind: str | None, main: int,
        random: np.random.Generator,
    ) -> np.ndarray:  # fmt: skip
        rows = self._bounds.get(spec.name)
        if rows is not None and kind is None:
            limit = min(rows, np.iinfo(spec.dtype).max)
            return np.asarray(random.integers(0, max(1, limit), shape)).astype(spec.dtype)
        if kind is None and spec.dtype.itemsize == 1 and len(shape) >= 3:  # pixels
            limits = np.iinfo(spec.dtype)
            return np.asarray(random.integers(limits.min, limits.max + 1, shape)).astype(spec.dtype)
        compared = self._compared.get(spec.name)
        if kind is None and compared and slot % 2 == 0:
            return np.full(shape, compared[slot // 2 % len(compared)], spec.dtype)
        kind = kind or INTEGERS[slot % len(INTEGERS)]
        if kind in ("random", "codes"):
            return np.asarray(random.integers(0, CODES if kind == "codes" else 2, shape)).astype(spec.dtype)
        return np.full(shape, {"ones": 1, "zeros": 0, "extent": main}[kind], spec.dtype)


def _numbers(shape: tuple[int, ...], kind: str, random: np.random.Generator) -> np.ndarray:
    if kind == "unit":
        return np.asarray(random.random(shape))
    if kind == "pixels":
        return np.asarray(random.integers(0, 256, shape)).astype(np.float64)
    values = np.asarray(random.standard_normal(shape))
    return {"normal": values, "positive": np.exp(values), "small": 0.01 * values}[kind]


def _signal(shape: tuple[int, ...], kind: int, random: np.random.Generator) -> np.ndarray:
    """A signal along the last axis that is no loud noise: harmonics of a voice, quiet noise, or one tone."""
    time = np.arange(shape[-1])
    noise = np.asarray(random.standard_normal(shape))
    pitch, phase = random.uniform(0.005, 0.015), random.uniform(0, 2 * np.pi)  # periods a sample
    if kind == 1:
        voice = sum(np.sin(2 * np.pi * pitch * k * time + k * phase) / k**2 for k in range(1, 20))
        return np.asarray(0.3 * voice + 3e-4 * noise)
    if kind == 2:
        return 1e-3 * noise
    return np.asarray(0.5 * np.sin(2 * np.pi * 3 * pitch * time + phase) + 1e-3 * noise)


def _is_signal(spec: InputSpec, model: onnx.ModelProto) -> bool:
    """Whether an input is a long signal in time: [samples], [batch, samples] or [batch, few channels, samples] on the
    way to a one-dimensional convolution or a Fourier transform."""
    dims = spec.dims
    if not 1 <= len(dims) <= 3 or (len(dims) == 3 and dims[1] not in (None, 1, 2)):
        return False
    if dims[-1] is not None and dims[-1] < SIGNAL_LENGTH:
        return False
    kernels = {s.value_name: tuple(s.tensor.dims) for s in ir.weight_sites(model.graph) if s.tensor is not None}
    reached = {spec.name}
    for node in model.graph.node:
        if reached.isdisjoint(node.input):
            continue
        if node.op_type in ("STFT", "DFT"):
            return True
        if node.op_type == "Conv" and _hears(kernels.get(node.input[1], ()), dims[-1] is not None):
            return True
        if node.op_type in ON_THE_WAY:
            reached.update(node.output)
    return False


def _hears(kernel: tuple[int, ...], is_long: bool) -> bool:
    """Whether a convolution's weight slides along time; where the signal's length is open, over many samples."""
    if len(kernel) < 3 or kernel[1] > 2 or any(k != 1 for k in kernel[2:-1]):
        return False
    return is_long or kernel[-1] >= 16


def _index_bounds(model: onnx.ModelProto) -> dict[str, int]:
    """Upper bounds of integer inputs that index a stored table (Gather along axis 0), directly or after a Cast."""
    tables = {s.value_name: s.tensor.dims[0] for s in ir.weight_sites(model.graph) if s.tensor and s.tensor.dims}
    given = _given(model)
    bounds: dict[str, int] = {}
    for node in _nodes(model.graph):
        if node.op_type == "Gather" and node.input[0] in tables and not ir.attribute(node, "axis", 0):
            rows, name = tables[node.input[0]], given.get(node.input[1], node.input[1])
            bounds[name] = min(rows, bounds.get(name, rows))
    return bounds


def _given(model: onnx.ModelProto) -> dict[str, str]:
    """Values that are another in another type or shape, and that other one."""
    given: dict[str, str] = {}
    for node in _nodes(model.graph):
        if node.op_type in ("Cast", "Identity", "Reshape", "Squeeze", "Unsqueeze") and node.input:
            given[node.output[0]] = given.get(node.input[0], node.input[0])
    return given


def _compared(specs: Sequence[InputSpec], model: onnx.ModelProto) -> dict[str, list[int]]:
    """What the graph compares single integers with, sorted: beside 0 and 1, which are tried anyway."""
    limits = {
        s.name: np.iinfo(s.dtype) for s in specs if s.dtype.kind in "iu" and set(s.dims) <= {1} and not s.any_rank
    }
    if not limits:
        return {}
    single = {s.value_name: s.tensor for s in ir.weight_sites(model.graph) if s.tensor and set(s.tensor.dims) <= {1}}
    given = _given(model)
    found: dict[str, set[int]] = {}
    for node in _nodes(model.graph):
        if node.op_type not in COMPARISONS:
            continue
        for value, other in (node.input, node.input[::-1]):
            name, tensor = given.get(value, value), single.get(other)
            if name in limits and tensor is not None and not tensor.external_data:
                number = float(onnx.numpy_helper.to_array(tensor).astype(np.float64).item())
                if number.is_integer() and number not in (0, 1) and limits[name].min <= number <= limits[name].max:
                    found.setdefault(name, set()).add(int(number))
    return {name: sorted(numbers) for name, numbers in found.items()}


def _nodes(graph: onnx.GraphProto) -> Iterator[onnx.NodeProto]:
    return (node for g in ir.walk_graphs(graph) for node in g.node)


def _reason(specs: Sequence[InputSpec], axes: OpenAxes, errors: Sequence[Exception]) -> str:
    """Why no inputs were found, and what to give instead."""
    wanted = ", ".join(f"{s.name} ({s.dtype} {_shape_text(axes.inputs[s.name])})" for s in specs)
    limit = " within a bounded amount of memory" if axes.too_large else ""
    said = f"; onnxruntime: {short(errors[0])}" if errors else ""
    return f"the original runs on none of the made-up inputs{limit}; give --data with {wanted or 'its inputs'}{said}"


def _shape_text(dims: Sequence[int | str | None]) -> str:
    return f"[{', '.join(map(str, dims))}]"
