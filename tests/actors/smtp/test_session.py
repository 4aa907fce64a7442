"""The session of RFC 5321 and its extensions, rule by rule."""

from __future__ import annotations

import itertools
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from actors.smtp import LocalDomains, Session, SessionSettings, Step
from actors.smtp.commands import Recipient
from tests.actors.smtp.driver import (
    ENVELOPE,
    GREETED,
    PEER,
    SETTINGS,
    Client,
    bytewise,
    codes_of,
    greeted,
    ready,
    run,
)


def settings(**changes: Any) -> SessionSettings:
    return SessionSettings(hostname="mx.example.org", domains=("example.org",), **changes)


# -- greeting, EHLO, HELO -----------------------------------------------------------------------------------------


def test_the_greeting_names_the_host() -> None:
    assert Session(SETTINGS, PEER, LocalDomains(())).greeting() == b"220 mx.example.org ESMTP\r\n"


def test_ehlo_lists_every_extension_and_no_starttls() -> None:
    lines = Client().send(b"EHLO client.example.net\r\n").decode().splitlines()
    assert lines == [
        "250-mx.example.org",
        "250-PIPELINING",
        "250-SIZE 26214400",
        "250-8BITMIME",
        "250-SMTPUTF8",
        "250-ENHANCEDSTATUSCODES",
        "250-CHUNKING",
        "250 HELP",
    ]


def test_helo_lists_no_extension() -> None:
    assert Client().send(b"HELO client.example.net\r\n") == b"250 mx.example.org\r\n"


@pytest.mark.parametrize("name", ["client.example.net", "My_PC", "[192.0.2.1]", "[IPv6:2001:db8::1]", " localhost "])
def test_a_client_may_call_itself_by_any_name_or_address_literal(name: str) -> None:
    assert Client().codes(f"EHLO {name}\r\n".encode()) == ["250"]


@pytest.mark.parametrize(
    "name",
    [
        *("", "   ", "two words", "a(comment)", "a;b", "a<b>", "é.example", "x" * 256, 'a"b'),
        *("[192.0.2.1", "192.0.2.1]", "[IPv6:::1", "[]", "[[192.0.2.1]]", "a[1]", "[192.0.2.1]a", f"[{'x' * 254}]"),
    ],
)
def test_a_name_that_would_not_stand_in_a_received_field_is_refused(name: str) -> None:
    client = Client()
    assert client.codes(f"EHLO {name}\r\n".encode()) == ["501 5.5.4"]
    assert client.codes(b"MAIL FROM:<>\r\n") == ["503 5.5.1"]


def test_commands_are_known_in_any_case() -> None:
    client = Client()
    assert client.codes(b"eHlO x\r\nmail from:<>\r\nRcpt To:<b@example.org>\r\nnoop\r\n") == [
        "250",
        "250 2.1.0",
        "250 2.1.5",
        "250 2.0.0",
    ]


def test_a_letter_whose_upper_case_is_in_ascii_is_no_ascii_letter() -> None:
    assert "r\u017fet".upper() == "RSET"
    assert Client().codes("r\u017fet\r\n".encode()) == ["500 5.5.2"]


def test_a_second_ehlo_drops_the_message_under_way() -> None:
    client = ready()
    assert client.codes(GREETED + b"DATA\r\n") == ["250", "503 5.5.1"]


@pytest.mark.parametrize("command", [b"EHLO two words\r\n", b"HELO two words\r\n"])
def test_a_refused_greeting_leaves_all_as_it_was(command: bytes) -> None:
    client = ready()
    assert client.codes(command + b"DATA\r\nx\r\n.\r\n") == ["501 5.5.4", "354", "250 2.0.0"]
    assert client.messages[0][0].protocol == "ESMTP"
    plain = Client()
    assert plain.codes(b"HELO c\r\n" + command + b"MAIL FROM:<> SIZE=1\r\n") == ["250", "501 5.5.4", "555 5.5.4"]


def test_helo_takes_back_what_ehlo_asked_for() -> None:
    client = greeted()
    assert client.codes(b"HELO c\r\nMAIL FROM:<> SIZE=1\r\n") == ["250", "555 5.5.4"]


# -- the order of commands ----------------------------------------------------------------------------------------


@pytest.mark.parametrize("command", [b"MAIL FROM:<>", b"RCPT TO:<b@example.org>", b"DATA", b"BDAT 0 LAST"])
def test_a_message_needs_a_greeting_first(command: bytes) -> None:
    assert Client().codes(command + b"\r\n") == ["503 5.5.1"]


