"""The command line's ``theater-tcp certs dev | show``: certificates for development, and what a certificate file holds.

``show`` explains files that anybody may have made: what it prints of them is escaped, and it goes on after a file that
is none.
"""

from __future__ import annotations

import json
import shlex
import stat
import warnings
from collections.abc import Sequence
from datetime import UTC, datetime
from pathlib import Path
from typing import Annotated, Any

import msgspec
import typer
import yaml
from cryptography import x509
from rich.console import Console
from rich.text import Text

from theater_tcp.certificate_contents import Contents, PrivateKey, days_left, purposes, read_contents, validity
from theater_tcp.certificate_folder import DEFAULT_NAMES, CertificateFolder, Made, WrongFile, read_file
from theater_tcp.certificates import MAX_DAYS, facts, is_self_signed
from theater_tcp.errors import InvalidArgument
from theater_tcp.manifest import Problem

__all__ = ["CertsError", "app"]

app = typer.Typer(help="Make certificates for development, and explain certificate files.")

Out = Annotated[str, typer.Option("--out", metavar="FOLDER", help="Where the files are put.")]
Names = Annotated[
    list[str] | None,
    typer.Option(
        "--name",
        metavar="NAME",
        help="A host name or address of the server; may be repeated. By default what its certificate was for "
        f"before, or else {', '.join(DEFAULT_NAMES)}.",
        show_default=False,
    ),
]
Days = Annotated[int, typer.Option("--days", metavar="DAYS", help=f"For how many days it is valid, 1 to {MAX_DAYS}.")]
Client = Annotated[
    list[str] | None, typer.Option("--client", metavar="NAME", help="Make a certificate for a client of this name too.")
]
AsJson = Annotated[bool, typer.Option("--json", help="Write JSON, one object a line.")]
Files = Annotated[list[str], typer.Argument(metavar="FILE", help="Certificates or private keys, in PEM or DER.")]


class CertsError(Exception):
    """The command can't do what it was asked for.

    Args:
        problems: the reasons, at least one.
    """

    def __init__(self, *problems: Problem) -> None:
        super().__init__(*problems)
        self.problems = problems


@app.callback(invoke_without_command=True)
def _options(context: typer.Context) -> None:
    if context.invoked_subcommand is None:
        raise CertsError(Problem("", "", "certs: a command is missing: dev, show (--help tells more)"))


# -- dev ----------------------------------------------------------------------------------------------------------


@app.command()
def dev(
    out: Out = "certs", names: Names = None, days: Days = 90, client: Client = None, as_json: AsJson = False
) -> int:
    """Make a development CA, if there is none, and a server's certificate by it; run again, renew the certificate."""
    if not out:
        raise CertsError(Problem("", "--out", "expected the path of a folder, got ''"))
    if client is not None and len(client) > 1:
        raise CertsError(Problem("", "--client", f"expected one name, got {len(client)}"))
    try:
        made = CertificateFolder(Path(out)).make(names, days, client[0] if client else None)
    except WrongFile as error:
        raise CertsError(Problem(str(error.path), "", error.reason)) from None
    except InvalidArgument as error:
        reason = error.detail.removeprefix("days: ")
        raise CertsError(Problem("", "" if reason == error.detail else "--days", reason)) from None
    console = _console()
    for role, part in zip(("ca", "server", "client"), made, strict=True):
        if part is None:
            continue
        if as_json:
            fields = {"role": role, "file": str(part.cert), "key_file": str(part.key), "new": part.is_new}
            _print_json(console, "made", **fields, **msgspec.to_builtins(part.facts))
        else:
            console.print(Text(_told(role, part), "green" if part.is_new else ""))
    if not as_json:
        console.print(_usage(*made))
    return 0


def _told(role: str, made: Made) -> str:
    if role == "ca":
        what = "a new development CA" if made.is_new else "the CA that was there"
    else:
        what = f"a new certificate for {', '.join(made.names)}"
    text = f"{made.cert}: {what}, valid until {made.facts.not_after:%Y-%m-%d}; its key: {made.key}"
    if made.before is not None and made.before != made.names:
        text += f"; instead of the one for {', '.join(made.before)}"
    return text


def _usage(ca: Made, server: Made, client: Made | None) -> str:
    """How to go on from here: what to write into a manifest, and how to see it work."""
    # A manifest may be anywhere, and so may be whoever runs it.
    settings = {"cert": str(server.cert.absolute()), "key": str(server.key.absolute())}
    curl = f"curl --cacert {_quoted(ca.cert)}"
    openssl = f"-CAfile {_quoted(ca.cert)} -verify_return_error"
    if client is not None:
        settings |= {"client_ca": str(ca.cert.absolute()), "client_auth": "required"}
        curl += f" --cert {_quoted(client.cert)} --key {_quoted(client.key)}"
        openssl += f" -cert {_quoted(client.cert)} -key {_quoted(client.key)}"
    host = server.names[0].replace("*", "www")
    is_v6 = ":" in host
    is_address = is_v6 or host.replace(".", "").isdigit()
    openssl += f" -verify_{'ip' if is_address else 'hostname'} {host}"
    if is_v6:
        host = f"[{host}]"
    manifest = yaml.safe_dump({"tcp": {"server_tls": settings}}, sort_keys=False, allow_unicode=True, width=10_000)
    blocks = {
        "In a manifest:": manifest.splitlines(),
        "A server at port 7000 is then seen by": [
            f"openssl s_client -connect {host}:7000 {openssl}",
            f"{curl} https://{host}:7000/",
        ],
        "and one for mail with STARTTLS at port 2525 by": [
            f"openssl s_client -starttls smtp -connect {host}:2525 {openssl}",
            f"{curl} --ssl-reqd smtp://{host}:2525/",
        ],
    }
    text = "".join(f"\n{title}\n\n" + "".join(f"  {line}\n" for line in lines) for title, lines in blocks.items())
    return f"{text}\nWhoever has {ca.key} can be any server to those who trust {ca.cert}."


