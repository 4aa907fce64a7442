"""STARTTLS and TLS from the first byte, in the session (RFC 3207, RFC 8314): what is offered, refused, forgotten."""

from __future__ import annotations

import itertools
import re

import pytest
from hypothesis import given
from hypothesis import strategies as st

from actors.smtp import SessionSettings
from tests.actors.smtp.driver import ENCRYPTION, ENVELOPE, GREETED, SETTINGS, Client, bytewise, codes_of
from tests.actors.smtp.test_session import DIALOGUES, SMALL

STARTTLS = b"STARTTLS\r\n"
STRICT = SessionSettings(hostname="mx.example.org", domains=("example.org",), require_tls=True)


def plain(settings: SessionSettings = SETTINGS) -> Client:
    """A client on a connection that can become TLS."""
    return Client(settings, offers_tls=True)


def encrypted(settings: SessionSettings = SETTINGS) -> Client:
    """A client on a connection that is TLS from the first byte."""
    return Client(settings, encryption=ENCRYPTION)


def upgraded(settings: SessionSettings = SETTINGS) -> Client:
    """A client whose handshake has just been done."""
    client = plain(settings)
    client.send(GREETED + STARTTLS)
    client.upgrade()
    return client


def extensions(client: Client) -> list[str]:
    return [line[4:] for line in client.send(GREETED).decode().splitlines()[1:]]


# -- what is offered ----------------------------------------------------------------------------------------------


def test_starttls_is_offered_where_the_connection_can_become_tls_and_is_not() -> None:
    assert "STARTTLS" in extensions(plain())
    for client in (Client(), encrypted(), upgraded(), Client(offers_tls=True, encryption=ENCRYPTION)):
        assert "STARTTLS" not in extensions(client)
    assert extensions(plain())[-1] == "HELP"


def test_the_offer_changes_nothing_else_of_what_ehlo_says() -> None:
    assert (
        [line for line in extensions(plain()) if line != "STARTTLS"] == extensions(Client()) == extensions(upgraded())
    )


def test_starttls_is_answered_and_then_the_connection_is_to_become_tls() -> None:
    client = plain()
    client.send(GREETED)
    step = client.session.receive(STARTTLS)
    assert step.reply == b"220 2.0.0 Go ahead with TLS\r\n"
    assert (step.upgrade, step.close, step.injection, step.delivery) == (True, False, False, None)


@pytest.mark.parametrize("line", [b"starttls\r\n", b"StartTLS  \r\n"])
def test_starttls_is_known_in_any_case(line: bytes) -> None:
    client = plain()
    assert client.codes(line) == ["220 2.0.0"]
    assert client.is_upgrading


def test_starttls_may_come_byte_by_byte_or_as_the_last_of_a_group() -> None:
    for pieces in (bytewise(GREETED + STARTTLS), [GREETED + b"NOOP\r\n" + STARTTLS], [GREETED, b"STARTTLS\r", b"\n"]):
        client = plain()
        for piece in pieces:
            client.send(piece)
        assert codes_of(client.output)[-1] == "220 2.0.0"
        assert client.is_upgrading
        assert not client.has_injected


# -- what is refused ----------------------------------------------------------------------------------------------


@pytest.mark.parametrize("make", [encrypted, upgraded])
def test_a_second_starttls_is_refused_and_the_session_goes_on(make: type[Client]) -> None:
    client = make()
    assert client.codes(STARTTLS + GREETED + STARTTLS) == ["503 5.5.1", "250", "503 5.5.1"]
    assert not client.is_upgrading
    assert client.codes(ENVELOPE + b"DATA\r\nx\r\n.\r\n")[-1] == "250 2.0.0"


def test_starttls_takes_no_argument() -> None:
    client = plain()
    assert client.codes(b"STARTTLS now\r\n") == ["501 5.5.4"]
    assert not client.is_upgrading


def test_starttls_without_tls_is_to_be_tried_later_and_ends_nothing() -> None:
    client = Client()
    assert client.codes(GREETED + ENVELOPE + STARTTLS + b"DATA\r\n")[-2:] == ["454 4.7.0", "354"]
    assert not client.is_upgrading


@pytest.mark.parametrize("make", [Client, encrypted])
def test_who_asks_for_starttls_without_end_is_closed(make: type[Client]) -> None:
    client = make(SessionSettings(max_asides=5, max_errors=100))
    assert client.codes(STARTTLS * 7)[-1] == "421 4.7.0"
    assert client.is_closed


