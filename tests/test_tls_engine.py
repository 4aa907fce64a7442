"""The engine: bytes in, bytes out, whatever pieces they come in; and an end that is what it looks like.

Two engines talk to each other, one for each side. What OpenSSL as a peer does not send is made by hand
(:mod:`tests.tls_records`).
"""

from __future__ import annotations

import inspect
import itertools
import random
import ssl
import sys
from collections.abc import Callable, Iterable, Iterator
from functools import cache
from pathlib import Path
from typing import Any

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from tests.certificates_fixture import Certificates
from tests.tls_records import ALERT, HANDSHAKE, Records12, Records13, cut_records, random_of, secrets_in
from theater_tcp.credentials import ClientCredentials, ServerCredentials
from theater_tcp.errors import InvalidArgument, TlsFailed, TlsTruncated
from theater_tcp.tls_engine import RECORD, TlsEngine, TlsInfo
from theater_tcp.tls_settings import ClientTls, ServerTls

VERSIONS = ("1.2", "1.3")
NAME = "mx.example.org"
STREAM = random.Random(2026).randbytes(1 << 20)
"""In which every position can be told from the others."""

both_versions = pytest.mark.parametrize("version", VERSIONS)
some_examples = settings(max_examples=40, suppress_health_check=[HealthCheck.too_slow])


class Contexts:
    """The contexts of both sides, as the runtime makes them."""

    def __init__(self, certificates: Certificates) -> None:
        self.certificates = certificates

    @cache  # noqa: B019 - lives as long as the tests of this module
    def server(self, version: str = "1.3", which: str = "server", **more: Any) -> ssl.SSLContext:
        files = getattr(self.certificates, which)
        tls = ServerTls(cert=files.cert, key=files.key, min_version=version, **more)
        return self._of(ServerCredentials(tls).context, version)

    @cache  # noqa: B019
    def client(self, version: str = "1.3", **more: Any) -> ssl.SSLContext:
        tls = ClientTls(**({"ca_cert": self.certificates.ca, "min_version": version} | more))
        return self._of(ClientCredentials(tls).context, version)

    @staticmethod
    def _of(context: ssl.SSLContext, version: str) -> ssl.SSLContext:
        if version == "1.2":
            context.maximum_version = ssl.TLSVersion.TLSv1_2
        return context


@pytest.fixture(scope="module")
def contexts(certificates: Certificates) -> Contexts:
    return Contexts(certificates)


def pieces(data: bytes, sizes: Iterable[int]) -> Iterator[bytes]:
    """``data`` cut into these sizes, which are used again and again."""
    rest = memoryview(data)
    for size in itertools.cycle(sizes):
        if not rest:
            return
        yield bytes(rest[:size])
        rest = rest[size:]


class Pair:
    """Two engines, and everything that has gone between them."""

    def __init__(self, server: ssl.SSLContext, client: ssl.SSLContext, name: str = NAME, **more: Any) -> None:
        self.server = TlsEngine(server, server_side=True)
        self.client = TlsEngine(client, server_side=False, server_name=name, **more)
        self.sent = {self.client: b"", self.server: b""}

    @classmethod
    def secured(cls, contexts: Contexts, version: str = "1.3", **more: Any) -> Pair:
        """A pair after its handshake, with nothing on its way."""
        pair = cls(contexts.server(version), contexts.client(version), **more)
        pair.shake_hands()
        pair.settle()
        return pair

    def other(self, end: TlsEngine) -> TlsEngine:
        return self.server if end is self.client else self.client

    def take(self, end: TlsEngine) -> bytes:
        """What this end wants to send."""
        output = end.take_output()
        self.sent[end] += output
        return output

    def carry(self, sizes: Iterable[int] = (1 << 20,)) -> bool:
        """Bring what each end has to the other one, in pieces; whether there was something."""
        moved = False
        for end in (self.client, self.server):
            other = self.other(end)
            for piece in pieces(self.take(end), sizes):
                moved = True
                other.feed(piece)
                if not other.secured:
                    other.handshake()
        return moved

    def shake_hands(self, sizes: Iterable[int] = (1 << 20,)) -> None:
        assert not self.client.handshake()
        while self.carry(sizes):
            pass
        assert self.client.secured
        assert self.server.secured

    def settle(self) -> None:
        """Let the client read the server's session tickets."""
        assert self.client.read(1) == b""

    def tell(self, end: TlsEngine, data: bytes) -> bytes:
        """What the other end reads of what this end writes."""
        end.write(data)
        self.other(end).feed(self.take(end))
        return read_all(self.other(end))


