"""A message as it goes over the wire."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from actors.smtp.content import Content as ReceivedContent
from actors.smtp_client.content import Content

text = st.lists(st.sampled_from([b"a", b".", b"\r", b"\n", b"\r\n", b"\xc3\xa9", b"line"])).map(b"".join)


def wire(message: bytes, size: int = 65_536) -> bytes:
    return b"".join(Content(message).pieces(size))


@pytest.mark.parametrize(
    ("message", "sent"),
    [
        (b"", b".\r\n"),
        (b"a\r\n", b"a\r\n.\r\n"),
        (b"a", b"a\r\n.\r\n"),
        (b".", b"..\r\n.\r\n"),
        (b".\r\n", b"..\r\n.\r\n"),
        (b"a\r\n.\r\nb\r\n", b"a\r\n..\r\nb\r\n.\r\n"),
        (b"a\n.\nb\n", b"a\r\n..\r\nb\r\n.\r\n"),
        (b"a\r.\rb\r", b"a\r\n..\r\nb\r\n.\r\n"),
        (b"a\n.\r\nMAIL FROM:<x@y>\r\n", b"a\r\n..\r\nMAIL FROM:<x@y>\r\n.\r\n"),
        (b"a\r\n.\nRCPT TO:<x@y>", b"a\r\n..\r\nRCPT TO:<x@y>\r\n.\r\n"),
        (b"a..b\r\n...\r\n", b"a..b\r\n....\r\n.\r\n"),
        (b"\r\r\n\n", b"\r\n\r\n\r\n.\r\n"),
    ],
)
def test_lines_end_with_cr_lf_and_dots_are_stuffed(message: bytes, sent: bytes) -> None:
    assert wire(message) == sent


@given(text, st.integers(1, 7))
def test_the_pieces_are_the_same_message_however_small_they_are(message: bytes, size: int) -> None:
    assert wire(message, size) == wire(message)


@given(text)
def test_no_line_end_stands_alone_and_the_message_ends_once(message: bytes) -> None:
    sent = wire(message)
    assert b"\r" not in sent.replace(b"\r\n", b"")
    assert b"\n" not in sent.replace(b"\r\n", b"")
    assert (b"\r\n" + sent).find(b"\r\n.\r\n") == len(sent) - 3


@given(text, st.integers(1, 7))
def test_a_server_reads_the_message_that_was_sent_and_its_size_is_as_announced(message: bytes, size: int) -> None:
    received = ReceivedContent(1_000_000, 1_000_000)
    sent = wire(message, size)
    assert received.receive_data(sent) == len(sent)
    assert not received.is_faulty
    lines = message.replace(b"\r\n", b"\n").replace(b"\r", b"\n")
    if lines and not lines.endswith(b"\n"):
        lines += b"\n"
    assert b"".join(received.take()) == lines
    assert Content(message).size == received.size


def test_the_dot_that_ends_it_is_in_the_last_piece_alone() -> None:
    pieces = list(Content(b"0123456789\r\n" * 10).pieces(50))
    assert len(pieces) == 3
    assert [piece.endswith(b"\r\n.\r\n") for piece in pieces] == [False, False, True]


@pytest.mark.parametrize(
    ("message", "header"),
    [
        (b"A: b\r\nC: d\r\n\r\nbody\r\n\r\nmore", b"A: b\r\nC: d"),
        (b"A: b\nC: d\n\nbody\n\nmore", b"A: b\nC: d"),
        (b"A: b\rC: d\r\rbody", b"A: b\rC: d"),
        (b"A: b\r\n\nbody", b"A: b"),
        (b"\r\nbody\r\n\r\nmore", b""),
        (b"\nbody", b""),
        (b"A: b\r\n", b"A: b\r\n"),
        (b"", b""),
    ],
)
def test_the_header_goes_up_to_the_first_empty_line(message: bytes, header: bytes) -> None:
    assert Content(message).header == header


def test_a_byte_beyond_ascii_is_noticed_wherever_it_is() -> None:
    assert not Content(b"A: b\r\n\r\nbody").is_8bit
    assert Content("A: b\r\n\r\nschön".encode()).is_8bit
    assert Content(b"A: \xfc\r\n\r\nbody").is_8bit
