"""Made-up inputs: extents that fit and are bounded in cost, both ways through branches, outputs that say something."""

from __future__ import annotations

import json
import resource
import subprocess
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import pytest
from models.graphs import BOOL, F32, I64, body, info, model, node, tensor, weight, x_in, y_out

from dc_compiler import compile_model
from dc_compiler.ort import data, extents, made_up
from dc_compiler.ort.sessions import Sessions

GIB = 1 << 30
U8 = onnx.TensorProto.UINT8


def made_for(net: onnx.ModelProto, seed: int = 0, count: int = 4) -> made_up.MadeUp:
    return made_up.feeds(Sessions().open(net), data.input_specs(net), net, seed, count)


def shapes_of(net: onnx.ModelProto) -> dict[str, tuple[int, ...]]:
    found = made_for(net, count=1)
    assert found.reason is None
    return {name: array.shape for name, array in found.feeds[0].items()}


def unet(*free: str) -> onnx.ModelProto:
    """Two levels of a 3-D U-Net; ``free`` names its input's axes, of which c must be 2 and d, h, w multiples of 2."""

    def conv(x: str, w: str, y: str, stride: int = 1) -> onnx.NodeProto:
        return node("Conv", [x, w], [y], pads=[1] * 6, strides=[stride] * 3)

    nodes = [
        conv("x", "w0", "a"),
        conv("a", "w1", "b", 2),
        node("ConvTranspose", ["b", "u"], ["c"], strides=[2] * 3),
        node("Concat", ["c", "a"], ["e"], axis=1),
        conv("e", "w2", "y"),
    ]
    sizes = {"w0": (8, 2, 3, 3, 3), "w1": (16, 8, 3, 3, 3), "u": (16, 8, 2, 2, 2), "w2": (2, 16, 3, 3, 3)}
    weights = [tensor(name, weight(*shape)) for name, shape in sizes.items()]
    return model(nodes, [x_in(*free)], [y_out("n", 2, "d", "h", "w")], weights)


# Extents -------------------------------------------------------------------------------------------------------------


def test_channels_come_from_the_weights() -> None:
    assert shapes_of(unet("n", "c", "d", "h", "w")) == {"x": (1, 2, 16, 16, 16)}


def test_a_model_of_open_axes_is_compiled_within_bounds(tmp_path: Path) -> None:
    """In a process that has little memory: with wrong extents tried blindly this took more than 20 GiB."""
    onnx.save(unet("n", "c", "d", "h", "w"), tmp_path / "in.onnx")
    command = [sys.executable, "-m", "dc_compiler", "compile", "in.onnx", "-o", "out.onnx", "--json", "r.json"]

    def limit() -> None:
        resource.setrlimit(resource.RLIMIT_AS, (6 * GIB, 6 * GIB))

    done = subprocess.run(
        command, cwd=tmp_path, capture_output=True, text=True, timeout=60, preexec_fn=limit, check=False
    )
    assert done.returncode == 0, done.stderr
    assert "output y: max error" in done.stdout
    assert json.loads((tmp_path / "r.json").read_text())["peak_memory"] < GIB // 2


def test_what_would_cost_too_much_is_left_out_with_a_note() -> None:
    """A product of 2^20 columns, of rows that an axis of at least 16 makes out of each other."""
    net = model(
        [node("Expand", ["x", "shape"], ["wide"]), node("MatMul", ["wide", "w"], ["y"])],
        [x_in("n", "k", 64)],
        [y_out("n", "k", 48)],
        [tensor("w", weight(64, 48)), tensor("shape", np.array([1 << 24, 1, 1]))],
    )
    found = made_for(net)
    assert found.feeds == []
    assert found.reason is not None
    assert "within a bounded amount of memory; give --data with x (float32 [n, k, 64])" in found.reason


