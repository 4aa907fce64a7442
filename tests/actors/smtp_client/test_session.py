"""The dialogue in plaintext: the order of commands, what becomes of each recipient, and servers that go wrong."""

from __future__ import annotations

from collections.abc import Iterable, Iterator

import pytest
from hypothesis import given
from hypothesis import strategies as st

from actors.smtp_client import Session, Step, Submission
from tests.actors.smtp_client.driver import (
    BARE,
    GREETING,
    MESSAGE,
    NAME,
    NO_PIPELINING,
    NO_TLS,
    SUBMISSION,
    HonestServer,
    Talk,
    converse,
    greeted,
    sending,
    settings,
)

EHLO = f"EHLO {NAME}\r\n".encode()
HELO = f"HELO {NAME}\r\n".encode()
MAIL = b"MAIL FROM:<a@example.net> SIZE=22\r\n"
RCPTS = b"RCPT TO:<b@example.org>\r\nRCPT TO:<c@example.org>\r\n"
QUIT = b"QUIT\r\n"
OK = b"250 ok\r\n"
GO_AHEAD = b"354 go\r\n"
ACCEPTED = "accepted: 250 2.0.0 Ok: queued as 7"
END = b"250 2.0.0 Ok: queued as 7\r\n"


# -- the order of commands ----------------------------------------------------------------------------------------


def test_nothing_is_said_before_the_greeting() -> None:
    talk = Talk()
    assert talk.hear(b"220-mx.example.org\r\n") == b""
    assert talk.hear(b"220 ready\r\n") == EHLO


def test_commands_go_out_together_where_the_server_takes_them_so() -> None:
    talk = greeted()
    assert talk.said == EHLO + MAIL + RCPTS + b"DATA\r\n"
    assert talk.hear(OK * 3 + GO_AHEAD) == MESSAGE + b".\r\n"
    assert talk.hear(END) == QUIT
    assert talk.summary == [ACCEPTED] * 2
    assert not talk.is_closed
    talk.hear(b"221 bye\r\n")
    assert talk.is_closed
    assert talk.receipt.is_accepted
    assert (talk.receipt.error, talk.receipt.tls) == ("", "")


def test_commands_go_out_one_by_one_where_the_server_says_nothing_of_it() -> None:
    talk = greeted(NO_PIPELINING)
    assert talk.said == EHLO + MAIL
    assert talk.hear(OK) == b"RCPT TO:<b@example.org>\r\n"
    assert talk.hear(OK) == b"RCPT TO:<c@example.org>\r\n"
    assert talk.hear(OK) == b"DATA\r\n"
    assert talk.hear(GO_AHEAD) == MESSAGE + b".\r\n"
    assert talk.hear(END) == QUIT
    assert talk.summary == [ACCEPTED] * 2


@pytest.mark.parametrize("code", [b"500", b"502", b"504", b"550"])
def test_a_server_that_does_not_know_ehlo_is_told_helo_and_no_parameters(code: bytes) -> None:
    talk = Talk()
    talk.hear(GREETING)
    assert talk.hear(code + b" what\r\n") == HELO
    assert talk.hear(b"250-mx\r\n250 SIZE 5\r\n") == b"MAIL FROM:<a@example.net>\r\n"


def test_the_null_sender_stands_in_empty_brackets() -> None:
    assert b"MAIL FROM:<> " in greeted(submission=Submission("", ["b@example.org"], MESSAGE)).said


def test_addresses_beyond_ascii_go_out_in_utf_8() -> None:
    talk = greeted(submission=Submission("ü@example.net", ["用户@example.org"], MESSAGE))
    assert "MAIL FROM:<ü@example.net> SMTPUTF8 SIZE=22\r\nRCPT TO:<用户@example.org>\r\n".encode() in talk.said


def test_without_a_name_of_its_own_it_says_the_address_it_comes_from() -> None:
    session = Session(settings(name=None), SUBMISSION)
    session.connected("[IPv6:::1]")
    step = session.receive(GREETING)
    assert step is not None
    assert step.output == b"EHLO [IPv6:::1]\r\n"


