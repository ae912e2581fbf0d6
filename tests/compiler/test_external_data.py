"""External data as onnxruntime reads it: links of hub caches, missing lengths, and what is refused, in a sentence."""

from __future__ import annotations

import os
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import onnxruntime as ort
import pytest
from models.graphs import sample
from onnx import TensorProto, helper, numpy_helper
from test_graphs import same

from dc_compiler import InferenceSession, compile_model, inspect_model
from dc_compiler.errors import ModelError
from dc_compiler.model import external, files

VALUES = np.random.default_rng(0).standard_normal((64, 48)).astype(np.float32)
RAW = VALUES.tobytes()
SIZE = len(RAW)


def model(location: str = "w.bin", **entries: Any) -> bytes:
    """``y = x w`` whose weight lies in a file."""
    graph = helper.make_graph(
        [helper.make_node("MatMul", ["x", "w"], ["y"])],
        "g",
        [helper.make_tensor_value_info("x", 1, ["n", 64])],
        [helper.make_tensor_value_info("y", 1, ["n", 48])],
        [refer(TensorProto(name="w", data_type=1, dims=[64, 48]), location, **entries)],
    )
    imports = [helper.make_opsetid("", 17)]
    return bytes(helper.make_model(graph, opset_imports=imports, ir_version=8).SerializeToString())


def refer(tensor: onnx.TensorProto, location: str, **entries: object) -> onnx.TensorProto:
    tensor.data_location = TensorProto.EXTERNAL
    for key, value in {"location": location, **entries}.items():
        tensor.external_data.add(key=key, value=str(value))
    return tensor


def runs_in_onnxruntime(path: Path) -> bool:
    options = ort.SessionOptions()
    options.log_severity_level = 4
    try:
        ort.InferenceSession(str(path), options, providers=["CPUExecutionProvider"])
    except Exception:
        return False
    return True


def assert_compiled(path: Path) -> None:
    """Compiled without loss, the model gives what ``VALUES`` give, and its size counts the data file."""
    x = sample(3, 64)
    report = compile_model(path, path.with_name("out.onnx"), preset="lossless", skip="w", force=True).report
    assert report.original_bytes == path.stat().st_size + (path.parent / "w.bin").stat().st_size
    assert same([x @ VALUES], InferenceSession(path.with_name("out.onnx")).run(None, {"x": x}), exact=False)


# Where it lies -------------------------------------------------------------------------------------------------------

Layout = Callable[[Path], None]


def plain(root: Path) -> None:
    (root / "a/m.onnx").write_bytes(model())
    (root / "a/w.bin").write_bytes(RAW)


def hub_cache(root: Path) -> None:
    (root / "blobs/1").write_bytes(model())
    (root / "blobs/2").write_bytes(RAW)
    (root / "a/m.onnx").symlink_to("../blobs/1")
    (root / "a/w.bin").symlink_to("../blobs/2")


def link_inside(root: Path) -> None:
    plain(root)
    (root / "a/sub/w").write_bytes(RAW)
    (root / "a/w.bin").unlink()
    (root / "a/w.bin").symlink_to("sub/w")


def around(root: Path) -> None:
    (root / "a/m.onnx").write_bytes(model("sub/../w.bin"))
    (root / "a/w.bin").write_bytes(RAW)


def linked_folder(root: Path) -> None:
    plain(root)
    (root / "a").rename(root / "c")
    (root / "a").symlink_to("c")


def hard_link(root: Path) -> None:
    plain(root)
    (root / "blobs/2").hardlink_to(root / "a/w.bin")


@pytest.fixture
def root(tmp_path: Path) -> Path:
    for name in ("a/sub", "blobs"):
        (tmp_path / name).mkdir(parents=True)
    return tmp_path


@pytest.mark.parametrize("layout", [plain, hub_cache, link_inside, around, linked_folder, hard_link])
def test_links_are_followed_as_onnxruntime_does(layout: Layout, root: Path) -> None:
    layout(root)
    assert runs_in_onnxruntime(root / "a/m.onnx")
    assert_compiled(root / "a/m.onnx")


def link_out(root: Path) -> None:
    plain(root)
    (root / "a/w.bin").rename(root / "blobs/2")
    (root / "a/w.bin").symlink_to("../blobs/2")


def link_elsewhere(root: Path) -> None:
    """The model's link leads to another folder than the data's."""
    hub_cache(root)
    (root / "blobs/2").rename(root / "2")
    (root / "a/w.bin").unlink()
    (root / "a/w.bin").symlink_to("../2")


def folder_out(root: Path) -> None:
    link_out(root)
    (root / "a/m.onnx").write_bytes(model("sub/2"))
    (root / "a/sub").rmdir()
    (root / "a/sub").symlink_to("../blobs")


def parent(root: Path) -> None:
    link_out(root)
    (root / "a/m.onnx").write_bytes(model("../blobs/2"))