def test_one_symbol_has_one_extent_everywhere() -> None:
    net = model(
        [node("MatMul", ["mask", "x"], ["s"]), node("MatMul", ["s", "w"], ["y"])],
        [x_in("n", 64), info("mask", F32, 1, "n")],
        [y_out(1, 48)],
        [tensor("w", weight(64, 48))],
    )
    assert shapes_of(net) == {"x": (16, 64), "mask": (1, 16)}


def test_a_sum_of_symbols() -> None:
    """As exporters name the extent of past and present together."""
    net = model(
        [
            node("Concat", ["past", "x"], ["all"], axis=1),
            node("Mul", ["all", "mask"], ["m"]),
            node("MatMul", ["m", "w"], ["y"]),
        ],
        [x_in("b", "s", 64), info("past", F32, "b", "p", 64), info("mask", F32, "b", "p + s", 1)],
        [y_out("b", "p + s", 48)],
        [tensor("w", weight(64, 48))],
    )
    assert shapes_of(net) == {"x": (1, 16, 64), "past": (1, 16, 64), "mask": (1, 32, 1)}


def test_extents_of_products_states_and_sums() -> None:
    """The inner extent of a product, the sizes of a recurrent layer's state, and what is added to a stored row."""
    sizes = {"bias": (12,), "w": (1, 24, 12), "r": (1, 24, 8), "v": (8, 48)}
    net = model(
        [
            node("Add", ["x", "bias"], ["a"]),
            node("GRU", ["a", "w", "r", "", "", "h"], ["", "last"], hidden_size=8),
            node("MatMul", ["last", "v"], ["y"]),
        ],
        [x_in("t", "b", "k"), info("h", F32, "one", "b", "hidden")],
        [y_out(1, "b", 48)],
        [tensor(name, weight(*shape)) for name, shape in sizes.items()],
    )
    found = shapes_of(net)
    assert found["x"][2] == 12
    assert (found["h"][0], found["h"][2]) == (1, 8)
    assert found["x"][1] == found["h"][1]


def test_an_extent_that_only_one_size_fits() -> None:
    """Flattened rows of 3 x 44 x 44: found by inference alone, without a run that fails."""
    net = model(
        [node("Flatten", ["x"], ["f"]), node("Gemm", ["f", "w"], ["y"])],
        [x_in("n", 3, "h", "w")],
        [y_out("n", 2)],
        [tensor("w", weight(3 * 44 * 44, 2))],
    )
    runs = 0
    session = Sessions().open(net)

    class Counting:
        def run(self, names: Any, feed: Any) -> Any:
            nonlocal runs
            runs += 1
            return session.run(names, feed)

    found = made_up.feeds(Counting(), data.input_specs(net), net, 0)
    assert [f["x"].shape for f in found.feeds] == [(1, 3, 44, 44)] * 4
    assert runs == 4


def test_what_broadcasts_may_be_one() -> None:
    """The graph adds a stored row of 8, so k looks like 8; only a second product shows that it must be 1."""
    net = model(
        [
            node("Add", ["x", "row"], ["a"]),
            node("MatMul", ["a", "w"], ["h"]),
            node("MatMul", ["x", "one"], ["z"]),
            node("Add", ["h", "z"], ["y"]),
        ],
        [x_in("n", "k")],
        [y_out("n", 48)],
        [tensor("row", weight(8)), tensor("w", weight(8, 48)), tensor("one", weight(1, 48))],
    )
    assert shapes_of(net) == {"x": (1, 1)}


def test_axes_without_a_name_are_not_one() -> None:
    """Exporters write '?' for any open axis."""
    nodes = [node("MatMul", ["x", "w"], ["a"]), node("MatMul", ["b", "v"], ["c"])]
    weights = [tensor("w", weight(64, 48)), tensor("v", weight(24, 48))]
    net = model(nodes, [x_in("n", "?"), info("b", F32, "n", "?")], [info("a", F32), info("c", F32)], weights)
    for output in net.graph.output:
        output.type.tensor_type.ClearField("shape")
    assert shapes_of(net) == {"x": (1, 64), "b": (1, 24)}