@pytest.mark.parametrize(
    ("command", "code"),
    [
        (b"NOOP", "250 2.0.0"),
        (b"NOOP anything at all", "250 2.0.0"),
        (b"RSET", "250 2.0.0"),
        (b"RSET  ", "250 2.0.0"),
        (b"HELP", "214 2.0.0"),
        (b"HELP mail", "214 2.0.0"),
        (b"VRFY somebody", "252 2.5.0"),
        (b"QUIT", "221 2.0.0"),
    ],
)
def test_what_is_not_about_a_message_is_answered_at_any_time(command: bytes, code: str) -> None:
    assert Client().codes(command + b"\r\n") == [code]
    assert ready().codes(command + b"\r\n") == [code]


@pytest.mark.parametrize(
    ("command", "code"),
    [
        (b"VRFY", "501 5.5.4"),
        (b"VRFY  ", "501 5.5.4"),
        (b"RSET now", "501 5.5.4"),
        (b"DATA now", "501 5.5.4"),
        (b"QUIT now", "501 5.5.4"),
        (b"EXPN list", "502 5.5.1"),
        (b"TURN", "502 5.5.1"),
        (b"STARTTLS", "454 4.7.0"),
        (b"AUTH PLAIN AGEAYg==", "502 5.5.1"),
        (b"FROBNICATE", "500 5.5.2"),
        (b"NOOPS", "500 5.5.2"),
        (b"", "500 5.5.2"),
        (b" NOOP", "500 5.5.2"),
    ],
)
def test_a_wrong_command_gets_its_code_and_changes_nothing(command: bytes, code: str) -> None:
    client = ready()
    assert client.codes(command + b"\r\n") == [code]
    assert client.codes(b"DATA\r\n") == ["354"]


def test_a_second_mail_is_refused() -> None:
    assert ready().codes(b"MAIL FROM:<>\r\n") == ["503 5.5.1"]


def test_rcpt_and_data_need_mail() -> None:
    assert greeted().codes(b"RCPT TO:<b@example.org>\r\nDATA\r\n") == ["503 5.5.1", "503 5.5.1"]


def test_data_needs_an_accepted_recipient() -> None:
    client = greeted()
    assert client.codes(b"MAIL FROM:<>\r\nRCPT TO:<b@elsewhere.example>\r\nDATA\r\n") == [
        "250 2.1.0",
        "550 5.7.1",
        "554 5.5.1",
    ]


def test_rset_drops_the_message_under_way_and_keeps_the_greeting() -> None:
    client = ready()
    assert client.codes(b"RSET\r\nDATA\r\n") == ["250 2.0.0", "503 5.5.1"]
    assert client.codes(ENVELOPE) == ["250 2.1.0", "250 2.1.5"]


def test_nothing_is_answered_after_quit() -> None:
    client = ready()
    assert codes_of(client.send(b"QUIT\r\nDATA\r\n")) == ["221 2.0.0"]
    assert client.is_closed
    assert client.send(b"NOOP\r\n") == b""


def test_http_is_told_to_go_at_once() -> None:
    client = Client()
    assert client.codes(b"POST / HTTP/1.1\r\nHost: x\r\n\r\nMAIL FROM:<>\r\n") == ["421 4.7.0"]
    assert client.is_closed


# -- messages -----------------------------------------------------------------------------------------------------


def test_a_message_comes_out_with_its_envelope() -> None:
    client = ready()
    assert client.codes(b"RCPT TO:<c@example.org>\r\nDATA\r\n") == ["250 2.1.5", "354"]
    assert client.send(b"Subject: hi\r\n\r\nhello\r\n.\r\n") == b"250 2.0.0 Ok: queued as id1\r\n"
    ((envelope, content),) = client.messages
    assert content == b"Subject: hi\n\nhello\n"
    assert (envelope.sender, envelope.recipients) == ("a@example.net", ("b@example.org", "c@example.org"))
    assert (envelope.helo, envelope.peer) == ("client.example.net", PEER)
    assert (envelope.protocol, envelope.body) == ("ESMTP", "7BIT")


def test_no_reply_is_given_before_the_message_is_stored() -> None:
    client = ready()
    client.send(b"DATA\r\n")
    step = client.session.receive(b"hello\r\n.\r\nNOOP\r\n")
    assert step.reply == b""
    assert step.delivery is not None
    assert client.session.receive(b"NOOP\r\n").reply == b""
    assert codes_of(client.session.delivered("x").reply) == ["250 2.0.0", "250 2.0.0", "250 2.0.0"]


def test_a_message_that_cannot_be_stored_gets_the_reply_of_the_store() -> None:
    client = Client(refuse_with=b"452 4.3.1 full\r\n")
    client.send(GREETED + ENVELOPE + b"DATA\r\n")
    assert client.codes(b"hello\r\n.\r\n") == ["452 4.3.1"]
    assert client.codes(ENVELOPE) == ["250 2.1.0", "250 2.1.5"]


