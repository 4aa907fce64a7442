"""``theater-tcp certs``: what it says is what it made, what it tells to do works, and any file is explained or refused
in one line."""

from __future__ import annotations

import json
import os
import re
import shlex
import signal
import socket
import ssl
import subprocess
import sys
import threading
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import pytest
import yaml
from cryptography import x509
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.hazmat.primitives.serialization import BestAvailableEncryption, Encoding, PrivateFormat
from cryptography.x509.oid import ExtensionOID

from tests.certificates_fixture import Certificates
from tests.hostile_certificates import make, raw
from theater_tcp.certificate_contents import read_contents
from theater_tcp.certificates import facts
from theater_tcp.cli import EXIT_CLEAN, EXIT_OUTPUT, EXIT_WRONG, main
from theater_tcp.tls_settings import ServerTls

ROOT = Path(__file__).resolve().parent.parent
Capture = pytest.CaptureFixture[str]

pytestmark = pytest.mark.usefixtures("own_logging")


@pytest.fixture(autouse=True)
def _in_a_folder_of_its_own(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)


def said(capsys: Capture, *words: str) -> str:
    """What the command says on stdout when all is well."""
    assert main(["certs", *words]) == EXIT_CLEAN
    output, errors = capsys.readouterr()
    assert errors == ""
    return output


def objects(capsys: Capture, *words: str) -> list[dict[str, Any]]:
    return [json.loads(line) for line in said(capsys, *words, "--json").splitlines()]


def refused(capsys: Capture, *words: str) -> list[str]:
    """The lines on stderr of a command that does not do all it was told to."""
    assert main(["certs", *words]) == EXIT_WRONG
    return capsys.readouterr().err.splitlines()


def day(path: str) -> str:
    return f"{facts(read_contents(Path(path).read_bytes()).certificates[0]).not_after:%Y-%m-%d}"


# -- dev ----------------------------------------------------------------------------------------------------------


def test_dev_says_what_it_made_and_how_to_use_it(tmp_path: Path, capsys: Capture) -> None:
    lines = said(capsys, "dev").splitlines()
    assert lines[:2] == [
        f"certs/ca.pem: a new development CA, valid until {day('certs/ca.pem')}; its key: certs/ca.key",
        "certs/server.pem: a new certificate for localhost, 127.0.0.1, ::1, "
        f"valid until {day('certs/server.pem')}; its key: certs/server.key",
    ]
    assert lines[-1] == "Whoever has certs/ca.key can be any server to those who trust certs/ca.pem."
    assert len(lines) < 25
    assert sorted(os.listdir(tmp_path / "certs")) == ["ca.key", "ca.pem", "server.key", "server.pem"]


def test_dev_again_says_that_the_authority_was_there(capsys: Capture) -> None:
    said(capsys, "dev", "--name", "a.example", "--name", "192.0.2.7")
    lines = said(capsys, "dev").splitlines()
    assert lines[0].startswith("certs/ca.pem: the CA that was there, valid until ")
    assert lines[1].startswith("certs/server.pem: a new certificate for a.example, 192.0.2.7, valid until ")
    assert lines[1].endswith("; its key: certs/server.key")
    lines = said(capsys, "dev", "--name", "b.example").splitlines()
    assert lines[1].endswith("; instead of the one for a.example, 192.0.2.7")


def test_dev_puts_the_files_where_it_is_told_for_as_long_as_it_is_told(capsys: Capture) -> None:
    said(capsys, "dev", "--out", "else where", "--days", "3", "--client", "Alice")
    assert sorted(path.name for path in Path("else where").glob("*.pem")) == ["ca.pem", "client.pem", "server.pem"]
    (shown, _, _) = objects(capsys, "show", "else where/server.pem")
    assert shown["days_left"] == 2


