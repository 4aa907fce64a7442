"""The three string encodings of the canonical ABI.

Source: the Component Model's canonical ABI, "Loading" and "Storing" of strings. A lone surrogate, which no encoding has
(Python puts one where a file's name or an address isn't text), becomes a question mark.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import NamedTuple

__all__ = ["ENCODINGS", "Encoding"]

UTF16_TAG = 1 << 31
"""In ``latin1+utf16``: set in the length where the text is UTF-16."""


class Encoding(NamedTuple):
    """How a guest has its texts.

    Args:
        encode: from a text to its bytes, their alignment, and its length as it is passed.
        decode: from a length as it was passed to the size in bytes, the alignment, and Python's codec.
    """

    encode: Callable[[str], tuple[bytes, int, int]]
    decode: Callable[[int], tuple[int, int, str]]


def _to_utf8(text: str) -> tuple[bytes, int, int]:
    data = text.encode("utf-8", "replace")
    return data, 1, len(data)


def _from_utf8(length: int) -> tuple[int, int, str]:
    return length, 1, "utf-8"


def _to_utf16(text: str) -> tuple[bytes, int, int]:
    data = text.encode("utf-16-le", "replace")
    return data, 2, len(data) // 2


def _from_utf16(length: int) -> tuple[int, int, str]:
    return 2 * length, 2, "utf-16-le"


def _to_either(text: str) -> tuple[bytes, int, int]:
    try:
        data = text.encode("latin-1")
    except UnicodeEncodeError:
        data = text.encode("utf-16-le", "replace")
        return data, 2, len(data) // 2 | UTF16_TAG
    return data, 2, len(data)


def _from_either(length: int) -> tuple[int, int, str]:
    if length & UTF16_TAG:
        return 2 * (length ^ UTF16_TAG), 2, "utf-16-le"
    return length, 2, "latin-1"


ENCODINGS = {
    "utf8": Encoding(_to_utf8, _from_utf8),
    "utf16": Encoding(_to_utf16, _from_utf16),
    "latin1+utf16": Encoding(_to_either, _from_either),
}
"""By the names of the component model."""
