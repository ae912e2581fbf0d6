"""The README's and the samples' code runs as printed."""

from __future__ import annotations

import ast
import json
import re
import shutil
import subprocess
import sys
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from dc_compiler import InferenceSession, cli

ROOT = Path(__file__).parents[1]
SAMPLES = ROOT / "samples"


def python_block(page: Path) -> str:
    match = re.search(r"```python\n(.*?)```", page.read_text(), re.DOTALL)
    assert match is not None
    return match[1]


@pytest.mark.parametrize("name", ["lenet300", "lenet5"])
def test_sample_script(name: str, tmp_path: Path) -> None:
    command = [sys.executable, str(SAMPLES / "compile_and_run.py"), name, "-o", str(tmp_path / "out.onnx")]
    text = subprocess.run(command, capture_output=True, text=True, check=True).stdout
    rows = re.findall(r"^(original|compiled)\s+([\d,]+)\s+([\d.]+)%", text, re.MULTILINE)
    (_, bytes_before, before), (_, bytes_after, after) = rows
    assert int(bytes_after.replace(",", "")) == (tmp_path / "out.onnx").stat().st_size
    assert int(bytes_before.replace(",", "")) > 5 * int(bytes_after.replace(",", ""))
    assert abs(float(before) - float(after)) <= 0.5


def test_the_small_network_knows_its_digits() -> None:
    """What the page in samples/web loads was made by an earlier version, as most compiled models are."""
    path = SAMPLES / "lenet5.smallest.onnx"
    assert path.stat().st_size < 8000
    given = np.load(SAMPLES / "mnist_test_slice.npz")
    x = ((given["x"][:, None] / 255 - given["mean"]) / given["std"]).astype(np.float32)
    answers = InferenceSession(path).run(None, {"x": x})[0].argmax(-1)
    assert np.mean(answers != given["y"]) <= 0.01


def test_retraining_sample() -> None:
    command = [sys.executable, str(SAMPLES / "retrain.py"), "--epochs", "30"]
    text = subprocess.run(command, capture_output=True, text=True, check=True).stdout
    rows = re.findall(r"^(original|compiled)\s+([\d,]+)\s+([\d.]+)%", text, re.MULTILINE)
    (_, bytes_before, before), (_, bytes_after, after) = rows
    assert int(bytes_before.replace(",", "")) > 30 * int(bytes_after.replace(",", ""))
    assert float(before) < 5  # of 599 images, one is 0.17 %
    assert float(after) <= float(before) + 2


@pytest.mark.slow
def test_the_notebook(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Every cell runs in order, and the values that cells end with are shown as tables."""
    cells = json.loads((SAMPLES / "compile.ipynb").read_text())["cells"]
    for name in ("lenet5.onnx", "mnist_test_slice.npz"):
        shutil.copy(SAMPLES / name, tmp_path)
    monkeypatch.chdir(tmp_path)
    names: dict[str, Any] = {}
    shown = []
    for cell in cells:
        if cell["cell_type"] == "code":
            assert cell["outputs"] == []
            *statements, last = ast.parse("".join(cell["source"])).body
            exec(compile(ast.Module(statements, []), "cell", "exec"), names)
            if isinstance(last, ast.Expr):
                shown.append(eval(compile(ast.Expression(last.value), "cell", "eval"), names))
            else:
                exec(compile(ast.Module([last], []), "cell", "exec"), names)
    first, calibrated, accuracy, points = shown
    for result in (first, calibrated):
        assert "conv1.weight" in result._repr_html_()
        assert "<p>lenet5.onnx -&gt; lenet5.dcc.onnx: 1,726,286 -&gt; " in result._repr_html_()
        assert repr(result).startswith("<lenet5.onnx -> lenet5.dcc.onnx: 1,726,286 -> ")
    assert calibrated.report.ratio > first.report.ratio > 5
    assert accuracy > 0.97
    assert points._repr_html_().count("<tr>") == 4


def test_readme_serves_as_it_says(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    assert cli.main(["compile", str(SAMPLES / "lenet5.onnx"), "-o", "lenet5.dcc.onnx"]) == 0
    names: dict[str, object] = {}
    exec(python_block(ROOT / "README.md"), names)
    session = names["session"]
    outputs = session.run(None, {"x": np.zeros((2, 1, 28, 28), np.float32)})  # type: ignore[attr-defined]
    assert outputs[0].shape == (2, 10)


def test_commands_of_the_guide_are_accepted(tmp_path: Path) -> None:
    """Every `dcc compile` line of the guide for one model without data, on a sample with names that fit the globs."""
    text = (ROOT / "docs" / "guide" / "compile.md").read_text().replace("\\\n", " ")
    lines = re.findall(r"^    dcc (compile .*?)(?:   .*)?$", text, re.MULTILINE)
    lines = [line for line in lines if "--data" not in line and " in.onnx " in line]
    assert len(lines) == 6
    for line in lines:
        line = re.sub(r"\s{2,}", " ", line).replace("head.weight", "fc2.weight")
        words = [w.strip("'") for w in re.findall(r"'[^']*'|\S+", line)]
        words[1:4] = [str(SAMPLES / "lenet5.onnx"), "-o", str(tmp_path / "out.onnx")]
        assert cli.main(words) == 0, line
