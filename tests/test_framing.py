"""Framing: however a stream is split on its way, the same chunks come out, and no errors but the documented ones."""

from __future__ import annotations

import itertools
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, invariant, rule

from theater_tcp.errors import InvalidArgument, LimitReached
from theater_tcp.framing import FRAMINGS, InputBuffer, frame, prefix_size

LIMIT = 200
PREFIXES = {"length-1": 1, "length-2": 2, "length-4": 4}
EVERY_FRAMING = pytest.mark.parametrize("framing", FRAMINGS)
EVERY_PREFIX = pytest.mark.parametrize(("framing", "size"), PREFIXES.items())

payloads = st.lists(st.binary(max_size=LIMIT), max_size=12)
lines = st.lists(st.binary(max_size=LIMIT - 1).map(lambda text: text.replace(b"\n", b"") + b"\n"), max_size=12)
cuts = st.lists(st.integers(1, 64), max_size=60)


def whole_chunks(buffer: InputBuffer, framing: str, limit: int = LIMIT) -> list[bytes]:
    """All chunks that the buffer gives now; what ``has_chunk`` says is checked on the way."""
    chunks: list[bytes] = []
    while True:
        promised = buffer.has_chunk(framing, limit)
        chunk = buffer.take(framing, limit)
        assert promised is (chunk is not None)
        if chunk is None:
            return chunks
        chunks.append(chunk)


def chunks_of(pieces: list[bytes], framing: str) -> tuple[list[bytes], bytes]:
    """The chunks of a stream that comes in these pieces, and what is left of it."""
    buffer = InputBuffer()
    chunks = []
    for piece in pieces:
        buffer.feed(piece)
        chunks += whole_chunks(buffer, framing)
    return chunks, buffer.take_rest()


def split(stream: bytes, sizes: list[int]) -> list[bytes]:
    """The stream in pieces of these sizes, the rest in one."""
    bounds = [0, *itertools.accumulate(sizes), len(stream)]
    return [stream[start:end] for start, end in itertools.pairwise(sorted(min(bound, len(stream)) for bound in bounds))]


def wire(payload: bytes, framing: str) -> bytes:
    return frame(payload, framing)


# -- every way to split a stream ----------------------------------------------------------------------------------


@EVERY_PREFIX
@given(payloads=payloads, sizes=cuts, trailing=st.binary(max_size=3))
def test_length_prefixed_frames_come_out_whole_however_they_are_split(
    framing: str, size: int, payloads: list[bytes], sizes: list[int], trailing: bytes
) -> None:
    trailing = trailing[: size - 1]  # less than a prefix
    stream = b"".join(wire(payload, framing) for payload in payloads) + trailing
    whole = [stream]
    byte_by_byte = [bytes([byte]) for byte in stream]
    for pieces in (whole, byte_by_byte, split(stream, sizes)):
        assert chunks_of(pieces, framing) == (payloads, trailing)


@given(lines=lines, sizes=cuts, trailing=st.binary(max_size=LIMIT - 1))
def test_lines_come_out_whole_with_their_ends_however_they_are_split(
    lines: list[bytes], sizes: list[int], trailing: bytes
) -> None:
    trailing = trailing.replace(b"\n", b"")
    stream = b"".join(lines) + trailing
    for pieces in ([stream], [bytes([byte]) for byte in stream], split(stream, sizes)):
        assert chunks_of(pieces, "line") == (lines, trailing)


@given(stream=st.binary(max_size=1000), sizes=cuts)
def test_raw_bytes_come_out_as_they_came_never_more_than_the_limit(stream: bytes, sizes: list[int]) -> None:
    chunks, rest = chunks_of(split(stream, sizes), "raw")
    assert (b"".join(chunks), rest) == (stream, b"")
    assert all(0 < len(chunk) <= LIMIT for chunk in chunks)


def test_a_line_ends_at_the_line_feed_and_keeps_what_stands_before_it() -> None:
    assert chunks_of([b"one\r\ntwo\n\n\r\nend"], "line") == ([b"one\r\n", b"two\n", b"\n", b"\r\n"], b"end")


@EVERY_PREFIX
def test_an_empty_frame_is_an_empty_chunk(framing: str, size: int) -> None:
    assert chunks_of([bytes(size), bytes(size)], framing) == ([b"", b""], b"")


@EVERY_PREFIX
def test_a_prefix_is_big_endian_and_not_counted(framing: str, size: int) -> None:
    assert frame(b"abc", framing) == bytes(size - 1) + b"\3abc"
    assert prefix_size(framing) == size


@pytest.mark.parametrize("framing", ["raw", "line"])
def test_what_is_sent_raw_or_by_line_goes_out_as_it_is(framing: str) -> None:
    assert frame(b"abc", framing) == b"abc"
    assert prefix_size(framing) == 0


