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
from pathlib import Path
from typing import Any

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from tests.certificates_fixture import Certificates
from tests.in_time import in_time
from tests.tls_records import ALERT, HANDSHAKE, Records12, Records13, cut_records, random_of, secrets_in
from theater_tcp.credentials import ClientCredentials, ServerCredentials
from theater_tcp.errors import InvalidArgument, TheaterError, TlsFailed, TlsTruncated
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

        self._made: dict[Any, ssl.SSLContext] = {}

    def new_server(self, version: str = "1.3", **more: Any) -> ssl.SSLContext:
        files = self.certificates.server
        tls = ServerTls(cert=files.cert, key=files.key, **{"min_version": version, **more})
        return self._of(ServerCredentials(tls).context, version)

    def server(self, version: str = "1.3", **more: Any) -> ssl.SSLContext:
        return self._once(self.new_server, version, more)

    def new_client(self, version: str = "1.3", **more: Any) -> ssl.SSLContext:
        tls = ClientTls(ca_cert=self.certificates.ca, **{"min_version": version, **more})
        return self._of(ClientCredentials(tls).context, version)

    def client(self, version: str = "1.3", **more: Any) -> ssl.SSLContext:
        return self._once(self.new_client, version, more)

    def _once(self, make: Callable[..., ssl.SSLContext], version: str, more: dict[str, Any]) -> ssl.SSLContext:
        key = (make, version, *more.items())
        if key not in self._made:
            self._made[key] = make(version, **more)
        return self._made[key]

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


def read_to_the_end(end: TlsEngine, limit: int = 100) -> tuple[bytes, TheaterError | None]:
    """All that comes of what was fed, and what it fails with, if it does."""
    data = b""
    try:
        while end.buffered:
            data += end.read(limit)
    except TheaterError as error:
        return data, error
    return data, None


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
    first = pair.client
    while not first.handshake():
        pair.other(first).feed(first.take_output())
        first = pair.other(first)
    first.write(b"early")
    last = pair.other(first)
    last.feed(first.take_output())
    assert last.handshake()
    assert last.buffered
    assert last.read(100) == b"early"
    assert last.read(100) == b""
    assert not last.buffered


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
        waits = not end.handshake()
    except TlsFailed:
        waits = False
    if waits:
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


@pytest.mark.parametrize(
    ("version", "retry"), [("1.2", False), ("1.3", False), ("1.3", True)], ids=["1.2", "1.3", "1.3, second ClientHello"]
)
def test_a_server_name_that_is_no_name_fails_the_handshake_and_prints_nothing(
    contexts: Contexts, version: str, retry: bool
) -> None:
    """Python itself would print a traceback for it, which these tests take for a failure. RFC 8446, 4.1.4: a server may
    ask for a second ClientHello, and nothing holds a client to the name of the first."""
    server = contexts.new_server(version)
    if retry:
        server.set_ecdh_curve("secp384r1")
    pair = Pair(server, contexts.client(version))
    pair.client.handshake()
    if retry:
        pair.server.feed(pair.client.take_output())
        assert not pair.server.handshake()
        pair.client.feed(pair.server.take_output())
        assert not pair.client.handshake()
    hello = pair.client.take_output()
    assert hello.count(NAME.encode()) == 1
    pair.server.feed(hello.replace(NAME.encode(), b"mx.\xc9xample.org"))
    failure_of(pair.server)
    assert pair.server.take_output()[0] == ALERT


@both_versions
def test_what_comes_behind_a_client_hello_is_heeded(contexts: Contexts, version: str) -> None:
    pair = Pair(contexts.server(version), contexts.client(version))
    pair.client.handshake()
    alert = b"\x15\3\3\0\2\2\x28"  # handshake_failure, fatal
    pair.server.feed(pair.client.take_output() + alert)
    assert failure_of(pair.server) == "the peer's alert: handshake failure"


