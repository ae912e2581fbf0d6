"""What benchmarks/frontier.py measured: files of points, sizes at an equal metric, and a page of tables and plots.

    python benchmarks/frontier_page.py docs/frontier.md     makes the page from docs/frontier/*.csv again

Metrics on some thousand samples are noisy, and the largest of noisy figures flatters whoever has most of them. So sizes
at a metric are read off the curve that falls with the ratio and is nearest to a way's points (isotonic regression,
Barlow et al. 1972), between two points on a line over the ratio's logarithm.
"""

from __future__ import annotations

import argparse
import csv
import math
from collections import Counter
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path

from sklearn.isotonic import isotonic_regression

from dc_compiler.plot import NAMESPACE, Axis, Series, svg

ORIGINAL, NNCODEC = "original", "NNCodec"
NEAR = 0.1  # of the original's metric: what lost more is in the table, but neither in the plot nor in the curves
# How far a metric may fall for sizes to be compared: a text, and the bound given the original's metric
BOUNDS: Mapping[str, Callable[[float], float]] = {
    "within 0.5 %": lambda before: before - 0.005 * abs(before),
    "within 1 point": lambda before: before - 0.01,
    "within 2 points": lambda before: before - 0.02,
}
# ... and the points fallen over which savings are averaged, as a single bound hangs on a few noisy points
AVERAGED, AVERAGE = tuple(0.005 * i for i in range(1, 7)), "0.5 to 3 points"
COLUMNS = ("way", "setting", "bytes", "note")


@dataclass(frozen=True)
class Point:
    """A file: its bytes and what the test printed for it; None for both where there is none, and ``note`` says why."""

    way: str
    setting: str
    bytes: int | None = None
    value: float | None = None
    note: str = ""


@dataclass
class Measured:
    """All points of a model, the original first, and the command that measures them."""

    model: str
    metric: str
    command: str
    points: list[Point] = field(default_factory=list)

    @property
    def before(self) -> Point:
        """The original."""
        return self.points[0]

    def ratio(self, point: Point) -> float:
        """The original's bytes over a point's."""
        assert self.before.bytes is not None
        assert point.bytes is not None
        return self.before.bytes / point.bytes

    def is_near(self, value: float) -> bool:
        """Whether so little is lost that it is worth a look."""
        assert self.before.value is not None
        return value >= self.before.value - NEAR * abs(self.before.value)

    def curves(self) -> dict[str, list[tuple[float, float]]]:
        """Ratio and metric of all points that are near, by way, the original among them."""
        found: dict[str, list[tuple[float, float]]] = {}
        for p in self.points:
            if p.value is not None and self.is_near(p.value):
                found.setdefault(p.way, []).append((self.ratio(p), p.value))
        return found

    def largest(self) -> dict[str, list[float | None]]:
        """The largest ratio of every way within each of the bounds."""
        assert self.before.value is not None
        bounds = [bound(self.before.value) for bound in BOUNDS.values()]
        return {
            way: [reached(points, b) for b in bounds] for way, points in self.curves().items() if way != ORIGINAL
        }  # fmt: skip

    def lines(self) -> Iterator[str]:
        """The table of all points."""
        yield f"{'':28} {'':20} {'bytes':>12} {'ratio':>8} {'metric':>8} {'change':>9}"
        yield from map(self.line, self.points)

    def line(self, point: Point) -> str:
        """Its line of the table."""
        if point.bytes is None or point.value is None:
            return f"{point.way:28} {point.setting:20} {point.note}"
        before = self.before.value
        change = 100 * (point.value / before - 1) if before else 0.0
        figures = f"{point.bytes:12,} {self.ratio(point):7.2f}x {point.value:8.4f} {change:+7.2f} %"
        return f"{point.way:28} {point.setting:20} {figures}"

    def plot(self) -> str:
        """Metric against ratio, as SVG."""
        lines = [Series(way, points, is_level=way == ORIGINAL) for way, points in self.curves().items()]
        return svg(Axis("original bytes / file bytes", is_log=True), Axis(self.metric), lines, NAMESPACE) + "\n"

    def write(self, folder: Path) -> None:
        """MODEL.csv, the command in its first line, and MODEL.svg."""
        folder.mkdir(parents=True, exist_ok=True)
        with open(folder / f"{self.model}.csv", "w", newline="") as file:
            file.write(f"# {self.command}\n")
            writer = csv.writer(file, lineterminator="\n")
            writer.writerow([*COLUMNS, self.metric])
            for p in self.points:
                writer.writerow([p.way, p.setting, p.bytes, p.note, p.value])
        (folder / f"{self.model}.svg").write_text(self.plot())


def read(path: Path) -> Measured:
    """What :meth:`Measured.write` wrote."""
    with open(path, newline="") as file:
        command = file.readline().removeprefix("# ").strip()
        titles, *rows = csv.reader(file)
    points = [
        Point(way, setting, int(size) if size else None, float(value) if value else None, note)
        for way, setting, size, note, value in rows
    ]
    return Measured(path.stem, titles[-1], command, points)


def reached(points: Sequence[tuple[float, float]], least: float) -> float | None:
    """The largest ratio of points (ratio, metric) with a metric of at least ``least`` on the falling curve nearest to
    them; the coarsest point's where all of it has that, None where nothing has."""
    ratios, values = zip(*sorted(points), strict=True)
    fitted = [float(v) for v in isotonic_regression(values, increasing=False)]
    good = [i for i, value in enumerate(fitted) if value >= least - 1e-12]
    if not good:
        return None
    last = good[-1]
    if last + 1 == len(fitted):
        return float(ratios[last])
    share = (fitted[last] - least) / (fitted[last] - fitted[last + 1])
    return float(ratios[last] * (ratios[last + 1] / ratios[last]) ** max(0.0, share))