def absolute(root: Path) -> None:
    plain(root)
    (root / "a/m.onnx").write_bytes(model(str(root / "a/w.bin")))


def beside_the_real_model(root: Path) -> None:
    """Not found from the link that the model was opened by."""
    hub_cache(root)
    (root / "a/w.bin").unlink()
    (root / "blobs/w.bin").write_bytes(RAW)


def circle(root: Path) -> None:
    plain(root)
    (root / "a/w.bin").unlink()
    (root / "a/w.bin").symlink_to("w.bin")


def folder(root: Path) -> None:
    (root / "a/m.onnx").write_bytes(model("sub"))


def pipe(root: Path) -> None:
    (root / "a/m.onnx").write_bytes(model("pipe"))
    os.mkfifo(root / "a/pipe")


def no_name(root: Path) -> None:
    (root / "a/m.onnx").write_bytes(model(""))


def long_name(root: Path) -> None:
    (root / "a/m.onnx").write_bytes(model("x" * 5000))


def zero_byte(root: Path) -> None:
    (root / "a/m.onnx").write_bytes(model("w\0.bin"))


def through_a_file(root: Path) -> None:
    plain(root)
    (root / "a/m.onnx").write_bytes(model("w.bin/w"))


@pytest.mark.parametrize(
    ("layout", "message"),
    [
        (link_out, "'w.bin' lies outside the model's folder"),
        (link_elsewhere, "'w.bin' lies outside the model's folder"),
        (folder_out, "'sub/2' lies outside the model's folder"),
        (parent, "'../blobs/2' lies outside the model's folder"),
        (absolute, "is an absolute path; only the model's folder is read"),
        (beside_the_real_model, "'w.bin' does not exist"),
        (circle, "w.bin"),
        (folder, "'sub' is not a regular file"),
        (pipe, "'pipe' is not a regular file"),
        (no_name, "it does not name its data file"),
        (long_name, r"\(5,000 characters\)' cannot be opened: File name too long"),
        (zero_byte, "cannot be opened: .*null byte"),
        (through_a_file, "'w.bin/w' "),
    ],
)
def test_what_lies_elsewhere_is_refused(layout: Layout, message: str, root: Path) -> None:
    layout(root)
    if layout is not pipe:  # onnxruntime would wait for a writer
        assert not runs_in_onnxruntime(root / "a/m.onnx")
    for action in (compile_model, inspect_model):
        with pytest.raises(ModelError, match=f"tensor 'w' cannot be read: .*{message}") as caught:
            action(root / "a/m.onnx")
        assert len(str(caught.value)) < 600


def test_a_folder_that_may_not_be_read(root: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (root / "a/m.onnx").write_bytes(model("sub/w.bin"))

    def refuse(path: Path, **options: object) -> os.stat_result:
        if path.name == "w.bin":
            raise PermissionError(13, "Permission denied")
        return os.stat(path, **options)  # type: ignore[arg-type]

    monkeypatch.setattr(Path, "stat", refuse)
    with pytest.raises(ModelError, match=r"tensor 'w' cannot be read: .*'sub/w\.bin' cannot be opened: Permission"):
        compile_model(root / "a/m.onnx")


# How much of it ------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("entries", "before", "after"),
    [
        ({}, 0, 0),
        ({}, 0, 100),
        ({"offset": 0, "length": SIZE}, 0, 0),
        ({"offset": 4096, "length": SIZE}, 4096, 7),
        ({"offset": 4096}, 4096, 0),
        ({"offset": 3}, 3, 5),
        ({"length": 0}, 0, 0),
        ({"checksum": "da39a3ee"}, 0, 0),
    ],
)
def test_what_onnxruntime_reads(entries: dict[str, Any], before: int, after: int, root: Path) -> None:
    (root / "a/m.onnx").write_bytes(model(**entries))
    (root / "a/w.bin").write_bytes(bytes(before) + RAW + bytes(after))
    assert runs_in_onnxruntime(root / "a/m.onnx")
    assert_compiled(root / "a/m.onnx")


