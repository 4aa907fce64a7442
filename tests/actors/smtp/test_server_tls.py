"""TLS over real sockets: the upgrade, what attackers do around it, deadlines, the second listener."""

from __future__ import annotations

import socket
import ssl
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from actors.smtp.server import SmtpServer
from tests.actors.smtp.driver import ENVELOPE, GREETED
from tests.actors.smtp.serving import TIMEOUT_S, Dialog, Served, by_both, serving
from tests.actors.smtp.test_server import MESSAGE, SlowDisk, both_ways, sessions
from tests.actors.smtp.test_session_tls import INJECTED, STARTTLS
from tests.certificates_fixture import Certificates
from tests.peers import eventually
from tests.tls_peer import TlsPeer, client_context
from theater_tcp import Options, ServerTls, Settings, Theater, TheaterError


@pytest.fixture
def trust(certificates: Certificates) -> ssl.SSLContext:
    """What a client trusts: the tests' CA, and nobody else."""
    return ssl.create_default_context(cafile=certificates.ca)


@pytest.fixture
def served(tmp_path: Path, certificates: Certificates) -> Iterator[Served]:
    with serving(tmp_path, certificate=certificates.server, implicit_tls=["127.0.0.1:0"]) as served:
        yield served


def extensions(client: Dialog) -> str:
    client.send(GREETED)
    return "".join(client.lines())


def refused_upgrades(served: Served) -> tuple[int, int]:
    """Those that the session refused, and among them those that the runtime had refused."""
    return served.injections, served.theater.metrics().plaintext_before_tls


# -- the upgrade --------------------------------------------------------------------------------------------------


@by_both
@both_ways
def test_a_message_after_starttls_is_stored_and_says_how_it_came(
    tmp_path: Path, certificates: Certificates, trust: ssl.SSLContext, fsync: bool
) -> None:
    with serving(tmp_path, certificate=certificates.server, fsync=fsync) as served, served.dial() as client:
        assert "STARTTLS" in extensions(client)
        client.start_tls(trust)
        version, cipher = client.cipher()
        assert "STARTTLS" not in extensions(client)
        assert client.ask(ENVELOPE + b"DATA\r\n" + MESSAGE, 4)[3] == "250 2.0.0"
        (message,) = served.delivered()
        assert f"\n\t(version={version} cipher={cipher})\n\tby mx.example.org with ESMTPS id ".encode() in message
        assert client.ask(b"QUIT\r\n") == ["221 2.0.0"]
        assert client.rest() == b""


@by_both
def test_the_name_of_an_older_version_is_told_as_it_is(served: Served, trust: ssl.SSLContext) -> None:
    trust.maximum_version = ssl.TLSVersion.TLSv1_2
    with served.dial() as client:
        client.start_tls(trust)
        client.open_message()
        assert client.ask(MESSAGE) == ["250 2.0.0"]
    assert b"\n\t(version=TLSv1.2 cipher=ECDHE-ECDSA-" in served.delivered()[0]


@by_both
def test_after_the_upgrade_no_second_greeting_comes_and_nothing_of_before_is_known(
    served: Served, trust: ssl.SSLContext
) -> None:
    with served.dial() as client:
        client.ask(GREETED + b"MAIL FROM:<a@example.net>\r\n", 2)
        client.start_tls(trust)
        assert client.ask(b"RCPT TO:<b@example.org>\r\nMAIL FROM:<>\r\n", 2) == ["503 5.5.1", "503 5.5.1"]
        assert client.ask(GREETED + ENVELOPE + b"DATA\r\n" + MESSAGE, 5)[4] == "250 2.0.0"


@by_both
def test_a_second_starttls_is_refused_and_the_session_goes_on_encrypted(served: Served, trust: ssl.SSLContext) -> None:
    with served.dial() as client:
        client.start_tls(trust)
        assert client.ask(GREETED + STARTTLS + b"NOOP\r\n", 3) == ["250 HELP", "503 5.5.1", "250 2.0.0"]
        assert refused_upgrades(served) == (0, 0)