def test_of_many_recipients_no_more_than_a_hundred_commands_wait_at_one_time() -> None:
    many = Submission("a@example.net", [f"{number}@example.org" for number in range(1000)], MESSAGE)
    talk = greeted(submission=many)
    assert talk.steps[-1].output.count(b"\r\n") == 100
    said = b""
    for _ in range(902):
        assert said.count(b"\r\n") <= 1
        assert b"DATA" not in said
        said = talk.hear(OK)
    assert said == b"DATA\r\n"
    assert talk.hear(OK * 99) == b""
    assert talk.hear(GO_AHEAD).endswith(b".\r\n")
    talk.hear(END)
    assert talk.statuses == ["accepted"] * 1000


# -- each recipient -----------------------------------------------------------------------------------------------


def test_what_the_server_said_of_each_recipient_is_told() -> None:
    people = [f"{name}@example.org" for name in "abcde"]
    talk = greeted(submission=Submission("a@example.net", people, MESSAGE))
    talk.hear(
        OK + b"250 2.1.5 ok\r\n550-5.1.1 no such\r\n550 5.1.1 user\r\n452 4.5.3 too many\r\n251 will forward\r\n"
        b"553 what\r\n" + GO_AHEAD
    )
    talk.hear(END)
    assert [str(outcome) for outcome in talk.receipt.outcomes] == [
        "a@example.org: accepted: 250 2.0.0 Ok: queued as 7",
        "b@example.org: refused: 550 5.1.1 no such user",
        "c@example.org: refused: 452 4.5.3 too many",
        "d@example.org: accepted: 250 2.0.0 Ok: queued as 7",
        "e@example.org: refused: 553 what",
    ]
    assert [outcome.is_temporary for outcome in talk.receipt.outcomes] == [False, False, True, False, False]
    assert not talk.receipt.is_accepted
    assert talk.receipt.addresses("accepted") == ("a@example.org", "d@example.org")
    assert talk.receipt.addresses("unknown") == ()
    assert talk.receipt.error == ""


@pytest.mark.parametrize("hello", [NO_TLS, NO_PIPELINING, BARE], ids=["pipelining", "one by one", "bare"])
@pytest.mark.parametrize(
    ("replies", "summary"),
    [
        ({"MAIL": b"550 5.7.1 not you\r\n", "RCPT": b"503 5.5.1 x\r\n", "DATA": b"503 x\r\n"}, "550 5.7.1 not you"),
        ({"MAIL": b"451 4.3.0 later\r\n"}, "451 4.3.0 later"),
        ({"RCPT": b"550 5.1.1 nobody\r\n", "DATA": b"554 5.5.1 no valid recipients\r\n"}, "550 5.1.1 nobody"),
        ({"RCPT": b"450 4.2.0 greylisted\r\n"}, "450 4.2.0 greylisted"),
        ({"DATA": b"451 4.3.0 no room\r\n"}, "451 4.3.0 no room"),
        ({"END": b"550 5.7.1 spam\r\n"}, "550 5.7.1 spam"),
        ({"END": b"452 4.3.1 full\r\n"}, "452 4.3.1 full"),
    ],
    ids=["mail", "mail alone", "all recipients", "all recipients alone", "data", "message", "message for now"],
)
def test_a_refusal_counts_for_all_that_were_not_refused_before(
    hello: bytes, replies: dict[str, bytes], summary: str
) -> None:
    talk = Talk()
    server = HonestServer(hello, **replies)
    converse(talk, server)
    assert talk.summary == [f"refused: {summary}"] * 2
    assert talk.said.endswith(QUIT)
    assert talk.receipt.error == ""


def test_a_server_that_wants_a_message_for_nobody_gets_an_empty_one() -> None:
    talk = Talk()
    server = HonestServer(RCPT=b"550 5.1.1 nobody\r\n", END=b"250 thanks\r\n")
    converse(talk, server)
    assert server.messages == [b""]
    assert talk.summary == ["refused: 550 5.1.1 nobody"] * 2


