"""G6 and G8: what is out of range is refused, what is set takes effect, and each limit has a test that trips it."""

from __future__ import annotations

import os
import re
import socket
import stat
import threading
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pytest

from tests.guests.roads import ROADS, load
from tests.guests.wat_guests import guest
from tests.peers import TIMEOUT, receive_exactly
from tests.support import Stage, outcome_of
from theater_tcp import ListenOptions, Options, Settings, Theater
from theater_tcp.errors import CallbackFailed, InvalidArgument, Unreachable

if TYPE_CHECKING:
    from collections.abc import Callable

HERE = Path(__file__).resolve().parent

TRIPPED_BY: dict[str, str] = {
    # The limits and timeouts of a connection
    "Options.handshake_timeout": "test_contract_16_a_peer_that_says_nothing_is_ended_by_handshake_timeout",
    "Options.max_frame": "test_contract_12_max_frame_trips_with_the_reason_limit",
    "Options.read_buffer_limit": (
        "test_contract_G2_a_slow_owner_stops_the_reading_and_the_host_holds_at_most_read_buffer_limit"
    ),
    "Options.write_buffer_limit": "test_contract_11_on_the_loop_send_takes_the_data_reading_pauses_and_drained_waits",
    "Options.write_buffer_hard_limit": (
        "test_contract_11_write_buffer_hard_limit_trips_on_the_loop_and_closes_the_connection"
    ),
    "Options.pending_timeout": "test_contract_05_pending_timeout_trips_with_the_reason_timeout",
    "Options.receive_timeout": "test_contract_12_receive_timeout_trips_and_the_connection_goes_on",
    "Options.send_timeout": "test_contract_11_send_timeout_trips_where_the_peer_takes_nothing",
    "Options.linger_timeout": ("test_contract_13_linger_timeout_bounds_the_flushing_and_the_stream_ends_as_incomplete"),
    "Options.idle_timeout": "test_contract_19_idle_timeout_trips_and_traffic_in_either_direction_puts_it_off",
    # Those of a listener
    "ListenOptions.backlog": "test_contract_20_backlog_bounds_what_the_kernel_holds",
    "ListenOptions.max_connections": (
        "test_contract_20_at_max_connections_the_listener_stops_accepting_and_goes_on_when_one_ends"
    ),
    # Those of a runtime
    "Settings.connect_timeout": "test_contract_01_connect_timeout_trips_at_a_peer_that_does_not_answer",
    "Settings.connection_attempt_delay": "test_contract_01_connection_attempt_delay_trips",
    "Settings.max_connections": (
        "test_contract_20_at_max_connections_the_listener_stops_accepting_and_goes_on_when_one_ends"
    ),
    "Settings.accept_pause": "test_contract_20_accept_pause_is_a_pause",
    "Settings.drain_timeout": "test_contract_G8_drain_timeout_trips_and_resets_what_is_left",
    "Settings.resolver_threads": "test_contract_G8_resolver_threads_bound_the_names_that_are_resolved_at_once",
    "Settings.worker_threads": "test_contract_G8_worker_threads_bound_the_blocking_work_at_once",
    "Settings.guest_stack": "test_contract_G8_guest_stack_trips_where_a_guest_calls_itself_too_often",
}
"""The test that trips each limit or timeout."""

NO_LIMIT = {
    "Options.nodelay",
    "Options.keepalive",
    "Options.half_open",
    "Options.framing",
    "Options.server_tls",
    "Options.client_tls",
    "ListenOptions.at_limit",
    "ListenOptions.reuse_port",
    "ListenOptions.unix_mode",
    "Settings.options",
    "Settings.listener",
    "Settings.permissions",
    "Settings.guest_cache",
}


def test_contract_G8_every_limit_and_timeout_has_a_test_that_trips_it() -> None:
    fields = {f"{cls.__name__}.{name}" for cls in (Options, ListenOptions, Settings) for name in cls.field_names()}
    assert fields - NO_LIMIT == set(TRIPPED_BY), "a new field wants a test and its line above"
    tests = "".join(path.read_text() for path in HERE.glob("test_*.py"))
    assert [name for name in TRIPPED_BY.values() if not re.search(rf"^def {name}\(", tests, re.M)] == []


