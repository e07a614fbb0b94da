"""What holds for every test: Hypothesis' settings, and what a skip means.

With `UPROXY_NO_SKIPS=1`, as continuous integration sets it on a machine where everything
can run, a skip is a failure: a test that quietly stopped running proves nothing.
"""

from __future__ import annotations

import os
import signal
from collections.abc import Generator
from typing import TYPE_CHECKING

import pytest
from hypothesis import Phase, settings

from uproxy.openssl import load_openssl

if TYPE_CHECKING:
    from xdist.remote import Producer
    from xdist.scheduler import LoadScopeScheduling

_MAY_SKIP = {"absent_peer", "absent_kernel"}
"""Markers whose tests may skip even then; pyproject.toml says what each means."""

# engines run in this process too: with the OpenSSL that a uProxy has
load_openssl()

# under nohup, or behind `&` in a script, one of these is ignored, and so it would be by every child
# that a test sends it to
signal.signal(signal.SIGHUP, signal.SIG_DFL)
signal.signal(signal.SIGINT, signal.default_int_handler)

# no deadline: a machine shared with others is slow at times, and that is no defect
settings.register_profile("here", deadline=None)
settings.register_profile("ci", deadline=None, derandomize=True, print_blob=True)
# one counterexample is enough for a mutant; the smallest isn't looked for
settings.register_profile(
    "mutants", settings.get_profile("ci"), max_examples=50, phases=(Phase.explicit, Phase.generate)
)
profile = os.environ.get("UPROXY_EXAMPLES", "ci" if os.environ.get("CI") else "here")
settings.load_profile(profile)


def whole(nodeid: str) -> str:
    """Return what one process runs whole: a file, or all captures, on record in one place."""
    file = nodeid.split("::", 1)[0]
    return "tests/capture" if file.startswith("tests/capture/") else file


@pytest.hookimpl(optionalhook=True)
def pytest_xdist_make_scheduler(config: pytest.Config, log: Producer) -> LoadScopeScheduling:
    """Say which tests stay together where several processes run them."""
    from xdist.scheduler import LoadScopeScheduling

    class Scheduling(LoadScopeScheduling):  # type: ignore[misc]  # untyped
        def _split_scope(self, nodeid: str) -> str:
            return whole(nodeid)

    return Scheduling(config, log)


@pytest.hookimpl(wrapper=True)
def pytest_runtest_makereport(
    item: pytest.Item,
) -> Generator[None, pytest.TestReport, pytest.TestReport]:
    """Turn a test's skip into its failure."""
    report = yield
    if not hasattr(report, "wasxfail") and not any(map(item.get_closest_marker, _MAY_SKIP)):
        _refuse_skip(report)
    return report


@pytest.hookimpl(wrapper=True)
def pytest_make_collect_report() -> Generator[None, pytest.CollectReport, pytest.CollectReport]:
    """Turn a whole file's skip into a failure."""
    report = yield
    _refuse_skip(report)
    return report


def _refuse_skip(report: pytest.TestReport | pytest.CollectReport) -> None:
    if report.skipped and os.environ.get("UPROXY_NO_SKIPS") == "1":
        report.outcome = "failed"
        report.longrepr = f"skipped where every test can run: {report.longreprtext}"
