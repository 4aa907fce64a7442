"""Guests as owners on the stage of the contract's tests: what a test lets an owner do is done by a puppet.

A :class:`GuestStage` is a :class:`~tests.support.Stage` whose owners may be guests: their kinds are the names of the
roads. A test can treat such an owner as any other: ``owner.call(connection.receive, 100)`` goes over the puppet's
control connection into the guest, which calls its import, and back. What is done inside of one ``call`` or ``act``, and
inside of a hook, is done in one turn of the guest.
"""

from __future__ import annotations

import atexit
import functools
import queue
import re
import shutil
import socket
import struct
import tempfile
import threading
from typing import TYPE_CHECKING, Any

import pykka

from tests.guests import roads
from tests.guests.abi import Lifter, flatten
from tests.guests.wat_guests import CALLBACKS, IMPORTS, RET, TAIL, Word, call_frame, puppet, write_frame
from tests.peers import TIMEOUT, eventually
from tests.support import Heard, Owner, Script, Stage, result_of
from theater_tcp import Settings
from theater_tcp.errors import TheaterError, by_kind
from theater_tcp.guest_settings import Limits
from theater_tcp.metrics import Metrics

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable

__all__ = [
    "GAP",
    "Gone",
    "GuestHandle",
    "GuestListener",
    "GuestOwner",
    "GuestStage",
    "Strings",
    "error_of",
    "stage_settings",
]

HEARD = {name: name.replace("-", "_") for name in CALLBACKS}
PIECE = 1 << 17
"""Bytes that one frame to a puppet carries at most."""
GAP = 16
"""Pages between what the puppet allocates for itself and what is put behind it."""
WHERE = re.compile("^callback: [a-z-]+: ")
"""A guest's own error is told with the export's name, a Python actor's is not: tests that hold for both don't look at
that."""


class Gone(Exception):
    """The guest has ended, or its control connection has."""


def error_of(text: str) -> TheaterError:
    """The exception for the text of an error."""
    kind, _, detail = text.partition(": ")
    return by_kind[kind](detail)


class Control:
    """The test's end of a puppet's control connection.

    Args:
        sock: the connection.
        told: called with each event, on a thread of its own: the callback's number, the id, the data.
    """

    def __init__(self, sock: socket.socket, told: Callable[[int, bytes, bytes], None]) -> None:
        self._socket = sock
        self._told = told
        self._answers: queue.SimpleQueue[bytes | None] = queue.SimpleQueue()
        self._thread = threading.Thread(target=self._read, name="puppet", daemon=True)
        self._thread.start()

    def tell(self, frame: bytes) -> None:
        """Send a frame that is not answered.

        Raises:
            Gone: there is nobody any more.
        """
        try:
            self._socket.sendall(struct.pack(">I", len(frame)) + frame)
        except OSError as error:
            raise Gone(str(error)) from None

    def ask(self, frame: bytes) -> bytes:
        """Send a frame; returns the answer to it.

        Raises:
            Gone: the guest has ended meanwhile.
        """
        self.tell(frame)
        return self.answer()

    def answer(self) -> bytes:
        """The next answer."""
        try:
            answer = self._answers.get(timeout=TIMEOUT)
        except queue.Empty:
            raise AssertionError("the puppet does not answer") from None
        if answer is None:
            self._answers.put(None)
            raise Gone("the guest has ended")
        return answer

    def hang_up(self) -> None:
        """End it."""
        try:
            self._socket.shutdown(socket.SHUT_RDWR)
        except OSError:
            pass  # the other end was faster
        self._thread.join(TIMEOUT)
        self._socket.close()

    @property
    def open(self) -> bool:
        """Whether the guest's end of it is open."""
        return self._thread.is_alive()

    def wait_for_end(self) -> None:
        """Wait until the guest's end of it is closed."""
        self._thread.join(TIMEOUT)
        assert not self._thread.is_alive(), "the guest lives on"

    def _read(self) -> None:
        with self._socket.makefile("rb") as stream:
            try:
                while len(head := stream.read(4)) == 4:
                    frame = stream.read(int.from_bytes(head, "big"))
                    if frame[:1] == b"R":
                        self._answers.put(frame[1:])
                    else:
                        end = 2 + frame[1]
                        self._told(frame[0] - 0x30, frame[2:end], frame[end:])
            except OSError:
                pass  # a guest that is reset is as much at its end as any
        self._answers.put(None)


