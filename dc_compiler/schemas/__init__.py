"""What the commands' ``--json`` gives, as JSON Schema files beside this one: ``path("compile")`` and so on; ``batch``
is what ``dcc compile`` gives of several models.

Every output says in ``schema`` which one it follows: ``dcc.compile/1`` is version 1 of ``compile.json``. A version
stands for its fields and what they mean; new fields may come within it, so readers leave alone what they do not know.
Where one goes or changes its meaning, the version goes up. The files are made by ``tools/schemas.py`` from the classes
that hold the results.
"""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

VERSIONS = {
    "batch": 1, "bench": 1, "compile": 1, "diff": 1, "frontier": 1, "inspect": 1, "sensitivity": 1, "verify": 1,
}  # fmt: skip


def identifier(command: str) -> str:
    """What ``schema`` says in an output of the command."""
    return f"dcc.{command}/{VERSIONS[command]}"


def stamped(command: str, content: Mapping[str, Any]) -> dict[str, Any]:
    """The output of a command with its schema's identifier in front."""
    return {"schema": identifier(command), **content}


def path(command: str) -> Path:
    """The JSON Schema (2020-12) file for the command's output."""
    return Path(__file__).parent / f"{command}.json"
