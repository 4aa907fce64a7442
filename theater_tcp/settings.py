"""Settings: everything that can be set, in frozen structs.

::

    Settings                     the whole runtime
    ├── options: Options         what a connection has where nobody said otherwise; one object for all that agree
    │   ├── server_tls           how it becomes TLS as the server: see :mod:`theater_tcp.tls_settings`
    │   └── client_tls           and as the client
    ├── listener: ListenOptions  the same for a listener
    └── permissions              what an actor may connect to and listen at: see :mod:`theater_tcp.permissions`
"""

from __future__ import annotations

from typing import Annotated, Any, Literal

from msgspec import Meta

from theater_tcp.errors import InvalidArgument
from theater_tcp.fields import (
    Backlog,
    Checked,
    Count,
    Duration,
    FileMode,
    Flag,
    Grace,
    KeepaliveIdle,
    Size,
    Threads,
    unknown_name,
)
from theater_tcp.permissions import Permissions
from theater_tcp.tls_settings import ClientTls, ServerTls

__all__ = ["ListenOptions", "Options", "Settings", "checked_settings"]

FolderPath = Annotated[str, Meta(description="the path of a folder, an empty text", extra={"unit": "path"})]


class Options(Checked, frozen=True, kw_only=True):
    """What can be set for each connection. Connections with equal options share one object.

    Args:
        nodelay: send small segments at once (TCP_NODELAY, RFC 896 off).
        keepalive: probe an idle peer (SO_KEEPALIVE, RFC 1122, 4.2.3.6): false, true (the system's times), or after how
            many seconds without traffic the first probe goes out (TCP_KEEPIDLE).
        half_open: the peer's end of stream leaves the connection open for sending until ``close``.
        framing: what one chunk is: ``raw`` (as it comes), ``line`` (up to and with LF), or ``length-1``, ``length-2``,
            ``length-4`` (a big-endian length of so many bytes, which is taken off, and that many bytes).
        max_frame: bytes of the longest line with its end, or of the longest length-prefixed payload; a longer one
            closes the connection with ``limit``. None is ``read_buffer_limit``, and it is never more.
        read_buffer_limit: bytes received and not yet handled, above which the connection stops reading.
        write_buffer_limit: bytes sent and not yet taken by the system, above which senders wait and reading pauses.
        write_buffer_hard_limit: bytes of the same, beyond which ``send`` is ``limit`` and the connection closes.
        pending_timeout: seconds that an accepted connection may stay neither activated nor transferred.
        receive_timeout: seconds that a ``receive`` waits where it names no timeout; None is without end.
        send_timeout: seconds for which a peer may take nothing of what was sent before the connection closes.
        linger_timeout: seconds that ``close`` goes on flushing what was sent.
        idle_timeout: seconds without a byte in either direction after which the connection closes; None is never.
        handshake_timeout: seconds that a TLS handshake may take, from the call or the accepting on.
        server_tls: how the connection becomes TLS as the server; None is not at all.
        client_tls: how the connection becomes TLS as the client; None is not at all.
    """

    nodelay: Flag = True
    keepalive: bool | KeepaliveIdle = False
    half_open: Flag = False
    framing: Literal["raw", "line", "length-1", "length-2", "length-4"] = "raw"
    max_frame: Size | None = None
    read_buffer_limit: Size = 256 << 10
    write_buffer_limit: Size = 1 << 20
    write_buffer_hard_limit: Size = 16 << 20
    pending_timeout: Duration = 30.0
    receive_timeout: Duration | None = None
    send_timeout: Duration = 30.0
    linger_timeout: Duration = 5.0
    idle_timeout: Duration | None = None
    handshake_timeout: Duration = 10.0
    server_tls: ServerTls | None = None
    client_tls: ClientTls | None = None

    def _check_together(self) -> None:
        if self.write_buffer_hard_limit < self.write_buffer_limit:
            raise InvalidArgument(
                f"write_buffer_hard_limit: {self.write_buffer_hard_limit} is below"
                f" write_buffer_limit ({self.write_buffer_limit})"
            )
        if self.max_frame is not None and self.max_frame > self.read_buffer_limit:
            raise InvalidArgument(f"max_frame: {self.max_frame} is above read_buffer_limit ({self.read_buffer_limit})")

    @property
    def frame_limit(self) -> int:
        """Bytes of the longest frame: ``max_frame``, or ``read_buffer_limit`` where it is None."""
        return self.read_buffer_limit if self.max_frame is None else self.max_frame


