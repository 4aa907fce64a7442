"""The client with real servers: the one of this project, and Postfix."""

from __future__ import annotations

import email
import email.policy
from collections.abc import Iterator
from email.message import EmailMessage
from pathlib import Path
from typing import Any

import pytest

from actors.smtp_client import Receipt, SmtpClient, Submission
from tests.actors.smtp.serving import Served, serving
from tests.actors.smtp_client.postfix import Postfix, running_postfix
from tests.certificates_fixture import Certificates
from theater_tcp import Theater

TIMEOUT_S = 30.0
TEXT = "First line.\n.A line with a dot.\n\nLast line.\n"
SUBMISSION = Submission("a@example.net", ["b@example.org", "c@example.org"], f"Subject: hello\n\n{TEXT}".encode())


@pytest.fixture
def served(tmp_path: Path, certificates: Certificates) -> Iterator[Served]:
    """The server of this project, with STARTTLS at one address and implicit TLS at another."""
    with serving(tmp_path, certificate=certificates.server, implicit_tls=["127.0.0.1:0"]) as served:
        yield served


@pytest.fixture
def theater() -> Iterator[Theater]:
    with Theater() as theater:
        yield theater


def send(theater: Theater, address: str, submission: Submission = SUBMISSION, **settings: Any) -> Receipt:
    """Submit a message to the server at the address."""
    client = theater.spawn(SmtpClient, address, name="client.example.net", **settings)
    receipt: Receipt = client.ask(submission, block=True, timeout=TIMEOUT_S)
    return receipt


def parsed(content: bytes) -> EmailMessage:
    return email.message_from_bytes(content, policy=email.policy.default)


def identifier_in(receipt: Receipt) -> str:
    """What the server calls the message: it stands at the end of the reply."""
    assert receipt.outcomes[0].status == "accepted"
    return receipt.outcomes[0].text.rpartition(" ")[2]


# -- the server of this project -----------------------------------------------------------------------------------


def test_our_own_server_takes_a_message_over_starttls(
    served: Served, theater: Theater, certificates: Certificates
) -> None:
    receipt = send(theater, served.address, ca_cert=certificates.ca)
    assert receipt.is_accepted
    assert receipt.tls.startswith("TLSv1.3 ")
    (content,) = served.delivered()
    message = parsed(content)
    assert message.get_all("Delivered-To") == ["b@example.org", "c@example.org"]
    assert message.get_content() == TEXT
    assert "with ESMTPS id " in message["Received"]
    assert identifier_in(receipt) in message["Received"]


def test_our_own_server_takes_a_message_over_implicit_tls(
    served: Served, theater: Theater, certificates: Certificates
) -> None:
    receipt = send(theater, served.implicit, tls="implicit", ca_cert=certificates.ca)
    assert receipt.is_accepted
    assert len(served.delivered()) == 1


def test_an_ipv6_address_is_verified_as_such(tmp_path: Path, theater: Theater, certificates: Certificates) -> None:
    with serving(tmp_path, "[::1]:0", certificate=certificates.server) as served:
        assert send(theater, served.address, ca_cert=certificates.ca).is_accepted
    with serving(tmp_path, "[::1]:0", certificate=certificates.other) as served:
        assert send(theater, served.address, ca_cert=certificates.ca).error.startswith("tls: certificate verify failed")


def test_a_server_at_a_unix_socket_is_verified_by_the_name_that_is_given(
    tmp_path: Path, theater: Theater, certificates: Certificates
) -> None:
    with serving(tmp_path, f"unix:{tmp_path}/smtp", certificate=certificates.server) as served:
        receipt = send(theater, served.address, ca_cert=certificates.ca, server_name="mx.example.org")
    assert receipt.is_accepted


def test_our_own_server_takes_a_message_with_utf_8_everywhere(
    served: Served, theater: Theater, certificates: Certificates
) -> None:
    submission = Submission("jürgen@exämple.net", ["用户@example.org"], "Subject: grüße\n\nschön\n".encode())
    assert send(theater, served.address, submission, ca_cert=certificates.ca).is_accepted
    message = parsed(served.delivered()[0])
    assert message["Return-Path"] == "<jürgen@exämple.net>"
    assert message["Delivered-To"] == "用户@example.org"
    assert message["Subject"] == "grüße"
    assert "with UTF8SMTPS id " in message["Received"]


def test_our_own_server_refuses_some_recipients_and_takes_the_message_for_the_others(
    served: Served, theater: Theater, certificates: Certificates
) -> None:
    people = ["b@example.org", "c@elsewhere.example", "postmaster"]
    receipt = send(theater, served.address, Submission("", people, b"A: b\n\n"), ca_cert=certificates.ca)
    assert [(outcome.status, outcome.code, outcome.enhanced) for outcome in receipt.outcomes] == [
        ("accepted", 250, "2.0.0"),
        ("refused", 550, "5.7.1"),
        ("accepted", 250, "2.0.0"),
    ]
    assert parsed(served.delivered()[0]).get_all("Delivered-To") == ["b@example.org", "postmaster"]


