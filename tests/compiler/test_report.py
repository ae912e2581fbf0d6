"""The report's data and page: bytes that add up, spreads that are those of the weights, a recipe that works again."""

from __future__ import annotations

import re
from html.parser import HTMLParser
from pathlib import Path

import numpy as np
import onnx
import pytest
from onnx import TensorProto, helper, numpy_helper

from dc_compiler import compile_model, inspect_model, ir
from dc_compiler.cli import main
from dc_compiler.exploration.frontier import FrontierPoint, FrontierReport
from dc_compiler.report import PARTS
from dc_compiler.report import spread as spreads

SAMPLES = Path(__file__).parents[2] / "samples"
VOID = {"meta", "br", "path", "circle", "rect", "polyline"}


class Checker(HTMLParser):
    """Collects the page's text, and checks that elements are closed in order and that nothing comes from elsewhere."""

    def __init__(self) -> None:
        super().__init__()
        self.open: list[str] = []
        self.texts: list[str] = []

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        assert tag not in ("script", "link", "img", "iframe")
        assert not [a for a in attrs if a[0] in ("src", "href") or a[0].startswith("on")]
        if tag not in (*VOID, "html", "li", "td", "th", "tr"):
            self.open.append(tag)

    def handle_endtag(self, tag: str) -> None:
        if tag not in (*VOID, "html", "li", "td", "th", "tr"):
            assert self.open.pop() == tag

    def handle_data(self, data: str) -> None:
        if not self.open or self.open[-1] != "style":
            self.texts.append(data)


def text_of(page: str) -> str:
    """What the page says; the page is checked on the way."""
    checker = Checker()
    checker.feed(page)
    assert checker.open == []
    assert "url(" not in page
    return " ".join(checker.texts)


