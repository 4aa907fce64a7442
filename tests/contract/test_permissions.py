"""Permissions, as an actor meets them: a refusal comes before anything goes out, and is told, logged and counted."""

from __future__ import annotations

import logging
import socket
from typing import TYPE_CHECKING, Any
from unittest import mock

import pytest

from tests.peers import TIMEOUT
from tests.support import Stage, outcome_of
from theater_tcp import Permissions, Settings, TcpActor
from theater_tcp.errors import Denied, InvalidArgument, Unreachable
from theater_tcp.log_allowance import LogAllowance
from theater_tcp.opening import MAX_REFUSALS

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path


class Names:
    """The name service: what a name resolves to, a list of addresses for each time that it is asked for."""

    def __init__(self) -> None:
        self.answers: dict[str, list[list[str]]] = {}
        self.asked: list[str] = []

    def getaddrinfo(self, host: str, port: int, *_args: Any, **_kwargs: Any) -> list[Any]:
        self.asked.append(host)
        found: list[Any] = []
        for address in self.answers[host].pop(0):
            if ":" in address:
                found.append((socket.AF_INET6, socket.SOCK_STREAM, socket.IPPROTO_TCP, "", (address, port, 0, 0)))
            else:
                found.append((socket.AF_INET, socket.SOCK_STREAM, socket.IPPROTO_TCP, "", (address, port)))
        return found


@pytest.fixture
def names(monkeypatch: pytest.MonkeyPatch) -> Names:
    names = Names()
    monkeypatch.setattr(socket, "getaddrinfo", names.getaddrinfo)
    return names


@pytest.fixture
def listening() -> Iterator[socket.socket]:
    """A plain listening socket, which every address of this machine leads to."""
    with socket.create_server(("0.0.0.0", 0)) as listening:
        listening.settimeout(TIMEOUT)
        yield listening


def port_of(listening: socket.socket) -> int:
    return int(listening.getsockname()[1])


def nobody_came(listening: socket.socket) -> None:
    """No connection has been made; one over loopback is complete when ``connect`` returns."""
    listening.setblocking(False)
    with pytest.raises(BlockingIOError):
        listening.accept()


def confined(**permissions: Any) -> Stage:
    """A stage whose owners have these permissions."""
    return Stage(Settings(drain_timeout=0, permissions=Permissions(**permissions)))


def refusals(caplog: pytest.LogCaptureFixture) -> list[str]:
    return [
        r.getMessage() for r in caplog.records if (r.name, r.levelno) == ("theater_tcp.permissions", logging.WARNING)
    ]


# -- connecting ---------------------------------------------------------------------------------------------------


def test_a_refusal_is_denied_with_the_address_and_it_is_logged_and_counted(
    kind: str, listening: socket.socket, caplog: pytest.LogCaptureFixture
) -> None:
    address = f"127.0.0.1:{port_of(listening)}"
    with confined() as stage:
        owner = stage.owner(kind)
        with pytest.raises(Denied) as refused:
            owner.connect(address)
        metrics = stage.theater.metrics()
        assert (metrics.denied, metrics.connect_failures, metrics.connected) == (1, 0, 0)
    assert str(refused.value) == f"denied: {address}"
    (line,) = refusals(caplog)
    reason = "it may connect to nothing (permissions.enabled is false)"
    assert line == f"Owner ({owner.ref.actor_urn}) may not connect to {address}: {reason}"
    nobody_came(listening)


def test_of_many_refusals_in_a_second_some_are_logged_and_the_others_counted(
    kind: str, caplog: pytest.LogCaptureFixture
) -> None:
    seconds = [1000.0]

    class ByThisClock(LogAllowance):
        def take(self, _now: float) -> bool:
            return super().take(seconds[0])

    with confined() as stage, mock.patch("theater_tcp.opening.LogAllowance", ByThisClock):
        owner = stage.owner(kind)
        for now in (1000.0, 1001.0):
            seconds[0] = now
            for _ in range(MAX_REFUSALS + 3):
                with pytest.raises(Denied):
                    owner.connect("127.0.0.1:9")
        assert stage.theater.metrics().denied == 2 * (MAX_REFUSALS + 3)
    lines = refusals(caplog)
    told = f"Owner ({owner.ref.actor_urn}): 3 refusals were not logged"
    assert len(lines) == 2 * (MAX_REFUSALS + 1)
    assert [number for number, line in enumerate(lines) if line == told] == [MAX_REFUSALS, 2 * MAX_REFUSALS + 1]


