"""Section 4: number lists."""

from __future__ import annotations

from dc_compiler.codec.reference.readers import BitReader, ByteReader, require, unzigzag


def read_numbers(reader: ByteReader, length: int) -> list[int]:
    bits = BitReader(reader.data[reader.at :])
    order = bits.take(4)
    values = []
    value = 0
    for _ in range(length):
        value += unzigzag(_exp_golomb(bits, order))
        require(0 <= value <= 1 << 17, "number list out of range")
        values.append(value)
    reader.take(bits.pad())
    return values


def _exp_golomb(bits: BitReader, order: int) -> int:
    leading = 0
    while bits.take(1) == 0:
        leading += 1
        require(leading <= 20, "Exp-Golomb prefix too long")
    width = leading + order
    return (1 << width) + bits.take(width) - (1 << order)
