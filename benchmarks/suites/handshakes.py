"""What a TLS handshake costs: full, resumed, and on a connection that was plaintext before."""

from __future__ import annotations

from collections.abc import Iterator

from benchmarks.catalogue import OURS
from benchmarks.comparison import Column, Comparison
from benchmarks.load import Load
from benchmarks.plan import Plan
from benchmarks.servers.tls_launch import COMMAND
from benchmarks.suites.tls import secure_peers
from benchmarks.suites.traffic import COUNTS, CPU, LATENCY, compare_loads

__all__ = ["FULL", "FULL_ONES", "RESUMED", "UPGRADE", "UPGRADED", "handshakes"]

FULL = "full"
RESUMED = "resumed"
UPGRADE = "upgrade"

FULL_ONES = f"{OURS}, full"
"""Our full handshakes, beside the resumed ones."""

UPGRADED = " upgraded"
"""What is appended to a server's name where the connections are upgraded."""

_SLOTS = 8
_COLUMNS = (
    CPU,
    Column("per_cpu_second", "lives/CPU s", 0),
    Column("per_second", "lives/s", 0),
    Column("tickets", "tickets each", 2),
    *LATENCY,
    *COUNTS,
)


def handshakes(plan: Plan) -> Iterator[Comparison]:
    """Connections that come, shake hands, and go."""
    certificate = plan.certificate
    if certificate is None:
        return
    life = "connect, handshake (TLS 1.3, ECDSA P-256), close_notify and FIN, the server's end, close"
    full = Load(FULL, f"{_SLOTS} slots: {life}", "meet", _SLOTS, tls="accept")
    resumed = Load(RESUMED, f"{full.about}; each resumes the session before", "meet", _SLOTS, tls="accept", resume=True)
    peers = {peer.name: peer.tls_command for peer in secure_peers(plan)}
    at_accept = {name: [*command, *certificate.arguments("accept")] for name, command in peers.items()}
    upgraded = {name: [*command, *certificate.arguments("starttls")] for name, command in peers.items()}

    contestants = {name: (command, full) for name, command in at_accept.items()}
    yield compare_loads(plan, "handshakes", FULL, full.about, contestants, _COLUMNS, ca=certificate.ca)

    contestants = {name: (command, resumed) for name, command in at_accept.items()}
    if OURS in at_accept:
        contestants[FULL_ONES] = at_accept[OURS], full
    yield compare_loads(plan, "handshakes", RESUMED, resumed.about, contestants, _COLUMNS, ca=certificate.ca)

    # Both exchange one line: one before the handshake, the other after it.
    line = Load("line", "", "churn", _SLOTS, len(COMMAND), tls="accept")
    upgrade = Load(UPGRADE, "", "meet", _SLOTS, tls="line")
    about = f"{_SLOTS} slots: a life with one line there and back: after the handshake, or before it (upgraded)"
    contestants, against = {}, {}
    for name in peers:
        contestants[name] = at_accept[name], line
        contestants[name + UPGRADED] = upgraded[name], upgrade
        against[name] = against[name + UPGRADED] = name
    yield compare_loads(plan, "handshakes", UPGRADE, about, contestants, _COLUMNS, against=against, ca=certificate.ca)
