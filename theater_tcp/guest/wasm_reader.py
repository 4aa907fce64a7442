"""Reads what WebAssembly binaries are made of: numbers, names, sections.

Whatever the bytes are, the only exception is :class:`BinaryError`, and nothing is allocated for what a number merely
promises.
"""

from __future__ import annotations

from collections.abc import Iterator

__all__ = ["BinaryError", "Reader", "shown"]

_MAX_SHOWN = 120


class BinaryError(Exception):
    """A file that can't be a guest; the text is one line that says why."""


def shown(name: str, most: int = _MAX_SHOWN) -> str:
    """A name out of a file, as it may stand in an error or in the log: printable, and not too long.

    Args:
        name: may be of any length.
        most: how many characters are shown.
    """
    name = name[: most + 1]
    if not name.isprintable():
        name = name.encode("unicode_escape").decode("ascii")
    return name if len(name) <= most else f"{name[:most]}..."


class Reader:
    """A place in the bytes of a file, and the end of what may be read there.

    Args:
        data: the whole file.
        at: where to begin.
        end: where the part ends that is read.
    """

    __slots__ = ("at", "data", "end")

    def __init__(self, data: bytes, at: int, end: int) -> None:
        self.data = data
        self.at = at
        self.end = end

    @property
    def more(self) -> bool:
        """Whether there is something left."""
        return self.at < self.end

    def byte(self) -> int:
        """The next byte."""
        at = self.at
        if at >= self.end:
            raise BinaryError(f"is truncated, or damaged: something is missing at byte {at:#x}")
        self.at = at + 1
        return self.data[at]

    def peek(self) -> int:
        """The next byte, which stays there; -1 at the end."""
        return self.data[self.at] if self.at < self.end else -1

    def u32(self) -> int:
        """A number below 2**32, in LEB128."""
        return self.number(32)

    def number(self, bits: int) -> int:
        """A number without a sign, in LEB128.

        Args:
            bits: how long it may be.
        """
        began, result, shift = self.at, 0, 0
        while True:
            byte = self.byte()
            result |= (byte & 0x7F) << shift
            if byte < 0x80:
                break
            shift += 7
            if shift >= bits:
                raise BinaryError(f"is damaged: the number at byte {began:#x} is too long")
        if result >> bits:
            raise BinaryError(f"is damaged: the number at byte {began:#x} is too large")
        return result

    def s33(self) -> int:
        """A number with a sign, in LEB128: the index of a type, or below 0 a type of its own."""
        began, result, shift = self.at, 0, 0
        while True:
            byte = self.byte()
            result |= (byte & 0x7F) << shift
            shift += 7
            if byte < 0x80:
                break
            if shift >= 35:
                raise BinaryError(f"is damaged: the number at byte {began:#x} is too long")
        return result - (1 << shift) if byte & 0x40 else result

    def count(self) -> int:
        """How many items follow; each has a byte at least, so it can't be more than the bytes that are left."""
        began, count = self.at, self.u32()
        if count > self.end - self.at:
            raise BinaryError(
                f"is truncated, or damaged: {count} items at byte {began:#x}, in {self.end - self.at} bytes"
            )
        return count

    def name(self) -> str:
        """A length, and so many bytes of UTF-8."""
        began = self.at
        part = self.part()
        try:
            return str(self.data[part.at : part.end], "utf-8")
        except UnicodeDecodeError:
            raise BinaryError(f"is damaged: the name at byte {began:#x} is not UTF-8") from None

    def part(self) -> Reader:
        """A length, and so many bytes as a part of their own."""
        began, size = self.at, self.u32()
        if size > self.end - self.at:
            raise BinaryError(
                f"is truncated: {size} bytes are announced at byte {began:#x}, and {self.end - self.at} follow"
            )
        part = Reader(self.data, self.at, self.at + size)
        self.at += size
        return part

    def expect_end(self) -> None:
        """Nothing may be left."""
        if self.more:
            raise BinaryError(f"is damaged: there is something too much at byte {self.at:#x}")

    def sections(self) -> Iterator[tuple[int, Reader]]:
        """The sections from here to the end: (number, content)."""
        while self.more:
            number = self.byte()
            yield number, self.part()