def test_our_own_server_takes_a_large_message_whole(
    served: Served, theater: Theater, certificates: Certificates
) -> None:
    body = b"".join(b".%06d %s\n" % (number, b"x" * 900) for number in range(10_000))
    submission = Submission("a@example.net", ["b@example.org"], b"Subject: large\n\n" + body)
    assert send(theater, served.address, submission, ca_cert=certificates.ca).is_accepted
    assert served.delivered()[0].endswith(b"Subject: large\n\n" + body)


def test_a_message_is_too_large_for_our_own_server_before_it_is_sent(
    tmp_path: Path, theater: Theater, certificates: Certificates
) -> None:
    with serving(tmp_path, max_message_size=65_536) as served:
        submission = Submission("a@example.net", ["b@example.org"], b"x" * 70_000)
        receipt = send(theater, served.address, submission, tls="none")
        assert receipt.outcomes[0].enhanced == "5.3.4"
        assert receipt.outcomes[0].code == 0


def test_many_clients_send_at_one_time(served: Served, theater: Theater, certificates: Certificates) -> None:
    clients = [theater.spawn(SmtpClient, served.address, ca_cert=certificates.ca) for _ in range(8)]
    asked = [
        client.ask(Submission("", ["b@example.org"], f"Subject: {number}-{count}\n\nhi\n".encode()), block=False)
        for count in range(5)
        for number, client in enumerate(clients)
    ]
    assert all(answer.get(timeout=TIMEOUT_S).is_accepted for answer in asked)
    subjects = {parsed(content)["Subject"] for content in served.delivered()}
    assert subjects == {f"{number}-{count}" for number in range(8) for count in range(5)}


# -- Postfix ------------------------------------------------------------------------------------------------------


@pytest.mark.program("postfix")
def test_postfix_takes_a_message_over_tls_that_is_verified(
    postfix: Postfix, theater: Theater, certificates: Certificates
) -> None:
    receipt = send(theater, postfix.address, ca_cert=certificates.ca)
    assert receipt.is_accepted
    assert receipt.tls.startswith("TLSv1.3 ")
    message = parsed(postfix.delivered(identifier_in(receipt)))
    assert message["Return-Path"] == "<a@example.net>"
    assert message.get_content() == TEXT
    assert "using TLSv1.3 with cipher" in message["Received"]
    assert "with ESMTPS id" in message["Received"]


@pytest.mark.program("postfix")
def test_postfix_takes_a_message_over_tls_that_is_opportunistic(postfix: Postfix, theater: Theater) -> None:
    receipt = send(theater, postfix.address, tls="opportunistic")
    assert receipt.is_accepted
    assert receipt.tls.startswith("TLSv1.3 ")


@pytest.mark.program("postfix")
def test_postfix_refuses_some_recipients_and_takes_the_message_for_the_others(
    postfix: Postfix, theater: Theater, certificates: Certificates
) -> None:
    people = ["b@example.org", "nobody@example.org", "c@elsewhere.example"]
    receipt = send(theater, postfix.address, Submission("", people, b"A: b\n\n"), ca_cert=certificates.ca)
    assert [(outcome.status, outcome.code, outcome.enhanced) for outcome in receipt.outcomes] == [
        ("accepted", 250, "2.0.0"),
        ("refused", 550, "5.1.1"),
        ("refused", 554, "5.7.1"),
    ]


@pytest.mark.program("postfix")
def test_postfix_takes_a_message_with_utf_8_everywhere(
    postfix: Postfix, theater: Theater, certificates: Certificates
) -> None:
    submission = Submission("jürgen@exämple.net", ["b@example.org"], "Subject: grüße\n\nschön\n".encode())
    receipt = send(theater, postfix.address, submission, ca_cert=certificates.ca)
    assert parsed(postfix.delivered(identifier_in(receipt)))["Subject"] == "grüße"


@pytest.mark.program("postfix")
@pytest.mark.parametrize("settings", [{"tls": "required"}, {"tls": "opportunistic", "verify": True}], ids=repr)
def test_a_postfix_that_is_not_the_one_that_was_meant_gets_nothing(
    postfix: Postfix, theater: Theater, certificates: Certificates, settings: dict[str, Any]
) -> None:
    receipt = send(theater, postfix.address, ca_cert=certificates.ca, server_name="elsewhere.example.org", **settings)
    assert receipt.error.startswith("tls: certificate verify failed: ")
    assert receipt.addresses("unsent") == tuple(SUBMISSION.recipients)


@pytest.mark.program("postfix")
def test_a_postfix_without_tls_gets_a_message_only_where_plaintext_is_allowed(
    theater: Theater, certificates: Certificates
) -> None:
    with running_postfix() as plain:
        receipt = send(theater, plain.address, ca_cert=certificates.ca)
        assert receipt.error == "tls: the server does not offer STARTTLS"
        assert send(theater, plain.address, tls="opportunistic").is_accepted
        assert send(theater, plain.address, tls="none").is_accepted