@both_versions
@pytest.mark.parametrize("server_side", [True, False], ids=["server", "client"])
def test_an_end_of_stream_in_the_handshake_is_a_failure_that_says_so(
    contexts: Contexts, version: str, server_side: bool
) -> None:
    pair = Pair(contexts.server(version), contexts.client(version))
    pair.client.handshake()
    pair.server.feed(pair.client.take_output()[: None if server_side else 100])
    pair.server.handshake()
    if not server_side:
        pair.client.feed(pair.server.take_output()[:50])
    end = pair.server if server_side else pair.client
    end.feed_eof()
    assert failure_of(end) == "the peer ended the connection"


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
    pair.server.feed(pair.client.take_output())
    assert not pair.server.handshake()
    pair.client.feed(pair.server.take_output())
    done = pair.client.handshake()
    pair.server.feed(pair.client.take_output())
    assert failure_of(pair.server) == "peer did not return a certificate"
    pair.client.feed(pair.server.take_output())
    if done:  # in TLS 1.3 a client's handshake is over before the server has looked at it
        _, error = read_to_the_end(pair.client)
        assert str(error) == "tls: the peer's alert: certificate required"
    else:
        assert failure_of(pair.client) == "the peer's alert: handshake failure"


@pytest.mark.parametrize("name", ["", ".example.org", "a\0b", "ä" * 64, "x" * 64 + ".example.org"])
def test_what_is_no_name_is_refused_before_anything_begins(contexts: Contexts, name: str) -> None:
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
    pair = Pair.secured(contexts, name="127.0.0.1")
    assert pair.server.info().server_name is pair.client.info().server_name is None


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
    pair = Pair(contexts.new_server(), contexts.client(), session=session)
    pair.shake_hands()
    assert not pair.client.info().resumed
    assert pair.tell(pair.client, b"x") == b"x"


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
    many = sum(map(sum, messages)) > 5000  # a byte at a time only where there are few
    limit = itertools.cycle(max(size, 1000 * many) for size in reads)
    coming, wanted, got = {}, {}, {}
    for end, sizes in zip((pair.client, pair.server), messages, strict=True):
        for start, size in zip(itertools.accumulate([0, *sizes]), sizes, strict=False):
            end.write(STREAM[start : start + size])
        other = pair.other(end)
        coming[other] = list(pieces(end.take_output(), [max(size, 1000 * many) for size in cuts]))
        wanted[other], got[other] = STREAM[: sum(sizes)], b""
    turn = itertools.cycle(turns)
    while any(coming.values()):
        end = pair.client if next(turn) else pair.server
        if not coming[end]:
            end = pair.other(end)
        end.feed(coming[end].pop(0))
        while data := end.read(most := next(limit)):
            assert len(data) <= most
            got[end] += data
        assert not end.buffered
    assert got == wanted
    assert not pair.client.ended
    assert not pair.server.ended


@both_versions
def test_megabytes_go_in_both_directions_at_the_same_time(contexts: Contexts, version: str) -> None:
    pair = Pair.secured(contexts, version)
    ends = (pair.client, pair.server)
    got: dict[TlsEngine, list[bytes]] = {end: [] for end in ends}
    cuts = random.Random(7)
    for start in list(range(0, len(STREAM), 1 << 18)) * 3:
        for end in ends:
            end.write(STREAM[start : start + (1 << 18)])
        for end in ends:
            for piece in pieces(pair.other(end).take_output(), [cuts.randint(1, 70_000) for _ in range(5)]):
                end.feed(piece)
                got[end].append(read_all(end))
    for end in ends:
        assert b"".join(got[end]) == STREAM * 3


@both_versions
def test_records_byte_by_byte_give_their_bytes_when_they_are_whole(contexts: Contexts, version: str) -> None:
    pair = Pair.secured(contexts, version)
    pair.client.write(b"one")
    output = pair.client.take_output()
    for byte in output[:-1]:
        pair.server.feed(bytes([byte]))
        assert pair.server.buffered, "it can't be told without a look"
        assert pair.server.read(100) == b""
        assert not pair.server.buffered
    pair.server.feed(output[-1:])
    assert pair.server.read(100) == b"one"


