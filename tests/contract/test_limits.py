"""Contract 20: how many connections a listener and a runtime have, and what happens when the system has no more."""

from __future__ import annotations

import errno
import json
import socket
import subprocess
import sys
from pathlib import Path
from typing import TYPE_CHECKING, Any, ClassVar

import pytest

from tests.peers import TIMEOUT, dial, eventually, host_and_port, receive_exactly
from tests.support import Echo, Stage
from theater_tcp import Metrics, Settings
from theater_tcp.errors import IoFailed

if TYPE_CHECKING:
    from collections.abc import Iterator

ROOT = Path(__file__).resolve().parent.parent.parent


def echoes(peer: socket.socket) -> None:
    """The connection is served."""
    peer.sendall(b"alive?")
    assert receive_exactly(peer, 6) == b"alive?"


def is_refused_by_reset(address: str) -> None:
    """A connection to the address is reset, as soon as while it is made."""
    with socket.socket() as peer:
        peer.settimeout(TIMEOUT)
        with pytest.raises(ConnectionResetError):
            call_and_read(peer, address)


def call_and_read(peer: socket.socket, address: str) -> None:
    peer.connect(host_and_port(address))
    peer.recv(1)


def serve(stage: Stage, **options: Any) -> str:
    """The address of an echo."""
    return stage.theater.listen_for(stage.theater.spawn(Echo), "127.0.0.1:0", **options).address


@pytest.mark.parametrize("by", ["listener", "listener's default", "runtime"])
def test_contract_20_at_max_connections_the_listener_stops_accepting_and_goes_on_when_one_ends(by: str) -> None:
    settings = Settings(drain_timeout=0, max_connections=3 if by == "runtime" else 10_000)
    if by == "listener's default":
        settings = settings.replaced(listener=settings.listener.replaced(max_connections=3))
    with Stage(settings) as stage:
        address = serve(stage, **({"max_connections": 3} if by == "listener" else {}))
        served = [stage.dial(address) for _ in range(3)]
        for peer in served:
            echoes(peer)
        waiting = [stage.dial(address) for _ in range(2)]  # the kernel's backlog holds them
        for peer in waiting:
            peer.sendall(b"alive?")
        stage.pass_turns()
        metrics = stage.theater.metrics()
        assert (metrics.accepted, metrics.connections, metrics.refused_at_limit) == (3, 3, 0)
        assert metrics.paused_at_limit >= 1
        for ending, peer in zip(served, waiting, strict=False):
            ending.close()
            assert receive_exactly(peer, 6) == b"alive?"
        assert stage.theater.metrics().connections == 3


@pytest.mark.parametrize("by", ["listener", "runtime"])
def test_contract_20_at_limit_refuse_resets_what_comes_and_counts_it(by: str) -> None:
    settings = Settings(drain_timeout=0, max_connections=2 if by == "runtime" else 10_000)
    with Stage(settings) as stage:
        address = serve(stage, at_limit="refuse", **({"max_connections": 2} if by == "listener" else {}))
        served = [stage.dial(address) for _ in range(2)]
        for peer in served:
            echoes(peer)
        for _ in range(3):
            is_refused_by_reset(address)
        metrics = stage.theater.metrics()
        assert (metrics.accepted, metrics.refused_at_limit, metrics.paused_at_limit) == (2, 3, 0)
        served[0].close()
        eventually(lambda: stage.theater.metrics().connections == 1)
        echoes(stage.dial(address))


def test_contract_20_pending_connections_count(stage: Stage, kind: str) -> None:
    owner = stage.owner(kind)
    listener = owner.listen(max_connections=2)
    peers = [stage.dial(listener.address) for _ in range(3)]
    pending = [owner.expect("handle_connection").connection for _ in range(2)]
    owner.hears_nothing()
    assert stage.theater.metrics().accepted == 2
    owner.call(pending[0].close)
    owner.expect("handle_connection")
    assert len(peers) == 3


def test_contract_20_connections_that_were_opened_by_connect_do_not_count() -> None:
    with Stage(Settings(drain_timeout=0, max_connections=1)) as stage:
        address = serve(stage)
        client = stage.owner("loop")
        connections = [client.connect(address) for _ in range(2)]
        client.call(connections[0].send, b"served")
        assert client.call(connections[0].receive, 100) == b"served"
        assert stage.theater.metrics().accepted == 1
        client.call(connections[0].close)
        client.call(connections[1].send, b"in turn")
        assert client.call(connections[1].receive, 100) == b"in turn"