def test_storing_that_was_not_asked_for_is_a_mistake_of_the_driver() -> None:
    session = ready().session
    for answer in (session.stored, lambda: session.delivered("x"), lambda: session.failed(b"450 no\r\n")):
        with pytest.raises(RuntimeError, match="no such delivery"):
            answer()
    session.receive(b"DATA\r\nx\r\n.\r\n")
    with pytest.raises(RuntimeError, match="no such delivery"):
        session.stored()  # it was the whole message


def test_many_messages_go_through_one_connection() -> None:
    client = greeted()
    for _ in range(3):
        client.send(ENVELOPE + b"DATA\r\n")
        client.send(b"hello\r\n.\r\n")
    assert client.contents == [b"hello\n"] * 3


def test_an_empty_message_is_a_message() -> None:
    client = ready()
    client.send(b"DATA\r\n.\r\n")
    assert client.contents == [b""]


def test_a_doubled_dot_at_the_begin_of_a_line_is_one_dot() -> None:
    client = ready()
    client.send(b"DATA\r\n..\r\n...x\r\na..b\r\n.y\r\n..\r\n.\r\n")
    assert client.contents == [b".\n..x\na..b\ny\n.\n"]


def test_bytes_beyond_ascii_and_nul_in_a_message_stay_as_they_are() -> None:
    client = ready()
    client.send(b"DATA\r\n" + bytes(set(range(256)) - {10, 13}) + b"\r\n.\r\n")
    assert client.contents == [bytes(set(range(256)) - {10, 13}) + b"\n"]


def test_the_null_sender_is_accepted() -> None:
    client = greeted()
    client.send(b"MAIL FROM:<>\r\nRCPT TO:<b@example.org>\r\nDATA\r\nx\r\n.\r\n")
    assert client.messages[0][0].sender == ""


def test_helo_gives_the_protocol_smtp_and_allows_no_parameter() -> None:
    client = Client()
    assert client.codes(b"HELO c\r\nMAIL FROM:<> SIZE=1\r\n") == ["250", "555 5.5.4"]
    client.send(ENVELOPE + b"DATA\r\nx\r\n.\r\n")
    assert client.messages[0][0].protocol == "SMTP"


def test_a_recipient_named_twice_is_recorded_once() -> None:
    client = ready()
    client.send(b"RCPT TO:<b@example.org>\r\nDATA\r\nx\r\n.\r\n")
    assert client.messages[0][0].recipients == ("b@example.org",)


# -- recipients ---------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    "address", ["b@example.org", "b@EXAMPLE.org", "Postmaster", "postMASTER", "postmaster@example.org"]
)
def test_mail_for_the_own_domains_and_the_postmaster_is_accepted(address: str) -> None:
    client = greeted()
    assert client.codes(f"MAIL FROM:<>\r\nRCPT TO:<{address}>\r\n".encode()) == ["250 2.1.0", "250 2.1.5"]


@pytest.mark.parametrize("address", ["b@example.net", "b@sub.example.org", "b@[192.0.2.1]", '"b@example.org"@x.org'])
def test_mail_for_others_is_not_relayed(address: str) -> None:
    client = greeted()
    assert client.codes(f"MAIL FROM:<>\r\nRCPT TO:<{address}>\r\n".encode()) == ["250 2.1.0", "550 5.7.1"]


def test_a_source_route_is_accepted_and_dropped() -> None:
    client = greeted()
    client.send(b"MAIL FROM:<@x.org,@y.org:a@z.org>\r\nRCPT TO:<@x.org:b@example.org>\r\nDATA\r\nx\r\n.\r\n")
    envelope = client.messages[0][0]
    assert (envelope.sender, envelope.recipients) == ("a@z.org", ("b@example.org",))


def test_the_policy_hears_who_sends_to_whom_and_its_reply_is_the_refusal() -> None:
    asked = []

    class Nobody:
        def refusal(self, sender: str, recipient: Recipient) -> bytes:
            asked.append((sender, recipient))
            return b"450 4.2.0 Not now\r\n"

    session = Session(SETTINGS, PEER, Nobody())
    assert session.receive(GREETED + ENVELOPE).reply.endswith(b"\r\n450 4.2.0 Not now\r\n")
    assert asked == [("a@example.net", Recipient("b@example.org", "example.org"))]