@both_versions
def test_records_that_came_together_are_read_together_up_to_the_limit(contexts: Contexts, version: str) -> None:
    pair = Pair.secured(contexts, version)
    for word in (b"one", b"two", b"three"):
        pair.client.write(word)
    pair.server.feed(pair.client.take_output())
    assert pair.server.read(4) == b"onet"
    assert pair.server.buffered
    assert pair.server.read(100) == b"wothree"
    assert not pair.server.buffered


def test_a_record_is_read_in_parts_by_who_wants_parts(contexts: Contexts) -> None:
    pair = Pair.secured(contexts)
    pair.client.write(STREAM[:RECORD])
    pair.server.feed(pair.client.take_output())
    parts = []
    while pair.server.buffered:
        parts.append(pair.server.read(100))
    assert b"".join(parts) == STREAM[:RECORD]
    assert {len(part) for part in parts} == {100, RECORD % 100}


def test_what_is_written_is_in_the_output_at_once_and_taken_once(contexts: Contexts) -> None:
    pair = Pair.secured(contexts)
    assert pair.client.take_output() == b""
    pair.client.write(bytearray(b"some"))
    pair.client.write(memoryview(b"thing"))
    output = pair.client.take_output()
    assert len(cut_records(output)) == 2
    assert pair.client.take_output() == b""
    pair.server.feed(memoryview(output))
    assert pair.server.read(100) == b"something"


def test_nothing_written_is_nothing_sent(contexts: Contexts) -> None:
    pair = Pair.secured(contexts)
    pair.client.write(b"")
    assert pair.client.take_output() == b""


def test_a_look_ahead_decrypts_one_record_at_most_and_leaves_it_to_be_read(contexts: Contexts) -> None:
    pair = Pair.secured(contexts)
    assert not pair.server.look_ahead()
    for _ in range(3):
        pair.client.write(STREAM[:RECORD])
    pair.server.feed(pair.client.take_output())
    for _ in range(5):
        assert pair.server.look_ahead()
    first = pair.server.read(10)
    assert first == STREAM[:10]
    assert pair.server.look_ahead()
    assert pair.server.read(1 << 20) == STREAM[10:RECORD], "what was looked at, and no more"
    assert pair.server.read(1 << 20) == STREAM[:RECORD] * 2


def test_a_look_ahead_sees_the_end(contexts: Contexts) -> None:
    pair = Pair.secured(contexts)
    pair.client.close()
    pair.server.feed(pair.client.take_output())
    assert not pair.server.look_ahead()
    assert pair.server.ended


def test_thousands_of_small_records_do_not_make_the_stack_deeper(contexts: Contexts) -> None:
    pair = Pair.secured(contexts)
    for byte in STREAM[:5000]:
        pair.client.write(bytes([byte]))
    pair.server.feed(pair.client.take_output())
    before = sys.getrecursionlimit()
    sys.setrecursionlimit(len(inspect.stack()) + 25)
    try:
        data = pair.server.read(1 << 20)
    finally:
        sys.setrecursionlimit(before)
    assert data == STREAM[:5000]


# -- records made by hand --------------------------------------------------------------------------------------------


class Handmade:
    """A pair whose client, and whose server, can be replaced by records that are made by hand."""

    def __init__(self, contexts: Contexts, keylog: Path, version: str) -> None:
        server = contexts.new_server(version)
        server.keylog_filename = str(keylog)
        self.pair = pair = Pair(server, contexts.client(version))
        pair.shake_hands()
        pair.settle()
        self.hello = cut_records(pair.sent[pair.client])[0][5:]
        self.client: Any
        self.server: Any
        secrets = secrets_in(keylog)
        if version == "1.3":
            self.client = Records13(secrets["CLIENT_TRAFFIC_SECRET_0"])
            self.server = Records13(secrets["SERVER_TRAFFIC_SECRET_0"])
            ticket = cut_records(pair.sent[pair.server])[-1]
            assert self.server.open(ticket)[0] == HANDSHAKE
        else:
            flights = random_of(pair.sent[pair.client]), random_of(pair.sent[pair.server])
            self.client = Records12(secrets["CLIENT_RANDOM"], *flights, from_client=True)
            self.server = Records12(secrets["CLIENT_RANDOM"], *flights, from_client=False)


