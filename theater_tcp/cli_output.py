"""How the command line speaks: for people on a terminal, or as JSON, one object a line."""

from __future__ import annotations

import json
import logging
import os
import sys
import threading
import time
from typing import Any

from rich.console import Console
from rich.text import Text

from theater_tcp.manifest_document import Problem

__all__ = ["Output", "configure_logging", "fields_of"]


class _Console(Console):
    """Rich's console, but a reader that went away doesn't end the process."""

    def on_broken_pipe(self) -> None:
        raise BrokenPipeError


class Output:
    """Where a command says what it has to say, for people or as JSON."""

    def __init__(self, as_json: bool) -> None:
        self.as_json = as_json
        self._lock = threading.Lock()  # the main thread speaks, and the one that follows the signals
        # soft_wrap: a line stays a line, however narrow the terminal is.
        self.console = _Console(soft_wrap=True, highlight=False, markup=False, emoji=False)

    def event(self, text: str, event: str, style: str = "", **fields: Any) -> None:
        """Say on stdout what happened. A reader that went away is no reason to stop serving."""
        with self._lock:
            try:
                if self.as_json:
                    print(json.dumps({"event": event, **fields}), flush=True)
                else:
                    self.console.print(Text(text, style))
            except OSError:
                os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())

    def problem(self, problem: Problem) -> None:
        """Say on stderr what is wrong."""
        as_object = {"event": "problem", **fields_of(problem)}
        line = json.dumps(as_object) if self.as_json else f"theater-tcp: {problem}"
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
    """Send the log to stderr, from a level on."""
    handler = logging.StreamHandler()
    handler.setFormatter(
        _JsonFormatter() if as_json else logging.Formatter("%(asctime)s %(levelname)s %(name)s: %(message)s")
    )
    logging.basicConfig(level=level.upper(), handlers=[handler], force=True)


def fields_of(problem: Problem) -> dict[str, Any]:
    """A problem as JSON has it."""
    return {"file": problem.file, "line": problem.line, "key": problem.key, "reason": problem.reason}