# -- SIZE, 8BITMIME, SMTPUTF8 -------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("parameters", "code"),
    [
        ("SIZE=1000", "250 2.1.0"),
        ("SIZE=0", "250 2.1.0"),
        ("size=26214400", "250 2.1.0"),
        ("SIZE=26214401", "552 5.3.4"),
        ("SIZE=99999999999999999999", "552 5.3.4"),
        ("SIZE=100000000000000000000", "501 5.5.4"),
        ("SIZE", "501 5.5.4"),
        ("SIZE=", "501 5.5.4"),
        ("SIZE=1 SIZE=1", "501 5.5.4"),
        ("SIZE=x", "501 5.5.4"),
        ("SIZE=-1", "501 5.5.4"),
        ("SIZE=\u0661", "501 5.5.4"),
        ("BODY=7BIT", "250 2.1.0"),
        ("body=8bitmime", "250 2.1.0"),
        ("BODY=BINARYMIME", "501 5.5.4"),
        ("BODY", "501 5.5.4"),
        ("SMTPUTF8", "250 2.1.0"),
        ("SMTPUTF8=yes", "501 5.5.4"),
        ("SMTPUTF8  BODY=8BITMIME   SIZE=5 ", "250 2.1.0"),
        ("AUTH=<>", "555 5.5.4"),
        ("RET=HDRS", "555 5.5.4"),
        ("=x", "501 5.5.4"),
        ("-X=1", "501 5.5.4"),
        ("X=a=b", "501 5.5.4"),
    ],
)
def test_a_parameter_of_mail_is_known_and_well_formed_or_refused(parameters: str, code: str) -> None:
    assert greeted().codes(f"MAIL FROM:<a@example.net> {parameters}\r\n".encode()) == [code]


@pytest.mark.parametrize(("parameters", "code"), [("NOTIFY=NEVER", "555 5.5.4"), ("=", "501 5.5.4")])
def test_rcpt_has_no_parameters_here(parameters: str, code: str) -> None:
    client = greeted()
    client.send(b"MAIL FROM:<>\r\n")
    assert client.codes(f"RCPT TO:<b@example.org> {parameters}\r\n".encode()) == [code]


def test_an_address_beyond_ascii_needs_smtputf8() -> None:
    client = greeted()
    assert client.codes("MAIL FROM:<jürgen@exämple.net>\r\n".encode()) == ["553 5.6.7"]
    assert client.codes("MAIL FROM:<a@b.c>\r\nRCPT TO:<jürgen@example.org>\r\n".encode()) == ["250 2.1.0", "553 5.6.7"]


def test_with_smtputf8_addresses_come_through_in_utf_8() -> None:
    client = greeted()
    assert client.codes(
        "MAIL FROM:<jürgen@exämple.net> SMTPUTF8 body=8bitmime\r\nRCPT TO:<用户@example.org>\r\n".encode()
    ) == ["250 2.1.0", "250 2.1.5"]
    client.send(b"DATA\r\nx\r\n.\r\n")
    envelope = client.messages[0][0]
    assert (envelope.sender, envelope.recipients) == ("jürgen@exämple.net", ("用户@example.org",))
    assert (envelope.protocol, envelope.body) == ("UTF8SMTP", "8BITMIME")


def test_a_command_that_is_not_utf_8_is_refused() -> None:
    assert greeted().codes(b"MAIL FROM:<\xe9@example.net> SMTPUTF8\r\n") == ["500 5.5.2"]


# -- CHUNKING -----------------------------------------------------------------------------------------------------


def test_bdat_takes_chunks_and_says_how_much() -> None:
    client = ready()
    assert client.send(b"BDAT 8\r\nSubject:") == b"250 2.0.0 8 octets received\r\n"
    assert client.send(b"BDAT 12 LAST\r\n hi\r\n\r\n.\r\n.x") == b"250 2.0.0 Ok: queued as id1\r\n"
    assert client.contents == [b"Subject: hi\n\n.\n.x\n"]


def test_bdat_0_last_ends_a_message() -> None:
    client = ready()
    assert client.codes(b"BDAT 3\r\nx\r\nBDAT 0 LAST\r\n") == ["250 2.0.0", "250 2.0.0"]
    assert client.contents == [b"x\n"]


def test_bdat_0_last_alone_is_an_empty_message() -> None:
    client = ready()
    assert client.codes(b"BDAT 0\r\nbdat 0 last\r\n") == ["250 2.0.0", "250 2.0.0"]
    assert client.contents == [b""]


def test_after_the_last_chunk_another_is_out_of_order_and_is_read_over() -> None:
    client = ready()
    assert client.codes(b"BDAT 1 LAST\r\nxBDAT 6\r\nQUIT\r\nNOOP\r\n") == ["250 2.0.0", "503 5.5.1", "250 2.0.0"]


def test_bdat_and_data_do_not_mix() -> None:
    client = ready()
    assert client.codes(b"BDAT 1\r\nxDATA\r\nRCPT TO:<c@example.org>\r\nBDAT 1 LAST\r\ny") == [
        "250 2.0.0",
        "503 5.5.1",
        "503 5.5.1",
        "250 2.0.0",
    ]
    assert client.contents == [b"xy\n"]


