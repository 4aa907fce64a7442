"""SMTP smuggling: a CR or LF that stands alone ends no message and no command, and never comes through."""

from __future__ import annotations

import pytest

from tests.actors.smtp.driver import ENVELOPE, GREETED, Client, bytewise, greeted, ready, run

SMUGGLED = b"MAIL FROM:<evil@example.net>\r\nRCPT TO:<victim@example.org>\r\nDATA\r\nsmuggled\r\n"

NOT_THE_END = [
    b"\n.\n",
    b"\n.\r\n",
    b"\r\n.\n",
    b"\r.\r",
    b"\r.\r\n",
    b"\r\n.\r",
    b"\r.\n",
    b"\n.\r",
    b"\r\r\n.\r\r\n",
    b"\r\n.\r\r\n",
    b"\r\n\r.\r\n",
    b"\r\n\n.\r\n",
    b"\n\n.\n\n",
    b"\n\r.\n\r",
    b"\r\n.\n\r\n",
    b"\r\n..\n\r\n",
]
FAULTLESS_LOOKALIKES = [
    b"\r\n..\r\n",
    b"\r\n. \r\n",
    b"\r\n.\0\r\n",
    b"\r\n\0.\r\n",
    b"\r\n.\x85\r\n",
    b"\r\n.\x0b\x0c\r\n",
]
"""Not the end either, and no bare CR or LF in them."""


def pieces_of(data: bytes, *, is_split: bool) -> list[bytes]:
    return list(bytewise(data)) if is_split else [data]


@pytest.mark.parametrize("is_split", [False, True], ids=["whole", "bytewise"])
@pytest.mark.parametrize("ending", NOT_THE_END, ids=repr)
def test_only_crlf_dot_crlf_ends_the_data_and_the_message_is_refused_after_it(ending: bytes, is_split: bool) -> None:
    client = ready()
    client.send(b"DATA\r\n")
    for piece in pieces_of(b"innocent" + ending + SMUGGLED, is_split=is_split):
        assert client.send(piece) == b""
    assert client.codes(b".\r\n") == ["550 5.6.0"]
    assert client.messages == []
    assert client.codes(b"NOOP\r\n") == ["250 2.0.0"]


@pytest.mark.parametrize("is_split", [False, True], ids=["whole", "bytewise"])
@pytest.mark.parametrize("ending", FAULTLESS_LOOKALIKES, ids=repr)
def test_what_only_looks_like_the_end_is_part_of_the_message(ending: bytes, is_split: bool) -> None:
    client = ready()
    client.send(b"DATA\r\n")
    for piece in pieces_of(b"innocent" + ending + SMUGGLED, is_split=is_split):
        assert client.send(piece) == b""
    assert client.codes(b".\r\n") == ["250 2.0.0"]
    expected = (b"innocent" + ending + SMUGGLED).replace(b"\r\n.", b"\r\n").replace(b"\r\n", b"\n")
    assert client.contents == [expected]


@pytest.mark.parametrize("ending", NOT_THE_END, ids=repr)
def test_what_follows_the_real_end_is_a_command_again(ending: bytes) -> None:
    client = ready()
    codes = client.codes(b"DATA\r\ninnocent" + ending + b"\r\n.\r\n" + ENVELOPE + b"DATA\r\nhonest\r\n.\r\n")
    assert codes == ["354", "550 5.6.0", "250 2.1.0", "250 2.1.5", "354", "250 2.0.0"]
    assert client.contents == [b"honest\n"]


@pytest.mark.parametrize("bare", [b"\r", b"\n", b"\r\r\n", b"\n\r"], ids=repr)
@pytest.mark.parametrize("place", ["first", "middle", "last"])
def test_a_bare_cr_or_lf_in_a_chunk_refuses_the_message(bare: bytes, place: str) -> None:
    text = {"first": bare + b"x\r\n", "middle": b"x" + bare + b"y\r\n", "last": b"x\r\ny" + bare}[place]
    if text.endswith(b"\r\r\n"):
        text += b"\r"
    for pieces in ([text], bytewise(text)):
        client = ready()
        client.send(b"BDAT %d LAST\r\n" % len(text))
        for piece in pieces:
            client.send(piece)
        assert client.output.endswith(
            b"550 5.6.0 The message has a CR or LF that stands alone; a line ends with both\r\n"
        )
        assert client.messages == []


def test_a_line_end_that_two_chunks_share_is_whole() -> None:
    client = ready()
    assert client.codes(b"BDAT 2\r\nx\rBDAT 2 LAST\r\n\ny") == ["250 2.0.0", "250 2.0.0"]
    assert client.contents == [b"x\ny\n"]


def test_a_cr_and_an_lf_with_a_chunk_between_them_are_not_a_line_end() -> None:
    client = ready()
    assert client.codes(b"BDAT 2\r\nx\rBDAT 1\r\nzBDAT 2 LAST\r\n\ny")[-1] == "550 5.6.0"


@pytest.mark.parametrize("is_split", [False, True], ids=["whole", "bytewise"])
@pytest.mark.parametrize("bare", [b"\n", b"\r", b"\n\n", b"\r\r"], ids=repr)
def test_a_command_with_a_bare_cr_or_lf_is_one_refused_command(bare: bytes, is_split: bool) -> None:
    client = greeted()
    client.output = b""
    for piece in pieces_of(b"NOOP" + bare + b"MAIL FROM:<evil@example.net>\r\n", is_split=is_split):
        client.send(piece)
    assert client.output.count(b"\r\n") == 1
    assert client.output.startswith(b"500 5.5.2 A line ends with CR LF")
    assert client.codes(b"RCPT TO:<b@example.org>\r\nNOOP\r\n") == ["503 5.5.1", "250 2.0.0"]


@pytest.mark.parametrize("line", [b"EHLO x\n", b"EHLO\rx", b"EHLO x\r\r"], ids=repr)
def test_who_ends_a_line_with_another_end_is_told_at_once(line: bytes) -> None:
    assert Client().codes(line) == ["500 5.5.2"]


@pytest.mark.parametrize("data", [b"BDAT 6 LAST\nQUIT\r\n", b"BDAT 6 LAST\nQUIT", b"bdat 6 LAST\n"], ids=repr)
def test_a_bare_lf_before_bdat_does_not_turn_its_chunk_into_commands(data: bytes) -> None:
    client = ready()
    assert client.codes(data) == ["500 5.5.2"]
    assert client.is_closed
    assert client.send(b"MAIL FROM:<>\r\n") == b""


@pytest.mark.parametrize("control", [b"\0", b"\t", b"\x1b", b"\x7f", "\x85".encode()], ids=repr)
@pytest.mark.parametrize("command", [b"NOOP %s", b"MAIL FROM:<a%s@example.net>", b'MAIL FROM:<"a%s"@x.org>', b"%sNOOP"])
def test_a_command_with_a_control_character_is_refused(command: bytes, control: bytes) -> None:
    client = greeted()
    assert client.codes(command % control + b"\r\n") == ["500 5.5.2"]
    assert client.codes(b"NOOP\r\n") == ["250 2.0.0"]


def test_a_stray_line_end_inside_a_group_of_commands_stops_nothing_after_its_own_line() -> None:
    client = run([GREETED + b"NO\nOP\r\n" + ENVELOPE + b"DATA\r\nx\r\n.\r\n"])
    assert client.contents == [b"x\n"]