def test_dev_writes_json_that_names_the_files(capsys: Capture) -> None:
    ca, server, client = objects(capsys, "dev", "--client", "Alice")
    assert [(made["event"], made["role"], made["new"]) for made in (ca, server, client)] == [
        ("made", "ca", True),
        ("made", "server", True),
        ("made", "client", True),
    ]
    assert (server["file"], server["key_file"]) == ("certs/server.pem", "certs/server.key")
    assert server["names"] == ["localhost", "127.0.0.1", "::1"]
    assert datetime.fromisoformat(server["not_after"]) > datetime.now(UTC)
    assert objects(capsys, "dev")[0] == ca | {"new": False}


def manifest_in(output: str) -> dict[str, Any]:
    loaded: dict[str, Any] = yaml.safe_load(output.partition("In a manifest:\n")[2].partition("\nA server")[0])
    return loaded


@pytest.mark.parametrize("out", ["certs", "a: b", "it's", "[red] :bug:", "ä"])
def test_the_lines_for_a_manifest_are_right_wherever_it_lies(tmp_path: Path, capsys: Capture, out: str) -> None:
    tls = ServerTls(**manifest_in(said(capsys, "dev", "--out", out))["tcp"]["server_tls"])
    assert (tls.cert, tls.key) == (str(tmp_path / out / "server.pem"), str(tmp_path / out / "server.key"))
    assert tls.client_auth == "none"
    tls = ServerTls(**manifest_in(said(capsys, "dev", "--out", out, "--client", "a"))["tcp"]["server_tls"])
    assert (tls.client_ca, tls.client_auth) == (str(tmp_path / out / "ca.pem"), "required")


class Server:
    """A TLS server by the settings of a manifest, which says goodbye to one client."""

    def __init__(self, tls: ServerTls, host: str) -> None:
        assert tls.cert is not None
        self._context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
        self._context.load_cert_chain(tls.cert, tls.key)
        if tls.client_ca is not None:
            self._context.load_verify_locations(tls.client_ca)
            self._context.verify_mode = ssl.CERT_REQUIRED
        self._listener = socket.create_server((host, 0))
        self._listener.settimeout(30)
        self.port = self._listener.getsockname()[1]
        self.client: str | None = None
        self._thread = threading.Thread(target=self._serve)
        self._thread.start()

    def _serve(self) -> None:
        with self._listener:
            connection, _ = self._listener.accept()
        try:
            with self._context.wrap_socket(connection, server_side=True) as secure:
                certificate = secure.getpeercert() or {}
                self.client = str(certificate.get("subject", ""))
                if secure.recv(1000).startswith(b"GET"):
                    secure.sendall(b"HTTP/1.1 200 OK\r\nContent-Length: 3\r\n\r\nhi\n")
                secure.unwrap()
        except (ssl.SSLError, ConnectionError):
            pass  # the client has left, or it was right to refuse

    def join(self) -> None:
        self._thread.join()


@pytest.mark.program("openssl", "curl")
@pytest.mark.parametrize("words", [[], ["--client", "Alice"], ["--name", "127.0.0.1"], ["--out", "it's here"]])
@pytest.mark.parametrize("program", ["openssl s_client -connect", "curl --cacert"])
def test_the_commands_that_it_tells_verify_such_a_server(capsys: Capture, words: list[str], program: str) -> None:
    output = said(capsys, "dev", *words)
    server = Server(ServerTls(**manifest_in(output)["tcp"]["server_tls"]), "127.0.0.1")
    (command,) = [line.strip() for line in output.splitlines() if program in line and "smtp" not in line]
    told = shlex.split(command.replace("7000", str(server.port)))
    done = subprocess.run(told, input="Q\n", capture_output=True, text=True, timeout=30, check=False)
    server.join()
    assert done.returncode == 0, done.stderr
    assert "Verification: OK" in done.stdout or done.stdout == "hi\n"
    if "--client" in words:
        assert "Alice" in (server.client or "")