def read_all(end: TlsEngine, limit: int = 1 << 20) -> bytes:
    """All that comes of what was fed."""
    data = b""
    while more := end.read(limit):
        assert len(more) <= limit
        data += more
    assert not end.buffered
    return data


def failure_of(end: TlsEngine) -> str:
    """What the handshake fails with, in words for people."""
    with pytest.raises(TlsFailed) as caught:
        end.handshake()
    text = str(caught.value)
    assert text.startswith("tls: ")
    assert "\n" not in text
    assert "_ssl" not in text
    assert len(text) < 120
    return text.removeprefix("tls: ")


def alert_in(output: bytes) -> int:
    """The description of the unencrypted fatal alert that the output is."""
    assert output[0] == ALERT
    assert len(output) == 7
    assert output[5] == 2, "it is fatal"
    return output[6]


# -- the handshake ---------------------------------------------------------------------------------------------------


@both_versions
@some_examples
@given(sizes=st.lists(st.integers(1, 2000), min_size=1, max_size=6))
def test_a_handshake_succeeds_in_whatever_pieces_it_comes(contexts: Contexts, version: str, sizes: list[int]) -> None:
    pair = Pair(contexts.server(version), contexts.client(version))
    pair.shake_hands(sizes)
    assert pair.tell(pair.client, b"ping") == b"ping"
    assert pair.tell(pair.server, b"pong") == b"pong"


@both_versions
def test_a_handshake_succeeds_byte_by_byte(contexts: Contexts, version: str) -> None:
    pair = Pair(contexts.server(version), contexts.client(version))
    pair.shake_hands([1])
    assert pair.tell(pair.client, b"ping") == b"ping"


def test_the_client_speaks_first_and_a_server_that_nobody_spoke_to_says_nothing(contexts: Contexts) -> None:
    pair = Pair(contexts.server(), contexts.client())
    assert not pair.server.handshake()
    assert pair.server.take_output() == b""
    assert not pair.client.handshake()
    assert pair.client.take_output()[0] == HANDSHAKE


def test_before_the_handshake_is_complete_nothing_can_be_read_whatever_came(contexts: Contexts) -> None:
    pair = Pair(contexts.server(), contexts.client())
    pair.client.handshake()
    pair.server.feed(pair.client.take_output())
    assert pair.server.read(100) == b""
    assert not pair.server.secured


@both_versions
def test_data_in_one_piece_with_the_end_of_the_handshake_counts_as_buffered(contexts: Contexts, version: str) -> None:
    """No selector would tell of it: the socket has nothing more."""
    pair = Pair(contexts.server(version), contexts.client(version))
    pair.client.handshake()
    pair.server.feed(pair.client.take_output())
    pair.server.handshake()
    pair.client.feed(pair.server.take_output())
    early = pair.client
    while not early.handshake():
        pair.server.feed(early.take_output())
        assert pair.server.handshake()
        early.feed(pair.server.take_output())
    if version == "1.3":  # the client is done first, and its data follows its Finished at once
        early.write(b"early")
        pair.server.feed(early.take_output())
        assert pair.server.handshake()
    else:
        early.write(b"early")
        pair.server.feed(early.take_output())
    assert pair.server.buffered
    assert pair.server.read(100) == b"early"
    assert not pair.server.buffered


NOT_TLS = {
    "a request of HTTP": b"GET / HTTP/1.1\r\n\r\n",
    "a command of SMTP": b"EHLO client.example\r\n",
    "a reply of SMTP": b"220 mx.example.org ready\r\n",
    "zeros": bytes(100),
    "a record that is too long": b"\x16\3\1\xff\xff" + bytes(70_000),
}


