"""Opens every onnxruntime session of the project: options, custom-operator libraries, and the original's, kept."""

from __future__ import annotations

import os
import tempfile
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import onnx

from dc_compiler.codec import binding
from dc_compiler.errors import InvalidArgumentError, LibraryError, ModelError
from dc_compiler.model import files, packed

if TYPE_CHECKING:  # imported late: commands that run nothing start faster
    import onnxruntime as ort

PathLike = str | os.PathLike[str]
PROVIDERS = ["CPUExecutionProvider"]
UNKNOWN_OPERATOR = "is not a registered function/op"  # what onnxruntime says of an operator that no library brought
SILENT = 4  # log severity "fatal": errors come as exceptions, and onnxruntime's own log would stand beside our sentence


def session_options(
    *, custom_op_libraries: Iterable[PathLike] = (), config: Mapping[str, str] | None = None, **settings: Any
) -> ort.SessionOptions:
    """Options that serve compiled models: with the dcc library registered.

    What is set on the options afterwards does not reach the session inside a compiled model, so it is given here.

    Args:
        custom_op_libraries: libraries of other operators that the model needs; they are registered before dcc's.
        config: session configuration entries, such as ``{"session.intra_op.allow_spinning": "0"}``.
        settings: attributes of :class:`onnxruntime.SessionOptions`, such as ``intra_op_num_threads=1``.

    Raises:
        InvalidArgumentError: a setting or a library does not exist.
        LibraryError: onnxruntime cannot use a library.
    """
    import onnxruntime as ort

    options = ort.SessionOptions()
    for name, value in settings.items():
        if not hasattr(options, name):
            raise InvalidArgumentError(f"onnxruntime's session options have no '{name}'")
        try:
            setattr(options, name, value)
        except (AttributeError, TypeError):
            raise InvalidArgumentError(f"onnxruntime's session options do not take {value!r} for '{name}'") from None
    for key, text in (config or {}).items():
        options.add_session_config_entry(key, text)
    register(options, [*custom_op_libraries, binding.get_library_path()])
    return options


def InferenceSession(  # noqa: N802  # stands where onnxruntime's class stood
    model: PathLike | bytes,
    sess_options: ort.SessionOptions | None = None,
    *,
    custom_op_libraries: Iterable[PathLike] = (),
    **arguments: Any,
) -> ort.InferenceSession:
    """An :class:`onnxruntime.InferenceSession` that runs compiled models and all others.

    Args:
        model: path or bytes of the model.
        sess_options: options with everything set; the library is registered with them. None takes the defaults.
        custom_op_libraries: as in :func:`session_options`.
        arguments: those of onnxruntime's class, such as ``providers``.

    Raises:
        InvalidArgumentError: a library does not exist. LibraryError: onnxruntime cannot use it.
        Exception: what onnxruntime raises for a model that it cannot load.
    """
    import onnxruntime as ort

    options = ort.SessionOptions() if sess_options is None else sess_options
    register(options, [*custom_op_libraries, binding.get_library_path()])
    return ort.InferenceSession(
        model if isinstance(model, bytes) else os.fspath(model), options, **({"providers": PROVIDERS} | arguments)
    )


def register(options: ort.SessionOptions, libraries: Iterable[PathLike]) -> None:
    """Register custom-operator libraries in this order.

    The dcc library comes last: it keeps a copy of the options as it finds them for the session inside a compiled model.

    Raises:
        InvalidArgumentError: a library does not exist. LibraryError: onnxruntime cannot use it.
    """
    for path in _existing(libraries):
        try:
            options.register_custom_ops_library(str(path.absolute()))
        except Exception as e:  # onnxruntime's exceptions share no base class
            raise LibraryError(f"onnxruntime cannot use the custom-op library {path}: {short(e)}") from None


def _existing(libraries: Iterable[PathLike]) -> list[Path]:
    paths = [Path(p) for p in libraries]
    for path in paths:
        if not path.is_file():
            raise InvalidArgumentError(f"the custom-op library {path} does not exist")
    return paths