# -- show ---------------------------------------------------------------------------------------------------------


class _File(msgspec.Struct, frozen=True):
    """A file that is explained."""

    name: str
    mode: int
    contents: Contents

    @property
    def is_open(self) -> bool:
        """Whether everybody may read it. A pipe has no such mode."""
        return stat.S_ISREG(self.mode) and bool(self.mode & stat.S_IROTH)


@app.command()
def show(files: Files, as_json: AsJson = False) -> int:
    """Explain certificates and private keys: whose they are, until when, and whether they belong together."""
    now = datetime.now(UTC)
    explained: list[_File] = []
    problems: list[Problem] = []
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # what is odd about a certificate is shown; these are for programmers
        for name in files:
            try:
                content, mode = read_file(Path(name))
                explained.append(_File(name, mode, read_contents(content)))
            except InvalidArgument as error:
                reason = error.reason if isinstance(error, WrongFile) else error.detail
                problems.append(Problem(name, "", reason))
        console = _console()
        for file in explained:
            (_show_as_json if as_json else _show_as_text)(console, file, explained, now)
    if problems:
        raise CertsError(*problems)
    return 0


def _show_as_json(console: Console, file: _File, files: Sequence[_File], now: datetime) -> None:
    contents = file.contents
    for number, certificate in enumerate(contents.certificates, 1):
        known = facts(certificate)
        _print_json(
            console,
            "certificate",
            file=file.name,
            number=number,
            **msgspec.to_builtins(known),
            days_left=days_left(known, now),
            expired=known.not_after < now,
            self_signed=is_self_signed(certificate),
            purposes=_purposes(certificate),
        )
    if contents.is_chain:
        problem = contents.chain_problem
        _print_json(console, "chain", file=file.name, in_order=problem is None, problem=problem)
    for key in contents.keys:
        _print_json(
            console,
            "key",
            file=file.name,
            kind=key.kind,
            encrypted=key.encrypted,
            mode=_mode(file),
            world_readable=file.is_open,
            fits=[{"file": other.name, "number": number} for other, number in _fitting(key, files)],
        )


def _show_as_text(console: Console, file: _File, files: Sequence[_File], now: datetime) -> None:
    contents = file.contents
    count = len(contents.certificates)
    console.print(Text(file.name, "bold"))
    for number, certificate in enumerate(contents.certificates, 1):
        console.print(f"  certificate {number} of {count}" if count > 1 else "  certificate")
        known = facts(certificate)
        dates = f"{known.not_before:%Y-%m-%d %H:%M} to {known.not_after:%Y-%m-%d %H:%M} UTC: {validity(known, now)}"
        uses = _purposes(certificate)
        _line(console, "subject", known.subject or "none")
        _line(console, "names", ", ".join(known.names) or "none")
        _line(console, "issuer", known.issuer or "none")
        _line(console, "valid", dates, is_bad=not known.not_before <= now <= known.not_after)
        _line(console, "for", "anything" if uses is None else ", ".join(uses))
        _line(console, "key", known.key)
        _line(console, "CA", "yes" if known.ca else "no")
        _line(console, "self-signed", "yes" if is_self_signed(certificate) else "no")
        _line(console, "serial", known.serial)
        _line(console, "SHA-256", known.fingerprint)
    if contents.is_chain:
        problem = contents.chain_problem
        console.print("  chain")
        _line(console, "order", problem or "each is signed by the next", is_bad=problem is not None)
    for key in contents.keys:
        console.print("  private key")
        _line(console, "kind", key.kind or "not to be told without the password")
        _line(console, "encrypted", "yes" if key.encrypted else "no")
        mode = _mode(file)
        if mode is not None:
            remedy = f": everybody may read it (chmod 600 {_quoted(Path(file.name))})" if file.is_open else ""
            _line(console, "mode", f"{mode}{remedy}", is_bad=file.is_open)
        if not key.encrypted and any(other.contents.certificates for other in files):
            fitting = [f"certificate {number} of {other.name}" for other, number in _fitting(key, files)]
            _line(console, "fits", ", ".join(fitting) or "none of these certificates", is_bad=not fitting)
    if contents.others:
        console.print(f"  also there: {', '.join(contents.others)}")


def _fitting(key: PrivateKey, files: Sequence[_File]) -> list[tuple[_File, int]]:
    """The certificates that a key belongs to, in all these files."""
    return [
        (file, number)
        for file in files
        for number, certificate in enumerate(file.contents.certificates, 1)
        if key.fits(certificate)
    ]


def _purposes(certificate: x509.Certificate) -> tuple[str, ...] | None:
    try:
        return purposes(certificate)
    except InvalidArgument as error:
        return (f"({error.detail})",)


def _mode(file: _File) -> str | None:
    return f"{stat.S_IMODE(file.mode):04o}" if stat.S_ISREG(file.mode) else None


# -- lines --------------------------------------------------------------------------------------------------------


def _console() -> Console:
    # soft_wrap: a line stays a line, however narrow the terminal is.
    return Console(soft_wrap=True, highlight=False, markup=False, emoji=False)


def _line(console: Console, label: str, text: str, *, is_bad: bool = False) -> None:
    console.print(Text(f"    {label:<12} ").append(text, "red" if is_bad else ""))


def _print_json(console: Console, event: str, **fields: Any) -> None:
    console.out(json.dumps({"event": event, **fields}), highlight=False)


def _quoted(path: Path) -> str:
    return shlex.quote(str(path))
