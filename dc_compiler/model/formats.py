"""Tells what a file is that was given as a model but is none, and what to do about it."""

from __future__ import annotations

import zipfile
from pathlib import Path

LFS_POINTER = b"version https://git-lfs.github.com/spec/"
_LFS = "it is a Git LFS pointer, not the file itself; run 'git lfs pull' to fetch that"
_EXPORT = "export it to ONNX"

# (offset, bytes found there, what that is)
_MAGIC: tuple[tuple[int, bytes, str], ...] = (
    (0, LFS_POINTER, _LFS),
    (4, b"ORTM", "it is in onnxruntime's own ORT format; give the .onnx file that it was made from"),
    (4, b"TFL3", f"it is a TensorFlow Lite model; {_EXPORT}, with tf2onnx for example"),
    (0, b"\x89HDF\r\n\x1a\n", f"it is an HDF5 file, as Keras writes; {_EXPORT}, with tf2onnx for example"),
    (0, b"GGUF", f"it is a GGUF file; {_EXPORT} from the model it was made from"),
    (0, b"\x1f\x8b", "it is compressed with gzip; decompress it first"),
    (0, b"\xfd7zXZ\0", "it is compressed with xz; decompress it first"),
    (0, b"BZh", "it is compressed with bzip2; decompress it first"),
    (0, b"\x28\xb5\x2f\xfd", "it is compressed with zstd; decompress it first"),
    (0, b"7z\xbc\xaf\x27\x1c", "it is a 7-Zip archive; unpack it first"),
    (257, b"ustar", "it is a tar archive; unpack it first"),
    (0, b"\x80\x02", f"it is a Python pickle, as torch.save writes; {_EXPORT} with torch.onnx.export"),
    (0, b"\x93NUMPY", "it is a NumPy array"),
)


def what_it_is(data: bytes, path: Path) -> str | None:
    """A clause on what the file is and what to do, or None when it is not recognised.

    Args:
        data: the file's content. path: the file, whose archive directory is read if it is a zip archive.
    """
    for offset, magic, clause in _MAGIC:
        if data[offset : offset + len(magic)] == magic:
            return clause
    if data.startswith(b"PK\x03\x04"):
        return _archive(path)
    if _is_safetensors(data):
        return f"it is a safetensors file, which holds weights without a graph; {_EXPORT} from the framework"
    if _is_tensorflow(data):
        return f"it is a TensorFlow graph; {_EXPORT}, with tf2onnx for example"
    start = data[:512].lstrip().lower()
    if start.startswith((b"<!doctype html", b"<html")):
        return "it is a web page; download the file itself"
    if start.startswith((b"<?xml", b"<net")):
        return f"it is XML, as OpenVINO writes; {_EXPORT} from the model it was made from"
    if start.startswith((b"{", b"ir_version:", b"< ir_version", b"<ir_version")):
        return "it is text; save it in ONNX's binary form with onnx.save"
    return None


def pointer_sentence(path: Path) -> str | None:
    """What a data file is when it is a Git LFS pointer, else None."""
    with path.open("rb") as file:
        return _LFS if file.read(len(LFS_POINTER)) == LFS_POINTER else None


def _archive(path: Path) -> str:
    try:
        with zipfile.ZipFile(path) as archive:
            names = archive.namelist()
    except (OSError, zipfile.BadZipFile):
        names = []
    if any(name.endswith("data.pkl") for name in names):
        return f"it is a PyTorch file, as torch.save writes; {_EXPORT} with torch.onnx.export"
    if "model.weights.h5" in names:
        return f"it is a Keras model; {_EXPORT}, with tf2onnx for example"
    if names and all(name.endswith(".npy") for name in names):
        return "it is a NumPy archive (.npz) of arrays"
    return "it is a zip archive; unpack it first"


def _is_safetensors(data: bytes) -> bool:
    """Eight bytes of header length, then the header's JSON."""
    return data[8:9] == b"{" and 2 <= int.from_bytes(data[:8], "little") <= max(len(data) - 8, 0)


def _is_tensorflow(data: bytes) -> bool:
    """A GraphDef (its nodes come first) or a SavedModel, by the operators that every graph holds."""
    start = data[: 1 << 20]
    is_framed = start.startswith((b"\x0a", b"\x08\x01\x12"))
    return is_framed and any(op in start for op in (b"\x12\x05Const", b"\x12\x0bPlaceholder", b"\x12\x0bVarHandleOp"))