def digits() -> tuple[np.ndarray, np.ndarray]:
    """Images as the sample models take them, and their labels."""
    given = np.load(SAMPLES / "mnist_test_slice.npz")
    return ((given["x"][:, None] / 255 - given["mean"]) / given["std"]).astype(np.float32), given["y"]


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A compiled LeNet-300-100 with its report."""
    folder = tmp_path_factory.mktemp("report")
    arguments = ["--density", "0.2", "--bits", "4", "--report", str(folder / "made.html")]
    assert (
        main(["compile", str(SAMPLES / "lenet300.onnx"), "-o", str(folder / "made.onnx"), *arguments, "--quiet"]) == 0
    )
    return folder


def test_bytes_of_a_weight_add_up(folder: Path) -> None:
    report = inspect_model(folder / "made.onnx")
    packed = [r for r in report.tensors if r.parts]
    assert len(packed) >= 2
    for row in packed:
        assert len(row.parts) == len(PARTS)
        assert sum(row.parts) == row.bytes
        assert min(row.parts) >= 0
        assert row.parts[0] > row.bytes / 3
        assert (row.parts[1] > 0) == (row.position_bits is not None)


def test_the_page_tells_the_whole_story(folder: Path) -> None:
    text = text_of((folder / "made.html").read_text())
    report = inspect_model(folder / "made.onnx")
    assert f"{report.ratio:.2f}x" in text
    for told in ("Where the bytes are", "How values are spread", "What was compared", "What was not", "give --data"):
        assert told in text
    for row in report.tensors[:2]:  # the others are packed together
        assert f"{row.bytes:,}" in text


def test_the_bar_of_the_file_shows_all_of_its_bytes(folder: Path) -> None:
    page = (folder / "made.html").read_text()
    bar = page.split("<div class=bar style")[1]
    amounts = [int(n.replace(",", "")) for n in re.findall(r"title='[^']*: ([\d,]+)'", bar)]
    assert sum(amounts) == (folder / "made.onnx").stat().st_size


def test_the_page_of_a_compiled_file(folder: Path, tmp_path: Path) -> None:
    assert main(["inspect", str(folder / "made.onnx"), "--report", str(tmp_path / "seen.html")]) == 0
    text = text_of((tmp_path / "seen.html").read_text())
    assert "How values are spread" in text
    assert "The pipeline" in text
    assert main(["inspect", str(SAMPLES / "lenet300.onnx"), "--report", str(tmp_path / "plain.html")]) == 0
    text = text_of((tmp_path / "plain.html").read_text())
    assert "Where the bytes are" not in text
    assert "How values are spread" in text


def test_names_cannot_leave_their_place() -> None:
    weight = numpy_helper.from_array(np.random.default_rng(0).standard_normal((64, 64), np.float32), "<b onx=1>'\"&")
    node = helper.make_node("MatMul", ["x", weight.name], ["y"])
    x, y = (helper.make_tensor_value_info(n, TensorProto.FLOAT, [1, 64]) for n in "xy")
    model = helper.make_model(helper.make_graph([node], "g", [x], [y], [weight]), ir_version=8)
    model.opset_import[0].version = 17
    report = compile_model(model).report
    assert "<b onx=1>'\"&" in text_of(report.to_html())


def test_spreads_are_those_of_the_weights() -> None:
    values = np.array([-1.0, -0.5, 0, 0, 0.5, 1.0] * 100, np.float32).reshape(20, 30)
    found = spreads.spread("w", ir.excerpt(values), ir.excerpt(np.where(values == 1, 0, values)))
    assert found.before is not None
    assert found.after is not None
    assert sum(found.before) == 400
    assert sum(found.after) == 300
    assert found.zeros_before == pytest.approx(1 / 3)
    assert found.zeros_after == pytest.approx(1 / 2)
    assert found.values == 4
    assert found.end == 1
    assert [i for i, n in enumerate(found.before) if n] == [0, 15, 45, 60]
    assert found.before[0] == found.before[-1] == 100


def test_spreads_show_what_pruning_left() -> None:
    """A third of the values, those of the original; clustering leaves eight of them."""
    report = compile_model(SAMPLES / "lenet300.onnx", pipeline="prune(density=0.3),cluster(bits=3),encode").report
    spread = report.spreads[0]
    assert spread.before is not None
    assert spread.pruned is not None
    assert spread.after is not None
    assert sum(spread.pruned) == sum(spread.after) == pytest.approx(0.3 * sum(spread.before), rel=0.02)
    outer = slice(0, 10)
    assert spread.pruned[outer] == spread.before[outer]
    assert len([n for n in spread.after if n]) <= 8 < len([n for n in spread.pruned if n])
    text = text_of(report.to_html())
    assert "as pruning left them, before clustering" in text
    assert "as pruning left them" not in text_of(compile_model(SAMPLES / "lenet300.onnx").report.to_html())


@pytest.mark.parametrize("values", [np.zeros((4, 4)), np.full((4, 4), np.nan), np.empty((0, 4))])
def test_spreads_of_nothing(values: np.ndarray) -> None:
    found = spreads.spread("w", ir.excerpt(values), None)
    assert found.before is not None
    assert sum(found.before) == 0
    assert found.end == 1


def test_samples_miss_no_channel() -> None:
    values = np.arange(1 << 20).reshape(-1, 64) % 64
    counts = np.bincount(ir.excerpt(values).astype(int), minlength=64)
    assert counts.sum() <= ir.EXCERPT
    assert counts.min() > 0.9 * counts.max()


@pytest.mark.parametrize(
    "options", [{}, {"density": 0.3, "bits": 3, "skip": "fc3*"}, {"preset": "lossless"}, {"set": "fc1*:step=0.3"}]
)
def test_the_recipe_makes_the_same_bytes_again(options: dict[str, object], tmp_path: Path) -> None:
    first, again = tmp_path / "first.onnx", tmp_path / "again.onnx"
    report = compile_model(SAMPLES / "lenet300.onnx", first, seed=3, **options).report  # type: ignore[arg-type]
    (tmp_path / "recipe.toml").write_text(report.recipe)
    compile_model(SAMPLES / "lenet300.onnx", again, recipe=tmp_path / "recipe.toml")
    assert first.read_bytes() == again.read_bytes()


def test_the_recipe_of_what_was_found_on_samples(tmp_path: Path) -> None:
    np.savez(tmp_path / "data.npz", x=digits()[0][:200])
    first, again = tmp_path / "first.onnx", tmp_path / "again.onnx"
    report = compile_model(SAMPLES / "lenet300.onnx", first, data=tmp_path / "data.npz").report
    assert "calibrate=true" in report.recipe
    (tmp_path / "recipe.toml").write_text(report.recipe)
    compile_model(SAMPLES / "lenet300.onnx", again, recipe=tmp_path / "recipe.toml", data=tmp_path / "data.npz")
    assert first.read_bytes() == again.read_bytes()
    assert "Steps that were tried" in text_of(report.to_html())


def test_curves_of_training_are_drawn(tmp_path: Path) -> None:
    images, labels = digits()
    report = compile_model(
        SAMPLES / "lenet300.onnx", data={"x": images, "label": labels}, labels="label",
        pipeline="prune(density=0.1),finetune(epochs=3),cluster,encode",
    ).report  # fmt: skip
    (facts,) = (p.facts for p in report.passes if p.name == "finetune")
    curve = facts["curve"]
    assert [p["step"] for p in curve] == sorted(p["step"] for p in curve)
    assert len(curve) == 4
    assert curve[0]["training loss"] is None
    assert curve[0]["validation loss"] == facts["validation loss before"]
    assert facts["validation loss after"] in [p["validation loss"] for p in curve]
    assert "finetune: loss" in text_of(report.to_html())


def test_messages_that_onnx_reads_are_not_changed_by_a_report() -> None:
    model = onnx.load(SAMPLES / "lenet300.onnx")
    before = model.SerializeToString(deterministic=True)
    compile_model(model).report.to_html()
    assert model.SerializeToString(deterministic=True) == before


def test_the_frontier_with_the_file_on_it(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    images, labels = digits()
    np.savez(tmp_path / "data.npz", x=images[:60], y=labels[:60])
    model, points, page = str(SAMPLES / "lenet300.onnx"), str(tmp_path / "points.json"), tmp_path / "page.html"
    size = Path(model).stat().st_size
    steps = [(None, 1.0, 0.0, 0.98), (0.2, 8.0, 1e-3, 0.97), (0.8, 16.0, 0.1, 0.6)]
    found = [FrontierPoint(s, "", round(size / ratio), ratio, moved, moved, score) for s, ratio, moved, score in steps]
    Path(points).write_text(FrontierReport(model, "samples", 60, "accuracy", 16, found, []).to_json())
    data = ["--data", str(tmp_path / "data.npz"), "--labels", "y"]
    line = ["compile", model, "-o", str(tmp_path / "out.onnx"), "--pipeline", "cluster(grid),encode", "--quiet"]
    assert main([*line, *data, "--report", str(page), "--frontier", points]) == 0
    text = text_of(page.read_text())
    assert "Frontier" in text
    report = inspect_model(tmp_path / "out.onnx")
    (mark,) = re.findall(r"<title>this file: ([\d.]+), ([\d.]+)</title>", page.read_text())
    assert float(mark[0]) == pytest.approx(report.ratio, rel=1e-4)
    assert main([*line, "--report", str(page), "--frontier", points]) == 0  # without labels there is no score to mark
    assert len(re.findall("<title>this file's size: ", page.read_text().replace("&#x27;", "'"))) == 4
    assert "That model has" not in text_of(page.read_text())
    capsys.readouterr()
    assert main([*line, "--frontier", points]) == 2
    assert "--frontier needs --report" in capsys.readouterr().err
    assert main([*line, "--report", str(page), "--frontier", str(tmp_path / "data.npz")]) == 2
    assert "is not what 'dcc frontier --json' writes" in capsys.readouterr().err
