"""Samples: how data is read, once, and split into parts that train, choose and check."""

from __future__ import annotations

import json
import re
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import pytest
from onnx import TensorProto, helper, numpy_helper
from sklearn.model_selection import StratifiedShuffleSplit

from dc_compiler import compile_model
from dc_compiler.cli import main
from dc_compiler.errors import DataError
from dc_compiler.model import files
from dc_compiler.ort import samples as module
from dc_compiler.ort.data import Batches, Feed, InputSpec, input_specs, read
from dc_compiler.ort.samples import Samples
from dc_compiler.ort.sessions import Sessions

Array = np.ndarray
X = InputSpec("x", np.dtype(np.float32), (None, 4))
TRAINING = "prune(density=0.5),finetune(epochs=1,batch=8),encode"


def numbers(*shape: int) -> Array:
    return np.random.default_rng(0).standard_normal(shape).astype(np.float32)


def classifier(batch: int | str = "n", features: int = 4, classes: int = 3) -> onnx.ModelProto:
    """x [batch, features] times a weight -> y [batch, classes]."""
    x, y = (
        helper.make_tensor_value_info(name, TensorProto.FLOAT, [batch, extent])
        for name, extent in (("x", features), ("y", classes))
    )
    weight = numpy_helper.from_array(numbers(features, classes), "w")
    graph = helper.make_graph([helper.make_node("MatMul", ["x", "w"], ["y"])], "graph", [x], [y], [weight])
    return helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)], ir_version=8)


def make(source: Any, labels: str | None = None, batch: int | str = "n", **options: Any) -> Samples:
    return Samples(source, labels, files.read_model(classifier(batch)), **options)


def feeds_of(model: onnx.ModelProto, count: int, size: int) -> Iterator[Feed]:
    features = model.graph.input[0].type.tensor_type.shape.dim[1].dim_value
    for i in range(count):
        yield {"x": numbers(size, features) + np.float32(i), "label": np.full(size, i % 3)}


# Reading -------------------------------------------------------------------------------------------------------------


def test_specs_come_from_the_model_alone() -> None:
    model = classifier()
    model.graph.input.append(helper.make_tensor_value_info("w", TensorProto.FLOAT, [4, 3]))  # stored: not needed
    model.graph.input.append(helper.make_tensor_value_info("ids", TensorProto.INT64, [2, "t"]))
    assert input_specs(model) == [X, InputSpec("ids", np.dtype(np.int64), (2, None))]
    model.graph.input.append(helper.make_tensor_value_info("text", TensorProto.STRING, [1]))
    with pytest.raises(DataError, match=re.escape("input 'text' is a tensor(string)")):
        input_specs(model)


def test_an_input_without_a_declared_shape_takes_any() -> None:
    model = classifier(features=64)
    model.graph.input[0].type.tensor_type.ClearField("shape")
    assert input_specs(model) == [InputSpec("x", np.dtype(np.float32), (), any_rank=True)]
    for data in ({"x": numbers(40, 64)}, [{"x": numbers(40, 64)}]):
        result = compile_model(model, data=data, min_size=1).report.verification
        assert result is not None
        assert result.worst_cosine is not None
        assert result.worst_cosine > 0.99
    with pytest.raises(DataError, match="'x' is a single number"):
        read({"x": np.float32(3)}, input_specs(model))  # type: ignore[arg-type]


def test_an_archive_is_cut_into_batches(tmp_path: Path) -> None:
    x, labels = numbers(70, 4), np.arange(70)
    np.savez(tmp_path / "d.npz", x=x, label=labels, other=np.zeros(3))
    check = make(tmp_path / "d.npz", "label", trains=False).check
    assert [len(f["x"]) for f in check.feeds] == [32, 32, 6]
    assert [len(f["x"]) for f in check.feeds[:1]] == [32]
    assert np.array_equal(np.concatenate([f["x"] for f in check.feeds]), x)
    assert np.array_equal(check.labels, labels)  # type: ignore[arg-type]


def test_a_fixed_batch_drops_the_rest() -> None:
    """And the labels of the rest."""
    x, labels = numbers(10, 4), np.arange(10)
    given = make({"x": x, "label": labels}, "label", batch=3, trains=False)
    assert [f["x"].shape for f in given.check.feeds] == [(3, 4)] * 3
    kept = given.parts().check
    assert len(set(kept)) == 9
    assert np.array_equal(given.check.labels, labels[kept])  # type: ignore[arg-type]
    assert np.array_equal(np.concatenate([f["x"] for f in given.check.feeds]), x[kept])
    with pytest.raises(DataError, match="2 samples, but the model takes 3 at a time"):
        make({"x": x[:2]}, batch=3, trains=False).read()


