"""The library in other people's processes: what a registration keeps, which options inner sessions get."""

from __future__ import annotations

import os
import subprocess
import sys
from collections.abc import Mapping
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
    "session.model_external_initializers_file_folder_path": "/nowhere",
    "session.optimized_model_external_initializers_file_name": "beside.bin",
    "session.optimized_model_external_initializers_min_size_in_bytes": "16",
    "ep.share_ep_contexts": "1",
    "some.key.of.the.host": "1",
}


def saved_as_ort(model: Any, path: Path) -> str:
    options = models.options(entries={"session.save_model_format": "ORT"}, level=models.LEVELS[1])
    options.optimized_model_filepath = str(path)
    models.open_session(model, options)
    return str(path)


def options_with(entries: Mapping[str, str], when: str) -> ort.SessionOptions:
    """Options that get the entries before or after the library is registered on them."""
    options = models.options(entries=entries if when == "before" else {})
    if when == "after":
        for key, value in entries.items():
            options.add_session_config_entry(key, value)
    return options


def open_file(path: str, options: ort.SessionOptions) -> ort.InferenceSession:
    """From the path: onnxruntime's Python interface frees bytes that it was given before it has read them all."""
    return ort.InferenceSession(path, options, providers=["CPUExecutionProvider"])


@pytest.mark.parametrize("when", ["before", "after"])
@pytest.mark.parametrize("form", ["session", "graph"])
def test_options_of_the_outer_file_stay_outside(form: str, when: str, tmp_path: Path) -> None:
    dense = models.chain(models.random_weights(2))
    packed = (
        models.session_form(dense, {"w0", "w1"}) if form == "session" else models.graph_form(dense, {"w0": 1, "w1": 2})
    )
    path = saved_as_ort(packed, tmp_path / "model.ort")
    session = open_file(path, options_with(FOR_THE_OUTER_FILE, when))
    x = models.random_input(3)
    (expected,) = models.open_session(dense).run(None, {"x": x})
    np.testing.assert_allclose(session.run(None, {"x": x})[0], expected, rtol=1e-5, atol=1e-5)
    assert sorted(p.name for p in tmp_path.iterdir()) == ["model.ort"]


@pytest.mark.parametrize("when", ["before", "after"])
@pytest.mark.parametrize("form", ["session", "graph"])
def test_packed_weights_are_not_served_from_the_hosts_bytes(form: str, when: str, tmp_path: Path) -> None:
    """Constants of a file mapped to memory, read only, are neither payloads nor buffers."""
    dense = models.chain(models.random_weights(2, (64, 64)))
    packed = (
        models.session_form(dense, {"w0", "w1"}) if form == "session" else models.graph_form(dense, {"w0": 1, "w1": 2})
    )
    path = saved_as_ort(packed, tmp_path / "model.ort")
    entries = {"session.use_memory_mapped_ort_model": "1", "session.use_ort_model_bytes_for_initializers": "1"}
    with pytest.raises(Exception, match="leave out the session option"):
        open_file(path, options_with(entries, when))
