"""The actor and TLS, against a server on a plain socket that does what an attacker, or a careless host, would do."""

from __future__ import annotations

import socket
import ssl
from collections.abc import Callable, Iterator
from typing import Any

import pytest

from actors.smtp_client import Receipt, SmtpClient
from tests.actors.smtp_client.driver import GREETING, MESSAGE, NAME, NO_TLS, SUBMISSION, WITH_TLS
from tests.actors.smtp_client.raw_server import Line, RawServer
from tests.actors.smtp_client.test_session_tls import FORGED
from tests.certificates_fixture import Certificates
from tests.peers import TIMEOUT
from tests.tls_peer import server_context
from theater_tcp import CertificateFiles, Theater

EHLO = f"EHLO {NAME}\r\n".encode()
GO = b"220 2.0.0 go\r\n"
OK = b"250 ok\r\n"
END = b"250 2.0.0 Ok: queued as 7\r\n"
RECORD = 0x16
"""How a ClientHello begins (RFC 8446, 5.1)."""

both = pytest.mark.parametrize("tls", ["required", "opportunistic"])


@pytest.fixture
def theater() -> Iterator[Theater]:
    with Theater() as theater:
        yield theater


def send(theater: Theater, address: str, **settings: Any) -> Receipt:
    """Submit a message to the server at the address."""
    client = theater.spawn(SmtpClient, address, name=NAME, **settings)
    receipt: Receipt = client.ask(SUBMISSION, block=True, timeout=TIMEOUT)
    return receipt


def take_message(line: Line) -> None:
    """Go on with EHLO, and take one message."""
    line.answer(NO_TLS)
    line.answer(OK, OK, OK, b"354 go\r\n")
    assert line.hear(b"\r\n.\r\n") == MESSAGE + b".\r\n"
    line.say(END)
    line.answer(b"221 bye\r\n")


def offer_tls(line: Line) -> None:
    """Go on to the client's STARTTLS, which is not answered yet."""
    line.say(GREETING)
    assert line.answer(WITH_TLS) == [EHLO]
    assert line.hear() == b"STARTTLS\r\n"


def over_starttls(files: CertificateFiles) -> Callable[[Line], None]:
    """A server that does everything right, with this certificate."""

    def script(line: Line) -> None:
        offer_tls(line)
        line.say(GO)
        try:
            line.start_tls(server_context(files))
            take_message(line)
        except (OSError, AssertionError):
            return  # the client did not like the certificate

    return script


# -- what is right ------------------------------------------------------------------------------------------------


def test_a_message_goes_over_starttls_to_a_server_that_is_verified(
    theater: Theater, certificates: Certificates
) -> None:
    def script(line: Line) -> None:
        offer_tls(line)
        line.say(GO)
        line.start_tls(server_context(certificates.server))
        take_message(line)
        assert line.rest() == b""

    with RawServer(script) as server:
        receipt = send(theater, server.address, ca_cert=certificates.ca)
    assert receipt.is_accepted
    assert receipt.tls == "TLSv1.3 TLS_AES_256_GCM_SHA384"
    assert receipt.error == ""


def test_with_implicit_tls_not_a_byte_goes_in_plaintext(theater: Theater, certificates: Certificates) -> None:
    def script(line: Line) -> None:
        line.start_tls(server_context(certificates.server))
        line.say(GREETING)
        take_message(line)

    with RawServer(script) as server:
        receipt = send(theater, server.address, tls="implicit", ca_cert=certificates.ca)
    assert receipt.is_accepted
    assert receipt.tls == "TLSv1.3 TLS_AES_256_GCM_SHA384"


def test_the_client_shows_its_certificate_where_it_has_one(theater: Theater, certificates: Certificates) -> None:
    def script(line: Line) -> None:
        offer_tls(line)
        line.say(GO)
        line.start_tls(server_context(certificates.server, client_ca=certificates.ca))
        take_message(line)
        assert isinstance(line.sock, ssl.SSLSocket)
        shown = line.sock.getpeercert()
        assert shown is not None
        assert ("DNS", "client.example.org") in shown["subjectAltName"]

    own = certificates.client
    with RawServer(script) as server:
        assert send(theater, server.address, ca_cert=certificates.ca, cert=own.cert, key=own.key).is_accepted


@pytest.mark.parametrize(
    "changes",
    [{}, {"verify": True}],
    ids=["any certificate", "a good certificate"],
)
def test_opportunistic_tls_is_taken_where_it_is_offered(
    theater: Theater, certificates: Certificates, changes: dict[str, Any]
) -> None:
    files = certificates.server if changes else certificates.untrusted
    trust = {"ca_cert": certificates.ca} if changes else {}
    with RawServer(over_starttls(files)) as server:
        receipt = send(theater, server.address, tls="opportunistic", **trust, **changes)
    assert receipt.is_accepted
    assert receipt.tls


