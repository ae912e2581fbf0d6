"""Bad command lines and inputs: exit code 2, one sentence, no file; and what happens when a run is interrupted."""

from __future__ import annotations

import json
import os
import shlex
import signal
import subprocess
import sys
import sysconfig
import time
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import onnx
import pytest
from models.graphs import GRAPHS

from dc_compiler import compile_model, unpack_model
from dc_compiler.cli import main

DCC = [str(Path(sysconfig.get_path("scripts")) / "dcc")]
FEEDS_MODULE = """
import numpy as np

value = 3
x = np.zeros((2, 64), np.float32)

def broken(): raise ValueError("two\\nlines")
def late():
    yield {"x": x}
    raise RuntimeError("out of samples")
def leaves(): raise SystemExit(7)
def nothing(): return []
def none(): return None
def numbers(): return [1, 2]
def misnamed(): yield {"y": x}
def misshapen(): yield {"x": x[:, :5]}
def good(): yield {"x": x, "label": np.zeros(2, np.int64)}
"""


def snapshot(folder: Path) -> dict[str, bytes | str]:
    """Everything below the folder: file contents, link targets, and what else there is."""
    found: dict[str, bytes | str] = {}
    for path in sorted(folder.rglob("*")):
        name = str(path.relative_to(folder))
        if path.is_symlink():
            found[name] = f"link to {os.readlink(path)}"
        elif "__pycache__" not in name:
            found[name] = path.read_bytes() if path.is_file() else "no file"
    return found


def exit_code(argv: list[str]) -> int:
    try:
        return main(argv)
    except SystemExit as e:
        return e.code if isinstance(e.code, int) else -1


