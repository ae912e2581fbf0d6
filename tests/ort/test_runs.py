"""Two models are compared feed by feed: the same figures as all at once, and outputs of few feeds in memory."""

from __future__ import annotations

import dataclasses
import weakref
from typing import Any, ClassVar

import numpy as np
import onnx
import pytest
from models.graphs import model, node, tensor, weight, x_in, y_out

from dc_compiler.errors import ModelError
from dc_compiler.model import files
from dc_compiler.ort import runs, verify
from dc_compiler.ort.compare import compare
from dc_compiler.ort.data import Batches, Dataset
from dc_compiler.ort.sessions import Sessions

FEEDS = [{"x": weight(3, 64, seed=seed)} for seed in range(9)]


class Session:
    """Gives arrays of 1,000 bytes, and knows how many of all sessions' were alive at most."""

    most = 0

    def __init__(self, fails_at: int | None = None) -> None:
        self._fails_at = fails_at

    def run(self, _: None, feed: dict[str, int]) -> list[np.ndarray]:
        if feed["x"] == self._fails_at:
            raise RuntimeError("no\nmore")
        given = np.full(250, 1.5 + feed["x"], np.float32)
        given[: feed["x"]] = 0
        Held.alive.add(held := given.view(Held))
        Session.most = max(Session.most, len(Held.alive))
        return [held]


class Held(np.ndarray):
    """An array that can be counted."""

    alive: ClassVar[weakref.WeakSet[Any]] = weakref.WeakSet()

    def __hash__(self) -> int:  # type: ignore[override]
        return id(self)

    def __eq__(self, other: object) -> Any:
        return self is other if isinstance(other, Held) else super().__eq__(other)


def two_outputs(scale: float) -> onnx.ModelProto:
    nodes = [node("MatMul", ["x", "w"], ["y"]), node("ArgMax", ["y"], ["top"], axis=1)]
    outputs = [y_out("batch", 48), onnx.helper.make_tensor_value_info("top", onnx.TensorProto.INT64, None)]
    noisy = weight(64, 48) + np.float32(scale) * weight(64, 48, seed=5)
    return model(nodes, [x_in("batch", 64)], outputs, [tensor("w", noisy)])


@pytest.mark.parametrize("held", [0, 1000, 1 << 20], ids=["one feed", "some", "all"])
@pytest.mark.parametrize("scale", [0.0, 0.3])
def test_figures_do_not_depend_on_what_is_held(held: int, scale: float, monkeypatch: pytest.MonkeyPatch) -> None:
    """To the last bit, and equal to those of all outputs at once."""
    sessions = [Sessions().open(two_outputs(s)) for s in (0, scale)]
    before, after = ([session.run(None, f) for f in FEEDS] for session in sessions)
    monkeypatch.setattr(runs, "HELD", held)
    labels = np.arange(27) % 48
    result = verify.verify(files.read_model(two_outputs(0)), two_outputs(scale), Dataset(FEEDS, labels))
    for i, output in enumerate(result.outputs):
        wanted = compare(output.name, [b[i] for b in before], [a[i] for a in after])
        assert dataclasses.asdict(output) == dataclasses.asdict(wanted)
    assert result.identical == (scale == 0)
    joined = [np.concatenate([r[0] for r in found]) for found in (before, after)]
    accuracies = [float((j.argmax(1) == labels).mean()) for j in joined]
    assert [result.accuracy_before, result.accuracy_after] == accuracies


@pytest.mark.parametrize(("held", "most"), [(0, 3), (3500, 6), (1 << 20, 52)])
def test_outputs_of_few_feeds_are_in_memory(held: int, most: int, monkeypatch: pytest.MonkeyPatch) -> None:
    """What is held, the feed after it that tells that it is enough, and one of each model."""
    monkeypatch.setattr(runs, "HELD", held)
    Held.alive.clear()
    Session.most = 0
    feeds: list[Any] = [{"x": i} for i in range(50)]
    before = runs.Answers(runs.Runner(Session(), "one"), feeds)
    assert before.complete == (held > 50_000)
    (output,) = runs.compare_runs(["y"], before, runs.Runner(Session(), "other"))
    assert output.identical
    assert Session.most <= most
    assert len(before._held) == min(50, held // 1000 + 1)


def test_samples_are_cut_from_the_table_as_they_are_needed(monkeypatch: pytest.MonkeyPatch) -> None:
    """A part of the batches is never asked for as a whole."""
    batches = Batches({"x": weight(30, 64)}, np.arange(30), 4)
    monkeypatch.setattr(runs, "HELD", 1000)
    monkeypatch.setattr(Batches, "__getitem__", lambda b, i: _one(b, i))
    session = Sessions().open(two_outputs(0))
    answers = runs.Answers(runs.Runner(session, "one"), batches)
    assert not answers.complete
    assert sum(len(old[0]) for _, old in answers.pairs()) == 30


def _one(batches: Batches, index: int) -> dict[str, np.ndarray]:
    assert isinstance(index, int)
    return {"x": batches._table["x"][batches._rows[index * 4 :][:4]]}


@pytest.mark.parametrize("held", [0, 1 << 20])
def test_a_run_that_fails_names_its_model(held: int, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(runs, "HELD", held)
    feeds: list[Any] = [{"x": i} for i in range(5)]
    good, bad = runs.Runner(Session(), "one"), runs.Runner(Session(3), "other")
    with pytest.raises(ModelError, match=r"^other does not run on the inputs: no more$"):
        runs.compare_runs(["y"], runs.Answers(good, feeds), bad)
    with pytest.raises(ModelError, match=r"^other does not run"):
        runs.compare_runs(["y"], runs.Answers(bad, feeds), good)


def test_the_original_is_freed_before_the_result_is_loaded(monkeypatch: pytest.MonkeyPatch) -> None:
    """Where its outputs are few; else both models are in memory, and afterwards none."""
    sessions = Sessions()
    seen: list[int] = []
    opened = verify._open_compiled

    def watched(*arguments: Any) -> Any:
        seen.append(len(sessions._originals))
        return opened(*arguments)

    monkeypatch.setattr(verify, "_open_compiled", watched)
    for held in (1 << 20, 0):
        monkeypatch.setattr(runs, "HELD", held)
        verify.verify(files.read_model(two_outputs(0)), two_outputs(0.3), Dataset(FEEDS, None), sessions=sessions)
        assert not sessions._originals
    assert seen == [0, 1]


def test_what_lists_and_maps_take_is_counted() -> None:
    array = np.zeros((2, 8), np.float32)
    assert runs._size(array) == 64
    assert runs._size([array, array]) == 2 * (64 + runs.ENTRY)
    assert runs._size([{1: 0.5, 2: 0.5}]) == 3 * runs.ENTRY
    assert runs._size(None) == 0
