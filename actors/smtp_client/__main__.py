"""``python -m actors.smtp_client --server HOST:PORT --from ADDRESS --to ADDRESS < message``."""

from __future__ import annotations

import sys
from typing import Annotated

import typer

from actors.smtp_client.client import SmtpClient
from actors.smtp_client.receipt import Receipt
from actors.smtp_client.submission import Submission
from theater_tcp import Theater, TheaterError

NOT_ACCEPTED = 1
WRONG_USE = 2


def send(
    server: Annotated[str, typer.Option(help="host:port, [v6]:port or unix:/path")],
    sender: Annotated[str, typer.Option("--from", help="the sender; '' for none")],
    recipients: Annotated[list[str], typer.Option("--to", help="a recipient; may be given several times")],
    tls: Annotated[str, typer.Option(help="required, opportunistic, implicit or none")] = "required",
    verify: Annotated[bool, typer.Option("--verify", help="with opportunistic: verify where there is TLS")] = False,
    ca_cert: Annotated[str | None, typer.Option(help="the CA certificates (PEM) to verify with")] = None,
    server_name: Annotated[str | None, typer.Option(help="the name that the certificate has to have")] = None,
    name: Annotated[str | None, typer.Option(help="the own name, for EHLO")] = None,
) -> None:
    """Send the message on standard input. Exits with 0 if every recipient was accepted, else with 1."""
    try:
        submission = Submission(sender, tuple(recipients), sys.stdin.buffer.read())
        with Theater() as theater:
            client = theater.spawn(
                SmtpClient, server, tls=tls, verify=verify or None, ca_cert=ca_cert, server_name=server_name, name=name
            )
            receipt: Receipt = client.ask(submission, block=True)
    except TheaterError as error:
        print(error, file=sys.stderr)
        raise typer.Exit(WRONG_USE) from None
    print(receipt)
    if not receipt.is_accepted:
        raise typer.Exit(NOT_ACCEPTED)


if __name__ == "__main__":
    typer.run(send)