def test_a_message_for_nobody_is_not_begun_where_the_answers_are_known_before() -> None:
    talk = Talk()
    converse(talk, HonestServer(NO_PIPELINING, RCPT=b"550 5.1.1 nobody\r\n"))
    assert b"DATA" not in talk.said


@pytest.mark.parametrize("greeting", [b"554 5.3.2 no service\r\n", b"450 4.3.2 busy\r\n"])
def test_a_server_that_greets_with_a_refusal_is_told_nothing_but_quit(greeting: bytes) -> None:
    talk = Talk()
    assert talk.hear(greeting) == QUIT
    assert talk.summary == ["refused: " + greeting.decode().strip()] * 2


@pytest.mark.parametrize("reply", [b"450 4.7.1 not now\r\n", b"421 4.3.2 going down\r\n"])
def test_a_temporary_refusal_of_ehlo_is_one_and_no_reason_for_helo(reply: bytes) -> None:
    talk = greeted(reply)
    assert HELO not in talk.said
    assert talk.summary == ["refused: " + reply.decode().strip()] * 2


def test_a_refusal_of_helo_counts() -> None:
    talk = greeted(b"502 what\r\n")
    assert talk.hear(b"550 not you\r\n") == QUIT
    assert talk.summary == ["refused: 550 not you"] * 2


@pytest.mark.parametrize(
    ("hello", "submission", "text"),
    [
        (b"250-mx\r\n250 SIZE 21\r\n", SUBMISSION, "5.3.4 the message has 22 octets, and the server takes 21"),
        (
            BARE,
            Submission("a@b", ["c@d"], "A: b\r\n\r\nü".encode()),
            "5.6.3 the message needs 8BITMIME, which the server does not offer",
        ),
        (
            BARE,
            Submission("a@b", ["c@ü"], MESSAGE),
            "5.6.7 an address or the header needs SMTPUTF8, which the server does not offer",
        ),
    ],
)
def test_what_the_server_could_not_handle_is_refused_before_it_is_sent(
    hello: bytes, submission: Submission, text: str
) -> None:
    talk = greeted(hello, submission)
    assert talk.said == EHLO + QUIT
    assert set(talk.summary) == {f"refused: {text}"}
    assert not talk.receipt.outcomes[0].is_temporary


# -- a session that breaks off ------------------------------------------------------------------------------------


def test_a_server_may_go_down_at_any_reply() -> None:
    talk = greeted()
    assert talk.hear(OK + b"250 ok\r\n421 4.3.2 going down\r\n") == b""
    assert talk.is_closed
    assert talk.summary == ["refused: 421 4.3.2 going down"] * 2
    assert talk.receipt.error == ""


def test_what_was_decided_before_the_connection_was_lost_stays_so() -> None:
    talk = greeted()
    talk.hear(OK + b"550 5.1.1 nobody\r\n" + OK)
    receipt = talk.fail("reset")
    assert [str(outcome) for outcome in receipt.outcomes] == [
        "b@example.org: refused: 550 5.1.1 nobody",
        "c@example.org: unsent: reset",
    ]
    assert receipt.error == "reset"
    assert [outcome.is_temporary for outcome in receipt.outcomes] == [False, True]


def test_a_connection_lost_after_the_final_dot_is_unknown_and_said_so() -> None:
    talk = sending()
    talk.hear(GO_AHEAD)
    talk.hear(b"")
    assert talk.summary == ["unknown: eof: the server ended the connection"] * 2
    assert talk.receipt.error == "eof: the server ended the connection"
    assert not any(outcome.is_temporary for outcome in talk.receipt.outcomes)


def test_a_connection_lost_while_the_final_dot_goes_out_leaves_it_unknown() -> None:
    session = Session(settings(), SUBMISSION)
    session.connected(NAME)
    for data in (GREETING, NO_TLS, OK * 3 + GO_AHEAD):
        session.receive(data)
    assert next(session.content()).endswith(b"\r\n.\r\n")
    session.fail("reset")
    assert session.receipt.addresses("unknown") == tuple(SUBMISSION.recipients)