WRONG: list[tuple[str, Any]] = [
    ("pending_timeout", 0),
    ("pending_timeout", -1.0),
    ("send_timeout", float("nan")),
    ("send_timeout", float("inf")),
    ("linger_timeout", "5 s"),
    ("idle_timeout", 0),
    ("receive_timeout", 10_000_000),
    ("read_buffer_limit", 0),
    ("read_buffer_limit", 1 << 40),
    ("write_buffer_limit", 1.5),
    ("write_buffer_hard_limit", 1),  # below write_buffer_limit
    ("max_frame", 1 << 20),  # above read_buffer_limit
    ("framing", "lines"),
    ("nodelay", 1),
    ("keepalive", 0),
    ("half_open", None),
]

WRONG_FOR_A_LISTENER: list[tuple[str, Any]] = [
    ("backlog", 0),
    ("max_connections", 0),
    ("max_connections", -1),
    ("at_limit", "wait"),
    ("reuse_port", "yes"),
    ("unix_mode", 0o1777),
]


def is_one_line_about(error: InvalidArgument, name: str) -> bool:
    """``invalid: <name>: <reason>``."""
    return str(error).startswith(f"invalid: {name}: ") and str(error).isprintable()


@pytest.mark.parametrize(("name", "value"), [*WRONG, ("no_such_thing", 1)])
def test_contract_G6_a_wrong_option_is_refused_on_every_way_and_changes_nothing(
    stage: Stage, kind: str, name: str, value: Any
) -> None:
    owner = stage.owner(kind)
    connection, peer = owner.meet(mode="passive")
    option: dict[str, Any] = {name: value}
    address = owner.call(lambda: connection.local_address)
    listeners = stage.theater.listeners()
    calls: list[Callable[[], Any]] = [
        lambda: owner.listen(**option),
        lambda: owner.connect(address, **option),
        lambda: owner.call(connection.set_options, **option),
    ]
    for call in calls:
        with pytest.raises(InvalidArgument) as caught:
            call()
        assert is_one_line_about(caught.value, name)
    owner.hears_nothing()  # no connection reached the listener
    assert stage.theater.listeners() == listeners
    peer.sendall(b"unharmed")
    assert owner.call(connection.receive, 100) == b"unharmed"


@pytest.mark.parametrize(("name", "value"), WRONG_FOR_A_LISTENER)
def test_contract_G6_a_wrong_option_of_a_listener_is_refused_and_nothing_listens(
    stage: Stage, kind: str, name: str, value: Any
) -> None:
    owner = stage.owner(kind)
    with pytest.raises(InvalidArgument) as caught:
        owner.listen(**{name: value})
    assert is_one_line_about(caught.value, name)
    assert stage.theater.listeners() == []


def test_contract_G6_a_set_of_options_is_taken_whole_or_not_at_all(stage: Stage, kind: str) -> None:
    owner = stage.owner(kind)
    connection, peer = owner.meet(mode="passive")
    with pytest.raises(InvalidArgument):
        owner.call(connection.set_options, framing="line", idle_timeout=-1)
    peer.sendall(b"no\nlines")
    assert owner.call(connection.receive, 100) == b"no\nlines"


# -- G8: what is configured applies, on every path --------------------------------------------------------------


def host_side(peer: socket.socket) -> socket.socket:
    """The other end of a peer's connection, which is in this process too: another descriptor for it."""
    for name in os.listdir("/proc/self/fd"):
        try:
            if not stat.S_ISSOCK(os.stat(int(name)).st_mode):
                continue
            copy = socket.socket(fileno=os.dup(int(name)))
        except OSError:
            continue  # closed since
        try:
            if copy.getpeername() == peer.getsockname() and copy.getsockname() == peer.getpeername():
                return copy
        except OSError:
            pass  # not connected
        copy.close()
    raise AssertionError("the connection's other end is not here")


