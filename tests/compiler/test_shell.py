"""The command in other people's shells: streams that take nothing, names that steer terminals, links, interrupts."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
from pathlib import Path

import numpy as np
import onnx
import pytest
from models.graphs import GRAPHS
from onnx import helper, numpy_helper

from dc_compiler import cli, compile_model
from dc_compiler.cli import main
from dc_compiler.model import files
from dc_compiler.printable import printable

# An escape sequence, C1's CSI, a change of direction, a zero-width space, a line end, and what HTML needs escaped
NASTY = "w\x1b[31m\x9b2J\u202eevil\u200b\n<b>é"
SHOWN = r"w\x1b[31m\x9b2J\u202eevil\u200b\n<b>é"


@pytest.fixture(scope="module")
def prepared(tmp_path_factory: pytest.TempPathFactory) -> Path:
    root = tmp_path_factory.mktemp("shell")
    net, _ = GRAPHS["matmul"]()
    onnx.save(net, root / "in.onnx")
    compile_model(net, root / "session.onnx")
    return root


def shell(line: str, folder: Path, **environment: str) -> subprocess.CompletedProcess[str]:
    """Run a line of sh in which ``dcc`` is the command."""
    command = f'dcc() {{ "{sys.executable}" -m dc_compiler "$@"; }}; {line}'
    return subprocess.run(
        ["sh", "-c", command], cwd=folder, capture_output=True, text=True, env=os.environ | environment
    )


# Streams -------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("unbuffered", ["", "1"])
@pytest.mark.parametrize(
    ("line", "code", "message"),
    [
        ("dcc compile in.onnx -o OUT >/dev/full", 0, "OUT was written; the summary was not, to standard output: No"),
        ("dcc unpack session.onnx -o OUT >/dev/full", 0, "OUT was written; the summary was not"),
        ("dcc inspect session.onnx >/dev/full", 2, "standard output cannot be written: No space left on device"),
        ("dcc inspect session.onnx --json >/dev/full", 2, "standard output cannot be written"),
        ("dcc --version >/dev/full", 2, "standard output cannot be written"),
    ],
)
def test_a_full_device(line: str, code: int, message: str, unbuffered: str, prepared: Path, tmp_path: Path) -> None:
    """The command's work decides: what lies in a file is done, what was only to be shown is not."""
    output = tmp_path / "out.onnx"
    done = shell(line.replace("OUT", str(output)), prepared, PYTHONUNBUFFERED=unbuffered)
    assert done.returncode == code
    assert done.stderr.startswith(f"dcc: {message.replace('OUT', str(output))}")
    assert done.stderr.count("\n") == 1
    assert output.exists() == ("OUT" in line)


@pytest.mark.parametrize("closed", [">&-", "2>&-", ">&- 2>&-", "<&- >&- 2>&-", "2>/dev/full", ">&- 2>/dev/full"])
def test_closed_streams(closed: str, prepared: Path, tmp_path: Path) -> None:
    output = tmp_path / "out.onnx"
    done = shell(f"dcc compile in.onnx -o {output} {closed}", prepared)
    assert (done.returncode, done.stderr) == (0, "")
    assert onnx.load(output) == onnx.load(prepared / "session.onnx")
    done = shell(f"dcc compile missing.onnx -o {output} {closed}", prepared)
    assert (done.returncode, done.stdout) == (2, "")
    assert done.stderr.count("\n") == (closed == ">&-")


# Names ---------------------------------------------------------------------------------------------------------------


def test_what_is_printable() -> None:
    assert printable("fc6.weight é 漢字 (x2)") == "fc6.weight é 漢字 (x2)"
    assert printable(NASTY) == SHOWN
    assert printable("\x7f\x85\u2028\u2066\ufeff\udcff\U000e0041\xa0") == (
        r"\x7f\x85\u2028\u2066\ufeff\udcff\U000e0041\xa0"
    )


