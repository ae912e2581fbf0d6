"""The exception tree: every failure a user can cause or meet derives from DccError and says what to do about it."""

from __future__ import annotations


class DccError(Exception):
    """Base of all errors raised on purpose; the message is one sentence fit to be shown to a user."""


class InvalidArgumentError(DccError):
    """An option, recipe, pipeline or argument is wrong. Nothing was read or written."""


class ModelError(DccError):
    """A model file is missing, unreadable, not ONNX, or uses something that cannot be compiled."""


class OverLimitError(ModelError):
    """A compiled model would decode to more than it may (SECURITY.md)."""


class DataError(DccError):
    """The input data given with ``--data`` is missing, broken, or does not match the model's inputs."""


class OutputError(DccError):
    """The output cannot be written, or writing it would destroy an input."""


class CorruptFrameError(DccError):
    """A packed weight breaks a rule of ``codec/FORMAT.md``."""


class LibraryError(DccError):
    """The native library is missing, or this onnxruntime cannot use it."""


class ClusterError(DccError):
    """The cluster given with ``--cluster`` cannot be reached, or cannot do the work."""


class PassError(DccError):
    """A pass broke an invariant of the Program: a bug in the pass, not in the input."""


class QualityError(DccError):
    """The compiled model misses the quality that was asked for. Nothing was written."""


class CancelledError(DccError):
    """Another thread stopped a call of the native library (``codec/cancellation.py``)."""
