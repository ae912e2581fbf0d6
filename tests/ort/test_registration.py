"""The library in other people's processes: what a registration keeps, which options inner sessions get."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import numpy as np
import onnxruntime as ort
import ort_models as models
import pytest

GROWTH = """
import ctypes, sys
import onnx
import ort_models as models

model = onnx.load_from_string(sys.stdin.buffer.read())
def held():  # without what the heap keeps for later
    ctypes.CDLL(None).malloc_trim(0)
    return models.resident_bytes()

for count in range(1200):
    if count == 100:
        before = held()
    models.open_session(model)
print(held() - before)
"""


@pytest.mark.parametrize("form", ["dense", "session", "graph"])
def test_registering_over_and_over_does_not_leak(form: str) -> None:
    """1,100 registrations and sessions after the first 100, in a process of their own."""
    dense = models.chain(models.random_weights(1))
    model = {
        "dense": dense,
        "session": models.session_form(dense, {"w0"}),
        "graph": models.graph_form(dense, {"w0": 1}),
    }
    done = subprocess.run(
        [sys.executable, "-c", GROWTH],
        input=model[form].SerializeToString(),
        env=os.environ | {"PYTHONPATH": str(Path(__file__).parent), "MALLOC_MMAP_THRESHOLD_": "131072"},
        stdout=subprocess.PIPE,
        check=True,
    )
    assert int(done.stdout) < 1 << 20


def test_options_that_are_gone_give_their_place_to_others() -> None:
    """Sessions of earlier options live on; later ones have the options registered last."""
    model = models.session_form(models.chain(models.random_weights(1)), {"w0"})
    x = models.random_input(2)
    sessions = [models.open_session(model, models.options(threads=1 + i % 3)) for i in range(12)]
    for session in sessions:
        np.testing.assert_array_equal(session.run(None, {"x": x})[0], sessions[0].run(None, {"x": x})[0])


FOR_THE_OUTER_FILE = {
    "session.load_model_format": "ORT",
    "session.save_model_format": "ORT",
    "session.use_ort_model_bytes_directly": "1",
    "session.use_ort_model_bytes_for_initializers": "1",
    "session.model_external_initializers_file_folder_path": "/nowhere",
    "session.optimized_model_external_initializers_file_name": "beside.bin",
    "session.optimized_model_external_initializers_min_size_in_bytes": "16",
    "ep.share_ep_contexts": "1",
    "some.key.of.the.host": "1",
}


def saved_as_ort(model: Any, path: Path) -> bytes:
    options = models.options(entries={"session.save_model_format": "ORT"}, level=models.LEVELS[1])
    options.optimized_model_filepath = str(path)
    models.open_session(model, options)
    return path.read_bytes()


@pytest.mark.parametrize("order", ["before", "after"])
def test_options_of_the_outer_file_stay_outside(order: str, tmp_path: Path) -> None:
    dense = models.chain(models.random_weights(2))
    data = saved_as_ort(models.session_form(dense, {"w0", "w1"}), tmp_path / "model.ort")
    options = models.options(entries=FOR_THE_OUTER_FILE if order == "before" else {})
    if order == "after":
        for key, value in FOR_THE_OUTER_FILE.items():
            options.add_session_config_entry(key, value)
    session = ort.InferenceSession(data, options, providers=["CPUExecutionProvider"])
    x = models.random_input(3)
    np.testing.assert_array_equal(
        session.run(None, {"x": x})[0], models.open_session(dense).run(None, {"x": x})[0], strict=True
    )
    assert sorted(p.name for p in tmp_path.iterdir()) == ["model.ort"]


def test_model_bytes_of_the_host_are_not_written(tmp_path: Path) -> None:
    """Graph form in ORT format, its constants left in the bytes given: the buffers are then not ours."""
    dense = models.chain(models.random_weights(2, (512, 512)))
    data = saved_as_ort(models.graph_form(dense, {"w0": 1, "w1": 2}), tmp_path / "model.ort")
    kept = bytes(bytearray(data))
    borrowing = {
        "session.load_model_format": "ORT",
        "session.use_ort_model_bytes_directly": "1",
        "session.use_ort_model_bytes_for_initializers": "1",
    }
    x = models.random_input(3, 512)
    (expected,) = models.open_session(dense).run(None, {"x": x})
    options = models.options(entries=borrowing)
    sessions = [ort.InferenceSession(data, options, providers=["CPUExecutionProvider"]) for _ in range(2)]
    for session in sessions:
        np.testing.assert_allclose(session.run(None, {"x": x})[0], expected, rtol=1e-3, atol=1e-3)
    assert data == kept
    late = models.options()
    for key, value in borrowing.items():
        late.add_session_config_entry(key, value)
    with pytest.raises(Exception, match="register the dcc library after setting"):
        ort.InferenceSession(data, late, providers=["CPUExecutionProvider"])
    assert data == kept
