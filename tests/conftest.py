"""What all tests share: Hypothesis without a deadline, certificates, and the tests that need a real program.

``@pytest.mark.program("swaks")`` marks a test that runs that program. Where it is not installed the test is left
out, and the last lines say so; with ``CI`` set it fails instead, so that nothing is left out unseen.
"""

from __future__ import annotations

import gc
import logging
import os
import shutil
import signal
from typing import TYPE_CHECKING

import hypothesis
import pytest

from tests.certificates_fixture import Certificates

if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator

# No test judges how long a thing took. Hypothesis has a profile of its own for CI: the same examples in every run.
hypothesis.settings.register_profile(
    "theater",
    parent=hypothesis.settings.get_profile("ci" if os.environ.get("CI") else "default"),
    deadline=None,
    suppress_health_check=[hypothesis.HealthCheck.too_slow],
)
hypothesis.settings.load_profile("theater")

PATH = os.pathsep.join([os.environ.get("PATH", os.defpath), "/usr/sbin"])
"""Debian has Postfix's programs where not every account looks."""

FIRST = ("test_testssl.py", "test_tls_benchmarks.py")
"""Files whose tests take the longest: they come first, so that no process waits for one of them in the end."""

left_out: dict[str, int] = {}


def missing_programs(item: pytest.Item) -> list[str]:
    """The programs that a test asks for by its marks and that are not installed."""
    wanted: Iterable[str] = (name for mark in item.iter_markers("program") for name in mark.args)
    return [name for name in wanted if shutil.which(name, path=PATH) is None]


def pytest_xdist_auto_num_workers() -> int:
    """One process more than there are processors: tests wait for other programs, and for time to pass, a lot."""
    return len(os.sched_getaffinity(0)) + 1


def pytest_configure(config: pytest.Config) -> None:
    os.environ["PATH"] = PATH
    if signal.getsignal(signal.SIGINT) is signal.SIG_IGN:
        # So a shell begins what it runs in the background. What a test interrupts must not take that over.
        signal.signal(signal.SIGINT, signal.default_int_handler)
    config.addinivalue_line("markers", "program(*names): runs these programs; left out (in CI: fails) without them")


def pytest_collection_modifyitems(config: pytest.Config, items: list[pytest.Item]) -> None:
    items.sort(key=lambda item: item.path.name not in FIRST)
    if os.environ.get("CI"):
        return
    without = [item for item in items if missing_programs(item)]
    for item in without:
        for name in missing_programs(item):
            left_out[name] = left_out.get(name, 0) + 1
    if without:
        config.hook.pytest_deselected(items=without)
        items[:] = [item for item in items if item not in without]


def pytest_collection_finish() -> None:
    """Twelve thousand tests are not to be looked through each time that a test, or Python, collects garbage."""
    gc.collect()
    gc.freeze()


def pytest_runtest_setup(item: pytest.Item) -> None:
    missing = missing_programs(item)
    if missing:
        pytest.fail(f"not installed: {', '.join(missing)}", pytrace=False)


@pytest.fixture(scope="session", autouse=True)
def caches(tmp_path_factory: pytest.TempPathFactory) -> None:
    """A folder for what programs keep from one start to the next: not that of the user who runs the tests.

    All processes that share out the tests among them have the same: each guest is built and compiled by one of them.
    """
    folder = tmp_path_factory.getbasetemp()
    if "PYTEST_XDIST_WORKER" in os.environ:
        folder = folder.parent
    folder /= "caches"
    folder.mkdir(mode=0o700, exist_ok=True)
    os.environ["XDG_CACHE_HOME"] = str(folder)


@pytest.fixture(scope="session")
def certificates(tmp_path_factory: pytest.TempPathFactory) -> Certificates:
    """A test authority's certificates, as files."""
    return Certificates(tmp_path_factory.mktemp("certificates"))


@pytest.fixture
def own_logging() -> Iterator[None]:
    """What the command line sets up for the log of its process is taken back after the test."""
    root = logging.getLogger()
    level, handlers = root.level, list(root.handlers)
    yield
    logging.captureWarnings(False)
    root.setLevel(level)
    for handler in set(root.handlers) - set(handlers):
        root.removeHandler(handler)


def pytest_terminal_summary(terminalreporter: pytest.TerminalReporter) -> None:
    for name, count in sorted(left_out.items()):
        terminalreporter.write_line(f"left out, {name} is not installed: {count} tests (bash .ci/run installs it)")
