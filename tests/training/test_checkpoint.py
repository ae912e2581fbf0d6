"""Training that was stopped goes on where it was and gives the same bytes; states that do not fit are refused."""

from __future__ import annotations

import fcntl
import io
import json
import math
import os
import signal
import subprocess
import sysconfig
import time
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from interruption import stopping_at
from small_models import perceptron, samples

from dc_compiler import compile_model
from dc_compiler.cli import main
from dc_compiler.errors import InvalidArgumentError
from dc_compiler.training import checkpoint

PIPELINES = {
    "prune": "prune(density=0.3,schedule=gradual,steps=4,epochs={},lr=0.01,batch=16)",
    "obd": "prune(density=0.3,criterion=obd,epochs={},batch=16)",
    "rd": "cluster(rd,bits=3,epochs={},lr=0.01,batch=16,vectors=true)",
    "weights": "finetune(epochs={},lr=0.01,batch=16,optimizer=sgd)",
    "centroids": "cluster(bits=3),finetune(centroids,epochs={},lr=0.01,batch=16)",
}
STEPS_PER_EPOCH = 30  # 600 samples, of which 114 are kept aside, in batches of 16


@pytest.fixture
def eager(monkeypatch: pytest.MonkeyPatch) -> None:
    """States are written after every step."""
    monkeypatch.setattr(checkpoint, "SHARE", math.inf)
    monkeypatch.setattr(checkpoint, "INTERVAL", 0.0)


def compiled(pipeline: str, directory: Path | None = None, stop: int | None = None, **options: Any) -> bytes:
    """Bytes of the compiled perceptron; ``stop`` interrupts it after so many steps of training in this process."""
    given: dict[str, Any] = {"data": samples(), "labels": "labels", "min_size": 0, "jobs": 1, "seed": 3}
    model, pipeline = options.pop("model", perceptron()), f"{pipeline},encode"
    result = compile_model(
        model, pipeline=pipeline, checkpoint=directory, progress=stopping_at(stop), **given | options
    )
    return bytes(result.model.SerializeToString(deterministic=True))


@pytest.mark.usefixtures("eager")
@pytest.mark.parametrize("name", PIPELINES)
def test_stopped_anywhere_it_ends_the_same(name: str, tmp_path_factory: pytest.TempPathFactory) -> None:
    pipeline = PIPELINES[name].format(1.5)
    expected = compiled(pipeline)

    @settings(max_examples=4, deadline=None, suppress_health_check=list(HealthCheck))
    @given(st.lists(st.integers(1, STEPS_PER_EPOCH), min_size=1, max_size=2))
    def check(stops: list[int]) -> None:
        directory = tmp_path_factory.mktemp("states") / "new" / "checkpoint"
        steps = 0
        for stop in stops:
            if steps + stop > round(1.5 * STEPS_PER_EPOCH):
                break
            with pytest.raises(KeyboardInterrupt):
                compiled(pipeline, directory, stop)
            steps += stop - 1  # the step that was interrupted was not saved
        assert compiled(pipeline, directory) == expected
        assert not directory.exists()

    check()


@pytest.mark.usefixtures("eager")
def test_what_was_done_is_not_done_again(tmp_path: Path) -> None:
    """Whole trainings are skipped, and the steps of the one that was stopped."""
    pipeline = ",".join(PIPELINES[n].format(1) for n in ("prune", "weights", "centroids"))
    with pytest.raises(KeyboardInterrupt):
        compiled(pipeline, tmp_path, 2 * STEPS_PER_EPOCH + 11)
    assert sorted(f.name for f in tmp_path.iterdir()) == ["1.npz", "2.npz", "3.npz", "run.json"]
    with pytest.raises(KeyboardInterrupt):
        compiled(pipeline, tmp_path, STEPS_PER_EPOCH - 10)
    (tmp_path / ".dcc.killed.tmp").write_bytes(b"left by a process that was killed while it wrote")
    assert compiled(pipeline, tmp_path, 2) == compiled(pipeline)  # one step was left: stop is never reached
    assert not tmp_path.exists()