def test_contract_20_a_closing_connection_counts_until_its_socket_is_closed(stage: Stage) -> None:
    owner = stage.owner("loop")
    connection, peer = owner.meet(mode="passive", max_connections=1, write_buffer_hard_limit=64 << 20)
    address = owner.call(lambda: connection.local_address)
    owner.call(connection.send, bytes(8 << 20))
    owner.call(connection.close)
    stage.dial(address)
    owner.hears_nothing()  # 8 MiB are still to be flushed
    receive_exactly(peer, 8 << 20)
    owner.expect("handle_connection")


def test_contract_20_every_listener_that_waits_at_the_runtimes_limit_is_woken_when_there_is_room() -> None:
    with Stage(Settings(drain_timeout=0, max_connections=1)) as stage:
        first = stage.dial(serve(stage))
        echoes(first)
        addresses = [serve(stage) for _ in range(3)]  # they wait from the beginning
        last = stage.dial(addresses[-1])
        last.sendall(b"alive?")
        stage.pass_turns()
        first.close()
        assert receive_exactly(last, 6) == b"alive?"


def test_contract_20_a_listener_at_its_own_limit_does_not_take_the_room_of_another() -> None:
    with Stage(Settings(drain_timeout=0, max_connections=2)) as stage:
        narrow, wide = serve(stage, max_connections=1), serve(stage)
        leaving, staying = stage.dial(wide), stage.dial(narrow)
        echoes(leaving)
        echoes(staying)
        at_narrow, at_wide = stage.dial(narrow), stage.dial(wide)
        for peer in (at_narrow, at_wide):
            peer.sendall(b"alive?")
        stage.pass_turns()
        leaving.close()
        assert receive_exactly(at_wide, 6) == b"alive?"
        at_wide.close()
        staying.close()
        assert receive_exactly(at_narrow, 6) == b"alive?"


def test_contract_20_an_accept_that_waits_at_the_limit_is_served_when_there_is_room(stage: Stage) -> None:
    owner = stage.owner("loop", without=["handle_connection"])
    listener = owner.listen(max_connections=1)
    peers = [stage.dial(listener.address) for _ in range(2)]
    first = owner.call(listener.accept)
    second = owner.begin(listener.accept).get(timeout=TIMEOUT)
    stage.pass_turns()
    assert not second.done
    owner.call(first.close)
    connection = second.get(timeout=TIMEOUT)
    owner.call(connection.activate)
    owner.call(connection.send, b"served")
    assert receive_exactly(peers[1], 6) == b"served"


def test_contract_20_backlog_bounds_what_the_kernel_holds(stage: Stage) -> None:
    owner = stage.owner("loop", without=["handle_connection"])
    listener = owner.listen(backlog=1)
    tries = [socket.socket() for _ in range(6)]
    try:
        for peer in tries:
            peer.setblocking(False)
            assert peer.connect_ex(host_and_port(listener.address)) == errno.EINPROGRESS

        def connected() -> int:
            return sum(peer.getsockopt(socket.IPPROTO_TCP, socket.TCP_INFO, 1)[0] == 1 for peer in tries)

        eventually(lambda: connected() == 2)
        stage.pass_turns()
        assert connected() == 2, "one more than the backlog, as Linux counts"
    finally:
        for peer in tries:
            peer.close()


def test_contract_20_backlog_bounds_what_the_kernel_holds_of_a_unix_socket_too(stage: Stage, tmp_path: Path) -> None:
    owner = stage.owner("loop", without=["handle_connection"])
    owner.listen(f"unix:{tmp_path}/socket", backlog=1)
    tries = [socket.socket(socket.AF_UNIX) for _ in range(3)]
    try:
        for peer in tries:
            peer.setblocking(False)
        answers = [peer.connect_ex(f"{tmp_path}/socket") for peer in tries]
        assert answers == [0, 0, errno.EAGAIN], "one more than the backlog, as Linux counts"
    finally:
        for peer in tries:
            peer.close()


class Server:
    """The process of exhaustion_server.py."""

    def __init__(self, spare: int) -> None:
        command = [sys.executable, "-W", "error", "-m", "tests.exhaustion_server", str(spare)]
        self.process = subprocess.Popen(
            command, cwd=ROOT, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True, bufsize=1
        )
        self.address = self._read()

    def report(self) -> tuple[Metrics, list[str]]:
        assert self.process.stdin is not None
        self.process.stdin.write("report\n")
        report = json.loads(self._read())
        return Metrics(**report["metrics"]), report["lines"]

    def _read(self) -> str:
        assert self.process.stdout is not None
        return self.process.stdout.readline().strip()

    def end(self) -> None:
        self.process.communicate("end\n", timeout=TIMEOUT)
        assert self.process.returncode == 0