@pytest.mark.parametrize(
    ("name", "host", "check"),
    [
        ("*.Example.org", "www.example.org", "-verify_hostname www.example.org"),
        ("::1", "[::1]", "-verify_ip ::1"),
        ("192.0.2.7", "192.0.2.7", "-verify_ip 192.0.2.7"),
        ("bücher.example", "xn--bcher-kva.example", "-verify_hostname xn--bcher-kva.example"),
    ],
)
def test_the_commands_ask_for_the_first_name(capsys: Capture, name: str, host: str, check: str) -> None:
    output = said(capsys, "dev", "--name", name)
    assert f"openssl s_client -connect {host}:7000 -CAfile certs/ca.pem -verify_return_error {check}\n" in output
    assert f"openssl s_client -starttls smtp -connect {host}:2525 -CAfile" in output
    assert f"curl --cacert certs/ca.pem --ssl-reqd smtp://{host}:2525/\n" in output


@pytest.mark.parametrize(
    ("words", "reason"),
    [
        (["--name", "a b"], "'a b' is neither a host name nor an address"),
        (["--client", "a\nb"], r"'a\nb' is no name: 1 to 64 printable characters"),
        (["--days", "0"], "--days: expected a whole number from 1 to 3650, got 0"),
        (["--out", "file"], "file: it is no folder"),
        (["--out", ""], "--out: expected the path of a folder, got ''"),
        (["--client", "a", "--client", "b"], "--client: expected one name, got 2"),
        (["--out", "file/certs"], "file/certs: not a directory"),
        (["--days", "soon"], "Invalid value for '--days'"),
        (["--bogus"], "No such option: --bogus"),
    ],
)
def test_what_dev_cannot_do_is_one_line(capsys: Capture, words: list[str], reason: str) -> None:
    Path("file").write_bytes(b"")
    (line,) = refused(capsys, "dev", *words)
    assert line.startswith(f"theater-tcp: {reason}")
    assert {path.name for path in Path().rglob("*")} <= {"file", "certs"}


def test_with_json_a_problem_is_an_object_that_names_the_file(capsys: Capture) -> None:
    said(capsys, "dev")
    Path("certs/ca.key").unlink()
    (line,) = refused(capsys, "dev", "--json")
    assert json.loads(line)["file"] == "certs/ca.pem"
    assert json.loads(line)["reason"].startswith("there is no ca.key beside it")


def test_without_a_command_the_commands_are_named(capsys: Capture) -> None:
    assert refused(capsys) == ["theater-tcp: certs: a command is missing: dev, show (--help tells more)"]


def test_help_names_the_commands_and_their_options(capsys: Capture) -> None:
    assert {"dev", "show"} <= set(re.findall(r"\w+", said(capsys, "--help")))
    assert set(re.findall(r"--[\w-]+", said(capsys, "dev", "-h"))) == {
        "--out",
        "--name",
        "--days",
        "--client",
        "--json",
        "--help",
    }


def test_the_page_on_certificates_has_every_option_and_every_line(certificates: Certificates, capsys: Capture) -> None:
    page = (ROOT / "docs" / "certificates.md").read_text(encoding="utf-8")
    options = set(re.findall(r"--[\w-]+", said(capsys, "dev", "-h"))) - {"--help"}
    assert set(re.findall(r"^\| `(--[\w-]+)", page, re.MULTILINE)) == options
    shown = said(capsys, "show", certificates.server.cert, certificates.server.key or "")
    labels = re.findall(r"^    (\S+) {2,}", shown, re.MULTILINE)
    assert [label for label in re.findall(r"^    (\S+) {2,}", page, re.MULTILINE) if label != "order"] == labels


# -- show ---------------------------------------------------------------------------------------------------------


def labelled(output: str, label: str) -> list[str]:
    """What stands behind a label, each time."""
    return re.findall(rf"^    {re.escape(label)} +(.*)$", output, re.MULTILINE)


