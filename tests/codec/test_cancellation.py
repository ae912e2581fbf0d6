"""Native calls end soon when asked to: by another thread, by Ctrl-C in the main thread, by a failing worker."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import threading
import time
from pathlib import Path

import numpy as np
import onnx
import pytest
from onnx import TensorProto, helper, numpy_helper

from dc_compiler.codec import binding
from dc_compiler.codec.cancellation import Cancellation
from dc_compiler.errors import CancelledError
from dc_compiler.pipeline.threads import map_on_threads

SANITIZED = "asan" in os.environ.get("LD_PRELOAD", "")  # many times as slow
SOON = 30.0 if SANITIZED else 5.0  # seconds: one is promised, the others are for busy machines
SLOW = np.random.default_rng(0).integers(0, 256, 1 << 26).astype(np.uint8)  # a minute's work for coder text


@pytest.mark.parametrize("threads", [1, 2])
def test_another_thread_stops_a_call(threads: int) -> None:
    cancellation = Cancellation()
    caught: list[BaseException] = []

    def encode() -> None:
        try:
            with cancellation.obeyed():
                binding.encode_data(SLOW, "text", threads=threads)
        except CancelledError as error:
            caught.append(error)

    thread = threading.Thread(target=encode)
    thread.start()
    time.sleep(0.5)
    start = time.perf_counter()
    cancellation.cancel()
    thread.join()
    assert time.perf_counter() - start < SOON
    assert len(caught) == 1


def test_what_is_cancelled_stays_so_and_others_go_on() -> None:
    cancellation = Cancellation()
    cancellation.cancel()
    data = np.arange(100, dtype=np.uint8)
    with cancellation.obeyed(), pytest.raises(CancelledError):
        binding.encode_data(data, "lossless")
    assert np.array_equal(binding.decode(binding.encode_data(data, "lossless")), data)


def test_decoding_stops_too() -> None:
    n = 1 << 20
    indices = np.random.default_rng(1).integers(0, 16, n).astype(np.uint16)
    frame = binding.encode_codebook(indices, (n,), np.float32, grid_lo=0, k=16, coder="context", chunk_elements=1 << 14)
    cancellation = Cancellation()
    cancellation.cancel()
    with cancellation.obeyed(), pytest.raises(CancelledError):
        binding.decode(frame)


def test_a_failing_worker_stops_the_others() -> None:
    def work(item: int) -> bytes:
        if item == 0:
            time.sleep(0.5)
            raise ValueError("item 0")
        return binding.encode_data(SLOW, "text", threads=1)

    start = time.perf_counter()
    with pytest.raises(ValueError, match="item 0"):
        list(map_on_threads(2, work, [0, 1, 2, 3]))
    assert time.perf_counter() - start < 0.5 + SOON


# Says when the native library is at work, which a signal must then stop
ANNOUNCED = """
import os, signal, sys
signal.signal(signal.SIGINT, signal.default_int_handler)  # shells have background jobs ignore it
from dc_compiler.codec import binding
encode = binding._encode
def announcing(request):
    os.write(1, b"encoding\\n")  # at once: two threads may say so
    return encode(request)
binding._encode = announcing
"""
MAIN_THREAD = """
import numpy as np
try:
    binding.encode_data(np.random.default_rng(0).integers(0, 256, 1 << 26).astype(np.uint8), "text", threads=2)
except KeyboardInterrupt:
    sys.exit(130)
"""
COMMAND = "from dc_compiler.cli import main; sys.exit(main(sys.argv[1:]))"


def stop_while_encoding(script: str, *arguments: str) -> tuple[float, int, str]:
    """Seconds from SIGINT to the end, exit code, stderr."""
    root = Path(__file__).parents[2]
    process = subprocess.Popen(
        [sys.executable, "-c", ANNOUNCED + script, *arguments],
        stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True, env={**os.environ, "PYTHONPATH": str(root)},
    )  # fmt: skip
    assert process.stdout is not None
    assert process.stdout.readline() == "encoding\n"
    time.sleep(0.3)
    start = time.perf_counter()
    process.send_signal(signal.SIGINT)
    error = process.communicate(timeout=60)[1]
    return time.perf_counter() - start, process.returncode, error


def test_an_interrupt_ends_a_call_of_the_main_thread() -> None:
    took, code, error = stop_while_encoding(MAIN_THREAD)
    assert (code, error) == (130, "")
    assert took < SOON


@pytest.mark.parametrize("jobs", ["1", "2"])
def test_an_interrupt_ends_a_compile_that_encodes(tmp_path: Path, jobs: str) -> None:
    """Two weights of 8 million elements, seconds of context coding each."""
    generator = np.random.default_rng(2)
    weights = [
        numpy_helper.from_array(generator.integers(-7, 8, (2048, 4096)).astype(np.float32), name) for name in ("a", "b")
    ]
    graph = helper.make_graph(
        [helper.make_node("MatMul", ["x", "a"], ["ya"]), helper.make_node("MatMul", ["x", "b"], ["yb"])],
        "two",
        [helper.make_tensor_value_info("x", TensorProto.FLOAT, [1, 2048])],
        [helper.make_tensor_value_info(name, TensorProto.FLOAT, [1, 4096]) for name in ("ya", "yb")],
        weights,
    )
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)], ir_version=8)
    source, output = tmp_path / "two.onnx", tmp_path / "out" / "two.dcc.onnx"
    output.parent.mkdir()
    onnx.save(model, source)
    arguments = ["compile", str(source), "-o", str(output), "--pipeline", "cluster(bits=4),encode(context)"]
    took, code, error = stop_while_encoding(COMMAND, *arguments, "--jobs", jobs)
    assert code == 130
    assert "nothing was written" in error
    assert "Traceback" not in error
    assert list(output.parent.iterdir()) == []
    assert took < SOON


def test_maps_within_maps_stop_too() -> None:
    """The caller takes no more results: the inner maps' calls stop, and what they had not begun is not begun."""
    begun: list[int] = []

    def encode(number: int) -> None:
        begun.append(number)
        binding.encode_data(SLOW, "text", threads=1)

    def outer(number: int) -> None:
        if number:
            list(map_on_threads(1, encode, [10 * number, 10 * number + 1]))
        else:
            while len(begun) < 1:
                time.sleep(0.01)
            time.sleep(0.2)

    others = set(threading.enumerate())  # of other tests, whose pools may be idle for long
    results = map_on_threads(2, outer, [0, 1])
    assert next(results) is None
    start = time.perf_counter()
    results.close()  # type: ignore[attr-defined]  # a generator's
    for thread in set(threading.enumerate()) - others:
        thread.join(SOON)
    assert time.perf_counter() - start < SOON
    assert begun == [10]