@by_both
def test_without_a_certificate_starttls_is_neither_offered_nor_done(tmp_path: Path) -> None:
    with serving(tmp_path) as served, served.dial() as client:
        assert "STARTTLS" not in extensions(client)
        assert client.ask(STARTTLS + b"NOOP\r\n", 2) == ["454 4.7.0", "250 2.0.0"]


@by_both
def test_the_parts_of_a_message_that_starttls_drops_go_away(
    tmp_path: Path, certificates: Certificates, trust: ssl.SSLContext
) -> None:
    with serving(tmp_path, certificate=certificates.server, spool_size=4096) as served, served.dial() as client:
        chunk = (b"x" * 898 + b"\r\n") * 100
        client.send(GREETED + ENVELOPE + b"BDAT %d\r\n" % len(chunk) + chunk + b"NOOP\r\n")
        assert [client.code() for _ in range(5)][3:] == ["250 2.0.0"] * 2
        eventually(lambda: len(served.begun()) == 1)
        client.start_tls(trust)
        eventually(lambda: served.begun() == [])
        assert client.ask(GREETED + ENVELOPE + b"DATA\r\n" + MESSAGE, 5)[4] == "250 2.0.0"
        assert len(served.delivered()) == 1


@by_both
@both_ways
def test_over_tls_whole_sessions_come_at_once_and_large_messages_in_parts(
    tmp_path: Path, certificates: Certificates, trust: ssl.SSLContext, fsync: bool
) -> None:
    large = b"".join(b"%06d %s\r\n" % (number, b"x" * 900) for number in range(2000))
    data = GREETED + (ENVELOPE + b"BDAT 7 LAST\r\nhello\r\n") * 3 + ENVELOPE + b"DATA\r\n" + large + b".\r\nQUIT\r\n"
    with serving(tmp_path, certificate=certificates.server, fsync=fsync) as served, served.dial() as client:
        client.start_tls(trust)
        client.send(data)
        assert [client.code() for _ in range(15)][-2:] == ["250 2.0.0", "221 2.0.0"]
        assert client.rest() == b""
        assert len(served.delivered()) == 4
        assert max(served.delivered(), key=len).endswith(large.replace(b"\r\n", b"\n"))


@by_both
def test_what_a_client_sends_over_tls_while_its_message_is_stored_is_answered_after_that(
    served: Served, trust: ssl.SSLContext, monkeypatch: pytest.MonkeyPatch
) -> None:
    disk = SlowDisk(monkeypatch)
    with served.dial() as client, served.dial() as other:
        client.start_tls(trust)
        client.open_message()
        client.send(MESSAGE + b"NOOP\r\n")
        disk.wait()
        for command in (b"VRFY x\r\n", b"HELP\r\n", b"RSET\r\n"):
            client.send(command)
            assert other.ask(b"NOOP\r\n") == ["250 2.0.0"]
        disk.release()
        assert [client.code() for _ in range(5)] == ["250 2.0.0", "250 2.0.0", "252 2.5.0", "214 2.0.0", "250 2.0.0"]


# -- bytes behind STARTTLS ----------------------------------------------------------------------------------------


@by_both
@pytest.mark.parametrize("injected", INJECTED, ids=repr)
def test_nothing_that_comes_in_one_piece_with_starttls_is_executed(
    served: Served, caplog: pytest.LogCaptureFixture, injected: bytes
) -> None:
    with served.dial() as client:
        client.send(STARTTLS + injected)
        assert client.rest() == b"554 5.5.0 Nothing may follow STARTTLS before its reply; closing\r\n"
    assert refused_upgrades(served) == (1, 0)
    assert served.delivered() == []
    assert "plaintext came behind STARTTLS" in caplog.text


