"""Each limit of a guest, tripped: it is ended with the reason, or told ``limit``; and nobody else notices."""

from __future__ import annotations

import itertools
import socket
import struct
from typing import TYPE_CHECKING
from unittest import mock

import pytest

from tests.guests.puppets import GAP, Gone, GuestOwner, GuestStage, stage_settings
from tests.guests.wat_guests import HEAP, USER, Word, guest
from tests.peers import TIMEOUT, dial, receive_exactly, receive_to_end
from tests.support import Echo
from theater_tcp import ListenOptions
from theater_tcp.errors import CallbackFailed, InvalidArgument, LimitReached, TheaterError
from theater_tcp.guest import suspendable
from theater_tcp.guest.calls import GuestCalls
from theater_tcp.guest_settings import Limits

if TYPE_CHECKING:
    from collections.abc import Callable

KIB, MIB = 1 << 10, 1 << 20
PAGE = 64 * KIB


def echoes(stage: GuestStage, address: str, word: bytes = b"served meanwhile") -> None:
    """Somebody else is served."""
    with dial(address) as peer:
        peer.sendall(word)
        assert receive_exactly(peer, len(word)) == word
    stage.pass_turns(1)


def ends_with(stage: GuestStage, puppet: GuestOwner, reason: str) -> None:
    """The guest has ended, for this reason; its connections are closed, and the log has one line of it."""
    puppet.ends()
    [line] = [line for line in stage.guest_errors() if reason in line]
    assert "Traceback" not in line
    assert stage.theater.metrics().guest_traps == 1


# -- memory and tables ----------------------------------------------------------------------------------------------


def test_memory_grows_up_to_the_limit_and_not_beyond_and_the_guest_goes_on(stage: GuestStage, road: str) -> None:
    puppet = stage.guest(road, limits=Limits(memory=1 * MIB))

    def grow(_actor: object) -> list[int]:
        return [puppet.grow(pages) for pages in (1, 100, 13, 1, 0, 0xFFFF_FFFF, 65536)]

    assert puppet.act(grow) == [2, -1, 3, -1, 16, -1, -1]
    puppet.call(puppet.write, MIB - 4, b"last")
    assert puppet.call(puppet.read, MIB - 4, 4) == b"last"


def test_a_memory_that_begins_above_the_limit_is_refused_with_the_limit(stage: GuestStage, road: str) -> None:
    large = guest(memory='(memory (export "memory") 32)')
    with pytest.raises(LimitReached, match="memory"):
        stage.spawn(road, large, limits=Limits(memory=1 * MIB))
    assert stage.spawn(road, large, limits=Limits(memory=2 * MIB)).is_alive()


def test_tables_grow_up_to_the_limit_and_not_beyond(stage: GuestStage, road: str) -> None:
    puppet = stage.guest(road, limits=Limits(tables=1000))

    def grow(_actor: object) -> list[int]:
        return [puppet.grow_table(elements) for elements in (99, 901, 900, 1, 0xFFFF_FFFF)]

    assert puppet.act(grow) == [1, -1, 100, -1, -1]


def test_a_table_that_begins_above_the_limit_is_refused_with_the_limit(stage: GuestStage, road: str) -> None:
    large = guest(more="(table 2000 funcref)")
    with pytest.raises(LimitReached, match="table"):
        stage.spawn(road, large, limits=Limits(tables=1000))


@pytest.mark.parametrize(("road", "most"), [("core", 16), ("component", 31), ("threads", 16)])
def test_more_tables_than_a_guest_may_have_are_refused(stage: GuestStage, road: str, most: int) -> None:
    with pytest.raises(TheaterError, match="table"):  # and one is the host's, or the component's own
        stage.spawn(road, guest(more="(table 600 funcref)" * (most + 2)), limits=Limits(tables=1000))
    stage.spawn(road, guest(more="(table 600 funcref)" * most), limits=Limits(tables=1000))


def test_many_memories_or_a_64_bit_one_are_no_way_around_the_limit(stage: GuestStage, road: str) -> None:
    limits = Limits(memory=1 * MIB)
    for more in ("(memory 16)", "(memory 16) (memory 16) (memory 16)", "(memory i64 1)"):
        with pytest.raises(TheaterError):
            stage.spawn(road, guest(more=more), limits=limits)


# -- stack ----------------------------------------------------------------------------------------------------------


def test_endless_recursion_ends_the_guest_and_not_the_process(stage: GuestStage, road: str) -> None:
    puppet = stage.guest(road)
    stage.foresee_callback_failures()
    puppet.traps(b"D")
    ends_with(stage, puppet, "stack")


