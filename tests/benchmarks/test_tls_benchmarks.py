"""The benchmarks of TLS: whether they work and what they say of a server is true, never what they measure."""

from __future__ import annotations

import sys
from collections.abc import Iterator
from pathlib import Path

import msgspec
import pytest

from benchmarks.__main__ import SECURE, SUITES, run
from benchmarks.catalogue import OURS, PEERS
from benchmarks.certificate import Certificate
from benchmarks.comparison import Comparison
from benchmarks.load import AGREED, HeldConnections, Load, run_load
from benchmarks.measures.handshakes import MEASURE
from benchmarks.programs import BuildFailed, build, build_tls, missing_headers
from benchmarks.reach import GOALS, judge
from benchmarks.report import Report
from benchmarks.server import Server, ServerFailed
from benchmarks.suites.messages import start_measure
from benchmarks.suites.smtp import AIOSMTPD
from benchmarks.suites.smtp_tls import BEYOND, HANDSHAKE, beyond_the_handshake

# Named like a program that is not there, the headers leave the tests out as one does.
needs_openssl = pytest.mark.program("cc", *filter(None, [missing_headers()]))

INSTALLED = {peer.name: peer.tls_command for peer in PEERS if peer.tls_command and peer.name != "uvloop"}
BARE = (sys.executable, "-m", "benchmarks.servers.tls_memory_bio")


@pytest.fixture(scope="module")
def certificate() -> Iterator[Certificate]:
    build_tls()
    with Certificate.issued() as issued:
        yield issued


def echo(tls: str) -> Load:
    return Load("4 × 64 B", "", "echo", 4, tls=tls)


@needs_openssl
@pytest.mark.parametrize(("begin", "tls"), [("accept", "accept"), ("starttls", "line")])
@pytest.mark.parametrize("name", INSTALLED)
def test_every_server_sends_back_every_byte_and_ends_with_close_notify(
    certificate: Certificate, name: str, begin: str, tls: str
) -> None:
    with Server(name, [*INSTALLED[name], *certificate.arguments(begin)]) as server:
        result = run_load(server, echo(tls), seconds=0.05, warmup=0, verify=True, ca=certificate.ca)
        assert result.operations > 0
        assert result.errors == 0
        large = Load("64 KiB", "", "echo", 2, 65536, 4, tls=tls)
        assert run_load(server, large, seconds=0.05, warmup=0, verify=True).errors == 0
        lives = run_load(server, Load("lives", "", "churn", 2, tls=tls), seconds=0.05, warmup=0, ca=certificate.ca)
        assert lives.errors == 0
        assert lives.tls is not None
        assert lives.tls.truncated == 0
        assert f"{lives.tls.version}, {lives.tls.cipher}, {lives.tls.group}" == AGREED


@needs_openssl
@pytest.mark.parametrize("name", [*INSTALLED, "bare"])
def test_every_server_sends_the_same_number_of_tickets_and_resumes_each_session(
    certificate: Certificate, name: str
) -> None:
    command = INSTALLED.get(name, BARE)
    with Server(name, [*command, *certificate.arguments("accept")]) as server:
        full = run_load(server, Load("full", "", "meet", 2, tls="accept"), seconds=0.05, warmup=0)
        assert full.figures()["tickets"] == certificate.tickets
        resumed = run_load(server, Load("resumed", "", "meet", 2, tls="accept", resume=True), seconds=0.05, warmup=0)
        assert resumed.tls is not None
        assert resumed.tls.resumed == resumed.tls.handshakes > 0


@needs_openssl
def test_idle_tls_connections_are_held_until_they_are_let_go(certificate: Certificate) -> None:
    with Server("bare", [*BARE, *certificate.arguments("accept")]) as server:
        with HeldConnections(server, 5, "accept") as held:
            assert server.memory().rss_kib > 0
        assert held.dropped == 0


@needs_openssl
def test_a_server_that_resumes_nothing_drops_out_of_the_resumed_handshakes(certificate: Certificate) -> None:
    cert, key, _, begin = certificate.arguments("accept")
    with (
        Server("raw", [*INSTALLED["raw"], cert, key, "0", begin]) as server,
        pytest.raises(ServerFailed, match=r"raw under resumed: 0 of \d+ handshakes resumed a session"),
    ):
        run_load(server, Load("resumed", "", "meet", 2, tls="accept", resume=True), seconds=0.05, warmup=0)