@pytest.mark.parametrize("before", [b"", b"MAIL FROM:<>\r\n", b"MAIL FROM:<>\r\nRCPT TO:<b@else.where>\r\n"])
def test_a_refused_chunk_is_read_over(before: bytes) -> None:
    client = greeted()
    client.send(before)
    replies = client.codes(b"BDAT 6 LAST\r\nQUIT\r\nNOOP\r\n")
    assert replies == ["554 5.5.1" if before else "503 5.5.1", "250 2.0.0"]
    assert not client.is_closed


def test_a_refused_chunk_is_an_error_as_others_are_and_the_next_one_is_judged_by_itself() -> None:
    client = greeted()
    assert client.codes(b"BDAT 1\r\nx" + ENVELOPE + b"BDAT 1 LAST\r\nx")[-1] == "250 2.0.0"
    client = Client(settings(max_errors=2))
    assert client.codes(b"BDAT 1\r\nxBDAT 1\r\nxNOOP\r\n") == ["503 5.5.1", "421 4.7.0"]
    assert client.is_closed


@pytest.mark.parametrize("begin", [b"DATA\r\n", b"BDAT 6 LAST\r\n"])
def test_what_comes_next_belongs_to_a_message_up_to_its_end(begin: bytes) -> None:
    client = ready()
    assert not client.session.is_in_content
    client.send(begin + b"x\r\n")
    assert client.session.is_in_content
    client.send(b".\r\n")
    assert not client.session.is_in_content
    assert len(client.messages) == 1


@pytest.mark.parametrize(
    "line",
    [
        b"BDAT",
        b"bdat x",
        b"BDAT x",
        b"BDAT -1",
        b"BDAT 1 FIRST",
        b"BDAT 5LAST",
        b"BDAT 99999999999999999999",
        b"BDAT\t5",
    ],
)
def test_a_bdat_without_a_size_closes_the_connection_for_its_chunk_would_be_taken_for_commands(line: bytes) -> None:
    client = ready()
    (code,) = client.codes(line + b"\r\nRSET\r\n")
    assert code in ("500 5.5.2", "501 5.5.4")
    assert client.is_closed


def test_a_chunk_that_makes_the_message_too_large_is_refused_and_so_are_the_ones_after_it() -> None:
    client = ready(settings(max_message_size=65536))
    line = b"x" * 98 + b"\r\n"
    assert client.codes(b"BDAT 70000\r\n" + line * 700) == ["552 5.3.4"]
    assert client.codes(b"BDAT 100\r\n" + line + b"BDAT 0 LAST\r\n") == ["552 5.3.4", "552 5.3.4"]
    assert client.codes(ENVELOPE) == ["250 2.1.0", "250 2.1.5"]
    assert client.messages == []


@pytest.mark.parametrize("text", [b"x" * 1100 + b"\r\r", b"x" * 1100 + b"\n", b"x" * 1000 + b"\rx\n"], ids=len)
def test_a_chunk_is_refused_for_the_same_reason_however_it_comes(text: bytes) -> None:
    for pieces in ([text], bytewise(text)):
        client = ready()
        client.send(b"BDAT %d\r\n" % len(text))
        for piece in pieces:
            client.send(piece)
        assert client.output.endswith(
            b"550 5.6.0 The message has a CR or LF that stands alone; a line ends with both\r\n"
        )


def test_rset_ends_a_message_in_chunks() -> None:
    client = ready()
    assert client.codes(b"BDAT 1\r\nxRSET\r\n" + ENVELOPE + b"DATA\r\n") == [
        "250 2.0.0",
        "250 2.0.0",
        "250 2.1.0",
        "250 2.1.5",
        "354",
    ]


# -- PIPELINING ---------------------------------------------------------------------------------------------------


def test_the_replies_to_a_group_of_commands_leave_together() -> None:
    step = Session(SETTINGS, PEER, LocalDomains(("example.org",))).receive(GREETED + ENVELOPE + b"DATA\r\n")
    assert codes_of(step.reply) == ["250", "250 2.1.0", "250 2.1.5", "354"]


def test_whole_messages_may_be_sent_in_a_row_without_waiting() -> None:
    message = ENVELOPE + b"BDAT 7 LAST\r\nhello\r\n"
    client = run([GREETED + message * 3 + b"QUIT\r\n"])
    assert client.contents == [b"hello\n"] * 3
    assert codes_of(client.output)[-1] == "221 2.0.0"


# -- limits -------------------------------------------------------------------------------------------------------


def test_a_command_line_may_have_512_octets_and_no_more() -> None:
    assert Client().codes(b"NOOP " + b"x" * 505 + b"\r\n") == ["250 2.0.0"]
    client = Client()
    assert client.codes(b"NOOP " + b"x" * 506 + b"\r\nNOOP\r\n") == ["500 5.5.2", "250 2.0.0"]


