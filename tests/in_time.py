"""For what must not hang: a call that has to come back in time, wherever the fault would leave it waiting."""

from __future__ import annotations

import contextvars
import threading
from typing import TYPE_CHECKING, Any, TypeVar

if TYPE_CHECKING:
    from collections.abc import Callable

__all__ = ["TIMEOUT", "in_time"]

T = TypeVar("T")

TIMEOUT = 10.0
"""Seconds after which something that should have happened has failed."""


def in_time(call: Callable[[], T], timeout: float = TIMEOUT) -> T:
    """What ``call()`` returns or raises, done by another thread that can be left behind if it hangs.

    Raises:
        AssertionError: it did not come back within ``timeout`` seconds.
    """
    outcome: list[Any] = []
    context = contextvars.copy_context()

    def run() -> None:
        try:
            outcome.append((context.run(call), None))
        except BaseException as error:
            outcome.append((None, error))

    thread = threading.Thread(target=run, name="in-time", daemon=True)
    thread.start()
    thread.join(timeout)
    assert outcome, f"it hangs: nothing came back within {timeout:g} s"
    value, error = outcome[0]
    if error is not None:
        raise error
    returned: T = value
    return returned
