"""Every function that a guest may import, called by a guest: what it gives, and every error that can come back."""

from __future__ import annotations

import gc
import logging
import socket
import threading
import time
from typing import TYPE_CHECKING, Any
from unittest import mock

import pytest

from tests.contract.test_sending import small_window
from tests.guests.puppets import GuestOwner, GuestStage, Strings, stage_settings
from tests.guests.wat_guests import IMPORTS, call_frame, puppet
from tests.peers import TIMEOUT, cut, receive_exactly, receive_to_end, stuff
from tests.support import Echo
from tests.tls_peer import TlsPeer, client_context, server_context
from theater_tcp import ClientTls, Options, Permissions, ServerTls
from theater_tcp.errors import TheaterError, TimedOut, by_kind
from theater_tcp.guest.calls import GuestCalls
from theater_tcp.guest_settings import Limits
from theater_tcp.log_allowance import LogAllowance
from theater_tcp.poller import READ

if TYPE_CHECKING:
    from collections.abc import Callable

    from tests.certificates_fixture import Certificates

REST: dict[str, tuple[Any, ...]] = {
    "tcp#set-active": ("active",),
    "tcp#transfer": ("urn:uuid:00000000-0000-4000-8000-000000000000",),
    "tcp#send": (b"data",),
    "tcp#receive": (10,),
    "tcp#upgrade-to-tls-client": ("localhost",),
    "tcp-ext#set-framing": ("line", 0),
    "tcp-ext#set-option": ("half_open", "true"),
}
"""What follows the id in a call that is right but for the id."""

OF_LISTENERS = ("tcp#accept", "tcp#close-listener", "tcp-ext#listener-address")
OF_CONNECTIONS = tuple(
    name for name in IMPORTS if name.startswith("tcp") and name not in {*OF_LISTENERS, "tcp#connect", "tcp#listen"}
)


def by_id(guest: GuestOwner, function: str, some_id: str) -> str:
    return guest.refused(function, some_id, *REST.get(function, ()))


def flood(guest: GuestOwner, connection: str, pieces: int = 6) -> Any:
    """Let the guest send more than the system takes for it, by 2 MB; a future of how much it sent."""

    def send_all(_actor: Any) -> int:
        return sum(guest.do("tcp#send", connection, bytes(2_000_000)) for _ in range(pieces))

    return guest.begin(send_all, None)


def pair(stage: GuestStage, guest: GuestOwner, **options: Any) -> tuple[str, socket.socket]:
    """A connection of the guest, open and passive, and its peer."""
    connection, peer = guest.meet(mode="passive", **options)
    return connection.id, peer


# -- ids ------------------------------------------------------------------------------------------------------------


def test_an_unknown_id_is_not_found_by_every_call_and_is_named_in_one_short_line(stage: GuestStage, road: str) -> None:
    guest = stage.guest(road)
    for function in OF_CONNECTIONS + OF_LISTENERS:
        for some_id in ("", "urn:uuid:none", "two\nlines\x1b[1m", "ü" * 5000, "\0", "127.0.0.1:1"):
            text = by_id(guest, function, some_id)
            assert text.startswith("not-found"), function
            assert text.isprintable()
            assert len(text) < 1300


def test_another_actors_id_is_not_owner_by_every_call_and_its_owner_notices_nothing(
    stage: GuestStage, road: str
) -> None:
    guest = stage.guest(road)
    for other in (stage.owner("loop"), stage.owner("thread"), stage.guest(road)):
        listener = other.listen()
        peer = stage.dial(listener.address)
        connection = other.expect("handle_connection").connection
        other.call(connection.activate)
        for function in OF_CONNECTIONS:
            assert by_id(guest, function, connection.id) == f"not-owner: {connection.id}"
        for function in OF_LISTENERS:
            assert by_id(guest, function, listener.id) == f"not-owner: {listener.id}"
        other.call(connection.send, b"mine")
        assert receive_exactly(peer, 4) == b"mine"
        other.hears_nothing()


def test_a_listeners_id_is_no_connections_and_the_reverse(stage: GuestStage, road: str) -> None:
    guest = stage.guest(road)
    listener = guest.listen()
    connection, _peer = guest.meet(mode="passive")
    for function in OF_CONNECTIONS:
        assert by_id(guest, function, listener.id).startswith("not-found")
    for function in OF_LISTENERS:
        assert by_id(guest, function, connection.id).startswith("not-found")
    assert guest.calls("tcp-ext#listener-address", listener.id) == listener.address
    assert guest.calls("tcp#send", connection.id, b"x") == 1


# -- opening --------------------------------------------------------------------------------------------------------


