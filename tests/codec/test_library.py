"""The library that is loaded is the package's own, and a wish in DCC_ISA that cannot be met is an error."""

from __future__ import annotations

import ctypes
import importlib.metadata
import os
import subprocess
import sys
from pathlib import Path

import pytest

from dc_compiler.codec import binding, library
from dc_compiler.errors import LibraryError

ROOT = Path(__file__).parents[2]
LOAD = "from dc_compiler.codec import binding; print(binding.isa())"
REGISTER = """
import onnxruntime as ort, sys
options = ort.SessionOptions()
try:
    options.register_custom_ops_library(sys.argv[1])
except Exception as error:
    print(error)
"""


def run(script: str, isa: str | None) -> subprocess.CompletedProcess[str]:
    environment = {name: value for name, value in os.environ.items() if name != "DCC_ISA"} | {"PYTHONPATH": str(ROOT)}
    if isa is not None:
        environment["DCC_ISA"] = isa
    command = [sys.executable, "-c", script, binding.get_library_path()]
    return subprocess.run(command, env=environment, capture_output=True, text=True, timeout=60)


@pytest.mark.parametrize("isa", ["avx9000", "", "AVX2", "portable,avx2"])
def test_an_unknown_isa_is_an_error_that_names_the_known_ones(isa: str) -> None:
    done = run(LOAD, isa)
    assert done.returncode != 0
    sentence = done.stderr.strip().splitlines()[-1]
    assert sentence.startswith(
        f"dc_compiler.errors.LibraryError: the environment variable DCC_ISA is '{isa}'; known are auto"
    )
    assert sentence.endswith("portable")
    assert f"DCC_ISA is '{isa}'; known are auto" in run(REGISTER, isa).stdout


@pytest.mark.parametrize("isa", [None, "auto", "portable"])
def test_a_known_isa_is_obeyed(isa: str | None) -> None:
    done = run(LOAD, isa)
    assert done.returncode == 0, done.stderr
    assert done.stdout.strip() == ("portable" if isa == "portable" else binding.isa())
    assert run(REGISTER, isa).stdout == ""


def test_versions_of_library_and_package_are_equal() -> None:
    assert binding.library_version() == importlib.metadata.version(library.DISTRIBUTION)


@pytest.fixture
def loaded() -> ctypes.CDLL:
    return ctypes.CDLL(binding.get_library_path())


def test_a_library_of_another_version_is_refused(loaded: ctypes.CDLL, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(importlib.metadata, "version", lambda name: "99.0.0")
    with pytest.raises(LibraryError, match=r"is of version .*, the package of 99\.0\.0: reinstall"):
        library._check_version(loaded, "libdcc.so")


def test_a_library_with_other_structures_is_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    class Longer(ctypes.Structure):
        _fields_ = (("more", ctypes.c_uint64 * 100),)

    monkeypatch.setattr(library, "EncodeRequest", Longer)
    with pytest.raises(LibraryError, match="structures of other sizes than the package: reinstall"):
        library._check_layout(library.library(), "libdcc.so")


def test_a_library_without_a_function_is_refused() -> None:
    with pytest.raises(LibraryError, match="has no function dcc_frame_parse: reinstall"):
        library._declare(ctypes.CDLL(None))