@pytest.mark.parametrize(
    ("entries", "content", "message"),
    [
        ({"length": SIZE - 4}, RAW, f"its shape needs {SIZE:,} bytes, but {SIZE - 4:,} are declared"),
        ({"length": SIZE + 4}, RAW + bytes(4), f"but {SIZE + 4:,} are declared"),
        ({"offset": 4}, RAW, f"'w.bin' has {SIZE:,} bytes of {SIZE + 4:,} needed: it is truncated"),
        ({"offset": 2**62}, RAW, "needed: it is truncated"),
        ({"offset": -4}, RAW, "its offset '-4' is not a number of bytes"),
        ({"offset": "x" * 500}, RAW, r"its offset 'x+\.\.\. \(500 characters\)' is not a number of bytes"),
        ({"length": ""}, RAW, "its length '' is not a number of bytes"),
        ({"length": "٤"}, RAW, "is not a number of bytes"),
        ({"length": "9" * 5000}, RAW, "is not a number of bytes"),
        ({}, b"", "'w.bin' has 0 bytes"),
        (
            {},
            b"version https://git-lfs.github.com/spec/v1\noid sha256:0\nsize 12288\n",
            "it is a Git LFS pointer, not the file itself; run 'git lfs pull'",
        ),
    ],
)
def test_what_does_not_fit_is_refused(entries: dict[str, Any], content: bytes, message: str, root: Path) -> None:
    (root / "a/m.onnx").write_bytes(model(**entries))
    (root / "a/w.bin").write_bytes(content)
    assert not runs_in_onnxruntime(root / "a/m.onnx")
    with pytest.raises(ModelError, match=f"m.onnx: tensor 'w' cannot be read: .*{message}"):
        compile_model(root / "a/m.onnx")


@pytest.mark.parametrize("dims", [[2**40, 2**40], [-1, 4], [2**31, 3]])
def test_a_shape_without_measure(dims: list[int], root: Path) -> None:
    message = onnx.ModelProto.FromString(model())
    message.graph.initializer[0].ClearField("dims")
    message.graph.initializer[0].dims.extend(dims)
    (root / "a/m.onnx").write_bytes(message.SerializeToString())
    (root / "a/w.bin").write_bytes(RAW)
    with pytest.raises(ModelError, match="tensor 'w' cannot be read: "):
        compile_model(root / "a/m.onnx")


@pytest.mark.parametrize("elem_type", [1, 2, 3, 5, 6, 7, 9, 10, 11, 14, 16, 17, 19, 21, 22, 23])
@pytest.mark.parametrize("offset", [0, 8, 1])
def test_every_element_type(elem_type: int, offset: int, tmp_path: Path) -> None:
    """The values are those of the same tensor inside a message; whole types are views of the mapped file."""
    array = np.arange(15).reshape(3, 5).astype(helper.tensor_dtype_to_np_dtype(elem_type))
    inside = numpy_helper.from_array(array, "t")
    (tmp_path / "w.bin").write_bytes(bytes(offset) + inside.raw_data)
    tensor = refer(TensorProto(name="t", data_type=elem_type, dims=[3, 5]), "w.bin", offset=offset)
    read = external.read(tensor, tmp_path, None)
    expected = numpy_helper.to_array(inside)
    assert (read.dtype, read.shape) == (expected.dtype, expected.shape)
    assert read.tobytes() == expected.tobytes()
    assert read.flags.aligned
    if elem_type not in (21, 22, 23) and offset % read.dtype.itemsize == 0:
        base = read
        while base.base is not None and not isinstance(base, np.memmap):
            base = base.base
        assert isinstance(base, np.memmap)


def test_nothing_of_nothing(tmp_path: Path) -> None:
    (tmp_path / "w.bin").write_bytes(b"")
    tensor = refer(TensorProto(name="t", data_type=1, dims=[0, 5]), "w.bin")
    assert external.read(tensor, tmp_path, None).shape == (0, 5)


def test_tensors_of_every_place() -> None:
    """External data may stand in initializers, attributes, sparse values, bodies and functions; each is found once,
    itself, so that embedding it changes the model."""

    def tensor(name: str) -> onnx.TensorProto:
        return refer(TensorProto(name=name, data_type=1, dims=[1]), "w.bin")

    def constant(name: str) -> onnx.NodeProto:
        return helper.make_node("Constant", [], [name], value=tensor(name))

    def nest(name: str) -> onnx.NodeProto:
        body = helper.make_graph([constant(f"{name}.constant")], "b", [], [], [tensor(f"{name}.stored")])
        return helper.make_node("If", ["c"], ["o"], then_branch=body, else_branch=body)

    sparse = onnx.SparseTensorProto(values=tensor("values"), indices=tensor("indices"), dims=[3])
    graph = helper.make_graph(
        [constant("constant"), nest("body"), helper.make_node("Own", [], ["o"], many=[tensor("list")], s=sparse)],
        "g",
        [],
        [],
        [tensor("stored")],
        sparse_initializer=[sparse],
    )
    function = helper.make_function("own", "f", [], ["o"], [constant("f"), nest("f")], [])
    message = helper.make_model(graph, functions=[function])
    names = sorted(t.name for t in files.all_tensors(message))
    twice = ["body.constant", "body.stored", "f.constant", "f.stored", "indices", "values"]
    assert names == sorted(["constant", "f", "list", "stored", *twice, *twice])
    assert all(map(external.is_external, files.all_tensors(message)))
    for found in files.all_tensors(message):
        files.embed(found, np.ones(1, np.float32))
    assert not any(map(external.is_external, files.all_tensors(message)))
