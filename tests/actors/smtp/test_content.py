"""The content of a message by itself: its end, its faults, what is held of it."""

from __future__ import annotations

import itertools

import pytest
from hypothesis import given
from hypothesis import strategies as st

from actors.smtp import replies
from actors.smtp.content import Content
from tests.actors.smtp.driver import bytewise


def received(data: bytes, *, max_size: int = 10_000, max_line: int = 1000, is_split: bool = False) -> Content:
    """A content that got all of it, the end included."""
    content = Content(max_size, max_line)
    pieces = bytewise(data) if is_split else [data]
    taken = [content.receive_data(piece) for piece in pieces]
    assert all(count == -1 for count in taken[:-1])
    assert taken[-1] == len(pieces[-1])
    return content


def chunked(*chunks: bytes, max_line: int = 1000) -> Content:
    content = Content(10_000, max_line)
    for chunk in chunks:
        content.receive_chunk(chunk)
    content.end_chunks()
    return content


def test_it_says_how_many_octets_belong_to_the_message() -> None:
    content = Content(10_000, 1000)
    assert content.receive_data(b"a\r\nb") == -1
    assert content.receive_data(b"c\r\n.") == -1
    assert content.receive_data(b"\r\nNOOP\r\n") == 2
    assert b"".join(content.take()) == b"a\nbc\n"
    assert content.size == 7


def test_the_end_may_be_the_first_line() -> None:
    content = Content(10_000, 1000)
    assert content.receive_data(b".\r\nNOOP\r\n") == 3
    assert b"".join(content.take()) == b""
    assert content.size == 0


def test_what_came_in_small_pieces_is_not_held_in_small_pieces() -> None:
    content = Content(1_000_000, 1000)
    for chunk in [b"a\r\n"] * 10_000 + [(b"x" * 98 + b"\r\n") * 100] + [b"b\r\n"] * 10_000:
        content.receive_chunk(chunk)
    taken = content.take()
    assert len(taken) < 10
    assert b"".join(taken) == b"a\n" * 10_000 + (b"x" * 98 + b"\n") * 100 + b"b\n" * 10_000


def test_what_is_taken_is_no_longer_held() -> None:
    content = Content(10_000, 1000)
    content.receive_data(b"a\r\nb\r\nc")
    assert content.held == 4
    assert content.take() == (b"a\nb\n",)
    assert content.held == 0
    assert content.take() == ()
    content.receive_data(b"\r\n.\r\n")
    assert content.take() == (b"c\n",)


@pytest.mark.parametrize("is_split", [False, True], ids=["whole", "bytewise"])
@pytest.mark.parametrize(
    ("data", "refusal"),
    [
        (b"x" * 998 + b"\r\n.\r\n", None),
        (b"." + b"." + b"x" * 997 + b"\r\n.\r\n", None),
        (b"x" * 999 + b"\r\n.\r\n", replies.TEXT_LINE_TOO_LONG),
        (b"." + b"." + b"x" * 998 + b"\r\n.\r\n", replies.TEXT_LINE_TOO_LONG),
        (b"x" * 5000 + b"\r\n.\r\n", replies.TEXT_LINE_TOO_LONG),
        (b"x" * 5000 + b"\r\r\n.\r\n", replies.BARE_NEWLINE_IN_TEXT),
        (b"x" * 5000 + b"\n\r\n.\r\n", replies.BARE_NEWLINE_IN_TEXT),
        (b"x" * 500 + b"\n" + b"x" * 5000 + b"\r\n.\r\n", replies.BARE_NEWLINE_IN_TEXT),
        (b"a\nb\r\n" + b"x" * 20_000 + b"\r\n.\r\n", replies.TOO_LARGE),
        (b"x" * 9_998 + b"\r\n.\r\n", replies.TEXT_LINE_TOO_LONG),
        (b"x" * 9_999 + b"\r\n.\r\n", replies.TOO_LARGE),
        (b"." + b"." + b"x" * 9_997 + b"\r\n.\r\n", replies.TEXT_LINE_TOO_LONG),
        (b"." + b"." + b"x" * 9_998 + b"\r\n.\r\n", replies.TOO_LARGE),
    ],
    ids=lambda value: f"{value[:3]!r}..{len(value)}" if isinstance(value, bytes) else "none",
)
def test_a_fault_is_reported_alike_however_the_message_came(data: bytes, refusal: bytes | None, is_split: bool) -> None:
    content = received(data, is_split=is_split)
    assert content.refusal == refusal
    assert content.is_faulty is (refusal is not None)


