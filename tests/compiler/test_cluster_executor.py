"""Work on a real dask cluster of two worker processes: the same bytes as with threads, also when a worker is killed."""

from __future__ import annotations

import os
import re
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np
import onnx
import pytest
from small_programs import normal, program, record

from dc_compiler import compile_model, frontier, ir
from dc_compiler.cli import main
from dc_compiler.errors import ClusterError, InvalidArgumentError
from dc_compiler.pass_manager import Context, RecordPass, Task, Update
from dc_compiler.passes.cluster import Cluster
from dc_compiler.passes.encode import Encode
from dc_compiler.passes.prune import Prune
from dc_compiler.pipeline.cluster_executor import ClusterExecutor

HERE = Path(__file__).parent
SAMPLES = HERE.parents[1] / "samples"
PIPELINE = "prune(density=0.3),cluster(bits=5),encode"


@dataclass
class LocalCluster:
    """A scheduler and workers of one thread each, as processes of this machine."""

    scheduler: subprocess.Popen[bytes]
    address: str
    workers: list[subprocess.Popen[bytes]] = field(default_factory=list)

    def add_worker(self) -> None:
        options = ["--no-nanny", "--no-dashboard", "--nthreads", "1", "--host", "127.0.0.1"]
        self.workers.append(start("dask_worker", self.address, *options))


def start(command: str, *arguments: str, stderr: int = subprocess.DEVNULL) -> subprocess.Popen[bytes]:
    """The scheduler or a worker; they find the modules that this process finds."""
    environment = os.environ | {"PYTHONPATH": os.pathsep.join([str(HERE), *filter(None, sys.path)])}
    return subprocess.Popen(
        [sys.executable, "-m", f"distributed.cli.{command}", *arguments],
        env=environment, stdin=subprocess.DEVNULL, stdout=subprocess.DEVNULL, stderr=stderr,
    )  # fmt: skip


@pytest.fixture(scope="module")
def cluster() -> Iterator[LocalCluster]:
    scheduler = start("dask_scheduler", "--host", "127.0.0.1", "--port", "0", "--no-dashboard", stderr=subprocess.PIPE)
    assert scheduler.stderr is not None
    found = None
    while found is None:
        line = scheduler.stderr.readline().decode()
        assert line, "the scheduler has ended"
        found = re.search(r"tcp://127\.0\.0\.1:\d+", line)
    made = LocalCluster(scheduler, found[0])
    made.add_worker()
    made.add_worker()
    yield made
    for process in (*made.workers, scheduler):
        process.kill()
        process.wait()


def slowly(record: ir.WeightRecord, options: Doubled, seed: int) -> Update:
    """Twice the weight, after a while; files tell when a worker begins with it and when it is done."""
    begun = Path(options.folder) / f"{record.name}.{os.getpid()}"
    begun.touch()
    time.sleep(options.seconds)
    begun.with_name(f"{begun.name}.done").touch()
    return Update(values=record.values * 2)


@dataclass(frozen=True)
class Doubled(RecordPass):
    """A pass that leaves a trace of where its work was done."""

    name = "doubled"
    work = staticmethod(slowly)

    folder: str = ""
    seconds: float = 0.3


def test_same_bytes_as_with_threads(cluster: LocalCluster) -> None:
    for model, pipeline in ((SAMPLES / "lenet5.onnx", PIPELINE), (SAMPLES / "lenet300.onnx", "cluster(rd),encode")):
        here = compile_model(model, pipeline=pipeline, jobs=1)
        there = compile_model(model, pipeline=pipeline, cluster=cluster.address)
        assert there.model.SerializeToString(deterministic=True) == here.model.SerializeToString(deterministic=True)
        assert there.report.tensors == here.report.tensors
        assert [(p.changed, p.facts) for p in there.report.passes] == [(p.changed, p.facts) for p in here.report.passes]


def test_a_frontier_is_the_same_too(cluster: LocalCluster) -> None:
    model = SAMPLES / "lenet5.onnx"
    one, two = (frontier(model, steps=(0.1, 1.0), **where) for where in ({"jobs": 1}, {"cluster": cluster.address}))
    assert [p.bytes for p in one.points] == [p.bytes for p in two.points]


def test_records_travel_once(cluster: LocalCluster, monkeypatch: pytest.MonkeyPatch) -> None:
    """Passes go on from what a worker has; a record that changed here is sent again."""
    sent: list[str] = []
    send = ClusterExecutor._send

    def counted(self: ClusterExecutor, record: ir.WeightRecord) -> object:
        sent.append(record.name)
        return send(self, record)

    monkeypatch.setattr(ClusterExecutor, "_send", counted)
    net = program(*(record(normal(40, 30, seed=i), f"w{i}") for i in range(4)))
    twin = program(*(record(normal(40, 30, seed=i), f"w{i}") for i in range(4)))
    with ClusterExecutor(cluster.address) as executor:
        for step in (Prune(density=0.5), Cluster(bits=3), Encode()):
            step.run(net, Context(jobs=1, executor=executor))
            step.run(twin, Context(jobs=1))
        assert sorted(sent) == ["w0", "w1", "w2", "w3"]
        assert [r.frame for r in net.records] == [r.frame for r in twin.records]
        net.records[2].values = net.records[2].values.copy()
        net.records[2].frame = net.records[2].clustered = None
        Encode(coder="lossless").run(net, Context(jobs=1, executor=executor))
    assert sent[4:] == ["w2"]