class Strings:
    """How texts go into a guest and out of it: its encoding."""

    def __init__(self, codec: str = "utf-8", unit: int = 1) -> None:
        self.codec = codec
        self.unit = unit

    def encode(self, text: str) -> bytes:
        """A text as the guest has it."""
        return text.encode(self.codec)

    def decode(self, data: bytes) -> str:
        """The text that the guest has as these bytes."""
        return data.decode(self.codec)


UTF8 = Strings()


class GuestHandle:
    """A connection of a guest, with the names of :class:`~theater_tcp.tcp.ConnectionHandle`."""

    def __init__(self, owner: GuestOwner, connection_id: str) -> None:
        self._owner = owner
        self.id = connection_id
        self.actor_ref = pykka.ActorRegistry.get_by_urn(connection_id)
        """The reference of the connection's actor; None if it had ended when the handle was made."""

    @property
    def _core(self) -> Any:
        """The connection itself: for a test that has to know who waits."""
        for connection in list(self._owner.stage.theater.network.connections):
            if connection.known_as(self.id):
                return connection
        return None

    @property
    def peer_address(self) -> Any:
        return self._owner.do("tcp#peer-address", self.id)

    @property
    def local_address(self) -> Any:
        return self._owner.do("tcp-ext#local-address", self.id)

    @property
    def tls_info(self) -> Any:
        return self._owner.do("tcp-ext#tls-info", self.id)

    @property
    def tls_available(self) -> Any:
        return self._owner.do("tcp-ext#tls-available", self.id)

    def activate(self) -> None:
        self._owner.do("tcp#activate", self.id)

    def set_active(self, mode: str | int) -> None:
        self._owner.do("tcp#set-active", self.id, str(mode))

    def transfer(self, target: Any) -> None:
        self._owner.do("tcp#transfer", self.id, target if isinstance(target, str) else target.actor_urn)

    def send(self, data: bytes | bytearray | memoryview) -> Any:
        return self._owner.do("tcp#send", self.id, bytes(data))

    def receive(self, max_bytes: int) -> Any:
        return self._owner.do("tcp#receive", self.id, max_bytes)

    def shutdown_write(self) -> None:
        self._owner.do("tcp-ext#shutdown-write", self.id)

    def set_framing(self, framing: str, max_frame: int | None = None) -> None:
        self._owner.do("tcp-ext#set-framing", self.id, framing, max_frame or 0)

    def set_options(self, **options: Any) -> None:
        for name, value in options.items():
            self._owner.do("tcp-ext#set-option", self.id, name, _as_text(value))

    def upgrade_to_tls_server(self) -> None:
        self._owner.do("tcp#upgrade-to-tls-server", self.id)

    def upgrade_to_tls_client(self, server_name: str) -> None:
        self._owner.do("tcp#upgrade-to-tls-client", self.id, server_name)

    def close(self) -> None:
        self._owner.do("tcp#close", self.id)

    def abort(self) -> None:
        self._owner.do("tcp-ext#abort", self.id)


class GuestListener:
    """A listener of a guest, with the names of :class:`~theater_tcp.tcp.ListenerHandle`."""

    def __init__(self, owner: GuestOwner, listener_id: str) -> None:
        self._owner = owner
        self.id = listener_id
        self.address = owner.stage.address_of(listener_id)

    @property
    def _core(self) -> Any:
        return self._owner.stage.theater.network.listeners.get(self.id)

    def accept(self) -> Any:
        return self._owner.handle(self._owner.do("tcp#accept", self.id))

    def close(self) -> None:
        self._owner.do("tcp#close-listener", self.id)


