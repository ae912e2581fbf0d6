"""Every --json output follows the JSON Schema that it names; the files are what the classes say."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import jsonschema
import numpy as np
import pytest
from schemas import schema, text  # tools/schemas.py

import dc_compiler.schemas as published
from dc_compiler import cli

SAMPLES = Path(__file__).parents[2] / "samples"
LENET = str(SAMPLES / "lenet300.onnx")


@pytest.fixture(scope="module")
def compiled(tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("schemas") / "out.onnx"
    pipeline = "prune(density=0.2),cluster(bits=4),encode(huffman)"
    assert cli.main(["compile", LENET, "-o", str(path), "--pipeline", pipeline, "--quiet"]) == 0
    return path


@pytest.mark.parametrize("command", published.VERSIONS)
def test_file_is_what_the_classes_say(command: str) -> None:
    assert published.path(command).read_text() == text(command), "run tools/schemas.py"
    jsonschema.Draft202012Validator.check_schema(schema(command))


@pytest.mark.parametrize("command", ["inspect", "verify", "bench", "diff"])
def test_output_on_standard_output(command: str, compiled: Path, capsys: pytest.CaptureFixture[str]) -> None:
    files = [str(compiled)] if command == "inspect" else [LENET, str(compiled)]
    assert cli.main([command, *files, "--json"]) == (1 if command == "diff" else 0)
    check(command, json.loads(capsys.readouterr().out))


@pytest.mark.parametrize("command", ["compile", "sensitivity", "frontier"])
@pytest.mark.parametrize("with_data", [False, True])
def test_output_in_a_file(command: str, with_data: bool, tmp_path: Path) -> None:
    slice_ = np.load(SAMPLES / "mnist_test_slice.npz")
    images = ((slice_["x"][:96, None] / 255 - slice_["mean"]) / slice_["std"]).astype(np.float32)
    np.savez(tmp_path / "data.npz", x=images, y=slice_["y"][:96])
    data = ["--data", str(tmp_path / "data.npz"), "--labels", "y"] if with_data else []
    output = ["-o", str(tmp_path / "out.onnx")] if command == "compile" else ["--steps", "0.1,0.2,0.4,0.8"]
    assert cli.main([command, LENET, *output, *data, "--json", str(tmp_path / "out.json")]) == 0
    check(command, json.loads((tmp_path / "out.json").read_text()))


def check(command: str, output: dict[str, Any]) -> None:
    """The output follows the file, fields that it lacks or that are of another kind are refused."""
    validator = jsonschema.Draft202012Validator(json.loads(published.path(command).read_text()))
    validator.validate(output)
    assert output["schema"] == f"dcc.{command}/{published.VERSIONS[command]}"
    for name in output:
        assert not validator.is_valid({k: v for k, v in output.items() if k != name})
        assert not validator.is_valid(output | {name: object()})
    assert validator.is_valid(output | {"of_tomorrow": 1})