def test_a_connection_lost_before_the_final_dot_has_sent_nothing() -> None:
    large = Submission("a@example.net", ["b@example.org"], b"x" * 900_000)
    session = Session(settings(), large)
    session.connected(NAME)
    for data in (GREETING, NO_TLS, OK * 2 + GO_AHEAD):
        step = session.receive(data)
    assert step is not None
    assert step.send_content
    assert session.timeout == settings().timeouts.block
    pieces = session.content()
    for _ in range(3):
        assert b"\r\n.\r\n" not in next(pieces)
    session.fail("timeout")
    assert list(pieces) == []
    assert [str(outcome) for outcome in session.receipt.outcomes] == ["b@example.org: unsent: timeout"]


@pytest.mark.parametrize("reply", [b"354 again\r\n", b"garbage\r\n", b"250-ok\r\n550 no\r\n", b"250 ok\n"], ids=repr)
def test_an_answer_to_the_message_that_says_neither_yes_nor_no_leaves_it_unknown(reply: bytes) -> None:
    talk = sending()
    talk.hear(GO_AHEAD)
    talk.hear(reply)
    assert talk.is_closed
    assert talk.statuses == ["unknown"] * 2
    assert talk.receipt.error.startswith("protocol: ")


def test_once_it_is_accepted_nothing_changes_that() -> None:
    for end in (b"", b"garbage\r\n", b"554 no\r\n", b"421 down\r\n"):
        talk = sending()
        talk.hear(GO_AHEAD)
        assert talk.hear(END) == QUIT
        talk.hear(end)
        assert talk.is_closed
        assert talk.summary == [ACCEPTED] * 2
        assert talk.receipt.error == ""


def in_content() -> tuple[Session, Iterator[bytes]]:
    """A session in the middle of a message, and what is to come of that."""
    session = Session(settings(), Submission("a@example.net", ["b@example.org"], b"x" * 900_000))
    session.connected(NAME)
    for data in (GREETING, NO_TLS, OK * 2 + GO_AHEAD):
        session.receive(data)
    pieces = session.content()
    next(pieces)
    return session, pieces


@pytest.mark.parametrize("reply", [b"552 5.3.4 too large\r\n", b"451 4.3.0 broken\r\n", b"421 4.3.2 going down\r\n"])
@pytest.mark.parametrize("cut", [0, 1, 7, -1])
def test_a_refusal_that_comes_while_the_message_goes_out_ends_it_before_its_dot(reply: bytes, cut: int) -> None:
    session, pieces = in_content()
    if cut:
        assert session.receive(reply[:cut]) is None
        assert session.awaited == "block"
    step = session.receive(reply[cut:])
    assert step is not None
    assert step.close
    assert not step.send_content
    assert list(pieces) == []
    assert str(session.receipt.outcomes[0]).partition(": ")[2] == "refused: " + reply.decode().strip()


@pytest.mark.parametrize("cut", [0, 1, -1])
def test_an_acceptance_that_comes_before_the_final_dot_is_not_believed(cut: int) -> None:
    session, pieces = in_content()
    if cut:
        assert session.receive(END[:cut]) is None
    session.receive(END[cut:])
    assert list(pieces) == []
    assert session.receipt.error == ("protocol: the server sent a reply before its command: 250 2.0.0 Ok: queued as 7")
    assert session.receipt.outcomes[0].status == "unsent"


# -- replies that came before their commands ----------------------------------------------------------------------

UNASKED = [b"250 ok\r\n", b"220 again\r\n", b"250-mx\r\n250-ST", b"2", b"\0", b"\r\n"]