def socket_options(peer: socket.socket) -> tuple[bool, bool, int]:
    """TCP_NODELAY, SO_KEEPALIVE and TCP_KEEPIDLE of a peer's connection at the host."""
    with host_side(peer) as host:
        return (
            bool(host.getsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY)),
            bool(host.getsockopt(socket.SOL_SOCKET, socket.SO_KEEPALIVE)),
            host.getsockopt(socket.IPPROTO_TCP, socket.TCP_KEEPIDLE),
        )


@pytest.fixture
def system_keepidle() -> int:
    """The system's TCP_KEEPIDLE, in seconds."""
    return int(Path("/proc/sys/net/ipv4/tcp_keepalive_time").read_text())


OPTIONS: dict[str, Any] = {"nodelay": False, "keepalive": 77}


@pytest.mark.parametrize("by", ["default", "listen", "settings", "set_options"])
def test_contract_G8_socket_options_take_effect_on_accepted_connections(
    kind: str, by: str, system_keepidle: int
) -> None:
    settings = Settings(drain_timeout=0, options=Options(**OPTIONS) if by == "settings" else Options())
    with Stage(settings) as stage:
        owner = stage.owner(kind)
        connection, peer = owner.meet(mode="passive", **(OPTIONS if by == "listen" else {}))
        if by == "set_options":
            owner.call(connection.set_options, **OPTIONS)
        assert socket_options(peer) == ((True, False, system_keepidle) if by == "default" else (False, True, 77))
        owner.call(connection.set_options, nodelay=True, keepalive=False)
        assert socket_options(peer)[:2] == (True, False)
        owner.call(connection.set_options, keepalive=1)  # equal to True, and something else
        assert socket_options(peer) == (True, True, 1)
        owner.call(connection.set_options, keepalive=True)
        assert socket_options(peer) == (True, True, system_keepidle)


@pytest.mark.parametrize("by", ["default", "connect", "settings"])
def test_contract_G8_socket_options_take_effect_on_connections_that_were_opened_here(
    kind: str, by: str, system_keepidle: int
) -> None:
    settings = Settings(drain_timeout=0, options=Options(**OPTIONS) if by == "settings" else Options())
    with Stage(settings) as stage, socket.create_server(("127.0.0.1", 0)) as listening:
        owner = stage.owner(kind)
        port = listening.getsockname()[1]
        owner.connect(f"127.0.0.1:{port}", **(OPTIONS if by == "connect" else {}))
        peer, _ = listening.accept()
        with peer:
            assert socket_options(peer) == ((True, False, system_keepidle) if by == "default" else (False, True, 77))


def test_contract_G8_an_option_of_one_connection_does_not_touch_another(stage: Stage, kind: str) -> None:
    owner = stage.owner(kind)
    first, first_peer = owner.meet(mode="passive")
    second, second_peer = owner.meet(mode="passive")
    owner.call(first.set_options, framing="line", nodelay=False)
    first_peer.sendall(b"a\nb\n")
    second_peer.sendall(b"a\nb\n")
    assert owner.call(first.receive, 100) == b"a\n"
    assert owner.call(second.receive, 100) == b"a\nb\n"
    assert socket_options(first_peer)[0] is False
    assert socket_options(second_peer)[0] is True


@pytest.mark.parametrize("name", ["idle_timeout", "send_timeout"])
def test_contract_G8_a_timeout_that_is_set_on_a_live_connection_counts_from_then(
    stage: Stage, kind: str, name: str
) -> None:
    owner = stage.owner(kind)
    own: dict[str, Any] = {"write_buffer_limit": 64 << 20, "write_buffer_hard_limit": 64 << 20}
    connection, _peer = owner.meet(mode="active", **own)
    if name == "send_timeout":
        owner.call(connection.send, bytes(8 << 20))
    owner.call(connection.set_options, **{name: 0.05})
    owner.expect("on_close", "timeout")


def test_contract_G8_a_timeout_can_be_taken_back(stage: Stage, kind: str) -> None:
    owner = stage.owner(kind)
    connection, peer = owner.meet(mode="active", idle_timeout=0.2)
    owner.call(connection.set_options, idle_timeout=None)
    other, _ = owner.meet(mode="active", idle_timeout=0.3)
    assert owner.expect("on_close", "timeout").connection is other
    peer.sendall(b"still here")
    assert owner.collect(10) == b"still here"