@pytest.mark.parametrize("verb", [b"MAIL FROM", b"mail from"])
def test_mail_may_be_longer_by_what_the_extensions_add(verb: bytes) -> None:
    command = verb + b":<a@example.net> SIZE=1 BODY=8BITMIME SMTPUTF8"
    assert greeted().codes(command + b" " * (565 - len(command) - 2) + b"\r\n") == ["250 2.1.0"]
    assert greeted().codes(command + b" " * (566 - len(command) - 2) + b"\r\n") == ["500 5.5.2"]


@pytest.mark.parametrize(
    "filler", [b" " * 1000, b"x" + "é".encode() * 499 + b"x", b"\xff" * 1000], ids=["ASCII", "UTF-8", "no UTF-8"]
)
@pytest.mark.parametrize("cut", [100, 512, 563, 564, 565, 566, 700, 1025, 1026])
def test_a_line_that_is_too_long_is_so_however_it_comes(cut: int, filler: bytes) -> None:
    line = b"MAIL FROM:<a@example.net>" + filler + b"\r\n"
    client = greeted()
    assert client.send(line[:cut]) == b""
    assert client.send(line[cut:]) == b"500 5.5.2 Command line too long\r\n"


@pytest.mark.parametrize("cut", [0, 100, 700])
def test_a_line_that_is_too_long_and_no_line_is_refused_as_the_latter_however_it_comes(cut: int) -> None:
    line = b"NOOP " + b"x" * 600 + b"\n" + b"x" * 200 + b"\r\n"
    client = Client()
    client.send(line[:cut])
    client.send(line[cut:])
    assert client.output.startswith(b"500 5.5.2 A line ends with CR LF")
    assert client.output.count(b"\r\n") == 1


def test_a_command_line_without_end_is_not_held_in_memory() -> None:
    client = Client()
    for _ in range(50):
        assert client.send(b"x" * 10_000) == b""
    assert len(client.session._held) < 600
    assert client.codes(b"\r\nNOOP\r\n") == ["500 5.5.2", "250 2.0.0"]


def test_the_largest_message_is_accepted_and_one_octet_more_is_not() -> None:
    line = b"x" * 98 + b"\r\n"
    text = line * 655 + b"x" * 34 + b"\r\n"
    assert len(text) == 65536
    client = ready(settings(max_message_size=65536))
    assert client.codes(b"DATA\r\n" + text + b".\r\n") == ["354", "250 2.0.0"]
    client = ready(settings(max_message_size=65536))
    assert client.codes(b"DATA\r\nx" + text + b".\r\nNOOP\r\n") == ["354", "552 5.3.4", "250 2.0.0"]
    assert client.messages == []


def test_stuffed_dots_do_not_count_towards_the_size() -> None:
    text = b"..\r\n" * 16384 + b"x" * (65536 - 16384 * 3 - 2)
    with_lines = text[:65536] + b"".join(b"x" * 998 + b"\r\n" for _ in range(16)) + b"x" * 382 + b"\r\n"
    client = ready(settings(max_message_size=65536))
    assert client.codes(b"DATA\r\n" + with_lines + b".\r\n") == ["354", "250 2.0.0"]
    assert len(client.contents[0]) + client.contents[0].count(b"\n") == 65536


@pytest.mark.parametrize(("length", "code"), [(1000, "250 2.0.0"), (1001, "550 5.6.0")])
def test_a_line_of_a_message_may_have_1000_octets_with_its_end_and_no_more(length: int, code: str) -> None:
    line = b"x" * (length - 2) + b"\r\n"
    assert ready().codes(b"DATA\r\na\r\n" + line + b"b\r\n.\r\nNOOP\r\n") == ["354", code, "250 2.0.0"]
    assert ready().codes(b"DATA\r\n." + b"." + line[1:] + b".\r\nNOOP\r\n") == ["354", code, "250 2.0.0"]
    assert ready().codes(b"BDAT %d LAST\r\n" % length + line + b"NOOP\r\n") == [code, "250 2.0.0"]


def test_the_limit_of_a_line_can_be_set() -> None:
    client = ready(settings(max_text_line=5000))
    assert client.codes(b"DATA\r\n" + b"x" * 4998 + b"\r\n.\r\n") == ["354", "250 2.0.0"]


def test_recipients_beyond_the_limit_are_to_come_again() -> None:
    client = greeted(settings(max_recipients=100))
    client.send(b"MAIL FROM:<>\r\n")
    replies = client.codes(b"".join(b"RCPT TO:<u%d@example.org>\r\n" % n for n in range(150)))
    assert replies == ["250 2.1.5"] * 100 + ["452 4.5.3"] * 50
    assert not client.is_closed
    assert client.codes(b"DATA\r\nx\r\n.\r\n") == ["354", "250 2.0.0"]
    assert len(client.messages[0][0].recipients) == 100


