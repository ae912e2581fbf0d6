"""The guides' commands and blocks run as printed, in order, on small models that stand in for the reader's."""

from __future__ import annotations

import re
import shlex
import shutil
import subprocess
import sys
import tomllib
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import pytest
from fixtures.inputs import FIXTURES, ROWS
from onnx import TensorProto, helper, numpy_helper
from sklearn.ensemble import RandomForestClassifier

from dc_compiler import cli

ROOT = Path(__file__).parents[1]
GUIDES = ROOT / "docs" / "guide"
MNIST = ROOT / "samples" / "mnist_test_slice.npz"


def classifier(folder: Path) -> None:
    """LeNet-300-100 and digits."""
    shutil.copy(ROOT / "samples" / "lenet300.onnx", folder / "model.onnx")
    given = np.load(MNIST)
    x = ((given["x"][:, None] / 255 - given["mean"]) / given["std"]).astype(np.float32)
    for name in ("images.npz", "train.npz"):
        np.savez(folder / name, x=x[:300], label=given["y"][:300])


def encoder(folder: Path) -> None:
    """A transformer of a few thousand weights, and token numbers."""
    shutil.copy(FIXTURES["torch_encoder_dynamo"], folder / "encoder.onnx")
    tokens = np.random.default_rng(0).integers(0, ROWS["torch_encoder_dynamo.x"], (100, 16))
    np.savez(folder / "texts.npz", x=tokens)


def detector(folder: Path) -> None:
    """Boxes and scores of 100 places from a product each, and a selection."""
    generator = np.random.default_rng(0)
    stored = {"w": (64, 96), "w_boxes": (96, 4), "w_scores": (96, 3)}
    weights = [
        numpy_helper.from_array(generator.standard_normal(s).astype(np.float32) / 8, n) for n, s in stored.items()
    ]
    limits = {"most": np.array([20]), "iou": np.array([0.3], np.float32), "low": np.array([0.5], np.float32)}
    nodes = [
        helper.make_node("MatMul", ["x", "w"], ["f"]),
        helper.make_node("Relu", ["f"], ["r"]),
        helper.make_node("MatMul", ["r", "w_boxes"], ["boxes"]),
        helper.make_node("MatMul", ["r", "w_scores"], ["s"]),
        helper.make_node("Sigmoid", ["s"], ["p"]),
        helper.make_node("Transpose", ["p"], ["scores"], perm=[0, 2, 1]),
        helper.make_node("NonMaxSuppression", ["boxes", "scores", *limits], ["chosen"], center_point_box=1),
    ]
    x = helper.make_tensor_value_info("x", TensorProto.FLOAT, ["n", 100, 64])
    outputs = [
        helper.make_tensor_value_info("scores", TensorProto.FLOAT, ["n", 3, 100]),
        helper.make_tensor_value_info("chosen", TensorProto.INT64, ["k", 3]),
    ]
    constants = [numpy_helper.from_array(v, n) for n, v in limits.items()]
    graph = helper.make_graph(nodes, "g", [x], outputs, [*weights, *constants])
    save(graph, folder / "detector.onnx")
    np.savez(folder / "images.npz", x=generator.standard_normal((64, 100, 64)).astype(np.float32))