@needs_openssl
def test_a_server_with_another_certificate_or_without_tls_is_refused(certificate: Certificate) -> None:
    with Certificate.issued() as other:
        with (
            Server("raw", [*INSTALLED["raw"], *other.arguments("accept")]) as server,
            pytest.raises(ServerFailed, match="handshake: certificate verify failed"),
        ):
            run_load(server, echo("accept"), seconds=0.05, warmup=0, ca=certificate.ca)
        build()
        plain = next(peer for peer in PEERS if peer.name == "c")
        with (
            Server("c", plain.command) as server,
            pytest.raises(ServerFailed, match="c under 4 × 64 B: no operation; handshake: "),
        ):
            run_load(server, echo("line"), seconds=0.05, warmup=0)


@needs_openssl
def test_the_mails_that_the_load_counts_lie_in_the_maildir(certificate: Certificate, tmp_path: Path) -> None:
    arguments = [str(tmp_path / "mail"), "no-fsync", *certificate.arguments("starttls")]
    with Server("ours", [sys.executable, "-m", "benchmarks.servers.smtp_ours", *arguments]) as server:
        load = Load("mail", "", "mail", 3, 1000, tls="smtp")
        result = run_load(server, load, seconds=0.05, warmup=0, ca=certificate.ca)
        assert result.errors == 0
        messages = list(tmp_path.glob("mail/**/new/*"))
        assert len(messages) == result.lives >= result.operations > 0
        assert all(b"TLS" in message.read_bytes().partition(b"\r\n\r\n")[0] for message in messages)


def test_the_handshake_in_memory_costs_something() -> None:
    with Certificate.issued() as issued:
        arguments = issued.arguments("accept")[:-1]
        with start_measure(HANDSHAKE, "handshakes", *arguments, "3") as program:
            figures = msgspec.json.decode(program.ask(MEASURE), type=dict[str, float])
    assert figures["cpu_us"] > 0
    assert figures["per_cpu_second"] == pytest.approx(1e6 / figures["cpu_us"])


def test_what_is_beyond_the_handshake_is_taken_from_the_same_round() -> None:
    rounds = {
        OURS: [{"cpu_us": 500.0}, {"cpu_us": 700.0}],
        AIOSMTPD: [{"cpu_us": 1000.0}, {"cpu_us": 1600.0}],
        HANDSHAKE: [{"cpu_us": 300.0}, {"cpu_us": 400.0}],
    }
    beyond_the_handshake(rounds)
    assert [figures[BEYOND] for figures in rounds[OURS]] == [200.0, 300.0]
    assert BEYOND not in rounds[HANDSHAKE][0]
    outcomes = [str(outcome) for outcome in judge([Comparison("smtp-tls", "mail", "", "cpu_us", (), rounds)])]
    # 700 / 200 and 1200 / 300
    assert outcomes == ["smtp-tls, mail: reach 3 × aiosmtpd beyond the handshake: 3.75 yes"]


def test_without_openssls_headers_the_suites_of_tls_say_so_and_no_other(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    def refuse() -> None:
        raise BuildFailed("OpenSSL's headers are not installed (Debian: libssl-dev)")

    monkeypatch.setattr("benchmarks.__main__.build", lambda: None)
    monkeypatch.setattr("benchmarks.__main__.build_tls", refuse)
    run(["handshakes", "tls"], quick=True, rounds=1, seconds=0.1, peers="c", json=None)
    said = capsys.readouterr().out
    assert "tls, handshakes did not take part: OpenSSL's headers are not installed (Debian: libssl-dev)" in said


@needs_openssl
@pytest.mark.timeout(300)
def test_a_quick_run_measures_every_goal_that_its_contestants_allow(tmp_path: Path) -> None:
    report = tmp_path / "report.json"
    run(sorted(SECURE), quick=True, rounds=9, seconds=0.3, peers="raw", json=report)
    written = msgspec.json.decode(report.read_bytes(), type=Report)
    assert {comparison.suite for comparison in written.comparisons} == SECURE <= set(SUITES)
    assert [comparison.failures for comparison in written.comparisons if comparison.failures] == []
    measured = {(outcome.suite, outcome.case) for outcome in written.reach if outcome.reached is not None}
    assert {("handshakes", case) for case in ("full", "resumed", "upgrade")} < measured
    assert "tls-idle" in {suite for suite, _ in measured}
    assert {goal.suite for goal in GOALS} >= SECURE
