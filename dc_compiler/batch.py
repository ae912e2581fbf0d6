"""Several models, or folders of them, in one call: what is read and what is written where."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

from dc_compiler.errors import InvalidArgumentError, ModelError, OutputError

SUFFIX = ".onnx"


@dataclass(frozen=True)
class Work:
    """One model, and the files made of it."""

    model: Path
    output: Path
    report: Path | None
    json: Path | None


def plan(inputs: Sequence[Path], output: Path, report: Path | None, json: Path | None) -> list[Work]:
    """One work for each model. Of several models or of a folder, files of the model's name are written into folders.

    Raises:
        ModelError: a folder without models. InvalidArgumentError: two models of the same name, or more than folders
            can take. OutputError: the folder is a file, or the one that a model lies in.
    """
    if len(inputs) == 1 and not inputs[0].is_dir():
        return [Work(inputs[0], output, report, json)]
    models = [m for given in inputs for m in _models(given)]
    names = [m.name for m in models]
    twice = next((m for m in models if names.count(m.name) > 1), None)
    if twice is not None:
        raise InvalidArgumentError(f"two models are called {twice.name}; compile one after the other")
    for folder in filter(None, (output, report, json)):
        if folder.exists() and not folder.is_dir():
            raise OutputError(f"{folder} is a file; of several models, what is written goes to a folder")
        if any(m.parent.resolve() == folder.resolve() for m in models):
            raise OutputError(f"{folder} holds a model that is to be compiled; give another folder")
    return [Work(m, output / m.name, _of(report, m, ".html"), _of(json, m, ".json")) for m in models]


def _models(given: Path) -> Iterator[Path]:
    if not given.is_dir():
        yield given
        return
    found = sorted(p for p in given.iterdir() if p.suffix == SUFFIX)
    if not found:
        raise ModelError(f"{given} is a folder without {SUFFIX} files")
    yield from found


def _of(folder: Path | None, model: Path, suffix: str) -> Path | None:
    return None if folder is None else folder / (model.stem + suffix)
