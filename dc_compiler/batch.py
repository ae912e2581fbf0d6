"""Several models, or folders of them, in one call: what is read and what is written where."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

from dc_compiler.errors import InvalidArgumentError, ModelError, OutputError

SUFFIX = ".onnx"
JOINT = "index"  # what files about all models are called, in folders with one for each


@dataclass(frozen=True)
class Work:
    """One model, and the files made of it."""

    model: Path
    output: Path
    report: Path | None
    json: Path | None


@dataclass(frozen=True)
class Plan:
    """The works, and of several models what is written about all: a page and data, each a file that holds what is told
    of every model (``report_holds``, ``json_holds``) or one beside a file for each."""

    works: list[Work]
    is_several: bool = False
    report: Path | None = None
    json: Path | None = None
    report_holds: bool = False
    json_holds: bool = False

    def folders(self) -> list[Path]:
        """Those of pages and data, which may have to be made."""
        joint = ((self.report, self.report_holds), (self.json, self.json_holds))
        return [path.parent for path, holds in joint if path is not None and not holds]


def plan(inputs: Sequence[Path], output: Path, report: Path | None, json: Path | None) -> Plan:
    """One work for each model. Of several models or of a folder, files of the model's name are written into folders; a
    report that ends in ``.html``, or data that end in ``.json``, are one file.

    Raises:
        ModelError: a folder without models. InvalidArgumentError: two models of the same name, or one whose files would
            replace those about all. OutputError: the folder is a file, or the one that a model lies in.
    """
    if len(inputs) == 1 and not inputs[0].is_dir():
        return Plan([Work(inputs[0], output, report, json)])
    models = [m for given in inputs for m in _models(given)]
    names = [m.name for m in models]
    twice = next((m for m in models if names.count(m.name) > 1), None)
    if twice is not None:
        raise InvalidArgumentError(f"two models are called {twice.name}; compile one after the other")
    pages, page = _places(report, ".html")
    folder, data = _places(json, ".json")
    joint = next((m for m in models if m.stem == JOINT), None)
    if joint is not None and (pages or folder):
        kept = f"{JOINT}.html and {JOINT}.json are about all models"
        raise InvalidArgumentError(f"a model is called {joint.name}, but {kept}; compile it alone")
    for made in filter(None, (output, pages, folder)):
        if made.exists() and not made.is_dir():
            raise OutputError(f"{made} is a file; of several models, what is written goes to a folder")
        if any(m.parent.resolve() == made.resolve() for m in models):
            raise OutputError(f"{made} holds a model that is to be compiled; give another folder")
    works = [Work(m, output / m.name, _of(pages, m, ".html"), _of(folder, m, ".json")) for m in models]
    return Plan(works, True, page, data, page is not None and pages is None, data is not None and folder is None)


def _models(given: Path) -> Iterator[Path]:
    if not given.is_dir():
        yield given
        return
    found = sorted(p for p in given.iterdir() if p.suffix == SUFFIX)
    if not found:
        raise ModelError(f"{given} is a folder without {SUFFIX} files")
    yield from found


def _places(given: Path | None, suffix: str) -> tuple[Path | None, Path | None]:
    """The folder for files about each model, if there are such files, and the file about all."""
    if given is None or (given.suffix == suffix and not given.is_dir()):
        return None, given
    return given, given / (JOINT + suffix)


def _of(folder: Path | None, model: Path, suffix: str) -> Path | None:
    return None if folder is None else folder / (model.stem + suffix)
