"""The ClientHello before OpenSSL sees it: whole or not, and which name it asks for."""

from __future__ import annotations

import ssl

import pytest
from hypothesis import given
from hypothesis import strategies as st

from tests.certificates_fixture import Certificates
from theater_tcp.client_hello import MAX_HELLO, ClientHello, asked_name, is_retry_request
from theater_tcp.errors import TlsFailed
from theater_tcp.tls_engine import TlsEngine

NAME = "mx.example.org"


def hello(name: str | None = NAME) -> bytes:
    """What OpenSSL's client sends first."""
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)
    context.check_hostname = False
    context.verify_mode = ssl.CERT_NONE
    outgoing = ssl.MemoryBIO()
    client = context.wrap_bio(ssl.MemoryBIO(), outgoing, server_hostname=name)
    with pytest.raises(ssl.SSLWantReadError):
        client.do_handshake()
    return outgoing.read()


HELLO = hello()


def in_records(message: bytes, size: int) -> bytes:
    """A handshake message in records of ``size`` bytes each."""
    pieces = [message[i : i + size] for i in range(0, len(message), size)]
    return b"".join(b"\x16\x03\x01" + len(piece).to_bytes(2, "big") + piece for piece in pieces)


def engine() -> TlsEngine:
    return TlsEngine(ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER), server_side=True)


def find(data: bytes, pieces: int = 1 << 20) -> bytes | None:
    """The message in ``data``, which comes ``pieces`` bytes at a time."""
    gathered = ClientHello()
    message = gathered.message()
    for start in range(0, len(data), pieces):
        gathered.feed(data[start : start + pieces])
        message = gathered.message()
        if message is not None:
            break
    return message


def name_in(data: bytes) -> bytes | None:
    message = find(data)
    assert message
    return asked_name(message)


def test_the_name_is_found() -> None:
    assert name_in(HELLO) == NAME.encode()


def test_a_client_that_asks_for_no_name_has_none() -> None:
    assert name_in(hello(None)) is None


def test_it_is_awaited_until_its_last_byte() -> None:
    assert [find(HELLO[:size]) for size in range(len(HELLO))] == [None] * len(HELLO)
    assert find(HELLO + b"more") == HELLO[5:]


@given(st.integers(1, 600), st.integers(1, 50))
def test_it_may_come_in_any_number_of_records_and_pieces(size: int, pieces: int) -> None:
    assert find(in_records(HELLO[5:], size), pieces) == HELLO[5:]


@pytest.mark.parametrize(
    "data", [b"EHLO me\r\n", b"\x15\x03\x01\x00\x02\x02\x28", b"\x16\x03\x01\x00\x01\x02", b"\x80\x2e\x01"]
)
def test_what_is_none_is_told_at_once(data: bytes) -> None:
    assert find(data) == b""


@given(st.binary(max_size=200), st.integers(0, len(HELLO) - 6))
def test_no_bytes_of_a_stranger_raise(noise: bytes, place: int) -> None:
    message = HELLO[5:]
    asked_name(message[:place])
    asked_name(message[:place] + noise + message[place + len(noise) :])
    find(noise)
    find(b"\x16\x03\x01" + noise)


def test_a_name_that_is_not_ascii_is_refused_in_words_and_with_an_alert(capfd: pytest.CaptureFixture[str]) -> None:
    server = engine()
    server.feed(HELLO.replace(b"example", b"ex\xc9mple"))
    with pytest.raises(TlsFailed, match=r"^tls: the server name is not ASCII$"):
        server.handshake()
    assert server.take_output() == b"\x15\x03\x01\x00\x02\x02\x2f"
    assert capfd.readouterr().err == ""


def test_one_that_is_longer_than_any_is_refused_before_all_of_it_is_here() -> None:
    server = engine()
    server.feed(in_records(b"\x01\xff\xff\xff" + bytes(MAX_HELLO), 16384))
    with pytest.raises(TlsFailed, match=f"^tls: a ClientHello of more than {MAX_HELLO} bytes$"):
        server.handshake()


def test_a_second_hello_after_a_retry_request_is_looked_at_too(
    certificates: Certificates, capfd: pytest.CaptureFixture[str]
) -> None:
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    context.load_cert_chain(certificates.server.cert, certificates.server.key)
    context.set_ecdh_curve("secp384r1")  # the client's first share is for another group
    context.sni_callback = lambda _sslobject, _name, _context: None
    server = TlsEngine(context, server_side=True)
    trusting = ssl.create_default_context(cafile=certificates.ca)
    client = TlsEngine(trusting, server_side=False, server_name=NAME)
    client.handshake()
    server.feed(client.take_output())
    assert not server.handshake()
    retry = server.take_output()
    assert is_retry_request(retry)
    client.feed(retry)
    client.handshake()
    server.feed(client.take_output().replace(b"example", b"ex\xc9mple"))
    with pytest.raises(TlsFailed, match="not ASCII"):
        server.handshake()
    assert capfd.readouterr().err == ""
