"""The serving samples: FastAPI answers as onnxruntime does, and sessions that come and go leave no memory behind."""

from __future__ import annotations

import importlib.util
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from types import ModuleType

import numpy as np
import pytest
from fastapi.testclient import TestClient

import dc_compiler

SAMPLES = Path(__file__).parents[1] / "samples"


@pytest.fixture(scope="module")
def model(tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("serving") / "lenet5.dcc.onnx"
    dc_compiler.compile_model(SAMPLES / "lenet5.onnx", path)
    return path


def sample(name: str) -> ModuleType:
    spec = importlib.util.spec_from_file_location(f"serving_{name}", SAMPLES / "serving" / f"{name}.py")
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


@pytest.fixture
def client(model: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[TestClient]:
    monkeypatch.setenv("MODEL", str(model))
    with TestClient(sample("app").app) as client:
        yield client


def test_fastapi_classifies(client: TestClient) -> None:
    assert client.get("/health").json() == {"ready": True}
    digits = np.load(SAMPLES / "mnist_test_slice.npz")
    right = 0
    for image, label in zip(digits["x"][:50], digits["y"][:50], strict=True):
        answer = client.post("/classify", json={"image": image.tolist()}).json()
        assert answer["digit"] == int(np.argmax(answer["probabilities"]))
        assert sum(answer["probabilities"]) == pytest.approx(1)
        right += answer["digit"] == int(label)
    assert right >= 48


@pytest.mark.parametrize("image", [[], [[0] * 28] * 27, [[0] * 28] * 27 + [[0]], "no picture"])
def test_fastapi_refuses_what_is_no_image(client: TestClient, image: object) -> None:
    assert client.post("/classify", json={"image": image}).status_code == 422


def test_fastapi_does_not_start_without_a_model(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("MODEL", str(tmp_path / "none.onnx"))
    with pytest.raises(Exception, match=r"none\.onnx"), TestClient(sample("app").app):
        pass


def test_sessions_come_and_go(model: Path) -> None:
    command = [sys.executable, str(SAMPLES / "serving" / "soak.py"), str(model), "--sessions", "200"]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stdout + done.stderr
    assert done.stdout.count(" sessions: ") == 10
