"""The workflow sample: its steps pass on a good change, and stop at the right one on a bad change."""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import yaml

import dc_compiler

SAMPLES = Path(__file__).parents[1] / "samples"
WORKFLOW = yaml.safe_load((SAMPLES / "workflow" / "models.yml").read_text())
STEPS: list[dict[str, Any]] = WORKFLOW["jobs"]["compile"]["steps"]


def failing_step(folder: Path, **instead: str) -> str | None:
    """Run the steps in order as the runner's shell does, or other commands ``instead`` of those of a step; the name of
    the first that fails."""
    programs = folder / "programs"
    programs.mkdir()
    for name, line in (("pip", 'test "$*" = "install dc-compiler"'), ("dcc", f'{sys.executable} -m dc_compiler "$@"')):
        (programs / name).write_text(f"#!/bin/sh\n{line}\n")
        (programs / name).chmod(0o755)
    path = f"{programs}{os.pathsep}{os.environ['PATH']}"
    for step in STEPS:
        if "run" in step:
            shell = ["bash", "-e", "-o", "pipefail", "-c", instead.get(step["name"], step["run"])]
            done = subprocess.run(shell, cwd=folder, env=os.environ | {"PATH": path}, capture_output=True, check=False)
            if done.returncode != 0:
                return str(step["name"])
    return None


@pytest.fixture
def repository(tmp_path: Path) -> Path:
    """The files that the workflow expects, with a compiled model of its own making."""
    shutil.copy(SAMPLES / "lenet300.onnx", tmp_path / "model.onnx")
    digits = np.load(SAMPLES / "mnist_test_slice.npz")
    images = (digits["x"][:64, None] / 255 - digits["mean"]) / digits["std"]
    np.savez(tmp_path / "inputs.npz", x=images.astype(np.float32))
    dc_compiler.compile_model(tmp_path / "model.onnx", tmp_path / "model.dcc.onnx")
    return tmp_path


def test_the_same_model_passes(repository: Path) -> None:
    assert failing_step(repository) is None
    assert (repository / "new.dcc.onnx").read_bytes() == (repository / "model.dcc.onnx").read_bytes()
    assert (repository / "compile.json").exists()


def test_a_file_that_grew_is_refused(repository: Path) -> None:
    dc_compiler.compile_model(
        repository / "model.onnx", repository / "model.dcc.onnx", pipeline="cluster(grid,step=1.5),encode", force=True
    )
    assert failing_step(repository) == "Refuse a larger file"


def test_lost_quality_is_refused(repository: Path) -> None:
    dc_compiler.compile_model(
        repository / "model.onnx", repository / "ruin.onnx", pipeline="prune(density=0.01),encode"
    )
    assert failing_step(repository, Compile="cp ruin.onnx new.dcc.onnx") == "Verify"