@pytest.mark.parametrize("refusal", [b"", b"454 4.7.0 not now\r\n", b"502 5.5.1 never\r\n"])
def test_opportunistic_tls_is_done_without_where_it_is_not_offered_or_refused(theater: Theater, refusal: bytes) -> None:
    def script(line: Line) -> None:
        if refusal:
            offer_tls(line)
            line.say(refusal)
        else:
            line.say(GREETING)
            line.answer(NO_TLS)
        line.answer(OK, OK, OK, b"354 go\r\n")
        line.hear(b"\r\n.\r\n")
        line.say(END)
        line.answer(b"221 bye\r\n")

    with RawServer(script) as server:
        receipt = send(theater, server.address, tls="opportunistic")
    assert receipt.is_accepted
    assert receipt.tls == ""


# -- certificates -------------------------------------------------------------------------------------------------

WRONG = [
    ("other", "hostname mismatch|IP address mismatch"),
    ("expired", "certificate has expired"),
    ("untrusted", "unable to get local issuer certificate"),
]


@pytest.mark.parametrize(("files", "reason"), WRONG)
@pytest.mark.parametrize("settings", [{"tls": "required"}, {"tls": "opportunistic", "verify": True}], ids=repr)
@pytest.mark.parametrize("host", ["localhost", "127.0.0.1"])
def test_a_certificate_that_is_wrong_ends_the_attempt_with_the_reason(
    theater: Theater, certificates: Certificates, files: str, reason: str, settings: dict[str, Any], host: str
) -> None:
    with RawServer(over_starttls(getattr(certificates, files))) as server:
        address = server.address.replace("127.0.0.1", host)
        receipt = send(theater, address, ca_cert=certificates.ca, **settings)
    assert receipt.addresses("unsent") == tuple(SUBMISSION.recipients)
    assert receipt.error.startswith("tls: certificate verify failed: ")
    assert any(words in receipt.error for words in reason.split("|")), receipt.error
    assert receipt.tls == ""


@pytest.mark.parametrize(("files", "reason"), WRONG)
def test_with_implicit_tls_a_certificate_that_is_wrong_ends_the_attempt_too(
    theater: Theater, certificates: Certificates, files: str, reason: str
) -> None:
    def script(line: Line) -> None:
        try:
            line.start_tls(server_context(getattr(certificates, files)))
            line.say(GREETING)
        except OSError:
            return
        assert line.rest() == b""

    with RawServer(script) as server:
        receipt = send(theater, server.address, tls="implicit", ca_cert=certificates.ca)
    assert receipt.addresses("unsent") == tuple(SUBMISSION.recipients)
    assert receipt.error.startswith("tls: certificate verify failed: ")


def test_another_name_can_be_asked_for_and_is_the_one_that_counts(theater: Theater, certificates: Certificates) -> None:
    settings = {"ca_cert": certificates.ca, "server_name": "other.example.org"}
    with RawServer(over_starttls(certificates.other)) as server:
        assert send(theater, server.address, **settings).is_accepted
    with RawServer(over_starttls(certificates.server)) as server:
        assert send(theater, server.address, **settings).error.startswith("tls: certificate verify failed: ")


# -- stripping ----------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("hello", "reply", "error"),
    [
        (NO_TLS, b"", "tls: the server does not offer STARTTLS"),
        (b"502 5.5.1 what\r\n", b"", "tls: the server does not know EHLO, so there is no STARTTLS: 502 5.5.1 what"),
        (WITH_TLS, b"454 4.7.0 not now\r\n", "tls: the server refused STARTTLS: 454 4.7.0 not now"),
        (WITH_TLS, b"554 5.7.3 never\r\n", "tls: the server refused STARTTLS: 554 5.7.3 never"),
    ],
)
def test_where_tls_is_required_and_stripped_the_server_hears_no_address(
    theater: Theater, hello: bytes, reply: bytes, error: str
) -> None:
    def script(line: Line) -> None:
        line.say(GREETING)
        heard = line.answer(hello)
        if reply:
            heard += line.answer(reply)
        heard += line.answer(b"221 bye\r\n")
        assert heard == [EHLO, *([b"STARTTLS\r\n"] if reply else []), b"QUIT\r\n"]
        assert line.rest() == b""

    with RawServer(script) as server:
        receipt = send(theater, server.address)
    assert receipt.error == error
    assert receipt.addresses("unsent") == tuple(SUBMISSION.recipients)


# -- plaintext around the upgrade ---------------------------------------------------------------------------------