def test_a_line_that_has_starttls_in_it_is_no_starttls() -> None:
    client = plain()
    for line in (b"NOOP\nSTARTTLS\r\n", b"NOOP\rSTARTTLS\r\n", b" STARTTLS\r\n", b"STARTTLS\0\r\n", b"STARTTLSX\r\n"):
        assert client.codes(line) == ["500 5.5.2"]
    assert not client.is_upgrading


def test_starttls_in_a_message_is_text() -> None:
    client = plain()
    client.send(GREETED + ENVELOPE + b"DATA\r\nSTARTTLS\r\n.\r\n")
    client.send(ENVELOPE + b"BDAT 10 LAST\r\n" + STARTTLS)
    assert client.contents == [b"STARTTLS\n"] * 2
    assert not client.is_upgrading


# -- what comes behind it -----------------------------------------------------------------------------------------

INJECTED = [
    b"NOOP\r\n",
    b"MAIL FROM:<evil@example.net>\r\n",
    ENVELOPE + b"DATA\r\nevil\r\n.\r\n",
    b"RSET\r\nSTARTTLS\r\n",
    STARTTLS,
    b"NOO",  # unfinished: it would stand in front of what comes encrypted
    b"\r\n",
    b"\n",
    b"\0",
    b"\x16\x03\x01",  # a ClientHello that didn't wait for the reply
]


@pytest.mark.parametrize("injected", INJECTED, ids=repr)
def test_what_comes_in_one_piece_with_starttls_is_not_executed_and_ends_the_session(injected: bytes) -> None:
    client = plain()
    client.send(GREETED)
    step = client.session.receive(STARTTLS + injected)
    assert step.reply == b"554 5.5.0 Nothing may follow STARTTLS before its reply; closing\r\n"
    assert (step.close, step.injection, step.upgrade, step.delivery) == (True, True, False, None)
    assert client.send(b"NOOP\r\n") == b""


@pytest.mark.parametrize("injected", INJECTED, ids=repr)
def test_what_comes_in_plaintext_after_the_reply_is_not_executed_and_ends_the_session(injected: bytes) -> None:
    client = plain()
    client.send(GREETED + STARTTLS)
    assert client.session.receive(b"").close is False
    step = client.session.receive(injected)
    assert (step.close, step.injection, step.reply, step.upgrade) == (True, True, b"", False)
    with pytest.raises(RuntimeError, match="no upgrade is under way"):
        client.session.secured(ENCRYPTION)


def test_what_was_asked_before_starttls_is_answered_when_something_follows_it() -> None:
    client = plain()
    assert client.codes(GREETED + ENVELOPE + STARTTLS + b"NOOP\r\n") == ["250", "250 2.1.0", "250 2.1.5", "554 5.5.0"]
    assert client.is_closed


def test_what_comes_behind_starttls_while_a_message_is_stored_is_not_executed_either() -> None:
    client = plain()
    client.send(GREETED + ENVELOPE)
    assert client.session.receive(b"DATA\r\nhello\r\n.\r\n" + STARTTLS).delivery is not None
    assert client.session.receive(b"NOOP\r\n").reply == b""
    step = client.session.delivered("x")
    assert codes_of(step.reply) == ["250 2.0.0", "554 5.5.0"]
    assert (step.close, step.injection, step.upgrade) == (True, True, False)


def test_starttls_behind_a_message_upgrades_when_the_message_is_stored() -> None:
    client = plain()
    client.send(GREETED + ENVELOPE)
    step = client.session.receive(b"DATA\r\nhello\r\n.\r\n" + STARTTLS)
    assert (step.upgrade, step.reply) == (False, b"354 Go ahead; end with a dot on a line of its own\r\n")
    step = client.session.delivered("x")
    assert codes_of(step.reply) == ["250 2.0.0", "220 2.0.0"]
    assert step.upgrade


@given(before=DIALOGUES, injected=st.binary(min_size=1, max_size=40) | st.sampled_from(INJECTED), cut=st.integers(0))
def test_no_bytes_behind_starttls_do_anything(before: bytes, injected: bytes, cut: int) -> None:
    client = plain(SMALL)
    client.send(before)
    output, messages = client.output, list(client.messages)
    if client.is_upgrading or client.is_closed:
        return
    place = len(STARTTLS) + cut % len(injected)
    replies = client.send((STARTTLS + injected)[:place])
    if not client.is_upgrading and not client.has_injected:
        return  # it was no command: text of a message, or the end of a line
    client.send((STARTTLS + injected)[place:])
    assert client.is_closed
    assert client.has_injected
    assert client.messages == messages
    assert client.output == output + replies
    assert codes_of(replies) in (["220 2.0.0"], ["554 5.5.0"])


# -- after the upgrade --------------------------------------------------------------------------------------------


