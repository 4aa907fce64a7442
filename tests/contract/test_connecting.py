"""Contract 1: connect. Addresses, names resolved elsewhere and raced, refusals, deadlines."""

from __future__ import annotations

import errno
import os
import socket
import threading
from typing import TYPE_CHECKING, Any

import pytest

from tests.peers import TIMEOUT, receive_exactly
from tests.support import Echo, Stage, outcome_of
from theater_tcp import Settings
from theater_tcp.errors import InvalidArgument, IoFailed, Refused, TheaterError, TimedOut, Unreachable

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path


@pytest.fixture
def silent_port() -> Iterator[int]:
    """A port of 127.0.0.1 that answers nothing: its backlog is full, and the system drops what comes."""
    with socket.socket() as listening:
        listening.bind(("127.0.0.1", 0))
        listening.listen(0)
        waiting = []
        for _ in range(4):
            caller = socket.socket()
            caller.setblocking(False)
            assert caller.connect_ex(listening.getsockname()) == errno.EINPROGRESS
            waiting.append(caller)
        yield listening.getsockname()[1]
        for caller in waiting:
            caller.close()


@pytest.fixture
def refusing_port() -> Iterator[int]:
    """A port of 127.0.0.1 that is bound and not listened at."""
    with socket.socket() as bound:
        bound.bind(("127.0.0.1", 0))
        yield bound.getsockname()[1]


@pytest.fixture
def listening() -> Iterator[socket.socket]:
    """A plain listening socket at 127.0.0.1."""
    with socket.create_server(("127.0.0.1", 0)) as listening:
        listening.settimeout(TIMEOUT)
        yield listening


def names(monkeypatch: pytest.MonkeyPatch, addresses: list[tuple[str, int]]) -> None:
    """Let every name resolve to these addresses."""

    def getaddrinfo(host: str, port: int, *_args: Any, **_kwargs: Any) -> list[Any]:
        found = []
        for address, its_port in addresses:
            family = socket.AF_INET6 if ":" in address else socket.AF_INET
            rest = (0, 0) if ":" in address else ()
            found.append((family, socket.SOCK_STREAM, socket.IPPROTO_TCP, "", (address, its_port, *rest)))
        return found

    monkeypatch.setattr(socket, "getaddrinfo", getaddrinfo)


def open_descriptors() -> int:
    return len(os.listdir("/proc/self/fd"))


@pytest.mark.parametrize("where", ["127.0.0.1:0", "[::1]:0", "unix:/path", "unix:@abstract"])
def test_contract_01_connect_opens_an_open_and_passive_connection(
    stage: Stage, kind: str, where: str, tmp_path: Path
) -> None:
    where = where.replace("/path", f"{tmp_path}/s").replace("@abstract", f"@theater-{os.getpid()}-{kind}")
    server = stage.owner("loop")
    listener = server.listen(where)
    client = stage.owner(kind)
    connection = client.connect(listener.address)
    accepted = server.expect("handle_connection").connection
    server.call(accepted.activate)
    server.call(accepted.send, b"hello")
    assert client.call(connection.receive, 100) == b"hello"
    assert client.call(connection.send, b"yes") == 3
    assert server.call(accepted.receive, 100) == b"yes"
    assert client.call(lambda: connection.peer_address) == listener.address
    assert client.call(lambda: connection.local_address) == server.call(lambda: accepted.peer_address)
    assert server.call(lambda: accepted.local_address) == listener.address


def test_contract_01_a_refused_port_is_refused(stage: Stage, kind: str, refusing_port: int) -> None:
    client = stage.owner(kind)
    with pytest.raises(Refused, match=rf"^refused: 127\.0\.0\.1:{refusing_port}$"):
        client.connect(f"127.0.0.1:{refusing_port}")
    assert stage.theater.metrics().connect_failures == 1
    assert stage.theater.metrics().connections == 0


def test_contract_01_a_unix_path_where_nobody_listens_is_refused_and_a_missing_one_is_told(
    stage: Stage, kind: str, tmp_path: Path
) -> None:
    client = stage.owner(kind)
    with socket.socket(socket.AF_UNIX) as left:
        left.bind(f"{tmp_path}/left")
    with pytest.raises(Refused):
        client.connect(f"unix:{tmp_path}/left")
    with pytest.raises(IoFailed, match="no such file"):
        client.connect(f"unix:{tmp_path}/missing")


@pytest.mark.parametrize("by", ["argument", "setting"])
def test_contract_01_connect_timeout_trips_at_a_peer_that_does_not_answer(kind: str, by: str, silent_port: int) -> None:
    settings = Settings(drain_timeout=0, connect_timeout=0.05 if by == "setting" else 30.0)
    with Stage(settings) as stage:
        client = stage.owner(kind)
        before = open_descriptors()
        with pytest.raises(TimedOut, match=rf"127\.0\.0\.1:{silent_port}"):
            client.connect(f"127.0.0.1:{silent_port}", 0.05 if by == "argument" else None)
        assert open_descriptors() == before


