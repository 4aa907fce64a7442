"""What it means for a connection that a callback about it raised."""

from __future__ import annotations

from typing import TYPE_CHECKING

from theater_tcp.errors import CallbackFailed, Closed, ShutDown, TheaterError

if TYPE_CHECKING:
    import logging

__all__ = ["ended_with_its_connection", "is_goodbye", "log_failure", "reason_for"]


def ended_with_its_connection(error: BaseException, reason: str | None) -> bool:
    """Whether the connection ended under the callback's hands, and a call told it so: that is no mistake.

    Args:
        error: what the callback raised.
        reason: why the connection ended, or why nothing can be sent any more; None if neither is so.
    """
    if reason is None:
        return False
    kind = _kind_behind(error)
    return kind != "" and (reason.startswith(kind) or kind == Closed.kind)


def is_goodbye(error: BaseException) -> bool:
    """Whether a callback has only passed on that the runtime is about to end."""
    return _kind_behind(error) == ShutDown.kind


def _kind_behind(error: BaseException) -> str:
    if isinstance(error, CallbackFailed):
        return error.cause
    return error.kind if isinstance(error, TheaterError) else ""


def log_failure(logger: logging.Logger, what: str, error: BaseException) -> None:
    """Say that a callback failed: with the traceback, but for a guest, which has none that is of use."""
    if isinstance(error, CallbackFailed):
        logger.error("%s: %s", what, error)
    else:
        logger.error("%s", what, exc_info=error)


def reason_for(error: BaseException) -> str:
    """With which reason the connection ends. The text of an exception stays here: it may hold anything."""
    if is_goodbye(error):
        return ShutDown.kind
    return str(error) if isinstance(error, CallbackFailed) else f"{CallbackFailed.kind}: {type(error).__name__}"