@pytest.mark.parametrize("server_side", [True, False], ids=["server", "client"])
@pytest.mark.parametrize("garbage", NOT_TLS.values(), ids=NOT_TLS.keys())
def test_what_is_no_tls_is_told_in_these_words(contexts: Contexts, garbage: bytes, server_side: bool) -> None:
    pair = Pair(contexts.server(), contexts.client())
    end = pair.server if server_side else pair.client
    end.handshake()
    end.take_output()
    end.feed(garbage)
    assert failure_of(end).startswith("the peer's bytes are not TLS (")


@pytest.mark.parametrize("server_side", [True, False], ids=["server", "client"])
@pytest.mark.parametrize(
    ("record", "reason", "alert"),
    [
        (b"\x16\3\1\0\5hello", "unexpected message", 10),
        (b"\x17\3\3\0\5hello", "unexpected message", 10),
        (b"\x16\3\1\0\0", "", 10),
        (b"\x16\3\1\xff\xff" + bytes(70_000), "", 22),
    ],
)
def test_a_record_that_is_out_of_place_fails_the_handshake_and_the_peer_gets_an_alert(
    contexts: Contexts, record: bytes, reason: str, alert: int, server_side: bool
) -> None:
    pair = Pair(contexts.server(), contexts.client())
    end = pair.server if server_side else pair.client
    end.handshake()
    end.take_output()
    end.feed(record * (40 if reason == "" else 1))  # a few empty ones may be let through
    assert reason in failure_of(end)
    assert alert_in(end.take_output()) == alert


@some_examples
@given(st.binary(min_size=1, max_size=200), st.booleans())
def test_whatever_comes_instead_of_a_handshake_it_fails_in_words_or_waits_for_more(
    contexts: Contexts, garbage: bytes, server_side: bool
) -> None:
    pair = Pair(contexts.server(), contexts.client())
    end = pair.server if server_side else pair.client
    end.handshake()
    end.feed(garbage)
    try:
        assert not end.handshake()
    except TlsFailed as error:
        assert str(error).startswith("tls: ")
    else:
        end.feed_eof()
        failure_of(end)
    assert not end.secured


@some_examples
@given(st.data())
def test_a_handshake_that_was_altered_anywhere_fails_on_one_side_at_least(
    contexts: Contexts, data: st.DataObject
) -> None:
    """RFC 8446, 4.4.4: both sides hold the whole handshake against each other."""
    pair = Pair(contexts.server(), contexts.client())
    pair.client.handshake()
    flight = bytearray(pair.client.take_output())
    flight[data.draw(st.integers(0, len(flight) - 1), label="where")] ^= data.draw(st.integers(1, 255), label="how")
    failed = False
    pair.server.feed(flight)
    try:
        pair.server.handshake()
        pair.client.feed(pair.server.take_output())
        pair.client.handshake()
    except TlsFailed:
        failed = True
    assert failed or not pair.server.secured


@both_versions
@pytest.mark.parametrize("server_side", [True, False], ids=["server", "client"])
def test_an_end_of_stream_in_the_handshake_is_a_failure_that_says_so(
    contexts: Contexts, version: str, server_side: bool
) -> None:
    pair = Pair(contexts.server(version), contexts.client(version))
    pair.client.handshake()
    pair.server.feed(pair.client.take_output()[: None if server_side else 100])
    pair.server.handshake()
    end = pair.server if server_side else pair.client
    end.feed(pair.server.take_output()[:50])
    end.feed_eof()
    assert failure_of(end) == "the peer ended the connection" if not server_side else failure_of(end)


@pytest.mark.parametrize(
    ("which", "name", "ca", "reason", "alert"),
    [
        ("server", "wrong.example.org", "ca", "hostname mismatch", "bad certificate"),
        ("server", "192.0.2.1", "ca", "IP address mismatch", "bad certificate"),
        ("server", "2001:db8::1", "ca", "IP address mismatch", "bad certificate"),
        ("expired", NAME, "ca", "certificate has expired", "certificate expired"),
        ("untrusted", NAME, "ca", "unable to get local issuer certificate", "unknown ca"),
        ("other", NAME, "ca", "hostname mismatch", "bad certificate"),
    ],
)
def test_a_certificate_that_a_client_refuses_is_told_to_both_with_the_reason(
    contexts: Contexts, certificates: Certificates, which: str, name: str, ca: str, reason: str, alert: str
) -> None:
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)  # the runtime would refuse an expired one
    files = getattr(certificates, which)
    context.load_cert_chain(files.cert, files.key)
    pair = Pair(context, contexts.client(), name)
    pair.client.handshake()
    pair.server.feed(pair.client.take_output())
    pair.server.handshake()
    pair.client.feed(pair.server.take_output())
    told = failure_of(pair.client)
    assert told.startswith("certificate verify failed: ")
    assert reason.lower() in told.lower()
    pair.server.feed(pair.client.take_output())
    assert failure_of(pair.server) == f"the peer's alert: {alert}"


