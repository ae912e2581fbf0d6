"""The native library: where it is, and its functions and structures as native/dcc.h declares them."""

from __future__ import annotations

import ctypes
import functools
import importlib.metadata
import sys
import sysconfig
from pathlib import Path
from typing import Any

from dc_compiler.errors import LibraryError

LIBRARY_NAME = "libdcc.so"
DISTRIBUTION = "dc-compiler"
MAX_RANK = 32
_REMEDY = "reinstall the package with 'pip install --force-reinstall .'"


class FrameInfoStruct(ctypes.Structure):
    """dcc_frame_info of native/dcc.h."""

    _fields_ = (
        ("dtype", ctypes.c_uint8),
        ("coder", ctypes.c_uint8),
        ("codebook_kind", ctypes.c_uint8),
        ("scale_kind", ctypes.c_uint8),
        ("rank", ctypes.c_uint8),
        ("lanes", ctypes.c_uint8),
        ("position_bits", ctypes.c_uint8),
        ("reserved", ctypes.c_uint8),
        ("codebook_entries", ctypes.c_uint32),
        ("zero", ctypes.c_uint32),
        ("grid_lo", ctypes.c_int64),
        ("dims", ctypes.c_uint64 * MAX_RANK),
        ("elements", ctypes.c_uint64),
        ("nonzero", ctypes.c_uint64),
        ("channels", ctypes.c_uint64),
        ("inner", ctypes.c_uint64),
        ("chunk_elements", ctypes.c_uint64),
        ("chunks", ctypes.c_uint64),
        ("entries", ctypes.c_uint64),
        ("header_bytes", ctypes.c_uint64),
        ("codebook_bytes", ctypes.c_uint64),
        ("scales_bytes", ctypes.c_uint64),
        ("tables_bytes", ctypes.c_uint64),
        ("data_bytes", ctypes.c_uint64),
        ("position_bits_total", ctypes.c_uint64),
        ("index_bits_total", ctypes.c_uint64),
    )


class EncodeRequest(ctypes.Structure):
    """dcc_encode_request of native/dcc.h."""

    _fields_ = (
        ("dtype", ctypes.c_uint8),
        ("coder", ctypes.c_uint8),
        ("codebook_kind", ctypes.c_uint8),
        ("scale_kind", ctypes.c_uint8),
        ("rank", ctypes.c_uint8),
        ("position_bits", ctypes.c_uint8),
        ("only_quick", ctypes.c_uint8),
        ("reserved", ctypes.c_uint8),
        ("codebook_entries", ctypes.c_uint32),
        ("zero", ctypes.c_uint32),
        ("grid_lo", ctypes.c_int64),
        ("dims", ctypes.c_uint64 * MAX_RANK),
        ("data", ctypes.c_void_p),
        ("indices", ctypes.c_void_p),
        ("codebook", ctypes.c_void_p),
        ("scales", ctypes.c_void_p),
        ("channels", ctypes.c_uint64),
        ("inner", ctypes.c_uint64),
        ("chunk_elements", ctypes.c_uint64),
        ("threads", ctypes.c_int32),
        ("offset", ctypes.c_int32),
    )


class CoderInfoStruct(ctypes.Structure):
    """dcc_coder_info of native/dcc.h."""

    _fields_ = (
        ("name", ctypes.c_char_p),
        ("number", ctypes.c_uint8),
        ("stores", ctypes.c_uint8),
        ("is_slow", ctypes.c_uint8),
        ("is_quick", ctypes.c_uint8),
        ("decode_picoseconds", ctypes.c_uint32),
        ("nonzero_picoseconds", ctypes.c_uint32),
        ("frame_nanoseconds", ctypes.c_uint32),
    )


def get_library_path() -> str:
    """Return the absolute path of the native library, for ``SessionOptions.register_custom_ops_library``.

    It is looked for in the package's folders, then among the files of the installed distribution: a checkout has no
    library beside its sources. Raises LibraryError when there is none.
    """
    for candidate in _candidates():
        if candidate.is_file():
            return str(candidate.resolve())
    raise LibraryError(f"{LIBRARY_NAME} was not found: install the package with 'pip install .'")