def test_the_last_of_too_many_errors_closes_the_connection() -> None:
    client = Client(settings(max_errors=3))
    assert client.codes(b"FOO\r\nBAR\r\nBAZ\r\nNOOP\r\n") == ["500 5.5.2", "500 5.5.2", "421 4.7.0"]
    assert client.is_closed


def test_an_accepted_message_forgives_the_errors_before_it() -> None:
    client = ready(settings(max_errors=3))
    assert client.codes(b"FOO\r\nBAR\r\nDATA\r\nx\r\n.\r\nFOO\r\nBAR\r\nNOOP\r\n")[-3:] == [
        "500 5.5.2",
        "500 5.5.2",
        "250 2.0.0",
    ]


@pytest.mark.parametrize("aside", [b"NOOP\r\n", b"RSET\r\n", b"VRFY x\r\n", b"HELP\r\n", GREETED])
def test_too_many_commands_without_a_message_close_the_connection(aside: bytes) -> None:
    client = Client(settings(max_asides=5))
    replies = client.codes(aside * 7)
    assert len(replies) == 6
    assert replies[-1] == "421 4.7.0"
    assert client.is_closed


def test_an_accepted_message_makes_room_for_new_asides() -> None:
    client = ready(settings(max_asides=2))
    client.send(b"NOOP\r\nDATA\r\nx\r\n.\r\n")
    assert client.codes(b"NOOP\r\nNOOP\r\nNOOP\r\n") == ["250 2.0.0", "250 2.0.0", "421 4.7.0"]


# -- large messages -----------------------------------------------------------------------------------------------


def test_a_large_message_is_handed_over_in_parts_that_are_bounded() -> None:
    client = ready(settings(spool_size=4096))
    client.send(b"DATA\r\n")
    sizes = []
    for _ in range(100):
        step = client.session.receive(b"x" * 998 + b"\r\n")
        if step.delivery is not None:
            assert not step.delivery.complete
            assert client.session.has_parts_out
            sizes.append(sum(map(len, step.delivery.content)))
        client.follow(step)
    assert len(sizes) == 20
    assert max(sizes) < 4096 + 1000
    assert client.codes(b".\r\n") == ["250 2.0.0"]
    assert client.contents == [(b"x" * 998 + b"\n") * 100]
    assert not client.session.has_parts_out


@pytest.mark.parametrize(
    ("ending", "code"), [(b"bare\n\r\n.\r\n", "550 5.6.0"), (b"x" * 999 + b"\r\n.\r\n", "550 5.6.0")]
)
def test_the_parts_of_a_message_that_turns_out_faulty_are_given_up(ending: bytes, code: str) -> None:
    client = ready(settings(spool_size=4096))
    client.send(b"DATA\r\n" + b"x" * 998 + b"\r\n" + b"y" * 998 + b"\r\n")
    client.send(b"z" * 498 + b"\r\n" + b"z" * 998 + b"\r\n" + b"z" * 998 + b"\r\n")
    assert client.session.has_parts_out
    assert client.codes(ending) == [code]
    assert not client.session.has_parts_out


def test_the_parts_of_a_message_that_is_reset_are_given_up() -> None:
    client = ready(settings(spool_size=4096))
    assert client.codes(b"BDAT 5000\r\n" + (b"x" * 498 + b"\r\n") * 10) == ["250 2.0.0"]
    assert client.session.has_parts_out
    client.send(b"RSET\r\n")
    assert not client.session.has_parts_out


def test_a_part_that_cannot_be_stored_fails_the_message_at_its_end() -> None:
    client = ready(settings(spool_size=4096))
    step = client.session.receive(b"DATA\r\n" + (b"x" * 498 + b"\r\n") * 10)
    assert step.delivery is not None
    assert client.follow(client.session.failed(b"452 4.3.1 full\r\n")) == b""
    assert not client.session.has_parts_out
    assert client.send((b"x" * 498 + b"\r\n") * 20) == b""
    assert client.codes(b".\r\n") == ["452 4.3.1"]
    assert client.messages == []


# -- the end of a session -----------------------------------------------------------------------------------------


def test_a_silent_client_is_told_why_it_is_closed() -> None:
    client = ready()
    step = client.session.time_out()
    assert codes_of(step.reply) == ["421 4.4.2"]
    assert step.close
    assert client.session.time_out().reply == b""


def test_a_session_that_ends_while_a_message_is_stored_waits_for_it_no_longer() -> None:
    client = ready()
    assert client.session.receive(b"DATA\r\nx\r\n.\r\n").delivery is not None
    step = client.session.time_out()
    assert (step.delivery, step.close) == (None, True)
    with pytest.raises(RuntimeError, match="no such delivery"):
        client.session.delivered("x")