def test_inputs_are_bounded_where_nothing_is_known() -> None:
    """An operator of another library: no shape behind it is known, so its inputs are the only measure."""
    nodes = [onnx.helper.make_node("Own", ["x"], ["y"], domain="else.where")]
    net = model(nodes, [x_in("n", "a", "b", "c", "d")], [y_out("n")], domains=[("else.where", 1)])
    axes = extents.OpenAxes(net, ["x"])
    sizes = [int(np.prod(a.inputs["x"])) for a in axes.attempts()]
    assert max(sizes) == 64**4
    assert axes.too_large


def test_failing_runs_are_bounded() -> None:
    net = flagged([info("i", I64, "a"), info("j", I64, "b"), info("m", BOOL, "c")])
    runs = 0

    class Failing:
        def run(self, names: Any, feed: Any) -> Any:
            nonlocal runs
            runs += 1
            raise RuntimeError("no")

    found = made_up.feeds(Failing(), data.input_specs(net), net, 0)
    assert runs < 80
    assert found.reason is not None
    assert found.reason.endswith("i (int64 [a]), j (int64 [b]), m (bool [c]); onnxruntime: no")


def test_attempts_grow_and_end() -> None:
    net = model([node("Relu", ["x"], ["y"])], [x_in("n", "a", "b")], [y_out("n", "a", "b")])
    attempts = [a.inputs["x"] for a in extents.OpenAxes(net, ["x"]).attempts()]
    assert attempts[0] == (1, 16, 16)
    assert len(attempts) == len(extents.EXTENTS)


# Values --------------------------------------------------------------------------------------------------------------


def test_reproducible() -> None:
    net = model([node("MatMul", ["x", "w"], ["y"])], [x_in("n", 64)], [y_out("n", 48)], [tensor("w", weight(64, 48))])
    first, again, other = made_for(net, 3), made_for(net, 3), made_for(net, 4)
    assert len(first.feeds) == 4
    assert all(np.array_equal(a["x"], b["x"]) for a, b in zip(first.feeds, again.feeds, strict=True))
    assert not np.array_equal(first.feeds[0]["x"], other.feeds[0]["x"])
    assert abs(float(np.concatenate([f["x"] for f in first.feeds]).std()) - 1) < 0.1


def test_indices_stay_inside_their_table() -> None:
    net = model(
        [node("Gather", ["table", "ids"], ["y"])],
        [info("ids", I64, "batch", 400)],
        [info("y", F32, "batch", 400, 300)],
        [tensor("table", weight(5, 300))],
    )
    assert [f["ids"].max() for f in made_for(net).feeds] == [4] * 4
    check = compile_model(net).report.verification
    assert check is not None
    assert check.feeds == 4


def flagged(flags: Sequence[onnx.ValueInfoProto]) -> onnx.ModelProto:
    """y = x @ w, with inputs that only stand by."""
    kept = [node("Identity", [f.name], [f"{f.name}_out"]) for f in flags]
    outputs = [info(f"{f.name}_out", f.type.tensor_type.elem_type) for f in flags]
    for output in outputs:
        output.type.tensor_type.ClearField("shape")
    nodes = [node("MatMul", ["x", "w"], ["y"]), *kept]
    return model(nodes, [x_in("n", 64), *flags], [y_out("n", 48), *outputs], [tensor("w", weight(64, 48))])


def test_booleans_take_both_values_in_every_combination_of_two() -> None:
    found = made_for(flagged([info("a", BOOL), info("b", BOOL, 1)])).feeds
    assert {(bool(f["a"]), bool(f["b"][0])) for f in found} == {(p, q) for p in (True, False) for q in (True, False)}
    mask = made_for(flagged([info("m", BOOL, 8, 8)])).feeds
    assert mask[0]["m"].all()
    assert 0 < mask[1]["m"].mean() < 1