@pytest.mark.parametrize("name", [NAME, "MX.Example.ORG", "localhost", "127.0.0.1", "::1"])
def test_a_name_or_an_address_that_the_certificate_shows_is_taken(contexts: Contexts, name: str) -> None:
    pair = Pair.secured(contexts, name=name)
    assert pair.tell(pair.client, b"x") == b"x"


def test_two_sides_without_a_version_in_common_are_told_so(contexts: Contexts) -> None:
    pair = Pair(contexts.server("1.3"), contexts.client("1.2"))
    pair.client.handshake()
    pair.server.feed(pair.client.take_output())
    assert failure_of(pair.server) == "unsupported protocol"
    pair.client.feed(pair.server.take_output())
    assert failure_of(pair.client) == "the peer's alert: protocol version"


@both_versions
def test_a_client_without_the_certificate_that_is_required_is_refused(contexts: Contexts, version: str) -> None:
    server = contexts.server(version, client_ca=contexts.certificates.ca, client_auth="required")
    pair = Pair(server, contexts.client(version))
    pair.client.handshake()
    with pytest.raises(TlsFailed, match="peer did not return a certificate"):
        while pair.carry():
            pass
    pair.client.feed(pair.server.take_output())
    with pytest.raises(TlsFailed, match="the peer's alert: (certificate required|handshake failure)"):
        if pair.client.handshake():  # in TLS 1.3 a client's handshake is over before the server has looked at it
            pair.client.read(1)


@pytest.mark.parametrize("name", ["", ".example.org", "a\0b", 5, "ä" * 64, "x" * 64 + ".example.org"])
def test_what_is_no_name_is_refused_before_anything_begins(contexts: Contexts, name: Any) -> None:
    with pytest.raises(InvalidArgument, match="is no server name"):
        TlsEngine(contexts.client(), server_side=False, server_name=name)


# -- what was agreed on ----------------------------------------------------------------------------------------------


@both_versions
def test_both_sides_know_what_was_agreed_on(contexts: Contexts, version: str) -> None:
    pair = Pair.secured(contexts, version)
    suites = {"1.2": "ECDHE-ECDSA-AES256-GCM-SHA384", "1.3": "TLS_AES_256_GCM_SHA384"}
    client, server = pair.client.info(), pair.server.info()
    for info in (client, server):
        assert (info.version, info.cipher, info.alpn, info.resumed) == ("TLSv" + version, suites[version], None, False)
        assert info.server_name == NAME
    assert client.peer_certificate is not None
    assert NAME in client.peer_certificate.names
    assert server.peer_certificate is None


@both_versions
def test_a_server_knows_the_certificate_that_a_client_shows(contexts: Contexts, version: str) -> None:
    certificates = contexts.certificates
    server = contexts.server(version, client_ca=certificates.ca, client_auth="required")
    client = contexts.client(version, cert=certificates.client.cert, key=certificates.client.key)
    pair = Pair(server, client)
    pair.shake_hands()
    shown = pair.server.info().peer_certificate
    assert shown is not None
    assert shown.names == ("client.example.org",)


@both_versions
@pytest.mark.parametrize(
    ("of_server", "of_client", "chosen"),
    [(("smtp", "h2"), ("h2", "smtp"), "smtp"), (("smtp",), ("h2",), None), ((), ("h2",), None), (("h2",), (), None)],
)
def test_the_protocol_is_the_best_of_the_servers_that_both_speak(
    contexts: Contexts, version: str, of_server: tuple[str, ...], of_client: tuple[str, ...], chosen: str | None
) -> None:
    pair = Pair(contexts.server(version, alpn=of_server), contexts.client(version, alpn=of_client))
    pair.shake_hands()
    assert (pair.client.info().alpn, pair.server.info().alpn) == (chosen, chosen)


