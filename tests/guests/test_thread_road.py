"""What is special about the road of threads: when it is taken, what becomes of the threads, and how they are stopped.

What it has in common with the other roads is in the tests of these, which are run by it too.
"""

from __future__ import annotations

import resource
import subprocess
import sys
import threading
import time
from typing import TYPE_CHECKING

import pytest
import wasmtime

from tests.guests.guest_files import ACTORS
from tests.guests.puppets import cache_folder, stage_settings
from tests.guests.wat_guests import CLIENT, guest, wasm
from tests.peers import TIMEOUT, dial, eventually, receive_exactly, receive_to_end
from theater_tcp import Theater
from theater_tcp.errors import CallbackFailed, LimitReached
from theater_tcp.guest import thread_road, wasmtime_internals
from theater_tcp.guest.engine import Engine
from theater_tcp.guest.thread_cell import Cell
from theater_tcp.guest_settings import Limits

if TYPE_CHECKING:
    import socket
    from collections.abc import Iterator

ECHO = (ACTORS / "echo" / "c" / "echo.wasm").read_bytes()

RECURSION = """
(func $dive (param i32) (result i32)
  (if (result i32) (i32.eqz (local.get 0)) (then (i32.const 0))
    (else (i32.add (call $dive (i32.sub (local.get 0) (i32.const 1))) (local.get 0)))))
"""

FRAMES = 30_000
"""Calls inside of each other that need more than the usual stack, and less than 2 MiB."""

SPINS = guest(
    exports=f'(func $spin (export "{CLIENT}#handle-connection") (param i32 i32) (result i32)'
    " (loop $again (br $again)) (i32.const 0x100))"
)
"""Computes for ever once it has a connection."""