def test_contract_01_a_name_that_does_not_resolve_is_unreachable(
    stage: Stage, kind: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    def getaddrinfo(*_args: Any, **_kwargs: Any) -> Any:
        raise socket.gaierror(socket.EAI_NONAME, "Name or service not known")

    monkeypatch.setattr(socket, "getaddrinfo", getaddrinfo)
    client = stage.owner(kind)
    with pytest.raises(Unreachable, match=r"^unreachable: nowhere\.invalid:25: name or service not known$"):
        client.connect("nowhere.invalid:25")


@pytest.mark.parametrize(
    "wrong", ["127.0.0.1", "127.0.0.1:0", "127.0.0.1:65536", "::1:25", "unix:relative", "", "a b:1"]
)
def test_contract_01_a_wrong_address_is_invalid(stage: Stage, kind: str, wrong: str) -> None:
    client = stage.owner(kind)
    with pytest.raises(InvalidArgument):
        client.connect(wrong)
    with pytest.raises(InvalidArgument, match="linger_timeout"):
        client.connect("127.0.0.1:1", linger_timeout=-1)


def test_contract_01_names_are_resolved_off_the_event_loop(
    stage: Stage, kind: str, listening: socket.socket, monkeypatch: pytest.MonkeyPatch
) -> None:
    asked, answer = threading.Event(), threading.Event()

    def getaddrinfo(_host: str, _port: int, *_args: Any, **_kwargs: Any) -> list[Any]:
        asked.set()
        assert answer.wait(TIMEOUT)
        return [(socket.AF_INET, socket.SOCK_STREAM, socket.IPPROTO_TCP, "", listening.getsockname())]

    echo = stage.theater.spawn(Echo)
    address = stage.theater.listen_for(echo, "127.0.0.1:0").address
    monkeypatch.setattr("theater_tcp.connector.socket.getaddrinfo", getaddrinfo)
    client = stage.owner(kind)
    connected = client.ref.ask(lambda actor: actor.tcp.connect("slow.test:25"), block=False)
    assert asked.wait(TIMEOUT)
    peer = socket.socket()  # socket.create_connection would ask the slow resolver
    stage.peers.append(peer)
    peer.settimeout(TIMEOUT)
    peer.connect(("127.0.0.1", int(address.rpartition(":")[2])))
    peer.sendall(b"meanwhile")
    assert receive_exactly(peer, 9) == b"meanwhile"
    answer.set()
    connection = outcome_of(connected)
    assert client.call(lambda: connection.peer_address) == f"127.0.0.1:{listening.getsockname()[1]}"


def test_contract_01_all_addresses_of_a_name_are_raced(
    kind: str, silent_port: int, refusing_port: int, listening: socket.socket, monkeypatch: pytest.MonkeyPatch
) -> None:
    answering = listening.getsockname()[1]
    with Stage(Settings(drain_timeout=0, connection_attempt_delay=0.02)) as stage:
        client = stage.owner(kind)
        before = open_descriptors()
        names(
            monkeypatch,
            [
                ("127.0.0.1", silent_port),
                ("::1", refusing_port),
                ("127.0.0.1", refusing_port),
                ("127.0.0.1", answering),
            ],
        )
        connection = client.connect("many.test:25")
        assert client.call(lambda: connection.peer_address) == f"127.0.0.1:{answering}"
        assert open_descriptors() == before + 1, "the attempts that lost are closed"


def test_contract_01_the_attempt_after_a_refused_one_does_not_wait_for_the_delay(
    kind: str, refusing_port: int, listening: socket.socket, monkeypatch: pytest.MonkeyPatch
) -> None:
    names(monkeypatch, [("127.0.0.1", refusing_port)] * 3 + [listening.getsockname()])
    with Stage(Settings(drain_timeout=0, connection_attempt_delay=1000.0, connect_timeout=TIMEOUT)) as stage:
        client = stage.owner(kind)
        connection = client.connect("many.test:25")
        assert client.call(lambda: connection.peer_address) == f"127.0.0.1:{listening.getsockname()[1]}"


def test_contract_01_a_name_of_which_no_address_answers_gives_the_last_error(
    stage: Stage, kind: str, refusing_port: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    names(monkeypatch, [("127.0.0.1", refusing_port), ("::1", refusing_port)])
    client = stage.owner(kind)
    with pytest.raises(Refused, match=r"^refused: many\.test:25$"):
        client.connect("many.test:25")


def test_contract_01_connection_attempt_delay_trips(
    kind: str, silent_port: int, listening: socket.socket, monkeypatch: pytest.MonkeyPatch
) -> None:
    names(monkeypatch, [("127.0.0.1", silent_port), listening.getsockname()])
    with Stage(Settings(drain_timeout=0, connection_attempt_delay=1000.0, connect_timeout=0.1)) as stage:
        client = stage.owner(kind)
        with pytest.raises(TimedOut):
            client.connect("many.test:25")
    with Stage(Settings(drain_timeout=0, connection_attempt_delay=0.01, connect_timeout=TIMEOUT)) as stage:
        stage.owner(kind).connect("many.test:25")


def test_contract_01_a_connect_whose_actor_has_ended_leaves_no_connection(
    stage: Stage, kind: str, listening: socket.socket, monkeypatch: pytest.MonkeyPatch
) -> None:
    asked, answer = threading.Event(), threading.Event()

    def getaddrinfo(_host: str, _port: int, *_args: Any, **_kwargs: Any) -> list[Any]:
        asked.set()
        assert answer.wait(TIMEOUT)
        return [(socket.AF_INET, socket.SOCK_STREAM, socket.IPPROTO_TCP, "", listening.getsockname())]

    monkeypatch.setattr("theater_tcp.connector.socket.getaddrinfo", getaddrinfo)
    client = stage.owner("loop")
    connecting = client.ref.ask(lambda actor: actor.tcp.connect("slow.test:25"), block=False).get(timeout=TIMEOUT)
    assert asked.wait(TIMEOUT)
    client.ref.stop()
    answer.set()
    with pytest.raises(TheaterError, match="shutdown"):
        connecting.get(timeout=TIMEOUT)
    accepted, _ = listening.accept()
    with accepted:
        accepted.settimeout(TIMEOUT)
        assert accepted.recv(1) == b""
    assert stage.theater.metrics().connections == 0
