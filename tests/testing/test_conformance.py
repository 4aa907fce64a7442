"""The suite of ``theater_tcp.testing.conformance`` over memory, in lockstep, over TCP (IPv4 and IPv6) and Unix sockets;
each in plaintext, in TLS from the first byte, and in TLS that was begun in the middle; with connections that the owner
accepted, and with some that it opened.

A check fails where its promise is broken: that is tried with a transport that is broken on purpose.
"""

from __future__ import annotations

import inspect
import itertools
import socket
import ssl
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from pykka import ActorRef

from tests.certificates_fixture import Certificates
from theater_tcp import ClientTls, Options, ServerTls, Settings, TheaterError
from theater_tcp.socket_options import reset_on_close
from theater_tcp.testing import MemorySocket, Peer, Stage, SteppedTheater, SystemStage, conformance, tls_conformance
from theater_tcp.testing.conformance import CHECKS
from theater_tcp.testing.line import GO_AHEAD, STARTTLS
from theater_tcp.testing.tls_conformance import TLS_CHECKS

NAME = "mx.example.org"

MakeStage = Callable[[Settings, Path], SteppedTheater]

ACCEPTING: dict[str, MakeStage] = {
    "memory": lambda settings, _: Stage(settings),
    "narrow memory": lambda settings, _: Stage(settings, receive_capacity=7, send_capacity=3),
    "lockstep": lambda settings, _: Stage(settings, lockstep=True),
    "TCP over IPv4": lambda settings, _: SystemStage(settings, address="127.0.0.1:0"),
    "TCP over IPv6": lambda settings, _: SystemStage(settings, address="[::1]:0"),
    "Unix": lambda settings, folder: SystemStage(settings, address=f"unix:{folder}/socket"),
}


ports = itertools.count(2525)


class MemoryServer(Stage):
    """A stage whose connections the actors open, and the peer accepts."""

    def connect_to(self, ref: ActorRef[Any], **capacities: Any) -> Peer:
        listening = self.listen(f"{NAME}:{next(ports)}")
        ref.tell((str(listening.address), NAME))
        return self.accept(listening)


class TcpServer(SystemStage):
    """The same over TCP."""

    def connect_to(self, ref: ActorRef[Any], **capacities: Any) -> Peer:
        with socket.create_server(("127.0.0.1", 0)) as listening:
            ref.tell((f"127.0.0.1:{listening.getsockname()[1]}", NAME))
            self.settle()  # the kernel accepts
            sock, _ = listening.accept()
        sock.setblocking(False)
        return self.peer_at(sock)


OPENING: dict[str, MakeStage] = {
    "memory": lambda settings, _: MemoryServer(settings),
    "narrow memory": lambda settings, _: MemoryServer(settings, receive_capacity=7, send_capacity=3),
    "TCP": lambda settings, _: TcpServer(settings),
}


def over_tls(stage: SteppedTheater, secure: Callable[[Peer], None]) -> SteppedTheater:
    """The stage, with every new peer secured before a check has it."""
    connect_to = stage.connect_to

    def connect_and_secure(ref: ActorRef[Any], **capacities: Any) -> Peer:
        peer = connect_to(ref, **capacities)
        secure(peer)
        return peer

    stage.connect_to = connect_and_secure  # type: ignore[method-assign]
    return stage


@pytest.fixture(scope="module")
def client_context(certificates: Certificates) -> ssl.SSLContext:
    return ssl.create_default_context(cafile=certificates.ca)


@pytest.fixture(scope="module")
def server_context(certificates: Certificates) -> ssl.SSLContext:
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    context.load_cert_chain(certificates.server.cert, certificates.server.key)
    return context


def settings_for(certificates: Certificates, from_the_first_byte: bool) -> Settings:
    files = certificates.server
    return Settings(
        options=Options(
            server_tls=ServerTls(cert=files.cert, key=files.key, auto_handshake=from_the_first_byte),
            client_tls=ClientTls(ca_cert=certificates.ca, server_name=NAME, auto_handshake=from_the_first_byte),
        )
    )


every_check = pytest.mark.parametrize("check", CHECKS, ids=lambda check: check.__name__)
accepting = pytest.mark.parametrize("make_stage", ACCEPTING.values(), ids=ACCEPTING.keys())
opening = pytest.mark.parametrize("make_stage", OPENING.values(), ids=OPENING.keys())
how_tls_begins = pytest.mark.parametrize("from_the_first_byte", [True, False], ids=["TLS", "STARTTLS"])
Check = Callable[[SteppedTheater], None]


@accepting
@every_check
def test_every_transport_keeps_the_promise(check: Check, make_stage: MakeStage, tmp_path: Path) -> None:
    with make_stage(Settings(), tmp_path) as stage:
        check(stage)