def summary(measured: Measured) -> Iterator[str]:
    """The largest ratios at an equal metric, as lines of text."""
    yield f"{'largest ratio':28} {'':20} " + " ".join(f"{title:>16}" for title in BOUNDS)
    for way, found in measured.largest().items():
        yield f"{way:28} {'':20} " + " ".join(f"{'-' if r is None else f'{r:.2f}x':>16}" for r in found)


def savings(models: Sequence[Measured], way: str) -> dict[str, list[float | None]]:
    """By how much files of a way are smaller than NNCodec's within each bound, and in geometric mean over drops of 0.5
    to 3 points (Bjøntegaard's measure, of six drops), in percent, by model; and in geometric mean over those where both
    can be told."""
    found: dict[str, list[float | None]] = {}
    for measured in models:
        curves, before = measured.curves(), measured.before.value
        if way not in curves or NNCODEC not in curves or before is None:
            continue

        def saved(bound: float, curves: Mapping[str, list[tuple[float, float]]] = curves) -> float | None:
            here, there = (reached(curves[w], bound) for w in (way, NNCODEC))
            return None if here is None or there is None else 100 * (1 - there / here)

        over = [saved(before - drop) for drop in AVERAGED]
        found[measured.model] = [
            *(saved(bound(before)) for bound in BOUNDS.values()), _mean([v for v in over if v is not None])
        ]  # fmt: skip
    columns = list(zip(*found.values(), strict=True))
    return found | {"geometric mean": [_mean([v for v in column if v is not None]) for column in columns]}


def _mean(percents: Sequence[float]) -> float | None:
    return 100 - 100 * math.exp(sum(math.log(1 - v / 100) for v in percents) / len(percents)) if percents else None


def ours(models: Sequence[Measured]) -> list[str]:
    """The ways that are dcc's and make a curve, in the order of their first points."""
    counts = Counter(p.way for m in models for p in m.points if p.way.startswith("dcc"))
    return [way for way, count in counts.items() if count > len(models)]


def summary_of_all(models: Sequence[Measured]) -> Iterator[str]:
    """Savings against NNCodec of every model, as lines of text."""
    for way in ours(models):
        found = savings(models, way)
        yield f"{way + ', smaller than NNCodec by':49} " + " ".join(f"{title:>16}" for title in [*BOUNDS, AVERAGE])
        for model, percents in found.items():
            yield f"{model:49} " + " ".join(f"{'-' if v is None else f'{v:.1f} %':>16}" for v in percents)


def page(models: Sequence[Measured], folder: str) -> str:
    """The page, in Markdown; plots lie in ``folder``."""
    parts = [INTRODUCTION]
    for way in ours(models):
        parts.append(_table([f"{way}, smaller than NNCodec by", *BOUNDS, AVERAGE], savings(models, way), " %", 1))
    for m in models:
        parts += [
            f"## {m.model}", f"    {m.command}", f"![{m.metric} against size]({folder}/{m.model}.svg)",
            _table(["largest ratio", *BOUNDS], m.largest(), "x", 2),
            f"All points ([as CSV]({folder}/{m.model}.csv)), {m.metric}:", _block(m.lines()),
        ]  # fmt: skip
    return "\n\n".join(parts) + "\n"


def _table(titles: Sequence[str], lines: Mapping[str, Sequence[float | None]], unit: str, places: int) -> str:
    rows = [titles, ["---"] * len(titles)]
    rows += [[name, *("-" if v is None else f"{v:.{places}f}{unit}" for v in found)] for name, found in lines.items()]
    return "\n".join(f"| {' | '.join(row)} |" for row in rows)


def _block(lines: Iterator[str]) -> str:
    return "\n".join(["```", *(line.rstrip() for line in lines), "```"])


INTRODUCTION = """\
# Size against quality

What `python benchmarks/frontier.py` measured; `python benchmarks/frontier_page.py docs/frontier.md` makes this page of
[its points](frontier). Bytes are those of whole files, of NNCodec its stream and the model without the weights in it,
packed by xz. Metrics are those of each model's test, on samples that nothing was chosen by.

* **dcc, no data**: the default preset, at every step of its grid.
* **dcc, data**: the same with unlabelled inputs, on which rounding errors make up for each other.
* **dcc, data, budget**: with `--budget`, for models whose file has that point; one point, within the default's bound.
* **NNCodec** 2.1.3 at many quantization parameters, with the weights that dcc rounds; **int8** and **MatMulNBits** are
  onnxruntime's quantizers; **naive** is k-means and Huffman coding, also after magnitude pruning, without retraining.

Metrics are noisy: a difference between two files has a standard error of 0.3 to 0.7 % of the metric, and more where
many answers change. So ratios are read off the falling curve nearest to the points of a way (isotonic regression),
between two points on a line over the logarithm of the ratio; `-` says that no point is as good."""


def main() -> None:
    """Write the page; print the summary."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("page", type=Path, metavar="PAGE.md", help="its points lie in the folder PAGE beside it")
    arguments = parser.parse_args()
    folder = arguments.page.with_suffix("")
    models = [read(path) for path in sorted(folder.glob("*.csv"))]
    if not models:
        parser.error(f"{folder} has no .csv; benchmarks/frontier.py --results {folder} writes some")
    arguments.page.write_text(page(models, folder.name))
    print("\n".join(summary_of_all(models)))


if __name__ == "__main__":
    main()