@pytest.fixture
def handmade(contexts: Contexts, tmp_path: Path) -> Callable[[str], Handmade]:
    return lambda version: Handmade(contexts, tmp_path / "keys", version)


def test_what_is_written_while_half_of_a_ticket_is_here_goes_out_when_the_rest_is(
    handmade: Callable[[str], Handmade],
) -> None:
    hand = handmade("1.3")
    client, server = hand.pair.client, hand.pair.server
    body = (3600).to_bytes(4, "big") + bytes(4) + b"\1n" + b"\0\4abcd" + b"\0\0"  # NewSessionTicket (RFC 8446, 4.6.1)
    ticket = b"\4" + len(body).to_bytes(3, "big") + body
    client.feed(hand.server.seal(ticket[:9], HANDSHAKE))
    assert client.read(100) == b""
    for word in (b"first;", b"second;"):
        client.write(word)
    client.close()
    assert client.take_output() == b""
    with pytest.raises(TlsFailed, match="does not end a message"):
        client.write(bytes(1 << 20))
    client.feed(hand.server.seal(ticket[9:], HANDSHAKE))
    assert client.read(100) == b""
    client.write_held()
    server.feed(client.take_output())
    assert server.read(100) == b"first;second;"
    assert server.read(100) == b""
    assert server.ended


def test_a_key_update_that_asks_for_one_is_answered_before_the_next_data(
    handmade: Callable[[str], Handmade],
) -> None:
    """RFC 8446, 4.6.3. Nothing is lost across it, and it is no end."""
    made = handmade("1.3")
    server = made.pair.server
    for round_ in range(3):
        server.feed(made.client.seal(b"old") + made.client.key_update(asks_for_one=True) + made.client.seal(b"new"))
        assert read_all(server) == b"oldnew"
        server.write(b"answer %d" % round_)
        update, answer = cut_records(server.take_output())
        assert made.server.open(update) == (HANDSHAKE, b"\x18\0\0\1\0")
        made.server.update_key()
        assert made.server.open(answer)[1] == b"answer %d" % round_


def test_a_key_update_that_asks_for_none_gets_none(handmade: Callable[[str], Handmade]) -> None:
    made = handmade("1.3")
    server = made.pair.server
    server.feed(made.client.key_update(asks_for_one=False))
    assert server.read(100) == b""
    server.feed(made.client.seal(b"new"))
    assert server.read(100) == b"new"
    server.write(b"answer")
    assert made.server.open(server.take_output())[1] == b"answer"


def test_a_client_takes_a_key_update_of_its_server(handmade: Callable[[str], Handmade]) -> None:
    made = handmade("1.3")
    client = made.pair.client
    client.feed(made.server.key_update(asks_for_one=True) + made.server.seal(b"new"))
    assert read_all(client) == b"new"
    client.write(b"answer")
    assert made.client.open(cut_records(client.take_output())[0])[0] == HANDSHAKE


def test_an_empty_record_is_neither_data_nor_an_end(handmade: Callable[[str], Handmade]) -> None:
    """RFC 8446, 5.1: zero-length fragments are permitted, as a counter-measure to traffic analysis; 5.4: padding."""
    made = handmade("1.3")
    server = made.pair.server
    server.feed(made.client.seal(b"") + made.client.seal(b"", padding=200) + made.client.seal(b"x", padding=1000))
    assert server.read(100) == b"x"
    server.feed(made.client.seal(b""))
    assert server.read(100) == b""
    assert not server.ended
    assert not server.buffered


def test_empty_records_without_end_are_not_endured(handmade: Callable[[str], Handmade]) -> None:
    made = handmade("1.3")
    made.pair.server.feed(b"".join(made.client.seal(b"") for _ in range(100)))
    with pytest.raises(TlsFailed, match=r"a record is wrong \("):
        made.pair.server.read(100)


