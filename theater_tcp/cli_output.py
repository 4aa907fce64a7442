"""How the command line speaks: for people on a terminal, or as JSON, one object a line.

stdout may go away under it: a pipe that its reader has closed, a disk that is full. Rich and Typer would end the
process then, each in its own way, and a ``print`` would end the actor that it stands in. :func:`guarded_stdout` is told
instead.
"""

from __future__ import annotations

import contextlib
import io
import json
import logging
import os
import sys
import threading
import time
from collections.abc import Callable, Iterator
from typing import Any, TextIO, cast

from rich.console import Console
from rich.text import Text

from theater_tcp.manifest_document import Problem

__all__ = ["Output", "StdoutLost", "configure_logging", "fields_of", "guarded_stdout"]


class StdoutLost(OSError):
    """stdout can't be written to any more. It has no ``errno``, which Typer would look at.

    Args:
        cause: the system's error.
    """

    def __init__(self, cause: OSError) -> None:
        super().__init__(f"stdout: {(cause.strerror or str(cause)).lower()}")
        self.is_closed_pipe = isinstance(cause, BrokenPipeError)


def raise_lost(error: StdoutLost) -> None:
    """For :func:`guarded_stdout`, where all that a command has to do is to say something."""
    raise error from None


@contextlib.contextmanager
def guarded_stdout(lost: Callable[[StdoutLost], None] = raise_lost) -> Iterator[None]:
    """While it lasts, any letter can be written to stdout, and an error of writing there is known from all others.

    Args:
        lost: told of the first error; what is written from then on goes nowhere. A guard inside of another one comes
            before it.
    """
    stream: TextIO | None = sys.stdout
    if stream is None:  # the process was started without one
        yield
        return
    if isinstance(stream, io.TextIOWrapper):
        stream.reconfigure(errors="backslashreplace")  # names may have letters that the encoding hasn't
    guarded = _Guarded(stream, lost)
    with contextlib.redirect_stdout(cast("TextIO", guarded)):
        yield
        guarded.flush()


class _Guarded:
    """A stream whose errors are told instead of raised."""

    def __init__(self, stream: TextIO, lost: Callable[[StdoutLost], None]) -> None:
        self._stream = stream
        self._lost = lost

    def __getattr__(self, name: str) -> Any:
        return getattr(self._stream, name)

    def write(self, text: str) -> int:
        self._try(lambda: self._stream.write(text))
        return len(text)

    def flush(self) -> None:
        self._try(self._stream.flush)

    def _try(self, call: Callable[[], object]) -> None:
        try:
            call()
        except StdoutLost as lost:  # of the guard around this one
            self._lost(lost)
        except OSError as error:
            with open(os.devnull, "wb") as nowhere:
                os.dup2(nowhere.fileno(), self._stream.fileno())  # what the buffer holds goes there too
            self._lost(StdoutLost(error))


class Output:
    """Where a command says what it has to say, for people or as JSON."""

    def __init__(self, as_json: bool) -> None:
        self.as_json = as_json
        self._lock = threading.Lock()  # the main thread speaks, and the one that follows the signals
        # soft_wrap: a line stays a line, however narrow the terminal is.
        self.console = Console(soft_wrap=True, highlight=False, markup=False, emoji=False)

    def event(self, text: str, event: str, style: str = "", **fields: Any) -> None:
        """Say on stdout what happened."""
        with self._lock:
            if self.as_json:
                print(json.dumps({"event": event, **fields}), flush=True)
            else:
                self.console.print(Text(text, style))

    def problem(self, problem: Problem) -> None:
        """Say on stderr what is wrong."""
        as_object = {"event": "problem", **fields_of(problem)}
        line = json.dumps(as_object) if self.as_json else f"theater-tcp: {problem}"
        with contextlib.suppress(OSError):  # then the exit code has to do
            print(line, file=sys.stderr, flush=True)


class _JsonFormatter(logging.Formatter):
    """A log line as a JSON object: time (UTC), level, logger, message, and the traceback where there is one."""

    def format(self, record: logging.LogRecord) -> str:
        moment = time.strftime("%Y-%m-%dT%H:%M:%S", time.gmtime(record.created))
        fields = {
            "time": f"{moment}.{int(record.msecs):03d}Z",
            "level": record.levelname.lower(),
            "logger": record.name,
            "message": record.getMessage(),
        }
        if record.exc_info:
            fields["traceback"] = self.formatException(record.exc_info)
        return json.dumps(fields)


def configure_logging(level: str, as_json: bool) -> None:
    """Send the log to stderr, from a level on, and Python's warnings with it."""
    handler = logging.StreamHandler()
    handler.setFormatter(
        _JsonFormatter() if as_json else logging.Formatter("%(asctime)s %(levelname)s %(name)s: %(message)s")
    )
    logging.basicConfig(level=level.upper(), handlers=[handler], force=True)
    logging.captureWarnings(True)


def fields_of(problem: Problem) -> dict[str, Any]:
    """A problem as JSON has it."""
    return {"file": problem.file or None, "line": problem.line, "key": problem.key, "reason": problem.reason}
