"""Mail received over STARTTLS: our SMTP actor and aiosmtpd, and what of it is the handshake alone."""

from __future__ import annotations

import contextlib
import sys
import tempfile
from collections.abc import Callable, Iterator
from pathlib import Path

import msgspec

from benchmarks.catalogue import missing_part
from benchmarks.comparison import Column, Comparison, Figures, take_turns
from benchmarks.load import AGREED, Load, run_load
from benchmarks.measures.handshakes import MEASURE
from benchmarks.plan import Plan
from benchmarks.server import Server, ServerFailed
from benchmarks.suites.messages import start_measure
from benchmarks.suites.smtp import AIOSMTPD, COMMANDS, delivered
from benchmarks.suites.traffic import CPU, preparation_s, start_all

__all__ = ["BEYOND", "HANDSHAKE", "beyond_the_handshake", "smtp_tls"]

HANDSHAKE = "handshake"
"""The contestant that is the server's part of a TLS handshake in memory: what nobody can do without."""

BEYOND = "beyond_us"
"""The figure that is the CPU beyond that."""

_SESSIONS = 20
_SIZE = 4096
_MAIL = Load(
    f"{_SESSIONS} sessions",
    f"{_SESSIONS} slots: connect, STARTTLS ({AGREED}), a message of {_SIZE} B, QUIT, close; into a Maildir",
    "mail",
    _SESSIONS,
    _SIZE,
    tls="smtp",
)


def smtp_tls(plan: Plan) -> Iterator[Comparison]:
    """Messages of 4 KiB, each over a connection of its own that is upgraded."""
    certificate = plan.certificate
    if certificate is None:
        return
    commands = dict(COMMANDS)
    if reason := missing_part(modules=["aiosmtpd"]):
        plan.missing[AIOSMTPD] = reason
        commands = {name: command for name, command in commands.items() if AIOSMTPD not in command[0]}
    plan.say(f"smtp-tls, {_MAIL.name}: {_MAIL.about}")
    failures: dict[str, str] = {}
    with contextlib.ExitStack() as stack:
        folder = Path(stack.enter_context(tempfile.TemporaryDirectory(prefix="benchmark-mail-")))
        arguments = certificate.arguments("starttls")
        count = 20 if plan.quick else max(50, round(1_000 * plan.seconds))
        servers = start_all(
            stack,
            plan,
            {
                name: [sys.executable, "-m", f"benchmarks.servers.{module}", str(folder / name), kind, *arguments]
                for name, (module, kind) in commands.items()
            },
            failures,
        )
        program = stack.enter_context(start_measure(HANDSHAKE, "handshakes", *arguments[:-1], str(count)))

        def measure(name: str, seconds: float, ca: Path | None = None) -> Callable[[], Figures]:
            return lambda: _send(servers[name], folder / name, seconds, ca)

        def shake_hands() -> Figures:
            return msgspec.json.decode(program.ask(MEASURE), type=dict[str, float])

        mails = {name: measure(name, preparation_s(plan), certificate.ca) for name in servers}
        _, unprepared = take_turns({HANDSHAKE: shake_hands, **mails}, 2)
        mails = {name: measure(name, plan.seconds) for name in servers if name not in unprepared}
        rounds, dropped = take_turns({**mails, HANDSHAKE: shake_hands}, plan.rounds)
    failures |= unprepared | dropped
    columns = (
        Column(CPU.figure, "CPU µs/message", 0),
        Column(BEYOND, "beyond the handshake", 0),
        Column("per_second", "messages/s", 0),
        Column("delivered", "delivered a round", 0),
        Column("client_cpu_us", "client CPU µs", 0),
    )
    beyond_the_handshake(rounds)
    yield Comparison("smtp-tls", _MAIL.name, _MAIL.about, CPU.figure, columns, rounds, failures=failures)


def beyond_the_handshake(rounds: dict[str, list[Figures]]) -> None:
    """Put beside each cost what of it is beyond the handshake that was measured in the same round."""
    bare = [figures[CPU.figure] for figures in rounds.get(HANDSHAKE, ())]
    for name, measured in rounds.items():
        if name != HANDSHAKE:
            for figures, handshake in zip(measured, bare, strict=False):
                figures[BEYOND] = figures[CPU.figure] - handshake


def _send(server: Server, maildir: Path, seconds: float, ca: Path | None) -> Figures:
    """Send messages, and count what has come into the Maildir."""
    before = delivered(maildir)
    result = run_load(server, _MAIL, seconds=seconds, ca=ca)
    came = delivered(maildir) - before
    if result.errors or came != result.lives:
        reason = f" ({result.first_error})" if result.errors else ""
        raise ServerFailed(f"{server.name}: {came} of {result.lives} messages lie in the Maildir{reason}")
    return {**result.figures(), "delivered": came}
