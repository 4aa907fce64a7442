"""What can be submitted, and that nothing in it becomes a command."""

from __future__ import annotations

from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from actors.smtp_client import Submission
from tests.actors.smtp_client.driver import MESSAGE, HonestServer, Talk, converse
from theater_tcp.errors import InvalidArgument


def reason(sender: Any = "a@b", recipients: Any = ("c@d",), message: Any = MESSAGE) -> str:
    """Why it is refused."""
    with pytest.raises(InvalidArgument) as refused:
        Submission(sender, recipients, message)
    assert str(refused.value).startswith("invalid: ")
    assert str(refused.value).isprintable()
    return refused.value.detail


@pytest.mark.parametrize(
    "address",
    [
        "a@example.org",
        "first.last+tag=x@example.org",
        "a..b@example.org",
        '"two words"@example.org',
        '"a@b\\"c"@example.org',
        "a@[192.0.2.1]",
        "a@[IPv6:2001:db8::1]",
        "a@under_score.example",
        "用户@例子.example",
    ],
)
def test_an_address_has_a_local_part_and_a_domain(address: str) -> None:
    assert Submission(address, [address], MESSAGE).recipients == (address,)


@pytest.mark.parametrize(
    "address",
    [
        "",
        "a",
        "@b",
        "a@",
        "a b@c",
        "a@b c",
        "<a@b>",
        "a@b>",
        "a@b> SIZE=0",
        '"a>b"@c',
        '"a\\>b"@c',
        '"a"b"@c',
        '"a\\"@c',
        "a@b,c@d",
        "@relay:a@b",
        "a@b\r\nRCPT TO:<x@y>",
        "a@b\n",
        "a@b\r",
        "a\0@b",
        '"a\tb"@c',
        "a@b\x7f",
        "a@b\u0085",
        "a@b\u2028",
        "a@b\ud800",
        "a@[1.2.3.4",
        "a@[1.2 3.4]",
    ],
)
def test_what_is_no_address_is_refused_by_its_place(address: str) -> None:
    assert reason(recipients=["c@d", address]).startswith("recipients[1]: ")
    if address:
        assert reason(sender=address).startswith("sender: ")


def test_a_sender_may_be_empty_and_a_recipient_may_be_postmaster() -> None:
    submission = Submission("", ["postmaster", "Postmaster"], b"")
    assert submission.recipients == ("postmaster", "Postmaster")
    assert reason(sender="postmaster") == "sender: 'postmaster' is no address of the form local@domain"


def test_an_address_has_at_most_254_octets() -> None:
    Submission("ü" * 125 + "@abc", ["c@d"], MESSAGE)
    assert reason("ü" * 125 + "@abcd") == "sender: an address has at most 254 octets"


def test_a_recipient_that_is_named_twice_counts_once() -> None:
    assert Submission("", ["c@d", "e@f", "c@d"], MESSAGE).recipients == ("c@d", "e@f")


@pytest.mark.parametrize(
    ("changes", "words"),
    [
        ({"recipients": []}, "recipients: there is none"),
        ({"recipients": "c@d"}, "recipients: expected a list of addresses"),
        ({"recipients": 5}, "recipients: expected a list of addresses"),
        ({"recipients": ["c@d", 5]}, "recipients[1]: expected a text, got int"),
        ({"sender": None}, "sender: expected a text, got NoneType"),
        ({"message": "text"}, "message: expected bytes, got str"),
        ({"message": b"A: \xfc\r\n\r\n"}, "message: its header is neither ASCII nor UTF-8 (RFC 6532, 3.2)"),
    ],
)
def test_what_cannot_be_sent_is_refused_with_the_reason(changes: dict[str, Any], words: str) -> None:
    assert reason(**changes) == words


def test_it_is_told_what_the_server_has_to_know_for_it() -> None:
    assert not Submission("a@b", ["c@d"], b"A: b\r\n\r\n\xfc").is_utf8
    assert Submission("a@b", ["c@d"], "A: ü\r\n\r\n".encode()).is_utf8
    assert Submission("ü@b", ["c@d"], b"").is_utf8
    assert Submission("a@b", ["c@d", "c@ü"], b"").is_utf8


@given(st.text() | st.text(alphabet='ab@".<>\\ \r\n\0[]é'), st.binary())
def test_whatever_the_caller_names_the_server_hears_one_mail_one_rcpt_and_one_message(
    address: str, message: bytes
) -> None:
    try:
        submission = Submission(address, [address], message)
    except InvalidArgument:
        return
    talk = Talk(submission)
    server = HonestServer()
    converse(talk, server)
    assert len(server.messages) == 1
    commands = talk.said.replace(server.messages[0] + b".\r\n", b"").decode().split("\r\n")
    verbs = [command.partition(" ")[0] for command in commands]
    assert verbs == ["EHLO", "MAIL", "RCPT", "DATA", "QUIT", ""]
    assert commands[2] == f"RCPT TO:<{address}>"
