"""Weights that no run reached: branches not taken, loops not entered, however deep; and outputs that values decide."""

from __future__ import annotations

import math
from pathlib import Path

import numpy as np
import onnx
import pytest
from models.graphs import BOOL, F32, GRAPHS, I64, body, info, model, node, tensor, weight, x_in, y_out

from dc_compiler import compile_model, verify_models
from dc_compiler.cli import main
from dc_compiler.errors import QualityError
from dc_compiler.model import files
from dc_compiler.ort import quality, reach
from dc_compiler.ort.data import Feed
from dc_compiler.ort.sessions import Sessions
from dc_compiler.report import verification_lines

X = np.random.default_rng(0).standard_normal((2, 64)).astype(np.float32)


def reached(net: onnx.ModelProto, *feeds: Feed) -> reach.Reach:
    return reach.reach(files.read_model(net), feeds, Sessions(), 1)


def branch(name: str, w: str, nodes: list[onnx.NodeProto] | None = None, y: str = "") -> onnx.GraphProto:
    """x @ w with its own weight, after some nodes."""
    made = [*(nodes or []), node("MatMul", ["x", w], [y or f"{name}.y"])]
    weights = [tensor(w, weight(64, 48, seed=sum(map(ord, w))))]
    return body(name, made, [info(y or f"{name}.y", F32, "n", 48)], weights=weights)


def flagged(**branches: onnx.GraphProto) -> onnx.ModelProto:
    """If(flag) between two branches."""
    flag = node("If", ["flag"], ["y"], then_branch=branches["yes"], else_branch=branches["no"])
    return model([flag], [x_in("n", 64), info("flag", BOOL)], [y_out("n", 48)])


def two_ways() -> onnx.ModelProto:
    return flagged(yes=branch("yes", "aW"), no=branch("no", "bW"))


YES: Feed = {"x": X, "flag": np.array(True)}
NO: Feed = {"x": X, "flag": np.array(False)}


# Reach ---------------------------------------------------------------------------------------------------------------


def test_the_branch_not_taken() -> None:
    assert reached(two_ways(), YES).missed == ["bW"]
    assert reached(two_ways(), NO).missed == ["aW"]
    assert reached(two_ways(), YES, NO) == reach.Reach()


def test_the_same_name_in_both_branches() -> None:
    assert reached(flagged(yes=branch("yes", "W"), no=branch("no", "W")), YES).missed == ["W"]


def test_a_weight_that_bodies_capture() -> None:
    """Stored in the main graph: reached where any of its readers is."""
    net = two_ways()
    for graph in (a.g for a in net.graph.node[0].attribute):
        for product in graph.node:
            product.input[1] = "both"
    net.graph.node[0].attribute[0].g.node[0].input[1] = "one"
    net.graph.initializer.extend([tensor("both", weight(64, 48)), tensor("one", weight(64, 48))])
    missed = [reached(net, feed).missed for feed in (YES, NO)]
    assert sorted(missed) == [["both"], ["one"]]


def nested() -> onnx.ModelProto:
    """If(flag) whose one branch holds If(any x > 1) and whose other a loop of ``times`` steps, each with weights."""
    deep = [
        node("ReduceMax", ["x"], ["top"], keepdims=0),
        node("Greater", ["top", "limit"], ["high"]),
        node("If", ["high"], ["deep.y"], then_branch=branch("p", "pW"), else_branch=branch("q", "qW")),
    ]
    step = body(
        "step",
        [node("Identity", ["c"], ["c2"]), node("MatMul", ["s", "lW"], ["t"]), node("Tanh", ["t"], ["s2"])],
        [info("c2", BOOL), info("s2", F32, "n", 48)],
        [info("i", I64), info("c", BOOL), info("s", F32, "n", 48)],
        [tensor("lW", weight(48, 48, seed=9))],
    )
    loop = [node("MatMul", ["x", "mW"], ["m"]), node("Loop", ["times", "", "m"], ["loop.y"], body=step)]
    yes = body("yes", deep, [info("deep.y", F32, "n", 48)])
    no = body("no", loop, [info("loop.y", F32, "n", 48)], weights=[tensor("mW", weight(64, 48))])
    net = flagged(yes=yes, no=no)
    net.graph.input.append(info("times", I64))
    net.graph.initializer.append(tensor("limit", np.array(1, np.float32)))
    return net