def test_inputs_that_fix_different_batches() -> None:
    model = classifier(2)
    model.graph.input.append(helper.make_tensor_value_info("z", TensorProto.FLOAT, [3, 4]))
    given = Samples({"x": numbers(6, 4), "z": numbers(6, 4)}, None, files.read_model(model), trains=False)
    with pytest.raises(DataError, match=r"first extents \[2, 3\]"):
        given.read()


def test_at_most_so_many_are_checked_where_nothing_trains(monkeypatch: pytest.MonkeyPatch) -> None:
    """Drawn from the whole, with the share of each class, and said."""
    monkeypatch.setattr(module, "CHECKED", 100)
    labels = np.repeat([0, 1], [1500, 500])
    given = make({"x": numbers(2000, 4), "label": labels}, "label", trains=False)
    assert given.sizes() == {"train": 0, "validation": 0, "check": 100}
    assert np.bincount(given.check.labels).tolist() == [75, 25]  # type: ignore[arg-type]
    assert given.notes() == ["100 of 2,000 samples check the result"]
    endless = make(({"x": numbers(8, 4)} for _ in iter(int, 1)), trains=False)
    assert endless.count == 104


def test_a_folder(tmp_path: Path) -> None:
    np.save(tmp_path / "x.npy", numbers(5, 4))
    np.save(tmp_path / "label.npy", np.arange(5))
    found = read(tmp_path, [X], "label")
    assert found.count == 5
    assert isinstance(found.feeds[0]["x"], np.memmap)  # read when it is needed
    assert np.array_equal(found.feeds[0]["x"], numbers(5, 4))
    (tmp_path / "label.npy").write_text("no array")
    with pytest.raises(DataError, match="not readable"):
        read(tmp_path, [X], "label")


def test_a_function(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "own_feeds.py").write_text(
        "import numpy as np\n"
        "def feeds():\n"
        "    for i in range(1000):\n"
        "        yield {'x': np.full((8, 4), i, np.float32), 'label': np.full(8, i), 'extra': None}\n"
    )
    monkeypatch.chdir(tmp_path)
    found = read("own_feeds:feeds", [X], "label", limit=512)
    assert found.count == 512
    assert np.array_equal(found.labels, np.repeat(np.arange(64), 8))  # type: ignore[arg-type]
    assert list(found.feeds[0]) == ["x"]


def test_feeds_of_the_caller_stay_as_they_are() -> None:
    given = make(({"x": numbers(n, 4)} for n in (2, 3)), trains=False)
    assert [len(f["x"]) for f in given.check.feeds] == [2, 3]
    assert given.sizes()["check"] == 5


def test_a_generator_may_fill_the_same_buffer_again() -> None:
    def feeds() -> Iterator[Feed]:
        buffer = np.zeros((1, 4), np.float32)
        for i in range(3):
            buffer[:] = i
            yield {"x": buffer}

    assert [f["x"][0, 0] for f in read(feeds(), [X]).feeds] == [0, 1, 2]


@pytest.mark.parametrize(("given", "wanted"), [("f8", "f4"), ("f4", "f2"), ("i4", "i8"), ("u1", "i4")])
def test_number_types_are_converted_within_their_kind(given: Any, wanted: Any) -> None:
    found = read({"x": np.ones((2, 4), given)}, [InputSpec("x", np.dtype(wanted), (None, 4))])
    assert found.feeds[0]["x"].dtype == wanted


def test_lists_of_numbers_do_too() -> None:
    found = read({"x": [[1.0, 2, 3, 4], [5, 6, 7, 8]], "label": [0, 1]}, [X], "label")  # type: ignore[arg-type]
    assert np.array_equal(found.feeds[0]["x"], np.arange(1, 9, dtype=np.float32).reshape(2, 4))
    assert found.labels is not None
    assert found.labels.tolist() == [0, 1]