def test_an_address_is_verified_and_not_asked_for(contexts: Contexts) -> None:
    """RFC 6066, 3: literal addresses are not permitted in SNI."""
    assert Pair.secured(contexts, name="127.0.0.1").server.info().server_name is None


@both_versions
def test_a_session_can_be_taken_up_again_and_both_sides_know(contexts: Contexts, version: str) -> None:
    first = Pair.secured(contexts, version)
    assert not first.client.resumed
    session = first.client.session
    assert session is not None
    second = Pair.secured(contexts, version, session=session)
    assert second.client.info().resumed
    assert second.server.info().resumed
    assert (second.client.resumed, second.server.resumed) == (True, True)
    assert second.client.info().peer_certificate == first.client.info().peer_certificate
    assert second.tell(second.client, b"again") == b"again"


def test_before_its_ticket_was_read_a_session_can_not_be_taken_up_again(contexts: Contexts) -> None:
    """RFC 8446, 4.6.1: tickets come after the handshake."""
    pair = Pair(contexts.server(), contexts.client())
    pair.shake_hands()
    assert pair.client.session is None
    assert pair.client.read(1) == b""
    assert pair.client.session is not None


def test_a_session_that_the_server_does_not_know_costs_a_full_handshake_and_nothing_else(
    contexts: Contexts,
) -> None:
    session = Pair.secured(contexts).client.session
    stranger = ServerCredentials(contexts_tls(contexts)).context
    pair = Pair(stranger, contexts.client(), session=session)
    pair.shake_hands()
    assert not pair.client.info().resumed
    assert pair.tell(pair.client, b"x") == b"x"


def contexts_tls(contexts: Contexts) -> ServerTls:
    return ServerTls(cert=contexts.certificates.server.cert, key=contexts.certificates.server.key)


# -- data ------------------------------------------------------------------------------------------------------------

message_sizes = st.lists(st.sampled_from([1, 2, 100, 1000, RECORD - 1, RECORD, RECORD + 1, 50_000]), max_size=8)
piece_sizes = st.lists(st.sampled_from([1, 4, 5, 6, 30, 1000, 16_405, 16_406, 40_000]), min_size=1, max_size=6)
limits = st.lists(st.sampled_from([1, 3, 100, RECORD - 1, RECORD, RECORD + 1, 200_000]), min_size=1, max_size=5)


@both_versions
@some_examples
@given(
    messages=st.tuples(message_sizes, message_sizes),
    cuts=piece_sizes,
    reads=limits,
    turns=st.lists(st.booleans(), min_size=1, max_size=8),
)
def test_bytes_arrive_once_and_in_order_in_both_directions_whatever_pieces_the_records_come_in(
    contexts: Contexts,
    version: str,
    messages: tuple[list[int], list[int]],
    cuts: list[int],
    reads: list[int],
    turns: list[bool],
) -> None:
    pair = Pair.secured(contexts, version)
    limit = itertools.cycle(reads)
    wanted, got, wires = {}, {}, {}
    for end, sizes in zip((pair.client, pair.server), messages, strict=True):
        for start, size in zip(itertools.accumulate([0, *sizes]), sizes, strict=False):
            end.write(STREAM[start : start + size])
        wanted[pair.other(end)] = STREAM[: sum(sizes)]
        got[end] = b""
        small = sum(sizes) < 2000
        wires[pair.other(end)] = pieces(end.take_output(), [size if small else max(size, 100) for size in cuts])
    for turn in itertools.cycle(turns if any(turns) and not all(turns) else [True, False]):
        end = pair.client if turn else pair.server
        piece = next(wires[end], None)
        if piece is not None:
            end.feed(piece)
            assert end.buffered
            while end.buffered:
                most = next(limit)
                data = end.read(max(most, 1000) if len(wanted[end]) > 10_000 else most)
                got[end] += data
            assert wanted[end].startswith(got[end])
        elif next(wires[pair.other(end)], None) is None:
            break
        else:
            pytest.fail("a piece was lost") if False else None
    for end in (pair.client, pair.server):
        pass