@pytest.mark.parametrize(
    ("flag", "scale", "times", "missed"),
    [
        (True, 10, 0, ["lW", "mW", "qW"]),
        (True, 0, 3, ["lW", "mW", "pW"]),
        (False, 1, 0, ["lW", "pW", "qW"]),
        (False, 1, 2, ["pW", "qW"]),
    ],
)
def test_bodies_inside_bodies(flag: bool, scale: float, times: int, missed: list[str]) -> None:
    feed = {"x": X * np.float32(scale), "flag": np.array(flag), "times": np.array(times)}
    assert sorted(reached(nested(), feed).missed) == missed


def test_scan_and_functions() -> None:
    """Every graph with bodies of the collection is understood, and what runs in it counts as reached."""
    for name in ("scan_body", "loop_body", "loop_nested_if", "if_captured", "function_called_in_if"):
        net, feed = GRAPHS[name]()
        found = reached(net, feed)
        assert found.unknown == [], name
        assert reach.has_bodies(net), name


def test_a_scan_over_nothing() -> None:
    net, feed = GRAPHS["scan_body"]()
    assert reached(net, feed).missed == []


# Reports -------------------------------------------------------------------------------------------------------------


def test_both_branches_are_compared(tmp_path: Path) -> None:
    """The branch that pruning ruined is seen; a worst run below the bound refuses the presets."""
    net = two_ways()
    report = compile_model(net, pipeline="prune(density=0.5),encode", set=["aW:density=1", "bW:density=0.01"]).report
    assert report.verification is not None
    output = report.verification.outputs[0]
    assert not output.identical
    assert output.worst_cosine is not None
    assert output.worst_cosine < 0.5
    assert report.verification.unreached == []
    assert quality.catastrophe(report.verification) is not None
    with pytest.raises(QualityError, match="output 'y' has cosine"):
        compile_model(net, tmp_path / "out.onnx", set="bW:step=8")
    assert not (tmp_path / "out.onnx").exists()


def test_changed_weights_that_no_run_reached() -> None:
    data = [YES]
    result = compile_model(two_ways(), pipeline="prune(density=0.5),encode", set="aW:density=1", data=data)
    check = result.report.verification
    assert check is not None
    assert check.unreached == ["bW"]
    assert any("changed weights that no run reached: bW" in line for line in verification_lines(check))
    same = compile_model(two_ways(), preset="lossless", data=data).report.verification
    assert same is not None
    assert same.unreached == []


def test_equal_weights_that_are_stored_once_are_unchanged() -> None:
    """And those inside functions, which the compiled model calls otherwise."""
    twins = two_ways()
    for graph in (a.g for a in twins.graph.node[0].attribute):
        graph.initializer[0].CopyFrom(tensor(graph.initializer[0].name, weight(64, 48)))
    functions, feed = GRAPHS["function_called_in_if"]()
    for net, data in ((twins, YES), (functions, feed)):
        check = compile_model(net, preset="lossless", min_size=16, data=[data]).report.verification
        assert check is not None
        assert (check.unreached, check.maybe_unreached, check.notes) == ([], [], [])
    source = files.read_model(functions)
    pruned = compile_model(functions, pipeline="prune(density=0.5),encode", min_size=16)
    assert reach.changed_weights(source, functions) == set()
    assert reach.changed_weights(source, pruned.model) != set()


def never_finite() -> onnx.ModelProto:
    """log(-|x| - 1) @ w: NaN whatever the inputs."""
    nodes = [
        node("Abs", ["x"], ["a"]),
        node("Add", ["a", "one"], ["b"]),
        node("Neg", ["b"], ["c"]),
        node("Log", ["c"], ["d"]),
        node("MatMul", ["d", "w"], ["y"]),
    ]
    weights = [tensor("w", weight(64, 48)), tensor("one", np.ones(1, np.float32))]
    return model(nodes, [x_in("n", 64)], [y_out("n", 48)], weights)


