"""TCP connections and listeners as pykka actors on one event loop.

The names below are the public ones; ``docs/api.md`` tells what each is for.
"""

from __future__ import annotations

from theater_tcp.actor import LoopActor
from theater_tcp.blocking import BlockingConnectionHandle, BlockingListenerHandle, BlockingTcp, TcpMixin
from theater_tcp.certificates import CertificateFacts
from theater_tcp.connection import Connection
from theater_tcp.errors import BlockingCall, TheaterError, WrongThread
from theater_tcp.event_loop import EventLoop, Timer
from theater_tcp.future import Future
from theater_tcp.guest_settings import Limits
from theater_tcp.listener import Listener, ListenerInfo
from theater_tcp.metrics import Metrics
from theater_tcp.permissions import Permissions
from theater_tcp.runtime import Theater
from theater_tcp.settings import ListenOptions, Options, Settings
from theater_tcp.tcp import ConnectionHandle, ListenerHandle, Tcp, TcpActor
from theater_tcp.tls_engine import TlsInfo
from theater_tcp.tls_settings import CertificateFiles, ClientTls, ServerTls

__version__ = "0.1.0"

__all__ = [
    "BlockingCall",
    "BlockingConnectionHandle",
    "BlockingListenerHandle",
    "BlockingTcp",
    "CertificateFacts",
    "CertificateFiles",
    "ClientTls",
    "Connection",
    "ConnectionHandle",
    "EventLoop",
    "Future",
    "Limits",
    "ListenOptions",
    "Listener",
    "ListenerHandle",
    "ListenerInfo",
    "LoopActor",
    "Metrics",
    "Options",
    "Permissions",
    "ServerTls",
    "Settings",
    "Tcp",
    "TcpActor",
    "TcpMixin",
    "Theater",
    "TheaterError",
    "Timer",
    "TlsInfo",
    "WrongThread",
    "__version__",
]
