"""The data of a connection: who waits for what comes in, and bytes on their way out.

:class:`Stream` stands between the socket's side (:mod:`theater_tcp.transport`, with the chunks of
:mod:`theater_tcp.input_stream`) and the owner's (:mod:`theater_tcp.owned_stream`). It serves the one ``receive`` that
may wait, and bounds what waits to go out.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, cast

from theater_tcp import errors
from theater_tcp.address import format_sockaddr
from theater_tcp.connection_state import CLOSING, OPEN, RECEIVE, SEND, SHUTDOWN_WRITE, Phase
from theater_tcp.errors import Busy, Closed, InvalidArgument, NotFound, NotOwner, TheaterError, TimedOut
from theater_tcp.fields import check_field
from theater_tcp.framing import frame
from theater_tcp.future import Future
from theater_tcp.input_stream import InputStream
from theater_tcp.network import READ_BUFFER_SIZE
from theater_tcp.poller import READ
from theater_tcp.secure_transport import PIECE
from theater_tcp.settings import Options
from theater_tcp.socket_options import reset_on_close

if TYPE_CHECKING:
    import socket

    from theater_tcp.actor import LoopActorRef
    from theater_tcp.network import Network

__all__ = ["Stream"]

MUCH = 64 << 10
"""Bytes of a ``receive`` that asks for much: it is worth while to let more come before the next one."""

AT_ONCE = 16
"""Calls of ``receive`` that one connection answers in one turn of the loop."""

MAX_RECEIVE = (1 << 32) - 1
"""The largest ``max`` of a ``receive``: the interface has it as u32."""


class Stream(InputStream):
    """A transport, secure or not, with framing, ``receive`` and bounded ``send``.

    Args:
        network, sock, peer, options, phase: see :class:`~theater_tcp.transport.Transport`.
    """

    __slots__ = ("_answered_at", "_answers", "_receiver", "direct", "dry", "handle")

    def __init__(self, network: Network, sock: socket.SocketType, peer: Any, options: Options, phase: Phase) -> None:
        InputStream.__init__(self, network, sock, peer, options, phase)
        self.handle: Any = None  # the owner's; every other is a stranger's
        self._answered_at: float | None = None  # the loop's turn, by its clock, in which
        self._answers = 0  # so many looked for data
        self._receiver: tuple[Any, int, float | None] | None = None
        self.dry = False  # the last `receive` had all that was there; what came since is for the loop to tell
        self.direct = False  # active, raw, nothing buffered, owner on this loop: a readable socket is a turn

    # -- what a subclass decides -----------------------------------------------------------------------------------

    def settle(self) -> None:
        """Something has changed: the owner's next turn if there is news, and wait for what is wanted now."""
        raise NotImplementedError

    def refresh(self) -> None:
        """Work out anew what the short ways depend on."""
        raise NotImplementedError

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

    def known_as(self, connection_id: str) -> bool:
        """Whether this is the id of a connection that has an owner; none is made for it."""
        return self.handle is not None and cast("LoopActorRef[Any]", self._actor_ref)._urn == connection_id

    # -- in --------------------------------------------------------------------------------------------------------

    def receive(self, handle: Any, size: int, timeout: float | None, into: Any = None) -> Any:
        """See :meth:`theater_tcp.tcp.ConnectionHandle.receive`: the bytes if they are there, else a future.

        Args:
            handle, size, timeout: as there.
            into: settled, and returned, in place of a new future; with a number of bytes if they're in its ``buffer``.
        """
        if self.handle is not handle:
            self.check_owner(handle)
        if size.__class__ is not int or not 1 <= size <= MAX_RECEIVE:
            raise InvalidArgument(f"receive takes 1 to {MAX_RECEIVE} bytes, not {size!r}")
        self.state.check(RECEIVE)
        if not self.sends_directly:
            self.refresh()  # a handler that goes on from here may be inside of the turn that opened the connection
        if self._receiver is not None:
            raise Busy("another receive waits")
        if timeout is not None:
            check_field(Options, "receive_timeout", timeout)
        # Where the loop watches the socket already, it tells of what has come, in its turn: to look now would mostly be
        # a system call for nothing, or for little, and would let who loops over `receive` have the loop for itself.
        watched = self.dry and self.interest == READ and self.tls is None and self.state.phase is OPEN
        if watched:
            watched = not (self._leftover or self._input or self.eof or self.fin_seen or self.reason)
        late = not watched and not self._answers_at_once()
        if not (watched or late):
            try:
                data = self._take(size)
            except TheaterError:
                self.settle()  # the owner hears of the end beside
                raise
            if data is not None:
                if self.eof or self.reason is not None:
                    self.settle()
                return data
        timeout = timeout if timeout is not None else self.options.receive_timeout
        future: Any = Future() if into is None else into
        self._receiver = (future, size, timeout)
        if timeout is not None:
            self.network.receive_deadlines.set(self, timeout)
        if late:
            self.network.loop.call_soon(self._serve_late)
        elif not watched:
            self.update_interest()
        return future

    def _answers_at_once(self) -> bool:
        """Whether a ``receive`` may look for data now, and not after others have had their turn.

        Who awaits what is there already goes on at once. Without a bound, a peer that sends as fast as its chunks are
        taken would have the loop for itself.
        """
        now = self.network.loop.now
        if self._answered_at is not now:
            self._answered_at, self._answers = now, 0
        self._answers += 1
        return self._answers <= AT_ONCE

    def _serve_late(self) -> None:
        """The next turn has come for a ``receive`` that was to wait for it."""
        if self._receiver is not None:
            self._serve_receiver()
            self.update_interest()

    def _serve_receiver(self) -> None:
        assert self._receiver is not None
        try:
            data = self._take(self._receiver[1])
        except TheaterError as error:
            self._fail_receive(error)  # unless what failed has told it already
        else:
            if data is None:
                return
            self._end_receive(*self._receiver).set(data)
        self.settle()

    def receive_turn(self) -> bool:
        """The short way for who waits in ``receive``, when the socket is readable; False, and nothing done, if it can't
        be taken."""
        future, size, timeout = self._receiver  # type: ignore[misc]  # there is one
        network = self.network
        if (
            self._leftover
            or self._input
            or self.options.framing != "raw"
            or self.state.phase is not OPEN
            or self.fin_seen
        ):
            return False
        limit = min(size, self.options.read_buffer_limit, READ_BUFFER_SIZE)
        buffer = None if future.__class__ is Future else future.buffer
        try:
            taken = self.sock.recv_into(network.read_view(limit) if buffer is None else buffer[:limit])
        except (BlockingIOError, InterruptedError):
            return True
        except OSError as error:
            self.broken(error)
            return True
        if not taken:
            self._input_ended()
            self.stream_ended()
            return True
        self.last_activity = network.loop.now
        self._receiver = None
        if timeout is not None:
            network.receive_deadlines.clear(self, timeout)
        self.dry = taken < limit or limit >= MUCH
        future.set(network.read_buffer[:taken] if buffer is None else taken)
        if self._receiver is None or self.interest != READ:
            self.settle()
        return True

    def _end_receive(self, future: Any, _size: int, timeout: float | None) -> Any:
        self._receiver = None
        if timeout is not None:
            self.network.receive_deadlines.clear(self, timeout)
        return future

    def interrupt_receive(self, error: TheaterError) -> bool:
        """End the ``receive`` that waits, if one does, with an error; the connection goes on. Whether one did."""
        interrupted = self._fail_receive(error)
        if interrupted:
            self.update_interest(stop_reading=True)
        return interrupted

    def receive_expired(self) -> None:
        """A ``receive`` waited for its whole timeout; the connection goes on."""
        self.interrupt_receive(TimedOut("nothing to receive"))

    def _fail_receive(self, error: TheaterError) -> bool:
        if self._receiver is None:
            return False
        self._end_receive(*self._receiver).set_exception_value(error)
        return True

    # -- out -------------------------------------------------------------------------------------------------------

    def send_directly(self, data: bytes | memoryview) -> int:
        """The short way of :meth:`send`, where ``sends_directly``: nothing waits, so it goes to the kernel.

        Returns:
            the number of bytes, all of them.
        """
        engine = self.tls
        if engine is None:
            wire = data
        elif 0 < len(data) <= PIECE:
            engine.write(data)
            wire = engine.outgoing.read()
        else:
            self.write(data)
            return len(data)
        try:
            taken = self.sock.send(wire)
        except (BlockingIOError, InterruptedError):
            taken = 0
        except OSError as error:
            self.write_failed(error)
            return len(data)
        if taken != len(wire):
            self.queue_output(wire, taken)
        return len(data)

    def send(self, handle: Any, data: bytes | bytearray | memoryview) -> int:
        """See :meth:`theater_tcp.tcp.ConnectionHandle.send`."""
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
                while view and (fits := self._room()) > 0:
                    self.write(view[:fits])
                    view = view[fits:]
                    if self.write_error is not None:  # what was written went nowhere
                        raise self._as_error(self.write_error)
                if view:
                    self._wait_for_room().on_done(go_on)
                else:
                    sent.set(size)
            except TheaterError as error:
                sent.set_exception_value(error)

        go_on()
        return sent

    def _room(self) -> int:
        """Bytes that fit under ``write_buffer_limit``."""
        waiting = self.output.size if self.output is not None else 0
        room = self.options.write_buffer_limit - waiting
        if self.tls is not None:  # encrypted they are more, by less than 128 for each record of 16 KiB
            room -= (room >> 7) + 128
        return room if waiting else max(room, 1)

    def _framed(self, handle: Any, data: bytes | bytearray | memoryview) -> tuple[int, bytes | memoryview]:
        """The payload's size, and what goes on the wire for it."""
        self.check_owner(handle)
        self.state.check(SEND)
        if not isinstance(data, (bytes, bytearray, memoryview)):
            raise InvalidArgument(f"send takes bytes, not {type(data).__name__}")
        if self.write_closed:
            raise Closed("the sending side was shut down")
        if self.write_error is not None and self.eof and self.options.half_open:
            raise self._as_error(self.write_error)  # no callback will tell it: the end was heard
        payload = data if isinstance(data, bytes) else bytes(data)
        return len(payload), frame(payload, self.options.framing)

    def queue_output(self, data: bytes | bytearray | memoryview, start: int) -> None:
        """Keep what the kernel did not take, up to the hard limit.

        Raises:
            LimitReached: more than ``write_buffer_hard_limit`` would wait; the connection is closed.
        """
        waiting = len(data) - start + (self.output.size if self.output is not None else 0)
        if waiting > self.options.write_buffer_hard_limit and self.state.phase is not CLOSING:
            reset_on_close(self.sock)  # what went out already is incomplete
            self.write_closed = True
            self.fail(f"limit: {waiting} bytes would wait to be sent, {self.options.write_buffer_hard_limit} may")
            raise self.error()
        super().queue_output(data, start)

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
        self.state.apply(SHUTDOWN_WRITE)
        self.end_output()

    def output_failed(self, reason: str) -> None:
        """Some of the output is lost: with the socket, or because the peer takes nothing."""
        self.direct = False
        if reason == "timeout":
            self.fail(reason)
        elif self.flush_waiters:
            waiters, self.flush_waiters = self.flush_waiters, None
            for waiter in waiters:
                waiter.set_exception_value(errors.by_kind[reason.partition(": ")[0]]())

    def _wake_waiters(self) -> None:
        if self.handshake is not None:
            self.drop_handshake(self.error())
        self._fail_receive(self.error())
        waiters, self.flush_waiters = self.flush_waiters, None
        for waiter in waiters or ():
            waiter.set_exception_value(self.error())

    # -- addresses ------------------------------------------------------------------------------------------------

    def peer_address(self) -> str:
        """The peer's address, also after the end."""
        if self.peer is None:
            self.peer = self._ask(self.sock.getpeername)
        return self._shown(self.peer)

    def local_address(self) -> str:
        """The local address."""
        if self.local is None:
            self.local = self._ask(self.sock.getsockname)
        return self._shown(self.local)

    def _ask(self, name: Any) -> Any:
        try:
            return name()
        except OSError:
            return ()  # gone before anybody asked

    def _shown(self, sockaddr: Any) -> str:
        return format_sockaddr(self.sock.family, sockaddr) if sockaddr != () else ""