@pytest.mark.parametrize("unasked", UNASKED, ids=repr)
@pytest.mark.parametrize(
    "heard",
    [
        (GREETING,),
        (GREETING, NO_TLS, OK * 3 + GO_AHEAD),
        (GREETING, NO_PIPELINING),
        (GREETING, NO_PIPELINING, OK),
        (GREETING, NO_PIPELINING, OK, OK),
        (GREETING, NO_PIPELINING, OK, OK, OK),
    ],
    ids=["greeting", "data", "ehlo", "mail", "rcpt", "last rcpt"],
)
def test_a_reply_behind_the_last_expected_one_ends_the_session_and_nothing_more_is_said(
    heard: tuple[bytes, ...], unasked: bytes
) -> None:
    talk = Talk()
    for data in heard[:-1]:
        talk.hear(data)
    assert talk.hear(heard[-1] + unasked) == b""
    assert talk.is_closed
    assert talk.statuses == ["unsent"] * 2
    assert talk.receipt.error.startswith("protocol: ")
    assert talk.hear(OK) == b""


@pytest.mark.parametrize("heard", [(GREETING,), (GREETING, NO_PIPELINING), (GREETING, NO_PIPELINING, OK)])
def test_a_refusal_of_what_was_not_said_yet_is_not_believed(heard: tuple[bytes, ...]) -> None:
    talk = Talk()
    for data in heard[:-1]:
        talk.hear(data)
    assert talk.hear(heard[-1] + b"550 5.7.1 no\r\n") == b""
    assert talk.receipt.error == "protocol: the server sent a reply before its command: 550 5.7.1 no"
    assert talk.statuses == ["unsent"] * 2


def test_nothing_is_said_to_a_server_that_goes_down_whatever_else_it_says() -> None:
    talk = greeted()
    assert talk.hear(OK + b"421 4.3.2 going down\r\n" + b"421 4.3.2 going down\r\n" + GO_AHEAD) == b""
    assert talk.is_closed
    assert talk.session.receive(GO_AHEAD) == Step(close=True)
    assert talk.summary == ["refused: 421 4.3.2 going down"] * 2


def test_a_server_that_goes_down_unasked_is_heard() -> None:
    talk = Talk()
    assert talk.hear(GREETING + b"421 4.3.2 going down\r\n") == b""
    assert talk.summary == ["refused: 421 4.3.2 going down"] * 2


@pytest.mark.parametrize(
    ("heard", "words"),
    [
        ((b"250 welcome\r\n",), "protocol: the greeting makes no sense there: 250 welcome"),
        ((GREETING, b"354 go\r\n"), "protocol: the reply to EHLO makes no sense there: 354 go"),
        ((GREETING, b"500 what\r\n", b"354 go\r\n"), "protocol: the reply to HELO makes no sense there: 354 go"),
        ((GREETING, BARE, b"354 go\r\n"), "protocol: the reply to MAIL makes no sense there: 354 go"),
        ((GREETING, BARE, OK, b"354 go\r\n"), "protocol: the reply to RCPT makes no sense there: 354 go"),
        ((GREETING, BARE, OK, OK, OK, OK), "protocol: the reply to DATA makes no sense there: 250 ok"),
        ((b"HTTP/1.1 400 Bad Request\r\n",), "protocol: a reply begins with a code of three digits, not with"),
        ((b"220 a\nb\r\n",), "protocol: a reply has a control character in it"),
        ((b"220-a\r\n220-b\r\n250 c\r\n",), "protocol: the lines of a reply have the codes 220 and 250"),
        ((b"220-a\r\n" * 200,), "protocol: a reply has more than 128 lines"),
        ((b"220 " + b"x" * 5000,), "protocol: a reply has a line of more than 4096 octets"),
        ((b"",), "eof: the server ended the connection"),
    ],
)
def test_a_server_that_makes_no_sense_is_left_with_the_reason(heard: tuple[bytes, ...], words: str) -> None:
    talk = Talk()
    for data in heard:
        assert not talk.is_closed
        talk.hear(data)
    assert talk.is_closed
    assert talk.statuses == ["unsent"] * 2
    assert talk.receipt.error.startswith(words)


