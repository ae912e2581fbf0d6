"""What someone who mistyped a name may have meant."""

from __future__ import annotations

import difflib
from collections.abc import Iterable

MOST = 2
ALIKE = 0.6  # as difflib counts it: 1 for the same


def nearest(given: str, known: Iterable[str]) -> str:
    """The known names that are most like the one given, as the end of a sentence; "" where none is."""
    found = difflib.get_close_matches(given, list(known), MOST, ALIKE)
    return f"; did you mean {' or '.join(found)}?" if found else ""
