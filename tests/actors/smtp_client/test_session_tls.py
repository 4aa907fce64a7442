"""STARTTLS in the session: when it is said, what is believed, and what never goes out in plaintext."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from actors.smtp_client import Session
from tests.actors.smtp_client.driver import (
    BARE,
    GREETING,
    MESSAGE,
    NAME,
    NO_TLS,
    SUBMISSION,
    WITH_TLS,
    HonestServer,
    Talk,
    converse,
    settings,
)

EHLO = f"EHLO {NAME}\r\n".encode()
HELO = f"HELO {NAME}\r\n".encode()
STARTTLS = b"STARTTLS\r\n"
QUIT = b"QUIT\r\n"
OK = b"250 ok\r\n"
GO = b"220 2.0.0 go\r\n"
NOT_NOW = b"454 4.7.0 TLS not available\r\n"
NEVER = b"502 5.5.1 not implemented\r\n"


def asked(tls: str) -> Talk:
    """A session that has said STARTTLS."""
    talk = Talk(tls=tls)
    talk.hear(GREETING)
    assert talk.hear(WITH_TLS) == STARTTLS
    return talk


def secured(tls: str) -> Talk:
    """A session after the handshake."""
    talk = asked(tls)
    assert talk.hear(GO) == b""
    assert talk.secure() == EHLO
    return talk


# -- the upgrade --------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("tls", ["required", "opportunistic"])
def test_tls_begins_after_220_and_ehlo_is_said_anew(tls: str) -> None:
    talk = Talk(tls=tls)
    converse(talk, HonestServer(WITH_TLS, STARTTLS=GO))
    assert talk.said.startswith(EHLO + STARTTLS + EHLO + b"MAIL FROM:<a@example.net> SIZE=22\r\n")
    assert talk.statuses == ["accepted"] * 2
    assert talk.receipt.tls == "TLSv1.3 TLS_AES_256_GCM_SHA384"
    assert talk.receipt.error == ""


def test_starttls_is_said_alone_also_where_the_server_takes_commands_together() -> None:
    talk = asked("required")
    assert talk.hear(b"220-2.0.0 go\r\n") == b""
    assert not talk.steps[-1].start_tls
    assert talk.hear(GO) == b""
    assert talk.steps[-1].start_tls
    assert not talk.steps[-1].close


def test_what_the_server_offered_before_tls_is_forgotten() -> None:
    talk = secured("required")
    assert talk.hear(BARE) == b"MAIL FROM:<a@example.net>\r\n"


def test_after_tls_a_second_starttls_is_not_asked_for_though_it_is_offered() -> None:
    talk = secured("required")
    assert STARTTLS not in talk.hear(WITH_TLS)
    assert talk.said.count(STARTTLS) == 1


def test_a_server_that_does_not_know_ehlo_in_tls_is_told_helo_there() -> None:
    talk = secured("required")
    assert talk.hear(NEVER) == HELO
    assert talk.hear(OK) == b"MAIL FROM:<a@example.net>\r\n"


def test_with_tls_from_the_first_byte_starttls_is_not_asked_for() -> None:
    session = Session(settings(tls="implicit"), SUBMISSION)
    session.connected(NAME, "TLSv1.3 x")
    session.receive(GREETING)
    step = session.receive(WITH_TLS)
    assert step is not None
    assert step.output.startswith(b"MAIL ")
    assert session.fail("reset").close
    assert session.receipt.tls == "TLSv1.3 x"


@pytest.mark.parametrize("hello", [NO_TLS, WITH_TLS, NEVER])
def test_where_tls_was_to_be_there_from_the_first_byte_and_is_not_nothing_is_sent(hello: bytes) -> None:
    talk = Talk(tls="implicit")
    talk.hear(GREETING)
    assert b"MAIL" not in talk.hear(hello) + talk.hear(NOT_NOW)
    assert talk.statuses == ["unsent"] * 2


def test_without_tls_starttls_is_not_asked_for() -> None:
    talk = Talk()
    talk.hear(GREETING)
    assert talk.hear(WITH_TLS).startswith(b"MAIL ")


# -- stripping ----------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("heard", "error", "last"),
    [
        ((NO_TLS,), "tls: the server does not offer STARTTLS", QUIT),
        ((b"250-STARTTLS\r\n250 HELP\r\n",), "tls: the server does not offer STARTTLS", QUIT),
        ((b"250-mx\r\n250 XSTARTTLS\r\n",), "tls: the server does not offer STARTTLS", QUIT),
        (
            (b"502 5.5.1 what\r\n",),
            "tls: the server does not know EHLO, so there is no STARTTLS: 502 5.5.1 what",
            QUIT,
        ),
        ((WITH_TLS, NOT_NOW), "tls: the server refused STARTTLS: 454 4.7.0 TLS not available", QUIT),
        ((WITH_TLS, NEVER), "tls: the server refused STARTTLS: 502 5.5.1 not implemented", QUIT),
        ((WITH_TLS, OK), "protocol: the reply to STARTTLS makes no sense there: 250 ok", b""),
        ((WITH_TLS, b"354 go\r\n"), "protocol: the reply to STARTTLS makes no sense there: 354 go", b""),
        ((WITH_TLS, b"garbage\r\n"), "protocol: a reply begins with a code of three digits, not with 'garbage'", b""),
        ((WITH_TLS, b""), "eof: the server ended the connection", b""),
    ],
)
def test_where_tls_is_required_and_does_not_come_nothing_is_sent_and_the_reason_is_told(
    heard: tuple[bytes, ...], error: str, last: bytes
) -> None:
    talk = Talk(tls="required")
    talk.hear(GREETING)
    said = b""
    for data in heard:
        assert not talk.is_closed
        said = talk.hear(data)
    assert said == last
    assert talk.said.replace(STARTTLS, b"") == EHLO + last
    assert talk.statuses == ["unsent"] * 2
    assert talk.receipt.error == error
    assert talk.receipt.tls == ""
    assert all(outcome.text == error and outcome.is_temporary for outcome in talk.receipt.outcomes)


@pytest.mark.parametrize("reply", [NOT_NOW, NEVER])
def test_where_tls_is_opportunistic_a_refusal_is_answered_by_plaintext(reply: bytes) -> None:
    talk = asked("opportunistic")
    assert talk.hear(reply).startswith(b"MAIL FROM:<a@example.net> SIZE=22\r\n")


@pytest.mark.parametrize("hello", [NO_TLS, BARE, NEVER])
@pytest.mark.parametrize("verify", [True, False])
def test_where_tls_is_opportunistic_and_not_offered_the_message_goes_in_plaintext(hello: bytes, verify: bool) -> None:
    talk = Talk(tls="opportunistic", verify=verify)
    converse(talk, HonestServer(hello))
    assert talk.statuses == ["accepted"] * 2
    assert STARTTLS not in talk.said


@pytest.mark.parametrize("reply", [OK, b"354 go\r\n", b"garbage\r\n", b"220 go\n"])
def test_where_tls_is_opportunistic_nonsense_is_no_refusal(reply: bytes) -> None:
    talk = asked("opportunistic")
    assert talk.hear(reply) == b""
    assert talk.is_closed
    assert talk.statuses == ["unsent"] * 2


@pytest.mark.parametrize("tls", ["required", "opportunistic"])
def test_a_handshake_that_fails_ends_the_attempt_and_nothing_goes_in_plaintext(tls: str) -> None:
    talk = asked(tls)
    talk.hear(GO)
    receipt = talk.fail("tls: certificate verify failed")
    assert talk.hear(OK) == b""
    assert talk.said == EHLO + STARTTLS
    assert talk.statuses == ["unsent"] * 2
    assert receipt.error == "tls: certificate verify failed"


# -- what came before its time ------------------------------------------------------------------------------------

FORGED = [
    b"250-mx\r\n250 AUTH PLAIN\r\n",
    b"250 ok\r\n" * 5 + b"354 go\r\n250 queued\r\n",
    b"421 4.3.2 going down\r\n",
    b"220 again\r\n",
    b"2",
    b"\r\n",
    b"\n",
    b"\0",
    b"\x16\x03\x03\x00\x05hello",
]


@pytest.mark.parametrize("forged", FORGED, ids=repr)
@pytest.mark.parametrize("tls", ["required", "opportunistic"])
def test_anything_behind_220_in_the_same_piece_is_plaintext_before_tls(tls: str, forged: bytes) -> None:
    talk = asked(tls)
    assert talk.hear(GO + forged) == b""
    assert talk.is_closed
    assert not talk.steps[-1].start_tls
    assert talk.receipt.error == "plaintext-before-tls: the server sent more than its reply to STARTTLS"
    assert talk.statuses == ["unsent"] * 2


@pytest.mark.parametrize("forged", FORGED, ids=repr)
@pytest.mark.parametrize("tls", ["required", "opportunistic"])
def test_a_reply_to_starttls_that_came_before_it_is_not_believed(tls: str, forged: bytes) -> None:
    for early in (GO, GO + forged, forged, NOT_NOW):
        talk = Talk(tls=tls)
        talk.hear(GREETING)
        assert talk.hear(WITH_TLS + early) == b""
        assert talk.is_closed
        assert STARTTLS not in talk.said
        assert set(talk.statuses) <= {"unsent", "refused"}


def test_a_reply_to_ehlo_that_came_with_the_greeting_is_not_believed() -> None:
    for tls in ("required", "opportunistic"):
        talk = Talk(tls=tls)
        assert talk.hear(GREETING + NO_TLS) == b""
        assert talk.is_closed
        assert talk.statuses == ["unsent"] * 2


LINES = st.sampled_from(
    [GREETING, NO_TLS, WITH_TLS, BARE, OK, GO, NOT_NOW, NEVER, b"354 go\r\n", b"250-x\r\n", b"421 x\r\n", b"\r\n", b""]
)


@given(st.lists(LINES | st.binary(max_size=20) | st.tuples(LINES, LINES).map(b"".join), max_size=12))
def test_whatever_a_server_says_no_address_and_no_message_goes_out_before_tls(heard: list[bytes]) -> None:
    talk = Talk(tls="required")
    for data in [GREETING, *heard]:
        if talk.steps and talk.steps[-1].start_tls:
            return
        talk.hear(data)
    assert b"MAIL" not in talk.said
    assert b"RCPT" not in talk.said
    assert MESSAGE not in talk.said
    assert set(talk.said.split(b"\r\n")) <= {EHLO[:-2], STARTTLS[:-2], QUIT[:-2], b""}
    assert not talk.fail("reset").addresses("accepted")
