"""Writes dc_compiler/schemas/*.json from the classes that hold the commands' results: python tools/schemas.py"""

from __future__ import annotations

import dataclasses
import inspect
import json
import types
import typing
from collections.abc import Mapping
from typing import Any

from dc_compiler import schemas
from dc_compiler.diff import ModelDiff
from dc_compiler.exploration.frontier import FrontierReport
from dc_compiler.exploration.sensitivity import Curve, SensitivityReport
from dc_compiler.ort.bench import BenchResult
from dc_compiler.ort.verify import Verification
from dc_compiler.report import CompileReport, TensorRow
from dc_compiler.report.joint import JointReport, ModelOutcome

# The class of each command's result
RESULTS: Mapping[str, type] = {
    "batch": JointReport,
    "bench": BenchResult,
    "compile": CompileReport,
    "diff": ModelDiff,
    "frontier": FrontierReport,
    "inspect": CompileReport,
    "sensitivity": SensitivityReport,
    "verify": Verification,
}
# What outputs hold beside the classes' fields
BESIDE: Mapping[type, Mapping[str, Mapping[str, Any]]] = {
    CompileReport: {"ratio": {"type": "number"}},
    Curve: {"divergence_per_bit": {"type": ["number", "null"]}},
    JointReport: {
        "compiled": {"type": "integer"},
        "original_bytes": {"type": "integer"},
        "output_bytes": {"type": "integer"},
        "ratio": {"type": ["number", "null"]},
    },
    ModelDiff: {"same": {"type": "boolean"}},
    ModelOutcome: {"ratio": {"type": ["number", "null"]}},
    TensorRow: {"ratio": {"type": "number"}},
    Verification: {"compared": {"type": "boolean"}},
}
# Commands whose outputs have names of their own
COMMANDS = {"batch": "compile MODELS"}
PLAIN = {bool: "boolean", int: "integer", str: "string", types.NoneType: "null"}


def schema(command: str) -> dict[str, Any]:
    """The JSON Schema of a command's output."""
    parts: dict[str, Any] = {}
    whole = _object(RESULTS[command], parts)
    identifier = schemas.identifier(command)
    whole["properties"] = {"schema": {"const": identifier}} | whole["properties"]
    whole["required"] = ["schema", *whole["required"]]
    return {
        "$schema": "https://json-schema.org/draft/2020-12/schema",
        "title": f"{identifier}: output of dcc {COMMANDS.get(command, command)} --json",
        **whole,
        "$defs": dict(sorted(parts.items())),
    }


def _object(kind: type, parts: dict[str, Any]) -> dict[str, Any]:
    """A class as an object that may hold more than its fields."""
    hints = typing.get_type_hints(kind)
    names = [f.name for f in dataclasses.fields(kind)]
    fields = {name: _schema(hints[name], parts) for name in names} | dict(BESIDE.get(kind, {}))
    description = " ".join((inspect.getdoc(kind) or "").split())
    return {"type": "object", "description": description, "properties": fields, "required": list(fields)}


def _schema(hint: Any, parts: dict[str, Any]) -> dict[str, Any]:
    if hint is Any:
        return {}
    if hint in PLAIN:
        return {"type": PLAIN[hint]}
    if hint is float:
        return {"type": ["number", "null"]}  # null where it is not finite
    if dataclasses.is_dataclass(hint):
        assert isinstance(hint, type)
        if hint.__name__ not in parts:
            parts[hint.__name__] = {}  # known before its fields are looked at
            parts[hint.__name__] = _object(hint, parts)
        return {"$ref": f"#/$defs/{hint.__name__}"}
    origin, arguments = typing.get_origin(hint), typing.get_args(hint)
    if origin in (list, tuple):
        return {"type": "array", "items": _schema(arguments[0], parts)}
    if origin in (dict, Mapping):
        return {"type": "object", "additionalProperties": _schema(arguments[1], parts)}
    if origin in (types.UnionType, typing.Union):
        return {"anyOf": [_schema(a, parts) for a in arguments]}
    raise TypeError(f"no schema for {hint}")


def text(command: str) -> str:
    """The content of the command's file."""
    return json.dumps(schema(command), indent=1) + "\n"


def main() -> None:
    """Write all files."""
    for command in schemas.VERSIONS:
        schemas.path(command).write_text(text(command))


if __name__ == "__main__":
    main()
