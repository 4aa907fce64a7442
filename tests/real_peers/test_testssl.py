"""testssl.sh tries everything that is known to be weak in TLS on the mail server, and finds nothing to complain of."""

from __future__ import annotations

import json
import os
import signal
import subprocess
from typing import TYPE_CHECKING, NamedTuple

import pytest

from tests.actors.smtp.serving import serving
from tests.peers import host_and_port

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path

    from tests.certificates_fixture import Certificates

SECTIONS = {
    "--protocols": {"SSLv2", "SSLv3", "TLS1", "TLS1_1", "TLS1_2", "TLS1_3"},
    "--std": {"cipherlist_NULL", "cipherlist_aNULL", "cipherlist_EXPORT", "cipherlist_LOW"},
    "-f": {"FS", "FS_ciphers", "FS_ECDHE_curves"},  # of old "--pfs" and "PFS"
    "--server-defaults": {"cert_keySize", "cert_signatureAlgorithm", "cert_trust", "cert_chain_of_trust"},
    "--server-preference": {"cipher_order"},
    "--vulnerable": {
        *("heartbleed", "CCS", "ROBOT", "secure_renego", "secure_client_renego", "CRIME_TLS", "POODLE_SSL"),
        *("fallback_SCSV", "SWEET32", "FREAK", "DROWN", "LOGJAM", "BEAST", "LUCKY13", "RC4"),
    },
}
"""What it is asked to look at, and findings that show that it did. What is left out is about HTTP, or tries the ciphers
once more in another order."""

NOT_FOR_A_PRIVATE_CERTIFICATE = {
    "cert_revocation": "nobody would ask a development authority for a list of what it has revoked, so there is none",
}
"""Complaints that can't be heeded here, and why."""

ABOUT_ITSELF = {
    "engine_problem": "this machine's OpenSSL has no GOST",
    "sessionresumption_ticket": "it may hang up before the ticket of TLS 1.3 comes, which follows the handshake",
    "sessionresumption_ID": "likewise",
}
"""Where it may warn that it could not find something out, and why. Resumption is tested with other programs."""

# It waits for a tenth of a second or two wherever a network might be slow. Here is none.
HASTE = {"USLEEP_SND": "0.01", "USLEEP_REC": "0.02"}

COMPLAINTS = ("MEDIUM", "HIGH", "CRITICAL", "FATAL")


class Finding(NamedTuple):
    """What it says about one thing.

    Args:
        id: which.
        severity: how bad that is.
        text: what it found.
    """

    id: str
    severity: str
    text: str


class Scan:
    """A run of it.

    Args:
        address: where to look.
        ca: the file of the CA to trust.
        results: the file for its findings.
        options: before the address.
    """

    def __init__(self, address: str, ca: str, results: Path, *options: str) -> None:
        self._results = results
        command = ["testssl", "--quiet", "--color", "0", "--warnings", "batch", "--jsonfile", str(results)]
        command += ["--nodns", "none", "--ip", "127.0.0.1", "--add-ca", ca, *SECTIONS, *options]
        _, port = host_and_port(address)
        with open(results.with_suffix(".log"), "wb") as log:
            self._process = subprocess.Popen(
                [*command, f"localhost:{port}"],
                cwd=results.parent,
                env={**os.environ, **HASTE},
                stdin=subprocess.DEVNULL,
                stdout=log,
                stderr=subprocess.STDOUT,
                start_new_session=True,
            )

    def findings(self) -> list[Finding]:
        """What it found, when it is done."""
        self._process.wait()
        said = json.loads(self._results.read_text())
        return [Finding(_name(entry["id"]), entry["severity"], entry["finding"]) for entry in said]

    def end(self) -> None:
        """End it, done or not, with what it has started; it cleans up behind itself."""
        if self._process.poll() is None:
            os.killpg(self._process.pid, signal.SIGTERM)
            self._process.wait()


def _name(entry: str) -> str:
    name, _, _ = entry.partition(" ")
    return name.removeprefix("P") if name.startswith("PFS") else name


@pytest.fixture(scope="module")
def scans(certificates: Certificates, tmp_path_factory: pytest.TempPathFactory) -> Iterator[dict[str, Scan]]:
    """One of each port, side by side: each has to wait more than to work."""
    folder = tmp_path_factory.mktemp("testssl")
    ca = str(certificates.ca)
    with serving(folder, certificate=certificates.server, implicit_tls=["127.0.0.1:0"]) as served:
        scans = {
            "starttls": Scan(served.address, ca, folder / "starttls.json", "--starttls", "smtp"),
            "implicit": Scan(served.implicit, ca, folder / "implicit.json"),
        }
        try:
            yield scans
        finally:
            for scan in scans.values():
                scan.end()


@pytest.mark.program("testssl")
@pytest.mark.timeout(300)
@pytest.mark.parametrize("way", ["starttls", "implicit"])
def test_testssl_has_nothing_to_complain_of(scans: dict[str, Scan], way: str) -> None:
    findings = scans[way].findings()
    looked_at = {finding.id for finding in findings}
    assert set().union(*SECTIONS.values()) <= looked_at
    complaints = [finding for finding in findings if finding.severity in COMPLAINTS]
    assert [finding for finding in complaints if finding.id not in NOT_FOR_A_PRIVATE_CERTIFICATE] == []
    unknown = [finding for finding in findings if finding.severity == "WARN" and finding.id not in ABOUT_ITSELF]
    assert unknown == []
