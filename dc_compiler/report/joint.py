"""What became of several models that were compiled in one call: data, table and page."""

from __future__ import annotations

import dataclasses
import json
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any
from urllib.parse import quote

from dc_compiler import html_page, schemas
from dc_compiler import report as reporting
from dc_compiler.report import page

COLUMNS = ("model", "bytes", "compiled", "ratio", "quality")
FAILED = "failed"


@dataclass(frozen=True)
class ModelOutcome:
    """One model: the file and what was written (None for a dry run), their sizes in bytes, how near the outputs are in
    a few words, and ``failure``: why nothing was written. ``report`` is the whole story, None of a failure and where
    it has a file of its own."""

    model: str
    output: str | None = None
    original_bytes: int | None = None
    output_bytes: int | None = None
    quality: str | None = None
    failure: str | None = None
    report: reporting.CompileReport | None = None

    @property
    def ratio(self) -> float | None:
        """Original bytes over compiled ones, None of a failure."""
        return self.original_bytes / self.output_bytes if self.original_bytes and self.output_bytes else None

    @property
    def name(self) -> str:
        """The file's name, which no other model of the call has."""
        return Path(self.model).name


@dataclass
class JointReport:
    """All models in the order in which they were compiled. Sums are of those that did not fail."""

    models: list[ModelOutcome]

    @property
    def compiled(self) -> int:
        """How many did not fail."""
        return sum(m.failure is None for m in self.models)

    @property
    def original_bytes(self) -> int:
        """Bytes of the originals of those that did not fail."""
        return sum(m.original_bytes or 0 for m in self.models)

    @property
    def output_bytes(self) -> int:
        """Bytes of what they were compiled to."""
        return sum(m.output_bytes or 0 for m in self.models)

    @property
    def ratio(self) -> float | None:
        """Of the sums; None where all failed."""
        return self.original_bytes / self.output_bytes if self.output_bytes else None

    def to_dict(self, *, holds: bool) -> dict[str, Any]:
        """Plain data for JSON (schemas/batch.json), which ``holds`` the whole story of each model or leaves it out."""
        models = []
        for m in self.models:
            whole = m.report.to_dict() if holds and m.report is not None else None
            models.append(dataclasses.asdict(dataclasses.replace(m, report=None)) | {"ratio": m.ratio, "report": whole})
        sums = {name: getattr(self, name) for name in ("compiled", "original_bytes", "output_bytes", "ratio")}
        return schemas.stamped("batch", {"models": models, **sums})

    def to_json(self, *, holds: bool) -> str:
        """``to_dict`` as text."""
        return json.dumps(self.to_dict(holds=holds), indent=1)

    def to_html(self, *, holds: bool) -> str:
        """A page that ``holds`` those of all models, or links to them: ``NAME.html`` beside it."""
        links = {m.name: _link(m, holds) for m in self.models if m.failure is None}
        rows = [[links.get(name, name), *others] for name, *others in map(_cells, self.models)]
        parts = [
            html_page.tiles(self._headline()),
            html_page.section("Models", html_page.table(COLUMNS, rows, self.total_cells(), notes=True)),
            html_page.sentences(self.failures()),
            *page.files_by_bytes([(m.name, m.report) for m in self.models if m.report is not None]),
            *(_held(self.models) if holds else ()),
        ]
        return html_page.page("dcc: several models", [], parts)

    def _headline(self) -> Iterator[tuple[str, str, str]]:
        if self.ratio is not None:
            sizes = f"{page.size_text(self.original_bytes)} to {page.size_text(self.output_bytes)}"
            yield "smaller, all together", f"{self.ratio:.2f}x", sizes
        yield "compiled", f"{self.compiled:,}", f"of {len(self.models):,} models"

    def cells(self) -> list[list[str]]:
        """Texts of a line a model, in the order of ``COLUMNS``."""
        return [_cells(m) for m in self.models]

    def total_cells(self) -> list[str]:
        """Texts of a line for all of them."""
        failed = len(self.models) - self.compiled
        title = f"{self.compiled:,} of {len(self.models):,} models" if failed else f"all {self.compiled:,} models"
        ratio = "" if self.ratio is None else f"{self.ratio:.2f}x"
        return [title, f"{self.original_bytes:,}", f"{self.output_bytes:,}", ratio, ""]

    def failures(self) -> list[str]:
        """A sentence a model that failed."""
        return [f"{FAILED}: {m.failure}" for m in self.models if m.failure is not None]


def compiled(model: Path, report: reporting.CompileReport) -> ModelOutcome:
    """Of a model that was compiled."""
    quality = reporting.quality_text(report.verification)
    return ModelOutcome(str(model), report.output, report.original_bytes, report.output_bytes, quality, None, report)


def failed(model: Path, sentence: str) -> ModelOutcome:
    """Of one that was not; the sentence names it if nothing else does."""
    return ModelOutcome(str(model), failure=sentence if str(model) in sentence else f"{model}: {sentence}")


def _cells(model: ModelOutcome) -> list[str]:
    if model.ratio is None:
        return [model.name, "", "", "", FAILED]
    sizes = [f"{model.original_bytes:,}", f"{model.output_bytes:,}"]
    return [model.name, *sizes, f"{model.ratio:.2f}x", model.quality or ""]


def _anchor(model: ModelOutcome) -> str:
    return f"model-{quote(model.name)}"


def _link(model: ModelOutcome, holds: bool) -> html_page.Markup:
    target = f"#{quote(_anchor(model))}" if holds else f"{quote(Path(model.model).stem)}.html"
    return html_page.link(model.name, target)


def _held(models: list[ModelOutcome]) -> Iterator[str]:
    for m in models:
        if m.report is not None:
            yield html_page.folded(m.name, _anchor(m), *page.parts(m.report))