@functools.cache
def library() -> ctypes.CDLL:
    """The library, loaded once.

    Raises:
        LibraryError: it is missing, cannot be loaded, belongs to another version of this package, or is told by
            DCC_ISA to use kernels that there are not.
    """
    path = get_library_path()
    try:
        loaded = ctypes.CDLL(path)
    except OSError as error:
        raise LibraryError(f"{path} cannot be loaded: {error}") from error
    _check_version(loaded, path)
    _declare(loaded)
    _check_layout(loaded, path)
    message = ctypes.create_string_buffer(256)
    if loaded.dcc_check_isa(message, 256) != 0:
        raise LibraryError(message.value.decode())
    return loaded


def _candidates() -> list[Path]:
    package = sys.modules[__package__.partition(".")[0]]
    candidates = [Path(folder, LIBRARY_NAME) for folder in package.__path__]  # an editable install has two folders
    try:
        files = importlib.metadata.distribution(DISTRIBUTION).files or []
    except importlib.metadata.PackageNotFoundError:
        files = []
    candidates += [Path(str(file.locate())) for file in files if file.name == LIBRARY_NAME]
    candidates += [Path(sysconfig.get_path(name), "dc_compiler", LIBRARY_NAME) for name in ("platlib", "purelib")]
    return candidates


def _check_version(loaded: ctypes.CDLL, path: str) -> None:
    try:
        expected = importlib.metadata.version(DISTRIBUTION)
    except importlib.metadata.PackageNotFoundError:  # sources on the path, never installed
        return
    loaded.dcc_version.restype = ctypes.c_char_p
    version = loaded.dcc_version().decode()
    if version != expected:
        raise LibraryError(f"{path} is of version {version}, the package of {expected}: {_REMEDY}")


def _declare(loaded: ctypes.CDLL) -> None:
    pointer, size, text, number = ctypes.c_void_p, ctypes.c_size_t, ctypes.c_char_p, ctypes.c_int
    out = ctypes.POINTER
    signatures: dict[str, tuple[Any, list[Any]]] = {
        "dcc_frame_parse": (number, [pointer, size, out(FrameInfoStruct), text, size]),
        "dcc_frame_decode": (number, [pointer, size, pointer, size, number, text, size]),
        "dcc_frame_decode_indices": (number, [pointer, size, pointer, size, number, text, size]),
        "dcc_frame_decode_points": (number, [pointer, size, pointer, size, pointer, size, number, text, size]),
        "dcc_frame_encode": (number, [out(EncodeRequest), out(pointer), out(size), text, size]),
        "dcc_free": (None, [pointer]),
        "dcc_unpack": (number, [pointer, size, ctypes.c_uint64, number, out(pointer), out(size), text, size]),
        "dcc_isa": (text, []),
        "dcc_runnable_isa": (text, [size]),
        "dcc_select_isa": (number, [text]),
        "dcc_check_isa": (number, [text, size]),
        "dcc_flush_denormals": (number, [number]),
        "dcc_set_cancel_flag": (pointer, [pointer]),
        "dcc_runs_sparse": (
            number,
            [text, number, ctypes.c_uint64, ctypes.c_uint64, ctypes.c_double, out(ctypes.c_double)],
        ),
        "dcc_version": (text, []),
        "dcc_struct_sizes": (None, [out(size), out(size), out(size)]),
        "dcc_coder": (number, [size, out(CoderInfoStruct)]),
        "dcc_coder_name": (text, [ctypes.c_uint8]),
    }
    for name, (result, arguments) in signatures.items():
        try:
            function = getattr(loaded, name)
        except AttributeError:
            raise LibraryError(f"the native library has no function {name}: {_REMEDY}") from None
        function.restype, function.argtypes = result, arguments


def _check_layout(loaded: ctypes.CDLL, path: str) -> None:
    """Structures of another layout would be read and written beside their fields."""
    structures = (FrameInfoStruct, EncodeRequest, CoderInfoStruct)
    sizes = [ctypes.c_size_t() for _ in structures]
    loaded.dcc_struct_sizes(*map(ctypes.byref, sizes))
    if [s.value for s in sizes] != [ctypes.sizeof(s) for s in structures]:
        raise LibraryError(f"{path} has structures of other sizes than the package: {_REMEDY}")
