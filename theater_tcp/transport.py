"""The socket's side of a connection: read, write, wait for readiness, linger, close.

:class:`Transport` is the actor's base that knows the socket and nothing of owners. Three rules shape it:

- *Nothing is read ahead.* Bytes stay in the kernel until somebody is ready for them, so that the peer's TCP window is
  the back-pressure, and what the host holds is always known.
- *Interest follows from the state.* :meth:`Transport.update_interest` derives the event mask; nobody sets it by hand.
  Interest in reading is dropped late (at the first event that nobody wants), since it is mostly wanted again by then:
  that saves two system calls for each chunk that went through a mailbox.
- *The socket is released in one place*, :meth:`Transport.release_socket`, whatever the way there.
"""

from __future__ import annotations

import errno
import socket
from contextlib import suppress
from typing import TYPE_CHECKING, Any

from theater_tcp.actor import LoopActor
from theater_tcp.connection_state import CLOSING, HANDSHAKING, OPEN, PENDING, ConnectionState, Phase
from theater_tcp.errors import from_os_error
from theater_tcp.output_queue import OutputQueue
from theater_tcp.poller import ERROR, HANGUP, PEER_SHUTDOWN, READ, WRITE
from theater_tcp.socket_options import reset_on_close

if TYPE_CHECKING:
    from theater_tcp.future import Future
    from theater_tcp.network import Network
    from theater_tcp.settings import Options

__all__ = ["Transport"]

UNREGISTERED = -1
_LINGER_READS = 16