def test_names_reach_the_terminal_escaped(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """In tables, notes and errors, and in the page; JSON holds them exactly, in ASCII."""
    net, _ = GRAPHS["matmul"]()
    net.graph.initializer[0].name = net.graph.node[0].input[1] = NASTY
    net.graph.node[0].output[0] = net.graph.output[0].name = f"y{NASTY}"
    net.graph.initializer.append(numpy_helper.from_array(np.zeros(3, np.float32), f"unused{NASTY}"))
    path = tmp_path / "in\x1b]0;title\x07.onnx"
    onnx.save(net, path)
    output, page, facts = tmp_path / "out.onnx", tmp_path / "r.html", tmp_path / "r.json"
    assert main(["compile", str(path), "-o", str(output), "--report", str(page), "--json", str(facts)]) == 0
    compiled = capsys.readouterr()
    assert main(["inspect", str(output)]) == 0
    inspected = capsys.readouterr()
    assert main(["verify", str(path), str(output)]) == 0
    verified = capsys.readouterr()
    for text in (compiled.out, inspected.out, verified.out, page.read_text()):
        assert not [c for c in text if not c.isprintable() and c != "\n"]
    assert f"note: unused{SHOWN}: dropped" in compiled.out
    assert inspected.out.splitlines()[1].startswith(f"{SHOWN} ")
    assert f"output y{SHOWN}:" in verified.out
    assert "<td>" + SHOWN.replace("<b>", "&lt;b&gt;") + "</td>" in page.read_text()
    assert facts.read_bytes().isascii()
    assert json.loads(facts.read_text())["tensors"][0]["name"] == NASTY

    net.graph.initializer[0].dims[0] = 65
    onnx.save(net, path)
    for argv in (["compile", str(path), "-o", str(output)], ["compile", str(path), "-o", str(output), "--skip", NASTY]):
        assert main(argv) == 2
        shown = capsys.readouterr()
        assert shown.out == ""
        assert shown.err.endswith("\n")
        assert shown.err[:-1].isprintable()
        assert r"in\x1b]0;title\x07.onnx: tensor 'w\x1b[31m" in shown.err


# Errors that nobody foresaw ------------------------------------------------------------------------------------------


def test_unforeseen_errors(
    prepared: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    def crash(*arguments: object) -> None:
        raise ValueError("two\nlines\x1b")

    monkeypatch.setattr(files, "read_model", crash)
    assert main(["inspect", str(prepared / "in.onnx")]) == 2
    sentence = r"dcc: unexpected ValueError: two lines\x1b; this is a fault of dcc, please report it"
    assert capsys.readouterr().err == f"{sentence} with what DCC_TRACEBACK=1 in the environment shows\n"
    monkeypatch.setenv("DCC_TRACEBACK", "1")
    assert main(["inspect", str(prepared / "in.onnx")]) == 2
    shown = capsys.readouterr().err
    assert shown.startswith("Traceback (most recent call last):")
    assert shown.endswith(f"{sentence}\n")


# Interrupts ----------------------------------------------------------------------------------------------------------

IMPORTER = """
import signal, sys, time
from dc_compiler import cli
assert not {"numpy", "onnx", "onnxruntime", "rich"} & set(sys.modules), "the command starts before it imports them"
signal.signal(signal.SIGINT, signal.default_int_handler)  # shells have background jobs ignore it

class Slow:
    def find_spec(self, name, path=None, target=None):
        if name == sys.argv[1]:
            print("importing", flush=True)
            try:
                time.sleep(60)
            except KeyboardInterrupt:
                if sys.argv[2] == "swallowed":
                    raise ImportError("as some libraries do") from None
                raise

sys.meta_path.insert(0, Slow())
sys.exit(cli.main(sys.argv[3:]))
"""


@pytest.mark.parametrize(("module", "manner"), [("numpy", "raised"), ("onnx", "swallowed"), ("rich", "raised")])
def test_interrupted_while_importing(module: str, manner: str, prepared: Path, tmp_path: Path) -> None:
    argv = ["compile", str(prepared / "in.onnx"), "-o", str(tmp_path / "out.onnx")]
    process = subprocess.Popen(
        [sys.executable, "-c", IMPORTER, module, manner, *argv],
        stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True,
    )  # fmt: skip
    assert process.stdout is not None
    assert process.stdout.readline() == "importing\n"
    process.send_signal(signal.SIGINT)
    _, errors = process.communicate(timeout=60)
    assert (process.returncode, errors) == (130, "dcc: stopped; nothing was written\n")
    assert list(tmp_path.iterdir()) == []


def test_interrupted_when_all_is_written(
    prepared: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    def interrupt(*arguments: object, **options: object) -> None:
        raise KeyboardInterrupt

    monkeypatch.setattr(cli, "_show", interrupt)
    output = tmp_path / "out.onnx"
    assert main(["compile", str(prepared / "in.onnx"), "-o", str(output)]) == 130
    assert capsys.readouterr().err == f"dcc: stopped; {output} was written\n"
    assert output.exists()


# Links ---------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("exists", [True, False])
def test_an_output_that_is_a_link(exists: bool, prepared: Path, tmp_path: Path) -> None:
    """The link stays, and the file it leads to is written, from a temporary file in that file's folder."""
    (tmp_path / "links").mkdir()
    (tmp_path / "store").mkdir()
    if exists:
        (tmp_path / "store" / "real.onnx").write_text("older")
    (tmp_path / "links" / "out.onnx").symlink_to("../links/second.onnx")
    (tmp_path / "links" / "second.onnx").symlink_to("../store/real.onnx")
    assert main(["compile", str(prepared / "in.onnx"), "-o", str(tmp_path / "links" / "out.onnx")]) == 0
    assert sorted(p.name for p in (tmp_path / "links").iterdir()) == ["out.onnx", "second.onnx"]
    assert all(p.is_symlink() for p in (tmp_path / "links").iterdir())
    assert [p.name for p in (tmp_path / "store").iterdir()] == ["real.onnx"]
    assert onnx.load(tmp_path / "store" / "real.onnx") == onnx.load(prepared / "session.onnx")


def test_a_large_output_behind_a_link(prepared: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The data lies beside the model, and a link to it beside the link, where onnxruntime looks."""
    (tmp_path / "links").mkdir()
    (tmp_path / "store").mkdir()
    link = tmp_path / "links" / "out.onnx"
    link.symlink_to("../store/real.onnx")
    monkeypatch.setattr(files, "MAX_MESSAGE_BYTES", 100)
    assert main(["compile", str(prepared / "in.onnx"), "-o", str(link)]) == 0
    assert sorted(p.name for p in (tmp_path / "store").iterdir()) == ["real.onnx", "real.onnx.data"]
    for path in (link, tmp_path / "store" / "real.onnx"):
        assert main(["verify", str(prepared / "in.onnx"), str(path)]) == 0
        assert files.read_model(path).size == sum(p.stat().st_size for p in (tmp_path / "store").iterdir())


def test_the_data_of_a_large_output_destroys_no_input(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    net, _ = GRAPHS["matmul"]()
    onnx.save(net, tmp_path / "in.onnx", save_as_external_data=True, location="out.onnx.data", size_threshold=0)
    before = (tmp_path / "out.onnx.data").read_bytes()
    assert main(["compile", str(tmp_path / "in.onnx"), "-o", str(tmp_path / "out.onnx")]) == 2
    assert "out.onnx.data" in capsys.readouterr().err
    assert (tmp_path / "out.onnx.data").read_bytes() == before


# Graphs that nobody can run ------------------------------------------------------------------------------------------


def field(number: int, content: bytes) -> bytes:
    """A length-delimited protobuf field."""
    size, length = len(content), bytearray()
    while size > 127:
        length.append(size & 127 | 128)
        size >>= 7
    return bytes([number << 3 | 2, *length, size]) + content


def nested(depth: int) -> bytes:
    """A model of If nodes inside each other, deeper than protobuf builds or reads them."""
    body = helper.make_graph([helper.make_node("Identity", ["x"], ["o"])], "b", [], []).SerializeToString()
    for _ in range(depth):
        branch = field(1, b"then_branch") + field(6, body) + b"\xa0\x01\x05"
        body = field(1, helper.make_node("If", ["c"], ["o"]).SerializeToString() + field(5, branch))
    head = onnx.ModelProto(ir_version=8, opset_import=[helper.make_opsetid("", 17)])
    return bytes(head.SerializeToString()) + field(7, body)


def test_bodies_nested_too_deep(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    (tmp_path / "deep.onnx").write_bytes(nested(40))
    assert main(["inspect", str(tmp_path / "deep.onnx")]) == 2
    assert "nests bodies of If, Loop or Scan deeper than protobuf, and so onnxruntime, can" in capsys.readouterr().err


def function_model(*bodies: tuple[str, list[str]]) -> onnx.ModelProto:
    """A model that calls the first function; each function applies others, by name, one after another."""
    functions = []
    for name, callees in bodies:
        values = ["x", *(f"v{i}" for i in range(1, len(callees))), "y"]
        nodes = [
            helper.make_node(c, [values[i]], [values[i + 1]], domain="" if c == "Neg" else "own")
            for i, c in enumerate(callees)
        ]
        imports = [helper.make_opsetid("", 17), helper.make_opsetid("own", 1)]
        functions.append(helper.make_function("own", name, ["x"], ["y"], nodes, imports))
    graph = helper.make_graph(
        [helper.make_node(bodies[0][0], ["x"], ["h"], domain="own"), helper.make_node("MatMul", ["h", "w"], ["y"])],
        "g",
        [helper.make_tensor_value_info("x", 1, ["n", 64])],
        [helper.make_tensor_value_info("y", 1, ["n", 48])],
        [numpy_helper.from_array(np.ones((64, 48), np.float32), "w")],
    )
    imports = [helper.make_opsetid("", 17), helper.make_opsetid("own", 1)]
    return helper.make_model(graph, functions=functions, opset_imports=imports, ir_version=8)


@pytest.mark.parametrize(
    ("model", "message"),
    [
        (function_model(("f", ["Neg", "f"])), "function 'f' calls itself, which ONNX forbids"),
        (function_model(("f", ["g"]), ("g", ["h"]), ("h", ["Neg", "g"])), "function 'g' calls itself"),
        (
            function_model(*((f"f{i}", [f"f{i + 1}"] * 8) for i in range(12)), ("f12", ["Neg"])),
            f"its functions stand for {8**12 + 1:,} nodes; more than 10,000,000 are refused",
        ),
    ],
    ids=["itself", "through another", "fans out"],
)
def test_functions_without_end(
    model: onnx.ModelProto, message: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    onnx.save(model, tmp_path / "in.onnx")
    for argv in (["inspect", str(tmp_path / "in.onnx")], ["compile", str(tmp_path / "in.onnx"), "-o", "out.onnx"]):
        assert main(argv) == 2
        assert message in capsys.readouterr().err


def test_functions_that_end(tmp_path: Path) -> None:
    model = function_model(("f", ["g", "g"]), ("g", ["Neg", "h"]), ("h", ["Neg"]))
    onnx.save(model, tmp_path / "in.onnx")
    assert main(["compile", str(tmp_path / "in.onnx"), "-o", str(tmp_path / "out.onnx")]) == 0


# What else the command tells, or does not ----------------------------------------------------------------------------


def test_dry_run_and_quiet(prepared: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    argv = ["compile", str(prepared / "in.onnx"), "-o", str(tmp_path / "out.onnx")]
    assert main([*argv, "--dry-run", "--json", str(tmp_path / "r.json")]) == 0
    shown = capsys.readouterr()
    assert shown.out.endswith(f"{tmp_path / 'out.onnx'} was not written (--dry-run)\n")
    assert [p.name for p in tmp_path.iterdir()] == ["r.json"]
    facts = json.loads((tmp_path / "r.json").read_text())
    assert facts["output_bytes"] == (prepared / "session.onnx").stat().st_size
    for more in (["--dry-run"], []):
        assert main([*argv, "--quiet", *more]) == 0
        assert capsys.readouterr() == ("", "")
    assert (tmp_path / "out.onnx").read_bytes() == (prepared / "session.onnx").read_bytes()
    for wrong, message in (
        (["--dry-run", "--checkpoint", str(tmp_path / "c")], "give --dry-run or --checkpoint, not both"),
        (["--dry-run", "-o", str(prepared / "in.onnx")], "is an input file"),
    ):
        assert main([*argv, *wrong]) == 2
        assert message in capsys.readouterr().err


def test_inspect_writes_a_page(prepared: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["inspect", str(prepared / "session.onnx"), "--report", str(tmp_path / "r.html")]) == 0
    assert "<td>w</td>" in (tmp_path / "r.html").read_text()
    capsys.readouterr()
    before = (prepared / "session.onnx").read_bytes()
    assert main(["inspect", str(prepared / "session.onnx"), "--report", str(prepared / "session.onnx")]) == 2
    assert "is an input file" in capsys.readouterr().err
    assert (prepared / "session.onnx").read_bytes() == before


def test_a_model_that_onnxruntime_cannot_load(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """Refused with onnxruntime's reason before anything is done; ``--force`` compiles it with a note."""
    graph = helper.make_graph(
        [helper.make_node("MatMul", ["x", "w"], ["h"]), helper.make_node("Odd", ["h"], ["y"], domain="others")],
        "g",
        [helper.make_tensor_value_info("x", 1, ["n", 64])],
        [helper.make_tensor_value_info("y", 1, ["n", 48])],
        [numpy_helper.from_array(np.random.default_rng(0).standard_normal((64, 48)).astype(np.float32), "w")],
    )
    imports = [helper.make_opsetid("", 17), helper.make_opsetid("others", 1)]
    onnx.save(helper.make_model(graph, opset_imports=imports, ir_version=8), tmp_path / "in.onnx")
    argv = ["compile", str(tmp_path / "in.onnx"), "-o", str(tmp_path / "out.onnx")]
    for more in ([], ["--pipeline", "encode(lossless)"], ["--dry-run"]):
        assert main([*argv, *more]) == 2
        shown = capsys.readouterr()
        assert shown.out == ""
        assert "onnxruntime cannot load" in shown.err
        assert "others:Odd" in shown.err
        assert "nothing was written (--force writes anyway)" in shown.err
        assert not (tmp_path / "out.onnx").exists()
    assert main([*argv, "--force"]) == 0
    assert "outputs not compared: onnxruntime cannot load" in capsys.readouterr().out
    assert (tmp_path / "out.onnx").stat().st_size < (tmp_path / "in.onnx").stat().st_size / 3