@pytest.fixture
def server() -> Iterator[Server]:
    """A server with descriptors for 5 connections."""
    server = Server(5)
    yield server
    server.end()


def test_contract_20_out_of_descriptors_accepting_pauses_logs_once_and_goes_on(server: Server) -> None:
    served = [dial(server.address) for _ in range(5)]
    for peer in served:
        echoes(peer)
    waiting = [dial(server.address) for _ in range(3)]
    eventually(lambda: server.report()[0].accept_exhausted >= 3)  # three pauses, and still none
    metrics, lines = server.report()
    assert metrics.accepted == 5
    resting = [line for line in lines if "rests" in line]
    assert resting == [f"accepting at {server.address} rests until there is room: Too many open files"]
    for peer in served:
        echoes(peer)  # who was accepted is served meanwhile
    for peer in served[:3]:
        peer.close()
    for peer in waiting:
        echoes(peer)
    more = dial(server.address)
    eventually(lambda: len([line for line in server.report()[1] if "rests" in line]) == 2)
    for peer in [*served, *waiting, more]:
        peer.close()


class Aborting(socket.SocketType):
    """A socket whose ``accept`` first fails with the errors that lie ready: those that no test can bring about."""

    errors: ClassVar[list[int]] = []

    def _accept(self) -> tuple[int, Any]:
        if self.errors:
            code = self.errors.pop(0)
            raise OSError(code, "as it were")
        return super()._accept()  # type: ignore[misc,no-any-return]


@pytest.mark.parametrize("code", [errno.ECONNABORTED, errno.EPROTO])
def test_contract_20_an_aborted_connection_is_counted_and_skipped(
    stage: Stage, kind: str, code: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(socket, "SocketType", Aborting)
    monkeypatch.setattr(Aborting, "errors", [code, code])
    owner = stage.owner(kind)
    listener = owner.listen()
    monkeypatch.undo()
    Aborting.errors = [code, code]
    stage.dial(listener.address)
    owner.expect("handle_connection")
    assert stage.theater.metrics().accept_aborted == 2
    assert Aborting.errors == []


@pytest.mark.parametrize("code", [errno.EMFILE, errno.ENFILE, errno.ENOBUFS, errno.ENOMEM])
def test_contract_20_accept_pause_follows_every_kind_of_exhaustion_and_is_logged_once(
    kind: str, code: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    with Stage(Settings(drain_timeout=0, accept_pause=0.01)) as stage:
        monkeypatch.setattr(socket, "SocketType", Aborting)
        owner = stage.owner(kind)
        listener = owner.listen()
        monkeypatch.undo()
        Aborting.errors = [code] * 4
        stage.dial(listener.address)
        owner.expect("handle_connection")
        assert stage.theater.metrics().accept_exhausted == 4
        assert len([line for name, line in stage.log.lines if "rests" in line]) == 1


def test_contract_20_accept_pause_is_a_pause(monkeypatch: pytest.MonkeyPatch) -> None:
    with Stage(Settings(drain_timeout=0, accept_pause=1000.0)) as stage:
        monkeypatch.setattr(socket, "SocketType", Aborting)
        owner = stage.owner("loop")
        listener = owner.listen()
        monkeypatch.undo()
        Aborting.errors = [errno.EMFILE]
        stage.dial(listener.address)
        eventually(lambda: Aborting.errors == [])
        owner.hears_nothing()
        accepting = owner.begin(listener.accept).get(timeout=TIMEOUT)  # who asks now has to wait like the others
        stage.pass_turns()
        assert not accepting.done
        assert stage.theater.metrics().accepted == 0


def test_contract_20_a_listening_socket_that_fails_for_good_ends_its_listener_and_is_logged(
    stage: Stage, monkeypatch: pytest.MonkeyPatch
) -> None:
    stage.foreseen.add("theater_tcp.listener")
    monkeypatch.setattr(socket, "SocketType", Aborting)
    owner = stage.owner("loop", without=["handle_connection"])
    listener = owner.listen()
    monkeypatch.undo()
    Aborting.errors = [errno.EINVAL]
    accepted = owner.begin(listener.accept).get(timeout=TIMEOUT)
    peer = socket.socket()
    stage.peers.append(peer)
    peer.setblocking(False)
    peer.connect_ex(host_and_port(listener.address))
    with pytest.raises(IoFailed, match=r"^io: as it were$"):
        accepted.get(timeout=TIMEOUT)
    assert stage.theater.listeners() == []