def test_after_the_upgrade_nothing_is_said_until_the_client_speaks() -> None:
    client = plain()
    client.send(GREETED + STARTTLS)
    assert client.upgrade() == b""


def test_after_the_upgrade_the_name_of_the_client_is_forgotten() -> None:
    assert upgraded().codes(b"MAIL FROM:<a@example.net>\r\n") == ["503 5.5.1"]


@pytest.mark.parametrize(
    "begun", [b"MAIL FROM:<a@example.net>\r\n", ENVELOPE, ENVELOPE + b"BDAT 5\r\nhello"], ids=["mail", "rcpt", "bdat"]
)
def test_starttls_in_the_middle_of_a_message_drops_it(begun: bytes) -> None:
    client = plain()
    client.send(GREETED + begun)
    assert client.codes(STARTTLS) == ["220 2.0.0"]
    assert not client.session.has_parts_out
    client.upgrade()
    assert client.codes(b"DATA\r\n" + GREETED + b"DATA\r\nRCPT TO:<b@example.org>\r\nBDAT 0 LAST\r\n") == [
        "503 5.5.1",
        "250",
        "503 5.5.1",
        "503 5.5.1",
        "503 5.5.1",
    ]
    assert client.messages == []


def test_the_parts_of_a_message_that_starttls_drops_are_given_up() -> None:
    client = plain(SMALL)
    client.send(GREETED + ENVELOPE + b"BDAT 5000\r\n" + (b"x" * 498 + b"\r\n") * 10)
    assert client.session.has_parts_out
    assert client.codes(STARTTLS) == ["220 2.0.0"]
    assert not client.session.has_parts_out
    assert client.parts == []


def test_after_the_upgrade_errors_and_asides_are_counted_anew() -> None:
    client = plain(SessionSettings(max_errors=3, max_asides=4))
    client.send(b"FOO\r\nBAR\r\nNOOP\r\nNOOP\r\n" + STARTTLS)
    client.upgrade()
    assert client.codes(b"FOO\r\nBAR\r\nNOOP\r\nNOOP\r\nNOOP\r\nNOOP\r\n")[-1] == "250 2.0.0"


@given(before=DIALOGUES, after=DIALOGUES, cuts=st.lists(st.integers(0, 20_000), max_size=4))
def test_after_the_upgrade_the_session_is_as_one_that_was_tls_from_the_first_byte(
    before: bytes, after: bytes, cuts: list[int]
) -> None:
    client = plain(SMALL)
    client.send(before)
    if not client.is_upgrading:
        client.send(STARTTLS)
    if not client.is_upgrading or client.is_closed:
        return
    client.upgrade()
    already, messages = len(client.output), len(client.messages)
    fresh = encrypted(SMALL)
    places = sorted({cut % (len(after) + 1) for cut in cuts} | {0, len(after)})
    for begin, finish in itertools.pairwise(places):
        client.send(after[begin:finish])
        fresh.send(after[begin:finish])
    assert (client.output[already:], client.is_closed) == (renumbered(fresh.output, messages), fresh.is_closed)
    assert client.messages[messages:] == fresh.messages


def renumbered(output: bytes, offset: int) -> bytes:
    """The same, but that the names which the driver gives to messages are counted on."""
    return re.sub(rb"(?<=queued as id)\d+", lambda match: b"%d" % (int(match[0]) + offset), output)


@pytest.mark.parametrize("state", ["new", "greeted", "storing", "upgraded"])
def test_an_upgrade_that_was_not_asked_for_is_a_mistake_of_the_driver(state: str) -> None:
    client = plain() if state != "upgraded" else upgraded()
    if state in ("greeted", "storing"):
        client.send(GREETED + ENVELOPE)
    if state == "storing":
        client.session.receive(b"DATA\r\nx\r\n.\r\n")
    with pytest.raises(RuntimeError, match="no upgrade is under way"):
        client.session.secured(ENCRYPTION)


# -- what a message says of it ------------------------------------------------------------------------------------


@pytest.mark.parametrize("make", [encrypted, upgraded])
@pytest.mark.parametrize(
    ("hello", "parameters", "protocol"),
    [
        (b"EHLO c\r\n", b"", "ESMTPS"),
        (b"EHLO c\r\n", b" SMTPUTF8", "UTF8SMTPS"),
        (b"HELO c\r\n", b"", "SMTP"),  # RFC 3848 has no name for it
    ],
)
def test_a_message_over_tls_says_so(make: type[Client], hello: bytes, parameters: bytes, protocol: str) -> None:
    client = make()
    client.send(hello + ENVELOPE.replace(b">\r\n", b">" + parameters + b"\r\n", 1) + b"DATA\r\nx\r\n.\r\n")
    ((envelope, _),) = client.messages
    assert (envelope.protocol, envelope.encryption) == (protocol, ENCRYPTION)