class GuestOwner(Owner):
    """An owner that is a puppet.

    Args:
        stage: where it lives.
        road: by which road it runs.
        without: callbacks that it does not implement.
        hooks: as for :class:`~tests.support.Owner`; a callback with a hook is held while the hook runs.
        hold: more callbacks to hold, by the names of the exports; the test lets them return.
        strings: how the guest has its texts.
        spawn: for ``Theater.spawn_guest``.
    """

    def __init__(
        self,
        stage: GuestStage,
        road: str,
        without: Iterable[str] = (),
        hooks: dict[str, Callable[..., Any]] | None = None,
        hold: Iterable[str] = (),
        strings: Strings = UTF8,
        **spawn: Any,
    ) -> None:
        self.stage: GuestStage = stage
        self.kind = road
        self.script = Script(hooks or {})
        self.strings = strings
        self._hold = {*hold, *(name for name in CALLBACKS if HEARD[name] in self.script.hooks)}
        self._lifter = Lifter(strings)
        self._handles: dict[str, GuestHandle] = {}
        self._jobs: queue.SimpleQueue[Callable[[], None] | None] = queue.SimpleQueue()
        self._mine = threading.Thread(target=self._work, name="puppeteer", daemon=True)
        self._mine.start()
        spawn.setdefault("guest", stage.program(road, tuple(name.replace("_", "-") for name in without), strings))
        mask = sum(1 << number for number, name in enumerate(CALLBACKS) if name in self._hold)
        with socket.create_server(("127.0.0.1", 0)) as door:
            door.settimeout(TIMEOUT)
            address = f"127.0.0.1:{door.getsockname()[1]}"
            config = b"c" + bytes((mask,)) + strings.encode(address)
            self.ref = stage.theater.spawn_guest(config=config, **{"permissions": None, **spawn})
            sock, _ = door.accept()
        sock.settimeout(None)
        sock.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        self.control = Control(sock, self._told)
        stage.puppets.append(self)
        self.last_reason = ""
        """What the last ``on-close`` was told, word by word."""
        self.init = self.script.heard.get(timeout=TIMEOUT)

    # -- as an owner ----------------------------------------------------------------------------------------------

    def begin(self, call: Callable[..., Any], *args: Any, **kwargs: Any) -> pykka.Future[Any]:
        outcome: pykka.ThreadingFuture[Any] = pykka.ThreadingFuture()
        waiting = _waiting(call)

        def job() -> None:
            try:
                self.control.ask(b"H")
                try:
                    value = result_of(call(*args, **kwargs))
                finally:
                    self.control.tell(b"O")
                outcome.set(value)
            except BaseException:
                outcome.set_exception()
            finally:
                over.append(True)

        over: list[bool] = []
        self._jobs.put(job)
        if waiting is not None:
            self.stage.until(lambda: bool(over) or _waiting(call) != waiting)
        return outcome

    def call(self, call: Callable[..., Any], *args: Any, **kwargs: Any) -> Any:
        return self.begin(call, *args, **kwargs).get(timeout=TIMEOUT)

    def act(self, call: Callable[[Any], Any]) -> Any:
        return self.begin(call, self).get(timeout=TIMEOUT)

    def listen(self, address: str = "127.0.0.1:0", **options: Any) -> Any:
        if options:
            return self.stage.theater.listen_for(self.ref, address, **options)
        return GuestListener(self, self.call(self.do, "tcp#listen", address))

    def connect(self, address: str, timeout: float | None = None, **options: Any) -> Any:
        assert timeout is None, "the interface has no timeout for a connect"
        handle = self.handle(self.call(self.do, "tcp#connect", address))
        if options:
            self.call(handle.set_options, **options)
        return handle

    @property
    def actor_ref(self) -> pykka.ActorRef[Any]:
        """What a hook asks its actor for."""
        return self.ref

    def handle(self, connection_id: str) -> GuestHandle:
        """The handle of a connection, always the same."""
        return self._handles.setdefault(connection_id, GuestHandle(self, connection_id))

    # -- as a guest ----------------------------------------------------------------------------------------------

    def do(self, function: str, *args: Any) -> Any:
        """Let the guest call an import; on the puppet's thread, so inside of ``call``, ``act`` or a hook.

        Raises:
            TheaterError: the error that the guest got, made from its text.
            Gone: the guest did not survive it.
        """
        assert threading.current_thread() is self._mine, f"{function} is for the guest to call: owner.call(...)"
        words, mask, tail = flatten(args, self.strings, TAIL)
        result, ret = self.raw(function, words, mask, tail)
        return self._lifter.lift(function, result, ret, self.read)

    def calls(self, function: str, *args: Any) -> Any:
        """As :meth:`do`, in a turn of its own."""
        return self.call(self.do, function, *args)

    def refused(self, function: str, *args: Any) -> str:
        """The text of the error that a call gives, and nothing else does."""
        try:
            value = self.calls(function, *args)
        except TheaterError as error:
            return str(error)
        raise AssertionError(f"{function} gave {value!r}, an error was expected")

    def calls_raw(self, function: str, *words: int) -> tuple[int, bytes]:
        """As :meth:`raw`, in a turn of its own."""
        return self.call(self.raw, function, list(words))  # type: ignore[no-any-return]

    def raw(self, function: str, words: list[int], mask: int = 0, tail: bytes = b"") -> tuple[int, bytes]:
        """Let the guest call an import with core values.

        Args:
            function: its name, as ``tcp#send``.
            words: the values, without the address of the result where there are too few.
            mask: bits of the words that are offsets into ``tail``'s frame.
            tail: bytes for the guest's memory.

        Returns:
            the core result, and what is where the result was to be put.
        """
        if len(tail) > PIECE:  # more than a frame may carry
            place = (self.grow(GAP + (-(-len(tail) >> 16))) + GAP << 16) - TAIL
            assert place > GAP << 16, "the guest has no memory for it"
            for start in range(0, len(tail), PIECE):
                self.write(place + TAIL + start, tail[start : start + PIECE])
            words = [word + place if mask >> number & 1 else word for number, word in enumerate(words)]
            mask, tail = 0, b""
        wanted = len(IMPORTS[function][0].split())
        words = [*words, *([RET] if len(words) < wanted else [])]
        assert len(words) == wanted, f"{function} takes {wanted} words"
        answer = self.control.ask(call_frame(function, *words, mask=mask, tail=tail))
        return int.from_bytes(answer[:8], "little"), answer[8:]

    def read(self, address: int, size: int) -> bytes:
        """Bytes of the guest's memory."""
        return self.control.ask(struct.pack("<cII", b"R", address, size)) if size else b""

    def write(self, address: int, data: bytes) -> None:
        """Put bytes into the guest's memory."""
        self.control.ask(write_frame(address, data))

    def set_word(self, word: Word, value: int) -> None:
        """Change how the guest behaves."""
        self.write(word, struct.pack("<I", value))

    def grow(self, pages: int) -> int:
        """Let it ask for more memory; the pages it had, or -1."""
        return int.from_bytes(self.control.ask(struct.pack("<cI", b"G", pages))[:8], "little", signed=True)

    def grow_table(self, elements: int) -> int:
        """Let it ask for a larger table; the elements it had, or -1."""
        return int.from_bytes(self.control.ask(struct.pack("<cI", b"B", elements))[:8], "little", signed=True)

    def fill(self, address: int, byte: int, size: int) -> None:
        """Let it fill a part of its memory."""
        self.control.ask(struct.pack("<cIII", b"F", address, byte, size))

    def returns_error(self, text: str | bytes, length: int | None = None) -> None:
        """The callback that is held returns an error; its text may be any bytes."""
        data = text if isinstance(text, bytes) else self.strings.encode(text)
        length = len(data) // self.strings.unit if length is None else length
        self.control.tell(struct.pack("<cI", b"E", length) + data)

    def returns_ok(self) -> None:
        """The callback that is held returns ok."""
        self.control.tell(b"O")

    def returns_address(self, address: int) -> None:
        """The callback that is held returns this."""
        self.control.tell(struct.pack("<cI", b"P", address))

    def traps(self, how: bytes = b"T") -> None:
        """The guest traps: T by an instruction, D by recursion, 0 by a division, M by its memory, I by its table."""
        self.control.tell(how + struct.pack("<I", 0xFFFF_FF00))

    def loops(self) -> None:
        """The guest runs and never ends."""
        self.control.tell(b"L")

    def works(self, rounds: int) -> None:
        """The guest counts; :meth:`Control.answer` comes when it is done."""
        self.control.tell(struct.pack("<cQ", b"X", rounds))

    def ends(self) -> None:
        """Wait for its end."""
        self.control.wait_for_end()
        self.stage.until(lambda: not self.ref.is_alive())

    def close(self) -> None:
        """Hang up, when the test is over."""
        self.control.hang_up()
        self._jobs.put(None)
        self._mine.join(TIMEOUT)

    # -- inside ---------------------------------------------------------------------------------------------------

    def _told(self, number: int, connection_id: bytes, data: bytes) -> None:
        name = CALLBACKS[number]
        handle = self.handle(self.strings.decode(connection_id))
        value: Any = data if name == "on-data" else None
        if name == "on-close":
            self.last_reason = self.strings.decode(data)
            value = WHERE.sub("callback: ", self.last_reason)
        if HEARD[name] in self.script.hooks:
            self._jobs.put(lambda: self._hook(HEARD[name], handle, value))
        else:
            self.script.heard.put(Heard(HEARD[name], handle, value))

    def _hook(self, name: str, handle: GuestHandle, value: Any) -> None:
        error = ""
        try:
            result_of(self.script.hear(self, name, handle, value))
        except TheaterError as failed:
            error = str(failed)
        except Exception as failed:
            error = type(failed).__name__
        try:
            if error:
                self.returns_error(error)
            else:
                self.returns_ok()
        except Gone:
            pass  # it ended meanwhile; whoever looks for it will see

    def _work(self) -> None:
        while (job := self._jobs.get()) is not None:
            job()