def test_show_explains_a_certificate(certificates: Certificates, capsys: Capture) -> None:
    output = said(capsys, "show", certificates.server.cert)
    known = facts(read_contents(Path(certificates.server.cert).read_bytes()).certificates[0])
    assert output.splitlines()[:2] == [certificates.server.cert, "  certificate"]
    assert labelled(output, "subject") == ["CN=localhost"]
    assert labelled(output, "names") == ["localhost, 127.0.0.1, ::1, mx.example.org"]
    assert labelled(output, "issuer") == ["CN=theater-tcp test CA"]
    dates = f"{known.not_before:%Y-%m-%d %H:%M} to {known.not_after:%Y-%m-%d %H:%M} UTC"
    assert labelled(output, "valid") == [f"{dates}: 89 days left"]
    assert labelled(output, "for") == ["TLS servers"]
    assert labelled(output, "key") == ["ECDSA P-256"]
    assert labelled(output, "CA") == ["no"]
    assert labelled(output, "self-signed") == ["no"]
    assert labelled(output, "serial") == [known.serial]
    assert labelled(output, "SHA-256") == [known.fingerprint]


def test_show_tells_since_when_a_certificate_has_expired(certificates: Certificates, capsys: Capture) -> None:
    (valid,) = labelled(said(capsys, "show", certificates.expired.cert), "valid")
    assert re.search(r": expired 2\d hours ago$", valid)
    (shown,) = objects(capsys, "show", certificates.expired.cert)
    assert (shown["expired"], shown["days_left"]) == (True, -2)


def test_what_is_wrong_is_red_where_there_are_colours(
    certificates: Certificates, capsys: Capture, monkeypatch: pytest.MonkeyPatch
) -> None:
    key = Path("open.key")
    key.write_bytes(Path(certificates.server.key or "").read_bytes())
    key.chmod(0o644)
    monkeypatch.setenv("FORCE_COLOR", "1")
    monkeypatch.setenv("TERM", "xterm")
    monkeypatch.delenv("NO_COLOR", raising=False)
    output = said(capsys, "show", certificates.server.cert, certificates.expired.cert, "open.key")
    red = re.findall("\x1b\\[31m(.*?)\x1b", output)
    assert [re.sub(r".* UTC: ", "", text)[:8] for text in red] == ["expired ", "0644: ev"]


def test_show_explains_an_authority(certificates: Certificates, capsys: Capture) -> None:
    output = said(capsys, "show", certificates.ca)
    assert [labelled(output, label) for label in ("CA", "self-signed", "names", "for")] == [
        ["yes"],
        ["yes"],
        ["none"],
        ["anything"],
    ]


def test_show_explains_each_certificate_and_the_chain(capsys: Capture) -> None:
    said(capsys, "dev")
    output = said(capsys, "show", "certs/server.pem")
    assert [line for line in output.splitlines() if "certificate " in line] == [
        "  certificate 1 of 2",
        "  certificate 2 of 2",
    ]
    assert labelled(output, "order") == ["each is signed by the next"]


def test_show_tells_where_a_chain_breaks(certificates: Certificates, capsys: Capture) -> None:
    both = Path(certificates.server.cert).read_bytes() + Path(certificates.untrusted_ca).read_bytes()
    Path("chain.pem").write_bytes(both)
    problem = "certificate 1 (CN=localhost) is not signed by certificate 2 (CN=a stranger's CA)"
    assert labelled(said(capsys, "show", "chain.pem"), "order") == [problem]
    assert objects(capsys, "show", "chain.pem")[2] == {
        "event": "chain",
        "file": "chain.pem",
        "in_order": False,
        "problem": problem,
    }


def test_show_reads_der(certificates: Certificates, capsys: Capture) -> None:
    certificate = read_contents(Path(certificates.other.cert).read_bytes()).certificates[0]
    Path("other.der").write_bytes(certificate.public_bytes(Encoding.DER))
    assert labelled(said(capsys, "show", "other.der"), "names") == ["other.example.org"]


