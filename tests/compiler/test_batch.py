"""Several models in one call, words that shells complete, and what a terminal of 80 columns shows."""

from __future__ import annotations

import io
import json
import os
import re
import shutil
import subprocess
import sys
from pathlib import Path
from typing import Any

import jsonschema
import pytest
from rich.console import Console

from dc_compiler import compiler, console, schemas
from dc_compiler.batch import Plan, Work, plan
from dc_compiler.cli import main
from dc_compiler.errors import InvalidArgumentError, ModelError, OutputError
from dc_compiler.report import TensorRow, joint

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
    assert plan([work.model], work.output, work.report, None) == Plan([work])


def test_models_of_a_folder_keep_their_names(models: Path, tmp_path: Path) -> None:
    found = plan([models], tmp_path / "out", tmp_path / "pages", tmp_path / "all.json")
    works = [
        Work(models / f"{n}.onnx", tmp_path / "out" / f"{n}.onnx", tmp_path / "pages" / f"{n}.html", None)
        for n in ("lenet300", "lenet5")
    ]
    assert found == Plan(works, True, tmp_path / "pages" / "index.html", tmp_path / "all.json", json_holds=True)
    assert found.folders() == [tmp_path / "pages"]
    found = plan([models], tmp_path / "out", tmp_path / "all.html", tmp_path / "data")
    assert [w.report for w in found.works] == [None, None]
    assert (found.report, found.report_holds) == (tmp_path / "all.html", True)
    assert found.folders() == [tmp_path / "data"]


def test_what_cannot_be_planned(models: Path, tmp_path: Path) -> None:
    lenet = models / "lenet5.onnx"
    with pytest.raises(InvalidArgumentError, match=r"two models are called lenet5\.onnx"):
        plan([lenet, SAMPLES / "lenet5.onnx"], tmp_path / "out", None, None)
    with pytest.raises(OutputError, match="is a file"):
        plan([models], lenet, None, None)
    with pytest.raises(OutputError, match="holds a model"):
        plan([models], models, None, None)
    shutil.copy(lenet, models / "index.onnx")
    with pytest.raises(InvalidArgumentError, match=r"called index\.onnx"):
        plan([models], tmp_path / "out", tmp_path / "pages", None)
    assert plan([models], tmp_path / "out", tmp_path / "page.html", None).report_holds
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
        "index.html", "index.json", "lenet300.html", "lenet300.json", "lenet5.html", "lenet5.json",
    ]  # fmt: skip
    shown = capsys.readouterr()
    assert shown.err.splitlines()[-1].startswith("dcc: ")
    assert str(models / "broken.onnx") in shown.err
    assert f"{models / 'lenet5.onnx'} -> {out / 'lenet5.onnx'}" in shown.out
    check_joint_table(shown.out, models, out)
    check_joint_data(data / "index.json", models, out)
    page = (data / "index.html").read_text()
    assert [re.search(f"href='{n}.html'", page) is not None for n in ("lenet5", "lenet300", "broken")] == [
        True, True, False,
    ]  # fmt: skip
    assert "failed: " in page


def check_joint_table(shown: str, models: Path, out: Path) -> None:
    """A line a model, the sum of those that were compiled, and why one was not."""
    lines = shown.splitlines()
    start = next(
        i for i, line in enumerate(lines) if line.split() == ["model", "bytes", "compiled", "ratio", "quality"]
    )
    broken, *compiled, total, sentence = lines[start + 1 :]
    assert broken.split() == ["broken.onnx", "failed"]
    sums = [0, 0]
    for line, name in zip(compiled, ("lenet300.onnx", "lenet5.onnx"), strict=True):
        sizes = [(folder / name).stat().st_size for folder in (models, out)]
        assert line.split()[:4] == [name, *(f"{s:,}" for s in sizes), f"{sizes[0] / sizes[1]:.2f}x"]
        assert line.split()[4] == "cosine"
        sums = [a + b for a, b in zip(sums, sizes, strict=True)]
    assert total.split() == ["2", "of", "3", "models", *(f"{s:,}" for s in sums), f"{sums[0] / sums[1]:.2f}x"]
    assert sentence.startswith("failed: ")
    assert str(models / "broken.onnx") in sentence


def check_joint_data(path: Path, models: Path, out: Path) -> None:
    """Data that follow their schema, with the sizes of the files."""
    data = json.loads(path.read_text())
    jsonschema.validate(data, json.loads(schemas.path("batch").read_text()))
    broken, *compiled = data["models"]
    assert str(models / "broken.onnx") in broken["failure"]
    assert [m["output_bytes"] for m in compiled] == [(out / Path(m["model"]).name).stat().st_size for m in compiled]
    assert data["output_bytes"] == sum(m["output_bytes"] for m in compiled)
    assert data["ratio"] == pytest.approx(data["original_bytes"] / data["output_bytes"])
    assert [m["report"] for m in data["models"]] == [None] * 3


def test_one_page_and_one_file_hold_all(models: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    given = [str(models), "-o", str(tmp_path / "out"), "--dry-run", "--quiet", "--pipeline", "cluster(bits=4),encode"]
    assert main(["compile", *given, "--json", str(tmp_path / "a.json"), "--report", str(tmp_path / "a.html")]) == 0
    assert capsys.readouterr() == ("", "")
    data = json.loads((tmp_path / "a.json").read_text())
    jsonschema.validate(data, json.loads(schemas.path("batch").read_text()))
    assert [m["report"]["schema"] for m in data["models"]] == ["dcc.compile/1"] * 2
    assert [m["output"] for m in data["models"]] == [None, None]
    page = (tmp_path / "a.html").read_text()
    for name in ("lenet300.onnx", "lenet5.onnx"):
        assert f"<summary>{name}</summary><div id='model-{name}'>" in page
        assert f"href='#model-{name}'" in page
    assert page.count("How values are spread") == 2


def test_a_fault_in_one_keeps_none_from_being_compiled(
    models: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    whole = compiler.compile_model

    def compile_model(model: Path, *arguments: Any, **options: Any) -> compiler.CompileResult:
        if model.stem == "lenet300":
            raise KeyError("it")
        return whole(model, *arguments, **options)

    monkeypatch.setattr(compiler, "compile_model", compile_model)
    assert main(["compile", str(models), "-o", str(tmp_path / "out"), "--pipeline", "cluster(bits=4),encode"]) == 2
    assert [p.name for p in (tmp_path / "out").iterdir()] == ["lenet5.onnx"]
    shown = capsys.readouterr()
    assert "unexpected KeyError" in shown.err
    assert "1 of 2 models" in shown.out


def test_the_joint_table_fits_a_narrow_terminal() -> None:
    long = "the_encoder_of_a_translation_model_with_many_languages_quantization_aware_{}.onnx"
    outcomes = [
        joint.ModelOutcome(f"models/{long.format(i)}", "o", 2_134_567_890, 312_345_678, "accuracy 0.9835 -> 0.9829")
        for i in range(2)
    ]
    outcomes.append(joint.failed(Path("models/\x1b[31mred.onnx"), "it is broken"))
    out = io.StringIO()
    Console(file=out, width=80).print(console.JointTable(joint.JointReport(outcomes)))
    lines = [line.rstrip() for line in out.getvalue().splitlines()]
    assert max(map(len, lines)) <= 80
    assert all("…" in line and f"{i}.onnx" in line for i, line in enumerate(lines[1:3]))
    assert "\x1b" not in out.getvalue()
    assert "4,269,135,780" in lines[-1]


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