class Sessions:
    """The sessions of one command, with the libraries that its models need.

    Args:
        libraries: one or more custom-operator libraries of other makers, in the order to register them.
        rest: threads of a session sleep between runs. Where two models run in turn, those of one would spin while the
            other computes; a measurement of speed wants sessions as users have them.

    Raises:
        InvalidArgumentError: a library does not exist. LibraryError: onnxruntime cannot use it.
    """

    def __init__(self, libraries: PathLike | Iterable[PathLike] = (), *, rest: bool = False) -> None:
        self._rest = rest
        self.libraries = _existing([libraries] if isinstance(libraries, str | os.PathLike) else libraries)
        if self.libraries:  # one that cannot be used is refused before any work
            import onnxruntime as ort

            register(ort.SessionOptions(), self.libraries)
        self._originals: dict[tuple[int, int], tuple[files.SourceModel, ort.InferenceSession]] = {}

    def open(
        self,
        model: onnx.ModelProto | Path,
        threads: int = 0,
        *,
        compiled: bool | None = None,
        apart: Mapping[str, np.ndarray] | None = None,
    ) -> ort.InferenceSession:
        """A session on the CPU. A message that is too large for protobuf takes the way over a temporary file.

        Args:
            threads: of each operator; 0 is one a processor.
            compiled: whether the model needs dcc's own library; None looks into a message, and is False for a path.
            apart: values of initializers that the model says are in a file; none may change while the session lives.

        Raises:
            ModelError: onnxruntime refuses the model; its own sentence is passed on.
            LibraryError: onnxruntime cannot use a library.
        """
        if not isinstance(model, onnx.ModelProto):
            return self._open(str(model), threads, bool(compiled), {})
        wanted = packed.is_compiled(model) if compiled is None else compiled
        if files.message_size(model) <= files.MAX_MESSAGE_BYTES:
            return self._open(model.SerializeToString(), threads, wanted, apart or {})
        with tempfile.TemporaryDirectory() as folder:
            path = Path(folder) / "model.onnx"
            files.write_model(model, path)
            return self._open(str(path), threads, wanted, {})

    def original(self, source: files.SourceModel, threads: int = 0) -> ort.InferenceSession:
        """A session of a model as it was given, opened once and kept until :meth:`forget_originals`.

        Raises:
            ModelError: onnxruntime cannot load it.
        """
        key = id(source), threads
        if key not in self._originals:
            compiled = packed.is_compiled(source.proto)
            try:
                self._originals[key] = source, self.open(source.path or source.proto, threads, compiled=compiled)
            except ModelError as e:
                raise ModelError(f"onnxruntime cannot load {source.label}: {e}") from None
        return self._originals[key][1]

    def forget_originals(self) -> None:
        """Free the memory of the originals' sessions."""
        self._originals.clear()

    def _open(
        self, content: str | bytes, threads: int, compiled: bool, apart: Mapping[str, np.ndarray]
    ) -> ort.InferenceSession:
        import onnxruntime as ort

        options = ort.SessionOptions()
        options.log_severity_level = SILENT
        options.intra_op_num_threads = threads
        if self._rest:
            options.add_session_config_entry("session.force_spinning_stop", "1")
        register(options, [*self.libraries, *([binding.get_library_path()] if compiled else [])])
        values = [ort.OrtValue.ortvalue_from_numpy(np.ascontiguousarray(a)) for a in apart.values()]
        if values:
            options.add_external_initializers(list(apart), values)
        try:
            session = ort.InferenceSession(content, options, providers=PROVIDERS)
            vars(session)["apart"] = values  # it uses their memory
            return session
        except Exception as e:  # onnxruntime's exceptions share no base class
            unknown = UNKNOWN_OPERATOR in str(e)
            raise ModelError(short(e) + ("; give its library with --custom-op-library" if unknown else "")) from None


def short(error: Exception) -> str:
    """An exception of onnxruntime as one line."""
    return " ".join(str(error).split())[:400]