def test_labels_that_are_no_class_numbers() -> None:
    with pytest.raises(DataError, match="complex128, neither class numbers nor floats"):
        read({"x": numbers(3, 4), "label": np.zeros(3, complex)}, [X], "label")
    with pytest.raises(DataError, match="4 labels for 3 samples"):
        read({"x": numbers(3, 4), "label": np.zeros((4, 3), int)}, [X], "label")
    feeds = [{"x": numbers(1, 4), "label": np.zeros((1, n))} for n in (1, 2)]
    with pytest.raises(DataError, match="labels 'label' of different shapes"):
        read(feeds, [X], "label")


# Splitting -----------------------------------------------------------------------------------------------------------


def test_parts_are_disjoint_and_complete() -> None:
    parts = make({"x": numbers(1000, 4)}).parts()
    assert [len(p) for p in (parts.train, parts.validation, parts.check)] == [810, 90, 100]
    assert np.array_equal(np.sort(np.concatenate([parts.train, parts.validation, parts.check])), np.arange(1000))
    for part in (parts.train, parts.validation, parts.check):
        assert np.array_equal(part, np.sort(part))


def test_every_part_has_its_share_of_every_class() -> None:
    """Also where the data is ordered by class, and classes are of very different size."""
    sizes = np.array([700, 200, 90, 10])
    labels = np.repeat([7, 3, 5, 0], sizes)
    parts = make({"x": numbers(1000, 4), "label": labels}, "label").parts()
    for part, share in ((parts.check, 0.1), (parts.validation, 0.09), (parts.train, 0.81)):
        counts = np.array([(labels[part] == c).sum() for c in (7, 3, 5, 0)])
        assert np.abs(counts - share * sizes).max() <= 1


def test_the_shares_are_those_of_scikit_learns_stratified_split() -> None:
    random = np.random.default_rng(5)
    for classes in (2, 10, 37):
        labels = random.integers(0, classes, 700) ** 2 // classes
        parts = make({"x": numbers(700, 4), "label": labels}, "label").parts()
        wanted = StratifiedShuffleSplit(1, test_size=70, random_state=0).split(labels[:, None], labels)
        _, test = next(wanted)
        counts = (np.bincount(labels[rows], minlength=classes) for rows in (parts.check, test))
        assert np.abs(np.subtract(*counts)).max() <= 1


def test_the_split_depends_on_seed_and_labels_alone() -> None:
    labels = np.random.default_rng(1).integers(0, 5, 300)
    data = {"x": numbers(300, 4), "label": labels}
    first, again = (make(data, "label", seed=3, threads=t).parts() for t in (1, 4))
    assert np.array_equal(first.check, again.check)
    assert np.array_equal(first.train, again.train)
    assert not np.array_equal(first.check, make(data, "label", seed=4).parts().check)
    # pinned: another version of NumPy must draw the same
    assert make({"x": numbers(40, 4)}, seed=0).parts().check.tolist() == [2, 14, 17, 27]


def test_a_larger_validation_part_holds_the_smaller() -> None:
    """So that no pass trains on what another keeps aside, unless it asks for less; the check part stays."""
    given = make({"x": numbers(500, 4)})
    small, large = given.parts(0.1), given.parts(0.4)
    assert set(small.validation) < set(large.validation)
    assert np.array_equal(small.check, large.check)
    assert given.sizes() == {"train": 270, "validation": 180, "check": 50}


@pytest.mark.parametrize("labels", [np.linspace(0, 1, 50), np.arange(50), np.zeros((50, 2), int)])
def test_labels_that_are_not_few_classes_split_too(labels: Array) -> None:
    parts = make({"x": numbers(50, 4), "label": labels}, "label").parts()
    assert [len(p) for p in (parts.train, parts.validation, parts.check)] == [41, 4, 5]


def test_small_data_sets() -> None:
    parts = make({"x": numbers(3, 4)}).parts()
    assert [len(p) for p in (parts.train, parts.validation, parts.check)] == [1, 1, 1]
    with pytest.raises(DataError, match=r"at least three samples .* the data has 2 samples"):
        make({"x": numbers(2, 4)}).read()
    assert "only 1 samples" in make({"x": numbers(3, 4)}).notes()[0]
    assert make({"x": numbers(500, 4)}).notes() == []


