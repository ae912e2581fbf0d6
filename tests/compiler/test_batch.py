"""Several models in one call, words that shells complete, and what a terminal of 80 columns shows."""

from __future__ import annotations

import io
import os
import shutil
import subprocess
import sys
from pathlib import Path

import pytest
from rich.console import Console

from dc_compiler import console
from dc_compiler.batch import Work, plan
from dc_compiler.cli import main
from dc_compiler.errors import InvalidArgumentError, ModelError, OutputError
from dc_compiler.report import TensorRow

SAMPLES = Path(__file__).parents[2] / "samples"


@pytest.fixture
def models(tmp_path: Path) -> Path:
    """A folder of two models and a file that is none."""
    folder = tmp_path / "models"
    folder.mkdir()
    for name in ("lenet300.onnx", "lenet5.onnx"):
        shutil.copy(SAMPLES / name, folder)
    (folder / "notes.txt").write_text("nothing")
    return folder


def test_one_model_is_a_file(tmp_path: Path) -> None:
    work = Work(tmp_path / "a.onnx", tmp_path / "b.onnx", tmp_path / "r", None)
    assert plan([work.model], work.output, work.report, None) == [work]


def test_models_of_a_folder_keep_their_names(models: Path, tmp_path: Path) -> None:
    found = plan([models], tmp_path / "out", tmp_path / "pages", None)
    assert found == [
        Work(models / f"{n}.onnx", tmp_path / "out" / f"{n}.onnx", tmp_path / "pages" / f"{n}.html", None)
        for n in ("lenet300", "lenet5")
    ]


def test_what_cannot_be_planned(models: Path, tmp_path: Path) -> None:
    lenet = models / "lenet5.onnx"
    with pytest.raises(InvalidArgumentError, match=r"two models are called lenet5\.onnx"):
        plan([lenet, SAMPLES / "lenet5.onnx"], tmp_path / "out", None, None)
    with pytest.raises(OutputError, match="is a file"):
        plan([models], lenet, None, None)
    with pytest.raises(OutputError, match="holds a model"):
        plan([models], models, None, None)
    (tmp_path / "empty").mkdir()
    with pytest.raises(ModelError, match=r"without \.onnx files"):
        plan([tmp_path / "empty"], tmp_path / "out", None, None)


def test_one_that_fails_keeps_none_from_being_compiled(
    models: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    (models / "broken.onnx").write_bytes(b"nonsense")
    out, data = tmp_path / "out", tmp_path / "data"
    arguments = ["--bits", "4", "--json", str(data), "--report", str(data)]
    assert main(["compile", str(models), "-o", str(out), *arguments]) == 2
    assert sorted(p.name for p in out.iterdir()) == ["lenet300.onnx", "lenet5.onnx"]
    assert sorted(p.name for p in data.iterdir()) == [
        "lenet300.html", "lenet300.json", "lenet5.html", "lenet5.json",
    ]  # fmt: skip
    shown = capsys.readouterr()
    assert shown.err.splitlines()[-1].startswith("dcc: ")
    assert str(models / "broken.onnx") in shown.err
    assert f"{models / 'lenet5.onnx'} -> {out / 'lenet5.onnx'}" in shown.out


def test_dry_runs_and_checkpoints_of_many(models: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    given = ["compile", str(models), "-o", str(tmp_path / "out"), "--pipeline", "cluster(bits=4),encode"]
    assert main([*given, "--dry-run"]) == 0
    assert not (tmp_path / "out").exists()
    assert main([*given, "--checkpoint", str(tmp_path / "c")]) == 2
    assert "one model at a time" in capsys.readouterr().err


@pytest.mark.parametrize(
    ("line", "meant"),
    [
        ("compile M -o O --prest x", "did you mean --preset"),
        ("complie M", "did you mean compile?"),
        ("compile M -o O --preset smalest", "did you mean smallest?"),
        ("compile M -o O --skip fc1.wieght", "did you mean fc1.weight"),
        ("compile M -o O --set fc1.wieght:step=1", "did you mean fc1.weight"),
        ("compile M -o O --pipeline clutser", "did you mean cluster?"),
        ("compile M -o O --pipeline cluster(bit=3)", "did you mean bits?"),
    ],
)
def test_what_may_have_been_meant(line: str, meant: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    words = {"M": str(SAMPLES / "lenet300.onnx"), "O": str(tmp_path / "out.onnx")}
    try:
        code = main([words.get(w, w) for w in line.split()])
    except SystemExit as e:
        code = e.code  # type: ignore[assignment]  # the command exits with numbers
    assert code == 2
    (sentence,) = capsys.readouterr().err.splitlines()
    assert meant in sentence


@pytest.mark.parametrize(
    ("typed", "offered"),
    [("dcc comp", {"compile "}), ("dcc compile x --emit ", {"session", "graph"}), ("dcc bench --thr", {"--threads "})],
)
def test_shells_complete(typed: str, offered: set[str], tmp_path: Path) -> None:
    asked = {"_ARGCOMPLETE": "1", "COMP_LINE": typed, "COMP_POINT": str(len(typed)), "_ARGCOMPLETE_IFS": "\n"}
    answer = tmp_path / "answer"
    run = [sys.executable, "-m", "dc_compiler"]
    environment = os.environ | asked | {"_ARGCOMPLETE_STDOUT_FILENAME": str(answer)}
    done = subprocess.run(run, env=environment, capture_output=True, check=True, timeout=60)
    assert done.stdout == b""
    assert set(answer.read_text().split("\n")) == offered


def rows() -> list[TensorRow]:
    long = "model.encoder.layers.{}.self_attention.query_projection.weight"
    large = [TensorRow(long.format(i), (512, 512), "float32", 1 << 20, 90_000, "rans", 1.0, bits=5) for i in range(3)]
    small = [TensorRow(f"bias{i}", (64,), "float32", 256, 256, reason="64 elements, fewer than 1024") for i in range(4)]
    return [*large, *small]


def shown(width: int, *, every: bool = False) -> list[str]:
    out = io.StringIO()
    Console(file=out, width=width).print(console.TensorTable(rows(), every))
    return [line.rstrip() for line in out.getvalue().splitlines()]


def test_small_tensors_share_a_line_unless_all_are_asked_for() -> None:
    brief = shown(200)
    assert len([line for line in brief if "bias" in line]) == 0
    (line,) = (line for line in brief if "4 small tensors" in line)
    assert "1,024" in line
    assert "left alone (--all)" in line
    assert len([line for line in shown(200, every=True) if line.startswith("bias")]) == 4


def test_long_names_lose_their_middle_where_room_is_short() -> None:
    lines = shown(80)
    assert max(map(len, lines)) <= 80
    names = [line.split()[0] for line in lines if line.startswith("model")]
    assert len(names) == 3
    assert all("…" in n and n.endswith("weight") for n in names)
    assert all(len([line for line in shown(200) if f"layers.{i}." in line]) == 1 for i in range(3))


def test_no_colours_where_none_are_wanted(monkeypatch: pytest.MonkeyPatch) -> None:
    out = io.StringIO()
    monkeypatch.setenv("NO_COLOR", "1")
    Console(file=out, force_terminal=True, width=200).print(console.TensorTable(rows()))
    assert "\x1b[3" not in out.getvalue()