class ListenOptions(Checked, frozen=True, kw_only=True):
    """What can be set for each listener.

    Args:
        backlog: connections that the system may hold ready for accepting; the system caps it (net.core.somaxconn).
        max_connections: connections of this listener at one time, pending ones included; None leaves it to the
            runtime's limit.
        at_limit: at the limit, ``pause`` stops accepting and ``refuse`` accepts and resets.
        reuse_port: other processes may listen at the same port, and the system spreads connections (SO_REUSEPORT).
        unix_mode: the mode of a Unix socket's file as a number (0o660); None leaves it to the umask.
    """

    backlog: Backlog = 4096
    max_connections: Count | None = None
    at_limit: Literal["pause", "refuse"] = "pause"
    reuse_port: Flag = False
    unix_mode: FileMode | None = None


class Settings(Checked, frozen=True, kw_only=True):
    """What can be set for a runtime as a whole.

    Args:
        options: what a connection has where nobody said otherwise.
        listener: what a listener has where nobody said otherwise.
        permissions: where an actor may connect to and listen; None for an actor that is trusted.
        connect_timeout: seconds that a ``connect`` may take, its name's resolution included.
        connection_attempt_delay: seconds between the attempts at a name's addresses (RFC 8305, 5).
        max_connections: accepted connections of the runtime at one time, pending ones included.
        accept_pause: seconds without accepting after the system ran out of descriptors or memory.
        drain_timeout: seconds that connections may take to end after a request to shut down; 0 aborts them at once.
        resolver_threads: threads for the resolution of names.
        worker_threads: threads for the blocking work of actors.
        guest_stack: bytes of stack that the functions of a WebAssembly guest may use.
        guest_cache: the folder where compiled guests are kept; None for the user's own, an empty text for none.
    """

    options: Options = Options()
    listener: ListenOptions = ListenOptions()
    permissions: Permissions | None = None
    connect_timeout: Duration = 30.0
    connection_attempt_delay: Duration = 0.25
    max_connections: Count = 10_000
    accept_pause: Duration = 0.1
    drain_timeout: Grace = 30.0
    resolver_threads: Threads = 4
    worker_threads: Threads = 8
    guest_stack: Size = 512 << 10
    guest_cache: FolderPath | None = None

    def for_connection(self, **changes: Any) -> Options:
        """The options of a new connection: the runtime's, and what the caller named.

        Raises:
            InvalidArgument: see :meth:`Options.replaced`.
        """
        return self.options.replaced(**changes)

    def for_listener(self, **changes: Any) -> tuple[Options, ListenOptions]:
        """The options of a new listener's connections and its own: the runtime's, and what the caller named.

        Raises:
            InvalidArgument: a name that neither has, or see :meth:`Options.replaced`.
        """
        if not changes:
            return self.options, self.listener
        own = {name: changes.pop(name) for name in ListenOptions.field_names() if name in changes}
        for name in changes:
            if name not in Options.field_names():
                raise unknown_name(name, Options.field_names() + ListenOptions.field_names())
        return self.options.replaced(**changes), self.listener.replaced(**own)


def checked_settings(settings: object) -> Settings:
    """These settings.

    Raises:
        InvalidArgument: it is something else.
    """
    if not isinstance(settings, Settings):
        raise InvalidArgument(f"settings: expected an instance of Settings, got {type(settings).__name__}")
    return settings
