"""The wire format of protocol buffers, written: numbers, texts and messages as fields.

Knows the encoding of https://protobuf.dev/programming-guides/encoding/, and no message.
"""

from __future__ import annotations

from collections.abc import Iterable


def text_field(number: int, text: str) -> bytes:
    """A field that holds a text."""
    return bytes_field(number, text.encode())


def bytes_field(number: int, data: bytes) -> bytes:
    """A field that holds bytes, or the message they are."""
    return varint(number << 3 | 2) + varint(len(data)) + data


def int_field(number: int, value: int) -> bytes:
    """A field that holds a whole number."""
    return varint(number << 3) + varint(value)


def ints_field(number: int, values: Iterable[int]) -> bytes:
    """A field that holds whole numbers, packed."""
    return bytes_field(number, b"".join(varint(value) for value in values))


def varint(value: int) -> bytes:
    """A whole number in groups of seven bits, the lowest first."""
    value &= 0xFFFF_FFFF_FFFF_FFFF  # negative numbers are written as their two's complement
    out = bytearray()
    while value > 0x7F:
        out.append(value & 0x7F | 0x80)
        value >>= 7
    out.append(value)
    return bytes(out)