def test_recursion_in_the_middle_of_a_callback_and_in_a_start_function_ends_the_guest(
    stage: GuestStage, road: str
) -> None:
    deep = "(func $deep (param i64 i64 i64 i64) (call $deep (local.get 1) (local.get 2) (local.get 3) (local.get 0)))"
    call = "(call $deep (i64.const 1) (i64.const 2) (i64.const 3) (i64.const 4))"
    with pytest.raises(CallbackFailed, match="stack"):
        stage.spawn(road, guest(more=deep, init=f"{call} (i32.const 0x100)"))
    with pytest.raises(CallbackFailed, match="stack"):
        stage.spawn(road, guest(more=f"{deep} (func $begin {call}) (start $begin)"))
    with pytest.raises(CallbackFailed, match="stack"):
        stage.spawn(road, guest(more=f'{deep} (func (export "_initialize") {call})'))


# -- CPU ------------------------------------------------------------------------------------------------------------

LOOP = "(loop $again (br $again))"


@pytest.mark.parametrize("seconds", [0.1, 0.001])
def test_a_guest_that_loops_in_init_is_ended_and_told_why(stage: GuestStage, road: str, seconds: float) -> None:
    with pytest.raises(LimitReached, match=rf"^limit: init: cpu: .*{seconds} s"):
        stage.spawn(road, guest(init=f"{LOOP} unreachable"), limits=Limits(cpu=seconds))


def test_a_guest_that_loops_in_initialize_is_ended(stage: GuestStage, road: str) -> None:
    with pytest.raises(LimitReached, match="cpu"):
        stage.spawn(road, guest(more=f'(func (export "_initialize") {LOOP})'), limits=Limits(cpu=0.1))


def test_a_start_function_that_loops_is_ended_also_though_it_may_not_be_suspended(stage: GuestStage, road: str) -> None:
    with pytest.raises(TheaterError):
        stage.spawn(road, guest(more=f"(func $begin {LOOP}) (start $begin)"), limits=Limits(cpu=0.1))


def test_while_a_guest_loops_the_others_are_served_and_in_the_end_it_is_ended(stage: GuestStage, road: str) -> None:
    address = stage.theater.listen_for(stage.theater.spawn(Echo), "127.0.0.1:0").address
    busy, other = stage.guest(road, limits=Limits(cpu=1)), stage.guest(road)
    connection, peer = busy.meet(mode="passive")
    stage.foresee_callback_failures()
    busy.loops()
    for _ in range(3):
        echoes(stage, address)
        assert other.calls("runtime#self") == other.ref.actor_urn
    assert busy.ref.is_alive()
    assert not stage.guest_errors()
    ends_with(stage, busy, "limit: cpu")
    assert not stuck(peer)
    assert connection.id


def test_two_guests_that_loop_take_turns_and_both_are_ended(stage: GuestStage, road: str) -> None:
    address = stage.theater.listen_for(stage.theater.spawn(Echo), "127.0.0.1:0").address
    guests = [stage.guest(road, limits=Limits(cpu=0.2)) for _ in range(2)]
    stage.foresee_callback_failures()
    for each in guests:
        each.loops()
    echoes(stage, address)
    for each in guests:
        each.ends()
    assert stage.theater.metrics().guest_traps == 2


def test_work_below_the_limit_comes_to_its_end_though_it_yields_many_times(stage: GuestStage, road: str) -> None:
    puppet = stage.guest(road)

    def work(_actor: object) -> bytes:
        puppet.works(200_000_000)
        return puppet.control.answer()

    assert puppet.act(work) == b""
    assert puppet.ref.is_alive()


def test_to_wait_costs_no_cpu_time_and_each_wait_begins_the_budget_anew(stage: GuestStage, road: str) -> None:
    puppet = stage.guest(road, limits=Limits(cpu=0.15))
    connection, peer = puppet.meet(mode="passive")
    puppet.calls("tcp-ext#set-option", connection.id, "receive_timeout", "200 ms")

    def wait_and_work(_actor: object) -> None:
        for _ in range(4):
            with pytest.raises(TheaterError, match=r"^timeout"):
                puppet.do("tcp#receive", connection.id, 10)
            puppet.works(10_000_000)
            puppet.control.answer()

    puppet.act(wait_and_work)
    assert puppet.calls("tcp#send", connection.id, b"alive") == 5
    assert receive_exactly(peer, 5) == b"alive"


