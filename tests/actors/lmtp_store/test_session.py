"""What LMTP has that SMTP has not (RFC 2033), and what it must not have."""

from __future__ import annotations

import pytest

from actors.lmtp_store import LmtpSession, StoreSettings
from actors.smtp import Envelope, LocalDomains, Session, Step
from tests.actors.smtp.driver import ENCRYPTION, ENVELOPE, PEER, Client, codes_of

SETTINGS = StoreSettings(hostname="store.example.org", domains=("example.org",), maildir="mail")
GREETED = b"LHLO mx.example.org\r\n"
THREE = ENVELOPE + b"RCPT TO:<c@elsewhere.example>\r\nRCPT TO:<d@example.org>\r\nRCPT TO:<b@example.org>\r\n"


class LmtpClient(Client):
    """Drives the session as the SMTP server's tests drive theirs."""

    session: Session

    def __init__(self, settings: StoreSettings = SETTINGS, refuse_with: bytes | None = None) -> None:
        super().__init__(settings, refuse_with)
        self.session = LmtpSession(settings, PEER, LocalDomains(settings.domains))


def greeted(refuse_with: bytes | None = None) -> LmtpClient:
    client = LmtpClient(refuse_with=refuse_with)
    client.send(GREETED)
    return client


def test_the_greeting_says_lmtp() -> None:
    assert LmtpClient().session.greeting() == b"220 store.example.org LMTP\r\n"


def test_lhlo_lists_the_extensions_that_every_store_has_to_have_and_no_more_than_work() -> None:
    lines = LmtpClient().send(GREETED).decode().splitlines()
    assert lines == [
        "250-store.example.org",
        "250-PIPELINING",
        "250-SIZE 26279936",
        "250-8BITMIME",
        "250-SMTPUTF8",
        "250-ENHANCEDSTATUSCODES",
        "250-CHUNKING",
        "250 HELP",
    ]


@pytest.mark.parametrize("command", [b"EHLO x", b"HELO x", b"STARTTLS", b"SEND"])
def test_what_is_smtps_alone_is_no_command_here(command: bytes) -> None:
    assert LmtpClient().codes(command + b"\r\n")[0][:4] in ("500 ", "502 ")


def test_nothing_is_accepted_before_lhlo() -> None:
    assert LmtpClient().send(b"MAIL FROM:<>\r\n") == b"503 5.5.1 Say LHLO first\r\n"


def test_each_accepted_recipient_has_a_reply_behind_the_message_in_order_and_also_one_that_was_named_twice() -> None:
    client = greeted()
    assert client.codes(THREE + b"DATA\r\n")[-1] == "354"
    assert client.send(b"hello\r\n.\r\n") == b"250 2.0.0 Ok: queued as id1\r\n" * 3
    ((envelope, content),) = client.messages
    assert (envelope.recipients, content) == (("b@example.org", "d@example.org"), b"hello\n")
    assert client.codes(b"NOOP\r\n") == ["250 2.0.0"]


def test_each_recipient_has_a_reply_behind_the_last_chunk_and_one_is_for_each_other() -> None:
    client = greeted()
    client.send(THREE)
    assert client.codes(b"BDAT 3\r\nx\r\n") == ["250 2.0.0"]
    assert client.send(b"BDAT 3 LAST\r\ny\r\nNOOP\r\n") == b"250 2.0.0 Ok: queued as id1\r\n" * 3 + b"250 2.0.0 Ok\r\n"
    assert client.contents == [b"x\ny\n"]


def test_each_recipient_hears_of_chunks_that_are_refused() -> None:
    client = greeted()
    client.send(THREE)
    assert client.codes(b"BDAT 5 LAST\r\nx\ny\r\n") == ["550 5.6.0"] * 3
    assert client.codes(b"BDAT 6 LAST\r\nQUIT\r\nNOOP\r\n") == ["503 5.5.1", "250 2.0.0"]


def test_each_recipient_hears_of_a_message_that_can_not_be_stored() -> None:
    client = greeted(refuse_with=b"452 4.3.1 full\r\n")
    client.send(THREE + b"DATA\r\n")
    assert client.send(b"hello\r\n.\r\n") == b"452 4.3.1 full\r\n" * 3