def test_connect_gives_an_open_and_passive_connection_to_a_python_actor_and_to_a_guest(
    stage: GuestStage, road: str
) -> None:
    client, server = stage.guest(road), stage.guest(road)
    python = stage.theater.listen_for(stage.theater.spawn(Echo), "127.0.0.1:0").address
    by_python = client.connect(python)
    assert client.calls("tcp#send", by_python.id, b"hello") == 5
    assert client.calls("tcp#receive", by_python.id, 100) == b"hello"
    assert client.calls("tcp#peer-address", by_python.id) == python
    by_guest = client.connect(server.listen().address)
    connection = server.expect("handle_connection").connection
    server.call(connection.activate)
    assert server.calls("tcp#peer-address", connection.id) == client.calls("tcp-ext#local-address", by_guest.id)
    server.call(connection.send, b"from the other guest")
    assert client.calls("tcp#receive", by_guest.id, 100) == b"from the other guest"


@pytest.mark.parametrize("function", ["tcp#connect", "tcp#listen"])
def test_an_address_that_is_none_is_invalid(stage: GuestStage, road: str, function: str) -> None:
    guest = stage.guest(road)
    for wrong in ("", "127.0.0.1", "127.0.0.1:65536", "127.0.0.1:-1", "::1:25", "unix:relative", "a b:1", "\0:1"):
        assert guest.refused(function, wrong).startswith("invalid: ")
    assert guest.refused(function, "x" * 100_000 + ":1").startswith(("invalid: ", "unreachable: "))
    assert stage.theater.metrics().listeners == 0


def test_listen_at_an_address_in_use_is_told(stage: GuestStage, road: str) -> None:
    guest = stage.guest(road)
    listener = guest.listen()
    assert guest.refused("tcp#listen", listener.address).startswith("address-in-use")
    guest.calls("tcp#close-listener", listener.id)
    assert guest.refused("tcp#close-listener", listener.id).startswith("not-found")
    assert guest.refused("tcp#accept", listener.id).startswith("not-found")
    assert guest.listen(listener.address).address == listener.address


def test_what_the_permissions_do_not_allow_is_denied_and_counted(stage: GuestStage, road: str) -> None:
    permissions = Permissions(enabled=True, allowlist=("127.0.0.1:*",), listen=("127.0.0.1:0",))
    guest = stage.guest(road, permissions=permissions)
    for address in ("192.0.2.1:25", "[::1]:25", "unix:/tmp/socket", "169.254.169.254:80"):
        assert guest.refused("tcp#connect", address).startswith("denied: ")
    for address in ("0.0.0.0:0", "127.0.0.1:7", "unix:/tmp/socket"):
        assert guest.refused("tcp#listen", address).startswith("denied: ")
    assert stage.theater.metrics().denied == 7
    assert guest.listen().address.startswith("127.0.0.1:")


def test_accept_waits_and_only_the_guest_that_called_it(stage: GuestStage, road: str) -> None:
    first, second = stage.guest(road), stage.guest(road)
    listeners = [guest.listen() for guest in (first, second)]
    waiting = first.begin(listeners[0].accept)
    other = second.begin(listeners[1].accept)
    peer = stage.dial(listeners[1].address)
    connection = other.get(timeout=TIMEOUT)
    second.call(connection.activate)
    second.call(connection.send, b"served while the other one waits")
    assert receive_exactly(peer, 32) == b"served while the other one waits"
    stage.dial(listeners[0].address)
    assert first.call(lambda: waiting.get(timeout=TIMEOUT).id).startswith("urn:uuid:")
    first.hears_nothing()


# -- data -----------------------------------------------------------------------------------------------------------


def test_a_mode_that_is_none_is_invalid_and_changes_nothing(stage: GuestStage, road: str) -> None:
    guest = stage.guest(road)
    connection, peer = guest.meet(mode="active")
    for wrong in ("", "Active", "0", "-1", "32768", "1.0", "+1", " 1", "1_0", "٣", "²", "9" * 5000, "once\0", "None"):
        assert guest.refused("tcp#set-active", connection.id, wrong).startswith("invalid"), wrong
    peer.sendall(b"still active")
    assert guest.collect(12) == b"still active"
    guest.calls("tcp#set-active", connection.id, "00001")
    peer.sendall(b"one")
    guest.expect("on_data", b"one")
    guest.expect("on_passive")