@pytest.mark.parametrize("name", ["", "RAW", "length-3", "length", "lines"])
def test_a_framing_of_another_name_is_invalid_and_the_error_names_those_there_are(name: str) -> None:
    with pytest.raises(InvalidArgument) as caught:
        prefix_size(name)
    assert repr(name) in str(caught.value)
    assert all(known in str(caught.value) for known in FRAMINGS)


# -- limits ---------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(("framing", "largest"), [("length-1", 255), ("length-2", 65535)])
def test_a_payload_that_its_prefix_cant_tell_is_refused_when_it_is_sent(framing: str, largest: int) -> None:
    assert len(frame(bytes(largest), framing)) == largest + PREFIXES[framing]
    with pytest.raises(LimitReached, match=f"{largest + 1} bytes"):
        frame(bytes(largest + 1), framing)


@EVERY_PREFIX
def test_a_frame_of_the_limit_passes_and_a_longer_one_is_refused_by_its_prefix_alone(framing: str, size: int) -> None:
    buffer = InputBuffer()
    buffer.feed((20).to_bytes(size, "big") + bytes(20) + (21).to_bytes(size, "big"))
    assert buffer.take(framing, 20) == bytes(20)
    assert buffer.has_chunk(framing, 20)
    with pytest.raises(LimitReached, match="21 bytes"):
        buffer.take(framing, 20)


def test_a_line_of_the_limit_with_its_end_passes_and_a_longer_one_is_refused_before_its_end_has_come() -> None:
    buffer = InputBuffer()
    buffer.feed(b"a" * 19 + b"\n" + b"b" * 19)
    assert buffer.take("line", 20) == b"a" * 19 + b"\n"
    assert buffer.take("line", 20) is None
    buffer.feed(b"b")
    assert buffer.has_chunk("line", 20)
    with pytest.raises(LimitReached, match="20 bytes"):
        buffer.take("line", 20)


def test_a_line_end_beyond_the_limit_does_not_make_a_line() -> None:
    buffer = InputBuffer()
    buffer.feed(b"a" * 20 + b"\n")
    with pytest.raises(LimitReached):
        buffer.take("line", 20)


@EVERY_FRAMING
def test_what_was_refused_is_still_there(framing: str) -> None:
    buffer = InputBuffer()
    stream = b"\xff" * 64
    buffer.feed(stream)
    if framing != "raw":
        with pytest.raises(LimitReached):
            buffer.take(framing, 10)
    assert len(buffer) == len(stream)
    assert buffer.take_rest() == stream


# -- the buffer -----------------------------------------------------------------------------------------------------


@EVERY_FRAMING
def test_an_empty_buffer_has_nothing_in_any_framing(framing: str) -> None:
    buffer = InputBuffer()
    assert (len(buffer), buffer.has_chunk(framing, LIMIT), buffer.take(framing, LIMIT)) == (0, False, None)
    assert buffer.take_rest() == b""


def test_a_cleared_buffer_has_forgotten_everything_and_goes_on() -> None:
    buffer = InputBuffer()
    buffer.feed(b"one\ntwo")
    assert buffer.take("line", LIMIT) == b"one\n"
    assert buffer.take("line", LIMIT) is None
    buffer.clear()
    assert len(buffer) == 0
    buffer.feed(b"\nx")
    assert buffer.take("line", LIMIT) == b"\n"


def test_a_change_of_framing_cuts_what_is_unread_anew() -> None:
    buffer = InputBuffer()
    buffer.feed(b"BDAT 5\r\n\0\1x\3abcline\nrest")
    assert buffer.take("line", LIMIT) == b"BDAT 5\r\n"
    assert buffer.take("length-2", LIMIT) == b"x"
    assert buffer.take("length-1", LIMIT) == b"abc"
    assert buffer.take("raw", 2) == b"li"
    assert buffer.take("line", LIMIT) == b"ne\n"
    assert buffer.take("line", LIMIT) is None
    assert buffer.take("raw", LIMIT) == b"rest"


def test_a_line_end_that_was_passed_over_by_another_framing_is_found() -> None:
    buffer = InputBuffer()
    buffer.feed(b"abcdef")
    assert buffer.take("line", LIMIT) is None  # searched up to here
    assert buffer.take("raw", 3) == b"abc"
    buffer.feed(b"\n")
    assert buffer.take("line", LIMIT) == b"def\n"


def test_what_was_fed_may_change_afterwards_without_changing_what_is_taken() -> None:
    data: Any = bytearray(b"one\n")
    buffer = InputBuffer()
    buffer.feed(data)
    data[:] = b"two\n"
    assert buffer.take("line", LIMIT) == b"one\n"