def test_a_name_that_no_pattern_has_is_not_even_asked_for(kind: str, names: Names) -> None:
    with confined(enabled=True, allowlist=["*.internal:25", "0.0.0.0/0:*", "[::/0]:*"]) as stage:
        owner = stage.owner(kind)
        for address in ("mail.example.org:25", "a.b.internal:25", "mail.internal:26"):
            with pytest.raises(Denied, match=f"^denied: {address}$"):
                owner.connect(address)
        assert stage.theater.metrics().denied == 3
    assert names.asked == []


def test_a_name_that_a_pattern_has_is_connected_to_however_it_is_written(
    kind: str, names: Names, listening: socket.socket
) -> None:
    names.answers = {"mail.internal.": [["127.0.0.1"]], "xn--mnchen-3ya.internal": [["127.0.0.1"]]}
    with confined(enabled=True, allowlist=["MAIL.internal:*", "münchen.internal.:*"]) as stage:
        owner = stage.owner(kind)
        for host in ("Mail.Internal.", "MÜNCHEN.internal"):
            owner.connect(f"{host}:{port_of(listening)}")
            listening.accept()[0].close()
        assert stage.theater.metrics().denied == 0


def test_without_an_allowlist_a_name_is_reached_at_its_local_addresses_and_no_others(
    kind: str, names: Names, listening: socket.socket
) -> None:
    names.answers = {"db.example.org": [["192.0.2.1", "2001:db8::1", "127.0.0.1", "0.0.0.0"]]}
    with confined(enabled=True) as stage:
        owner = stage.owner(kind)
        connection = owner.connect(f"db.example.org:{port_of(listening)}")
        assert owner.call(lambda: connection.peer_address) == f"127.0.0.1:{port_of(listening)}"


@pytest.mark.parametrize(
    "addresses", [["192.0.2.1"], ["0.0.0.0"], ["169.254.169.254"], ["::ffff:169.254.169.254", "fe80::1", "192.0.2.1"]]
)
def test_a_name_without_an_address_that_may_be_reached_is_denied_before_a_packet_goes_there(
    kind: str,
    names: Names,
    listening: socket.socket,
    addresses: list[str],
    monkeypatch: pytest.MonkeyPatch,
    caplog: pytest.LogCaptureFixture,
) -> None:
    names.answers = {"db.example.org": [addresses]}
    with confined(enabled=True) as stage:
        owner = stage.owner(kind)
        made: list[Any] = []
        original = socket.SocketType

        def make(*args: Any, **kwargs: Any) -> Any:
            made.append(args)
            return original(*args, **kwargs)

        monkeypatch.setattr(socket, "SocketType", make)
        with pytest.raises(Denied) as refused:
            owner.connect(f"db.example.org:{port_of(listening)}")
        monkeypatch.undo()
        metrics = stage.theater.metrics()
        assert (metrics.denied, metrics.connect_failures) == (1, 0)
    assert str(refused.value) == f"denied: db.example.org:{port_of(listening)}"
    assert made == []
    (line,) = refusals(caplog)
    assert f"may not connect to db.example.org:{port_of(listening)}: " in line
    assert all(f"{address}: " in line for address in addresses)
    nobody_came(listening)


def test_a_name_of_the_allowlist_does_not_lead_to_a_guarded_address(
    kind: str, names: Names, listening: socket.socket
) -> None:
    """To Linux, 0.0.0.0 is this machine: the listener would be reached."""
    names.answers = {"db.internal": [["0.0.0.0"], ["0.0.0.0", "127.0.0.1"]]}
    with confined(enabled=True, allowlist=["*.internal:*", "**:*"]) as stage:
        owner = stage.owner(kind)
        with pytest.raises(Denied):
            owner.connect(f"db.internal:{port_of(listening)}")
        with pytest.raises(Denied):
            owner.connect(f"0.0.0.0:{port_of(listening)}")
        nobody_came(listening)
        connection = owner.connect(f"db.internal:{port_of(listening)}")
        assert owner.call(lambda: connection.peer_address).startswith("127.0.0.1:")


