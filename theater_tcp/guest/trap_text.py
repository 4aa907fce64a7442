"""What wasmtime says of a trap: the reason in one line, and the guest's functions."""

from __future__ import annotations

from theater_tcp.guest.wasm_reader import shown

__all__ = ["backtrace_of", "message_of", "reason_of"]

MAX_FRAMES = 50
"""Functions of a backtrace that are kept."""

MAX_FRAME = 300
"""Characters of each."""

MAX_REASON = 1000
"""Characters of what wasmtime says."""


def message_of(error: Exception) -> str:
    """What an exception of wasmtime-py says. Its traceback, which refers to itself, is not left to the garbage
    collector with all that its frames have."""
    error.__traceback__ = None
    return str(error)


def reason_of(message: str, size: int, limit: int) -> str:
    """Why a guest could not go on, in one line.

    Args:
        message: wasmtime's.
        size: bytes of the guest's memory then.
        limit: bytes that it may have.
    """
    lines = [line.strip() for line in message.splitlines() if line.strip()]
    said = shown(lines[-1], MAX_REASON) if lines else "it failed"
    said = said.removeprefix("0: ").removeprefix("1: ").removeprefix("wasm trap: ")
    if "memory minimum size" in said or ("memory" in said and "exceeds" in said):
        return f"limit: memory: it needs more than {limit} bytes"
    if said == "interrupt":
        return "limit: cpu: its start function ran for longer than it may"
    if "memory count too high" in said:
        return f"limit: memory: {said}"
    if "table minimum size" in said or "table count too high" in said:
        return f"limit: tables: {said}"
    if size and "unreachable" in said:  # what most languages do when they get no more memory
        said = f"{said} (with {size} of {limit} bytes of memory)"
    return said


def backtrace_of(message: str) -> tuple[str, ...]:
    """The guest's functions, the innermost first, each as one printable line.

    Their names are the guest's to choose, line feeds and all, so a line that looks like a frame may be part of a name.
    One whose number isn't the next is left out.
    """
    found: list[str] = []
    for line in message.split("\n"):
        number, colon, frame = line.strip().partition(": ")
        if colon and number == str(len(found)) and " - " in frame:
            found.append(shown(frame.partition(" - ")[2], MAX_FRAME))
            if len(found) == MAX_FRAMES:
                break
    return tuple(found)