def forest(folder: Path) -> None:
    """Twenty trees that tell digits by their pixels, as exporters write them."""
    given = np.load(MNIST)
    pixels = given["x"].reshape(len(given["x"]), -1).astype(np.float32)
    trees = RandomForestClassifier(20, random_state=0).fit(pixels[::2], given["y"][::2])
    np.savez(folder / "samples.npz", x=pixels[1::2], y=given["y"][1::2].astype(np.int64))
    keys = ("treeids", "nodeids", "featureids", "values", "modes", "truenodeids", "falsenodeids")
    nodes: dict[str, list[Any]] = {k: [] for k in keys}
    leaves: dict[str, list[Any]] = {k: [] for k in ("treeids", "nodeids", "ids", "weights")}
    for number, estimator in enumerate(trees.estimators_):
        tree = estimator.tree_
        for i in range(tree.node_count):
            is_leaf = tree.children_left[i] < 0
            row = (
                number, i, max(0, int(tree.feature[i])), 0.0 if is_leaf else float(tree.threshold[i]),
                "LEAF" if is_leaf else "BRANCH_LEQ", max(0, int(tree.children_left[i])),
                max(0, int(tree.children_right[i])),
            )  # fmt: skip
            for key, value in zip(keys, row, strict=True):
                nodes[key].append(value)
            if is_leaf:
                for c, share in enumerate(tree.value[i][0]):
                    for key, value in zip(leaves, (number, i, c, float(share)), strict=True):
                        leaves[key].append(value)
    attributes: dict[str, Any] = {f"nodes_{k}": v for k, v in nodes.items()} | {
        f"class_{k}": v for k, v in leaves.items()
    }
    node = helper.make_node(
        "TreeEnsembleClassifier", ["x"], ["label", "scores"], domain="ai.onnx.ml", classlabels_int64s=list(range(10)),
        **attributes,
    )  # fmt: skip
    x = helper.make_tensor_value_info("x", TensorProto.FLOAT, ["n", 784])
    outputs = [
        helper.make_tensor_value_info("label", TensorProto.INT64, ["n"]),
        helper.make_tensor_value_info("scores", TensorProto.FLOAT, ["n", 10]),
    ]
    save(helper.make_graph([node], "g", [x], outputs), folder / "forest.onnx")


def save(graph: onnx.GraphProto, path: Path) -> None:
    opsets = [helper.make_opsetid("", 17), helper.make_opsetid("ai.onnx.ml", 3)]
    onnx.save(helper.make_model(graph, opset_imports=opsets, ir_version=8), path)


STAND_INS: dict[str, Callable[[Path], None]] = {
    "classifier": classifier, "detector": detector, "encoder": encoder, "forest": forest, "pass": classifier,
    "retrain": classifier,
}  # fmt: skip


def steps(page: str) -> Iterator[tuple[str, str]]:
    """Commands and fenced blocks of a page in their order: ("dcc", line), ("python", text) and so on. Minutes of
    training become seconds."""
    page = page.replace("\\\n", " ").replace("--budget 10", "--budget 0.005")
    for match in re.finditer(r"^```(\w*)\n(.*?)^```$|^    (dcc [^\n]*)$", page, re.MULTILINE | re.DOTALL):
        yield ("dcc", match[3]) if match[3] else (match[1], match[2])


LONG = {"classifier", "encoder", "retrain"}  # half a minute each


@pytest.mark.parametrize("name", [pytest.param(n, marks=[pytest.mark.slow] * (n in LONG)) for n in sorted(STAND_INS)])
def test_guide(name: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    STAND_INS[name](tmp_path)
    done = []
    for kind, text in steps((GUIDES / f"{name}.md").read_text()):
        done.append(kind)
        if kind == "python" and name == "pass":
            Path("shorten.py").write_text(text)
        elif kind == "python":
            subprocess.run([sys.executable, "-c", text], check=True)
        elif kind == "toml":
            install(text, tmp_path)
        elif name == "pass":  # in a process that sees what was installed
            run = [sys.executable, "-m", "dc_compiler", *shlex.split(text)[1:]]
            subprocess.run(run, check=True, env={"PYTHONPATH": f"{tmp_path}:{ROOT}"})
        else:
            assert cli.main(shlex.split(text)[1:]) == 0, text
    assert done.count("dcc") >= 1
    for path in tmp_path.glob("*.html"):
        assert path.stat().st_size > 1000


def install(project: str, folder: Path) -> None:
    """What `pip install` leaves of a project with entry points."""
    given = tomllib.loads(project)["project"]
    info = folder / f"{given['name']}-{given['version']}.dist-info"
    info.mkdir()
    (info / "METADATA").write_text(f"Metadata-Version: 2.1\nName: {given['name']}\nVersion: {given['version']}\n")
    points = [
        f"[{group}]\n" + "".join(f"{k} = {v}\n" for k, v in p.items()) for group, p in given["entry-points"].items()
    ]
    (info / "entry_points.txt").write_text("\n".join(points))


def test_links_lead_somewhere() -> None:
    for page in [ROOT / "README.md", *(ROOT / "docs").rglob("*.md"), ROOT / "samples" / "README.md"]:
        for target in re.findall(r"\]\(([^)#]+)(?:#[^)]*)?\)", page.read_text()):
            if "://" not in target:
                assert (page.parent / target).exists(), f"{page.name}: {target}"
