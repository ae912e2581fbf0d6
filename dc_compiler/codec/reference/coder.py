"""What a coder is to the decoder: one instance in a file of its own, listed in table.py."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from enum import Enum, auto
from typing import TypeVar

from dc_compiler.codec.reference.readers import ByteReader, read_section
from dc_compiler.codec.reference.spec import Array, Header

T = TypeVar("T")


class Stores(Enum):
    """What the streams of a coder are."""

    INDICES = auto()  # of a codebook
    ELEMENTS = auto()  # of any dtype
    BYTES = auto()  # elements of dtype uint8


class Layout(Enum):
    """Which sections a coder has (section 3)."""

    WHOLE = auto()  # DATA
    CHUNKS = auto()
    ONE_CHUNK = auto()


@dataclass(frozen=True)
class Coder:
    """A coder by its rules.

    read      takes the sections from TABLES or DATA on: the indices (n,) int64, or the elements (n,) in the dtype
    fields    takes the header's fields that only this coder has, checks them, and gives the header with them
    is_empty  whether a tensor without elements is allowed
    """

    number: int
    stores: Stores
    layout: Layout
    read: Callable[[Header, ByteReader], Array]
    fields: Callable[[Header, ByteReader], Header] = lambda header, reader: header
    is_empty: bool = False


def read_chunks(header: Header, reader: ByteReader, decode: Callable[[ByteReader, int], T]) -> list[T]:
    """What `decode` makes of every CHUNK and its number of elements."""
    parts = []
    for m in header.chunk_sizes():
        chunk = read_section(reader)
        parts.append(decode(chunk, m))
        chunk.finish("a chunk")
    return parts
