"""Files that are no ONNX models: a sentence says what they are and what to do."""

from __future__ import annotations

import gzip
import io
import json
import re
import tarfile
import zipfile
from pathlib import Path

import onnx
import pytest
from models.graphs import GRAPHS

from dc_compiler.cli import main


def archive(*names: str) -> bytes:
    buffer = io.BytesIO()
    with zipfile.ZipFile(buffer, "w") as file:
        for name in names:
            file.writestr(name, b"content")
    return buffer.getvalue()


def tar() -> bytes:
    buffer = io.BytesIO()
    with tarfile.open(fileobj=buffer, mode="w") as file:
        info = tarfile.TarInfo("model.onnx")
        file.addfile(info, io.BytesIO())
    return buffer.getvalue()


def safetensors() -> bytes:
    header = json.dumps({"w": {"dtype": "F32", "shape": [2], "data_offsets": [0, 8]}}).encode()
    return len(header).to_bytes(8, "little") + header + bytes(8)


def tensorflow_node(name: bytes, operator: bytes) -> bytes:
    node = b"\x0a" + bytes([len(name)]) + name + b"\x12" + bytes([len(operator)]) + operator
    return b"\x0a" + bytes([len(node)]) + node


MODEL = GRAPHS["matmul"]()[0].SerializeToString()
KINDS = {
    "lfs": (
        b"version https://git-lfs.github.com/spec/v1\noid sha256:00\nsize 9\n",
        "a Git LFS pointer, .* 'git lfs pull'",
    ),
    "ort": (b"\x40\0\0\0ORTM" + bytes(100), "in onnxruntime's own ORT format; give the .onnx file"),
    "tflite": (b"\x1c\0\0\0TFL3" + bytes(100), "a TensorFlow Lite model; export it to ONNX"),
    "keras": (archive("metadata.json", "config.json", "model.weights.h5"), "a Keras model; export it to ONNX"),
    "h5": (b"\x89HDF\r\n\x1a\n" + bytes(100), "an HDF5 file, as Keras writes; export it to ONNX"),
    "pt": (archive("archive/data.pkl", "archive/data/0"), "a PyTorch file, .* with torch.onnx.export"),
    "old.pt": (b"\x80\x02\x8a\nl\xfc\x9cF\xf9 j\xa8P\x19.", "a Python pickle, as torch.save writes; export it"),
    "zip": (archive("model.onnx"), "a zip archive; unpack it first"),
    "broken.zip": (archive("model.onnx")[:30], "a zip archive; unpack it first"),
    "npz": (archive("x.npy", "y.npy"), r"a NumPy archive \(.npz\)"),
    "gz": (gzip.compress(MODEL), "compressed with gzip; decompress it first"),
    "tar": (tar(), "a tar archive; unpack it first"),
    "safetensors": (safetensors(), "a safetensors file, which holds weights without a graph; export it to ONNX"),
    "gguf": (b"GGUF\x03\0\0\0" + bytes(16), "a GGUF file; export it to ONNX"),
    "pb": (tensorflow_node(b"x", b"Placeholder") + tensorflow_node(b"w", b"Const"), "a TensorFlow graph; export it"),
    "saved.pb": (b"\x08\x01\x12\x40" + tensorflow_node(b"w", b"VarHandleOp"), "a TensorFlow graph; export it"),
    "html": (b"\n<!DOCTYPE html>\n<html>404</html>", "a web page; download the file itself"),
    "xml": (b'<?xml version="1.0"?>\n<net name="m">', "XML, as OpenVINO writes; export it"),
    "onnxtxt": (b'<ir_version: 8, opset_import: ["" : 17]>\ng (float x) => (float y) {}', "text; save it in ONNX's"),
    "json": (b'{"irVersion": "8", "graph": {}}', "text; save it in ONNX's binary form"),
}


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("command", ["compile", "inspect", "verify"])
def test_what_a_file_is(kind: str, command: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    content, message = KINDS[kind]
    path = tmp_path / f"m.{kind}"
    path.write_bytes(content)
    more = {"compile": ["-o", str(tmp_path / "out.onnx")], "inspect": [], "verify": [str(path)]}[command]
    assert main([command, str(path), *more]) == 2
    shown = capsys.readouterr().err
    assert shown.count("\n") == 1
    assert re.match(rf"dcc: {path} is not an ONNX model: it is {message}", shown), shown
    assert [p.name for p in tmp_path.iterdir()] == [path.name]


def test_a_model_is_a_model_whatever_its_name(tmp_path: Path) -> None:
    for name in ("m.pb", "m.ort", "m.zip"):
        (tmp_path / name).write_bytes(MODEL)
        assert main(["inspect", str(tmp_path / name)]) == 0


def test_other_messages(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """What parses without holding a graph."""
    (tmp_path / "m.onnx").write_bytes(onnx.TensorProto(dims=[1], data_type=1, raw_data=bytes(4)).SerializeToString())
    assert main(["inspect", str(tmp_path / "m.onnx")]) == 2
    assert "m.onnx is not an ONNX model" in capsys.readouterr().err