def test_fixed_batches_split_into_whole_batches() -> None:
    given = make({"x": numbers(100, 4)}, batch=8)
    parts = given.parts()
    assert [len(p) for p in (parts.train, parts.validation, parts.check)] == [80, 8, 8]
    assert [f["x"].shape for f in given.check.feeds] == [(8, 4)]
    with pytest.raises(DataError, match="at least three batches of 8 samples"):
        make({"x": numbers(23, 4)}, batch=8).read()


def test_feeds_are_joined_where_something_trains() -> None:
    given = make([{"x": numbers(2, 4), "label": np.zeros(2, int)} for _ in range(20)], "label")
    assert given.count == 40
    assert given.inputs["x"].shape == (40, 4)
    scalars: list[Feed] = [{"x": np.zeros((2, 4), np.float32), "label": np.zeros(3, int)}]
    with pytest.raises(DataError, match="3 labels for 2 samples"):
        make(scalars, "label").read()


def test_nothing_is_copied_as_a_whole() -> None:
    x = numbers(1000, 4)
    given = make({"x": x})
    assert given.inputs["x"] is x
    assert isinstance(given.check.feeds, Batches)


# Compiling -----------------------------------------------------------------------------------------------------------


def test_a_generator_is_read_once() -> None:
    """Training and verification share what was read."""
    model = classifier(features=64)
    report = compile_model(model, pipeline=TRAINING, data=feeds_of(model, 30, 10), labels="label", min_size=1).report
    assert report.samples == {"train": 243, "validation": 27, "check": 30}
    assert report.verification is not None
    assert report.verification.accuracy_after is not None


def test_figures_come_from_samples_that_were_not_trained_on() -> None:
    """Labels that say nothing, learnt by heart: right for the samples trained on, a guess for those kept aside."""
    random = np.random.default_rng(0)
    model = classifier(features=256, classes=2)
    data = {"x": random.standard_normal((200, 256)).astype(np.float32), "label": random.integers(0, 2, 200)}
    pipeline = "finetune(epochs=60,batch=8,lr=0.01,validation=0.01),encode(lossless)"
    report = compile_model(model, pipeline=pipeline, data=data, labels="label", min_size=1).report
    training = next(p for p in report.passes if p.name == "finetune").facts
    assert training["training error"] < 0.05
    assert report.verification is not None
    assert report.verification.accuracy_after is not None
    assert report.verification.accuracy_after < 0.8
    assert report.samples == {"train": 178, "validation": 2, "check": 20}
    assert any(note.startswith("only 20 samples") for note in report.notes)


def test_all_samples_are_checked_where_nothing_trains(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    onnx.save(classifier(features=64), tmp_path / "in.onnx")
    np.savez(tmp_path / "d.npz", x=numbers(700, 64))
    paths = [str(tmp_path / name) for name in ("in.onnx", "out.onnx", "d.npz", "r.json")]
    command = ["compile", paths[0], "-o", paths[1], "--data", paths[2], "--json", paths[3], "--preset", "lossless"]
    assert main([*command, "--force"]) == 0  # it is so small that it grows
    assert "samples: 700 to check the result" in capsys.readouterr().out
    report = json.loads((tmp_path / "r.json").read_text())
    assert report["samples"] == {"train": 0, "validation": 0, "check": 700}
    assert report["verification"]["feeds"] == 22


def test_the_original_is_opened_once_for_each_number_of_threads(monkeypatch: pytest.MonkeyPatch) -> None:
    """And never for reading the data."""
    opened: list[int] = []
    real = Sessions._open

    def counted(self: Sessions, content: Any, threads: int, compiled: bool, apart: Any) -> Any:
        opened.append(threads)
        return real(self, content, threads, compiled, apart)

    monkeypatch.setattr(Sessions, "_open", counted)
    model = classifier(features=64)
    data = {"x": numbers(100, 64), "label": np.arange(100) % 3}
    for _ in range(2):
        compile_model(
            model, pipeline=TRAINING, data=data, labels="label", min_size=1, jobs=1, metric="balanced_accuracy"
        )
    # the original, a pair of graphs that train, the compiled model; and all of that again
    assert len(opened) == 2 * 4


def test_bad_data_is_refused_before_any_work(tmp_path: Path) -> None:
    steps: list[str] = []
    with pytest.raises(DataError):
        compile_model(
            classifier(features=64), pipeline=TRAINING, data={"x": numbers(2, 64)}, min_size=1,
            progress=lambda name, *rest: steps.append(name),
        )  # fmt: skip
    assert steps == []