def test_show_reads_a_pipe(certificates: Certificates, capsys: Capture) -> None:
    key = Path(certificates.other.key or "").read_bytes()
    os.mkfifo("pipe")
    Path("pipe").chmod(0o644)
    for words in (["show", "pipe"], ["show", "pipe", "--json"]):
        writer = threading.Thread(target=Path("pipe").write_bytes, args=[key])
        writer.start()
        output = said(capsys, *words)
        writer.join()
        assert "ECDSA P-256" in output
        assert "0644" not in output  # who may open a pipe says nothing about the key
        assert '"world_readable": true' not in output


def test_show_explains_a_key_and_does_not_show_it(certificates: Certificates, capsys: Capture) -> None:
    assert certificates.server.key is not None
    output = said(capsys, "show", certificates.server.key)
    assert output.splitlines() == [
        certificates.server.key,
        "  private key",
        "    kind         ECDSA P-256",
        "    encrypted    no",
        "    mode         0600",
    ]


def test_show_tells_which_certificate_a_key_fits(certificates: Certificates, capsys: Capture) -> None:
    files = [certificates.other.cert, certificates.server.cert, certificates.server.key or ""]
    assert labelled(said(capsys, "show", *files), "fits") == [f"certificate 1 of {certificates.server.cert}"]
    (key,) = [one for one in objects(capsys, "show", *files) if one["event"] == "key"]
    assert key["fits"] == [{"file": certificates.server.cert, "number": 1}]
    output = said(capsys, "show", certificates.other.cert, certificates.server.key or "")
    assert labelled(output, "fits") == ["none of these certificates"]


def test_show_warns_of_a_key_that_everybody_may_read(certificates: Certificates, capsys: Capture) -> None:
    path = Path("my key.pem")
    path.write_bytes(Path(certificates.server.key or "").read_bytes())
    path.chmod(0o644)
    warning = "0644: everybody may read it (chmod 600 'my key.pem')"
    assert labelled(said(capsys, "show", "my key.pem"), "mode") == [warning]
    (key,) = objects(capsys, "show", "my key.pem")
    assert (key["mode"], key["world_readable"]) == ("0644", True)
    path.chmod(0o640)
    assert labelled(said(capsys, "show", "my key.pem"), "mode") == ["0640"]


def test_show_says_of_an_encrypted_key_that_it_is(certificates: Certificates, capsys: Capture) -> None:
    key = ec.generate_private_key(ec.SECP256R1())
    Path("key.pem").write_bytes(
        Path(certificates.ca).read_bytes()
        + key.private_bytes(Encoding.PEM, PrivateFormat.PKCS8, BestAvailableEncryption(b"secret"))
    )
    output = said(capsys, "show", "key.pem")
    assert labelled(output, "encrypted") == ["yes"]
    assert labelled(output, "kind") == ["not to be told without the password"]
    assert labelled(output, "fits") == []  # nobody knows
    shown = objects(capsys, "show", "key.pem")[1]
    assert (shown["event"], shown["kind"], shown["encrypted"], shown["fits"]) == ("key", None, True, [])


def test_show_names_what_else_is_in_a_file(certificates: Certificates, capsys: Capture) -> None:
    other = b"-----BEGIN X509 CRL-----\nAAAA\n-----END X509 CRL-----\n"
    Path("all.pem").write_bytes(Path(certificates.ca).read_bytes() + other)
    assert said(capsys, "show", "all.pem").splitlines()[-1] == "  also there: X509 CRL"


# -- what a stranger's file may do --------------------------------------------------------------------------------


def write(name: str, certificate: x509.Certificate) -> str:
    Path(name).write_bytes(certificate.public_bytes(Encoding.PEM))
    return name