class Transport(LoopActor):
    """An actor with a non-blocking stream socket.

    Args:
        network: what it shares with the runtime's other connections.
        sock: the connected, non-blocking socket; closed by this actor from now on.
        peer: the peer's socket address as ``accept`` gave it; asked of the socket if None.
        options: see :class:`~theater_tcp.settings.Options`.
        phase: ``PENDING`` for an accepted connection, ``OPEN`` for one that was opened here.
    """

    __slots__ = (
        "accepted",
        "cut",
        "eof",
        "fd",
        "fin_seen",
        "flush_waiters",
        "interest",
        "last_activity",
        "lingers",
        "local",
        "network",
        "options",
        "output",
        "peer",
        "reason",
        "sends_directly",
        "sock",
        "state",
        "write_closed",
        "write_error",
    )

    def __init__(  # no super().__init__(): the network names the loop, no context is looked up
        self, network: Network, sock: socket.SocketType, peer: Any, options: Options, phase: Phase
    ) -> None:
        self._settle(network.loop)
        self.network = network
        self.sock = sock
        self.fd = sock.fileno()
        self.peer = peer
        self.local: Any = None
        self.options = options
        self.state = ConnectionState(phase)
        self.interest = UNREGISTERED
        self.output: OutputQueue | None = None
        self.flush_waiters: list[Future[None]] | None = None
        self.eof = False  # the peer's end of stream has been read
        self.cut: str | None = None  # the reason, if sending met the peer's reset: it was no end of stream
        self.fin_seen = False  # it has come, behind bytes that are still in the kernel
        self.write_closed = False
        self.write_error: str | None = None  # why output was lost, if it was
        self.lingers = False  # closing, with a deadline
        self.reason: str | None = None  # why the connection ended, if not by end of stream
        self.sends_directly = False
        self.last_activity = network.loop.now
        self.accepted = phase is PENDING or phase is HANDSHAKING

    # -- what a subclass decides -----------------------------------------------------------------------------------

    @property
    def wants_data(self) -> bool:
        """Whether somebody is ready for what the peer sent."""
        raise NotImplementedError

    def data_ready(self) -> None:
        """The socket is readable, and :attr:`wants_data`."""
        raise NotImplementedError

    def stream_ended(self) -> None:
        """:attr:`eof` or :attr:`reason` has just been set by what the socket said."""
        raise NotImplementedError

    def socket_released(self) -> None:
        """The socket has just been closed."""
        raise NotImplementedError

    def output_failed(self, reason: str) -> None:
        """Some of the output is lost: ``timeout``, ``reset`` or ``io: …``."""
        raise NotImplementedError

    # -- readiness ------------------------------------------------------------------------------------------------

    def on_ready(self, mask: int) -> None:
        """The socket is ready for one of the bits of ``mask``."""
        if mask & WRITE:
            self.flush()
        if self.fd < 0 or not mask & ~WRITE:
            return
        if self.state.phase is CLOSING:
            self._linger()
        elif self.wants_data and not self.eof:
            self.data_ready()
        elif mask & (ERROR | HANGUP):
            self._on_hangup()
        elif mask & PEER_SHUTDOWN:
            self.peek()
        else:
            self.update_interest(stop_reading=True)

    def update_interest(self, stop_reading: bool = False) -> None:
        """Wait for what the state wants now.

        Args:
            stop_reading: drop interest in reading that is there and not wanted, instead of at the next event.
        """
        if self.fd < 0:
            return
        phase = self.state.phase
        output = self.output
        pending = output.size if output is not None else 0
        mask = WRITE if pending else 0
        if phase is OPEN:
            if self.eof or self.reason is not None:
                pass
            elif self.wants_data:
                if pending <= self.options.write_buffer_limit:
                    mask |= READ
            elif self.interest & READ and not stop_reading and self.interest != UNREGISTERED:
                mask |= READ
            elif not self.fin_seen:
                mask |= PEER_SHUTDOWN
        elif phase is CLOSING and not pending:
            mask |= READ
        self._set_interest(mask)

    def _set_interest(self, mask: int) -> None:
        interest = self.interest
        if mask == interest:
            return
        if interest == UNREGISTERED:
            if mask == 0 and (self.fin_seen or self.eof):
                return  # nothing to wait for, and a hang-up, which epoll reports unasked, is no news
            self.network.loop.register(self.fd, mask, self.on_ready)
        elif mask == 0 and (self.fin_seen or self.eof):
            self._unregister()
            return
        else:
            self.network.loop.modify(self.fd, mask)
        self.interest = mask

    def _unregister(self) -> None:
        if self.interest != UNREGISTERED:
            self.interest = UNREGISTERED
            self.network.loop.unregister(self.fd)

    def _on_hangup(self) -> None:
        """The connection is gone in both directions; what the kernel still holds comes first."""
        if self.state.phase is PENDING:
            error = self.sock.getsockopt(socket.SOL_SOCKET, socket.SO_ERROR)
            if error:
                self.broken(OSError(error, ""))
            else:
                self.fin_seen = True
                self._unregister()
            return
        self.flush()
        if self.fd >= 0 and not self.wants_data:
            self.peek()

    def peek(self) -> None:
        """See whether the peer's end of stream is next, without taking a byte away from who will receive it."""
        if self.fd < 0:
            return
        try:
            ahead = self.sock.recv(1, socket.MSG_PEEK)
        except (BlockingIOError, InterruptedError):
            return
        except OSError as error:
            self.broken(error)
            return
        if ahead:
            self.fin_seen = True
            self.update_interest(stop_reading=True)
        elif not self.eof:
            self._input_ended()
            self.update_interest()
            self.stream_ended()

    # -- reading --------------------------------------------------------------------------------------------------

    def read(self, limit: int) -> bytes | None:
        """What the socket has, at most ``limit`` bytes.

        Returns:
            the bytes, or None: there are none now, or the stream has ended (:attr:`eof`, :attr:`reason`).
        """
        if self.eof or self.fd < 0:
            return None
        try:
            size = self.sock.recv_into(self.network.read_view(limit))
        except (BlockingIOError, InterruptedError):
            return None
        except OSError as error:
            self.broken(error, tell=False)
            return None
        if size:
            self.last_activity = self.network.loop.now
            if self.fin_seen:  # what stood before the end is being read: look for the end again
                self.fin_seen = False
                self.update_interest()
            return self.network.read_buffer[:size]
        self._input_ended()
        return None

    def _input_ended(self) -> None:
        """The socket has nothing more to read: the peer's end of stream, or what a reset left of it.

        Linux reports a reset once. If that was to a ``send``, reading then says 0 as at an orderly end, and a stream
        that was cut off would look whole.
        """
        if self.cut is None:
            self.eof = True
        else:
            self.reason = self.cut
            self.release_socket()

    def broken(self, error: OSError, tell: bool = True) -> None:
        """The socket failed: it is released, and what was read before stays to be handed over."""
        if self.reason is None:
            self.reason = str(from_os_error(error))
        self.release_socket()
        if tell:
            self.stream_ended()

    # -- writing --------------------------------------------------------------------------------------------------

    def write(self, data: bytes | bytearray | memoryview) -> None:
        """Send, now or as soon as the kernel takes it. After a failure of the socket the data is dropped."""
        if self.fd >= 0 and self.write_error is None and data:
            self.transmit(data)

    def transmit(self, data: bytes | bytearray | memoryview) -> None:
        """Give ``data``, which is not empty, to the open socket, behind what waits already."""
        output = self.output
        taken = 0
        if output is None or not output.size:
            try:
                taken = self.sock.send(data)
            except (BlockingIOError, InterruptedError):
                pass
            except OSError as error:
                self.write_failed(error)
                return
            self.last_activity = self.network.loop.now
            if taken == len(data):
                return
        self.queue_output(data, taken)

    def queue_output(self, data: bytes | bytearray | memoryview, start: int) -> None:
        """Keep ``data[start:]`` until the kernel takes it."""
        output = self.output
        if output is None:
            output = self.output = OutputQueue()
        if not output.size:
            self.network.send_deadlines.set(self, self.options.send_timeout)
        output.append(data, start)
        self.sends_directly = False
        self.update_interest()

    def flush(self) -> None:
        """Write what waits, as much as the kernel takes."""
        output = self.output
        if output is None or not output.size:
            self.update_interest()
            return
        try:
            output.write_to(self.sock)
        except (BlockingIOError, InterruptedError):
            return
        except OSError as error:
            self.write_failed(error)
            return
        network = self.network
        self.last_activity = network.loop.now
        if output.size:
            network.send_deadlines.set(self, self.options.send_timeout)
        else:
            self.output = None
            network.send_deadlines.clear(self, self.options.send_timeout)
            if self.state.phase is CLOSING:
                self.output_done()
                return
            if self.write_closed:
                self._shutdown_write()
            else:
                self.output_empty()
        if self.flush_waiters and output.size <= self.options.write_buffer_limit // 2:
            waiters, self.flush_waiters = self.flush_waiters, None
            for waiter in waiters:
                waiter.set(None)
        self.update_interest()

    def output_empty(self) -> None:
        """The last byte of the output has been taken."""

    def write_failed(self, error: OSError) -> None:
        """The kernel refused the output: it is lost, but what the peer sent before may still be read."""
        self.drop_output()
        if self.state.phase is CLOSING:
            self.release_socket()
            return
        self.write_error = str(from_os_error(error))
        reset_on_close(self.sock)  # incomplete: the peer must not take it for a whole stream
        if error.errno == errno.ECONNRESET:  # after the peer's FIN it would be EPIPE
            self.cut = self.write_error
        self.sends_directly = False
        self.output_failed(self.write_error)
        self.update_interest()

    def drop_output(self) -> None:
        """Forget what waits to be sent."""
        if self.output is not None:
            self.network.send_deadlines.clear(self, self.options.send_timeout)
            self.output = None

    def end_output(self) -> None:
        """Half-close: FIN after what waits to be sent."""
        if not self.write_closed:
            self.write_closed = True
            self.sends_directly = False
            if self.output is None:
                self._shutdown_write()

    def _shutdown_write(self) -> None:
        with suppress(OSError):  # the peer has gone: reading will tell
            self.sock.shutdown(socket.SHUT_WR)

    def send_expired(self) -> None:
        """The peer took nothing for ``send_timeout``."""
        self.network.metrics.timeouts += 1
        reset_on_close(self.sock)
        self.output_failed("timeout")

    # -- the end --------------------------------------------------------------------------------------------------

    def finish(self) -> None:
        """Flush and close, at most for ``linger_timeout``. The phase is ``CLOSING`` already."""
        if self.fd < 0:
            return
        if self.output is None:
            self.output_done()
        else:
            self.update_interest()
        if self.fd >= 0:
            self.lingers = True
            self.network.linger_deadlines.set(self, self.options.linger_timeout)

    def output_done(self) -> None:
        """All is flushed: close, but not on top of unread bytes.

        Closing a socket with unread bytes sends RST, which can destroy what the peer has not read yet (RFC 1122,
        4.2.2.13; RFC 9293, 3.6.1). So if there are any, FIN goes out, and what still comes is read and dropped until
        the peer ends or the linger time does.
        """
        if not self.eof and self._unread_dropped():
            self._shutdown_write()
            self.update_interest()
        else:
            self.release_socket()

    def _unread_dropped(self) -> bool:
        """Drop what the kernel holds; whether there was something, and no end of it."""
        try:
            return self.sock.recv_into(self.network.read_buffer) > 0
        except OSError:
            return False

    def _linger(self) -> None:
        try:
            for _ in range(_LINGER_READS):
                if self.sock.recv_into(self.network.read_buffer) == 0:
                    break
            else:
                return
        except (BlockingIOError, InterruptedError):
            return
        except OSError:
            pass
        self.eof = True
        if self.output is None:
            self.release_socket()
        else:
            self.update_interest()

    def linger_expired(self) -> None:
        """``linger_timeout`` is over."""
        if self.output is not None:
            reset_on_close(self.sock)  # the stream is incomplete: the peer must not take it for a whole one
        self.release_socket()

    def release_socket(self) -> None:
        """Close the socket; harmless when it is closed."""
        if self.fd < 0:
            return
        network = self.network
        self.drop_output()
        if self.interest != UNREGISTERED:
            self.interest = UNREGISTERED
            network.loop.forget(self.fd)
        self.fd = -1
        self.sends_directly = False
        self.sock.close()
        if self.lingers:
            self.lingers = False
            network.linger_deadlines.clear(self, self.options.linger_timeout)
        network.metrics.closed += 1
        if self.accepted:
            network.accepted_now -= 1
            if network.waiting_listeners:
                network.room_again()
        self.socket_released()