def test_a_stopped_process_is_continued(tmp_path: Path) -> None:
    """Stopped in each training of a pipeline in turn."""
    pipeline = ",".join(PIPELINES[n].format(20) for n in ("prune", "rd"))
    pipeline += ",finetune(centroids,epochs=20,batch=16)"
    onnx.save(perceptron(), tmp_path / "in.onnx")
    np.savez(tmp_path / "data.npz", **samples())  # type: ignore[arg-type]
    command = [
        str(Path(sysconfig.get_path("scripts")) / "dcc"),
        "compile",
        "in.onnx",
        "--pipeline",
        f"{pipeline},encode",
    ]
    command += ["--data", "data.npz", "--labels", "labels", "--min-size", "0", "--jobs", "1"]
    resumable = [*command, "--checkpoint", "states", "-o", "out.onnx"]
    for number, how, code in ((1, signal.SIGKILL, -signal.SIGKILL), (2, signal.SIGTERM, 130), (3, signal.SIGKILL, -9)):
        process = subprocess.Popen(resumable, cwd=tmp_path, stderr=subprocess.PIPE, text=True)
        while process.poll() is None and not (tmp_path / "states" / f"{number}.npz").exists():
            time.sleep(0.002)
        process.send_signal(how)
        _, said = process.communicate()
        assert process.returncode == code
        assert said == (
            "" if code < 0 else "dcc: stopped; nothing was written; the same command continues from states\n"
        )
        assert not (tmp_path / "out.onnx").exists()
    subprocess.run(resumable, cwd=tmp_path, check=True, capture_output=True)
    subprocess.run([*command, "-o", "whole.onnx", "--jobs", "2"], cwd=tmp_path, check=True, capture_output=True)
    assert (tmp_path / "out.onnx").read_bytes() == (tmp_path / "whole.onnx").read_bytes()
    assert not (tmp_path / "states").exists()


@pytest.fixture
def stopped(tmp_path: Path, eager: None) -> Path:
    """A directory with the state of a run that was stopped."""
    with pytest.raises(KeyboardInterrupt):
        compiled(PIPELINES["weights"].format(1), tmp_path, 5)
    return tmp_path


def test_states_of_another_run_are_refused(stopped: Path) -> None:
    other = samples()
    other["x"][0, 0] += 1
    changes: dict[str, list[dict[str, Any]]] = {
        "model": [{"model": perceptron(softmax=True)}],
        "options": [{"seed": 4}, {"min_size": 8}, {"set": "w1:position_bits=5"}, {"skip": "w1"}],
        "data": [{"data": other}, {"labels": None}],
    }
    for what, cases in changes.items():
        for options in cases:
            with pytest.raises(
                InvalidArgumentError, match=f"another run, whose (model and )?{what} differed; give another"
            ):
                compiled(PIPELINES["weights"].format(1), stopped, **options)
    with pytest.raises(InvalidArgumentError, match="whose options differed"):
        compiled(PIPELINES["weights"].format(2), stopped)
    file = stopped / "run.json"
    file.write_text(json.dumps(json.loads(file.read_text()) | {"versions": "dcc 0"}))
    with pytest.raises(InvalidArgumentError, match="whose versions differed"):
        compiled(PIPELINES["weights"].format(1), stopped)


