"""Sessions: options, libraries, the public helpers, models beyond protobuf's bound, and the original's session kept."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import onnxruntime as ort
import ort_models as models
import pytest

import dc_compiler
from dc_compiler.errors import InvalidArgumentError, LibraryError, ModelError
from dc_compiler.model import files
from dc_compiler.ort.sessions import Sessions


def packed() -> onnx.ModelProto:
    return models.session_form(models.chain(models.random_weights(1)), {"w0"})


def expected(x: models.Array) -> models.Array:
    return np.asarray(x @ models.random_weights(1)[0])


def test_public_session_runs_a_compiled_file(tmp_path: Path) -> None:
    onnx.save(packed(), tmp_path / "m.onnx")
    x = models.random_input(3)
    for model in (tmp_path / "m.onnx", str(tmp_path / "m.onnx"), packed().SerializeToString()):
        session = dc_compiler.InferenceSession(model)
        np.testing.assert_allclose(session.run(None, {"x": x})[0], expected(x), rtol=1e-5)
        assert isinstance(session, ort.InferenceSession)
        assert session.get_providers() == ["CPUExecutionProvider"]


def test_public_session_registers_with_the_given_options(tmp_path: Path) -> None:
    options = ort.SessionOptions()
    options.optimized_model_filepath = str(tmp_path / "optimized.onnx")
    session = dc_compiler.InferenceSession(packed().SerializeToString(), options, providers=["CPUExecutionProvider"])
    assert session.run(None, {"x": models.random_input(2)})[0].shape == (2, 8)
    assert (tmp_path / "optimized.onnx").exists()
    dc_compiler.InferenceSession(packed().SerializeToString(), options)  # registered already, which does no harm


def test_session_options_set_everything_before_they_register() -> None:
    options = dc_compiler.session_options(intra_op_num_threads=3, config={"session.intra_op.allow_spinning": "0"})
    assert options.intra_op_num_threads == 3
    assert options.get_session_config_entry("session.intra_op.allow_spinning") == "0"
    session = ort.InferenceSession(packed().SerializeToString(), options, providers=["CPUExecutionProvider"])
    assert session.run(None, {"x": models.random_input(2)})[0].shape == (2, 8)


@pytest.mark.parametrize(
    ("settings", "sentence"),
    [({"threads": 1}, "no 'threads'"), ({"intra_op_num_threads": "many"}, "do not take 'many'")],
)
def test_settings_that_onnxruntime_lacks(settings: dict[str, Any], sentence: str) -> None:
    with pytest.raises(InvalidArgumentError, match=sentence):
        dc_compiler.session_options(**settings)


def test_libraries_that_cannot_be_used(tmp_path: Path) -> None:
    with pytest.raises(InvalidArgumentError, match=r"none\.so does not exist"):
        dc_compiler.session_options(custom_op_libraries=[tmp_path / "none.so"])
    (tmp_path / "text.so").write_text("no library")
    with pytest.raises(LibraryError, match=r"cannot use the custom-op library .*text\.so"):
        Sessions([tmp_path / "text.so"])


@pytest.mark.parametrize("rest", [False, True])
def test_threads_rest_where_it_is_asked_for(rest: bool) -> None:
    """Two models that run in turn do not spin against each other; sessions that are timed are as users have them."""
    key = "session.force_spinning_stop"
    options = Sessions(rest=rest).open(packed()).get_session_options()
    if rest:
        assert options.get_session_config_entry(key) == "1"
    else:
        with pytest.raises(Exception, match=key):
            options.get_session_config_entry(key)


def test_the_original_is_opened_once(monkeypatch: pytest.MonkeyPatch) -> None:
    opened, real = [], Sessions._open

    def counted(self: Sessions, *arguments: Any) -> Any:
        opened.append(arguments)
        return real(self, *arguments)

    monkeypatch.setattr(Sessions, "_open", counted)
    sessions, source = Sessions(), files.read_model(models.chain(models.random_weights(1)))
    first = sessions.original(source, 1)
    assert sessions.original(source, 1) is first
    assert len(opened) == 1
    sessions.forget_originals()
    assert sessions.original(source, 1) is not first


def test_a_message_beyond_the_bound_goes_through_a_file(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(files, "MAX_MESSAGE_BYTES", 200)
    x = models.random_input(2)
    session = Sessions().open(models.chain(models.random_weights(1)))
    np.testing.assert_allclose(session.run(None, {"x": x})[0], expected(x), rtol=1e-5)


def test_models_that_onnxruntime_refuses_are_one_line(capfd: pytest.CaptureFixture[str]) -> None:
    model = models.chain(models.random_weights(1))
    model.graph.node[-1].op_type = "Unheard"
    with pytest.raises(ModelError) as caught:
        Sessions().open(model)
    assert "Unheard" in str(caught.value)
    assert "\n" not in str(caught.value)
    assert capfd.readouterr() == ("", "")


def test_importing_the_package_does_not_import_onnxruntime() -> None:
    code = "import sys, dc_compiler.cli; sys.exit('onnxruntime' in sys.modules or 'sklearn' in sys.modules)"
    subprocess.run([sys.executable, "-c", code], check=True)