def test_integers_are_ones_and_zeros_and_both() -> None:
    found = made_for(flagged([info("i", I64, 1, 64)])).feeds
    assert {tuple(np.unique(f["i"])) for f in found} == {(1,), (0,), (0, 1)}


def test_bytes_with_three_axes_are_pixels() -> None:
    found = made_for(flagged([info("image", U8, 1, 16, 16, 3), info("ids", U8, 64)])).feeds
    assert all(f["image"].max() > 200 and f["image"].min() < 50 for f in found)
    assert all(f["ids"].max() <= 1 for f in found)


def test_the_feeds_that_run_are_kept() -> None:
    """A depth of zero is refused by OneHot: what runs is kept, and ones take the place of what does not."""
    net = flagged([info("k", I64, 1)])
    net.graph.node.append(node("OneHot", ["k", "k", "pair"], ["hot"]))
    net.graph.output.append(info("hot", F32, 1, "k"))
    net.graph.initializer.append(tensor("pair", np.array([0.0, 1.0], np.float32)))
    found = made_for(net)
    assert len(found.feeds) == 4
    assert all(f["k"] == 1 for f in found.feeds)
    flag = flagged([info("f", BOOL, 1)])
    flag.graph.node.append(node("Cast", ["f"], ["k"], to=I64))
    flag.graph.node.append(node("OneHot", ["k", "k", "pair"], ["hot"]))
    flag.graph.output.append(info("hot", F32, 1, "k"))
    flag.graph.initializer.append(tensor("pair", np.array([0.0, 1.0], np.float32)))
    assert [bool(f["f"][0]) for f in made_for(flag).feeds] == [True, True]


def overflowing() -> list[onnx.NodeProto]:
    """exp(900 x): NaN where it is infinite, minus itself."""
    products = [node("Mul", ["x", "thirty"], ["a"]), node("Mul", ["a", "thirty"], ["b"])]
    return [*products, node("Exp", ["b"], ["c"]), node("Sub", ["c", "b"], ["h"])]


@pytest.mark.parametrize(
    ("nodes", "low", "high"),
    [
        ([node("Log", ["x"], ["h"])], 0, 1),
        ([node("Sub", ["x", "thirty"], ["a"]), node("Relu", ["a"], ["h"])], 0, 255),
        (overflowing(), -0.1, 0.1),
    ],
    ids=["logarithm", "pixels", "overflow"],
)
def test_other_floats_until_outputs_say_something(nodes: list[onnx.NodeProto], low: float, high: float) -> None:
    """NaN from negative numbers; nothing but zeros below thirty; NaN where large numbers overflow."""
    net = model(
        [*nodes, node("MatMul", ["h", "w"], ["y"])],
        [x_in("n", 64)],
        [y_out("n", 48)],
        [tensor("w", weight(64, 48)), tensor("thirty", np.array([30], np.float32))],
    )
    found = made_for(net)
    assert len(found.feeds) == 4
    assert all(low <= f["x"].min() and f["x"].max() <= high for f in found.feeds)
    assert all(np.isfinite(o[0]).all() and np.ptp(o[0]) > 0 for o in found.outputs)


@pytest.mark.parametrize("shape", [("n", 1, "t"), ("n", 1, 4000), ("n", "t"), (1, 8000)], ids=str)
def test_signals_in_time_are_loud_quiet_and_tonal(shape: tuple[int | str, ...]) -> None:
    """[batch, 1, samples] or [batch, samples], of a fixed length or not, on the way to a convolution along time."""
    start = [] if len(shape) == 3 else [node("Unsqueeze", ["x", "axis"], ["u"])]
    source = "x" if len(shape) == 3 else "u"
    net = model(
        [*start, node("Conv", [source, "w"], ["y"], strides=[160])],
        [x_in(*shape)],
        [y_out("n", 32, "frames")],
        [tensor("w", weight(32, 1, 400)), tensor("axis", np.array([1]))],
    )
    signals = [f["x"].ravel() for f in made_for(net).feeds]
    assert [s.size >= 4000 for s in signals] == [True] * 4
    assert signals[0].std() == pytest.approx(1, abs=0.1)
    assert min(s.std() for s in signals) < 0.01
    spectra = [np.abs(np.fft.rfft(s)) ** 2 for s in signals]
    concentrated = [float(np.sort(p)[-20:].sum() / p.sum()) > 0.8 for p in spectra]
    assert concentrated == [False, True, False, True]