@pytest.fixture(scope="module")
def prepared(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with good and bad inputs of every kind; refused commands leave it as it is."""
    root = tmp_path_factory.mktemp("inputs")
    net, _ = GRAPHS["matmul"]()
    content = net.SerializeToString()
    (root / "in.onnx").write_bytes(content)
    (root / "hard.onnx").hardlink_to(root / "in.onnx")
    (root / "soft.onnx").symlink_to("in.onnx")
    (root / "loop.onnx").symlink_to("loop.onnx")
    (root / "text.onnx").write_text("this is not a model\n")
    (root / "empty.onnx").write_bytes(b"")
    (root / "random.onnx").write_bytes(np.random.default_rng(0).bytes(5000))
    (root / "graphless.onnx").write_bytes(onnx.ModelProto(ir_version=8).SerializeToString())
    (root / "folder").mkdir()
    (root / "data").mkdir()
    os.mkfifo(root / "fifo")
    for form in ("session", "graph"):
        compile_model(net, root / f"{form}.onnx", emit=form)
    _break_the_graph(root)
    external, _ = GRAPHS["gemm"]()
    onnx.save(external, root / "external.onnx", save_as_external_data=True, location="external.bin", size_threshold=0)
    onnx.save(GRAPHS["gemm"]()[0], root / "gemm.onnx")
    onnx.save(GRAPHS["scalar_and_unused_inputs"]()[0], root / "scalar.onnx")
    _write_data(root)
    _write_recipes(root)
    return root


def _break_the_graph(root: Path) -> None:
    """Models that parse but cannot be right."""
    net, _ = GRAPHS["matmul"]()
    net.graph.initializer[0].dims[0] = 65
    onnx.save(net, root / "shape.onnx")
    net, _ = GRAPHS["matmul"]()
    net.graph.node[0].op_type = "MatMull"
    onnx.save(net, root / "operator.onnx")
    net, _ = GRAPHS["matmul"]()
    net.graph.initializer[0].data_type = 77
    onnx.save(net, root / "type.onnx")
    net, _ = GRAPHS["gemm"]()
    net.graph.output[0].name = net.graph.node[0].output[0] = "renamed"
    onnx.save(net, root / "renamed.onnx")


def _write_data(root: Path) -> None:
    x = np.zeros((4, 64), np.float32)
    arrays: dict[str, dict[str, object]] = {
        "good": {"x": x, "label": np.zeros(4, np.int64)},
        "misnamed": {"y": x},
        "mistyped": {"x": x.astype(np.int64)},
        "texts": {"x": np.full((4, 64), "a")},
        "misshapen": {"x": x[:, :63]},
        "flat": {"x": x[0]},
        "none": {"x": x[:0]},
        "nothing": {},
        "pickled": {"x": np.array([None, {}], object)},
        "few": {"x": x, "label": np.zeros(3, np.int64)},
        "many": {"x": x, "label": np.zeros((4, 47), np.int64)},
        "values": {"x": x, "label": np.zeros(4)},
        "named": {"x": x, "label": np.full(4, "cat")},
        "single": {"x": x, "label": np.zeros(())},
        "uneven": {"x": x, "gain": np.zeros((), np.float32), "unused": np.zeros(3, np.int64)},
    }
    for name, content in arrays.items():
        np.savez(root / f"{name}.npz", **content)  # type: ignore[arg-type]
    (root / "text.npz").write_text("not an archive")
    (root / "empty.npz").write_bytes(b"")
    (root / "short.npz").write_bytes((root / "good.npz").read_bytes()[:700])
    np.save(root / "x.npy", x)
    np.save(root / "data" / "y.npy", x)
    (root / "feeds.py").write_text(FEEDS_MODULE)


def _write_recipes(root: Path) -> None:
    recipes = {
        "broken": "pipeline = 'encode",
        "unknown": "pipelin = 'encode'",
        "type": "min_size = 'many'",
        "both": "pipeline = 'encode'\npreset = 'default'",
        "pass": "pipeline = 'squeeze,encode'",
        "layer": "[layers]\nw = 3",
        "emit": "emit = 'window'",
        "negative": "min_size = -1",
        "seed": "seed = -1",
        "flag": "min_size = true",
    }
    for name, content in recipes.items():
        (root / f"{name}.toml").write_text(content)
    (root / "binary.toml").write_bytes(b"\xff\xfe\x00")


@pytest.fixture
def folder(prepared: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Path]:
    monkeypatch.chdir(prepared)
    yield prepared
    sys.modules.pop("feeds", None)


def assert_refused(argv: list[str], message: str, folder: Path, capsys: pytest.CaptureFixture[str]) -> None:
    before = snapshot(folder)
    capsys.readouterr()
    code = exit_code(argv)
    shown = capsys.readouterr()
    assert shown.err.startswith("dcc")
    assert shown.err.count("\n") == 1
    assert shown.err.endswith("\n")
    assert message in shown.err
    assert shown.out == ""
    assert code == 2
    assert snapshot(folder) == before


COMMAND_LINES = [
    ("", "required: COMMAND"),
    ("shrink in.onnx", "invalid choice"),
    ("compile", "required: IN, -o/--output"),
    ("compile in.onnx", "required: -o/--output"),
    ("compile in.onnx -o", "expected one argument"),
    ("compile in.onnx -o out.onnx 'another\nargument'", "unrecognized arguments"),
    ("compile in.onnx -o out.onnx --fast", "unrecognized arguments: --fast"),
    ("compile in.onnx -o out.onnx --pres lossless", "unrecognized arguments: --pres"),
    ("compile in.onnx -o out.onnx --bits x", "invalid int value: 'x'"),
    ("compile in.onnx -o out.onnx --density x", "invalid float value: 'x'"),
    ("compile in.onnx -o out.onnx --seed 1.5", "invalid int value"),
    ("inspect", "required: FILE"),
    ("unpack session.onnx", "required: -o/--output"),
    ("verify in.onnx", "required: COMPILED"),
    ("bench in.onnx", "required: COMPILED"),
    ("bench in.onnx session.onnx --threads x", "invalid int value"),
]
OPTIONS = [
    ("--bits 0", "bits=0 is not valid; give a number from 1 to 16"),
    ("--bits 17", "bits=17"),
    ("--bits 99", "bits=99"),
    ("--bits -1", "bits=-1"),
    ("--density 0", "density=0.0 is not valid; give a number in (0, 1]"),
    ("--density -1", "density=-1.0"),
    ("--density 1.5", "density=1.5"),
    ("--density nan", "density=nan"),
    ("--density inf", "density=inf"),
    ("--preset best", "unknown preset 'best'; known: "),
    ("--preset ''", "unknown preset ''"),
    ("--emit window", "emit window is not valid; give session or graph"),
    ("--min-size -1", "min-size -1 is not"),
    ("--seed -1", "seed -1 is not"),
    ("--seed 9223372036854775808", "seed 9223372036854775808"),
    ("--jobs 0", "--jobs 0"),
    ("--jobs -3", "--jobs -3"),
    ("--preset default --pipeline encode", "only one of"),
    ("--recipe emit.toml --preset default", "only one of"),
    ("--labels label", "--labels needs --data"),
    ("--metric r2", "--metric needs --data"),
    ("--data few.npz --metric nothing", "metric 'nothing' is none of scikit-learn's scorers"),
    ("--data few.npz --labels label --metric acuracy", "did you mean accuracy"),
    ("--data few.npz --labels label --metric feeds:missing", "--metric feeds:missing cannot be used"),
    ("--custom-op-library missing.so", "the custom-op library missing.so does not exist"),
    ("--custom-op-library folder", "the custom-op library folder does not exist"),
    ("--custom-op-library in.onnx", "cannot use the custom-op library in.onnx"),
    ("--skip 'conv*'", "--skip 'conv*' matches no weight"),
    ("--skip W", "--skip 'W' matches no weight"),
    ("--set 'conv*:step=0.1'", "--set 'conv*' matches no weight"),
    ("--set w", "write 'GLOB:key=value,...'"),
    ("--set w:", "write 'GLOB:key=value,...'"),
    ("--set :step=1", "write 'GLOB:key=value,...'"),
    ("--set w:step", "write 'GLOB:key=value,...'"),
    ("--set w:step=", "write 'GLOB:key=value,...'"),
    ("--set w:density=0.1", "no pass of the pipeline has an option 'density'"),
    ("--set w:step=-1", "step=-1.0 is not valid"),
    ("--set w:step=nan", "step=nan is not valid"),
    ("--set w:mode=best", "give one of kmeans, grid"),
    ("--density 0.5 --set w:density=1,threshold=1", "give either density or threshold"),
    ("--density 0.5 --set w:density=2", "density=2.0"),
]
PIPELINES = [
    ("", "is not valid at ''"),
    (" ", "is not valid"),
    ("squeeze,encode", "unknown pass 'squeeze'; known: canonicalize, cluster, encode"),
    ("Encode", "is not valid at 'Encode'"),
    ("encode,", "is not valid at ''"),
    ("encode encode", "is not valid at 'encode encode'"),
    ("encode(", "is not valid"),
    ("encode)", "is not valid"),
    ("encode((auto))", "is not valid"),
    ("encode(auto)(auto)", "is not valid"),
    ("encode(gzip)", "coder=gzip is not valid; give one of auto, huffman, rans, fixed, rows, context, "),
    ("encode(auto,huffman)", "option 'coder' is given twice"),
    ("encode(coder=auto,coder=rans)", "given twice"),
    ("encode(level=9)", "encode has no option 'level'"),
    ("encode(position_bits=17)", "position_bits=17"),
    ("encode(position_bits=x)", "give int"),
    ("cluster(bits=0),encode", "bits=0"),
    ("cluster(step=0),encode", "step=0.0"),
    ("cluster(init=best),encode", "give one of linear, density, forgy"),
    ("prune(density=0),encode", "density=0.0"),
    ("prune(threshold=-1),encode", "threshold=-1.0"),
    ("prune(density=0.1,threshold=1),encode", "give either density or threshold"),
    ("prune(scope=global),encode", "give a density with it"),
    ("prune", "does not encode anything"),
    ("cluster", "does not encode anything"),
    ("encode,prune", "must come before"),
    ("encode,cluster", "must come before"),
    ("cluster,prune,encode", "must come before"),
    ("cluster,cluster,encode", "must come before"),
    ("encode,encode", "must come before"),
    ("encode(huffman)", "needs weights that are already clustered"),
    ("prune,encode(rans)", "needs weights that are already clustered"),
]
INPUTS = [
    ("missing.onnx", "missing.onnx does not exist"),
    ("missing/in.onnx", "does not exist"),
    ("in.onnx/in.onnx", "does not exist"),
    ("folder", "folder is a folder without .onnx files"),
    ("fifo", "fifo is not a file"),
    ("text.onnx", "text.onnx is not an ONNX model"),
    ("empty.onnx", "empty.onnx is empty"),
    ("random.onnx", "is not an ONNX model"),
    ("graphless.onnx", "is not an ONNX model"),
    ("good.npz", "is not an ONNX model"),
    ("loop.onnx", "loop.onnx"),
    ("n" * 300, "nnn"),
    ("shape.onnx", "tensor 'w' cannot be read"),
    ("type.onnx", "type.onnx"),
    ("operator.onnx", "onnxruntime cannot load operator.onnx"),
    ("session.onnx", "already compiled by dcc; run 'dcc unpack'"),
    ("graph.onnx", "already compiled"),
]
OUTPUTS = [
    ("in.onnx", "is an input file"),
    ("./folder/../in.onnx", "is an input file"),
    ("soft.onnx", "is an input file"),
    ("hard.onnx", "is an input file"),
    ("folder", "is a folder"),
    ("folder/", "is a folder"),
    (".", "is a folder"),
    ("missing/out.onnx", "does not exist; make it first"),
    ("text.onnx/out.onnx", "text.onnx"),
    ("fifo", "fifo is not a regular file"),
    ("loop.onnx", "loop.onnx"),
    ("n" * 300, "nnn"),
]
DATA = [
    ("missing.npz", "missing.npz does not exist"),
    ("text.npz", "text.npz is not a readable .npz file"),
    ("empty.npz", "empty.npz is not a readable .npz file"),
    ("short.npz", "short.npz is not a readable .npz file"),
    ("pickled.npz", "pickled.npz is not a readable .npz file"),
    ("x.npy", "give a .npz with one array an input"),
    ("folder", "holds no .npy files"),
    ("data", "has no array 'x'; it has: y"),
    ("misnamed.npz", "has no array 'x'; it has: y"),
    ("nothing.npz", "has no array 'x'"),
    ("mistyped.npz", "'x' is int64, the model's input is float32"),
    ("texts.npz", "the model's input is float32"),
    ("misshapen.npz", "'x' has extent 63 on axis 1, the model's input has 64"),
    ("flat.npz", "'x' has 1 axes, the model's input has 2"),
    ("none.npz", "holds no samples"),
    ("good.npz --labels classes", "has no array 'classes' for the labels"),
    ("few.npz --labels label", "3 labels for 4 samples"),
    ("many.npz --labels label", "[4, 47] do not fit outputs of shape [4, 48]; give a class number for each of [4]"),
    ("values.npz --labels label", "[4] do not fit outputs of shape [4, 48]; floats are compared one by one"),
    ("named.npz --labels label", "are <U3, neither class numbers nor floats"),
    ("single.npz --labels label", "a single number, without an axis for samples"),
    ("nomodule:good", "No module named 'nomodule'"),
    (":good", "cannot be used"),
    ("feeds:", "cannot be used"),
    ("feeds:missing", "no attribute 'missing'"),
    ("feeds:value", "not callable"),
    ("feeds:broken", "ValueError: two lines"),
    ("feeds:leaves", "SystemExit"),
    ("feeds:late", "out of samples"),
    ("feeds:nothing", "yields no samples"),
    ("feeds:none", "failed"),
    ("feeds:numbers", "failed"),
    ("feeds:misnamed", "yields no 'x'; it yields: y"),
    ("feeds:misshapen", "extent 5 on axis 1"),
    ("feeds:good --labels classes", "no array 'classes'"),
]
RECIPES = [
    ("missing", "cannot be read"),
    ("binary", "cannot be read"),
    ("broken", "is not valid TOML"),
    ("unknown", "unknown key 'pipelin'"),
    ("type", "'min_size' must be a int"),
    ("flag", "'min_size' must be a int"),
    ("both", "only one of 'pipeline' and 'preset'"),
    ("pass", "unknown pass 'squeeze'"),
    ("layer", "layers.'w' must be a table"),
    ("emit", "emit window is not valid"),
    ("negative", "min-size -1"),
    ("seed", "seed -1"),
]
EXPLORATIONS = [
    ("missing.onnx", "does not exist"),
    ("text.onnx", "is not an ONNX model"),
    ("operator.onnx", "cannot load operator.onnx"),
    ("session.onnx", "session.onnx"),
    ("in.onnx --data missing.npz", "missing.npz"),
    ("in.onnx --data misnamed.npz", "has no array 'x'"),
    ("in.onnx --labels label", "--labels needs --data"),
    ("in.onnx --metric r2", "--metric needs --data"),
    ("in.onnx --data good.npz --labels label --metric f2", "metric 'f2' is none of scikit-learn's scorers"),
    ("in.onnx --steps 0.1,a", "--steps 0.1,a is not valid"),
    ("in.onnx --steps 0,1", "--steps: 0 is not valid"),
    ("in.onnx --steps 1,17", "--steps: 17 is not valid"),
    ("in.onnx --steps nan,1", "--steps: nan is not valid"),
    ("in.onnx --jobs 0", "--jobs 0 is not valid"),
    ("in.onnx --report a --json ./a", "must name different files"),
    ("in.onnx --report in.onnx", "in.onnx is an input file"),
    ("in.onnx --data good.npz --json good.npz", "good.npz is an input file"),
    ("in.onnx --report missing/page.html", "does not exist"),
]
OTHER_COMMANDS = [
    ("inspect missing.onnx", "does not exist"),
    ("inspect text.onnx", "is not an ONNX model"),
    ("inspect folder --json", "is not a file"),
    ("inspect shape.onnx", "cannot be read"),
    ("unpack in.onnx -o out.onnx", "in.onnx was not compiled by dcc"),
    ("unpack missing.onnx -o out.onnx", "does not exist"),
    ("unpack session.onnx -o session.onnx", "is an input file"),
    ("unpack session.onnx -o folder", "is a folder"),
    ("unpack session.onnx -o missing/out.onnx", "does not exist"),
    ("verify missing.onnx session.onnx", "does not exist"),
    ("verify in.onnx missing.onnx", "does not exist"),
    ("verify in.onnx text.onnx", "is not an ONNX model"),
    ("verify in.onnx gemm.onnx --data misnamed.npz", "has no array 'x'"),
    ("verify in.onnx scalar.onnx", "the compiled model does not run on the inputs"),
    ("verify gemm.onnx renamed.onnx", "does not have the outputs of gemm.onnx: y"),
    ("verify in.onnx session.onnx --labels label", "--labels needs --data"),
    ("verify in.onnx session.onnx --metric r2", "--metric needs --data"),
    ("verify in.onnx session.onnx --custom-op-library missing.so", "missing.so does not exist"),
    ("bench in.onnx session.onnx --custom-op-library text.npz", "cannot use the custom-op library text.npz"),
    ("verify scalar.onnx scalar.onnx --data uneven.npz", "'gain'"),
    ("bench missing.onnx session.onnx", "does not exist"),
    ("bench in.onnx text.onnx", "is not an ONNX model"),
    ("bench operator.onnx session.onnx", "cannot load operator.onnx"),
    ("bench in.onnx session.onnx --threads -1", "threads -1 is not valid"),
    *[(f"{command} {text}", message) for command in ("sensitivity", "frontier") for text, message in EXPLORATIONS],
    ("sensitivity in.onnx --steps 0.1", "give at least 2"),
    ("frontier in.onnx --pipeline 'cluster(bits=5),encode'", "the pipeline lacks it"),
    ("frontier in.onnx --pipeline 'cluster(grid'", "is not valid at"),
    ("frontier in.onnx --jobs 1 --cluster tcp://localhost:1", "not allowed with argument"),
]
ARTIFACTS = [
    ("--json in.onnx", "in.onnx is an input file"),
    ("--report hard.onnx", "hard.onnx is an input file"),
    ("--json out.onnx", "must name different files"),
    ("--json a.html --report ./a.html", "must name different files"),
    ("--json folder", "folder is a folder"),
    ("--report missing/page.html", "does not exist"),
    ("--report fifo", "fifo"),
]

CASES = (
    COMMAND_LINES
    + [(f"compile in.onnx -o out.onnx {text}", message) for text, message in OPTIONS + ARTIFACTS]
    + [(f"compile in.onnx -o out.onnx --pipeline '{text}'", message) for text, message in PIPELINES]
    + [(f"compile {text} -o out.onnx", message) for text, message in INPUTS]
    + [(f"compile in.onnx -o {text}", message) for text, message in OUTPUTS]
    + [(f"compile external.onnx -o {text}", "external.bin is an input file") for text in ("external.bin",)]
    + [(f"compile in.onnx -o out.onnx --data {text}", message) for text, message in DATA]
    + [(f"compile in.onnx -o out.onnx --recipe {text}.toml", message) for text, message in RECIPES]
    + OTHER_COMMANDS
)


@pytest.mark.parametrize(("line", "message"), CASES, ids=lambda text: repr(text)[:70])
def test_refused(line: str, message: str, folder: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert_refused(shlex.split(line), message, folder, capsys)


@pytest.mark.parametrize(
    "line",
    [
        "compile in.onnx -o out.onnx --bits 99",
        "compile text.onnx -o out.onnx",
        "compile in.onnx",
        "unpack in.onnx -o out.onnx",
    ],
)
def test_refused_by_the_command(line: str, folder: Path) -> None:
    """The same through a real process, where a traceback could not hide."""
    before = snapshot(folder)
    done = subprocess.run([*DCC, *shlex.split(line)], capture_output=True, text=True)
    assert (done.returncode, done.stdout, done.stderr.count("\n")) == (2, "", 1)
    assert done.stderr.startswith("dcc")
    assert snapshot(folder) == before


def test_truncated_models(folder: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """Cut anywhere, a model is refused: as input, and compiled in either form."""
    for name, command in (("in", "compile"), ("session", "unpack"), ("graph", "unpack")):
        content = (folder / f"{name}.onnx").read_bytes()
        cut = folder / "cut.onnx"
        end = len(content)
        for size in sorted({*range(1, 60), *range(60, end, end // 25), *range(end - 30, end)}):
            cut.write_bytes(content[:size])
            try:
                if name == "in" or not _has_what_matters(cut, folder / f"{name}.onnx"):
                    assert_refused([command, "cut.onnx", "-o", "out.onnx"], "cut.onnx", folder, capsys)
            finally:
                cut.unlink()


def _has_what_matters(cut: Path, whole: Path) -> bool:
    """Whether only annotations after the graph and the operator sets were cut off."""
    try:
        model, full = onnx.load(cut), onnx.load(whole)
    except Exception:
        return False
    return model.graph == full.graph and list(model.opset_import) == list(full.opset_import)


def flipped(content: bytes, positions: list[int], seed: int, copy: Path) -> Iterator[int]:
    """Write copies of ``content`` with one bit flipped; yields the position of each."""
    random = np.random.default_rng(seed)
    for position in positions:
        damaged = bytearray(content)
        damaged[position] ^= 1 << int(random.integers(8))
        copy.write_bytes(damaged)
        yield position


@pytest.mark.parametrize("form", ["session", "graph"])
def test_flipped_bits_of_a_compiled_model(
    form: str, folder: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """One wrong bit is refused in one sentence, or lies where it changes no weight."""
    content = (folder / f"{form}.onnx").read_bytes()
    copy, dense = tmp_path / "flipped.onnx", tmp_path / "dense.onnx"
    expected = unpack_model(folder / f"{form}.onnx").graph.initializer[0]
    inside = np.random.default_rng(1).integers(0, len(content), 60).tolist()
    positions = sorted({*range(100), *range(len(content) - 350, len(content), 3), *inside})
    refused = 0
    for position in flipped(content, positions, 1, copy):
        for argv in (["unpack", str(copy), "-o", str(dense)], ["inspect", str(copy)]):
            code = exit_code(argv)
            shown = capsys.readouterr()
            assert code in (0, 2), position
            assert shown.err.count("\n") == (code == 2), (position, shown.err)
            refused += code == 2
            assert dense.exists() == (argv[0] == "unpack" and code == 0), position
            if dense.exists():
                got = {t.name: t.raw_data for t in onnx.load(dense).graph.initializer}
                assert got.get(expected.name, expected.raw_data) == expected.raw_data, position
                dense.unlink()
    assert refused > len(positions) / 2


def test_flipped_bits_of_an_input(folder: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """A damaged input is refused in one sentence or compiled; nothing in between."""
    content = (folder / "gemm.onnx").read_bytes()
    copy, output = tmp_path / "flipped.onnx", tmp_path / "out.onnx"
    refused = 0
    for position in flipped(content, [*range(0, 100, 3), *range(len(content) - 150, len(content), 3)], 2, copy):
        code = exit_code(["compile", str(copy), "-o", str(output), "--min-size", "1"])
        shown = capsys.readouterr()
        assert code in (0, 1, 2), position
        assert shown.err.count("\n") == (code != 0), (position, shown.err)
        assert output.exists() == (code == 0), position
        output.unlink(missing_ok=True)
        refused += code != 0
    assert refused > 20


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGKILL, signal.SIGINT])
def test_a_killed_compile_leaves_no_output(number: signal.Signals, tmp_path: Path) -> None:
    """Killed while it computes. (After SIGKILL not even a temporary file exists: it is made when all is checked.)"""
    weights = np.random.default_rng(0).standard_normal((2000, 1500)).astype(np.float32)
    graph = onnx.helper.make_graph(
        [onnx.helper.make_node("MatMul", ["x", "w"], ["y"])],
        "graph",
        [onnx.helper.make_tensor_value_info("x", 1, [1, 2000])],
        [onnx.helper.make_tensor_value_info("y", 1, [1, 1500])],
        [onnx.numpy_helper.from_array(weights, "w")],
    )
    onnx.save(onnx.helper.make_model(graph), tmp_path / "in.onnx")
    (tmp_path / "started.py").write_text(
        "import signal, sys\nfrom dc_compiler import cli, pass_manager\n"
        "signal.signal(signal.SIGINT, signal.default_int_handler)\n"  # shells have background jobs ignore it
        "real = pass_manager.PassManager.run\n"
        "def run(self, program, context):\n    print('started', flush=True)\n    return real(self, program, context)\n"
        "pass_manager.PassManager.run = run\nsys.exit(cli.main(sys.argv[1:]))\n"
    )
    argv = ["compile", "in.onnx", "-o", "out.onnx", "--pipeline", "cluster(kmeans,bits=10),encode"]
    process = subprocess.Popen(
        [sys.executable, "started.py", *argv],
        cwd=tmp_path, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True,
    )  # fmt: skip
    assert process.stdout is not None
    assert process.stdout.readline() == "started\n"
    time.sleep(0.05)
    process.send_signal(number)
    _, errors = process.communicate(timeout=60)
    if number == signal.SIGKILL:
        assert process.returncode == -signal.SIGKILL
    else:
        assert (process.returncode, errors) == (130, "dcc: stopped; nothing was written\n")
    assert sorted(p.name for p in tmp_path.iterdir()) == ["in.onnx", "started.py"]


@pytest.mark.parametrize("arguments", [["inspect", "--json"], ["inspect"], ["verify", "in.onnx"]])
def test_a_reader_that_leaves(arguments: list[str], folder: Path) -> None:
    """As in ``dcc inspect model.onnx | head -1``: no complaint, exit code 0."""
    read, write = os.pipe()
    os.close(read)
    command, *others = arguments
    with os.fdopen(write, "w") as pipe:
        done = subprocess.run([*DCC, command, *others, "session.onnx"], stdout=pipe, stderr=subprocess.PIPE, text=True)
    assert (done.returncode, done.stderr) == (0, "")


def test_json_and_silence(folder: Path, tmp_path: Path) -> None:
    """In a pipe nothing goes to stderr, and ``--json`` prints one JSON value and nothing else."""

    def run(*argv: str) -> str:
        done = subprocess.run([*DCC, *argv], capture_output=True, text=True)
        assert (done.returncode, done.stderr) == (0, "")
        return done.stdout

    output = str(tmp_path / "out.onnx")
    reports = ["--json", str(tmp_path / "r.json"), "--report", str(tmp_path / "r.html")]
    shown = run("compile", "in.onnx", "-o", output, *reports)
    assert "\x1b" not in shown
    report = json.loads((tmp_path / "r.json").read_text())
    assert report["output_bytes"] == Path(output).stat().st_size
    assert report["original_bytes"] == Path("in.onnx").stat().st_size
    assert report["ratio"] == pytest.approx(report["original_bytes"] / report["output_bytes"])
    assert [(t["name"], t["shape"]) for t in report["tensors"]] == [("w", [64, 48])]
    assert "<td>w</td>" in (tmp_path / "r.html").read_text()
    inspected = json.loads(run("inspect", output, "--json"))
    assert inspected["tensors"][0]["bytes"] == report["tensors"][0]["bytes"]
    assert inspected["pipeline"] == report["pipeline"]
    verified = json.loads(run("verify", "in.onnx", output, "--json"))
    assert [o["name"] for o in verified["outputs"]] == ["y"]
    assert json.loads(run("inspect", "in.onnx", "--json"))["form"] == "not compiled"


def test_names_that_are_not_text(folder: Path, tmp_path: Path) -> None:
    """A path of bytes that are no UTF-8, which onnxruntime cannot open."""
    name = os.fsdecode(b"caf\xe9.onnx")
    (tmp_path / name).write_bytes((folder / "in.onnx").read_bytes())
    (tmp_path / "in.onnx").write_bytes((folder / "in.onnx").read_bytes())
    for arguments in ([name, "-o", "out.onnx"], ["in.onnx", "-o", f"out-{name}"]):
        done = subprocess.run([*DCC, "compile", *arguments], cwd=tmp_path, capture_output=True, text=True)
        assert (done.returncode, done.stdout, done.stderr.count("\n")) == (2, "", 1)
        assert "is not UTF-8, which onnxruntime needs" in done.stderr
    assert len(list(tmp_path.iterdir())) == 2