def test_a_name_that_is_asked_for_a_second_time_would_tell_something_else_and_is_not(
    kind: str, names: Names, listening: socket.socket
) -> None:
    """DNS rebinding: a good answer for the check, and a bad one for the connection."""
    names.answers = {"db.internal": [["127.0.0.1"], ["0.0.0.0"]]}
    with confined(enabled=True) as stage:
        connection = stage.owner(kind).connect(f"db.internal:{port_of(listening)}")
        assert names.asked == ["db.internal"]
        assert connection is not None
    assert names.answers == {"db.internal": [["0.0.0.0"]]}


@pytest.mark.parametrize("host", ["2130706433", "0x7f.1", "017700000001", "127.1", "0x7f000001.", "127.0.0.0x1"])
def test_an_address_in_an_odd_form_is_no_way_around(
    kind: str, names: Names, listening: socket.socket, host: str
) -> None:
    """The C library would take these for 127.0.0.1."""
    with confined(enabled=True, allowlist=["**:*"]) as stage, pytest.raises(InvalidArgument):
        stage.owner(kind).connect(f"{host}:{port_of(listening)}")
    assert names.asked == []
    nobody_came(listening)


def test_what_is_let_through_fails_as_ever(kind: str, names: Names) -> None:
    names.answers = {"db.internal": [[]]}
    with confined(enabled=True) as stage:
        with pytest.raises(Unreachable):
            stage.owner(kind).connect("db.internal:25")
        metrics = stage.theater.metrics()
        assert (metrics.denied, metrics.connect_failures) == (0, 1)


def test_a_unix_socket_is_reached_if_its_path_is_named(kind: str, tmp_path: Path) -> None:
    with socket.socket(socket.AF_UNIX) as listening:
        listening.bind(f"{tmp_path}/s")
        listening.listen()
        with confined(enabled=True) as stage, pytest.raises(Denied, match=f"^denied: unix:{tmp_path}/s$"):
            stage.owner(kind).connect(f"unix:{tmp_path}/s")
        with confined(enabled=True, allowlist=[f"unix:{tmp_path}/*"]) as stage:
            owner = stage.owner(kind)
            owner.connect(f"unix:{tmp_path}/s")
            with pytest.raises(Denied):
                owner.connect(f"unix:{tmp_path}/./s")


def test_a_wrong_call_is_invalid_before_it_is_denied_and_a_denied_one_looks_at_nothing_else(kind: str) -> None:
    with confined() as stage:
        owner = stage.owner(kind)
        with pytest.raises(InvalidArgument):
            owner.connect("127.0.0.1")
        with pytest.raises(Denied):
            owner.connect("127.0.0.1:25", linger_timeout=-1)
        with pytest.raises(InvalidArgument):
            owner.listen("127.0.0.1")
        assert stage.theater.metrics().denied == 1


# -- listening ----------------------------------------------------------------------------------------------------


