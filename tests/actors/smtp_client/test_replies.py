"""The replies of a server: what is one, and what is none."""

from __future__ import annotations

import itertools

import pytest
from hypothesis import given
from hypothesis import strategies as st

from actors.smtp_client.replies import BadReply, Reply, ReplyReader

LIMITS = (4096, 128, 65_536)


def read(*pieces: bytes, limits: tuple[int, int, int] = LIMITS) -> list[Reply]:
    """All whole replies in the pieces."""
    reader = ReplyReader(*limits)
    replies = []
    for piece in pieces:
        reader.feed(piece)
        while (reply := reader.next()) is not None:
            replies.append(reply)
    return replies


def reason(*pieces: bytes, limits: tuple[int, int, int] = LIMITS) -> str:
    """Why they are no replies."""
    with pytest.raises(BadReply) as refused:
        read(*pieces, limits=limits)
    return str(refused.value)


@pytest.mark.parametrize(
    ("line", "reply"),
    [
        (b"250 ok\r\n", Reply(250, ("ok",))),
        (b"250\r\n", Reply(250, ("",))),
        (b"250 \r\n", Reply(250, ("",))),
        (b"571 delivery not authorized\r\n", Reply(571, ("delivery not authorized",))),
        (b"250 tab\there\r\n", Reply(250, ("tab here",))),
        ("550 gibt es nicht: ü\r\n".encode(), Reply(550, ("gibt es nicht: ü",))),
        (b"550 \xfc \xe2\x80\xae\r\n", Reply(550, ("\ufffd \ufffd",))),
    ],
)
def test_a_line_is_a_code_and_a_text_that_can_be_shown(line: bytes, reply: Reply) -> None:
    assert read(line) == [reply]


def test_a_reply_may_have_several_lines() -> None:
    assert read(b"250-one\r\n250-\r\n250 three\r\n220 x\r\n") == [Reply(250, ("one", "", "three")), Reply(220, ("x",))]


@pytest.mark.parametrize(
    ("lines", "enhanced", "text"),
    [
        (("5.1.1 no such user",), "5.1.1", "no such user"),
        (("5.1.1 no", "5.1.1 such", "user"), "5.1.1", "no such user"),
        (("5.1.1",), "5.1.1", ""),
        (("4.1.1 no such user",), "", "4.1.1 no such user"),
        (("5.1 no",), "", "5.1 no"),
        (("5.1.1.1 no",), "", "5.1.1.1 no"),
        (("5.1.1no",), "", "5.1.1no"),
        (("no such user",), "", "no such user"),
    ],
)
def test_an_enhanced_code_is_known_where_it_agrees_with_the_code(
    lines: tuple[str, ...], enhanced: str, text: str
) -> None:
    reply = Reply(550, lines)
    assert (reply.enhanced, reply.text) == (enhanced, text)
    assert str(reply) == " ".join(filter(None, ("550", enhanced, text)))


@pytest.mark.parametrize(
    "line",
    [
        b"",
        b"25 ok",
        b"2500 ok",
        b"250ok",
        b"ok",
        b"150 ok",
        b"650 ok",
        b"250+ok",
        b" 250 ok",
        b"+OK",
        b"\xb2\xb5\xb0 ok",
    ],
)
def test_a_line_without_a_proper_code_is_no_reply(line: bytes) -> None:
    assert "begins with a code of three digits" in reason(line + b"\r\n")


def test_the_code_stays_the_same_within_a_reply() -> None:
    assert reason(b"250-one\r\n550 two\r\n") == "the lines of a reply have the codes 250 and 550"
    assert read(b"250-one\r\n250 two\r\n550 three\r\n")[1].code == 550


@pytest.mark.parametrize("byte", [b"\n", b"\r", b"\0", b"\x1b", b"\x7f", b"\x08"])
@pytest.mark.parametrize("frame", [b"250 a%sb\r\n", b"%s250 ok\r\n", b"25%s0 ok\r\n", b"250 ok%s\r\n", b"250 a%sb"])
def test_a_control_character_is_refused_wherever_it_is(frame: bytes, byte: bytes) -> None:
    assert reason(frame % byte) == "a reply has a control character in it"


def test_a_bare_line_feed_is_refused_before_the_line_ends() -> None:
    assert reason(b"250 ok\n") == "a reply has a control character in it"


def test_a_carriage_return_may_be_the_last_byte_that_has_come() -> None:
    assert read(b"250 ok\r", b"\n") == [Reply(250, ("ok",))]
    assert reason(b"250 ok\r", b"\r\n") == "a reply has a control character in it"


def test_a_line_has_a_limit_which_holds_before_it_ends() -> None:
    limits = (512, 128, 65_536)
    longest = b"250 " + b"x" * 506 + b"\r\n"
    assert len(read(longest, limits=limits)) == 1
    assert len(read(*(bytes([byte]) for byte in longest), limits=limits)) == 1
    assert reason(b"250 " + b"x" * 507 + b"\r\n", limits=limits) == "a reply has a line of more than 512 octets"
    assert reason(b"250 " + b"x" * 507, limits=limits) == "a reply has a line of more than 512 octets"


def test_a_reply_has_a_limit_of_lines() -> None:
    assert len(read(b"250-x\r\n" * 31 + b"250 x\r\n", limits=(4096, 32, 65_536))) == 1
    assert reason(b"250-x\r\n" * 33, limits=(4096, 32, 65_536)) == "a reply has more than 32 lines"


def test_a_reply_has_a_limit_of_octets_and_the_next_one_has_it_for_itself() -> None:
    line = b"250-" + b"x" * 494 + b"\r\n"
    whole = line * 7 + line.replace(b"-", b" ")
    assert len(read(whole * 3, limits=(512, 128, 4000))) == 3
    for end in (line + b"250 \r\n", b"250 " + b"x" * 495 + b"\r\n"):
        assert reason(line * 7 + end, limits=(512, 128, 4000)) == "a reply has more than 4000 octets"


def test_it_can_be_told_whether_more_came_than_the_replies_that_were_taken() -> None:
    reader = ReplyReader(*LIMITS)
    reader.feed(b"250 ok\r\n2")
    assert reader.next() is not None
    assert reader.has_begun
    reader.feed(b"50-ok\r\n")
    assert reader.next() is None
    assert reader.has_begun
    reader.feed(b"250 ok\r\n")
    assert reader.next() is not None
    assert not reader.has_begun


REPLIES = b"250-mx\r\n250-PIPELINING\r\n250 8BITMIME\r\n250 2.1.0 ok\r\n550 5.1.1 no\r\n354 go\r\n"


@given(st.lists(st.integers(0, len(REPLIES))))
def test_replies_are_the_same_wherever_the_network_cuts_them(cuts: list[int]) -> None:
    places = [0, *sorted(cuts), len(REPLIES)]
    assert read(*(REPLIES[a:b] for a, b in itertools.pairwise(places))) == read(REPLIES)


def test_replies_are_the_same_byte_by_byte() -> None:
    assert read(*(bytes([byte]) for byte in REPLIES)) == read(REPLIES)


@given(st.lists(st.binary(max_size=40) | st.sampled_from([b"250-x\r\n", b"250 x\r\n", b"\r\n", b"\r", b"250"])))
def test_whatever_comes_is_a_reply_or_refused_in_one_line(pieces: list[bytes]) -> None:
    try:
        shown = list(map(str, read(*pieces)))
    except BadReply as refused:
        shown = [str(refused)]
    assert all(map(str.isprintable, shown))
