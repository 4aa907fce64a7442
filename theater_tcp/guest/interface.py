"""Package ``theater:simple``: what a guest may import and what it may export, as ``wit/`` says it too.

A test compares the two word by word. What the functions are for stands there.
"""

from __future__ import annotations

from collections.abc import Mapping
from types import MappingProxyType

from theater_tcp.guest.wit_types import (
    BOOL,
    BYTES,
    STRING,
    U32,
    U64,
    Enum,
    Function,
    List,
    Option,
    Record,
    Result,
    WitType,
)

__all__ = [
    "ALWAYS_GRANTED",
    "BLOCKING",
    "EXPORTS",
    "GRANTED_BY_NAME",
    "IMPORTS",
    "INIT",
    "LEVEL",
    "PACKAGE",
    "PEER_CERTIFICATE",
    "TAKES_CONNECTIONS",
    "TLS_SESSION",
]

PACKAGE = "theater:simple"

LEVEL = Enum("level", ("debug", "info", "warning", "error"))

PEER_CERTIFICATE = Record(
    "peer-certificate",
    (("subject", STRING), ("issuer", STRING), ("names", List(STRING)), ("fingerprint", STRING)),
)

TLS_SESSION = Record(
    "tls-session",
    (
        ("version", STRING),
        ("cipher", STRING),
        ("alpn", Option(STRING)),
        ("server-name", Option(STRING)),
        ("resumed", BOOL),
        ("peer-certificate", Option(PEER_CERTIFICATE)),
    ),
)


def _fails(ok: WitType | None = None) -> Result:
    return Result(ok, STRING)


def _interface(name: str, functions: dict[str, tuple[dict[str, WitType], WitType | None]]) -> Mapping[str, Function]:
    full = f"{PACKAGE}/{name}"
    return MappingProxyType(
        {each: Function(full, each, tuple(params.items()), result) for each, (params, result) in functions.items()}
    )


_CONNECTION: dict[str, WitType] = {"connection-id": STRING}
_LISTENER: dict[str, WitType] = {"listener-id": STRING}

_TCP = _interface(
    "tcp",
    {
        "connect": ({"address": STRING}, _fails(STRING)),
        "listen": ({"address": STRING}, _fails(STRING)),
        "accept": (_LISTENER, _fails(STRING)),
        "activate": (_CONNECTION, _fails()),
        "set-active": ({**_CONNECTION, "mode": STRING}, _fails()),
        "transfer": ({**_CONNECTION, "target-actor": STRING}, _fails()),
        "peer-address": (_CONNECTION, _fails(STRING)),
        "send": ({**_CONNECTION, "data": BYTES}, _fails(U64)),
        "receive": ({**_CONNECTION, "max-bytes": U32}, _fails(BYTES)),
        "close": (_CONNECTION, _fails()),
        "close-listener": (_LISTENER, _fails()),
        "upgrade-to-tls-server": (_CONNECTION, _fails()),
        "upgrade-to-tls-client": ({**_CONNECTION, "server-name": STRING}, _fails()),
    },
)

_TCP_EXT = _interface(
    "tcp-ext",
    {
        "local-address": (_CONNECTION, _fails(STRING)),
        "listener-address": (_LISTENER, _fails(STRING)),
        "shutdown-write": (_CONNECTION, _fails()),
        "abort": (_CONNECTION, _fails()),
        "set-framing": ({**_CONNECTION, "framing": STRING, "max-frame": U32}, _fails()),
        "set-option": ({**_CONNECTION, "name": STRING, "value": STRING}, _fails()),
        "tls-info": (_CONNECTION, _fails(Option(TLS_SESSION))),
        "tls-available": (_CONNECTION, _fails(BOOL)),
    },
)

_RUNTIME = _interface(
    "runtime",
    {
        "log": ({"level": LEVEL, "message": STRING}, None),
        "self": ({}, STRING),
        "shutdown": ({}, None),
    },
)

_CLOCK = _interface("clock", {"now": ({}, U64)})

_ACTOR = _interface("actor", {"init": ({"config": BYTES}, _fails())})

_TCP_CLIENT = _interface(
    "tcp-client",
    {
        "handle-connection": (_CONNECTION, _fails()),
        "handle-connection-transfer": (_CONNECTION, _fails()),
        "on-data": ({**_CONNECTION, "data": BYTES}, _fails()),
        "on-passive": (_CONNECTION, _fails()),
        "on-close": ({**_CONNECTION, "reason": STRING}, _fails()),
    },
)

IMPORTS: Mapping[str, Mapping[str, Function]] = MappingProxyType(
    {f"{PACKAGE}/{name}": functions
     for name, functions in (("tcp", _TCP), ("tcp-ext", _TCP_EXT), ("runtime", _RUNTIME), ("clock", _CLOCK))}
)  # fmt: skip
"""The functions that a guest may import: interface, then name."""

EXPORTS: Mapping[str, Function] = MappingProxyType(
    {function.full_name: function for functions in (_ACTOR, _TCP_CLIENT) for function in functions.values()}
)
"""The functions that a guest may export, by the names that a core module exports them under."""

INIT = _ACTOR["init"].full_name
"""The one export that every guest has."""

TAKES_CONNECTIONS: frozenset[str] = frozenset(
    _TCP_CLIENT[name].name for name in ("handle-connection", "handle-connection-transfer")
)
"""The exports by which a guest is given a connection, by their short names; a guest that serves has one of them."""

ALWAYS_GRANTED: frozenset[str] = frozenset(f"{PACKAGE}/{name}" for name in ("tcp", "tcp-ext", "runtime"))
"""The interfaces that every guest may import."""

GRANTED_BY_NAME: Mapping[str, str] = MappingProxyType({"clock": f"{PACKAGE}/clock"})
"""The interfaces that a guest may import whose manifest grants them: the grant's name to the interface."""

BLOCKING: frozenset[str] = frozenset(
    _TCP[name].full_name for name in ("connect", "accept", "receive", "upgrade-to-tls-server", "upgrade-to-tls-client")
)
"""The functions that usually have to wait, by full name. ``send`` has to now and then."""