def corruptions(good: bytes) -> dict[str, bytes]:
    wrong_array = np.array(["no numbers"], object)
    flipped = bytearray(good)
    flipped[len(good) // 2] ^= 1
    return {
        "empty": b"",
        "text": b"no archive",
        "truncated": good[:-100],
        "one bit": bytes(flipped),
        "without arrays": archive(),
        "pickled": archive(**{"position.counts": wrong_array}),
    }


def archive(**arrays: Any) -> bytes:
    buffer = io.BytesIO()
    np.savez(buffer, **arrays)
    return buffer.getvalue()


def test_two_processes_do_not_share_a_directory(stopped: Path) -> None:
    """A lock is its open file's, so that this process can play both."""
    before = {f.name: f.read_bytes() for f in stopped.iterdir()}
    other = os.open(stopped, os.O_RDONLY)
    fcntl.flock(other, fcntl.LOCK_EX)
    with pytest.raises(InvalidArgumentError, match="another process"):
        compiled(PIPELINES["weights"].format(1), stopped)
    assert {f.name: f.read_bytes() for f in stopped.iterdir()} == before
    os.close(other)
    assert compiled(PIPELINES["weights"].format(1), stopped) == compiled(PIPELINES["weights"].format(1))


def test_a_damaged_state_is_an_error(stopped: Path) -> None:
    file = stopped / "1.npz"
    good = file.read_bytes()
    for name, content in corruptions(good).items():
        file.write_bytes(content)
        with pytest.raises(InvalidArgumentError, match=rf"1\.npz is damaged; delete {stopped}"):
            compiled(PIPELINES["weights"].format(1), stopped)
        assert file.read_bytes() == content, name
    file.write_bytes(good)
    (stopped / "run.json").write_text("{")
    with pytest.raises(InvalidArgumentError, match=r"run\.json is damaged"):
        compiled(PIPELINES["weights"].format(1), stopped)


def test_directories_that_cannot_be_one(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    file = tmp_path / "in.onnx"
    onnx.save(perceptron(), file)
    np.savez(tmp_path / "data.npz", **samples())  # type: ignore[arg-type]
    (tmp_path / "full").mkdir()
    (tmp_path / "full" / "1.npz").write_bytes(b"somebody's")
    command = [
        "compile",
        str(file),
        "-o",
        str(tmp_path / "out"),
        "--data",
        str(tmp_path / "data.npz"),
        "--min-size",
        "0",
    ]
    command += ["--pipeline", "finetune(epochs=1),encode", "--checkpoint"]
    cases = {
        "in.onnx": "is a file; give a directory",
        "in.onnx/below": "cannot be used: Not a directory",
        "full": "holds other things than checkpoints; give an empty directory",
        "out": "give another directory",
    }
    for name, message in cases.items():
        assert main([*command, str(tmp_path / name)]) == 2
        said = capsys.readouterr().err
        assert message in said
        assert name in said
        assert said.count("\n") == 1
    assert sorted(f.name for f in tmp_path.iterdir()) == ["data.npz", "full", "in.onnx"]
    assert (tmp_path / "full" / "1.npz").read_bytes() == b"somebody's"


def test_without_training_the_directory_is_left_alone(tmp_path: Path) -> None:
    directory = tmp_path / "states"
    assert compiled("cluster(bits=3)", directory) == compiled("cluster(bits=3)")
    assert not directory.exists()


def test_other_files_in_the_directory_stay(stopped: Path) -> None:
    (stopped / "notes.txt").write_text("mine")
    compiled(PIPELINES["weights"].format(1), stopped)
    assert [f.name for f in stopped.iterdir()] == ["notes.txt"]


def test_states_are_written_at_epoch_ends_and_now_and_then(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    now = 0.0
    monkeypatch.setattr(time, "monotonic", lambda: now)
    state = checkpoint.StateFile(tmp_path / "1.npz")
    assert state.is_due(True)
    assert not state.is_due(False)
    now = checkpoint.INTERVAL
    assert state.is_due(False)

    class Slow:
        def state(self) -> checkpoint.State:
            nonlocal now
            now += 10
            return {"x": np.zeros(1)}

        def restore(self, state: checkpoint.State) -> None:
            assert state.keys() == {"x"}

    state.save({"slow": Slow()})
    written = now
    now = written + 0.9 * 10 / checkpoint.SHARE
    assert not state.is_due(True)
    now = written + 1.1 * 10 / checkpoint.SHARE
    assert state.is_due(True)
    assert state.load({"slow": Slow()})
