"""The benchmark that prints the paper's tables beside ours: its figures, and what it reads from files."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import onnx
import paper_table
import pytest
from onnx import numpy_helper

from dc_compiler import compile_model, unpack_model

MODEL = Path(__file__).parents[2] / "samples" / "lenet300.onnx"


def compiled(folder: Path, pipeline: str, min_size: int = 0) -> Path:
    result = folder / "compiled.onnx"
    compile_model(MODEL, result, pipeline=pipeline, min_size=min_size)
    return result


@pytest.mark.parametrize("paper", paper_table.PAPER, ids=lambda p: p.summary[0])
def test_the_papers_figures_agree_with_each_other(paper: paper_table.Paper) -> None:
    *parts, total = paper.layers
    ratio = int(paper.summary[-1][:-1])
    assert len(parts) == len(paper.weights)
    assert round(100 / float(total[-1])) == ratio
    sizes = [int(text.split()[0]) for text in paper.summary[3:5]]
    assert sizes[0] / sizes[1] == pytest.approx(ratio, rel=0.02)
    for column in (-2, -1):  # the paper's sums miss its totals by up to 7 %
        stored = sum(n * float(p[column]) for n, p in zip(paper.weights, parts, strict=True))
        assert stored / sum(paper.weights) == pytest.approx(float(total[column]), rel=0.08)


def test_layers_of_a_pruned_and_clustered_network(tmp_path: Path) -> None:
    path = compiled(tmp_path, "prune(density=0.1),cluster(bits=5),encode(huffman,position_bits=4)")
    parts = paper_table.layers(MODEL, path)
    paper = paper_table.paper_of(parts)
    assert paper is not None
    assert paper.summary[0] == "LeNet-300-100"
    first = parts[0]
    weight = {t.name: numpy_helper.to_array(t) for t in unpack_model(path).graph.initializer}[first.name].reshape(-1)
    gaps = np.diff(np.flatnonzero(weight), prepend=-1) - 1
    entries = len(gaps) + int((gaps // 16).sum())  # a filler zero wherever 4 bits do not reach
    assert (first.weights, first.kept, first.bits) == (235_200, 23_520, 5 * 23_520)
    assert first.fixed == entries * (5 + 4) + 32 * (1 + len(np.unique(weight[weight != 0])))
    assert first.coded_index is not None
    assert first.coded + first.coded_index < entries * (5 + 4)
    assert first.stored < first.fixed
    whole = paper_table.total(parts)
    assert whole.weights == 266_200
    assert 0.9 * path.stat().st_size < whole.stored / 8 < path.stat().st_size
    assert whole.cells()[2] == "10.0"


def test_a_coder_without_distances_has_no_rate_before_coding(tmp_path: Path) -> None:
    parts = paper_table.layers(MODEL, compiled(tmp_path, "prune(density=0.1),cluster(bits=5),encode(rans)"))
    assert parts[0].fixed is None
    assert paper_table.total(parts).cells()[5:8] == ["-", "-", "-"]


def test_small_weights_share_a_frame(tmp_path: Path) -> None:
    """What is too small to compress is packed in one frame, of which the last layer has its part."""
    path = compiled(tmp_path, "prune(density=0.1),cluster(bits=5),encode", min_size=2000)
    last = paper_table.layers(MODEL, path)[-1]
    assert (last.weights, last.kept, last.bits) == (1000, 1000, 32_000)
    assert 0.5 * 32_000 < last.stored < 32_000


def test_other_networks_stand_alone(tmp_path: Path) -> None:
    assert paper_table.paper_of(paper_table.layers(MODEL, compiled(tmp_path, "encode(lossless)"))[:2]) is None


def test_files_that_do_not_belong_together(tmp_path: Path) -> None:
    other = onnx.load(MODEL)
    other.graph.initializer[0].name = "another"
    onnx.save(other, tmp_path / "other.onnx")
    with pytest.raises(SystemExit, match="no weight 'another'"):
        paper_table.layers(tmp_path / "other.onnx", compiled(tmp_path, "encode(lossless)"))


def test_layers_that_lost_channels_count_all_their_weights(tmp_path: Path) -> None:
    path = compiled(tmp_path, "prune(density=0.01,scope=global),shrink,cluster(bits=4),encode(smallest)")
    parts = paper_table.layers(MODEL, path)
    left = {t.name: numpy_helper.to_array(t) for t in unpack_model(path).graph.initializer}
    assert [p.weights for p in parts] == [235_200, 30_000, 1_000]
    assert left[parts[0].name].size < 235_200
    assert all(p.coded <= p.stored for p in parts)
    assert sum(p.stored for p in parts) / 8 < path.stat().st_size