def test_each_recipient_hears_of_a_message_that_is_refused() -> None:
    client = greeted()
    client.send(THREE + b"DATA\r\n")
    assert client.codes(b"bare\nLF\r\n.\r\nNOOP\r\n") == ["550 5.6.0"] * 3 + ["250 2.0.0"]
    assert client.messages == []


def test_a_part_that_can_not_be_stored_fails_the_message_for_each_recipient_at_its_end() -> None:
    client = greeted()
    client.send(THREE + b"DATA\r\n")
    step: Step = client.session.receive((b"x" * 898 + b"\r\n") * 400)
    assert step.delivery is not None
    assert client.follow(client.session.failed(b"452 4.3.1 full\r\n")) == b""
    assert client.codes(b".\r\n") == ["452 4.3.1"] * 3


def test_data_without_an_accepted_recipient_is_503_as_the_standard_has_it() -> None:
    client = greeted()
    assert client.codes(b"MAIL FROM:<>\r\nRCPT TO:<c@elsewhere.example>\r\nDATA\r\n")[1:] == ["550 5.7.1", "503 5.5.1"]
    assert client.codes(b"RSET\r\nDATA\r\n") == ["250 2.0.0", "503 5.5.1"]


@pytest.mark.parametrize(
    ("mail", "encrypted", "protocol"),
    [("", False, "LMTP"), (" SMTPUTF8", False, "UTF8LMTP"), ("", True, "LMTPS"), (" SMTPUTF8", True, "UTF8LMTPS")],
)
def test_a_message_says_that_it_came_by_lmtp(mail: str, encrypted: bool, protocol: str) -> None:
    client = LmtpClient()
    if encrypted:
        policy = LocalDomains(SETTINGS.domains)
        client.session = LmtpSession(SETTINGS, PEER, policy, encryption=ENCRYPTION)
    large = (b"x" * 898 + b"\r\n") * 400
    data = f"MAIL FROM:<>{mail}\r\nRCPT TO:<b@example.org>\r\nDATA\r\n".encode() + large + b".\r\n"
    client.send(GREETED + data)
    envelopes: list[Envelope] = [envelope for envelope, _ in client.messages]
    assert [envelope.protocol for envelope in envelopes] == [protocol]


def test_all_parts_of_a_message_have_one_envelope() -> None:
    session = greeted().session
    session.receive(ENVELOPE + b"DATA\r\n")
    envelopes = []
    for _ in range(3):
        step = session.receive((b"x" * 898 + b"\r\n") * 400)
        assert step.delivery is not None
        envelopes.append(step.delivery.envelope)
        session.stored()
    assert envelopes[0].protocol == "LMTP"
    assert all(envelope is envelopes[0] for envelope in envelopes)


def test_whole_messages_may_come_in_a_row_without_waiting_but_for_the_go_ahead() -> None:
    client = greeted()
    for _ in range(3):
        assert codes_of(client.send(b"RSET\r\n" + THREE + b"DATA\r\n"))[-1] == "354"
        assert codes_of(client.send(b"x\r\n.\r\n")) == ["250 2.0.0"] * 3
    assert len(client.messages) == 3


def test_the_errors_of_many_clients_do_not_end_the_session_of_the_server_in_front() -> None:
    client = greeted()
    for _ in range(100):
        assert client.codes(b"MAIL FROM:<>\r\nRCPT TO:<x@y.example>\r\nRSET\r\n")[1] == "550 5.7.1"
    assert not client.is_closed


def test_on_the_way_down_a_server_that_has_a_message_under_way_may_bring_it_to_its_end() -> None:
    assert codes_of(greeted().session.shut_down().reply) == ["421 4.3.2"]
    for ending in (b"DATA\r\nx\r\n.\r\n", b"RSET\r\n"):
        client = greeted()
        client.send(ENVELOPE)
        assert client.follow(client.session.shut_down()) == b""
        assert client.codes(ending)[-2:] == ["250 2.0.0", "421 4.3.2"]
        assert client.is_closed


def test_help_lists_the_commands_of_lmtp_and_carries_no_message_on() -> None:
    assert b" LHLO " in LmtpClient().send(b"HELP\r\n")
    assert LmtpClient().codes(b"HELP\r\n" * 1001)[-1] == "421 4.7.0"