@pytest.mark.parametrize("injected", [data for data in INJECTED if data[:1] != b"\x16"], ids=repr)
def test_nothing_that_waits_in_the_kernel_behind_starttls_is_executed(
    server: str, served: Served, caplog: pytest.LogCaptureFixture, monkeypatch: pytest.MonkeyPatch, injected: bytes
) -> None:
    disk = SlowDisk(monkeypatch)
    with served.dial() as client, served.dial() as other:
        client.open_message()
        client.send(MESSAGE)
        disk.wait()
        client.send(STARTTLS)
        assert other.ask(b"NOOP\r\n") == ["250 2.0.0"]  # STARTTLS has been read, and nothing more is for now
        client.send(injected)
        assert other.ask(b"NOOP\r\n") == ["250 2.0.0"]
        disk.release()
        assert client.code() == "250 2.0.0"
        if server == "python":
            assert client.rest() in (b"220 2.0.0 Go ahead with TLS\r\n", b"")
        else:  # it reads nothing while it waits for the store, and then both in one piece
            assert client.rest() == b"554 5.5.0 Nothing may follow STARTTLS before its reply; closing\r\n"
        assert other.ask(b"NOOP\r\n") == ["250 2.0.0"]
    assert refused_upgrades(served) == (1, 1 if server == "python" else 0)
    assert len(served.delivered()) == 1
    assert "plaintext came behind STARTTLS" in caplog.text


@by_both
@pytest.mark.parametrize("injected", [data for data in INJECTED if data[:1] != b"\x16"], ids=repr)
def test_nothing_that_comes_in_plaintext_after_the_reply_is_executed(served: Served, injected: bytes) -> None:
    with served.dial() as client:
        client.ask(GREETED)
        assert client.ask(STARTTLS) == ["220 2.0.0"]
        client.send(injected)
        client.socket.shutdown(socket.SHUT_WR)
        assert b" 2." not in client.rest()  # at most a TLS alert
    assert served.theater.metrics().handshakes == 0
    assert served.delivered() == []


@by_both
def test_what_stands_in_front_of_starttls_is_answered_when_something_follows_it(served: Served) -> None:
    with served.dial() as client:
        assert client.ask(GREETED + ENVELOPE + STARTTLS + b"NOOP\r\n", 4)[1:] == ["250 2.1.0", "250 2.1.5", "554 5.5.0"]
        assert client.rest() == b""


@by_both
def test_a_client_that_did_not_wait_for_the_reply_can_come_again_and_do_better(
    served: Served, trust: ssl.SSLContext
) -> None:
    with served.dial() as hasty:
        hasty.send(STARTTLS + b"\x16\x03\x01\x02\x00")
        assert hasty.code() == "554 5.5.0"
    with served.dial() as client:
        client.start_tls(trust)
        client.open_message()
        assert client.ask(MESSAGE) == ["250 2.0.0"]


@by_both
def test_starttls_behind_a_message_is_done_when_the_message_is_stored(
    served: Served, trust: ssl.SSLContext, monkeypatch: pytest.MonkeyPatch
) -> None:
    disk = SlowDisk(monkeypatch)
    with served.dial() as client, served.dial() as other:
        client.open_message()
        client.send(MESSAGE)
        disk.wait()
        client.send(STARTTLS)
        assert other.ask(b"NOOP\r\n") == ["250 2.0.0"]
        disk.release()
        assert [client.code(), client.code()] == ["250 2.0.0", "220 2.0.0"]
        client.shake_hands(trust)
        assert client.ask(b"DATA\r\n" + GREETED, 2) == ["503 5.5.1", "250 HELP"]


def test_a_client_whose_handshake_begins_before_the_reply_came_is_served_where_nothing_else_is_there(
    served: Served, certificates: Certificates, monkeypatch: pytest.MonkeyPatch
) -> None:
    disk = SlowDisk(monkeypatch)
    with served.dial() as client, served.dial() as other:
        peer = TlsPeer(client.socket, client_context(certificates.ca))
        client.open_message()
        client.send(MESSAGE)
        disk.wait()
        client.send(STARTTLS)
        assert other.ask(b"NOOP\r\n") == ["250 2.0.0"]
        client.send(peer.hello())  # by itself, so the session doesn't get it, and the runtime sees what it is
        assert other.ask(b"NOOP\r\n") == ["250 2.0.0"]
        disk.release()
        assert [client.code(), client.code()] == ["250 2.0.0", "220 2.0.0"]
        peer.handshake().send(b"NOOP\r\n")
        assert peer.receive() == b"250 2.0.0 Ok\r\n"