@functools.cache
def cache_folder() -> str:
    """Where compiled guests are kept for the run of the tests in this process."""
    folder = tempfile.mkdtemp(prefix="theater-tcp-guests-")
    atexit.register(shutil.rmtree, folder, ignore_errors=True)
    return folder


def stage_settings(**changes: Any) -> Settings:
    """What a stage with guests has for settings, but for these changes."""
    return Settings(**{"drain_timeout": 0, "guest_cache": cache_folder(), **changes})


class GuestStage(Stage):
    """A stage whose owners may be guests; see :class:`~tests.support.Stage`.

    Args:
        settings: of the Theater; see :func:`stage_settings`.
    """

    def __init__(self, settings: Settings | None = None) -> None:
        super().__init__(settings if settings is not None else stage_settings())
        self.foreseen.add("theater_tcp.future")  # the failed start of a guest, which its spawner has heard of
        self.puppets: list[GuestOwner] = []
        self._count = self.theater.metrics
        vars(self.theater)["metrics"] = self._metrics

    def owner(self, kind: str = "loop", *, without: Iterable[str] = (), **hooks: Any) -> Any:
        """A new actor: of one of the usual kinds, or a guest by the road of this name."""
        if kind not in roads.ROADS:
            return super().owner(kind, without=without, **hooks)
        return GuestOwner(self, kind, without, hooks)

    def guest(self, road: str, **options: Any) -> GuestOwner:
        """A new puppet; see :class:`GuestOwner`."""
        return GuestOwner(self, road, **options)

    def program(self, road: str, without: tuple[str, ...] = (), strings: Strings = UTF8) -> Any:
        """The puppet, compiled for this stage's Theater."""
        return roads.load(self.theater, road, puppet(None, without, strings.unit), strings.codec)

    def load(self, road: str, content: bytes, grants: Iterable[str] = ()) -> Any:
        """A guest that is no puppet, or one of another kind, compiled."""
        return roads.load(self.theater, road, content, grants=tuple(grants))

    def spawn(self, road: str, content: bytes, config: bytes = b"", limits: Limits | None = None, **more: Any) -> Any:
        """Start a guest that is no puppet."""
        program = roads.load(self.theater, road, content)
        return self.theater.spawn_guest(program, config, limits=limits, **{"permissions": None, **more})

    def guest_errors(self) -> list[str]:
        """What was logged of guests as errors."""
        return [line for name, line in self.log.errors if name == "theater_tcp.guest"]

    def foresee_guest_errors(self) -> None:
        """The test lets guests trap."""
        self.foreseen.add("theater_tcp.guest")

    def _metrics(self) -> Metrics:
        """As ``Theater.metrics``, without the connections by which the puppets are moved."""
        metrics = self._count()
        living = sum(puppet.control.open for puppet in self.puppets)
        metrics.connected -= len(self.puppets)
        metrics.closed -= len(self.puppets) - living
        metrics.connections -= living
        return metrics

    def address_of(self, listener_id: str) -> str:
        """Where a listener listens."""
        return next(info.address for info in self.theater.listeners() if info.id == listener_id)

    def in_background(self, call: Callable[[], Any]) -> Callable[[], Any]:
        """Begin something on a thread of its own; what is returned waits for it, and returns or raises what it did."""
        outcome: pykka.ThreadingFuture[Any] = pykka.ThreadingFuture()

        def run() -> None:
            try:
                outcome.set(call())
            except BaseException:
                outcome.set_exception()

        threading.Thread(target=run, name="background", daemon=True).start()
        return lambda: outcome.get(timeout=TIMEOUT)

    def until(self, condition: Callable[[], bool]) -> None:
        """Wait until something that no event tells of has come to pass, at the next look of the loop or a later one."""
        eventually(condition)

    def close(self, check: bool = True) -> None:
        super().close(check)
        for each in self.puppets:
            each.close()


def _waiting(call: Callable[..., Any]) -> int | None:
    name, core = getattr(call, "__name__", ""), getattr(getattr(call, "__self__", None), "_core", None)
    if core is None or name not in {"receive", "accept"}:
        return None
    return len(core._accepts) if name == "accept" else int(core._receiver is not None)


def _as_text(value: Any) -> str:
    if value is None:
        return "null"
    return str(value).lower() if isinstance(value, bool) else str(value)