def test_no_name_in_a_certificate_reaches_the_terminal_as_it_is(capsys: Capture) -> None:
    hostile = "\x1b]0;title\x07[red]a\r\nb\u202e"
    names: list[x509.GeneralName] = [x509.DNSName("\x1b[2J\n"), x509.UniformResourceIdentifier("a\x07")]
    output = said(capsys, "show", write("hostile.pem", make(hostile, names, issuer="\x9b31m")))
    assert all(line.isprintable() for line in output.splitlines())
    assert labelled(output, "subject") == [r"CN=\1B]0\;title\07[red]a\0D\0Ab\E2\80\AE"]
    assert labelled(output, "names") == [r"\1B[2J\0A, URI:a\07"]
    assert labelled(output, "issuer") == [r"CN=\C2\9B31m"]


def test_a_certificate_with_garbage_in_it_is_explained_as_far_as_it_can_be(capsys: Capture) -> None:
    garbage = [raw(ExtensionOID.SUBJECT_ALTERNATIVE_NAME, b"garbage")]
    output = said(capsys, "show", write("odd.pem", make("odd", extensions=garbage)))
    assert labelled(output, "names") == ["none"]
    assert labelled(output, "for") == ["(the extensions can't be read)"]


def test_the_librarys_warnings_about_odd_certificates_are_not_shown(capsys: Capture) -> None:
    name = x509.Name([x509.NameAttribute(x509.NameOID.ORGANIZATION_NAME, "x" * 70)])
    der = make(name).public_bytes(Encoding.DER).replace(b"\x06\x03\x55\x04\x0a", b"\x06\x03\x55\x04\x03")
    Path("long.der").write_bytes(der)
    assert labelled(said(capsys, "show", "long.der"), "subject") == [f"CN={'x' * 70}"]


@pytest.mark.parametrize(
    ("name", "content", "reason"),
    [
        ("text", b"hello", "neither a certificate nor a private key, in PEM or in DER"),
        ("empty", b"", "it is empty"),
        ("missing", None, "no such file or directory"),
        (".", None, "is a directory"),
        ("/dev/zero", None, "larger than 4 MiB"),
    ],
)
def test_a_file_that_is_none_is_one_line_and_exit_code_2(
    capsys: Capture, name: str, content: bytes | None, reason: str
) -> None:
    if content is not None:
        Path(name).write_bytes(content)
    assert refused(capsys, "show", name) == [f"theater-tcp: {name}: {reason}"]
    (line,) = refused(capsys, "show", "--json", name)
    assert json.loads(line) == {"event": "problem", "file": name, "line": None, "key": "", "reason": reason}


def test_show_goes_on_after_a_file_that_is_none(certificates: Certificates, capsys: Capture) -> None:
    assert main(["certs", "show", "missing", certificates.ca, "gone"]) == EXIT_WRONG
    output, errors = capsys.readouterr()
    assert labelled(output, "CA") == ["yes"]
    assert errors.splitlines() == [f"theater-tcp: {name}: no such file or directory" for name in ("missing", "gone")]


def test_a_reader_that_goes_away_ends_it_quietly(certificates: Certificates) -> None:
    read, out = os.pipe()
    os.close(read)
    command = [sys.executable, "-m", "theater_tcp", "certs", "show", *[certificates.server.cert] * 20]
    done = subprocess.run(
        command, stdout=out, stderr=subprocess.PIPE, check=False, env=os.environ | {"PYTHONPATH": str(ROOT)}, timeout=30
    )
    os.close(out)
    assert done.stderr == b""
    assert done.returncode == 128 + signal.SIGPIPE


def test_a_full_disk_is_told_in_one_line(certificates: Certificates) -> None:
    environment = os.environ | {"PYTHONPATH": str(ROOT)}
    with open("/dev/full", "wb") as full:
        done = subprocess.run(
            [sys.executable, "-m", "theater_tcp", "certs", "show", certificates.ca],
            stdout=full,
            stderr=subprocess.PIPE,
            check=False,
            env=environment,
            timeout=30,
        )
    assert (done.returncode, done.stderr) == (EXIT_OUTPUT, b"theater-tcp: stdout: no space left on device\n")