def test_a_message_in_plaintext_says_nothing_of_tls() -> None:
    client = plain()
    client.send(GREETED + ENVELOPE + b"DATA\r\nx\r\n.\r\n")
    assert (client.messages[0][0].protocol, client.messages[0][0].encryption) == ("ESMTP", None)


# -- where TLS is required ----------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    "command",
    [
        *(
            b"MAIL FROM:<>",
            b"RCPT TO:<b@example.org>",
            b"DATA",
            b"RSET",
            b"VRFY b",
            b"HELP",
            b"EXPN x",
            b"AUTH PLAIN x",
        ),
        *(b"FROBNICATE", b"", b"BDAT 0 LAST"),
    ],
)
def test_where_tls_is_required_a_command_before_it_is_refused(command: bytes) -> None:
    client = plain(STRICT)
    assert client.send(GREETED + command + b"\r\n").endswith(b"\r\n530 5.7.0 Must issue a STARTTLS command first\r\n")
    assert not client.is_closed


def test_where_tls_is_required_a_client_may_greet_do_nothing_leave_and_ask_for_tls_before_it() -> None:
    client = plain(STRICT)
    assert client.codes(b"NOOP\r\nHELO c\r\n" + GREETED) == ["250 2.0.0", "250", "250"]
    assert client.codes(STARTTLS) == ["220 2.0.0"]
    assert client.is_upgrading
    assert plain(STRICT).codes(b"QUIT\r\n") == ["221 2.0.0"]


@pytest.mark.parametrize("make", [encrypted, upgraded])
def test_where_tls_is_required_everything_goes_over_it(make: type[Client]) -> None:
    client = make(STRICT)
    client.send(GREETED + b"RSET\r\n" + ENVELOPE + b"DATA\r\nx\r\n.\r\n" + ENVELOPE + b"BDAT 1 LAST\r\nx")
    assert len(client.messages) == 2


def test_where_tls_is_required_a_chunk_before_it_is_read_over_and_not_taken_for_commands() -> None:
    client = plain(STRICT)
    client.send(GREETED)
    assert client.codes(b"MAIL FROM:<>\r\nBDAT 6 LAST\r\nQUIT\r\nNOOP\r\n") == ["530 5.7.0", "530 5.7.0", "250 2.0.0"]
    assert client.codes(b"BDAT x\r\nNOOP\r\n") == ["501 5.5.4"]
    assert client.is_closed


def test_where_tls_is_required_and_not_to_be_had_no_mail_comes_in() -> None:
    client = Client(STRICT)
    assert client.codes(GREETED + STARTTLS + ENVELOPE) == ["250", "454 4.7.0", "530 5.7.0", "530 5.7.0"]


def test_where_tls_is_required_http_is_still_told_to_go_at_once() -> None:
    client = plain(STRICT)
    assert client.codes(b"POST / HTTP/1.1\r\n" + GREETED) == ["421 4.7.0"]
    assert client.is_closed


def test_where_tls_is_required_refused_commands_are_counted() -> None:
    client = plain(SessionSettings(require_tls=True, max_errors=3))
    assert client.codes(b"RSET\r\n" * 4) == ["530 5.7.0", "530 5.7.0", "421 4.7.0"]


# -- the end of a session during the handshake --------------------------------------------------------------------


def test_a_client_that_takes_too_long_for_its_handshake_is_closed_without_a_word_in_plaintext() -> None:
    client = plain()
    client.send(GREETED + STARTTLS)
    step = client.session.time_out()
    assert (step.close, step.reply, step.upgrade) == (True, b"", False)
    assert client.session.time_out().close is False


def test_a_shutdown_during_the_handshake_is_told_after_it() -> None:
    client = plain()
    client.send(GREETED + STARTTLS)
    assert client.follow(client.session.shut_down()) == b""
    assert not client.is_closed
    assert codes_of(client.upgrade()) == ["421 4.3.2"]
    assert client.is_closed


def test_a_shutdown_before_starttls_comes_first() -> None:
    client = plain()
    client.send(GREETED + ENVELOPE)
    client.session.receive(b"DATA\r\nx\r\n.\r\n" + STARTTLS)
    client.session.shut_down()
    step = client.session.delivered("x")
    assert codes_of(step.reply) == ["250 2.0.0", "421 4.3.2"]
    assert (step.close, step.upgrade) == (True, False)