def test_a_server_refuses_to_renegotiate_and_goes_on(handmade: Callable[[str], Handmade]) -> None:
    """RFC 5746, 4.5; the client hears no_renegotiation (RFC 5246, 7.2.2)."""
    made = handmade("1.2")
    server = made.pair.server
    server.feed(made.client.seal(b"before") + made.client.seal(made.hello, HANDSHAKE) + made.client.seal(b"after"))
    assert read_all(server) == b"beforeafter"
    assert made.server.open(server.take_output()) == (ALERT, b"\1\x64")
    server.write(b"answer")
    assert made.server.open(server.take_output())[1] == b"answer"


def test_a_client_refuses_to_renegotiate_and_goes_on(handmade: Callable[[str], Handmade]) -> None:
    made = handmade("1.2")
    client = made.pair.client
    client.feed(made.server.seal(b"before") + made.server.seal(bytes(4), HANDSHAKE) + made.server.seal(b"after"))
    assert read_all(client) == b"beforeafter"
    assert made.client.open(client.take_output()) == (ALERT, b"\1\x64")


def test_a_handshake_message_inside_of_a_tls_1_3_connection_fails_it(handmade: Callable[[str], Handmade]) -> None:
    """RFC 8446, 4.1.2: there is no renegotiation in TLS 1.3."""
    made = handmade("1.3")
    server = made.pair.server
    server.feed(made.client.seal(made.hello, HANDSHAKE))
    with pytest.raises(TlsFailed, match=r"unexpected message|not on record boundary"):
        server.read(100)
    assert made.server.open(server.take_output())[0] == ALERT


def test_an_alert_of_the_peer_is_told_by_its_name(handmade: Callable[[str], Handmade]) -> None:
    made = handmade("1.3")
    made.pair.server.feed(made.client.seal(b"last words") + made.client.seal(b"\2\x50", ALERT))
    assert made.pair.server.read(100) == b"last words"
    with pytest.raises(TlsFailed, match="the peer's alert: internal error"):
        made.pair.server.read(100)


# -- the end ---------------------------------------------------------------------------------------------------------


@both_versions
@pytest.mark.parametrize("closer", ["client", "server"])
def test_close_notify_comes_after_the_last_byte_and_ends_the_stream(
    contexts: Contexts, version: str, closer: str
) -> None:
    pair = Pair.secured(contexts, version)
    end: TlsEngine = getattr(pair, closer)
    other = pair.other(end)
    end.write(b"last words")
    end.close()
    other.feed(end.take_output())
    assert other.read(4) == b"last"
    assert not other.ended
    assert other.read(100) == b" words"
    assert other.read(100) == b""
    assert other.ended
    assert not other.buffered
    assert not end.ended


@both_versions
@pytest.mark.parametrize("closer", ["client", "server"])
def test_who_has_closed_still_reads_and_who_has_heard_of_it_still_writes(
    contexts: Contexts, version: str, closer: str
) -> None:
    """RFC 8446, 6.1: each side closes its own direction."""
    pair = Pair.secured(contexts, version)
    end: TlsEngine = getattr(pair, closer)
    other = pair.other(end)
    assert pair.tell(end, b"question") == b"question"
    end.close()
    other.feed(end.take_output())
    assert other.read(100) == b""
    for start in range(0, 100_000, 10_000):
        assert pair.tell(other, STREAM[start : start + 10_000]) == STREAM[start : start + 10_000]
    other.close()
    end.feed(other.take_output())
    assert end.read(100) == b""
    assert end.ended