def test_time_in_which_the_thread_had_no_processor_is_not_the_guests(
    stage: GuestStage, road: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """On a busy machine the time of day goes on while nothing runs; here by a second with every look at it."""
    looks = itertools.count()
    monkeypatch.setattr(suspendable, "perf_counter", lambda: float(next(looks)))
    puppet = stage.guest(road, limits=Limits(cpu=3))

    def work(_actor: object) -> bytes:
        puppet.works(100_000_000)
        return puppet.control.answer()

    for _ in range(3):
        assert puppet.act(work) == b""
        assert puppet.calls("runtime#self") == puppet.ref.actor_urn
    assert puppet.ref.is_alive()


def runs_too_long_in_init(stage: GuestStage, road: str, forever: bytes) -> None:
    """The guest is ended for its CPU time, and somebody else is served meanwhile."""
    address = stage.theater.listen_for(stage.theater.spawn(Echo), "127.0.0.1:0").address
    ended = stage.in_background(lambda: stage.spawn(road, forever, limits=Limits(cpu=0.5)))
    echoes(stage, address)
    with pytest.raises(LimitReached, match="cpu"):
        ended()


def test_calls_that_answer_at_once_are_no_way_around_the_cpu_limit(stage: GuestStage, road: str) -> None:
    forever = guest(
        imports=["runtime#self"],
        init="(loop $again (call $runtime#self (i32.const 0x200)) (br $again)) unreachable",
        allocate="(i32.const 0x400)",
    )
    runs_too_long_in_init(stage, road, forever)


def test_a_blocking_call_that_fails_at_once_is_no_way_around_the_cpu_limit(stage: GuestStage, road: str) -> None:
    forever = guest(
        imports=["tcp#receive"],
        init="(loop $again (call $tcp#receive (i32.const 0) (i32.const 5) (i32.const 1) (i32.const 0x200)) (br $again))"
        " unreachable",
    )
    runs_too_long_in_init(stage, road, forever)


# -- data of one call -----------------------------------------------------------------------------------------------


def test_a_call_with_more_data_than_the_limit_ends_the_guest(stage: GuestStage, road: str) -> None:
    stage.foresee_callback_failures()
    for words in ((USER, 45, HEAP, 64 * KIB + 1), (HEAP, 64 * KIB + 1, USER, 1)):
        puppet = stage.guest(road, limits=Limits(call_data=64 * KIB))
        connection, _peer = puppet.meet(mode="passive")
        puppet.call(puppet.write, USER, connection.id.encode())
        puppet.call(puppet.grow, 8)
        puppet.calls_raw("tcp#peer-address", HEAP + 128 * KIB, 1)  # so the host knows of the new pages
        with pytest.raises(Gone):
            puppet.calls_raw("tcp#send", *words)
        puppet.ends()
        assert "limit: call_data" in stage.guest_errors()[-1]


@pytest.mark.parametrize(
    ("call", "more"),
    [
        ("tcp#connect", []),
        ("tcp#peer-address", []),
        ("tcp#receive", [1]),
        ("tcp#set-active", [USER, 0]),
        ("runtime#log", []),
    ],
)
def test_a_text_above_the_limit_ends_the_guest_whatever_it_names(
    stage: GuestStage, road: str, call: str, more: list[int]
) -> None:
    stage.foresee_callback_failures()
    puppet = stage.guest(road, limits=Limits(call_data=4 * KIB))
    place = (puppet.call(puppet.grow, 20) + GAP) << 16
    level = [0] if call == "runtime#log" else []
    puppet.calls_raw(call, *level, place, 4 * KIB, *more)
    with pytest.raises(Gone):
        puppet.calls_raw(call, *level, place, 4 * KIB + 1, *more)
    puppet.ends()
    assert "limit: call_data: it passed 4097 bytes, and 4096 may be" in stage.guest_errors()[-1]


def test_a_call_with_exactly_the_limit_passes(stage: GuestStage, road: str) -> None:
    puppet = stage.guest(road, limits=Limits(call_data=64 * KIB))
    connection, peer = puppet.meet(mode="passive")
    puppet.call(puppet.write, USER, connection.id.encode())
    puppet.call(puppet.grow, 8)
    _, ret = puppet.calls_raw("tcp#send", USER, 45, HEAP, 64 * KIB - 45)
    assert ret[0] == 0
    receive_exactly(peer, 64 * KIB - 45)


def test_data_that_would_be_above_the_limit_is_not_given_to_a_guest(stage: GuestStage, road: str) -> None:
    stage.foresee_callback_failures()
    puppet = stage.guest(road, limits=Limits(call_data=4 * KIB))
    connection, peer = puppet.meet(mode="passive")
    peer.sendall(bytes(3 * KIB))
    assert len(puppet.call(connection.receive, 1 << 20)) == 3 * KIB
    peer.sendall(bytes(64 * KIB))
    stage.until(lambda: unread(connection) >= 5 * KIB)
    try:
        assert len(puppet.call(connection.receive, 1 << 20)) <= 4 * KIB  # so much, or none
    except Gone:
        assert "limit: call_data" in stage.guest_errors()[-1]
        puppet.ends()


@pytest.mark.parametrize("size", [5 * KIB, 64 * KIB])
def test_a_frame_above_the_limit_ends_the_guest_that_would_receive_it(stage: GuestStage, road: str, size: int) -> None:
    stage.foresee_callback_failures()
    puppet = stage.guest(road, limits=Limits(call_data=4 * KIB))
    connection, peer = puppet.meet(mode="passive", framing="length-4")
    for length in (3 * KIB, size):
        peer.sendall(struct.pack(">I", length) + bytes(length))
    assert len(puppet.call(connection.receive, 1 << 20)) == 3 * KIB
    with pytest.raises(Gone):
        puppet.call(connection.receive, 1 << 20)
    puppet.ends()
    assert f"limit: call_data: receive would give {size} bytes" in stage.guest_errors()[-1]


def test_a_raw_chunk_that_arrives_and_is_above_the_limit_ends_the_guest(stage: GuestStage, road: str) -> None:
    stage.foresee_callback_failures()
    puppet = stage.guest(road, limits=Limits(call_data=4 * KIB))
    connection, peer = puppet.meet(mode="passive")
    received = puppet.begin(connection.receive, 1 << 20)
    peer.sendall(bytes(5 * KIB))
    with pytest.raises(Gone):
        received.get(timeout=TIMEOUT)
    puppet.ends()
    assert "limit: call_data: receive would give 5120 bytes" in stage.guest_errors()[-1]


def test_a_text_that_would_be_above_the_limit_ends_the_guest_that_would_be_given_it(
    stage: GuestStage, road: str
) -> None:
    asks = guest(imports=["runtime#self"], init="(call $runtime#self (i32.const 0x200)) (i32.const 0x100)")
    assert stage.spawn(road, asks, limits=Limits(call_data=45)).is_alive()
    with pytest.raises(LimitReached, match=r"^limit: init: call_data: self would give 45 bytes$"):
        stage.spawn(road, asks, limits=Limits(call_data=44))


def test_a_record_that_would_be_above_the_limit_ends_the_guest_that_would_be_given_it(
    stage: GuestStage, road: str
) -> None:
    session = {"version": "TLSv1.3", "cipher": "x" * 93, "alpn": None, "server-name": None, "resumed": False,
               "peer-certificate": None}  # fmt: skip
    asks = guest(
        imports=["tcp-ext#tls-info"],
        init="(call $tcp-ext#tls-info (i32.const 0) (i32.const 0) (i32.const 0x200)) (i32.const 0x100)",
    )
    with mock.patch.object(GuestCalls, "tls_info", return_value=session):
        assert stage.spawn(road, asks, limits=Limits(call_data=100)).is_alive()
        with pytest.raises(LimitReached, match=r"^limit: init: call_data: tls-info would give 100 bytes$"):
            stage.spawn(road, asks, limits=Limits(call_data=99))


def test_a_config_above_the_limit_is_refused(stage: GuestStage, road: str) -> None:
    with pytest.raises(LimitReached, match="call_data"):
        stage.spawn(road, guest(), bytes(5 * KIB), limits=Limits(call_data=4 * KIB))


# -- connections and listeners --------------------------------------------------------------------------------------


def test_connections_beyond_the_limit_are_limit_by_connect_accept_and_transfer(stage: GuestStage, road: str) -> None:
    address = stage.theater.listen_for(stage.theater.spawn(Echo), "127.0.0.1:0").address
    full = stage.guest(road, limits=Limits(connections=3))  # one is the puppet's own
    listener = full.listen()
    first, second = full.connect(address), full.connect(address)
    assert full.refused("tcp#connect", address).startswith("limit")
    assert full.refused("tcp#accept", listener.id).startswith("limit")
    giver = stage.guest(road)
    connection, peer = giver.meet(mode="passive")
    assert giver.refused("tcp#transfer", connection.id, full.ref.actor_urn).startswith("limit")
    assert giver.calls("tcp#send", connection.id, b"still here") == 10
    assert receive_exactly(peer, 10) == b"still here"
    waiting = stage.dial(listener.address)
    full.hears_nothing()
    full.call(first.close)
    assert full.expect("handle_connection")  # the listener goes on
    full.call(second.abort)
    giver.calls("tcp#transfer", connection.id, full.ref.actor_urn)
    full.expect("handle_connection_transfer")
    assert waiting.fileno() >= 0


def test_connects_that_are_under_way_count(stage: GuestStage, road: str) -> None:
    """A guest is suspended in ``connect``, so it is by its listener that more could come meanwhile."""
    full = stage.guest(road, limits=Limits(connections=2), hold=["handle-connection"])
    listener = full.listen()
    peers = [stage.dial(listener.address) for _ in range(3)]
    held = full.expect("handle_connection").connection
    stage.pass_turns()
    owned = stage.theater.ownership.resolve(full.ref).connections
    assert len(owned) <= 2
    full.returns_ok()
    full.hears_nothing()
    full.call(held.close)
    full.expect("handle_connection")
    full.returns_ok()
    assert len(peers) == 3


def test_listeners_beyond_the_limit_are_limit(stage: GuestStage, road: str) -> None:
    puppet = stage.guest(road, limits=Limits(listeners=2))
    first, _second = puppet.listen(), puppet.listen()
    assert puppet.refused("tcp#listen", "127.0.0.1:0").startswith("limit")
    puppet.call(first.close)
    assert puppet.listen()
    assert stage.theater.metrics().listeners == 2


def test_a_listener_of_a_guest_takes_what_it_may_and_what_the_guest_may_whichever_is_less(
    stage: GuestStage, road: str
) -> None:
    for most, own in ((2, 3), (3, 2)):  # one of the guest's is the puppet's own
        settings = stage_settings(listener=ListenOptions(max_connections=own))
        puppet = stage.guest(road, settings=settings, limits=Limits(connections=most + 1))
        listener = puppet.listen()
        peers = [stage.dial(listener.address) for _ in range(4)]
        for _ in range(2):
            puppet.expect("handle_connection")
        puppet.hears_nothing()
        assert len(peers) == 4


def test_the_runtimes_limit_of_connections_holds_for_guests_too(road: str) -> None:
    with GuestStage(stage_settings(max_connections=3)) as stage:
        puppet = stage.guest(road)
        listener = puppet.listen()
        with socket.create_server(("127.0.0.1", 0)) as door:
            door.settimeout(TIMEOUT)
            peers = [stage.dial(listener.address) for _ in range(5)]
            for _ in range(3):
                puppet.expect("handle_connection")
            puppet.hears_nothing()
        assert len(peers) == 5


# -- what a limit may be --------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    "make",
    [
        lambda: Limits(memory=0),
        lambda: Limits(memory=-1),
        lambda: Limits(cpu=0),
        lambda: Limits(tables=-1),
        lambda: Limits(call_data="much"),  # type: ignore[arg-type]
        lambda: Limits(connections=True),
        lambda: Limits(listeners=1.5),  # type: ignore[arg-type]
    ],
)
def test_a_limit_that_is_none_is_invalid_and_named(make: Callable[[], Limits]) -> None:
    with pytest.raises(InvalidArgument, match=r"memory|cpu|tables|call_data|connections|listeners"):
        make()


