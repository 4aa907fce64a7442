"""What a callback's exception means for its connection: a mistake, the connection's own end, or the runtime's."""

from __future__ import annotations

import pytest

from theater_tcp.callback_failure import ended_with_its_connection, is_goodbye, reason_for
from theater_tcp.errors import CallbackFailed, Closed, Reset, ShutDown, TimedOut


@pytest.mark.parametrize(
    ("error", "reason", "ended"),
    [
        (Reset(), "reset", True),
        (CallbackFailed("a guest passed it on", cause="reset"), "reset", True),
        (Closed(), "reset", True),  # a call that came after the end
        (Reset(), None, False),  # of another connection
        (TimedOut(), "reset", False),  # of something else
        (CallbackFailed("a trap"), "reset", False),
        (ConnectionResetError(), "reset", False),  # of a socket of the owner's own
        (ValueError(), "reset", False),
    ],
)
def test_an_error_is_the_connections_end_if_a_call_told_it_so(
    error: BaseException, reason: str | None, ended: bool
) -> None:
    assert ended_with_its_connection(error, reason) is ended


@pytest.mark.parametrize(
    ("error", "reason"),
    [
        (ValueError("of nobody's business"), "callback: ValueError"),
        (CallbackFailed("a trap"), "callback: a trap"),
        (ShutDown(), "shutdown"),
        (CallbackFailed("a guest passed it on", cause="shutdown"), "shutdown"),
    ],
)
def test_a_failed_callback_ends_its_connection_for_a_reason_without_its_text(error: BaseException, reason: str) -> None:
    assert reason_for(error) == reason
    assert is_goodbye(error) is (reason == "shutdown")