@both_versions
@some_examples
@given(
    sizes=st.lists(st.sampled_from([1, 100, RECORD, 40_000]), min_size=1, max_size=4),
    fed=st.floats(0, 1),
    read=st.sampled_from([0, 1, 50, RECORD, 20_000]),
    look=st.booleans(),
    ended=st.booleans(),
)
def test_a_close_loses_nothing_that_has_come_or_is_still_to_come(
    contexts: Contexts, version: str, sizes: list[int], fed: float, read: int, look: bool, ended: bool
) -> None:
    """Neither what is decrypted, nor whole records, nor the part of a record; nor the end behind it."""
    pair = Pair.secured(contexts, version)
    end, other = pair.server, pair.client
    for size in sizes:
        other.write(STREAM[:size])
    if ended:
        other.close()
    wire = other.take_output()
    cut = int(fed * len(wire))
    end.feed(wire[:cut])
    got = end.read(read) if read else b""
    if look:
        end.look_ahead()
    end.close()
    end.close()
    got += read_all(end, 10_000)
    end.feed(wire[cut:])
    got += read_all(end)
    assert got == b"".join(STREAM[:size] for size in sizes)
    assert end.ended is ended
    other.feed(end.take_output())
    assert other.read(100) == b""
    assert other.ended


@both_versions
def test_a_second_close_says_nothing_more(contexts: Contexts, version: str) -> None:
    pair = Pair.secured(contexts, version)
    pair.client.close()
    assert pair.client.take_output()
    pair.client.close()
    assert pair.client.take_output() == b""


def test_a_close_before_the_handshake_is_complete_says_nothing(contexts: Contexts) -> None:
    pair = Pair(contexts.server(), contexts.client())
    pair.client.close()
    assert pair.client.take_output() == b""


def test_a_write_after_the_close_is_refused(contexts: Contexts) -> None:
    pair = Pair.secured(contexts)
    pair.client.close()
    pair.client.take_output()
    with pytest.raises(TlsFailed, match="protocol is shutdown"):
        pair.client.write(b"x")
    assert pair.client.take_output() == b""


@both_versions
@pytest.mark.parametrize("together", [True, False], ids=["in one piece", "later"])
def test_bytes_behind_close_notify_are_nobodys(contexts: Contexts, version: str, together: bool) -> None:
    """RFC 8446, 6.1: any data received after a closure alert MUST be ignored."""
    pair = Pair.secured(contexts, version)
    pair.client.write(b"last words")
    pair.client.close()
    wire = pair.client.take_output()
    behind = b"MAIL FROM:<a@example.org>\r\n" * 1000
    if together:
        wire += behind
    pair.server.feed(wire)
    assert pair.server.read(100) == b"last words"
    assert pair.server.read(100) == b""
    pair.server.feed(behind)
    pair.server.feed_eof()
    assert pair.server.read(100) == b""
    assert pair.server.ended
    assert not pair.server.buffered


@both_versions
@some_examples
@given(data=st.data())
def test_a_stream_that_is_cut_off_anywhere_is_told_after_its_whole_records(
    contexts: Contexts, version: str, data: st.DataObject
) -> None:
    pair = Pair.secured(contexts, version)
    words = [b"one", b"two", b"three", STREAM[:30_000]]
    ends = [0]
    for word in words:
        pair.client.write(word)
        ends.append(len(pair.client.take_output()) + ends[-1])
    pair = Pair.secured(contexts, version)
    for word in words:
        pair.client.write(word)
    wire = pair.client.take_output()
    cut = data.draw(st.one_of(st.sampled_from(ends), st.integers(0, len(wire))), label="cut")
    pair.server.feed(wire[:cut])
    pair.server.feed_eof()
    got, error = read_to_the_end(pair.server, 1000)
    assert isinstance(error, TlsTruncated)
    whole = [word for word, end in zip(words, ends[1:], strict=True) if end <= cut]
    assert got.startswith(b"".join(whole))
    assert b"".join(words).startswith(got)
    assert not pair.server.ended
    assert pair.server.read(100) == b"", "it is told once"
    assert not pair.server.buffered


@both_versions
@some_examples
@given(data=st.data())
def test_a_stream_that_was_altered_anywhere_gives_no_wrong_byte_and_fails(
    contexts: Contexts, version: str, data: st.DataObject
) -> None:
    pair = Pair.secured(contexts, version)
    for start in range(0, 3000, 1000):
        pair.client.write(STREAM[start : start + 1000])
    pair.client.close()
    wire = bytearray(pair.client.take_output())
    wire[data.draw(st.integers(0, len(wire) - 1), label="where")] ^= data.draw(st.integers(1, 255), label="how")
    pair.server.feed(wire)
    pair.server.feed_eof()
    got, error = read_to_the_end(pair.server, 700)
    assert isinstance(error, (TlsFailed, TlsTruncated))
    assert STREAM.startswith(got)
    assert len(got) % 1000 == 0, "whole records only"