# -- handshakes that come to nothing ------------------------------------------------------------------------------


def test_a_client_that_says_nothing_in_its_handshake_is_silent_and_nobody_waits_for_it(
    tmp_path: Path, certificates: Certificates
) -> None:
    before = sessions()
    with serving(tmp_path, certificate=certificates.server, timeout=0.2) as served, served.dial() as stalled:
        assert stalled.ask(STARTTLS) == ["220 2.0.0"]
        with served.dial() as other:
            assert other.ask(b"NOOP\r\n") == ["250 2.0.0"]
        assert stalled.rest() == b""
        eventually(lambda: sessions() == before)  # it is forgotten when its end is on its way already


def test_a_handshake_that_takes_too_long_ends_the_client_and_the_server_forgets_it(
    tmp_path: Path, certificates: Certificates, caplog: pytest.LogCaptureFixture
) -> None:
    before = sessions()
    with serving(tmp_path, certificate=certificates.server, handshake_timeout=0.1) as served, served.dial() as client:
        assert client.ask(STARTTLS) == ["220 2.0.0"]
        assert b" 2." not in client.rest()
        with served.dial() as other:
            assert other.ask(b"NOOP\r\n") == ["250 2.0.0"]
            assert sessions() == before + 1
    assert "Traceback" not in caplog.text


def test_a_client_that_does_not_trust_the_certificate_leaves_nothing_behind(
    served: Served, caplog: pytest.LogCaptureFixture
) -> None:
    before = sessions()
    with served.dial() as client, pytest.raises(ssl.SSLCertVerificationError):
        client.start_tls(ssl.create_default_context())
    with served.dial() as other:
        assert other.ask(b"NOOP\r\n") == ["250 2.0.0"]
        assert sessions() == before + 1
    assert "Traceback" not in caplog.text


@by_both
def test_a_message_whose_connection_is_cut_off_is_not_delivered(served: Served, trust: ssl.SSLContext) -> None:
    with served.dial() as client:
        client.start_tls(trust)
        client.open_message()
        client.send(b"Subject: pay\r\n\r\n100")  # and then the end of TCP's stream, without TLS's
    with served.dial() as other:
        assert other.ask(b"NOOP\r\n") == ["250 2.0.0"]
    assert served.begun() == []
    assert served.delivered() == []


@by_both
@both_ways
def test_who_ends_its_side_of_tls_after_the_message_still_gets_the_reply(
    tmp_path: Path, certificates: Certificates, fsync: bool
) -> None:
    with serving(tmp_path, certificate=certificates.server, fsync=fsync) as served, served.dial() as client:
        assert client.ask(STARTTLS) == ["220 2.0.0"]
        peer = TlsPeer(client.socket, client_context(certificates.ca)).handshake()
        client.send(peer.seal(GREETED + ENVELOPE + b"DATA\r\n" + MESSAGE) + peer.goodbye())
        said = b""
        while piece := peer.receive():
            said += piece
        assert b"\r\n250 2.0.0 Ok: queued as " in said
        assert len(served.delivered()) == 1


@by_both
def test_on_the_way_down_a_client_in_its_handshake_is_told_after_it(served: Served, trust: ssl.SSLContext) -> None:
    with served.dial() as client, served.dial() as idle:
        assert client.ask(STARTTLS) == ["220 2.0.0"]
        served.theater.request_shutdown(TIMEOUT_S)
        assert idle.code() == "421 4.3.2"
        client.shake_hands(trust)
        assert client.code() == "421 4.3.2"
        assert client.rest() == b""
        assert served.theater.shutdown()


