"""The data of a connection: chunks on their way in, bytes on their way out, and who waits for either.

:class:`Stream` stands between the socket's side (:mod:`theater_tcp.transport`) and the owner's
(:mod:`theater_tcp.owned_stream`). It cuts what comes in by the framing, keeps the end of a chunk that was larger than a
``receive`` asked for, serves the one ``receive`` that may wait, and bounds what waits to go out.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, cast

from theater_tcp import errors
from theater_tcp.address import format_sockaddr
from theater_tcp.connection_state import CLOSING, OPEN, RECEIVE, SEND, SHUTDOWN_WRITE, Phase
from theater_tcp.errors import Busy, Closed, InvalidArgument, LimitReached, NotFound, NotOwner, TheaterError, TimedOut
from theater_tcp.fields import check_field
from theater_tcp.framing import InputBuffer, frame, prefix_size
from theater_tcp.future import Future
from theater_tcp.network import READ_BUFFER_SIZE
from theater_tcp.poller import READ
from theater_tcp.secure_transport import PIECE, SecureTransport
from theater_tcp.settings import Options
from theater_tcp.socket_options import reset_on_close

if TYPE_CHECKING:
    import socket

    from theater_tcp.actor import LoopActorRef
    from theater_tcp.network import Network

__all__ = ["Stream"]

MUCH = 64 << 10
"""Bytes of a ``receive`` that asks for much: it is worth while to let more come before the next one."""

MAX_RECEIVE = (1 << 32) - 1
"""The largest ``max`` of a ``receive``: the interface has it as u32."""


class Stream(SecureTransport):
    """A transport, secure or not, with framing, ``receive`` and bounded ``send``.

    Args:
        network, sock, peer, options, phase: see :class:`~theater_tcp.transport.Transport`.
    """

    __slots__ = ("_input", "_leftover", "_receiver", "direct", "dry", "handle")

    def __init__(self, network: Network, sock: socket.SocketType, peer: Any, options: Options, phase: Phase) -> None:
        SecureTransport.__init__(self, network, sock, peer, options, phase)
        self.handle: Any = None  # the owner's; every other is a stranger's
        self._input: InputBuffer | None = None
        self._leftover = b""  # the end of a chunk that was larger than the `max` of a receive
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

    def fail(self, reason: str, flush: bool = False) -> None:
        """End the connection for ``reason``."""
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
                if chunk is None and (self.eof or self.reason is not None):  # by TLS, data and the end come at once
                    return self._last_chunk(buffer)
            return chunk
        except LimitReached as error:
            self.fail(str(error))
            return None

    def _whole_chunk(self, buffer: InputBuffer, limit: int) -> bytes | None:
        """The next chunk in the buffer; empty frames carry nothing and are passed over."""
        while (chunk := buffer.take(self.options.framing, limit)) == b"":
            pass
        return chunk

    def _last_chunk(self, buffer: InputBuffer) -> bytes | None:
        """What an ended stream leaves in the buffer: a line without its end is a chunk, a part of a frame is none.

        Where the stream was cut off (``reset``, ``tls-truncated``) that line is none either: ``DELETE 1`` may have been
        the beginning of ``DELETE 10``.
        """
        if not buffer and self._input is buffer:
            self._input = None
        if not (self.eof or self.reason is not None) or not buffer:
            return None
        if self.options.framing == "line" and self.eof:
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
        closing = self.state.phase is CLOSING
        options, buffer = self.options, self._input
        if options.framing == "raw" and not self._leftover:  # cut off no more than is asked for: framing may change
            limit = min(size, options.read_buffer_limit)
            chunk = buffer.take("raw", limit) if buffer else self.read(limit)
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

    def take_unread(self) -> bytes:
        """What was read from the socket and not handed over, taken away."""
        unread, self._leftover = self._leftover, b""
        buffer, self._input = self._input, None
        return unread + buffer.take_rest() if buffer else unread

    def error(self) -> TheaterError:
        """The error for the reason why this connection ended."""
        return self._as_error(self.reason or "closed")

    @staticmethod
    def _as_error(reason: str) -> TheaterError:
        kind, _, detail = reason.partition(": ")
        return errors.by_kind.get(kind, Closed)(detail)

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
        if not watched:
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
        if not watched:
            self.update_interest()
        return future

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
                limit = self.options.write_buffer_limit
                while view and (free := limit - (self.output.size if self.output is not None else 0)) > 0:
                    self.write(view[:free])
                    view = view[free:]
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
