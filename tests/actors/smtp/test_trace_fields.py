"""The fields in front of a delivered message."""

from __future__ import annotations

import email
import email.policy
import email.utils
import time

import pytest

from actors.smtp import Encryption, Envelope
from actors.smtp.trace_fields import Trace

NOW_S = 1_700_000_000.9


def envelope(**changes: object) -> Envelope:
    fields: dict[str, object] = {
        "sender": "a@example.net",
        "recipients": ("b@example.org",),
        "helo": "client.example.net",
        "peer": "192.0.2.7:40000",
        "protocol": "ESMTP",
        "body": "7BIT",
    }
    return Envelope(**{**fields, **changes})  # type: ignore[arg-type]


def lines_of(**changes: object) -> list[str]:
    return Trace("mx.example.org").fields(envelope(**changes), "17M1", NOW_S).decode().split("\n")


def test_the_fields_say_where_the_message_came_from_and_for_whom() -> None:
    *lines, date, end = lines_of()
    assert lines == [
        "Return-Path: <a@example.net>",
        "Delivered-To: b@example.org",
        "Received: from client.example.net ([192.0.2.7])",
        "\tby mx.example.org with ESMTP id 17M1",
        "\tfor <b@example.org>;",
    ]
    assert email.utils.parsedate_to_datetime(date.strip()).timestamp() == 1_700_000_000
    assert end == ""


def test_the_null_sender_is_an_empty_return_path() -> None:
    assert lines_of(sender="")[0] == "Return-Path: <>"


def test_of_several_recipients_each_gets_a_delivered_to_and_none_stands_in_received() -> None:
    lines = lines_of(recipients=("b@example.org", "c@example.org"))
    assert lines[1:3] == ["Delivered-To: b@example.org", "Delivered-To: c@example.org"]
    assert lines[4] == "\tby mx.example.org with ESMTP id 17M1;"
    assert not any("for <" in line for line in lines)


@pytest.mark.parametrize(
    ("peer", "expected"),
    [
        ("192.0.2.7:25", "[192.0.2.7]"),
        ("[2001:db8::1]:25", "[IPv6:2001:db8::1]"),
        ("[fe80::1%eth0]:25", "[IPv6:fe80::1]"),
        ("unix:", "unix"),
        ("unix:/run/mail.sock", "unix"),
    ],
)
def test_the_address_of_the_client_is_an_address_literal(peer: str, expected: str) -> None:
    assert lines_of(peer=peer)[2] == f"Received: from client.example.net ({expected})"


def test_how_the_connection_was_encrypted_stands_in_a_comment() -> None:
    lines = lines_of(encryption=Encryption("TLSv1.2", "ECDHE-ECDSA-AES256-GCM-SHA384"), protocol="ESMTPS")
    assert lines[2:5] == [
        "Received: from client.example.net ([192.0.2.7])",
        "\t(version=TLSv1.2 cipher=ECDHE-ECDSA-AES256-GCM-SHA384)",
        "\tby mx.example.org with ESMTPS id 17M1",
    ]


@pytest.mark.parametrize("encryption", [None, Encryption("TLSv1.3", "TLS_AES_256_GCM_SHA384")], ids=["plain", "tls"])
def test_a_reader_of_mail_understands_the_fields(encryption: Encryption | None) -> None:
    fields = Trace("mx.example.org").fields(envelope(encryption=encryption), "17M1", NOW_S)
    message = email.message_from_bytes(fields + b"Subject: hi\n\nhello\n", policy=email.policy.default)
    assert message.keys() == ["Return-Path", "Delivered-To", "Received", "Subject"]
    assert message.get_content() == "hello\n"


def test_the_date_is_told_in_the_time_of_the_place(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("TZ", "EET-2")
    time.tzset()
    try:
        assert lines_of()[-2].endswith(" +0200")
    finally:
        monkeypatch.undo()
        time.tzset()


def test_the_date_of_a_second_does_not_stick() -> None:
    trace = Trace("mx.example.org")
    assert trace.fields(envelope(), "x", NOW_S) != trace.fields(envelope(), "x", NOW_S + 1)