def test_receive_of_nothing_is_invalid_and_of_4_gib_is_what_has_arrived(stage: GuestStage, road: str) -> None:
    guest = stage.guest(road)
    connection, peer = pair(stage, guest)
    peer.sendall(b"all of it")
    assert guest.refused("tcp#receive", connection, 0).startswith("invalid")
    assert guest.calls("tcp#receive", connection, 0xFFFF_FFFF) == b"all of it"
    peer.shutdown(socket.SHUT_WR)


def test_a_receive_past_its_timeout_is_timeout_and_the_connection_goes_on(stage: GuestStage, road: str) -> None:
    guest = stage.guest(road)
    connection, peer = pair(stage, guest)
    guest.calls("tcp-ext#set-option", connection, "receive_timeout", "50 ms")
    assert guest.refused("tcp#receive", connection, 10).startswith("timeout")
    guest.calls("tcp-ext#set-option", connection, "receive_timeout", "null")
    peer.sendall(b"late")
    assert guest.calls("tcp#receive", connection, 10) == b"late"


@pytest.mark.parametrize("size", [0, 1, 65_536, 2_000_000])
def test_send_gives_the_length_of_all_that_it_took(stage: GuestStage, road: str, size: int) -> None:
    guest = stage.guest(road)
    connection, peer = pair(stage, guest)
    data = bytes(range(256)) * (size // 256) + bytes(size % 256)
    sending = guest.begin(guest.do, "tcp#send", connection, data)
    assert receive_exactly(peer, size) == data
    assert sending.get(timeout=TIMEOUT) == size


def test_a_send_to_a_slow_peer_suspends_the_guest_and_nobody_else(stage: GuestStage, road: str) -> None:
    guest, other = stage.guest(road), stage.guest(road)
    echo = stage.theater.listen_for(stage.theater.spawn(Echo), "127.0.0.1:0").address
    connection, peer = pair(stage, guest)
    size = 12_000_000
    sending = flood(guest, connection)
    receive_exactly(peer, 1 << 16)
    stage.pass_turns()
    client = other.connect(echo)
    other.call(client.send, b"meanwhile")
    assert other.call(client.receive, 100) == b"meanwhile"
    receive_exactly(peer, size - (1 << 16))
    assert sending.get(timeout=TIMEOUT) == size


@pytest.mark.parametrize("road", ["core", "threads"])  # by the other one no send is as long
def test_of_one_send_no_more_than_the_limit_of_the_buffer_waits_in_the_host(stage: GuestStage, road: str) -> None:
    guest = stage.guest(road)
    connection, peer = small_window(guest)
    core = connection._core
    data = bytes(12_000_000)  # more than the system takes
    sending = guest.begin(guest.do, "tcp#send", connection.id, data)
    stage.until(lambda: core.output is not None and core.output.size > 0)
    assert core.output.size <= core.options.write_buffer_limit
    assert receive_exactly(peer, len(data)) == data
    assert sending.get(timeout=TIMEOUT) == len(data)


def test_a_send_that_the_peer_does_not_take_is_timeout_and_ends_the_connection(stage: GuestStage, road: str) -> None:
    guest = stage.guest(road)
    handle, _peer = small_window(guest, send_timeout=0.1)
    connection = handle.id
    with pytest.raises(by_kind["timeout"]):
        flood(guest, connection).get(timeout=TIMEOUT)
    guest.expect("on_close", "timeout")
    assert guest.refused("tcp#send", connection, b"more").startswith("not-found")


def test_a_peer_that_resets_while_a_guest_sends_ends_it_with_reset(stage: GuestStage, road: str) -> None:
    guest = stage.guest(road)
    connection, peer = small_window(guest)
    sending = flood(guest, connection.id)
    receive_exactly(peer, 1000)
    cut(peer)
    try:
        sending.get(timeout=TIMEOUT)
    except TheaterError as error:  # in the middle of a send; between two of them only on-close tells it
        if not str(error).startswith(("reset", "closed")):
            raise
    guest.expect("on_close", "reset")


def test_an_id_with_which_a_guest_is_done_is_kept_nowhere(stage: GuestStage, road: str) -> None:
    def kept() -> int:
        gc.collect()
        names = ("GuestConnectionHandle", "ListenerHandle")
        return sum(type(each).__name__ in names for each in gc.get_objects())

    guest, other = stage.guest(road, limits=Limits(listeners=100)), stage.owner("loop")
    before = kept()
    for _ in range(5):
        closed, aborted, transferred = (guest.meet(mode="passive")[0] for _ in range(3))
        guest.call(closed.close)
        guest.call(aborted.abort)
        guest.call(transferred.transfer, other.ref)
        other.expect("handle_connection_transfer")
    assert kept() - before <= 1 + 15  # and the listeners that are open yet
    for listener in [guest.listen() for _ in range(5)]:
        guest.call(listener.close)
    assert kept() - before <= 1 + 15


# -- options --------------------------------------------------------------------------------------------------------


def test_set_option_takes_the_names_and_units_of_a_manifest(stage: GuestStage, road: str) -> None:
    guest = stage.guest(road)
    connection, _peer = guest.meet(mode="passive")
    for name, value in (("idle_timeout", "5 min"), ("half_open", "true"), ("write_buffer_limit", "512 KiB")):
        guest.calls("tcp-ext#set-option", connection.id, name, value)
    options = connection._core.options
    assert (options.idle_timeout, options.half_open, options.write_buffer_limit) == (300.0, True, 512 << 10)
    assert options.receive_timeout is None


@pytest.mark.parametrize("name", ["read_buffer_limit", "write_buffer_limit", "write_buffer_hard_limit"])
def test_a_guest_may_lower_the_limits_of_a_connections_buffers_and_not_raise_them(
    stage: GuestStage, road: str, name: str
) -> None:
    guest = stage.guest(road)
    options: dict[str, Any] = {
        "read_buffer_limit": 1000,
        "write_buffer_limit": 2000,
        "write_buffer_hard_limit": 3000,
    }
    most = options[name]
    connection, _peer = guest.meet(mode="passive", **options)
    for size in (most, most - 1, most):
        guest.calls("tcp-ext#set-option", connection.id, name, str(size))
        assert getattr(connection._core.options, name) == size
    assert guest.refused("tcp-ext#set-option", connection.id, name, "3 KiB") == (
        f"limit: {name}: 3072 is above {most}, with which the guest got the connection"
    )
    assert guest.refused("tcp-ext#set-option", connection.id, name, "none").startswith("invalid: ")
    assert guest.refused("tcp-ext#set-framing", connection.id, "line", 1001).startswith("invalid: ")
    assert getattr(connection._core.options, name) == most


WRONG_OPTIONS = [
    ("", "1"),
    ("no_such_option", "1"),
    ("self", "1"),
    ("__class__", "1"),
    ("idle_timeout", "soon"),
    ("idle_timeout", "-1 s"),
    ("idle_timeout", "{}"),
    ("idle_timeout", "["),
    ("idle_timeout", "&a [*a]"),
    ("idle_timeout", "!!python/object/apply:os.getcwd []"),
    ("idle_timeout", "[" * 5000),
    ("idle_timeout", "9" * 10_000),
    ("idle_timeout", "\ud7ff\x07"),
    ("idle_timeout", "a: &a [1,1,1,1,1,1,1,1,1]\n" + "".join(
        f"{chr(ord('b') + n)}: &{chr(ord('b') + n)} [{','.join(['*' + chr(ord('a') + n)] * 9)}]\n" for n in range(9)
    )),
    ("server_tls", "{cert: /etc/passwd, key: /etc/passwd}"),
    ("client_tls", "{ca_cert: /etc/passwd}"),
    ("framing", "lines"),
    ("write_buffer_limit", "1 TiB"),
]  # fmt: skip


def test_an_option_that_is_none_is_invalid_in_one_line_and_changes_nothing(stage: GuestStage, road: str) -> None:
    guest = stage.guest(road)
    connection, _peer = guest.meet(mode="passive")
    before = connection._core.options
    for name, value in WRONG_OPTIONS:
        text = guest.refused("tcp-ext#set-option", connection.id, name, value)
        assert text.startswith("invalid: "), (name, value[:100])
        assert text.isprintable()
        assert len(text) < 1000
    assert connection._core.options == before


@pytest.mark.parametrize("name", ["server_tls", "client_tls"])
def test_a_guest_names_no_certificates(stage: GuestStage, road: str, name: str) -> None:
    guest = stage.guest(road)
    connection, _peer = pair(stage, guest)
    assert guest.refused("tcp-ext#set-option", connection, name, "null") == (
        f"invalid: {name}: certificates are for the manifest to name"
    )


def test_a_framing_that_is_none_is_invalid_and_changes_nothing(stage: GuestStage, road: str) -> None:
    guest = stage.guest(road)
    connection, peer = guest.meet(mode="passive", framing="line")
    for framing, longest in (("", 0), ("lines", 0), ("length-3", 0), ("line", 1 << 30), ("raw\0", 0)):
        assert guest.refused("tcp-ext#set-framing", connection.id, framing, longest).startswith("invalid: ")
    peer.sendall(b"one\ntwo\n")
    assert guest.call(connection.receive, 100) == b"one\n"
    guest.calls("tcp-ext#set-framing", connection.id, "length-2", 100)
    guest.call(connection.send, b"framed")
    assert receive_exactly(peer, 8) == b"\0\6framed"


@pytest.mark.parametrize("unit", ["x", "ü", "[", "a.", "1"])
def test_a_text_of_a_mebibyte_costs_no_more_than_to_refuse_it(stage: GuestStage, road: str, unit: str) -> None:
    guest = stage.guest(road)
    connection, _peer = guest.meet(mode="passive")
    text = unit * ((1 << 20) // len(unit.encode()))
    calls: list[tuple[Any, ...]] = [
        ("tcp#connect", f"{text}:1"),
        ("tcp#connect", f"[{text}]:1"),
        ("tcp#listen", f"{text}:1"),
        ("tcp#listen", f"unix:/{text}"),
        ("tcp#transfer", connection.id, text),
        ("tcp#set-active", connection.id, text),
        ("tcp#upgrade-to-tls-client", connection.id, text),
        ("tcp-ext#set-framing", connection.id, text, 0),
        ("tcp-ext#set-option", connection.id, text, "1"),
        ("tcp-ext#set-option", connection.id, "idle_timeout", text),
    ]
    for call in calls:
        assert guest.refused(*call) == "invalid: a text of more than 1024 characters", call[0]
    assert len(guest.refused("tcp#activate", text)) < 5000


# -- transfer -------------------------------------------------------------------------------------------------------


def test_transfer_goes_to_guests_and_actors_by_id_and_to_guests_by_name(stage: GuestStage, road: str) -> None:
    guest, named = stage.guest(road), stage.guest(road, name="the-other")
    python = stage.owner("loop")
    for target, how in ((named, "the-other"), (named, named.ref.actor_urn), (python, python.ref.actor_urn)):
        connection, peer = pair(stage, guest)
        peer.sendall(b"unread")
        guest.calls("tcp#transfer", connection, how)
        after = target.expect("handle_connection_transfer").connection
        assert after.id == connection
        assert target.call(after.receive, 10) == b"unread"
        assert guest.refused("tcp#send", connection, b"not mine") == f"not-owner: {connection}"
    back, peer = python.meet(mode="passive")
    python.call(back.transfer, guest.ref)
    mine = guest.expect("handle_connection_transfer").connection
    guest.calls("tcp#transfer", mine.id, guest.calls("runtime#self"))  # to itself
    assert guest.expect("handle_connection_transfer").connection is mine
    assert guest.calls("tcp#send", mine.id, b"mine") == 4


def test_transfer_to_nobody_is_no_such_actor_and_nothing_has_changed(stage: GuestStage, road: str) -> None:
    guest, dead = stage.guest(road), stage.guest(road, name="dead")
    deaf = stage.guest(road, without=["handle-connection", "handle-connection-transfer"])
    dead.ref.stop()
    connection, peer = pair(stage, guest)
    for target in ("", "nobody", "dead", dead.ref.actor_urn, deaf.ref.actor_urn, "guest\n", "x" * 70_000, connection):
        text = guest.refused("tcp#transfer", connection, target)
        assert text.startswith(("no-such-actor", "invalid")), target[:100]
        assert text.isprintable()
        assert len(text) < 2000
    assert guest.calls("tcp#send", connection, b"still mine") == 10
    assert receive_exactly(peer, 10) == b"still mine"


# -- TLS ------------------------------------------------------------------------------------------------------------


def test_a_guest_upgrades_as_the_server_and_tls_info_tells_what_was_agreed_on(
    stage: GuestStage, road: str, certificates: Certificates
) -> None:
    guest = stage.guest(road)
    files = certificates.server
    tls = ServerTls(
        cert=files.cert,
        key=files.key,
        auto_handshake=False,
        alpn=("smtp", "other"),
        client_ca=certificates.ca,
        client_auth="required",
    )
    connection, sock = pair(stage, guest, server_tls=tls)
    assert guest.calls("tcp-ext#tls-info", connection) is None
    assert guest.calls("tcp-ext#tls-available", connection) is True
    upgrading = guest.begin(guest.do, "tcp#upgrade-to-tls-server", connection)
    peer = TlsPeer(sock, client_context(ca=certificates.ca, alpn=["other"], files=certificates.client))
    peer.handshake()
    assert upgrading.get(timeout=TIMEOUT) is None
    assert guest.calls("tcp-ext#tls-available", connection) is False
    info = guest.calls("tcp-ext#tls-info", connection)
    assert info.version == "TLSv1.3"
    assert info.cipher.startswith("TLS_")
    assert (info.alpn, info.server_name, info.resumed) == ("other", "localhost", False)
    shown = info.peer_certificate
    assert shown.names == ("client.example.org",)
    assert "client.example.org" in shown.subject
    assert "theater-tcp test CA" in shown.issuer
    assert len(bytes.fromhex(shown.fingerprint.replace(":", ""))) == 32
    assert guest.refused("tcp#upgrade-to-tls-server", connection).startswith("already-tls")
    guest.calls("tcp#send", connection, b"encrypted")
    assert peer.receive_exactly(9) == b"encrypted"


def test_a_guest_upgrades_as_the_client_and_sees_the_servers_certificate(
    stage: GuestStage, road: str, certificates: Certificates
) -> None:
    options = Options(client_tls=ClientTls(ca_cert=certificates.ca, auto_handshake=False))
    guest = stage.guest(road, settings=stage_settings(options=options))
    for name, refused in (("localhost", ""), ("wrong.example.org", "tls: "), ("", "invalid: ")):
        with socket.create_server(("127.0.0.1", 0)) as door:
            door.settimeout(TIMEOUT)
            connection = guest.connect(f"127.0.0.1:{door.getsockname()[1]}")
            sock, _ = door.accept()
            stage.peers.append(sock)
        sock.settimeout(TIMEOUT)
        upgrading = guest.begin(guest.do, "tcp#upgrade-to-tls-client", connection.id, name)
        if refused:
            if not refused.startswith("invalid"):
                with pytest.raises(OSError, match=r"alert|EOF|reset|closed"):
                    TlsPeer(sock, server_context(certificates.server)).handshake()
            with pytest.raises(Exception, match=f"^{refused}"):
                upgrading.get(timeout=TIMEOUT)
            continue
        TlsPeer(sock, server_context(certificates.server)).handshake()
        upgrading.get(timeout=TIMEOUT)
        info = guest.calls("tcp-ext#tls-info", connection.id)
        assert "mx.example.org" in info.peer_certificate.names
        assert info.server_name == "localhost"


def test_without_certificates_an_upgrade_is_not_configured_and_plaintext_goes_on(stage: GuestStage, road: str) -> None:
    guest = stage.guest(road)
    connection, peer = pair(stage, guest)
    assert guest.refused("tcp#upgrade-to-tls-server", connection).startswith("tls-not-configured")
    assert guest.refused("tcp#upgrade-to-tls-client", connection, "localhost").startswith("tls-not-configured")
    guest.calls("tcp#send", connection, b"plain")
    assert receive_exactly(peer, 5) == b"plain"


def test_plaintext_in_front_of_an_upgrade_is_refused_and_a_handshake_has_its_deadline(
    stage: GuestStage, road: str, certificates: Certificates
) -> None:
    guest = stage.guest(road)
    files = certificates.server
    tls = ServerTls(cert=files.cert, key=files.key, auto_handshake=False)
    connection, peer = pair(stage, guest, server_tls=tls)
    peer.sendall(b"EHLO injected\r\n")
    stage.pass_turns()
    assert guest.refused("tcp#upgrade-to-tls-server", connection).startswith("plaintext-before-tls")
    guest.expect("on_close")
    connection, _silent = pair(stage, guest, server_tls=tls, handshake_timeout=0.1)
    assert guest.refused("tcp#upgrade-to-tls-server", connection).startswith("tls: ")
    guest.expect("on_close")


# -- runtime --------------------------------------------------------------------------------------------------------


def test_self_is_where_others_transfer_to(stage: GuestStage, road: str) -> None:
    guest = stage.guest(road)
    assert guest.calls("runtime#self") == guest.ref.actor_urn


def test_shutdown_ends_the_guest_when_its_callback_returns_and_nobody_else(stage: GuestStage, road: str) -> None:
    guest, other = stage.guest(road), stage.guest(road)
    connection, peer = pair(stage, guest)

    def in_one_turn(_actor: Any) -> None:
        guest.do("runtime#shutdown")
        guest.do("tcp#send", connection, b"still here until it returns")

    guest.act(in_one_turn)
    guest.ends()
    assert receive_exactly(peer, 27) == b"still here until it returns"
    assert receive_to_end(peer) == b""
    assert other.calls("runtime#self") == other.ref.actor_urn
    assert stage.theater.metrics().guest_traps == 0


def test_shutdown_ends_the_guest_also_when_its_callback_returns_an_error(stage: GuestStage, road: str) -> None:
    stage.foresee_callback_failures()
    guest = stage.guest(road, hold=["on-data"], without=["on-close"])
    _connection, peer = guest.meet(mode="active")
    peer.sendall(b"x")
    guest.expect("on_data", b"x")
    guest.control.ask(call_frame("runtime#shutdown"))
    guest.returns_error("io: that was all")
    guest.ends()
    assert stage.theater.metrics().guest_traps == 0


LEVELS = [(0, logging.DEBUG), (1, logging.INFO), (2, logging.WARNING), (3, logging.ERROR)]


def test_log_writes_one_line_under_the_guests_name_at_its_level(
    stage: GuestStage, road: str, caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level(logging.DEBUG, "theater_tcp.guest")
    guest = stage.guest(road, name="talker")
    for number, level in LEVELS:
        caplog.clear()
        guest.calls("runtime#log", number, f"at {number}")
        assert [(record.levelno, record.getMessage()) for record in caplog.records] == [(level, f"talker: at {number}")]


def test_a_line_of_the_log_can_not_be_forged_or_made_endless(
    stage: GuestStage, road: str, caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level(logging.DEBUG, "theater_tcp.guest")
    guest = stage.guest(road, name="talker")
    for message in (
        "a\nb",
        "a\r\x1b[2J",
        "\0\x7f\x9b",
        "\u202e\u2028",
        "%s %d %(x)s {}",
        "x" * 100_000,
        "ü" * 50_000,
        "",
    ):
        caplog.clear()
        guest.calls("runtime#log", 1, message)
        [record] = caplog.records
        line = record.getMessage()
        assert line.startswith("talker: ")
        assert line.isprintable()
        assert len(line) < 70_000


def test_log_lines_above_the_limit_are_dropped_and_counted(
    stage: GuestStage, road: str, caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level(logging.DEBUG, "theater_tcp.guest")
    guest = stage.guest(road, name="talker", limits=Limits(log_lines=3))

    def flood(_actor: Any) -> None:
        for number in range(50):
            guest.do("runtime#log", 1, f"line {number}")

    begun = time.monotonic()
    guest.act(flood)
    seconds = int(time.monotonic()) - int(begun) + 1  # how many seconds of the clock it fell into
    said = [record.getMessage() for record in caplog.records if "line " in record.getMessage()]
    assert 3 <= len(said) <= 3 * seconds
    assert said[:3] == [f"talker: line {number}" for number in range(3)]

    def told() -> bool:
        guest.calls("runtime#log", 1, "later")
        return any("were dropped" in record.getMessage() for record in caplog.records)

    stage.until(told)


def test_at_a_guests_end_it_is_told_how_many_of_its_log_lines_were_dropped(
    stage: GuestStage, road: str, caplog: pytest.LogCaptureFixture, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(LogAllowance, "take", lambda self, _now, take=LogAllowance.take: take(self, 7.0))
    caplog.set_level(logging.DEBUG, "theater_tcp.guest")
    guest = stage.guest(road, name="talker", limits=Limits(log_lines=3))
    for number in range(5):
        guest.calls("runtime#log", 1, f"line {number}")
    guest.ref.stop()
    told = [record.getMessage() for record in caplog.records if "talker: " in record.getMessage()]
    assert told == [*(f"talker: line {number}" for number in range(3)), "talker: 2 lines of its log were dropped"]


def test_the_clock_is_there_for_whom_it_is_granted_and_refused_by_name_to_others(stage: GuestStage, road: str) -> None:
    content = puppet(tuple(IMPORTS))
    with pytest.raises(by_kind["invalid"], match="clock"):
        stage.load(road, content)
    guest = stage.guest(road, guest=stage.load(road, content, grants=["clock"]))
    before = time.time_ns() // 1_000_000
    assert before <= guest.calls("clock#now") <= time.time_ns() // 1_000_000


# -- errors ---------------------------------------------------------------------------------------------------------


def test_an_error_is_a_kind_and_a_detail_without_a_place_in_the_code_or_a_traceback(
    stage: GuestStage, road: str
) -> None:
    guest = stage.guest(road)
    connection, _peer = pair(stage, guest)
    texts = [
        guest.refused("tcp#connect", "no.such.name.invalid:1"),
        guest.refused("tcp#connect", "127.0.0.1:1"),
        guest.refused("tcp#listen", "unix:/proc/none/socket"),
        guest.refused("tcp#activate", connection),
        guest.refused("tcp#transfer", connection, "nobody"),
        guest.refused("tcp-ext#set-option", connection, "framing", "[1, {a: b}]"),
    ]
    for text in texts:
        kind = text.partition(": ")[0]
        assert kind in by_kind
        assert text.isprintable()
        for word in ("Traceback", ".py", "theater_tcp", "0x", "Error", " object at "):
            assert word not in text


@pytest.mark.parametrize("road", ["core", "threads"])  # by the other one it is wasmtime that does it
def test_a_guest_may_have_its_texts_in_utf_16(stage: GuestStage, road: str, caplog: pytest.LogCaptureFixture) -> None:
    caplog.set_level(logging.DEBUG, "theater_tcp.guest")
    guest = stage.guest(road, strings=Strings("utf-16-le", 2), hold=["on-data"])
    connection, peer = guest.meet(mode="passive")
    assert guest.calls("runtime#self") == guest.ref.actor_urn
    assert guest.calls("tcp#peer-address", connection.id) == "{}:{}".format(*peer.getsockname())
    for data in (b"a few", bytes(range(256)) * 100):
        peer.sendall(data)
        received = b""
        while len(received) < len(data):
            received += guest.calls("tcp#receive", connection.id, 1 << 16)
        assert received == data
        assert guest.calls("tcp#send", connection.id, data) == len(data)
        assert receive_exactly(peer, len(data)) == data
    assert guest.refused("tcp#connect", "grüße\U0001f600").startswith("invalid: ")
    guest.calls("runtime#log", 1, "grüße \U0001f600")
    assert "guest: grüße \U0001f600" in [record.getMessage() for record in caplog.records]
    guest.calls("tcp#set-active", connection.id, "active")
    peer.sendall(b"x")
    guest.expect("on_data", b"x")
    stage.foresee_callback_failures()
    guest.returns_error("io: grüße")
    guest.expect("on_close", "callback: io: grüße")


def test_calls_of_guests_on_one_loop_do_not_mix(stage: GuestStage, road: str) -> None:
    guests = [stage.guest(road) for _ in range(8)]
    listeners = [guest.listen() for guest in guests]
    peers = [stage.dial(listener.address) for listener in listeners]
    connections = [guest.expect("handle_connection").connection for guest in guests]
    failures: list[BaseException] = []

    def talk(number: int) -> None:
        guest, connection, peer = guests[number], connections[number], peers[number]
        try:
            guest.call(connection.activate)
            for turn in range(30):
                word = f"{number}:{turn};".encode() * (turn + 1)
                waiting = guest.begin(connection.receive, 1 << 16)
                peer.sendall(word)
                received = waiting.get(timeout=TIMEOUT)
                while len(received) < len(word):
                    received += guest.call(connection.receive, 1 << 16)
                assert received == word
                assert guest.call(connection.send, word[::-1]) == len(word)
                assert receive_exactly(peer, len(word)) == word[::-1]
        except BaseException as error:
            failures.append(error)

    threads = [threading.Thread(target=talk, args=(number,)) for number in range(len(guests))]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(TIMEOUT * 3)
    assert not failures


def test_what_another_guests_call_settles_reaches_who_waits_for_it_in_a_turn_of_its_own(
    stage: GuestStage, road: str
) -> None:
    """No guest is entered on top of another one, and of what arrived meanwhile each gets its own."""

    def self_id(_: GuestCalls) -> str:
        for number, (core, peer) in enumerate(settled):
            peer.sendall(b"for %d" % number)
            core.on_ready(READ)
        failing.interrupt_receive(TimedOut("now"))
        return "said in the same call"

    with mock.patch.object(GuestCalls, "self_id", self_id):
        calling, *waiting = (stage.guest(road) for _ in range(4))
    pairs = [guest.meet(mode="passive") for guest in waiting]
    settled = [(connection._core, peer) for connection, peer in pairs[:2]]
    failing = pairs[2][0]._core
    received = [guest.begin(connection.receive, 10) for guest, (connection, _) in zip(waiting, pairs, strict=True)]
    assert calling.calls("runtime#self") == "said in the same call"
    assert [each.get(timeout=TIMEOUT) for each in received[:2]] == [b"for 0", b"for 1"]
    with pytest.raises(TimedOut, match="now"):
        received[2].get(timeout=TIMEOUT)
    assert stage.theater.metrics().guest_traps == 0


def test_what_a_peer_floods_waits_in_the_kernel_while_the_guest_does_something_else(
    stage: GuestStage, road: str
) -> None:
    guest = stage.guest(road, hold=["on-data"])
    connection, peer = guest.meet(mode="active")
    sent = stuff(peer)
    first = guest.expect("on_data").value
    stage.pass_turns()
    assert guest.script.heard.empty()  # one callback at a time, whatever waits
    held: Callable[[], None] = guest.returns_ok
    received = len(first)
    while received < sent:
        held()
        received += len(guest.expect("on_data").value)
    held()
    assert received == sent
    assert connection.id