@pytest.mark.parametrize("place", [1, 998, 999, 1000, 1001, 1002, 1003, 1004, 1500])
def test_a_line_that_is_too_long_may_be_cut_between_its_cr_and_its_lf(place: int) -> None:
    content = Content(10_000, 1000)
    content.receive_data(b"x" * place + b"\r")
    assert content.receive_data(b"\n" + b"y" * 1000 + b"\r\n.\r\n") == 1006
    assert content.refusal == replies.TEXT_LINE_TOO_LONG


@pytest.mark.parametrize(
    ("fault", "refusal"),
    [
        (b"bare\n\r\n", replies.BARE_NEWLINE_IN_TEXT),
        (b"x" * 1500, replies.TEXT_LINE_TOO_LONG),
        ((b"x" * 98 + b"\r\n") * 100, replies.TOO_LARGE),
    ],
    ids=["bare", "long", "large"],
)
def test_of_a_faulty_message_nothing_is_held(fault: bytes, refusal: bytes) -> None:
    content = Content(10_000, 1000)
    content.receive_data(b"fine\r\n")
    assert content.held == 5
    content.receive_data(fault)
    assert content.refusal == refusal
    assert content.held == 0
    assert content.take() == ()
    content.receive_data(b"\r\nmore\r\nof it\r\n")
    assert content.held == 0


def test_of_a_line_without_end_only_a_bounded_part_is_held() -> None:
    content = Content(10_000, 1000)
    for _ in range(100):
        content.receive_data(b"x" * 700)
        assert len(content._carry) < 1010
    assert content.refusal == replies.TOO_LARGE


def test_a_failure_from_outside_refuses_the_message_with_its_own_reply() -> None:
    content = Content(10_000, 1000)
    content.receive_data(b"fine\r\nbare\n\r\n")
    content.fail(b"452 4.3.1 full\r\n")
    assert content.receive_data(b".\r\n") == 3
    assert content.refusal == b"452 4.3.1 full\r\n"


def test_chunks_have_no_end_marker_and_no_stuffing() -> None:
    content = chunked(b"a\r\n.\r\n", b"..b\r\n")
    assert b"".join(content.take()) == b"a\n.\n..b\n"
    assert content.size == 11


@pytest.mark.parametrize("chunks", [(), (b"",), (b"a\r\n",), (b"a",), (b"a\r", b"\n"), (b"a", b"", b"b")])
def test_a_last_line_of_chunks_gets_its_end_and_no_more(chunks: tuple[bytes, ...]) -> None:
    content = chunked(*chunks)
    text = b"".join(chunks)
    assert content.size == len(text)
    assert b"".join(content.take()) == text.removesuffix(b"\r\n").replace(b"\r\n", b"\n") + (b"\n" if text else b"")


@pytest.mark.parametrize(
    ("text", "refusal"),
    [
        (b"a\r", replies.BARE_NEWLINE_IN_TEXT),
        (b"a\n", replies.BARE_NEWLINE_IN_TEXT),
        (b"x" * 998, None),
        (b"x" * 999, replies.TEXT_LINE_TOO_LONG),
        (b"x" * 5000 + b"\r", replies.BARE_NEWLINE_IN_TEXT),
        (b"x" * 5000 + b"\n", replies.BARE_NEWLINE_IN_TEXT),
        (b"x" * 5000, replies.TEXT_LINE_TOO_LONG),
    ],
    ids=repr,
)
def test_a_fault_in_the_last_line_of_chunks_is_found(text: bytes, refusal: bytes | None) -> None:
    assert chunked(text).refusal == refusal
    assert chunked(*bytewise(text)).refusal == refusal


LINES = st.lists(st.binary(max_size=20).map(lambda line: line.replace(b"\r", b"").replace(b"\n", b"")), max_size=20)


@given(lines=LINES, cuts=st.lists(st.integers(0, 500), max_size=5))
def test_what_was_stuffed_by_the_rule_comes_out_as_it_was(lines: list[bytes], cuts: list[int]) -> None:
    stuffed = b"".join((b"." + line if line.startswith(b".") else line) + b"\r\n" for line in lines) + b".\r\n"
    content = Content(100_000, 1000)
    places = sorted({cut % (len(stuffed) + 1) for cut in cuts} | {0, len(stuffed)})
    for begin, end in itertools.pairwise(places):
        content.receive_data(stuffed[begin:end])
    assert b"".join(content.take()) == b"".join(line + b"\n" for line in lines)
    assert content.size == sum(len(line) + 2 for line in lines)
