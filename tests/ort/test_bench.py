"""The benchmark's own behaviour: its rows, and models whose loading fails or kills the measuring process."""

from __future__ import annotations

import subprocess
from pathlib import Path
from typing import Any

import onnx
import ort_models as models
import pytest

from dc_compiler import compile_model
from dc_compiler.errors import ModelError
from dc_compiler.ort import bench
from dc_compiler.ort.sessions import Sessions


@pytest.fixture
def pair(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> tuple[Path, Path]:
    """A model and its compiled form, to be measured shortly."""
    monkeypatch.setattr(bench, "LOAD_RUNS", 1)
    monkeypatch.setattr(bench, "LATENCY_SECONDS", 0.1)
    source, target = tmp_path / "in.onnx", tmp_path / "out.onnx"
    model = models.chain(models.random_weights(1, (64, 64)))
    del model.opset_import[1:]  # dcc's, which would say that it is compiled
    onnx.save(model, source)
    compile_model(source, target)
    return source, target


def test_rows_and_threads(pair: tuple[Path, Path], monkeypatch: pytest.MonkeyPatch) -> None:
    opened = []
    real = Sessions._open

    def counted(self: Sessions, content: Any, threads: int, compiled: bool, apart: Any) -> Any:
        opened.append((threads, compiled))
        return real(self, content, threads, compiled, apart)

    monkeypatch.setattr(Sessions, "_open", counted)
    result = bench.bench(*pair, threads=2)
    assert result.threads == 2
    assert opened == [(2, False), (2, True)]
    size, load, memory, latency = result.rows
    assert (size.name, size.original, size.compiled) == ("file size", *(float(p.stat().st_size) for p in pair))
    assert size.ratio == size.compiled / size.original
    assert [row.unit for row in (load, memory, latency)] == ["s", "bytes", "s"]
    for row in (load, latency):
        assert 0 < row.original < 10
        assert 0 < row.low <= row.ratio <= row.high


def test_a_measuring_process_that_dies_is_told(pair: tuple[Path, Path], monkeypatch: pytest.MonkeyPatch) -> None:
    def dies(command: list[str], **rest: Any) -> subprocess.CompletedProcess[str]:
        return subprocess.CompletedProcess(command, -11, "", "")

    monkeypatch.setattr(subprocess, "run", dies)
    with pytest.raises(ModelError, match=r"in\.onnx: the process died of signal 11"):
        bench.bench(*pair)
