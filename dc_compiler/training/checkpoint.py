"""Training state on disk, so that a run that was killed continues where it was."""

from __future__ import annotations

import fcntl
import hashlib
import io
import json
import os
import time
from collections.abc import Iterable, Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Protocol

import numpy as np

from dc_compiler.errors import InvalidArgumentError, OutputError
from dc_compiler.model import files

Array = np.ndarray
State = dict[str, Array]

RUN = "run.json"
INTERVAL = 30.0  # seconds between two states within an epoch
SHARE = 0.05  # of the time may go into writing them


class Resumable(Protocol):
    """Something whose state is arrays of numbers."""

    def state(self) -> State:
        """All that changes as training goes on."""

    def restore(self, state: State) -> None:
        """Continue from a state; KeyError, ValueError or IndexError when it cannot be one of these."""


class Checkpoint:
    """A directory for the states of one compilation: ``<number>.npz`` for each training of its pipeline, in order.

    Passes that do not train are quick and always give the same, so they have no state and are run again.

    Args:
        directory: made when it is missing.
        identity: digests, by name, of what decides the result; kept in ``run.json``.

    Raises:
        InvalidArgumentError: the directory is a file, or belongs to something else. OutputError: it cannot be written.
    """

    def __init__(self, directory: Path, identity: Mapping[str, str]) -> None:
        self._directory, self._trainings = directory, 0
        try:
            directory.mkdir(parents=True, exist_ok=True)
            found = {f.name for f in directory.iterdir()} - {f.name for f in _leftovers(directory)}
        except OSError as e:
            raise OutputError(f"the checkpoint directory {directory} cannot be used: {e.strerror}") from None
        if RUN in found:
            self._check(identity)
        elif found:
            raise InvalidArgumentError(
                f"{directory} holds other things than checkpoints; give an empty directory or a new one"
            )
        else:
            files.write_atomically(directory / RUN, [json.dumps(dict(identity), indent=1).encode()])

    @contextmanager
    def locked(self) -> Iterator[None]:
        """Keep other processes from training with this directory meanwhile; a process that dies gives it back.

        Raises:
            InvalidArgumentError: another process trains with it.
        """
        descriptor = os.open(self._directory, os.O_RDONLY)
        try:
            try:
                fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
            except BlockingIOError:
                raise InvalidArgumentError(
                    f"another process is using the checkpoint directory {self._directory}; wait for it or give another"
                ) from None
            yield
        finally:
            os.close(descriptor)

    def next(self) -> StateFile:
        """The file of the next training."""
        self._trainings += 1
        return StateFile(self._directory / f"{self._trainings}.npz")

    def remove(self) -> None:
        """Delete what is no longer needed, and the directory unless it holds something else."""
        states = [self._directory / f"{n}.npz" for n in range(1, self._trainings + 1)]
        try:
            for file in (*states, *_leftovers(self._directory), self._directory / RUN):
                file.unlink(missing_ok=True)
            if not any(self._directory.iterdir()):
                self._directory.rmdir()
        except OSError as e:
            raise OutputError(f"the checkpoint directory {self._directory} cannot be removed: {e.strerror}") from None

    def _check(self, identity: Mapping[str, str]) -> None:
        file = self._directory / RUN
        try:
            written = json.loads(file.read_bytes())
            differing = [name for name, digest in identity.items() if written[name] != digest]
        except (OSError, ValueError, KeyError, TypeError):
            raise _damaged(file) from None
        if differing:
            raise InvalidArgumentError(
                f"{self._directory} holds the checkpoints of another run, whose {' and '.join(differing)} differed; "
                "give another directory, or delete it"
            )


class StateFile:
    """The state of one training, in parts that each keep their own arrays."""

    def __init__(self, path: Path) -> None:
        self._path, self._written, self._cost = path, time.monotonic(), 0.0

    def load(self, parts: Mapping[str, Resumable]) -> bool:
        """Restore every part, in order; False when there is no state yet.

        Raises:
            InvalidArgumentError: the file is damaged.
        """
        if not self._path.exists():
            return False
        try:
            with np.load(self._path, allow_pickle=False) as file:  # the CRC of every array is checked
                arrays = {name: file[name] for name in file.files}
            for name, part in parts.items():
                own = {k.removeprefix(f"{name}."): v for k, v in arrays.items() if k.startswith(f"{name}.")}
                part.restore(own)
        except Exception:  # zipfile and numpy raise many kinds for broken files
            raise _damaged(self._path) from None
        return True

    def save(self, parts: Mapping[str, Resumable]) -> None:
        """Replace the file, atomically.

        Raises:
            OutputError
        """
        start = time.monotonic()
        buffer = io.BytesIO()
        arrays = {f"{name}.{key}": array for name, part in parts.items() for key, array in part.state().items()}
        np.savez(buffer, **arrays)  # type: ignore[arg-type]
        files.write_atomically(self._path, [buffer.getvalue()])
        self._written = time.monotonic()
        self._cost = self._written - start

    def is_due(self, is_epoch_end: bool) -> bool:
        """Whether to save now: at the end of an epoch and every ``INTERVAL``, unless writing takes too long."""
        waited = time.monotonic() - self._written
        return waited * SHARE >= self._cost and (is_epoch_end or waited >= INTERVAL)


def digest(parts: Iterable[bytes | Array]) -> str:
    """SHA-256, as hexadecimal, of bytes and of arrays with their shapes and types."""
    result = hashlib.sha256()
    for part in parts:
        if isinstance(part, bytes):
            result.update(b"%d:" % len(part))
            result.update(part)
        else:
            result.update(f"{part.dtype}{part.shape}:".encode())
            result.update(np.ascontiguousarray(part).reshape(-1).view(np.uint8).data)
    return result.hexdigest()


def _leftovers(directory: Path) -> list[Path]:
    """Temporary files of a process that was killed while it wrote."""
    return list(directory.glob(".dcc.*.tmp"))


def _damaged(file: Path) -> InvalidArgumentError:
    return InvalidArgumentError(f"{file} is damaged; delete {file.parent} to train from the start")