@pytest.fixture(autouse=True)
def by_threads(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(wasmtime_internals, "FAILURE", "this is a test")


@pytest.fixture
def theater() -> Iterator[Theater]:
    with Theater(stage_settings()) as theater:
        yield theater


def guest_threads() -> list[threading.Thread]:
    return [thread for thread in threading.enumerate() if thread.name.endswith("-guest")]


def echoes(address: str) -> bool:
    with dial(address) as peer:
        peer.sendall(b"hello")
        return receive_exactly(peer, 5) == b"hello"


# -- when it is taken -------------------------------------------------------------------------------------------------

CHANGED = {
    "functions that are gone": "import ctypes, wasmtime._ffi; wasmtime._ffi.dll = ctypes.CDLL(None)",
    "one function that is gone": """
import ctypes, wasmtime
known = ctypes.CFUNCTYPE
def without(result, *arguments):
    kind = known(result, *arguments)
    def function(place, *more):
        if isinstance(place, tuple) and place[0] == "wasmtime_call_future_poll":
            raise AttributeError(place[0])
        return kind(place, *more)
    return function if arguments == (ctypes.c_void_p,) else kind
ctypes.CFUNCTYPE = without
""",
    "a module that is gone": "import sys, wasmtime; del wasmtime._ffi; sys.modules['wasmtime._ffi'] = None",
}

SERVE = """
import logging, socket, sys
logging.basicConfig(format="%(levelname)s %(message)s")
from theater_tcp import Settings, Theater
with Theater(Settings(guest_cache=sys.argv[2])) as theater:
    echo = theater.spawn_guest(sys.argv[1], per_connection=True)
    theater.spawn_guest(sys.argv[1])
    host, port = theater.listen_for(echo, "127.0.0.1:0").address.rsplit(":", 1)
    with socket.create_connection((host, int(port))) as peer:
        peer.sendall(b"hello")
        print(peer.recv(5).decode(), echo.proxy().road.get())
        peer.shutdown(socket.SHUT_WR)
        peer.recv(1)
"""


@pytest.mark.parametrize("change", CHANGED)
def test_where_the_private_parts_of_wasmtime_have_changed_guests_are_served_and_one_warning_says_so(
    change: str,
) -> None:
    program = f"{CHANGED[change]}\n{SERVE}"
    done = subprocess.run(
        [sys.executable, "-c", program, ACTORS / "echo" / "c" / "echo.wasm", cache_folder()],
        capture_output=True,
        text=True,
        check=False,
    )
    assert (done.returncode, done.stdout) == (0, "hello threads\n"), done.stderr
    (line,) = done.stderr.splitlines()
    assert line.startswith(
        "WARNING guests run by the slow road, on a thread each:"
        f" the inner parts of wasmtime {wasmtime_internals.VERSION} are not as they are known: "
    )


def test_a_guest_of_each_kind_is_served(theater: Theater) -> None:
    for language in ("c", "rust", "wat"):
        for per_connection in (False, True):
            echo = theater.spawn_guest(ACTORS / "echo" / language / "echo.wasm", per_connection=per_connection)
            assert echo.proxy().road.get() == "threads"
            address = theater.listen_for(echo, "127.0.0.1:0").address
            assert echoes(address)
            assert echoes(address)


# -- threads ----------------------------------------------------------------------------------------------------------


def test_a_guest_has_a_thread_as_long_as_it_lives_and_no_longer(theater: Theater) -> None:
    program = theater.load_guest(ECHO)
    assert guest_threads() == []
    first, second = theater.spawn_guest(program), theater.spawn_guest(program)
    assert len(guest_threads()) == 2
    first.stop()
    eventually(lambda: len(guest_threads()) == 1)
    second.stop()
    eventually(lambda: guest_threads() == [])


def test_the_end_of_a_runtime_waits_for_the_threads_of_its_guests_whatever_they_do() -> None:
    with Theater(stage_settings()) as theater:
        waiting = theater.spawn_guest(ECHO, per_connection=True, pool=3)
        busy = theater.spawn_guest(SPINS)
        theater.spawn_guest(ECHO)
        for each in (waiting, waiting, busy):
            with dial(theater.listen_for(each, "127.0.0.1:0").address) as peer:
                peer.sendall(b"x")
        eventually(lambda: theater.metrics().accepted == 3)
        assert len(guest_threads()) >= 5
    assert guest_threads() == []
    assert [thread.name for thread in threading.enumerate() if thread.name.startswith(theater.name)] == []


def test_beyond_the_number_of_threads_a_guest_is_refused_and_the_others_go_on(
    theater: Theater, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(thread_road, "MAX_GUESTS", 2)
    address = theater.listen_for(theater.spawn_guest(ECHO, per_connection=True), "127.0.0.1:0").address
    eventually(lambda: guest_threads() == [])
    with dial(address) as one:
        one.sendall(b"1")
        assert receive_exactly(one, 1) == b"1"
        single = theater.spawn_guest(ECHO)
        with pytest.raises(LimitReached, match=r"^limit: threads: 2 guests may run by this road$"):
            theater.spawn_guest(ECHO)
        with pytest.raises(ConnectionResetError), dial(address) as refused:
            refused.recv(1)
        one.sendall(b"2")
        assert receive_exactly(one, 1) == b"2"
        single.stop()
        eventually(lambda: len(guest_threads()) == 1)
        assert echoes(address)
    assert theater.metrics().guest_traps == 0


def test_a_system_without_threads_refuses_a_guest(theater: Theater, monkeypatch: pytest.MonkeyPatch) -> None:
    def no_thread(*_: object) -> None:
        raise RuntimeError("can't start new thread")

    theater.load_guest(ECHO)
    with monkeypatch.context() as patch:
        patch.setattr(thread_road, "_start", no_thread)
        with pytest.raises(LimitReached, match=r"^limit: threads: can't start new thread$"):
            theater.spawn_guest(ECHO)
    theater.spawn_guest(ECHO)


def test_guests_that_follow_each_other_have_the_same_engine(theater: Theater, monkeypatch: pytest.MonkeyPatch) -> None:
    made = []

    class Counted(Cell):
        def __init__(self, *given: object) -> None:
            made.append(given)
            super().__init__(*given)  # type: ignore[arg-type]

    monkeypatch.setattr(thread_road, "Cell", Counted)
    address = theater.listen_for(theater.spawn_guest(ECHO, per_connection=True), "127.0.0.1:0").address
    for _ in range(20):
        eventually(lambda: guest_threads() == [])
        assert echoes(address)
    assert len(made) == 1


def test_a_guest_that_was_stopped_leaves_its_engine_in_order(theater: Theater) -> None:
    program = theater.load_guest(ECHO)
    for _ in range(30):
        theater.spawn_guest(program).stop()
    address = theater.listen_for(theater.spawn_guest(program, per_connection=True, pool=4), "127.0.0.1:0").address
    for _ in range(10):
        assert echoes(address)
    assert theater.metrics().guest_traps == 0


def test_of_engines_that_nobody_uses_some_are_kept_and_the_others_give_back_what_they_have(
    theater: Theater, monkeypatch: pytest.MonkeyPatch
) -> None:
    closed: list[Cell] = []
    close = Cell.close

    def counted(cell: Cell) -> None:
        closed.append(cell)
        close(cell)

    monkeypatch.setattr(Cell, "close", counted)
    monkeypatch.setattr(thread_road, "IDLE_CELLS", 2)
    program = theater.load_guest(ECHO)
    for ref in [theater.spawn_guest(program) for _ in range(5)]:
        ref.stop()
    eventually(lambda: guest_threads() == [])
    assert len(closed) == 3


def test_at_the_end_engines_give_back_what_they_have() -> None:
    engine = Engine("test", 512 << 10)
    program = engine.load(ECHO)
    assert isinstance(program, thread_road.ThreadProgram)
    cell = program.take_cell()
    program.road.give_back(program, cell)
    late = Cell(program.road.make_config(), program.module, program.adapter, (), False)
    engine.close()
    program.road.give_back(program, late)
    for each in (cell, late):
        with pytest.raises(ValueError, match="closed"):
            each.engine.ptr()


# -- stopping ---------------------------------------------------------------------------------------------------------


def test_a_guest_that_waits_in_an_import_can_be_stopped(theater: Theater) -> None:
    echo = theater.spawn_guest(ECHO, per_connection=True, pool=1)
    with dial(theater.listen_for(echo, "127.0.0.1:0").address) as peer:
        peer.sendall(b"x")
        assert receive_exactly(peer, 1) == b"x"
        echo.stop()
    theater.shutdown()
    eventually(lambda: guest_threads() == [])


def test_a_guest_that_computes_for_ever_does_not_stop_others_and_ends_with_its_runtime() -> None:
    with Theater(stage_settings()) as theater:
        busy = theater.spawn_guest(SPINS, limits=Limits(cpu=1000.0))
        address = theater.listen_for(theater.spawn_guest(ECHO), "127.0.0.1:0").address
        with dial(theater.listen_for(busy, "127.0.0.1:0").address) as peer:
            eventually(lambda: theater.metrics().accepted == 1)
            assert echoes(address)
            theater.shutdown()
            assert receive_to_end_or_reset(peer) == b""
    assert guest_threads() == []
    assert theater.metrics().guest_traps == 0


def receive_to_end_or_reset(peer: socket.socket) -> bytes:
    try:
        return receive_to_end(peer)
    except ConnectionResetError:
        return b""


def test_the_cpu_time_of_a_guest_is_its_own_however_many_compute_at_once(theater: Theater) -> None:
    """Guests that share a processor or two take long for what costs each of them little."""
    count = 14
    work = guest(
        imports=["tcp#send"],
        init="(local $n i64) (loop $again (local.set $n (i64.add (local.get $n) (i64.const 1)))"
        " (br_if $again (i64.lt_u (local.get $n) (i64.const 100000000)))) (i32.const 0x100)",
    )
    program = theater.load_guest(work)
    began = time.process_time()
    theater.spawn_guest(program, limits=Limits(cpu=1000.0)).stop()
    alone = time.process_time() - began
    failed: list[BaseException] = []

    def start() -> None:
        try:
            theater.spawn_guest(program, limits=Limits(cpu=4 * alone + 0.1)).stop()
        except BaseException as error:
            failed.append(error)

    threads = [threading.Thread(target=start) for _ in range(count)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert failed == []


def test_a_guest_that_computes_for_too_long_is_ended(theater: Theater, caplog: pytest.LogCaptureFixture) -> None:
    busy = theater.spawn_guest(SPINS, limits=Limits(cpu=0.05))
    with dial(theater.listen_for(busy, "127.0.0.1:0").address) as peer:
        peer.settimeout(TIMEOUT)
        receive_to_end_or_reset(peer)
    eventually(lambda: not busy.is_alive())
    (record,) = [
        record for record in caplog.records if record.levelname == "ERROR" and record.name == "theater_tcp.guest"
    ]
    assert "limit: cpu: it ran for 0.05 s without waiting for anything" in record.getMessage()
    assert record.getMessage().splitlines()[1].endswith("!spin")
    with pytest.raises(LimitReached, match=r"^limit: init: cpu: it ran for 0.05 s"):
        theater.spawn_guest(guest(init="(loop $again (br $again)) (i32.const 0x100)"), limits=Limits(cpu=0.05))


def test_a_start_function_is_watched_too(theater: Theater) -> None:
    spins = guest(more="(func $begin (loop $again (br $again))) (start $begin)")
    with pytest.raises(LimitReached, match=r"^limit: init: cpu: it ran for 0.05 s"):
        theater.spawn_guest(spins, limits=Limits(cpu=0.05))


# -- traps ------------------------------------------------------------------------------------------------------------


def test_a_trap_leaves_nothing_in_what_all_threads_share(theater: Theater) -> None:
    """An exception in a host function would stay in a variable of wasmtime-py's, and be another guest's."""
    hostile = guest(imports=["runtime#self"], init="(call $runtime#self (i32.const -16)) (i32.const 0x100)")
    unreachable = guest(init="unreachable")
    reentrant = guest(
        imports=["runtime#self"],
        allocate="(call $runtime#self (i32.const 0x200)) (i32.const 0x400)",
        init="(call $runtime#self (i32.const 0x200)) (i32.const 0x100)",
    )
    failed: list[str] = []

    def start(content: bytes) -> None:
        try:
            theater.spawn_guest(content)
        except CallbackFailed as error:
            failed.append(error.detail)

    threads = [threading.Thread(target=start, args=(each,)) for each in (hostile, unreachable, reentrant) * 5]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert sorted(failed) == sorted(
        [
            "init: the place for a result at 0xfffffff0 of 8 bytes is outside of the memory of 65536 bytes",
            "init: wasm `unreachable` instruction executed (with 65536 of 67108864 bytes of memory)",
            "init: a guest may not call its host from cabi_realloc or post-return",
        ]
        * 5
    )
    assert wasmtime._func.LAST_EXCEPTION is None
    theater.spawn_guest(ECHO)


def test_a_deep_recursion_ends_its_guest_and_the_stack_is_as_deep_as_is_set(theater: Theater) -> None:
    dive = guest(more=RECURSION, init=f"(drop (call $dive (i32.const {FRAMES}))) (i32.const 0x100)")
    with pytest.raises(CallbackFailed, match=r"^callback: init: call stack exhausted$"):
        theater.spawn_guest(dive)
    with Theater(stage_settings(guest_stack=2 << 20)) as roomy:
        roomy.spawn_guest(dive)


def test_a_guest_whose_thread_is_in_the_middle_of_a_call_when_the_host_fails_ends(theater: Theater) -> None:
    asks = guest(imports=["clock#now"], init="(drop (call $clock#now)) (i32.const 0x100)")
    program = theater.load_guest(asks, ["clock"])
    assert isinstance(program, thread_road.ThreadProgram)

    def fail(_: object) -> int:
        raise ZeroDivisionError("the host failed")

    program.functions[0] = program.functions[0]._replace(method=fail)
    with pytest.raises(ZeroDivisionError, match="the host failed"):
        theater.spawn_guest(program)
    eventually(lambda: guest_threads() == [])


def test_a_stack_beyond_what_this_road_can_have_is_told(caplog: pytest.LogCaptureFixture) -> None:
    with Theater(stage_settings(guest_stack=32 << 20)) as theater:
        theater.spawn_guest(ECHO)
    assert caplog.messages[0] == (
        "guests run by the slow road, on a thread each, and with 2097152 bytes of stack: this is a test"
    )


SMALL_STACKS = """
import sys, threading
from theater_tcp import Settings, Theater
from theater_tcp.errors import CallbackFailed
from theater_tcp.guest import wasmtime_internals
wasmtime_internals.FAILURE = "this is a test"
with Theater(Settings(guest_cache="", guest_stack=2 << 20)) as theater:
    try:
        theater.spawn_guest(bytes.fromhex(sys.argv[1]))
    except CallbackFailed as error:
        print(error, threading.stack_size())
"""


@pytest.mark.parametrize("limit", [256 << 10, resource.RLIM_INFINITY])
def test_the_stack_of_a_guest_does_not_depend_on_the_limit_of_the_process(limit: int) -> None:
    dive = guest(more=RECURSION, init="(drop (call $dive (i32.const 10000000))) (i32.const 0x100)")
    _, hard = resource.getrlimit(resource.RLIMIT_STACK)
    soft = limit if hard == resource.RLIM_INFINITY else hard if limit == resource.RLIM_INFINITY else min(hard, limit)
    done = subprocess.run(
        [sys.executable, "-c", SMALL_STACKS, dive.hex()],
        preexec_fn=lambda: resource.setrlimit(resource.RLIMIT_STACK, (soft, hard)),
        capture_output=True,
        text=True,
        check=False,
    )
    assert (done.returncode, done.stdout) == (0, "callback: init: call stack exhausted 0\n"), done.stderr


def test_imports_that_are_answered_at_once_are_no_waiting(theater: Theater) -> None:
    asks = guest(imports=["clock#now"], init="(loop $again (drop (call $clock#now)) (br $again)) (i32.const 0x100)")
    with pytest.raises(LimitReached, match=r"^limit: init: cpu: it ran for 0.05 s"):
        theater.spawn_guest(asks, grants=["clock"], limits=Limits(cpu=0.05))


WASI = """(module
  (import "wasi_snapshot_preview1" "poll_oneoff" (func $poll (param i32 i32 i32 i32) (result i32)))
  (import "wasi_snapshot_preview1" "random_get" (func $random (param i32 i32) (result i32)))
  (memory (export "memory") 1)
  (data (i32.const 0x20) "\\ff\\ff\\ff\\ff")
  (func (export "theater:simple/actor#init") (param i32 i32) (result i32)
    (if (call $poll (i32.const 0) (i32.const 0) (i32.const 1) (i32.const 0x20)) (then unreachable))
    (if (i32.load (i32.const 0x20)) (then unreachable))
    (if (i32.ne (call $poll (i32.const 0) (i32.const 0) (i32.const 1) (i32.const -2)) (i32.const 21))
      (then unreachable))
    (if (call $random (i32.const 0x20) (i32.const 4)) (then unreachable))
    (i32.const 0x100))
  (func (export "cabi_realloc") (param i32 i32 i32 i32) (result i32) (i32.const 0x400)))"""


def test_a_guest_with_wasi_has_randomness_and_can_not_sleep_where_nobody_can_stop_it(theater: Theater) -> None:
    theater.spawn_guest(wasm(WASI), grants=["wasi"])
