"""Mail received: our SMTP actor, our SMTP guest and aiosmtpd, all into a Maildir, under postfix's ``smtp-source``."""

from __future__ import annotations

import contextlib
import os
import shutil
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path

from benchmarks.catalogue import OURS, missing_part
from benchmarks.comparison import Column, Comparison, Figures, take_turns
from benchmarks.plan import Plan
from benchmarks.server import Server, ServerFailed

__all__ = ["AIOSMTPD", "COMMANDS", "GUEST", "OURS_FSYNC", "delivered", "smtp", "smtp_guest"]

AIOSMTPD = "aiosmtpd"
"""aiosmtpd with the Maildir handler that it ships."""
LEAN = "aiosmtpd, lean"
"""aiosmtpd with a handler that only writes the bytes to a file."""
OURS_FSYNC = "ours, fsync"
GUEST = "guest"
"""A guest for each connection, with the store behind it, both in one process."""

COMMANDS = {
    OURS: ("smtp_ours", "no-fsync"),
    OURS_FSYNC: ("smtp_ours", "fsync"),
    AIOSMTPD: ("smtp_aiosmtpd", "own"),
    LEAN: ("smtp_aiosmtpd", "lean"),
}
"""For each contestant the program, and what it is told behind its Maildir."""

_SIZE = 4096
_SESSIONS = (1, 20)
_PROGRAM = "smtp-source"


def smtp(plan: Plan) -> Iterator[Comparison]:
    """Messages of 4 KiB, over one and over twenty sessions at a time."""
    yield from _suite(plan, "smtp", COMMANDS)


def smtp_guest(plan: Plan) -> Iterator[Comparison]:
    """The same with the server as a guest for each connection, beside our actor and aiosmtpd."""
    ours = {name: command for name, command in COMMANDS.items() if name != OURS_FSYNC}
    yield from _suite(plan, "smtp-guest", {**ours, GUEST: ("smtp_guest",)})


def _suite(plan: Plan, suite: str, programs: Mapping[str, tuple[str, ...]]) -> Iterator[Comparison]:
    # Debian keeps postfix's test programs where only root looks.
    client = shutil.which(_PROGRAM, path=os.pathsep.join([os.environ.get("PATH", ""), "/usr/sbin", "/usr/lib/postfix"]))
    if client is None:
        plan.missing[_PROGRAM] = f"not installed (Postfix has it), so there are no figures for {suite}"
        return
    commands = dict(programs)
    if reason := missing_part(modules=["aiosmtpd"]):
        plan.missing[AIOSMTPD] = reason
        del commands[AIOSMTPD], commands[LEAN]
    failures: dict[str, str] = {}
    with contextlib.ExitStack() as stack:
        folder = Path(stack.enter_context(tempfile.TemporaryDirectory(prefix="benchmark-mail-")))
        servers: dict[str, tuple[Server, Path]] = {}
        for name, (module, *arguments) in commands.items():
            maildir = folder / name
            command = [sys.executable, "-m", f"benchmarks.servers.{module}", str(maildir), *arguments]
            try:
                servers[name] = stack.enter_context(Server(name, command)), maildir
            except ServerFailed as error:
                failures[name] = str(error)
                plan.say(f"{name} is left out: {error}")
        for sessions in _SESSIONS:
            yield _compare(plan, suite, client, sessions, servers, failures)


def _compare(
    plan: Plan,
    suite: str,
    client: str,
    sessions: int,
    servers: dict[str, tuple[Server, Path]],
    failures: dict[str, str],
) -> Comparison:
    count = 40 if plan.quick else max(40, round(600 * plan.seconds))
    case = f"{sessions} session{'s' if sessions > 1 else ''}"
    about = f"smtp-source, {case} at a time, a message of {_SIZE} B in each, {count} messages a round, into a Maildir"
    plan.say(f"{suite}, {case}: {about}")

    def measure(server: Server, maildir: Path, messages: int) -> Callable[[], Figures]:
        return lambda: _send(client, server, maildir, sessions, messages)

    take_turns({name: measure(*server, 40) for name, server in servers.items()}, 1)
    rounds, dropped = take_turns({name: measure(*server, count) for name, server in servers.items()}, plan.rounds)
    columns = (
        Column("cpu_us", "CPU µs/message", 0),
        Column("per_second", "messages/s", 0),
        Column("delivered", "delivered a round", 0),
    )
    return Comparison(suite, case, about, "cpu_us", columns, rounds, failures={**failures, **dropped})


def _send(client: str, server: Server, maildir: Path, sessions: int, messages: int) -> Figures:
    """Send the messages, and count what has come into the Maildir.

    Nothing is deleted before the end of the run: ext4 does not use a freed inode again for some seconds, and creating
    files beside thousands of these costs 200 µs each, in every server alike.
    """
    before = delivered(maildir)
    command = [client, "-s", str(sessions), "-m", str(messages), "-l", str(_SIZE)]
    command += ["-f", "from@example.org", "-t", "to@example.org", f"inet:127.0.0.1:{server.port}"]
    cpu, begun = server.cpu_us(), time.monotonic()
    done = subprocess.run(command, capture_output=True, text=True, check=False, stdin=subprocess.DEVNULL)
    seconds, cpu = time.monotonic() - begun, server.cpu_us() - cpu
    if done.returncode:
        raise ServerFailed(f"{server.name}: {_PROGRAM} failed: {done.stderr.strip() or done.returncode}")
    came = delivered(maildir) - before
    if came != messages:
        raise ServerFailed(f"{server.name}: {came} of {messages} messages lie in the Maildir")
    return {"cpu_us": cpu / messages, "per_second": messages / seconds, "delivered": came}


def delivered(maildir: Path) -> int:
    """How many messages lie in a Maildir, or in its folders."""
    return sum(path.stat().st_size >= _SIZE for path in maildir.glob("**/new/*"))
