"""The Connection actor: one live stream, its owner, and what the owner hears of it and when.

Theory of operation. The owner's callbacks are turns of the *owner*; what they are about is decided here, at the moment
when the turn begins, by :meth:`Connection.next_callback`: an announcement, the word that the count ran out, a chunk,
the end; in this order. If the owner lives on the same loop and is idle, its turn is taken at once, in the I/O handler
of the socket; else a :class:`~theater_tcp.messages.Turn` goes into its mailbox, at most one for each connection. So
data is never on its way anywhere: it is with the kernel, in the input buffer, or handled. That is why ``set_active``,
``transfer`` and ``once`` are exact, and why a slow owner slows its peer down.

Calls of the owner come through a handle, made for one owner and one stretch of ownership (:mod:`theater_tcp.tcp`); a
handle that is not :attr:`Connection.handle` any more is a stranger's.
"""

from __future__ import annotations

import logging
from types import CoroutineType
from typing import TYPE_CHECKING, Any

from theater_tcp import errors
from theater_tcp.actor import Interrupted, LoopActor
from theater_tcp.connection_state import Event, Mode, Phase, parse_mode
from theater_tcp.errors import (
    Busy,
    Closed,
    InvalidArgument,
    LimitReached,
    NoSuchActor,
    NotFound,
    NotOwner,
    TheaterError,
    TimedOut,
)
from theater_tcp.framing import InputBuffer, frame, prefix_size
from theater_tcp.future import Future
from theater_tcp.messages import Callback, Turn
from theater_tcp.network import READ_BUFFER_SIZE
from theater_tcp.poller import READ
from theater_tcp.settings import Options, check_field
from theater_tcp.transport import Transport, apply_to_socket, reset_on_close

if TYPE_CHECKING:
    import socket
    from collections.abc import Coroutine

    from theater_tcp.network import Network
    from theater_tcp.ownership import Owner

__all__ = ["Connection"]

logger = logging.getLogger("theater_tcp.connection")

BURST = 16
"""Callbacks in one turn that was taken on the spot, before other sockets have theirs."""

BULK = 32 << 10
"""Bytes of one read from which on the next is made without the shared buffer."""

MAX_RECEIVE = (1 << 32) - 1
"""The largest ``max`` of a ``receive``: the interface has it as u32."""