def test_there_is_no_receipt_before_all_is_decided() -> None:
    with pytest.raises(RuntimeError, match="the session goes on"):
        _ = greeted().receipt


# -- the times ----------------------------------------------------------------------------------------------------


def test_each_step_has_its_time() -> None:
    talk = Talk(tls="required")
    times = settings().timeouts
    seen = []
    for data in (GREETING, b"250-mx\r\n250 STARTTLS\r\n"):
        seen.append((talk.session.awaited, talk.session.timeout))
        talk.hear(data)
    seen.append((talk.session.awaited, talk.session.timeout))
    talk.hear(b"220 go\r\n")
    talk.secure()
    for data in (BARE, OK, OK, OK, GO_AHEAD, END):
        seen.append((talk.session.awaited, talk.session.timeout))
        talk.hear(data)
    seen.append((talk.session.awaited, talk.session.timeout))
    assert seen == [
        ("greeting", times.greeting),
        ("ehlo", times.ehlo),
        ("starttls", times.starttls),
        ("ehlo", times.ehlo),
        ("mail", times.mail),
        ("rcpt", times.rcpt),
        ("rcpt", times.rcpt),
        ("data", times.data),
        ("end", times.end),
        ("quit", times.quit),
    ]


# -- however the network cuts it ----------------------------------------------------------------------------------

SERVERS = [
    {},
    {"hello": NO_PIPELINING},
    {"hello": BARE},
    {"hello": b"502 what\r\n"},
    {"RCPT TO:<b@example.org>": b"550-5.1.1 no such\r\n550 5.1.1 user\r\n"},
    {"RCPT": b"550 5.1.1 nobody\r\n"},
    {"hello": NO_PIPELINING, "RCPT": b"550 5.1.1 nobody\r\n"},
    {"MAIL": b"451 4.3.0 later\r\n"},
    {"DATA": b"451 4.3.0 later\r\n"},
    {"END": b"554-5.7.1 spam\r\n554 5.7.1 indeed\r\n"},
]


@pytest.mark.parametrize("replies", SERVERS, ids=repr)
def test_the_same_is_said_and_told_byte_by_byte(replies: dict[str, bytes]) -> None:
    whole, bytewise = Talk(), Talk()
    converse(whole, HonestServer(**replies))
    converse(bytewise, HonestServer(**replies), cut=lambda data: (bytes([byte]) for byte in data))
    assert bytewise.said == whole.said
    assert bytewise.receipt == whole.receipt


@given(st.data(), st.sampled_from(SERVERS))
def test_the_same_is_said_and_told_wherever_the_network_cuts(data: st.DataObject, replies: dict[str, bytes]) -> None:
    def cut(heard: bytes) -> Iterable[bytes]:
        places = sorted(data.draw(st.sets(st.integers(1, max(1, len(heard) - 1)), max_size=4)))
        return [heard[a:b] for a, b in zip([0, *places], [*places, len(heard)], strict=True) if heard[a:b]]

    whole, pieces = Talk(), Talk()
    converse(whole, HonestServer(**replies))
    converse(pieces, HonestServer(**replies), cut)
    assert pieces.said == whole.said
    assert pieces.receipt == whole.receipt


LINES = st.sampled_from(
    [GREETING, NO_TLS, NO_PIPELINING, OK, GO_AHEAD, END, b"550 no\r\n", b"421 down\r\n", b"250-x\r\n", b"\r\n", b""]
)


@given(st.lists(LINES | st.binary(max_size=20)))
def test_whatever_a_server_says_there_is_an_outcome_for_each_recipient(heard: list[bytes]) -> None:
    talk = Talk()
    for data in heard:
        talk.hear(data)
    receipt = talk.fail("reset")
    assert [outcome.address for outcome in receipt.outcomes] == ["b@example.org", "c@example.org"]
    assert str(receipt).replace("\n", "").isprintable()
    if receipt.addresses("accepted"):
        assert MESSAGE + b".\r\n" in talk.said