class BufferBesideBytes(RuleBasedStateMachine):
    """An input buffer does what a plain string of bytes says, in any order of calls, framings and limits."""

    def __init__(self) -> None:
        super().__init__()
        self.buffer = InputBuffer()
        self.bytes = b""

    @rule(data=st.one_of(st.binary(max_size=40), st.sampled_from([b"a" * 40_000, b"b" * 70_000, b"\n" * 9])))
    def feed(self, data: bytes) -> None:
        self.buffer.feed(data)
        self.bytes += data

    @rule(framing=st.sampled_from(list(FRAMINGS)), limit=st.sampled_from([1, 2, 7, 30, 300, 65536]))
    def take(self, framing: str, limit: int) -> None:
        promised = self.buffer.has_chunk(framing, limit)
        try:
            wanted = self.cut(framing, limit)
        except LimitReached:
            assert promised
            with pytest.raises(LimitReached):
                self.buffer.take(framing, limit)
            return
        assert promised is (wanted is not None)
        assert self.buffer.take(framing, limit) == wanted

    def cut(self, framing: str, limit: int) -> bytes | None:
        """The simplest thing that could be right."""
        size = FRAMINGS[framing]
        if framing == "raw":
            end = start = 0
            end = min(len(self.bytes), limit)
            if not end:
                return None
        elif framing == "line":
            start, end = 0, self.bytes[:limit].find(b"\n") + 1
            if not end:
                if len(self.bytes) >= limit:
                    raise LimitReached
                return None
        else:
            start, end = size, size + int.from_bytes(self.bytes[:size], "big")
            if len(self.bytes) >= size and end - start > limit:
                raise LimitReached
            if len(self.bytes) < size or len(self.bytes) < end:
                return None
        chunk, self.bytes = self.bytes[start:end], self.bytes[end:]
        return chunk

    @rule()
    def take_rest(self) -> None:
        assert self.buffer.take_rest() == self.bytes
        self.bytes = b""

    @rule()
    def clear(self) -> None:
        self.buffer.clear()
        self.bytes = b""

    @invariant()
    def they_hold_the_same(self) -> None:
        assert len(self.buffer) == len(self.bytes)


TestBufferBesideBytes = BufferBesideBytes.TestCase
TestBufferBesideBytes.settings = settings(max_examples=50, stateful_step_count=40)


@EVERY_FRAMING
@given(pieces=st.lists(st.binary(max_size=50), max_size=20), limit=st.integers(1, 100))
def test_a_hostile_stream_gives_chunks_or_the_limit_and_no_other_error(
    framing: str, pieces: list[bytes], limit: int
) -> None:
    buffer = InputBuffer()
    for piece in pieces:
        buffer.feed(piece)
        try:
            chunks = whole_chunks(buffer, framing, limit)
        except LimitReached:
            return
        assert all(len(chunk) <= limit for chunk in chunks)


# -- work that grows with the bytes, not with their square -----------------------------------------------------------
# What is quadratic takes minutes here, and the time limit that every test has ends it.


@pytest.mark.parametrize("framing", ["line", "length-1", "length-4"])
def test_many_small_chunks_in_one_buffer_are_work_for_each_chunk_not_for_the_buffer(framing: str) -> None:
    chunk = b"x" * 249 + b"\n" if framing == "line" else frame(b"x" * 250, framing)
    buffer = InputBuffer()
    buffer.feed(chunk * (1 << 17))
    count = 0
    while buffer.take(framing, 250) is not None:
        count += 1
    assert count == 1 << 17
    assert len(buffer) == 0


def test_a_long_line_in_small_pieces_is_searched_once() -> None:
    pieces, piece = 1 << 16, b"0123456789abcdef" * 4
    buffer = InputBuffer()
    for _ in range(pieces):
        buffer.feed(piece)
        assert buffer.take("line", 1 << 30) is None
    buffer.feed(b"\n")
    line = buffer.take("line", 1 << 30)
    assert line is not None
    assert len(line) == pieces * len(piece) + 1


@pytest.mark.parametrize("framing", ["raw", "line", "length-2"])
def test_a_buffer_that_is_never_empty_does_not_keep_what_was_taken(framing: str) -> None:
    buffer = InputBuffer()
    chunk = b"x" * 999 + b"\n"
    piece = frame(chunk, framing)
    buffer.feed(piece[:500])
    for _ in range(1000):
        buffer.feed(piece[500:] + piece[:500])
        assert buffer.take(framing, 1000)
    assert len(buffer) <= len(piece)
    assert buffer.__sizeof__() + held_by(buffer) < 1 << 18


def held_by(buffer: InputBuffer) -> int:
    """Bytes of memory in its fields."""
    return sum(getattr(buffer, name).__sizeof__() for name in InputBuffer.__slots__)