def test_after_the_end_of_a_session_a_shutdown_asks_for_nothing() -> None:
    client = ready()
    client.send(b"QUIT\r\n")
    assert client.session.shut_down() == Step()


def test_a_shutdown_between_commands_closes_at_once() -> None:
    step = ready().session.shut_down()
    assert codes_of(step.reply) == ["421 4.3.2"]
    assert step.close


@pytest.mark.parametrize("ending", [b"DATA\r\n", b"BDAT 9 LAST\r\n"])
def test_a_shutdown_lets_the_message_that_is_coming_in_come_in(ending: bytes) -> None:
    client = ready()
    client.send(ending)
    assert client.follow(client.session.shut_down()) == b""
    rest = b"hello\r\n.\r\n" if ending == b"DATA\r\n" else b"hello\r\n.."
    assert client.codes(rest + b"NOOP\r\n") == ["250 2.0.0", "421 4.3.2"]
    assert client.is_closed
    assert len(client.messages) == 1


@pytest.mark.parametrize(("begin", "rest"), [(b"BDAT 3\r\nabc", b""), (b"BDAT 3\r\na", b"bc")])
def test_a_shutdown_between_two_chunks_drops_the_message(begin: bytes, rest: bytes) -> None:
    client = ready()
    client.send(begin)
    client.follow(client.session.shut_down())
    client.send(rest)
    assert codes_of(client.output)[-2:] == ["250 2.0.0", "421 4.3.2"]
    assert client.is_closed
    assert client.messages == []


def test_a_shutdown_while_a_message_is_stored_waits_for_it() -> None:
    client = ready()
    step = client.session.receive(b"DATA\r\nhello\r\n.\r\nNOOP\r\n")
    assert step.delivery is not None
    assert client.session.shut_down() == Step()
    step = client.session.delivered("x")
    assert codes_of(step.reply) == ["250 2.0.0", "421 4.3.2"]
    assert step.close


# -- any bytes, any split -----------------------------------------------------------------------------------------

LINES = [
    GREETED,
    b"HELO x\r\n",
    ENVELOPE,
    b"MAIL FROM:<> SMTPUTF8\r\n",
    "RCPT TO:<é@example.org>\r\n".encode(),
    b"RCPT TO:<b@example.net>\r\n",
    b"DATA\r\n",
    b"hello\r\n",
    b"..stuffed\r\n",
    b".\r\n",
    b"BDAT 5\r\n",
    b"BDAT 12 LAST\r\n",
    b"BDAT 0 LAST\r\n",
    b"BDAT x\r\n",
    b"RSET\r\n",
    b"STARTTLS\r\n",
    b"bare\nLF\r\n",
    b"bare\rCR\r\n",
    b"\n.\n",
    b"\r.\r",
    b"\r\r\n",
    b"\r",
    b"\n",
    b"NUL\0\r\n",
    b"\xff\r\n",
    b"x" * 520 + b"\r\n",
    b"x" * 999 + b"\r\n",
    b"y" * 1500,
    b"POST / HTTP/1.1\r\n",
    b"QUIT\r\n",
]
DIALOGUES = st.lists(st.sampled_from(LINES) | st.binary(max_size=6), max_size=20).map(b"".join)
SMALL = settings(max_errors=5, spool_size=4096)


BEGINS = [b"", *(GREETED + ENVELOPE + command for command in (b"DATA\r\n", b"BDAT 2000\r\n", b"BDAT 3000 LAST\r\n"))]


@given(begin=st.sampled_from(BEGINS), rest=DIALOGUES, cuts=st.lists(st.integers(0, 20_000), max_size=8))
def test_any_split_of_any_dialogue_gives_the_same_replies_and_messages(
    begin: bytes, rest: bytes, cuts: list[int]
) -> None:
    dialogue = begin + rest
    whole = run([dialogue], SMALL)
    places = sorted({cut % (len(dialogue) + 1) for cut in cuts} | {0, len(dialogue)})
    pieces = [dialogue[begin:end] for begin, end in itertools.pairwise(places)]
    for other in (run(pieces, SMALL), run(bytewise(dialogue), SMALL)):
        assert other.output == whole.output
        assert other.messages == whole.messages
        assert other.is_closed == whole.is_closed


@given(pieces=st.lists(st.binary(max_size=40) | st.sampled_from(LINES), max_size=30))
def test_no_bytes_raise_and_every_reply_is_well_formed(pieces: list[bytes]) -> None:
    client = Client(SMALL)
    client.send(GREETED)
    for piece in pieces:
        client.send(piece)
    assert client.output.endswith(b"\r\n")
    for line in client.output.decode("ascii").split("\r\n")[:-1]:
        assert line[:3].isdigit()
        assert line[3] in " -"
        assert line.isprintable()
        assert len(line) <= 510