@both_versions
def test_a_record_that_is_played_again_fails_the_connection_with_an_alert(contexts: Contexts, version: str) -> None:
    pair = Pair.secured(contexts, version)
    pair.client.write(b"pay")
    record = pair.client.take_output()
    pair.server.feed(record + record)
    assert pair.server.read(100) == b"pay"
    with pytest.raises(TlsFailed, match=r"a record is wrong \("):
        pair.server.read(100)
    assert len(cut_records(pair.server.take_output())) == 1


@both_versions
def test_records_in_the_wrong_order_fail_the_connection(contexts: Contexts, version: str) -> None:
    pair = Pair.secured(contexts, version)
    pair.client.write(b"one")
    pair.client.write(b"two")
    first, second = cut_records(pair.client.take_output())
    pair.server.feed(second + first)
    with pytest.raises(TlsFailed, match=r"a record is wrong \("):
        pair.server.read(100)


def test_plaintext_inside_of_an_encrypted_stream_fails_it(contexts: Contexts) -> None:
    pair = Pair.secured(contexts)
    pair.client.write(b"one")
    pair.server.feed(pair.client.take_output() + b"QUIT\r\n")
    assert pair.server.read(100) == b"one"
    with pytest.raises(TlsFailed):
        pair.server.read(100)


@both_versions
@pytest.mark.parametrize("part", [None, 5, 20], ids=["whole", "the header", "a part"])
def test_a_close_after_the_end_of_the_tcp_stream_loses_nothing_that_came(
    contexts: Contexts, version: str, part: int | None
) -> None:
    pair = Pair.secured(contexts, version)
    pair.client.write(b"one")
    pair.client.write(b"two")
    first, second = cut_records(pair.client.take_output())
    pair.server.feed(first + second[:part])
    pair.server.feed_eof()
    pair.server.close()
    got, error = read_to_the_end(pair.server)
    assert isinstance(error, TlsTruncated)
    assert got == (b"onetwo" if part is None else b"one")


@both_versions
def test_a_close_after_the_peers_close_and_the_end_of_the_tcp_stream_comes_back(
    contexts: Contexts, version: str
) -> None:
    pair = Pair.secured(contexts, version)
    pair.client.write(b"one")
    pair.client.close()
    pair.server.feed(pair.client.take_output())
    pair.server.feed_eof()
    in_time(pair.server.close)
    assert read_to_the_end(pair.server) == (b"one", None)
    assert pair.server.ended


def test_after_a_failure_a_close_says_nothing(contexts: Contexts) -> None:
    pair = Pair.secured(contexts)
    pair.server.feed(b"QUIT\r\n")
    with pytest.raises(TlsFailed):
        pair.server.read(100)
    pair.server.take_output()
    pair.server.close()
    assert pair.server.take_output() == b""


@both_versions
@pytest.mark.parametrize("how", ["ended", "cut off", "failed", "closed"])
def test_what_was_agreed_on_is_known_after_the_end_too(contexts: Contexts, version: str, how: str) -> None:
    pair = Pair.secured(contexts, version)
    before = pair.client.info()
    if how == "ended":
        pair.server.close()
        pair.client.feed(pair.server.take_output())
    elif how == "cut off":
        pair.client.feed_eof()
    elif how == "failed":
        pair.client.feed(b"QUIT\r\n")
    else:
        pair.client.close()
    read_to_the_end(pair.client)
    assert pair.client.info() == before
    assert before.peer_certificate is not None


def test_info_is_plain_data(contexts: Contexts) -> None:
    info = Pair.secured(contexts).server.info()
    assert info == TlsInfo("TLSv1.3", "TLS_AES_256_GCM_SHA384", None, NAME, None, False)