@both
@pytest.mark.parametrize("forged", FORGED, ids=repr)
def test_nothing_that_comes_in_one_piece_with_220_is_believed(
    theater: Theater, certificates: Certificates, tls: str, forged: bytes
) -> None:
    def script(line: Line) -> None:
        offer_tls(line)
        line.say(GO + forged)
        assert line.rest() == b""

    with RawServer(script) as server:
        receipt = send(theater, server.address, tls=tls, **({"ca_cert": certificates.ca} if tls == "required" else {}))
    assert receipt.error.startswith("plaintext-before-tls")
    assert receipt.addresses("unsent") == tuple(SUBMISSION.recipients)


@both
@pytest.mark.parametrize("forged", [forged for forged in FORGED if forged[0] != RECORD], ids=repr)
def test_nothing_that_comes_in_plaintext_after_220_is_believed(theater: Theater, tls: str, forged: bytes) -> None:
    def script(line: Line) -> None:
        offer_tls(line)
        line.say(GO)
        assert line.sock.recv(1, socket.MSG_PEEK)[0] == RECORD
        line.say(forged * 5)
        line.sock.shutdown(socket.SHUT_WR)
        assert b"MAIL" not in line.rest()

    with RawServer(script) as server:
        receipt = send(theater, server.address, tls=tls)
    assert receipt.error.startswith("tls: ")
    assert receipt.addresses("unsent") == tuple(SUBMISSION.recipients)


@both
@pytest.mark.parametrize("forged", FORGED, ids=repr)
def test_nothing_that_comes_right_after_220_is_believed(theater: Theater, tls: str, forged: bytes) -> None:
    def script(line: Line) -> None:
        offer_tls(line)
        line.say(GO)
        line.say(forged)
        line.sock.shutdown(socket.SHUT_WR)
        assert b"MAIL" not in line.rest()

    with RawServer(script) as server:
        receipt = send(theater, server.address, tls=tls)
    assert receipt.error.partition(":")[0] in {"plaintext-before-tls", "tls"}
    assert receipt.addresses("unsent") == tuple(SUBMISSION.recipients)


@both
def test_a_handshake_that_fails_is_not_followed_by_plaintext(theater: Theater, tls: str) -> None:
    def script(line: Line) -> None:
        offer_tls(line)
        line.say(GO)
        line.sock.recv(65536)
        line.say(b"\x15\x03\x01\x00\x02\x02\x28")  # the alert "handshake failure"
        assert b"MAIL" not in line.rest()

    with RawServer(script) as server:
        receipt = send(theater, server.address, tls=tls)
    assert receipt.error.startswith("tls: ")
    assert receipt.addresses("unsent") == tuple(SUBMISSION.recipients)


@both
def test_a_server_that_stops_in_the_middle_of_the_handshake_is_left_in_time(theater: Theater, tls: str) -> None:
    def script(line: Line) -> None:
        offer_tls(line)
        line.say(GO)
        assert b"MAIL" not in line.rest()

    with RawServer(script) as server:
        receipt = send(theater, server.address, tls=tls, timeouts={"handshake": 0.2})
    assert receipt.error == "tls: handshake timeout"
    assert receipt.addresses("unsent") == tuple(SUBMISSION.recipients)


# -- the end of TLS -----------------------------------------------------------------------------------------------


def test_a_connection_that_is_cut_without_a_goodbye_is_told_from_one_that_ended(
    theater: Theater, certificates: Certificates
) -> None:
    def until_the_message(line: Line) -> None:
        offer_tls(line)
        line.say(GO)
        line.start_tls(server_context(certificates.server))
        line.answer(NO_TLS)
        line.answer(OK, OK, OK, b"354 go\r\n")
        line.hear(b"\r\n.\r\n")

    def cut(line: Line) -> None:
        until_the_message(line)
        line.sock.shutdown(socket.SHUT_RDWR)

    def end(line: Line) -> None:
        until_the_message(line)
        assert isinstance(line.sock, ssl.SSLSocket)
        line.sock = line.sock.unwrap()

    for script, error in ((cut, "tls-truncated"), (end, "eof: the server ended the connection")):
        with RawServer(script) as server:
            receipt = send(theater, server.address, ca_cert=certificates.ca)
        assert receipt.error == error
        assert receipt.addresses("unknown") == tuple(SUBMISSION.recipients)


def test_a_server_that_ends_without_a_goodbye_after_it_has_accepted_has_accepted(
    theater: Theater, certificates: Certificates
) -> None:
    def script(line: Line) -> None:
        offer_tls(line)
        line.say(GO)
        line.start_tls(server_context(certificates.server))
        line.answer(NO_TLS)
        line.answer(OK, OK, OK, b"354 go\r\n")
        line.hear(b"\r\n.\r\n")
        line.say(END)
        line.sock.shutdown(socket.SHUT_RDWR)

    with RawServer(script) as server:
        receipt = send(theater, server.address, ca_cert=certificates.ca)
    assert receipt.is_accepted
    assert receipt.error == ""