class Connection(Transport):
    """One connection. Its id is its actor's URN. All methods run on the loop's thread.

    Args:
        network, sock, peer, options, phase: see :class:`~theater_tcp.transport.Transport`.
        owner: who may operate it.
        listener: the listener that accepted it, if one did.
    """

    __slots__ = (
        "_announcement",
        "_awaits_activation",
        "_close_told",
        "_count_ran_out",
        "_in_callback",
        "_input",
        "_leftover",
        "_receiver",
        "_turn",
        "bulk",
        "direct",
        "handle",
        "listener",
        "owner",
    )

    _actor_begun = True  # there is nothing to start

    def __init__(
        self,
        network: Network,
        sock: socket.SocketType,
        peer: Any,
        options: Options,
        phase: Phase,
        owner: Owner,
        listener: Any = None,
    ) -> None:
        Transport.__init__(self, network, sock, peer, options, phase)
        self.owner: Owner | None = owner
        self.listener = listener
        self.handle: Any = owner.handle_for(self)
        self._announcement: str | None = None  # the callback that tells the owner of the connection
        self._awaits_activation = False  # a deadline is set
        self._count_ran_out = False
        self._close_told = False
        self._in_callback = False
        self._input: InputBuffer | None = None
        self._leftover = b""  # the end of a chunk that was larger than the `max` of a receive
        self._receiver: tuple[Future[bytes], int, float | None] | None = None
        self._turn: Turn | None = None
        self.bulk = False  # the last read was of BULK bytes or more
        self.direct = False  # active, raw, nothing buffered, owner on this loop: a readable socket is a turn
        owner.connections[self] = None
        network.connections[self] = None
        network.registry[self._actor_ref] = None
        self.actor_inbox.scheduled = False
        if phase is Phase.OPEN:
            self._refresh()

    # -- turns of the owner -----------------------------------------------------------------------------------------

    def on_ready(self, mask: int) -> None:
        """The socket is ready. The short way through here is the one that most bytes of the world take."""
        if self.direct and mask == READ:
            actor: Any = self.owner.loop_actor  # type: ignore[union-attr]  # direct says that there is one
            box = actor.actor_inbox
            if not box.scheduled:
                network = self.network
                try:
                    if self.bulk:  # much at a time: the copy costs more than the allocation, and it's the other way
                        data = self.sock.recv(READ_BUFFER_SIZE)  # round for little
                    else:
                        data = network.read_buffer[: self.sock.recv_into(network.read_buffer)]
                except (BlockingIOError, InterruptedError):
                    return
                except OSError as error:
                    self.broken(error)
                    return
                if data:
                    self.bulk = len(data) >= BULK
                    self.last_activity = network.loop.now
                    box.scheduled = True
                    owner = self.owner
                    try:
                        outcome = actor.on_data(self.handle, data)
                        if outcome.__class__ is CoroutineType and not self._drive(actor, outcome, "on_data"):
                            return
                    except BaseException as error:
                        self._called(owner, "on_data", error)
                        self.settle()
                    box.rest()
                    return
                self.eof = True  # `direct` says that nothing was cut
                if "on_close" not in self.owner.heard and not self.options.half_open:  # type: ignore[union-attr]
                    self._close_told = True
                    self._end_was_heard()
                    return
                self.stream_ended()
                return
        Transport.on_ready(self, mask)

    @property
    def wants_data(self) -> bool:
        """Whether the owner is ready for data: it waits in ``receive``, or data is pushed and no turn is on its way."""
        if self._receiver is not None:
            return True
        state = self.state
        return state.phase is Phase.OPEN and state.mode is not Mode.PASSIVE and self._turn is None

    def data_ready(self) -> None:
        """The socket is readable and somebody wants it."""
        if self._receiver is not None:
            self._serve_receiver()
        else:
            self.offer(at_once=True, readable=True)

    def stream_ended(self) -> None:
        """The peer has ended, or the socket failed: whoever waits is told."""
        if self._receiver is not None:
            self._serve_receiver()
        self._refresh()
        self.offer(at_once=True)

    def announce(self, callback: str) -> None:
        """Tell the owner of this connection by ``handle_connection``, through its mailbox."""
        self._announcement = callback
        self.offer()

    def introduce(self, actor: Any) -> None:
        """Call the ``handle_connection`` of an idle owner on the loop, at once: the connection's first turn."""
        owner = self.owner
        box = actor.actor_inbox
        box.scheduled = self._in_callback = True
        try:
            outcome = actor.handle_connection(self.handle)
        except BaseException as error:
            self._in_callback = False
            self._called(owner, "handle_connection", error)
        else:
            self._in_callback = False
            if outcome.__class__ is CoroutineType and not self._drive(actor, outcome, "handle_connection"):
                return
        box.rest()
        self.settle()

    def offer(self, at_once: bool = False, readable: bool = False) -> None:
        """Give the owner a turn, if there is something for it.

        Args:
            at_once: take the turn on the spot if the owner is idle; only from an I/O handler, never inside of
                another actor's turn.
            readable: whether the kernel has something, which is wanted.
        """
        owner = self.owner
        if owner is None or self._turn is not None:
            return
        if at_once:
            actor = owner.loop_actor
            if actor is not None and not actor.actor_inbox.scheduled:
                actor.actor_inbox.scheduled = True
                self._run_burst(actor, owner)
                return
        if readable or self._has_news():
            turn = Turn(self)
            if owner.tell(turn):  # else its life is over, and owner_ended() is on its way
                self._turn = turn

    def take_turn(self, turn: Turn, actor: LoopActor) -> Coroutine[Any, Any, None] | None:
        """The owner on the loop handles a turn out of its mailbox; a coroutine is to be awaited by it."""
        callback = self.begin(turn)
        if callback is None:
            return None
        owner = self.owner
        self._in_callback = True
        try:
            outcome = getattr(actor, callback.name)(*callback.arguments)
        except BaseException as error:
            self._in_callback = False
            self.end(owner, callback.name, error)
            return None
        self._in_callback = False
        if outcome.__class__ is CoroutineType:
            return self._guarded(outcome, owner, callback.name)
        self.end(owner, callback.name, None)
        return None

    def begin(self, turn: Turn) -> Callback | None:
        """The callback that ``turn`` is about now, if it is about any."""
        if self._turn is not turn:
            return None
        self._turn = None
        callback = self.next_callback()
        if callback is None:
            self.settle()
        return callback

    def end(self, owner: Owner | None, name: str, error: BaseException | None) -> None:
        """A callback that :meth:`begin` gave has returned or raised."""
        self._called(owner, name, error)
        self.settle()

    def next_callback(self) -> Callback | None:
        """What the owner is to hear next; with it, it counts as heard."""
        if self._announcement is not None:
            name, self._announcement = self._announcement, None
            if self.listener is not None:
                self.listener.heard_of(self)
            return Callback(name, (self.handle,))
        if self._count_ran_out:
            self._count_ran_out = False
            return Callback("on_passive", (self.handle,))
        if self.state.pushes:
            chunk = self._next_chunk()
            if chunk:
                owner = self.owner
                self._count_ran_out = self.state.hand_over() and owner is not None and owner.hears("on_passive")
                if self.direct:
                    self._refresh()
                return Callback("on_data", (self.handle, chunk))
        if self._end_is_due():
            return self._tell_end()
        return None

    def settle(self) -> None:
        """After a turn: the next one if there is news, and wait for what is wanted now."""
        if self.owner is not None and self._turn is None:
            self._refresh()
            if self.direct and self.output is None:  # nothing buffered, nothing to tell: what is left is to read
                if self.interest != READ:
                    self._set_interest(READ)
                return
            if self._has_news():
                self.offer()
        self.update_interest()

    def _run_burst(self, actor: LoopActor, owner: Owner) -> None:
        box = actor.actor_inbox
        for _ in range(BURST):
            callback = self.next_callback()
            if callback is None:
                break
            self._in_callback = True
            try:
                outcome = getattr(actor, callback.name)(*callback.arguments)
            except BaseException as error:
                self._in_callback = False
                self._called(owner, callback.name, error)
            else:
                self._in_callback = False
                if outcome.__class__ is CoroutineType:
                    if not self._drive(actor, outcome, callback.name):
                        return
                else:
                    self._called(owner, callback.name, None)
            if self.owner is not owner or box.queue:
                break
        box.rest()
        self.settle()

    def _drive(self, actor: LoopActor, coroutine: CoroutineType[Any, Any, Any], name: str) -> bool:
        owner = self.owner
        if actor.actor_drive(coroutine, lambda _, error: self.end(owner, name, error)):
            return True
        self.update_interest()
        return False

    async def _guarded(self, coroutine: CoroutineType[Any, Any, Any], owner: Owner | None, name: str) -> None:
        """An async callback that was begun out of the mailbox: its failure ends this connection, not the actor."""
        try:
            await coroutine
        except GeneratorExit:
            raise
        except BaseException as error:
            self.end(owner, name, error)
        else:
            self.end(owner, name, None)

    def _called(self, owner: Owner | None, name: str, error: BaseException | None) -> None:
        if isinstance(error, Interrupted):
            if self.owner is owner:
                self.abort_for_shutdown()
            return
        if error is not None:
            self.network.metrics.callback_failures += 1
            logger.error("%s of %s failed for %s", name, owner, self.peer_address(), exc_info=error)
            if not isinstance(error, Exception) and owner is not None and owner.loop_actor is not None:
                owner.loop_actor.actor_end_everything(error)
        if self.owner is not owner or owner is None:
            return  # closed or transferred by the callback: it isn't this owner's any more
        if name == "on_close":
            self._end_was_heard()
        elif error is not None:
            self.fail(f"callback: {type(error).__name__}", flush=True)

    def _has_news(self) -> bool:
        if self._announcement is not None or self._count_ran_out:
            return True
        if self.state.pushes and (self._leftover or self._input):
            return self._input_has_chunk()
        return self._end_is_due()

    def _end_is_due(self) -> bool:
        if self._close_told or not (self.eof or self.reason is not None):
            return False
        return self.state.phase is Phase.CLOSING or not (self._leftover or self._input)

    def _tell_end(self) -> Callback | None:
        self._close_told = True
        if self.reason is not None and self.state.phase is not Phase.CLOSING:
            self.state.apply(Event.FAIL)
        if not self.owner.hears("on_close"):  # type: ignore[union-attr]
            self._end_was_heard()
            return None
        return Callback("on_close", (self.handle, self.reason or "eof"))

    def _end_was_heard(self) -> None:
        if self.state.phase is Phase.CLOSING:
            self._leave_owner()
            self._end_if_done()
        elif not self.options.half_open:
            self.state.apply(Event.CLOSE)
            self._leave_owner()
            if self.output is None:
                self.release_socket()  # the peer has ended, and all is said
            else:
                self.finish()

    # -- data -----------------------------------------------------------------------------------------------------

    def _refresh(self) -> None:
        """Work out anew what the short ways depend on."""
        state, options, owner = self.state, self.options, self.owner
        if state.phase is not Phase.OPEN or owner is None or self.fd < 0:
            self.direct = self.sends_directly = False
            return
        raw = options.framing == "raw"
        self.sends_directly = (
            raw and self.output is None and not self.write_closed and self.cut is None and options.idle_timeout is None
        )
        self.direct = (
            state.mode is Mode.ACTIVE
            and raw
            and owner.loop_actor is not None
            and not self.eof
            and self.cut is None
            and not self._leftover
            and not self._input
            and self._turn is None
            and self._announcement is None
            and options.read_buffer_limit >= READ_BUFFER_SIZE
        )

    def output_empty(self) -> None:
        """The last byte of the output has been taken: sends may go to the socket again."""
        self._refresh()

    def _next_chunk(self) -> bytes | None:
        """The next chunk by the framing, read from the socket as needed; None: not there yet, or the stream ended."""
        if self._leftover:
            leftover, self._leftover = self._leftover, b""
            return leftover
        options = self.options
        buffer = self._input
        if options.framing == "raw" and not buffer:
            return self.read(options.read_buffer_limit)
        if buffer is None:
            buffer = self._input = InputBuffer()
        limit = options.read_buffer_limit if options.framing == "raw" else options.frame_limit
        try:
            chunk = self._whole_chunk(buffer, limit)
            if chunk is None:
                data = self.read(options.read_buffer_limit - len(buffer) + prefix_size(options.framing))
                if data is None:
                    return self._last_chunk(buffer)
                buffer.feed(data)
                chunk = self._whole_chunk(buffer, limit)  # if there is none, the socket's next event goes on
            return chunk
        except LimitReached as error:
            self.fail(str(error))
            return None

    def _whole_chunk(self, buffer: InputBuffer, limit: int) -> bytes | None:
        """The next chunk in the buffer; empty frames carry nothing and are passed over."""
        chunk = buffer.take(self.options.framing, limit)
        while chunk == b"":
            chunk = buffer.take(self.options.framing, limit)
        return chunk

    def _last_chunk(self, buffer: InputBuffer) -> bytes | None:
        """What an ended stream leaves in the buffer: a line without its end is a chunk, a part of a frame is none."""
        if not buffer and self._input is buffer:
            self._input = None
        if not (self.eof or self.reason is not None) or not buffer:
            return None
        if self.options.framing == "line":
            return buffer.take_rest()
        buffer.clear()
        if self.reason is None:
            self.reason = "io: the stream ended inside of a frame"
        return None

    def _input_has_chunk(self) -> bool:
        if self._leftover or self.eof or self.reason is not None:
            return True
        buffer = self._input
        try:
            return buffer is not None and buffer.has_chunk(self.options.framing, self.options.frame_limit)
        except LimitReached:
            return True  # taking it will fail the connection

    def _take(self, size: int) -> bytes | None:
        """What a ``receive`` gets: 1 to ``size`` bytes, b"" at the end of the stream, None if it has to wait."""
        closing = self.state.phase is Phase.CLOSING
        if not self._leftover and not self._input and self.options.framing == "raw":
            chunk = self.read(min(size, self.options.read_buffer_limit))
        else:
            chunk = self._next_chunk()
            if chunk and len(chunk) > size:
                chunk, self._leftover = chunk[:size], chunk[size:]
        if chunk:
            return chunk
        if closing:
            raise Closed
        if self.reason is not None:
            raise self.error()
        return b"" if self.eof else None

    def error(self) -> TheaterError:
        """The error for the reason why this connection ended."""
        kind, _, detail = (self.reason or "closed").partition(": ")
        return errors.by_kind.get(kind, Closed)(detail)

    def _serve_receiver(self) -> None:
        assert self._receiver is not None
        future, size, timeout = self._receiver
        try:
            data = self._take(size)
        except TheaterError as error:
            if self._receiver is not None:  # else the failure has told it already
                self._end_receive(timeout)
                future.set_exception_value(error)
        else:
            if data is None:
                return
            self._end_receive(timeout)
            future.set(data)
        self.settle()

    def _end_receive(self, timeout: float | None) -> None:
        self._receiver = None
        if timeout is not None:
            self.network.receive_deadlines.clear(self, timeout)

    # -- calls of the owner ---------------------------------------------------------------------------------------

    def check_owner(self, handle: Any) -> None:
        """Refuse a stranger.

        Raises:
            NotFound: the connection has ended, or this owner closed it.
            NotOwner: it belongs to somebody else, or not to this handle any more.
        """
        if self.handle is not handle:
            if self.handle is None:
                raise NotFound(self.actor_urn)
            raise NotOwner(self.actor_urn)

    def activate(self, handle: Any) -> None:
        """See :meth:`theater_tcp.tcp.ConnectionHandle.activate`."""
        if self.handle is not handle:
            self.check_owner(handle)
        self.state.apply(Event.ACTIVATE)
        if self._awaits_activation or self.fin_seen or not self._in_callback or self.options.idle_timeout is not None:
            self.opened()  # else the turn under way settles everything

    def set_active(self, handle: Any, mode: str | int) -> None:
        """See :meth:`theater_tcp.tcp.ConnectionHandle.set_active`."""
        if self.handle is not handle:
            self.check_owner(handle)
        parsed, count = parse_mode(mode)
        if parsed is not Mode.PASSIVE:
            if self._receiver is not None:
                raise Busy("a receive waits")
            if "on_data" not in self.owner.heard:  # type: ignore[union-attr]
                raise InvalidArgument(f"{self.owner} has no on_data")
        self.state.set_mode(parsed, count)
        self._count_ran_out = False
        if not self._in_callback:
            self.settle()

    def transfer(self, handle: Any, target: Owner) -> None:
        """See :meth:`theater_tcp.tcp.ConnectionHandle.transfer`; ``target`` is able and willing."""
        self.check_owner(handle)
        self.state.check(Event.TRANSFER)
        if self._receiver is not None:
            raise Busy("a receive waits")
        name = target.takes_transfers()
        turn = Turn(self)
        if not target.tell(turn):  # before anything changes
            raise NoSuchActor(str(target))
        was_pending = self.state.phase is Phase.PENDING
        owner, self.owner = self.owner, target
        owner.connections.pop(self, None)  # type: ignore[union-attr]
        target.connections[self] = None
        if target is not owner:
            self.handle = target.handle_for(self)
        self._turn = turn
        self._announcement = name
        self._count_ran_out = self._close_told = False
        self.state.apply(Event.TRANSFER)
        self.network.metrics.transfers += 1
        if was_pending:
            self.opened()
        else:
            self._refresh()
            self.update_interest(stop_reading=True)

    def send(self, handle: Any, data: bytes | bytearray | memoryview) -> int:
        """See :meth:`theater_tcp.tcp.ConnectionHandle.send`; the short way is there."""
        size, framed = self._framed(handle, data)
        self.write(framed)
        return size

    def send_in_pieces(self, handle: Any, data: bytes) -> Future[int]:
        """For senders that can wait: ``data`` goes out in pieces, each when there is room under ``write_buffer_limit``.

        Returns:
            a future of the number of bytes; fails with the reason if the connection ends meanwhile.
        """
        size, framed = self._framed(handle, data)
        sent: Future[int] = Future()
        view = memoryview(framed)

        def go_on(room: Future[None] | None = None) -> None:
            nonlocal view
            try:
                if room is not None:
                    room.get()
                    self.check_owner(handle)
                limit = self.options.write_buffer_limit
                while view and (free := limit - (self.output.size if self.output is not None else 0)) > 0:
                    self.write(view[:free])
                    view = view[free:]
                if view:
                    self._wait_for_room().on_done(go_on)
                else:
                    sent.set(size)
            except TheaterError as error:
                sent.set_exception_value(error)

        go_on()
        return sent

    def _framed(self, handle: Any, data: bytes | bytearray | memoryview) -> tuple[int, bytes | memoryview]:
        """The payload's size, and what goes on the wire for it."""
        self.check_owner(handle)
        self.state.check(Event.SEND)
        if not isinstance(data, (bytes, bytearray, memoryview)):
            raise InvalidArgument(f"send takes bytes, not {type(data).__name__}")
        if self.write_closed:
            raise Closed("the sending side was shut down")
        payload = data if isinstance(data, bytes) else bytes(data)
        return len(payload), frame(payload, self.options.framing)

    def queue_output(self, data: bytes | bytearray | memoryview, start: int) -> None:
        """Keep what the kernel did not take, up to the hard limit.

        Raises:
            LimitReached: more than ``write_buffer_hard_limit`` would wait; the connection is closed.
        """
        waiting = len(data) - start + (self.output.size if self.output is not None else 0)
        if waiting > self.options.write_buffer_hard_limit:
            self.fail(f"limit: {waiting} bytes would wait to be sent, {self.options.write_buffer_hard_limit} may")
            raise self.error()
        super().queue_output(data, start)

    def receive(self, handle: Any, size: int, timeout: float | None) -> bytes | Future[bytes]:
        """See :meth:`theater_tcp.tcp.ConnectionHandle.receive`: the bytes if they are there, else a future."""
        self.check_owner(handle)
        if not isinstance(size, int) or isinstance(size, bool) or not 1 <= size <= MAX_RECEIVE:
            raise InvalidArgument(f"receive takes 1 to {MAX_RECEIVE} bytes, not {size!r}")
        self.state.check(Event.RECEIVE)
        if self._receiver is not None:
            raise Busy("another receive waits")
        if timeout is not None:
            check_field(Options, "receive_timeout", timeout)
        try:
            data = self._take(size)
        except TheaterError:
            self.settle()  # the owner hears of the end beside
            raise
        if data is not None:
            if self.fin_seen and not self.eof and self.fd >= 0:
                self.peek()  # the end may be next: the owner hears of it without another receive
            if self.eof or self.reason is not None:
                self.settle()
            return data
        timeout = timeout if timeout is not None else self.options.receive_timeout
        future: Future[bytes] = Future()
        self._receiver = (future, size, timeout)
        if timeout is not None:
            self.network.receive_deadlines.set(self, timeout)
        self.update_interest()
        return future

    def drained(self, handle: Any) -> Future[None]:
        """See :meth:`theater_tcp.tcp.ConnectionHandle.drained`."""
        self.check_owner(handle)
        if self.output is not None and self.output.size > self.options.write_buffer_limit:
            return self._wait_for_room()
        future: Future[None] = Future()
        future.set(None)
        return future

    def _wait_for_room(self) -> Future[None]:
        """A future that is settled when half of ``write_buffer_limit`` is free, or fails with the connection."""
        future: Future[None] = Future()
        self.flush_waiters = [*(self.flush_waiters or ()), future]
        return future

    def shutdown_write(self, handle: Any) -> None:
        """See :meth:`theater_tcp.tcp.ConnectionHandle.shutdown_write`."""
        self.check_owner(handle)
        self.state.apply(Event.SHUTDOWN_WRITE)
        self.end_output()

    def set_options(self, handle: Any, changes: dict[str, Any]) -> None:
        """See :meth:`theater_tcp.tcp.ConnectionHandle.set_options`."""
        self.check_owner(handle)
        options = self.options.replaced(**changes)
        if self.fd >= 0:
            apply_to_socket(self.sock, options)
            self._forget_deadlines()
            self.options = options
            self._renew_deadlines()
        self.options = options
        self.settle()

    def close(self, handle: Any) -> None:
        """See :meth:`theater_tcp.tcp.ConnectionHandle.close`."""
        self.check_owner(handle)
        self.state.apply(Event.CLOSE)
        self._leave_owner()
        self.finish()
        self._end_if_done()

    def abort(self, handle: Any) -> None:
        """See :meth:`theater_tcp.tcp.ConnectionHandle.abort`."""
        self.check_owner(handle)
        self.state.apply(Event.ABORT)
        self._leave_owner()
        self.reset()

    # -- the end --------------------------------------------------------------------------------------------------

    def reset(self) -> None:
        """RST, at once."""
        if self.fd >= 0:
            reset_on_close(self.sock)
            self.release_socket()
        self._end_if_done()

    def owner_ended(self) -> None:
        """The owner's life is over: flush and close."""
        if self.state.phase in (Phase.PENDING, Phase.OPEN):
            self.state.apply(Event.CLOSE)
        self._leave_owner()
        self.finish()
        self._end_if_done()

    def fail(self, reason: str, flush: bool = False) -> None:
        """The runtime ends the connection; its owner hears ``reason``.

        Args:
            reason: an error kind, with a detail or without.
            flush: whether what was sent is still delivered.
        """
        if self.state.phase is Phase.CLOSING and self.reason is not None:
            return
        self.state.apply(Event.FAIL)
        self._count_ran_out = False
        if self.reason is None:
            self.reason = reason
        self.direct = self.sends_directly = False
        self._wake_waiters()
        if flush:
            self.finish()
        else:
            self.drop_output()
            self.release_socket()
        if self._close_told or self._announcement is not None:  # it was told already, or never heard of this one
            if self.listener is not None:
                self.listener.heard_of(self)
            self._leave_owner()
            self._end_if_done()
        else:
            self.offer()

    def abort_for_shutdown(self) -> None:
        """The runtime does not wait any longer: RST, and the owner hears ``shutdown``."""
        if self.fd >= 0:
            reset_on_close(self.sock)
        if self.owner is None or self._close_told:
            if self.state.phase is Phase.OPEN:  # its end of stream is being told
                self.state.apply(Event.FAIL)
            self._leave_owner()
            self.release_socket()
            self._end_if_done()
        else:
            self.fail("shutdown")

    def output_failed(self, reason: str) -> None:
        """Some of the output is lost: with the socket, or because the peer takes nothing."""
        self.direct = False
        if reason == "timeout":
            self.fail(reason)
        elif self.flush_waiters:
            waiters, self.flush_waiters = self.flush_waiters, None
            for waiter in waiters:
                waiter.set_exception_value(errors.by_kind[reason.partition(": ")[0]]())

    def pending_expired(self) -> None:
        """Nobody activated or transferred the connection in time."""
        self.network.metrics.timeouts += 1
        self.fail("timeout")

    def idle_expired(self) -> None:
        """No byte for ``idle_timeout``, or one came meanwhile and the rest of the time is still to pass."""
        timeout = self.options.idle_timeout
        if timeout is None or self.fd < 0 or self.state.phase is not Phase.OPEN:
            return
        left = self.last_activity + timeout - self.network.loop.now
        if left > 0:
            self.network.idle_deadlines.set(self, left)
        else:
            self.network.metrics.timeouts += 1
            self.fail("timeout", flush=True)

    def receive_expired(self) -> None:
        """A ``receive`` waited for its whole timeout; the connection goes on."""
        if self._receiver is not None:
            future, self._receiver = self._receiver[0], None
            future.set_exception_value(TimedOut("nothing to receive"))
            self.update_interest(stop_reading=True)

    def socket_released(self) -> None:
        """The socket is closed: with the owner's last word, the actor's life ends."""
        if self._awaits_activation or self.options.idle_timeout is not None:
            self._forget_deadlines()
        if self.flush_waiters is not None:
            self._wake_waiters()  # a handler that waits for room would keep its owner from hearing of the end
        if self.listener is not None:
            self.listener.connection_ended()
        if self.state.phase is Phase.CLOSING:
            self._end_if_done()

    def on_stop(self) -> None:
        """The actor is stopped from outside, as by ``ActorRegistry.stop_all``: the owner hears ``shutdown``."""
        if self.fd >= 0:
            if self.output is not None:
                self.flush()
            if self.state.phase is not Phase.CLOSING:
                self.fail("shutdown")
            self.release_socket()

    def _leave_owner(self) -> None:
        owner = self.owner
        if owner is not None:
            owner.connections.pop(self, None)
        self.owner = self.handle = self._turn = self._announcement = None
        self.direct = self.sends_directly = False
        self._input, self._leftover = None, b""
        if self._receiver is not None or self.flush_waiters is not None:
            self._wake_waiters()

    def _wake_waiters(self) -> None:
        if self._receiver is not None:
            future = self._receiver[0]
            self._end_receive(self._receiver[2])
            future.set_exception_value(self.error())
        waiters, self.flush_waiters = self.flush_waiters, None
        for waiter in waiters or ():
            waiter.set_exception_value(self.error())

    def _end_life(self) -> None:
        box = self.actor_inbox
        if box.queue is None and box.first is None:  # nobody ever wrote to it: nothing to refuse
            box.closed = box.scheduled = True
            box.actor = None
        else:
            super()._end_life()

    def _end_if_done(self) -> None:
        if self.fd >= 0 or self.owner is not None or self.state.phase is not Phase.CLOSING:
            return
        self.state.apply(Event.RELEASE)
        self.network.connections.pop(self, None)
        if not self.actor_stopped.is_set():
            self.network.registry.pop(self._actor_ref, None)
            self.actor_stopped.set()
            if not self.actor_inbox.scheduled:
                self._end_life()  # else the turn under way ends it

    # -- deadlines --------------------------------------------------------------------------------------------------

    def opened(self) -> None:
        """The connection is open from now on."""
        self.fin_seen = False  # what was seen while it was pending is looked at again
        if self._awaits_activation:
            self._awaits_activation = False
            self.network.pending_deadlines.clear(self, self.options.pending_timeout)
        if self.options.idle_timeout is not None:
            self.network.idle_deadlines.set(self, self.options.idle_timeout)
        if not self._in_callback:
            self._refresh()
            self.update_interest()

    def wait_for_activation(self) -> None:
        """The connection is still pending after its owner was told, or could not be told at once."""
        self._awaits_activation = True
        self.network.pending_deadlines.set(self, self.options.pending_timeout)
        self.update_interest()

    def _forget_deadlines(self) -> None:
        network, options = self.network, self.options
        if self._awaits_activation:
            network.pending_deadlines.clear(self, options.pending_timeout)
        if self.output is not None:
            network.send_deadlines.clear(self, options.send_timeout)
        if options.idle_timeout is not None:
            network.idle_deadlines.clear(self, options.idle_timeout)

    def _renew_deadlines(self) -> None:
        network, options = self.network, self.options
        if self._awaits_activation:
            network.pending_deadlines.set(self, options.pending_timeout)
        if self.output is not None:
            network.send_deadlines.set(self, options.send_timeout)
        if options.idle_timeout is not None and self.state.phase is Phase.OPEN:
            network.idle_deadlines.set(self, options.idle_timeout)