def test_rows_of_numbers_are_no_signals() -> None:
    net = model(
        [node("MatMul", ["x", "w"], ["y"])], [x_in("n", 2000)], [y_out("n", 48)], [tensor("w", weight(2000, 48))]
    )
    assert all(f["x"].std() == pytest.approx(1, abs=0.1) for f in made_for(net).feeds)


def voice_detector(batch: str) -> onnx.ModelProto:
    """y = the last state of an LSTM that starts from h, over frames of x: one weight for a rate of 16,000, another for
    others; reflection needs more than 64 samples, and the LSTM's batch is that of x."""

    def way(name: str) -> onnx.GraphProto:
        nodes = [
            node("Unsqueeze", ["x", "axis"], ["u"]),
            node("Pad", ["u", "pads"], ["p"], mode="reflect"),
            node("Conv", ["p", name], ["c"], strides=[128]),
            node("Transpose", ["c"], ["t"], perm=[2, 0, 1]),
            node("Squeeze", ["h", "axis"], ["s"]),
            node("LSTM", ["t", "wx", "wh", "", "", "s", "s"], ["", "last"], hidden_size=16),
        ]
        return body(name, nodes, [info("last", F32)], [])

    rate = [node("Equal", ["sr", "rate"], ["is"])]
    choose = node("If", ["is"], ["y"], then_branch=way("high"), else_branch=way("low"))
    weights = {"high": weight(32, 1, 128), "low": weight(32, 1, 128), "wx": weight(1, 64, 32), "wh": weight(1, 64, 16)}
    constants = {"axis": np.array([1]), "pads": np.array([0, 0, 0, 0, 0, 64]), "rate": np.array(16000)}
    net = model(
        [*rate, choose],
        [x_in(batch, "?"), info("h", F32, 1, 1, batch, 16), info("sr", I64)],
        [info("y", F32)],
        [tensor(n, v) for n, v in (weights | constants).items()],
    )
    for output in (*net.graph.output, *(o for a in choose.attribute for o in a.g.output)):
        output.type.tensor_type.ClearField("shape")
    return net


@pytest.mark.parametrize("batch", ["?", "batch"])
def test_a_length_a_state_and_a_rate_that_the_graph_asks_for(batch: str) -> None:
    found = made_for(voice_detector(batch))
    assert [int(f["sr"]) == 16000 for f in found.feeds] == [True, False, True, False]
    assert {f["x"].shape for f in found.feeds} == {(1, 256)}
    assert {f["h"].shape for f in found.feeds} == {(1, 1, 1, 16)}
    assert len(found.feeds) == 4


def test_an_input_that_a_loop_counts_with() -> None:
    """A loop that runs as often as an integer input says is entered."""
    inner = body(
        "step",
        [node("Identity", ["c"], ["c2"]), node("Add", ["s", "s"], ["s2"])],
        [info("c2", BOOL), info("s2", F32, 1, 48)],
        [info("i", I64), info("c", BOOL), info("s", F32, 1, 48)],
    )
    net = model(
        [node("MatMul", ["x", "w"], ["h"]), node("Loop", ["times", "", "h"], ["y"], body=inner)],
        [x_in(1, 64), info("times", I64)],
        [y_out(1, 48)],
        [tensor("w", weight(64, 48))],
    )
    assert {int(f["times"]) for f in made_for(net).feeds} == {0, 1}