# -- required, and from the first byte ----------------------------------------------------------------------------


@by_both
def test_where_tls_is_required_nothing_is_accepted_before_it(
    tmp_path: Path, certificates: Certificates, trust: ssl.SSLContext
) -> None:
    with serving(tmp_path, certificate=certificates.server, require_tls=True) as served, served.dial() as client:
        data = GREETED + ENVELOPE + b"RSET\r\nDATA\r\n"
        assert client.ask(data, 5) == ["250 HELP", "530 5.7.0", "530 5.7.0", "530 5.7.0", "530 5.7.0"]
        assert client.ask(b"HELO c\r\nNOOP\r\n", 2) == ["250 mx.ex", "250 2.0.0"]
        client.start_tls(trust)
        client.open_message()
        assert client.ask(MESSAGE) == ["250 2.0.0"]
        assert len(served.delivered()) == 1


@by_both
def test_where_tls_is_required_and_there_is_no_certificate_the_log_says_so(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    with serving(tmp_path, require_tls=True) as served, served.dial() as client:
        assert client.ask(GREETED + STARTTLS + ENVELOPE, 4)[1:] == ["454 4.7.0", "530 5.7.0", "530 5.7.0"]
    assert "require_tls" in caplog.text


@by_both
@pytest.mark.parametrize("require_tls", [True, False])
def test_tls_may_begin_with_the_first_byte_on_a_listener_of_its_own(
    tmp_path: Path,
    certificates: Certificates,
    trust: ssl.SSLContext,
    caplog: pytest.LogCaptureFixture,
    require_tls: bool,
) -> None:
    init: dict[str, Any] = {"implicit_tls": ["127.0.0.1:0"], "require_tls": require_tls}
    with (
        serving(tmp_path, certificate=certificates.server, **init) as served,
        Dialog(served.host, served.implicit_port) as client,
        served.dial() as other,
    ):
        client.shake_hands(trust)
        assert client.reply() == "220 mx.example.org ESMTP"
        assert "STARTTLS" not in extensions(client)
        assert "STARTTLS" in extensions(other)
        assert client.ask(STARTTLS + ENVELOPE + b"DATA\r\n" + MESSAGE, 5)[::4] == ["503 5.5.1", "250 2.0.0"]
        assert b" with ESMTPS id " in served.delivered()[0]
    assert "require_tls" not in caplog.text


@by_both
def test_who_speaks_plaintext_where_tls_begins_with_the_first_byte_is_not_heard(served: Served) -> None:
    with Dialog(served.host, served.implicit_port) as client:
        client.send(GREETED)
        client.socket.shutdown(socket.SHUT_WR)
        assert b"250" not in client.rest()


@pytest.mark.parametrize("server_tls", [None, ServerTls(enabled=False)], ids=["none", "switched off"])
@pytest.mark.parametrize("addresses", [["127.0.0.1:0"], ["127.0.0.1:0", "[::1]:0"]])
def test_without_a_certificate_a_listener_for_tls_refuses_the_start_in_one_line(
    tmp_path: Path, addresses: list[str], server_tls: ServerTls | None
) -> None:
    with Theater(Settings(options=Options(server_tls=server_tls))) as theater:
        with pytest.raises(TheaterError) as refused:
            theater.spawn(SmtpServer, maildir=str(tmp_path), implicit_tls=addresses)
        assert theater.listeners() == []
    assert str(refused.value) == "invalid: implicit_tls: there is no certificate for it (server_tls is not set)"


def test_a_wrong_address_for_tls_refuses_the_start_in_one_line_that_names_the_setting(
    tmp_path: Path, certificates: Certificates
) -> None:
    with (
        pytest.raises(TheaterError, match=r"^invalid: implicit_tls: .*2465") as refused,
        serving(tmp_path, certificate=certificates.server, implicit_tls=["2465"]),
    ):
        pass
    assert "\n" not in str(refused.value)
