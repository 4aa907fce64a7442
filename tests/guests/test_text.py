"""The encodings of a guest's texts."""

from __future__ import annotations

import pytest

from theater_tcp.guest.text import ENCODINGS


@pytest.mark.parametrize("name", ENCODINGS)
@pytest.mark.parametrize("text", ["", "a", "grüße", "\u20ac", "\U0001f600", "a\0b"])
def test_a_text_comes_back_as_it_was(name: str, text: str) -> None:
    encoding = ENCODINGS[name]
    data, alignment, length = encoding.encode(text)
    size, decoded_alignment, codec = encoding.decode(length)
    assert (size, decoded_alignment) == (len(data), alignment)
    assert data.decode(codec) == text


@pytest.mark.parametrize("name", ENCODINGS)
def test_what_no_encoding_has_becomes_a_question_mark(name: str) -> None:
    encoding = ENCODINGS[name]
    for text in ("a\udc80b", "\ud800", "\u20ac\udfff"):
        data, _, length = encoding.encode(text)
        _, _, codec = encoding.decode(length)
        assert data.decode(codec) == "".join("?" if "\ud800" <= each <= "\udfff" else each for each in text)