@opening
@every_check
def test_every_transport_keeps_the_promise_on_connections_that_the_owner_opened(
    check: Check, make_stage: MakeStage, tmp_path: Path
) -> None:
    with make_stage(Settings(), tmp_path) as stage:
        check(stage)


@how_tls_begins
@accepting
@pytest.mark.parametrize("check", CHECKS + TLS_CHECKS, ids=lambda check: check.__name__)
def test_every_transport_keeps_the_promise_over_tls(
    check: Check,
    make_stage: MakeStage,
    from_the_first_byte: bool,
    certificates: Certificates,
    client_context: ssl.SSLContext,
    tmp_path: Path,
) -> None:
    def secure(peer: Peer) -> None:
        if not from_the_first_byte:
            peer.send(STARTTLS)
            assert peer.receive_until(b"\n") == GO_AHEAD
        peer.start_tls(NAME, client_context)

    with over_tls(make_stage(settings_for(certificates, from_the_first_byte), tmp_path), secure) as stage:
        check(stage)


@how_tls_begins
@opening
@pytest.mark.parametrize("check", CHECKS + TLS_CHECKS, ids=lambda check: check.__name__)
def test_every_transport_keeps_the_promise_over_tls_on_connections_that_the_owner_opened(
    check: Check,
    make_stage: MakeStage,
    from_the_first_byte: bool,
    certificates: Certificates,
    server_context: ssl.SSLContext,
    tmp_path: Path,
) -> None:
    def secure(peer: Peer) -> None:
        if not from_the_first_byte:
            assert peer.receive_until(b"\n") == STARTTLS
            peer.send(GO_AHEAD)
        peer.start_tls_server(server_context)

    with over_tls(make_stage(settings_for(certificates, from_the_first_byte), tmp_path), secure) as stage:
        check(stage)


# -- the suite itself ----------------------------------------------------------------------------------------------


def drops_a_byte(sock: MemorySocket) -> None:
    receive = sock._receive
    sock._receive = lambda size, take: receive(size, take)[:-1] if size > 1 else receive(size, take)  # type: ignore[method-assign]


def tells_bytes_twice(sock: MemorySocket) -> None:
    receive = sock._receive
    told: list[bytes] = []

    def again(size: int, take: bool) -> bytes:
        data = receive(size, take=take and bool(told))
        told.append(data)
        return data

    sock._receive = again  # type: ignore[method-assign]


def never_ends(sock: MemorySocket) -> None:
    sock.other_end.close = lambda: None  # type: ignore[method-assign]
    sock.other_end.shutdown = lambda how: None  # type: ignore[method-assign]


def loses_what_is_sent_in_parts(sock: MemorySocket) -> None:
    send = sock.send
    sock.send = lambda data: send(data) and len(data)  # type: ignore[method-assign]


def resets_where_it_should_close(sock: MemorySocket) -> None:
    reset_on_close(sock)  # type: ignore[arg-type]


def never_resets(sock: MemorySocket) -> None:
    sock.setsockopt = lambda level, option, value: None  # type: ignore[method-assign]
    sock.other_end.setsockopt = lambda level, option, value: None  # type: ignore[method-assign]


SABOTAGE = [
    drops_a_byte,
    tells_bytes_twice,
    never_ends,
    loses_what_is_sent_in_parts,
    resets_where_it_should_close,
    never_resets,
]


@pytest.mark.parametrize("sabotage", SABOTAGE, ids=lambda sabotage: sabotage.__name__)
def test_a_transport_that_breaks_a_promise_does_not_pass(sabotage: Callable[[MemorySocket], None]) -> None:
    failed = []
    for check in CHECKS:
        try:
            with Stage(receive_capacity=100, send_capacity=0) as stage:
                accept_from = stage.network.accept_from

                def accept(listening: Any, accept_from: Callable[[Any], Any] = accept_from) -> Any:
                    sock, peer = accept_from(listening)
                    sabotage(sock)
                    return sock, peer

                stage.network.accept_from = accept
                check(stage)
        except (AssertionError, TheaterError):
            failed.append(check.__name__)
    assert failed
    assert len(failed) < len(CHECKS)


def test_every_check_says_what_it_is_about_and_none_is_left_out() -> None:
    for module, checks in ((conformance, CHECKS), (tls_conformance, TLS_CHECKS)):
        functions = {
            value
            for value in vars(module).values()
            if inspect.isfunction(value) and list(inspect.signature(value).parameters) == ["stage"]
        }
        assert functions == set(checks)
        assert all(check.__doc__ for check in checks)
