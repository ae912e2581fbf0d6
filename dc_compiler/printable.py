"""Text that comes from files, made fit to be shown: names in a model may hold what steers a terminal."""

from __future__ import annotations


def printable(text: str) -> str:
    """The text with every character escaped that is not shown as itself.

    Control characters (escape sequences, C1), line ends, characters that change the direction of writing or have no
    width, odd spaces and lone surrogates become ``\\x1b``, ``\\u202e`` and the like, as in Python's own ``repr``.
    """
    if text.isprintable():
        return text
    return "".join(c if c.isprintable() else c.encode("unicode_escape").decode() for c in text)
