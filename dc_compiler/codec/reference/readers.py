"""Bounds-checked readers of bytes, bits and sections, and their CRC (section 1)."""

from __future__ import annotations

from dc_compiler.errors import CorruptFrameError


def require(condition: bool, rule: str) -> None:
    if not condition:
        raise CorruptFrameError(f"the frame is corrupt: {rule}")


def crc32c(data: bytes) -> int:
    """CRC-32C of `data`."""
    crc = 0xFFFFFFFF
    for byte in data:
        crc = (crc >> 8) ^ _CRC_TABLE[(crc ^ byte) & 0xFF]
    return crc ^ 0xFFFFFFFF


def _crc_entry(byte: int) -> int:
    for _ in range(8):
        byte = (byte >> 1) ^ (0x82F63B78 if byte & 1 else 0)
    return byte


_CRC_TABLE = [_crc_entry(byte) for byte in range(256)]


class ByteReader:
    """Bounds-checked reader of bytes and varints."""

    def __init__(self, data: bytes) -> None:
        self.data = bytes(data)
        self.at = 0

    def take(self, count: int) -> bytes:
        require(count <= len(self.data) - self.at, f"{count} bytes needed, {len(self.data) - self.at} left")
        self.at += count
        return self.data[self.at - count : self.at]

    def u8(self) -> int:
        return self.take(1)[0]

    def u32(self) -> int:
        return int.from_bytes(self.take(4), "little")

    def varint(self) -> int:
        value = 0
        for shift in range(0, 70, 7):
            byte = self.u8()
            value |= (byte & 0x7F) << shift
            if byte < 0x80:
                require(byte != 0 or shift == 0, "varint not in its shortest form")
                require(value < 1 << 64, "varint of more than 64 bits")
                return value
        raise CorruptFrameError("the frame is corrupt: varint of more than 64 bits")

    def svarint(self) -> int:
        return unzigzag(self.varint())

    def rest(self) -> bytes:
        return self.take(len(self.data) - self.at)

    def finish(self, what: str) -> None:
        require(self.at == len(self.data), f"{len(self.data) - self.at} bytes left at the end of {what}")


class BitReader:
    """Reader of a bit stream: least significant bit of each byte first."""

    def __init__(self, data: bytes) -> None:
        self.data = data
        self.at = 0

    def take(self, count: int) -> int:
        require(self.at + count <= 8 * len(self.data), "bit stream too short")
        value = 0
        for i in range(count):
            value |= (self.data[self.at >> 3] >> (self.at & 7) & 1) << i
            self.at += 1
        return value

    def pad(self) -> int:
        """Skip to the byte boundary over bits that must be zero; returns the bytes read so far."""
        require(self.take(-self.at % 8) == 0, "padding bits not zero")
        return self.at // 8


def unzigzag(v: int) -> int:
    return v >> 1 if v % 2 == 0 else -(v + 1 >> 1)


def read_section(reader: ByteReader) -> ByteReader:
    body = reader.take(reader.varint())
    require(reader.u32() == crc32c(body), "section CRC mismatch")
    return ByteReader(body)