def test_an_actor_listens_where_it_is_let_and_nowhere_else(
    kind: str, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    with confined(listen=["127.0.0.1:*", f"unix:{tmp_path}/*.sock"]) as stage:
        owner = stage.owner(kind)
        assert owner.listen("127.0.0.1:0").address.startswith("127.0.0.1:")
        assert owner.listen(f"unix:{tmp_path}/a.sock").address == f"unix:{tmp_path}/a.sock"
        for address in ("127.0.0.2:0", "*:0", "[::1]:0", f"unix:{tmp_path}/a"):
            with pytest.raises(Denied) as refused:
                owner.listen(address)
            assert str(refused.value) == f"denied: {address}"
        assert stage.theater.metrics().denied == 4
        assert len(stage.theater.listeners()) == 2
    assert not (tmp_path / "a").exists()
    lines = refusals(caplog)
    assert len(lines) == 4
    assert (
        lines[0]
        == f"Owner ({owner.ref.actor_urn}) may not listen at 127.0.0.2:0: nothing in permissions.listen is for that"
    )


def test_what_the_application_opens_for_an_actor_needs_no_permission(kind: str) -> None:
    with confined() as stage:
        owner = stage.owner(kind)
        info = stage.theater.listen_for(owner.ref, "127.0.0.1:0")
        stage.dial(info.address)
        connection = owner.expect("handle_connection").connection
        owner.call(connection.activate)
        assert stage.theater.metrics().denied == 0


def test_a_connection_that_is_handed_over_needs_no_permission(kind: str, listening: socket.socket) -> None:
    with Stage() as stage:
        one, other = stage.owner("loop"), Settings(permissions=Permissions())
        connection = one.connect(f"127.0.0.1:{port_of(listening)}")
        target = stage.theater.spawn_with(other, Keeper)
        one.call(connection.transfer, target)
        assert outcome_of(target.proxy().peers()) == [f"127.0.0.1:{port_of(listening)}"]
        assert kind


# -- who is checked -----------------------------------------------------------------------------------------------


class Keeper(TcpActor):
    """Keeps what it gets."""

    def handle_connection_transfer(self, connection: Any) -> None:
        """It is among ``connections`` now."""

    def peers(self) -> list[str]:
        return [connection.peer_address for connection in self.connections]


class Parent(TcpActor):
    """Listens, and starts others that do."""

    def listen(self) -> str:
        return self.tcp.listen("127.0.0.1:0").address

    def start_child(self, how: str) -> Any:
        if how == "spawn":
            return self.theater.spawn(Parent)
        if how == "start":
            return Parent.start()
        return self.theater.spawn_with(self.tcp.settings, Parent)

    async def start_child_and_wait(self) -> Any:
        return await self.theater.spawn_async(Parent)


def test_actors_of_an_application_are_trusted(stage: Stage, kind: str, listening: socket.socket) -> None:
    owner = stage.owner(kind)
    owner.connect(f"127.0.0.1:{port_of(listening)}")
    owner.listen("127.0.0.1:0")
    assert stage.theater.settings.permissions is None


def test_settings_of_its_own_confine_one_actor_and_no_other(stage: Stage) -> None:
    alone = stage.theater.spawn_with(Settings(permissions=Permissions()), Parent).proxy()
    with pytest.raises(Denied):
        alone.listen().get(timeout=TIMEOUT)
    assert stage.theater.spawn(Parent).proxy().listen().get(timeout=TIMEOUT).startswith("127.0.0.1:")


@pytest.mark.parametrize("how", ["spawn", "start", "spawn_async"])
def test_what_an_actor_starts_has_the_permissions_of_the_runtime_and_not_its_own(how: str) -> None:
    """``theater-tcp run`` gives the runtime none, so a child of an actor from a manifest may do nothing."""
    with confined() as stage:
        parent = stage.theater.spawn_with(Settings(permissions=Permissions(listen=("127.0.0.1:*",))), Parent).proxy()
        assert parent.listen().get(timeout=TIMEOUT)
        started = parent.start_child_and_wait() if how == "spawn_async" else parent.start_child(how)
        with pytest.raises(Denied):
            started.get(timeout=TIMEOUT).proxy().listen().get(timeout=TIMEOUT)


def test_an_actor_can_hand_on_its_own_permissions() -> None:
    with confined() as stage:
        own = Settings(permissions=Permissions(listen=("127.0.0.1:*",)))
        parent = stage.theater.spawn_with(own, Parent).proxy()
        child = parent.start_child("spawn_with").get(timeout=TIMEOUT).proxy()
        assert child.listen().get(timeout=TIMEOUT).startswith("127.0.0.1:")


def test_an_actor_knows_its_settings(kind: str) -> None:
    with confined(listen=["127.0.0.1:*"]) as stage:
        permissions = stage.owner(kind).act(lambda actor: actor.tcp.settings).permissions
        assert permissions == Permissions(listen=("127.0.0.1:*",))