def test_limits_of_one_guest_are_not_anothers(stage: GuestStage, road: str) -> None:
    content = guest(memory='(memory (export "memory") 32)')
    with pytest.raises(LimitReached):
        stage.spawn(road, content, limits=Limits(memory=1 * MIB))
    assert stage.spawn(road, content).is_alive()
    with pytest.raises(LimitReached):
        stage.spawn(road, content, limits=Limits(memory=1 * MIB))


def test_state_of_one_guest_is_not_anothers(stage: GuestStage, road: str) -> None:
    first, second = stage.guest(road), stage.guest(road)
    first.call(first.set_word, Word.STATE, 0xDEAD)
    assert second.call(second.read, Word.STATE, 4) == struct.pack("<I", 0)


def unread(connection: object) -> int:
    core = connection._core  # type: ignore[attr-defined]
    probe = bytearray(1 << 17)
    try:
        return int(core.sock.recv_into(probe, len(probe), socket.MSG_PEEK | socket.MSG_DONTWAIT))
    except BlockingIOError:
        return 0


def stuck(peer: socket.socket) -> bool:
    """Whether a peer of a guest that has ended still waits for something."""
    try:
        receive_to_end(peer)
    except ConnectionResetError:
        pass
    except TimeoutError:
        return True
    return False