@pytest.mark.parametrize("by", ["settings", "argument"])
def test_contract_G8_drain_timeout_trips_and_resets_what_is_left(kind: str, by: str) -> None:
    with Stage(Settings(drain_timeout=0.05 if by == "settings" else 1000.0)) as stage:
        owner = stage.owner(kind)
        _, peer = owner.meet(mode="active")
        assert stage.theater.shutdown(*([0.05] if by == "argument" else [])) is False
        owner.expect("on_drain")
        owner.expect("on_close", "shutdown")
        with pytest.raises(ConnectionResetError):
            peer.recv(1)


def test_contract_G8_a_drain_that_the_connections_use_is_clean(kind: str) -> None:
    with Stage(Settings(drain_timeout=1000.0)) as stage:

        def on_drain(actor: Any) -> None:
            connection = connections[0]
            connection.send(b"421 going down\r\n")
            connection.close()
            assert actor.theater.listeners() == []

        owner = stage.owner(kind, on_drain=on_drain)
        connection, peer = owner.meet(mode="active")
        connections = [connection]
        assert stage.theater.shutdown() is True
        assert receive_exactly(peer, 16) == b"421 going down\r\n"
        assert peer.recv(1) == b""
        owner.expect("on_drain")
        assert owner.script.heard.empty()


class Meter:
    """Counts who is inside at the same time."""

    def __init__(self) -> None:
        self.gate = threading.Event()
        self.inside = threading.Semaphore(0)

    def enter(self, *_args: Any, **_kwargs: Any) -> list[Any]:
        self.inside.release()
        assert self.gate.wait(TIMEOUT)
        raise socket.gaierror(socket.EAI_NONAME, "nobody")

    def fills_up_to(self, number: int, stage: Stage) -> bool:
        """So many come in, and no more."""
        entered = all(self.inside.acquire(timeout=TIMEOUT) for _ in range(number))
        stage.pass_turns()
        return entered and not self.inside.acquire(timeout=0.05)


@pytest.mark.parametrize("threads", [1, 3])
def test_contract_G8_resolver_threads_bound_the_names_that_are_resolved_at_once(
    threads: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    meter = Meter()
    monkeypatch.setattr(socket, "getaddrinfo", meter.enter)
    with Stage(Settings(drain_timeout=0, resolver_threads=threads)) as stage:
        owner = stage.owner("loop")
        futures = [owner.ref.ask(lambda actor: actor.tcp.connect("name.test:1"), block=False) for _ in range(5)]
        assert meter.fills_up_to(threads, stage)
        meter.gate.set()
        for future in futures:
            with pytest.raises(Unreachable):
                outcome_of(future)


@pytest.mark.parametrize("threads", [1, 3])
def test_contract_G8_worker_threads_bound_the_blocking_work_at_once(threads: int) -> None:
    meter = Meter()
    with Stage(Settings(drain_timeout=0, worker_threads=threads)) as stage:
        owner = stage.owner("loop")
        futures = [owner.ref.ask(lambda actor: actor.to_thread(meter.enter), block=False) for _ in range(5)]
        assert meter.fills_up_to(threads, stage)
        meter.gate.set()
        for future in futures:
            with pytest.raises(socket.gaierror):
                outcome_of(future)


@pytest.mark.parametrize("road", ROADS)
def test_contract_G8_guest_stack_trips_where_a_guest_calls_itself_too_often(road: str) -> None:
    dive = guest(
        more="""(func $dive (param i32) (result i32)
            (if (result i32) (i32.eqz (local.get 0)) (then (i32.const 0))
              (else (i32.add (call $dive (i32.sub (local.get 0) (i32.const 1))) (local.get 0)))))""",
        init="(drop (call $dive (i32.const 20000))) (i32.const 0x100)",
    )
    with Theater(Settings(drain_timeout=0, guest_stack=2 << 20)) as theater:
        theater.spawn_guest(load(theater, road, dive))
    with (
        Theater(Settings(drain_timeout=0, guest_stack=64 << 10)) as theater,
        pytest.raises(CallbackFailed, match="init: call stack exhausted"),
    ):
        theater.spawn_guest(load(theater, road, dive))