def test_a_killed_worker_loses_nothing(cluster: LocalCluster, tmp_path: Path) -> None:
    """Its records are done again by the other, whether they were done, being done, or waiting."""
    originals = [normal(20, 20, seed=i) for i in range(12)]
    net = program(*(record(values, f"w{i}") for i, values in enumerate(originals)))
    cluster.add_worker()
    with ClusterExecutor(cluster.address) as executor:
        executor._client.wait_for_workers(3, timeout=20)
        victim = None

        def kill(name: str, done: int, total: int, loss: float | None) -> None:
            nonlocal victim
            while done >= 3 and victim is None:  # a worker that is at something, however busy this machine is
                names = {p.name for p in tmp_path.iterdir()}
                busy = {n.split(".")[1] for n in names if not n.endswith(".done") and f"{n}.done" not in names}
                victim = next((w for w in cluster.workers if str(w.pid) in busy), None)
                if victim is not None:
                    victim.send_signal(signal.SIGKILL)

        report = Doubled(str(tmp_path), seconds=1.0).run(net, Context(jobs=1, executor=executor, progress=kill))
        assert victim is not None
        victim.wait()
        Cluster(bits=4).run(net, Context(jobs=1, executor=executor))
    assert report.changed == 12
    places: dict[str, set[str]] = {}
    for path in tmp_path.glob("*[0-9]"):
        places.setdefault(path.stem, set()).add(path.suffix)
    assert len(places) == 12
    assert max(map(len, places.values())) == 2  # at least what it was at was done again
    twin = program(*(record(values * 2, f"w{i}") for i, values in enumerate(originals)))
    Cluster(bits=4).run(twin, Context(jobs=1))
    for mine, other in zip(net.records, twin.records, strict=True):
        assert np.array_equal(mine.values, other.values)


def refuse(record: ir.WeightRecord, options: object, seed: int) -> Update:
    raise InvalidArgumentError(f"{record.name} is refused")


def test_errors_of_workers(cluster: LocalCluster, monkeypatch: pytest.MonkeyPatch) -> None:
    """What the work raises arrives as it is; other code there and packages that are missing there are one sentence."""
    tasks = [Task(record(normal(3, 3)), None)]
    with ClusterExecutor(cluster.address) as executor:
        context = Context(executor=executor)
        with pytest.raises(InvalidArgumentError, match=r"^w is refused$"):
            context.apply("x", refuse, tasks)
        module = type(sys)("installed_here_only")
        exec("def work(record, options, seed): return None", module.__dict__)
        monkeypatch.setitem(sys.modules, module.__name__, module)
        module.work.__module__ = module.__name__
        with pytest.raises(ClusterError, match=r"lacks a package .* install the same on all"):
            context.apply("x", module.work, tasks)
        monkeypatch.setattr("dc_compiler.pipeline.cluster_executor._code", lambda: "dcc 9.9.9 (abc)")
        with pytest.raises(
            ClusterError, match=r"worker .* has dcc [\d.]+ \(\w+\), this process has dcc 9\.9\.9 \(abc\)"
        ):
            context.apply("x", refuse, tasks)


@pytest.mark.parametrize(
    ("address", "reason"),
    [
        ("tcp://127.0.0.1:1", "Connection refused"),
        ("nowhere", "missing port number"),
        ("foo://127.0.0.1:1", "refused|unknown address scheme"),
        ("host.invalid:8786", "not known|resolution|No address"),
    ],
)
def test_no_scheduler(address: str, reason: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    argv = ["compile", str(SAMPLES / "lenet300.onnx"), "-o", str(tmp_path / "out.onnx"), "--cluster", address]
    assert main(argv) == 2
    shown = capsys.readouterr().err
    expected = rf"dcc: --cluster {re.escape(address)}: no dask scheduler answers there \(.*({reason}).*\)\n"
    assert re.fullmatch(expected, shown)
    assert list(tmp_path.iterdir()) == []


def test_a_scheduler_without_workers(cluster: LocalCluster, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("dc_compiler.pipeline.cluster_executor.WITHOUT_WORKERS", 0.5)
    monkeypatch.setattr("distributed.Client.nthreads", lambda self: {})
    net = program(record(normal(20, 20)))
    with ClusterExecutor(cluster.address) as executor:
        context = Context(executor=executor)
        with pytest.raises(ClusterError, match="no worker for"):
            Doubled(str(tmp_path), 5).run(net, context)


def test_jobs_or_cluster(capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(InvalidArgumentError, match="not both"):
        compile_model(onnx.ModelProto(), jobs=2, cluster="127.0.0.1:1")
    with pytest.raises(SystemExit):
        main(["compile", "a", "-o", "b", "--jobs", "2", "--cluster", "127.0.0.1:1"])
    assert "not allowed with argument --jobs" in capsys.readouterr().err


def test_without_dask(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("dc_compiler.pipeline.cluster_executor.distributed", None)
    with pytest.raises(ClusterError, match=r"pip install 'dc-compiler\[cluster\]'"):
        ClusterExecutor("127.0.0.1:8786")
