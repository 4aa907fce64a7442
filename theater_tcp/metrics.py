"""What a runtime counts, each thing named once. Counters only grow; gauges say how it is now."""

from __future__ import annotations

import msgspec

__all__ = ["Metrics"]


class Metrics(msgspec.Struct):
    """Counts of one runtime since its start.

    Args:
        connections: gauge; connections whose socket is open, accepted and connected ones.
        listeners: gauge; listeners that are open.
        accepted: connections accepted.
        connected: connections opened by ``connect``.
        connect_failures: attempts of ``connect`` that failed.
        denied: calls of ``connect`` and ``listen`` that the permissions refused.
        closed: connections whose socket has been closed.
        paused_at_limit: times that a listener stopped accepting at ``max_connections``.
        refused_at_limit: connections reset at ``max_connections`` (``at_limit: refuse``).
        accept_aborted: connections that were gone before they were accepted (ECONNABORTED).
        accept_exhausted: times that accepting paused for want of descriptors or memory.
        transfers: handovers of a connection from one actor to another.
        callback_failures: callbacks that raised.
        timeouts: connections closed by one of the timeouts.
        handshakes: TLS handshakes that were completed.
        handshake_failures: TLS handshakes that failed or took too long.
        resumed_sessions: handshakes that took up an earlier session.
        plaintext_before_tls: upgrades refused because bytes had slipped in before the handshake.
        certificate_reloads: times that changed certificate files were taken up.
        guest_traps: WebAssembly guests that were ended because they broke a rule or a limit.
        certificate_reload_failures: times that changed certificate files were refused, and the old ones kept.
    """

    connections: int = 0
    listeners: int = 0
    accepted: int = 0
    connected: int = 0
    connect_failures: int = 0
    denied: int = 0
    closed: int = 0
    paused_at_limit: int = 0
    refused_at_limit: int = 0
    accept_aborted: int = 0
    accept_exhausted: int = 0
    transfers: int = 0
    callback_failures: int = 0
    timeouts: int = 0
    handshakes: int = 0
    handshake_failures: int = 0
    resumed_sessions: int = 0
    plaintext_before_tls: int = 0
    guest_traps: int = 0
    certificate_reloads: int = 0
    certificate_reload_failures: int = 0