def test_nothing_that_says_something(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """Never called identical, exit code 1; that no weight was changed is said where it is so."""
    onnx.save(never_finite(), tmp_path / "in.onnx")
    paths = [str(tmp_path / "in.onnx"), str(tmp_path / "out.onnx")]
    for flags, same in ((["--density", "0.02", "--bits", "2"], False), (["--preset", "lossless"], True)):
        assert main(["compile", paths[0], "-o", paths[1], *flags]) == 0
        assert main(["verify", *paths]) == 1
        shown = capsys.readouterr().out
        assert shown.count("output y: not compared: no finite values (the same bits)") == 2
        assert "identical" not in shown
        assert "agreement" not in shown
        assert ("no weight was changed" in shown) is same
    assert main(["compile", *paths[:1], "-o", paths[1]]) == 0
    assert "nothing was compared, so whether the preset keeps its promise is not known" in capsys.readouterr().out


def test_thresholds_guard_a_release(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    net, _ = GRAPHS["matmul"]()
    onnx.save(net, tmp_path / "in.onnx")
    compile_model(net, tmp_path / "out.onnx", pipeline="prune(density=0.5),encode")
    paths = [str(tmp_path / "in.onnx"), str(tmp_path / "out.onnx")]
    check = verify_models(*paths)
    figures = check.outputs[0]
    assert check.compared
    assert figures.worst_cosine is not None
    assert figures.top1_agreement is not None
    for flag, met, missed in (
        ("--min-cosine", figures.worst_cosine - 1e-3, figures.worst_cosine + 1e-3),
        ("--max-error", figures.max_abs_error + 1e-3, figures.max_abs_error - 1e-3),
        ("--min-agreement", figures.top1_agreement, None),
    ):
        assert main(["verify", *paths, flag, str(met)]) == 0
        assert missed is None or main(["verify", *paths, flag, str(missed)]) == 1
    assert "missed: --min-cosine" in capsys.readouterr().out
    assert main(["verify", *paths]) == 0
    both = verify_models(*paths, min_cosine=0.99999, max_error=1e-9)
    assert [m.split()[0] for m in both.missed] == ["--min-cosine", "--max-error"]
    for flag, bad in (
        ("--min-cosine", 1.5),
        ("--max-error", -1.0),
        ("--min-agreement", 2.0),
        ("--max-error", math.nan),
    ):
        assert main(["verify", *paths, flag, str(bad)]) == 2
        assert f"{flag} {bad:g} is not valid" in capsys.readouterr().err


def test_a_threshold_without_a_figure_is_missed() -> None:
    """A model that gives classes alone has no cosine to show."""
    net = model(
        [node("MatMul", ["x", "w"], ["h"]), node("ArgMax", ["h"], ["y"], axis=1, keepdims=0)],
        [x_in("n", 64)],
        [info("y", I64, "n")],
        [tensor("w", weight(64, 48))],
    )
    result = compile_model(
        net, preset="lossless", data={"x": np.repeat(X, 2, 0) * np.array([[1], [2], [-1], [-2]], "f")}
    )
    check = result.report.verification
    assert check is not None
    for wanted in (0.5, 0.9999999):  # told with all its digits
        said = f"--min-cosine {wanted}: nothing has a figure for it"
        assert quality.missed(check, quality.Thresholds(cosine=wanted)) == [said]
    assert quality.missed(check, quality.Thresholds(agreement=1)) == []


# Outputs that values decide ------------------------------------------------------------------------------------------


def detector() -> onnx.ModelProto:
    """Boxes and scores from two products, then a selection: how many are left depends on the scores."""
    nodes = [
        node("MatMul", ["x", "w"], ["f"]),
        node("Relu", ["f"], ["r"]),
        node("MatMul", ["r", "wb"], ["b"]),
        node("MatMul", ["r", "ws"], ["s"]),
        node("Transpose", ["s"], ["st"], perm=[0, 2, 1]),
        node("Sigmoid", ["st"], ["scores"]),
        node("NonMaxSuppression", ["b", "scores", "most", "iou", "low"], ["chosen"], center_point_box=1),
        node("Gather", ["chosen", "two"], ["i"], axis=1),
        node("Squeeze", ["b", "zero"], ["b1"]),
        node("Gather", ["b1", "i"], ["boxes"]),
    ]
    weights = {"w": weight(64, 96), "wb": weight(96, 4, seed=2), "ws": weight(96, 3, seed=3)}
    constants = {"most": np.array([200]), "two": np.array(2), "zero": np.array([0])}
    limits = {"iou": np.array([0.3], np.float32), "low": np.array([0.5], np.float32)}
    stored = [tensor(name, values) for name, values in (weights | constants | limits).items()]
    return model(nodes, [x_in(1, 400, 64)], [info("boxes", F32, "k", 4)], stored)


def test_another_number_of_boxes_is_not_ruin(tmp_path: Path) -> None:
    check = compile_model(detector(), tmp_path / "out.onnx", set="w:step=0.5").report.verification
    assert check is not None
    output = check.outputs[0]
    assert output.shapes is not None
    assert output.shapes[0] != output.shapes[1]
    judges = {j.name: j for j in check.deciding["boxes"]}
    assert {"b", "scores"} <= set(judges)
    assert all(j.cosine is not None and j.cosine > 0.9 for j in judges.values())
    text = "\n".join(verification_lines(check))
    assert f"output boxes: {output.shapes[0]} against {output.shapes[1]}; in what both have: " in text
    assert "  decided by scores: max error" in text


def test_scores_that_are_ruined_are(tmp_path: Path) -> None:
    """The excuse holds for the choice alone: what it is made from is judged as any output is."""
    with pytest.raises(QualityError, match="'b', which decides about output 'boxes', has cosine"):
        compile_model(detector(), tmp_path / "out.onnx", set=["w:step=8", "wb:step=8"])


def choosing(*after: onnx.NodeProto, last: str = "y") -> onnx.ModelProto:
    """The one of 2,000 rows whose score is nearest to zero, and what is made of it."""
    nodes = [
        node("MatMul", ["x", "w"], ["h"]),
        node("MatMul", ["h", "s"], ["scores"]),
        node("Abs", ["scores"], ["far"]),
        node("Neg", ["far"], ["near"]),
        node("TopK", ["near", "k"], ["best", "place"], axis=0),
        node("Squeeze", ["place", "axis"], ["row"]),
        node("Gather", ["h", "row"], [last]),
        *after,
    ]
    weights = {"w": weight(64, 48), "s": weight(48, 1, seed=2), "v": weight(48, 32, seed=3)}
    stored = [tensor(name, values) for name, values in weights.items() if name != "v" or after]
    constants = [tensor("k", np.array([1])), tensor("axis", np.array([1]))]
    return model(nodes, [x_in(2000, 64)], [y_out(1, 32 if after else 48)], [*stored, *constants])


def test_another_choice_is_no_ruin() -> None:
    """Other rows have nothing to do with each other; the scores and what is chosen from are near."""
    check = compile_model(choosing(), set="w:step=0.6").report.verification
    assert check is not None
    output = check.outputs[0]
    assert output.worst_cosine is not None
    assert output.worst_cosine < 0.5
    assert {j.name for j in check.deciding["y"]} == {"h", "near"}
    assert quality.missed(check, quality.Thresholds(cosine=0.9)) == []


def test_weights_after_a_choice_are_judged() -> None:
    """The scores say nothing about them."""
    net = choosing(node("MatMul", ["chosen", "v"], ["y"]), last="chosen")
    with pytest.raises(QualityError, match="output 'y' has cosine"):
        compile_model(net, set="v:step=12")


def test_values_that_are_decided_themselves() -> None:
    """Two stages: how many scores there are in the second depends on those of the first, which judge in the end."""
    nodes = [
        node("MatMul", ["x", "w"], ["h"]),
        node("MatMul", ["h", "a"], ["first"]),
        node("Greater", ["first", "zero"], ["high"]),
        node("Squeeze", ["high", "axis"], ["mask"]),
        node("Compress", ["h", "mask"], ["few"], axis=0),
        node("MatMul", ["few", "b"], ["second"]),
        node("Greater", ["second", "zero"], ["higher"]),
        node("Squeeze", ["higher", "axis"], ["mask2"]),
        node("Compress", ["few", "mask2"], ["y"], axis=0),
    ]
    weights = {"w": weight(64, 48), "a": weight(48, 1, seed=2), "b": weight(48, 1, seed=3)}
    constants = {"zero": np.array(0, np.float32), "axis": np.array([1])}
    stored = [tensor(name, values) for name, values in (weights | constants).items()]
    net = model(nodes, [x_in(500, 64)], [info("y", F32, "k", 48)], stored)
    check = compile_model(net, set="w:step=0.6").report.verification
    assert check is not None
    judges = {j.name: j for j in check.deciding["y"]}
    assert judges["second"].shapes is not None
    assert {j.name for j in check.deciding["second"]} == {"h", "first"}
    assert quality.catastrophe(check) is None
    assert "    decided by first: max error" in "\n".join(verification_lines(check))


def test_predicted_durations() -> None:
    """Speech: how long the output is comes from rounded sums of predicted durations."""
    nodes = [
        node("MatMul", ["x", "w"], ["h"]),
        node("MatMul", ["h", "d"], ["log"]),
        node("Exp", ["log"], ["long"]),
        node("ReduceSum", ["long"], ["sum"], keepdims=0),
        node("Round", ["sum"], ["round"]),
        node("Cast", ["round"], ["length"], to=I64),
        node("Range", ["zero", "length", "one"], ["steps"]),
        node("Mod", ["steps", "many"], ["places"]),
        node("Gather", ["h", "places"], ["y"]),
    ]
    numbers = {"zero": np.array(0), "one": np.array(1), "many": np.array(16)}
    weights = {"w": weight(64, 48), "d": weight(48, 1, seed=5)}
    stored = [tensor(name, values) for name, values in (numbers | weights).items()]
    net = model(nodes, [x_in(16, 64)], [info("y", F32, "t", 48)], stored)
    check = compile_model(net, set="w:step=0.6").report.verification
    assert check is not None
    output = check.outputs[0]
    assert output.shapes is not None
    assert {d.name for d in check.deciding["y"]} == {"h", "sum"}
    assert quality.catastrophe(check) is None


def test_maps_of_a_classifier_are_compared_inside() -> None:
    net, _ = GRAPHS["map_output"]()
    check = compile_model(net, pipeline="prune(density=0.05),encode", min_size=1).report.verification
    assert check is not None
    maps = [o for o in check.outputs if o.equal_share is None]
    assert maps
    assert all(o.max_abs_error > 1e-3 and not o.identical for o in maps)


def test_classes_are_judged_by_their_scores() -> None:
    """Integers without an angle: another class here and there is no ruin when the scores are near."""
    net = model(
        [node("MatMul", ["x", "w"], ["h"]), node("ArgMax", ["h"], ["y"], axis=1)],
        [x_in(64, 64)],
        [info("y", I64, 64, 1)],
        [tensor("w", weight(64, 48))],
    )
    check = compile_model(net, set="w:step=1").report.verification
    assert check is not None
    assert check.outputs[0].equal_share is not None
    assert 0 < check.outputs[0].equal_share < 0.9
    assert [d.name for d in check.deciding["y"]] == ["h"]
    with pytest.raises(QualityError, match="'h', which decides about output 'y', has cosine"):
        compile_model(net, set="w:step=8")


def test_sequences_are_compared_inside(tmp_path: Path) -> None:
    net, _ = GRAPHS["sequence_output"]()
    check = compile_model(net, pipeline="prune(density=0.05),encode", min_size=1).report.verification
    assert check is not None
    assert check.outputs[0].max_abs_error > 0.01
    assert check.outputs[0].cosine is not None
    assert check.outputs[0].cosine < 0.99
